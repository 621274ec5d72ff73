"""The lines of an invoice. Each is exact, and rounded once (P9)."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Final

from tallyd.engine import rating
from tallyd.engine.account import Counter, CounterKey, Enrolment
from tallyd.engine.rating import PricedFeature, PricedPlan
from tallyd.model.invoice import Line, LineKind, LineStep
from tallyd.model.money import ZERO, divide, round_to_currency, tidy
from tallyd.model.periods import Period
from tallyd.pricing.seam import UNITS, Step, split_dimension

_KINDS: Final = {
    "input": "input tokens",
    "output": "output tokens",
    "cache_read": "cached input tokens",
    "cache_write": "tokens written to the cache",
    "reasoning": "reasoning tokens",
    "cost": "provider cost",
}


def line(
    kind: LineKind,
    words: str,
    exact: Decimal,
    plan: PricedPlan,
    period: Period,
    *,
    amount: Decimal | None = None,
    quantity: Decimal | None = None,
    unit_price: Decimal | None = None,
    pool: int | None = None,
) -> Line:
    """Return a line that has nothing to do with a counter, its amount rounded half up to the plan's currency."""
    return Line(
        kind=kind,
        words=words,
        exact=exact,
        amount=round_to_currency(exact, plan.currency) if amount is None else amount,
        period_start=period.start,
        period_end=period.end,
        price_version=plan.price_version,
        quantity=quantity,
        unit_price=unit_price,
        pool=pool,
    )


def part_of(price: Decimal, part: int, whole: int) -> Decimal:
    """Return the price of `part` microseconds of a period of `whole`, exact or to 18 digits."""
    return price if part == whole else divide(price * part, Decimal(whole))


def base(plan: PricedPlan, period: Period, whole: Period, *, less: int = 0) -> Line:
    """Return the base price of a period, or of a part of a whole one, `less` microseconds that are not charged."""
    length = period.end - period.start - less
    words = f"{plan.name}: base price"
    if length != whole.end - whole.start:
        words += ", for a part of the period"
    return line(LineKind.BASE, words, part_of(plan.price_amount, length, whole.end - whole.start), plan, period)


def prorated(plan: PricedPlan, rest: Period, whole: Period) -> Line:
    """Return the base price of the rest of a period."""
    exact = part_of(plan.price_amount, rest.end - rest.start, whole.end - whole.start)
    return line(LineKind.PRORATION, f"{plan.name}: remaining time", exact, plan, rest)


def usage(enrolment: Enrolment, key: CounterKey, counter: Counter, segment: Period, position: int) -> list[Line]:
    """Return the lines that bill a counter: the price's steps the first time, and later what has changed since."""
    feature = enrolment.plan.features.get(key.feature)
    writer = _Writer(enrolment.plan, key, counter, segment, position)
    if counter.billed_to or counter.billed or feature is None:
        return [writer.late()]
    return writer.first(feature)


class _Writer:
    def __init__(
        self, plan: PricedPlan, key: CounterKey, counter: Counter, segment: Period, position: int
    ) -> None:
        self._plan = plan
        self._key = key
        self._counter = counter
        self._segment = segment
        self._position = position

    def _line(
        self,
        kind: LineKind,
        words: str,
        exact: Decimal,
        *,
        dimension: str = UNITS,
        quantity: Decimal | None = None,
        steps: Iterable[Step] = (),
    ) -> Line:
        told = [
            LineStep(words=each.words, quantity=each.quantity, unit_price=each.unit_price, amount=each.amount)
            for each in steps
        ]
        token_kind, model = split_dimension(dimension)
        prices = {each.unit_price for each in told}
        return Line(
            kind=kind,
            words=words,
            exact=exact,
            amount=round_to_currency(exact, self._plan.currency),
            period_start=self._segment.start,
            period_end=self._segment.end,
            price_version=self._plan.price_version,
            feature=self._key.feature,
            model=model,
            token_kind="" if dimension == UNITS else token_kind,
            quantity=quantity,
            unit_price=prices.pop() if len(prices) == 1 else None,
            steps=told,
            counter_start=self._key.period_start,
            after=self._counter.billed_to,
            until=self._position,
        )

    def late(self) -> Line:
        """Bill what has come to a counter, or gone from it, since it was billed."""
        exact = self._counter.charged - self._counter.billed
        return self._line(LineKind.LATE, f"Change to the usage of {self._key.feature} in an earlier period", exact)

    def first(self, feature: PricedFeature) -> list[Line]:
        """Bill a counter for the first time."""
        counter, key = self._counter, self._key.feature
        price = counter.charged + counter.credited
        steps, problem = ([], None) if feature.accumulates else rating.steps(feature, counter.rated)
        lines = []
        if feature.accumulates or problem is not None:
            lines.append(self._line(LineKind.USAGE, self._words(key), price, quantity=counter.used))
        else:
            lines += self._by_dimension(key, steps)
            rest = price - sum((each.exact for each in lines), ZERO)
            if rest or not lines:  # priced later under newer terms, or nothing that the plan prices
                lines.append(self._line(LineKind.USAGE, self._words(key), rest, quantity=counter.used))
        for dimension, quantity in counter.covered.items():
            if quantity:
                words = f"{_what(key, dimension)} paid with credits"
                lines.append(self._line(LineKind.COVERED, words, ZERO, dimension=dimension, quantity=quantity))
        if counter.credited:
            lines.append(self._line(LineKind.CREDITED, f"Usage of {key} paid with credits", -counter.credited))
        return lines

    def _words(self, key: str) -> str:
        return f"Usage of {key}{self._unpriced()}"

    def _unpriced(self) -> str:
        count = self._counter.unpriced
        return f"; {count} {'event has' if count == 1 else 'events have'} no price yet" if count else ""

    def _by_dimension(self, key: str, steps: list[Step]) -> list[Line]:
        """Return a line for each kind of token of each model; for units, one."""
        grouped: dict[str, list[Step]] = {}
        for step in steps:
            if step.amount is not None:
                grouped.setdefault(step.dimension, []).append(step)
        lines = []
        for dimension, some in grouped.items():
            exact = sum((each.amount for each in some if each.amount is not None), ZERO)
            quantity = tidy(self._counter.rated.get(dimension, ZERO))
            words = _what(key, dimension) + self._unpriced()
            lines.append(
                self._line(LineKind.USAGE, words, exact, dimension=dimension, quantity=quantity, steps=some)
            )
        return lines


def _what(key: str, dimension: str) -> str:
    if dimension == UNITS:
        return f"Usage of {key}"
    kind, model = split_dimension(dimension)
    return f"Usage of {key}: {_KINDS.get(kind, kind)}" + (f" of {model}" if model else "")
