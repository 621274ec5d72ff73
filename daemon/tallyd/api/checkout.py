"""Hosted checkout: a page for what is to be paid, one at a time for each invoice.

The order of steps is that of `tallyd.payments`: the session is in the books before the provider hears of it, and
what the provider answers is in the books before anybody is given the page.
"""

import sqlite3
from functools import partial
from typing import Any, Final

import msgspec
import structlog

from tallyd.actors.messages import Change
from tallyd.api import billing
from tallyd.api.billing_views import invoice_number
from tallyd.api.checkout_changes import change_checkout, close_page, expire, rows_of
from tallyd.clock import new_uuid
from tallyd.core import Core
from tallyd.engine.billing.invoicing import TO_PAY
from tallyd.engine.credits.draft import Draft
from tallyd.model.checkout import CheckoutStatus, HostedCheckout
from tallyd.model.customer import Customer, CustomerRef
from tallyd.model.event import event_uuid
from tallyd.model.invoice import Invoice, InvoiceKind, InvoiceStatus
from tallyd.model.moments import iso
from tallyd.model.problems import Code, Problem, ProblemError, invalid, not_found, unavailable
from tallyd.payments.provider import Provider
from tallyd.payments.seam import (
    CheckoutLine,
    CheckoutRefused,
    CheckoutRequest,
    CheckoutSession,
    CheckoutUnavailable,
)
from tallyd.payments.settling import expired, fits, major_units, minor_units, to_pay
from tallyd.store import checkout_rows, subscription_rows
from tallyd.store.checkout_rows import Found
from tallyd.store.tables import Row, Table

AMOUNT_MAX: Final = 10**15
"""Minor units; beyond it a person decides how an invoice is paid."""

ROUNDS_MAX: Final = 3
"""How often it is tried again because an invoice or its page has changed meanwhile."""

_decode_profile: Final = msgspec.json.Decoder(dict[str, Any]).decode
_log = structlog.get_logger(__name__)


class _Opening(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to do before somebody can pay.

    Attributes:
        invoice: what is to be paid.
        customer: who pays.
        checkout: the session to use: one whose page is open, or a new one.
        to_close: the session whose page has to be closed first; there is no `checkout` then.
        abandoned: sessions whose page nobody was given, or that another provider made: they are over.
    """

    invoice: Invoice
    customer: Customer
    checkout: HostedCheckout | None = None
    to_close: HostedCheckout | None = None
    abandoned: tuple[HostedCheckout, ...] = ()


# Opening a page


async def checkout_subscription(core: Core, subscription_id: str) -> HostedCheckout:
    """Return a session with a page for a subscription's oldest invoice that is to be paid.

    Raises:
        ProblemError: no provider is set up, it refuses or does not answer; nothing is due.
    """
    _provider(core)
    owned = await billing.find_subscription(core, subscription_id)
    await billing.up_to_date(core, owned.account.customer.number)
    account = await core.directory.account(owned.ref)
    number = owned.subscription.number
    due = [each for each in account.invoices.values() if each.subscription == number and each.status in TO_PAY]
    if not due:
        raise not_found(f"no invoice of subscription {subscription_id} is due")
    oldest = min(due, key=lambda each: each.serial)
    return await _open_page(core, owned.ref, oldest.number)


async def checkout_invoice(core: Core, name: str) -> HostedCheckout:
    """Return a session with a page for one invoice, by its id or number.

    Raises:
        ProblemError: no provider is set up, it refuses or does not answer; nothing is to be paid.
    """
    _provider(core)
    ref, invoice = await billing.find_invoice(core, name)
    return await _open_page(core, ref, invoice.number)


async def with_checkout(core: Core, subscribed: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to POST /subscriptions with a page for its first invoice, when that has to be paid first.

    The subscription stands, whether or not the provider answers: a page can be asked for later.
    """
    invoice = subscribed.get("invoice", {})
    first = (InvoiceKind.IN_ADVANCE_INITIAL, InvoiceStatus.DUE)
    if core.provider is None or (invoice.get("type"), invoice.get("status")) != first:
        return subscribed
    try:
        checkout = await checkout_invoice(core, invoice["id"])
    except ProblemError as error:
        _log.warning("subscribed without a page to pay on", invoice=invoice["id"], problem=error.problem.message)
        return subscribed
    return {**subscribed, "checkoutUrl": checkout.url, "checkoutSessionId": checkout.id}


def _provider(core: Core) -> Provider:
    if core.provider is None:
        text = "no payment provider is set up; name one in tallyd.toml, or mark the invoice as paid"
        raise invalid("payments.provider", text)
    return core.provider


async def _open_page(core: Core, ref: CustomerRef, number: int) -> HostedCheckout:
    """Return a session with an open page for an invoice, by row number; one request at a time asks for it."""
    pair = ("checkout", str(number))
    while (holder := core.opening.claim(pair)) is not None:
        await holder.wait()
    try:
        for _ in range(ROUNDS_MAX):
            checkout = await _open_or_close(core, ref, number)
            if checkout is not None:
                return checkout
    finally:
        core.opening.release([pair])
    raise unavailable("the invoice changes while its page is made; retry shortly")


async def _open_or_close(core: Core, ref: CustomerRef, number: int) -> HostedCheckout | None:
    """Return a session with an open page; None when something was in its way that is gone now."""
    provider = _provider(core)
    opening = await _begin(core, provider, ref, number)
    if opening.to_close is not None:
        await _close_first(core, provider, opening.to_close)
        return None
    checkout = opening.checkout
    assert checkout is not None, "there is a session, or one in its way"
    if checkout.url is not None:
        return checkout
    made = await _make_page(core, provider, opening, checkout)
    return await _keep_page(core, provider, checkout, made)


async def _begin(core: Core, provider: Provider, ref: CustomerRef, number: int) -> _Opening:
    """Find the session whose page is open, or write a new one, durably."""
    checkout_id, now = new_uuid(), core.clock.system.now()

    def prepare(books: sqlite3.Connection) -> tuple[list[Found], Invoice | None]:
        found = checkout_rows.pending_checkouts(books, [number])
        return found, subscription_rows.invoice_by_number(books, number)

    def decide(draft: Draft, prepared: tuple[list[Found], Invoice | None]) -> _Opening:
        found, read = prepared
        invoice = draft.account.invoices.get(number) or read
        assert invoice is not None, "an invoice does not go away"
        if invoice.status not in TO_PAY:
            raise not_found(f"nothing is to be paid on {invoice_number(invoice)}: it is {invoice.status}")
        pending = [each.checkout for each in found]
        return _opening(provider, invoice, draft.account.customer, pending, checkout_id, now)

    def rows(opening: _Opening) -> list[tuple[Table, Row]]:
        new = opening.checkout is not None and opening.checkout.url is None
        return rows_of(*opening.abandoned, opening.checkout if new else None)

    message = Change(decide, prepare, rows)
    await core.intake.ask(ref, message)
    begun: _Opening = message.answer
    return begun


def _opening(
    provider: Provider,
    invoice: Invoice,
    customer: Customer,
    pending: list[HostedCheckout],
    checkout_id: str,
    now: int,
) -> _Opening:
    mine = [each for each in pending if each.provider == provider.name and each.provider_session is not None]
    for checkout in mine:
        if fits(checkout, invoice) and checkout.page_at(now) is not None:
            return _Opening(invoice=invoice, customer=customer, checkout=checkout)
        return _Opening(invoice=invoice, customer=customer, to_close=checkout)
    amount = to_pay(invoice)
    if amount > AMOUNT_MAX:
        raise invalid("amount", "is more than can be paid online; collect it otherwise and mark it as paid")
    checkout = HostedCheckout(
        id=checkout_id,
        customer=invoice.customer,
        invoice=invoice.number,
        provider=provider.name,
        amount=amount,
        currency=invoice.currency,
        created_at=now,
    )
    abandoned = tuple(map(expired, pending))
    return _Opening(invoice=invoice, customer=customer, checkout=checkout, abandoned=abandoned)


async def _close_first(core: Core, provider: Provider, checkout: HostedCheckout) -> None:
    """Close a page that is over or asks for something else, so that nobody pays on two."""
    try:
        closed = await close_page(core, provider, checkout)
    except CheckoutUnavailable as error:
        core.counts.provider_failures += 1
        raise unavailable(f"{error}; retry") from None
    if not closed:
        text = "a payment of this invoice has been made or is on its way; wait until it has come"
        raise ProblemError(Problem(code=Code.CONFLICT, message=text))


async def _make_page(
    core: Core, provider: Provider, opening: _Opening, checkout: HostedCheckout
) -> CheckoutSession:
    request = _request(provider, opening.invoice, opening.customer, checkout)
    try:
        made = await provider.create_session(request)
    except CheckoutRefused as error:
        await expire(core, checkout)
        raise ProblemError(Problem(code=Code.VALIDATION_FAILED, message=str(error))) from None
    except CheckoutUnavailable as error:
        core.counts.provider_failures += 1
        raise unavailable(f"{error}; retry") from None
    core.counts.checkouts += 1
    return made


async def _keep_page(
    core: Core, provider: Provider, checkout: HostedCheckout, made: CheckoutSession
) -> HostedCheckout | None:
    """Write down the page; None when its invoice has been settled or has changed meanwhile."""

    def decide(_draft: Draft, found: Found) -> tuple[HostedCheckout | None, HostedCheckout | None]:
        if found.checkout.status is not CheckoutStatus.PENDING:
            return None, None
        kept = msgspec.structs.replace(
            found.checkout, provider_session=made.provider_session, url=made.url, expires_at=made.expires_at
        )
        return kept, kept if fits(kept, found.invoice) else None

    kept = await change_checkout(core, checkout, decide)
    if kept is None:
        provider.changed.note([checkout.invoice])  # nobody knew the page yet when the invoice changed
    return kept


def _request(
    provider: Provider, invoice: Invoice, customer: Customer, checkout: HostedCheckout
) -> CheckoutRequest:
    profile = _decode_profile(customer.profile) if customer.profile else {}
    lines = [
        CheckoutLine(words=line.words, amount=minor_units(line.amount, invoice.currency)) for line in invoice.lines
    ]
    return CheckoutRequest(
        session=checkout.id,
        invoice=event_uuid(invoice.number),
        title=f"Invoice {invoice_number(invoice)}",
        amount=checkout.amount,
        currency=checkout.currency,
        lines=tuple(lines),
        customer=customer.label,
        email=profile.get("email") or None,
        success_url=provider.success_url,
        cancel_url=provider.cancel_url,
        idempotency_key=checkout.id,
    )


# Looking


async def checkout_view(core: Core, checkout_id: str) -> dict[str, Any]:
    """Return a checkout session as clients see it, as it stands now.

    Raises:
        ProblemError: there is none.
    """
    found = await core.books.read(partial(checkout_rows.checkout_by_id, checkout_id=checkout_id))
    if found is None:
        raise not_found(f"there is no checkout session {checkout_id!r}")
    checkout, invoice, now = found.checkout, found.invoice, core.clock.system.now()
    ids = await billing.subscription_ids(core, [invoice])
    view = {
        "id": checkout.id,
        "purpose": "SUBSCRIPTION" if invoice.kind is InvoiceKind.IN_ADVANCE_INITIAL else "INVOICE",
        "status": checkout.status_at(now),
        "checkoutUrl": checkout.page_at(now),
        "subscriptionId": ids[invoice.subscription],
        "invoiceId": event_uuid(invoice.number),
        "amount": major_units(checkout.amount, checkout.currency),
        "currency": checkout.currency,
        "problem": checkout.problem,
        "createdAt": iso(checkout.created_at),
        "expiresAt": None if checkout.expires_at is None else iso(checkout.expires_at),
        "completedAt": None if checkout.completed_at is None else iso(checkout.completed_at),
    }
    return {name: value for name, value in view.items() if value is not None}


async def pay_url(core: Core, invoice: Invoice) -> str | None:
    """Return where an invoice can be paid now, if somebody has asked for a page; nothing is made for it."""
    if core.provider is None or invoice.status not in TO_PAY:
        return None
    found = await core.books.read(partial(checkout_rows.pending_checkouts, invoices=[invoice.number]))
    now = core.clock.system.now()
    pages = [each.checkout.page_at(now) for each in found if fits(each.checkout, invoice)]
    return next(filter(None, pages), None)
