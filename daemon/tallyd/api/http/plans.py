"""Plans and features as clients see them over the native API (CONTRACTS 1.3, 1.6, 1.8)."""

from quart import Response
from quart_trio import QuartTrio

from tallyd.api import planning
from tallyd.api.http import tanso
from tallyd.api.http.family import Family
from tallyd.api.plan_views import feature_view, plan_view
from tallyd.core import Core


class Plans:
    """Handlers of `/api/v1/client/plans` and `/features`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        family.route(app, f"{tanso.CLIENT}/plans", "GET", "read", self.plans)
        family.route(app, f"{tanso.CLIENT}/features", "GET", "read", self.features)
        family.route(app, f"{tanso.CLIENT}/features/<name>", "GET", "read", self.feature)

    async def plans(self) -> Response:
        """List the plans that can be subscribed to, newest versions (CONTRACTS D1)."""
        active = [each for each in self._core.catalogue.versions.listed() if each.plan.status == "ACTIVE"]
        return tanso.success(tanso.listed([plan_view(self._core, each) for each in active]))

    async def features(self) -> Response:
        """List the features."""
        return tanso.success(tanso.listed([feature_view(each) for each in self._core.catalogue.features.values()]))

    async def feature(self, name: str) -> Response:
        """Return one feature, by key or id."""
        return tanso.success(feature_view(planning.find_feature(self._core, name)))
