"""The options that commands share: from `tallyd.toml`, `TALLYD_*` and the command line to one Config."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from tallyd.config import Config, ConfigError, load_config

_OPTIONS = (
    click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="TALLYD_CONFIG_FILE",
        help="Settings, TOML; see config/tallyd.toml.",
    ),
    click.option("--catalog", help="The catalog, TOML: features, meters, plans."),
    click.option("--data-dir", help="Where the books are.  [default: ./data]"),
    click.option("--http", "http_bind", metavar="HOST:PORT", help="Serve HTTP here, or none."),
    click.option("--socket", "socket_path", metavar="PATH", help="The Unix socket, or none."),
)


def settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the shared options, read into one `config` argument."""

    @wraps(command)
    def with_config(
        config_file: Path | None,
        catalog: str | None,
        data_dir: str | None,
        http_bind: str | None,
        socket_path: str | None,
        **arguments: Any,
    ) -> None:
        overrides = {
            "catalog": catalog,
            "store.data_dir": data_dir,
            "http.bind": http_bind,
            "socket.path": socket_path,
        }
        command(config=read_settings(config_file, overrides), **arguments)

    wrapped: Callable[..., None] = with_config
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def read_settings(config_file: Path | None, overrides: dict[str, Any]) -> Config:
    """Read the settings.

    Raises:
        ClickException: they cannot be used.
    """
    try:
        return load_config(config_file, overrides=overrides)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
