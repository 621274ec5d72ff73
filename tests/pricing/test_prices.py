"""Prices as plain values: what a request costs, and which prices hold when."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyd.model.moments import DAY_US, HOUR_US, MINUTE_US
from tallyd.pricing import DatedPrices, ProviderPrices, TokenPrices

FULL = TokenPrices(
    per_million={
        "input": Decimal("2.50"),
        "output": Decimal(10),
        "cache_read": Decimal("1.25"),
        "cache_write": Decimal("3.125"),
        "reasoning": Decimal(12),
    }
)
PLAIN = TokenPrices(per_million={"input": Decimal("2.50"), "output": Decimal(10)})
LONG = TokenPrices(
    per_million={"input": Decimal(1), "output": Decimal(2)},
    tiers={
        "input": ((Decimal(1000), Decimal(3)), (Decimal(5000), Decimal(7))),
        "output": ((Decimal(1000), Decimal(4)),),
    },
)
A_DAY = 20_000 * DAY_US


def prices(per_million: int) -> TokenPrices:
    """Prices that can be told apart by one number."""
    return TokenPrices(per_million={"input": Decimal(per_million)})


@pytest.mark.parametrize(
    ("kind", "full", "plain"),
    [
        ("input", "0.0000025", "0.0000025"),
        ("output", "0.00001", "0.00001"),
        ("cache_read", "0.00000125", "0.0000025"),
        ("cache_write", "0.000003125", "0.0000025"),
        ("reasoning", "0.000012", "0.00001"),
    ],
)
def test_a_kind_without_its_own_price_takes_its_parents(kind: str, full: str, plain: str) -> None:
    """Cache kinds without a price are input, reasoning without a price is output; a listed price wins."""
    assert FULL.cost({kind: Decimal(1)}) == Decimal(full)
    assert PLAIN.cost({kind: Decimal(1)}) == Decimal(plain)


def test_a_cost_is_exact() -> None:
    """The cost of a request keeps every digit."""
    tokens = {"input": Decimal(1), "output": Decimal(3), "cache_read": Decimal(7)}
    assert FULL.cost(tokens) == Decimal("0.00004125")


def test_tokens_without_a_price_have_no_cost() -> None:
    """One kind without a price makes the whole cost unknown, unless there are no tokens of it."""
    embedding = prices(1)
    assert embedding.cost({"input": Decimal(5), "output": Decimal(1)}) is None
    assert embedding.cost({"input": Decimal(5), "output": Decimal(0)}) == Decimal("0.000005")
    assert embedding.cost({"input": Decimal(5), "smell": Decimal(1)}) is None


def test_no_tokens_cost_nothing() -> None:
    """A request without tokens costs zero, not nothing known."""
    assert FULL.cost({}) == 0


@pytest.mark.parametrize(
    ("tokens", "cost"),
    [
        ({"input": 1000, "output": 1}, 1000 * 1 + 1 * 2),
        ({"input": 1001, "output": 1}, 1001 * 3 + 1 * 4),
        ({"input": 5000, "output": 1}, 5000 * 3 + 1 * 4),
        ({"input": 5001, "output": 1}, 5001 * 7 + 1 * 4),
        ({"input": 1, "cache_read": 500, "cache_write": 500}, 1001 * 3),
        ({"output": 9000, "reasoning": 9000}, 18_000 * 2),
    ],
)
def test_all_tokens_of_a_long_request_pay_the_long_price(tokens: dict[str, int], cost: int) -> None:
    """More input than a tier's threshold, cached tokens counted, moves all tokens to its price."""
    exact = {kind: Decimal(count) for kind, count in tokens.items()}
    assert LONG.cost(exact) == Decimal(cost).scaleb(-6)


@given(
    first=st.dictionaries(st.sampled_from(sorted(FULL.per_million)), st.decimals(0, 10**9, places=0)),
    second=st.dictionaries(st.sampled_from(sorted(FULL.per_million)), st.decimals(0, 10**9, places=0)),
)
def test_untiered_cost_is_additive(first: dict[str, Decimal], second: dict[str, Decimal]) -> None:
    """Without tiers, two requests cost together what one with all their tokens costs."""
    kinds = first.keys() | second.keys()
    both = {kind: first.get(kind, Decimal(0)) + second.get(kind, Decimal(0)) for kind in kinds}
    costs = [FULL.cost(tokens) for tokens in (first, second, both)]
    assert costs[0] is not None
    assert costs[1] is not None
    assert costs[0] + costs[1] == costs[2]


def test_prices_hold_from_their_first_microsecond() -> None:
    """The instant `valid_from` has the new prices, the microsecond before it does not."""
    dated = DatedPrices(prices=prices(1), valid_from=A_DAY)
    assert dated.hold_at(A_DAY)
    assert not dated.hold_at(A_DAY - 1)


@pytest.mark.parametrize(
    ("time_of_day", "holds"),
    [
        (8 * HOUR_US - 1, False),
        (8 * HOUR_US, True),
        (17 * HOUR_US + 30 * MINUTE_US - 1, True),
        (17 * HOUR_US + 30 * MINUTE_US, False),
    ],
)
def test_daily_prices_hold_for_a_half_open_part_of_the_day(time_of_day: int, *, holds: bool) -> None:
    """Daily prices hold from their start until just before their end, UTC."""
    daily = DatedPrices(prices=prices(1), daily=(8 * HOUR_US, 17 * HOUR_US + 30 * MINUTE_US))
    assert daily.hold_at(A_DAY + time_of_day) is holds


@pytest.mark.parametrize(
    ("time_of_day", "holds"),
    [
        (22 * HOUR_US, True),
        (0, True),
        (6 * HOUR_US - 1, True),
        (6 * HOUR_US, False),
        (22 * HOUR_US - 1, False),
    ],
)
def test_daily_prices_may_run_over_midnight(time_of_day: int, *, holds: bool) -> None:
    """A start later than the end means the night between them."""
    nightly = DatedPrices(prices=prices(1), daily=(22 * HOUR_US, 6 * HOUR_US))
    assert nightly.hold_at(A_DAY + time_of_day) is holds


def test_daily_prices_wait_for_their_date() -> None:
    """Prices with both a date and hours hold only when both do."""
    dated = DatedPrices(prices=prices(1), valid_from=A_DAY, daily=(8 * HOUR_US, 9 * HOUR_US))
    assert dated.hold_at(A_DAY + 8 * HOUR_US)
    assert not dated.hold_at(A_DAY - DAY_US + 8 * HOUR_US)


def test_the_last_prices_that_hold_are_the_prices() -> None:
    """History is read from its end: off-peak prices win while they hold, dated ones from their date on."""
    history = (
        DatedPrices(prices=prices(1)),
        DatedPrices(prices=prices(2), valid_from=A_DAY),
        DatedPrices(prices=prices(3), daily=(8 * HOUR_US, 9 * HOUR_US)),
    )
    known = ProviderPrices(model="gpt-4o", provider="openai", source="test", history=history)
    assert known.at(A_DAY - 1) == prices(1)
    assert known.at(A_DAY) == prices(2)
    assert known.at(A_DAY + 8 * HOUR_US) == prices(3)


def test_before_all_prices_the_first_one_counts() -> None:
    """An event older than the first known price pays that price: old usage is not free."""
    history = (
        DatedPrices(prices=prices(1), valid_from=A_DAY),
        DatedPrices(prices=prices(2), valid_from=A_DAY + DAY_US),
    )
    known = ProviderPrices(model="gpt-4o", provider="openai", source="test", history=history)
    assert known.at(A_DAY - 1) == prices(1)
