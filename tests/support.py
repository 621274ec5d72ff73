"""What tests of the core share: events, plans and accounts in a line, a core without interfaces, a socket peer."""

import itertools
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from tallyd.actors.intake import Request
from tallyd.actors.messages import Outcome, Subscribe, SubscribeTerms
from tallyd.api.socket.methods import Methods
from tallyd.api.socket.server import SocketServer, listen_unix
from tallyd.clock import FixedClock
from tallyd.config import Config, load_config
from tallyd.core import Core, open_core
from tallyd.engine import events, recording
from tallyd.engine.account import Account, Changes, Enrolment, apply
from tallyd.engine.catalog import check_catalog, price_plan, read_catalog
from tallyd.engine.costs import CostRule, Versions
from tallyd.engine.passing import pass_time
from tallyd.engine.rating import PricedPlan
from tallyd.engine.recording import Denied, Recorded
from tallyd.engine.rows import ChargeRow, EventRow
from tallyd.engine.terms import Terms
from tallyd.model.customer import Customer, CustomerRef, RefKind
from tallyd.model.event import CostInput, EventBody, Source, UsageEvent
from tallyd.model.moments import parse_iso
from tallyd.model.periods import Cycle
from tallyd.model.subscription import Phase, Subscription
from tallyd.pricing.prices import DatedPrices, ProviderPrices, TokenPrices
from tallyd.pricing.registry import Registry

INLINE: Final = ("included", "usage", "graduated", "llm_tokens")
NOW: Final = parse_iso("2026-11-21T12:00:00Z")
LONG_AGO: Final = parse_iso("2020-01-01T00:00:00Z")
THIS_MONTH: Final = parse_iso("2026-11-01T00:00:00Z")
"""Where a subscription starts that need not have lived through many periods."""
PATIENCE_S: Final = 30
MODELS: Final = Registry(inline=INLINE).models

_numbers = itertools.count(1)


def at(text: str) -> int:
    """Microseconds of an instant."""
    return parse_iso(text)


# Engine


def event(name: str = "call", key: str | None = None, **fields: Any) -> UsageEvent:
    """An event as the interfaces make it. Fields are those of `EventBody`; `at` is its time in microseconds.

    Tokens are given by field of `CostInput`, such as `input_tokens=5`, and so are `model` and `model_provider`.
    """
    moment = fields.pop("at", NOW)
    body = {name: value for name, value in fields.items() if name in EventBody.__struct_fields__}
    cost = {name: value for name, value in fields.items() if name in CostInput.__struct_fields__}
    assert len(body) + len(cost) == len(fields), "a misspelt field would test nothing"
    for exact in ("usage_units", "cost_amount", "revenue_amount"):
        if body.get(exact) is not None:
            body[exact] = Decimal(body[exact])
    cost = {name: value if name.startswith("model") else Decimal(value) for name, value in cost.items()}
    if cost:
        body["cost_input"] = CostInput(**cost)
    read = events.read_event(
        EventBody(event_name=name, **body),
        source=Source.TANSO,
        key=key,
        new_key=lambda: f"key-{next(_numbers)}",
        now=NOW,
        feature_named=lambda _: None,
    )
    return msgspec.structs.replace(read, occurred_at=moment)


def priced(catalog: str, version: int = 1, models: Any = MODELS) -> PricedPlan:
    """The first plan of a catalog, ready to count and price."""
    definitions = read_catalog(catalog, "test.toml")
    check_catalog(definitions, models, "test.toml")
    meters = {meter.key: meter for meter in definitions.meters}
    return price_plan(definitions.plans[0], version, meters, models)


def plan_of(pricing: str, *, meter: str = "", extra: str = "", feature: str = "api") -> PricedPlan:
    """A plan with one feature, priced as the TOML inline table says."""
    meters = f'[[meters]]\nkey = "meter"\n{meter}\n' if meter else ""
    used = 'meter = "meter"\n' if meter else ""
    return priced(
        f'[[features]]\nkey = "{feature}"\n{meters}[[plans]]\nkey = "plan"\nname = "Plan"\n'
        f'[[plans.features]]\nfeature = "{feature}"\n{used}pricing = {pricing}\n{extra}'
    )


def enrolment(plan: PricedPlan, number: int = 1, **fields: Any) -> Enrolment:
    """A subscription to a plan."""
    given = {"starts_at": LONG_AGO, "ends_at": None, "renewed_to": -1, **fields}
    anchor = given.pop("anchor_day", 1)
    months = given.pop("interval_months", plan.interval_months)
    cycle = Cycle(given["starts_at"], anchor, months, plan.interval_days)
    subscription = Subscription(
        number=number,
        id=f"subscription-{number}",
        customer=1,
        created_at=NOW,
        phases=[Phase(given["starts_at"], plan.key, plan.version, cycle)],
        **given,
    )
    if given["renewed_to"] < 0 and subscription.active_at(NOW):
        subscription = msgspec.structs.replace(subscription, renewed_to=subscription.period_at(NOW).start)
    return Enrolment(subscription, plan)


def account_on(*plans: PricedPlan, **fields: Any) -> Account:
    """A known customer on some plans."""
    customer = Customer(number=1, id="customer-1", reference="acme", stripe_id=None, created_at=NOW)
    enrolments = [enrolment(plan, number, **fields) for number, plan in enumerate(plans, start=1)]
    return Account(customer, known=True, enrolments=enrolments)


def terms(
    prices: dict[tuple[str, str | None], ProviderPrices | None] | None = None, default: CostRule | None = None
) -> Terms:
    """What holds for the whole account."""
    return Terms(prices=prices or {}, default_cost=default, versions=Versions(), currency="USD")


def provider_prices(model: str, **per_million: int | str) -> ProviderPrices:
    """What a provider charges for a model, always."""
    prices = TokenPrices(per_million={kind: Decimal(price) for kind, price in per_million.items()})
    return ProviderPrices(model=model, provider="", source="test", history=(DatedPrices(prices=prices),))


class Ledger:
    """Plays events on one account as its actor does, and keeps all that would be written."""

    def __init__(self, account: Account, terms_: Terms | None = None) -> None:
        self.account = account
        self.terms = terms_ or terms()
        self.changes: list[Changes] = []
        self.rows: list[EventRow] = []
        self.charges: list[ChargeRow] = []
        self.number = itertools.count(1).__next__

    def record(self, happened: UsageEvent) -> Recorded:
        """Record an event as a fact."""
        self.let_time_pass()
        decided = recording.record(self.account, happened, number=self.number, now=NOW, terms=self.terms)
        self._keep(decided)
        return decided

    def consume(self, asked: UsageEvent) -> Recorded | Denied:
        """Record an event if it fits."""
        self.let_time_pass()
        decided = recording.consume(self.account, asked, number=self.number, now=NOW, terms=self.terms)
        if isinstance(decided, Recorded):
            self._keep(decided)
        return decided

    def let_time_pass(self) -> None:
        """Write what time has done."""
        while (changes := pass_time(self.account, NOW, self.number)) is not None:
            apply(self.account, changes)
            self.changes.append(changes)

    def _keep(self, decided: Recorded) -> None:
        apply(self.account, decided.changes)
        self.changes.append(decided.changes)
        self.rows.append(decided.row)
        self.charges.extend(decided.charges)


# Core

CATALOG: Final = """
[[features]]
key = "api"

[[features]]
key = "seats"

[[meters]]
key = "active"
event_name = "user.active"
aggregation = { type = "unique", key = "user_id" }

[[plans]]
key = "pro"
name = "Pro"
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = "0.10" }

[[plans]]
key = "capped"
name = "Capped"
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = "0.10", max_usage = 100 }
[[plans.features]]
feature = "seats"
meter = "active"
pricing = { model = "included", max_usage = 3 }
"""


def settings(directory: Path, catalog: str = CATALOG, **overrides: Any) -> Config:
    """Settings of a daemon in a directory; sections are joined by two underscores."""
    path = directory / "catalog.toml"
    path.write_text(catalog, encoding="utf-8")
    given = {
        "store.data_dir": str(directory / "data"),
        "catalog": str(path),
        "http.bind": "none",
        "plugins.budget_ms": 30_000,  # so that a busy machine decides no test; tests of hanging set their own
        **{name.replace("__", "."): value for name, value in overrides.items()},
    }
    return load_config(None, {}, given)


@cache
def found(inline: tuple[str, ...]) -> Registry:
    """The installed plugins, found once for all cores of a run."""
    return Registry(inline=inline)


@asynccontextmanager
async def open_test_core(
    directory: Path, catalog: str = CATALOG, *, plugins: Iterable[object] = (), **overrides: Any
) -> AsyncIterator[Core]:
    """A core on real books, at a standing time. Opening again in the same directory finds the same books."""
    config = settings(directory, catalog, **overrides)
    extra = [*plugins]
    registry = Registry(inline=config.plugins.inline, extra=extra) if extra else found(config.plugins.inline)
    with trio.fail_after(PATIENCE_S):
        async with open_core(config, registry=registry, clock=FixedClock(NOW)) as core:
            yield core


def reference(name: str) -> CustomerRef:
    """A customer by the app's own id."""
    return CustomerRef(RefKind.REFERENCE, name)


def request(customer: str, key: str | None = None, name: str = "call", **fields: Any) -> Request:
    """An event and whom it is about."""
    return Request(reference(customer), event(name, key, **{"feature_key": "api", "usage_units": 1, **fields}))


async def ingest(core: Core, *requests: Request, consuming: bool = False) -> list[Outcome]:
    """Record events, and wait until they are durable."""
    return await core.intake.ingest(requests, recording.consume if consuming else recording.record)


async def subscribe(core: Core, customer: str, plan: str = "pro", starts_at: int = THIS_MONTH) -> None:
    """Put a customer on a plan."""
    priced_plan = core.catalogue.latest(plan)
    assert priced_plan is not None, "the catalog has the plan"
    terms_ = SubscribeTerms(plan=priced_plan, starts_at=starts_at, anchor_day=1)
    await core.intake.ask(reference(customer), Subscribe(terms_))


async def rows(core: Core, sql: str, *values: object) -> list[tuple[Any, ...]]:
    """Read from the books."""
    found: list[tuple[Any, ...]] = await core.books.read(lambda books: books.execute(sql, values).fetchall())
    return found


# Socket


class Peer:
    """A client of the Unix socket: one JSON message a line."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = bytearray()
        self._ids = itertools.count(1)

    async def send(self, *messages: object) -> None:
        """Send messages, each as a line; bytes are sent as they are."""
        lines = [each if isinstance(each, bytes) else msgspec.json.encode(each) + b"\n" for each in messages]
        await self.stream.send_all(b"".join(lines))

    async def line(self) -> Any:
        """Return the next message; None when the daemon has closed."""
        while b"\n" not in self._buffer:
            received = await self.stream.receive_some(65_536)
            if not received:
                return None
            self._buffer += received
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        return msgspec.json.decode(line)

    async def call(self, method: str, **params: Any) -> Any:
        """Ask one thing and return the whole answer."""
        number = next(self._ids)
        await self.send({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        answer = await self.line()
        assert answer["id"] == number, answer
        return answer

    async def result(self, method: str, **params: Any) -> Any:
        """Ask one thing that must succeed, and return its result."""
        answer = await self.call(method, **params)
        assert "result" in answer, answer
        return answer["result"]


@asynccontextmanager
async def connected(path: str) -> AsyncIterator[Peer]:
    """Connect to a Unix socket."""
    async with await trio.open_unix_socket(path) as stream:
        yield Peer(stream)


class Served(msgspec.Struct):
    """A core that is served on a Unix socket."""

    core: Core
    path: str
    server: SocketServer

    def peer(self) -> Any:
        """Connect."""
        return connected(self.path)


@asynccontextmanager
async def served(directory: Path, catalog: str = CATALOG, **overrides: Any) -> AsyncIterator[Served]:
    """Serve a core on a Unix socket until the block is left."""
    async with open_test_core(directory, catalog, **overrides) as core:
        path = str(directory / "s.sock")
        server = SocketServer(Methods(core), core.config.socket)
        with listen_unix(path, core.config.socket) as listener:
            async with trio.open_nursery() as nursery:
                await nursery.start(server.serve, listener)
                yield Served(core, path, server)
                nursery.cancel_scope.cancel()
