"""`tallyd demo`: the real daemon, a made-up day and the three months after it, and what came of them."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import trio
from rich.console import Console

from tallyd.cli.child import Child, child_daemon
from tallyd.cli.client import Daemon
from tallyd.cli.demo_bills import compare_bills, read_plans
from tallyd.cli.demo_books import Books, read_metrics
from tallyd.cli.demo_credits import play
from tallyd.cli.demo_day import CUSTOMERS, Day, make_day
from tallyd.cli.demo_drive import Driver, HttpClient
from tallyd.cli.demo_months import first_of_next_month, make_months
from tallyd.cli.demo_show import Outcome, Verdict, show, show_keep, show_try, watch
from tallyd.cli.demo_show_months import Billing, invoice_to_show, watch_months
from tallyd.cli.demo_story import Story
from tallyd.cli.demo_tally import Comparison, Tally, compare
from tallyd.cli.invoices import write_page
from tallyd.clock import SystemClock
from tallyd.model.moments import DAY_US, iso

SEED_MAX: Final = 10_000
VERIFY_MAX_S: Final = 120

_encode = msgspec.json.Encoder(decimal_format="number").encode


@click.command("demo")
@click.option("--keep", is_flag=True, help="Keep the daemon running until Ctrl-C, and print what to try.")
@click.option("--seed", type=int, help="Live the same again.  [default: a new one]")
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON.")
def command(keep: bool, seed: int | None, as_json: bool) -> None:
    """Run the real daemon through a made-up day of an LLM product, and through three months on its test clock.

    Everything happens in a throw-away directory, on sockets of its own; only the page of an invoice is left. Exit
    code 1: the numbers do not agree.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    seed = secrets.randbelow(SEED_MAX) if seed is None else seed
    watching = Console(stderr=True)
    console = Console(quiet=as_json)
    with _daemon() as (child, directory):
        key = _make_key(child)
        _introduce(watching, child, directory, seed)
        outcome = _live(watching, child, key, directory, seed)
        if as_json:
            click.echo(_encode(_summary(outcome, seed)).decode())
        show(console, outcome)
        if keep:
            _keep(watching if as_json else console, child, key, directory)
        else:
            show_keep(console)
    sys.exit(0 if outcome.good else 1)


@contextmanager
def _daemon() -> Iterator[tuple[Child, str]]:
    """Run a daemon on a throw-away data directory with the example catalog, and none of the user's settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TALLYD_")}
    example = resources.as_file(resources.files("tallyd.cli").joinpath("catalog.toml"))
    with tempfile.TemporaryDirectory(prefix="tallyd-demo-") as directory, example as catalog:
        options = ["--data-dir", directory, "--catalog", str(catalog)]
        with child_daemon(options, http="127.0.0.1:0", environment=environment) as child:
            yield child, directory


def _make_key(child: Child) -> str:
    daemon = Daemon(child.socket)
    key: str = daemon.call("keys.create", {"name": "demo"})["key"]
    daemon.close()
    return key


def _introduce(console: Console, child: Child, directory: str, seed: int) -> None:
    console.print(
        f"A daemon of its own: {child.http}, {child.socket}, books in {directory}", highlight=False, soft_wrap=True
    )
    for customer in CUSTOMERS:
        console.print(
            f"  {customer.reference:<9} {customer.plan or 'no plan':<8} {customer.story}",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"A day of theirs and the three months after it, seed {seed}:", highlight=False, soft_wrap=True)


def _live(console: Console, child: Child, key: str, directory: str, seed: int) -> Outcome:
    start = first_of_next_month(SystemClock().now())
    day, months = make_day(seed, start + DAY_US), make_months(seed, start)
    started, tally, address = time.monotonic(), Tally(), child.http or ""
    daemon = Daemon(child.socket)
    daemon.call("clocks.set", {"now": iso(start)})
    driver = Driver(address, key, child.socket, tally)
    driver.subscribe_all(day)
    story = Story(daemon, months, tally)
    story.begin(start)
    daemon.call("clocks.advance", {"to": iso(day.end)})
    watch(console, day, lambda on_call: trio.run(driver.live, day, on_call))
    scene = trio.run(play, child.socket, day.rush, tally)
    client = HttpClient(address, key)
    books = Books(client, day)
    client.close()
    comparisons = [
        *compare(tally, books.lines, read_metrics(address), books.unpriced_total),
        *scene.comparisons,
    ]
    billing, compared = _live_months(console, daemon, day, story)
    daemon.close()
    seconds = time.monotonic() - started
    return Outcome(books, tally, scene, billing, [*comparisons, *compared], _verify(directory), seconds)


def _live_months(console: Console, daemon: Daemon, day: Day, story: Story) -> tuple[Billing, list[Comparison]]:
    """Let three months pass; return what is billed, beside bills of our own."""
    chronicle = story.chronicle
    story.remember(day.end)
    watch_months(console, story)
    invoice, place = invoice_to_show(chronicle)
    with resources.as_file(resources.files("tallyd.cli").joinpath("catalog.toml")) as catalog:
        compared = compare_bills(read_plans(catalog.read_text(encoding="utf-8")), story.months, chronicle)
    billing = Billing(
        months=story.months,
        chronicle=chronicle,
        shown=invoice,
        line=daemon.call("invoices.explain", {"invoiceId": invoice["id"], "line": place}),
        page=_write_page(daemon, invoice),
    )
    return billing, compared


def _write_page(daemon: Daemon, invoice: dict[str, Any]) -> Path:
    """Write an invoice's page where it stays when the demo is over; return where."""
    handle, name = tempfile.mkstemp(prefix=f"tallyd-demo-{invoice['number']}-", suffix=".html")
    os.close(handle)
    write_page(Path(name), daemon.call("invoices.page", {"invoiceId": invoice["id"]})["html"])
    return Path(name)


def _verify(directory: str) -> Verdict:
    command = [sys.executable, "-m", "tallyd", "verify", "--data-dir", directory, "--json"]
    done = subprocess.run(command, capture_output=True, timeout=VERIFY_MAX_S, check=False)  # noqa: S603 - our own
    try:
        report = msgspec.json.decode(done.stdout)
    except msgspec.DecodeError:
        report = done.stderr.decode(errors="replace").strip()
    return Verdict(done.returncode, report)


def _keep(console: Console, child: Child, key: str, directory: str) -> None:
    try:
        show_try(console, child, key, directory)
        child.wait()
    except KeyboardInterrupt:
        click.echo("stopping", err=True)


def _summary(outcome: Outcome, seed: int) -> dict[str, Any]:
    tally = outcome.tally
    refusals = [{**msgspec.structs.asdict(refusal), "times": times} for refusal, times in tally.refusals.items()]
    return {
        "seed": seed,
        "seconds": round(outcome.seconds, 3),
        "requests": tally.calls,
        "eventsSent": tally.sent,
        "eventsRecorded": len(tally.recorded),
        "duplicates": tally.duplicates,
        "usage": outcome.books.lines,
        "refusals": refusals,
        "unpriced": outcome.books.unpriced,
        "credits": outcome.scene,
        "happenings": outcome.billing.chronicle.happenings,
        "access": outcome.billing.chronicle.access,
        "invoices": outcome.billing.chronicle.invoices,
        "page": str(outcome.billing.page),
        "comparisons": outcome.comparisons,
        "verify": outcome.verdict,
        "good": outcome.good,
    }
