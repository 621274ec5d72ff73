"""Dodo's wallets: a customer's money, one balance a currency, moved by hand only (CONTRACTS 2.7, F12).

A wallet is a pool of credits that pays for no usage, of a credit model that is made as it is needed and listed
nowhere. On the wire amounts are whole minor units, such as cents.
"""

from decimal import Decimal
from functools import partial
from typing import Any, Final, Literal

import msgspec
from quart import Response, request
from quart_trio import QuartTrio

from tallyd.api import crediting
from tallyd.api.http import dodo
from tallyd.api.http.dodo_customers import PATH, dodo_id, find_customer
from tallyd.api.http.dodo_ledger import KINDS, details_of
from tallyd.api.http.family import Family, answer, body_bytes
from tallyd.api.wire import Decoder
from tallyd.core import Core
from tallyd.engine.account import Account
from tallyd.engine.events import IDENTIFIER_CHARACTERS_MAX, check_identifier
from tallyd.engine.passing import as_of
from tallyd.model.catalog import CreditModel
from tallyd.model.credits import GrantTerms, GrantType, Pool
from tallyd.model.event import event_uuid
from tallyd.model.ledger_entries import Cause, Entry, EntryKind
from tallyd.model.moments import iso
from tallyd.model.money import ZERO, currency_exponent, currency_problem, floor_to
from tallyd.model.problems import Code, ProblemError, invalid
from tallyd.store import credit_rows
from tallyd.store.credit_rows import EntryQuery

AMOUNT_MAX: Final = 10**15
REASON_CHARACTERS_MAX: Final = 1_000
KEY_PREFIX: Final = "wallet:"
SHORT: Final = "INSUFFICIENT_WALLET_FUNDS"
DOLLARS: Final = "USD"


class EntryInput(msgspec.Struct, frozen=True, kw_only=True):
    """Body of POST …/wallets/ledger-entries."""

    entry_type: Literal["credit", "debit"]
    amount: int
    currency: str
    idempotency_key: str | None = None
    reason: str | None = None


_decode = Decoder(EntryInput)


class DodoWallets:
    """Handlers of `/customers/{id}/wallets`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        path = f"{PATH}/<customer>/wallets"
        family.route(app, path, "GET", "read", self.wallets)
        family.route(app, f"{path}/ledger-entries", "GET", "read", self.entries)
        family.route(app, f"{path}/ledger-entries", "POST", "admin", self.create_entry)

    async def wallets(self, customer: str) -> Response:
        """Return a customer's wallets. The total is that of dollars: other currencies are not converted."""
        _, account = await find_customer(self._core, customer)
        pools = self._wallets(account)
        total = sum(minor(pool.balance, DOLLARS) for pool in pools if pool.model.currency == DOLLARS)
        views = [wallet_view(pool, dodo_id(account.customer)) for pool in pools]
        return answer({"items": views, "total_balance_usd": total})

    async def entries(self, customer: str) -> Response:
        """List the ledger rows of a customer's wallets, newest first; `currency` asks for those of one."""
        page, currency = dodo.asked_page(), request.args.get("currency")
        if currency is not None:
            with dodo.refusing(dodo.INVALID_QUERY):
                _check_currency(currency)
        ref, account = await find_customer(self._core, customer)
        pools = {pool.number: pool for pool in self._wallets(account) if currency in (None, pool.model.currency)}
        if not pools:
            return dodo.items([])
        await crediting.keep_time(self._core, ref)
        first, *others = pools
        query = EntryQuery(pool=first, beside=tuple(others), kinds=KINDS, limit=page.size, offset=page.start)
        entries, _ = await self._core.books.scan(partial(credit_rows.list_entries, query=query))
        business_id, name = self._core.config.account.business_id, dodo_id(account.customer)
        return dodo.items([entry_view(each, pools[each.pool or 0], name, business_id) for each in entries])

    async def create_entry(self, customer: str) -> Response:
        """Credit or debit a wallet, opened by its first credit: 200 with the wallet.

        400 for a debit beyond the balance, 409 when the idempotency key was used for a wallet before.
        """
        with dodo.refusing(dodo.INVALID_BODY):
            sent: EntryInput = _decode(await body_bytes())
            _check_entry(sent)
        ref, account = await find_customer(self._core, customer)
        key = None if sent.idempotency_key is None else KEY_PREFIX + sent.idempotency_key
        model = wallet_model(sent.currency)
        amount = Decimal(sent.amount).scaleb(-currency_exponent(sent.currency))
        if sent.entry_type == "credit":
            terms = GrantTerms(type=GrantType.MANUAL, description=sent.reason)
            moved = await crediting.grant(self._core, ref, model, amount, terms, key=key)
            return answer(wallet_view(moved.pool, dodo_id(account.customer)))
        pool = next((each for each in self._wallets(account) if each.model.key == model.key), None)
        if pool is None:
            with dodo.refusing(SHORT, status=400):
                raise invalid("amount", f"the customer has no wallet in {sent.currency}")
        try:
            moved = await crediting.deduct(self._core, ref, pool.number, amount, key=key, description=sent.reason)
        except ProblemError as error:
            if error.problem.code is not Code.INSUFFICIENT_CREDITS:
                raise
            with dodo.refusing(SHORT, status=400):
                raise invalid("amount", f"is more than the wallet has in {sent.currency}") from None
        return answer(wallet_view(moved.pool, dodo_id(account.customer)))

    def _wallets(self, account: Account) -> list[Pool]:
        pools = as_of(account, self._core.clock.of(account.customer.id)).all_pools()
        return [pool for pool in pools if is_wallet(pool) and not pool.archived]


def wallet_model(currency: str) -> CreditModel:
    """Return the rules of wallets in a currency: money that is never overdrawn, and pays for no usage."""
    return CreditModel(
        key=KEY_PREFIX + currency,
        name=f"Wallet in {currency}",
        denomination=currency,
        currency=currency,
        charge="nothing",
        hard_limit=True,
        precision=currency_exponent(currency),
        burn_order="fifo",
    )


def is_wallet(pool: Pool) -> bool:
    """Whether a pool is a wallet."""
    return pool.model.key == f"{KEY_PREFIX}{pool.model.currency}" and pool.model.charge == "nothing"


def minor(amount: Decimal | str | None, currency: str) -> int:
    """Return an amount of money in minor units."""
    return int(floor_to(Decimal(amount or ZERO).scaleb(currency_exponent(currency)), 0))


def _check_currency(currency: str) -> None:
    problem = currency_problem(currency)
    if problem:
        raise invalid("currency", problem)


def _check_entry(sent: EntryInput) -> None:
    if not 1 <= sent.amount <= AMOUNT_MAX:
        raise invalid("amount", f"must be 1 to {AMOUNT_MAX}")
    _check_currency(sent.currency)
    if sent.reason is not None:
        check_identifier("reason", sent.reason, REASON_CHARACTERS_MAX)
    if sent.idempotency_key is not None:
        check_identifier("idempotency_key", sent.idempotency_key, IDENTIFIER_CHARACTERS_MAX - len(KEY_PREFIX))


def wallet_view(pool: Pool, customer: str) -> dict[str, Any]:
    """Return a wallet."""
    currency = pool.model.denomination
    return {
        "customer_id": customer,
        "currency": currency,
        "balance": minor(pool.balance, currency),
        "created_at": iso(pool.opened_at),
        "updated_at": iso(pool.modified_at),
    }


def entry_view(entry: Entry, pool: Pool, customer: str, business_id: str) -> dict[str, Any]:
    """Return a ledger row of a wallet; its amount is never negative."""
    currency = pool.model.denomination
    amount = minor(entry.amount, currency)
    view = {
        "id": event_uuid(entry.id),
        "business_id": business_id,
        "customer_id": customer,
        "currency": currency,
        "amount": abs(amount),
        "is_credit": amount > 0,
        "before_balance": minor(entry.balance_before, currency),
        "after_balance": minor(entry.balance_after, currency),
        "event_type": event_type(entry),
        "reason": details_of(entry).description,
        "reference_object_id": None if entry.reverses is None else event_uuid(entry.reverses),
        "created_at": iso(entry.at),
    }
    return {name: value for name, value in view.items() if value is not None}


def event_type(entry: Entry) -> str:
    """Return Dodo's name for why money moved."""
    if entry.cause == Cause.PURCHASE:
        return "payment"
    return "payment_reversal" if entry.kind == EntryKind.REVERSAL else "merchant_adjustment"
