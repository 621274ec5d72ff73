"""A daemon of our own: `tallyd serve` as a child process, for as long as a command needs one."""

import os
import re
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import IO, Any, Final, cast

import click
import msgspec

STOP_MAX_S: Final = 15
LAST_WORDS_LINES: Final = 20
_READABLE_LOG: Final = {"TALLYD_LOG_FORMAT": "json", "TALLYD_LOG_LEVEL": "info"}
_ADDRESS: Final = re.compile(r"http=(http://\S+)")
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Child:
    """A `tallyd serve` that is ready.

    Attributes:
        socket: its Unix socket.
        http: its HTTP address, such as `http://127.0.0.1:40001`; None when it serves none.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", socket: str) -> None:
        self._process = process
        self._last: deque[str] = deque(maxlen=LAST_WORDS_LINES)
        self._drain: Thread | None = None
        self.socket = socket
        self.http: str | None = None

    def wait_ready(self) -> None:
        """Read its log until it says that it is ready.

        Raises:
            ClickException: it ended instead; carries what it said.
        """
        log = cast("IO[bytes]", self._process.stderr)
        for line in log:
            record = self._remember(line)
            if record.get("event") == "ready":
                address = _ADDRESS.search(str(record.get("serving", "")))
                self.http = address[1] if address else None
                self._drain = Thread(target=self._listen, args=(log,), daemon=True)
                self._drain.start()
                return
        self._process.wait()
        raise click.ClickException(f"the daemon did not start:\n{self.last_words()}")

    def stop(self) -> int:
        """Ask it to end, wait until it did, and return its exit code: what it accepted is durable then."""
        self._process.terminate()
        try:
            code = self._process.wait(STOP_MAX_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if self._drain is not None:
            self._drain.join()
        return code

    def wait(self) -> int:
        """Wait until it ends by itself, and return its exit code."""
        return self._process.wait()

    def last_words(self) -> str:
        """Return the last lines it logged, all but news."""
        return "\n".join(self._last)

    def _listen(self, log: IO[bytes]) -> None:
        for line in log:
            self._remember(line)

    def _remember(self, line: bytes) -> dict[str, Any]:
        text = line.decode(errors="replace").rstrip()
        try:
            record = _decode(line)
        except msgspec.MsgspecError:
            self._last.append(text)
            return {}
        if record.get("level") not in ("debug", "info"):
            self._last.append(text)
        return record


@contextmanager
def child_daemon(
    options: Sequence[str], *, http: str = "none", environment: Mapping[str, str] | None = None
) -> Iterator[Child]:
    """Run `tallyd serve` with a Unix socket in a directory of its own.

    Args:
        options: further command-line options, such as `--data-dir`.
        http: address to serve HTTP on.
        environment: its variables; those of this process when not given.

    Raises:
        ClickException: it did not start, or ended badly.
    """
    with tempfile.TemporaryDirectory(prefix="tallyd-") as directory:
        socket = str(Path(directory, "rpc.sock"))
        command = [sys.executable, "-m", "tallyd", "serve", *options, "--http", http, "--socket", socket]
        variables = {**(os.environ if environment is None else environment), **_READABLE_LOG}
        variables.pop("NOTIFY_SOCKET", None)  # to systemd this command is not the service
        # A session of its own: Ctrl-C is for the command, which then stops the daemon in good order.
        with subprocess.Popen(  # noqa: S603 - our own program
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=variables,
            start_new_session=True,
        ) as process:
            child = Child(process, socket)
            child.wait_ready()
            try:
                yield child
            except BaseException:
                died = process.poll() is not None
                code = child.stop()
                if died:
                    raise _ended(code, child) from None
                raise
            code = child.stop()
            if code:
                raise _ended(code, child)


def _ended(code: int, child: Child) -> click.ClickException:
    return click.ClickException(f"the daemon ended with exit code {code}:\n{child.last_words()}")
