"""A request to pay that nothing is wrong with, but for what a test changes."""

from typing import Any, Final

from tallyd.payments import CheckoutLine, CheckoutRequest

NOW_S: Final = 1_795_262_400  # 2026-11-21T12:00:00Z
DAY_S: Final = 86_400


def request(**fields: Any) -> CheckoutRequest:
    """An invoice of 12.34 USD, to be paid."""
    good = {
        "session": "session-1",
        "invoice": "acme-7",
        "title": "Invoice acme-7",
        "amount": 1_234,
        "currency": "USD",
        "customer": "acme",
        "success_url": "https://app.example.com/paid",
        "idempotency_key": "session-1",
    }
    return CheckoutRequest(**{**good, **fields})


def lines(*amounts: int) -> tuple[CheckoutLine, ...]:
    """Lines of these amounts, numbered from 1."""
    return tuple(CheckoutLine(words=f"line {number}", amount=amount) for number, amount in enumerate(amounts, 1))
