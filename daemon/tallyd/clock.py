"""The one place that owns the time and chance."""

import secrets
import time
import uuid
from typing import Protocol


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


def new_uuid() -> str:
    """Return a random UUID as text."""
    return str(uuid.uuid4())


def new_key() -> str:
    """Return an idempotency key for an event that came without one."""
    return secrets.token_hex(16)


def new_secret() -> str:
    """Return the random part of an API key."""
    return secrets.token_urlsafe(24)
