"""Credits as the operator moves them over the native API: pools, grants, deductions, reversals (CONTRACTS 1.7)."""

from functools import partial
from typing import Any, Final

import msgspec
from quart import Response, request
from quart_trio import QuartTrio

from tallyd.api import credit_requests, crediting
from tallyd.api.credit_inputs import (
    check_priority,
    customer_needed,
    decode_deduction,
    decode_grant,
    decode_pool,
)
from tallyd.api.credit_views import admin_grant_view, admin_pool_view, alert_view, link_view, transaction_view
from tallyd.api.http import tanso
from tallyd.api.http.credit_models import change_model
from tallyd.api.http.credit_schedules import CREDITS
from tallyd.api.http.family import Family, body_bytes, decimal_parameter, whole_parameter
from tallyd.api.http.replays import request_key
from tallyd.api.wire import Decoder
from tallyd.core import Core
from tallyd.engine.events import check_identifier
from tallyd.model.credits import Pool, PoolStatus
from tallyd.model.customer import CustomerRef
from tallyd.model.problems import invalid
from tallyd.store import credit_rows, event_rows

NUMBER_MAX: Final = 2**62

_decode: Final = Decoder(dict[str, Any])
_STATUSES: Final = (PoolStatus.ACTIVE, PoolStatus.FROZEN, PoolStatus.ARCHIVED)


class CreditAdmin:
    """Handlers of `/api/v1/monetization/credits`, and of the outbox beside it."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        pool = f"{CREDITS}/pools/<pool_id>"
        family.route(app, f"{CREDITS}/pools", "POST", "admin", self.open_pool)
        family.route(app, f"{CREDITS}/pools", "GET", "read", self.pools)
        family.route(app, pool, "GET", "read", self.pool)
        family.route(app, pool, "PATCH", "admin", self.change_pool)
        family.route(app, f"{pool}/freeze", "POST", "admin", partial(self.freeze, frozen=True))
        family.route(app, f"{pool}/unfreeze", "POST", "admin", partial(self.freeze, frozen=False))
        family.route(app, f"{pool}/archive", "POST", "admin", self.archive)
        family.route(app, f"{pool}/subscriptions/<subscription_id>", "POST", "admin", self.link)
        family.route(app, f"{CREDITS}/grants", "POST", "admin", self.grant)
        family.route(app, f"{CREDITS}/deductions", "POST", "admin", self.deduct)
        family.route(app, f"{CREDITS}/transactions/<entry_id>", "GET", "read", self.explain)
        family.route(app, f"{CREDITS}/transactions/<entry_id>/reverse", "POST", "admin", self.reverse)
        family.route(app, f"{tanso.MONETIZATION}/outbox", "GET", "read", self.outbox)

    # Pools

    async def open_pool(self) -> Response:
        """Open a further pool for a customer: 201."""
        ref, pool = await credit_requests.open_pool(self._core, decode_pool(await body_bytes()), request_key())
        return tanso.success(admin_pool_view(pool, ref.customer_id()), 201)

    async def pools(self) -> Response:
        """List a customer's pools as they are now."""
        ref = customer_needed(request.args.get("customerReferenceId"), request.args.get("customerId"))
        pools = await crediting.pools_of(self._core, ref)
        return tanso.success([admin_pool_view(pool, ref.customer_id()) for pool in pools])

    async def pool(self, pool_id: str) -> Response:
        """Return a pool as it is now."""
        return _pool(*await crediting.pool_now(self._core, pool_id))

    async def change_pool(self, pool_id: str) -> Response:
        """Change a pool's name, rules or status; what is not sent stays. The rules of later pools stay as well."""
        sent = _decode(await body_bytes())
        status = _status(sent.pop("status", None))
        name = sent.pop("name", None)
        if name is not None:
            check_identifier("name", name if isinstance(name, str) else "")
        ref, pool = await crediting.pool_now(self._core, pool_id)
        model = change_model(pool.model, sent, frozenset(self._core.catalogue.features)) if sent else None
        if name is not None or model is not None:
            pool = (await crediting.change_pool(self._core, ref, pool.number, name=name, model=model)).pool
        if status is PoolStatus.ARCHIVED:
            pool = (await crediting.change_pool(self._core, ref, pool.number, archived=True)).pool
        elif status is not None:
            frozen = status is PoolStatus.FROZEN
            pool = (await crediting.freeze(self._core, ref, pool.number, frozen=frozen)).pool
        return _pool(ref, pool)

    async def freeze(self, pool_id: str, *, frozen: bool) -> Response:
        """Let a pool give nothing but what holds have set aside, or let it give credits again."""
        description = request.args.get("description")
        return _pool(*await credit_requests.freeze(self._core, pool_id, frozen=frozen, description=description))

    async def archive(self, pool_id: str) -> Response:
        """Close a pool for ever: only one without credits and holds."""
        ref, number = await crediting.owner_of(self._core, pool_id)
        return _pool(ref, (await crediting.change_pool(self._core, ref, number, archived=True)).pool)

    async def link(self, pool_id: str, subscription_id: str) -> Response:
        """Let a pool serve a subscription, or change how it does: 201."""
        priority = request.args.get("drawPriority")
        limit = decimal_parameter("drawLimit")
        ref, pool = await crediting.pool_now(self._core, pool_id)
        link = await crediting.link(
            self._core,
            ref,
            pool.number,
            subscription_id,
            priority=pool.model.draw_priority if priority is None else _priority(priority),
            draw_limit=limit,
        )
        return tanso.success(link_view(link, subscription_id), 201)

    # Credits

    async def grant(self) -> Response:
        """Grant credits: 201; 400 for a key that is used."""
        done = await credit_requests.grant(self._core, decode_grant(await body_bytes()), request_key())
        assert done.moved.grant is not None, "a grant was made"
        return tanso.success(admin_grant_view(done.moved.grant, done.facts), 201)

    async def deduct(self) -> Response:
        """Take credits out: 201; 409 when not so many are free; 400 for a key that is used."""
        done = await credit_requests.deduct(self._core, decode_deduction(await body_bytes()), request_key())
        return tanso.success(transaction_view(done.entry, done.facts), 201)

    async def reverse(self, entry_id: str) -> Response:
        """Reverse a transaction, once: 201, or 409 when it is reversed already."""
        description = request.args.get("description")
        done = await credit_requests.reverse(self._core, entry_id, description, request_key())
        return tanso.success(transaction_view(done.entry, done.facts), 201)

    async def explain(self, entry_id: str) -> Response:
        """Explain a transaction."""
        return tanso.success(await credit_requests.explain(self._core, entry_id))

    async def outbox(self) -> Response:
        """List alerts in order; go on with `after` = the last one's number."""
        after = whole_parameter("after", 0, most=NUMBER_MAX)
        limit = whole_parameter("limit", 50, least=1, most=tanso.PAGE_MAX)
        read = partial(credit_rows.outbox_after, number=after, limit=limit)
        alerts = await self._core.books.scan(read)
        numbers = {alert.customer for alert in alerts}
        names = await self._core.books.read(partial(event_rows.customer_names, numbers=numbers))
        return tanso.success([alert_view(alert, names) for alert in alerts])


def _pool(ref: CustomerRef, pool: Pool) -> Response:
    return tanso.success(admin_pool_view(pool, ref.customer_id()))


def _status(sent: Any) -> PoolStatus | None:
    if sent is None:
        return None
    if sent not in _STATUSES:
        raise invalid("status", f"must be one of {', '.join(_STATUSES)}")
    return PoolStatus(sent)


def _priority(text: str) -> int:
    try:
        value = msgspec.convert(text, int, strict=False)
    except msgspec.ValidationError:
        raise invalid("drawPriority", "must be a whole number") from None
    return check_priority("drawPriority", value)
