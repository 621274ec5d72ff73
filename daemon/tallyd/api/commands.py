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
from tallyd.engine import entitlements
from tallyd.engine.account import Account, ChargeRow
from tallyd.engine.entitlements import DESCRIPTIONS, Entitlement, Reason, Simulation
from tallyd.engine.events import check_identifier, check_number, customer_ref, read_event
from tallyd.model.customer import CustomerRef, RefKind
from tallyd.model.event import EventBody, Source, event_uuid
from tallyd.model.moments import iso
from tallyd.model.problems import Code, Problem, ProblemError, invalid, not_found

EVENTS_MAX: Final = 1_000
IDENTIFIER_SHORT: Final = 128
"""Characters of names in an evaluate request (CONTRACTS 1.3)."""
decode_event: Final = Decoder(EventBody)
CAPPED: Final = "The usage limit was already reached: the event is kept, and counted as zero"


class ReasonView(msgspec.Struct, frozen=True, gc=False):
    """A reason from the closed list, and the words for it."""

    code: Reason
    description: str


class MetaView(msgspec.Struct, frozen=True, gc=False):
    """`meta` of an entitlement answer."""

    reason: ReasonView


class UsageView(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Units used, and against what."""

    used: Decimal
    limit: Decimal | None = None
    remaining: Decimal | None = None


class EntitlementView(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, gc=False):
    """An entitlement answer (CONTRACTS 1.9), with tallyd's evidence: `position` and `priceVersion`."""

    reference_customer_id: str
    feature_key: str
    allowed: bool
    flow_id: str | None = None
    meta: MetaView
    usage: UsageView | None = None
    simulation: Simulation | None = None
    position: int
    price_version: str | None = None


class ConsumeView(EntitlementView, frozen=True, kw_only=True, rename="camel", omit_defaults=True, gc=False):
    """The answer to a `consume`: an entitlement answer, and the event when it was admitted.

    `usage` is as of this event; `duplicate` marks the retry of an event that was admitted before.
    """

    event_id: str | None = None
    duplicate: bool = False
    cost_amount: Decimal | None = None
    revenue_amount: Decimal | None = None
    unpriced: str | None = None


_META: Final = {reason: MetaView(ReasonView(reason, DESCRIPTIONS[reason])) for reason in Reason}


class UsageInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`usage` of an evaluate request."""

    event_name: str | None = None
    usage_units: Decimal | None = None
    model: str | None = None
    meta: dict[str, Any] | None = None


class ContextInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`context` of an evaluate request. Its idempotency key is a space of its own."""

    idempotency_key: str | None = None
    flow_id: str | None = None


class EvaluateInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Body of POST /entitlements, and params of the socket's `evaluate`.

    `usageUnits` may stand on top as it does in an event: to overlook it would answer another question.
    """

    customer_reference_id: str
    feature_key: str
    usage: UsageInput | None = None
    usage_units: Decimal | None = None
    context: ContextInput | None = None


class BatchInput(msgspec.Struct, frozen=True, kw_only=True):
    """1 to 1,000 events; each is read on its own, so one bad event does not sink the others."""

    events: list[msgspec.Raw]


decode_evaluate: Final = Decoder(EvaluateInput)
decode_batch: Final = Decoder(BatchInput)


def by_reference(reference: str, field: str = "customerReferenceId") -> CustomerRef:
    """Return the customer of the app's own id.

    Raises:
        ProblemError: not something that can be an id.
    """
    return CustomerRef(RefKind.REFERENCE, check_identifier(field, reference))


async def known_account(core: Core, ref: CustomerRef) -> Account:
    """Return a known customer's account to read from.

    Raises:
        ProblemError: the customer is unknown.
    """
    account = core.directory.resident(ref) or await core.directory.account(ref)
    if not account.known:
        raise not_found(f"there is no customer {ref.value!r}")
    return account


# Entitlements


def entitlement_view(
    reference: str, feature_key: str, answer: Entitlement, flow_id: str | None = None
) -> EntitlementView:
    """Put an entitlement into its wire shape."""
    return EntitlementView(
        reference_customer_id=reference,
        feature_key=feature_key,
        allowed=answer.allowed,
        flow_id=flow_id,
        meta=_META[answer.reason],
        usage=None if answer.used is None else UsageView(answer.used, answer.limit, answer.remaining),
        simulation=answer.simulation,
        position=answer.position,
        price_version=answer.price_version,
    )


def answer_check(core: Core, account: Account, reference: str, feature_key: str) -> EntitlementView:
    """Answer a check from an account at hand: no waiting, so the read is consistent."""
    core.counts.checks += 1
    answer = entitlements.decide(account, feature_key, core.clock.now())
    return entitlement_view(reference, feature_key, answer)


async def check(core: Core, reference: str, feature_key: str) -> EntitlementView:
    """Answer a check.

    Raises:
        ProblemError: the customer is unknown.
    """
    account = await known_account(core, by_reference(reference))
    return answer_check(core, account, reference, feature_key)


async def evaluate(core: Core, request: EvaluateInput, new_flow_id: str | None) -> EntitlementView:
    """Answer an evaluate: a check with the units asked for, recording nothing.

    Raises:
        ProblemError: units not above zero, or the customer is unknown.
    """
    nested = request.usage.usage_units if request.usage else None
    field, units = ("usage.usageUnits", nested) if nested is not None else ("usageUnits", request.usage_units)
    if units is not None and check_number(field, units, negative=True) <= 0:
        raise invalid(field, "must be greater than zero")
    ref = by_reference(request.customer_reference_id)
    check_identifier("featureKey", request.feature_key, IDENTIFIER_SHORT)
    if request.usage and request.usage.event_name is not None:
        check_identifier("usage.eventName", request.usage.event_name, IDENTIFIER_SHORT)
    if request.context and request.context.flow_id is not None:
        check_identifier("context.flowId", request.context.flow_id, IDENTIFIER_SHORT)
    account = await known_account(core, ref)
    core.counts.checks += 1
    answer = entitlements.decide(account, request.feature_key, core.clock.now(), units)
    sent = request.context.flow_id if request.context else None
    return entitlement_view(request.customer_reference_id, request.feature_key, answer, sent or new_flow_id)


# Events


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
        now=core.clock.now(),
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


async def consume(core: Core, body: EventBody) -> ConsumeView:
    """Check and ingest in one step; `allowed` false means that nothing was recorded.

    Raises:
        ProblemError: bad input, a key used for another event, or overload.
    """
    request = read_request(core, body, Source.SOCKET)
    reference, feature_key = request.ref.value, request.event.feature_key or request.event.name
    outcome = (await core.intake.ingest([request], consuming=True))[0]
    if isinstance(outcome, Accepted):
        return _consumed(core, reference, feature_key, outcome)
    if isinstance(outcome, Refused):
        view = entitlement_view(reference, feature_key, outcome.entitlement)
        return ConsumeView(**msgspec.structs.asdict(view))
    if isinstance(outcome, Duplicate):
        if not outcome.same_body:
            raise ProblemError(duplicate_problem(outcome))
        account = await core.directory.account(request.ref)
        answer = entitlements.decide(account, feature_key, core.clock.now())
        fields = msgspec.structs.asdict(entitlement_view(reference, feature_key, answer))
        fields["allowed"] = True  # it was admitted the first time, whatever is left now
        return ConsumeView(**fields, event_id=event_uuid(outcome.event), duplicate=True)
    raise ProblemError(outcome)


def _consumed(core: Core, reference: str, feature_key: str, outcome: Accepted) -> ConsumeView:
    row, usage, version, reason = outcome.row, None, None, Reason.INCLUDED
    for charge in outcome.charges:
        if charge.feature == feature_key:
            limit = core.catalogue.plans[charge.plan_key, charge.plan_version].features[feature_key].limit
            used = Decimal(charge.used_before) + Decimal(charge.units)
            usage = UsageView(used, limit, None if limit is None else limit - used)
            version = f"{charge.plan_key}@{charge.plan_version}"
            reason = Reason.INCLUDED if limit is None else Reason.WITHIN_LIMIT
    return ConsumeView(
        reference_customer_id=reference,
        feature_key=feature_key,
        allowed=True,
        meta=_META[reason],
        usage=usage,
        position=row.position,
        price_version=version,
        event_id=event_uuid(row.id),
        cost_amount=None if row.cost is None else Decimal(row.cost),
        revenue_amount=None if row.revenue is None else Decimal(row.revenue),
        unpriced=row.no_price,
    )


def outcome_result(outcome: Outcome) -> dict[str, Any]:
    """Put one event's outcome into the shape of a batch's result."""
    if isinstance(outcome, Accepted):
        return {"status": "created", **accepted_view(outcome)}
    if isinstance(outcome, Duplicate):
        problem = duplicate_problem(outcome)
        status = "duplicate" if outcome.same_body else "conflict"
        return {"status": status, "eventId": event_uuid(outcome.event), "error": problem_view(problem)}
    if isinstance(outcome, Refused):
        return {"status": "denied", "reason": outcome.entitlement.reason}
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
    if row.capped:
        view["usageLimitExceeded"] = True
        view["message"] = CAPPED
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
