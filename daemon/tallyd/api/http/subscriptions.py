"""Subscriptions over the native API: begun, changed, paused, ended; their next invoice (CONTRACTS 1.3, 1.8)."""

from typing import Final

import msgspec
from quart import Response, request
from quart_trio import QuartTrio

from tallyd.api import billing_requests
from tallyd.api.billing import CancelMode
from tallyd.api.checkout import with_checkout
from tallyd.api.http import tanso
from tallyd.api.http.family import Family, body_bytes
from tallyd.api.subscribing import subscribe
from tallyd.core import Core
from tallyd.model.problems import invalid

PATH: Final = f"{tanso.CLIENT}/subscriptions"


class Subscriptions:
    """Handlers of `/api/v1/client/subscriptions`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        one = f"{PATH}/<subscription_id>"
        family.route(app, PATH, "POST", "admin", self.create)
        family.route(app, one, "GET", "read", self.retrieve)
        family.route(app, f"{one}/preview", "GET", "read", self.preview)
        family.route(app, f"{PATH}/cancellation/<subscription_id>", "POST", "admin", self.cancel)
        family.route(app, f"{PATH}/cancellation/<subscription_id>/scheduled", "DELETE", "admin", self.keep)
        family.route(app, f"{one}/plan-change", "POST", "admin", self.change_plan)
        family.route(app, f"{one}/plan-change/scheduled", "DELETE", "admin", self.keep_plan)
        family.route(app, f"{one}/pause", "POST", "admin", self.pause)
        family.route(app, f"{one}/resume", "POST", "admin", self.resume)

    async def create(self) -> Response:
        """Subscribe: 201."""
        subscribed = await subscribe(self._core, await body_bytes())
        return tanso.success(await with_checkout(self._core, subscribed), 201)

    async def retrieve(self, subscription_id: str) -> Response:
        """Return a subscription as it stands now."""
        return tanso.success(await billing_requests.subscription(self._core, subscription_id))

    async def preview(self, subscription_id: str) -> Response:
        """Return the next invoice as it will be if nothing happens until then; null when none will come."""
        return tanso.success({"invoice": await billing_requests.preview(self._core, subscription_id)})

    async def cancel(self, subscription_id: str) -> Response:
        """Cancel at the period's end, or at once (CONTRACTS D7)."""
        return tanso.success(await billing_requests.cancel(self._core, subscription_id, cancel_mode()))

    async def keep(self, subscription_id: str) -> Response:
        """Take back a cancellation that has not come yet."""
        return tanso.success(await billing_requests.revert_cancellation(self._core, subscription_id))

    async def change_plan(self, subscription_id: str) -> Response:
        """Upgrade at once, or downgrade at the period's end (CONTRACTS D8)."""
        sent = billing_requests.decode_change_plan(await body_bytes())
        return tanso.success(await billing_requests.change_plan(self._core, subscription_id, sent))

    async def keep_plan(self, subscription_id: str) -> Response:
        """Take back a change of plan that has not come yet."""
        return tanso.success(await billing_requests.revert_change(self._core, subscription_id))

    async def pause(self, subscription_id: str) -> Response:
        """Pause: no access, and nothing more is invoiced but usage."""
        return tanso.success(await billing_requests.pause(self._core, subscription_id))

    async def resume(self, subscription_id: str) -> Response:
        """End a pause."""
        return tanso.success(await billing_requests.resume(self._core, subscription_id))


def cancel_mode() -> CancelMode:
    """Read `cancelMode` from the query; absent: at the period's end.

    Raises:
        ProblemError: another word.
    """
    try:
        mode: CancelMode = msgspec.convert(request.args.get("cancelMode", "END_OF_PERIOD"), CancelMode)
    except msgspec.ValidationError:
        raise invalid("cancelMode", "must be END_OF_PERIOD or IMMEDIATE") from None
    return mode
