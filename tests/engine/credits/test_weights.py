"""Weights: what usage costs in credits, and how a schedule of weights is published (CONTRACTS 1.2, 1.7, E6)."""

from decimal import Decimal
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import NOW, event, plan_of
from tallyd.engine.credits.schedules import Published, removal_problem
from tallyd.engine.credits.weights import NO_WEIGHTS, Weights, new_weight, publish_weights, weight_id
from tallyd.engine.rating import PricedFeature
from tallyd.model.catalog import CreditWeight
from tallyd.model.moments import DAY_US, HOUR_US, MINUTE_US
from tallyd.model.problems import Code, Problem

UNITS: Final = plan_of('{ model = "included" }').features["api"]
TOKENS: Final = plan_of('{ model = "llm_tokens", markup_percent = 0 }').features["api"]


def weight(value: str, model: str | None = None, kind: Any = None) -> CreditWeight:
    """A weight of the feature `api`."""
    return CreditWeight(feature="api", weight=Decimal(value), model=model, kind=kind)


def in_force(*rows: CreditWeight, since: int = NOW - 90 * DAY_US) -> Weights:
    """A schedule in which these hold."""
    return Weights([new_weight(row, since, since) for row in rows])


def cost(
    weights: Weights,
    *,
    units: str = "1",
    feature: PricedFeature = UNITS,
    precision: int | None = None,
    **sent: Any,
) -> Any:
    """Quote an event of the feature."""
    return weights.quote(feature, event(**sent), Decimal(units), now=NOW, precision=precision)


def per_credit(units: str) -> PricedFeature:
    """The feature with so many units for a credit."""
    return msgspec.structs.replace(UNITS, units_per_credit=Decimal(units))


# Units


@pytest.mark.parametrize(
    ("rows", "model", "charge", "match"),
    [
        ([weight("2"), weight("8", "gpt-4o")], "gpt-4o", "24", "MODEL"),
        ([weight("2"), weight("8", "gpt-4o")], "gpt-4o-mini", "6", "FEATURE_DEFAULT"),
        ([weight("2"), weight("8", "gpt-4o")], None, "6", "FEATURE_DEFAULT"),
        ([weight("8", "gpt-4o")], "claude", "3", "NONE"),
        ([weight("8", "gpt-4o")], "gpt-4o-2024-08-06", "3", "NONE"),
        ([], "gpt-4o", "3", "NONE"),
    ],
)
def test_the_weight_is_the_models_then_the_features_then_one(
    rows: list[CreditWeight], model: str | None, charge: str, match: str
) -> None:
    """A unit costs what the exact model's weight says, else the feature's, else one credit (1.7)."""
    quote = cost(in_force(*rows), units="3", model=model)
    assert (quote.charge, quote.weight_match) == (Decimal(charge), match)
    assert quote.weight * 3 == quote.charge


def test_a_quote_names_its_weight() -> None:
    """The evidence is the row's id; without a row there is none."""
    weights = in_force(weight("2"))
    assert cost(weights).weight_id == weights.rows[0].id
    assert cost(NO_WEIGHTS).weight_id is None


def test_another_features_weight_is_not_asked() -> None:
    """Weights belong to their feature."""
    other = CreditWeight(feature="other", weight=Decimal(9))
    assert cost(in_force(other)).charge == 1


@pytest.mark.parametrize(
    ("units", "precision", "charge"),
    [
        ("0.33335", 4, "0.6667"),
        ("0.333325", 4, "0.6667"),
        ("0.333325", None, "0.666650"),
        ("1.25", 0, "3"),
        ("1.24", 0, "2"),
        ("-1.25", 0, "-3"),
        ("7", 4, "14"),
    ],
)
def test_a_charge_is_rounded_once_half_up_to_the_precision(units: str, precision: int | None, charge: str) -> None:
    """With a precision the charge is rounded half up, and only then; without one it is exact (1.7)."""
    assert cost(in_force(weight("2")), units=units, precision=precision).charge == Decimal(charge)


# Units for a credit


def test_f11_metered_credits() -> None:
    """1500 tokens at 1000 for a credit come to 1.5 credits, and no weight is asked (F11)."""
    quote = cost(in_force(weight("8")), units="1500", feature=per_credit("1000"))
    assert (quote.charge, quote.units_per_credit) == (Decimal("1.5"), 1000)
    assert (quote.weight, quote.weight_match) == (None, None)


@pytest.mark.parametrize(
    ("precision", "charge"),
    [(4, "0.6667"), (0, "1"), (None, "0.666666666666666667"), (18, "0.666666666666666667")],
)
def test_units_that_are_no_exact_number_of_credits_are_rounded(precision: int | None, charge: str) -> None:
    """Two units at three for a credit are rounded half up: to the precision, at the last to 18 digits."""
    assert cost(NO_WEIGHTS, units="2", feature=per_credit("3"), precision=precision).charge == Decimal(charge)


# Tokens by kind


def test_tokens_are_weighed_by_kind_where_tokens_are_priced() -> None:
    """The charge is the sum over kinds of tokens times their weight."""
    weights = in_force(weight("2", kind="input"), weight("8", kind="output"))
    quote = cost(weights, feature=TOKENS, input_tokens=1000, output_tokens=300, model="gpt-4o")
    assert quote.charge == 1000 * 2 + 300 * 8
    assert quote.weights == {"input": 2, "output": 8}
    assert quote.weight_match == "FEATURE_DEFAULT"


def test_tokens_are_not_weighed_where_units_are_priced() -> None:
    """A feature that counts units pays for units, whatever tokens its events carry."""
    weights = in_force(weight("5"), weight("2", kind="input"))
    assert cost(weights, units="3", input_tokens=1000).charge == 15


def test_units_are_weighed_when_no_weight_by_kind_holds() -> None:
    """Without weights by kind, or without tokens, it is units times the kindless weight."""
    both = in_force(weight("5"), weight("2", kind="input"))
    assert cost(in_force(weight("5")), units="3", feature=TOKENS, input_tokens=3).charge == 15
    assert cost(both, units="3", feature=TOKENS).charge == 15
    elsewhere = in_force(weight("5"), weight("2", "claude", "input"))
    assert cost(elsewhere, units="3", feature=TOKENS, input_tokens=3, model="gpt-4o").charge == 15


@pytest.mark.parametrize(
    ("rows", "expected", "match"),
    [
        ([weight("1", "gpt-4o", "cache_read"), weight("2", kind="cache_read")], "1", "MODEL"),
        ([weight("2", kind="cache_read"), weight("3", "gpt-4o", "input")], "2", "FEATURE_DEFAULT"),
        ([weight("3", "gpt-4o", "input"), weight("4", kind="input")], "3", "MODEL"),
        ([weight("4", kind="input"), weight("5", "gpt-4o")], "4", "FEATURE_DEFAULT"),
        ([weight("9", kind="output"), weight("5", "gpt-4o"), weight("6")], "5", "MODEL"),
        ([weight("9", kind="output"), weight("6")], "6", "FEATURE_DEFAULT"),
        ([weight("9", kind="output")], "1", "NONE"),
    ],
)
def test_a_kind_without_a_weight_takes_its_parents_then_the_kindless(
    rows: list[CreditWeight], expected: str, match: str
) -> None:
    """Cached input: its own weight, the input's, the model's or feature's, one; each first for the very model."""
    quote = cost(in_force(*rows), feature=TOKENS, cache_read_tokens=10, model="gpt-4o")
    assert (quote.charge, quote.weight_match) == (Decimal(expected) * 10, match)
    assert quote.weights == {"cache_read": Decimal(expected)}


def test_reasoning_weighs_as_output() -> None:
    """Reasoning tokens without a weight of their own take the output's."""
    weights = in_force(weight("2", kind="input"), weight("8", kind="output"))
    assert cost(weights, feature=TOKENS, reasoning_tokens=10).charge == 80


# Time


def dated(*rows: tuple[str, int]) -> Weights:
    """A schedule of one weight: (value, effective from), published long before."""
    return Weights([new_weight(weight(value), begins, 0) for value, begins in rows])


@pytest.mark.parametrize(
    ("ago", "charge"),
    [(0, "3"), (HOUR_US, "3"), (HOUR_US + 1, "2"), (DAY_US, "2"), (DAY_US + 1, "1"), (-MINUTE_US, "4")],
)
def test_the_latest_weight_in_force_when_the_event_occurred_counts(ago: int, charge: str) -> None:
    """A weight holds from its instant on, until the next one does."""
    weights = dated(("2", NOW - DAY_US), ("3", NOW - HOUR_US), ("4", NOW + MINUTE_US))
    assert cost(weights, at=NOW - ago).charge == Decimal(charge)


@pytest.mark.parametrize(("ago", "charge"), [(48 * HOUR_US, "2"), (90 * DAY_US, "2"), (-6 * MINUTE_US, "3")])
def test_the_instant_asked_is_clamped(ago: int, charge: str) -> None:
    """Very late or early events are weighed as of 48 hours ago or in 5 minutes (CONTRACTS 1.4)."""
    weights = dated(
        ("1", NOW - 80 * DAY_US), ("2", NOW - 48 * HOUR_US), ("3", NOW + 5 * MINUTE_US), ("4", NOW + 6 * MINUTE_US)
    )
    assert cost(weights, at=NOW - ago).charge == Decimal(charge)


def test_what_was_published_later_does_not_change_an_earlier_quote() -> None:
    """Asking again for a decision gives the same answer, whatever was published since."""
    before = Weights([new_weight(weight("2"), NOW - DAY_US, 0)])
    since = new_weight(weight("9"), NOW + MINUTE_US, NOW + 1)
    ahead = event(at=NOW + 2 * MINUTE_US)
    for weights in (before, Weights([*before.rows, since])):
        assert weights.quote(UNITS, ahead, Decimal(1), now=NOW, precision=None).charge == 2
    assert Weights([since]).quote(UNITS, ahead, Decimal(1), now=NOW + 1, precision=None).charge == 9


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), unique_by=lambda row: row[0]), st.integers(0, 50)
)
def test_the_weight_at_an_instant_is_the_latest_one_up_to_it(rows: list[tuple[int, int]], moment: int) -> None:
    """Looking up agrees with going through all rows one by one."""
    weights = dated(*((str(value), NOW - 60 + begins) for begins, value in rows))
    holding = [row for row in rows if row[0] <= moment]
    expected = max(holding)[1] if holding else 1
    assert cost(weights, at=NOW - 60 + moment).charge == expected


# Publishing


def published(held: Weights, *batch: CreditWeight, begins: int = NOW) -> Published[Any]:
    """Publish a batch that is taken."""
    decided = publish_weights(held, batch, begins, NOW)
    assert isinstance(decided, Published), decided
    return decided


def refused(held: Weights, *batch: CreditWeight, begins: int = NOW) -> Problem:
    """Publish a batch that is not taken."""
    decided = publish_weights(held, batch, begins, NOW)
    assert isinstance(decided, Problem), decided
    return decided


def test_e6_an_instant_in_the_past_is_refused() -> None:
    """Now is not the past; a microsecond ago is (E6)."""
    assert published(NO_WEIGHTS, weight("2"), begins=NOW).rows
    problem = refused(NO_WEIGHTS, weight("2"), begins=NOW - 1)
    assert (problem.code, problem.field) == (Code.VALIDATION_FAILED, "effectiveFrom")


def test_e6_the_same_batch_gives_the_same_rows() -> None:
    """A batch sent again gives the rows it made, in any order, even when its instant has passed since (E6)."""
    first = published(NO_WEIGHTS, weight("2"), weight("8", "gpt-4o"), begins=NOW)
    held = Weights(first.rows)
    again = published(held, weight("8.0", "gpt-4o"), weight("2"))
    assert again.repeated
    assert again.rows == first.rows[::-1]
    late = publish_weights(held, [weight("2"), weight("8", "gpt-4o")], NOW, NOW + HOUR_US)
    assert isinstance(late, Published)
    assert late.repeated


@pytest.mark.parametrize(
    "batch", [[weight("3")], [weight("2", "gpt-4o")], [weight("2"), weight("8", "gpt-4o")]], ids=len
)
def test_e6_another_batch_at_the_same_instant_is_a_conflict(batch: list[CreditWeight]) -> None:
    """One instant, one batch: another value, another row or one row more is a conflict (E6)."""
    held = Weights(published(NO_WEIGHTS, weight("2")).rows)
    assert refused(held, *batch).code is Code.CONFLICT


def test_e6_only_what_lies_ahead_can_be_deleted() -> None:
    """A row in force stays, one that begins in a microsecond may go (E6)."""
    row = new_weight(weight("2"), NOW, NOW)
    assert removal_problem(row, NOW - 1) is None
    problem = removal_problem(row, NOW)
    assert problem is not None
    assert problem.code is Code.VALIDATION_FAILED


@pytest.mark.parametrize(
    "value",
    ["0", "-1", "1000000.000001", "1000001", "0.0000001", "1.0000001", "NaN", "Infinity", "1E-300", "1E+30"],
)
def test_a_weight_is_positive_and_not_too_fine(value: str) -> None:
    """A weight is more than 0, at most a million, with at most 6 digits after the point (1.7)."""
    problem = refused(NO_WEIGHTS, weight("1"), weight(value, "gpt-4o"))
    assert problem.field == "weights[1].weight"


@pytest.mark.parametrize("value", ["1000000", "0.000001", "1.50", "1.00000000"])
def test_a_weight_at_the_bounds_is_taken(value: str) -> None:
    """Zeros at the end are no digits."""
    assert published(NO_WEIGHTS, weight(value)).rows[0].weight == Decimal(value)


def test_a_batch_has_rows_and_none_twice() -> None:
    """Nothing to publish, or two weights for one thing, is a mistake."""
    assert refused(NO_WEIGHTS).field == "weights"
    assert refused(NO_WEIGHTS, weight("1"), weight("2")).field == "weights[1]"


def test_an_id_tells_a_changed_byte() -> None:
    """The id is derived from feature, model, kind, weight and instant: none can be changed unseen."""
    row = new_weight(weight("2", "gpt-4o", "input"), NOW, NOW)
    assert weight_id(row) == row.id
    assert weight_id(msgspec.structs.replace(row, weight=Decimal("2.0"), created_at=0)) == row.id
    for changed in (
        {"feature": "other"},
        {"model": ""},
        {"kind": "output"},
        {"weight": Decimal(3)},
        {"effective_from": NOW + 1},
    ):
        assert weight_id(msgspec.structs.replace(row, **changed)) != row.id
