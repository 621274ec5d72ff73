"""What holds for the whole account, beside a customer's own books; what usage costs us by it."""

from collections.abc import Mapping

import msgspec

from tallyd.engine import costs
from tallyd.engine.costs import Cost, CostRule, PriceBook, Versions
from tallyd.engine.counting import Count
from tallyd.engine.credits.weights import NO_WEIGHTS, Weights
from tallyd.model.catalog import CreditModel
from tallyd.model.event import UsageEvent


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for the whole account, beside the customer's own books.

    Attributes:
        prices: provider prices known so far.
        default_cost: the account's default cost model, or None.
        versions: names of the bases of cost.
        currency: of revenues sent without a plan, ISO 4217.
        weights: what usage costs in credits.
        credit_models: the rules of new pools, by key.
    """

    prices: PriceBook
    default_cost: CostRule | None
    versions: Versions
    currency: str
    weights: Weights = NO_WEIGHTS
    credit_models: Mapping[str, CreditModel] = {}


def cost_of_event(event: UsageEvent, counts: list[Count], terms: Terms) -> Cost:
    """Return what an event costs us, by the first cost rule of the features it counts in, or the prices known."""
    return cost_of_usage(event, next((each.feature.cost for each in counts if each.feature.cost), None), terms)


def cost_of_usage(event: UsageEvent, rule: CostRule | None, terms: Terms) -> Cost:
    """Return what an event costs us by a plan's rule, the account's default, or the prices known."""
    return costs.cost_of(
        event, rule=rule, default=terms.default_cost, prices=terms.prices, versions=terms.versions
    )
