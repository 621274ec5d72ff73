"""What customers have of Dodo's credit entitlements: balances, grants and the ledger (CONTRACTS 2.6, F9).

A balance is the customer's first pool of the credit model that is not archived. The balances of a deleted credit
entitlement may still be read, and no entries made.
"""

from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from typing import Any, Final, Literal

import msgspec
from quart import Response, request
from quart_trio import QuartTrio

from tallyd.api import crediting
from tallyd.api.crediting import Moved
from tallyd.api.http import dodo, dodo_ledger
from tallyd.api.http.dodo_credits import PATH, entitlement_fields, find_any, find_live
from tallyd.api.http.dodo_customers import dodo_id, find_customer
from tallyd.api.http.dodo_events import check_metadata
from tallyd.api.http.dodo_ledger import balance_view, grant_view, ledger_view, shown
from tallyd.api.http.family import Family, answer, body_bytes, instant_parameter
from tallyd.api.wire import Decoder
from tallyd.core import Core
from tallyd.engine.account import Account
from tallyd.engine.credits.burning import serving
from tallyd.engine.events import check_identifier, check_number
from tallyd.engine.passing import as_of
from tallyd.model.credits import GrantTerms, GrantType, Pool
from tallyd.model.customer import CustomerRef, RefKind
from tallyd.model.event import event_uuid
from tallyd.model.ledger_entries import Cause, Entry, EntryKind
from tallyd.model.moments import LATEST_US, iso, parse_iso
from tallyd.model.money import floor_to
from tallyd.model.problems import Code, ProblemError, invalid, not_found
from tallyd.store import credit_rows, event_rows, subscription_rows
from tallyd.store.catalog_rows import StoredCreditModel
from tallyd.store.credit_rows import EntryQuery

AMOUNT_LIMIT: Final = 10**10
KEY_CHARACTERS_MAX: Final = 40
REASON_CHARACTERS_MAX: Final = 1_000
SHORT: Final = "INSUFFICIENT_CREDITS"
ANY_CAUSE: Final[tuple[Cause, ...]] = ()
_BALANCES: Final = f"{PATH}/<name>/balances"
_ONE: Final = f"{_BALANCES}/<customer>"


class EntryInput(msgspec.Struct, frozen=True, kw_only=True):
    """Body of POST …/ledger-entries."""

    entry_type: Literal["credit", "debit"]
    amount: Decimal
    reason: str | None = None
    expires_at: str | None = None
    idempotency_key: str | None = None
    metadata: dict[str, Any] | None = None


class Found(msgspec.Struct, frozen=True):
    """Whose balance of what is asked for; `pool` is None where the customer never had any."""

    model: StoredCreditModel
    ref: CustomerRef
    customer: str
    account: Account
    pool: Pool | None


_decode = Decoder(EntryInput)


class DodoBalances:
    """Handlers of `/credit-entitlements/{id}/balances`, `/customers/{id}/credit-entitlements` and credit usage."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        family.route(app, _BALANCES, "GET", "read", self.balances)
        family.route(app, _ONE, "GET", "read", self.balance)
        family.route(app, f"{_ONE}/grants", "GET", "read", self.grants)
        family.route(app, f"{_ONE}/ledger", "GET", "read", self.ledger)
        family.route(app, f"{_ONE}/ledger-entries", "POST", "admin", self.create_entry)
        family.route(app, "/customers/<customer>/credit-entitlements", "GET", "read", self.of_customer)
        family.route(app, "/subscriptions/<subscription>/credit-usage", "GET", "read", self.of_subscription)

    # Balances

    async def balances(self, name: str) -> Response:
        """List the balances of a credit entitlement, by customer; `customer_id` asks for one."""
        page = dodo.asked_page()
        model, wanted = find_any(self._core, name), request.args.get("customer_id")
        if wanted is not None:
            try:
                found = await self._find(name, wanted)
            except ProblemError as error:
                if error.problem.code is not Code.NOT_FOUND:
                    raise
                return dodo.items([])
            here = [found.pool] if found.pool and not page.start else []
            return dodo.items([balance_view(pool, model.id, found.customer) for pool in here])
        query = partial(credit_rows.pools_of_model, model=model.key, limit=page.size, offset=page.start)
        pools = await self._core.books.scan(query)
        ids = await self._core.books.read(
            partial(event_rows.customer_ids, customers=[pool.customer for pool in pools])
        )
        views = []
        for pool in pools:
            account = await self._core.directory.account(CustomerRef(RefKind.ID, ids[pool.customer]))
            now = as_of(account, self._core.clock.of(account.customer.id)).pool(pool.number)
            views.append(balance_view(now, model.id, dodo_id(account.customer)))
        return dodo.items(views)

    async def balance(self, name: str, customer: str) -> Response:
        """Return a customer's balance; 404 where the customer never had any."""
        found, pool = await self._known(name, customer)
        return answer(balance_view(pool, found.model.id, found.customer))

    async def of_customer(self, customer: str) -> Response:
        """List what a customer has of all credit entitlements, deleted ones too."""
        _, account = await find_customer(self._core, customer)
        seen: set[str] = set()
        views = []
        for pool in as_of(account, self._core.clock.of(account.customer.id)).all_pools():
            model = self._core.catalogue.credits.find(pool.model.key)
            if model is None or pool.archived or model.key in seen:
                continue
            seen.add(model.key)
            fields = entitlement_fields(model)
            view = {"credit_entitlement_id": model.id, "name": fields["name"], "unit": fields["unit"]}
            view |= {"balance": shown(pool.balance), "overage": shown(pool.overage)}
            if "description" in fields:
                view["description"] = fields["description"]
            views.append(view)
        return dodo.items(views)

    async def of_subscription(self, subscription: str) -> Response:
        """Return what credits may pay for a subscription's usage, and how much overage is left (F10)."""
        known = await self._core.books.read(partial(subscription_rows.subscriptions_by_id, ids=[subscription]))
        if subscription not in known:
            raise not_found(f"there is no subscription {subscription!r}")
        owner = known[subscription].customer
        ids = await self._core.books.read(partial(event_rows.customer_ids, customers=[owner]))
        account = await self._core.directory.account(CustomerRef(RefKind.ID, ids[owner]))
        views = []
        for pool in self._paying(account, subscription):
            model = self._core.catalogue.credits.find(pool.model.key)
            if model is not None:
                fields = entitlement_fields(model)
                views.append(dodo_ledger.usage_view(pool, model, fields["unit"], fields["name"]))
        return answer({"subscription_id": subscription, "items": views})

    def _paying(self, account: Account, subscription: str) -> list[Pool]:
        draft = as_of(account, self._core.clock.of(account.customer.id))
        numbers: set[int] = set()
        for each in account.enrolments:
            if each.subscription.id == subscription:
                for feature in each.plan.features.values():
                    numbers.update(server.pool.number for server in serving(draft, each, feature))
                linked = (link.pool for link in draft.all_links() if link.subscription == each.subscription.number)
                numbers.update(number for number in linked if not draft.pool(number).archived)
        return [draft.pool(number) for number in sorted(numbers)]

    async def _find(self, name: str, customer: str) -> Found:
        model = find_any(self._core, name)
        ref, account = await find_customer(self._core, customer)
        pools = as_of(account, self._core.clock.of(account.customer.id)).all_pools()
        mine = (pool for pool in pools if pool.model.key == model.key and not pool.archived)
        return Found(model, ref, dodo_id(account.customer), account, next(mine, None))

    async def _known(self, name: str, customer: str) -> tuple[Found, Pool]:
        found = await self._find(name, customer)
        if found.pool is None:
            raise not_found(f"customer {customer!r} has no balance of credit entitlement {name!r}")
        return found, found.pool

    # Grants and ledger

    async def grants(self, name: str, customer: str) -> Response:
        """List a customer's grants, newest first: all, or those that are active, expired or depleted."""
        page, status = dodo.asked_page(), request.args.get("status")
        if status is not None and status not in dodo_ledger.STATUSES:
            with dodo.refusing(dodo.INVALID_QUERY):
                raise invalid("status", f"must be one of {', '.join(dodo_ledger.STATUSES)}")
        found, pool = await self._known(name, customer)
        grants, now = await crediting.grants(self._core, found.ref, pool.number), self._core.clock.now()
        carried = dodo_ledger.carried_over(grants)
        asked = [each for each in reversed(grants) if status in (None, dodo_ledger.grant_status(each, now))]
        sources = {each.subscription.number: each.subscription.id for each in found.account.enrolments}
        views = [
            grant_view(
                each,
                pool,
                found.model.id,
                found.customer,
                now=now,
                rolled_over=each.number in carried,
                source=sources.get(each.terms.subscription or 0),
            )
            for each in asked[page.start : page.end]
        ]
        return dodo.items(views)

    async def ledger(self, name: str, customer: str) -> Response:
        """List a customer's ledger rows, newest first; `start_date` is included, `end_date` is not."""
        page = dodo.asked_page()
        kinds, causes = dodo_ledger.KINDS, ANY_CAUSE
        with dodo.refusing(dodo.INVALID_QUERY):
            start, end = instant_parameter("start_date"), instant_parameter("end_date")
            wanted = request.args.get("transaction_type")
            if wanted is not None:
                if wanted not in dodo_ledger.TRANSACTION_TYPES:
                    names = ", ".join(dodo_ledger.TRANSACTION_TYPES)
                    raise invalid("transaction_type", f"must be one of {names}")
                kind, causes = dodo_ledger.TRANSACTION_TYPES[wanted]
                kinds = (kind,)
        found, pool = await self._known(name, customer)
        await crediting.keep_time(self._core, found.ref)
        query = EntryQuery(
            pool=pool.number,
            kinds=kinds,
            causes=causes,
            start=start,
            end=end,
            limit=page.size,
            offset=page.start,
        )
        entries, _ = await self._core.books.scan(partial(credit_rows.list_entries, query=query))
        events = await self._event_ids(entries)
        business_id = self._core.config.account.business_id
        views = [ledger_view(each, found.model.id, found.customer, business_id, events) for each in entries]
        return dodo.items(views)

    async def _event_ids(self, entries: Sequence[Entry]) -> dict[int, str]:
        numbers = {entry.event for entry in entries if entry.event is not None}
        return await self._core.books.read(partial(event_rows.event_keys, numbers=numbers))

    async def create_entry(self, name: str, customer: str) -> Response:
        """Credit or debit a customer: 201. A credit is a grant; a debit takes the oldest credits first (F9).

        400 for a debit beyond what is free, 409 when the idempotency key was used before.
        """
        model = find_live(self._core, name)
        with dodo.refusing(dodo.INVALID_BODY):
            sent: EntryInput = _decode(await body_bytes())
            expires_at = self._read_entry(sent, model.definition.precision)
        if sent.metadata is not None:
            _check_metadata(sent.metadata)
        found = await self._find(name, customer)
        if sent.entry_type == "credit":
            terms = GrantTerms(
                type=GrantType.MANUAL,
                expires_at=expires_at,
                description=sent.reason,
                metadata=sent.metadata,
            )
            moved = await crediting.grant(
                self._core, found.ref, model.definition, sent.amount, terms, key=sent.idempotency_key
            )
        else:
            moved = await self._debit(found, sent)
        return answer(entry_view(moved, found.model.id, found.customer, sent), 201)

    def _read_entry(self, sent: EntryInput, precision: int | None) -> int | None:
        """Check an entry as sent; return when its credits expire."""
        crediting.read_amount("amount", check_number("amount", sent.amount, negative=True))
        if sent.amount >= AMOUNT_LIMIT:
            raise invalid("amount", "must have at most 10 digits before the decimal point")
        if precision is not None and sent.amount != floor_to(sent.amount, precision):
            raise invalid("amount", f"must have at most {precision} digits after the decimal point")
        if sent.reason is not None:
            check_identifier("reason", sent.reason, REASON_CHARACTERS_MAX)
        if sent.idempotency_key is not None:
            check_identifier("idempotency_key", sent.idempotency_key)
        if sent.expires_at is None:
            return None
        if sent.entry_type == "debit":
            raise invalid("expires_at", "is for credits only")
        return read_expiry(sent.expires_at, self._core.clock.now())

    async def _debit(self, found: Found, sent: EntryInput) -> Moved:
        if found.pool is None:
            with dodo.refusing(SHORT, status=400):
                raise invalid("amount", "the customer has no credits of this credit entitlement")
        try:
            return await crediting.deduct(
                self._core,
                found.ref,
                found.pool.number,
                sent.amount,
                key=sent.idempotency_key,
                description=sent.reason,
                metadata=sent.metadata,
            )
        except ProblemError as error:
            if error.problem.code is not Code.INSUFFICIENT_CREDITS:
                raise
            with dodo.refusing(SHORT, status=400):
                raise


def read_expiry(text: str, now: int) -> int:
    """Read when credits expire.

    Raises:
        ProblemError: not ISO 8601 with a zone, not in the future, or past the year 2199.
    """
    try:
        moment = parse_iso(text)
    except (ValueError, OverflowError):
        raise invalid("expires_at", "must be an ISO 8601 time with a zone") from None
    if not now < moment < LATEST_US:
        raise invalid("expires_at", "must lie in the future, before the year 2200")
    return moment


def _check_metadata(metadata: dict[str, Any]) -> None:
    """Hold metadata to the limits of events, and keys to 40 characters.

    Raises:
        ProblemError: 400, names the pair.
    """
    for key in metadata:
        if len(key) > KEY_CHARACTERS_MAX:
            raise invalid("metadata", f"the key {key[:20]!r}… has more than {KEY_CHARACTERS_MAX} characters")
    check_metadata(metadata)


def entry_view(moved: Moved, entitlement: str, customer: str, sent: EntryInput) -> dict[str, Any]:
    """Return a ledger entry that was made; overage that new credits repaid at once is part of what it did."""
    kind = EntryKind.GRANT if sent.entry_type == "credit" else EntryKind.DEDUCTION
    made = next(
        entry
        for entry in moved.entries
        if entry.kind == kind and (moved.grant is None or entry.id == moved.grant.number)
    )
    repaid = (entry for entry in moved.entries if entry.cause == Cause.OVERAGE_REPAID and entry.id > made.id)
    last = next(repaid, made)
    view = {
        "id": event_uuid(made.id),
        "customer_id": customer,
        "credit_entitlement_id": entitlement,
        "entry_type": sent.entry_type,
        "is_credit": sent.entry_type == "credit",
        "amount": shown(sent.amount),
        "balance_before": shown(made.balance_before),
        "balance_after": shown(last.balance_after),
        "overage_before": shown(made.overage_before),
        "overage_after": shown(last.overage_after),
        "grant_id": dodo_ledger.grant_of(made),
        "reason": sent.reason,
        "metadata": dodo_ledger.details_of(made).metadata or {},
        "created_at": iso(made.at),
    }
    return {name: value for name, value in view.items() if value is not None}
