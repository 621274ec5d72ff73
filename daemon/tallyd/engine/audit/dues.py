"""When time alone must change something next, by the auditor's own reckoning."""

from tallyd.engine.audit.credit_dues import earliest
from tallyd.engine.audit.findings import Findings
from tallyd.engine.audit.lives import Life
from tallyd.engine.audit.subscriptions import SubscriptionAudit
from tallyd.engine.audit.wallet import NEVER, Wallet
from tallyd.model.invoice import InvoiceStatus


class DueAudit:
    """Compares when something is due for each customer, and sees that all that was due was done.

    Args:
        subscriptions: knows when periods end.
        findings: where it reports.
    """

    def __init__(self, subscriptions: SubscriptionAudit, findings: Findings) -> None:
        self._subscriptions = subscriptions
        self._findings = findings
        self._decided: dict[int, int] = {}
        self._due: dict[int, int] = {}

    def decided(self, customer: int, at: int) -> None:
        """Note that something was decided at an instant: all that was due by then had been done."""
        self._decided[customer] = max(at, self._decided.get(customer, 0))

    def life(self, life: Life) -> None:
        """Note when something is due of a subscription; that it was done by the customer's last decision."""
        state, number = life.state, life.state.number
        last, due_at = self._decided.get(state.customer, 0), self._subscriptions.due_at(life)
        ended = state.ends_at is not None and state.renewed_to >= state.ends_at  # what comes late may wait
        if due_at <= last and not ended:
            message = f"its period ended at {due_at}, and nothing came of it by {last}"
            self._findings.add("subscription", number, message)
        for invoice in life.open.values():
            if invoice.status is InvoiceStatus.DUE:
                due_at = min(due_at, invoice.overdue_at)
                if invoice.overdue_at <= last:
                    message = f"it was overdue at {invoice.overdue_at}, and nothing came of it by {last}"
                    self._findings.add("invoice", invoice.number, message)
        self._note(state.customer, due_at)

    def wallet(self, held: Wallet) -> None:
        """Note when something is due of a customer's credits. Links come before."""
        last, due_at = self._decided.get(held.customer, 0), earliest(held)
        if due_at <= last and held.loose_at < last:
            message = f"credits changed by themselves at {due_at}, and nothing came of it by {last}"
            self._findings.add("due", f"customer {held.customer}", message)
        self._note(held.customer, due_at)

    def _note(self, customer: int, due_at: int) -> None:
        self._due[customer] = min(due_at, self._due.get(customer, NEVER))

    def row(self, customer: int, due_at: int) -> None:
        """Check a row of `dues`: it may be early, and is never late."""
        latest = self._due.pop(customer, None)
        if latest is None:
            self._findings.add("due", f"customer {customer}", "the customer has nothing that falls due")
        elif due_at > latest:
            message = f"due_at is {due_at!r}, should be at most {latest!r}"
            self._findings.add("due", f"customer {customer}", message)

    def finish(self) -> None:
        """Report what falls due and is not noted."""
        for customer, due_at in self._due.items():
            if due_at < NEVER:
                self._findings.add("due", f"customer {customer}", f"is missing: something is due at {due_at}")
