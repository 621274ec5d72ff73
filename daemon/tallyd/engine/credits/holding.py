"""Holds: lifting what one has set aside so that its usage can draw on it, and putting down the rest."""

from decimal import Decimal
from typing import Final

import msgspec

from tallyd.engine.credits.burning import Kept, Take
from tallyd.engine.credits.draft import Draft
from tallyd.model.credits import HeldUnits, Hold, HoldPart, HoldStatus
from tallyd.model.ledger_entries import Cause, EntryKind, json_text
from tallyd.model.money import ZERO

_replace: Final = msgspec.structs.replace


class HoldLeft(msgspec.Struct, frozen=True):
    """What a hold still sets aside after a partial settlement: `details` of HOLD_DRAWN."""

    parts: list[HoldPart]
    units: list[HeldUnits]


class HoldEnd(msgspec.Struct, frozen=True):
    """How a hold ended: `details` of HOLD_CLOSED."""

    status: HoldStatus


def lift(draft: Draft, hold: Hold) -> Kept:
    """Free what a hold has set aside; return it, so that its own usage draws it first."""
    draft.put_hold(_replace(hold, parts=[], units=[]))
    return {(part.pool, part.grant): part.amount for part in hold.parts}


def use_kept(kept: Kept, take: Take) -> None:
    """Note what of the lifted parts has been drawn."""
    for part in take.parts:
        left = kept.get((part.pool, part.grant), ZERO) - part.amount
        if left > ZERO:
            kept[part.pool, part.grant] = left
        else:
            kept.pop((part.pool, part.grant), None)


def put_down(
    draft: Draft,
    hold: Hold,
    kept: Kept,
    used: dict[str, Decimal],
    *,
    event: int,
    final: bool,
) -> Hold:
    """Close a lifted hold, or after a partial settlement set aside again what is left of it."""
    if final:
        return close(draft, hold, HoldStatus.SETTLED, Cause.EVENT, at=draft.now, event=event)
    left = HoldLeft(
        [HoldPart(pool, grant, amount) for (pool, grant), amount in kept.items()],
        [
            HeldUnits(each.feature, each.period_start, units)
            for each in hold.units
            if (units := each.units - used.get(each.feature, ZERO)) > ZERO
        ],
    )
    settled = _replace(hold, parts=left.parts, units=left.units, event=event)
    draft.put_hold(settled)
    draft.note(
        EntryKind.HOLD_DRAWN, Cause.EVENT, at=draft.now, hold=hold.number, event=event, details=json_text(left)
    )
    return settled


def close(
    draft: Draft, hold: Hold, status: HoldStatus, cause: Cause, *, at: int, event: int | None = None
) -> Hold:
    """End a hold: nothing is set aside by it any more."""
    event_of = hold.event if event is None else event
    closed = _replace(hold, status=status, closed_at=at, parts=[], units=[], event=event_of)
    draft.put_hold(closed)
    draft.note(
        EntryKind.HOLD_CLOSED, cause, at=at, hold=hold.number, event=event, details=json_text(HoldEnd(status))
    )
    return closed


def release(draft: Draft, hold: Hold) -> Hold:
    """Give back all that a hold has set aside; one that has ended stays as it is."""
    if hold.status is not HoldStatus.HELD:
        return hold
    return close(draft, hold, HoldStatus.RELEASED, Cause.MANUAL, at=draft.now)
