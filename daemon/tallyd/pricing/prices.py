"""What providers charge: dated prices of a model, as plain values that can be remembered for ever."""

from decimal import Decimal
from typing import Final

import msgspec

from tallyd.model.moments import DAY_US
from tallyd.model.money import ZERO

MILLION_PLACES: Final = -6
_PARENT: Final = {"cache_read": "input", "cache_write": "input", "reasoning": "output"}
_INPUT_KINDS: Final = ("input", "cache_read", "cache_write")


class TokenPrices(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """USD per million tokens by kind (`input`, `output`, `cache_read`, `cache_write`, `reasoning`).

    Attributes:
        per_million: base price by kind. A missing cache kind is priced as input, missing reasoning as output.
        tiers: for a kind, `(above, price)` in ascending order: a request with more than `above` input tokens
            in all pays that price for all its tokens, as the providers' long-context prices do.
    """

    per_million: dict[str, Decimal]
    tiers: dict[str, tuple[tuple[Decimal, Decimal], ...]] = {}

    def cost(self, tokens: dict[str, Decimal]) -> Decimal | None:
        """Cost in USD of one request's tokens by kind, exact; None when a kind has no price."""
        tiered, context, cost = self.tiers, ZERO, ZERO
        if tiered:
            context = sum((tokens.get(kind, ZERO) for kind in _INPUT_KINDS), ZERO)
        for kind, count in tokens.items():
            price = None if tiered else self.per_million.get(kind)
            if price is None:
                price = self._price(kind, context)
            if price is not None:
                cost += count * price
            elif count:
                return None
        return cost.scaleb(MILLION_PLACES)

    def _price(self, kind: str, context: Decimal) -> Decimal | None:
        priced = kind if kind in self.per_million else _PARENT.get(kind, kind)
        price = self.per_million.get(priced)
        for above, tier_price in self.tiers.get(priced, ()):
            if context > above:
                price = tier_price
        return price


class DatedPrices(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Prices with the time they hold.

    Attributes:
        prices: what is charged.
        valid_from: microseconds UTC from which they hold; 0 for always.
        daily: `(start, end)` in microseconds after midnight UTC for prices that hold for part of each day;
            `start > end` runs over midnight. None for the whole day.
    """

    prices: TokenPrices
    valid_from: int = 0
    daily: tuple[int, int] | None = None

    def hold_at(self, moment: int) -> bool:
        """Whether these prices hold at the instant."""
        if moment < self.valid_from:
            return False
        if self.daily is None:
            return True
        start, end = self.daily
        time_of_day = moment % DAY_US
        if start <= end:
            return start <= time_of_day < end
        return time_of_day >= start or time_of_day < end


class ProviderPrices(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """All the prices a model has had, oldest first.

    Attributes:
        model: the name the prices are known by, such as `gpt-4o` for `gpt-4o-2024-08-06`.
        provider: whose prices.
        source: where they come from, such as `genai-prices 0.2.3`.
        history: the last entry that holds at an instant is the price; before the first, the first.
    """

    model: str
    provider: str
    source: str
    history: tuple[DatedPrices, ...]

    def at(self, moment: int) -> TokenPrices:
        """Return the prices at an instant."""
        for dated in reversed(self.history):
            if dated.hold_at(moment):
                return dated.prices
        return self.history[0].prices
