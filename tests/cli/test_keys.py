"""`tallyd keys`."""

import re
from pathlib import Path

import pytest

from cli.commands import Program, Run

KEY = re.compile(r"sk_live_\S+\n")


@pytest.mark.process
def test_the_key_stands_alone_on_stdout(run: Run) -> None:
    """What is printed can be put into a variable as it is."""
    done = run("keys", "create", "app")
    assert done.exit_code == 0
    assert KEY.fullmatch(done.stdout)


@pytest.mark.process
def test_an_unknown_scope_is_refused(run: Run) -> None:
    """A scope that does not exist is named with those that do."""
    done = run("keys", "create", "app", "--scopes", "ingest,fly")
    assert done.exit_code == 1
    assert "must be some of admin, ingest, read" in done.stderr
    assert not done.stdout


@pytest.mark.process
def test_a_key_can_be_made_before_the_first_start(program: Program) -> None:
    """Without a daemon and without books the command makes both, where it is told to."""
    done = program("keys", "create", "first", "--data-dir", "data")
    assert done.returncode == 0, done.stderr
    assert KEY.fullmatch(done.stdout)
    again = program("keys", "create", "second")
    assert KEY.fullmatch(again.stdout)
    assert again.stdout != done.stdout


@pytest.mark.process
def test_no_books_are_made_unasked(program: Program, tmp_path: Path) -> None:
    """A key for books that nobody serves would be of no use: where they are to be has to be said."""
    done = program("keys", "create", "first")
    assert done.returncode == 1
    assert "--data-dir" in done.stderr
    assert not done.stdout
    assert not (tmp_path / "data").exists()
