"""A customer on a plan, through the changes of its life.

A subscription says what holds at any instant, past or to come: which version of which plan (its phases), whether
it still runs, whether it is paused. A change that is scheduled is a phase that has not begun, a cancellation an
end that has not come; so nothing has to happen for them to be true at their instant (P7).
"""

from decimal import Decimal
from typing import Final, Literal

import msgspec

from tallyd.model.periods import Cycle, Period

GRACE_DAYS: Final = 3
"""Days after the due date before access ends, unless the plan or the subscriber says otherwise (CONTRACTS 1.8)."""


class Phase(msgspec.Struct, frozen=True, gc=False):
    """A version of a plan, from an instant until the next phase begins or the subscription ends.

    Attributes:
        starts_at: microseconds UTC.
        plan_key: the plan.
        plan_version: the version; later edits of the plan do not change it.
        cycle: how its periods follow each other. A phase that keeps its predecessor's periods has the same cycle.
    """

    starts_at: int
    plan_key: str
    plan_version: int
    cycle: Cycle


class Change(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A change of plan: the phase at `effective_at` belongs to it, unless it was cancelled (CONTRACTS 1.8).

    Attributes:
        id: UUID.
        type: UPGRADE or DOWNGRADE.
        from_plan: key.
        to_plan: key.
        effective_at: microseconds UTC.
        created_at: microseconds UTC.
        cancelled: whether it was taken back before its time.
    """

    id: str
    type: Literal["UPGRADE", "DOWNGRADE"]
    from_plan: str
    to_plan: str
    effective_at: int
    created_at: int
    cancelled: bool = False


class Cancellation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The end somebody asked for; it comes at the subscription's `ends_at`.

    Attributes:
        mode: whether the period is lived to its end.
        requested_at: microseconds UTC.
        instead_of: the end that was known before, which comes back when this is taken back.
    """

    mode: Literal["END_OF_PERIOD", "IMMEDIATE"]
    requested_at: int
    instead_of: int | None = None


class Waived(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A base price, or a part given back, that nobody pays any more.

    Attributes:
        start: of the time it was for, microseconds UTC.
        end: its end.
        exact: what it came to.
    """

    start: int
    end: int
    exact: Decimal


class Subscription(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Runs in `[starts_at, ends_at)`; usage is counted per period of the event's own time.

    Attributes:
        number: the row number that charges and counters refer to.
        id: UUID.
        customer: the customer's row number.
        starts_at: microseconds UTC; may lie in the past to back-fill a history.
        ends_at: microseconds UTC, or None while no end is known.
        created_at: microseconds UTC.
        phases: in order; the first begins at `starts_at`.
        trial_ends_at: when the trial, the period before the first that is paid for, ends; None without one.
        grace_days: days after an invoice's due date before access ends.
        renewed_to: start of the latest period whose beginning has been dealt with: all before it is invoiced; -1
            before the first.
        charged_to: up to when base prices are invoiced in advance; -1 before anything is.
        pauses: when it was paused, `(from, until)`; the last may have no end yet.
        waived: base prices on invoices that were voided by hand, for time that was still to come.
        change: the latest change of plan.
        cancellation: who ended it how, or None.
        metadata: JSON object of the app's own.
    """

    number: int
    id: str
    customer: int
    starts_at: int
    ends_at: int | None
    created_at: int
    phases: list[Phase]
    trial_ends_at: int | None = None
    grace_days: int = GRACE_DAYS
    renewed_to: int = -1
    charged_to: int = -1
    pauses: list[tuple[int, int | None]] = []
    waived: list[Waived] = []
    change: Change | None = None
    cancellation: Cancellation | None = None
    metadata: str = "{}"

    def active_at(self, moment: int) -> bool:
        """Whether the subscription covers the instant."""
        return self.starts_at <= moment and (self.ends_at is None or moment < self.ends_at)

    def paused_at(self, moment: int) -> bool:
        """Whether it is paused at the instant."""
        return any(begin <= moment and (until is None or moment < until) for begin, until in self.pauses)

    def phase_at(self, moment: int) -> Phase:
        """Return the phase in force at the instant; before the first and after the end, the first and the last."""
        found = self.phases[0]
        for phase in self.phases[1:]:
            if phase.starts_at > moment:
                break
            found = phase
        return found

    def period_at(self, moment: int) -> Period:
        """Return the billing period that contains the instant, which must not lie before `starts_at`.

        A change of plan that keeps the cycle does not cut the period; one that begins a new cycle does.
        """
        if self.trial_ends_at is not None and moment < self.trial_ends_at:
            return Period(self.starts_at, self.trial_ends_at)
        phase = self.phase_at(moment)
        start, end = phase.cycle.period_at(max(moment, phase.cycle.origin))
        for each in self.phases:
            if each.starts_at > moment and each.cycle != phase.cycle:
                return Period(start, min(end, each.starts_at))
        return Period(start, end)


def without_future(phases: list[Phase], moment: int) -> list[Phase]:
    """Return the phases that have begun by the instant."""
    return [each for each in phases if each.starts_at <= moment] or phases[:1]
