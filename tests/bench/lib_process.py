"""Processes under test: the daemon, and the bare programs it is compared with."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from lib_report import BenchError

HERE: Final = Path(__file__).parent
START_S: Final = 60.0
STOP_S: Final = 15.0
POLL_S: Final = 0.002

CATALOG: Final = """
[[features]]
key = "calls"
[[features]]
key = "assistant"
[[plans]]
key = "bench"
name = "Bench"
currency = "USD"
[[plans.features]]
feature = "calls"
pricing = { model = "included", max_usage = 100000000000 }
[[plans.features]]
feature = "assistant"
[plans.features.pricing]
model = "llm_tokens"
rates = { "gpt-4o" = { input = "2.50", output = "10.00" }, "*" = { input = 5, output = 20 } }
[[plans]]
key = "renewed"
name = "Bench, renewed"
currency = "USD"
price_amount = 10
billing_timing = "IN_ARREARS"
[[plans.features]]
feature = "calls"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = "0.10" }
[[credit_models]]
key = "prepaid"
[[plans]]
key = "prepaid"
name = "Bench, paid with credits"
currency = "USD"
credits = [{ credit_model = "prepaid", amount = 100000000000 }]
[[plans.features]]
feature = "calls"
pricing = { model = "included", max_usage = 100000000000 }
"""


class Process:
    """A child process and what the kernel says about it."""

    def __init__(self, child: subprocess.Popen[bytes], path: str) -> None:
        self.child = child
        self.path = path
        self.started_in_s = 0.0

    def cpu_ns(self) -> int:
        """Return the processor time used so far, by all threads: Linux's clock of that process."""
        return time.clock_gettime_ns((~self.child.pid << 3) | 2)

    def rss_bytes(self) -> int:
        """Return the resident memory."""
        for line in Path(f"/proc/{self.child.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1_024
        raise BenchError("no VmRSS")

    def stop(self) -> None:
        """End it, kindly first."""
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


class Daemon(Process):
    """A `tallyd serve` with a catalog of its own."""

    def __init__(self, child: subprocess.Popen[bytes], home: Path, log: Path) -> None:
        super().__init__(child, str(home / "tallyd.sock"))
        self.database = home / "tallyd.db"
        self._log = log

    def http_port(self) -> int:
        """Return the port it serves HTTP on, from its log."""
        for line in self._log.read_bytes().splitlines():
            serving = str(msgspec.json.decode(line).get("serving", "")) if line.startswith(b"{") else ""
            for part in serving.split():
                if part.startswith("http=http://"):
                    return int(part.rpartition(":")[2])
        raise BenchError("the daemon's log names no HTTP address")

    def call(self, method: str, **params: Any) -> Any:
        """Call one method over the socket.

        Raises:
            BenchError: it was answered with an error.
        """
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        with connect(self.path) as peer:
            peer.sendall(msgspec.json.encode(request) + b"\n")
            answer = msgspec.json.decode(read_line(peer))
        if "result" not in answer:
            raise BenchError(f"{method}: {answer}")
        return answer["result"]


def connect(path: str) -> socket.socket:
    """Connect to a Unix socket."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        peer.connect(path)
    except OSError:
        peer.close()
        raise
    return peer


def read_line(peer: socket.socket) -> bytes:
    """Read one line.

    Raises:
        BenchError: the peer closed.
    """
    content = bytearray()
    while not content.endswith(b"\n"):
        received = peer.recv(262_144)
        if not received:
            raise BenchError("the peer closed the connection")
        content += received
    return bytes(content)


@contextmanager
def daemon(home: Path, *, http: bool = False, **settings: str) -> Iterator[Daemon]:
    """Run a daemon until the block ends; it has answered a ping when the block begins.

    Args:
        home: its data directory, made if absent.
        http: serve HTTP on a free port.
        settings: `TALLYD_*` variables, in lower case and without the prefix.
    """
    home.mkdir(parents=True, exist_ok=True)
    catalog, log = home / "catalog.toml", home / "log"
    catalog.write_text(CATALOG)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TALLYD_")}
    environment |= {f"TALLYD_{name.upper()}": value for name, value in settings.items()}
    environment["TALLYD_LOG_FORMAT"] = "json"
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else every start compiles every module
    options = ["--data-dir", str(home), "--catalog", str(catalog), "--http", "127.0.0.1:0" if http else "none"]
    with log.open("wb") as output:
        started = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", "tallyd", "serve", *options], env=environment, stderr=output, cwd=home
        )
    process = Daemon(child, home, log)
    try:
        _await(process, lambda: process.call("ping"), log)
        process.started_in_s = time.perf_counter() - started
        yield process
    finally:
        process.stop()


@contextmanager
def bare(kind: str, path: Path, *arguments: str) -> Iterator[Process]:
    """Run one of the bare programs of lib_bare.py, which listens on `path`, until the block ends."""
    child = subprocess.Popen([sys.executable, str(HERE / "lib_bare.py"), kind, str(path), *arguments])
    process = Process(child, str(path))
    try:
        _await(process, lambda: connect(str(path)).close(), None)
        yield process
    finally:
        process.stop()


def _await(process: Process, attempt: Callable[[], object], log: Path | None) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.child.poll() is not None:
            break
        try:
            attempt()
        except OSError:
            time.sleep(POLL_S)
        else:
            return
    words = log.read_text()[-2_000:] if log else ""
    raise BenchError(f"{process.path}: did not start; {words}")
