"""Reading files row by row."""

import io
from hashlib import sha256

import click
import pytest

from tallyd.cli.ingest_file import ROW_BYTES_MAX, CsvFile, Row, fingerprint, read_jsonl


def csv_rows(content: bytes) -> list[Row]:
    """Read all rows of a CSV."""
    return list(CsvFile(io.BytesIO(content)))


def problems(rows: list[Row]) -> dict[int, str]:
    """Return what is wrong, by line."""
    return {row.line: row.problem for row in rows if row.problem is not None}


def test_the_fingerprint_is_of_the_content_and_rewinds() -> None:
    """The fingerprint is the content's SHA-256, and the file can be read from its start after it."""
    file = io.BytesIO(b"some,content\n")
    file.read(4)
    assert fingerprint(file) == sha256(b"some,content\n").hexdigest()
    assert file.tell() == 0


def test_csv_cells_are_by_column() -> None:
    """A byte order mark and spaces around the header's names do not matter; cells stay as they are."""
    rows = csv_rows(b"\xef\xbb\xbfa , b\r\n1, two\r\n")
    assert rows == [Row(2, {"a": "1", "b": " two"})]


def test_csv_lines_are_where_rows_start() -> None:
    """A row that spans lines counts as the line it starts on."""
    rows = csv_rows(b'a,b\n1,"two\nlines"\n3,4\n')
    assert [row.line for row in rows] == [2, 4]
    assert rows[0].cells["b"] == "two\nlines"


def test_each_bad_csv_row_is_told_apart() -> None:
    """Wrong numbers of cells, wrong UTF-8, wrong quotes and endless rows are named, and the rest is read."""
    long = b"1," + b"x" * (ROW_BYTES_MAX + 5)
    rows = csv_rows(b'a,b\n1\n1,2,3\n1,\xff\n"1"2,3\n' + long + b"\n\n1,2\n")
    assert problems(rows) == {
        2: "has 1 cells, the header has 2",
        3: "has 3 cells, the header has 2",
        4: "is not UTF-8",
        5: "is not CSV: ',' expected after '\"'",
        6: "is longer than 262,144 bytes",
    }
    assert rows[5] == Row(7, blank=True)
    assert rows[6] == Row(8, {"a": "1", "b": "2"})


def test_an_open_quote_at_the_end_is_a_bad_row() -> None:
    """A quote that is never closed does not swallow the rows before it."""
    rows = csv_rows(b'a,b\n1,2\n3,"open\n')
    assert rows[0].problem is None
    assert problems(rows) == {3: "is not CSV: unexpected end of data"}


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe,b\n", b'"a"b\n'])
def test_a_csv_needs_a_header(content: bytes) -> None:
    """A file whose first line names no columns is refused as a whole."""
    with pytest.raises(click.ClickException, match="header"):
        CsvFile(io.BytesIO(content))


def test_each_bad_json_line_is_told_apart() -> None:
    """What is not a JSON object in UTF-8 is named by line, and the rest is read."""
    lines = [
        b'{"a": 1}',
        b'{"a": NaN}',
        b"",
        b"[1]",
        b'{"a": "\xff"}',
        b'{"a": 1',
        b'{"a":' + b"[" * 5_000,
        b'{"a": "' + b"x" * ROW_BYTES_MAX + b'"}',
        b'{"a": 1e400}',
    ]
    rows = list(read_jsonl(io.BytesIO(b"\n".join(lines))))
    found = problems(rows)
    assert list(found) == [2, 4, 5, 6, 7, 8]
    assert found[2].startswith("is not JSON")
    assert found[4] == "is not a JSON object"
    assert found[5] == "is not UTF-8 at byte 8"
    assert found[7] == "is nested too deeply"
    assert found[8] == "is longer than 262,144 bytes"
    assert rows[2] == Row(3, blank=True)
    assert bytes(rows[8].cells["a"]) == b"1e400"  # type: ignore[arg-type] - kept as written; the daemon judges
