"""What a subscription has used, period by period, meter by meter (CONTRACTS 2.5, F7).

A change of plan within a period divides it: each part has its own prices. What credits have paid for is consumed
and not charged; in a trial nothing is charged. A feature without a meter goes by its key.
"""

from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from typing import Any, Final

import msgspec
from quart import Response, request
from quart_trio import QuartTrio

from tallyd.api import billing
from tallyd.api.billing import Owned
from tallyd.api.http import dodo
from tallyd.api.http.dodo_prices import PRICE_FRACTION_DIGITS_MAX, digits, minor_units, unit_price
from tallyd.api.http.dodo_subscription_views import meters_by_key
from tallyd.api.http.family import Family, instant_parameter
from tallyd.core import Core
from tallyd.engine.account import Account, Counter, CounterKey
from tallyd.engine.billing.invoicing import in_trial
from tallyd.model.catalog import Plan, PlanFeature
from tallyd.model.moments import iso
from tallyd.model.money import ZERO, currency_exponent, divide
from tallyd.model.periods import Period
from tallyd.model.problems import not_found
from tallyd.model.subscription import Subscription
from tallyd.pricing.seam import UNITS
from tallyd.store.catalog_rows import StoredMeter

_UNKNOWN: Final = Counter()


class Asked(msgspec.Struct, frozen=True):
    """Which periods: those that have an instant of `[start, end]`, both ends included; and which meter."""

    start: int | None
    end: int | None
    meter: str | None


class DodoUsage:
    """The handler of `/subscriptions/{id}/usage-history`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve it."""
        family.route(app, "/subscriptions/<subscription>/usage-history", "GET", "read", self.history)

    async def history(self, subscription: str) -> Response:
        """List periods with what was used in them, the one that runs first."""
        page = dodo.asked_page()
        with dodo.refusing(dodo.INVALID_QUERY):
            start, end = instant_parameter("start_date"), instant_parameter("end_date")
        asked = Asked(start, end, request.args.get("meter_id"))
        owned = await billing.find_subscription(self._core, subscription)
        if asked.meter is not None and not self._known(asked.meter):
            raise not_found(f"there is no meter {asked.meter!r}")
        return dodo.items(list(islice(self._periods(owned, asked), page.start, page.end)))

    def _known(self, meter: str) -> bool:
        catalogue = self._core.catalogue
        return meter in catalogue.meters or meter in catalogue.features

    def _periods(self, owned: Owned, asked: Asked) -> Iterator[dict[str, Any]]:
        core, account, subscription = self._core, owned.account, owned.subscription
        meters = meters_by_key(core)
        for plan, period in lived(core, account, subscription, core.clock.of(account.customer.id)):
            if asked.start is not None and period.end <= asked.start:
                return
            if asked.end is not None and period.start > asked.end:
                continue
            free = in_trial(subscription, period.start)
            views = []
            for each in plan.features:
                meter = meters.get(each.meter or "")
                name = each.feature if meter is None else meter.id
                if asked.meter in (None, name):
                    key = CounterKey(subscription.number, each.feature, period.start)
                    counter = account.counters.get(key, _UNKNOWN)
                    called = self._name(each, meter)
                    views.append({"id": name, "name": called, **usage_of(plan, each, counter, free=free)})
            if views or asked.meter is None:
                yield {"start_date": iso(period.start), "end_date": iso(period.end), "meters": views}

    def _name(self, each: PlanFeature, meter: StoredMeter | None) -> str:
        if meter is not None:
            return meter.definition.name or meter.definition.key
        feature = self._core.catalogue.features.get(each.feature)
        return (feature.name if feature else None) or each.feature


def lived(core: Core, account: Account, subscription: Subscription, now: int) -> Iterator[tuple[Plan, Period]]:
    """Return the periods of a subscription that have begun, in parts that have one plan each; newest first."""
    last = now if subscription.ends_at is None else min(now, subscription.ends_at - 1)
    while last >= subscription.starts_at:
        enrolment = account.enrolment_at(subscription.number, last)
        period = enrolment.segment_at(last)
        plan = core.catalogue.written(enrolment.plan.key, enrolment.plan.version)
        assert plan is not None, "plans are never removed"
        yield plan, period
        last = period.start - 1


def usage_of(plan: Plan, each: PlanFeature, counter: Counter, *, free: bool) -> dict[str, Any]:
    """Return what a counter has consumed and what of it is charged.

    Where the price of a unit depends on how many there are, it is given as the average of those charged.

    Args:
        plan: the plan, as it was written.
        each: its feature.
        counter: what was used.
        free: nothing of it is charged: a trial.
    """
    currency = plan.currency
    found = unit_price(each.pricing, currency)
    priced = max(counter.rated.get(UNITS, counter.used if found is None else ZERO), ZERO)
    threshold = found.free if found else 0
    chargeable = ZERO if free else max(priced - threshold, ZERO)
    charged = ZERO if free else counter.charged
    return {
        "consumed_units": digits(counter.used),
        "free_threshold": threshold,
        "chargeable_units": digits(chargeable),
        "price_per_unit": digits(found.price if found else _average(charged, chargeable, currency)),
        "currency": currency,
        "total_price": minor_units(charged, currency),
    }


def _average(charged: Decimal, units: Decimal, currency: str) -> Decimal:
    if not units:
        return ZERO
    return divide(charged.scaleb(currency_exponent(currency)), units, PRICE_FRACTION_DIGITS_MAX)
