"""The books behind a small interface, twice: on threads of their own for life, inline for the simulator."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import aiosqlite
import trio

from tallyd.store import sqlite
from tallyd.store.loop import trio_loop
from tallyd.store.tables import Row, Table

AnswerT = TypeVar("AnswerT")
Query = Callable[[sqlite3.Connection], AnswerT]


class Books(Protocol):
    """Durable storage. Errors of SQLite come through as `sqlite3.Error`."""

    async def commit(self, rows: Mapping[Table, list[Row]]) -> list[int]:
        """Write rows in one durable transaction; return the pools that do not balance after it (P3).

        A failure is an unknown outcome.
        """

    async def touch(self) -> None:
        """Make a round trip through the writing connection."""

    async def read(self, query: Query[AnswerT]) -> AnswerT:
        """Run a short query on a reading connection: look-ups, one customer's rows."""

    async def scan(self, query: Query[AnswerT]) -> AnswerT:
        """Run a query that may take long, where it does not hold up the short ones."""


class _Connection(aiosqlite.Connection):
    """aiosqlite with one more verb: a whole function on the connection's thread, for one hop instead of many."""

    def __init__(self, opener: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(opener, iter_chunk_size=64)
        self._thread.daemon = True  # a failed commit must be able to end the process

    async def run(self, work: Callable[..., AnswerT], *args: Any) -> AnswerT:
        answer: AnswerT = await self._execute(work, self._conn, *args)  # type: ignore[no-untyped-call]
        return answer


class ThreadedBooks:
    """For life: aiosqlite, one thread for writing and two for reading."""

    def __init__(self, writer: _Connection, reader: _Connection, scanner: _Connection) -> None:
        self._writer = writer
        self._reader = reader
        self._scanner = scanner

    async def commit(self, rows: Mapping[Table, list[Row]]) -> list[int]:
        """See `Books`. Cancelling the wait does not cancel the commit."""
        with trio.CancelScope(shield=True):
            unbalanced: list[int] = await self._writer.run(sqlite.commit, rows)
        return unbalanced

    async def touch(self) -> None:
        """See `Books`."""
        await self._writer.run(sqlite.touch)

    async def read(self, query: Query[AnswerT]) -> AnswerT:
        """See `Books`."""
        return await self._reader.run(query)

    async def scan(self, query: Query[AnswerT]) -> AnswerT:
        """See `Books`."""
        return await self._scanner.run(query)


class InlineBooks:
    """For the simulator: the same SQL on the caller's own thread, so that a run can be replayed."""

    def __init__(self, path: Path) -> None:
        self._writer = sqlite.open_writer(path)
        self._reader = sqlite.open_reader(path)

    async def commit(self, rows: Mapping[Table, list[Row]]) -> list[int]:
        """See `Books`."""
        await trio.lowlevel.checkpoint()
        return sqlite.commit(self._writer, rows)

    async def touch(self) -> None:
        """See `Books`."""
        await trio.lowlevel.checkpoint()
        sqlite.touch(self._writer)

    async def read(self, query: Query[AnswerT]) -> AnswerT:
        """See `Books`."""
        await trio.lowlevel.checkpoint()
        return query(self._reader)

    async def scan(self, query: Query[AnswerT]) -> AnswerT:
        """See `Books`."""
        return await self.read(query)

    def close(self) -> None:
        """Close both connections."""
        self._reader.close()
        self._writer.close()


@asynccontextmanager
async def open_books(path: Path) -> AsyncIterator[ThreadedBooks]:
    """Open the file for life, made if absent.

    Raises:
        SchemaError: not our file, or a newer one.
        sqlite3.Error: cannot be opened.
    """
    connections: list[_Connection] = []
    with trio_loop():
        try:
            for opener in (sqlite.open_writer, sqlite.open_reader, sqlite.open_reader):
                connection = _Connection(partial(opener, path))
                await connection
                connections.append(connection)
            yield ThreadedBooks(*connections)
        finally:
            with trio.CancelScope(shield=True):
                for connection in reversed(connections):
                    await connection.close()
