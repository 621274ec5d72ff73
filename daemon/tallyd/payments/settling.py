"""What a webhook does to a checkout session of ours: the table of states in `tallyd.payments`, as a function."""

from decimal import Decimal
from typing import Final

import msgspec

from tallyd.engine.billing.invoicing import TO_PAY
from tallyd.model.checkout import CheckoutStatus, HostedCheckout
from tallyd.model.invoice import Invoice
from tallyd.model.money import currency_exponent, plain
from tallyd.payments.seam import PaymentEvent, PaymentKind

_replace: Final = msgspec.structs.replace


class Consequence(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What follows from a webhook.

    Attributes:
        checkout: the session as it is from now on; None when it stays as it was.
        pays: whether its invoice is paid by it.
        problem: why money that came pays no invoice.
    """

    checkout: HostedCheckout | None = None
    pays: bool = False
    problem: str | None = None


NOTHING: Final = Consequence()


def consequence(checkout: HostedCheckout, invoice: Invoice, event: PaymentEvent, now: int) -> Consequence:
    """Say what follows from a webhook about a session, whatever came before it.

    Args:
        checkout: the session as it stands.
        invoice: its invoice as it stands.
        event: what the webhook says.
        now: microseconds UTC of the world's time.
    """
    if checkout.status is CheckoutStatus.COMPLETED:
        return NOTHING
    if event.kind is not PaymentKind.COMPLETED:
        expires = checkout.status is CheckoutStatus.PENDING and _same_session(checkout, event)
        return Consequence(checkout=expired(checkout)) if expires else NOTHING
    problem = _difference(checkout, event)
    if problem is not None:
        return Consequence(checkout=_replace(checkout, problem=problem), problem=problem)
    problem = _refusal(checkout, invoice)
    completed = _replace(
        checkout,
        status=CheckoutStatus.COMPLETED,
        provider_session=event.provider_session,
        completed_at=now,
        payment=event.payment,
        problem=problem,
    )
    return Consequence(checkout=completed, pays=problem is None, problem=problem)


def expired(checkout: HostedCheckout) -> HostedCheckout:
    """Return a session whose page is closed."""
    return _replace(checkout, status=CheckoutStatus.EXPIRED)


def to_pay(invoice: Invoice) -> int:
    """Return what an invoice comes to, in minor units of its currency."""
    return minor_units(invoice.amount, invoice.currency)


def minor_units(amount: Decimal, currency: str) -> int:
    """Return an amount that is rounded to its currency in minor units, such as 1234 for 12.34 USD."""
    minor = amount.scaleb(currency_exponent(currency))
    assert minor == minor.to_integral_value(), f"{amount} is rounded to {currency}"
    return int(minor)


def major_units(minor: int, currency: str) -> Decimal:
    """Return an amount in minor units as people write it, such as 12.34 for 1234 of USD."""
    return Decimal(minor).scaleb(-currency_exponent(currency))


def fits(checkout: HostedCheckout, invoice: Invoice) -> bool:
    """Whether a session's page asks for what its invoice now comes to."""
    return invoice.status in TO_PAY and to_pay(invoice) == checkout.amount


def _same_session(checkout: HostedCheckout, event: PaymentEvent) -> bool:
    """Whether it is about the provider's session that is known; before the provider answers, none is."""
    return checkout.provider_session in {None, event.provider_session}


def _difference(checkout: HostedCheckout, event: PaymentEvent) -> str | None:
    if not _same_session(checkout, event):
        known = checkout.provider_session
        return f"the provider's session is {event.provider_session}, and {known} was made for this checkout"
    if (event.amount, event.currency) != (checkout.amount, checkout.currency):
        asked = _money(checkout.amount, checkout.currency)
        return f"{_money(event.amount, event.currency)} came, and {asked} were to be paid"
    return None


def _refusal(checkout: HostedCheckout, invoice: Invoice) -> str | None:
    if invoice.status not in TO_PAY:
        return f"the invoice was {invoice.status} already when the money came"
    if not fits(checkout, invoice):
        owed = f"{plain(invoice.amount)} {invoice.currency}"
        return f"{_money(checkout.amount, checkout.currency)} came, and the invoice has changed to {owed} since"
    return None


def _money(minor: int, currency: str) -> str:
    return f"{plain(major_units(minor, currency))} {currency}"
