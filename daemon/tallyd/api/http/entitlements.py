"""Entitlements over the native API: check, evaluate, list (CONTRACTS 1.3, 1.9)."""

from quart import Response
from quart_trio import QuartTrio

from tallyd.api import entitling
from tallyd.api.http import tanso
from tallyd.api.http.family import Family, body_bytes, flag_parameter
from tallyd.clock import new_uuid
from tallyd.core import Core
from tallyd.engine import entitlements
from tallyd.engine.passing import current


class Entitlements:
    """Handlers of `/api/v1/client/entitlements`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        path = f"{tanso.CLIENT}/entitlements"
        family.route(app, path, "POST", "read", self.evaluate)
        family.route(app, f"{path}/<reference>", "GET", "read", self.list)
        family.route(app, f"{path}/<reference>/<feature_key>", "GET", "read", self.check)

    async def check(self, reference: str, feature_key: str) -> Response:
        """Answer a check. `record` is accepted: checks are counted in the metrics, never stored."""
        flag_parameter("record", default=True)
        return tanso.success(await entitling.check(self._core, reference, feature_key))

    async def evaluate(self) -> Response:
        """Answer an evaluate; usage is simulated, not recorded."""
        request = entitling.decode_evaluate(await body_bytes())
        return tanso.success(await entitling.evaluate(self._core, request, new_uuid()))

    async def list(self, reference: str) -> Response:
        """List what each active subscription allows now."""
        account = await entitling.known_account(self._core, entitling.by_reference(reference))
        now = self._core.clock.of(account.customer.id)
        account = current(account, now)
        items = [
            {
                "subscriptionId": each.subscription.id,
                "entitlements": [
                    {"featureKey": key, "allowed": entitlements.decide(account, key, now).allowed}
                    for key in each.plan.features
                ],
            }
            for each in account.phases_at(now)
            if each.active_at(now)
        ]
        return tanso.success(tanso.listed(items))
