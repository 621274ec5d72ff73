"""What HTTP's native API and the socket have in common: the same bodies, the same answers."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec

from tallyd.actors.intake import Request
from tallyd.actors.messages import Accepted, Duplicate, Outcome, Refused
from tallyd.api.wire import Decoder
from tallyd.clock import new_key
from tallyd.core import Core
from tallyd.engine.credits.covering import Drawn
from tallyd.engine.events import customer_ref, read_event
from tallyd.engine.rows import ChargeRow
from tallyd.model.event import EventBody, Source, event_uuid
from tallyd.model.moments import iso
from tallyd.model.money import ZERO
from tallyd.model.problems import Code, Problem, ProblemError, invalid

EVENTS_MAX: Final = 1_000
decode_event: Final = Decoder(EventBody)
CAPPED: Final = "The usage limit was already reached: the event is kept, and counted as zero"


class BatchInput(msgspec.Struct, frozen=True, kw_only=True):
    """1 to 1,000 events; each is read on its own, so one bad event does not sink the others."""

    events: list[msgspec.Raw]


decode_batch: Final = Decoder(BatchInput)


def read_request(core: Core, body: EventBody, source: Source, key: str | None = None) -> Request:
    """Check one event as sent. `key` overrides the body's, as the `X-Idempotency-Key` header does.

    Raises:
        ProblemError: names the field.
    """
    ref = customer_ref(body)
    if body.feature_id is not None:
        body = msgspec.structs.replace(body, feature_key=_feature_of_id(core, body.feature_id))
    event = read_event(
        body,
        source=source,
        key=key if key is not None else body.event_idempotency_key,
        new_key=new_key,
        now=core.clock.of(ref.customer_id()) if core.clock.standing else core.clock.now(),
        feature_named=lambda name: name if name in core.catalogue.features else None,
    )
    feature_key = event.feature_key
    if not core.config.features.auto_create and feature_key and feature_key not in core.catalogue.features:
        raise invalid("featureKey", f"{feature_key!r} is unknown and [features] auto_create is off")
    return Request(ref, event)


def _feature_of_id(core: Core, feature_id: str) -> str:
    feature = core.catalogue.features_by_id.get(feature_id.lower())
    if feature is None:
        raise invalid("featureId", f"there is no feature {feature_id!r}")
    return feature.key


async def ingest_batch(
    core: Core,
    raws: Sequence[msgspec.Raw],
    source: Source,
    adjust: Callable[[Request, int], Request] = lambda request, _: request,
) -> list[dict[str, Any]]:
    """Record up to 1,000 events; one result each, in order. `adjust` has the last word on each event.

    Raises:
        ProblemError: none, or too many.
    """
    if not 1 <= len(raws) <= EVENTS_MAX:
        raise invalid("events", f"must be 1 to {EVENTS_MAX} events, here are {len(raws)}")
    results: list[dict[str, Any] | None] = [None] * len(raws)
    requests: list[Request] = []
    indexes: list[int] = []
    for index, raw in enumerate(raws):
        try:
            requests.append(adjust(read_request(core, decode_event(raw), source), index))
            indexes.append(index)
        except ProblemError as error:
            core.counts.refused += 1
            results[index] = problem_result(error.problem)
    if requests:
        outcomes = await core.intake.ingest(requests)
        for index, outcome in zip(indexes, outcomes, strict=True):
            results[index] = outcome_result(outcome)
    return [result for result in results if result is not None]


def outcome_result(outcome: Outcome) -> dict[str, Any]:
    """Put one event's outcome into the shape of a batch's result."""
    if isinstance(outcome, Accepted):
        return {"status": "created", **accepted_view(outcome)}
    if isinstance(outcome, Duplicate):
        problem = duplicate_problem(outcome)
        status = "duplicate" if outcome.same_body else "conflict"
        return {"status": status, "eventId": event_uuid(outcome.event), "error": problem_view(problem)}
    if isinstance(outcome, Refused):
        return {"status": "refused", "error": problem_view(short_problem(outcome))}
    return problem_result(outcome)


def problem_result(problem: Problem) -> dict[str, Any]:
    """Put a problem into the shape of a batch's result."""
    return {"status": "refused", "error": problem_view(problem)}


def problem_view(problem: Problem) -> dict[str, Any]:
    """Return a problem's fields, absent ones left out."""
    view = {
        "code": problem.code,
        "message": problem.message,
        "field": problem.field,
        "detail": problem.detail,
    }
    return {name: value for name, value in view.items() if value is not None}


def duplicate_problem(outcome: Duplicate) -> Problem:
    """Return what is said of a key that is taken."""
    original = event_uuid(outcome.event)
    if outcome.same_body:
        text = "an event with this idempotency key is recorded already"
        return Problem(code=Code.CONFLICT, message=text, detail=original)
    text = "the idempotency key was used for another event; send a new event with a new key"
    return Problem(code=Code.IDEMPOTENCY_CONFLICT, message=text, detail=original)


def short_problem(outcome: Refused) -> Problem:
    """Return what is said of usage that a hard pool has to pay for and cannot (CONTRACTS B10)."""
    credit, cover = outcome.entitlement.credit, outcome.entitlement.cover
    denomination = credit.pool.model.denomination if credit else "credits"
    if credit is not None and credit.pool.frozen:
        text = "Credit pool frozen: it gives no credits until it is unfrozen; then send it again with the same key"
    elif cover is not None and cover.unsure and not cover.short:
        text = "Nobody knows a price for this usage, so no credits can pay for it; see the model and its prices"
    else:
        needed = f"{cover.short} more {denomination} needed; " if cover else ""
        text = f"Credit pool depleted: {needed}grant credits, then send it again with the same key"
    return Problem(code=Code.INSUFFICIENT_CREDITS, message=text)


def accepted_view(outcome: Accepted) -> dict[str, Any]:
    """Say what the books now hold: exact numbers, evidence, and what is still unpriced."""
    row = outcome.row
    view: dict[str, Any] = {
        "eventId": event_uuid(row.id),
        "position": row.position,
        "usageUnits": _number(row.units),
    }
    if row.cost is not None:
        view["costAmount"] = _number(row.cost)
        view["costSource"] = row.cost_source
    if row.revenue is not None:
        view["revenueAmount"] = _number(row.revenue)
    if outcome.charges:
        charge = outcome.charges[0]
        view["priceVersion"] = f"{charge.plan_key}@{charge.plan_version}"
    if row.no_price is not None:
        view["unpriced"] = row.no_price
    if row.subscription is None:
        view["unsubscribed"] = True  # no plan covered its time: counted and costed, not charged
    if outcome.drawn:
        view.update(_drawn(outcome.drawn))
    if row.capped:
        view["usageLimitExceeded"] = True
        view["message"] = CAPPED
    return view


def _drawn(drawn: list[Drawn]) -> dict[str, Any]:
    """Say what an event drew from credits, and what is left (CONTRACTS 1.4)."""
    deducted = sum((each.total for each in drawn), ZERO)
    view: dict[str, Any] = {"creditsDeducted": deducted, "remainingBalance": drawn[0].pool.balance}
    charged = sum({each.feature: each.quote.charge for each in drawn}.values(), ZERO)
    if charged > deducted:
        view["creditsShort"] = charged - deducted  # billed by the plan, or waived, as the pool says
    quote = drawn[0].quote
    if quote.weight is not None:
        view["weightApplied"] = quote.weight
    if quote.weight_id is not None:
        view["weightId"] = quote.weight_id
    if quote.weight_match is not None:
        view["weightMatch"] = quote.weight_match
    return view


def _number(text: str) -> msgspec.Raw:
    """Return a number of the books as JSON: it is written there the way JSON writes it."""
    return msgspec.Raw(text.encode())


def charge_view(charge: ChargeRow) -> dict[str, Any]:
    """Explain a charge: quantities, cumulative usage before it, price version, amount."""
    view = {
        "featureKey": charge.feature,
        "periodStart": iso(charge.period_start),
        "priceVersion": f"{charge.plan_key}@{charge.plan_version}",
        "usedBefore": Decimal(charge.used_before),
        "usageUnits": Decimal(charge.units),
        "quantityBefore": _quantities(charge.before),
        "quantity": _quantities(charge.quantity),
        "amount": None if charge.amount is None else Decimal(charge.amount),
        "currency": charge.currency,
        "unpriced": charge.no_price,
    }
    return {name: value for name, value in view.items() if value is not None}


_quantities = msgspec.json.Decoder(dict[str, Decimal]).decode
