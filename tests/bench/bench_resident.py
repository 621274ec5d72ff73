"""Row 8: memory of a resident customer, and starting with a million customers known."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lib_client import Lines, customer, rpc
from lib_population import populate
from lib_process import daemon
from lib_report import BenchError, Row, median, ratio

RESIDENT: Final = 20_000
RESIDENT_QUICK: Final = 4_000
KNOWN: Final = 1_000_000
KNOWN_QUICK: Final = 20_000
AT_ONCE: Final = 64
SETTLE_S: Final = 0.5
BYTES_MAX: Final = 8_192
START_MAX_S: Final = 2.0


def run(scratch: Path, *, quick: bool) -> Iterator[Row]:
    """Make the books once; wake customers up, then start again and again."""
    known = KNOWN_QUICK if quick else KNOWN
    populate(scratch / "known", known)
    yield from _resident(scratch / "known", RESIDENT_QUICK if quick else RESIDENT)
    yield _start(scratch, known, 1 if quick else 7)


def _resident(home: Path, resident: int) -> Iterator[Row]:
    """Wake customers up twice: the first also fill the cache of SQLite's reader, which has a limit of its own."""
    with daemon(home, customers_resident_max=str(3 * resident)) as served, Lines(served.path) as client:
        _check(client, 1, AT_ONCE)
        time.sleep(SETTLE_S)
        sizes = [served.rss_bytes()]
        started = time.perf_counter()
        for part in range(2):
            for first in range(part * resident, (part + 1) * resident, AT_ONCE):
                _check(client, first + AT_ONCE + 1, AT_ONCE)
            time.sleep(SETTLE_S)
            sizes.append(served.rss_bytes())
        seconds = time.perf_counter() - started - 2 * SETTLE_S
    woken = -(-resident // AT_ONCE) * AT_ONCE
    notes = (
        f"each with a subscription and two counters; woken at {2 * resident / seconds:,.0f}/s",
        "SQLite's reader keeps up to 64 MiB of pages; with 1,000,000 known they are full before these",
    )
    for part, note in enumerate(notes):
        before, after = sizes[part : part + 2]
        each = (after - before) / woken
        yield Row(
            what=f"   the next {resident:,}" if part else f"8. resident customer, RSS added by {resident:,}",
            measured=f"{each:,.0f} bytes",
            baseline=f"{before / 2**20:,.0f} MiB before, {after / 2**20:,.0f} MiB after",
            ratio=f"{after / before:.2f}x",
            budget="" if part else "<= 8,192 bytes",
            met=None if part else each <= BYTES_MAX,
            note=note,
        )


def _check(client: Lines, first: int, count: int) -> None:
    requests = [
        rpc("check", {"customerReferenceId": customer(number), "featureKey": "calls"})
        for number in range(first, first + count)
    ]
    answers = client.ask(b"".join(requests), count)
    if answers.count(b'"used":1') != count:
        raise BenchError(f"not every customer has used one unit: {answers[:500]!r}")


def _start(scratch: Path, known: int, rounds: int) -> Row:
    measured, empty = [], []
    for number in range(rounds):
        with daemon(scratch / "known") as served:
            measured.append(served.started_in_s)
        with daemon(scratch / f"empty-{number}") as served:
            empty.append(served.started_in_s)
    compared = ratio(measured, empty)
    return Row(
        what=f"   start until a ping is answered, {known:,} customers known",
        measured=f"{median(measured):.2f} s",
        baseline=f"with an empty data directory {median(empty):.2f} s",
        ratio=str(compared),
        budget="<= 2 s for 1,000,000",
        met=median(measured) <= START_MAX_S if known == KNOWN else None,
        note="" if known == KNOWN else f"--quick: {known:,} customers, not {KNOWN:,}",
    )
