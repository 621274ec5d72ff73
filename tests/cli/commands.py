"""What tests of the command line share beside the fixtures."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from click.testing import Result

CATALOG: Final = Path(__file__).parents[2] / "config" / "catalog.toml"
PROCESS_MAX_S: Final = 120

Run = Callable[..., Result]
"""Runs a command in this process, against the daemon all tests share."""

Program = Callable[..., "subprocess.CompletedProcess[str]"]
"""Runs a command as a process of its own, in an empty directory."""
