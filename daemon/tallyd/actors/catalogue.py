"""The running catalog: what all customers share, and the only place that changes it.

A new catalog replaces the running one as a whole, after it was checked and its new versions are durable.
"""

import uuid
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog
import trio

from tallyd.actors.credit_catalogue import CreditCatalogue
from tallyd.actors.plan_catalogue import PlanCatalogue, Surroundings
from tallyd.clock import Clock
from tallyd.engine.catalog import check_catalog, operator_prices, read_cost_rule
from tallyd.engine.costs import CostRule, Versions
from tallyd.engine.credits.prices import Prices
from tallyd.engine.credits.weights import Weights
from tallyd.engine.metering import CompiledMeter, compile_meter
from tallyd.engine.rating import PricedPlan
from tallyd.engine.terms import Terms
from tallyd.model.catalog import CreditModel, Definitions, Feature, Meter, Plan
from tallyd.model.event import UsageEvent
from tallyd.model.problems import Code, Problem, ProblemError, not_found
from tallyd.pricing.prices import ProviderPrices
from tallyd.pricing.registry import Registry
from tallyd.store import tables
from tallyd.store.batch import Work
from tallyd.store.catalog_rows import StoredCatalog, StoredFeature, StoredMeter, plan_row
from tallyd.store.tables import Row, Table
from tallyd.store.writer import Writer

PRICES_REMEMBERED_MAX: Final = 10_000
PRICE_LOOKUP_MAX_S: Final = 5
PRICE_LOOKUPS_MAX: Final = 3
_NAMESPACE: Final = uuid.UUID("0d6f2f2e-3f57-52c8-8a5e-3a3b8d0e6b11")

_encode_meter = msgspec.json.Encoder(order="deterministic", decimal_format="number").encode
_log = structlog.get_logger(__name__)

PriceKey = tuple[str, str | None]


def feature_id(key: str) -> str:
    """Return a feature's UUID: derived from its key, so that racing first uses agree."""
    return str(uuid.uuid5(_NAMESPACE, f"feature:{key}"))


class Catalogue:
    """Features, meters, plans in all their versions, provider prices, and the rules of credits (`credits`)."""

    def __init__(self, stored: StoredCatalog, *, registry: Registry, clock: Clock, currency: str) -> None:
        self._registry = registry
        self._clock = clock
        self._replacing = trio.Lock()
        self.features: dict[str, StoredFeature] = {feature.key: feature for feature in stored.features}
        self.features_by_id = {feature.id: feature for feature in stored.features}
        self._in_file: frozenset[str] = frozenset()
        self.meters: dict[str, StoredMeter] = {meter.id: meter for meter in stored.meters}
        self._compiled: dict[str, CompiledMeter] = {}
        self._default_cost: CostRule | None = None
        self._operator_prices: dict[str, list[ProviderPrices]] = {}
        self.prices: dict[PriceKey, ProviderPrices | None] = {}
        self._learning = trio.Lock()  # many customers ask for the same model at once: one look-up answers them
        self._lookups = trio.CapacityLimiter(PRICE_LOOKUPS_MAX)
        self._currency = currency
        self.credits = CreditCatalogue(
            stored, clock=clock, changing=self._replacing, changed=self._credit_loadchanged
        )
        self.terms = self._terms()
        self.versions = PlanCatalogue(
            stored.plans, registry=registry, clock=clock, changing=self._replacing, surroundings=self._surroundings
        )
        self.plans: Mapping[tuple[str, int], PricedPlan] = self.versions.priced

    def _terms(self) -> Terms:
        return Terms(
            prices=self.prices,
            default_cost=self._default_cost,
            versions=Versions(),
            currency=self._currency,
            weights=self.credits.weights,
            credit_models=self.credits.models,
        )

    def _credit_loadchanged(self) -> None:
        changed = {"weights": self.credits.weights, "credit_models": self.credits.models}
        self.terms = msgspec.structs.replace(self.terms, **changed)

    @property
    def credit_models(self) -> Mapping[str, CreditModel]:
        """The rules of new pools, by key of the credit model."""
        return self.credits.models

    @property
    def weights(self) -> Weights:
        """What usage costs in credits."""
        return self.credits.weights

    @property
    def prices_of_credits(self) -> Prices:
        """What credits cost."""
        return self.credits.prices

    def latest(self, key: str) -> PricedPlan | None:
        """Return the newest version of a plan."""
        held = self.versions.newest.get(key)
        return self.plans[key, held.version] if held else None

    def written(self, key: str, version: int) -> Plan | None:
        """Return a version of a plan as it was written."""
        return self.versions.written(key, version)

    @property
    def listed(self) -> list[str]:
        """The keys of the plans there are: in the file, or made over an API."""
        return [each.key for each in self.versions.listed()]

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            features=frozenset(self.features),
            meters={each.definition.key: each.definition for each in self.meters.values()},
            credit_models=self.credits.models,
        )

    def meter(self, meter_id: str) -> CompiledMeter:
        """Return a meter ready to be asked."""
        if meter_id not in self._compiled:
            self._compiled[meter_id] = compile_meter(self.meters[meter_id].definition)
        return self._compiled[meter_id]

    async def replace(self, definitions: Definitions, source: str, writer: Writer) -> list[str]:
        """Put a new catalog in force; return what changed, for the log.

        Plans that changed get a new version; plans that are gone stay for their subscribers.

        Raises:
            CatalogError: all that is wrong with it; the running one stays.
        """
        async with self._replacing:  # two at once would both make the same next version
            return await self._replace(definitions, source, writer)

    async def _replace(self, definitions: Definitions, source: str, writer: Writer) -> list[str]:
        await trio.to_thread.run_sync(check_catalog, definitions, self._registry.models, source)
        now = self._clock.now()
        features = [self._feature_row(feature, now) for feature in definitions.features]
        meters = [meter for meter in (self._meter_row(each, now) for each in definitions.meters) if meter]
        plans = self.versions.of_file(definitions, now)
        credit_load = self.credits.load(definitions, now)
        rows: list[tuple[Table, Row]] = [
            *((tables.FEATURES, msgspec.structs.astuple(feature)) for feature in features),
            *((tables.METERS, meter_row(meter)) for meter in meters),
            *((tables.PLAN_VERSIONS, plan_row(plan)) for plan in plans),
            *credit_load.rows(),
        ]
        writer.refuse_when_full()
        self.credits.put(credit_load)
        if rows:
            await writer.write(Work(rows=rows))
        for feature in features:
            self._put_feature(feature)
        for meter in meters:
            self._put_meter(meter)
        self.versions.load(definitions, plans)
        self._in_file = frozenset(feature.key for feature in definitions.features)
        self._default_cost = (
            read_cost_rule(definitions.default_cost, "default_cost") if definitions.default_cost else None
        )
        self._operator_prices = operator_prices(definitions.model_prices)
        self.prices = {}
        self.terms = self._terms()
        return [*(f"plan {plan.key} version {plan.version}" for plan in plans), *credit_load.words()]

    def _feature_row(self, feature: Feature, now: int) -> StoredFeature:
        held = self.features.get(feature.key)
        return StoredFeature(
            feature.key,
            feature_id(feature.key),
            feature.name,
            feature.description,
            held.created_at if held else now,
        )

    def _meter_row(self, meter: Meter, now: int) -> StoredMeter | None:
        held = next((each for each in self.meters.values() if each.key == meter.key), None)
        if held is None:
            meter_id = "mtr_" + uuid.uuid5(_NAMESPACE, f"meter:{meter.key}").hex
            return StoredMeter(meter_id, meter.key, meter, now, now, None)
        if held.definition == meter:
            return None
        return StoredMeter(held.id, meter.key, meter, held.created_at, now, held.archived_at)

    def new_feature(self, key: str) -> StoredFeature | None:
        """Return the row of a feature named for the first time, now known; None when it is known already."""
        if key in self.features:
            return None
        feature = StoredFeature(key, feature_id(key), None, None, self._clock.now())
        self._put_feature(feature)
        return feature

    def _put_feature(self, feature: StoredFeature) -> None:
        self.features[feature.key] = feature
        self.features_by_id[feature.id] = feature

    async def make_feature(
        self, key: str, name: str | None, description: str | None, writer: Writer
    ) -> StoredFeature:
        """Keep a new feature, durably.

        Raises:
            ProblemError: there is one of that key.
        """
        async with self._replacing:
            if key in self.features:
                raise _conflict(f"{key!r} is the key of another feature")
            feature = StoredFeature(key, feature_id(key), name, description, self._clock.now())
            await self._write_feature(tables.FEATURES, feature, writer)
            return feature

    async def change_feature(self, key: str, change: Mapping[str, str | None], writer: Writer) -> StoredFeature:
        """Change a feature's `name` or `description`; return it.

        Raises:
            ProblemError: there is none of that key, or it is the catalog file's.
        """
        async with self._replacing:
            feature = msgspec.structs.replace(self._own_feature(key), **change)
            await self._write_feature(tables.CHANGED_FEATURES, feature, writer)
            return feature

    async def delete_feature(self, key: str, writer: Writer) -> None:
        """Forget a feature. Events may name it again, which makes it anew.

        Raises:
            ProblemError: there is none of that key, it is the catalog file's, or a plan has it.
        """
        async with self._replacing:
            feature = self._own_feature(key)
            for each in self.versions.listed():
                if any(linked.feature == key for linked in each.plan.features):
                    raise _conflict(f"plan {each.key!r} has the feature; take it out of there first")
            writer.refuse_when_full()
            del self.features[key], self.features_by_id[feature.id]
            await writer.write(Work(rows=[(tables.DELETED_FEATURES, (key,))]))

    def _own_feature(self, key: str) -> StoredFeature:
        if key not in self.features:
            raise not_found(f"there is no feature {key!r}")
        if key in self._in_file:
            raise _conflict(f"feature {key!r} is kept in the catalog file: change it there, then reload it")
        return self.features[key]

    async def _write_feature(self, table: Table, feature: StoredFeature, writer: Writer) -> None:
        writer.refuse_when_full()
        self._put_feature(feature)
        await writer.write(Work(rows=[(table, msgspec.structs.astuple(feature))]))

    async def write_meter(self, meter: StoredMeter, writer: Writer) -> None:
        """Keep a new or changed meter."""
        await writer.write(Work(rows=[(tables.METERS, meter_row(meter))]))
        self._put_meter(meter)

    def _put_meter(self, meter: StoredMeter) -> None:
        self.meters[meter.id] = meter
        self._compiled.pop(meter.id, None)

    def price_needed(self, event: UsageEvent) -> PriceKey | None:
        """Return the (model, provider) whose prices have to be learned before the event, if any."""
        if event.model is None or (event.model, event.provider) in self.prices:
            return None
        return event.model, event.provider

    async def learn_price(self, key: PriceKey) -> None:
        """Look a model's prices up once and remember the answer, misses included."""
        async with self._learning:
            if key not in self.prices:
                await self._learn_price(key)

    async def _learn_price(self, key: PriceKey) -> None:
        if len(self.prices) >= PRICES_REMEMBERED_MAX:
            del self.prices[next(iter(self.prices))]
        model, provider = key
        prices = self.prices
        found = self._operator_price(model, provider)
        if found is None:
            found = await self._plugin_price(model, provider)
        prices[key] = found

    async def _plugin_price(self, model: str, provider: str | None) -> ProviderPrices | None:
        """Ask the plugins. A look-up that hangs keeps its thread; when none is left, plugins are not asked."""
        if not self._lookups.available_tokens:
            _log.error("provider price plugins hang and are not asked", model=model, provider=provider)
            return None
        with trio.move_on_after(PRICE_LOOKUP_MAX_S):
            try:
                return await trio.to_thread.run_sync(
                    self._registry.provider_prices, model, provider, abandon_on_cancel=True, limiter=self._lookups
                )
            except Exception:  # noqa: BLE001 - a stranger's plugin, or no thread to be had: the model stays unpriced (P8)
                _log.exception("provider price lookup failed", model=model, provider=provider)
                return None
        _log.error("provider price lookup took too long", model=model, provider=provider)
        return None

    def forget_prices(self) -> None:
        """Forget what was learned of provider prices, so that a model unknown so far is looked up again."""
        self.prices.clear()

    def _operator_price(self, model: str, provider: str | None) -> ProviderPrices | None:
        for prices in self._operator_prices.get(model, ()):
            if not prices.provider or provider is None or prices.provider == provider:
                return prices
        return None


def meter_row(meter: StoredMeter) -> Row:
    """Return a meter's columns."""
    definition = _encode_meter(meter.definition).decode()
    return (meter.id, meter.key, definition, meter.created_at, meter.updated_at, meter.archived_at)


def _conflict(message: str) -> ProblemError:
    return ProblemError(Problem(code=Code.CONFLICT, message=message))
