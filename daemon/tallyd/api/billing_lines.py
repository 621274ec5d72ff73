"""An invoice line explained: its steps, its price version, the events it bills, and what credits paid (P10)."""

from decimal import Decimal
from functools import partial
from typing import Any

from tallyd.api import billing
from tallyd.api.billing_requests import invoice_views
from tallyd.api.billing_views import line_id, line_view
from tallyd.api.consuming import without_nothing
from tallyd.api.credit_views import transaction_view
from tallyd.api.http.tanso import page
from tallyd.core import Core
from tallyd.engine.rows import EventRow
from tallyd.model.event import event_uuid
from tallyd.model.invoice import Invoice, Line
from tallyd.model.ledger_entries import Entry
from tallyd.model.moments import iso
from tallyd.store.line_rows import Movement, Movements, movements_of_line


async def explain(core: Core, name: str, place: str, *, limit: int, offset: int) -> dict[str, Any]:
    """Explain a line of an invoice; of the ledger rows it bills, a page.

    Events that were taken back or priced later stand beside those that came: what all of them changed of the
    charge sums, exactly, to what the lines of the same counter on this invoice come to.

    Args:
        core: the daemon.
        name: the invoice's id or number.
        place: the line's place, counted from 0, or its id.
        limit: most rows a page.
        offset: how many come before it.

    Raises:
        ProblemError: there is no such invoice, or no such line.
    """
    _, invoice = await billing.find_invoice(core, name)
    number = billing.line_number(invoice, place)
    line = invoice.lines[number]
    view: dict[str, Any] = {
        "invoice": (await invoice_views(core, [invoice]))[0],
        "line": line_view(invoice, number),
        "price": _price(core, line),
    }
    if line.counter_start is not None:
        query = partial(movements_of_line, invoice=invoice, line=line, limit=limit, offset=offset)
        found = await core.books.scan(query)
        view["counter"] = _counter(invoice, line, found)
        rows = _rows(found)
        view["events"] = page(rows, total=found.total, limit=limit, offset=offset)
    return without_nothing(view)


def _price(core: Core, line: Line) -> dict[str, Any] | None:
    """Return the version of the plan that prices a line, with the terms of the feature, as they were written."""
    key, _, version = line.price_version.rpartition("@")
    plan = core.catalogue.written(key, int(version)) if version.isdecimal() else None
    if plan is None:
        return None
    feature = next((each for each in plan.features if each.feature == line.feature), None)
    view = {
        "version": line.price_version,
        "planKey": plan.key,
        "planName": plan.name,
        "priceAmount": plan.price_amount,
        "currency": plan.currency,
        "billingTiming": plan.billing_timing,
        "intervalMonths": None if plan.interval_days else plan.interval_months,
        "intervalDays": plan.interval_days or None,
        "pricing": None if feature is None else feature.pricing or {"model": "included"},
        "meter": None if feature is None else feature.meter,
    }
    return without_nothing(view)


def _counter(invoice: Invoice, line: Line, found: Movements) -> dict[str, Any]:
    """Return what the line has in common with the invoice's other lines of the same usage."""
    beside = [
        line_id(invoice, number)
        for number, each in enumerate(invoice.lines)
        if (each.feature, each.counter_start) == (line.feature, line.counter_start)
    ]
    first, last = line.positions
    return {
        "featureKey": line.feature,
        "charged": found.charged,
        "lines": beside,
        "positionFrom": first,
        "positionTo": last,
    }


def _rows(found: Movements) -> list[dict[str, Any]]:
    told: set[int] = set()
    views = []
    for each in found.page:
        first = each.event not in told
        told.add(each.event)
        credits_ = [entry for entry in found.deductions if entry.event == each.event] if first else []
        views.append(_row(each, found.events[each.event], credits_))
    return views


def _row(movement: Movement, event: EventRow, deductions: list[Entry]) -> dict[str, Any]:
    came = movement.kind == "event"
    view = {
        "kind": movement.kind,
        "eventId": event_uuid(event.id),
        "eventName": event.name,
        "eventIdempotencyKey": event.key,
        "occurredAt": iso(event.occurred_at),
        "recordedAt": iso(movement.at),
        "position": movement.position,
        "usageUnits": Decimal(event.units),
        "model": event.model,
        "amount": movement.amount,
        "unpriced": True if came and movement.amount is None else None,
        "reason": movement.reason or None,
        "credits": [transaction_view(each) for each in deductions] or None,
    }
    return without_nothing(view)
