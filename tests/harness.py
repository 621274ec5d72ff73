"""A real daemon for tests: real sockets, a real SQLite file, and a clock that stands until it is moved."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import trio
from dodopayments import AsyncDodoPayments

from tallyd.actors.keys import SCOPES
from tallyd.clock import FixedClock
from tallyd.config import load_config
from tallyd.core import Core
from tallyd.model.customer import CustomerRef, RefKind
from tallyd.model.moments import parse_iso
from tallyd.pricing.registry import Registry
from tallyd.service import Service

NOW: Final = parse_iso("2026-11-21T12:00:00Z")
PATIENCE_S: Final = 30
_CLIENT: Final[dict[str, Any]] = {
    "timeout": PATIENCE_S,
    "trust_env": False,
    "verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # never used; making one for each client takes long
}
CATALOG: Final = """
[[features]]
key = "api_request"
name = "API requests"

[[meters]]
key = "calls"
event_name = "api_call"
aggregation = { type = "count" }

[[plans]]
key = "pro"
name = "Pro"

[[plans.features]]
feature = "api_request"
pricing = { model = "usage", price_per_unit = "0.10", usage_unit_type = "call" }
"""


class Running(msgspec.Struct, kw_only=True):
    """A daemon that runs, and the ways to talk to it.

    Attributes:
        service: the daemon.
        core: its parts.
        clock: its time.
        url: where it serves HTTP.
        key: an API key that may do everything.
        http: a client that sends the key.
        dodo: Dodo's own client, aimed at the daemon; it does not repeat refused requests.
        path: the SQLite file.
    """

    service: Service
    core: Core
    clock: FixedClock
    url: str
    key: str
    http: httpx.AsyncClient
    dodo: AsyncDodoPayments
    path: Path

    async def key_for(self, *scopes: str) -> dict[str, str]:
        """Return the header of a new key that has only these scopes."""
        key = await self.core.keys.create("test", scopes, self.core.writer)
        return {"Authorization": f"Bearer {key}"}

    async def subscribe(self, reference: str, plan: str = "pro", **fields: Any) -> str:
        """Put a customer on a plan; return the subscription's id."""
        body = {"customerReferenceId": reference, "planKey": plan, **fields}
        reply = await self.http.post("/api/v1/client/subscriptions", json=body)
        assert reply.status_code == 201, reply.text
        return str(reply.json()["data"]["subscription"]["id"])

    async def position(self, reference: str) -> int:
        """Return the position that a customer's ledger has come to."""
        return (await self.core.directory.account(CustomerRef(RefKind.REFERENCE, reference))).position


@cache
def plugins(inline: tuple[str, ...], disabled: tuple[str, ...]) -> Registry:
    """The installed plugins, found once for all daemons of a run."""
    return Registry(inline=inline, disabled=disabled)


@asynccontextmanager
async def running(
    directory: Path, *, catalog: str = CATALOG, clock: FixedClock | None = None, **settings: Any
) -> AsyncIterator[Running]:
    """Run a daemon until the block is left. Running again in the same directory finds the same books.

    Args:
        directory: where catalog and books are.
        catalog: text of the catalog file.
        clock: the time; stands at `NOW` when not given.
        settings: as in tallyd.toml, sections joined by two underscores: `customers__auto_create=False`.
    """
    clock = clock or FixedClock(NOW)
    path = directory / "catalog.toml"
    await trio.Path(path).write_text(catalog, encoding="utf-8")
    overrides = {
        "store.data_dir": str(directory / "data"),
        "catalog": str(path),
        "http.bind": "127.0.0.1:0",
        **{name.replace("__", "."): value for name, value in settings.items()},
    }
    ready = trio.Event()
    config = load_config(None, {}, overrides)
    registry = plugins(config.plugins.inline, config.plugins.disabled)
    service = Service(config, registry=registry, clock=clock, on_ready=lambda _: ready.set())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        with trio.fail_after(PATIENCE_S):
            await ready.wait()
        async with _clients(service, clock) as daemon:
            try:
                yield daemon
            finally:
                service.stop()


@asynccontextmanager
async def _clients(service: Service, clock: FixedClock) -> AsyncIterator[Running]:
    assert service.core is not None, "it is ready"
    assert service.http_address is not None, "it serves HTTP"
    core, url = service.core, service.http_address
    key = await core.keys.create("tests", SCOPES, core.writer)
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        httpx.AsyncClient(base_url=url, headers=headers, **_CLIENT) as http,
        httpx.AsyncClient(**_CLIENT) as plain,
    ):
        yield Running(
            service=service,
            core=core,
            clock=clock,
            url=url,
            key=key,
            http=http,
            dodo=AsyncDodoPayments(bearer_token=key, base_url=url, max_retries=0, http_client=plain),
            path=service.config.data_dir / "tallyd.db",
        )
