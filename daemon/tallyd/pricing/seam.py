"""A pricing model: terms in, priced steps out. Pure: no I/O, no clock, no randomness, no floats."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from decimal import Decimal
from enum import StrEnum
from typing import ClassVar, Final, Generic, Literal, TypeVar

import msgspec

from tallyd.model.money import ZERO, number_problem

Dimension = str
"""What is counted: `units`, or a token kind and model such as `input/gpt-4o`, or `cost/gpt-4o`."""

Usage = Mapping[Dimension, Decimal]
"""Quantity by dimension, to be read only. An absent dimension is zero."""

UNITS: Final = "units"

TermsT = TypeVar("TermsT", bound="Terms")


class Measure(StrEnum):
    """Which quantities of an event a model prices.

    UNITS: one dimension, `units`: what the meter counted, or `usageUnits` where the feature has no meter.
    TOKENS: `input/MODEL`, `output/MODEL`, `cache_read/MODEL`, `cache_write/MODEL`, `reasoning/MODEL` from the
    event's costInput, and `cost/MODEL`, the provider cost, when it is known. MODEL is empty when not sent.
    """

    UNITS = "units"
    TOKENS = "tokens"


class Terms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a model's terms; read from a plan's `pricing` table, without its `model` key.

    Field names are the TOML and JSON keys. Unknown keys and wrong types are refused when the plan is written.
    mypy wants `frozen=True` again on every subclass.
    """


class CappedTerms(Terms, frozen=True, kw_only=True):
    """Terms that most models share.

    Attributes:
        max_usage: most units in a period; 0 or absent for no cap.
        reset_mode: `reset` counts anew in each period, `accumulate` counts for ever.
    """

    max_usage: Decimal | None = None
    reset_mode: Literal["reset", "accumulate"] = "reset"


class Step(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One line of an explanation: `quantity` at `unit_price`, giving `amount`.

    Attributes:
        words: explains the step to the person who pays, such as `1,000 units in tier 1 (up to 1,000)`.
        dimension: what was counted.
        quantity: how much of it.
        unit_price: exact price of one, in the plan's currency; None for a flat fee or an unpriced step.
        amount: exact, never rounded; None when the quantity has no price, which is not the same as zero.
    """

    words: str
    dimension: Dimension
    quantity: Decimal
    unit_price: Decimal | None
    amount: Decimal | None


class TermsError(Exception):
    """Terms that cannot be priced; `field` is the key to blame, such as `tiers[1].up_to`."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


def check_not_negative(field: str, value: Decimal | None) -> None:
    """Refuse a number that is negative or cannot be kept exactly; None passes.

    Raises:
        TermsError: names the key.
    """
    if value is None:
        return
    problem = number_problem(value)
    if problem or value < ZERO:
        raise TermsError(field, problem or "must not be negative")


class Unpriced(Exception):
    """Raised by a model for usage that has no price. The event is kept, visible, and can be re-rated."""


class PricingModel(ABC, Generic[TermsT]):
    """How one kind of price works. Make a subclass, give it to `tallyd_pricing_models`.

    The law: over a period, the sum of `marginal` of every event equals the sum of the amounts of `rate` over
    the period's whole usage, in any order of events. The default `marginal` keeps the law by construction.
    An event that was unpriced for a passing reason stays in the usage, and its own charge follows when it is
    re-rated: from the same `before` as it had.
    """

    name: ClassVar[str]
    """What a plan writes in `pricing.model`."""

    terms: type[TermsT]
    """The Struct a plan's pricing table is read into."""

    measure: ClassVar[Measure] = Measure.UNITS
    """Which quantities of an event are priced."""

    def check(self, terms: TermsT) -> None:
        """Refuse terms that types alone cannot refuse.

        Raises:
            TermsError: names the key and says what it should be.
        """

    def limit(self, terms: TermsT) -> Decimal | None:
        """Return the most units a customer may use in a period (or ever, when `accumulates`), or None.

        The default reads `max_usage`, where 0 means no limit, as in Tanso's plans.
        """
        limit: Decimal | None = getattr(terms, "max_usage", None)
        return limit or None

    def prices_cost(self, terms: TermsT) -> bool:  # noqa: ARG002 - for models that do
        """Whether provider cost, which is in USD, becomes part of the charge: such a plan must be in USD."""
        return False

    def accumulates(self, terms: TermsT) -> bool:
        """Whether usage runs on through the periods instead of starting anew in each."""
        return bool(getattr(terms, "reset_mode", "reset") == "accumulate")

    @abstractmethod
    def rate(self, terms: TermsT, usage: Usage) -> Sequence[Step]:
        """Price a period's whole usage, as steps that a person can check by hand.

        Args:
            terms: the plan's terms.
            usage: cumulative quantities; never negative for `units` unless a `last` or `sum` meter makes it so,
                which must be priced as zero.
        """

    def marginal(self, terms: TermsT, before: Usage, quantity: Usage) -> Decimal:
        """Price one event: what `quantity` adds to the charge when `before` was already used.

        Raises:
            Unpriced: some of `quantity` has no price.
        """
        after = dict(before)
        for dimension, amount in quantity.items():
            after[dimension] = after.get(dimension, ZERO) + amount
        return total(self.rate(terms, after)) - total(self.rate(terms, before))


def total(steps: Sequence[Step]) -> Decimal:
    """Sum the priced amounts of some steps; unpriced steps add nothing."""
    return sum((step.amount for step in steps if step.amount is not None), ZERO)


def token_dimension(kind: str, model: str) -> Dimension:
    """`input`, `gpt-4o` -> `input/gpt-4o`."""
    return f"{kind}/{model}"


def split_dimension(dimension: Dimension) -> tuple[str, str]:
    """`input/gpt-4o` -> (`input`, `gpt-4o`); `units` -> (`units`, ``)."""
    kind, _, model = dimension.partition("/")
    return kind, model
