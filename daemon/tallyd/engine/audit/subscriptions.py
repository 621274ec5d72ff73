"""Subscriptions replayed: an entry changes what its cause allows, periods tile time, and rows say the same."""

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from tallyd.engine.audit.access import Access
from tallyd.engine.audit.base_lines import BasePrices
from tallyd.engine.audit.basis import Basis
from tallyd.engine.audit.counters import Counters
from tallyd.engine.audit.findings import Findings
from tallyd.engine.audit.followups import FollowUps
from tallyd.engine.audit.invoice_lines import LineAudit
from tallyd.engine.audit.lives import Life, Turn, again, running, waived
from tallyd.engine.audit.wallet import Row, compare, encode
from tallyd.engine.credits.book import NEVER
from tallyd.model.invoice import InvoiceKind
from tallyd.model.ledger_entries import Cause, Entry
from tallyd.model.subscription import Phase, Subscription

COLUMNS: Final = Subscription.__struct_fields__
_AS_JSON: Final = frozenset({"phases", "pauses", "waived", "change", "cancellation"})
_DAYS: Final = range(1, 32)
_MAY: Final = {  # what an entry may change, by its cause
    Cause.SUBSCRIBED: {"renewed_to", "charged_to"},
    Cause.RENEWED: {"renewed_to", "charged_to"},
    Cause.ENDED: {"renewed_to"},
    Cause.UPGRADED: {"phases", "change", "ends_at", "cancellation", "charged_to", "waived"},
    Cause.DOWNGRADED: {"phases", "change"},
    Cause.CANCELLED: {"phases", "change", "ends_at", "renewed_to", "cancellation"},
    Cause.REVERTED: {"phases", "change", "ends_at", "cancellation"},
    Cause.PAUSED: {"pauses"},
    Cause.RESUMED: {"pauses", "charged_to"},
    Cause.VOIDED: {"waived"},
    Cause.MANUAL: {"metadata"},
}
_Rule = Callable[[Life, Subscription, Entry], Iterator[str]]


class SubscriptionAudit:
    """Plays the entries of subscriptions, and demands what must follow."""

    def __init__(
        self,
        basis: Basis,
        counters: Counters,
        prices: BasePrices,
        lines: LineAudit,
        access: Access,
        follow_ups: FollowUps,
        findings: Findings,
    ) -> None:
        self._basis = basis
        self._counters = counters
        self._prices = prices
        self._lines = lines
        self._access = access
        self._follow_ups = follow_ups
        self._findings = findings
        self._rules: dict[Cause, _Rule] = {
            Cause.SUBSCRIBED: self._began,
            Cause.RENEWED: self._began,
            Cause.ENDED: self._ended,
            Cause.UPGRADED: self._upgraded,
            Cause.DOWNGRADED: self._downgraded,
            Cause.CANCELLED: self._cancelled,
            Cause.REVERTED: self._reverted,
            Cause.PAUSED: self._paused,
            Cause.RESUMED: self._resumed,
            Cause.VOIDED: self._waived,
            Cause.MANUAL: lambda _life, _state, _entry: iter(()),
        }

    # Entries

    def entry(self, entry: Entry, state: Subscription) -> None:
        """Check an entry against the subscription as it was, and take it as it is from here on."""
        life = self._basis.lives.get(state.number)
        if life is None or not life.entered:
            life = self._first(entry, state, life)
        else:
            self._later(entry, life, state)
        with self._findings.guard("ledger entry", entry.id):
            self._check_phases(entry, state)
        cause, before = Cause(entry.cause), life.state
        if cause in (Cause.UPGRADED, Cause.CANCELLED):
            life.turn = Turn(entry.at, cause, before)
        life.take(state)
        with self._findings.guard("ledger entry", entry.id):
            self._follow(entry, life, before)

    def _first(self, entry: Entry, state: Subscription, known: Life | None) -> Life:
        """Return a new subscription's life; `known` is one from books that knew no invoices."""
        life = self._basis.lives[state.number] = known or Life(state)
        wrong = [] if self._basis.knows(state.customer) else [f"customer {state.customer} is gone"]
        if state.customer != entry.customer:
            wrong.append(f"it is customer {state.customer}'s")
        if (known is not None) is not (entry.cause == Cause.CARRIED_OVER):
            wrong.append(f"the first entry of a subscription has the cause {entry.cause}")
        if known is None:
            life.state = msgspec.structs.replace(state, renewed_to=-1, charged_to=-1)
            if state.created_at != entry.written_at or len(state.phases) != 1 or state.pauses or state.change:
                wrong.append(f"it was made at {state.created_at}, with {len(state.phases)} phases")
            if state.renewed_to >= 0:
                wrong += self._began(life, state, entry)
            elif (entry.cause, entry.at) != (Cause.SUBSCRIBED, entry.written_at) or state.starts_at <= entry.at:
                wrong.append(f"it starts at {state.starts_at}, and no period of it has begun")
        for message in wrong:
            self._findings.add("ledger entry", entry.id, message)
        return life

    def _later(self, entry: Entry, life: Life, state: Subscription) -> None:
        cause, before = Cause(entry.cause), life.state
        for field in COLUMNS:
            if field not in _MAY.get(cause, ()):
                self._same(entry, field, getattr(state, field), getattr(before, field))
        begun = [phase for phase in before.phases if phase.starts_at < entry.at]
        self._same(entry, "the phases that had begun", state.phases[: len(begun)], begun)
        rule = self._rules.get(cause)
        wrong = ["the subscription had entries before it"] if rule is None else rule(life, state, entry)
        for message in wrong:
            self._findings.add("ledger entry", entry.id, message)

    def _check_phases(self, entry: Entry, state: Subscription) -> None:
        """Check that phases follow each other, and that each plan is there and has the interval of its cycle."""
        starts = [phase.starts_at for phase in state.phases]
        if starts != sorted(set(starts)) or not starts or starts[0] != state.starts_at:
            message = f"its phases begin at {starts}, it starts at {state.starts_at}"
            self._findings.add("subscription", state.number, message)
        for phase in state.phases:
            plan = self._basis.plan_named(phase.plan_key, phase.plan_version)
            if plan is None:
                name = f"{phase.plan_key}@{phase.plan_version}"
                self._findings.add("subscription", state.number, f"plan {name} is gone")
                continue
            cycle = phase.cycle
            interval = (plan.interval_months, plan.interval_days)
            self._same(entry, f"the interval of {plan.price_version}", (cycle.months, cycle.days), interval)
            if cycle.anchor_day not in _DAYS:
                message = f"anchor_day {cycle.anchor_day} is no day of a month"
                self._findings.add("subscription", state.number, message)

    def _same(self, entry: Entry, what: str, stands: object, should: object) -> None:
        self._findings.same("ledger entry", entry.id, what, stands, should)

    # Rules

    def _began(self, life: Life, state: Subscription, entry: Entry) -> Iterator[str]:
        """A period began: where the one before ended (periods tile time), charged in advance if it may be."""
        before, at = life.state, entry.at
        first = before.renewed_to < 0
        if (entry.cause == Cause.SUBSCRIBED) is not first:
            yield f"it has the cause {entry.cause}, and was renewed to {before.renewed_to}"
        anew = self._follow_ups.came(entry.customer, (Cause.RENEWED, state.number))
        begins = before.starts_at if first else before.period_at(before.renewed_to).end
        if at != begins and not (anew and at == before.renewed_to):
            yield f"a period begins at {at}, the one before ended at {begins}"
        if state.renewed_to != at or not state.active_at(at):
            yield f"renewed_to is {state.renewed_to}, it ends at {state.ends_at}"
        charged = self._charges(life, at, at_once=anew and self._at_once(life, at))
        charged_to = running(state, at).end if charged else before.charged_to
        if state.charged_to != charged_to:
            yield f"charged_to is {state.charged_to}, should be {charged_to}"

    def _charges(self, life: Life, at: int, *, at_once: bool = False) -> bool:
        """Whether the period of an instant is charged in advance then: with access, or as the one it replaces."""
        plan = self._basis.plan_at(life.state, at)
        return plan is not None and plan.timing == "IN_ADVANCE" and (at_once or not life.denied_at(at))

    def _at_once(self, life: Life, at: int) -> bool:
        """Whether the period that an upgrade has cut short was charged in advance, or had only just begun."""
        return self._prices.paid_for(life, at) or again(life, at)

    def _ended(self, life: Life, state: Subscription, entry: Entry) -> Iterator[str]:
        before, at = life.state, entry.at
        ends = before.ends_at
        if ends is not None and before.renewed_to >= ends:  # once more, for what came late
            ends = before.period_at(before.renewed_to).end
        if at != ends or state.renewed_to != at:
            yield f"it ends at {at}, renewed_to is {state.renewed_to}, should be {ends}"
        self._lines.nothing_left(life, at, ("ledger entry", entry.id))

    def _upgraded(self, life: Life, state: Subscription, entry: Entry) -> Iterator[str]:
        before, at = life.state, entry.at
        yield from _changed_at(life, state, entry, state.phases[-1], at)
        yield from _without_end(life, state)
        keeps = self._prices.keeps_rhythm(before, state, at)
        charged_to = before.charged_to if keeps else min(before.charged_to, at)
        if state.charged_to != charged_to:
            yield f"charged_to is {state.charged_to}, should be {charged_to}"
        if state.waived:
            yield f"{state.waived} is waived of the plan before"

    def _downgraded(self, life: Life, state: Subscription, entry: Entry) -> Iterator[str]:
        phase, at = state.phases[-1], life.state.period_at(entry.at).end
        yield from _changed_at(life, state, entry, phase, at)

    def _cancelled(self, life: Life, state: Subscription, entry: Entry) -> Iterator[str]:
        before = life.state
        moment = max(entry.at, before.starts_at)
        if state.cancellation is None or state.cancellation.requested_at != entry.at:
            yield "it does not say who cancelled it when"
            return
        immediate = state.cancellation.mode == "IMMEDIATE"
        ends_at = moment if immediate else running(before, moment).end
        renewed_to = moment if immediate else before.renewed_to
        if (state.ends_at, state.renewed_to) != (ends_at, renewed_to):
            stands, should = (state.ends_at, state.renewed_to), (ends_at, renewed_to)
            yield f"ends_at and renewed_to are {stands}, should be {should}"
        if not immediate and state.cancellation.instead_of != before.ends_at:
            yield f"it had the end {before.ends_at}, not {state.cancellation.instead_of}"
        last = state.phases[-1].starts_at
        if len(state.phases) > 1 and (last > ends_at or (last == ends_at and not immediate)):
            yield "a phase begins after its end"

    def _reverted(self, life: Life, state: Subscription, entry: Entry) -> Iterator[str]:
        if life.state.cancellation is not None:
            yield from _without_end(life, state)
        elif any(phase.starts_at > entry.at for phase in state.phases) or state.ends_at != life.state.ends_at:
            yield "the change of plan was taken back, and a phase is still to come"

    def _paused(self, life: Life, state: Subscription, entry: Entry) -> Iterator[str]:
        should = [*life.state.pauses, (entry.at, None)]
        if state.pauses != should or life.state.paused_at(entry.at):
            yield f"its pauses are {state.pauses}, should be {should}"

    def _resumed(self, life: Life, state: Subscription, entry: Entry) -> Iterator[str]:
        before = life.state
        if state.pauses != before.pauses:
            begun = before.pauses[-1][0] if before.pauses else None
            should = [*before.pauses[:-1], (begun, entry.at)]
            if state.pauses != should or not before.paused_at(entry.at):
                yield f"its pauses are {state.pauses}, should be {should}"
            return
        self._follow_ups.came(entry.customer, (Cause.RESUMED, state.number))
        charged_to = running(before, entry.at).end
        if not self._charges(life, entry.at) or before.charged_to > entry.at or state.charged_to != charged_to:
            yield f"charged_to goes from {before.charged_to} to {state.charged_to}, should be {charged_to}"

    def _waived(self, life: Life, state: Subscription, entry: Entry) -> Iterator[str]:
        last = life.voided[-1:] if life.voided_to + 1 == entry.position else []
        should = [each for each in life.state.waived if each.end > entry.at]
        should += [each for invoice in last for each in waived(invoice, entry.at)]
        life.waits_for_waiver = False
        if state.waived != should:
            yield f"{state.waived} is waived, should be {should}"

    # What must follow

    def _follow(self, entry: Entry, life: Life, before: Subscription) -> None:
        cause, customer, at = Cause(entry.cause), entry.customer, entry.at
        state = life.state
        if cause is Cause.CARRIED_OVER:
            self._counters.carry_over(state, entry.position)
        elif cause is Cause.UPGRADED:
            self._access.upgraded(customer, life, at)
        elif cause is Cause.CANCELLED and state.cancellation and state.cancellation.mode == "IMMEDIATE":
            self._access.ended(customer, life, entry)
        elif cause is Cause.RESUMED and state.pauses != before.pauses:
            self._access.restored(customer, life, at)
        elif cause in (Cause.SUBSCRIBED, Cause.RENEWED) and state.renewed_to == at:
            self._access.begin(customer, life, at)
        began = cause in (Cause.SUBSCRIBED, Cause.RENEWED) and state.renewed_to == at
        if began or state.charged_to > before.charged_to:
            self._demand_invoice(customer, life, before, at, began=began)

    def _demand_invoice(self, customer: int, life: Life, before: Subscription, at: int, *, began: bool) -> None:
        """Every period has its invoice: in arrears always, in advance if it was charged."""
        state, plan = life.state, self._basis.plan_at(life.state, at)
        if plan is None or not (state.charged_to > at if plan.timing == "IN_ADVANCE" else began):
            return
        kind = InvoiceKind.IN_ARREARS
        if plan.timing == "IN_ADVANCE":
            first = before.renewed_to < 0
            kind = InvoiceKind.IN_ADVANCE_INITIAL if first else InvoiceKind.IN_ADVANCE
            if self._prices.anew(life, at) and again(life, at):
                kind = InvoiceKind.ADJUSTMENT
        self._access.demand(customer, life, kind, f"the period from {state.period_at(at).start} is not invoiced")

    # What the books say

    def row(self, row: Row) -> None:
        """Check a row of `subscriptions`: it is what the last entry says."""
        life = self._basis.lives.pop(row[0], None)
        if life is None or not life.entered:
            self._findings.add("subscription", row[0], "no entry explains it")
            return
        compare(self._findings, ("subscription", row[0]), COLUMNS, row, _row_of(life.state))

    def due_at(self, life: Life) -> int:
        """Return when a period of a subscription ends, or late usage after its end is billed, next."""
        state = life.state
        if state.renewed_to < state.starts_at:
            return state.starts_at
        end = state.period_at(state.renewed_to).end
        if state.ends_at is None or end <= state.ends_at:
            return end
        if state.renewed_to < state.ends_at:
            return state.ends_at
        return end if any(True for _ in self._counters.unbilled(state.number)) else NEVER

    def finish(self) -> None:
        """Report what the entries explain but the books do not have."""
        for number in self._basis.lives:
            self._findings.add("subscription", number, "is missing")


def _row_of(state: Subscription) -> tuple[object, ...]:
    """Return what its row should say."""
    values = {name: getattr(state, name) for name in COLUMNS}
    for name in _AS_JSON:
        if values[name] is not None:
            values[name] = encode(values[name]).decode()
    return tuple(values.values())


def _changed_at(life: Life, state: Subscription, entry: Entry, phase: Phase, at: int) -> Iterator[str]:
    """Check the phase and the note of a change of plan that takes effect at an instant."""
    change = state.change
    old = life.state.phase_at(entry.at)
    if phase.starts_at != at or change is None or change.cancelled:
        yield f"a phase begins at {phase.starts_at}, should at {at}"
        return
    stands = (change.from_plan, change.to_plan, change.effective_at, change.created_at)
    should = (old.plan_key, phase.plan_key, at, entry.at)
    if stands != should or not life.state.active_at(entry.at):
        yield f"the change of plan is {stands}, should be {should}"


def _without_end(life: Life, state: Subscription) -> Iterator[str]:
    """Check that a cancellation that had not come is taken back."""
    before = life.state.cancellation
    ends_at = life.state.ends_at if before is None else before.instead_of
    if state.cancellation is not None or state.ends_at != ends_at:
        yield f"ends_at is {state.ends_at}, should be {ends_at}"
