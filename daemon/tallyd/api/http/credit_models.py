"""Credit models over the native API: the rules of new pools (CONTRACTS 1.7).

Tanso's fields are `name`, `denomination`, `hardLimit`, `rolloverPolicy` and `rolloverCap`; the others of
`CreditModel` are tallyd's, in camelCase.
"""

import re
from decimal import Decimal
from typing import Any, Final

import msgspec
from quart import Response
from quart_trio import QuartTrio

from tallyd.api.http import tanso
from tallyd.api.http.credit_schedules import CREDITS
from tallyd.api.http.family import Family, body_bytes
from tallyd.api.wire import Decoder, encode
from tallyd.clock import new_uuid
from tallyd.core import Core
from tallyd.engine.credits.definitions import model_issues
from tallyd.engine.events import check_identifier
from tallyd.model.catalog import CreditModel
from tallyd.model.moments import iso
from tallyd.model.problems import ProblemError, invalid, not_found
from tallyd.store.catalog_rows import StoredCreditModel

PRECISION: Final = 4
RESERVED: Final = ("cde_", "wallet:")
"""How keys begin of models that Dodo's API makes."""
"""Digits after the decimal point of a charge, unless said otherwise: upstream's numeric(18,4)."""

TANSO: Final = "tanso"
_FLAT: Final = {"rolloverPolicy": "policy", "rolloverCap": "cap"}
_FIXED: Final = ("key", "denomination", "charge", "currency")
"""What a pool's credits are: they would not be the same if it changed."""

_decode = Decoder(dict[str, Any])
_decode_model = Decoder(CreditModel)


class CreditModels:
    """Handlers of `/api/v1/monetization/credits/models`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._credits = core.catalogue.credits

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        family.route(app, f"{CREDITS}/models", "POST", "admin", self.create)
        family.route(app, f"{CREDITS}/models", "GET", "read", self.models)
        family.route(app, f"{CREDITS}/models/<name>", "GET", "read", self.model)

    async def create(self) -> Response:
        """Make a credit model: 201, or 409 when its key or its denomination is taken."""
        definition = read_model(_decode(await body_bytes()), frozenset(self._core.catalogue.features))
        now = self._core.clock.now()
        model = StoredCreditModel(
            key=definition.key,
            id=new_uuid(),
            source=TANSO,
            definition=definition,
            created_at=now,
            updated_at=now,
        )
        await self._credits.make_credit_model(model, self._core.writer)
        return tanso.success(model_view(model), 201)

    async def models(self) -> Response:
        """List the credit models that pools may be opened of."""
        return tanso.success([model_view(model) for model in self._credits.listed()])

    async def model(self, name: str) -> Response:
        """Return one credit model, by id or key."""
        model = self._credits.find(name)
        if model is None or model.deleted_at is not None:
            raise not_found(f"there is no credit model {name!r}")
        return tanso.success(model_view(model))


def read_model(sent: dict[str, Any], features: frozenset[str]) -> CreditModel:
    """Read a credit model as sent; `features` are those there are.

    Raises:
        ProblemError: names the field.
    """
    fields = {"burn_order": "fifo", "precision": PRECISION, **_snake(sent)}
    flat = {name: sent[name] for name in _FLAT if sent.get(name) is not None}
    if flat and "rollover" in sent:
        raise invalid(next(iter(flat)), "is sent beside rollover; send one of them")
    if flat:
        fields["rollover"] = {_FLAT[name]: value for name, value in flat.items()}
    for name in _FLAT:
        fields.pop(_snake_key(name), None)
    if not isinstance(fields.get("denomination"), str):
        raise invalid("denomination", "is required, such as TOKENS")
    fields.setdefault("key", fields["denomination"].lower())
    return _checked(fields, flat, features)


def change_model(model: CreditModel, sent: dict[str, Any], features: frozenset[str]) -> CreditModel:
    """Return a pool's rules with those of its fields that were sent; null takes one back to its default.

    Raises:
        ProblemError: names the field.
    """
    for name in _FIXED:
        if name in sent:
            raise invalid(name, "cannot be changed; open a pool of another credit model")
    fields: dict[str, Any] = msgspec.to_builtins(model, builtin_types=(Decimal,))
    flat = {name: sent[name] for name in _FLAT if sent.get(name) is not None}
    if flat and "rollover" in sent:
        raise invalid(next(iter(flat)), "is sent beside rollover; send one of them")
    if flat:
        rollover = {**fields.get("rollover", {}), **{_FLAT[name]: value for name, value in flat.items()}}
        if rollover["policy"] != "CAPPED" and "rolloverCap" not in flat:
            rollover.pop("cap", None)
        fields["rollover"] = rollover
    for name, value in sent.items():
        if name not in _FLAT and value is None:
            fields.pop(_snake_key(name), None)
        elif name not in _FLAT:
            fields[_snake_key(name)] = _snake(value)
    return _checked(fields, flat, features)


def _checked(fields: dict[str, Any], flat: dict[str, Any], features: frozenset[str]) -> CreditModel:
    try:
        definition: CreditModel = _decode_model(encode(fields))
    except ProblemError as error:
        problem = error.problem
        raise invalid(_wire_name(problem.field or "body", flat), problem.message) from None
    check_identifier("key", definition.key)
    if definition.key.startswith(RESERVED):
        raise invalid("key", f"must not begin with {' or '.join(RESERVED)}")
    for place, message in model_issues(definition, features):
        raise invalid(_wire_name(place, flat), message)
    return definition


def model_view(model: StoredCreditModel) -> dict[str, Any]:
    """Return a credit model; what it does not have is left out."""
    definition = model.definition
    rules = _camel(msgspec.to_builtins(definition, builtin_types=(Decimal,)))
    return {
        "id": model.id,
        **rules,
        "name": definition.name or definition.key,
        "rolloverPolicy": definition.rollover.policy,
        **({} if definition.rollover.cap is None else {"rolloverCap": definition.rollover.cap}),
        "source": model.source,
        "createdAt": iso(model.created_at),
        "modifiedAt": iso(model.updated_at),
    }


def _wire_name(place: str, flat: dict[str, Any]) -> str:
    """Return a field's name as it is sent: `rollover.cap` is `rolloverCap` where Tanso's fields were sent."""
    for name, field in _FLAT.items():
        if flat and place == f"rollover.{field}":
            return name
    return _camel_key(place)


def _snake_key(name: str) -> str:
    return re.sub(r"[A-Z]", lambda found: "_" + found[0].lower(), name)


def _camel_key(name: str) -> str:
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), name)


def _snake(value: Any) -> Any:
    if isinstance(value, dict):
        return {_snake_key(name): _snake(item) for name, item in value.items() if item is not None}
    return value


def _camel(value: Any) -> Any:
    if isinstance(value, dict):
        return {_camel_key(name): _camel(item) for name, item in value.items() if item is not None}
    return value
