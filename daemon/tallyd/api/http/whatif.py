"""What-if over the native API: tallyd's own, in Tanso's style."""

from quart import Response
from quart_trio import QuartTrio

from tallyd.api.http import tanso
from tallyd.api.http.family import Family, body_bytes
from tallyd.api.whatif import WhatIfs
from tallyd.core import Core


class WhatIfRoutes:
    """Handler of `/api/v1/monetization/what-if`."""

    def __init__(self, core: Core) -> None:
        self._what_ifs = WhatIfs(core)

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve it."""
        family.route(app, f"{tanso.MONETIZATION}/what-if", "POST", "admin", self.what_if)

    async def what_if(self) -> Response:
        """Say what a time that has been would have come to under another plan; nothing is changed."""
        return tanso.success(await self._what_ifs.answer(await body_bytes()))
