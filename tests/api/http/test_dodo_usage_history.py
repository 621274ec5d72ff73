"""What a subscription has used, period by period, against a running daemon (CONTRACTS 2.5, F7)."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import dodopayments
import pytest

from harness import Running, running
from tallyd.api import billing
from tallyd.model.moments import DAY_US, HOUR_US
from tallyd.store.subscription_rows import InvoiceQuery

Body = dict[str, Any]

CATALOG = """
[[features]]
key = "calls"
name = "Calls"
[[features]]
key = "seats"
[[features]]
key = "bytes"

[[meters]]
key = "api_calls"
name = "API calls"
event_name = "api_call"
aggregation = { type = "sum", key = "n" }

[[meters]]
key = "stored"
event_name = "stored"
aggregation = { type = "max", key = "bytes" }

[[plans]]
key = "pro"
name = "Pro"
interval_days = 7
interval_months = 1
[[plans.features]]
feature = "calls"
meter = "api_calls"
[plans.features.pricing]
model = "graduated"
usage_unit_type = "call"
tiers = [{ up_to = 100, price_per_unit = 0 }, { up_to = "inf", price_per_unit = "0.50" }]
[[plans.features]]
feature = "bytes"
meter = "stored"
[plans.features.pricing]
model = "graduated"
usage_unit_type = "byte"
tiers = [{ up_to = 10, price_per_unit = "0.10" }, { up_to = "inf", price_per_unit = "0.01" }]
[[plans.features]]
feature = "seats"
pricing = { model = "included" }

[[plans]]
key = "lite"
name = "Lite"
interval_days = 7
interval_months = 1
trial_days = 3
[[plans.features]]
feature = "calls"
meter = "api_calls"
pricing = { model = "usage", usage_unit_type = "call", price_per_unit = "0.00015" }
"""


async def use(daemon: Running, n: str, key: str, **fields: Any) -> None:
    """Report calls of customer ann."""
    event: Any = {"event_id": key, "customer_id": "ann", "event_name": "api_call", "metadata": {"n": n}, **fields}
    assert (await daemon.dodo.usage_events.ingest(events=[event])).ingested_count == 1


async def history(daemon: Running, subscription: str, **query: Any) -> list[Body]:
    """Return a page of usage history, as sent."""
    reply = await daemon.http.get(f"/subscriptions/{subscription}/usage-history", params=query)
    assert reply.status_code == 200, reply.text
    items: list[Body] = reply.json()["items"]
    return items


def starts(items: list[Body]) -> list[str]:
    """Return on which days of November or December periods start."""
    return [item["start_date"][5:10] for item in items]


class TestF7:
    """250 used, 100 free, 50 minor units each."""

    async def test_dodos_own_client_reads_it(self, tmp_path: Path) -> None:
        """The dodopayments package reads "250" consumed, "150" chargeable and a total of 7500 cents."""
        async with running(tmp_path, catalog=CATALOG) as daemon:
            subscription = await daemon.subscribe("ann")
            await use(daemon, "200", "a")
            await use(daemon, "50", "b")
            page = await daemon.dodo.subscriptions.retrieve_usage_history(subscription)
            (period,) = page.items
            assert period.to_dict(mode="json")["start_date"] == "2026-11-21T00:00:00Z"
            assert period.to_dict(mode="json")["end_date"] == "2026-11-28T00:00:00Z"
            assert [meter.name for meter in period.meters] == ["API calls", "stored", "seats"]
            calls = period.meters[0]
            assert (calls.consumed_units, calls.chargeable_units, calls.total_price) == ("250", "150", 7500)
            assert (calls.free_threshold, calls.price_per_unit, calls.currency) == (100, "50", "USD")
            assert calls.id in daemon.core.catalogue.meters

    async def test_the_invoice_bills_the_same(self, tmp_path: Path) -> None:
        """What the history calls the total of a period is what the invoice of the next one charges for it."""
        async with running(tmp_path, catalog=CATALOG) as daemon:
            subscription = await daemon.subscribe("ann")
            await use(daemon, "250", "a")
            daemon.clock.move(7 * DAY_US)
            past = (await history(daemon, subscription))[1]
            invoices, _ = await billing.invoices(daemon.core, InvoiceQuery(customer=1))
            billed = [line.amount for line in invoices[0].lines if line.feature == "calls"]
            assert past["meters"][0]["total_price"] == 7500
            assert billed == [Decimal("75.00")]


class TestPrices:
    """What units cost, where it is not a price beyond a threshold."""

    async def test_fractions_of_a_cent(self, tmp_path: Path) -> None:
        """A unit price of 0.015 cents is kept exactly; the total is rounded once, half up."""
        async with running(tmp_path, catalog=CATALOG) as daemon:
            subscription = await daemon.subscribe("ann", "lite", trialDays=0)
            await use(daemon, "1033.3", "a")
            (meter,) = (await history(daemon, subscription))[0]["meters"]
            assert (meter["consumed_units"], meter["chargeable_units"]) == ("1033.3", "1033.3")
            assert (meter["price_per_unit"], meter["free_threshold"], meter["total_price"]) == ("0.015", 0, 15)
            await use(daemon, "0.1", "b")  # 15.501 cents
            assert (await history(daemon, subscription))[0]["meters"][0]["total_price"] == 16

    async def test_steps_show_their_average(self, tmp_path: Path) -> None:
        """Where the price depends on how many units there are, the average of what is charged is given."""
        async with running(tmp_path, catalog=CATALOG) as daemon:
            subscription = await daemon.subscribe("ann")
            stored = (await history(daemon, subscription))[0]["meters"][1]
            assert (stored["price_per_unit"], stored["total_price"]) == ("0", 0)
            event: Any = {"event_id": "a", "customer_id": "ann", "event_name": "stored", "metadata": {"bytes": 20}}
            await daemon.dodo.usage_events.ingest(events=[event])
            stored = (await history(daemon, subscription))[0]["meters"][1]
            assert (stored["chargeable_units"], stored["price_per_unit"], stored["total_price"]) == (
                "20",
                "5.5",
                110,
            )

    async def test_a_trial_charges_nothing(self, tmp_path: Path) -> None:
        """In a trial usage is consumed and not charged; the period after it charges."""
        async with running(tmp_path, catalog=CATALOG) as daemon:
            subscription = await daemon.subscribe("ann", "lite")
            await use(daemon, "100000", "a")
            daemon.clock.move(3 * DAY_US)
            await use(daemon, "10000", "b")
            after, trial = await history(daemon, subscription)
            assert (trial["start_date"], trial["end_date"]) == ("2026-11-21T00:00:00Z", "2026-11-24T00:00:00Z")
            assert [
                trial["meters"][0][name] for name in ("consumed_units", "chargeable_units", "total_price")
            ] == [
                "100000",
                "0",
                0,
            ]
            assert (after["meters"][0]["consumed_units"], after["meters"][0]["total_price"]) == ("10000", 150)

    async def test_a_feature_without_a_meter(self, tmp_path: Path) -> None:
        """A feature that counts the units events name it with goes by its key."""
        async with running(tmp_path, catalog=CATALOG) as daemon:
            subscription = await daemon.subscribe("ann")
            body = {"eventName": "seat", "customerReferenceId": "ann", "featureKey": "seats", "usageUnits": 3}
            await daemon.http.post("/api/v1/client/events", json=body)
            (period,) = await history(daemon, subscription, meter_id="seats")
            assert [(meter["id"], meter["consumed_units"]) for meter in period["meters"]] == [("seats", "3")]


class TestPeriods:
    """Which periods there are, and which are asked for."""

    async def test_current_and_past(self, tmp_path: Path) -> None:
        """Periods come newest first, each with its own usage, those without any included, by pages."""
        async with running(tmp_path, catalog=CATALOG) as daemon:
            subscription = await daemon.subscribe("ann")
            await use(daemon, "1", "a")
            daemon.clock.move(14 * DAY_US)
            await use(daemon, "3", "c")
            items = await history(daemon, subscription)
            assert starts(items) == ["12-05", "11-28", "11-21"]
            assert [item["meters"][0]["consumed_units"] for item in items] == ["3", "0", "1"]
            assert starts(await history(daemon, subscription, page_size=2)) == ["12-05", "11-28"]
            assert starts(await history(daemon, subscription, page_size=2, page_number=1)) == ["11-21"]
            assert await history(daemon, subscription, page_number=7) == []

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"start_date": "2026-11-28T00:00:00Z"}, ["12-05", "11-28"]),
            ({"start_date": "2026-11-27T23:59:59Z"}, ["12-05", "11-28", "11-21"]),
            ({"end_date": "2026-11-28T00:00:00Z"}, ["11-28", "11-21"]),
            ({"end_date": "2026-11-27T23:59:59Z"}, ["11-21"]),
            ({"start_date": "2026-11-30T00:00:00Z", "end_date": "2026-12-01T00:00:00Z"}, ["11-28"]),
            ({"end_date": "2026-11-20T00:00:00Z"}, []),
        ],
    )
    async def test_by_dates(self, tmp_path: Path, query: Body, expected: list[str]) -> None:
        """A period is asked for when one of its instants lies between the dates, both included."""
        async with running(tmp_path, catalog=CATALOG) as daemon:
            subscription = await daemon.subscribe("ann")
            daemon.clock.move(14 * DAY_US)
            assert starts(await history(daemon, subscription, **query)) == expected

    async def test_by_meter(self, tmp_path: Path) -> None:
        """`meter_id` leaves one meter in each period; periods whose plan lacks it are left out."""
        async with running(tmp_path, catalog=CATALOG) as daemon:
            subscription = await daemon.subscribe("ann")
            (calls, stored, _) = (await history(daemon, subscription))[0]["meters"]
            daemon.clock.move(7 * DAY_US)
            items = await history(daemon, subscription, meter_id=stored["id"])
            assert [[meter["id"] for meter in item["meters"]] for item in items] == [[stored["id"]]] * 2
            change = {"product_id": "lite", "quantity": 1, "proration_billing_mode": "prorated_immediately"}
            daemon.clock.move(HOUR_US)
            await daemon.dodo.subscriptions.change_plan(subscription, **change)
            assert len(await history(daemon, subscription, meter_id=stored["id"])) == 2
            assert len(await history(daemon, subscription, meter_id=calls["id"])) == 3

    async def test_a_change_of_plan_divides_a_period(self, tmp_path: Path) -> None:
        """Before and after a change at once usage is listed by itself, each at its own price."""
        async with running(tmp_path, catalog=CATALOG) as daemon:
            subscription = await daemon.subscribe("ann")
            await use(daemon, "101", "a")
            daemon.clock.move(DAY_US)
            change = {"product_id": "lite", "quantity": 1, "proration_billing_mode": "prorated_immediately"}
            await daemon.dodo.subscriptions.change_plan(subscription, **change)
            daemon.clock.move(HOUR_US)
            await use(daemon, "10000", "b")
            after, before = await history(daemon, subscription)
            assert (after["start_date"], before["end_date"]) == ("2026-11-22T12:00:00Z", "2026-11-22T12:00:00Z")
            assert after["end_date"] == "2026-11-28T00:00:00Z"
            assert [each["meters"][0]["total_price"] for each in (after, before)] == [150, 50]

    async def test_an_ended_subscription(self, tmp_path: Path) -> None:
        """The last period ends with the subscription, and none comes after it."""
        async with running(tmp_path, catalog=CATALOG) as daemon:
            subscription = await daemon.subscribe("ann")
            daemon.clock.move(HOUR_US)
            await daemon.dodo.subscriptions.update(subscription, status="cancelled")
            daemon.clock.move(30 * DAY_US)
            (only,) = await history(daemon, subscription)
            assert (only["start_date"], only["end_date"]) == ("2026-11-21T00:00:00Z", "2026-11-21T13:00:00Z")


class TestRefusals:
    """What is asked wrongly."""

    async def test_unknown(self, daemon: Running) -> None:
        """Unknown subscriptions and meters are 404 in Dodo's shape."""
        subscription = await daemon.subscribe("ann")
        for path in ("nobody/usage-history", f"{subscription}/usage-history?meter_id=mtr_none"):
            reply = await daemon.http.get(f"/subscriptions/{path}")
            assert (reply.status_code, reply.json()["code"]) == (404, "NOT_FOUND")

    @pytest.mark.parametrize(
        "query", [{"start_date": "yesterday"}, {"end_date": "2026-11-21"}, {"page_size": 101}], ids=str
    )
    async def test_bad_queries(self, daemon: Running, query: Body) -> None:
        """Bad dates and pages are 422."""
        subscription = await daemon.subscribe("ann")
        with pytest.raises(dodopayments.UnprocessableEntityError, match="INVALID_QUERY_PARAMS"):
            await daemon.dodo.subscriptions.retrieve_usage_history(subscription, **query)
