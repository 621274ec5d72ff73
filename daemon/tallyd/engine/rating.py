"""Rating: asking a plan's pricing model what usage costs the customer.

A model may come from a stranger's plugin, so whatever it does ends in a value: an amount, or the reason why
there is none (P8, P9).
"""

from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum
from itertools import islice
from types import MappingProxyType
from typing import Any, Final

import msgspec

from tallyd.engine.costs import CostRule
from tallyd.engine.metering import CompiledMeter
from tallyd.model.catalog import BillingTiming, LateEvents, PlanCredits
from tallyd.model.event import UsageEvent
from tallyd.model.money import ZERO, share
from tallyd.pricing.seam import UNITS, Measure, PricingModel, Step, Terms, Unpriced, Usage, token_dimension

CHARGE_MAGNITUDE_MAX: Final = 60
CHARGE_CHARACTERS_MAX: Final = 125
STEPS_MAX: Final = 10_000
STEP_CHARACTERS_MAX: Final = 1_000
# Looking a member up on its class costs a call in Python 3.11; these are asked for every event.
_UNITS: Final = Measure.UNITS
_TOKENS: Final = Measure.TOKENS


class NoPrice(StrEnum):
    """Why an event, or its charge, has no amount."""

    UNKNOWN_MODEL = "unknown_model"  # no provider price for the model
    NO_PRICE = "no_price"  # the plan's terms do not price it
    PLUGIN_ERROR = "plugin_error"
    PLUGIN_TIMEOUT = "plugin_timeout"
    PLUGIN_INVALID = "plugin_invalid"


class TookTooLong(Exception):
    """Raised instead of asking a model that is given no more time."""


class PricedFeature(msgspec.Struct, frozen=True, kw_only=True):
    """A plan's feature, ready to count and price.

    Attributes:
        key: the feature.
        meter: how it is counted; None: the `usageUnits` of events that name the feature.
        model: the pricing model.
        terms: the model's terms.
        limit: most units a period (or ever); None for no limit.
        accumulates: usage runs on through the periods.
        cost: the plan's own cost model, or None.
        credit_model: the only credit model whose pools pay for it; None: any that serves it.
        units_per_credit: units that cost one credit, where the plan says so; None: weights say.
        late_events: what becomes of an event whose period is invoiced.
    """

    key: str
    meter: CompiledMeter | None
    model: PricingModel[Any]
    terms: Terms
    limit: Decimal | None
    accumulates: bool
    cost: CostRule | None
    credit_model: str | None = None
    units_per_credit: Decimal | None = None
    late_events: LateEvents = "adjust"


class PricedPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a plan, ready to count and price.

    Attributes:
        key: the plan.
        version: counts from 1.
        name: for people.
        currency: ISO 4217.
        interval_months: length of a period; 0 where days are counted.
        features: by feature key, in catalog order.
        metered: features with a meter, by event name.
        price_version: `key@version`, the evidence in every answer.
        credits: credits included, by credit model.
        price_amount: what a whole period costs before usage.
        timing: whether a period is invoiced when it begins or when it has ended.
        interval_days: length of a period in days; 0 where months are counted.
        trial_days: days before the first period that cost nothing.
        grace_days: days after an invoice's due date on which an unpaid customer still has access.
    """

    key: str
    version: int
    name: str
    currency: str
    interval_months: int
    features: dict[str, PricedFeature]
    metered: dict[str, tuple[PricedFeature, ...]]
    price_version: str
    credits: tuple[PlanCredits, ...] = ()
    price_amount: Decimal = ZERO
    timing: BillingTiming = "IN_ADVANCE"
    interval_days: int = 0
    trial_days: int = 0
    grace_days: int = 3

    def counted_by(self, event: UsageEvent) -> tuple[PricedFeature, ...]:
        """Return the features whose usage this event adds to."""
        named = self.features.get(event.feature_key) if event.feature_key else None
        counting = (named,) if named is not None and named.meter is None else ()
        metered = self.metered.get(event.name)
        if metered is None:
            return counting
        matching = (feature for feature in metered if feature.meter and feature.meter.counts(event))
        return (*counting, *matching)


def still_billed(whole: dict[str, Decimal], billed: dict[str, Decimal]) -> dict[str, Decimal]:
    """Return what a later price is asked for: what was billed before, and of new dimensions as large a part.

    The rest of `whole` was paid for with credits when the event came, in proportion, and stays paid.
    """
    part = next(((billed[each], whole[each]) for each in billed if whole.get(each)), None)
    return {
        dimension: billed[dimension] if dimension in billed else value if part is None else share(value, *part)
        for dimension, value in whole.items()
    }


Marginal = Callable[[PricedFeature, Usage, Usage], tuple[Decimal | None, NoPrice | None]]
"""Asks a feature's model for one event's charge: `marginal`, or one that watches the model."""


def units_of(feature: PricedFeature, event: UsageEvent) -> Decimal:
    """Units an event adds to a feature that has no meter: `usageUnits`, or its tokens where tokens are priced."""
    if event.units is not None:
        return event.units
    if feature.model.measure is _TOKENS and event.tokens:
        return sum(event.tokens.values(), ZERO)
    return ZERO


def quantity_of(
    feature: PricedFeature, event: UsageEvent, units: Decimal, cost: Decimal | None
) -> dict[str, Decimal]:
    """Quantities of an event in the dimensions its model prices.

    An event without tokens counts all its units as input, as Tanso's token normalisation does.
    """
    if feature.model.measure is _UNITS:
        return {UNITS: units}
    model = event.model or ""
    tokens = event.tokens or {"input": units}
    quantity = {token_dimension(kind, model): count for kind, count in tokens.items()}
    if cost is not None:
        quantity[token_dimension("cost", model)] = cost
    return quantity


def marginal(feature: PricedFeature, before: Usage, quantity: Usage) -> tuple[Decimal | None, NoPrice | None]:
    """Ask the model for one event's charge: an exact amount, or None and the reason."""
    try:
        amount = feature.model.marginal(feature.terms, MappingProxyType(before), MappingProxyType(quantity))
    except Unpriced:
        return None, NoPrice.NO_PRICE
    except TookTooLong:
        return None, NoPrice.PLUGIN_TIMEOUT
    except KeyboardInterrupt:  # on the main thread it is a person's; on a worker thread none comes this far
        raise
    # Nothing is awaited or yielded above, so a Cancelled or GeneratorExit is always the plugin's own.
    except BaseException:  # noqa: BLE001 - a stranger's plugin may raise anything; kept unpriced (P8)
        return None, NoPrice.PLUGIN_ERROR
    if not _sane(amount):
        return None, NoPrice.PLUGIN_INVALID
    return amount, None


def steps(feature: PricedFeature, usage: Usage) -> tuple[list[Step], NoPrice | None]:
    """Ask the model to explain a period's usage: steps, or none and the reason."""
    try:
        # Some models never stop explaining. Taking the next step is plugin code too.
        answer = list(islice(feature.model.rate(feature.terms, MappingProxyType(usage)), STEPS_MAX + 1))
    except TookTooLong:
        return [], NoPrice.PLUGIN_TIMEOUT
    except KeyboardInterrupt:  # as in marginal
        raise
    except BaseException:  # noqa: BLE001 - a stranger's plugin may raise anything, as in marginal
        return [], NoPrice.PLUGIN_ERROR
    if len(answer) > STEPS_MAX or not all(_sane_step(step) for step in answer):
        return [], NoPrice.PLUGIN_INVALID
    return answer, None


# Types are compared, not asked: a subclass is a stranger's code, which would run wherever its value is used.


def _sane(amount: object) -> bool:
    if type(amount) is not Decimal or not amount.is_finite():
        return False
    return abs(amount.adjusted()) <= CHARGE_MAGNITUDE_MAX and len(str(amount)) <= CHARGE_CHARACTERS_MAX


def _sane_text(text: object) -> bool:
    """Whether it can be sent: short, and without half characters (lone surrogates), which UTF-8 does not have."""
    if type(text) is not str or len(text) > STEP_CHARACTERS_MAX:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _sane_step(step: object) -> bool:
    return (
        type(step) is Step
        and _sane_text(step.words)
        and _sane_text(step.dimension)
        and _sane(step.quantity)
        and (step.amount is None or _sane(step.amount))
        and (step.unit_price is None or _sane(step.unit_price))
    )
