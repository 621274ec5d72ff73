"""What became of a file's rows: counted, and told to people and programs."""

import time
from collections import Counter
from typing import IO, Any, Final

import click
import msgspec

SHOWN_MAX: Final = 10


class Trouble(msgspec.Struct, frozen=True, omit_defaults=True):
    """A row that is not in the books as it stands in the file."""

    line: int
    status: str
    code: str = ""
    field: str | None = None
    message: str = ""

    def sentence(self) -> str:
        """Return it for people."""
        field = f"{self.field}: " if self.field and not self.message.startswith(self.field) else ""
        return f"line {self.line}: {field}{self.message}"


class Report:
    """Collects results; keeps the first troubles and writes all of them to a file when there is one.

    Args:
        name: of the file that is ingested.
        file: where every trouble is written, one JSON object a line.
    """

    def __init__(self, name: str, file: IO[bytes] | None = None) -> None:
        self._name = name
        self._file = file
        self._started = time.monotonic()
        self._counts: Counter[str] = Counter()
        self._first: list[Trouble] = []
        self.changed = False
        self.into = ""

    def begin(self) -> None:
        """Start the stop watch."""
        self._started = time.monotonic()

    def add(self, line: int, result: dict[str, Any]) -> None:
        """Take the daemon's result for a line."""
        status = result["status"]
        self._counts[status] += 1
        if status == "created":
            self._counts["unpriced"] += "unpriced" in result
            self._counts["unsubscribed"] += "unsubscribed" in result
            self._counts["capped"] += "usageLimitExceeded" in result
        elif status != "duplicate":
            error = result.get("error", {})
            self._note(
                Trouble(line, status, error.get("code", ""), error.get("field"), error.get("message", status))
            )

    def refuse(self, line: int, field: str | None, message: str) -> None:
        """Take a line that could not even be sent."""
        self._counts["refused"] += 1
        self._note(Trouble(line, "refused", "unreadable", field, message))

    def skip(self, line: int) -> None:
        """Take an empty line."""
        self._counts["blank"] += 1
        self._write(Trouble(line, "blank"))

    @property
    def events(self) -> int:
        """Rows dealt with."""
        counts = self._counts
        return counts["created"] + counts["duplicate"] + counts["conflict"] + counts["refused"]

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.events / max(time.monotonic() - self._started, 0.001)

    @property
    def complete(self) -> bool:
        """Whether every row is in the books."""
        return not (self._counts["conflict"] or self._counts["refused"] or self.changed)

    def show(self, *, as_json: bool) -> None:
        """Print the totals on stdout."""
        if as_json:
            click.echo(msgspec.json.encode(self._totals()).decode())
        else:
            click.echo("\n".join(self._lines()))

    def _note(self, trouble: Trouble) -> None:
        if len(self._first) < SHOWN_MAX:
            self._first.append(trouble)
        self._write(trouble)

    def _write(self, trouble: Trouble) -> None:
        if self._file is not None:
            self._file.write(msgspec.json.encode(trouble) + b"\n")

    def _totals(self) -> dict[str, Any]:
        counts = self._counts
        return {
            "file": self._name,
            "events": self.events,
            "created": counts["created"],
            "duplicates": counts["duplicate"],
            "conflicts": counts["conflict"],
            "refused": counts["refused"],
            "blankLines": counts["blank"],
            "unpriced": counts["unpriced"],
            "capped": counts["capped"],
            "unsubscribed": counts["unsubscribed"],
            "into": self.into,
            "fileChanged": self.changed,
            "seconds": round(time.monotonic() - self._started, 3),
            "eventsPerSecond": round(self.rate),
            "firstProblems": self._first,
        }

    def _lines(self) -> list[str]:
        counts = self._counts
        seconds = time.monotonic() - self._started
        lines = [
            f"{self._name}: {self.events:,} events in {seconds:.1f} s ({self.rate:,.0f} a second)",
            f"into {self.into}",
        ]
        for status, words, always in (
            ("created", "recorded", True),
            ("duplicate", "duplicates: recorded before, nothing changed", True),
            ("conflict", "conflicts: recorded before with other values; kept as they were", False),
            ("refused", "refused", True),
            ("unsubscribed", "of the recorded fall outside any subscription and are not charged", False),
            ("unpriced", "of the recorded lack a price: see GET /api/v1/client/events?unpriced=true", False),
            ("capped", "of the recorded came after the plan's limit and count as zero", False),
            ("blank", "empty lines, skipped", False),
        ):
            if always or counts[status]:
                lines.append(f"{counts[status]:>12,} {words}")
        lines += [f"  {trouble.sentence()}" for trouble in sorted(self._first, key=lambda each: each.line)]
        more = counts["conflict"] + counts["refused"] - len(self._first)
        if more > 0:
            hint = "" if self._file else "; --report FILE lists all"
            lines.append(f"  and {more:,} more{hint}")
        if self.changed:
            lines.append("the file changed while it was read: ingest a copy that stays as it is")
        return lines
