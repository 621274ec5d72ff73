"""From cells to bodies."""

from datetime import UTC
from typing import Any
from zoneinfo import ZoneInfo

import click
import msgspec
import pytest

from tallyd.cli.ingest_fields import RowProblem, Shape, check_field


def objects(content: str, columns: dict[str, str] | None = None, constants: dict[str, str] | None = None) -> Any:
    """Turn a JSON object into a body, as it goes over the wire."""
    shape = Shape(columns or {}, constants or {}, UTC)
    cells = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    return msgspec.json.encode(shape.of_objects(cells)).decode()


def test_columns_named_like_fields_need_no_map() -> None:
    """Columns that are fields are taken, others are left out, and constants win."""
    shape = Shape({}, {"featureKey": "api"}, UTC)
    read = shape.of_columns(["eventName", "customerReferenceId", "comment", "meta.region", "featureKey"])
    cells = dict(
        zip(["eventName", "customerReferenceId", "comment", "meta.region", "featureKey"], "xyzab", strict=True)
    )
    assert read(cells) == {
        "eventName": "x",
        "customerReferenceId": "y",
        "meta": {"region": "a"},
        "featureKey": "api",
    }


def test_empty_cells_are_absent() -> None:
    """An empty cell says nothing, rather than an empty text."""
    read = Shape({"usageUnits": "n"}, {"eventName": "x"}, UTC).of_columns(["n", "customerId"])
    assert read({"n": "", "customerId": "c"}) == {"customerId": "c", "eventName": "x"}


def test_numbers_keep_every_digit() -> None:
    """Amounts travel as texts, so that no digit is lost on the way."""
    shape = Shape({}, {}, UTC)
    assert shape.read_text("usageUnits", " 0.1000000000000000001 ") == "0.1000000000000000001"
    assert shape.read_text("costInput.inputTokens", "4808") == "4808"


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("5", b"5"),
        ("-0.50", b"-0.50"),
        ("12345678901234567890.123456789012345678", b"12345678901234567890.123456789012345678"),
        ("007", b'"007"'),
        ("1e5", b'"1e5"'),
        ("123456789012345678901", b'"123456789012345678901"'),
        ("NaN", b'"NaN"'),
        ("eu", b'"eu"'),
    ],
)
def test_metadata_that_looks_like_a_number_is_one(text: str, sent: bytes) -> None:
    """Meters sum and compare numbers; what merely has digits, or too many, stays a text."""
    assert msgspec.json.encode(Shape({}, {}, UTC).read_text("meta.value", text)) == sent


@pytest.mark.parametrize(
    ("zone", "text", "sent"),
    [
        ("UTC", "2023-11-16 18:17:03.9799600", "2023-11-16T18:17:03.979960Z"),
        ("Europe/Berlin", "2026-07-01T12:00:00", "2026-07-01T10:00:00Z"),
        ("Europe/Berlin", "2026-10-25 02:30:00", "2026-10-25T00:30:00Z"),
        ("Europe/Berlin", "2026-07-01T12:00:00-05:00", "2026-07-01T12:00:00-05:00"),
    ],
)
def test_times_without_a_zone_are_read_in_the_one_given(zone: str, text: str, sent: str) -> None:
    """A time that names its zone stays; another is read in --timezone, the first of an hour that comes twice."""
    assert Shape({}, {}, ZoneInfo(zone)).read_text("occurredAt", text) == sent


@pytest.mark.parametrize("text", ["yesterday", "2026-03-29 02:30:00", "0001-01-01 00:00:00"])
def test_times_that_never_were_are_refused(text: str) -> None:
    """What is no time, or was skipped by summer time, is a problem of that row."""
    with pytest.raises(RowProblem, match="occurredAt"):
        Shape({}, {}, ZoneInfo("Europe/Berlin")).read_text("occurredAt", text)


def test_json_values_stay_as_they_are_written() -> None:
    """A number in JSON keeps its digits and its exponent, mapped or not."""
    line = '{"eventName":"x","usageUnits":0.1000000000000000001,"n":1E+2,"extra":[1,{"a":2}]}'
    assert objects(line, {"costInput.inputTokens": "n"}) == (
        '{"eventName":"x","usageUnits":0.1000000000000000001,"extra":[1,{"a":2}],"costInput":{"inputTokens":1E+2}}'
    )


def test_nested_keys_can_be_mapped_and_set() -> None:
    """A dotted column walks into objects; a dotted field reaches into what is there."""
    line = '{"user":{"id":42},"costInput":{"inputTokens":5}}'
    body = objects(line, {"customerReferenceId": "user.id"}, {"costInput.model": "gpt-4o", "eventName": "x"})
    assert msgspec.json.decode(body) == {
        "user": {"id": 42},
        "costInput": {"inputTokens": 5, "model": "gpt-4o"},
        "customerReferenceId": "42",
        "eventName": "x",
    }


def test_reaching_into_what_is_no_object_is_a_problem_of_the_row() -> None:
    """Setting meta.source where meta is a number cannot be done."""
    with pytest.raises(RowProblem, match="meta: is not an object"):
        objects('{"meta":5}', constants={"meta.source": "file"})


def test_an_unknown_field_is_refused_with_the_nearest() -> None:
    """A misspelt field is not sent into the void."""
    with pytest.raises(click.BadParameter, match="did you mean occurredAt"):
        check_field("occuredAt")
    assert check_field("meta.anything at all") == "meta.anything at all"


@pytest.mark.parametrize(
    ("columns", "header", "words"),
    [
        ({"eventName": "what"}, ["who"], "'what' is not in: who"),
        ({"eventName": "what"}, ["what", "what"], "stands in the header twice"),
        ({"customerReferenceId": "who"}, ["who"], "every event needs eventName"),
        ({"eventName": "what"}, ["what"], "every event needs customerReferenceId"),
    ],
)
def test_a_map_that_cannot_work_is_refused_at_once(columns: dict[str, str], header: list[str], words: str) -> None:
    """What would refuse every row is said before the first one is sent."""
    with pytest.raises(click.UsageError, match=words):
        Shape(columns, {}, UTC).of_columns(header)
