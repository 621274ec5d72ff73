"""What commands that ask the daemon share: the connection, `--json`, tables, and groups that list by default."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Final, Literal

import click
import msgspec
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from tallyd.cli.client import DaemonError, advised, daemon_of
from tallyd.cli.credits_words import printable
from tallyd.cli.settings import settings_options
from tallyd.config import Config

WIDTH_PIPED: Final = 160
"""Columns of what is not shown on a terminal, so that nothing is folded."""

View = dict[str, Any]

_encode = msgspec.json.Encoder(decimal_format="number").encode

json_option = click.option("--json", "as_json", is_flag=True, help="Print the daemon's answer as JSON.")


class ListingGroup(click.Group):
    """A group whose `list` may be left unsaid: `tallyd invoices acme` is `tallyd invoices list acme`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Take what is no command's name for what is to be listed."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            args = ["list", *args]
        return super().resolve_command(ctx, args)


def talking(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a `daemon`; what the daemon refuses ends it with exit code 1 and the reason."""

    @wraps(command)
    def with_daemon(config: Config, **arguments: Any) -> None:
        try:
            with daemon_of(config) as daemon:
                command(daemon, **arguments)
        except DaemonError as error:
            raise advised(error, arguments.get("customer")) from None

    wrapped: Callable[..., None] = settings_options(with_daemon)
    return wrapped


def sent(**params: Any) -> View:
    """Return the params of a call, without what was not given."""
    return {name: value for name, value in params.items() if value is not None}


def say(answer: Any, as_json: bool, show: Callable[[Console, Any], None]) -> None:
    """Print an answer: as it is for programs, laid out for people."""
    if as_json:
        click.echo(_encode(answer).decode())
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH_PIPED
    show(console, answer)


def table(*headings: str, title: str = "", tight: bool = False) -> Table:
    """Return an empty table; a heading that starts with > stands right, one that starts with ~ may be folded.

    A `tight` table has one space between its columns, so that more of them fit into 80.
    """
    padding = (0, 0 if tight else 1, 0, 0)
    made = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=padding,
    )
    for heading in headings:
        justify: Literal["left", "right"] = "right" if heading.startswith(">") else "left"
        made.add_column(
            heading.lstrip(">~"), justify=justify, no_wrap=not heading.startswith("~"), overflow="fold"
        )
    return made


def text(words: str, style: str = "") -> Text:
    """Return text as it is: neither markup nor anything that steers a terminal."""
    return Text(printable(words), style)


def facts(console: Console, rows: Sequence[tuple[str, RenderableType]]) -> None:
    """Print names and what they are, below each other."""
    grid = Table.grid(padding=(0, 2))
    for name, value in rows:
        grid.add_row(f"  {name}", value)
    console.print(grid)
