"""What a new subscription says, and what of it tallyd does not have (CONTRACTS 2.5)."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from tallyd.api.http import dodo
from tallyd.api.http.dodo_prices import OneTimePrice, Price, term_of
from tallyd.api.http.dodo_subscription_views import sent_price
from tallyd.api.subscribing import find_plan
from tallyd.core import Core
from tallyd.engine.catalog import TRIAL_DAYS_MAX
from tallyd.engine.events import check_identifier
from tallyd.engine.rating import PricedPlan
from tallyd.model.problems import invalid, not_found

COUNTRY_LETTERS: Final = 2
_ADDRESS: Final = ("city", "state", "street", "zipcode")


class Address(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A billing address, kept with the customer. `country` is ISO 3166-1 alpha-2."""

    country: str
    city: str | None = None
    state: str | None = None
    street: str | None = None
    zipcode: str | None = None


class CustomerRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A customer there is, by `customer_id`, or one to be made, by `email`."""

    customer_id: str | None = None
    email: str | None = None
    name: str | None = None
    phone_number: str | None = None


class SubscriptionInput(msgspec.Struct, frozen=True, kw_only=True):
    """Body of POST /subscriptions. How the checkout page of Dodo looks is left out."""

    customer: CustomerRequest
    product_id: str
    quantity: int
    billing: Address | None = None
    metadata: dict[str, Any] | None = None
    trial_period_days: int | None = None
    addons: list[Any] | None = None
    discount_code: str | None = None
    discount_codes: list[Any] | None = None
    on_demand: dict[str, Any] | None = None
    one_time_product_cart: list[Any] | None = None
    payment_method_id: str | None = None
    payment_link: bool | None = None


NOT_HERE: Final[Mapping[str, str]] = {
    "addons": "there are no add-ons here; make a product that has all of it",
    "discount_code": "there are no discount codes here; make a product with a discount",
    "discount_codes": "there are no discount codes here; make a product with a discount",
    "on_demand": "no subscription here is on demand; make a product with a meter and report usage",
    "one_time_product_cart": "only what recurs can be subscribed to; leave it out",
    "payment_method_id": "no cards are kept here; payment is collected elsewhere",
}
"""Fields that say what tallyd does not have, and what to do instead."""


def refuse_what_is_not_here(sent: msgspec.Struct, advice: Mapping[str, str]) -> None:
    """Refuse fields that ask for something; null, false and an empty list ask for nothing.

    Raises:
        ProblemError: names the field.
    """
    for field, text in advice.items():
        if getattr(sent, field):
            raise invalid(field, text)


def check_quantity(quantity: int) -> None:
    """Refuse all quantities but 1.

    Raises:
        ProblemError: names the field.
    """
    if quantity != 1:
        raise invalid("quantity", "must be 1; where seats are sold, count them with a meter")


def check_subscription(sent: SubscriptionInput) -> None:
    """Check a new subscription, its metadata apart.

    Raises:
        ProblemError: names the field.
    """
    check_quantity(sent.quantity)
    refuse_what_is_not_here(sent, NOT_HERE)
    days = sent.trial_period_days
    if days is not None and not 0 <= days <= TRIAL_DAYS_MAX:
        raise invalid("trial_period_days", f"must be 0 to {TRIAL_DAYS_MAX}")
    if sent.customer.customer_id is None and sent.customer.email is None:
        raise invalid("customer", "must have a customer_id, or the email of a new customer")
    if sent.billing is not None:
        check_address(sent.billing)


def check_address(address: Address) -> None:
    """Check a billing address.

    Raises:
        ProblemError: names the field.
    """
    country = address.country
    if len(country) != COUNTRY_LETTERS or not country.isascii() or not country.isupper():
        raise invalid("billing.country", "must be a country's two letters, such as DE")
    for field in _ADDRESS:
        value = getattr(address, field)
        if value is not None:
            check_identifier(f"billing.{field}", value)


def with_address(profile: str | None, address: Address) -> str:
    """Return a customer's profile with the address in it."""
    held: dict[str, Any] = msgspec.json.decode(profile) if profile else {}
    return msgspec.json.encode({**held, "address": msgspec.to_builtins(address)}, order="deterministic").decode()


def find_product(core: Core, product_id: str) -> PricedPlan:
    """Return the newest version of a plan that may be subscribed to.

    Raises:
        ProblemError: 404 for an unknown one; 422 for one that is archived, or paid once.
    """
    if core.catalogue.latest(product_id) is None:
        raise not_found(f"there is no product {product_id!r}")
    with dodo.refusing(dodo.INVALID_BODY):
        return find_plan(core, product_id, "product_id")


def product_term(core: Core, plan: PricedPlan) -> int | None:
    """Return how many payment periods a subscription to a plan has; None: as many as it lives."""
    stored = core.catalogue.versions.version(plan.key, plan.version)
    sent = {} if stored is None else sent_price(stored)
    price: Price | None = msgspec.convert(sent, Price) if sent else None
    return None if price is None or isinstance(price, OneTimePrice) else term_of(price)
