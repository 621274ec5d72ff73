"""Evaluating: what a `consume` of some units would be told, recording nothing (CONTRACTS 1.9, C2, C4)."""

from decimal import Decimal

from tallyd.engine import entitlements, rating
from tallyd.engine.account import Account
from tallyd.engine.credits.covering import Asked, Cover, cover
from tallyd.engine.entitlements import Entitlement
from tallyd.engine.passing import as_of, current
from tallyd.engine.rating import Marginal
from tallyd.engine.terms import Terms, cost_of_usage
from tallyd.model.event import UsageEvent


def evaluate(
    account: Account,
    feature_key: str,
    event: UsageEvent,
    units: Decimal,
    *,
    now: int,
    terms: Terms,
    marginal: Marginal = rating.marginal,
) -> Entitlement:
    """Answer for `units` more of a feature: limits, then credits, weighed and priced as the event would be.

    Args:
        account: the customer's books.
        feature_key: the feature.
        event: what the usage would look like: its model and tokens.
        units: above zero.
        now: microseconds UTC.
        terms: what holds for all customers.
        marginal: asks a pricing model.
    """
    account = current(account, now)
    answer = entitlements.decide(account, feature_key, now, units)
    if answer.credit is None:
        return answer
    return entitlements.with_cover(answer, _cover(account, feature_key, event, units, now, terms, marginal))


def _cover(
    account: Account,
    feature_key: str,
    event: UsageEvent,
    units: Decimal,
    now: int,
    terms: Terms,
    marginal: Marginal,
) -> Cover | None:
    granted = account.granting(feature_key, now)
    assert granted is not None, "somebody pays for it"
    enrolment, feature = granted
    cost = cost_of_usage(event, feature.cost, terms)
    asked = Asked(
        enrolment=enrolment,
        feature=feature,
        event=event,
        units=units,
        quantity=rating.quantity_of(feature, event, units, cost.amount),
        rated=account.counter(enrolment.counter_key(feature, now)).rated,
    )
    return cover(as_of(account, now), asked, terms.weights, marginal)
