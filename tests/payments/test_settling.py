"""What a webhook does to a checkout session: the table of states, row by row."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from support import NOW
from tallyd.model.checkout import CheckoutStatus, HostedCheckout
from tallyd.model.invoice import Invoice, InvoiceKind, InvoiceStatus
from tallyd.payments import PaymentEvent, PaymentKind
from tallyd.payments.settling import Consequence, consequence, major_units, minor_units

PENDING, COMPLETED, EXPIRED = CheckoutStatus
PAID, CLOSED, FAILED = PaymentKind


def checkout(**fields: Any) -> HostedCheckout:
    """A session for 12.34 USD with a page, but for what a test changes."""
    page = {"provider_session": "cs_1", "url": "https://pay.example.com/1", "expires_at": NOW + 1}
    good = {"id": "c-1", "customer": 1, "invoice": 7, "provider": "stripe", "amount": 1234, "currency": "USD"}
    return HostedCheckout(**{**good, "created_at": NOW, **page, **fields})


def invoice(**fields: Any) -> Invoice:
    """The invoice it is for."""
    good = {"number": 7, "customer": 1, "subscription": 1, "serial": 1, "kind": InvoiceKind.IN_ADVANCE}
    times = dict.fromkeys(("period_start", "period_end", "issued_at", "due_at", "overdue_at"), NOW)
    rest = {"status": InvoiceStatus.DUE, "currency": "USD", "amount": Decimal("12.34"), "lines": [], "position": 1}
    return Invoice(**{**good, **times, **rest, **fields})


def event(kind: PaymentKind = PAID, **fields: Any) -> PaymentEvent:
    """A webhook about it."""
    good = {"id": "evt_1", "session": "c-1", "provider_session": "cs_1", "amount": 1234, "currency": "USD"}
    return PaymentEvent(**{"kind": kind, "payment": "pi_1", "occurred_at": NOW, **good, **fields})


def test_a_payment_completes_the_session_and_pays_the_invoice() -> None:
    """The row is COMPLETED with the payment that a refund would need, and its invoice is paid."""
    follows = consequence(checkout(), invoice(), event(), NOW + 5)
    expected = checkout(status=COMPLETED, completed_at=NOW + 5, payment="pi_1")
    assert follows == Consequence(checkout=expected, pays=True)


@pytest.mark.parametrize(
    ("status", "kind", "after", "pays"),
    [
        (PENDING, PAID, COMPLETED, True),
        (PENDING, CLOSED, EXPIRED, False),
        (PENDING, FAILED, EXPIRED, False),
        (COMPLETED, PAID, COMPLETED, False),
        (COMPLETED, CLOSED, COMPLETED, False),
        (COMPLETED, FAILED, COMPLETED, False),
        (EXPIRED, PAID, COMPLETED, True),
        (EXPIRED, CLOSED, EXPIRED, False),
        (EXPIRED, FAILED, EXPIRED, False),
    ],
)
def test_the_table_of_states(
    status: CheckoutStatus, kind: PaymentKind, after: CheckoutStatus, *, pays: bool
) -> None:
    """Each row of the table in `tallyd.payments`: where the session stands decides what a webhook does."""
    follows = consequence(checkout(status=status), invoice(), event(kind), NOW)
    assert (follows.pays, follows.problem) == (pays, None)
    assert (follows.checkout is None) == (after is status)
    assert follows.checkout is None or follows.checkout.status is after


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"amount": 1233}, "12.33 USD came, and 12.34 USD were to be paid"),
        ({"currency": "EUR"}, "12.34 EUR came, and 12.34 USD were to be paid"),
        ({"currency": "JPY"}, "1234 JPY came, and 12.34 USD were to be paid"),
        ({"provider_session": "cs_2"}, "cs_2, and cs_1 was made for this checkout"),
    ],
)
def test_a_payment_that_is_not_what_was_asked_for_settles_nothing(fields: dict[str, Any], words: str) -> None:
    """Another amount, currency or page: the session stays as it is, but for the problem that is written on it."""
    follows = consequence(checkout(), invoice(), event(**fields), NOW)
    assert not follows.pays
    assert follows.problem is not None
    assert words in follows.problem
    assert follows.checkout == checkout(problem=follows.problem)


@pytest.mark.parametrize("status", [InvoiceStatus.PAID, InvoiceStatus.VOID, InvoiceStatus.CANCELLED])
def test_money_for_an_invoice_that_is_closed_is_noted(status: InvoiceStatus) -> None:
    """The customer has paid, so the session is COMPLETED; the invoice is not paid by it: a person has to know."""
    follows = consequence(checkout(), invoice(status=status), event(), NOW)
    assert not follows.pays
    assert follows.problem == f"the invoice was {status} already when the money came"
    assert follows.checkout is not None
    assert (follows.checkout.status, follows.checkout.problem) == (COMPLETED, follows.problem)


def test_money_for_an_invoice_that_has_changed_is_noted() -> None:
    """An invoice that a late event has changed since is not paid by what was asked for before."""
    follows = consequence(checkout(), invoice(amount=Decimal("20.00")), event(), NOW)
    assert not follows.pays
    assert follows.problem == "12.34 USD came, and the invoice has changed to 20.00 USD since"


def test_an_overdue_invoice_can_be_paid() -> None:
    """PAST_DUE is to be paid as DUE is."""
    assert consequence(checkout(), invoice(status=InvoiceStatus.PAST_DUE), event(), NOW).pays


def test_a_page_that_was_never_heard_of_can_be_paid() -> None:
    """When the provider's answer was lost its session is known from the webhook only, and is written down then."""
    lost = checkout(provider_session=None, url=None, expires_at=None)
    follows = consequence(lost, invoice(), event(provider_session="cs_9"), NOW)
    assert follows.pays
    assert follows.checkout is not None
    assert follows.checkout.provider_session == "cs_9"


def test_another_page_s_end_does_not_end_this_one() -> None:
    """What a webhook says of a page that is not this session's is nothing to it."""
    assert consequence(checkout(), invoice(), event(CLOSED, provider_session="cs_2"), NOW) == Consequence()


@pytest.mark.parametrize(
    ("amount", "currency", "minor"), [("12.34", "USD", 1234), ("12", "JPY", 12), ("1.234", "KWD", 1234)]
)
def test_minor_units_are_those_of_iso_4217(amount: str, currency: str, minor: int) -> None:
    """There and back, for currencies with two, no and three decimals."""
    assert minor_units(Decimal(amount), currency) == minor
    assert major_units(minor, currency) == Decimal(amount)


def test_a_session_stands_as_time_says() -> None:
    """A page closes at its instant, said or not; what is COMPLETED stays so, and has no page any more (P7)."""
    made = checkout()
    assert (made.status_at(NOW), made.page_at(NOW)) == (PENDING, made.url)
    assert (made.status_at(NOW + 1), made.page_at(NOW + 1)) == (EXPIRED, None)
    done = msgspec.structs.replace(made, status=COMPLETED)
    assert (done.status_at(NOW + 1), done.page_at(NOW)) == (COMPLETED, None)
