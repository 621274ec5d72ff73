"""Exact numbers (P9): limits, arithmetic that refuses to round, and the one rounding there is."""

import decimal
import threading
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyd.model.money import (
    currency_problem,
    divide,
    floor_to,
    number_problem,
    plain,
    round_half_up,
    round_to_currency,
    share,
    terminates,
    tidy,
)

fitting = st.decimals(Decimal(-99999999999999999999), Decimal(99999999999999999999), allow_nan=False, places=18)


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "-0",
        "99999999999999999999.999999999999999999",
        "-99999999999999999999.999999999999999999",
        "1E+19",
        "1E-18",
        "0.000000000000000001",
    ],
)
def test_twenty_digits_before_and_eighteen_after_the_point_are_kept(text: str) -> None:
    """A number within the limits has no problem, however it is written."""
    assert number_problem(Decimal(text)) is None


@pytest.mark.parametrize(
    "text",
    ["1E+20", "100000000000000000000", "-1E+20", "1E-19", "0.0000000000000000001", "1E+400", "1E-400"],
)
def test_more_digits_are_refused_with_the_limit(text: str) -> None:
    """A number that is too large or too fine is refused, and the message says what the limits are."""
    problem = number_problem(Decimal(text))
    assert problem is not None
    assert "20 digits" in problem
    assert "18 after" in problem


@pytest.mark.parametrize("text", ["NaN", "sNaN", "Infinity", "-Infinity"])
def test_what_is_not_finite_is_refused(text: str) -> None:
    """NaN and infinity are no quantities."""
    assert number_problem(Decimal(text)) == "must be a finite number"


@pytest.mark.parametrize("text", ["1" * 300, "0." + "1" * 300, "1" * 5000 + "." + "1" * 5000])
def test_hundreds_of_digits_are_refused_and_not_a_crash(text: str) -> None:
    """A number longer than the arithmetic's own precision is a problem in words, not a `decimal.Inexact`."""
    assert number_problem(Decimal(text)) is not None


@given(fitting, fitting)
def test_arithmetic_keeps_every_digit(left: Decimal, right: Decimal) -> None:
    """Sums and products of numbers within the limits are those of integers, scaled."""
    scale = 10**18
    units, others = int(left.scaleb(18)), int(right.scaleb(18))
    assert int((left + right).scaleb(18)) == units + others
    assert int((left * right).scaleb(36)) == units * others
    assert Decimal(units) / scale == left


@pytest.mark.parametrize("numbers", [("1", "3"), ("2", "7")])
def test_a_result_that_would_be_rounded_raises(numbers: tuple[str, str]) -> None:
    """What cannot be exact is an error, never a lost digit."""
    with pytest.raises(decimal.Inexact):
        Decimal(numbers[0]) / Decimal(numbers[1])


def test_a_new_thread_is_exact_too() -> None:
    """Threads that plugins and the books run on have the same exact arithmetic."""
    caught: list[str] = []

    def divide() -> None:
        caught.append(plain(Decimal("1e19") * Decimal("1e19") + Decimal("1e-18") * Decimal("1e-18")))
        try:
            Decimal(1) / Decimal(3)
        except decimal.Inexact:
            caught.append("exact")

    thread = threading.Thread(target=divide)
    thread.start()
    thread.join()
    assert caught == ["1" + "0" * 38 + "." + "0" * 35 + "1", "exact"]


@pytest.mark.parametrize(
    ("amount", "currency", "rounded"),
    [
        ("0.005", "USD", "0.01"),
        ("0.0049999999", "USD", "0.00"),
        ("2.675", "EUR", "2.68"),
        ("15.001", "USD", "15.00"),
        ("-0.005", "USD", "-0.01"),
        ("0.5", "JPY", "1"),
        ("1234.49", "JPY", "1234"),
        ("0.0005", "BHD", "0.001"),
        ("1.0004", "BHD", "1.000"),
        ("0.0000005", "USDC", "0.000001"),
        ("99999999999999999999.995", "USD", "100000000000000000000.00"),
    ],
)
def test_rounding_is_half_up_to_the_currency(amount: str, currency: str, rounded: str) -> None:
    """Halves go away from zero, to the digits the currency has."""
    assert plain(round_to_currency(Decimal(amount), currency)) == rounded


@pytest.mark.parametrize("rounding", [decimal.ROUND_DOWN, decimal.ROUND_HALF_EVEN, decimal.ROUND_FLOOR])
def test_rounding_does_not_follow_the_ambient_context(rounding: str) -> None:
    """Whoever changes the thread's context changes no invoice."""
    with decimal.localcontext(decimal.Context(prec=6, rounding=rounding)):
        assert plain(round_to_currency(Decimal("123456789.125"), "USD")) == "123456789.13"


@pytest.mark.parametrize("precision", [1, 6, 28])
def test_limits_do_not_follow_the_ambient_context(precision: int) -> None:
    """The check of a number is the same under any context."""
    with decimal.localcontext(decimal.Context(prec=precision, traps=[decimal.Inexact])):
        assert number_problem(Decimal("12345678901234567890.123456789012345678")) is None
        assert number_problem(Decimal(123456789012345678901)) is not None


@pytest.mark.parametrize(
    ("text", "written"),
    [("1E+3", "1000"), ("1E-7", "0.0000001"), ("12.50", "12.50"), ("0E-18", "0.000000000000000000")],
)
def test_plain_has_no_exponent_and_every_digit(text: str, written: str) -> None:
    """What is stored in the books is written out."""
    assert plain(Decimal(text)) == written


@pytest.mark.parametrize(
    ("text", "tidied"), [("12.00", "12"), ("100", "100"), ("1E+2", "100"), ("0.50", "0.5"), ("0.000", "0")]
)
def test_tidy_drops_zeros_after_the_point_only(text: str, tidied: str) -> None:
    """People read 12 and 100, not 12.00 and 1E+2."""
    assert str(tidy(Decimal(text))) == tidied


@given(fitting)
def test_plain_reads_back_as_the_same_number(value: Decimal) -> None:
    """Writing and reading a number changes nothing."""
    assert Decimal(plain(value)) == value
    assert tidy(value) == value


@pytest.mark.parametrize(
    ("value", "digits", "rounded"),
    [("2.5", 0, "3"), ("-2.5", 0, "-3"), ("0.12345", 4, "0.1235"), ("0.12344", 4, "0.1234"), ("100", 4, "100")],
)
def test_a_number_is_rounded_half_up_to_digits(value: str, digits: int, rounded: str) -> None:
    """Half goes away from zero; a number that needs no rounding keeps its form."""
    assert plain(round_half_up(Decimal(value), digits)) == rounded


@pytest.mark.parametrize(
    ("value", "digits", "floor"),
    [("1.99", 0, "1"), ("-1.01", 0, "-2"), ("0.12349", 4, "0.1234"), ("150", 2, "150")],
)
def test_a_number_is_rounded_down_to_digits(value: str, digits: int, floor: str) -> None:
    """Rounding down goes towards minus infinity."""
    assert plain(floor_to(Decimal(value), digits)) == floor


@pytest.mark.parametrize(
    ("value", "divisor", "digits", "quotient"),
    [
        ("1500", "1000", None, "1.5"),
        ("1", "3", None, "0.333333333333333333"),
        ("2", "3", None, "0.666666666666666667"),
        ("2", "3", 2, "0.67"),
        ("1", "8", 2, "0.13"),
        ("1", "1048576", None, "0.00000095367431640625"),
    ],
)
def test_a_quotient_is_exact_when_it_ends(value: str, divisor: str, digits: int | None, quotient: str) -> None:
    """Digits round it half up; without them it is exact, or rounded to 18 digits where it never ends."""
    assert plain(divide(Decimal(value), Decimal(divisor), digits)) == quotient


@pytest.mark.parametrize(
    ("divisor", "ends"),
    [("8", True), ("1000", True), ("0.3", False), ("3", False), ("0.75", False), ("1.25", True)],
)
def test_a_divisor_of_twos_and_fives_ends(divisor: str, ends: bool) -> None:
    """Quotients by 8 or 1.25 have an end, those by 3 or 0.75 have none."""
    assert terminates(Decimal(divisor)) is ends


@pytest.mark.parametrize(
    ("quantity", "given_", "charge", "covered"),
    [
        ("1305", "5", "10", "652.5"),
        ("1305", "10", "10", "1305"),
        ("1", "1", "3", "0.333333333333333333"),
        ("7", "0", "3", "0"),
        ("0", "0", "0", "0"),
    ],
)
def test_a_share_is_what_part_of_a_charge_pays_for(quantity: str, given_: str, charge: str, covered: str) -> None:
    """A part of the charge pays for that part of the quantity, and the whole for all of it."""
    assert share(Decimal(quantity), Decimal(given_), Decimal(charge)) == Decimal(covered)


@pytest.mark.parametrize("currency", ["usd", "US", "USDCX", "U1D", "", "ÜSD", "$"])
def test_a_currency_has_three_or_four_capital_letters(currency: str) -> None:
    """Anything else is no currency code."""
    assert currency_problem(currency) is not None
    assert currency_problem("USD") is currency_problem("USDC") is None
