"""Row 10: ten thousand customers whose month ends in one night: who asks meanwhile, and a kill in the middle."""

import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex
from typing import Final

from lib_client import Crowd, Lines, rpc, whole_line
from lib_process import Daemon, connect, daemon
from lib_report import BenchError, Row, micros

CUSTOMERS: Final = 10_000
CUSTOMERS_QUICK: Final = 1_000
CONNECTIONS: Final = 64
QUIET_S: Final = 4.0
BEGINS: Final = "2026-01-15T00:00:00Z"
NIGHT: Final = "2026-02-15T00:00:00Z"
TIMES_MAX: Final = 3.0
WATCHED: Final = {"customerReferenceId": "watched", "featureKey": "calls"}


def run(scratch: Path, *, quick: bool) -> Iterator[Row]:
    """Measure a quiet daemon and a renewing one by turns in one run; then kill one in its night."""
    customers = CUSTOMERS_QUICK if quick else CUSTOMERS
    with daemon(scratch / "night") as served:
        _prepare(served, customers)
        yield from _night(served, customers)
        _once_each(served.database, customers)
    yield _killed(scratch / "killed", customers)


def _prepare(served: Daemon, customers: int) -> None:
    """Subscribe customers on a clock that stands, each with some usage."""
    served.call("clocks.set", now=BEGINS)
    names = [f"c{number:05d}" for number in range(customers)]
    with ExitStack() as stack:
        peers = [connect(served.path) for _ in range(CONNECTIONS)]
        crowd = stack.enter_context(Crowd(peers, whole_line, lambda line: b'"result"' in line))
        crowd.run([rpc("subscribe", {"customerReferenceId": name, "planKey": "renewed"}) for name in names])
        crowd.run([_consume(name) for name in names])
    served.call("subscribe", customerReferenceId=WATCHED["customerReferenceId"], planKey="bench")


def _consume(name: str) -> bytes:
    body = {"customerReferenceId": name, "featureKey": "calls", "eventName": "call", "usageUnits": 3}
    return rpc("consume", {**body, "eventIdempotencyKey": token_hex(12)})


class _Traffic(threading.Thread):
    """Events, one after the other, until it is told to stop."""

    def __init__(self, path: str) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._over = threading.Event()
        self.accepted = 0

    def run(self) -> None:
        """Send them."""
        with Lines(self._path) as client:
            while not self._over.is_set():
                answer = client.ask(_consume(WATCHED["customerReferenceId"]))
                self.accepted += b'"allowed":true' in answer

    def stop(self) -> int:
        """Stop; return how many were accepted."""
        self._over.set()
        self.join()
        return self.accepted


def _asked(served: Daemon, until: threading.Event | None) -> tuple[list[int], float]:
    """Ask one check after the other beside the traffic; return nanoseconds, and events accepted a second."""
    traffic = _Traffic(served.path)
    traffic.start()
    taken: list[int] = []
    started = time.perf_counter()
    with Lines(served.path) as client:
        while not until.is_set() if until else time.perf_counter() - started < QUIET_S:
            taken += client.each([rpc("check", WATCHED)] * 20)
    seconds = time.perf_counter() - started
    return sorted(taken), traffic.stop() / seconds


def _night(served: Daemon, customers: int) -> Iterator[Row]:
    before, events_before = _asked(served, None)
    over, took = threading.Event(), [0.0]

    def advance() -> None:
        started = time.perf_counter()
        served.call("clocks.advance", to=NIGHT)
        took[0] = time.perf_counter() - started
        over.set()

    threading.Thread(target=advance, daemon=True).start()
    during, events_during = _asked(served, over)
    quiet, busy = (taken[len(taken) * 99 // 100] for taken in (before, during))
    yield Row(
        what=f"10. check while {customers:,} customers are renewed, p99",
        measured=micros(busy),
        baseline=f"quiet {micros(quiet)}",
        ratio=f"{busy / quiet:.2f}x",
        budget=f"<= {TIMES_MAX:g}x",
        met=busy / quiet <= TIMES_MAX,
        note=f"the night took {took[0]:.1f} s, {took[0] / customers * 1e6:,.0f} µs a customer;"
        f" p50 {micros(during[len(during) // 2])} against {micros(before[len(before) // 2])}",
    )
    yield Row(
        what="   events accepted a second, one client",
        measured=f"{events_during:,.0f}/s",
        baseline=f"quiet {events_before:,.0f}/s",
        ratio=f"{events_during / events_before:.2f}x",
    )


def _killed(home: Path, customers: int) -> Row:
    """Kill a daemon in the middle of its night; the next one finishes it, and nothing is doubled."""
    with daemon(home) as served:
        _prepare(served, customers)
        peer = connect(served.path)
        peer.sendall(rpc("clocks.advance", {"to": NIGHT}))
        while (done := _renewed(served.database)) < customers // 2:
            time.sleep(0.01)
        served.child.send_signal(signal.SIGKILL)
        served.child.wait()
        peer.close()
    with daemon(home) as served:
        while _renewed(served.database) < customers:
            time.sleep(0.01)
        _once_each(served.database, customers)
    return Row(what=f"   killed after {done:,} of them", measured="each invoiced once", note="and none was missed")


def _renewed(database: Path) -> int:
    return _count(database, "SELECT count(*) FROM invoices WHERE serial = 2")


def _count(database: Path, sql: str) -> int:
    books = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        number: int = books.execute(sql).fetchone()[0]
        return number
    finally:
        books.close()


def _once_each(database: Path, customers: int) -> None:
    closed = "SELECT count(*) FROM invoices WHERE serial = 1 AND status <> 'PENDING' AND amount = '10.30'"
    doubled = (
        "SELECT count(*) FROM (SELECT 1 FROM invoices WHERE subscription IN"
        " (SELECT number FROM subscriptions WHERE phases LIKE '%renewed%')"
        " GROUP BY subscription HAVING count(*) <> 2)"
    )
    if _count(database, closed) != customers or _count(database, doubled):
        raise BenchError(
            f"{_count(database, closed)} of {customers} were invoiced, {_count(database, doubled)} twice"
        )
