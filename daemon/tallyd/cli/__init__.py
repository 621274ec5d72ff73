"""The command line.

Exit codes: 0 done, 1 not done or something found wrong, 2 used wrongly, 3 no daemon there; of `credits` also
4 not enough credits, 5 done before under the same key; of `what-if` also 4 answered, but not for all usage.
"""

from importlib import import_module
from typing import Final

import click

from tallyd import __version__

_COMMANDS: Final = {
    "serve": "serve",
    "demo": "demo",
    "ingest": "ingest",
    "check": "check",
    "subscribe": "subscriptions:subscribe",
    "subscriptions": "subscriptions",
    "invoices": "invoices",
    "explain": "explain",
    "events": "events",
    "credits": "credits",
    "clock": "clock",
    "keys": "keys",
    "config": "config",
    "rerate": "rerate",
    "what-if": "whatif",
    "verify": "verify",
}


class _Lazy(click.Group):
    """Loads a command's module when it is called: `tallyd check` does not pay for `serve`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        place = _COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        command: click.Command = getattr(import_module(f"tallyd.cli.{module}"), name or "command")
        return command


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tallyd")
def main() -> None:
    """Meter usage, answer entitlement checks, price with plugins: a billing sidecar in one process."""
