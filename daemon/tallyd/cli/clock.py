"""`tallyd clock`: simulated time. A customer, or the whole daemon, on a clock that stands until it is moved."""

import re
from collections.abc import Callable
from functools import wraps
from typing import Any, Final

import click
from rich.console import Console
from rich.text import Text

from tallyd.cli.asking import View, json_option, say, sent, table, talking, text
from tallyd.cli.client import Daemon
from tallyd.cli.credits import read_moment
from tallyd.cli.credits_words import amount, minute, words
from tallyd.cli.invoices import dated
from tallyd.cli.invoices_show import list_table
from tallyd.model.moments import DAY_US, HOUR_US, MINUTE_US, iso, parse_iso
from tallyd.model.periods import MONTHS_A_YEAR, add_months

ROWS: Final = 100
"""Invoices and transactions looked at to say what has happened."""

_SPAN: Final = re.compile(r"(?P<count>\d{1,5}) ?(?P<unit>minute|hour|day|week|month|year|min|mo|[hdwy])s?")
_LENGTHS_US: Final = {
    "minute": MINUTE_US,
    "min": MINUTE_US,
    "hour": HOUR_US,
    "h": HOUR_US,
    "day": DAY_US,
    "d": DAY_US,
    "week": 7 * DAY_US,
    "w": 7 * DAY_US,
}
_MONTHS: Final = {"month": 1, "mo": 1, "year": MONTHS_A_YEAR, "y": MONTHS_A_YEAR}

Move = Callable[[int], int]
"""From where a clock stands to where it shall stand: microseconds UTC."""


@click.group("clock")
def command() -> None:
    """Live through months in seconds: a CUSTOMER, or the whole daemon, on a clock that stands until it is moved.

    Whatever a real month would do is done on the way, in order: periods, invoices, credits, grace days. Time never
    runs back. For trying things out, with customers of their own or on books of their own. Exit codes: 0 done,
    1 refused, 2 used wrongly, 3 no daemon there. Times are UTC.
    """


def read_move(spoken: str) -> Move:
    """Read how far a clock is moved: by `3d`, `12h`, `2 weeks`, `1 month`, `1y`, or to an instant or a date.

    Months end on the day they began on, or the month's last.

    Raises:
        BadParameter: it is none of these.
    """
    span = _SPAN.fullmatch(spoken.strip().lower())
    if span is None:
        to = parse_iso(_instant(spoken))
        return lambda _stands: to
    count, unit = int(span["count"]), span["unit"]
    if unit in _MONTHS:
        return lambda stands: add_months(stands, count * _MONTHS[unit])
    return lambda stands: stands + count * _LENGTHS_US[unit]


def _instant(spoken: str) -> str:
    try:
        return read_moment(spoken)
    except click.BadParameter:
        problem = (
            f"{spoken!r} is no time to move by or to; write 3d, 12h, '1 month', 2026-12-31 or 2026-12-31T12:00Z"
        )
        raise click.BadParameter(problem) from None


def _whose_option(command_: Callable[..., None]) -> Callable[..., None]:
    """Give a command a `customer`; None is the whole daemon, which has to be said."""

    @wraps(command_)
    def chosen(*, customer: str | None, whole: bool, **arguments: Any) -> None:
        if whole == (customer is not None):
            raise click.UsageError(
                "say whose clock: --customer CUSTOMER, or --daemon for everybody's; one of them"
            )
        command_(customer=customer, **arguments)

    wrapped: Callable[..., None] = click.option("--customer", metavar="CUSTOMER", help="Whose clock.")(chosen)
    whole_option = click.option(
        "--daemon", "whole", is_flag=True, help="The clock of the whole daemon: everybody's."
    )
    return whole_option(wrapped)


@command.command("set")
@click.argument("now", type=read_moment)
@json_option
@_whose_option
@talking
def set_(daemon: Daemon, now: str, customer: str | None, as_json: bool) -> None:
    """Let time stand at NOW: 2026-12-01, 2026-12-01T09:00Z. In the past only where nothing has happened yet."""
    say(daemon.call("clocks.set", sent(customerReferenceId=customer, now=now)), as_json, _show_clock)


@command.command("advance")
@click.argument("by", type=read_move, metavar="BY|TO")
@json_option
@_whose_option
@talking
def advance(daemon: Daemon, by: Move, customer: str | None, as_json: bool) -> None:
    """Move a clock that stands: by 3d, 12h, '1 month', or to 2026-12-31; show what happens on the way."""
    stands = _standing(daemon, customer)
    params = sent(customerReferenceId=customer, to=iso(by(parse_iso(stands))))
    answer = daemon.call("clocks.advance", params)
    if not as_json:
        answer = {**answer, "from": stands, **_happened(daemon, customer, stands)}
    say(answer, as_json, _show_advanced)


@command.command("show")
@json_option
@talking
def show(daemon: Daemon, as_json: bool) -> None:
    """Show the clocks that stand."""
    say(daemon.call("clocks.get"), as_json, _show_clocks)


@command.command("end")
@json_option
@_whose_option
@talking
def end(daemon: Daemon, customer: str | None, as_json: bool) -> None:
    """Let time run again; not while the clock is ahead of it, as what has happened has happened."""
    say(daemon.call("clocks.end", sent(customerReferenceId=customer)), as_json, _show_ended)


# What happened


def _standing(daemon: Daemon, customer: str | None) -> str:
    """Return where a clock stands.

    Raises:
        ClickException: there is no such clock.
    """
    for each in daemon.call("clocks.get")["items"]:
        if each.get("customerReferenceId") == customer and (customer is not None or each["clock"] == "daemon"):
            return str(each["now"])
    whose = "the daemon" if customer is None else repr(customer)
    option = " --daemon" if customer is None else f" --customer {customer}"
    raise click.ClickException(f"{whose} is on no test clock; set one with `tallyd clock set NOW{option}`")


def _happened(daemon: Daemon, customer: str | None, since: str) -> dict[str, Any]:
    """Return the invoices that were made, closed or fell overdue after an instant, and the credits that moved."""
    begins = parse_iso(since)
    page = daemon.call("invoices.list", sent(customerReferenceId=customer, limit=ROWS))
    invoices = [each for each in page["items"] if _touched(each, begins)]
    dated(daemon, invoices)
    return {
        "invoices": list(reversed(invoices)),
        "credits": [] if customer is None else list(reversed(_transactions(daemon, customer, begins))),
    }


def _touched(invoice: View, since: int) -> bool:
    moments = [invoice[name] for name in ("createdAt", "modifiedAt")]
    if invoice["status"] != "PENDING":
        moments.append(invoice["dueDate"])
    if invoice["status"] == "PAST_DUE":
        moments.append(invoice["overdueAt"])
    return any(parse_iso(each) > since for each in moments)


def _transactions(daemon: Daemon, customer: str, since: int) -> list[View]:
    found = []
    for pool in daemon.call("balance", {"customerReferenceId": customer})["pools"]:
        params = {"customerReferenceId": customer, "poolId": pool["id"], "limit": ROWS, "offset": 0}
        rows = daemon.call("credits.statement", params)["items"]
        found += [{**row, "pool": pool["name"]} for row in rows if parse_iso(row["createdAt"]) > since]
    return found


# Showing


def _whose(clock: View) -> str:
    named = clock.get("customerReferenceId") or clock.get("customerId")
    return "the daemon" if named is None else f"customer {named}"


def _show_clock(console: Console, clock: View) -> None:
    console.print(text(f"time stands at {minute(clock['now'])} UTC for {_whose(clock)}{_next(clock)}"))


def _next(clock: View) -> str:
    return f"; something falls due at {minute(clock['nextDueAt'])}" if "nextDueAt" in clock else ""


def _show_advanced(console: Console, answer: View) -> None:
    _show_clock(console, answer)
    if answer["invoices"]:
        console.print(list_table(answer["invoices"], title=f"Invoices since {minute(answer['from'])}"))
    if answer["credits"]:
        found = table("date", "pool", "what", ">amount", ">balance", title="Credits")
        for row in answer["credits"]:
            moved = (amount(row["amount"]), amount(row["balanceAfter"]))
            found.add_row(minute(row["createdAt"]), text(row["pool"]), text(words(row)), *moved)
        console.print(found)


def _show_clocks(console: Console, answer: View) -> None:
    if not answer["items"]:
        console.print("no clock stands: time runs for everybody")
        return
    found = table("whose", "stands at", "next due")
    for each in answer["items"]:
        due = minute(each["nextDueAt"]) if "nextDueAt" in each else ""
        found.add_row(text(_whose(each)), minute(each["now"]), due)
    console.print(found)


def _show_ended(console: Console, answer: View) -> None:
    console.print(Text(f"time runs again: it is {minute(answer['now'])} UTC"))
