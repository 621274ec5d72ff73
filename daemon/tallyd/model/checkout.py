"""The checkout session: a provider's page on which an invoice is paid."""

from enum import StrEnum

import msgspec


class CheckoutStatus(StrEnum):
    """Where a checkout session stands (CONTRACTS 1.3)."""

    PENDING = "PENDING"  # nothing is known of a payment
    COMPLETED = "COMPLETED"  # the money has come
    EXPIRED = "EXPIRED"  # its page is closed, or was never given to anybody


class HostedCheckout(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A checkout session of ours. Fields are the columns of `checkouts`, in their order.

    Times are the world's, never a test clock's: a provider knows no other.

    Attributes:
        id: UUID; the provider gives it back in every webhook.
        customer: the customer's row number.
        invoice: the invoice's row number.
        provider: name of the payment plugin.
        amount: what is to be paid, in minor units.
        currency: ISO 4217.
        created_at: microseconds UTC.
        status: see `CheckoutStatus`.
        provider_session: the provider's id of it; None until it has answered.
        url: where it is paid; None until the provider has answered.
        expires_at: when the page closes by itself; None until the provider has answered.
        completed_at: when the money was known to have come.
        payment: the provider's id of the payment, to find it again for a refund.
        problem: why money that came pays no invoice: a person has to look at it.
    """

    id: str
    customer: int
    invoice: int
    provider: str
    amount: int
    currency: str
    created_at: int
    status: CheckoutStatus = CheckoutStatus.PENDING
    provider_session: str | None = None
    url: str | None = None
    expires_at: int | None = None
    completed_at: int | None = None
    payment: str | None = None
    problem: str | None = None

    def status_at(self, now: int) -> CheckoutStatus:
        """Return where it stands at an instant: a page closes by itself, whether or not somebody says so (P7).

        Money may still be on its way then: promised before the page closed.
        """
        closed = self.expires_at is not None and self.expires_at <= now
        return CheckoutStatus.EXPIRED if closed and self.status is CheckoutStatus.PENDING else self.status

    def page_at(self, now: int) -> str | None:
        """Return where it can be paid at an instant, or None when it cannot be."""
        return self.url if self.status_at(now) is CheckoutStatus.PENDING else None
