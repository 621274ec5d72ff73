"""Weights and prices of credits: published ahead, listed, taken back while they lie ahead (CONTRACTS 1.2, 1.7)."""

from decimal import Decimal
from typing import Any, Final, Literal

import msgspec
from quart import Response
from quart_trio import QuartTrio

from tallyd.api.http import tanso
from tallyd.api.http.family import Family, body_bytes
from tallyd.api.wire import Decoder
from tallyd.core import Core
from tallyd.engine.credits.prices import Price
from tallyd.engine.credits.weights import Weight
from tallyd.engine.events import check_identifier
from tallyd.model.catalog import CreditPrice, CreditWeight
from tallyd.model.moments import iso, parse_iso
from tallyd.model.problems import invalid

CREDITS: Final = f"{tanso.MONETIZATION}/credits"


class WeightInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One weight as sent. Without `model` it is the feature's default; with `kind` it is that of a token."""

    feature_key: str
    weight: Decimal
    model: str | None = None
    kind: Literal["input", "output", "cache_read", "cache_write", "reasoning"] | None = None


class WeightsInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Body of POST …/weights/publish; without `effectiveFrom` the weights hold from now on."""

    weights: list[WeightInput]
    effective_from: str | None = None


class PriceInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One price as sent."""

    credit_model_key: str
    price_per_credit: Decimal
    currency: str = "USD"


class PricesInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Body of POST …/prices/publish; without `effectiveFrom` the prices hold from now on."""

    prices: list[PriceInput]
    effective_from: str | None = None


_decode_weights = Decoder(WeightsInput)
_decode_prices = Decoder(PricesInput)


class CreditSchedules:
    """Handlers of `/api/v1/monetization/credits/weights` and `/prices`, and of `/api/v1/client/credits/prices`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._credits = core.catalogue.credits

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        family.route(app, f"{CREDITS}/weights/publish", "POST", "admin", self.publish_weights)
        family.route(app, f"{CREDITS}/weights", "GET", "read", self.weights)
        family.route(app, f"{CREDITS}/weights/history", "GET", "read", self.weights_history)
        family.route(app, f"{CREDITS}/weights/<weight_id>", "DELETE", "admin", self.delete_weight)
        family.route(app, f"{CREDITS}/prices/publish", "POST", "admin", self.publish_prices)
        family.route(app, f"{CREDITS}/prices", "GET", "read", self.prices)
        family.route(app, f"{CREDITS}/prices/history", "GET", "read", self.prices_history)
        family.route(app, f"{CREDITS}/prices/<price_id>", "DELETE", "admin", self.delete_price)
        family.route(app, f"{tanso.CLIENT}/credits/prices", "GET", "read", self.current_prices)

    async def publish_weights(self) -> Response:
        """Publish weights: 201 with the rows, or 200 when the very batch was published before."""
        sent: WeightsInput = _decode_weights(await body_bytes())
        for index, each in enumerate(sent.weights):
            if each.feature_key not in self._core.catalogue.features:
                raise invalid(f"weights[{index}].featureKey", f"there is no feature {each.feature_key!r}")
            if each.model is not None:
                check_identifier(f"weights[{index}].model", each.model)
        batch = [
            CreditWeight(feature=each.feature_key, weight=each.weight, model=each.model, kind=each.kind)
            for each in sent.weights
        ]
        begins = _instant(sent.effective_from)
        published = await self._credits.publish_weights(batch, begins, self._core.writer)
        return tanso.success([_weight_view(row) for row in published.rows], 200 if published.repeated else 201)

    async def weights(self) -> Response:
        """List the weights in force, then those scheduled."""
        now, weights = self._core.clock.now(), self._credits.weights
        return tanso.success([_weight_view(row) for row in (*weights.in_force(now), *weights.scheduled(now))])

    async def weights_history(self) -> Response:
        """List every weight there ever was, oldest first."""
        return tanso.success([_weight_view(row) for row in self._credits.weights.rows])

    async def delete_weight(self, weight_id: str) -> Response:
        """Take a scheduled weight back: 200 with what it was, or 400 when it is in force."""
        return tanso.success(_weight_view(await self._credits.delete_weight(weight_id, self._core.writer)))

    async def publish_prices(self) -> Response:
        """Publish prices: 201 with the rows, or 200 when the very batch was published before."""
        sent: PricesInput = _decode_prices(await body_bytes())
        listed = {model.key for model in self._credits.listed()}
        for index, each in enumerate(sent.prices):
            if each.credit_model_key not in listed:
                text = f"there is no credit model {each.credit_model_key!r}"
                raise invalid(f"prices[{index}].creditModelKey", text)
        batch = [
            CreditPrice(credit_model=each.credit_model_key, price=each.price_per_credit, currency=each.currency)
            for each in sent.prices
        ]
        begins = _instant(sent.effective_from)
        published = await self._credits.publish_prices(batch, begins, self._core.writer)
        return tanso.success([self._price_view(row) for row in published.rows], 200 if published.repeated else 201)

    async def prices(self) -> Response:
        """List the prices in force, then those scheduled."""
        now, prices = self._core.clock.now(), self._credits.prices
        return tanso.success([self._price_view(row) for row in (*prices.in_force(now), *prices.scheduled(now))])

    async def prices_history(self) -> Response:
        """List every price there ever was, oldest first."""
        return tanso.success([self._price_view(row) for row in self._credits.prices.rows])

    async def current_prices(self) -> Response:
        """List the prices in force of the models that are sold; future ones are nobody's business yet."""
        listed = {model.key for model in self._credits.listed()}
        rows = self._credits.prices.in_force(self._core.clock.now())
        return tanso.success([self._price_view(row) for row in rows if row.credit_model in listed])

    async def delete_price(self, price_id: str) -> Response:
        """Take a scheduled price back: 200 with what it was, or 400 when it is in force."""
        return tanso.success(self._price_view(await self._credits.delete_price(price_id, self._core.writer)))

    def _price_view(self, row: Price) -> dict[str, Any]:
        model = self._credits.stored[row.credit_model]
        return {
            "id": row.id,
            "creditModelId": model.id,
            "creditModelKey": model.key,
            "denomination": model.definition.denomination,
            "pricePerCredit": row.price,
            "currency": row.currency,
            "effectiveFrom": iso(row.effective_from),
            "createdAt": iso(row.created_at),
        }


def _weight_view(row: Weight) -> dict[str, Any]:
    """Return a weight; what it holds for any of is left out."""
    view = {
        "id": row.id,
        "featureKey": row.feature,
        "model": row.model or None,
        "kind": row.kind or None,
        "weight": row.weight,
        "effectiveFrom": iso(row.effective_from),
        "createdAt": iso(row.created_at),
    }
    return {name: value for name, value in view.items() if value is not None}


def _instant(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_iso(text)
    except (ValueError, OverflowError):
        raise invalid(
            "effectiveFrom", "must be an ISO 8601 time with a zone, such as 2026-11-21T00:00:00Z"
        ) from None
