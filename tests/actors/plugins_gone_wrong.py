"""Pricing models as strangers write them: they raise, return nonsense, hang, or scribble on what is lent."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

from tallyd.pricing import UNITS, PricingModel, Step, Terms, Usage, hookimpl


class NoTerms(Terms, frozen=True):
    """Nothing to agree on."""


class Strange(PricingModel[NoTerms]):
    """Answers with whatever a function gives."""

    terms = NoTerms

    def __init__(self, name: str, answer: Callable[[Usage, Usage], Any]) -> None:
        self.name = name  # type: ignore[misc]
        self._answer = answer

    def rate(self, terms: NoTerms, usage: Usage) -> Sequence[Step]:  # noqa: ARG002
        """Explain nothing."""
        return []

    def marginal(self, terms: NoTerms, before: Usage, quantity: Usage) -> Decimal:  # noqa: ARG002
        """Answer."""
        answer: Decimal = self._answer(before, quantity)
        return answer


def plugin(*models: PricingModel[Any]) -> object:
    """A plugin that offers these models."""

    class Plugin:
        @hookimpl
        def tallyd_pricing_models(self) -> Iterable[PricingModel[Any]]:
            return models

    return Plugin()


def catalog(*names: str) -> str:
    """A plan for each model, named after it, and a plain one."""
    plans = [("plain", '"usage", usage_unit_type = "u", price_per_unit = "0.10"')]
    plans += [(name, f'"{name}"') for name in names]
    return '[[features]]\nkey = "api"\n' + "".join(
        f'[[plans]]\nkey = "{key}"\nname = "{key}"\n[[plans.features]]\nfeature = "api"\n'
        f"pricing = {{ model = {pricing} }}\n"
        for key, pricing in plans
    )


def raising(_before: Usage, _quantity: Usage) -> Any:
    """Raise."""
    raise RuntimeError("a stranger's mistake")


def leaving(_before: Usage, _quantity: Usage) -> Any:
    """Try to end the process."""
    raise SystemExit(3)


def scribbling(before: Any, quantity: Any) -> Any:
    """Write on what was only lent."""
    before[UNITS] = Decimal(10**6)
    quantity[UNITS] = Decimal(10**6)
    return Decimal(0)


def sleeping(_before: Usage, _quantity: Usage) -> Any:
    """Take two seconds."""
    time.sleep(2)
    return Decimal(1)


class Gate:
    """Holds every call until it is opened, and counts those that came."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.calls = threading.Semaphore(0)

    def __call__(self, _before: Usage, quantity: Usage) -> Any:
        """Wait for the gate, then charge one a unit."""
        self.calls.release()
        self.open.wait(20)
        return quantity[UNITS]


class Alternating:
    """The largest amount that is let through, then the smallest."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)

    def __call__(self, _before: Usage, _quantity: Usage) -> Any:
        """Answer the next."""
        return self._answers.pop(0) if self._answers else Decimal(0)
