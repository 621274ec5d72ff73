"""Pools, grants, transactions and holds in the shapes of the native API, for HTTP and the socket (CONTRACTS 1.7).

Amounts are exact numbers of credits, times ISO 8601 UTC. What is absent is left out.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from tallyd.api.consuming import without_nothing
from tallyd.engine.account import Account, Enrolment
from tallyd.engine.credits.book import Alert
from tallyd.model.catalog import CreditModel, PlanCredits
from tallyd.model.credits import Grant, GrantTerms, Link, Pool
from tallyd.model.event import event_uuid
from tallyd.model.ledger_entries import Cause, DeductionDetails, Entry, EntryKind
from tallyd.model.moments import iso
from tallyd.store.event_rows import Used


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a view says beside the ledger entry itself.

    Attributes:
        enrolments: the customer's subscriptions, by row number.
        used: what events used, by row number of the event.
    """

    enrolments: Mapping[int, Enrolment] = {}
    used: Mapping[int, Used] = {}


NO_FACTS: Final = Facts()
_decode_terms: Final = msgspec.json.Decoder(GrantTerms, float_hook=Decimal).decode
_decode_details: Final = msgspec.json.Decoder(DeductionDetails, float_hook=Decimal).decode
_decode_deltas: Final = msgspec.json.Decoder(list[tuple[int, Decimal]]).decode
_WITH_DETAILS: Final = (EntryKind.DEDUCTION, EntryKind.REVERSAL, EntryKind.FREEZE, EntryKind.UNFREEZE)


def facts_of(account: Account, used: Mapping[int, Used] | None = None) -> Facts:
    """Return what there is to say of a customer's entries and grants."""
    return Facts(enrolments={each.subscription.number: each for each in account.enrolments}, used=used or {})


def pool_view(pool: Pool) -> dict[str, Any]:
    """Return a pool as clients see it. `available` is the balance less what is held."""
    view = {
        "id": event_uuid(pool.number),
        "name": pool.name,
        "creditModelKey": pool.model.key,
        "denomination": pool.model.denomination,
        "currency": pool.model.currency,
        "balance": pool.balance,
        "held": pool.held,
        "available": pool.available,
        "overage": pool.overage,
        "totalGranted": pool.granted,
        "totalConsumed": pool.consumed,
        "totalExpired": pool.expired,
        "totalReversed": pool.reversed,
        "hardLimit": pool.model.hard_limit,
        "status": pool.status,
        "createdAt": iso(pool.opened_at),
    }
    return without_nothing(view)


def admin_pool_view(pool: Pool, customer_id: str) -> dict[str, Any]:
    """Return a pool as the operator sees it: with whose it is, and its rules."""
    rollover = pool.model.rollover
    view = {
        **pool_view(pool),
        "customerId": customer_id,
        "rolloverPolicy": rollover.policy,
        "rolloverCap": rollover.cap,
        "modifiedAt": iso(pool.modified_at),
    }
    return without_nothing(view)


def grant_view(grant: Grant, facts: Facts) -> dict[str, Any]:
    """Return a grant as clients see it; one included with a plan says of which subscription and period."""
    terms = grant.terms
    view = {
        "id": event_uuid(grant.number),
        "creditPoolId": event_uuid(grant.pool),
        "grantType": terms.type,
        "amount": grant.amount,
        "remaining": grant.remaining,
        "held": grant.held,
        "priority": terms.priority,
        "expiresAt": _moment(terms.expires_at),
        "description": terms.description,
        "metadata": terms.metadata,
        "parentGrantId": _id(terms.parent),
        "rolloverCount": terms.rollovers or None,
        **_included(terms, facts),
        "createdAt": iso(grant.created_at),
    }
    return without_nothing(view)


def _included(terms: GrantTerms, facts: Facts) -> dict[str, Any]:
    """Return which subscription's plan includes the credits, and for which of its periods."""
    enrolment = None if terms.subscription is None else facts.enrolments.get(terms.subscription)
    if enrolment is None or terms.period_start is None:
        return {}
    return {
        "subscriptionId": enrolment.subscription.id,
        "periodStart": iso(terms.period_start),
        "periodEnd": iso(enrolment.period_at(terms.period_start).end),
    }


def admin_grant_view(grant: Grant, facts: Facts) -> dict[str, Any]:
    """Return a grant as the operator sees it: with what a credit was sold for."""
    sold = {"unitPrice": grant.terms.unit_price, "currency": grant.terms.currency}
    return without_nothing({**grant_view(grant, facts), **sold})


def transaction_view(entry: Entry, facts: Facts = NO_FACTS) -> dict[str, Any]:
    """Return a ledger entry with what explains it: its cause, the grants it touched, how a charge came about.

    `createdAt` is when it counts as done, `recordedAt` when it was decided, where that was later.
    """
    deltas = _decode_deltas(entry.grants)
    used = None if entry.event is None else facts.used.get(entry.event)
    overage = entry.overage_before not in (None, "0") or entry.overage_after not in (None, "0")
    view = {
        "id": event_uuid(entry.id),
        "creditPoolId": _id(entry.pool),
        "creditGrantId": event_uuid(deltas[0][0]) if deltas else None,
        "transactionType": entry.kind,
        "cause": entry.cause,
        "amount": _number(entry.amount),
        "balanceBefore": _number(entry.balance_before),
        "balanceAfter": _number(entry.balance_after),
        "overageBefore": _number(entry.overage_before) if overage else None,
        "overageAfter": _number(entry.overage_after) if overage else None,
        "grants": [{"grantId": event_uuid(grant), "amount": amount} for grant, amount in deltas],
        "eventId": _id(entry.event),
        "featureKey": entry.feature,
        "units": used and used.units,
        "model": used and used.model,
        "holdId": _id(entry.hold),
        "reversedTransactionId": _id(entry.reverses),
        "idempotencyKey": entry.key,
        "position": entry.position,
        "createdAt": iso(entry.at),
        "recordedAt": None if entry.written_at == entry.at else iso(entry.written_at),
        **_explained(entry, facts),
    }
    return without_nothing(view)


def _explained(entry: Entry, facts: Facts) -> dict[str, Any]:
    if entry.kind == EntryKind.GRANT or entry.cause == Cause.ROLLOVER:
        terms: GrantTerms = _decode_terms(entry.details)
        return {
            "grantType": terms.type,
            "expiresAt": _moment(terms.expires_at),
            **_included(terms, facts),
            "planName": _plan_name(terms, facts),
            "description": terms.description,
            "metadata": terms.metadata,
            "unitPrice": terms.unit_price,
            "currency": terms.currency,
        }
    if entry.kind in _WITH_DETAILS:
        details: DeductionDetails = _decode_details(entry.details)
        return {
            "charge": details.charge,
            "weight": details.weight,
            "weightId": details.weight_id,
            "weightMatch": details.weight_match,
            "weights": details.weights or None,
            "unitsPerCredit": details.units_per_credit,
            "covered": details.covered or None,
            "credited": details.credited or None,
            "waived": details.waived or None,
            "description": details.description,
            "metadata": details.metadata,
        }
    return {}


def _plan_name(terms: GrantTerms, facts: Facts) -> str | None:
    enrolment = None if terms.subscription is None else facts.enrolments.get(terms.subscription)
    return None if enrolment is None else enrolment.plan.name


def link_view(link: Link, subscription_id: str) -> dict[str, Any]:
    """Return how a pool serves a subscription; `drawn` is what it has drawn in its period so far."""
    view = {
        "creditPoolId": event_uuid(link.pool),
        "subscriptionId": subscription_id,
        "drawPriority": link.priority,
        "drawLimit": link.draw_limit,
        "drawn": link.drawn,
    }
    return without_nothing(view)


def allocation_view(included: PlanCredits, model: CreditModel, model_id: str) -> dict[str, Any]:
    """Return the credits that a plan includes (CONTRACTS 1.7)."""
    view = {
        "creditModelId": model_id,
        "creditModelName": model.name or model.key,
        "denomination": model.denomination,
        "creditAmount": included.amount,
        "grantExpiresMonths": included.expires_after_months,
        "hardLimit": model.hard_limit,
    }
    return without_nothing(view)


def alert_view(alert: Alert, customers: Mapping[int, str]) -> dict[str, Any]:
    """Return what is on the outbox; `number` is where to go on after it. `customers` are names by row number."""
    return {
        "number": alert.number,
        "type": alert.type,
        "customerReferenceId": customers[alert.customer],
        "createdAt": iso(alert.at),
        "data": msgspec.Raw(alert.body.encode()),
    }


def _optional(make: Callable[[int], str], value: int | None) -> str | None:
    return None if value is None else make(value)


def _id(number: int | None) -> str | None:
    return _optional(event_uuid, number)


def _moment(micros: int | None) -> str | None:
    return _optional(iso, micros)


def _number(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
