"""The provider that is set up: its plugin is called within a budget, and nothing it does reaches the daemon."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from payments.requests_to_pay import request
from support import NOW, PATIENCE_S
from tallyd.config import Payments
from tallyd.payments import (
    BadPayload,
    BadSignature,
    Checkout,
    CheckoutRefused,
    CheckoutRequest,
    CheckoutSession,
    CheckoutUnavailable,
    PaymentEvent,
    PaymentKind,
)
from tallyd.payments.provider import CALLS_MAX, NOTED_MAX, ChangedInvoices, Provider, open_provider

PAGE = CheckoutSession(provider_session="p-1", url="https://pay.example.com/1", expires_at=NOW)
EVENT = PaymentEvent(
    id="e-1",
    kind=PaymentKind.COMPLETED,
    session="s-1",
    provider_session="p-1",
    amount=1,
    currency="USD",
    payment=None,
    occurred_at=NOW,
)


class Plugin(Checkout):
    """Does as it is told, whatever it is asked."""

    name = "Acme Pay"

    def __init__(self, act: Callable[[], Any]) -> None:
        self._act = act

    def create_session(self, _request: CheckoutRequest) -> CheckoutSession:
        """Act."""
        return self._act()

    def close_session(self, _provider_session: str) -> bool:
        """Act."""
        return self._act()

    def read_webhook(self, _body: bytes, _headers: Mapping[str, str], _now: int) -> PaymentEvent | None:
        """Act."""
        return self._act()


def provider(act: Callable[[], Any], budget_s: float = PATIENCE_S) -> Provider:
    """A provider whose plugin acts so."""
    return Provider("acme", Plugin(act), success_url="https://app.example.com", cancel_url=None, budget_s=budget_s)


def raising(error: BaseException) -> Callable[[], Any]:
    """An act that raises."""

    def act() -> Any:
        raise error

    return act


async def test_what_is_sound_comes_through() -> None:
    """A page, a closed page and an event are handed on as the plugin made them."""
    assert await provider(lambda: PAGE).create_session(request()) == PAGE
    assert await provider(lambda: True).close_session("p-1") is True
    assert provider(lambda: EVENT).read_webhook(b"", {}, NOW) == EVENT
    assert provider(lambda: None).read_webhook(b"", {}, NOW) is None


@pytest.mark.parametrize("error", [CheckoutRefused("no"), CheckoutUnavailable("later")])
async def test_what_the_provider_says_comes_through(error: Exception) -> None:
    """Its refusal and its silence are told apart, in its own words."""
    with pytest.raises(type(error), match=str(error)):
        await provider(raising(error)).create_session(request())


@pytest.mark.parametrize("error", [BadSignature("who?"), BadPayload("what?")])
def test_a_bad_webhook_is_told(error: Exception) -> None:
    """A bad signature and a bad payload are told apart, in the plugin's words."""
    with pytest.raises(type(error), match=str(error).replace("?", r"\?")):
        provider(raising(error)).read_webhook(b"", {}, NOW)


@pytest.mark.parametrize("error", [RuntimeError("boom"), SystemExit(3), KeyboardInterrupt(), MemoryError()])
async def test_whatever_a_plugin_raises_ends_at_the_request(error: BaseException) -> None:
    """A defect, or an attempt to end the process, is an answer that did not come (P8)."""
    with pytest.raises(CheckoutUnavailable, match="Acme Pay failed"):
        await provider(raising(error)).create_session(request())
    with pytest.raises(CheckoutUnavailable, match="Acme Pay failed"):
        await provider(raising(error)).close_session("p-1")


def test_whatever_a_plugin_raises_about_a_webhook_ends_at_the_request() -> None:
    """The same on the daemon's own thread."""
    for error in (RuntimeError("boom"), SystemExit(3)):
        with pytest.raises(CheckoutUnavailable, match="Acme Pay failed"):
            provider(raising(error)).read_webhook(b"", {}, NOW)


@pytest.mark.parametrize(
    "page",
    [
        None,
        "https://pay.example.com/1",
        PaymentKind.EXPIRED,
        msgspec.structs.replace(PAGE, url=None),
        msgspec.structs.replace(PAGE, url="\ud800"),
        msgspec.structs.replace(PAGE, provider_session=7),
        msgspec.structs.replace(PAGE, expires_at="soon"),
        msgspec.structs.replace(PAGE, expires_at=2**70),
        msgspec.structs.replace(PAGE, expires_at=2**61),
        frozenset(),
    ],
    ids=repr,
)
async def test_a_page_that_the_books_cannot_hold_is_none(page: Any) -> None:
    """Nonsense is an answer that did not come; it never gets as far as a commit, which it would make fail (P8)."""
    with pytest.raises(CheckoutUnavailable, match="Acme Pay failed"):
        await provider(lambda: page).create_session(request())


@pytest.mark.parametrize(
    "event",
    [
        b"",
        PAGE,
        msgspec.structs.replace(EVENT, kind="BANKRUPT"),
        msgspec.structs.replace(EVENT, payment=7),
        msgspec.structs.replace(EVENT, provider_session="\udfff"),
    ],
    ids=repr,
)
def test_an_event_that_the_books_cannot_hold_is_none(event: Any) -> None:
    """The same for what a webhook is said to mean."""
    with pytest.raises(CheckoutUnavailable, match="Acme Pay failed"):
        provider(lambda: event).read_webhook(b"", {}, NOW)


async def test_closed_is_true_or_false() -> None:
    """None might mean either, and the money of two pages might come."""
    with pytest.raises(CheckoutUnavailable, match="Acme Pay failed"):
        await provider(lambda: None).close_session("p-1")


async def test_an_answer_is_not_waited_for_beyond_the_budget() -> None:
    """The request is answered without it; the thread goes on by itself."""
    release = threading.Event()
    try:
        with pytest.raises(CheckoutUnavailable, match=r"has not answered within 0\.01 seconds"):
            await provider(release.wait, 0.01).create_session(request())
    finally:
        release.set()


async def test_a_provider_that_hangs_takes_no_more_threads_than_it_may() -> None:
    """Calls beyond the bound begin when one comes back, or are answered without (P11)."""
    release, begun = threading.Event(), []

    def hang() -> bool:
        begun.append(1)
        return release.wait()

    hanging = provider(hang, 0.05)

    async def call() -> None:
        with pytest.raises(CheckoutUnavailable):
            await hanging.close_session("p-1")

    try:
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for _ in range(CALLS_MAX):
                    nursery.start_soon(call)
        assert len(begun) <= CALLS_MAX
    finally:
        release.set()


async def test_changed_invoices_are_taken_once() -> None:
    """What is noted wakes whoever waits, all of it at once, and nothing is left over."""
    changed = ChangedInvoices()
    changed.note([1, 2])
    changed.note([2, 3])
    assert await changed.take() == {1, 2, 3}
    async with trio.open_nursery() as nursery:
        taken = []

        async def wait() -> None:
            taken.append(await changed.take())

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert taken == []
        changed.note([4])
    assert taken == [{4}]


async def test_too_many_changed_invoices_are_not_named() -> None:
    """Beyond a bound it is only known that any may have changed (P11); then they are named again."""
    changed = ChangedInvoices()
    changed.note(range(NOTED_MAX + 1))
    changed.note([1])
    assert await changed.take() is None
    changed.note([1])
    assert await changed.take() == {1}


def test_no_provider_is_set_up_by_default() -> None:
    """Nothing is loaded."""
    assert open_provider(Payments()) is None
