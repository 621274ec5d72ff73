"""`tallyd ingest`: a file of events into the books, each once, however often it is run."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, tzinfo
from pathlib import Path
from typing import IO, Any, Final
from zoneinfo import ZoneInfo

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from tallyd.cli.client import daemon_of, data_dir_given
from tallyd.cli.ingest_fields import FIELDS, KEY, RowProblem, Shape, check_field
from tallyd.cli.ingest_file import Cells, CsvFile, Row, fingerprint, read_jsonl
from tallyd.cli.ingest_report import Report
from tallyd.cli.ingest_send import Sender
from tallyd.cli.settings import settings_options
from tallyd.config import Config

FORMATS: Final = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
KEY_DIGITS: Final = 32
PROGRESS_EVERY_ROWS: Final = 500
_NULL: Final = msgspec.Raw(b"null")

ToBody = Callable[[Cells], dict[str, Any]]


@click.command("ingest", epilog=f"Fields: {', '.join(FIELDS)}.")
@click.argument("path", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--format", "file_format", type=click.Choice(["csv", "jsonl"]), help="Default: by extension.")
@click.option("--map", "maps", metavar="FIELD=COLUMN", multiple=True, help="Take a field from a column or key.")
@click.option("--set", "sets", metavar="FIELD=VALUE", multiple=True, help="The same value for every event.")
@click.option(
    "--timezone", "zone", metavar="ZONE", default="UTC", show_default=True, help="Of times that name none."
)
@click.option(
    "--report", "report_file", metavar="FILE", type=click.File("wb"), help="Write each row not recorded, JSONL."
)
@click.option("--json", "as_json", is_flag=True, help="Print the totals as JSON.")
@settings_options
def command(
    config: Config,
    path: Path,
    file_format: str | None,
    maps: tuple[str, ...],
    sets: tuple[str, ...],
    zone: str,
    report_file: IO[bytes] | None,
    as_json: bool,
) -> None:
    """Record the events in FILE: CSV with a header, or one JSON object a line.

    Fields and FILE's columns are matched by name, by --map and --set. An event without eventIdempotencyKey gets
    one from the file's content and its line, so that running the command again changes nothing.

    Exit code 0: every row is in the books. 1: some were refused, and the report says why.
    """
    columns, constants = _pairs(maps, "--map"), _pairs(sets, "--set")
    both = sorted(columns.keys() & constants.keys())
    if both:
        raise click.UsageError(f"{both[0]} is both mapped and set; choose one")
    try:
        shape = Shape(columns, constants, _zone(zone))
    except RowProblem as problem:
        raise click.UsageError(f"--set {problem}") from None
    report = Report(str(path), report_file)
    with path.open("rb") as file:
        if not file.seekable():
            raise click.UsageError("FILE must be a regular file: it is read twice, first for the events' keys")
        key = f"file-{fingerprint(file)[:KEY_DIGITS]}"
        before = _state(file)
        rows, to_body = _rows(file, file_format or _format_of(path), shape)
        with daemon_of(config, host=True, make=data_dir_given()) as daemon:
            report.into = daemon.where
            report.begin()
            _feed(_watched(rows, file, report), to_body, key, report, Sender(daemon, report.add))
        report.changed = _state(file) != before
    report.show(as_json=as_json)
    sys.exit(0 if report.complete else 1)


def _state(file: IO[bytes]) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _feed(rows: Iterable[Row], to_body: ToBody, key: str, report: Report, sender: Sender) -> None:
    """Send every row that can be read; the others are reported."""
    for row in rows:
        if row.blank:
            report.skip(row.line)
            continue
        if row.problem is not None:
            report.refuse(row.line, None, row.problem)
            continue
        try:
            body = to_body(row.cells)
        except RowProblem as problem:
            report.refuse(row.line, problem.field, problem.message)
            continue
        if body.get(KEY) in (None, _NULL):
            body[KEY] = f"{key}-{row.line}"
        sender.add(row.line, msgspec.json.encode(body))
    sender.finish()


def _watched(rows: Iterable[Row], file: IO[bytes], report: Report) -> Iterator[Row]:
    """Pass rows on, with a progress bar where a person watches."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[done]:,} events, {task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("ingesting", total=_state(file)[0], done=0, rate=0)
        for number, row in enumerate(rows):
            yield row
            if number % PROGRESS_EVERY_ROWS == 0:
                progress.update(task, completed=file.tell(), done=report.events, rate=report.rate)


def _pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """Read `FIELD=…` options.

    Raises:
        UsageError: no `=`, an unknown field, or one given twice.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        field, separator, value = text.partition("=")
        if not separator or not value or not _is_utf8(value):
            raise click.UsageError(f"{option} {text!r}: write FIELD=…, in UTF-8")
        if check_field(field) in pairs:
            raise click.UsageError(f"{option} {field} is given twice")
        pairs[field] = value
    return pairs


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _zone(name: str) -> tzinfo:
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise click.UsageError(f"--timezone {name}: not a time zone such as Europe/Berlin") from None


def _format_of(path: Path) -> str:
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        raise click.UsageError(f"{path}: say --format csv or --format jsonl; the name does not tell")
    return found


def _rows(file: IO[bytes], file_format: str, shape: Shape) -> tuple[Iterable[Row], ToBody]:
    if file_format == "jsonl":
        return read_jsonl(file), shape.of_objects
    csv_file = CsvFile(file)
    return csv_file, shape.of_columns(csv_file.columns)
