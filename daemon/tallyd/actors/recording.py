"""How an actor records usage: as a fact, as a request, for a hold; and how it reserves."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from tallyd.actors import deeds
from tallyd.actors.messages import Accepted, Outcome, Record, Refused, Reserve
from tallyd.actors.runtime import Runtime
from tallyd.engine import reserving
from tallyd.engine.account import Account, Changes
from tallyd.engine.recording import Denied
from tallyd.engine.reserving import Reserved
from tallyd.model.credits import HoldStatus
from tallyd.model.event import UsageEvent
from tallyd.model.problems import Code, Problem, ProblemError
from tallyd.store import credit_rows, tables
from tallyd.store.tables import Row, Table

if TYPE_CHECKING:
    from tallyd.actors.customer import CustomerActor

CRASHES_MAX: Final = 2

_POISON: Final = Problem(
    code=Code.POISON,
    message="the event crashed its customer's actor twice and is refused; see the daemon's log",
)


class EventCrashed(Exception):
    """Deciding an event raised something no rule raises: a defect. `index` says which event."""

    def __init__(self, index: int) -> None:
        super().__init__(f"event {index} crashed")
        self.index = index


async def record(actor: "CustomerActor", message: Record, account: Account) -> None:
    """Record events: one answer each, all that are accepted written as one."""
    runtime = actor.runtime
    await learn_prices(runtime, message.events)
    if not account.known and not runtime.auto_create_customers:
        raise ProblemError(deeds.unknown_customer(actor.ref))
    decide = message.decide
    if message.hold is not None:
        decide = partial(decide, written=await _stands(actor, message.hold, account))
    await actor.with_counters(account, min((each.occurred_at for each in message.events), default=0))
    now = await actor.time_passed(account)
    outcomes: list[Outcome] = []
    changes: list[Changes] = []
    for index, event in enumerate(message.events):
        if message.crashes.get(index, 0) >= CRASHES_MAX:
            outcomes.append(_POISON)
            continue
        if account.due_at <= now:  # the one before came late, and is billed at once
            changes += await actor.pass_time(account, now)
        try:
            decided = await actor.decide(decide, event, account, now)
        except ProblemError as error:
            outcomes.append(error.problem)
            continue
        except Exception as error:  # a defect: counted against this event, which twice makes poison
            raise EventCrashed(index) from error
        if isinstance(decided, Denied):
            outcomes.append(Refused(decided.entitlement))
            continue
        actor.apply(account, decided.changes)
        changes.append(decided.changes)
        outcomes.append(Accepted(decided.row, decided.charges, decided.drawn, decided.hold))
    message.outcomes = outcomes
    actor.submit(message, account, changes, _new_features(runtime, changes))


async def _stands(actor: "CustomerActor", hold: int, account: Account) -> HoldStatus:
    """Return where a hold stands; what is neither open nor ended lately has been written long ago."""
    held = account.credits
    if held is not None and hold in held.holds:
        return HoldStatus.HELD
    if held is not None and hold in held.closed:
        return held.closed[hold]
    await actor.own_commits()
    row = await actor.runtime.books.read(partial(credit_rows.hold_by_number, number=hold))
    assert row is not None, f"hold {hold} was found before"
    return row.status


async def learn_prices(runtime: Runtime, events: Sequence[UsageEvent]) -> None:
    """Learn the prices that the events need; again when a reload has thrown them away meanwhile."""
    catalogue = runtime.catalogue
    while needed := {key for event in events if (key := catalogue.price_needed(event)) is not None}:
        for key in needed:
            await catalogue.learn_price(key)


def _new_features(runtime: Runtime, changes: list[Changes]) -> list[tuple[Table, Row]]:
    """Return the rows of features named for the first time, once nothing can crash before they are written."""
    rows: list[tuple[Table, Row]] = []
    for each in changes:
        if each.event is not None and each.event.feature is not None:
            feature = runtime.catalogue.new_feature(each.event.feature)
            if feature is not None:
                rows.append((tables.FEATURES, msgspec.structs.astuple(feature)))
    return rows


async def reserve(actor: "CustomerActor", message: Reserve, account: Account) -> None:
    """Hold what an event would use, or say why it does not fit."""
    await learn_prices(actor.runtime, [message.event])
    decide = partial(reserving.reserve, ttl=message.ttl)
    now = await actor.time_passed(account)
    decided: Reserved | Denied = await actor.decide(decide, message.event, account, now)
    message.outcome = decided
    if isinstance(decided, Denied):
        message.settle()
        return
    actor.apply(account, decided.changes)
    actor.submit(message, account, [decided.changes])
