"""Row 5: one durable event, one client, against bare one-row commits through aiosqlite."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from lib_bare_commits import Commits
from lib_client import Cpu, Lines, customer, event, rpc
from lib_process import daemon
from lib_report import BenchError, Row, median, micros, ratio

CUSTOMERS: Final = 50
ROUND: Final = 100


def run(scratch: Path, *, quick: bool) -> Iterator[Row]:
    """Ingest one event at a time, by turns with bare commits."""
    rounds = 5 if quick else 40
    with ExitStack() as stack:
        served = stack.enter_context(daemon(scratch / "daemon"))
        for number in range(CUSTOMERS):
            served.call("subscribe", customerReferenceId=customer(number), planKey="bench")
        commits = stack.enter_context(Commits(scratch / "commits.sock"))
        client = stack.enter_context(Lines(served.path))
        for request in _requests(ROUND):
            if b'"status":"created"' not in client.ask(request):
                raise BenchError("an event was not created")
        cpu, cpu_bare = Cpu(served), Cpu(commits.process)
        measured, straight, one_hop = [], [], []
        for _ in range(rounds):
            requests = _requests(ROUND)
            with cpu:
                measured.append(median(client.each(requests)))
            with cpu_bare:
                straight.append(median(commits.run("straight", ROUND)))
            one_hop.append(median(commits.run("one hop", ROUND)))
        note = cpu.note(rounds * ROUND, "event", cpu_bare, rounds * ROUND)
    compared = ratio(measured, straight)
    yield Row(
        what="5. one durable event, one client, p50",
        measured=micros(median(measured)),
        baseline=f"bare aiosqlite BEGIN, INSERT, COMMIT {micros(median(straight))}",
        ratio=str(compared),
        budget="<= 3x",
        met=compared.value <= 3,
        note=note,
    )
    yield Row(
        what="   the same, against the least aiosqlite can cost",
        measured=micros(median(measured)),
        baseline=f"bare aiosqlite, one hop for all three {micros(median(one_hop))}",
        ratio=str(ratio(measured, one_hop)),
    )


def _requests(count: int) -> list[bytes]:
    return [rpc("ingest", {"events": [event(number, CUSTOMERS)]}) for number in range(count)]
