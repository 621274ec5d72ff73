"""The global table against the package it translates: every model, at every instant its price changes."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from importlib.metadata import version
from typing import NamedTuple

import pluggy
import pytest
from genai_prices import Usage
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import (
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tallyd.model.moments import DAY_US, from_micros, iso, to_micros
from tallyd.model.money import ONE
from tallyd.pricing import ProviderPrices, global_table, hookimpl, hookspecs
from tallyd.pricing.global_table import tallyd_provider_prices

TOKENS = {
    "input": Decimal(1_203),
    "output": Decimal(417),
    "cache_read": Decimal(9_001),
    "cache_write": Decimal(7),
    "reasoning": Decimal(55),
}
KINDS = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "output_reasoning_mtok")
NOON = to_micros(datetime(2026, 3, 20, 12, tzinfo=UTC))
EARLY = to_micros(datetime(2023, 1, 1, tzinfo=UTC))


class Row(NamedTuple):
    """A model of the package, and what the global table makes of its prices."""

    provider: Provider
    model: ModelInfo
    ours: ProviderPrices | None

    def entries(self) -> list[ConditionalPrice]:
        """All price entries of the model, in one shape."""
        prices = self.model.prices
        return [ConditionalPrice(prices=prices)] if isinstance(prices, ModelPrice) else prices


@cache
def rows() -> list[Row]:
    """Every model of every provider, those too that a better match hides from a lookup by name."""
    return [
        Row(provider, model, _translate(provider, model))
        for provider in get_snapshot().providers
        for model in provider.models
    ]


def _translate(provider: Provider, model: ModelInfo) -> ProviderPrices | None:
    history = global_table.history_of(model)
    if history is None:
        return None
    return ProviderPrices(model=model.id, provider=provider.id, source="test", history=history)


def translated() -> list[tuple[Row, ProviderPrices]]:
    """Return the models that the global table prices."""
    return [(row, row.ours) for row in rows() if row.ours is not None]


def their_cost(row: Row, tokens: dict[str, Decimal], moment: int) -> Decimal:
    """Ask the package: its input counts include the cached tokens, its output counts the reasoning."""
    count = {kind: int(tokens.get(kind, 0)) for kind in TOKENS}
    usage = Usage(
        input_tokens=count["input"] + count["cache_read"] + count["cache_write"],
        output_tokens=count["output"] + count["reasoning"],
        cache_read_tokens=count["cache_read"],
        cache_write_tokens=count["cache_write"],
        output_reasoning_tokens=count["reasoning"],
    )
    when = from_micros(moment)
    return row.model.calc_price(usage, row.provider, genai_request_timestamp=when).total_price


def assert_same_cost(row: Row, ours: ProviderPrices, tokens: dict[str, Decimal], moment: int) -> None:
    """Compare the two, leaving out kinds without a price: the package calls them free, we call them unpriced.

    Those are the outputs of embedding and classifying models.
    """
    prices = ours.at(moment)
    priced = {kind: count for kind, count in tokens.items() if prices.cost({kind: ONE}) is not None}
    found = prices.cost(priced)
    expected = their_cost(row, priced, moment)
    assert found == expected, f"{row.provider.id} {row.model.id} at {iso(moment)}: {found}, not {expected}"


def switching_moments(row: Row) -> Iterator[int]:
    """Yield the instants at which a model's price may change, and the microseconds before them."""
    for entry in row.entries():
        match entry.constraint:
            case StartDateConstraint(start_date=start):
                midnight = to_micros(datetime(start.year, start.month, start.day, tzinfo=UTC))
                yield from (midnight - 1, midnight)
            case TimeOfDateConstraint(start_time=start_time, end_time=end_time):
                for clock in (start_time, end_time):
                    moment = to_micros(datetime(2027, 6, 1, clock.hour, clock.minute, tzinfo=clock.tzinfo))
                    yield from (moment - 1, moment, moment - DAY_US * 500)


def thresholds(row: Row) -> set[int]:
    """Return the input sizes at which a model's tiers start."""
    listed = [price for entry in row.entries() for price in vars(entry.prices).values()]
    return {tier.start for price in listed if isinstance(price, TieredPrices) for tier in price.tiers}


def test_every_model_costs_what_the_package_says_whenever_its_price_changes() -> None:
    """All models cost the same here and in the package, on both sides of every dated or daily change."""
    compared = 0
    for row, ours in translated():
        for moment in {EARLY, NOON, *switching_moments(row)}:
            assert_same_cost(row, ours, TOKENS, moment)
            compared += 1
    assert compared > 4000, "the package's data was not read"


def test_every_long_context_price_starts_above_its_threshold() -> None:
    """A request of exactly the threshold, cached tokens counted, pays the lower price; one more does not."""
    compared = 0
    for row, ours in translated():
        for start in thresholds(row):
            for size in (start, start + 1):
                tokens = {**TOKENS, "input": Decimal(size) - TOKENS["cache_read"] - TOKENS["cache_write"]}
                assert_same_cost(row, ours, tokens, NOON)
                compared += 1
    assert compared > 100, "the package's data has no tiers"


@settings(max_examples=4)
@given(
    counts=st.lists(st.integers(0, 2_000_000), min_size=len(TOKENS), max_size=len(TOKENS)),
    moment=st.integers(EARLY, EARLY + 5 * 365 * DAY_US),
)
def test_every_model_costs_what_the_package_says_for_any_request(counts: list[int], moment: int) -> None:
    """All models cost the same here and in the package, for any tokens at any time."""
    tokens = {kind: Decimal(count) for kind, count in zip(TOKENS, counts, strict=True)}
    for row, ours in translated():
        assert_same_cost(row, ours, tokens, moment)
    assert len(translated()) > 2000, "the package's data was not read"


def test_only_models_that_tokens_cannot_price_are_left_out() -> None:
    """A model is unknown only when the package has no token price for it, or it charges for each request."""
    left_out = [row for row in rows() if row.ours is None]
    for row in left_out:
        prices = [entry.prices for entry in row.entries()]
        by_token = any(getattr(entry, name) is not None for entry in prices for name in KINDS)
        by_request = any(entry.requests_kcount is not None for entry in prices)
        assert by_request or not by_token, f"{row.provider.id} {row.model.id}"
    assert left_out, "the package's data has none of them any more: this test can go"


@pytest.mark.parametrize("name", ["gpt-4o", "gpt-4o-2024-08-06", "GPT-4o-2024-08-06"])
@pytest.mark.parametrize("provider", ["openai", "OpenAI", None])
def test_a_model_is_found_by_any_of_its_names(name: str, provider: str | None) -> None:
    """A dated name, any case, and a missing provider find the same prices, with their source."""
    prices = tallyd_provider_prices(name, provider)
    assert prices is not None
    assert (prices.model, prices.provider) == ("gpt-4o", "openai")
    assert prices.source == f"genai-prices {version('genai-prices')}"
    assert prices.at(NOON).per_million["input"] == Decimal("2.5")


@pytest.mark.parametrize(
    ("name", "provider"),
    [
        ("", None),
        ("", "openai"),
        ("no-such-model", None),
        ("no-such-model", "openai"),
        ("gpt-4o", "no-such-provider"),
    ],
)
def test_the_unknown_is_none(name: str, provider: str | None) -> None:
    """A model or provider that the table does not know gives None, so that its events are unpriced."""
    assert tallyd_provider_prices(name, provider) is None


def test_a_fee_for_each_request_is_not_forgotten() -> None:
    """A model that also charges for each request is unknown, rather than priced too low by its tokens."""
    assert tallyd_provider_prices("sonar-pro", "perplexity") is None


def test_a_kind_without_a_price_is_not_free() -> None:
    """An embedding model has no output price: output tokens have no cost, which is not a cost of zero."""
    prices = tallyd_provider_prices("text-embedding-3-large", "openai")
    assert prices is not None
    assert prices.at(NOON).cost({"input": Decimal(1000)}) == Decimal("0.00013")
    assert prices.at(NOON).cost({"output": Decimal(1)}) is None


def test_the_package_is_imported_when_it_is_first_asked() -> None:
    """Importing the module does not import the package, which would cost every start most of a second."""
    program = "import sys, tallyd.pricing.global_table; sys.exit('genai_prices' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_it_is_asked_after_all_other_plugins() -> None:
    """Another plugin's prices for the same model win, in whichever order the two were registered."""

    class Mine:
        @staticmethod
        @hookimpl
        def tallyd_provider_prices(model: str, provider: str | None) -> ProviderPrices:  # noqa: ARG004
            return ProviderPrices(model=model, provider="mine", source="mine", history=())

    for plugins in ([Mine, global_table], [global_table, Mine]):
        manager = pluggy.PluginManager("tallyd")
        manager.add_hookspecs(hookspecs)
        for plugin in plugins:
            manager.register(plugin)
        prices = manager.hook.tallyd_provider_prices(model="gpt-4o", provider=None)
        assert prices.provider == "mine"
