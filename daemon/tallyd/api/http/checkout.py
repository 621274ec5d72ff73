"""Hosted checkout over HTTP: pages to pay on, where they stand, and the provider's webhooks (CONTRACTS 1.3)."""

from typing import Any

from quart import Response, request
from quart_trio import QuartTrio

from tallyd.api import checkout
from tallyd.api.checkout_webhooks import take_webhook
from tallyd.api.http import tanso
from tallyd.api.http.family import Family, body_bytes
from tallyd.core import Core
from tallyd.model.checkout import HostedCheckout
from tallyd.model.moments import iso


class Checkouts:
    """Handlers of `…/checkout`, `/checkout-sessions`, `/checkout-link` and `/webhooks`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        billing = f"{tanso.CLIENT}/billing"
        family.route(app, f"{billing}/subscriptions/<key>/stripe/checkout", "POST", "admin", self.subscription)
        family.route(app, f"{billing}/invoices/<key>/checkout", "POST", "admin", self.invoice)
        link = f"{tanso.MONETIZATION}/billing/invoices/<key>/checkout-link"
        family.route(app, link, "GET", "admin", self.invoice)
        family.route(app, f"{tanso.CLIENT}/checkout-sessions/<key>", "GET", "read", self.session)
        unkeyed = Family(self._core, tanso.render)  # whoever has no API key has nothing kept for replay either
        unkeyed.route(app, "/webhooks/<provider>", "POST", None, self.webhook)

    async def subscription(self, key: str) -> Response:
        """Return a page for a subscription's oldest invoice that is to be paid: 200."""
        return tanso.success(_page(await checkout.checkout_subscription(self._core, key)))

    async def invoice(self, key: str) -> Response:
        """Return a page for one invoice: 200."""
        return tanso.success(_page(await checkout.checkout_invoice(self._core, key)))

    async def session(self, key: str) -> Response:
        """Return where a checkout session stands: 200."""
        return tanso.success(await checkout.checkout_view(self._core, key))

    async def webhook(self, provider: str) -> Response:
        """Take a provider's webhook: 200 once what it says is durable; the signature stands in for a key."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        await take_webhook(self._core, provider, await body_bytes(), headers)
        return tanso.success({"received": True})


def _page(made: HostedCheckout) -> dict[str, Any]:
    page = {"url": made.url, "checkoutSessionId": made.id}
    return page if made.expires_at is None else {**page, "expiresAt": iso(made.expires_at)}
