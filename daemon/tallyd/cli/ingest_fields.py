"""From a row's cells to the body of an event: which column feeds which field, and how its text is read."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import Any, Final

import click
import msgspec

from tallyd.cli.ingest_file import Cells
from tallyd.model.event import CostInput, EventBody
from tallyd.model.moments import iso, to_micros
from tallyd.model.money import FRACTION_DIGITS_MAX, INTEGER_DIGITS_MAX

TIME: Final = "occurredAt"
KEY: Final = "eventIdempotencyKey"
META: Final = "meta"
COST_INPUT: Final = "costInput"
CUSTOMER_FIELDS: Final = ("customerReferenceId", "stripeCustomerId", "customerId")

_NUMBER: Final = re.compile(
    rf"-?(0|[1-9]\d{{0,{INTEGER_DIGITS_MAX - 1}}})(\.\d{{1,{FRACTION_DIGITS_MAX}}})?", re.ASCII
)
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.encode


class RowProblem(Exception):
    """A row that cannot become an event: names the field."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


def _fields_of(shape: type[msgspec.Struct], prefix: str = "") -> dict[str, Any]:
    return {prefix + field.encode_name: field.type for field in msgspec.structs.fields(shape)}


_TYPES: Final = {
    name: kind
    for name, kind in {**_fields_of(EventBody), **_fields_of(CostInput, f"{COST_INPUT}.")}.items()
    if name not in (META, COST_INPUT)
}
FIELDS: Final = (*_TYPES, "meta.<key>")


def check_field(name: str) -> str:
    """Return the name if events have such a field.

    Raises:
        BadParameter: they have not; names the nearest that they have.
    """
    if name in _TYPES or (name.startswith(f"{META}.") and len(name) > len(META) + 1):
        return name
    near = difflib.get_close_matches(name, _TYPES, 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(FIELDS)}"
    raise click.BadParameter(f"events have no field {name!r}; {hint}")


def is_field(name: str) -> bool:
    """Whether a column's name is that of a field."""
    return name in _TYPES or name.startswith(f"{META}.")


class Shape:
    """How rows become events.

    Args:
        columns: field to column, as `--map` says.
        constants: field to text, as `--set` says; they win over what a row says.
        zone: of times that name none.
    """

    def __init__(self, columns: Mapping[str, str], constants: Mapping[str, str], zone: tzinfo) -> None:
        self._columns = columns
        self._zone = zone
        self._constants = [(field, self.read_text(field, text)) for field, text in constants.items()]

    # A CSV's rows

    def of_columns(self, names: Iterable[str]) -> Callable[[Cells], dict[str, Any]]:
        """Return what turns a row of these columns into a body; columns named like fields need no `--map`.

        Raises:
            UsageError: a mapped column is not there, stands there twice, or an event would lack what it needs.
        """
        listed = list(names)
        own = {name: name for name in listed if is_field(name) and name not in self._columns}
        feeds = [*own.items(), *self._columns.items()]
        for field, column in feeds:
            if listed.count(column) != 1:
                why = "stands in the header twice" if column in listed else f"is not in: {', '.join(listed)}"
                raise click.UsageError(f"--map {field}={column}: the column {column!r} {why}")
        fed = {field for field, _ in (*feeds, *self._constants)}
        _require(fed, "eventName", ("eventName",))
        _require(fed, "customerReferenceId", CUSTOMER_FIELDS)

        def read(cells: Cells) -> dict[str, Any]:
            body: dict[str, Any] = {}
            for field, column in feeds:
                text = cells[column]
                if text:
                    _put(body, field, self.read_text(field, str(text)))
            return self._with_constants(body)

        return read

    def read_text(self, field: str, text: str) -> Any:
        """Read a cell as its field wants it: numbers keep every digit.

        Raises:
            RowProblem: a time that is none.
        """
        if field == TIME:
            return self._time(text.strip())
        if field.startswith(f"{META}."):
            return msgspec.Raw(text.encode()) if _NUMBER.fullmatch(text) else text
        return text.strip() if Decimal in getattr(_TYPES[field], "__args__", ()) else text

    # A JSONL's rows

    def of_objects(self, cells: Cells) -> dict[str, Any]:
        """Turn a JSON object into a body: its own fields as they are, then the mapped ones, then the constants.

        Raises:
            RowProblem: names the field.
        """
        body: dict[str, Any] = dict(cells)
        for field, column in self._columns.items():
            value = _find(cells, column)
            if value is not None:
                _put(body, field, self._fitting(field, value))
                body.pop(column, None) if column != field and not is_field(column) else None
        moment = body.get(TIME)
        if isinstance(moment, msgspec.Raw) and bytes(moment).startswith(b'"'):
            body[TIME] = self._time(_text(TIME, moment))
        return self._with_constants(body)

    def _fitting(self, field: str, value: msgspec.Raw) -> Any:
        """Return a number as text where the field is text: ids are often numbers elsewhere."""
        content = bytes(value)
        wants_text = str in getattr(_TYPES.get(field), "__args__", (_TYPES.get(field),))
        return content.decode() if wants_text and content[:1] in b"-0123456789" else value

    # Both

    def _with_constants(self, body: dict[str, Any]) -> dict[str, Any]:
        for field, value in self._constants:
            _put(body, field, value)
        return body

    def _time(self, text: str) -> str:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise RowProblem(TIME, f"{text!r} is not an ISO 8601 time such as 2026-11-21T09:30:00Z") from None
        if moment.tzinfo is not None:
            return text
        try:
            instant = moment.replace(tzinfo=self._zone).astimezone(UTC)
        except OverflowError:
            raise RowProblem(TIME, f"{text!r} is out of range") from None
        if self._zone is not UTC and instant.astimezone(self._zone).replace(tzinfo=None) != moment:
            raise RowProblem(TIME, f"{text!r} does not exist in {self._zone}: clocks were put forward")
        return iso(to_micros(instant))


def _require(fed: set[str], name: str, any_of: Iterable[str]) -> None:
    if not fed.intersection(any_of):
        text = f"every event needs {name}: add --map {name}=COLUMN or --set {name}=VALUE"
        raise click.UsageError(text)


def _put(body: dict[str, Any], field: str, value: Any) -> None:
    head, _, rest = field.partition(".")
    if not rest:
        body[field] = value
        return
    inner = body.get(head, {})
    if isinstance(inner, msgspec.Raw):
        try:
            inner = _decode_object(inner)
        except msgspec.DecodeError:
            raise RowProblem(head, "is not an object") from None
    inner[rest] = value
    body[head] = inner


def _find(cells: Cells, column: str) -> msgspec.Raw | None:
    """Return the value of a key, or of a dotted path into nested objects."""
    found: Any = cells.get(column)
    if found is None and "." in column:
        head, _, rest = column.partition(".")
        inner = cells.get(head)
        if isinstance(inner, msgspec.Raw) and bytes(inner).startswith(b"{"):
            found = _find(_decode_object(inner), rest)
    return None if found is None or bytes(found) == b"null" else found


def _text(field: str, value: msgspec.Raw) -> str:
    try:
        return msgspec.json.decode(value, type=str)
    except msgspec.DecodeError as error:
        raise RowProblem(field, str(error)) from None
