"""Exact numbers (promise P9).

Importing this module makes `Decimal` arithmetic exact for the process: a result that would need rounding
raises `decimal.Inexact` instead of losing a digit. Rounding happens in one named place, `round_to_currency`.
"""

import decimal
from decimal import ROUND_HALF_UP, Context, Decimal
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


def round_to_currency(amount: Decimal, currency: str) -> Decimal:
    """Round half up to the currency's exponent: the one rounding of the product (P9)."""
    return amount.quantize(ONE.scaleb(-currency_exponent(currency)), context=_ROUNDING)
