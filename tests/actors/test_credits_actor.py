"""Credits in their customer's hands: no overdraft, however many ask at once or whatever goes wrong."""

from collections.abc import Awaitable, Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from actors.plugins_gone_wrong import Gate, Strange, catalog, plugin, raising
from store.test_failing import break_the_disk
from support import NOW, ingest, open_test_core, reference, request, rows, settings, subscribe
from tallyd import core as core_module
from tallyd.actors import customer as customer_actor
from tallyd.actors.messages import Accepted
from tallyd.api import consuming, crediting, entitling
from tallyd.api.consuming import ConsumeView, ReserveInput, SettleInput
from tallyd.api.entitling import EntitlementView
from tallyd.clock import FixedClock
from tallyd.core import Core, open_core
from tallyd.engine.credits.draft import Draft
from tallyd.engine.entitlements import Reason
from tallyd.model.credits import GrantTerms, GrantType
from tallyd.model.event import EventBody
from tallyd.model.moments import SECOND_US, parse_iso
from tallyd.model.problems import Code, ProblemError
from tallyd.pricing.registry import Registry
from tallyd.store.writer import CommitFailed

CATALOG: Final = """
[[features]]
key = "api"

[[credit_models]]
key = "prepaid"

[[plans]]
key = "pro"
name = "Pro"
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = "0.10" }
"""
WALLET: Final = """
[[credit_models]]
key = "prepaid"
charge = "price"
currency = "USD"
"""
TTL_S: Final = 300


async def prepaid(core: Core, customer: str = "acme", amount: int = 100, plan: str = "pro") -> None:
    """Put a customer on a plan and sell it credits."""
    await subscribe(core, customer, plan)
    await sell(core, customer, amount)


async def sell(core: Core, customer: str, amount: int, key: str | None = None) -> None:
    """Sell a customer credits."""
    model = crediting.find_model(core, "prepaid")
    terms = GrantTerms(type=GrantType.PURCHASED)
    await crediting.grant(core, reference(customer), model, Decimal(amount), terms, key=key)


async def reserve(core: Core, units: int, key: str | None = None, customer: str = "acme") -> dict[str, Any]:
    """Ask for a hold."""
    sent = ReserveInput(
        customer_reference_id=customer,
        feature_key="api",
        usage_units=Decimal(units),
        ttl_seconds=TTL_S,
        idempotency_key=key,
    )
    return await consuming.reserve(core, sent)


async def settle(core: Core, hold: dict[str, Any], units: int, **fields: Any) -> dict[str, Any]:
    """Settle a hold."""
    return await consuming.settle(core, SettleInput(hold_id=hold["holdId"], usage_units=Decimal(units), **fields))


async def consume(core: Core, units: Decimal | int, key: str | None = None, customer: str = "acme") -> ConsumeView:
    """Ask for usage."""
    body = EventBody(
        event_name="api",
        customer_reference_id=customer,
        usage_units=Decimal(units),
        event_idempotency_key=key,
    )
    return await consuming.consume(core, body)


async def check(core: Core, customer: str = "acme") -> EntitlementView:
    """Ask how things stand."""
    return await entitling.check(core, customer, "api")


async def stands(core: Core, customer: str = "acme") -> tuple[Decimal, Decimal]:
    """Return balance and what is available, as `check` says."""
    credit = (await check(core, customer)).credit
    assert credit is not None, "the customer has a pool"
    assert credit.available == credit.balance - credit.held
    return credit.balance, credit.available


def move(core: Core, seconds: int) -> None:
    """Let time pass."""
    assert isinstance(core.clock.system, FixedClock)
    core.clock.system.move(seconds * SECOND_US)


async def all_at_once(ask: Callable[[int], Awaitable[dict[str, Any]]], times: int) -> list[dict[str, Any]]:
    """Ask so many times side by side; return what was allowed."""
    answers: list[dict[str, Any]] = []

    async def one(number: int) -> None:
        answers.append(await ask(number))

    async with trio.open_nursery() as nursery:
        for number in range(times):
            nursery.start_soon(one, number)
    return [answer for answer in answers if answer["allowed"]]


class Scene:
    """The worked example, in steps; each step leaves so much available."""

    def __init__(self, core: Core, customer: str) -> None:
        self.core = core
        self.customer = customer
        self.holds: list[dict[str, Any]] = []
        self.steps = [(self.sold, 100), (self.ten_held, 0), (self.expired, 100), (self.ten_held, 0)]
        self.steps += [(partial(self.settled, number), 3 * number + 3) for number in range(10)]

    async def sold(self) -> None:
        """Sell a hundred."""
        await prepaid(self.core, self.customer)

    async def ten_held(self) -> None:
        """Let 64 ask for ten each."""
        self.holds = await all_at_once(lambda _: reserve(self.core, 10, customer=self.customer), 64)
        assert len(self.holds) == 10

    async def expired(self) -> None:
        """Let the holds end by themselves."""
        move(self.core, TTL_S)

    async def settled(self, number: int) -> None:
        """Use seven of a hold's ten."""
        assert (await settle(self.core, self.holds[number], 7))["status"] == "SETTLED"


@pytest.mark.parametrize("steps", range(1, 15))
async def test_of_64_asking_at_once_ten_get_a_hold_and_what_check_says_consume_does(
    tmp_path: Path, steps: int
) -> None:
    """100 credits, holds of ten that expire, again, settled at seven: 30 left; check is right after each step."""
    async with open_test_core(tmp_path, CATALOG) as core:
        scene = Scene(core, "acme")
        for step, available in scene.steps[:steps]:
            await step()
            assert (await stands(core))[1] == available
        said = await check(core)
        assert said.allowed == (available > 0)
        for units, fits in ((available + 1, False), (available or 1, available > 0)):
            assert (await consume(core, units)).allowed == fits
        assert (await stands(core))[1] == 0
        assert not (await check(core)).allowed
        assert not core.writer.unbalanced
        if steps == len(scene.steps):
            assert available == 30


async def test_a_hold_that_has_expired_holds_nothing_from_that_instant_on(tmp_path: Path) -> None:
    """A second before its end a hold holds; at its end all is free, though no timer ran (P7)."""
    async with open_test_core(tmp_path, CATALOG) as core:
        await prepaid(core)
        hold = await reserve(core, 100)
        move(core, TTL_S - 1)
        assert not (await consume(core, 1)).allowed
        move(core, 1)
        assert (await consume(core, 100)).allowed
        assert (await consuming.hold_status(core, hold["holdId"]))["status"] == "EXPIRED"


# Crashes


@pytest.mark.parametrize(
    ("ask", "defect", "code"),
    [
        (lambda core: consume(core, 5, "k"), "move", Code.POISON),
        (lambda core: reserve(core, 5, "k"), "put_hold", Code.INTERNAL),
        (lambda core: sell(core, "acme", 5, "k"), "move", Code.INTERNAL),
    ],
    ids=["consume", "reserve", "grant"],
)
async def test_an_actor_that_crashes_half_way_leaves_credits_as_they_were(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ask: Callable[[Core], Awaitable[Any]],
    defect: str,
    code: Code,
) -> None:
    """The caller is told; pools, grants, holds and the ledger are as before; then the same key is good (P8)."""
    async with open_test_core(tmp_path, CATALOG) as core:
        await prepaid(core)
        await reserve(core, 10)
        before = await stands(core), await rows(core, "SELECT count(*), max(chain) FROM ledger_entries")
        with monkeypatch.context() as patch:
            real = getattr(Draft, defect)

            def defective(*arguments: Any, **named: Any) -> None:
                real(*arguments, **named)
                raise ZeroDivisionError("a defect")

            patch.setattr(customer_actor, "BACKOFF_FIRST_S", 0)
            patch.setattr(Draft, defect, defective)
            with pytest.raises(ProblemError) as refused:
                await ask(core)
        assert refused.value.problem.code is code
        assert core.counts.actor_crashes
        assert (await stands(core), await rows(core, "SELECT count(*), max(chain) FROM ledger_entries")) == before
        await ask(core)
        assert (await stands(core))[1] in (85, 95)
        assert not core.writer.unbalanced


async def refusal(core: Core, ask: Callable[[Core], Awaitable[Any]]) -> Code | None:
    """Ask; return why it was refused, or None."""
    try:
        await ask(core)
    except ProblemError as error:
        return error.problem.code
    return None


@pytest.mark.parametrize("written", [False, True])
async def test_a_failed_commit_acknowledges_no_movement_of_credits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, written: bool
) -> None:
    """Everyone is told `unavailable`; asked again with the same keys, each thing is done once (P1, P2)."""
    monkeypatch.setattr(core_module, "LAST_WORDS_S", 0.05)
    async with open_test_core(tmp_path, CATALOG) as core:
        await prepaid(core)
        to_settle, to_release = await reserve(core, 10), await reserve(core, 10)
    asks: list[Callable[[Core], Awaitable[Any]]] = [
        lambda core: consume(core, 5, "consume"),
        lambda core: reserve(core, 20, "reserve"),
        lambda core: settle(core, to_settle, 7),
        lambda core: consuming.release(core, to_release["holdId"]),
        lambda core: sell(core, "acme", 50, "grant"),
    ]
    codes: list[Code | None] = []

    async def refused(core: Core, ask: Callable[[Core], Awaitable[Any]]) -> None:
        codes.append(await refusal(core, ask))

    with pytest.RaisesGroup(pytest.RaisesExc(CommitFailed), flatten_subgroups=True):
        config = settings(tmp_path, CATALOG)
        registry = Registry(inline=config.plugins.inline)
        async with open_core(config, registry=registry, clock=FixedClock(NOW)) as core:
            await check(core)
            await break_the_disk(core, written=written)
            async with trio.open_nursery() as nursery:
                for ask in asks:
                    nursery.start_soon(refused, core, ask)
            await trio.sleep_forever()
    assert codes == [Code.UNAVAILABLE] * len(asks)
    async with open_test_core(tmp_path, CATALOG) as core:
        if not written:
            assert await stands(core) == (100, 80)
        again = [await refusal(core, ask) for ask in asks]
        assert set(again) <= ({None, Code.DUPLICATE_KEY} if written else {None})
        assert await stands(core) == (138, 118)


async def test_a_hold_lasts_from_its_decision_on(tmp_path: Path) -> None:
    """A request that had to wait longer than it asked to hold for is held for that long all the same."""
    async with open_test_core(tmp_path, CATALOG) as core:
        await prepaid(core)
        core.directory._idle_s = -1
        assert core.directory.put_away_idle() == 1
        held: list[dict[str, Any]] = []

        async def ask() -> None:
            held.append(await reserve(core, 10))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.lowlevel.checkpoint()  # asked; the books are still being read
            move(core, 2 * TTL_S)
        assert parse_iso(held[0]["expiresAt"]) == core.clock.now() + TTL_S * SECOND_US
        assert await stands(core) == (100, 90)


async def test_a_customer_put_away_and_loaded_again_has_the_same_credits(tmp_path: Path) -> None:
    """Pools, what grants have left, holds, held units, links and what is due next come back from the books."""
    text = CATALOG.replace('name = "Pro"', 'name = "Pro"\ncredits = [{ credit_model = "prepaid", amount = 7 }]')
    async with open_test_core(tmp_path, text) as core:
        await prepaid(core)
        await consume(core, 12)
        held = [await reserve(core, 10) for _ in range(3)]
        await settle(core, held[0], 4, final=False, event_idempotency_key="part")
        await consuming.release(core, held[1]["holdId"])
        before = (await core.directory.account(reference("acme"))).credits
        core.directory._idle_s = -1
        assert core.directory.put_away_idle() == 1
        after = (await core.directory.account(reference("acme"))).credits
        assert before is not None
        assert after is not None
        assert after is not before
        for part in ("pools", "grants", "holds", "held_units", "links", "due_at"):
            assert getattr(after, part) == getattr(before, part), part
        assert await stands(core) == (91, 75)
        with pytest.raises(ProblemError) as refused:
            await settle(core, held[1], 1)
        assert refused.value.problem.code is Code.CONFLICT
        move(core, TTL_S)
        assert await stands(core) == (91, 91)


# Strangers' prices


async def paying(core: Core) -> None:
    """Two customers who pay with money: one at a stranger's price."""
    await prepaid(core, "acme", plan="bad")
    await prepaid(core, "neighbour", plan="plain")


async def nobody_knows_the_price(core: Core, reason: str) -> None:
    """What is asked is refused, what has happened is recorded unpriced, and neither draws anything."""
    asked = await consume(core, 4)
    assert (asked.allowed, asked.meta.reason.code) == (False, Reason.CREDITS_UNPRICED)
    held = await reserve(core, 4)
    assert (held["allowed"], held["meta"]["reason"]["code"]) == (False, Reason.CREDITS_UNPRICED)
    (fact,) = await ingest(core, request("acme", name="api", usage_units=4))
    assert isinstance(fact, Accepted)
    assert (fact.row.no_price, fact.drawn) == (reason, [])
    assert await rows(core, "SELECT count(*) FROM events WHERE customer = 1") == [(1,)]
    assert await stands(core) == (100, 100)


async def test_a_price_that_raises_draws_no_money(tmp_path: Path) -> None:
    """Nobody knows what is to be paid: no credits move, and the neighbour's money is drawn as ever."""
    model = Strange("bad", raising)
    async with open_test_core(tmp_path, catalog("bad") + WALLET, plugins=[plugin(model)]) as core:
        await paying(core)
        await nobody_knows_the_price(core, "plugin_error")
        assert (await consume(core, 4, customer="neighbour")).credits_deducted == Decimal("0.40")
        assert core.counts.actor_crashes == 0


async def test_a_price_that_hangs_draws_no_money_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    """While the stranger's model hangs, the neighbour pays and holds; the customer's credits stay whole."""
    gate = Gate()
    async with open_test_core(
        tmp_path, catalog("bad") + WALLET, plugins=[plugin(Strange("bad", gate))], plugins__budget_ms=400
    ) as core:
        try:
            await paying(core)
            order: list[str] = []

            async def hang() -> None:
                await nobody_knows_the_price(core, "plugin_timeout")
                order.append("acme")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(hang)
                assert await trio.to_thread.run_sync(partial(gate.calls.acquire, timeout=20))
                hold = await reserve(core, 10, customer="neighbour")
                assert (await settle(core, hold, 5))["creditsDeducted"] == Decimal("0.50")
                assert (await consume(core, 5, customer="neighbour")).allowed
                order.append("neighbour")
            assert order == ["neighbour", "acme"]
            assert await stands(core, "neighbour") == (99, 99)
        finally:
            gate.open.set()
