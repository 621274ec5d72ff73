"""What-if over the books: streamed, customer by customer, in views that do not outlive a customer."""

import sqlite3
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Final

import pytest

from support import CATALOG, MODELS, NOW, at, ingest, open_test_core, request, subscribe
from tallyd.cli.whatif import BookPlans
from tallyd.engine.billing.stretches import Span
from tallyd.engine.billing.whatif import Compared
from tallyd.store import sqlite, whatif_rows
from tallyd.store.whatif import Progress, Question, WhatIf

OCTOBER: Final = Span(date(2026, 10, 1), date(2026, 11, 1))
WHEN: Final = at("2026-10-10T00:00:00Z")


async def books(directory: Path, *, customers: int = 3, events: int = 2) -> sqlite3.Connection:
    """Books with customers who all did the same in October."""
    async with open_test_core(directory) as core:
        for number in range(customers):
            await subscribe(core, f"customer-{number}", starts_at=at("2026-09-01T00:00:00Z"))
            await ingest(core, *(request(f"customer-{number}", at=WHEN) for _ in range(events)))
    return sqlite.open_reader(directory / "data" / "tallyd.db")


def asked(connection: sqlite3.Connection, seen: list[Progress], **fields: object) -> WhatIf:
    """October under the plan that all are on."""
    plans = BookPlans(connection, MODELS)
    question = Question(target=plans["pro", 1], span=OCTOBER, zone="UTC", **fields)  # type: ignore[arg-type]
    return WhatIf(
        connection,
        question,
        plans=plans,
        now_of=lambda _: NOW,
        progress=lambda progress: seen.append(Progress(*(getattr(progress, name) for name in FIELDS))),
    )


FIELDS: Final = Progress.__struct_fields__


async def test_progress_is_told_by_customers_and_their_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each customer, every so many events within one, and at the end, when all are done."""
    monkeypatch.setattr("tallyd.store.whatif.PROGRESS_EVERY", 2)
    connection = await books(tmp_path, customers=2, events=5)
    seen: list[Progress] = []
    list(asked(connection, seen).run())
    connection.close()
    assert [(each.customers, each.events, each.events_all) for each in seen] == [
        (0, 0, 0),
        (0, 2, 5),
        (0, 4, 5),
        (1, 0, 0),
        (1, 2, 5),
        (1, 4, 5),
        (2, 0, 0),
    ]
    assert {each.customers_all for each in seen} == {2}


async def test_no_view_is_held_between_customers(tmp_path: Path) -> None:
    """While a customer's answer is worked on, nothing keeps the daemon's log from being checkpointed."""
    connection = await books(tmp_path)
    found = []
    for each in asked(connection, []).run():
        assert not connection.in_transaction
        found.append(each)
    connection.close()
    assert len(found) == 3
    assert all(isinstance(each, Compared) and each.was.exact == Decimal("0.2") for each in found)


async def test_what_progress_raises_ends_the_run(tmp_path: Path) -> None:
    """So whoever waits no longer can stop it, and no transaction is left open."""
    connection = await books(tmp_path)
    what_if = asked(connection, [])

    def stop(progress: Progress) -> None:
        if progress.customers == 1:
            raise KeyboardInterrupt

    what_if._progress = stop
    run = what_if.run()
    next(run)
    with pytest.raises(KeyboardInterrupt):
        next(run)
    assert not connection.in_transaction
    connection.close()


async def test_a_page_of_customers(tmp_path: Path) -> None:
    """Offset and limit cut the customers, in order of their numbers; the count is of all."""
    connection = await books(tmp_path)
    what_if = asked(connection, [], offset=1, limit=1)
    (found,) = what_if.run()
    connection.close()
    assert found.customer.reference == "customer-1"
    assert what_if.customers_all == 3


async def test_customers_are_found_by_any_of_their_names(tmp_path: Path) -> None:
    """The app's id, tallyd's own, and Stripe's; somebody named twice is compared once."""
    connection = await books(tmp_path, customers=1)
    ((customer_id,),) = connection.execute("SELECT id FROM customers").fetchall()
    found = list(asked(connection, [], customers=("customer-0", customer_id)).run())
    assert [each.customer.id for each in found] == [customer_id]
    assert whatif_rows.customers_named(connection, ["nobody"]) == {"nobody": None}
    connection.close()


def test_events_are_streamed_in_ledger_order(tmp_path: Path) -> None:
    """SQLite sorts numbers only: no row of an event waits in memory for others."""
    connection = sqlite.open_writer(tmp_path / "tallyd.db")
    plan = connection.execute(f"EXPLAIN QUERY PLAN {whatif_rows._EVENTS}", (1, 0, 1)).fetchall()
    connection.close()
    words = " | ".join(row[-1] for row in plan)
    assert "SEARCH events USING INTEGER PRIMARY KEY" in words
    assert "TEMP B-TREE" not in words


async def test_a_version_that_came_meanwhile_is_read(tmp_path: Path) -> None:
    """A plan changed while the books are read is found when somebody turns out to be on it."""
    connection = await books(tmp_path, customers=1)
    plans = BookPlans(connection, MODELS)
    before = plans["pro", 1]
    async with open_test_core(tmp_path, CATALOG.replace('"0.10"', '"0.20"')):
        assert plans["pro", 2].price_version == "pro@2"
    assert plans["pro", 1] is before
    with pytest.raises(KeyError):
        plans["pro", 3]
    connection.close()
