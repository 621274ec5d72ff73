"""What tests of the command line share beside the fixtures."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from click.testing import CliRunner, Result

from tallyd.cli import main
from tallyd.cli.child import Child

CATALOG: Final = Path(__file__).parents[2] / "config" / "catalog.toml"
PROCESS_MAX_S: Final = 120

Run = Callable[..., Result]
"""Runs a command in this process, against the daemon all tests share."""

Program = Callable[..., "subprocess.CompletedProcess[str]"]
"""Runs a command as a process of its own, in an empty directory."""


def on_socket(child: Child, *arguments: object) -> Result:
    """Run a command in this process, against a daemon."""
    return hosted(*arguments, "--socket", child.socket)


def hosted(*arguments: object) -> Result:
    """Run a command in this process; where no daemon runs in its directory, it hosts one."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
