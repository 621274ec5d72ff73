"""Retempo's usage events (seed 002; CONTRACTS 3.1 to 3.4, with the decisions at their top).

Retempo's nouns in tallyd's: a *user* is a customer, named by its reference or its UUID; a *service* is named
by the key of the plan that is its offer; a *subscription* is a customer's subscription to that plan.

An `eventKey` is unique per subscription, so its idempotency space is the subscription's id. It is the event's
name as well, and stands for the feature whose key equals it, or equals the part before its first `:`.
`quantity` is the event's usage units. There are no invoices yet, so every `invoiceId` is unknown.
"""

import re
from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from typing import Any, Final

import msgspec
from quart import Response
from quart_trio import QuartTrio

from tallyd.actors.intake import Request
from tallyd.actors.messages import Accepted, Duplicate, Refused
from tallyd.api import commands
from tallyd.api.http.family import STATUS, Family, answer, body_bytes, whole_parameter
from tallyd.api.wire import Decoder
from tallyd.clock import new_key
from tallyd.core import Core
from tallyd.engine.events import check_identifier, customer_ref, decode_body, id_ref, read_event
from tallyd.engine.rating import PricedPlan
from tallyd.engine.rows import EventRow
from tallyd.model.customer import CustomerRef, RefKind
from tallyd.model.event import EventBody, Source, UsageEvent, event_number, event_uuid
from tallyd.model.moments import iso, parse_iso
from tallyd.model.money import plain
from tallyd.model.problems import Code, Problem, ProblemError, invalid, not_found
from tallyd.model.subscription import Subscription
from tallyd.store import event_rows, subscription_rows
from tallyd.store.event_rows import EventQuery

ROOT: Final = "/api/v1"
EVENTS: Final = f"{ROOT}/usage-events"
LISTED_MAX: Final = 1_000
OFFSET_MAX: Final = 10_000_000

NOT_AN_OBJECT: Final = "Request body must be a JSON object."
NO_SUBSCRIPTION: Final = "Subscription was not found for the service and user."
NOT_ACTIVE: Final = "Subscription is not active."
NO_RECORD: Final = "Referenced database record was not found."
NOT_UNIQUE: Final = "A database record with these unique fields already exists."
NO_EVENT: Final = "Usage event was not found."

_DECIMAL: Final = re.compile(r"[0-9]+(\.[0-9]+)?")
_RETEMPO_NAMES: Final = {"eventName": "eventKey", "eventIdempotencyKey": "eventKey", "usageUnits": "quantity"}
_decode = Decoder(dict[str, Any])


class Target(msgspec.Struct, frozen=True):
    """Whom and what an event is recorded against."""

    user_id: str
    ref: CustomerRef
    subscription: Subscription


class Retempo:
    """Handlers of `/api/v1/usage-events`, and `/health`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        family.route(app, EVENTS, "POST", "ingest", self.create)
        family.route(app, EVENTS, "GET", "read", self.list_events)
        family.route(app, f"{EVENTS}/<event_id>", "GET", "read", self.retrieve)
        family.route(app, "/health", "GET", None, self.health)

    async def health(self) -> Response:
        """Say that the API is there."""
        return answer({"ok": True, "service": "tallyd", "apiRoot": ROOT})

    async def create(self) -> Response:
        """Record one event: 201, 409 for an `eventKey` the subscription has already."""
        try:
            target, asked = await self._read()
        except ProblemError:
            self._core.counts.refused += 1
            raise
        outcome = (await self._core.intake.ingest([asked]))[0]
        if isinstance(outcome, Accepted):
            return answer({"usageEvent": self._view(outcome.row, target.subscription)}, 201)
        if isinstance(outcome, Duplicate):
            raise ProblemError(Problem(code=Code.CONFLICT, message=NOT_UNIQUE))
        if isinstance(outcome, Refused):
            raise ProblemError(commands.short_problem(outcome))
        raise ProblemError(outcome)

    async def _read(self) -> tuple[Target, Request]:
        """Check a request in Retempo's order: body, ids, subscription, invoice, then the event itself.

        Raises:
            ProblemError: what is wrong first.
        """
        try:
            sent: dict[str, Any] = _decode(await body_bytes())
        except ProblemError:
            raise ProblemError(Problem(code=Code.MALFORMED, message=NOT_AN_OBJECT)) from None
        service_id, subscription_id, user_id = (
            required(sent, field) for field in ("serviceId", "subscriptionId", "userId")
        )
        target = await self._target(service_id, subscription_id, user_id)
        if sent.get("invoiceId") is not None:
            raise not_found(NO_RECORD)
        return target, Request(target.ref, self._event(sent, target))

    async def _target(self, service_id: str, subscription_id: str, user_id: str) -> Target:
        for ref in user_refs(user_id):
            account = self._core.directory.resident(ref) or await self._core.directory.account(ref)
            for each in account.enrolments:
                subscription = each.subscription
                if (subscription.id, each.plan.key) == (subscription_id, service_id):
                    if not each.active_at(self._core.clock.of(account.customer.id)):
                        raise ProblemError(Problem(code=Code.VALIDATION_FAILED, message=NOT_ACTIVE))
                    return Target(user_id, ref, subscription)
        raise not_found(NO_SUBSCRIPTION)

    def _event(self, sent: dict[str, Any], target: Target) -> UsageEvent:
        key = required(sent, "eventKey")
        by_id = target.ref.kind is RefKind.ID
        body = EventBody(
            event_name=key,
            event_idempotency_key=key,
            occurred_at=moment(sent.get("occurredAt")),
            customer_id=target.user_id if by_id else None,
            customer_reference_id=None if by_id else target.user_id,
            subscription_id=target.subscription.id,
            usage_units=quantity(sent.get("quantity")),
        )
        try:
            return read_event(
                body,
                source=Source.RETEMPO,
                key=key,
                new_key=new_key,
                now=self._core.clock.of(target.ref.customer_id()),
                feature_named=self._feature_named,
                key_space=target.subscription.id,
            )
        except ProblemError as error:
            field = error.problem.field or ""
            raise invalid(_RETEMPO_NAMES.get(field, field), error.problem.message) from None

    def _feature_named(self, event_key: str) -> str | None:
        features = self._core.catalogue.features
        kind = event_key.partition(":")[0]
        return next((name for name in (event_key, kind) if name in features), None)

    async def list_events(self) -> Response:
        """List Retempo's events, newest first: up to 1,000, further ones by `offset`, which is ours."""
        query = EventQuery(
            source=Source.RETEMPO,
            limit=whole_parameter("limit", LISTED_MAX, least=1, most=LISTED_MAX),
            offset=whole_parameter("offset", 0, most=OFFSET_MAX),
        )
        rows = await self._core.books.scan(partial(event_rows.list_events, query=query))
        return answer({"usageEvents": await self._views(rows)})

    async def retrieve(self, event_id: str) -> Response:
        """Return one of Retempo's events."""
        number, row = event_number(event_id), None
        if number is not None:
            row = await self._core.books.read(partial(event_rows.event_by_number, number=number))
        if row is None or row.source != Source.RETEMPO:
            raise not_found(NO_EVENT)
        return answer({"usageEvent": (await self._views([row]))[0]})

    async def _views(self, rows: Sequence[EventRow]) -> list[dict[str, Any]]:
        ids = {row.key_space for row in rows}
        subscriptions = await self._core.books.read(partial(subscription_rows.subscriptions_by_id, ids=ids))
        return [self._view(row, subscriptions[row.key_space]) for row in rows]

    def _view(self, row: EventRow, subscription: Subscription) -> dict[str, Any]:
        phase = subscription.phase_at(row.occurred_at)
        plan = self._core.catalogue.plans[phase.plan_key, phase.plan_version]
        owner = customer_ref(decode_body(row.body)).customer_id()
        active = subscription.active_at(self._core.clock.of(owner))
        return event_view(row, subscription, plan, active=active)


def render(problem: Problem) -> tuple[int, Any]:
    """Return `{error: sentence.}`; a bad field is the sentence's subject."""
    text = f"{problem.field} {problem.message}" if problem.field else problem.message
    return STATUS[problem.code], {"error": text if text.endswith(".") else f"{text}."}


def required(sent: dict[str, Any], field: str) -> str:
    """Return a field that must be there and able to name something.

    Raises:
        ProblemError: absent, null or blank; not a string; too long.
    """
    value = sent.get(field)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise invalid(field, "is required")
    if not isinstance(value, str):
        raise invalid(field, "must be a string")
    return check_identifier(field, value)


def user_refs(user_id: str) -> list[CustomerRef]:
    """Return whom a user id may mean: the customer of that reference, else the one with that UUID."""
    by_reference = CustomerRef(RefKind.REFERENCE, user_id)
    try:
        return [by_reference, id_ref(user_id)]
    except ProblemError:
        return [by_reference]


def moment(value: Any) -> str | None:
    """Return an event's time as sent; absent or null means now.

    Raises:
        ProblemError: not an ISO date, or one without a zone.
    """
    if value is None:
        return None
    why = "must be a valid ISO date string"
    if isinstance(value, str):
        try:
            parse_iso(value)
        except (ValueError, OverflowError) as error:
            why = str(error) if "zone" in str(error) else why
        else:
            return value
    raise invalid("occurredAt", why)


def quantity(value: Any) -> Decimal:
    """Read a quantity: zero or more, as a decimal string or a number.

    Raises:
        ProblemError: absent, of another type, or not such a decimal.
    """
    if value is None:
        raise invalid("quantity", "is required")
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise invalid("quantity", "must be a decimal string or number")
    if isinstance(value, str) and not _DECIMAL.fullmatch(value):
        raise invalid("quantity", "must be a non-negative decimal")
    number = Decimal(value)
    if number < 0:
        raise invalid("quantity", "must be a non-negative decimal")
    return number


def event_view(row: EventRow, subscription: Subscription, plan: PricedPlan, *, active: bool) -> dict[str, Any]:
    """Return an event as Retempo shows it, with the least that can be said of what it belongs to."""
    body = decode_body(row.body)
    service_id, user_id = plan.key, body.customer_reference_id or body.customer_id
    status = "ACTIVE" if active else "EXPIRED"
    return {
        "id": event_uuid(row.id),
        "serviceId": service_id,
        "subscriptionId": subscription.id,
        "userId": user_id,
        "invoiceId": None,
        "eventKey": row.key,
        "quantity": plain(body.usage_units or Decimal(0)),
        "occurredAt": iso(row.occurred_at),
        "createdAt": iso(row.received_at),
        "service": {"id": service_id, "name": plan.name},
        "subscription": {
            "id": subscription.id,
            "serviceId": service_id,
            "userId": user_id,
            "status": status,
        },
        "user": {"id": user_id},
        "invoice": None,
    }
