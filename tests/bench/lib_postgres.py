"""PostgreSQL doing what a hand-made meter does: dedupe by unique key, and a counter. Optional."""

import contextlib
import importlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from lib_report import BenchError

START_S: Final = 30
NOBODY: Final = 65_534
TABLES: Final = """
CREATE TABLE events (key text PRIMARY KEY, customer text NOT NULL, feature text NOT NULL,
    occurred_at timestamptz NOT NULL DEFAULT now(), units numeric NOT NULL, body text NOT NULL);
CREATE TABLE counters (customer text, feature text, used numeric NOT NULL, PRIMARY KEY (customer, feature));
"""
INSERT: Final = "INSERT INTO events (key, customer, feature, units, body) VALUES"
COUNT: Final = (
    "INSERT INTO counters VALUES {} ON CONFLICT (customer, feature)"
    " DO UPDATE SET used = counters.used + excluded.used"
)

EventRow = tuple[str, str, str, int, str]


class Session(Protocol):
    """A connection that writes batches."""

    name: str

    def write(self, events: list[dict[str, Any]]) -> float:
        """Write one batch in one transaction; return the seconds it took."""


def event_row(event: dict[str, Any]) -> EventRow:
    """Return a row of `events`."""
    tokens = event.get("costInput", {})
    units = event.get("usageUnits", 0) + tokens.get("inputTokens", 0) + tokens.get("outputTokens", 0)
    body = msgspec.json.encode(event).decode()
    return event["eventIdempotencyKey"], event["customerReferenceId"], event["featureKey"], units, body


def counted(rows: list[EventRow]) -> list[tuple[str, str, int]]:
    """Sum a batch by customer and feature."""
    sums: dict[tuple[str, str], int] = {}
    for _, customer, feature, units, _ in rows:
        sums[customer, feature] = sums.get((customer, feature), 0) + units
    return [(*key, units) for key, units in sums.items()]


class Psql:
    """psql, fed through a pipe. The script is made before the clock starts.

    Args:
        command: how to start psql.
        many: one INSERT with many rows, instead of a prepared statement executed for each row, which is what a
            driver's `executemany` sends.
    """

    def __init__(self, command: list[str], *, many: bool) -> None:
        self._many = many
        self.name = "one INSERT of 1,000 rows, psql" if many else "a statement a row, psql"
        self._psql = subprocess.Popen(
            [*command, "-v", "ON_ERROR_STOP=1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        types = "text, text, text, numeric, text"
        self._say(f"PREPARE ins ({types}) AS {INSERT} ($1, $2, $3, $4, $5) ON CONFLICT (key) DO NOTHING;")

    def _say(self, script: str) -> float:
        assert self._psql.stdin is not None
        assert self._psql.stdout is not None
        content = f"{script}\n\\echo done\n".encode()
        started = time.perf_counter()
        self._psql.stdin.write(content)
        self._psql.stdin.flush()
        if self._psql.stdout.readline() != b"done\n":
            raise BenchError("psql refused a script")
        return time.perf_counter() - started

    def write(self, events: list[dict[str, Any]]) -> float:
        """See `Session`."""
        rows = [event_row(event) for event in events]
        values = ["({},{},{},{},{})".format(*map(_literal, row)) for row in rows]
        if self._many:
            inserts = f"{INSERT} {','.join(values)} ON CONFLICT (key) DO NOTHING;"
        else:
            inserts = "\n".join(f"EXECUTE ins {value};" for value in values)
        counters = COUNT.format(",".join("({},{},{})".format(*map(_literal, row)) for row in counted(rows)))
        return self._say(f"BEGIN;\n{inserts}\n{counters};\nCOMMIT;")

    def close(self) -> None:
        """End psql."""
        self._psql.communicate()


class Psycopg:
    """A driver's `executemany`."""

    name = "executemany, psycopg"

    def __init__(self, host: str) -> None:
        psycopg: Any = importlib.import_module("psycopg")  # not a dependency: used when it is there
        self._connection = psycopg.connect(host=host, user="bench", dbname="postgres")

    def write(self, events: list[dict[str, Any]]) -> float:
        """See `Session`."""
        rows = [event_row(event) for event in events]
        counters = counted(rows)
        started = time.perf_counter()
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.executemany(f"{INSERT} (%s, %s, %s, %s, %s) ON CONFLICT (key) DO NOTHING", rows)
            cursor.executemany(COUNT.format("(%s, %s, %s)"), counters)
        return time.perf_counter() - started

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _literal(value: str | int) -> str:
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def binaries() -> Path | None:
    """Return where the server's programs are, or None."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "postgres").exists() and (place / "psql").exists()), None)


@contextlib.contextmanager
def sessions(place: Path) -> Iterator[list[Session]]:
    """Run a server of our own; yield its sessions, the fairest comparison first.

    Args:
        place: the server's programs.
    """
    home = Path(tempfile.mkdtemp(prefix="tallyd-bench-pg-"))
    prefix: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL does not run as root
        os.chown(home, NOBODY, NOBODY)
        prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    data = str(home / "data")
    command = [*prefix, str(place / "initdb"), "-D", data, "-U", "bench", "-A", "trust", "--no-instructions"]
    opened: list[Psql | Psycopg] = []
    server = None
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")
        options = ["-k", str(home), "-c", "listen_addresses=", "-c", "synchronous_commit=on", "-c", "fsync=on"]
        with (home / "log").open("wb") as log:
            server = subprocess.Popen(
                [*prefix, str(place / "postgres"), "-D", data, *options], stderr=log, cwd="/"
            )
        psql = [str(place / "psql"), "-X", "-q", "-A", "-t", "-h", str(home), "-U", "bench", "-d", "postgres"]
        _make_tables(psql)
        if importlib.util.find_spec("psycopg"):
            opened.append(Psycopg(str(home)))
        opened += [Psql(psql, many=False), Psql(psql, many=True)]
        yield list(opened)
    finally:
        for session in opened:
            session.close()
        if server is not None:
            server.send_signal(signal.SIGINT)
            server.wait()
        shutil.rmtree(home, ignore_errors=True)


def _make_tables(psql: list[str]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        made = subprocess.run(psql, input=TABLES, text=True, capture_output=True, check=False)
        if made.returncode == 0:
            return
        time.sleep(0.1)
    raise BenchError(f"PostgreSQL did not start: {made.stderr}")
