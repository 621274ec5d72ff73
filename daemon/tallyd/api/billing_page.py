"""The page of an invoice, from the books and the settings: who sends it, who is billed, where it can be paid."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import msgspec

from tallyd.api import billing
from tallyd.api.billing_views import invoice_number
from tallyd.api.checkout import pay_url
from tallyd.api.entitling import known_account
from tallyd.api.invoice_page import BilledCustomer, InvoicePage, Seller, invoice_page
from tallyd.core import Core
from tallyd.model.customer import Customer
from tallyd.model.invoice import Invoice, LineKind
from tallyd.model.subscription import Phase
from tallyd.store import subscription_rows

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page needs its own styles and nothing else: no script, no picture, no frame around it."""

_decode_profile: Final = msgspec.json.Decoder(dict[str, Any]).decode
_ADDRESS: Final = ("line1", "line2", "street", "city", "state", "postalCode", "zip", "country")
"""In the order in which an address is written; what it has beside these comes after them."""


async def page_of(core: Core, name: str) -> str:
    """Return an invoice as HTML, by its id or number.

    Raises:
        ProblemError: there is none.
    """
    ref, invoice = await billing.find_invoice(core, name)
    account = await known_account(core, ref)
    query = partial(subscription_rows.subscription_by_number, number=invoice.subscription)
    subscription = await core.books.read(query)
    assert subscription is not None, "a subscription does not go away"
    phase = subscription.phase_at(max(invoice.period_start, subscription.starts_at))
    page = InvoicePage(
        invoice=invoice,
        number=invoice_number(invoice),
        plan=_plan_name(core, invoice, phase),
        zone=phase.cycle.zone,
        seller=_seller(core),
        customer=billed_customer(account.customer),
        pay_url=await pay_url(core, invoice),
        features=_feature_names(core, invoice),
    )
    return invoice_page(page)


def _plan_name(core: Core, invoice: Invoice, phase: Phase) -> str:
    """Return the name of the plan that the invoice's period began on.

    What the base price says comes first: a phase that was changed at the instant it began has left no trace.
    """
    plan = (phase.plan_key, phase.plan_version)
    for line in invoice.lines:
        if line.kind is LineKind.BASE and line.period_start == invoice.period_start:
            key, _, version = line.price_version.rpartition("@")
            plan = (key, int(version))
            break
    return core.catalogue.plans[plan].name


def _seller(core: Core) -> Seller:
    settings = core.config.invoices
    return Seller(
        name=settings.name or None,
        address=list(settings.address),
        email=settings.email or None,
        tax_id=settings.tax_id or None,
        footer=settings.footer or None,
    )


def billed_customer(customer: Customer) -> BilledCustomer:
    """Return who is billed, from what the app has told about the customer."""
    profile: dict[str, Any] = _decode_profile(customer.profile) if customer.profile else {}
    full_name = " ".join(filter(None, (profile.get("firstName"), profile.get("lastName"))))
    return BilledCustomer(
        name=profile.get("name") or full_name or None,
        address=address_lines(profile.get("address") or {}),
        email=profile.get("email"),
        reference=customer.label,
    )


def address_lines(address: Mapping[str, Any]) -> list[str]:
    """Return an address line by line, whatever its fields are called."""
    known = [address.get(name) for name in _ADDRESS]
    others = [value for name, value in address.items() if name not in _ADDRESS]
    return [str(value) for value in (*known, *others) if isinstance(value, str | int) and value not in ("", True)]


def _feature_names(core: Core, invoice: Invoice) -> dict[str, str]:
    keys = {line.feature for line in invoice.lines if line.feature}
    found = ((key, core.catalogue.features.get(key)) for key in keys)
    return {key: feature.name for key, feature in found if feature is not None and feature.name}
