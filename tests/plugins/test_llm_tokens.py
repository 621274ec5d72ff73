"""Token pricing: rates by kind and model, or provider cost plus a percentage."""

import tomllib
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyd.pricing import Measure, PricingModel, TermsError, Unpriced, Usage, token_dimension
from tallyd.pricing.testing import check_law
from tallyd_llm_tokens import (
    PRICES_REMEMBERED,
    LLMTokens,
    LLMTokensTerms,
    tallyd_pricing_models,
)

KINDS = ("input", "output", "cache_read", "cache_write", "reasoning")
RATE = {"input": 1, "output": 2}

counts = st.decimals(0, 10**9, places=0)
rates = st.decimals(0, 1000, places=6)


def read(toml: str) -> LLMTokensTerms:
    """Read terms as the catalog does."""
    return msgspec.convert(tomllib.loads(toml, parse_float=Decimal), LLMTokensTerms)


def with_terms(**terms: Any) -> LLMTokensTerms:
    """Terms from plain values."""
    return msgspec.convert(terms, LLMTokensTerms)


def tokens(model: str, **count: int | str) -> dict[str, Decimal]:
    """One event's quantities, `cost` among them."""
    return {token_dimension(kind, model): Decimal(number) for kind, number in count.items()}


BY_RATE = read("""
rates."gpt-4o" = { input = 2.50, output = 10, cache_read = "1.25" }
rates."o3" = { input = 2, output = 8, cache_write = 3, reasoning = 16 }
rates."*" = { input = 5, output = 20 }
""")
BY_COST = with_terms(markup_percent=30)


def test_the_hook_offers_it_by_its_name_for_tokens() -> None:
    """A plan that says `llm_tokens` finds this model, which prices tokens instead of units."""
    (model,) = tallyd_pricing_models()
    assert model.name == "llm_tokens"
    assert model.measure is Measure.TOKENS


@pytest.mark.parametrize(
    ("event", "charge"),
    [
        (tokens("gpt-4o", input=1_000_000), "2.5"),
        (tokens("gpt-4o", input=1, output=1), "0.0000125"),
        (tokens("gpt-4o", cache_read=1_000_000), "1.25"),
        (tokens("gpt-4o", cache_write=1_000_000), "2.5"),  # as input
        (tokens("gpt-4o", reasoning=1_000_000), "10"),  # as output
        (tokens("o3", cache_read=1_000_000), "2"),
        (tokens("o3", cache_write=1_000_000), "3"),
        (tokens("o3", reasoning=1_000_000), "16"),
        (tokens("unheard-of", input=1_000_000), "5"),
        (tokens("", output=1_000_000), "20"),
        (tokens("gpt-4o", input=1_000_000, cost="999"), "2.5"),  # cost is not priced by rates
        (tokens("gpt-4o", input=0, output=0), "0"),
    ],
)
def test_tokens_are_priced_by_kind_and_model(event: Usage, charge: str) -> None:
    """Each kind has its rate per million; missing cache kinds are input, missing reasoning is output."""
    assert check_law(LLMTokens(), BY_RATE, [event]) == Decimal(charge)


@pytest.mark.parametrize(("per", "charge"), [("1", "7"), ("1000", "0.007"), ('"1e6"', "0.000007")])
def test_a_rate_may_be_per_any_power_of_ten(per: str, charge: str) -> None:
    """`per` says how many tokens a rate is for, and the price of one stays exact."""
    terms = read(f'per = {per}\nrates."*" = {{ input = 7, output = 7 }}')
    assert check_law(LLMTokens(), terms, [tokens("any", input=1)]) == Decimal(charge)


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("gpt-4o", "gpt-4o"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-latest", "gpt-4o"),
        ("gpt-4o-preview", "gpt-4o"),
        ("gpt-4o:v2", "gpt-4o"),
        ("gpt-4o-0613", "gpt-4o"),
        ("claude-sonnet-4-20250514", "claude-sonnet-4"),
        ("claude-sonnet-4@20250514", "claude-sonnet-4"),
        ("claude-sonnet-4-20250514-v1:0", "claude-sonnet-4"),
        ("gemini-2.5-pro-preview-05-06", "gemini-2.5-pro"),
        ("gemini-2.5-pro-002", "gemini-2.5-pro"),
        ("gpt-4o-mini", None),
        ("gpt-4o-mini-2024-07-18", None),
        ("gpt-4o.1", None),
        ("gpt-4o-5", None),
        ("claude-sonnet-4-5", None),
        ("claude-sonnet-4-5-20250929", None),
        ("gpt-4o-", None),
        ("gpt-4o2024", None),
        ("GPT-4o", None),
        ("", None),
    ],
)
def test_a_version_is_priced_as_its_model_and_another_model_is_not(sent: str, name: str | None) -> None:
    """Dates and revisions after a configured name are that model; any other ending is a model of its own."""
    names = ("gpt-4o", "claude-sonnet-4", "gemini-2.5-pro")
    assert with_terms(rates=dict.fromkeys(names, RATE)).named_rate(sent) == name
    assert with_terms(rates=dict.fromkeys((*names, "*"), RATE)).named_rate(sent) == (name or "*")


@pytest.mark.parametrize("sent", ["gpt-4o-2024-08-06", "gpt-4o-2024-08-06-preview"])
def test_the_longest_name_wins(sent: str) -> None:
    """A version that has its own rate is priced by it, in whichever order the rates stand."""
    names = ("gpt-4o", "gpt-4o-2024", "gpt-4o-2024-08-06", "*")
    for ordered in (names, names[::-1]):
        assert with_terms(rates=dict.fromkeys(ordered, RATE)).named_rate(sent) == "gpt-4o-2024-08-06"


def test_a_name_made_to_be_slow_is_looked_up_at_once() -> None:
    """A model name of many version-like parts that fails at its end does not make the lookup explode."""
    assert with_terms(rates={"m": RATE}).named_rate("m" + "-2024-08-06-v1:0" * 5000 + "x") is None


def test_the_memory_of_model_names_is_bounded() -> None:
    """Senders may invent model names without end: only so many prices are remembered (P11)."""
    terms = with_terms(rates={"*": RATE})
    for number in range(PRICES_REMEMBERED + 50):
        LLMTokens().marginal(terms, {}, tokens(f"model{number}", input=1))
    assert terms.price_of.cache_info().currsize == PRICES_REMEMBERED  # type: ignore[attr-defined]


@pytest.mark.parametrize("model", ["gpt-4o-mini", "mystery"])
def test_a_model_without_a_rate_is_unpriced_by_name(model: str) -> None:
    """Tokens of a model that no rate covers are unpriced, never zero, and the reason names the model."""
    terms = with_terms(rates={"gpt-4o": RATE})
    with pytest.raises(Unpriced, match=f"10 input tokens of {model}: no rate is known"):
        LLMTokens().marginal(terms, {}, tokens(model, input=10))


def test_an_unnamed_model_without_a_rate_is_unpriced() -> None:
    """An event that names no model is priced by `*`, and without one it is unpriced."""
    with pytest.raises(Unpriced, match="an unnamed model"):
        LLMTokens().marginal(with_terms(rates={"gpt-4o": RATE}), {}, tokens("", input=10))


@pytest.mark.parametrize("event", [{}, tokens("gpt-4o", cost="0.50")])
def test_an_event_without_tokens_is_unpriced_by_rates(event: Usage) -> None:
    """Rates cannot price an event that sends no tokens: it is unpriced, never zero."""
    with pytest.raises(Unpriced, match=r"no tokens were sent|neither tokens nor a cost"):
        LLMTokens().marginal(BY_RATE, {}, event)


def test_a_markup_adds_its_percentage_to_the_cost() -> None:
    """The provider's cost plus 30 percent is the charge; the tokens behind it are not priced again."""
    event = tokens("gpt-4o", input=1000, output=50, cost="12.34")
    assert check_law(LLMTokens(), BY_COST, [event]) == Decimal("16.042")


def test_a_markup_of_zero_passes_the_cost_on() -> None:
    """`markup_percent = 0` is a way of pricing too: at cost."""
    terms = with_terms(markup_percent=0)
    assert check_law(LLMTokens(), terms, [tokens("gpt-4o", cost="0.005")]) == Decimal("0.005")


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (tokens("mystery", input=10), "10 input tokens of mystery: no provider cost is known"),
        ({}, "neither tokens nor a cost were sent"),
    ],
)
def test_a_markup_on_an_unknown_cost_is_unpriced(event: Usage, message: str) -> None:
    """Without a provider cost there is nothing to mark up: unpriced, never zero."""
    with pytest.raises(Unpriced, match=message):
        LLMTokens().marginal(BY_COST, {}, event)


def test_the_rating_by_rates_explains_itself() -> None:
    """Each model and kind has a step, in order, that says its rate and whose it is, or that none is known."""
    terms = with_terms(rates={"gpt-4o": {"input": "2.50", "output": 10}})
    usage = {
        **tokens("mystery", output=7),
        **tokens("gpt-4o-2024-08-06", output=300, input=1200, cost="0.006"),
        **tokens("gpt-4o", cache_read=2000),
    }
    steps = LLMTokens().rate(terms, usage)
    assert [(step.words, step.amount) for step in steps] == [
        ("2,000 cache read tokens of gpt-4o at 2.5 per 1,000,000", Decimal("0.005")),
        ("1,200 input tokens of gpt-4o-2024-08-06 at 2.5 per 1,000,000 (priced as gpt-4o)", Decimal("0.003")),
        ("300 output tokens of gpt-4o-2024-08-06 at 10 per 1,000,000 (priced as gpt-4o)", Decimal("0.003")),
        ("7 output tokens of mystery: no rate is known", None),
    ]


def test_the_rating_by_cost_explains_itself() -> None:
    """One step for each model's cost; tokens whose cost is not known show without an amount."""
    usage = {**tokens("mystery", output=7), **tokens("gpt-4o", input=1200, cost="12.340")}
    steps = LLMTokens().rate(BY_COST, usage)
    assert [(step.words, step.unit_price, step.amount) for step in steps] == [
        ("provider cost 12.34 of gpt-4o plus 30 %", Decimal("1.3"), Decimal("16.042")),
        ("7 output tokens of mystery: no provider cost is known", None, None),
    ]


@st.composite
def some_terms(draw: st.DrawFn) -> LLMTokensTerms:
    """Good terms, by rates or by cost."""
    if draw(st.booleans()):
        return with_terms(markup_percent=draw(st.decimals(0, 500, places=3)))
    rate = st.fixed_dictionaries(
        {"input": rates, "output": rates},
        optional={"cache_read": rates, "cache_write": rates, "reasoning": rates},
    )
    names = st.sampled_from(["gpt-4o", "gpt-4o-mini", "o3", "*"])
    per = Decimal(10) ** draw(st.integers(0, 9))
    return with_terms(rates=draw(st.dictionaries(names, rate, min_size=1)), per=per)


@st.composite
def some_event(draw: st.DrawFn) -> Usage:
    """Quantities of one event: one model, some kinds, perhaps a cost."""
    model = draw(st.sampled_from(["gpt-4o", "gpt-4o-2024-08-06", "gpt-4o-mini", "o3", "unheard-of", ""]))
    event = draw(st.dictionaries(st.sampled_from(KINDS), counts))
    if draw(st.booleans()):
        event["cost"] = draw(st.decimals(0, 1000, places=9))
    return {token_dimension(kind, model): count for kind, count in event.items()}


@given(some_terms(), st.lists(some_event(), max_size=12))
def test_any_events_keep_the_law(terms: LLMTokensTerms, events: list[Usage]) -> None:
    """Marginals sum to the rating for any rates or markup, and any models and kinds in any order."""
    check_law(LLMTokens(), terms, events)


@given(some_terms(), some_event())
def test_an_event_costs_what_the_slow_marginal_says(terms: LLMTokensTerms, event: Usage) -> None:
    """A priced event costs the same through the difference of two ratings."""
    model = LLMTokens()
    try:
        charge = model.marginal(terms, {}, event)
    except Unpriced:
        return
    assert charge == PricingModel.marginal(model, terms, {}, event)


@pytest.mark.parametrize(("cap", "limit"), [({}, None), ({"max_usage": 0}, None), ({"max_usage": 7}, Decimal(7))])
def test_max_usage_is_the_limit_and_zero_is_none(cap: dict[str, int], limit: Decimal | None) -> None:
    """A cap is the limit in units; 0 or none means no cap."""
    assert LLMTokens().limit(with_terms(markup_percent=1, **cap)) == limit


@pytest.mark.parametrize(
    ("terms", "key"),
    [
        ({}, "rates"),
        ({"rates": {}}, "rates"),
        ({"rates": {"": RATE}}, "rates"),
        ({"rates": {"gpt-4o": RATE}, "markup_percent": 30}, "markup_percent"),
        ({"markup_percent": -1}, "markup_percent"),
        ({"markup_percent": "nan"}, "markup_percent"),
        ({"rates": {"*": RATE}, "per": 0}, "per"),
        ({"rates": {"*": RATE}, "per": -10}, "per"),
        ({"rates": {"*": RATE}, "per": "0.1"}, "per"),
        ({"rates": {"*": RATE}, "per": 3}, "per"),
        ({"rates": {"*": RATE}, "per": 1001}, "per"),
        ({"rates": {"*": RATE}, "per": "inf"}, "per"),
        ({"rates": {"gpt-4o": {"input": -1, "output": 1}}}, 'rates."gpt-4o".input'),
        ({"rates": {"gpt-4o": {"input": 1, "output": "inf"}}}, 'rates."gpt-4o".output'),
        ({"rates": {"*": {"input": 1, "output": 1, "cache_read": "1e-19"}}}, 'rates."*".cache_read'),
        ({"markup_percent": 1, "max_usage": -1}, "max_usage"),
    ],
)
def test_terms_that_cannot_be_priced_are_refused_by_name(terms: dict[str, Any], key: str) -> None:
    """Both ways of pricing or neither, an inexact `per` and bad numbers are refused, naming the key."""
    with pytest.raises(TermsError) as refused:
        LLMTokens().check(with_terms(**terms))
    assert refused.value.field == key


@pytest.mark.parametrize(
    ("toml", "key"),
    [
        ('rates."gpt-4o" = { input = 1 }', "output"),
        ('rates."gpt-4o" = { output = 1 }', "input"),
        ('rates."gpt-4o" = { input = 1, output = 1, cached = 1 }', "cached"),
        ("markup = 30", "markup"),
        ('markup_percent = 30\nreset_mode = "never"', "reset_mode"),
    ],
)
def test_missing_and_misspelt_keys_are_refused_by_name(toml: str, key: str) -> None:
    """A rate without input or output, and unknown keys, are refused when the terms are read."""
    with pytest.raises(msgspec.ValidationError, match=key):
        read(toml)
