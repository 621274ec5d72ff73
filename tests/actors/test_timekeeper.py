"""The timekeeper: what falls due is written, for customers nobody speaks to, and after any time away."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel

from support import NOW, ingest, open_test_core, reference, request, rows, subscribe
from tallyd.actors.messages import Accepted, Change
from tallyd.clock import FixedClock
from tallyd.core import Core
from tallyd.engine import passing
from tallyd.engine.account import Account
from tallyd.engine.billing import paying
from tallyd.engine.credits.draft import Draft
from tallyd.model.invoice import InvoiceStatus
from tallyd.model.moments import DAY_US

CATALOG = """
[[features]]
key = "api"

[[plans]]
key = "pro"
name = "Pro"
price_amount = 10
billing_timing = "IN_ARREARS"
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = "0.10" }
"""


async def written_by(core: Core, moment: int) -> None:
    """Wait until nothing is due any more by a moment."""
    while await rows(core, "SELECT 1 FROM dues WHERE due_at <= ?", moment):
        await trio.lowlevel.checkpoint()
        await core.writer.drain()


def clock_of(core: Core) -> FixedClock:
    """The machine's clock."""
    assert isinstance(core.clock.system, FixedClock)
    return core.clock.system


async def test_periods_are_renewed_though_nobody_asks(tmp_path: Path) -> None:
    """When the clock passes a period's end, its invoice is closed and the next begins."""
    async with open_test_core(tmp_path, CATALOG) as core:
        for name in ("acme", "globex"):
            await subscribe(core, name, starts_at=NOW)
        clock_of(core).move(40 * DAY_US)
        core.runtime.due.wake()
        await written_by(core, core.clock.now())
        found = await rows(core, "SELECT status, count(*) FROM invoices GROUP BY status ORDER BY status")
        assert found == [("PAST_DUE", 2), ("PENDING", 2)]


async def test_after_a_year_away_every_missed_step_is_done_in_order_once(tmp_path: Path) -> None:
    """A daemon that was stopped for a year makes the twelve invoices it missed, each dated by its own period."""
    async with open_test_core(tmp_path, CATALOG) as core:
        await subscribe(core, "acme", starts_at=NOW)
    async with open_test_core(tmp_path, CATALOG) as core:
        clock_of(core).move(366 * DAY_US)
        core.runtime.due.wake()
        await written_by(core, core.clock.now())
        found = await rows(
            core, "SELECT serial, period_start, period_end, issued_at FROM invoices ORDER BY serial"
        )
        assert [row[0] for row in found] == list(range(1, 14))
        assert all(before[2] == after[1] for before, after in pairwise(found))
        assert all(issued == start for _, start, _, issued in found)


async def test_a_customer_whose_time_cannot_be_written_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect in one customer's renewal is logged and left alone for a while; the others are renewed (P8)."""
    async with open_test_core(tmp_path, CATALOG) as core:
        for name in ("acme", "globex", "initech"):
            await subscribe(core, name, starts_at=NOW)
        real = passing.pass_time

        def broken(account: Account, *args: Any, **kwargs: Any) -> Any:
            if account.customer.reference == "acme":
                raise ZeroDivisionError("a defect")
            return real(account, *args, **kwargs)

        monkeypatch.setattr("tallyd.actors.customer.pass_time", broken)
        clock_of(core).move(31 * DAY_US)
        core.runtime.due.wake()
        renewed: list[tuple[str]] = []
        while len(renewed) < 2:
            renewed = await rows(
                core,
                "SELECT reference FROM invoices JOIN customers ON customers.number = customer WHERE serial = 2"
                " ORDER BY reference",
            )
        assert renewed == [("globex",), ("initech",)]
        assert core.counts.actor_crashes


def pay_all(draft: Draft, _prepared: object) -> None:
    """Pay all that is to be paid."""
    for invoice in list(draft.account.invoices.values()):
        if invoice.status is not InvoiceStatus.PENDING:
            paying.pay(draft, invoice)


async def test_counters_of_long_ago_are_not_in_memory_until_somebody_needs_one(tmp_path: Path) -> None:
    """Of what is paid only the counters of the last two periods are loaded; a late event finds its own still."""
    async with open_test_core(tmp_path, CATALOG) as core:
        await subscribe(core, "acme", starts_at=NOW - 370 * DAY_US)
        for month in range(13):
            moment = NOW - (370 - 30 * month) * DAY_US
            await ingest(core, request("acme", at=moment, usage_units=1))
        clock_of(core).move(31 * DAY_US)
        core.runtime.due.wake()
        await written_by(core, core.clock.now())  # what came late is billed
        before = len((await core.directory.account(reference("acme"))).counters)
        await core.intake.ask(reference("acme"), Change(pay_all))
    async with open_test_core(tmp_path, CATALOG) as core:
        account = await core.directory.account(reference("acme"))
        assert (before, len(account.counters)) == (13, 1)  # nothing was used in the last period
        (outcome,) = await ingest(core, request("acme", at=NOW - 369 * DAY_US, usage_units=1))
        assert isinstance(outcome, Accepted)
        assert outcome.charges[0].used_before == "1"


async def lived(directory: Path, days: list[int]) -> list[tuple[Any, ...]]:
    """The books of a customer after some days, between which the daemon is stopped: what was decided, and when."""
    found: list[tuple[Any, ...]] = []
    for number, day in enumerate(days):
        async with open_test_core(directory, LIFE) as core:
            if not number:
                await subscribe(core, "acme", starts_at=NOW)
                await ingest(core, request("acme", at=NOW, usage_units=250))
                await subscribe(core, "acme", "prepaid", starts_at=NOW)
            clock_of(core).move(day * DAY_US)
            core.runtime.due.wake()
            await written_by(core, core.clock.now())
            invoices = "SELECT serial, kind, status, period_start, period_end, due_at, amount, lines FROM invoices"
            entries = "SELECT position, kind, cause, at, amount, balance_after FROM ledger_entries"
            found = [
                *await rows(core, f"{invoices} ORDER BY serial"),
                *await rows(core, f"{entries} ORDER BY position"),
            ]
    return found


LIFE = (
    CATALOG
    + """
[[credit_models]]
key = "tokens"
rollover = { policy = "CAPPED", cap = 5 }
recurring = { amount = 3, every = "week" }

[[plans]]
key = "prepaid"
name = "Prepaid"
credits = [{ credit_model = "tokens", amount = 10 }]
[[plans.features]]
feature = "api"
credit_model = "tokens"
"""
)


async def test_a_daemon_that_was_away_for_forty_days_has_the_books_of_one_that_ran_through(tmp_path: Path) -> None:
    """Every invoice, credit and date is the same, whether each day was written on its day or forty at once."""
    ran, away = tmp_path / "ran", tmp_path / "away"
    for directory in (ran, away):
        directory.mkdir()
    days = range(0, 100, 4)
    through = await lived(ran, [*days])
    assert through == await lived(away, [day for day in days if not 20 < day < 60])
    assert len(through) > 40
