"""What must follow when access comes back, or a subscription ends at once (CONTRACTS D4, D6, D7)."""

from collections.abc import Callable
from typing import Final

from tallyd.engine.audit.allocations import Allocations
from tallyd.engine.audit.base_lines import BasePrices, Priced
from tallyd.engine.audit.basis import Basis
from tallyd.engine.audit.followups import Demand, FollowUps
from tallyd.engine.audit.invoice_lines import LineAudit
from tallyd.engine.audit.lives import Life, again, waived
from tallyd.engine.audit.wallet import Wallet
from tallyd.model.invoice import InvoiceKind
from tallyd.model.ledger_entries import Cause, Entry, EntryKind
from tallyd.model.money import ZERO
from tallyd.model.periods import Period
from tallyd.model.subscription import Subscription

INVOICING: Final = frozenset({EntryKind.INVOICE_MADE, EntryKind.ADJUSTMENT, EntryKind.EXPIRATION})
_BEGINNING: Final = frozenset({EntryKind.SUBSCRIPTION})
_VOIDING: Final = frozenset({Cause.VOIDED, Cause.OVERAGE_BACK})
_RESTORING: Final = frozenset({EntryKind.GRANT, EntryKind.ADJUSTMENT, EntryKind.SUBSCRIPTION})


class Access:
    """Knows what comes after changes of access, and demands it."""

    def __init__(
        self,
        basis: Basis,
        prices: BasePrices,
        lines: LineAudit,
        allocations: Allocations,
        wallet: Callable[[int], Wallet | None],
        follow_ups: FollowUps,
    ) -> None:
        self._basis = basis
        self._prices = prices
        self._lines = lines
        self._allocations = allocations
        self._wallet = wallet
        self._follow_ups = follow_ups
        self._voided: dict[int, Life] = {}

    def demand(self, customer: int, life: Life, kind: InvoiceKind, message: str) -> None:
        """Demand an invoice next."""
        number = life.state.number
        demand = Demand("subscription", number, message, INVOICING)
        self._follow_ups.expect(customer, (kind, number), demand)

    def begin(self, customer: int, life: Life, at: int) -> None:
        """Note that a period has begun: its included credits come, if there is access."""
        held = self._wallet(customer)
        if held is not None:
            self._allocations.begin(held, life, at)

    # Access comes back

    def voided(self, life: Life, entry: Entry) -> None:
        """Note that an invoice was voided: by itself, which may bring access back, or with its subscription."""
        other = self._voided.get(entry.customer)
        if other is not None and other is not life:
            self._settle(entry.customer, other)
        invoice, held = life.voided[-1], self._wallet(entry.customer)
        life.restores_at, life.waits_for_waiver = entry.at, bool(waived(invoice, entry.at))
        for line in invoice.lines:
            pool = None if held is None or line.pool is None else held.pools.get(line.pool)
            if pool is not None and line.quantity and not pool.archived:
                self._allocations.expect_overage(pool, line.quantity, invoice.number)
        self._voided[entry.customer] = life

    def before(self, customer: int, entry: Entry | None, subscription: Subscription | None = None) -> None:
        """Look, before an entry or an event (None), whether the voids before it brought access back.

        `subscription` is what the entry says, where it is about one.
        """
        life = self._voided.get(customer) if self._voided else None
        if life is None or (entry is not None and entry.cause in _VOIDING):
            return  # decided after the last of them
        ends = subscription if entry is not None and entry.cause == Cause.CANCELLED else None
        at_once = ends is not None and ends.cancellation is not None and ends.cancellation.mode == "IMMEDIATE"
        if ends is not None and at_once and ends.number == life.state.number:
            life.restores_at, life.waits_for_waiver = None, False
            del self._voided[customer]
        else:
            self._settle(customer, life)

    def _settle(self, customer: int, life: Life) -> None:
        at, life.restores_at = life.restores_at, None
        if life.waits_for_waiver:
            life.waits_for_waiver = False
            message = f"the base price on the invoice that was voided at {at} is not waived"
            demand = Demand("subscription", life.state.number, message, frozenset())
            self._follow_ups.expect(customer, (Cause.VOIDED, life.state.number), demand)
        self._voided.pop(customer, None)
        if at is not None:
            self.restored(customer, life, at)

    def restored(self, customer: int, life: Life, at: int) -> None:
        """Demand what had to wait for access, if it is back: included credits, the running period's invoice."""
        state = life.state
        if life.denied_at(at) or not state.active_at(at):
            return
        held = self._wallet(customer)
        if held is not None:
            self._allocations.restore(held, life, at)
        plan = self._basis.plan_at(state, at)
        in_advance = plan is not None and plan.timing == "IN_ADVANCE"
        if in_advance and 0 <= state.renewed_to <= at and state.charged_to <= at:
            message = f"access came back at {at}, and the rest of the period is not invoiced"
            demand = Demand("subscription", state.number, message, _RESTORING)
            self._follow_ups.expect(customer, (Cause.RESUMED, state.number), demand)

    def upgraded(self, customer: int, life: Life, at: int) -> None:
        """Demand what an upgrade brings at once: an adjustment, and credits; or a new period."""
        number = life.state.number
        held = self._wallet(customer)
        if self._prices.anew(life, at):
            demand = Demand("subscription", number, f"no new period began at {at}", _BEGINNING)
            self._follow_ups.expect(customer, (Cause.RENEWED, number), demand)
        elif any(exact for _, exact in self._prices.upgraded(life, at)):
            message = f"the upgrade at {at} is not invoiced"
            self.demand(customer, life, InvoiceKind.ADJUSTMENT, message)
        if held is not None and (again(life, at) or not self._prices.anew(life, at)):
            self._allocations.upgrade(held, life, at)

    # It ends at once

    def ended(self, customer: int, life: Life, entry: Entry) -> None:
        """Demand what an immediate cancellation brings: credits end, usage is billed, unused time given back."""
        at, number = entry.at, life.state.number
        held = self._wallet(customer)
        if held is not None:
            self._allocations.forfeit(held, number)
        with_it = life.voided if life.voided_to + 1 == entry.position else []
        life.credit = self._prices.unused(life, at, with_it)
        ends = (each.end for invoice in with_it for each in waived(invoice, at))
        life.credit_to = max(at, life.state.charged_to, *ends)
        if life.turn is None or life.turn.before.renewed_to < 0:
            return
        if life.credit:
            kind = InvoiceKind.CREDIT if life.credit > ZERO else InvoiceKind.ADJUSTMENT
            self.demand(customer, life, kind, f"what is not used after {at} is not given back")
        if self.base_at_end(life, at) or self._lines.waits(life, at):
            self.demand(customer, life, InvoiceKind.FINAL, f"what was used before {at} is not invoiced")

    def base_at_end(self, life: Life, at: int) -> list[Priced]:
        """Return the base prices of the period that an immediate cancellation cuts short."""
        plan = self._basis.plan_at(life.state, at)
        if plan is None or plan.timing != "IN_ARREARS":
            return []
        return self._prices.in_arrears(life, Period(life.state.period_at(at).start, at))
