"""Included: a feature that the plan's own price already pays for.

```toml
[[plans.features]]
feature = "exports"
pricing = { model = "included", max_usage = 100 }   # a hundred a month, then refused; never charged
```
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from tallyd.model.money import ZERO, tidy
from tallyd.pricing import UNITS, CappedTerms, PricingModel, Step, Usage, check_not_negative, hookimpl


class IncludedTerms(CappedTerms, frozen=True):
    """Terms of an included feature. All may be left out.

    Attributes:
        usage_unit_type: what one unit is called, such as `exports`.
    """

    usage_unit_type: str = "units"


class Included(PricingModel[IncludedTerms]):
    """Counts, and charges nothing."""

    name = "included"
    terms = IncludedTerms

    def check(self, terms: IncludedTerms) -> None:
        """Refuse a cap that is negative or cannot be kept exactly."""
        check_not_negative("max_usage", terms.max_usage)

    def rate(self, terms: IncludedTerms, usage: Usage) -> Sequence[Step]:
        """Return one step that says how much was used, at a price of zero."""
        units = usage.get(UNITS, ZERO)
        words = f"{tidy(units):,f} {terms.usage_unit_type}, included in the plan"
        return [Step(words=words, dimension=UNITS, quantity=units, unit_price=ZERO, amount=ZERO)]

    def marginal(self, terms: IncludedTerms, before: Usage, quantity: Usage) -> Decimal:  # noqa: ARG002
        """Return zero."""
        return ZERO


@hookimpl
def tallyd_pricing_models() -> Iterable[PricingModel[Any]]:
    """Offer `included`."""
    return [Included()]
