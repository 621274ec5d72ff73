"""Acme, a customer whose life is told in dates, and whose invoices are read as text.

An invoice reads `2 ADVANCE DUE 2026-02-01..2026-03-01 49.00`: its serial, what it is for, how it stands, the days
of its period where Acme is, and what is to be paid. A line reads `usage api 1000 10.00`.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Self
from zoneinfo import ZoneInfo

from engine.billing.driven import Books, Driven
from engine.billing.naive_biller import Plan, Price, Tier
from tallyd.engine.entitlements import decide
from tallyd.engine.passing import current
from tallyd.model.catalog import CreditModel, PlanCredits
from tallyd.model.invoice import Invoice, InvoiceKind, Line
from tallyd.model.moments import from_micros, to_micros
from tallyd.model.money import plain

NAMES: Final = {
    InvoiceKind.IN_ADVANCE_INITIAL: "INITIAL",
    InvoiceKind.IN_ADVANCE: "ADVANCE",
    InvoiceKind.IN_ARREARS: "ARREARS",
    InvoiceKind.ADJUSTMENT: "ADJUSTMENT",
    InvoiceKind.CREDIT: "CREDIT",
    InvoiceKind.FINAL: "FINAL",
}
DECIMALS: Final = {"USD": 2, "JPY": 0, "KWD": 3}


def each(price: str, **fields: Any) -> Price:
    """So much a unit."""
    return Price((Tier(None, Decimal(price)),), **fields)


GRADUATED: Final = Price(
    (
        Tier(Decimal(1000), Decimal(0), Decimal(10)),
        Tier(Decimal(10_000), Decimal("0.001"), Decimal(5)),
        Tier(None, Decimal("0.0001")),
    )
)
"""The tiers of CONTRACTS 1.6."""


def plan(
    price: str,
    *,
    arrears: bool = False,
    months: int = 1,
    days: int = 0,
    trial: int = 0,
    currency: str = "USD",
    name: str = "",
    **prices: Price,
) -> Plan:
    """A plan: in advance, monthly, in dollars, and with calls at 0.01, unless it says otherwise."""
    timing = "arrears" if arrears else "advance"
    return Plan(
        name=name or f"{currency}-{price}-{months}m{days}d-{timing}-{trial}",
        currency=currency,
        decimals=DECIMALS[currency],
        price=Decimal(price),
        in_advance=not arrears,
        months=0 if days else months,
        days=days,
        trial_days=trial,
        prices=tuple((prices or {"api": each("0.01")}).items()),
    )


class Acme:
    """One subscription of one customer, at a clock that the test puts on."""

    def __init__(
        self,
        on: Plan,
        start: str,
        *,
        zone: str = "UTC",
        anchor: int | None = None,
        grace: int = 3,
        now: str | None = None,
        periods: int | None = None,
        credit_model: CreditModel | None = None,
        credits_a_period: int = 0,
        books: Books | None = None,
    ) -> None:
        self.zone = zone
        included = None
        if credit_model is not None:
            included = PlanCredits(credit_model=credit_model.key, amount=Decimal(credits_a_period)), credit_model
        self.driven = Driven(books, included)
        self.events: list[str] = []
        self.at(now or start)
        self.driven.subscribe(
            1, on, start=self.moment(start), anchor=anchor, zone=zone, grace=grace, periods=periods
        )

    # Time

    def moment(self, when: str) -> int:
        """Return an instant: a day begins at midnight where Acme is."""
        read = datetime.fromisoformat(when)
        return to_micros(read if read.tzinfo is not None else read.replace(tzinfo=ZoneInfo(self.zone)))

    def at(self, when: str) -> Self:
        """Put the clock on."""
        self.driven.pass_to(self.moment(when))
        return self

    # Deeds

    def use(self, units: str, when: str | None = None, feature: str = "api") -> str:
        """Use something now, or some time ago; return the event."""
        name = f"event-{len(self.events)}"
        moment = self.driven.now if when is None else self.moment(when)
        self.driven.use(name, 1, feature, Decimal(units), moment)
        self.events.append(name)
        return name

    def pay(self, *serials: int) -> Self:
        """Pay invoices; without naming any, all that are to be paid."""
        open_ = [
            invoice.serial for invoice in self.driven.account.invoices.values() if invoice.status != "PENDING"
        ]
        for serial in serials or open_:
            self.driven.pay(serial)
        return self

    def void(self, serial: int) -> Self:
        """Void an invoice."""
        self.driven.void(serial)
        return self

    def take_back(self, event: str) -> Self:
        """Void an event."""
        self.driven.take_back(event)
        return self

    def upgrade(self, to: Plan) -> Self:
        """Change the plan now."""
        self.driven.upgrade(1, to)
        return self

    def downgrade(self, to: Plan) -> Self:
        """Change the plan at the end of the period."""
        self.driven.downgrade(1, to)
        return self

    def keep_plan(self) -> Self:
        """Take a scheduled change back."""
        self.driven.keep_plan(1)
        return self

    def pause(self) -> Self:
        """Pause."""
        self.driven.pause(1)
        return self

    def resume(self) -> Self:
        """End the pause."""
        self.driven.resume(1)
        return self

    def leave(self) -> Self:
        """Cancel at the end of the period."""
        self.driven.leave(1)
        return self

    def stay(self) -> Self:
        """Take that back."""
        self.driven.stay(1)
        return self

    def end_now(self) -> Self:
        """Cancel at once."""
        self.driven.end_now(1)
        return self

    # Reading

    def access(self, feature: str = "api") -> str:
        """Return `yes`, or why not."""
        answer = decide(self.driven.account, feature, self.driven.now)
        return "yes" if answer.allowed else answer.reason.value

    def balance(self) -> str:
        """Return the credits there are."""
        book = current(self.driven.account, self.driven.now).credits
        return plain(sum((pool.balance for pool in book.pools.values()), Decimal(0))) if book else "0"

    def day(self, moment: int) -> str:
        """Return the day of an instant, with the time unless that is midnight."""
        there = from_micros(moment).astimezone(ZoneInfo(self.zone))
        return there.strftime("%Y-%m-%d" if (there.hour, there.minute) == (0, 0) else "%Y-%m-%dT%H:%M")

    def invoices(self) -> list[str]:
        """Return all invoices as text, in order."""
        return [self.read(invoice) for invoice in self.driven.invoices.values()]

    def read(self, invoice: Invoice) -> str:
        """Return an invoice as text."""
        period = f"{self.day(invoice.period_start)}..{self.day(invoice.period_end)}"
        return f"{invoice.serial} {NAMES[invoice.kind]} {invoice.status} {period} {plain(invoice.amount)}"

    def invoice(self, serial: int) -> Invoice:
        """Return an invoice."""
        return self.driven.invoice(serial)

    def lines(self, serial: int) -> list[str]:
        """Return the lines of an invoice as text."""
        return [line_text(line) for line in self.invoice(serial).lines]


def line_text(line: Line) -> str:
    """Return a line as text."""
    parts = [line.kind, line.feature, "" if line.quantity is None else plain(line.quantity), plain(line.amount)]
    return " ".join(part for part in parts if part)
