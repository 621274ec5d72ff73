"""Run the benchmarks: `python tests/bench/run.py [NAMES...] [--quick]`. See README.md beside this file."""

import tempfile
import time
from importlib import import_module
from pathlib import Path

import click
from lib_report import BenchError, Row, machine
from rich.console import Console
from rich.table import Table

NAMES = ("check", "ingest", "consume", "credits", "single", "http", "resident", "renewals")
COLUMNS = ("what", "tallyd", "baseline of this run", "ratio (quartiles)", "budget", "")


@click.command(help="Measure the budgets as ratios to bare programs of the same run.")
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--quick", is_flag=True, help="Fewer rounds: under a minute in all.")
@click.option("--dir", "place", type=click.Path(file_okay=False, exists=True), help="Where the files go.")
def main(names: tuple[str, ...], place: str | None, *, quick: bool) -> None:
    """Run what was named, or all."""
    console = Console(highlight=False)
    console.width = max(console.width, 160) if console.is_terminal else 170
    with tempfile.TemporaryDirectory(prefix="tallyd-bench-", dir=place) as scratch:
        console.print(machine(Path(scratch)))
        for name in names or NAMES:
            measure(console, name, Path(scratch) / name, quick=quick)


def measure(console: Console, name: str, scratch: Path, *, quick: bool) -> None:
    """Run one benchmark and print its rows."""
    scratch.mkdir()
    started = time.monotonic()
    rows: list[Row] = []
    try:
        rows.extend(import_module(f"bench_{name}").run(scratch, quick=quick))
    except BenchError as error:
        rows.append(Row(what=name, measured="failed", note=str(error)))
    table = Table(title=f"{name} ({time.monotonic() - started:.0f} s)", title_justify="left", pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for row in rows:
        verdict = {True: "met", False: "MISSED", None: ""}[row.met]
        table.add_row(row.what, row.measured, row.baseline, row.ratio, row.budget, verdict)
    console.print(table)
    for row in rows:
        if row.note:
            console.print(f"[dim]{row.what.strip()}: {row.note}[/dim]")
    console.print()


if __name__ == "__main__":
    main()
