"""Customers over the native API: made, shown, changed (CONTRACTS 1.3)."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType
from quart import Response
from quart_trio import QuartTrio

from tallyd.actors.messages import ChangeProfile, Introduce
from tallyd.api import entitling
from tallyd.api.billing_views import subscription_view
from tallyd.api.credit_views import pool_view
from tallyd.api.http import tanso
from tallyd.api.http.family import Family, body_bytes
from tallyd.api.wire import Decoder
from tallyd.core import Core
from tallyd.engine.account import Account
from tallyd.engine.events import check_identifier
from tallyd.engine.passing import as_of, current
from tallyd.model.customer import Customer
from tallyd.model.moments import iso
from tallyd.model.periods import zone_problem
from tallyd.model.problems import invalid

PATH: Final = f"{tanso.CLIENT}/customers"
ADDRESS_BYTES_MAX: Final = 4_096
_TEXTS: Final = ("name", "email", "firstName", "lastName", "phoneNumber")


class CustomerInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Body of POST and PATCH /customers; of a PATCH what is not sent stays, and null takes a field back.

    `name` is a company's, and stands on invoices before that of a person.
    """

    customer_reference_id: str | UnsetType = UNSET
    name: str | UnsetType | None = UNSET
    email: str | UnsetType | None = UNSET
    first_name: str | UnsetType | None = UNSET
    last_name: str | UnsetType | None = UNSET
    phone_number: str | UnsetType | None = UNSET
    address: dict[str, Any] | UnsetType | None = UNSET
    time_zone: str | UnsetType | None = UNSET


_decode: Final = Decoder(CustomerInput)
_encode_profile: Final = msgspec.json.Encoder(order="deterministic").encode
_decode_profile: Final = msgspec.json.Decoder(dict[str, Any]).decode


class Customers:
    """Handlers of `/api/v1/client/customers`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        family.route(app, PATH, "POST", "admin", self.create)
        family.route(app, f"{PATH}/<reference>", "GET", "read", self.retrieve)
        family.route(app, f"{PATH}/<reference>", "PATCH", "admin", self.change)

    async def create(self) -> Response:
        """Make a customer known before its first event: 201, 409 when it is known."""
        sent: CustomerInput = _decode(await body_bytes())
        if sent.customer_reference_id is UNSET:
            raise invalid("customerReferenceId", "is required")
        ref = entitling.by_reference(sent.customer_reference_id)
        told = {name: value for name, value in _told(sent).items() if value is not None}
        profile = {"customerReferenceId": sent.customer_reference_id, **told}
        message = Introduce(_encode_profile(profile).decode())
        await self._core.intake.ask(ref, message)
        assert message.customer is not None, "a customer was made"
        return tanso.success(customer_view(message.customer), 201)

    async def retrieve(self, reference: str) -> Response:
        """Return a customer with its subscriptions and pools as they stand now."""
        account = await entitling.known_account(self._core, entitling.by_reference(reference))
        return tanso.success(self._whole(account))

    async def change(self, reference: str) -> Response:
        """Change what is told about a customer."""
        sent: CustomerInput = _decode(await body_bytes())
        if sent.customer_reference_id not in (UNSET, reference):
            raise invalid("customerReferenceId", "cannot be changed: it is what the customer goes by")
        told = _told(sent)
        ref = entitling.by_reference(reference)
        await self._core.intake.ask(ref, ChangeProfile(lambda held: _changed(held, told)))
        return tanso.success(self._whole(await entitling.known_account(self._core, ref)))

    def _whole(self, account: Account) -> dict[str, Any]:
        now = self._core.clock.of(account.customer.id)
        account = current(account, now)
        view = customer_view(account.customer)
        view["subscriptions"] = [subscription_view(account, each, now) for each in account.subscriptions()]
        view["creditPools"] = [pool_view(pool) for pool in as_of(account, now).all_pools()]
        return view


def _told(sent: CustomerInput) -> dict[str, Any]:
    """Return what is said about a customer, checked.

    Raises:
        ProblemError: names the field.
    """
    fields: dict[str, Any] = {
        "name": sent.name,
        "email": sent.email,
        "firstName": sent.first_name,
        "lastName": sent.last_name,
        "phoneNumber": sent.phone_number,
        "address": sent.address,
        "timeZone": sent.time_zone,
    }
    told = {name: value for name, value in fields.items() if value is not UNSET}
    for name in _TEXTS:
        value = told.get(name)
        if isinstance(value, str):
            check_identifier(name, value)
    zone = told.get("timeZone")
    problem = zone_problem(zone) if isinstance(zone, str) else None
    if problem:
        raise invalid("timeZone", problem)
    if len(_encode_profile(told.get("address"))) > ADDRESS_BYTES_MAX:
        raise invalid("address", f"must have at most {ADDRESS_BYTES_MAX} bytes, as JSON")
    return told


def _changed(profile: str | None, told: Mapping[str, Any]) -> str:
    held = {**(_decode_profile(profile) if profile else {}), **told}
    return _encode_profile({name: value for name, value in held.items() if value is not None}).decode()


def customer_view(customer: Customer) -> dict[str, Any]:
    """Return a customer as clients see it."""
    profile = _decode_profile(customer.profile) if customer.profile else {}
    return {
        **profile,
        "id": customer.id,
        "customerReferenceId": customer.reference,
        "stripeCustomerId": customer.stripe_id,
        "createdAt": iso(customer.created_at),
        "subscriptions": [],
        "creditPools": [],
    }
