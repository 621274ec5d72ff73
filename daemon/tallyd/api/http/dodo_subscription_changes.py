"""What PATCH does to a subscription: cancel, pause, resume, and keep what the app says of it (CONTRACTS 2.5)."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from tallyd.api.http.dodo import UNPROCESSABLE, DodoProblem
from tallyd.api.http.dodo_subscription_inputs import Address, check_address, refuse_what_is_not_here
from tallyd.api.http.dodo_subscription_views import Status, status_of
from tallyd.engine.billing import changing
from tallyd.engine.credits.draft import Draft
from tallyd.model.ledger_entries import Cause
from tallyd.model.problems import Code, ProblemError, invalid

INACTIVE: Final = "SUBSCRIPTION_INACTIVE"
_ALONE: Final = frozenset({Status.PAUSED, Status.ACTIVE})


class SubscriptionChange(msgspec.Struct, frozen=True, kw_only=True):
    """Body of PATCH /subscriptions/{id}. Why somebody cancels may be said, and is not kept."""

    cancel_at_next_billing_date: bool | None = None
    status: str | None = None
    pause: bool | None = None
    metadata: dict[str, Any] | None = None
    billing: Address | None = None
    cancel_reason: str | None = None
    cancellation_comment: str | None = None
    cancellation_feedback: str | None = None
    next_billing_date: str | None = None
    credit_entitlement_cart: list[Any] | None = None
    disable_on_demand: dict[str, Any] | None = None
    subscription_period_count: int | None = None
    subscription_period_interval: str | None = None
    customer_name: str | None = None
    customer_business_name: str | None = None
    tax_id: str | None = None


_NOT_HERE: Final[Mapping[str, str]] = {
    "next_billing_date": (
        "periods follow the day a subscription began and are not moved; change the plan, or cancel and subscribe"
        " anew with a trial up to that date"
    ),
    "credit_entitlement_cart": "credits come with the product: PATCH /products/{id}, then change to that product",
    "disable_on_demand": "no subscription here is on demand",
    "subscription_period_count": "how long it runs was settled when it began; subscribe anew when it has ended",
    "subscription_period_interval": "how long it runs was settled when it began; subscribe anew when it has ended",
    "customer_name": "the name is the customer's: PATCH /customers/{id}",
    "customer_business_name": "no tax is computed here; keep it in metadata",
    "tax_id": "no tax is computed here; keep it in metadata",
}


def check_change(sent: SubscriptionChange) -> None:
    """Check a change, its metadata apart.

    Raises:
        ProblemError: names the field.
    """
    refuse_what_is_not_here(sent, _NOT_HERE)
    if sent.status is not None and sent.status not in {*_ALONE, Status.CANCELLED}:
        raise invalid("status", "can be set to active, paused or cancelled")
    alone = "pause" if sent.pause is not None else "status" if sent.status in _ALONE else None
    others = [name for name in sent.__struct_fields__ if name != alone and getattr(sent, name) is not None]
    if alone is not None and others:
        raise invalid(alone, f"pausing and resuming stand alone; send {', '.join(others)} by themselves")
    if sent.billing is not None:
        check_address(sent.billing)


def apply_change(draft: Draft, number: int, sent: SubscriptionChange, *, metadata: str | None) -> None:
    """Change a subscription as asked, all of it or nothing. What it is already stays as it is.

    Args:
        draft: the customer's books.
        number: row number of the subscription.
        sent: what is asked; checked.
        metadata: the new metadata as JSON, where some was sent.

    Raises:
        ProblemError: the subscription's state does not allow it.
    """
    if metadata is not None:
        changed = msgspec.structs.replace(draft.subscription(number), metadata=metadata)
        draft.put_subscription(changed, Cause.MANUAL, at=draft.now)
    if sent.status == Status.CANCELLED or sent.cancel_at_next_billing_date is not None:
        _end(draft, number, sent)
    elif sent.status == Status.PAUSED or sent.pause:
        _pause(draft, number)
    elif sent.status == Status.ACTIVE or sent.pause is not None:
        _resume(draft, number)


def _end(draft: Draft, number: int, sent: SubscriptionChange) -> None:
    subscription, at_end = draft.subscription(number), sent.cancel_at_next_billing_date
    if _status(draft, number) in {Status.CANCELLED, Status.EXPIRED}:
        if sent.status != Status.CANCELLED:
            raise inactive("the subscription has ended; subscribe anew")
    elif sent.status == Status.CANCELLED and not at_end:
        changing.cancel_now(draft, number)
    elif at_end and subscription.cancellation is None:
        changing.cancel_at_period_end(draft, number)
    elif not at_end and subscription.cancellation is not None:
        changing.revert_cancellation(draft, number)


def _pause(draft: Draft, number: int) -> None:
    status = _status(draft, number)
    if status is Status.ACTIVE:
        changing.pause(draft, number)
    elif status is not Status.PAUSED:
        raise inactive(f"the subscription is {status}; only an active one can be paused")


def _resume(draft: Draft, number: int) -> None:
    status = _status(draft, number)
    if status is Status.PAUSED:
        changing.resume(draft, number)
    elif status in {Status.CANCELLED, Status.EXPIRED}:
        raise inactive("the subscription has ended; subscribe anew")
    elif status is not Status.ACTIVE:
        raise inactive(f"the subscription is {status} until its invoice is paid; mark that as paid")


def _status(draft: Draft, number: int) -> Status:
    return status_of(draft.subscription(number), lambda: draft.open_invoices(number), draft.now)


def inactive(message: str, name: str = INACTIVE) -> ProblemError:
    """Return the error for what the subscription's state does not allow: 422."""
    return ProblemError(DodoProblem(code=Code.VALIDATION_FAILED, message=message, status=UNPROCESSABLE, name=name))
