"""`tallyd ingest`, end to end."""

from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from cli.commands import Program, Run
from tallyd.cli import main
from tallyd.cli.child import Child
from tallyd.cli.client import Daemon

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens,Test\n"
ROWS = 2_500
MAPS = (
    *("--map", "occurredAt=TIMESTAMP"),
    *("--map", "costInput.inputTokens=ContextTokens"),
    *("--map", "costInput.outputTokens=GeneratedTokens"),
    *("--set", "eventName=chat"),
    *("--set", "featureKey=assistant"),
)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Write a trace of model calls, as a cloud provider publishes them."""
    test = tmp_path.name  # files of equal content would be one file to the daemon that tests share
    lines = [f"2026-11-16 18:17:{n % 60:02}.9799600,{n},{n % 7},{test}\n" for n in range(1, ROWS + 1)]
    path = tmp_path / "trace.csv"
    path.write_text(HEADER + "".join(lines))
    return path


@pytest.mark.process
def test_a_trace_is_recorded_once_however_often_it_is_run(run: Run, child: Child, trace: Path) -> None:
    """Every row is counted and priced exactly; a second run finds only duplicates."""
    daemon = Daemon(child.socket)
    start = {"customerReferenceId": "tracer", "planKey": "pro", "startsAt": "2026-11-01T00:00:00Z"}
    daemon.call("subscribe", start)
    options = (*MAPS, "--set", "customerReferenceId=tracer", "--set", "costInput.model=gpt-4o")
    first = run("ingest", trace, *options, "--json")
    assert first.exit_code == 0, first.stdout
    totals = msgspec.json.decode(first.stdout)
    assert (totals["events"], totals["created"], totals["refused"]) == (ROWS, ROWS, 0)
    tokens = sum(n + n % 7 for n in range(1, ROWS + 1))
    check = {"customerReferenceId": "tracer", "featureKey": "assistant"}
    assert daemon.call("check", check)["usage"]["used"] == Decimal(tokens)
    second = run("ingest", trace, *options)
    assert second.exit_code == 0
    assert f"{ROWS:,} duplicates" in second.stdout
    assert daemon.call("check", check)["usage"]["used"] == Decimal(tokens)
    daemon.close()


@pytest.mark.process
def test_the_same_rows_with_other_options_are_conflicts(run: Run, trace: Path) -> None:
    """A row's key is of the file and the line alone, so that other options cannot count it twice."""
    options = (*MAPS, "--set", "customerReferenceId=twice")
    assert run("ingest", trace, *options, "--set", "costInput.model=gpt-4o").exit_code == 0
    done = run("ingest", trace, *options, "--set", "costInput.model=gpt-4o-mini")
    assert done.exit_code == 1
    assert f"{ROWS:,} conflicts" in done.stdout


@pytest.mark.process
def test_what_is_refused_is_reported_with_line_and_field(run: Run, tmp_path: Path) -> None:
    """Good rows are recorded, bad ones told with line and field, all of them in the report file."""
    lines = [
        '{"eventName":"api","customerReferenceId":"picky","usageUnits":1.5}',
        '{"eventName":"api","customerReferenceId":"picky","usageUnits":-1}',
        "",
        '{"eventName":"api","customerReferenceId":"picky","usageUnits":NaN}',
        '{"eventName":"api","customerReferenceId":"picky","usageUnits":2,"occurredAt":"noon"}',
    ]
    (tmp_path / "events.jsonl").write_text("\n".join(lines))
    done = run("ingest", tmp_path / "events.jsonl", "--report", tmp_path / "report.jsonl")
    assert done.exit_code == 1
    assert "line 2: usageUnits: must not be negative" in done.stdout
    assert "line 5: occurredAt: 'noon' is not an ISO 8601 time" in done.stdout
    report = [msgspec.json.decode(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    assert {(entry["line"], entry["status"]) for entry in report} == {
        (2, "refused"),
        (3, "blank"),
        (4, "refused"),
        (5, "refused"),
    }


@pytest.mark.process
def test_a_row_with_a_key_keeps_it(run: Run, tmp_path: Path) -> None:
    """An event that brings its key is the same event in whichever file it stands."""
    event = '{"eventName":"api","customerReferenceId":"keyed","eventIdempotencyKey":"keyed-1","usageUnits":1}\n'
    for name in ("one.jsonl", "two.jsonl"):
        (tmp_path / name).write_text(event + "\n" * (name == "two.jsonl"))
    assert "1 recorded" in run("ingest", tmp_path / "one.jsonl").stdout
    assert "1 duplicates" in run("ingest", tmp_path / "two.jsonl").stdout


@pytest.mark.process
def test_it_works_without_a_daemon(program: Program, trace: Path) -> None:
    """Without a running daemon one is hosted as long as it takes, and the books keep the events."""
    options = (*MAPS, "--set", "customerReferenceId=acme", "--data-dir", trace.parent / "books")
    first = program("ingest", trace, *options)
    assert first.returncode == 0, first.stderr
    assert f"{ROWS:,} recorded" in first.stdout
    assert f"{ROWS:,} duplicates" in program("ingest", trace, *options).stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--map", "nothing=x"), "events have no field 'nothing'"),
        (("--map", "eventName"), "write FIELD="),
        (("--set", "eventName=x", "--map", "eventName=TIMESTAMP"), "both mapped and set"),
        (("--set", "eventName=x", "--set", "eventName=y"), "given twice"),
        (("--set", "occurredAt=noon"), "not an ISO 8601 time"),
        (("--timezone", "Mars/Olympus"), "not a time zone"),
        (("--format", "xml"), "Invalid value for '--format'"),
        (MAPS, "every event needs customerReferenceId"),
    ],
)
def test_options_that_cannot_work_are_exit_code_2(
    options: tuple[str, ...], words: str, trace: Path, tmp_path: Path
) -> None:
    """A mistake in the options is said before anything is sent, and no daemon is needed for it."""
    arguments = ["ingest", str(trace), *options, "--socket", str(tmp_path / "nobody.sock")]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 2, done.output
    assert words in done.stderr


def test_an_extension_that_says_nothing_needs_a_format(tmp_path: Path) -> None:
    """A file whose name does not tell its format is not guessed at."""
    (tmp_path / "events.txt").write_text("")
    done = CliRunner().invoke(main, ["ingest", str(tmp_path / "events.txt")], catch_exceptions=False)
    assert done.exit_code == 2
    assert "--format csv or --format jsonl" in done.stderr
