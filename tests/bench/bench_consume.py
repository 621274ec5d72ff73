"""Row 4: durable `consume` over 128 connections, against a bare echo of the same bytes and bare commits."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex
from typing import Final

from lib_bare_commits import Commits
from lib_client import Cpu, Crowd, Lines, Load, customer, rpc, whole_line
from lib_process import bare, connect, daemon
from lib_report import Row, median, millis, percentile, rate, ratio

CONNECTIONS: Final = 128
CUSTOMERS: Final = 100
FASTEST: Final = 60_000
COMMITS: Final = 200


def run(scratch: Path, *, quick: bool) -> Iterator[Row]:
    """Consume one unit at a time, each with a key, by turns with the bare programs."""
    rounds, round_s = (3, 0.5) if quick else (12, 1.0)
    with ExitStack() as stack:
        served = stack.enter_context(daemon(scratch / "daemon"))
        for number in range(CUSTOMERS):
            served.call("subscribe", customerReferenceId=customer(number), planKey="bench")
        with Lines(served.path) as one:
            answer = one.ask(_consume(0))
        echo = stack.enter_context(bare("echo", scratch / "echo.sock", answer.decode()))
        commits = stack.enter_context(Commits(scratch / "commits.sock"))
        ours = stack.enter_context(_crowd(served.path))
        theirs = stack.enter_context(_crowd(echo.path))
        cpu, cpu_echo = Cpu(served), Cpu(echo)
        measured: list[Load] = []
        echoed: list[Load] = []
        committed: list[float] = []
        _round(ours, round_s)
        for _ in range(rounds):
            with cpu:
                measured.append(_round(ours, round_s))
            with cpu_echo:
                echoed.append(_round(theirs, round_s / 2))
            committed.append(1e9 / median(commits.run("straight", COMMITS)))
        yield from _rows(measured, echoed, committed, _note(measured, echoed, cpu, cpu_echo))


def _consume(number: int) -> bytes:
    body = {
        "eventName": "call",
        "eventIdempotencyKey": token_hex(16),
        "customerReferenceId": customer(number % CUSTOMERS),
        "featureKey": "calls",
        "usageUnits": 1,
    }
    return rpc("consume", body)


def _crowd(path: str) -> Crowd:
    opened = [connect(path) for _ in range(CONNECTIONS)]
    return Crowd(opened, whole_line, lambda answer: b'"allowed":true' in answer)


def _round(crowd: Crowd, seconds: float) -> Load:
    return crowd.run([_consume(number) for number in range(int(FASTEST * seconds))], seconds)


def _note(measured: list[Load], echoed: list[Load], cpu: Cpu, cpu_echo: Cpu) -> str:
    latencies = [taken for load in measured for taken in load.latencies]
    done, done_echo = len(latencies), sum(len(load.latencies) for load in echoed)
    cost = cpu.note(done, "consume", cpu_echo, done_echo)
    return f"{cost}; p50 {millis(median(latencies))}; {CUSTOMERS} customers, every unit with a key"


def _rows(measured: list[Load], echoed: list[Load], committed: list[float], note: str) -> Iterator[Row]:
    rates = [load.per_second for load in measured]
    latencies = [taken for load in measured for taken in load.latencies]
    echo_rates = [load.per_second for load in echoed]
    p99s = [percentile(load.latencies, 99) for load in measured]
    echo_p99s = [percentile(load.latencies, 99) for load in echoed]
    p99 = percentile(latencies, 99)
    yield Row(
        what=f"4. durable consume, {CONNECTIONS} connections",
        measured=rate(median(rates)),
        baseline=f"bare Trio echo, {CONNECTIONS} connections {rate(median(echo_rates))}",
        ratio=str(ratio(rates, echo_rates)),
        budget=">= 10,000/s",
        met=median(rates) >= 10_000,
        note=note,
    )
    yield Row(
        what="   the same, p99",
        measured=millis(p99),
        baseline=f"bare Trio echo {millis(median(echo_p99s))}",
        ratio=str(ratio(p99s, echo_p99s)),
        budget="<= 50 ms",
        met=p99 <= 50e6,
    )
    yield Row(
        what="   the same, against one commit after the other",
        measured=rate(median(rates)),
        baseline=f"bare aiosqlite one-row commits {rate(median(committed))}",
        ratio=str(ratio(rates, committed)),
    )
