"""The demo's own count of what it sent and what it was told, kept apart from the daemon: an independent check."""

from collections import Counter, defaultdict
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import msgspec

from tallyd.cli.demo_day import UNKNOWN_MODEL
from tallyd.model.money import ZERO
from tallyd.model.problems import Code


class Refusal(msgspec.Struct, frozen=True):
    """Something that was not done, and why: the daemon's words."""

    customer: str
    asked: str
    code: str
    words: str


class Comparison(msgspec.Struct, frozen=True, rename="camel"):
    """One number as the demo has it and as the daemon has it."""

    what: str
    sent: Decimal
    counted: Decimal

    @property
    def same(self) -> bool:
        """Whether they agree."""
        return self.sent == self.counted


class Tally:
    """Collects answers. An event counts when it was answered as recorded, however often it was sent.

    Attributes:
        calls: requests answered.
        sent: events sent, retries among them.
        recorded: bodies of the events that were answered as recorded, by key.
        costs: what the provider takes for them, where the answer said so, by key.
        duplicates: events answered as recorded before.
        conflicts: events answered as recorded before with other numbers.
        refusals: how often each thing was refused.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.sent = 0
        self.duplicates = 0
        self.conflicts = 0
        self.recorded: dict[str, dict[str, Any]] = {}
        self.costs: dict[str, Decimal] = {}
        self.refusals: Counter[Refusal] = Counter()

    def take(self, body: dict[str, Any], result: dict[str, Any]) -> None:
        """Take the result of one event, in the shape of a batch's results."""
        self.sent += 1
        key = body["eventIdempotencyKey"]
        if result["status"] == "created":
            assert key not in self.recorded, f"{key} was recorded twice"
            self.recorded[key] = body
            if "costAmount" in result:
                self.costs[key] = Decimal(result["costAmount"])
        elif result["status"] == "duplicate":
            self.duplicates += 1
        else:
            error = result["error"]
            self.conflicts += error["code"] == Code.IDEMPOTENCY_CONFLICT
            words = f"{error['field']}: {error['message']}" if "field" in error else error["message"]
            self.refuse(body, f"event {body['eventName'] or '?'}", error["code"], words)

    def deny(self, body: dict[str, Any], asked: str, answer: dict[str, Any]) -> None:
        """Take an entitlement answer that says no."""
        reason = answer["meta"]["reason"]
        self.refuse(body, asked, reason["code"], reason["description"])

    def refuse(self, body: dict[str, Any], asked: str, code: str, words: str) -> None:
        """Take a refusal."""
        self.refusals[Refusal(body.get("customerReferenceId", "?"), asked, code, words)] += 1

    def counted(self) -> dict[str, int]:
        """Return how many events of each customer are recorded."""
        return dict(Counter(body["customerReferenceId"] for body in self.recorded.values()))

    def unpriced(self) -> int:
        """Return how many recorded events name the model that nobody knows."""
        return sum(body.get("costInput", {}).get("model") == UNKNOWN_MODEL for body in self.recorded.values())

    def used(self) -> dict[tuple[str, str], Decimal]:
        """Recount the usage by customer and feature, from the bodies alone."""
        events: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for body in self.recorded.values():
            feature = _FEATURE_OF[body["eventName"]]
            events[body["customerReferenceId"], feature].append(body)
        return {place: Decimal(_RECOUNT[place[1]](bodies)) for place, bodies in events.items()}


def _answers(bodies: list[dict[str, Any]]) -> int:
    """Recount the assistant: tokens, or answers where the plan counts those."""
    return sum(body.get("usageUnits") or _tokens(body["costInput"]) for body in bodies)


def _tokens(cost_input: dict[str, Any]) -> int:
    tokens: int = cost_input["inputTokens"] + cost_input["outputTokens"]
    return tokens


_FEATURE_OF: Final = {
    "api": "api",
    "chat": "assistant",
    "answer": "assistant",
    "user.active": "seats",
    "storage.measured": "storage",
}
_RECOUNT: Final[dict[str, Callable[[list[dict[str, Any]]], int]]] = {
    "api": lambda bodies: sum(body["usageUnits"] for body in bodies),
    "assistant": _answers,
    "seats": lambda bodies: len({body["meta"]["user_id"] for body in bodies if body["meta"]["role"] != "guest"}),
    "storage": lambda bodies: max(body["meta"]["gb"] for body in bodies),
}


def compare(tally: Tally, lines: list[Any], metrics: dict[str, Decimal], unpriced: int) -> list[Comparison]:
    """Put the demo's count beside the daemon's, number by number.

    Args:
        tally: what the demo knows.
        lines: the daemon's usage by customer and feature (`demo_books.UsageLine`).
        metrics: the daemon's metrics.
        unpriced: events the daemon lists as unpriced.
    """
    again = metrics["tallyd_events_duplicate_total"]
    found = [
        Comparison("events recorded", Decimal(len(tally.recorded)), metrics["tallyd_events_total"]),
        Comparison("keys sent again", Decimal(tally.duplicates + tally.conflicts), again),
        Comparison("events without a price", Decimal(tally.unpriced()), Decimal(unpriced)),
    ]
    counted = {(line.customer, line.feature): line.used for line in lines}
    for place, used in sorted(tally.used().items()):
        customer, feature = place
        found.append(Comparison(f"{customer}: {feature} used", used, counted.get(place, ZERO)))
    return found
