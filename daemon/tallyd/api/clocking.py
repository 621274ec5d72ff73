"""Test clocks over HTTP and the socket alike: set, moved, listed, ended; see `actors.standing_clocks`.

`DAEMON_NAME` stands for the whole daemon's clock in paths; a customer that is called so is named by its UUID.
"""

from functools import partial
from typing import Any, Final

import msgspec

from tallyd.api.consuming import without_nothing
from tallyd.api.credit_inputs import customer_asked
from tallyd.api.wire import Decoder
from tallyd.clock import DAEMON
from tallyd.core import Core
from tallyd.engine.credits.book import NEVER
from tallyd.engine.events import check_identifier, id_ref
from tallyd.model.customer import CustomerRef, RefKind
from tallyd.model.moments import EARLIEST_US, LATEST_US, SECOND_US, iso, parse_iso
from tallyd.model.problems import ProblemError, invalid
from tallyd.store import customer_rows, subscription_rows

DAEMON_NAME: Final = "daemon"


class _Input(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Whose clock: a customer's, or the daemon's where none is named."""

    customer_reference_id: str | None = None
    customer_id: str | None = None

    @property
    def ref(self) -> CustomerRef | None:
        """Whom it names; None: the whole daemon."""
        return customer_asked(self.customer_reference_id, self.customer_id)


class SetInput(_Input, frozen=True, kw_only=True):
    """Body of POST /clocks: where the clock stands, ISO 8601 with a zone."""

    now: str


class AdvanceInput(_Input, frozen=True, kw_only=True):
    """Params of `clocks.advance`: by so many seconds, or to an instant."""

    by: int | None = None
    to: str | None = None


class EndInput(_Input, frozen=True, kw_only=True):
    """Params of `clocks.end`."""


decode_set: Final = Decoder(SetInput)
decode_advance: Final = Decoder(AdvanceInput)
decode_end: Final = Decoder(EndInput)


async def set_clock(core: Core, sent: SetInput) -> dict[str, Any]:
    """Put a customer or the daemon on a clock that stands; return the clock."""
    ref = sent.ref
    await core.standing_clocks.put(ref, _instant("now", sent.now))
    return await _clock(core, ref)


async def advance(core: Core, sent: AdvanceInput) -> dict[str, Any]:
    """Move a clock; return it when all that fell due on the way is written."""
    ref = sent.ref
    if (sent.by is None) == (sent.to is None):
        raise invalid("by", "is required, in seconds, or to, an instant; one of them")
    if sent.to is not None:
        to = _instant("to", sent.to)
    else:
        to = await _after(core, ref, sent.by or 0)
    await core.standing_clocks.advance(ref, to)
    return await _clock(core, ref)


async def end(core: Core, sent: EndInput) -> dict[str, Any]:
    """End a clock; return `{ended, now}`, now being the running time."""
    ref = sent.ref
    await core.standing_clocks.end(ref)
    now = core.clock.now() if ref is None else core.clock.of(ref.customer_id())
    return {"ended": True, "now": iso(now)}


async def clocks(core: Core) -> list[dict[str, Any]]:
    """Return the test clocks, the daemon's first, then customers' by when they came to be known."""
    ids = [customer for customer in core.clock.standing if customer != DAEMON]
    customers = await core.books.read(partial(customer_rows.customers_by_id, ids=ids))
    found = [await _clock(core, None)] if DAEMON in core.clock.standing else []
    return [*found, *[await _clock(core, CustomerRef(RefKind.ID, each.id)) for each in customers]]


async def named(core: Core, name: str) -> dict[str, str]:
    """Return whose clock a path names, in the words of a body.

    A name is a customer's own reference, else its UUID; `daemon` is the daemon.
    """
    if name == DAEMON_NAME:
        return {}
    check_identifier("customerReferenceId", name)
    account = await core.directory.account(CustomerRef(RefKind.REFERENCE, name))
    if not account.known:
        try:
            return {"customer_id": id_ref(name).value}
        except ProblemError:
            pass
    return {"customer_reference_id": name}


async def _after(core: Core, ref: CustomerRef | None, seconds: int) -> int:
    if seconds < 0:
        raise invalid("by", "must not be negative: time never runs backwards")
    stands = core.clock.now() if ref is None else core.clock.of(ref.customer_id())
    return _checked("by", stands + seconds * SECOND_US)


def _instant(field: str, text: str) -> int:
    try:
        moment = parse_iso(text)
    except (ValueError, OverflowError):
        raise invalid(field, "must be an ISO 8601 time with a zone, such as 2026-11-21T00:00:00Z") from None
    return _checked(field, moment)


def _checked(field: str, moment: int) -> int:
    if not EARLIEST_US <= moment <= LATEST_US:
        raise invalid(field, "must lead to the years 2000 to 2199")
    return moment


async def _clock(core: Core, ref: CustomerRef | None) -> dict[str, Any]:
    """Return a clock, and when time alone does something next by it."""
    if ref is None:
        due = await core.books.read(subscription_rows.next_due)
        view: dict[str, Any] = {"clock": DAEMON_NAME, "now": iso(core.clock.now())}
    else:
        account = await core.directory.account(ref)
        due = account.due_at
        view = {
            "clock": "customer",
            "customerReferenceId": account.customer.reference,
            "customerId": account.customer.id,
            "now": iso(core.clock.of(account.customer.id)),
        }
    return without_nothing({**view, "nextDueAt": None if due is None or due >= NEVER else iso(due)})
