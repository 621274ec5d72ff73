"""Invoices paid by hosted checkout: a real daemon, Stripe's own package, a Stripe of our own (CONTRACTS 1.3)."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import trio

from harness import NOW, PATIENCE_S, Running, running
from payments.stripe_stand_in import StripeStandIn, Webhook
from support import connected
from tallyd.api import billing, checkout, checkout_closing
from tallyd.model.invoice import InvoiceStatus
from tallyd.model.moments import DAY_US, SECOND_US, iso

CLIENT: Final = "/api/v1/client"
CATALOG: Final = """
[[features]]
key = "api"

[[plans]]
key = "pro"
name = "Pro"
price_amount = 49
[[plans.features]]
feature = "api"

[[plans]]
key = "free"
name = "Free"
[[plans.features]]
feature = "api"

[[plans]]
key = "later"
name = "Later"
price_amount = 20
billing_timing = "IN_ARREARS"
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = "0.10" }
late_events = "reopen"

[[plans]]
key = "dear"
name = "Dear"
price_amount = 99_999_999_999_999
[[plans.features]]
feature = "api"

[[plans]]
key = "dinar"
name = "Dinar"
currency = "KWD"
price_amount = "1.234"
[[plans.features]]
feature = "api"
"""

Event = dict[str, Any]


@pytest.fixture
def stripe_api(monkeypatch: pytest.MonkeyPatch) -> Iterator[StripeStandIn]:
    """Run a Stripe on this machine, at the daemon's time, without a proxy; nobody waits to try again."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(checkout_closing, "RETRY_FIRST_S", 0)
    with StripeStandIn(NOW // SECOND_US) as stand_in:
        yield stand_in


@asynccontextmanager
async def paying(directory: Path, stripe_api: StripeStandIn, **settings: Any) -> AsyncIterator[Running]:
    """Run a daemon whose invoices can be paid with that Stripe."""
    given = {
        "payments__provider": "stripe",
        "payments__success_url": "https://app.example.com/paid",
        **{f"payments__stripe__{key}": value for key, value in stripe_api.settings.items()},
        **settings,
    }
    async with running(directory, catalog=CATALOG, **given) as started:
        yield started


@pytest.fixture
async def shop(tmp_path: Path, stripe_api: StripeStandIn) -> AsyncIterator[Running]:
    """Run such a daemon."""
    async with paying(tmp_path, stripe_api) as started:
        yield started


async def post(daemon: Running, path: str, *, expect: int = 200, **fields: Any) -> Any:
    """Post to the client API; return what the envelope holds."""
    reply = await daemon.http.post(CLIENT + path, json=fields)
    assert reply.status_code == expect, reply.text
    return reply.json()["data" if expect < 400 else "error"]


async def subscribe(daemon: Running, plan: str = "pro", *, customer: str = "acme", **fields: Any) -> Any:
    """Subscribe; return the whole answer."""
    return await post(daemon, "/subscriptions", expect=201, customerReferenceId=customer, planKey=plan, **fields)


async def open_page(daemon: Running, invoice: str, *, expect: int = 200) -> Any:
    """Ask for a page for an invoice."""
    return await post(daemon, f"/billing/invoices/{invoice}/checkout", expect=expect)


async def session(daemon: Running, checkout_id: str) -> Any:
    """Return where a checkout session stands."""
    reply = await daemon.http.get(f"{CLIENT}/checkout-sessions/{checkout_id}")
    assert reply.status_code == 200, reply.text
    return reply.json()["data"]


async def status_of(daemon: Running, invoice: str) -> InvoiceStatus:
    """Return where an invoice stands."""
    return (await billing.find_invoice(daemon.core, invoice))[1].status


async def deliver(daemon: Running, webhook: Webhook, provider: str = "stripe") -> httpx.Response:
    """Deliver a webhook as Stripe does: without an API key."""
    request = daemon.http.build_request(
        "POST", f"/webhooks/{provider}", content=webhook.body, headers=webhook.headers
    )
    del request.headers["authorization"]
    return await daemon.http.send(request)


async def happened(daemon: Running, stripe_api: StripeStandIn, *events: Event) -> None:
    """Deliver events, which must be taken."""
    for event in events:
        reply = await deliver(daemon, stripe_api.deliver(event))
        assert reply.status_code == 200, reply.text


async def allowed(daemon: Running) -> bool:
    """Whether acme may use the plan."""
    reply = await daemon.http.get(f"{CLIENT}/entitlements/acme/api?record=false")
    return bool(reply.json()["data"]["allowed"])


async def metric(daemon: Running, name: str) -> float:
    """Return a counter."""
    page = (await daemon.http.get("/metrics")).text
    (line,) = (line for line in page.splitlines() if line.startswith(f"tallyd_{name}_total "))
    return float(line.split()[1])


async def ledger(daemon: Running) -> list[tuple[Any, ...]]:
    """Return every row of the ledger, and every checkout."""
    return await daemon.core.books.read(
        lambda books: [
            *books.execute("SELECT * FROM ledger_entries ORDER BY id"),
            *books.execute("SELECT * FROM checkouts ORDER BY id"),
        ]
    )


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - a stranger's thread sets no event
            await trio.sleep(0.005)


def page_of(stripe_api: StripeStandIn, checkout_id: str) -> Event:
    """Stripe's session for one of ours."""
    (found,) = (each for each in stripe_api.sessions.values() if each["client_reference_id"] == checkout_id)
    return found


def pay(stripe_api: StripeStandIn, checkout_id: str) -> Event:
    """Pay on the page of a session; return the event."""
    return stripe_api.pay(page_of(stripe_api, checkout_id)["id"])


class TestPaying:
    """From a page to a paid invoice."""

    async def test_subscribe_pay_and_use(self, shop: Running, stripe_api: StripeStandIn) -> None:
        """Subscribing gives a page; there is no access until it is paid and the webhook is taken."""
        made = await subscribe(shop)
        page = page_of(stripe_api, made["checkoutSessionId"])
        assert made["checkoutUrl"] == page["url"]
        assert (page["amount_total"], page["currency"]) == (4_900, "usd")
        assert page["metadata"]["tallyd_invoice"] == made["invoice"]["id"]
        assert page["success_url"] == "https://app.example.com/paid"
        assert not await allowed(shop)

        before = await session(shop, made["checkoutSessionId"])
        assert before == {
            "id": made["checkoutSessionId"],
            "purpose": "SUBSCRIPTION",
            "status": "PENDING",
            "checkoutUrl": page["url"],
            "subscriptionId": made["subscription"]["id"],
            "invoiceId": made["invoice"]["id"],
            "amount": 49,
            "currency": "USD",
            "createdAt": iso(NOW),
            "expiresAt": iso(NOW + DAY_US),
        }
        shop.clock.move(SECOND_US)
        await happened(shop, stripe_api, pay(stripe_api, made["checkoutSessionId"]))

        after = await session(shop, made["checkoutSessionId"])
        assert (after["status"], after["completedAt"]) == ("COMPLETED", iso(NOW + SECOND_US))
        assert "checkoutUrl" not in after
        assert await status_of(shop, made["invoice"]["id"]) is InvoiceStatus.PAID
        assert await allowed(shop)
        assert (await metric(shop, "checkouts"), await metric(shop, "checkouts_paid")) == (1, 1)

    async def test_a_subscription_s_oldest_invoice_is_paid_first(
        self, tmp_path: Path, stripe_api: StripeStandIn
    ) -> None:
        """Of two that are due it is the older one, then the other, then there is none."""
        async with paying(tmp_path, stripe_api) as shop:
            made = await subscribe(shop, "later", startsAt="2026-08-01T00:00:00Z", gracePeriod=90)
            assert "checkoutUrl" not in made
            path = f"/billing/subscriptions/{made['subscription']['id']}/stripe/checkout"
            paid = []
            for _ in range(3):
                page = await post(shop, path)
                assert (await session(shop, page["checkoutSessionId"]))["purpose"] == "INVOICE"
                await happened(shop, stripe_api, pay(stripe_api, page["checkoutSessionId"]))
                paid.append((await session(shop, page["checkoutSessionId"]))["invoiceId"])
            found = [(await billing.find_invoice(shop.core, each))[1] for each in paid]
            assert [each.serial for each in found] == [1, 2, 3]
            assert "no invoice" in (await post(shop, path, expect=404))["message"]

    async def test_what_is_not_to_be_paid_has_no_page(self, shop: Running, stripe_api: StripeStandIn) -> None:
        """Unknown, running, free or paid already: 404, and Stripe is not asked."""
        running_one = (await subscribe(shop, "later", customer="b"))["invoice"]["id"]
        free = await subscribe(shop, "free", customer="c")
        assert "checkoutUrl" not in free
        path = f"/billing/subscriptions/{free['subscription']['id']}/stripe/checkout"
        await post(shop, path, expect=404)
        await post(shop, "/billing/subscriptions/none/stripe/checkout", expect=404)
        await open_page(shop, "none", expect=404)
        refused = await open_page(shop, running_one, expect=404)
        assert "it is PENDING" in refused["message"]
        assert stripe_api.received == []

    async def test_an_invoice_has_one_page_at_a_time(self, shop: Running, stripe_api: StripeStandIn) -> None:
        """Whoever asks again, in whatever way and at once, gets the page that is open."""
        made = await subscribe(shop)
        invoice = made["invoice"]["id"]
        urls = [made["checkoutUrl"]]

        async def ask(path: str, method: str = "POST") -> None:
            reply = await shop.http.request(method, path)
            assert reply.status_code == 200, reply.text
            urls.append(reply.json()["data"]["url"])

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask, f"{CLIENT}/billing/invoices/{invoice}/checkout")
            subscription = made["subscription"]["id"]
            nursery.start_soon(ask, f"{CLIENT}/billing/subscriptions/{subscription}/stripe/checkout")
            link = f"/api/v1/monetization/billing/invoices/{made['invoice']['number']}/checkout-link"
            nursery.start_soon(ask, link, "GET")
        assert len(urls) == 6
        assert len(set(urls)) == len(stripe_api.sessions) == 1

    async def test_two_who_ask_at_once_get_one_page(self, tmp_path: Path, stripe_api: StripeStandIn) -> None:
        """The second waits for the first, and no second session is made."""
        async with paying(tmp_path, stripe_api) as shop:
            stripe_api.fail_next(500, {})
            invoice = (await subscribe(shop))["invoice"]["id"]
            answered = stripe_api.hold_next_answer()
            pages: list[Any] = []

            async def ask() -> None:
                pages.append(await open_page(shop, invoice))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await until(lambda: len(stripe_api.received) == 2)
                nursery.start_soon(ask)
                answered.set()
            assert pages[0] == pages[1]
            assert len(stripe_api.sessions) == 1

    async def test_the_socket_gives_the_same_page(self, shop: Running, stripe_api: StripeStandIn) -> None:
        """Who subscribes over the socket gets a page, too."""
        assert shop.service.socket_path is not None
        async with connected(shop.service.socket_path) as peer:
            made = await peer.result("subscribe", customerReferenceId="acme", planKey="pro")
        assert made["checkoutUrl"] == page_of(stripe_api, made["checkoutSessionId"])["url"]

    async def test_what_no_page_can_ask_for(self, shop: Running, stripe_api: StripeStandIn) -> None:
        """Beyond what the books could hold an invoice is not paid online: 400, and Stripe is not asked."""
        made = await subscribe(shop, "dear")
        refused = await open_page(shop, made["invoice"]["id"], expect=400)
        assert "more than can be paid online" in refused["message"]
        assert stripe_api.received == []

    async def test_the_customer_s_address_is_filled_in(self, shop: Running, stripe_api: StripeStandIn) -> None:
        """What the app told about the customer is on the page; an address that is none is refused in words."""
        await post(shop, "/customers", expect=201, customerReferenceId="acme", email="ap@acme.example")
        await post(shop, "/customers", expect=201, customerReferenceId="b", email="nobody")
        made = await subscribe(shop)
        assert page_of(stripe_api, made["checkoutSessionId"])["customer_email"] == "ap@acme.example"
        other = await subscribe(shop, customer="b")
        assert "checkoutUrl" not in other
        refused = await open_page(shop, other["invoice"]["id"], expect=400)
        assert "Stripe refuses it: Invalid email address: nobody" in refused["message"]

    async def test_the_invoice_page_can_link_to_it(self, shop: Running, stripe_api: StripeStandIn) -> None:
        """While a page is open its address is known; none is made for it, and there is none once it is paid."""
        stripe_api.fail_next(500, {})
        made = await subscribe(shop)

        async def url() -> str | None:
            return await checkout.pay_url(
                shop.core, (await billing.find_invoice(shop.core, made["invoice"]["id"]))[1]
            )

        assert await url() is None
        page = await open_page(shop, made["invoice"]["id"])
        assert await url() == page["url"]
        looked = await shop.http.get(f"{CLIENT}/billing/invoices/{made['invoice']['id']}/page")
        assert f'href="{page["url"]}"' in looked.text
        await happened(shop, stripe_api, pay(stripe_api, page["checkoutSessionId"]))
        assert await url() is None
        assert len(stripe_api.sessions) == 1

    async def test_keys_say_who_may_ask(self, shop: Running) -> None:
        """Pages need the scope admin, where they stand needs read; neither is for strangers."""
        made = await subscribe(shop)
        reads = await shop.key_for("read")
        invoice, checkout_id = made["invoice"]["id"], made["checkoutSessionId"]
        path = f"{CLIENT}/billing/invoices/{invoice}/checkout"
        link = f"/api/v1/monetization/billing/invoices/{invoice}/checkout-link"
        assert (await shop.http.post(path, headers=reads)).status_code == 403
        assert (await shop.http.get(link, headers=reads)).status_code == 403
        looked = await shop.http.get(f"{CLIENT}/checkout-sessions/{checkout_id}", headers=reads)
        assert looked.status_code == 200
        stranger = {"Authorization": "Bearer nobody"}
        assert (await shop.http.post(path, headers=stranger)).status_code == 401

    async def test_a_session_that_is_not_known(self, shop: Running) -> None:
        """404."""
        assert (await shop.http.get(f"{CLIENT}/checkout-sessions/none")).status_code == 404


class TestWebhooks:
    """They come more than once, late and in any order."""

    async def test_a_replay_changes_nothing(self, shop: Running, stripe_api: StripeStandIn) -> None:
        """The same delivery, another delivery of the same event, and later events: the books stay as they are."""
        made = await subscribe(shop)
        event = pay(stripe_api, made["checkoutSessionId"])
        webhook = stripe_api.deliver(event)
        assert (await deliver(shop, webhook)).status_code == 200
        before = await ledger(shop)
        late = {**event, "type": "checkout.session.expired", "id": "evt_late"}
        failed = {**event, "type": "checkout.session.async_payment_failed", "id": "evt_failed"}
        for again in (webhook, webhook, *map(stripe_api.deliver, (event, late, failed, event))):
            assert (await deliver(shop, again)).status_code == 200
        assert await ledger(shop) == before
        assert (await metric(shop, "checkouts_paid"), await metric(shop, "payments_unmatched")) == (1, 0)

    async def test_replays_that_race_settle_once(self, shop: Running, stripe_api: StripeStandIn) -> None:
        """Ten deliveries at a time pay one invoice once."""
        made = await subscribe(shop)
        webhook = stripe_api.deliver(pay(stripe_api, made["checkoutSessionId"]))
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(deliver, shop, webhook)
        assert await status_of(shop, made["invoice"]["id"]) is InvoiceStatus.PAID
        assert await metric(shop, "checkouts_paid") == 1

    async def test_a_webhook_is_answered_when_it_is_durable(
        self, shop: Running, stripe_api: StripeStandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While the commit is on its way there is no answer: should the daemon end, Stripe sends it again (P1)."""
        made = await subscribe(shop)
        webhook = stripe_api.deliver(pay(stripe_api, made["checkoutSessionId"]))
        commit, begun, released = shop.core.books.commit, trio.Event(), trio.Event()
        replies: list[httpx.Response] = []

        async def held(rows: Any) -> list[int]:
            begun.set()
            await released.wait()
            return await commit(rows)

        async def send() -> None:
            replies.append(await deliver(shop, webhook))

        monkeypatch.setattr(shop.core.books, "commit", held)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await begun.wait()
            assert (await session(shop, made["checkoutSessionId"]))["status"] == "PENDING"
            assert replies == []
            released.set()
        assert [each.status_code for each in replies] == [200]
        assert (await session(shop, made["checkoutSessionId"]))["status"] == "COMPLETED"

    async def test_money_that_comes_days_later(self, shop: Running, stripe_api: StripeStandIn) -> None:
        """A bank transfer that is promised gives no access; when the money has come it does."""
        made = await subscribe(shop)
        page = page_of(stripe_api, made["checkoutSessionId"])["id"]
        await happened(shop, stripe_api, stripe_api.promise(page))
        assert (await session(shop, made["checkoutSessionId"]))["status"] == "PENDING"
        assert not await allowed(shop)
        await happened(shop, stripe_api, stripe_api.money_comes(page))
        assert await allowed(shop)

    async def test_money_that_does_not_come(self, shop: Running, stripe_api: StripeStandIn) -> None:
        """The session is EXPIRED, and a new page can be asked for."""
        made = await subscribe(shop)
        page = page_of(stripe_api, made["checkoutSessionId"])["id"]
        promise, failure = stripe_api.promise(page), stripe_api.money_fails_to_come(page)
        await happened(shop, stripe_api, promise, failure)
        assert (await session(shop, made["checkoutSessionId"]))["status"] == "EXPIRED"
        assert (await open_page(shop, made["invoice"]["id"]))["checkoutSessionId"] != made["checkoutSessionId"]

    async def test_the_wrong_order_comes_to_the_same(self, shop: Running, stripe_api: StripeStandIn) -> None:
        """Money before its promise, and a page's end before the money: the invoice is paid once."""
        first = await subscribe(shop)
        page = page_of(stripe_api, first["checkoutSessionId"])["id"]
        promise, money = stripe_api.promise(page), stripe_api.money_comes(page)
        await happened(shop, stripe_api, money, promise)
        assert await status_of(shop, first["invoice"]["id"]) is InvoiceStatus.PAID

        second = await subscribe(shop, customer="b")
        event = pay(stripe_api, second["checkoutSessionId"])
        ended = {**event, "type": "checkout.session.expired", "id": "evt_ended"}
        await happened(shop, stripe_api, ended)
        assert (await session(shop, second["checkoutSessionId"]))["status"] == "EXPIRED"
        await happened(shop, stripe_api, event)
        assert (await session(shop, second["checkoutSessionId"]))["status"] == "COMPLETED"
        assert await status_of(shop, second["invoice"]["id"]) is InvoiceStatus.PAID

    async def test_a_payment_may_come_before_the_page_is_known(
        self, tmp_path: Path, stripe_api: StripeStandIn
    ) -> None:
        """A webhook that overtakes Stripe's answer pays the invoice; nobody is given that page any more."""
        async with paying(tmp_path, stripe_api) as shop:
            stripe_api.fail_next(500, {})
            invoice = (await subscribe(shop))["invoice"]["id"]
            answered = stripe_api.hold_next_answer()
            async with trio.open_nursery() as nursery:
                replies: list[Any] = []

                async def ask() -> None:
                    replies.append(await shop.http.post(f"{CLIENT}/billing/invoices/{invoice}/checkout"))

                nursery.start_soon(ask)
                await until(lambda: bool(stripe_api.sessions))
                (page,) = stripe_api.sessions
                await happened(shop, stripe_api, stripe_api.pay(page))
                assert await status_of(shop, invoice) is InvoiceStatus.PAID
                answered.set()
            assert replies[0].status_code == 404
            assert "it is PAID" in replies[0].json()["error"]["message"]
            assert await allowed(shop)

    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            ({"amount_total": 4_899}, "48.99 USD came, and 49.00 USD were to be paid"),
            ({"currency": "eur"}, "49.00 EUR came"),
            ({"id": "cs_another"}, "was made for this checkout"),
        ],
    )
    async def test_another_payment_than_was_asked_for_settles_nothing(
        self, shop: Running, stripe_api: StripeStandIn, changed: Event, words: str
    ) -> None:
        """Signed as it is: the invoice stays due, it is counted and written on the session, and answered 200."""
        made = await subscribe(shop)
        event = pay(stripe_api, made["checkoutSessionId"])
        event = {**event, "data": {"object": {**event["data"]["object"], **changed}}}
        await happened(shop, stripe_api, event)
        assert await status_of(shop, made["invoice"]["id"]) is InvoiceStatus.DUE
        found = await session(shop, made["checkoutSessionId"])
        assert found["status"] == "PENDING"
        assert words in found["problem"]
        assert (await metric(shop, "payments_unmatched"), await metric(shop, "checkouts_paid")) == (1, 0)

    async def test_who_it_is_from_is_checked_to_the_byte(self, shop: Running, stripe_api: StripeStandIn) -> None:
        """A body changed by a space, another's secret, no signature, an old one: 400, and nothing is settled."""
        made = await subscribe(shop)
        event = pay(stripe_api, made["checkoutSessionId"])
        good = stripe_api.deliver(event)
        unsigned = {key: value for key, value in good.headers.items() if key != "stripe-signature"}
        for bad in (
            Webhook(good.body + b" ", good.headers),
            Webhook(json.dumps(json.loads(good.body)).encode(), good.headers),
            stripe_api.deliver(event, secrets=["whsec_another"]),
            Webhook(good.body, unsigned),
            stripe_api.deliver(event, at_s=stripe_api.now_s - 301),
        ):
            reply = await deliver(shop, bad)
            assert (reply.status_code, reply.json()["error"]["code"]) == (400, "validation_failed")
        assert await status_of(shop, made["invoice"]["id"]) is InvoiceStatus.DUE
        assert await metric(shop, "webhooks_refused") == 5
        assert (await deliver(shop, good)).status_code == 200

    async def test_what_is_signed_and_none_of_ours_is_taken(
        self, shop: Running, stripe_api: StripeStandIn
    ) -> None:
        """Other events, and sessions that are not known: 200, or Stripe sends them for days."""
        made = await subscribe(shop)
        event = pay(stripe_api, made["checkoutSessionId"])
        held = event["data"]["object"]
        foreign = {**held, "metadata": {"tallyd_session": "somebody-else"}}
        before = await ledger(shop)
        await happened(shop, stripe_api, {**event, "type": "customer.created"})
        await happened(shop, stripe_api, {**event, "data": {"object": foreign}})
        assert await ledger(shop) == before

    async def test_a_payload_that_cannot_be_read_is_refused(
        self, shop: Running, stripe_api: StripeStandIn
    ) -> None:
        """Signed, and yet no event: 400."""
        body = b'{"type": "checkout.session.completed", "data": 5}'
        reply = await deliver(shop, Webhook(body, {"stripe-signature": stripe_api.sign(body)}))
        assert reply.status_code == 400

    async def test_only_the_provider_that_is_set_up_is_listened_to(
        self, shop: Running, stripe_api: StripeStandIn
    ) -> None:
        """404 for another's webhooks."""
        made = await subscribe(shop)
        webhook = stripe_api.deliver(pay(stripe_api, made["checkoutSessionId"]))
        assert (await deliver(shop, webhook, "paypal")).status_code == 404


class TestNobodyPaysTwice:
    """An invoice that is settled otherwise has no page any more."""

    async def test_a_page_is_closed_when_its_invoice_is_marked_as_paid(
        self, shop: Running, stripe_api: StripeStandIn
    ) -> None:
        """At Stripe, in the background; and so is the session."""
        made = await subscribe(shop)
        await billing.mark_paid(shop.core, made["invoice"]["id"])
        page = page_of(stripe_api, made["checkoutSessionId"])
        await until(lambda: page["status"] == "expired")
        await self.ends(shop, made["checkoutSessionId"])

    async def ends(self, shop: Running, checkout_id: str) -> None:
        """Wait until a session is EXPIRED in the books."""
        with trio.fail_after(PATIENCE_S):
            while (await session(shop, checkout_id))["status"] != "EXPIRED":  # noqa: ASYNC110 - over HTTP
                await trio.sleep(0.005)

    async def test_a_page_is_closed_when_the_subscription_is_cancelled(
        self, shop: Running, stripe_api: StripeStandIn
    ) -> None:
        """Its invoice is void then."""
        made = await subscribe(shop)
        owned = await billing.find_subscription(shop.core, made["subscription"]["id"])
        await billing.cancel(shop.core, owned, "IMMEDIATE")
        await until(lambda: page_of(stripe_api, made["checkoutSessionId"])["status"] == "expired")
        await self.ends(shop, made["checkoutSessionId"])

    async def test_a_page_asks_for_what_is_owed(self, tmp_path: Path, stripe_api: StripeStandIn) -> None:
        """A late event that reopens the invoice closes the page; the next one asks for the new amount."""
        async with paying(tmp_path, stripe_api) as shop:
            made = await subscribe(shop, "later", startsAt="2026-10-21T00:00:00Z", gracePeriod=90)
            path = f"/billing/subscriptions/{made['subscription']['id']}/stripe/checkout"
            first = await post(shop, path)
            late = {"eventName": "call", "customerReferenceId": "acme", "featureKey": "api", "usageUnits": 30}
            await post(shop, "/events", expect=201, **late, occurredAt="2026-11-01T00:00:00Z")
            second = await post(shop, path)
            pages = [page_of(stripe_api, each["checkoutSessionId"]) for each in (first, second)]
            assert [each["amount_total"] for each in pages] == [2_000, 2_300]
            assert [each["status"] for each in pages] == ["expired", "open"]
            await happened(shop, stripe_api, pay(stripe_api, second["checkoutSessionId"]))
            invoice = (await session(shop, second["checkoutSessionId"]))["invoiceId"]
            assert await status_of(shop, invoice) is InvoiceStatus.PAID

    async def test_money_for_an_invoice_that_was_settled_otherwise_is_told(
        self, shop: Running, stripe_api: StripeStandIn
    ) -> None:
        """Paid on the page before it was closed: the session says so, it is counted, and nothing is paid twice."""
        made = await subscribe(shop)
        event = pay(stripe_api, made["checkoutSessionId"])
        await billing.mark_paid(shop.core, made["invoice"]["id"])
        await happened(shop, stripe_api, event, event)
        found = await session(shop, made["checkoutSessionId"])
        assert (found["status"], found["problem"]) == (
            "COMPLETED",
            "the invoice was PAID already when the money came",
        )
        assert (await metric(shop, "payments_unmatched"), await metric(shop, "checkouts_paid")) == (1, 0)

    async def test_closing_is_tried_again(self, shop: Running, stripe_api: StripeStandIn) -> None:
        """Stripe does not answer at first."""
        made = await subscribe(shop)
        for _ in range(checkout_closing.TRIES_MAX - 1):
            stripe_api.fail_next(500, {})
        await billing.mark_paid(shop.core, made["invoice"]["id"])
        await self.ends(shop, made["checkoutSessionId"])
        assert await metric(shop, "provider_failures") == checkout_closing.TRIES_MAX - 1

    async def test_closing_is_given_up_and_done_at_the_next_start(
        self, tmp_path: Path, stripe_api: StripeStandIn
    ) -> None:
        """The bound is kept; the books still say which page is open for nothing, and which is not."""
        async with paying(tmp_path, stripe_api) as shop:
            other = await subscribe(shop, customer="b")
            made = await subscribe(shop)
            asked = len(stripe_api.received)
            for _ in range(checkout_closing.TRIES_MAX):
                stripe_api.fail_next(500, {})
            await billing.mark_paid(shop.core, made["invoice"]["id"])
            await until(lambda: len(stripe_api.received) == asked + checkout_closing.TRIES_MAX)
            assert (await session(shop, made["checkoutSessionId"]))["status"] == "PENDING"
        assert page_of(stripe_api, made["checkoutSessionId"])["status"] == "open"
        async with paying(tmp_path, stripe_api) as shop:
            await self.ends(shop, made["checkoutSessionId"])
        assert page_of(stripe_api, made["checkoutSessionId"])["status"] == "expired"
        assert page_of(stripe_api, other["checkoutSessionId"])["status"] == "open"
        assert len(stripe_api.received) == asked + checkout_closing.TRIES_MAX + 1

    async def test_a_page_stays_open_while_its_invoice_is_to_be_paid(
        self, shop: Running, stripe_api: StripeStandIn
    ) -> None:
        """An invoice that falls overdue is paid on the page it had when it was due."""
        made, other = await subscribe(shop, gracePeriod=0), await subscribe(shop, customer="b")
        stripe_api.advance(43_200)
        shop.clock.move(DAY_US // 2)
        assert await status_of(shop, made["invoice"]["id"]) is InvoiceStatus.PAST_DUE
        await billing.mark_paid(shop.core, other["invoice"]["id"])
        await self.ends(shop, other["checkoutSessionId"])
        assert (await open_page(shop, made["invoice"]["id"]))["url"] == made["checkoutUrl"]
        await happened(shop, stripe_api, pay(stripe_api, made["checkoutSessionId"]))
        assert await status_of(shop, made["invoice"]["id"]) is InvoiceStatus.PAID

    async def test_a_page_that_is_over_makes_room_for_another(
        self, shop: Running, stripe_api: StripeStandIn
    ) -> None:
        """A day later, without a webhook: the session is EXPIRED by the clock, the next page is a new one (P7)."""
        made = await subscribe(shop)
        stripe_api.advance(86_400)
        shop.clock.move(DAY_US)
        assert (await session(shop, made["checkoutSessionId"]))["status"] == "EXPIRED"
        page = await open_page(shop, made["invoice"]["id"])
        assert page["checkoutSessionId"] != made["checkoutSessionId"]
        assert page["url"] != made["checkoutUrl"]

    async def test_another_provider_s_page_is_left(
        self, shop: Running, stripe_api: StripeStandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Once another provider is set up its page is used; the former one is not asked any more."""
        made = await subscribe(shop)
        assert shop.core.provider is not None
        monkeypatch.setattr(shop.core.provider, "name", "acme")
        page = await open_page(shop, made["invoice"]["id"])
        assert page["url"] != made["checkoutUrl"]
        assert (await session(shop, made["checkoutSessionId"]))["status"] == "EXPIRED"
        assert [each.path for each in stripe_api.received] == ["/v1/checkout/sessions"] * 2

    async def test_no_second_page_while_a_payment_is_on_its_way(
        self, shop: Running, stripe_api: StripeStandIn
    ) -> None:
        """A transfer was promised and the page is over: 409 until it has come, or is known not to come."""
        made = await subscribe(shop)
        page = page_of(stripe_api, made["checkoutSessionId"])["id"]
        await happened(shop, stripe_api, stripe_api.promise(page))
        shop.clock.move(DAY_US)
        refused = await open_page(shop, made["invoice"]["id"], expect=409)
        assert "on its way" in refused["message"]
        assert len(stripe_api.sessions) == 1


class TestTrouble:
    """Stripe refuses, does not answer, or the daemon ends in the middle."""

    async def test_without_a_provider_the_setting_is_named(self, tmp_path: Path) -> None:
        """400 for pages; subscribing gives none; there is nobody whose webhooks are taken."""
        async with running(tmp_path, catalog=CATALOG) as daemon:
            made = await subscribe(daemon)
            assert "checkoutUrl" not in made
            refused = await open_page(daemon, made["invoice"]["id"], expect=400)
            assert "payments.provider" in refused["message"]
            path = f"/billing/subscriptions/{made['subscription']['id']}/stripe/checkout"
            assert "payments.provider" in (await post(daemon, path, expect=400))["message"]
            assert (await deliver(daemon, Webhook(b"{}", {}))).status_code == 404

    async def test_what_stripe_refuses_is_told_in_its_words(
        self, shop: Running, stripe_api: StripeStandIn
    ) -> None:
        """400; the session is over, and asking again asks Stripe again."""
        made = await subscribe(shop, "dinar")
        assert "checkoutUrl" not in made
        for _ in range(2):
            refused = await open_page(shop, made["invoice"]["id"], expect=400)
            assert "Stripe takes KWD in steps of 0.010 KWD" in refused["message"]
        rows = await shop.core.books.read(lambda books: books.execute("SELECT status FROM checkouts").fetchall())
        assert rows == [("EXPIRED",)] * 3
        assert stripe_api.sessions == {}

    async def test_a_subscription_stands_without_stripe(self, shop: Running, stripe_api: StripeStandIn) -> None:
        """It is made whether or not there is a page, and the page can be asked for later."""
        stripe_api.fail_next(503, b"<html>")
        made = await subscribe(shop)
        assert made["invoice"]["status"] == "DUE"
        assert "checkoutUrl" not in made
        assert (await open_page(shop, made["invoice"]["id"]))["url"]
        assert await metric(shop, "provider_failures") == 1

    async def test_no_answer_within_the_budget_is_503(self, tmp_path: Path, stripe_api: StripeStandIn) -> None:
        """With Retry-After; and asking again is safe."""
        async with paying(tmp_path, stripe_api) as shop:
            stripe_api.fail_next(500, {})
            invoice = (await subscribe(shop))["invoice"]["id"]
        async with paying(tmp_path, stripe_api, payments__budget_ms=50) as shop:
            stripe_api.hang_next()
            reply = await shop.http.post(f"{CLIENT}/billing/invoices/{invoice}/checkout")
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
            assert "has not answered within 0.05 seconds" in reply.json()["error"]["message"]
        async with paying(tmp_path, stripe_api) as shop:
            page = await open_page(shop, invoice)
            await happened(shop, stripe_api, pay(stripe_api, page["checkoutSessionId"]))
            assert await allowed(shop)

    async def test_an_answer_that_is_lost_leaves_one_page_in_use(
        self, shop: Running, stripe_api: StripeStandIn
    ) -> None:
        """Stripe made a page nobody knows; asked again there is another. Should money come there, it counts."""
        stripe_api.lose_next_answer()
        made = await subscribe(shop)
        (ghost,) = stripe_api.sessions
        page = await open_page(shop, made["invoice"]["id"])
        assert len(stripe_api.sessions) == 2
        lost = stripe_api.sessions[ghost]["client_reference_id"]
        assert (await session(shop, lost))["status"] == "EXPIRED"
        await happened(shop, stripe_api, stripe_api.pay(ghost))
        assert await status_of(shop, made["invoice"]["id"]) is InvoiceStatus.PAID
        await until(lambda: page_of(stripe_api, page["checkoutSessionId"])["status"] == "expired")

    async def test_an_invoice_that_is_settled_while_its_page_is_made(
        self, tmp_path: Path, stripe_api: StripeStandIn
    ) -> None:
        """Nobody is given the page, and it is closed."""
        async with paying(tmp_path, stripe_api) as shop:
            stripe_api.fail_next(500, {})
            invoice = (await subscribe(shop))["invoice"]["id"]
            answered = stripe_api.hold_next_answer()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: open_page(shop, invoice, expect=404))
                await until(lambda: bool(stripe_api.sessions))
                await billing.mark_paid(shop.core, invoice)
                answered.set()
            (page,) = stripe_api.sessions.values()
            await until(lambda: page["status"] == "expired")
