"""Row 6: a single event over HTTP, against an empty quart-trio handler on the same Hypercorn."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec
from lib_client import Cpu, Crowd, customer, event, whole_response
from lib_process import Daemon, bare, daemon
from lib_report import Row, median, millis, percentile, rate, ratio

CUSTOMERS: Final = 50
CONNECTIONS: Final = (1, 32)
ROUND: Final = 300
HEAD: Final = (
    "POST /api/v1/client/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
    "Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
)


def run(scratch: Path, *, quick: bool) -> Iterator[Row]:
    """Post the same kind of bytes, by turns to the daemon and to the empty handler."""
    port = _free_port()
    with ExitStack() as stack:
        served = stack.enter_context(daemon(scratch / "daemon", http=True))
        for number in range(CUSTOMERS):
            served.call("subscribe", customerReferenceId=customer(number), planKey="bench")
        key = served.call("keys.create", name="bench")["key"]
        stack.enter_context(bare("handler", scratch / "handler.sock", str(port)))
        for connections in CONNECTIONS:
            with _crowd(served.http_port(), connections) as ours, _crowd(port, connections) as theirs:
                yield _compare(served, ours, theirs, key, connections, 6 if quick else 24)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _crowd(port: int, connections: int) -> Crowd:
    opened = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    for each in opened:
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Crowd(opened, whole_response, lambda answer: answer.startswith(b"HTTP/1.1 201"))


def _requests(key: str) -> list[bytes]:
    bodies = [msgspec.json.encode(event(number, CUSTOMERS)) for number in range(ROUND)]
    return [HEAD.format(key=key, length=len(body)).encode() + body for body in bodies]


def _compare(served: Daemon, ours: Crowd, theirs: Crowd, key: str, connections: int, rounds: int) -> Row:
    measured, empty, latencies, cpu = [], [], [], Cpu(served)
    for crowd in (ours, theirs):
        crowd.run(_requests(key))
    for _ in range(rounds):
        requests = _requests(key)
        with cpu:
            load = ours.run(requests)
        measured.append(load.per_second)
        latencies += load.latencies
        empty.append(theirs.run(requests).per_second)
    compared = ratio(measured, empty)
    p50, p99 = percentile(latencies, 50), percentile(latencies, 99)
    return Row(
        what=f"6. HTTP single event, {connections} connection{'s' if connections > 1 else ''}",
        measured=rate(median(measured)),
        baseline=f"empty quart-trio handler {rate(median(empty))}",
        ratio=str(compared),
        budget=">= 0.5x",
        met=compared.value >= 0.5,
        note=f"{cpu.note(rounds * ROUND, 'event')}; p50 {millis(p50)}, p99 {millis(p99)}",
    )
