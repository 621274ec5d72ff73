"""Included: a feature that the plan's own price already pays for.

```toml
[[plans.features]]
feature = "exports"
pricing = { model = "included", max_usage = 100 }   # a hundred a month, then refused; never charged
```
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Literal

from tallyd.model.money import ZERO, number_problem, tidy
from tallyd.pricing import UNITS, PricingModel, Step, Terms, TermsError, Usage, hookimpl


class IncludedTerms(Terms, frozen=True):
    """Terms of an included feature. All may be left out.

    Attributes:
        usage_unit_type: what one unit is called, such as `exports`.
        max_usage: most units in a period; 0 or absent for no cap.
        reset_mode: `reset` counts anew in each period, `accumulate` counts for ever.
    """

    usage_unit_type: str = "units"
    max_usage: Decimal | None = None
    reset_mode: Literal["reset", "accumulate"] = "reset"


class Included(PricingModel[IncludedTerms]):
    """Counts, and charges nothing."""

    name = "included"
    terms = IncludedTerms

    def check(self, terms: IncludedTerms) -> None:
        """Refuse a cap that is negative or cannot be kept exactly."""
        if terms.max_usage is None:
            return
        problem = number_problem(terms.max_usage)
        if problem or terms.max_usage < ZERO:
            raise TermsError("max_usage", problem or "must not be negative")

    def limit(self, terms: IncludedTerms) -> Decimal | None:
        """Return the cap in units, or None when it is 0 or absent."""
        return terms.max_usage or None

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
