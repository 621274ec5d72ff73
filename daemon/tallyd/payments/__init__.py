"""Payment by hosted checkout: what a payment plugin is given, what it may return, and what its caller owes it.

Everything a plugin author needs is imported from here. A plugin makes the page on which an invoice is paid, and
reads the provider's webhooks; it keeps nothing, and it settles nothing. Invoices that are collected in any other
way are marked as paid and never come here.

For whoever calls it. The checkout session is a row of our own, PENDING, written with its amount and currency
before `create_session` is called, so that a webhook can never be about a session we do not know. Webhooks come
more than once, late and in any order, so what they do depends only on where that row stands:

| the row is | COMPLETED | EXPIRED | ASYNC_FAILED |
|---|---|---|---|
| PENDING | COMPLETED, the invoice is PAID, in one commit | EXPIRED | EXPIRED |
| COMPLETED | nothing | nothing | nothing |
| EXPIRED | COMPLETED, the invoice is PAID: the money has come | nothing | nothing |

So an invoice is settled once for each session of ours, and event ids need not be kept. Before it settles, the
caller compares `provider_session`, `amount` and `currency` with its row: where they differ, nothing is settled and
somebody is told. The same when the invoice has been paid or voided in another way by then: the money is there
twice, and only a person can say what becomes of it; call `close_session` when an invoice is settled otherwise. A
session that is not known, and a webhook that is None, are answered 200, `BadSignature` and `BadPayload` 400, and
all of it only after the commit: any other answer makes the provider send it again, for days.
"""

from tallyd.payments.hookspecs import hookimpl
from tallyd.payments.seam import (
    BadPayload,
    BadSignature,
    Checkout,
    CheckoutLine,
    CheckoutRefused,
    CheckoutRequest,
    CheckoutSession,
    CheckoutUnavailable,
    PaymentEvent,
    PaymentKind,
    SettingsError,
)

__all__ = [
    "BadPayload",
    "BadSignature",
    "Checkout",
    "CheckoutLine",
    "CheckoutRefused",
    "CheckoutRequest",
    "CheckoutSession",
    "CheckoutUnavailable",
    "PaymentEvent",
    "PaymentKind",
    "SettingsError",
    "hookimpl",
]
