"""Dodo's subscriptions: made, listed, looked up and changed (CONTRACTS 2.5).

A product is a plan: those made over `/products`, and those of the catalog file and the native API by their key.
What tallyd does not have (add-ons, quantities, discount codes, cards) is refused with what to do instead.
"""

from functools import partial
from typing import Any, Final

import msgspec
from quart import Response
from quart_trio import QuartTrio

from tallyd.actors.messages import ChangeProfile, Subscribe, SubscribeTerms
from tallyd.api import billing
from tallyd.api.billing_views import invoice_view
from tallyd.api.checkout import with_checkout
from tallyd.api.http import dodo
from tallyd.api.http.dodo_customers import CustomerInput, check_fields, find_customer, make_customer
from tallyd.api.http.dodo_events import check_metadata
from tallyd.api.http.dodo_prices import minor_units
from tallyd.api.http.dodo_subscription_changes import SubscriptionChange, apply_change, check_change
from tallyd.api.http.dodo_subscription_inputs import (
    Address,
    SubscriptionInput,
    check_subscription,
    find_product,
    product_term,
    with_address,
)
from tallyd.api.http.dodo_subscription_list import list_subscriptions
from tallyd.api.http.dodo_subscription_views import limited_customer, subscription_view
from tallyd.api.http.family import Family, answer, body_bytes
from tallyd.api.wire import Decoder
from tallyd.core import Core
from tallyd.engine.rating import PricedPlan
from tallyd.model.customer import CustomerRef
from tallyd.model.event import event_uuid
from tallyd.model.invoice import Invoice
from tallyd.model.problems import invalid
from tallyd.model.subscription import Subscription

PATH: Final = "/subscriptions"
_ONE: Final = f"{PATH}/<subscription>"
_decode = Decoder(SubscriptionInput)
_decode_change = Decoder(SubscriptionChange)
_encode_metadata: Final = msgspec.json.Encoder(order="deterministic", decimal_format="number").encode


class DodoSubscriptions:
    """Handlers of `/subscriptions`, changes of plan and usage apart."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        family.route(app, PATH, "POST", "admin", self.create)
        family.route(app, PATH, "GET", "read", self.list_subscriptions)
        family.route(app, _ONE, "GET", "read", self.retrieve)
        family.route(app, _ONE, "PATCH", "admin", self.change)
        family.route(app, f"{_ONE}/charge", "POST", "admin", self.charge)

    async def create(self) -> Response:
        """Put a customer on a product: 200. `payment_id` is the first invoice, which may have to be paid first."""
        with dodo.refusing(dodo.INVALID_BODY):
            sent: SubscriptionInput = _decode(await body_bytes())
            check_subscription(sent)
        if sent.metadata is not None:
            check_metadata(sent.metadata)
        plan = find_product(self._core, sent.product_id)
        term = product_term(self._core, plan)
        ref = await self._customer(sent)
        if sent.billing is not None:
            await self._keep_address(ref, sent.billing)
        message = Subscribe(
            SubscribeTerms(
                plan=plan,
                zone=self._core.config.account.timezone,
                trial_days=sent.trial_period_days,
                metadata=_encode_metadata(sent.metadata or {}).decode(),
                periods=term,
            )
        )
        await self._core.intake.ask(ref, message)
        assert message.subscription is not None, "a subscription was made"
        view = await self._made(ref, plan, message.subscription, message.invoices)
        return answer(await self._with_page(view, message) if sent.payment_link else view)

    async def _customer(self, sent: SubscriptionInput) -> CustomerRef:
        """Return whom a subscription is for: a customer there is, or one made for it."""
        if sent.customer.customer_id is not None:
            ref, _ = await find_customer(self._core, sent.customer.customer_id)
            return ref
        email = sent.customer.email
        assert email is not None, "it was checked"
        fields = CustomerInput(
            name=sent.customer.name or email, email=email, phone_number=sent.customer.phone_number
        )
        with dodo.refusing(dodo.INVALID_BODY):
            check_fields(msgspec.structs.asdict(fields))
        ref, _ = await find_customer(self._core, (await make_customer(self._core, fields)).label)
        return ref

    async def _keep_address(self, ref: CustomerRef, address: Address) -> None:
        await self._core.intake.ask(ref, ChangeProfile(partial(with_address, address=address)))

    async def _made(
        self, ref: CustomerRef, plan: PricedPlan, subscription: Subscription, invoices: list[Invoice]
    ) -> dict[str, Any]:
        account = await billing.account_now(self._core, ref)
        view = subscription_view(self._core, account, subscription, self._core.clock.of(account.customer.id))
        return {
            **view,
            "subscription_id": subscription.id,
            "customer": limited_customer(account.customer),
            "recurring_pre_tax_amount": minor_units(plan.price_amount, plan.currency),
            "payment_id": event_uuid(invoices[-1].number) if invoices else "",
            "payment_method_required": False,
        }

    async def _with_page(self, view: dict[str, Any], made: Subscribe) -> dict[str, Any]:
        """Add a page to pay the first invoice on, where that has to be paid first and a provider is set up."""
        if not made.invoices:
            return view
        native = {"invoice": invoice_view(made.invoices[-1], view["subscription_id"])}
        return {**view, "payment_link": (await with_checkout(self._core, native)).get("checkoutUrl")}

    # Looking up

    async def list_subscriptions(self) -> Response:
        """List subscriptions, newest first; the filters combine. `product_id` is the product it is on now."""
        return dodo.items(await list_subscriptions(self._core))

    async def retrieve(self, subscription: str) -> Response:
        """Return a subscription."""
        return answer(await self._view(subscription))

    async def _view(self, subscription: str) -> dict[str, Any]:
        owned = await billing.find_subscription(self._core, subscription)
        now = self._core.clock.of(owned.account.customer.id)
        return subscription_view(self._core, owned.account, owned.subscription, now)

    # Changing

    async def change(self, subscription: str) -> Response:
        """Change the fields that are sent: 200. To pause or to resume stands alone."""
        with dodo.refusing(dodo.INVALID_BODY):
            sent: SubscriptionChange = _decode_change(await body_bytes())
            check_change(sent)
        if sent.metadata is not None:
            check_metadata(sent.metadata)
        owned = await billing.find_subscription(self._core, subscription)
        metadata = None if sent.metadata is None else _encode_metadata(sent.metadata).decode()
        number = owned.subscription.number
        await billing.change(
            self._core, owned.ref, lambda draft: apply_change(draft, number, sent, metadata=metadata)
        )
        if sent.billing is not None:
            await self._keep_address(owned.ref, sent.billing)
        return answer(await self._view(subscription))

    async def charge(self, subscription: str) -> Response:
        """Refuse: there are no subscriptions on demand. Usage is charged by what is reported."""
        await billing.find_subscription(self._core, subscription)
        with dodo.refusing(dodo.INVALID_BODY):
            text = "no subscription here is on demand; report what is to be charged as usage: POST /events/ingest"
            raise invalid("product_price", text)
