"""`tallyd serve`: run the daemon."""

import faulthandler
import sqlite3
import sys
from typing import Any, Final, NoReturn

import click
import trio

from tallyd.cli.settings import settings_options
from tallyd.config import Config, ConfigError
from tallyd.engine.catalog import CatalogError
from tallyd.ops.logs import configure_logs
from tallyd.payments.registry import CheckoutPluginError
from tallyd.pricing.registry import PluginError
from tallyd.service import Service, prepare_process, run_with_signals
from tallyd.store.lock import DataDirBusyError
from tallyd.store.schema import SchemaError
from tallyd.store.writer import CommitFailed

MISCONFIGURED: Final = 78
"""Exit code (EX_CONFIG) of what starting again cannot mend; the systemd unit does not try."""

_EXPECTED = (CatalogError, CommitFailed, ConfigError, DataDirBusyError, OSError, SchemaError, sqlite3.Error)


@click.command("serve")
@settings_options
def command(config: Config) -> None:
    """Run the daemon until SIGTERM; SIGHUP reloads the catalog."""
    faulthandler.enable()
    configure_logs(config.log)
    try:
        service = Service(config)
    except (CheckoutPluginError, ConfigError, PluginError) as error:
        fail(error, MISCONFIGURED)
    prepare_process()
    try:
        trio.run(run_with_signals, service)
    except _EXPECTED as error:
        fail(error, _status(error), config)
    except BaseExceptionGroup as group:
        expected, rest = group.split(_EXPECTED)
        if rest is not None or expected is None:
            raise
        cause = _first(expected)
        fail(cause, _status(cause), config)


def fail(error: BaseException, status: int, config: Config | None = None) -> NoReturn:
    """Say what is wrong, and end."""
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
        if config is not None and str(error.filename) == config.catalog:
            text = f"the catalog {error.filename} cannot be read: {error.strerror}; see --catalog"
    click.echo(f"tallyd: {text}", err=True)
    sys.exit(status)


def _status(error: BaseException) -> int:
    return MISCONFIGURED if isinstance(error, CatalogError | SchemaError) else 1


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
