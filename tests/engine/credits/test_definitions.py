"""What a catalog says of credits: taken, or refused by table and field."""

from pathlib import Path
from typing import Final

import pytest

from support import MODELS, priced
from tallyd.engine.catalog import CatalogError, check_catalog, read_catalog

FEATURES: Final = '[[features]]\nkey = "chat"\n[[features]]\nkey = "other"\n'
EXAMPLE: Final = Path(__file__).parents[3] / "config" / "catalog.toml"


def issues(text: str) -> dict[str, str]:
    """What is wrong, by place."""
    try:
        check_catalog(read_catalog(FEATURES + text, "catalog.toml"), MODELS, "catalog.toml")
    except CatalogError as refused:
        return {issue.where: issue.message for issue in refused.issues}
    return {}


def model(text: str = "", key: str = "m") -> str:
    """A credit model."""
    return f'[[credit_models]]\nkey = "{key}"\n{text}\n'


def plan(text: str = "", feature: str = "") -> str:
    """A plan that has the feature."""
    head = f'[[plans]]\nkey = "p"\nname = "P"\n{text}\n'
    return f'{head}[[plans.features]]\nfeature = "chat"\n{feature}\n'


MONEY: Final = model('charge = "price"\ncurrency = "EUR"')
GOOD: Final = (
    model(
        """
name = "Tokens"
denomination = "TOKENS"
features = ["chat"]
precision = 4
expires_after_days = 30
low_at = 5
rollover = { policy = "PERCENTAGE", percentage = "62.5", expires_after_days = 10, max_count = 2 }
overage = { limit = 0, behavior = "invoice_at_billing", price_per_unit = "0.01", currency = "USD" }
top_up = { below = 10, amount = 100 }
recurring = { amount = 5, every = "day" }
"""
    )
    + model('rollover = { policy = "CAPPED", cap = 500 }', "capped")
    + plan(
        'credits = [{ credit_model = "m", amount = "9.5", draw_limit = 7 }, { credit_model = "capped", amount = 1 }]',  # noqa: E501
        'credit_model = "m"\nunits_per_credit = 1000',
    )
    + '[[credit_weights]]\nfeature = "chat"\nweight = 1000000\n'
    + '[[credit_weights]]\nfeature = "chat"\nmodel = "gpt-4o"\nkind = "input"\nweight = "0.000001"\n'
    + '[[credit_prices]]\ncredit_model = "m"\nprice = "0.02"\n'
)


def test_credits_of_every_kind_are_taken() -> None:
    """Nothing is wrong with a catalog that uses every field; a hard pool may have an overage."""
    assert issues(GOOD) == {}


def test_the_example_catalog_is_good() -> None:
    """What tallyd ships with as an example can be used as it is."""
    check_catalog(read_catalog(EXAMPLE.read_text(encoding="utf-8"), "catalog.toml"), MODELS, "catalog.toml")


def test_a_priced_plan_knows_its_credits() -> None:
    """A plan made ready carries what it includes, and its features who pays for them."""
    ready = priced(FEATURES + GOOD)
    assert [included.credit_model for included in ready.credits] == ["m", "capped"]
    assert ready.features["chat"].credit_model == "m"
    assert ready.features["chat"].units_per_credit == 1000


@pytest.mark.parametrize(
    ("field", "place"),
    [
        ('denomination = ""', "denomination"),
        (f'denomination = "{"x" * 33}"', "denomination"),
        ('name = " x"', "name"),
        ('charge = "price"', "currency"),
        ('currency = "usd"', "currency"),
        ('currency = "US1"', "currency"),
        ('features = ["no"]', "features[0]"),
        ('features = ["chat", "chat"]', "features[1]"),
        ("precision = -1", "precision"),
        ("precision = 19", "precision"),
        ("draw_priority = 99999999999999999999", "draw_priority"),
        ("expires_after_days = 0", "expires_after_days"),
        ("expires_after_days = 99999999999999999999", "expires_after_days"),
        ("low_at = 0", "low_at"),
        ("low_at = nan", "low_at"),
        ('rollover = { policy = "CAPPED" }', "rollover.cap"),
        ('rollover = { policy = "CAPPED", cap = -1 }', "rollover.cap"),
        ('rollover = { policy = "FULL", cap = 5 }', "rollover.cap"),
        ('rollover = { policy = "PERCENTAGE" }', "rollover.percentage"),
        ('rollover = { policy = "PERCENTAGE", percentage = 101 }', "rollover.percentage"),
        ('rollover = { policy = "PERCENTAGE", percentage = -1 }', "rollover.percentage"),
        ('rollover = { policy = "PERCENTAGE", percentage = inf }', "rollover.percentage"),
        ("rollover = { percentage = 5 }", "rollover.percentage"),
        ('rollover = { policy = "FULL", expires_after_days = 0 }', "rollover.expires_after_days"),
        ('rollover = { policy = "FULL", max_count = -1 }', "rollover.max_count"),
        ("overage = { limit = -1 }", "overage.limit"),
        ("overage = { price_per_unit = 1 }", "overage.currency"),
        ('overage = { price_per_unit = -1, currency = "USD" }', "overage.price_per_unit"),
        ('overage = { currency = "x" }', "overage.currency"),
        ("top_up = { below = 0, amount = 1 }", "top_up.below"),
        ("top_up = { below = 1, amount = 0 }", "top_up.amount"),
        ("top_up = { below = 1, amount = 1, most_a_month = 0 }", "top_up.most_a_month"),
        ('recurring = { amount = 0, every = "day" }', "recurring.amount"),
        ('recurring = { amount = 1e30, every = "day" }', "recurring.amount"),
    ],
)
def test_a_credit_model_that_cannot_work_is_refused_by_field(field: str, place: str) -> None:
    """Each mistake in a credit model is told with its place."""
    assert list(issues(model(field))) == [f"credit_models.m.{place}"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (model() + model(), "credit_models[1].key"),
        (model(key=""), "credit_models[0].key"),
        (model(key=" m"), "credit_models[0].key"),
        (model('rollover = { policy = "SOME" }'), "credit_models[0].rollover.policy"),
        (model("precission = 4"), "credit_models[0]"),
        (plan('credits = [{ credit_model = "no", amount = 1 }]'), "plans.p.credits[0].credit_model"),
        (
            model() + plan('credits = [{ credit_model = "m", amount = 1 }, { credit_model = "m", amount = 2 }]'),
            "plans.p.credits[1].credit_model",
        ),
        (MONEY + plan('credits = [{ credit_model = "m", amount = 1 }]'), "plans.p.credits[0].credit_model"),
        (model() + plan('credits = [{ credit_model = "m", amount = 0 }]'), "plans.p.credits[0].amount"),
        (
            model() + plan('credits = [{ credit_model = "m", amount = 1, draw_limit = 0 }]'),
            "plans.p.credits[0].draw_limit",
        ),
        (
            model() + plan('credits = [{ credit_model = "m", amount = 1, expires_after_months = 0 }]'),
            "plans.p.credits[0].expires_after_months",
        ),
        (
            model()
            + plan('credits = [{ credit_model = "m", amount = 1, grant_priority = 99999999999999999999 }]'),
            "plans.p.credits[0].grant_priority",
        ),
        (plan(feature='credit_model = "no"'), "plans.p.features[0].credit_model"),
        (model('charge = "nothing"') + plan(feature='credit_model = "m"'), "plans.p.features[0].credit_model"),
        (model('features = ["other"]') + plan(feature='credit_model = "m"'), "plans.p.features[0].credit_model"),
        (MONEY + plan(feature='credit_model = "m"'), "plans.p.features[0].credit_model"),
        (plan(feature="units_per_credit = 0"), "plans.p.features[0].units_per_credit"),
        (plan(feature="units_per_credit = nan"), "plans.p.features[0].units_per_credit"),
        (model() + plan(feature="units_per_credit = 3"), "plans.p.features[0].units_per_credit"),
        (
            model() + plan(feature='credit_model = "m"\nunits_per_credit = 3'),
            "plans.p.features[0].units_per_credit",
        ),
        (
            MONEY + plan('currency = "EUR"', 'credit_model = "m"\nunits_per_credit = 2'),
            "plans.p.features[0].units_per_credit",
        ),
        ('[[credit_weights]]\nfeature = "no"\nweight = 1', "credit_weights[0].feature"),
        ('[[credit_weights]]\nfeature = "chat"\nweight = 0', "credit_weights[0].weight"),
        ('[[credit_weights]]\nfeature = "chat"\nweight = 1.0000001', "credit_weights[0].weight"),
        ('[[credit_weights]]\nfeature = "chat"\nmodel = ""\nweight = 1', "credit_weights[0].model"),
        ('[[credit_weights]]\nfeature = "chat"\nweight = 1\n' * 2, "credit_weights[1]"),
        ('[[credit_weights]]\nfeature = "chat"\nkind = "thought"\nweight = 1', "credit_weights[0].kind"),
        ('[[credit_prices]]\ncredit_model = "no"\nprice = 1', "credit_prices[0].credit_model"),
        (model() + '[[credit_prices]]\ncredit_model = "m"\nprice = 0', "credit_prices[0].price"),
        (
            model() + '[[credit_prices]]\ncredit_model = "m"\nprice = 1\ncurrency = "$"',
            "credit_prices[0].currency",
        ),
        (model() + '[[credit_prices]]\ncredit_model = "m"\nprice = 1\n' * 2, "credit_prices[1]"),
    ],
)
def test_what_cannot_be_used_is_refused_by_table_and_field(text: str, place: str) -> None:
    """Each mistake in what plans include, weights and prices is told with its place, and nothing else is."""
    assert list(issues(text)) == [place]


@pytest.mark.parametrize(
    "text",
    [
        model() + plan(feature="units_per_credit = 8"),
        model("precision = 4") + plan(feature="units_per_credit = 3"),
        model('features = ["other"]') + plan(feature="units_per_credit = 3"),
        MONEY + plan(feature="units_per_credit = 3"),
        MONEY + plan('currency = "EUR"\ncredits = [{ credit_model = "m", amount = 1 }]', 'credit_model = "m"'),
    ],
)
def test_only_who_would_pay_is_asked_for_a_precision(text: str) -> None:
    """Units for a credit must come out even, or whoever pays in units for the feature says how to round."""
    assert issues(text) == {}
