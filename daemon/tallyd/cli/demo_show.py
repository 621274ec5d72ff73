"""Tables a person enjoys reading: what the demo's day came to."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from tallyd.cli.child import Child
from tallyd.cli.demo_books import Books, totals
from tallyd.cli.demo_credits import Scene
from tallyd.cli.demo_day import CUSTOMERS, LANES, Call, Day, Lane
from tallyd.cli.demo_tally import Comparison, Tally
from tallyd.model.moments import from_micros
from tallyd.model.money import tidy

CENTS = 2

_LANE_WORDS: Final = {"http": "HTTP", "socket": "Unix socket", "guarded": "ask, then use", "late": "afterwards"}

_WORDY: Final = ("step", "reason")
"""Columns that may take several lines."""


class Verdict(msgspec.Struct, frozen=True, rename="camel"):
    """What `tallyd verify` said."""

    exit_code: int
    report: Any


class Outcome(msgspec.Struct, frozen=True):
    """Everything the demo found out."""

    books: Books
    tally: Tally
    scene: Scene
    comparisons: list[Comparison]
    verdict: Verdict
    seconds: float

    @property
    def good(self) -> bool:
        """Whether the counts agree and the books balance."""
        return self.verdict.exit_code == 0 and all(each.same for each in self.comparisons)


def watch(console: Console, day: Day, work: Callable[[Callable[[Lane, Call], None]], None]) -> None:
    """Show the day passing by while it is worked through."""
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
        TextColumn("requests"),
        TextColumn("[dim]{task.fields[clock]}[/]"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        lanes: tuple[Lane, ...] = (*LANES, "late")
        tasks = {lane: progress.add_task(_LANE_WORDS[lane], total=len(day.of(lane)), clock="") for lane in lanes}

        def on_call(lane: Lane, call: Call) -> None:
            progress.update(tasks[lane], advance=1, clock=f"{from_micros(call.at):%H:%M}")

        work(on_call)


def show(console: Console, outcome: Outcome) -> None:
    """Print everything."""
    books, tally = outcome.books, outcome.tally
    console.print(
        f"\n[bold]{tally.sent:,}[/] events and [bold]{tally.calls:,}[/] requests in {outcome.seconds:.1f} s:"
        f" {len(tally.recorded):,} recorded, each once; {tally.duplicates:,} duplicates ignored."
    )
    console.print(_usage_table(books))
    console.print(_explanations_table(books))
    console.print(_credits_table(outcome.scene))
    console.print(_refusals_table(tally))
    if books.unpriced:
        console.print(_unpriced_table(books))
    console.print(_verdict_text(outcome.comparisons, outcome.verdict))


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in headings:
        name = heading.strip(">")
        justify: Literal["left", "right"] = "right" if heading.startswith(">") else "left"
        table.add_column(name, justify=justify, no_wrap=name not in _WORDY, overflow="fold")
    return table


def _usage_table(books: Books) -> Table:
    headings = ("customer", "plan", "feature", ">used", ">limit", ">cost", ">revenue", ">margin")
    table = _table("What was used, what it cost, what it earned (USD)", *headings)
    previous = None
    for line in books.lines:
        if not (line.used or line.cost or line.revenue or line.unpriced_events):
            continue
        if previous not in (None, line.customer):
            table.add_section()
        first = line.customer != previous
        previous = line.customer
        table.add_row(
            line.customer if first else "",
            (line.plan or "none") if first else "",
            line.feature,
            f"{line.used:,}",
            "∞" if line.limit is None and line.plan else _number(line.limit),
            _money(line.cost),
            _money(line.revenue),
            _margin(line.margin),
        )
    table.add_section()
    cost, revenue, margin = totals(books.lines)
    table.add_row("[bold]all", "", "", "", "", _money(cost), _money(revenue), _margin(margin))
    return table


def _explanations_table(books: Books) -> Table:
    table = _table("How a charge comes about", "customer", "feature", "step", ">amount")
    for explained in books.explanations:
        if not explained.charge:
            continue
        for place, step in enumerate(explained.steps):
            amount = "no price" if "amount" not in step else _exact(Decimal(step["amount"]))
            names = ("", "") if place else (explained.customer, explained.feature)
            table.add_row(*names, step["description"], amount)
        table.add_row("", "", "together, exactly", _exact(explained.exact))
        table.add_row("", "", "[bold]charge, rounded once", f"[bold]{explained.charge:,.2f}", end_section=True)
    return table


def _credits_table(scene: Scene) -> Table:
    title = f"{scene.agents:,} agents of {scene.customer} reserve at once, before they call"
    table = _table(title, "credits", ">each", ">holds", ">together")
    each = _plain(scene.hold)
    table.add_row(f"available, {_plain(scene.bought)} of them just bought", "", "", _plain(scene.available))
    table.add_row("asked for", each, f"{scene.agents:,}", _plain(scene.agents * scene.hold))
    table.add_row("held: no more than there is", each, f"{scene.holds:,}", _plain(scene.held))
    table.add_row("settled at what was used", "", f"{scene.settled:,}", _plain(scene.used))
    table.add_row("came back", "", "", _plain(scene.came_back))
    table.add_section()
    table.add_row("[bold]balance in the end", "", "", f"[bold]{_plain(scene.balance)}")
    return table


def _plain(value: Decimal) -> str:
    return f"{tidy(value):,f}"


def _refusals_table(tally: Tally) -> Table:
    table = _table("What was refused, and why", "customer", "asked for", "reason", ">times")
    for refusal, times in sorted(tally.refusals.items(), key=lambda item: -item[1]):
        reason = Text.assemble(refusal.code, (f": {refusal.words}", "dim"))
        table.add_row(refusal.customer, refusal.asked, reason, f"{times:,}")
    return table


def _unpriced_table(books: Books) -> Table:
    title = "Recorded without a price: never taken for free; priced by `tallyd rerate` once the catalog has one"
    table = _table(title, "customer", "model", "reason", ">events")
    for line in books.unpriced:
        table.add_row(line.customer, line.model, line.reason, f"{line.events:,}")
    return table


def _verdict_text(comparisons: list[Comparison], verdict: Verdict) -> Text:
    text = Text("\n")
    wrong = [each for each in comparisons if not each.same]
    if wrong:
        for each in wrong:
            text.append(f"✗ {each.what}: sent {each.sent:,}, the daemon has {each.counted:,}\n", "red")
    else:
        figures = len(comparisons)
        text.append("✓ ", "green")
        text.append(f"The daemon's {figures} totals are those of an independent recount of what was sent.\n")
    if verdict.exit_code:
        text.append(f"✗ tallyd verify: exit code {verdict.exit_code}: {verdict.report}", "red")
    else:
        text.append("✓ ", "green")
        text.append(f"The books balance: {_words(verdict.report)} recomputed by tallyd verify, no difference.")
    return text


def _words(report: Any) -> str:
    names = ("events", "charges", "counters", "rollups", "credit_entries", "pools", "grants", "holds", "customers")
    return ", ".join(f"{report[name]:,} {name.replace('_', ' ')}" for name in names if name in report)


def _number(value: Decimal | None) -> str:
    return "–" if value is None else f"{value:,}"  # noqa: RUF001 - a dash that stands for nothing


def _money(value: Decimal) -> str:
    """Write an amount for people: cents, or four decimals where it is less than one."""
    return f"{value:,.4f}" if 0 < abs(value) < 1 else f"{value:,.2f}"


def _exact(value: Decimal) -> str:
    """Write an amount with every digit it has, and at least its cents."""
    digits = f"{tidy(value):,f}"
    return digits if len(digits.partition(".")[2]) > CENTS else f"{value:,.{CENTS}f}"


def _margin(value: Decimal) -> str:
    return f"[{'red' if value < 0 else 'green'}]{_money(value)}[/]"


def show_try(console: Console, child: Child, key: str, directory: str) -> None:
    """Print lines to try on the daemon that keeps running."""
    console.print("\n[bold]It keeps running until Ctrl-C. Try:[/]\n")
    lines = (
        f"export U={child.http} K={key} S={child.socket}",
        *_lines_to_try(),
        f"tallyd check acme api --socket {child.socket}",
        f"tallyd verify --data-dir {directory}",
    )
    for line in lines:
        copyable(console, line)


def show_keep(console: Console) -> None:
    """Print how to keep it running, and the lines to try then."""
    console.print("\n[bold]Keep it running, then try it by hand[/] (it prints U, K and S):\n")
    for line in ("tallyd demo --keep", *_lines_to_try()):
        copyable(console, line)


def _lines_to_try() -> tuple[str, ...]:
    names = ", ".join(customer.reference for customer in CUSTOMERS)
    check = (
        '{"jsonrpc":"2.0","id":1,"method":"check","params":{"customerReferenceId":"initech","featureKey":"api"}}'
    )
    event = '{"eventName":"api","eventIdempotencyKey":"mine-1","customerReferenceId":"acme","usageUnits":12}'
    return (
        f"# customers: {names}",
        'curl -s -H "Authorization: Bearer $K" $U/api/v1/client/customers/acme/charges',
        f"curl -s -H \"Authorization: Bearer $K\" $U/api/v1/client/events -d '{event}'   # twice: 409",
        f"echo '{check}' | nc -N -U $S",
    )


def copyable(console: Console, line: str) -> None:
    """Print a line as it is, so that it can be copied."""
    console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


__all__ = ["Outcome", "Verdict", "show", "show_keep", "show_try", "watch"]
