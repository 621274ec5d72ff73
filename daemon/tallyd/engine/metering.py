"""Meters: from an event to the quantity it adds.

Every aggregation is kept as a running value, so each event adds a difference: `count` adds one, `sum` adds the
value, `max` adds what exceeds the highest so far, `last` moves to the value of the latest event by its own time,
and `unique` adds one for a value not seen before in the period.
"""

from decimal import Decimal
from typing import Any, Final

import msgspec

from tallyd.engine.filters import FilterError, Metadata, Predicate, compile_filter, number, text
from tallyd.model.catalog import AggregationType, Meter
from tallyd.model.event import UsageEvent
from tallyd.model.money import ONE, ZERO

USAGE_UNITS: Final = "usageUnits"
_NO_METADATA: Final[Metadata] = {}


class CompiledMeter(msgspec.Struct, frozen=True, kw_only=True):
    """A meter ready to be asked.

    Attributes:
        key: its key in the catalog.
        event_name: events of this exact name are counted.
        aggregation: how.
        value_key: the metadata field, or `usageUnits`; None for count.
        predicate: the filter, or None.
    """

    key: str
    event_name: str
    aggregation: AggregationType
    value_key: str | None
    predicate: Predicate | None

    def counts(self, event: UsageEvent) -> bool:
        """Whether the event is one of the meter's: name, filter, and a usable value."""
        return (
            event.name == self.event_name
            and (self.predicate is None or self.predicate(event.metadata or _NO_METADATA))
            and self.reading(event) is not None
        )

    def matches(self, name: str, metadata: dict[str, Any] | None) -> bool:
        """Whether name and filter match, whatever the value: what Dodo's `meter_id` filter asks."""
        return name == self.event_name and (self.predicate is None or self.predicate(metadata or _NO_METADATA))

    def reading(self, event: UsageEvent) -> Decimal | str | None:
        """Return the value the meter reads off an event, or None when the event lacks it."""
        if self.value_key is None:
            return ONE
        if self.value_key == USAGE_UNITS:
            value: object = event.units
        else:
            value = (event.metadata or _NO_METADATA).get(self.value_key)
        if value is None:
            return None
        return text(value) if self.aggregation == "unique" else number(value)


def compile_meter(meter: Meter) -> CompiledMeter:
    """Check a meter's definition and make it ready.

    Raises:
        FilterError: names the field to blame.
    """
    aggregation = meter.aggregation
    if aggregation.type != "count" and not aggregation.key:
        raise FilterError("aggregation.key", f"is required for {aggregation.type}")
    return CompiledMeter(
        key=meter.key,
        event_name=meter.event_name,
        aggregation=aggregation.type,
        value_key=None if aggregation.type == "count" else aggregation.key,
        predicate=compile_filter(meter.filter),
    )


def difference(
    meter: CompiledMeter, event: UsageEvent, *, value: Decimal, latest_at: int, seen: set[str] | None
) -> Decimal:
    """Return what an event adds to a meter's running value.

    Args:
        meter: the meter, which must count the event.
        event: the event.
        value: the running value so far.
        latest_at: time of the latest event counted, for `last`.
        seen: values seen so far, for `unique`.
    """
    reading = meter.reading(event)
    if isinstance(reading, str):
        return ZERO if seen is not None and reading in seen else ONE
    if reading is None:
        return ZERO
    if meter.aggregation == "max":
        return max(ZERO, reading - value)
    if meter.aggregation == "last":
        return reading - value if event.occurred_at >= latest_at else ZERO
    return reading


__all__ = ["CompiledMeter", "FilterError", "compile_meter", "difference"]
