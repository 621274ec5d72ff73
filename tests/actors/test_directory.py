"""Residency: customers come and go from memory, and nobody can tell from the answers (P11)."""

from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.plugins_gone_wrong import Gate, Strange, catalog, plugin
from support import ingest, open_test_core, reference, request, rows, subscribe
from tallyd.actors.messages import Accepted, Rerate
from tallyd.core import Core
from tallyd.engine import entitlements
from tallyd.engine.entitlements import Entitlement
from tallyd.model.customer import CustomerRef, RefKind
from tallyd.model.problems import Code, Problem, ProblemError


async def answer(core: Core, customer: str = "acme") -> Entitlement:
    """Check a feature."""
    return entitlements.decide(await core.directory.account(reference(customer)), "api", core.clock.now())


def put_all_away(core: Core) -> int:
    """Put away every idle customer at once."""
    core.directory._idle_s = -1
    return core.directory.put_away_idle()


async def test_a_customer_put_away_and_loaded_again_answers_the_same(tmp_path: Path) -> None:
    """Eviction changes no answer: counters, limits, seen values, position and chain come back from the books."""
    async with open_test_core(tmp_path) as core:
        await subscribe(core, "acme", "capped")
        await ingest(core, *(request("acme", usage_units="0.1") for _ in range(7)))
        users = [request("acme", name="user.active", meta={"user_id": user}) for user in ("ann", "bob")]
        await ingest(core, *users)
        before = await core.directory.account(reference("acme"))
        first = await answer(core)
        assert put_all_away(core) == 1
        assert core.directory.resident(reference("acme")) is None
        after = await core.directory.account(reference("acme"))
        assert after is not before
        assert await answer(core) == first
        for part in ("customer", "known", "counters", "seen", "position", "chain"):
            assert getattr(after, part) == getattr(before, part)


async def test_usage_goes_on_after_a_restart(tmp_path: Path) -> None:
    """Books opened by a new process go on at the same position, limit and tier."""
    async with open_test_core(tmp_path) as core:
        await subscribe(core, "acme", "capped")
        before = (await core.directory.account(reference("acme"))).position
        await ingest(core, request("acme", usage_units=99))
    async with open_test_core(tmp_path) as core:
        assert (await answer(core)).remaining == 1
        outcomes = await ingest(core, request("acme"), request("acme"), consuming=True)
        assert [isinstance(each, Accepted) for each in outcomes] == [True, False]
        written = await rows(core, "SELECT id, position FROM events ORDER BY id")
        assert [position for _, position in written] == [before + 1, before + 2]


async def test_no_more_customers_are_resident_than_allowed(tmp_path: Path) -> None:
    """A hundred customers through a memory of ten: never more than ten, and all are recorded."""
    async with open_test_core(tmp_path, customers__resident_max=10) as core:
        for number in range(100):
            await ingest(core, request(f"c{number}"))
            assert len(core.directory) <= 10
        assert await rows(core, "SELECT count(*) FROM customers") == [(100,)]


async def test_when_all_are_busy_a_newcomer_is_told_to_retry(tmp_path: Path) -> None:
    """With every place taken by a busy customer a new one is refused, not evicting anybody's work."""
    gate = Gate()
    async with open_test_core(
        tmp_path,
        catalog("slow"),
        plugins=[plugin(Strange("slow", gate))],
        plugins__budget_ms=20_000,
        customers__resident_max=1,
    ) as core:
        await subscribe(core, "acme", "slow")
        outcomes: list[Any] = []

        async def first() -> None:
            outcomes.extend(await ingest(core, request("acme", "k")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
            await trio.to_thread.run_sync(partial(gate.calls.acquire, timeout=10))
            (refused,) = await ingest(core, request("newcomer"))
            gate.open.set()
            with trio.move_on_after(5):
                while not outcomes:
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert isinstance(refused, Problem)
        assert refused.code is Code.RATE_LIMITED
        assert [isinstance(each, Accepted) for each in outcomes] == [True]


async def test_a_customer_first_spoken_to_by_id_is_the_same_by_reference_after_eviction(tmp_path: Path) -> None:
    """All names of a customer lead to one actor, also after it was put away."""
    async with open_test_core(tmp_path) as core:
        await subscribe(core, "acme", "capped")
        put_all_away(core)
        await core.directory.account(CustomerRef(RefKind.ID, reference("acme").customer_id()))
        assert (await answer(core)).used == 0
        assert len(core.directory) == 1
        put_all_away(core)
        assert core.directory.resident(reference("acme")) is None
        with trio.move_on_after(5) as patience:
            (outcome,) = await ingest(core, request("acme", "k"))
        assert not patience.cancelled_caught
        assert isinstance(outcome, Accepted)


async def test_a_customer_whose_books_cannot_be_read_is_unavailable(tmp_path: Path) -> None:
    """A failing load answers both an event and a check, and the next attempt loads again."""
    async with open_test_core(tmp_path) as core:
        await subscribe(core, "acme")
        put_all_away(core)
        plans, core.catalogue.plans = core.catalogue.plans, {}
        with trio.fail_after(5), pytest.raises(ProblemError) as refused:
            await core.directory.account(reference("acme"))
        assert refused.value.problem.code is Code.UNAVAILABLE
        core.catalogue.plans = plans
        (outcome,) = await ingest(core, request("acme"))
        assert isinstance(outcome, Accepted)
        assert (await answer(core)).used == 1


async def test_rerating_an_event_twice_at_once_charges_it_once(tmp_path: Path) -> None:
    """Two re-ratings that read the same unpriced row: the second finds nothing left to fill in (P5)."""
    text = catalog().replace(
        '"usage", usage_unit_type = "u", price_per_unit = "0.10"', '"llm_tokens", markup_percent = 100'
    )
    async with open_test_core(tmp_path, text) as core:
        await subscribe(core, "acme", "plain")
        (unpriced,) = await ingest(core, request("acme", "k", model="unheard-of", input_tokens=1_000_000))
        assert isinstance(unpriced, Accepted)
        price = '[[model_prices]]\nmodel = "unheard-of"\ninput_per_million = 3\noutput_per_million = 3\n'
        await trio.Path(str(core.config.catalog)).write_text(f"{text}\n{price}", encoding="utf-8")
        await core.reload_catalog()
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(core.intake.ask, reference("acme"), Rerate(unpriced.row.id))
        assert [
            tuple(map(Decimal, row)) for row in await rows(core, "SELECT charged, unpriced FROM counters")
        ] == [(6, 0)]
        (rollup,) = await rows(core, "SELECT cost, revenue, unpriced FROM rollups")
        assert tuple(map(Decimal, rollup)) == (3, 6, 0)
        assert await rows(core, "SELECT count(*) FROM rerates") == [(1,)]


async def test_two_reloads_at_once_make_one_new_version(tmp_path: Path) -> None:
    """SIGHUP and `catalog.reload` in the same moment: one version, and the daemon goes on."""
    async with open_test_core(tmp_path, catalog()) as core:
        changed = catalog().replace("0.10", "0.20")
        await trio.Path(str(core.config.catalog)).write_text(changed, encoding="utf-8")
        reports: list[list[str]] = []

        async def reload() -> None:
            reports.append(await core.reload_catalog())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reload)
            nursery.start_soon(reload)
        assert sorted(reports) == [[], ["plan plain version 2"]]
        assert await rows(core, "SELECT version FROM plan_versions ORDER BY version") == [(1,), (2,)]


async def test_a_subscriber_stays_on_the_version_it_has(tmp_path: Path) -> None:
    """A new version prices new subscribers; the old one prices its own, after a restart too."""
    async with open_test_core(tmp_path, catalog()) as core:
        await subscribe(core, "old", "plain")
    async with open_test_core(tmp_path, catalog().replace("0.10", "0.20")) as core:
        await subscribe(core, "new", "plain")
        outcomes = await ingest(core, request("old"), request("new"))
        assert [each.row.revenue for each in outcomes if isinstance(each, Accepted)] == ["0.10", "0.20"]
        assert (await answer(core, "old")).price_version == "plain@1"
        assert (await answer(core, "new")).price_version == "plain@2"
