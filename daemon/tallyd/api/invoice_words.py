"""The words of an invoice for the person who pays: numbers, dates, what each line is for.

Nothing is rounded: lines come rounded, their steps and unit prices stay exact (P9).
"""

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from tallyd.model.invoice import Line, LineKind, LineStep
from tallyd.model.money import ONE, currency_exponent, plain, tidy
from tallyd.model.periods import local_date

MINUS: Final = "\N{MINUS SIGN}"
DASH: Final = "\N{EN DASH}"
_MONTHS: Final = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
# Signs that people know; the code always stands beside them, since several countries share one.
SYMBOLS: Final = {
    **dict.fromkeys(["USD", "CAD", "AUD", "NZD", "SGD", "HKD", "MXN"], "$"),
    **dict.fromkeys(["JPY", "CNY"], "\N{YEN SIGN}"),
    "BRL": "R$",
    "EUR": "\N{EURO SIGN}",
    "GBP": "\N{POUND SIGN}",
    "ILS": "\N{NEW SHEQEL SIGN}",
    "INR": "\N{INDIAN RUPEE SIGN}",
    "KRW": "\N{WON SIGN}",
    "NGN": "\N{NAIRA SIGN}",
    "PHP": "\N{PESO SIGN}",
    "TRY": "\N{TURKISH LIRA SIGN}",
    "UAH": "\N{HRYVNIA SIGN}",
}
COST: Final = "cost"
"""The token kind of what is priced by its provider cost; the page does not tell it."""

_TOKENS: Final = {
    "input": "Input tokens",
    "output": "Output tokens",
    "cache_read": "Cached input tokens",
    "cache_write": "Tokens written to the cache",
    "reasoning": "Reasoning tokens",
    COST: "",
}
_OF_FEATURES: Final = {
    LineKind.USAGE: "",
    LineKind.COVERED: "paid with credits",
    LineKind.CREDITED: "paid with credits",
    LineKind.LATE: "change since it was invoiced",
}
_UNPRICED: Final = re.compile(r"; (\d+) events? ha(?:s|ve) no price yet$")
"""How the engine says that the amount is not all of it."""


def number_words(value: Decimal, decimals: int = 0) -> str:
    """Write a number with thousands separators, every digit kept, and at least so many decimals."""
    value = tidy(value)
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and -exponent < decimals:
        value = value.quantize(ONE.scaleb(-decimals))
    return f"{value:,f}".replace("-", MINUS)


def money(amount: Decimal, currency: str, *, symbol: bool = False) -> str:
    """Write an amount with the decimals of its currency (more when it has more), with its sign when asked."""
    words = number_words(amount, currency_exponent(currency))
    if not symbol:
        return words
    sign = MINUS if words.startswith(MINUS) else ""
    return f"{sign}{SYMBOLS.get(currency, '')}{words.removeprefix(MINUS)}"


def date_words(moment: int, zone: str) -> str:
    """Write the date of an instant in a zone: `1 February 2026`."""
    day = local_date(moment, zone)
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


def period_words(start: int, end: int, zone: str) -> str:
    """Write a half-open period by its first and last day in a zone."""
    first, last = local_date(start, zone), local_date(max(start, end - 1), zone)
    ending = date_words(max(start, end - 1), zone)
    if first == last:
        return ending
    if first.year != last.year:
        return f"{date_words(start, zone)} {DASH} {ending}"
    if first.month != last.month:
        return f"{first.day} {_MONTHS[first.month - 1]} {DASH} {ending}"
    return f"{first.day} {DASH} {ending}"


def line_words(line: Line, feature: str, *, within: bool) -> str:
    """Say what a line is for.

    Args:
        line: the line.
        feature: what people call its feature.
        within: whether it stands under the feature's name.
    """
    if line.kind not in _OF_FEATURES:
        return line.words
    what = _TOKENS.get(line.token_kind, line.token_kind.replace("_", " "))
    more = _OF_FEATURES[line.kind]
    if within:
        words = ", ".join(each for each in (what, line.model, more) if each) or "usage"
        return words[:1].upper() + words[1:] if what or not line.model else words  # a model is called as it is
    parts = ", ".join(each for each in (what[:1].lower() + what[1:], line.model) if each)
    told = f"{feature}: {parts}" if parts else feature
    return f"{told}, {more}" if more else told


def unpriced_words(lines: list[Line]) -> str:
    """Say that usage of a feature has no price yet, if it has none; empty when there is nothing to say."""
    for line in lines:
        found = _UNPRICED.search(line.words)
        if found is not None:
            count = found[1]
            rest = "event has no price yet and is" if count == "1" else "events have no price yet and are"
            return f"{count} {rest} not charged"
    return ""


def price_note(step: LineStep) -> str:
    """Say what the only step of a line says beside its numbers: what is counted, or what the price is for."""
    words = step_words(step)
    _, at, price = words.rpartition(" at ")
    if at:
        return f"at {price}"
    counted, comma, rest = words.partition(", ")
    return rest if comma else f"per {counted}"


def step_words(step: LineStep) -> str:
    """Return a step's words without the quantity before and the price behind, which have columns of their own.

    The unit, which comes first, loses its underscores.
    """
    words = step.words.removeprefix(f"{tidy(step.quantity):,f} ")
    unit, space, rest = words.partition(" ")
    words = unit.replace("_", " ") + space + rest
    if step.unit_price is not None:
        words = words.removesuffix(f" at {plain(step.unit_price)}")
    return words or step.words


def reference(line: Line) -> str:
    """Name what explains a line: its price version, and the ledger positions it bills."""
    return ", ".join(_reference_parts(line))


def _reference_parts(line: Line) -> Iterator[str]:
    if line.price_version:
        yield f"price version {line.price_version}"
    first, last = line.positions
    if last > first:
        yield f"ledger positions {first}{DASH}{last}"
    elif last == first:
        yield f"ledger position {first}"
