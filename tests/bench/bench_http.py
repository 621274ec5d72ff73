"""Row 6: a single event over HTTP, against an empty quart-trio handler on the same Hypercorn."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec
from lib_client import Cpu, Crowd, Load, customer, event, whole_response
from lib_process import Process, bare, daemon
from lib_report import Row, median, millis, percentile, rate, ratio

CUSTOMERS: Final = 50
CONNECTIONS: Final = (1, 32)
ROUND: Final = 200
WARM_UP: Final = 40
HEAD: Final = (
    "POST /api/v1/client/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
    "Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
)


def run(scratch: Path, *, quick: bool) -> Iterator[Row]:
    """Post the same kind of bytes, by turns to the daemon and to the empty handler."""
    port, rounds = _free_port(), 2 if quick else 24
    with ExitStack() as stack:
        served = stack.enter_context(daemon(scratch / "daemon", http=True))
        for number in range(CUSTOMERS):
            served.call("subscribe", customerReferenceId=customer(number), planKey="bench")
        key = served.call("keys.create", name="bench")["key"]
        empty = stack.enter_context(bare("handler", scratch / "handler.sock", str(port)))
        for connections in CONNECTIONS:
            yield _compare(
                _Server(served, served.http_port(), key), _Server(empty, port, key), connections, rounds
            )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _crowd(port: int, connections: int) -> Crowd:
    opened = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    for each in opened:
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Crowd(opened, whole_response, lambda answer: answer.startswith(b"HTTP/1.1 201"))


def _requests(key: str, count: int) -> list[bytes]:
    bodies = [msgspec.json.encode(event(number, CUSTOMERS)) for number in range(count)]
    return [HEAD.format(key=key, length=len(body)).encode() + body for body in bodies]


class _Server:
    """Where to post, and what it costs there."""

    def __init__(self, process: Process, port: int, key: str) -> None:
        self._port = port
        self._key = key
        self.cpu = Cpu(process)

    def round(self, connections: int) -> Load:
        """Post over fresh connections: Hypercorn closes one after its 1,000th request."""
        with _crowd(self._port, connections) as crowd:
            crowd.run(_requests(self._key, WARM_UP))
            requests = _requests(self._key, ROUND)
            with self.cpu:
                return crowd.run(requests)


def _compare(served: _Server, empty: _Server, connections: int, rounds: int) -> Row:
    measured, baseline, latencies = [], [], []
    for _ in range(rounds):
        load = served.round(connections)
        measured.append(load.per_second)
        latencies += load.latencies
        baseline.append(empty.round(connections).per_second)
    compared, done = ratio(measured, baseline), rounds * ROUND
    p50, p99 = percentile(latencies, 50), percentile(latencies, 99)
    return Row(
        what=f"6. HTTP single event, {connections} connection{'s' if connections > 1 else ''}",
        measured=rate(median(measured)),
        baseline=f"empty quart-trio handler {rate(median(baseline))}",
        ratio=str(compared),
        budget=">= 0.5x",
        met=compared.value >= 0.5,
        note=f"{served.cpu.note(done, 'event', empty.cpu, done)}; p50 {millis(p50)}, p99 {millis(p99)}",
    )
