"""Requests about subscriptions and invoices, in the native words, over HTTP and the socket (CONTRACTS 1.3, 1.8).

Each finds what is named, has it changed and answers with how it stands afterwards.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from tallyd.api import billing, entitling
from tallyd.api.billing import CancelMode, ChangeType, Owned
from tallyd.api.billing_views import invoice_view, preview_view, subscription_view
from tallyd.api.wire import Decoder
from tallyd.core import Core
from tallyd.model.customer import CustomerRef
from tallyd.model.invoice import Invoice, InvoiceStatus
from tallyd.model.problems import Code, Problem, ProblemError, invalid, not_found
from tallyd.store import event_rows
from tallyd.store.subscription_rows import InvoiceQuery


class ChangePlanInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Body of POST …/plan-change. `changeToPlanId` takes a plan's key as well.

    Without `changeType` a cheaper plan is a DOWNGRADE, any other an UPGRADE.
    """

    change_to_plan_id: str
    change_type: ChangeType | None = None


decode_change_plan = Decoder(ChangePlanInput)

# Subscriptions


def _subscription(core: Core, owned: Owned) -> dict[str, Any]:
    return subscription_view(owned.account, owned.subscription, core.clock.of(owned.account.customer.id))


async def subscriptions(core: Core, reference: str) -> list[dict[str, Any]]:
    """Return a customer's subscriptions as they stand now, in order.

    Raises:
        ProblemError: the customer is unknown.
    """
    account = await billing.account_now(core, entitling.by_reference(reference))
    now = core.clock.of(account.customer.id)
    return [subscription_view(account, each, now) for each in account.subscriptions()]


async def subscription(core: Core, subscription_id: str) -> dict[str, Any]:
    """Return a subscription as it stands now."""
    return _subscription(core, await billing.find_subscription(core, subscription_id))


async def cancel(core: Core, subscription_id: str, mode: CancelMode) -> dict[str, Any]:
    """Cancel a subscription; return it with the invoices that this made or voided."""
    owned = await billing.find_subscription(core, subscription_id)
    return await _changed(core, subscription_id, await billing.cancel(core, owned, mode))


async def revert_cancellation(core: Core, subscription_id: str) -> dict[str, Any]:
    """Take back a cancellation that has not come yet."""
    await billing.revert_cancellation(core, await billing.find_subscription(core, subscription_id))
    return await _changed(core, subscription_id)


async def change_plan(core: Core, subscription_id: str, sent: ChangePlanInput) -> dict[str, Any]:
    """Put a subscription on another plan; return it with the invoices that this made."""
    owned = await billing.find_subscription(core, subscription_id)
    made = await billing.change_plan(core, owned, sent.change_to_plan_id, sent.change_type)
    return await _changed(core, subscription_id, made)


async def revert_change(core: Core, subscription_id: str) -> dict[str, Any]:
    """Take back a change of plan that has not come yet."""
    await billing.revert_change(core, await billing.find_subscription(core, subscription_id))
    return await _changed(core, subscription_id)


async def pause(core: Core, subscription_id: str) -> dict[str, Any]:
    """Pause a subscription."""
    await billing.pause(core, await billing.find_subscription(core, subscription_id))
    return await _changed(core, subscription_id)


async def resume(core: Core, subscription_id: str) -> dict[str, Any]:
    """End a pause; return the subscription with the invoices that this made."""
    owned = await billing.find_subscription(core, subscription_id)
    return await _changed(core, subscription_id, await billing.resume(core, owned))


async def _changed(core: Core, subscription_id: str, invoices: Sequence[Invoice] = ()) -> dict[str, Any]:
    owned = await billing.find_subscription(core, subscription_id)
    label = owned.account.customer.label
    return {
        "subscription": _subscription(core, owned),
        "invoices": [invoice_view(each, subscription_id, label, items=True) for each in invoices],
    }


async def preview(core: Core, subscription_id: str) -> dict[str, Any] | None:
    """Return the next invoice of a subscription as it will be if nothing happens until then; None: none comes."""
    owned = await billing.find_subscription(core, subscription_id)
    found = await billing.preview(core, owned)
    return None if found is None else preview_view(found, subscription_id, owned.account.customer.label)


# Invoices


async def invoice_page(
    core: Core, ref: CustomerRef | None, status: str | None, *, limit: int, offset: int
) -> tuple[list[dict[str, Any]], int]:
    """Return a page of a customer's invoices as they stand now, newest first, and how many there are.

    Without a customer, of all of them, as they are written.

    Raises:
        ProblemError: the customer is unknown, or the status.
    """
    if status is not None and status not in tuple(InvoiceStatus):
        raise invalid("status", f"must be one of {', '.join(InvoiceStatus)}")
    customer = None if ref is None else (await entitling.known_account(core, ref)).customer.number
    query = InvoiceQuery(customer=customer, status=status, limit=limit, offset=offset)
    found, total = await billing.invoices(core, query)
    return await invoice_views(core, found), total


async def invoice_views(core: Core, found: list[Invoice], *, items: bool = False) -> list[dict[str, Any]]:
    """Return invoices with what their subscriptions and customers go by."""
    subscriptions_ = await billing.subscription_ids(core, found)
    numbers = {each.customer for each in found}
    names = await core.books.read(partial(event_rows.customer_names, numbers=numbers))
    return [
        invoice_view(each, subscriptions_[each.subscription], names[each.customer], items=items) for each in found
    ]


async def invoice(core: Core, name: str, ref: CustomerRef | None = None) -> dict[str, Any]:
    """Return an invoice with its lines, by id or number; given a customer, only one of theirs.

    Raises:
        ProblemError: there is none.
    """
    owner, found = await billing.find_invoice(core, name)
    if ref is not None and owner.customer_id() != ref.customer_id():
        raise not_found(f"{ref.value!r} has no invoice {name!r}")
    return (await invoice_views(core, [found], items=True))[0]


async def mark_paid(core: Core, name: str) -> dict[str, Any]:
    """Mark an invoice as paid, however it was collected; harmless to repeat (CONTRACTS D4)."""
    return (await invoice_views(core, [await billing.mark_paid(core, name)], items=True))[0]


async def void_invoice(core: Core, name: str) -> dict[str, Any]:
    """Void an invoice that is to be paid; its usage is billed by the next one."""
    return (await invoice_views(core, [await billing.void_invoice(core, name)], items=True))[0]


async def activate(core: Core, subscription_id: str) -> dict[str, Any]:
    """Mark a subscription's first invoice as paid, which gives access.

    Raises:
        ProblemError: it has been paid, or there is nothing to pay before access.
    """
    owned = await billing.find_subscription(core, subscription_id)
    await billing.up_to_date(core, owned.subscription.customer)
    unpaid = billing.initial_invoice(await billing.find_subscription(core, subscription_id))
    if unpaid is None:
        text = "the subscription waits for no first payment; it is active, or has ended"
        raise ProblemError(Problem(code=Code.VALIDATION_FAILED, message=text))
    paid = await billing.mark_paid(core, unpaid)
    return await _changed(core, subscription_id, [paid])
