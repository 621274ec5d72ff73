"""Reserving: setting aside, before an expensive call, what it may come to; `recording.settle` is what follows.

A hold is priced by the customer's own plan and weights, exactly as the event will be. What it sets aside counts
against every limit until it is settled, released or expires (P4, P7).
"""

from decimal import Decimal

import msgspec

from tallyd.engine import entitlements, rating
from tallyd.engine.account import Account, Changes
from tallyd.engine.counting import Count
from tallyd.engine.credits.covering import Asked, Cover, cover
from tallyd.engine.credits.draft import Draft
from tallyd.engine.draft import Numbers
from tallyd.engine.rating import Marginal
from tallyd.engine.recording import Denied, Recording
from tallyd.engine.terms import Terms, cost_of_event
from tallyd.model.credits import HeldUnits, Hold, HoldPart, HoldTerms
from tallyd.model.event import UsageEvent
from tallyd.model.ledger_entries import Cause, EntryKind, json_text
from tallyd.model.money import ZERO


class Reserved(msgspec.Struct, frozen=True, gc=False):
    """A hold as the books now have it, the answer that goes with it, and what changes."""

    hold: Hold
    entitlement: entitlements.Entitlement
    changes: Changes


def reserve(
    account: Account,
    event: UsageEvent,
    *,
    ttl: int,
    number: Numbers,
    now: int,
    terms: Terms,
    marginal: Marginal = rating.marginal,
) -> Reserved | Denied:
    """Hold what an event would use, if every limit allows it.

    Args:
        account: the customer's books.
        event: the usage expected at most, with the idempotency key of the hold.
        ttl: how long the hold lasts from now on, in microseconds; longer than nothing.
        number: gives new rows their numbers.
        now: microseconds UTC.
        terms: what holds for all customers.
        marginal: asks a pricing model.
    """
    return _Reserving(account, event, number, now, terms, marginal).reserve(now + ttl)


class _Reserving(Recording):
    """An event that is only expected."""

    __slots__ = ()

    def reserve(self, expires_at: int) -> Reserved | Denied:
        denied = self.refused()
        if denied is not None:
            return denied
        assert self.enrolment is not None, "what is not on a subscription is refused"
        draft = self.draft = self.draft or Draft(self.account, self.now, self.number)
        covers: list[tuple[Count, Cover]] = []
        hold = self._hold(draft, expires_at)
        self.cost = cost_of_event(self.event, self.counts, self.terms)
        for count in self.counts:
            priced = self._estimate(draft, count, expires_at)
            if priced.short or priced.unsure:
                return self._short(count, priced)
            parts = [part for given in priced.given for part in given.take.parts]
            hold = _with_parts(hold, parts)
            draft.put_hold(hold)
            covers.append((count, priced))
        hold = _with_terms(hold, covers)
        draft.put_hold(hold)
        key = self.event.key if self.event.keyed else None
        draft.note(
            EntryKind.HOLD_OPENED,
            Cause.MANUAL,
            at=self.now,
            hold=hold.number,
            number=hold.number,
            feature=hold.terms.feature,
            details=json_text(hold.terms),
            space="hold" if key is not None else "",
            key=key,
        )
        return Reserved(hold, self._answer(draft, covers), draft.changes())

    def _hold(self, draft: Draft, expires_at: int) -> Hold:
        assert self.enrolment is not None, "what is not on a subscription is refused"
        units = [HeldUnits(each.key.feature, each.key.period_start, each.units) for each in self.counts]
        terms = HoldTerms(
            subscription=self.enrolment.subscription.number,
            feature=self.event.feature_key or self.event.name,
            expires_at=expires_at,
            units=[each for each in units if each.units > ZERO],
            currency=self.enrolment.plan.currency,
            price_version=self.enrolment.plan.price_version,
            body=self.event.body,
        )
        return Hold(
            number=draft.new_number(),
            customer=self.account.customer.number,
            opened_at=self.now,
            parts=[],
            units=terms.units,
            key=self.event.key if self.event.keyed else None,
            terms=terms,
        )

    def _estimate(self, draft: Draft, count: Count, expires_at: int) -> Cover:
        """Price one feature's part as the event will be priced."""
        assert self.enrolment is not None, "what is not on a subscription is refused"
        quantity = rating.quantity_of(count.feature, self.event, count.units, self.cost.amount)
        asked = Asked(
            enrolment=self.enrolment,
            feature=count.feature,
            event=self.event,
            units=count.units,
            quantity=quantity,
            rated=count.counter.rated,
            outlive=expires_at,
        )
        covered = cover(draft, asked, self.terms.weights, self.marginal)
        if covered is not None:
            return covered
        amount, no_price = self.marginal(count.feature, count.counter.rated, quantity)
        return Cover.uncovered(quantity, amount, no_price)

    def _answer(self, draft: Draft, covers: list[tuple[Count, Cover]]) -> entitlements.Entitlement:
        """Return how things stand with the hold in place."""
        assert self.enrolment is not None, "what is not on a subscription is refused"
        main = self.event.feature_key or self.event.name
        for count, covered in covers:
            if count.feature.key == main or len(covers) == 1:
                stands = entitlements.decide_granted(
                    self.account, self.enrolment, count.feature, self.now, None, draft
                )
                return msgspec.structs.replace(
                    stands, allowed=True, reason=entitlements.granted_reason(stands), cover=covered
                )
        stands = entitlements.decide(self.account, main, self.now, None, draft)
        return msgspec.structs.replace(stands, allowed=True, reason=entitlements.granted_reason(stands))


def _with_parts(hold: Hold, parts: list[HoldPart]) -> Hold:
    """Add parts to a hold; what it holds of one grant stands together."""
    amounts = {(part.pool, part.grant): part.amount for part in hold.parts}
    for part in parts:
        place = (part.pool, part.grant)
        amounts[place] = amounts.get(place, ZERO) + part.amount
    together = [HoldPart(pool, grant, amount) for (pool, grant), amount in amounts.items()]
    return msgspec.structs.replace(hold, parts=together)


def _with_terms(hold: Hold, covers: list[tuple[Count, Cover]]) -> Hold:
    """Fix in the hold's terms what it sets aside and what it comes to."""
    amounts: list[Decimal | None] = [covered.amount for _, covered in covers]
    known = [amount for amount in amounts if amount is not None]
    terms = msgspec.structs.replace(
        hold.terms,
        parts=hold.parts,
        charge=sum((covered.quote.charge for _, covered in covers), ZERO),
        amount=sum(known, ZERO) if len(known) == len(amounts) else None,
    )
    return msgspec.structs.replace(hold, terms=terms)


__all__ = ["Reserved", "reserve"]
