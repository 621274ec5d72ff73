"""The payment provider that is set up: its plugin, called on worker threads and within a budget.

What a plugin raises, returns or never returns costs the request at hand its answer and nobody else anything (P8).
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
import structlog
import trio

from tallyd.config import Payments, provider_settings
from tallyd.model.moments import iso
from tallyd.payments.registry import open_checkout
from tallyd.payments.seam import (
    BadPayload,
    BadSignature,
    Checkout,
    CheckoutRefused,
    CheckoutRequest,
    CheckoutSession,
    CheckoutUnavailable,
    PaymentEvent,
)

CALLS_MAX: Final = 16
"""Threads that talk to the provider. One that is not waited for any more keeps its place until it comes back."""

NOTED_MAX: Final = 10_000
"""Invoices that are remembered by number."""

_ShapeT = TypeVar("_ShapeT")
_Raised = tuple[BaseException | None, Any]

_log = structlog.get_logger(__name__)


class ChangedInvoices:
    """Row numbers of invoices that have changed since somebody looked: pages may ask for what is not owed."""

    def __init__(self) -> None:
        self._numbers: set[int] | None = set()
        self._noted = trio.Event()

    def note(self, numbers: Iterable[int]) -> None:
        """Note that invoices have changed, durably."""
        if self._numbers is not None:
            self._numbers.update(numbers)
            if len(self._numbers) > NOTED_MAX:
                self._numbers = None
        self._noted.set()

    async def take(self) -> set[int] | None:
        """Wait until there are some, and take them; None: too many to name, any may have changed (P11)."""
        await self._noted.wait()
        self._noted = trio.Event()
        taken, self._numbers = self._numbers, set()
        return taken


class Provider:
    """See the module's docstring.

    Args:
        name: of the plugin, as in `[payments] provider`.
        checkout: what the plugin offers.
        success_url: where customers go after paying.
        cancel_url: where they go when they turn back; None for no way back.
        budget_s: how long an answer is waited for.

    Attributes:
        changed: invoices whose pages may have to be closed.
    """

    def __init__(
        self, name: str, checkout: Checkout, *, success_url: str, cancel_url: str | None, budget_s: float
    ) -> None:
        self.name = name
        self.success_url = success_url
        self.cancel_url = cancel_url
        self.changed = ChangedInvoices()
        self._checkout = checkout
        self._budget_s = budget_s
        self._calls = trio.CapacityLimiter(CALLS_MAX)

    @property
    def label(self) -> str:
        """What people call it."""
        return self._checkout.name

    async def create_session(self, request: CheckoutRequest) -> CheckoutSession:
        """Have a page made.

        Raises:
            CheckoutRefused: sending it again would not help.
            CheckoutUnavailable: nothing is known; sending it again may help.
        """
        answer = await self._call(partial(self._checkout.create_session, request))
        try:
            made = _sound(answer, CheckoutSession)
            iso(made.expires_at)
        except (ValueError, OverflowError) as error:
            raise self._nonsense("create_session", error) from None
        return made

    async def close_session(self, provider_session: str) -> bool:
        """Have a page closed; False when it has been paid, or a payment is on its way.

        Raises:
            CheckoutRefused: there is no such page.
            CheckoutUnavailable: nothing is known; asking again is safe.
        """
        answer = await self._call(partial(self._checkout.close_session, provider_session))
        if not isinstance(answer, bool):
            raise self._nonsense("close_session", TypeError(f"{type(answer).__name__} is neither True nor False"))
        return answer

    def read_webhook(self, body: bytes, headers: Mapping[str, str], now: int) -> PaymentEvent | None:
        """Check that a webhook is the provider's, and say what it means; None: none of our concern.

        Raises:
            BadSignature, BadPayload: it is not to be sent again.
            CheckoutUnavailable: the plugin does not work.
        """
        try:
            event = self._checkout.read_webhook(body, headers, now)
            return None if event is None else _sound(event, PaymentEvent)
        except (BadSignature, BadPayload, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - a stranger's code may raise anything, SystemExit too
            raise self._nonsense("read_webhook", error) from None

    async def _call(self, work: Callable[[], Any]) -> Any:
        with trio.move_on_after(self._budget_s):
            error, answer = await trio.to_thread.run_sync(
                partial(_guarded, work), abandon_on_cancel=True, limiter=self._calls
            )
            if isinstance(error, CheckoutRefused | CheckoutUnavailable):
                raise error
            if error is not None:
                raise self._nonsense("a call", error)
            return answer
        raise CheckoutUnavailable(f"{self.label} has not answered within {self._budget_s:g} seconds")

    def _nonsense(self, asked: str, error: BaseException) -> CheckoutUnavailable:
        _log.error("payment plugin failed", plugin=self.name, asked=asked, exc_info=error)
        return CheckoutUnavailable(f"the plugin for {self.label} failed; see the daemon's log")


def open_provider(payments: Payments) -> Provider | None:
    """Load the payment plugin that the settings name; None when they name none.

    Raises:
        ConfigError: a file with a secret cannot be read.
        CheckoutPluginError: there is no such plugin, or it cannot be used.
    """
    if not payments.provider:
        return None
    return Provider(
        payments.provider,
        open_checkout(payments.provider, provider_settings(payments)),
        success_url=payments.success_url,
        cancel_url=payments.cancel_url or None,
        budget_s=payments.budget_ms / 1_000,
    )


def _guarded(work: Callable[[], Any]) -> _Raised:
    """Return what was raised, or the answer."""
    try:
        return None, work()
    except BaseException as error:  # noqa: BLE001 - a stranger's code may raise anything, SystemExit too
        return error, None


def _sound(answer: object, shape: type[_ShapeT]) -> _ShapeT:
    """Return a plugin's answer when the books can hold it: the right types, whole characters, numbers of 64 bits.

    Raises:
        ValueError: they cannot.
    """
    try:
        return msgspec.json.decode(msgspec.json.encode(answer), type=shape)
    except (TypeError, OverflowError, msgspec.MsgspecError) as error:
        raise ValueError(f"{type(answer).__name__} is not a sound {shape.__name__}: {error}") from None
