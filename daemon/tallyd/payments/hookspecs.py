"""The hook a payment plugin implements. Its docstring is the whole contract."""

from collections.abc import Mapping
from typing import Final

import pluggy

from tallyd.payments.seam import Checkout

PROJECT: Final = "tallyd_payments"
"""Markers of their own: one module may be a pricing plugin as well."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def tallyd_checkout(settings: Mapping[str, str]) -> Checkout | None:
    """Offer hosted checkout with a payment provider.

    Args:
        settings: the provider's own, texts by key, read-only: its table in `[payments]`, with the content of
            each file that a `…_file` key names under the key without `_file`, and what the environment
            overrides. Secrets are among them: keep them out of messages and of `repr`.

    Called once, at start, and only on the plugin whose entry point in the group `tallyd.checkout` has the name
    in `[payments] provider`; no other payment plugin is imported, so importing a large client library at the top
    of the module costs nobody else anything. Return an instance of `Checkout` that has a name, or None when there
    is nothing to offer: of several implementations in a plugin the first answer stops the chain, and when all
    return None the daemon does not start. Neither the hook nor the methods of what it returns may be async.

    It must not use the network. It should refuse settings that cannot work with `SettingsError`, which names the
    key. Whatever it raises stops the daemon with an error that names the plugin.
    """
