"""The two things aiosqlite asks of an event loop, answered by Trio.

aiosqlite's coroutines make a future, hand it to the connection's thread, and await it; the thread resolves it
through `call_soon_threadsafe`. Given a future that waits in Trio, they run under Trio as they are: no second event
loop turns beside Trio's, and a call costs a fraction of what it costs through one.
"""

import asyncio
import contextvars
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import trio


class TrioFuture:
    """Stands in for `asyncio.Future`; awaited by one Trio task, resolved from any thread through its loop."""

    def __init__(self, loop: "TrioLoop") -> None:
        self._loop = loop
        self._task: trio.lowlevel.Task | None = None
        self._done = False
        self._result: Any = None
        self._error: BaseException | None = None

    def get_loop(self) -> "TrioLoop":
        """Return the loop that the resolving thread goes through."""
        return self._loop

    def done(self) -> bool:
        """Whether it is resolved, or nobody waits any more."""
        return self._done

    def set_result(self, result: Any) -> None:
        """Resolve; called in Trio's thread."""
        self._result = result
        self._wake()

    def set_exception(self, error: BaseException) -> None:
        """Fail; called in Trio's thread."""
        self._error = error
        self._wake()

    def _wake(self) -> None:
        self._done = True
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        if not self._done:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abandon)
        if self._error is not None:
            raise self._error
        return self._result

    def _abandon(self, _: Any) -> trio.lowlevel.Abort:
        """Cancelled: the thread goes on with its work, the result goes nowhere."""
        self._done = True
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


class TrioLoop(asyncio.AbstractEventLoop):
    """Stands in for an asyncio loop; has only what aiosqlite uses."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()

    def create_future(self) -> Any:
        """Return a future that waits in Trio."""
        return TrioFuture(self)

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> None:
        """Run a callback in Trio's thread; after Trio has ended, nobody is left to tell."""
        del context
        try:
            self._token.run_sync_soon(callback, *args)
        except trio.RunFinishedError:
            return


@contextmanager
def trio_loop() -> Iterator[None]:
    """Make Trio the event loop that aiosqlite finds in this thread."""
    asyncio.set_event_loop(TrioLoop())  # type: ignore[abstract]
    try:
        yield
    finally:
        asyncio.set_event_loop(None)
