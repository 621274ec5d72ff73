"""Test clocks over the native API: see `actors.standing_clocks`.

In a path a clock goes by its customer's reference or UUID, and the daemon's own by `daemon`.
"""

from typing import Final

import msgspec
from quart import Response
from quart_trio import QuartTrio

from tallyd.api import clocking
from tallyd.api.http import tanso
from tallyd.api.http.family import Family, body_bytes
from tallyd.api.wire import Decoder
from tallyd.core import Core

PATH: Final = f"{tanso.MONETIZATION}/clocks"


class MoveInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /clocks/{clock}/advance: by so many seconds, or to an instant."""

    by: int | None = None
    to: str | None = None


_decode_move: Final = Decoder(MoveInput)


class Clocks:
    """Handlers of `/api/v1/monetization/clocks`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        family.route(app, PATH, "GET", "read", self.list)
        family.route(app, PATH, "POST", "admin", self.put)
        family.route(app, f"{PATH}/<clock>/advance", "POST", "admin", self.advance)
        family.route(app, f"{PATH}/<clock>", "DELETE", "admin", self.end)

    async def list(self) -> Response:
        """List the clocks that stand, the daemon's first."""
        return tanso.success(await clocking.clocks(self._core))

    async def put(self) -> Response:
        """Put a customer, made known if need be, or the daemon on a clock: 201."""
        return tanso.success(await clocking.set_clock(self._core, clocking.decode_set(await body_bytes())), 201)

    async def advance(self, clock: str) -> Response:
        """Move a clock forward; answered when all that fell due on the way is in the books."""
        sent: MoveInput = _decode_move(await body_bytes())
        whose = await clocking.named(self._core, clock)
        move = clocking.AdvanceInput(**whose, by=sent.by, to=sent.to)
        return tanso.success(await clocking.advance(self._core, move))

    async def end(self, clock: str) -> Response:
        """End a clock; 409 while it is ahead of the time that would run then."""
        whose = await clocking.named(self._core, clock)
        return tanso.success(await clocking.end(self._core, clocking.EndInput(**whose)))
