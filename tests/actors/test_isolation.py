"""One customer's trouble stays its own (P8): plugins and events gone wrong, and neighbours who do not notice."""

from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.plugins_gone_wrong import (
    FATAL,
    Alternating,
    Fatal,
    Gate,
    Strange,
    StrangeDecimal,
    StrangeText,
    called,
    catalog,
    endless,
    fair,
    leaving,
    plugin,
    price_plugin,
    raising,
    scribbling,
    sleeping,
    step,
)
from support import PATIENCE_S, ingest, open_test_core, reference, request, rows, subscribe
from tallyd.actors import catalogue, worker
from tallyd.actors import customer as customer_actor
from tallyd.actors.messages import Accepted, Rerate
from tallyd.api.http.usage import Usage
from tallyd.core import Core
from tallyd.engine import entitlements, recording
from tallyd.engine.recording import Recorded
from tallyd.model.problems import Code, Problem
from tallyd.pricing import UNITS

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
    "subclass": StrangeDecimal(1),
}

STEPS: dict[str, Any] = {
    "endless": endless,
    "too many": lambda *_: [step()] * 10_001,
    "text": lambda *_: "abc",
    "no words": lambda *_: [step(words=None)],
    "long words": lambda *_: [step(words="x" * 1_001)],
    "half a character": lambda *_: [step(words="\ud800")],
    "text of its own": lambda *_: [step(words=StrangeText("w"))],
    "half a dimension": lambda *_: [step(dimension="\udfff")],
    "long dimension": lambda *_: [step(dimension="x" * 1_001)],
    "float": lambda *_: [step(amount=1.5)],
    "number of its own": lambda *_: [step(amount=StrangeDecimal(1))],
    "not a step": lambda *_: [object()],
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


async def explained(core: Core, customer: str) -> tuple[str | None, int]:
    """Ask for a customer's charges, as over HTTP; return the problem, and how many steps there are."""
    account = await core.directory.account(reference(customer))
    views = await Usage(core)._explained(account, core.clock.now())
    assert views is not None, "there was time"
    (feature,) = views[0]["features"]
    return feature.problem, len(feature.steps)


async def waited(gate: Gate, calls: int) -> None:
    """Wait until as many calls have come to a gate."""
    for _ in range(calls):
        assert await trio.to_thread.run_sync(partial(gate.calls.acquire, timeout=PATIENCE_S))


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


@pytest.mark.parametrize("name", FATAL)
async def test_nothing_a_model_raises_gets_out_of_its_thread(tmp_path: Path, name: str) -> None:
    """Interrupts, exits and cancellations of a plugin's own end neither the daemon nor the customer."""
    fatal = Fatal(name)
    async with open_test_core(
        tmp_path, catalog("bad"), plugins=[plugin(Strange("bad", fatal, fatal))], plugins__budget_ms=10_000
    ) as core:
        await subscribe(core, "acme", "bad")
        await subscribe(core, "neighbour", "plain")
        row = (await recorded(core, "acme")).row
        assert row.no_price == "plugin_error"
        assert await explained(core, "acme") == ("plugin_error", 0)
        await core.intake.ask(reference("acme"), Rerate(row.id))
        assert (await recorded(core, "neighbour")).row.revenue == "0.10"
        assert core.counts.actor_crashes == 0


@pytest.mark.parametrize("name", sorted(FATAL.keys() - {"KeyboardInterrupt"}))
async def test_an_inline_model_may_raise_all_but_an_interrupt(tmp_path: Path, name: str) -> None:
    """On the daemon's own thread an interrupt may be a person's; nothing else is anybody's but the plugin's."""
    fatal = Fatal(name)
    async with open_test_core(
        tmp_path, catalog("bad"), plugins=[plugin(Strange("bad", fatal, fatal))], plugins__inline=["bad"]
    ) as core:
        await subscribe(core, "acme", "bad")
        assert (await recorded(core, "acme")).row.no_price == "plugin_error"
        assert await explained(core, "acme") == ("plugin_error", 0)
        assert core.counts.actor_crashes == 0


@pytest.mark.parametrize("name", FATAL)
async def test_nothing_a_price_plugin_raises_gets_out_of_its_thread(tmp_path: Path, name: str) -> None:
    """The model has no price then, and its events say so."""
    async with open_test_core(tmp_path, plugins=[price_plugin(Fatal(name))]) as core:
        await subscribe(core, "acme")
        accepted = await recorded(core, "acme", model="gpt-4o", input_tokens=1)
        assert accepted.row.no_price == "unknown_model"
        assert core.counts.actor_crashes == 0


async def test_price_plugins_that_hang_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look-ups that hang take only threads of their own, a few; then plugins are not asked until one returns."""
    monkeypatch.setattr(catalogue, "PRICE_LOOKUP_MAX_S", 0.01)
    gate = Gate()
    async with open_test_core(tmp_path, plugins=[price_plugin(lambda *_: gate({}, {UNITS: None}))]) as core:
        try:
            for number in range(6):
                accepted = await recorded(core, "acme", model=f"model-{number}", input_tokens=1)
                assert accepted.row.no_price == "unknown_model"
            await waited(gate, catalogue.PRICE_LOOKUPS_MAX)
            assert not gate.calls.acquire(blocking=False)
        finally:
            gate.open.set()


@pytest.mark.parametrize("name", STEPS)
async def test_an_explanation_that_cannot_be_sent_is_refused(tmp_path: Path, name: str) -> None:
    """Endless, huge or broken steps are named as the plugin's problem; what was charged stands."""
    async with open_test_core(
        tmp_path, catalog("bad"), plugins=[plugin(Strange("bad", fair, STEPS[name]))], plugins__budget_ms=10_000
    ) as core:
        await subscribe(core, "acme", "bad")
        assert (await recorded(core, "acme", usage_units=4)).row.revenue == "8"
        assert await explained(core, "acme") == ("plugin_invalid", 0)


async def test_a_model_that_never_ends_explaining_starves_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty ask for charges that hang: all get an answer, and events and charges of others are as ever."""
    monkeypatch.setattr(worker, "CALL_BUDGETS", 1)
    gate = Gate()
    async with open_test_core(
        tmp_path,
        catalog("slow", "good"),
        plugins=[plugin(Strange("slow", fair, gate), Strange("good", fair, lambda *_: [step()]))],
        plugins__budget_ms=500,
    ) as core:
        try:
            for name in ("slow", "good", "plain"):
                await subscribe(core, name, name)
            answers: list[Any] = []

            async def ask() -> None:
                answers.append(await explained(core, "slow"))

            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(ask)
                await waited(gate, worker.EXPLAINING_MAX)
                assert (await recorded(core, "good")).row.revenue == "2"
                assert await explained(core, "plain") == (None, 1)
                assert not answers, "all of this happened while the threads hung"
            assert answers == [("plugin_timeout", 0)] * 20
            assert core.runtime.worker.timeouts == worker.EXPLAINING_MAX
            assert await explained(core, "good") == (None, 1)
            assert (await recorded(core, "slow")).row.revenue == "2", "who cannot explain can still charge"
        finally:
            gate.open.set()
        with trio.fail_after(PATIENCE_S):
            while (await explained(core, "slow"))[0] == "plugin_timeout":
                await trio.lowlevel.checkpoint()


async def test_events_of_a_model_that_hangs_take_no_thread_from_others(tmp_path: Path) -> None:
    """More customers hang than there are threads; then another plugin's events are priced all the same."""
    gate = Gate()
    names = [f"c{number}" for number in range(worker.DECIDING_MAX + 4)]
    async with open_test_core(
        tmp_path,
        catalog("slow", "good"),
        plugins=[plugin(Strange("slow", gate), Strange("good", fair))],
        plugins__budget_ms=500,
    ) as core:
        try:
            for name in names:
                await subscribe(core, name, "slow")
            await subscribe(core, "good", "good")
            reasons: list[str | None] = []

            async def one(name: str) -> None:
                reasons.append((await recorded(core, name)).row.no_price)

            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(one, name)
            assert reasons == ["plugin_timeout"] * len(names)
            assert core.runtime.worker.timeouts == worker.DECIDING_MAX
            assert (await recorded(core, "good")).row.revenue == "2"
        finally:
            gate.open.set()


async def test_a_model_that_hangs_in_a_re_rating_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Re-ratings that hang are abandoned, counted against the model, and leave other re-ratings be."""
    monkeypatch.setattr(worker, "CALL_BUDGETS", 1)
    gate = Gate()
    slow = Alternating(*[None] * 6, *[gate] * 6)
    good = Alternating(None, fair)
    async with open_test_core(
        tmp_path,
        catalog("slow", "good"),
        plugins=[plugin(Strange("slow", called(slow)), Strange("good", called(good)))],
        plugins__budget_ms=500,
    ) as core:
        try:
            await subscribe(core, "acme", "slow")
            await subscribe(core, "good", "good")
            made = [(await recorded(core, name)).row for name in ("acme",) * 6 + ("good",)]
            assert {row.no_price for row in made} == {"plugin_invalid"}
            for row in made[:6]:
                await core.intake.ask(reference("acme"), Rerate(row.id))
            assert core.runtime.worker.timeouts == worker.STUCK_MAX + 1
            again = Rerate(made[6].id)
            await core.intake.ask(reference("good"), again)
            assert again.complete
        finally:
            gate.open.set()


async def test_plans_of_inline_models_need_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Charges are explained and events re-rated at once, whatever the worker is doing."""
    good = Alternating(None, fair)
    async with open_test_core(
        tmp_path, catalog("good"), plugins=[plugin(Strange("good", called(good)))], plugins__inline=["good"]
    ) as core:
        monkeypatch.setattr(core.runtime, "worker", None)
        await subscribe(core, "acme", "good")
        row = (await recorded(core, "acme")).row
        assert row.no_price == "plugin_invalid"
        again = Rerate(row.id)
        await core.intake.ask(reference("acme"), again)
        assert again.complete
        assert await explained(core, "acme") == (None, 0)


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
        before = (await core.directory.account(reference("acme"))).position
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
        assert (await recorded(core, "acme")).row.position == before + 3
        positions = await rows(core, "SELECT position FROM events WHERE customer = 1 ORDER BY position")
        assert positions == [(before + 1,), (before + 2,), (before + 3,)]


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
