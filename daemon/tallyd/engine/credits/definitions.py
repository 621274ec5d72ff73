"""Checking what a catalog says of credits: models, what plans include, weights and prices.

A problem is a pair: where, such as `credit_models.tokens.rollover.cap`, and what is wrong. `hard_limit` and
`overage` go together: the pool is short only when its overage is used up as well.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Final

from tallyd.engine.credits.schedules import amount_problem
from tallyd.model.catalog import CreditModel, Definitions, Overage, Plan, PlanCredits, PlanFeature, Rollover
from tallyd.model.money import FRACTION_DIGITS_MAX, ZERO, currency_problem, number_problem, terminates

DENOMINATION_CHARACTERS_MAX: Final = 32
NAME_CHARACTERS_MAX: Final = 255
DAYS_MAX: Final = 36_500
MONTHS_MAX: Final = 1_200
TIMES_MAX: Final = 1_000
PRIORITY_MAX: Final = 1_000_000
PERCENTAGE_MAX: Final = 100

Found = tuple[str, str]


MADE_BY_DODO: Final = "cde_"
"""How ids of credit entitlements begin that are made over Dodo's API: the catalog cannot know them."""


def credit_issues(definitions: Definitions) -> Iterator[Found]:
    """Yield all that is wrong with a catalog's credits; duplicate keys of models are told elsewhere."""
    features = {feature.key for feature in definitions.features}
    models = {model.key: model for model in definitions.credit_models}
    for model in definitions.credit_models:
        for place, message in model_issues(model, features):
            yield f"credit_models.{model.key}.{place}", message
    for plan in definitions.plans:
        for place, message in plan_credit_issues(plan, models):
            yield f"plans.{plan.key}.{place}", message
    yield from _weight_issues(definitions, features)
    yield from _price_issues(definitions, models)


def model_issues(model: CreditModel, features: Collection[str]) -> Iterator[Found]:
    """Yield all that is wrong with a credit model, by field; `features` are those there are."""
    yield from _text("denomination", model.denomination, DENOMINATION_CHARACTERS_MAX)
    if model.name is not None:
        yield from _text("name", model.name, NAME_CHARACTERS_MAX)
    if model.charge == "price" and model.currency is None:
        yield "currency", 'is needed where charge = "price"'
    yield from _currency("currency", model.currency)
    for index, feature in enumerate(model.features):
        if feature not in features:
            yield f"features[{index}]", f"there is no feature {feature!r}"
        if feature in model.features[:index]:
            yield f"features[{index}]", f"{feature!r} stands there twice"
    yield from _whole("precision", model.precision, 0, FRACTION_DIGITS_MAX)
    yield from _whole("draw_priority", model.draw_priority, -PRIORITY_MAX, PRIORITY_MAX)
    yield from _whole("expires_after_days", model.expires_after_days, 1, DAYS_MAX)
    yield from _positive("low_at", model.low_at)
    yield from _rollover_issues(model.rollover)
    if model.overage is not None:
        yield from _overage_issues(model.overage)
    if model.top_up is not None:
        yield from _positive("top_up.below", model.top_up.below)
        yield from _positive("top_up.amount", model.top_up.amount)
        yield from _whole("top_up.most_a_month", model.top_up.most_a_month, 1, TIMES_MAX)
    if model.recurring is not None:
        yield from _positive("recurring.amount", model.recurring.amount)


def _rollover_issues(rollover: Rollover) -> Iterator[Found]:
    for field, policy, value in (
        ("cap", "CAPPED", rollover.cap),
        ("percentage", "PERCENTAGE", rollover.percentage),
    ):
        if value is None and rollover.policy == policy:
            yield f"rollover.{field}", f"is needed where the policy is {policy}"
        if value is not None and rollover.policy != policy:
            yield f"rollover.{field}", f"is only for the policy {policy}, not {rollover.policy}"
    yield from _amount("rollover.cap", rollover.cap)
    if rollover.percentage is not None:
        problem = number_problem(rollover.percentage)
        if problem or not ZERO <= rollover.percentage <= PERCENTAGE_MAX:
            yield "rollover.percentage", problem or f"must be 0 to {PERCENTAGE_MAX}"
    yield from _whole("rollover.expires_after_days", rollover.expires_after_days, 1, DAYS_MAX)
    yield from _whole("rollover.max_count", rollover.max_count, 0, TIMES_MAX)


def _overage_issues(overage: Overage) -> Iterator[Found]:
    yield from _amount("overage.limit", overage.limit)
    yield from _amount("overage.price_per_unit", overage.price_per_unit)
    if overage.price_per_unit is not None and overage.currency is None:
        yield "overage.currency", "is needed beside price_per_unit"
    yield from _currency("overage.currency", overage.currency)


def plan_credit_issues(plan: Plan, models: Mapping[str, CreditModel]) -> Iterator[Found]:
    """Say what is wrong with what a plan says of credits; places begin within the plan: `credits[0].amount`."""
    seen: set[str] = set()
    for index, included in enumerate(plan.credits):
        where = f"credits[{index}]"
        model = models.get(included.credit_model)
        if model is None:
            yield f"{where}.credit_model", f"there is no credit model {included.credit_model!r}"
        elif model.charge == "price" and model.currency and model.currency != plan.currency:
            text = f"{model.key!r} is in {model.currency}, and the plan in {plan.currency}: they must be the same"
            yield f"{where}.credit_model", text
        if included.credit_model in seen:
            yield f"{where}.credit_model", f"{included.credit_model!r} is included twice; add the amounts up"
        seen.add(included.credit_model)
        for place, message in _included_issues(included):
            yield f"{where}.{place}", message
    for index, each in enumerate(plan.features):
        for place, message in _feature_issues(plan, each, models):
            yield f"features[{index}].{place}", message


def _included_issues(included: PlanCredits) -> Iterator[Found]:
    yield from _positive("amount", included.amount)
    yield from _positive("draw_limit", included.draw_limit)
    yield from _whole("expires_after_months", included.expires_after_months, 1, MONTHS_MAX)
    yield from _whole("draw_priority", included.draw_priority, -PRIORITY_MAX, PRIORITY_MAX)
    yield from _whole("grant_priority", included.grant_priority, -PRIORITY_MAX, PRIORITY_MAX)


def _feature_issues(plan: Plan, each: PlanFeature, models: Mapping[str, CreditModel]) -> Iterator[Found]:
    model = None
    if each.credit_model is not None:
        model = models.get(each.credit_model)
        problem = None if each.credit_model.startswith(MADE_BY_DODO) else _payer_problem(model, plan, each)
        if problem:
            yield "credit_model", problem
    if each.units_per_credit is not None:
        payers = [model] if model else [other for other in models.values() if _pays_units(other, each.feature)]
        problem = _ratio_problem(each.units_per_credit, payers)
        if problem:
            yield "units_per_credit", problem


def _payer_problem(model: CreditModel | None, plan: Plan, each: PlanFeature) -> str | None:
    if model is None:
        return f"there is no credit model {each.credit_model!r} in the catalog"
    if model.charge == "nothing":
        return f'{model.key!r} pays for no usage: its charge is "nothing"'
    if model.features and each.feature not in model.features:
        return f"{model.key!r} does not pay for {each.feature!r}: see its features"
    if model.charge == "price" and model.currency and model.currency != plan.currency:
        return f"{model.key!r} is in {model.currency}, and the plan in {plan.currency}: they must be the same"
    return None


def _ratio_problem(units_per_credit: Decimal, payers: Iterable[CreditModel]) -> str | None:
    if number_problem(units_per_credit) or units_per_credit <= ZERO:
        return number_problem(units_per_credit) or "must be more than 0"
    for payer in payers:
        if payer.charge != "units":
            return f"means nothing to {payer.key!r}, which does not charge by units"
        if payer.precision is None and not terminates(units_per_credit):
            return f"a unit is no exact number of credits: give credit model {payer.key!r} a precision to round to"
    return None


def _pays_units(model: CreditModel, feature: str) -> bool:
    return model.charge == "units" and (not model.features or feature in model.features)


def _weight_issues(definitions: Definitions, features: Collection[str]) -> Iterator[Found]:
    seen = set()
    for index, weight in enumerate(definitions.credit_weights):
        where = f"credit_weights[{index}]"
        if weight.feature not in features:
            yield f"{where}.feature", f"there is no feature {weight.feature!r}"
        if weight.model is not None:
            yield from _text(f"{where}.model", weight.model, NAME_CHARACTERS_MAX)
        problem = amount_problem(weight.weight)
        if problem:
            yield f"{where}.weight", problem
        key = (weight.feature, weight.model, weight.kind)
        if key in seen:
            yield where, "weighs the same feature, model and kind as a row before it"
        seen.add(key)


def _price_issues(definitions: Definitions, models: Mapping[str, CreditModel]) -> Iterator[Found]:
    seen = set()
    for index, price in enumerate(definitions.credit_prices):
        where = f"credit_prices[{index}]"
        if price.credit_model not in models:
            yield f"{where}.credit_model", f"there is no credit model {price.credit_model!r}"
        problem = amount_problem(price.price)
        if problem:
            yield f"{where}.price", problem
        yield from _currency(f"{where}.currency", price.currency)
        key = (price.credit_model, price.currency)
        if key in seen:
            yield where, "prices the same credit model in the same currency as a row before it"
        seen.add(key)


def _text(place: str, text: str, longest: int) -> Iterator[Found]:
    if not text.strip() or len(text) > longest or not text.isprintable() or text != text.strip():
        yield place, f"must have 1 to {longest} printable characters, without spaces around them"


def _currency(place: str, currency: str | None) -> Iterator[Found]:
    problem = currency_problem(currency) if currency is not None else None
    if problem:
        yield place, problem


def _positive(place: str, value: Decimal | None) -> Iterator[Found]:
    if value is not None and (number_problem(value) or value <= ZERO):
        yield place, number_problem(value) or "must be more than 0"


def _amount(place: str, value: Decimal | None) -> Iterator[Found]:
    if value is not None and (number_problem(value) or value < ZERO):
        yield place, number_problem(value) or "must not be negative"


def _whole(place: str, value: int | None, least: int, most: int) -> Iterator[Found]:
    if value is not None and not least <= value <= most:
        yield place, f"must be {least:,} to {most:,}"
