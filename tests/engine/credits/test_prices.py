"""Prices of credits: what one costs at an instant, and how prices are published (CONTRACTS 1.7)."""

from decimal import Decimal

import msgspec
import pytest

from support import NOW
from tallyd.engine.credits.prices import NO_PRICES, Price, Prices, new_price, price_id, publish_prices
from tallyd.engine.credits.schedules import Published
from tallyd.model.catalog import CreditPrice
from tallyd.model.moments import DAY_US
from tallyd.model.problems import Code, Problem


def price(value: str, currency: str = "USD", model: str = "tokens") -> CreditPrice:
    """A price of a credit."""
    return CreditPrice(credit_model=model, price=Decimal(value), currency=currency)


def row(value: str, begins: int, currency: str = "USD", model: str = "tokens") -> Price:
    """A price that was published long ago."""
    return new_price(price(value, currency, model), begins, 0)


def test_the_latest_price_up_to_the_instant_counts() -> None:
    """A price holds from its instant on; before the first there is none."""
    prices = Prices([row("0.02", NOW), row("0.01", NOW - DAY_US)])
    assert prices.current("tokens", NOW - DAY_US - 1) is None
    assert prices.current("tokens", NOW - 1) == row("0.01", NOW - DAY_US)
    assert prices.current("tokens", NOW) == row("0.02", NOW)
    assert prices.current("other", NOW) is None


def test_each_currency_has_its_own_price() -> None:
    """Asked for a currency, its price counts; asked for none, the one that was published last."""
    prices = Prices([row("0.01", NOW - 2), row("0.03", NOW - 1, "EUR")])
    assert prices.current("tokens", NOW, "USD") == row("0.01", NOW - 2)
    assert prices.current("tokens", NOW, "GBP") is None
    assert prices.current("tokens", NOW) == row("0.03", NOW - 1, "EUR")
    assert [each.currency for each in prices.in_force(NOW)] == ["EUR", "USD"]


def test_what_is_scheduled_is_not_in_force() -> None:
    """A future price is listed as such, and in nothing else."""
    prices = Prices([row("0.01", NOW), row("0.02", NOW + 1)])
    assert prices.in_force(NOW) == [row("0.01", NOW)]
    assert prices.scheduled(NOW) == [row("0.02", NOW + 1)]


def test_the_same_batch_gives_the_same_rows_and_another_conflicts() -> None:
    """Publishing again what was published changes nothing; something else at that instant is a conflict (1.2)."""
    first = publish_prices(NO_PRICES, [price("0.01")], NOW, NOW)
    assert isinstance(first, Published)
    held = Prices(first.rows)
    again = publish_prices(held, [price("0.010")], NOW, NOW)
    assert isinstance(again, Published)
    assert (again.repeated, again.rows) == (True, first.rows)
    other = publish_prices(held, [price("0.02")], NOW, NOW)
    assert isinstance(other, Problem)
    assert other.code is Code.CONFLICT


@pytest.mark.parametrize(
    ("batch", "begins", "field"),
    [
        ([], NOW, "prices"),
        ([price("0.01")], NOW - 1, "effectiveFrom"),
        ([price("0.01")], 2**60, "effectiveFrom"),
        ([price("0")], NOW, "prices[0].pricePerCredit"),
        ([price("0.0000001")], NOW, "prices[0].pricePerCredit"),
        ([price("1000001")], NOW, "prices[0].pricePerCredit"),
        ([price("1", "usd")], NOW, "prices[0].currency"),
        ([price("1", "$")], NOW, "prices[0].currency"),
        ([price("1"), price("2")], NOW, "prices[1]"),
    ],
)
def test_a_bad_batch_is_refused_by_field(batch: list[CreditPrice], begins: int, field: str) -> None:
    """Positive, at most a million and 6 digits, a currency, not in the past, nothing twice (1.7)."""
    problem = publish_prices(NO_PRICES, batch, begins, NOW)
    assert isinstance(problem, Problem)
    assert (problem.code, problem.field) == (Code.VALIDATION_FAILED, field)


def test_an_id_tells_a_changed_byte() -> None:
    """The id is derived from model, price, currency and instant: none can be changed unseen."""
    known = row("0.01", NOW)
    assert price_id(known) == known.id
    for changed in (
        {"credit_model": "other"},
        {"price": Decimal("0.02")},
        {"currency": "EUR"},
        {"effective_from": 1},
    ):
        assert price_id(msgspec.structs.replace(known, **changed)) != known.id
