"""The one place that owns the time and chance."""

import secrets
import time
import uuid
from typing import Final, Protocol


class Clock(Protocol):
    """Where "now" comes from."""

    def now(self) -> int:
        """Return microseconds since 1970 UTC."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> int:
        """Return microseconds since 1970 UTC."""
        return time.time_ns() // 1_000


class FixedClock:
    """A clock that stands until it is moved: for tests and simulation."""

    def __init__(self, now: int) -> None:
        self._now = now

    def now(self) -> int:
        """Return microseconds since 1970 UTC."""
        return self._now

    def move(self, micros: int) -> None:
        """Move by microseconds; time does not run backwards."""
        if micros < 0:
            raise ValueError("time does not run backwards")
        self._now += micros


class Clocks:
    """Where all of the daemon gets "now" from: the machine's clock, or test clocks that stand until moved.

    Args:
        system: the machine's clock.
        standing: test clocks by customer id; under the empty text, the whole daemon's.
    """

    def __init__(self, system: Clock, standing: dict[str, int]) -> None:
        self.system = system
        self.standing = standing

    def now(self) -> int:
        """Return the daemon's own now."""
        return self.standing.get(DAEMON) or self.system.now() if self.standing else self.system.now()

    def of(self, customer_id: str) -> int:
        """Return a customer's now."""
        if not self.standing:
            return self.system.now()
        return self.standing.get(customer_id) or self.now()


DAEMON: Final = ""
"""Stands for the whole daemon among the customers that have test clocks."""


def new_uuid() -> str:
    """Return a random UUID as text."""
    return str(uuid.uuid4())


def new_key() -> str:
    """Return an idempotency key for an event that came without one."""
    return secrets.token_hex(16)


def new_secret() -> str:
    """Return the random part of an API key."""
    return secrets.token_urlsafe(24)
