"""Five hundred clients on one customer's credits, and a daemon that is killed: every credit is accounted for.

    FIRE_ACTIONS=200 FIRE_SEED=7 pytest tests/process/test_credits_under_fire.py

runs longer (the default is 8 actions a client, some seconds), and with another seed. What the clients choose is
repeated by the seed; how they meet is not.
"""

import itertools
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import trio

from process.test_process import STOP_S, ready
from support import Peer, connected
from tallyd.model.event import event_number, event_uuid
from tallyd.model.moments import SECOND_US, parse_iso

pytestmark = pytest.mark.process

ACTIONS: Final = int(os.environ.get("FIRE_ACTIONS", "8"))
SEED: Final = int(os.environ.get("FIRE_SEED", "20261122"))
CLIENTS: Final = 500
KILLS: Final = 3
GRANTED: Final = 12 * CLIENTS + 3 * CLIENTS * ACTIONS
"""So that credits run short, and do so only towards the end."""
UNITS_MAX: Final = 20
SHORT_TTL_S: Final = 1
LONG_TTL_S: Final = 3_600
CUSTOMER: Final = "acme"
CATALOG: Final = f"""
[[features]]
key = "api"

[[credit_models]]
key = "prepaid"
on_shortfall = "refuse"

[[plans]]
key = "pro"
name = "Pro"
credits = [{{ credit_model = "prepaid", amount = {GRANTED} }}]
[[plans.features]]
feature = "api"
pricing = {{ model = "usage", usage_unit_type = "calls", price_per_unit = "0.10" }}
"""


class Hold(msgspec.Struct):
    """What a client was told of one of its holds."""

    id: str
    held: int
    expires_at: int
    status: str = "HELD"


class Told(msgspec.Struct):
    """All that was acknowledged: units used by key, and holds by id."""

    used: dict[str, int] = {}
    holds: dict[str, Hold] = {}
    refused: int = 0


class Fire:
    """The clients, and what they were told."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.told = Told()
        self.answered = 0
        self.resent = 0
        self._wanted = 0
        self._enough = trio.Event()
        self._up = trio.Event()
        self._up.set()

    # The daemon's part

    async def until(self, answered: int) -> None:
        """Wait until so many requests were answered."""
        self._wanted, self._enough = answered, trio.Event()
        await self._enough.wait()

    def down(self) -> None:
        """Say that the daemon is about to be killed: who loses it waits."""
        self._up = trio.Event()

    def up(self) -> None:
        """Say that the daemon serves again."""
        self._up.set()

    # A client's part

    async def client(self, name: str) -> None:
        """Do some things, one after the other; what is not answered is asked again, with the same key."""
        chance = random.Random(f"{SEED} {name}")  # noqa: S311 - what to do next
        mine: list[Hold] = []
        actions = self._actions(name, chance, mine)
        action = next(actions, None)
        while action is not None:
            await self._up.wait()
            try:
                async with connected(self.path) as peer:
                    while action is not None:
                        await self._carry_out(peer, action, mine)
                        action = next(actions, None)
            except (OSError, trio.BrokenResourceError):
                self.resent += 1  # the outcome is unknown
                await trio.lowlevel.checkpoint()

    def _actions(self, name: str, chance: random.Random, mine: list[Hold]) -> Any:
        for number in range(ACTIONS):
            key, units = f"{name}-{number}", chance.randint(1, UNITS_MAX)
            usage = {"customerReferenceId": CUSTOMER, "featureKey": "api", "usageUnits": units}
            open_holds = [hold for hold in mine if hold.status == "HELD"]
            method = chance.choice(["reserve", "reserve", "settle", "settle", "consume", "release", "check"])
            if method == "check":
                yield "check", {"customerReferenceId": CUSTOMER, "featureKey": "api"}
            elif method == "consume" or (method != "reserve" and not open_holds):
                yield "consume", {**usage, "eventName": "api", "eventIdempotencyKey": key}
            elif method == "reserve":
                ttl = chance.choice([SHORT_TTL_S, LONG_TTL_S])
                yield "reserve", {**usage, "idempotencyKey": key, "ttlSeconds": ttl}
            elif method == "release":
                yield "release", {"holdId": chance.choice(open_holds).id}
            else:
                hold, final = chance.choice(open_holds), chance.random() < 0.6
                units = max(1, hold.held + chance.choice([-3, -1, 0, 0, 2]))
                named = {} if final and chance.random() < 0.5 else {"eventIdempotencyKey": key}
                whose = {"customerReferenceId": CUSTOMER} if chance.random() < 0.5 else {}
                yield "settle", {"holdId": hold.id, "usageUnits": units, "final": final, **named, **whose}

    async def _carry_out(self, peer: Peer, action: tuple[str, dict[str, Any]], mine: list[Hold]) -> None:
        method, params = action
        await peer.send({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        answer = await peer.line()
        if answer is None:
            raise ConnectionResetError
        self._note(method, params, answer, mine)
        self.answered += 1
        if self.answered >= self._wanted:
            self._enough.set()

    def _note(self, method: str, params: dict[str, Any], answer: dict[str, Any], mine: list[Hold]) -> None:
        told, result = self.told, answer.get("result")
        if result is None:
            assert method == "settle", answer
            assert answer["error"]["data"]["code"] == "insufficient_credits", answer
            told.refused += 1
        elif method == "check":
            credit = result["credit"]
            assert 0 <= credit.get("held", 0) <= credit["balance"], result
            assert credit["available"] == credit["balance"] - credit.get("held", 0), result
        elif not result.get("allowed", True):
            assert result["meta"]["reason"]["code"] in ("insufficient_credits", "credit_limit_reached"), result
            told.refused += 1
        elif method == "consume":
            told.used[params["eventIdempotencyKey"]] = params["usageUnits"]
        elif method == "reserve":
            hold = Hold(result["holdId"], params["usageUnits"], parse_iso(result["expiresAt"]))
            self._hold_is(hold, result)
            told.holds[hold.id] = hold
            mine.append(hold)
        else:
            hold = told.holds[params["holdId"]]
            hold.held = 0 if method == "release" or params["final"] else hold.held - params["usageUnits"]
            hold.held = max(0, hold.held)
            if method == "settle":
                told.used[params.get("eventIdempotencyKey", hold.id)] = params["usageUnits"]
            self._hold_is(hold, result)

    def _hold_is(self, hold: Hold, result: dict[str, Any]) -> None:
        """Take a hold's status as told, and check what it is said to hold."""
        hold.status = result["status"]
        if hold.status != "HELD":
            hold.held = 0
        assert result["heldCredits"] == hold.held, result

    def open_at(self, moment: int) -> int:
        """Credits that are held at an instant, as told."""
        return sum(hold.held for hold in self.told.holds.values() if hold.expires_at > moment)


async def test_credits_are_accounted_for_exactly_under_five_hundred_clients_and_kill_9(tmp_path: Path) -> None:
    """Whatever was acknowledged before and after a kill is what the balance, the holds and the books say."""
    print(f"FIRE_SEED={SEED} FIRE_ACTIONS={ACTIONS}")  # noqa: T201 - to run it again
    chance = random.Random(SEED)  # noqa: S311 - only when to kill
    (tmp_path / "catalog.toml").write_text(CATALOG, encoding="utf-8")
    daemon = await ready(tmp_path)
    try:
        async with connected(daemon.socket) as peer:
            await peer.result("subscribe", customerReferenceId=CUSTOMER, planKey="pro")
        fire = Fire(daemon.socket)
        async with trio.open_nursery() as nursery:
            for number in range(CLIENTS):
                nursery.start_soon(fire.client, f"c{number}")
            for kill in range(KILLS):
                third = CLIENTS * ACTIONS // (KILLS + 1)
                await fire.until(third * kill + chance.randint(third // 2, third))
                fire.down()
                daemon.popen.send_signal(signal.SIGKILL)
                await trio.to_thread.run_sync(daemon.end)
                daemon = await ready(tmp_path)
                fire.up()
        assert fire.answered == CLIENTS * ACTIONS
        assert fire.resent, "somebody was asking when it was killed"
        assert any(
            hold.status == status for status in ("SETTLED", "RELEASED") for hold in fire.told.holds.values()
        )
        await _short_holds_end(fire)
        async with connected(daemon.socket) as peer:
            credit = (await peer.result("check", customerReferenceId=CUSTOMER, featureKey="api"))["credit"]
        balance = GRANTED - sum(fire.told.used.values())
        assert credit["balance"] == balance
        assert credit["available"] == balance - fire.open_at(_now())
        assert credit["totalConsumed"] == sum(fire.told.used.values())
        daemon.popen.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(daemon.popen.wait, STOP_S) == 0
    finally:
        await trio.to_thread.run_sync(daemon.end)
    recount(daemon.data / "tallyd.db", fire.told)
    await trio.to_thread.run_sync(verify, daemon.data)


def _now() -> int:
    return time.time_ns() // 1_000


async def _short_holds_end(fire: Fire) -> None:
    """Wait until no short hold is open: then only the long ones are held, whatever the machine's pace was."""
    short = [hold.expires_at for hold in fire.told.holds.values()]
    end = max((each for each in short if each < _now() + LONG_TTL_S * SECOND_US // 2), default=0)
    await trio.sleep(max(0, end - _now()) / SECOND_US + 0.1)


def recount(path: Path, told: Told) -> None:
    """Recount credits, holds and usage from nothing but the file, and compare them with what was told."""
    books = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        events = dict(books.execute("SELECT key, units FROM events"))
        assert {key: int(units) for key, units in events.items()} == told.used
        statuses = {
            event_uuid(number): status for number, status in books.execute("SELECT number, status FROM holds")
        }
        assert statuses.keys() == told.holds.keys(), "each hold that was made was acknowledged in the end"
        for hold in told.holds.values():
            ended_by_time = hold.status == "HELD" and statuses[hold.id] == "EXPIRED" and hold.expires_at <= _now()
            assert statuses[hold.id] == hold.status or ended_by_time, hold
        balance, held = replay(books)
        still = {number for number in held if statuses[event_uuid(number)] == "HELD"}
        assert {number for number, amount in held.items() if amount} <= still
        for hold in told.holds.values():
            if statuses[hold.id] == "HELD":
                assert held[event_number(hold.id) or 0] == hold.held
        assert balance == GRANTED - sum(told.used.values())
        stored = books.execute("SELECT balance, held FROM pools").fetchone()
        assert stored == (str(balance), str(sum(held.values())))
    finally:
        books.close()


def replay(books: sqlite3.Connection) -> tuple[int, dict[int, int]]:
    """Play the ledger's credit entries; return balance and what each hold holds: never more than is there."""
    columns = "id, event, kind, hold, amount, balance_before, balance_after, details"
    rows = books.execute(f"SELECT {columns} FROM ledger_entries ORDER BY position").fetchall()
    balance, held = 0, dict[int, int]()
    for _, decision in itertools.groupby(rows, lambda row: row[1] or -row[0]):
        for number, _, kind, hold, amount, before, after, details in decision:
            if amount is not None:
                assert int(before) == balance
                balance += int(amount)
                assert int(after) == balance
            elif kind == "HOLD_OPENED":
                assert hold == number
                assert hold not in held
                held[hold] = parts_of(details)
            elif kind in ("HOLD_DRAWN", "HOLD_CLOSED"):
                held[hold] = parts_of(details)
        assert 0 <= sum(held.values()) <= balance, "never overdrawn"
    return balance, held


def parts_of(details: str) -> int:
    """Return what the parts of a hold's entry come to."""
    parts = json.loads(details).get("parts", [])
    return int(sum((Decimal(amount) for _, _, amount in parts), Decimal(0)))


def verify(data: Path) -> None:
    """Run `tallyd verify` on the books."""
    command = [sys.executable, "-m", "tallyd", "verify", "--data-dir", str(data)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
