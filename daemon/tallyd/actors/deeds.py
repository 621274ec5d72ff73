"""What an actor does besides recording events: each decides what changes, and changes nothing itself."""

import math
from typing import Any, Final

import msgspec

from tallyd.actors.messages import Change, ChangeProfile, Introduce, Subscribe
from tallyd.actors.runtime import Runtime
from tallyd.engine.account import Account, Changes
from tallyd.engine.billing import changing
from tallyd.engine.credits.draft import Draft
from tallyd.engine.credits.granting import include, pool_for
from tallyd.engine.rating import PricedPlan
from tallyd.model.catalog import CreditModel
from tallyd.model.customer import Customer, CustomerRef, RefKind
from tallyd.model.periods import local_date, midnight
from tallyd.model.problems import Code, Problem, ProblemError, not_found
from tallyd.model.subscription import Subscription

_CHANGE: Final = "`tallyd subscriptions change` or POST /api/v1/client/subscriptions/ID/plan-change"

DUES_A_SLICE: Final = 25
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


def subscription_for(message: Subscribe, account: Account, runtime: Runtime, now: int) -> Subscription:
    """Return the subscription that is asked for.

    Raises:
        ProblemError: the customer is on the plan already.
    """
    terms, plan = message.terms, message.terms.plan
    starts_at = terms.starts_at
    if starts_at is None:
        starts_at = midnight(local_date(now, terms.zone), terms.zone)
    if any(
        each.plan.key == plan.key and (each.subscription.ends_at or math.inf) > starts_at
        for each in account.enrolments
    ):
        text = f"the customer is already subscribed to {plan.key}; put it on another plan with {_CHANGE}"
        raise ProblemError(Problem(code=Code.CONFLICT, message=text))
    if terms.trial_days is not None:
        plan = msgspec.structs.replace(plan, trial_days=terms.trial_days)
    phase, trial_ends_at = changing.first_phase(
        plan, starts_at=starts_at, anchor_day=terms.anchor_day, zone=terms.zone
    )
    return Subscription(
        number=next(runtime.sequences.subscriptions),
        id=runtime.new_uuid(),
        customer=account.customer.number,
        starts_at=starts_at,
        ends_at=None if terms.periods is None else phase.cycle.end_of(terms.periods),
        created_at=now,
        phases=[phase],
        trial_ends_at=trial_ends_at,
        grace_days=plan.grace_days if terms.grace_days is None else terms.grace_days,
        metadata=terms.metadata,
    )


def subscribe(
    account: Account, subscription: Subscription, plan: PricedPlan, runtime: Runtime, now: int
) -> Changes:
    """Put the customer on a plan, with its first invoice and the credits it includes.

    Raises:
        ProblemError: it starts too long ago, or needs a credit model that is not there.
    """
    draft = Draft(account, now, runtime.sequences.events.__next__)
    changing.subscribe(draft, subscription, plan)
    for included in plan.credits:
        model = runtime.catalogue.credit_models.get(included.credit_model)
        if model is None:
            raise not_found(f"the plan includes credits of {included.credit_model!r}, which is not in the catalog")
        include(draft, draft.enrolment_at(subscription.number, now), included, model)
    for model in _paying_models(plan, runtime):
        pool_for(draft, model)  # empty: what only credits pay for is not free until the first are there
    changes = draft.changes()
    changes.customer = None if account.known else account.customer
    return changes


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


def introduce(message: Introduce, account: Account, runtime: Runtime, ref: CustomerRef, now: int) -> Changes:
    """Make the customer known.

    Raises:
        ProblemError: it is known.
    """
    if account.known:
        raise ProblemError(Problem(code=Code.CONFLICT, message=f"customer {ref.value} exists already"))
    customer = numbered(account, runtime, now)
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


def change(
    message: Change, account: Account, runtime: Runtime, now: int, prepared: Any
) -> tuple[Any, Changes | None]:
    """Change the customer's books; return the answer, and what changes: None for nothing.

    Raises:
        ProblemError: what is asked is refused.
    """
    draft = Draft(account, now, runtime.sequences.events.__next__)
    answer = message.decide(draft, prepared)
    return answer, draft.changes() if draft.changed else None
