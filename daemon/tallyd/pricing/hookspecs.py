"""The hooks a plugin may implement. These docstrings are the whole contract."""

from collections.abc import Iterable
from typing import Any

import pluggy

from tallyd.pricing.prices import ProviderPrices
from tallyd.pricing.seam import PricingModel

hookspec = pluggy.HookspecMarker("tallyd")
hookimpl = pluggy.HookimplMarker("tallyd")


@hookspec
def tallyd_pricing_models() -> Iterable[PricingModel[Any]]:  # type: ignore[empty-body]
    """Offer pricing models to the plans of the catalog.

    Called once, at start, for every plugin; all answers are used. Each model's `name` must be its own: two
    plugins offering the same name stop the daemon with an error that names both. Return instances, not
    classes. Models hold no state: tallyd calls one instance for all customers, from several threads.

    How the models are then called:

    - `terms` is read from the plan when the plan is written, then `check(terms)`, `limit(terms)` and
      `accumulates(terms)` are called once. An error there refuses the catalog, naming the plan and the key.
    - `marginal(terms, before, quantity)` is called once for each event. Quantities are `Decimal`, exact. It
      returns the exact charge in the plan's currency, or raises `Unpriced`.
    - `rate(terms, usage)` is called when somebody asks for an explanation, and by `tallyd verify`. At most
      10,000 steps, each a `Step` with `words` and `dimension` of at most 1,000 characters that UTF-8 can carry.

    Amounts and quantities are `Decimal` itself, not a subclass, finite, of at most 125 characters, and between
    1E-60 and 1E+60 in magnitude. Other answers are no answers.

    A model named in `[plugins] inline` is called on the daemon's own thread and must answer in microseconds:
    so are the four that come with tallyd. Any other is called on a worker thread with a time budget
    (`[plugins] budget_ms`; ten of them for an explanation or a re-rating). A model that raises, whatever it
    raises, runs out of time, or returns anything else leaves the event recorded and counted, but unpriced, with
    the reason; an explanation names the problem instead of the steps. Nobody else notices. A model that keeps
    more than two threads it was abandoned in is not asked until one comes back. An inline model is trusted in
    one more thing: a KeyboardInterrupt of its own ends the daemon, as a person's does.

    A plugin that fails at start, when it is imported or asked for its models, stops the daemon with an error
    that names it.
    """


@hookspec(firstresult=True)
def tallyd_provider_prices(model: str, provider: str | None) -> ProviderPrices | None:
    """Say what a provider charges for a model.

    Args:
        model: as the event named it, case kept.
        provider: as the event named it, or None: guess it from the model.

    Return the model's whole price history, or None to let the next plugin answer. The first answer stops the
    chain. When all return None the model is unknown: events that use it are recorded as unpriced.

    Called on a worker thread, once for each (model, provider) until the next catalog reload; the answer is
    remembered, misses included. It may be slow, up to ten seconds, but it must not need the network: a sidecar
    must price with the network down. A plugin that raises, or takes longer, leaves the model unknown. Prices are
    in USD per million tokens. The operator's own `[[model_prices]]` are asked before all plugins, the global
    table of the `genai-prices` package after all.
    """
