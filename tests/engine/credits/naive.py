"""The rules of credits kept by hand: one customer, one subscription, everything counted again for each question.

Nothing here comes from the engine. A book is a list of entries; balances, remainders, totals and what a link has
drawn are sums over that list, and what is held is a sum over the open holds. Pools, grants, holds and entries are
named by their place in their list. `entries` are the ledger's transactions (GRANT … UNFREEZE) in their order.

Times are microseconds UTC and never go back. Every operation first does what is due; for questions say
`books.at(now).balance(pool)`. What the rules forbid raises `Refused`, and then nothing but time's own entries
has changed.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cache
from math import floor

from tallyd.model.catalog import CreditModel, PlanCredits
from tallyd.model.credits import GrantType, HoldStatus, PoolStatus
from tallyd.model.ledger_entries import TRANSACTIONS, Cause, EntryKind

ZERO = Decimal(0)
DIGITS = 18
SECOND = 1_000_000
DAY = 86_400 * SECOND
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Refused(Exception):
    """What was asked is not allowed: `limit`, `credits`, `conflict` or `invalid`."""


@dataclass
class Feature:
    """A feature of the plan: so much money a unit, at most `limit` units a period.

    `weights` are credits a unit by the event's model; that under None is for all others, and absent it is 1.
    """

    price: Decimal = ZERO
    limit: Decimal | None = None
    weights: dict[str | None, Decimal] = field(default_factory=dict)
    units_per_credit: Decimal | None = None
    credit_model: str | None = None


@dataclass
class Pool:
    """A pool's own copy of the rules, what somebody set by hand, and when its top-ups are looked at `again`."""

    model: CreditModel
    frozen: bool = False
    archived: bool = False
    recurred_at: int = 0
    again: int | None = None


@dataclass
class Link:
    """A pool's link to the subscription. `period`: the last one whose start was seen to, -1 before the first."""

    priority: int
    draw_limit: Decimal | None
    included: PlanCredits | None
    period: int


@dataclass
class Grant:
    """What is fixed about a grant. Its age is its place in the list."""

    pool: int
    type: GrantType
    priority: int
    expires_at: int | None
    rollovers: int = 0
    parent: int | None = None

    @property
    def of_plan(self) -> bool:
        """Whether the end of a period is its business."""
        return self.type in {GrantType.PLAN_INCLUDED, GrantType.ROLLOVER}


@dataclass
class Part:
    """Credits of one grant, or of a pool's overage where `grant` is None."""

    pool: int
    grant: int | None
    amount: Decimal


@dataclass
class Hold:
    """Credits and units set aside."""

    feature: str
    period: int
    expires_at: int
    units: Decimal
    parts: list[Part]
    status: HoldStatus = HoldStatus.HELD
    closed_at: int | None = None


@dataclass
class Entry:
    """A transaction: what it did to grants and to overage, both signed, and when that counts as done.

    `period`: for usage of a linked pool, the subscription's period in which it was drawn.
    """

    kind: EntryKind
    cause: Cause
    pool: int
    at: int
    grants: list[tuple[int, Decimal]]
    overage: Decimal = ZERO
    reverses: int | None = None
    period: int | None = None

    @property
    def amount(self) -> Decimal:
        """What it added to the balance."""
        return sum((amount for _, amount in self.grants), ZERO)


@dataclass
class Payment:
    """How usage would be paid: parts of pools, units they cover, what the plan prices, and what nobody paid."""

    parts: list[Part]
    charge: Decimal
    covered: Decimal
    price: Decimal
    credited: Decimal
    short: bool


@dataclass
class Outcome:
    """What became of usage: credits by pool, units covered, units the plan priced and what it bills for them."""

    drawn: dict[int, Decimal]
    covered: Decimal
    billed_units: Decimal
    billed: Decimal
    capped: bool = False
    hold: HoldStatus | None = None


def rounded(value: Fraction, digits: int, *, half: Fraction = Fraction(1, 2)) -> Decimal:
    """Round half up to so many digits after the point; down with `half=0`. Values are never negative."""
    return Decimal(floor(value * 10**digits + half)).scaleb(-digits)


def as_datetime(moment: int) -> datetime:
    """Return the instant as a date and time."""
    return EPOCH + timedelta(microseconds=moment)


def as_micros(moment: datetime) -> int:
    """Return the instant as microseconds."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def months_later(moment: int, months: int) -> int:
    """Return the same day and time some months on, or the month's last day where it has no such day."""
    start = as_datetime(moment)
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    for day in range(start.day, 0, -1):
        try:
            return as_micros(start.replace(year=year, month=month + 1, day=day))
        except ValueError:
            continue
    raise AssertionError


@cache
def next_recurrence(moment: int, every: str) -> int:
    """Return the first 00:00 UTC of a day, a Monday or a 1st that is later than the instant."""
    day = as_datetime(moment).replace(hour=0, minute=0, second=0, microsecond=0)
    while True:
        day += timedelta(days=1)
        if every == "day" or (every == "week" and day.weekday() == 0) or (every == "month" and day.day == 1):
            return as_micros(day)


class Books:
    """One customer's credits. `starts`: when each period of the subscription starts, further than time will go."""

    def __init__(self, features: dict[str, Feature], starts: list[int]) -> None:
        self.features = features
        self.starts = starts
        self.now = 0
        self.pools: list[Pool] = []
        self.links: dict[int, Link] = {}
        self.grants: list[Grant] = []
        self.holds: list[Hold] = []
        self.entries: list[Entry] = []
        self.usage: list[tuple[str, int, Decimal]] = []
        self._sums: dict[object, Decimal] = defaultdict(Decimal)
        self._summed = 0

    # Questions: they speak of the instant `at` was given last.

    def at(self, now: int) -> "Books":
        """P7: do everything that is due up to an instant, earliest first, and speak of that instant."""
        assert now >= self.now, "time never goes back"
        self.now = now
        while due := [moment for moment in self._due() if moment <= now]:
            self._happen(min(due))
        return self

    def balance(self, pool: int) -> Decimal:
        """P3: the sum of the pool's transactions."""
        return self._sum("balance", pool)

    def overage(self, pool: int) -> Decimal:
        """Drawn beyond the balance and not repaid, forgiven or charged."""
        return self._sum("overage", pool)

    def held(self, pool: int) -> Decimal:
        """Of the balance, set aside by open holds."""
        return sum((part.amount for part in self._held_parts(pool) if part.grant is not None), ZERO)

    def available(self, pool: int) -> Decimal:
        """The balance less what is held."""
        return self.balance(pool) - self.held(pool)

    def remaining(self, grant: int) -> Decimal:
        """What a grant has left: the sum of what every entry did to it."""
        return self._sum("grant", grant)

    def free(self, grant: int) -> Decimal:
        """What a grant has left that no hold has set aside."""
        parts = self._held_parts(self.grants[grant].pool)
        return self.remaining(grant) - sum((part.amount for part in parts if part.grant == grant), ZERO)

    def totals(self, pool: int) -> dict[str, Decimal]:
        """E1: lifetime totals; balance = granted - consumed - expired + reversed. Repaid overage is consumed."""
        moved = {kind: self._sum(kind, pool) for kind in TRANSACTIONS}
        return {
            "granted": moved[EntryKind.GRANT],
            "consumed": -moved[EntryKind.DEDUCTION] - moved[EntryKind.ADJUSTMENT],
            "expired": -moved[EntryKind.EXPIRATION],
            "reversed": moved[EntryKind.REVERSAL],
        }

    def status(self, pool: int) -> PoolStatus:
        """E4: archived before frozen before depleted: a hard pool without a balance, and no overage to draw."""
        if self.pools[pool].archived:
            return PoolStatus.ARCHIVED
        if self.pools[pool].frozen:
            return PoolStatus.FROZEN
        empty = self.balance(pool) == ZERO and self._headroom(pool, Decimal(1)) == ZERO
        return PoolStatus.DEPLETED if self.pools[pool].model.hard_limit and empty else PoolStatus.ACTIVE

    def used(self, feature: str, period: int) -> Decimal:
        """Units used in a period, covered by credits or not."""
        return sum((units for what, when, units in self.usage if (what, when) == (feature, period)), ZERO)

    def held_units(self, feature: str, period: int) -> Decimal:
        """Units that open holds have set aside of a period's limit."""
        holds = [hold for hold in self.holds if hold.status is HoldStatus.HELD]
        return sum((hold.units for hold in holds if (hold.feature, hold.period) == (feature, period)), ZERO)

    def allowed(self, feature: str, units: Decimal, model: str | None = None) -> bool:
        """Whether usage asked for at this instant would be let in: P4 for the limit, and hard pools can pay."""
        payment = self._payment(feature, units, self.now, model)
        return self._fits(feature, units, self.period(self.now)) and not self._unpayable(feature, payment)

    def period(self, moment: int) -> int:
        """Return the number of the period that contains the instant, -1 before the first."""
        return bisect_right(self.starts, moment) - 1

    def _sum(self, what: str, number: int) -> Decimal:
        """Sum up the entries; as none ever changes, those that were summed up before are not asked again."""
        while self._summed < len(self.entries):
            entry = self.entries[self._summed]
            amount = entry.amount
            self._sums["balance", entry.pool] += amount
            self._sums["overage", entry.pool] += entry.overage
            self._sums[entry.kind, entry.pool] += amount
            for grant, moved in entry.grants:
                self._sums["grant", grant] += moved
            self._summed += 1
        return self._sums[what, number]

    # Pools

    def open_pool(self, model: CreditModel, now: int) -> int:
        """Pools: a pool has its own rules. Recurring: credits are granted on opening, too; then a top-up."""
        self.at(now).pools.append(Pool(model))
        pool = len(self.pools) - 1
        if model.recurring:
            self._recur(pool, now)
        self._top_up([pool], now)
        return pool

    def link(
        self,
        pool: int,
        now: int,
        *,
        priority: int | None = None,
        draw_limit: Decimal | None = None,
        included: PlanCredits | None = None,
    ) -> None:
        """Plan credits: on linking, those of the period that contains now are granted, now. Once: see E7.

        Linking again changes priority and draw limit.
        """
        self.at(now)
        if self.pools[pool].archived:
            raise Refused("conflict")
        if priority is None:
            priority = self.pools[pool].model.draw_priority
        if pool in self.links:
            self.links[pool].priority, self.links[pool].draw_limit = priority, draw_limit
            return
        self.links[pool] = Link(priority, draw_limit, included, self.period(now))
        if self.period(now) >= 0:
            self._allocate(pool, self.period(now), now)

    def freeze(self, pool: int, now: int) -> None:
        """Freeze: from now on it gives nothing but what is held. An entry of 0."""
        self._set_frozen(pool, now, frozen=True)

    def unfreeze(self, pool: int, now: int) -> None:
        """Unfreeze: it gives again. An entry of 0."""
        self._set_frozen(pool, now, frozen=False)

    def change(self, pool: int, model: CreditModel, now: int) -> None:
        """Pools: a pool's rules may be changed, for what is to come: recurring credits as well as all others."""
        kept = self.at(now).pools[pool]
        if kept.archived:
            raise Refused("conflict")
        if model.recurring != kept.model.recurring:
            kept.recurred_at = now
        kept.model = model
        month = as_datetime(now).strftime("%Y-%m")
        kept.again = None
        if model.top_up and self._topped_up(pool, month) >= model.top_up.most_a_month:
            kept.again = next_recurrence(now, "month")

    def archive(self, pool: int, now: int) -> None:
        """Archive: only with a balance of 0 and no holds."""
        self.at(now)
        if self.pools[pool].archived or self.balance(pool) or self._held_parts(pool):
            raise Refused("conflict")
        self.pools[pool].archived = True

    # Credits by hand

    def grant(
        self, pool: int, amount: Decimal, now: int, *, priority: int = 0, expires_at: int | None = None
    ) -> int:
        """Grants: more than 0, into a pool that is not archived; they expire in the future or never."""
        self.at(now)
        if amount <= ZERO or (expires_at is not None and expires_at <= now):
            raise Refused("invalid")
        if self.pools[pool].archived:
            raise Refused("conflict")
        ends = self._default_expiry(pool, now) if expires_at is None else expires_at
        return self._grant(pool, amount, now, Cause.MANUAL, GrantType.MANUAL, priority, ends)

    def deduct(self, pool: int, amount: Decimal, now: int) -> int:
        """Deduction (manual): free credits in burn order; never held ones, never overage; all or nothing."""
        self.at(now)
        if amount <= ZERO:
            raise Refused("invalid")
        if self.pools[pool].archived or self.pools[pool].frozen:
            raise Refused("conflict")
        parts = self._out_of_grants(pool, amount, now, until=None)
        if sum((part.amount for part in parts), ZERO) < amount:
            raise Refused("credits")
        entry = self._deduct(pool, parts, Cause.MANUAL)
        self._top_up([pool], now)
        return entry

    def reverse(self, entry: int, now: int) -> int:
        """Reversal: a deduction or a grant, once. A grant loses what is free; what comes back may expire again."""
        self.at(now)
        what = self.entries[entry]
        if self.pools[what.pool].archived or any(other.reverses == entry for other in self.entries):
            raise Refused("conflict")
        if what.kind is EntryKind.DEDUCTION:
            back = [(grant, -amount) for grant, amount in what.grants]
            overage = -min(self.overage(what.pool), what.overage)
        elif what.kind is EntryKind.GRANT and self.free(what.grants[0][0]):
            back = [(what.grants[0][0], -self.free(what.grants[0][0]))]
            overage = ZERO
        else:
            raise Refused("conflict")
        self._enter(EntryKind.REVERSAL, Cause.MANUAL, what.pool, now, back, overage, reverses=entry)
        made = len(self.entries) - 1
        for grant, _ in back:
            if not self._live(grant, now):
                self._expire(grant, self.remaining(grant), now, Cause.EXPIRY)
        return made

    # Usage

    def use(
        self,
        feature: str,
        units: Decimal,
        now: int,
        *,
        occurred_at: int | None = None,
        model: str | None = None,
        asked: bool = False,
    ) -> Outcome:
        """An event: a fact, or a request when `asked`.

        P4: a request must fit under the limit. A fact is kept whatever it does; once the limit is reached, it
        counts nothing and draws nothing. Either is refused whole if hard pools cannot pay.
        """
        happened = now if occurred_at is None else occurred_at
        period = self.at(now).period(happened)
        if asked and not self._fits(feature, units, period):
            raise Refused("limit")
        limit = self.features[feature].limit
        if period < 0 or (limit is not None and self.used(feature, period) >= limit):
            return Outcome({}, ZERO, ZERO, ZERO, capped=period >= 0)
        payment = self._payment(feature, units, max(now, happened), model)
        if self._unpayable(feature, payment):
            raise Refused("credits")
        return self._record(feature, units, period, payment)

    def hold(self, feature: str, units: Decimal, ttl: int, now: int, *, model: str | None = None) -> int:
        """Holds: fit under the limit and are priced and paid as an event now, or as far as soft pools can.

        Within a pool, grants that live as long as the hold are set aside first.
        """
        period = self.at(now).period(now)
        if period < 0:
            raise Refused("limit")
        if not SECOND <= ttl <= 7 * DAY:
            raise Refused("invalid")
        if not self._fits(feature, units, period):
            raise Refused("limit")
        payment = self._payment(feature, units, now, model, until=now + ttl)
        if self._unpayable(feature, payment):
            raise Refused("credits")
        self.holds.append(Hold(feature, period, now + ttl, units, payment.parts))
        return len(self.holds) - 1

    def settle(
        self,
        hold: int,
        units: Decimal,
        now: int,
        *,
        final: bool = True,
        occurred_at: int | None = None,
        model: str | None = None,
    ) -> Outcome:
        """settle: a fact, never capped, paid out of the hold first and then as an event is.

        If a hard pool is short, the first hard one says: bill the rest, waive it, or refuse. An expired hold has
        nothing set aside any more; its usage is any event's: capped as one, refused where a hard pool is short.
        """
        kept = self.at(now).holds[hold]
        if kept.status in {HoldStatus.SETTLED, HoldStatus.RELEASED}:
            raise Refused("conflict")
        happened = now if occurred_at is None else occurred_at
        period, limit = self.period(happened), self.features[kept.feature].limit
        full = limit is not None and self.used(kept.feature, period) >= limit
        if period < 0 and kept.status is HoldStatus.HELD:
            raise Refused("invalid")
        if period < 0 or (full and kept.status is HoldStatus.EXPIRED):
            return Outcome({}, ZERO, ZERO, ZERO, capped=period >= 0, hold=kept.status)
        payment = self._payment(kept.feature, units, max(now, happened), model, out_of=kept)
        policy, hard = "bill", None
        if self._unpayable(kept.feature, payment):
            hard = next(p for p in self._serving(kept.feature) if self.pools[p].model.hard_limit)
            policy = self.pools[hard].model.on_shortfall
        if policy == "refuse" or (hard is not None and kept.status is HoldStatus.EXPIRED):
            raise Refused("credits")
        if kept.status is HoldStatus.HELD:
            for drawn in payment.parts:
                self._lower(kept, drawn)
            kept.units = max(ZERO, kept.units - units)
            if final:
                self._close(kept, HoldStatus.SETTLED, now)
        outcome = self._record(kept.feature, units, period, payment, waived_by=hard if policy == "waive" else None)
        outcome.hold = kept.status
        return outcome

    def release(self, hold: int, now: int) -> HoldStatus:
        """release: gives all of it back, once; ever after it answers where the hold stands."""
        kept = self.at(now).holds[hold]
        if kept.status is HoldStatus.HELD:
            self._close(kept, HoldStatus.RELEASED, now)
        return kept.status

    # Paying

    def _fits(self, feature: str, units: Decimal, period: int) -> bool:
        """P4: used, held and asked for together stay within the limit, in a period of the subscription."""
        limit = self.features[feature].limit
        taken = self.used(feature, period) + self.held_units(feature, period)
        return period >= 0 and (limit is None or taken + units <= limit)

    def _serving(self, feature: str) -> list[int]:
        """Pools: unit pools, then money pools, each by draw priority and age. Frozen ones serve, archived not."""
        named = self.features[feature].credit_model
        pools = [
            (pool.model.charge != "units", self._priority(number), number)
            for number, pool in enumerate(self.pools)
            if not pool.archived
            and pool.model.charge != "nothing"
            and (not pool.model.features or feature in pool.model.features)
            and (named is None or named == pool.model.key)
        ]
        return [number for _, _, number in sorted(pools)]

    def _models(self, feature: str) -> list[CreditModel]:
        """The rules of the pools that serve a feature, in draw order."""
        return [self.pools[pool].model for pool in self._serving(feature)]

    def _unpayable(self, feature: str, payment: Payment) -> bool:
        """B10: some serving pool is hard, and all together they cannot pay."""
        return payment.short and any(model.hard_limit for model in self._models(feature))

    def _charge(self, feature: str, units: Decimal, model: str | None, pools: list[int]) -> Decimal:
        """Unit charge: units times weight, or over units_per_credit, to the first precision there is."""
        terms = self.features[feature]
        weight = terms.weights.get(model, terms.weights.get(None, Decimal(1)))
        exact = Fraction(units) * Fraction(weight)
        if terms.units_per_credit is not None:  # F11
            exact = Fraction(units) / Fraction(terms.units_per_credit)
        precisions = [self.pools[pool].model.precision for pool in pools]
        digits = next((each for each in precisions if each is not None), DIGITS)
        return rounded(exact, digits)

    def _payment(
        self,
        feature: str,
        units: Decimal,
        moment: int,
        model: str | None,
        *,
        out_of: Hold | None = None,
        until: int | None = None,
    ) -> Payment:
        """Drawing: unit pools cover units; the plan prices the rest; money pools pay that price."""
        pools = self._serving(feature)
        in_units = [pool for pool in pools if self.pools[pool].model.charge == "units"]
        in_money = [pool for pool in pools if self.pools[pool].model.charge == "price"]
        charge = self._charge(feature, units, model, in_units) if in_units else ZERO
        parts = self._collect(in_units, charge, moment, out_of, until)
        given = sum((part.amount for part in parts), ZERO)
        covered = rounded(Fraction(units) * Fraction(given) / Fraction(charge), DIGITS) if charge else ZERO
        price = self.features[feature].price * (units - covered)
        money = self._collect(in_money, price, moment, out_of, until)
        credited = sum((part.amount for part in money), ZERO)
        short = credited < price if in_money and price else given < charge
        return Payment(parts + money, charge, covered, price, credited, short)

    def _collect(
        self, pools: list[int], wanted: Decimal, moment: int, out_of: Hold | None, until: int | None
    ) -> list[Part]:
        """settle: the hold's own parts first, of live grants. Then what is free, pool after pool."""
        parts: list[Part] = []
        for part in out_of.parts if out_of else []:
            if part.pool in pools and (part.grant is None or self._live(part.grant, moment)):
                parts.append(Part(part.pool, part.grant, min(part.amount, wanted)))
                wanted -= parts[-1].amount
        for pool in pools:
            if self.pools[pool].frozen:
                continue
            most = min(wanted, self._draw_left(pool, wanted))
            given = self._out_of_grants(pool, most, moment, until)
            beyond = most - sum((part.amount for part in given), ZERO)
            given.append(Part(pool, None, min(beyond, self._headroom(pool, beyond))))
            wanted -= sum((part.amount for part in given), ZERO)
            parts += given
        return [part for part in parts if part.amount]

    def _out_of_grants(self, pool: int, wanted: Decimal, moment: int, until: int | None) -> list[Part]:
        """Burn order: priority, earliest expiry (none last), age; or age alone. Holds: what outlives them."""

        def order(grant: int) -> tuple[bool, int, bool, int, int]:
            ends = self.grants[grant].expires_at
            brief = until is not None and ends is not None and ends < until
            if self.pools[pool].model.burn_order == "fifo":
                return brief, 0, False, 0, grant
            return brief, self.grants[grant].priority, ends is None, ends or 0, grant

        parts = []
        mine = [number for number, grant in enumerate(self.grants) if grant.pool == pool]
        for grant in sorted(mine, key=order):
            if self._live(grant, moment) and (given := min(wanted, self.free(grant))):
                parts.append(Part(pool, grant, given))
                wanted -= given
        return parts

    def _draw_left(self, pool: int, wanted: Decimal) -> Decimal:
        """draw_limit: at most so many credits drawn in the period of now, overage and holds included.

        A reversal gives none of them back.
        """
        if pool not in self.links or (limit := self.links[pool].draw_limit) is None:
            return wanted
        now = self.period(self.now)
        drawn = [
            entry.overage - entry.amount
            for entry in self.entries
            if (entry.pool, entry.kind, entry.period) == (pool, EntryKind.DEDUCTION, now)
        ]
        held = [part.amount for part in self._held_parts(pool)]
        return max(ZERO, limit - sum(drawn, ZERO) - sum(held, ZERO))

    def _headroom(self, pool: int, wanted: Decimal) -> Decimal:
        """F10: overage still allowed, what holds have set aside of it left out."""
        rule = self.pools[pool].model.overage
        if rule is None:
            return ZERO
        if rule.limit is None:
            return wanted
        held = [part.amount for part in self._held_parts(pool) if part.grant is None]
        return max(ZERO, rule.limit - self.overage(pool) - sum(held, ZERO))

    def _record(
        self, feature: str, units: Decimal, period: int, payment: Payment, *, waived_by: int | None = None
    ) -> Outcome:
        """P5: enter a deduction per pool drawn, in draw order; bill the rest; top up.

        What a pool waives is noted in an entry of 0, and not billed.
        """
        self.usage.append((feature, period, units))
        drawn = {}
        for pool in self._serving(feature):
            parts = [part for part in payment.parts if part.pool == pool]
            if parts:
                self._deduct(pool, parts, Cause.EVENT)
                drawn[pool] = sum((part.amount for part in parts), ZERO)
        if waived_by is not None:
            self._deduct(waived_by, [], Cause.EVENT)
        look = [*drawn] if waived_by is None or waived_by in drawn else [*drawn, waived_by]
        self._top_up(look, self.now)
        if waived_by is not None:
            return Outcome(drawn, payment.covered, ZERO, ZERO)
        return Outcome(drawn, payment.covered, units - payment.covered, payment.price - payment.credited)

    # What falls due

    def _due(self) -> Iterator[int]:
        """Time: every instant at which something will happen by itself."""
        yield from (hold.expires_at for hold in self.holds if hold.status is HoldStatus.HELD)
        alive = [number for number, grant in enumerate(self.grants) if grant.expires_at is not None]
        yield from (self.grants[number].expires_at or 0 for number in alive if self.remaining(number))
        yield from (moment for _, moment in self._next_periods() + self._next_recurrences())
        yield from (pool.again for pool in self.pools if pool.again is not None)

    def _happen(self, moment: int) -> None:
        """Time, same instant: holds end, grants expire, periods end, recurring grants, plan credits, top-ups."""
        before = len(self.entries)
        for hold in [hold for hold in self.holds if hold.status is HoldStatus.HELD]:
            if hold.expires_at == moment:
                self._close(hold, HoldStatus.EXPIRED, moment)
        for grant in range(len(self.grants)):
            if self.grants[grant].expires_at == moment:
                self._run_out(grant, moment)
        begun = [pool for pool, start in self._next_periods() if start == moment]
        for pool in begun:
            if self.links[pool].period >= 0:
                self._roll_over(pool, moment)
                self._reset_overage(pool, moment)
        for pool in [pool for pool, again in self._next_recurrences() if again == moment]:
            self._recur(pool, moment)
        for pool in begun:
            self.links[pool].period += 1
            self._allocate(pool, self.links[pool].period, moment)
        expired = {entry.pool for entry in self.entries[before:] if entry.kind is EntryKind.EXPIRATION}
        again = {number for number, pool in enumerate(self.pools) if pool.again == moment}
        for number in again:
            self.pools[number].again = None
        self._top_up(sorted(expired | again), moment)

    def _next_periods(self) -> list[tuple[int, int]]:
        """Linked pools, by number, and when the next period starts that was not seen to."""
        return [(pool, self.starts[link.period + 1]) for pool, link in sorted(self.links.items())]

    def _next_recurrences(self) -> list[tuple[int, int]]:
        """Pools with a recurring top-up, by number, and when the next one comes."""
        pools = [(number, pool) for number, pool in enumerate(self.pools) if not pool.archived]
        rules = [(number, pool.recurred_at, pool.model.recurring) for number, pool in pools]
        return [(number, next_recurrence(last, rule.every)) for number, last, rule in rules if rule]

    def _run_out(self, grant: int, moment: int) -> None:
        """Expiry: holds lose what they held of the grant, without an entry; then all it had left expires."""
        for hold in self.holds:
            hold.parts = [part for part in hold.parts if part.grant != grant]
        if self.remaining(grant):
            self._expire(grant, self.remaining(grant), moment, Cause.EXPIRY)

    def _allocate(self, pool: int, period: int, moment: int) -> None:
        """Plan credits, E7: granted once a period; with rollover NONE they live to its end at most."""
        included = self.links[pool].included
        if included is None or self.pools[pool].archived:
            return
        ends = self._default_expiry(pool, moment)
        if included.expires_after_months is not None:
            ends = months_later(moment, included.expires_after_months)
        if self.pools[pool].model.rollover.policy == "NONE":
            ends = min(ends or self.starts[period + 1], self.starts[period + 1])
        kind, priority = GrantType.PLAN_INCLUDED, included.grant_priority
        self._grant(pool, included.amount, moment, Cause.PLAN, kind, priority, ends)

    def _roll_over(self, pool: int, moment: int) -> None:
        """Period end, E3: of each plan grant only what is free; kept newest first, entered oldest first."""
        rule = self.pools[pool].model.rollover
        mine = [number for number, grant in enumerate(self.grants) if grant.pool == pool and grant.of_plan]
        room = rule.cap or ZERO
        kept = {}
        for grant in reversed(mine):
            free = self.free(grant)
            kept[grant] = ZERO
            if rule.max_count is not None and self.grants[grant].rollovers >= rule.max_count:
                continue
            if rule.policy == "FULL":
                kept[grant] = free
            elif rule.policy == "CAPPED":
                kept[grant] = min(free, room)
                room -= kept[grant]
            elif rule.policy == "PERCENTAGE":
                digits = self.pools[pool].model.precision
                share = Fraction(free) * Fraction(rule.percentage or ZERO) / 100
                kept[grant] = rounded(share, DIGITS if digits is None else digits, half=Fraction(0))
        anew = rule.policy == "PERCENTAGE" or rule.expires_after_days is not None or rule.max_count is not None
        for grant in mine:
            lost = self.free(grant) - kept[grant]
            if kept[grant] and anew:
                self._carry(grant, kept[grant], moment)
            if lost:
                self._expire(grant, lost, moment, Cause.FORFEIT)

    def _carry(self, grant: int, amount: Decimal, moment: int) -> None:
        """Period end: what is kept moves to a ROLLOVER grant, which lives as its rule says, or as its parent."""
        old = self.grants[grant]
        days = self.pools[old.pool].model.rollover.expires_after_days
        ends = old.expires_at if days is None else moment + days * DAY
        self.grants.append(Grant(old.pool, GrantType.ROLLOVER, old.priority, ends, old.rollovers + 1, grant))
        moves = [(grant, -amount), (len(self.grants) - 1, amount)]
        self._enter(EntryKind.ADJUSTMENT, Cause.ROLLOVER, old.pool, moment, moves)

    def _reset_overage(self, pool: int, moment: int) -> None:
        """Period end, F10: overage is forgiven or charged, and then gone; or it is carried."""
        rule, overage = self.pools[pool].model.overage, self.overage(pool)
        if not rule or not overage:
            return
        if rule.behavior == "forgive_at_reset":
            self._enter(EntryKind.ADJUSTMENT, Cause.OVERAGE_FORGIVEN, pool, moment, [], -overage)
        if rule.behavior == "invoice_at_billing":
            self._enter(EntryKind.ADJUSTMENT, Cause.OVERAGE_CHARGED, pool, moment, [], -overage)

    def _recur(self, pool: int, moment: int) -> None:
        """Recurring: granted now, and gone when the next comes if the rule says so."""
        rule = self.pools[pool].model.recurring
        assert rule
        self.pools[pool].recurred_at = moment
        ends = next_recurrence(moment, rule.every) if rule.expires else self._default_expiry(pool, moment)
        self._grant(pool, rule.amount, moment, Cause.RECURRING, GrantType.SYSTEM, 0, ends)

    def _top_up(self, pools: list[int], moment: int) -> None:
        """Threshold top-up: where something was drawn or expired, once, and so often a calendar month at most.

        A pool whose number is used up is looked at again when the next month starts.
        """
        month = as_datetime(moment).strftime("%Y-%m")
        for pool in pools:
            rule = self.pools[pool].model.top_up
            if rule is None or self.pools[pool].archived:
                continue
            done = self._topped_up(pool, month)
            if self.available(pool) < rule.below and done < rule.most_a_month:
                ends = self._default_expiry(pool, moment)
                self._grant(pool, rule.amount, moment, Cause.TOP_UP, GrantType.SYSTEM, 0, ends)
                if done + 1 == rule.most_a_month:
                    self.pools[pool].again = next_recurrence(moment, "month")

    def _topped_up(self, pool: int, month: str) -> int:
        """How often a pool got its top-up in a calendar month."""
        mine = [entry for entry in self.entries if (entry.pool, entry.cause) == (pool, Cause.TOP_UP)]
        return sum(as_datetime(entry.at).strftime("%Y-%m") == month for entry in mine)

    # Entering

    def _grant(
        self, pool: int, amount: Decimal, at: int, cause: Cause, kind: GrantType, priority: int, ends: int | None
    ) -> int:
        """Grants: an entry of the whole amount. Auto-repay: then out of it what overage there is."""
        self.grants.append(Grant(pool, kind, priority, ends))
        grant = len(self.grants) - 1
        self._enter(EntryKind.GRANT, cause, pool, at, [(grant, amount)])
        rule, repaid = self.pools[pool].model.overage, min(amount, self.overage(pool))
        if rule and rule.behavior == "carry_deficit_auto_repay" and repaid:
            self._enter(EntryKind.ADJUSTMENT, Cause.OVERAGE_REPAID, pool, at, [(grant, -repaid)], -repaid)
        return grant

    def _deduct(self, pool: int, parts: list[Part], cause: Cause) -> int:
        """DEDUCTION: what each grant gave, together, and what went beyond the balance."""
        gave: dict[int, Decimal] = {}
        overage = ZERO
        for part in parts:
            if part.grant is None:
                overage += part.amount
            else:
                gave[part.grant] = gave.get(part.grant, ZERO) - part.amount
        period = self.period(self.now) if cause is Cause.EVENT and pool in self.links else None
        self._enter(EntryKind.DEDUCTION, cause, pool, self.now, list(gave.items()), overage, period=period)
        return len(self.entries) - 1

    def _expire(self, grant: int, amount: Decimal, at: int, cause: Cause) -> None:
        """EXPIRATION: one entry a grant."""
        self._enter(EntryKind.EXPIRATION, cause, self.grants[grant].pool, at, [(grant, -amount)])

    def _enter(
        self,
        kind: EntryKind,
        cause: Cause,
        pool: int,
        at: int,
        grants: list[tuple[int, Decimal]],
        overage: Decimal = ZERO,
        *,
        reverses: int | None = None,
        period: int | None = None,
    ) -> None:
        """Write an entry; P3 and P4: nothing is ever below zero, and no more is held than there is."""
        self.entries.append(Entry(kind, cause, pool, at, grants, overage, reverses, period))
        assert self.overage(pool) >= ZERO
        assert all(self.remaining(grant) >= ZERO for grant, _ in grants)

    def _set_frozen(self, pool: int, now: int, *, frozen: bool) -> None:
        """Freeze/unfreeze: what is so already stays so, without an entry."""
        kept = self.at(now).pools[pool]
        if kept.archived:
            raise Refused("conflict")
        if kept.frozen == frozen:
            return
        kept.frozen = frozen
        self._enter(EntryKind.FREEZE if frozen else EntryKind.UNFREEZE, Cause.MANUAL, pool, now, [])

    def _close(self, hold: Hold, status: HoldStatus, at: int) -> None:
        """A hold ends once, and holds nothing from then on."""
        hold.status, hold.closed_at, hold.parts = status, at, []

    def _lower(self, hold: Hold, drawn: Part) -> None:
        """Take what was drawn off the hold's own part, if it has one."""
        for part in hold.parts:
            if (part.pool, part.grant) == (drawn.pool, drawn.grant):
                taken = min(part.amount, drawn.amount)
                part.amount -= taken
                drawn = Part(drawn.pool, drawn.grant, drawn.amount - taken)
        hold.parts = [part for part in hold.parts if part.amount]

    def _held_parts(self, pool: int) -> list[Part]:
        """All that open holds have set aside of a pool."""
        return [part for hold in self.holds for part in hold.parts if part.pool == pool]

    def _priority(self, pool: int) -> int:
        """Draw priority: the link's, else the model's."""
        return self.links[pool].priority if pool in self.links else self.pools[pool].model.draw_priority

    def _live(self, grant: int, moment: int) -> bool:
        """P7: a grant pays before its expiry, and not at it."""
        ends = self.grants[grant].expires_at
        return ends is None or moment < ends

    def _default_expiry(self, pool: int, moment: int) -> int | None:
        """Grants: where nothing else is said, so many days as the model says, or for ever."""
        days = self.pools[pool].model.expires_after_days
        return None if days is None else moment + days * DAY
