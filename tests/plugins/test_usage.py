"""Usage pricing: units times price."""

import tomllib
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyd.model.money import round_to_currency
from tallyd.pricing import UNITS, PricingModel, TermsError
from tallyd.pricing.testing import check_law
from tallyd_usage import UsagePricing, UsageTerms, tallyd_pricing_models

quantities = st.decimals(-500, 100_000, places=3)


def read(toml: str) -> UsageTerms:
    """Read terms as the catalog does."""
    return msgspec.convert(tomllib.loads(toml, parse_float=Decimal), UsageTerms)


def priced(price: str, more: str = "") -> UsageTerms:
    """Terms with one price; `more` is further TOML."""
    return read(f'usage_unit_type = "api_calls"\nprice_per_unit = {price}\n{more}')


def test_the_hook_offers_it_by_its_name() -> None:
    """A plan that says `usage` finds this model."""
    assert [model.name for model in tallyd_pricing_models()] == ["usage"]


@pytest.mark.parametrize(
    ("events", "price", "exact", "rounded"),
    [
        ([3], "0.333", "0.999", "1.00"),  # CONTRACTS 1.6
        ([1] * 100, "0.001", "0.100", "0.10"),  # rounding each event would bill 0.00
        ([], "0.05", "0", "0.00"),
        ([1000], '"0.05"', "50", "50.00"),
    ],
)
def test_the_period_is_summed_and_rounded_once(events: list[int], price: str, exact: str, rounded: str) -> None:
    """Charges stay exact until the one rounding at the invoice line."""
    charged = check_law(UsagePricing(), priced(price), [{UNITS: Decimal(units)} for units in events])
    assert charged == Decimal(exact)
    assert str(round_to_currency(charged, "USD")) == rounded


@given(st.decimals(0, 1000, places=9), st.lists(quantities))
def test_any_events_keep_the_law(price: Decimal, events: list[Decimal]) -> None:
    """Marginals sum to the rating for any price and any quantities in any order, below zero too."""
    check_law(UsagePricing(), priced(f'"{price}"'), [{UNITS: quantity} for quantity in events])


@given(st.decimals(0, 1000, places=9), quantities, quantities)
def test_the_fast_marginal_is_the_slow_one(price: Decimal, used: Decimal, added: Decimal) -> None:
    """The short cut gives what the difference of two ratings gives."""
    model, terms = UsagePricing(), priced(f'"{price}"')
    before, event = {UNITS: used}, {UNITS: added}
    assert model.marginal(terms, before, event) == PricingModel.marginal(model, terms, before, event)


def test_usage_below_zero_is_priced_as_zero() -> None:
    """A meter that falls below zero charges nothing, and what lifts it back to zero is free."""
    model, terms = UsagePricing(), priced("2")
    (step,) = model.rate(terms, {UNITS: Decimal(-5)})
    assert step.amount == 0
    assert model.marginal(terms, {UNITS: Decimal(-5)}, {UNITS: Decimal(8)}) == 6
    assert model.marginal(terms, {UNITS: Decimal(3)}, {UNITS: Decimal(-8)}) == -6


def test_the_rating_explains_itself() -> None:
    """One step says how many units at which price, and multiplies out."""
    (step,) = UsagePricing().rate(priced("0.050"), {UNITS: Decimal("1500.50")})
    assert step.words == "1,500.5 api_calls at 0.050"
    assert (step.quantity, step.unit_price, step.amount) == (
        Decimal("1500.50"),
        Decimal("0.050"),
        Decimal("75.025"),
    )


@pytest.mark.parametrize(("cap", "limit"), [("", None), ("max_usage = 0", None), ("max_usage = 7", Decimal(7))])
def test_max_usage_is_the_limit_and_zero_is_none(cap: str, limit: Decimal | None) -> None:
    """A cap is the limit in units; 0 or none means no cap."""
    assert UsagePricing().limit(priced("1", cap)) == limit


@pytest.mark.parametrize(("more", "accumulates"), [("", False), ('reset_mode = "accumulate"', True)])
def test_usage_starts_anew_unless_it_accumulates(more: str, *, accumulates: bool) -> None:
    """`reset` is the default; `accumulate` runs on through the periods."""
    assert UsagePricing().accumulates(priced("1", more)) is accumulates


@pytest.mark.parametrize(
    ("toml", "key"),
    [
        ('usage_unit_type = " "\nprice_per_unit = 1', "usage_unit_type"),
        ('usage_unit_type = "calls"\nprice_per_unit = -0.01', "price_per_unit"),
        ('usage_unit_type = "calls"\nprice_per_unit = nan', "price_per_unit"),
        ('usage_unit_type = "calls"\nprice_per_unit = 1e-19', "price_per_unit"),
        ('usage_unit_type = "calls"\nprice_per_unit = 1\nmax_usage = -1', "max_usage"),
        ('usage_unit_type = "calls"\nprice_per_unit = 1\nmax_usage = inf', "max_usage"),
    ],
)
def test_terms_that_cannot_be_priced_are_refused_by_name(toml: str, key: str) -> None:
    """A nameless unit, and a number that is negative, endless or too fine, are refused, naming the key."""
    with pytest.raises(TermsError) as refused:
        UsagePricing().check(read(toml))
    assert refused.value.field == key


@pytest.mark.parametrize(
    ("toml", "key"),
    [
        ("price_per_unit = 1", "usage_unit_type"),
        ('usage_unit_type = "calls"', "price_per_unit"),
        ('usage_unit_type = "calls"\nprice_per_unit = "cheap"', "price_per_unit"),
        ('usage_unit_type = "calls"\nprice_per_unit = 1\nreset_mode = "never"', "reset_mode"),
        ('usage_unit_type = "calls"\nprice_per_unit = 1\nprice_per_units = 1', "price_per_units"),
    ],
)
def test_missing_and_misspelt_keys_are_refused_by_name(toml: str, key: str) -> None:
    """A missing unit or price, a wrong type and an unknown key are refused when the terms are read."""
    with pytest.raises(msgspec.ValidationError, match=key):
        read(toml)
