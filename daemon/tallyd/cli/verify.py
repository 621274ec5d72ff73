"""`tallyd verify`: recompute the books from the events and compare."""

import sqlite3
import sys
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tallyd.cli.settings import settings_options
from tallyd.config import Config
from tallyd.pricing.registry import PluginError, Registry
from tallyd.store import sqlite
from tallyd.store.audit import AuditReport, audit

FINDINGS_SHOWN = 50


@click.command("verify")
@settings_options
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def command(config: Config, *, as_json: bool) -> None:
    """Recompute counters, charges, roll-ups, credits, subscriptions and invoices from the ledger, and compare.

    Reads the books of --data-dir, of a running daemon too, which is not held up. Exit code 1: something is wrong.
    """
    path = config.data_dir / sqlite.FILE_NAME
    if not path.is_file():
        raise click.ClickException(f"there are no books at {path}; say where they are with --data-dir")
    try:
        registry = Registry(inline=config.plugins.inline, disabled=config.plugins.disabled)
        report = _audit(path, registry)
    except (PluginError, sqlite3.Error) as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(msgspec.json.encode(report))
    else:
        _show(report)
    sys.exit(1 if report.findings else 0)


def _audit(path: Path, registry: Registry) -> AuditReport:
    connection = sqlite.open_reader(path)
    columns = (TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("events", total=None)
            return audit(
                connection,
                registry.models,
                lambda done, total: progress.update(task, completed=done, total=total),
            )
    finally:
        connection.close()


def _show(report: AuditReport) -> None:
    console = Console()
    read = (
        f"{report.events:,} events, {report.charges:,} charges, {report.counters:,} counters,"
        f" {report.rollups:,} roll-ups, {report.customers:,} ledgers"
    )
    if report.subscriptions or report.invoices:
        read += f", {report.subscriptions:,} subscriptions, {report.invoices:,} invoices"
    if report.ledger_entries or report.pools:
        read += (
            f", {report.ledger_entries:,} ledger entries, {report.pools:,} pools, {report.grants:,} grants,"
            f" {report.holds:,} holds"
        )
    if not report.findings:
        console.print(f"[green]The books balance:[/] {read} recomputed, no difference.")
        return
    table = Table(title=f"{len(report.findings):,} findings in {read}", title_justify="left")
    for heading in ("what", "where", "difference"):
        table.add_column(heading, overflow="fold")
    for finding in report.findings[:FINDINGS_SHOWN]:
        table.add_row(finding.kind, _printable(finding.where), _printable(finding.message))
    console.print(table)
    if len(report.findings) > FINDINGS_SHOWN:
        console.print(f"and {len(report.findings) - FINDINGS_SHOWN:,} more; --json lists all")


def _printable(text: str) -> Text:
    """Show what stands in damaged books as it is: neither markup nor anything that steers a terminal."""
    return Text("".join(each if each.isprintable() else ascii(each)[1:-1] for each in text))
