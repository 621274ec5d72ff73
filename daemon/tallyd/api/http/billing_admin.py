"""Subscriptions and invoices as the operator sees them over the native API (CONTRACTS 1.3).

Lists are plain arrays, newest first; `limit` and `offset` go through them. What is scheduled is read from all
subscriptions, so it has a `limit` only.
"""

from functools import partial
from typing import Any, Final, Literal

import msgspec
from quart import Response, request
from quart_trio import QuartTrio

from tallyd.api import billing_requests, entitling
from tallyd.api.billing_views import change_view
from tallyd.api.checkout import with_checkout
from tallyd.api.credit_inputs import customer_asked
from tallyd.api.http import tanso
from tallyd.api.http.dodo_customers import find_customer
from tallyd.api.http.family import Family, body_bytes, whole_parameter
from tallyd.api.http.invoices import asked_page
from tallyd.api.http.subscriptions import cancel_mode
from tallyd.api.subscribing import subscribe
from tallyd.api.wire import Decoder
from tallyd.core import Core
from tallyd.model.subscription import Subscription
from tallyd.store import event_rows
from tallyd.store.subscription_rows import SubscriptionQuery, list_subscriptions
from tallyd.store.subscription_states import Matches, StateQuery, matching_subscriptions

SUBSCRIPTIONS: Final = f"{tanso.MONETIZATION}/subscriptions"
INVOICES: Final = f"{tanso.MONETIZATION}/billing/invoices"


class SettleInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of PATCH /billing/invoices/{id}; an empty body means paid."""

    status: Literal["PAID", "VOID"] = "PAID"


_decode_settle: Final = Decoder(SettleInput)


class BillingAdmin:
    """Handlers of `/api/v1/monetization/subscriptions` and `/billing/invoices`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        one, invoice = f"{SUBSCRIPTIONS}/<subscription_id>", f"{INVOICES}/<invoice>"
        family.route(app, SUBSCRIPTIONS, "GET", "read", self.subscriptions)
        family.route(app, SUBSCRIPTIONS, "POST", "admin", self.create)
        family.route(app, f"{SUBSCRIPTIONS}/scheduled-changes", "GET", "read", self.scheduled_changes)
        family.route(app, f"{SUBSCRIPTIONS}/scheduled-cancellations", "GET", "read", self.scheduled_cancellations)
        family.route(app, f"{SUBSCRIPTIONS}/customer/<customer>/", "GET", "read", self.of_customer)
        family.route(app, one, "GET", "read", self.subscription)
        family.route(app, f"{one}/activate", "POST", "admin", self.activate)
        family.route(app, f"{one}/cancel", "POST", "admin", self.cancel)
        family.route(app, INVOICES, "GET", "read", self.invoices)
        family.route(app, invoice, "GET", "read", self.invoice)
        family.route(app, invoice, "PATCH", "admin", self.settle)
        family.route(app, f"{invoice}/void", "POST", "admin", self.void)

    # Subscriptions

    async def subscriptions(self) -> Response:
        """List subscriptions, a customer's if one is asked for."""
        ref = customer_asked(request.args.get("customerReferenceId"), request.args.get("customerId"))
        customer = None if ref is None else (await entitling.known_account(self._core, ref)).customer.number
        return await self._listed(customer)

    async def create(self) -> Response:
        """Subscribe, as clients do: 201."""
        made = await subscribe(self._core, await body_bytes())
        return tanso.success(await with_checkout(self._core, made), 201)

    async def scheduled_changes(self) -> Response:
        """List the changes of plan that have not come yet."""

        def matches(subscription: Subscription, customer: str, _invoices: Any) -> bool:
            change = subscription.change
            return (
                change is not None and not change.cancelled and change.effective_at > self._core.clock.of(customer)
            )

        return tanso.success([await self._change(each) for each in await self._matching(matches)])

    async def scheduled_cancellations(self) -> Response:
        """List the subscriptions that are cancelled and still run."""

        def matches(subscription: Subscription, customer: str, _invoices: Any) -> bool:
            ends_at = subscription.ends_at
            cancelled = subscription.cancellation is not None and ends_at is not None
            return cancelled and ends_at > self._core.clock.of(customer)  # type: ignore[operator] # it is known

        return tanso.success([await self._whole(each) for each in await self._matching(matches)])

    async def of_customer(self, customer: str) -> Response:
        """List a customer's subscriptions; it is named by its reference, UUID or Stripe id."""
        _, account = await find_customer(self._core, customer)
        return await self._listed(account.customer.number)

    async def _listed(self, customer: int | None) -> Response:
        limit, offset = asked_page()
        query = SubscriptionQuery(customer=customer, limit=limit, offset=offset)
        found, _ = await self._core.books.scan(partial(list_subscriptions, query=query))
        return tanso.success([await self._whole(each) for each in found])

    async def _matching(self, matches: Matches) -> list[Subscription]:
        limit = whole_parameter("limit", tanso.PAGE_MAX, least=1, most=tanso.PAGE_MAX)
        query = StateQuery(limit=limit)
        found = await self._core.books.scan(partial(matching_subscriptions, query=query, matches=matches))
        return [subscription for _, subscription in found]

    async def _whole(self, subscription: Subscription) -> dict[str, Any]:
        return await billing_requests.subscription(self._core, subscription.id)

    async def _change(self, subscription: Subscription) -> dict[str, Any]:
        assert subscription.change is not None, "only such are listed"
        numbers = [subscription.customer]
        names = await self._core.books.read(partial(event_rows.customer_names, numbers=numbers))
        return {
            **change_view(subscription.change, now=subscription.change.effective_at - 1),
            "subscriptionId": subscription.id,
            "customerReferenceId": names[subscription.customer],
        }

    async def subscription(self, subscription_id: str) -> Response:
        """Return a subscription as it stands now."""
        return tanso.success(await billing_requests.subscription(self._core, subscription_id))

    async def activate(self, subscription_id: str) -> Response:
        """Mark a subscription's first invoice as paid; 400 when it waits for none."""
        return tanso.success(await billing_requests.activate(self._core, subscription_id))

    async def cancel(self, subscription_id: str) -> Response:
        """Cancel a subscription, as clients do."""
        return tanso.success(await billing_requests.cancel(self._core, subscription_id, cancel_mode()))

    # Invoices

    async def invoices(self) -> Response:
        """List invoices, by `status` if asked."""
        limit, offset = asked_page()
        ref = customer_asked(request.args.get("customerReferenceId"), request.args.get("customerId"))
        items, _ = await billing_requests.invoice_page(
            self._core, ref, request.args.get("status"), limit=limit, offset=offset
        )
        return tanso.success(items)

    async def invoice(self, invoice: str) -> Response:
        """Return an invoice with its lines."""
        return tanso.success(await billing_requests.invoice(self._core, invoice))

    async def settle(self, invoice: str) -> Response:
        """Mark an invoice as paid, or with `status` VOID void it."""
        sent: SettleInput = _decode_settle(await body_bytes() or b"{}")
        settle = billing_requests.mark_paid if sent.status == "PAID" else billing_requests.void_invoice
        return tanso.success(await settle(self._core, invoice))

    async def void(self, invoice: str) -> Response:
        """Void an invoice that is to be paid; its usage is billed by the next one."""
        return tanso.success(await billing_requests.void_invoice(self._core, invoice))
