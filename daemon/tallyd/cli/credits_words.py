"""Credit transactions in words, as they stand in a statement."""

from decimal import Decimal
from typing import Any, Final

from tallyd.model.credits import GrantType
from tallyd.model.ledger_entries import Cause, EntryKind
from tallyd.model.moments import DAY_US, from_micros, parse_iso
from tallyd.model.money import tidy

TIMES: Final = "\N{MULTIPLICATION SIGN}"

_GIVEN: Final = {
    GrantType.PURCHASED: "Bought",
    GrantType.PROMOTIONAL: "Promotion",
    GrantType.REFUND: "Refund",
    GrantType.SYSTEM: "Granted by the system",
    GrantType.MANUAL: "Granted by hand",
    GrantType.PLAN_INCLUDED: "Included with the plan",
    GrantType.ROLLOVER: "Carried over",
}
_CAUSED: Final = {
    Cause.RECURRING: "Recurring credits",
    Cause.TOP_UP: "Topped up: less was left than the mark",
    Cause.EXPIRY: "Expired",
    Cause.FORFEIT: "Not carried over into the new period",
    Cause.ROLLOVER: "Carried over into the new period",
    Cause.OVERAGE_FORGIVEN: "Overage forgiven at the period's end",
    Cause.OVERAGE_CHARGED: "Overage charged at the period's end",
    Cause.OVERAGE_REPAID: "Overage repaid from new credits",
    Cause.OVERAGE_BACK: "Overage of an invoice that was voided: to be charged again",
}
_NOT_MOVING: Final = {
    EntryKind.POOL_OPENED: "Pool opened",
    EntryKind.POOL_CHANGED: "Pool changed",
    EntryKind.POOL_LINKED: "Pool linked to a subscription",
    EntryKind.HOLD_OPENED: "Hold made",
    EntryKind.HOLD_DRAWN: "Hold settled in part",
    EntryKind.HOLD_CLOSED: "Hold ended",
}


# Numbers, times, text


def amount(value: Decimal | int) -> str:
    """Write an amount with all its digits and no trailing zeros."""
    return f"{tidy(Decimal(value)):,f}"


def signed(value: Decimal | int) -> str:
    """Write an amount with its sign; zero has none."""
    return f"+{amount(value)}" if value > 0 else amount(value)


def minute(instant: str) -> str:
    """Write an instant to the minute, UTC."""
    return f"{from_micros(parse_iso(instant)):%Y-%m-%d %H:%M}"


def printable(text: str) -> str:
    """Return text with nothing in it that steers a terminal."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


# What happened


def words(row: dict[str, Any]) -> str:
    """Say what a transaction, or another entry about credits, was."""
    kind, cause = row["transactionType"], row["cause"]
    if kind in _NOT_MOVING:
        return _NOT_MOVING[EntryKind(kind)]
    if kind == EntryKind.GRANT:
        return _given(row)
    if kind == EntryKind.DEDUCTION:
        return _used(row) if cause == Cause.EVENT else "Taken out by hand"
    if kind == EntryKind.REVERSAL:
        return _reversed(row)
    if kind in (EntryKind.FREEZE, EntryKind.UNFREEZE):
        return "Frozen: gives nothing" if kind == EntryKind.FREEZE else "Gives credits again"
    return _CAUSED.get(cause, f"{kind} {cause}".lower())


def _given(row: dict[str, Any]) -> str:
    if row["cause"] == Cause.PLAN:
        plan = printable(row["planName"]) if row.get("planName") else "the plan"
        return f"Included with {plan}{_period(row)}"
    if row["cause"] in _CAUSED:
        return _CAUSED[row["cause"]]
    kind = row.get("grantType")
    text = _GIVEN[GrantType(kind)] if kind else "Granted"
    price = row.get("unitPrice")
    return f"{text} at {amount(price)} {row['currency']} each" if price is not None else text


def _period(row: dict[str, Any]) -> str:
    """Say which period credits came for: a month by its name, another by its first and last day."""
    if not row.get("periodStart"):
        return ""
    start = from_micros(parse_iso(row["periodStart"]))
    if start.day == 1:
        return f" for {start:%B %Y}"
    if not row.get("periodEnd"):
        return f" from {start:%Y-%m-%d}"
    last = from_micros(parse_iso(row["periodEnd"]) - DAY_US)
    return f" for {start:%Y-%m-%d} to {last:%Y-%m-%d}"


def _used(row: dict[str, Any]) -> str:
    text = printable(row.get("featureKey") or "usage")
    units, weight = row.get("units"), row.get("weight")
    if units is not None and weight is not None:
        text += f": {amount(units)} {'unit' if units == 1 else 'units'} {TIMES} {amount(weight)}"
    elif units is not None:
        text += f": {amount(units)} {'unit' if units == 1 else 'units'}"
    if row.get("model"):
        text += f" ({printable(row['model'])})"
    charge = row.get("charge")
    if charge is not None and weight is not None and charge > -row["amount"]:
        text += f", {amount(charge)} in all"
    if row.get("waived"):
        text += f", {amount(row['waived'])} waived"
    return f"{text}, hold settled" if row.get("holdId") else text


def _reversed(row: dict[str, Any]) -> str:
    back = "given back" if row["amount"] >= 0 else "taken back"
    return f"Reversed: {printable(row['featureKey'])}, {back}" if row.get("featureKey") else f"Reversed: {back}"
