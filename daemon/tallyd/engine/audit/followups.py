"""What one ledger entry demands of those right after it: a period's invoice, credits that come back."""

from collections.abc import Hashable
from typing import NamedTuple

from tallyd.engine.audit.findings import Findings
from tallyd.model.ledger_entries import EntryKind


class Demand(NamedTuple):
    """Something that must come.

    Attributes:
        kind: of the finding, if it does not.
        where: the same.
        message: the same; empty: it may come, and need not.
        meanwhile: kinds of entries that may come before it.
    """

    kind: str
    where: object
    message: str
    meanwhile: frozenset[EntryKind]


class FollowUps:
    """Demands by customer; nearly always there are none."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._open: dict[int, dict[Hashable, Demand]] = {}

    def expect(self, customer: int, what: Hashable, demand: Demand) -> None:
        """Note that something must come."""
        self._open.setdefault(customer, {})[what] = demand

    def came(self, customer: int, what: Hashable) -> bool:
        """Say whether something was demanded, and note that it came."""
        return self._open.get(customer, {}).pop(what, None) is not None

    def before(self, customer: int, kind: EntryKind | None) -> None:
        """Report what should have come before an entry of a kind, or before an event (None)."""
        waiting = self._open.get(customer)
        if not waiting:
            return
        for what, demand in list(waiting.items()):
            if kind is None or kind not in demand.meanwhile:
                del waiting[what]
                self._report(demand)

    def finish(self) -> None:
        """Report what never came."""
        for waiting in self._open.values():
            for demand in waiting.values():
                self._report(demand)

    def _report(self, demand: Demand) -> None:
        if demand.message:
            self._findings.add(demand.kind, demand.where, demand.message)
