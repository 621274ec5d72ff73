"""Three months of the demo's customers after their first day, made up from a seed: what is sent, and when."""

import random
from typing import Any, Final

import msgspec

from tallyd.model.moments import DAY_US, HOUR_US, iso
from tallyd.model.periods import add_months, calendar_month

MONTHS: Final = 3
EVENING_US: Final = 20 * HOUR_US
"""When in a day the daemon's clock stands: what happened that day is sent then."""
NOON_US: Final = 12 * HOUR_US
RETRY_SHARE: Final = 0.05

UPGRADER, UPGRADED_TO = "acme", "team"
LATE: Final = "globex"
"""Whose event comes when its month is invoiced."""
FORGETFUL: Final = "umbrella"
"""Who does not pay an invoice in time."""
PREPAID: Final = "stark"

_PAY_DAY: Final = 2
_LATE_DAY: Final = 3
_FORGOTTEN_PAY_DAY: Final = 8


class Today(msgspec.Struct, frozen=True):
    """What is sent on one day. `at` is when, microseconds UTC; `batches` are events, each sent together."""

    at: int
    batches: list[list[dict[str, Any]]]


class Months(msgspec.Struct, frozen=True, kw_only=True):
    """Three months and what happens in them. Instants in microseconds UTC.

    Attributes:
        starts: of each month, and of the one after them.
        days: from the second day on, in order.
        late_at: when the late event comes.
        late: the late event: of the first month, sent in the second.
        pays_at: when the invoices are paid that the beginning of a month has made, in the second and third month.
        forgotten_at: when the one that was forgotten is paid: access has ended by then.
        upgrade_at: the middle of the second month.
    """

    starts: list[int]
    days: list[Today]
    late_at: int
    late: dict[str, Any]
    pays_at: list[int]
    forgotten_at: int
    upgrade_at: int

    @property
    def end(self) -> int:
        """Return when the three months are over."""
        return self.starts[-1]


def first_of_next_month(now: int) -> int:
    """Return the beginning of the month after an instant, UTC."""
    return calendar_month(now).end


def make_months(seed: int, start: int) -> Months:
    """Make up what happens from the second day of a month on.

    Args:
        seed: the same seed, the same months.
        start: beginning of the first month, microseconds UTC.
    """
    maker = _Maker(seed)
    starts = [add_months(start, month) for month in range(MONTHS + 1)]
    second = starts[1]
    return Months(
        starts=starts,
        days=[maker.day(moment) for moment in range(start + DAY_US, starts[-1], DAY_US)],
        late_at=second + _LATE_DAY * DAY_US + NOON_US,
        late=maker.late(second - 3 * DAY_US + EVENING_US),
        pays_at=[each + _PAY_DAY * DAY_US + EVENING_US for each in starts[1:MONTHS]],
        forgotten_at=second + _FORGOTTEN_PAY_DAY * DAY_US + EVENING_US,
        upgrade_at=second + (starts[2] - second) // 2,
    )


class _Maker:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - made-up months, not a secret
        self._number = 0

    def day(self, start: int) -> Today:
        """Make up a day that begins at an instant."""
        pro = ("gpt-4o", "gpt-4o", "gpt-4o-mini")
        scale = ("claude-sonnet-4-5", "gpt-4o", "gemini-2.5-flash")
        batches = [
            [self._calls("acme", start, 60) for _ in range(2)]
            + [self._chat("acme", start, pro) for _ in range(3)],
            [self._calls("globex", start, 900) for _ in range(3)]
            + [self._chat("globex", start, scale) for _ in range(3)]
            + [self._stored("globex", start)],
            [self._calls("umbrella", start, 300), self._chat("umbrella", start, ("gpt-4o",))],
            [self._answer("stark", start) for _ in range(2)],
        ]
        again = [batch for batch in batches if self._random.random() < RETRY_SHARE]
        return Today(start + EVENING_US, batches + again)

    def late(self, at: int) -> dict[str, Any]:
        """Return a night's work of a model, too large to be overlooked."""
        tokens = {"inputTokens": 3_000_000, "outputTokens": 400_000}
        return self._event(LATE, "chat", at, featureKey="assistant", costInput={"model": "gpt-4o", **tokens})

    def _calls(self, customer: str, day: int, most: int) -> dict[str, Any]:
        return self._event(customer, "api", self._moment(day), usageUnits=self._random.randint(most // 10, most))

    def _chat(self, customer: str, day: int, models: tuple[str, ...]) -> dict[str, Any]:
        tokens = {
            "inputTokens": self._random.randint(20_000, 400_000),
            "outputTokens": self._random.randint(2_000, 40_000),
        }
        cost = {"model": self._random.choice(models), **tokens}
        return self._event(customer, "chat", self._moment(day), featureKey="assistant", costInput=cost)

    def _stored(self, customer: str, day: int) -> dict[str, Any]:
        gigabytes = 200 + self._random.randint(0, 150)
        return self._event(customer, "storage.measured", self._moment(day), meta={"gb": gigabytes})

    def _answer(self, customer: str, day: int) -> dict[str, Any]:
        cost = {"model": "gpt-4o-mini", "inputTokens": 900, "outputTokens": 300}
        return self._event(
            customer, "answer", self._moment(day), featureKey="assistant", usageUnits=1, costInput=cost
        )

    def _moment(self, day: int) -> int:
        return day + self._random.randrange(EVENING_US)

    def _event(self, customer: str, name: str, at: int, **fields: Any) -> dict[str, Any]:
        self._number += 1
        return {
            "eventName": name,
            "eventIdempotencyKey": f"months-{self._number}",
            "customerReferenceId": customer,
            "occurredAt": iso(at),
            **fields,
        }
