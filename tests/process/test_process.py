"""tallyd as a process of its own: killed, stopped, reloaded, and started twice."""

import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from support import CATALOG, Peer, connected
from tallyd.engine import chain
from tallyd.engine.rows import EventRow
from tallyd.model.ledger_entries import Entry

pytestmark = pytest.mark.process

START_S = 60
STOP_S = 60
GRACE_S = 1
DEAF_STOP_S = 15
"""Far above the grace that is set, far below what a client that never reads could hold the process for."""
ROUNDS = 5
CLIENTS = 8
CUSTOMERS = 3


class Process:
    """A daemon in a directory."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.socket = str(directory / "t.sock")
        self.data = directory / "data"
        self.log_path = directory / "log"
        catalog = directory / "catalog.toml"
        if not catalog.exists():
            catalog.write_text(CATALOG, encoding="utf-8")
        arguments = ["--data-dir", str(self.data), "--socket", self.socket, "--catalog", str(catalog)]
        if "--http" not in options:
            arguments += ["--http", "none"]
        self._log = self.log_path.open("a")
        self._offset = self.log_path.stat().st_size
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "tallyd", "serve", *arguments, *options],
            stderr=self._log,
            stdout=self._log,
            cwd=directory,
            env={**os.environ, "TALLYD_SHUTDOWN_S": str(GRACE_S)},
        )

    def log(self) -> list[dict[str, Any]]:
        """What this process has logged."""
        with self.log_path.open() as log:
            log.seek(self._offset)
            return [json.loads(line) for line in log.read().splitlines() if line.startswith("{")]

    def words(self) -> str:
        """All that this process has said."""
        with self.log_path.open() as log:
            log.seek(self._offset)
            return log.read()

    def wait_for(self, event: str) -> dict[str, Any]:
        """Wait until a line with this event is logged."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.popen.poll() is None:
            for line in self.log():
                if line["event"] == event:
                    return line
            time.sleep(0.01)
        raise AssertionError(f"never logged {event!r}: {self.words()}")

    def end(self) -> None:
        """Make sure that it is gone."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        self._log.close()


@contextmanager
def process(directory: Path, *options: str) -> Iterator[Process]:
    """Run a daemon until the block is left."""
    started = Process(directory, *options)
    try:
        yield started
    finally:
        started.end()


async def ready(directory: Path, *options: str) -> Process:
    """Start a daemon and wait until it serves."""
    started = Process(directory, *options)
    await trio.to_thread.run_sync(started.wait_for, "ready")
    return started


def body(key: str, customer: str, units: int = 1) -> dict[str, Any]:
    """An event as sent."""
    return {
        "eventName": "call",
        "eventIdempotencyKey": key,
        "customerReferenceId": customer,
        "featureKey": "api",
        "usageUnits": units,
        "occurredAt": "2026-03-15T12:00:00Z",
    }


async def subscribe(peer: Peer, customer: str, plan: str = "pro") -> None:
    """Put a customer on a plan from the first of March on."""
    fields = {"customerReferenceId": customer, "planKey": plan, "startsAt": "2026-03-01T00:00:00Z"}
    await peer.result("subscribe", **fields)


def rows_of(books: sqlite3.Connection, table: str, row: type[Any], customer: int) -> list[Any]:
    """Read a customer's rows of a table that is part of the ledger."""
    columns = ",".join(row.__struct_fields__)
    found = books.execute(f"SELECT {columns} FROM {table} WHERE customer = ?", (customer,))
    return [row(*each) for each in found]


def audit(path: Path) -> dict[str, Decimal]:
    """Recount the books from nothing but the file; return units by customer."""
    books = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        assert books.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        totals = {}
        for number, reference in books.execute("SELECT number, reference FROM customers").fetchall():
            rows = rows_of(books, "events", EventRow, number)
            ledger = sorted(
                [*rows, *rows_of(books, "ledger_entries", Entry, number)], key=lambda row: row.position
            )
            assert [row.position for row in ledger] == list(range(1, len(ledger) + 1))
            previous = chain.GENESIS
            for row in ledger:
                *fields, link = msgspec.structs.astuple(row)
                assert link == chain.link(previous, tuple(fields))
                previous = link
            stands = books.execute("SELECT position, chain FROM ledgers WHERE customer = ?", (number,)).fetchone()
            assert stands in (None, (len(ledger), previous))
            units = sum((Decimal(row.units) for row in rows), Decimal(0))
            charges = books.execute("SELECT units, amount FROM charges WHERE customer = ?", (number,)).fetchall()
            counters = books.execute(
                "SELECT used, charged, events FROM counters WHERE customer = ?", (number,)
            ).fetchall()
            rollups = books.execute(
                "SELECT units, revenue, events FROM rollups WHERE customer = ?", (number,)
            ).fetchall()
            for sums in (counters, rollups):
                assert sum(Decimal(used) for used, *_ in sums) == units
                assert sum(Decimal(amount) for _, amount, _ in sums) == sum(Decimal(each) for _, each in charges)
                assert sum(events for *_, events in sums) == len(rows) == len(charges)
            totals[reference] = units
        return totals
    finally:
        books.close()


class Traffic:
    """Clients that ingest and consume until the daemon is gone, and know what they have sent."""

    def __init__(self) -> None:
        self.sent: dict[str, dict[str, Any]] = {}
        self.acknowledged: set[str] = set()
        self._wanted = 0
        self._enough = trio.Event()

    async def more(self, count: int) -> None:
        """Wait until this many more were acknowledged."""
        self._wanted = len(self.acknowledged) + count
        self._enough = trio.Event()
        await self._enough.wait()

    def _acknowledge(self, events: list[dict[str, Any]]) -> None:
        self.acknowledged.update(each["eventIdempotencyKey"] for each in events)
        if len(self.acknowledged) >= self._wanted:
            self._enough.set()

    async def client(self, path: str, name: str) -> None:
        """Send batches and consumes; remember what was acknowledged."""
        number = 0
        try:
            async with connected(path) as peer:
                while True:
                    number += 1
                    events = [
                        body(f"{name}-{number}-{part}", f"c{part % CUSTOMERS}", part % 4 + 1) for part in range(5)
                    ]
                    self.sent.update({each["eventIdempotencyKey"]: each for each in events})
                    answer = await peer.result("ingest", events=events[:-1])
                    assert {each["status"] for each in answer["results"]} == {"created"}
                    self._acknowledge(events[:-1])
                    consumed = await peer.result("consume", **events[-1])
                    assert consumed["allowed"]
                    self._acknowledge(events[-1:])
        except (trio.BrokenResourceError, ConnectionError, TypeError, KeyError):
            return  # it was killed: no answer, or half of one


async def test_killed_at_random_points_each_event_is_found_exactly_once(tmp_path: Path) -> None:
    """SIGKILL under load, five times; then everything is sent again: nothing lost, nothing twice (P1, P2)."""
    chance = random.Random(20261121)  # noqa: S311 - only where to kill
    traffic = Traffic()
    for round_number in range(ROUNDS):
        daemon = await ready(tmp_path)
        try:
            if round_number == 0:
                async with connected(daemon.socket) as peer:
                    for number in range(CUSTOMERS):
                        await subscribe(peer, f"c{number}")
            async with trio.open_nursery() as nursery:
                for client in range(CLIENTS):
                    nursery.start_soon(traffic.client, daemon.socket, f"{round_number}-{client}")
                await traffic.more(chance.randint(20, 400))
                daemon.popen.send_signal(signal.SIGKILL)
        finally:
            await trio.to_thread.run_sync(daemon.end)
        held = audit(daemon.data / "tallyd.db")
        assert sum(held.values()) >= sum(traffic.sent[key]["usageUnits"] for key in traffic.acknowledged)
    daemon = await ready(tmp_path)
    try:
        async with connected(daemon.socket) as peer:
            again = list(traffic.sent.values())
            for start in range(0, len(again), 1_000):
                results = (await peer.result("ingest", events=again[start : start + 1_000]))["results"]
                for each, result in zip(again[start : start + 1_000], results, strict=True):
                    known = each["eventIdempotencyKey"] in traffic.acknowledged
                    assert result["status"] == "duplicate" or (result["status"] == "created" and not known)
        daemon.popen.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(daemon.popen.wait, STOP_S) == 0
    finally:
        await trio.to_thread.run_sync(daemon.end)
    wanted_units: dict[str, Decimal] = {}
    for each in traffic.sent.values():
        name = each["customerReferenceId"]
        wanted_units[name] = wanted_units.get(name, Decimal(0)) + each["usageUnits"]
    assert audit(daemon.data / "tallyd.db") == wanted_units


async def test_sigterm_with_clients_that_stopped_reading_ends_in_time_and_loses_nothing(tmp_path: Path) -> None:
    """One deaf client on the socket, one on HTTP: exit 0 soon after the grace, all acknowledged events there."""
    daemon = await ready(tmp_path, "--http", "127.0.0.1:0")
    try:
        serving = daemon.wait_for("ready")["serving"]
        port = int(serving.split("http=http://127.0.0.1:")[1].split()[0])
        async with connected(daemon.socket) as peer:
            await subscribe(peer, "c0")
            key = (await peer.result("keys.create", name="deaf"))["key"]
            events = [body(f"k{number}", "c0") for number in range(1_000)]
            await peer.result("ingest", events=events)
            deaf = socket.create_connection(("127.0.0.1", port))
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            ask = f"GET /api/v1/client/events?limit=1000 HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\n\r\n"
            deaf.sendall(ask.encode() * 50)
            async with connected(daemon.socket) as other:
                line = {"jsonrpc": "2.0", "id": 1, "method": "check"}
                line["params"] = {"customerReferenceId": "c0", "featureKey": "api"}
                with trio.move_on_after(0.5):
                    while True:
                        await other.send(*[line] * 200)
                await peer.result("ingest", events=[body("last", "c0")])
                daemon.popen.send_signal(signal.SIGTERM)
                assert await trio.to_thread.run_sync(daemon.popen.wait, DEAF_STOP_S) == 0
            deaf.close()
    finally:
        await trio.to_thread.run_sync(daemon.end)
    assert audit(daemon.data / "tallyd.db") == {"c0": 1_001}


async def test_requests_on_their_way_at_sigterm_are_answered(tmp_path: Path) -> None:
    """What the daemon has taken on the socket it answers before it goes."""
    daemon = await ready(tmp_path)
    try:
        async with connected(daemon.socket) as peer:
            await subscribe(peer, "c0")
            params = [{"events": [body(f"k{batch}-{n}", "c0") for n in range(500)]} for batch in range(20)]
            await peer.send(
                *({"jsonrpc": "2.0", "id": n, "method": "ingest", "params": each} for n, each in enumerate(params))
            )
            answered = [await peer.line()]
            daemon.popen.send_signal(signal.SIGTERM)
            while (line := await peer.line()) is not None:
                answered.append(line)
        assert await trio.to_thread.run_sync(daemon.popen.wait, STOP_S) == 0
    finally:
        await trio.to_thread.run_sync(daemon.end)
    held = audit(daemon.data / "tallyd.db")
    created = sum(each["status"] == "created" for line in answered for each in line["result"]["results"])
    assert held == {"c0": created}


async def test_sighup_refuses_a_bad_catalog_and_makes_a_version_of_a_good_one(tmp_path: Path) -> None:
    """The bad one is refused with reasons in the log; the good one prices newcomers, not who is subscribed."""
    daemon = await ready(tmp_path)
    try:
        catalog = tmp_path / "catalog.toml"
        async with connected(daemon.socket) as peer:
            await subscribe(peer, "c0")
            bad = CATALOG.replace('price_per_unit = "0.10" }', "price_per_unit = nan }")
            catalog.write_text(bad, encoding="utf-8")
            daemon.popen.send_signal(signal.SIGHUP)
            refused = await trio.to_thread.run_sync(daemon.wait_for, "catalog refused; the running one stays")
            assert any("plans.pro.features[0].pricing.price_per_unit" in each for each in refused["problems"])
            assert (await peer.result("consume", **body("a", "c0")))["revenueAmount"] == 0.1
            catalog.write_text(CATALOG.replace('"0.10" }', '"0.25" }'), encoding="utf-8")
            daemon.popen.send_signal(signal.SIGHUP)
            while not any(line.get("changed") == ["plan pro version 2"] for line in daemon.log()):
                assert daemon.popen.poll() is None
                await trio.sleep(0.01)
            await subscribe(peer, "c1")
            old = await peer.result("consume", **body("b", "c0"))
            new = await peer.result("consume", **body("c", "c1"))
        assert (old["revenueAmount"], old["priceVersion"]) == (0.1, "pro@1")
        assert (new["revenueAmount"], new["priceVersion"]) == (0.25, "pro@2")
    finally:
        await trio.to_thread.run_sync(daemon.end)


async def test_a_second_daemon_on_one_data_directory_is_refused(tmp_path: Path) -> None:
    """The second says whose directory it is and where to reach the owner; the first does not notice."""
    daemon = await ready(tmp_path)
    try:
        with process(tmp_path, "--socket", str(tmp_path / "other.sock")) as second:
            assert await trio.to_thread.run_sync(second.popen.wait, START_S) == 1
            words = second.words()
            assert "in use by another tallyd" in words
            assert daemon.socket in words
            assert "Traceback" not in words
        async with connected(daemon.socket) as peer:
            assert (await peer.result("ping"))["pong"]
    finally:
        await trio.to_thread.run_sync(daemon.end)


@pytest.mark.parametrize(
    ("catalog", "said"),
    [
        ("[[plans", "catalog.toml: TOML"),
        ('[[plans]]\nkey = "p"\nname = "P"\ncurrency = "x"', "catalog.toml: plans.p.currency"),
    ],
)
async def test_a_bad_catalog_at_start_is_refused_in_words(tmp_path: Path, catalog: str, said: str) -> None:
    """The process ends with 78 (do not start it again) and names file, table and field, without a traceback."""
    (tmp_path / "catalog.toml").write_text(catalog, encoding="utf-8")
    with process(tmp_path) as daemon:
        assert await trio.to_thread.run_sync(daemon.popen.wait, START_S) == 78
        assert said in daemon.words()
        assert "Traceback" not in daemon.words()


async def test_a_catalog_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Which file is missing is said in words."""
    with process(tmp_path, "--catalog", "nope.toml") as daemon:
        assert await trio.to_thread.run_sync(daemon.popen.wait, START_S) == 1
        assert "the catalog nope.toml cannot be read: No such file or directory" in daemon.words()
        assert "Errno" not in daemon.words()
