"""A payment plugin that cannot be used is refused at start, by name, in one line."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from payments.requests_to_pay import request
from payments.stripe_stand_in import StripeStandIn
from tallyd.payments import Checkout, CheckoutRequest, CheckoutSession, PaymentEvent, SettingsError, hookimpl
from tallyd.payments.registry import CheckoutPluginError, open_checkout


class Odd(BaseException):
    """What no `except Exception` catches."""


class Plain(Checkout):
    """A checkout without fault, but for what a test sets."""

    name = "Plain"

    def __init__(self, **attributes: Any) -> None:
        for attribute, value in attributes.items():
            setattr(self, attribute, value)

    def create_session(self, request: CheckoutRequest) -> CheckoutSession:
        """Make a page that is always the same."""
        return CheckoutSession(provider_session=request.session, url="https://pay.example.com", expires_at=0)

    def close_session(self, provider_session: str) -> bool:  # noqa: ARG002
        """Close it."""
        return True

    def read_webhook(self, body: bytes, headers: Mapping[str, str], now: int) -> PaymentEvent | None:  # noqa: ARG002
        """Understand nothing."""
        return None


class Nameless(Plain):
    """A checkout that forgot its name."""

    name = ""


async def coroutine(*_arguments: Any) -> Any:
    """Answer too late."""


async def asynchronous_generator(*_arguments: Any) -> Any:
    """Answer too late, and more than once."""
    yield None


def raises(error: BaseException) -> Callable[..., Any]:
    """A function that raises."""

    def function(*_arguments: Any) -> Any:
        raise error

    return function


class Offering:
    """A plugin whose hook does what a function of the settings does."""

    def __init__(self, answer: Callable[[Mapping[str, str]], Any]) -> None:
        self._answer = answer

    @hookimpl
    def tallyd_checkout(self, settings: Mapping[str, str]) -> Any:
        """Offer."""
        return self._answer(settings)


class Empty(Offering):
    """A plugin that Python takes for false."""

    def __len__(self) -> int:
        return 0


class AsyncHook:
    """A hook that is a coroutine."""

    @hookimpl
    async def tallyd_checkout(self, settings: Mapping[str, str]) -> Any:
        """Offer too late."""


class AsyncGenerator:
    """A hook that is an asynchronous generator."""

    @hookimpl
    async def tallyd_checkout(self, settings: Mapping[str, str]) -> Any:  # noqa: ARG002
        """Offer too late."""
        yield Plain()


class ExtraArgument:
    """A hook that wants what it is not given."""

    @hookimpl
    def tallyd_checkout(self, settings: Mapping[str, str], more: Any) -> Any:  # noqa: ARG002
        """Offer."""
        return more


class Misspelt:
    """A hook that does not exist."""

    @hookimpl
    def tallyd_checkouts(self) -> Any:
        """Offer to nobody."""


class NoHook:
    """A plugin without a hook: one for prices, for instance."""


def scribble(settings: Any) -> Any:
    """Write on what was only lent."""
    settings["secret"] = "another"
    return Plain()


def abstract(_settings: Any) -> Any:
    """Make a checkout that lacks its methods."""
    return Checkout()  # type: ignore[abstract]


BAD: dict[str, tuple[object, str]] = {
    "raises": (Offering(raises(RuntimeError("boom"))), "boom"),
    "exits": (Offering(raises(SystemExit(4))), "SystemExit"),
    "base": (Offering(raises(Odd("odd"))), "Odd"),
    "settings": (Offering(raises(SettingsError("colour", "must be green"))), "colour: must be green"),
    "none": (Offering(lambda _: None), "returned nothing"),
    "number": (Offering(lambda _: 5), "returned int, not an instance"),
    "class": (Offering(lambda _: Plain), "returned the class Plain, not an instance"),
    "abstract": (Offering(abstract), "abstract"),
    "scribbles": (Offering(scribble), "does not support item assignment"),
    "no name": (Offering(lambda _: Nameless()), "Nameless has no name"),
    "name of another type": (Offering(lambda _: Plain(name=5)), "Plain has no name"),
    "async create_session": (Offering(lambda _: Plain(create_session=coroutine)), "create_session is async"),
    "async close_session": (Offering(lambda _: Plain(close_session=coroutine)), "close_session is async"),
    "async read_webhook": (Offering(lambda _: Plain(read_webhook=coroutine)), "read_webhook is async"),
    "generator": (Offering(lambda _: Plain(read_webhook=asynchronous_generator)), "read_webhook is async"),
    "async hook": (AsyncHook(), "tallyd_checkout is async"),
    "async generator hook": (AsyncGenerator(), "tallyd_checkout is async"),
    "extra argument": (ExtraArgument(), "more"),
    "misspelt": (Misspelt(), "tallyd_checkouts"),
    "no hook": (NoHook(), "returned nothing"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_plugin_that_cannot_be_used_is_refused_by_name(name: str) -> None:
    """The message names the plugin, says what is wrong, and shows no setting."""
    plugin, words = BAD[name]
    with pytest.raises(CheckoutPluginError, match=r"^payment plugin strange: ") as refused:
        open_checkout("strange", {"secret": "hush"}, plugin)
    assert words in str(refused.value)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("empty", [False, True])
def test_a_good_plugin_gets_its_settings_and_is_used(*, empty: bool) -> None:
    """What it returns is what is used; a plugin that counts as false is one all the same."""
    given = []

    def offer(settings: Mapping[str, str]) -> Checkout:
        given.append(dict(settings))
        return checkout

    checkout = Plain()
    plugin = Empty(offer) if empty else Offering(offer)
    assert open_checkout("plain", {"colour": "green"}, plugin) is checkout
    assert given == [{"colour": "green"}]


def test_the_settings_a_plugin_keeps_are_its_own() -> None:
    """What the caller does with its settings afterwards changes nothing for the plugin."""
    kept = []

    def offer(lent: Mapping[str, str]) -> Checkout:
        kept.append(lent)
        return Plain()

    settings = {"colour": "green"}
    open_checkout("plain", settings, Offering(offer))
    settings["colour"] = "red"
    assert dict(kept[0]) == {"colour": "green"}


def test_an_unknown_provider_is_refused_with_those_there_are() -> None:
    """Whoever misspells a provider reads how it is spelt."""
    with pytest.raises(CheckoutPluginError, match=r"^there is no payment plugin strip; installed: .*\bstripe\b"):
        open_checkout("strip", {})


def install(directory: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """Install a distribution as pip does, with a payment plugin named `odd`."""
    (directory / "odd_checkout.py").write_text(source, encoding="utf-8")
    info = directory / "odd-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[tallyd.checkout]\nodd = odd_checkout\n", encoding="utf-8")
    monkeypatch.setattr(sys, "path", [str(directory), *sys.path])
    monkeypatch.delitem(sys.modules, "odd_checkout", raising=False)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import sys\nsys.exit(7)\n", r"SystemExit\(7\)"),
        ("import nothing_of_this_name\n", "ModuleNotFoundError"),
        ("def (:\n", "SyntaxError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, words: str
) -> None:
    """Whatever importing it raises, the message names the plugin."""
    install(tmp_path, monkeypatch, source)
    with pytest.raises(CheckoutPluginError, match=rf"^payment plugin odd: {words}"):
        open_checkout("odd", {})


def test_only_the_plugin_that_is_named_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stripe_api: StripeStandIn
) -> None:
    """A plugin that cannot even be imported is in nobody's way."""
    install(tmp_path, monkeypatch, "import sys\nsys.exit(7)\n")
    assert open_checkout("stripe", stripe_api.settings).name == "Stripe"


def test_an_interrupt_while_a_plugin_loads_is_the_person_s() -> None:
    """Ctrl-C during a slow start ends it, and blames nobody."""
    with pytest.raises(KeyboardInterrupt):
        open_checkout("slow", {}, Offering(raises(KeyboardInterrupt())))


def test_stripe_is_found_by_its_name(stripe_api: StripeStandIn) -> None:
    """The plugin that comes with tallyd, by its entry point, makes a page."""
    checkout = open_checkout("stripe", stripe_api.settings)
    assert checkout.create_session(request()).provider_session in stripe_api.sessions


def test_settings_that_stripe_refuses_stop_the_start() -> None:
    """One line names the plugin and the key."""
    with pytest.raises(CheckoutPluginError, match=r"^payment plugin stripe: secret_key: is missing: "):
        open_checkout("stripe", {})
