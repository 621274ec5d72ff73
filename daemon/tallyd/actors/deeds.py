"""What an actor does besides recording events: each decides what changes, and changes nothing itself."""

import math
from typing import Any, Final

import msgspec

from tallyd.actors.messages import ChangeCredits, ChangeProfile, Introduce, Subscribe
from tallyd.actors.runtime import Runtime
from tallyd.engine.account import Account, Changes, Enrolment
from tallyd.engine.credits import passing
from tallyd.engine.credits.draft import Draft
from tallyd.engine.credits.granting import include, pool_for
from tallyd.engine.rating import PricedPlan
from tallyd.model.catalog import CreditModel
from tallyd.model.customer import Customer, CustomerRef, RefKind
from tallyd.model.problems import Code, Problem, ProblemError, not_found
from tallyd.model.subscription import Subscription

DUES_A_SLICE: Final = 200
"""What falls due at one time is done together; beyond this others get a turn in between."""


def stranger(ref: CustomerRef) -> Customer:
    """Return a customer nobody has heard of yet."""
    return Customer(
        number=0,
        id=ref.customer_id(),
        reference=ref.value if ref.kind is RefKind.REFERENCE else None,
        stripe_id=ref.value if ref.kind is RefKind.STRIPE else None,
        created_at=0,
    )


def unknown_customer(ref: CustomerRef) -> Problem:
    """Return what is said of a customer that must exist and does not."""
    return Problem(
        code=Code.NOT_FOUND,
        message=f"customer {ref.value!r} is unknown and [customers] auto_create is off; create it first",
    )


def numbered(account: Account, runtime: Runtime, now: int) -> Customer:
    """Return the customer with its row number, a new one if it has none."""
    if account.known:
        return account.customer
    number = account.customer.number or next(runtime.sequences.customers)
    return msgspec.structs.replace(account.customer, number=number, created_at=now)


def subscribe(message: Subscribe, account: Account, runtime: Runtime, ref: CustomerRef) -> Changes:
    """Put the customer on a plan, with the credits it includes.

    Raises:
        ProblemError: unknown and not to be made known, or on the plan already.
    """
    plan, now = message.plan, runtime.clock.now()
    if not account.known and not runtime.auto_create_customers:
        raise ProblemError(unknown_customer(ref))
    if any(
        each.plan.key == plan.key and (each.subscription.ends_at or math.inf) > message.starts_at
        for each in account.enrolments
    ):
        text = f"the customer is already subscribed to {plan.key}"
        raise ProblemError(Problem(code=Code.CONFLICT, message=text))
    customer = numbered(account, runtime, now)
    if not account.known:
        account.customer = customer  # its number is taken, whatever becomes of this
    subscription = Subscription(
        number=next(runtime.sequences.subscriptions),
        id=runtime.new_uuid(),
        customer=customer.number,
        plan_key=plan.key,
        plan_version=plan.version,
        starts_at=message.starts_at,
        ends_at=None,
        anchor_day=message.anchor_day,
        interval_months=plan.interval_months,
        created_at=now,
    )
    message.subscription = subscription
    changes = Changes(
        customer=None if account.known else customer,
        subscription=(subscription, plan),
        position=account.position,
        chain=account.chain,
    )
    paying = _paying_models(plan, runtime)
    if not plan.credits and not paying:
        return changes
    draft = Draft(account, now, runtime.sequences.events.__next__)
    passing.pass_time(draft)
    for included in plan.credits:
        model = runtime.catalogue.credit_models.get(included.credit_model)
        if model is None:
            raise not_found(f"the plan includes credits of {included.credit_model!r}, which is not in the catalog")
        include(draft, Enrolment(subscription, plan), included, model)
    for model in paying:  # an empty pool: what only credits pay for is not free until the first are there
        pool_for(draft, model)
    credit, position, chain = draft.seal_all()
    return msgspec.structs.replace(changes, credits=credit, position=position, chain=chain)


def _paying_models(plan: PricedPlan, runtime: Runtime) -> list[CreditModel]:
    """Return the credit models that features of a plan name.

    Raises:
        ProblemError: there is no such model.
    """
    models = []
    for feature in plan.features.values():
        if feature.credit_model is not None:
            model = runtime.catalogue.credit_models.get(feature.credit_model)
            if model is None:
                text = f"{feature.key!r} is paid for with {feature.credit_model!r}, which is no credit model"
                raise not_found(f"the plan cannot be subscribed to: {text}; see [[credit_models]]")
            models.append(model)
    return models


def pass_time(account: Account, runtime: Runtime) -> Changes:
    """Do what time alone does to the customer's credits: a slice of it, if there is much."""
    draft = Draft(account, runtime.clock.now(), runtime.sequences.events.__next__)
    passing.pass_time(draft, DUES_A_SLICE)
    credit, position, chain = draft.seal_all()
    return Changes(credits=credit, position=position, chain=chain)


def introduce(message: Introduce, account: Account, runtime: Runtime, ref: CustomerRef) -> Changes:
    """Make the customer known.

    Raises:
        ProblemError: it is known.
    """
    if account.known:
        raise ProblemError(Problem(code=Code.CONFLICT, message=f"customer {ref.value} exists already"))
    customer = numbered(account, runtime, runtime.clock.now())
    message.customer = msgspec.structs.replace(customer, profile=message.profile)
    return Changes(customer=message.customer, position=account.position, chain=account.chain)


def change_profile(message: ChangeProfile, account: Account, ref: CustomerRef) -> Changes:
    """Change what is known about the customer besides its names.

    Raises:
        ProblemError: the customer is unknown, or what is asked is refused.
    """
    if not account.known:
        raise not_found(f"there is no customer {ref.value!r}")
    profile = message.change(account.customer.profile)
    message.customer = msgspec.structs.replace(account.customer, profile=profile)
    return Changes(customer=message.customer, position=account.position, chain=account.chain)


def change_credits(
    message: ChangeCredits, account: Account, runtime: Runtime, ref: CustomerRef, prepared: Any
) -> Changes | None:
    """Change the customer's credits; None when nothing changes.

    Raises:
        ProblemError: the customer is unknown, or what is asked is refused.
    """
    if not account.known:
        raise not_found(f"there is no customer {ref.value!r}; it comes to be with its first event or subscription")
    draft = Draft(account, runtime.clock.now(), runtime.sequences.events.__next__)
    passing.pass_time(draft)
    message.answer = message.decide(draft, prepared)
    if not draft.changed:
        return None
    credit, position, chain = draft.seal_all()
    message.entries = credit.entries
    return Changes(credits=credit, position=position, chain=chain)
