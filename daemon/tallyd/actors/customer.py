"""The customer actor: the one owner of a customer's books in memory.

It takes messages in order, asks the engine what they change, makes the changes to its account and hands the same
changes to the writer. While a commit is in flight it goes on with the next message; each answer waits for its own
commit.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
import structlog
import trio

from tallyd.actors import deeds
from tallyd.actors.handlers import HANDLERS
from tallyd.actors.mailbox import Mailbox
from tallyd.actors.messages import Change, Message, Record
from tallyd.actors.recording import EventCrashed
from tallyd.actors.runtime import Runtime
from tallyd.engine.account import Account, Changes, apply
from tallyd.engine.credits.book import NEVER
from tallyd.engine.passing import pass_time
from tallyd.model.customer import CustomerRef
from tallyd.model.event import UsageEvent
from tallyd.model.problems import Code, Problem, ProblemError
from tallyd.store import accounts
from tallyd.store.batch import Work
from tallyd.store.tables import Row, Table

BACKOFF_FIRST_S: Final = 0.05
BACKOFF_MAX_S: Final = 5.0
EVENTS_BETWEEN_YIELDS: Final = 200

AnswerT = TypeVar("AnswerT")

_log = structlog.get_logger(__name__)


class CustomerActor:
    """One customer's owner. `account` may be read, never changed, from the same thread once `loaded` is set."""

    __slots__ = (
        "_busy",
        "_due_written",
        "_in_flight",
        "_keeping_time",
        "_mailbox",
        "_settled",
        "account",
        "backoff_s",
        "failed",
        "loaded",
        "names",
        "off_thread",
        "ref",
        "retired",
        "runtime",
        "used_at",
    )

    def __init__(self, ref: CustomerRef, runtime: Runtime) -> None:
        self.ref = ref
        self.names = [ref]
        self.runtime = runtime
        self._mailbox: Mailbox[Message] = Mailbox()
        self._busy = False
        self._in_flight = 0
        self._due_written = NEVER
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
        self.used_at = self.runtime.time()

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
        rows = await self.runtime.books.read(lambda books: accounts.load_account(books, customer_id))
        if rows is None:
            self.account = Account(deeds.stranger(self.ref), known=False)
        else:
            self.account = rows.account(self.runtime.catalogue.plans)
            self._due_written = rows.due_at
        self.choose_thread(self.account)
        self.loaded.set()
        self.loaded = _LOADED  # an event of its own is no longer needed

    async def with_counters(self, account: Account, moment: int) -> None:
        """Have the counters of a time long ago in memory, too."""
        if moment < account.counters_from:
            load = partial(accounts.load_counters, customer=account.customer.number)
            for key, counter in (await self.runtime.books.read(load)).items():
                account.counters.setdefault(key, counter)
            account.counters_from = 0

    def choose_thread(self, account: Account) -> None:
        """Say whether its plans have models that are not trusted with the daemon's own thread."""
        self.off_thread = not all(
            self.runtime.registry.inline(feature.model)
            for enrolment in account.enrolments
            for feature in enrolment.plan.features.values()
        )

    async def _supervised(self, message: Message, account: Account) -> None:
        """Handle a message; a crash costs this customer a reload and nobody else anything (P8)."""
        self._busy = True
        try:
            await self.time_passed(account)
            await HANDLERS[type(message)](self, message, account)
            self.backoff_s = BACKOFF_FIRST_S
        except ProblemError as error:
            message.settle(error.problem)
        except Exception as error:  # noqa: BLE001 - the supervisor: whatever a defect raises ends here (P8)
            await self._recover(message, error)
        finally:
            self._busy = False

    async def time_passed(self, account: Account) -> int:
        """Return now, when all that time has done by then is written: in slices, so that others get a turn."""
        while account.due_at <= (now := self.now(account)):
            self.submit(None, account, await self.pass_time(account, now, deeds.DUES_A_SLICE))
            await trio.lowlevel.checkpoint()
        return now

    async def pass_time(self, account: Account, now: int, most: int = 0) -> list[Changes]:
        """Do what time has done by now, and return it."""
        number = self.runtime.sequences.events.__next__
        passed = []
        while account.due_at <= now:
            changes = await self.purely(partial(pass_time, now=now, number=number, most=most), account)
            assert changes is not None, "something was due"
            self.apply(account, changes)
            passed.append(changes)
            if most:
                break
        return passed

    def now(self, account: Account) -> int:
        """Return now, as the customer has it."""
        return self.runtime.clock.of(account.customer.id)

    async def purely(self, work: Callable[[Account], AnswerT], account: Account) -> AnswerT:
        """Do pure work on the account; where models are not trusted, on another thread and in a budget (P8)."""
        if not self.off_thread:
            return work(account)
        worker = self.runtime.worker
        answer = await worker.call(lambda watch: work(watch.account(account)))
        return work(worker.silent(account)) if answer is None else answer

    def apply(self, account: Account, changes: Changes) -> None:
        """Make changes to the account, whose plans ask the models themselves, whoever watched them before."""
        plans = self.runtime.catalogue.plans
        for number, (subscription, _) in changes.subscriptions.items():
            phases = subscription.phases
            changes.subscriptions[number] = (
                subscription,
                tuple(plans[phase.plan_key, phase.plan_version] for phase in phases),
            )
        apply(account, changes)

    async def _recover(self, message: Message, error: Exception) -> None:
        _log.exception("customer actor crashed", customer=self.ref.value)
        self.runtime.counts.actor_crashes += 1
        if isinstance(message, Record) and isinstance(error, EventCrashed):
            message.crashes[error.index] = message.crashes.get(error.index, 0) + 1
            self._mailbox.put_back(message)
        else:
            text = "the request could not be carried out; nothing was changed"
            message.settle(Problem(code=Code.INTERNAL, message=text))
        self.account = None
        await trio.sleep(self.backoff_s)
        self.backoff_s = min(self.backoff_s * 2, BACKOFF_MAX_S)
        await self.own_commits()

    async def own_commits(self) -> None:
        """Wait until all that this customer has submitted is durable: then the books say what happened."""
        if self._in_flight:
            self._settled = trio.Event()
            await self._settled.wait()

    # What handlers are given

    async def decide(self, decide: Callable[..., Any], event: UsageEvent, account: Account, now: int) -> Any:
        """Decide an event as the message says; nothing is changed by it."""
        runtime = self.runtime
        if not account.known and not account.customer.number:
            account.customer = msgspec.structs.replace(account.customer, number=next(runtime.sequences.customers))
        arguments = {
            "number": runtime.sequences.events.__next__,
            "now": now,
            "terms": runtime.catalogue.terms,
        }
        if self.off_thread:
            return await runtime.worker.decide(decide, account, event, arguments)
        return decide(account, event, **arguments)

    def submit(
        self,
        message: Message | None,
        account: Account,
        changes: list[Changes],
        rows: list[tuple[Table, Row]] | None = None,
    ) -> None:
        """Hand changes to the writer; the message is answered when they, and all before them, are durable."""
        work = Work(account.customer.number, changes, rows or [])
        if account.due_at != self._due_written and account.customer.number:
            work.due_at = self._due_written = account.due_at
            self.runtime.due.note(work.due_at)
        elif message is not None and not changes and not rows and not self._in_flight:
            message.settle()
            return
        self._in_flight += 1

        def settle(problem: Problem | None) -> None:
            self._in_flight -= 1
            if not self._in_flight and self._settled is not None:
                self._settled.set()
            if message is not None:
                message.settle(problem)

        self.runtime.writer.submit(work, settle)

    def keep_time(self) -> None:
        """Write what time alone has done to the customer's books, if anything: readers need not wait for it."""
        account = self.account
        if self._keeping_time or account is None or account.due_at > self.now(account):
            return
        message = Change(lambda _draft, _prepared: None)
        message.after(self._time_kept)
        with suppress(ProblemError):  # too busy: somebody asks again, and every decision does it anyway
            self.post(message)
            self._keeping_time = True

    def _time_kept(self) -> None:
        self._keeping_time = False


_LOADED: Final = trio.Event()
_LOADED.set()
