"""What every actor is given: the shared parts of the daemon, and nothing else."""

from collections.abc import Callable

import msgspec

from tallyd.actors.catalogue import Catalogue
from tallyd.actors.due import Due
from tallyd.actors.worker import Worker
from tallyd.clock import Clocks
from tallyd.pricing.registry import Registry
from tallyd.store.accounts import Sequences
from tallyd.store.books import Books
from tallyd.store.writer import Writer


class Counts(msgspec.Struct):
    """What the metrics are made of, counted where it happens."""

    events: int = 0
    duplicates: int = 0
    denied: int = 0
    refused: int = 0
    unpriced: int = 0
    capped: int = 0
    checks: int = 0
    actor_crashes: int = 0
    overloads: int = 0
    checkouts: int = 0
    checkouts_paid: int = 0
    payments_unmatched: int = 0
    provider_failures: int = 0
    webhooks_refused: int = 0


class Runtime(msgspec.Struct, kw_only=True):
    """The shared parts."""

    books: Books
    writer: Writer
    catalogue: Catalogue
    registry: Registry
    worker: Worker
    clock: Clocks
    due: Due
    sequences: Sequences
    counts: Counts
    auto_create_customers: bool
    time: Callable[[], float]
    new_uuid: Callable[[], str]
