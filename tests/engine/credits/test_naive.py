"""The naive books against numbers worked out by hand, before the engine is held against the books."""

from decimal import Decimal
from typing import Any

import pytest

from engine.credits.naive import DAY, Books, Feature, Outcome, Refused
from support import at
from tallyd.model.catalog import CreditModel, Overage, PlanCredits, Recurring, Rollover, TopUp
from tallyd.model.credits import HoldStatus, PoolStatus

JANUARY, FEBRUARY, MARCH = (at(f"2026-0{month}-01T00:00:00Z") for month in (1, 2, 3))
STARTS = [at(f"2026-{month:02}-01T00:00:00Z") for month in range(1, 13)]
NOON = at("2026-01-10T12:00:00Z")
MINUTE = 60_000_000
D = Decimal


def books(**features: Feature) -> Books:
    """Empty books of a plan whose `api` costs 2 a unit, unless said otherwise."""
    return Books(features or {"api": Feature(price=D(2))}, STARTS)


def rules(**fields: Any) -> CreditModel:
    """The rules of a hard pool of units, unless said otherwise."""
    return CreditModel(**{"key": "tokens", **fields})


def pool_with(*amounts: int, **fields: Any) -> tuple[Books, int]:
    """Books with one pool, and a grant of each amount in it, in January."""
    kept = books()
    pool = kept.open_pool(rules(**fields), JANUARY)
    for amount in amounts:
        kept.grant(pool, D(amount), JANUARY)
    return kept, pool


def left(kept: Books) -> list[int]:
    """What each grant has left, in order of age."""
    return [int(kept.remaining(grant)) for grant in range(len(kept.grants))]


def words(kept: Books) -> list[str]:
    """The entries as one would read them aloud: kind, cause, amount."""
    return [f"{entry.kind} {entry.cause} {entry.amount.normalize():f}" for entry in kept.entries]


def plan_pool(rollover: Rollover, amount: int = 25, **fields: Any) -> tuple[Books, int]:
    """Books with one pool that gets credits with the plan from January on."""
    kept, pool = pool_with(rollover=rollover, **fields)
    kept.link(pool, JANUARY, included=PlanCredits(credit_model="tokens", amount=D(amount)))
    return kept, pool


def test_a_deduction_takes_the_oldest_grant_first() -> None:
    """E2: of two grants of 5, a deduction of 7 leaves 0 and 3."""
    kept, pool = pool_with(5, 5, burn_order="fifo")
    kept.deduct(pool, D(7), NOON)
    assert left(kept) == [0, 3]
    assert kept.entries[-1].grants == [(0, D(-5)), (1, D(-2))]


def test_a_deduction_beyond_the_balance_takes_nothing() -> None:
    """F9, F12: 11 of 10 are refused whole; held credits and overage are not asked; a frozen pool gives none."""
    kept, pool = pool_with(10, overage=Overage())
    kept.hold("api", D(4), 5 * MINUTE, NOON)
    for amount in (11, 7):
        with pytest.raises(Refused, match="credits"):
            kept.deduct(pool, D(amount), NOON)
    kept.deduct(pool, D(6), NOON)
    kept.freeze(pool, NOON)
    with pytest.raises(Refused, match="conflict"):
        kept.deduct(pool, D(1), NOON)
    assert (kept.balance(pool), kept.available(pool)) == (4, 0)


@pytest.mark.parametrize(
    ("order", "taken"),
    [("expiry", [3, 2, 1, 0]), ("fifo", [0, 1, 2, 3])],
)
def test_burn_order(order: str, taken: list[int]) -> None:
    """By expiry: priority, then the earliest end with none last, then age. By fifo: age alone."""
    kept, pool = pool_with(burn_order=order)
    kept.grant(pool, D(1), JANUARY, priority=1)
    kept.grant(pool, D(1), JANUARY)
    kept.grant(pool, D(1), JANUARY, expires_at=MARCH)
    kept.grant(pool, D(1), JANUARY, expires_at=FEBRUARY)
    kept.deduct(pool, D(4), NOON)
    assert [grant for grant, _ in kept.entries[-1].grants] == taken


@pytest.mark.parametrize(
    ("rollover", "balance", "entries"),
    [
        (Rollover(policy="NONE"), 25, ["EXPIRATION expiry -25"]),
        (Rollover(policy="FULL"), 50, []),
        (Rollover(policy="CAPPED", cap=D(10)), 35, ["EXPIRATION forfeit -15"]),
        (Rollover(policy="FULL", max_count=1), 50, ["ADJUSTMENT rollover 0"]),
    ],
)
def test_rollover(rollover: Rollover, balance: int, entries: list[str]) -> None:
    """E3: of 25 at renewal NONE keeps 0, FULL all, CAPPED 10 its 10; then come the new 25."""
    kept, pool = plan_pool(rollover)
    kept.at(FEBRUARY)
    assert words(kept) == ["GRANT plan 25", *entries, "GRANT plan 25"]
    assert {entry.at for entry in kept.entries[1:]} == {FEBRUARY}
    assert kept.balance(pool) == balance


def test_rollover_touches_only_what_the_plan_gave() -> None:
    """#8451: bought credits survive a renewal under NONE, and a cap counts the newest plan credits first."""
    kept, pool = plan_pool(Rollover(policy="CAPPED", cap=D(30)))
    kept.grant(pool, D(100), NOON)
    kept.at(MARCH)
    assert left(kept) == [5, 100, 25, 25]
    assert kept.balance(pool) == 155


def test_a_percentage_is_carried_over() -> None:
    """Dodo 2.6: 200 left at 75 % are 150 carried over and 50 forfeited; after one time none is carried again."""
    kept, pool = plan_pool(Rollover(policy="PERCENTAGE", percentage=D(75), max_count=1), amount=200)
    kept.at(FEBRUARY)
    assert words(kept)[1:] == ["ADJUSTMENT rollover 0", "EXPIRATION forfeit -50", "GRANT plan 200"]
    assert left(kept) == [0, 150, 200]
    assert (kept.grants[1].parent, kept.grants[1].rollovers) == (0, 1)
    kept.at(MARCH)
    assert left(kept) == [0, 0, 0, 150, 200]
    assert kept.totals(pool) == {"granted": 600, "consumed": 0, "expired": 250, "reversed": 0}


@pytest.mark.parametrize(
    ("hard", "units", "drawn", "billed_units", "billed"),
    [(False, 5, 3, 2, 4), (False, 2, 2, 0, 0), (True, 3, 3, 0, 0), (True, 4, None, None, None)],
)
def test_usage_draws_and_the_rest_is_billed(
    hard: bool, units: int, drawn: int | None, billed_units: int | None, billed: int | None
) -> None:
    """B11: of 5 units a soft pool with 3 gives 3 and 2 are billed at 2. B10: a hard one refuses what it lacks."""
    kept, pool = pool_with(3, hard_limit=hard)
    assert kept.at(NOON).allowed("api", D(units)) == (drawn is not None)
    if drawn is None:
        with pytest.raises(Refused, match="credits"):
            kept.use("api", D(units), NOON)
        assert (kept.balance(pool), kept.used("api", 0)) == (3, 0)
        return
    assert kept.use("api", D(units), NOON) == Outcome({pool: D(drawn)}, D(drawn), D(billed_units), D(billed))
    assert kept.used("api", 0) == units
    assert kept.status(pool) == (PoolStatus.DEPLETED if hard else PoolStatus.ACTIVE)


@pytest.mark.parametrize(
    ("feature", "units", "model", "precision", "drawn", "billed_units"),
    [
        (Feature(units_per_credit=D(1000)), 1500, None, None, "1.5", "0"),
        (Feature(weights={None: D(8), "big": D(30)}), 1, None, None, "8", "0"),
        (Feature(weights={None: D(8), "big": D(30)}), 1, "big", None, "20", "0.333333333333333333"),
        (Feature(weights={None: D("0.3333")}), 5, None, 2, "1.67", "0"),
        (Feature(weights={None: D("0.05")}), 1, None, 0, None, "1"),
    ],
)
def test_what_usage_costs_in_credits(
    feature: Feature, units: int, model: str | None, precision: int | None, drawn: str | None, billed_units: str
) -> None:
    """F11: 1,500 units at 1,000 a credit are 1.5 credits; weights go by model; a charge is rounded half up."""
    kept = books(api=feature)
    pool = kept.open_pool(rules(hard_limit=False, precision=precision), JANUARY)
    kept.grant(pool, D(20), JANUARY)
    outcome = kept.use("api", D(units), NOON, model=model)
    assert outcome.drawn == ({} if drawn is None else {pool: D(drawn)})
    assert outcome.billed_units == D(billed_units)


def test_pools_are_drawn_in_turn() -> None:
    """Unit pools before money pools, each by draw priority; a draw limit leaves the rest to the next (P5).

    Of 10 units at 2: 4 by the limit of the first pool, 3 by the second; 3 are priced 6, and the money pays 5.
    """
    kept = books()
    models = [("price", 0), ("units", 5), ("units", 1), ("nothing", 0)]
    pools = [
        kept.open_pool(rules(charge=charge, draw_priority=priority, hard_limit=False), JANUARY)
        for charge, priority in models
    ]
    for pool, amount in zip(pools, [5, 3, 100, 100], strict=True):
        kept.grant(pool, D(amount), JANUARY)
    kept.link(pools[2], JANUARY, draw_limit=D(4))
    assert kept.use("api", D(10), NOON) == Outcome({2: D(4), 1: D(3), 0: D(5)}, D(7), D(3), D(1))
    assert [entry.pool for entry in kept.entries[-3:]] == [2, 1, 0]
    assert kept.use("api", D(1), NOON).drawn == {}
    assert kept.use("api", D(1), FEBRUARY).drawn == {2: D(1)}


def test_a_draw_limit_counts_a_period_and_holds_and_what_was_reversed_too() -> None:
    """Of 100 credits at most 10 a period: 6 drawn and 3 held leave 1, and reversing the 6 leaves no more."""
    kept, pool = pool_with(100, hard_limit=False)
    kept.link(pool, JANUARY, draw_limit=D(10))
    kept.use("api", D(6), NOON)
    drawn = len(kept.entries) - 1
    kept.hold("api", D(3), 5 * MINUTE, NOON)
    assert kept.use("api", D(5), NOON).drawn == {pool: D(1)}
    kept.reverse(drawn, NOON)
    assert kept.use("api", D(9), NOON).drawn == {}


@pytest.mark.parametrize(
    ("asked_at", "occurred_at", "pays"),
    [(NOON - 1, None, True), (NOON, None, False), (NOON - 1, NOON, False), (NOON, NOON - 1, False)],
)
def test_a_grant_does_not_pay_at_its_expiry(asked_at: int, occurred_at: int | None, pays: bool) -> None:
    """P7: a grant that expires at 12:00:00 pays a microsecond before and not at 12:00:00, by either clock."""
    kept, pool = pool_with(hard_limit=False)
    kept.grant(pool, D(5), JANUARY, expires_at=NOON)
    outcome = kept.use("api", D(2), asked_at, occurred_at=occurred_at)
    assert outcome.drawn == ({pool: D(2)} if pays else {})
    kept.at(NOON + DAY)
    assert kept.entries[-1].at == NOON
    assert kept.totals(pool)["expired"] == (3 if pays else 5)


def test_a_hold_expires() -> None:
    """Held credits cannot be drawn; from the hold's expiry on they can, and its usage is any event's."""
    kept, pool = pool_with(10)
    hold = kept.hold("api", D(8), 5 * MINUTE, NOON)
    assert (kept.balance(pool), kept.available(pool)) == (10, 2)
    assert not kept.allowed("api", D(3))
    assert kept.at(NOON + 5 * MINUTE).allowed("api", D(10))
    assert kept.holds[hold].closed_at == NOON + 5 * MINUTE
    with pytest.raises(Refused, match="credits"):
        kept.settle(hold, D(12), NOON + DAY)
    assert kept.settle(hold, D(9), NOON + DAY) == Outcome({pool: D(9)}, D(9), D(0), D(0), hold=HoldStatus.EXPIRED)
    assert kept.release(hold, NOON + DAY) is HoldStatus.EXPIRED


def test_a_hold_loses_what_expires() -> None:
    """A hold takes the grant that outlives it first; what it held of one that ends before it is gone from it."""
    kept, pool = pool_with()
    kept.grant(pool, D(6), JANUARY, expires_at=NOON + MINUTE)
    kept.grant(pool, D(6), JANUARY)
    hold = kept.hold("api", D(8), 5 * MINUTE, NOON)
    assert [(part.grant, part.amount) for part in kept.holds[hold].parts] == [(1, 6), (0, 2)]
    assert kept.at(NOON + MINUTE).balance(pool) == 6
    assert [(part.grant, part.amount) for part in kept.holds[hold].parts] == [(1, 6)]
    assert words(kept)[-1] == "EXPIRATION expiry -6"


def test_holds_are_settled_in_parts_and_give_the_rest_back() -> None:
    """Of 10 held, 3 and then 4 are used, also while the pool is frozen: 3 come back, once; then it is closed."""
    kept, pool = pool_with(10)
    hold = kept.hold("api", D(10), 5 * MINUTE, NOON)
    kept.freeze(pool, NOON)
    assert kept.settle(hold, D(3), NOON, final=False).hold is HoldStatus.HELD
    assert (kept.available(pool), kept.held_units("api", 0)) == (0, 7)
    assert kept.settle(hold, D(4), NOON).hold is HoldStatus.SETTLED
    assert (kept.available(pool), kept.held_units("api", 0), kept.used("api", 0)) == (3, 0, 7)
    with pytest.raises(Refused, match="conflict"):
        kept.settle(hold, D(1), NOON)
    assert kept.release(hold, NOON) is HoldStatus.SETTLED


@pytest.mark.parametrize(("policy", "billed"), [("bill", 10), ("waive", 0), ("refuse", None)])
def test_a_settlement_beyond_all_credits(policy: str, billed: int | None) -> None:
    """Of 15 units 5 are held and 5 free: 5 more are billed at 2, waived, or refused with the hold untouched."""
    kept, pool = pool_with(10, on_shortfall=policy)
    hold = kept.hold("api", D(5), 5 * MINUTE, NOON)
    if billed is None:
        with pytest.raises(Refused, match="credits"):
            kept.settle(hold, D(15), NOON)
        assert (kept.balance(pool), kept.held(pool)) == (10, 5)
        return
    outcome = kept.settle(hold, D(15), NOON)
    assert (outcome.drawn, outcome.billed) == ({pool: D(10)}, D(billed))
    assert kept.used("api", 0) == 15


def test_a_limit_counts_held_units() -> None:
    """P4: of 10, 6 used and 3 held leave 1 to ask for; a fact is kept, one after the limit counts nothing."""
    kept = books(api=Feature(price=D(2), limit=D(10)))
    kept.use("api", D(6), NOON, asked=True)
    kept.hold("api", D(3), 5 * MINUTE, NOON)
    assert [kept.allowed("api", D(units)) for units in (1, 2)] == [True, False]
    with pytest.raises(Refused, match="limit"):
        kept.use("api", D(2), NOON, asked=True)
    with pytest.raises(Refused, match="limit"):
        kept.hold("api", D(2), 5 * MINUTE, NOON)
    assert kept.use("api", D(5), NOON).billed == 10
    assert kept.use("api", D(1), NOON) == Outcome({}, D(0), D(0), D(0), capped=True)
    assert kept.used("api", 0) == 11


def test_reversal() -> None:
    """E5: a deduction comes back once, and expires again where its grants have; a grant loses what is free."""
    kept, pool = pool_with(10)
    kept.grant(pool, D(4), JANUARY, expires_at=NOON)
    deduction = kept.deduct(pool, D(7), JANUARY)
    assert left(kept) == [7, 0]
    kept.reverse(deduction, NOON)
    assert words(kept)[-2:] == ["REVERSAL manual 7", "EXPIRATION expiry -4"]
    kept.hold("api", D(6), 5 * MINUTE, NOON)
    kept.reverse(0, NOON)
    assert left(kept) == [6, 0]
    assert kept.totals(pool) == {"granted": 14, "consumed": 7, "expired": 4, "reversed": 3}
    for again in (deduction, 0, 1, 3):
        with pytest.raises(Refused, match="conflict"):
            kept.reverse(again, NOON)


@pytest.mark.parametrize(
    ("behavior", "after_period", "after_grant"),
    [
        ("forgive_at_reset", (0, "overage_forgiven"), (0, 10)),
        ("invoice_at_billing", (0, "overage_charged"), (0, 10)),
        ("carry_deficit", (4, None), (4, 10)),
        ("carry_deficit_auto_repay", (0, "overage_repaid"), (0, 6)),
    ],
)
def test_overage(behavior: str, after_period: tuple[int, str | None], after_grant: tuple[int, int]) -> None:
    """F10: 5 units draw 1 credit and 4 beyond it, a 6th is refused; at renewal each rule has its way."""
    kept, pool = pool_with(1, overage=Overage(limit=D(4), behavior=behavior))
    kept.link(pool, FEBRUARY - DAY, included=PlanCredits(credit_model="tokens", amount=D(10)))
    kept.deduct(pool, D(10), FEBRUARY - DAY)
    assert kept.use("api", D(5), FEBRUARY - DAY).drawn == {pool: D(5)}
    assert (kept.balance(pool), kept.overage(pool)) == (0, 4)
    with pytest.raises(Refused, match="credits"):
        kept.use("api", D(1), FEBRUARY - DAY)
    kept.at(FEBRUARY)
    causes = [str(entry.cause) for entry in kept.entries if entry.overage < 0]
    assert (kept.overage(pool), *(causes or [None])) == after_period
    assert (kept.overage(pool), kept.balance(pool)) == after_grant


def test_credits_that_come_by_themselves() -> None:
    """Weekly 10 end when the next come, all missed ones are written, and 20 more come below 5, once a month."""
    every = Recurring(amount=D(10), every="week")
    kept, pool = pool_with(recurring=every, top_up=TopUp(below=D(5), amount=D(20), most_a_month=1))
    kept.use("api", D(6), at("2026-01-02T00:00:00Z"))
    assert words(kept) == ["GRANT recurring 10", "DEDUCTION event -6", "GRANT top_up 20"]
    kept.at(at("2026-01-14T00:00:00Z"))
    assert words(kept)[3:] == [
        "EXPIRATION expiry -4",
        "GRANT recurring 10",
        "EXPIRATION expiry -10",
        "GRANT recurring 10",
    ]
    assert [entry.at for entry in kept.entries[3::2]] == [at(f"2026-01-{day}T00:00:00Z") for day in ("05", "12")]
    assert kept.balance(pool) == 30


def test_a_frozen_or_archived_pool() -> None:
    """E4: a frozen hard pool still refuses usage; an empty one without holds may be archived, and serves none."""
    kept, pool = pool_with(5)
    kept.freeze(pool, NOON)
    assert (kept.status(pool), kept.allowed("api", D(1))) == (PoolStatus.FROZEN, False)
    kept.unfreeze(pool, NOON)
    with pytest.raises(Refused, match="conflict"):
        kept.archive(pool, NOON)
    kept.use("api", D(5), NOON)
    kept.archive(pool, NOON)
    assert (kept.status(pool), kept.allowed("api", D(1))) == (PoolStatus.ARCHIVED, True)
    with pytest.raises(Refused, match="conflict"):
        kept.grant(pool, D(1), NOON)
