"""The engine's credits against the naive books, side by side: a thousand customers, fifty steps each.

A step is one of the operations below at one of the instants below, both taken from a single number, which is cheap
to draw and shrinks to the first entry of each table. After it everything is compared, and everything that must
always hold is asked (P3, P4).
"""

import itertools
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final, TypeVar

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from engine.credits.naive import DAY, SECOND, Books, Feature, Outcome, Refused
from support import account_on, at, event, priced, terms
from tallyd.engine import chain, recording, reserving
from tallyd.engine.account import Account, Changes, apply
from tallyd.engine.credits import giving, granting, holding
from tallyd.engine.credits.book import CreditBook, CreditChanges, book_of
from tallyd.engine.credits.draft import Draft
from tallyd.engine.credits.weights import Weights, new_weight
from tallyd.engine.evaluating import evaluate
from tallyd.engine.passing import current, pass_time
from tallyd.engine.recording import Denied, Recorded
from tallyd.engine.reserving import Reserved
from tallyd.engine.rows import EventRow
from tallyd.model.catalog import CreditModel, CreditWeight, Overage, PlanCredits, Recurring, Rollover, TopUp
from tallyd.model.credits import OVERAGE, Grant, GrantTerms, GrantType, Hold, HoldStatus, Pool
from tallyd.model.event import UsageEvent, event_uuid
from tallyd.model.ledger_entries import TRANSACTIONS, Cause, Entry, EntryKind
from tallyd.model.money import ZERO
from tallyd.model.problems import ProblemError
from tallyd.store import credit_rows

ValueT = TypeVar("ValueT")
D = Decimal
LEAST: Final = 1
POOLS_MAX: Final = 4
MINUTE: Final = 60 * SECOND
BEHAVIORS: Final = ("forgive_at_reset", "invoice_at_billing", "carry_deficit", "carry_deficit_auto_repay")

STARTS_AT: Final = at("2026-01-10T09:30:00Z")
MONTHS: Final = [at(f"{year}-{month:02}-10T00:00:00Z") for year in range(2026, 2034) for month in range(1, 13)]
STARTS: Final = [STARTS_AT, *MONTHS[1:]]
BEGINNINGS: Final = (STARTS_AT, STARTS_AT - DAY, STARTS_AT + 10 * DAY, STARTS_AT + 70 * DAY)

# What steps choose from; the first of each is what a failure shrinks to.
AMOUNTS: Final = tuple(map(D, ("1", "2.5", "7", "10", "0.1")))
JUMPS: Final = (*(0,) * 6, LEAST, MINUTE, 5 * MINUTE, DAY, DAY, 4 * DAY, 35 * DAY, None, None, None)
"""How far time goes on; None: to the next instant at which something is due."""
OCCURRED: Final = (None, None, None, None, -DAY, DAY, -40 * DAY)
LIVES: Final = (None, MINUTE, DAY, 20 * DAY)
TTLS: Final = (5 * MINUTE, SECOND, MINUTE, DAY, 7 * DAY)
LIMITS: Final = (None, None, D(6))
PRIORITIES: Final = (None, 0, 3)
FEATURES: Final = ("a", "b")
KEYS: Final = ("k0", "k1", "k0")

CHARGES: Final = ("units", "units", "price", "nothing")
OVERAGES: Final = (
    None,
    None,
    *(Overage(limit=limit, behavior=behavior) for behavior in BEHAVIORS for limit in (D(5), None)),
)
ROLLOVERS: Final = (
    Rollover(),
    Rollover(policy="FULL"),
    Rollover(policy="CAPPED", cap=D(5)),
    Rollover(policy="PERCENTAGE", percentage=D("33.3"), max_count=2),
    Rollover(policy="FULL", expires_after_days=5),
    Rollover(policy="CAPPED", cap=D(12), max_count=1),
    Rollover(policy="PERCENTAGE", percentage=D(75)),
)
TOP_UPS: Final = (
    None,
    None,
    TopUp(below=D(3), amount=D(4), most_a_month=2),
    TopUp(below=D(5), amount=D(2), most_a_month=1),
)
RECURRINGS: Final = (
    *(None,) * 7,
    *(
        Recurring(amount=D(2), every=every, expires=expires)
        for every in ("week", "month")
        for expires in (True, False)
    ),
    Recurring(amount=D(1), every="day"),
)
SHORTFALLS: Final = ("bill", "waive", "refuse")

CATALOG: Final = """
features = [{ key = "a" }, { key = "b" }]
[[plans]]
key = "plan"
name = "Plan"
[[plans.features]]
feature = "a"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = "0.5", max_usage = LIMIT }
[[plans.features]]
feature = "b"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = "2" }
"""
PLANS: Final = {limit: priced(CATALOG.replace("LIMIT", str(limit or 0))) for limit in (None, 40)}
WEIGHTS: Final = {"a": {None: D("1.5"), "big": D("0.3")}, "b": {}}
TERMS: Final = msgspec.structs.replace(
    terms(),
    weights=Weights(
        new_weight(CreditWeight(feature=feature, model=model, weight=weight), 0, 0)
        for feature, weights in WEIGHTS.items()
        for model, weight in weights.items()
    ),
)
CALL: Final = event(feature_key="a", usage_units=1)

decode_deltas = msgspec.json.Decoder(list[tuple[int, Decimal]]).decode
numbers = st.integers(0, 2**24 - 1)  # up to here Hypothesis prefers no small ones


class Dice:
    """Choices out of one number."""

    def __init__(self, value: int) -> None:
        self.value = value

    def of(self, table: Sequence[ValueT]) -> ValueT:
        """Take one of a table."""
        self.value, index = divmod(self.value, len(table))
        return table[index]


def tried(do: Callable[[], ValueT]) -> tuple[ProblemError | None, ValueT | None]:
    """Do it; return why it is refused, or what comes of it."""
    try:
        return None, do()
    except ProblemError as error:
        return error, None


def told(entry: Entry, pools: dict[int, int], grants: dict[int, int]) -> tuple[Any, ...]:
    """What is compared of an engine's entry: pools and grants by their place."""
    assert entry.pool is not None
    assert entry.amount is not None
    amount = D(entry.amount)
    assert D(entry.balance_before or "") + amount == D(entry.balance_after or "")
    moves = [(grants[grant], moved) for grant, moved in decode_deltas(entry.grants)]
    overage = D(entry.overage_after or "") - D(entry.overage_before or "")
    return entry.kind, entry.cause, pools[entry.pool], entry.at, amount, overage, moves


class CreditMachine(RuleBasedStateMachine):
    """One customer on one plan, in the engine and in the naive books."""

    account: Account
    books: Books

    @initialize(first=numbers, second=numbers)
    def subscribe(self, first: int, second: int) -> None:
        """Begin: a plan with or without credits, at one of several moments of the subscription's life."""
        dice = Dice(first)
        self.now = dice.of(BEGINNINGS)
        limit = dice.of((None, 40))
        per_credit = dice.of((None, D(4), D(3)))
        payer = dice.of((None, None, "k0"))
        months = dice.of((None, 1, 2))
        draw_limit = dice.of(LIMITS)
        amount = dice.of((D(10), D(25)))
        included = PlanCredits(
            credit_model="k0", amount=amount, expires_after_months=months, draw_limit=draw_limit, grant_priority=1
        )
        plan = PLANS[limit]
        feature = msgspec.structs.replace(plan.features["b"], credit_model=payer, units_per_credit=per_credit)
        features = {**plan.features, "b": feature}
        plan = msgspec.structs.replace(plan, features=features, credits=dice.of(((included,), ())))
        self.account = account_on(plan, starts_at=STARTS_AT, anchor_day=10, grace_days=36_500)  # nobody pays here
        self.enrolment = self.account.enrolments[0]
        self.included = {each.credit_model: each for each in plan.credits}
        self.books = Books(
            {
                "a": Feature(D("0.5"), D(limit) if limit else None, WEIGHTS["a"]),
                "b": Feature(D(2), None, WEIGHTS["b"], per_credit, payer),
            },
            STARTS,
        )
        self.number = itertools.count(1).__next__
        self.rows: list[EventRow | Entry] = []
        self.pools: list[int] = []
        self.grants: list[int] = []
        self.holds: list[int] = []
        self.pool_places: dict[int, int] = {}
        self.grant_places: dict[int, int] = {}
        self.transactions: list[Entry] = []
        self.all_grants: dict[int, Grant] = {}
        self.all_holds: dict[int, Hold] = {}
        self.loosened: set[int] = set()
        self.behind = False
        self._include(self._model(Dice(second), Dice(first // 7)))

    # Steps

    @rule(dice=numbers, rules=numbers, more=numbers)
    def open_pool(self, dice: int, rules: int, more: int) -> None:
        """Open another pool, up to four."""
        if len(self.pools) == POOLS_MAX:
            self.link(dice)
            return
        chosen = self._time(dice)
        model = self._model(Dice(rules), Dice(more))
        if chosen.of((0, 1)):
            self._include(model)
            return
        self._both(lambda: self.books.open_pool(model, self.now), lambda draft: granting.open_pool(draft, model))

    @rule(dice=numbers)
    def link(self, dice: int) -> None:
        """Link a pool to the subscription, or change how it is linked."""
        chosen = self._time(dice)
        pool, priority, limit = self._pool(chosen), chosen.of((0, 3)), chosen.of((None, D(6), D(11)))
        key = self.books.pools[pool].model.key
        self._both(
            lambda: self.books.link(
                pool, self.now, priority=priority, draw_limit=limit, included=self.included.get(key)
            ),
            lambda draft: granting.link_pool(
                draft, draft.pool(self.pools[pool]), self.enrolment, priority=priority, draw_limit=limit
            ),
        )

    @rule(dice=numbers)
    def grant(self, dice: int) -> None:
        """Grant credits by hand."""
        chosen = self._time(dice)
        pool, amount, life = self._pool(chosen), chosen.of(AMOUNTS), chosen.of(LIVES)
        ends = None if life is None else self.now + life
        terms_ = GrantTerms(type=GrantType.MANUAL, priority=chosen.of((0, 1)), expires_at=ends)
        self._both(
            lambda: self.books.grant(pool, amount, self.now, priority=terms_.priority, expires_at=ends),
            lambda draft: giving.give(draft, self.pools[pool], amount, terms_, Cause.MANUAL, at=self.now),
        )

    @rule(dice=numbers)
    def deduct(self, dice: int) -> None:
        """Deduct credits by hand."""
        chosen = self._time(dice)
        pool, amount = self._pool(chosen), chosen.of(AMOUNTS)
        self._both(
            lambda: self.books.deduct(pool, amount, self.now),
            lambda draft: granting.deduct(draft, draft.pool(self.pools[pool]), amount),
        )

    @rule(dice=numbers)
    def empty(self, dice: int) -> None:
        """Deduct all that is free, so that a pool is depleted or may be archived."""
        chosen = self._time(dice)
        pool = self._pool(chosen)
        free = self.books.at(self.now).available(pool)
        if free:
            self._both(
                lambda: self.books.deduct(pool, free, self.now),
                lambda draft: granting.deduct(draft, draft.pool(self.pools[pool]), free),
            )

    @rule(dice=numbers)
    def freeze(self, dice: int) -> None:
        """Freeze or unfreeze a pool; seldom archive it."""
        chosen = self._time(dice)
        pool, what = self._pool(chosen), chosen.of(("freeze", "unfreeze", "unfreeze", "archive"))
        if what == "archive":
            self._both(
                lambda: self.books.archive(pool, self.now),
                lambda draft: granting.change_pool(
                    draft, draft.pool(self.pools[pool]), name=None, model=None, archived=True
                ),
            )
            return
        self._both(
            lambda: getattr(self.books, what)(pool, self.now),
            lambda draft: granting.freeze(draft, draft.pool(self.pools[pool]), frozen=what == "freeze"),
        )

    @rule(dice=numbers, rules=numbers, more=numbers)
    def change(self, dice: int, rules: int, more: int) -> None:
        """Change a pool's rules: what is due later follows the new ones."""
        chosen = self._time(dice)
        pool = self._pool(chosen)
        model = self._model(Dice(rules), Dice(more))
        model = msgspec.structs.replace(model, key=self.books.pools[pool].model.key)
        if chosen.of((True, False)):  # overage drawn and held before may be more than is allowed from now on
            model = msgspec.structs.replace(model, overage=self.books.pools[pool].model.overage)
        else:
            self.loosened.add(pool)
        self._both(
            lambda: self.books.change(pool, model, self.now),
            lambda draft: granting.change_pool(draft, draft.pool(self.pools[pool]), name=None, model=model),
        )

    @rule(dice=numbers)
    def reverse(self, dice: int) -> None:
        """Reverse an entry, the latest ones more often; that it was not reversed before is the caller's care."""
        if not self.transactions:
            self.grant(dice)
            return
        chosen = self._time(dice)
        if chosen.of((True, True, False)):
            places = range(max(0, len(self.transactions) - 8), len(self.transactions))
        else:
            places = range(len(self.transactions))
        place = chosen.of(places)
        entry = self.transactions[place]

        def reverse(draft: Draft) -> None:
            touched = [self.all_grants[grant] for grant, _ in decode_deltas(entry.grants)]
            if any(each.reverses == entry.id for each in self.transactions):
                raise granting.conflict("reversed already")
            granting.reverse(
                draft,
                entry,
                {grant.number: grant for grant in touched},
            )

        self._both(lambda: self.books.reverse(place, self.now), reverse)

    @rule(dice=numbers)
    def use(self, dice: int) -> None:
        """Record usage as a fact, or ask for it; what is said before is what happens then."""
        chosen = self._time(dice)
        used = self._event(chosen)
        units, model = used.units or ZERO, used.model
        asked = chosen.of((True, False))
        if asked and used.occurred_at == self.now:
            self._foretell(used)
        decide = recording.consume if asked else recording.record

        def use() -> Outcome:
            return self.books.use(
                used.feature_key or "", units, self.now, occurred_at=used.occurred_at, model=model, asked=asked
            )

        self._usage(use, lambda: decide(self.account, used, number=self.number, now=self.now, terms=TERMS), used)

    @rule(dice=numbers)
    def use_more(self, dice: int) -> None:
        """Use something twice as often as anything else is done."""
        self.use(dice)

    @rule(dice=numbers)
    def reserve(self, dice: int) -> None:
        """Hold what usage may come to."""
        chosen = self._time(dice)
        used = msgspec.structs.replace(self._event(chosen), occurred_at=self.now)
        units, model, ttl = used.units or ZERO, used.model, chosen.of(TTLS)
        self._let_time_pass()
        refusal, _ = self._expect(
            lambda: self.books.hold(used.feature_key or "", units, ttl, self.now, model=model)
        )
        decided = reserving.reserve(self.account, used, ttl=ttl, number=self.number, now=self.now, terms=TERMS)
        assert isinstance(decided, Denied) == (refusal is not None), (refusal, decided)
        if isinstance(decided, Reserved):
            self._write(decided.changes)
            self._within_limit(used)

    @rule(dice=numbers)
    def settle(self, dice: int) -> None:
        """Settle a hold, the latest ones more often, in part or for good; or ask for one that has ended."""
        if not self.holds:
            self.reserve(dice)
            return
        chosen = self._time(dice)
        place = chosen.of(range(max(0, len(self.holds) - 3), len(self.holds)))
        number = self.holds[place]
        feature = self.books.holds[place].feature
        used = msgspec.structs.replace(self._event(chosen), feature_key=feature)
        final = chosen.of((True, False))
        units, model, now = used.units or ZERO, used.model, self.now
        self._usage(
            lambda: self.books.settle(place, units, now, final=final, occurred_at=used.occurred_at, model=model),
            lambda: recording.settle(
                self.account,
                used,
                number=self.number,
                now=now,
                terms=TERMS,
                hold=number,
                final=final,
                written=self.all_holds[number].status,
            ),
            used,
        )

    @rule(dice=numbers)
    def release(self, dice: int) -> None:
        """Release a hold; one that has ended stays as it is."""
        if not self.holds:
            self.reserve(dice)
            return
        chosen = self._time(dice)
        place = chosen.of(range(max(0, len(self.holds) - 3), len(self.holds)))

        def release(draft: Draft) -> None:
            hold = draft.hold(self.holds[place])
            if hold is not None:
                holding.release(draft, hold)

        self._both(lambda: self.books.release(place, self.now), release)

    @rule(dice=numbers)
    def wait(self, dice: int) -> None:
        """Let time pass, and perhaps a timer run."""
        chosen = self._time(dice)
        if chosen.of((True, False)):
            self._both(lambda: self.books.at(self.now), lambda _: None)
        else:
            self.books.at(self.now)

    @rule()
    def restart(self) -> None:
        """Put the credits into rows and read them back: nothing differs."""
        before = self.account.credits
        if before is None:
            return
        every = [grant for grants in before.grants.values() for grant in grants.values()]
        every.sort(key=lambda grant: grant.number)
        links = [before.links[key] for key in sorted(before.links)]
        after = book_of(
            [credit_rows.pool_of(credit_rows.pool_row(pool)) for pool in before.pools.values()],
            [credit_rows.grant_of(credit_rows.grant_row(grant)) for grant in every],
            [credit_rows.hold_of(credit_rows.hold_row(hold)) for hold in before.holds.values()],
            [credit_rows.link_of(credit_rows.link_row(link)) for link in links],
            before.due_at,
        )
        assert in_order(after) == in_order(before)
        self.account.credits = after

    # What must always hold

    @invariant()
    def agree(self) -> None:
        """Pools, grants and holds are the naive ones, and so are the entries, with those that time would make."""
        if not hasattr(self, "books"):
            return
        self.books.at(self.now)
        draft, ahead, ended = self._ahead()
        places = self.grant_places
        if self.behind:
            places = dict(places)
            pending = [each for each in ahead if each.kind in TRANSACTIONS]
            for entry in pending:
                if makes_grant(entry):
                    places[entry.id] = len(places)
            self._compare(pending, places)
        else:
            assert self.account.due_at > self.now, "nothing is due that should have happened"
            assert len(self.books.entries) == len(self.transactions)
        for place, number in enumerate(self.pools):
            self._agree_on(place, number, draft, places)
        held = {hold.number: hold for hold in draft.open_holds()}
        for place, number in enumerate(self.holds):
            kept, hold = self.books.holds[place], held.get(number) or ended.get(number) or self.all_holds[number]
            assert (kept.status, kept.closed_at) == (hold.status, hold.closed_at)
            parts = [
                (self.pool_places[p], None if g == OVERAGE else places[g], a)
                for p, g, a in map(msgspec.structs.astuple, hold.parts)
            ]
            assert [(part.pool, part.grant, part.amount) for part in kept.parts] == parts
            if hold.status is HoldStatus.HELD:
                assert sum((each.units for each in hold.units), ZERO) == kept.units

    def _agree_on(self, place: int, number: int, draft: Draft, places: dict[int, int]) -> None:
        """One pool: P3, P4, and the naive one."""
        pool, books = draft.pool(number), self.books
        grants = draft.grants_of(number)
        assert pool.balance == sum((grant.remaining for grant in grants), ZERO)
        assert pool.balance == pool.granted - pool.consumed - pool.expired + pool.reversed
        assert pool.held == sum((grant.held for grant in grants), ZERO)
        assert ZERO <= pool.held <= pool.balance
        assert pool.overage >= ZERO
        assert pool.overage_held >= ZERO
        rule = pool.model.overage
        allowed = ZERO if rule is None else rule.limit
        assert allowed is None or pool.overage + pool.overage_held <= allowed or place in self.loosened
        assert pool.balance == books.balance(place)
        assert pool.overage == books.overage(place)
        assert pool.held == books.held(place)
        assert pool.status == books.status(place)
        totals = books.totals(place)
        assert totals == {name: getattr(pool, name) for name in totals}
        mine = [grant for grant, kept in enumerate(books.grants) if kept.pool == place]
        left = [(grant, remaining) for grant in mine if (remaining := books.remaining(grant))]
        assert [(places[grant.number], grant.remaining) for grant in grants] == left
        for grant in grants:
            kept = books.grants[places[grant.number]]
            terms_, parent = grant.terms, grant.terms.parent
            assert (kept.type, kept.priority, kept.expires_at) == (terms_.type, terms_.priority, terms_.expires_at)
            assert kept.rollovers == terms_.rollovers
            assert kept.parent == (None if parent is None else places[parent])
            assert grant.free == books.free(places[grant.number])
            assert grant.live_at(self.now)

    def teardown(self) -> None:
        """Verify the chain from its beginning: every row, in its place (P10)."""
        if not hasattr(self, "books"):
            return
        link = chain.GENESIS
        for position, row in enumerate(self.rows, start=1):
            *fields, hashed = msgspec.structs.astuple(row)
            link = chain.link(link, tuple(fields))
            assert (row.position, hashed) == (position, link)
        assert (self.account.position, self.account.chain) == (len(self.rows), link)

    # Choosing

    def _time(self, dice: int) -> Dice:
        """Let time pass, and return what is left to choose with."""
        chosen, self.behind = Dice(dice), True
        jump = chosen.of(JUMPS)
        if jump is None:
            due = min(self.books._due(), default=self.now) - chosen.of((0, 0, LEAST))
            self.now = max(self.now, due)
        else:
            self.now += jump
        return chosen

    def _pool(self, chosen: Dice) -> int:
        return chosen.of(range(len(self.pools)))

    def _event(self, chosen: Dice) -> UsageEvent:
        feature, units = chosen.of(FEATURES), chosen.of(AMOUNTS)
        model, away = chosen.of((None, "big")), chosen.of(OCCURRED)
        happened = self.now + (away or 0)
        return msgspec.structs.replace(
            CALL, key=f"key-{len(self.rows)}", feature_key=feature, units=units, model=model, occurred_at=happened
        )

    def _model(self, dice: Dice, more: Dice) -> CreditModel:
        return CreditModel(
            charge=dice.of(CHARGES),
            hard_limit=dice.of((True, False)),
            rollover=dice.of(ROLLOVERS),
            overage=dice.of(OVERAGES),
            on_shortfall=dice.of(SHORTFALLS),
            precision=dice.of((None, None, 2, 0)),
            burn_order=dice.of(("expiry", "fifo")),
            features=dice.of(([], [], ["a"])),
            key=more.of(("k0", "k1")),
            draw_priority=more.of((0, 1, 2)),
            expires_after_days=more.of((None, None, 3, 40)),
            top_up=more.of(TOP_UPS),
            recurring=more.of(RECURRINGS),
            low_at=more.of((None, D(4))),
        )

    # Doing

    def _expect(self, do: Callable[[], ValueT]) -> tuple[str | None, ValueT | None]:
        """Do it in the naive books; return why it is refused, or what comes of it."""
        try:
            return None, do()
        except Refused as refused:
            return str(refused), None

    def _both(self, naive: Callable[[], object], engine: Callable[[Draft], object]) -> None:
        """Do it in the naive books and in the engine; both do it, or neither does."""
        self._let_time_pass()
        refusal, _ = self._expect(naive)
        draft = Draft(self.account, self.now, self.number)
        problem, _ = tried(lambda: engine(draft))
        assert (problem is None) == (refusal is None), problem or refusal
        if problem is None and draft.changed:
            self._write(draft.changes())

    def _include(self, model: CreditModel) -> None:
        """Give what the plan includes, as subscribing does; else open a pool."""
        included = self.included.get(model.key)
        there = [number for number, pool in enumerate(self.books.pools) if pool.model.key == model.key]
        there = [number for number in there if not self.books.pools[number].archived]

        def naive() -> None:
            pool = there[0] if there and included else self.books.open_pool(model, self.now)
            if included:
                priority = included.draw_priority
                if priority is None:
                    priority = model.draw_priority
                self.books.link(
                    pool, self.now, priority=priority, draw_limit=included.draw_limit, included=included
                )

        def engine(draft: Draft) -> None:
            if included:
                granting.include(draft, self.enrolment, included, model)
            else:
                granting.open_pool(draft, model)

        self._both(naive, engine)

    def _usage(
        self, naive: Callable[[], Outcome], engine: Callable[[], Recorded | Denied], used: UsageEvent
    ) -> None:
        """Record usage in both, and compare who pays."""
        self._let_time_pass()
        refusal, outcome = self._expect(naive)
        problem, decided = tried(engine)
        if decided is None:
            assert refusal in {"conflict", "invalid"}, problem
            return
        if isinstance(decided, Denied):
            assert refusal in {"limit", "credits"}, decided
            return
        assert outcome is not None, refusal
        self._write(decided.changes)
        drawn = {self.pool_places[each.pool.number]: each.total for each in decided.drawn if each.total}
        assert outcome.drawn == drawn
        assert outcome.capped == bool(decided.row.capped)
        billed = sum((D(each.amount or 0) for each in decided.charges), ZERO)
        assert outcome.billed == billed
        assert len(decided.charges) == (used.occurred_at >= STARTS_AT)

    def _foretell(self, used: UsageEvent) -> None:
        """Say whether usage will be let in, as an evaluate does."""
        feature, units = used.feature_key or "", used.units or ZERO
        before = in_order(self.account.credits or CreditBook())
        answer = evaluate(self.account, feature, used, units, now=self.now, terms=TERMS)
        foretold = self.books.at(self.now).allowed(feature, units, used.model)
        decided = recording.consume(current(self.account, self.now), used, number=LATER, now=self.now, terms=TERMS)
        assert isinstance(decided, Recorded) == foretold
        assert answer.allowed == foretold, answer
        assert in_order(self.account.credits or CreditBook()) == before

    def _within_limit(self, used: UsageEvent) -> None:
        """P4: what was admitted and what is held are together within the limit."""
        for key, limit in (("a", self.books.features["a"].limit),):
            if limit is not None and used.feature_key == key:
                feature = self.enrolment.plan.features[key]
                counter = self.enrolment.counter_key(feature, used.occurred_at)
                assert self.account.credits is not None
                held = self.account.credits.held_units.get(counter, ZERO)
                assert self.account.counter(counter).used + held <= limit

    # Keeping

    def _let_time_pass(self) -> None:
        """Write what time has done, as the actor does before it decides."""
        self.books.at(self.now)
        while (changes := pass_time(self.account, self.now, self.number)) is not None:
            self._write(changes)
        self.behind = False

    def _ahead(self) -> tuple[Draft, list[Entry], dict[int, Hold]]:
        """Return how things stand now, with the entries that time alone would make and the holds it would end."""
        account, entries, holds = self.account.copy(), list[Entry](), dict[int, Hold]()
        while (changes := pass_time(account, self.now, LATER)) is not None:
            apply(account, changes)
            entries += changes.entries
            holds |= changes.credits.holds if changes.credits is not None else {}
        return Draft(account, self.now, LATER), entries, holds

    def _write(self, changes: Changes) -> None:
        """Apply a decision's changes and keep its rows, as the actor and the store do."""
        made = changes.credits
        rows: list[EventRow | Entry] = [*changes.entries]
        if changes.event is not None:
            rows.append(changes.event)
            rows.sort(key=lambda row: row.position)
        self.rows += rows
        before = {} if self.account.credits is None else self.account.credits.pools.copy()
        apply(self.account, changes)
        self.behind = False
        if made is not None:
            self._compare_alerts(made, before)
            self._keep(made, changes.entries)

    def _keep(self, made: CreditChanges, entries: list[Entry]) -> None:
        self.all_grants.update(made.grants)
        for number, hold in made.holds.items():
            if number not in self.all_holds:
                self.holds.append(number)
            self.all_holds[number] = hold
        for entry in entries:
            if entry.kind == EntryKind.POOL_OPENED:
                self.pool_places[entry.id] = len(self.pools)
                self.pools.append(entry.id)
            elif makes_grant(entry):
                self.grant_places[entry.id] = len(self.grants)
                self.grants.append(entry.id)
        transactions = [entry for entry in entries if entry.kind in TRANSACTIONS]
        self._compare(transactions, self.grant_places)
        self.transactions += transactions

    def _compare(self, entries: list[Entry], places: dict[int, int]) -> None:
        """New entries are those that the naive books have beyond the ones compared before."""
        expected = [
            (each.kind, each.cause, each.pool, each.at, each.amount, each.overage, each.grants)
            for each in self.books.entries[len(self.transactions) :]
        ]
        assert [told(entry, self.pool_places, places) for entry in entries] == expected

    def _compare_alerts(self, made: CreditChanges, pools: dict[int, Pool]) -> None:
        """A decision that leaves a balance below its mark, or at nothing, says so."""
        expected = set()
        for number, after in made.pools.items():
            before = pools[number].balance if number in pools else ZERO
            if before > after.balance == ZERO:
                expected.add(("credit.depleted", event_uuid(number)))
            elif after.model.low_at is not None and before >= after.model.low_at > after.balance:
                expected.add(("credit.balance_low", event_uuid(number)))
        alerts = [(alert.type, msgspec.json.decode(alert.body)["poolId"]) for alert in made.alerts]
        assert len(alerts) == len(expected)
        assert set(alerts) == expected


LATER: Final = itertools.count(1 << 62).__next__
"""Numbers of what is only thought of."""


def makes_grant(entry: Entry) -> bool:
    """Whether a grant has the entry's number."""
    return entry.kind == EntryKind.GRANT or entry.cause == Cause.ROLLOVER


def in_order(book: CreditBook) -> list[object]:
    """All of a book, in the order it is asked in."""
    return [
        list(book.pools.items()),
        [(pool, list(grants.items())) for pool, grants in sorted(book.grants.items()) if grants],
        list(book.holds.items()),
        sorted(book.links.items()),
        sorted(book.held_units.items()),
        book.due_at,
    ]


CreditMachine.TestCase.settings = settings(
    max_examples=1000,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # the time is that of the rules, not of the choosing
)
TestCreditMachine = CreditMachine.TestCase
