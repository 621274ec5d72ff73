"""A customer on a version of a plan."""

import msgspec

from tallyd.model.periods import Period, period_at


class Subscription(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Active in `[starts_at, ends_at)`; usage is counted per period of the event's own time.

    Attributes:
        number: the row number that charges and counters refer to.
        id: UUID.
        customer: the customer's row number.
        plan_key: the plan.
        plan_version: the version subscribed to; later edits of the plan do not change it.
        starts_at: microseconds UTC; may lie in the past to back-fill a history.
        ends_at: microseconds UTC, or None while it runs.
        anchor_day: day of the month on which periods begin, 1 to 31.
        interval_months: length of a period.
        created_at: microseconds UTC.
    """

    number: int
    id: str
    customer: int
    plan_key: str
    plan_version: int
    starts_at: int
    ends_at: int | None
    anchor_day: int
    interval_months: int
    created_at: int

    def active_at(self, moment: int) -> bool:
        """Whether the subscription covers the instant."""
        return self.starts_at <= moment and (self.ends_at is None or moment < self.ends_at)

    def period_at(self, moment: int) -> Period:
        """Return the billing period that contains the instant, which must be covered."""
        return period_at(
            moment, starts_at=self.starts_at, anchor_day=self.anchor_day, interval_months=self.interval_months
        )
