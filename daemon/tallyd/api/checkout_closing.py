"""Pages whose invoices are settled otherwise, or have changed, are closed, so that nobody pays twice.

In the background, and with a bound on how often the provider is asked. What is left open is found again at the
next start; should somebody pay on it, the webhook says so.
"""

from functools import partial
from typing import Final

import structlog
import trio

from tallyd.api.checkout_changes import close_page
from tallyd.core import Core
from tallyd.model.checkout import HostedCheckout
from tallyd.model.event import event_uuid
from tallyd.model.problems import ProblemError
from tallyd.payments.provider import Provider
from tallyd.payments.seam import CheckoutUnavailable
from tallyd.payments.settling import fits
from tallyd.store import checkout_rows
from tallyd.store.checkout_rows import Found

AT_ONCE: Final = 4
"""Pages that are being closed at a time: fewer than the threads that talk to the provider."""

TRIES_MAX: Final = 6
RETRY_FIRST_S: Final = 1.0
"""Doubled each time: half a minute in all, and the time that the provider takes not to answer."""

PAGES_A_LOOK_MAX: Final = 10_000

_log = structlog.get_logger(__name__)


async def close_pages(core: Core, provider: Provider) -> None:
    """Close pages that ask for what is not owed, for ever."""
    places = trio.Semaphore(AT_ONCE)
    closing: set[str] = set()

    async def close(checkout: HostedCheckout) -> None:
        try:
            await _close(core, provider, checkout)
        finally:
            closing.discard(checkout.id)
            places.release()

    found = await _changed(core, None)
    async with trio.open_nursery() as nursery:
        while True:
            for checkout in _to_close(provider, found):
                if checkout.id not in closing:
                    await places.acquire()
                    closing.add(checkout.id)
                    nursery.start_soon(close, checkout)
            found = await _changed(core, await provider.changed.take())


async def _changed(core: Core, invoices: set[int] | None) -> list[Found]:
    """Return the sessions of some invoices; None: those of any invoice whose pages are open."""
    if invoices is not None:
        return await core.books.read(partial(checkout_rows.pending_checkouts, invoices=invoices))
    query = partial(checkout_rows.open_pages, now=core.clock.system.now(), limit=PAGES_A_LOOK_MAX)
    return await core.books.scan(query)


def _to_close(provider: Provider, found: list[Found]) -> list[HostedCheckout]:
    return [
        each.checkout
        for each in found
        if each.checkout.provider == provider.name
        and each.checkout.provider_session is not None
        and not fits(each.checkout, each.invoice)
    ]


async def _close(core: Core, provider: Provider, checkout: HostedCheckout) -> None:
    about = {
        "checkout": checkout.id,
        "invoice": event_uuid(checkout.invoice),
        "provider_session": checkout.provider_session,
    }
    reason, pause_s = "", RETRY_FIRST_S
    for _ in range(TRIES_MAX):
        try:
            if not await close_page(core, provider, checkout):
                _log.warning("a page whose invoice is settled has been paid, or will be", **about)
        except (CheckoutUnavailable, ProblemError) as error:
            reason = str(error)
            core.counts.provider_failures += isinstance(error, CheckoutUnavailable)
            await trio.sleep(pause_s)
            pause_s *= 2
        else:
            return
    _log.error("a page whose invoice is settled could not be closed; close it by hand", reason=reason, **about)
