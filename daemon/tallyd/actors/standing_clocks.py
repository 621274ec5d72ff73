"""Test clocks: a customer, or the whole daemon, on a clock that stands until it is moved, and never runs back.

Moving one does everything the time would have done, in order, each step dated by its own instant: customers'
actors let it pass as they do after a week away. A clock is in the books before anything that is decided by it, so
that a restart goes on where it stood.

Time that has been lived through cannot be taken back. So a clock may stand in the past only where nothing has
happened yet, and it may be ended only where it is not ahead of the clock that follows it: the daemon's for a
customer, the machine's for the daemon.
"""

from collections.abc import Iterable
from functools import partial
from typing import Final

import structlog
import trio

from tallyd.actors.directory import Directory
from tallyd.actors.messages import Change, Introduce, Message
from tallyd.actors.runtime import Runtime
from tallyd.clock import DAEMON
from tallyd.engine.account import Account
from tallyd.model.customer import CustomerRef, RefKind
from tallyd.model.moments import iso
from tallyd.model.problems import Code, Problem, ProblemError, invalid, unavailable
from tallyd.store import subscription_rows, tables
from tallyd.store.batch import Work
from tallyd.store.tables import Row, Table

AT_ONCE: Final = 4
CUSTOMERS_A_LOOK: Final = 200
BUSY_S: Final = 0.05
_RETRIED: Final = frozenset({Code.RATE_LIMITED})

_log = structlog.get_logger(__name__)


class StandingClocks:
    """The only place that changes test clocks. `None` in place of a customer means the whole daemon.

    Args:
        runtime: what the actors share.
        directory: the actors.
    """

    def __init__(self, runtime: Runtime, directory: Directory) -> None:
        self._runtime = runtime
        self._directory = directory
        self._clock = runtime.clock
        self._changing = trio.Lock()  # a clock that is ended and set again must be written in that order

    async def put(self, ref: CustomerRef | None, now: int) -> None:
        """Put a customer, made known if need be, or the daemon on a clock that stands at an instant.

        Raises:
            ProblemError: something has happened already, and the instant lies before it.
        """
        async with self._changing:
            begins = self._now(ref)
            if now < begins and not await self._untouched(ref):
                raise invalid("now", f"must not lie before {iso(begins)}, where the clock stands: {_NEVER_BACK}")
            await self._stand(ref, now)
        if ref is not None and not (await self._directory.account(ref)).known:
            await self._introduce(ref)
        await self._live(ref)

    async def advance(self, ref: CustomerRef | None, to: int) -> None:
        """Move a clock that stands, and do all that falls due until then, durably.

        Raises:
            ProblemError: there is no such clock, it stands later than that, or not all could be written.
        """
        async with self._changing:
            stands = self._standing(ref)
            if to < stands:
                raise invalid("to", f"must not lie before {iso(stands)}, where the clock stands: {_NEVER_BACK}")
            await self._stand(ref, to)
        await self._live(ref)

    async def end(self, ref: CustomerRef | None) -> None:
        """Let time run again, from now on, for a customer or the daemon.

        Raises:
            ProblemError: there is no such clock, or it is ahead of the time that would run then.
        """
        async with self._changing:
            stands = self._standing(ref)
            runs = self._clock.system.now() if ref is None else self._clock.now()
            if stands > runs and not await self._untouched(ref):
                text = f"the clock stands at {iso(stands)} and time is at {iso(runs)}: {_NEVER_BACK}"
                text += "; end it when time has come so far"
                raise ProblemError(Problem(code=Code.CONFLICT, message=text))
            self._runtime.writer.refuse_when_full()
            del self._clock.standing[_key(ref)]
            await self._write((tables.ENDED_TEST_CLOCKS, (_key(ref),)))
        await self._live(ref)

    # Where a clock stands

    def _now(self, ref: CustomerRef | None) -> int:
        return self._clock.now() if ref is None else self._clock.of(ref.customer_id())

    def _standing(self, ref: CustomerRef | None) -> int:
        stands = self._clock.standing.get(_key(ref))
        if stands is None:
            whose = "the daemon" if ref is None else f"customer {ref.value!r}"
            raise ProblemError(Problem(code=Code.NOT_FOUND, message=f"{whose} is on no test clock; set one first"))
        return stands

    async def _untouched(self, ref: CustomerRef | None) -> bool:
        """Whether nothing is in the ledger yet that a time was put on: of a customer, or of any."""
        if ref is not None:
            return not (await self._directory.account(ref)).position
        if await self._runtime.books.read(subscription_rows.any_ledger):
            return False
        accounts: Iterable[Account | None] = (actor.account for actor in self._directory)
        return not any(account.position for account in accounts if account is not None)

    async def _stand(self, ref: CustomerRef | None, now: int) -> None:
        """Set a clock: what is decided by it is written after it, as it is already waiting to be written."""
        self._runtime.writer.refuse_when_full()
        self._clock.standing[_key(ref)] = now
        await self._write((tables.TEST_CLOCKS, (_key(ref), now)))

    async def _write(self, row: tuple[Table, Row]) -> None:
        await self._runtime.writer.write(Work(rows=[row]))
        self._runtime.due.wake()

    # What time does

    async def _live(self, ref: CustomerRef | None) -> None:
        """Have all written that is due by a clock.

        Raises:
            ProblemError: of some customers it could not be.
        """
        failed: dict[str, Problem] = {}
        if ref is not None:
            await self._catch_up(iter([ref.customer_id()]), failed)
        else:
            await self._live_all(failed)
        if failed:
            customer, problem = next(iter(failed.items()))
            text = f"the clock is set, but what is due could not be written for {len(failed)} customers, such as"
            raise unavailable(f"{text} {customer}: {problem.message}; see the log, then advance it again")

    async def _live_all(self, failed: dict[str, Problem]) -> None:
        while True:
            query = partial(
                subscription_rows.due_customers, now=self._clock.now(), limit=CUSTOMERS_A_LOOK + len(failed)
            )
            found = [each for each in await self._runtime.books.read(query) if each not in failed]
            if not found:
                return
            waiting = iter(found)
            async with trio.open_nursery() as nursery:
                for _ in range(AT_ONCE):
                    nursery.start_soon(self._catch_up, waiting, failed)

    async def _catch_up(self, customers: Iterable[str], failed: dict[str, Problem]) -> None:
        for customer in customers:
            ref = CustomerRef(RefKind.ID, customer)
            problem = await self._ask(ref, Change(lambda _draft, _prepared: None))
            while problem is not None and problem.code in _RETRIED:
                await trio.sleep(BUSY_S)
                problem = await self._ask(ref, Change(lambda _draft, _prepared: None))
            if problem is not None:
                _log.error("time could not be written", customer=customer, problem=problem.message)
                failed[customer] = problem

    async def _introduce(self, ref: CustomerRef) -> None:
        problem = await self._ask(ref, Introduce(None))
        if problem is not None and problem.code is not Code.CONFLICT:  # an event made it known meanwhile
            raise ProblemError(problem)

    async def _ask(self, ref: CustomerRef, message: Message) -> Problem | None:
        try:
            self._runtime.writer.refuse_when_full()
            self._directory.actor(ref).post(message)
        except ProblemError as error:
            return error.problem
        await message.done.wait()
        return message.problem


_NEVER_BACK: Final = "time never runs backwards"


def _key(ref: CustomerRef | None) -> str:
    return DAEMON if ref is None else ref.customer_id()
