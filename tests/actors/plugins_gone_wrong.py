"""Pricing models as strangers write them: they raise, return nonsense, hang, or scribble on what is lent."""

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

import trio

from tallyd.pricing import UNITS, PricingModel, ProviderPrices, Step, Terms, Usage, hookimpl


class NoTerms(Terms, frozen=True):
    """Nothing to agree on."""


class Strange(PricingModel[NoTerms]):
    """Answers, and explains, with whatever a function gives."""

    terms = NoTerms

    def __init__(
        self,
        name: str,
        answer: Callable[[Usage, Usage], Any],
        explain: Callable[[Usage, Usage], Any] = lambda *_: [],
    ) -> None:
        self.name = name  # type: ignore[misc]
        self._answer = answer
        self._explain = explain

    def rate(self, terms: NoTerms, usage: Usage) -> Sequence[Step]:  # noqa: ARG002
        """Explain."""
        explained: Sequence[Step] = self._explain({}, usage)
        return explained

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


def price_plugin(answer: Callable[[str, str | None], Any]) -> object:
    """A plugin that is asked what providers charge."""

    class Plugin:
        @hookimpl
        def tallyd_provider_prices(self, model: str, provider: str | None) -> ProviderPrices | None:
            prices: ProviderPrices | None = answer(model, provider)
            return prices

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


class Odd(BaseException):
    """What no `except Exception` catches."""


FATAL: dict[str, Callable[[], BaseException]] = {
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "SystemExit": SystemExit,
    "of its own": Odd,
    "Cancelled": lambda: trio.Cancelled._create(source="deadline"),
}
"""What would end the daemon if it came out of a thread as it is."""


class Fatal:
    """Raises one of these, wherever it is called."""

    def __init__(self, name: str) -> None:
        self._make = FATAL[name]

    def __call__(self, *_arguments: Any) -> Any:
        """Raise."""
        raise self._make()


class StrangeDecimal(Decimal):
    """A number that breaks whatever touches it."""

    def is_finite(self) -> bool:
        """Raise."""
        raise RuntimeError("a stranger's number")


class StrangeText(str):
    """A text that breaks whatever sends it."""

    __slots__ = ()

    def encode(self, *_arguments: Any) -> bytes:
        """Raise."""
        raise RuntimeError("a stranger's text")


def step(**fields: Any) -> Step:
    """A good step, but for some fields."""
    good = {"words": "w", "dimension": UNITS, "quantity": Decimal(1), "unit_price": None, "amount": Decimal(1)}
    return Step(**{**good, **fields})


def endless(_before: Usage, _quantity: Usage) -> Any:
    """Explain for ever."""
    return itertools.repeat(step())


def fair(_before: Usage, quantity: Usage) -> Any:
    """Charge two a unit."""
    return quantity[UNITS] * 2


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


def called(alternating: Alternating) -> Callable[[Usage, Usage], Any]:
    """Answer with the next answer, or with what it answers when it is a function."""

    def answer(before: Usage, quantity: Usage) -> Any:
        given = alternating(before, quantity)
        return given(before, quantity) if callable(given) else given

    return answer
