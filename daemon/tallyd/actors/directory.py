"""The directory: which customers are resident. It finds, starts, supervises and puts away their actors."""

from collections.abc import Iterator

import structlog
import trio

from tallyd.actors.customer import CustomerActor
from tallyd.actors.runtime import Runtime
from tallyd.engine.account import Account
from tallyd.model.customer import CustomerRef, RefKind
from tallyd.model.problems import overloaded, unavailable

_log = structlog.get_logger(__name__)


class Directory:
    """Actors by the name a customer was asked for.

    Args:
        runtime: what the actors share.
        nursery: where they live.
        resident_max: most customers in memory; the least recently used idle ones make room (P11).
        idle_s: how long an actor may be idle before it is put away.
    """

    def __init__(self, runtime: Runtime, nursery: trio.Nursery, *, resident_max: int, idle_s: float) -> None:
        self._runtime = runtime
        self._nursery = nursery
        self._resident_max = resident_max
        self._idle_s = idle_s
        self._actors: dict[CustomerRef, CustomerActor] = {}
        self._by_id: dict[str, CustomerActor] = {}
        self._by_reference: dict[str, CustomerActor] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[CustomerActor]:
        return iter(self._by_id.values())

    def resident(self, ref: CustomerRef) -> Account | None:
        """Return a resident customer's account to read from, or None when it has to be loaded."""
        actor = self._actors.get(ref)
        if actor is None:
            return None
        actor.used_at = self._runtime.time()
        return actor.account

    def resident_named(self, reference: str) -> Account | None:
        """Do as `resident` for the app's own id: the hottest look-up, so without making a `CustomerRef`."""
        actor = self._by_reference.get(reference)
        if actor is None:
            return None
        actor.used_at = self._runtime.time()
        return actor.account

    def actor(self, ref: CustomerRef) -> CustomerActor:
        """Return a customer's actor, started if it is not resident.

        Raises:
            ProblemError: too many customers are busy; retry shortly.
        """
        actor = self._actors.get(ref)
        if actor is None:
            customer_id = ref.customer_id()
            actor = self._by_id.get(customer_id)
            if actor is None:
                self._make_room()
                actor = CustomerActor(ref, self._runtime)
                self._by_id[customer_id] = actor
                self._nursery.start_soon(self._live, actor, name=f"customer {ref.value}")
            else:
                actor.names.append(ref)
            self._actors[ref] = actor
            if ref.kind is RefKind.REFERENCE:
                self._by_reference[ref.value] = actor
        actor.used_at = self._runtime.time()
        return actor

    async def account(self, ref: CustomerRef) -> Account:
        """Return a customer's account to read from, loading it if need be.

        Raises:
            ProblemError: the books cannot be read, or too many customers are busy.
        """
        account = self.resident(ref)
        while account is None:
            actor = self.actor(ref)
            await actor.loaded.wait()
            if actor.failed:
                raise unavailable("the customer's books cannot be read; retry shortly")
            account = actor.account
            if account is None:  # it crashed and is being reloaded
                await trio.sleep(actor.backoff_s)
        return account

    async def account_since(self, ref: CustomerRef, moment: int) -> Account:
        """Return a customer's account with the counters of a moment long ago.

        Raises:
            ProblemError: see `account`.
        """
        account = await self.account(ref)
        actor = self.actor(ref)
        if actor.account is account:
            await actor.with_counters(account, moment)
        return account

    async def _live(self, actor: CustomerActor) -> None:
        try:
            await actor.run()
        except Exception:  # noqa: BLE001 - loading failed: this customer is unavailable, the others are not (P8)
            _log.exception("customer actor ended", customer=actor.ref.value)
            self._forget(actor)
            actor.fail_waiting()

    def put_away_idle(self) -> int:
        """Put away the actors that were idle for long; return how many."""
        deadline = self._runtime.time() - self._idle_s
        return self._put_away([actor for actor in self._by_id.values() if actor.used_at < deadline])

    def _make_room(self) -> None:
        if len(self._by_id) < self._resident_max:
            return
        oldest_first = sorted(self._by_id.values(), key=lambda actor: actor.used_at)
        if not self._put_away(oldest_first[: max(1, self._resident_max // 20)]):
            raise overloaded("too many customers are busy at once; retry shortly")

    def _put_away(self, actors: list[CustomerActor]) -> int:
        put_away = 0
        for actor in actors:
            if actor.idle:
                self._forget(actor)
                actor.retire()
                put_away += 1
        return put_away

    def _forget(self, actor: CustomerActor) -> None:
        self._by_id.pop(actor.ref.customer_id(), None)
        for name in actor.names:
            self._actors.pop(name, None)
            if name.kind is RefKind.REFERENCE:
                self._by_reference.pop(name.value, None)
