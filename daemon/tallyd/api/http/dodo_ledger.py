"""Credits in Dodo's shapes: balances, grants, ledger rows, with amounts as decimal strings (CONTRACTS 2.6, A3)."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from tallyd.model.credits import Grant, GrantType, Pool
from tallyd.model.event import event_uuid
from tallyd.model.ledger_entries import Cause, Entry, EntryKind, text
from tallyd.model.moments import iso
from tallyd.model.money import ZERO, tidy
from tallyd.store.catalog_rows import StoredCreditModel

ACTIVE: Final = "active"
EXPIRED: Final = "expired"
DEPLETED: Final = "depleted"
STATUSES: Final = (ACTIVE, EXPIRED, DEPLETED)

_GIVEN: Final = tuple(cause for cause in Cause if cause is not Cause.TOP_UP)
_GONE: Final = tuple(cause for cause in Cause if cause is not Cause.FORFEIT)
TRANSACTION_TYPES: Final[Mapping[str, tuple[EntryKind, tuple[Cause, ...]]]] = {
    "credit_added": (EntryKind.GRANT, _GIVEN),
    "auto_top_up": (EntryKind.GRANT, (Cause.TOP_UP,)),
    "credit_deducted": (EntryKind.DEDUCTION, ()),
    "credit_expired": (EntryKind.EXPIRATION, _GONE),
    "rollover_forfeited": (EntryKind.EXPIRATION, (Cause.FORFEIT,)),
    "credit_rolled_over": (EntryKind.ADJUSTMENT, (Cause.ROLLOVER,)),
    "overage_charged": (EntryKind.ADJUSTMENT, (Cause.OVERAGE_CHARGED, Cause.OVERAGE_BACK)),
    "overage_reset": (EntryKind.ADJUSTMENT, (Cause.OVERAGE_FORGIVEN, Cause.OVERAGE_REPAID)),
    "manual_adjustment": (EntryKind.ADJUSTMENT, (Cause.MANUAL,)),
    "refund": (EntryKind.REVERSAL, ()),
}
"""Dodo's type of a ledger row, by kind and cause of ours; no causes: any. Other kinds move no credits."""

KINDS: Final = tuple(sorted({kind for kind, _ in TRANSACTION_TYPES.values()}))

_SOURCES: Final = {
    GrantType.PLAN_INCLUDED: "subscription",
    GrantType.PURCHASED: "one_time",
    GrantType.ROLLOVER: "rollover",
}


class Details(msgspec.Struct, frozen=True):
    """What people and apps have said about an entry: some of its `details`, whatever its kind."""

    description: str | None = None
    metadata: dict[str, Any] | None = None


_decode_details: Final = msgspec.json.Decoder(Details, float_hook=Decimal).decode
_decode_deltas: Final = msgspec.json.Decoder(list[tuple[int, Decimal]]).decode


def shown(amount: Decimal | str | None) -> str:
    """Return an amount of credits as a decimal string, without zeros at its end."""
    return text(tidy(Decimal(amount or ZERO)))


def details_of(entry: Entry) -> Details:
    """Return what people and apps have said about an entry."""
    return _decode_details(entry.details)


# Balances


def balance_view(pool: Pool, entitlement: str, customer: str) -> dict[str, Any]:
    """Return a customer's balance; `last_transaction_at` is when an entry last changed it."""
    return {
        "id": event_uuid(pool.number),
        "customer_id": customer,
        "credit_entitlement_id": entitlement,
        "balance": shown(pool.balance),
        "overage": shown(pool.overage),
        "created_at": iso(pool.opened_at),
        "updated_at": iso(pool.modified_at),
        "last_transaction_at": iso(pool.modified_at),
    }


def usage_view(pool: Pool, model: StoredCreditModel, unit: str, name: str) -> dict[str, Any]:
    """Return what credits a subscription has left, and how much overage (CONTRACTS 2.5, F10).

    What holds have set aside of the overage is no headroom any more.
    """
    overage, headroom = pool.model.overage, pool.headroom
    bounded = overage is not None and headroom is not None
    view = {
        "credit_entitlement_id": model.id,
        "credit_entitlement_name": name,
        "unit": unit,
        "balance": shown(pool.balance),
        "overage": shown(pool.overage),
        "overage_enabled": overage is not None,
        "limit_reached": bounded and headroom == ZERO,
    }
    if overage is not None and bounded:
        view["overage_limit"] = shown(overage.limit)
        view["remaining_headroom"] = shown(headroom)
    return view


# Grants


def grant_status(grant: Grant, now: int) -> str:
    """Return whether a grant has credits left, is past its date, or is used up."""
    if grant.remaining:
        return ACTIVE
    return DEPLETED if grant.live_at(now) else EXPIRED


def carried_over(grants: Iterable[Grant]) -> frozenset[int]:
    """Return which grants had something carried over from them."""
    return frozenset(grant.terms.parent for grant in grants if grant.terms.parent is not None)


def grant_view(
    grant: Grant, pool: Pool, entitlement: str, customer: str, *, now: int, rolled_over: bool, source: str | None
) -> dict[str, Any]:
    """Return a grant.

    `is_rolled_over` says that something of it was carried over to another grant, which names it as its parent.
    When it was last drawn is not kept: `updated_at` is the last change of its pool, unless it is untouched.
    """
    terms = grant.terms
    view = {
        "id": event_uuid(grant.number),
        "customer_id": customer,
        "credit_entitlement_id": entitlement,
        "initial_amount": shown(grant.amount),
        "remaining_amount": shown(grant.remaining),
        "is_expired": not grant.live_at(now),
        "is_rolled_over": rolled_over,
        "rollover_count": terms.rollovers,
        "source_type": _SOURCES.get(terms.type, "api"),
        "source_id": source,
        "parent_grant_id": None if terms.parent is None else event_uuid(terms.parent),
        "expires_at": None if terms.expires_at is None else iso(terms.expires_at),
        "metadata": terms.metadata,
        "created_at": iso(grant.created_at),
        "updated_at": iso(grant.created_at if grant.remaining == grant.amount else pool.modified_at),
    }
    return {name: value for name, value in view.items() if value is not None}


# Ledger


def transaction_type(entry: Entry) -> str:
    """Return Dodo's name for what an entry did."""
    return next(
        name
        for name, (kind, causes) in TRANSACTION_TYPES.items()
        if entry.kind == kind and (not causes or entry.cause in causes)
    )


def movement(entry: Entry) -> Decimal:
    """Return what an entry moved, signed: the balance less the overage; where they cancel out, what passed by."""
    balance = Decimal(entry.amount or ZERO)
    net = balance - Decimal(entry.overage_after or ZERO) + Decimal(entry.overage_before or ZERO)
    if net:
        return net
    return balance or sum((amount for _, amount in _decode_deltas(entry.grants) if amount > ZERO), ZERO)


def grant_of(entry: Entry) -> str | None:
    """Return the id of the grant an entry made, else of the first that it touched."""
    deltas = _decode_deltas(entry.grants)
    if not deltas:
        return None
    return event_uuid(deltas[-1 if entry.cause == Cause.ROLLOVER else 0][0])


def ledger_view(
    entry: Entry, entitlement: str, customer: str, business_id: str, events: Mapping[int, str]
) -> dict[str, Any]:
    """Return a ledger row. `events` has the ids of the events that caused entries, by row number.

    The amount is never negative: `is_credit` tells its direction. What was drawn beyond the balance is part of it.
    """
    moved, details = movement(entry), details_of(entry)
    reference: tuple[str | None, str | None] = (None, None)
    if entry.reverses is not None:
        reference = ("ledger_entry", event_uuid(entry.reverses))
    elif entry.event is not None:
        reference = ("usage_event", events.get(entry.event))
    view = {
        "id": event_uuid(entry.id),
        "business_id": business_id,
        "brand_id": business_id,
        "customer_id": customer,
        "credit_entitlement_id": entitlement,
        "transaction_type": transaction_type(entry),
        "amount": shown(abs(moved)),
        "is_credit": moved > ZERO,
        "balance_before": shown(entry.balance_before),
        "balance_after": shown(entry.balance_after),
        "overage_before": shown(entry.overage_before),
        "overage_after": shown(entry.overage_after),
        "grant_id": grant_of(entry),
        "reference_type": reference[0],
        "reference_id": reference[1],
        "description": details.description,
        "metadata": details.metadata or {},
        "created_at": iso(entry.at),
    }
    return {name: value for name, value in view.items() if value is not None}
