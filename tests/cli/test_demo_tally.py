"""The demo's own count."""

from decimal import Decimal
from typing import Any

import pytest

from tallyd.cli.demo_tally import Refusal, Tally


def event(key: str, name: str = "api", **fields: Any) -> dict[str, Any]:
    """Return a body."""
    return {"eventName": name, "eventIdempotencyKey": key, "customerReferenceId": "acme", **fields}


CREATED = {"status": "created"}


def test_an_event_counts_when_it_was_recorded() -> None:
    """Retries are sent events, but count once."""
    tally = Tally()
    tally.take(event("1", usageUnits=3), CREATED)
    tally.take(event("1", usageUnits=3), {"status": "duplicate"})
    assert (tally.sent, tally.duplicates, len(tally.recorded)) == (2, 1, 1)
    assert tally.used() == {("acme", "api"): Decimal(3)}


def test_recorded_twice_is_noticed() -> None:
    """A daemon that records one key twice does not get through the demo."""
    tally = Tally()
    tally.take(event("1"), CREATED)
    with pytest.raises(AssertionError, match="recorded twice"):
        tally.take(event("1"), CREATED)


def test_refusals_are_counted_by_reason() -> None:
    """The same refusal twice is one line with a count."""
    tally = Tally()
    refused = {"status": "refused", "error": {"code": "validation_failed", "message": "bad", "field": "meta"}}
    tally.take(event("1"), refused)
    tally.take(event("2"), refused)
    assert tally.refusals == {Refusal("acme", "event api", "validation_failed", "meta: bad"): 2}


def test_usage_is_recounted_as_each_feature_counts() -> None:
    """Tokens are summed, seats are distinct members, storage is the most there was."""
    tally = Tally()
    bodies = [
        event("1", "chat", costInput={"model": "m", "inputTokens": 5, "outputTokens": 6}),
        event("2", "user.active", meta={"user_id": "a", "role": "member"}),
        event("3", "user.active", meta={"user_id": "a", "role": "member"}),
        event("4", "user.active", meta={"user_id": "b", "role": "guest"}),
        event("5", "storage.measured", meta={"gb": 7}),
        event("6", "storage.measured", meta={"gb": 4}),
    ]
    for body in bodies:
        tally.take(body, CREATED)
    assert tally.used() == {("acme", "assistant"): 11, ("acme", "seats"): 1, ("acme", "storage"): 7}


def test_answers_are_counted_where_the_plan_counts_them() -> None:
    """A prepaid answer counts as the units it was sent with, not its tokens."""
    tally = Tally()
    tokens = {"model": "m", "inputTokens": 5, "outputTokens": 6}
    tally.take(event("1", "answer", usageUnits=3, costInput=tokens), CREATED)
    assert tally.used() == {("acme", "assistant"): 3}
