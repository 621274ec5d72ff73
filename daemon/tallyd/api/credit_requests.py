"""What is asked about credits in the native words, over HTTP and the socket alike, and what is answered.

`credit_inputs` has what a request may say, `crediting` moves the credits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import Any, Final

import msgspec

from tallyd.api import crediting, entitling
from tallyd.api.consuming import hold_view, without_nothing
from tallyd.api.credit_inputs import (
    DeductionInput,
    GrantInput,
    PoolInput,
    PurchaseInput,
    check_note,
    check_priority,
    customer_asked,
    customer_needed,
    model_asked,
    read_expiry,
)
from tallyd.api.credit_views import (
    Facts,
    admin_grant_view,
    facts_of,
    grant_view,
    pool_view,
    transaction_view,
)
from tallyd.api.crediting import Moved
from tallyd.core import Core
from tallyd.engine.events import check_identifier, check_number
from tallyd.engine.passing import as_of
from tallyd.model.catalog import CreditModel
from tallyd.model.credits import GrantTerms, GrantType, Pool
from tallyd.model.customer import CustomerRef, RefKind
from tallyd.model.event import event_number, event_uuid
from tallyd.model.ledger_entries import Cause, Entry, EntryKind
from tallyd.model.moments import iso
from tallyd.model.money import currency_problem, round_to_currency
from tallyd.model.problems import Code, ProblemError, invalid, not_found
from tallyd.store import credit_rows, event_rows

LISTED_MAX: Final = 100
"""Grants of a pool, and holds, in one answer."""

PURCHASE_LEAST: Final = Decimal("0.50")
"""Of the price's currency: payment providers take no less (CONTRACTS 1.3)."""

_MOVED_BY: Final = (Cause.MANUAL, Cause.PURCHASE)


class Done(msgspec.Struct, frozen=True):
    """Credits that were moved: by which transaction, and whose they are."""

    moved: Moved
    entry: Entry
    owner: CustomerRef
    facts: Facts

    def view(self) -> dict[str, Any]:
        """Return `{transaction, pool}`, and `grant` where one was made."""
        grant = self.moved.grant
        view = {
            "transaction": transaction_view(self.entry, self.facts),
            "pool": pool_view(self.moved.pool),
            "grant": None if grant is None else admin_grant_view(grant, self.facts),
        }
        return without_nothing(view)


# Moving


async def grant(core: Core, sent: GrantInput, key: str | None = None) -> Done:
    """Grant credits. `key` is used where the body has no idempotency key.

    Raises:
        ProblemError: a bad field, unknown pool, model or customer, archived, or the key is used.
    """
    crediting.read_amount("amount", sent.amount)
    check_note(sent.description, sent.metadata)
    ref = customer_asked(sent.customer_reference_id, sent.customer_id)
    into: int | CreditModel
    if sent.credit_pool_id is not None:
        for field, other in (("creditModelKey", sent.credit_model_key), ("creditModelId", sent.credit_model_id)):
            if other is not None:
                raise invalid(field, "is sent beside creditPoolId; send one of them")
        ref, pool = await crediting.pool_now(core, sent.credit_pool_id, ref)
        into, model = pool.number, pool.model
    else:
        if ref is None:
            raise invalid("creditPoolId", "is required, or customerReferenceId and creditModelKey")
        into = model = model_asked(core, sent.credit_model_key, sent.credit_model_id)
    terms = _terms(core, sent, model)
    with _worded("grant"):
        moved = await crediting.grant(core, ref, into, sent.amount, terms, key=_first(sent.idempotency_key, key))
    assert moved.grant is not None, "a grant was made"
    return await _done(core, ref, moved, moved.entry(moved.grant.number))


def _terms(core: Core, sent: GrantInput, model: CreditModel) -> GrantTerms:
    """Return what is fixed about a grant; one that is sold has the present price unless it names its own."""
    unit_price, currency = sent.unit_price, sent.currency
    if unit_price is not None:
        check_number("unitPrice", unit_price)
        currency = currency or model.currency or core.config.account.currency
        problem = currency_problem(currency)
        if problem:
            raise invalid("currency", problem)
    elif currency is not None:
        raise invalid("currency", "is sent without unitPrice; send both, or neither")
    elif sent.grant_type is GrantType.PURCHASED:
        price = core.catalogue.credits.prices.current(model.key, core.clock.now())
        if price is not None:
            unit_price, currency = price.price, price.currency
    return GrantTerms(
        type=sent.grant_type,
        priority=check_priority("priority", sent.priority),
        expires_at=read_expiry(sent.expires_at),
        description=sent.description,
        metadata=sent.metadata,
        unit_price=unit_price,
        currency=currency,
    )


async def deduct(core: Core, sent: DeductionInput, key: str | None = None) -> Done:
    """Take credits out of a pool: never more than is free.

    Raises:
        ProblemError: a bad field, unknown pool, not so many free, frozen, archived, or the key is used.
    """
    crediting.read_amount("amount", sent.amount)
    check_note(sent.description, sent.metadata)
    asked = customer_asked(sent.customer_reference_id, sent.customer_id)
    ref, pool = await crediting.owner_of(core, sent.credit_pool_id, asked)
    with _worded("deduction"):
        moved = await crediting.deduct(
            core,
            ref,
            pool,
            sent.amount,
            key=_first(sent.idempotency_key, key),
            description=sent.description,
            metadata=sent.metadata,
        )
    return await _done(core, ref, moved, _made(moved, EntryKind.DEDUCTION))


async def reverse(core: Core, entry_id: str, description: str | None, key: str | None = None) -> Done:
    """Reverse a transaction, once (E5).

    Raises:
        ProblemError: unknown, reversed already, not to be reversed, or the key is used.
    """
    check_note(description, None)
    with _worded("reversal"):
        moved = await crediting.reverse(core, entry_id, key=key, description=description)
    ref, _ = await crediting.owner_of(core, event_uuid(moved.pool.number))
    return await _done(core, ref, moved, _made(moved, EntryKind.REVERSAL))


async def freeze(
    core: Core, pool_id: str, *, frozen: bool, description: str | None = None
) -> tuple[CustomerRef, Pool]:
    """Freeze a pool, or let it give credits again; it may be so already. Return whose it is, and the pool.

    Raises:
        ProblemError: unknown, or archived.
    """
    check_note(description, None)
    ref, pool = await crediting.owner_of(core, pool_id)
    return ref, (await crediting.freeze(core, ref, pool, frozen=frozen, description=description)).pool


async def open_pool(core: Core, sent: PoolInput, key: str | None = None) -> tuple[CustomerRef, Pool]:
    """Open a further pool for a customer. Return whose it is, and the pool.

    Raises:
        ProblemError: a bad field, unknown customer or model, or the key is used.
    """
    ref = customer_needed(sent.customer_reference_id, sent.customer_id)
    model = model_asked(core, sent.credit_model_key, sent.credit_model_id)
    if sent.name is not None:
        check_identifier("name", sent.name)
    with _worded("pool"):
        moved = await crediting.open_pool(core, ref, model, sent.name, _first(sent.idempotency_key, key))
    return ref, moved.pool


async def purchase(core: Core, sent: PurchaseInput, key: str | None = None) -> dict[str, Any]:
    """Sell credits at their present price. The payment is collected outside: by whoever asks for this.

    The amount is rounded once, to the currency. The grant remembers the price of one credit.

    Raises:
        ProblemError: a bad field, unknown pool, no price, too little, or the key is used.
    """
    crediting.read_amount("credits", sent.credits)
    if sent.payment_method_id is not None:
        check_identifier("paymentMethodId", sent.payment_method_id)
    ref, pool = await crediting.pool_now(
        core, sent.credit_pool_id, customer_asked(sent.customer_reference_id, None)
    )
    price = core.catalogue.credits.prices.current(pool.model.key, core.clock.now())
    if price is None:
        raise invalid("creditPoolId", f"{pool.model.denomination} has no price; publish one first")
    amount = round_to_currency(sent.credits * price.price, price.currency)
    if amount < PURCHASE_LEAST:
        raise invalid("credits", f"come to {amount} {price.currency}; the least is {PURCHASE_LEAST}")
    terms = GrantTerms(type=GrantType.PURCHASED, unit_price=price.price, currency=price.currency)
    with _worded("purchase"):
        moved = await crediting.grant(
            core,
            ref,
            pool.number,
            sent.credits,
            terms,
            cause=Cause.PURCHASE,
            key=_first(sent.idempotency_key, key),
        )
    assert moved.grant is not None, "a grant was made"
    return {
        "completed": True,
        "credits": moved.grant.amount,
        "pricePerCredit": price.price,
        "amountCharged": amount,
        "currency": price.currency,
        "grantId": event_uuid(moved.grant.number),
    }


def _first(sent: str | None, key: str | None) -> str | None:
    """Return the body's own idempotency key, a bad one too, else the request's."""
    return key if sent is None else sent


@contextmanager
def _worded(what: str) -> Iterator[None]:
    """Say what it is that a key was used for, and that a pool is depleted, as Tanso does (CONTRACTS 1.2, 1.7)."""
    try:
        yield
    except ProblemError as error:
        problem, message = error.problem, error.problem.message
        if problem.code is Code.DUPLICATE_KEY:
            message = f"Duplicate {what}: {message}"
        elif problem.code is Code.INSUFFICIENT_CREDITS:
            message = f"Credit pool depleted: {message}"
        raise ProblemError(msgspec.structs.replace(problem, message=message)) from None


def _made(moved: Moved, kind: EntryKind) -> Entry:
    """Return the entry that was asked for; others beside it are time's doing."""
    return next(each for each in moved.entries if each.kind == kind and each.cause in _MOVED_BY)


async def _done(core: Core, ref: CustomerRef, moved: Moved, entry: Entry) -> Done:
    account = await entitling.known_account(core, ref)
    used = {} if entry.event is None else await core.books.read(partial(event_rows.used_by, events=[entry.event]))
    return Done(moved, entry, ref, facts_of(account, used))


# Looking


async def balance(core: Core, reference: str) -> dict[str, Any]:
    """Return a customer's pools, what is left of their grants, and open holds: all of one instant.

    Of each pool the first `LISTED_MAX` grants, and as many holds (P11); `openHolds` counts all.

    Raises:
        ProblemError: the customer is unknown.
    """
    account = await entitling.known_account(core, entitling.by_reference(reference))
    now, facts = core.clock.now(), facts_of(account)
    draft = as_of(account, now)
    return {
        "customerReferenceId": reference,
        "asOf": iso(now),
        "position": account.position,
        "pools": [
            {
                **pool_view(pool),
                "grants": [grant_view(each, facts) for each in draft.grants_of(pool.number)[:LISTED_MAX]],
            }
            for pool in draft.all_pools()
        ],
        "openHolds": sum(1 for _ in draft.open_holds()),
        "holds": [hold_view(hold) for hold in islice(draft.open_holds(), LISTED_MAX)],
    }


async def transactions(
    core: Core, owner: CustomerRef, pool: int, *, limit: int, offset: int
) -> tuple[list[dict[str, Any]], int]:
    """Return a page of a pool's transactions in their wire shape, newest first, and how many there are."""
    rows, total = await crediting.transactions(core, owner, pool, limit=limit, offset=offset)
    events = {row.event for row in rows if row.event is not None}
    used = await core.books.read(partial(event_rows.used_by, events=events)) if events else {}
    facts = facts_of(await entitling.known_account(core, owner), used)
    return [transaction_view(row, facts) for row in rows], total


async def explain(core: Core, entry_id: str) -> dict[str, Any]:
    """Explain a transaction: what caused it and made it as large as it is, what it touched, what reversed it.

    Raises:
        ProblemError: there is none of that id.
    """
    number = event_number(entry_id)
    entry = None
    if number is not None:
        entry = await core.books.read(partial(credit_rows.entry_by_number, number=number))
    if entry is None:
        raise not_found(f"there is no credit transaction {entry_id!r}")
    _, touched, reversed_by = await core.books.read(partial(credit_rows.to_reverse, number=entry.id))
    ids = await core.books.read(partial(event_rows.customer_ids, customers=[entry.customer]))
    account = await entitling.known_account(core, CustomerRef(RefKind.ID, ids[entry.customer]))
    used = {} if entry.event is None else await core.books.read(partial(event_rows.used_by, events=[entry.event]))
    facts = facts_of(account, used)
    view = {
        **transaction_view(entry, facts),
        "customerReferenceId": account.customer.reference,
        "customerId": account.customer.id,
        "touched": [admin_grant_view(grant, facts) for grant in touched.values()],
        "reversedBy": None if reversed_by is None else event_uuid(reversed_by),
        "chain": entry.chain.hex(),
    }
    return without_nothing(view)
