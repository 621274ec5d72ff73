"""`tallyd keys`: API keys."""

import click

from tallyd.cli.client import daemon_of, data_dir_given
from tallyd.cli.settings import settings_options
from tallyd.config import Config


@click.group("keys")
def command() -> None:
    """Make API keys."""


@command.command("create")
@click.argument("name")
@click.option(
    "--scopes",
    default="ingest,read,admin",
    show_default=True,
    help="What the key may do, separated by commas: ingest, read, admin (admin may do all).",
)
@settings_options
def create(config: Config, name: str, scopes: str) -> None:
    """Make an API key called NAME and print it, and nothing else, on stdout.

    It is shown this once: the books keep its hash only. It goes to the daemon
    that runs on ./data (or --data-dir, --socket); without one into the books, which are made only where
    --data-dir or --config says so.
    """
    wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    with daemon_of(config, host=True, make=data_dir_given()) as daemon:
        click.echo(daemon.call("keys.create", {"name": name, "scopes": wanted})["key"])
