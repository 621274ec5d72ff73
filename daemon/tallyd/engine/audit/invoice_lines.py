"""The lines of an invoice held against what they bill: counters, overage, base prices (P5, P9)."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Final

from tallyd.engine.audit.base_lines import Priced
from tallyd.engine.audit.basis import Basis
from tallyd.engine.audit.counters import Counters
from tallyd.engine.audit.findings import Findings
from tallyd.engine.audit.followups import FollowUps
from tallyd.engine.audit.lives import OF_BASE, Life
from tallyd.engine.counters import Counter, CounterKey
from tallyd.model.invoice import Invoice, Line, LineKind
from tallyd.model.ledger_entries import Entry
from tallyd.model.money import ZERO, plain, round_to_currency, tidy

Billed = tuple[str, int]
"""Feature and `period_start` of a counter of the invoice's subscription."""
OF_COUNTERS: Final = frozenset({LineKind.USAGE, LineKind.COVERED, LineKind.CREDITED, LineKind.LATE})


class LineAudit:
    """Checks the lines of one invoice at a time, and moves the counters they bill."""

    def __init__(self, basis: Basis, counters: Counters, follow_ups: FollowUps, findings: Findings) -> None:
        self._basis = basis
        self._counters = counters
        self._follow_ups = follow_ups
        self._findings = findings

    def sums(self, life: Life, invoice: Invoice) -> None:
        """Check that each line is rounded once, half up, and that the amount is their sum (P9)."""
        for place, line in enumerate(invoice.lines):
            if line.kind is not LineKind.TRIAL:
                rounded = round_to_currency(line.exact, invoice.currency)
                self._same(invoice, f"amount of line {place}", line.amount, rounded)
            if (line.counter_start is not None) is not (line.kind in OF_COUNTERS):
                self._same(invoice, f"counter_start of line {place}", line.counter_start, None)
            steps = [step.amount for step in line.steps if step.amount is not None]
            if line.steps:
                self._same(invoice, f"the steps of line {place}", sum(steps, ZERO), line.exact)
        self._same(invoice, "amount", invoice.amount, sum((line.amount for line in invoice.lines), ZERO))
        self._trial(life, invoice)

    def _trial(self, life: Life, invoice: Invoice) -> None:
        """Check that usage of a trial is taken back, to the cent."""
        free = [line for line in invoice.lines if line.kind in OF_COUNTERS and life.in_trial(line.period_start)]
        back = [line for line in invoice.lines if line.kind is LineKind.TRIAL]
        for what, of in (("exact", [line.exact for line in free]), ("amount", [line.amount for line in free])):
            stands = sum((getattr(line, what) for line in back), ZERO)
            self._same(invoice, f"the {what} that the trial takes back", -stands, sum(of, ZERO))

    def base(self, invoice: Invoice, should: Iterable[Priced]) -> None:
        """Check the lines of base prices."""
        stand = sorted(_told(line.kind, line.exact) for line in invoice.lines if line.kind in OF_BASE)
        told = sorted(_told(kind, exact) for kind, exact in should)
        self._same(invoice, "what it has of base prices", stand, told)

    def overage(self, entry: Entry, invoice: Invoice) -> int:
        """Check the lines of overage; return how many there are."""
        found = [line for line in invoice.lines if line.kind is LineKind.OVERAGE]
        for line in found:
            quantity, price = line.quantity or ZERO, line.unit_price or ZERO
            self._same(
                invoice, f"the exact amount of the overage of pool {line.pool}", line.exact, quantity * price
            )
            if not self._follow_ups.came(entry.customer, (LineKind.OVERAGE, line.pool, quantity, price)):
                message = f"no overage of {quantity} at {price} was charged to pool {line.pool}"
                self._findings.add("invoice", invoice.number, message)
        return len(found)

    def usage(self, life: Life, invoice: Invoice, lines: Iterable[Line], until: int) -> None:
        """Check the lines of usage, each counter's together, and note that they bill it."""
        for billed, some in by_counter(lines).items():
            key = CounterKey(invoice.subscription, *billed)
            with self._findings.guard("invoice", invoice.number):
                self._counter(life, invoice, key, some, until)
            total = sum((line.exact for line in some), ZERO)
            self._counters.bill(invoice.customer, key, total, until)

    def _counter(self, life: Life, invoice: Invoice, key: CounterKey, lines: list[Line], until: int) -> None:
        what = f"{key.feature} of period {key.period_start}"
        if not self._counters.known(invoice.customer, key):
            self._findings.add("invoice", invoice.number, f"it bills {what}, which no event has used")
            return
        counter = self._counters.get(invoice.customer, key)
        total = sum((line.exact for line in lines), ZERO)
        self._same(invoice, f"what it bills of {what}", total, counter.charged - counter.billed)
        segment = life.segment_at(key.period_start)
        plan = self._basis.plan_at(life.state, key.period_start)
        for line in lines:
            stands = (line.after, line.until, line.period_start, line.period_end, line.price_version)
            should = (counter.billed_to, until, *segment, plan.price_version if plan else None)
            self._same(invoice, f"after, until, period and price version of {what}", stands, should)
        if counter.billed_to or counter.billed or plan is None or key.feature not in plan.features:
            kinds = [line.kind.value for line in lines]
            self._same(invoice, f"the kinds of its lines of {what}", kinds, [LineKind.LATE.value])
        else:
            self._first(invoice, what, counter, lines)

    def _first(self, invoice: Invoice, what: str, counter: Counter, lines: list[Line]) -> None:
        """Check how a counter is billed first: its price, what credits covered, and what they paid."""
        exact = {
            LineKind.USAGE: counter.charged + counter.credited,
            LineKind.COVERED: ZERO,
            LineKind.CREDITED: -counter.credited,
            LineKind.LATE: ZERO,
        }
        for kind, should in exact.items():
            stands = sum((line.exact for line in lines if line.kind is kind), ZERO)
            self._same(invoice, f"the sum of the {kind} lines of {what}", stands, should)
        covered = sorted(line.quantity or ZERO for line in lines if line.kind is LineKind.COVERED)
        self._same(
            invoice, f"what credits cover of {what}", covered, sorted(filter(None, counter.covered.values()))
        )

    def give_back(self, invoice: Invoice, lines: Iterable[Line]) -> None:
        """Note that lines no longer bill their counters."""
        for billed, some in by_counter(lines).items():
            key = CounterKey(invoice.subscription, *billed)
            total = sum((line.exact for line in some), ZERO)
            self._counters.give_back(invoice.customer, key, total, min(line.after for line in some))

    def nothing_left(self, life: Life, at: int, where: tuple[str, object]) -> None:
        """Check that all usage whose time is over is billed (P5)."""
        for key, counter in self._counters.unbilled(life.state.number):
            if life.segment_at(key.period_start).end <= at:
                left = counter.charged - counter.billed
                self._findings.add(*where, f"{left} of {key.feature} of period {key.period_start} is not billed")

    def waits(self, life: Life, at: int) -> bool:
        """Whether there is usage whose time is over and that is not billed."""
        left = self._counters.unbilled(life.state.number)
        return any(life.segment_at(key.period_start).end <= at for key, _ in left)

    def _same(self, invoice: Invoice, what: str, stands: object, should: object) -> None:
        self._findings.same("invoice", invoice.number, what, stands, should)


def _told(kind: LineKind, exact: Decimal) -> str:
    return f"{kind} {plain(tidy(exact))}"


def by_counter(lines: Iterable[Line]) -> dict[Billed, list[Line]]:
    """Return lines of usage by the counter they bill."""
    found: dict[Billed, list[Line]] = {}
    for line in lines:
        if line.kind in OF_COUNTERS and line.counter_start is not None:
            found.setdefault((line.feature, line.counter_start), []).append(line)
    return found
