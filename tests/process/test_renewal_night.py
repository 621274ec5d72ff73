"""A thousand customers whose month ends in one night, and a daemon that is killed in the middle of it.

    RENEWED=10000 pytest tests/process/test_renewal_night.py

renews as many as you like; `tests/bench/run.py renewals` says what those who ask meanwhile notice of it.
"""

import os
import signal
import sqlite3
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from process.test_credits_under_fire import verify
from process.test_process import STOP_S, ready
from support import Peer, connected

pytestmark = pytest.mark.process

CUSTOMERS: Final = int(os.environ.get("RENEWED", "1000"))
AT_ONCE: Final = 100
BEGINS: Final = "2026-01-15T00:00:00Z"
NIGHT: Final = "2026-02-15T00:00:00Z"
CATALOG: Final = """
[[features]]
key = "api"

[[plans]]
key = "pro"
name = "Pro"
price_amount = 10
billing_timing = "IN_ARREARS"
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = "0.10" }
"""


async def test_each_is_invoiced_once_though_the_daemon_is_killed_in_its_night(tmp_path: Path) -> None:
    """After a kill and a restart every period has its one invoice, usage and all; events taken meanwhile."""
    (tmp_path / "catalog.toml").write_text(CATALOG, encoding="utf-8")
    daemon = await ready(tmp_path)
    try:
        async with connected(daemon.socket) as peer:
            await peer.result("clocks.set", now=BEGINS)
            for start in range(0, CUSTOMERS, AT_ONCE):
                await _subscribe(peer, start)
        books = daemon.data / "tallyd.db"
        async with connected(daemon.socket) as night, connected(daemon.socket) as peer:
            await night.send({"jsonrpc": "2.0", "id": 1, "method": "clocks.advance", "params": {"to": NIGHT}})
            taken = 0
            while _invoices(books) < CUSTOMERS + CUSTOMERS // 2:
                answer = await peer.result("ingest", events=[_usage("walk-in", f"walk-in-{taken}")])
                assert answer["results"][0]["status"] == "created"
                taken += 1
        daemon.popen.send_signal(signal.SIGKILL)
        await trio.to_thread.run_sync(daemon.end)
        done = _invoices(books) - CUSTOMERS
        assert 0 < done < CUSTOMERS, "it was killed in the middle"
        assert taken
        daemon = await ready(tmp_path)
        async with connected(daemon.socket) as peer:
            await peer.result("clocks.advance", to=NIGHT)
        daemon.popen.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(daemon.popen.wait, STOP_S) == 0
    finally:
        await trio.to_thread.run_sync(daemon.end)
    closed = "SELECT count(*) FROM invoices WHERE serial = 1 AND status = 'DUE' AND amount = '10.30'"
    assert _count(books, closed) == CUSTOMERS
    assert _count(books, "SELECT count(*) FROM invoices WHERE serial = 2 AND status = 'PENDING'") == CUSTOMERS
    assert _invoices(books) == 2 * CUSTOMERS
    await trio.to_thread.run_sync(verify, daemon.data)


async def _subscribe(peer: Peer, start: int) -> None:
    """Subscribe some customers and give each three units of usage."""
    names = [f"c{number:05d}" for number in range(start, min(start + AT_ONCE, CUSTOMERS))]
    for name in names:
        params = {"customerReferenceId": name, "planKey": "pro"}
        await peer.send({"jsonrpc": "2.0", "id": 1, "method": "subscribe", "params": params})
    for _ in names:
        assert "result" in await peer.line()
    answer = await peer.result("ingest", events=[_usage(name, f"{name}-1", 3) for name in names])
    assert {each["status"] for each in answer["results"]} == {"created"}


def _usage(name: str, key: str, units: int = 1) -> dict[str, Any]:
    return {
        "customerReferenceId": name,
        "eventName": "api",
        "featureKey": "api",
        "usageUnits": units,
        "eventIdempotencyKey": key,
    }


def _invoices(path: Path) -> int:
    return _count(path, "SELECT count(*) FROM invoices")


def _count(path: Path, sql: str) -> int:
    books = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        found: int = books.execute(sql).fetchone()[0]
        return found
    finally:
        books.close()
