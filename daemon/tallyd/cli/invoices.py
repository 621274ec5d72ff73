"""`tallyd invoices`: see what is billed, mark it as paid, and have it as a page to send."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from tallyd.cli.asking import ListingGroup, View, json_option, say, sent, talking
from tallyd.cli.client import Daemon, DaemonError
from tallyd.cli.invoices_show import of_subscription, show_invoice, show_list
from tallyd.cli.subscriptions import subscription_of
from tallyd.model.invoice import InvoiceStatus

ROWS: Final = 50
ROWS_MAX: Final = 500


@click.group("invoices", cls=ListingGroup)
def command() -> None:
    """Show CUSTOMER's invoices; mark them as paid, void them, write them as pages.

    `tallyd invoices CUSTOMER` lists them. An invoice is named by its number, such as INV-000012-0003, or its id.
    Dates are those of the subscription's time zone. Exit codes: 0 done, 1 refused, 2 used wrongly, 3 no daemon
    there.
    """


@command.command("list")
@click.argument("customer", required=False)
@click.option(
    "--status",
    type=click.Choice([each.value for each in InvoiceStatus], case_sensitive=False),
    help="Only those that stand so.",
)
@click.option(
    "--limit", type=click.IntRange(1, ROWS_MAX), default=ROWS, show_default=True, help="At most so many."
)
@click.option("--offset", type=click.IntRange(0), default=0, help="Leave out so many of the newest.")
@json_option
@talking
def list_(
    daemon: Daemon, customer: str | None, status: str | None, limit: int, offset: int, as_json: bool
) -> None:
    """List CUSTOMER's invoices as they stand now, newest first; without CUSTOMER, everybody's as written."""
    params = sent(customerReferenceId=customer, status=status, limit=limit, offset=offset)
    answer = daemon.call("invoices.list", params)
    if customer is not None and not as_json:
        dated(daemon, answer["items"])
    say(answer, as_json, show_list)


@command.command("show")
@click.argument("invoice")
@json_option
@talking
def show(daemon: Daemon, invoice: str, as_json: bool) -> None:
    """Show an INVOICE with its lines, and the steps that make their amounts."""
    _say_one(daemon, daemon.call("invoices.get", {"invoiceId": invoice}), as_json)


@command.command("preview")
@click.argument("customer")
@click.option("--subscription", "chosen", metavar="ID", help="Which, where the customer has several.")
@json_option
@talking
def preview(daemon: Daemon, customer: str, chosen: str | None, as_json: bool) -> None:
    """Show CUSTOMER's next invoice as it would be if nothing more happened, made by the code that will make it."""
    number = subscription_of(daemon, customer, chosen)["id"]
    answer = daemon.call("invoices.preview", {"subscriptionId": number})
    if answer["invoice"] is not None and not as_json:
        dated(daemon, [answer["invoice"]])
    say(answer, as_json, _show_preview)


@command.command("paid")
@click.argument("invoice")
@json_option
@talking
def paid(daemon: Daemon, invoice: str, as_json: bool) -> None:
    """Mark an INVOICE as paid: access comes back with it. Harmless to repeat."""
    _say_one(daemon, daemon.call("invoices.markPaid", {"invoiceId": invoice}), as_json)


@command.command("void")
@click.argument("invoice")
@json_option
@talking
def void(daemon: Daemon, invoice: str, as_json: bool) -> None:
    """Void an INVOICE that is not paid; the usage on it goes on the next one."""
    _say_one(daemon, daemon.call("invoices.void", {"invoiceId": invoice}), as_json)


@command.command("page")
@click.argument("invoice")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to.  [default: its number with .html, here]",
)
@talking
def page(daemon: Daemon, invoice: str, output: Path | None) -> None:
    """Write an INVOICE as an HTML page to send and to print; say where it is."""
    html: str = daemon.call("invoices.page", {"invoiceId": invoice})["html"]
    path = output or Path(f"{daemon.call('invoices.get', {'invoiceId': invoice})['number']}.html")
    write_page(path, html)
    click.echo(path)


# Pieces


def dated(daemon: Daemon, invoices: Sequence[View]) -> None:
    """Put on invoices what matters of their subscriptions: the time zone they are dated in, and the end."""
    known: dict[str, View] = {}
    for customer in {each.get("customerReferenceId", "") for each in invoices}:
        try:
            found = daemon.call("subscriptions.list", {"customerReferenceId": customer})["items"]
        except DaemonError:  # the customer goes by another name than a reference
            continue
        known |= {each["id"]: each for each in found}
    for each in invoices:
        if each["subscription"]["id"] in known:
            each.update(of_subscription(known[each["subscription"]["id"]]))


def _say_one(daemon: Daemon, invoice: View, as_json: bool) -> None:
    if not as_json:
        dated(daemon, [invoice])
    say(invoice, as_json, show_whole)


def write_page(path: Path, html: str) -> None:
    """Write a page.

    Raises:
        ClickException: it cannot be written there.
    """
    try:
        path.write_text(html, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{error.strerror}: {path}; see --output") from None


def show_whole(console: Console, invoice: View) -> None:
    """Show an invoice, and what to do with it."""
    show_invoice(console, invoice)
    number = invoice["number"]
    if invoice.get("items"):
        console.print(f"  why a line is what it is: tallyd explain {number} LINE", markup=False)
    if invoice["status"] in (InvoiceStatus.DUE, InvoiceStatus.PAST_DUE):
        console.print(f"  once the money is there:  tallyd invoices paid {number}", markup=False)


def _show_preview(console: Console, answer: View) -> None:
    invoice = answer["invoice"]
    if invoice is None:
        console.print(
            "No invoice will come as things stand: what is due is to be paid first, or the subscription ends."
        )
        return
    show_invoice(console, invoice)
