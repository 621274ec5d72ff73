"""Moving credits on purpose: opening pools, granting, deducting, reversing, freezing.

Each function changes a draft, whose time has passed already. What is asked wrongly is refused with a problem that
names the field; nothing is changed then, as the draft is thrown away.
"""

from decimal import Decimal
from typing import Any, Final

import msgspec

from tallyd.engine.account import Enrolment
from tallyd.engine.credits import burning, passing
from tallyd.engine.credits.draft import Draft
from tallyd.engine.credits.giving import conflict, next_look, short_of, top_up
from tallyd.model.catalog import CreditModel, PlanCredits
from tallyd.model.credits import Grant, Link, Pool
from tallyd.model.ledger_entries import Cause, DeductionDetails, Entry, EntryKind, json_text
from tallyd.model.money import ZERO, plain
from tallyd.model.problems import not_found

_replace: Final = msgspec.structs.replace
_decode_deltas: Final = msgspec.json.Decoder(list[tuple[int, Decimal]]).decode


class PoolTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What can be set about a pool: `details` of POOL_OPENED and POOL_CHANGED."""

    name: str
    model: CreditModel
    archived: bool = False


class LinkTerms(msgspec.Struct, frozen=True, kw_only=True):
    """How a pool serves a subscription: `details` of POOL_LINKED."""

    subscription: int
    priority: int
    draw_limit: Decimal | None
    allocated_in: int


# Pools


def open_pool(draft: Draft, model: CreditModel, name: str | None = None, *, key: str | None = None) -> Pool:
    """Open a pool for the customer, with the credit model's rules as they are now."""
    number, now = draft.new_number(), draft.now
    pool = Pool(
        number=number,
        customer=draft.account.customer.number,
        model=model,
        name=name or model.name or model.key,
        opened_at=now,
        modified_at=now,
    )
    draft.put_pool(pool)
    details = json_text(PoolTerms(name=pool.name, model=model))
    space = "credit" if key is not None else ""
    draft.note(
        EntryKind.POOL_OPENED,
        Cause.MANUAL,
        at=now,
        pool=number,
        details=details,
        number=number,
        space=space,
        key=key,
    )
    if model.recurring is not None:
        passing.recur(draft, number, now)
    top_up(draft, number, now)
    return draft.pool(number)


def pool_for(draft: Draft, model: CreditModel) -> Pool:
    """Return the customer's pool of a credit model, opened if there is none."""
    for pool in draft.all_pools():
        if pool.model.key == model.key and not pool.archived:
            return pool
    return open_pool(draft, model)


def known_pool(draft: Draft, number: int | None) -> Pool:
    """Return a pool of the customer.

    Raises:
        ProblemError: there is none of that number.
    """
    if number is None or (number not in draft.pools and number not in draft.base.pools):
        raise not_found("the customer has no such credit pool")
    return draft.pool(number)


def change_pool(
    draft: Draft, pool: Pool, *, name: str | None, model: CreditModel | None, archived: bool | None = None
) -> None:
    """Change a pool's name or rules, or archive it. What happened before stays as it was.

    Raises:
        ProblemError: it is archived, or cannot be while it has credits or holds.
    """
    if pool.archived:
        raise conflict("the pool is archived")
    if archived and (pool.balance or pool.held or pool.overage_held):
        raise conflict(f"the pool still has {plain(pool.balance)} credits; deduct them first, then archive it")
    terms = PoolTerms(name=name or pool.name, model=model or pool.model, archived=bool(archived))
    changed = _replace(pool, name=terms.name, model=terms.model, archived=terms.archived, modified_at=draft.now)
    if terms.model.recurring != pool.model.recurring:
        changed = _replace(changed, recurred_at=draft.now)  # what recurs begins now, not when the pool was opened
    draft.put_pool(changed)
    draft.note(EntryKind.POOL_CHANGED, Cause.MANUAL, at=draft.now, pool=pool.number, details=json_text(terms))
    if terms.model.recurring is not None:
        draft.note_due(passing.next_recurrence(changed))
    draft.note_due(next_look(changed))


def link_pool(
    draft: Draft, pool: Pool, enrolment: Enrolment, *, priority: int, draw_limit: Decimal | None
) -> Link:
    """Say how a subscription draws from a pool, or change it.

    Credits the plan includes begin with the period that the subscription is in, or with its start.

    Raises:
        ProblemError: the pool is archived.
    """
    if pool.archived:
        raise conflict("the pool is archived")
    subscription = enrolment.subscription
    held = draft.link(pool.number, subscription.number)
    link = held or Link(pool=pool.number, subscription=subscription.number, customer=pool.customer)
    begins = link.allocated_in
    includes = passing.included_credits(enrolment, pool) is not None
    if held is None and not includes and subscription.starts_at <= draft.now:
        begins = enrolment.period_at(draft.now).start  # nothing to grant: its next end is what matters
        draft.note_due(enrolment.period_at(draft.now).end)
    link = _replace(link, priority=priority, draw_limit=draw_limit, allocated_in=begins)
    draft.put_link(link)
    terms = LinkTerms(
        subscription=subscription.number, priority=priority, draw_limit=draw_limit, allocated_in=begins
    )
    draft.note(EntryKind.POOL_LINKED, Cause.MANUAL, at=draft.now, pool=pool.number, details=json_text(terms))
    if link.allocated_in < 0:
        if subscription.starts_at > draft.now:
            draft.note_due(subscription.starts_at)
        else:
            passing.allocate(draft, enrolment, link, draft.now)
    return link


def include(draft: Draft, enrolment: Enrolment, included: PlanCredits, model: CreditModel) -> None:
    """Give a new subscription the credits its plan includes: pool, link and the first grant."""
    pool = pool_for(draft, model)
    priority = model.draw_priority if included.draw_priority is None else included.draw_priority
    link_pool(draft, pool, enrolment, priority=priority, draw_limit=included.draw_limit)


# Credits


def deduct(
    draft: Draft,
    pool: Pool,
    amount: Decimal,
    *,
    key: str | None = None,
    description: str | None = None,
    metadata: dict[str, Any] | None = None,
) -> int:
    """Take credits out on purpose: never more than is free, never overage. Return the entry's number.

    Raises:
        ProblemError: not so many are free, or the pool is frozen or archived.
    """
    if pool.frozen or pool.archived:
        advice = "; unfreeze it first" if pool.frozen else ""
        raise conflict(f"the pool is {pool.status} and gives no credits{advice}")
    server = burning.Server(pool, None)
    grants = [part for part in burning.take_free(draft, server, amount, at=draft.now).parts if part.grant]
    free = sum((part.amount for part in grants), ZERO)
    if free < amount:
        raise short_of(f"the pool has {plain(free)} credits free, not {plain(amount)}")
    details = DeductionDetails(description=description, metadata=metadata)
    number = draft.move(
        pool.number,
        EntryKind.DEDUCTION,
        Cause.MANUAL,
        -amount,
        [(part.grant, -part.amount) for part in grants],
        at=draft.now,
        key=key,
        details=json_text(details),
    )
    top_up(draft, pool.number, draft.now)
    return number


def freeze(draft: Draft, pool: Pool, *, frozen: bool, description: str | None = None) -> None:
    """Freeze or unfreeze a pool; asking for what is so already changes nothing.

    Raises:
        ProblemError: it is archived.
    """
    if pool.archived:
        raise conflict("the pool is archived")
    if pool.frozen == frozen:
        return
    draft.put_pool(_replace(pool, frozen=frozen))
    kind = EntryKind.FREEZE if frozen else EntryKind.UNFREEZE
    details = json_text(DeductionDetails(description=description))
    draft.move(pool.number, kind, Cause.MANUAL, at=draft.now, details=details)


# Reversal


def reverse(
    draft: Draft,
    entry: Entry,
    grants: dict[int, Grant],
    *,
    key: str | None = None,
    description: str | None = None,
) -> int:
    """Reverse a transaction, once; return the entry's number (CONTRACTS E5).

    A deduction gives back to the grants it drew from; a grant is taken back as far as it is free.

    Args:
        draft: the books.
        entry: the transaction.
        grants: those it touched, as they stand.
        key: idempotency key.
        description: for people.

    Raises:
        ProblemError: it cannot be reversed.
    """
    if entry.pool is None or entry.kind not in (EntryKind.GRANT, EntryKind.DEDUCTION):
        raise conflict(f"only a GRANT or a DEDUCTION can be reversed, this is {entry.kind}")
    pool = draft.pool(entry.pool)
    if pool.archived:
        raise conflict("the pool is archived")
    for number, grant in grants.items():
        draft.grants.setdefault(number, draft.base.grants.get(pool.number, {}).get(number, grant))
    details = json_text(DeductionDetails(description=description))
    if entry.kind == EntryKind.GRANT:
        return _take_back(draft, draft.grant(entry.id, pool.number), entry, key, details)
    return _give_back(draft, pool, entry, key, details)


def _take_back(draft: Draft, grant: Grant, entry: Entry, key: str | None, details: str) -> int:
    if grant.free <= ZERO:
        raise conflict("nothing of the grant is free: it is drawn, expired or held")
    deltas = [(grant.number, -grant.free)]
    return draft.move(
        grant.pool,
        EntryKind.REVERSAL,
        Cause.MANUAL,
        -grant.free,
        deltas,
        at=draft.now,
        reverses=entry.id,
        key=key,
        details=details,
    )


def _give_back(draft: Draft, pool: Pool, entry: Entry, key: str | None, details: str) -> int:
    drawn = [(grant, -delta) for grant, delta in _decode_deltas(entry.grants)]
    added = Decimal(entry.overage_after or 0) - Decimal(entry.overage_before or 0)
    back = sum((delta for _, delta in drawn), ZERO)
    number = draft.move(
        pool.number,
        EntryKind.REVERSAL,
        Cause.MANUAL,
        back,
        drawn,
        at=draft.now,
        overage=-min(pool.overage, added),
        event=entry.event,
        feature=entry.feature,
        reverses=entry.id,
        key=key,
        details=details,
    )
    for grant_number, _ in drawn:
        grant = draft.grant(grant_number, pool.number)
        draft.note_due(grant.terms.expires_at)
        if grant.remaining and not grant.live_at(draft.now):
            passing.expire(draft, grant, grant.remaining, Cause.EXPIRY, draft.now)
    return number
