"""Holds over the native API: reserve, settle, release, as on the socket."""

from http import HTTPStatus

import msgspec
from quart import Response
from quart_trio import QuartTrio

from tallyd.api import consuming
from tallyd.api.http import tanso
from tallyd.api.http.family import Family, body_bytes, header_text
from tallyd.api.http.replays import request_key
from tallyd.core import Core
from tallyd.model.event import Source
from tallyd.model.problems import invalid


class Holds:
    """Handlers of `/api/v1/client/holds`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        path = f"{tanso.CLIENT}/holds"
        family.route(app, path, "POST", "ingest", self.reserve)
        family.route(app, f"{path}/<hold_id>", "GET", "read", self.hold)
        family.route(app, f"{path}/<hold_id>/settle", "POST", "ingest", self.settle)
        family.route(app, f"{path}/<hold_id>/release", "POST", "ingest", self.release)
        family.route(app, f"{path}/<hold_id>", "DELETE", "ingest", self.release)

    async def reserve(self) -> Response:
        """Hold what usage may come to: 201; 200 when it does not fit, or for a key that made a hold before."""
        sent = consuming.decode_reserve(await body_bytes())
        if sent.idempotency_key is None:
            sent = msgspec.structs.replace(sent, idempotency_key=request_key())
        answer = await consuming.reserve(self._core, sent)
        made = answer["allowed"] and "duplicate" not in answer
        return tanso.success(answer, HTTPStatus.CREATED if made else HTTPStatus.OK)

    async def hold(self, hold_id: str) -> Response:
        """Return a hold as it stands now."""
        return tanso.success(await consuming.hold_status(self._core, hold_id))

    async def settle(self, hold_id: str) -> Response:
        """Record the usage a hold was made for, and give the rest back; `X-Idempotency-Key` is the event's key."""
        sent = consuming.decode_settle(await body_bytes())
        if sent.hold_id not in (None, hold_id):
            raise invalid("holdId", "is another one than in the path")
        key = header_text("X-Idempotency-Key") or sent.event_idempotency_key
        sent = msgspec.structs.replace(sent, hold_id=hold_id, event_idempotency_key=key)
        return tanso.success(await consuming.settle(self._core, sent, Source.TANSO))

    async def release(self, hold_id: str) -> Response:
        """Give back what a hold has set aside; one that has ended is answered as it stands."""
        return tanso.success(await consuming.release(self._core, hold_id))
