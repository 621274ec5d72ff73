"""`tallyd serve`: run the daemon."""

import faulthandler
import sqlite3
import sys
from typing import Any, NoReturn

import click
import trio

from tallyd.cli.settings import settings_options
from tallyd.config import Config, ConfigError
from tallyd.engine.catalog import CatalogError
from tallyd.ops.logs import configure_logs
from tallyd.pricing.registry import PluginError
from tallyd.service import Service, prepare_process, run_with_signals
from tallyd.store.lock import DataDirBusyError
from tallyd.store.schema import SchemaError
from tallyd.store.writer import CommitFailed

_EXPECTED = (CatalogError, CommitFailed, ConfigError, DataDirBusyError, OSError, SchemaError, sqlite3.Error)


@click.command("serve")
@settings_options
def command(config: Config) -> None:
    """Run the daemon until SIGTERM; SIGHUP reloads the catalog."""
    faulthandler.enable()
    configure_logs(config.log)
    try:
        service = Service(config)
    except PluginError as error:
        fail(error)
    prepare_process()
    try:
        trio.run(run_with_signals, service)
    except _EXPECTED as error:
        fail(error)
    except BaseExceptionGroup as group:
        expected, rest = group.split(_EXPECTED)
        if rest is not None or expected is None:
            raise
        fail(_first(expected))


def fail(error: BaseException) -> NoReturn:
    """Say what is wrong, and end."""
    click.echo(f"tallyd: {error}", err=True)
    sys.exit(1)


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
