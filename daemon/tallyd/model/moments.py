"""Instants: integer microseconds since 1970 UTC inside, ISO 8601 with a zone outside."""

from datetime import UTC, datetime, timedelta
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)
SECOND_US: Final = 1_000_000
MINUTE_US: Final = 60 * SECOND_US
HOUR_US: Final = 60 * MINUTE_US
DAY_US: Final = 24 * HOUR_US
EARLIEST_US: Final = 946_684_800 * SECOND_US  # 2000-01-01: before this a timestamp is a mistake

LATEST_US: Final = 7_258_118_400 * SECOND_US  # 2200-01-01: what is asked about later is a mistake


def to_micros(moment: datetime) -> int:
    """Aware datetime -> microseconds since the epoch."""
    return (moment - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    """Microseconds since the epoch -> aware UTC datetime."""
    return EPOCH + timedelta(microseconds=micros)


def iso(micros: int) -> str:
    """Microseconds since the epoch -> `2026-11-21T09:30:00Z`, with as many decimals as needed."""
    return from_micros(micros).isoformat().replace("+00:00", "Z")


def parse_iso(text: str) -> int:
    """Read an ISO 8601 instant with a zone; digits finer than a microsecond are cut off.

    Raises:
        ValueError: not a date and time, no zone, or outside years 1 to 9999.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("must carry a zone, such as Z or +02:00")
    return to_micros(moment)


def hour_of(micros: int) -> int:
    """Start of the UTC hour that contains the instant."""
    return micros - micros % HOUR_US


def occurrence_problem(occurred_at: int, now: int) -> str | None:
    """Say why an event's time cannot be right, or None. Old events are welcome: back-filling is normal."""
    if occurred_at < EARLIEST_US:
        return "must not be before 2000-01-01"
    if occurred_at > now + DAY_US:
        return "must not lie more than 24 hours in the future"
    return None
