"""Stripe: an invoice is paid on Stripe's hosted page. Needs the extra: `pip install 'tallyd[stripe]'`.

```toml
[payments]
provider = "stripe"
success_url = "https://app.example.com/paid"

[payments.stripe]
secret_key_file = "/etc/tallyd/stripe_key"              # or TALLYD_PAYMENTS_STRIPE_SECRET_KEY
webhook_secret_file = "/etc/tallyd/stripe_webhook"      # or TALLYD_PAYMENTS_STRIPE_WEBHOOK_SECRET
# api_base = "http://127.0.0.1:12111"                   # not Stripe itself: a proxy, or a stand-in for tests
```

In Stripe's dashboard the webhook endpoint needs `checkout.session.completed`, `checkout.session.expired`,
`checkout.session.async_payment_succeeded` and `checkout.session.async_payment_failed`.

Amounts are sent in Stripe's minor units, which are not always those of ISO 4217 (docs.stripe.com/currencies), and
are never rounded: KWD 1.234 cannot be paid here, since Stripe takes KWD in steps of 0.010.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from tallyd.model.moments import SECOND_US
from tallyd.model.money import currency_exponent, plain
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
    SettingsError,
    hookimpl,
)

try:
    import stripe
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("Stripe needs its own package: pip install 'tallyd[stripe]'") from missing

if TYPE_CHECKING:
    from stripe.params.checkout import SessionCreateParams, SessionCreateParamsLineItem

TIMEOUT_S: Final = 15
TOLERANCE_US: Final = 300 * SECOND_US
"""A signature older than this may be a recording of one: Stripe's own default."""

LINES_MAX: Final = 40
"""Stripe takes 100 and recommends a few dozen; longer invoices become one line."""
NAME_CHARACTERS_MAX: Final = 250
DESCRIPTION_CHARACTERS_MAX: Final = 500
WORDS_CHARACTERS_MAX: Final = 400
"""Of what Stripe says of a failure: a proxy may answer with a whole page."""
SESSION_KEY: Final = "tallyd_session"
"""Where our session's id stands in the metadata. Not `client_reference_id`: whoever opens one of the account's
payment links may choose that. Metadata only the account itself can write."""

_NO_DECIMALS: Final = "BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF"
_THREE_DECIMALS: Final = "BHD JOD KWD OMR TND"
_MINOR_DIGITS: Final = {**dict.fromkeys(_NO_DECIMALS.split(), 0), **dict.fromkeys(_THREE_DECIMALS.split(), 3)}
_THREE_DECIMALS_STEP: Final = 10
"""The third digit must be 0: the cards' networks have no room for it."""
_KINDS: Final = {
    "checkout.session.completed": PaymentKind.COMPLETED,
    "checkout.session.async_payment_succeeded": PaymentKind.COMPLETED,
    "checkout.session.async_payment_failed": PaymentKind.ASYNC_FAILED,
    "checkout.session.expired": PaymentKind.EXPIRED,
}
_SECRET_KEY: Final = re.compile(r"(sk|rk)_\w+", re.ASCII)
_WEBHOOK_SECRET: Final = re.compile(r"whsec_[!-~]+")

_Shape = TypeVar("_Shape")


class _Made(msgspec.Struct):
    """A Checkout Session that can be paid."""

    id: str
    url: str
    expires_at: int


class _Closing(msgspec.Struct):
    """A Checkout Session that may not be one to pay any more."""

    status: str


class _Session(msgspec.Struct):
    """A Checkout Session in an event. Only one that is paid is sure to have an amount."""

    id: str
    amount_total: int | None = None
    currency: str | None = None
    payment_status: str | None = None
    metadata: dict[str, str] | None = None
    payment_intent: str | None = None


class _Envelope(msgspec.Struct):
    """What all events have; `account` is set when it happened on an account connected to ours."""

    type: str
    account: str | None = None


class _Data(msgspec.Struct):
    object: _Session


class _Event(msgspec.Struct):
    """An event about a Checkout Session."""

    id: str
    created: int
    data: _Data


class StripeCheckout(Checkout):
    """Hosted Checkout Sessions.

    Args:
        secret_key: `sk_…`, or a restricted key that may write Checkout Sessions.
        webhook_secret: `whsec_…` of the endpoint that events are sent to.
        api_base: another address of the API, without a slash at its end: a proxy, or a stand-in for tests.
    """

    name = "Stripe"

    def __init__(self, *, secret_key: str, webhook_secret: str, api_base: str | None = None) -> None:
        stripe.enable_telemetry = False  # it would write an id into the home directory and send it along
        self._webhook_secret = webhook_secret
        self._sessions = stripe.StripeClient(
            secret_key,
            base_addresses={"api": api_base} if api_base else {},
            max_network_retries=0,
            http_client=stripe.RequestsClient(timeout=TIMEOUT_S),
        ).v1.checkout.sessions

    def create_session(self, request: CheckoutRequest) -> CheckoutSession:
        """Make a Checkout Session in `payment` mode."""
        if request.amount <= 0:
            raise CheckoutRefused(f"there is nothing to pay: {_money(request.amount, request.currency)}")
        params = _params(request)
        try:
            answer = self._sessions.create(params, {"idempotency_key": request.idempotency_key})
        except stripe.StripeError as error:
            raise _translated(error) from error
        made = _read(answer, _Made)
        return CheckoutSession(provider_session=made.id, url=made.url, expires_at=made.expires_at * SECOND_US)

    def close_session(self, provider_session: str) -> bool:
        """Expire a Checkout Session; one that Stripe will not expire is looked at instead.

        A payment that was promised and did not come is not told from one on its way: False for both.
        """
        try:
            try:
                answer = self._sessions.expire(provider_session)
            except stripe.InvalidRequestError:  # it is not open any more, or unknown
                answer = self._sessions.retrieve(provider_session)
        except stripe.StripeError as error:
            raise _translated(error) from error
        return _read(answer, _Closing).status == "expired"

    def read_webhook(self, body: bytes, headers: Mapping[str, str], now: int) -> PaymentEvent | None:
        """Verify `Stripe-Signature`, its age by the daemon's clock, and read the event."""
        self._verify(body, headers.get("stripe-signature", ""), now)
        try:
            envelope = msgspec.json.decode(body, type=_Envelope)
            kind = _KINDS.get(envelope.type)
            if kind is None or envelope.account is not None:  # a connected account may write what it likes
                return None
            event = msgspec.json.decode(body, type=_Event)
        except msgspec.DecodeError as error:
            raise BadPayload(f"the event cannot be read: {error}") from None
        session = event.data.object
        ours = (session.metadata or {}).get(SESSION_KEY)
        if not ours or (kind is PaymentKind.COMPLETED and session.payment_status != "paid"):
            return None  # another program's session; or a payment that is promised, not made
        if session.amount_total is None or session.currency is None:
            raise BadPayload(f"session {session.id} has no amount")
        currency = session.currency.upper()
        return PaymentEvent(
            id=event.id,
            kind=kind,
            session=ours,
            provider_session=session.id,
            amount=_from_stripe(session.amount_total, currency),
            currency=currency,
            payment=session.payment_intent,
            occurred_at=event.created * SECOND_US,
        )

    def _verify(self, body: bytes, header: str, now: int) -> None:
        if not header:
            raise BadSignature("there is no Stripe-Signature header")
        if not header.isascii():
            raise BadSignature("the Stripe-Signature header is not one")
        try:  # without a tolerance: the package would ask the machine for the time
            stripe.WebhookSignature.verify_header(body, header, self._webhook_secret, tolerance=None)
        except stripe.SignatureVerificationError as error:
            raise BadSignature(error.user_message or "the signature is not Stripe's") from None
        except UnicodeDecodeError:
            raise BadSignature("the body is not UTF-8, as all that Stripe signs is") from None
        times = (part.split("=") for part in header.split(","))  # as the package reads it: t=1=2 is 1
        signed_at_s = next(int(part[1]) for part in times if part[0] == "t")
        age_us = now - signed_at_s * SECOND_US
        if age_us > TOLERANCE_US:
            raise BadSignature(f"it was signed {age_us // SECOND_US} seconds ago: too old, or the clock is wrong")


def _params(request: CheckoutRequest) -> "SessionCreateParams":
    metadata = {SESSION_KEY: request.session, "tallyd_customer": request.customer}
    if request.invoice is not None:
        metadata["tallyd_invoice"] = request.invoice
    params: SessionCreateParams = {
        "mode": "payment",
        "client_reference_id": request.session,
        "line_items": _line_items(request),
        "metadata": metadata,
        "payment_intent_data": {"description": _name(request.title), "metadata": metadata},
        "success_url": request.success_url,
    }
    if request.cancel_url is not None:
        params["cancel_url"] = request.cancel_url
    if request.email is not None:
        params["customer_email"] = request.email
    if request.expires_at is not None:
        params["expires_at"] = request.expires_at // SECOND_US
    return params


def _line_items(request: CheckoutRequest) -> "list[SessionCreateParamsLineItem]":
    """One item for each line; but one for all where Stripe would not take them: negative, too fine, too many.

    Raises:
        CheckoutRefused: the total itself cannot be paid.
        ValueError: the lines do not sum to the total.
    """
    lines, currency = request.lines, request.currency
    total = _to_stripe(request.amount, currency)
    if not lines:
        return [_line_item(request.title, "", total, currency)]
    if sum(line.amount for line in lines) != request.amount:
        raise ValueError(f"the lines of {request.title} do not sum to {request.amount}")
    step = _step(currency)
    if len(lines) <= LINES_MAX and all(line.amount >= 0 and line.amount % step == 0 for line in lines):
        return [
            _line_item(line.words or request.title, "", _to_stripe(line.amount, currency), currency)
            for line in lines
        ]
    return [_line_item(request.title, _description(request), total, currency)]


def _line_item(name: str, description: str, unit_amount: int, currency: str) -> "SessionCreateParamsLineItem":
    item: SessionCreateParamsLineItem = {
        "quantity": 1,
        "price_data": {
            "currency": currency.lower(),
            "unit_amount": unit_amount,
            "product_data": {"name": _name(name)},
        },
    }
    if description:  # an empty one is refused
        item["price_data"]["product_data"]["description"] = description
    return item


def _name(words: str) -> str:
    return words if len(words) <= NAME_CHARACTERS_MAX else words[: NAME_CHARACTERS_MAX - 1] + "…"


def _description(request: CheckoutRequest) -> str:
    """As many whole lines as there is room for, and how many more there are."""
    texts = [f"{line.words}: {_money(line.amount, request.currency)}" for line in request.lines]
    for shown in range(len(texts), 0, -1):
        more = len(texts) - shown
        words = "; ".join([*texts[:shown], *([f"and {more} more"] if more else [])])
        if len(words) <= DESCRIPTION_CHARACTERS_MAX:
            return words
    return f"{len(texts)} lines"


def _money(minor: int, currency: str) -> str:
    return f"{plain(Decimal(minor).scaleb(-currency_exponent(currency)))} {currency}"


def _ratio(currency: str) -> tuple[int, int]:
    """How many of Stripe's minor units stand for how many of ISO 4217's.

    1 for 1, but 100 for 1 of ISK and UGX, which Stripe goes on writing with two decimals, and 1 for 100 of MGA.
    """
    more = _MINOR_DIGITS.get(currency, 2) - currency_exponent(currency)
    return int(10 ** max(0, more)), int(10 ** max(0, -more))


def _step(currency: str) -> int:
    """Return the smallest amount Stripe can take, in minor units of ISO 4217; all others are multiples of it."""
    return _THREE_DECIMALS_STEP if currency in _THREE_DECIMALS.split() else _ratio(currency)[1]


def _to_stripe(minor: int, currency: str) -> int:
    step = _step(currency)
    if minor % step:
        steps = _money(step, currency)
        raise CheckoutRefused(f"Stripe takes {currency} in steps of {steps}; this is {_money(minor, currency)}")
    stripes, ours = _ratio(currency)
    return minor * stripes // ours


def _from_stripe(amount: int, currency: str) -> int:
    stripes, ours = _ratio(currency)
    minor, rest = divmod(amount * ours, stripes)
    if rest:
        raise BadPayload(f"{amount} is no amount of {currency}")
    return minor


def _read(answer: object, shape: type[_Shape]) -> _Shape:
    try:
        return msgspec.convert(answer, shape, from_attributes=True)
    except msgspec.ValidationError as error:
        raise CheckoutUnavailable(f"Stripe's answer cannot be read: {error}") from error


def _translated(error: stripe.StripeError) -> CheckoutRefused | CheckoutUnavailable:
    """Whether asking again may help, with Stripe's own words and the number to ask Stripe about."""
    words = " ".join((error.user_message or type(error).__name__).split())[:WORDS_CHARACTERS_MAX]
    request = f" ({error.request_id})" if error.request_id else ""
    if isinstance(error, stripe.InvalidRequestError | stripe.IdempotencyError | stripe.CardError):
        return CheckoutRefused(f"Stripe refuses it: {words}{request}")
    return CheckoutUnavailable(f"Stripe does not answer as it should: {words}{request}")


def _check(given: Mapping[str, str]) -> None:
    """Refuse settings that cannot work, also a key that would fit into no header: errors would quote it.

    Raises:
        SettingsError: names the key.
    """
    for key in ("secret_key", "webhook_secret"):
        if not given.get(key):
            variable = f"TALLYD_PAYMENTS_STRIPE_{key.upper()}"
            raise SettingsError(key, f"is missing: name a file in {key}_file, or set {variable}")
    if not _SECRET_KEY.fullmatch(given["secret_key"]):
        raise SettingsError("secret_key", "must be Stripe's secret key, sk_…, or a restricted one, rk_…")
    if not _WEBHOOK_SECRET.fullmatch(given["webhook_secret"]):
        raise SettingsError("webhook_secret", "must be the signing secret of Stripe's webhook endpoint, whsec_…")
    if "api_base" in given and not _is_address(given["api_base"]):
        raise SettingsError("api_base", "must be an address such as https://stripe-proxy.example.com")


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:  # it begins like an IPv6 address, and is none
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and not parts.query and not parts.fragment


@hookimpl
def tallyd_checkout(settings: Mapping[str, str]) -> Checkout:
    """Offer Stripe's hosted Checkout."""
    for key in settings:
        if key not in {"secret_key", "webhook_secret", "api_base"}:
            raise SettingsError(key, "there is no such setting")
    given = {key: value.strip() for key, value in settings.items()}
    _check(given)
    return StripeCheckout(
        secret_key=given["secret_key"],
        webhook_secret=given["webhook_secret"],
        api_base=given["api_base"].rstrip("/") if "api_base" in given else None,
    )
