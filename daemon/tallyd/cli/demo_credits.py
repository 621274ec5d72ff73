"""The demo's credits: a prepaid customer buys some, and its agents all reserve at once before they call."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import msgspec
import trio

from tallyd.cli.demo_day import Rush
from tallyd.cli.demo_drive import RpcStream
from tallyd.cli.demo_tally import Comparison, Tally
from tallyd.model.money import ZERO, divide


class Scene(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the daemon answered, in credits.

    Attributes:
        customer: whose agents they are.
        agents: how many reserved at once.
        available: what was free before, as `check` said.
        bought: of it, bought just before.
        hold: what one agent's estimate came to.
        holds: how many got a hold.
        held: set aside then, as `check` said.
        left: still free beside the holds, as `check` said.
        used: what the settled calls came to, by the demo's own count.
        settled: how many holds were settled.
        balance: in the end, as `check` said.
        pool: the pool in the end, as `balance` said.
    """

    customer: str
    agents: int
    available: Decimal
    bought: Decimal
    hold: Decimal
    holds: int
    held: Decimal
    left: Decimal
    used: Decimal
    settled: int
    balance: Decimal
    pool: dict[str, Any]

    @property
    def came_back(self) -> Decimal:
        """Return what the settled holds gave back."""
        return self.balance - self.left

    @property
    def comparisons(self) -> list[Comparison]:
        """Put what must be beside what the daemon says (P3, P4)."""
        pool = self.pool
        totals = pool["totalGranted"] - pool["totalConsumed"] - pool["totalExpired"] + pool["totalReversed"]
        return [
            Comparison(f"{self.customer}: holds that fit", self.available // self.hold, Decimal(self.holds)),
            Comparison(f"{self.customer}: credits held", self.holds * self.hold, self.held),
            Comparison(f"{self.customer}: balance after settling", self.available - self.used, self.balance),
            Comparison(f"{self.customer}: credits granted less used", Decimal(totals), Decimal(pool["balance"])),
            Comparison(f"{self.customer}: credits still held", ZERO, Decimal(pool["held"])),
        ]


async def play(socket: str, rush: Rush, tally: Tally) -> Scene:
    """Buy credits, let all agents reserve at once, and settle each hold at what its call used."""
    ours = {"customerReferenceId": rush.customer}
    question = {**ours, "featureKey": rush.feature}
    async with _connected(socket) as rpc:
        sold = await rpc.call("credits.grant", {**ours, **rush.purchase})
        before = (await rpc.call("check", question))["credit"]
        answers = await _reserve_all(socket, rush, tally)
        held = (await rpc.call("check", question))["credit"]
        holds = [answer for answer in answers if answer["allowed"]]
        assert holds, f"no agent got a hold of {before}"
        used = ZERO
        for answer, body in zip(holds, rush.calls, strict=False):
            used += await _settle(rpc, rush, answer, body, tally)
        after = (await rpc.call("check", question))["credit"]
        pools = (await rpc.call("balance", ours))["pools"]
    tally.calls += len(holds) + len(answers)
    return Scene(
        customer=rush.customer,
        agents=len(answers),
        available=Decimal(before["available"]),
        bought=Decimal(sold["transaction"]["amount"]),
        hold=Decimal(holds[0]["estimatedCredits"]),
        holds=len(holds),
        held=Decimal(held.get("held", 0)),
        left=Decimal(held["available"]),
        used=used,
        settled=len(holds),
        balance=Decimal(after["balance"]),
        pool=next(pool for pool in pools if pool["id"] == after["poolId"]),
    )


async def _reserve_all(socket: str, rush: Rush, tally: Tally) -> list[dict[str, Any]]:
    """Let every agent reserve on a connection of its own, all at the same moment."""
    answers: list[dict[str, Any]] = []
    ready, go = trio.Semaphore(0), trio.Event()

    async def agent() -> None:
        async with _connected(socket) as rpc:
            ready.release()
            await go.wait()
            answers.append(await rpc.call("reserve", rush.estimate))

    async with trio.open_nursery() as nursery:
        for _ in rush.calls:
            nursery.start_soon(agent)
        for _ in rush.calls:
            await ready.acquire()
        go.set()
    for answer in answers:
        if not answer["allowed"]:
            tally.deny(rush.estimate, f"reserve {rush.feature}", answer)
    return answers


async def _settle(rpc: RpcStream, rush: Rush, hold: dict[str, Any], body: dict[str, Any], tally: Tally) -> Decimal:
    """Report what a call used; return what that comes to at the rate of its hold."""
    sent = {name: value for name, value in body.items() if name not in ("customerReferenceId", "featureKey")}
    answer = await rpc.call("settle", {"holdId": hold["holdId"], **sent})
    tally.take(body, {"status": "duplicate" if answer.get("duplicate") else "created"})
    rate = divide(Decimal(hold["estimatedCredits"]), Decimal(rush.estimate["usageUnits"]))
    return rate * Decimal(body["usageUnits"])


@asynccontextmanager
async def _connected(socket: str) -> AsyncIterator[RpcStream]:
    async with await trio.open_unix_socket(socket) as stream:
        yield RpcStream(stream)
