"""One customer's trouble stays its own (P8): plugins and events gone wrong, and neighbours who do not notice."""

from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.plugins_gone_wrong import (
    Alternating,
    Gate,
    Strange,
    catalog,
    leaving,
    plugin,
    raising,
    scribbling,
    sleeping,
)
from support import PATIENCE_S, ingest, open_test_core, reference, request, rows, subscribe
from tallyd.actors import customer as customer_actor
from tallyd.actors.messages import Accepted
from tallyd.core import Core
from tallyd.engine import entitlements, recording
from tallyd.engine.recording import Recorded
from tallyd.model.problems import Code, Problem

NONSENSE: dict[str, Any] = {
    "float": 1.5,
    "nan": Decimal("NaN"),
    "snan": Decimal("sNaN"),
    "infinity": Decimal("Infinity"),
    "none": None,
    "str": "1.00",
    "int": 1,
    "huge": Decimal("1E+5000"),
    "tiny": Decimal("1E-5000"),
    "long": Decimal("1" * 5000),
}


async def recorded(core: Core, customer: str, **fields: Any) -> Accepted:
    """Record one event that must be taken."""
    (outcome,) = await ingest(core, request(customer, **fields))
    assert isinstance(outcome, Accepted), outcome
    return outcome


async def used(core: Core, customer: str) -> list[tuple[Any, ...]]:
    """Used, charged and unpriced, as they are on disk."""
    return await rows(
        core,
        "SELECT used, charged, unpriced FROM counters JOIN customers ON number = customer WHERE reference = ?",
        customer,
    )


@pytest.mark.parametrize("inline", [False, True])
async def test_a_model_that_raises_leaves_the_event_recorded_and_unpriced(tmp_path: Path, *, inline: bool) -> None:
    """Whatever it raises, on a worker thread or on the daemon's own: usage counts, and the reason is plain."""
    names = {"included", "usage", "graduated", "llm_tokens"} | ({"bad"} if inline else set())
    async with open_test_core(
        tmp_path, catalog("bad"), plugins=[plugin(Strange("bad", raising))], plugins__inline=sorted(names)
    ) as core:
        await subscribe(core, "acme", "bad")
        await subscribe(core, "neighbour", "plain")
        assert (await recorded(core, "acme", usage_units=4)).row.no_price == "plugin_error"
        assert await used(core, "acme") == [("4", "0", 1)]
        assert (await recorded(core, "neighbour")).row.revenue == "0.10"
        assert core.counts.actor_crashes == 0


@pytest.mark.parametrize("name", NONSENSE)
async def test_a_model_that_returns_nonsense_leaves_the_event_recorded_and_unpriced(
    tmp_path: Path, name: str
) -> None:
    """Anything but a finite Decimal of sane size is no amount, and says so."""
    async with open_test_core(
        tmp_path, catalog("bad"), plugins=[plugin(Strange("bad", lambda *_: NONSENSE[name]))]
    ) as core:
        await subscribe(core, "acme", "bad")
        assert (await recorded(core, "acme", usage_units=4)).row.no_price == "plugin_invalid"
        assert await used(core, "acme") == [("4", "0", 1)]
        assert core.counts.actor_crashes == 0


async def test_amounts_at_both_ends_of_what_is_let_through_can_be_summed(tmp_path: Path) -> None:
    """The largest and the finest amount that pass the check add up exactly, without crashing the customer."""
    ends = [Decimal("9" * 60 + "E+1"), Decimal("1E-60"), Decimal("1." + "1" * 120), Decimal("9E+60")]
    async with open_test_core(
        tmp_path, catalog("bad"), plugins=[plugin(Strange("bad", Alternating(*ends)))]
    ) as core:
        await subscribe(core, "acme", "bad")
        accepted = [await recorded(core, "acme") for _ in ends]
        charged = sum(Decimal(each.row.revenue) for each in accepted if each.row.revenue is not None)
        assert Decimal((await used(core, "acme"))[0][1]) == charged
        assert core.counts.actor_crashes == 0


async def test_a_model_that_wants_to_end_the_process_does_not(tmp_path: Path) -> None:
    """`sys.exit()` in a plugin is a mistake like any other."""
    async with open_test_core(tmp_path, catalog("bad"), plugins=[plugin(Strange("bad", leaving))]) as core:
        await subscribe(core, "acme", "bad")
        assert (await recorded(core, "acme")).row.no_price == "plugin_error"


@pytest.mark.parametrize("inline", [False, True])
async def test_a_model_cannot_write_on_what_it_was_lent(tmp_path: Path, *, inline: bool) -> None:
    """A model that changes its arguments changes nobody's books, not even a neighbour's first event."""
    names = ["usage", "scribble"] if inline else ["usage"]
    text = catalog("scribble").replace(
        '"usage", usage_unit_type = "u", price_per_unit = "0.10"',
        '"graduated", usage_unit_type = "u", tiers = [{ up_to = 10, price_per_unit = 1 },'
        ' { up_to = "inf", price_per_unit = 0 }]',
    )
    async with open_test_core(
        tmp_path, text, plugins=[plugin(Strange("scribble", scribbling))], plugins__inline=names
    ) as core:
        await subscribe(core, "acme", "scribble")
        await subscribe(core, "neighbour", "plain")
        await recorded(core, "acme", usage_units=1)
        assert (await recorded(core, "neighbour", usage_units=1)).row.revenue == "1"


async def test_a_model_that_hangs_holds_nobody_else(tmp_path: Path) -> None:
    """While one customer's model sleeps, neighbours record and checks answer; then its event is unpriced."""
    async with open_test_core(
        tmp_path, catalog("slow"), plugins=[plugin(Strange("slow", sleeping))], plugins__budget_ms=400
    ) as core:
        await subscribe(core, "acme", "slow")
        await subscribe(core, "neighbour", "plain")
        finished: list[str] = []

        async def slow() -> None:
            outcome = await recorded(core, "acme", usage_units=4)
            assert outcome.row.no_price == "plugin_timeout"
            finished.append("acme")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow)
            for _ in range(20):
                await recorded(core, "neighbour")
                account = await core.directory.account(reference("neighbour"))
                assert entitlements.decide(account, "api", core.clock.now()).allowed
            finished.append("neighbour")
        assert finished == ["neighbour", "acme"]
        assert await used(core, "acme") == [("4", "0", 1)]
        assert core.runtime.worker.timeouts == 1


async def test_a_slow_model_within_its_budget_prices_many_customers_at_once(tmp_path: Path) -> None:
    """Calls that are merely under way do not count as hanging: eight customers at once are all priced."""
    gate = Gate()
    async with open_test_core(
        tmp_path, catalog("slow"), plugins=[plugin(Strange("slow", gate))], plugins__budget_ms=10_000
    ) as core:
        names = [f"c{number}" for number in range(8)]
        for name in names:
            await subscribe(core, name, "slow")
        outcomes: list[Accepted] = []

        async def one(name: str) -> None:
            outcomes.append(await recorded(core, name, usage_units=2))

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(one, name)
            with trio.move_on_after(PATIENCE_S):
                for _ in names:
                    if len(outcomes) == 0:
                        await trio.to_thread.run_sync(partial(gate.calls.acquire, timeout=2))
            gate.open.set()
        assert [each.row.no_price for each in outcomes] == [None] * 8
        assert [each.row.revenue for each in outcomes] == ["2"] * 8


async def test_a_model_that_keeps_hanging_is_left_alone_and_comes_back(tmp_path: Path) -> None:
    """After a few abandoned calls a model is not asked any more; once they have returned it is asked again."""
    gate = Gate()
    async with open_test_core(
        tmp_path, catalog("slow"), plugins=[plugin(Strange("slow", gate))], plugins__budget_ms=20
    ) as core:
        await subscribe(core, "acme", "slow")
        reasons = [(await recorded(core, "acme")).row.no_price for _ in range(6)]
        assert set(reasons) == {"plugin_timeout"}
        asked = core.runtime.worker.timeouts
        assert asked < 6
        gate.open.set()
        with trio.fail_after(PATIENCE_S):
            while (await recorded(core, "acme")).row.no_price is not None:
                await trio.lowlevel.checkpoint()


class Poison:
    """Deciding the events with this name raises what no rule raises."""

    def __init__(self, record: Callable[..., Recorded]) -> None:
        self._record = record

    def __call__(self, account: Any, event: Any, **arguments: Any) -> Recorded:
        """Decide, or crash."""
        if event.name == "poison":
            raise ZeroDivisionError("a defect")
        return self._record(account, event, **arguments)


@pytest.fixture
def poisonous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the engine a defect, and let the actor come back at once."""
    monkeypatch.setattr(recording, "record", Poison(recording.record))
    monkeypatch.setattr(customer_actor, "BACKOFF_FIRST_S", 0)


@pytest.mark.usefixtures("poisonous")
async def test_an_event_that_crashes_the_actor_twice_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    """The poison alone is refused; its batch, its customer and its neighbours are recorded, each event once."""
    async with open_test_core(tmp_path) as core:
        await subscribe(core, "acme")
        await subscribe(core, "neighbour")
        batch = [
            request("acme", "a"),
            request("acme", "bad", name="poison"),
            request("acme", "b"),
            request("neighbour", "n"),
        ]
        outcomes = await ingest(core, *batch)
        assert [isinstance(each, Accepted) for each in outcomes] == [True, False, True, True]
        assert isinstance(outcomes[1], Problem)
        assert outcomes[1].code is Code.POISON
        assert core.counts.actor_crashes == 2
        assert await used(core, "acme") == [("2", "0.20", 0)]
        assert (await recorded(core, "acme")).row.position == 3
        positions = await rows(core, "SELECT position FROM events WHERE customer = 1 ORDER BY position")
        assert positions == [(1,), (2,), (3,)]


@pytest.mark.usefixtures("poisonous")
async def test_a_feature_first_named_beside_a_poison_is_kept(tmp_path: Path) -> None:
    """The feature of a batch that crashed once is in the books like any other."""
    async with open_test_core(tmp_path) as core:
        await ingest(core, request("acme", "a", feature_key="brand-new"), request("acme", "bad", name="poison"))
        assert await rows(core, "SELECT key FROM features WHERE key = 'brand-new'") == [("brand-new",)]


@pytest.mark.usefixtures("poisonous")
async def test_a_poison_s_key_is_free_again(tmp_path: Path) -> None:
    """A refused poison is not recorded, so the key may be used once the event is put right."""
    async with open_test_core(tmp_path) as core:
        await ingest(core, request("acme", "k", name="poison"))
        (outcome,) = await ingest(core, request("acme", "k"))
        assert isinstance(outcome, Accepted)


@pytest.mark.usefixtures("poisonous")
async def test_a_crashed_customer_comes_back_while_neighbours_keep_the_writer_busy(tmp_path: Path) -> None:
    """Recovery waits for the customer's own commits, not for the whole daemon to fall silent."""
    async with open_test_core(tmp_path) as core:
        async with trio.open_nursery() as nursery:

            async def busy(name: str) -> None:
                while True:
                    await ingest(core, request(name))

            for number in range(20):
                nursery.start_soon(busy, f"neighbour-{number}")
            with trio.move_on_after(5) as patience:
                await ingest(core, request("acme", "k", name="poison"))
            nursery.cancel_scope.cancel()
        assert not patience.cancelled_caught
