"""Subscriptions and invoices over the native API, from sign-up to paid, cancelled and explained (CONTRACTS D)."""

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from harness import NOW, Running, running
from tallyd.model.moments import DAY_US, iso

CLIENT: Final = "/api/v1/client"
ADMIN: Final = "/api/v1/monetization"
CATALOG: Final = """
[[features]]
key = "api"
name = "API calls"

[[plans]]
key = "ten"
name = "Ten"
price_amount = 10
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = "0.10" }

[[plans]]
key = "thirty"
name = "Thirty"
price_amount = 30
[[plans.features]]
feature = "api"
pricing = { model = "included", max_usage = 1000 }

[[plans]]
key = "later"
name = "Later"
price_amount = 10
billing_timing = "IN_ARREARS"
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = "0.10" }

[[plans]]
key = "free"
name = "Free"
[[plans.features]]
feature = "api"

[[plans]]
key = "yearly"
name = "Yearly"
price_amount = 100
interval_months = 12
[[plans.features]]
feature = "api"

[[plans]]
key = "thirty_days"
name = "Thirty days"
price_amount = 10
interval_days = 30
[[plans.features]]
feature = "api"

[[plans]]
key = "gone"
name = "Gone"
status = "ARCHIVED"
[[plans.features]]
feature = "api"

[[credit_models]]
key = "tokens"
denomination = "TOKENS"

[[plans]]
key = "tokens"
name = "Tokens"
price_amount = 10
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = "0.10" }
credit_model = "tokens"
[[plans.credits]]
credit_model = "tokens"
amount = 100
"""


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Running]:
    """Run a daemon with plans paid in advance, in arrears, and free; it is noon on 21 November."""
    async with running(tmp_path, catalog=CATALOG) as started:
        yield started


def data(reply: httpx.Response, status: int = 200) -> Any:
    """Read what the envelope holds, every digit of its numbers kept."""
    assert reply.status_code == status, reply.text
    answer = json.loads(reply.content, parse_float=Decimal)
    assert answer["success"] is True
    return answer["data"]


def refused(reply: httpx.Response, status: int) -> str:
    """Read why a request was refused."""
    assert reply.status_code == status, reply.text
    answer = reply.json()
    assert answer["success"] is False
    return str(answer["error"]["message"])


async def subscribe(daemon: Running, plan: str, reference: str = "acme", **fields: Any) -> Any:
    """Put a customer on a plan."""
    body = {"customerReferenceId": reference, "planId": plan, **fields}
    return data(await daemon.http.post(f"{CLIENT}/subscriptions", json=body), 201)


async def get(daemon: Running, path: str, **query: Any) -> Any:
    """Get something under the client API."""
    return data(await daemon.http.get(CLIENT + path, params=query))


async def post(daemon: Running, path: str, body: Any = None, **query: Any) -> Any:
    """Post something under the client API."""
    return data(await daemon.http.post(CLIENT + path, json=body, params=query))


async def use(daemon: Running, units: int, reference: str = "acme", **fields: Any) -> str:
    """Record usage; return the event's id."""
    body = {"eventName": "call", "customerReferenceId": reference, "featureKey": "api", "usageUnits": units}
    body |= fields
    return str(data(await daemon.http.post(f"{CLIENT}/events", json=body), 201)["eventId"])


async def check(daemon: Running, reference: str = "acme") -> tuple[bool, str]:
    """Ask whether a customer may use the feature; return the answer and the code of its reason."""
    answer = await get(daemon, f"/entitlements/{reference}/api")
    return answer["allowed"], answer["meta"]["reason"]["code"]


async def invoices(daemon: Running, reference: str = "acme", **query: Any) -> Any:
    """List a customer's invoices, oldest first."""
    return list(reversed((await get(daemon, f"/billing/invoices/{reference}", **query))["items"]))


async def pay(daemon: Running, invoice: Any) -> Any:
    """Mark an invoice as paid."""
    return await post(daemon, f"/billing/invoices/{invoice['id']}/mark-paid")


class TestSubscribing:
    """POST /subscriptions, and what access there is then."""

    async def test_in_advance_there_is_no_access_before_the_first_payment(self, daemon: Running) -> None:
        """Inactive, with its reason, and denied; once paid, active and allowed; again: nothing more (C1, D4)."""
        made = await subscribe(daemon, "tokens")
        subscription, invoice = made["subscription"], made["invoice"]
        assert (subscription["isActive"], subscription["inactiveReason"]) == (False, "unpaid")
        assert (invoice["type"], invoice["status"], invoice["amount"]) == ("IN_ADVANCE_INITIAL", "DUE", 10)
        assert await check(daemon) == (False, "unpaid")
        answer = await get(daemon, "/entitlements/acme/api")
        assert answer["meta"]["reason"]["description"] == "Entitlement is revoked"
        assert (await get(daemon, "/credits/acme/pools"))["items"][0]["balance"] == 0

        assert (await pay(daemon, invoice))["status"] == "PAID"
        assert (await get(daemon, f"/subscriptions/{subscription['id']}"))["isActive"] is True
        assert (await check(daemon))[0] is True
        assert (await get(daemon, "/credits/acme/pools"))["items"][0]["balance"] == 100
        assert (await pay(daemon, invoice))["status"] == "PAID"
        assert (await get(daemon, "/credits/acme/pools"))["items"][0]["totalGranted"] == 100, "not granted twice"

    async def test_what_is_not_there_cannot_be_paid(self, daemon: Running) -> None:
        """Unknown invoice: 404, by id and by number (D4)."""
        await subscribe(daemon, "ten")
        for name in ("7a11d000-0000-8000-8000-000000000fff", "INV-000001-0099", "nonsense"):
            refused(await daemon.http.post(f"{CLIENT}/billing/invoices/{name}/mark-paid"), 404)

    async def test_in_arrears_access_is_there_at_once(self, daemon: Running) -> None:
        """Active, invoice PENDING; at the period's end usage is on it, and it is DUE (D5)."""
        made = await subscribe(daemon, "later")
        assert (made["subscription"]["isActive"], made["invoice"]["status"]) == (True, "PENDING")
        await use(daemon, 12)
        assert await check(daemon) == (True, "included")
        daemon.clock.move(30 * DAY_US)
        (first, second) = await invoices(daemon)
        assert (first["status"], first["amount"], second["status"]) == ("DUE", Decimal("11.20"), "PENDING")
        detail = await get(daemon, f"/billing/invoices/acme/{first['number']}")
        assert [(line["kind"], line["chargeAmount"]) for line in detail["items"]] == [
            ("base", 10),
            ("usage", Decimal("1.20")),
        ]

    async def test_a_free_plan_costs_nothing(self, daemon: Running) -> None:
        """Active, and the invoice is PAID (D5)."""
        made = await subscribe(daemon, "free")
        assert (made["subscription"]["isActive"], made["invoice"]["status"]) == (True, "PAID")

    @pytest.mark.parametrize(
        ("plan", "why"),
        [
            ("gone", "ARCHIVED"),
            ("nothing", "there is no plan 'nothing'; there are free, later, ten, thirty, thirty_days, "),
            ("", "there is no plan"),
        ],
    )
    async def test_only_an_active_plan_can_be_subscribed_to(self, daemon: Running, plan: str, why: str) -> None:
        """400 that names the field (D3)."""
        body = {"customerReferenceId": "acme", "planId": plan}
        message = refused(await daemon.http.post(f"{CLIENT}/subscriptions", json=body), 400)
        assert message.startswith("Validation failed: planId")
        assert why in message

    async def test_a_second_time_names_the_next_step(self, daemon: Running) -> None:
        """Who is on the plan is told how to change it."""
        await subscribe(daemon, "free")
        body = {"customerReferenceId": "acme", "planId": "free"}
        message = refused(await daemon.http.post(f"{CLIENT}/subscriptions", json=body), 409)
        assert "already subscribed to free" in message
        assert "/plan-change" in message
        assert "tallyd subscriptions change" in message

    async def test_a_bare_date_is_that_of_the_subscriber(self, daemon: Running) -> None:
        """00:00 in the zone that is sent, else in the customer's; a time with a zone is what it is."""
        profile = {"customerReferenceId": "acme", "timeZone": "Asia/Tokyo"}
        data(await daemon.http.post(f"{CLIENT}/customers", json=profile), 201)
        for plan, fields, starts in (
            ("ten", {"startsAt": "2026-11-20", "timeZone": "America/New_York"}, "2026-11-20T05:00:00Z"),
            ("later", {"startsAt": "2026-11-20"}, "2026-11-19T15:00:00Z"),
            ("thirty", {"startsAt": "2026-11-20T00:00:00Z"}, "2026-11-20T00:00:00Z"),
        ):
            assert (await subscribe(daemon, plan, **fields))["subscription"]["startsAt"] == starts
        other = (await subscribe(daemon, "ten", "globex", startsAt="2026-11-20"))["subscription"]
        assert other["startsAt"] == "2026-11-20T00:00:00Z", "the account's zone"

    @pytest.mark.parametrize("starts", ["2026-02-30", "1999-12-31", "2026-11-24", "2026-11-20T09:00", "soon"])
    async def test_a_start_that_cannot_be_is_refused(self, daemon: Running, starts: str) -> None:
        """No such day, too long ago, too far ahead, a time without a zone: 400 that names the field."""
        body = {"customerReferenceId": "acme", "planId": "free", "startsAt": starts}
        assert "startsAt" in refused(await daemon.http.post(f"{CLIENT}/subscriptions", json=body), 400)

    async def test_a_subscription_is_found_by_its_id_only(self, daemon: Running) -> None:
        """Anything else is 404, whatever is asked of it."""
        for method, path in (
            ("GET", "/subscriptions/x"),
            ("GET", "/subscriptions/x/preview"),
            ("POST", "/subscriptions/cancellation/x"),
            ("DELETE", "/subscriptions/cancellation/x/scheduled"),
            ("DELETE", "/subscriptions/x/plan-change/scheduled"),
            ("POST", "/subscriptions/x/pause"),
            ("POST", "/subscriptions/x/resume"),
        ):
            refused(await daemon.http.request(method, CLIENT + path), 404)


class TestGrace:
    """Unpaid invoices (D6)."""

    async def test_after_the_grace_days_there_is_no_access_until_it_is_paid(self, daemon: Running) -> None:
        """DUE, then PAST_DUE with its reason; payment brings access back, and the invoice that had to wait."""
        made = await subscribe(daemon, "ten", gracePeriod=2)
        await pay(daemon, made["invoice"])
        daemon.clock.move(30 * DAY_US)  # 21 December, noon
        (_, renewal) = await invoices(daemon)
        assert renewal["overdueAt"] == "2026-12-24T00:00:00Z"
        daemon.clock.move(2 * DAY_US)
        assert (await check(daemon))[0] is True
        daemon.clock.move(DAY_US)
        assert await check(daemon) == (False, "past_due")
        (_, renewal) = await invoices(daemon)
        assert renewal["status"] == "PAST_DUE"
        view = await get(daemon, f"/subscriptions/{made['subscription']['id']}")
        assert (view["isActive"], view["inactiveReason"]) == (False, "past_due")
        (listed,) = (await get(daemon, "/entitlements/acme"))["items"]
        assert listed["entitlements"] == [{"featureKey": "api", "allowed": False}]
        await pay(daemon, renewal)
        assert (await check(daemon))[0] is True

    async def test_without_grace_access_ends_the_day_after_the_due_date(self, daemon: Running) -> None:
        """`gracePeriod: 0` denies at the midnight that follows."""
        made = await subscribe(daemon, "ten", gracePeriod=0)
        await pay(daemon, made["invoice"])
        daemon.clock.move(30 * DAY_US)
        assert (await check(daemon))[0] is True
        daemon.clock.move(DAY_US // 2)
        assert await check(daemon) == (False, "past_due")


class TestCancelling:
    """POST and DELETE /subscriptions/cancellation (D7)."""

    async def test_at_the_periods_end_and_taken_back(self, daemon: Running) -> None:
        """Access remains until the end; reverted, it goes on; twice is refused."""
        made = await subscribe(daemon, "free")
        path = f"/subscriptions/cancellation/{made['subscription']['id']}"
        done = await post(daemon, path)
        assert done["subscription"]["cancelEffectiveAt"] == made["subscription"]["currentPeriodEnd"]
        assert (await check(daemon))[0] is True
        refused(await daemon.http.post(CLIENT + path), 400)
        reverted = data(await daemon.http.delete(f"{CLIENT}{path}/scheduled"))["subscription"]
        assert "cancelEffectiveAt" not in reverted
        refused(await daemon.http.delete(f"{CLIENT}{path}/scheduled"), 400)
        await post(daemon, path, cancelMode="END_OF_PERIOD")
        daemon.clock.move(30 * DAY_US)
        assert await check(daemon) == (False, "no_subscription")
        refused(await daemon.http.delete(f"{CLIENT}{path}/scheduled"), 400)

    async def test_at_once_gives_back_what_is_paid_and_not_used(self, daemon: Running) -> None:
        """Denied, open invoices VOID, a negative CREDIT invoice that is PAID."""
        made = await subscribe(daemon, "ten", startsAt="2026-11-01T00:00:00Z")
        await pay(daemon, made["invoice"])
        daemon.clock.move(4 * DAY_US - DAY_US // 2)  # 25 November, 0:00: 6 days of 30 are left
        path = f"/subscriptions/cancellation/{made['subscription']['id']}"
        done = await post(daemon, path, cancelMode="IMMEDIATE")
        assert await check(daemon) == (False, "no_subscription")
        (credit,) = [each for each in done["invoices"] if each["type"] == "CREDIT"]
        assert (credit["amount"], credit["status"]) == (-2, "PAID")
        refused(await daemon.http.post(CLIENT + path, params={"cancelMode": "IMMEDIATE"}), 400)

    async def test_at_once_voids_what_is_open(self, daemon: Running) -> None:
        """The unpaid first invoice is never to be paid."""
        made = await subscribe(daemon, "ten")
        await post(daemon, f"/subscriptions/cancellation/{made['subscription']['id']}", cancelMode="IMMEDIATE")
        (first,) = await invoices(daemon)
        assert first["status"] == "VOID"
        refused(await daemon.http.post(f"{CLIENT}/billing/invoices/{first['id']}/mark-paid"), 409)

    async def test_another_mode_is_refused(self, daemon: Running) -> None:
        """400 that names the parameter."""
        made = await subscribe(daemon, "free")
        path = f"{CLIENT}/subscriptions/cancellation/{made['subscription']['id']}"
        assert "cancelMode" in refused(await daemon.http.post(path, params={"cancelMode": "NOW"}), 400)


class TestChangingPlans:
    """POST and DELETE /subscriptions/{id}/plan-change (D8)."""

    async def test_an_upgrade_at_half_period_costs_half_the_difference(self, daemon: Running) -> None:
        """10 to 30, half of it left: an ADJUSTMENT over 10.00 at once, of two items."""
        made = await subscribe(daemon, "ten", startsAt="2026-11-07T00:00:00Z")
        await pay(daemon, made["invoice"])
        daemon.clock.move(DAY_US // 2)  # 22 November: 15 days of 30 are left
        one = f"/subscriptions/{made['subscription']['id']}"
        up = {"changeToPlanId": "thirty", "changeType": "UPGRADE"}
        upgraded = await post(daemon, f"{one}/plan-change", up)
        (adjustment,) = upgraded["invoices"]
        assert (adjustment["type"], adjustment["status"]) == ("ADJUSTMENT", "DUE")
        assert adjustment["amount"] == Decimal("10.00")
        assert [line["chargeAmount"] for line in adjustment["items"]] == [15, -5]
        assert upgraded["subscription"]["plan"]["key"] == "thirty"
        refused(await daemon.http.post(f"{CLIENT}{one}/plan-change", json=up), 400)

    async def test_a_downgrade_waits_for_the_periods_end_and_can_be_taken_back(self, daemon: Running) -> None:
        """PENDING, plan unchanged; DELETE cancels it; left alone, it comes."""
        made = await subscribe(daemon, "thirty")
        await pay(daemon, made["invoice"])
        one = f"/subscriptions/{made['subscription']['id']}"
        down = {"changeToPlanId": "ten", "changeType": "DOWNGRADE"}
        changed = (await post(daemon, f"{one}/plan-change", down))["subscription"]
        assert (changed["plan"]["key"], changed["scheduledChange"]["status"]) == ("thirty", "PENDING")
        scheduled = f"{CLIENT}{one}/plan-change/scheduled"
        taken_back = data(await daemon.http.delete(scheduled))["subscription"]
        assert taken_back["scheduledChange"]["status"] == "CANCELLED"
        refused(await daemon.http.delete(scheduled), 400)
        await post(daemon, f"{one}/plan-change", down)
        daemon.clock.move(30 * DAY_US)
        view = await get(daemon, one)
        assert (view["plan"]["key"], view["scheduledChange"]["status"]) == ("ten", "COMPLETED")

    @pytest.mark.parametrize(
        ("old", "new", "kind"),
        [
            ("thirty", "ten", "DOWNGRADE"),
            ("ten", "thirty", "UPGRADE"),
            ("ten", "later", "UPGRADE"),
            ("ten", "yearly", "DOWNGRADE"),
            ("thirty_days", "ten", "DOWNGRADE"),
            ("ten", "thirty_days", "UPGRADE"),
        ],
    )
    async def test_a_plan_that_is_cheaper_a_day_is_a_downgrade(
        self, daemon: Running, old: str, new: str, kind: str
    ) -> None:
        """Without changeType the prices decide: 100 a year is less than 10 a month, 10 for 30 days is more."""
        made = (await subscribe(daemon, old))["subscription"]
        path = f"/subscriptions/{made['id']}/plan-change"
        change = (await post(daemon, path, {"changeToPlanId": new}))["subscription"]["scheduledChange"]
        assert (change["type"], change["status"]) == (kind, "PENDING" if kind == "DOWNGRADE" else "COMPLETED")

    async def test_what_is_allowed_is_listed_once_by_the_plan_in_force(self, daemon: Running) -> None:
        """After an upgrade, and on a clock of the customer's own: one entry a subscription that runs there."""
        await daemon.http.post(
            f"{ADMIN}/clocks", json={"customerReferenceId": "acme", "now": "2025-03-05T00:00:00Z"}
        )
        made = await subscribe(daemon, "free")
        up = {"changeToPlanId": "later", "changeType": "UPGRADE"}
        await post(daemon, f"/subscriptions/{made['subscription']['id']}/plan-change", up)
        (listed,) = (await get(daemon, "/entitlements/acme"))["items"]
        assert listed["entitlements"] == [{"featureKey": "api", "allowed": True}]
        await post(daemon, f"/subscriptions/cancellation/{made['subscription']['id']}", cancelMode="IMMEDIATE")
        assert (await get(daemon, "/entitlements/acme"))["items"] == []

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"changeToPlanId": "gone", "changeType": "UPGRADE"}, "changeToPlanId"),
            ({"changeToPlanId": "nothing", "changeType": "UPGRADE"}, "changeToPlanId"),
            ({"changeToPlanId": "thirty", "changeType": "SIDEWAYS"}, "changeType"),
            ({"changeType": "UPGRADE"}, "changeToPlanId"),
        ],
    )
    async def test_a_change_to_nowhere_is_refused(self, daemon: Running, body: Any, field: str) -> None:
        """400 that names the field."""
        made = await subscribe(daemon, "free")
        path = f"{CLIENT}/subscriptions/{made['subscription']['id']}/plan-change"
        assert field in refused(await daemon.http.post(path, json=body), 400)

    async def test_a_paused_subscription_gives_no_access_until_it_is_resumed(self, daemon: Running) -> None:
        """Paused: denied with its reason; resumed: allowed; twice is refused."""
        made = await subscribe(daemon, "free")
        one = f"/subscriptions/{made['subscription']['id']}"
        assert (await post(daemon, f"{one}/pause"))["subscription"]["pausedAt"] == iso(NOW)
        assert await check(daemon) == (False, "paused")
        refused(await daemon.http.post(f"{CLIENT}{one}/pause"), 400)
        await post(daemon, f"{one}/resume")
        assert (await check(daemon))[0] is True
        refused(await daemon.http.post(f"{CLIENT}{one}/resume"), 400)


class TestInvoices:
    """GET /billing/invoices."""

    async def test_a_page_is_of_one_customer_and_one_status(self, daemon: Running) -> None:
        """Limit, offset and status; past the end it is empty; another's invoice is not found."""
        await subscribe(daemon, "later", startsAt="2026-08-01T00:00:00Z")
        await subscribe(daemon, "later", "zoe")
        page = await get(daemon, "/billing/invoices/acme", limit=3, offset=3)
        assert page["pagination"] == {"total": 4, "limit": 3, "offset": 3, "hasMore": False}
        assert [each["number"] for each in page["items"]] == ["INV-000001-0001"]
        assert (await get(daemon, "/billing/invoices/acme", offset=9))["items"] == []
        assert len(await invoices(daemon, status="DUE")) == 3
        assert "status" in refused(
            await daemon.http.get(f"{CLIENT}/billing/invoices/acme", params={"status": "LATE"}), 400
        )
        refused(await daemon.http.get(f"{CLIENT}/billing/invoices/nobody"), 404)
        refused(await daemon.http.get(f"{CLIENT}/billing/invoices/acme/INV-000002-0001"), 404)

    async def test_a_preview_is_what_comes(self, daemon: Running) -> None:
        """By the code that makes the real one; nothing of it is kept."""
        made = await subscribe(daemon, "later")
        await use(daemon, 5)
        one = f"/subscriptions/{made['subscription']['id']}"
        before = await invoices(daemon)
        announced = (await get(daemon, f"{one}/preview"))["invoice"]
        assert (announced["amount"], announced["status"], announced["preview"]) == (Decimal("10.50"), "DUE", True)
        assert await invoices(daemon) == before
        daemon.clock.move(30 * DAY_US)
        (came, _) = await invoices(daemon)
        told = await get(daemon, f"/billing/invoices/acme/{came['id']}")
        drop = ("id", "number", "invoiceId", "preview", "customerReferenceId")
        strip = lambda view: {name: value for name, value in view.items() if name not in drop}  # noqa: E731
        assert [strip(line) for line in told.pop("items")] == [strip(line) for line in announced.pop("items")]
        assert strip(told) == strip(announced)

    async def test_a_subscription_that_has_ended_has_no_next_invoice(self, daemon: Running) -> None:
        """Null, not an error."""
        made = await subscribe(daemon, "free")
        await post(daemon, f"/subscriptions/cancellation/{made['subscription']['id']}", cancelMode="IMMEDIATE")
        assert await get(daemon, f"/subscriptions/{made['subscription']['id']}/preview") == {"invoice": None}

    async def test_credit_covered_units_stand_at_zero_and_are_not_billed(self, daemon: Running) -> None:
        """The line says what credits paid, and so does each event behind it (D9)."""
        made = await subscribe(daemon, "tokens")
        await pay(daemon, made["invoice"])
        event = await use(daemon, 30)
        daemon.clock.move(30 * DAY_US)
        (_, renewal) = await invoices(daemon)
        assert renewal["amount"] == 10
        lines = (await get(daemon, f"/billing/invoices/acme/{renewal['id']}"))["items"]
        covered = next(place for place, line in enumerate(lines) if line["kind"] == "covered")
        assert (lines[covered]["quantity"], lines[covered]["chargeAmount"]) == (30, 0)
        told = await get(daemon, f"/billing/invoices/{renewal['number']}/lines/{covered}/explain")
        (row,) = told["events"]["items"]
        assert (row["eventId"], row["amount"]) == (event, 0)
        assert [(each["amount"], each["covered"]) for each in row["credits"]] == [(-30, {"units": 30})]
        assert told["counter"]["charged"] == 0

    async def test_who_may_look_may_not_pay(self, daemon: Running) -> None:
        """Money moves with `admin` only; a `read` key is refused with 403."""
        made = await subscribe(daemon, "ten")
        reader = await daemon.key_for("read")
        name = made["invoice"]["id"]
        for method, path in (
            ("POST", f"/billing/invoices/{name}/mark-paid"),
            ("POST", f"/subscriptions/cancellation/{made['subscription']['id']}"),
            ("POST", f"/events/{name}/void"),
        ):
            reply = await daemon.http.request(method, CLIENT + path, headers=reader)
            assert reply.status_code == 403, path
        looked = await daemon.http.get(f"{CLIENT}/billing/invoices/acme/{name}", headers=reader)
        assert looked.status_code == 200


class TestTakingEventsBack:
    """POST /events/{id}/void and /amend."""

    async def test_a_voided_event_is_not_billed(self, daemon: Running) -> None:
        """Usage, charge and the next invoice follow; the event stays, with its void beside it; once only."""
        made = await subscribe(daemon, "later")
        event = await use(daemon, 70)
        await use(daemon, 5)
        done = await post(daemon, f"/events/{event}/void", {"reason": "sent twice"})
        assert done["voided"] is True
        refused(await daemon.http.post(f"{CLIENT}/events/{event}/void", json={"reason": "again"}), 409)
        preview = await get(daemon, f"/subscriptions/{made['subscription']['id']}/preview")
        assert preview["invoice"]["amount"] == Decimal("10.50")
        told = await get(daemon, f"/events/{event}")
        assert (told["usageUnits"], told["voided"]["reason"]) == (70, "sent twice")

    async def test_an_amended_event_is_billed_as_it_should_have_been(self, daemon: Running) -> None:
        """The new event has the old one's time and all that was not sent."""
        made = await subscribe(daemon, "later")
        event = await use(daemon, 70)
        daemon.clock.move(DAY_US)
        body = {"reason": "counted wrong", "event": {"usageUnits": 7}}
        done = await post(daemon, f"/events/{event}/amend", body)
        told = await get(daemon, f"/events/{done['event']['eventId']}")
        assert (told["usageUnits"], told["occurredAt"]) == (7, iso(NOW))
        preview = await get(daemon, f"/subscriptions/{made['subscription']['id']}/preview")
        assert preview["invoice"]["amount"] == Decimal("10.70")

    async def test_a_due_invoice_follows_and_a_paid_one_never_changes(self, daemon: Running) -> None:
        """Open: written anew, its amount with it. Paid: as it was, and the next one adjusts (P10)."""
        await subscribe(daemon, "later")
        first, second = await use(daemon, 100), await use(daemon, 50)
        daemon.clock.move(30 * DAY_US)
        due = (await invoices(daemon))[0]
        await post(daemon, f"/events/{first}/void", {"reason": "test traffic"})
        assert (due["amount"], (await invoices(daemon))[0]["amount"]) == (25, 15)
        await pay(daemon, due)
        await post(daemon, f"/events/{second}/void", {"reason": "test traffic"})
        daemon.clock.move(31 * DAY_US)
        (paid, adjusted, _) = await invoices(daemon)
        assert (paid["amount"], adjusted["amount"]) == (15, 5)

    @pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": 7}, {"reason": "x", "why": "y"}])
    async def test_a_void_says_why(self, daemon: Running, body: Any) -> None:
        """400 without a reason."""
        await subscribe(daemon, "later")
        event = await use(daemon, 70)
        refused(await daemon.http.post(f"{CLIENT}/events/{event}/void", json=body), 400)


class TestAdmin:
    """What the operator asks for under /monetization."""

    async def test_subscriptions_are_listed_and_activated(self, daemon: Running) -> None:
        """Activating marks the first invoice as paid; where nothing waits for that it is refused."""
        made = await subscribe(daemon, "ten")
        await subscribe(daemon, "free", "zoe")
        listed = data(await daemon.http.get(f"{ADMIN}/subscriptions"))
        assert [each["customer"]["customerReferenceId"] for each in listed] == ["zoe", "acme"]
        one = f"{ADMIN}/subscriptions/{made['subscription']['id']}"
        assert data(await daemon.http.post(f"{one}/activate"))["subscription"]["isActive"] is True
        refused(await daemon.http.post(f"{one}/activate"), 400)
        assert data(await daemon.http.get(one))["isActive"] is True
        mine = data(await daemon.http.get(f"{ADMIN}/subscriptions", params={"customerReferenceId": "acme"}))
        by_id = data(await daemon.http.get(f"{ADMIN}/subscriptions/customer/{mine[0]['customer']['id']}/"))
        assert mine == by_id
        assert [each["id"] for each in mine] == [made["subscription"]["id"]]

    async def test_what_is_scheduled_is_listed_until_it_comes(self, daemon: Running) -> None:
        """Changes of plan and cancellations, each in a list of its own."""
        made = await subscribe(daemon, "free")
        other = await subscribe(daemon, "free", "zoe")
        down = {"changeToPlanId": "thirty", "changeType": "DOWNGRADE"}
        await post(daemon, f"/subscriptions/{made['subscription']['id']}/plan-change", down)
        data(await daemon.http.post(f"{ADMIN}/subscriptions/{other['subscription']['id']}/cancel"))
        (change,) = data(await daemon.http.get(f"{ADMIN}/subscriptions/scheduled-changes"))
        assert (change["toPlan"], change["status"], change["customerReferenceId"]) == ("thirty", "PENDING", "acme")
        (ending,) = data(await daemon.http.get(f"{ADMIN}/subscriptions/scheduled-cancellations"))
        assert ending["id"] == other["subscription"]["id"]
        daemon.clock.move(31 * DAY_US)
        for name in ("scheduled-changes", "scheduled-cancellations"):
            assert data(await daemon.http.get(f"{ADMIN}/subscriptions/{name}")) == []

    async def test_invoices_are_listed_paid_and_voided(self, daemon: Running) -> None:
        """PATCH without a body marks as paid; VOID voids, and its usage is billed by the next one."""
        await subscribe(daemon, "ten")
        (invoice,) = data(await daemon.http.get(f"{ADMIN}/billing/invoices", params={"status": "DUE"}))
        one = f"{ADMIN}/billing/invoices/{invoice['number']}"
        assert data(await daemon.http.get(one))["items"][0]["description"] == "Ten: base price"
        assert data(await daemon.http.patch(one))["status"] == "PAID"
        refused(await daemon.http.patch(one, json={"status": "VOID"}), 409)
        await subscribe(daemon, "ten", "zoe")
        (other,) = data(await daemon.http.get(f"{ADMIN}/billing/invoices", params={"customerReferenceId": "zoe"}))
        assert data(await daemon.http.post(f"{ADMIN}/billing/invoices/{other['id']}/void"))["status"] == "VOID"
        refused(await daemon.http.patch(f"{ADMIN}/billing/invoices/x"), 404)

    async def test_a_clock_is_set_moved_and_ended(self, daemon: Running) -> None:
        """By the customer's reference in a path, the daemon's own by `daemon`."""
        put = {"customerReferenceId": "acme", "now": "2026-01-01T00:00:00Z"}
        made = data(await daemon.http.post(f"{ADMIN}/clocks", json=put), 201)
        await subscribe(daemon, "later", startsAt="2026-01-01T00:00:00Z")
        moved = data(await daemon.http.post(f"{ADMIN}/clocks/acme/advance", json={"to": "2026-04-15T00:00:00Z"}))
        assert (made["now"], moved["now"]) == ("2026-01-01T00:00:00Z", "2026-04-15T00:00:00Z")
        assert len(await invoices(daemon)) == 4
        data(await daemon.http.post(f"{ADMIN}/clocks/{moved['customerId']}/advance", json={"by": 3600}))
        data(await daemon.http.post(f"{ADMIN}/clocks", json={"now": iso(NOW)}), 201)
        data(await daemon.http.post(f"{ADMIN}/clocks/daemon/advance", json={"by": 86400}))
        listed = data(await daemon.http.get(f"{ADMIN}/clocks"))
        assert [each["now"] for each in listed] == [iso(NOW + DAY_US), "2026-04-15T01:00:00Z"]
        assert data(await daemon.http.delete(f"{ADMIN}/clocks/acme"))["now"] == iso(NOW + DAY_US)
        assert "backwards" in refused(await daemon.http.delete(f"{ADMIN}/clocks/daemon"), 409)
        refused(await daemon.http.delete(f"{ADMIN}/clocks/nobody"), 404)
        refused(await daemon.http.post(f"{ADMIN}/clocks", json={"now": "tomorrow"}), 400)


class TestCustomers:
    """PATCH /customers/{ref}."""

    async def test_only_what_is_sent_changes(self, daemon: Running) -> None:
        """Null takes a field back; the rest stays; the reference cannot change."""
        body = {"customerReferenceId": "acme", "email": "a@acme.test", "firstName": "Ada"}
        data(await daemon.http.post(f"{CLIENT}/customers", json=body), 201)
        path = f"{CLIENT}/customers/acme"
        change = {"email": "b@acme.test", "firstName": None, "address": {"line1": "1 Way", "city": "Bonn"}}
        changed = data(await daemon.http.patch(path, json=change))
        assert (changed["email"], changed["address"]["city"]) == ("b@acme.test", "Bonn")
        assert "firstName" not in changed
        assert data(await daemon.http.get(path))["email"] == "b@acme.test"
        refused(await daemon.http.patch(path, json={"customerReferenceId": "b"}), 400)
        refused(await daemon.http.patch(path, json={"email": ""}), 400)
        refused(await daemon.http.patch(f"{CLIENT}/customers/nobody", json={"email": "x"}), 404)

    async def test_a_company_goes_by_its_name(self, daemon: Running) -> None:
        """`name` is answered, changed, taken back; on the page it stands before that of a person."""
        body = {"customerReferenceId": "acme", "name": "Acme GmbH", "firstName": "Ada"}
        assert data(await daemon.http.post(f"{CLIENT}/customers", json=body), 201)["name"] == "Acme GmbH"
        path = f"{CLIENT}/customers/acme"
        assert data(await daemon.http.patch(path, json={"name": "Acme Inc."}))["name"] == "Acme Inc."
        number = (await subscribe(daemon, "ten"))["invoice"]["number"]
        page = f"{CLIENT}/billing/invoices/{number}/page"
        told = (await daemon.http.get(page)).text
        assert "<bdi>Acme Inc.</bdi>" in told
        assert "Ada" not in told
        assert "name" not in data(await daemon.http.patch(path, json={"name": None}))
        assert "<bdi>Ada</bdi>" in (await daemon.http.get(page)).text
        refused(await daemon.http.patch(path, json={"name": ""}), 400)

    async def test_periods_begin_at_midnight_where_the_customer_is(self, daemon: Running) -> None:
        """A customer's own time zone counts where a subscription names none; one that is none is refused."""
        body = {"customerReferenceId": "acme", "timeZone": "Asia/Tokyo"}
        data(await daemon.http.post(f"{CLIENT}/customers", json=body), 201)
        made = await subscribe(daemon, "later", startsAt="2026-11-01T00:00:00+09:00")
        assert made["subscription"]["timeZone"] == "Asia/Tokyo"
        assert made["subscription"]["currentPeriodEnd"] == "2026-11-30T15:00:00Z"
        named = await subscribe(daemon, "ten", timeZone="UTC")
        assert named["subscription"]["timeZone"] == "UTC"
        refused(await daemon.http.patch(f"{CLIENT}/customers/acme", json={"timeZone": "Mars/Olympus"}), 400)
