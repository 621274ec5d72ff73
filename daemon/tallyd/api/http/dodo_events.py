"""Dodo's usage events: taken in by the thousand, looked up, listed (seed 003; CONTRACTS 2.2).

A request is all or nothing: every event is checked before the first is stored, and the refusal names the
first offending `event_id`. Ids that are recorded already are ignored. Should the daemon be too busy for a part
of a valid request, the whole is answered 429 or 503; repeating it is safe, for what was stored is then ignored.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from quart import Response, request
from quart_trio import QuartTrio

from tallyd.actors.intake import Request
from tallyd.actors.messages import Accepted, Outcome, Refused
from tallyd.api import commands
from tallyd.api.http import dodo
from tallyd.api.http.family import Family, answer, body_bytes, instant_parameter
from tallyd.api.wire import Decoder
from tallyd.core import Core
from tallyd.engine.events import decode_body
from tallyd.engine.metering import CompiledMeter
from tallyd.engine.rows import EventRow
from tallyd.model.event import EventBody, Source
from tallyd.model.moments import HOUR_US, MINUTE_US, iso
from tallyd.model.problems import Code, Problem, ProblemError, invalid, not_found
from tallyd.store import event_rows
from tallyd.store.event_rows import EventQuery

EVENTS_MAX: Final = 1_000
OLDEST_US: Final = HOUR_US
NEWEST_US: Final = 5 * MINUTE_US
METADATA_PAIRS_MAX: Final = 50
KEY_CHARACTERS_MAX: Final = 100
VALUE_CHARACTERS_MAX: Final = 500
_SHOWN_CHARACTERS: Final = 255

_DODO_NAMES: Final = {
    "eventName": "event_name",
    "eventIdempotencyKey": "event_id",
    "customerReferenceId": "customer_id",
    "occurredAt": "timestamp",
    "meta": "metadata",
}


class EventInput(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One event as Dodo's clients send it. `timestamp` absent or null means now."""

    event_id: str
    customer_id: str
    event_name: str
    timestamp: str | None = None
    metadata: dict[str, Any] | None = None


class IngestInput(msgspec.Struct, frozen=True, kw_only=True):
    """Body of POST /events/ingest."""

    events: list[EventInput]


_decode = Decoder(IngestInput)


class DodoEvents:
    """Handlers of `/events`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        family.route(app, "/events/ingest", "POST", "ingest", self.ingest)
        family.route(app, "/events", "GET", "read", self.list_events)
        family.route(app, "/events/<path:event_id>", "GET", "read", self.retrieve)

    async def ingest(self) -> Response:
        """Record 1 to 1,000 events: 200 with how many are new, or a refusal of them all."""
        with dodo.refusing(dodo.INVALID_BODY):
            sent: list[EventInput] = _decode(await body_bytes()).events
            if not 1 <= len(sent) <= EVENTS_MAX:
                raise invalid("events", f"must be 1 to {EVENTS_MAX} events, here are {len(sent)}")
        try:
            requests = read_events(self._core, sent)
            await self._check_customers(requests)
        except ProblemError:
            self._core.counts.refused += len(sent)
            raise
        outcomes = await self._core.intake.ingest(requests)
        return answer({"ingested_count": count_new(requests, outcomes)})

    async def _check_customers(self, requests: Sequence[Request]) -> None:
        """Refuse unknown customers where they are not created by their first event.

        Raises:
            ProblemError: 400, names the first event of an unknown customer.
        """
        if self._core.config.customers.auto_create:
            return
        for each in requests:
            account = self._core.directory.resident(each.ref) or await self._core.directory.account(each.ref)
            if not account.known:
                why = f"{each.ref.value!r} is unknown and [customers] auto_create is off; create it first"
                raise ProblemError(blame(each.event.key, invalid("customer_id", why).problem))

    async def retrieve(self, event_id: str) -> Response:
        """Return the event recorded under an id, matched exactly, upper and lower case included."""
        row = await self._core.books.read(partial(event_rows.event_by_key, key=event_id))
        if row is None:
            raise not_found(f"there is no event {event_id!r}")
        return answer((await self._views([row]))[0])

    async def list_events(self) -> Response:
        """List events, newest first; `start` is included, `end` is not."""
        page = dodo.asked_page()
        with dodo.refusing(dodo.INVALID_QUERY):
            start, end = instant_parameter("start"), instant_parameter("end")
        name, meter = request.args.get("event_name"), self._asked_meter()
        if meter is not None:
            if name not in (None, meter.event_name):
                with dodo.refusing(dodo.INVALID_QUERY, status=400):
                    raise invalid("event_name", f"the meter counts {meter.event_name!r}, not {name!r}")
            name = meter.event_name
        customer, wanted = None, request.args.get("customer_id")
        if wanted is not None:
            customer = await self._core.books.read(partial(event_rows.customer_number, name=wanted))
            if customer is None:
                return dodo.items([])
        query = EventQuery(
            customer=customer,
            name=name,
            start=start,
            end=end,
            shared_keys=True,
            limit=page.size,
            offset=page.start,
        )
        asked = partial(event_rows.list_events, query=query, matches=_filter(meter))
        rows = await self._core.books.scan(asked)
        return dodo.items(await self._views(rows))

    def _asked_meter(self) -> CompiledMeter | None:
        meter_id = request.args.get("meter_id")
        if meter_id is None:
            return None
        if meter_id not in self._core.catalogue.meters:
            raise not_found(f"there is no meter {meter_id!r}")
        return self._core.catalogue.meter(meter_id)

    async def _views(self, rows: Sequence[EventRow]) -> list[dict[str, Any]]:
        numbers = {row.customer for row in rows}
        names = await self._core.books.read(partial(event_rows.customer_names, numbers=numbers))
        business_id = self._core.config.account.business_id
        return [event_view(row, names[row.customer], business_id) for row in rows]


def _filter(meter: CompiledMeter | None) -> Callable[[EventRow], bool] | None:
    if meter is None or meter.predicate is None:
        return None
    return lambda row: meter.matches(row.name, decode_body(row.body).meta)


def read_events(core: Core, sent: Sequence[EventInput]) -> list[Request]:
    """Check all events of a request, in order.

    Raises:
        ProblemError: 400, names the first offending event and its field.
    """
    now = core.clock.now()
    seen: set[str] = set()
    requests = []
    for each in sent:
        try:
            if each.event_id in seen:
                raise invalid("event_id", "stands in the request twice")
            seen.add(each.event_id)
            requests.append(_read(core, each, now))
        except ProblemError as error:
            raise ProblemError(blame(each.event_id, error.problem)) from None
    return requests


def _read(core: Core, sent: EventInput, now: int) -> Request:
    if sent.metadata is not None:
        check_metadata(sent.metadata)
    body = EventBody(
        event_name=sent.event_name,
        event_idempotency_key=sent.event_id,
        customer_reference_id=sent.customer_id,
        occurred_at=sent.timestamp,
        meta=sent.metadata,
    )
    read = commands.read_request(core, body, Source.DODO)
    if read.event.occurred_at < now - OLDEST_US:
        raise invalid("timestamp", f"{sent.timestamp} is older than 1 hour")
    if read.event.occurred_at > now + NEWEST_US:
        raise invalid("timestamp", f"{sent.timestamp} lies more than 5 minutes in the future")
    return read


def check_metadata(metadata: dict[str, Any]) -> None:
    """Hold metadata to Dodo's limits: 50 pairs, keys of 100 characters, values of 500, scalars only.

    Raises:
        ProblemError: 400, names the pair.
    """
    if len(metadata) > METADATA_PAIRS_MAX:
        with dodo.refusing(dodo.TOO_MANY_KEYS, status=400):
            text = f"must have at most {METADATA_PAIRS_MAX} pairs, here are {len(metadata)}"
            raise invalid("metadata", text)
    for key, value in metadata.items():
        if len(key) > KEY_CHARACTERS_MAX:
            raise invalid("metadata", f"the key {key[:20]!r}… has more than {KEY_CHARACTERS_MAX} characters")
        if isinstance(value, str):
            if len(value) > VALUE_CHARACTERS_MAX:
                raise invalid(f"metadata.{key}", f"must have at most {VALUE_CHARACTERS_MAX} characters")
        elif value is None or isinstance(value, dict | list):
            raise invalid(f"metadata.{key}", "must be a string, a number or a boolean")


def blame(event_id: str, problem: Problem) -> Problem:
    """Return a problem that names the event to blame, and its field as Dodo calls it."""
    head, dot, rest = (problem.field or "").partition(".")
    field = _DODO_NAMES.get(head, head) + dot + rest
    sentence = f"{field}: {problem.message}" if field else problem.message
    message = f"event {event_id[:_SHOWN_CHARACTERS]!r}: {sentence}"
    return msgspec.structs.replace(problem, field=None, message=message)


def count_new(requests: Sequence[Request], outcomes: Sequence[Outcome]) -> int:
    """Count the events that are newly stored; those known already are not counted.

    Raises:
        ProblemError: any event that could not be stored, such as one whose credits are used up; where one may
            succeed later, that one, so that the client repeats the request. The others are stored.
    """
    problems = [
        (each.event.key, commands.short_problem(outcome) if isinstance(outcome, Refused) else outcome)
        for each, outcome in zip(requests, outcomes, strict=True)
        if isinstance(outcome, Problem | Refused)
    ]
    for _, problem in problems:
        if problem.code in (Code.RATE_LIMITED, Code.UNAVAILABLE):
            raise ProblemError(problem)
    if problems:
        raise ProblemError(blame(*problems[0]))
    return sum(isinstance(outcome, Accepted) for outcome in outcomes)


def event_view(row: EventRow, customer: str, business_id: str) -> dict[str, Any]:
    """Return an event as Dodo shows it: the timestamp as it was sent, every digit of the metadata."""
    body = decode_body(row.body)
    view = {
        "business_id": business_id,
        "customer_id": customer,
        "event_id": row.key,
        "event_name": row.name,
        "timestamp": body.occurred_at or iso(row.occurred_at),
    }
    return view if body.meta is None else {**view, "metadata": body.meta}
