"""Talking to the daemon, and finding or hosting the one that is needed."""

import socket
import threading
from pathlib import Path

import pytest

from cli.commands import CATALOG, Program
from tallyd.cli.child import Child, child_daemon
from tallyd.cli.client import NO_DAEMON, Daemon, DaemonError, NoDaemonError


@pytest.mark.process
def test_a_call_returns_the_result(child: Child) -> None:
    """A question over the socket is answered with its result."""
    daemon = Daemon(child.socket)
    assert daemon.call("ping")["pong"] is True
    daemon.close()


@pytest.mark.process
def test_a_refusal_carries_the_daemons_words_and_code(child: Child) -> None:
    """What the daemon says no to is raised with its message and its stable code."""
    daemon = Daemon(child.socket)
    with pytest.raises(DaemonError, match="there is no customer 'nobody'") as caught:
        daemon.call("check", {"customerReferenceId": "nobody", "featureKey": "api"})
    assert caught.value.code == "not_found"
    daemon.close()


def test_nobody_there_is_exit_code_3(tmp_path: Path) -> None:
    """A socket without a daemon is an error of its own, which says what to do."""
    with pytest.raises(NoDaemonError, match="start one with `tallyd serve`") as caught:
        Daemon(str(tmp_path / "nobody.sock"))
    assert caught.value.exit_code == NO_DAEMON


def test_a_daemon_that_goes_away_is_said_so(tmp_path: Path) -> None:
    """A connection that ends before the answer is no answer."""
    path = str(tmp_path / "brief.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.recv(65_536)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        daemon = Daemon(path)
        with pytest.raises(NoDaemonError, match="stopped answering"):
            daemon.call("ping")
        daemon.close()
        thread.join()


@pytest.mark.process
def test_a_command_asks_the_daemon_that_owns_the_books(program: Program, tmp_path: Path) -> None:
    """With only --data-dir, the lock says where the daemon is, and no second one is started."""
    books = tmp_path / "books"
    with child_daemon(["--data-dir", str(books), "--catalog", str(CATALOG)]):
        done = program("keys", "create", "mine", "--data-dir", books)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sk_live_")


@pytest.mark.process
def test_a_hosted_daemon_says_why_it_does_not_start(program: Program, tmp_path: Path) -> None:
    """When the books cannot be opened, the command fails with the daemon's own words."""
    (tmp_path / "tallyd.toml").write_text('catalog = "absent.toml"\n')
    done = program("keys", "create", "mine", "--data-dir", tmp_path / "books", "--config", "tallyd.toml")
    assert done.returncode == 1
    assert "absent.toml" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.process
def test_no_books_are_made_for_a_question(program: Program, tmp_path: Path) -> None:
    """Asking about books that are not there is refused, and does not make any."""
    done = program("rerate", "--data-dir", tmp_path / "books")
    assert done.returncode == 1
    assert "there are no books" in done.stderr
    assert not (tmp_path / "books").exists()


@pytest.mark.process
@pytest.mark.parametrize(
    "command",
    [
        "check acme api",
        "clock set 2027-01-01 --daemon",
        "credits show acme",
        "events void x --reason y",
        "explain INV-000001-0001 1",
        "invoices acme",
        "subscribe acme pro",
        "subscriptions change acme pro",
    ],
)
def test_what_needs_a_daemon_says_how_to_start_one(program: Program, tmp_path: Path, command: str) -> None:
    """Exit code 3, also where there are books: one that is hosted for the while would have no plans."""
    assert program("keys", "create", "any", "--data-dir", "books").returncode == 0
    done = program(*command.split(), "--data-dir", "books")
    assert done.returncode == NO_DAEMON, done.stderr
    assert "no daemon runs on the data directory books" in done.stderr
    assert "tallyd serve --data-dir books" in done.stderr
    elsewhere = program(*command.split())
    assert elsewhere.returncode == NO_DAEMON
    assert not (tmp_path / "data").exists()


@pytest.mark.process
def test_an_explicit_socket_without_a_daemon_is_exit_code_3(program: Program, tmp_path: Path) -> None:
    """--socket names a daemon that must be there; none is hosted in its place."""
    done = program("keys", "create", "mine", "--socket", tmp_path / "nobody.sock")
    assert done.returncode == NO_DAEMON
    assert "start one with" in done.stderr
