"""Entitlements: the answer equals a model's, and what is admitted never exceeds the limit (P4)."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from support import NOW, Ledger, account_on, at, event, plan_of
from tallyd.engine import entitlements
from tallyd.engine.account import CounterKey
from tallyd.engine.entitlements import Reason
from tallyd.engine.recording import Denied, Recorded
from tallyd.model.money import ZERO

START = at("2026-11-01T00:00:00Z")
NEXT = at("2026-12-01T00:00:00Z")

quantities = st.decimals(Decimal("0.01"), 60, places=2)
moments = st.sampled_from([START, NOW, NEXT - 1, NEXT])


def capped(limit: object) -> str:
    """A usage price with a cap."""
    return f'{{ model = "usage", usage_unit_type = "u", price_per_unit = "0.3", max_usage = {limit} }}'


class OneCustomer(RuleBasedStateMachine):
    """Record, consume and check in any order, beside a model that is one number per period."""

    def __init__(self) -> None:
        super().__init__()
        self.used = {START: ZERO, NEXT: ZERO}
        self.recorded = 0
        self.only_consumed = True

    @initialize(limit=st.decimals(1, 100, places=2))
    def subscribe(self, limit: Decimal) -> None:
        """Put the customer on a capped plan."""
        self.limit = limit
        self.book = Ledger(account_on(plan_of(capped(f'"{limit}"')), starts_at=START))

    def _period(self, moment: int) -> int:
        return NEXT if moment >= NEXT else START

    @rule(moment=moments, units=quantities)
    def consume(self, moment: int, units: Decimal) -> None:
        """Admitted if and only if it fits whole; else nothing changes."""
        period = self._period(moment)
        fits = self.used[period] + units <= self.limit
        decided = self.book.consume(event(at=moment, feature_key="api", usage_units=units))
        if fits:
            assert isinstance(decided, Recorded)
            assert Decimal(decided.row.units) == units
            assert decided.row.capped == 0
            self.used[period] += units
            self.recorded += 1
        else:
            assert isinstance(decided, Denied)
            assert not decided.entitlement.allowed
            assert decided.entitlement.used == self.used[period]

    @rule(moment=moments, units=quantities)
    def record(self, moment: int, units: Decimal) -> None:
        """A fact is always kept: whole while the limit is not reached, zeroed once it is."""
        period = self._period(moment)
        reached = self.used[period] >= self.limit
        decided = self.book.record(event(at=moment, feature_key="api", usage_units=units))
        assert decided.row.capped == reached
        self.used[period] += ZERO if reached else units
        self.recorded += 1
        self.only_consumed = False

    @rule(moment=moments, requested=st.none() | quantities)
    def check(self, moment: int, requested: Decimal | None) -> None:
        """The answer and all its evidence equal the model's."""
        used = self.used[self._period(moment)]
        answer = entitlements.decide(self.book.account, "api", moment, requested)
        assert (answer.used, answer.limit, answer.remaining) == (used, self.limit, max(ZERO, self.limit - used))
        assert answer.position == self.recorded
        assert answer.price_version == "plan@1"
        if used >= self.limit:
            assert answer.reason is Reason.LIMIT_REACHED
        elif requested is not None and used + requested > self.limit:
            assert answer.reason is Reason.WOULD_EXCEED_LIMIT
        else:
            assert answer.reason is Reason.WITHIN_LIMIT
        assert answer.allowed is (answer.reason is Reason.WITHIN_LIMIT)
        assert (answer.simulation is None) is (requested is None)

    @invariant()
    def admitted_units_never_exceed_the_limit(self) -> None:
        """While everything went through consume, used stays within the limit."""
        if hasattr(self, "limit") and self.only_consumed:
            assert all(used <= self.limit for used in self.used.values())

    @invariant()
    def counters_equal_the_model(self) -> None:
        """The account says what the model says."""
        if hasattr(self, "book"):
            for start, used in self.used.items():
                assert self.book.account.counter(CounterKey(1, "api", start)).used == used


OneCustomer.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
TestOneCustomer = OneCustomer.TestCase


@given(st.lists(quantities, max_size=25), st.decimals(0, 60, places=2))
def test_an_evaluate_tells_what_a_consume_would_do(sent: list[Decimal], asked: Decimal) -> None:
    """Evaluate allows exactly what consume then admits."""
    book = Ledger(account_on(plan_of(capped(100)), starts_at=START))
    for units in sent:
        foretold = entitlements.decide(book.account, "api", NOW, units)
        assert isinstance(book.consume(event(feature_key="api", usage_units=units)), Recorded) is foretold.allowed
    before = book.account.counters.copy()
    if asked:
        entitlements.decide(book.account, "api", NOW, asked)
    assert book.account.counters == before


@pytest.mark.parametrize(
    ("plans", "feature", "reason"),
    [
        ([], "api", Reason.NO_SUBSCRIPTION),
        (['{ model = "included" }'], "other", Reason.NOT_IN_PLAN),
        (['{ model = "included" }'], "api", Reason.INCLUDED),
        (['{ model = "included", max_usage = 0 }'], "api", Reason.INCLUDED),
        ([capped(5)], "api", Reason.WITHIN_LIMIT),
    ],
)
def test_the_reason_is_one_of_a_closed_list(plans: list[str], feature: str, reason: Reason) -> None:
    """No subscription, not in the plan, no limit (0 is none), within the limit: each has its reason and words."""
    answer = entitlements.decide(account_on(*map(plan_of, plans), starts_at=START), feature, NOW)
    assert answer.reason is reason
    assert answer.allowed is (reason in (Reason.INCLUDED, Reason.WITHIN_LIMIT))
    assert entitlements.DESCRIPTIONS[reason]


def test_every_reason_has_words() -> None:
    """No answer is without a sentence for people."""
    assert set(entitlements.DESCRIPTIONS) == set(Reason)


def test_an_entitlement_ends_with_the_subscription_at_the_instant_asked() -> None:
    """Allowed until the last microsecond, denied at the end itself; no job has to run (P7)."""
    account = account_on(plan_of(capped(5)), starts_at=START, ends_at=NOW)
    assert entitlements.decide(account, "api", NOW - 1).allowed
    assert entitlements.decide(account, "api", NOW).reason is Reason.NO_SUBSCRIPTION
    assert entitlements.decide(account, "api", START - 1).reason is Reason.NO_SUBSCRIPTION


def test_usage_is_new_at_the_instant_a_period_begins() -> None:
    """Limit reached a microsecond before the boundary, nothing used at it (P7)."""
    book = Ledger(account_on(plan_of(capped(5)), starts_at=START))
    book.consume(event(at=NEXT - 1, feature_key="api", usage_units=5))
    assert entitlements.decide(book.account, "api", NEXT - 1).reason is Reason.LIMIT_REACHED
    assert entitlements.decide(book.account, "api", NEXT).used == 0
