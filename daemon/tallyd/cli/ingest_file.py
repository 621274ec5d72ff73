"""Reading a file of events row by row, in bounded memory, whatever is in it."""

import csv
from collections.abc import Iterator
from hashlib import sha256
from typing import IO, Final

import click
import msgspec

ROW_BYTES_MAX: Final = 262_144
HASH_BYTES: Final = 1_048_576

Cells = dict[str, str] | dict[str, msgspec.Raw]

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Row(msgspec.Struct, frozen=True, gc=False):
    """One row of the file.

    Attributes:
        line: the line it starts on; the first line is 1.
        cells: texts by column, or JSON values by key; empty for a row that cannot be read.
        problem: why it cannot be read, or None.
        blank: whether the line is empty.
    """

    line: int
    cells: Cells = {}
    problem: str | None = None
    blank: bool = False


def fingerprint(file: IO[bytes]) -> str:
    """Return the SHA-256 of a file's content, and rewind it."""
    file.seek(0)
    digest = sha256()
    while chunk := file.read(HASH_BYTES):
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()


class _Lines:
    """The lines of a file, each cut off at the limit.

    Attributes:
        number: of the line read last.
        cut: number of the line cut off last.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.number = 0
        self.cut = 0

    def __iter__(self) -> Iterator[bytes]:
        while line := self._file.readline(ROW_BYTES_MAX):
            self.number += 1
            if len(line) == ROW_BYTES_MAX and not line.endswith(b"\n"):
                self.cut = self.number
                self._skip()
            yield line.removeprefix(b"\xef\xbb\xbf") if self.number == 1 else line

    def _skip(self) -> None:
        while (rest := self._file.readline(ROW_BYTES_MAX)) and not rest.endswith(b"\n"):
            pass


_TOO_LONG: Final = f"is longer than {ROW_BYTES_MAX:,} bytes"


def read_jsonl(file: IO[bytes]) -> Iterator[Row]:
    """Read one JSON object a line; values are kept as they are written."""
    lines = _Lines(file)
    for line in lines:
        if not line.strip():
            yield Row(lines.number, blank=True)
        elif lines.cut == lines.number:
            yield Row(lines.number, problem=_TOO_LONG)
        else:
            yield _json_row(lines.number, line)


def _json_row(number: int, line: bytes) -> Row:
    try:
        line.decode()
        return Row(number, _decode_object(line))
    except UnicodeDecodeError as error:
        return Row(number, problem=f"is not UTF-8 at byte {error.start + 1}")
    except msgspec.ValidationError:
        return Row(number, problem="is not a JSON object")
    except msgspec.DecodeError as error:
        return Row(number, problem=f"is not JSON: {error}")
    except RecursionError:
        return Row(number, problem="is nested too deeply")


class CsvFile:
    """A CSV file with a header line.

    Attributes:
        columns: the header's names.

    Raises:
        ClickException: there is no usable header.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._lines = _Lines(file)
        texts = (line.decode(errors="surrogateescape") for line in self._lines)
        self._reader = csv.reader(texts, strict=True)
        try:
            self.columns = [name.strip() for name in next(self._reader, [])]
            "".join(self.columns).encode()
        except (csv.Error, UnicodeEncodeError) as error:
            raise click.ClickException(f"the header line cannot be read: {error}") from None
        if not any(self.columns):
            raise click.ClickException("the first line must be a header that names the columns")

    def __iter__(self) -> Iterator[Row]:
        while True:
            line = self._lines.number + 1
            try:
                cells = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Row(line, problem=_TOO_LONG if self._lines.cut >= line else f"is not CSV: {error}")
                continue
            yield self._row(line, cells)

    def _row(self, line: int, cells: list[str]) -> Row:
        if not cells or (len(self.columns) > 1 and not any(cells) and len(cells) == 1):
            return Row(line, blank=True)
        if self._lines.cut >= line:
            return Row(line, problem=_TOO_LONG)
        if len(cells) != len(self.columns):
            return Row(line, problem=f"has {len(cells)} cells, the header has {len(self.columns)}")
        try:
            "".join(cells).encode()
        except UnicodeEncodeError:
            return Row(line, problem="is not UTF-8")
        return Row(line, dict(zip(self.columns, cells, strict=True)))
