"""The ledger entries beside the events: append-only, hash-chained, and enough to derive all else from."""

from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

import msgspec

from tallyd.model.money import ZERO, plain

_encode: Final = msgspec.json.Encoder(order="deterministic").encode


class EntryKind(StrEnum):
    """What an entry does. The first seven are transactions (CONTRACTS 1.7); the others move no credits."""

    GRANT = "GRANT"
    DEDUCTION = "DEDUCTION"
    EXPIRATION = "EXPIRATION"
    REVERSAL = "REVERSAL"
    ADJUSTMENT = "ADJUSTMENT"
    FREEZE = "FREEZE"
    UNFREEZE = "UNFREEZE"
    POOL_OPENED = "POOL_OPENED"
    POOL_CHANGED = "POOL_CHANGED"
    POOL_LINKED = "POOL_LINKED"
    HOLD_OPENED = "HOLD_OPENED"
    HOLD_DRAWN = "HOLD_DRAWN"
    HOLD_CLOSED = "HOLD_CLOSED"
    SUBSCRIPTION = "SUBSCRIPTION"  # a subscription as it is from here on
    INVOICE_MADE = "INVOICE_MADE"
    INVOICE_CHANGED = "INVOICE_CHANGED"
    EVENT_VOIDED = "EVENT_VOIDED"


TRANSACTIONS: Final = tuple(EntryKind)[:7]


class Cause(StrEnum):
    """Why an entry was made: a closed list."""

    EVENT = "event"  # usage drew credits
    MANUAL = "manual"  # somebody asked for it, over an API or from the shell
    PURCHASE = "purchase"
    PLAN = "plan"  # credits included with a plan
    RECURRING = "recurring"  # the pool's recurring top-up
    TOP_UP = "top_up"  # the pool's threshold top-up
    EXPIRY = "expiry"  # the grant's own date
    ROLLOVER = "rollover"  # a period ended: carried over
    FORFEIT = "forfeit"  # a period ended: not carried over
    OVERAGE_FORGIVEN = "overage_forgiven"
    OVERAGE_CHARGED = "overage_charged"
    OVERAGE_REPAID = "overage_repaid"
    OVERAGE_BACK = "overage_back"  # its invoice was voided: it is charged again
    WITHHELD = "withheld"  # credits of a period that began without access, given when access came back
    SUBSCRIBED = "subscribed"
    CARRIED_OVER = "carried_over"  # from books that knew no invoices
    RENEWED = "renewed"  # a period began
    ENDED = "ended"  # the subscription is over, all of it is invoiced
    UPGRADED = "upgraded"
    DOWNGRADED = "downgraded"  # at the period's end
    CANCELLED = "cancelled"
    REVERTED = "reverted"  # a cancellation or a change that had not come
    PAUSED = "paused"
    RESUMED = "resumed"
    PERIOD = "period"  # an invoice for a period
    CLOSED = "closed"  # its period is over: the lines are final
    PAID = "paid"
    OVERDUE = "overdue"
    VOIDED = "voided"
    REVISED = "revised"  # a late event in an open invoice


class DeductionDetails(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Why a deduction is as large as it is: `details` of its entry.

    Attributes:
        charge: credits the usage comes to in all, over all pools.
        weight: credits a unit.
        weight_id: the scheduled weight.
        weight_match: MODEL, FEATURE_DEFAULT or NONE.
        weights: credits a token, by kind, where they are weighted by kind.
        units_per_credit: where the plan says so instead.
        covered: quantities that this pool paid for, and the plan does not bill, by dimension.
        credited: of the plan's price, what this pool paid, where credits are money.
        waived: credits that were not there and are not asked for: the pool's policy on a shortfall.
        description: for people.
        metadata: the app's own.
    """

    charge: Decimal | None = None
    weight: Decimal | None = None
    weight_id: str | None = None
    weight_match: str | None = None
    weights: dict[str, Decimal] = {}
    units_per_credit: Decimal | None = None
    covered: dict[str, Decimal] = {}
    credited: Decimal = ZERO
    waived: Decimal = ZERO
    description: str | None = None
    metadata: dict[str, Any] | None = None


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A ledger row. Fields are the columns of `ledger_entries`, in order.

    Attributes:
        id: row number, from the same sequence as events: ascending in order of decision.
        customer: row number of the customer.
        position: in the customer's own sequence, which it shares with events.
        kind: see `EntryKind`.
        cause: see `Cause`.
        pool: number of the pool, or None for a hold's entries.
        amount: what it adds to the balance, signed; None for a hold's entries, as are the four below.
        balance_before: of the pool.
        balance_after: `balance_before + amount` (P3).
        overage_before: of the pool.
        overage_after: of the pool.
        at: when it counts as done: for an expiry its date, whenever it was written.
        written_at: when it was decided.
        grants: JSON `[[grant, signed amount], …]`: what it did to grants; they sum to `amount`.
        event: row number of the event that caused it.
        feature: the feature that event used.
        hold: number of the hold it belongs to.
        reverses: number of the entry it reverses.
        key_space: `hold` or `credit`; empty without a key.
        key: idempotency key, or None.
        details: canonical JSON: CreditModel and name, GrantTerms, DeductionDetails, HoldTerms, … by kind.
        chain: hash of this row and the customer's row before it.
    """

    id: int
    customer: int
    position: int
    kind: str
    cause: str
    pool: int | None
    amount: str | None
    balance_before: str | None
    balance_after: str | None
    overage_before: str | None
    overage_after: str | None
    at: int
    written_at: int
    grants: str
    event: int | None
    feature: str | None
    hold: int | None
    reverses: int | None
    key_space: str
    key: str | None
    details: str
    chain: bytes


def json_text(value: Any) -> str:
    """Return the canonical JSON of an entry's details."""
    return _encode(value).decode()


def text(value: Decimal) -> str:
    """Write an amount as the books keep it; zero is always `0`."""
    return plain(value) if value else "0"
