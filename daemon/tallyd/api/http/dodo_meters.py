"""Dodo's meters: made, listed, archived and brought back (CONTRACTS 2.3).

Meters of the catalog file are listed beside those made here. An archived meter goes on answering for its id;
it is only left out of the list.
"""

from typing import Any, Final

import msgspec
from quart import Response
from quart_trio import QuartTrio

from tallyd.api.http import dodo
from tallyd.api.http.family import Family, answer, body_bytes, flag_parameter
from tallyd.api.wire import Decoder
from tallyd.clock import new_uuid
from tallyd.core import Core
from tallyd.engine.events import check_identifier
from tallyd.engine.filters import FilterError
from tallyd.engine.metering import compile_meter
from tallyd.model.catalog import Aggregation, Filter, Meter
from tallyd.model.moments import iso
from tallyd.model.problems import invalid, not_found
from tallyd.store.catalog_rows import StoredMeter

DESCRIPTION_CHARACTERS_MAX: Final = 1_000
PREFIX: Final = "mtr_"


class MeterInput(msgspec.Struct, frozen=True, kw_only=True):
    """Body of POST /meters. Aggregations are Dodo's count, sum, max, last, and `unique`, which is ours."""

    name: str
    event_name: str
    measurement_unit: str
    aggregation: Aggregation
    description: str | None = None
    filter: Filter | None = None


_decode = Decoder(MeterInput)


class DodoMeters:
    """Handlers of `/meters`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        family.route(app, "/meters", "POST", "admin", self.create)
        family.route(app, "/meters", "GET", "read", self.list_meters)
        family.route(app, "/meters/<meter_id>", "GET", "read", self.retrieve)
        family.route(app, "/meters/<meter_id>", "DELETE", "admin", self.archive)
        family.route(app, "/meters/<meter_id>/unarchive", "POST", "admin", self.unarchive)

    async def create(self) -> Response:
        """Make a meter: 201, or 422 with the field that is wrong."""
        with dodo.refusing(dodo.INVALID_BODY):
            definition = read_meter(_decode(await body_bytes()))
        now = self._core.clock.now()
        meter = StoredMeter(definition.key, None, definition, now, now, None)
        await self._core.catalogue.write_meter(meter, self._core.writer)
        return answer(self._view(meter), 201)

    async def list_meters(self) -> Response:
        """List meters, newest first; `archived=true` lists the archived ones instead."""
        page = dodo.asked_page()
        with dodo.refusing(dodo.INVALID_QUERY):
            archived = flag_parameter("archived")
        meters = sorted(
            (
                meter
                for meter in self._core.catalogue.meters.values()
                if (meter.archived_at is not None) is archived
            ),
            key=lambda meter: (meter.created_at, meter.id),
            reverse=True,
        )
        return dodo.items([self._view(meter) for meter in meters[page.start : page.end]])

    async def retrieve(self, meter_id: str) -> Response:
        """Return a meter, archived or not."""
        return answer(self._view(self._meter(meter_id)))

    async def archive(self, meter_id: str) -> Response:
        """Archive a meter: 204, also when it is archived already."""
        meter = self._meter(meter_id)
        if meter.archived_at is None:
            await self._write(meter, archived_at=self._core.clock.now())
        return Response(b"", 204)

    async def unarchive(self, meter_id: str) -> Response:
        """Bring a meter back: 200, also when it is not archived."""
        meter = self._meter(meter_id)
        if meter.archived_at is not None:
            await self._write(meter, archived_at=None)
        return answer(self._view(self._meter(meter_id)))

    async def _write(self, meter: StoredMeter, *, archived_at: int | None) -> None:
        now = self._core.clock.now()
        changed = msgspec.structs.replace(meter, updated_at=now, archived_at=archived_at)
        await self._core.catalogue.write_meter(changed, self._core.writer)

    def _meter(self, meter_id: str) -> StoredMeter:
        meter = self._core.catalogue.meters.get(meter_id)
        if meter is None:
            raise not_found(f"there is no meter {meter_id!r}")
        return meter

    def _view(self, meter: StoredMeter) -> dict[str, Any]:
        return meter_view(meter, self._core.config.account.business_id)


def read_meter(sent: MeterInput) -> Meter:
    """Check a meter as sent and give it an id, which is its key as well.

    Raises:
        ProblemError: names the field.
    """
    check_identifier("name", sent.name)
    check_identifier("event_name", sent.event_name)
    check_identifier("measurement_unit", sent.measurement_unit)
    if sent.aggregation.key:
        check_identifier("aggregation.key", sent.aggregation.key)
    if sent.description is not None and len(sent.description) > DESCRIPTION_CHARACTERS_MAX:
        raise invalid("description", f"must have at most {DESCRIPTION_CHARACTERS_MAX} characters")
    meter = Meter(
        key=PREFIX + new_uuid().replace("-", ""),
        event_name=sent.event_name,
        aggregation=sent.aggregation,
        name=sent.name,
        description=sent.description,
        measurement_unit=sent.measurement_unit,
        filter=sent.filter,
    )
    try:
        compile_meter(meter)
    except FilterError as error:
        raise invalid(error.field, error.message) from None
    return meter


def meter_view(meter: StoredMeter, business_id: str) -> dict[str, Any]:
    """Return a meter as Dodo shows it; what it does not have is left out."""
    definition = meter.definition
    aggregation = {"type": definition.aggregation.type, "key": definition.aggregation.key}
    view = {
        "id": meter.id,
        "business_id": business_id,
        "name": definition.name or definition.key,
        "description": definition.description,
        "event_name": definition.event_name,
        "measurement_unit": definition.measurement_unit,
        "aggregation": {name: value for name, value in aggregation.items() if value is not None},
        "filter": definition.filter,
        "created_at": iso(meter.created_at),
        "updated_at": iso(meter.updated_at),
    }
    return {name: value for name, value in view.items() if value is not None}
