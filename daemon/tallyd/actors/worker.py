"""Calling plugins that are not trusted with the daemon's own thread: on a worker thread, with a time budget.

All such work is pure, so work that hangs can simply be abandoned and done again without the model it hangs in
(P8). An abandoned thread cannot be stopped: its place is given to others, and a model that keeps threads is not
asked any more.
"""

import traceback
from collections.abc import Callable, Iterable
from copy import copy
from functools import partial
from itertools import islice
from threading import Lock
from typing import Any, Final, Literal, TypeVar

import msgspec
import structlog
import trio

from tallyd.engine import rating
from tallyd.engine.account import Account, Enrolment
from tallyd.engine.rating import STEPS_MAX, NoPrice, PricedFeature, PricedPlan, TookTooLong
from tallyd.engine.rerating import LatestPlan
from tallyd.model.event import UsageEvent
from tallyd.pricing.registry import Registry
from tallyd.pricing.seam import PricingModel, Step, Terms, Unpriced, Usage

AnswerT = TypeVar("AnswerT")

DECIDING_MAX: Final = 16
"""Threads that decide events; an explanation never takes one of them."""

EXPLAINING_MAX: Final = 4
"""Threads that explain charges and re-rate."""

STUCK_MAX: Final = 2
"""Abandoned calls of one pricing model at a time; with more, the model rests until one comes back."""

CALL_BUDGETS: Final = 10
"""Budgets that an explanation or a re-rating has: it asks every model of a customer, or a whole period's usage."""

FRAMES_LOGGED: Final = -8
"""The innermost frames of what a model raised."""

PATIENCE_BUDGETS: Final = 10
"""How much longer than its own time work may wait for a thread."""

Asked = tuple[str, Literal["marginal", "rate"]]
"""A model and what it is asked. One that cannot explain may still charge: whoever reads takes no price away."""

_log = structlog.get_logger(__name__)


def all_inline(registry: Registry, plans: Iterable[PricedPlan | None]) -> bool:
    """Whether all models of some plans are trusted with the daemon's own thread."""
    features = (feature for plan in plans if plan is not None for feature in plan.features.values())
    return all(registry.inline(feature.model) for feature in features)


class Worker:
    """Worker threads for plugins, and the models that are resting because they hang."""

    def __init__(self, budget_s: float) -> None:
        self._budget_s = budget_s
        self._deciding = trio.CapacityLimiter(DECIDING_MAX)
        self._explaining = trio.CapacityLimiter(EXPLAINING_MAX)
        self._stuck = _Stuck()
        self.timeouts = 0

    async def call(self, work: "Callable[[Watch], AnswerT]") -> AnswerT | None:
        """Run pure work that asks only models it got from the watch; None when there is no time for it."""
        return await self._persist(work, self._explaining, self._budget_s * CALL_BUDGETS)

    async def decide(
        self,
        decide: Callable[..., AnswerT],
        account: Account,
        event: UsageEvent,
        arguments: dict[str, Any],
    ) -> AnswerT:
        """Decide an event, or a hold for one; a model that does not answer in time leaves its charge unpriced."""
        attempt = partial(decide, account, event, **arguments)
        decided = await self._persist(
            lambda watch: attempt(marginal=watch.marginal), self._deciding, self._budget_s
        )
        return attempt(marginal=_without_plugins) if decided is None else decided

    def silent(self, account: Account) -> Account:
        """Return the same books with models that have had their time: what follows is decided without them."""
        watch = Watch(self._stuck, frozenset())
        watch.abandon()
        return watch.account(account)

    async def _persist(
        self, work: "Callable[[Watch], AnswerT]", limiter: trio.CapacityLimiter, budget_s: float
    ) -> AnswerT | None:
        """Try until no model takes too long; None: no thread was free, or none of the models is to blame."""
        late: set[Asked] = set()
        while True:
            watch = Watch(self._stuck, frozenset(late))
            answered, answer = await _attempt(partial(work, watch), limiter, budget_s)
            if answered:
                return answer
            self.timeouts += 1
            blamed = watch.abandon()
            if blamed is None:
                return None
            _log.error("pricing model took too long; it is left out", model=blamed[0], asked=blamed[1])
            late.add(blamed)


async def _attempt(
    work: Callable[[], AnswerT], limiter: trio.CapacityLimiter, budget_s: float
) -> tuple[bool, AnswerT | None]:
    """Run work on a thread: whether it answered in time, and its answer.

    The place among the threads is held only as long as somebody waits, so abandoned threads starve nobody.
    """
    with trio.move_on_after(budget_s * PATIENCE_BUDGETS) as patience:
        await limiter.acquire()
    if patience.cancelled_caught:
        return False, None
    try:
        with trio.move_on_after(budget_s):
            own = trio.CapacityLimiter(1)  # Trio's would be held until the thread ends, which may be never
            return True, await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=own)
    finally:
        limiter.release()
    return False, None


class _Stuck:
    """Abandoned calls that have not come back, by what was asked."""

    __slots__ = ("count", "lock", "raised")

    def __init__(self) -> None:
        self.count: dict[Asked, int] = {}
        self.raised: dict[tuple[Asked, type[BaseException]], int] = {}
        self.lock = Lock()

    def note(self, asked: Asked, error: BaseException) -> None:
        """Log what a model raised: the first time, the second, the fourth, the eighth, and so on."""
        with self.lock:
            times = self.raised[asked, type(error)] = self.raised.get((asked, type(error)), 0) + 1
        if times & (times - 1) == 0:
            # As text: rendering it richly would take more of the model's time than the model did.
            raised = "".join(traceback.format_exception(error, limit=FRAMES_LOGGED))
            _log.error("pricing model raised", model=asked[0], asked=asked[1], times=times, raised=raised)


class Watch:
    """One piece of work on a worker thread: what it asks right now, and whether nobody waits for it any more."""

    __slots__ = ("_abandoned", "_asking", "_late", "_stuck")

    def __init__(self, stuck: _Stuck, late: frozenset[Asked]) -> None:
        self._stuck = stuck
        self._late = late
        self._abandoned = False
        self._asking: Asked | None = None

    def abandon(self) -> Asked | None:
        """Wait no longer; return what is still being asked, which is stuck until it comes back."""
        with self._stuck.lock:
            self._abandoned = True
            if self._asking is not None:
                self._stuck.count[self._asking] = self._stuck.count.get(self._asking, 0) + 1
            return self._asking

    def marginal(self, feature: PricedFeature, before: Usage, quantity: Usage) -> Any:
        """Return `rating.marginal` of a watched model."""
        return rating.marginal(self._feature(feature), before, quantity)

    def account(self, account: Account) -> Account:
        """Return the same books with watched models in their plans."""
        watched = copy(account)
        watched.enrolments = [
            Enrolment(each.subscription, self._plan(each.plan), each.starts_at, each.ends_at)
            for each in account.enrolments
        ]
        return watched

    def latest(self, latest: LatestPlan) -> LatestPlan:
        """Return the same plans with watched models."""

        def watched(key: str) -> PricedPlan | None:
            plan = latest(key)
            return None if plan is None else self._plan(plan)

        return watched

    def _plan(self, plan: PricedPlan) -> PricedPlan:
        features = {key: self._feature(feature) for key, feature in plan.features.items()}
        return msgspec.structs.replace(plan, features=features)

    def _feature(self, feature: PricedFeature) -> PricedFeature:
        return msgspec.structs.replace(feature, model=_Watched(feature.model, self))

    def ask(self, asked: Asked, answer: Callable[[], AnswerT]) -> AnswerT:
        """Ask a model, unless it rests.

        Raises:
            TookTooLong: it rests, or it has had its time.
        """
        stuck = self._stuck
        with stuck.lock:
            if self._abandoned or asked in self._late or stuck.count.get(asked, 0) > STUCK_MAX:
                raise TookTooLong
            self._asking = asked
        try:
            return answer()
        except Unpriced:
            raise
        except KeyboardInterrupt as error:  # a person's comes to the main thread only: this is the plugin's own
            raise RuntimeError("the model raised KeyboardInterrupt") from error
        except BaseException as error:
            stuck.note(asked, error)
            raise
        finally:
            with stuck.lock:
                self._asking = None
                if self._abandoned:
                    stuck.count[asked] -= 1


class _Watched(PricingModel[Any]):
    """A model that is asked under a watch."""

    terms = Terms  # never read: the plan was priced with the model's own

    def __init__(self, model: PricingModel[Any], watch: Watch) -> None:
        self.name = model.name  # type: ignore[misc] # of this instance, as the model's may be
        self.measure = model.measure  # type: ignore[misc]
        self._model = model
        self._watch = watch

    def rate(self, terms: Terms, usage: Usage) -> list[Step]:
        """Explain; what comes one by one is also made under the watch."""
        model = self._model
        return self._watch.ask((self.name, "rate"), lambda: list(islice(model.rate(terms, usage), STEPS_MAX + 1)))

    def marginal(self, terms: Terms, before: Usage, quantity: Usage) -> Any:
        """Price one event."""
        return self._watch.ask((self.name, "marginal"), partial(self._model.marginal, terms, before, quantity))


def _without_plugins(_feature: PricedFeature, _before: Usage, _quantity: Usage) -> tuple[None, NoPrice]:
    return None, NoPrice.PLUGIN_TIMEOUT
