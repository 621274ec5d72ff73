"""Taking events back, and amending them, over HTTP and the socket alike: counters, charges and invoices follow."""

from collections.abc import Iterable
from functools import partial
from typing import Any, Final

import msgspec

from tallyd.actors.messages import Accepted, Refused, Void
from tallyd.api import commands
from tallyd.api.consuming import without_nothing
from tallyd.api.wire import Decoder, encode
from tallyd.core import Core
from tallyd.engine.events import check_identifier
from tallyd.engine.rows import EventRow
from tallyd.engine.voiding import VoidTerms
from tallyd.model.customer import CustomerRef, RefKind
from tallyd.model.event import EventBody, Source, UsageEvent, event_number, event_uuid
from tallyd.model.ledger_entries import Entry, EntryKind
from tallyd.model.moments import iso
from tallyd.model.problems import Code, Problem, ProblemError, invalid, not_found
from tallyd.store import event_rows

REASON_CHARACTERS_MAX: Final = 1_000
_CUSTOMER: Final = ("customerReferenceId", "stripeCustomerId", "customerId")
_FEATURE: Final = ("featureKey", "featureId")
_OWN: Final = ("eventIdempotencyKey", "holdId")
"""What an amended event does not take over: a key counts once, a hold is settled once."""


class VoidInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Body of POST /events/{id}/void."""

    reason: str


class AmendInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Body of POST /events/{id}/amend: fields of `event` that are not sent stay as they were, null clears one."""

    reason: str
    event: dict[str, Any]


decode_void: Final = Decoder(VoidInput)
decode_amend: Final = Decoder(AmendInput)
_decode_terms: Final = msgspec.json.Decoder(VoidTerms).decode
_decode_fields: Final = Decoder(dict[str, Any])


async def void(core: Core, event_id: str, sent: VoidInput) -> dict[str, Any]:
    """Take an event back, once; it stays in the books, and so does its void.

    Raises:
        ProblemError: there is no such event, or it was taken back before.
    """
    row, ref = await _find(core, event_id)
    message = Void(row.id, _reason(sent.reason))
    await core.intake.ask(ref, message)
    return _view(row, message)


async def amend(core: Core, event_id: str, sent: AmendInput) -> dict[str, Any]:
    """Take an event back and record another in its place: both, or neither.

    Raises:
        ProblemError: there is no such event, it was taken back before, or the other cannot be recorded.
    """
    row, ref = await _find(core, event_id)
    event = _amended(core, row, ref, sent.event)
    message = Void(row.id, _reason(sent.reason), event)
    known = await core.intake.ask_once(ref, message, (event.key_space, event.key) if event.keyed else None)
    if known is not None:
        text = "is taken by another event; leave it out, or send a new one"
        detail = event_uuid(known.id)
        field = "event.eventIdempotencyKey"
        raise ProblemError(Problem(code=Code.CONFLICT, field=field, message=text, detail=detail))
    if isinstance(message.outcome, Refused):
        raise ProblemError(commands.short_problem(message.outcome))
    assert isinstance(message.outcome, Accepted), "decided"
    return {**_view(row, message), "event": commands.accepted_view(message.outcome)}


async def _find(core: Core, event_id: str) -> tuple[EventRow, CustomerRef]:
    number = event_number(event_id)
    row = None
    if number is not None:
        row = await core.books.read(partial(event_rows.event_by_number, number=number))
    if row is None:
        raise not_found(f"there is no event {event_id!r}")
    ids = await core.books.read(partial(event_rows.customer_ids, customers=[row.customer]))
    return row, CustomerRef(RefKind.ID, ids[row.customer])


def _reason(text: str) -> str:
    return check_identifier("reason", text, REASON_CHARACTERS_MAX)


def _amended(core: Core, row: EventRow, ref: CustomerRef, sent: dict[str, Any]) -> UsageEvent:
    """Return the event that takes another's place: that one's fields, those that are sent changed."""
    before = {name: value for name, value in _decode_fields(row.body).items() if name not in _OWN}
    if any(sent.get(name) is not None for name in _CUSTOMER):
        before = {name: value for name, value in before.items() if name not in _CUSTOMER}
    if any(name in sent for name in _FEATURE):
        before = {name: value for name, value in before.items() if name not in _FEATURE}
    elif "eventName" not in sent and row.feature is not None and "featureId" not in before:
        before["featureKey"] = row.feature  # as its name was understood then
    fields = {"occurredAt": iso(row.occurred_at), **before, **sent}
    body: EventBody = commands.decode_event(encode(without_nothing(fields)))
    if body.hold_id is not None:
        raise invalid("event.holdId", "cannot be sent; an amended event settles no hold")
    request = commands.read_request(core, body, Source(row.source))
    if request.ref.customer_id() != ref.customer_id():
        text = "an amended event stays its customer's; void this one, and send a new one for the other customer"
        raise invalid("event.customerReferenceId", text)
    if row.source == Source.RETEMPO:  # whose keys belong to a subscription
        return msgspec.structs.replace(request.event, key_space=row.key_space)
    return request.event


def voided_view(entries: Iterable[Entry]) -> dict[str, Any]:
    """Return `{voided: {reason, at, position}}` when the entries an event caused have its void among them."""
    for entry in entries:
        if entry.kind == EntryKind.EVENT_VOIDED:
            reason = _decode_terms(entry.details).reason
            return {"voided": {"reason": reason, "at": iso(entry.at), "position": entry.position}}
    return {}


def _view(row: EventRow, message: Void) -> dict[str, Any]:
    return {
        "eventId": event_uuid(row.id),
        "voided": True,
        "reason": message.reason,
        "position": message.position,
    }
