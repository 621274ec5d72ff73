"""JSON in and out: exact numbers, and errors that name the field."""

import re
from decimal import Decimal
from typing import Any, Final, TypeVar

import msgspec

from tallyd.model.problems import Code, Problem, ProblemError

ShapeT = TypeVar("ShapeT")

encode: Final = msgspec.json.Encoder(decimal_format="number").encode
"""Decimals as JSON numbers with all their digits (Tanso's way; CONTRACTS A3)."""

_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_PLACE: Final = re.compile(r" - at `(?:key in )?\$\.?(?P<place>[^`]*)`$")
_MISSING: Final = re.compile(r"^Object missing required field `(?P<field>[^`]+)`")
_UNKNOWN: Final = re.compile(r"^Object contains unknown field `(?P<field>[^`]+)`")


class Decoder:
    """Reads one shape from JSON.

    Args:
        shape: the type to read.
    """

    def __init__(self, shape: Any) -> None:
        self._decode = msgspec.json.Decoder(shape, float_hook=Decimal).decode

    def __call__(self, content: bytes | str | msgspec.Raw) -> Any:
        """Decode.

        Raises:
            ProblemError: malformed JSON, or a field of the wrong type, named.
        """
        try:
            return self._decode(content)
        except msgspec.ValidationError as error:
            raise ProblemError(_validation_problem(str(error))) from None
        except ArithmeticError:  # an exponent that Decimal itself cannot hold
            text = "holds a number with an exponent that is out of range"
            raise ProblemError(Problem(code=Code.VALIDATION_FAILED, message=text)) from None
        except RecursionError:
            raise ProblemError(Problem(code=Code.MALFORMED, message="JSON is nested too deeply")) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ProblemError(Problem(code=Code.MALFORMED, message=_malformed(content, str(error)))) from None


def _malformed(content: bytes | str | msgspec.Raw, message: str) -> str:
    """Say what is wrong with JSON; an unpaired surrogate is called by its name."""
    raw = content.encode() if isinstance(content, str) else bytes(content)
    return "text with an unpaired surrogate" if _SURROGATE.search(raw) else message


def _validation_problem(text: str) -> Problem:
    place_match = _PLACE.search(text)
    place = place_match["place"] if place_match else ""
    message = _PLACE.sub("", text)
    for pattern, why in ((_MISSING, "is required"), (_UNKNOWN, "is not a field here")):
        found = pattern.match(message)
        if found:
            field = f"{place}.{found['field']}" if place else found["field"]
            return Problem(code=Code.VALIDATION_FAILED, field=field, message=why)
    message = message[:1].lower() + message[1:].replace("`", "")
    return Problem(code=Code.VALIDATION_FAILED, field=place or None, message=message)
