"""The form of a ledger entry: which columns each kind has, which causes, which signs, and canonical details."""

from decimal import Decimal
from typing import Any, Final

import msgspec

from tallyd.engine.audit.findings import Findings
from tallyd.engine.audit.wallet import amount_of, encode
from tallyd.engine.credits.granting import LinkTerms, PoolTerms
from tallyd.engine.credits.holding import HoldEnd, HoldLeft
from tallyd.engine.voiding import VoidTerms
from tallyd.model.credits import GrantTerms, HoldTerms
from tallyd.model.invoice import Invoice, InvoiceUpdate
from tallyd.model.ledger_entries import TRANSACTIONS, Cause, DeductionDetails, Entry, EntryKind, text
from tallyd.model.money import ZERO
from tallyd.model.subscription import Subscription

Deltas = list[tuple[int, Decimal]]


class _Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No details."""


_CAUSES: Final = {
    EntryKind.GRANT: {
        Cause.MANUAL,
        Cause.PURCHASE,
        Cause.PLAN,
        Cause.RECURRING,
        Cause.TOP_UP,
        Cause.WITHHELD,
        Cause.UPGRADED,
    },
    EntryKind.DEDUCTION: {Cause.EVENT, Cause.MANUAL},
    EntryKind.EXPIRATION: {Cause.EXPIRY, Cause.FORFEIT},
    EntryKind.REVERSAL: {Cause.MANUAL},
    EntryKind.ADJUSTMENT: {
        Cause.ROLLOVER,
        Cause.OVERAGE_FORGIVEN,
        Cause.OVERAGE_CHARGED,
        Cause.OVERAGE_REPAID,
        Cause.OVERAGE_BACK,
    },
    EntryKind.HOLD_DRAWN: {Cause.EVENT},
    EntryKind.HOLD_CLOSED: {Cause.EVENT, Cause.MANUAL, Cause.EXPIRY},
    EntryKind.SUBSCRIPTION: {
        Cause.MANUAL,
        Cause.SUBSCRIBED,
        Cause.CARRIED_OVER,
        Cause.RENEWED,
        Cause.ENDED,
        Cause.UPGRADED,
        Cause.DOWNGRADED,
        Cause.CANCELLED,
        Cause.REVERTED,
        Cause.PAUSED,
        Cause.RESUMED,
        Cause.VOIDED,
    },
    EntryKind.INVOICE_MADE: {Cause.PERIOD},
    EntryKind.INVOICE_CHANGED: {
        Cause.CLOSED,
        Cause.CANCELLED,
        Cause.PAID,
        Cause.OVERDUE,
        Cause.VOIDED,
        Cause.REVISED,
    },
}
_OF_PEOPLE: Final = {Cause.MANUAL}
_SHAPES: Final[dict[EntryKind, type[msgspec.Struct]]] = {
    EntryKind.GRANT: GrantTerms,
    EntryKind.DEDUCTION: DeductionDetails,
    EntryKind.REVERSAL: DeductionDetails,
    EntryKind.FREEZE: DeductionDetails,
    EntryKind.UNFREEZE: DeductionDetails,
    EntryKind.POOL_OPENED: PoolTerms,
    EntryKind.POOL_CHANGED: PoolTerms,
    EntryKind.POOL_LINKED: LinkTerms,
    EntryKind.HOLD_OPENED: HoldTerms,
    EntryKind.HOLD_DRAWN: HoldLeft,
    EntryKind.HOLD_CLOSED: HoldEnd,
    EntryKind.SUBSCRIPTION: Subscription,
    EntryKind.INVOICE_MADE: Invoice,
    EntryKind.INVOICE_CHANGED: InvoiceUpdate,
    EntryKind.EVENT_VOIDED: VoidTerms,
}
_DECODERS: Final = {shape: msgspec.json.Decoder(shape) for shape in (*_SHAPES.values(), _Nothing)}
_decode_deltas: Final = msgspec.json.Decoder(list[tuple[int, str]]).decode
_SIGNS: Final = {  # of the amount: least and most
    EntryKind.GRANT: (1, 1),
    EntryKind.DEDUCTION: (-1, 0),
    EntryKind.EXPIRATION: (-1, -1),
    EntryKind.REVERSAL: (-1, 1),
    EntryKind.ADJUSTMENT: (-1, 0),
    EntryKind.FREEZE: (0, 0),
    EntryKind.UNFREEZE: (0, 0),
}
_OF_HOLDS: Final = {EntryKind.HOLD_OPENED, EntryKind.HOLD_DRAWN, EntryKind.HOLD_CLOSED}
OF_BILLING: Final = {
    EntryKind.SUBSCRIPTION,
    EntryKind.INVOICE_MADE,
    EntryKind.INVOICE_CHANGED,
    EntryKind.EVENT_VOIDED,
}
_WITH_EVENT: Final = {
    EntryKind.DEDUCTION,
    EntryKind.REVERSAL,
    EntryKind.HOLD_DRAWN,
    EntryKind.HOLD_CLOSED,
    EntryKind.EVENT_VOIDED,
}
_WITH_FEATURE: Final = {EntryKind.DEDUCTION, EntryKind.REVERSAL, EntryKind.HOLD_OPENED}
_KEYED: Final = {EntryKind.GRANT, EntryKind.DEDUCTION, EntryKind.REVERSAL, EntryKind.POOL_OPENED}


def details_of(entry: Entry) -> Any:
    """Return an entry's details.

    Raises:
        msgspec.MsgspecError: they are not of its kind.
        ValueError: they are not in canonical form.
    """
    shape = _SHAPES.get(EntryKind(entry.kind), _Nothing)
    if entry.kind == EntryKind.ADJUSTMENT and entry.cause == Cause.ROLLOVER:
        shape = GrantTerms
    details = _DECODERS[shape].decode(entry.details)
    if encode(details).decode() != entry.details:
        raise ValueError(f"the details are not as they are written: {entry.details!r}")
    return details


def deltas_of(entry: Entry) -> Deltas:
    """Return what an entry does to grants.

    Raises:
        ValueError: they are not written as the books write them.
    """
    raw = _decode_deltas(entry.grants)
    if encode(raw).decode() != entry.grants:
        raise ValueError(f"the grants are not as they are written: {entry.grants!r}")
    return [(grant, amount_of(delta)) for grant, delta in raw]


def check_form(entry: Entry, findings: Findings) -> None:
    """Check what can be said of an entry without knowing what came before it."""
    kind, cause = EntryKind(entry.kind), Cause(entry.cause)
    place = ("ledger entry", entry.id)
    wrong = []
    if cause not in _CAUSES.get(kind, _OF_PEOPLE):
        wrong.append(f"{kind} has the cause {cause}")
    if entry.at > entry.written_at:
        wrong.append(f"it counts from {entry.at}, after it was written at {entry.written_at}")
    if (entry.pool is None) is not (kind in _OF_HOLDS or kind in OF_BILLING):
        wrong.append(f"{kind} has the pool {entry.pool}")
    if (entry.reverses is None) is (kind is EntryKind.REVERSAL):
        wrong.append(f"{kind} reverses {entry.reverses}")
    spaces = {""} if entry.key is None else {"hold" if kind is EntryKind.HOLD_OPENED else "credit"}
    keyed = entry.key is None or kind in _KEYED or kind is EntryKind.HOLD_OPENED
    if entry.key_space not in spaces or not keyed:
        wrong.append(f"{kind} has the key {entry.key!r} in the space {entry.key_space!r}")
    wrong += _misplaced(entry, kind, cause)
    if kind in TRANSACTIONS:
        wrong += _unsound(entry, kind)
    elif any(each is not None for each in _amounts(entry)) or entry.grants != "[]":
        wrong.append(f"{kind} moves amounts")
    for message in wrong:
        findings.add(*place, message)


def _misplaced(entry: Entry, kind: EntryKind, cause: Cause) -> list[str]:
    """Say which of the columns event, feature and hold are there and should not be, or the other way round."""
    used = cause is Cause.EVENT
    wrong = []
    if (entry.event is not None and kind not in _WITH_EVENT) or (used and entry.event is None):
        wrong.append(f"{kind} by {cause} has the event {entry.event}")
    needed = used or kind is EntryKind.EVENT_VOIDED
    if (entry.event is not None) is not needed and kind is not EntryKind.REVERSAL:
        wrong.append(f"{kind} by {cause} has the event {entry.event}")
    featured = kind in _WITH_FEATURE and (entry.event is not None or kind is EntryKind.HOLD_OPENED)
    if (entry.feature is not None) is not featured:
        wrong.append(f"{kind} has the feature {entry.feature!r}")
    held = kind in _OF_HOLDS
    if (held and entry.hold is None) or (entry.hold is not None and not held and not used):
        wrong.append(f"{kind} has the hold {entry.hold}")
    return list(dict.fromkeys(wrong))


def _amounts(entry: Entry) -> tuple[str | None, ...]:
    overage = (entry.overage_before, entry.overage_after)
    return (entry.amount, entry.balance_before, entry.balance_after, *overage)


def _unsound(entry: Entry, kind: EntryKind) -> list[str]:
    """Say what is wrong with the amounts of a transaction by themselves."""
    amount, before, after, overage_before, overage_after = map(amount_of, _amounts(entry))
    deltas = deltas_of(entry)
    least, most = _SIGNS[kind]
    wrong = []
    if not least <= (amount > ZERO) - (amount < ZERO) <= most:
        wrong.append(f"{kind} has the amount {entry.amount}")
    if before + amount != after:
        wrong.append(f"balance_after is {entry.balance_after!r}, should be {text(before + amount)!r}")
    if sum((delta for _, delta in deltas), ZERO) != amount:
        wrong.append(f"the grants {entry.grants} do not sum to {entry.amount}")
    if min(before, after, overage_before, overage_after) < ZERO:
        wrong.append("a balance or overage is negative")
    if len({grant for grant, _ in deltas}) != len(deltas):
        wrong.append(f"a grant stands twice in {entry.grants}")
    return wrong
