"""A customer's usage and charges of a period, explained in steps."""

from decimal import Context, Decimal, DivisionByZero, InvalidOperation
from typing import Any, Final

import msgspec

from tallyd.engine import rating
from tallyd.engine.account import Account, Counter, CounterKey, Enrolment
from tallyd.engine.rating import PricedFeature
from tallyd.model.credits import Pool
from tallyd.model.event import event_uuid
from tallyd.model.moments import DAY_US, LATEST_US, iso
from tallyd.model.money import ZERO, round_to_currency, tidy
from tallyd.model.periods import Period
from tallyd.pricing.seam import Step, split_dimension

_PROJECTION_FROM: Final = 20  # a twentieth, 5 %, of the period must have passed (CONTRACTS 1.9)
# Contexts trap what the process traps, unless told: estimates may be rounded.
_ESTIMATE: Final = Context(prec=28, traps=[DivisionByZero, InvalidOperation])
_ESTIMATE_STEP: Final = Decimal("0.000001")


class FeatureStatement(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One feature of one subscription in one period.

    Attributes:
        feature_key: the feature.
        price_version: `plan@version`.
        used: units counted, in the period or, where usage accumulates, ever.
        limit: most units, or None.
        remaining: never negative, or None.
        exact_charge: sum of the events' charges, every digit kept.
        charge: the same rounded once, half up, to the currency: what a line would say.
        sent_revenue: sum of revenues that came with events instead.
        unpriced_events: events that still lack a charge.
        steps: how the plan's price makes the charge.
        problem: why there are no steps, when a plugin could not explain.
    """

    feature_key: str
    price_version: str
    used: Decimal
    limit: Decimal | None = None
    remaining: Decimal | None = None
    exact_charge: Decimal
    charge: Decimal
    currency: str
    events: int
    sent_revenue: Decimal | None = None
    unpriced_events: int = 0
    steps: list[dict[str, Any]]
    problem: str | None = None


def feature_statement(account: Account, enrolment: Enrolment, feature: PricedFeature, at: int) -> FeatureStatement:
    """Explain one feature's charge in the period that contains the instant."""
    segment = enrolment.segment_at(at)
    number = enrolment.subscription.number
    in_period = account.counter(CounterKey(number, feature.key, segment.start))
    deciding = account.counter(enrolment.counter_key(feature, at))
    steps, problem = rating.steps(feature, deciding.rated)
    views = [_step_view(step) for step in steps]
    if feature.accumulates and deciding.charged != in_period.charged:
        views.append(_earlier(in_period, deciding))
    elif account.credits is not None and not in_period.unpriced:
        views.extend(_credited(in_period, steps))
    currency = enrolment.plan.currency
    return FeatureStatement(
        feature_key=feature.key,
        price_version=enrolment.plan.price_version,
        used=deciding.used,
        limit=feature.limit,
        remaining=None if feature.limit is None else max(ZERO, feature.limit - deciding.used),
        exact_charge=in_period.charged,
        charge=round_to_currency(in_period.charged, currency),
        currency=currency,
        events=in_period.events,
        sent_revenue=in_period.sent or None,
        unpriced_events=in_period.unpriced,
        steps=views,
        problem=problem.value if problem else None,
    )


def _step_view(step: Step) -> dict[str, Any]:
    kind, model = split_dimension(step.dimension)
    view = {
        "description": step.words,
        "dimension": kind,
        "model": model or None,
        "quantity": step.quantity,
        "unitPrice": step.unit_price,
        "amount": step.amount,
        "unpriced": True if step.amount is None else None,
    }
    return {name: value for name, value in view.items() if value is not None}


def _credited(in_period: Counter, steps: list[Step]) -> list[dict[str, Any]]:
    """Return the step that says what credits in money paid of the price, if they did."""
    paid = sum((step.amount for step in steps if step.amount is not None), ZERO) - in_period.charged
    if paid <= ZERO or any(step.amount is None for step in steps):
        return []
    return [{"description": "paid with credits", "dimension": "credits", "quantity": paid, "amount": -paid}]


def _earlier(in_period: Counter, lifetime: Counter) -> dict[str, Any]:
    return {
        "description": "charged in other periods, as usage accumulates",
        "dimension": "periods",
        "quantity": lifetime.used - in_period.used,
        "amount": in_period.charged - lifetime.charged,
    }


def used_in(account: Account, enrolment: Enrolment, feature: PricedFeature, at: int) -> Decimal:
    """Return the units that the limit is compared with."""
    return account.counter(enrolment.counter_key(feature, at)).used


def projected(used: Decimal, period: Period, now: int, *, accumulates: bool) -> Decimal | None:
    """Estimate the period's usage at its end if it goes on as so far; None too early, too late, or for ever."""
    elapsed, whole = now - period.start, period.end - period.start
    if accumulates or elapsed * _PROJECTION_FROM < whole or now >= period.end:
        return None
    estimate = _ESTIMATE.divide(_ESTIMATE.multiply(used, Decimal(whole)), Decimal(elapsed))
    return estimate.quantize(_ESTIMATE_STEP, context=_ESTIMATE)


def burn_view(pool: Pool, now: int) -> dict[str, Any]:
    """Say how fast a pool is used, over its life, and until when it lasts so (CONTRACTS 1.9).

    A pool younger than a day counts as a day old: its first hour tells nothing of a day. There is no date without
    usage, with nothing left, or in another century.
    """
    days = _ESTIMATE.divide(Decimal(max(DAY_US, now - pool.opened_at)), Decimal(DAY_US))
    burn = _ESTIMATE.divide(pool.consumed, days)
    until = None
    if burn > ZERO and pool.balance > ZERO:
        lasts = _ESTIMATE.multiply(_ESTIMATE.divide(pool.balance, burn), Decimal(DAY_US))
        if lasts < LATEST_US - now:
            until = iso(now + int(lasts))
    return {
        "poolId": event_uuid(pool.number),
        "denomination": pool.model.denomination,
        "balance": pool.balance,
        "totalConsumed": pool.consumed,
        "averageDailyBurn": _estimated(burn),
        "projectedDepletionDate": until,
    }


def _estimated(value: Decimal) -> Decimal:
    """Return an estimate with six digits after the decimal point at most; one too large for that as it is."""
    try:
        return tidy(value.quantize(_ESTIMATE_STEP, context=_ESTIMATE))
    except InvalidOperation:
        return value


def statement_view(account: Account, at: int) -> list[dict[str, Any]]:
    """Explain all charges of all subscriptions that cover the instant."""
    views = []
    for enrolment in account.enrolments:
        if not enrolment.active_at(at):
            continue
        period = enrolment.period_at(at)
        features = [
            feature_statement(account, enrolment, feature, at) for feature in enrolment.plan.features.values()
        ]
        exact = sum((feature.exact_charge for feature in features), ZERO)
        views.append(
            {
                "subscriptionId": enrolment.subscription.id,
                "planKey": enrolment.plan.key,
                "priceVersion": enrolment.plan.price_version,
                "currentPeriodStart": iso(period.start),
                "currentPeriodEnd": iso(period.end),
                "currency": enrolment.plan.currency,
                "features": features,
                "exactCharge": exact,
                "charge": sum((feature.charge for feature in features), ZERO),
            }
        )
    return views


def usage_view(account: Account, at: int) -> list[dict[str, Any]]:
    """Return usage against limits of all subscriptions that cover the instant (CONTRACTS 1.9)."""
    views = []
    for enrolment in account.enrolments:
        if not enrolment.active_at(at):
            continue
        period = enrolment.period_at(at)
        features = []
        for feature in enrolment.plan.features.values():
            used = used_in(account, enrolment, feature, at)
            remaining = None if feature.limit is None else max(ZERO, feature.limit - used)
            projection = projected(used, period, at, accumulates=feature.accumulates)
            features.append(
                {
                    "featureKey": feature.key,
                    "used": used,
                    "limit": feature.limit,
                    "remaining": remaining,
                    "projectedEndOfPeriod": projection,
                }
            )
        views.append(
            {
                "subscriptionId": enrolment.subscription.id,
                "planKey": enrolment.plan.key,
                "priceVersion": enrolment.plan.price_version,
                "currentPeriodStart": iso(period.start),
                "currentPeriodEnd": iso(period.end),
                "features": features,
            }
        )
    return views
