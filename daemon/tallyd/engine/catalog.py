"""The catalog made ready: definitions checked against the pricing models, plans turned into priced plans.

Errors are collected, not thrown one by one: whoever edits a catalog sees all that is wrong with it at once.
"""

import tomllib
from collections.abc import Collection, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

from tallyd.engine.costs import CostRule, rule_problem
from tallyd.engine.credits.definitions import credit_issues
from tallyd.engine.filters import FilterError
from tallyd.engine.metering import CompiledMeter, compile_meter
from tallyd.engine.rating import PricedFeature, PricedPlan
from tallyd.engine.rollups import COST_CURRENCY
from tallyd.model.catalog import Definitions, Meter, ModelPrice, Plan, PlanFeature
from tallyd.model.moments import parse_iso
from tallyd.model.money import currency_exponent, currency_problem, number_problem, round_to_currency
from tallyd.pricing.prices import DatedPrices, ProviderPrices, TokenPrices
from tallyd.pricing.seam import PricingModel, TermsError

KEY_CHARACTERS_MAX: Final = 128
INTERVAL_MONTHS_MAX: Final = 120
INTERVAL_DAYS_MAX: Final = 3_660
TRIAL_DAYS_MAX: Final = 3_660
GRACE_DAYS_MAX: Final = 366
METADATA_BYTES_MAX: Final = 10_000

Models = Mapping[str, PricingModel[Any]]


class CatalogIssue(msgspec.Struct, frozen=True):
    """One thing wrong: `where` is a path such as `plans.pro.features[0].pricing.tiers[1].up_to`."""

    where: str
    message: str


class CatalogError(Exception):
    """A catalog that is refused as a whole. `source` is the file it came from."""

    def __init__(self, source: str, issues: list[CatalogIssue]) -> None:
        self.source = source
        self.issues = issues
        super().__init__("\n".join(f"{source}: {issue.where}: {issue.message}" for issue in issues))


def read_catalog(text: str, source: str) -> Definitions:
    """Read a catalog's TOML; numbers are kept exact.

    Raises:
        CatalogError: not TOML, an unknown key, or a wrong type, with its place.
    """
    try:
        raw = tomllib.loads(text, parse_float=Decimal)
        return msgspec.convert(raw, Definitions)
    except tomllib.TOMLDecodeError as error:
        raise CatalogError(source, [CatalogIssue("TOML", str(error))]) from None
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        where = place.rstrip("`").lstrip(".") or "top level"
        raise CatalogError(source, [CatalogIssue(where, message)]) from None
    except (ArithmeticError, RecursionError, ValueError) as error:  # what tomllib lets through
        text = f"holds a number or a nesting that cannot be read: {error}"
        raise CatalogError(source, [CatalogIssue("TOML", text)]) from None


def check_catalog(definitions: Definitions, models: Models, source: str) -> None:
    """Check all of a catalog.

    Raises:
        CatalogError: everything that is wrong with it.
    """
    issues = [*_duplicates(definitions), *_meter_issues(definitions), *_price_issues(definitions)]
    meters = {meter.key: meter for meter in definitions.meters}
    features = {feature.key for feature in definitions.features}
    for plan in definitions.plans:
        found = plan_issues(plan, features, meters, models)
        issues.extend(CatalogIssue(f"plans.{plan.key}.{each.where}", each.message) for each in found)
    if definitions.default_cost is not None:
        issues.extend(_cost_issues(definitions.default_cost, "default_cost"))
    issues.extend(CatalogIssue(*found) for found in credit_issues(definitions))
    if issues:
        raise CatalogError(source, issues)


def price_plan(plan: Plan, version: int, meters: Mapping[str, Meter], models: Models) -> PricedPlan:
    """Make a checked plan ready. `meters` are those it was written with.

    Raises:
        CatalogError: a pricing model or a meter it needs is gone, or refuses the terms now.
    """
    source = f"plan {plan.key}@{version}"
    features = {}
    for index, each in enumerate(plan.features):
        try:
            features[each.feature] = _price_feature(each, meters, models)
        except (TermsError, FilterError) as error:
            issue = CatalogIssue(f"plans.{plan.key}.features[{index}].{error.field}", error.message)
            raise CatalogError(source, [issue]) from None
    metered: dict[str, tuple[PricedFeature, ...]] = {}
    for feature in features.values():
        if feature.meter is not None:
            metered[feature.meter.event_name] = (*metered.get(feature.meter.event_name, ()), feature)
    return PricedPlan(
        key=plan.key,
        version=version,
        name=plan.name,
        currency=plan.currency,
        interval_months=0 if plan.interval_days else plan.interval_months,
        features=features,
        metered=metered,
        price_version=f"{plan.key}@{version}",
        credits=tuple(plan.credits),
        price_amount=plan.price_amount,
        timing=plan.billing_timing,
        interval_days=plan.interval_days,
        trial_days=plan.trial_days,
        grace_days=plan.grace_days,
    )


def _price_feature(each: PlanFeature, meters: Mapping[str, Meter], models: Models) -> PricedFeature:
    pricing = dict(each.pricing)
    name = pricing.pop("model", "included")
    model = models.get(name)
    if model is None:
        raise TermsError(
            "pricing.model", f"{name!r} is not a pricing model; there are {', '.join(sorted(models))}"
        )
    try:
        terms = msgspec.convert(pricing, model.terms)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        raise TermsError(f"pricing{place.rstrip('`')}", message) from None
    try:
        model.check(terms)
        limit, accumulates = model.limit(terms), model.accumulates(terms)
    except TermsError as error:
        raise TermsError(f"pricing.{error.field}", error.message) from None
    except KeyboardInterrupt:  # a person's
        raise
    except BaseException as error:  # noqa: BLE001 - a stranger's plugin may even call sys.exit: refused with its words
        raise TermsError("pricing", f"model {name} failed: {error!r}") from None
    if type(accumulates) is not bool:
        raise TermsError("pricing", f"model {name}: accumulates must answer True or False, not {accumulates!r}")
    if limit is not None and (not isinstance(limit, Decimal) or number_problem(limit) or limit < 0):
        raise TermsError("pricing", f"model {name} gave a limit that is not a number of units: {limit!r}")
    meter = _meter_of(each, meters)
    return PricedFeature(
        key=each.feature,
        meter=meter,
        model=model,
        terms=terms,
        limit=limit,
        accumulates=accumulates,
        cost=None if each.cost is None else read_cost_rule(each.cost, "cost"),
        credit_model=each.credit_model,
        units_per_credit=each.units_per_credit,
        late_events=each.late_events or (meters[each.meter].late_events if each.meter else None) or "adjust",
    )


def _meter_of(each: PlanFeature, meters: Mapping[str, Meter]) -> CompiledMeter | None:
    if each.meter is None:
        return None
    meter = meters.get(each.meter)
    if meter is None:
        raise TermsError("meter", f"there is no meter {each.meter!r}")
    return compile_meter(meter)


def read_cost_rule(raw: dict[str, Any], field: str) -> CostRule:
    """Read a cost model; a bare number in `model_costs` is the input rate (CONTRACTS 1.6).

    Raises:
        TermsError: names the key.
    """
    costs = raw.get("model_costs")
    if isinstance(costs, dict):
        costs = {key: cost if isinstance(cost, dict) else {"input": cost} for key, cost in costs.items()}
        raw = {**raw, "model_costs": costs}
    try:
        rule = msgspec.convert(raw, CostRule)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        raise TermsError(f"{field}{place.rstrip('`')}", message) from None
    problem = rule_problem(rule)
    if problem:
        raise TermsError(f"{field}.{problem[0]}", problem[1])
    return rule


def operator_prices(prices: list[ModelPrice]) -> dict[str, list[ProviderPrices]]:
    """Turn `[[model_prices]]` into price histories by model; several rows of a model are its history."""
    rows: dict[tuple[str, str | None], list[DatedPrices]] = {}
    for price in prices:
        kinds = {
            "input": price.input_per_million,
            "output": price.output_per_million,
            "cache_read": price.cache_read_per_million,
            "cache_write": price.cache_write_per_million,
            "reasoning": price.reasoning_per_million,
        }
        dated = DatedPrices(
            prices=TokenPrices(per_million={kind: value for kind, value in kinds.items() if value is not None}),
            valid_from=parse_iso(price.valid_from) if price.valid_from else 0,
        )
        rows.setdefault((price.model, price.provider), []).append(dated)
    known: dict[str, list[ProviderPrices]] = {}
    for (model, provider), history in rows.items():
        history.sort(key=lambda dated: dated.valid_from)
        known.setdefault(model, []).append(
            ProviderPrices(model=model, provider=provider or "", source="catalog", history=tuple(history))
        )
    return known


def key_issue(key: str) -> str | None:
    """Say why a text cannot be a key, or None when it can."""
    if not key or len(key) > KEY_CHARACTERS_MAX or not key.isprintable() or key != key.strip():
        return f"a key has 1 to {KEY_CHARACTERS_MAX} printable characters, without spaces around it"
    return None


def _duplicates(definitions: Definitions) -> Iterator[CatalogIssue]:
    for table, keys in (
        ("features", [feature.key for feature in definitions.features]),
        ("meters", [meter.key for meter in definitions.meters]),
        ("plans", [plan.key for plan in definitions.plans]),
        ("credit_models", [model.key for model in definitions.credit_models]),
    ):
        seen: set[str] = set()
        for index, key in enumerate(keys):
            problem = key_issue(key)
            if problem:
                yield CatalogIssue(f"{table}[{index}].key", problem)
            if key in seen:
                yield CatalogIssue(f"{table}[{index}].key", f"{key!r} is defined twice")
            seen.add(key)


def _meter_issues(definitions: Definitions) -> Iterator[CatalogIssue]:
    for meter in definitions.meters:
        try:
            compile_meter(meter)
        except FilterError as error:
            yield CatalogIssue(f"meters.{meter.key}.{error.field}", error.message)


def _price_issues(definitions: Definitions) -> Iterator[CatalogIssue]:
    for index, price in enumerate(definitions.model_prices):
        for field in msgspec.structs.fields(price):
            value = getattr(price, field.name)
            if isinstance(value, Decimal) and (number_problem(value) or value < 0):
                yield CatalogIssue(f"model_prices[{index}].{field.name}", "must be a price of zero or more")
        if price.valid_from is not None:
            try:
                parse_iso(price.valid_from)
            except ValueError as error:
                yield CatalogIssue(f"model_prices[{index}].valid_from", str(error))


def _cost_issues(raw: dict[str, Any], where: str) -> Iterator[CatalogIssue]:
    try:
        read_cost_rule(raw, where)
    except TermsError as error:
        yield CatalogIssue(error.field, error.message)


def _prices_cost(feature: PricedFeature) -> bool:
    try:
        return feature.model.prices_cost(feature.terms) is True
    except Exception:  # noqa: BLE001 - a stranger's plugin, as in _price_feature
        return False


def plan_issues(
    plan: Plan, features: Collection[str], meters: Mapping[str, Meter], models: Models
) -> Iterator[CatalogIssue]:
    """Say all that is wrong with a plan, credits apart; places begin within the plan: `features[0].pricing`.

    Args:
        plan: to be checked.
        features: the features there are, by key.
        meters: the meters there are, by key.
        models: the pricing models.
    """
    yield from _price_and_period_issues(plan)
    seen: set[str] = set()
    for index, each in enumerate(plan.features):
        place = f"features[{index}]"
        if each.feature not in features:
            yield CatalogIssue(f"{place}.feature", f"there is no feature {each.feature!r}")
        if each.feature in seen:
            yield CatalogIssue(f"{place}.feature", f"{each.feature!r} stands in the plan twice")
        seen.add(each.feature)
        try:
            priced = _price_feature(each, meters, models)
        except (TermsError, FilterError) as error:
            yield CatalogIssue(f"{place}.{error.field}", error.message)
            continue
        if plan.currency != COST_CURRENCY and _prices_cost(priced):
            text = f"prices provider cost, which is in {COST_CURRENCY}: the plan's currency must be that"
            yield CatalogIssue(f"{place}.pricing", text)


def _price_and_period_issues(plan: Plan) -> Iterator[CatalogIssue]:
    problem = currency_problem(plan.currency)
    if problem:
        yield CatalogIssue("currency", problem)
    if number_problem(plan.price_amount) or plan.price_amount < 0:
        yield CatalogIssue("price_amount", "must be an amount of zero or more")
    elif not problem and round_to_currency(plan.price_amount, plan.currency) != plan.price_amount:
        digits = currency_exponent(plan.currency)
        yield CatalogIssue("price_amount", f"must have at most {digits} decimals, as {plan.currency} has")
    if not 0 <= plan.interval_days <= INTERVAL_DAYS_MAX:
        yield CatalogIssue("interval_days", f"must be 0 to {INTERVAL_DAYS_MAX}")
    elif plan.interval_days and plan.interval_months != 1:
        yield CatalogIssue("interval_months", "must be left out where interval_days says how long a period is")
    least = 0 if plan.status == "DRAFT" else 1
    if not least <= plan.interval_months <= INTERVAL_MONTHS_MAX:
        yield CatalogIssue("interval_months", f"must be {least} to {INTERVAL_MONTHS_MAX}")
    for field, days, most in (
        ("trial_days", plan.trial_days, TRIAL_DAYS_MAX),
        ("grace_days", plan.grace_days, GRACE_DAYS_MAX),
    ):
        if not 0 <= days <= most:
            yield CatalogIssue(field, f"must be 0 to {most}")
    if len(msgspec.json.encode(plan.metadata)) > METADATA_BYTES_MAX:
        yield CatalogIssue("metadata", f"must have at most {METADATA_BYTES_MAX} bytes, as JSON")


__all__ = [
    "CatalogError",
    "CatalogIssue",
    "check_catalog",
    "key_issue",
    "operator_prices",
    "plan_issues",
    "price_plan",
    "read_catalog",
    "read_cost_rule",
]
