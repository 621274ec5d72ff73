"""How a checkout session changes: in its customer's own turn, so that it and its invoice change in one commit."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import msgspec
import structlog

from tallyd.actors.messages import Change
from tallyd.core import Core
from tallyd.engine.credits.draft import Draft
from tallyd.model.checkout import CheckoutStatus, HostedCheckout
from tallyd.model.customer import CustomerRef, RefKind
from tallyd.payments.provider import Provider
from tallyd.payments.seam import CheckoutRefused
from tallyd.payments.settling import expired
from tallyd.store import checkout_rows, event_rows, tables
from tallyd.store.checkout_rows import Found
from tallyd.store.tables import Row, Table

AnswerT = TypeVar("AnswerT")

_log = structlog.get_logger(__name__)


def rows_of(*checkouts: HostedCheckout | None) -> list[tuple[Table, Row]]:
    """Return the rows of sessions, those that are None left out."""
    return [(tables.CHECKOUTS, msgspec.structs.astuple(each)) for each in checkouts if each is not None]


async def owner(core: Core, checkout: HostedCheckout) -> CustomerRef:
    """Return whose a session is."""
    ids = await core.books.read(partial(event_rows.customer_ids, customers=[checkout.customer]))
    return CustomerRef(RefKind.ID, ids[checkout.customer])


async def change_checkout(
    core: Core,
    checkout: HostedCheckout,
    decide: Callable[[Draft, Found], tuple[HostedCheckout | None, AnswerT]],
) -> AnswerT:
    """Change a session, and what `decide` changes in the draft, durably.

    Args:
        core: the daemon.
        checkout: the session as it was known.
        decide: given the session and its invoice as they stand, returns the session as it is from now on, None
            when it stays as it was, and an answer.

    Raises:
        ProblemError: what `decide` raised, or overload.
    """

    def in_turn(draft: Draft, found: Found) -> tuple[HostedCheckout | None, AnswerT]:
        invoice = draft.account.invoices.get(found.invoice.number) or found.invoice
        return decide(draft, Found(found.checkout, invoice))

    prepare = partial(checkout_rows.checkout_by_id, checkout_id=checkout.id)
    message = Change(in_turn, prepare, lambda decided: rows_of(decided[0]))
    await core.intake.ask(await owner(core, checkout), message)
    answer: AnswerT = message.answer[1]
    return answer


async def expire(core: Core, checkout: HostedCheckout) -> None:
    """Write down that a session's page is closed, unless it has been paid."""

    def decide(_draft: Draft, found: Found) -> tuple[HostedCheckout | None, None]:
        return expired(found.checkout) if found.checkout.status is CheckoutStatus.PENDING else None, None

    await change_checkout(core, checkout, decide)


async def close_page(core: Core, provider: Provider, checkout: HostedCheckout) -> bool:
    """Have a session's page closed; False when it has been paid, or a payment is on its way.

    Raises:
        CheckoutUnavailable: nothing is known; asking again is safe.
        ProblemError: overload.
    """
    assert checkout.provider_session is not None, "it has a page"
    try:
        closed = await provider.close_session(checkout.provider_session)
    except CheckoutRefused as error:
        _log.warning("the provider knows no such page; it cannot be paid", checkout=checkout.id, reason=str(error))
        closed = True
    if closed:
        await expire(core, checkout)
    return closed
