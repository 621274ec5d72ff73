"""Credits as clients see them over the native API: pools, their transactions and grants, holds (CONTRACTS 1.3)."""

from typing import Any, Final

from quart import Response
from quart_trio import QuartTrio

from tallyd.api import credit_requests, crediting, entitling
from tallyd.api.consuming import hold_view
from tallyd.api.credit_inputs import decode_purchase
from tallyd.api.credit_views import facts_of, grant_view, pool_view
from tallyd.api.http import tanso
from tallyd.api.http.family import Family, body_bytes, whole_parameter
from tallyd.api.http.replays import request_key
from tallyd.core import Core

OFFSET_MAX: Final = 10_000_000


class Credits:
    """Handlers of `/api/v1/client/credits`. A pool is only found under its own customer."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        path = f"{tanso.CLIENT}/credits"
        family.route(app, f"{path}/purchases", "POST", "admin", self.purchase)
        family.route(app, f"{path}/<reference>/pools", "GET", "read", self.pools)
        family.route(app, f"{path}/<reference>/pools/<pool_id>", "GET", "read", self.pool)
        family.route(app, f"{path}/<reference>/pools/<pool_id>/transactions", "GET", "read", self.transactions)
        family.route(app, f"{path}/<reference>/pools/<pool_id>/grants", "GET", "read", self.grants)
        family.route(app, f"{path}/<reference>/holds", "GET", "read", self.holds)

    async def pools(self, reference: str) -> Response:
        """List a customer's pools as they are now, in order of opening."""
        pools = await crediting.pools_of(self._core, entitling.by_reference(reference))
        return tanso.success(tanso.listed([pool_view(pool) for pool in pools]))

    async def pool(self, reference: str, pool_id: str) -> Response:
        """Return a pool as it is now."""
        _, pool = await crediting.pool_now(self._core, pool_id, entitling.by_reference(reference))
        return tanso.success(pool_view(pool))

    async def transactions(self, reference: str, pool_id: str) -> Response:
        """List what moved a pool's credits, newest first."""
        limit = whole_parameter("limit", 50, least=1, most=tanso.PAGE_MAX)
        offset = whole_parameter("offset", 0, most=OFFSET_MAX)
        owner, pool = await crediting.owner_of(self._core, pool_id, entitling.by_reference(reference))
        rows, total = await credit_requests.transactions(self._core, owner, pool, limit=limit, offset=offset)
        return tanso.success(tanso.page(rows, total=total, limit=limit, offset=offset))

    async def grants(self, reference: str, pool_id: str) -> Response:
        """List a pool's grants, oldest first, used up ones too."""
        owner, pool = await crediting.owner_of(self._core, pool_id, entitling.by_reference(reference))
        grants = await crediting.grants(self._core, owner, pool)
        facts = facts_of(await entitling.known_account(self._core, owner))
        return tanso.success(_listed(grants, lambda grant: grant_view(grant, facts)))

    async def holds(self, reference: str) -> Response:
        """List the holds a customer has open now."""
        holds = await crediting.open_holds(self._core, entitling.by_reference(reference))
        return tanso.success(_listed(holds, hold_view))

    async def purchase(self) -> Response:
        """Sell credits: 201; 400 when they have no price, or come to less than can be charged.

        The payment is collected outside, by whoever calls this; so `completed` is true.
        """
        sent = decode_purchase(await body_bytes())
        return tanso.success(await credit_requests.purchase(self._core, sent, request_key()), 201)


def _listed(nouns: list[Any], view: Any) -> dict[str, Any]:
    """Return the page that is asked for; only what is on it is put into its wire shape."""
    page = tanso.listed(nouns)
    return {**page, "items": [view(noun) for noun in page["items"]]}
