"""What can fall due by time alone, and in which order at one instant."""

from enum import IntEnum


class DueKind(IntEnum):
    """At one instant things are done in this order."""

    HOLD = 0  # a hold expires
    GRANT = 1  # a grant expires
    PERIOD_END = 2  # a period of a pool's subscription ends: rollover, overage
    OVERDUE = 3  # an invoice's grace days are over
    RENEWAL = 4  # a period of a subscription ends and the next begins
    RECURRING = 5  # recurring credits come
    ALLOCATION = 6  # credits included with a plan come
    TOP_UP = 7  # a pool whose top-ups of a month were used up is looked at again


Due = tuple[int, int, int, int]
"""(instant, kind, hold or grant or pool or invoice, subscription or the grant's pool)."""
