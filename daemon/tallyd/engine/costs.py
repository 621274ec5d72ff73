"""Provider cost (COGS) of an event: sent → the plan's rule → account default → price table (CONTRACTS 1.5)."""

from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Final, Literal

import msgspec

from tallyd.model.event import UsageEvent
from tallyd.model.money import ZERO, number_problem
from tallyd.pricing.prices import ProviderPrices, TokenPrices

_INPUT_KINDS: Final = ("input", "cache_read", "cache_write")
_OUTPUT_KINDS: Final = ("output", "reasoning")

PriceBook = Mapping[tuple[str, str | None], ProviderPrices | None]
"""What is known of provider prices, by (model, provider); None for a model nobody knows."""


class CostSource(StrEnum):
    """Which link of the chain gave the cost."""

    SENT = "sent"
    RULE = "plan_rule"
    DEFAULT = "account_default"
    TABLE = "price_table"
    CAPPED = "usage_cap"  # an event past its cap is stored with zero cost


class Rates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Cost of one input and one output unit."""

    input: Decimal
    output: Decimal = ZERO


class CostRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cost model of CONTRACTS 1.6: `simple` (per unit) or `model_aware` (per input and output unit)."""

    model: Literal["simple", "model_aware"]
    cost_per_unit: Decimal | None = None
    cost_unit: Literal["TOKENS", "CREDITS", "CURRENCY"] = "CURRENCY"
    default_input_cost_per_unit: Decimal | None = None
    default_output_cost_per_unit: Decimal | None = None
    model_costs: dict[str, Rates] = {}

    def cost(self, event: UsageEvent) -> Decimal | None:
        """Return the event's cost, or None when the rule does not cover it."""
        if self.model == "simple":
            if event.units is None or self.cost_per_unit is None:
                return None
            return event.units * self.cost_per_unit
        rates = self._rates(event.model)
        if rates is None:
            return None
        if event.tokens:
            inputs = sum((event.tokens.get(kind, ZERO) for kind in _INPUT_KINDS), ZERO)
            outputs = sum((event.tokens.get(kind, ZERO) for kind in _OUTPUT_KINDS), ZERO)
            return inputs * rates.input + outputs * rates.output
        return None if event.units is None else event.units * rates.input

    def _rates(self, model: str | None) -> Rates | None:
        rates = self.model_costs.get(model) if model else None
        if rates is None and self.default_input_cost_per_unit is not None:
            rates = Rates(input=self.default_input_cost_per_unit, output=self.default_output_cost_per_unit or ZERO)
        return rates


class PriceVersion(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The exact basis of a computed cost, kept so that the cost can be explained and recomputed for ever.

    Attributes:
        id: derived from the content.
        content: canonical JSON of the rule or the token prices.
    """

    id: int
    content: str


class Cost(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A cost with where it came from. `amount` None: nothing to go by, or, when `unknown_model`, no price."""

    amount: Decimal | None
    source: CostSource | None = None
    version: PriceVersion | None = None
    unknown_model: bool = False


# Looking a member up on its class costs a call in Python 3.11; these are asked for every event.
_RULE: Final = CostSource.RULE
_TABLE: Final = CostSource.TABLE
NO_COST: Final = Cost(amount=None)
UNKNOWN: Final = Cost(amount=None, unknown_model=True)
CAPPED: Final = Cost(amount=ZERO, source=CostSource.CAPPED)

_encode = msgspec.json.Encoder(order="deterministic").encode


def price_version(kind: CostSource, basis: CostRule | TokenPrices, **labels: str) -> PriceVersion:
    """Name a basis of costs by its content."""
    content = _encode({"kind": kind, "basis": basis, **labels}).decode()
    return PriceVersion(id=version_id(content), content=content)


def version_id(content: str) -> int:
    """Return the number of a price version: a hash of its content."""
    digest = blake2b(content.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def cost_of(
    event: UsageEvent,
    *,
    rule: CostRule | None,
    default: CostRule | None,
    prices: PriceBook,
    versions: "Versions",
) -> Cost:
    """Walk the chain for one event."""
    if event.cost_amount is not None:
        return Cost(amount=event.cost_amount, source=CostSource.SENT)
    if rule is not None:
        amount = rule.cost(event)
        if amount is not None:
            return Cost(amount=amount, source=_RULE, version=versions.of_rule(_RULE, rule))
    if default is not None:
        amount = default.cost(event)
        if amount is not None:
            version = versions.of_rule(CostSource.DEFAULT, default)
            return Cost(amount=amount, source=CostSource.DEFAULT, version=version)
    if event.model is None:
        return NO_COST
    return _table_cost(event, event.model, prices, versions)


def _table_cost(event: UsageEvent, model: str, prices: PriceBook, versions: "Versions") -> Cost:
    tokens = event.tokens or ({"input": event.units} if event.units else None)
    if tokens is None:
        return NO_COST
    known = prices.get((model, event.provider))
    if known is None:
        return UNKNOWN
    token_prices = known.at(event.occurred_at)
    amount = token_prices.cost(tokens)
    if amount is None:
        return UNKNOWN
    return Cost(amount=amount, source=_TABLE, version=versions.of_table(known, token_prices))


class Versions:
    """Remembers the price version of each basis, so that naming it costs nothing per event."""

    def __init__(self) -> None:
        self._by_identity: dict[int, tuple[Any, PriceVersion]] = {}

    def of_rule(self, source: CostSource, rule: CostRule) -> PriceVersion:
        """Return the price version of a plan's or the account's cost rule."""
        held = self._by_identity.get(id(rule))
        return held[1] if held else self._remember(rule, price_version(source, rule))

    def of_table(self, known: ProviderPrices, prices: TokenPrices) -> PriceVersion:
        """Return the price version of a provider's prices."""
        held = self._by_identity.get(id(prices))
        if held:
            return held[1]
        labels = {"model": known.model, "provider": known.provider, "by": known.source}
        return self._remember(prices, price_version(CostSource.TABLE, prices, **labels))

    def _remember(self, basis: Any, version: PriceVersion) -> PriceVersion:
        # Keyed by identity: bases are long-lived values of the catalog and the price memo, and hashing their
        # dicts for each event would cost more than the cost itself. Holding the basis keeps its id its own.
        self._by_identity[id(basis)] = (basis, version)
        return version


def rule_problem(rule: CostRule) -> tuple[str, str] | None:
    """Say which field of a cost rule cannot be used, and why; None when it can."""
    if rule.model == "simple" and rule.cost_per_unit is None:
        return "cost_per_unit", "is required for a simple cost"
    numbers = {
        "cost_per_unit": rule.cost_per_unit,
        "default_input_cost_per_unit": rule.default_input_cost_per_unit,
        "default_output_cost_per_unit": rule.default_output_cost_per_unit,
    }
    for name, rates in rule.model_costs.items():
        numbers[f"model_costs.{name}.input"] = rates.input
        numbers[f"model_costs.{name}.output"] = rates.output
    for field, value in numbers.items():
        if value is None:
            continue
        problem = number_problem(value) or ("must not be negative" if value < 0 else None)
        if problem:
            return field, problem
    return None
