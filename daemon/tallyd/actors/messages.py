"""What a customer's actor can be asked, and what it answers."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import trio

from tallyd.engine import recording
from tallyd.engine.account import ChargeRow, EventRow
from tallyd.engine.credits.covering import Drawn
from tallyd.engine.credits.draft import Draft
from tallyd.engine.entitlements import Entitlement
from tallyd.engine.rating import PricedPlan
from tallyd.engine.recording import Denied, Recorded
from tallyd.engine.reserving import Reserved
from tallyd.model.credit_entries import Entry
from tallyd.model.credits import Hold
from tallyd.model.customer import Customer
from tallyd.model.event import UsageEvent
from tallyd.model.problems import Problem
from tallyd.model.subscription import Subscription


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """The event is in the books, durably: with its charges, what it drew from credits and the hold it settled."""

    row: EventRow
    charges: list[ChargeRow]
    drawn: list[Drawn] = []
    hold: Hold | None = None


class Duplicate(msgspec.Struct, frozen=True, gc=False):
    """The key is taken: `event` is the original's row number, `same_body` tells a retry from a conflict."""

    event: int
    same_body: bool


class Refused(msgspec.Struct, frozen=True, gc=False):
    """A request that does not fit, or a fact that a hard credit pool has to pay for and cannot."""

    entitlement: Entitlement


Outcome = Accepted | Duplicate | Refused | Problem

DecideEvent = Callable[..., Recorded | Denied]
"""Decides an event: called with the account, the event and what `recording.record` takes by name."""

DecideCredits = Callable[[Draft, Any], Any]
"""Changes a draft, given what was prepared; raises `ProblemError` to refuse."""


class Message:
    """Something asked of an actor. Its `done` is set once the answer may be given: when it is durable."""

    __slots__ = ("_after", "done", "problem")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.problem: Problem | None = None
        self._after: list[Callable[[], None]] = []

    def after(self, callback: Callable[[], None]) -> None:
        """Call back when done, even if nobody waits any more."""
        self._after.append(callback)

    def settle(self, problem: Problem | None = None) -> None:
        """Release the answer, or the problem in its place."""
        self.problem = problem
        self.done.set()
        for callback in self._after:
            callback()


class Record(Message):
    """Record events, in order; all that are accepted are written in one transaction.

    `decide` is `recording.record` for facts, `recording.consume` for requests, `recording.settle` for a hold,
    whose number is `hold`: the actor finds out where it stands, in its own turn.
    """

    __slots__ = ("crashes", "decide", "events", "hold", "outcomes")

    def __init__(
        self, events: Sequence[UsageEvent], decide: DecideEvent = recording.record, hold: int | None = None
    ) -> None:
        super().__init__()
        self.events = events
        self.decide = decide
        self.hold = hold
        self.outcomes: list[Outcome] = []
        self.crashes: dict[int, int] = {}

    def settle(self, problem: Problem | None = None) -> None:
        """Release the outcomes, or the problem in place of each."""
        if problem is not None:
            self.outcomes = [problem] * len(self.events)
        super().settle(problem)


class Subscribe(Message):
    """Put the customer on a version of a plan."""

    __slots__ = ("anchor_day", "plan", "starts_at", "subscription")

    def __init__(self, plan: PricedPlan, *, starts_at: int, anchor_day: int) -> None:
        super().__init__()
        self.plan = plan
        self.starts_at = starts_at
        self.anchor_day = anchor_day
        self.subscription: Subscription | None = None


class Reserve(Message):
    """Hold what an event would use, for `ttl` microseconds from the decision; `outcome` tells whether it fits."""

    __slots__ = ("event", "outcome", "ttl")

    def __init__(self, event: UsageEvent, *, ttl: int) -> None:
        super().__init__()
        self.event = event
        self.ttl = ttl
        self.outcome: Reserved | Denied | None = None


class ChangeCredits(Message):
    """Change the customer's credits on purpose, or only do what is due by now.

    `prepare` reads from the books in the actor's own turn, when all it has decided is durable; its answer is given
    to `decide`, which changes the draft and whose answer is `answer`. `entries` are the ledger rows made.
    """

    __slots__ = ("answer", "decide", "entries", "prepare")

    def __init__(self, decide: DecideCredits, prepare: Callable[[sqlite3.Connection], Any] | None = None) -> None:
        super().__init__()
        self.decide = decide
        self.prepare = prepare
        self.answer: Any = None
        self.entries: list[Entry] = []


class Introduce(Message):
    """Make the customer known without an event."""

    __slots__ = ("customer", "profile")

    def __init__(self, profile: str | None) -> None:
        super().__init__()
        self.profile = profile
        self.customer: Customer | None = None


class ChangeProfile(Message):
    """Change what the app told about the customer: `change` makes the new profile of the one there is."""

    __slots__ = ("change", "customer")

    def __init__(self, change: Callable[[str | None], str]) -> None:
        super().__init__()
        self.change = change
        self.customer: Customer | None = None


class Rerate(Message):
    """Price again an event that had no price, named by its row number.

    The actor reads its row in its own turn: what somebody else has read before may be priced by now.
    `complete` tells afterwards whether nothing of it is unpriced any more.
    """

    __slots__ = ("complete", "event")

    def __init__(self, event: int) -> None:
        super().__init__()
        self.event = event
        self.complete = False


__all__ = [
    "Accepted",
    "ChangeCredits",
    "ChangeProfile",
    "Duplicate",
    "Introduce",
    "Message",
    "Outcome",
    "Record",
    "Refused",
    "Rerate",
    "Reserve",
    "Subscribe",
]
