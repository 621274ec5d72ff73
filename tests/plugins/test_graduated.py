"""Graduated pricing: each unit in its own tier, each tier's fee once."""

import tomllib
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyd.model.money import ZERO, round_to_currency
from tallyd.pricing import UNITS, PricingModel, TermsError
from tallyd.pricing.testing import check_law
from tallyd_graduated import Graduated, GraduatedTerms, tallyd_pricing_models

UPSTREAM = """
usage_unit_type = "tokens"
tiers = [
    { up_to = 1000, price_per_unit = 0, flat_fee = 10 },
    { up_to = 10000, price_per_unit = 0.001, flat_fee = 5 },
    { up_to = "inf", price_per_unit = "0.0001" },
]
"""
LAST = {"up_to": "inf", "price_per_unit": 1}

prices = st.decimals(0, 100, places=6)
quantities = st.decimals(-50, 300, places=3)


def read(toml: str) -> GraduatedTerms:
    """Read terms as the catalog does."""
    return msgspec.convert(tomllib.loads(toml, parse_float=Decimal), GraduatedTerms)


def with_tiers(*tiers: dict[str, Any], **more: Any) -> GraduatedTerms:
    """Terms with these tiers."""
    return msgspec.convert({"usage_unit_type": "tokens", "tiers": tiers, **more}, GraduatedTerms)


@st.composite
def some_terms(draw: st.DrawFn, ends: st.SearchStrategy[Any]) -> GraduatedTerms:
    """Good terms of up to five tiers that end at `ends`."""
    boundaries = [*sorted(draw(st.sets(ends, max_size=4))), "inf"]
    fees = st.sampled_from([Decimal(0), Decimal(5), Decimal("0.01")])
    return with_tiers(
        *({"up_to": end, "price_per_unit": draw(prices), "flat_fee": draw(fees)} for end in boundaries)
    )


whole_tiers = some_terms(st.integers(1, 200))
fine_tiers = some_terms(st.decimals("0.001", 200, places=3))


def unit_by_unit(terms: GraduatedTerms, units: int) -> Decimal:
    """Price whole units one at a time: the slow way that cannot be wrong."""
    charge, entered = ZERO, set()
    for unit in range(1, units + 1):
        number, tier = next((n, tier) for n, tier in enumerate(terms.tiers) if unit <= tier.up_to)
        charge += tier.price_per_unit + (ZERO if number in entered else tier.flat_fee)
        entered.add(number)
    return charge


def test_the_hook_offers_it_by_its_name() -> None:
    """A plan that says `graduated` finds this model."""
    assert [model.name for model in tallyd_pricing_models()] == ["graduated"]


@pytest.mark.parametrize(
    ("units", "exact", "rounded"),
    [
        ("0", "0", "0.00"),
        ("500", "10", "10.00"),
        ("1000", "10", "10.00"),
        ("1000.001", "15.000001", "15.00"),
        ("1001", "15.001", "15.00"),
        ("10000", "24", "24.00"),
        ("15000", "24.5", "24.50"),
        ("-3", "0", "0.00"),
    ],
)
def test_the_vectors_of_the_contract(units: str, exact: str, rounded: str) -> None:
    """Upstream's worked examples (CONTRACTS 1.6) are exact, then rounded once at the invoice line."""
    charged = check_law(Graduated(), read(UPSTREAM), [{UNITS: Decimal(units)}])
    assert charged == Decimal(exact)
    assert str(round_to_currency(charged, "USD")) == rounded


@given(whole_tiers, st.integers(0, 250))
def test_whole_units_cost_what_they_cost_one_by_one(terms: GraduatedTerms, units: int) -> None:
    """Pricing by tier is pricing each unit in its own tier, with each fee once."""
    assert check_law(Graduated(), terms, [{UNITS: Decimal(units)}]) == unit_by_unit(terms, units)


@given(whole_tiers | fine_tiers, st.lists(quantities, max_size=12))
def test_any_events_keep_the_law(terms: GraduatedTerms, events: list[Decimal]) -> None:
    """Marginals sum to the rating for any tiers and any quantities in any order, below zero too."""
    check_law(Graduated(), terms, [{UNITS: quantity} for quantity in events])


@given(whole_tiers, st.integers(-60, 250), st.integers(-60, 250))
def test_the_fast_marginal_is_the_slow_one(terms: GraduatedTerms, used: int, added: int) -> None:
    """The short cut gives what the difference of two ratings gives, on and beside every boundary."""
    model = Graduated()
    before, event = {UNITS: Decimal(used)}, {UNITS: Decimal(added)}
    assert model.marginal(terms, before, event) == PricingModel.marginal(model, terms, before, event)


@given(fine_tiers, st.decimals(0, 300, places=3))
def test_the_quantities_of_the_steps_are_the_usage(terms: GraduatedTerms, units: Decimal) -> None:
    """Every unit is in exactly one step (P5)."""
    steps = Graduated().rate(terms, {UNITS: units})
    assert sum(step.quantity for step in steps) == units


@given(fine_tiers, st.decimals(0, 300, places=3))
def test_every_step_multiplies_out(terms: GraduatedTerms, units: Decimal) -> None:
    """A step with a unit price amounts to quantity times price; one without is a fee for no units."""
    for step in Graduated().rate(terms, {UNITS: units}):
        if step.unit_price is None:
            assert step.quantity == 0
        else:
            assert step.amount == step.quantity * step.unit_price


def test_the_rating_explains_itself() -> None:
    """Each tier that units fall in is a step in words, followed by its fee when it has one."""
    steps = Graduated().rate(read(UPSTREAM), {UNITS: Decimal(15_000)})
    assert [(step.words, step.amount) for step in steps] == [
        ("1,000 tokens in tier 1 (up to 1,000) at 0", Decimal(0)),
        ("flat fee of tier 1", Decimal(10)),
        ("9,000 tokens in tier 2 (up to 10,000) at 0.001", Decimal(9)),
        ("flat fee of tier 2", Decimal(5)),
        ("5,000 tokens in tier 3 (all others) at 0.0001", Decimal("0.5")),
    ]


def test_no_usage_has_no_steps() -> None:
    """A period without usage has nothing to explain, and pays no fee."""
    assert not Graduated().rate(read(UPSTREAM), {})


def test_giving_back_all_of_a_tier_gives_back_its_fee() -> None:
    """A correction that empties a tier takes its flat fee off again."""
    used, back = {UNITS: Decimal(1001)}, {UNITS: Decimal(-1)}
    assert Graduated().marginal(read(UPSTREAM), used, back) == Decimal("-5.001")


@pytest.mark.parametrize(("cap", "limit"), [({}, None), ({"max_usage": 0}, None), ({"max_usage": 7}, Decimal(7))])
def test_max_usage_is_the_limit_and_zero_is_none(cap: dict[str, int], limit: Decimal | None) -> None:
    """A cap is the limit in units; 0 or none means no cap."""
    terms = with_tiers(LAST, **cap)
    Graduated().check(terms)
    assert Graduated().limit(terms) == limit


@pytest.mark.parametrize(("more", "accumulates"), [({}, False), ({"reset_mode": "accumulate"}, True)])
def test_usage_starts_anew_unless_it_accumulates(more: dict[str, str], *, accumulates: bool) -> None:
    """`reset` is the default; `accumulate` goes on in the tier where the last period ended."""
    assert Graduated().accumulates(with_tiers(LAST, **more)) is accumulates


@pytest.mark.parametrize(
    ("tiers", "key"),
    [
        ([], "tiers"),
        ([{"up_to": 10, "price_per_unit": 1}], "tiers[0].up_to"),
        ([{"up_to": "nan", "price_per_unit": 1}], "tiers[0].up_to"),
        ([{"up_to": "-inf", "price_per_unit": 1}], "tiers[0].up_to"),
        ([{"up_to": 0, "price_per_unit": 1}, LAST], "tiers[0].up_to"),
        ([{"up_to": "nan", "price_per_unit": 1}, LAST], "tiers[0].up_to"),
        ([LAST, LAST], "tiers[0].up_to"),
        ([{"up_to": 10, "price_per_unit": 1}, {"up_to": 10, "price_per_unit": 1}, LAST], "tiers[1].up_to"),
        ([{"up_to": 10, "price_per_unit": 1}, {"up_to": 9, "price_per_unit": 1}, LAST], "tiers[1].up_to"),
        ([{"up_to": "inf", "price_per_unit": -1}], "tiers[0].price_per_unit"),
        (
            [{"up_to": 5, "price_per_unit": 1}, {"up_to": "inf", "price_per_unit": "inf"}],
            "tiers[1].price_per_unit",
        ),
        ([{"up_to": "inf", "price_per_unit": 1, "flat_fee": "-0.01"}], "tiers[0].flat_fee"),
    ],
)
def test_tiers_that_cannot_be_priced_are_refused_by_name(tiers: list[dict[str, Any]], key: str) -> None:
    """No tiers, tiers out of order or without an end, and negative prices are refused, naming the key."""
    with pytest.raises(TermsError) as refused:
        Graduated().check(with_tiers(*tiers))
    assert refused.value.field == key


@pytest.mark.parametrize(("key", "value"), [("usage_unit_type", ""), ("max_usage", -1), ("max_usage", "1e30")])
def test_other_terms_are_refused_by_name(key: str, value: Any) -> None:
    """A nameless unit and a cap that cannot be kept are refused, naming the key."""
    with pytest.raises(TermsError) as refused:
        Graduated().check(with_tiers(LAST, **{key: value}))
    assert refused.value.field == key


@pytest.mark.parametrize(
    ("tier", "message"),
    [
        ({"price_per_unit": 1}, r"`up_to` - at `\$\.tiers\[1\]`"),
        ({"up_to": "inf"}, r"`price_per_unit` - at `\$\.tiers\[1\]`"),
        ({"up_to": "inf", "price_per_unit": 1, "fee": 1}, r"`fee` - at `\$\.tiers\[1\]`"),
        ({"up_to": "all", "price_per_unit": 1}, r"\$\.tiers\[1\]\.up_to"),
    ],
)
def test_missing_and_misspelt_keys_are_refused_by_name(tier: dict[str, Any], message: str) -> None:
    """A tier without an end or a price, or with an unknown key, is refused when the terms are read."""
    with pytest.raises(msgspec.ValidationError, match=message):
        with_tiers({"up_to": 5, "price_per_unit": 1}, tier)
