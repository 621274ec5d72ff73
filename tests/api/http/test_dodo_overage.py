"""Usage paid for with credits, and beyond them, as Dodo's clients see it (CONTRACTS 2.5, 2.6, F10, F11)."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import dodopayments
import httpx
import pytest
import trio
from dodopayments.types.subscription_retrieve_credit_usage_response import Item

from harness import Running, running
from tallyd.api import crediting
from tallyd.api.http.dodo_customers import find_customer
from tallyd.model.moments import DAY_US

Body = dict[str, Any]

PLAN = """
[[features]]
key = "tokens"

[[plans]]
key = "prepaid"
name = "Prepaid"
%s

[[plans.features]]
feature = "tokens"
pricing = { model = "included" }
units_per_credit = %s
"""
INCLUDED = 'credits = [{ credit_model = "tok", amount = 100 }]'
MODEL = """
[[credit_models]]
key = "tok"
name = "Prompts"
denomination = "PROMPTS"
precision = 4
overage = { limit = 10, behavior = "%s", price_per_unit = "0.02", currency = "USD" }
"""


def catalog(behavior: str) -> str:
    """Return a catalog whose plan includes 100 credits and allows 10 of overage."""
    return MODEL % behavior + PLAN % (INCLUDED, 1)


async def pays(daemon: Running, **features: str) -> str:
    """Put a customer on a plan whose features are paid for by entitlements made here; return the subscription."""
    lines = [f'[[features]]\nkey = "{feature}"' for feature in features]
    lines.append('[[plans]]\nkey = "prepaid"\nname = "Prepaid"')
    for feature, entitlement in features.items():
        name, _, units = entitlement.partition("/")
        lines.append(f'[[plans.features]]\nfeature = "{feature}"\npricing = {{ model = "included" }}')
        lines.append(f'credit_model = "{name}"\nunits_per_credit = {units or 1}')
    path = daemon.core.config.catalog
    assert path is not None
    await trio.Path(path).write_text("\n".join(lines), encoding="utf-8")
    await daemon.core.reload_catalog()
    return await daemon.subscribe("ann", "prepaid")


async def use(daemon: Running, units: str, key: str = "k", feature: str = "tokens") -> httpx.Response:
    """Record usage."""
    body = {"eventName": "prompt", "customerReferenceId": "ann", "featureKey": feature, "usageUnits": units}
    return await daemon.http.post("/api/v1/client/events", json={**body, "eventIdempotencyKey": key})


async def usage_of(daemon: Running, subscription: str) -> Item:
    """Return the one item of a subscription's credit usage."""
    answer = await daemon.dodo.subscriptions.retrieve_credit_usage(subscription)
    assert answer.subscription_id == subscription
    (item,) = answer.items
    return item


async def ledger(daemon: Running, name: str) -> list[tuple[str, str, str, str]]:
    """Return (type, amount, balance, overage) of the ledger's rows, newest first."""
    rows = (await daemon.dodo.credit_entitlements.balances.list_ledger("ann", credit_entitlement_id=name)).items
    return [(row.transaction_type, row.amount, row.balance_after, row.overage_after) for row in rows]


class TestOverage:
    """Drawing beyond the balance (F10)."""

    async def test_up_to_the_limit(self, tmp_path: Path) -> None:
        """Beyond the balance overage counts up to its limit; there it is reached, and usage is refused."""
        async with running(tmp_path, catalog=catalog("forgive_at_reset")) as daemon:
            subscription = await daemon.subscribe("ann", "prepaid")
            fresh = await usage_of(daemon, subscription)
            assert (fresh.balance, fresh.overage, fresh.overage_enabled) == ("100", "0", True)
            assert (fresh.overage_limit, fresh.remaining_headroom, fresh.limit_reached) == ("10", "10", False)
            assert (fresh.credit_entitlement_name, fresh.unit) == ("Prompts", "PROMPTS")
            assert (await use(daemon, "104", "a")).status_code == 201
            over = await usage_of(daemon, subscription)
            assert (over.balance, over.overage, over.remaining_headroom) == ("0", "4", "6")
            assert (await use(daemon, "6.0001", "b")).json()["error"]["code"] == "insufficient_credits"
            assert (await use(daemon, "6", "b")).status_code == 201
            full = await usage_of(daemon, subscription)
            assert (full.overage, full.remaining_headroom, full.limit_reached) == ("10", "0", True)
            assert (await use(daemon, "0.0001", "c")).status_code == 409
            rows = await ledger(daemon, full.credit_entitlement_id)
            assert rows[:2] == [("credit_deducted", "6", "0", "10"), ("credit_deducted", "104", "0", "4")]

    @pytest.mark.parametrize(
        ("behavior", "rows", "balance", "overage"),
        [
            ("forgive_at_reset", [("overage_reset", "5", "0", "0")], "100", "0"),
            ("invoice_at_billing", [("overage_charged", "5", "0", "0")], "100", "0"),
            ("carry_deficit", [], "100", "5"),
            ("carry_deficit_auto_repay", [("overage_reset", "5", "95", "0")], "95", "0"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    async def test_at_the_period_end(
        self, tmp_path: Path, behavior: str, rows: list[tuple[str, str, str, str]], balance: str, overage: str
    ) -> None:
        """When the period ends, overage is forgiven, charged, kept, or kept and repaid by the new credits."""
        async with running(tmp_path, catalog=catalog(behavior)) as daemon:
            subscription = await daemon.subscribe("ann", "prepaid")
            assert (await use(daemon, "105")).status_code == 201
            daemon.clock.move(30 * DAY_US)
            item = await usage_of(daemon, subscription)
            assert (item.balance, item.overage) == (balance, overage)
            written = await ledger(daemon, item.credit_entitlement_id)
            later = [row for row in written if row[0] != "credit_added"][: len(rows)]
            assert later == rows
            assert len(written) == 3 + len(rows)  # two periods' credits and one event's

    async def test_over_the_api(self, tmp_path: Path) -> None:
        """Credits of an entitlement made here pay for features that name it; a period's end resets overage."""
        async with running(tmp_path, catalog="") as daemon:
            made = await daemon.dodo.credit_entitlements.create(
                name="Prompts",
                unit="prompts",
                precision=2,
                rollover_enabled=False,
                overage_enabled=True,
                overage_limit=3,
                price_per_unit="0.02",
                currency="USD",
            )
            subscription = await pays(daemon, tokens=made.id)
            entry = await daemon.dodo.credit_entitlements.balances.create_ledger_entry(
                "ann", credit_entitlement_id=made.id, entry_type="credit", amount="10"
            )
            assert entry.balance_after == "10"
            assert (await use(daemon, "14", "a")).status_code == 409
            assert (await use(daemon, "13", "a")).status_code == 201
            item = await usage_of(daemon, subscription)
            assert (item.overage, item.limit_reached, item.remaining_headroom) == ("3", True, "0")
            ref, account = await find_customer(daemon.core, "ann")
            assert account.credits is not None
            (pool,) = account.credits.pools
            await crediting.link(daemon.core, ref, pool, subscription, priority=0, draw_limit=None)
            daemon.clock.move(30 * DAY_US)
            assert (await usage_of(daemon, subscription)).overage == "0"
            assert (await ledger(daemon, made.id))[0] == ("overage_reset", "3", "0", "0")

    async def test_new_credits_repay(self, tmp_path: Path) -> None:
        """A credit that repays overage at once answers with what is left of both."""
        async with running(tmp_path, catalog=catalog("carry_deficit_auto_repay")) as daemon:
            subscription = await daemon.subscribe("ann", "prepaid")
            assert (await use(daemon, "105")).status_code == 201
            name = (await usage_of(daemon, subscription)).credit_entitlement_id
            entry = await daemon.dodo.credit_entitlements.balances.create_ledger_entry(
                "ann", credit_entitlement_id=name, entry_type="credit", amount="7"
            )
            assert (entry.amount, entry.balance_before, entry.balance_after) == ("7", "0", "2")
            assert (entry.overage_before, entry.overage_after) == ("5", "0")

    async def test_without_overage_or_limit(self, tmp_path: Path) -> None:
        """Where overage is off, or without a limit, there is no headroom to tell and no limit to reach."""
        async with running(tmp_path, catalog="") as daemon:
            rules: Body = {"unit": "u", "precision": 0, "rollover_enabled": False}
            off = await daemon.dodo.credit_entitlements.create(name="Off", overage_enabled=False, **rules)
            unlimited = await daemon.dodo.credit_entitlements.create(
                name="Unlimited", overage_enabled=True, price_per_unit="1", currency="USD", **rules
            )
            subscription = await pays(daemon, few=off.id, many=unlimited.id)
            for made in (off, unlimited):
                await daemon.dodo.credit_entitlements.balances.create_ledger_entry(
                    "ann", credit_entitlement_id=made.id, entry_type="credit", amount="1"
                )
            assert (await use(daemon, "1", "a", "few")).status_code == 201
            assert (await use(daemon, "1", "b", "few")).status_code == 409
            assert (await use(daemon, "999", "c", "many")).status_code == 201
            items = (await daemon.dodo.subscriptions.retrieve_credit_usage(subscription)).items
            seen = [(item.overage_enabled, item.overage, item.overage_limit, item.limit_reached) for item in items]
            assert seen == [(False, "0", None, False), (True, "998", None, False)]
            assert [item.remaining_headroom for item in items] == [None, None]

    async def test_a_feature_that_names_no_entitlement(self, tmp_path: Path) -> None:
        """Credits made here pay for no feature that does not name them: its usage is the plan's affair."""
        async with running(tmp_path, catalog=PLAN % ("", 1)) as daemon:
            await daemon.subscribe("ann", "prepaid")
            made = await daemon.dodo.credit_entitlements.create(
                name="Off", unit="u", precision=0, rollover_enabled=False, overage_enabled=False
            )
            await daemon.dodo.credit_entitlements.balances.create_ledger_entry(
                "ann", credit_entitlement_id=made.id, entry_type="credit", amount="1"
            )
            assert (await use(daemon, "5")).status_code == 201
            assert await ledger(daemon, made.id) == [("credit_added", "1", "1", "0")]

    async def test_unknown_subscription(self, daemon: Running) -> None:
        """The credit usage of no subscription is 404, in Dodo's shape."""
        with pytest.raises(dodopayments.NotFoundError, match="NOT_FOUND"):
            await daemon.dodo.subscriptions.retrieve_credit_usage("sub_none")

    async def test_nothing_to_pay_with(self, daemon: Running) -> None:
        """A subscription whose customer has no credits lists none, wallets not being credits."""
        subscription = await daemon.subscribe("ann")
        await daemon.dodo.customers.wallets.ledger_entries.create(
            "ann", amount=100, currency="USD", entry_type="credit"
        )
        assert (await daemon.dodo.subscriptions.retrieve_credit_usage(subscription)).items == []


class TestMetered:
    """Usage in units, credits in thousands of them (F11)."""

    @pytest.mark.parametrize("made_here", [True, False], ids=["api", "catalog"])
    async def test_units_per_credit(self, tmp_path: Path, *, made_here: bool) -> None:
        """At 1,000 tokens a credit, 1,500 tokens are 1.5 credits, and the ledger names the event."""
        text = "" if made_here else MODEL % "carry_deficit" + PLAN % (INCLUDED, 1000)
        async with running(tmp_path, catalog=text) as daemon:
            if made_here:
                name = (
                    await daemon.dodo.credit_entitlements.create(
                        name="Credits", unit="credits", precision=2, rollover_enabled=False, overage_enabled=False
                    )
                ).id
                subscription = await pays(daemon, tokens=f"{name}/1000")
                await daemon.dodo.credit_entitlements.balances.create_ledger_entry(
                    "ann", credit_entitlement_id=name, entry_type="credit", amount="100"
                )
            else:
                subscription = await daemon.subscribe("ann", "prepaid")
                name = (await usage_of(daemon, subscription)).credit_entitlement_id
            assert (await use(daemon, "1500", "prompt-1")).status_code == 201
            balances = daemon.dodo.credit_entitlements.balances
            row = (await balances.list_ledger("ann", credit_entitlement_id=name)).items[0]
            assert (row.transaction_type, row.amount, row.balance_after) == ("credit_deducted", "1.5", "98.5")
            assert (row.reference_type, row.reference_id) == ("usage_event", "prompt-1")
            assert (await usage_of(daemon, subscription)).balance == "98.5"

    async def test_a_reversal_is_a_refund(self, tmp_path: Path) -> None:
        """A deduction that is reversed gives back what it took, overage included."""
        async with running(tmp_path, catalog=catalog("carry_deficit")) as daemon:
            subscription = await daemon.subscribe("ann", "prepaid")
            await use(daemon, "105")
            name = (await usage_of(daemon, subscription)).credit_entitlement_id
            balances = daemon.dodo.credit_entitlements.balances
            drawn = (await balances.list_ledger("ann", credit_entitlement_id=name)).items[0]
            await crediting.reverse(daemon.core, drawn.id, description="Outage")
            row = (await balances.list_ledger("ann", credit_entitlement_id=name)).items[0]
            assert (row.transaction_type, row.amount, row.is_credit) == ("refund", "105", True)
            assert (row.reference_type, row.reference_id, row.description) == ("ledger_entry", drawn.id, "Outage")
            assert Decimal(row.balance_after) - Decimal(row.overage_after) == 100
