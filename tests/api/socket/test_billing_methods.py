"""Subscriptions, invoices, events taken back and test clocks over the socket, from a real peer to a real file."""

from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest

from support import NOW, Peer, Served, rows, served
from tallyd.clock import FixedClock
from tallyd.model.moments import DAY_US, iso

CATALOG: Final = """
[[features]]
key = "api"
name = "API calls"

[[plans]]
key = "pro"
name = "Pro"
price_amount = 10
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = "0.10" }

[[plans]]
key = "team"
name = "Team"
price_amount = 30
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = "0.05" }

[[plans]]
key = "later"
name = "Later"
price_amount = 10
billing_timing = "IN_ARREARS"
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = "0.10" }
"""
ACME: Final = {"customerReferenceId": "acme"}
NOVEMBER: Final = "2026-11-01T00:00:00Z"


async def subscribed(peer: Peer, plan: str = "pro", **fields: Any) -> Any:
    """Put acme on a plan from 1 November on; return the subscription and its invoice."""
    return await peer.result("subscribe", **ACME, planKey=plan, **{"startsAt": NOVEMBER, **fields})


async def used(peer: Peer, units: int, at: str = "2026-11-20T00:00:00Z", **fields: Any) -> str:
    """Record usage; return the event's id."""
    body = {"eventName": "call", **ACME, "featureKey": "api", "usageUnits": units, "occurredAt": at, **fields}
    (done,) = (await peer.result("ingest", events=[body]))["results"]
    assert done["status"] == "created", done
    return str(done["eventId"])


async def error(peer: Peer, method: str, **params: Any) -> tuple[str, str | None]:
    """Ask something that is refused; return the code and the field."""
    data = (await peer.call(method, **params))["error"]["data"]
    return data["code"], data.get("field")


def move(daemon: Served, micros: int) -> None:
    """Let the machine's time pass."""
    assert isinstance(daemon.core.clock.system, FixedClock)
    daemon.core.clock.system.move(micros)


async def test_a_subscription_is_listed_changed_and_changed_back(tmp_path: Path) -> None:
    """Each change answers with how the subscription stands and which invoices that made (D7, D8)."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        made = await subscribed(peer)
        await peer.result("invoices.markPaid", invoiceId=made["invoice"]["number"])
        named = {"subscriptionId": made["subscription"]["id"]}
        (listed,) = (await peer.result("subscriptions.list", **ACME))["items"]
        assert (listed["id"], listed["isActive"], listed["plan"]["key"]) == (named["subscriptionId"], True, "pro")

        down = {**named, "changeToPlanId": "team", "changeType": "DOWNGRADE"}
        changed = (await peer.result("subscriptions.changePlan", **down))["subscription"]
        assert (changed["plan"]["key"], changed["scheduledChange"]["status"]) == ("pro", "PENDING")
        changed = (await peer.result("subscriptions.revertChange", **named))["subscription"]
        assert changed["scheduledChange"]["status"] == "CANCELLED"

        done = await peer.result("subscriptions.cancel", **named)
        assert (done["subscription"]["cancelMode"], done["invoices"]) == ("END_OF_PERIOD", [])
        done = await peer.result("subscriptions.revertCancellation", **named)
        assert "cancelMode" not in done["subscription"]

        paused = (await peer.result("subscriptions.pause", **named))["subscription"]
        assert (paused["isActive"], paused["inactiveReason"]) == (False, "paused")
        assert (await peer.result("subscriptions.resume", **named))["subscription"]["isActive"] is True

        up = {**named, "changeToPlanId": "team", "changeType": "UPGRADE"}
        upgraded = await peer.result("subscriptions.changePlan", **up)
        assert upgraded["subscription"]["plan"]["key"] == "team"
        assert [(each["type"], each["status"]) for each in upgraded["invoices"]] == [("ADJUSTMENT", "DUE")]

        ended = await peer.result("subscriptions.cancel", **named, cancelMode="IMMEDIATE")
        assert ended["subscription"]["isActive"] is False
        kinds = {(each["type"], each["status"]) for each in ended["invoices"]}
        assert {("ADJUSTMENT", "VOID"), ("CREDIT", "PAID")} <= kinds


async def test_an_invoice_goes_by_its_id_and_by_its_number(tmp_path: Path) -> None:
    """Whoever quotes `INV-000001-0001` is understood wherever an invoice is named."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        invoice = (await subscribed(peer))["invoice"]
        assert invoice["number"] == "INV-000001-0001"
        for name in (invoice["id"], invoice["number"], invoice["number"].lower()):
            found = await peer.result("invoices.get", invoiceId=name)
            assert (found["id"], found["customerReferenceId"]) == (invoice["id"], "acme")
            assert found["items"][0]["description"] == "Pro: base price"
        paid = await peer.result("invoices.markPaid", invoiceId=invoice["number"])
        again = await peer.result("invoices.markPaid", invoiceId=invoice["id"])
        assert (paid["status"], again) == ("PAID", paid)
        assert await error(peer, "invoices.void", invoiceId=invoice["number"]) == ("conflict", None)


@pytest.mark.parametrize("name", ["INV-000001-0002", "INV-9-9", "INV-" + "9" * 30 + "-0001", "x", "", "7a11d000"])
async def test_an_invoice_that_is_not_there_is_not_found(tmp_path: Path, name: str) -> None:
    """Neither an id nor a number of an invoice: not_found, whatever was written."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        await subscribed(peer)
        for method in ("invoices.get", "invoices.page", "invoices.markPaid", "invoices.void"):
            assert (await error(peer, method, invoiceId=name))[0] == "not_found"


async def test_invoices_are_listed_newest_first_and_by_status(tmp_path: Path) -> None:
    """A page of a customer's invoices says how many there are in all; without a customer, all of them are."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        await subscribed(peer, "later", startsAt="2026-08-01T00:00:00Z")
        await peer.result("subscribe", customerReferenceId="zoe", planKey="pro", startsAt=NOVEMBER)
        page = await peer.result("invoices.list", **ACME, limit=2)
        assert [each["number"] for each in page["items"]] == ["INV-000001-0004", "INV-000001-0003"]
        assert page["pagination"] == {"total": 4, "limit": 2, "offset": 0, "hasMore": True}
        due = await peer.result("invoices.list", **ACME, status="DUE")
        pending = await peer.result("invoices.list", **ACME, status="PENDING")
        assert (due["pagination"]["total"], pending["pagination"]["total"]) == (3, 1)
        everybody = await peer.result("invoices.list")
        assert {each["customerReferenceId"] for each in everybody["items"]} == {"acme", "zoe"}
        assert await error(peer, "invoices.list", status="OVERDUE") == ("validation_failed", "status")
        assert await error(peer, "invoices.list", limit=0) == ("validation_failed", "limit")


async def test_a_preview_is_the_invoice_to_be(tmp_path: Path) -> None:
    """What is announced has no number yet, and comes just so when its period is over."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        made = await subscribed(peer, "later")
        await used(peer, 5)
        announced = (await peer.result("invoices.preview", subscriptionId=made["subscription"]["id"]))["invoice"]
        assert (announced["amount"], announced["preview"]) == (10.5, True)
        assert not {"id", "number"} & set(announced)
        move(daemon, 30 * DAY_US)
        newest = (await peer.result("invoices.list", **ACME))["items"][1]
        came = await peer.result("invoices.get", invoiceId=newest["id"])
        assert came["amount"] == announced["amount"]
        assert [line["description"] for line in came["items"]] == [
            line["description"] for line in announced["items"]
        ]


async def test_a_line_explains_itself_down_to_its_events(tmp_path: Path) -> None:
    """Steps, price version, events in order; what they charged sums exactly to the line (P5, P10)."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        await subscribed(peer, "later")
        events = [await used(peer, units) for units in (3, 4, 5)]
        move(daemon, 30 * DAY_US)
        number = (await peer.result("invoices.list", **ACME))["items"][1]["number"]
        lines = (await peer.result("invoices.get", invoiceId=number))["items"]
        place = next(place for place, line in enumerate(lines) if line["kind"] == "usage")
        told = await peer.result("invoices.explain", invoiceId=number, line=place)
        assert told["line"] == lines[place]
        assert told["price"]["version"] == "later@1"
        assert told["price"]["pricing"]["price_per_unit"] == "0.10"
        assert [row["eventId"] for row in told["events"]["items"]] == events
        assert [row["amount"] for row in told["events"]["items"]] == [0.3, 0.4, 0.5]
        assert told["counter"]["charged"] == lines[place]["exactAmount"] == 1.2
        page = await peer.result("invoices.explain", invoiceId=number, line=lines[place]["id"], limit=1, offset=1)
        assert [row["eventId"] for row in page["events"]["items"]] == events[1:2]
        assert page["events"]["pagination"]["total"] == 3
        base = await peer.result("invoices.explain", invoiceId=number, line=0)
        assert (base["line"]["kind"], base["price"]["priceAmount"]) == ("base", 10)
        assert "events" not in base
        assert (await error(peer, "invoices.explain", invoiceId=number, line=9))[0] == "not_found"


async def test_what_came_late_and_what_was_taken_back_stands_in_the_next_line(tmp_path: Path) -> None:
    """A closed invoice stays; the line that adjusts it names both, with their sum (P10)."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        await subscribed(peer, "later")
        wrong = await used(peer, 100)
        move(daemon, 15 * DAY_US)  # 6 December
        (_, closed) = (await peer.result("invoices.list", **ACME))["items"]
        await peer.result("invoices.markPaid", invoiceId=closed["id"])
        done = await peer.result("events.void", eventId=wrong, reason="sent twice")
        assert (done["voided"], done["reason"]) == (True, "sent twice")
        late = await used(peer, 7, "2026-11-30T00:00:00Z")
        move(daemon, 30 * DAY_US)
        number = (await peer.result("invoices.list", **ACME))["items"][1]["number"]
        lines = (await peer.result("invoices.get", invoiceId=number))["items"]
        place = next(place for place, line in enumerate(lines) if line["kind"] == "late")
        told = await peer.result("invoices.explain", invoiceId=number, line=place)
        assert [(row["kind"], row["eventId"], row["amount"]) for row in told["events"]["items"]] == [
            ("void", wrong, -10),
            ("event", late, 0.7),
        ]
        assert told["counter"]["charged"] == lines[place]["exactAmount"] == -9.3
        assert (await peer.result("invoices.get", invoiceId=closed["id"]))["amount"] == 20
        before = await peer.result("invoices.explain", invoiceId=closed["id"], line=1)
        assert [(row["eventId"], row["amount"]) for row in before["events"]["items"]] == [(wrong, 10)]


async def test_a_price_found_later_explains_itself_on_both_invoices(tmp_path: Path) -> None:
    """The closed invoice still sums to what was known then, the next one names the event that has a price now."""
    unpriced = CATALOG.replace(
        '{ model = "usage", usage_unit_type = "calls", price_per_unit = "0.10" }',
        '{ model = "llm_tokens", per = 1, rates = { "gpt-4o" = { input = 1, output = 1 } } }',
    )
    async with served(tmp_path, unpriced) as daemon, daemon.peer() as peer:
        await subscribed(peer, "later")
        for model in ("gpt-4o", "claude-sonnet-4"):
            body = {"eventName": "call", **ACME, "featureKey": "api", "occurredAt": "2026-11-20T00:00:00Z"}
            await peer.result("ingest", events=[{**body, "costInput": {"model": model, "inputTokens": 3}}])
        move(daemon, 15 * DAY_US)
        first = (await peer.result("invoices.list", **ACME))["items"][1]
        await peer.result("invoices.markPaid", invoiceId=first["id"])
        (tmp_path / "catalog.toml").write_text(unpriced.replace('"gpt-4o" =', '"*" ='), encoding="utf-8")
        await peer.result("catalog.reload")
        assert await peer.result("rerate") == {"unpriced": 1, "priced": 1}
        move(daemon, 30 * DAY_US)
        second = (await peer.result("invoices.list", **ACME))["items"][1]
        for invoice, kinds, charged in ((first, ["event", "event"], 3), (second, ["rerate"], 3)):
            lines = (await peer.result("invoices.get", invoiceId=invoice["id"]))["items"]
            place = next(place for place, line in enumerate(lines) if line["kind"] in ("usage", "late"))
            told = await peer.result("invoices.explain", invoiceId=invoice["id"], line=place)
            assert [row["kind"] for row in told["events"]["items"]] == kinds
            assert told["counter"]["charged"] == lines[place]["exactAmount"] == charged
            if invoice is first:
                assert [row.get("unpriced") for row in told["events"]["items"]] == [None, True]


async def test_an_amended_event_takes_over_what_is_not_sent(tmp_path: Path) -> None:
    """The event is taken back and another stands in its place, at its time; both or neither."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        await subscribed(peer, "later")
        event = await used(peer, 100, meta={"job": "7"}, eventIdempotencyKey="k1")
        change = {"reason": "wrong unit", "event": {"usageUnits": 1}}
        amended = await peer.result("events.amend", eventId=event, **change)
        assert (amended["eventId"], amended["event"]["revenueAmount"]) == (event, 0.1)
        row = await daemon.core.books.read(
            lambda books: books.execute("SELECT occurred_at, body FROM events ORDER BY id DESC").fetchone()
        )
        assert (iso(row[0]), '"job":"7"' in row[1]) == ("2026-11-20T00:00:00Z", True)
        assert (await error(peer, "events.amend", eventId=event, **change))[0] == "conflict"
        assert await error(peer, "events.void", eventId=event, reason="") == ("validation_failed", "reason")
        assert (await error(peer, "events.void", eventId="x", reason="y"))[0] == "not_found"


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"customerReferenceId": "zoe"}, ("validation_failed", "event.customerReferenceId")),
        ({"usageUnits": -1}, ("validation_failed", "usageUnits")),
        ({"holdId": "x"}, ("validation_failed", "event.holdId")),
        ({"eventIdempotencyKey": "taken"}, ("conflict", "event.eventIdempotencyKey")),
    ],
)
async def test_an_amendment_that_cannot_be_leaves_the_event(
    tmp_path: Path, event: dict[str, Any], expected: tuple[str, str]
) -> None:
    """Whatever is wrong with the new event, the old one still counts."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        await subscribed(peer, "later")
        await used(peer, 1, eventIdempotencyKey="taken")
        first = await used(peer, 100)
        assert await error(peer, "events.amend", eventId=first, reason="x", event=event) == expected
        preview = (await peer.result("subscriptions.list", **ACME))["items"][0]["id"]
        assert (await peer.result("invoices.preview", subscriptionId=preview))["invoice"]["amount"] == 20.1


async def test_a_page_of_an_invoice_is_html(tmp_path: Path) -> None:
    """The whole document comes as text, for a shell to write to a file."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        number = (await subscribed(peer))["invoice"]["number"]
        html = (await peer.result("invoices.page", invoiceId=number))["html"]
        assert html.lstrip().startswith("<!DOCTYPE html>")
        assert number in html


async def test_five_years_on_a_clock_are_sixty_invoices(tmp_path: Path) -> None:
    """Anchored on the 31st where clocks change: no gap, no overlap, the anchor comes back after February."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        set_to = await peer.result("clocks.set", **ACME, now="2026-01-31T05:00:00Z")
        assert (set_to["customerReferenceId"], set_to["now"]) == ("acme", "2026-01-31T05:00:00Z")
        zone = {"timeZone": "America/New_York", "startsAt": "2026-01-31T05:00:00Z"}
        await subscribed(peer, "later", **zone)
        for _ in range(60):
            moved = await peer.result("clocks.advance", **ACME, by=31 * 86_400)
            for due in (await peer.result("invoices.list", **ACME, status="DUE"))["items"]:
                await peer.result("invoices.markPaid", invoiceId=due["id"])
        await peer.result("clocks.advance", **ACME, to=max(moved["now"], "2031-01-31T05:00:00Z"))
        items: list[Any] = []
        while len(items) < 60:
            page = await peer.result("invoices.list", **ACME, limit=50, offset=len(items))
            assert page["items"], "there are as many as periods"
            items += page["items"]
        items.reverse()
        periods = [(each["periodStart"], each["periodEnd"]) for each in items[:60]]
        assert periods[0] == ("2026-01-31T05:00:00Z", "2026-02-28T05:00:00Z")
        assert periods[1] == ("2026-02-28T05:00:00Z", "2026-03-31T04:00:00Z")
        assert periods[-1][1] == "2031-01-31T05:00:00Z"
        assert [end for _, end in periods[:-1]] == [start for start, _ in periods[1:]]
        assert [each["number"] for each in items[:60]] == [f"INV-000001-{serial:04d}" for serial in range(1, 61)]


async def test_the_daemons_clock_takes_everybody_along(tmp_path: Path) -> None:
    """Moving it answers when nothing is due any more for anybody; customers on clocks of their own stay."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        names = [f"c{number}" for number in range(12)]
        for name in names:
            await peer.result("subscribe", customerReferenceId=name, planKey="later", startsAt=NOVEMBER)
        await peer.result("clocks.set", customerReferenceId="c0", now=iso(NOW))
        await peer.result("clocks.set", now=iso(NOW))
        await peer.result("clocks.advance", to="2027-02-01T00:00:00Z")
        written = await rows(daemon.core, "SELECT count(*) FROM invoices")
        assert written == [(4 * 11 + 1,)], "it is in the books when the answer comes"
        for name in names:
            made = (await peer.result("invoices.list", customerReferenceId=name))["pagination"]["total"]
            assert made == (1 if name == "c0" else 4)
        listed = (await peer.result("clocks.get"))["items"]
        assert [(each["clock"], each["now"]) for each in listed] == [
            ("daemon", "2027-02-01T00:00:00Z"),
            ("customer", iso(NOW)),
        ]
        assert listed[0]["nextDueAt"] == "2027-02-05T00:00:00Z", "the January invoices fall overdue"


async def test_time_on_a_clock_never_runs_backwards(tmp_path: Path) -> None:
    """Neither by setting nor by moving; a customer of whom nothing is known yet may begin anywhere."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        await subscribed(peer)
        back = iso(NOW - 1)
        assert await error(peer, "clocks.set", **ACME, now=back) == ("validation_failed", "now")
        assert await error(peer, "clocks.set", now=back) == ("validation_failed", "now")
        await peer.result("clocks.set", **ACME, now=iso(NOW))
        assert await error(peer, "clocks.advance", **ACME, to=back) == ("validation_failed", "to")
        assert await error(peer, "clocks.advance", **ACME, by=-1) == ("validation_failed", "by")
        assert await error(peer, "clocks.advance", **ACME) == ("validation_failed", "by")
        assert (await error(peer, "clocks.advance", to=iso(NOW)))[0] == "not_found"
        past = await peer.result("clocks.set", customerReferenceId="new", now="2020-02-29T00:00:00Z")
        assert past["now"] == "2020-02-29T00:00:00Z"


async def test_a_clock_that_is_ahead_cannot_be_ended_until_time_has_come_so_far(tmp_path: Path) -> None:
    """What has been lived through cannot be taken back; where nothing has happened, a clock may always go."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        await subscribed(peer, "later")
        await peer.result("clocks.set", **ACME, now=iso(NOW + 20 * DAY_US))
        assert (await error(peer, "clocks.end", **ACME))[0] == "conflict"
        move(daemon, 20 * DAY_US)
        ended = await peer.result("clocks.end", **ACME)
        assert ended == {"ended": True, "now": iso(NOW + 20 * DAY_US)}
        assert (await peer.result("clocks.get"))["items"] == []
        await peer.result("clocks.set", customerReferenceId="new", now="2090-01-01T00:00:00Z")
        await peer.result("clocks.end", customerReferenceId="new")
        move(daemon, 30 * DAY_US)
        assert (await peer.result("invoices.list", **ACME))["pagination"]["total"] == 3, "time runs again"


async def test_a_clock_stands_through_a_restart(tmp_path: Path) -> None:
    """The books know where each clock stands, and what was lived through on it; one that was ended is gone."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        await peer.result("clocks.set", **ACME, now="2026-01-31T00:00:00Z")
        await subscribed(peer, "later", startsAt="2026-01-31T00:00:00Z")
        await peer.result("clocks.advance", **ACME, to="2026-06-15T00:00:00Z")
        before = await peer.result("invoices.list", **ACME)
        await peer.result("clocks.set", customerReferenceId="zoe", now=iso(NOW))
        await peer.result("clocks.end", customerReferenceId="zoe")
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        (clock,) = (await peer.result("clocks.get"))["items"]
        assert (clock["customerReferenceId"], clock["now"]) == ("acme", "2026-06-15T00:00:00Z")
        assert await peer.result("invoices.list", **ACME) == before
        assert before["pagination"]["total"] == 5


async def test_what_is_done_to_money_needs_admin(tmp_path: Path) -> None:
    """Looking needs `read`, changing `admin`; the table says so."""
    async with served(tmp_path, CATALOG) as daemon:
        table = daemon.server._methods.table
        mine = ("subscriptions.", "invoices.", "events.", "clocks.")
        scopes = {name: scope for name, (scope, _) in table.items() if name.startswith(mine)}
        looking = {
            "subscriptions.list",
            "invoices.list",
            "invoices.get",
            "invoices.preview",
            "invoices.explain",
            "invoices.page",
            "clocks.get",
        }
        assert {name for name, scope in scopes.items() if scope == "read"} == looking
        assert {scope for name, scope in scopes.items() if name not in looking} == {"admin"}


async def test_amounts_keep_every_digit(tmp_path: Path) -> None:
    """A line's exact amount has all of its digits, its charge those of the currency (P9)."""
    catalog = CATALOG.replace('"0.10"', '"0.333"')
    async with served(tmp_path, catalog) as daemon, daemon.peer() as peer:
        made = await subscribed(peer, "later")
        await used(peer, 7)
        announced = (await peer.result("invoices.preview", subscriptionId=made["subscription"]["id"]))["invoice"]
        line = announced["items"][1]
        assert (Decimal(str(line["exactAmount"])), line["chargeAmount"]) == (Decimal("2.331"), 2.33)
