"""The catalog: refused as a whole with everything that is wrong with it, or ready to price."""

from decimal import Decimal

import pytest

from support import CATALOG, MODELS, event, priced
from tallyd.engine.catalog import CatalogError, check_catalog, operator_prices, read_catalog

FEATURE = '[[features]]\nkey = "api"\n'
PLAN = '[[plans]]\nkey = "p"\nname = "P"\n'


def issues(text: str) -> dict[str, str]:
    """What is wrong, by place."""
    with pytest.raises(CatalogError) as refused:
        check_catalog(read_catalog(text, "catalog.toml"), MODELS, "catalog.toml")
    assert all(line.startswith("catalog.toml: ") for line in str(refused.value).splitlines())
    return {issue.where: issue.message for issue in refused.value.issues}


def test_a_good_catalog_is_taken() -> None:
    """The catalog of these tests has nothing wrong with it."""
    check_catalog(read_catalog(CATALOG, "catalog.toml"), MODELS, "catalog.toml")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("features = 3", "features"),
        ("[[feature]]\nkey = 'api'", "top level"),
        ("[[features]]\nname = 'x'", "features[0]"),
        ("[[features]]\nkey = 'x'\nkye = 'y'", "features[0]"),
        (f"{PLAN}interval_months = 'one'", "plans[0].interval_months"),
        (f"{PLAN}price_amount = 'lots'", "plans[0].price_amount"),
        (f"{PLAN}billing_timing = 'LATER'", "plans[0].billing_timing"),
        ("[[plans", "TOML"),
        (
            '[[meters]]\nkey = "m"\nevent_name = "e"\naggregation = { type = "median" }',
            "meters[0].aggregation.type",
        ),
    ],
)
def test_a_wrong_type_or_a_misspelt_key_is_refused_by_place(text: str, place: str) -> None:
    """The error names the file, and the table and field where it can."""
    assert place in issues(text)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (f"{FEATURE}{FEATURE}", "features[1].key"),
        ('[[features]]\nkey = ""', "features[0].key"),
        ('[[features]]\nkey = " api"', "features[0].key"),
        (f'[[features]]\nkey = "{"k" * 129}"', "features[0].key"),
        ('[[features]]\nkey = "a\\u0007"', "features[0].key"),
        (f"{PLAN}{PLAN}", "plans[1].key"),
        (f"{PLAN}interval_months = 0", "plans.p.interval_months"),
        (f'{PLAN}currency = "usd"', "plans.p.currency"),
        (f"{PLAN}price_amount = -1", "plans.p.price_amount"),
        (f"{PLAN}price_amount = nan", "plans.p.price_amount"),
        (f"{PLAN}price_amount = inf", "plans.p.price_amount"),
        (f"{PLAN}price_amount = 1e30", "plans.p.price_amount"),
        (f'{PLAN}features = [{{ feature = "api" }}]', "plans.p.features[0].feature"),
        (
            f'{FEATURE}{PLAN}features = [{{ feature = "api" }}, {{ feature = "api" }}]',
            "plans.p.features[1].feature",
        ),
        (f'{FEATURE}{PLAN}features = [{{ feature = "api", meter = "m" }}]', "plans.p.features[0].meter"),
        (
            f'{FEATURE}{PLAN}features = [{{ feature = "api", pricing = {{ model = "magic" }} }}]',
            "plans.p.features[0].pricing.model",
        ),
        (
            (
                f'{FEATURE}{PLAN}features = [{{ feature = "api", pricing = {{ model = "usage", usage_unit_type = "u", '  # noqa: E501
                "price_per_unit = -1 } }]"
            ),
            "plans.p.features[0].pricing.price_per_unit",
        ),
        (
            (
                f'{FEATURE}{PLAN}features = [{{ feature = "api", pricing = {{ model = "usage", usage_unit_type = "u", '  # noqa: E501
                "price_per_unit = nan } }]"
            ),
            "plans.p.features[0].pricing.price_per_unit",
        ),
        (
            f'{FEATURE}{PLAN}features = [{{ feature = "api", pricing = {{ model = "included", max_usage = nan }} }}]',  # noqa: E501
            "plans.p.features[0].pricing.max_usage",
        ),
        (
            f'{FEATURE}{PLAN}features = [{{ feature = "api", cost = {{ model = "simple" }} }}]',
            "plans.p.features[0].cost.cost_per_unit",
        ),
        ('[default_cost]\nmodel = "simple"\ncost_per_unit = nan', "default_cost.cost_per_unit"),
        (
            '[[model_prices]]\nmodel = "m"\ninput_per_million = nan\noutput_per_million = 1',
            "model_prices[0].input_per_million",
        ),
        (
            '[[model_prices]]\nmodel = "m"\ninput_per_million = -1\noutput_per_million = 1',
            "model_prices[0].input_per_million",
        ),
        (
            '[[model_prices]]\nmodel = "m"\ninput_per_million = 1\noutput_per_million = 1\nvalid_from = "2026-01-01"',  # noqa: E501
            "model_prices[0].valid_from",
        ),
        ('[[meters]]\nkey = "m"\nevent_name = "e"\naggregation = { type = "sum" }', "meters.m.aggregation.key"),
        (
            (
                '[[meters]]\nkey = "m"\nevent_name = "e"\naggregation = { type = "count" }\n'
                'filter = { conjunction = "and", clauses = [] }'
            ),
            "meters.m.filter.clauses",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_by_table_and_field(text: str, place: str) -> None:
    """Each mistake is named by its table and field, never by a traceback."""
    assert place in issues(text)


def test_everything_wrong_is_told_at_once() -> None:
    """Whoever edits a catalog sees all its mistakes in one go."""
    found = issues(
        f'{FEATURE}[[meters]]\nkey = "m"\nevent_name = "e"\naggregation = {{ type = "sum" }}\n'
        f"{PLAN}interval_months = 0\ncurrency = 'x'\nfeatures = [{{ feature = 'no' }}, {{ feature = 'api', meter = 'q' }}]"  # noqa: E501
    )
    assert set(found) >= {
        "meters.m.aggregation.key",
        "plans.p.interval_months",
        "plans.p.currency",
        "plans.p.features[0].feature",
        "plans.p.features[1].meter",
    }


def test_numbers_are_read_digit_by_digit() -> None:
    """A price written as a TOML number is as exact as one written as a string."""
    text = (
        f'{FEATURE}{PLAN}features = [{{ feature = "api", pricing = {{ model = "usage", usage_unit_type = "u", '
        "price_per_unit = 0.1000000000000000055 } }]"
    )
    with pytest.raises(CatalogError, match="18 after"):
        check_catalog(read_catalog(text, "c"), MODELS, "c")
    short = text.replace("0.1000000000000000055", "0.100000000000000005")
    feature = priced(short).features["api"]
    assert feature.terms.price_per_unit == Decimal("0.100000000000000005")  # type: ignore[attr-defined]


def test_a_bare_model_cost_is_the_input_rate() -> None:
    """`model_costs` takes a number for the input rate alone (CONTRACTS 1.6)."""
    cost = 'cost = { model = "model_aware", model_costs = { "m" = 2 } }'
    rule = priced(f"{FEATURE}{PLAN}[[plans.features]]\nfeature = 'api'\n{cost}").features["api"].cost
    assert rule is not None
    assert rule.cost(event(model="m", input_tokens=3, output_tokens=9)) == 6


def test_model_prices_are_a_dated_history() -> None:
    """Several rows of one model hold from their own instants on, in whichever order they stand."""
    row = '[[model_prices]]\nmodel = "m"\ninput_per_million = {}\noutput_per_million = 1\n'
    text = row.format(9) + 'valid_from = "2026-06-01T00:00:00Z"\n' + row.format(5)
    (prices,) = operator_prices(read_catalog(text, "c").model_prices)["m"]
    june = 1_780_272_000_000_000
    assert prices.at(june - 1).per_million["input"] == 5
    assert prices.at(june).per_million["input"] == 9
