"""A daemon with the example catalog, as a process of its own, and commands run against it."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from cli.billed import NewCustomer, newest
from cli.commands import CATALOG, PROCESS_MAX_S, Program, Run, on_socket
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
    return partial(on_socket, child)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Run a command as a process of its own, in an empty directory."""

    def start(*arguments: object) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "tallyd", *(str(argument) for argument in arguments)]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=PROCESS_MAX_S, check=False
        )

    return start


_CUSTOMERS = count(1)


@pytest.fixture
def on_clock(run: Run) -> NewCustomer:
    """Put a new customer on a test clock, and on a plan."""

    def make(now: str, plan: str | None = None, *, paid: bool = False) -> str:
        customer = f"clocked-{next(_CUSTOMERS)}"
        assert run("clock", "set", now, "--customer", customer).exit_code == 0
        if plan is not None:
            assert run("subscribe", customer, plan).exit_code == 0
        if paid:
            number = newest(run("invoices", customer, "--json"))["number"]
            assert run("invoices", "paid", number).exit_code == 0
        return customer

    return make
