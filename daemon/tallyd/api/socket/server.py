"""Serving the socket: lines in, lines out, everything bounded (P11)."""

import grp
import math
import os
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
import trio

from tallyd.actors.keys import require
from tallyd.api.bounds import Budget
from tallyd.api.socket.methods import Methods
from tallyd.api.socket.peers import peer_of, scopes_of
from tallyd.api.socket.protocol import (
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    Call,
    LineError,
    RequestId,
    error_line,
    problem_line,
    read_call,
    read_line,
    result_line,
)
from tallyd.api.socket.stream import LineStream
from tallyd.config import Socket
from tallyd.model.problems import Code, Problem, ProblemError

WAITING_BYTES_MAX: Final = 1_048_576
UNFINISHED_BYTES_MAX: Final = 134_217_728
"""Of unfinished lines of all peers together."""
ACCEPT_AGAIN_S: Final = 0.1
BACKLOG: Final = 1_024

_log = structlog.get_logger(__name__)


class SocketServer:
    """Serves every connection of one listening socket."""

    def __init__(self, methods: Methods, settings: Socket) -> None:
        self._methods = methods
        self._settings = settings
        self._accepting = trio.CancelScope()
        self._unfinished = Budget(UNFINISHED_BYTES_MAX)
        self._streams: set[LineStream] = set()
        self.finished = trio.Event()

    @property
    def connections(self) -> int:
        """How many peers are connected."""
        return len(self._streams)

    def finish(self) -> None:
        """Take nothing more; `finished` is set when all that was asked is answered."""
        self._accepting.cancel()
        for stream in self._streams:
            stream.stop_receiving()

    async def serve(self, listener: socket.socket, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Accept until told to finish."""
        listener.setblocking(False)
        async with trio.open_nursery() as nursery:
            task_status.started()
            with self._accepting:
                while True:
                    accepted = await self._accept(listener)
                    if accepted is not None:
                        nursery.start_soon(self._connection, accepted)
        self.finished.set()

    async def _accept(self, listener: socket.socket) -> socket.socket | None:
        await trio.lowlevel.wait_readable(listener)
        try:
            accepted, _ = listener.accept()
        except BlockingIOError:
            return None
        except OSError as error:  # out of file descriptors, mostly: those who are connected go on
            _log.warning("cannot accept", error=str(error))
            await trio.sleep(ACCEPT_AGAIN_S)
            return None
        return accepted

    async def _connection(self, accepted: socket.socket) -> None:
        stream = LineStream(
            accepted, waiting_bytes_max=WAITING_BYTES_MAX, send_timeout_s=self._settings.send_timeout_s
        )
        self._streams.add(stream)
        try:
            if self._accepting.cancel_called:
                stream.stop_receiving()
            if self.connections > self._settings.connections_max:
                text = f"more than {self._settings.connections_max} connections; retry shortly"
                await stream.send(error_line(None, -32000, text, Code.RATE_LIMITED))
                return
            scopes = scopes_of(*peer_of(accepted), self._settings)
            await Connection(stream, self._methods, self._settings, scopes, self._unfinished).serve()
        except* OSError as errors:
            _log.debug("peer went away", error=str(errors.exceptions[0]))
        except* Exception:  # noqa: BLE001 - one connection's defect ends that connection only (P8)
            _log.exception("connection crashed")
        finally:
            self._streams.discard(stream)
            stream.close()


class Connection:
    """One peer. Checks are answered in the order of the lines, at once; what has to wait is answered when done."""

    def __init__(
        self,
        stream: LineStream,
        methods: Methods,
        settings: Socket,
        scopes: frozenset[str],
        unfinished: Budget,
    ) -> None:
        self._unfinished = unfinished
        self._held = 0
        self._stream = stream
        self._methods = methods
        self._settings = settings
        self._scopes = scopes
        self._may_read = "read" in scopes or "admin" in scopes
        self._in_flight = trio.CapacityLimiter(settings.in_flight_max)

    async def serve(self) -> None:
        """Serve until the peer closes, sends what is no request, or stops reading."""
        async with trio.open_nursery() as nursery:
            await self._read(nursery)
        # Leaving the nursery waits for the answers on their way: a peer may send, half-close, and read.

    async def _read(self, nursery: trio.Nursery) -> None:
        try:
            await self._read_lines(nursery)
        finally:
            self._hold(0)

    def _hold(self, size: int) -> bool:
        """Hold this much of an unfinished line, if all peers together leave room for it."""
        fits = self._unfinished.take(size - self._held)
        if fits:
            self._held = size
        return fits

    async def _read_lines(self, nursery: trio.Nursery) -> None:
        buffer = bytearray()
        deadline = math.inf
        while True:
            received = await self._receive(deadline)
            if received is None:
                text = f"a line was not finished within {self._settings.line_timeout_s:g} s"
                await self._refuse(text, Code.MALFORMED, nursery)
                return
            if not received:
                return
            if not buffer and received.endswith(b"\n"):  # whole lines, as nearly always
                await self._lines(received.split(b"\n"), nursery)
                continue
            begun = bool(buffer)
            buffer += received
            end = buffer.rfind(b"\n", len(buffer) - len(received))
            if end >= 0:
                lines = bytes(buffer[:end])
                del buffer[: end + 1]
                await self._lines(lines.split(b"\n"), nursery)
            if not buffer:
                deadline = math.inf
            elif end >= 0 or not begun:  # a new line has begun; more bytes of it win it no time
                deadline = trio.current_time() + self._settings.line_timeout_s
            if not self._hold(len(buffer)):
                await self._refuse(
                    "too many lines are unfinished at once; retry shortly", Code.RATE_LIMITED, nursery
                )
                return
            if len(buffer) > self._settings.line_bytes_max:
                text = f"a line is longer than {self._settings.line_bytes_max} bytes"
                await self._refuse(text, Code.TOO_LARGE, nursery)
                return

    async def _receive(self, deadline: float) -> bytes | None:
        """Return what came; None when an unfinished line was not finished in time."""
        if deadline == math.inf:
            return await self._stream.receive()
        with trio.move_on_at(deadline):
            return await self._stream.receive()
        return None

    async def _refuse(self, text: str, code: Code, nursery: trio.Nursery) -> None:
        """Say what is wrong with the stream, and end it."""
        await self._stream.send(error_line(None, INVALID_REQUEST, text, code))
        nursery.cancel_scope.cancel()

    async def _lines(self, lines: list[bytes], nursery: trio.Nursery) -> None:
        """Answer what can be answered at once with one send; start the rest."""
        answers: list[bytes] = []
        for line in lines:
            if not line or line.isspace():
                continue
            if len(line) > self._settings.line_bytes_max:
                text = f"a line is longer than {self._settings.line_bytes_max} bytes"
                await self._refuse(text, Code.TOO_LARGE, nursery)
                return
            try:
                read = read_line(line)
            except LineError as error:
                answers.append(error.answer)
                continue
            if isinstance(read, list):
                await self._start(nursery, partial(self._batch, read))
                continue
            answer = self._at_once(read)
            if answer is not None:
                answers.append(answer)
            else:
                await self._start(nursery, partial(self._one, read))
        if answers:
            await self._stream.send(b"".join(answers))

    async def _start(self, nursery: trio.Nursery, work: Callable[[], Awaitable[bytes]]) -> None:
        """Start what has to wait; with too much in flight, stop reading until something is done."""
        token = object()
        try:
            self._in_flight.acquire_on_behalf_of_nowait(token)
        except trio.WouldBlock:
            await self._in_flight.acquire_on_behalf_of(token)
        nursery.start_soon(self._finish, work, token)

    async def _finish(self, work: Callable[[], Awaitable[bytes]], token: object) -> None:
        try:
            answer = await work()
            if answer:
                await self._stream.send(answer)
        finally:
            self._in_flight.release_on_behalf_of(token)

    def _at_once(self, call: Call) -> bytes | None:
        if call.method != "check" or not self._may_read or call.id is msgspec.UNSET:
            return None
        view = self._methods.check_at_once(call.params)
        return None if view is None else result_line(call.id, view)

    async def _batch(self, parts: list[msgspec.Raw]) -> bytes:
        """Answer a JSON-RPC batch: its calls run side by side, its answers come as one array."""
        answers: list[bytes] = [b""] * len(parts)

        async def part(index: int, content: msgspec.Raw) -> None:
            try:
                answers[index] = await self._one(read_call(content))
            except LineError as error:
                answers[index] = error.answer

        async with trio.open_nursery() as nursery:
            for index, content in enumerate(parts):
                nursery.start_soon(part, index, content)
        spoken = [answer.rstrip(b"\n") for answer in answers if answer]
        return b"[" + b",".join(spoken) + b"]\n" if spoken else b""

    async def _one(self, call: Call) -> bytes:
        request_id = None if isinstance(call.id, msgspec.UnsetType) else call.id
        answer = await self._answer(call, request_id)
        return b"" if call.id is msgspec.UNSET else answer

    async def _answer(self, call: Call, request_id: RequestId) -> bytes:
        found = self._methods.table.get(call.method)
        if found is None:
            text = f"there is no method {call.method!r}; there are {', '.join(self._methods.table)}"
            return error_line(request_id, METHOD_NOT_FOUND, text, Code.NOT_FOUND)
        scope, method = found
        try:
            if scope:
                require(self._scopes, scope)
            return result_line(request_id, await method(call.params))
        except ProblemError as error:
            return problem_line(request_id, error.problem)
        except Exception:  # noqa: BLE001 - a defect in one request is answered, and ends nothing else (P8)
            _log.exception("request crashed", method=call.method)
            problem = Problem(code=Code.INTERNAL, message="internal error; see the daemon's log")
            return problem_line(request_id, problem)


def listen_unix(path: str, settings: Socket) -> socket.socket:
    """Bind a Unix socket with its mode and group; a dead one that lies there is replaced.

    Raises:
        OSError: a live daemon listens there, or the path cannot be used.
    """
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_socket():
        _refuse_if_live(path)
        place.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(previous)
    if settings.group is not None:
        os.chown(path, -1, grp.getgrnam(settings.group).gr_gid)
    place.chmod(int(settings.mode, 8))
    listener.listen(BACKLOG)
    return listener


def _refuse_if_live(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return
    raise OSError(f"{path}: another process listens there; choose another --socket or stop it")
