"""The socket's methods about subscriptions, invoices, events taken back and test clocks; bodies as over HTTP."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from tallyd.api import billing_lines, billing_page, billing_requests, billing_voids, clocking, entitling
from tallyd.api.billing import CancelMode, ChangeType
from tallyd.api.billing_requests import ChangePlanInput
from tallyd.api.http.tanso import OFFSET_MAX, PAGE_MAX, page
from tallyd.api.wire import Decoder
from tallyd.core import Core
from tallyd.model.problems import invalid


class _Params(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A param nobody knows is a mistake: it would have been meant to matter."""


class CustomerParams(_Params, frozen=True, kw_only=True):
    """Params of `subscriptions.list`."""

    customer_reference_id: str


class SubscriptionParams(_Params, frozen=True, kw_only=True):
    """Params of what is done to a subscription as it is."""

    subscription_id: str


class CancelParams(_Params, frozen=True, kw_only=True):
    """Params of `subscriptions.cancel`."""

    subscription_id: str
    cancel_mode: CancelMode = "END_OF_PERIOD"


class ChangePlanParams(_Params, frozen=True, kw_only=True):
    """Params of `subscriptions.changePlan`."""

    subscription_id: str
    change_to_plan_id: str
    change_type: ChangeType | None = None


class ListParams(_Params, frozen=True, kw_only=True):
    """Params of `invoices.list`; without a customer, of all of them."""

    customer_reference_id: str | None = None
    status: str | None = None
    limit: int = 50
    offset: int = 0


class InvoiceParams(_Params, frozen=True, kw_only=True):
    """Params of what is asked of an invoice, or done to it: `invoiceId` takes its number as well."""

    invoice_id: str


class ExplainParams(_Params, frozen=True, kw_only=True):
    """Params of `invoices.explain`: `line` is its place, counted from 0, or its id."""

    invoice_id: str
    line: int | str
    limit: int = 50
    offset: int = 0


class VoidParams(_Params, frozen=True, kw_only=True):
    """Params of `events.void`."""

    event_id: str
    reason: str


class AmendParams(_Params, frozen=True, kw_only=True):
    """Params of `events.amend`."""

    event_id: str
    reason: str
    event: dict[str, Any]


_decode_customer: Final = Decoder(CustomerParams)
_decode_subscription: Final = Decoder(SubscriptionParams)
_decode_cancel: Final = Decoder(CancelParams)
_decode_change: Final = Decoder(ChangePlanParams)
_decode_list: Final = Decoder(ListParams)
_decode_invoice: Final = Decoder(InvoiceParams)
_decode_explain: Final = Decoder(ExplainParams)
_decode_void: Final = Decoder(VoidParams)
_decode_amend: Final = Decoder(AmendParams)

Method = Callable[[msgspec.Raw], Awaitable[Any]]


class BillingMethods:
    """What can be asked about billing, and with which scope."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.table: dict[str, tuple[str, Method]] = {
            "subscriptions.list": ("read", self.subscriptions),
            "subscriptions.cancel": ("admin", self.cancel),
            "subscriptions.revertCancellation": ("admin", self.revert_cancellation),
            "subscriptions.changePlan": ("admin", self.change_plan),
            "subscriptions.revertChange": ("admin", self.revert_change),
            "subscriptions.pause": ("admin", self.pause),
            "subscriptions.resume": ("admin", self.resume),
            "invoices.list": ("read", self.invoices),
            "invoices.get": ("read", self.invoice),
            "invoices.preview": ("read", self.preview),
            "invoices.explain": ("read", self.explain),
            "invoices.page": ("read", self.page),
            "invoices.markPaid": ("admin", self.mark_paid),
            "invoices.void": ("admin", self.void_invoice),
            "events.void": ("admin", self.void_event),
            "events.amend": ("admin", self.amend_event),
            "clocks.get": ("read", self.clocks),
            "clocks.set": ("admin", self.set_clock),
            "clocks.advance": ("admin", self.advance_clock),
            "clocks.end": ("admin", self.end_clock),
        }

    # Subscriptions

    async def subscriptions(self, params: msgspec.Raw) -> Any:
        """List a customer's subscriptions as they stand now."""
        reference = _decode_customer(params).customer_reference_id
        return {
            "customerReferenceId": reference,
            "items": await billing_requests.subscriptions(self._core, reference),
        }

    async def cancel(self, params: msgspec.Raw) -> Any:
        """Cancel a subscription; return `{subscription, invoices}`: those that this made or voided."""
        sent: CancelParams = _decode_cancel(params)
        return await billing_requests.cancel(self._core, sent.subscription_id, sent.cancel_mode)

    async def revert_cancellation(self, params: msgspec.Raw) -> Any:
        """Take back a cancellation that has not come yet."""
        return await billing_requests.revert_cancellation(self._core, _decode_subscription(params).subscription_id)

    async def change_plan(self, params: msgspec.Raw) -> Any:
        """Put a subscription on another plan."""
        sent: ChangePlanParams = _decode_change(params)
        change = ChangePlanInput(change_to_plan_id=sent.change_to_plan_id, change_type=sent.change_type)
        return await billing_requests.change_plan(self._core, sent.subscription_id, change)

    async def revert_change(self, params: msgspec.Raw) -> Any:
        """Take back a change of plan that has not come yet."""
        return await billing_requests.revert_change(self._core, _decode_subscription(params).subscription_id)

    async def pause(self, params: msgspec.Raw) -> Any:
        """Pause a subscription."""
        return await billing_requests.pause(self._core, _decode_subscription(params).subscription_id)

    async def resume(self, params: msgspec.Raw) -> Any:
        """End a pause."""
        return await billing_requests.resume(self._core, _decode_subscription(params).subscription_id)

    # Invoices

    async def invoices(self, params: msgspec.Raw) -> Any:
        """List invoices, newest first, a page at a time."""
        sent: ListParams = _decode_list(params)
        _check_page(sent.limit, sent.offset)
        reference = sent.customer_reference_id
        ref = None if reference is None else entitling.by_reference(reference)
        items, total = await billing_requests.invoice_page(
            self._core, ref, sent.status, limit=sent.limit, offset=sent.offset
        )
        named = {} if reference is None else {"customerReferenceId": reference}
        return {**named, **page(items, total=total, limit=sent.limit, offset=sent.offset)}

    async def invoice(self, params: msgspec.Raw) -> Any:
        """Return an invoice with its lines."""
        return await billing_requests.invoice(self._core, _decode_invoice(params).invoice_id)

    async def preview(self, params: msgspec.Raw) -> Any:
        """Return `{invoice}`: a subscription's next one as it will be; null when none will come."""
        sent: SubscriptionParams = _decode_subscription(params)
        return {"invoice": await billing_requests.preview(self._core, sent.subscription_id)}

    async def explain(self, params: msgspec.Raw) -> Any:
        """Explain a line of an invoice."""
        sent: ExplainParams = _decode_explain(params)
        _check_page(sent.limit, sent.offset)
        return await billing_lines.explain(
            self._core, sent.invoice_id, str(sent.line), limit=sent.limit, offset=sent.offset
        )

    async def page(self, params: msgspec.Raw) -> Any:
        """Return `{html}`: an invoice as a page that needs nothing beside itself."""
        return {"html": await billing_page.page_of(self._core, _decode_invoice(params).invoice_id)}

    async def mark_paid(self, params: msgspec.Raw) -> Any:
        """Mark an invoice as paid; harmless to repeat."""
        return await billing_requests.mark_paid(self._core, _decode_invoice(params).invoice_id)

    async def void_invoice(self, params: msgspec.Raw) -> Any:
        """Void an invoice that is to be paid."""
        return await billing_requests.void_invoice(self._core, _decode_invoice(params).invoice_id)

    # Events taken back

    async def void_event(self, params: msgspec.Raw) -> Any:
        """Take an event back."""
        sent: VoidParams = _decode_void(params)
        return await billing_voids.void(self._core, sent.event_id, billing_voids.VoidInput(reason=sent.reason))

    async def amend_event(self, params: msgspec.Raw) -> Any:
        """Take an event back and record another in its place."""
        sent: AmendParams = _decode_amend(params)
        change = billing_voids.AmendInput(reason=sent.reason, event=sent.event)
        return await billing_voids.amend(self._core, sent.event_id, change)

    # Test clocks

    async def clocks(self, _params: msgspec.Raw) -> Any:
        """List the test clocks, the daemon's first."""
        return {"items": await clocking.clocks(self._core)}

    async def set_clock(self, params: msgspec.Raw) -> Any:
        """Put a customer, or the whole daemon, on a clock that stands."""
        return await clocking.set_clock(self._core, clocking.decode_set(params))

    async def advance_clock(self, params: msgspec.Raw) -> Any:
        """Move a test clock forward, and do all that falls due on the way."""
        return await clocking.advance(self._core, clocking.decode_advance(params))

    async def end_clock(self, params: msgspec.Raw) -> Any:
        """Give a customer, or the daemon, the running time back."""
        return await clocking.end(self._core, clocking.decode_end(params))


def _check_page(limit: int, offset: int) -> None:
    if not 1 <= limit <= PAGE_MAX:
        raise invalid("limit", f"must be 1 to {PAGE_MAX}")
    if not 0 <= offset <= OFFSET_MAX:
        raise invalid("offset", f"must be 0 to {OFFSET_MAX}")
