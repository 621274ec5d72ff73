"""What tests of billing commands share beside the fixtures."""

from decimal import Decimal
from typing import Any, Protocol

import msgspec
from click.testing import Result

_DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder(float_hook=Decimal)


class NewCustomer(Protocol):
    """Puts a new customer on a test clock and, if given, on a plan whose first invoice is paid or not."""

    def __call__(self, now: str, plan: str | None = None, *, paid: bool = False) -> str:
        """Return the customer's reference."""


def decoded(done: Result) -> Any:
    """Return what a command printed for programs."""
    assert done.exit_code == 0, done.output
    return _DECODER.decode(done.stdout)


def newest(done: Result) -> Any:
    """Return the newest invoice that a command listed for programs."""
    return decoded(done)["items"][0]
