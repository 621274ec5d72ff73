"""Finding plugins, and refusing at start what would only fail later."""

import inspect
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import pluggy

from tallyd.pricing import global_table, hookspecs
from tallyd.pricing.prices import ProviderPrices
from tallyd.pricing.seam import PricingModel, Terms

ENTRY_POINT_GROUP: Final = "tallyd"


class PluginError(Exception):
    """A plugin that cannot be used; the message says which and why."""


class Registry:
    """The pricing models and provider prices of all plugins.

    Args:
        inline: names of the models called on the daemon's own thread.
        disabled: names of plugins not to load.
        extra: plugin objects to register beside those found by entry point.
    """

    def __init__(
        self, *, inline: Iterable[str] = (), disabled: Iterable[str] = (), extra: Iterable[object] = ()
    ) -> None:
        manager = pluggy.PluginManager("tallyd")
        manager.add_hookspecs(hookspecs)
        for name in disabled:
            manager.set_blocked(name)
        manager.load_setuptools_entrypoints(ENTRY_POINT_GROUP)
        for plugin in extra:
            manager.register(plugin)
        manager.register(global_table, "genai-prices")
        self._manager = manager
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
        """Ask the plugins for a model's prices. May be slow; see the hook's contract."""
        answer = self._manager.hook.tallyd_provider_prices(model=model, provider=provider)
        if answer is not None and not isinstance(answer, ProviderPrices):
            raise PluginError(f"tallyd_provider_prices returned {type(answer).__name__}, not ProviderPrices")
        return answer

    def _check_hooks(self) -> None:
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise PluginError(f"{error}; see tallyd.pricing.hookspecs for the hooks there are") from None
        for name, plugin in self._manager.list_name_plugin():
            for caller in self._manager.get_hookcallers(plugin) or ():
                for implementation in caller.get_hookimpls():
                    if inspect.iscoroutinefunction(implementation.function):
                        raise PluginError(f"plugin {name}: {caller.name} is async; hooks are plain functions")

    def _collect_models(self) -> dict[str, PricingModel[Any]]:
        models: dict[str, PricingModel[Any]] = {}
        for implementation in self._manager.hook.tallyd_pricing_models.get_hookimpls():
            offered: Iterable[object] = implementation.function()  # type: ignore[assignment]
            for model in offered:
                if not isinstance(model, PricingModel):
                    text = f"{model!r} is not an instance of tallyd.pricing.PricingModel"
                    raise PluginError(f"plugin {implementation.plugin_name}: {text}")
                problem = _model_problem(model)
                if problem:
                    raise PluginError(f"plugin {implementation.plugin_name}: {problem}")
                if model.name in models:
                    raise PluginError(
                        f"plugin {implementation.plugin_name}: pricing model {model.name!r} is already offered by"
                        f" {type(models[model.name]).__module__}"
                    )
                models[model.name] = model
        return models


def _model_problem(model: PricingModel[Any]) -> str | None:
    if not isinstance(getattr(model, "name", None), str) or not model.name:
        return f"{type(model).__name__} has no name"
    terms = getattr(model, "terms", None)
    if not (isinstance(terms, type) and issubclass(terms, msgspec.Struct) and issubclass(terms, Terms)):
        return f"{model.name}: terms is not a subclass of tallyd.pricing.Terms"
    if inspect.iscoroutinefunction(model.rate) or inspect.iscoroutinefunction(model.marginal):
        return f"{model.name}: rate and marginal are plain functions, not async"
    return None
