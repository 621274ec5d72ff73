"""What a customer's actor can be asked, and what it answers."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import trio

from tallyd.engine import recording
from tallyd.engine.credits.covering import Drawn
from tallyd.engine.credits.draft import Draft
from tallyd.engine.entitlements import Entitlement
from tallyd.engine.rating import PricedPlan
from tallyd.engine.recording import Denied, Recorded
from tallyd.engine.reserving import Reserved
from tallyd.engine.rows import ChargeRow, EventRow
from tallyd.model.credits import Hold
from tallyd.model.customer import Customer
from tallyd.model.event import UsageEvent
from tallyd.model.invoice import Invoice
from tallyd.model.ledger_entries import Entry
from tallyd.model.problems import Problem
from tallyd.model.subscription import Subscription
from tallyd.store.tables import Row, Table


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

Decide = Callable[[Draft, Any], Any]
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


class SubscribeTerms(msgspec.Struct, frozen=True, kw_only=True):
    """How a subscription begins.

    Attributes:
        plan: the version of the plan.
        starts_at: microseconds UTC; None: 00:00 today, where the subscriber is.
        anchor_day: day of the month on which periods begin; None: the day it starts.
        zone: IANA name of the time zone whose midnights count.
        grace_days: days after an invoice's due date before access ends; None: as the plan says.
        trial_days: None: as the plan says.
        metadata: JSON object of the app's own.
        periods: how many it has, a trial apart, before it ends by itself; None: as many as it lives.
    """

    plan: PricedPlan
    starts_at: int | None = None
    anchor_day: int | None = None
    zone: str = "UTC"
    grace_days: int | None = None
    trial_days: int | None = None
    metadata: str = "{}"
    periods: int | None = None


class Subscribe(Message):
    """Put the customer on a version of a plan. `invoices` are those it has made by now."""

    __slots__ = ("invoices", "subscription", "terms")

    def __init__(self, terms: SubscribeTerms) -> None:
        super().__init__()
        self.terms = terms
        self.subscription: Subscription | None = None
        self.invoices: list[Invoice] = []


class Reserve(Message):
    """Hold what an event would use, for `ttl` microseconds from the decision; `outcome` tells whether it fits."""

    __slots__ = ("event", "outcome", "ttl")

    def __init__(self, event: UsageEvent, *, ttl: int) -> None:
        super().__init__()
        self.event = event
        self.ttl = ttl
        self.outcome: Reserved | Denied | None = None


class Change(Message):
    """Change the customer's credits, subscriptions or invoices on purpose, or only do what is due by now.

    `prepare` reads from the books in the actor's own turn, when all it has decided is durable; its answer is given
    to `decide`, which changes the draft and whose answer is `answer`. `entries` are the ledger rows made. `rows`
    returns, for that answer, rows of other tables that are written in the same commit.
    """

    __slots__ = ("answer", "decide", "entries", "prepare", "rows")

    def __init__(
        self,
        decide: Decide,
        prepare: Callable[[sqlite3.Connection], Any] | None = None,
        rows: Callable[[Any], list[tuple[Table, Row]]] | None = None,
    ) -> None:
        super().__init__()
        self.decide = decide
        self.prepare = prepare
        self.rows = rows
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


class Void(Message):
    """Take an event back, named by its row number; with `amended`, record another in its place, as one.

    `outcome` is that of the other event; `position` is the ledger position of the void.
    """

    __slots__ = ("amended", "event", "outcome", "position", "reason")

    def __init__(self, event: int, reason: str, amended: UsageEvent | None = None) -> None:
        super().__init__()
        self.event = event
        self.reason = reason
        self.amended = amended
        self.outcome: Outcome | None = None
        self.position = 0


__all__ = [
    "Accepted",
    "Change",
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
    "SubscribeTerms",
    "Void",
]
