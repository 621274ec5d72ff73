"""Plugins that cannot be used are refused at start, by name, in one line; those that can are all found."""

import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from tallyd.pricing import PricingModel, ProviderPrices, Step, Terms, Usage, hookimpl
from tallyd.pricing.registry import PluginError, Registry

BUILT_IN = {"graduated", "included", "llm_tokens", "usage"}


class Odd(BaseException):
    """What no `except Exception` catches."""


class NoTerms(Terms, frozen=True):
    """Nothing to agree on."""


class Plain(PricingModel[NoTerms]):
    """A model without fault, named as asked."""

    terms = NoTerms

    def __init__(self, name: Any = "plain", **attributes: Any) -> None:
        self.name = name  # type: ignore[misc]
        for attribute, value in attributes.items():
            setattr(self, attribute, value)

    def rate(self, terms: NoTerms, usage: Usage) -> list[Step]:  # noqa: ARG002
        """Explain nothing."""
        return []


def raises(error: BaseException) -> Callable[..., Any]:
    """A function that raises."""

    def function(*_arguments: Any) -> Any:
        raise error

    return function


class Offering:
    """A plugin whose hook does what a function does."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self._answer = answer

    @hookimpl
    def tallyd_pricing_models(self) -> Any:
        """Offer."""
        return self._answer()


class AsyncHook:
    """A hook that is a coroutine."""

    @hookimpl
    async def tallyd_pricing_models(self) -> Any:
        """Offer too late."""


class AsyncGenerator:
    """A hook that is an asynchronous generator."""

    @hookimpl
    async def tallyd_pricing_models(self) -> Any:
        """Offer too late."""
        yield Plain()


class Wrapper:
    """A hook around the others."""

    @hookimpl(wrapper=True)
    def tallyd_pricing_models(self) -> Any:
        """Wrap."""
        return (yield)


class ExtraArgument:
    """A hook that wants what it is not given."""

    @hookimpl
    def tallyd_pricing_models(self, more: Any) -> Any:
        """Offer."""
        return more


class Misspelt:
    """A hook that does not exist."""

    @hookimpl
    def tallyd_pricing_model(self) -> Any:
        """Offer to nobody."""


BAD: dict[str, tuple[object, str]] = {
    "raises": (Offering(raises(RuntimeError("boom"))), "boom"),
    "exits": (Offering(raises(SystemExit(4))), "SystemExit"),
    "base": (Offering(raises(Odd("odd"))), "Odd"),
    "none": (Offering(lambda: None), "NoneType"),
    "number": (Offering(lambda: 5), "int"),
    "endless": (Offering(lambda: repeat(Plain())), "more than"),
    "iterator that raises": (Offering(lambda: map(raises(RuntimeError("late")), [1])), "late"),
    "class": (Offering(lambda: [Plain]), "instance"),
    "twice": (Offering(lambda: [Plain(), Plain()]), "already offered"),
    "taken": (Offering(lambda: [Plain("usage")]), "already offered"),
    "no name": (Offering(lambda: [Plain("")]), "no name"),
    "name of another type": (Offering(lambda: [Plain(5)]), "no name"),
    "terms": (Offering(lambda: [Plain(terms=dict)]), "terms"),
    "measure": (Offering(lambda: [Plain(measure="bananas")]), "measure is 'bananas'"),
    "async": (AsyncHook(), "async"),
    "async generator": (AsyncGenerator(), "async"),
    "wrapper": (Wrapper(), "wrapper"),
    "extra argument": (ExtraArgument(), "more"),
    "misspelt": (Misspelt(), "tallyd_pricing_model"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_plugin_that_cannot_be_used_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The message names the plugin and says what is wrong."""
    plugin, words = BAD[name]
    entry_points(monkeypatch, FakeEntryPoint("strange", lambda: plugin))
    with pytest.raises(PluginError, match=r"^plugin strange: ") as refused:
        Registry()
    assert words in str(refused.value)


@pytest.mark.parametrize("error", [RuntimeError("boom"), ImportError("no such"), SystemExit(7), Odd("odd")])
def test_a_plugin_that_cannot_be_imported_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Whatever an import raises, `sys.exit` too; those beside it are not blamed."""
    entry_points(
        monkeypatch, FakeEntryPoint("innocent", lambda: Offering(list)), FakeEntryPoint("strange", raises(error))
    )
    with pytest.raises(PluginError, match=r"^plugin strange: ") as refused:
        Registry()
    assert type(error).__name__ in str(refused.value)


def test_a_disabled_plugin_is_not_even_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin that cannot be imported is in nobody's way once it is disabled."""
    entry_points(monkeypatch, FakeEntryPoint("strange", raises(RuntimeError("boom"))))
    assert "strange" not in Registry(disabled=["strange"]).plugin_names()


def test_an_interrupt_while_plugins_load_is_the_person_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during a slow start ends it, and blames nobody."""
    entry_points(monkeypatch, FakeEntryPoint("slow", raises(KeyboardInterrupt())))
    with pytest.raises(KeyboardInterrupt):
        Registry()


def test_a_module_that_fails_is_named_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As pip installs it: a distribution with an entry point, whose module exits on import."""
    (tmp_path / "strange_plugin.py").write_text("import sys\nsys.exit(7)\n", encoding="utf-8")
    info = tmp_path / "strange-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strange\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[tallyd]\nodd = strange_plugin\n", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(PluginError, match=r"^plugin odd: SystemExit\(7\)"):
        Registry()
    assert set(Registry(disabled=["odd"]).models) == BUILT_IN


def test_good_plugins_are_found_and_offer_their_models() -> None:
    """Those that come with tallyd by entry point, and one beside them; a generator is a fine answer."""

    def offer() -> Iterator[Any]:
        yield Plain()

    registry = Registry(extra=[Offering(offer)], inline=["usage"])
    assert set(registry.models) == BUILT_IN | {"plain"}
    assert registry.inline(registry.models["usage"])
    assert not registry.inline(registry.models["plain"])
    assert registry.models["plain"].rate(NoTerms(), {"units": Decimal(1)}) == []


class Knowing:
    """A plugin that knows prices, in its way."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        self._answer = answer

    @hookimpl
    def tallyd_provider_prices(self, model: str, provider: str | None) -> ProviderPrices | None:
        """Say what a model costs."""
        answer: ProviderPrices | None = self._answer(model, provider)
        return answer


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), SystemExit(1), KeyboardInterrupt(), GeneratorExit(), Odd("odd")]
)
def test_whatever_a_price_plugin_raises_is_a_plugin_error(error: BaseException) -> None:
    """It is called on a worker thread, from which an exit or an interrupt would end the daemon."""
    with pytest.raises(PluginError, match=type(error).__name__):
        Registry(extra=[Knowing(raises(error))]).provider_prices("model", None)


def test_a_price_plugin_that_returns_nonsense_is_a_plugin_error() -> None:
    """A dict is not a price history."""
    with pytest.raises(PluginError, match="returned dict"):
        Registry(extra=[Knowing(lambda *_: {"input": 1})]).provider_prices("model", None)


class FakeEntryPoint:
    """An entry point that loads what a function gives."""

    def __init__(self, name: str, load: Callable[[], object]) -> None:
        self.name = name
        self.load = load


def entry_points(monkeypatch: pytest.MonkeyPatch, *added: FakeEntryPoint) -> None:
    """Install plugins beside those that there are."""
    installed = [*importlib.metadata.entry_points(group="tallyd"), *added]
    monkeypatch.setattr("tallyd.pricing.registry.entry_points", lambda group: installed)  # noqa: ARG005
