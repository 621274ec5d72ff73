"""Finding plugins, and refusing at start what would only fail later."""

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from itertools import islice
from typing import Any, Final

import msgspec
import pluggy

from tallyd.pricing import global_table, hookspecs
from tallyd.pricing.prices import ProviderPrices
from tallyd.pricing.seam import Measure, PricingModel, Terms

ENTRY_POINT_GROUP: Final = "tallyd"
MODELS_MAX: Final = 1_000
"""Models of one plugin; an endless answer must end somewhere."""


class PluginError(Exception):
    """A plugin that cannot be used; the message says which and why."""


class Registry:
    """The pricing models and provider prices of all plugins.

    Args:
        inline: names of the models called on the daemon's own thread.
        disabled: names of plugins not to load.
        extra: plugin objects to register beside those found by entry point.

    Raises:
        PluginError: a plugin cannot be used.
    """

    def __init__(
        self, *, inline: Iterable[str] = (), disabled: Iterable[str] = (), extra: Iterable[object] = ()
    ) -> None:
        manager = pluggy.PluginManager("tallyd")
        manager.add_hookspecs(hookspecs)
        for name in disabled:
            manager.set_blocked(name)
        self._manager = manager
        self._load_entry_points()
        for plugin in extra:
            with _blaming(manager.get_canonical_name(plugin)):
                manager.register(plugin)
        manager.register(global_table, "genai-prices")
        self._check_hooks()
        self.models = self._collect_models()
        self._inline = frozenset(inline)

    def inline(self, model: PricingModel[Any]) -> bool:
        """Whether a model is called on the daemon's own thread."""
        return model.name in self._inline

    def plugin_names(self) -> list[str]:
        """Return the names of all plugins, for people."""
        return sorted(name for name, plugin in self._manager.list_name_plugin() if plugin is not None)

    def warm(self) -> None:
        """Load what is slow to load the first time."""
        global_table.tallyd_provider_prices("gpt-4o", None)

    def provider_prices(self, model: str, provider: str | None) -> ProviderPrices | None:
        """Ask the plugins for a model's prices. May be slow, so call it on a worker thread.

        Raises:
            PluginError: a plugin failed, or returned something else.
        """
        try:
            answer = self._manager.hook.tallyd_provider_prices(model=model, provider=provider)
        except BaseException as error:  # a stranger's plugin, on a thread where no interrupt is ours
            raise PluginError(f"tallyd_provider_prices failed: {error!r}") from error
        if answer is not None and not isinstance(answer, ProviderPrices):
            raise PluginError(f"tallyd_provider_prices returned {type(answer).__name__}, not ProviderPrices")
        return answer

    def _load_entry_points(self) -> None:
        """Import plugins one by one: pluggy's own loader would not say which of them failed."""
        manager = self._manager
        for entry_point in entry_points(group=ENTRY_POINT_GROUP):
            name = entry_point.name
            if manager.is_blocked(name) or manager.has_plugin(name):
                continue
            with _blaming(name):
                manager.register(entry_point.load(), name)

    def _check_hooks(self) -> None:
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            name = self._manager.get_name(error.plugin)
            text = f"plugin {name}: {error}; see tallyd.pricing.hookspecs for the hooks there are"
            raise PluginError(text) from None
        for name, plugin in self._manager.list_name_plugin():
            for caller in self._manager.get_hookcallers(plugin) or ():
                for implementation in caller.get_hookimpls():
                    if implementation.plugin is plugin and _is_async(implementation.function):
                        raise PluginError(f"plugin {name}: {caller.name} is async; hooks are plain functions")

    def _collect_models(self) -> dict[str, PricingModel[Any]]:
        models: dict[str, PricingModel[Any]] = {}
        for implementation in self._manager.hook.tallyd_pricing_models.get_hookimpls():
            with _blaming(implementation.plugin_name):
                for model in _offered(implementation):
                    if model.name in models:
                        other = type(models[model.name]).__module__
                        raise PluginError(f"pricing model {model.name!r} is already offered by {other}")
                    models[model.name] = model
        return models


@contextmanager
def _blaming(name: str) -> Iterator[None]:
    """Run a plugin's code at start: whatever it raises becomes a PluginError that names the plugin."""
    try:
        yield
    except KeyboardInterrupt:  # somebody does not want to wait for the start
        raise
    except PluginError as error:
        raise PluginError(f"plugin {name}: {error}") from None
    except pluggy.PluginValidationError as error:
        raise PluginError(
            f"plugin {name}: {error}; see tallyd.pricing.hookspecs for the hooks there are"
        ) from None
    except BaseException as error:  # a stranger's code may raise anything, SystemExit too
        raise PluginError(f"plugin {name}: {error!r} when it was loaded; disable it in [plugins]") from error


def _offered(implementation: pluggy.HookImpl) -> Iterator[PricingModel[Any]]:
    """Ask a plugin for its models, and check each.

    Raises:
        PluginError: says why they cannot be used.
    """
    if implementation.wrapper or implementation.hookwrapper:
        raise PluginError("tallyd_pricing_models is a wrapper; it must be a plain hook")
    offered: Any = implementation.function()
    if not isinstance(offered, Iterable):
        raise PluginError(f"tallyd_pricing_models returned {type(offered).__name__}, not a list of models")
    models = list(islice(offered, MODELS_MAX + 1))
    if len(models) > MODELS_MAX:
        raise PluginError(f"tallyd_pricing_models offers more than {MODELS_MAX} models")
    for model in models:
        if not isinstance(model, PricingModel):
            raise PluginError(f"{model!r} is not an instance of tallyd.pricing.PricingModel")
        problem = _model_problem(model)
        if problem:
            raise PluginError(problem)
        yield model


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _model_problem(model: PricingModel[Any]) -> str | None:
    if type(getattr(model, "name", None)) is not str or not model.name:
        return f"{type(model).__name__} has no name"
    terms = getattr(model, "terms", None)
    if not (isinstance(terms, type) and issubclass(terms, msgspec.Struct) and issubclass(terms, Terms)):
        return f"{model.name}: terms is not a subclass of tallyd.pricing.Terms"
    if type(model.measure) is not Measure:
        return f"{model.name}: measure is {model.measure!r}, not a tallyd.pricing.Measure"
    if _is_async(model.rate) or _is_async(model.marginal):
        return f"{model.name}: rate and marginal are plain functions, not async"
    return None
