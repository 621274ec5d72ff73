"""The socket's methods. `check` is answered on the spot when the customer is resident; the rest may wait."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import msgspec

from tallyd import __version__
from tallyd.actors.messages import Rerate
from tallyd.api import commands, consuming, entitling
from tallyd.api.checkout import with_checkout
from tallyd.api.entitling import EntitlementView
from tallyd.api.socket.billing_methods import BillingMethods
from tallyd.api.socket.credit_methods import CreditMethods
from tallyd.api.subscribing import subscribe
from tallyd.api.whatif import WhatIfs
from tallyd.api.wire import Decoder
from tallyd.clock import new_uuid
from tallyd.core import Core
from tallyd.engine.events import check_number
from tallyd.model.customer import CustomerRef, RefKind
from tallyd.model.event import EventBody, Source
from tallyd.model.problems import invalid
from tallyd.store import event_rows
from tallyd.store.event_rows import EventQuery

RERATE_PAGE: Final = 500


class CheckInput(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """Params of `check`."""

    customer_reference_id: str
    feature_key: str


class KeyInput(msgspec.Struct, frozen=True):
    """Params of `keys.create`."""

    name: str
    scopes: tuple[str, ...] = ("ingest", "read", "admin")


_decode_check = msgspec.json.Decoder(CheckInput).decode
_decode_check_slowly = Decoder(CheckInput)
_decode_key = Decoder(KeyInput)

Method = Callable[[msgspec.Raw], Awaitable[Any]]


class Methods:
    """What can be asked over the socket, and with which scope."""

    def __init__(self, core: Core, reload: Callable[[], Awaitable[list[str]]] | None = None) -> None:
        self._core = core
        self._reload = reload or core.reload_catalog
        self.table: dict[str, tuple[str, Method]] = {
            "ping": ("", self.ping),
            "check": ("read", self.check),
            "evaluate": ("read", self.evaluate),
            "ingest": ("ingest", self.ingest),
            "consume": ("ingest", self.consume),
            "reserve": ("ingest", self.reserve),
            "settle": ("ingest", self.settle),
            "release": ("ingest", self.release),
            "subscribe": ("admin", self.subscribe),
            "keys.create": ("admin", self.create_key),
            "catalog.reload": ("admin", self.reload),
            "rerate": ("admin", self.rerate),
            "whatif": ("admin", WhatIfs(core).answer),
            **CreditMethods(core).table,
            **BillingMethods(core).table,
        }

    def check_at_once(self, params: msgspec.Raw) -> EntitlementView | None:
        """Answer a check without waiting, or None when it has to be loaded or refused the long way."""
        try:
            request = _decode_check(params)
        except msgspec.MsgspecError:
            return None
        reference = request.customer_reference_id
        account = self._core.directory.resident_named(reference)
        if account is None or not account.known:
            return None
        return entitling.answer_check(self._core, account, reference, request.feature_key)

    async def ping(self, _params: msgspec.Raw) -> Any:
        """Answer that somebody is there."""
        return {"pong": True, "version": __version__}

    async def check(self, params: msgspec.Raw) -> Any:
        """Answer a check, loading the customer first."""
        request: CheckInput = _decode_check_slowly(params)
        return await entitling.check(self._core, request.customer_reference_id, request.feature_key)

    async def evaluate(self, params: msgspec.Raw) -> Any:
        """Answer an evaluate, as HTTP does."""
        return await entitling.evaluate(self._core, entitling.decode_evaluate(params), new_uuid())

    async def ingest(self, params: msgspec.Raw) -> Any:
        """Record 1 to 1,000 events; one result each, in order."""
        batch = commands.decode_batch(params)
        return {"results": await commands.ingest_batch(self._core, batch.events, Source.SOCKET)}

    async def consume(self, params: msgspec.Raw) -> Any:
        """Check and ingest in one step: recorded within the limit, or refused and nothing recorded."""
        body: EventBody = commands.decode_event(params)
        units = body.usage_units
        if units is not None and check_number("usageUnits", units, negative=True) <= 0:
            raise invalid("usageUnits", "must be greater than zero")
        return await consuming.consume(self._core, body)

    async def reserve(self, params: msgspec.Raw) -> Any:
        """Hold what usage may come to, or say why it does not fit."""
        return await consuming.reserve(self._core, consuming.decode_reserve(params))

    async def settle(self, params: msgspec.Raw) -> Any:
        """Record the usage a hold was made for, and give the rest back."""
        return await consuming.settle(self._core, consuming.decode_settle(params))

    async def release(self, params: msgspec.Raw) -> Any:
        """Give back what a hold has set aside."""
        request = consuming.decode_release(params)
        return await consuming.release(self._core, request.hold_id, request.customer_reference_id)

    async def subscribe(self, params: msgspec.Raw) -> Any:
        """Put a customer on a plan, as HTTP does."""
        return await with_checkout(self._core, await subscribe(self._core, params))

    async def create_key(self, params: msgspec.Raw) -> Any:
        """Make an API key and return it, once."""
        request: KeyInput = _decode_key(params)
        return {"key": await self._core.keys.create(request.name, request.scopes, self._core.writer)}

    async def reload(self, _params: msgspec.Raw) -> Any:
        """Read the catalog file again."""
        return {"changed": await self._reload()}

    async def rerate(self, _params: msgspec.Raw) -> Any:
        """Price all unpriced events for which a price exists now."""
        core = self._core
        core.catalogue.forget_prices()
        query = EventQuery(unpriced=True, limit=RERATE_PAGE)
        seen = priced = 0
        while True:
            rows = await core.books.scan(partial(event_rows.list_events, query=query))
            if not rows:
                return {"unpriced": seen, "priced": priced}
            ids = await core.books.scan(partial(event_rows.customer_ids, customers={row.customer for row in rows}))
            before = priced
            for row in rows:
                message = Rerate(row.id)
                await core.intake.ask(CustomerRef(RefKind.ID, ids[row.customer]), message)
                priced += message.complete
            seen += len(rows)
            left = len(rows) - (priced - before)
            query = msgspec.structs.replace(query, offset=query.offset + left)
