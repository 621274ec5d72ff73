"""Where something is absent, late or sent twice, credits do not answer yes by default."""

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from harness import Running, running
from tallyd.actors.intake import Request
from tallyd.actors.messages import Accepted
from tallyd.api import consuming
from tallyd.api.commands import decode_event, read_request
from tallyd.engine import recording
from tallyd.model.customer import CustomerRef, RefKind
from tallyd.model.event import Source, event_number
from tallyd.model.moments import DAY_US, iso
from tallyd.model.problems import Code, Problem
from tallyd.store import sqlite
from tallyd.store.audit import audit

CLIENT: Final = "/api/v1/client"
ADMIN: Final = "/api/v1/monetization/credits"
ACME: Final = CustomerRef(RefKind.REFERENCE, "acme")
CATALOG: Final = """
[[features]]
key = "chat"
[[features]]
key = "calls"

[[credit_models]]
key = "tokens"
denomination = "TOKENS"

[[credit_models]]
key = "money"
denomination = "USD"
currency = "USD"
charge = "price"

[[plans]]
key = "named"
name = "Named"
[[plans.features]]
feature = "chat"
credit_model = "tokens"

[[plans]]
key = "priced"
name = "Priced"
[[plans.features]]
feature = "chat"
[[plans.features]]
feature = "calls"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = "0.10" }

[[plans]]
key = "llm"
name = "LLM"
[[plans.features]]
feature = "chat"
[plans.features.pricing]
model = "llm_tokens"
rates."gpt-4o" = { input = "2.50", output = 10 }

[[plans]]
key = "capped"
name = "Capped"
[[plans.features]]
feature = "chat"
pricing = { model = "included", max_usage = 5 }

[[plans]]
key = "typo"
name = "Typo"
[[plans.features]]
feature = "chat"
credit_model = "cde_typo"
"""


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Running]:
    """Run a daemon."""
    async with running(tmp_path, catalog=CATALOG) as started:
        yield started


async def post(daemon: Running, path: str, *, expect: int = 201, **body: Any) -> Any:
    """Post something; return the data, or the error."""
    reply = await daemon.http.post(path, json=body)
    assert reply.status_code == expect, reply.text
    answer = json.loads(reply.content, parse_float=Decimal)
    return answer["data"] if answer["success"] else answer["error"]


async def grant(daemon: Running, amount: Any, model: str = "tokens", *, expect: int = 201, **fields: Any) -> Any:
    """Grant credits."""
    body = {"customerReferenceId": "acme", "creditModelKey": model, "amount": amount, **fields}
    return await post(daemon, f"{ADMIN}/grants", expect=expect, **body)


async def use(daemon: Running, units: Any, *, expect: int = 201, feature: str = "chat", **fields: Any) -> Any:
    """Report usage."""
    body = {"eventName": "call", "customerReferenceId": "acme", "featureKey": feature, "usageUnits": units}
    return await post(daemon, f"{CLIENT}/events", expect=expect, **{**body, **fields})


async def consume(daemon: Running, **body: Any) -> Any:
    """Ask for usage as the socket does."""
    sent = {"eventName": "call", "customerReferenceId": "acme", "featureKey": "chat", **body}
    event = decode_event(msgspec.json.encode(sent))
    return await consuming.consume(daemon.core, event)


async def reserve(daemon: Running, units: int) -> str:
    """Hold something; return the hold's id."""
    body = {"customerReferenceId": "acme", "featureKey": "chat", "usageUnits": units}
    return str((await post(daemon, f"{CLIENT}/holds", **body))["holdId"])


async def settle(daemon: Running, hold: str, *, expect: int = 200, **body: Any) -> Any:
    """Settle a hold."""
    return await post(daemon, f"{CLIENT}/holds/{hold}/settle", expect=expect, **body)


async def test_what_only_credits_pay_for_is_not_free_before_the_first_are_there(daemon: Running) -> None:
    """A feature that names a hard credit model is denied from the subscription on, until credits are granted."""
    await daemon.subscribe("acme", "named")
    refused = await consume(daemon, usageUnits=1)
    assert (refused.allowed, refused.meta.reason.code) == (False, "credit_limit_reached")
    await use(daemon, 1, expect=409)
    await grant(daemon, 2)
    assert (await consume(daemon, usageUnits=1)).allowed


async def test_a_plan_that_is_paid_with_unknown_credits_cannot_be_subscribed_to(daemon: Running) -> None:
    """A credit model nobody has made is named when somebody subscribes, not overlooked."""
    body = {"customerReferenceId": "acme", "planKey": "typo"}
    error = await post(daemon, f"{CLIENT}/subscriptions", expect=404, **body)
    assert "cde_typo" in error["message"]


@pytest.mark.parametrize("sent", [{}, {"costInput": {"model": "gpt-4o", "inputTokens": 5}}])
async def test_consuming_nothing_that_counts_is_refused(daemon: Running, sent: dict[str, Any]) -> None:
    """Where credits pay, a request that counts no units is refused: it would be free for ever."""
    await daemon.subscribe("acme", "named")
    await grant(daemon, 5)
    answer = await consume(daemon, **sent)
    assert (answer.allowed, answer.meta.reason.code) == (False, "event_not_counted")


async def test_consuming_nothing_of_a_limit_is_refused(daemon: Running) -> None:
    """The same holds for a plain limit: what counts no units would never reach it."""
    await daemon.subscribe("acme", "capped")
    answer = await consume(daemon)
    assert (answer.allowed, answer.meta.reason.code) == (False, "event_not_counted")
    assert (await consume(daemon, usageUnits=5)).allowed
    assert not (await consume(daemon, usageUnits=1)).allowed


async def test_credits_in_money_pay_what_tokens_cost(daemon: Running) -> None:
    """An estimate of tokens holds the plan's price of them, its settlement draws the price of what was used."""
    await daemon.subscribe("acme", "llm")
    await grant(daemon, 1, "money")
    estimate = {"model": "gpt-4o", "inputTokens": 1000, "maxOutputTokens": 4000}
    body = {"customerReferenceId": "acme", "featureKey": "chat", "estimate": estimate}
    hold = await post(daemon, f"{CLIENT}/holds", **body)
    assert hold["heldCredits"] == Decimal("0.0425")
    settled = await settle(daemon, hold["holdId"], costInput={"inputTokens": 1000, "outputTokens": 500})
    assert (settled["creditsDeducted"], settled["revenueAmount"]) == (Decimal("0.0075"), 0)
    assert settled["remainingBalance"] == Decimal("0.9925")


async def test_the_steps_of_a_charge_say_what_credits_paid(daemon: Running) -> None:
    """Steps add up to the charge: what credits in money paid is a step of its own."""
    await daemon.subscribe("acme", "priced")
    await grant(daemon, "0.7", "money")
    await grant(daemon, "100")
    await daemon.http.patch(f"{ADMIN}/pools/{await pool_of(daemon, 'tokens')}", json={"features": ["chat"]})
    await use(daemon, 7, feature="calls")
    reply = await daemon.http.get(f"{CLIENT}/customers/acme/charges")
    (feature,) = [
        each
        for each in json.loads(reply.content, parse_float=Decimal)["data"]["subscriptions"][0]["features"]
        if each["featureKey"] == "calls"
    ]
    assert feature["exactCharge"] == 0
    assert [step["amount"] for step in feature["steps"]] == [Decimal("0.70"), Decimal("-0.70")]
    assert feature["steps"][1]["description"] == "paid with credits"


async def pool_of(daemon: Running, model: str) -> str:
    """Return the customer's pool of a credit model."""
    reply = await daemon.http.get(f"{CLIENT}/credits/acme/pools")
    return next(each["id"] for each in reply.json()["data"]["items"] if each["creditModelKey"] == model)


async def test_a_misspelt_field_of_an_evaluate_is_named(daemon: Running) -> None:
    """What an evaluate does not know is refused: overlooked, it would answer another question with yes."""
    await daemon.subscribe("acme", "named")
    body = {"customerReferenceId": "acme", "featureKey": "chat", "usage": {"usageUnit": 5}}
    error = await post(daemon, f"{CLIENT}/entitlements", expect=400, **body)
    assert "usage.usageUnit" in error["message"]


async def test_a_frozen_pool_is_not_called_depleted(daemon: Running) -> None:
    """Usage that a frozen pool has to pay for is told so: to grant credits would not help."""
    await daemon.subscribe("acme", "named")
    await grant(daemon, 5)
    await post(daemon, f"{ADMIN}/pools/{await pool_of(daemon, 'tokens')}/freeze", expect=200)
    error = await use(daemon, 1, expect=409)
    assert (error["code"], error["message"][:18]) == ("insufficient_credits", "Credit pool frozen")


async def test_a_money_pool_does_not_soften_a_hard_unit_pool(daemon: Running) -> None:
    """Where the plan charges nothing, credits in money can pay nothing: a hard pool of units still refuses."""
    await daemon.subscribe("acme", "priced")
    await grant(daemon, 1)
    await grant(daemon, 1, "money")
    await use(daemon, 1000, expect=409)
    await use(daemon, 1)


async def test_one_event_key_settles_one_hold(daemon: Running) -> None:
    """The same key and usage on another hold, or final instead of partial, is a conflict and changes nothing."""
    await daemon.subscribe("acme", "named")
    await grant(daemon, 100)
    first, second = await reserve(daemon, 30), await reserve(daemon, 30)
    part = {"usageUnits": 5, "final": False, "eventIdempotencyKey": "chunk-1"}
    await settle(daemon, first, **part)
    assert (await settle(daemon, first, **part))["duplicate"] is True
    assert (await settle(daemon, second, expect=409, **part))["code"] == "idempotency_conflict"
    error = await settle(daemon, first, expect=409, usageUnits=5, eventIdempotencyKey="chunk-1")
    assert error["code"] == "idempotency_conflict"
    reply = await daemon.http.get(f"{CLIENT}/holds/{second}")
    assert (reply.json()["data"]["status"], reply.json()["data"]["heldCredits"]) == ("HELD", 30)


async def test_settling_twice_without_a_key_says_that_it_is_settled(daemon: Running) -> None:
    """Another usage for a hold that is settled is a conflict that names the hold's own event."""
    await daemon.subscribe("acme", "named")
    await grant(daemon, 100)
    hold = await reserve(daemon, 30)
    event = (await settle(daemon, hold, usageUnits=5))["eventId"]
    error = await settle(daemon, hold, expect=409, usageUnits=6)
    assert (error["code"], error["detail"]) == ("conflict", event)


async def test_a_settled_hold_cannot_be_settled_by_who_saw_it_open(daemon: Running) -> None:
    """Whoever looked a hold up while it was open finds it settled in the customer's own turn, even reloaded."""
    await daemon.subscribe("acme", "named")
    await grant(daemon, 100)
    hold = await reserve(daemon, 30)
    await settle(daemon, hold, usageUnits=30)
    core = daemon.core
    core.directory._idle_s = -1
    assert core.directory.put_away_idle() == 1
    sent = decode_event(
        b'{"eventName": "call", "featureKey": "chat", "customerReferenceId": "acme", "usageUnits": 30}'
    )
    request = read_request(core, sent, Source.SOCKET, "another-key")
    number = event_number(hold)
    assert number is not None
    decide = partial(recording.settle, hold=number, final=True)
    (outcome,) = await core.intake.ingest([Request(ACME, request.event)], decide, number)
    assert isinstance(outcome, Problem)
    assert outcome.code is Code.CONFLICT
    assert not isinstance(outcome, Accepted)


async def test_a_settlement_outside_the_subscription_is_refused(daemon: Running) -> None:
    """A time at which nothing would pay does not use the hold up."""
    await daemon.subscribe("acme", "named")
    await grant(daemon, 100)
    hold = await reserve(daemon, 30)
    error = await settle(daemon, hold, expect=400, usageUnits=5, occurredAt="2001-01-01T00:00:00Z")
    assert "occurredAt" in error["message"]
    assert (await settle(daemon, hold, usageUnits=5))["status"] == "SETTLED"


async def test_a_grant_sent_again_after_its_end_is_a_repeat(daemon: Running) -> None:
    """A retry is told that the grant was made, even when its expiry has passed since."""
    await daemon.subscribe("acme", "named")
    ends = iso(daemon.clock.now() + DAY_US)
    made = await grant(daemon, 5, idempotencyKey="k", expiresAt=ends)
    daemon.clock.move(2 * DAY_US)
    error = await grant(daemon, 5, idempotencyKey="k", expiresAt=ends, expect=400)
    assert (error["message"], error["detail"]) == (
        "Duplicate grant: idempotency key already used",
        made["id"],
    )


async def test_what_time_has_done_is_written_though_everything_is_refused(daemon: Running) -> None:
    """A batch that is refused whole leaves the expirations written once, before it was looked at."""
    await daemon.subscribe("acme", "named")
    for _ in range(5):
        await grant(daemon, 1, expiresAt=iso(daemon.clock.now() + DAY_US))
    daemon.clock.move(DAY_US)
    events = [
        {"eventName": "call", "customerReferenceId": "acme", "featureKey": "chat", "usageUnits": 1}
        for _ in range(50)
    ]
    reply = await daemon.http.post(f"{CLIENT}/events/batch", json={"events": events})
    assert {each["status"] for each in reply.json()["data"]["results"]} == {"refused"}
    account = daemon.core.directory.resident(ACME)
    assert account is not None
    assert account.credits is not None
    assert account.credits.due_at > daemon.clock.now()
    query = "SELECT count(*) FROM ledger_entries WHERE kind = 'EXPIRATION'"
    assert await daemon.core.books.read(lambda books: books.execute(query).fetchone()) == (5,)


async def test_an_estimate_that_counts_nothing_is_refused(daemon: Running) -> None:
    """A reservation that would hold nothing, because the feature counts something else, is told so."""
    await daemon.subscribe("acme", "named")
    sent = consuming.ReserveInput(
        customer_reference_id="acme",
        feature_key="chat",
        estimate=consuming.Estimate(model="gpt-4o", input_tokens=Decimal(5)),
    )
    answer = await consuming.reserve(daemon.core, sent)
    assert (answer["allowed"], answer["meta"]["reason"]["code"]) == (False, "event_not_counted")


async def test_keys_made_for_a_client_do_not_disturb_verify(daemon: Running) -> None:
    """Settlements and events whose keys were made from the hold or the transport's key are true books."""
    await daemon.subscribe("acme", "named")
    await grant(daemon, 100)
    await settle(daemon, await reserve(daemon, 30), usageUnits=7)
    body = {"eventName": "call", "customerReferenceId": "acme", "featureKey": "chat", "usageUnits": 1}
    reply = await daemon.http.post(f"{CLIENT}/events", json=body, headers={"Idempotency-Key": "once"})
    assert reply.status_code == 201
    connection = sqlite.open_reader(daemon.path)
    try:
        assert audit(connection, daemon.core.registry.models, lambda *_: None).findings == []
    finally:
        connection.close()
