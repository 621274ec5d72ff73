"""What usage costs in credits: scheduled weights, and the charge of one event's feature (CONTRACTS 1.7).

Weights are append-only and dated: what was in force at an instant stays so.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import Final

import msgspec

from tallyd.engine.rating import PricedFeature
from tallyd.model.event import UsageEvent


class Weight(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the schedule. Fields are the columns of `credit_weights`; empty text stands for "any"."""

    id: str
    feature: str
    model: str
    kind: str
    weight: Decimal
    effective_from: int
    created_at: int


class Quote(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What usage comes to in credits, and why: see `DeductionDetails`."""

    charge: Decimal
    weight: Decimal | None = None
    weight_id: str | None = None
    weight_match: str | None = None
    weights: dict[str, Decimal] = {}
    units_per_credit: Decimal | None = None


class Weights:
    """The whole schedule."""

    def __init__(self, rows: Iterable[Weight]) -> None:
        self.rows = list(rows)

    def quote(
        self, feature: PricedFeature, event: UsageEvent, units: Decimal, *, now: int, precision: int | None
    ) -> Quote:
        """Return what `units` of a feature, used by an event, come to in credits."""
        return Quote(charge=units)


NO_WEIGHTS: Final = Weights([])
