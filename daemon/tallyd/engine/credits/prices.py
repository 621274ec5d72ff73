"""What credits cost to buy: scheduled prices of credit models (CONTRACTS 1.7)."""

import uuid
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Final

import msgspec

from tallyd.engine.credits.schedules import (
    Published,
    Timeline,
    amount_problem,
    invalid_field,
    publish,
    size_problem,
)
from tallyd.model.catalog import CreditPrice
from tallyd.model.money import currency_problem, plain, tidy
from tallyd.model.problems import Problem

_NAMESPACE: Final = uuid.UUID("3c1cf4b0-6a4e-5d0c-9d0f-2f7b3d1c9a52")


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the schedule: what a credit of a model costs. Fields are the columns of `credit_prices`."""

    id: str
    credit_model: str
    price: Decimal
    currency: str
    effective_from: int
    created_at: int


class Prices:
    """The whole schedule. It is never changed: publishing makes another."""

    def __init__(self, rows: Iterable[Price]) -> None:
        self.rows = sorted(rows, key=lambda row: (row.effective_from, row.credit_model, row.currency))
        grouped: dict[tuple[str, str], list[Price]] = {}
        for row in self.rows:
            grouped.setdefault((row.credit_model, row.currency), []).append(row)
        self._timelines = {key: Timeline(some) for key, some in grouped.items()}

    def current(self, credit_model: str, at: int, currency: str | None = None) -> Price | None:
        """Return the price of a credit at an instant, or None while it has none.

        Without a currency: the price that was published for the latest instant, in whatever currency.
        """
        rows = [
            row
            for row in self.in_force(at)
            if row.credit_model == credit_model and currency in (None, row.currency)
        ]
        return max(rows, key=lambda row: row.effective_from, default=None)

    def in_force(self, moment: int) -> list[Price]:
        """Return the rows in force, by credit model and currency."""
        rows = [timeline.at(moment, moment) for timeline in self._timelines.values()]
        return sorted((row for row in rows if row), key=lambda row: (row.credit_model, row.currency))

    def scheduled(self, moment: int) -> list[Price]:
        """Return the rows that begin after the moment, in order."""
        return [row for row in self.rows if row.effective_from > moment]

    def timeline(self, credit_model: str, currency: str) -> Timeline[Price]:
        """Return the prices of a credit model in one currency."""
        return self._timelines.get((credit_model, currency)) or Timeline([])


def price_id(row: Price) -> str:
    """Return a row's UUID: derived from its content, so that a changed byte shows."""
    content = "\0".join(("price", row.credit_model, plain(tidy(row.price)), row.currency, str(row.effective_from)))
    return str(uuid.uuid5(_NAMESPACE, content))


def new_price(given: CreditPrice, effective_from: int, now: int) -> Price:
    """Return the row of a price that is published now."""
    row = Price(
        id="",
        credit_model=given.credit_model,
        price=tidy(given.price),
        currency=given.currency,
        effective_from=effective_from,
        created_at=now,
    )
    return msgspec.structs.replace(row, id=price_id(row))


def publish_prices(
    held: Prices, batch: Sequence[CreditPrice], effective_from: int, now: int
) -> Published[Price] | Problem:
    """Decide a batch of prices that begin at one instant; nothing is changed here (CONTRACTS 1.2, 1.7).

    Whether the credit models exist is for the caller to know.
    """
    problem = size_problem(len(batch), "prices")
    if problem:
        return problem
    seen = set()
    for index, each in enumerate(batch):
        text = amount_problem(each.price)
        if text:
            return invalid_field(f"prices[{index}].pricePerCredit", text)
        text = currency_problem(each.currency)
        if text:
            return invalid_field(f"prices[{index}].currency", text)
        if (each.credit_model, each.currency) in seen:
            return invalid_field(f"prices[{index}]", "prices the same credit model as a row before it")
        seen.add((each.credit_model, each.currency))
    rows = [new_price(each, effective_from, now) for each in batch]
    return publish(held.rows, rows, effective_from, now=now, field="prices")


NO_PRICES: Final = Prices([])
