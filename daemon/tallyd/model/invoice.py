"""The invoice: what a subscription owes for a period, line by line."""

from decimal import Decimal
from enum import StrEnum
from typing import Final

import msgspec


class InvoiceStatus(StrEnum):
    """Where an invoice stands (seed 001)."""

    PENDING = "PENDING"  # its period runs; the lines are not final
    DUE = "DUE"  # to be paid
    PAID = "PAID"
    PAST_DUE = "PAST_DUE"  # the grace days after the due date are over
    VOID = "VOID"  # never to be paid; what it billed of usage is billed anew
    CANCELLED = "CANCELLED"  # its period never came to be billed


OPEN: Final = frozenset({InvoiceStatus.PENDING, InvoiceStatus.DUE, InvoiceStatus.PAST_DUE})
"""What may still change; the others are closed and never rewritten."""


class InvoiceKind(StrEnum):
    """What an invoice is for. Of the first three there is one per subscription and period (P6)."""

    IN_ADVANCE_INITIAL = "IN_ADVANCE_INITIAL"  # the first period of a plan paid in advance
    IN_ADVANCE = "IN_ADVANCE"  # a further period, with the usage of the one before
    IN_ARREARS = "IN_ARREARS"  # a period that is over, with its usage
    ADJUSTMENT = "ADJUSTMENT"  # an upgrade, at once
    CREDIT = "CREDIT"  # what is given back: a negative amount
    FINAL = "FINAL"  # what is left to bill when a subscription has ended


OF_PERIODS: Final = frozenset({InvoiceKind.IN_ADVANCE_INITIAL, InvoiceKind.IN_ADVANCE, InvoiceKind.IN_ARREARS})


class LineKind(StrEnum):
    """What a line bills."""

    BASE = "base"  # the plan's price for a period
    TRIAL = "trial"  # takes back what a trial gives away
    USAGE = "usage"  # what the events of a counter came to, by the plan's steps
    COVERED = "covered"  # units that credits have paid for, at zero
    CREDITED = "credited"  # the part of a price that credits in money have paid
    PRORATION = "proration"  # a part of a period, after a change
    OVERAGE = "overage"  # credits drawn beyond the balance
    LATE = "late"  # usage of a period that had been invoiced: events that came late, were voided or re-rated


class LineStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How a price makes an amount: a step of the pricing model's explanation.

    Attributes:
        words: for the person who pays.
        quantity: how much.
        unit_price: exact price of one; None for a flat fee, or where there is no price.
        amount: exact; None: unpriced.
    """

    words: str
    quantity: Decimal
    unit_price: Decimal | None = None
    amount: Decimal | None = None


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One line of an invoice.

    Attributes:
        kind: see `LineKind`.
        words: for the person who pays.
        exact: what it comes to, every digit kept (P9).
        amount: `exact` rounded once, half up, to the currency.
        period_start: start of what it bills, microseconds UTC.
        period_end: its end.
        price_version: `plan@version` that explains it.
        feature: of usage.
        model: the LLM model, where the price differs by it.
        token_kind: input, output, …, where the price differs by it.
        quantity: units, tokens or credits billed.
        unit_price: exact, where there is one for the whole line.
        steps: how the price makes the amount.
        counter_start: the counter billed (`CounterKey.period_start`), for lines of usage.
        after: the first ledger position of that counter that was not billed before this line.
        until: the first that this line does not bill.
        pool: number of the credit pool, for overage.
    """

    kind: LineKind
    words: str
    exact: Decimal
    amount: Decimal
    period_start: int
    period_end: int
    price_version: str = ""
    feature: str = ""
    model: str = ""
    token_kind: str = ""
    quantity: Decimal | None = None
    unit_price: Decimal | None = None
    steps: list[LineStep] = []
    counter_start: int | None = None
    after: int = 0
    until: int = 0
    pool: int | None = None

    @property
    def positions(self) -> tuple[int, int]:
        """The first and the last ledger position it bills; the last is less than the first where it bills none."""
        return max(self.after, 1), self.until - 1


class Invoice(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An invoice as it stands. Fields are the columns of `invoices`; `lines` is kept as JSON.

    Attributes:
        number: row number: that of the ledger entry that made it. Its id on the wire is the UUID of that number.
        customer: the customer's row number.
        subscription: the subscription's row number.
        serial: 1, 2, 3, … among the customer's invoices, without a gap.
        kind: see `InvoiceKind`.
        status: see `InvoiceStatus`.
        currency: ISO 4217.
        period_start: start of the period it is named for, microseconds UTC (P6).
        period_end: its end.
        issued_at: when it came to be, at the instant of its cause.
        due_at: when it is to be paid.
        overdue_at: when the grace days are over: unpaid by then, access ends.
        amount: sum of the lines' amounts.
        lines: in order.
        position: the ledger position it was made at, or last revised.
        settled_at: when it was paid, voided or cancelled.
    """

    number: int
    customer: int
    subscription: int
    serial: int
    kind: InvoiceKind
    status: InvoiceStatus
    currency: str
    period_start: int
    period_end: int
    issued_at: int
    due_at: int
    overdue_at: int
    amount: Decimal
    lines: list[Line]
    position: int
    settled_at: int | None = None

    @property
    def open(self) -> bool:
        """Whether it may still change."""
        return self.status in OPEN

    @property
    def dated_at(self) -> int:
        """When it is said to be issued: of a period billed in arrears its end, once the invoice is closed."""
        closed = self.kind is InvoiceKind.IN_ARREARS and self.status is not InvoiceStatus.PENDING
        return self.period_end if closed else self.issued_at


class InvoiceUpdate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a later ledger entry changes of an invoice: `details` of it. What is absent stays as it was."""

    invoice: int
    status: InvoiceStatus
    settled_at: int | None = None
    period_end: int | None = None
    due_at: int | None = None
    overdue_at: int | None = None
    amount: Decimal | None = None
    lines: list[Line] | None = None
