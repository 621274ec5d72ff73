"""Rows 1 and 2: `check` over the Unix socket, against a bare Trio echo of the same bytes."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from lib_client import Cpu, Lines, rpc
from lib_process import bare, daemon
from lib_report import BenchError, Row, median, micros, rate, ratio

DEPTH: Final = 64
ROUND: Final = 400
PIPELINED_ROUND: Final = 60


def run(scratch: Path, *, quick: bool) -> Iterator[Row]:
    """Ask for one resident customer, by turns the daemon and the echo."""
    rounds = 8 if quick else 60
    with ExitStack() as stack:
        served = stack.enter_context(daemon(scratch / "daemon"))
        served.call("subscribe", customerReferenceId="cus_0000001", planKey="bench")
        request = rpc("check", {"customerReferenceId": "cus_0000001", "featureKey": "calls"})
        ours = stack.enter_context(Lines(served.path))
        answer = ours.ask(request)
        echo = stack.enter_context(bare("echo", scratch / "echo.sock", answer.decode()))
        theirs = stack.enter_context(Lines(echo.path))
        if theirs.ask(request) != answer or b'"allowed":true' not in answer:
            raise BenchError(f"the echo does not answer as the daemon does: {answer!r}")
        yield _one_by_one(ours, theirs, request, rounds, (Cpu(served), Cpu(echo)))
        yield _pipelined(ours, theirs, request, rounds, (Cpu(served), Cpu(echo)))


def _one_by_one(ours: Lines, theirs: Lines, request: bytes, rounds: int, cpu: tuple[Cpu, Cpu]) -> Row:
    measured, baseline = [], []
    for _ in range(rounds):
        with cpu[0]:
            measured.append(median(ours.each([request] * ROUND)))
        with cpu[1]:
            baseline.append(median(theirs.each([request] * ROUND)))
    compared, done = ratio(measured, baseline), rounds * ROUND
    return Row(
        what="1. check, socket, one client, p50",
        measured=micros(median(measured)),
        baseline=f"bare Trio echo {micros(median(baseline))}",
        ratio=str(compared),
        budget="<= 2x (goal 1.5x)",
        met=compared.value <= 2,
        note=cpu[0].note(done, "check", cpu[1], done),
    )


def _pipelined(ours: Lines, theirs: Lines, request: bytes, rounds: int, cpu: tuple[Cpu, Cpu]) -> Row:
    measured, baseline = [], []
    for _ in range(rounds):
        with cpu[0]:
            measured.append(_pipeline(ours, request))
        with cpu[1]:
            baseline.append(_pipeline(theirs, request))
    compared, done = ratio(measured, baseline), rounds * PIPELINED_ROUND * DEPTH
    return Row(
        what=f"2. check, pipelined {DEPTH} deep, one client",
        measured=rate(median(measured)),
        baseline=f"bare Trio echo {rate(median(baseline))}",
        ratio=str(compared),
        budget=">= 100,000/s or 0.3x",
        met=median(measured) >= 100_000 or compared.value >= 0.3,
        note=cpu[0].note(done, "check", cpu[1], done),
    )


def _pipeline(client: Lines, request: bytes) -> float:
    content = request * DEPTH
    started = time.perf_counter()
    for _ in range(PIPELINED_ROUND):
        client.ask(content, DEPTH)
    return PIPELINED_ROUND * DEPTH / (time.perf_counter() - started)
