"""`tallyd explain`: why a line of an invoice is what it is, down to its events."""

from collections.abc import Iterable
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from tallyd.cli.asking import View, facts, json_option, say, table, talking, text
from tallyd.cli.client import Daemon, DaemonError
from tallyd.cli.credits_words import amount, minute, signed
from tallyd.cli.invoices import dated
from tallyd.cli.invoices_show import money, span, zone_of
from tallyd.model.problems import Code

ROWS: Final = 20
ROWS_MAX: Final = 500

_WHAT: Final = {"void": "taken back", "rerate": "priced"}


@click.command("explain")
@click.argument("invoice")
@click.argument("line", type=click.IntRange(1))
@click.option(
    "--limit", type=click.IntRange(1, ROWS_MAX), default=ROWS, show_default=True, help="At most so many events."
)
@click.option("--offset", type=click.IntRange(0), default=0, help="Leave out so many of the first.")
@json_option
@talking
def command(daemon: Daemon, invoice: str, line: int, limit: int, offset: int, as_json: bool) -> None:
    """Explain a LINE of an INVOICE: the price's steps and version, the events, what credits paid.

    Lines are counted from 1, as `tallyd invoices show` numbers them. Exit codes: 0 done, 1 refused, 2 used
    wrongly, 3 no daemon there. Times are UTC.
    """
    params = {"invoiceId": invoice, "line": line - 1, "limit": limit, "offset": offset}
    try:
        answer = daemon.call("invoices.explain", params)
    except DaemonError as error:
        if error.code == Code.NOT_FOUND and "line" in error.message:
            text_ = f"{invoice} has no line {line}; see them with `tallyd invoices show {invoice}`"
            raise click.ClickException(text_) from None
        raise
    if not as_json:
        dated(daemon, [answer["invoice"]])
    say(answer, as_json, show_line)


def show_line(console: Console, answer: View) -> None:
    """Show a line with all that it rests on."""
    line, invoice = answer["line"], answer["invoice"]
    currency, zone = invoice["currency"], zone_of(invoice)
    place = int(line["id"].rpartition("-")[2]) + 1
    console.print(text(f"Line {place} of {invoice['number']}: {line['description']}", "bold"))
    facts(console, [(name, text(words)) for name, words in _line_facts(answer, currency, zone)])
    events = answer.get("events")
    if events is not None:
        console.print(_events_table(events["items"], currency))
        left = events["pagination"]["total"] - events["pagination"]["offset"] - len(events["items"])
        if left > 0:
            console.print(f"  and {left:,} more; --limit and --offset show them")


def _line_facts(answer: View, currency: str, zone: str) -> Iterable[tuple[str, str]]:
    line = answer["line"]
    exact = money(line["exactAmount"], currency)
    rounded = money(line["chargeAmount"], currency)
    yield "for", span(line["periodStart"], line["periodEnd"], zone)
    for place, step in enumerate(line.get("steps", [])):
        price = money(step["amount"], currency) if "amount" in step else "no price yet"
        yield "" if place else "steps", f"{step['description']}: {price}"
    yield "amount", f"{rounded} {currency}" + ("" if exact == rounded else f", exactly {exact}")
    price_version = answer.get("price")
    if price_version is not None:
        yield "price", f"{price_version['planName']}, version {price_version['version']}"
    counter = answer.get("counter")
    if counter is not None:
        charged = money(counter["charged"], currency)
        beside = "" if len(counter["lines"]) == 1 else f", on {len(counter['lines'])} lines"
        yield (
            "events",
            f"{answer['events']['pagination']['total']:,}, together {charged}{beside}{_ledger(counter)}",
        )


def _ledger(counter: View) -> str:
    """Say which positions of the customer's ledger are billed, first and last included."""
    first, last = counter["positionFrom"], counter["positionTo"]
    if last < first:
        return ""
    return f"; ledger position {first:,}" if first == last else f"; ledger positions {first:,} to {last:,}"


def _events_table(rows: list[View], currency: str) -> Table:
    found = table("occurred", "recorded", "~event", ">units", "~", ">amount")
    for row in rows:
        found.add_row(
            minute(row["occurredAt"]),
            minute(row["recordedAt"]),
            text(row["eventIdempotencyKey"]),
            amount(row["usageUnits"]),
            text(_what(row)),
            money(row["amount"], currency) if "amount" in row else "no price yet",
        )
    return found


def _what(row: dict[str, Any]) -> str:
    """Say what else there is about a row: the model, what credits paid, why it was taken back."""
    told = [row["model"]] if "model" in row else []
    if row["kind"] in _WHAT:
        told.append(_WHAT[row["kind"]] + (f": {row['reason']}" if "reason" in row else ""))
    moved = [each["amount"] for each in row.get("credits", [])]
    if moved:
        told.append(f"{signed(sum(moved))} credits")
    return ", ".join(told)
