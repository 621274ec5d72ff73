"""The auditor's own view of one customer's credits: where the ledger has led, and what rows should say."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final, Protocol

import msgspec

from tallyd.engine.audit.findings import Findings
from tallyd.engine.rows import ChargeRow, EventRow
from tallyd.model.catalog import CreditModel
from tallyd.model.credits import OVERAGE, GrantTerms, HeldUnits, HoldPart, HoldStatus, HoldTerms
from tallyd.model.ledger_entries import Entry, text
from tallyd.model.money import ZERO

Row = tuple[Any, ...]
Place = tuple[int, int]
"""(pool, grant)."""

NEVER: Final = 2**62
encode: Final = msgspec.json.Encoder(order="deterministic").encode
_decode_terms: Final = msgspec.json.Decoder(GrantTerms, float_hook=Decimal).decode


def _columns(names: str) -> tuple[str, ...]:
    return tuple(names.split())


POOL_COLUMNS: Final = _columns(
    "number customer model_key model name balance overage held overage_held granted consumed expired reversed"
    " frozen archived opened_at modified_at recurred_at topped_up topped_up_in"
)
GRANT_COLUMNS: Final = _columns("number pool customer amount remaining held created_at terms")
HOLD_COLUMNS: Final = _columns("number customer status opened_at closed_at parts units event key terms")
LINK_COLUMNS: Final = _columns(
    "pool subscription customer priority draw_limit drawn drawn_in allocated_in withheld included"
)


class Shelf(Protocol):
    """What the auditor may take from the books while it replays: rows come in order, so few are kept."""

    def grant(self, number: int) -> Row | None:
        """Return the row of a grant; asked in ascending order of number."""

    def hold(self, number: int) -> Row | None:
        """Return the row of a hold; asked in ascending order of number."""

    def grant_again(self, number: int) -> Row | None:
        """Look up the row of a grant that was taken before."""

    def hold_again(self, number: int) -> Row | None:
        """Look up the row of a hold that was taken before."""

    def entry(self, number: int) -> Entry | None:
        """Look up an earlier entry."""

    def invoice(self, number: int) -> Row | None:
        """Return the row of an invoice; asked in ascending order of number."""

    def event(self, number: int) -> EventRow | None:
        """Look up an earlier event."""

    def charges(self, event: int) -> list[ChargeRow]:
        """Look up the charges of an earlier event."""

    def entries_of(self, event: int) -> list[Entry]:
        """Look up the entries an earlier event caused, in order."""

    def beside(self, charge: ChargeRow, *, before: int, ever: bool) -> Iterator[EventRow]:
        """Look up the other events that a charge's counter counts, in order, as of a row number.

        Those past a cap and those voided are left out. `ever`: the counter counts through all periods.
        """


class Pool(msgspec.Struct):
    """A pool as the entries have left it. `back_at` is when credits last came back to it by a reversal.

    `overage_back` is overage that was on invoices which are void now, and has not come back yet.
    """

    number: int
    customer: int
    model: CreditModel
    name: str
    opened_at: int
    modified_at: int
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
    recurred_at: int = 0
    topped_up: int = 0
    topped_up_in: int = 0
    back_at: int = -1
    overage_back: Decimal = ZERO

    def row(self) -> tuple[object, ...]:
        """Return what its row should say."""
        return (
            self.number,
            self.customer,
            self.model.key,
            encode(self.model).decode(),
            self.name,
            self.balance,
            self.overage,
            self.held,
            self.overage_held,
            self.granted,
            self.consumed,
            self.expired,
            self.reversed,
            int(self.frozen),
            int(self.archived),
            self.opened_at,
            self.modified_at,
            self.recurred_at,
            self.topped_up,
            self.topped_up_in,
        )


class Grant(msgspec.Struct):
    """A grant as the entries have left it; `stands` is its row in the books."""

    number: int
    pool: int
    customer: int
    amount: Decimal
    created_at: int
    terms: GrantTerms
    text: str
    stands: Row | None
    remaining: Decimal = ZERO
    held: Decimal = ZERO

    @property
    def free(self) -> Decimal:
        """What no hold has set aside."""
        return self.remaining - self.held

    def row(self) -> tuple[object, ...]:
        """Return what its row should say."""
        amounts = (self.amount, self.remaining, self.held)
        return (self.number, self.pool, self.customer, *amounts, self.created_at, self._terms_text())

    def _terms_text(self) -> str:
        """Return the terms as the entry has them, or as they are written when they were read once (1.5, "1.5")."""
        if self.stands is not None and self.stands[-1] != self.text:
            return encode(_decode_terms(self.text)).decode()
        return self.text


class Hold(msgspec.Struct):
    """A hold as the entries have left it; `stands` is its row in the books."""

    number: int
    customer: int
    opened_at: int
    key: str | None
    terms: HoldTerms
    text: str
    stands: Row | None
    parts: list[HoldPart]
    units: list[HeldUnits]
    status: HoldStatus = HoldStatus.HELD
    closed_at: int | None = None
    event: int | None = None

    def row(self) -> tuple[object, ...]:
        """Return what its row should say."""
        return (
            self.number,
            self.customer,
            self.status.value,
            self.opened_at,
            self.closed_at,
            encode(self.parts).decode(),
            encode(self.units).decode(),
            self.event,
            self.key,
            self.text,
        )


class Link(msgspec.Struct):
    """A pool's link to a subscription as the entries have left it.

    `begins` is the period that has begun and whose credits come next; `loose` is a link made in books that knew no
    invoices, until the next period begins.
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
    begins: int | None = None
    loose: bool = False

    def row(self, allocated_in: int) -> tuple[object, ...]:
        """Return what its row should say; `allocated_in` may have moved on without an entry, where it is loose."""
        limits = (self.draw_limit, self.drawn, self.drawn_in)
        included = self.included if allocated_in == self.allocated_in else ZERO
        state = (allocated_in, int(self.withheld), included)
        return (self.pool, self.subscription, self.customer, self.priority, *limits, *state)


class Used(msgspec.Struct):
    """The customer's last event: whatever it draws comes right after it."""

    event: int = 0
    subscription: int | None = None
    occurred_at: int = 0
    units: dict[str, Decimal] = {}


class Lifted(msgspec.Struct):
    """A hold that is being settled: what it had set aside and nobody has drawn yet."""

    hold: int
    kept: dict[Place, Decimal]


class Wallet:
    """One customer's credits, replayed. Grants with nothing left and holds that ended are let go once compared.

    Attributes:
        customer: row number.
        pools: by number.
        grants: by number.
        holds: open ones, by number.
        links: by (pool, subscription).
        beginning: those whose credits for a period that has begun come next.
        used: the last event.
        lifted: the hold that it settles.
        written_at: when the last entry was written.
        loose_at: when one was written after which something may be due at once.
        period_due: when a link's next period begins.
    """

    __slots__ = (
        "beginning",
        "customer",
        "grants",
        "holds",
        "lifted",
        "links",
        "loose_at",
        "period_due",
        "pools",
        "used",
        "written_at",
    )

    def __init__(self, customer: int) -> None:
        self.customer = customer
        self.period_due = NEVER
        self.written_at = self.loose_at = 0
        self.pools: dict[int, Pool] = {}
        self.grants: dict[int, Grant] = {}
        self.holds: dict[int, Hold] = {}
        self.links: dict[Place, Link] = {}
        self.beginning: set[Place] = set()
        self.used = Used()
        self.lifted: Lifted | None = None

    def set_aside(self, parts: list[HoldPart], sign: int) -> None:
        """Hold parts of grants and of overage, or let them go.

        Raises:
            LookupError: of a pool or grant that is not there.
            ValueError: more than is there.
        """
        for part in parts:
            pool, amount = self.pools[part.pool], sign * part.amount
            if part.amount <= ZERO:
                raise ValueError(f"a part of {part.amount} of grant {part.grant}")
            if part.grant == OVERAGE:
                pool.overage_held += amount
                continue
            grant = self.grants[part.grant]
            grant.held += amount
            pool.held += amount
            if grant.pool != part.pool or not ZERO <= grant.held <= grant.remaining:
                raise ValueError(f"grant {part.grant} would have {grant.held} of {grant.remaining} held")

    def lift(self, hold: Hold) -> Lifted:
        """Free what a hold has set aside, to be drawn by its own event."""
        lifted = self.lifted
        if lifted is None or lifted.hold != hold.number:
            self.set_aside(hold.parts, -1)
            kept = {(part.pool, part.grant): part.amount for part in hold.parts}
            lifted = self.lifted = Lifted(hold.number, kept)
        return lifted

    def drop_held(self, number: int) -> None:
        """Take from holds what they hold of a grant that is gone."""
        for hold in self.holds.values():
            gone = [part for part in hold.parts if part.grant == number]
            if gone:
                self.set_aside(gone, -1)
                hold.parts = [part for part in hold.parts if part.grant != number]

    def left(self) -> Iterator[tuple[str, tuple[str, ...], Row | None, tuple[object, ...]]]:
        """Return the grants and holds that are still there: kind, columns, the row, what it should be."""
        for grant in self.grants.values():
            yield "grant", GRANT_COLUMNS, grant.stands, grant.row()
        for hold in self.holds.values():
            yield "hold", HOLD_COLUMNS, hold.stands, hold.row()


def amount_of(given: str | None) -> Decimal:
    """Read an amount that must be there, written as the books keep it.

    Raises:
        ValueError: it is absent, or written in another way.
    """
    value = Decimal(given) if given is not None else None
    if value is None or text(value) != given:
        raise ValueError(f"{given!r} is no amount")
    return value


def compare(
    findings: Findings,
    place: tuple[str, object],
    columns: tuple[str, ...],
    stands: Row | None,
    should: tuple[object, ...],
) -> bool:
    """Compare a row with what it should be, column by column; return whether all is well.

    Zeros at an amount's end are not looked at: reading a pool from the books drops those of a zero.
    """
    if stands is None:
        findings.add(*place, "is missing")
        return False
    known = len(findings.all)
    for column, left, right in zip(columns, stands, should, strict=True):
        with findings.guard(*place):
            if isinstance(right, Decimal):
                same = amount_of(left) == right
                findings.same(*place, column, left, left if same else text(right))
            else:
                findings.same(*place, column, left, right)
    return len(findings.all) == known
