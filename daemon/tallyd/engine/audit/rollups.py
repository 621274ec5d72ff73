"""The auditor's own roll-ups, summed from ledger rows, to hold against those in the books."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from tallyd.engine.counting import main_feature
from tallyd.engine.rollups import COST_CURRENCY
from tallyd.engine.rows import ChargeRow, EventRow, RollupDelta, RollupKey
from tallyd.engine.voiding import VoidedPart
from tallyd.model.event import UsageEvent
from tallyd.model.moments import hour_of

_OUTPUT_KINDS: Final = ("output", "reasoning")


class RollupSums:
    """Roll-ups by key; keys are taken out as they are compared."""

    def __init__(self) -> None:
        self._sums: dict[RollupKey, RollupDelta] = {}

    def add(self, row: EventRow, event: UsageEvent, charges: list[ChargeRow]) -> None:
        """Add an event and its charges."""
        own_feature = _own_feature(row, charges)
        delta = self.own(row, charges)
        delta.events += 1
        delta.units += Decimal(row.units)
        delta.cost += Decimal(row.cost or 0)
        delta.unpriced += row.no_price is not None
        if row.capped:
            return
        _count_tokens(delta, event, 1)
        if event.revenue_amount is not None:
            self.earn(row, own_feature, row.currency, event.revenue_amount)
        for charge in charges:
            if event.revenue_amount is None:
                self.earn(row, charge.feature, charge.currency, Decimal(charge.amount or 0))
            if charge.feature != own_feature and Decimal(charge.units):
                self._sum(_key(row, charge.feature, charge.currency)).units += Decimal(charge.units)

    def take_off(
        self, row: EventRow, event: UsageEvent, charges: list[ChargeRow], parts: list[VoidedPart]
    ) -> None:
        """Take off an event that was voided, and what its void took from each feature."""
        own_feature = _own_feature(row, charges)
        delta = self.own(row, charges)
        delta.events -= 1
        delta.units -= Decimal(row.units)
        delta.cost -= Decimal(row.cost or 0)
        delta.unpriced -= row.no_price is not None
        if not row.capped:
            _count_tokens(delta, event, -1)
        if row.revenue_source == "sent":
            self.earn(row, own_feature, row.currency, -Decimal(row.revenue or 0))
        for part in parts:
            self.earn(row, part.feature, row.currency, -part.amount)
            if part.feature != own_feature and part.units:
                self._sum(_key(row, part.feature, row.currency)).units -= part.units

    def own(self, row: EventRow, charges: list[ChargeRow]) -> RollupDelta:
        """Return the row that an event's units and cost stand in."""
        return self._sum(_key(row, _own_feature(row, charges)))

    def earn(self, row: EventRow, feature: str, currency: str, amount: Decimal) -> None:
        """Add revenue to a feature. A row of nothing but zeros may be in the books, so zero is added too."""
        self._sum(_key(row, feature, currency)).revenue += amount

    def take(self, key: RollupKey) -> RollupDelta | None:
        """Take out what a row of the books should hold; None: no event explains the row."""
        return self._sums.pop(key, None)

    def left(self) -> Iterator[RollupKey]:
        """Return what was not taken out and is not empty."""
        return (key for key, delta in self._sums.items() if delta != RollupDelta())

    def _sum(self, key: RollupKey) -> RollupDelta:
        return self._sums.setdefault(key, RollupDelta())


def _count_tokens(delta: RollupDelta, event: UsageEvent, sign: int) -> None:
    for kind, count in (event.tokens or {}).items():
        if kind in _OUTPUT_KINDS:
            delta.output_tokens += sign * count
        else:
            delta.input_tokens += sign * count


def _own_feature(row: EventRow, charges: list[ChargeRow]) -> str:
    return main_feature(row.feature, [charge.feature for charge in charges])


def _key(row: EventRow, feature: str, currency: str = COST_CURRENCY) -> RollupKey:
    hour = hour_of(row.occurred_at)
    return RollupKey(hour, row.customer, feature, row.model or "", row.provider or "", row.name, currency)
