"""Graduated: each unit is priced in the tier it falls in, and a tier may have a flat fee.

```toml
[[plans.features]]
feature = "chat"

[plans.features.pricing]
model = "graduated"
usage_unit_type = "tokens"
tiers = [
    { up_to = 1000, price_per_unit = 0, flat_fee = 10 },          # the first 1,000 for 10.00 together
    { up_to = 10000, price_per_unit = "0.001", flat_fee = 5 },    # the next 9,000
    { up_to = "inf", price_per_unit = "0.0001" },                 # all others
]
```

15,000 tokens cost 10 + (5 + 9,000 * 0.001) + 5,000 * 0.0001 = 24.50.
"""

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from tallyd.model.money import ZERO, number_problem, plain, tidy
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


class Tier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Units above the tier before and up to this one's end.

    Attributes:
        up_to: the last unit of the tier, counted from the first unit of all; `"inf"` for the last tier.
        price_per_unit: price of one unit in this tier, in the plan's currency.
        flat_fee: added once, as soon as any part of a unit falls in this tier.
    """

    up_to: Decimal
    price_per_unit: Decimal
    flat_fee: Decimal = ZERO


class GraduatedTerms(CappedTerms, frozen=True):
    """Terms of graduated pricing.

    Attributes:
        usage_unit_type: what one unit is called, such as `tokens`.
        tiers: in ascending order of `up_to`; the last is `"inf"`.
    """

    usage_unit_type: str
    tiers: tuple[Tier, ...]


class Graduated(PricingModel[GraduatedTerms]):
    """Each unit at the price of its own tier."""

    name = "graduated"
    terms = GraduatedTerms

    def check(self, terms: GraduatedTerms) -> None:
        """Refuse a nameless unit, tiers with gaps, and numbers that are negative or not exact."""
        if not terms.usage_unit_type.strip():
            raise TermsError("usage_unit_type", "must name the unit, such as tokens")
        check_not_negative("max_usage", terms.max_usage)
        _check_boundaries(terms.tiers)
        for number, tier in enumerate(terms.tiers):
            check_not_negative(f"tiers[{number}].price_per_unit", tier.price_per_unit)
            check_not_negative(f"tiers[{number}].flat_fee", tier.flat_fee)

    def rate(self, terms: GraduatedTerms, usage: Usage) -> Sequence[Step]:
        """Return a step for each tier that units fall in, and one for its flat fee when it has one.

        A fee counts no units (quantity 0), so the quantities sum to the usage. No usage, no steps.
        """
        return list(_steps(terms, usage.get(UNITS, ZERO)))

    def marginal(self, terms: GraduatedTerms, before: Usage, quantity: Usage) -> Decimal:
        """Price the units that the event adds, with the fees of the tiers it is the first to enter."""
        used = before.get(UNITS, ZERO)
        added = quantity.get(UNITS, ZERO)
        after = used + added
        floor = ZERO
        for tier in terms.tiers:
            if used <= tier.up_to:
                if floor < used and floor < after <= tier.up_to:  # most events stay inside one tier
                    return added * tier.price_per_unit
                break
            floor = tier.up_to
        return _charge(terms.tiers, after) - _charge(terms.tiers, used)


def _charge(tiers: Sequence[Tier], units: Decimal) -> Decimal:
    """Charge for the first `units` units; nothing when there are none, or fewer."""
    charge = floor = ZERO
    for tier in tiers:
        if units <= floor:
            break
        charge += (min(units, tier.up_to) - floor) * tier.price_per_unit + tier.flat_fee
        floor = tier.up_to
    return charge


def _steps(terms: GraduatedTerms, units: Decimal) -> Iterator[Step]:
    floor = ZERO
    for number, tier in enumerate(terms.tiers, start=1):
        if units <= floor:
            return
        yield _unit_step(terms.usage_unit_type, number, tier, min(units, tier.up_to) - floor)
        if tier.flat_fee:
            words = f"flat fee of tier {number}"
            yield Step(words=words, dimension=UNITS, quantity=ZERO, unit_price=None, amount=tier.flat_fee)
        floor = tier.up_to


def _unit_step(unit: str, number: int, tier: Tier, units: Decimal) -> Step:
    reach = f"up to {tidy(tier.up_to):,f}" if tier.up_to.is_finite() else "all others"
    return Step(
        words=f"{tidy(units):,f} {unit} in tier {number} ({reach}) at {plain(tier.price_per_unit)}",
        dimension=UNITS,
        quantity=units,
        unit_price=tier.price_per_unit,
        amount=units * tier.price_per_unit,
    )


def _check_boundaries(tiers: Sequence[Tier]) -> None:
    if not tiers:
        raise TermsError("tiers", "must have at least one tier")
    last = len(tiers) - 1
    if not (tiers[last].up_to.is_infinite() and tiers[last].up_to > ZERO):
        raise TermsError(f"tiers[{last}].up_to", 'must be "inf": the last tier takes all other units')
    floor = ZERO
    for number, tier in enumerate(tiers[:last]):
        field = f"tiers[{number}].up_to"
        problem = number_problem(tier.up_to)
        if problem:
            raise TermsError(field, problem)
        if tier.up_to <= floor:
            raise TermsError(field, f"must be more than {plain(floor)}, where the tier begins")
        floor = tier.up_to


@hookimpl
def tallyd_pricing_models() -> Iterable[PricingModel[Any]]:
    """Offer `graduated`."""
    return [Graduated()]
