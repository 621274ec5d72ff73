"""Credits and holds over the socket: the same bodies as over HTTP, from a real peer to a real file."""

from pathlib import Path
from typing import Any, Final

import pytest
import trio

from support import NOW, THIS_MONTH, Peer, Served, served
from tallyd.clock import FixedClock
from tallyd.model.moments import SECOND_US, iso

CATALOG: Final = """
[[features]]
key = "api"

[[credit_models]]
key = "tokens"
denomination = "TOKENS"

[[plans]]
key = "pro"
name = "Pro"
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = "0.10" }
"""
ACME: Final = {"customerReferenceId": "acme"}


async def opened(peer: Peer, amount: Any = 10) -> str:
    """Put the customer on the plan with some credits; return the pool."""
    await peer.result("subscribe", **ACME, planKey="pro", startsAt=iso(THIS_MONTH))
    made = await peer.result("credits.grant", **ACME, creditModelKey="tokens", amount=amount)
    return str(made["pool"]["id"])


async def reserve(peer: Peer, units: Any, **fields: Any) -> Any:
    """Reserve units."""
    return await peer.result("reserve", **ACME, featureKey="api", usageUnits=units, **fields)


async def available(peer: Peer) -> Any:
    """Return what the customer's first pool has available."""
    return (await peer.result("balance", **ACME))["pools"][0]["available"]


async def error(peer: Peer, method: str, **params: Any) -> tuple[str, str | None]:
    """Ask something that is refused; return the code and the field."""
    data = (await peer.call(method, **params))["error"]["data"]
    return data["code"], data.get("field")


def move(daemon: Served, micros: int) -> None:
    """Let time pass."""
    assert isinstance(daemon.core.clock.system, FixedClock)
    daemon.core.clock.system.move(micros)


async def test_credits_are_granted_taken_reversed_and_accounted_for(tmp_path: Path) -> None:
    """Each answer has the transaction and the pool; the statement has all of them, newest first."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        pool = await opened(peer)
        taken = await peer.result("credits.deduct", **ACME, creditPoolId=pool, amount=4, description="refund")
        assert (taken["transaction"]["amount"], taken["pool"]["balance"]) == (-4, 6)
        back = await peer.result("credits.reverse", transactionId=taken["transaction"]["id"])
        assert (back["transaction"]["amount"], back["pool"]["balance"]) == (4, 10)
        assert await error(peer, "credits.reverse", transactionId=taken["transaction"]["id"]) == ("conflict", None)
        await peer.result("consume", eventName="call", **ACME, featureKey="api", usageUnits=2)
        (page,) = (await peer.result("credits.statement", **ACME))["pools"]
        assert [row["amount"] for row in page["items"]] == [-2, 4, -4, 10]
        assert [row.get("units") for row in page["items"]] == [2, None, None, None]
        assert page["pool"]["balance"] == page["items"][0]["balanceAfter"] == 8
        one = await peer.result("credits.statement", **ACME, poolId=pool, limit=1, offset=1)
        assert one == {
            "pool": page["pool"],
            "items": [page["items"][1]],
            "pagination": {"total": 4, "limit": 1, "offset": 1, "hasMore": True},
        }
        why = await peer.result("credits.explain", transactionId=taken["transaction"]["id"])
        assert (why["description"], why["reversedBy"]) == ("refund", back["transaction"]["id"])


async def test_the_balance_has_pools_grants_and_holds_of_one_instant(tmp_path: Path) -> None:
    """What is there, what is held and by whom; after their expiry nothing of it, without a job (P7)."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        await opened(peer)
        hold = await reserve(peer, 3, ttlSeconds=60)
        stands = await peer.result("balance", **ACME)
        assert (stands["customerReferenceId"], stands["asOf"]) == ("acme", iso(NOW))
        assert stands["position"] == hold["position"] + 1
        (pool,) = stands["pools"]
        assert (pool["balance"], pool["held"], pool["available"]) == (10, 3, 7)
        assert [(each["remaining"], each["held"]) for each in pool["grants"]] == [(10, 3)]
        assert [(each["holdId"], each["heldCredits"]) for each in stands["holds"]] == [(hold["holdId"], 3)]
        move(daemon, 60 * SECOND_US)
        later = await peer.result("balance", **ACME)
        assert (later["pools"][0]["available"], later["holds"]) == (10, [])


async def test_a_holds_life(tmp_path: Path) -> None:
    """Reserve, settle a part, settle the rest, and every request sent twice counts once (P2)."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        await opened(peer)
        hold = await reserve(peer, 6, idempotencyKey="h")
        assert (await reserve(peer, 6, idempotencyKey="h"))["holdId"] == hold["holdId"]
        part = {"holdId": hold["holdId"], "usageUnits": 2, "final": False, "eventIdempotencyKey": "p"}
        for duplicate in (False, True):
            answer = await peer.result("settle", **ACME, **part)
            assert (answer["status"], answer["heldCredits"]) == ("HELD", 4)
            assert answer.get("duplicate", False) is duplicate
        for duplicate in (False, True):
            answer = await peer.result("settle", holdId=hold["holdId"], usageUnits=3)
            assert (answer["status"], answer.get("duplicate", False)) == ("SETTLED", duplicate)
        assert await available(peer) == 5
        assert (await peer.result("release", holdId=hold["holdId"]))["status"] == "SETTLED"


async def test_holds_end_by_release_or_by_time(tmp_path: Path) -> None:
    """Released or expired, the credits are free; a release repeated changes nothing."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        await opened(peer)
        first, second = await reserve(peer, 6), await reserve(peer, 4, ttlSeconds=1)
        assert (await reserve(peer, 1))["allowed"] is False
        for _ in range(2):
            assert (await peer.result("release", holdId=first["holdId"], **ACME))["status"] == "RELEASED"
        assert await available(peer) == 6
        move(daemon, SECOND_US)
        assert await available(peer) == 10
        late = await peer.result("settle", holdId=second["holdId"], usageUnits=4)
        assert (late["status"], late["creditsDeducted"]) == ("EXPIRED", 4)


async def test_a_frozen_pool_gives_nothing_until_it_is_unfrozen(tmp_path: Path) -> None:
    """The pool is answered as it then stands; checks say no meanwhile."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        pool = await opened(peer)
        assert (await peer.result("credits.freeze", creditPoolId=pool))["status"] == "FROZEN"
        assert (await peer.result("check", **ACME, featureKey="api"))["allowed"] is False
        assert await error(peer, "credits.deduct", creditPoolId=pool, amount=1) == ("conflict", None)
        assert (await peer.result("credits.unfreeze", creditPoolId=pool))["status"] == "ACTIVE"
        assert (await peer.result("check", **ACME, featureKey="api"))["allowed"] is True


async def test_a_key_moves_credits_once(tmp_path: Path) -> None:
    """A used key has a code of its own here, and names what it made (P2)."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        pool = await opened(peer)
        made = await peer.result("credits.grant", creditPoolId=pool, amount=1, idempotencyKey="k")
        again = await peer.call("credits.grant", creditPoolId=pool, amount=1, idempotencyKey="k")
        assert again["error"]["message"] == "Duplicate grant: idempotency key already used"
        assert again["error"]["data"] == {"code": "duplicate_key", "detail": made["transaction"]["id"]}
        assert await available(peer) == 11


async def test_two_settlements_at_once_count_once(tmp_path: Path) -> None:
    """On two connections within one instant: one is recorded, the other is told of it (lago #3618)."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as first, daemon.peer() as second:
        await opened(first)
        hold = (await reserve(first, 6))["holdId"]
        answers: list[Any] = []

        async def once(peer: Peer) -> None:
            answers.append(await peer.result("settle", holdId=hold, usageUnits=4))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(once, first)
            nursery.start_soon(once, second)
        assert sorted(answer.get("duplicate", False) for answer in answers) == [False, True]
        assert await available(first) == 6


@pytest.mark.parametrize(
    ("method", "params", "expected"),
    [
        ("balance", {}, ("validation_failed", "customerReferenceId")),
        ("balance", {"customerReferenceId": "nobody"}, ("not_found", None)),
        ("balance", {**ACME, "pool": 1}, ("validation_failed", "pool")),
        ("credits.grant", {**ACME, "creditModelKey": "no", "amount": 1}, ("validation_failed", "creditModelKey")),
        ("credits.grant", {**ACME, "creditModelKey": "tokens", "amount": 0}, ("validation_failed", "amount")),
        ("credits.deduct", {"creditPoolId": "x", "amount": 1}, ("not_found", None)),
        ("credits.deduct", {"amount": 1}, ("validation_failed", "creditPoolId")),
        ("credits.reverse", {"transactionId": "x"}, ("not_found", None)),
        ("credits.freeze", {"poolId": "x"}, ("validation_failed", "poolId")),
        ("credits.unfreeze", {"creditPoolId": "x"}, ("not_found", None)),
        ("credits.statement", {**ACME, "limit": 501}, ("validation_failed", "limit")),
        ("credits.statement", {**ACME, "offset": -1}, ("validation_failed", "offset")),
        ("credits.statement", {**ACME, "poolId": "x"}, ("not_found", None)),
        ("credits.explain", {"transactionId": "x"}, ("not_found", None)),
        ("credits.explain", {}, ("validation_failed", "transactionId")),
        ("settle", {"holdId": "x", "usageUnits": 1}, ("not_found", None)),
    ],
)
async def test_what_is_wrong_is_named(
    tmp_path: Path, method: str, params: dict[str, Any], expected: tuple[str, str | None]
) -> None:
    """Codes are those of HTTP, and the field stands beside them."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        await opened(peer)
        assert await error(peer, method, **params) == expected


async def test_another_customers_pool_is_not_found(tmp_path: Path) -> None:
    """A pool is found under its own customer only, and so is a hold."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        pool = await opened(peer)
        hold = (await reserve(peer, 1))["holdId"]
        other = {"customerReferenceId": "other"}
        await peer.result("subscribe", **other, planKey="pro")
        for method, params in (
            ("credits.statement", {"poolId": pool}),
            ("credits.grant", {"creditPoolId": pool, "amount": 1}),
            ("credits.deduct", {"creditPoolId": pool, "amount": 1}),
            ("settle", {"holdId": hold, "usageUnits": 1}),
            ("release", {"holdId": hold}),
        ):
            assert await error(peer, method, **other, **params) == ("not_found", None), method


async def test_the_shell_may_move_credits_and_the_app_may_not(tmp_path: Path) -> None:
    """Moving needs `admin`, looking `read`, holding `ingest`; the table says so."""
    async with served(tmp_path, CATALOG) as daemon:
        table = daemon.server._methods.table
        scopes = {name: scope for name, (scope, _) in table.items() if name.startswith(("credits.", "balance"))}
        assert scopes == {
            "balance": "read",
            "credits.models": "read",
            "credits.statement": "read",
            "credits.explain": "read",
            "credits.grant": "admin",
            "credits.deduct": "admin",
            "credits.reverse": "admin",
            "credits.freeze": "admin",
            "credits.unfreeze": "admin",
        }


async def test_the_credit_models_are_listed(tmp_path: Path) -> None:
    """What pools may be opened of, for a shell that has to choose."""
    async with served(tmp_path, CATALOG) as daemon, daemon.peer() as peer:
        (model,) = (await peer.result("credits.models"))["items"]
        assert (model["key"], model["denomination"]) == ("tokens", "TOKENS")
