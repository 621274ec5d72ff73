"""A hosted checkout: an invoice in, a page to pay it on out; a webhook in, what it says about a payment out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar

import msgspec


class CheckoutLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One line of what is paid.

    Attributes:
        words: for the person who pays.
        amount: in minor units; negative for what is given back, 0 for what credits or the plan include.
    """

    words: str
    amount: int


class CheckoutRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be paid, by whom, and where they go afterwards.

    Amounts are whole minor units of the currency as ISO 4217 has them (`currency_exponent`): cents of USD, yen,
    fils of KWD. What a provider calls the minor unit instead is the plugin's affair.

    Attributes:
        session: id of our checkout session. The provider must give it back in every webhook about this one.
        invoice: id of the invoice; None for what has none, such as a purchase of credits.
        title: what is paid, in a few words: `Invoice acme-7`.
        amount: what is to be paid, more than 0.
        currency: ISO 4217, in capitals.
        lines: sum to `amount`; none when the title says all there is.
        customer: the customer's reference, for people who look at the provider's records.
        email: filled in for the person who pays, when it is known.
        success_url: where they go after paying. Going there proves nothing: only the webhook does.
        cancel_url: where they go when they turn back; None for no way back.
        expires_at: when the page closes, microseconds UTC of the world's time, not of a test clock; None for the
            provider's own limit. Providers have bounds; one that is out of them is refused.
        idempotency_key: at most 255 characters. The same request with the same key makes one session, however
            often it is sent, for a day at least.
    """

    session: str
    invoice: str | None
    title: str
    amount: int
    currency: str
    lines: tuple[CheckoutLine, ...] = ()
    customer: str
    email: str | None = None
    success_url: str
    cancel_url: str | None = None
    expires_at: int | None = None
    idempotency_key: str


class CheckoutSession(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The page that was made.

    Attributes:
        provider_session: the provider's id of it.
        url: where the customer pays.
        expires_at: when the page closes, microseconds UTC.
    """

    provider_session: str
    url: str
    expires_at: int


class PaymentKind(StrEnum):
    """What became of a checkout session."""

    COMPLETED = "COMPLETED"  # the money has come: not merely promised
    EXPIRED = "EXPIRED"  # the page has closed, unpaid
    ASYNC_FAILED = "ASYNC_FAILED"  # it was promised, by bank transfer for one, and did not come


class PaymentEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a webhook says about one of our sessions.

    Attributes:
        id: the provider's id of the event; the same for every delivery of it.
        kind: see `PaymentKind`.
        session: id of our checkout session.
        provider_session: the provider's id of it.
        amount: of the session, in minor units as in `CheckoutRequest`.
        currency: ISO 4217, in capitals.
        payment: the provider's id of the payment, to find it again for a refund; None when there is none.
        occurred_at: when it happened, by the provider's clock, microseconds UTC.
    """

    id: str
    kind: PaymentKind
    session: str
    provider_session: str
    amount: int
    currency: str
    payment: str | None
    occurred_at: int


class CheckoutRefused(Exception):
    """The provider will not take this request, however often it is sent. The message says why, for people."""


class CheckoutUnavailable(Exception):
    """No answer, or none about the request: network, outage, rate limit, a key that is not accepted.

    A session may have been made. The same request with the same key is safe to send again; so is one for a new
    session of ours, since nobody was given the page of the old one.
    """


class BadSignature(Exception):
    """A webhook that is not from the provider, or was signed too long ago. The message says which."""


class BadPayload(Exception):
    """A webhook with a good signature that cannot be read. The message says why."""


class SettingsError(Exception):
    """Settings a provider cannot work with; `key` is the one to blame."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}")
        self.key = key
        self.message = message


class Checkout(ABC):
    """A payment provider with a hosted page. Make a subclass, return an instance from `tallyd_checkout`.

    One instance serves all requests, from several threads at a time.
    """

    name: ClassVar[str]
    """What people call the provider, such as `Stripe`."""

    @abstractmethod
    def create_session(self, request: CheckoutRequest) -> CheckoutSession:
        """Make the page on which `request` is paid.

        May block: it is called on a worker thread. The caller waits `[payments] budget_ms` and then answers
        without it; an implementation should give up on the network no later than that by itself, and must not
        repeat a request of its own accord. Amounts are never rounded: one the provider cannot take is refused.

        Raises:
            CheckoutRefused: sending it again would not help.
            CheckoutUnavailable: sending it again may.
        """

    @abstractmethod
    def close_session(self, provider_session: str) -> bool:
        """Close a page, because its invoice was settled in another way. May block, as `create_session` does.

        Return True when it can no longer be paid, closed before or not; False when it has been paid, or a
        payment is on its way.

        Raises:
            CheckoutRefused: there is no such session.
            CheckoutUnavailable: nothing is known; asking again is safe.
        """

    @abstractmethod
    def read_webhook(self, body: bytes, headers: Mapping[str, str], now: int) -> PaymentEvent | None:
        """Check that a webhook is the provider's, and say what it means.

        Pure, and quick: called on the daemon's own thread. Whether it came before is not asked here.

        Args:
            body: as received, to the byte: signatures cover it.
            headers: names in lower case.
            now: microseconds UTC of the world's time; signatures grow old.

        Return None for what is none of our concern: other kinds of event, sessions that are not ours, a payment
        that is only promised so far.

        Raises:
            BadSignature: nobody knows who sent it.
            BadPayload: it is signed, and yet unreadable.
        """
