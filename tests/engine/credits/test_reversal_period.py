"""A reversal gives back to a draw limit only what was drawn in the period that still runs."""

from decimal import Decimal

import pytest

from store.credit_books import DAY, Bookkeeper


@pytest.mark.parametrize("wait", [DAY, 31 * DAY])
def test_a_reversal_gives_back_to_the_period_it_was_drawn_in(wait: int) -> None:
    """Six credits drawn and given back leave the three of the other event, in the same period or a later one."""
    books = Bookkeeper()
    first = books.use("api", "4")
    books.wait(wait)
    books.use("api", "2")
    books.reverse(next(entry.id for entry in books.entries() if entry.event == first))
    assert books.account.credits is not None
    (link,) = books.account.credits.links.values()
    assert link.drawn == Decimal(3)
