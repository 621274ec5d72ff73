"""Row 3: durable ingest in batches of 1,000, against raw `sqlite3` and against PostgreSQL."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from lib_client import Cpu, Crowd, customer, event, rpc, whole_line
from lib_postgres import Session, binaries, sessions
from lib_process import Daemon, connect, daemon
from lib_replay import Replay
from lib_report import Row, median, rate, ratio

BATCH: Final = 1_000
CUSTOMERS: Final = 50
PER_CLIENT: Final = 3
WARM_UP: Final = 3

Batch = list[dict[str, Any]]


def run(scratch: Path, *, quick: bool) -> Iterator[Row]:
    """Send batches, by turns to the daemon, to plain sqlite3 and to PostgreSQL."""
    with ExitStack() as stack:
        served = stack.enter_context(daemon(scratch / "daemon"))
        for number in range(CUSTOMERS):
            served.call("subscribe", customerReferenceId=customer(number), planKey="bench")
        replay = Replay(served.database, scratch / "replay.db")
        stack.callback(replay.close)
        place = binaries()
        postgres = stack.enter_context(sessions(place)) if place else []
        yield from _one_client(served, replay, postgres, 5 if quick else 40)
        if place is None:
            why = "no initdb, postgres and psql found, on PATH or in /usr/lib/postgresql"
            yield Row(what="   the same, against PostgreSQL", measured="not measured", note=why)
        yield _four_clients(served, replay, 2 if quick else 12)


def _batches(count: int) -> list[Batch]:
    return [[event(number, CUSTOMERS) for number in range(BATCH)] for _ in range(count)]


def _requests(batches: list[Batch]) -> list[bytes]:
    return [rpc("ingest", {"events": batch}) for batch in batches]


def _all_created(answer: bytes) -> bool:
    return answer.count(b'"status":"created"') == BATCH


def _one_client(served: Daemon, replay: Replay, postgres: list[Session], rounds: int) -> Iterator[Row]:
    measured, plain, cpu, cpu_plain = [], [], Cpu(served), Cpu()
    rival: dict[str, list[float]] = {session.name: [] for session in postgres}
    with Crowd([connect(served.path)], whole_line, _all_created) as client:
        client.run(_requests(_batches(WARM_UP)))
        replay.write(replay.fetch(BATCH * WARM_UP)[0])
        for _ in range(rounds):
            requests = _requests(_batches(1))
            with cpu:
                measured.append(BATCH / client.run(requests).seconds)
            transactions = replay.fetch(BATCH)
            with cpu_plain:
                plain.append(BATCH / sum(map(replay.write, transactions)))
            for session in postgres:
                rival[session.name].append(BATCH / session.write(_batches(1)[0]))
    compared, done = ratio(measured, plain), rounds * BATCH
    yield Row(
        what="3. durable ingest, 1,000 a batch, one client",
        measured=rate(median(measured)),
        baseline=f"raw sqlite3, same rows {rate(median(plain))}",
        ratio=str(compared),
        budget=">= 0.25x (goal 0.5x)",
        met=compared.value >= 0.25,
        note=cpu.note(done, "event", cpu_plain, done)
        + f"; {CUSTOMERS} customers, half of the events priced by tokens",
    )
    for index, (name, rates) in enumerate(rival.items()):
        compared = ratio(measured, rates)
        yield Row(
            what="   the same, against PostgreSQL",
            measured=rate(median(measured)),
            baseline=f"dedupe + counter, {name} {rate(median(rates))}",
            ratio=str(compared),
            budget="" if index else ">= 3x",
            met=None if index else compared.value >= 3,
            note="" if index else "PostgreSQL keeps a key and a counter only: no price, cost, roll-up or chain",
        )


def _four_clients(served: Daemon, replay: Replay, rounds: int) -> Row:
    measured, plain, cpu, cpu_plain = [], [], Cpu(served), Cpu()
    clients = 4
    with Crowd([connect(served.path) for _ in range(clients)], whole_line, _all_created) as crowd:
        for _ in range(rounds):
            requests = _requests(_batches(clients * PER_CLIENT))
            with cpu:
                measured.append(len(requests) * BATCH / crowd.run(requests).seconds)
            transactions = replay.fetch(BATCH)
            with cpu_plain:
                plain.append(len(requests) * BATCH / sum(map(replay.write, transactions)))
    compared, done = ratio(measured, plain), rounds * clients * PER_CLIENT * BATCH
    return Row(
        what="   durable ingest, 1,000 a batch, four clients",
        measured=rate(median(measured)),
        baseline=f"raw sqlite3, same rows {rate(median(plain))}",
        ratio=str(compared),
        budget=">= 0.25x (goal 0.5x)",
        met=compared.value >= 0.25,
        note=cpu.note(done, "event", cpu_plain, done),
    )
