"""Webhooks of the payment provider: what they say is in the books before they are answered.

They come more than once, late and in any order; `tallyd.payments` says what they do, and `settling` decides it.
"""

from collections.abc import Mapping
from functools import partial

import structlog

from tallyd.api.checkout_changes import change_checkout
from tallyd.core import Core
from tallyd.engine.billing import paying
from tallyd.engine.credits.draft import Draft
from tallyd.model.checkout import HostedCheckout
from tallyd.model.event import event_uuid
from tallyd.model.problems import Code, Problem, ProblemError, not_found, unavailable
from tallyd.payments.seam import BadPayload, BadSignature, CheckoutUnavailable, PaymentEvent
from tallyd.payments.settling import Consequence, consequence
from tallyd.store import checkout_rows
from tallyd.store.checkout_rows import Found

_log = structlog.get_logger(__name__)


async def take_webhook(core: Core, provider: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Do what a webhook says; a second time, or too late, it does nothing.

    Args:
        core: the daemon.
        provider: name of the payment plugin, as in the path.
        body: as received, to the byte.
        headers: names in lower case.

    Raises:
        ProblemError: it is not the provider's, or cannot be read, or must be sent again: it could not be written.
    """
    event = _read(core, provider, body, headers)
    if event is None:
        return
    found = await core.books.read(partial(checkout_rows.checkout_by_id, checkout_id=event.session))
    if found is None:
        _log.warning("webhook about a session that is not known", session=event.session, event_id=event.id)
        return
    await _take(core, found.checkout, event)


def _read(core: Core, name: str, body: bytes, headers: Mapping[str, str]) -> PaymentEvent | None:
    provider = core.provider
    if provider is None or provider.name != name:
        raise not_found(f"there is no payment provider {name!r}; see [payments] provider")
    try:
        return provider.read_webhook(body, headers, core.clock.system.now())
    except (BadSignature, BadPayload) as error:
        core.counts.webhooks_refused += 1
        _log.warning("webhook refused", provider=name, reason=str(error))
        raise ProblemError(Problem(code=Code.VALIDATION_FAILED, message=str(error))) from None
    except CheckoutUnavailable as error:
        raise unavailable(str(error)) from None


async def _take(core: Core, checkout: HostedCheckout, event: PaymentEvent) -> None:
    now = core.clock.system.now()

    def decide(draft: Draft, found: Found) -> tuple[HostedCheckout | None, Consequence]:
        follows = consequence(found.checkout, found.invoice, event, now)
        if follows.pays:
            paying.pay(draft, found.invoice)
        return follows.checkout, follows

    follows = await change_checkout(core, checkout, decide)
    about = {
        "checkout": checkout.id,
        "invoice": event_uuid(checkout.invoice),
        "event_id": event.id,
        "payment": event.payment,
    }
    if follows.problem is not None:
        core.counts.payments_unmatched += 1
        _log.error("a payment pays no invoice; refund it or settle by hand", reason=follows.problem, **about)
    elif follows.pays:
        core.counts.checkouts_paid += 1
        _log.info("an invoice was paid by checkout", **about)
