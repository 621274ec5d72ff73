"""For the tests of a pricing plugin: check that a model keeps the law.

```python
from decimal import Decimal

from tallyd.pricing.testing import check_law
from my_plugin import Stairs, StairsTerms


def test_stairs_keep_the_law():
    terms = StairsTerms(price_per_step=Decimal("0.25"))
    charged = check_law(Stairs(), terms, [{"units": Decimal(3)}, {"units": Decimal("0.5")}])
    assert charged == Decimal("1.00")
```

With Hypothesis, give it random terms and random events: `sampled_from`, `decimals(places=3)` and `lists` are
enough to find the boundary that a model forgets.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import TypeVar

from tallyd.model.money import ZERO
from tallyd.pricing.seam import Dimension, PricingModel, Step, Terms, Unpriced, Usage, total

TermsT = TypeVar("TermsT", bound=Terms)


def check_law(model: PricingModel[TermsT], terms: TermsT, events: Iterable[Usage]) -> Decimal:
    """Feed events to a model as one period, and return what they cost together.

    After each event the charges so far must equal the rating of the usage so far, and everything returned
    must be a finite `Decimal`. An event that the model will not price (`Unpriced`) must show in a rating as a
    step without an amount, and is left out of the period.

    Args:
        model: an instance.
        terms: good terms; they are given to the model's `check` first.
        events: what each event adds, by dimension, in the order in which they arrive.

    Raises:
        AssertionError: the model breaks the law; the message names the event (from 1) and the numbers.
        TermsError: the terms are not good.
    """
    model.check(terms)
    used: dict[Dimension, Decimal] = {}
    charged = ZERO
    for number, event in enumerate(events, start=1):
        where = f"event {number}, {_show(event)} after {_show(used)}"
        try:
            charge = model.marginal(terms, MappingProxyType(used), MappingProxyType(event))
        except Unpriced:
            _check_visible(model, terms, event, where)
            continue
        _check_exact(charge, f"marginal of {where}")
        charged += charge
        for dimension, quantity in event.items():
            used[dimension] = used.get(dimension, ZERO) + quantity
        rated = _rated(model, terms, used, where)
        if charged != rated:
            raise AssertionError(
                f"{where}: the marginals so far sum to {charged}, but rate() of the same usage gives {rated}"
            )
    return charged


def _rated(model: PricingModel[TermsT], terms: TermsT, used: Usage, where: str) -> Decimal:
    steps = model.rate(terms, MappingProxyType(dict(used)))
    for step in steps:
        _check_step(step, f"rate() at {where}, step {step.words!r}")
    return total(steps)


def _check_step(step: Step, where: str) -> None:
    _check_exact(step.quantity, f"quantity of {where}")
    if step.unit_price is not None:
        _check_exact(step.unit_price, f"unit_price of {where}")
    if step.amount is not None:
        _check_exact(step.amount, f"amount of {where}")
    if not step.words.strip():
        raise AssertionError(f"{where}: a step must explain itself in words")


def _check_exact(value: object, where: str) -> None:
    if not isinstance(value, Decimal):
        raise AssertionError(f"{where} is {value!r}, of type {type(value).__name__}: it must be a Decimal")  # noqa: TRY004
    if not value.is_finite():
        raise AssertionError(f"{where} is {value}: it must be finite")


def _check_visible(model: PricingModel[TermsT], terms: TermsT, event: Usage, where: str) -> None:
    if not any(event.values()):
        return  # nothing was used, so there is nothing to show
    try:
        steps = model.rate(terms, MappingProxyType(dict(event)))
    except Unpriced:
        return
    if all(step.amount is not None for step in steps):
        raise AssertionError(f"{where}: marginal() raises Unpriced, but rate() shows no step without an amount")


def _show(usage: Mapping[Dimension, Decimal]) -> str:
    return "{" + ", ".join(f"{dimension}: {quantity}" for dimension, quantity in usage.items()) + "}"
