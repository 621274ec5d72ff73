"""What a bookkeeper would bill: every invoice worked out again from the facts, by hand and by the rules alone.

Nothing here comes from the engine. `bill(facts, until)` goes through what happened, from the first fact to the
last, and returns the day-book: all invoices line by line, and what is used and not billed. Facts are what a filing
cabinet would hold: who took which plan, what was used when, who paid. Between two facts time passes, and the only
things time does are to end a period and begin the next (`Book.turn`) and to let an unpaid invoice fall overdue.

The rules, in the order in which they are written below:

1.  A price list says what units cost. Used units are priced by the list of the plan that was in force when they
    were used, counted in the stretch of the period that had that plan.
2.  Periods follow each other from the anchor day to the anchor day at local midnight; the first begins with the
    start. A change of plan cuts a period only if interval or timing change. The trial is a period of its own.
3.  A part of a period costs its part of the price. Every line is exact and is rounded once.
4.  Usage is billed when its stretch is over: the price list's amount the first time, afterwards only what changed.
    What is on a void invoice is not billed. Usage of the trial is billed and taken back in the same invoice.
5.  In advance a period is invoiced when it begins, unless there is no access then; in arrears when it ends.
6.  Access: not while paused, nor while the first invoice of a plan in advance is unpaid, nor after grace days.
    When it comes back, what is left of the running period is invoiced.
7.  What is nothing, or less, is paid at once.

Times are microseconds UTC. What the rules forbid raises `Refused`; then nothing has happened.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from functools import cache, lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DIGITS = 18
EXACTLY = Context(prec=300, traps=[])
ZERO = Decimal(0)
NEVER = 1 << 62


class Refused(Exception):
    """The rules forbid it."""


# 1. Price lists


@dataclass(frozen=True)
class Tier:
    """Units up to `up_to` (None: all others) cost `each`, and `fee` together as soon as one falls here."""

    up_to: Decimal | None
    each: Decimal
    fee: Decimal = ZERO


@dataclass(frozen=True)
class Price:
    """What a feature costs; `for_ever` counts through all periods; `late`: see `Book.use`."""

    tiers: tuple[Tier, ...]
    for_ever: bool = False
    late: str = "adjust"

    def of(self, units: Decimal) -> Decimal:
        """Price some units, counted from the first."""
        total, floor = ZERO, ZERO
        for tier in self.tiers:
            if units <= floor:
                break
            reach = units if tier.up_to is None else min(units, tier.up_to)
            total += (reach - floor) * tier.each + tier.fee
            floor = reach
        return total


@dataclass(frozen=True)
class Plan:
    """A price for a period of so many `months` or `days`, and price lists for what is used."""

    name: str
    currency: str
    decimals: int
    price: Decimal
    in_advance: bool
    months: int
    days: int = 0
    trial_days: int = 0
    prices: tuple[tuple[str, Price], ...] = field(default=(), repr=False)

    @property
    def rhythm(self) -> tuple[int, int, bool]:
        """What must be the same for a period to run on through a change of plan."""
        return self.months, self.days, self.in_advance

    def price_of(self, feature: str) -> Price | None:
        """Return a feature's price list, if the plan has the feature."""
        return dict(self.prices).get(feature)


# 2. Periods


def moment_of(at: datetime) -> int:
    """Microseconds of an instant."""
    return (at - EPOCH) // MICROSECOND


def day_of(moment: int, zone: str) -> date:
    """Return the day it is in a zone."""
    return (EPOCH + moment * MICROSECOND).astimezone(ZoneInfo(zone)).date()


@cache
def beginning(day: date, zone: str) -> int:
    """Return when a day begins in a zone: walk there in quarters of an hour, as clocks are put by no less."""
    at = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=30)
    while at.astimezone(ZoneInfo(zone)).date() < day:
        at += timedelta(minutes=15)
    return moment_of(at)


def anchored(month: int, anchor: int) -> date:
    """Return the anchor day of a month, counted from the year 0; or its last day, when it is shorter."""
    following = date((month + 1) // 12, (month + 1) % 12 + 1, 1)
    return min(date(month // 12, month % 12 + 1, 1) + timedelta(days=anchor - 1), following - timedelta(days=1))


@dataclass(frozen=True)
class Calendar:
    """How periods follow each other from `origin` on."""

    origin: int
    anchor: int
    months: int
    days: int
    zone: str

    def period(self, moment: int) -> tuple[int, int]:
        """Return the period around an instant; the first begins at the origin."""
        start, end = whole(self, moment)
        return max(start, self.origin), end


@cache
def boundary(place: Calendar, step: int) -> int:
    """Return the step-th beginning of a period; the first lies at the origin or before it."""
    first = day_of(place.origin, place.zone)
    if place.days:
        return beginning(first + timedelta(days=step * place.days), place.zone)
    month = first.year * 12 + first.month - 1
    if beginning(anchored(month, place.anchor), place.zone) > place.origin:
        month -= 1
    return beginning(anchored(month + step * place.months, place.anchor), place.zone)


@lru_cache(maxsize=100_000)
def whole(place: Calendar, moment: int) -> tuple[int, int]:
    """Return the period around an instant as the calendar has it."""
    step = 0
    while boundary(place, step + 1) <= moment:
        step += 1
    return boundary(place, step), boundary(place, step + 1)


# 3. Parts and roundings


def part_of(price: Decimal, part: int, of: int) -> Decimal:
    """Return the price of a part: exact where the division ends, else rounded half up to 18 digits."""
    share = Fraction(price) * part / of
    rest = share.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest == 1:
        return EXACTLY.divide(Decimal(share.numerator), Decimal(share.denominator))
    scaled = share * 10**DIGITS
    return Decimal((2 * scaled.numerator + scaled.denominator) // (2 * scaled.denominator)).scaleb(-DIGITS)


def rounded(amount: Decimal, decimals: int) -> Decimal:
    """Round half up, away from zero, to a currency's decimals."""
    return amount.quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_UP, context=EXACTLY)


# The papers


@dataclass(eq=False)
class Count:
    """What was used of a feature in a stretch of a period, what that comes to, and the lines that bill it."""

    feature: str
    start: int
    units: Decimal = ZERO
    charged: Decimal = ZERO
    lines: list["Line"] = field(default_factory=list)

    @property
    def billed(self) -> Decimal:
        """What is billed of it."""
        return sum((line.exact for line in self.lines), ZERO)

    @property
    def shown(self) -> bool:
        """Whether the price list's amount is on an invoice."""
        return any(line.opening for line in self.lines)

    @property
    def unbilled(self) -> bool:
        """Whether there is something to bill, or it was never shown."""
        return not self.shown or self.billed != self.charged


@dataclass(eq=False)
class Line:
    """One line; `count` is what it bills, `opening` whether nothing of that was billed before."""

    kind: str
    exact: Decimal
    amount: Decimal
    start: int
    end: int
    count: Count | None = None
    opening: bool = False

    def strike(self) -> None:
        """Take back what it bills."""
        if self.count is not None:
            self.count.lines.remove(self)


@dataclass
class Invoice:
    """An invoice for `[start, end)`."""

    life: "Life"
    serial: int
    kind: str
    start: int
    end: int
    issued: int
    due: int
    overdue: int
    lines: list[Line]
    status: str = "DUE"
    settled: int | None = None

    @property
    def amount(self) -> Decimal:
        """What is to be paid."""
        return sum((line.amount for line in self.lines), ZERO)

    @property
    def open(self) -> bool:
        """Whether it can still change."""
        return self.status in {"PENDING", "DUE", "PAST_DUE"}

    @property
    def to_pay(self) -> bool:
        """Whether somebody owes it."""
        return self.status in {"DUE", "PAST_DUE"}

    def strike(self, at: int) -> None:
        """Void it; the lines stay to be read, and bill nothing."""
        self.status, self.settled = "VOID", at
        for line in self.lines:
            line.strike()


@dataclass
class Span:
    """A plan, from an instant on, with the calendar of its periods."""

    start: int
    plan: Plan
    calendar: Calendar


@dataclass
class Use:
    """Something used: what it counts in, by which list it was priced, and at how much."""

    life: "Life | None"
    count: Count | None
    plan: Plan | None
    units: Decimal
    charge: Decimal
    gone: bool = False


@dataclass
class Life:
    """A subscription.

    `begun` is the start of the latest period that has begun, `paid_to` how far it is invoiced in advance,
    `by_itself` the end that was agreed on when it was made, `turns` are all the beginnings of periods, and
    `waived` base prices that nobody pays any more.
    """

    number: int
    made: int
    start: int
    zone: str
    grace: int
    spans: list[Span]
    trial_end: int | None = None
    end: int | None = None
    by_itself: int | None = None
    leaving: bool = False
    pauses: list[tuple[int, int]] = field(default_factory=list)
    begun: int | None = None
    paid_to: int = -1
    counts: dict[tuple[str, int], Count] = field(default_factory=dict)
    for_ever: dict[str, Decimal] = field(default_factory=dict)
    turns: list[int] = field(default_factory=list)
    waived: list["Line"] = field(default_factory=list)

    def waived_from(self, moment: int) -> Decimal:
        """Return what base prices on invoices that were voided by hand come to, from an instant on."""
        return sum((after(line, moment) for line in self.waived), ZERO)

    def runs(self, moment: int) -> bool:
        """Whether it has begun and not ended."""
        return self.start <= moment and (self.end is None or moment < self.end)

    def paused(self, moment: int) -> bool:
        """Whether it is paused."""
        return any(begin <= moment < end for begin, end in self.pauses)

    def trial(self, moment: int) -> bool:
        """Whether an instant is in the trial."""
        return self.trial_end is not None and moment < self.trial_end

    def span(self, moment: int) -> Span:
        """Return the plan in force; before the first, the first."""
        return [span for span in self.spans if span.start <= max(moment, self.spans[0].start)][-1]

    def plan(self, moment: int) -> Plan:
        """Return the plan in force."""
        return self.span(moment).plan

    def period(self, moment: int) -> tuple[int, int]:
        """Return the period around an instant: cut where another calendar begins."""
        if self.trial_end is not None and moment < self.trial_end:
            return self.start, self.trial_end
        calendar = self.span(moment).calendar
        start, end = calendar.period(max(moment, calendar.origin))
        cuts = [span.start for span in self.spans if span.start > moment and span.calendar != calendar]
        return start, min([end, *cuts])

    def running(self, moment: int) -> tuple[int, int]:
        """Return the period around an instant, cut where the subscription is known to end."""
        start, end = self.period(moment)
        return start, end if self.end is None else min(end, self.end)

    def stretch(self, moment: int) -> tuple[int, int]:
        """Return the part of the period that has the same plan."""
        start, end = self.period(moment)
        after = [span.start for span in self.spans if span.start > self.span(moment).start]
        ends = [end, *after[:1], *([] if self.end is None else [self.end])]
        return max(start, self.span(moment).start), min(ends)

    def paused_in(self, start: int, end: int) -> int:
        """Return for how long of a time it was paused."""
        return sum(max(0, min(until, end) - max(begin, start)) for begin, until in self.pauses)


class Book:
    """The day-book: see the module's docstring."""

    def __init__(self) -> None:
        self.now = 0
        self.lives: dict[int, Life] = {}
        self.invoices: list[Invoice] = []
        self.uses: dict[str, Use] = {}

    # Time

    def pass_to(self, moment: int) -> None:
        """Do what falls due by an instant, each thing at its own."""
        while True:
            overdue = [(each.overdue, 0, each.serial) for each in self.invoices if each.status == "DUE"]
            turns = [(self.next_turn(life), 1, life.number) for life in self.lives.values()]
            at, what, which = min([*overdue, *turns], default=(NEVER, 0, 0))
            if at > moment:
                break
            if what:
                self.turn(self.lives[which], at)
            else:
                self.invoices[which - 1].status = "PAST_DUE"
        self.now = max(self.now, moment)

    def next_turn(self, life: Life) -> int:
        """Return when a period ends next; after the subscription's end, only while late usage waits."""
        if life.begun is None:
            return life.start
        end = life.period(life.begun)[1]
        if life.end is None or end <= life.end:
            return end
        if life.begun < life.end:
            return life.end
        return end if any(count.unbilled for count in life.counts.values()) else NEVER

    def turn(self, life: Life, at: int) -> None:
        """End a period; begin the next, unless the subscription is over."""
        if life.end is None or at < life.end:
            self.begin(life, at)
            return
        self.close(life, at)
        before = life.period(max(at - 1, life.start))[0]
        self.final(life, self.usage_over(life, at), (before, at), at)
        life.begun = at

    # 4. Usage

    def usage_over(self, life: Life, at: int) -> list[Line]:
        """Bill what was used in stretches that are over."""
        lines: list[Line] = []
        for count in sorted(life.counts.values(), key=lambda each: (each.start, each.feature)):
            if count.unbilled and life.stretch(count.start)[1] <= at:
                lines += self.usage(life, count)
        return self.with_trial_taken_back(life, lines)

    def usage(self, life: Life, count: Count) -> list[Line]:
        """Bill a count: by the price list the first time, and then what has changed."""
        plan, (start, end) = life.plan(count.start), life.stretch(count.start)
        shown, billed, price = count.shown, count.billed, plan.price_of(count.feature)

        def line(kind: str, exact: Decimal) -> Line:
            made = Line(kind, exact, rounded(exact, plan.decimals), start, end, count, opening=not shown)
            count.lines.append(made)
            return made

        if shown or billed or price is None:
            return [line("late", count.charged - billed)]
        if price.for_ever:
            return [line("usage", count.charged)]
        listed = price.of(count.units)
        rest = count.charged - listed  # priced by another list than the one in force
        return [line("usage", listed), *([line("usage", rest)] if rest else [])]

    def with_trial_taken_back(self, life: Life, lines: list[Line]) -> list[Line]:
        """Add a line that takes back what was used in the trial."""
        free = [each for each in lines if each.count is not None and life.trial(each.start)]
        exact, amount = sum((each.exact for each in free), ZERO), sum((each.amount for each in free), ZERO)
        if not exact and not amount:
            return lines
        return [*lines, Line("trial", -exact, -amount, life.start, life.trial_end or 0)]

    # 5. Invoices of periods

    def begin(self, life: Life, at: int, *, back: Sequence[Line] = (), at_once: bool = False) -> None:
        """Begin a period. `back`: what an upgrade gives back; it is then invoiced `at_once`, access or not."""
        first, again = life.begun is None, life.begun == at
        before = life.period(max(at - 1, life.start))[0]
        self.close(life, at)
        life.begun = at
        life.turns.append(at)
        plan, (start, end) = life.plan(at), life.running(at)
        if plan.in_advance:
            if at_once or self.access(life, at):
                kind = "IN_ADVANCE_INITIAL" if first else "ADJUSTMENT" if again else "IN_ADVANCE"
                self.in_advance(life, at, kind, back)
            return
        left = [*back, *([] if first else self.usage_over(life, at))]
        if left:
            self.make(life, "FINAL", before, at, left, at)
        self.make(life, "IN_ARREARS", start, end, [], at, due=end).status = "PENDING"

    def in_advance(self, life: Life, at: int, kind: str, back: Sequence[Line] = ()) -> None:
        """Invoice what is left of the period in advance, and all usage that is over."""
        plan, (start, end) = life.plan(at), life.running(at)
        life.paid_to = end
        lines = [*back, *([] if kind == "IN_ADVANCE_INITIAL" else self.usage_over(life, at))]
        if not life.trial(at):
            lines += self.base(life, plan, at, end)
        self.make(life, kind, start, end, lines, at)

    def close(self, life: Life, at: int) -> None:
        """Close the invoice of a period in arrears: its base prices, and all usage that is over."""
        for invoice in self.invoices:
            if invoice.life is life and invoice.status == "PENDING":
                if invoice.start == at:
                    invoice.status, invoice.settled = "CANCELLED", at
                    continue
                invoice.lines = [*self.arrears(life, invoice.start, at), *self.usage_over(life, at)]
                invoice.end = at
                self.post(invoice, at)

    def arrears(self, life: Life, start: int, end: int) -> list[Line]:
        """Return what the plans in force cost for a time that has run, without the pauses."""
        if life.trial(start):
            return []
        cuts = [start, *(span.start for span in life.spans if start < span.start < end), end]
        lines: list[Line] = []
        for begin, until in pairwise(cuts):
            if begin < until:
                lines += self.base(life, life.plan(begin), begin, until, less=life.paused_in(begin, until))
        return lines

    def base(self, life: Life, plan: Plan, start: int, end: int, *, less: int = 0) -> list[Line]:
        """Return the base price of a part of a period."""
        if not plan.price:
            return []
        first, last = whole(life.span(start).calendar, start)
        exact = part_of(plan.price, end - start - less, last - first)
        return [Line("base", exact, rounded(exact, plan.decimals), start, end)]

    def final(self, life: Life, lines: list[Line], ran: tuple[int, int], at: int) -> None:
        """Invoice what an ended subscription owes, if anything."""
        if lines:
            self.make(life, "FINAL", *ran, lines, at)

    def make(
        self, life: Life, kind: str, start: int, end: int, lines: list[Line], at: int, due: int | None = None
    ) -> Invoice:
        """Make an invoice."""
        invoice = Invoice(life, len(self.invoices) + 1, kind, start, end, at, 0, 0, lines)
        self.invoices.append(invoice)
        self.post(invoice, at if due is None else due, pay=due is None)
        return invoice

    def post(self, invoice: Invoice, at: int, *, pay: bool = True) -> None:
        """Say when an invoice is due and overdue; 7: what is nothing, or less, is paid at once."""
        life = invoice.life
        invoice.due = max(at, life.made)
        invoice.overdue = beginning(day_of(invoice.due, life.zone) + timedelta(days=1 + life.grace), life.zone)
        invoice.status = "DUE"
        if pay and invoice.amount <= ZERO:
            invoice.status, invoice.settled = "PAID", at

    # 6. Access

    def access(self, life: Life, at: int) -> bool:
        """Whether a subscription gives access at an instant."""
        unpaid = [each for each in self.invoices if each.life is life and each.to_pay]
        late = any(each.kind == "IN_ADVANCE_INITIAL" or each.overdue <= at for each in unpaid)
        return not late and not life.paused(at)

    def restore(self, life: Life) -> None:
        """Invoice what is left of the period, when access has come back and that was not done before."""
        now = self.now
        if life.begun is None or not life.runs(now) or not self.access(life, now):
            return
        if life.plan(now).in_advance and life.paid_to <= now:
            self.in_advance(life, now, "IN_ADVANCE")

    # What people do

    def subscribe(
        self,
        number: int,
        plan: Plan,
        *,
        start: int,
        anchor: int | None,
        zone: str,
        grace: int,
        periods: int | None = None,
    ) -> None:
        """Take a plan, perhaps for so many periods; they are counted from the end of the trial.

        The trial lasts whole days where the subscriber is.
        """
        trial_end = None
        if plan.trial_days:
            day = day_of(start, zone)
            trial_end = start + beginning(day + timedelta(days=plan.trial_days), zone) - beginning(day, zone)
        origin = start if trial_end is None else trial_end
        span = Span(start, plan, calendar(plan, origin, anchor, zone))
        end = None if periods is None else boundary(span.calendar, periods)
        self.lives[number] = Life(number, self.now, start, zone, grace, [span], trial_end, end, end)

    def use(self, event: str, number: int, feature: str, units: Decimal, when: int) -> None:
        """Use something, of the subscription named if it runs then; else of the first that has the feature.

        What is used in a period that is over is billed with the next invoice; or, by the price list, refused, or
        put on the invoice of its period while that is in its grace days.
        """
        running = [life for life in self.lives.values() if life.runs(when)]
        named = [life for life in running if life.number == number]
        having = [life for life in running if life.plan(when).price_of(feature) is not None]
        life = next(iter([*named, *having]), None)
        price = None if life is None else life.plan(when).price_of(feature)
        if life is None or price is None:
            self.uses[event] = Use(None, None, None, units, ZERO)
            return
        start, end = life.stretch(when)
        late = life.begun is not None and end <= life.begun
        if late and price.late == "refuse":
            raise Refused("late")
        count = life.counts.setdefault((feature, start), Count(feature, start))
        before = life.for_ever.get(feature, ZERO) if price.for_ever else count.units
        charge = price.of(before + units) - price.of(before)
        count.units += units
        count.charged += charge
        if price.for_ever:
            life.for_ever[feature] = before + units
        self.uses[event] = Use(life, count, life.plan(when), units, charge)
        if late and price.late == "reopen":
            self.rewrite(life, count, in_grace=True)

    def take_back(self, event: str) -> None:
        """Take a use back: what is gone is what its units cost last; an open invoice that bills it follows."""
        use = self.uses[event]
        if use.gone:
            raise Refused("taken back before")
        use.gone = True
        if use.life is None or use.count is None:
            return
        life, count = use.life, use.count
        price = life.plan(count.start).price_of(count.feature)
        left = count.units
        if price is not None and price.for_ever:
            left = life.for_ever[count.feature]
            life.for_ever[count.feature] -= use.units
        count.units -= use.units
        if life.plan(count.start) == use.plan and price is not None:
            count.charged -= price.of(left) - price.of(left - use.units)
        else:
            count.charged -= use.charge
        if count.lines:
            self.rewrite(life, count, in_grace=False)

    def rewrite(self, life: Life, count: Count, *, in_grace: bool) -> None:
        """Write a count anew on the invoice that bills it, or would have; if that is still to be paid."""
        to_pay = [each for each in self.invoices if each.life is life and each.to_pay]
        found = next((each for each in reversed(to_pay) if any(x.count is count for x in each.lines)), None)
        if found is None and not count.shown:
            end = life.stretch(count.start)[1]
            found = next((each for each in to_pay if bears(each, end)), None)
        if found is None or (in_grace and (found.status != "DUE" or found.overdue <= self.now)):
            return
        for each in [each for each in found.lines if each.count is count]:
            each.strike()
        found.lines = [each for each in found.lines if each.count is not count and each.kind != "trial"]
        found.lines = self.with_trial_taken_back(life, [*found.lines, *self.usage(life, count)])
        if found.amount <= ZERO:
            found.status, found.settled = "PAID", self.now
            self.restore(life)

    def upgrade(self, number: int, plan: Plan) -> None:
        """Change the plan now. In the same rhythm the period runs on, else a new one begins.

        What is invoiced in advance for time to come is given back, and the new plan's price for it is charged.
        """
        life, old = self.changing(number, plan)
        now, trial = self.now, life.trial(self.now)
        keeps = old.rhythm == plan.rhythm or trial
        charged = old.in_advance and life.paid_to > now and not trial
        back = self.rest(life, old, -1, less=life.waived_from(now)) if charged else []
        life.waived = []
        again = life.begun == now
        place = life.span(now).calendar
        if old.rhythm != plan.rhythm:
            origin = now if life.trial_end is None else max(now, life.trial_end)
            place = calendar(plan, origin, None, life.zone)
        if not keeps:
            self.close(life, now)
            life.paid_to = min(life.paid_to, now)
        if life.leaving:
            life.end, life.leaving = life.by_itself, False
        life.spans = [*(span for span in life.spans if span.start < now), Span(now, plan, place)]
        if not keeps:
            self.begin(life, now, back=back, at_once=charged or again)
        elif charged:
            lines = [*self.rest(life, plan, 1), *back]
            if any(line.exact for line in lines):
                self.make(life, "ADJUSTMENT", now, life.period(now)[1], lines, now)

    def rest(self, life: Life, plan: Plan, sign: int, less: Decimal = ZERO) -> list[Line]:
        """Return the price of what is invoiced in advance and not over: charged, or given back less the waived."""
        first, last = whole(life.span(self.now).calendar, self.now)
        exact = sign * (part_of(plan.price, life.paid_to - self.now, last - first) - less)
        if not exact:
            return []
        return [Line("proration", exact, rounded(exact, plan.decimals), self.now, life.paid_to)]

    def downgrade(self, number: int, plan: Plan) -> None:
        """Change the plan at the end of the period; the anchor day stays."""
        life, old = self.changing(number, plan)
        end = life.period(self.now)[1]
        if life.leaving or (life.end is not None and life.end <= end):
            raise Refused("leaving")
        place = life.span(self.now).calendar
        if old.rhythm != plan.rhythm:
            place = calendar(plan, end, place.anchor if place.months else None, life.zone)
        life.spans = [*(span for span in life.spans if span.start <= self.now), Span(end, plan, place)]

    def changing(self, number: int, plan: Plan) -> tuple[Life, Plan]:
        """Return a subscription that may change to a plan, and the plan it is on."""
        life = self.lives[number]
        if not life.runs(self.now) or life.plan(self.now) == plan or life.plan(self.now).currency != plan.currency:
            raise Refused("change")
        return life, life.plan(self.now)

    def keep_plan(self, number: int) -> None:
        """Take back a downgrade that has not come."""
        life = self.lives[number]
        if life.spans[-1].start <= self.now or len(life.spans) == 1:
            raise Refused("nothing to take back")
        life.spans.pop()

    def pause(self, number: int) -> None:
        """Stop access, and what is invoiced."""
        life = self.lives[number]
        if not life.runs(self.now) or life.paused(self.now):
            raise Refused("pause")
        life.pauses.append((self.now, NEVER))

    def resume(self, number: int) -> None:
        """End the pause."""
        life = self.lives[number]
        if not life.paused(self.now):
            raise Refused("resume")
        life.pauses[-1] = (life.pauses[-1][0], self.now)
        self.restore(life)

    def leave(self, number: int) -> None:
        """End with the period."""
        life = self.lives[number]
        if life.leaving or (life.end is not None and life.end <= self.now):
            raise Refused("leaving")
        life.end, life.leaving = life.running(max(self.now, life.start))[1], True
        life.spans = [span for span in life.spans if span.start < life.end]

    def stay(self, number: int) -> None:
        """Take that back."""
        life = self.lives[number]
        if not life.leaving or life.end is None or life.end <= self.now:
            raise Refused("stay")
        life.end, life.leaving = life.by_itself, False

    def end_now(self, number: int) -> None:
        """End at once: open invoices are void; what is paid and not used is given back; usage is billed."""
        life, now = self.lives[number], self.now
        if life.end is not None and life.end <= now:
            raise Refused("ended")
        plan, trial, begun = life.plan(now), life.trial(now), life.begun is not None
        start = life.period(now)[0] if begun else now
        unused, until = -life.waived_from(now), max(now, life.paid_to)
        if plan.in_advance and life.paid_to > now and not trial:
            unused += sum((line.exact for line in self.rest(life, plan, 1)), ZERO)
        for invoice in self.invoices:
            if invoice.life is life and invoice.open:
                invoice.strike(now)
                unused -= sum((after(line, now) for line in invoice.lines), ZERO)
                until = max([until, *(line.end for line in invoice.lines if line.kind in {"base", "proration"})])
        life.spans = [span for span in life.spans if span.start <= now] or life.spans[:1]
        life.end, life.leaving = max(now, life.start), False
        if not begun:
            return
        life.begun = life.end
        lines = [] if plan.in_advance else self.arrears(life, start, now)
        self.final(life, [*lines, *self.usage_over(life, now)], (start, now), now)
        if unused and not trial:
            line = Line("proration", -unused, rounded(-unused, plan.decimals), now, until)
            self.make(life, "CREDIT" if unused > ZERO else "ADJUSTMENT", now, until, [line], now)

    def pay(self, serial: int) -> None:
        """Pay an invoice; one that is paid stays so."""
        invoice = self.invoices[serial - 1]
        if invoice.status == "PAID":
            return
        if not invoice.to_pay:
            raise Refused("not to be paid")
        invoice.status, invoice.settled = "PAID", self.now
        self.restore(invoice.life)

    def void(self, serial: int) -> None:
        """Void an invoice that is to be paid: its usage is billed by the next; a base price is waived."""
        invoice = self.invoices[serial - 1]
        if not invoice.to_pay:
            raise Refused("not to be voided")
        invoice.life.waived += [line for line in invoice.lines if after(line, self.now)]
        invoice.strike(self.now)
        self.restore(invoice.life)


def calendar(plan: Plan, origin: int, anchor: int | None, zone: str) -> Calendar:
    """Return the calendar of a plan's periods; without an anchor day, that of the day it is."""
    day = day_of(origin, zone).day if anchor is None else anchor
    return Calendar(origin, day, plan.months, plan.days, zone)


def bears(invoice: Invoice, end: int) -> bool:
    """Whether an invoice would have billed what was used in a stretch that ended so."""
    if invoice.kind == "IN_ARREARS":
        return invoice.start < end <= invoice.end
    return invoice.kind == "IN_ADVANCE" and invoice.issued == end


def after(line: Line, now: int) -> Decimal:
    """Return the part of a base price that is for the time from now on."""
    if line.kind not in {"base", "proration"} or line.end <= now or line.end == line.start:
        return ZERO
    sign = -1 if line.exact < ZERO else 1
    return sign * part_of(abs(line.exact), line.end - max(line.start, now), line.end - line.start)


Fact = tuple[int, str, dict[str, object]]
"""When, what (the name of one of the deeds of `Book`), and with what."""


def bill(facts: Sequence[Fact], until: int) -> tuple[Book, list[int]]:
    """Work out everything from the beginning; return the day-book, and the places of facts that are refused."""
    book, refused = Book(), []
    for place, (at, what, details) in enumerate(facts):
        book.pass_to(at)
        deed: Callable[..., None] = getattr(book, what)
        try:
            deed(**details)
        except Refused:
            refused.append(place)
        book.pass_to(at)
    book.pass_to(until)
    return book, refused
