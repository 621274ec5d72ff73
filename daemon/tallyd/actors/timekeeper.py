"""The timekeeper: sees that what falls due by time alone is written, for customers nobody speaks to, too.

Answers never wait for it (P7). It sleeps until the next due moment in the books; whoever writes an earlier one
wakes it. After a week away it does every missed step, the longest due first, each dated by its own instant.
"""

from collections.abc import Iterable
from functools import partial
from typing import Final

import structlog
import trio

from tallyd.actors.directory import Directory
from tallyd.actors.due import Due
from tallyd.actors.messages import Change
from tallyd.actors.runtime import Runtime
from tallyd.model.customer import CustomerRef, RefKind
from tallyd.model.moments import SECOND_US
from tallyd.model.problems import ProblemError
from tallyd.store import subscription_rows

CUSTOMERS_A_LOOK: Final = 200
AT_ONCE: Final = 2
"""Customers whose time is written side by side: few, so that others are answered in between."""

SLEEP_MAX_S: Final = 60.0
"""The machine's clock may be set, which no sleep notices."""

BUSY_S: Final = 0.5
TROUBLED_S: Final = 60.0
"""How long a customer whose time could not be written is left alone: others do not wait for it (P8)."""

_log = structlog.get_logger(__name__)


class Timekeeper:
    """Writes what is due, for ever.

    Args:
        runtime: what the actors share.
        directory: the actors.
    """

    def __init__(self, runtime: Runtime, directory: Directory) -> None:
        self._runtime = runtime
        self._directory = directory
        self._troubled: dict[str, float] = {}

    async def run(self) -> None:
        """Keep time."""
        await self.catch_up(self._runtime.clock.standing)
        while True:
            self._due.clear()
            if not await self._write_due():
                await self._sleep()

    @property
    def _due(self) -> Due:
        return self._runtime.due

    async def _sleep(self) -> None:
        moment = await self._runtime.books.read(subscription_rows.next_due)
        pause_s = SLEEP_MAX_S
        if moment is not None:
            pause_s = min(pause_s, max(0.0, (moment - self._runtime.clock.now()) / SECOND_US))
        with trio.move_on_after(pause_s or BUSY_S):
            await self._due.earlier_than(moment)

    async def _write_due(self) -> bool:
        """Write for the customers that are due the longest; say whether there were any."""
        runtime = self._runtime
        since = runtime.time() - TROUBLED_S
        self._troubled = {customer: at for customer, at in self._troubled.items() if at > since}
        limit = CUSTOMERS_A_LOOK + len(self._troubled)
        query = partial(subscription_rows.due_customers, now=runtime.clock.now(), limit=limit)
        found = [each for each in await runtime.books.read(query) if each not in self._troubled]
        await self.catch_up(found)
        return bool(found)

    async def catch_up(self, customers: Iterable[str]) -> None:
        """Write what is due for some customers, by their ids."""
        waiting = iter([customer for customer in customers if customer])
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(self._catch_up, waiting)

    async def _catch_up(self, customers: Iterable[str]) -> None:
        for customer in customers:
            message = Change(lambda _draft, _prepared: None)
            try:
                self._runtime.writer.refuse_when_full()
                self._directory.actor(CustomerRef(RefKind.ID, customer)).post(message)
            except ProblemError:  # too busy: its time is written by whoever speaks to it, or at the next look
                await trio.sleep(BUSY_S)
                continue
            await message.done.wait()
            if message.problem is not None:
                self._troubled[customer] = self._runtime.time()
                _log.error("time could not be written", customer=customer, problem=message.problem.message)
