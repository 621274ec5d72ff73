"""Subscriptions and invoices in the native API's shapes (CONTRACTS 1.8)."""

from typing import Any, Final

import msgspec

from tallyd.engine.account import Account
from tallyd.model.event import event_uuid
from tallyd.model.invoice import Invoice, Line, LineStep
from tallyd.model.moments import iso
from tallyd.model.subscription import Change, Subscription

_decode_metadata: Final = msgspec.json.Decoder(dict[str, Any]).decode


def subscription_view(account: Account, subscription: Subscription, now: int) -> dict[str, Any]:
    """Return a subscription with the period that contains now, or its first one."""
    moment = max(now, subscription.starts_at)
    enrolment = account.enrolment_at(subscription.number, moment)
    plan, phase = enrolment.plan, subscription.phase_at(moment)
    period = subscription.period_at(moment)
    denial = account.denied(subscription, now)
    cancelled = subscription.cancellation
    view = {
        "id": subscription.id,
        "isActive": subscription.active_at(now) and denial is None,
        "inactiveReason": denial,
        "intervalMonths": plan.interval_months,
        "intervalDays": plan.interval_days or None,
        "customer": {"id": account.customer.id, "customerReferenceId": account.customer.reference},
        "plan": {"id": plan.key, "key": plan.key, "name": plan.name, "version": plan.version},
        "billingTiming": plan.timing,
        "currency": plan.currency,
        "startsAt": iso(subscription.starts_at),
        "endsAt": _when(subscription.ends_at),
        "trialEndsAt": _when(subscription.trial_ends_at),
        "gracePeriodDays": subscription.grace_days,
        "currentPeriodStart": iso(period.start),
        "currentPeriodEnd": iso(period.end),
        "billingAnchorDay": phase.cycle.anchor_day,
        "timeZone": phase.cycle.zone,
        "pausedAt": iso(subscription.pauses[-1][0]) if subscription.paused_at(now) else None,
        "cancelMode": None if cancelled is None else cancelled.mode,
        "cancelEffectiveAt": None if cancelled is None else _when(subscription.ends_at),
        "cancelledAt": None if cancelled is None else iso(cancelled.requested_at),
        "scheduledChange": None if subscription.change is None else change_view(subscription.change, now),
        "metadata": _decode_metadata(subscription.metadata),
        "createdAt": iso(subscription.created_at),
    }
    return {name: value for name, value in view.items() if value is not None}


def _when(moment: int | None) -> str | None:
    return None if moment is None else iso(moment)


def change_view(change: Change, now: int) -> dict[str, Any]:
    """Return a change of plan and what became of it."""
    status = "CANCELLED" if change.cancelled else "PENDING" if change.effective_at > now else "COMPLETED"
    return {
        "id": change.id,
        "type": change.type,
        "fromPlan": change.from_plan,
        "toPlan": change.to_plan,
        "status": status,
        "effectiveAt": iso(change.effective_at),
        "createdAt": iso(change.created_at),
    }


def invoice_number(invoice: Invoice) -> str:
    """Return the number people quote, such as `INV-000012-0003`: the customer's, then the invoice's own."""
    return f"INV-{invoice.customer:06d}-{invoice.serial:04d}"


def invoice_view(
    invoice: Invoice, subscription_id: str, customer: str | None = None, *, items: bool = False
) -> dict[str, Any]:
    """Return an invoice; `items` adds its lines. `customer` is what its customer goes by."""
    view: dict[str, Any] = {
        "id": event_uuid(invoice.number),
        "number": invoice_number(invoice),
        "customerReferenceId": customer,
        "type": invoice.kind,
        "status": invoice.status,
        "amount": invoice.amount,
        "currency": invoice.currency,
        "periodStart": iso(invoice.period_start),
        "periodEnd": iso(invoice.period_end),
        "dueDate": iso(invoice.due_at),
        "overdueAt": iso(invoice.overdue_at),
        "subscription": {"id": subscription_id},
        "settledAt": _when(invoice.settled_at),
        "metadata": {},
        "issuedAt": iso(invoice.dated_at),
        "createdAt": iso(invoice.issued_at),
        "modifiedAt": iso(invoice.settled_at or invoice.issued_at),
    }
    if items:
        view["items"] = [line_view(invoice, number) for number in range(len(invoice.lines))]
    return {name: value for name, value in view.items() if value is not None}


def preview_view(invoice: Invoice, subscription_id: str, customer: str) -> dict[str, Any]:
    """Return an invoice that is not made yet: it has no id and no number, and neither have its lines."""
    view = invoice_view(invoice, subscription_id, customer, items=True)
    for each in (view, *view["items"]):
        for name in ("id", "number", "invoiceId"):
            each.pop(name, None)
    return {"preview": True, **view}


def line_id(invoice: Invoice, number: int) -> str:
    """Return the id of a line: its invoice's, and its place, counted from 0."""
    return f"{event_uuid(invoice.number)}-{number}"


def line_view(invoice: Invoice, number: int) -> dict[str, Any]:
    """Return a line of an invoice."""
    line: Line = invoice.lines[number]
    view = {
        "id": line_id(invoice, number),
        "invoiceId": event_uuid(invoice.number),
        "kind": line.kind,
        "description": line.words,
        "chargeAmount": line.amount,
        "exactAmount": line.exact,
        "quantity": line.quantity,
        "unitPrice": line.unit_price,
        "featureKey": line.feature or None,
        "model": line.model or None,
        "tokenKind": line.token_kind or None,
        "periodStart": iso(line.period_start),
        "periodEnd": iso(line.period_end),
        "priceVersion": line.price_version or None,
        "creditPoolId": None if line.pool is None else event_uuid(line.pool),
        "steps": [_step_view(step) for step in line.steps] or None,
        "createdAt": iso(invoice.issued_at),
        "modifiedAt": iso(invoice.settled_at or invoice.issued_at),
    }
    return {name: value for name, value in view.items() if value is not None}


def _step_view(step: LineStep) -> dict[str, Any]:
    view = {
        "description": step.words,
        "quantity": step.quantity,
        "unitPrice": step.unit_price,
        "amount": step.amount,
        "unpriced": True if step.amount is None else None,
    }
    return {name: value for name, value in view.items() if value is not None}
