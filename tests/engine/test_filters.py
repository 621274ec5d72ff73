"""Meter filters: eight operators over metadata, and/or to three levels (CONTRACTS 2.3)."""

from decimal import Decimal
from typing import Any

import pytest

from tallyd.engine.filters import FilterError, compile_filter
from tallyd.model.catalog import Filter


def passes(metadata: dict[str, Any], *clauses: dict[str, Any], conjunction: str = "and") -> bool:
    """Whether metadata passes a filter of these clauses."""
    predicate = compile_filter(Filter(conjunction=conjunction, clauses=list(clauses)))  # type: ignore[arg-type]
    assert predicate is not None
    return predicate(metadata)


def clause(operator: str, value: object, key: str = "x") -> dict[str, Any]:
    """One comparison."""
    return {"key": key, "operator": operator, "value": value}


def nested(depth: int) -> dict[str, Any]:
    """A filter of this many levels."""
    inner: dict[str, Any] = clause("equals", 1)
    for _ in range(depth):
        inner = {"conjunction": "or", "clauses": [inner]}
    return inner


@pytest.mark.parametrize(
    ("operator", "value", "sent", "passed"),
    [
        ("equals", "eu", "eu", True),
        ("equals", "eu", "EU", False),
        ("equals", 12, "12.0", True),
        ("equals", "12", Decimal("12.00"), True),
        ("equals", True, "true", True),
        ("equals", True, 1, False),
        ("equals", 1, True, False),
        ("not_equals", "eu", "us", True),
        ("not_equals", "eu", "eu", False),
        ("not_equals", 12, Decimal(12), False),
        ("greater_than", 10, 11, True),
        ("greater_than", 10, 10, False),
        ("greater_than", 10, "9", False),
        ("greater_than", 9, "10", True),
        ("greater_than", 10, "ten", False),
        ("greater_than", 0, True, False),
        ("greater_than_or_equals", 10, 10, True),
        ("greater_than_or_equals", Decimal("10.01"), 10, False),
        ("less_than", 10, Decimal("9.999"), True),
        ("less_than", 10, 10, False),
        ("less_than_or_equals", 10, "10", True),
        ("less_than_or_equals", 10, Decimal("10.0001"), False),
        ("contains", "gpt", "gpt-4o", True),
        ("contains", "gpt", "claude", False),
        ("contains", 2, 123, True),
        ("does_not_contain", "gpt", "claude", True),
        ("does_not_contain", "gpt", "gpt-4o", False),
        ("does_not_contain", "", "anything", False),
    ],
)
def test_an_operator_compares_as_its_name_says(
    operator: str, value: object, sent: object, *, passed: bool
) -> None:
    """Numbers compare as numbers, also when sent as strings; everything else compares as text."""
    assert passes({"x": sent}, clause(operator, value)) is passed


@pytest.mark.parametrize("operator", ["equals", "not_equals", "less_than", "contains", "does_not_contain"])
def test_an_event_without_the_key_is_excluded(operator: str) -> None:
    """Whatever the operator, negative ones too, an absent key does not match."""
    assert not passes({"y": 1}, clause(operator, 5))


def test_an_absent_key_excludes_only_its_own_clause() -> None:
    """Under `or` another clause may still match."""
    assert passes({"y": 1}, clause("equals", 5), clause("equals", 1, "y"), conjunction="or")


@pytest.mark.parametrize("sent", ["NaN", "Infinity", "1e30", "", " ", "1" * 300])
def test_a_string_that_is_no_exact_number_matches_no_number(sent: str) -> None:
    """Not-a-numbers and numbers beyond the limits pass no numeric comparison, and raise nothing."""
    assert not passes({"x": sent}, clause("greater_than", -1))
    assert not passes({"x": sent}, clause("less_than_or_equals", 1))


@pytest.mark.parametrize("sent", [None, [1], {"a": 1}])
def test_values_that_are_not_scalars_raise_nothing(sent: object) -> None:
    """Lists, objects and null are text at best."""
    assert not passes({"x": sent}, clause("greater_than", 0))
    assert passes({"x": sent}, clause("not_equals", "eu"))


def test_three_levels_combine() -> None:
    """(a and (b or (c and d))) is decided level by level."""
    deepest = {"conjunction": "and", "clauses": [clause("equals", 1, "c"), clause("equals", 1, "d")]}
    middle = {"conjunction": "or", "clauses": [clause("equals", 1, "b"), deepest]}
    outer = (clause("equals", 1, "a"), middle)
    assert passes({"a": 1, "b": 1}, *outer)
    assert passes({"a": 1, "c": 1, "d": 1}, *outer)
    assert not passes({"a": 1, "c": 1}, *outer)
    assert not passes({"b": 1, "c": 1, "d": 1}, *outer)


def test_a_fourth_level_is_refused_with_its_place() -> None:
    """Three levels are allowed; the error of a fourth says where it is."""
    assert passes({"x": 1}, nested(2))
    with pytest.raises(FilterError) as refused:
        passes({"x": 1}, nested(3))
    assert refused.value.field == "filter.clauses[0].clauses[0].clauses[0]"


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"conjunction": "and", "clauses": []}, "filter.clauses[0].clauses"),
        (clause("is", 1), "filter.clauses[0]"),
        ({"key": "x", "operator": "equals"}, "filter.clauses[0]"),
        (clause("equals", None), "filter.clauses[0].value"),
        (clause("equals", [1]), "filter.clauses[0].value"),
        (clause("less_than", "ten"), "filter.clauses[0].value"),
        (clause("greater_than", Decimal("NaN")), "filter.clauses[0].value"),
        ({**clause("equals", 1), "values": 2}, "filter.clauses[0]"),
        ({"conjunction": "xor", "clauses": [clause("equals", 1)]}, "filter.clauses[0]"),
    ],
)
def test_a_bad_clause_is_refused_by_place(bad: dict[str, Any], field: str) -> None:
    """Unknown operators, missing or impossible values and misspelt keys are refused when the meter is written."""
    with pytest.raises(FilterError) as refused:
        compile_filter(Filter(conjunction="and", clauses=[bad]))
    assert refused.value.field == field


def test_a_filter_is_bounded() -> None:
    """A hundred and one clauses are too many (P11)."""
    with pytest.raises(FilterError, match="at most 100"):
        passes({}, *[clause("equals", 1)] * 101)
