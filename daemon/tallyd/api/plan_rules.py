"""How plans have features over the native API: rules, in the shapes of CONTRACTS 1.6, nested or flat."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec

from tallyd.api.plan_views import feature_view
from tallyd.api.planning import Written, find, find_feature, named_as_sent
from tallyd.api.wire import Decoder
from tallyd.core import Core
from tallyd.model.catalog import LateEvents, PlanFeature
from tallyd.model.problems import Code, Problem, ProblemError, invalid, not_found
from tallyd.store.catalog_rows import StoredPlan

_PRICE_ALIASES: Final = ("price_per_unit", "cost_rate", "cost_per_unit")
_PRICING: Final = ("model", "usage_unit_type", "price_per_unit", "reset_mode", "max_usage", "tiers")
_COST: Final = (
    "cost_per_unit",
    "cost_unit",
    "default_input_cost_per_unit",
    "default_output_cost_per_unit",
    "model_costs",
)


class _Rule(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A feature and its terms. `meter`, `unitsPerCredit` and `lateEvents` are tallyd's own."""

    feature_id: str | None = None
    feature_key: str | None = None
    type: Literal["BASE"] = "BASE"
    value: dict[str, Any] | None = None
    is_enabled: bool = True
    credit_model_id: str | None = None
    meter: str | None = None
    units_per_credit: Decimal | None = None
    late_events: LateEvents | None = None


class RuleInput(_Rule, frozen=True, kw_only=True):
    """Body of POST and PATCH /rules/plan-features. Ids take keys as well."""

    plan_id: str


class DiffInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of PATCH /rules/plan-features/diff/{planId}: the features that the plan is to have."""

    features: list[_Rule]


decode_rule: Final = Decoder(RuleInput)
decode_diff: Final = Decoder(DiffInput)


async def link(core: Core, sent: RuleInput, *, anew: bool) -> tuple[StoredPlan, PlanFeature]:
    """Link a feature to a plan, or change how it has it; return both.

    Raises:
        ProblemError: it has the feature already, or (unless `anew`) has it not; or the terms are wrong.
    """
    linked = _linked(core, sent)

    def edit(held: StoredPlan) -> Written:
        places = [place for place, each in enumerate(held.plan.features) if each.feature == linked.feature]
        features = list(held.plan.features)
        if anew and places:
            text = f"plan {held.key!r} has the feature already; change it with PATCH"
            raise ProblemError(Problem(code=Code.CONFLICT, field="featureId", message=text))
        if anew:
            features.append(linked)
        elif places:
            features[places[0]] = linked
        else:
            raise not_found(f"plan {held.key!r} has no feature {linked.feature!r}")
        return msgspec.structs.replace(held.plan, features=features), held.extra

    with named_as_sent():
        return await core.catalogue.versions.change(sent.plan_id, edit, core.writer), linked


async def unlink(core: Core, plan: str, feature: str) -> StoredPlan:
    """Take a feature out of a plan.

    Raises:
        ProblemError: the plan has it not, or is ACTIVE and has no other.
    """
    key = find_feature(core, feature).key

    def edit(held: StoredPlan) -> Written:
        others = [each for each in held.plan.features if each.feature != key]
        if len(others) == len(held.plan.features):
            raise not_found(f"plan {held.key!r} has no feature {key!r}")
        return _kept(held, others)

    with named_as_sent():
        return await core.catalogue.versions.change(plan, edit, core.writer)


async def sync(core: Core, plan: str, sent: DiffInput) -> dict[str, Any]:
    """Let a plan have just these features; those it has already keep their terms, unless others are sent."""
    before = find(core, plan).plan.features
    wanted = {(linked := _linked(core, each)).feature: (each.value is None, linked) for each in sent.features}

    def edit(held: StoredPlan) -> Written:
        kept = {each.feature: each for each in held.plan.features}
        features = [kept[key] if same and key in kept else linked for key, (same, linked) in wanted.items()]
        return _kept(held, features)

    with named_as_sent(listed=True):
        changed = await core.catalogue.versions.change(plan, edit, core.writer)
    had, has = ([each.feature for each in some] for some in (before, changed.plan.features))
    features = core.catalogue.features
    return {
        "addedFeatures": [feature_view(features[key]) for key in has if key not in had],
        "removedFeatures": [feature_view(features[key]) for key in had if key not in has],
    }


def rule_of(core: Core, plan: str, feature: str) -> tuple[StoredPlan, PlanFeature]:
    """Return how a plan has a feature.

    Raises:
        ProblemError: there is no such plan, or it has no such feature.
    """
    stored, key = find(core, plan), find_feature(core, feature).key
    for each in stored.plan.features:
        if each.feature == key:
            return stored, each
    raise not_found(f"plan {plan!r} has no feature {key!r}")


def _kept(held: StoredPlan, features: list[PlanFeature]) -> Written:
    if not features and held.plan.status == "ACTIVE":
        raise invalid("features", "an ACTIVE plan has at least one")
    return msgspec.structs.replace(held.plan, features=features), held.extra


def _linked(core: Core, sent: _Rule) -> PlanFeature:
    name = sent.feature_id if sent.feature_id is not None else sent.feature_key
    if name is None:
        raise invalid("featureId", "is required, or featureKey")
    if not sent.is_enabled:
        raise invalid("isEnabled", "must be true; to switch a feature off, take it out of the plan")
    credit_model = None
    if sent.credit_model_id is not None:
        found = core.catalogue.credits.find(sent.credit_model_id)
        if found is None or found.deleted_at is not None:
            raise invalid("creditModelId", f"there is no credit model {sent.credit_model_id!r}")
        credit_model = found.key
    pricing, cost = read_value(sent.value or {})
    return PlanFeature(
        feature=find_feature(core, name).key,
        meter=sent.meter,
        pricing=pricing,
        cost=cost,
        credit_model=credit_model,
        units_per_credit=sent.units_per_credit,
        late_events=sent.late_events,
    )


def read_value(value: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return pricing and cost of a rule's value, which may be nested, or flat as it once was.

    Raises:
        ProblemError: a field that is neither.
    """
    if "pricing" in value or "cost" in value or not value:
        for name in value:
            if name not in ("pricing", "cost"):
                raise invalid(f"value.{name}", "is not a field here; put it under pricing or cost")
        return _priced(_object(value, "pricing") or {}), _object(value, "cost")
    flat = dict(value)
    cost: dict[str, Any] | None = None
    if flat.get("cost_model") is not None:
        cost = {"model": flat.pop("cost_model"), **{name: flat.pop(name) for name in _COST if name in flat}}
    for name in flat:
        if name not in _PRICING and name not in _PRICE_ALIASES:
            raise invalid(f"value.{name}", "is not a field here")
    return _priced(flat), cost


def _object(value: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    part = value.get(name)
    if part is not None and not isinstance(part, dict):
        raise invalid(f"value.{name}", "must be an object")
    return part


def _priced(terms: dict[str, Any]) -> dict[str, Any]:
    """Return terms of pricing by their own names: a unit's price had two others once; what is null is absent."""
    terms = {name: value for name, value in terms.items() if value is not None}
    if terms.get("model") != "usage":
        return terms
    price = next((terms[name] for name in _PRICE_ALIASES if name in terms), None)
    rest = {name: value for name, value in terms.items() if name not in _PRICE_ALIASES}
    return rest if price is None else {**rest, "price_per_unit": price}
