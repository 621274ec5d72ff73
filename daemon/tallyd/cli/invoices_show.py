"""Invoices for people to read: a list, one with its lines and steps, a line with all that it rests on.

Takes the daemon's answers as they are, with what `of_subscription` tells where it is known: the dates of an
invoice are in its time zone. Amounts have the digits that they have.
"""

from calendar import monthrange
from collections.abc import Iterable
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Final
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tallyd.cli.asking import View, facts, table, text
from tallyd.cli.credits_words import amount, printable
from tallyd.model.invoice import InvoiceKind, InvoiceStatus
from tallyd.model.moments import from_micros, parse_iso
from tallyd.model.money import currency_exponent

UTC: Final = "UTC"
MIDNIGHT: Final = time(0)

_STYLES: Final = {
    InvoiceStatus.PAID: "green",
    InvoiceStatus.DUE: "yellow",
    InvoiceStatus.PAST_DUE: "bold red",
    InvoiceStatus.PENDING: "dim",
    InvoiceStatus.VOID: "dim",
    InvoiceStatus.CANCELLED: "dim",
}
_TYPES: Final = {
    InvoiceKind.IN_ADVANCE_INITIAL: "first",
    InvoiceKind.IN_ADVANCE: "in advance",
    InvoiceKind.IN_ARREARS: "in arrears",
    InvoiceKind.ADJUSTMENT: "adjustment",
    InvoiceKind.CREDIT: "credit",
    InvoiceKind.FINAL: "final",
}
_TO_PAY: Final = (InvoiceStatus.DUE, InvoiceStatus.PAST_DUE)


# Words


def money(value: Decimal | int, currency: str) -> str:
    """Write an amount with the digits of its currency, and more when it has more."""
    digits, least = amount(value), currency_exponent(currency)
    return digits if len(digits.partition(".")[2]) > least else f"{value:,.{least}f}"


def local(instant: str, zone: str) -> datetime:
    """Return an instant as the clocks of a zone show it."""
    return from_micros(parse_iso(instant)).astimezone(ZoneInfo(zone))


def day(instant: str, zone: str) -> str:
    """Write an instant by its date in a zone; with the time where it is not midnight there."""
    moment = local(instant, zone)
    return f"{moment:%Y-%m-%d}" if moment.time() == MIDNIGHT else f"{moment:%Y-%m-%d %H:%M}"


def span(start: str, end: str, zone: str) -> str:
    """Write a period by its month, or first and last day in a zone; by its instants, if these are no midnights."""
    begins, ends = local(start, zone), local(end, zone)
    if begins.time() != MIDNIGHT or ends.time() != MIDNIGHT or begins == ends:
        return f"{day(start, zone)} until {day(end, zone)}"
    first, last = begins.date(), ends.date() - timedelta(days=1)
    if first.day == 1 and last == first.replace(day=monthrange(first.year, first.month)[1]):
        return f"{first:%b %Y}"
    return f"{first}" if first == last else f"{first} to {last}"


def zone_of(invoice: View) -> str:
    """Return the time zone in which an invoice is dated."""
    return str(invoice.get("timeZone", UTC))


def of_subscription(found: View) -> View:
    """Return what an invoice shows of its subscription."""
    shown = {"timeZone": found["timeZone"]}
    return {**shown, "subscriptionEndsAt": found["endsAt"]} if "endsAt" in found else shown


def status_text(status: str) -> Text:
    """Return a status in its colour."""
    return Text(status, _STYLES.get(InvoiceStatus(status), ""))


# The list


def show_list(console: Console, answer: View) -> None:
    """Show invoices, newest first."""
    items = answer["items"]
    if not items:
        console.print("there is no such invoice")
        return
    console.print(list_table(items, title=""))
    left = answer["pagination"]["total"] - len(items)
    if left > 0:
        console.print(f"{left:,} more; --limit and --offset show them")


def list_table(items: Iterable[View], *, title: str) -> Table:
    """Return invoices as a table."""
    found = table("number", "~customer", "type", "~for", "due", "status", ">amount", title=title, tight=True)
    for each in items:
        found.add_row(
            each["number"],
            text(each["customerReferenceId"]),
            _TYPES[each["type"]],
            span(each["periodStart"], each["periodEnd"], zone_of(each)),
            f"{local(each['dueDate'], zone_of(each)):%Y-%m-%d}",
            status_text(each["status"]),
            f"{money(each['amount'], each['currency'])} {each['currency']}",
        )
    return found


# One invoice


def show_invoice(console: Console, invoice: View) -> None:
    """Show an invoice with its lines and their steps."""
    name = f"Invoice {invoice['number']}" if "number" in invoice else "The next invoice, as it would be"
    console.print(Text.assemble((name, "bold"), ", ", status_text(invoice["status"])))
    facts(console, list(_invoice_facts(invoice)))
    if not invoice.get("items"):
        console.print("  Its period still runs; `tallyd invoices preview` shows what it will come to.")
        return
    console.print(_lines_table(invoice))


def _invoice_facts(invoice: View) -> Iterable[tuple[str, str | Text]]:
    zone = zone_of(invoice)
    if "customerReferenceId" in invoice:
        yield "customer", text(invoice["customerReferenceId"])
    yield "type", _TYPES[invoice["type"]]
    yield "for", f"{span(invoice['periodStart'], invoice['periodEnd'], zone)}, {zone}"
    yield "issued", day(invoice["issuedAt"], zone)
    if invoice["status"] in _TO_PAY:
        consequence = _consequence(invoice)
        yield "due", day(invoice["dueDate"], zone) + (f"; {consequence}" if consequence else "")
    elif "settledAt" in invoice:
        yield "paid" if invoice["status"] == InvoiceStatus.PAID else "closed", day(invoice["settledAt"], zone)
    yield "amount", f"{money(invoice['amount'], invoice['currency'])} {invoice['currency']}"


def _consequence(invoice: View) -> str:
    """Say what comes of not paying, where there is access to lose."""
    ends = invoice.get("subscriptionEndsAt")
    over = ends is not None and parse_iso(ends) <= parse_iso(invoice["overdueAt"])
    if invoice["type"] in (InvoiceKind.FINAL, InvoiceKind.CREDIT) or over:
        return ""
    if invoice["type"] == InvoiceKind.IN_ADVANCE_INITIAL:
        return "access begins when it is paid"
    if invoice["status"] == InvoiceStatus.PAST_DUE:
        return "no access until it is paid"
    return f"if unpaid, access ends on {day(invoice['overdueAt'], zone_of(invoice))}"


def _lines_table(invoice: View) -> Table:
    found = table(">line", "~what", ">quantity", ">unit price", ">amount")
    currency, zone = invoice["currency"], zone_of(invoice)
    own = span(invoice["periodStart"], invoice["periodEnd"], zone)
    for place, line in enumerate(invoice["items"], start=1):
        period = span(line["periodStart"], line["periodEnd"], zone)
        words = text(line["description"])
        if period != own:
            words.append(f"\n{period}", "dim")
        found.add_row(str(place), words, *_numbers(line, currency))
        for step in _steps(line):
            row = (money(step["amount"], currency) if "amount" in step else "no price yet",)
            found.add_row("", Text(f"  {printable(step['description'])}", "dim"), "", "", Text(*row, "dim"))
    found.add_section()
    found.add_row("", Text("total", "bold"), "", "", Text(money(invoice["amount"], currency), "bold"))
    return found


def _numbers(line: View, currency: str) -> tuple[str, str, str]:
    quantity = amount(line["quantity"]) if "quantity" in line else ""
    price = money(line["unitPrice"], currency) if "unitPrice" in line else ""
    return quantity, price, money(line["chargeAmount"], currency)


def _steps(line: View) -> list[View]:
    """Return the steps of a line; one that says no more than the line itself is left out."""
    steps: list[View] = line.get("steps", [])
    return steps if len(steps) > 1 or "unitPrice" not in line else []
