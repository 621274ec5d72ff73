"""Dodo's wallets, against a running daemon (CONTRACTS 2.7, F12)."""

from collections import Counter
from pathlib import Path
from typing import Any

import dodopayments
import pytest
import trio

from harness import NOW, Running, running
from tallyd.model.moments import SECOND_US, iso

Body = dict[str, Any]


async def customer(daemon: Running) -> str:
    """Make a customer; return its id."""
    return (await daemon.dodo.customers.create(name="Ann", email="ann@example.com")).customer_id


async def move(daemon: Running, ref: str, kind: Any, amount: int, currency: Any = "USD", **fields: Any) -> int:
    """Credit or debit a wallet; return what it has then."""
    wallets = daemon.dodo.customers.wallets
    wallet = await wallets.ledger_entries.create(ref, entry_type=kind, amount=amount, currency=currency, **fields)
    assert wallet.currency == currency
    return wallet.balance


class TestEntries:
    """POST /customers/{id}/wallets/ledger-entries (F12)."""

    async def test_credit_and_debit(self, daemon: Running) -> None:
        """A credit opens the wallet and a debit takes from it; both answer with the wallet, in minor units."""
        ref = await customer(daemon)
        assert await move(daemon, ref, "credit", 1_050) == 1_050
        assert await move(daemon, ref, "debit", 51) == 999
        assert await move(daemon, ref, "debit", 999) == 0

    async def test_a_debit_beyond_the_balance(self, daemon: Running) -> None:
        """More than there is, or from a wallet that is not there: 400 INSUFFICIENT_WALLET_FUNDS, nothing moves."""
        ref = await customer(daemon)
        with pytest.raises(dodopayments.BadRequestError, match="INSUFFICIENT_WALLET_FUNDS"):
            await move(daemon, ref, "debit", 1)
        await move(daemon, ref, "credit", 100)
        for amount, currency in ((101, "USD"), (1, "EUR")):
            with pytest.raises(dodopayments.BadRequestError, match="INSUFFICIENT_WALLET_FUNDS"):
                await move(daemon, ref, "debit", amount, currency)
        (wallet,) = (await daemon.dodo.customers.wallets.list(ref)).items
        assert wallet.balance == 100

    async def test_debits_at_once_never_overdraw(self, daemon: Running) -> None:
        """Of twenty debits of 10 from 100 sent at once, ten succeed."""
        ref = await customer(daemon)
        await move(daemon, ref, "credit", 100)
        outcomes: Counter[str] = Counter()

        async def send() -> None:
            try:
                await move(daemon, ref, "debit", 10)
            except dodopayments.BadRequestError:
                outcomes["refused"] += 1
            else:
                outcomes["done"] += 1

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(send)
        assert outcomes == {"done": 10, "refused": 10}
        (wallet,) = (await daemon.dodo.customers.wallets.list(ref)).items
        assert wallet.balance == 0

    async def test_a_key_counts_once(self, daemon: Running) -> None:
        """The same idempotency key again is 409, not to be retried; a credit entitlement's keys are others."""
        ref = await customer(daemon)
        made = await daemon.dodo.credit_entitlements.create(
            name="Tokens", unit="tokens", precision=0, rollover_enabled=False, overage_enabled=False
        )
        await daemon.dodo.credit_entitlements.balances.create_ledger_entry(
            ref, credit_entitlement_id=made.id, entry_type="credit", amount="1", idempotency_key="k"
        )
        assert await move(daemon, ref, "credit", 100, idempotency_key="k") == 100
        body = {"entry_type": "credit", "amount": 100, "currency": "USD", "idempotency_key": "k"}
        again = await daemon.http.post(f"/customers/{ref}/wallets/ledger-entries", json=body)
        assert (again.status_code, again.headers["x-should-retry"]) == (409, "false")
        (wallet,) = (await daemon.dodo.customers.wallets.list(ref)).items
        assert wallet.balance == 100

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"amount": 0}, "amount"),
            ({"amount": -1}, "amount"),
            ({"amount": "100"}, "amount"),
            ({"amount": 1.5}, "amount"),
            ({"amount": 10**16}, "amount"),
            ({"currency": "usd"}, "currency"),
            ({"currency": None}, "currency"),
            ({"entry_type": "gift"}, "entry_type"),
            ({"reason": ""}, "reason"),
            ({"idempotency_key": "x" * 249}, "idempotency_key"),
        ],
        ids=str,
    )
    async def test_bad_bodies(self, daemon: Running, fields: Body, field: str) -> None:
        """A field that cannot be used is 422 and named; no wallet is opened."""
        ref = await customer(daemon)
        body = {"entry_type": "credit", "amount": 1, "currency": "USD", **fields}
        reply = await daemon.http.post(f"/customers/{ref}/wallets/ledger-entries", json=body)
        assert (reply.status_code, reply.json()["code"]) == (422, "INVALID_REQUEST_BODY")
        assert reply.json()["message"].startswith(f"{field}: ")
        assert (await daemon.dodo.customers.wallets.list(ref)).items == []

    async def test_unknown_customer(self, daemon: Running) -> None:
        """Nobody has no wallet: 404, and does not come to be."""
        with pytest.raises(dodopayments.NotFoundError):
            await move(daemon, "cus_none", "credit", 1)
        with pytest.raises(dodopayments.NotFoundError):
            await daemon.dodo.customers.wallets.list("cus_none")
        with pytest.raises(dodopayments.NotFoundError):
            await daemon.dodo.customers.retrieve("cus_none")


class TestReading:
    """GET /customers/{id}/wallets and their ledger."""

    async def test_one_a_currency(self, daemon: Running) -> None:
        """Each currency has a wallet, in its own minor units; the total is that of dollars."""
        ref = await customer(daemon)
        for amount, currency in ((1_050, "USD"), (700, "JPY"), (1_234, "BHD"), (99, "EUR")):
            assert await move(daemon, ref, "credit", amount, currency) == amount
        wallets = await daemon.dodo.customers.wallets.list(ref)
        found = [(each.currency, each.balance) for each in wallets.items]
        assert found == [("USD", 1_050), ("JPY", 700), ("BHD", 1_234), ("EUR", 99)]
        assert wallets.total_balance_usd == 1_050
        assert (await daemon.dodo.credit_entitlements.list()).items == []

    async def test_the_ledger(self, daemon: Running) -> None:
        """Rows of all wallets are listed newest first, by page, or those of one currency."""
        ref = await customer(daemon)
        await move(daemon, ref, "credit", 1_000, reason="Refund of March")
        await move(daemon, ref, "credit", 500, "EUR")
        daemon.clock.move(SECOND_US)
        await move(daemon, ref, "debit", 300)
        ledger = daemon.dodo.customers.wallets.ledger_entries
        rows = (await ledger.list(ref)).items
        seen = [(row.currency, row.amount, row.before_balance, row.after_balance, row.is_credit) for row in rows]
        assert seen == [
            ("USD", 300, 1_000, 700, False),
            ("EUR", 500, 0, 500, True),
            ("USD", 1_000, 0, 1_000, True),
        ]
        assert rows[2].to_dict(mode="json", exclude_none=True) == {
            "id": rows[2].id,
            "business_id": "tallyd",
            "customer_id": ref,
            "currency": "USD",
            "amount": 1_000,
            "is_credit": True,
            "before_balance": 0,
            "after_balance": 1_000,
            "event_type": "merchant_adjustment",
            "reason": "Refund of March",
            "created_at": iso(NOW),
        }
        assert [row.amount for row in (await ledger.list(ref, currency="USD")).items] == [300, 1_000]
        assert [row.amount for row in (await ledger.list(ref, page_size=2, page_number=1)).items] == [1_000]
        assert (await ledger.list(ref, page_number=7)).items == []
        assert (await ledger.list(ref, currency="CHF")).items == []

    @pytest.mark.parametrize("query", [{"page_size": 101}, {"currency": "dollars"}], ids=str)
    async def test_bad_queries(self, daemon: Running, query: Body) -> None:
        """Pages of 101 and currencies that are none are 422."""
        ref = await customer(daemon)
        reply = await daemon.http.get(f"/customers/{ref}/wallets/ledger-entries", params=query)
        assert (reply.status_code, reply.json()["code"]) == (422, "INVALID_QUERY_PARAMS")

    async def test_kept_over_a_restart(self, tmp_path: Path) -> None:
        """Wallets are there after a restart."""
        async with running(tmp_path) as daemon:
            ref = await customer(daemon)
            await move(daemon, ref, "credit", 1_050)
        async with running(tmp_path) as daemon:
            assert await move(daemon, ref, "debit", 50) == 1_000


class TestUsage:
    """Wallets and usage."""

    async def test_usage_draws_nothing(self, daemon: Running) -> None:
        """A wallet pays for no usage: it is billed by the plan, and the wallet stays as it is."""
        await daemon.subscribe("ann")
        await move(daemon, "ann", "credit", 1_000)
        body = {
            "eventName": "api_call",
            "customerReferenceId": "ann",
            "featureKey": "api_request",
            "usageUnits": 5,
        }
        reply = await daemon.http.post("/api/v1/client/events", json=body)
        assert reply.status_code == 201, reply.text
        (wallet,) = (await daemon.dodo.customers.wallets.list("ann")).items
        assert wallet.balance == 1_000
