"""Cost, revenue and margin over a time range, from the roll-ups."""

import sqlite3
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec

from tallyd.engine.rollups import COST_CURRENCY
from tallyd.model.money import ZERO

GroupBy = Literal["CUSTOMER", "FEATURE", "MODEL", "MODEL_PROVIDER", "EVENT_NAME"]
GROUPS_MAX: Final = 10_000

_COLUMN: Final[dict[str, str]] = {
    "CUSTOMER": "rollups.customer",
    "FEATURE": "feature",
    "MODEL": "model",
    "MODEL_PROVIDER": "provider",
    "EVENT_NAME": "rollups.name",
}


class UsageGroup(msgspec.Struct, kw_only=True, rename="camel"):
    """Sums of one group in one currency, exact.

    Attributes:
        key: the customer's reference, feature, model, provider or event name; empty when events had none.
        currency: of revenue and margin; costs are in USD.
        margin: revenue minus cost; None where there is a cost and the revenue is in another currency.
    """

    key: str
    currency: str
    events: int = 0
    units: Decimal = ZERO
    input_tokens: Decimal = ZERO
    output_tokens: Decimal = ZERO
    cost: Decimal = ZERO
    revenue: Decimal = ZERO
    margin: Decimal | None = None
    unpriced_events: int = 0


def usage_by(
    connection: sqlite3.Connection, group_by: GroupBy, start: int, end: int, customer: int | None = None
) -> list[UsageGroup]:
    """Sum the hours in `[start, end)` by group and currency, of all customers or one; largest cost first.

    Sums are made here and not in SQL, for SQL has no exact decimals.
    """
    rows = connection.execute(
        f"SELECT {_COLUMN[group_by]}, currency, events, units, input_tokens, output_tokens, cost, revenue,"
        " unpriced FROM rollups WHERE hour >= ? AND hour < ? AND (? IS NULL OR rollups.customer = ?)",
        (start, end, customer, customer),
    )
    groups: dict[tuple[Any, str], UsageGroup] = {}
    for key, currency, events, units, input_tokens, output_tokens, cost, revenue, unpriced in rows:
        group = groups.get((key, currency))
        if group is None:
            group = groups[key, currency] = UsageGroup(key=str(key), currency=currency)
        group.events += events
        group.units += Decimal(units)
        group.input_tokens += Decimal(input_tokens)
        group.output_tokens += Decimal(output_tokens)
        group.cost += Decimal(cost)
        group.revenue += Decimal(revenue)
        group.unpriced_events += unpriced
    for group in groups.values():
        if group.currency == COST_CURRENCY or not group.cost:
            group.margin = (group.revenue - group.cost) or ZERO
    if group_by == "CUSTOMER":
        _name_customers(connection, groups)
    return sorted(groups.values(), key=lambda group: (-group.cost, -group.revenue, group.key))


def _name_customers(connection: sqlite3.Connection, groups: dict[tuple[Any, str], UsageGroup]) -> None:
    numbers = msgspec.json.encode(sorted({number for number, _ in groups})).decode()
    names = dict(
        connection.execute(
            "SELECT number, coalesce(reference, stripe_id, customers.id) FROM json_each(?) AS wanted"
            " CROSS JOIN customers ON number = wanted.value",
            (numbers,),
        )
    )
    for (number, _), group in groups.items():
        group.key = names[number]
