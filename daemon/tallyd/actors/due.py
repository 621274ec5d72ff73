"""The next due moment that somebody has written: what wakes the timekeeper."""

import trio

from tallyd.engine.credits.book import NEVER


class Due:
    """The earliest moment noted since it was last looked at."""

    __slots__ = ("_earliest", "_noted")

    def __init__(self) -> None:
        self._earliest = NEVER
        self._noted = trio.Event()

    def note(self, moment: int) -> None:
        """Note that something is due at a moment."""
        if moment < self._earliest:
            self._earliest = moment
            self._noted.set()

    def wake(self) -> None:
        """Say that time itself has moved."""
        self._earliest = -1
        self._noted.set()

    def clear(self) -> None:
        """Forget what was noted: it is about to be looked up."""
        self._earliest = NEVER
        self._noted = trio.Event()

    async def earlier_than(self, moment: int | None) -> None:
        """Wait until something is noted that is due earlier."""
        while self._earliest >= (NEVER if moment is None else moment):
            await self._noted.wait()
            self._noted = trio.Event()
