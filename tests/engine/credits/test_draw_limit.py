"""How much of a pool a plan lets a subscription draw in a period."""

from decimal import Decimal

from store.credit_books import DAY, Bookkeeper
from tallyd.engine import recording
from tallyd.model.credits import HoldStatus
from tallyd.model.ledger_entries import EntryKind

LIMIT = 90
"""Credits a period that the plan of the books lets be drawn of `tokens`; a call costs 1.5 of them."""


def test_what_a_hold_keeps_counts_while_it_is_settled() -> None:
    """Credits that have run out when the usage happens stay set aside; what is drawn instead fits beside them."""
    books = Bookkeeper()
    books.give("tokens", "60", expires_at=books.now + 25 * DAY)
    hold = books.reserve("api", "40", ttl=20 * DAY)
    assert hold is not None
    assert books.pool("tokens").held == 60
    later = books._event("api", "30", -26 * DAY, {})
    books._record(recording.settle, later, hold=hold, final=False, written=HoldStatus.HELD)
    drawn = [entry for entry in books.entries() if entry.kind == EntryKind.DEDUCTION]
    assert [Decimal(entry.amount or 0) for entry in drawn] == [60 - LIMIT]
    assert books.pool("tokens").held == 60
