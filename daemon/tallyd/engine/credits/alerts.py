"""Alerts: a balance that fell below its mark, or to nothing. They go on the outbox with what caused them."""

from collections.abc import Callable, Mapping
from typing import Final

from tallyd.engine.credits.book import Alert
from tallyd.model.credits import Pool
from tallyd.model.event import event_uuid
from tallyd.model.ledger_entries import json_text, text

BALANCE_LOW: Final = "credit.balance_low"
DEPLETED: Final = "credit.depleted"


def alerts_of(
    before: Mapping[int, Pool],
    after: Mapping[int, Pool],
    customer: int,
    now: int,
    number: Callable[[], int],
) -> list[Alert]:
    """Say which balances one decision brought below their mark, or to nothing.

    Args:
        before: the pools as they were.
        after: those that changed.
        customer: row number of the customer.
        now: microseconds UTC.
        number: gives alerts their numbers.
    """
    alerts = []
    for pool in after.values():
        was = before.get(pool.number)
        if was is None or pool.balance >= was.balance:
            continue
        mark = pool.model.low_at
        if not pool.balance:
            alerts.append(Alert(number(), customer, DEPLETED, now, _body(pool)))
        elif mark is not None and pool.balance < mark <= was.balance:
            alerts.append(Alert(number(), customer, BALANCE_LOW, now, _body(pool)))
    return alerts


def _body(pool: Pool) -> str:
    mark = pool.model.low_at
    body = {
        "poolId": event_uuid(pool.number),
        "creditModel": pool.model.key,
        "denomination": pool.model.denomination,
        "balance": text(pool.balance),
        "threshold": None if mark is None else text(mark),
    }
    return json_text(body)
