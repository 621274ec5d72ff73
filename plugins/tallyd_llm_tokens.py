"""LLM tokens: a price for each kind of token of each model, or the provider's cost plus a percentage.

```toml
[[plans.features]]
feature = "assistant"

[plans.features.pricing]
model = "llm_tokens"
per = 1_000_000
rates."gpt-4o" = { input = "2.50", output = 10, cache_read = "1.25" }
rates."*" = { input = 5, output = 20 }                       # every other model

[[plans.features]]
feature = "research"
pricing = { model = "llm_tokens", markup_percent = 30 }      # provider cost plus 30 %
```

A model is looked up by its exact name, then by the longest configured name it is a version of, then as `*`.
`gpt-4o-2024-08-06` is a version of `gpt-4o`; `gpt-4o-mini` and `gpt-4o.1` are other models.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from functools import cached_property, lru_cache
from typing import Any, Final

import msgspec

from tallyd.model.money import ONE, ZERO, plain, tidy
from tallyd.pricing import (
    CappedTerms,
    Dimension,
    Measure,
    PricingModel,
    Step,
    TermsError,
    Unpriced,
    Usage,
    check_not_negative,
    hookimpl,
    split_dimension,
)

ANY_MODEL: Final = "*"
COST: Final = "cost"
PRICES_REMEMBERED: Final = 1024  # for each plan: senders choose the model names, so there is no end of them
# Dates, revisions of three digits or more, v2, v1:0, latest, preview. A shorter number names another model:
# gpt-4.1 is not a version of gpt-4.
VERSION: Final = re.compile(r"(?:[-.@:](?:latest|preview|v\d+(?::\d)?|\d{3,8}|\d\d-\d\d))+")


class TokenRates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices of one model's tokens: what `per` tokens cost, in the plan's currency.

    Attributes:
        input: prompt tokens that no cache served.
        output: tokens the model wrote.
        cache_read: prompt tokens read from a cache; as `input` when absent.
        cache_write: prompt tokens written to a cache; as `input` when absent.
        reasoning: tokens the model thought with; as `output` when absent.
    """

    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    reasoning: Decimal | None = None

    def by_kind(self) -> dict[str, Decimal]:
        """Return the price of every kind of token, the absent ones filled in."""
        return {
            "input": self.input,
            "cache_read": self.input if self.cache_read is None else self.cache_read,
            "cache_write": self.input if self.cache_write is None else self.cache_write,
            "output": self.output,
            "reasoning": self.output if self.reasoning is None else self.reasoning,
        }


class LLMTokensTerms(CappedTerms, frozen=True, dict=True):
    """Terms of token pricing: either `rates` or `markup_percent`.

    Attributes:
        rates: prices by model name; `*` is for every model not named.
        per: how many tokens a rate is for, a power of ten.
        markup_percent: added to what the provider charges, so 30 makes 1.30 of 1.00. Percent.
        usage_unit_type: what one unit is called.
    """

    rates: dict[str, TokenRates] = msgspec.field(default_factory=dict)
    per: Decimal = Decimal(1_000_000)
    markup_percent: Decimal | None = None
    usage_unit_type: str = "tokens"

    @cached_property
    def markup_factor(self) -> Decimal:
        """What one unit of provider cost is charged at: 30 percent gives 1.30."""
        return ONE + (self.markup_percent or ZERO).scaleb(-2)

    @cached_property
    def price_of(self) -> Callable[[Dimension], Decimal | None]:
        """Exact price of one token of a dimension such as `input/gpt-4o`, None when it has none."""
        return lru_cache(PRICES_REMEMBERED)(self._find_price)

    def named_rate(self, model: str) -> str | None:
        """Return the key of `rates` that prices the model the event named, or None."""
        if model in self.rates:
            return model
        named = filter(model.startswith, self.rates)
        bases = [name for name in named if VERSION.fullmatch(model, len(name))]
        fallback = ANY_MODEL if ANY_MODEL in self.rates else None
        return max(bases, key=len, default=fallback)

    def _find_price(self, dimension: Dimension) -> Decimal | None:
        kind, model = split_dimension(dimension)
        if kind == COST:
            return self.markup_factor
        name = self.named_rate(model)
        price = None if name is None else self.rates[name].by_kind().get(kind)
        return None if price is None else price.scaleb(-self.per.adjusted())


class LLMTokens(PricingModel[LLMTokensTerms]):
    """Tokens by kind and model, at the plan's rates or at the provider's cost plus a percentage.

    Provider cost is in US dollars, so a plan with `markup_percent` must be in USD.
    """

    name = "llm_tokens"
    terms = LLMTokensTerms
    measure = Measure.TOKENS

    def check(self, terms: LLMTokensTerms) -> None:
        """Refuse both or neither way of pricing, and numbers that are negative or not exact."""
        check_not_negative("max_usage", terms.max_usage)
        if terms.markup_percent is None:
            _check_rates(terms)
        elif terms.rates:
            raise TermsError("markup_percent", "cannot stand beside rates: choose one")
        else:
            check_not_negative("markup_percent", terms.markup_percent)

    def prices_cost(self, terms: LLMTokensTerms) -> bool:
        """Return whether the terms are a markup."""
        return terms.markup_percent is not None

    def rate(self, terms: LLMTokensTerms, usage: Usage) -> Sequence[Step]:
        """Return a step for each model and kind of token, or with a markup for each model's cost.

        What has no price has a step too, whose amount is None: tokens of a model without a rate; with a
        markup, tokens whose cost is not known; with rates, a cost without tokens.
        """
        by_cost = terms.markup_percent is not None
        priced_models = {model for kind, model in map(split_dimension, usage) if (kind == COST) == by_cost}
        steps = []
        for dimension in sorted(usage, key=_model_then_kind):
            kind, model = split_dimension(dimension)
            if usage[dimension] and ((kind == COST) == by_cost or model not in priced_models):
                steps.append(_step(terms, dimension, usage[dimension]))
        return steps

    def marginal(self, terms: LLMTokensTerms, before: Usage, quantity: Usage) -> Decimal:  # noqa: ARG002
        """Price one event, which has one model; what came before makes no difference.

        Raises:
            Unpriced: the model has no rate; with a markup, no known cost; with rates, no tokens were sent.
        """
        by_cost = terms.markup_percent is not None
        charge = ZERO
        found = False
        for dimension, count in quantity.items():
            if dimension.startswith("cost/") != by_cost:
                continue
            found = True
            price = terms.price_of(dimension)
            if price is not None:
                charge += count * price
            elif count:
                raise Unpriced(_step(terms, dimension, count).words)
        if not found:
            steps = (_step(terms, dimension, count) for dimension, count in quantity.items())
            raise Unpriced(next((step.words for step in steps), "neither tokens nor a cost were sent"))
        return charge


def _model_then_kind(dimension: Dimension) -> tuple[str, str]:
    kind, model = split_dimension(dimension)
    return model, kind


def _step(terms: LLMTokensTerms, dimension: Dimension, count: Decimal) -> Step:
    is_cost = dimension.startswith("cost/")
    price = terms.price_of(dimension) if is_cost == (terms.markup_percent is not None) else None
    return Step(
        words=(_cost_words if is_cost else _token_words)(terms, dimension, count, price),
        dimension=dimension,
        quantity=count,
        unit_price=price,
        amount=None if price is None else count * price,
    )


def _cost_words(terms: LLMTokensTerms, dimension: Dimension, cost: Decimal, factor: Decimal | None) -> str:
    words = f"provider cost {tidy(cost):,f} of {_model_words(dimension)}"
    if factor is None or terms.markup_percent is None:
        return f"{words}: no tokens were sent"
    return f"{words} plus {plain(terms.markup_percent)} %"


def _token_words(terms: LLMTokensTerms, dimension: Dimension, count: Decimal, price: Decimal | None) -> str:
    kind, model = split_dimension(dimension)
    words = f"{tidy(count):,f} {kind.replace('_', ' ')} tokens of {_model_words(dimension)}"
    if price is None:
        return f"{words}: no {'rate' if terms.markup_percent is None else 'provider cost'} is known"
    name = terms.named_rate(model)
    rate = f"{tidy(price * terms.per):,f} per {tidy(terms.per):,f}"
    return f"{words} at {rate}" + ("" if name == model else f" (priced as {name})")


def _model_words(dimension: Dimension) -> str:
    return split_dimension(dimension)[1] or "an unnamed model"


def _check_rates(terms: LLMTokensTerms) -> None:
    if not terms.rates:
        raise TermsError("rates", "must price at least one model, or use markup_percent instead")
    check_not_negative("per", terms.per)
    if terms.per < ONE or terms.per != ONE.scaleb(terms.per.adjusted()):
        raise TermsError("per", "must be a power of ten, such as 1000 or 1000000, to keep prices exact")
    for name, rates in terms.rates.items():
        if not name:
            raise TermsError("rates", 'must name the model; "*" is for every other')
        for kind, price in msgspec.structs.asdict(rates).items():
            check_not_negative(f'rates."{name}".{kind}', price)


@hookimpl
def tallyd_pricing_models() -> Iterable[PricingModel[Any]]:
    """Offer `llm_tokens`."""
    return [LLMTokens()]
