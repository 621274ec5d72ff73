"""What the auditor found, and how it goes on after damage."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """Something in the books that does not follow from the events, or cannot be read.

    Attributes:
        kind: `event`, `charge`, `counter`, `seen value`, `rollup`, `ledger`, `ledger entry`, `customer`,
            `subscription`, `invoice`, `plan`, `meter`, `price version`, `pool`, `grant`, `pool link`, `hold`,
            `due`, `outbox`, `credit model`, `credit weight`, `credit price` or `file`.
        where: which one.
        message: what stands there and what should.
    """

    kind: str
    where: str
    message: str


class Findings:
    """Collects findings, in the order they are made."""

    def __init__(self) -> None:
        self.all: list[Finding] = []

    def add(self, kind: str, where: object, message: str) -> None:
        """Note something wrong."""
        self.all.append(Finding(kind, str(where), message))

    def same(self, kind: str, where: object, what: str, stands: object, should: object) -> None:
        """Note it when two values differ."""
        if stands != should:
            self.add(kind, where, f"{what} is {_shown(stands)}, should be {_shown(should)}")

    @contextmanager
    def guard(self, kind: str, where: object) -> Iterator[None]:
        """Make whatever breaks inside a finding about this place; what comes after is checked all the same."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - damaged rows may break any step in any way; that is the finding
            self.add(kind, where, f"cannot be checked, it is damaged: {type(error).__name__}: {error}")


def _shown(value: object) -> str:
    return repr(value.value if isinstance(value, Enum) else value)
