"""Changing a subscription's product, at once or when its period ends, and what that would cost (CONTRACTS 2.5).

At once, the rest of the period is charged at the new price and given back at the old one, also where the whole
difference was asked for; Dodo's other ways of billing a change are not had. A preview is the change itself,
decided and thrown away.
"""

from collections.abc import Callable
from decimal import Decimal
from itertools import count
from typing import Any, Final, Literal

import msgspec
from quart import Response
from quart_trio import QuartTrio

from tallyd.actors.worker import all_inline
from tallyd.api import billing
from tallyd.api.billing import Owned
from tallyd.api.http import dodo
from tallyd.api.http.dodo_prices import digits, minor_units
from tallyd.api.http.dodo_subscription_changes import inactive
from tallyd.api.http.dodo_subscription_inputs import check_quantity, find_product, refuse_what_is_not_here
from tallyd.api.http.dodo_subscription_views import Status, meter_of, status_of, subscription_view
from tallyd.api.http.family import Family, answer, body_bytes
from tallyd.api.wire import Decoder
from tallyd.clock import new_uuid
from tallyd.core import Core
from tallyd.engine.account import Account, apply
from tallyd.engine.billing import changing
from tallyd.engine.credits.draft import Draft
from tallyd.engine.passing import UNWRITTEN
from tallyd.engine.rating import PricedPlan
from tallyd.model.event import event_uuid
from tallyd.model.invoice import Invoice, Line, LineKind
from tallyd.model.moments import iso
from tallyd.model.money import ONE, ZERO, divide
from tallyd.model.problems import Code, Problem, ProblemError, invalid, unavailable

INACTIVE: Final = "INACTIVE_SUBSCRIPTION_PLAN_CHANGE_NOT_SUPPORTED"
FACTOR_DIGITS: Final = 6
_CHANGE: Final = "/subscriptions/<subscription>/change-plan"
_PRORATED: Final = ("prorated_immediately", "prorated_immediately_keep_cycle", "difference_immediately")
_PERIODIC: Final = frozenset({LineKind.BASE, LineKind.PRORATION})

Mode = Literal[
    "prorated_immediately",
    "prorated_immediately_keep_cycle",
    "difference_immediately",
    "full_immediately",
    "do_not_bill",
]


class PlanChange(msgspec.Struct, frozen=True, kw_only=True):
    """Body of POST …/change-plan and …/change-plan/preview."""

    product_id: str
    quantity: int
    proration_billing_mode: Mode
    effective_at: Literal["immediately", "next_billing_date"] = "immediately"
    on_payment_failure: Literal["prevent_change", "apply_change"] | None = None
    cancel_scheduled_change_plan: bool | None = None
    addons: list[Any] | None = None
    discount_code: str | None = None
    discount_codes: list[Any] | None = None
    collect_via_payment_link: bool | None = None


_NOT_HERE: Final = {
    "addons": "there are no add-ons here; change to a product that has all of it",
    "discount_code": "there are no discount codes here; change to a product with a discount",
    "discount_codes": "there are no discount codes here; change to a product with a discount",
    "collect_via_payment_link": "the change comes at once, and its invoice is to be paid; leave it out",
}
_decode = Decoder(PlanChange)


class DodoPlanChanges:
    """Handlers of `/subscriptions/{id}/change-plan`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them."""
        family.route(app, _CHANGE, "POST", "admin", self.change)
        family.route(app, f"{_CHANGE}/preview", "POST", "read", self.preview)
        family.route(app, f"{_CHANGE}/scheduled", "DELETE", "admin", self.revert)

    async def change(self, subscription: str) -> Response:
        """Change the product: 200, with the invoice of the change as `payment_id` where one is to be paid."""
        sent, plan = await self._read()
        owned = await billing.find_subscription(self._core, subscription)
        number, change_id = owned.subscription.number, new_uuid()
        made: list[Invoice] = await billing.change(
            self._core, owned.ref, lambda draft: change_plan(draft, number, plan, sent, change_id)
        )
        to_pay = [each for each in made if each.open]
        return answer({"payment_id": event_uuid(to_pay[-1].number)} if to_pay else {})

    async def preview(self, subscription: str) -> Response:
        """Return what a change would charge at once, and the subscription as it would be."""
        sent, plan = await self._read()
        owned = await billing.find_subscription(self._core, subscription)
        now = self._core.clock.of(owned.account.customer.id)
        account, made = await self._decided(owned, lambda each: decided(each, owned, plan, sent, now))
        enrolled = account.subscription(owned.subscription.number)
        assert enrolled is not None, "it is the customer's"
        after, change = enrolled[0], enrolled[0].change
        assert change is not None, "it was changed"
        charge = {
            "effective_at": iso(change.effective_at),
            "line_items": [self._item(each, line) for each in made for line in each.lines],
            "summary": _summary(plan.currency, made),
        }
        return answer({"immediate_charge": charge, "new_plan": subscription_view(self._core, account, after, now)})

    async def revert(self, subscription: str) -> Response:
        """Take back a change that waits for the next billing date: 200."""
        owned = await billing.find_subscription(self._core, subscription)
        with dodo.refusing(dodo.INVALID_BODY):
            await billing.revert_change(self._core, owned)
        return answer({})

    async def _read(self) -> tuple[PlanChange, PricedPlan]:
        with dodo.refusing(dodo.INVALID_BODY):
            sent: PlanChange = _decode(await body_bytes())
            check_plan_change(sent)
        return sent, find_product(self._core, sent.product_id)

    async def _decided(
        self, owned: Owned, decide: Callable[[Account], tuple[Account, list[Invoice]]]
    ) -> tuple[Account, list[Invoice]]:
        """Decide on the account, or, where models are not trusted, on another thread within their budget (P8)."""
        runtime = self._core.runtime
        if all_inline(runtime.registry, (each.plan for each in owned.account.enrolments)):
            return decide(owned.account)
        found = await runtime.worker.call(lambda watch: decide(watch.account(owned.account)))
        if found is None:
            raise unavailable("pricing plugins took too long to explain; retry, or see [plugins] budget_ms")
        return found

    def _item(self, invoice: Invoice, line: Line) -> dict[str, Any]:
        """Return a line as Dodo shows it: a meter's usage, or a price and how much of it is charged."""
        key, _, version = line.price_version.rpartition("@")
        plan = self._core.catalogue.written(key, int(version))
        assert plan is not None, "plans are never removed"
        place = f"{event_uuid(invoice.number)}-{invoice.lines.index(line)}"
        shared = {"id": place, "currency": invoice.currency, "tax_inclusive": False, "description": line.words}
        meter = meter_of(self._core, plan, line.feature)
        if meter is not None and line.quantity is not None:
            return {
                **shared,
                "type": "meter",
                "name": meter.definition.name or meter.definition.key,
                "units_consumed": digits(line.quantity),
                "chargeable_units": digits(sum((each.quantity for each in line.steps if each.amount), ZERO)),
                "free_threshold": int(sum((each.quantity for each in line.steps if not each.amount), ZERO)),
                "price_per_unit": digits(max((each.unit_price or ZERO for each in line.steps), default=ZERO)),
                "subtotal": minor_units(line.amount, invoice.currency),
                "tax_rate": 0,
            }
        price, factor = line.amount, ONE
        if line.kind in _PERIODIC and plan.price_amount and line.exact:
            price = plan.price_amount.copy_sign(line.exact)
            factor = divide(line.exact, price, FACTOR_DIGITS)
        return {
            **shared,
            "type": "subscription",
            "product_id": key,
            "name": line.words,
            "quantity": 1,
            "unit_price": minor_units(price, invoice.currency),
            "proration_factor": factor,
        }


def check_plan_change(sent: PlanChange) -> None:
    """Refuse what tallyd does not have.

    Raises:
        ProblemError: names the field.
    """
    check_quantity(sent.quantity)
    refuse_what_is_not_here(sent, _NOT_HERE)
    if sent.on_payment_failure == "prevent_change":
        text = "a change does not wait for its payment: unpaid, access ends when the grace days are over"
        raise invalid("on_payment_failure", text)
    if sent.effective_at == "immediately" and sent.proration_billing_mode not in _PRORATED:
        text = "a change at once is prorated: send prorated_immediately, or effective_at next_billing_date"
        raise invalid("proration_billing_mode", text)


def change_plan(draft: Draft, number: int, plan: PricedPlan, sent: PlanChange, change_id: str) -> list[Invoice]:
    """Change a subscription's plan as asked; return the invoices that makes.

    Raises:
        ProblemError: it is not active, another change waits, or the engine's own reasons.
    """
    subscription, now = draft.subscription(number), draft.now
    status = status_of(subscription, lambda: draft.open_invoices(number), now)
    if status is not Status.ACTIVE:
        raise inactive(f"the subscription is {status}; only an active one can change its product", INACTIVE)
    waiting = subscription.change
    waits = waiting is not None and not waiting.cancelled and waiting.effective_at > now
    if waiting is not None and waits and not sent.cancel_scheduled_change_plan:
        text = f"a change to {waiting.to_plan!r} is scheduled; cancel it, or send cancel_scheduled_change_plan"
        raise ProblemError(Problem(code=Code.CONFLICT, message=text))
    old = draft.enrolment_at(number, now).plan
    if subscription.ends_at is not None and subscription.cancellation is None and _rhythm(old) != _rhythm(plan):
        text = f"the subscription ends at {iso(subscription.ends_at)}; subscribe to it then"
        raise invalid("product_id", f"{plan.key!r} is paid in another rhythm, and {text}")
    before = set(draft.invoices)
    act = changing.upgrade if sent.effective_at == "immediately" else changing.downgrade
    act(draft, number, plan, change_id)
    return [each for key, each in draft.invoices.items() if key not in before]


def _rhythm(plan: PricedPlan) -> tuple[int, int]:
    return plan.interval_months, plan.interval_days


def decided(
    account: Account, owned: Owned, plan: PricedPlan, sent: PlanChange, now: int
) -> tuple[Account, list[Invoice]]:
    """Return a customer's books as they would be after a change of plan, and the invoices it would make."""
    draft = Draft(account, now, count(UNWRITTEN).__next__)
    made = change_plan(draft, owned.subscription.number, plan, sent, new_uuid())
    after = account.copy()
    apply(after, draft.changes())
    return after, made


def _summary(currency: str, made: list[Invoice]) -> dict[str, Any]:
    total = minor_units(sum((each.amount for each in made), Decimal(0)), currency)
    return {
        "currency": currency,
        "total_amount": total,
        "settlement_amount": total,
        "settlement_currency": currency,
        "customer_credits": 0,
        "customer_credits_currency": currency,
        "tax": 0,
    }
