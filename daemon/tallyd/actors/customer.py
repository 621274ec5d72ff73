"""The customer actor: the one owner of a customer's books in memory.

It takes messages in order, asks the engine what they change, makes the changes to its account and hands the same
changes to the writer. While a commit is in flight it goes on with the next message; each answer waits for its own
commit.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import msgspec
import structlog
import trio

from tallyd.actors import deeds
from tallyd.actors.mailbox import Mailbox
from tallyd.actors.messages import (
    Accepted,
    ChangeCredits,
    ChangeProfile,
    Introduce,
    Message,
    Outcome,
    Record,
    Refused,
    Rerate,
    Reserve,
    Subscribe,
)
from tallyd.actors.runtime import Runtime
from tallyd.actors.worker import all_inline
from tallyd.engine import rerating, reserving
from tallyd.engine.account import Account, Changes, apply
from tallyd.engine.recording import Denied
from tallyd.engine.reserving import Reserved
from tallyd.model.credits import HoldStatus
from tallyd.model.customer import CustomerRef
from tallyd.model.event import UsageEvent
from tallyd.model.problems import Code, Problem, ProblemError
from tallyd.store import accounts, credit_rows, event_rows, tables
from tallyd.store.batch import Work
from tallyd.store.tables import Row, Table

CRASHES_MAX: Final = 2
BACKOFF_FIRST_S: Final = 0.05
BACKOFF_MAX_S: Final = 5.0
EVENTS_BETWEEN_YIELDS: Final = 200

_log = structlog.get_logger(__name__)


class _EventCrashed(Exception):
    """Deciding an event raised something no rule raises: a defect. `index` says which event."""

    def __init__(self, index: int) -> None:
        super().__init__(f"event {index} crashed")
        self.index = index


class CustomerActor:
    """One customer's owner. `account` may be read, never changed, from the same thread once `loaded` is set."""

    __slots__ = (
        "_busy",
        "_in_flight",
        "_keeping_time",
        "_mailbox",
        "_runtime",
        "_settled",
        "account",
        "backoff_s",
        "failed",
        "loaded",
        "names",
        "off_thread",
        "ref",
        "retired",
        "used_at",
    )

    def __init__(self, ref: CustomerRef, runtime: Runtime) -> None:
        self.ref = ref
        self.names = [ref]
        self._runtime = runtime
        self._mailbox: Mailbox[Message] = Mailbox()
        self._busy = False
        self._in_flight = 0
        self._keeping_time = False
        self._settled: trio.Event | None = None
        self.account: Account | None = None
        self.loaded = trio.Event()
        self.retired = False
        self.used_at = trio.current_time()
        self.off_thread = False
        self.failed = False
        self.backoff_s = BACKOFF_FIRST_S

    def post(self, message: Message) -> None:
        """Leave a message.

        Raises:
            ProblemError: the mailbox is full; retry shortly.
        """
        self._mailbox.put(message)
        self.used_at = self._runtime.time()

    def fail_waiting(self) -> None:
        """Answer all that waits: the customer's books could not be loaded."""
        self.failed = True
        self.loaded.set()
        while self._mailbox:
            text = "the customer's books could not be read; retry with the same key"
            self._mailbox.take().settle(Problem(code=Code.UNAVAILABLE, message=text))

    def retire(self) -> None:
        """End an idle actor."""
        self.retired = True
        self._mailbox.wake()

    @property
    def idle(self) -> bool:
        """Whether nothing is asked of it, nothing is being decided and nothing of it waits to be written."""
        waiting = self._mailbox or self._busy or self._in_flight
        return not waiting and self.account is not None

    async def run(self) -> None:
        """Serve until retired."""
        while not self.retired:
            if self.account is None:
                await self._load()
            await self._mailbox.wait()
            since_yield = 0
            while self._mailbox and self.account is not None:
                message = self._mailbox.take()
                await self._supervised(message, self.account)
                since_yield += len(message.events) if isinstance(message, Record) else 1
                if since_yield >= EVENTS_BETWEEN_YIELDS:
                    await trio.lowlevel.checkpoint()
                    since_yield = 0

    async def _load(self) -> None:
        customer_id = self.ref.customer_id()
        rows = await self._runtime.books.read(lambda books: accounts.load_account(books, customer_id))
        if rows is None:
            self.account = Account(deeds.stranger(self.ref), known=False)
        else:
            self.account = rows.account(self._runtime.catalogue.plans)
        self._choose_thread(self.account)
        self.loaded.set()
        self.loaded = _LOADED  # an event of its own is no longer needed

    def _choose_thread(self, account: Account) -> None:
        self.off_thread = not all(
            self._runtime.registry.inline(feature.model)
            for enrolment in account.enrolments
            for feature in enrolment.plan.features.values()
        )

    async def _supervised(self, message: Message, account: Account) -> None:
        """Handle a message; a crash costs this customer a reload and nobody else anything (P8)."""
        self._busy = True
        try:
            await self._pass_time(account)
            await self._handle(message, account)
            self.backoff_s = BACKOFF_FIRST_S
        except ProblemError as error:
            message.settle(error.problem)
        except Exception as error:  # noqa: BLE001 - the supervisor: whatever a defect raises ends here (P8)
            await self._recover(message, error)
        finally:
            self._busy = False

    async def _pass_time(self, account: Account) -> None:
        """Write what time has done by now, in slices: what is refused afterwards need not do it again."""
        while account.credits is not None and account.credits.due_at <= self._runtime.clock.now():
            changes = deeds.pass_time(account, self._runtime)
            apply(account, changes)
            self._submit(None, account, [changes])
            await trio.lowlevel.checkpoint()

    async def _recover(self, message: Message, error: Exception) -> None:
        _log.exception("customer actor crashed", customer=self.ref.value)
        self._runtime.counts.actor_crashes += 1
        if isinstance(message, Record) and isinstance(error, _EventCrashed):
            message.crashes[error.index] = message.crashes.get(error.index, 0) + 1
            self._mailbox.put_back(message)
        else:
            text = "the request could not be carried out; nothing was changed"
            message.settle(Problem(code=Code.INTERNAL, message=text))
        self.account = None
        await trio.sleep(self.backoff_s)
        self.backoff_s = min(self.backoff_s * 2, BACKOFF_MAX_S)
        await self._own_commits()

    async def _own_commits(self) -> None:
        """Wait until all that this customer has submitted is durable: then the books say what happened."""
        if self._in_flight:
            self._settled = trio.Event()
            await self._settled.wait()

    async def _handle(self, message: Message, account: Account) -> None:
        if isinstance(message, Record):
            await self._record(message, account)
        elif isinstance(message, Reserve):
            await self._reserve(message, account)
        elif isinstance(message, ChangeCredits):
            await self._change_credits(message, account)
        elif isinstance(message, Subscribe):
            changes = deeds.subscribe(message, account, self._runtime, self.ref)
            apply(account, changes)
            self._choose_thread(account)
            self._submit(message, account, [changes])
        elif isinstance(message, Introduce):
            changes = deeds.introduce(message, account, self._runtime, self.ref)
            apply(account, changes)
            self._submit(message, account, [changes])
        elif isinstance(message, ChangeProfile):
            changes = deeds.change_profile(message, account, self.ref)
            apply(account, changes)
            row = msgspec.structs.astuple(account.customer)
            self._submit(message, account, [], [(tables.CHANGED_CUSTOMERS, row)])
        elif isinstance(message, Rerate):
            await self._rerate(message, account)

    # Recording

    async def _record(self, message: Record, account: Account) -> None:
        runtime = self._runtime
        await self._learn_prices(message.events)
        if not account.known and not runtime.auto_create_customers:
            raise ProblemError(deeds.unknown_customer(self.ref))
        decide = message.decide
        if message.hold is not None:
            decide = partial(decide, written=await self._stands(message.hold, account))
        outcomes: list[Outcome] = []
        changes: list[Changes] = []
        for index, event in enumerate(message.events):
            if message.crashes.get(index, 0) >= CRASHES_MAX:
                outcomes.append(_POISON)
                continue
            try:
                decided = await self._decide(decide, event, account)
            except ProblemError as error:
                outcomes.append(error.problem)
                continue
            except Exception as error:  # a defect: counted against this event, which twice makes poison
                raise _EventCrashed(index) from error
            if isinstance(decided, Denied):
                outcomes.append(Refused(decided.entitlement))
                continue
            apply(account, decided.changes)
            changes.append(decided.changes)
            outcomes.append(Accepted(decided.row, decided.charges, decided.drawn, decided.hold))
        message.outcomes = outcomes
        self._submit(message, account, changes, self._new_features(changes))

    async def _stands(self, hold: int, account: Account) -> HoldStatus:
        """Return where a hold stands; what is neither open nor ended lately has been written long ago."""
        held = account.credits
        if held is not None and hold in held.holds:
            return HoldStatus.HELD
        if held is not None and hold in held.closed:
            return held.closed[hold]
        await self._own_commits()
        row = await self._runtime.books.read(partial(credit_rows.hold_by_number, number=hold))
        assert row is not None, f"hold {hold} was found before"
        return row.status

    async def _learn_prices(self, events: Sequence[UsageEvent]) -> None:
        """Learn the prices that the events need; again when a reload has thrown them away meanwhile."""
        catalogue = self._runtime.catalogue
        while needed := {key for event in events if (key := catalogue.price_needed(event)) is not None}:
            for key in needed:
                await catalogue.learn_price(key)

    def _new_features(self, changes: list[Changes]) -> list[tuple[Table, Row]]:
        """Return the rows of features named for the first time, once nothing can crash before they are written."""
        rows: list[tuple[Table, Row]] = []
        for each in changes:
            if each.event is not None and each.event.feature is not None:
                feature = self._runtime.catalogue.new_feature(each.event.feature)
                if feature is not None:
                    rows.append((tables.FEATURES, msgspec.structs.astuple(feature)))
        return rows

    async def _decide(self, decide: Callable[..., Any], event: UsageEvent, account: Account) -> Any:
        runtime = self._runtime
        if not account.known and not account.customer.number:
            account.customer = msgspec.structs.replace(account.customer, number=next(runtime.sequences.customers))
        arguments = {
            "number": runtime.sequences.events.__next__,
            "now": runtime.clock.now(),
            "terms": runtime.catalogue.terms,
        }
        if self.off_thread:
            return await runtime.worker.decide(decide, account, event, arguments)
        return decide(account, event, **arguments)

    def _submit(
        self,
        message: Message | None,
        account: Account,
        changes: list[Changes],
        rows: list[tuple[Table, Row]] | None = None,
    ) -> None:
        """Hand changes to the writer; the message is answered when they, and all before them, are durable."""
        if message is not None and not changes and not rows and not self._in_flight:
            message.settle()
            return
        self._in_flight += 1

        def settle(problem: Problem | None) -> None:
            self._in_flight -= 1
            if not self._in_flight and self._settled is not None:
                self._settled.set()
            if message is not None:
                message.settle(problem)

        self._runtime.writer.submit(Work(account.customer.number, changes, rows or []), settle)

    # Everything else

    async def _reserve(self, message: Reserve, account: Account) -> None:
        await self._learn_prices([message.event])
        decide = partial(reserving.reserve, ttl=message.ttl)
        decided: Reserved | Denied = await self._decide(decide, message.event, account)
        message.outcome = decided
        if isinstance(decided, Denied):
            message.settle()
            return
        apply(account, decided.changes)
        self._submit(message, account, [decided.changes])

    async def _change_credits(self, message: ChangeCredits, account: Account) -> None:
        prepared = None
        if message.prepare is not None:
            await self._own_commits()
            prepared = await self._runtime.books.read(message.prepare)
        changes = deeds.change_credits(message, account, self._runtime, self.ref, prepared)
        if changes is not None:
            apply(account, changes)
        self._submit(message, account, [changes] if changes is not None else [])

    def keep_time(self) -> None:
        """Write what time alone has done to the customer's credits, if anything: readers need not wait for it."""
        account = self.account
        if self._keeping_time or account is None or account.credits is None:
            return
        if account.credits.due_at <= self._runtime.clock.now():
            message = ChangeCredits(lambda _draft, _prepared: None)
            message.after(self._time_kept)
            with suppress(ProblemError):  # too busy: somebody asks again, and every decision does it anyway
                self.post(message)
                self._keeping_time = True

    def _time_kept(self) -> None:
        self._keeping_time = False

    async def _rerate(self, message: Rerate, account: Account) -> None:
        runtime = self._runtime
        await self._own_commits()
        row, charges = await runtime.books.read(partial(event_rows.event_with_charges, number=message.event))
        await self._learn_prices([rerating.event_of(row)])
        latest = runtime.catalogue.latest
        decide = partial(
            rerating.decide,
            row=row,
            charges=charges,
            now=runtime.clock.now(),
            terms=runtime.catalogue.terms,
        )
        plans = [each.plan for each in account.enrolments]
        if all_inline(runtime.registry, [*plans, *(latest(plan.key) for plan in plans)]):
            changes = decide(account, latest=latest)
        else:
            changes = await runtime.worker.call(
                lambda watch: decide(watch.account(account), latest=watch.latest(latest))
            )
        if changes is None:
            message.settle()
            return
        apply(account, changes)
        message.complete = changes.rerated is not None and changes.rerated.event.no_price is None
        self._submit(message, account, [changes])


_LOADED: Final = trio.Event()
_LOADED.set()

_POISON: Final = Problem(
    code=Code.POISON,
    message="the event crashed its customer's actor twice and is refused; see the daemon's log",
)
