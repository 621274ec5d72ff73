"""Plans and features as the operator makes them over the native API (CONTRACTS 1.3, 1.6, 1.8).

What the catalog file has is the file's: it is shown here, and changed there.
"""

from typing import Final

import msgspec
from msgspec import UNSET, UnsetType
from quart import Response
from quart_trio import QuartTrio

from tallyd.api import plan_rules, planning
from tallyd.api.credit_views import allocation_view
from tallyd.api.http import tanso
from tallyd.api.http.credit_schedules import CREDITS
from tallyd.api.http.family import Family, body_bytes, decimal_parameter, flag_parameter, whole_parameter
from tallyd.api.plan_views import admin_plan_view, feature_view, rule_view
from tallyd.api.wire import Decoder
from tallyd.core import Core
from tallyd.engine.credits.definitions import MONTHS_MAX
from tallyd.engine.events import check_identifier
from tallyd.model.catalog import PlanCredits
from tallyd.model.problems import invalid, not_found
from tallyd.store.catalog_rows import StoredCreditModel

PLANS: Final = f"{tanso.MONETIZATION}/plans"
RULES: Final = f"{tanso.MONETIZATION}/rules/plan-features"
FEATURES: Final = f"{tanso.MONETIZATION}/features"


class FeatureInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST and PATCH /features; of a PATCH what is not sent stays, and null takes a field back."""

    key: str | UnsetType = UNSET
    name: str | UnsetType | None = UNSET
    description: str | UnsetType | None = UNSET


_decode_feature: Final = Decoder(FeatureInput)


class PlanAdmin:
    """Handlers of `/api/v1/monetization/plans`, `/rules/plan-features`, `/features` and plans' credits."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        family.route(app, PLANS, "POST", "admin", self.create)
        family.route(app, PLANS, "GET", "read", self.plans)
        family.route(app, f"{PLANS}/<plan>", "GET", "read", self.plan)
        family.route(app, f"{PLANS}/<plan>", "PATCH", "admin", self.change)
        family.route(app, f"{PLANS}/<plan>", "DELETE", "admin", self.delete)
        family.route(app, f"{PLANS}/<plan>/features", "GET", "read", self.rules)
        family.route(app, RULES, "POST", "admin", self.link)
        family.route(app, RULES, "PATCH", "admin", self.change_rule)
        family.route(app, f"{RULES}/<plan>/<feature>", "GET", "read", self.rule)
        family.route(app, f"{RULES}/<plan>/<feature>", "DELETE", "admin", self.unlink)
        family.route(app, f"{RULES}/diff/<plan>", "PATCH", "admin", self.sync)
        family.route(app, f"{CREDITS}/models/<name>/plans/<plan>", "POST", "admin", self.include)
        family.route(app, f"{CREDITS}/models/<name>/plans/<plan>", "DELETE", "admin", self.exclude)
        family.route(app, FEATURES, "POST", "admin", self.create_feature)
        family.route(app, FEATURES, "GET", "read", self.features)
        family.route(app, f"{FEATURES}/<name>", "GET", "read", self.feature)
        family.route(app, f"{FEATURES}/<name>", "PATCH", "admin", self.change_feature)
        family.route(app, f"{FEATURES}/<name>", "DELETE", "admin", self.delete_feature)

    # Plans

    async def create(self) -> Response:
        """Make a plan, which is a DRAFT: 201, or 409 when its key is taken."""
        made = await planning.make(self._core, await body_bytes())
        return tanso.success(admin_plan_view(self._core, made), 201)

    async def plans(self) -> Response:
        """List all plans, whatever their status."""
        return tanso.success(
            [admin_plan_view(self._core, each) for each in self._core.catalogue.versions.listed()]
        )

    async def plan(self, plan: str) -> Response:
        """Return a plan."""
        return tanso.success(admin_plan_view(self._core, planning.find(self._core, plan)))

    async def change(self, plan: str) -> Response:
        """Change a plan, or where it stands; 409 for one of the catalog file."""
        changed = await planning.change(self._core, plan, await body_bytes())
        return tanso.success(admin_plan_view(self._core, changed))

    async def delete(self, plan: str) -> Response:
        """Take a DRAFT away; any other is archived instead."""
        await self._core.catalogue.versions.delete(plan, self._core.writer)
        return tanso.success({})

    # Rules

    async def rules(self, plan: str) -> Response:
        """List how a plan has its features."""
        stored = planning.find(self._core, plan)
        rules = [rule_view(self._core, stored.plan, each) for each in stored.plan.features]
        features = [feature_view(self._core.catalogue.features[each.feature]) for each in stored.plan.features]
        return tanso.success({"planId": stored.key, "features": features, "rules": rules})

    async def link(self) -> Response:
        """Link a feature to a plan: 201, or 409 when it is linked already."""
        sent = plan_rules.decode_rule(await body_bytes())
        stored, linked = await plan_rules.link(self._core, sent, anew=True)
        return tanso.success(rule_view(self._core, stored.plan, linked), 201)

    async def change_rule(self) -> Response:
        """Change how a plan has a feature: the rule as sent takes the place of the old one."""
        sent = plan_rules.decode_rule(await body_bytes())
        stored, linked = await plan_rules.link(self._core, sent, anew=False)
        return tanso.success(rule_view(self._core, stored.plan, linked))

    async def rule(self, plan: str, feature: str) -> Response:
        """Return how a plan has a feature."""
        stored, linked = plan_rules.rule_of(self._core, plan, feature)
        return tanso.success(rule_view(self._core, stored.plan, linked))

    async def unlink(self, plan: str, feature: str) -> Response:
        """Take a feature out of a plan."""
        await plan_rules.unlink(self._core, plan, feature)
        return tanso.success({})

    async def sync(self, plan: str) -> Response:
        """Let a plan have just the features that are sent; return which came and which went."""
        sent = plan_rules.decode_diff(await body_bytes())
        return tanso.success(await plan_rules.sync(self._core, plan, sent))

    # Credits that a plan includes

    async def include(self, name: str, plan: str) -> Response:
        """Have a plan include `creditAmount` credits of a model a period, or so many instead of those it did."""
        model = self._model(name)
        planning.find(self._core, plan)
        amount = decimal_parameter("creditAmount")
        if amount is None:
            raise invalid("creditAmount", "is required")
        months = whole_parameter("grantExpiresMonths", 0, least=1, most=MONTHS_MAX)
        hard = flag_parameter("hardLimit", default=model.definition.hard_limit)
        if hard is not model.definition.hard_limit:
            raise invalid("hardLimit", f"is a rule of credit model {model.key!r}, where it is {not hard}".lower())
        included = PlanCredits(credit_model=model.key, amount=amount, expires_after_months=months or None)
        await planning.include(self._core, plan, included)
        return tanso.success(allocation_view(included, model.definition, model.id))

    async def exclude(self, name: str, plan: str) -> Response:
        """Have a plan include no credits of a model."""
        await planning.exclude(self._core, plan, self._model(name).key)
        return tanso.success({})

    def _model(self, name: str) -> StoredCreditModel:
        model = self._core.catalogue.credits.find(name)
        if model is None or model.deleted_at is not None:
            raise not_found(f"there is no credit model {name!r}")
        return model

    # Features

    async def create_feature(self) -> Response:
        """Make a feature: 201, or 409 when its key is taken."""
        sent: FeatureInput = _decode_feature(await body_bytes())
        if sent.key is UNSET:
            raise invalid("key", "is required")
        fields = {"name": None, "description": None, **_told(sent)}
        key = check_identifier("key", sent.key)
        made = await self._core.catalogue.make_feature(key, **fields, writer=self._core.writer)
        return tanso.success(feature_view(made), 201)

    async def features(self) -> Response:
        """List all features."""
        return tanso.success([feature_view(each) for each in self._core.catalogue.features.values()])

    async def feature(self, name: str) -> Response:
        """Return a feature, by id or key."""
        return tanso.success(feature_view(planning.find_feature(self._core, name)))

    async def change_feature(self, name: str) -> Response:
        """Change what a feature is called; 409 for one of the catalog file."""
        sent: FeatureInput = _decode_feature(await body_bytes())
        key = planning.find_feature(self._core, name).key
        if sent.key not in (UNSET, key):
            raise invalid("key", "cannot be changed: events name the feature by it")
        changed = await self._core.catalogue.change_feature(key, _told(sent), self._core.writer)
        return tanso.success(feature_view(changed))

    async def delete_feature(self, name: str) -> Response:
        """Forget a feature that no plan has."""
        key = planning.find_feature(self._core, name).key
        await self._core.catalogue.delete_feature(key, self._core.writer)
        return tanso.success({})


def _told(sent: FeatureInput) -> dict[str, str | None]:
    """Return what a feature is said to be called.

    Raises:
        ProblemError: a text that cannot be shown.
    """
    told = {name: value for name in ("name", "description") if (value := getattr(sent, name)) is not UNSET}
    for name, value in told.items():
        if value is not None:
            check_identifier(name, value, planning.TEXT_CHARACTERS_MAX)
    return told
