"""`tallyd rerate`: price what could not be priced when it came."""

import click
import msgspec

from tallyd.cli.client import daemon_of
from tallyd.cli.settings import settings_options
from tallyd.config import Config


@click.command("rerate")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@settings_options
def command(config: Config, as_json: bool) -> None:
    """Price all unpriced events for which a price exists now.

    Add the missing price first: [[model_prices]] in the catalog, then SIGHUP or a restart.
    """
    with daemon_of(config, host=True) as daemon:
        result = daemon.call("rerate")
    if as_json:
        click.echo(msgspec.json.encode(result).decode())
        return
    unpriced, priced = result["unpriced"], result["priced"]
    if not unpriced:
        click.echo("no event lacks a price")
        return
    click.echo(f"{unpriced:,} unpriced: {priced:,} priced now, {unpriced - priced:,} still lack a price")
