"""Tables a person enjoys reading: what the demo's day came to."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from tallyd.cli.asking import table
from tallyd.cli.child import Child
from tallyd.cli.demo_books import Books, totals
from tallyd.cli.demo_credits import Scene
from tallyd.cli.demo_day import CUSTOMERS, LANES, Call, Day, Lane
from tallyd.cli.demo_show_months import Billing, show_months
from tallyd.cli.demo_tally import Comparison, Tally
from tallyd.model.moments import from_micros
from tallyd.model.money import tidy

_LANE_WORDS: Final = {"http": "HTTP", "socket": "Unix socket", "guarded": "ask, then use", "late": "afterwards"}

REFUSALS_SHOWN: Final = 7


class Verdict(msgspec.Struct, frozen=True, rename="camel"):
    """What `tallyd verify` said."""

    exit_code: int
    report: Any


class Outcome(msgspec.Struct, frozen=True):
    """Everything the demo found out."""

    books: Books
    tally: Tally
    scene: Scene
    billing: Billing
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
    console.print(_credits_table(outcome.scene))
    console.print(_refusals_table(tally))
    if books.unpriced:
        console.print(_unpriced_table(books))
    show_months(console, outcome.billing)
    console.print(_verdict_text(outcome.comparisons, outcome.verdict))


def _usage_table(books: Books) -> Table:
    headings = ("customer", "plan", "feature", ">used", ">limit", ">cost", ">revenue", ">margin")
    found = table(*headings, title="The first day: what was used, what it cost, what it earned (USD)")
    previous = None
    for line in books.lines:
        if not (line.used or line.cost or line.revenue or line.unpriced_events):
            continue
        if previous not in (None, line.customer):
            found.add_section()
        first = line.customer != previous
        previous = line.customer
        found.add_row(
            line.customer if first else "",
            (line.plan or "none") if first else "",
            line.feature,
            f"{line.used:,}",
            "∞" if line.limit is None and line.plan else _number(line.limit),
            _money(line.cost),
            _money(line.revenue),
            _margin(line.margin),
        )
    found.add_section()
    cost, revenue, margin = totals(books.lines)
    found.add_row("[bold]all", "", "", "", "", _money(cost), _money(revenue), _margin(margin))
    return found


def _credits_table(scene: Scene) -> Table:
    title = f"{scene.agents:,} agents of {scene.customer} reserve at once, before they call"
    found = table("credits", ">each", ">holds", ">together", title=title)
    each = _plain(scene.hold)
    found.add_row(f"available, {_plain(scene.bought)} of them just bought", "", "", _plain(scene.available))
    found.add_row("asked for", each, f"{scene.agents:,}", _plain(scene.agents * scene.hold))
    found.add_row("held: no more than there is", each, f"{scene.holds:,}", _plain(scene.held))
    found.add_row("settled at what was used", "", f"{scene.settled:,}", _plain(scene.used))
    found.add_row("came back", "", "", _plain(scene.came_back))
    found.add_section()
    found.add_row("[bold]balance in the end", "", "", f"[bold]{_plain(scene.balance)}")
    return found


def _plain(value: Decimal) -> str:
    return f"{tidy(value):,f}"


def _refusals_table(tally: Tally) -> Table:
    found = table("customer", "asked for", "~reason", ">times", title="What was refused, and why")
    refusals = sorted(tally.refusals.items(), key=lambda item: -item[1])
    for refusal, times in refusals[:REFUSALS_SHOWN]:
        reason = Text.assemble(refusal.code, (f": {refusal.words}", "dim"))
        found.add_row(refusal.customer, refusal.asked, reason, f"{times:,}")
    if len(refusals) > REFUSALS_SHOWN:
        found.caption = f"and {len(refusals) - REFUSALS_SHOWN} more kinds of nonsense; --json lists them"
    return found


def _unpriced_table(books: Books) -> Table:
    title = "Recorded without a price: never taken for free; priced by `tallyd rerate` once the catalog has one"
    found = table("customer", "model", "reason", ">events", title=title)
    for line in books.unpriced:
        found.add_row(line.customer, line.model, line.reason, f"{line.events:,}")
    return found


def _verdict_text(comparisons: list[Comparison], verdict: Verdict) -> Text:
    text = Text("\n")
    wrong = [each for each in comparisons if not each.same]
    if wrong:
        for each in wrong:
            text.append(f"✗ {each.what}: sent {each.sent:,}, the daemon has {each.counted:,}\n", "red")
    else:
        figures = len(comparisons)
        text.append("✓ ", "green")
        text.append(
            f"The daemon's {figures} totals, every invoice among them, are those of an independent recount.\n"
        )
    if verdict.exit_code:
        text.append(f"✗ tallyd verify: exit code {verdict.exit_code}: {verdict.report}", "red")
    else:
        text.append("✓ ", "green")
        text.append(f"The books balance: {_words(verdict.report)} recomputed by tallyd verify, no difference.")
    return text


def _words(report: Any) -> str:
    names = (
        "events",
        "charges",
        "counters",
        "rollups",
        "subscriptions",
        "invoices",
        "ledger_entries",
        "pools",
        "grants",
        "holds",
        "customers",
    )
    return ", ".join(f"{report[name]:,} {name.replace('_', ' ')}" for name in names if name in report)


def _number(value: Decimal | None) -> str:
    return "–" if value is None else f"{value:,}"  # noqa: RUF001 - a dash that stands for nothing


def _money(value: Decimal) -> str:
    """Write an amount for people: cents, or four decimals where it is less than one."""
    return f"{value:,.4f}" if 0 < abs(value) < 1 else f"{value:,.2f}"


def _margin(value: Decimal) -> str:
    return f"[{'red' if value < 0 else 'green'}]{_money(value)}[/]"


def show_try(console: Console, child: Child, key: str, directory: str) -> None:
    """Print lines to try on the daemon that keeps running."""
    console.print("\n[bold]It keeps running until Ctrl-C. Try:[/]\n")
    lines = (
        f"export U={child.http} K={key} S={child.socket}",
        *_lines_to_try(),
        f"tallyd check acme api --socket {child.socket}",
        f"tallyd invoices acme --socket {child.socket}",
        f"tallyd clock advance '1 month' --socket {child.socket}",
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
