"""The nouns of credits: pools, the grants in them, and holds on them.

A pool's balance is what its grants have left. Everything that happens to pools, grants and holds is an entry in
the customer's ledger (`ledger_entries`); the Structs here are where the entries have led to, and `tallyd verify`
derives them again. Amounts are exact decimals, never rounded unless the credit model gives a `precision`. Times
are microseconds UTC.
"""

from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

import msgspec

from tallyd.model.catalog import CreditModel
from tallyd.model.money import ZERO

OVERAGE: Final = 0
"""In place of a grant's number: what a hold holds of a pool's overage."""


class PoolStatus(StrEnum):
    """What a pool may do (seed 001). DEPLETED: a hard pool at zero; a grant makes it ACTIVE again."""

    ACTIVE = "ACTIVE"
    FROZEN = "FROZEN"
    DEPLETED = "DEPLETED"
    ARCHIVED = "ARCHIVED"


class GrantType(StrEnum):
    """Where credits come from (CONTRACTS 1.7)."""

    PLAN_INCLUDED = "PLAN_INCLUDED"
    PURCHASED = "PURCHASED"
    PROMOTIONAL = "PROMOTIONAL"
    REFUND = "REFUND"
    SYSTEM = "SYSTEM"
    ROLLOVER = "ROLLOVER"
    MANUAL = "MANUAL"


class HoldStatus(StrEnum):
    """Where a hold stands. It ends in one of the last three, once."""

    HELD = "HELD"
    SETTLED = "SETTLED"
    RELEASED = "RELEASED"
    EXPIRED = "EXPIRED"


class GrantTerms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What is fixed about a grant when it is made: `details` of its entry.

    Attributes:
        type: where the credits come from.
        priority: lower is drawn first.
        expires_at: from this instant on it pays for nothing; None: never.
        description: for people.
        metadata: the app's own.
        unit_price: what one credit was sold for.
        currency: of `unit_price`.
        subscription: row number of the subscription whose plan includes it.
        period_start: the period it was included for.
        parent: number of the grant it was carried over from.
        rollovers: how many times it was carried over.
    """

    type: GrantType
    priority: int = 0
    expires_at: int | None = None
    description: str | None = None
    metadata: dict[str, Any] | None = None
    unit_price: Decimal | None = None
    currency: str | None = None
    subscription: int | None = None
    period_start: int | None = None
    parent: int | None = None
    rollovers: int = 0


class Grant(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Credits given at once.

    Attributes:
        number: that of the entry that made it.
        pool: number of its pool.
        customer: row number of the customer.
        amount: given.
        remaining: not yet drawn, expired or taken back.
        held: of `remaining`, set aside by holds.
        created_at: when it counts as given.
        terms: what is fixed about it.
    """

    number: int
    pool: int
    customer: int
    amount: Decimal
    remaining: Decimal
    held: Decimal = ZERO
    created_at: int
    terms: GrantTerms

    @property
    def free(self) -> Decimal:
        """What may be drawn or held."""
        return self.remaining - self.held

    def live_at(self, moment: int) -> bool:
        """Whether it pays at the instant: not from its expiry on (P7)."""
        return self.terms.expires_at is None or moment < self.terms.expires_at


class Pool(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A named balance of a customer.

    Balance = granted - consumed - expired + reversed, always, and equals what its grants have left (P3).

    Attributes:
        number: that of the entry that opened it.
        customer: row number of the customer.
        model: its rules: the credit model as it was when the pool was opened, or as the pool was changed since.
        name: for people.
        balance: never negative.
        overage: drawn beyond the balance, where the model allows it.
        held: of the balance, set aside by holds.
        overage_held: of the overage still allowed, set aside by holds.
        granted: lifetime total.
        consumed: lifetime total of deductions and repaid overage.
        expired: lifetime total.
        reversed: lifetime total of reversals: what came back, less what was taken back.
        frozen: gives nothing, but what is held already.
        archived: takes and gives nothing any more.
        opened_at: when it was opened.
        modified_at: when an entry last changed it.
        recurred_at: the last recurring top-up, or 0.
        topped_up: threshold top-ups in the calendar month `topped_up_in`.
        topped_up_in: start of that month.
    """

    number: int
    customer: int
    model: CreditModel
    name: str
    balance: Decimal = ZERO
    overage: Decimal = ZERO
    held: Decimal = ZERO
    overage_held: Decimal = ZERO
    granted: Decimal = ZERO
    consumed: Decimal = ZERO
    expired: Decimal = ZERO
    reversed: Decimal = ZERO
    frozen: bool = False
    archived: bool = False
    opened_at: int
    modified_at: int
    recurred_at: int = 0
    topped_up: int = 0
    topped_up_in: int = 0

    @property
    def status(self) -> PoolStatus:
        """Return what the pool may do."""
        if self.archived:
            return PoolStatus.ARCHIVED
        if self.frozen:
            return PoolStatus.FROZEN
        if self.model.hard_limit and self.balance <= ZERO and self.headroom == ZERO:
            return PoolStatus.DEPLETED
        return PoolStatus.ACTIVE

    @property
    def overage_currency(self) -> str | None:
        """The currency in which overage is invoiced at a period's end; None: it is not."""
        rule = self.model.overage
        if rule is None or rule.behavior != "invoice_at_billing" or rule.price_per_unit is None:
            return None
        return rule.currency

    @property
    def available(self) -> Decimal:
        """The balance less what is held."""
        return self.balance - self.held

    @property
    def headroom(self) -> Decimal | None:
        """Overage still allowed; None for any amount."""
        overage = self.model.overage
        if overage is None:
            return ZERO
        if overage.limit is None:
            return None
        return max(ZERO, overage.limit - self.overage - self.overage_held)


class Link(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How a subscription draws from a pool. Every pool serves all subscriptions of its customer.

    Attributes:
        pool: number of the pool.
        subscription: row number of the subscription.
        customer: row number of the customer.
        priority: lower is drawn first.
        draw_limit: most credits the subscription may draw in one of its periods; None for any, 0 for none.
        drawn: credits drawn in the period `drawn_in`.
        drawn_in: start of that period.
        allocated_in: start of the last period that was begun; -1 before the first.
        withheld: whether that period's included credits wait for access to come back.
        included: credits that have come in that period because plans include them.
    """

    pool: int
    subscription: int
    customer: int
    priority: int = 0
    draw_limit: Decimal | None = None
    drawn: Decimal = ZERO
    drawn_in: int = -1
    allocated_in: int = -1
    withheld: bool = False
    included: Decimal = ZERO


class HoldPart(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a hold has set aside of one grant; `grant` is `OVERAGE` for what it may draw beyond the balance."""

    pool: int
    grant: int
    amount: Decimal


class HeldUnits(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Units a hold has set aside of one counter's limit."""

    feature: str
    period_start: int
    units: Decimal


class HoldTerms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What is fixed about a hold when it is made, and what it sets aside first: `details` of its entry.

    Attributes:
        subscription: row number of the subscription.
        feature: the feature it is for.
        expires_at: from this instant on it holds nothing.
        parts: credits set aside.
        units: units set aside of limits.
        charge: credits the estimate comes to; more than the parts' sum where a soft pool gives what it has.
        amount: what the plan would charge for what credits do not cover; None while unpriced.
        currency: of `amount`.
        price_version: `plan@version`.
        body: canonical JSON of what was asked.
    """

    subscription: int
    feature: str
    expires_at: int
    parts: list[HoldPart] = []
    units: list[HeldUnits] = []
    charge: Decimal = ZERO
    amount: Decimal | None = None
    currency: str
    price_version: str
    body: str


class Hold(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Credits and units set aside until the usage is known (P4).

    Attributes:
        number: that of the entry that opened it.
        customer: row number of the customer.
        status: where it stands.
        opened_at: when it was made.
        closed_at: when it ended; an expired one at its expiry.
        parts: credits still set aside.
        units: units still set aside.
        event: the event it was last settled by.
        key: idempotency key it was asked for with.
        terms: what is fixed about it.
    """

    number: int
    customer: int
    status: HoldStatus = HoldStatus.HELD
    opened_at: int
    closed_at: int | None = None
    parts: list[HoldPart]
    units: list[HeldUnits]
    event: int | None = None
    key: str | None = None
    terms: HoldTerms

    @property
    def credits(self) -> Decimal:
        """Credits still set aside."""
        return sum((part.amount for part in self.parts), ZERO)

    def units_of(self, feature: str, period_start: int) -> Decimal:
        """Units still set aside of one counter's limit."""
        if self.status is not HoldStatus.HELD:
            return ZERO
        mine = (each for each in self.units if each.feature == feature and each.period_start == period_start)
        return sum((each.units for each in mine), ZERO)
