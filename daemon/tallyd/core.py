"""The daemon without its interfaces: books, catalog, actors. What every interface is given."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import structlog
import trio

from tallyd.actors.catalogue import Catalogue
from tallyd.actors.directory import Directory
from tallyd.actors.due import Due
from tallyd.actors.idempotency import Claims
from tallyd.actors.intake import Intake
from tallyd.actors.keys import KeyRing
from tallyd.actors.runtime import Counts, Runtime
from tallyd.actors.standing_clocks import StandingClocks
from tallyd.actors.timekeeper import Timekeeper
from tallyd.actors.worker import Worker
from tallyd.clock import Clock, Clocks, new_uuid
from tallyd.config import Config
from tallyd.engine.catalog import CatalogError, CatalogIssue, read_catalog
from tallyd.payments.provider import Provider
from tallyd.pricing.registry import Registry
from tallyd.store import sqlite, tables
from tallyd.store.accounts import load_sequences, load_test_clocks
from tallyd.store.batch import Work
from tallyd.store.books import Books, open_books
from tallyd.store.catalog_rows import load_catalog
from tallyd.store.replay_rows import KEPT_US
from tallyd.store.writer import CommitFailed, Writer

PUT_AWAY_EVERY_S: Final = 15.0
FORGET_EVERY_S: Final = 3_600.0
LAST_WORDS_S: Final = 0.5
"""Between a failed commit and the end: time for the "outcome unknown" answers to get out."""

_log = structlog.get_logger(__name__)


class Core(msgspec.Struct, kw_only=True):
    """The parts. Without a `provider` there are no pages to pay on; those being made are claimed in `opening`."""

    config: Config
    clock: Clocks
    books: Books
    writer: Writer
    registry: Registry
    catalogue: Catalogue
    runtime: Runtime
    directory: Directory
    intake: Intake
    keys: KeyRing
    counts: Counts
    timekeeper: Timekeeper
    standing_clocks: StandingClocks
    provider: Provider | None = None
    opening: Claims = msgspec.field(default_factory=Claims)

    async def reload_catalog(self) -> list[str]:
        """Read the catalog file again and put it in force; return what changed.

        Raises:
            CatalogError: what is wrong with it; the running one stays.
            OSError: the file cannot be read; the running one stays.
        """
        path = self.config.catalog
        if path is None:
            return []
        try:
            text = await trio.Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise CatalogError(path, [CatalogIssue("file", f"is not UTF-8: {error}")]) from None
        return await self.catalogue.replace(read_catalog(text, path), path, self.writer)


@asynccontextmanager
async def open_core(
    config: Config, *, registry: Registry, clock: Clock, provider: Provider | None = None
) -> AsyncIterator[Core]:
    """Start everything but the interfaces; on leaving, all that was accepted is written.

    Without a `provider` invoices are only marked as paid.

    Raises:
        SchemaError: the data directory holds something else.
        CatalogError: the catalog cannot be used.
        CommitFailed: the books could not be written; the process must end.
    """
    config.data_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
    async with open_books(config.data_dir / sqlite.FILE_NAME) as books, trio.open_nursery() as nursery:
        core = await _assemble(config, books, nursery, registry=registry, clock=clock)
        if provider is not None:
            core.provider = provider
            core.writer.on_invoices = provider.changed.note
        nursery.start_soon(_write, core.writer)
        nursery.start_soon(core.writer.check_pools)
        nursery.start_soon(core.intake.run)
        nursery.start_soon(_put_away_idle, core.directory)
        nursery.start_soon(_forget_old_replays, core)
        nursery.start_soon(_warm_prices, registry)
        await core.reload_catalog()
        nursery.start_soon(core.timekeeper.run)
        yield core
        with trio.CancelScope(shield=True):
            await core.writer.drain()
        nursery.cancel_scope.cancel()


async def _assemble(
    config: Config, books: Books, nursery: trio.Nursery, *, registry: Registry, clock: Clock
) -> Core:
    stored = await books.read(load_catalog)
    sequences = await books.read(load_sequences)
    clocks = Clocks(clock, await books.read(load_test_clocks))
    writer = Writer(books)
    catalogue = Catalogue(stored, registry=registry, clock=clocks, currency=config.account.currency)
    counts = Counts()
    runtime = Runtime(
        books=books,
        writer=writer,
        catalogue=catalogue,
        registry=registry,
        worker=Worker(config.plugins.budget_ms / 1_000),
        clock=clocks,
        due=Due(),
        sequences=sequences,
        counts=counts,
        auto_create_customers=config.customers.auto_create,
        time=trio.current_time,
        new_uuid=new_uuid,
    )
    directory = Directory(
        runtime, nursery, resident_max=config.customers.resident_max, idle_s=config.customers.idle_s
    )
    return Core(
        config=config,
        clock=clocks,
        books=books,
        writer=writer,
        registry=registry,
        catalogue=catalogue,
        runtime=runtime,
        directory=directory,
        intake=Intake(runtime, directory),
        keys=KeyRing(stored.keys, clocks),
        counts=counts,
        timekeeper=Timekeeper(runtime, directory),
        standing_clocks=StandingClocks(runtime, directory),
    )


async def _write(writer: Writer) -> None:
    try:
        await writer.run()
    except CommitFailed:
        _log.critical("commit failed: outcome unknown, nothing more is acknowledged, ending")
        await trio.sleep(LAST_WORDS_S)
        raise


async def _put_away_idle(directory: Directory) -> None:
    while True:
        await trio.sleep(PUT_AWAY_EVERY_S)
        directory.put_away_idle()


async def _warm_prices(registry: Registry) -> None:
    """Load the global price table, which takes a second, before the first event needs it."""
    await trio.to_thread.run_sync(registry.warm, abandon_on_cancel=True)


async def _forget_old_replays(core: Core) -> None:
    """Remove answers kept for replay longer than a day: on start, and then every hour."""
    while True:
        row = (core.clock.now() - KEPT_US,)
        core.writer.submit(Work(rows=[(tables.OLD_REPLAYS, row)]), lambda _: None)
        await trio.sleep(FORGET_EVERY_S)
