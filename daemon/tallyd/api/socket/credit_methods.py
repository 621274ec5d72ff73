"""The socket's methods about credits: `balance` for the app, and what the shell asks for; bodies as over HTTP."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from tallyd.api import credit_requests, crediting, entitling
from tallyd.api.credit_inputs import decode_deduction, decode_grant
from tallyd.api.credit_views import admin_pool_view, pool_view
from tallyd.api.http.credit_models import model_view
from tallyd.api.http.tanso import PAGE_MAX, page
from tallyd.api.wire import Decoder
from tallyd.core import Core
from tallyd.model.credits import Pool
from tallyd.model.customer import CustomerRef
from tallyd.model.problems import invalid

OFFSET_MAX: Final = 10_000_000
POOLS_MAX: Final = 50
"""Pools in one statement (P11); of more, ask for each by its id."""

Method = Callable[[msgspec.Raw], Awaitable[Any]]


class BalanceInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Params of `balance`."""

    customer_reference_id: str


class ReverseInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Params of `credits.reverse`."""

    transaction_id: str
    description: str | None = None
    idempotency_key: str | None = None


class PoolInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Params of `credits.freeze` and `credits.unfreeze`."""

    credit_pool_id: str
    description: str | None = None


class StatementInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Params of `credits.statement`; without `poolId` of all the customer's pools, a page of each."""

    customer_reference_id: str
    pool_id: str | None = None
    limit: int = 50
    offset: int = 0


class ExplainInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Params of `credits.explain`."""

    transaction_id: str


_decode_balance: Final = Decoder(BalanceInput)
_decode_reverse: Final = Decoder(ReverseInput)
_decode_pool: Final = Decoder(PoolInput)
_decode_statement: Final = Decoder(StatementInput)
_decode_explain: Final = Decoder(ExplainInput)


class CreditMethods:
    """What can be asked about credits, and with which scope."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.table: dict[str, tuple[str, Method]] = {
            "balance": ("read", self.balance),
            "credits.models": ("read", self.models),
            "credits.statement": ("read", self.statement),
            "credits.explain": ("read", self.explain),
            "credits.grant": ("admin", self.grant),
            "credits.deduct": ("admin", self.deduct),
            "credits.reverse": ("admin", self.reverse),
            "credits.freeze": ("admin", self.freeze),
            "credits.unfreeze": ("admin", self.unfreeze),
        }

    async def balance(self, params: msgspec.Raw) -> Any:
        """Return a customer's pools, what is left of their grants, and open holds."""
        return await credit_requests.balance(self._core, _decode_balance(params).customer_reference_id)

    async def models(self, _params: msgspec.Raw) -> Any:
        """List the credit models that pools may be opened of."""
        return {"items": [model_view(model) for model in self._core.catalogue.credits.listed()]}

    async def grant(self, params: msgspec.Raw) -> Any:
        """Grant credits; return `{transaction, pool, grant}`."""
        return (await credit_requests.grant(self._core, decode_grant(params))).view()

    async def deduct(self, params: msgspec.Raw) -> Any:
        """Take credits out of a pool; return `{transaction, pool}`."""
        return (await credit_requests.deduct(self._core, decode_deduction(params))).view()

    async def reverse(self, params: msgspec.Raw) -> Any:
        """Reverse a transaction, once; return `{transaction, pool}`."""
        sent: ReverseInput = _decode_reverse(params)
        done = await credit_requests.reverse(
            self._core, sent.transaction_id, sent.description, sent.idempotency_key
        )
        return done.view()

    async def freeze(self, params: msgspec.Raw) -> Any:
        """Let a pool give nothing but what holds have set aside; return the pool."""
        return await self._set_frozen(params, frozen=True)

    async def unfreeze(self, params: msgspec.Raw) -> Any:
        """Let a pool give credits again; return the pool."""
        return await self._set_frozen(params, frozen=False)

    async def _set_frozen(self, params: msgspec.Raw, *, frozen: bool) -> dict[str, Any]:
        sent: PoolInput = _decode_pool(params)
        ref, pool = await credit_requests.freeze(
            self._core, sent.credit_pool_id, frozen=frozen, description=sent.description
        )
        return admin_pool_view(pool, ref.customer_id())

    async def statement(self, params: msgspec.Raw) -> Any:
        """Return a pool with a page of its transactions, newest first; without `poolId` of each pool."""
        sent: StatementInput = _decode_statement(params)
        if not 1 <= sent.limit <= PAGE_MAX:
            raise invalid("limit", f"must be 1 to {PAGE_MAX}")
        if not 0 <= sent.offset <= OFFSET_MAX:
            raise invalid("offset", f"must be 0 to {OFFSET_MAX}")
        ref = entitling.by_reference(sent.customer_reference_id)
        if sent.pool_id is not None:
            owner, pool = await crediting.pool_now(self._core, sent.pool_id, ref)
            return await self._page(owner, pool, sent)
        pools = await crediting.pools_of(self._core, ref)
        if len(pools) > POOLS_MAX:
            raise invalid("poolId", f"is required: the customer has more than {POOLS_MAX} pools")
        return {
            "customerReferenceId": sent.customer_reference_id,
            "pools": [await self._page(ref, pool, sent) for pool in pools],
        }

    async def _page(self, owner: CustomerRef, pool: Pool, sent: StatementInput) -> dict[str, Any]:
        rows, total = await credit_requests.transactions(
            self._core, owner, pool.number, limit=sent.limit, offset=sent.offset
        )
        rest = page(rows, total=total, limit=sent.limit, offset=sent.offset)
        return {"pool": pool_view(pool), **rest}

    async def explain(self, params: msgspec.Raw) -> Any:
        """Explain a transaction."""
        return await credit_requests.explain(self._core, _decode_explain(params).transaction_id)
