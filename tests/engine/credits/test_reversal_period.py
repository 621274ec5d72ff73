"""A reversal gives credits back, and no room under a draw limit."""

from decimal import Decimal

import pytest

from store.credit_books import DAY, Bookkeeper


@pytest.mark.parametrize(("wait", "drawn"), [(DAY, 9), (31 * DAY, 3)])
def test_a_reversal_leaves_what_was_drawn_of_a_draw_limit(wait: int, drawn: int) -> None:
    """Of six credits drawn and given back, and three drawn later, all nine count in their period."""
    books = Bookkeeper()
    first = books.use("api", "4")
    books.wait(wait)
    books.use("api", "2")
    books.reverse(next(entry.id for entry in books.entries() if entry.event == first))
    assert books.account.credits is not None
    (link,) = books.account.credits.links.values()
    assert link.drawn == Decimal(drawn)
