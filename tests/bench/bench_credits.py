"""Rows 4a to 4c: usage that credits pay for, against usage that only a counter limits, on one daemon."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import msgspec
from lib_client import Cpu, Crowd, Lines, rpc, whole_line
from lib_process import Process, connect, daemon
from lib_report import BenchError, Ratio, Row, median, micros, rate, ratio

CONNECTIONS: Final = 128
CUSTOMERS: Final = 100
ROUND: Final = 512
LONE_ROUND: Final = 40
CHECKS: Final = 400
PLANS: Final = {"bench": "plain", "prepaid": "credit"}
"""A plan whose limit is a counter, one that is paid with credits; and how their customers are called."""


def run(scratch: Path, *, quick: bool) -> Iterator[Row]:
    """Ask the same of both kinds of customers by short turns, so that the machine's noise is shared."""
    rounds = 6 if quick else 40
    with ExitStack() as stack:
        served = stack.enter_context(daemon(scratch / "daemon"))
        for plan in PLANS:
            for number in range(CUSTOMERS):
                served.call("subscribe", customerReferenceId=_customer(plan, number), planKey=plan)
        crowd = stack.enter_context(_Answers(served, CONNECTIONS))
        lone = stack.enter_context(_Answers(served, 1))
        yield _consuming(served, crowd, ROUND, rounds)
        yield _consuming(served, lone, LONE_ROUND, rounds)
        yield _holding(crowd, rounds)
        yield _checking(served, stack.enter_context(Lines(served.path)), rounds)


def _customer(plan: str, number: int) -> str:
    return f"{PLANS[plan]}_{number % CUSTOMERS:04d}"


def _usage(plan: str, number: int) -> dict[str, Any]:
    return {"customerReferenceId": _customer(plan, number), "featureKey": "calls", "usageUnits": 1}


def _consume(plan: str, number: int) -> bytes:
    return rpc("consume", {**_usage(plan, number), "eventName": "call", "eventIdempotencyKey": token_hex(16)})


def _reserve(number: int) -> bytes:
    return rpc("reserve", {**_usage("prepaid", number), "idempotencyKey": token_hex(16)})


def _settle(hold: dict[str, Any], number: int) -> bytes:
    names = {"holdId": hold["holdId"], "customerReferenceId": _customer("prepaid", number)}
    return rpc("settle", {**names, "usageUnits": 1})


class _Answers(Crowd):
    """Connections whose answers are kept, by the number of the request."""

    def __init__(self, served: Process, connections: int) -> None:
        self.connections = connections
        self.found: dict[int, dict[str, Any]] = {}
        super().__init__([connect(served.path) for _ in range(connections)], whole_line, self._keep)

    def _keep(self, line: bytes) -> bool:
        answer = msgspec.json.decode(line)
        result = answer.get("result", {})
        self.found[answer["id"]] = result
        return bool(result.get("allowed"))

    def ask(self, requests: list[bytes]) -> tuple[float, list[dict[str, Any]]]:
        """Return the nanoseconds a request took, all connections together, and the answers in order."""
        self.found.clear()
        load = self.run(requests)
        return 1e9 / load.per_second, [self.found[number] for number in sorted(self.found)]


def _consuming(served: Process, crowd: _Answers, size: int, rounds: int) -> Row:
    taken: dict[str, list[float]] = {plan: [] for plan in PLANS}
    cpu = {plan: Cpu(served) for plan in PLANS}
    for number in range(rounds + 1):
        for plan in PLANS if number % 2 else reversed(PLANS):
            requests = [_consume(plan, each) for each in range(size)]
            with cpu[plan]:
                each_ns, answers = crowd.ask(requests)
            if number:
                taken[plan].append(each_ns)
            if ("creditsDeducted" in answers[0]) != (plan == "prepaid"):
                raise BenchError(f"a {plan} customer was answered {answers[0]!r}")
        if not number:  # the first turn is for warming up
            cpu = {plan: Cpu(served) for plan in PLANS}
    compared, done = ratio(taken["prepaid"], taken["bench"]), rounds * size
    many = crowd.connections > 1
    return Row(
        what=f"4a. consume drawing on a pool, {crowd.connections} connection{'s' if many else ''}, time each",
        measured=f"{micros(median(taken['prepaid']))} ({_rate(taken['prepaid'])})",
        baseline=f"on a plain counter {micros(median(taken['bench']))} ({_rate(taken['bench'])})",
        ratio=str(compared),
        budget="<= 1.5x",
        met=compared.value <= 1.5,
        note=cpu["prepaid"].note(done, "consume", cpu["bench"], done),
    )


def _rate(each_ns: list[float]) -> str:
    return rate(1e9 / median(each_ns))


def _holding(crowd: _Answers, rounds: int) -> Row:
    pairs, plain = [], []
    for _ in range(rounds):
        reserving_ns, holds = crowd.ask([_reserve(number) for number in range(ROUND)])
        settling_ns, _ = crowd.ask([_settle(hold, number) for number, hold in enumerate(holds)])
        pairs.append(1e9 / (reserving_ns + settling_ns))
        plain.append(1e9 / crowd.ask([_consume("bench", number) for number in range(ROUND)])[0])
    return Row(
        what=f"4b. reserve and settle, pairs, {CONNECTIONS} connections",
        measured=rate(median(pairs)),
        baseline=f"plain consume {rate(median(plain))}",
        ratio=str(ratio(pairs, plain)),
    )


def _checking(served: Process, client: Lines, rounds: int) -> Row:
    taken: dict[str, list[float]] = {plan: [] for plan in PLANS}
    cpu = {plan: Cpu(served) for plan in PLANS}
    for _ in range(rounds):
        for plan in PLANS:
            names = {"customerReferenceId": _customer(plan, 0), "featureKey": "calls"}
            with cpu[plan]:
                taken[plan].append(median(client.each([rpc("check", names)] * CHECKS)))
    compared: Ratio = ratio(taken["prepaid"], taken["bench"])
    done = rounds * CHECKS
    return Row(
        what="4c. check of a feature that credits pay for, one client, p50",
        measured=micros(median(taken["prepaid"])),
        baseline=f"of a plain feature {micros(median(taken['bench']))}",
        ratio=str(compared),
        note=cpu["prepaid"].note(done, "check", cpu["bench"], done),
    )
