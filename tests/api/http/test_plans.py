"""Plans and features made over the native API: DRAFT, ACTIVE, ARCHIVED; beside the file's (CONTRACTS 1.8)."""

import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import trio

from harness import Running, running
from tallyd.model.moments import DAY_US

CLIENT: Final = "/api/v1/client"
ADMIN: Final = "/api/v1/monetization"
CATALOG: Final = """
[[features]]
key = "api"
name = "API calls"
[[features]]
key = "chat"

[[meters]]
key = "calls"
event_name = "call"
aggregation = { type = "count" }

[[credit_models]]
key = "tokens"
denomination = "TOKENS"

[[plans]]
key = "filed"
name = "Filed"
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = "0.10" }

[[plans]]
key = "old"
name = "Old"
status = "ARCHIVED"
[[plans.features]]
feature = "api"

[[plans]]
key = "draft"
name = "Draft"
status = "DRAFT"
"""
USAGE: Final = {
    "pricing": {"model": "usage", "usage_unit_type": "calls", "price_per_unit": 0.05, "max_usage": 1000}
}
WHOLE: Final = {
    "key": "gold",
    "name": "Gold",
    "description": "All that glitters",
    "priceAmount": 20,
    "intervalMonths": 1,
    "billingTiming": "IN_ARREARS",
}


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Running]:
    """Run a daemon whose catalog file has plans, features and a credit model."""
    async with running(tmp_path, catalog=CATALOG) as started:
        yield started


async def ask(
    daemon: Running, method: str, path: str, body: Any = None, *, expect: int = 200, **query: Any
) -> Any:
    """Ask the daemon; return what the envelope holds, every digit of its numbers kept."""
    content = None if body is None else json.dumps(body)
    reply: httpx.Response = await daemon.http.request(method, path, content=content, params=query or None)
    assert reply.status_code == expect, reply.text
    answer = json.loads(reply.content, parse_float=Decimal)
    assert answer["success"] is (expect < 400)
    return answer["data"] if expect < 400 else answer["error"]["message"]


async def make(daemon: Running, **fields: Any) -> Any:
    """Make a plan."""
    return await ask(daemon, "POST", f"{ADMIN}/plans", {**WHOLE, **fields}, expect=201)


async def change(daemon: Running, key: str = "gold", *, expect: int = 200, **fields: Any) -> Any:
    """Change a plan."""
    return await ask(daemon, "PATCH", f"{ADMIN}/plans/{key}", fields, expect=expect)


async def link(
    daemon: Running, plan: str = "gold", feature: str = "api", *, expect: int = 201, **fields: Any
) -> Any:
    """Link a feature to a plan."""
    body = {"planId": plan, "featureKey": feature, "value": USAGE, **fields}
    return await ask(daemon, "POST", f"{ADMIN}/rules/plan-features", body, expect=expect)


async def activate(daemon: Running, **fields: Any) -> Any:
    """Make a plan with a feature and make it ACTIVE."""
    await make(daemon, **fields)
    await link(daemon)
    return await change(daemon, status="ACTIVE")


async def listed(daemon: Running) -> list[str]:
    """Return the keys of the plans that clients see."""
    return [each["plan"]["key"] for each in (await ask(daemon, "GET", f"{CLIENT}/plans"))["items"]]


async def subscribe(daemon: Running, plan: str, reference: str = "acme", *, expect: int = 201) -> Any:
    """Put a customer on a plan."""
    body = {"customerReferenceId": reference, "planId": plan}
    return await ask(daemon, "POST", f"{CLIENT}/subscriptions", body, expect=expect)


class TestLives:
    """DRAFT, ACTIVE, ARCHIVED and ACTIVE again."""

    async def test_a_plan_begins_as_a_draft_that_nobody_sees(self, daemon: Running) -> None:
        """Made, it is DRAFT and not on the clients' list; nobody can subscribe to it (D1, D3)."""
        made = await make(daemon)
        assert (made["status"], made["source"], made["version"], made["id"]) == ("DRAFT", "tanso", 1, "gold")
        assert await listed(daemon) == ["filed"]
        assert "DRAFT" in await subscribe(daemon, "gold", expect=400)
        keys = {each["key"] for each in await ask(daemon, "GET", f"{ADMIN}/plans")}
        assert keys == {"filed", "old", "draft", "gold"}

    async def test_an_active_plan_is_seen_and_subscribed_to_an_archived_one_kept(self, daemon: Running) -> None:
        """Archived: off the list, no new subscribers, those there are stay; and back again."""
        await activate(daemon)
        assert await listed(daemon) == ["filed", "gold"]
        made = await subscribe(daemon, "gold")
        await change(daemon, status="ARCHIVED")
        assert await listed(daemon) == ["filed"]
        assert "ARCHIVED" in await subscribe(daemon, "gold", "zoe", expect=400)
        view = await ask(daemon, "GET", f"{CLIENT}/subscriptions/{made['subscription']['id']}")
        assert view["isActive"] is True
        await change(daemon, status="ACTIVE")
        await subscribe(daemon, "gold", "zoe")

    @pytest.mark.parametrize(
        ("before", "after"), [("DRAFT", "ARCHIVED"), ("ACTIVE", "DRAFT"), ("ARCHIVED", "DRAFT")]
    )
    async def test_there_is_no_other_way(self, daemon: Running, before: str, after: str) -> None:
        """A status that does not follow is refused with 400."""
        await make(daemon)
        await link(daemon)
        for status in {"DRAFT": [], "ACTIVE": ["ACTIVE"], "ARCHIVED": ["ACTIVE", "ARCHIVED"]}[before]:
            await change(daemon, status=status)
        assert "can only become" in await change(daemon, status=after, expect=400)

    @pytest.mark.parametrize(
        ("lack", "field"),
        [
            ({"name": None}, "name"),
            ({"description": None}, "description"),
            ({"intervalMonths": None}, "intervalMonths"),
            ({"priceAmount": None}, "priceAmount"),
        ],
    )
    async def test_activation_names_what_is_lacking(self, daemon: Running, lack: Any, field: str) -> None:
        """400 with the field, until it is there; then the plan is ACTIVE (D3)."""
        made = await make(daemon, **lack)
        assert field not in made
        await link(daemon)
        message = await change(daemon, status="ACTIVE", expect=400)
        assert message.startswith(f"Validation failed: {field}: is needed to make the plan ACTIVE")
        assert (await change(daemon, status="ACTIVE", **{field: WHOLE[field]}))["status"] == "ACTIVE"

    async def test_activation_needs_a_feature(self, daemon: Running) -> None:
        """400 that says how to link one (D3)."""
        await make(daemon)
        assert "rules/plan-features" in await change(daemon, status="ACTIVE", expect=400)

    async def test_days_stand_in_place_of_months(self, daemon: Running) -> None:
        """A plan of weeks is active without months; back to months, the days are gone."""
        await make(daemon, intervalMonths=None, intervalDays=7)
        await link(daemon)
        active = await change(daemon, status="ACTIVE")
        assert (active["intervalDays"], "intervalMonths" in active) == (7, False)
        made = await subscribe(daemon, "gold")
        assert made["subscription"]["currentPeriodEnd"] == "2026-11-28T00:00:00Z"
        await change(daemon, status="ARCHIVED")
        monthly = await change(daemon, intervalMonths=3)
        assert (monthly["intervalMonths"], "intervalDays" in monthly) == (3, False)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("priceAmount", 21),
            ("intervalMonths", 2),
            ("intervalDays", 7),
            ("billingTiming", "IN_ADVANCE"),
            ("currency", "EUR"),
            ("key", "silver"),
        ],
    )
    async def test_what_an_active_plan_costs_is_fixed(self, daemon: Running, field: str, value: Any) -> None:
        """400 that names the field; the same value again is no change."""
        active = await activate(daemon)
        assert field in await ask(daemon, "PATCH", f"{ADMIN}/plans/gold", {field: value}, expect=400)
        if field in active:
            same = await ask(daemon, "PATCH", f"{ADMIN}/plans/gold", {field: active[field]})
            assert same["version"] == active["version"]

    async def test_a_change_is_a_new_version_and_subscribers_stay_on_theirs(self, daemon: Running) -> None:
        """What was subscribed to is pinned; who comes later gets the newer one."""
        active = await activate(daemon)
        first = await subscribe(daemon, "gold")
        changed = await change(daemon, name="Golden", trialDays=14, metadata={"tier": 1})
        assert (changed["version"], changed["trialDays"], changed["metadata"]) == (
            active["version"] + 1,
            14,
            {"tier": 1},
        )
        second = await subscribe(daemon, "gold", "zoe")
        versions = [each["subscription"]["plan"]["version"] for each in (first, second)]
        assert versions == [active["version"], changed["version"]]

    async def test_only_a_draft_is_deleted(self, daemon: Running) -> None:
        """Its key is free again; any other plan is archived instead."""
        await make(daemon)
        await ask(daemon, "DELETE", f"{ADMIN}/plans/gold")
        await ask(daemon, "GET", f"{ADMIN}/plans/gold", expect=404)
        await activate(daemon)
        assert "archive" in await ask(daemon, "DELETE", f"{ADMIN}/plans/gold", expect=409)


class TestRequests:
    """What is refused, and how."""

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"key": ""}, "key"),
            ({"key": " x"}, "key"),
            ({"priceAmount": -1}, "priceAmount"),
            ({"priceAmount": 1.005}, "priceAmount"),
            ({"currency": "euro"}, "currency"),
            ({"intervalMonths": 121}, "intervalMonths"),
            ({"intervalMonths": 2, "intervalDays": 7}, "intervalMonths"),
            ({"intervalDays": -1}, "intervalDays"),
            ({"billingTiming": "LATER"}, "billingTiming"),
            ({"trialDays": -1}, "trialDays"),
            ({"gracePeriodDays": 367}, "gracePeriodDays"),
            ({"status": "ACTIVE"}, "status"),
            ({"name": ""}, "name"),
            ({"colour": "red"}, "colour"),
            ({"metadata": {"x": "y" * 10_001}}, "metadata"),
        ],
    )
    async def test_a_bad_field_is_named(self, daemon: Running, fields: Any, field: str) -> None:
        """400, and nothing is made."""
        message = await ask(daemon, "POST", f"{ADMIN}/plans", {**WHOLE, **fields}, expect=400)
        assert message.startswith(f"Validation failed: {field}: ")
        assert len(await ask(daemon, "GET", f"{ADMIN}/plans")) == 3

    async def test_a_key_is_taken_once(self, daemon: Running) -> None:
        """409 for the key of another plan, the file's too; of two at once one wins."""
        await ask(daemon, "POST", f"{ADMIN}/plans", {**WHOLE, "key": "filed"}, expect=409)
        statuses = []

        async def post() -> None:
            statuses.append((await daemon.http.post(f"{ADMIN}/plans", json=WHOLE)).status_code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(post)
            nursery.start_soon(post)
        assert sorted(statuses) == [201, 409]

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("PATCH", "/plans/filed", {"name": "Mine"}),
            ("DELETE", "/plans/draft", None),
            ("POST", "/rules/plan-features", {"planId": "filed", "featureKey": "chat"}),
            ("PATCH", "/rules/plan-features", {"planId": "filed", "featureKey": "api"}),
            ("DELETE", "/rules/plan-features/filed/api", None),
            ("PATCH", "/rules/plan-features/diff/filed", {"features": []}),
            ("POST", "/credits/models/tokens/plans/filed?creditAmount=1", None),
            ("PATCH", "/features/api", {"name": "Mine"}),
            ("DELETE", "/features/chat", None),
        ],
    )
    async def test_what_the_file_has_is_the_files(
        self, daemon: Running, method: str, path: str, body: Any
    ) -> None:
        """409 that says where to change it."""
        assert "catalog file" in await ask(daemon, method, ADMIN + path, body, expect=409)

    async def test_making_plans_needs_admin(self, daemon: Running) -> None:
        """A key that may only read is refused with 403, and may look."""
        reader = await daemon.key_for("read")
        reply = await daemon.http.post(f"{ADMIN}/plans", json=WHOLE, headers=reader)
        assert reply.status_code == 403
        assert (await daemon.http.get(f"{ADMIN}/plans", headers=reader)).status_code == 200


class TestRules:
    """How plans have features (CONTRACTS 1.6)."""

    async def test_a_rule_is_shown_as_written_and_to_clients_in_their_words(self, daemon: Running) -> None:
        """snake_case numbers for the operator, camelCase for clients; its price is what usage costs."""
        made = await make(daemon)
        rule = await link(daemon, value={**USAGE, "cost": {"model": "simple", "cost_per_unit": 0.01}})
        assert rule["value"]["pricing"]["price_per_unit"] == Decimal("0.05")
        assert rule == await ask(daemon, "GET", f"{ADMIN}/rules/plan-features/gold/api")
        assert rule == await ask(daemon, "GET", f"{ADMIN}/rules/plan-features/gold/{rule['featureId']}")
        await change(daemon, status="ACTIVE")
        shown = (await ask(daemon, "GET", f"{CLIENT}/plans"))["items"][1]
        (feature,) = shown["features"]
        assert (feature["pricingType"], feature["pricing"]["pricePerUnit"]) == ("usage_based", Decimal("0.05"))
        assert (feature["pricing"]["unitLabel"], feature["pricing"]["maxUsage"]) == ("calls", 1000)
        assert shown["plan"]["priceAmount"] == made["priceAmount"] == 20
        await subscribe(daemon, "gold")
        event = {"eventName": "x", "customerReferenceId": "acme", "featureKey": "api", "usageUnits": 3}
        booked = await ask(daemon, "POST", f"{CLIENT}/events", event, expect=201)
        assert (booked["revenueAmount"], booked["costAmount"]) == (Decimal("0.15"), Decimal("0.03"))

    @pytest.mark.parametrize(
        ("value", "kind"),
        [
            (None, "included"),
            ({}, "included"),
            ({"model": "usage", "usage_unit_type": "calls", "cost_rate": "0.2"}, "usage_based"),
            ({"pricing": {"model": "usage", "usage_unit_type": "calls", "cost_per_unit": 0.2}}, "usage_based"),
            (
                {
                    "model": "usage",
                    "usage_unit_type": "calls",
                    "price_per_unit": 0.2,
                    "cost_model": "model_aware",
                    "model_costs": {"gpt-4": 0.1},
                },
                "usage_based",
            ),
            (
                {
                    "pricing": {
                        "model": "graduated",
                        "usage_unit_type": "calls",
                        "tiers": [
                            {"up_to": 10, "price_per_unit": 0, "flat_fee": 5},
                            {"up_to": "inf", "price_per_unit": "0.1"},
                        ],
                    }
                },
                "graduated",
            ),
        ],
    )
    async def test_old_and_new_shapes_are_read(self, daemon: Running, value: Any, kind: str) -> None:
        """Nested and flat, with the names that a unit's price had."""
        await make(daemon)
        rule = await link(daemon, value=value)
        await change(daemon, status="ACTIVE")
        (feature,) = (await ask(daemon, "GET", f"{CLIENT}/plans"))["items"][1]["features"]
        assert feature["pricingType"] == kind
        if kind == "usage_based":
            assert rule["value"]["pricing"]["price_per_unit"] == Decimal("0.2")

    @pytest.mark.parametrize(
        ("rule", "field"),
        [
            ({"value": {"pricing": {"model": "magic"}}}, "value.pricing.model"),
            ({"value": {"pricing": {"model": "usage", "price_per_unit": 1}}}, "value.pricing"),
            (
                {"value": {"pricing": {"model": "usage", "usage_unit_type": "x", "price_per_unit": -1}}},
                "value.pricing.price_per_unit",
            ),
            (
                {"value": {"pricing": {"model": "graduated", "usage_unit_type": "x", "tiers": []}}},
                "value.pricing.tiers",
            ),
            ({"value": {**USAGE, "cost": {"model": "simple", "cost_unit": "SHELLS"}}}, "value.cost.cost_unit"),
            ({"value": {"model": "usage", "flavour": "sweet"}}, "value.flavour"),
            ({"value": {"pricing": {}, "flavour": "sweet"}}, "value.flavour"),
            ({"value": {"pricing": 5}}, "value.pricing"),
            ({"value": 5}, "value"),
            ({"meter": "nothing"}, "meter"),
            ({"creditModelId": "nothing"}, "creditModelId"),
            ({"creditModelId": "tokens", "unitsPerCredit": 0}, "unitsPerCredit"),
            ({"isEnabled": False}, "isEnabled"),
            ({"lateEvents": "burn"}, "lateEvents"),
            ({"type": "ADDON"}, "type"),
            ({"featureKey": None}, "featureId"),
        ],
    )
    async def test_terms_that_cannot_be_are_refused(self, daemon: Running, rule: Any, field: str) -> None:
        """400 that names the field as it was sent."""
        await make(daemon)
        message = await link(daemon, expect=400, **rule)
        assert message.startswith(f"Validation failed: {field}")

    async def test_a_feature_is_linked_once_changed_and_unlinked(self, daemon: Running) -> None:
        """Again is 409, what is not linked 404; an ACTIVE plan keeps at least one."""
        await make(daemon)
        await ask(
            daemon, "PATCH", f"{ADMIN}/rules/plan-features", {"planId": "gold", "featureKey": "api"}, expect=404
        )
        await link(daemon)
        await link(daemon, expect=409)
        await link(daemon, feature="nothing", expect=404)
        await link(daemon, plan="nothing", expect=404)
        changed = await ask(
            daemon,
            "PATCH",
            f"{ADMIN}/rules/plan-features",
            {"planId": "gold", "featureKey": "api", "value": None, "meter": "calls", "lateEvents": "reopen"},
        )
        assert (changed["meter"], changed["lateEvents"], "value" in changed) == ("calls", "reopen", False)
        await change(daemon, status="ACTIVE")
        await ask(daemon, "DELETE", f"{ADMIN}/rules/plan-features/gold/api", expect=400)
        await link(daemon, feature="chat")
        await ask(daemon, "DELETE", f"{ADMIN}/rules/plan-features/gold/api")
        await ask(daemon, "DELETE", f"{ADMIN}/rules/plan-features/gold/api", expect=404)
        rules = (await ask(daemon, "GET", f"{ADMIN}/plans/gold/features"))["rules"]
        assert [each["featureKey"] for each in rules] == ["chat"]

    async def test_a_list_of_features_adds_and_removes(self, daemon: Running) -> None:
        """What was linked keeps its terms unless others are sent; the answer says what came and went."""
        await make(daemon)
        await link(daemon)
        await link(daemon, feature="chat")
        seats = await ask(daemon, "POST", f"{ADMIN}/features", {"key": "seats", "name": "Seats"}, expect=201)
        body = {"features": [{"featureKey": "api"}, {"featureId": seats["id"], "value": USAGE}]}
        done = await ask(daemon, "PATCH", f"{ADMIN}/rules/plan-features/diff/gold", body)
        assert [each["key"] for each in done["addedFeatures"]] == ["seats"]
        assert [each["key"] for each in done["removedFeatures"]] == ["chat"]
        kept = await ask(daemon, "GET", f"{ADMIN}/rules/plan-features/gold/api")
        assert kept["value"]["pricing"]["max_usage"] == 1000
        wrong = {
            "features": [{"featureKey": "api"}, {"featureKey": "seats", "value": {"pricing": {"model": "?"}}}]
        }
        message = await ask(daemon, "PATCH", f"{ADMIN}/rules/plan-features/diff/gold", wrong, expect=400)
        assert message.startswith("Validation failed: features[1].value.pricing.model")


class TestCredits:
    """What plans include (CONTRACTS 1.7)."""

    async def test_credits_come_with_a_plan_that_includes_them(self, daemon: Running) -> None:
        """Included, changed, and no more: each subscriber has what its version says."""
        await activate(daemon)
        path = f"{ADMIN}/credits/models/tokens/plans/gold"
        told = await ask(daemon, "POST", path, creditAmount=50, grantExpiresMonths=3)
        assert (told["creditAmount"], told["grantExpiresMonths"], told["hardLimit"]) == (50, 3, True)
        await subscribe(daemon, "gold")
        await ask(daemon, "POST", path, creditAmount="70.5")
        await subscribe(daemon, "gold", "zoe")
        for reference, amount in (("acme", 50), ("zoe", Decimal("70.5"))):
            (pool,) = (await ask(daemon, "GET", f"{CLIENT}/credits/{reference}/pools"))["items"]
            assert pool["balance"] == amount
        await ask(daemon, "DELETE", path)
        await ask(daemon, "DELETE", path, expect=404)
        assert (await ask(daemon, "GET", f"{ADMIN}/plans/gold"))["creditAllocations"] == []

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ({}, "creditAmount"),
            ({"creditAmount": "x"}, "creditAmount"),
            ({"creditAmount": 0}, "creditAmount"),
            ({"creditAmount": 1, "grantExpiresMonths": 0}, "grantExpiresMonths"),
            ({"creditAmount": 1, "hardLimit": "false"}, "hardLimit"),
        ],
    )
    async def test_an_allocation_that_cannot_be_is_refused(self, daemon: Running, query: Any, field: str) -> None:
        """400 that names the parameter."""
        await make(daemon)
        path = f"{ADMIN}/credits/models/tokens/plans/gold"
        assert field in await ask(daemon, "POST", path, expect=400, **query)


class TestFeatures:
    """POST, PATCH and DELETE /features."""

    async def test_a_feature_is_made_renamed_and_forgotten(self, daemon: Running) -> None:
        """By key or id; null takes a text back; one that a plan has stays."""
        made = await ask(daemon, "POST", f"{ADMIN}/features", {"key": "seats", "name": "Seats"}, expect=201)
        await ask(daemon, "POST", f"{ADMIN}/features", {"key": "seats"}, expect=409)
        changed = await ask(daemon, "PATCH", f"{ADMIN}/features/{made['id']}", {"description": "Who sits"})
        assert (changed["name"], changed["description"]) == ("Seats", "Who sits")
        plain = await ask(daemon, "PATCH", f"{ADMIN}/features/seats", {"name": None, "description": None})
        assert (plain["name"], "description" in plain) == ("seats", False)
        await make(daemon)
        await link(daemon, feature="seats")
        assert "gold" in await ask(daemon, "DELETE", f"{ADMIN}/features/seats", expect=409)
        await ask(daemon, "DELETE", f"{ADMIN}/rules/plan-features/gold/seats")
        await ask(daemon, "DELETE", f"{ADMIN}/features/seats")
        await ask(daemon, "GET", f"{CLIENT}/features/seats", expect=404)
        assert "key" in await ask(daemon, "POST", f"{ADMIN}/features", {"name": "x"}, expect=400)


class TestLasting:
    """Restarts and catalog reloads."""

    async def test_a_plan_survives_restarts_and_reloads(self, tmp_path: Path) -> None:
        """With its rules, its credits and where it stands; a draft with what it still lacks."""
        async with running(tmp_path, catalog=CATALOG) as daemon:
            await activate(daemon)
            await ask(daemon, "POST", f"{ADMIN}/credits/models/tokens/plans/gold", creditAmount=5)
            await make(daemon, key="wip", priceAmount=None)
            await ask(daemon, "POST", f"{ADMIN}/features", {"key": "seats", "description": "Who sits"}, expect=201)
            await daemon.core.reload_catalog()
            before = await ask(daemon, "GET", f"{ADMIN}/plans")
            rule = await ask(daemon, "GET", f"{ADMIN}/rules/plan-features/gold/api")
        async with running(tmp_path, catalog=CATALOG) as daemon:
            assert await ask(daemon, "GET", f"{ADMIN}/plans") == before
            assert await ask(daemon, "GET", f"{ADMIN}/rules/plan-features/gold/api") == rule
            assert (await ask(daemon, "GET", f"{ADMIN}/features/seats"))["description"] == "Who sits"
            await subscribe(daemon, "gold")
            assert "priceAmount" not in await ask(daemon, "GET", f"{ADMIN}/plans/wip")
            assert (await change(daemon, name="Gilded"))["version"] == 5
            await ask(daemon, "DELETE", f"{ADMIN}/plans/wip")
        async with running(tmp_path, catalog=CATALOG) as daemon:
            await ask(daemon, "GET", f"{ADMIN}/plans/wip", expect=404)

    async def test_the_file_takes_over_a_plan_whose_key_is_written_there(self, tmp_path: Path) -> None:
        """From then on it is the file's; subscribers stay on the version they have, and it bills."""
        async with running(tmp_path, catalog=CATALOG) as daemon:
            await activate(daemon)
            made = await subscribe(daemon, "gold")
        mine = '[[plans]]\nkey = "gold"\nname = "Gold"\nprice_amount = 99\n[[plans.features]]\nfeature = "api"\n'
        async with running(tmp_path, catalog=CATALOG + mine) as daemon:
            plan = await ask(daemon, "GET", f"{ADMIN}/plans/gold")
            assert (plan["source"], plan["priceAmount"], plan["status"]) == ("catalog", 99, "ACTIVE")
            await change(daemon, name="Mine", expect=409)
            daemon.clock.move(31 * DAY_US)
            (_, first) = (await ask(daemon, "GET", f"{CLIENT}/billing/invoices/acme"))["items"]
            assert (first["amount"], made["subscription"]["plan"]["version"]) == (20, 3)

    async def test_the_file_takes_over_a_plan_that_says_the_same(self, tmp_path: Path) -> None:
        """Nothing of it changes but whose it is."""
        async with running(tmp_path, catalog=CATALOG) as daemon:
            before = await activate(daemon)
        mine = """
[[plans]]
key = "gold"
name = "Gold"
description = "All that glitters"
price_amount = 20
billing_timing = "IN_ARREARS"
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = 0.05, max_usage = 1000 }
"""
        async with running(tmp_path, catalog=CATALOG + mine) as daemon:
            after = await ask(daemon, "GET", f"{ADMIN}/plans/gold")
            assert {name for name in before if before[name] != after[name]} == {"source", "version"}
            assert await listed(daemon) == ["filed", "gold"]

    async def test_a_plan_that_left_the_file_is_gone_from_the_list(self, tmp_path: Path) -> None:
        """Its key is not free all the same: its subscribers are still on it."""
        async with running(tmp_path, catalog=CATALOG) as daemon:
            await subscribe(daemon, "filed")
        without = CATALOG.replace('key = "filed"', 'key = "other"')
        async with running(tmp_path, catalog=without) as daemon:
            assert await listed(daemon) == ["other"]
            await ask(daemon, "POST", f"{ADMIN}/plans", {**WHOLE, "key": "filed"}, expect=409)
