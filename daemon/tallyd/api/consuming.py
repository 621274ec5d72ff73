"""Usage that is asked for, over HTTP and the socket alike: consume, and reserve, settle, release."""

from collections.abc import Mapping
from decimal import Decimal
from functools import partial
from typing import Any, Final

import msgspec

from tallyd.actors.intake import Request
from tallyd.actors.messages import Accepted, Change, Duplicate, Refused, Reserve
from tallyd.api.commands import (
    accepted_view,
    duplicate_problem,
    read_request,
    short_problem,
)
from tallyd.api.entitling import (
    META,
    EntitlementView,
    Estimate,
    UsageView,
    by_reference,
    cost_input_of,
    entitlement_view,
    known_account,
    quote_view,
)
from tallyd.api.wire import Decoder
from tallyd.core import Core
from tallyd.engine import entitlements, recording
from tallyd.engine.credits import holding
from tallyd.engine.credits.draft import Draft
from tallyd.engine.entitlements import Entitlement, Reason
from tallyd.engine.events import check_identifier, check_number, decode_body
from tallyd.engine.passing import as_of
from tallyd.engine.recording import Denied
from tallyd.model.credits import OVERAGE, Hold, HoldStatus, HoldTerms
from tallyd.model.customer import CustomerRef, RefKind
from tallyd.model.event import CostInput, EventBody, Source, event_number, event_uuid
from tallyd.model.moments import SECOND_US, iso
from tallyd.model.money import ZERO
from tallyd.model.problems import Code, Problem, ProblemError, invalid, not_found
from tallyd.store import credit_rows, event_rows

SETTLED: Final = "settle"
"""Key space of settlements without a key of their own: the hold's id is the key."""

TTL_DEFAULT_S: Final = 300
TTL_MAX_S: Final = 7 * 24 * 3_600


class ConsumeView(EntitlementView, frozen=True, kw_only=True, rename="camel", omit_defaults=True, gc=False):
    """The answer to a `consume`: an entitlement answer, and the event when it was admitted.

    `usage` is as of this event; `duplicate` marks the retry of an event that was admitted before.
    """

    event_id: str | None = None
    duplicate: bool = False
    cost_amount: Decimal | None = None
    revenue_amount: Decimal | None = None
    unpriced: str | None = None
    credits_deducted: Decimal | None = None
    remaining_balance: Decimal | None = None


class ReserveInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Params of `reserve`, body of POST /holds: `usageUnits`, or an `estimate` of tokens, at most to be used."""

    customer_reference_id: str
    feature_key: str
    event_name: str | None = None
    usage_units: Decimal | None = None
    estimate: Estimate | None = None
    meta: dict[str, Any] | None = None
    ttl_seconds: int = TTL_DEFAULT_S
    idempotency_key: str | None = None
    subscription_id: str | None = None


class SettleInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Params of `settle`, body of POST /holds/{id}/settle: the usage as it was.

    What is not said is as it was when the hold was made: the event's name, the model. `final` false settles a part
    and keeps the rest of the hold; it needs an `eventIdempotencyKey`.
    """

    hold_id: str | None = None
    customer_reference_id: str | None = None
    event_name: str | None = None
    event_idempotency_key: str | None = None
    usage_units: Decimal | None = None
    cost_input: CostInput | None = None
    cost_amount: Decimal | None = None
    occurred_at: str | None = None
    flow_id: str | None = None
    meta: dict[str, Any] | None = None
    final: bool = True


class ReleaseInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Params of `release`."""

    hold_id: str
    customer_reference_id: str | None = None


decode_reserve: Final = Decoder(ReserveInput)
decode_settle: Final = Decoder(SettleInput)
decode_release: Final = Decoder(ReleaseInput)


# Consume


async def consume(core: Core, body: EventBody) -> ConsumeView:
    """Check and ingest in one step; `allowed` false means that nothing was recorded.

    Raises:
        ProblemError: bad input, a key used for another event, or overload.
    """
    request = read_request(core, body, Source.SOCKET)
    reference, feature_key = request.ref.value, request.event.feature_key or request.event.name
    outcome = (await core.intake.ingest([request], recording.consume))[0]
    if isinstance(outcome, Accepted):
        return _consumed(core, reference, feature_key, outcome)
    if isinstance(outcome, Refused):
        view = denied_view(core, reference, feature_key, outcome.entitlement)
        return ConsumeView(**msgspec.structs.asdict(view))
    if isinstance(outcome, Duplicate):
        if not outcome.same_body:
            raise ProblemError(duplicate_problem(outcome))
        account = await core.directory.account(request.ref)
        answer = entitlements.decide(account, feature_key, core.clock.of(account.customer.id))
        fields = msgspec.structs.asdict(entitlement_view(reference, feature_key, answer))
        fields["allowed"] = True  # it was admitted the first time, whatever is left now
        return ConsumeView(**fields, event_id=event_uuid(outcome.event), duplicate=True)
    raise ProblemError(outcome)


def denied_view(core: Core, reference: str, feature_key: str, answer: Entitlement) -> EntitlementView:
    """Say why something does not fit, with what it would have come to."""
    return entitlement_view(reference, feature_key, answer, quote=quote_view(core, answer))


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
        meta=META[reason],
        usage=usage,
        position=row.position,
        price_version=version,
        event_id=event_uuid(row.id),
        cost_amount=None if row.cost is None else Decimal(row.cost),
        revenue_amount=None if row.revenue is None else Decimal(row.revenue),
        unpriced=row.no_price,
        credits_deducted=sum((each.total for each in outcome.drawn), ZERO) if outcome.drawn else None,
        remaining_balance=outcome.drawn[0].pool.balance if outcome.drawn else None,
    )


# Holds


async def reserve(core: Core, sent: ReserveInput) -> dict[str, Any]:
    """Hold what usage may come to; `allowed` false means that nothing is held, and why.

    Raises:
        ProblemError: bad input, a key used for another hold, or overload.
    """
    request = _reserve_request(core, sent)
    message = Reserve(request.event, ttl=sent.ttl_seconds * SECOND_US)
    pair = ("hold", sent.idempotency_key) if sent.idempotency_key is not None else None
    known = await core.intake.ask_once(request.ref, message, pair)
    if known is not None:
        terms = _decode_terms(known.body)
        if terms.body != request.event.body:
            text = "the idempotency key was used for another hold; send a new one with a new key"
            problem = Problem(code=Code.IDEMPOTENCY_CONFLICT, message=text, detail=event_uuid(known.id))
            raise ProblemError(problem)
        return {"allowed": True, **await hold_status(core, event_uuid(known.id)), "duplicate": True}
    assert message.outcome is not None, "it was decided"
    if isinstance(message.outcome, Denied):
        core.counts.denied += 1
        answer = denied_view(core, sent.customer_reference_id, sent.feature_key, message.outcome.entitlement)
        return msgspec.to_builtins(answer, builtin_types=(Decimal,))  # type: ignore[no-any-return]
    stands = message.outcome.entitlement
    view = entitlement_view(sent.customer_reference_id, sent.feature_key, stands, quote=quote_view(core, stands))
    fields: dict[str, Any] = msgspec.to_builtins(view, builtin_types=(Decimal,))
    return {**fields, **hold_view(message.outcome.hold)}


_decode_terms = msgspec.json.Decoder(HoldTerms, float_hook=Decimal).decode


def _reserve_request(core: Core, sent: ReserveInput) -> Request:
    if not 1 <= sent.ttl_seconds <= TTL_MAX_S:
        raise invalid("ttlSeconds", f"must be 1 to {TTL_MAX_S} seconds")
    if sent.usage_units is None and sent.estimate is None:
        raise invalid("usageUnits", "is required, or an estimate of tokens")
    if sent.usage_units is not None and check_number("usageUnits", sent.usage_units, negative=True) <= 0:
        raise invalid("usageUnits", "must be greater than zero")
    if sent.idempotency_key is not None:
        check_identifier("idempotencyKey", sent.idempotency_key)
    body = EventBody(
        event_name=sent.event_name or sent.feature_key,
        feature_key=sent.feature_key,
        customer_reference_id=sent.customer_reference_id,
        usage_units=sent.usage_units,
        cost_input=None if sent.estimate is None else cost_input_of(sent.estimate),
        meta=sent.meta,
        subscription_id=sent.subscription_id,
    )
    return read_request(core, body, Source.SOCKET, sent.idempotency_key)


async def settle(core: Core, sent: SettleInput, source: Source = Source.SOCKET) -> dict[str, Any]:
    """Record the usage a hold was made for, and give the rest back.

    Raises:
        ProblemError: bad input, the hold is unknown, settled or released, or its pool refuses the shortfall.
    """
    if sent.hold_id is None:
        raise invalid("holdId", "is required")
    if sent.usage_units is None and sent.cost_input is None:
        raise invalid("usageUnits", "is required, or costInput; to give everything back, release the hold")
    if not sent.final and sent.event_idempotency_key is None:
        raise invalid("eventIdempotencyKey", "is required when final is false, so that a retry counts once")
    ref, hold = await _find_hold(core, sent.hold_id, sent.customer_reference_id)
    key = sent.event_idempotency_key or event_uuid(hold.number)
    request = read_request(core, _settled_body(sent, hold), source, key)
    event = request.event
    if sent.event_idempotency_key is None:
        event = msgspec.structs.replace(event, key_space=SETTLED)
    decide = partial(recording.settle, hold=hold.number, final=sent.final)
    outcome = (await core.intake.ingest([Request(ref, event)], decide, hold.number))[0]
    if isinstance(outcome, Accepted):
        view = {"allowed": True, **accepted_view(outcome)}
        return {**view, **(hold_view(outcome.hold) if outcome.hold else await hold_status(core, sent.hold_id))}
    if isinstance(outcome, Refused):
        raise ProblemError(short_problem(outcome))
    if isinstance(outcome, Duplicate):
        if not outcome.same_body and sent.event_idempotency_key is None:
            text = "the hold is settled already, by another usage; report further usage as an event of its own"
            raise ProblemError(Problem(code=Code.CONFLICT, message=text, detail=event_uuid(outcome.event)))
        if not outcome.same_body:
            raise ProblemError(duplicate_problem(outcome))
        status = await hold_status(core, sent.hold_id)
        return {"allowed": True, "eventId": event_uuid(outcome.event), "duplicate": True, **status}
    raise ProblemError(outcome)


def _settled_body(sent: SettleInput, hold: Hold) -> EventBody:
    """Return the event a settlement is, with what is not said taken from the hold."""
    asked = decode_body(hold.terms.body)
    cost_input = sent.cost_input
    if cost_input is not None and cost_input.model is None and asked.cost_input is not None:
        model, provider = asked.cost_input.model, asked.cost_input.model_provider
        cost_input = msgspec.structs.replace(
            cost_input, model=model, model_provider=cost_input.model_provider or provider
        )
    elif cost_input is None and asked.cost_input is not None and asked.cost_input.model is not None:
        cost_input = CostInput(model=asked.cost_input.model, model_provider=asked.cost_input.model_provider)
    return EventBody(
        event_name=sent.event_name or asked.event_name,
        feature_key=asked.feature_key,
        customer_reference_id=asked.customer_reference_id,
        usage_units=sent.usage_units,
        cost_input=cost_input,
        cost_amount=sent.cost_amount,
        occurred_at=sent.occurred_at,
        flow_id=sent.flow_id,
        meta=sent.meta if sent.meta is not None else asked.meta,
        subscription_id=asked.subscription_id,
        hold_id=event_uuid(hold.number) + ("" if sent.final else "/part"),
    )


async def release(core: Core, hold_id: str, reference: str | None = None) -> dict[str, Any]:
    """Give back what a hold has set aside; one that has ended already is answered as it stands.

    Raises:
        ProblemError: the hold is unknown.
    """
    ref, hold = await _find_hold(core, hold_id, reference)

    def decide(draft: Draft, _prepared: Any) -> Hold | None:
        held = draft.hold(hold.number)
        return None if held is None else holding.release(draft, held)

    message = Change(decide)
    await core.intake.ask(ref, message)
    if message.answer is not None:
        return hold_view(message.answer)
    return await hold_status(core, hold_id)


async def hold_status(core: Core, hold_id: str) -> dict[str, Any]:
    """Return a hold as it stands now, in its wire shape.

    Raises:
        ProblemError: the hold is unknown.
    """
    ref, hold = await _find_hold(core, hold_id, None)
    account = await known_account(core, ref)
    if account.credits is not None and hold.status is HoldStatus.HELD:
        core.directory.actor(ref).keep_time()
        hold = as_of(account, core.clock.of(account.customer.id)).hold(hold.number) or await _ended(
            core, ref, hold
        )
    return hold_view(hold)


async def _ended(core: Core, ref: CustomerRef, hold: Hold) -> Hold:
    """Return a hold that has ended, and was open in the books a moment ago, once they say how."""
    read = partial(credit_rows.hold_by_number, number=hold.number)
    message = Change(lambda _draft, prepared: prepared, read)
    await core.intake.ask(ref, message)
    ended: Hold = message.answer
    return ended


async def _find_hold(core: Core, hold_id: str, reference: str | None) -> tuple[CustomerRef, Hold]:
    """Find a hold and whose it is: in memory when its customer is named and resident, else in the books."""
    number = event_number(hold_id)
    if number is not None and reference is not None:
        ref = by_reference(reference)
        account = core.directory.resident(ref)
        if account is not None and account.credits is not None and number in account.credits.holds:
            return ref, account.credits.holds[number]
    hold = None
    if number is not None:
        hold = await core.books.read(partial(credit_rows.hold_by_number, number=number))
    if hold is None:
        raise not_found(f"there is no hold {hold_id!r}")
    ids = await core.books.read(partial(event_rows.customer_ids, customers=[hold.customer]))
    ref = CustomerRef(RefKind.ID, ids[hold.customer])
    if reference is not None and by_reference(reference).customer_id() != ref.value:
        raise not_found(f"customer {reference!r} has no hold {hold_id!r}")
    account = core.directory.resident(ref)
    if account is not None and account.credits is not None:
        hold = account.credits.holds.get(hold.number, hold)
    return ref, hold


def hold_view(hold: Hold) -> dict[str, Any]:
    """Put a hold into its wire shape."""
    terms = hold.terms
    view: dict[str, Any] = {
        "holdId": event_uuid(hold.number),
        "status": hold.status,
        "featureKey": terms.feature,
        "heldCredits": hold.credits,
        "heldUnits": sum((each.units for each in hold.units if each.feature == terms.feature), ZERO),
        "parts": [
            {
                "poolId": event_uuid(part.pool),
                "grantId": None if part.grant == OVERAGE else event_uuid(part.grant),
                "amount": part.amount,
            }
            for part in hold.parts
        ],
        "estimatedCredits": terms.charge,
        "estimatedAmount": terms.amount,
        "currency": terms.currency,
        "priceVersion": terms.price_version,
        "createdAt": iso(hold.opened_at),
        "expiresAt": iso(terms.expires_at),
        "closedAt": None if hold.closed_at is None else iso(hold.closed_at),
        "eventId": None if hold.event is None else event_uuid(hold.event),
        "idempotencyKey": hold.key,
    }
    return without_nothing(view)


def without_nothing(view: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is absent."""
    return {name: value for name, value in view.items() if value is not None}
