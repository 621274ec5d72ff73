"""`tallyd what-if`: what a time that has been would have come to under another plan."""

import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tallyd.api import whatif
from tallyd.cli.settings import read_settings
from tallyd.cli.whatif_report import JsonReport, Report, TableReport
from tallyd.clock import Clocks, SystemClock
from tallyd.config import Config
from tallyd.engine.catalog import CatalogError, Models, price_plan
from tallyd.engine.rating import PricedPlan
from tallyd.model.problems import ProblemError
from tallyd.pricing.registry import PluginError, Registry
from tallyd.store import sqlite
from tallyd.store import whatif as books
from tallyd.store.accounts import load_test_clocks
from tallyd.store.catalog_rows import load_catalog
from tallyd.store.schema import MIGRATIONS

NOT_ALL = 4
"""Answered, but the amount under the target leaves usage out: unpriced, free, not counted, or past a limit."""

_OPTIONS = {"planKey": "--plan", "onPlanKey": "--on", "month": "--month", "start": "--start", "end": "--end"}
_USED_WRONGLY = ("month", "start", "end")


@click.command("what-if")
@click.option("--plan", "plan_key", required=True, metavar="KEY[@VERSION]", help="The target: its newest version.")
@click.option("--month", metavar="YYYY-MM", help="The range: a month, where each subscriber lives.")
@click.option("--start", metavar="TIME", help="Or its beginning: a date, or a time with a zone.")
@click.option("--end", metavar="TIME", help="And its end, which is not in it.")
@click.option("--customer", "customers", metavar="ID", multiple=True, help="Who; may be repeated.  [default: all]")
@click.option("--on", "on_plan", metavar="KEY", help="Only subscriptions that were on this plan.")
@click.option(
    "--catalog",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A catalog that is not in force, with the plan in it; it is read, and not kept.",
)
@click.option("--rows", default=50, show_default=True, metavar="N", help="Show the N largest differences; 0: all.")
@click.option("--json", "as_json", is_flag=True, help="For programs: everybody, with all digits.")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="TALLYD_CONFIG_FILE",
    help="Settings, TOML; see config/tallyd.toml.",
)
@click.option("--data-dir", help="Where the books are.  [default: ./data]")
def command(
    *,
    plan_key: str,
    month: str | None,
    start: str | None,
    end: str | None,
    customers: tuple[str, ...],
    on_plan: str | None,
    catalog: Path | None,
    rows: int,
    as_json: bool,
    config_file: Path | None,
    data_dir: str | None,
) -> None:
    """Say what a month would have been under another plan, for each customer and in total.

    The billing periods that begin in the range are counted and priced again from their events, before credits.
    Nothing is changed: the books of --data-dir are read, of a running daemon too, which is not held up.

    Exit code 0: answered. 1: not answered. 2: used wrongly. 4: answered, but under the plan some usage has no
    price, is not counted, or was past a limit: the notes say which.
    """
    config = read_settings(config_file, {"store.data_dir": data_dir})
    with _reported(), _open(config) as connection:
        models = Registry(inline=config.plugins.inline, disabled=config.plugins.disabled).models
        plans = BookPlans(connection, models)
        if on_plan is not None:
            whatif.check_plan(on_plan, plans)
        question = books.Question(
            target=_target(plan_key, catalog, plans, models),
            span=whatif.read_span(month, start, end),
            zone=config.account.timezone,
            on=on_plan,
            customers=customers,
        )
        clocks = Clocks(SystemClock(), load_test_clocks(connection))
        with _progress() as progress:
            what_if = books.WhatIf(connection, question, plans=plans, now_of=clocks.of, progress=progress)
            report: Report = JsonReport(question) if as_json else TableReport(question, month, rows)
            report.take(what_if.run())
    report.finish()
    sys.exit(NOT_ALL if report.total.loud else 0)


@contextmanager
def _reported() -> Iterator[None]:
    """Say what went wrong in the words of the command line."""
    try:
        yield
    except ProblemError as error:
        problem = error.problem
        option = _OPTIONS.get(problem.field or "")
        text = problem.sentence() if option is None else f"{option}: {problem.message}"
        raise (click.UsageError if problem.field in _USED_WRONGLY else click.ClickException)(text) from None
    except (CatalogError, PluginError, sqlite3.Error) as error:
        raise click.ClickException(str(error)) from None


@contextmanager
def _open(config: Config) -> Iterator[sqlite3.Connection]:
    path = config.data_dir / sqlite.FILE_NAME
    if not path.is_file():
        raise click.ClickException(f"there are no books at {path}; say where they are with --data-dir")
    connection = sqlite.open_reader(path)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != len(MIGRATIONS):
            advice = "start `tallyd serve` on them once" if version < len(MIGRATIONS) else "run a newer tallyd"
            text = f"the books at {path} have version {version}, this tallyd reads {len(MIGRATIONS)}; {advice}"
            raise click.ClickException(text)
        yield connection
    finally:
        connection.close()


class BookPlans(dict[tuple[str, int], PricedPlan]):
    """All versions of all plans in the books; what a daemon has added meanwhile is read when it is asked for."""

    def __init__(self, connection: sqlite3.Connection, models: Models) -> None:
        super().__init__()
        self._connection = connection
        self._models = models
        self._load()

    def __missing__(self, version: tuple[str, int]) -> PricedPlan:
        self._load()
        found = self.get(version)
        if found is None:
            raise KeyError(version)
        return found

    def _load(self) -> None:
        for each in load_catalog(self._connection).plans:
            if (each.key, each.version) not in self:
                meters = {meter.key: meter for meter in each.meters}
                self[each.key, each.version] = price_plan(each.plan, each.version, meters, self._models)


def _target(key: str, catalog: Path | None, plans: books.Plans, models: Models) -> PricedPlan:
    if catalog is None:
        return whatif.find_target(key, plans)
    try:
        text = catalog.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"--catalog: {catalog} cannot be read: {error}") from None
    return whatif.target_of(text, str(catalog), key, models)


@contextmanager
def _progress() -> Iterator[Callable[[books.Progress], None]]:
    """Show how far it has come, on a terminal: customers, and within a customer its events."""
    columns = (
        TextColumn("pricing again"),
        BarColumn(),
        TextColumn("{task.fields[where]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("customers", total=None, where="")

        def show(progress: books.Progress) -> None:
            part = progress.events / progress.events_all if progress.events_all else 0
            where = f"{progress.customers:,}/{progress.customers_all:,} customers"
            if progress.events:
                where += f", {progress.events:,}/{progress.events_all:,} events of the next"
            bar.update(task, completed=progress.customers + part, total=progress.customers_all, where=where)

        yield show
