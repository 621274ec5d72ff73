"""Dodo's products, against a running daemon (CONTRACTS 2.4)."""

from pathlib import Path
from typing import Any

import dodopayments
import httpx
import pytest
import trio

from harness import NOW, Running, running
from tallyd.api import billing
from tallyd.model.moments import DAY_US, SECOND_US, iso
from tallyd.store.subscription_rows import InvoiceQuery

Body = dict[str, Any]

MONTHLY: Body = {
    "currency": "USD",
    "payment_frequency_count": 1,
    "payment_frequency_interval": "Month",
    "subscription_period_count": 20,
    "subscription_period_interval": "Year",
    "discount": 0,
    "purchasing_power_parity": False,
}
RECURRING: Body = {**MONTHLY, "type": "recurring_price", "price": 4900}
ONCE: Body = {"type": "one_time_price", "currency": "USD", "price": 900}


async def meter(daemon: Running, name: str = "Tokens") -> str:
    """Make a meter that sums tokens; return its id."""
    made = await daemon.dodo.meters.create(
        name=name,
        event_name=name.lower(),
        measurement_unit="tokens",
        aggregation={"type": "sum", "key": "n"},
    )
    return made.id


def usage_based(*meters: Body, **fields: Any) -> Body:
    """Return a price by usage."""
    return {**MONTHLY, "type": "usage_based_price", "fixed_price": 1000, "meters": list(meters), **fields}


async def send(daemon: Running, price: Body, **fields: Any) -> httpx.Response:
    """Ask for a product."""
    return await daemon.http.post(
        "/products", json={"name": "Pro", "tax_category": "saas", "price": price, **fields}
    )


async def make(daemon: Running, price: Body, **fields: Any) -> Body:
    """Make a product; return it as sent."""
    reply = await send(daemon, price, **fields)
    assert reply.status_code == 200, reply.text
    made: Body = reply.json()
    return made


async def listed(daemon: Running, **query: Any) -> list[str]:
    """Return the names of products on a page, the catalog's plan left out."""
    reply = await daemon.http.get("/products", params=query)
    assert reply.status_code == 200, reply.text
    return [item["name"] for item in reply.json()["items"] if item["product_id"] != "pro"]


async def subscribe(daemon: Running, product: str, customer: str = "ann") -> Body:
    """Subscribe a customer, who is known afterwards; return the answer."""
    reply = await daemon.http.post(
        "/subscriptions", json={"customer": {"customer_id": customer}, "product_id": product, "quantity": 1}
    )
    assert reply.status_code == 200, reply.text
    made: Body = reply.json()
    return made


async def ann(daemon: Running) -> str:
    """Make a customer; return its id."""
    return (await daemon.dodo.customers.create(name="Ann", email="ann@example.com")).customer_id


class TestCreate:
    """POST /products."""

    async def test_dodos_own_client_makes_one(self, daemon: Running) -> None:
        """The dodopayments package makes a product priced by usage and reads all of it."""
        name = await meter(daemon)
        made = await daemon.dodo.products.create(
            name="Pro",
            description="All of it",
            tax_category="saas",
            metadata={"tier": "gold", "rank": 1.5},
            price={
                "type": "usage_based_price",
                "currency": "USD",
                "fixed_price": 1000,
                "discount": 10,
                "payment_frequency_count": 1,
                "payment_frequency_interval": "Month",
                "subscription_period_count": 20,
                "subscription_period_interval": "Year",
                "purchasing_power_parity": False,
                "meters": [{"meter_id": name, "price_per_unit": "0.000000000012", "free_threshold": 100}],
            },
        )
        assert made.to_dict(mode="json") == {
            "product_id": made.product_id,
            "brand_id": "tallyd",
            "business_id": "tallyd",
            "name": "Pro",
            "description": "All of it",
            "is_recurring": True,
            "tax_category": "saas",
            "metadata": {"tier": "gold", "rank": 1.5},
            "price": {
                "type": "usage_based_price",
                "currency": "USD",
                "fixed_price": 1000,
                "discount": 10,
                "payment_frequency_count": 1,
                "payment_frequency_interval": "Month",
                "subscription_period_count": 20,
                "subscription_period_interval": "Year",
                "purchasing_power_parity": False,
                "tax_inclusive": False,
                "meters": [
                    {
                        "meter_id": name,
                        "price_per_unit": "0.000000000012",
                        "free_threshold": 100,
                        "name": "Tokens",
                        "measurement_unit": "tokens",
                    }
                ],
            },
            "credit_entitlements": [],
            "entitlements": [],
            "addons": [],
            "license_key_enabled": False,
            "created_at": iso(NOW),
            "updated_at": iso(NOW),
        }
        assert made.product_id.startswith("pdt_")
        assert await daemon.dodo.products.retrieve(made.product_id) == made

    async def test_it_survives_a_restart(self, tmp_path: Path) -> None:
        """A product, its metadata and its version are the same after the daemon has started again."""
        async with running(tmp_path) as daemon:
            price = usage_based({"meter_id": await meter(daemon), "price_per_unit": "0.1"})
            made = await make(daemon, price, metadata={"share": 0.1})
        async with running(tmp_path) as daemon:
            assert (await daemon.http.get(f"/products/{made['product_id']}")).json() == made

    @pytest.mark.parametrize(
        ("fields", "amount", "months", "days"),
        [
            ({}, "49.00", 1, 0),
            ({"discount": 33}, "32.83", 1, 0),
            ({"discount": 33, "discount_bps": 1250}, "42.88", 1, 0),  # 42.875
            ({"discount": 100}, "0.00", 1, 0),
            ({"currency": "JPY"}, "4900", 1, 0),
            ({"currency": "KWD"}, "4.900", 1, 0),
            ({"payment_frequency_count": 3}, "49.00", 3, 0),
            ({"payment_frequency_interval": "Year"}, "49.00", 12, 0),
            ({"payment_frequency_interval": "Week", "payment_frequency_count": 2}, "49.00", 1, 14),
            ({"payment_frequency_interval": "Day", "payment_frequency_count": 10}, "49.00", 1, 10),
        ],
        ids=str,
    )
    async def test_prices_become_plans(
        self, daemon: Running, fields: Body, amount: str, months: int, days: int
    ) -> None:
        """Minor units of the currency, discounts and intervals are the price and the period of the plan."""
        made = await make(daemon, {**RECURRING, **fields})
        stored = daemon.core.catalogue.versions.find(made["product_id"])
        assert stored is not None
        plan = stored.plan
        assert (str(plan.price_amount), plan.interval_months, plan.interval_days) == (amount, months, days)
        assert (plan.billing_timing, plan.status) == ("IN_ADVANCE", "ACTIVE")

    async def test_a_trial(self, daemon: Running) -> None:
        """`trial_period_days` is the plan's trial: nothing is to be paid before it ends."""
        made = await make(daemon, {**RECURRING, "trial_period_days": 14})
        subscription = await subscribe(daemon, made["product_id"], await ann(daemon))
        assert (subscription["status"], subscription["trial_period_days"]) == ("active", 14)
        assert subscription["next_billing_date"] == "2026-12-05T00:00:00Z"

    async def test_credits_that_pay_for_a_meter(self, daemon: Running) -> None:
        """A meter with a credit entitlement is paid by its credits, so many units each (F11)."""
        entitlement = await daemon.dodo.credit_entitlements.create(
            name="Tokens", unit="tokens", precision=4, rollover_enabled=False, overage_enabled=False
        )
        name = await meter(daemon)
        price = usage_based(
            {"meter_id": name, "credit_entitlement_id": entitlement.id, "meter_units_per_credit": "1000"},
            fixed_price=0,
        )
        attached = [{"credit_entitlement_id": entitlement.id, "credits_amount": "10"}]
        made = await daemon.dodo.products.retrieve(
            (await make(daemon, price, credit_entitlements=attached))["product_id"]
        )
        (mapping,) = made.credit_entitlements
        assert (mapping.credits_amount, mapping.credit_entitlement_name) == ("10", "Tokens")
        customer = await ann(daemon)
        subscription = await subscribe(daemon, made.product_id, customer)
        (cart,) = subscription["credit_entitlement_cart"]
        assert (cart["remaining_balance"], cart["credits_amount"], cart["unit"]) == ("10", "10", "tokens")
        (paying,) = subscription["meter_credit_entitlement_cart"]
        assert (paying["meter_id"], paying["meter_units_per_credit"]) == (name, "1000")
        event: Any = {"event_id": "a", "customer_id": customer, "event_name": "tokens", "metadata": {"n": 1500}}
        await daemon.dodo.usage_events.ingest(events=[event])
        usage = await daemon.dodo.subscriptions.retrieve_credit_usage(subscription["subscription_id"])
        assert [item.balance for item in usage.items] == ["8.5"]


class TestCharge:
    """What a product charges, to the cent."""

    async def test_the_guides_example(self, daemon: Running) -> None:
        """A fixed price of 10.00, and 250 units with 100 free at 50 cents: 10.00 at once, 85.00 a month later."""
        name, customer = await meter(daemon), await ann(daemon)
        made = await make(daemon, usage_based({"meter_id": name, "price_per_unit": "50", "free_threshold": 100}))
        subscription = await subscribe(daemon, made["product_id"], customer)
        event: Any = {"event_id": "a", "customer_id": customer, "event_name": "tokens", "metadata": {"n": 250}}
        await daemon.dodo.usage_events.ingest(events=[event])
        history = await daemon.dodo.subscriptions.retrieve_usage_history(subscription["subscription_id"])
        (tokens,) = history.items[0].meters
        assert (tokens.id, tokens.consumed_units, tokens.chargeable_units) == (name, "250", "150")
        assert (tokens.price_per_unit, tokens.free_threshold, tokens.total_price) == ("50", 100, 7500)
        await billing.mark_paid(daemon.core, subscription["payment_id"])
        daemon.clock.move(30 * DAY_US)
        invoices, _ = await billing.invoices(daemon.core, InvoiceQuery(customer=1))
        assert [str(each.amount) for each in invoices] == ["85.00", "10.00"]


class TestList:
    """GET /products."""

    async def test_pages(self, daemon: Running) -> None:
        """Products come newest first, by pages; past the end there are none."""
        for name in "abc":
            await make(daemon, RECURRING, name=name)
            daemon.clock.move(SECOND_US)
        assert await listed(daemon, page_size=2) == ["c", "b"]
        assert await listed(daemon, page_size=2, page_number=1) == ["a"]
        assert await listed(daemon, page_number=9) == []
        assert (await daemon.http.get("/products?page_size=101")).status_code == 422

    async def test_kinds(self, daemon: Running) -> None:
        """`recurring` tells what can be subscribed to from what is paid once; `archived` lists those instead."""
        await make(daemon, RECURRING, name="monthly")
        await make(daemon, ONCE, name="once")
        gone = await make(daemon, RECURRING, name="gone")
        await daemon.dodo.products.archive(gone["product_id"])
        assert await listed(daemon, recurring="true") == ["monthly"]
        assert await listed(daemon, recurring="false") == ["once"]
        assert sorted(await listed(daemon)) == ["monthly", "once"]
        assert await listed(daemon, archived="true") == ["gone"]
        assert await listed(daemon, brand_id="another") == []

    async def test_what_a_list_says(self, daemon: Running) -> None:
        """Dodo's own client reads price, currency and the whole price of each."""
        daemon.clock.move(SECOND_US)
        await make(daemon, {**RECURRING, "discount": 50})
        product = (await daemon.dodo.products.list(page_size=1)).items[0]
        assert (product.price, product.currency, product.is_recurring) == (2450, "USD", True)
        assert product.price_detail is not None
        assert (product.price_detail.type, product.price_detail.discount) == ("recurring_price", 50)

    async def test_plans_of_the_catalog(self, tmp_path: Path) -> None:
        """A plan of the catalog file is a product by its key, its price as near as Dodo's shapes come to it."""
        catalog = """
            [[meters]]
            key = "calls"
            event_name = "call"
            aggregation = { type = "count" }
            [[features]]
            key = "api"
            [[plans]]
            key = "weekly"
            name = "Weekly"
            price_amount = "7.50"
            interval_days = 14
            [[plans.features]]
            feature = "api"
            meter = "calls"
            pricing = { model = "usage", usage_unit_type = "call", price_per_unit = "0.015" }
            [[plans]]
            key = "flat"
            name = "Flat"
            price_amount = "120"
            interval_months = 24
        """
        async with running(tmp_path, catalog=catalog) as daemon:
            price = (await daemon.dodo.products.retrieve("weekly")).price
            assert price.type == "usage_based_price"
            assert (price.fixed_price, price.payment_frequency_count, price.payment_frequency_interval) == (
                750,
                2,
                "Week",
            )
            assert price.meters is not None
            assert [(each.name, each.price_per_unit, each.free_threshold) for each in price.meters] == [
                ("calls", "1.5", 0)
            ]
            flat = (await daemon.dodo.products.retrieve("flat")).price
            assert flat.type == "recurring_price"
            assert (flat.price, flat.payment_frequency_count, flat.payment_frequency_interval) == (
                12000,
                2,
                "Year",
            )
            for refused in (
                await daemon.http.patch("/products/flat", json={"name": "x"}),
                await daemon.http.delete("/products/flat"),
            ):
                assert (refused.status_code, refused.json()["code"]) == (409, "CONFLICT")
                assert "catalog file" in refused.json()["message"]


class TestChange:
    """PATCH /products/{id}."""

    async def test_subscribers_stay_on_theirs(self, daemon: Running) -> None:
        """A new price is a new version: who subscribed before pays the old one, who comes later the new one."""
        made = await make(daemon, RECURRING)
        before = await subscribe(daemon, made["product_id"], await ann(daemon))
        daemon.clock.move(DAY_US)
        await daemon.dodo.products.update(made["product_id"], price={**RECURRING, "price": 5900})
        after = await subscribe(daemon, made["product_id"], await ann(daemon))
        product = await daemon.dodo.products.retrieve(made["product_id"])
        assert product.to_dict(mode="json")["created_at"] == iso(NOW)
        assert product.to_dict(mode="json")["updated_at"] == iso(NOW + DAY_US)
        kept = await daemon.dodo.subscriptions.retrieve(before["subscription_id"])
        assert (kept.recurring_pre_tax_amount, after["recurring_pre_tax_amount"]) == (4900, 5900)

    async def test_only_what_is_sent(self, daemon: Running) -> None:
        """Fields that are not sent, and null, stay as they are."""
        made = await make(daemon, RECURRING, description="All", metadata={"a": 1})
        reply = await daemon.http.patch(
            f"/products/{made['product_id']}", json={"name": "Max", "description": None, "tax_category": None}
        )
        assert reply.status_code == 200
        assert reply.json() == {**made, "name": "Max"}

    async def test_a_meter_more(self, daemon: Running) -> None:
        """A meter added later is charged to those who subscribe from then on."""
        first, second = await meter(daemon), await meter(daemon, "Calls")
        made = await make(daemon, usage_based({"meter_id": first, "price_per_unit": "1"}))
        price = usage_based(
            {"meter_id": first, "price_per_unit": "1"}, {"meter_id": second, "price_per_unit": "2"}
        )
        await daemon.dodo.products.update(made["product_id"], price=price)
        subscription = await subscribe(daemon, made["product_id"], await ann(daemon))
        assert [(each["meter_id"], each["price_per_unit"]) for each in subscription["meters"]] == [
            (first, "1"),
            (second, "2"),
        ]

    async def test_what_is_gone_meanwhile(self, daemon: Running) -> None:
        """A product keeps a meter and credits that were archived or deleted since; another cannot have them."""
        entitlement = await daemon.dodo.credit_entitlements.create(
            name="Tokens", unit="tokens", precision=0, rollover_enabled=False, overage_enabled=False
        )
        name = await meter(daemon)
        priced = {"meter_id": name, "credit_entitlement_id": entitlement.id, "meter_units_per_credit": "1"}
        credits_ = [{"credit_entitlement_id": entitlement.id, "credits_amount": "5"}]
        made = await make(daemon, usage_based(priced), credit_entitlements=credits_)
        await daemon.dodo.meters.archive(name)
        await daemon.dodo.credit_entitlements.delete(entitlement.id)
        await daemon.dodo.products.archive(made["product_id"])
        await daemon.dodo.products.update(made["product_id"], name="Max")
        assert await listed(daemon, archived="true") == ["Max"]
        await daemon.dodo.products.unarchive(made["product_id"])
        found = (await daemon.http.get(f"/products/{made['product_id']}")).json()
        assert found == {**made, "name": "Max"}
        assert (await send(daemon, usage_based(priced))).status_code == 422
        assert (await send(daemon, RECURRING, credit_entitlements=credits_)).status_code == 422

    async def test_two_at_once(self, daemon: Running) -> None:
        """Of two changes sent at once neither is lost."""
        made = await make(daemon, RECURRING)
        async with trio.open_nursery() as nursery:
            for body in ({"name": "Max"}, {"description": "More"}):
                nursery.start_soon(patch, daemon, made["product_id"], body)
        product = await daemon.dodo.products.retrieve(made["product_id"])
        assert (product.name, product.description) == ("Max", "More")

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"name": ""}, "name"),
            ({"name": "x" * 101}, "name"),
            ({"price": ONCE}, "price.type"),
            ({"price": {**RECURRING, "price": -1}}, "price.price"),
            ({"price": {"type": "free"}}, "price.type"),
        ],
        ids=str,
    )
    async def test_bad_fields(self, daemon: Running, body: Body, field: str) -> None:
        """A bad field is 422 by its name, and nothing is changed."""
        made = await make(daemon, RECURRING)
        reply = await daemon.http.patch(f"/products/{made['product_id']}", json=body)
        assert (reply.status_code, reply.json()["code"]) == (422, "INVALID_REQUEST_BODY")
        assert reply.json()["message"].startswith(f"{field}: ")
        assert (await daemon.http.get(f"/products/{made['product_id']}")).json() == made


async def patch(daemon: Running, product: str, body: Body) -> None:
    """Change a product."""
    reply = await daemon.http.patch(f"/products/{product}", json=body)
    assert reply.status_code == 200, reply.text


class TestArchive:
    """DELETE /products/{id} and POST …/unarchive."""

    async def test_archived_and_back(self, daemon: Running) -> None:
        """An archived product is looked up and not subscribed to, twice over; brought back it is as before."""
        made, customer = await make(daemon, RECURRING), await ann(daemon)
        for _ in range(2):
            await daemon.dodo.products.archive(made["product_id"])
        assert (await daemon.dodo.products.retrieve(made["product_id"])).name == "Pro"
        body = {"customer": {"customer_id": customer}, "product_id": made["product_id"], "quantity": 1}
        refused = await daemon.http.post("/subscriptions", json=body)
        assert (refused.status_code, refused.json()["code"]) == (422, "INVALID_REQUEST_BODY")
        for _ in range(2):
            await daemon.dodo.products.unarchive(made["product_id"])
        assert (await daemon.http.post("/subscriptions", json=body)).status_code == 200

    async def test_subscribers_stay(self, daemon: Running) -> None:
        """Who is subscribed to a product stays so when it is archived."""
        made = await make(daemon, {**RECURRING, "price": 0})
        subscription = await subscribe(daemon, made["product_id"], await ann(daemon))
        await daemon.dodo.products.archive(made["product_id"])
        daemon.clock.move(60 * DAY_US)
        found = await daemon.dodo.subscriptions.retrieve(subscription["subscription_id"])
        assert (found.status, found.product_id) == ("active", made["product_id"])

    async def test_what_is_paid_once(self, daemon: Running) -> None:
        """A one-time product is kept and shown, and refused to subscribers, archived or not."""
        made, customer = await make(daemon, ONCE), await ann(daemon)
        assert (made["is_recurring"], made["price"]["price"]) == (False, 900)
        body = {"customer": {"customer_id": customer}, "product_id": made["product_id"], "quantity": 1}
        for _ in range(2):
            assert (await daemon.http.post("/subscriptions", json=body)).status_code == 422
            await daemon.dodo.products.archive(made["product_id"])
            await daemon.dodo.products.unarchive(made["product_id"])

    async def test_unknown(self, daemon: Running) -> None:
        """Unknown products are 404 in Dodo's shape."""
        for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/unarchive")):
            reply = await daemon.http.request(method, f"/products/pdt_none{path}", json={})
            assert (reply.status_code, reply.json()["code"]) == (404, "NOT_FOUND")

    async def test_scopes(self, daemon: Running) -> None:
        """A key that may only read lists products and makes none."""
        headers = await daemon.key_for("read")
        assert (await daemon.http.get("/products", headers=headers)).status_code == 200
        assert (await daemon.http.post("/products", json={}, headers=headers)).status_code == 403


class TestRefusals:
    """What is wrong with a product is said by its field."""

    @pytest.mark.parametrize(
        ("price", "field"),
        [
            ({**RECURRING, "currency": "dollars"}, "price.currency"),
            ({**RECURRING, "price": "9.99"}, "price.price"),
            ({**RECURRING, "discount": 101}, "price.discount"),
            ({**RECURRING, "discount_bps": 10001}, "price.discount_bps"),
            ({**RECURRING, "payment_frequency_count": 0}, "price.payment_frequency_count"),
            ({**RECURRING, "payment_frequency_count": 121}, "price.payment_frequency_count"),
            ({**RECURRING, "payment_frequency_interval": "Hour"}, "price.payment_frequency_interval"),
            ({**RECURRING, "subscription_period_count": 0}, "price.subscription_period_count"),
            (
                {**RECURRING, "subscription_period_count": 30, "subscription_period_interval": "Day"},
                "price.subscription_period_count",
            ),
            ({**RECURRING, "trial_period_days": 3661}, "price.trial_period_days"),
            ({**RECURRING, "trial_period_days": 7, "trial_amount": 100}, "price.trial_amount"),
            ({"type": "recurring_price"}, "price.currency"),
        ],
        ids=str,
    )
    async def test_bad_prices(self, daemon: Running, price: Body, field: str) -> None:
        """A bad price is 422 by its field, and there is no product."""
        reply = await send(daemon, price)
        assert (reply.status_code, reply.json()["code"]) == (422, "INVALID_REQUEST_BODY")
        assert reply.json()["message"].startswith(f"{field}: "), reply.json()
        assert await listed(daemon) == []

    @pytest.mark.parametrize(
        ("fields", "at"),
        [
            ({"meter_id": "mtr_none"}, "meter_id"),
            ({"price_per_unit": None}, "price_per_unit"),
            ({"price_per_unit": "0"}, "price_per_unit"),
            ({"price_per_unit": "-1"}, "price_per_unit"),
            ({"price_per_unit": "100000"}, "price_per_unit"),
            ({"price_per_unit": "0.0000000000001"}, "price_per_unit"),
            ({"price_per_unit": "cheap"}, "price_per_unit"),
            ({"free_threshold": -1}, "free_threshold"),
            ({"free_threshold": 1.5}, "free_threshold"),
            ({"credit_entitlement_id": "cde_none", "meter_units_per_credit": "1"}, "credit_entitlement_id"),
            ({"credit_entitlement_id": "cde_none"}, "meter_units_per_credit"),
            ({"meter_units_per_credit": "5"}, "meter_units_per_credit"),
        ],
        ids=str,
    )
    async def test_bad_meters(self, daemon: Running, fields: Body, at: str) -> None:
        """What is wrong with a meter's price is 422 with its place in the product."""
        price = usage_based({"meter_id": await meter(daemon), "price_per_unit": "1", **fields})
        reply = await send(daemon, price)
        assert reply.status_code == 422, reply.text
        assert reply.json()["message"].startswith(f"price.meters[0].{at}: "), reply.json()

    async def test_the_same_meter_twice_and_too_many(self, daemon: Running) -> None:
        """A product has a meter once, and at most 10 of them."""
        one = {"meter_id": await meter(daemon), "price_per_unit": "1"}
        twice = await send(daemon, usage_based(one, one))
        assert twice.json()["message"].startswith("price.meters[1].meter_id: ")
        many = [{"meter_id": await meter(daemon, f"m{n}"), "price_per_unit": "1"} for n in range(11)]
        assert (await send(daemon, usage_based(*many))).status_code == 422
        assert (await send(daemon, usage_based(*many[:10]))).status_code == 200

    async def test_an_archived_meter(self, daemon: Running) -> None:
        """No new product counts by an archived meter."""
        name = await meter(daemon)
        await daemon.dodo.meters.archive(name)
        reply = await send(daemon, usage_based({"meter_id": name, "price_per_unit": "1"}))
        assert (reply.status_code, "archived" in reply.json()["message"]) == (422, True)

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"name": " "}, "name"),
            ({"tax_category": "books"}, "tax_category"),
            ({"description": "x" * 1001}, "description"),
            ({"addons": ["adn_1"]}, "addons"),
            ({"entitlements": [{"entitlement_id": "ent_1"}]}, "entitlements"),
            ({"license_key_enabled": True}, "license_key_enabled"),
            (
                {"credit_entitlements": [{"credit_entitlement_id": "x", "credits_amount": "1"}]},
                "credit_entitlements[0]",
            ),
        ],
        ids=str,
    )
    async def test_bad_fields(self, daemon: Running, fields: Body, field: str) -> None:
        """A bad field, or one that asks for what is not had here, is 422 by its name."""
        reply = await send(daemon, RECURRING, **fields)
        assert reply.status_code == 422
        assert reply.json()["message"].startswith(field), reply.json()

    async def test_metadata_and_malformed_bodies(self, daemon: Running) -> None:
        """Metadata has Dodo's limits; what is no JSON is 422; Dodo's client raises what it should."""
        reply = await send(daemon, RECURRING, metadata={f"k{n}": 1 for n in range(51)})
        assert (reply.status_code, reply.json()["code"]) == (400, "MAXIMUM_KEYS_REACHED")
        assert (await daemon.http.post("/products", content=b"{")).status_code == 422
        with pytest.raises(dodopayments.UnprocessableEntityError, match="INVALID_REQUEST_BODY"):
            await daemon.dodo.products.create(name="", tax_category="saas", price=RECURRING)  # type: ignore[arg-type]
