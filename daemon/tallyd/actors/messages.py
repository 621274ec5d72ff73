"""What a customer's actor can be asked, and what it answers."""

from collections.abc import Callable, Sequence

import msgspec
import trio

from tallyd.engine.account import ChargeRow, EventRow
from tallyd.engine.entitlements import Entitlement
from tallyd.engine.rating import PricedPlan
from tallyd.model.customer import Customer
from tallyd.model.event import UsageEvent
from tallyd.model.problems import Problem
from tallyd.model.subscription import Subscription


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """The event is in the books, durably."""

    row: EventRow
    charges: list[ChargeRow]


class Duplicate(msgspec.Struct, frozen=True, gc=False):
    """The key is taken: `event` is the original's row number, `same_body` tells a retry from a conflict."""

    event: int
    same_body: bool


class Refused(msgspec.Struct, frozen=True, gc=False):
    """A `consume` that does not fit."""

    entitlement: Entitlement


Outcome = Accepted | Duplicate | Refused | Problem


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

    `consuming` asks for each as `consume` does: refused, not zeroed, when it does not fit.
    """

    __slots__ = ("consuming", "crashes", "events", "outcomes")

    def __init__(self, events: Sequence[UsageEvent], *, consuming: bool = False) -> None:
        super().__init__()
        self.events = events
        self.consuming = consuming
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


class Introduce(Message):
    """Make the customer known without an event."""

    __slots__ = ("customer", "profile")

    def __init__(self, profile: str | None) -> None:
        super().__init__()
        self.profile = profile
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
    "Duplicate",
    "Introduce",
    "Message",
    "Outcome",
    "Record",
    "Refused",
    "Rerate",
    "Subscribe",
]
