"""The way in for events, whichever contract they came through: claim, look up, dispatch, wait for the commit."""

from collections.abc import Iterable, Sequence
from functools import partial

import msgspec
import trio

from tallyd.actors.directory import Directory
from tallyd.actors.idempotency import Claims, KeyIndex, duplicate
from tallyd.actors.messages import Accepted, DecideEvent, Duplicate, Message, Outcome, Record, Refused
from tallyd.actors.runtime import Runtime
from tallyd.engine import recording
from tallyd.model.customer import CustomerRef
from tallyd.model.event import UsageEvent
from tallyd.model.problems import Code, Problem, ProblemError
from tallyd.store.event_rows import KeyPair, KnownEvent


class Request(msgspec.Struct, frozen=True, gc=False):
    """An event and whom it is about."""

    ref: CustomerRef
    event: UsageEvent


class Intake:
    """Takes events from all interfaces."""

    def __init__(self, runtime: Runtime, directory: Directory) -> None:
        self._runtime = runtime
        self._directory = directory
        self._claims = Claims()
        self._index = KeyIndex(runtime.books)

    async def run(self) -> None:
        """Serve key look-ups for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._index.fill_filter)
            await self._index.run()

    async def ingest(
        self, requests: Sequence[Request], decide: DecideEvent = recording.record, hold: int | None = None
    ) -> list[Outcome]:
        """Record events; outcomes are in the order of the requests, and durable when this returns.

        `decide` and `hold` say how each is decided: see `Record`. Cancelling the wait does not cancel what was
        dispatched.
        """
        try:
            self._runtime.writer.refuse_when_full()
        except ProblemError as error:
            self._runtime.counts.overloads += 1
            return [error.problem] * len(requests)
        outcomes: dict[int, Outcome] = {}
        waiting = list(range(len(requests)))
        while waiting:
            waiting = await self._round(requests, waiting, outcomes, decide, hold)
        self._count(outcomes.values())
        return [outcomes[index] for index in range(len(requests))]

    async def _round(
        self,
        requests: Sequence[Request],
        indexes: list[int],
        outcomes: dict[int, Outcome],
        decide: DecideEvent,
        hold: int | None,
    ) -> list[int]:
        """Settle the requests whose keys can be claimed; return the others, once their holders are done."""
        mine: list[int] = []
        others: list[int] = []
        held: list[KeyPair] = []
        holders: list[trio.Event] = []
        for index in indexes:
            event = requests[index].event
            if event.keyed:
                pair = (event.key_space, event.key)
                holder = self._claims.claim(pair)
                if holder is not None:
                    others.append(index)
                    holders.append(holder)
                    continue
                held.append(pair)
            else:
                self._index.note((event.key_space, event.key))
            mine.append(index)
        try:
            if held:
                mine = await self._without_known(requests, mine, held, outcomes)
            messages = self._dispatch(requests, mine, held, outcomes, decide, hold)
        finally:
            self._claims.release(held)  # those not handed over with a message
        for message, part in messages:
            await message.done.wait()
            outcomes.update(zip(part, message.outcomes, strict=True))
        for holder in holders:
            await holder.wait()
        return others

    async def _without_known(
        self, requests: Sequence[Request], mine: list[int], held: list[KeyPair], outcomes: dict[int, Outcome]
    ) -> list[int]:
        known = await self._index.known(held)
        if not known:
            return mine
        new = []
        for index in mine:
            event = requests[index].event
            original = known.get((event.key_space, event.key)) if event.keyed else None
            if original is None:
                new.append(index)
            else:
                outcomes[index] = duplicate(event, original)
        return new

    def _dispatch(
        self,
        requests: Sequence[Request],
        indexes: list[int],
        held: list[KeyPair],
        outcomes: dict[int, Outcome],
        decide: DecideEvent,
        hold: int | None,
    ) -> list[tuple[Record, list[int]]]:
        """Send each customer its part as one message; the message takes its keys' claims with it."""
        parts: dict[CustomerRef, list[int]] = {}
        for index in indexes:
            parts.setdefault(requests[index].ref, []).append(index)
        messages = []
        taken: set[KeyPair] = set()
        try:
            for ref, part in parts.items():
                record = Record([requests[index].event for index in part], decide, hold)
                try:
                    self._directory.actor(ref).post(record)
                except ProblemError as error:
                    self._runtime.counts.overloads += 1
                    outcomes.update(dict.fromkeys(part, error.problem))
                    continue
                pairs = [(event.key_space, event.key) for event in record.events if event.keyed]
                if pairs:
                    record.after(partial(self._claims.release, pairs))
                    taken.update(pairs)
                messages.append((record, part))
        finally:
            held[:] = [pair for pair in held if pair not in taken]
        return messages

    async def ask(self, ref: CustomerRef, message: Message) -> None:
        """Ask a customer's actor something else and wait until the answer is durable.

        Raises:
            ProblemError: what the actor answered, or overload.
        """
        self._runtime.writer.refuse_when_full()
        self._directory.actor(ref).post(message)
        await message.done.wait()
        if message.problem is not None:
            raise ProblemError(message.problem)

    async def ask_once(self, ref: CustomerRef, message: Message, pair: KeyPair | None) -> KnownEvent | None:
        """Ask, as `ask` does, unless the key was used before: then return what was made under it.

        Two requests with one key never run side by side; the second finds what the first has made.

        Raises:
            ProblemError: what the actor answered, or overload.
        """
        if pair is None:
            await self.ask(ref, message)
            return None
        while (holder := self._claims.claim(pair)) is not None:
            await holder.wait()
        held = [pair]
        try:
            known = await self._index.known(held)
            if pair in known:
                return known[pair]
            self._runtime.writer.refuse_when_full()
            self._directory.actor(ref).post(message)
            message.after(partial(self._claims.release, [pair]))
            held.clear()
        finally:
            self._claims.release(held)
        await message.done.wait()
        if message.problem is not None:
            raise ProblemError(message.problem)
        return None

    def _count(self, outcomes: Iterable[Outcome]) -> None:
        counts = self._runtime.counts
        for outcome in outcomes:
            if isinstance(outcome, Accepted):
                counts.events += 1
                counts.capped += outcome.row.capped
                counts.unpriced += outcome.row.no_price is not None
            elif isinstance(outcome, Duplicate):
                counts.duplicates += 1
            elif isinstance(outcome, Refused):
                counts.denied += 1
            elif isinstance(outcome, Problem) and outcome.code is not Code.RATE_LIMITED:
                counts.refused += 1
