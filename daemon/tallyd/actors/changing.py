"""How an actor changes its customer's books on purpose: subscriptions, invoices, credits, events taken back."""

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from tallyd.actors import deeds
from tallyd.actors.messages import Accepted, Change, ChangeProfile, Introduce, Refused, Rerate, Subscribe, Void
from tallyd.actors.recording import learn_prices
from tallyd.actors.runtime import Runtime
from tallyd.actors.worker import all_inline
from tallyd.engine import recording, rerating, voiding
from tallyd.engine.account import Account, Changes
from tallyd.engine.credits.draft import Draft
from tallyd.engine.rating import PricedFeature
from tallyd.engine.recording import Denied
from tallyd.engine.rows import ChargeRow
from tallyd.model.problems import ProblemError, not_found
from tallyd.store import event_rows, tables, void_rows

if TYPE_CHECKING:
    from tallyd.actors.customer import CustomerActor


async def change(actor: "CustomerActor", message: Change, account: Account) -> None:
    """Change the books on purpose, or only let time pass."""
    if not account.known:
        text = f"there is no customer {actor.ref.value!r}; it comes to be with its first event or subscription"
        raise not_found(text)
    prepared = None
    if message.prepare is not None:
        await actor.own_commits()
        prepared = await actor.runtime.books.read(message.prepare)
    now = await actor.time_passed(account)
    decide = partial(deeds.change, message, runtime=actor.runtime, now=now, prepared=prepared)
    message.answer, changes = await actor.purely(decide, account)
    made = []
    if changes is not None:
        message.entries = changes.entries
        actor.apply(account, changes)
        made = [changes, *await actor.pass_time(account, now)]
    actor.submit(message, account, made, message.rows(message.answer) if message.rows else None)


async def subscribe(actor: "CustomerActor", message: Subscribe, account: Account) -> None:
    """Put the customer on a plan, with all that has come of it by now."""
    runtime, plan = actor.runtime, message.terms.plan
    if not account.known and not runtime.auto_create_customers:
        raise ProblemError(deeds.unknown_customer(actor.ref))
    now = await actor.time_passed(account)
    if not account.known:
        account.customer = deeds.numbered(account, runtime, now)  # its number is taken, whatever becomes of this
    subscription = deeds.subscription_for(message, account, runtime, now)
    decide = partial(deeds.subscribe, subscription=subscription, plan=plan, runtime=runtime, now=now)
    changes = await actor.purely(decide, account)
    actor.apply(account, changes)
    made = [changes, *await actor.pass_time(account, now)]
    actor.choose_thread(account)
    found = account.subscription(subscription.number)
    message.subscription = subscription if found is None else found[0]
    message.invoices = list({key: each for some in made for key, each in some.invoices.items()}.values())
    actor.submit(message, account, made)


async def introduce(actor: "CustomerActor", message: Introduce, account: Account) -> None:
    """Make the customer known."""
    changes = deeds.introduce(message, account, actor.runtime, actor.ref, actor.now(account))
    actor.apply(account, changes)
    actor.submit(message, account, [changes])


async def change_profile(actor: "CustomerActor", message: ChangeProfile, account: Account) -> None:
    """Change what is known about the customer besides its names."""
    changes = deeds.change_profile(message, account, actor.ref)
    actor.apply(account, changes)
    row = msgspec.structs.astuple(account.customer)
    actor.submit(message, account, [], [(tables.CHANGED_CUSTOMERS, row)])


async def void(actor: "CustomerActor", message: Void, account: Account) -> None:
    """Take an event back, and record another in its place if there is one: both, or neither."""
    runtime = actor.runtime
    await actor.own_commits()
    await actor.with_counters(account, 0)
    query = partial(void_rows.to_void, number=message.event, feature_of=partial(_feature_of, runtime))
    given = await runtime.books.read(query)
    if message.amended is not None:
        await learn_prices(runtime, [message.amended])
    now = await actor.time_passed(account)

    def decide(account: Account) -> Changes:
        return voiding.void(Draft(account, now, runtime.sequences.events.__next__), given, message.reason)

    changes = await actor.purely(decide, account)
    books = account
    if message.amended is not None:
        account = account.copy()  # until the other event is accepted, too
    actor.apply(account, changes)
    made = [changes]
    message.position = changes.position
    if message.amended is not None:
        made += await actor.pass_time(account, now)
        decided = await actor.decide(recording.record, message.amended, account, now)
        if isinstance(decided, Denied):
            message.outcome = Refused(decided.entitlement)
            message.settle()
            return
        message.outcome = Accepted(decided.row, decided.charges, decided.drawn, decided.hold)
        made.append(decided.changes)
        for each in made:
            actor.apply(books, each)
    made += await actor.pass_time(books, now)
    actor.submit(message, books, made)


def _feature_of(runtime: Runtime, charge: ChargeRow) -> PricedFeature | None:
    return runtime.catalogue.plans[charge.plan_key, charge.plan_version].features.get(charge.feature)


async def rerate(actor: "CustomerActor", message: Rerate, account: Account) -> None:
    """Price again an event that had no price; one that was taken back stays as it was."""
    runtime = actor.runtime
    await actor.own_commits()
    if await runtime.books.read(partial(void_rows.is_voided, number=message.event)):
        message.settle()
        return
    await actor.with_counters(account, 0)
    row, charges = await runtime.books.read(partial(event_rows.event_with_charges, number=message.event))
    await learn_prices(runtime, [rerating.event_of(row)])
    latest = runtime.catalogue.latest
    decide = partial(
        rerating.decide,
        row=row,
        charges=charges,
        now=await actor.time_passed(account),
        terms=runtime.catalogue.terms,
    )
    plans = [each.plan for each in account.enrolments]
    if all_inline(runtime.registry, [*plans, *(latest(plan.key) for plan in plans)]):
        changes = decide(account, latest=latest)
    else:
        changes = await runtime.worker.call(
            lambda watch: decide(watch.account(account), latest=watch.latest(latest))
        )
    if changes is None:
        message.settle()
        return
    actor.apply(account, changes)
    message.complete = changes.rerated is not None and changes.rerated.event.no_price is None
    actor.submit(message, account, [changes])
