"""Finding the payment plugin that the settings name, and refusing at start what would only fail later."""

import inspect
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, Final

import pluggy

from tallyd.payments import hookspecs
from tallyd.payments.seam import Checkout, SettingsError

ENTRY_POINT_GROUP: Final = "tallyd.checkout"


class CheckoutPluginError(Exception):
    """A payment plugin that cannot be used; the message says which and why."""


def open_checkout(provider: str, settings: Mapping[str, str], plugin: object | None = None) -> Checkout:
    """Load a payment plugin and ask it for its checkout.

    Args:
        provider: name of an entry point in the group `tallyd.checkout`.
        settings: the provider's own; see `tallyd_checkout`.
        plugin: the plugin itself, to use instead of looking for an entry point.

    Raises:
        CheckoutPluginError: there is no such plugin, or it cannot be used.
    """
    entry_point = _find(provider) if plugin is None else None
    try:
        return _ask(provider, entry_point.load() if entry_point else plugin, settings)
    except KeyboardInterrupt:  # somebody does not want to wait for the start
        raise
    except (CheckoutPluginError, SettingsError, pluggy.PluginValidationError) as error:
        raise CheckoutPluginError(f"payment plugin {provider}: {error}") from None
    except BaseException as error:  # a stranger's code may raise anything, SystemExit too
        raise CheckoutPluginError(f"payment plugin {provider}: {error!r} when it was loaded") from error


def _find(provider: str) -> EntryPoint:
    found = entry_points(group=ENTRY_POINT_GROUP)
    for entry_point in found:
        if entry_point.name == provider:
            return entry_point
    names = ", ".join(sorted(found.names)) or "none"
    raise CheckoutPluginError(f"there is no payment plugin {provider}; installed: {names}")


def _ask(provider: str, plugin: object, settings: Mapping[str, str]) -> Checkout:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, provider)
    manager.check_pending()
    if any(_is_async(found.function) for found in manager.hook.tallyd_checkout.get_hookimpls()):
        raise CheckoutPluginError("tallyd_checkout is async; hooks are plain functions")
    checkout = manager.hook.tallyd_checkout(settings=MappingProxyType(dict(settings)))
    if not isinstance(checkout, Checkout):
        raise CheckoutPluginError(f"tallyd_checkout returned {_words(checkout)}")
    problem = _problem(checkout)
    if problem:
        raise CheckoutPluginError(problem)
    return checkout


def _words(returned: object) -> str:
    """Name what is no checkout by its type: its content may hold secrets."""
    if returned is None:
        return "nothing"
    name = f"the class {returned.__name__}" if isinstance(returned, type) else type(returned).__name__
    return f"{name}, not an instance of tallyd.payments.Checkout"


def _problem(checkout: Checkout) -> str | None:
    name = getattr(checkout, "name", None)
    if type(name) is not str or not name:
        return f"{type(checkout).__name__} has no name"
    for method in ("create_session", "close_session", "read_webhook"):
        if _is_async(getattr(checkout, method)):
            return f"{method} is async; it must be a plain method"
    return None


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
