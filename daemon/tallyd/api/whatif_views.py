"""What-if answers as they go over the wire, with the words for people; the shell shows the same."""

from collections.abc import Iterator
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from tallyd.engine.billing.invoicing import in_trial
from tallyd.engine.billing.stretches import Span
from tallyd.engine.billing.whatif import Compared, LeftOut, LeftOutReason, Part, Side
from tallyd.engine.rating import PricedPlan
from tallyd.model.moments import iso
from tallyd.model.money import ZERO, tidy

BASIS: Final = "before credits: what credits paid for stands at the plan's price on both sides"
RULE: Final = (
    "billing periods that begin in the range, each of them whole; without a subscription, the range itself"
    " in periods of the target"
)
FEATURES_NAMED_MAX: Final = 10


class Note(StrEnum):
    """What has to be known beside the amounts: a closed list. The first four make `wouldBe` too low."""

    UNPRICED = "unpriced"  # usage that the target has no price for
    MISSING = "not_in_target"  # usage of features that the target does not have
    NOT_COUNTED = "not_counted"  # usage that the target has the feature for, and whose meter counts none of it
    PAST_LIMIT = "past_limit"  # usage that came when a limit of the target had been reached
    UNPRICED_NOW = "unpriced_now"  # usage that has no price as it is
    UNSUBSCRIBED = "unsubscribed"
    SEVERAL = "several_subscriptions"
    INTERVAL = "other_interval"
    CREDITS = "credits"
    TRIAL = "trial"
    RUNNING = "running"


LOUD: Final = frozenset({Note.UNPRICED, Note.MISSING, Note.NOT_COUNTED, Note.PAST_LIMIT})
"""What is said loudly: the amount under the target is not all that the usage is worth."""

_LEFT_OUT: Final = {
    LeftOutReason.NO_PERIOD: "none of its billing periods begins in the range; ask for a longer one",
    LeftOutReason.CURRENCY: "pays in another currency than the target is in",
    LeftOutReason.NOT_ON_PLAN: "was not on the plan asked for",
    LeftOutReason.NOTHING: "has neither a subscription nor events in the range",
}


class Total:
    """Sums over the customers compared."""

    def __init__(self) -> None:
        self.customers = 0
        self.events = 0
        self._was = [ZERO, ZERO]
        self._would_be = [ZERO, ZERO]
        self._notes: dict[Note, int] = {}

    def add(self, compared: Compared) -> None:
        """Take a customer."""
        self.customers += 1
        self.events += compared.events
        for sums, side in ((self._was, compared.was), (self._would_be, compared.would_be)):
            sums[0] += side.exact
            sums[1] += side.amount
        for note in dict(notes(compared)):
            self._notes[note] = self._notes.get(note, 0) + 1

    @property
    def loud(self) -> bool:
        """Whether some usage has no price under the target, or is not counted there."""
        return not LOUD.isdisjoint(self._notes)

    def view(self, currency: str) -> dict[str, Any]:
        """Return the sums; `notes` says of how many customers each is true."""
        was, would_be = ({"exact": exact, "amount": amount} for exact, amount in (self._was, self._would_be))
        return {
            "customers": self.customers,
            "events": self.events,
            "currency": currency,
            "was": was,
            "wouldBe": would_be,
            "difference": _difference(was, would_be),
            "notes": {note.value: self._notes[note] for note in Note if note in self._notes},
        }


def heading_view(target: PricedPlan, span: Span, on: str | None) -> dict[str, Any]:
    """Return what was asked, and by which rule it is answered."""
    start, end = (iso(each) if isinstance(each, int) else each.isoformat() for each in (span.start, span.end))
    view: dict[str, Any] = {
        "start": start,
        "end": end,
        "target": {
            "planKey": target.key,
            "name": target.name,
            "priceVersion": target.price_version,
            "currency": target.currency,
            "priceAmount": target.price_amount,
        },
        "basis": BASIS,
        "rule": RULE,
    }
    if on is not None:
        view["onPlanKey"] = on
    return view


def left_out_view(left_out: LeftOut) -> dict[str, Any]:
    """Return who is not compared, and why."""
    customer, reason = left_out.customer, left_out.reason
    return {
        "customerReferenceId": customer.label,
        "customerId": customer.id,
        "reason": reason,
        "message": _LEFT_OUT[reason],
    }


def compared_view(compared: Compared) -> dict[str, Any]:
    """Return a customer's two sides, feature by feature, and what has to be known beside them."""
    was, would_be = side_view(compared.was), side_view(compared.would_be)
    return {
        "customerReferenceId": compared.customer.label,
        "customerId": compared.customer.id,
        "subscriptions": [
            {
                "id": each.subscription.id or None,
                "priceVersions": list(dict.fromkeys(plan.price_version for plan in each.enrolled[1])),
                "periods": len(each.periods),
                "start": iso(each.periods[0].start),
                "end": iso(each.periods[-1].end),
                "running": each.runs,
            }
            for each in compared.stretches
        ],
        "events": compared.events,
        "was": was,
        "wouldBe": would_be,
        "difference": _difference(was, would_be),
        "features": list(_features(compared)),
        "notes": [{"code": note, "message": words} for note, words in notes(compared)],
    }


def side_view(side: Side) -> dict[str, Any]:
    """Return one side: in all, and what of it is base price and what usage."""
    view: dict[str, Any] = {
        "exact": side.exact,
        "amount": side.amount,
        "base": {"exact": side.base.exact, "amount": side.base.amount},
        "usage": {"exact": side.exact - side.base.exact, "amount": side.amount - side.base.amount},
    }
    if side.credited:
        view["paidWithCredits"] = side.credited
    return view


def _difference(was: dict[str, Any], would_be: dict[str, Any]) -> dict[str, Decimal]:
    return {name: would_be[name] - was[name] for name in ("exact", "amount")}


def _features(compared: Compared) -> Iterator[dict[str, Any]]:
    was, would_be = compared.was.features, compared.would_be.features
    for key in dict.fromkeys((*would_be, *was, *compared.missing)):
        views = [_part_view(side.get(key, Part())) for side in (was, would_be)]
        view: dict[str, Any] = {
            "featureKey": key,
            "was": views[0],
            "wouldBe": views[1],
            "difference": _difference(*views),
        }
        if key in compared.missing:
            view["notInTarget"] = True
        past = compared.past_limit.get(key)
        if past is not None:
            view["pastLimit"] = {"limit": past.limit, "events": past.events, "usageUnits": past.units}
        yield view


def _part_view(part: Part) -> dict[str, Any]:
    view = {"usageUnits": part.used, "events": part.events, "exact": part.exact, "amount": part.amount}
    return {**view, "unpriced": part.unpriced} if part.unpriced else view


# In words


def notes(compared: Compared) -> Iterator[tuple[Note, str]]:
    """Return what has to be known beside a customer's amounts, the loudest first."""
    target, was, would_be = compared.target.price_version, compared.was, compared.would_be
    if would_be.unpriced:
        yield Note.UNPRICED, f"{_events(would_be.unpriced)} without a price in {target}: not in the amount"
    if compared.missing:
        used = _listed([f"{key} ({_number(units)} used)" for key, units in compared.missing.items()])
        yield Note.MISSING, f"{used} not in {target}: would be free"
    uncounted = _not_counted(compared)
    if uncounted:
        used = _listed([f"{key} ({_number(was.features[key].used)} used)" for key in uncounted])
        yield Note.NOT_COUNTED, f"{used} would not be counted: the meter of {target} counts other events"
    if compared.past_limit:
        past = _listed(
            [
                f"{key} past its limit of {_number(each.limit)} by {_number(each.units)}"
                for key, each in compared.past_limit.items()
            ]
        )
        yield Note.PAST_LIMIT, f"{past}: would have been refused, or counted as zero"
    yield from _asides(compared)


def _not_counted(compared: Compared) -> list[str]:
    features, past = compared.target.features, compared.past_limit
    return [
        key
        for key, part in compared.was.features.items()
        if part.events and key in features and key not in compared.would_be.features and key not in past
    ]


def _asides(compared: Compared) -> Iterator[tuple[Note, str]]:
    target = compared.target
    if compared.was.unpriced:
        yield Note.UNPRICED_NOW, f"{_events(compared.was.unpriced)} without a price as it was"
    if compared.unsubscribed:
        yield Note.UNSUBSCRIBED, f"{_events(compared.unsubscribed)} on no subscription: charged on neither side"
    if len(compared.stretches) > 1:
        text = f"{len(compared.stretches)} subscriptions, each taken to be on {target.key}; choose with --on"
        yield Note.SEVERAL, text
    if _other_interval(compared):
        text = "a part of its base price, its tiers and limits by the periods as they were"
        yield Note.INTERVAL, f"{target.key} has other intervals: {text}"
    if compared.was.credited:
        yield Note.CREDITS, f"credits paid {_number(compared.was.credited)} of what was"
    elif target.credits or any(plan.credits for each in compared.stretches for plan in each.enrolled[1]):
        yield Note.CREDITS, "credits that come with a plan are left out"
    trials = sum(
        in_trial(stretch.subscription, each.start) for stretch in compared.stretches for each in stretch.periods
    )
    if trials:
        yield Note.TRIAL, "the trial is free on both sides"
    if any(each.runs for each in compared.stretches):
        yield Note.RUNNING, "the last period still runs: usage so far, the whole base price"


def _other_interval(compared: Compared) -> bool:
    months, days = compared.target.interval_months, compared.target.interval_days
    if not months and not days:
        return False
    cycles = [phase.cycle for each in compared.stretches for phase in each.subscription.phases]
    return any((cycle.months, cycle.days) != (months, days) for cycle in cycles)


def _listed(parts: list[str]) -> str:
    more = len(parts) - FEATURES_NAMED_MAX
    return ", ".join(parts[:FEATURES_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


def _events(number: int) -> str:
    return f"{number:,} event{'' if number == 1 else 's'}"


def _number(value: Decimal) -> str:
    return f"{tidy(value):,f}"
