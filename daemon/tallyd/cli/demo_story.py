"""Living the demo's three months on the daemon's test clock: usage, payments, an upgrade, a late event."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Final

import msgspec

from tallyd.cli.client import Daemon
from tallyd.cli.credits_words import amount
from tallyd.cli.demo_day import CUSTOMERS
from tallyd.cli.demo_months import FORGETFUL, LATE, PREPAID, UPGRADED_TO, UPGRADER, Months, Today
from tallyd.cli.demo_tally import Tally
from tallyd.model.invoice import LineKind
from tallyd.model.moments import iso, parse_iso

API: Final = "api"
PAGE: Final = 100

Invoice = dict[str, Any]
OnDay = Callable[[int], None]


class Happening(msgspec.Struct, frozen=True):
    """Something that happened: when (microseconds UTC), to whom, and in words."""

    at: int
    customer: str
    words: str


class Access(msgspec.Struct, frozen=True):
    """What a check must answer at a point of the story, and what it did answer."""

    customer: str
    when: str
    expected: bool
    allowed: bool
    reason: str


class Arrival(msgspec.Struct, frozen=True):
    """An event in the books, what it cost, and when it came: microseconds UTC."""

    body: dict[str, Any]
    cost: Decimal | None
    at: int


def covered(invoice: Invoice) -> Decimal:
    """Return the units on an invoice that credits have paid for."""
    lines = [line["quantity"] for line in invoice.get("items", []) if line["kind"] == LineKind.COVERED]
    return sum(map(Decimal, lines), Decimal(0))


class Chronicle(msgspec.Struct, kw_only=True):
    """What came of the three months.

    Attributes:
        happenings: in the order of their time.
        access: checks on the way.
        arrivals: every event in the books, the first day's too.
        invoices: all invoices in the end, with their lines, by customer and oldest first.
        upgraded_at: microseconds UTC; None before it.
    """

    happenings: list[Happening] = []
    access: list[Access] = []
    arrivals: list[Arrival] = []
    invoices: list[Invoice] = []
    upgraded_at: int | None = None

    def of(self, customer: str) -> list[Invoice]:
        """Return a customer's invoices, oldest first."""
        return [each for each in self.invoices if each["customerReferenceId"] == customer]


class Story:
    """Lives through the months, and writes down what the daemon answers.

    Args:
        daemon: to talk to.
        months: what happens.
        tally: takes the answers to events.
    """

    def __init__(self, daemon: Daemon, months: Months, tally: Tally) -> None:
        self._daemon = daemon
        self.months = months
        self._tally = tally
        self.chronicle = Chronicle()

    def begin(self, at: int) -> None:
        """Pay the first invoice: there is no access before that."""
        (first,) = self._to_pay(UPGRADER)
        self._check(UPGRADER, "before its first invoice is paid", expected=False)
        self._note(at, UPGRADER, f"starts; {first['number']} over {_money(first)} is due: no access yet")
        self._pay(at, UPGRADER, first)
        self._check(UPGRADER, "once it is paid", expected=True)

    def remember(self, at: int) -> None:
        """Take over the events that the tally has counted by an instant."""
        tally = self._tally
        self.chronicle.arrivals += [
            Arrival(body, tally.costs.get(key), at) for key, body in tally.recorded.items()
        ]

    def live(self, on_day: OnDay) -> None:
        """Let the months pass, and leave the clock at their end."""
        acts: list[tuple[int, Callable[[int], None]]] = [
            (self.months.late_at, self._late),
            (self.months.upgrade_at, self._upgrade),
            (self.months.forgotten_at, self._remembered),
            *((at, self._pay_all) for at in self.months.pays_at),
            *((day.at, self._day_of(day, on_day)) for day in self.months.days),
        ]
        for at, act in sorted(acts, key=lambda each: each[0]):
            self._advance(at)
            act(at)
        self._advance(self.months.end)
        self.chronicle.invoices = list(self._all_invoices())
        self._note_invoices()
        self.chronicle.happenings.sort(key=lambda each: each.at)

    # What happens

    def _day_of(self, day: Today, on_day: OnDay) -> Callable[[int], None]:
        def act(at: int) -> None:
            asked = {self._daemon.send("ingest", {"events": batch}): batch for batch in day.batches}
            self._tally.calls += len(asked)
            for _ in day.batches:
                answer = self._daemon.receive()
                assert answer.error is None, f"events of {iso(at)}: {answer.error}"
                assert answer.id is not None, "it answers what was asked"
                self._take(asked[answer.id], answer.result["results"], at)
            on_day(at)

        return act

    def _pay_all(self, at: int) -> None:
        for customer in CUSTOMERS:
            if customer.plan is None or (customer.reference == FORGETFUL and at == self.months.pays_at[0]):
                continue
            for invoice in self._to_pay(customer.reference):
                self._pay(at, customer.reference, invoice)

    def _late(self, at: int) -> None:
        body = self.months.late
        self._take([body], self._daemon.call("ingest", {"events": [body]})["results"], at)
        self._note(at, LATE, f"an event of {body['occurredAt'][:10]} comes late: its month is invoiced")

    def _remembered(self, at: int) -> None:
        (late,) = self._to_pay(FORGETFUL)
        assert late["status"] == "PAST_DUE", late
        overdue = late["overdueAt"]
        self._check(FORGETFUL, "while an invoice is past due", expected=False)
        self._note(
            parse_iso(overdue), FORGETFUL, f"{late['number']} is past due, the grace days are over: no access"
        )
        self._pay(at, FORGETFUL, late)
        self._check(FORGETFUL, "once it is paid", expected=True)

    def _upgrade(self, at: int) -> None:
        (found,) = self._daemon.call("subscriptions.list", {"customerReferenceId": UPGRADER})["items"]
        change = {"subscriptionId": found["id"], "changeToPlanId": UPGRADED_TO, "changeType": "UPGRADE"}
        self._daemon.call("subscriptions.changePlan", change)
        self.chronicle.upgraded_at = at
        invoice = self._to_pay(UPGRADER)[-1]
        words = f"upgrades to {UPGRADED_TO} in the middle of the month: {_money(invoice)}, prorated"
        self._note(at, UPGRADER, words)
        self._pay(at, UPGRADER, invoice)

    # Pieces

    def _advance(self, to: int) -> None:
        self._daemon.call("clocks.advance", {"to": iso(to)})

    def _take(self, bodies: list[dict[str, Any]], results: list[dict[str, Any]], at: int) -> None:
        for body, result in zip(bodies, results, strict=True):
            self._tally.take(body, result)
            if result["status"] == "created":
                self.chronicle.arrivals.append(Arrival(body, result.get("costAmount"), at))

    def _check(self, customer: str, when: str, *, expected: bool) -> None:
        answer = self._daemon.call("check", {"customerReferenceId": customer, "featureKey": API})
        reason = answer["meta"]["reason"]["code"]
        self.chronicle.access.append(Access(customer, when, expected, answer["allowed"], reason))

    def _to_pay(self, customer: str) -> list[Invoice]:
        """Return what a customer has to pay, oldest first."""
        found = self._invoices(customer)
        return [each for each in found if each["status"] in ("DUE", "PAST_DUE")]

    def _pay(self, at: int, customer: str, invoice: Invoice) -> None:
        paid = self._daemon.call("invoices.markPaid", {"invoiceId": invoice["id"]})
        back = ", access comes back" if invoice["status"] == "PAST_DUE" else ""
        self._note(at, customer, f"pays {paid['number']}, {_money(paid)}{back}")

    def _invoices(self, customer: str) -> list[Invoice]:
        answer = self._daemon.call("invoices.list", {"customerReferenceId": customer, "limit": PAGE})
        return list(reversed(answer["items"]))

    def _all_invoices(self) -> Iterator[Invoice]:
        for customer in CUSTOMERS:
            if customer.plan is not None:
                for each in self._invoices(customer.reference):
                    whole = self._daemon.call("invoices.get", {"invoiceId": each["id"]})
                    yield {**whole, "customerReferenceId": customer.reference}

    def _note_invoices(self) -> None:
        """Say what the beginnings of months have made."""
        for start in self.months.starts[1:]:
            made = [
                f"{each['customerReferenceId']} {_money(each)}"
                for each in self.chronicle.invoices
                if each["amount"]
                and each["type"] in ("IN_ADVANCE", "IN_ARREARS")
                and each["dueDate"] == iso(start)
            ]
            self._note(start, "", f"the month is over, invoiced: {', '.join(made)}")
        for invoice in self.chronicle.of(PREPAID)[1:]:
            answers = amount(covered(invoice))
            words = f"credits paid for the month's {answers} answers: {_money(invoice)} on its invoice"
            self._note(parse_iso(invoice["dueDate"]), PREPAID, words)

    def _note(self, at: int, customer: str, words: str) -> None:
        self.chronicle.happenings.append(Happening(at, customer, words))


def _money(invoice: Invoice) -> str:
    return f"{invoice['amount']:,.2f} {invoice['currency']}"
