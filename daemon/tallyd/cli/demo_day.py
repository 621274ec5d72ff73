"""A day of an LLM product's customers, made up from a seed: what the demo sends. The same seed, the same day."""

import random
from typing import Any, Final, Literal

import msgspec

from tallyd.model.moments import DAY_US, HOUR_US, MINUTE_US, from_micros, iso

Lane = Literal["http", "socket", "guarded", "late"]
Kind = Literal["event", "batch", "ingest", "consume", "check", "guarded"]

LANES: Final[tuple[Lane, ...]] = ("http", "socket", "guarded")
UNKNOWN_MODEL: Final = "umbra-70b-preview"
RETRY_SHARE: Final = 0.04
LATE_RETRIES: Final = 60
RUSH_CALLS: Final = 64
_LOAD: Final = (2, 1, 1, 1, 1, 2, 4, 7, 11, 14, 15, 15, 13, 14, 15, 15, 13, 11, 9, 8, 7, 6, 4, 3)
"""How busy each hour of the day is, against the others."""


class DemoCustomer(msgspec.Struct, frozen=True):
    """A customer of the product. Without a plan it only tries things out."""

    reference: str
    plan: str | None
    story: str


CUSTOMERS: Final = (
    DemoCustomer("acme", "pro", "chats all day, calls the API, 42 seats; upgrades in mid-month"),
    DemoCustomer(
        "globex", "scale", "heavy API use through graduated tiers, models at cost plus 30 %, invoiced afterwards"
    ),
    DemoCustomer("initech", "free", "consumes API calls until its 1,000 are gone"),
    DemoCustomer("hooli", "free", "asks before each chat until its 200,000 tokens are gone"),
    DemoCustomer("umbrella", "scale", "runs a model that no price table knows; pays late"),
    DemoCustomer("wayne", None, "chats without a plan"),
    DemoCustomer("stark", "prepaid", "prepays answers with credits; its agents reserve before they call"),
)


class Call(msgspec.Struct, frozen=True):
    """One request.

    Attributes:
        at: microseconds UTC, when in the day it is made.
        lane: how it gets to the daemon; `late` ones are sent when the day is over.
        kind: what is asked.
        bodies: the events, or the params of a check.
    """

    at: int
    lane: Lane
    kind: Kind
    bodies: list[dict[str, Any]]


class Rush(msgspec.Struct, frozen=True):
    """Many agents of one customer who reserve credits at once, when the day is over.

    Attributes:
        customer: whose agents.
        feature: what they use.
        purchase: credits bought just before, as `credits.grant` takes them.
        estimate: what each reserves, as `reserve` takes it.
        calls: what each call used in the end, at most what was reserved: events.
    """

    customer: str
    feature: str
    purchase: dict[str, Any]
    estimate: dict[str, Any]
    calls: list[dict[str, Any]]


class Day(msgspec.Struct, frozen=True):
    """Everything that is sent, in order. `start` and `end` in microseconds UTC."""

    start: int
    end: int
    calls: list[Call]
    rush: Rush

    def of(self, lane: Lane) -> list[Call]:
        """Return the calls of a lane, in order."""
        return [call for call in self.calls if call.lane == lane]


def make_day(seed: int, now: int) -> Day:
    """Make up the 24 hours before an instant."""
    return _Maker(seed, now).day()


class _Maker:
    def __init__(self, seed: int, now: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a made-up day, not a secret
        self._end = now - now % MINUTE_US
        self._start = self._end - DAY_US
        self._number = 0
        hours = [self._start + hour * HOUR_US for hour in range(24)]
        self._hours = hours
        self._weights = [_LOAD[from_micros(hour).hour] for hour in hours]

    def day(self) -> Day:
        calls = [*self._acme(), *self._globex(), *self._initech(), *self._hooli()]
        calls += [*self._umbrella(), *self._wayne(), *self._stark()]
        calls += self._retries(calls)
        calls.sort(key=lambda call: call.at)
        return Day(self._start, self._end, [*calls, *self._late(calls)], self._rush())

    # The customers

    def _acme(self) -> list[Call]:
        chats = [self._chat("acme", at, ("gpt-4o", "gpt-4o", "gpt-4o-mini")) for at in self._moments(1_600)]
        calls = [Call(at, "http", "event", [body]) for at, body in chats]
        api = [self._event("acme", "api", at, usageUnits=self._whole(1, 5)) for at in self._moments(900)]
        calls += _batches(api, "socket", "ingest", 25)
        seats = [
            self._event("acme", "user.active", at, meta=self._user(self._whole(1, 47)))
            for at in self._moments(300)
        ]
        return calls + _batches(seats, "http", "batch", 20)

    def _globex(self) -> list[Call]:
        api = [self._event("globex", "api", at, usageUnits=self._whole(5, 15)) for at in self._moments(1_500)]
        models = ("claude-sonnet-4-5", "gpt-4o", "gemini-2.5-flash")
        chats = [self._chat("globex", at, models) for at in self._moments(700)]
        stored = [
            self._event("globex", "storage.measured", at, meta={"gb": 40 + self._whole(0, 200)})
            for at in self._hours
        ]
        calls = [*_batches(api, "http", "batch", 50), *_batches(chats, "socket", "ingest", 10)]
        return [*calls, *_batches(stored, "socket", "ingest", 1)]

    def _initech(self) -> list[Call]:
        asked = [self._event("initech", "api", at, usageUnits=self._whole(1, 3)) for at in self._moments(800)]
        calls = [Call(at, "socket", "consume", [body]) for at, body in asked]
        params = {"customerReferenceId": "initech", "featureKey": "storage"}
        return [*calls, *(Call(at, "socket", "check", [params]) for at in self._moments(20))]

    def _hooli(self) -> list[Call]:
        chats = [self._chat("hooli", at, ("gpt-4o-mini",)) for at in self._moments(180)]
        return [Call(at, "guarded", "guarded", [body]) for at, body in chats]

    def _umbrella(self) -> list[Call]:
        chats = [self._chat("umbrella", at, ("gpt-4o", UNKNOWN_MODEL)) for at in self._moments(260)]
        return [Call(at, "http", "event", [body]) for at, body in chats]

    def _wayne(self) -> list[Call]:
        chats = [self._chat("wayne", at, ("gpt-4o-mini",)) for at in self._moments(150)]
        params = {"customerReferenceId": "wayne", "featureKey": "assistant"}
        checks = [Call(at, "socket", "check", [params]) for at in self._moments(40)]
        return [*_batches(chats, "http", "batch", 5), *checks]

    def _stark(self) -> list[Call]:
        asked = [self._answer("stark", at, "gpt-4o-mini", 1) for at in self._moments(40)]
        return [Call(at, "socket", "consume", [body]) for at, body in asked]

    def _rush(self) -> Rush:
        """Return agents that reserve four answers each, and what their calls used."""
        most = 4
        used = [self._answer("stark", self._end, "gpt-4o", self._whole(1, most))[1] for _ in range(RUSH_CALLS)]
        return Rush(
            customer="stark",
            feature="assistant",
            purchase={
                "creditModelKey": "credits",
                "amount": 400,
                "grantType": "PURCHASED",
                "unitPrice": "0.02",
                "currency": "USD",
            },
            estimate={
                "customerReferenceId": "stark",
                "featureKey": "assistant",
                "eventName": "answer",
                "usageUnits": most,
                "estimate": {"model": "gpt-4o"},
            },
            calls=used,
        )

    # Trouble

    def _retries(self, calls: list[Call]) -> list[Call]:
        """Send some again a little later, by the same way: an app that did not wait for the answer."""
        again = [call for call in calls if call.kind != "check" and self._random.random() < RETRY_SHARE]
        return [msgspec.structs.replace(call, at=call.at + self._whole(1, 90) * 1_000_000) for call in again]

    def _late(self, calls: list[Call]) -> list[Call]:
        """When the day is over: a job sends old events again, some with other numbers, and some nonsense."""
        single = [call for call in calls if call.kind == "event"]
        again = self._random.sample(single, LATE_RETRIES)
        late = [Call(self._end, "late", "ingest", call.bodies) for call in again]
        changed = [{**call.bodies[0], "usageUnits": 1} for call in again[:7]]
        late += [Call(self._end, "late", "event", [body]) for body in changed]
        _, good = self._event("acme", "api", self._end, usageUnits=1)
        nonsense = (
            {**good, "usageUnits": -5},
            {**good, "occurredAt": "2026-13-01 25:00"},
            {**good, "usageUnits": "9" * 40},
            {name: value for name, value in good.items() if name != "customerReferenceId"},
            {**good, "eventName": ""},
        )
        keyed = [{**body, "eventIdempotencyKey": f"nonsense-{place}"} for place, body in enumerate(nonsense)]
        return [*late, Call(self._end, "late", "batch", keyed)]

    # Pieces

    def _moments(self, count: int) -> list[int]:
        """Return instants of the day, more of them in busy hours."""
        hours = self._random.choices(self._hours, self._weights, k=count)
        return sorted(hour + self._random.randrange(HOUR_US) for hour in hours)

    def _whole(self, least: int, most: int) -> int:
        return self._random.randint(least, most)

    def _user(self, number: int) -> dict[str, Any]:
        return {"user_id": f"user-{number}", "role": "guest" if number > 42 else "member"}  # noqa: PLR2004 - the story

    def _chat(self, customer: str, at: int, models: tuple[str, ...]) -> tuple[int, dict[str, Any]]:
        tokens = {
            "inputTokens": int(self._random.lognormvariate(7, 0.8)) + 20,
            "outputTokens": self._whole(20, 900),
        }
        body = self._event(customer, "chat", at, costInput={"model": self._random.choice(models), **tokens})[1]
        return at, {**body, "featureKey": "assistant"}

    def _answer(self, customer: str, at: int, model: str, answers: int) -> tuple[int, dict[str, Any]]:
        """Return an event that counts in answers, each paid for with credits."""
        tokens = {"inputTokens": self._whole(200, 3_000), "outputTokens": self._whole(100, 900) * answers}
        body = self._event(customer, "answer", at, usageUnits=answers, costInput={"model": model, **tokens})[1]
        return at, {**body, "featureKey": "assistant"}

    def _event(self, customer: str, name: str, at: int, **fields: Any) -> tuple[int, dict[str, Any]]:
        self._number += 1
        return at, {
            "eventName": name,
            "eventIdempotencyKey": f"demo-{self._number}",
            "customerReferenceId": customer,
            "occurredAt": iso(at),
            **fields,
        }


def _batches(events: list[tuple[int, dict[str, Any]]], lane: Lane, kind: Kind, size: int) -> list[Call]:
    """Collect events into calls, each made when its last event happened."""
    parts = [events[start : start + size] for start in range(0, len(events), size)]
    return [Call(part[-1][0], lane, kind, [body for _, body in part]) for part in parts]
