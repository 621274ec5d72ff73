"""Subscriptions by customer, product and where they stand now (CONTRACTS 2.5).

Where a subscription stands follows from its row and its open invoices. One whose period has ended since they were
written is looked at again in its customer's books as they are now, so a list does not wait for a job (P7).
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import msgspec
from quart import request

from tallyd.api import billing
from tallyd.api.http import dodo
from tallyd.api.http.dodo import Page
from tallyd.api.http.dodo_customers import find_customer
from tallyd.api.http.dodo_subscription_views import Status, ends_with_period, listed_view, shown_moment, status_of
from tallyd.api.http.family import flag_parameter, instant_parameter
from tallyd.core import Core
from tallyd.engine.account import Account, renewal_at
from tallyd.model.invoice import Invoice
from tallyd.model.problems import Code, ProblemError, invalid
from tallyd.model.subscription import Subscription
from tallyd.store.subscription_states import StateQuery, matching_subscriptions

BATCH_MAX: Final = 500
"""Subscriptions read at a time."""
_STATUSES: Final = (*Status, "past_due")

OpenInvoices = Callable[[], Iterable[Invoice]]


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a subscription as it is now; None: anything.

    Attributes:
        product: the product it is on.
        ending: whether a cancellation waits for the next billing date.
        status: where it stands.
    """

    product: str | None
    ending: bool | None
    status: str | None

    def match(self, each: Subscription, open_invoices: OpenInvoices, now: int) -> bool:
        """Whether a subscription is asked for."""
        standing = self.status is None or status_of(each, open_invoices, now) == self.status
        return standing and self._match_row(each, now)

    def may_match(self, each: Subscription, open_invoices: OpenInvoices, now: int) -> bool:
        """Whether a subscription is asked for, or may be when all that is due by now is done."""
        if not self._match_row(each, now):
            return False
        return self.unsettled(each, now) or self.match(each, open_invoices, now)

    def unsettled(self, each: Subscription, now: int) -> bool:
        """Whether where a subscription stands is not yet written."""
        return self.status is not None and each.active_at(now) and renewal_at(each, {}) <= now

    def _match_row(self, each: Subscription, now: int) -> bool:
        product = each.phase_at(shown_moment(each, now)).plan_key
        ending = self.ending is None or ends_with_period(each, now) is self.ending
        return ending and self.product in {None, product}


async def list_subscriptions(core: Core) -> list[dict[str, Any]]:
    """Return the page that the request's query asks for.

    Raises:
        ProblemError: a bad value in the query.
    """
    page = dodo.asked_page()
    with dodo.refusing(dodo.INVALID_QUERY):
        first, last = instant_parameter("created_at_gte"), instant_parameter("created_at_lte")
        filters = _read_filters()
    number, customer = None, request.args.get("customer_id")
    if customer is not None:
        try:
            _, account = await find_customer(core, customer)
        except ProblemError as error:
            if error.problem.code is not Code.NOT_FOUND:
                raise
            return []
        number = account.customer.number
    if request.args.get("brand_id") not in {None, core.config.account.business_id}:
        return []
    query = StateQuery(customer=number, created_from=first, created_until=last, limit=BATCH_MAX)
    return [await _view(core, each) for each in await _page(core, query, filters, page)]


def _read_filters() -> Filters:
    status, ending = request.args.get("status"), None
    if status is not None and status not in _STATUSES:
        raise invalid("status", f"must be one of {', '.join(_STATUSES)}")
    if "cancel_at_next_billing_date" in request.args:
        ending = flag_parameter("cancel_at_next_billing_date")
    return Filters(product=request.args.get("product_id"), ending=ending, status=status)


async def _page(core: Core, query: StateQuery, filters: Filters, page: Page) -> list[Subscription]:
    """Return the subscriptions of a page: a batch is read, and the next one where that is not enough."""
    now_of, found, skip = core.clock.of, list[Subscription](), page.start

    def matches(each: Subscription, customer: str, open_invoices: OpenInvoices) -> bool:
        return filters.may_match(each, open_invoices, now_of(customer))

    while True:
        batch = await core.books.scan(partial(matching_subscriptions, query=query, matches=matches))
        for customer_id, each in batch:
            if filters.unsettled(each, now_of(customer_id)) and not await _asked(core, each, filters):
                continue
            if skip:
                skip -= 1
                continue
            found.append(each)
            if len(found) == page.size:
                return found
        if len(batch) < query.limit:
            return found
        query = msgspec.structs.replace(query, before=batch[-1][1].number)


async def _asked(core: Core, each: Subscription, filters: Filters) -> bool:
    """Whether a subscription is asked for as it is in its customer's books now."""
    account, now, subscription = await _as_it_is(core, each)
    return filters.match(subscription, account.invoices.values, now)


async def _view(core: Core, each: Subscription) -> dict[str, Any]:
    account, now, subscription = await _as_it_is(core, each)
    return listed_view(core, account, subscription, now)


async def _as_it_is(core: Core, each: Subscription) -> tuple[Account, int, Subscription]:
    _, account = await billing.account_of(core, each.customer)
    enrolled = account.subscription(each.number)
    assert enrolled is not None, "it is the customer's"
    return account, core.clock.of(account.customer.id), enrolled[0]
