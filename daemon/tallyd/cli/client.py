"""Talking to the daemon: a blocking JSON-RPC client, and finding or hosting the daemon a command needs."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, Final

import click
import msgspec

from tallyd.cli.child import child_daemon
from tallyd.config import NOBODY, Config
from tallyd.model.problems import Code
from tallyd.store.lock import DataDirBusyError, own_data_dir
from tallyd.store.sqlite import FILE_NAME

NO_DAEMON: Final = 3
CALL_TIMEOUT_S: Final = 120
_WHERE: Final = "say where with --data-dir or --socket"

_encode = msgspec.json.Encoder(decimal_format="number").encode


class Failure(msgspec.Struct, frozen=True):
    """The `error` of an answer."""

    code: int
    message: str
    data: dict[str, Any] = {}


class Answer(msgspec.Struct, frozen=True):
    """An answer: `result` or `error`."""

    id: int | None = None
    result: Any = None
    error: Failure | None = None


_decode = msgspec.json.Decoder(Answer, float_hook=Decimal).decode


class DaemonError(click.ClickException):
    """The daemon refused; `code` is its stable `data.code`."""

    def __init__(self, failure: Failure) -> None:
        self.code = str(failure.data.get("code", ""))
        super().__init__(f"{failure.message} ({self.code})" if self.code else failure.message)


def advised(error: DaemonError, customer: object) -> click.ClickException:
    """Return what the daemon refused; of a customer it does not know, with what to do next."""
    if error.code != Code.NOT_FOUND or not error.message.startswith("there is no customer"):
        return error
    return click.ClickException(f"{error.message}\nput it on a plan with `tallyd subscribe {customer} PLAN`")


class NoDaemonError(click.ClickException):
    """Nobody answers where a daemon should be."""

    exit_code = NO_DAEMON


class Daemon:
    """A connection to a daemon's Unix socket.

    Args:
        path: the socket.

    Raises:
        NoDaemonError: nobody listens there.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.where = f"the daemon at {path}"
        self._last_id = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(CALL_TIMEOUT_S)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            text = f"no daemon answers at {path}: {error.strerror or error}; start one with `tallyd serve`"
            raise NoDaemonError(text) from None
        self._lines = self._socket.makefile("rb")

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._socket.close()

    def call(self, method: str, params: Any = None) -> Any:
        """Ask and wait for the result.

        Raises:
            DaemonError: the daemon refused.
            NoDaemonError: it went away.
        """
        self.send(method, params)
        answer = self.receive()
        if answer.error is not None:
            raise DaemonError(answer.error)
        return answer.result

    def send(self, method: str, params: Any = None) -> int:
        """Ask without waiting; return the id that the answer will carry.

        Raises:
            NoDaemonError: it went away.
        """
        self._last_id += 1
        request = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params or {}}
        try:
            self._socket.sendall(_encode(request) + b"\n")
        except OSError as error:
            raise self._gone(error) from None
        return self._last_id

    def receive(self) -> Answer:
        """Wait for the next answer, to whichever question.

        Raises:
            DaemonError: the daemon could not read what it was sent.
            NoDaemonError: it went away.
        """
        try:
            line = self._lines.readline()
        except OSError as error:
            raise self._gone(error) from None
        if not line:
            raise self._gone("it closed the connection")
        answer: Answer = _decode(line)
        if answer.id is None and answer.error is not None:
            raise DaemonError(answer.error)
        return answer

    def _gone(self, why: object) -> NoDaemonError:
        text = f"the daemon at {self.path} stopped answering: {why}; run the command again when it is back"
        return NoDaemonError(text)


@contextmanager
def daemon_of(config: Config, *, host: bool = False, make: bool = False) -> Iterator[Daemon]:
    """Find the daemon a command needs, or host one as long as the command runs.

    `--socket` names a daemon; else the one that owns the data directory is asked; else one may be hosted there.

    Args:
        config: the settings.
        host: whether one is hosted where none runs: for what needs no plans.
        make: whether a data directory without books is made into one then.

    Raises:
        NoDaemonError: nobody answers at `--socket`, or none runs and none is hosted.
        ClickException: the books cannot be reached.
    """
    place = _running(config)
    if place is not None:
        with _connection(place) as daemon:
            yield daemon
        return
    if not host:
        serve = f"start one with `tallyd serve --data-dir {config.data_dir} --catalog FILE`"
        text = f"no daemon runs on the data directory {config.data_dir}; {serve}, or {_WHERE}"
        raise NoDaemonError(text)
    if not make and not (config.data_dir / FILE_NAME).exists():
        text = f"there are no books in {config.data_dir}, and no daemon runs on it; {_WHERE}"
        raise click.ClickException(text)
    with child_daemon(_options(), environment=_environment(config)) as child, _connection(child.socket) as daemon:
        daemon.where = f"the books in {config.data_dir} (no daemon was running)"
        yield daemon


@contextmanager
def _connection(path: str) -> Iterator[Daemon]:
    daemon = Daemon(path)
    try:
        yield daemon
    finally:
        daemon.close()


def _running(config: Config) -> str | None:
    """Return the socket of the daemon that is there, or None when there is none."""
    if _given("socket_path") not in (None, NOBODY):
        return config.socket_path
    try:
        if not config.data_dir.is_dir():
            return None
        with own_data_dir(config.data_dir, None):
            return None
    except DataDirBusyError as error:
        if error.socket is None:
            text = f"the daemon on {config.data_dir} has no Unix socket; restart it with --socket PATH"
            raise click.ClickException(text) from None
        return error.socket
    except PermissionError as error:
        if config.socket.path not in (None, NOBODY):
            return config.socket_path
        text = f"{error.strerror}: {error.filename}; run as the daemon's user, or name its --socket"
        raise click.ClickException(text) from None
    except OSError as error:
        raise click.ClickException(f"{error.strerror}: {error.filename}; see --data-dir") from None


def data_dir_given() -> bool:
    """Whether the running command names its data directory: only then are new books made there unasked."""
    return _given("data_dir") is not None or _given("config_file") is not None


def _given(name: str) -> Any:
    """Return an option of the running command as it was given; None when it was not."""
    return click.get_current_context().params.get(name)


def _options() -> list[str]:
    """Return the options of the running command that shape a daemon's settings."""
    options = []
    for option, name in (("--config", "config_file"), ("--catalog", "catalog"), ("--data-dir", "data_dir")):
        value = _given(name)
        if value is not None:
            options += [option, str(value)]
    return options


def _environment(config: Config) -> dict[str, str]:
    """Return the variables of a hosted daemon: ours, but off the address of the real one."""
    if config.http.unix is None:
        return dict(os.environ)
    return {**os.environ, "TALLYD_HTTP_UNIX": str(config.data_dir / "hosted-http.sock")}
