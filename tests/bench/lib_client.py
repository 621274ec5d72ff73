"""Lean clients, the same for tallyd and for its baselines. Requests are made before the clock starts."""

import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from secrets import token_hex
from typing import Any, Final, Self

import msgspec
from lib_process import Process, connect
from lib_report import BenchError

RECEIVE_BYTES: Final = 262_144
TIMEOUT_S: Final = 30

Good = Callable[[bytes], bool]


class Load(msgspec.Struct, kw_only=True):
    """What a round of requests took."""

    seconds: float
    latencies: list[int]

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds


class Cpu:
    """Processor time over the rounds in which something was measured; other programs' noise is not in it.

    Args:
        process: whose time; our own when not given.
    """

    def __init__(self, process: Process | None = None) -> None:
        self._used = time.process_time_ns if process is None else process.cpu_ns
        self._ns = 0
        self._wall_ns = 0

    def __enter__(self) -> Self:
        self._since = self._used()
        self._wall_since = time.perf_counter_ns()
        return self

    def __exit__(self, *_: object) -> None:
        self._ns += self._used() - self._since
        self._wall_ns += time.perf_counter_ns() - self._wall_since

    def note(self, done: int, what: str, other: "Cpu", other_done: int) -> str:
        """Say what one cost, beside what it cost the baseline."""
        ours, theirs = self._ns / 1_000 / done, other._ns / 1_000 / other_done
        return (
            f"CPU {ours:,.1f} µs per {what} ({self._ns / self._wall_ns:.0%} of a core while measured);"
            f" baseline {theirs:,.1f} µs; {ours / theirs:.2f}x the CPU"
        )


class Lines:
    """One connection that asks and waits: the least a client can do."""

    def __init__(self, path: str) -> None:
        self._peer = connect(path)
        patience = struct.pack("ll", TIMEOUT_S, 0)  # settimeout() would cost a poll() for each call
        self._peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)

    def close(self) -> None:
        """Close it."""
        self._peer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, content: bytes, answers: int = 1) -> bytes:
        """Send lines; return the answers to all of them.

        Raises:
            BenchError: the peer closed.
        """
        self._peer.sendall(content)
        received = self._peer.recv(RECEIVE_BYTES)
        seen = received.count(b"\n")
        parts = [received]
        while seen < answers:
            received = self._peer.recv(RECEIVE_BYTES)
            if not received:
                raise BenchError("the peer closed the connection")
            parts.append(received)
            seen += received.count(b"\n")
        return b"".join(parts)

    def each(self, requests: Iterable[bytes]) -> list[int]:
        """Ask one after the other; return each one's nanoseconds."""
        clock, ask = time.perf_counter_ns, self.ask
        taken = []
        for request in requests:
            started = clock()
            ask(request)
            taken.append(clock() - started)
        return taken


class _Peer:
    """One of many connections."""

    __slots__ = ("buffer", "left", "sent_at", "socket")

    def __init__(self, opened: socket.socket) -> None:
        opened.setblocking(False)
        self.socket = opened
        self.buffer = bytearray()
        self.left = memoryview(b"")
        self.sent_at = 0


def whole_line(buffer: bytearray) -> bool:
    """Whether a JSON-RPC answer is complete."""
    return buffer.endswith(b"\n")


def whole_response(buffer: bytearray) -> bool:
    """Whether an HTTP/1.1 response is complete."""
    head = buffer.find(b"\r\n\r\n")
    if head < 0:
        return False
    start = buffer.find(b"content-length: ")
    if start < 0:
        raise BenchError(f"a response without content-length: {bytes(buffer[:head])!r}")
    length = int(buffer[start + 16 : buffer.index(b"\r", start)])
    return len(buffer) >= head + 4 + length


class Crowd:
    """Connections that each ask again as soon as they are answered.

    Args:
        opened: the connections.
        whole: tells when an answer is complete.
        good: tells whether it is the right one.
    """

    def __init__(self, opened: Sequence[socket.socket], whole: Callable[[bytearray], bool], good: Good) -> None:
        self._peers = {each.fileno(): _Peer(each) for each in opened}
        self._whole = whole
        self._good = good
        self._poll = select.epoll()
        for number in self._peers:
            self._poll.register(number, select.EPOLLIN)

    def close(self) -> None:
        """Close all."""
        self._poll.close()
        for peer in self._peers.values():
            peer.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, requests: Iterable[bytes], seconds: float = float("inf")) -> Load:
        """Ask until the requests or the seconds are used up, and wait for the last answers.

        Raises:
            BenchError: a wrong answer, none at all, or too few requests for the seconds.
        """
        coming = iter(requests)
        latencies: list[int] = []
        started = time.perf_counter_ns()
        deadline = started + seconds * 1e9
        waiting = sum(self._send(peer, coming) for peer in self._peers.values())
        while waiting:
            ready = self._poll.poll(TIMEOUT_S)
            if not ready:
                raise BenchError("no answer")
            for number, events in ready:
                peer = self._peers[number]
                if events & select.EPOLLOUT:
                    self._flush(peer)
                if events & select.EPOLLIN and self._receive(peer):
                    now = time.perf_counter_ns()
                    latencies.append(now - peer.sent_at)
                    if now >= deadline or not self._send(peer, coming):
                        waiting -= 1
        return Load(seconds=(time.perf_counter_ns() - started) / 1e9, latencies=latencies)

    def _send(self, peer: _Peer, coming: Iterator[bytes]) -> bool:
        request = next(coming, None)
        if request is None:
            return False
        peer.sent_at = time.perf_counter_ns()
        peer.left = memoryview(request)
        self._flush(peer)
        return True

    def _flush(self, peer: _Peer) -> None:
        number = peer.socket.fileno()
        try:
            sent = peer.socket.send(peer.left)
        except BlockingIOError:
            sent = 0
        peer.left = peer.left[sent:]
        self._poll.modify(number, select.EPOLLIN | select.EPOLLOUT if peer.left else select.EPOLLIN)

    def _receive(self, peer: _Peer) -> bool:
        received = peer.socket.recv(RECEIVE_BYTES)
        if not received:
            raise BenchError("the peer closed the connection")
        peer.buffer += received
        if not self._whole(peer.buffer):
            return False
        answer = bytes(peer.buffer)
        peer.buffer.clear()
        if not self._good(answer):
            raise BenchError(f"a wrong answer: {answer[:500]!r}")
        return True


# Requests

_numbers = count(1)


def customer(number: int) -> str:
    """Name a customer."""
    return f"cus_{number:07d}"


def rpc(method: str, params: dict[str, Any]) -> bytes:
    """Return a JSON-RPC request, as a line."""
    request = {"jsonrpc": "2.0", "id": next(_numbers), "method": method, "params": params}
    return msgspec.json.encode(request) + b"\n"


def event(number: int, customers: int) -> dict[str, Any]:
    """Return an event with a key that was never used: by turns a plain call and a priced model call."""
    body: dict[str, Any] = {
        "eventName": "chat.completed",
        "eventIdempotencyKey": token_hex(16),
        "customerReferenceId": customer(number // 2 % customers),
        "featureKey": "calls",
        "usageUnits": 1,
    }
    if number % 2:
        body["featureKey"] = "assistant"
        del body["usageUnits"]
        body["costInput"] = {
            "model": "gpt-4o",
            "modelProvider": "openai",
            "inputTokens": 500 + number % 1_500,
            "outputTokens": 20 + number % 400,
        }
    return body
