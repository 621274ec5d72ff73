"""Dodo's customers: made, listed, looked up and changed (CONTRACTS 2.7).

A customer made here gets a `cus_` id, which is its reference everywhere else; customers that came to be otherwise
go by their reference, else by their Stripe id, else by their UUID. What their profile does not say is left empty.
"""

from functools import partial
from typing import Any, Final

import msgspec
from quart import Response, request
from quart_trio import QuartTrio

from tallyd.actors.messages import ChangeProfile, Introduce
from tallyd.api.http import dodo
from tallyd.api.http.dodo_events import check_metadata
from tallyd.api.http.family import Family, answer, body_bytes, instant_parameter
from tallyd.api.wire import Decoder
from tallyd.clock import new_uuid
from tallyd.core import Core
from tallyd.engine.account import Account
from tallyd.engine.events import check_identifier, id_ref
from tallyd.model.customer import Customer, CustomerRef, RefKind
from tallyd.model.moments import iso
from tallyd.model.problems import ProblemError, invalid, not_found
from tallyd.store.customer_rows import CustomerQuery, list_customers

PATH: Final = "/customers"
PREFIX: Final = "cus_"
_PROFILE: Final = {"name": "name", "email": "email", "phone_number": "phoneNumber", "metadata": "metadata"}
"""Where the native API keeps what Dodo's fields say."""
_NAMES: Final = ("name", "firstName", "lastName")


class CustomerInput(msgspec.Struct, frozen=True, kw_only=True):
    """Body of POST /customers."""

    name: str
    email: str
    phone_number: str | None = None
    metadata: dict[str, Any] | None = None


class CustomerChange(msgspec.Struct, frozen=True, kw_only=True):
    """Body of PATCH /customers/{id}: null clears, where a customer can be without."""

    name: str | msgspec.UnsetType | None = msgspec.UNSET
    email: str | msgspec.UnsetType | None = msgspec.UNSET
    phone_number: str | msgspec.UnsetType | None = msgspec.UNSET
    metadata: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET


_decode = Decoder(CustomerInput)
_decode_change = Decoder(CustomerChange)
_encode_profile = msgspec.json.Encoder(order="deterministic", decimal_format="number").encode
_decode_profile = Decoder(dict[str, Any])


class DodoCustomers:
    """Handlers of `/customers`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        family.route(app, PATH, "POST", "admin", self.create)
        family.route(app, PATH, "GET", "read", self.list_customers)
        family.route(app, f"{PATH}/<customer>", "GET", "read", self.retrieve)
        family.route(app, f"{PATH}/<customer>", "PATCH", "admin", self.change)

    async def create(self) -> Response:
        """Make a customer: 200 with a new id, also where another one has the e-mail address."""
        with dodo.refusing(dodo.INVALID_BODY):
            sent: CustomerInput = _decode(await body_bytes())
            check_fields(msgspec.structs.asdict(sent))
        if sent.metadata is not None:
            check_metadata(sent.metadata)
        return answer(self._view(await make_customer(self._core, sent)))

    async def list_customers(self) -> Response:
        """List customers, newest first, by e-mail address, part of the name and time of creation."""
        page = dodo.asked_page()
        with dodo.refusing(dodo.INVALID_QUERY):
            first, last = instant_parameter("created_at_gte"), instant_parameter("created_at_lte")
        query = CustomerQuery(
            email=request.args.get("email"),
            name=request.args.get("name"),
            first=first,
            last=last,
            limit=page.size,
            offset=page.start,
        )
        found = await self._core.books.scan(partial(list_customers, query=query))
        return dodo.items([self._view(customer) for customer in found])

    async def retrieve(self, customer: str) -> Response:
        """Return a customer."""
        _, account = await find_customer(self._core, customer)
        return answer(self._view(account.customer))

    async def change(self, customer: str) -> Response:
        """Change the fields that are sent: 200. Name and e-mail address cannot be cleared."""
        with dodo.refusing(dodo.INVALID_BODY):
            sent: CustomerChange = _decode_change(await body_bytes())
            changed = {name: getattr(sent, name) for name in _PROFILE if getattr(sent, name) is not msgspec.UNSET}
            for name in ("name", "email"):
                if name in changed and changed[name] is None:
                    raise invalid(name, "cannot be cleared")
            check_fields(changed)
        if changed.get("metadata") is not None:
            check_metadata(changed["metadata"])
        ref, _ = await find_customer(self._core, customer)
        message = ChangeProfile(partial(_changed_profile, changed=changed))
        await self._core.intake.ask(ref, message)
        assert message.customer is not None, "it was changed"
        return answer(self._view(message.customer))

    def _view(self, customer: Customer) -> dict[str, Any]:
        return customer_view(customer, self._core.config.account.business_id)


async def make_customer(core: Core, sent: CustomerInput) -> Customer:
    """Make a customer of what was sent and checked, with a new id."""
    reference = PREFIX + new_uuid().replace("-", "")
    fields = msgspec.structs.asdict(sent)
    profile = {name: fields[field] for field, name in _PROFILE.items() if fields[field] is not None}
    message = Introduce(_encode_profile({"customerReferenceId": reference, **profile}).decode())
    await core.intake.ask(CustomerRef(RefKind.REFERENCE, reference), message)
    assert message.customer is not None, "a customer was made"
    return message.customer


async def find_customer(core: Core, name: str) -> tuple[CustomerRef, Account]:
    """Return a customer by Dodo's id: its reference, else its UUID, else its Stripe id.

    Raises:
        ProblemError: there is none.
    """
    for ref in _refs(check_identifier("customer_id", name)):
        account = core.directory.resident(ref) or await core.directory.account(ref)
        if account.known:
            return ref, account
    raise not_found(f"there is no customer {name!r}")


def _refs(name: str) -> list[CustomerRef]:
    refs = [CustomerRef(RefKind.REFERENCE, name)]
    try:
        refs.append(id_ref(name))
    except ProblemError:
        refs.append(CustomerRef(RefKind.STRIPE, name))
    return refs


def dodo_id(customer: Customer) -> str:
    """Return what Dodo's clients call a customer."""
    return customer.label


def check_fields(fields: dict[str, Any]) -> None:
    """Check what is said of a customer, by Dodo's names.

    Raises:
        ProblemError: names the field.
    """
    for name in ("name", "email", "phone_number"):
        if fields.get(name) is not None:
            check_identifier(name, fields[name])
    email = fields.get("email")
    if email is not None and not all(email.partition("@")):
        raise invalid("email", "must be an e-mail address")


def _changed_profile(profile: str | None, changed: dict[str, Any]) -> str:
    held: dict[str, Any] = _decode_profile(profile) if profile else {}
    if "name" in changed:
        held = {name: value for name, value in held.items() if name not in _NAMES}
    for field, value in changed.items():
        held.pop(_PROFILE[field], None)
        if value is not None:
            held[_PROFILE[field]] = value
    return _encode_profile(held).decode()


def customer_view(customer: Customer, business_id: str) -> dict[str, Any]:
    """Return a customer as Dodo shows it; one that came to be by an event has its id for a name."""
    profile: dict[str, Any] = _decode_profile(customer.profile) if customer.profile else {}
    full_name = " ".join(filter(None, (profile.get("firstName"), profile.get("lastName"))))
    view = {
        "business_id": business_id,
        "customer_id": dodo_id(customer),
        "name": profile.get("name") or full_name or customer.label,
        "email": profile.get("email") or "",
        "phone_number": profile.get("phoneNumber"),
        "metadata": profile.get("metadata") or {},
        "created_at": iso(customer.created_at),
    }
    return {name: value for name, value in view.items() if value is not None}
