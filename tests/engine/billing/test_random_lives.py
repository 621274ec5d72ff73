"""Random lives: five years of a customer in the engine, beside a bookkeeper who works it all out by hand.

A step is a deed at an instant, both taken from a single number, which is cheap to draw and shrinks to the first
entry of each table. After it everything that must always hold is asked (P5, P6, periods without gap or overlap),
and now and then, and at the end, the naive biller begins again from the first fact and must have the same invoices
to the last digit. Between steps the daemon may stop at any commit and begin again from its rows. At the end the
whole life is lived once more by a daemon whose timers never run, which must end with the same books; and `tallyd
verify`, which works all of it out by means of its own, must find nothing.

Longer: `TALLYD_LIVES=3000 pytest -n 0 tests/engine/billing/test_random_lives.py` lives so many instead.
"""

import os
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from functools import cache
from itertools import pairwise, zip_longest
from typing import Any, Final, TypeVar

from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from engine.billing import naive_biller as naive
from engine.billing.driven import Books, Driven
from engine.billing.naive_biller import Fact, Plan, Price, Tier
from support import at
from tallyd.engine.account import LIFETIME, Account, billing_due, renewal_at
from tallyd.engine.billing.previewing import upcoming
from tallyd.model.invoice import OF_PERIODS, Invoice, InvoiceKind, InvoiceStatus, LineKind
from tallyd.model.money import ZERO, round_to_currency
from tallyd.model.subscription import Subscription

ValueT = TypeVar("ValueT")
D = Decimal
SECOND: Final = 1_000_000
DAY: Final = 86_400 * SECOND
BASE_PRICES: Final = frozenset({LineKind.BASE, LineKind.PRORATION})
LIVES: Final = int(os.environ.get("TALLYD_LIVES", "120"))
STEPS: Final = 30
SUBSCRIPTIONS_MAX: Final = 4
FACTS_BETWEEN_BOOKS: Final = 7
YEARS: Final = 5 * 365 * DAY

# What steps choose from; the first of each is what a failure shrinks to.
ZONES: Final = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Santiago",  # clocks are put forward at midnight
    "Asia/Beirut",  # and here back over it
    "Australia/Lord_Howe",  # by half an hour
)
BEGINNINGS: Final = tuple(
    map(
        at,
        (
            "2026-01-10T00:00:00Z",
            "2026-01-31T00:00:00Z",
            "2027-12-29T05:00:00Z",
            "2026-03-28T23:00:00Z",
            "2026-10-24T22:00:00Z",
            "2026-08-30T13:37:11.000123Z",
        ),
    )
)
STARTS: Final = (0, 0, -9 * DAY, -70 * DAY, 12 * DAY, -3 * SECOND - 1)
JUMPS: Final = (0, 0, 1, 3_600 * SECOND, DAY, 9 * DAY, 20 * DAY, 40 * DAY, 110 * DAY, None, None, None, -DAY)
"""How far the clock is put on; None: to the next instant at which something is due, or just before it."""
OCCURRED: Final = (0, 0, 0, -1, -DAY, -12 * DAY, -40 * DAY, 2 * DAY, 33 * DAY)
ANCHORS: Final = (None, None, 1, 28, 29, 30, 31)
GRACES: Final = (3, 0, 10, 50)
UNITS: Final = tuple(map(D, ("1", "7", "12.5", "150", "0.001", "2000")))
FEATURES: Final = ("api", "chat", "disk", "seats")

CURRENCIES: Final = (("USD", 2), ("JPY", 0), ("KWD", 3))
RHYTHMS: Final = ((1, 0), (3, 0), (12, 0), (0, 7), (0, 14), (2, 0))
AMOUNTS: Final = (D(10), D(30), D(0), D(31))
DIGITS: Final = (D("0.333"), D("0.01"), D("1.005"))


@cache
def plan(currency: int, price: int, rhythm: int, timing: int, trial: int, lists: int) -> Plan:
    """A plan: every number is the place of something in a table."""
    name, decimals = CURRENCIES[currency]
    each = DIGITS[lists]
    graduated = (Tier(D(10), D(0), D(2)), Tier(D(100), each), Tier(None, each / 2, D(1)))
    prices = {
        "api": Price((Tier(None, each),)),
        "chat": Price(graduated, late="reopen"),
        "disk": Price(graduated, for_ever=True),
        "seats": Price((Tier(None, each * 7),), late="refuse"),
    }
    if lists == len(DIGITS) - 1:
        del prices["disk"]
    months, days = RHYTHMS[rhythm]
    return Plan(
        name=f"plan-{currency}-{price}-{rhythm}-{timing}-{trial}-{lists}",
        currency=name,
        decimals=decimals,
        price=AMOUNTS[price],
        in_advance=not timing,
        months=months,
        days=days,
        trial_days=(0, 14, 0)[trial],
        prices=tuple(prices.items()),
    )


numbers = st.integers(0, 2**24 - 1)  # up to here Hypothesis prefers no small ones


class Dice:
    """Choices out of one number."""

    def __init__(self, value: int) -> None:
        self.value = value

    def of(self, table: Sequence[ValueT]) -> ValueT:
        """Take one of a table."""
        self.value, index = divmod(self.value, len(table))
        return table[index]

    def plan(self, currency: int) -> Plan:
        """Take a plan."""
        return plan(
            currency,
            self.of(range(len(AMOUNTS))),
            self.of((0, 0, *range(len(RHYTHMS)))),
            self.of((0, 1)),
            self.of((0, 1, 2)),
            self.of(range(len(DIGITS))),
        )


class LivesMachine(RuleBasedStateMachine):
    """One customer with some subscriptions, in the engine and in the naive books."""

    life: Driven

    @initialize(first=numbers, second=numbers)
    def begin(self, first: int, second: int) -> None:
        """Begin with a subscription."""
        dice = Dice(first)
        self.clock = self.began = dice.of(BEGINNINGS)
        self.zone, self.currency = dice.of(ZONES), dice.of((0, 0, 1, 2))
        self.life = Driven(Books())
        self.facts: list[Fact] = []
        self.refused: list[int] = []
        self.number = 0
        self.events: list[str] = []
        self.agreed_on = -1
        self._subscribe(Dice(second))

    # Steps

    @rule(dice=numbers)
    def use(self, dice: int) -> None:
        """Use something: on time, late or early."""
        chosen = self._time(dice)
        self._use(chosen, self._subscription(chosen), chosen.of(OCCURRED))

    @rule(dice=numbers)
    def use_more(self, dice: int) -> None:
        """Use something twice as often as anything else is done."""
        self.use(dice)

    @rule(dice=numbers)
    def take_back(self, dice: int) -> None:
        """Void an event, the latest ones more often; perhaps one that is void already."""
        chosen = self._time(dice)
        if self.events:
            self._do("take_back", event=chosen.of(self.events[-4:] if chosen.of((1, 1, 0)) else self.events))

    @rule(dice=numbers)
    def upgrade(self, dice: int) -> None:
        """Change the plan now."""
        chosen = self._time(dice)
        self._do("upgrade", number=self._subscription(chosen), plan=chosen.plan(self.currency))

    @rule(dice=numbers)
    def downgrade(self, dice: int) -> None:
        """Change the plan at the period's end, or keep it after all."""
        chosen = self._time(dice)
        number = self._subscription(chosen)
        scheduled = self._stands(number).phases[-1].starts_at > self.life.now
        if scheduled == chosen.of((False, *(False,) * 5, True)):
            self._do("downgrade", number=number, plan=chosen.plan(self.currency))
        else:
            self._do("keep_plan", number=number)

    @rule(dice=numbers)
    def pause(self, dice: int) -> None:
        """Pause, or resume."""
        chosen = self._time(dice)
        number = self._subscription(chosen)
        paused = any(end is None for _, end in self._stands(number).pauses)
        self._do("resume" if paused != chosen.of((False, *(False,) * 5, True)) else "pause", number=number)

    @rule(dice=numbers)
    def leave(self, dice: int) -> None:
        """Cancel at the period's end, or stay after all; seldom end at once, or subscribe again."""
        chosen = self._time(dice)
        number = self._subscription(chosen)
        what = chosen.of(("leave", "leave", "end_now", "subscribe"))
        stands = self._stands(number)
        if (what == "subscribe" or not stands.active_at(self.life.now)) and self.number < SUBSCRIPTIONS_MAX:
            self._subscribe(chosen)
        elif what == "leave" and stands.cancellation is not None:
            self._do("stay", number=number)
        elif what != "subscribe":
            self._do(what, number=number)

    @rule(dice=numbers)
    def pay_and_end(self, dice: int) -> None:
        """Cancel at once when all is paid."""
        chosen = self._time(dice)
        number = self._subscription(chosen)
        for invoice in list(self.life.account.invoices.values()):
            if invoice.subscription == number and invoice.status is not InvoiceStatus.PENDING:
                self._do("pay", serial=invoice.serial)
        self._put_clock(chosen.of((0, 2 * DAY + 1, 11 * DAY)))
        self._do("end_now", number=number)

    @rule(dice=numbers)
    def pay(self, dice: int) -> None:
        """Pay an open invoice, or one of all."""
        chosen = self._time(dice)
        self._settle("pay", chosen)

    @rule(dice=numbers)
    def pay_all(self, dice: int) -> None:
        """Go on for some periods and pay all there is, as most customers do, using things meanwhile."""
        chosen = self._time(dice)
        for _ in range(chosen.of((1, 1, 2, 5))):
            self._keep_time()
            for invoice in list(self.life.account.invoices.values()):
                if invoice.status is not InvoiceStatus.PENDING:
                    self._do("pay", serial=invoice.serial)
            self.use(chosen.value)
            self._put_clock(self.life.account.due_at - self.clock)

    @rule(dice=numbers)
    def void(self, dice: int) -> None:
        """Void an open invoice, or one of all."""
        self._settle("void", self._time(dice))

    @rule(dice=numbers)
    def quarrel(self, dice: int) -> None:
        """Report something late, let periods end, take it back, void what bills it, in some order."""
        chosen = self._time(dice)
        number = self._subscription(chosen)
        self._use(chosen, number, chosen.of((0, -DAY, -33 * DAY)))
        for _ in range(chosen.of((1, 2, 3))):
            self._put_clock(self.life.account.due_at - self.clock)
            self._keep_time()
            self._use(chosen, number, chosen.of((-1, -33 * DAY)))
        if chosen.of((True, False)) and self.events:
            self._do("take_back", event=self.events[-1])
        invoices = [each for each in self.life.account.invoices.values() if each.subscription == number]
        for invoice in invoices[:: chosen.of((1, -1))][: chosen.of((2, 1, 0, 3))]:
            self._do("void", serial=invoice.serial)

    @rule(dice=numbers)
    def wait(self, dice: int) -> None:
        """Let time pass, and timers run: for all that is due, or in slices; the preview comes true."""
        chosen = self._time(dice)
        most = chosen.of((0, 1, 2))
        number = self._subscription(chosen)
        self._preview(number)
        self.life.pass_to(self.clock, most)

    @rule(dice=numbers)
    def stop_in_the_middle(self, dice: int) -> None:
        """Let time pass in slices; stop after one of them and begin again from the rows."""
        chosen = self._time(dice)
        slices = chosen.of((0, 1, 2, 5))
        self.life.pass_slices(self.clock, slices)
        self._restart()

    # What must always hold

    @invariant()
    def agree(self) -> None:
        """The naive biller has the same invoices, and what is charged is billed once (P5, P6)."""
        if not hasattr(self, "life"):
            return
        life = self.life
        assert life.account.billing_at == billing_due(life.account)
        if len(life.entries) + len(life.rows) == self.agreed_on:
            return
        self.agreed_on = len(life.entries) + len(life.rows)
        if len(self.facts) % FACTS_BETWEEN_BOOKS == 0 and life.account.due_at > life.now:
            self._agree_with_naive()
        balances(life)
        ends(life)
        tiles(life)

    def teardown(self) -> None:
        """Live it all again without timers: the same books."""
        if not hasattr(self, "life"):
            return
        self._keep_time()
        self._agree_with_naive()
        lazy = Driven()
        for moment, what, details in self.facts:
            lazy.do(moment, what, details)
        lazy.pass_to(self.life.now)
        assert [told(each) for each in lazy.invoices.values()] == [
            told(each) for each in self.life.invoices.values()
        ]
        assert [(each.kind, each.cause, each.position, each.at) for each in lazy.entries] == [
            (each.kind, each.cause, each.position, each.at) for each in self.life.entries
        ]
        self._restart()
        assert self.life.books is not None
        assert self.life.books.findings() == [], "tallyd verify finds nothing"
        stored = self.life.books.connection.execute("SELECT count(*), max(serial) FROM invoices").fetchone()
        assert stored == (len(self.life.invoices), self.life.account.serial or None)

    # Doing

    def _time(self, dice: int) -> Dice:
        """Put the clock on, or back; return what is left to choose with."""
        chosen = Dice(dice)
        jump = chosen.of(JUMPS)
        self._put_clock(self.life.account.due_at - chosen.of((0, 0, 1)) - self.clock if jump is None else jump)
        return chosen

    def _put_clock(self, jump: int) -> None:
        if self.clock + jump < self.began + YEARS:
            self.clock += jump

    def _keep_time(self) -> None:
        self.life.pass_to(self.clock)

    def _stands(self, number: int) -> Subscription:
        self._keep_time()
        return next(each for each in self.life.account.subscriptions() if each.number == number)

    def _subscription(self, chosen: Dice) -> int:
        running = [each.number for each in self.life.account.subscriptions() if each.active_at(self.clock)]
        return chosen.of(running if running and chosen.of((True, True, False)) else range(self.number, 0, -1))

    def _subscribe(self, chosen: Dice) -> None:
        self.number += 1
        self._keep_time()
        self._do(
            "subscribe",
            number=self.number,
            plan=chosen.plan(self.currency),
            start=self.life.now + chosen.of(STARTS),
            anchor=chosen.of(ANCHORS),
            zone=self.zone,
            grace=chosen.of(GRACES),
            periods=chosen.of((None, None, 9)),
        )

    def _use(self, chosen: Dice, number: int, away: int) -> None:
        name, feature, units = f"event-{len(self.facts)}", chosen.of(FEATURES), chosen.of(UNITS)
        moment = max(self.clock, self.life.now)
        self._do("use", event=name, number=number, feature=feature, units=units, when=moment + away)
        if len(self.facts) - 1 not in self.refused[-1:]:
            self.events.append(name)

    def _settle(self, what: str, chosen: Dice) -> None:
        self._keep_time()
        invoices = list(
            self.life.account.invoices.values() if chosen.of((1, 1, 0)) else self.life.invoices.values()
        )
        if invoices:
            self._do(what, serial=chosen.of(invoices).serial)

    def _do(self, what: str, **details: Any) -> None:
        moment = max(self.clock, self.life.now)
        note(f"{what} at {moment} {details}")
        self.facts.append((moment, what, details))
        problem = self.life.do(moment, what, details)
        if problem is not None:
            note(f"refused: {problem}")
            self.refused.append(len(self.facts) - 1)

    def _preview(self, number: int) -> None:
        life = self.life
        if life.account.due_at <= life.now:
            return
        expected = upcoming(life.account, number)
        comes_at = renewal_at(self._stands(number), life.account.counters)
        if comes_at > self.clock:
            return
        before = {each.serial: each.status for each in life.invoices.values()}
        life.pass_to(comes_at)
        made = [
            content(each)
            for each in life.invoices.values()
            if each.subscription == number
            and each.status is not InvoiceStatus.PENDING
            and before.get(each.serial, InvoiceStatus.PENDING) is InvoiceStatus.PENDING
        ]
        assert made[:1] == ([] if expected is None else [content(expected)])

    def _restart(self) -> None:
        before, after = self.life.restart(), self.life.account
        since = max(before.counters_from, after.counters_from)
        for read, held in zip(state(after, since), state(before, since), strict=True):
            assert read == held, (read, held)

    def _agree_with_naive(self) -> None:
        book, refused = naive.bill(self.facts, self.life.now)
        assert refused == self.refused
        mine = [told(each) for each in self.life.invoices.values()]
        theirs = [told_naively(each) for each in book.invoices]
        for ours, naively in zip_longest(mine, theirs):
            assert ours == naively, (ours, naively)
        account, now = self.life.account, self.life.now
        for subscription in account.subscriptions():
            assert book.access(book.lives[subscription.number], now) == (account.denied(subscription, now) is None)
        began = {number: times[1:] for number, times in self.life.began.items()}
        for number, each in book.lives.items():
            turns = [moment for moment, later in pairwise([*each.turns, None]) if moment != later]
            assert began.get(number, [])[: len(turns)] == turns
        charged = {
            (key.subscription, key.feature, key.period_start): counter.charged - counter.billed
            for key, counter in self.life.account.counters.items()
            if key.period_start != LIFETIME and counter.unbilled
        }
        assert charged == {
            (number, count.feature, count.start): count.charged - count.billed
            for number, each in book.lives.items()
            for count in each.counts.values()
            if count.unbilled
        }


def told(invoice: Invoice) -> tuple[Any, ...]:
    """What of an invoice is compared with the naive one; a counter's lines of one kind are one."""
    lines: dict[Any, tuple[Decimal, Decimal]] = {}
    for line in invoice.lines:
        kind = line.kind.value
        key = (kind, line.feature, line.counter_start, line.period_start, line.period_end)
        exact, amount = lines.get(key, (ZERO, ZERO))
        lines[key] = exact + line.exact, amount + line.amount
    return (
        invoice.serial,
        invoice.subscription,
        invoice.kind.value,
        invoice.status.value,
        (invoice.period_start, invoice.period_end),
        (invoice.issued_at, invoice.due_at, invoice.overdue_at, invoice.settled_at),
        invoice.amount,
        {key: value for key, value in lines.items() if key[0] != "base" or value[0]},
    )


def told_naively(invoice: naive.Invoice) -> tuple[Any, ...]:
    """The same of a naive invoice."""
    lines: dict[Any, tuple[Decimal, Decimal]] = {}
    for line in invoice.lines:
        feature = line.count.feature if line.count is not None else ""
        key = (line.kind, feature, line.count.start if line.count is not None else None, line.start, line.end)
        exact, amount = lines.get(key, (ZERO, ZERO))
        lines[key] = exact + line.exact, amount + line.amount
    return (
        invoice.serial,
        invoice.life.number,
        invoice.kind,
        invoice.status,
        (invoice.start, invoice.end),
        (invoice.issued, invoice.due, invoice.overdue, invoice.settled),
        invoice.amount,
        {key: value for key, value in lines.items() if key[0] != "base" or value[0]},
    )


def content(invoice: Invoice) -> tuple[Any, ...]:
    """What a preview promises."""
    return invoice.kind, invoice.status, invoice.amount, told(invoice)[-1]


def balances(life: Driven) -> None:
    """Every charge is billed once, on an invoice that is not void, or a counter says it is not billed yet (P5)."""
    alive = [each for each in life.invoices.values() if each.status is not InvoiceStatus.VOID]
    lines = [(each.subscription, line) for each in alive for line in each.lines if line.counter_start is not None]
    charges = sum((D(row.amount or 0) for rows in life.charges.values() for row in rows), ZERO)
    left = [(key, counter) for key, counter in life.account.counters.items() if key.period_start != LIFETIME]
    unbilled = sum((counter.charged - counter.billed for _, counter in left), ZERO)
    assert charges - sum(life.gone.values(), ZERO) == sum((line.exact for _, line in lines), ZERO) + unbilled
    billed: dict[Any, Decimal] = {}
    for subscription, line in lines:
        key = subscription, line.feature, line.counter_start
        billed[key] = billed.get(key, ZERO) + line.exact
    for key, counter in left:
        assert counter.billed == billed.get(tuple(key)[:3], ZERO)
    periods = [
        (each.subscription, each.period_start, each.kind is InvoiceKind.IN_ARREARS)
        for each in alive
        if each.kind in OF_PERIODS and each.status is not InvoiceStatus.CANCELLED
    ]
    assert len(set(periods)) == len(periods), "one invoice a period (P6)"
    assert [each.serial for each in life.invoices.values()] == list(range(1, len(life.invoices) + 1))
    assert {each.number for each in life.invoices.values() if each.open} == set(life.account.invoices)
    for each in life.invoices.values():
        assert each.amount == sum((line.amount for line in each.lines), ZERO)
        assert each.amount > ZERO or each.status not in {InvoiceStatus.DUE, InvoiceStatus.PAST_DUE}
        for line in each.lines:
            assert line.kind is LineKind.TRIAL or line.amount == round_to_currency(line.exact, each.currency)


def ends(life: Driven) -> None:
    """Cancelled at once, nothing is charged for the time after the end, and nothing given back beyond that."""
    for subscription in life.account.subscriptions():
        end, cancellation = subscription.ends_at, subscription.cancellation
        mine = [each for each in life.invoices.values() if each.subscription == subscription.number]
        alive = [each for each in mine if each.status is not InvoiceStatus.VOID]
        if end is None or cancellation is None or cancellation.mode != "IMMEDIATE":
            continue
        if any(each.issued_at >= end for each in mine if each not in alive):
            continue  # what was charged or given back with the end was waived by hand
        parts = [
            Fraction(line.exact)
            * (line.period_end - max(line.period_start, end))
            / (line.period_end - line.period_start)
            for each in alive
            for line in each.lines
            if line.kind in BASE_PRICES and line.period_end > end
        ]
        assert abs(sum(parts)) < Fraction(1, 10**12), parts


def tiles(life: Driven) -> None:
    """Periods follow each other without a gap and without an overlap, those that have been and the next ones."""
    for subscription in life.account.subscriptions():
        began = life.began[subscription.number][1:]
        for start, end in pairwise(began):
            if subscription.ends_at is None or start < subscription.ends_at:
                assert subscription.period_at(start).start == start
                assert min(subscription.period_at(start).end, subscription.ends_at or end) == end
        moment = max(life.now, subscription.starts_at)
        for _ in range(3):
            start, end = subscription.period_at(moment)
            assert start <= moment < end
            assert subscription.period_at(start) == subscription.period_at(end - 1) == (start, end)
            assert subscription.period_at(end).start == end
            moment = end


def state(account: Account, since: int) -> Any:
    """What is read back from the books: counters only of the time since."""
    return (
        account.customer,
        [(each.subscription, each.plan, each.starts_at, each.ends_at) for each in account.enrolments],
        {
            key: counter
            for key, counter in account.counters.items()
            if key.period_start >= since or key.period_start == LIFETIME or counter.unbilled
        },
        account.invoices,
        account.serial,
        account.position,
        account.chain,
        account.billing_at,
    )


LivesMachine.TestCase.settings = settings(
    max_examples=LIVES,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # the time is that of the rules, not of the choosing
)
TestRandomLives = LivesMachine.TestCase
