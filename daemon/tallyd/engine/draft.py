"""A decision being made: ledger entries so far, and subscriptions, invoices and counters as they would be.

Rules change a draft, never the account; what comes out is `Changes`, or nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

from tallyd.engine import chain
from tallyd.engine.account import (
    EMPTY,
    LIFETIME,
    Account,
    Changes,
    Counter,
    CounterKey,
    Denial,
    Enrolled,
    Enrolment,
    denial,
    enrolments_of,
    renewal_at,
)
from tallyd.engine.rating import PricedPlan
from tallyd.model.invoice import Invoice
from tallyd.model.ledger_entries import Cause, Entry, EntryKind, json_text
from tallyd.model.subscription import Subscription

Numbers = Callable[[], int]
"""Where new rows get their numbers: ascending, never the same twice."""

NO_DETAILS: Final = "{}"


class LedgerDraft:
    """See the module's docstring.

    Args:
        account: whose books; not changed.
        now: microseconds UTC.
        number: gives new rows their numbers.
    """

    __slots__ = (
        "_after",
        "_before",
        "_in_event",
        "_number",
        "account",
        "counters",
        "invoices",
        "now",
        "serial",
        "subscriptions",
    )

    def __init__(self, account: Account, now: int, number: Numbers) -> None:
        self.account = account
        self.now = now
        self._number = number
        self._before: list[tuple[Any, ...]] = []
        self._after: list[tuple[Any, ...]] = []
        self._in_event = False
        self.subscriptions: dict[int, Enrolled] = {}
        self.invoices: dict[int, Invoice] = {}
        self.counters: dict[CounterKey, Counter] = {}
        self.serial = account.serial

    # Reading

    def enrolled(self, number: int) -> Enrolled:
        """Return a subscription as it would be, with the plans of its phases."""
        found = self.subscriptions.get(number) or self.account.subscription(number)
        assert found is not None, f"subscription {number} is the customer's"
        return found

    def subscription(self, number: int) -> Subscription:
        """Return a subscription as it would be."""
        return self.enrolled(number)[0]

    def enrolment_at(self, number: int, moment: int) -> Enrolment:
        """Return the phase of a subscription that is in force at an instant, or was last."""
        phases = enrolments_of(self.enrolled(number))
        begun = [each for each in phases if each.starts_at <= moment]
        return begun[-1] if begun else phases[0]

    def open_invoices(self, subscription: int) -> list[Invoice]:
        """Return the invoices of a subscription that may still change, in order."""
        held = {**self.account.invoices, **self.invoices}
        mine = [each for each in held.values() if each.subscription == subscription and each.open]
        return sorted(mine, key=lambda each: each.number)

    def denied(self, subscription: int, moment: int) -> Denial | None:
        """Say why a subscription would give no access at an instant, or None when it would."""
        return denial(self.open_invoices(subscription), self.subscription(subscription), moment)

    def renewal_at(self, subscription: int) -> int:
        """Return when something is due for a subscription next."""
        counters = {**self.account.counters, **self.counters} if self.counters else self.account.counters
        return renewal_at(self.subscription(subscription), counters)

    def counter(self, key: CounterKey) -> Counter:
        """Return a counter as it would be."""
        return self.counters.get(key) or self.account.counters.get(key, EMPTY)

    def counters_of(self, subscription: int) -> Iterator[tuple[CounterKey, Counter]]:
        """Return the counters of a subscription by period, those of all time left out; in order."""
        keys = {key for key in (*self.account.counters, *self.counters) if key.subscription == subscription}
        for key in sorted(keys, key=lambda each: (each.period_start, each.feature)):
            if key.period_start != LIFETIME:
                yield key, self.counter(key)

    @property
    def position(self) -> int:
        """Ledger position of the next entry."""
        return self.account.position + len(self._before) + len(self._after) + self._in_event + 1

    # Changing

    def begin_event(self) -> None:
        """Say that what follows comes after the event's own ledger row."""
        self._in_event = True

    def new_number(self) -> int:
        """Return a number for something whose entry follows."""
        return self._number()

    def put_counter(self, key: CounterKey, counter: Counter) -> None:
        """Take a counter's new state."""
        self.counters[key] = counter

    def put_subscription(
        self, subscription: Subscription, cause: Cause, *, at: int, plans: tuple[PricedPlan, ...] | None = None
    ) -> None:
        """Take a subscription's new state, with the plans of its phases where these change, and write it down."""
        if plans is None:
            before, held = self.enrolled(subscription.number)
            known = {
                (each.plan_key, each.plan_version): plan for each, plan in zip(before.phases, held, strict=True)
            }
            plans = tuple(known[each.plan_key, each.plan_version] for each in subscription.phases)
        self.subscriptions[subscription.number] = (subscription, plans)
        self.note(EntryKind.SUBSCRIPTION, cause, at=at, details=json_text(subscription))

    def put_invoice(self, invoice: Invoice) -> None:
        """Take an invoice's new state; its entry is noted by whoever changes it."""
        self.invoices[invoice.number] = invoice

    def note(
        self,
        kind: EntryKind,
        cause: Cause,
        *,
        at: int,
        details: str,
        pool: int | None = None,
        event: int | None = None,
        feature: str | None = None,
        hold: int | None = None,
        reverses: int | None = None,
        space: str = "",
        key: str | None = None,
        number: int | None = None,
    ) -> int:
        """Write an entry that moves no balance; return its number."""
        number = self._number() if number is None else number
        self._append(
            number,
            kind,
            cause,
            pool,
            *(None,) * 5,
            at,
            self.now,
            "[]",
            event,
            feature,
            hold,
            reverses,
            space,
            key,
            details,
        )
        return number

    def _append(self, *fields: Any) -> None:
        (self._after if self._in_event else self._before).append(fields)

    # The outcome

    @property
    def changed(self) -> bool:
        """Whether anything would be written."""
        return bool(self._before or self._after or self.counters)

    def before_event(self) -> tuple[list[Entry], int, bytes]:
        """Return the rows that come before the event's, with the position and chain they lead to."""
        return self._seal(self._before, self.account.position, self.account.chain)

    def finish(self, entries: list[Entry], position: int, link: bytes) -> Changes:
        """Return all changes; `entries`, `position` and `link` are what came before, the event's row included."""
        after, position, link = self._seal(self._after, position, link)
        return Changes(
            entries=[*entries, *after],
            subscriptions=self.subscriptions,
            invoices=self.invoices,
            counters=self.counters,
            position=position,
            chain=link,
        )

    def changes(self) -> Changes:
        """Return all changes of a decision without an event."""
        return self.finish(*self.before_event())

    def _seal(self, pending: list[tuple[Any, ...]], position: int, link: bytes) -> tuple[list[Entry], int, bytes]:
        entries = []
        customer = self.account.customer.number
        for number, *rest in pending:
            position += 1
            fields: tuple[Any, ...] = (number, customer, position, *rest)
            link = chain.link(link, fields)
            entries.append(Entry(*(*fields, link)))
        return entries, position, link
