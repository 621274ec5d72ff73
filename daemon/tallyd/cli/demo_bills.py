"""The demo's own bills: what every invoice must come to, from the catalog's text and the events that were sent.

A check that is independent of the daemon shares none of its rules: this one knows no counters and no ledger. For
each moment at which something is billed it prices, from the beginning, all usage that had come by then, and takes
off what it billed before.
"""

import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from decimal import ROUND_HALF_UP, Context, Decimal
from itertools import pairwise
from typing import Any, Final

import msgspec

from tallyd.cli.demo_day import CUSTOMERS
from tallyd.cli.demo_months import PREPAID, UPGRADED_TO, UPGRADER, Months
from tallyd.cli.demo_story import Arrival, Chronicle, Invoice, covered
from tallyd.cli.demo_tally import Comparison
from tallyd.model.moments import parse_iso

CENT: Final = Decimal("0.01")
NOTHING: Final = Decimal(0)
MILLION: Final = 1_000_000

_CONTEXT: Final = Context(prec=60, rounding=ROUND_HALF_UP, traps=[])

Plan = dict[str, Any]


class Stretch(msgspec.Struct, frozen=True):
    """A time in which a customer is on one plan, within one month: `[start, end)`, microseconds UTC."""

    plan: str
    start: int
    end: int


class Bill(msgspec.Struct, frozen=True):
    """What an invoice must come to. `at` is when it is due, microseconds UTC."""

    at: int
    amount: Decimal


def read_plans(catalog: str) -> dict[str, Plan]:
    """Return the plans of a catalog by key, as they are written, with the meters that they use."""
    read = tomllib.loads(catalog, parse_float=Decimal)
    meters = {meter["key"]: meter for meter in read["meters"]}
    for plan in read["plans"]:
        for feature in plan["features"]:
            feature["meter"] = meters.get(feature.get("meter"))
    return {plan["key"]: plan for plan in read["plans"]}


def compare_bills(plans: dict[str, Plan], months: Months, chronicle: Chronicle) -> list[Comparison]:
    """Put what each invoice must come to beside what the daemon's comes to, and each check beside its answer."""
    found = [
        Comparison(f"{each.customer}: access {each.when}", Decimal(each.expected), Decimal(each.allowed))
        for each in chronicle.access
    ]
    for customer in CUSTOMERS:
        if customer.plan is None:
            continue
        mine = [each for each in chronicle.arrivals if each.body["customerReferenceId"] == customer.reference]
        upgraded = chronicle.upgraded_at if customer.reference == UPGRADER else None
        bills = _bills(plans, customer.plan, months.starts, mine, upgraded)
        made = [each for each in chronicle.of(customer.reference) if each["status"] != "PENDING"]
        name = f"{customer.reference}: invoices"
        found.append(Comparison(name, Decimal(len(bills)), Decimal(len(made))))
        if customer.reference == PREPAID:
            found += _compare_covered(months.starts, mine, made[1:])
        for bill, invoice in zip(bills, made, strict=False):
            found.append(Comparison(f"{customer.reference}: {invoice['number']}", bill.amount, invoice["amount"]))
    return found


def _compare_covered(starts: Sequence[int], mine: list[Arrival], made: list[Invoice]) -> list[Comparison]:
    """Put what was used in each month beside what the invoice after it says credits have paid for."""
    found = []
    for (start, end), invoice in zip(pairwise(starts), made, strict=False):
        bodies = [each.body for each in mine if start <= parse_iso(each.body["occurredAt"]) < end]
        used = Decimal(sum(body["usageUnits"] for body in bodies))
        found.append(Comparison(f"{PREPAID}: paid with credits on {invoice['number']}", used, covered(invoice)))
    return found


def _bills(
    plans: dict[str, Plan], plan: str, starts: Sequence[int], arrivals: list[Arrival], upgraded: int | None
) -> list[Bill]:
    """Return what a customer's invoices must come to, oldest first."""
    stretches = [Stretch(plan, *month) for month in pairwise(starts)]
    if upgraded is not None:
        stretches = list(_split(stretches, upgraded))
    biller = _Biller(plans, arrivals)
    if plans[plan].get("billing_timing") == "IN_ARREARS":
        return [Bill(each.end, _price(plans[plan]) + biller.usage(stretches, each.end)) for each in stretches]
    bills = [Bill(starts[0], _price(plans[plan]))]
    for start in starts[1:]:
        now = plan if upgraded is None or start < upgraded else UPGRADED_TO
        bills.append(Bill(start, _price(plans[now]) + biller.usage(stretches, start)))
    if upgraded is not None:
        month = next(each for each in pairwise(starts) if each[0] <= upgraded < each[1])
        rest = (_price(plans[UPGRADED_TO]), -_price(plans[plan]))
        bills.append(Bill(upgraded, sum((_part(each, upgraded, month) for each in rest), NOTHING)))
    return sorted(bills, key=lambda each: each.at)


def _split(stretches: Iterable[Stretch], at: int) -> Iterable[Stretch]:
    for each in stretches:
        if each.start < at < each.end:
            yield Stretch(each.plan, each.start, at)
            yield Stretch(UPGRADED_TO, at, each.end)
        else:
            yield each if each.end <= at else Stretch(UPGRADED_TO, each.start, each.end)


def _price(plan: Plan) -> Decimal:
    return Decimal(plan.get("price_amount", 0))


def _part(price: Decimal, since: int, month: tuple[int, int]) -> Decimal:
    """Return the price of what is left of a month, in cents."""
    return _cents(_CONTEXT.divide(price * (month[1] - since), Decimal(month[1] - month[0])))


def _cents(exact: Decimal) -> Decimal:
    return exact.quantize(CENT, context=_CONTEXT)


class _Biller:
    """Bills usage; `_billed` is what each feature of each stretch was billed at, exactly."""

    def __init__(self, plans: dict[str, Plan], arrivals: list[Arrival]) -> None:
        self._plans = plans
        self._arrivals = arrivals
        self._billed: dict[tuple[int, str], Decimal] = {}

    def usage(self, stretches: Iterable[Stretch], at: int) -> Decimal:
        """Return what usage adds to an invoice of an instant."""
        total = NOTHING
        for stretch in stretches:
            if stretch.end <= at:
                for feature in self._plans[stretch.plan]["features"]:
                    total += self._feature(stretch, feature, at)
        return total

    def _feature(self, stretch: Stretch, feature: dict[str, Any], at: int) -> Decimal:
        parts = _priced(feature, [each for each in self._arrivals if _counts(each, feature, stretch, at)])
        exact, place = sum(parts, NOTHING), (stretch.start, feature["feature"])
        before = self._billed.get(place)
        self._billed[place] = exact
        return sum(map(_cents, parts), NOTHING) if before is None else _cents(exact - before)


def _counts(arrival: Arrival, feature: dict[str, Any], stretch: Stretch, at: int) -> bool:
    body, meter = arrival.body, feature["meter"]
    if arrival.at > at or not stretch.start <= parse_iso(body["occurredAt"]) < stretch.end:
        return False
    if meter is None:
        return bool(feature["feature"] == body.get("featureKey", body["eventName"]))
    guest = body.get("meta", {}).get("role") == "guest"
    return bool(meter["event_name"] == body["eventName"]) and not guest


def _priced(feature: dict[str, Any], arrivals: list[Arrival]) -> list[Decimal]:
    """Return the exact amounts that stand on lines of their own."""
    pricing = feature.get("pricing", {})
    return _PRICED.get(pricing.get("model"), _included)(pricing, feature, arrivals)


def _included(_pricing: Plan, _feature: Plan, _arrivals: list[Arrival]) -> list[Decimal]:
    return []


def _usage(pricing: Plan, feature: Plan, arrivals: list[Arrival]) -> list[Decimal]:
    return [_units(feature, arrivals) * Decimal(pricing["price_per_unit"])]


def _graduated(pricing: Plan, feature: Plan, arrivals: list[Arrival]) -> list[Decimal]:
    units, floor, total = _units(feature, arrivals), NOTHING, NOTHING
    for tier in pricing["tiers"]:
        if units > floor:
            ceiling = units if tier["up_to"] == "inf" else min(units, Decimal(tier["up_to"]))
            total += (ceiling - floor) * Decimal(tier["price_per_unit"]) + Decimal(tier.get("flat_fee", 0))
            floor = ceiling
    return [total]


def _tokens(pricing: Plan, _feature: Plan, arrivals: list[Arrival]) -> list[Decimal]:
    parts: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for each in arrivals:
        cost = each.body["costInput"]
        if "markup_percent" in pricing:
            factor = 1 + Decimal(pricing["markup_percent"]) / 100
            parts[cost["model"], "cost"] += (each.cost or NOTHING) * factor
            continue
        rates = pricing["rates"].get(cost["model"], pricing["rates"]["*"])
        for kind, tokens in (("input", cost["inputTokens"]), ("output", cost["outputTokens"])):
            parts[cost["model"], kind] += tokens * Decimal(rates[kind]) / MILLION
    return list(parts.values())


def _units(feature: Plan, arrivals: list[Arrival]) -> Decimal:
    """Count as the feature's meter does: the sum of `usageUnits` without one."""
    meter = feature["meter"]
    if meter is None:
        return Decimal(sum(each.body["usageUnits"] for each in arrivals))
    key, kind = meter["aggregation"]["key"], meter["aggregation"]["type"]
    values = [each.body["meta"][key] for each in arrivals]
    return Decimal(len(set(values)) if kind == "unique" else max(values, default=0))


_PRICED: Final[dict[str | None, Callable[[Plan, Plan, list[Arrival]], list[Decimal]]]] = {
    "usage": _usage,
    "graduated": _graduated,
    "llm_tokens": _tokens,
}
