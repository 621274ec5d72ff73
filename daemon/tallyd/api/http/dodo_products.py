"""Dodo's products: plans made, listed, changed and archived (CONTRACTS 2.4).

A product is a plan whose key is its id. Changing one makes a new version; subscribers stay on theirs. Plans of the
catalog file and of the native API are products too, to be read and subscribed to here, and changed where they were
made.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final

import msgspec
from quart import Response, request
from quart_trio import QuartTrio

from tallyd.api.http import dodo
from tallyd.api.http.dodo_credits import DODO
from tallyd.api.http.dodo_events import check_metadata
from tallyd.api.http.dodo_prices import OneTimePrice, UsagePrice
from tallyd.api.http.dodo_product_inputs import FIELDS, ProductInput, read_product, sent_fields
from tallyd.api.http.dodo_product_views import is_recurring, listed_view, made_at, product_view
from tallyd.api.http.family import Family, answer, body_bytes, flag_parameter
from tallyd.api.wire import Decoder, encode
from tallyd.clock import new_uuid
from tallyd.core import Core
from tallyd.engine.catalog import CatalogError
from tallyd.model.catalog import Plan, PlanStatus
from tallyd.model.problems import Code, Problem, ProblemError, invalid, not_found
from tallyd.store.catalog_rows import CATALOG, StoredPlan

PATH: Final = "/products"
PREFIX: Final = "pdt_"
ARCHIVED: Final[PlanStatus] = "ARCHIVED"
_ONE: Final = f"{PATH}/<product>"
_PLACES: Final = (
    ("price_amount", "price.price"),
    ("interval_", "price.payment_frequency_count"),
    ("trial_days", "price.trial_period_days"),
    ("features[", "price.meters["),
)
"""Where what is wrong with a plan stands in its product, by how its place begins."""

_decode = Decoder(ProductInput)
_decode_some = Decoder(dict[str, Any])


class DodoProducts:
    """Handlers of `/products`."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._plans = core.catalogue.versions

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        family.route(app, PATH, "POST", "admin", self.create)
        family.route(app, PATH, "GET", "read", self.list_products)
        family.route(app, _ONE, "GET", "read", self.retrieve)
        family.route(app, _ONE, "PATCH", "admin", self.change)
        family.route(app, _ONE, "DELETE", "admin", self.archive)
        family.route(app, f"{_ONE}/unarchive", "POST", "admin", self.unarchive)

    # Looking up

    async def list_products(self) -> Response:
        """List products, newest first; `archived=true` lists those instead, `recurring` asks for one kind."""
        page = dodo.asked_page()
        with dodo.refusing(dodo.INVALID_QUERY):
            archived = flag_parameter("archived")
            recurring = flag_parameter("recurring") if "recurring" in request.args else None
        if request.args.get("brand_id") not in (None, self._core.config.account.business_id):
            return dodo.items([])
        found = [
            each
            for each in self._plans.listed()
            if (each.plan.status == ARCHIVED) is archived and recurring in (None, is_recurring(each))
        ]
        found.sort(key=lambda each: (made_at(self._core, each), each.key), reverse=True)
        return dodo.items([listed_view(self._core, each) for each in found[page.start : page.end]])

    async def retrieve(self, product: str) -> Response:
        """Return a product, archived or not."""
        return answer(product_view(self._core, self._find(product)))

    def _find(self, product: str) -> StoredPlan:
        found = self._plans.find(product)
        if found is None:
            raise not_found(f"there is no product {product!r}")
        return found

    # Making and changing

    async def create(self) -> Response:
        """Make a product: 200, or 422 with the field that is wrong."""
        with dodo.refusing(dodo.INVALID_BODY):
            sent: ProductInput = _decode(await body_bytes())
        if sent.metadata is not None:
            check_metadata(sent.metadata)
        with dodo.refusing(dodo.INVALID_BODY):
            plan = read_product(self._core, PREFIX + new_uuid().replace("-", ""), sent)
        await self._make_features(sent)
        with _in_words_of_products():
            made = await self._plans.make(plan, self._core.writer, source=DODO, extra=sent_fields(sent))
        return answer(product_view(self._core, made))

    async def change(self, product: str) -> Response:
        """Change the fields that are sent; null leaves one as it is. Subscribers stay on the version they have."""
        with dodo.refusing(dodo.INVALID_BODY):
            sent: dict[str, Any] = _decode_some(await body_bytes())
        given = {name: sent[name] for name in FIELDS if sent.get(name) is not None}
        held = _own(self._find(product))
        with dodo.refusing(dodo.INVALID_BODY):
            whole = _merged(held, given)
        if whole.metadata is not None:
            check_metadata(whole.metadata)
        with dodo.refusing(dodo.INVALID_BODY):
            read_product(self._core, held.key, whole, held.plan)
        await self._make_features(whole)
        with _in_words_of_products():
            made = await self._plans.change(held.key, partial(self._edited, given=given), self._core.writer)
        return answer(product_view(self._core, made))

    def _edited(self, newest: StoredPlan, given: dict[str, Any]) -> tuple[Plan, dict[str, Any]]:
        with dodo.refusing(dodo.INVALID_BODY):
            whole = _merged(newest, given)
            if isinstance(whole.price, OneTimePrice) is is_recurring(newest):
                raise invalid("price.type", "paid once or again and again, that stays; make another product")
            plan = read_product(self._core, newest.key, whole, newest.plan)
        return plan, sent_fields(whole)

    async def archive(self, product: str) -> Response:
        """Archive a product: 200, also when it is archived already. Subscribers stay; nobody joins them."""
        return await self._mark(product, archived=True)

    async def unarchive(self, product: str) -> Response:
        """Bring a product back: 200, also when it is not archived."""
        return await self._mark(product, archived=False)

    async def _mark(self, product: str, *, archived: bool) -> Response:
        held = _own(self._find(product))

        def edit(newest: StoredPlan) -> tuple[Plan, dict[str, Any]]:
            status: PlanStatus = ARCHIVED if archived else "ACTIVE" if is_recurring(newest) else "DRAFT"
            return msgspec.structs.replace(newest.plan, status=status), newest.extra

        with _in_words_of_products():
            await self._plans.change(held.key, edit, self._core.writer)
        return answer({})

    async def _make_features(self, sent: ProductInput) -> None:
        """Have a feature for each meter of a price, whose key is the meter's id."""
        catalogue = self._core.catalogue
        for each in (sent.price.meters or []) if isinstance(sent.price, UsagePrice) else []:
            if each.meter_id not in catalogue.features:
                meter = catalogue.meters[each.meter_id].definition
                with suppress(ProblemError):  # another product has made it meanwhile
                    await catalogue.make_feature(each.meter_id, meter.name, meter.description, self._core.writer)


def _own(held: StoredPlan) -> StoredPlan:
    """Return a product that was made here.

    Raises:
        ProblemError: it was made elsewhere.
    """
    if held.source != DODO:
        where = "in the catalog file" if held.source == CATALOG else "over the native API"
        text = f"{held.key!r} was made {where}, and is changed there"
        raise ProblemError(Problem(code=Code.CONFLICT, message=text))
    return held


def _merged(held: StoredPlan, given: dict[str, Any]) -> ProductInput:
    """Return a product as it would be with some fields anew."""
    plan = held.plan
    credits_ = [
        {"credit_entitlement_id": each.credit_model, "credits_amount": each.amount} for each in plan.credits
    ]
    kept = {"name": plan.name, "description": plan.description, "credit_entitlements": credits_, **held.extra}
    merged: ProductInput = _decode(encode(kept | given))
    return merged


@contextmanager
def _in_words_of_products() -> Iterator[None]:
    """Say what is wrong with a plan in the words of its product: 422."""
    try:
        yield
    except CatalogError as error:
        issue = error.issues[0]
        place = issue.where
        for begin, name in _PLACES:
            if place.startswith(begin):
                place = name + (place.removeprefix(begin) if begin.endswith("[") else "")
        with dodo.refusing(dodo.INVALID_BODY):
            raise invalid(place, issue.message) from None
