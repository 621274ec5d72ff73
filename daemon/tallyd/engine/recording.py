"""Recording an event: count it, cost it, charge it, and chain it into the customer's ledger.

This is the decision at the heart of tallyd. It reads an account and returns what changes; nothing is changed
here, so it may be run again, in a thread, or in a simulation.
"""

from typing import Final

import msgspec

from tallyd.engine import chain, charging, costs, counting, entitlements, rating
from tallyd.engine.account import Account, Changes, Counter, CounterKey
from tallyd.engine.billing import revising
from tallyd.engine.counting import Count
from tallyd.engine.credits.burning import Kept
from tallyd.engine.credits.covering import Asked, Cover, Drawn, cover, draw
from tallyd.engine.credits.draft import Draft
from tallyd.engine.credits.giving import top_up
from tallyd.engine.credits.holding import lift, put_down, use_kept
from tallyd.engine.draft import Numbers
from tallyd.engine.entitlements import Reason
from tallyd.engine.rating import Marginal, NoPrice
from tallyd.engine.rollups import rollups_of
from tallyd.engine.rows import ChargeRow, EventRow
from tallyd.engine.terms import Terms, cost_of_event
from tallyd.model.credits import Hold, HoldStatus
from tallyd.model.customer import Customer
from tallyd.model.event import UsageEvent
from tallyd.model.ledger_entries import Entry
from tallyd.model.money import ZERO, plain
from tallyd.model.problems import Code, Problem, ProblemError, invalid

_UNKNOWN_MODEL: Final = NoPrice.UNKNOWN_MODEL


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """The event as the books now have it, and what that changes.

    Attributes:
        row: its ledger row.
        charges: its charges.
        changes: all that changes.
        drawn: what it drew from credit pools.
        hold: the hold it settled, as it stands.
    """

    row: EventRow
    charges: list[ChargeRow]
    changes: Changes
    drawn: list[Drawn] = []
    hold: Hold | None = None


class Denied(msgspec.Struct, frozen=True, gc=False):
    """What does not fit: nothing is recorded, and the answer says why."""

    entitlement: entitlements.Entitlement


def record(
    account: Account,
    event: UsageEvent,
    *,
    number: Numbers,
    now: int,
    terms: Terms,
    marginal: Marginal = rating.marginal,
) -> Recorded | Denied:
    """Decide one event as a fact that happened: zeroed where a cap was already reached.

    Denied only where a hard credit pool has to pay for it and cannot (CONTRACTS B10).
    """
    return Recording(account, event, number, now, terms, marginal).record()


def consume(
    account: Account,
    event: UsageEvent,
    *,
    number: Numbers,
    now: int,
    terms: Terms,
    marginal: Marginal = rating.marginal,
) -> Recorded | Denied:
    """Decide one event as a request: recorded if every limit it touches holds, else refused whole (P4)."""
    recording = Recording(account, event, number, now, terms, marginal)
    return recording.refused() or recording.record(asking=True)


def settle(
    account: Account,
    event: UsageEvent,
    *,
    number: Numbers,
    now: int,
    terms: Terms,
    marginal: Marginal = rating.marginal,
    hold: int,
    final: bool,
    written: HoldStatus,
) -> Recorded | Denied:
    """Decide the usage a hold was made for: a fact, paid from what was set aside first.

    Never capped: its units were admitted when they were held. Denied only where the pool refuses a shortfall; the
    hold stays as it was. A hold that has expired holds nothing: what is reported for it is a plain event.
    `written` is where the hold stands, for one that is not open any more.

    Raises:
        ProblemError: the hold is settled or released.
    """
    return Recording(account, event, number, now, terms, marginal).settle(hold, written, final=final)


class Recording:
    """One event on its way into the books. It reads an account and changes nothing."""

    __slots__ = (
        "account",
        "cost",
        "counts",
        "draft",
        "drawn",
        "enrolment",
        "event",
        "late",
        "marginal",
        "now",
        "number",
        "terms",
    )

    def __init__(
        self, account: Account, event: UsageEvent, number: Numbers, now: int, terms: Terms, marginal: Marginal
    ) -> None:
        self.account = account
        self.event = event
        self.number = number
        self.now = now
        self.terms = terms
        self.marginal = marginal
        assert account.due_at > now, "what time does is done before anything is decided"
        self.draft: Draft | None = None if account.credits is None else Draft(account, now, number)
        self.enrolment = account.enrolment_for(event)
        self.counts = counting.count(account, self.enrolment, event) if self.enrolment else []
        self.late: list[Count] = []
        if self.enrolment is not None and event.occurred_at < self.enrolment.subscription.renewed_to:
            self.late = revising.late_counts(self.enrolment, self.counts, event)
        self.drawn: list[Drawn] = []
        self.cost = costs.CAPPED

    def refused(self) -> Denied | None:
        """Refuse what does not fit a limit, held units included, or would not count where there is one (P4)."""
        account, event, enrolment, draft = self.account, self.event, self.enrolment, self.draft
        denial = account.denied(enrolment.subscription, self.now) if enrolment else None
        for count in self.counts:
            if enrolment and denial is not None:
                stands = entitlements.decide_granted(
                    account, enrolment, count.feature, event.occurred_at, count.units, draft
                )
                return Denied(entitlements.revoked(stands, denial))
            held = draft.held_units(*count.key) if draft is not None else ZERO
            if enrolment and not entitlements.admits(count.feature, count.counter, count.units, held):
                return Denied(
                    entitlements.decide_granted(
                        account, enrolment, count.feature, event.occurred_at, count.units, draft
                    )
                )
            if enrolment and count.feature.meter is None and not count.units:
                stands = entitlements.decide_granted(
                    account, enrolment, count.feature, event.occurred_at, None, draft
                )
                if stands.limit is not None or stands.credit is not None:  # it would be free for ever
                    return Denied(msgspec.structs.replace(stands, allowed=False, reason=Reason.NOT_COUNTED))
        if not _names_a_counted_feature(event, self.counts):
            entitlement = entitlements.decide(
                account, event.feature_key or event.name, event.occurred_at, event.units or ZERO, draft
            )
            if entitlement.allowed and entitlement.limit is not None:  # nothing would count what is admitted (P4)
                entitlement = msgspec.structs.replace(entitlement, allowed=False, reason=Reason.NOT_COUNTED)
            if not entitlement.allowed:
                return Denied(entitlement)
        return None

    def settle(self, number: int, written: HoldStatus, *, final: bool) -> Recorded | Denied:
        """Record the event, paid from what the hold set aside first."""
        draft = self.draft
        hold = draft.hold(number) if draft is not None else None
        status = hold.status if hold is not None else written
        if status in (HoldStatus.SETTLED, HoldStatus.RELEASED):
            text = f"the hold is {status} already; report further usage as an event of its own"
            raise ProblemError(Problem(code=Code.CONFLICT, message=text))
        if draft is None or hold is None or hold.status is not HoldStatus.HELD:
            return self.record(hold=number)
        if self.enrolment is None or self.enrolment.subscription.number != hold.terms.subscription:
            raise invalid("occurredAt", "lies outside the subscription that the hold was made on")
        for count in self.counts:
            count.capped = False
        draft.begin_event()
        kept = lift(draft, hold)
        event_id = self.number()
        denied = self._price(event_id, fact=True, kept=kept, hold=number)
        if denied is not None:
            return denied
        used = {count.feature.key: count.units for count in self.counts}
        settled = put_down(draft, hold, kept, used, event=event_id, final=final)
        recorded = self._write(event_id)
        return msgspec.structs.replace(recorded, hold=settled)

    def record(self, *, asking: bool = False, hold: int | None = None) -> Recorded | Denied:
        """Record the event, unless a hard pool cannot pay for it."""
        if self.draft is not None:
            self.draft.begin_event()
        event_id = self.number()
        denied = self._price(event_id, asking=asking, hold=hold)
        return self._write(event_id) if denied is None else denied

    @property
    def _capped(self) -> bool:
        return bool(self.counts) and all(count.capped for count in self.counts)

    def _price(
        self,
        event_id: int,
        *,
        asking: bool = False,
        fact: bool = False,
        kept: Kept | None = None,
        hold: int | None = None,
    ) -> Denied | None:
        """Find the charge of each feature the event counts in: what credits pay for, and what the plan bills."""
        self.cost = costs.CAPPED if self._capped else cost_of_event(self.event, self.counts, self.terms)
        for count in self.counts:
            if count.capped:
                count.units = ZERO
                count.amount = ZERO
            elif self.event.revenue_amount is None:
                count.quantity = rating.quantity_of(count.feature, self.event, count.units, self.cost.amount)
                if self.draft is None:
                    self._bill(count)
                    continue
                asked = self._asked(count, fact=fact, kept=kept)
                covered = cover(self.draft, asked, self.terms.weights, self.marginal)
                if covered is None:
                    self._bill(count)
                elif covered.short or (covered.unsure and asking):
                    return self._short(count, covered)
                else:
                    self._draw(self.draft, count, asked, covered, event_id, hold)
        return None

    def _bill(self, count: Count) -> None:
        count.amount, count.no_price = self.marginal(count.feature, count.counter.rated, count.quantity)

    def _draw(
        self, draft: Draft, count: Count, asked: Asked, covered: Cover, event_id: int, hold: int | None
    ) -> None:
        count.quantity = covered.rest
        count.amount, count.no_price = covered.amount, covered.no_price
        for each in covered.given:
            if each.covered:
                count.covered = counting.added(count.covered, each.covered)
            count.credited += each.credited
        draw(draft, asked, covered, event=event_id, hold=hold)
        for each in covered.given:
            if asked.kept:
                use_kept(asked.kept, each.take)
            drawn = Drawn(draft.pool(each.take.pool), count.feature.key, each.take.total, covered.quote)
            self.drawn.append(drawn)

    def _asked(self, count: Count, *, fact: bool, kept: Kept | None) -> Asked:
        assert self.enrolment is not None, "what counts is on a subscription"
        return Asked(
            enrolment=self.enrolment,
            feature=count.feature,
            event=self.event,
            units=count.units,
            quantity=count.quantity,
            rated=count.counter.rated,
            kept=kept,
            fact=fact,
        )

    def _short(self, count: Count, covered: Cover) -> Denied:
        assert self.enrolment is not None, "what counts is on a subscription"
        asked = (self.account, self.enrolment, count.feature, self.event.occurred_at, None, self.draft)
        return Denied(entitlements.without_credits(entitlements.decide_granted(*asked), covered))

    def _write(self, event_id: int) -> Recorded:
        """Put the priced event into its ledger row, with all that follows from it."""
        if self.draft is not None:
            for number in dict.fromkeys(each.pool.number for each in self.drawn):
                top_up(self.draft, number, self.now)
        account, event, enrolment, counts, now = self.account, self.event, self.enrolment, self.counts, self.now
        capped, cost = self._capped, self.cost
        revenue, revenue_source = charging.revenue_of(event, counts, capped=capped)
        no_price = _UNKNOWN_MODEL if cost.unknown_model else None
        for count in counts:
            no_price = no_price or count.no_price
        charges = charging.charge_rows(account, event, enrolment, counts, event_id) if enrolment else []
        counters = counting.counters_after(account, event, enrolment, counts)
        if self.late:
            self._follow(counters)
        position, link = account.position, account.chain
        entries: list[Entry] = []
        if self.draft is not None:
            entries, position, link = self.draft.before_event()
        position += 1
        units = charging.units_of(event, counts, capped=capped)
        fields = (
            event_id,
            account.customer.number,
            position,
            event.key_space,
            event.key,
            event.source,
            event.name,
            event.feature_key,
            event.occurred_at,
            now,
            enrolment.subscription.number if enrolment else None,
            plain(units),
            None if cost.amount is None else plain(cost.amount),
            cost.source,
            cost.version.id if cost.version else None,
            None if revenue is None else plain(revenue),
            revenue_source,
            enrolment.plan.currency if enrolment else self.terms.currency,
            no_price,
            1 if capped else 0,
            event.model,
            event.provider,
            event.body,
        )
        link = chain.link(link, fields)
        row = EventRow(*fields, link)
        draft = self.draft
        if draft is not None and draft.changed:
            changes = draft.finish(entries, position, link)
            changes.counters = {**counters, **changes.counters}
        else:
            changes = Changes(counters=counters, position=position, chain=link)
        changes.customer = None if account.known else _with_creation(account.customer, now)
        changes.event = row
        changes.charges = charges
        changes.seen = counting.newly_seen(event, counts)
        changes.rollups = rollups_of(row, event, units, cost, revenue, counts)
        if cost.version:
            changes.price_versions = {cost.version.id: cost.version.content}
        changes.late = bool(self.late)
        return Recorded(row, charges, changes, self.drawn)

    def _follow(self, counters: dict[CounterKey, Counter]) -> None:
        """Put late usage on the invoice of its period where the plan says so and that can still be changed."""
        assert self.enrolment is not None, "what is late is on a subscription"
        start = self.enrolment.segment_at(self.event.occurred_at).start
        for count in self.late:
            key = CounterKey(self.enrolment.subscription.number, count.feature.key, start)
            if count.feature.late_events == "reopen" and key in counters:
                if self.draft is None:
                    self.draft = Draft(self.account, self.now, self.number)
                    self.draft.begin_event()
                self.draft.put_counter(key, counters[key])
                revising.reopen(self.draft, key, in_grace=True)


def _names_a_counted_feature(event: UsageEvent, counts: list[Count]) -> bool:
    if event.feature_key is None:
        return bool(counts)
    return any(count.feature.key == event.feature_key for count in counts)


def _with_creation(customer: Customer, now: int) -> Customer:
    return msgspec.structs.replace(customer, created_at=now)
