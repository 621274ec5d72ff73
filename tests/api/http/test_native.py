"""The native API: Tanso's contract over real sockets, and what tallyd adds to it."""

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import trio

from harness import Running, running
from tallyd.model.moments import HOUR_US

CLIENT: Final = "/api/v1/client"
CATALOG: Final = """
[[features]]
key = "api"
[[features]]
key = "chat"
[[features]]
key = "tiers"
[[features]]
key = "capped"

[[plans]]
key = "pro"
name = "Pro"
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = "0.10" }
[[plans.features]]
feature = "chat"
pricing = { model = "llm_tokens", rates = { "gpt-4o" = { input = "2.50", output = 10 } } }
[[plans.features]]
feature = "capped"
pricing = { model = "included", max_usage = 100 }
[[plans.features]]
feature = "tiers"
[plans.features.pricing]
model = "graduated"
usage_unit_type = "tokens"
tiers = [
  { up_to = 1000, price_per_unit = 0, flat_fee = 10 },
  { up_to = 10000, price_per_unit = "0.001", flat_fee = 5 },
  { up_to = "inf", price_per_unit = "0.0001" },
]
"""


@pytest.fixture
async def native(tmp_path: Path) -> AsyncIterator[Running]:
    """Run a daemon with plans of every kind."""
    async with running(tmp_path, catalog=CATALOG) as started:
        yield started


def exact(reply: httpx.Response) -> Any:
    """Read a reply with every digit of its numbers."""
    return json.loads(reply.content, parse_float=Decimal)


async def send(daemon: Running, *, expect: int = 201, **fields: Any) -> dict[str, Any]:
    """Send an event for acme and return what the envelope holds."""
    body = {"eventName": "x", "customerReferenceId": "acme", **fields}
    reply = await daemon.http.post(f"{CLIENT}/events", content=json.dumps(body))
    assert reply.status_code == expect, reply.text
    answer: dict[str, Any] = exact(reply)
    assert answer["success"] is (expect < 400)
    return answer["data"] if expect < 400 else answer["error"]


async def get(daemon: Running, path: str) -> Any:
    """Get something under the client API."""
    reply = await daemon.http.get(CLIENT + path)
    assert reply.status_code == 200, reply.text
    return exact(reply)["data"]


async def charge_of(daemon: Running, feature: str, reference: str = "acme") -> dict[str, Any]:
    """Return a feature's statement for the current period."""
    (subscription,) = (await get(daemon, f"/customers/{reference}/charges"))["subscriptions"]
    return next(each for each in subscription["features"] if each["featureKey"] == feature)


class TestEvents:
    """POST /events and /events/batch."""

    async def test_units_times_price(self, native: Running) -> None:
        """Twelve units at 0.10 earn 1.20 (B8)."""
        await native.subscribe("acme")
        data = await send(native, featureKey="api", usageUnits=12)
        assert data["revenueAmount"] == Decimal("1.20")
        assert data["priceVersion"] == "pro@1"

    async def test_the_global_table_prices_a_model(self, native: Running) -> None:
        """gpt-4o, 1,000 in and 500 out, nothing configured: 0.0075 (B6); a dated name costs the same (B7)."""
        for model in ("gpt-4o", "gpt-4o-2024-08-06"):
            tokens = {"model": model, "inputTokens": 1000, "outputTokens": 500}
            data = await send(native, customerReferenceId="zoe", costInput=tokens)
            assert data["costAmount"] == Decimal("0.0075")

    @pytest.mark.parametrize(("units", "charge"), [(0, "0.00"), (500, "10.00"), (1001, "15.00"), (15000, "24.50")])
    async def test_graduated_vectors(self, native: Running, units: int, charge: str) -> None:
        """The worked examples of CONTRACTS 1.6, rounded once (D2)."""
        await native.subscribe("acme")
        await send(native, featureKey="tiers", usageUnits=units)
        assert (await charge_of(native, "tiers"))["charge"] == Decimal(charge)

    async def test_three_units_at_a_third_round_once(self, tmp_path: Path) -> None:
        """Three units at 0.333, each an event, make 1.00 on the line and 0.999 exactly."""
        async with running(tmp_path, catalog=CATALOG.replace('"0.10"', '"0.333"')) as native:
            await native.subscribe("acme")
            for _ in range(3):
                await send(native, featureKey="api", usageUnits=1)
            statement = await charge_of(native, "api")
            assert (statement["exactCharge"], statement["charge"]) == (Decimal("0.999"), Decimal("1.00"))

    async def test_the_same_key_again_is_a_conflict(self, native: Running) -> None:
        """Same key and body: 409 conflict with the original's id; another body: idempotency_conflict (B2)."""
        first = await send(native, eventIdempotencyKey="k", usageUnits=1)
        again = await send(native, expect=409, eventIdempotencyKey="k", usageUnits=1)
        assert (again["code"], again["detail"]) == ("conflict", first["eventId"])
        other = await send(native, expect=409, eventIdempotencyKey="k", usageUnits=2)
        assert (other["code"], other["detail"]) == ("idempotency_conflict", first["eventId"])

    async def test_the_header_wins_over_the_body(self, native: Running) -> None:
        """`X-Idempotency-Key` alone is a key, and overrides the body's; not to be retried by an SDK (B2)."""
        body = {"eventName": "x", "customerReferenceId": "acme", "eventIdempotencyKey": "other"}
        first = await native.http.post(f"{CLIENT}/events", json=body, headers={"X-Idempotency-Key": "é".encode()})
        assert first.status_code == 201
        again = await send(native, expect=409, eventIdempotencyKey="é")
        assert again["code"] == "conflict"
        reply = await native.http.post(f"{CLIENT}/events", json=body, headers={"X-Idempotency-Key": "é".encode()})
        assert (reply.status_code, reply.headers["x-should-retry"]) == (409, "false")

    async def test_without_a_key_every_event_counts(self, native: Running) -> None:
        """The same body twice without a key: two events (B1)."""
        assert (await send(native))["eventId"] != (await send(native))["eventId"]
        assert (await get(native, "/events?customerReferenceId=acme"))["pagination"]["total"] == 2

    async def test_unknown_customers_and_features_are_made(self, native: Running) -> None:
        """An event makes them known (B4); a check of them before is 404."""
        assert (await native.http.get(f"{CLIENT}/customers/newcomer")).status_code == 404
        await send(native, customerReferenceId="newcomer", featureKey="brand_new")
        assert (await get(native, "/customers/newcomer"))["customerReferenceId"] == "newcomer"
        assert (await get(native, "/features/brand_new"))["key"] == "brand_new"

    async def test_switched_off_nothing_is_made(self, tmp_path: Path) -> None:
        """With auto_create off an unknown customer is 404 and an unknown feature 400, and nothing is stored."""
        off = {"customers__auto_create": False, "features__auto_create": False}
        async with running(tmp_path, catalog=CATALOG, **off) as native:
            assert (await send(native, expect=404, featureKey="api"))["code"] == "not_found"
            made = await native.http.post(
                f"{CLIENT}/customers", json={"customerReferenceId": "acme", "email": "a@b.c"}
            )
            assert made.status_code == 201
            assert "featureKey" in (await send(native, expect=400, featureKey="nope"))["message"]
            await send(native, featureKey="api")
            assert (await get(native, "/events"))["pagination"]["total"] == 1

    async def test_a_batch_answers_each_event_in_order(self, native: Running) -> None:
        """One bad event does not sink the others; a repeated key inside is a duplicate."""
        events = [
            {"eventName": "a", "customerReferenceId": "acme", "eventIdempotencyKey": "1"},
            {"customerReferenceId": "acme"},
            {"eventName": "a", "customerReferenceId": "acme", "meta": {"n": 1}},
            {"eventName": "a", "customerReferenceId": "acme", "eventIdempotencyKey": "1"},
            {"eventName": "b", "customerReferenceId": "acme", "eventIdempotencyKey": "1"},
        ]
        content = json.dumps({"events": events}).replace('"n": 1', '"n": 1e9999999999999999999')
        reply = await native.http.post(f"{CLIENT}/events/batch", content=content)
        results = reply.json()["data"]["results"]
        assert [each["status"] for each in results] == ["created", "refused", "refused", "duplicate", "conflict"]
        assert results[1]["error"]["field"] == "eventName"
        assert "exponent" in results[2]["error"]["message"]

    @pytest.mark.parametrize("count", [0, 1001])
    async def test_a_batch_has_one_to_a_thousand_events(self, native: Running, count: int) -> None:
        """None, or one too many: 400, nothing stored."""
        event = {"eventName": "a", "customerReferenceId": "acme"}
        reply = await native.http.post(f"{CLIENT}/events/batch", json={"events": [event] * count})
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "validation_failed")
        assert (await get(native, "/events"))["items"] == []

    @pytest.mark.parametrize(
        ("fields", "blamed"),
        [
            ('"eventName": 5', "eventName"),
            ('"eventName": ""', "eventName"),
            ('"eventName": "a\\u0000b"', "eventName"),
            ('"eventName": "' + "é" * 256 + '"', "eventName"),
            ('"eventName": "x", "usageUnits": -1', "usageUnits"),
            ('"eventName": "x", "usageUnits": 1e400', "usageUnits"),
            ('"eventName": "x", "usageUnits": "NaN"', "usageUnits"),
            ('"eventName": "x", "usageUnits": 1234567890123456789012345678901234567890', "usageUnits"),
            ('"eventName": "x", "usageUnits": true', "usageUnits"),
            ('"eventName": "x", "occurredAt": "2026-11-21T10:00:00"', "occurredAt"),
            ('"eventName": "x", "occurredAt": "9999-01-01T00:00:00Z"', "occurredAt"),
            ('"eventName": "x", "occurredAt": "yesterday"', "occurredAt"),
            ('"eventName": "x", "costInput": {"inputTokens": -5}', "costInput.inputTokens"),
            ('"eventName": "x", "meta": {"a": ["\\u0000"]}', "meta"),
            ('"eventName": "x", "meta": {"n": 1e400}', "meta.n"),
            ('"eventName": "x", "eventIdempotencyKey": "' + "k" * 256 + '"', "eventIdempotencyKey"),
            ('"eventName": "x", "featureId": "nope"', "featureId"),
            ('"eventName": "x", "customerId": "nope"', "customerId"),
        ],
    )
    async def test_bad_fields_are_named(self, native: Running, fields: str, blamed: str) -> None:
        """Each is 400 validation_failed with the field's name, and nothing is stored."""
        body = f'{{"customerReferenceId": "acme", {fields}}}'
        reply = await native.http.post(f"{CLIENT}/events", content=body.encode())
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "validation_failed")
        assert f"Validation failed: {blamed}" in reply.json()["error"]["message"]
        assert (await get(native, "/events"))["items"] == []

    @pytest.mark.parametrize(
        "body",
        [b"{", b"[]", b"null", b'{"eventName": NaN}', b'{"eventName": "\\ud800"}', b"\xff", b"[" * 100_000, b""],
    )
    async def test_what_is_no_json_object_is_refused(self, native: Running, body: bytes) -> None:
        """Malformed JSON, other roots, unpaired surrogates, bad UTF-8, endless nesting: 400, nothing stored."""
        reply = await native.http.post(f"{CLIENT}/events", content=body)
        assert (reply.status_code, reply.json()["success"]) == (400, False)
        assert (await get(native, "/events"))["items"] == []

    async def test_minus_zero_is_zero(self, native: Running) -> None:
        """-0 sent as a number or a string is kept as 0, so that the books read the same."""
        for units in ("-0", "-0.00"):
            assert str((await send(native, usageUnits=units))["usageUnits"]) in {"0", "0.00"}

    async def test_no_customer_is_refused(self, native: Running) -> None:
        """A billing ledger holds no event of nobody."""
        reply = await native.http.post(f"{CLIENT}/events", json={"eventName": "x"})
        assert "customerReferenceId" in reply.json()["error"]["message"]

    async def test_past_the_cap_an_event_is_kept_as_zero(self, native: Running) -> None:
        """The event that crosses the cap counts whole; the next is 200, stored with zeros (B9)."""
        await native.subscribe("acme")
        crossing = await send(native, featureKey="capped", usageUnits=150)
        assert crossing["usageUnits"] == 150
        capped = await send(native, expect=200, featureKey="capped", usageUnits=5, costAmount="1.50")
        assert capped["usageLimitExceeded"] is True
        assert (capped["usageUnits"], capped["costAmount"], capped["revenueAmount"]) == (0, 0, 0)
        assert (await charge_of(native, "capped"))["used"] == 150

    async def test_an_event_is_explained(self, native: Running) -> None:
        """Price version, cumulative usage before it, quantities, terms, and the basis of its cost."""
        await native.subscribe("acme")
        tokens = {"model": "gpt-4o", "inputTokens": 1000, "outputTokens": 500}
        await send(native, featureKey="chat", costInput=tokens)
        second = await send(native, featureKey="chat", costInput=tokens)
        explained = await get(native, f"/events/{second['eventId']}")
        (charge,) = explained["charges"]
        assert (charge["usedBefore"], charge["usageUnits"], charge["priceVersion"]) == (1500, 1500, "pro@1")
        assert charge["quantityBefore"]["input/gpt-4o"] == Decimal(1000)
        assert charge["amount"] == Decimal("0.0075")
        assert charge["pricing"]["rates"]["gpt-4o"]["input"] == "2.50"
        assert explained["costBasis"]["basis"]["per_million"]["output"] == "10"
        assert (await native.http.get(f"{CLIENT}/events/nope")).status_code == 404

    async def test_unpriced_events_are_listed_and_counted(self, native: Running) -> None:
        """An unknown model has no cost, which is not zero; it is in the list and in the metric (B7, P9)."""
        data = await send(native, costInput={"model": "nobody-knows-1", "inputTokens": 10})
        assert data["unpriced"] == "unknown_model"
        assert "costAmount" not in data
        await send(native)
        (listed,) = (await get(native, "/events?unpriced=true"))["items"]
        assert listed["id"] == data["eventId"]
        assert "tallyd_events_unpriced_total 1.0" in (await native.http.get("/metrics")).text


class TestEntitlements:
    """Check and evaluate (CONTRACTS 1.9)."""

    async def test_a_check_carries_its_evidence(self, native: Running) -> None:
        """Reason, used, limit, remaining, ledger position and price version; no flowId, no simulation."""
        await native.subscribe("acme")
        before = await native.position("acme")
        await send(native, featureKey="capped", usageUnits=90)
        data = await get(native, "/entitlements/acme/capped?record=false")
        assert data == {
            "referenceCustomerId": "acme",
            "featureKey": "capped",
            "allowed": True,
            "meta": {"reason": {"code": "within_limit", "description": "Usage is within the limit"}},
            "usage": {"used": 90, "limit": 100, "remaining": 10},
            "position": before + 1,
            "priceVersion": "pro@1",
        }

    async def test_evaluate_simulates_and_records_nothing(self, native: Running) -> None:
        """Cap 100, used 90, evaluate 20: denied, projected 110, remaining 0; recorded usage still 90 (C2, C5)."""
        await native.subscribe("acme")
        await send(native, featureKey="capped", usageUnits=90)
        body = {"customerReferenceId": "acme", "featureKey": "capped", "usage": {"usageUnits": 20}}
        reply = await native.http.post(f"{CLIENT}/entitlements", json={**body, "context": {"flowId": "f-1"}})
        data = exact(reply)["data"]
        assert (data["allowed"], data["flowId"]) == (False, "f-1")
        assert data["meta"]["reason"]["description"] == "Proposed usage would exceed limit"
        assert data["simulation"] == {
            "requestedUsage": 20,
            "projectedUsage": 110,
            "projectedRemaining": 0,
            "wouldExceedLimit": True,
        }
        assert exact(await native.http.post(f"{CLIENT}/entitlements", json=body))["data"]["flowId"]
        assert (await charge_of(native, "capped"))["used"] == 90

    @pytest.mark.parametrize("units", [0, -1, "NaN"])
    async def test_units_must_be_positive(self, native: Running, units: object) -> None:
        """Evaluate of nothing, or less, is 400 (C3)."""
        await native.subscribe("acme")
        body = {"customerReferenceId": "acme", "featureKey": "capped", "usage": {"usageUnits": units}}
        reply = await native.http.post(f"{CLIENT}/entitlements", json=body)
        assert (reply.status_code, "usageUnits" in reply.json()["error"]["message"]) == (400, True)

    async def test_unknown_customer_and_closed_doors(self, native: Running) -> None:
        """Nobody: 404. Without a subscription, or a feature the plan lacks: denied, with the reason (C3)."""
        assert (await native.http.get(f"{CLIENT}/entitlements/nobody/api")).status_code == 404
        await send(native)
        assert (await get(native, "/entitlements/acme/api"))["meta"]["reason"]["code"] == "no_subscription"
        await native.subscribe("acme")
        assert (await get(native, "/entitlements/acme/x"))["meta"]["reason"]["code"] == "feature_not_in_plan"

    async def test_what_each_subscription_allows(self, native: Running) -> None:
        """The list has every feature of every active plan."""
        await native.subscribe("acme")
        await send(native, featureKey="capped", usageUnits=100)
        (item,) = (await get(native, "/entitlements/acme"))["items"]
        allowed = {each["featureKey"]: each["allowed"] for each in item["entitlements"]}
        assert allowed == {"api": True, "chat": True, "capped": False, "tiers": True}


class TestSubscriptionsAndUsage:
    """Subscribing, periods, usage, charges, analytics."""

    async def test_subscribing_needs_a_plan_of_the_catalog(self, native: Running) -> None:
        """Unknown plan, no plan, a bad day: 400 with the field; twice the same plan: 409."""
        for fields, blamed in (
            ({"planKey": "nope"}, "planKey"),
            ({}, "planKey"),
            ({"planId": "pro", "billingAnchorDay": 32}, "billingAnchorDay"),
            ({"planId": "pro", "startsAt": "2026-13-01"}, "startsAt"),
        ):
            body = {"customerReferenceId": "acme", **fields}
            reply = await native.http.post(f"{CLIENT}/subscriptions", json=body)
            assert (reply.status_code, blamed in reply.json()["error"]["message"]) == (400, True)
        await native.subscribe("acme")
        body = {"customerReferenceId": "acme", "planId": "pro"}
        assert (await native.http.post(f"{CLIENT}/subscriptions", json=body)).status_code == 409

    async def test_a_history_is_priced_in_its_own_periods(self, native: Running) -> None:
        """Events count in the period of their time; before the start they are kept and not priced."""
        await native.subscribe("acme", startsAt="2026-01-31T00:00:00Z")
        for at in ("2026-01-30T23:59:59Z", "2026-02-27T23:59:59Z", "2026-02-28T00:00:00Z", "2026-03-30T00:00:00Z"):
            await send(native, featureKey="api", usageUnits=1, occurredAt=at)
        for at, used in (("2026-02-10T00:00:00Z", 1), ("2026-03-01T00:00:00Z", 2), ("2026-04-01T00:00:00Z", 0)):
            (usage,) = (await get(native, f"/customers/acme/usage?at={at}"))["subscriptions"]
            assert next(each["used"] for each in usage["features"] if each["featureKey"] == "api") == used
        assert (await get(native, "/customers/acme/usage?at=2026-01-30T00:00:00Z"))["subscriptions"] == []

    async def test_charges_and_analytics_agree(self, native: Running) -> None:
        """Cost, revenue and margin by every group, exact, sum to what the events say."""
        await native.subscribe("acme")
        await send(native, featureKey="api", usageUnits=3, costAmount="0.01")
        tokens = {"model": "gpt-4o", "modelProvider": "openai", "inputTokens": 1, "outputTokens": 1}
        await send(native, featureKey="chat", costInput=tokens)
        reply = await native.http.get("/api/v1/analytics/usage?groupBy=FEATURE")
        groups = {each["key"]: each for each in exact(reply)["data"]["items"]}
        assert groups["api"]["margin"] == Decimal("0.29")
        assert groups["chat"]["cost"] == groups["chat"]["revenue"] == Decimal("0.0000125")
        for group, key in (
            ("CUSTOMER", "acme"),
            ("MODEL_PROVIDER", "openai"),
            ("EVENT_NAME", "x"),
            ("MODEL", "gpt-4o"),
        ):
            items = exact(await native.http.get(f"/api/v1/analytics/usage?groupBy={group}"))["data"]["items"]
            assert key in {each["key"] for each in items}
            assert sum(each["revenue"] for each in items) == Decimal("0.3000125")

    async def test_analytics_are_by_the_hour(self, native: Running) -> None:
        """A range is widened to whole hours and says so; a bad group or range is 400 with the field."""
        await send(native, usageUnits=1, occurredAt="2026-11-21T10:59:00Z")
        path = "/api/v1/analytics/usage?start=2026-11-21T10:30:00Z&end=2026-11-21T10:31:00Z"
        data = exact(await native.http.get(path))["data"]
        assert (data["start"], data["end"]) == ("2026-11-21T10:00:00Z", "2026-11-21T11:00:00Z")
        assert data["items"][0]["events"] == 1
        later = "/api/v1/analytics/usage?start=2026-11-21T11:00:00Z&end=2026-11-21T12:00:00Z"
        assert exact(await native.http.get(later))["data"]["items"] == []
        for query, blamed in (
            ("groupBy=X", "groupBy"),
            ("start=now", "start"),
            ("end=9999-12-31T23:59:59Z", "end"),
        ):
            reply = await native.http.get(f"/api/v1/analytics/usage?{query}")
            assert (reply.status_code, blamed in reply.json()["error"]["message"]) == (400, True)

    async def test_plans_are_listed_as_clients_read_them(self, native: Running) -> None:
        """Types and camelCase of CONTRACTS 1.6; what is included has no pricing (D1)."""
        (item,) = (await get(native, "/plans"))["items"]
        features = {each["key"]: each for each in item["features"]}
        assert features["api"]["pricingType"] == "usage_based"
        assert features["api"]["pricing"]["pricePerUnit"] == Decimal("0.10")
        assert features["capped"]["pricingType"] == "included"
        assert "pricing" not in features["capped"]
        tiers = features["tiers"]["pricing"]["tiers"]
        assert tiers[0] == {"upTo": 1000, "pricePerUnit": 0, "flatFee": 10}
        assert tiers[-1]["upTo"] == "inf"


class TestManners:
    """Keys, scopes, errors, replays, bounds."""

    async def test_keys_come_in_either_header(self, native: Running) -> None:
        """Bearer or X-API-Key; none or a wrong one is 401 in the family's shape (A1)."""
        async with httpx.AsyncClient(base_url=native.url) as bare:
            path = f"{CLIENT}/plans"
            for headers in ({"Authorization": f"bearer {native.key}"}, {"X-API-Key": native.key}):
                assert (await bare.get(path, headers=headers)).status_code == 200
            for headers in ({}, {"X-API-Key": "sk_live_nope"}, {"Authorization": f"Basic {native.key}"}):
                reply = await bare.get(path, headers=headers)
                assert (reply.status_code, reply.json()["error"]["code"]) == (401, "unauthorized")
            assert (await bare.get("/meters")).json()["code"] == "UNAUTHORIZED"
            assert "error" in (await bare.get("/api/v1/usage-events")).json()

    @pytest.mark.parametrize(
        ("scope", "allowed"),
        [("ingest", {"POST events"}), ("read", {"GET plans", "GET events"}), ("admin", None)],
    )
    async def test_scopes(self, native: Running, scope: str, allowed: set[str] | None) -> None:
        """Each scope opens its own doors; admin opens all; others are 403 and name the scope."""
        header = await native.key_for(scope)
        for door, body in (
            ("POST events", {"eventName": "x", "customerReferenceId": "a"}),
            ("GET plans", None),
            ("GET events", None),
            ("POST subscriptions", {"customerReferenceId": f"by-{scope}", "planKey": "pro"}),
        ):
            method, path = door.split()
            reply = await native.http.request(method, f"{CLIENT}/{path}", json=body, headers=header)
            if allowed is None or door in allowed:
                assert reply.status_code in (200, 201), reply.text
            else:
                assert (reply.status_code, reply.json()["error"]["code"]) == (403, "forbidden")

    async def test_nowhere_and_wrong_methods_answer_json(self, native: Running) -> None:
        """404 and 405 are in the shape of the family the path belongs to (A2)."""
        for path, name in (
            (f"{CLIENT}/nope", "success"),
            ("/events/a/b/c/../../..", "code"),
            ("/meters/x", "code"),
        ):
            assert name in (await native.http.put(path, json={})).json()

    async def test_a_replayed_request_gets_the_first_answer(self, native: Running) -> None:
        """Same key and body: same status and body, header echoed; another body: 409; 256 characters: 400 (B12)."""
        body = {"eventName": "x", "customerReferenceId": "acme"}
        first = await native.http.post(f"{CLIENT}/events", json=body, headers={"Idempotency-Key": "t"})
        again = await native.http.post(f"{CLIENT}/events", json=body, headers={"Idempotency-Key": "t"})
        assert (first.status_code, first.content) == (again.status_code, again.content)
        assert again.headers["idempotency-key"] == "t"
        other = await native.http.post(
            f"{CLIENT}/events", json={**body, "meta": {}}, headers={"Idempotency-Key": "t"}
        )
        assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")
        long = await native.http.post(f"{CLIENT}/events", json=body, headers={"Idempotency-Key": "t" * 256})
        assert (long.status_code, "Idempotency-Key" in long.text) == (400, True)
        assert (await get(native, "/events"))["pagination"]["total"] == 1

    async def test_a_replay_is_kept_for_a_day_and_its_events_for_ever(self, native: Running) -> None:
        """After 25 hours the request is carried out again, and its event is found to be recorded."""
        body = {"eventName": "x", "customerReferenceId": "acme"}
        await native.http.post(f"{CLIENT}/events", json=body, headers={"Idempotency-Key": "t"})
        native.clock.move(25 * HOUR_US)
        reply = await native.http.post(f"{CLIENT}/events", json=body, headers={"Idempotency-Key": "t"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, "conflict")

    async def test_the_same_replay_key_at_once_is_carried_out_once(self, native: Running) -> None:
        """Ten at once: one event, ten equal answers (A5)."""
        answers = []

        async def one() -> None:
            body = {"customerReferenceId": "acme", "planKey": "pro"}
            answers.append(
                await native.http.post(f"{CLIENT}/subscriptions", json=body, headers={"Idempotency-Key": "s"})
            )

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(one)
        assert {(each.status_code, each.content) for each in answers} == {(201, answers[0].content)}

    async def test_large_bodies_are_refused_in_the_family_s_shape(self, native: Running) -> None:
        """Ten megabytes: 413 before they are read into anything."""
        for path in (f"{CLIENT}/events", "/events/ingest", "/api/v1/usage-events"):
            reply = await native.http.post(path, content=b" " * 10_000_000)
            assert reply.status_code == 413, path

    async def test_all_bodies_together_are_bounded(self, tmp_path: Path) -> None:
        """When there is no room for another body it is refused with 503 and Retry-After, and nothing is stored."""
        async with running(tmp_path, catalog=CATALOG, http__bodies_bytes_max=100) as native:
            body = {"eventName": "x", "customerReferenceId": "a" * 90}
            reply = await native.http.post(f"{CLIENT}/events", json=body)
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
            small = {"eventName": "x", "customerReferenceId": "a"}
            assert (await native.http.post(f"{CLIENT}/events", json=small)).status_code == 201

    async def test_health_and_readiness_need_no_key(self, native: Running) -> None:
        """Alive, ready through the writer, and metrics in Prometheus's format."""
        async with httpx.AsyncClient(base_url=native.url) as bare:
            assert (await bare.get("/healthz")).json() == {"status": "ok"}
            assert (await bare.get("/readyz")).json() == {"status": "ready"}
            assert "# TYPE tallyd_events_total counter" in (await bare.get("/metrics")).text

    async def test_http_on_a_unix_socket(self, tmp_path: Path) -> None:
        """The same API, keys included, over a Unix socket with the socket's mode."""
        path = tmp_path / "http.sock"
        async with running(tmp_path, catalog=CATALOG, http__unix=str(path)) as native:
            assert path.stat().st_mode & 0o777 == 0o660
            transport = httpx.AsyncHTTPTransport(uds=str(path))
            async with httpx.AsyncClient(transport=transport, base_url="http://tallyd") as client:
                assert (await client.get(f"{CLIENT}/plans")).status_code == 401
                headers = {"X-API-Key": native.key}
                assert (await client.get(f"{CLIENT}/plans", headers=headers)).status_code == 200

    async def test_a_reload_with_a_bad_catalog_changes_nothing(self, native: Running) -> None:
        """Whatever is wrong with the file, the running catalog stays and the daemon goes on."""
        path = trio.Path(str(native.service.config.catalog))
        for bad in (
            b"x = 1e9999999999999999999",
            b"a = " + b"[" * 5000,
            b"x = " + b"9" * 5000,
            b'k = "\xff"',
            b"[[plan]]",
        ):
            await path.write_bytes(bad)
            with pytest.raises(Exception, match=r"catalog\.toml"):
                await native.service.reload()
            assert (await get(native, "/plans"))["items"][0]["plan"]["version"] == 1
        await path.write_text(CATALOG.replace('"0.10"', '"0.20"'))
        assert await native.service.reload() == ["plan pro version 2"]
