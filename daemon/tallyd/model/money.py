"""Exact numbers (promise P9).

Importing this module makes `Decimal` arithmetic exact for the process: a result that would need rounding
raises `decimal.Inexact` instead of losing a digit. Rounding happens in named places: `round_to_currency` for
money, `round_half_up`, `floor_to`, `divide` and `share` for credits.
"""

import decimal
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal, Inexact
from typing import Final

INTEGER_DIGITS_MAX: Final = 20
FRACTION_DIGITS_MAX: Final = 18
ZERO: Final = Decimal(0)
ONE: Final = Decimal(1)

_LIMIT: Final = Decimal(10) ** INTEGER_DIGITS_MAX
_SHORT_TEXT: Final = 18
# Two 38-digit inputs multiplied twice over, and room to add a million million of them.
_PRECISION: Final = 250
_ROUNDING: Final = Context(prec=_PRECISION, rounding=ROUND_HALF_UP)
_FLOOR: Final = Context(prec=_PRECISION, rounding=ROUND_FLOOR)
_EXACT: Final = Context(prec=_PRECISION, traps=[Inexact, decimal.InvalidOperation, decimal.DivisionByZero])
_STEPS: Final = tuple(ONE.scaleb(-digits) for digits in range(FRACTION_DIGITS_MAX + 1))

_CURRENCY_LETTERS: Final = range(3, 5)
# ISO 4217 currencies that do not have two decimals. USDC is Retempo's, six decimals.
_NO_DECIMALS: Final = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THREE_DECIMALS: Final = "BHD IQD JOD KWD LYD OMR TND"
_EXPONENTS: Final = {
    **dict.fromkeys(_NO_DECIMALS.split(), 0),
    **dict.fromkeys(_THREE_DECIMALS.split(), 3),
    "USDC": 6,
}


def _make_arithmetic_exact() -> None:
    template = decimal.DefaultContext  # what new threads start from
    template.prec = _PRECISION
    for signal in (decimal.Inexact, decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow):
        template.traps[signal] = True
    decimal.setcontext(template.copy())  # this thread, and every Trio task started from it


_make_arithmetic_exact()


def number_problem(value: Decimal) -> str | None:
    """Say why `value` cannot be kept exactly, or None when it can.

    Up to 20 digits before the decimal point and 18 after it; finite.
    """
    text = str(value)
    if len(text) <= _SHORT_TEXT and "E" not in text and value.is_finite():
        return None
    if not value.is_finite():
        return "must be a finite number"
    exponent = value.as_tuple().exponent
    too_fine = isinstance(exponent, int) and exponent < -FRACTION_DIGITS_MAX
    if value.copy_abs() >= _LIMIT or too_fine:  # abs() would round, and raise, in a context of fewer digits
        return (
            f"must have at most {INTEGER_DIGITS_MAX} digits before the decimal point"
            f" and {FRACTION_DIGITS_MAX} after it"
        )
    return None


def plain(value: Decimal) -> str:
    """Write a number without an exponent, keeping every digit: the form stored in the books."""
    return format(value, "f")


def tidy(value: Decimal) -> Decimal:
    """Drop trailing zeros after the decimal point: 12.00 becomes 12, 100 stays 100."""
    if value == value.to_integral_value():
        return value.quantize(ONE)
    return value.normalize()


def currency_exponent(currency: str) -> int:
    """Digits after the decimal point of a currency (ISO 4217)."""
    return _EXPONENTS.get(currency, 2)


def currency_problem(currency: str) -> str | None:
    """Say why a text is no currency code, or None when it can be one: three capital letters, or USDC's four."""
    if currency.isascii() and currency.isalpha() and currency.isupper() and len(currency) in _CURRENCY_LETTERS:
        return None
    return "must be a currency code such as USD"


def round_to_currency(amount: Decimal, currency: str) -> Decimal:
    """Round half up to the currency's exponent: the one rounding of the product (P9)."""
    return amount.quantize(ONE.scaleb(-currency_exponent(currency)), context=_ROUNDING)


def round_half_up(value: Decimal, digits: int) -> Decimal:
    """Round half up to 0 to 18 `digits` after the decimal point; a number with no more of them stays as it is."""
    rounded = value.quantize(_STEPS[digits], context=_ROUNDING)
    return value if rounded == value else rounded


def floor_to(value: Decimal, digits: int) -> Decimal:
    """Round down to 0 to 18 `digits` after the decimal point; a negative number towards minus infinity."""
    rounded = value.quantize(_STEPS[digits], context=_FLOOR)
    return value if rounded == value else rounded


def divide(value: Decimal, divisor: Decimal, digits: int | None = None) -> Decimal:
    """Return value / divisor, rounded half up to `digits` after the decimal point when they are given.

    Without `digits`: exact when the quotient terminates, else rounded half up to 18 digits.

    Raises:
        decimal.DivisionByZero, decimal.InvalidOperation: `divisor` is zero.
    """
    if digits is not None:
        return tidy(round_half_up(_ROUNDING.divide(value, divisor), digits))
    try:
        return tidy(_EXACT.divide(value, divisor))
    except Inexact:
        return tidy(round_half_up(_ROUNDING.divide(value, divisor), FRACTION_DIGITS_MAX))


def terminates(divisor: Decimal) -> bool:
    """Whether every quotient by `divisor`, which is not zero, has an end: divide by 8, never by 3."""
    try:
        _EXACT.divide(ONE, divisor)
    except Inexact:
        return False
    return True


def share(quantity: Decimal, given: Decimal, charge: Decimal) -> Decimal:
    """Return the part of `quantity` that `given` out of `charge` pays for: quantity x given / charge.

    Exact when the quotient terminates, else rounded half up to 18 digits after the decimal point.

    Raises:
        decimal.DivisionByZero, decimal.InvalidOperation: `charge` is zero.
    """
    return quantity if given == charge else divide(quantity * given, charge)
