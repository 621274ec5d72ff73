"""Moving credits on purpose, whichever contract it is asked through: the actor decides, the answer is durable."""

from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from typing import Any, Final

import msgspec

from tallyd.actors.messages import Change
from tallyd.api.entitling import known_account
from tallyd.core import Core
from tallyd.engine.credits import granting
from tallyd.engine.credits.draft import Draft
from tallyd.engine.credits.giving import conflict, give, top_up
from tallyd.engine.events import check_identifier, check_number
from tallyd.engine.passing import as_of
from tallyd.model.catalog import CreditModel
from tallyd.model.credits import Grant, GrantTerms, Hold, Link, Pool
from tallyd.model.customer import CustomerRef, RefKind
from tallyd.model.event import event_number, event_uuid
from tallyd.model.ledger_entries import TRANSACTIONS, Cause, Entry
from tallyd.model.problems import Code, Problem, ProblemError, invalid, not_found
from tallyd.store import credit_rows, event_rows
from tallyd.store.credit_rows import EntryQuery

KEY_SPACE: Final = "credit"
"""Idempotency keys of grants and deductions (CONTRACTS 1.2)."""


class Moved(msgspec.Struct, frozen=True):
    """What was done: the ledger entries, the pool afterwards, and the grant that was made, if one was."""

    entries: Sequence[Entry]
    pool: Pool
    grant: Grant | None = None

    def entry(self, number: int) -> Entry:
        """Return one of the entries by its number."""
        return next(each for each in self.entries if each.id == number)


# Finding


def read_amount(field: str, amount: Decimal) -> Decimal:
    """Return an amount of credits, above zero and exact.

    Raises:
        ProblemError: it is not.
    """
    if check_number(field, amount, negative=True) <= 0:
        raise invalid(field, "must be greater than zero")
    return amount


def find_model(core: Core, name: str, field: str = "creditModelKey") -> CreditModel:
    """Return a credit model by key or id.

    Raises:
        ProblemError: there is none.
    """
    stored = core.catalogue.credits.find(name)
    if stored is None or stored.deleted_at is not None:
        raise invalid(field, f"there is no credit model {name!r}")
    return stored.definition


async def owner_of(core: Core, pool_id: str, ref: CustomerRef | None = None) -> tuple[CustomerRef, int]:
    """Return whose a pool is, and its number.

    Args:
        core: the daemon.
        pool_id: its public id.
        ref: the customer it must belong to.

    Raises:
        ProblemError: there is no such pool, or it is another customer's.
    """
    number = event_number(pool_id)
    pool = None
    if number is not None:
        pool = await core.books.read(partial(credit_rows.pool_by_number, number=number))
    if pool is None:
        raise not_found(f"there is no credit pool {pool_id!r}")
    ids = await core.books.read(partial(event_rows.customer_ids, customers=[pool.customer]))
    if ref is not None and ref.customer_id() != ids[pool.customer]:
        raise not_found(f"customer {ref.value!r} has no credit pool {pool_id!r}")
    return CustomerRef(RefKind.ID, ids[pool.customer]), pool.number


async def pools_of(core: Core, ref: CustomerRef) -> list[Pool]:
    """Return a customer's pools as they are now.

    Raises:
        ProblemError: the customer is unknown.
    """
    account = await known_account(core, ref)
    return list(as_of(account, core.clock.of(account.customer.id)).all_pools())


async def open_holds(core: Core, ref: CustomerRef) -> list[Hold]:
    """Return the holds a customer has open now.

    Raises:
        ProblemError: the customer is unknown.
    """
    account = await known_account(core, ref)
    return list(as_of(account, core.clock.of(account.customer.id)).open_holds())


async def pool_now(core: Core, pool_id: str, ref: CustomerRef | None = None) -> tuple[CustomerRef, Pool]:
    """Return a pool as it is now, and whose it is.

    Raises:
        ProblemError: there is no such pool, or it is another customer's.
    """
    owner, number = await owner_of(core, pool_id, ref)
    account = await known_account(core, owner)
    return owner, as_of(account, core.clock.of(account.customer.id)).pool(number)


# What time has done


async def keep_time(core: Core, ref: CustomerRef) -> None:
    """Write what time alone has done to a customer's books, so that they can be read.

    Raises:
        ProblemError: the customer is unknown, or overload.
    """
    account = await known_account(core, ref)
    if account.due_at <= core.clock.of(account.customer.id):
        await core.intake.ask(ref, Change(lambda _draft, _prepared: None))


async def transactions(
    core: Core, owner: CustomerRef, pool: int, *, limit: int, offset: int, kinds: tuple[str, ...] = TRANSACTIONS
) -> tuple[list[Entry], int]:
    """Return a page of a pool's transactions, newest first, and how many there are."""
    await keep_time(core, owner)
    query = EntryQuery(pool=pool, kinds=kinds, limit=limit, offset=offset)
    return await core.books.scan(partial(credit_rows.list_entries, query=query))


async def grants(core: Core, owner: CustomerRef, pool: int) -> list[Grant]:
    """Return all grants of a pool, in order, used up ones too."""
    await keep_time(core, owner)
    return await core.books.scan(partial(credit_rows.grants_of, pool=pool))


# Moving


async def open_pool(
    core: Core, ref: CustomerRef, model: CreditModel, name: str | None = None, key: str | None = None
) -> Moved:
    """Open a further pool for a customer.

    Raises:
        ProblemError: the customer is unknown, or the key is used.
    """
    return await _move(core, ref, key, lambda draft, _: (granting.open_pool(draft, model, name, key=key), None))


async def grant(
    core: Core,
    ref: CustomerRef,
    into: int | CreditModel,
    amount: Decimal,
    terms: GrantTerms,
    *,
    cause: Cause = Cause.MANUAL,
    key: str | None = None,
) -> Moved:
    """Grant credits into a pool, or into the customer's pool of a credit model, opened if need be.

    Raises:
        ProblemError: bad amount or expiry, unknown pool or customer, archived, or the key is used.
    """
    read_amount("amount", amount)

    def decide(draft: Draft, _prepared: Any) -> tuple[Pool, Grant]:
        if terms.expires_at is not None and terms.expires_at <= draft.now:  # of a new grant: not of a repeat
            raise invalid("expiresAt", "must lie in the future")
        if isinstance(into, CreditModel):
            pool = granting.pool_for(draft, into)
        else:
            pool = granting.known_pool(draft, into)
        made = give(draft, pool.number, amount, terms, cause, at=draft.now, key=key)
        return draft.pool(pool.number), made

    return await _move(core, ref, key, decide, amount=amount)


async def deduct(
    core: Core,
    ref: CustomerRef,
    pool: int,
    amount: Decimal,
    *,
    key: str | None = None,
    description: str | None = None,
    metadata: dict[str, Any] | None = None,
) -> Moved:
    """Take credits out of a pool: never more than is free.

    Raises:
        ProblemError: not so many are free, frozen, archived, unknown, or the key is used.
    """
    read_amount("amount", amount)

    def decide(draft: Draft, _prepared: Any) -> tuple[Pool, None]:
        held = granting.known_pool(draft, pool)
        granting.deduct(draft, held, amount, key=key, description=description, metadata=metadata)
        return draft.pool(pool), None

    return await _move(core, ref, key, decide, amount=-amount)


async def reverse(core: Core, entry_id: str, *, key: str | None = None, description: str | None = None) -> Moved:
    """Reverse a transaction, once.

    Raises:
        ProblemError: unknown, reversed already, or not to be reversed.
    """
    number = event_number(entry_id)
    found = None
    if number is not None:
        found = await core.books.read(partial(credit_rows.entry_by_number, number=number))
    if found is None:
        raise not_found(f"there is no credit transaction {entry_id!r}")
    ids = await core.books.read(partial(event_rows.customer_ids, customers=[found.customer]))

    def decide(draft: Draft, prepared: Any) -> tuple[Pool, None]:
        entry, touched, reversed_by = prepared
        if reversed_by is not None:
            raise conflict("the transaction is reversed already")
        granting.reverse(draft, entry, touched, key=key, description=description)
        return draft.pool(entry.pool), None

    prepare = partial(credit_rows.to_reverse, number=found.id)
    return await _move(core, CustomerRef(RefKind.ID, ids[found.customer]), key, decide, prepare)


async def freeze(
    core: Core, ref: CustomerRef, pool: int, *, frozen: bool, description: str | None = None
) -> Moved:
    """Freeze a pool or let it give credits again.

    Raises:
        ProblemError: unknown, or archived.
    """

    def decide(draft: Draft, _prepared: Any) -> tuple[Pool, None]:
        granting.freeze(draft, granting.known_pool(draft, pool), frozen=frozen, description=description)
        return draft.pool(pool), None

    return await _move(core, ref, None, decide)


async def change_pool(
    core: Core,
    ref: CustomerRef,
    pool: int,
    *,
    name: str | None = None,
    model: CreditModel | None = None,
    archived: bool | None = None,
) -> Moved:
    """Change a pool's name or rules, or archive it.

    Raises:
        ProblemError: unknown, archived, or not to be archived while it has credits.
    """

    def decide(draft: Draft, _prepared: Any) -> tuple[Pool, None]:
        held = granting.known_pool(draft, pool)
        granting.change_pool(draft, held, name=name, model=model, archived=archived)
        top_up(draft, pool, draft.now)
        return draft.pool(pool), None

    return await _move(core, ref, None, decide)


async def link(
    core: Core, ref: CustomerRef, pool: int, subscription_id: str, *, priority: int, draw_limit: Decimal | None
) -> Link:
    """Let a pool serve a subscription, or change how it does.

    Raises:
        ProblemError: unknown pool or subscription.
    """
    if draw_limit is not None:
        check_number("drawLimit", draw_limit)

    def decide(draft: Draft, _prepared: Any) -> Link:
        held = granting.known_pool(draft, pool)
        for each in draft.account.subscriptions():
            if each.id == subscription_id:
                enrolment = draft.enrolment_at(each.number, draft.now)
                return granting.link_pool(draft, held, enrolment, priority=priority, draw_limit=draw_limit)
        raise not_found(f"the customer has no subscription {subscription_id!r}")

    message = Change(decide)
    await core.intake.ask(ref, message)
    made: Link = message.answer
    return made


async def _move(
    core: Core,
    ref: CustomerRef,
    key: str | None,
    decide: Any,
    prepare: Any = None,
    *,
    amount: Decimal | None = None,
) -> Moved:
    """Ask the customer's actor, once for a key; `amount` is what the entry under the key adds to the balance."""
    if key is not None:
        check_identifier("idempotencyKey", key)
    message = Change(decide, prepare)
    pair = None if key is None else (KEY_SPACE, key)
    known = await core.intake.ask_once(ref, message, pair)
    if known is not None:
        raise ProblemError(await _key_problem(core, ref, known.id, amount))
    pool, made = message.answer
    return Moved(message.entries, pool, made)


async def _key_problem(core: Core, ref: CustomerRef, number: int, amount: Decimal | None) -> Problem:
    """Return what is said of a key that is used: the same done again is a repeat, anything else a conflict."""
    entry = await core.books.read(partial(credit_rows.entry_by_number, number=number))
    account = await known_account(core, ref)
    original = event_uuid(number)
    if entry is not None and amount is not None:
        same = (entry.customer, Decimal(entry.amount or 0)) == (account.customer.number, amount)
        if not same:
            text = "the idempotency key was used for something else; send a new request with a new key"
            return Problem(code=Code.IDEMPOTENCY_CONFLICT, message=text, detail=original)
    return Problem(code=Code.DUPLICATE_KEY, message="idempotency key already used", detail=original)
