"""The way in: a key counts once, whoever races, and an answer means that it is durable (P1, P2)."""

from functools import partial
from pathlib import Path

import trio

from support import CATALOG, ingest, open_test_core, reference, request, rows, subscribe
from tallyd.actors.mailbox import CAPACITY
from tallyd.actors.messages import Accepted, Duplicate, Record, Refused
from tallyd.core import Core
from tallyd.model.problems import Code, Problem


async def used(core: Core, customer: str = "acme") -> list[str]:
    """Units of the customer's counters, as they are on disk."""
    found = await rows(
        core,
        "SELECT used FROM counters JOIN customers ON number = customer WHERE reference = ? ORDER BY period_start",
        customer,
    )
    return [each[0] for each in found]


async def test_two_identical_requests_at_once_leave_one_row_and_the_loser_sees_a_duplicate(tmp_path: Path) -> None:
    """A race of ten requests with one key: one is recorded, nine see the original (A5)."""
    async with open_test_core(tmp_path) as core:
        await subscribe(core, "acme")
        outcomes = []

        async def send() -> None:
            outcomes.extend(await ingest(core, request("acme", "key-1", usage_units=7)))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(send)
        accepted = [each for each in outcomes if isinstance(each, Accepted)]
        assert len(accepted) == 1
        assert [each for each in outcomes if each not in accepted] == [Duplicate(accepted[0].row.id, True)] * 9
        assert await used(core) == ["7"]


async def test_a_race_of_two_bodies_under_one_key_is_one_event_and_one_conflict(tmp_path: Path) -> None:
    """The loser whose body differs is told so: a conflict, not a retry."""
    async with open_test_core(tmp_path) as core:
        outcomes = await ingest(core, request("acme", "k", usage_units=1), request("acme", "k", usage_units=2))
        assert isinstance(outcomes[0], Accepted)
        assert outcomes[1] == Duplicate(outcomes[0].row.id, same_body=False)


async def test_a_key_twice_in_one_batch_counts_once(tmp_path: Path) -> None:
    """The second of two equal keys in a batch is the first one's duplicate; the others are untouched."""
    async with open_test_core(tmp_path) as core:
        await subscribe(core, "acme")
        outcomes = await ingest(core, *(request("acme", key) for key in ("a", "b", "a", "c")))
        kinds = [type(each) for each in outcomes]
        assert kinds == [Accepted, Accepted, Duplicate, Accepted]
        assert await used(core) == ["3"]


async def test_a_key_is_taken_for_every_customer(tmp_path: Path) -> None:
    """Keys are unique across the account: another customer's event under the same key is refused (P2)."""
    async with open_test_core(tmp_path) as core:
        await ingest(core, request("acme", "k"))
        (outcome,) = await ingest(core, request("other", "k"))
        assert isinstance(outcome, Duplicate)
        assert await rows(core, "SELECT count(*) FROM events") == [(1,)]


async def test_a_key_is_known_after_a_restart(tmp_path: Path) -> None:
    """Books opened again remember every key, its event and its body (P2)."""
    async with open_test_core(tmp_path) as core:
        (first,) = await ingest(core, request("acme", "k"))
    async with open_test_core(tmp_path) as core:
        (again,) = await ingest(core, request("acme", "k"))
        assert isinstance(first, Accepted)
        assert again == Duplicate(first.row.id, same_body=True)


async def test_events_without_a_key_are_all_counted(tmp_path: Path) -> None:
    """No key, no duplicate: the same body twice is two events (B1)."""
    async with open_test_core(tmp_path) as core:
        await subscribe(core, "acme")
        await ingest(core, *(request("acme") for _ in range(5)))
        assert await used(core) == ["5"]


async def test_a_batch_of_many_customers_is_answered_in_its_order(tmp_path: Path) -> None:
    """Parts go to their customers and come back in place; a refused key does not sink the others."""
    async with open_test_core(tmp_path) as core:
        await ingest(core, request("c2", "known"))
        wanted = [request(f"c{number % 5}", f"k{number}") for number in range(50)]
        wanted.insert(17, request("c2", "known"))
        outcomes = await ingest(core, *wanted)
        assert [index for index, each in enumerate(outcomes) if isinstance(each, Duplicate)] == [17]
        keys = [each.row.key for each in outcomes if isinstance(each, Accepted)]
        assert keys == [each.event.key for each in wanted if each.event.key != "known"]


async def test_an_answer_means_that_it_is_on_disk(tmp_path: Path) -> None:
    """When ingest returns, another connection finds the event, its charge, its counter and its ledger (P1)."""
    async with open_test_core(tmp_path) as core:
        await subscribe(core, "acme")
        before = await rows(core, "SELECT position FROM ledgers")
        await ingest(core, request("acme", "k", usage_units=3))
        assert await rows(core, "SELECT key FROM events") == [("k",)]
        assert await rows(core, "SELECT units, amount FROM charges") == [("3", "0.30")]
        assert await rows(core, "SELECT used, charged FROM counters") == [("3", "0.30")]
        assert await rows(core, "SELECT position - 1 FROM ledgers") == before


async def test_cancelling_the_wait_cancels_no_commit_and_keeps_no_claim(tmp_path: Path) -> None:
    """A client that leaves after its event was dispatched: it is recorded, and its retry is a duplicate."""
    async with open_test_core(tmp_path) as core:
        await subscribe(core, "acme")
        actor = core.directory.actor(reference("acme"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(ingest, core, request("acme", "k")))
            while not actor._mailbox and not actor._in_flight:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        (again,) = await ingest(core, request("acme", "k"))
        assert isinstance(again, Duplicate)
        assert await used(core) == ["1"]
        assert len(core.intake._claims) == 0


async def test_leaving_before_the_look_up_is_done_releases_the_claim(tmp_path: Path) -> None:
    """A client that leaves before anything was dispatched leaves nothing behind: its key is free."""
    async with open_test_core(tmp_path) as core:
        core.intake._index._filter.filled = False  # so that the key is looked up, though it is new
        with trio.CancelScope() as scope:
            scope.cancel()
            await ingest(core, request("acme", "k"))
        (again,) = await ingest(core, request("acme", "k"))
        assert isinstance(again, Accepted)
        assert len(core.intake._claims) == 0


async def test_a_full_mailbox_refuses_at_once(tmp_path: Path) -> None:
    """More messages than a mailbox holds: the surplus is told to retry instead of waiting (P11)."""
    async with open_test_core(tmp_path) as core:
        actor = core.directory.actor(reference("acme"))
        for number in range(CAPACITY):
            actor.post(Record([request("acme", f"filler-{number}").event]))
        (refused,) = await ingest(core, request("acme"))
        assert isinstance(refused, Problem)
        assert refused.code is Code.RATE_LIMITED
        assert core.counts.overloads == 1
        while actor._mailbox:
            await trio.lowlevel.checkpoint()
        (accepted,) = await ingest(core, request("acme"))
        assert isinstance(accepted, Accepted)


async def test_one_batch_from_two_hundred_consumers_admits_exactly_the_limit(tmp_path: Path) -> None:
    """Two hundred at once, each one unit, cap 100: a hundred admitted, a hundred told why not (P4)."""
    async with open_test_core(tmp_path) as core:
        await subscribe(core, "acme", "capped")
        outcomes = []

        async def one() -> None:
            outcomes.extend(await ingest(core, request("acme"), consuming=True))

        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(one)
        refused = [each for each in outcomes if isinstance(each, Refused)]
        assert len(refused) == 100
        assert {each.entitlement.reason for each in refused} == {"limit_reached"}
        assert await used(core) == ["100"]


async def test_a_refused_consume_leaves_nothing_and_its_key_may_be_used_again(tmp_path: Path) -> None:
    """A consume that did not fit is not in the books: not the event, not the customer, not the key."""
    async with open_test_core(tmp_path) as core:
        (refused,) = await ingest(core, request("nobody", "k"), consuming=True)
        assert isinstance(refused, Refused)
        assert await rows(core, "SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM customers)") == [
            (0,)
        ]
        await subscribe(core, "nobody", "capped")
        (admitted,) = await ingest(core, request("nobody", "k"), consuming=True)
        assert isinstance(admitted, Accepted)


async def test_without_auto_create_an_unknown_customer_is_refused_and_nothing_is_stored(tmp_path: Path) -> None:
    """`auto_create = false`: the event of a stranger is not found, and its key stays free."""
    async with open_test_core(tmp_path, CATALOG, customers__auto_create=False) as core:
        (refused,) = await ingest(core, request("stranger", "k"))
        assert isinstance(refused, Problem)
        assert refused.code is Code.NOT_FOUND
        assert await rows(core, "SELECT count(*) FROM events") == [(0,)]
        assert len(core.intake._claims) == 0
