"""Bare programs that tallyd is compared with, each in a process of its own: `lib_bare.py KIND PATH [...]`.

echo PATH ANSWER    Trio, JSON lines: decode the request, encode the answer (msgspec), one send per read
commits PATH        aiosqlite under trio_asyncio: one-row commits, asked for over the socket
handler PATH PORT   an empty quart-trio handler on Hypercorn, set up as tallyd sets it up
"""

import signal
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiosqlite
import hypercorn.config
import hypercorn.trio
import msgspec
import trio
import trio_asyncio
from quart import Response
from quart_trio import QuartTrio

BODY = '{"eventName":"chat","featureKey":"assistant","customerReferenceId":"cus_0001","usageUnits":1}'


async def serve_echo(path: str, answer: str) -> None:
    """Answer every line with the same answer, carrying the request's id."""
    decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
    reply = decode(answer)

    async def talk(stream: trio.SocketStream) -> None:
        buffer = bytearray()
        while received := await stream.receive_some(65_536):
            buffer += received
            end = buffer.rfind(b"\n")
            if end < 0:
                continue
            lines = bytes(buffer[:end])
            del buffer[: end + 1]
            answers = []
            for line in lines.split(b"\n"):
                reply["id"] = decode(line)["id"]
                answers.append(encode(reply) + b"\n")
            await stream.send_all(b"".join(answers))

    await listen(path, talk)


async def listen(path: str, talk: Callable[[trio.SocketStream], Awaitable[None]]) -> None:
    """Serve a Unix socket; a peer that goes away is fine."""

    async def guarded(stream: trio.SocketStream) -> None:
        try:
            await talk(stream)
        except trio.BrokenResourceError:
            return

    listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await listener.bind(path)
    listener.listen(1_024)
    await trio.serve_listeners(guarded, [trio.SocketListener(listener)])


async def serve_commits(path: str) -> None:
    """Commit as many rows as a line asks for: `["straight" | "one hop", count]`; answer each one's nanoseconds."""
    async with trio_asyncio.open_loop():
        connection = aiosqlite.connect(f"{path}.db", isolation_level=None)
        await trio_asyncio.aio_as_trio(connection.__aenter__)()
        for pragma in ("journal_mode = WAL", "synchronous = FULL"):
            await hop(connection.execute, f"PRAGMA {pragma}")
        await hop(connection.execute, "CREATE TABLE events (id INTEGER PRIMARY KEY, key TEXT UNIQUE, body TEXT)")

        async def talk(stream: trio.SocketStream) -> None:
            while received := await stream.receive_some(65_536):
                kind, count = msgspec.json.decode(received)
                commit = straight if kind == "straight" else one_hop
                await stream.send_all(msgspec.json.encode(await timed(partial(commit, connection), count)) + b"\n")

        await listen(path, talk)


async def hop(call: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    """Make one call of aiosqlite from Trio."""
    return await trio_asyncio.aio_as_trio(call)(*arguments)


async def timed(commit: Callable[[str], Awaitable[None]], count: int) -> list[int]:
    """Commit rows one after the other."""
    taken = []
    for _ in range(count):
        key = f"key-{time.perf_counter_ns():032x}"
        started = time.perf_counter_ns()
        await commit(key)
        taken.append(time.perf_counter_ns() - started)
    return taken


async def straight(connection: Any, key: str) -> None:
    """Commit a row the way a straightforward program does: a call for each statement."""
    await hop(connection.execute, "BEGIN")
    await hop(connection.execute, "INSERT INTO events (key, body) VALUES (?, ?)", (key, BODY))
    await hop(connection.execute, "COMMIT")


async def one_hop(connection: Any, key: str) -> None:
    """Commit a row in one visit to the connection's thread: the least that aiosqlite can cost."""
    await hop(connection._execute, transaction, connection._conn, key)


def transaction(connection: sqlite3.Connection, key: str) -> None:
    """Commit a row, on the connection's thread."""
    connection.execute("BEGIN")
    connection.execute("INSERT INTO events (key, body) VALUES (?, ?)", (key, BODY))
    connection.execute("COMMIT")


async def serve_handler(path: str, port: str) -> None:
    """Serve an empty handler; `path` is listened on only to say when."""
    app = QuartTrio("bare", static_folder=None, template_folder=None)

    @app.post("/api/v1/client/events")
    async def handler() -> Response:
        return Response(b"{}", 201, content_type="application/json")

    settings = hypercorn.config.Config()
    settings.bind = [f"127.0.0.1:{port}"]
    settings.keep_alive_timeout = 75
    settings.accesslog = settings.errorlog = None
    settings.include_server_header = False
    serve: Any = hypercorn.trio.serve
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, app, settings, mode="asgi", shutdown_trigger=trio.sleep_forever))
        await listen(path, lambda stream: stream.aclose())


SERVERS = {"echo": serve_echo, "commits": serve_commits, "handler": serve_handler}


def main() -> None:
    """Serve until SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    kind, path, *arguments = sys.argv[1:]
    Path(path).unlink(missing_ok=True)
    trio.run(SERVERS[kind], path, *arguments)


if __name__ == "__main__":
    main()
