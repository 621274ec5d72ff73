"""Usage, charges and analytics over the native API (CONTRACTS 1.9)."""

from functools import partial
from typing import Any, Final, get_args

import msgspec
from quart import Response, request
from quart_trio import QuartTrio

from tallyd.actors.worker import all_inline
from tallyd.api import entitling
from tallyd.api.http import tanso
from tallyd.api.http.family import Family, instant_parameter, whole_parameter
from tallyd.core import Core
from tallyd.engine import statements
from tallyd.engine.account import Account
from tallyd.engine.passing import as_of
from tallyd.model.moments import HOUR_US, hour_of, iso
from tallyd.model.periods import calendar_month
from tallyd.model.problems import invalid, unavailable
from tallyd.store.analytics import GroupBy, usage_by

PAGE_MAX: Final = 1_000
GROUPS: Final = get_args(GroupBy)


class Usage:
    """Handlers of what customers have used, and of `/api/v1/analytics`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        path = f"{tanso.CLIENT}/customers"
        family.route(app, f"{path}/<reference>/usage", "GET", "read", self.usage)
        family.route(app, f"{path}/<reference>/charges", "GET", "read", self.charges)
        family.route(app, f"{tanso.ANALYTICS}/usage", "GET", "read", self.analytics)

    async def usage(self, reference: str) -> Response:
        """Return usage against limits, now or in the period that contains `at`."""
        account, at = await self._account_at(reference)
        view = {
            "customerReferenceId": reference,
            "asOf": iso(at),
            "position": account.position,
            "subscriptions": statements.usage_view(account, at),
            "creditPools": self._pools(account),
        }
        return tanso.success(view)

    def _pools(self, account: Account) -> list[dict[str, Any]]:
        """Return the pools that are open now, with how fast they are used and what a credit costs to buy."""
        now, prices = self._core.clock.of(account.customer.id), self._core.catalogue.credits.prices
        views = []
        for pool in as_of(account, now).all_pools():
            if not pool.archived:
                price = prices.current(pool.model.key, now)
                sold = {"pricePerCredit": price and price.price, "currency": price and price.currency}
                views.append({**statements.burn_view(pool, now), **sold})
        return views

    async def charges(self, reference: str) -> Response:
        """Explain the charges of the period that contains `at` (default now), step by step."""
        account, at = await self._account_at(reference)
        subscriptions = await self._explained(account, at)
        if subscriptions is None:
            raise unavailable("pricing plugins took too long to explain; retry, or see [plugins] budget_ms")
        view = {
            "customerReferenceId": reference,
            "asOf": iso(at),
            "position": account.position,
            "subscriptions": subscriptions,
        }
        return tanso.success(view)

    async def _explained(self, account: Account, at: int) -> list[dict[str, Any]] | None:
        runtime = self._core.runtime
        if all_inline(runtime.registry, (each.plan for each in account.enrolments)):
            return statements.statement_view(account, at)
        return await runtime.worker.call(lambda watch: statements.statement_view(watch.account(account), at))

    async def _account_at(self, reference: str) -> tuple[Account, int]:
        at = instant_parameter("at")
        ref = entitling.by_reference(reference)
        account = await entitling.known_account(self._core, ref)
        if at is not None and at < account.counters_from:
            account = await self._core.directory.account_since(ref, at)
        return account, self._core.clock.of(account.customer.id) if at is None else at

    async def analytics(self) -> Response:
        """Sum units, cost, revenue and margin by group; whole UTC hours, the range is widened to them.

        With `customerReferenceId`, of that customer alone.
        """
        group_by = _group_by(request.args.get("groupBy", "CUSTOMER"))
        start, end = instant_parameter("start"), instant_parameter("end")
        now = self._core.clock.now()
        start = hour_of(calendar_month(now).start if start is None else start)
        end = hour_of((now + 1 if end is None else end) + HOUR_US - 1)
        if end < start:
            raise invalid("end", "must not be before start")
        limit = whole_parameter("limit", PAGE_MAX, least=1, most=PAGE_MAX)
        offset = whole_parameter("offset", 0, most=1_000_000_000)
        customer = await self._customer_asked()
        query = partial(usage_by, group_by=group_by, start=start, end=end, customer=customer)
        groups = await self._core.books.scan(query)
        page = tanso.page(groups[offset : offset + limit], total=len(groups), limit=limit, offset=offset)
        heading = {"groupBy": group_by, "start": iso(start), "end": iso(end), "granularity": "HOUR"}
        return tanso.success({**heading, **page})

    async def _customer_asked(self) -> int | None:
        reference = request.args.get("customerReferenceId")
        if reference is None:
            return None
        return (await entitling.known_account(self._core, entitling.by_reference(reference))).customer.number


def _group_by(text: str) -> GroupBy:
    try:
        group_by: GroupBy = msgspec.convert(text, GroupBy)
    except msgspec.ValidationError:
        raise invalid("groupBy", f"must be one of {', '.join(GROUPS)}") from None
    else:
        return group_by
