"""A Unix-socket connection for short lines: one wait for the request, none for the answer.

`trio.SocketStream` makes a turn through the scheduler for every receive and every send. A check is a hundred bytes
each way, so here a send is tried at once and only what the kernel does not take is waited for.
"""

import socket
from contextlib import suppress
from typing import Final

import trio

RECEIVE_BYTES: Final = 65_536


class LineStream:
    """A connected, non-blocking socket. One task receives; any task may send: what they send is not mixed.

    Args:
        connection: the socket; owned from now on.
        waiting_bytes_max: most bytes that wait for a peer to read; with more, sending waits.
        send_timeout_s: how long a peer may take no byte.
    """

    def __init__(self, connection: socket.socket, *, waiting_bytes_max: int, send_timeout_s: float) -> None:
        connection.setblocking(False)
        self.socket = connection
        self._waiting = bytearray()
        self._waiting_bytes_max = waiting_bytes_max
        self._send_timeout_s = send_timeout_s
        self._flushing = False
        self._room = trio.Event()

    async def receive(self) -> bytes:
        """Return what came; empty when the peer has closed its side.

        Raises:
            OSError: the connection broke.
        """
        while True:
            await trio.lowlevel.wait_readable(self.socket)
            try:
                return self.socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue

    async def send(self, content: bytes) -> None:
        """Send; return at once when the kernel takes it all.

        Raises:
            OSError: the connection broke, or the peer does not read.
        """
        if not self._waiting:
            try:
                sent = self.socket.send(content)
            except BlockingIOError:
                sent = 0
            if sent == len(content):
                return
            content = content[sent:]
        self._waiting += content
        if not self._flushing:
            await self._flush()
        elif len(self._waiting) > self._waiting_bytes_max:
            if self._room.is_set():  # else somebody waits on it already, and must not be left behind
                self._room = trio.Event()
            await self._room.wait()

    async def _flush(self) -> None:
        self._flushing = True
        try:
            while self._waiting:
                with trio.move_on_after(self._send_timeout_s) as patience:
                    await trio.lowlevel.wait_writable(self.socket)
                if patience.cancelled_caught:
                    raise TimeoutError("the peer does not read")
                sent = self.socket.send(self._waiting)
                del self._waiting[:sent]
                if len(self._waiting) <= self._waiting_bytes_max:
                    self._room.set()
        finally:
            self._flushing = False
            self._room.set()

    def stop_receiving(self) -> None:
        """Receive what has come already and then the end, as if the peer had closed its side."""
        with suppress(OSError):  # it is gone
            self.socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Close; whoever waits on it is told."""
        trio.lowlevel.notify_closing(self.socket)
        self.socket.close()
