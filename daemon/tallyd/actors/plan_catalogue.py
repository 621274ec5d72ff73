"""Plans in all their versions, from the file and over APIs, and the only place that changes them.

A version is written once and never changed: subscribers stay on theirs. Plans made over an API live beside the
file's; the file owns the plans that it has, and takes over one whose key is written there.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import msgspec
import trio

from tallyd.clock import Clock
from tallyd.engine.catalog import CatalogError, CatalogIssue, key_issue, plan_issues, price_plan
from tallyd.engine.credits.definitions import plan_credit_issues
from tallyd.engine.rating import PricedPlan
from tallyd.model.catalog import CreditModel, Definitions, Meter, Plan
from tallyd.model.problems import Code, Problem, ProblemError, not_found
from tallyd.pricing.registry import Registry
from tallyd.store import tables
from tallyd.store.batch import Work
from tallyd.store.catalog_rows import CATALOG, StoredPlan, plan_row
from tallyd.store.writer import Writer

_encode = msgspec.json.Encoder(order="deterministic").encode


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What plans refer to, as it is now.

    Attributes:
        features: the features there are, by key.
        meters: the meters there are, by the key that plans name them by.
        credit_models: the rules of credits, by key.
    """

    features: frozenset[str]
    meters: Mapping[str, Meter]
    credit_models: Mapping[str, CreditModel]


class PlanCatalogue:
    """See the module's docstring.

    Args:
        stored: all versions, oldest first.
        registry: the pricing models.
        clock: the time.
        changing: held while anything of the catalog changes.
        surroundings: tells what plans may refer to.

    Attributes:
        priced: all versions, ready to count and price, by key and version.
        newest: the newest version of each plan there ever was, by key.
        made_at: when the first version of a plan was written, microseconds UTC, by key.
    """

    def __init__(
        self,
        stored: Iterable[StoredPlan],
        *,
        registry: Registry,
        clock: Clock,
        changing: trio.Lock,
        surroundings: Callable[[], Surroundings],
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._changing = changing
        self._surroundings = surroundings
        self._in_file: list[str] = []
        self._versions: dict[tuple[str, int], StoredPlan] = {}
        self.priced: dict[tuple[str, int], PricedPlan] = {}
        self.made_at: dict[str, int] = {}
        self.newest: dict[str, StoredPlan] = {}
        for each in stored:
            self._put(each)

    def written(self, key: str, version: int) -> Plan | None:
        """Return a version of a plan as it was written."""
        found = self._versions.get((key, version))
        return None if found is None else found.plan

    def version(self, key: str, version: int) -> StoredPlan | None:
        """Return a version of a plan with what was kept beside it."""
        return self._versions.get((key, version))

    def listed(self) -> list[StoredPlan]:
        """Return the newest versions of the plans there are: the file's in its order, then those of APIs."""
        made = [each for each in self.newest.values() if each.source != CATALOG]
        return [
            *(self.newest[key] for key in self._in_file),
            *sorted(made, key=lambda each: self.made_at[each.key]),
        ]

    def find(self, key: str) -> StoredPlan | None:
        """Return the newest version of a plan that is listed."""
        found = self.newest.get(key)
        return found if found is not None and (found.source != CATALOG or key in self._in_file) else None

    # The file

    def of_file(self, definitions: Definitions, now: int) -> list[StoredPlan]:
        """Return the versions that a checked file makes: of plans that are new, changed, or were an API's."""
        meters = {meter.key: meter for meter in definitions.meters}
        made = []
        for plan in definitions.plans:
            used = [meters[each.meter] for each in plan.features if each.meter]
            held = self.newest.get(plan.key)
            if held is None or held.source != CATALOG or not _same(held, plan, used):
                made.append(StoredPlan(plan.key, held.version + 1 if held else 1, plan, used, now))
        return made

    def load(self, definitions: Definitions, made: Iterable[StoredPlan]) -> None:
        """Put a file in force, with the versions it has made."""
        for each in made:
            self._put(each)
        self._in_file = [plan.key for plan in definitions.plans]

    # APIs

    async def make(
        self,
        plan: Plan,
        writer: Writer,
        *,
        source: str,
        extra: Mapping[str, Any] | None = None,
    ) -> StoredPlan:
        """Keep a new plan, made over an API, durably.

        Args:
            plan: as it is to be written.
            writer: of the books.
            source: which API.
            extra: what of it the rules do not know.

        Raises:
            CatalogError: all that is wrong with it; places begin within the plan, in the catalog file's words.
            ProblemError: its key was used before.
        """
        async with self._changing:
            if plan.key in self.newest:
                raise _conflict(f"{plan.key!r} is the key of another plan", "key")
            await self._check(plan)
            now = self._clock.now()
            made = StoredPlan(plan.key, 1, plan, self._meters_of(plan), now, source, dict(extra or {}))
            await self._write(made, writer)
            return made

    async def change(
        self,
        key: str,
        edit: Callable[[StoredPlan], tuple[Plan, Mapping[str, Any]]],
        writer: Writer,
    ) -> StoredPlan:
        """Write a new version of a plan that was made over an API; return the newest.

        `edit` returns the plan and what the rules do not know of it, or raises to refuse; it sees all changes that
        were made before.

        Raises:
            CatalogError: all that would be wrong with it.
            ProblemError: there is no such plan, or it is the catalog file's, or `edit` refuses.
        """
        async with self._changing:
            held = self._own(key)
            plan, extra = edit(held)
            assert plan.key == key, "a plan keeps its key"
            meters = self._meters_of(plan)
            if _same(held, plan, meters) and held.extra == extra:
                return held
            await self._check(plan)
            now = self._clock.now()
            made = StoredPlan(key, held.version + 1, plan, meters, now, held.source, dict(extra))
            await self._write(made, writer)
            return made

    async def delete(self, key: str, writer: Writer) -> None:
        """Take a plan away that nobody was ever able to subscribe to: one that is still a draft.

        Raises:
            ProblemError: there is no such plan, or it is the catalog file's, or was active.
        """
        async with self._changing:
            held = self._own(key)
            if held.plan.status != "DRAFT":
                raise _conflict(f"{key!r} is {held.plan.status}; only a DRAFT is deleted, archive it instead")
            writer.refuse_when_full()
            del self.newest[key], self.made_at[key]
            for place in [place for place in self.priced if place[0] == key]:
                del self.priced[place], self._versions[place]
            await writer.write(Work(rows=[(tables.DELETED_PLANS, (key,))]))

    def _own(self, key: str) -> StoredPlan:
        held = self.find(key)
        if held is None:
            raise not_found(f"there is no plan {key!r}")
        if held.source == CATALOG:
            text = f"{key!r} is kept in the catalog file: change it there, under [[plans]] and [[plans.credits]]"
            raise _conflict(f"{text}, then reload it")
        return held

    def _meters_of(self, plan: Plan) -> list[Meter]:
        meters = self._surroundings().meters
        return [meters[each.meter] for each in plan.features if each.meter and each.meter in meters]

    async def _check(self, plan: Plan) -> None:
        issues = await trio.to_thread.run_sync(partial(_issues, plan, self._surroundings(), self._registry))
        if issues:
            raise CatalogError(f"plan {plan.key}", issues)

    async def _write(self, made: StoredPlan, writer: Writer) -> None:
        await writer.write(Work(rows=[(tables.PLAN_VERSIONS, plan_row(made))]))
        self._put(made)

    def _put(self, stored: StoredPlan) -> None:
        meters = {meter.key: meter for meter in stored.meters}
        place = stored.key, stored.version
        self.priced[place] = price_plan(stored.plan, stored.version, meters, self._registry.models)
        self._versions[place] = stored
        self.newest[stored.key] = stored
        self.made_at.setdefault(stored.key, stored.created_at)


def _issues(plan: Plan, around: Surroundings, registry: Registry) -> list[CatalogIssue]:
    problem = key_issue(plan.key)
    issues = [] if problem is None else [CatalogIssue("key", problem)]
    issues += plan_issues(plan, around.features, around.meters, registry.models)
    return issues + [CatalogIssue(*found) for found in plan_credit_issues(plan, around.credit_models)]


def _same(held: StoredPlan, plan: Plan, meters: list[Meter]) -> bool:
    return (_encode(held.plan), _encode(held.meters)) == (_encode(plan), _encode(meters))


def _conflict(message: str, field: str | None = None) -> ProblemError:
    return ProblemError(Problem(code=Code.CONFLICT, field=field, message=message))
