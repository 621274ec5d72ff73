"""What a benchmark reports: rows of measured, baseline, ratio and budget; and what they were measured on."""

import os
import platform
import sqlite3
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import msgspec

Bound = Literal["at most", "at least"]


class BenchError(Exception):
    """A benchmark that cannot be trusted: an answer was wrong, or a process ended."""


class Row(msgspec.Struct, kw_only=True):
    """One line of the report.

    Attributes:
        what: what was measured, and how.
        measured: of tallyd, with its unit.
        baseline: what it is compared with, with its unit.
        ratio: measured over baseline, with its spread; or why there is none.
        budget: the target; empty for a line that only informs.
        met: whether it was reached; None when there is no budget or no measurement.
        note: where the time goes, as far as the run shows it.
    """

    what: str
    measured: str
    baseline: str = ""
    ratio: str = ""
    budget: str = ""
    met: bool | None = None
    note: str = ""


class Ratio(msgspec.Struct, frozen=True):
    """A ratio of two medians, with the quartiles of the ratios of each pair of rounds: the machine's noise."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f}x ({self.low:.2f}-{self.high:.2f})"


def ratio(measured: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """Compare rounds that were run alternately."""
    pairs = sorted(one / other for one, other in zip(measured, baseline, strict=True))
    value = statistics.median(measured) / statistics.median(baseline)
    return Ratio(value, percentile(pairs, 25), percentile(pairs, 75))


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which this share of the values lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def median(values: Sequence[float]) -> float:
    """Return the middle value."""
    return statistics.median(values)


def rate(per_second: float) -> str:
    """Write a rate."""
    return f"{per_second:,.0f}/s"


def micros(nanoseconds: float) -> str:
    """Write a duration in microseconds."""
    return f"{nanoseconds / 1_000:,.1f} µs"


def millis(nanoseconds: float) -> str:
    """Write a duration in milliseconds."""
    return f"{nanoseconds / 1_000_000:,.1f} ms"


def machine(scratch: Path) -> str:
    """Say what the numbers were measured on."""
    packages = " ".join(f"{name} {version(name)}" for name in ("trio", "hypercorn", "quart-trio", "msgspec"))
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    return (
        f"{len(os.sched_getaffinity(0))} cores · Python {platform.python_version()} · SQLite"
        f" {sqlite3.sqlite_version} · {packages} · Linux {platform.release()}\n"
        f"load before {load} · files in {scratch}"
    )
