"""Retempo's usage events, against a running daemon (seed 002; CONTRACTS 3.1 to 3.4, G1 to G3, G5)."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from harness import CATALOG, NOW, Running, running
from tallyd.model.moments import DAY_US, SECOND_US, iso
from tallyd.store import writer

EVENTS = "/api/v1/usage-events"
TWO_PLANS = (
    CATALOG
    + """
[[plans]]
key = "team"
name = "Team"
features = [{ feature = "api_request" }]
"""
)
Body = dict[str, Any]


def usage(subscription: str, **fields: Any) -> Body:
    """Return an event as Retempo's clients send it. A field of None is left out."""
    body = {
        "serviceId": "pro",
        "subscriptionId": subscription,
        "userId": "acme",
        "eventKey": "api_request:1",
        "quantity": "1",
        **fields,
    }
    return {name: value for name, value in body.items() if value is not None}


async def send(daemon: Running, body: Body) -> httpx.Response:
    """Send an event."""
    return await daemon.http.post(EVENTS, json=body)


async def refused(daemon: Running, reply: httpx.Response, status: int, sentence: str) -> None:
    """Check what was said, and that nothing was stored."""
    assert (reply.status_code, reply.json()) == (status, {"error": sentence})
    assert (await daemon.http.get(EVENTS)).json() == {"usageEvents": []}


class TestCreate:
    """POST /api/v1/usage-events."""

    async def test_all_fields(self, daemon: Running) -> None:
        """An event is 201 and comes back under `usageEvent` with what it belongs to."""
        subscription = await daemon.subscribe("acme")
        moment = "2026-11-21T11:00:00+01:00"
        reply = await send(daemon, usage(subscription, quantity="5.25", occurredAt=moment))
        assert reply.status_code == 201, reply.text
        made = reply.json()["usageEvent"]
        assert made == {
            "id": made["id"],
            "serviceId": "pro",
            "subscriptionId": subscription,
            "userId": "acme",
            "invoiceId": None,
            "eventKey": "api_request:1",
            "quantity": "5.25",
            "occurredAt": "2026-11-21T10:00:00Z",
            "createdAt": iso(NOW),
            "service": {"id": "pro", "name": "Pro"},
            "subscription": {
                "id": subscription,
                "serviceId": "pro",
                "userId": "acme",
                "status": "ACTIVE",
            },
            "user": {"id": "acme"},
            "invoice": None,
        }

    async def test_the_same_key_again(self, daemon: Running) -> None:
        """An eventKey counts once per subscription: again it is 409, not to be repeated by an SDK."""
        subscription = await daemon.subscribe("acme")
        assert (await send(daemon, usage(subscription))).status_code == 201
        for quantity in ("1", "2"):
            reply = await send(daemon, usage(subscription, quantity=quantity))
            text = "A database record with these unique fields already exists."
            assert (reply.status_code, reply.json()) == (409, {"error": text})
            assert reply.headers["x-should-retry"] == "false"
        assert len((await daemon.http.get(EVENTS)).json()["usageEvents"]) == 1

    async def test_the_same_key_twice_at_once(self, daemon: Running) -> None:
        """Of two identical requests sent at once, one is 201 and one 409."""
        subscription = await daemon.subscribe("acme")
        statuses: list[int] = []

        async def once() -> None:
            statuses.append((await send(daemon, usage(subscription))).status_code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(once)
            nursery.start_soon(once)
        assert sorted(statuses) == [201, 409]

    async def test_the_same_key_elsewhere(self, tmp_path: Path) -> None:
        """The same eventKey on another subscription, or as a Tanso key, is another event."""
        async with running(tmp_path, catalog=TWO_PLANS) as daemon:
            first, second = await daemon.subscribe("acme"), await daemon.subscribe("acme", "team")
            third = await daemon.subscribe("bob")
            assert (await send(daemon, usage(first))).status_code == 201
            assert (await send(daemon, usage(second, serviceId="team"))).status_code == 201
            assert (await send(daemon, usage(third, userId="bob"))).status_code == 201
            body = {
                "eventName": "n",
                "eventIdempotencyKey": "api_request:1",
                "customerReferenceId": "acme",
            }
            assert (await daemon.http.post("/api/v1/client/events", json=body)).status_code == 201

    async def test_missing_fields(self, daemon: Running) -> None:
        """Each of the five fields that is missing, null or blank is named."""
        subscription = await daemon.subscribe("acme")
        for field in ("serviceId", "subscriptionId", "userId", "eventKey", "quantity"):
            without = usage(subscription, **{field: None})
            await refused(daemon, await send(daemon, without), 400, f"{field} is required.")
            await refused(daemon, await send(daemon, {**without, field: None}), 400, f"{field} is required.")
        for field in ("serviceId", "subscriptionId", "userId", "eventKey"):
            reply = await send(daemon, usage(subscription, **{field: "  "}))
            await refused(daemon, reply, 400, f"{field} is required.")
            reply = await send(daemon, usage(subscription, **{field: 7}))
            await refused(daemon, reply, 400, f"{field} must be a string.")
            reply = await send(daemon, usage(subscription, **{field: "x" * 256}))
            await refused(daemon, reply, 400, f"{field} must have at most 255 characters.")

    async def test_the_order_of_checks(self, daemon: Running) -> None:
        """Body, serviceId, subscriptionId, userId, subscription, invoice, eventKey, occurredAt, quantity."""
        subscription = await daemon.subscribe("acme")
        wrong: Body = {"occurredAt": "x", "quantity": -1, "invoiceId": "inv_1"}
        steps: list[tuple[Body, str]] = [
            ({}, "serviceId is required."),
            ({"serviceId": "other"}, "subscriptionId is required."),
            ({"subscriptionId": subscription}, "userId is required."),
            ({"userId": "acme"}, "Subscription was not found for the service and user."),
            ({"serviceId": "pro"}, "Referenced database record was not found."),
            ({"invoiceId": None}, "eventKey is required."),
            ({"eventKey": "k"}, "occurredAt must be a valid ISO date string."),
            ({"occurredAt": None}, "quantity must be a non-negative decimal."),
        ]
        body = wrong
        for fields, sentence in steps:
            body = {**body, **fields}
            assert (await send(daemon, body)).json() == {"error": sentence}
        assert (await send(daemon, {**body, "quantity": 1})).status_code == 201

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'"x"', b"[" * 10_000, b'{"a":NaN}', b"\xff"])
    async def test_not_an_object(self, daemon: Running, content: bytes) -> None:
        """A body that is no JSON object is 400."""
        reply = await daemon.http.post(EVENTS, content=content)
        await refused(daemon, reply, 400, "Request body must be a JSON object.")

    @pytest.mark.parametrize(
        "fields",
        [
            {"serviceId": "team"},
            {"serviceId": "PRO"},
            {"userId": "bob"},
            {"userId": "nobody"},
            {"subscriptionId": "7a11d000-0000-4000-8000-000000000001"},
            {"subscriptionId": "nothing"},
        ],
        ids=str,
    )
    async def test_a_subscription_of_others(self, daemon: Running, fields: Body) -> None:
        """A subscription that is not of that service and user is 404."""
        subscription = await daemon.subscribe("acme")
        await daemon.subscribe("bob")
        reply = await send(daemon, {**usage(subscription), **fields})
        await refused(daemon, reply, 404, "Subscription was not found for the service and user.")

    async def test_a_subscription_not_active(self, daemon: Running) -> None:
        """A subscription that is yet to start is 400, until it starts."""
        starts = NOW + DAY_US // 2
        subscription = await daemon.subscribe("acme", startsAt=iso(starts))
        await refused(daemon, await send(daemon, usage(subscription)), 400, "Subscription is not active.")
        daemon.clock.move(DAY_US // 2)
        assert (await send(daemon, usage(subscription))).status_code == 201

    async def test_a_user_by_uuid(self, daemon: Running) -> None:
        """A user may be named by the customer's UUID; the event is that customer's."""
        subscription = await daemon.subscribe("acme")
        customer = (await daemon.http.get("/api/v1/client/customers/acme")).json()["data"]["id"]
        reply = await send(daemon, usage(subscription, userId=customer))
        assert (reply.status_code, reply.json()["usageEvent"]["userId"]) == (201, customer)
        found = await daemon.http.get("/api/v1/client/events", params={"customerReferenceId": "acme"})
        assert len(found.json()["data"]["items"]) == 1

    @pytest.mark.parametrize("invoice", ["inv_1", "", 7])
    async def test_any_invoice(self, daemon: Running, invoice: Any) -> None:
        """There are no invoices yet, so each one named is 404."""
        subscription = await daemon.subscribe("acme")
        reply = await send(daemon, usage(subscription, invoiceId=invoice))
        await refused(daemon, reply, 404, "Referenced database record was not found.")

    @pytest.mark.parametrize(
        "quantity",
        [0, 1000, 5.25, "0", "0.0", "5.25", "8192", "0.000000000000000001", "99999999999999999999"],
        ids=str,
    )
    async def test_quantities(self, daemon: Running, quantity: Any) -> None:
        """Zero and above, as string or number, is taken and comes back as a string, exactly."""
        subscription = await daemon.subscribe("acme")
        reply = await send(daemon, usage(subscription, quantity=quantity))
        assert reply.status_code == 201, reply.text
        kept = reply.json()["usageEvent"]["quantity"]
        assert isinstance(kept, str)
        assert Decimal(kept) == Decimal(str(quantity))

    @pytest.mark.parametrize(
        ("quantity", "why"),
        [
            (-1, "must be a non-negative decimal."),
            ("-0.5", "must be a non-negative decimal."),
            ("", "must be a non-negative decimal."),
            ("ten", "must be a non-negative decimal."),
            ("1e3", "must be a non-negative decimal."),
            ("1_000", "must be a non-negative decimal."),
            ("NaN", "must be a non-negative decimal."),
            ("Infinity", "must be a non-negative decimal."),
            ("\u0661", "must be a non-negative decimal."),
            (True, "must be a decimal string or number."),
            ([1], "must be a decimal string or number."),
            ({}, "must be a decimal string or number."),
            (10**39, "must have at most 20 digits before the decimal point and 18 after it."),
            ("0." + "0" * 18 + "1", "must have at most 20 digits before the decimal point and 18 after it."),
        ],
        ids=str,
    )
    async def test_bad_quantities(self, daemon: Running, quantity: Any, why: str) -> None:
        """What is negative, no decimal, or cannot be kept exactly is 400."""
        subscription = await daemon.subscribe("acme")
        reply = await send(daemon, usage(subscription, quantity=quantity))
        await refused(daemon, reply, 400, f"quantity {why}")

    async def test_back_filling(self, daemon: Running) -> None:
        """There is no age limit: last year's events are taken; without a date it is now."""
        subscription = await daemon.subscribe("acme", startsAt="2025-01-01T00:00:00Z")
        reply = await send(daemon, usage(subscription, occurredAt="2025-06-01T00:00:00Z"))
        assert reply.json()["usageEvent"]["occurredAt"] == "2025-06-01T00:00:00Z"
        reply = await send(daemon, usage(subscription, eventKey="k"))
        assert reply.json()["usageEvent"]["occurredAt"] == iso(NOW)

    @pytest.mark.parametrize(
        ("moment", "why"),
        [
            ("yesterday", "must be a valid ISO date string."),
            ("", "must be a valid ISO date string."),
            (1_700_000_000, "must be a valid ISO date string."),
            ("2026-02-30T00:00:00Z", "must be a valid ISO date string."),
            ("2026-11-21T09:30:00", "must carry a zone, such as Z or +02:00."),
            ("9999-12-31T23:59:59Z", "must not lie more than 24 hours in the future."),
            ("1999-12-31T23:59:59Z", "must not be before 2000-01-01."),
        ],
    )
    async def test_bad_dates(self, daemon: Running, moment: Any, why: str) -> None:
        """What is no date, has no zone, or cannot be right is 400."""
        subscription = await daemon.subscribe("acme")
        reply = await send(daemon, usage(subscription, occurredAt=moment))
        await refused(daemon, reply, 400, f"occurredAt {why}")

    @pytest.mark.parametrize("key", ["a\x00b", "a\nb"])
    async def test_unprintable_keys(self, daemon: Running, key: str) -> None:
        """Control characters in an eventKey are 400."""
        subscription = await daemon.subscribe("acme")
        reply = await send(daemon, usage(subscription, eventKey=key))
        await refused(daemon, reply, 400, "eventKey must not contain control characters.")


class TestCounting:
    """What an event counts for."""

    async def used(self, daemon: Running) -> Decimal:
        """Return the units of the feature used."""
        reply = await daemon.http.get("/api/v1/client/entitlements/acme/api_request")
        return Decimal(str(reply.json()["data"]["usage"]["used"]))

    async def test_feature_by_key_or_its_first_part(self, daemon: Running) -> None:
        """An eventKey stands for the feature of that key, or of the part before its first colon."""
        subscription = await daemon.subscribe("acme")
        for key, quantity in (("api_request", 2), ("api_request:7:b", "3.5"), ("api_requests", 100), (":x", 1)):
            reply = await send(daemon, usage(subscription, eventKey=key, quantity=quantity))
            assert reply.status_code == 201
        assert await self.used(daemon) == Decimal("5.5")

    async def test_it_is_priced_by_the_subscription_named(self, tmp_path: Path) -> None:
        """Of two subscriptions the one named is the one that counts."""
        async with running(tmp_path, catalog=TWO_PLANS) as daemon:
            first = await daemon.subscribe("acme")
            second = await daemon.subscribe("acme", "team")
            await send(daemon, usage(second, serviceId="team", quantity=7))
            reply = await daemon.http.get("/api/v1/client/customers/acme/usage")
            used = {
                each["subscriptionId"]: each["features"][0]["used"]
                for each in reply.json()["data"]["subscriptions"]
            }
            assert used == {first: 0, second: 7}


class TestRead:
    """GET /api/v1/usage-events."""

    async def test_newest_first(self, daemon: Running) -> None:
        """All of Retempo's events are listed, newest first, and those of other contracts are not."""
        await daemon.http.post("/api/v1/client/events", json={"eventName": "n", "customerReferenceId": "acme"})
        for name in ("acme", "bob"):
            subscription = await daemon.subscribe(name)
            for second in (1, 3):
                moment = iso(NOW + (second + (name == "bob")) * SECOND_US)
                key = f"{name}{second}"
                await send(daemon, usage(subscription, userId=name, eventKey=key, occurredAt=moment))
        found = (await daemon.http.get(EVENTS)).json()["usageEvents"]
        assert [each["eventKey"] for each in found] == ["bob3", "acme3", "bob1", "acme1"]
        assert [each["userId"] for each in found] == ["bob", "acme", "bob", "acme"]
        page = (await daemon.http.get(EVENTS, params={"limit": 2, "offset": 1})).json()["usageEvents"]
        assert page == found[1:3]

    async def test_one(self, daemon: Running) -> None:
        """An event is found by its id as it was answered when it was made."""
        subscription = await daemon.subscribe("acme")
        made = (await send(daemon, usage(subscription))).json()
        assert (await daemon.http.get(f"{EVENTS}/{made['usageEvent']['id']}")).json() == made
        assert (await daemon.http.get(EVENTS)).json() == {"usageEvents": [made["usageEvent"]]}

    async def test_unknown(self, daemon: Running) -> None:
        """An unknown event, or one of another contract, is 404."""
        reply = await daemon.http.post(
            "/api/v1/client/events", json={"eventName": "n", "customerReferenceId": "acme"}
        )
        for event_id in ("nothing", reply.json()["data"]["eventId"]):
            reply = await daemon.http.get(f"{EVENTS}/{event_id}")
            assert (reply.status_code, reply.json()) == (404, {"error": "Usage event was not found."})

    async def test_bad_pages(self, daemon: Running) -> None:
        """Pages of more than 1,000 are 400."""
        reply = await daemon.http.get(EVENTS, params={"limit": 1_001})
        assert (reply.status_code, reply.json()) == (400, {"error": "limit must be 1 to 1000."})


class TestManners:
    """What all endpoints share."""

    async def test_health_needs_no_key(self, daemon: Running) -> None:
        """GET /health answers without a key."""
        reply = await daemon.http.get("/health", headers={"Authorization": ""})
        assert (reply.status_code, reply.json()) == (
            200,
            {"ok": True, "service": "tallyd", "apiRoot": "/api/v1"},
        )

    async def test_keys(self, daemon: Running) -> None:
        """Without a key it is 401, with one that may not it is 403, in Retempo's shape."""
        for method in ("GET", "POST"):
            reply = await daemon.http.request(method, EVENTS, headers={"Authorization": ""})
            assert (reply.status_code, reply.json()) == (401, {"error": "Authentication required."})
        reply = await daemon.http.post(EVENTS, json={}, headers=await daemon.key_for("read"))
        assert reply.status_code == 403
        assert set(reply.json()) == {"error"}

    async def test_busy(self, daemon: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        """While too much waits to be written the answer is 429 with Retry-After."""
        subscription = await daemon.subscribe("acme")
        monkeypatch.setattr(writer, "EVENTS_WAITING_MAX", -1)
        reply = await send(daemon, usage(subscription))
        assert (reply.status_code, reply.headers["Retry-After"]) == (429, "1")
        assert set(reply.json()) == {"error"}

    async def test_too_large(self, tmp_path: Path) -> None:
        """A body above the limit is 413 in Retempo's shape."""
        async with running(tmp_path, http__body_bytes_max=1_000) as daemon:
            reply = await send(daemon, usage("x" * 2_000))
            assert reply.status_code == 413
            assert set(reply.json()) == {"error"}

    async def test_events_outlive_the_daemon(self, tmp_path: Path) -> None:
        """What was acknowledged is there after a restart, and its key is still taken."""
        async with running(tmp_path) as daemon:
            subscription = await daemon.subscribe("acme")
            made = (await send(daemon, usage(subscription))).json()["usageEvent"]
        async with running(tmp_path) as daemon:
            assert (await daemon.http.get(EVENTS)).json() == {"usageEvents": [made]}
            assert (await send(daemon, usage(subscription))).status_code == 409
