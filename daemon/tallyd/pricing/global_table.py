"""The global table: dated prices of the `genai-prices` package, which needs no network.

A plugin like any other, asked last. The package takes most of a second to import, so it is imported when the
first price is wanted, and on the worker thread that wants it.
"""

from __future__ import annotations

from datetime import UTC, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from tallyd.model.moments import DAY_US, EPOCH, to_micros
from tallyd.pricing.hookspecs import hookimpl
from tallyd.pricing.prices import DatedPrices, ProviderPrices, TokenPrices

if TYPE_CHECKING:
    from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice

_PRICE_NAMES: Final = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cache_read": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "reasoning": "output_reasoning_mtok",
}


@hookimpl(trylast=True)
def tallyd_provider_prices(model: str, provider: str | None) -> ProviderPrices | None:
    """Look a model up in the table; None when it is not there, or tokens alone do not say what it costs.

    The table knows models by patterns, in any case: `GPT-4o-2024-08-06` is `gpt-4o`. A provider it does not
    know has no models; without a provider it is guessed from the model's name.
    """
    import genai_prices  # noqa: PLC0415 - slow to import
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415

    try:
        known_provider, known_model = get_snapshot().find_provider_model(model, None, provider, None)
    except LookupError:
        return None
    history = history_of(known_model)
    if history is None:
        return None
    return ProviderPrices(
        model=known_model.id,
        provider=known_provider.id,
        source=f"genai-prices {genai_prices.__version__}",
        history=history,
    )


def history_of(model: ModelInfo) -> tuple[DatedPrices, ...] | None:
    """Translate all prices of a model, or None when some are not by token, or none are.

    A fee for each request cannot be told from tokens: such a model is unknown here, rather than too cheap.
    Audio, images and searches are left out: the events that tallyd prices have text tokens only.
    """
    from genai_prices.types import ConditionalPrice, ModelPrice  # noqa: PLC0415 - slow to import

    prices = model.prices
    listed = [ConditionalPrice(prices=prices)] if isinstance(prices, ModelPrice) else prices
    if any(entry.prices.requests_kcount is not None for entry in listed):
        return None
    history = tuple(map(_dated, listed))
    return history if any(dated.prices.per_million for dated in history) else None


def _dated(conditional: ConditionalPrice) -> DatedPrices:
    from genai_prices.types import StartDateConstraint, TimeOfDateConstraint  # noqa: PLC0415 - slow to import

    prices = _token_prices(conditional.prices)
    match conditional.constraint:
        case None:
            return DatedPrices(prices=prices)
        case StartDateConstraint(start_date=start):
            midnight = datetime(start.year, start.month, start.day, tzinfo=UTC)
            return DatedPrices(prices=prices, valid_from=to_micros(midnight))
        case TimeOfDateConstraint(start_time=start_time, end_time=end_time):
            return DatedPrices(prices=prices, daily=(_time_of_day(start_time), _time_of_day(end_time)))


def _time_of_day(moment: time) -> int:
    """Microseconds after midnight UTC; a time without a zone is UTC."""
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return to_micros(datetime.combine(EPOCH, zoned)) % DAY_US


def _token_prices(listed: ModelPrice) -> TokenPrices:
    per_million: dict[str, Decimal] = {}
    tiers: dict[str, tuple[tuple[Decimal, Decimal], ...]] = {}
    for kind, name in _PRICE_NAMES.items():
        price = getattr(listed, name)
        if price is None:
            continue
        if isinstance(price, Decimal):
            per_million[kind] = price
        else:
            per_million[kind] = price.base
            tiers[kind] = tuple((Decimal(tier.start), tier.price) for tier in price.tiers)
    return TokenPrices(per_million=per_million, tiers=tiers)
