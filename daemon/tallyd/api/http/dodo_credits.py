"""Dodo's credit entitlements: the rules of a kind of credits, made, changed and deleted (CONTRACTS 2.6).

A credit entitlement is a credit model whose key is its id. Customers' pools keep the rules they were opened with:
what is changed here holds for pools opened from then on. Credit models of the catalog file and of the native API
are credit entitlements too, to be read here and changed where they were made.

Days are counted, so a timeframe is: a week is 7 days, a month 30, a year 365.
"""

from decimal import Decimal
from typing import Any, Final, Literal

import msgspec
import trio
from quart import Response
from quart_trio import QuartTrio

from tallyd.api.http import dodo
from tallyd.api.http.family import Family, answer, body_bytes, flag_parameter
from tallyd.api.wire import Decoder, encode
from tallyd.clock import new_uuid
from tallyd.core import Core
from tallyd.engine.credits.definitions import DENOMINATION_CHARACTERS_MAX, model_issues
from tallyd.engine.events import check_identifier, check_number
from tallyd.model.catalog import CreditModel, Overage, Rollover
from tallyd.model.moments import iso
from tallyd.model.money import floor_to, plain
from tallyd.model.problems import Code, Problem, ProblemError, invalid, not_found
from tallyd.store.catalog_rows import StoredCreditModel

DODO: Final = "dodo"
PATH: Final = "/credit-entitlements"
PREFIX: Final = "cde_"
NAME_CHARACTERS_MAX: Final = 255
UNIT_CHARACTERS_MAX: Final = 50
DESCRIPTION_CHARACTERS_MAX: Final = 1_000
PRECISION_MAX: Final = 10
LIMIT_MAX: Final = 10**10
DAYS: Final = {"Day": 1, "Week": 7, "Month": 30, "Year": 365}

_WIRE_NAMES: Final = {
    "denomination": "unit",
    "rollover.percentage": "rollover_percentage",
    "rollover.expires_after_days": "rollover_timeframe_count",
    "rollover.max_count": "max_rollover_count",
    "overage.limit": "overage_limit",
    "overage.price_per_unit": "price_per_unit",
    "overage.currency": "currency",
}
_WHOLE: Final = Decimal(100)


class EntitlementInput(msgspec.Struct, frozen=True, kw_only=True):
    """Body of POST /credit-entitlements; that of PATCH has some of the fields."""

    name: str
    unit: str
    precision: int
    rollover_enabled: bool
    overage_enabled: bool
    description: str | None = None
    expires_after_days: int | None = None
    rollover_percentage: int | None = None
    rollover_timeframe_count: int | None = None
    rollover_timeframe_interval: Literal["Day", "Week", "Month", "Year"] | None = None
    max_rollover_count: int | None = None
    overage_limit: int | None = None
    overage_behavior: (
        Literal["forgive_at_reset", "invoice_at_billing", "carry_deficit", "carry_deficit_auto_repay"] | None
    ) = None
    price_per_unit: Decimal | None = None
    currency: str | None = None


FIELDS: Final = EntitlementInput.__struct_fields__
_decode = Decoder(EntitlementInput)
_decode_some = Decoder(dict[str, Any])


class DodoCredits:
    """Handlers of `/credit-entitlements`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._credits = core.catalogue.credits
        self._changing = trio.Lock()

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        family.route(app, PATH, "POST", "admin", self.create)
        family.route(app, PATH, "GET", "read", self.list_entitlements)
        family.route(app, f"{PATH}/<name>", "GET", "read", self.retrieve)
        family.route(app, f"{PATH}/<name>", "PATCH", "admin", self.change)
        family.route(app, f"{PATH}/<name>", "DELETE", "admin", self.delete)
        family.route(app, f"{PATH}/<name>/undelete", "POST", "admin", self.undelete)

    async def create(self) -> Response:
        """Make a credit entitlement: 201, or 422 with the field that is wrong."""
        key = PREFIX + new_uuid().replace("-", "")
        with dodo.refusing(dodo.INVALID_BODY):
            sent: EntitlementInput = _decode(await body_bytes())
            definition = read_entitlement(key, sent)
        now = self._core.clock.now()
        model = StoredCreditModel(
            key=key,
            id=key,
            source=DODO,
            definition=definition,
            extra=_as_sent(sent),
            created_at=now,
            updated_at=now,
        )
        await self._credits.write_credit_model(model, self._core.writer)
        return answer(self._view(model), 201)

    async def list_entitlements(self) -> Response:
        """List credit entitlements, newest first; `deleted=true` lists the deleted ones instead."""
        page = dodo.asked_page()
        with dodo.refusing(dodo.INVALID_QUERY):
            deleted = flag_parameter("deleted")
        found = [model for model in self._credits.stored.values() if model.deleted_at is not None]
        models = sorted(
            found if deleted else self._credits.listed(),
            key=lambda model: (model.created_at, model.id),
            reverse=True,
        )
        return dodo.items([self._view(model) for model in models[page.start : page.end]])

    async def retrieve(self, name: str) -> Response:
        """Return a credit entitlement; 404 for a deleted one."""
        return answer(self._view(find_live(self._core, name)))

    async def change(self, name: str) -> Response:
        """Change the fields that are sent; null clears one. Pools that are open keep the rules they have."""
        content = await body_bytes()
        async with self._changing:
            model = self._own(find_live(self._core, name))
            with dodo.refusing(dodo.INVALID_BODY):
                sent = _decode_some(content)
                merged = {**model.extra, **{field: sent[field] for field in FIELDS if field in sent}}
                whole: EntitlementInput = _decode(encode(merged))
                if whole.precision != model.extra["precision"]:
                    raise invalid("precision", "cannot be changed")
                definition = read_entitlement(model.key, whole)
            changed = msgspec.structs.replace(
                model, definition=definition, extra=_as_sent(whole), updated_at=self._core.clock.now()
            )
            await self._credits.write_credit_model(changed, self._core.writer)
        return answer(self._view(changed))

    async def delete(self, name: str) -> Response:
        """Delete a credit entitlement: 200. Its pools stay, and take no further credits here."""
        async with self._changing:
            model = self._own(find_live(self._core, name))
            await self._mark(model, self._core.clock.now())
        return answer({})

    async def undelete(self, name: str) -> Response:
        """Bring a credit entitlement back: 200, also when it is not deleted."""
        async with self._changing:
            model = self._own(find_any(self._core, name))
            if model.deleted_at is not None:
                await self._mark(model, None)
        return answer({})

    async def _mark(self, model: StoredCreditModel, deleted_at: int | None) -> None:
        now = self._core.clock.now()
        changed = msgspec.structs.replace(model, deleted_at=deleted_at, updated_at=now)
        await self._credits.write_credit_model(changed, self._core.writer)

    def _own(self, model: StoredCreditModel) -> StoredCreditModel:
        if model.source != DODO:
            where = "in the catalog file" if model.source == "catalog" else "over the native API"
            text = f"{model.key!r} was made {where}, and is changed there"
            raise ProblemError(Problem(code=Code.CONFLICT, message=text))
        return model

    def _view(self, model: StoredCreditModel) -> dict[str, Any]:
        return entitlement_view(model, self._core.config.account.business_id)


def find_any(core: Core, name: str) -> StoredCreditModel:
    """Return a credit entitlement by id or key, deleted ones too.

    Raises:
        ProblemError: there is none.
    """
    model = core.catalogue.credits.find(name)
    if model is None:
        raise not_found(f"there is no credit entitlement {name!r}")
    return model


def find_live(core: Core, name: str) -> StoredCreditModel:
    """Return a credit entitlement by id or key.

    Raises:
        ProblemError: there is none, or it is deleted.
    """
    model = find_any(core, name)
    if all(model is not each for each in core.catalogue.credits.listed()):
        raise not_found(f"credit entitlement {name!r} is deleted")
    return model


def read_entitlement(key: str, sent: EntitlementInput) -> CreditModel:
    """Return the credit model of a credit entitlement as sent.

    Credits are drawn oldest first. Usage that balance and overage cannot pay for is refused (2.6).

    Raises:
        ProblemError: names the field.
    """
    check_identifier("name", sent.name, NAME_CHARACTERS_MAX)
    check_identifier("unit", sent.unit, UNIT_CHARACTERS_MAX)
    if sent.description is not None and len(sent.description) > DESCRIPTION_CHARACTERS_MAX:
        raise invalid("description", f"must have at most {DESCRIPTION_CHARACTERS_MAX} characters")
    if not 0 <= sent.precision <= PRECISION_MAX:
        raise invalid("precision", f"must be 0 to {PRECISION_MAX}")
    if (sent.rollover_timeframe_count is None) is not (sent.rollover_timeframe_interval is None):
        raise invalid("rollover_timeframe_count", "and rollover_timeframe_interval must be sent together")
    _check_price(sent)
    # What is switched off is kept and checked all the same: PATCH may switch it on.
    checked = CreditModel(
        key=key,
        name=sent.name.strip(),
        denomination=sent.unit.strip()[:DENOMINATION_CHARACTERS_MAX].strip(),
        precision=sent.precision,
        burn_order="fifo",
        only_named=True,
        expires_after_days=sent.expires_after_days,
        rollover=_rollover(sent),
        overage=_overage(sent),
    )
    for place, message in model_issues(checked, ()):
        raise invalid(_WIRE_NAMES.get(place, place), message)
    return msgspec.structs.replace(
        checked,
        rollover=checked.rollover if sent.rollover_enabled else Rollover(),
        overage=checked.overage if sent.overage_enabled else None,
    )


def _check_price(sent: EntitlementInput) -> None:
    if sent.overage_limit is not None and not 0 <= sent.overage_limit < LIMIT_MAX:
        raise invalid("overage_limit", f"must be 0 or more and less than {LIMIT_MAX}")
    if sent.price_per_unit is not None:
        check_number("price_per_unit", sent.price_per_unit)
        if sent.currency is None:
            raise invalid("currency", "is required beside price_per_unit")
    elif sent.overage_enabled:
        raise invalid("price_per_unit", "is required where overage is enabled")


def _rollover(sent: EntitlementInput) -> Rollover:
    count, interval = sent.rollover_timeframe_count, sent.rollover_timeframe_interval
    percentage = sent.rollover_percentage
    return Rollover(
        policy="PERCENTAGE",
        percentage=_WHOLE if percentage is None else Decimal(percentage),
        expires_after_days=None if count is None or interval is None else count * DAYS[interval],
        max_count=sent.max_rollover_count,
    )


def _overage(sent: EntitlementInput) -> Overage:
    return Overage(
        limit=None if sent.overage_limit is None else Decimal(sent.overage_limit),
        behavior=sent.overage_behavior or "forgive_at_reset",
        price_per_unit=sent.price_per_unit,
        currency=sent.currency,
    )


def _as_sent(sent: EntitlementInput) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(sent)
    if sent.price_per_unit is not None:
        fields["price_per_unit"] = plain(sent.price_per_unit)  # str() may write an exponent
    return {name: value for name, value in fields.items() if value is not None}


def entitlement_view(model: StoredCreditModel, business_id: str) -> dict[str, Any]:
    """Return a credit entitlement as Dodo shows it; what it does not have is left out."""
    return {
        "id": model.id,
        "business_id": business_id,
        "overage_behavior": "forgive_at_reset",
        **entitlement_fields(model),
        "created_at": iso(model.created_at),
        "updated_at": iso(model.updated_at),
    }


def entitlement_fields(model: StoredCreditModel) -> dict[str, Any]:
    """Return the fields of a credit entitlement: as sent, or, where it was made otherwise, as near as can be."""
    if model.source == DODO:
        return model.extra
    rules = model.definition
    rollover, overage = rules.rollover, rules.overage
    fields: dict[str, Any] = {
        "name": rules.name or model.key,
        "unit": rules.denomination,
        "precision": PRECISION_MAX if rules.precision is None else min(rules.precision, PRECISION_MAX),
        "expires_after_days": rules.expires_after_days,
        "rollover_enabled": rollover.policy != "NONE",
        "max_rollover_count": rollover.max_count,
        "overage_enabled": overage is not None,
    }
    if rollover.policy in ("FULL", "PERCENTAGE"):
        kept = _WHOLE if rollover.percentage is None else rollover.percentage
        fields["rollover_percentage"] = int(floor_to(kept, 0))
    if rollover.expires_after_days is not None:
        fields["rollover_timeframe_count"] = rollover.expires_after_days
        fields["rollover_timeframe_interval"] = "Day"
    if overage is not None:
        fields["overage_behavior"] = overage.behavior
        fields["overage_limit"] = None if overage.limit is None else int(floor_to(overage.limit, 0))
        fields["price_per_unit"] = None if overage.price_per_unit is None else plain(overage.price_per_unit)
        fields["currency"] = overage.currency
    return {name: value for name, value in fields.items() if value is not None}
