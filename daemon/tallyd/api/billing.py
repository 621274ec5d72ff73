"""Subscriptions and invoices, whichever contract asks: the actor decides, and the answer is durable."""

import re
import sqlite3
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any, Final, Literal

import msgspec

from tallyd.actors.messages import Change
from tallyd.actors.worker import all_inline
from tallyd.api.entitling import known_account
from tallyd.api.subscribing import find_plan
from tallyd.clock import new_uuid
from tallyd.core import Core
from tallyd.engine.account import Account
from tallyd.engine.billing import changing, paying
from tallyd.engine.billing.invoicing import TO_PAY
from tallyd.engine.billing.previewing import upcoming
from tallyd.engine.credits.draft import Draft
from tallyd.engine.passing import current
from tallyd.engine.rating import PricedPlan
from tallyd.model.customer import CustomerRef, RefKind
from tallyd.model.event import event_number, event_uuid
from tallyd.model.invoice import Invoice, InvoiceKind
from tallyd.model.problems import not_found, unavailable
from tallyd.model.subscription import Subscription
from tallyd.store import event_rows, subscription_rows
from tallyd.store.subscription_rows import InvoiceQuery

ChangeType = Literal["UPGRADE", "DOWNGRADE"]
CancelMode = Literal["END_OF_PERIOD", "IMMEDIATE"]
MONTH_DAYS: Final = Decimal("30.436875")
"""Days of an average month: 400 years of 146,097 days, by 4,800."""

_QUOTED: Final = re.compile(r"INV-(\d{6,15})-(\d{4,15})", re.ASCII)


class Owned(msgspec.Struct, frozen=True):
    """A subscription as it stands now, and whose it is."""

    ref: CustomerRef
    account: Account
    subscription: Subscription


# Finding


async def account_now(core: Core, ref: CustomerRef) -> Account:
    """Return a known customer's books as they are now: what time has done is in them.

    Raises:
        ProblemError: the customer is unknown.
    """
    account = await known_account(core, ref)
    return current(account, core.clock.of(account.customer.id))


async def account_of(core: Core, customer: int) -> tuple[CustomerRef, Account]:
    """Return a customer by row number, its books as they are now."""
    ids = await core.books.read(partial(event_rows.customer_ids, customers=[customer]))
    ref = CustomerRef(RefKind.ID, ids[customer])
    return ref, await account_now(core, ref)


async def find_subscription(core: Core, subscription_id: str) -> Owned:
    """Return a subscription by its id.

    Raises:
        ProblemError: there is none.
    """
    found = await core.books.read(partial(subscription_rows.subscriptions_by_id, ids=[subscription_id]))
    if subscription_id not in found:
        raise not_found(f"there is no subscription {subscription_id!r}")
    number = found[subscription_id].number
    ref, account = await account_of(core, found[subscription_id].customer)
    enrolled = account.subscription(number)
    assert enrolled is not None, "it is the customer's"
    return Owned(ref, account, enrolled[0])


async def find_invoice(core: Core, name: str) -> tuple[CustomerRef, Invoice]:
    """Return an invoice by its id or its number, as it stands once all that is due by now is written.

    Raises:
        ProblemError: there is none.
    """
    query = _invoice_query(name)
    customer = _customer_quoted(name)
    if customer is None and query is not None:
        known = await core.books.read(query)
        customer = None if known is None else known.customer
    ref = None if customer is None else await _known_to_date(core, customer)
    found = None if ref is None or query is None else await core.books.read(query)
    if ref is None or found is None:
        raise not_found(f"there is no invoice {name!r}")
    return ref, found


def _invoice_query(name: str) -> Callable[[sqlite3.Connection], Invoice | None] | None:
    quoted = _QUOTED.fullmatch(name.upper())
    if quoted is not None:
        customer, serial = map(int, quoted.groups())
        return partial(subscription_rows.invoice_by_serial, customer=customer, serial=serial)
    number = event_number(name)
    return None if number is None else partial(subscription_rows.invoice_by_number, number=number)


def _customer_quoted(name: str) -> int | None:
    """Return the customer that a number such as `INV-000012-0003` names; the invoice may not be written yet."""
    quoted = _QUOTED.fullmatch(name.upper())
    return None if quoted is None else int(quoted[1])


async def _known_to_date(core: Core, customer: int) -> CustomerRef | None:
    ids = await core.books.read(partial(event_rows.customer_ids, customers=[customer]))
    return await up_to_date(core, customer) if ids else None


async def up_to_date(core: Core, customer: int) -> CustomerRef:
    """Have all that a customer's actor has decided, and what time has done, written, so that it can be read."""
    ids = await core.books.read(partial(event_rows.customer_ids, customers=[customer]))
    ref = CustomerRef(RefKind.ID, ids[customer])
    account = await known_account(core, ref)
    if account.due_at <= core.clock.of(account.customer.id) or not core.directory.actor(ref).idle:
        await core.intake.ask(ref, Change(lambda _draft, _prepared: None))
    return ref


async def invoices(core: Core, query: InvoiceQuery) -> tuple[list[Invoice], int]:
    """Return a page of invoices, newest first, and how many there are; of one customer, as they stand now."""
    if query.customer is not None:
        await up_to_date(core, query.customer)
    return await core.books.scan(partial(subscription_rows.list_invoices, query=query))


async def subscription_ids(core: Core, found: list[Invoice]) -> dict[int, str]:
    """Return the public ids of invoices' subscriptions, by row number."""
    numbers = {invoice.subscription for invoice in found}
    return await core.books.read(partial(subscription_rows.subscription_ids, numbers=numbers))


# Changing subscriptions


async def change(core: Core, ref: CustomerRef, decide: Callable[[Draft], Any]) -> Any:
    """Have a customer's actor change its books; return what `decide` answers, durably."""
    message = Change(lambda draft, _prepared: decide(draft))
    await core.intake.ask(ref, message)
    return message.answer


async def _act(core: Core, owned: Owned, act: Callable[[Draft, int], None]) -> list[Invoice]:
    """Change a subscription; return the invoices that this makes, and those that it changes."""
    number = owned.subscription.number

    def decide(draft: Draft) -> list[Invoice]:
        act(draft, number)
        return list(draft.invoices.values())

    touched: list[Invoice] = await change(core, owned.ref, decide)
    return touched


async def cancel(core: Core, owned: Owned, mode: CancelMode) -> list[Invoice]:
    """Cancel a subscription; return the invoices that this makes or voids."""
    return await _act(core, owned, changing.cancel_now if mode == "IMMEDIATE" else changing.cancel_at_period_end)


async def revert_cancellation(core: Core, owned: Owned) -> None:
    """Take back a cancellation that has not come yet."""
    await _act(core, owned, changing.revert_cancellation)


async def change_plan(
    core: Core, owned: Owned, plan_key: str, kind: ChangeType | None, field: str = "changeToPlanId"
) -> list[Invoice]:
    """Put a subscription on another plan: an upgrade at once, a downgrade when its period ends.

    Without a kind, a plan that costs less a day is a downgrade, any other an upgrade.

    Returns the invoices that this makes.
    """
    plan, change_id = find_plan(core, plan_key, field), new_uuid()

    def act(draft: Draft, number: int) -> None:
        old = draft.enrolment_at(number, draft.now).plan
        wanted = kind or ("DOWNGRADE" if cheaper(plan, old) else "UPGRADE")
        decide = changing.upgrade if wanted == "UPGRADE" else changing.downgrade
        decide(draft, number, plan, change_id)

    return await _act(core, owned, act)


def cheaper(plan: PricedPlan, than: PricedPlan) -> bool:
    """Return whether a plan's base price is less a day than another's; months have their average length."""
    return plan.price_amount * _interval_days(than) < than.price_amount * _interval_days(plan)


def _interval_days(plan: PricedPlan) -> Decimal:
    return Decimal(plan.interval_days) if plan.interval_days else plan.interval_months * MONTH_DAYS


async def revert_change(core: Core, owned: Owned) -> None:
    """Take back a change of plan that has not come yet."""
    await _act(core, owned, changing.revert_change)


async def pause(core: Core, owned: Owned) -> None:
    """Pause a subscription."""
    await _act(core, owned, changing.pause)


async def resume(core: Core, owned: Owned) -> list[Invoice]:
    """End a pause; return the invoices that this makes."""
    return await _act(core, owned, changing.resume)


# Invoices


async def mark_paid(core: Core, invoice_id: str) -> Invoice:
    """Mark an invoice as paid; harmless to repeat."""
    return await _settle(core, invoice_id, paying.pay)


async def void_invoice(core: Core, invoice_id: str) -> Invoice:
    """Void an invoice that is to be paid."""
    return await _settle(core, invoice_id, paying.void)


async def _settle(core: Core, invoice_id: str, act: Callable[[Draft, Invoice], Invoice]) -> Invoice:
    ref, found = await find_invoice(core, invoice_id)

    def decide(draft: Draft, prepared: Invoice | None) -> Invoice:
        assert prepared is not None, "an invoice does not go away"
        return act(draft, draft.account.invoices.get(found.number) or prepared)

    message = Change(decide, partial(subscription_rows.invoice_by_number, number=found.number))
    await core.intake.ask(ref, message)
    settled: Invoice = message.answer
    return settled


def initial_invoice(owned: Owned) -> str | None:
    """Return the id of the invoice that has to be paid before a subscription gives access; None: there is none."""
    for each in owned.account.invoices.values():
        mine = each.subscription == owned.subscription.number
        if mine and each.kind is InvoiceKind.IN_ADVANCE_INITIAL and each.status in TO_PAY:
            return event_uuid(each.number)
    return None


async def preview(core: Core, owned: Owned) -> Invoice | None:
    """Return the next invoice of a subscription as it would be, made by the code that will make it."""
    runtime, number = core.runtime, owned.subscription.number
    if all_inline(runtime.registry, (each.plan for each in owned.account.enrolments)):
        return upcoming(owned.account, number)
    found = await runtime.worker.call(lambda watch: (upcoming(watch.account(owned.account), number),))
    if found is None:
        raise unavailable("pricing plugins took too long to explain; retry, or see [plugins] budget_ms")
    return found[0]


def line_number(invoice: Invoice, place: str) -> int:
    """Return the number of a line that is named by it, counted from 0, or by the line's id.

    Raises:
        ProblemError: there is none.
    """
    text = place.rpartition("-")[2]
    if not (text.isascii() and text.isdecimal()) or int(text) >= len(invoice.lines):
        raise not_found(f"the invoice has {len(invoice.lines)} lines, counted from 0; there is no line {place!r}")
    return int(text)
