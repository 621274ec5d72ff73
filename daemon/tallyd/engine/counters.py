"""Counters: what was used, rated, charged and billed of a feature in a period."""

from decimal import Decimal
from typing import Final, NamedTuple

import msgspec

from tallyd.model.money import ZERO

LIFETIME: Final = -1
"""In place of a period's start: the counter of a feature whose usage accumulates through all periods."""


class CounterKey(NamedTuple):
    """Which usage a counter counts."""

    subscription: int
    feature: str
    period_start: int


class Counter(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Usage of one feature in one period of one subscription.

    Attributes:
        used: units, what limits are compared with.
        rated: quantities the plan has priced, by dimension.
        charged: sum of the plan's charges, exact.
        sent: sum of revenues that came with the events instead.
        events: events counted.
        unpriced: events among them that have no charge yet.
        latest_at: time of the latest event, for `last` meters.
        covered: quantities that credits paid for, and the plan did not price, by dimension.
        credited: of the plan's price, what credits in money paid; it is not in `charged`.
        billed: what invoices have billed of `charged`, exact.
        billed_to: ledger position up to which they have; 0: never yet.
    """

    used: Decimal = ZERO
    rated: dict[str, Decimal] = {}
    charged: Decimal = ZERO
    sent: Decimal = ZERO
    events: int = 0
    unpriced: int = 0
    latest_at: int = 0
    covered: dict[str, Decimal] = {}
    credited: Decimal = ZERO
    billed: Decimal = ZERO
    billed_to: int = 0

    @property
    def unbilled(self) -> bool:
        """Whether the next invoice has something to say of it."""
        return self.charged != self.billed or not self.billed_to


EMPTY: Final = Counter()
