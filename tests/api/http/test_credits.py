"""Credits over the native API, on a real daemon: the contract's rules by their names (CONTRACTS 1.7, B, C4, E)."""

import json
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from harness import NOW, Running, running
from tallyd.model.moments import DAY_US, HOUR_US, iso

CLIENT: Final = "/api/v1/client"
ADMIN: Final = "/api/v1/monetization/credits"
CATALOG: Final = """
[[features]]
key = "chat"
[[features]]
key = "capped"
[[features]]
key = "soft"

[[credit_models]]
key = "tokens"
name = "Tokens"
denomination = "TOKENS"
features = ["chat", "capped"]

[[credit_models]]
key = "soft"
denomination = "SOFT"
hard_limit = false
features = ["soft"]

[[credit_models]]
key = "fifo"
denomination = "FIFO"
burn_order = "fifo"
features = []

[[credit_models]]
key = "none"
denomination = "NONE"
features = ["chat"]

[[credit_models]]
key = "full"
denomination = "FULL"
features = ["chat"]
rollover = { policy = "FULL" }

[[credit_models]]
key = "up_to_10"
denomination = "UP_TO_10"
features = ["chat"]
rollover = { policy = "CAPPED", cap = 10 }

[[credit_prices]]
credit_model = "tokens"
price = "0.015"

[[plans]]
key = "pro"
name = "Pro"
[[plans.features]]
feature = "chat"
pricing = { model = "usage", usage_unit_type = "call", price_per_unit = "0.10" }
[[plans.features]]
feature = "capped"
pricing = { model = "usage", usage_unit_type = "call", price_per_unit = "0.10", max_usage = 3 }
[[plans.features]]
feature = "soft"
pricing = { model = "usage", usage_unit_type = "call", price_per_unit = "0.10" }

[[plans]]
key = "with_none"
name = "With credits that expire"
[[plans.features]]
feature = "chat"
[[plans.credits]]
credit_model = "none"
amount = 25

[[plans]]
key = "with_full"
name = "With credits that stay"
[[plans.features]]
feature = "chat"
[[plans.credits]]
credit_model = "full"
amount = 25
expires_after_months = 3

[[plans]]
key = "with_up_to_10"
name = "With credits of which ten stay"
[[plans.features]]
feature = "chat"
[[plans.credits]]
credit_model = "up_to_10"
amount = 25
"""


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Running]:
    """Run a daemon with credit models of several kinds."""
    async with running(tmp_path, catalog=CATALOG) as started:
        yield started


async def ask(daemon: Running, method: str, path: str, *, expect: int, **given: Any) -> Any:
    """Ask something; return the data, or the error. Numbers have every digit."""
    reply = await daemon.http.request(method, path, **given)
    assert reply.status_code == expect, reply.text
    answer = json.loads(reply.content, parse_float=Decimal)
    return answer["data"] if answer["success"] else answer["error"]


async def get(daemon: Running, path: str, *, expect: int = 200, **query: Any) -> Any:
    """Get something."""
    return await ask(daemon, "GET", path, expect=expect, params=query)


async def post(daemon: Running, path: str, *, expect: int = 201, **body: Any) -> Any:
    """Post something."""
    return await ask(daemon, "POST", path, expect=expect, json=body)


async def grant(
    daemon: Running,
    amount: Any,
    customer: str = "acme",
    model: str = "tokens",
    *,
    expect: int = 201,
    **fields: Any,
) -> Any:
    """Grant credits into a customer's pool of a credit model."""
    body = {"customerReferenceId": customer, "creditModelKey": model, "amount": amount, **fields}
    return await post(daemon, f"{ADMIN}/grants", expect=expect, **body)


async def deduct(daemon: Running, pool: str, amount: Any, *, expect: int = 201, **fields: Any) -> Any:
    """Take credits out of a pool."""
    return await post(daemon, f"{ADMIN}/deductions", expect=expect, creditPoolId=pool, amount=amount, **fields)


async def use(daemon: Running, units: Any, *, expect: int = 201, feature: str = "chat", **fields: Any) -> Any:
    """Report usage."""
    body = {"eventName": "call", "customerReferenceId": "acme", "featureKey": feature, "usageUnits": units}
    return await post(daemon, f"{CLIENT}/events", expect=expect, **{**body, **fields})


async def pools(daemon: Running, customer: str = "acme") -> Any:
    """Return a customer's pools."""
    return (await get(daemon, f"{CLIENT}/credits/{customer}/pools"))["items"]


async def rows(daemon: Running, pool: str, customer: str = "acme", what: str = "transactions") -> Any:
    """Return a pool's transactions, newest first, or its grants, oldest first."""
    return (await get(daemon, f"{CLIENT}/credits/{customer}/pools/{pool}/{what}"))["items"]


async def reverse(daemon: Running, transaction: str, *, expect: int = 201) -> Any:
    """Reverse a transaction."""
    return await ask(daemon, "POST", f"{ADMIN}/transactions/{transaction}/reverse", expect=expect)


def assert_balanced(pool: Any, transactions: Any, grants: Any) -> None:
    """Check what E1 says of a pool with all its transactions and grants."""
    for row in transactions:
        assert row["balanceAfter"] == row["balanceBefore"] + row["amount"]
        assert row["amount"] == sum(each["amount"] for each in row["grants"])
    for newer, older in pairwise(transactions):
        assert newer["balanceBefore"] == older["balanceAfter"]
    totals = pool["totalGranted"] - pool["totalConsumed"] - pool["totalExpired"] + pool["totalReversed"]
    assert pool["balance"] == transactions[0]["balanceAfter"] == totals
    assert pool["balance"] == sum(each["remaining"] for each in grants)


# Usage that credits pay for


async def test_b9_at_the_cap_no_credits_are_drawn(daemon: Running) -> None:
    """Past the cap the event is stored with zero usage, and costs no credits (B9)."""
    await daemon.subscribe("acme")
    await grant(daemon, 10)
    assert (await use(daemon, 3, feature="capped"))["creditsDeducted"] == 3
    beyond = await use(daemon, 2, feature="capped", expect=200)
    assert (beyond["usageLimitExceeded"], beyond["usageUnits"]) == (True, 0)
    assert "creditsDeducted" not in beyond
    (pool,) = await pools(daemon)
    assert pool["balance"] == 7


async def test_b10_a_hard_pool_that_is_short_refuses_the_event_whole(daemon: Running) -> None:
    """409, no event, no entry, the key is free: after a grant the same request is taken (B10)."""
    await daemon.subscribe("acme")
    pool = (await grant(daemon, 3))["creditPoolId"]
    error = await use(daemon, 5, eventIdempotencyKey="k", expect=409)
    assert error["code"] == "insufficient_credits"
    assert error["message"].startswith("Credit pool depleted")
    assert (await get(daemon, f"{CLIENT}/events"))["items"] == []
    assert [row["transactionType"] for row in await rows(daemon, pool)] == ["GRANT"]
    await grant(daemon, 2)
    taken = await use(daemon, 5, eventIdempotencyKey="k")
    assert (taken["creditsDeducted"], taken["remainingBalance"]) == (5, 0)
    assert (await use(daemon, 5, eventIdempotencyKey="k", expect=409))["code"] == "conflict"


async def test_b11_a_soft_pool_gives_what_it_has_and_the_rest_is_billed(daemon: Running) -> None:
    """3 credits, a charge of 5: 3 are drawn, two units are billed by the plan (B11, D9)."""
    await daemon.subscribe("acme")
    await grant(daemon, 3, model="soft")
    event = await use(daemon, 5, feature="soft")
    assert (event["creditsDeducted"], event["remainingBalance"]) == (3, 0)
    assert event["revenueAmount"] == Decimal("0.2")
    assert event["weightMatch"] == "NONE"
    billed = await use(daemon, 1, feature="soft")
    assert (billed["revenueAmount"], "creditsDeducted" in billed) == (Decimal("0.1"), False)


async def test_c4_evaluate_weighs_units_as_the_event_will(daemon: Running) -> None:
    """Weight 8, balance 5, one unit: evaluate says no, and the event is refused (C4)."""
    await daemon.subscribe("acme")
    (weight,) = await post(daemon, f"{ADMIN}/weights/publish", weights=[{"featureKey": "chat", "weight": 8}])
    await grant(daemon, 5)
    sent = {"customerReferenceId": "acme", "featureKey": "chat", "usage": {"usageUnits": 1}}
    answer = await post(daemon, f"{CLIENT}/entitlements", expect=200, **sent)
    assert answer["allowed"] is False
    assert (answer["credit"]["balance"], answer["credit"]["denomination"]) == (5, "TOKENS")
    assert answer["creditQuote"] == {
        "estimatedCredits": 8,
        "weight": 8,
        "weightId": weight["id"],
        "weightMatch": "FEATURE_DEFAULT",
        "pricePerCredit": Decimal("0.015"),
        "currency": "USD",
        "estimatedCost": Decimal("0.12"),
    }
    assert (await use(daemon, 1, expect=409))["code"] == "insufficient_credits"
    await grant(daemon, 3)
    assert (await post(daemon, f"{CLIENT}/entitlements", expect=200, **sent))["allowed"] is True
    assert (await use(daemon, 1))["weightId"] == weight["id"]


async def test_an_event_explains_the_credits_it_took(daemon: Running) -> None:
    """The event names its deductions, and a deduction its event, its weight and the grants it drew from (P10)."""
    await daemon.subscribe("acme")
    made = await grant(daemon, 5)
    event = await use(daemon, 2)
    (row,) = (await get(daemon, f"{CLIENT}/events/{event['eventId']}"))["credits"]
    assert (row["amount"], row["charge"], row["weight"], row["covered"]) == (-2, 2, 1, {"units": 2})
    explained = await get(daemon, f"{ADMIN}/transactions/{row['id']}")
    assert explained["eventId"] == event["eventId"]
    assert explained["grants"] == [{"grantId": made["id"], "amount": -2}]
    assert (explained["units"], explained["customerReferenceId"], len(explained["chain"])) == (2, "acme", 64)
    assert [each["remaining"] for each in explained["touched"]] == [3]


# The contract's E


async def test_e1_every_row_adds_up_and_the_totals_make_the_balance(daemon: Running) -> None:
    """Rows, totals and what grants have left agree after everything that moves a balance (E1, P3)."""
    await daemon.subscribe("acme")
    first = await grant(daemon, "10.5", expiresAt=iso(NOW + HOUR_US))
    second = await grant(daemon, 7)
    pool = first["creditPoolId"]
    taken = await deduct(daemon, pool, "2.25")
    await use(daemon, 1)
    await reverse(daemon, taken["id"])
    await reverse(daemon, second["id"])
    await ask(daemon, "POST", f"{ADMIN}/pools/{pool}/freeze", expect=200)
    daemon.clock.move(HOUR_US)
    (now,) = await pools(daemon)
    assert_balanced(now, await rows(daemon, pool), await rows(daemon, pool, what="grants"))
    assert (now["balance"], now["totalReversed"], now["totalExpired"]) == (0, Decimal("-4.75"), Decimal("9.5"))


async def test_e2_fifo_draws_the_oldest_grant_first(daemon: Running) -> None:
    """Two grants of 5, 7 taken: 0 and 3 are left, though the second expires first (E2)."""
    await daemon.subscribe("acme")
    pool = (await grant(daemon, 5, model="fifo"))["creditPoolId"]
    await grant(daemon, 5, model="fifo", expiresAt=iso(NOW + HOUR_US))
    await deduct(daemon, pool, 7)
    assert [each["remaining"] for each in await rows(daemon, pool, what="grants")] == [0, 3]


async def test_credits_that_end_first_are_drawn_first_unless_fifo(daemon: Running) -> None:
    """By priority, then earliest expiry, then age."""
    await daemon.subscribe("acme")
    pool = (await grant(daemon, 5))["creditPoolId"]
    await grant(daemon, 5, expiresAt=iso(NOW + HOUR_US))
    await grant(daemon, 5, priority=-1)
    await deduct(daemon, pool, 7)
    assert [each["remaining"] for each in await rows(daemon, pool, what="grants")] == [5, 3, 0]


@pytest.mark.parametrize(
    ("model", "kept", "lost"), [("none", 0, 25), ("full", 25, 0), ("up_to_10", 10, 15)], ids=str
)
async def test_e3_rollover_at_renewal(daemon: Running, model: str, kept: int, lost: int) -> None:
    """NONE expires all, FULL keeps all, CAPPED up to the cap; then the new period's credits come (E3)."""
    await daemon.subscribe("acme", f"with_{model}")
    daemon.clock.move(30 * DAY_US)
    (pool,) = await pools(daemon)
    assert (pool["balance"], pool["totalExpired"]) == (kept + 25, lost)
    moved = [(row["transactionType"], row["amount"]) for row in await rows(daemon, pool["id"])]
    assert moved == [("GRANT", 25), *([("EXPIRATION", -lost)] if lost else []), ("GRANT", 25)]


async def test_e4_depleted_active_frozen(daemon: Running) -> None:
    """A hard pool at zero is DEPLETED, a grant makes it ACTIVE, a FROZEN one refuses deductions (E4)."""
    await daemon.subscribe("acme")
    pool = (await grant(daemon, 5))["creditPoolId"]
    path = f"{CLIENT}/credits/acme/pools/{pool}"
    await deduct(daemon, pool, 5)
    assert (await get(daemon, path))["status"] == "DEPLETED"
    await grant(daemon, 5)
    assert (await get(daemon, path))["status"] == "ACTIVE"
    frozen = await ask(daemon, "POST", f"{ADMIN}/pools/{pool}/freeze?description=fraud", expect=200)
    again = await ask(daemon, "POST", f"{ADMIN}/pools/{pool}/freeze", expect=200)
    assert (frozen["status"], again["status"]) == ("FROZEN", "FROZEN")
    assert (await deduct(daemon, pool, 1, expect=409))["code"] == "conflict"
    assert (await use(daemon, 1, expect=409))["code"] == "insufficient_credits"
    await ask(daemon, "POST", f"{ADMIN}/pools/{pool}/unfreeze", expect=200)
    await deduct(daemon, pool, 1)
    kinds = [row["transactionType"] for row in await rows(daemon, pool)]
    assert kinds == ["DEDUCTION", "UNFREEZE", "FREEZE", "GRANT", "DEDUCTION", "GRANT"]
    assert (await rows(daemon, pool))[2]["description"] == "fraud"


async def test_e5_a_reversal_restores_the_balance_once(daemon: Running) -> None:
    """The second reversal is refused, and so is the reversal of a reversal (E5)."""
    await daemon.subscribe("acme")
    pool = (await grant(daemon, 5))["creditPoolId"]
    taken = await deduct(daemon, pool, 3)
    back = await reverse(daemon, taken["id"])
    assert (back["transactionType"], back["amount"], back["balanceAfter"]) == ("REVERSAL", 3, 5)
    assert back["reversedTransactionId"] == taken["id"]
    assert (await reverse(daemon, taken["id"], expect=409))["code"] == "conflict"
    assert (await reverse(daemon, back["id"], expect=409))["code"] == "conflict"
    assert (await get(daemon, f"{ADMIN}/transactions/{taken['id']}"))["reversedBy"] == back["id"]
    assert [each["remaining"] for each in await rows(daemon, pool, what="grants")] == [5]


async def test_e5_two_reversals_at_once_count_once(daemon: Running) -> None:
    """Sent side by side, one is done and the other refused (A5, E5)."""
    await daemon.subscribe("acme")
    pool = (await grant(daemon, 5))["creditPoolId"]
    taken = await deduct(daemon, pool, 3)
    statuses = []

    async def once() -> None:
        reply = await daemon.http.post(f"{ADMIN}/transactions/{taken['id']}/reverse")
        statuses.append(reply.status_code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(once)
        nursery.start_soon(once)
    assert sorted(statuses) == [201, 409]
    assert (await pools(daemon))[0]["balance"] == 5


async def test_reversing_the_deduction_of_an_event_gives_the_credits_back(daemon: Running) -> None:
    """The event stays as it is; its credits are there again, and the event shows both."""
    await daemon.subscribe("acme")
    await grant(daemon, 5)
    event = await use(daemon, 2)
    path = f"{CLIENT}/events/{event['eventId']}"
    (row,) = (await get(daemon, path))["credits"]
    back = await reverse(daemon, row["id"])
    assert (back["amount"], back["eventId"]) == (2, event["eventId"])
    assert [each["amount"] for each in (await get(daemon, path))["credits"]] == [-2, 2]


async def test_e7_plan_credits_come_once_a_period(tmp_path: Path) -> None:
    """However often they are looked at, and across a restart, a period's credits are granted once (E7)."""
    async with running(tmp_path, catalog=CATALOG) as daemon:
        await daemon.subscribe("acme", "with_full")
        for _ in range(3):
            (pool,) = await pools(daemon)
        assert pool["totalGranted"] == 25
    async with running(tmp_path, catalog=CATALOG, clock=daemon.clock) as daemon:
        daemon.clock.move(30 * DAY_US)
        for _ in range(3):
            await use(daemon, 1)
        first, second = await rows(daemon, pool["id"], what="grants")
        assert (first["amount"], second["amount"], second["grantType"]) == (25, 25, "PLAN_INCLUDED")
        assert first["periodEnd"] == second["periodStart"] == "2026-12-21T00:00:00Z"
        assert [row["createdAt"] for row in await rows(daemon, pool["id"])][-1] == iso(NOW)


# What users of other systems complain about


async def test_polar_8451_a_subscription_start_leaves_bought_credits_alone(daemon: Running) -> None:
    """Bought credits outlive the start and the renewal of a plan whose own credits expire."""
    await daemon.subscribe("acme")
    await grant(daemon, 50, model="none", grantType="PURCHASED")
    await daemon.subscribe("acme", "with_none")
    assert (await pools(daemon))[0]["balance"] == 75
    daemon.clock.move(30 * DAY_US)
    (pool,) = await pools(daemon)
    assert (pool["balance"], pool["totalExpired"]) == (75, 25)
    kinds = {each["grantType"]: each["remaining"] for each in await rows(daemon, pool["id"], what="grants")}
    assert kinds == {"PURCHASED": 50, "PLAN_INCLUDED": 25}


async def test_flexprice_1153_expiry_needs_no_job(daemon: Running) -> None:
    """A grant that ends at 13:00:00 pays up to the microsecond before it, and for nothing from then on (P7)."""
    await daemon.subscribe("acme")
    made = await grant(daemon, 5, expiresAt=iso(NOW + HOUR_US))
    daemon.clock.move(HOUR_US - 1)
    await use(daemon, 1)
    daemon.clock.move(1)
    (pool,) = await pools(daemon)
    assert (pool["balance"], pool["totalExpired"], pool["status"]) == (0, 4, "DEPLETED")
    assert (await use(daemon, 1, expect=409))["code"] == "insufficient_credits"
    assert (await get(daemon, f"{CLIENT}/entitlements/acme/chat"))["allowed"] is False
    latest = (await rows(daemon, pool["id"]))[0]
    assert (latest["transactionType"], latest["createdAt"]) == ("EXPIRATION", made["expiresAt"])


async def test_an_expiry_that_is_written_late_says_when_it_was(daemon: Running) -> None:
    """`createdAt` is the expiry's own date, `recordedAt` when it was written down."""
    await daemon.subscribe("acme")
    made = await grant(daemon, 5, expiresAt=iso(NOW + HOUR_US))
    daemon.clock.move(5 * HOUR_US)
    latest = (await rows(daemon, made["creditPoolId"]))[0]
    assert (latest["cause"], latest["createdAt"]) == ("expiry", iso(NOW + HOUR_US))
    assert latest["recordedAt"] == iso(NOW + 5 * HOUR_US)


# Grants and deductions


async def test_a_grant_is_answered_as_it_stands(daemon: Running) -> None:
    """All that was sent comes back, numbers digit by digit; the pool is opened by the first grant."""
    await daemon.subscribe("acme")
    before = await daemon.position("acme")
    made = await grant(
        daemon,
        "0.1",
        grantType="PROMOTIONAL",
        priority=3,
        expiresAt="2027-01-01T01:00:00+01:00",
        description="Wîllkommen 你好",
        metadata={"käse": "✓", "count": 2, "vip": True, "empty": ""},
        unitPrice="0.000001",
        currency="EUR",
        idempotencyKey="schlüssel",
    )
    pool = made["creditPoolId"]
    assert made | {"id": ""} == {
        "id": "",
        "creditPoolId": pool,
        "grantType": "PROMOTIONAL",
        "amount": Decimal("0.1"),
        "remaining": Decimal("0.1"),
        "held": 0,
        "priority": 3,
        "expiresAt": "2027-01-01T00:00:00Z",
        "description": "Wîllkommen 你好",
        "metadata": {"käse": "✓", "count": 2, "vip": True, "empty": ""},
        "unitPrice": Decimal("0.000001"),
        "currency": "EUR",
        "createdAt": iso(NOW),
    }
    (row,) = await rows(daemon, pool)
    assert row | {"id": ""} == {
        "id": "",
        "creditPoolId": pool,
        "creditGrantId": made["id"],
        "transactionType": "GRANT",
        "cause": "manual",
        "amount": Decimal("0.1"),
        "balanceBefore": 0,
        "balanceAfter": Decimal("0.1"),
        "grants": [{"grantId": made["id"], "amount": Decimal("0.1")}],
        "idempotencyKey": "schlüssel",
        "position": before + 2,
        "createdAt": iso(NOW),
        "grantType": "PROMOTIONAL",
        "expiresAt": "2027-01-01T00:00:00Z",
        "description": "Wîllkommen 你好",
        "metadata": {"käse": "✓", "count": 2, "vip": True, "empty": ""},
        "unitPrice": Decimal("0.000001"),
        "currency": "EUR",
    }


async def test_numbers_are_exact(daemon: Running) -> None:
    """0.1 and 0.2 make 0.3; 38 digits come back as they were sent (P9)."""
    await daemon.subscribe("acme")
    await grant(daemon, 0.1)
    pool = (await grant(daemon, 0.2))["creditPoolId"]
    assert (await pools(daemon))[0]["balance"] == Decimal("0.3")
    await deduct(daemon, pool, "0.3")
    long = "12345678901234567890.123456789012345678"
    assert (await grant(daemon, long))["amount"] == Decimal(long)
    assert (await pools(daemon))[0]["balance"] == Decimal(long)


async def test_a_key_grants_once(daemon: Running) -> None:
    """A used key is 400 in Tanso's words and names what it made; for something else it is a conflict (1.2)."""
    await daemon.subscribe("acme")
    await daemon.subscribe("other")
    made = await grant(daemon, 5, idempotencyKey="k")
    assert await grant(daemon, 5, idempotencyKey="k", expect=400) == {
        "code": "validation_failed",
        "message": "Duplicate grant: idempotency key already used",
        "detail": made["id"],
    }
    for customer, amount in (("other", 5), ("acme", 6)):
        error = await grant(daemon, amount, customer, idempotencyKey="k", expect=409)
        assert (error["code"], error["detail"]) == ("idempotency_conflict", made["id"])
    taken = await deduct(daemon, made["creditPoolId"], 1, idempotencyKey="d")
    error = await deduct(daemon, made["creditPoolId"], 1, idempotencyKey="d", expect=400)
    assert error["message"] == "Duplicate deduction: idempotency key already used"
    assert error["detail"] == taken["id"]
    assert (await pools(daemon))[0]["balance"] == 4
    assert await pools(daemon, "other") == []


async def test_a_refused_deduction_leaves_its_key_free(daemon: Running) -> None:
    """Short: 409 in Tanso's words, nothing moved; after a grant the same request is taken."""
    await daemon.subscribe("acme")
    pool = (await grant(daemon, 5))["creditPoolId"]
    error = await deduct(daemon, pool, 6, idempotencyKey="d", expect=409)
    assert error["code"] == "insufficient_credits"
    assert error["message"].startswith("Credit pool depleted: ")
    await grant(daemon, 1)
    assert (await deduct(daemon, pool, 6, idempotencyKey="d"))["balanceAfter"] == 0


async def test_two_grants_with_one_key_sent_at_once_count_once(daemon: Running) -> None:
    """One is done, the other told of it (A5, P2)."""
    await daemon.subscribe("acme")
    statuses = []

    async def once() -> None:
        body = {"customerReferenceId": "acme", "creditModelKey": "tokens", "amount": 5, "idempotencyKey": "k"}
        statuses.append((await daemon.http.post(f"{ADMIN}/grants", json=body)).status_code)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(once)
    assert sorted(statuses) == [201, 400, 400, 400, 400]
    assert (await pools(daemon))[0]["balance"] == 5


async def test_the_transports_key_replays_a_grant_and_outlives_the_replay(daemon: Running) -> None:
    """Within a day the first answer comes again; after it the credits are still granted once (P2)."""
    await daemon.subscribe("acme")
    given = {
        "json": {"customerReferenceId": "acme", "creditModelKey": "tokens", "amount": 5},
        "headers": {"Idempotency-Key": "t"},
    }
    first = await ask(daemon, "POST", f"{ADMIN}/grants", expect=201, **given)
    assert await ask(daemon, "POST", f"{ADMIN}/grants", expect=201, **given) == first
    daemon.clock.move(2 * DAY_US)
    error = await ask(daemon, "POST", f"{ADMIN}/grants", expect=400, **given)
    assert (error["code"], error["detail"]) == ("validation_failed", first["id"])
    assert (await pools(daemon))[0]["balance"] == 5


async def test_what_is_sold_remembers_its_price(daemon: Running) -> None:
    """PURCHASED without a price has the present one; a price of its own wins; others have none."""
    await daemon.subscribe("acme")
    bought = await grant(daemon, 1, grantType="PURCHASED")
    assert (bought["unitPrice"], bought["currency"]) == (Decimal("0.015"), "USD")
    cheaper = await grant(daemon, 1, grantType="PURCHASED", unitPrice="0.01")
    assert (cheaper["unitPrice"], cheaper["currency"]) == (Decimal("0.01"), "USD")
    assert "unitPrice" not in await grant(daemon, 1)
    assert "unitPrice" not in await grant(daemon, 1, model="soft", grantType="PURCHASED")


_BAD_GRANTS: Final[list[tuple[dict[str, Any], str]]] = [
    ({"amount": 0}, "amount"),
    ({"amount": -1}, "amount"),
    ({"amount": "NaN"}, "amount"),
    ({"amount": "1e21"}, "amount"),
    ({"amount": "0.0000000000000000001"}, "amount"),
    ({"amount": None}, "amount"),
    ({"creditModelKey": "no"}, "creditModelKey"),
    ({"creditModelKey": None}, "creditModelKey"),
    ({"creditModelId": "no"}, "creditModelId"),
    ({"customerReferenceId": None}, "creditPoolId"),
    ({"customerId": "acme"}, "customerId"),
    ({"grantType": "GIFT"}, "grantType"),
    ({"expiresAt": "tomorrow"}, "expiresAt"),
    ({"expiresAt": iso(NOW)}, "expiresAt"),
    ({"expiresAt": "2500-01-01T00:00:00Z"}, "expiresAt"),
    ({"priority": 1_000_001}, "priority"),
    ({"priority": "high"}, "priority"),
    ({"description": ""}, "description"),
    ({"description": "x" * 1_001}, "description"),
    ({"description": "a\u0000b"}, "description"),
    ({"metadata": {str(number): "x" for number in range(51)}}, "metadata"),
    ({"metadata": {"k" * 41: "x"}}, "metadata"),
    ({"metadata": {"k": "x" * 501}}, "metadata.k"),
    ({"metadata": {"k": {}}}, "metadata.k"),
    ({"metadata": {"k": 0.5}}, "metadata.k"),
    ({"metadata": {"k": "a\u0000"}}, "metadata.k"),
    ({"currency": "USD"}, "currency"),
    ({"unitPrice": -1}, "unitPrice"),
    ({"unitPrice": 1, "currency": "dollar"}, "currency"),
    ({"idempotencyKey": ""}, "idempotencyKey"),
    ({"idempotencyKey": "k" * 256}, "idempotencyKey"),
    ({"ammount": 1}, "ammount"),
]


@pytest.mark.parametrize(("field", "name"), _BAD_GRANTS, ids=lambda value: value if isinstance(value, str) else "")
async def test_a_bad_grant_is_refused_by_field(daemon: Running, field: dict[str, Any], name: str) -> None:
    """The message names the field, and nothing is granted."""
    await daemon.subscribe("acme")
    error = await grant(daemon, 1, expect=400, **field) if "amount" not in field else None
    if error is None:
        body = {"customerReferenceId": "acme", "creditModelKey": "tokens", **field}
        error = await post(daemon, f"{ADMIN}/grants", expect=400, **body)
    assert error["message"].startswith(f"Validation failed: {name}: "), error
    assert await pools(daemon) == []


async def test_bounds_are_reached(daemon: Running) -> None:
    """At the limit it is taken: 50 pairs, 40 and 500 characters, 1,000 characters of description."""
    await daemon.subscribe("acme")
    metadata = {f"{number:040d}": "x" * 500 for number in range(50)}
    made = await grant(daemon, 1, metadata=metadata, description="ü" * 1_000)
    assert (made["metadata"], len(made["description"])) == (metadata, 1_000)


async def test_nobody_and_nothing_are_404(daemon: Running) -> None:
    """Unknown customers, pools and transactions, and another customer's pool, are not found."""
    await daemon.subscribe("acme")
    await daemon.subscribe("other")
    pool = (await grant(daemon, 1))["creditPoolId"]
    nothing = "7a11d000-0000-8000-8000-0000000fffff"
    assert (await grant(daemon, 1, "nobody", expect=404))["code"] == "not_found"
    for path in (
        "nobody/pools",
        "nobody/holds",
        f"other/pools/{pool}",
        f"other/pools/{pool}/transactions",
        f"other/pools/{pool}/grants",
        f"acme/pools/{nothing}",
        "acme/pools/x",
    ):
        assert (await get(daemon, f"{CLIENT}/credits/{path}", expect=404))["code"] == "not_found"
    await deduct(daemon, nothing, 1, expect=404)
    await deduct(daemon, pool, 1, customerReferenceId="other", expect=404)
    await post(daemon, f"{ADMIN}/grants", expect=404, creditPoolId=pool, amount=1, customerReferenceId="other")
    await get(daemon, f"{ADMIN}/transactions/{nothing}", expect=404)
    await reverse(daemon, nothing, expect=404)
    assert (await pools(daemon))[0]["balance"] == 1


# Purchases


async def test_a_purchase_grants_and_says_what_to_charge(daemon: Running) -> None:
    """The amount is rounded once to the currency; the grant remembers the price of one credit."""
    await daemon.subscribe("acme")
    pool = (await grant(daemon, 1))["creditPoolId"]
    sold = await post(daemon, f"{CLIENT}/credits/purchases", creditPoolId=pool, credits=101, idempotencyKey="p")
    assert sold | {"grantId": ""} == {
        "completed": True,
        "credits": 101,
        "pricePerCredit": Decimal("0.015"),
        "amountCharged": Decimal("1.52"),
        "currency": "USD",
        "grantId": "",
    }
    made = (await rows(daemon, pool, what="grants"))[-1]
    assert (made["id"], made["grantType"], made["amount"]) == (sold["grantId"], "PURCHASED", 101)
    latest = (await rows(daemon, pool))[0]
    assert (latest["cause"], latest["unitPrice"]) == ("purchase", Decimal("0.015"))
    error = await post(
        daemon, f"{CLIENT}/credits/purchases", expect=400, creditPoolId=pool, credits=101, idempotencyKey="p"
    )
    assert error["message"] == "Duplicate purchase: idempotency key already used"
    assert (await pools(daemon))[0]["balance"] == 102


async def test_a_purchase_that_cannot_be_charged_is_refused(daemon: Running) -> None:
    """No price: 400. Under 0.50: 400. Another customer's pool: 404. Nothing is granted."""
    await daemon.subscribe("acme")
    await daemon.subscribe("other")
    path = f"{CLIENT}/credits/purchases"
    unpriced = (await grant(daemon, 1, model="soft"))["creditPoolId"]
    pool = (await grant(daemon, 1))["creditPoolId"]
    error = await post(daemon, path, expect=400, creditPoolId=unpriced, credits=100)
    assert error["message"].startswith("Validation failed: creditPoolId: ")
    for few in (32, 0, -5):
        error = await post(daemon, path, expect=400, creditPoolId=pool, credits=few)
        assert error["message"].startswith("Validation failed: credits: ")
    await post(daemon, path, creditPoolId=pool, credits=33)  # 0.495 is charged as 0.50
    await post(daemon, path, expect=404, creditPoolId=pool, credits=100, customerReferenceId="other")
    assert [pool["balance"] for pool in await pools(daemon)] == [1, 34]


# Pools


async def test_a_pool_is_opened_changed_linked_and_archived(daemon: Running) -> None:
    """A further pool: its own name and rules, for one subscription only; empty it may be archived."""
    subscription = await daemon.subscribe("acme")
    opened = await post(
        daemon, f"{ADMIN}/pools", customerReferenceId="acme", creditModelKey="tokens", name="Sprint"
    )
    assert (opened["name"], opened["balance"], opened["status"]) == ("Sprint", 0, "DEPLETED")
    path = f"{ADMIN}/pools/{opened['id']}"
    change = {"name": "Marathon", "hardLimit": False, "rolloverPolicy": "CAPPED", "rolloverCap": 5}
    changed = await ask(daemon, "PATCH", path, expect=200, json=change)
    assert (changed["name"], changed["hardLimit"], changed["status"]) == ("Marathon", False, "ACTIVE")
    assert (changed["rolloverPolicy"], changed["rolloverCap"]) == ("CAPPED", 5)
    full = await ask(daemon, "PATCH", path, expect=200, json={"rolloverPolicy": "FULL", "lowAt": 3})
    assert (full["rolloverPolicy"], "rolloverCap" in full) == ("FULL", False)
    assert (await post(daemon, f"{ADMIN}/pools", customerReferenceId="acme", creditModelKey="tokens"))["hardLimit"]
    link = await ask(
        daemon, "POST", f"{path}/subscriptions/{subscription}?drawPriority=2&drawLimit=4.5", expect=201
    )
    assert link == {
        "creditPoolId": opened["id"],
        "subscriptionId": subscription,
        "drawPriority": 2,
        "drawLimit": Decimal("4.5"),
        "drawn": 0,
    }
    await post(daemon, f"{ADMIN}/grants", creditPoolId=opened["id"], amount=1)
    assert (await ask(daemon, "POST", f"{path}/archive", expect=409))["code"] == "conflict"
    await deduct(daemon, opened["id"], 1)
    assert (await ask(daemon, "POST", f"{path}/archive", expect=200))["status"] == "ARCHIVED"
    await post(daemon, f"{ADMIN}/grants", expect=409, creditPoolId=opened["id"], amount=1)
    listed = await get(daemon, f"{ADMIN}/pools", customerReferenceId="acme")
    assert [each["status"] for each in listed] == ["ARCHIVED", "DEPLETED"]
    assert listed[0]["customerId"] == (await get(daemon, f"{CLIENT}/customers/acme"))["id"]


async def test_a_pools_status_is_changed_by_name(daemon: Running) -> None:
    """PATCH status: FROZEN, ACTIVE, ARCHIVED; DEPLETED is nobody's wish."""
    await daemon.subscribe("acme")
    pool = (await grant(daemon, 1))["creditPoolId"]
    path = f"{ADMIN}/pools/{pool}"
    for status in ("FROZEN", "ACTIVE"):
        assert (await ask(daemon, "PATCH", path, expect=200, json={"status": status}))["status"] == status
    assert (await ask(daemon, "PATCH", path, expect=409, json={"status": "ARCHIVED"}))["code"] == "conflict"
    assert (await get(daemon, path))["status"] == "ACTIVE"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"status": "DEPLETED"}, "status"),
        ({"name": ""}, "name"),
        ({"denomination": "X"}, "denomination"),
        ({"charge": "nothing"}, "charge"),
        ({"hardLimt": True}, "hardLimt"),
        ({"hardLimit": "yes"}, "hardLimit"),
        ({"rolloverCap": 5}, "rolloverCap"),
        ({"rolloverPolicy": "SOME"}, "rolloverPolicy"),
        ({"features": ["no"]}, "features[0]"),
        ({"precision": 19}, "precision"),
    ],
)
async def test_a_bad_change_of_a_pool_is_refused_by_field(
    daemon: Running, change: dict[str, Any], field: str
) -> None:
    """The message names the field, and the pool stays as it is."""
    await daemon.subscribe("acme")
    pool = (await grant(daemon, 1))["creditPoolId"]
    before = await get(daemon, f"{ADMIN}/pools/{pool}")
    error = await ask(daemon, "PATCH", f"{ADMIN}/pools/{pool}", expect=400, json=change)
    assert error["message"].startswith(f"Validation failed: {field}: ")
    assert await get(daemon, f"{ADMIN}/pools/{pool}") == before


async def test_a_link_is_refused_by_field(daemon: Running) -> None:
    """A bad priority or limit is named; another customer's subscription is not found."""
    await daemon.subscribe("acme")
    others = await daemon.subscribe("other")
    path = f"{ADMIN}/pools/{(await grant(daemon, 1))['creditPoolId']}/subscriptions/{others}"
    for query, field in (
        ("drawPriority=x", "drawPriority"),
        ("drawPriority=1000001", "drawPriority"),
        ("drawLimit=-1", "drawLimit"),
        ("drawLimit=x", "drawLimit"),
        ("drawLimit=NaN", "drawLimit"),
    ):
        error = await ask(daemon, "POST", f"{path}?{query}", expect=400)
        assert error["message"].startswith(f"Validation failed: {field}: ")
    await ask(daemon, "POST", path, expect=404)


async def test_what_a_plan_includes_is_for_the_catalog_to_say(daemon: Running) -> None:
    """409 with the place to write it; unknown models and plans are not found."""
    error = await ask(daemon, "POST", f"{ADMIN}/models/tokens/plans/pro?creditAmount=5", expect=409)
    assert "[[plans.credits]]" in error["message"]
    await ask(daemon, "DELETE", f"{ADMIN}/models/tokens/plans/pro", expect=409)
    await ask(daemon, "POST", f"{ADMIN}/models/no/plans/pro", expect=404)
    await ask(daemon, "POST", f"{ADMIN}/models/tokens/plans/no", expect=404)


# Where credits show


async def test_plans_show_the_credits_they_include(daemon: Running) -> None:
    """`creditAllocations` of the client's plans (1.3)."""
    plans = {each["plan"]["key"]: each for each in (await get(daemon, f"{CLIENT}/plans"))["items"]}
    (included,) = plans["with_full"]["creditAllocations"]
    assert included | {"creditModelId": ""} == {
        "creditModelId": "",
        "creditModelName": "full",
        "denomination": "FULL",
        "creditAmount": 25,
        "grantExpiresMonths": 3,
        "hardLimit": True,
    }
    assert included["creditModelId"] == (await get(daemon, f"{ADMIN}/models/full"))["id"]
    assert plans["pro"]["creditAllocations"] == []


async def test_a_customer_and_its_usage_show_its_pools(daemon: Running) -> None:
    """The customer has its pools; usage says how fast they are drawn, and until when they last (1.9)."""
    await daemon.subscribe("acme")
    pool = (await grant(daemon, 30))["creditPoolId"]
    assert (await get(daemon, f"{CLIENT}/customers/acme"))["creditPools"] == await pools(daemon)
    (unused,) = (await get(daemon, f"{CLIENT}/customers/acme/usage"))["creditPools"]
    assert unused == {
        "poolId": pool,
        "denomination": "TOKENS",
        "balance": 30,
        "totalConsumed": 0,
        "averageDailyBurn": 0,
        "projectedDepletionDate": None,
        "pricePerCredit": Decimal("0.015"),
        "currency": "USD",
    }
    await use(daemon, 10)
    daemon.clock.move(4 * DAY_US)
    (used,) = (await get(daemon, f"{CLIENT}/customers/acme/usage"))["creditPools"]
    assert (used["averageDailyBurn"], used["balance"]) == (Decimal("2.5"), 20)
    assert used["projectedDepletionDate"] == iso(NOW + 12 * DAY_US)


async def test_the_outbox_is_read_in_order(daemon: Running) -> None:
    """A balance that falls to nothing is told once; `after` goes on behind what was read."""
    await daemon.subscribe("acme")
    pool = (await grant(daemon, 2))["creditPoolId"]
    path = "/api/v1/monetization/outbox"
    assert await get(daemon, path) == []
    await deduct(daemon, pool, 2)
    (alert,) = await get(daemon, path)
    assert (alert["type"], alert["customerReferenceId"], alert["createdAt"]) == (
        "credit.depleted",
        "acme",
        iso(NOW),
    )
    assert await get(daemon, path, after=alert["number"]) == []
    assert (await get(daemon, path, limit=501, expect=400))["code"] == "validation_failed"


async def test_lists_have_pages(daemon: Running) -> None:
    """Limit and offset, hasMore, an empty page past the end, at most 500 rows (A4, P11)."""
    await daemon.subscribe("acme")
    for amount in (1, 2, 3):
        pool = (await grant(daemon, amount))["creditPoolId"]
    for what, first in (("transactions", 3), ("grants", 1)):
        path = f"{CLIENT}/credits/acme/pools/{pool}/{what}"
        page = await get(daemon, path, limit=2)
        assert [each["amount"] for each in page["items"]] == [first, 2]
        assert page["pagination"] == {"total": 3, "limit": 2, "offset": 0, "hasMore": True}
        assert (await get(daemon, path, offset=9))["items"] == []
        await get(daemon, path, limit=501, expect=400)


async def test_a_customers_name_may_be_any_text(daemon: Running) -> None:
    """Names outside ASCII work in paths and bodies alike."""
    await daemon.subscribe("käse/… 你好"[:4])
    await grant(daemon, 5, "käse")
    (pool,) = await pools(daemon, "käse")
    assert (await rows(daemon, pool["id"], "käse"))[0]["amount"] == 5


# Who may


_CALLS: Final = [
    ("GET", f"{CLIENT}/credits/acme/pools", "ingest"),
    ("GET", f"{CLIENT}/credits/acme/pools/x", "ingest"),
    ("GET", f"{CLIENT}/credits/acme/pools/x/transactions", "ingest"),
    ("GET", f"{CLIENT}/credits/acme/pools/x/grants", "ingest"),
    ("GET", f"{CLIENT}/credits/acme/holds", "ingest"),
    ("POST", f"{CLIENT}/credits/purchases", "ingest"),
    ("POST", f"{ADMIN}/grants", "ingest"),
    ("POST", f"{ADMIN}/deductions", "read"),
    ("POST", f"{ADMIN}/transactions/x/reverse", "ingest"),
    ("GET", f"{ADMIN}/transactions/x", "ingest"),
    ("POST", f"{ADMIN}/pools", "read"),
    ("GET", f"{ADMIN}/pools", "ingest"),
    ("PATCH", f"{ADMIN}/pools/x", "ingest"),
    ("POST", f"{ADMIN}/pools/x/freeze", "ingest"),
    ("POST", f"{ADMIN}/pools/x/unfreeze", "read"),
    ("POST", f"{ADMIN}/pools/x/archive", "ingest"),
    ("POST", f"{ADMIN}/pools/x/subscriptions/y", "ingest"),
    ("POST", f"{ADMIN}/models/tokens/plans/pro", "ingest"),
    ("GET", "/api/v1/monetization/outbox", "ingest"),
    ("POST", f"{CLIENT}/holds", "read"),
    ("GET", f"{CLIENT}/holds/x", "ingest"),
    ("POST", f"{CLIENT}/holds/x/settle", "read"),
    ("POST", f"{CLIENT}/holds/x/release", "read"),
    ("DELETE", f"{CLIENT}/holds/x", "read"),
]


async def test_every_endpoint_asks_for_its_scope(daemon: Running) -> None:
    """No key: 401. A key without the scope: 403. Both before anything is looked at (A1)."""
    for method, path, scope in _CALLS:
        reply = await daemon.http.request(method, path, json={}, headers=await daemon.key_for(scope))
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "forbidden"), path
        reply = await daemon.http.request(method, path, json={}, headers={"Authorization": "Bearer no"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (401, "unauthorized"), path


async def test_credits_outlive_the_daemon(tmp_path: Path) -> None:
    """Pools, grants and what was reversed are there after a restart, and keys are still used."""
    answers: list[Any] = []
    look: Callable[[Running], Any] = pools
    async with running(tmp_path, catalog=CATALOG) as daemon:
        await daemon.subscribe("acme")
        made = await grant(daemon, 5, idempotencyKey="k")
        taken = await deduct(daemon, made["creditPoolId"], 2)
        await reverse(daemon, taken["id"])
        answers += [await look(daemon), await rows(daemon, made["creditPoolId"])]
    async with running(tmp_path, catalog=CATALOG) as daemon:
        assert answers == [await look(daemon), await rows(daemon, made["creditPoolId"])]
        await grant(daemon, 5, idempotencyKey="k", expect=400)
        await reverse(daemon, taken["id"], expect=409)
