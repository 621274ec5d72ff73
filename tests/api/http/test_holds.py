"""Holds over the native API, on a real daemon: reserve, settle, release, and what they keep others from."""

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from harness import NOW, Running, running
from tallyd.model.moments import SECOND_US, iso

CLIENT: Final = "/api/v1/client"
ADMIN: Final = "/api/v1/monetization/credits"
HOLDS: Final = f"{CLIENT}/holds"
CATALOG: Final = """
[[features]]
key = "chat"
[[features]]
key = "seats"
[[features]]
key = "llm"

[[credit_models]]
key = "tokens"
denomination = "TOKENS"
features = ["chat", "llm"]

[[credit_models]]
key = "strict"
denomination = "STRICT"
features = ["chat"]
on_shortfall = "refuse"

[[plans]]
key = "pro"
name = "Pro"
[[plans.features]]
feature = "chat"
pricing = { model = "usage", usage_unit_type = "call", price_per_unit = "0.10" }
[[plans.features]]
feature = "seats"
pricing = { model = "included", max_usage = 10 }
[[plans.features]]
feature = "llm"
pricing = { model = "llm_tokens", rates = { "gpt-4o" = { input = "2.50", output = 10 } } }
"""


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Running]:
    """Run a daemon with a customer that has ten credits."""
    async with running(tmp_path, catalog=CATALOG) as started:
        await started.subscribe("acme")
        await grant(started, 10)
        yield started


async def ask(daemon: Running, method: str, path: str, *, expect: int = 200, **given: Any) -> Any:
    """Ask something; return the data, or the error. Numbers have every digit."""
    reply = await daemon.http.request(method, path, **given)
    assert reply.status_code == expect, reply.text
    answer = json.loads(reply.content, parse_float=Decimal)
    return answer["data"] if answer["success"] else answer["error"]


async def grant(daemon: Running, amount: Any, model: str = "tokens", **fields: Any) -> Any:
    """Grant the customer credits."""
    body = {"customerReferenceId": "acme", "creditModelKey": model, "amount": amount, **fields}
    return await ask(daemon, "POST", f"{ADMIN}/grants", expect=201, json=body)


async def reserve(daemon: Running, units: Any, *, expect: int = 201, **fields: Any) -> Any:
    """Reserve units."""
    body = {"customerReferenceId": "acme", "featureKey": "chat", "usageUnits": units, **fields}
    return await ask(daemon, "POST", HOLDS, expect=expect, json=body)


async def settle(daemon: Running, hold: str, units: Any, *, expect: int = 200, **fields: Any) -> Any:
    """Settle a hold."""
    body = {"usageUnits": units, **fields}
    return await ask(daemon, "POST", f"{HOLDS}/{hold}/settle", expect=expect, json=body)


async def pool(daemon: Running) -> Any:
    """Return the customer's first pool."""
    return (await ask(daemon, "GET", f"{CLIENT}/credits/acme/pools"))["items"][0]


async def use(daemon: Running, units: Any, *, expect: int = 201) -> Any:
    """Report usage as an event."""
    body = {"eventName": "call", "customerReferenceId": "acme", "featureKey": "chat", "usageUnits": units}
    return await ask(daemon, "POST", f"{CLIENT}/events", expect=expect, json=body)


async def events(daemon: Running) -> list[Any]:
    """Return all events."""
    found: list[Any] = (await ask(daemon, "GET", f"{CLIENT}/events"))["items"]
    return found


# A hold's life


async def test_a_hold_sets_credits_aside_and_its_settlement_draws_them(daemon: Running) -> None:
    """Reserved 6, used 4: 4 are drawn, 2 are free again, and the event says which hold paid."""
    hold = await reserve(daemon, 6, idempotencyKey="h")
    assert (hold["allowed"], hold["status"], hold["heldCredits"], hold["heldUnits"]) == (True, "HELD", 6, 6)
    assert hold["expiresAt"] == iso(NOW + 300 * SECOND_US)
    held = await pool(daemon)
    assert (held["balance"], held["held"], held["available"]) == (10, 6, 4)
    settled = await settle(daemon, hold["holdId"], 4)
    assert (settled["status"], settled["creditsDeducted"], settled["remainingBalance"]) == ("SETTLED", 4, 6)
    after = await pool(daemon)
    assert (after["balance"], after["held"], after["available"]) == (6, 0, 6)
    event = await ask(daemon, "GET", f"{CLIENT}/events/{settled['eventId']}")
    assert [(row["amount"], row["holdId"]) for row in event["credits"]] == [(-4, hold["holdId"])]
    assert event["eventIdempotencyKey"] == hold["holdId"]
    assert (await ask(daemon, "GET", f"{HOLDS}/{hold['holdId']}"))["eventId"] == settled["eventId"]


async def test_a_hold_is_released_once_and_again_without_harm(daemon: Running) -> None:
    """POST …/release and DELETE give everything back; repeated they answer where the hold stands."""
    for method, path in (("POST", "/release"), ("DELETE", "")):
        hold = (await reserve(daemon, 6))["holdId"]
        for _ in range(2):
            released = await ask(daemon, method, f"{HOLDS}/{hold}{path}")
            assert (released["status"], released["heldCredits"]) == ("RELEASED", 0)
        assert (await pool(daemon))["available"] == 10
        assert (await settle(daemon, hold, 1, expect=409))["code"] == "conflict"
    assert await events(daemon) == []


async def test_a_hold_is_settled_in_parts(daemon: Running) -> None:
    """`final: false` draws a part and keeps the rest; each part has a key and counts once; the last ends it."""
    hold = (await reserve(daemon, 6))["holdId"]
    missing = await settle(daemon, hold, 2, final=False, expect=400)
    assert missing["message"].startswith("Validation failed: eventIdempotencyKey: ")
    for key, left in (("a", 4), ("b", 2)):
        for duplicate in (False, True):
            part = await settle(daemon, hold, 2, final=False, eventIdempotencyKey=key)
            assert (part["status"], part["heldCredits"], part.get("duplicate", False)) == ("HELD", left, duplicate)
    last = await settle(daemon, hold, 1)
    assert (last["status"], last["heldCredits"]) == ("SETTLED", 0)
    assert ((await pool(daemon))["balance"], len(await events(daemon))) == (5, 3)


async def test_a_hold_that_has_expired_holds_nothing(daemon: Running) -> None:
    """At its expiry the credits are free, without a job; settled late, its usage is a plain fact (P7)."""
    hold = (await reserve(daemon, 6, ttlSeconds=60))["holdId"]
    daemon.clock.move(60 * SECOND_US - 1)
    assert (await pool(daemon))["available"] == 4
    daemon.clock.move(1)
    assert (await pool(daemon))["available"] == 10
    assert (await ask(daemon, "GET", f"{CLIENT}/credits/acme/holds"))["items"] == []
    expired = await ask(daemon, "GET", f"{HOLDS}/{hold}")
    assert (expired["status"], expired["closedAt"]) == ("EXPIRED", iso(NOW + 60 * SECOND_US))
    assert (await ask(daemon, "DELETE", f"{HOLDS}/{hold}"))["status"] == "EXPIRED"
    late = await settle(daemon, hold, 3)
    assert (late["status"], late["creditsDeducted"]) == ("EXPIRED", 3)
    assert (await settle(daemon, hold, 3))["duplicate"] is True
    assert (await pool(daemon))["balance"] == 7


async def test_a_hold_shows_only_what_is_left_of_its_grants(daemon: Running) -> None:
    """A hold does not outlive the grants behind it: what expires is not held any more, whoever looks (P7)."""
    await grant(daemon, 5, expiresAt=iso(NOW + 60 * SECOND_US))
    hold = (await reserve(daemon, 15))["holdId"]
    daemon.clock.move(60 * SECOND_US)
    assert (await ask(daemon, "GET", f"{HOLDS}/{hold}"))["heldCredits"] == 10
    (listed,) = (await ask(daemon, "GET", f"{CLIENT}/credits/acme/holds"))["items"]
    assert listed["heldCredits"] == 10
    standing = await pool(daemon)
    assert (standing["balance"], standing["held"]) == (10, 10)


async def test_what_was_used_beyond_the_hold_is_drawn_from_what_is_free(daemon: Running) -> None:
    """Reserved 4, used 7: 4 held and 3 free credits are drawn."""
    hold = (await reserve(daemon, 4))["holdId"]
    settled = await settle(daemon, hold, 7)
    assert (settled["creditsDeducted"], settled["remainingBalance"]) == (7, 3)


async def test_usage_nobody_can_pay_for_is_billed_by_the_plan_as_the_model_says(daemon: Running) -> None:
    """`on_shortfall = "bill"`: reserved 10, used 12, the two units are charged."""
    settled = await settle(daemon, (await reserve(daemon, 10))["holdId"], 12)
    assert (settled["creditsDeducted"], settled["revenueAmount"]) == (10, Decimal("0.2"))


async def test_a_settlement_that_is_refused_leaves_the_hold_as_it_was(tmp_path: Path) -> None:
    """`on_shortfall = "refuse"`: 409, the hold stands, and after a grant the same settlement is taken."""
    async with running(tmp_path, catalog=CATALOG) as daemon:
        await daemon.subscribe("acme")
        await grant(daemon, 5, model="strict")
        hold = (await reserve(daemon, 5))["holdId"]
        assert (await settle(daemon, hold, 6, expect=409))["code"] == "insufficient_credits"
        assert (await ask(daemon, "GET", f"{HOLDS}/{hold}"))["heldCredits"] == 5
        await grant(daemon, 1, model="strict")
        assert (await settle(daemon, hold, 6))["creditsDeducted"] == 6


# What a hold keeps others from


async def test_a_denied_reserve_says_why_and_holds_nothing(daemon: Running) -> None:
    """200 with `allowed` false, the pool and the charge; the key is free (P4)."""
    denied = await reserve(daemon, 11, idempotencyKey="h", expect=200)
    assert (denied["allowed"], "holdId" in denied) == (False, False)
    assert denied["meta"]["reason"]["code"] == "insufficient_credits"
    assert (denied["credit"]["available"], denied["creditQuote"]["estimatedCredits"]) == (10, 11)
    assert (await ask(daemon, "GET", f"{CLIENT}/credits/acme/holds"))["pagination"]["total"] == 0
    await grant(daemon, 1)
    assert (await reserve(daemon, 11, idempotencyKey="h"))["heldCredits"] == 11


async def test_a_check_agrees_with_the_holds(daemon: Running) -> None:
    """Held credits and units are not there for others: check, evaluate and the event say the same (P4)."""
    hold = await reserve(daemon, 10)
    checked = await ask(daemon, "GET", f"{CLIENT}/entitlements/acme/chat")
    assert (checked["allowed"], checked["credit"]["balance"], checked["credit"]["available"]) == (False, 10, 0)
    assert (await use(daemon, 1, expect=409))["code"] == "insufficient_credits"
    await ask(daemon, "DELETE", f"{HOLDS}/{hold['holdId']}")
    assert (await ask(daemon, "GET", f"{CLIENT}/entitlements/acme/chat"))["allowed"] is True
    seats = await reserve(daemon, 8, featureKey="seats")
    assert (seats["usage"], seats["heldUnits"]) == ({"used": 0, "limit": 10, "remaining": 2, "held": 8}, 8)
    assert (await reserve(daemon, 3, featureKey="seats", expect=200))["allowed"] is False
    usage = (await ask(daemon, "GET", f"{CLIENT}/entitlements/acme/seats"))["usage"]
    assert usage == {"used": 0, "limit": 10, "remaining": 2, "held": 8}


async def test_a_frozen_pool_still_pays_for_what_was_held(daemon: Running) -> None:
    """Frozen it gives nothing new, but a hold made before is settled from it."""
    hold = (await reserve(daemon, 4))["holdId"]
    await ask(daemon, "POST", f"{ADMIN}/pools/{(await pool(daemon))['id']}/freeze")
    assert (await reserve(daemon, 1, expect=200))["allowed"] is False
    assert (await settle(daemon, hold, 4))["creditsDeducted"] == 4


async def test_blnk_181_holds_never_exceed_the_balance(daemon: Running) -> None:
    """Twenty reserves of 3 at once against 10 credits: three are granted, whoever comes first (P4)."""
    answers: list[bool] = []

    async def once() -> None:
        body = {"customerReferenceId": "acme", "featureKey": "chat", "usageUnits": 3}
        answers.append((await daemon.http.post(HOLDS, json=body)).json()["data"]["allowed"])

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(once)
    assert sorted(answers) == [False] * 17 + [True] * 3
    standing = await pool(daemon)
    assert (standing["held"], standing["available"]) == (9, 1)
    body = {"creditPoolId": standing["id"], "amount": 2}
    error = await ask(daemon, "POST", f"{ADMIN}/deductions", expect=409, json=body)
    assert error["message"].startswith("Credit pool depleted")


async def test_lago_3618_two_settlements_at_once_count_once(daemon: Running) -> None:
    """Sent within the same millisecond, one is recorded and the other is told of it."""
    hold = (await reserve(daemon, 6))["holdId"]
    answers = []

    async def once() -> None:
        answers.append(await settle(daemon, hold, 4))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(once)
    assert sorted(answer.get("duplicate", False) for answer in answers) == [False, True, True, True, True]
    assert len({answer["eventId"] for answer in answers}) == 1
    assert ((await pool(daemon))["balance"], len(await events(daemon))) == (6, 1)


async def test_litellm_38647_a_forgotten_hold_blocks_nobody_for_long(daemon: Running) -> None:
    """A hold takes what the plan would charge for the estimate, not the whole budget, and it ends by itself."""
    weights = [{"featureKey": "llm", "weight": "0.001", "kind": "input"}]
    weights.append({"featureKey": "llm", "weight": "0.002", "kind": "output"})
    await ask(daemon, "POST", f"{ADMIN}/weights/publish", expect=201, json={"weights": weights})
    estimate = {"model": "gpt-4o", "inputTokens": 1000, "maxOutputTokens": 2000}
    sent = {"customerReferenceId": "acme", "featureKey": "llm", "estimate": estimate, "ttlSeconds": 60}
    for _ in range(2):
        hold = await ask(daemon, "POST", HOLDS, expect=201, json=sent)
        assert hold["heldCredits"] == 5
    assert (await ask(daemon, "POST", HOLDS, json=sent))["allowed"] is False
    used = {"costInput": {"inputTokens": 1000, "outputTokens": 10}}
    settled = await ask(daemon, "POST", f"{HOLDS}/{hold['holdId']}/settle", json=used)
    assert settled["creditsDeducted"] == Decimal("1.02")
    daemon.clock.move(60 * SECOND_US)
    assert (await ask(daemon, "POST", HOLDS, expect=201, json=sent))["allowed"] is True


# Keys


async def test_a_key_makes_one_hold(daemon: Running) -> None:
    """The retry is 200 with the hold as it stands; another body, or another customer, is a conflict (P2)."""
    made = await reserve(daemon, 6, idempotencyKey="h")
    again = await reserve(daemon, 6, idempotencyKey="h", expect=200)
    assert (again["holdId"], again["duplicate"], again["allowed"]) == (made["holdId"], True, True)
    other = await reserve(daemon, 5, idempotencyKey="h", expect=409)
    assert (other["code"], other["detail"]) == ("idempotency_conflict", made["holdId"])
    await daemon.subscribe("other")
    theirs = await reserve(daemon, 6, idempotencyKey="h", customerReferenceId="other", expect=409)
    assert theirs["code"] == "idempotency_conflict"
    await settle(daemon, made["holdId"], 6)
    assert (await reserve(daemon, 6, idempotencyKey="h", expect=200))["status"] == "SETTLED"


async def test_the_transports_key_makes_one_hold(daemon: Running) -> None:
    """The first answer is replayed, 201; and the hold itself is made under the key."""
    body = {"customerReferenceId": "acme", "featureKey": "chat", "usageUnits": 6}
    given: dict[str, Any] = {"json": body, "headers": {"Idempotency-Key": "t"}}
    first = await ask(daemon, "POST", HOLDS, expect=201, **given)
    assert await ask(daemon, "POST", HOLDS, expect=201, **given) == first
    assert (await pool(daemon))["held"] == 6


async def test_the_header_is_the_settlements_event_key(daemon: Running) -> None:
    """`X-Idempotency-Key` wins over the body's key, as it does for events; a used one is a conflict (1.2)."""
    hold = (await reserve(daemon, 6))["holdId"]
    given: dict[str, Any] = {"json": {"usageUnits": 2, "eventIdempotencyKey": "body"}}
    path = f"{HOLDS}/{hold}/settle"
    settled = await ask(daemon, "POST", path, headers={"X-Idempotency-Key": "head"}, **given)
    event = await ask(daemon, "GET", f"{CLIENT}/events/{settled['eventId']}")
    assert (event["eventIdempotencyKey"], event["source"]) == ("head", "tanso")
    given["json"]["usageUnits"] = 3
    error = await ask(daemon, "POST", path, expect=409, headers={"X-Idempotency-Key": "head"}, **given)
    assert error["code"] == "idempotency_conflict"


# What is refused


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"usageUnits": None}, "usageUnits"),
        ({"usageUnits": 0}, "usageUnits"),
        ({"usageUnits": -1}, "usageUnits"),
        ({"ttlSeconds": 0}, "ttlSeconds"),
        ({"ttlSeconds": 604_801}, "ttlSeconds"),
        ({"customerReferenceId": ""}, "customerReferenceId"),
        ({"customerReferenceId": "a\u0007"}, "customerReferenceId"),
        ({"featureKey": "x" * 256}, "eventName"),
        ({"idempotencyKey": ""}, "idempotencyKey"),
        ({"estimate": {"tokens": 1}}, "estimate.tokens"),
        ({"ttl": 60}, "ttl"),
    ],
)
async def test_a_bad_reserve_is_refused_by_field(daemon: Running, body: dict[str, Any], field: str) -> None:
    """The message names the field, and nothing is held."""
    sent = {"customerReferenceId": "acme", "featureKey": "chat", "usageUnits": 1, **body}
    error = await ask(daemon, "POST", HOLDS, expect=400, json=sent)
    assert error["message"].startswith(f"Validation failed: {field}: ")
    assert (await pool(daemon))["held"] == 0


async def test_a_settlement_names_what_is_wrong(daemon: Running) -> None:
    """No usage, an unknown field, another hold than in the path, a hold that is not there or not theirs."""
    hold, path = (await reserve(daemon, 1))["holdId"], f"{HOLDS}/{{}}/settle"
    for body, field in (
        ({}, "usageUnits"),
        ({"usageUnits": 1, "unit": 1}, "unit"),
        ({"usageUnits": 1, "holdId": "other"}, "holdId"),
        ({"usageUnits": -1}, "usageUnits"),
    ):
        error = await ask(daemon, "POST", path.format(hold), expect=400, json=body)
        assert error["message"].startswith(f"Validation failed: {field}: ")
    await daemon.subscribe("other")
    await settle(daemon, hold, 1, customerReferenceId="other", expect=404)
    for unknown in ("x", "7a11d000-0000-8000-8000-0000000fffff"):
        await ask(daemon, "POST", path.format(unknown), expect=404, json={"usageUnits": 1})
        await ask(daemon, "GET", f"{HOLDS}/{unknown}", expect=404)
        await ask(daemon, "DELETE", f"{HOLDS}/{unknown}", expect=404)
    assert (await pool(daemon))["held"] == 1


async def test_a_hold_outlives_the_daemon(tmp_path: Path) -> None:
    """After a restart it holds what it held, and is settled as before."""
    async with running(tmp_path, catalog=CATALOG) as daemon:
        await daemon.subscribe("acme")
        await grant(daemon, 10)
        hold = (await reserve(daemon, 6, meta={"名": "値"}))["holdId"]
    async with running(tmp_path, catalog=CATALOG) as daemon:
        assert (await pool(daemon))["available"] == 4
        settled = await settle(daemon, hold, 5)
        assert (settled["status"], settled["remainingBalance"]) == ("SETTLED", 5)
        event = await ask(daemon, "GET", f"{CLIENT}/events/{settled['eventId']}")
        assert event["meta"] == {"名": "値"}
