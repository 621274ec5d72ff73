"""Calling plugins that are not trusted with the daemon's own thread: on a worker thread, with a time budget.

Deciding is pure, so a decision that hangs can simply be abandoned and made again without the plugin (P8).
"""

from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import Any, Final, TypeVar

import structlog
import trio

from tallyd.engine import rating
from tallyd.engine.account import Account
from tallyd.engine.rating import NoPrice, PricedFeature
from tallyd.engine.recording import Denied, Recorded
from tallyd.model.event import UsageEvent
from tallyd.pricing.seam import Usage

AnswerT = TypeVar("AnswerT")

THREADS_MAX: Final = 16
STUCK_MAX: Final = 2
"""Abandoned calls of one pricing model at a time; with more, the model rests until one comes back."""

_log = structlog.get_logger(__name__)


class Worker:
    """Worker threads for plugins, and the models that are resting because they hang."""

    def __init__(self, budget_s: float) -> None:
        self._budget_s = budget_s
        self._limiter = trio.CapacityLimiter(THREADS_MAX)
        self._stuck: dict[str, int] = {}
        self._lock = Lock()
        self.timeouts = 0

    async def call(self, work: Callable[[], AnswerT]) -> AnswerT | None:
        """Run pure work within ten budgets; None when it takes longer."""
        with trio.move_on_after(self._budget_s * 10):
            return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)
        self.timeouts += 1
        return None

    async def decide(
        self,
        decide: Callable[..., Recorded | Denied],
        account: Account,
        event: UsageEvent,
        arguments: dict[str, Any],
    ) -> Recorded | Denied:
        """Decide an event; a model that does not answer in time leaves its charge unpriced."""
        late: set[str] = set()
        while True:
            call = _Call()
            marginal = self._guarded(frozenset(late), call)
            with trio.move_on_after(self._budget_s):
                return await trio.to_thread.run_sync(
                    partial(decide, account, event, marginal=marginal, **arguments),
                    abandon_on_cancel=True,
                    limiter=self._limiter,
                )
            self.timeouts += 1
            blamed = self._abandon(call)
            if blamed is None:  # no thread was free, or none of the models is to blame
                return decide(account, event, marginal=_without_plugins, **arguments)
            _log.error("pricing model took too long; the charge stays unpriced", model=blamed)
            late.add(blamed)

    def _guarded(self, late: frozenset[str], call: "_Call") -> Any:
        """Return `rating.marginal`, noting which model is being asked and leaving out those that hang."""

        def marginal(feature: PricedFeature, before: Usage, quantity: Usage) -> Any:
            name = feature.model.name
            with self._lock:
                if call.abandoned or name in late or self._stuck.get(name, 0) > STUCK_MAX:
                    return None, NoPrice.PLUGIN_TIMEOUT
                call.asking = name
            try:
                return rating.marginal(feature, before, quantity)
            finally:
                with self._lock:
                    call.asking = None
                    if call.abandoned:
                        self._stuck[name] -= 1

        return marginal

    def _abandon(self, call: "_Call") -> str | None:
        """Wait no longer; return the model that is still being asked, which is stuck until it comes back."""
        with self._lock:
            call.abandoned = True
            if call.asking is not None:
                self._stuck[call.asking] = self._stuck.get(call.asking, 0) + 1
            return call.asking


class _Call:
    """One decision on a worker thread: which model it asks right now, and whether nobody waits for it any more."""

    __slots__ = ("abandoned", "asking")

    def __init__(self) -> None:
        self.abandoned = False
        self.asking: str | None = None


def _without_plugins(_feature: PricedFeature, _before: Usage, _quantity: Usage) -> tuple[None, NoPrice]:
    return None, NoPrice.PLUGIN_TIMEOUT
