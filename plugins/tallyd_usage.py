"""Usage: every unit costs the same.

```toml
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "api_calls", price_per_unit = "0.05", max_usage = 1000 }
```
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from tallyd.model.money import ZERO, plain, tidy
from tallyd.pricing import (
    UNITS,
    CappedTerms,
    PricingModel,
    Step,
    TermsError,
    Usage,
    check_not_negative,
    hookimpl,
)


class UsageTerms(CappedTerms, frozen=True):
    """Terms of usage-based pricing.

    Attributes:
        usage_unit_type: what one unit is called, such as `api_calls`.
        price_per_unit: price of one unit, in the plan's currency.
    """

    usage_unit_type: str
    price_per_unit: Decimal


class UsagePricing(PricingModel[UsageTerms]):
    """Units times price."""

    name = "usage"
    terms = UsageTerms

    def check(self, terms: UsageTerms) -> None:
        """Refuse a nameless unit, and numbers that are negative or cannot be kept exactly."""
        if not terms.usage_unit_type.strip():
            raise TermsError("usage_unit_type", "must name the unit, such as api_calls")
        check_not_negative("price_per_unit", terms.price_per_unit)
        check_not_negative("max_usage", terms.max_usage)

    def rate(self, terms: UsageTerms, usage: Usage) -> Sequence[Step]:
        """Return one step; usage below zero is priced as zero."""
        units = max(usage.get(UNITS, ZERO), ZERO)
        price = terms.price_per_unit
        return [
            Step(
                words=f"{tidy(units):,f} {terms.usage_unit_type} at {plain(price)}",
                dimension=UNITS,
                quantity=units,
                unit_price=price,
                amount=units * price,
            )
        ]

    def marginal(self, terms: UsageTerms, before: Usage, quantity: Usage) -> Decimal:
        """Price the units that the event adds above zero."""
        used = before.get(UNITS, ZERO)
        added = quantity.get(UNITS, ZERO)
        if used < ZERO or added < ZERO:
            added = max(used + added, ZERO) - max(used, ZERO)
        return added * terms.price_per_unit


@hookimpl
def tallyd_pricing_models() -> Iterable[PricingModel[Any]]:
    """Offer `usage`."""
    return [UsagePricing()]
