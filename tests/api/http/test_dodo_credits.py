"""Dodo's credit entitlements, against a running daemon (CONTRACTS 2.6, F8)."""

from pathlib import Path
from typing import Any

import dodopayments
import httpx
import pytest

from harness import CATALOG, NOW, Running, running
from tallyd.model.moments import DAY_US, SECOND_US, iso

Body = dict[str, Any]

FILE = (
    CATALOG
    + """
[[credit_models]]
key = "tok"
name = "Catalog tokens"
denomination = "TOKENS"
precision = 4
rollover = { policy = "PERCENTAGE", percentage = 75, expires_after_days = 60, max_count = 2 }
overage = { limit = 10, behavior = "carry_deficit", price_per_unit = "0.020", currency = "USD" }
"""
)
EVERYTHING: Body = {
    "name": "Tokens",
    "unit": "tokens",
    "precision": 4,
    "description": "What a prompt costs",
    "expires_after_days": 90,
    "rollover_enabled": True,
    "rollover_percentage": 75,
    "rollover_timeframe_count": 2,
    "rollover_timeframe_interval": "Month",
    "max_rollover_count": 3,
    "overage_enabled": True,
    "overage_limit": 500,
    "overage_behavior": "invoice_at_billing",
    "price_per_unit": "0.0200",
    "currency": "USD",
}


def entitlement(**fields: Any) -> Body:
    """Return a credit entitlement as Dodo's clients send it."""
    return {
        "name": "Tokens",
        "unit": "tokens",
        "precision": 2,
        "rollover_enabled": False,
        "overage_enabled": False,
        **fields,
    }


async def create(daemon: Running, **fields: Any) -> httpx.Response:
    """Make a credit entitlement."""
    return await daemon.http.post("/credit-entitlements", json=entitlement(**fields))


async def made(daemon: Running, **fields: Any) -> str:
    """Make a credit entitlement; return its id."""
    reply = await create(daemon, **fields)
    assert reply.status_code == 201, reply.text
    return str(reply.json()["id"])


async def listed(daemon: Running, **query: Any) -> list[str]:
    """Return the names on a page of the list."""
    reply = await daemon.http.get("/credit-entitlements", params={"page_size": 100, **query})
    assert reply.status_code == 200, reply.text
    return [item["name"] for item in reply.json()["items"]]


class TestCreate:
    """POST /credit-entitlements."""

    async def test_dodos_own_client_creates(self, daemon: Running) -> None:
        """The dodopayments package makes an entitlement of every field and reads it back as it was sent."""
        created = await daemon.dodo.credit_entitlements.create(**EVERYTHING)
        assert created.id.startswith("cde_")
        assert created.to_dict(mode="json", exclude_none=True) == {
            **EVERYTHING,
            "id": created.id,
            "business_id": "tallyd",
            "created_at": iso(NOW),
            "updated_at": iso(NOW),
        }
        assert await daemon.dodo.credit_entitlements.retrieve(created.id) == created

    async def test_defaults(self, daemon: Running) -> None:
        """What is not sent is left out, but for the overage behaviour, which is to forgive."""
        body = (await create(daemon)).json()
        assert body["overage_behavior"] == "forgive_at_reset"
        assert set(body) == {*entitlement(), "id", "business_id", "overage_behavior", "created_at", "updated_at"}

    async def test_rules_of_pools(self, daemon: Running) -> None:
        """Drawn oldest first, hard up to the overage; a month of rollover is 30 days, no percentage is all."""
        name = await made(daemon, **EVERYTHING)
        other = await made(daemon, rollover_enabled=True, overage_enabled=True, price_per_unit="1", currency="EUR")
        rules, open_ended = (daemon.core.catalogue.credits.models[key] for key in (name, other))
        assert (rules.burn_order, rules.hard_limit, rules.precision) == ("fifo", True, 4)
        assert (rules.rollover.policy, rules.rollover.percentage) == ("PERCENTAGE", 75)
        assert (rules.rollover.expires_after_days, rules.rollover.max_count) == (60, 3)
        assert rules.overage is not None
        assert (rules.overage.limit, rules.overage.behavior) == (500, "invoice_at_billing")
        assert open_ended.rollover.percentage == 100
        assert open_ended.overage is not None
        assert open_ended.overage.limit is None

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"name": ""}, "name"),
            ({"name": "x" * 256}, "name"),
            ({"name": None}, "name"),
            ({"unit": "x" * 51}, "unit"),
            ({"unit": ""}, "unit"),
            ({"precision": 11}, "precision"),
            ({"precision": -1}, "precision"),
            ({"precision": "two"}, "precision"),
            ({"description": "x" * 1_001}, "description"),
            ({"expires_after_days": 0}, "expires_after_days"),
            ({"rollover_percentage": 101}, "rollover_percentage"),
            ({"rollover_percentage": -1}, "rollover_percentage"),
            ({"rollover_timeframe_count": 1}, "rollover_timeframe_count"),
            ({"rollover_timeframe_interval": "Day"}, "rollover_timeframe_count"),
            ({"rollover_timeframe_count": 0, "rollover_timeframe_interval": "Day"}, "rollover_timeframe_count"),
            (
                {"rollover_timeframe_count": 1, "rollover_timeframe_interval": "Hour"},
                "rollover_timeframe_interval",
            ),
            ({"max_rollover_count": -1}, "max_rollover_count"),
            ({"overage_enabled": True}, "price_per_unit"),
            ({"price_per_unit": "1"}, "currency"),
            ({"price_per_unit": "-1", "currency": "USD"}, "price_per_unit"),
            ({"price_per_unit": "1", "currency": "usd"}, "currency"),
            ({"overage_limit": -1}, "overage_limit"),
            ({"overage_behavior": "forget"}, "overage_behavior"),
        ],
        ids=str,
    )
    async def test_bad_bodies(self, daemon: Running, fields: Body, field: str) -> None:
        """A field that cannot be used is 422 and named; nothing is made."""
        reply = await create(daemon, **fields)
        assert (reply.status_code, reply.json()["code"]) == (422, "INVALID_REQUEST_BODY")
        assert reply.json()["message"].startswith(f"{field}: ")
        assert await listed(daemon) == []

    @pytest.mark.parametrize("missing", entitlement())
    async def test_missing_fields(self, daemon: Running, missing: str) -> None:
        """Each required field that is missing is named."""
        body = {name: value for name, value in entitlement().items() if name != missing}
        reply = await daemon.http.post("/credit-entitlements", json=body)
        assert (reply.status_code, reply.json()["message"]) == (422, f"{missing}: is required")

    async def test_only_for_admins(self, daemon: Running) -> None:
        """Making one needs the admin scope: 403 without, 401 without a key, in Dodo's shape."""
        headers = await daemon.key_for("ingest", "read")
        reply = await daemon.http.post("/credit-entitlements", json=entitlement(), headers=headers)
        assert (reply.status_code, reply.json()["code"]) == (403, "FORBIDDEN")
        reply = await daemon.http.get("/credit-entitlements", headers={"Authorization": "Bearer nobody"})
        assert (reply.status_code, reply.json()["code"]) == (401, "UNAUTHORIZED")


class TestList:
    """GET /credit-entitlements (F8)."""

    async def test_newest_first(self, daemon: Running) -> None:
        """Listed newest first, ten a page, the first page being 0; past the end is empty."""
        for number in range(12):
            daemon.clock.move(SECOND_US)
            await made(daemon, name=f"c{number}")
        names = [f"c{number}" for number in reversed(range(12))]
        assert await listed(daemon) == names
        first = (await daemon.http.get("/credit-entitlements")).json()["items"]
        assert [item["name"] for item in first] == names[:10]
        assert await listed(daemon, page_size=5, page_number=0) == names[:5]
        assert await listed(daemon, page_size=5, page_number=2) == names[10:]
        assert await listed(daemon, page_size=5, page_number=9) == []

    async def test_dodos_own_client_lists(self, daemon: Running) -> None:
        """The dodopayments package walks the pages from an explicit page 1 on to the end."""
        for number in range(5):
            daemon.clock.move(SECOND_US)
            await made(daemon, name=f"c{number}")
        found = daemon.dodo.credit_entitlements.list(page_number=1, page_size=2)
        assert [each.name async for each in found] == ["c2", "c1", "c0"]

    @pytest.mark.parametrize("query", [{"page_size": 101}, {"page_number": -1}, {"deleted": "maybe"}], ids=str)
    async def test_bad_queries(self, daemon: Running, query: Body) -> None:
        """Pages of 101 and flags that are none are 422."""
        reply = await daemon.http.get("/credit-entitlements", params=query)
        assert (reply.status_code, reply.json()["code"]) == (422, "INVALID_QUERY_PARAMS")

    async def test_models_of_the_catalog(self, tmp_path: Path) -> None:
        """A credit model of the catalog file is a credit entitlement, to be read here and changed there."""
        async with running(tmp_path, catalog=FILE) as daemon:
            (found,) = (await daemon.dodo.credit_entitlements.list()).items
            assert await daemon.dodo.credit_entitlements.retrieve(found.id) == found
            fields = found.to_dict(mode="json", exclude_none=True)
            assert {name: fields[name] for name in EVERYTHING if name in fields} == {
                "name": "Catalog tokens",
                "unit": "TOKENS",
                "precision": 4,
                "rollover_enabled": True,
                "rollover_percentage": 75,
                "rollover_timeframe_count": 60,
                "rollover_timeframe_interval": "Day",
                "max_rollover_count": 2,
                "overage_enabled": True,
                "overage_limit": 10,
                "overage_behavior": "carry_deficit",
                "price_per_unit": "0.020",
                "currency": "USD",
            }
            with pytest.raises(dodopayments.ConflictError):
                await daemon.dodo.credit_entitlements.update(found.id, name="Other")
            with pytest.raises(dodopayments.ConflictError):
                await daemon.dodo.credit_entitlements.delete(found.id)


class TestChange:
    """PATCH /credit-entitlements/{id}."""

    async def test_dodos_own_client_changes(self, daemon: Running) -> None:
        """Only what is sent changes, and null clears."""
        name = await made(daemon, **EVERYTHING)
        daemon.clock.move(SECOND_US)
        await daemon.dodo.credit_entitlements.update(
            name, name="Coins", overage_limit=None, rollover_timeframe_count=1, rollover_timeframe_interval="Year"
        )
        changed = (await daemon.dodo.credit_entitlements.retrieve(name)).to_dict(mode="json", exclude_none=True)
        kept = {field: value for field, value in EVERYTHING.items() if field != "overage_limit"}
        assert changed == {
            **kept,
            "id": name,
            "business_id": "tallyd",
            "name": "Coins",
            "rollover_timeframe_count": 1,
            "rollover_timeframe_interval": "Year",
            "created_at": iso(NOW),
            "updated_at": iso(NOW + SECOND_US),
        }
        rules = daemon.core.catalogue.credits.models[name]
        assert rules.rollover.expires_after_days == 365
        assert rules.overage is not None
        assert rules.overage.limit is None

    async def test_switching_off_and_on(self, daemon: Running) -> None:
        """Rollover and overage that are switched off come back with the fields they had."""
        name = await made(daemon, **EVERYTHING)
        models = daemon.core.catalogue.credits
        before = models.models[name]
        await daemon.dodo.credit_entitlements.update(name, rollover_enabled=False, overage_enabled=False)
        assert models.models[name].overage is None
        assert models.models[name].rollover.policy == "NONE"
        await daemon.dodo.credit_entitlements.update(name, rollover_enabled=True, overage_enabled=True)
        assert models.models[name] == before

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"precision": 3}, "precision"),
            ({"precision": None}, "precision"),
            ({"name": None}, "name"),
            ({"unit": ""}, "unit"),
            ({"rollover_timeframe_count": None}, "rollover_timeframe_count"),
            ({"price_per_unit": None}, "price_per_unit"),
            ({"currency": None}, "currency"),
        ],
        ids=str,
    )
    async def test_bad_changes(self, daemon: Running, fields: Body, field: str) -> None:
        """The precision is fixed, and what must be there cannot be cleared: 422, nothing changes."""
        name = await made(daemon, **EVERYTHING)
        before = (await daemon.http.get(f"/credit-entitlements/{name}")).json()
        reply = await daemon.http.patch(f"/credit-entitlements/{name}", json=fields)
        assert (reply.status_code, reply.json()["code"]) == (422, "INVALID_REQUEST_BODY")
        assert reply.json()["message"].startswith(f"{field}: ")
        assert (await daemon.http.get(f"/credit-entitlements/{name}")).json() == before

    async def test_pools_keep_their_rules(self, daemon: Running) -> None:
        """A change holds for balances opened from then on: those that are open keep the rules they have."""
        name = await made(daemon, expires_after_days=10)
        entry: Body = {"entry_type": "credit", "amount": "5"}
        expiries = []
        for ref in ("ann", "bob"):
            await daemon.subscribe(ref)
            path = f"/credit-entitlements/{name}/balances/{ref}"
            for _ in range(2):
                assert (await daemon.http.post(f"{path}/ledger-entries", json=entry)).status_code == 201
                await daemon.dodo.credit_entitlements.update(name, expires_after_days=None)
            grants = (await daemon.http.get(f"{path}/grants")).json()["items"]
            expiries += [grant.get("expires_at") for grant in grants]
        assert expiries == [iso(NOW + 10 * DAY_US)] * 2 + [None] * 2

    async def test_unknown(self, daemon: Running) -> None:
        """What does not exist is 404."""
        reply = await daemon.http.patch("/credit-entitlements/cde_none", json={"name": "x"})
        assert (reply.status_code, reply.json()["code"]) == (404, "NOT_FOUND")

    async def test_kept_over_a_restart(self, tmp_path: Path) -> None:
        """Entitlements, changed and deleted ones, are there after a restart, to the last digit of their price."""
        async with running(tmp_path) as daemon:
            name, gone = await made(daemon, **EVERYTHING), await made(daemon, name="Gone")
            await daemon.dodo.credit_entitlements.update(name, description="Changed")
            await daemon.dodo.credit_entitlements.delete(gone)
            before = (await daemon.http.get(f"/credit-entitlements/{name}")).json()
        async with running(tmp_path) as daemon:
            assert (await daemon.http.get(f"/credit-entitlements/{name}")).json() == before
            assert before["price_per_unit"] == "0.0200"
            assert await listed(daemon, deleted="true") == ["Gone"]


class TestDelete:
    """DELETE /credit-entitlements/{id}, and back."""

    async def test_dodos_own_client_deletes(self, daemon: Running) -> None:
        """A deleted entitlement is 404 and listed apart until it is brought back; balances can still be read."""
        name = await made(daemon)
        entry: Body = {"entry_type": "credit", "amount": "5"}
        customer = (await daemon.dodo.customers.create(name="Ann", email="ann@example.com")).customer_id
        path = f"/credit-entitlements/{name}/balances/{customer}"
        assert (await daemon.http.post(f"{path}/ledger-entries", json=entry)).status_code == 201
        await daemon.dodo.credit_entitlements.delete(name)
        for method, where in (("GET", ""), ("DELETE", ""), ("PATCH", "")):
            reply = await daemon.http.request(method, f"/credit-entitlements/{name}{where}", json={})
            assert (reply.status_code, reply.json()["code"]) == (404, "NOT_FOUND")
        assert (await listed(daemon), await listed(daemon, deleted="true")) == ([], ["Tokens"])
        assert (await daemon.http.get(path)).json()["balance"] == "5"
        assert (await daemon.http.post(f"{path}/ledger-entries", json=entry)).status_code == 404
        await daemon.dodo.credit_entitlements.undelete(name)
        await daemon.dodo.credit_entitlements.undelete(name)
        assert (await listed(daemon), await listed(daemon, deleted="true")) == (["Tokens"], [])
        assert (await daemon.http.post(f"{path}/ledger-entries", json=entry)).status_code == 201

    async def test_unknown(self, daemon: Running) -> None:
        """What never was cannot be deleted or brought back: 404."""
        with pytest.raises(dodopayments.NotFoundError):
            await daemon.dodo.credit_entitlements.delete("cde_none")
        with pytest.raises(dodopayments.NotFoundError):
            await daemon.dodo.credit_entitlements.undelete("cde_none")
