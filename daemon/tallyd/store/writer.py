"""Group commit: whatever all actors have decided since the last commit goes into the next one.

One commit is in flight at a time; meanwhile work queues up, so the busier it is, the more each fsync carries.
"""

import sqlite3
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog
import trio

from tallyd.model.problems import Problem, ProblemError, overloaded, unavailable
from tallyd.store import tables
from tallyd.store.balance import unbalanced_after
from tallyd.store.batch import Work, merge
from tallyd.store.books import Books
from tallyd.store.sqlite import pools_among

EVENTS_PER_COMMIT_MAX: Final = 4_000
EVENTS_WAITING_MAX: Final = 40_000

_log = structlog.get_logger(__name__)


class CommitFailed(Exception):
    """A commit whose outcome is unknown. Nothing is acknowledged any more; the process must end (P1)."""


Settle = Callable[[Problem | None], None]
"""Called once, with None when the work is durable, or with the problem when its outcome is unknown."""

_UNKNOWN: Final = unavailable("the books cannot be written; the outcome is unknown, retry with the same key")


class Ticket:
    """Stands for work that waits to be durable."""

    __slots__ = ("settle", "size", "work")

    def __init__(self, work: Work, settle: Settle) -> None:
        self.work = work
        self.settle = settle
        self.size = max(1, len(work.changes))


class Writer:
    """The one way into the books.

    Attributes:
        failed: a commit did not succeed; nothing is written any more.
        unbalanced: numbers of the pools that did not balance when last looked at (P3).
        pools_checked: how often a pool was looked at.
        on_invoices: called with the numbers of invoices that were written, when they are durable.
    """

    def __init__(self, books: Books) -> None:
        self._books = books
        self._waiting: deque[Ticket] = deque()
        self._events_waiting = 0
        self._wake = trio.Event()
        self._idle = trio.Event()
        self._idle.set()
        self.failed = False
        self.unbalanced: set[int] = set()
        self.pools_checked = 0
        self.on_invoices: Callable[[list[int]], None] | None = None
        self.commits = 0
        self.rows_committed = 0
        self.seconds_committing = 0.0

    def submit(self, work: Work, settle: Settle) -> None:
        """Queue work; see `Settle` for what comes back."""
        if self.failed:
            settle(_UNKNOWN.problem)
            return
        ticket = Ticket(work, settle)
        self._waiting.append(ticket)
        self._events_waiting += ticket.size
        if self._idle.is_set():
            self._idle = trio.Event()
        self._wake.set()

    def refuse_when_full(self) -> None:
        """Refuse new work while too much waits (P11).

        Raises:
            ProblemError: overloaded, or unavailable after a failed commit.
        """
        if self.failed:
            raise _UNKNOWN
        if self._events_waiting > EVENTS_WAITING_MAX:
            raise overloaded("too many events wait to be written; retry shortly")

    async def write(self, work: Work) -> None:
        """Queue work and wait until it is durable.

        Raises:
            ProblemError: overloaded, or unavailable when the outcome is unknown.
        """
        self.refuse_when_full()
        settled = trio.Event()
        problems: list[Problem] = []

        def settle(problem: Problem | None) -> None:
            problems.extend([problem] if problem else [])
            settled.set()

        self.submit(work, settle)
        await settled.wait()
        if problems:
            raise ProblemError(problems[0])

    async def drain(self) -> None:
        """Wait until nothing waits to be written."""
        await self._idle.wait()

    async def check_pools(self) -> None:
        """Look at every pool once, beside all other work: a file may have been damaged while nobody watched."""
        after: int | None = 0
        while after is not None:
            after, looked_at, unbalanced = await self._books.scan(partial(unbalanced_after, number=after))
            self._note_checked(looked_at, unbalanced)

    def _note_checked(self, pools: int, unbalanced: list[int]) -> None:
        self.pools_checked += pools
        if unbalanced:
            self.unbalanced.update(unbalanced)
            _log.critical("credit pools do not balance; run tallyd verify", pools=unbalanced)

    async def touch(self) -> None:
        """Make a round trip through the writing connection, between commits."""
        await self._books.touch()

    async def run(self) -> None:
        """Write for ever.

        Raises:
            CommitFailed: a commit did not succeed.
        """
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._waiting:
                await self._commit(self._take())
            self._idle.set()

    def _take(self) -> list[Ticket]:
        taken: list[Ticket] = []
        events = 0
        while self._waiting and (not taken or events + self._waiting[0].size <= EVENTS_PER_COMMIT_MAX):
            ticket = self._waiting.popleft()
            taken.append(ticket)
            events += ticket.size
        self._events_waiting -= events
        return taken

    async def _commit(self, tickets: list[Ticket]) -> None:
        rows = merge(ticket.work for ticket in tickets)
        started = trio.current_time()
        try:
            unbalanced = await self._books.commit(rows)
        except sqlite3.Error as error:
            self.failed = True
            for ticket in (*tickets, *self._waiting):
                ticket.settle(_UNKNOWN.problem)
            raise CommitFailed(str(error)) from error
        self.seconds_committing += trio.current_time() - started
        self.commits += 1
        self.rows_committed += sum(len(some) for some in rows.values())
        pools = pools_among(rows)
        if pools:
            self.unbalanced.difference_update(pools)
            self._note_checked(len(pools), unbalanced)
        if self.on_invoices is not None and tables.INVOICES in rows:
            self.on_invoices([row[0] for row in rows[tables.INVOICES]])
        for ticket in tickets:
            ticket.settle(None)
