"""Burn-down: which pools pay for a feature, in which order, and from which of their grants.

Nothing moves here: a `Take` says what a pool can give, and the caller draws it or sets it aside.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

import msgspec

from tallyd.engine.account import Enrolment
from tallyd.engine.credits.book import NEVER
from tallyd.engine.credits.draft import Draft
from tallyd.engine.rating import PricedFeature
from tallyd.model.credits import OVERAGE, Grant, HoldPart, Link, Pool
from tallyd.model.ledger_entries import Cause, EntryKind
from tallyd.model.money import ZERO

Kept = dict[tuple[int, int], Decimal]
"""What a hold that is being settled had set aside, by (pool, grant): drawn first."""


class Server(NamedTuple):
    """A pool that pays for a feature, and its link to the subscription if it has one."""

    pool: Pool
    link: Link | None


class Take(NamedTuple):
    """What a pool gives: parts of its grants, then overage."""

    pool: int
    parts: list[HoldPart]
    total: Decimal

    def of(self, grant: int) -> Decimal:
        """Return what it takes of one grant, or of the overage."""
        return sum([part.amount for part in self.parts if part.grant == grant], ZERO)


def serving(draft: Draft, enrolment: Enrolment, feature: PricedFeature) -> list[Server]:
    """Return the pools that pay for a feature of a subscription, in the order they are drawn.

    Pools of units come before pools of money; then the lower draw priority, then the older pool. Gauges (`last`
    meters) go down as well as up and are not paid for with credits.
    """
    if feature.meter is not None and feature.meter.aggregation == "last":
        return []
    number = enrolment.subscription.number
    found = [
        Server(pool, draft.link(pool.number, number)) for pool in draft.all_pools() if _pays_for(pool, feature)
    ]
    if len(found) > 1:
        found.sort(key=_draw_order)
    return found


def _pays_for(pool: Pool, feature: PricedFeature) -> bool:
    model = pool.model
    if pool.archived or model.charge == "nothing":
        return False
    if feature.credit_model not in (None, model.key) or (model.only_named and feature.credit_model is None):
        return False
    return not model.features or feature.key in model.features


def _draw_order(server: Server) -> tuple[bool, int, int]:
    pool, link = server
    priority = pool.model.draw_priority if link is None else link.priority
    return pool.model.charge == "price", priority, pool.number


def burn_order(pool: Pool, grants: list[Grant]) -> list[Grant]:
    """Return grants in the order they are drawn: as the credit model says."""
    if pool.model.burn_order == "fifo":
        return sorted(grants, key=lambda grant: grant.number)
    return sorted(
        grants,
        key=lambda grant: (
            grant.terms.priority,
            NEVER if grant.terms.expires_at is None else grant.terms.expires_at,
            grant.number,
        ),
    )


def take_kept(draft: Draft, server: Server, wanted: Decimal, *, at: int, kept: Kept) -> Take:
    """Return what a pool gives of what a hold had set aside: frozen pools and draw limits let it pass."""
    pool = server.pool.number
    parts: list[HoldPart] = []
    for (pool_number, grant_number), amount in kept.items():
        if pool_number != pool:
            continue
        given = min(wanted, amount)
        if grant_number != OVERAGE and not draft.grant(grant_number, pool).live_at(at):
            given = ZERO
        if given > ZERO:
            parts.append(HoldPart(pool, grant_number, given))
            wanted -= given
    return Take(pool, parts, _sum(parts))


def take_free(
    draft: Draft,
    server: Server,
    wanted: Decimal,
    *,
    at: int,
    outlive: int = 0,
    beside: Take | None = None,
    kept: Kept | None = None,
) -> Take:
    """Return what a pool gives of what is free: its grants in burn order, then overage.

    Args:
        draft: the books.
        server: the pool and its link.
        wanted: credits, above zero.
        at: the instant grants must be live at.
        outlive: draw grants that end before this instant last: for a hold that lasts so long.
        beside: what it gives already, of what is kept.
        kept: what a hold being settled had set aside: it counts towards the draw limit, drawn or not.
    """
    pool = draft.pool(server.pool.number)
    taken = {} if beside is None else {part.grant: part.amount for part in beside.parts}
    aside = sum([amount for (number, _), amount in (kept or {}).items() if number == pool.number], ZERO)
    left = wanted = min(wanted, allowance(draft, server) - aside)
    parts: list[HoldPart] = []
    if pool.frozen or left <= ZERO:
        return Take(pool.number, parts, ZERO)
    for grant in _in_order(draft, pool, outlive):
        if not grant.live_at(at):
            continue
        given = min(left, grant.free - taken.get(grant.number, ZERO))
        if given > ZERO:
            parts.append(HoldPart(pool.number, grant.number, given))
            left -= given
            if not left:
                return Take(pool.number, parts, wanted)
    headroom = pool.headroom
    given = left if headroom is None else min(left, headroom - taken.get(OVERAGE, ZERO))
    if given > ZERO:
        parts.append(HoldPart(pool.number, OVERAGE, given))
        left -= given
    return Take(pool.number, parts, wanted - left)


def _in_order(draft: Draft, pool: Pool, outlive: int) -> list[Grant]:
    grants = draft.grants_of(pool.number)
    if len(grants) > 1:
        grants = burn_order(pool, grants)
        if outlive:
            grants.sort(key=lambda grant: not grant.live_at(outlive - 1))  # stable: burn order within
    return grants


def _sum(parts: list[HoldPart]) -> Decimal:
    return sum([part.amount for part in parts], ZERO)


def together(left: Take, right: Take) -> Take:
    """Return two takes of one pool as one; what they take of one grant stands together."""
    amounts = {part.grant: part.amount for part in left.parts}
    for part in right.parts:
        amounts[part.grant] = amounts.get(part.grant, ZERO) + part.amount
    parts = [HoldPart(left.pool, grant, amount) for grant, amount in amounts.items()]
    return Take(left.pool, parts, left.total + right.total)


def allowance(draft: Draft, server: Server) -> Decimal:
    """Return what the link's draw limit still allows in the subscription's present period, holds counted."""
    link = server.link
    if link is None or link.draw_limit is None:
        return _ANY
    current = draft.link(link.pool, link.subscription)
    assert current is not None, "a link does not go away"
    drawn = current.drawn if current.drawn_in == period_start(draft, link.subscription) else ZERO
    held = _sum(
        [
            part
            for hold in draft.open_holds()
            if hold.terms.subscription == link.subscription
            for part in hold.parts
            if part.pool == link.pool
        ]
    )
    return max(ZERO, link.draw_limit - drawn - held)


_ANY = Decimal("Infinity")


def period_start(draft: Draft, subscription: int) -> int:
    """Return the start of a subscription's period that contains the draft's instant."""
    for each in draft.account.enrolments:
        if each.subscription.number == subscription:
            return each.period_at(max(draft.now, each.subscription.starts_at)).start
    return -1


def draw(
    draft: Draft,
    taken: Take,
    *,
    at: int,
    event: int,
    feature: str,
    hold: int | None,
    details: str,
    subscription: int,
) -> None:
    """Draw what a pool gives for an event, and write the deduction."""
    deltas = [(part.grant, -part.amount) for part in taken.parts if part.grant != OVERAGE]
    overage = taken.of(OVERAGE)
    draft.move(
        taken.pool,
        EntryKind.DEDUCTION,
        Cause.EVENT,
        overage - taken.total,
        deltas,
        at=at,
        overage=overage,
        event=event,
        feature=feature,
        hold=hold,
        details=details,
    )
    count_drawn(draft, taken.pool, subscription, taken.total)


def count_drawn(draft: Draft, pool: int, subscription: int, amount: Decimal) -> None:
    """Count credits towards a link's draw limit, which may come later. A reversal gives none of that back."""
    link = draft.link(pool, subscription)
    if link is None or not amount:
        return
    start = period_start(draft, subscription)
    drawn = link.drawn if link.drawn_in == start else ZERO
    draft.put_link(msgspec.structs.replace(link, drawn=drawn + amount, drawn_in=start))


def spendable(draft: Draft, server: Server, at: int) -> Decimal | None:
    """Return the credits a pool could give now; None for any amount (overage without a limit)."""
    pool = draft.pool(server.pool.number)
    if pool.frozen:
        return ZERO
    headroom = pool.headroom
    if headroom is None:
        return None
    free = sum((grant.free for grant in _live(draft, pool, at)), ZERO)
    return min(free + headroom, allowance(draft, server))


def _live(draft: Draft, pool: Pool, at: int) -> Iterator[Grant]:
    return (grant for grant in draft.grants_of(pool.number) if grant.live_at(at))
