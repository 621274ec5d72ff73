"""Events over the native API: one, many, listed, explained (seed 000; CONTRACTS 1.2 to 1.4)."""

from decimal import Decimal
from functools import partial
from typing import Any, Final

import msgspec
from quart import Response, request
from quart_trio import QuartTrio

from tallyd.actors.intake import Request
from tallyd.actors.messages import Accepted, Duplicate, Refused
from tallyd.api import commands, entitling
from tallyd.api.billing_voids import voided_view
from tallyd.api.credit_views import transaction_view
from tallyd.api.http import tanso
from tallyd.api.http.family import (
    Family,
    body_bytes,
    flag_parameter,
    header_text,
    instant_parameter,
    whole_parameter,
)
from tallyd.api.http.replays import BATCH_KEY_SPACE, KEY_SPACE, transport_key
from tallyd.core import Core
from tallyd.engine.events import decode_body
from tallyd.engine.rows import ChargeRow, EventRow
from tallyd.model.event import EventBody, Source, event_number, event_uuid
from tallyd.model.ledger_entries import TRANSACTIONS
from tallyd.model.moments import iso
from tallyd.model.problems import ProblemError, not_found
from tallyd.store import credit_rows, event_rows
from tallyd.store.event_rows import EventQuery

PAGE_MAX: Final = 500
OFFSET_MAX: Final = 10_000_000


class Events:
    """Handlers of `/api/v1/client/events`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        family.route(app, f"{tanso.CLIENT}/events", "POST", "ingest", self.create)
        family.route(app, f"{tanso.CLIENT}/events/batch", "POST", "ingest", self.create_many)
        family.route(app, f"{tanso.CLIENT}/events", "GET", "read", self.list)
        family.route(app, f"{tanso.CLIENT}/events/<event_id>", "GET", "read", self.explain)

    async def create(self) -> Response:
        """Record one event: 201, 200 past a cap, 409 for a key that is taken."""
        body = commands.decode_event(await body_bytes())
        key = header_text("X-Idempotency-Key")
        event = _with_transport_key(self._read(body, key), None)
        outcome = (await self._core.intake.ingest([event]))[0]
        if isinstance(outcome, Accepted):
            return tanso.success(commands.accepted_view(outcome), 200 if outcome.row.capped else 201)
        if isinstance(outcome, Duplicate):
            raise ProblemError(commands.duplicate_problem(outcome))
        if isinstance(outcome, Refused):
            raise ProblemError(commands.short_problem(outcome))
        raise ProblemError(outcome)

    def _read(self, body: EventBody, key: str | None) -> Request:
        try:
            return commands.read_request(self._core, body, Source.TANSO, key)
        except ProblemError:
            self._core.counts.refused += 1
            raise

    async def create_many(self) -> Response:
        """Record 1 to 1,000 events; 200 with a result for each, in order."""
        batch = commands.decode_batch(await body_bytes())
        results = await commands.ingest_batch(self._core, batch.events, Source.TANSO, _with_transport_key)
        return tanso.success({"results": results})

    async def list(self) -> Response:
        """List events, newest first; `unpriced=true` for those that still lack a price."""
        limit = whole_parameter("limit", 50, least=1, most=PAGE_MAX)
        offset = whole_parameter("offset", 0, most=OFFSET_MAX)
        reference = request.args.get("customerReferenceId")
        customer = None
        if reference is not None:
            ref = entitling.by_reference(reference)
            customer = (await entitling.known_account(self._core, ref)).customer.number
        query = EventQuery(
            customer=customer,
            name=request.args.get("eventName"),
            start=instant_parameter("start"),
            end=instant_parameter("end"),
            unpriced=flag_parameter("unpriced"),
            limit=limit,
            offset=offset,
        )
        total = await self._core.books.scan(partial(event_rows.count_events, query=query))
        rows = await self._core.books.scan(partial(event_rows.list_events, query=query))
        views = [event_view(row) for row in rows]
        return tanso.success(tanso.page(views, total=total, limit=limit, offset=offset))

    async def explain(self, event_id: str) -> Response:
        """Explain one event: what was sent, what it cost and earned, by which prices, after which usage."""
        number = event_number(event_id)
        row = None
        if number is not None:
            row = await self._core.books.read(partial(event_rows.event_by_number, number=number))
        if row is None:
            raise not_found(f"there is no event {event_id!r}")
        charges = await self._core.books.read(partial(event_rows.charges_of, events=[row.id]))
        view = event_view(row)
        view["charges"] = [self._explained(charge) for charge in charges.get(row.id, [])]
        entries = await self._core.books.read(partial(credit_rows.entries_of_event, event=row.id))
        view["credits"] = [transaction_view(entry) for entry in entries if entry.kind in TRANSACTIONS]
        view.update(voided_view(entries))
        if row.cost_version is not None:
            content = await self._core.books.read(
                partial(event_rows.price_version_content, version=row.cost_version)
            )
            view["costBasis"] = msgspec.Raw(content or "null")
        return tanso.success(view)

    def _explained(self, charge: ChargeRow) -> dict[str, Any]:
        plan = self._core.catalogue.written(charge.plan_key, charge.plan_version)
        view = commands.charge_view(charge)
        if plan is not None:
            pricing = next((each.pricing for each in plan.features if each.feature == charge.feature), None)
            view["pricing"] = pricing
        return view


def _with_transport_key(each: Request, index: int | None) -> Request:
    """Give an event without a key of its own one made from the request's transport key; see `replays`."""
    key = transport_key()
    if key is None or each.event.keyed:
        return each
    space, key = (KEY_SPACE, key) if index is None else (BATCH_KEY_SPACE, f"{key}#{index}")
    event = msgspec.structs.replace(each.event, key_space=space, key=key, keyed=True)
    return Request(each.ref, event)


def event_view(row: EventRow) -> dict[str, Any]:
    """Return an event as the books have it."""
    body = decode_body(row.body)
    view = {
        "id": event_uuid(row.id),
        "eventIdempotencyKey": row.key,
        "source": row.source,
        "position": row.position,
        "eventName": row.name,
        "featureKey": row.feature,
        "occurredAt": iso(row.occurred_at),
        "receivedAt": iso(row.received_at),
        "customerReferenceId": body.customer_reference_id,
        "stripeCustomerId": body.stripe_customer_id,
        "customerId": body.customer_id,
        "usageUnits": Decimal(row.units),
        "costAmount": None if row.cost is None else Decimal(row.cost),
        "costSource": row.cost_source,
        "revenueAmount": None if row.revenue is None else Decimal(row.revenue),
        "revenueSource": row.revenue_source,
        "currency": row.currency,
        "unpriced": row.no_price,
        "usageLimitExceeded": True if row.capped else None,
        "costInput": body.cost_input,
        "flowId": body.flow_id,
        "meta": body.meta,
    }
    return {name: value for name, value in view.items() if value is not None}
