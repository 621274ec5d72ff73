"""Included features: counted, capped, never charged."""

import tomllib
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyd.pricing import UNITS, TermsError
from tallyd.pricing.testing import check_law
from tallyd_included import Included, IncludedTerms, tallyd_pricing_models


def read(toml: str = "") -> IncludedTerms:
    """Read terms as the catalog does."""
    return msgspec.convert(tomllib.loads(toml, parse_float=Decimal), IncludedTerms)


def test_the_hook_offers_it_by_its_name() -> None:
    """A plan that says `included` finds this model."""
    assert [model.name for model in tallyd_pricing_models()] == ["included"]


def test_its_terms_may_be_empty() -> None:
    """A feature without terms is included without a cap, and starts anew in each period."""
    model, terms = Included(), read()
    model.check(terms)
    assert model.limit(terms) is None
    assert not model.accumulates(terms)


def test_the_rating_says_how_much_was_used_for_nothing() -> None:
    """One step has the whole usage at a price of zero, in words."""
    (step,) = Included().rate(read('usage_unit_type = "exports"'), {UNITS: Decimal("1234.50")})
    assert step.words == "1,234.5 exports, included in the plan"
    assert step.quantity == Decimal("1234.50")
    assert step.unit_price == 0
    assert step.amount == 0


@given(st.lists(st.decimals(-1000, 100_000, places=3)))
def test_no_events_cost_anything(quantities: list[Decimal]) -> None:
    """Any usage, in any order, keeps the law at a charge of zero."""
    assert check_law(Included(), read(), [{UNITS: quantity} for quantity in quantities]) == 0


@pytest.mark.parametrize(("cap", "limit"), [("100", Decimal(100)), ('"0.5"', Decimal("0.5")), ("0", None)])
def test_max_usage_is_the_limit_and_zero_is_none(cap: str, limit: Decimal | None) -> None:
    """A cap is the limit in units; 0 means no cap."""
    terms = read(f"max_usage = {cap}")
    Included().check(terms)
    assert Included().limit(terms) == limit


def test_usage_may_accumulate() -> None:
    """With `reset_mode = "accumulate"` the count runs on through the periods."""
    assert Included().accumulates(read('reset_mode = "accumulate"'))


@pytest.mark.parametrize("cap", ["-1", "nan", '"Infinity"', '"1e21"', '"0.0000000000000000001"'])
def test_a_cap_must_be_a_number_that_can_be_kept(cap: str) -> None:
    """A negative, endless or over-long cap is refused, naming the key."""
    with pytest.raises(TermsError) as refused:
        Included().check(read(f"max_usage = {cap}"))
    assert refused.value.field == "max_usage"


@pytest.mark.parametrize(
    ("toml", "key"),
    [
        ('reset_mode = "never"', "reset_mode"),
        ("price_per_unit = 1", "price_per_unit"),
        ("max_usage = true", "max_usage"),
    ],
)
def test_wrong_keys_and_types_are_refused_by_name(toml: str, key: str) -> None:
    """A reset mode or key that does not exist is refused when the terms are read, naming the key."""
    with pytest.raises(msgspec.ValidationError, match=key):
        read(toml)
