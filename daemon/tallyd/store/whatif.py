"""What-if over the books: customer by customer, each in one consistent view, its events streamed."""

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import msgspec

from tallyd.engine.account import Counter, CounterKey
from tallyd.engine.billing.stretches import Span, Stretch, runs_in, stretch_of, unsubscribed
from tallyd.engine.billing.whatif import Compared, Comparison, LeftOut, LeftOutReason
from tallyd.engine.rating import PricedPlan
from tallyd.model.customer import Customer
from tallyd.model.periods import Period
from tallyd.model.problems import not_found
from tallyd.store import whatif_rows

PROGRESS_EVERY: Final = 1_000

Plans = Mapping[tuple[str, int], PricedPlan]
"""All versions of all plans, by key and version."""


class Progress(msgspec.Struct, gc=False):
    """How far a what-if has come.

    Attributes:
        customers: dealt with.
        customers_all: asked about.
        events: of the customer who is being dealt with, counted again.
        events_all: of that customer.
    """

    customers: int
    customers_all: int
    events: int = 0
    events_all: int = 0


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked.

    Attributes:
        target: the plan.
        span: the range.
        zone: where customers live who have no subscription.
        on: only subscriptions that were on the plan of this key.
        customers: by the app's id, tallyd's or Stripe's; empty: all who were subscribed in the range or used it.
        offset: how many customers come before the page.
        limit: most customers of the page; None: all.
    """

    target: PricedPlan
    span: Span
    zone: str
    on: str | None = None
    customers: tuple[str, ...] = ()
    offset: int = 0
    limit: int | None = None


class WhatIf:
    """One question put to the books.

    Args:
        connection: a reading connection; a running daemon is not held up.
        question: what is asked.
        plans: all versions of all plans.
        now_of: a customer's now, by customer id, microseconds UTC.
        progress: called now and then; what it raises ends the run.

    Raises:
        ProblemError: a customer asked for by name is not known.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        question: Question,
        *,
        plans: Plans,
        now_of: Callable[[str], int],
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._connection = connection
        self._question = question
        self._plans = plans
        self._now_of = now_of
        self._progress = progress
        self._customers = self._asked()
        self.customers_all = len(self._customers)
        """Customers of all pages."""

    def _asked(self) -> list[int] | memoryview:
        question = self._question
        if not question.customers:
            numbers = whatif_rows.customers_in(self._connection, question.span.widest(), question.on)
            return memoryview(numbers)
        found = whatif_rows.customers_named(self._connection, question.customers)
        unknown = [name for name, number in found.items() if number is None]
        if unknown:
            raise not_found(f"there is no customer {' nor '.join(map(repr, unknown))}")
        return list(dict.fromkeys(number for number in found.values() if number is not None))

    def run(self) -> Iterator[Compared | LeftOut]:
        """Compare the customers of the page, in order; who has nothing to do with the question is passed over."""
        question = self._question
        end = None if question.limit is None else question.offset + question.limit
        page = self._customers[question.offset : end]
        for done, number in enumerate(page):
            self._progress(progress := Progress(done, len(page)))
            with _view(self._connection):
                found = self._customer(whatif_rows.customer_of(self._connection, number), progress)
            if found is not None:
                yield found
        self._progress(Progress(len(page), len(page)))

    def _customer(self, customer: Customer, progress: Progress) -> Compared | LeftOut | None:
        stretches, reason = self._stretches(customer)
        if reason is not None:
            named_only = reason in (LeftOutReason.NOTHING, LeftOutReason.NOT_ON_PLAN)
            return None if named_only and not self._question.customers else LeftOut(customer, reason)
        comparison = Comparison(customer, self._question.target, stretches)
        window = Period(comparison.since, comparison.until)
        progress.events_all = whatif_rows.count_events_of(self._connection, customer.number, window)
        for row in whatif_rows.events_of(self._connection, customer.number, window):
            comparison.event(row)
            progress.events += 1
            if progress.events % PROGRESS_EVERY == 0:
                self._progress(progress)
        compared = comparison.result(self._counters(customer, stretches))
        if not compared.events and not any(each.enrolled[1] for each in stretches):
            return LeftOut(customer, LeftOutReason.NOTHING) if self._question.customers else None
        return compared

    def _stretches(self, customer: Customer) -> tuple[list[Stretch], LeftOutReason | None]:
        """Return the periods to compare, or why there are none."""
        question = self._question
        span, now = question.span, self._now_of(customer.id)
        subscriptions = whatif_rows.subscriptions_of(self._connection, customer.number)
        enrolled = [
            (each, tuple(self._plans[phase.plan_key, phase.plan_version] for phase in each.phases))
            for each in subscriptions
        ]
        found = [stretch_of(each, span, now, question.on) for each in enrolled]
        stretches = [each for each in found if each is not None]
        if stretches:
            currencies = {plan.currency for each in stretches for plan in each.enrolled[1]}
            return stretches, None if currencies == {question.target.currency} else LeftOutReason.CURRENCY
        on = question.on
        ran = [each for each in enrolled if runs_in(each[0], span)]
        if on is not None:
            whole = [each for each in ran if stretch_of(each, span, now) is None]
            was_on = any(phase.plan_key == on for subscription, _ in whole for phase in subscription.phases)
            return [], LeftOutReason.NO_PERIOD if was_on else LeftOutReason.NOT_ON_PLAN
        if ran:
            return [], LeftOutReason.NO_PERIOD
        alone = unsubscribed(customer, question.target, span, question.zone, now)
        return ([], LeftOutReason.NOTHING) if alone is None else ([alone], None)

    def _counters(self, customer: Customer, stretches: list[Stretch]) -> dict[CounterKey, Counter]:
        found: dict[CounterKey, Counter] = {}
        for each in stretches:
            window = Period(each.periods[0].start, each.periods[-1].end)
            number = each.subscription.number
            found |= whatif_rows.counters_of(self._connection, customer.number, number, window)
        return found


@contextmanager
def _view(connection: sqlite3.Connection) -> Iterator[None]:
    """Read one customer in one consistent view, and no longer: the daemon's log can be checkpointed in between."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
