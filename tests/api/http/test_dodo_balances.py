"""Balances, grants and the ledger of Dodo's credit entitlements, against a running daemon (CONTRACTS 2.6, F9)."""

from collections import Counter
from pathlib import Path
from typing import Any

import dodopayments
import httpx
import pytest
import trio

from harness import CATALOG, NOW, Running, running
from tallyd.model.moments import DAY_US, HOUR_US, SECOND_US, iso

Body = dict[str, Any]

ROLLOVER = (
    CATALOG
    + """
[[credit_models]]
key = "tok"
name = "Tokens"
denomination = "TOKENS"
features = ["api_request"]
precision = 2
rollover = { policy = "PERCENTAGE", percentage = 75 }

[[plans]]
key = "prepaid"
name = "Prepaid"
credits = [{ credit_model = "tok", amount = 200 }]

[[plans.features]]
feature = "api_request"
pricing = { model = "included" }
credit_model = "tok"
"""
)


async def customer(daemon: Running, name: str = "Ann") -> str:
    """Make a customer; return its id."""
    return (await daemon.dodo.customers.create(name=name, email=f"{name.lower()}@example.com")).customer_id


async def entitlement(daemon: Running, **fields: Any) -> str:
    """Make a credit entitlement; return its id."""
    rules: Body = {"name": "Tokens", "unit": "tokens", "precision": 4, "rollover_enabled": False, **fields}
    return (await daemon.dodo.credit_entitlements.create(**{"overage_enabled": False, **rules})).id


async def enter(daemon: Running, name: str, ref: str, kind: str, amount: str, **fields: Any) -> httpx.Response:
    """Credit or debit."""
    path = f"/credit-entitlements/{name}/balances/{ref}/ledger-entries"
    return await daemon.http.post(path, json={"entry_type": kind, "amount": amount, **fields})


async def give(daemon: Running, name: str, ref: str, *amounts: str) -> None:
    """Credit, once an amount, a second apart."""
    for amount in amounts:
        daemon.clock.move(SECOND_US)
        reply = await enter(daemon, name, ref, "credit", amount)
        assert reply.status_code == 201, reply.text


async def items(daemon: Running, path: str, **query: Any) -> list[Body]:
    """Return a page."""
    reply = await daemon.http.get(path, params=query)
    assert reply.status_code == 200, reply.text
    found: list[Body] = reply.json()["items"]
    return found


class TestEntries:
    """POST …/ledger-entries (F9)."""

    async def test_a_credit_makes_a_grant(self, daemon: Running) -> None:
        """A credit is 201 with the entry, opens the balance, and is a grant of its own."""
        name, ref = await entitlement(daemon), await customer(daemon)
        balances, until = daemon.dodo.credit_entitlements.balances, iso(NOW + DAY_US)
        made = await balances.create_ledger_entry(
            ref,
            credit_entitlement_id=name,
            entry_type="credit",
            amount="10.2500",
            reason="Welcome",
            expires_at=until,
            metadata={"campaign": "spring", "share": 2, "first": True},
        )
        assert made.to_dict(mode="json", exclude_none=True) == {
            "id": made.id,
            "customer_id": ref,
            "credit_entitlement_id": name,
            "entry_type": "credit",
            "is_credit": True,
            "amount": "10.25",
            "balance_before": "0",
            "balance_after": "10.25",
            "overage_before": "0",
            "overage_after": "0",
            "grant_id": made.grant_id,
            "reason": "Welcome",
            "metadata": {"campaign": "spring", "share": 2, "first": True},
            "created_at": iso(NOW),
        }
        (grant,) = (await balances.list_grants(ref, credit_entitlement_id=name)).items
        assert (grant.id, grant.initial_amount, grant.remaining_amount) == (made.grant_id, "10.25", "10.25")
        assert (grant.source_type, grant.is_expired, grant.rollover_count) == ("api", False, 0)
        assert grant.to_dict(mode="json")["expires_at"] == until
        assert grant.metadata == {"campaign": "spring", "share": 2, "first": True}
        balance = await balances.retrieve(ref, credit_entitlement_id=name)
        assert (balance.balance, balance.overage, balance.customer_id) == ("10.25", "0", ref)

    async def test_a_debit_takes_the_oldest_first(self, daemon: Running) -> None:
        """A debit of 7 empties the older of two grants of 5, though the newer one expires first."""
        name, ref = await entitlement(daemon), await customer(daemon)
        await give(daemon, name, ref, "5")
        await enter(daemon, name, ref, "credit", "5", expires_at=iso(NOW + DAY_US))
        made = (await enter(daemon, name, ref, "debit", "7")).json()
        assert (made["is_credit"], made["amount"], made["balance_after"]) == (False, "7", "3")
        grants = await items(daemon, f"/credit-entitlements/{name}/balances/{ref}/grants")
        assert [grant["remaining_amount"] for grant in grants] == ["3", "0"]

    async def test_a_debit_beyond_the_balance(self, daemon: Running) -> None:
        """Nobody can take more than there is: 400, nothing moves; without any credits as well."""
        name, ref = await entitlement(daemon), await customer(daemon)
        balances = daemon.dodo.credit_entitlements.balances
        with pytest.raises(dodopayments.BadRequestError, match="INSUFFICIENT_CREDITS"):
            await balances.create_ledger_entry(ref, credit_entitlement_id=name, entry_type="debit", amount="1")
        await give(daemon, name, ref, "5")
        with pytest.raises(dodopayments.BadRequestError, match="INSUFFICIENT_CREDITS"):
            await balances.create_ledger_entry(
                ref, credit_entitlement_id=name, entry_type="debit", amount="5.0001"
            )
        assert (await balances.retrieve(ref, credit_entitlement_id=name)).balance == "5"

    @pytest.mark.parametrize("kind", ["credit", "debit"])
    async def test_a_key_counts_once(self, daemon: Running, kind: str) -> None:
        """The same idempotency key again is 409, not to be retried; the balance has moved once."""
        name, ref = await entitlement(daemon), await customer(daemon)
        await give(daemon, name, ref, "10")
        assert (await enter(daemon, name, ref, kind, "2", idempotency_key="k")).status_code == 201
        again = await enter(daemon, name, ref, kind, "2", idempotency_key="k")
        assert (again.status_code, again.headers["x-should-retry"]) == (409, "false")
        balance = (await daemon.http.get(f"/credit-entitlements/{name}/balances/{ref}")).json()
        assert balance["balance"] == ("12" if kind == "credit" else "8")

    async def test_one_of_many_with_one_key(self, daemon: Running) -> None:
        """Of ten credits with one key sent at once, one is 201 and nine are 409."""
        name, ref = await entitlement(daemon), await customer(daemon)
        statuses: Counter[int] = Counter()

        async def send() -> None:
            statuses[(await enter(daemon, name, ref, "credit", "1", idempotency_key="k")).status_code] += 1

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(send)
        assert statuses == {201: 1, 409: 9}

    async def test_debits_at_once_never_overdraw(self, daemon: Running) -> None:
        """Of twenty debits of 10 from 100 sent at once, ten succeed; the ledger adds up row by row."""
        name, ref = await entitlement(daemon), await customer(daemon)
        await give(daemon, name, ref, "60", "40")
        statuses: Counter[int] = Counter()

        async def send() -> None:
            statuses[(await enter(daemon, name, ref, "debit", "10")).status_code] += 1

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(send)
        assert statuses == {201: 10, 400: 10}
        rows = await items(daemon, f"/credit-entitlements/{name}/balances/{ref}/ledger", page_size=100)
        afters = [row["balance_after"] for row in rows]
        assert afters == [*map(str, range(0, 100, 10)), "100", "60"]
        assert [row["balance_before"] for row in rows] == [*afters[1:], "0"]

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"entry_type": "gift"}, "entry_type"),
            ({"amount": "0"}, "amount"),
            ({"amount": "-1"}, "amount"),
            ({"amount": "many"}, "amount"),
            ({"amount": "10000000000"}, "amount"),
            ({"amount": "0.00001"}, "amount"),
            ({"expires_at": "tomorrow"}, "expires_at"),
            ({"expires_at": iso(NOW)}, "expires_at"),
            ({"entry_type": "debit", "expires_at": iso(NOW + DAY_US)}, "expires_at"),
            ({"idempotency_key": ""}, "idempotency_key"),
            ({"idempotency_key": "x" * 256}, "idempotency_key"),
            ({"reason": ""}, "reason"),
        ],
        ids=str,
    )
    async def test_bad_bodies(self, daemon: Running, fields: Body, field: str) -> None:
        """A field that cannot be used is 422 and named; no balance is opened."""
        name, ref = await entitlement(daemon), await customer(daemon)
        path = f"/credit-entitlements/{name}/balances/{ref}"
        body = {"entry_type": "credit", "amount": "1", **fields}
        reply = await daemon.http.post(f"{path}/ledger-entries", json=body)
        assert (reply.status_code, reply.json()["code"]) == (422, "INVALID_REQUEST_BODY")
        assert reply.json()["message"].startswith(f"{field}: ")
        assert (await daemon.http.get(path)).status_code == 404

    @pytest.mark.parametrize(
        ("metadata", "status"),
        [
            ({f"k{number}": 1 for number in range(50)}, 201),
            ({f"k{number}": 1 for number in range(51)}, 400),
            ({"x" * 40: "v" * 500}, 201),
            ({"x" * 41: "v"}, 400),
            ({"x": "v" * 501}, 400),
            ({"x": {"nested": 1}}, 400),
        ],
        ids=range(6),
    )
    async def test_metadata_limits(self, daemon: Running, metadata: Body, status: int) -> None:
        """At most 50 pairs, keys of 40 characters, values of 500, scalars only."""
        name, ref = await entitlement(daemon), await customer(daemon)
        assert (await enter(daemon, name, ref, "credit", "1", metadata=metadata)).status_code == status

    async def test_unknown(self, daemon: Running) -> None:
        """An unknown entitlement or customer is 404, and does not come to be; nor has a debit's customer."""
        name, ref = await entitlement(daemon), await customer(daemon)
        assert (await enter(daemon, "cde_none", ref, "credit", "1")).status_code == 404
        assert (await enter(daemon, name, "cus_none", "credit", "1")).status_code == 404
        assert (await daemon.http.get("/customers/cus_none")).status_code == 404

    async def test_exact_to_the_last_digit(self, daemon: Running) -> None:
        """Amounts are strings, without a rounding anywhere: ten digits before the point and ten after it."""
        name, ref = await entitlement(daemon, precision=10), await customer(daemon)
        await give(daemon, name, ref, "9999999999.9999999999", "0.0000000001")
        reply = await enter(daemon, name, ref, "debit", "0.3")
        assert reply.json()["balance_before"] == "10000000000"
        assert reply.json()["balance_after"] == "9999999999.7"


class TestReading:
    """GET …/balances, …/grants and …/ledger."""

    async def test_balances_page_by_page(self, daemon: Running) -> None:
        """All balances of an entitlement are listed by customer, and one alone by its customer's id."""
        name, other = await entitlement(daemon), await entitlement(daemon)
        refs = [await customer(daemon, f"c{number}") for number in range(3)]
        for number, ref in enumerate(refs, 1):
            await give(daemon, name, ref, str(number))
        await give(daemon, other, refs[0], "100")
        path = f"/credit-entitlements/{name}/balances"
        assert [each["balance"] for each in await items(daemon, path)] == ["1", "2", "3"]
        assert [each["customer_id"] for each in await items(daemon, path, page_size=2, page_number=1)] == [refs[2]]
        assert await items(daemon, path, page_number=5) == []
        assert [each["balance"] for each in await items(daemon, path, customer_id=refs[1])] == ["2"]
        assert await items(daemon, path, customer_id="cus_none") == []
        assert (await daemon.http.get(path, params={"page_size": 101})).status_code == 422
        assert (await daemon.http.get("/credit-entitlements/cde_none/balances")).status_code == 404

    async def test_grants_by_status(self, daemon: Running) -> None:
        """Grants are active, depleted or expired, newest first; time alone makes one expire."""
        name, ref = await entitlement(daemon, expires_after_days=30), await customer(daemon)
        await give(daemon, name, ref, "1")
        await enter(daemon, name, ref, "credit", "2", expires_at=iso(NOW + DAY_US))
        await give(daemon, name, ref, "3")
        await enter(daemon, name, ref, "debit", "1")
        daemon.clock.move(DAY_US)
        path = f"/credit-entitlements/{name}/balances/{ref}/grants"
        by_status = {
            status: [grant["initial_amount"] for grant in await items(daemon, path, status=status)]
            for status in ("active", "depleted", "expired")
        }
        assert by_status == {"active": ["3"], "depleted": ["1"], "expired": ["2"]}
        assert [grant["is_expired"] for grant in await items(daemon, path)] == [False, True, False]
        assert [grant["initial_amount"] for grant in await items(daemon, path, page_size=1, page_number=1)] == [
            "2"
        ]
        assert (await daemon.http.get(path, params={"status": "gone"})).status_code == 422
        balance = (await daemon.http.get(f"/credit-entitlements/{name}/balances/{ref}")).json()
        assert balance["balance"] == "3"

    async def test_the_ledger_by_type_and_time(self, daemon: Running) -> None:
        """Ledger rows are listed newest first, by type and time; an expiry is dated when it happened."""
        name, ref = await entitlement(daemon), await customer(daemon)
        await enter(daemon, name, ref, "credit", "5", expires_at=iso(NOW + HOUR_US), reason="Trial")
        await enter(daemon, name, ref, "debit", "2")
        daemon.clock.move(DAY_US)
        await give(daemon, name, ref, "7")
        ledger = daemon.dodo.credit_entitlements.balances.list_ledger
        rows = (await ledger(ref, credit_entitlement_id=name)).items
        assert [(row.transaction_type, row.amount, row.is_credit) for row in rows] == [
            ("credit_added", "7", True),
            ("credit_expired", "3", False),
            ("credit_deducted", "2", False),
            ("credit_added", "5", True),
        ]
        assert rows[1].to_dict(mode="json")["created_at"] == iso(NOW + HOUR_US)
        assert (rows[3].description, rows[3].business_id, rows[3].metadata) == ("Trial", "tallyd", {})
        added = (await ledger(ref, credit_entitlement_id=name, transaction_type="credit_added")).items
        assert [row.amount for row in added] == ["7", "5"]
        path = f"/credit-entitlements/{name}/balances/{ref}/ledger"
        window = {"start_date": iso(NOW), "end_date": iso(NOW + HOUR_US)}
        assert [row["amount"] for row in await items(daemon, path, **window)] == ["2", "5"]
        assert [row["amount"] for row in await items(daemon, path, page_size=3, page_number=1)] == ["5"]
        assert await items(daemon, path, transaction_type="refund") == []
        for query in ({"transaction_type": "gift"}, {"start_date": "now"}, {"page_size": 101}):
            assert (await daemon.http.get(path, params=query)).status_code == 422

    async def test_of_a_customer(self, daemon: Running) -> None:
        """A customer's credits are listed across entitlements; wallets are another matter."""
        name, other, ref = await entitlement(daemon, description="d"), await entitlement(daemon), None
        ref = await customer(daemon)
        await give(daemon, name, ref, "5")
        await give(daemon, other, ref, "6")
        body = {"entry_type": "credit", "amount": 100, "currency": "USD"}
        assert (await daemon.http.post(f"/customers/{ref}/wallets/ledger-entries", json=body)).status_code == 200
        found = (await daemon.dodo.customers.list_credit_entitlements(ref)).items
        assert [(each.credit_entitlement_id, each.balance, each.description) for each in found] == [
            (name, "5", "d"),
            (other, "6", None),
        ]
        assert (await daemon.http.get("/customers/cus_none/credit-entitlements")).status_code == 404

    async def test_rollover(self, tmp_path: Path) -> None:
        """Of 200 included credits nobody used, 75 % are carried into the next period: 150, and 50 forfeited."""
        async with running(tmp_path, catalog=ROLLOVER) as daemon:
            subscription = await daemon.subscribe("ann", "prepaid")
            (model,) = (await daemon.dodo.credit_entitlements.list()).items
            daemon.clock.move(30 * DAY_US)
            balances = daemon.dodo.credit_entitlements.balances
            rows = (await balances.list_ledger("ann", credit_entitlement_id=model.id)).items
            assert [(row.transaction_type, row.amount, row.balance_after) for row in rows] == [
                ("credit_added", "200", "350"),
                ("rollover_forfeited", "50", "150"),
                ("credit_rolled_over", "150", "200"),
                ("credit_added", "200", "200"),
            ]
            new, carried, old = (await balances.list_grants("ann", credit_entitlement_id=model.id)).items
            assert (new.source_type, new.source_id, new.remaining_amount) == ("subscription", subscription, "200")
            assert (carried.source_type, carried.remaining_amount, carried.rollover_count) == (
                "rollover",
                "150",
                1,
            )
            assert (carried.parent_grant_id, rows[2].grant_id) == (old.id, carried.id)
            assert (old.is_rolled_over, carried.is_rolled_over, old.remaining_amount) == (True, False, "0")
