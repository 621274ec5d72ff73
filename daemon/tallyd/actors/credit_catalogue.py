"""The rules of credits that customers share: credit models, weights and prices, from the file and over APIs."""

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec
import trio

from tallyd.clock import Clock
from tallyd.engine.credits.prices import Price, Prices, new_price, publish_prices
from tallyd.engine.credits.schedules import AHEAD_US, Published, removal_problem
from tallyd.engine.credits.weights import Weight, Weights, new_weight, publish_weights
from tallyd.model.catalog import CreditModel, CreditPrice, CreditWeight, Definitions
from tallyd.model.problems import Code, Problem, ProblemError, not_found
from tallyd.store import tables
from tallyd.store.batch import Work
from tallyd.store.catalog_rows import (
    StoredCatalog,
    StoredCreditModel,
    credit_model_row,
    price_row,
    weight_row,
)
from tallyd.store.tables import Row, Table
from tallyd.store.writer import Writer

CATALOG: Final = "catalog"
DODO: Final = "dodo"
_NAMESPACE: Final = uuid.UUID("f4b2d1a6-0c55-5f0e-8b1b-6a1f4c7d2e93")


ALWAYS: Final = 0
"""From when a weight holds that is the first for its usage: late events are weighed by it too."""


class CreditLoad(msgspec.Struct, frozen=True):
    """What a new catalog file changes: models made or edited, weights and prices that begin now."""

    models: list[StoredCreditModel]
    weights: list[Weight]
    prices: list[Price]
    keys: frozenset[str]

    def rows(self) -> list[tuple[Table, Row]]:
        """Return what is to be written."""
        return [
            *((tables.CREDIT_MODELS, credit_model_row(model)) for model in self.models),
            *((tables.CREDIT_WEIGHTS, weight_row(weight)) for weight in self.weights),
            *((tables.CREDIT_PRICES, price_row(price)) for price in self.prices),
        ]

    def words(self) -> list[str]:
        """Return what changed, for the log."""
        return [
            *(f"credit model {model.key}" for model in self.models),
            *(f"credit weight {_named(row)} {row.weight}" for row in self.weights),
            *(f"credit price {row.credit_model} {row.price} {row.currency}" for row in self.prices),
        ]


class CreditCatalogue:
    """Credit models, weights and prices, and the only place that changes them.

    A change is in force from the instant it bears, before it is durable: whatever is decided with it is written
    after it. Otherwise an event decided meanwhile would have another charge than the schedule says.

    Args:
        stored: as the books have them.
        clock: the time.
        changing: held while anything of the catalog changes, so that racing changes see each other.
        changed: called when a change is in force.

    Attributes:
        stored: all credit models there ever were, by key.
        models: their rules, by key; also of those deleted or gone from the file, for plans that still name them.
        weights: the whole schedule.
        prices: the whole schedule.
    """

    def __init__(
        self, stored: StoredCatalog, *, clock: Clock, changing: trio.Lock, changed: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._changing = changing
        self._changed = changed
        self._in_file: frozenset[str] = frozenset()
        self.stored: dict[str, StoredCreditModel] = {model.key: model for model in stored.credit_models}
        self.models: Mapping[str, CreditModel] = self._rules()
        self.weights = Weights(stored.credit_weights)
        self.prices = Prices(stored.credit_prices)

    def listed(self) -> list[StoredCreditModel]:
        """Return the models that new pools may be opened of: in the file, or made over an API and not deleted."""
        return [
            model
            for model in self.stored.values()
            if (model.key in self._in_file if model.source == CATALOG else model.deleted_at is None)
        ]

    def find(self, name: str) -> StoredCreditModel | None:
        """Return a model by its key or id, also one that is not listed any more."""
        return self.stored.get(name) or next((model for model in self.stored.values() if model.id == name), None)

    def load(self, definitions: Definitions, now: int) -> CreditLoad:
        """Return what a checked file changes. It wins: a value other than the one in force begins now."""
        return CreditLoad(
            models=[model for model in (self._of_file(each, now) for each in definitions.credit_models) if model],
            weights=list(self._weights_of_file(definitions.credit_weights, now)),
            prices=list(self._prices_of_file(definitions.credit_prices, now)),
            keys=frozenset(model.key for model in definitions.credit_models),
        )

    def put(self, load: CreditLoad) -> None:
        """Put a load in force."""
        self._in_file = load.keys
        self.stored.update({model.key: model for model in load.models})
        self.models = self._rules()
        self.weights = Weights([*self.weights.rows, *load.weights])
        self.prices = Prices([*self.prices.rows, *load.prices])
        self._changed()

    async def make_credit_model(self, model: StoredCreditModel, writer: Writer) -> None:
        """Keep a new credit model.

        Raises:
            ProblemError: its key was used before, or its denomination is that of another model.
        """
        async with self._changing:
            denomination = model.definition.denomination
            if any(
                other.definition.denomination == denomination for other in self.listed() if other.source != DODO
            ):
                raise _taken("denomination", f"another credit model counts in {denomination}")
            if model.key in self.stored:
                raise _taken("key", f"{model.key!r} is the key of another credit model, which may be deleted")
            await self._write_credit_model(model, writer)

    async def write_credit_model(self, model: StoredCreditModel, writer: Writer) -> None:
        """Keep a new or changed credit model. Pools that are open keep the rules they have."""
        async with self._changing:
            await self._write_credit_model(model, writer)

    async def _write_credit_model(self, model: StoredCreditModel, writer: Writer) -> None:
        writer.refuse_when_full()
        self.stored[model.key] = model
        self.models = self._rules()
        self._changed()
        await writer.write(Work(rows=[(tables.CREDIT_MODELS, credit_model_row(model))]))

    async def publish_weights(
        self, batch: Sequence[CreditWeight], effective_from: int | None, writer: Writer
    ) -> Published[Weight]:
        """Publish weights from an instant on; None: from now on (E6).

        Raises:
            ProblemError: a bad field, an instant in the past, or another batch at that very instant.
        """
        async with self._changing:
            now = self._clock.now()
            begins = now if effective_from is None else effective_from
            published = _or_raise(publish_weights(self.weights, batch, begins, now))
            if not published.repeated:
                rows = [(tables.CREDIT_WEIGHTS, weight_row(row)) for row in published.rows]
                writer.refuse_when_full()
                self.weights = Weights([*self.weights.rows, *published.rows])
                self._changed()
                await writer.write(Work(rows=rows))
            return published

    async def publish_prices(
        self, batch: Sequence[CreditPrice], effective_from: int | None, writer: Writer
    ) -> Published[Price]:
        """Publish prices from an instant on; None: from now on.

        Raises:
            ProblemError: a bad field, an instant in the past, or another batch at that very instant.
        """
        async with self._changing:
            now = self._clock.now()
            begins = now if effective_from is None else effective_from
            published = _or_raise(publish_prices(self.prices, batch, begins, now))
            if not published.repeated:
                rows = [(tables.CREDIT_PRICES, price_row(row)) for row in published.rows]
                writer.refuse_when_full()
                self.prices = Prices([*self.prices.rows, *published.rows])
                await writer.write(Work(rows=rows))
            return published

    async def delete_weight(self, weight_id: str, writer: Writer) -> Weight:
        """Take a scheduled weight back; return what it was.

        Raises:
            ProblemError: unknown, or in force already.
        """
        async with self._changing:
            row = next((row for row in self.weights.rows if row.id == weight_id), None)
            if row is None:
                raise not_found(f"there is no weight {weight_id!r}")
            _refuse(removal_problem(row, self._clock.now(), AHEAD_US))
            writer.refuse_when_full()
            self.weights = Weights(other for other in self.weights.rows if other is not row)
            self._changed()
            await writer.write(Work(rows=[(tables.DELETED_WEIGHTS, (row.id,))]))
            return row

    async def delete_price(self, price_id: str, writer: Writer) -> Price:
        """Take a scheduled price back; return what it was.

        Raises:
            ProblemError: unknown, or in force already.
        """
        async with self._changing:
            row = next((row for row in self.prices.rows if row.id == price_id), None)
            if row is None:
                raise not_found(f"there is no price {price_id!r}")
            _refuse(removal_problem(row, self._clock.now()))
            writer.refuse_when_full()
            self.prices = Prices(other for other in self.prices.rows if other is not row)
            await writer.write(Work(rows=[(tables.DELETED_PRICES, (row.id,))]))
            return row

    def _rules(self) -> Mapping[str, CreditModel]:
        return {key: model.definition for key, model in self.stored.items()}

    def _of_file(self, model: CreditModel, now: int) -> StoredCreditModel | None:
        held = self.stored.get(model.key)
        if held is None:
            number = str(uuid.uuid5(_NAMESPACE, f"credit_model:{model.key}"))
            return StoredCreditModel(
                key=model.key, id=number, source=CATALOG, definition=model, created_at=now, updated_at=now
            )
        if held.source == CATALOG and held.definition == model:
            return None
        # A model made over an API moves into the file by having its key written there.
        return msgspec.structs.replace(held, source=CATALOG, definition=model, updated_at=now, deleted_at=None)

    def _weights_of_file(self, given: Iterable[CreditWeight], now: int) -> Iterable[Weight]:
        for each in given:
            timeline = self.weights.timeline(each.feature, each.model or "", each.kind or "")
            begins = timeline.free_instant(now) if timeline.rows else ALWAYS
            held = timeline.at(max(now, begins - 1), now)
            if held is None or held.weight != each.weight:
                yield new_weight(each, begins, now)

    def _prices_of_file(self, given: Iterable[CreditPrice], now: int) -> Iterable[Price]:
        for each in given:
            timeline = self.prices.timeline(each.credit_model, each.currency)
            begins = timeline.free_instant(now)
            held = timeline.at(max(now, begins - 1), now)
            if held is None or held.price != each.price:
                yield new_price(each, begins, now)


RowT = TypeVar("RowT", Weight, Price)


def _or_raise(decided: Published[RowT] | Problem) -> Published[RowT]:
    if isinstance(decided, Problem):
        raise ProblemError(decided)
    return decided


def _taken(field: str, message: str) -> ProblemError:
    return ProblemError(Problem(code=Code.CONFLICT, field=field, message=message))


def _refuse(problem: Problem | None) -> None:
    if problem:
        raise ProblemError(problem)


def _named(row: Weight) -> str:
    return "/".join(part for part in (row.feature, row.model, row.kind) if part)
