"""Credits included with a plan, where the subscription takes a turn."""

from store.billing_books import DAY, Biller
from tallyd.engine.billing import changing
from tallyd.model.ledger_entries import Entry, EntryKind


def grants(books: Biller) -> list[tuple[str, str | None, int]]:
    """The credits that were given: cause, amount and instant."""
    made: list[Entry] = [entry for entry in books.entries() if entry.kind == EntryKind.GRANT]
    return [(entry.cause, entry.amount, entry.at) for entry in made]


def test_a_new_period_brings_its_own_credits_at_once() -> None:
    """An upgrade that begins a period gives what the new plan includes, not the difference; what is left ends."""
    books = Biller()
    number = books.subscribe("basic")
    books.pay_all()
    given = books.now
    books.wait(10 * DAY)
    books.upgrade(number, "yearly")
    assert grants(books) == [("withheld", "100", given), ("plan", "500", books.now)]
    ended = [entry.amount for entry in books.entries() if entry.cause == "forfeit"]
    assert ended == ["-50"], "half of it is carried over"
    assert books.pool("tokens").balance == 550


def test_a_change_as_soon_as_a_period_has_begun_gives_the_difference() -> None:
    """The period's credits were given already, so only what the other plan includes beyond them comes."""
    books = Biller()
    number = books.subscribe("basic")
    books.pay_all()
    books.upgrade(number, "yearly")
    assert grants(books) == [("withheld", "100", books.now), ("upgraded", "400", books.now)]


def test_a_plan_that_is_left_and_taken_again_brings_nothing_twice() -> None:
    """Up, down and up again in one period: what came with the first change is all that comes."""
    books = Biller()
    number = books.subscribe("basic")
    books.pay_all()
    for plan in ("pro", "basic", "pro"):
        books.wait(DAY)
        books.upgrade(number, plan)
    assert [amount for _, amount, _ in grants(books)] == ["100", "50"]
    books.wait(31 * DAY)
    books.pay_all()
    assert [amount for _, amount, _ in grants(books)] == ["100", "50", "150"], "a new period brings all"


def test_what_never_begins_includes_nothing() -> None:
    """A subscription that is cancelled before its start gives no credits when that comes."""
    books = Biller()
    number = books.subscribe("pro", since=-3 * DAY)
    books.act(changing.cancel_now, number)
    books.wait(9 * DAY)
    books.use("api", "1")
    assert grants(books) == []


def test_usage_is_priced_again_by_the_plan_of_its_time() -> None:
    """What lacked a price under a plan gets that of the plan's newest version, whatever plan came after."""
    books = Biller()
    number = books.subscribe("basic")
    books.pay_all()
    event = books.use("chat", model="unknown", input_tokens=1000)
    books.wait(DAY)
    books.upgrade(number, "pro")
    books.rerate()
    rows = books.connection.execute("SELECT plan_key, plan_version, amount FROM charges WHERE event = ?", (event,))
    assert rows.fetchall() == [("basic", 2, "0.003000")]
