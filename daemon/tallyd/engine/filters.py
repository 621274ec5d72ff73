"""Meter filters: and/or up to three levels, eight operators over metadata (CONTRACTS 2.3)."""

from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import msgspec

from tallyd.model.catalog import Clause, Filter
from tallyd.model.money import number_problem

DEPTH_MAX: Final = 3
CLAUSES_MAX: Final = 100

Metadata = Mapping[str, Any]
Predicate = Callable[[Metadata], bool]

_COMPARE: Final[dict[str, Callable[[Decimal, Decimal], bool]]] = {
    "greater_than": lambda left, right: left > right,
    "greater_than_or_equals": lambda left, right: left >= right,
    "less_than": lambda left, right: left < right,
    "less_than_or_equals": lambda left, right: left <= right,
}


class FilterError(Exception):
    """A filter that cannot be used; `field` is the path to blame, such as `filter.clauses[1].operator`."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


def number(value: object) -> Decimal | None:
    """Read a metadata value as a number: numbers, and strings that hold one. None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | str):
        try:
            value = Decimal(value)
        except InvalidOperation:
            return None
    if isinstance(value, Decimal) and number_problem(value) is None:
        return value
    return None


def text(value: object) -> str:
    """Read a metadata value as text, the way it stands in JSON: true, 12, eu-west."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def matches(clause: Clause, value: object) -> bool:
    """Whether one metadata value passes one clause."""
    operator = clause.operator
    if operator in _COMPARE:
        left, right = number(value), number(clause.value)
        return left is not None and right is not None and _COMPARE[operator](left, right)
    if operator == "contains":
        return text(clause.value) in text(value)
    if operator == "does_not_contain":
        return text(clause.value) not in text(value)
    return _equal(value, clause.value) is (operator == "equals")


def _equal(value: object, wanted: object) -> bool:
    left, right = number(value), number(wanted)
    if left is not None and right is not None:
        return left == right
    return text(value) == text(wanted)


def compile_filter(definition: Filter | None, *, field: str = "filter") -> Predicate | None:
    """Turn a filter's definition into a function of an event's metadata; None when there is no filter.

    Raises:
        FilterError: too deep, empty, too many clauses, or a clause of the wrong shape.
    """
    if definition is None:
        return None
    return _compile(definition, field, 1)


def _compile(definition: Filter, field: str, depth: int) -> Predicate:
    if not definition.clauses:
        raise FilterError(f"{field}.clauses", "must have at least one clause")
    if len(definition.clauses) > CLAUSES_MAX:
        raise FilterError(f"{field}.clauses", f"must have at most {CLAUSES_MAX} clauses")
    parts = tuple(
        _compile_part(part, f"{field}.clauses[{index}]", depth) for index, part in enumerate(definition.clauses)
    )
    if definition.conjunction == "and":
        return lambda metadata: all(part(metadata) for part in parts)
    return lambda metadata: any(part(metadata) for part in parts)


def _compile_part(part: dict[str, Any], field: str, depth: int) -> Predicate:
    try:
        if "clauses" in part or "conjunction" in part:
            if depth == DEPTH_MAX:
                raise FilterError(field, f"filters nest at most {DEPTH_MAX} levels deep")
            return _compile(msgspec.convert(part, Filter), field, depth + 1)
        clause = msgspec.convert(part, Clause)
    except msgspec.ValidationError as error:
        raise FilterError(field, str(error)) from None
    if not isinstance(clause.value, str | bool | int | Decimal):
        raise FilterError(f"{field}.value", "must be a string, a number or a boolean")
    if clause.operator in _COMPARE and number(clause.value) is None:
        raise FilterError(f"{field}.value", f"must be a number for {clause.operator}")
    return lambda metadata: clause.key in metadata and matches(clause, metadata[clause.key])
