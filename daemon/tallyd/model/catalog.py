"""The catalog: features, meters and plans, in the shape they have in `catalog.toml`.

Field names here are the TOML keys. Numbers may be TOML numbers or strings; both are read exactly.
"""

from decimal import Decimal
from typing import Any, Literal

import msgspec

Operator = Literal[
    "equals",
    "not_equals",
    "greater_than",
    "greater_than_or_equals",
    "less_than",
    "less_than_or_equals",
    "contains",
    "does_not_contain",
]
AggregationType = Literal["count", "sum", "max", "last", "unique"]
LateEvents = Literal["adjust", "reopen", "refuse"]
"""What becomes of an event whose period is invoiced: charged on the next invoice; put on the invoice itself while
it is due; not taken."""
PlanStatus = Literal["DRAFT", "ACTIVE", "ARCHIVED"]
BillingTiming = Literal["IN_ADVANCE", "IN_ARREARS"]


class _Definition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An unknown key is an error, so that a misspelt one is noticed."""


class Clause(_Definition, frozen=True, kw_only=True):
    """One comparison of a metadata value. An event that lacks `key` does not match."""

    key: str
    operator: Operator
    value: Any


class Filter(_Definition, frozen=True, kw_only=True):
    """Clauses, or further filters, joined by and/or; at most three levels deep (CONTRACTS 2.3)."""

    conjunction: Literal["and", "or"]
    clauses: list[dict[str, Any]]


class Aggregation(_Definition, frozen=True, kw_only=True):
    """How a meter turns events into a quantity. `key` names a metadata field, or is `usageUnits`."""

    type: AggregationType
    key: str | None = None


class Feature(_Definition, frozen=True, kw_only=True):
    """Something a plan prices and an entitlement gates."""

    key: str
    name: str | None = None
    description: str | None = None


class Meter(_Definition, frozen=True, kw_only=True):
    """Counts the events named `event_name` that pass `filter`.

    `late_events` holds for plan features counted by it that do not say otherwise.
    """

    key: str
    event_name: str
    aggregation: Aggregation
    name: str | None = None
    description: str | None = None
    measurement_unit: str = "units"
    filter: Filter | None = None
    late_events: LateEvents | None = None


class PlanFeature(_Definition, frozen=True, kw_only=True):
    """One feature of a plan: how it is counted, priced and what it costs us.

    `pricing` is `{model = "...", ...terms}`; which terms a model takes is the model's own affair
    (see plugins/). Absent pricing means included. `cost` has the shapes of CONTRACTS 1.6. With `credit_model`
    only pools of that model pay for it; with `units_per_credit` so many units cost one credit (Dodo's
    `meter_units_per_credit`), and weights are not asked. Where `late_events` is absent its meter's counts, and
    where that is absent too, `adjust`.
    """

    feature: str
    meter: str | None = None
    pricing: dict[str, Any] = {}
    cost: dict[str, Any] | None = None
    credit_model: str | None = None
    units_per_credit: Decimal | None = None
    late_events: LateEvents | None = None


class Rollover(_Definition, frozen=True, kw_only=True):
    """What becomes, at a period's end, of credits that were included with a plan; no other grants are touched.

    Attributes:
        policy: NONE: they expire. FULL: they stay. CAPPED: at most `cap` stay, the newest first. PERCENTAGE:
            `percentage` of each grant is carried over, rounded down.
        cap: for CAPPED.
        percentage: for PERCENTAGE, 0 to 100.
        expires_after_days: how long what is carried over lives; absent: as long as it would have.
        max_count: how often credits may be carried over; afterwards they are forfeited.
    """

    policy: Literal["NONE", "FULL", "CAPPED", "PERCENTAGE"] = "NONE"
    cap: Decimal | None = None
    percentage: Decimal | None = None
    expires_after_days: int | None = None
    max_count: int | None = None


class Overage(_Definition, frozen=True, kw_only=True):
    """Drawing beyond the balance (CONTRACTS 2.6). At a period's end `behavior` says what becomes of it.

    Attributes:
        limit: most overage at a time; absent: any.
        behavior: forgotten; noted as charged, to be invoiced; kept; kept, and new credits repay it first.
        price_per_unit: what a credit of overage costs.
        currency: of the price.
    """

    limit: Decimal | None = None
    behavior: Literal["forgive_at_reset", "invoice_at_billing", "carry_deficit", "carry_deficit_auto_repay"] = (
        "forgive_at_reset"
    )
    price_per_unit: Decimal | None = None
    currency: str | None = None


class TopUp(_Definition, frozen=True, kw_only=True):
    """Credits granted when what is available falls below a threshold.

    Attributes:
        below: the threshold.
        amount: credits granted.
        most_a_month: how often at most in a calendar month (UTC).
    """

    below: Decimal
    amount: Decimal
    most_a_month: int = 10


class Recurring(_Definition, frozen=True, kw_only=True):
    """Credits granted again and again: on opening the pool, then at 00:00 UTC of each day, Monday or 1st.

    Attributes:
        amount: credits granted.
        every: how often.
        expires: whether each grant ends when the next one comes.
    """

    amount: Decimal
    every: Literal["day", "week", "month"]
    expires: bool = True


class CreditModel(_Definition, frozen=True, kw_only=True):
    """The rules of a kind of credits. A pool keeps those it was opened with.

    Attributes:
        key: its name in the catalog and the API.
        name: for people; the key when absent.
        denomination: what one credit is called, such as TOKENS.
        currency: ISO 4217, where credits are money.
        charge: what usage costs: `units`, its units times their weight; `price`, what the plan would charge, in
            `currency`; `nothing`, the pool is drawn by deductions only (a wallet).
        hard_limit: usage that the pools cannot pay for is refused; else it is billed by the plan.
        features: what pools of this kind pay for; empty: all features of the plan.
        only_named: they pay for nothing but plan features that name this model as their `credit_model`.
        precision: digits after the decimal point that a charge is rounded to, half up; absent: exact.
        burn_order: `expiry`: by priority, then earliest expiry, then age. `fifo`: by age.
        draw_priority: pools with a lower one are drawn first.
        expires_after_days: how long a grant lives when it says nothing itself.
        rollover: see `Rollover`.
        overage: drawing beyond the balance; absent: not allowed.
        on_shortfall: what becomes of settled usage that exceeds its hold when nothing is free, in a hard pool:
            `bill` it by the plan, `waive` it, or `refuse` the settlement.
        low_at: balance below which an alert is given.
        top_up: see `TopUp`.
        recurring: see `Recurring`.
    """

    key: str
    name: str | None = None
    denomination: str = "CREDITS"
    currency: str | None = None
    charge: Literal["units", "price", "nothing"] = "units"
    hard_limit: bool = True
    features: list[str] = []
    only_named: bool = False
    precision: int | None = None
    burn_order: Literal["expiry", "fifo"] = "expiry"
    draw_priority: int = 0
    expires_after_days: int | None = None
    rollover: Rollover = Rollover()
    overage: Overage | None = None
    on_shortfall: Literal["bill", "waive", "refuse"] = "bill"
    low_at: Decimal | None = None
    top_up: TopUp | None = None
    recurring: Recurring | None = None


class PlanCredits(_Definition, frozen=True, kw_only=True):
    """Credits included with a plan: granted on subscribing and at the start of each period, once.

    Attributes:
        credit_model: key of the credit model; the customer gets one pool of it.
        amount: credits a period.
        expires_after_months: how long a grant lives, where the rollover policy does not end it sooner.
        draw_priority: the pool's among those of the subscription; absent: the credit model's.
        draw_limit: most credits the subscription may draw from the pool a period.
        grant_priority: which of a pool's grants are drawn first: the lower.
    """

    credit_model: str
    amount: Decimal
    expires_after_months: int | None = None
    draw_priority: int | None = None
    draw_limit: Decimal | None = None
    grant_priority: int = 0


class CreditWeight(_Definition, frozen=True, kw_only=True):
    """Credits a unit of a feature costs, or, with `kind`, a token of that kind; in force from the load on.

    The most particular one counts: feature and model, then feature, then 1 (CONTRACTS 1.7).
    """

    feature: str
    weight: Decimal
    model: str | None = None
    kind: Literal["input", "output", "cache_read", "cache_write", "reasoning"] | None = None


class CreditPrice(_Definition, frozen=True, kw_only=True):
    """What a credit of a model costs to buy; in force from the catalog's load on."""

    credit_model: str
    price: Decimal
    currency: str = "USD"


class Plan(_Definition, frozen=True, kw_only=True):
    """A pricing bundle. Editing one makes a new version; subscribers stay on theirs.

    Attributes:
        key: its name in the catalog and the API.
        name: for people.
        description: for people.
        currency: ISO 4217, of the price and of all charges.
        price_amount: what a whole period costs before usage, with no more decimals than the currency has.
        interval_months: length of a period; where days are counted it is left alone and means nothing.
        interval_days: length of a period in days (7: a week); 0: months are counted.
        billing_timing: whether a period is invoiced when it begins or when it has ended.
        trial_days: days before the first period that cost nothing.
        grace_days: days after an invoice's due date on which an unpaid customer still has access.
        status: who may subscribe: nobody yet, anybody, nobody any more.
        features: what it gates, counts and prices.
        credits: credits that come with it.
        metadata: the operator's own; shown and not read.
    """

    key: str
    name: str
    description: str | None = None
    currency: str = "USD"
    price_amount: Decimal = Decimal(0)
    interval_months: int = 1
    interval_days: int = 0
    billing_timing: BillingTiming = "IN_ADVANCE"
    trial_days: int = 0
    grace_days: int = 3
    status: PlanStatus = "ACTIVE"
    features: list[PlanFeature] = []
    credits: list[PlanCredits] = []
    metadata: dict[str, Any] = {}


class ModelPrice(_Definition, frozen=True, kw_only=True):
    """What a provider charges for a model, per million tokens, from an instant on.

    Wins over the global table. A kind without a price takes its parent's: cache reads and writes are
    input, reasoning is output.
    """

    model: str
    provider: str | None = None
    input_per_million: Decimal
    output_per_million: Decimal
    cache_read_per_million: Decimal | None = None
    cache_write_per_million: Decimal | None = None
    reasoning_per_million: Decimal | None = None
    valid_from: str | None = None


class Definitions(_Definition, frozen=True, kw_only=True):
    """The whole of `catalog.toml`."""

    features: list[Feature] = []
    meters: list[Meter] = []
    plans: list[Plan] = []
    credit_models: list[CreditModel] = []
    credit_weights: list[CreditWeight] = []
    credit_prices: list[CreditPrice] = []
    model_prices: list[ModelPrice] = []
    default_cost: dict[str, Any] | None = None
