"""What usage costs in credits: scheduled weights, and the charge of one event's feature (CONTRACTS 1.7).

Weights are append-only and dated: what was in force at an instant stays so.
"""

import uuid
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Final

import msgspec

from tallyd.engine.credits.schedules import (
    AHEAD_US,
    Published,
    Timeline,
    amount_problem,
    invalid_field,
    publish,
    size_problem,
)
from tallyd.engine.rating import PricedFeature
from tallyd.model.catalog import CreditWeight
from tallyd.model.event import UsageEvent
from tallyd.model.moments import HOUR_US
from tallyd.model.money import ONE, ZERO, divide, plain, round_half_up, tidy
from tallyd.model.problems import Problem
from tallyd.pricing.seam import Measure

EARLIER_MAX_US: Final = 48 * HOUR_US
"""How far from now an event's time may lead the look-up of its weight (CONTRACTS 1.4)."""

MODEL: Final = "MODEL"
FEATURE_DEFAULT: Final = "FEATURE_DEFAULT"
NONE: Final = "NONE"

_ANY: Final = ""
_PARENTS: Final = {"cache_read": "input", "cache_write": "input", "reasoning": "output"}
_TOKENS: Final = Measure.TOKENS
_NAMESPACE: Final = uuid.UUID("3c1cf4b0-6a4e-5d0c-9d0f-2f7b3d1c9a52")


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
    """The whole schedule. It is never changed: publishing makes another."""

    def __init__(self, rows: Iterable[Weight]) -> None:
        self.rows = sorted(rows, key=lambda row: (row.effective_from, row.feature, row.model, row.kind))
        self._features: dict[str, _FeatureWeights] = {}
        by_feature: dict[str, list[Weight]] = {}
        for row in self.rows:
            by_feature.setdefault(row.feature, []).append(row)
        for feature, some in by_feature.items():
            self._features[feature] = _FeatureWeights(some)

    def quote(
        self, feature: PricedFeature, event: UsageEvent, units: Decimal, *, now: int, precision: int | None
    ) -> Quote:
        """Return what `units` of a feature, used by an event, come to in credits.

        Units for a credit, where the plan says so; else each token by its kind, where tokens are priced and the
        feature has weights by kind; else units times the weight of feature and model. The weights are those in
        force when the event occurred, or as near to that as 48 hours back and 5 minutes ahead allow.

        Args:
            feature: what was used, as its plan has it.
            event: its time, model and tokens count.
            units: of the feature; not asked where tokens are weighed.
            now: when it is decided, in microseconds.
            precision: digits after the decimal point to round to, half up, once; None: exact.
        """
        per_credit = feature.units_per_credit
        if per_credit is not None:
            return Quote(charge=divide(units, per_credit, precision), units_per_credit=per_credit)
        weights = self._features.get(feature.key)
        if weights is None:
            return Quote(charge=_rounded(units, precision), weight=ONE, weight_match=NONE)
        moment = min(max(event.occurred_at, now - EARLIER_MAX_US), now + AHEAD_US)
        model = event.model or _ANY
        if weights.kinds and event.tokens and feature.model.measure is _TOKENS:
            kinds = weights.kinds_at(model, moment, now)
            if kinds:
                return _by_tokens(event.tokens, kinds, weights.row_at(model, moment, now), precision)
        row = weights.row_at(model, moment, now)
        if row is None:
            return Quote(charge=_rounded(units, precision), weight=ONE, weight_match=NONE)
        return Quote(
            charge=_rounded(units * row.weight, precision),
            weight=row.weight,
            weight_id=row.id,
            weight_match=MODEL if row.model else FEATURE_DEFAULT,
        )

    def in_force(self, moment: int) -> list[Weight]:
        """Return the rows in force, by feature, model and kind."""
        rows = [row for weights in self._features.values() for row in weights.in_force(moment)]
        return sorted(rows, key=lambda row: (row.feature, row.model, row.kind))

    def scheduled(self, moment: int) -> list[Weight]:
        """Return the rows that begin after the moment, in order."""
        return [row for row in self.rows if row.effective_from > moment]

    def timeline(self, feature: str, model: str, kind: str) -> Timeline[Weight]:
        """Return the rows of one feature, model and kind; empty text stands for "any"."""
        weights = self._features.get(feature)
        found = weights.timelines.get((model, kind)) if weights else None
        return found or Timeline([])


class _FeatureWeights:
    """The rows of one feature, by model and kind."""

    __slots__ = ("kinds", "timelines")

    def __init__(self, rows: Iterable[Weight]) -> None:
        grouped: dict[tuple[str, str], list[Weight]] = {}
        for row in rows:
            grouped.setdefault((row.model, row.kind), []).append(row)
        self.timelines = {key: Timeline(some) for key, some in grouped.items()}
        self.kinds = sorted({kind for _, kind in grouped if kind})

    def row_at(self, model: str, moment: int, now: int) -> Weight | None:
        """Return the weight of a unit: the model's own, else the feature's."""
        return self._find(model, _ANY, moment, now)

    def kinds_at(self, model: str, moment: int, now: int) -> dict[str, Weight]:
        """Return the weights of tokens by kind: the model's own, else the feature's."""
        found = {}
        for kind in self.kinds:
            row = self._find(model, kind, moment, now)
            if row is not None:
                found[kind] = row
        return found

    def in_force(self, moment: int) -> list[Weight]:
        rows = [timeline.at(moment, moment) for timeline in self.timelines.values()]
        return [row for row in rows if row is not None]

    def _find(self, model: str, kind: str, moment: int, now: int) -> Weight | None:
        timelines = self.timelines
        own = timelines.get((model, kind))
        row = own.at(moment, now) if own is not None else None
        if row is None and model:
            general = timelines.get((_ANY, kind))
            row = general.at(moment, now) if general is not None else None
        return row


def _by_tokens(
    tokens: dict[str, Decimal], kinds: dict[str, Weight], kindless: Weight | None, precision: int | None
) -> Quote:
    """Weigh each kind by its own weight, else its parent's, as prices do, else the kindless one, else 1."""
    charge = ZERO
    weights: dict[str, Decimal] = {}
    match = NONE
    for kind, count in tokens.items():
        row = kinds.get(kind) or kinds.get(_PARENTS.get(kind, _ANY)) or kindless
        if row is None:
            weight = ONE
        else:
            weight = row.weight
            if row.model:
                match = MODEL
            elif match == NONE:
                match = FEATURE_DEFAULT
        weights[kind] = weight
        charge += count * weight
    return Quote(charge=_rounded(charge, precision), weight_match=match, weights=weights)


def _rounded(charge: Decimal, precision: int | None) -> Decimal:
    return charge if precision is None else round_half_up(charge, precision)


def weight_id(row: Weight) -> str:
    """Return a row's UUID: derived from its content, so that a changed byte shows."""
    content = "\0".join(
        ("weight", row.feature, row.model, row.kind, plain(tidy(row.weight)), str(row.effective_from))
    )
    return str(uuid.uuid5(_NAMESPACE, content))


def new_weight(given: CreditWeight, effective_from: int, now: int) -> Weight:
    """Return the row of a weight that is published now."""
    row = Weight(
        id="",
        feature=given.feature,
        model=given.model or _ANY,
        kind=given.kind or _ANY,
        weight=tidy(given.weight),
        effective_from=effective_from,
        created_at=now,
    )
    return msgspec.structs.replace(row, id=weight_id(row))


def publish_weights(
    held: Weights, batch: Sequence[CreditWeight], effective_from: int, now: int
) -> Published[Weight] | Problem:
    """Decide a batch of weights that begin at one instant; nothing is changed here (CONTRACTS 1.2, E6).

    Whether the features exist is for the caller to know.
    """
    problem = size_problem(len(batch), "weights")
    if problem:
        return problem
    seen = set()
    for index, each in enumerate(batch):
        text = amount_problem(each.weight)
        if text:
            return invalid_field(f"weights[{index}].weight", text)
        key = (each.feature, each.model or _ANY, each.kind or _ANY)
        if key in seen:
            return invalid_field(f"weights[{index}]", "weighs the same feature, model and kind as a row before it")
        seen.add(key)
    rows = [new_weight(each, effective_from, now) for each in batch]
    return publish(held.rows, rows, effective_from, now=now, field="weights")


NO_WEIGHTS: Final = Weights([])
