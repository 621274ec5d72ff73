"""What-if over HTTP and the socket: the same answer, by a real daemon over real books, which stay as they were."""

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import trio

from harness import NOW, Running, running
from support import at, connected
from tallyd.api import whatif
from tallyd.api.whatif import WhatIfs
from tallyd.clock import FixedClock
from tallyd.model.invoice import Line
from tallyd.model.moments import DAY_US
from tallyd.model.problems import Code, ProblemError
from tallyd.store import sqlite, whatif_rows
from tallyd.store.whatif import Progress

WHAT_IF: Final = "/api/v1/monetization/what-if"
CLIENT: Final = "/api/v1/client"
CATALOG: Final = """
[[features]]
key = "api"
[[features]]
key = "chat"

[[meters]]
key = "calls"
event_name = "call"
aggregation = { type = "count" }

[[plans]]
key = "pro"
name = "Pro"
price_amount = "49.00"
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = "0.10" }
[[plans.features]]
feature = "chat"
pricing = { model = "usage", usage_unit_type = "chats", price_per_unit = 1 }

[[plans]]
key = "team"
name = "Team"
price_amount = "20.00"
[[plans.features]]
feature = "api"
[plans.features.pricing]
model = "graduated"
usage_unit_type = "calls"
max_usage = 20000
tiers = [
  { up_to = 1000, price_per_unit = 0, flat_fee = 10 },
  { up_to = 10000, price_per_unit = "0.001", flat_fee = 5 },
  { up_to = "inf", price_per_unit = "0.0001" },
]

[[plans]]
key = "yearly"
name = "Yearly"
interval_months = 12

[[plans]]
key = "euro"
name = "Euro"
currency = "EUR"
status = "DRAFT"
"""
DRAFT: Final = (
    CATALOG.replace('price_amount = "20.00"', 'price_amount = "5.00"')
    + """
[[plans]]
key = "by_event"
name = "By event"
[[plans.features]]
feature = "api"
meter = "calls"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = 3 }
"""
)
OCTOBER: Final = at("2026-10-01T00:00:00Z")
ASKED: Final = {"month": "2026-10", "planKey": "team"}


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Running]:
    """Run a daemon with plans to compare."""
    async with running(tmp_path, catalog=CATALOG) as started:
        yield started


async def post(daemon: Running, path: str = WHAT_IF, *, expect: int = 200, **body: Any) -> Any:
    """Post something; return the data, or the error."""
    reply = await daemon.http.post(path, json=body)
    assert reply.status_code == expect, reply.text
    answer = json.loads(reply.content, parse_float=Decimal)
    return answer["data"] if answer["success"] else answer["error"]


async def use(daemon: Running, customer: str, units: int, feature: str = "api", **fields: Any) -> str:
    """Report usage in October; return the event's id."""
    body = {"eventName": "call", "customerReferenceId": customer, "featureKey": feature, "usageUnits": units}
    sent = {"occurredAt": "2026-10-10T12:00:00Z", **body, **fields}
    return str((await post(daemon, f"{CLIENT}/events", expect=201, **sent))["eventId"])


async def acme(daemon: Running) -> None:
    """A customer on `pro` since September, with 15,000 calls and 3 chats in October."""
    await daemon.subscribe("acme", startsAt="2026-09-01T00:00:00Z")
    for units in (400, 700, 13_900):
        await use(daemon, "acme", units)
    await use(daemon, "acme", 3, "chat")
    await use(daemon, "acme", 7, occurredAt="2026-09-30T23:59:59Z")


def dump(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables."""
    connection = sqlite.open_reader(path)
    try:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
    finally:
        connection.close()


# The answer


async def test_october_under_another_plan(daemon: Running) -> None:
    """By hand: 49 + 1,500.00 + 3.00 as it was; 20 + 24.50 on `team`, where three chats would be free: loudly."""
    await acme(daemon)
    answer = await post(daemon, **ASKED)
    (item,) = answer["items"]
    assert item["customerReferenceId"] == "acme"
    assert item["was"] == {
        "exact": Decimal("1552.00"),
        "amount": Decimal("1552.00"),
        "base": {"exact": 49, "amount": 49},
        "usage": {"exact": 1503, "amount": 1503},
    }
    assert (item["wouldBe"]["exact"], item["wouldBe"]["amount"]) == (Decimal("44.5"), Decimal("44.50"))
    assert item["difference"] == {"exact": Decimal("-1507.5"), "amount": Decimal("-1507.5")}
    assert item["events"] == 4
    assert item["subscriptions"][0]["priceVersions"] == ["pro@1"]
    features = {each["featureKey"]: each for each in item["features"]}
    assert features["api"]["wouldBe"] == {
        "usageUnits": 15_000,
        "events": 3,
        "exact": Decimal("24.5"),
        "amount": Decimal("24.50"),
    }
    assert features["chat"]["notInTarget"] is True
    assert item["notes"] == [{"code": "not_in_target", "message": "chat (3 used) not in team@1: would be free"}]
    assert answer["total"]["difference"] == item["difference"]
    assert answer["total"]["notes"] == {"not_in_target": 1}
    assert (answer["start"], answer["end"]) == ("2026-10-01", "2026-11-01")
    assert answer["basis"].startswith("before credits")
    assert answer["target"]["priceVersion"] == "team@1"


async def test_the_side_that_was_is_what_the_invoice_says(tmp_path: Path) -> None:
    """October's invoice, closed when October was over, has the base price and the usage that the answer has."""
    catalog = CATALOG.replace('price_amount = "49.00"', 'price_amount = "49.00"\nbilling_timing = "IN_ARREARS"')
    clock = FixedClock(at("2026-10-15T00:00:00Z"))
    async with running(tmp_path, catalog=catalog, clock=clock) as daemon:
        await acme(daemon)
        clock.move(30 * DAY_US)
        await use(daemon, "acme", 1, occurredAt="2026-11-10T00:00:00Z")
        ((text,),) = await daemon.core.books.read(
            lambda books: books.execute("SELECT lines FROM invoices WHERE period_start = ?", (OCTOBER,)).fetchall()
        )
        (item,) = (await post(daemon, month="2026-10", planKey="pro"))["items"]
    lines = [each for each in msgspec.json.decode(text, type=list[Line]) if each.period_start == OCTOBER]
    assert sum(each.amount for each in lines) == Decimal(
        "1552.00"
    )  # beside it: September's usage, which came late
    assert item["was"]["amount"] == item["wouldBe"]["amount"] == Decimal("1552.00")


async def test_nothing_in_the_books_changes(daemon: Running) -> None:
    """Every row of every table is after asking what it was before, for every kind of target."""
    await acme(daemon)
    await use(daemon, "stray", 5)
    before = dump(daemon.path)
    for asked in ({"planKey": "team"}, {"planKey": "pro@1"}, {"planKey": "by_event", "catalog": DRAFT}):
        await post(daemon, month="2026-10", **asked)
    await daemon.core.writer.drain()
    assert dump(daemon.path) == before
    assert "by_event" not in daemon.core.catalogue.listed


async def test_a_voided_event_has_never_been(daemon: Running) -> None:
    """A voided event is on neither side, on an open period or on an invoiced one."""
    await acme(daemon)
    event = await use(daemon, "acme", 100)
    first = (await post(daemon, **ASKED))["items"][0]
    await post(daemon, f"{CLIENT}/events/{event}/void", reason="sent by mistake")
    second = (await post(daemon, **ASKED))["items"][0]
    assert (first["events"], second["events"]) == (5, 4)
    assert first["was"]["exact"] - second["was"]["exact"] == 10
    assert first["wouldBe"]["exact"] - second["wouldBe"]["exact"] == Decimal("0.01")


async def test_credits_are_left_out_of_both_sides(tmp_path: Path) -> None:
    """Usage that credits paid for stands at the plan's price, and the answer says so."""
    credit = '[[credit_models]]\nkey = "tokens"\nhard_limit = false\n'
    async with running(tmp_path, catalog=CATALOG + credit) as daemon:
        await daemon.subscribe("acme", startsAt="2026-09-01T00:00:00Z")
        body = {"customerReferenceId": "acme", "creditModelKey": "tokens", "amount": 600}
        await post(daemon, "/api/v1/monetization/credits/grants", expect=201, **body)
        await use(daemon, "acme", 1_000)
        (item,) = (await post(daemon, **ASKED))["items"]
    assert item["was"]["usage"]["exact"] == 100
    assert item["was"]["paidWithCredits"] == 60
    assert item["wouldBe"]["usage"]["exact"] == 10
    assert {"code": "credits", "message": "credits paid 60 of what was"} in item["notes"]


# The target


async def test_an_older_version_of_the_plan(daemon: Running) -> None:
    """A price version is a target: what it would have been if the price had not been raised."""
    await acme(daemon)
    raised = CATALOG.replace('price_per_unit = "0.10"', 'price_per_unit = "0.20"')
    await trio.Path(daemon.core.config.catalog or "").write_text(raised, encoding="utf-8")
    await daemon.core.reload_catalog()
    by_key = await post(daemon, month="2026-10", planKey="pro")
    by_version = await post(daemon, month="2026-10", planKey="pro@1")
    assert by_key["target"]["priceVersion"] == "pro@2"
    assert by_key["total"]["difference"]["exact"] == 1_500
    assert by_version["total"]["difference"]["exact"] == 0


async def test_a_plan_of_a_catalog_that_is_not_in_force(daemon: Running) -> None:
    """The catalog comes with the question: three events at 3.00 each by its meter, and nothing of it is kept."""
    await acme(daemon)
    answer = await post(daemon, month="2026-10", planKey="by_event", catalog=DRAFT)
    assert answer["target"]["priceVersion"] == "by_event@catalog"
    assert answer["items"][0]["wouldBe"]["exact"] == 12
    changed = await post(daemon, month="2026-10", planKey="team", catalog=DRAFT)
    assert changed["items"][0]["wouldBe"]["base"]["exact"] == 5
    assert daemon.core.catalogue.latest("by_event") is None


async def test_past_a_limit_of_the_target(daemon: Running) -> None:
    """What came past a limit is counted as zero, and told with its units."""
    await daemon.subscribe("acme", startsAt="2026-09-01T00:00:00Z")
    for _ in range(3):
        await use(daemon, "acme", 12_000)
    (item,) = (await post(daemon, **ASKED))["items"]
    assert item["features"][0]["pastLimit"] == {"limit": 20_000, "events": 1, "usageUnits": 12_000}
    assert [each["code"] for each in item["notes"]] == ["past_limit"]


# Who, and when


async def test_everybody_some_and_those_on_a_plan(daemon: Running) -> None:
    """Without names all who were there; by name, or on a plan, only those; nobody's events count in the range."""
    await acme(daemon)
    await daemon.subscribe("basic", "team", startsAt="2026-09-01T00:00:00Z")
    await use(daemon, "stray", 500)

    async def names(**asked: Any) -> list[str]:
        return [each["customerReferenceId"] for each in (await post(daemon, **ASKED, **asked))["items"]]

    assert await names() == ["acme", "basic", "stray"]
    assert await names(customerReferenceIds=["stray", "acme"]) == ["stray", "acme"]
    assert await names(onPlanKey="pro") == ["acme"]
    assert await names(onPlanKey="pro", customerReferenceIds=["acme", "basic"]) == ["acme"]
    stray = (await post(daemon, **ASKED, customerReferenceIds=["stray"]))["items"][0]
    assert (stray["was"]["exact"], stray["wouldBe"]["exact"]) == (0, 30)
    assert stray["subscriptions"][0]["priceVersions"] == []


async def test_pages_add_up(daemon: Running) -> None:
    """Customer by customer, the pages' totals are the whole's."""
    await acme(daemon)
    for number in range(4):
        await use(daemon, f"stray-{number}", 1_000 * number + 1)
    whole = await post(daemon, **ASKED)
    pages = [await post(daemon, **ASKED, limit=2, offset=offset) for offset in (0, 2, 4)]
    assert [page["pagination"]["hasMore"] for page in pages] == [True, True, False]
    assert [item for page in pages for item in page["items"]] == whole["items"]
    for side in ("was", "wouldBe", "difference"):
        assert sum(page["total"][side]["exact"] for page in pages) == whole["total"][side]["exact"]
    assert {page["pagination"]["total"] for page in pages} == {5}
    assert (await post(daemon, **ASKED, limit=5))["pagination"]["hasMore"] is False


async def test_who_cannot_be_compared_is_named(daemon: Running) -> None:
    """A year that begins elsewhere, another currency, another plan, nothing at all: left out, with the reason."""
    await daemon.subscribe("yearly", "yearly", startsAt="2026-09-01T00:00:00Z")
    await daemon.subscribe("acme", startsAt="2026-09-01T00:00:00Z")
    await post(daemon, f"{CLIENT}/customers", expect=201, customerReferenceId="quiet")

    async def left_out(**asked: Any) -> list[tuple[str, str]]:
        answer = await post(daemon, **{**ASKED, **asked})
        return [(each["customerReferenceId"], each["reason"]) for each in answer["leftOut"]]

    assert await left_out() == [("yearly", "no_period")]
    assert await left_out(month="2026-09") == []
    assert await left_out(customerReferenceIds=["quiet"]) == [("quiet", "nothing")]
    assert await left_out(onPlanKey="team", customerReferenceIds=["acme"]) == [("acme", "not_on_plan")]
    assert await left_out(onPlanKey="yearly") == [("yearly", "no_period")]
    assert await left_out(planKey="euro", customerReferenceIds=["acme"]) == [("acme", "currency")]


async def test_start_and_end(daemon: Running) -> None:
    """Dates and instants make a range, of which the end is not a part."""
    await acme(daemon)
    whole = await post(daemon, planKey="team", start="2026-09-01", end="2026-11-01T00:00:00Z")
    assert whole["items"][0]["subscriptions"][0]["periods"] == 2
    assert whole["items"][0]["events"] == 5
    later = await post(daemon, planKey="team", start="2026-10-01T00:00:00.000001Z", end="2026-11-01")
    assert later["items"] == []
    assert later["leftOut"][0]["reason"] == "no_period"


async def test_a_test_clock_is_the_customer_s_own_now(daemon: Running) -> None:
    """Who is on a test clock has the periods that its own time has begun."""
    await daemon.subscribe("acme", startsAt="2026-09-01T00:00:00Z")
    (account,) = [each async for each in _accounts(daemon, "acme")]
    daemon.core.clock.standing[account] = NOW + 40 * DAY_US
    answer = await post(daemon, planKey="team", start="2026-12-01", end="2027-06-01")
    assert answer["items"][0]["subscriptions"][0]["periods"] == 1
    daemon.core.clock.standing.clear()
    assert (await post(daemon, planKey="team", start="2026-12-01", end="2027-06-01"))["items"] == []


async def _accounts(daemon: Running, reference: str) -> AsyncIterator[str]:
    rows = await daemon.core.books.read(
        lambda books: books.execute("SELECT id FROM customers WHERE reference = ?", (reference,)).fetchall()
    )
    for (customer_id,) in rows:
        yield customer_id


# What is refused


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"planKey": "team"}, "month: is required: a month such as 2026-03, or start and end"),
        ({"planKey": "team", "start": "2026-10-01"}, "end: is required"),
        ({**ASKED, "end": "2026-10-01"}, "month: cannot stand beside start and end"),
        ({**ASKED, "month": "2026-13"}, "month: must be a year and a month"),
        ({"planKey": "team", "start": "2026-10-01", "end": "2026-10-01"}, "end: must be after start"),
        ({"planKey": "team", "start": "2026-10-01T00:00:00", "end": "2026-11-01"}, "start: must be a date"),
        ({"planKey": "team", "start": "2001-01-01", "end": "2026-11-01"}, "end: must be at most 3660 days"),
        ({"planKey": "team", "start": "1999-01-01", "end": "2026-11-01"}, "start: must lie in the years 2000"),
        (
            {**ASKED, "planKey": "teem"},
            "planKey: there is no plan 'teem'; did you mean 'team'? There are euro, pro",
        ),
        ({**ASKED, "planKey": "pro@7"}, "planKey: plan 'pro' has no version '7'; the newest is pro@1"),
        ({**ASKED, "onPlanKey": "x"}, "onPlanKey: there is no plan 'x'; there are euro, pro, team, yearly"),
        ({**ASKED, "catalog": "[[plans]]"}, "catalog: plans[0]: Object missing required field `key`"),
        (
            {**ASKED, "catalog": CATALOG.replace('"49.00"', '"49.001"')},
            "catalog: plans.pro.price_amount: must have",
        ),
        ({**ASKED, "planKey": "x", "catalog": CATALOG}, "planKey: catalog has no plan 'x'; there are"),
        ({**ASKED, "limit": 501}, "limit: must be 1 to 500"),
        ({**ASKED, "offset": -1}, "offset: must be 0 to"),
        ({**ASKED, "customerReferenceIds": ["a"] * 501}, "customerReferenceIds: must be at most 500"),
        ({**ASKED, "customer": "acme"}, "customer: is not a field here"),
    ],
)
async def test_what_is_asked_wrongly_is_refused_with_the_field(
    daemon: Running, body: dict[str, Any], words: str
) -> None:
    """The message names the field and says what to write instead."""
    error = await post(daemon, expect=400, **body)
    assert error["code"] == "validation_failed"
    assert error["message"].startswith(f"Validation failed: {words}")


async def test_customers_that_nobody_knows_are_named(daemon: Running) -> None:
    """A misspelt customer is an error, not an empty answer."""
    await acme(daemon)
    error = await post(daemon, expect=404, **ASKED, customerReferenceIds=["acme", "acne", "x"])
    assert error["message"] == "there is no customer 'acne' nor 'x'"


async def test_only_an_admin_may_ask(daemon: Running) -> None:
    """What a customer pays is not for keys that only read."""
    reply = await daemon.http.post(WHAT_IF, json=ASKED, headers=await daemon.key_for("read", "ingest"))
    assert reply.status_code == 403


async def test_the_socket_answers_the_same(daemon: Running) -> None:
    """The socket's `whatif` takes the same body and gives the same data."""
    await acme(daemon)
    async with connected(daemon.core.config.socket_path or "") as peer:
        result = await peer.result("whatif", **ASKED)
    assert result == (await daemon.http.post(WHAT_IF, json=ASKED)).json()["data"]


# Bounds


async def test_one_at_a_time(daemon: Running) -> None:
    """While one is answered, another is told to come again: 429, nothing queued."""
    what_ifs = WhatIfs(daemon.core)
    what_ifs._limiter.acquire_on_behalf_of_nowait("somebody")
    with pytest.raises(ProblemError) as refused:
        await what_ifs.answer(msgspec.json.encode(ASKED))
    assert refused.value.problem.code is Code.RATE_LIMITED


async def test_what_takes_too_long_is_given_up(daemon: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer then says what to do, and the thread ends at its next look."""
    monkeypatch.setattr(whatif, "TIME_MAX_S", 0)
    with pytest.raises(ProblemError, match="ask for fewer customers at a time") as refused:
        await WhatIfs(daemon.core).answer(msgspec.json.encode(ASKED))
    assert refused.value.problem.code is Code.UNAVAILABLE
    stop = whatif._Stop()
    stop.check(Progress(0, 1))
    stop.asked = True
    with pytest.raises(ProblemError):
        stop.check(Progress(0, 1))


async def test_the_daemon_goes_on_meanwhile(daemon: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop turns, and events are recorded, while a what-if waits in the middle of a customer."""
    await acme(daemon)
    entered, leave = trio.Event(), trio.Event()
    streamed = whatif_rows.events_of

    def slowly(*asked: Any) -> Any:
        for row in streamed(*asked):
            trio.from_thread.run_sync(entered.set)
            trio.from_thread.run(leave.wait)
            yield row

    monkeypatch.setattr(whatif_rows, "events_of", slowly)
    found: list[Any] = []

    async def ask() -> None:
        found.append(await post(daemon, **ASKED))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await entered.wait()
        await use(daemon, "acme", 1)
        leave.set()
    assert found[0]["items"][0]["events"] == 4  # one customer is one consistent view
