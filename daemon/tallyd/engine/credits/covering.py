"""Covering usage with credits: what a feature's usage comes to, who pays how much of it, and what is left to bill.

What credits pay for is covered, and the plan does not bill it (P5). Pools of units pay for the usage itself; pools
of money pay what the plan would charge for the rest.
"""

from collections.abc import Mapping
from decimal import Decimal

import msgspec

from tallyd.engine.account import Enrolment
from tallyd.engine.credits import burning
from tallyd.engine.credits.burning import Kept, Server, Take
from tallyd.engine.credits.draft import Draft
from tallyd.engine.credits.weights import Quote, Weights
from tallyd.engine.rating import Marginal, NoPrice, PricedFeature
from tallyd.model.credits import Pool
from tallyd.model.event import UsageEvent
from tallyd.model.ledger_entries import DeductionDetails, json_text
from tallyd.model.money import ZERO, share


class Given(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One pool's part: what it gives, and what that pays for."""

    take: Take
    covered: dict[str, Decimal] = {}
    credited: Decimal = ZERO
    waived: Decimal = ZERO


class Cover(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How a feature's usage is paid for.

    Attributes:
        quote: what it comes to in credits.
        given: each pool's part.
        short: credits that a hard pool should have given and nobody can: the usage does not fit (P4).
        rest: quantities left for the plan to bill.
        amount: the plan's charge for the rest, less what pools of money pay; None while unpriced.
        no_price: why there is no amount.
        unsure: pools of money should pay, and nobody can say how much.
    """

    quote: Quote
    given: list[Given]
    short: Decimal = ZERO
    unsure: bool = False
    rest: dict[str, Decimal]
    amount: Decimal | None
    no_price: NoPrice | None

    @classmethod
    def uncovered(cls, rest: dict[str, Decimal], amount: Decimal | None, no_price: NoPrice | None) -> "Cover":
        """Return usage that no credits pay for: the plan bills all of it."""
        return cls(quote=Quote(charge=ZERO), given=[], rest=rest, amount=amount, no_price=no_price)


class Drawn(msgspec.Struct, frozen=True, gc=False):
    """What an event drew from a pool, and what the pool has afterwards."""

    pool: Pool
    feature: str
    total: Decimal
    quote: Quote


class Asked(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Usage of one feature that is to be paid for.

    Attributes:
        enrolment: the subscription it is on.
        feature: the feature.
        event: the event.
        units: what it adds.
        quantity: what the plan would price, by dimension.
        rated: what was priced before, by dimension.
        kept: what a hold being settled had set aside.
        outlive: for a hold: when it ends.
        fact: it has happened: what a hard pool cannot pay is billed or waived, as the pool says, or refused.
    """

    enrolment: Enrolment
    feature: PricedFeature
    event: UsageEvent
    units: Decimal
    quantity: dict[str, Decimal]
    rated: Mapping[str, Decimal]
    kept: Kept | None = None
    outlive: int = 0
    fact: bool = False


def cover(draft: Draft, asked: Asked, weights: Weights, marginal: Marginal) -> Cover | None:
    """Decide who pays; nothing is drawn yet. None: no pool pays for this feature."""
    servers = burning.serving(draft, asked.enrolment, asked.feature)
    if not servers:
        return None
    at = max(draft.now, asked.event.occurred_at)
    unit_pools = [server for server in servers if server.pool.model.charge == "units"]
    money_pools = servers[len(unit_pools) :]
    quote = _quote(draft, asked, unit_pools, weights)
    takes, missing = _take(draft, unit_pools, quote.charge, asked, at)
    given = _split(asked.quantity, takes, quote.charge)
    rest = asked.quantity
    if takes:
        rest = {} if not missing else _rest(asked.quantity, given)
    if takes and not missing:
        return Cover(quote=quote, given=given, rest=rest, amount=ZERO, no_price=None)
    amount, no_price = marginal(asked.feature, asked.rated, rest)
    short, unsure = missing, bool(money_pools) and amount is None
    if money_pools and amount:
        if not unit_pools:
            quote = Quote(charge=max(ZERO, amount))
        takes, short = _take(draft, money_pools, amount, asked, at)
        given += [Given(take=take, credited=take.total) for take in takes]
        amount -= sum((take.total for take in takes), ZERO)
    if not any(server.pool.model.hard_limit for server in servers):
        short = ZERO
    covered = Cover(
        quote=quote,
        given=given,
        short=max(ZERO, short),
        unsure=unsure,
        rest=rest,
        amount=amount,
        no_price=no_price,
    )
    return _shortfall(servers, covered) if asked.fact and short > ZERO else covered


def _quote(draft: Draft, asked: Asked, pools: list[Server], weights: Weights) -> Quote:
    if not pools:
        return Quote(charge=ZERO)
    precision = next((each.pool.model.precision for each in pools if each.pool.model.precision is not None), None)
    return weights.quote(asked.feature, asked.event, asked.units, now=draft.now, precision=precision)


def _take(
    draft: Draft, servers: list[Server], wanted: Decimal, asked: Asked, at: int
) -> tuple[list[Take], Decimal]:
    """Take from pools one after another, what is kept for this first; return it, and what is missing."""
    takes: dict[int, Take] = {}
    if asked.kept:
        for server in servers:
            take = burning.take_kept(draft, server, wanted, at=at, kept=asked.kept)
            if take.total:
                takes[take.pool] = take
                wanted -= take.total
    for server in servers:
        if wanted <= ZERO:
            break
        beside = takes.get(server.pool.number)
        take = burning.take_free(
            draft, server, wanted, at=at, outlive=asked.outlive, beside=beside, kept=asked.kept
        )
        if take.total:
            takes[take.pool] = take if beside is None else burning.together(beside, take)
            wanted -= take.total
    return [takes[server.pool.number] for server in servers if server.pool.number in takes], wanted


def _split(quantity: dict[str, Decimal], takes: list[Take], charge: Decimal) -> list[Given]:
    """Say which part of the quantities each pool pays for: in proportion, and together exactly what is paid."""
    if len(takes) == 1 and takes[0].total == charge:
        return [Given(take=takes[0], covered=quantity)]
    given, paid = [], ZERO
    covered = dict.fromkeys(quantity, ZERO)
    for take in takes:
        paid += take.total
        until = {dimension: share(value, paid, charge) for dimension, value in quantity.items()}
        part = {dimension: value - covered[dimension] for dimension, value in until.items()}
        given.append(Given(take=take, covered=part))
        covered = until
    return given


def _rest(quantity: dict[str, Decimal], given: list[Given]) -> dict[str, Decimal]:
    return {
        dimension: value - sum((each.covered[dimension] for each in given), ZERO)
        for dimension, value in quantity.items()
    }


def _shortfall(servers: list[Server], cover: Cover) -> Cover:
    """Do with usage that has happened what the first hard pool says of a shortfall."""
    hard = next(server.pool for server in servers if server.pool.model.hard_limit)
    if hard.model.on_shortfall == "refuse":
        return cover
    if hard.model.on_shortfall == "bill":
        return msgspec.structs.replace(cover, short=ZERO)
    money = hard.model.charge == "price"
    waived = Given(
        take=Take(hard.number, [], ZERO),
        covered={} if money else cover.rest,
        credited=cover.amount or ZERO if money else ZERO,
        waived=cover.short,
    )
    rest = cover.rest if money else {}
    return msgspec.structs.replace(
        cover, short=ZERO, given=[*cover.given, waived], rest=rest, amount=ZERO, no_price=None
    )


def draw(draft: Draft, asked: Asked, covered: Cover, *, event: int, hold: int | None = None) -> None:
    """Draw what the pools give, and write why."""
    quote = covered.quote
    for each in covered.given:
        details = DeductionDetails(
            charge=quote.charge,
            weight=quote.weight,
            weight_id=quote.weight_id,
            weight_match=quote.weight_match,
            weights=quote.weights,
            units_per_credit=quote.units_per_credit,
            covered=each.covered,
            credited=each.credited,
            waived=each.waived,
        )
        burning.draw(
            draft,
            each.take,
            at=draft.now,
            event=event,
            feature=asked.feature.key,
            hold=hold,
            details=json_text(details),
            subscription=asked.enrolment.subscription.number,
        )
