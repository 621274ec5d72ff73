"""`tallyd events`: take a wrong event back, or put a right one in its place."""

from typing import Any, Final

import click
import msgspec
from rich.console import Console

from tallyd.cli.asking import View, facts, json_option, say, talking, text
from tallyd.cli.client import Daemon
from tallyd.cli.credits_words import amount

_decode: Final = msgspec.json.Decoder(msgspec.Raw).decode


@click.group("events")
def command() -> None:
    """Correct what was reported wrongly: the event and its correction both stay in the books.

    Counters, charges, credits and the invoice that is still open follow; a closed invoice is never rewritten, the
    next one adjusts. Exit codes: 0 done, 1 refused, 2 used wrongly, 3 no daemon there.
    """


_reason_option = click.option(
    "--reason", metavar="TEXT", required=True, help="Why; it is kept beside the event, and explained with it."
)


@command.command("void")
@click.argument("event_id")
@_reason_option
@json_option
@talking
def void(daemon: Daemon, event_id: str, reason: str, as_json: bool) -> None:
    """Take the event EVENT_ID back, once: nothing of it counts any more."""
    say(daemon.call("events.void", {"eventId": event_id, "reason": reason}), as_json, _show)


def read_field(pair: str) -> tuple[str, Any]:
    """Read `field=value`: the value is JSON where it reads as that, else text.

    Raises:
        BadParameter: it is no pair.
    """
    name, equals, value = pair.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{pair!r} is no FIELD=VALUE; write it as usageUnits=3")
    try:
        return name, _decode(value)
    except msgspec.DecodeError:
        return name, value


@command.command("amend")
@click.argument("event_id")
@click.option(
    "--set",
    "fields",
    metavar="FIELD=VALUE",
    multiple=True,
    required=True,
    type=read_field,
    help="A field as it should have been, such as usageUnits=3; the others stay. null takes one out.",
)
@_reason_option
@json_option
@talking
def amend(daemon: Daemon, event_id: str, fields: tuple[tuple[str, Any], ...], reason: str, as_json: bool) -> None:
    """Take the event EVENT_ID back and record another in its place, both or neither."""
    params = {"eventId": event_id, "reason": reason, "event": dict(fields)}
    say(daemon.call("events.amend", params), as_json, _show)


def _show(console: Console, answer: View) -> None:
    console.print(text(f"taken back: event {answer['eventId']}"))
    rows = [("position", f"{answer['position']} in the customer's ledger")]
    new = answer.get("event")
    if new is not None:
        rows += [("in its place", new["eventId"]), ("units", amount(new["usageUnits"]))]
        rows += [(name, amount(new[field])) for name, field in _AMOUNTS if field in new]
    facts(console, rows)


_AMOUNTS: Final = (("cost", "costAmount"), ("charge", "revenueAmount"), ("credits", "creditsDeducted"))
