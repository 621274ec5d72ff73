"""What the demo's three months came to: what happened, the invoices, one of them in full with its explanation."""

from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from tallyd.cli.asking import table, text
from tallyd.cli.demo_months import LATE, Months
from tallyd.cli.demo_story import Chronicle, Invoice, Story
from tallyd.cli.explain import show_line
from tallyd.cli.invoices_show import list_table, show_invoice
from tallyd.model.invoice import InvoiceStatus, LineKind
from tallyd.model.moments import from_micros

SHOWN_EVENTS: Final = 3


class Billing(msgspec.Struct, frozen=True, kw_only=True):
    """What the three months have left behind.

    Attributes:
        months: what was to happen.
        chronicle: what did, and the invoices.
        shown: the invoice that is shown in full.
        line: its line about the late event, explained.
        page: where its page is.
    """

    months: Months
    chronicle: Chronicle
    shown: Invoice
    line: dict[str, Any]
    page: Path


def invoice_to_show(chronicle: Chronicle) -> tuple[Invoice, int]:
    """Return the invoice with the late event, and the place of its line, counted from 0."""
    for invoice in chronicle.of(LATE):
        for place, line in enumerate(invoice.get("items", [])):
            if line["kind"] == LineKind.LATE:
                return invoice, place
    raise AssertionError("the late event is on no invoice")


def watch_months(console: Console, story: Story) -> None:
    """Show the months passing by while they are lived."""
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
        TextColumn("days"),
        TextColumn("[dim]{task.fields[clock]}[/]"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("three months", total=len(story.months.days), clock="")
        story.live(lambda at: progress.update(task, advance=1, clock=f"{from_micros(at):%-d %B %Y}"))


def show_months(console: Console, billing: Billing) -> None:
    """Print everything."""
    console.print(_happenings_table(billing))
    console.print(_invoices_table(billing.chronicle))
    console.print(f"[bold]One of them in full[/]: a month in tiers, and an event that came late for {LATE}\n")
    show_invoice(console, billing.shown)
    console.print()
    show_line(console, billing.line)
    console.print(f"\nAs a page to send and to print: [bold]{billing.page}[/]", soft_wrap=True, highlight=False)


def _happenings_table(billing: Billing) -> Table:
    start, end = from_micros(billing.months.starts[0]), from_micros(billing.months.end)
    title = f"Three months on the daemon's test clock, {start:%Y-%m-%d} to {end:%Y-%m-%d}"
    found = table("date", "customer", "~what happened", title=title)
    for each in billing.chronicle.happenings:
        found.add_row(f"{from_micros(each.at):%Y-%m-%d %H:%M}", each.customer, text(each.words))
    return found


def _invoices_table(chronicle: Chronicle) -> Table:
    """Return the invoices that are of an amount, and say how many are not."""
    worth = [each for each in chronicle.invoices if each["amount"] or each["status"] == InvoiceStatus.PENDING]
    free = len(chronicle.invoices) - len(worth)
    found = list_table(worth, title="What was invoiced")
    found.caption = f"and {free} invoices of 0.00, paid as they were made: free plans, and what credits paid for"
    return found
