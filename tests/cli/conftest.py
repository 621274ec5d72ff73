"""A daemon with the example catalog, as a process of its own, and commands run against it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.commands import CATALOG, PROCESS_MAX_S, Program, Run
from tallyd.cli import main
from tallyd.cli.child import Child, child_daemon


@pytest.fixture(scope="session")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """Run one daemon for all tests of the command line; each test has customers of its own."""
    books = tmp_path_factory.mktemp("books")
    with child_daemon(["--data-dir", str(books), "--catalog", str(CATALOG)]) as started:
        yield started


@pytest.fixture
def run(child: Child) -> Run:
    """Run a command in this process, against the daemon."""

    def invoke(*arguments: object) -> Result:
        texts = [str(argument) for argument in arguments]
        return CliRunner().invoke(main, [*texts, "--socket", child.socket], catch_exceptions=False)

    return invoke


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Run a command as a process of its own, in an empty directory."""

    def start(*arguments: object) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "tallyd", *(str(argument) for argument in arguments)]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=PROCESS_MAX_S, check=False
        )

    return start
