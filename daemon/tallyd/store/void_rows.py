"""What has to be read of an event before it is taken back."""

import sqlite3
from collections.abc import Callable

from tallyd.engine import voiding
from tallyd.engine.rating import PricedFeature
from tallyd.engine.rows import ChargeRow, EventRow
from tallyd.engine.voiding import ToVoid
from tallyd.model.ledger_entries import EntryKind
from tallyd.model.problems import Code, Problem, ProblemError
from tallyd.store import credit_rows, event_rows

FeatureOf = Callable[[ChargeRow], PricedFeature | None]
"""Returns the feature a charge is of, as its plan has it."""


def to_void(connection: sqlite3.Connection, number: int, feature_of: FeatureOf) -> ToVoid:
    """Return an event with all it did.

    Where a feature's meter does not simply add, the other events that count are needed, too.

    Raises:
        ProblemError: it has been voided already.
    """
    row, charges = event_rows.event_with_charges(connection, number)
    caused = credit_rows.entries_of_event(connection, number)
    if any(entry.kind == EntryKind.EVENT_VOIDED for entry in caused):
        raise ProblemError(Problem(code=Code.CONFLICT, message="the event has been voided already"))
    reversed_ = {entry.reverses for entry in caused}
    deductions = [each for each in caused if each.kind == EntryKind.DEDUCTION and each.id not in reversed_]
    return ToVoid(
        row=row,
        charges=charges,
        rest={
            charge.feature: _beside(connection, charge, ever=feature.accumulates)
            for charge in charges
            if (feature := feature_of(charge)) is not None and voiding.runs(feature.meter)
        },
        deductions=[(entry, credit_rows.to_reverse(connection, entry.id)[1]) for entry in deductions],
    )


def is_voided(connection: sqlite3.Connection, number: int) -> bool:
    """Say whether an event has been taken back."""
    found = connection.execute(
        "SELECT 1 FROM ledger_entries WHERE event = ? AND kind = 'EVENT_VOIDED'", (number,)
    ).fetchone()
    return found is not None


def _beside(connection: sqlite3.Connection, charge: ChargeRow, *, ever: bool) -> list[EventRow]:
    """Return the other events that count with a charge, in its period or ever, and are not voided; in order."""
    rows = connection.execute(
        "SELECT events.* FROM charges CROSS JOIN events ON events.id = charges.event"
        " WHERE charges.subscription = ? AND charges.feature = ? AND (? OR charges.period_start = ?)"
        " AND charges.event <> ?"
        " AND NOT (charges.units = '0' AND charges.amount = '0' AND charges.quantity = '{}')"
        " AND NOT EXISTS"
        " (SELECT 1 FROM ledger_entries AS voids WHERE voids.event = events.id AND voids.kind = 'EVENT_VOIDED')"
        " ORDER BY events.id",
        (charge.subscription, charge.feature, ever, charge.period_start, charge.event),
    )
    return [EventRow(*row) for row in rows]
