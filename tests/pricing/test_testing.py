"""The helper for plugin authors must find every way to break the law."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest

from tallyd.model.money import ZERO
from tallyd.pricing import UNITS, PricingModel, Step, Terms, TermsError, Unpriced, Usage
from tallyd.pricing.testing import check_law

EVENTS: list[Usage] = [{UNITS: Decimal(2)}, {UNITS: Decimal("0.5")}, {UNITS: Decimal(-1)}]


class PriceTerms(Terms, frozen=True):
    """A price for each unit."""

    price: Decimal = Decimal("0.10")


class Fair(PricingModel[PriceTerms]):
    """Keeps the law, with the marginal it inherits."""

    name = "fair"
    terms = PriceTerms

    def check(self, terms: PriceTerms) -> None:
        """Refuse a price below zero."""
        if terms.price < ZERO:
            raise TermsError("price", "must not be negative")

    def rate(self, terms: PriceTerms, usage: Usage) -> Sequence[Step]:
        """Units times price."""
        units = usage.get(UNITS, ZERO)
        return [self.step(units, terms.price, units * terms.price)]

    @staticmethod
    def step(quantity: Any, unit_price: Any, amount: Any, words: str = "units") -> Step:
        """Make a step, of wrong types too."""
        return Step(words=words, dimension=UNITS, quantity=quantity, unit_price=unit_price, amount=amount)


class Forgetful(Fair):
    """Charges each event as if it were the first two."""

    def marginal(self, terms: PriceTerms, before: Usage, quantity: Usage) -> Decimal:
        """Forget everything after two units."""
        return ZERO if before.get(UNITS, ZERO) >= 2 else super().marginal(terms, before, quantity)


class Binary(Fair):
    """Computes the marginal with floats."""

    def marginal(self, terms: PriceTerms, before: Usage, quantity: Usage) -> Any:  # noqa: ARG002
        """Lose digits."""
        return float(quantity[UNITS]) * float(terms.price)


class Endless(Fair):
    """Charges without end."""

    def marginal(self, terms: PriceTerms, before: Usage, quantity: Usage) -> Decimal:  # noqa: ARG002
        """Return no number that can be billed."""
        return Decimal("inf")


class Meddling(Fair):
    """Changes what it is given."""

    def marginal(self, terms: PriceTerms, before: Usage, quantity: Usage) -> Decimal:
        """Write into the usage."""
        before[UNITS] = ZERO  # type: ignore[index]
        return super().marginal(terms, before, quantity)


class Odd(Fair):
    """Rates with a step that has one thing wrong."""

    def __init__(self, **wrong: Any) -> None:
        self.wrong = wrong

    def rate(self, terms: PriceTerms, usage: Usage) -> Sequence[Step]:
        """Put the wrong value in the right place."""
        units = usage.get(UNITS, ZERO)
        return [self.step(**{"quantity": units, "unit_price": None, "amount": units * terms.price} | self.wrong)]

    def marginal(self, terms: PriceTerms, before: Usage, quantity: Usage) -> Decimal:  # noqa: ARG002
        """Be right, so that only the step is wrong."""
        return quantity[UNITS] * terms.price


class Picky(Fair):
    """Prices whole units only, and may or may not say so in its rating."""

    def __init__(self, *, visible: bool) -> None:
        self.visible = visible

    def rate(self, terms: PriceTerms, usage: Usage) -> Sequence[Step]:
        """Leave the amount out, when visible, of a quantity that is not whole."""
        units = usage.get(UNITS, ZERO)
        if units % 1 and self.visible:
            return [self.step(units, None, None)]
        return super().rate(terms, {UNITS: units // 1})

    def marginal(self, terms: PriceTerms, before: Usage, quantity: Usage) -> Decimal:
        """Refuse parts of a unit."""
        if quantity[UNITS] % 1:
            raise Unpriced("not a whole unit")
        return super().marginal(terms, before, quantity)


def test_a_lawful_model_passes_and_its_charge_is_returned() -> None:
    """A model that keeps the law passes, and the helper returns what the events cost together."""
    assert check_law(Fair(), PriceTerms(), EVENTS) == Decimal("0.15")


def test_no_events_cost_nothing() -> None:
    """An empty period costs zero."""
    assert check_law(Fair(), PriceTerms(), []) == 0


def test_a_marginal_that_does_not_add_up_is_named() -> None:
    """The first event whose marginal breaks the sum is named, with both numbers."""
    with pytest.raises(AssertionError, match=r"event 2, \{units: 0.5\} after \{units: 2\}.* 0\.20.* 0\.250"):
        check_law(Forgetful(), PriceTerms(), EVENTS)


def test_a_float_is_refused() -> None:
    """A marginal that is a float is refused even where its value is right."""
    with pytest.raises(AssertionError, match=r"marginal of event 1.* of type float: it must be a Decimal"):
        check_law(Binary(), PriceTerms(price=Decimal("0.5")), EVENTS)


def test_a_charge_must_be_finite() -> None:
    """Infinity is a Decimal, but not a charge."""
    with pytest.raises(AssertionError, match=r"marginal of event 1.* is Infinity: it must be finite"):
        check_law(Endless(), PriceTerms(), EVENTS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"amount": 0.2}, "amount of rate.* of type float"),
        ({"amount": Decimal("nan")}, "amount of rate.* is NaN: it must be finite"),
        ({"quantity": 2}, "quantity of rate.* of type int"),
        ({"unit_price": 0.1}, "unit_price of rate.* of type float"),
        ({"words": " "}, "must explain itself in words"),
    ],
)
def test_every_part_of_a_step_is_looked_at(wrong: dict[str, Any], message: str) -> None:
    """A step with a wrong number, or without words, is refused, naming the part."""
    with pytest.raises(AssertionError, match=message):
        check_law(Odd(**wrong), PriceTerms(), EVENTS)


def test_the_model_cannot_change_what_it_is_given() -> None:
    """Usage is read-only: a model that writes into it fails at once, not in production."""
    with pytest.raises(TypeError, match="does not support item assignment"):
        check_law(Meddling(), PriceTerms(), EVENTS)


def test_unpriced_events_are_left_out() -> None:
    """An event the model will not price counts nothing, as long as a rating shows it without an amount."""
    assert check_law(Picky(visible=True), PriceTerms(), EVENTS) == Decimal("0.10")


def test_an_unpriced_event_must_be_visible() -> None:
    """A model that raises Unpriced must not rate the same usage as if nothing were missing."""
    with pytest.raises(AssertionError, match=r"event 2.*raises Unpriced, but rate"):
        check_law(Picky(visible=False), PriceTerms(), EVENTS)


def test_bad_terms_are_refused_first() -> None:
    """Terms go through the model's own check before any event."""
    with pytest.raises(TermsError, match="price: must not be negative"):
        check_law(Fair(), PriceTerms(price=Decimal(-1)), EVENTS)
