"""Idempotency: a key counts once, for ever (P2). This is where a duplicate is found and refused.

Three things together make it so. A key on its way is *claimed* here, so of two requests with one key the second
waits for the first. A key from earlier is found in the books, unless the filter is certain that
it is not there. And the books' unique index stands behind both.
"""

import sqlite3
from collections.abc import Iterable
from functools import partial
from typing import Final

import structlog
import trio

from tallyd.actors.key_filter import KeyFilter
from tallyd.actors.messages import Duplicate
from tallyd.model.event import UsageEvent
from tallyd.model.problems import unavailable
from tallyd.store.books import Books
from tallyd.store.event_rows import KEYED, KeyPair, KnownEvent, keys_after, known_keys

KEYS_A_SCAN: Final = 10_000
KEYS_BETWEEN_YIELDS: Final = 200

_log: Final = structlog.get_logger(__name__)


class Claims:
    """Keys whose first request is still on its way."""

    def __init__(self) -> None:
        self._held: dict[KeyPair, trio.Event | None] = {}

    def __len__(self) -> int:
        return len(self._held)

    def claim(self, pair: KeyPair) -> trio.Event | None:
        """Claim a key. None: it is yours; else wait for the event, then look again."""
        if pair not in self._held:
            self._held[pair] = None  # an event is made when somebody waits: hardly ever
            return None
        holder = self._held[pair]
        if holder is None:
            holder = self._held[pair] = trio.Event()
        return holder

    def release(self, pairs: Iterable[KeyPair]) -> None:
        """Give keys back, durable or refused; whoever waits looks again."""
        for pair in pairs:
            waiting = self._held.pop(pair)
            if waiting is not None:
                waiting.set()


class KeyIndex:
    """Looks keys up in the books; look-ups that wait together go together, as commits do."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._filter = KeyFilter()
        self._waiting: list[_Lookup] = []
        self._wake = trio.Event()

    def note(self, pair: KeyPair) -> None:
        """Note a key that was made here and needs no look-up: somebody may send it one day."""
        self._filter.add(pair)

    async def known(self, pairs: list[KeyPair]) -> dict[KeyPair, KnownEvent]:
        """Return the events already recorded under any of the keys.

        Raises:
            ProblemError: the books cannot be read.
        """
        asked = []
        for pair in pairs:
            if not self._filter.certainly_new(pair):
                asked.append(pair)
            self._filter.add(pair)
        if not asked:
            return {}
        lookup = _Lookup(asked)
        self._waiting.append(lookup)
        self._wake.set()
        await lookup.done.wait()
        if lookup.found is None:
            raise unavailable("the books cannot be read; retry with the same key")
        return lookup.found

    async def fill_filter(self) -> None:
        """Put every key of the books into the filter, a few at a time; until then all keys are looked up."""
        for table in KEYED:
            await self._fill_from(table)
        self._filter.filled = True

    async def _fill_from(self, table: str) -> None:
        after = 0
        while True:
            rows = await self._books.scan(partial(keys_after, table=table, row=after, limit=KEYS_A_SCAN))
            for number, (row, pair) in enumerate(rows):
                self._filter.add(pair)
                after = row
                if number % KEYS_BETWEEN_YIELDS == 0:
                    await trio.lowlevel.checkpoint()
            if len(rows) < KEYS_A_SCAN:
                break

    async def run(self) -> None:
        """Look up for ever."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            lookups, self._waiting = self._waiting, []
            pairs = {pair for lookup in lookups for pair in lookup.pairs}
            found: dict[KeyPair, KnownEvent] | None = None
            try:
                found = await self._books.read(partial(known_keys, pairs=pairs))
            except sqlite3.Error:
                _log.exception("key look-up failed")
            for lookup in lookups:
                lookup.found = found
                lookup.done.set()


class _Lookup:
    __slots__ = ("done", "found", "pairs")

    def __init__(self, pairs: list[KeyPair]) -> None:
        self.pairs = pairs
        self.found: dict[KeyPair, KnownEvent] | None = None
        self.done = trio.Event()


def duplicate(event: UsageEvent, original: KnownEvent) -> Duplicate:
    """Answer a key that is taken: the same body is a retry, another one a conflict."""
    return Duplicate(original.id, event.body == original.body)
