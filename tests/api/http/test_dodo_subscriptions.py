"""Dodo's subscriptions, against a running daemon (CONTRACTS 2.5)."""

from pathlib import Path
from typing import Any

import dodopayments
import httpx
import pytest

from harness import CATALOG, NOW, Running, running
from tallyd.api import billing
from tallyd.model.event import event_uuid
from tallyd.model.moments import DAY_US, HOUR_US, iso
from tallyd.store import sqlite
from tallyd.store.audit import audit
from tallyd.store.subscription_rows import InvoiceQuery

Body = dict[str, Any]

PAID = (
    CATALOG
    + """
[[plans]]
key = "ten"
name = "Ten"
price_amount = "10.00"
interval_days = 10

[[plans]]
key = "thirty"
name = "Thirty"
description = "Thirty a time"
price_amount = "30.00"
interval_days = 10

[[plans]]
key = "yearly"
name = "Yearly"
price_amount = "99.00"
interval_months = 12

[[plans]]
key = "yen"
name = "Yen"
currency = "JPY"
price_amount = "500"

[[plans]]
key = "gone"
name = "Gone"
status = "ARCHIVED"
"""
)
PRORATED = {"quantity": 1, "proration_billing_mode": "prorated_immediately"}
LATER = {**PRORATED, "effective_at": "next_billing_date"}


async def ann(daemon: Running) -> str:
    """Make a customer; return its id."""
    return (await daemon.dodo.customers.create(name="Ann", email="ann@example.com")).customer_id


async def subscribe(daemon: Running, customer: str, product: str = "ten", **fields: Any) -> Body:
    """Subscribe; return the answer as sent."""
    reply = await ask(daemon, "POST", "", {"customer": {"customer_id": customer}, "product_id": product, **fields})
    assert reply.status_code == 200, reply.text
    made: Body = reply.json()
    return made


async def ask(daemon: Running, method: str, path: str, body: Body | None = None) -> httpx.Response:
    """Send a request under /subscriptions; where one is made, its quantity is 1 unless said otherwise."""
    if method == "POST" and not path:
        body = {"quantity": 1, "billing": {"country": "DE"}, **(body or {})}
    return await daemon.http.request(method, f"/subscriptions{path}", json=body)


async def pay(daemon: Running, made: Body) -> None:
    """Pay the first invoice of a subscription."""
    await billing.mark_paid(daemon.core, made["payment_id"])


async def paid(daemon: Running, product: str = "ten", **fields: Any) -> str:
    """Make a customer, subscribe it and pay; return the subscription's id."""
    made = await subscribe(daemon, await ann(daemon), product, **fields)
    await pay(daemon, made)
    return str(made["subscription_id"])


async def status(daemon: Running, subscription: str) -> str:
    """Return where a subscription stands."""
    return (await daemon.dodo.subscriptions.retrieve(subscription)).status


async def invoiced(daemon: Running, subscription: str) -> list[tuple[str, str, str]]:
    """Return (kind, status, amount) of a subscription's invoices, oldest first."""
    owned = await billing.find_subscription(daemon.core, subscription)
    query = InvoiceQuery(customer=owned.account.customer.number, subscription=owned.subscription.number)
    found, _ = await billing.invoices(daemon.core, query)
    return [(each.kind, each.status, str(each.amount)) for each in reversed(found)]


@pytest.fixture
async def daemon(tmp_path: Path) -> Any:
    """Run a daemon with plans that cost something; whatever was done, its books verify afterwards (P10)."""
    async with running(tmp_path, catalog=PAID) as started:
        yield started
    connection = sqlite.open_reader(started.path)
    try:
        report = audit(connection, started.core.registry.models, lambda _done, _total: None)
    finally:
        connection.close()
    assert report.findings == []


class TestCreate:
    """POST /subscriptions."""

    async def test_dodos_own_client_subscribes(self, daemon: Running) -> None:
        """The dodopayments package subscribes a customer, who is active once the first invoice is paid."""
        customer = await ann(daemon)
        with pytest.warns(DeprecationWarning, match="deprecated"):
            made = await daemon.dodo.subscriptions.create(
                billing={"country": "DE", "city": "Berlin", "zipcode": "10115"},
                customer={"customer_id": customer},
                product_id="ten",
                quantity=1,
                metadata={"team": "blue", "seats": 3},
            )
        assert (made.customer.customer_id, made.customer.email, made.customer.name) == (
            customer,
            "ann@example.com",
            "Ann",
        )
        assert (made.recurring_pre_tax_amount, made.addons, made.payment_method_required) == (1000, [], False)
        assert (made.metadata, made.payment_link) == ({"team": "blue", "seats": 3}, None)
        assert await invoiced(daemon, made.subscription_id) == [("IN_ADVANCE_INITIAL", "DUE", "10.00")]
        assert await status(daemon, made.subscription_id) == "pending"
        await billing.mark_paid(daemon.core, made.payment_id)
        assert await status(daemon, made.subscription_id) == "active"
        found = await daemon.dodo.subscriptions.retrieve(made.subscription_id)
        assert found.billing.to_dict() == {"country": "DE", "city": "Berlin", "zipcode": "10115"}

    async def test_what_a_subscription_says(self, daemon: Running) -> None:
        """Every field of a subscription, as Dodo's own client reads them."""
        customer = await ann(daemon)
        made = await subscribe(daemon, customer, "yen", metadata={"x": 0.1})
        found = await daemon.dodo.subscriptions.retrieve(made["subscription_id"])
        assert found.to_dict(mode="json") == {
            "subscription_id": made["subscription_id"],
            "status": "pending",
            "customer": {"customer_id": customer, "email": "ann@example.com", "name": "Ann", "metadata": {}},
            "product_id": "yen",
            "quantity": 1,
            "currency": "JPY",
            "recurring_pre_tax_amount": 500,
            "tax_inclusive": False,
            "payment_frequency_count": 1,
            "payment_frequency_interval": "Month",
            "subscription_period_count": 20,
            "subscription_period_interval": "Year",
            "trial_period_days": 0,
            "previous_billing_date": "2026-11-21T00:00:00Z",
            "next_billing_date": "2026-12-21T00:00:00Z",
            "cancel_at_next_billing_date": False,
            "billing": {"country": "DE"},
            "addons": [],
            "meters": [],
            "credit_entitlement_cart": [],
            "meter_credit_entitlement_cart": [],
            "discounts": [],
            "on_demand": False,
            "has_payment_method": False,
            "brand_id": "tallyd",
            "metadata": {"x": 0.1},
            "created_at": iso(NOW),
        }

    async def test_a_new_customer(self, daemon: Running) -> None:
        """Without a customer_id the customer is made, by its e-mail address."""
        body = {"customer": {"email": "bob@example.com", "name": "Bob"}, "product_id": "ten"}
        made = (await ask(daemon, "POST", "", body)).json()
        found = await daemon.dodo.customers.retrieve(made["customer"]["customer_id"])
        assert (found.email, found.name) == ("bob@example.com", "Bob")
        assert found.customer_id.startswith("cus_")

    async def test_a_free_product_and_a_trial(self, daemon: Running) -> None:
        """What costs nothing is active at once; so is a trial of any length, asked for here."""
        assert (await subscribe(daemon, await ann(daemon), "pro"))["status"] == "active"
        made = await subscribe(daemon, await ann(daemon), "ten", trial_period_days=5)
        assert (made["status"], made["trial_period_days"]) == ("active", 5)
        assert made["next_billing_date"] == "2026-11-26T00:00:00Z"
        assert made["recurring_pre_tax_amount"] == 1000

    async def test_twice(self, daemon: Running) -> None:
        """A customer is on a product once: the second time is 409, and not to be retried."""
        customer = await ann(daemon)
        await subscribe(daemon, customer)
        body = {"customer": {"customer_id": customer}, "product_id": "ten"}
        again = await ask(daemon, "POST", "", body)
        assert (again.status_code, again.json()["code"]) == (409, "CONFLICT")
        assert again.headers["x-should-retry"] == "false"

    @pytest.mark.parametrize(
        ("fields", "status", "code", "field"),
        [
            ({"product_id": "none"}, 404, "NOT_FOUND", ""),
            ({"product_id": "gone"}, 422, "INVALID_REQUEST_BODY", "product_id: "),
            ({"customer": {"customer_id": "none"}}, 404, "NOT_FOUND", ""),
            ({"customer": {}}, 422, "INVALID_REQUEST_BODY", "customer: "),
            ({"customer": {"email": "nowhere"}}, 422, "INVALID_REQUEST_BODY", "email: "),
            ({"quantity": 2}, 422, "INVALID_REQUEST_BODY", "quantity: "),
            ({"billing": {"country": "Germany"}}, 422, "INVALID_REQUEST_BODY", "billing.country: "),
            ({"trial_period_days": -1}, 422, "INVALID_REQUEST_BODY", "trial_period_days: "),
            ({"addons": [{"addon_id": "a", "quantity": 1}]}, 422, "INVALID_REQUEST_BODY", "addons: "),
            ({"discount_codes": ["SUMMER"]}, 422, "INVALID_REQUEST_BODY", "discount_codes: "),
            ({"on_demand": {"mandate_only": True}}, 422, "INVALID_REQUEST_BODY", "on_demand: "),
            ({"payment_method_id": "pm_1"}, 422, "INVALID_REQUEST_BODY", "payment_method_id: "),
            ({"metadata": {"a": [1]}}, 400, "INVALID_REQUEST_PARAMETERS", "metadata.a: "),
        ],
        ids=str,
    )
    async def test_refusals(self, daemon: Running, fields: Body, status: int, code: str, field: str) -> None:
        """What is wrong, or not had here, is said by its field; nobody is subscribed."""
        body = {"customer": {"customer_id": await ann(daemon)}, "product_id": "ten", **fields}
        reply = await ask(daemon, "POST", "", body)
        assert (reply.status_code, reply.json()["code"]) == (status, code), reply.text
        assert reply.json()["message"].startswith(field), reply.text
        assert (await daemon.http.get("/subscriptions")).json() == {"items": []}


class TestFixedTerm:
    """Products that are sold for so many periods."""

    async def _product(self, daemon: Running, **fields: Any) -> str:
        price: Any = {
            "type": "recurring_price",
            "currency": "USD",
            "price": 1000,
            "payment_frequency_count": 1,
            "payment_frequency_interval": "Month",
            "subscription_period_count": 3,
            "subscription_period_interval": "Month",
            "purchasing_power_parity": False,
            **fields,
        }
        return (await daemon.dodo.products.create(name="Course", tax_category="edtech", price=price)).product_id

    async def test_it_expires(self, daemon: Running) -> None:
        """Three months are three invoices; then the subscription is expired, and nothing more is billed."""
        subscription = await paid(daemon, await self._product(daemon))
        found = await daemon.dodo.subscriptions.retrieve(subscription)
        assert found.to_dict(mode="json")["expires_at"] == "2027-02-21T00:00:00Z"
        for month in (31, 31):  # paid month by month
            daemon.clock.move(month * DAY_US)
            await self._pay_all(daemon, subscription)
        assert await status(daemon, subscription) == "active"
        daemon.clock.move(200 * DAY_US)
        assert await status(daemon, subscription) == "expired"
        amounts = [amount for _, _, amount in await invoiced(daemon, subscription)]
        assert amounts == ["10.00"] * 3

    async def _pay_all(self, daemon: Running, subscription: str) -> None:
        owned = await billing.find_subscription(daemon.core, subscription)
        found, _ = await billing.invoices(
            daemon.core, InvoiceQuery(customer=owned.account.customer.number, status="DUE")
        )
        for each in found:
            await billing.mark_paid(daemon.core, event_uuid(each.number))

    async def test_a_trial_comes_before(self, daemon: Running) -> None:
        """The periods that are paid for are counted from the end of the trial."""
        subscription = await paid(daemon, await self._product(daemon, trial_period_days=10))
        found = await daemon.dodo.subscriptions.retrieve(subscription)
        assert found.to_dict(mode="json")["expires_at"] == "2027-03-01T00:00:00Z"

    async def test_cancelled_and_taken_back(self, daemon: Running) -> None:
        """Taking a cancellation back brings back the end that was known before."""
        subscription = await paid(daemon, await self._product(daemon))
        update = daemon.dodo.subscriptions.update
        cancelled = await update(subscription, cancel_at_next_billing_date=True)
        assert cancelled.to_dict(mode="json")["next_billing_date"] == "2026-12-21T00:00:00Z"
        assert cancelled.expires_at is None
        back = await update(subscription, cancel_at_next_billing_date=False)
        assert back.to_dict(mode="json")["expires_at"] == "2027-02-21T00:00:00Z"

    async def test_it_keeps_its_rhythm(self, daemon: Running) -> None:
        """A change to a product of the same rhythm keeps the end; of another rhythm it is refused."""
        subscription = await paid(daemon, await self._product(daemon))
        other = await self._product(daemon, price=3000, subscription_period_count=12)
        await daemon.dodo.subscriptions.change_plan(subscription, product_id=other, **PRORATED)
        found = await daemon.dodo.subscriptions.retrieve(subscription)
        assert found.to_dict(mode="json")["expires_at"] == "2027-02-21T00:00:00Z"
        refused = await ask(daemon, "POST", f"/{subscription}/change-plan", {"product_id": "ten", **PRORATED})
        assert (refused.status_code, "subscribe to it then" in refused.json()["message"]) == (400, True)

    async def test_no_change_after_the_last_period(self, daemon: Running) -> None:
        """In its last period no change can be scheduled, for there is no next billing date."""
        subscription = await paid(daemon, await self._product(daemon, subscription_period_count=1))
        other = await self._product(daemon, price=3000)
        refused = await ask(daemon, "POST", f"/{subscription}/change-plan", {"product_id": other, **LATER})
        assert (refused.status_code, "ends with this period" in refused.json()["message"]) == (400, True)


class TestStatus:
    """Where a subscription stands, through a life."""

    async def test_late_payment(self, daemon: Running) -> None:
        """Unpaid when the grace days are over it is on hold; paid, it is active again."""
        subscription = await paid(daemon)
        daemon.clock.move(10 * DAY_US)
        assert await status(daemon, subscription) == "active"
        daemon.clock.move(4 * DAY_US)
        assert await status(daemon, subscription) == "on_hold"
        assert [each[:2] for each in await invoiced(daemon, subscription)][1:] == [("IN_ADVANCE", "PAST_DUE")]
        refused = await ask(daemon, "PATCH", f"/{subscription}", {"status": "active"})
        assert (refused.status_code, refused.json()["code"]) == (422, "SUBSCRIPTION_INACTIVE")
        owned = await billing.find_subscription(daemon.core, subscription)
        (unpaid,) = owned.account.invoices
        await billing.mark_paid(daemon.core, event_uuid(unpaid))
        assert await status(daemon, subscription) == "active"

    async def test_paused_and_resumed(self, daemon: Running) -> None:
        """A subscription is paused by its status and by `pause`, and resumed likewise; twice changes nothing."""
        subscription = await paid(daemon)
        for paused, resumed in (({"status": "paused"}, {"status": "active"}), ({"pause": True}, {"pause": False})):
            for _ in range(2):
                reply = await ask(daemon, "PATCH", f"/{subscription}", paused)
                assert (reply.json()["status"], reply.json()["paused_at"]) == ("paused", iso(daemon.clock.now()))
            for _ in range(2):
                reply = await ask(daemon, "PATCH", f"/{subscription}", resumed)
                assert (reply.json()["status"], "paused_at" in reply.json()) == ("active", False)
            daemon.clock.move(HOUR_US)

    async def test_cancelled_at_once(self, daemon: Running) -> None:
        """Cancelled at once, what is not used is given back; twice changes nothing; it is not brought back."""
        subscription = await paid(daemon)
        daemon.clock.move(12 * HOUR_US + 4 * DAY_US)  # half of the ten days
        for _ in range(2):
            found = await daemon.dodo.subscriptions.update(subscription, status="cancelled")
            assert (found.status, found.cancel_at_next_billing_date) == ("cancelled", False)
            assert found.to_dict(mode="json")["cancelled_at"] == "2026-11-26T00:00:00Z"
            daemon.clock.move(HOUR_US)
        assert (await invoiced(daemon, subscription))[-1] == ("CREDIT", "PAID", "-5.00")
        dates = (await daemon.dodo.subscriptions.retrieve(subscription)).to_dict(mode="json")
        assert dates["previous_billing_date"] == "2026-11-21T00:00:00Z"
        assert dates["next_billing_date"] == "2026-11-26T00:00:00Z"
        for body in ({"status": "active"}, {"status": "paused"}, {"cancel_at_next_billing_date": False}):
            refused = await ask(daemon, "PATCH", f"/{subscription}", body)
            assert (refused.status_code, refused.json()["code"]) == (422, "SUBSCRIPTION_INACTIVE")

    async def test_cancelled_at_the_next_billing_date(self, daemon: Running) -> None:
        """It stays active to the end of what is paid for, and can be taken back until then."""
        subscription = await paid(daemon)
        update = daemon.dodo.subscriptions.update
        for wanted in (True, True, False, False, True):
            found = await update(subscription, cancel_at_next_billing_date=wanted)
            assert (found.status, found.cancel_at_next_billing_date) == ("active", wanted)
        daemon.clock.move(25 * DAY_US)
        ended = (await daemon.dodo.subscriptions.retrieve(subscription)).to_dict(mode="json")
        assert (ended["status"], ended["previous_billing_date"], ended["next_billing_date"]) == (
            "cancelled",
            "2026-11-21T00:00:00Z",
            "2026-12-01T00:00:00Z",
        )
        assert len(await invoiced(daemon, subscription)) == 1

    async def test_both_ways_of_cancelling(self, daemon: Running) -> None:
        """`status` cancelled beside `cancel_at_next_billing_date` waits for the date."""
        subscription = await paid(daemon)
        body = {
            "status": "cancelled",
            "cancel_at_next_billing_date": True,
            "cancellation_feedback": "too_expensive",
        }
        reply = await ask(daemon, "PATCH", f"/{subscription}", body)
        assert (reply.json()["status"], reply.json()["cancel_at_next_billing_date"]) == ("active", True)

    async def test_never_paid(self, daemon: Running) -> None:
        """A subscription that is never paid stays pending, and can be cancelled."""
        made = await subscribe(daemon, await ann(daemon))
        daemon.clock.move(100 * DAY_US)
        assert await status(daemon, made["subscription_id"]) == "pending"
        refused = await ask(daemon, "PATCH", f"/{made['subscription_id']}", {"status": "paused"})
        assert (refused.status_code, refused.json()["code"]) == (422, "SUBSCRIPTION_INACTIVE")
        found = await daemon.dodo.subscriptions.update(made["subscription_id"], status="cancelled")
        assert found.status == "cancelled"
        assert [each[1] for each in await invoiced(daemon, made["subscription_id"])] == ["VOID"]


class TestChange:
    """What else PATCH changes."""

    async def test_metadata_and_address(self, daemon: Running) -> None:
        """Metadata is replaced as a whole; the address is the customer's."""
        subscription = await paid(daemon, metadata={"a": 1})
        reply = await ask(
            daemon,
            "PATCH",
            f"/{subscription}",
            {"metadata": {"b": 2.5}, "billing": {"country": "FR", "street": "Rue 1"}},
        )
        assert (reply.json()["metadata"], reply.json()["billing"]) == (
            {"b": 2.5},
            {"country": "FR", "street": "Rue 1"},
        )
        assert reply.json()["status"] == "active"

    async def test_all_or_nothing(self, daemon: Running) -> None:
        """Where one of the changes is refused, the others are not made."""
        subscription = await paid(daemon, metadata={"a": 1})
        await daemon.dodo.subscriptions.update(subscription, status="cancelled")
        refused = await ask(
            daemon, "PATCH", f"/{subscription}", {"metadata": {"b": 2}, "cancel_at_next_billing_date": True}
        )
        assert refused.status_code == 422
        assert (await daemon.dodo.subscriptions.retrieve(subscription)).metadata == {"a": 1}

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"next_billing_date": "2027-01-01T00:00:00Z"}, "next_billing_date"),
            ({"credit_entitlement_cart": [{"credit_entitlement_id": "x"}]}, "credit_entitlement_cart"),
            ({"subscription_period_count": 5}, "subscription_period_count"),
            ({"tax_id": "DE1"}, "tax_id"),
            ({"status": "expired"}, "status"),
            ({"status": "paused", "metadata": {"a": 1}}, "status"),
            ({"pause": True, "cancel_at_next_billing_date": True}, "pause"),
            ({"cancel_at_next_billing_date": "soon"}, "cancel_at_next_billing_date"),
        ],
        ids=str,
    )
    async def test_refusals(self, daemon: Running, body: Body, field: str) -> None:
        """What is not changed here is 422 with what to do instead; nothing is changed."""
        subscription = await paid(daemon)
        before = (await daemon.http.get(f"/subscriptions/{subscription}")).json()
        reply = await ask(daemon, "PATCH", f"/{subscription}", body)
        assert (reply.status_code, reply.json()["code"]) == (422, "INVALID_REQUEST_BODY")
        assert reply.json()["message"].startswith(f"{field}: ")
        assert (await daemon.http.get(f"/subscriptions/{subscription}")).json() == before

    async def test_charges_on_demand(self, daemon: Running) -> None:
        """There is nothing to charge on demand: 422, with what to do instead."""
        subscription = await paid(daemon)
        with pytest.raises(dodopayments.UnprocessableEntityError, match="report what is to be charged as usage"):
            await daemon.dodo.subscriptions.charge(subscription, product_price=100)

    async def test_unknown(self, daemon: Running) -> None:
        """An unknown subscription is 404 in Dodo's shape, whatever is asked of it."""
        change = {"product_id": "ten", **PRORATED}
        for method, path, body in (
            ("GET", "", None),
            ("PATCH", "", {"metadata": {}}),
            ("POST", "/charge", {"product_price": 1}),
            ("POST", "/change-plan", change),
            ("POST", "/change-plan/preview", change),
            ("DELETE", "/change-plan/scheduled", None),
            ("GET", "/credit-usage", None),
        ):
            reply = await ask(daemon, method, f"/nobody{path}", body)
            assert (reply.status_code, reply.json()["code"]) == (404, "NOT_FOUND"), path


class TestList:
    """GET /subscriptions."""

    async def _ids(self, daemon: Running, **query: Any) -> list[str]:
        reply = await daemon.http.get("/subscriptions", params={"page_size": 100, **query})
        assert reply.status_code == 200, reply.text
        return [item["subscription_id"] for item in reply.json()["items"]]

    async def test_pages(self, daemon: Running) -> None:
        """Subscriptions come newest first, by pages; past the end there are none."""
        made = [(await subscribe(daemon, await ann(daemon)))["subscription_id"] for _ in range(3)]
        assert await self._ids(daemon, page_size=2) == made[:0:-1]
        assert await self._ids(daemon, page_size=2, page_number=1) == made[:1]
        assert await self._ids(daemon, page_number=9) == []
        found = [each.subscription_id async for each in daemon.dodo.subscriptions.list(page_size=2, page_number=1)]
        assert found == made[:1]

    async def test_by_status(self, daemon: Running) -> None:
        """Each status lists its own: it is that of now, though nothing has been written since."""
        ids = {name: await paid(daemon) for name in ("cancelled", "on_hold")}
        for name in ("active", "paused"):
            ids[name] = (await subscribe(daemon, await ann(daemon), "pro"))["subscription_id"]
        ids["pending"] = (await subscribe(daemon, await ann(daemon)))["subscription_id"]
        await daemon.dodo.subscriptions.update(ids["paused"], status="paused")
        await daemon.dodo.subscriptions.update(ids["cancelled"], cancel_at_next_billing_date=True)
        daemon.clock.move(14 * DAY_US)
        for name, subscription in ids.items():
            found = await self._ids(daemon, status=name)
            assert subscription in found, name
            assert [await status(daemon, each) for each in found] == [name] * len(found)
        assert await self._ids(daemon, status="failed") == []

    async def test_filters_combine(self, daemon: Running) -> None:
        """By customer, product, cancellation and time of creation, both ends included."""
        first, second = await ann(daemon), await ann(daemon)
        ten = (await subscribe(daemon, first))["subscription_id"]
        daemon.clock.move(DAY_US)
        pro = (await subscribe(daemon, first, "pro"))["subscription_id"]
        other = (await subscribe(daemon, second, "pro"))["subscription_id"]
        await daemon.dodo.subscriptions.update(other, cancel_at_next_billing_date=True)
        assert await self._ids(daemon, customer_id=first) == [pro, ten]
        assert await self._ids(daemon, customer_id=first, product_id="pro") == [pro]
        assert await self._ids(daemon, product_id="none") == []
        assert await self._ids(daemon, customer_id="none") == []
        assert await self._ids(daemon, cancel_at_next_billing_date="true") == [other]
        assert await self._ids(daemon, cancel_at_next_billing_date="false") == [pro, ten]
        assert await self._ids(daemon, created_at_gte=iso(NOW + DAY_US)) == [other, pro]
        assert await self._ids(daemon, created_at_lte=iso(NOW)) == [ten]
        assert await self._ids(daemon, brand_id="another") == []

    async def test_the_product_is_that_of_now(self, daemon: Running) -> None:
        """After a change a subscription is listed under its new product, and not under the old one."""
        subscription = await paid(daemon)
        await daemon.dodo.subscriptions.change_plan(subscription, product_id="thirty", **LATER)
        assert await self._ids(daemon, product_id="ten") == [subscription]
        daemon.clock.move(10 * DAY_US)
        assert await self._ids(daemon, product_id="ten") == []
        assert await self._ids(daemon, product_id="thirty") == [subscription]

    @pytest.mark.parametrize(
        "query",
        [{"status": "gone"}, {"created_at_gte": "now"}, {"page_size": 0}, {"cancel_at_next_billing_date": "1"}],
    )
    async def test_bad_queries(self, daemon: Running, query: Body) -> None:
        """Bad filters are 422."""
        reply = await daemon.http.get("/subscriptions", params=query)
        assert (reply.status_code, reply.json()["code"]) == (422, "INVALID_QUERY_PARAMS")


class TestChangePlan:
    """POST /subscriptions/{id}/change-plan."""

    async def test_at_once(self, daemon: Running) -> None:
        """From 10.00 to 30.00 at half of the period: 10.00 are due now, and the new product from now on (D8)."""
        subscription = await paid(daemon)
        daemon.clock.move(12 * HOUR_US + 4 * DAY_US)
        change: Any = {"product_id": "thirty", **PRORATED}
        preview = await daemon.dodo.subscriptions.preview_change_plan(subscription, **change)
        changed = await daemon.dodo.subscriptions.change_plan(subscription, **change)
        assert (await invoiced(daemon, subscription))[-1] == ("ADJUSTMENT", "DUE", "10.00")
        owned = await billing.find_subscription(daemon.core, subscription)
        assert changed.payment_id == event_uuid(max(owned.account.invoices))
        found = await daemon.dodo.subscriptions.retrieve(subscription)
        assert (found.product_id, found.recurring_pre_tax_amount, found.status) == ("thirty", 3000, "active")
        charge = preview.immediate_charge
        assert (charge.summary.total_amount, charge.summary.currency) == (1000, "USD")
        items = [item.to_dict(mode="json") for item in charge.line_items]
        assert [(item["product_id"], item["unit_price"], item["proration_factor"]) for item in items] == [
            ("thirty", 3000, 0.5),
            ("ten", -1000, 0.5),
        ]
        assert preview.new_plan.to_dict() == found.to_dict()

    async def test_a_preview_changes_nothing(self, daemon: Running) -> None:
        """After a preview the subscription is what it was, and there is no invoice more."""
        subscription = await paid(daemon)
        before = (await daemon.http.get(f"/subscriptions/{subscription}")).json()
        reply = await ask(
            daemon, "POST", f"/{subscription}/change-plan/preview", {"product_id": "thirty", **PRORATED}
        )
        assert reply.status_code == 200, reply.text
        assert (await daemon.http.get(f"/subscriptions/{subscription}")).json() == before
        assert len(await invoiced(daemon, subscription)) == 1

    async def test_models_that_are_not_trusted(self, tmp_path: Path) -> None:
        """Where pricing models run on a thread of their own, changes and previews come to the same."""
        async with running(tmp_path, catalog=PAID, plugins__inline=[], plugins__budget_ms=30_000) as daemon:
            made = await subscribe(daemon, await ann(daemon), "pro")
            change: Any = {"product_id": "thirty", **PRORATED}
            preview = await daemon.dodo.subscriptions.preview_change_plan(made["subscription_id"], **change)
            await daemon.dodo.subscriptions.change_plan(made["subscription_id"], **change)
            found = await daemon.dodo.subscriptions.retrieve(made["subscription_id"])
            assert preview.new_plan.to_dict() == found.to_dict()
            assert preview.immediate_charge.summary.total_amount == 2850  # the new period begins at noon
            assert (await invoiced(daemon, made["subscription_id"]))[-1][2] == "28.50"

    async def test_to_a_cheaper_one_at_once(self, daemon: Running) -> None:
        """What is paid for and not used is given back: a negative invoice, and nothing to pay."""
        subscription = await paid(daemon, "thirty")
        daemon.clock.move(12 * HOUR_US + 4 * DAY_US)
        changed = await daemon.dodo.subscriptions.change_plan(subscription, product_id="ten", **PRORATED)
        assert changed.payment_id is None
        assert (await invoiced(daemon, subscription))[-1] == ("ADJUSTMENT", "PAID", "-10.00")

    async def test_to_another_rhythm(self, daemon: Running) -> None:
        """A year instead of ten days begins at once; what was paid for the ten days is given back."""
        subscription = await paid(daemon)
        daemon.clock.move(12 * HOUR_US + 4 * DAY_US)
        change: Any = {"product_id": "yearly", **PRORATED}
        preview = await daemon.dodo.subscriptions.preview_change_plan(subscription, **change)
        await daemon.dodo.subscriptions.change_plan(subscription, **change)
        assert (await invoiced(daemon, subscription))[-1][2] == "94.00"
        assert preview.immediate_charge.summary.total_amount == 9400
        assert preview.new_plan.payment_frequency_interval == "Year"

    async def test_at_the_next_billing_date(self, daemon: Running) -> None:
        """The change waits, is shown, and comes with the next period, which is billed at the new price."""
        subscription = await paid(daemon)
        change: Any = {"product_id": "thirty", **LATER}
        preview = await daemon.dodo.subscriptions.preview_change_plan(subscription, **change)
        assert (preview.immediate_charge.line_items, preview.immediate_charge.summary.total_amount) == ([], 0)
        await daemon.dodo.subscriptions.change_plan(subscription, **change)
        found = (await daemon.http.get(f"/subscriptions/{subscription}")).json()
        assert found["product_id"] == "ten"
        scheduled = found["scheduled_change"]
        assert {name: scheduled[name] for name in scheduled if name != "id"} == {
            "product_id": "thirty",
            "product_name": "Thirty",
            "product_description": "Thirty a time",
            "quantity": 1,
            "addons": [],
            "effective_at": "2026-12-01T00:00:00Z",
            "created_at": iso(NOW),
        }
        daemon.clock.move(10 * DAY_US)
        found = (await daemon.http.get(f"/subscriptions/{subscription}")).json()
        assert (found["product_id"], "scheduled_change" in found) == ("thirty", False)
        assert (await invoiced(daemon, subscription))[-1] == ("IN_ADVANCE", "DUE", "30.00")

    async def test_taken_back(self, daemon: Running) -> None:
        """A scheduled change is taken back once; then there is none to take back."""
        subscription = await paid(daemon)
        await daemon.dodo.subscriptions.change_plan(subscription, product_id="thirty", **LATER)
        await daemon.dodo.subscriptions.cancel_change_plan(subscription)
        assert (await daemon.dodo.subscriptions.retrieve(subscription)).scheduled_change is None
        with pytest.raises(dodopayments.UnprocessableEntityError, match="no change of plan is scheduled"):
            await daemon.dodo.subscriptions.cancel_change_plan(subscription)
        daemon.clock.move(10 * DAY_US)
        assert (await invoiced(daemon, subscription))[-1] == ("IN_ADVANCE", "DUE", "10.00")

    async def test_one_change_at_a_time(self, daemon: Running) -> None:
        """While one change waits another is 409, unless it is to replace it."""
        subscription = await paid(daemon)
        change: Any = {"product_id": "thirty", **LATER}
        await daemon.dodo.subscriptions.change_plan(subscription, **change)
        for body in ({"product_id": "yearly", **LATER}, {"product_id": "yearly", **PRORATED}):
            for path in ("change-plan", "change-plan/preview"):
                refused = await ask(daemon, "POST", f"/{subscription}/{path}", body)
                assert (refused.status_code, refused.headers["x-should-retry"]) == (409, "false")
        replacing = {"product_id": "yearly", **LATER, "cancel_scheduled_change_plan": True}
        assert (await ask(daemon, "POST", f"/{subscription}/change-plan", replacing)).status_code == 200
        scheduled = (await daemon.dodo.subscriptions.retrieve(subscription)).scheduled_change
        assert scheduled is not None
        assert scheduled.product_id == "yearly"

    async def test_only_active_ones(self, daemon: Running) -> None:
        """A subscription that is not active cannot change its product: 422 with Dodo's code."""
        made = await subscribe(daemon, await ann(daemon))
        for path in ("change-plan", "change-plan/preview"):
            refused = await ask(
                daemon, "POST", f"/{made['subscription_id']}/{path}", {"product_id": "thirty", **PRORATED}
            )
            assert (refused.status_code, refused.json()["code"]) == (
                422,
                "INACTIVE_SUBSCRIPTION_PLAN_CHANGE_NOT_SUPPORTED",
            )

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"proration_billing_mode": "full_immediately"}, "proration_billing_mode: "),
            ({"proration_billing_mode": "do_not_bill"}, "proration_billing_mode: "),
            ({"proration_billing_mode": "gratis"}, "proration_billing_mode: "),
            ({"quantity": 3}, "quantity: "),
            ({"addons": [{"addon_id": "a", "quantity": 1}]}, "addons: "),
            ({"on_payment_failure": "prevent_change"}, "on_payment_failure: "),
            ({"collect_via_payment_link": True}, "collect_via_payment_link: "),
            ({"product_id": "gone"}, "product_id: "),
            ({"product_id": None}, "product_id: "),
        ],
        ids=str,
    )
    async def test_refusals(self, daemon: Running, fields: Body, field: str) -> None:
        """What tallyd does not have is 422 with what to do instead; the product stays."""
        subscription = await paid(daemon)
        body = {"product_id": "thirty", **PRORATED, **fields}
        reply = await ask(daemon, "POST", f"/{subscription}/change-plan", body)
        assert (reply.status_code, reply.json()["message"].startswith(field)) == (422, True), reply.text
        assert (await daemon.dodo.subscriptions.retrieve(subscription)).product_id == "ten"

    @pytest.mark.parametrize("mode", ["full_immediately", "do_not_bill"])
    async def test_modes_mean_nothing_later(self, daemon: Running, mode: str) -> None:
        """At the next billing date nothing is prorated, so any way of billing a change will do."""
        subscription = await paid(daemon)
        body = {"product_id": "thirty", **LATER, "proration_billing_mode": mode}
        assert (await ask(daemon, "POST", f"/{subscription}/change-plan", body)).status_code == 200

    @pytest.mark.parametrize(("product", "words"), [("ten", "on 'ten' already"), ("yen", "paid in USD")])
    async def test_what_the_engine_refuses(self, daemon: Running, product: str, words: str) -> None:
        """To the same product, or to another currency, is 400 with the reason; unknown products are 404."""
        subscription = await paid(daemon)
        reply = await ask(daemon, "POST", f"/{subscription}/change-plan", {"product_id": product, **PRORATED})
        assert (reply.status_code, words in reply.json()["message"]) == (400, True), reply.text
        unknown = await ask(daemon, "POST", f"/{subscription}/change-plan", {"product_id": "none", **PRORATED})
        assert unknown.status_code == 404


async def test_scopes(daemon: Running) -> None:
    """A key that may only read looks up and previews, and changes nothing."""
    subscription, headers = await paid(daemon), await daemon.key_for("read")
    path = f"/subscriptions/{subscription}"
    change = {"product_id": "thirty", **PRORATED}
    assert (await daemon.http.get(path, headers=headers)).status_code == 200
    assert (await daemon.http.post(f"{path}/change-plan/preview", json=change, headers=headers)).status_code == 200
    for method, where in (("PATCH", path), ("POST", f"{path}/change-plan"), ("POST", "/subscriptions")):
        refused = await daemon.http.request(method, where, json=change, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (403, "FORBIDDEN")


async def test_a_test_clock(daemon: Running) -> None:
    """A customer on a clock of its own is listed by where its subscription stands then."""
    customer = await ann(daemon)
    made = await subscribe(daemon, customer)
    await pay(daemon, made)
    account = (await billing.find_subscription(daemon.core, made["subscription_id"])).account
    daemon.core.clock.standing[account.customer.id] = NOW + 20 * DAY_US
    reply = await daemon.http.get("/subscriptions", params={"status": "on_hold"})
    assert [item["subscription_id"] for item in reply.json()["items"]] == [made["subscription_id"]]
