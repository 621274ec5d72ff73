"""Usage that comes late, or is taken back, where an actor has to look further than the present period."""

from pathlib import Path
from typing import Any

from support import MODELS, NOW, at, ingest, open_test_core, reference, request, rows, subscribe
from tallyd.actors.messages import Accepted, Rerate, Void
from tallyd.api import billing
from tallyd.clock import FixedClock
from tallyd.core import Core
from tallyd.model.event import event_uuid
from tallyd.model.moments import DAY_US
from tallyd.store import sqlite
from tallyd.store.audit import audit

CATALOG = """
[[features]]
key = "api"
[[features]]
key = "chat"

[[plans]]
key = "pro"
name = "Pro"
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = "0.10" }
[[plans.features]]
feature = "chat"
pricing = { model = "llm_tokens", rates = { known = { input = 1, output = 2 } } }

[[plans]]
key = "yearly"
name = "Yearly"
interval_months = 12
[[plans.features]]
feature = "chat"
pricing = { model = "llm_tokens", rates = { known = { input = 1, output = 2 } } }
"""


def wait(core: Core, micros: int) -> None:
    """Let time pass."""
    assert isinstance(core.clock.system, FixedClock)
    core.clock.system.move(micros)


def findings(directory: Path) -> list[Any]:
    """What verify finds."""
    connection = sqlite.open_reader(directory / "data" / sqlite.FILE_NAME)
    try:
        return audit(connection, MODELS, lambda _done, _total: None).findings
    finally:
        connection.close()


async def end(core: Core) -> None:
    """End the one subscription there is."""
    ((found,),) = await rows(core, "SELECT id FROM subscriptions")
    await billing.cancel(core, await billing.find_subscription(core, found), "IMMEDIATE")


async def pay(core: Core) -> None:
    """Pay whatever is to be paid."""
    for (number,) in await rows(core, "SELECT number FROM invoices WHERE status IN ('DUE', 'PAST_DUE')"):
        await billing.mark_paid(core, event_uuid(number))


async def test_several_late_events_of_a_subscription_that_ended_long_ago(tmp_path: Path) -> None:
    """One batch may bring more than one: each makes an invoice due at once, and the next is taken all the same."""
    async with open_test_core(tmp_path, CATALOG) as core:
        await subscribe(core, "acme", starts_at=NOW - 90 * DAY_US)
        await end(core)
        wait(core, 60 * DAY_US)
        outcomes = await ingest(core, *(request("acme", at=NOW - day * DAY_US) for day in (5, 6, 40)))
        assert [type(each) for each in outcomes] == [Accepted] * 3
        assert await rows(core, "SELECT used FROM counters ORDER BY period_start") == [("1",), ("2",)]
    assert findings(tmp_path) == []


async def test_a_late_event_is_amended_after_the_end(tmp_path: Path) -> None:
    """What a void makes due at once does not stand in the way of the event in its place."""
    async with open_test_core(tmp_path, CATALOG) as core:
        await subscribe(core, "acme")
        (recorded,) = await ingest(core, request("acme", at=NOW - DAY_US, usage_units=7))
        assert isinstance(recorded, Accepted)
        await end(core)
        await pay(core)
        wait(core, 60 * DAY_US)
        message = Void(recorded.row.id, "a mistake", request("acme", at=NOW - DAY_US, usage_units=2).event)
        await core.intake.ask(reference("acme"), message)
        assert isinstance(message.outcome, Accepted)
        assert await rows(core, "SELECT used, events FROM counters") == [("2", 1)]
    assert findings(tmp_path) == []


async def test_a_voided_event_is_not_priced_again(tmp_path: Path) -> None:
    """It counts nothing any more, so a price that is found later charges nothing (P5)."""
    async with open_test_core(tmp_path, CATALOG) as core:
        await subscribe(core, "acme")
        asked = request("acme", feature_key="chat", usage_units=None, model="unknown", input_tokens=9)
        (recorded,) = await ingest(core, asked)
        assert isinstance(recorded, Accepted)
        await core.intake.ask(reference("acme"), Void(recorded.row.id, "a mistake"))
    async with open_test_core(
        tmp_path, CATALOG.replace("rates = { known", 'rates = { "*" = { input = 2, output = 2 }, known')
    ) as core:
        message = Rerate(recorded.row.id)
        await core.intake.ask(reference("acme"), message)
        assert not message.complete
        assert await rows(core, "SELECT charged, unpriced FROM counters") == [("0", 0)]
    assert findings(tmp_path) == []


async def test_late_usage_finds_its_counter_beside_a_longer_period(tmp_path: Path) -> None:
    """A counter that is billed long since is loaded when a late event counts on it, whatever else runs."""
    late = at("2026-09-20T00:00:00Z")
    async with open_test_core(tmp_path, CATALOG) as core:
        await subscribe(core, "acme", starts_at=at("2026-08-01T00:00:00Z"))
        await subscribe(core, "acme", "yearly", starts_at=at("2026-09-15T00:00:00Z"))
        await ingest(core, request("acme", at=late))
        wait(core, 20 * DAY_US)
        await ingest(core, request("acme", at=NOW))  # a period began, and what came late is billed
        await pay(core)
    async with open_test_core(tmp_path, CATALOG) as core:
        await ingest(core, request("acme", at=late))
        used = await rows(core, "SELECT used FROM counters WHERE period_start = ?", at("2026-09-01T00:00:00Z"))
        assert used == [("2",)]
    assert findings(tmp_path) == []
