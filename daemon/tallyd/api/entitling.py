"""Entitlement questions, over HTTP and the socket alike: check and evaluate (CONTRACTS 1.9)."""

from decimal import Decimal
from functools import partial
from typing import Any, Final

import msgspec

from tallyd.actors.worker import all_inline
from tallyd.api.wire import Decoder
from tallyd.core import Core
from tallyd.engine import entitlements
from tallyd.engine.account import Account
from tallyd.engine.entitlements import ADVICE, DESCRIPTIONS, CreditState, Entitlement, Reason, Simulation
from tallyd.engine.evaluating import evaluate as evaluate_usage
from tallyd.engine.events import check_identifier, check_number, read_event
from tallyd.model.credits import PoolStatus
from tallyd.model.customer import CustomerRef, RefKind
from tallyd.model.event import CostInput, EventBody, Source, UsageEvent, event_uuid
from tallyd.model.money import ZERO
from tallyd.model.problems import invalid, not_found, unavailable

IDENTIFIER_SHORT: Final = 128
"""Characters of names in an evaluate request (CONTRACTS 1.3)."""


class ReasonView(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A reason from the closed list, the words for it, and what to do about it."""

    code: Reason
    description: str
    advice: str | None = None


class MetaView(msgspec.Struct, frozen=True, gc=False):
    """`meta` of an entitlement answer."""

    reason: ReasonView


class UsageView(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Units used, and against what."""

    used: Decimal
    limit: Decimal | None = None
    remaining: Decimal | None = None
    held: Decimal = ZERO


class CreditView(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, gc=False):
    """The pool of credits that is drawn first for a feature (CONTRACTS 1.9).

    `available` is what it could give now: the balance less what is held and what has expired, and overage where it
    is allowed; absent when there is no bound. `pools` is how many pools pay for the feature, where several do.
    """

    pool_id: str
    denomination: str
    balance: Decimal
    held: Decimal = ZERO
    available: Decimal | None = None
    total_granted: Decimal
    total_consumed: Decimal
    hard_limit: bool
    status: PoolStatus
    pools: int = 1


class CreditQuoteView(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, gc=False):
    """What the units asked for come to in credits, and what those cost to buy (CONTRACTS 1.9)."""

    estimated_credits: Decimal
    weight: Decimal | None = None
    weight_id: str | None = None
    weight_match: str | None = None
    weights: dict[str, Decimal] = {}
    units_per_credit: Decimal | None = None
    price_per_credit: Decimal | None = None
    currency: str | None = None
    estimated_cost: Decimal | None = None


class EntitlementView(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, gc=False):
    """An entitlement answer (CONTRACTS 1.9), with tallyd's evidence: `position` and `priceVersion`."""

    reference_customer_id: str
    feature_key: str
    allowed: bool
    flow_id: str | None = None
    meta: MetaView
    usage: UsageView | None = None
    simulation: Simulation | None = None
    credit: CreditView | None = None
    credit_quote: CreditQuoteView | None = None
    position: int
    price_version: str | None = None


META: Final = {reason: MetaView(ReasonView(reason, DESCRIPTIONS[reason], ADVICE.get(reason))) for reason in Reason}


class Estimate(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What an LLM call may use at most."""

    model: str | None = None
    model_provider: str | None = None
    input_tokens: Decimal | None = None
    max_output_tokens: Decimal | None = None
    cache_read_tokens: Decimal | None = None
    cache_write_tokens: Decimal | None = None
    reasoning_tokens: Decimal | None = None


class UsageInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """`usage` of an evaluate request; tallyd's own: an `estimate` of tokens, or an event's `costInput`."""

    event_name: str | None = None
    usage_units: Decimal | None = None
    model: str | None = None
    estimate: Estimate | None = None
    cost_input: CostInput | None = None
    meta: dict[str, Any] | None = None


class ContextInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """`context` of an evaluate request. Its idempotency key is a space of its own."""

    idempotency_key: str | None = None
    flow_id: str | None = None


class EvaluateInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Body of POST /entitlements, and params of the socket's `evaluate`.

    `usageUnits` may stand on top as it does in an event: to overlook it would answer another question.
    """

    customer_reference_id: str
    feature_key: str
    usage: UsageInput | None = None
    usage_units: Decimal | None = None
    context: ContextInput | None = None


decode_evaluate: Final = Decoder(EvaluateInput)


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


# Answers


def entitlement_view(
    reference: str,
    feature_key: str,
    answer: Entitlement,
    flow_id: str | None = None,
    quote: CreditQuoteView | None = None,
) -> EntitlementView:
    """Put an entitlement into its wire shape."""
    usage = None if answer.used is None else UsageView(answer.used, answer.limit, answer.remaining, answer.held)
    return EntitlementView(
        reference_customer_id=reference,
        feature_key=feature_key,
        allowed=answer.allowed,
        flow_id=flow_id,
        meta=META[answer.reason],
        usage=usage,
        simulation=answer.simulation,
        credit=None if answer.credit is None else credit_view(answer.credit),
        credit_quote=quote,
        position=answer.position,
        price_version=answer.price_version,
    )


def credit_view(credit: CreditState) -> CreditView:
    """Put the credits that pay for a feature into their wire shape."""
    pool = credit.pool
    return CreditView(
        pool_id=event_uuid(pool.number),
        denomination=pool.model.denomination,
        balance=pool.balance,
        held=pool.held,
        available=credit.available,
        total_granted=pool.granted,
        total_consumed=pool.consumed,
        hard_limit=pool.model.hard_limit,
        status=pool.status,
        pools=credit.pools,
    )


def quote_view(core: Core, answer: Entitlement) -> CreditQuoteView | None:
    """Say what was asked for comes to in credits, at their present price."""
    if answer.cover is None or answer.credit is None:
        return None
    quote = answer.cover.quote
    price = core.catalogue.prices_of_credits.current(answer.credit.pool.model.key, core.clock.now())
    return CreditQuoteView(
        estimated_credits=quote.charge,
        weight=quote.weight,
        weight_id=quote.weight_id,
        weight_match=quote.weight_match,
        weights=quote.weights,
        units_per_credit=quote.units_per_credit,
        price_per_credit=price.price if price else None,
        currency=price.currency if price else None,
        estimated_cost=quote.charge * price.price if price else None,
    )


def answer_check(core: Core, account: Account, reference: str, feature_key: str) -> EntitlementView:
    """Answer a check from an account at hand: no waiting, so the read is consistent."""
    core.counts.checks += 1
    now = core.clock.of(account.customer.id)
    answer = entitlements.decide(account, feature_key, now)
    if account.due_at <= now:
        core.directory.actor(CustomerRef(RefKind.REFERENCE, reference)).keep_time()
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
    answer = await _evaluated(core, account, request, units)
    sent = request.context.flow_id if request.context else None
    return entitlement_view(
        request.customer_reference_id,
        request.feature_key,
        answer,
        sent or new_flow_id,
        quote_view(core, answer),
    )


async def _evaluated(core: Core, account: Account, request: EvaluateInput, units: Decimal | None) -> Entitlement:
    """Decide; a model that is not trusted with the daemon's own thread is asked on another."""
    runtime, now = core.runtime, core.clock.of(account.customer.id)
    event = _imagined(now, request, units)
    if units is None and event.tokens:
        units = sum(event.tokens.values(), ZERO) or None
    if units is None or account.credits is None:
        return entitlements.decide(account, request.feature_key, now, units)
    needed = core.catalogue.price_needed(event)
    if needed is not None:
        await core.catalogue.learn_price(needed)
    decide = partial(
        evaluate_usage,
        feature_key=request.feature_key,
        event=event,
        units=units,
        now=now,
        terms=core.catalogue.terms,
    )
    if all_inline(runtime.registry, (each.plan for each in account.enrolments)):
        return decide(account)
    answer = await runtime.worker.call(lambda watch: decide(watch.account(account)))
    if answer is None:
        raise unavailable("pricing plugins took too long to price this; retry, or see [plugins] budget_ms")
    return answer


def _imagined(now: int, request: EvaluateInput, units: Decimal | None) -> UsageEvent:
    """Return the event that what is asked for would be."""
    usage = request.usage or UsageInput()
    cost_input = usage.cost_input or (CostInput(model=usage.model) if usage.model else None)
    body = EventBody(
        event_name=usage.event_name or request.feature_key,
        feature_key=request.feature_key,
        usage_units=units,
        cost_input=cost_input_of(usage.estimate) if usage.estimate else cost_input,
    )
    return read_event(body, source=Source.SOCKET, key=None, new_key=str, now=now, feature_named=lambda name: name)


def cost_input_of(estimate: Estimate) -> CostInput:
    """Return an estimate as the event it is made for will say it."""
    return CostInput(
        model=estimate.model,
        model_provider=estimate.model_provider,
        input_tokens=estimate.input_tokens,
        output_tokens=estimate.max_output_tokens,
        cache_read_tokens=estimate.cache_read_tokens,
        cache_write_tokens=estimate.cache_write_tokens,
        reasoning_tokens=estimate.reasoning_tokens,
    )
