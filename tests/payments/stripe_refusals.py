"""What Stripe refuses when a Checkout Session is made: the rules a client of ours can run into.

From Stripe's own documentation (API reference, currencies, metadata, error codes) and from what it answered to
people who reported it, as of November 2026. Less than the real thing in three ways: it knows the parameters of a
plain payment and calls all others unknown; it knows no exchange rates, so it has a least amount only for the
currencies Stripe lists one for; and where Stripe's wording is not known, the wording is ours.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

ITEMS_MAX: Final = 100
EXPIRES_AFTER_MIN_S: Final = 30 * 60
EXPIRES_AFTER_MAX_S: Final = 24 * 3600
AMOUNT_MAX: Final = 99_999_999
AMOUNT_MAX_IDR: Final = 999_999_999_999
METADATA_KEYS_MAX: Final = 50
METADATA_KEY_CHARACTERS_MAX: Final = 40
METADATA_VALUE_CHARACTERS_MAX: Final = 500

PARAMETERS: Final = {
    "mode",
    "client_reference_id",
    "success_url",
    "cancel_url",
    "customer_email",
    "expires_at",
    "metadata[]",
    "payment_intent_data[description]",
    "payment_intent_data[metadata][]",
    "line_items[][quantity]",
    "line_items[][price_data][currency]",
    "line_items[][price_data][unit_amount]",
    "line_items[][price_data][product_data][name]",
    "line_items[][price_data][product_data][description]",
}
CHARACTERS_MAX: Final = {
    "client_reference_id": 200,
    "success_url": 5_000,
    "cancel_url": 5_000,
    "payment_intent_data[description]": 1_000,
    "line_items[][price_data][product_data][name]": 250,
}
_TWO_DECIMALS_OR_NONE: Final = """
    aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bif bmd bnd bob brl bsd bwp byn bzd cad cdf chf clp cny
    cop crc cve czk djf dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gnf gtq gyd hkd hnl htg huf idr ils inr isk
    jmd jpy kes kgs khr kmf krw kyd kzt lak lbp lkr lrd lsl mad mdl mga mkd mmk mnt mop mur mvr mwk mxn myr mzn nad
    ngn nio nok npr nzd pab pen pgk php pkr pln pyg qar ron rsd rub rwf sar sbd scr sek sgd shp sle srd szl thb tjs
    try ttd twd tzs uah ugx usd uyu uzs vnd vuv wst xaf xcd xcg xof xpf yer zar zmw
"""
_THREE_DECIMALS: Final = "bhd jod kwd omr tnd"
CURRENCIES: Final = frozenset([*_TWO_DECIMALS_OR_NONE.split(), *_THREE_DECIMALS.split()])
AMOUNT_STEPS: Final = {**dict.fromkeys(_THREE_DECIMALS.split(), 10), "isk": 100, "ugx": 100}
"""Three decimals, but the last must be 0; and two decimals, but both must be 0."""
_AMOUNT_MINS: Final = """
    usd 50 aed 200 aud 50 bgn 100 brl 50 cad 50 chf 50 czk 1500 dkk 250 eur 50 gbp 30 hkd 400 huf 17500 inr 50
    jpy 50 mxn 1000 myr 200 nok 300 nzd 50 pln 200 ron 200 sek 300 sgd 50 thb 1000
"""
AMOUNT_MINS: Final = {name: int(least) for name, least in re.findall(r"(\w+) (\d+)", _AMOUNT_MINS)}


class Refusal(Exception):
    """An answer that is an error, as Stripe words it in JSON."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
        self.error: dict[str, Any] = {"type": "invalid_request_error", "message": message}
        self.error |= {key: value for key, value in (("param", param), ("code", code)) if value is not None}


def read_session(form: Mapping[str, str], now_s: int) -> dict[str, Any]:
    """Check the parameters of a new Checkout Session, and return what of it they decide.

    Args:
        form: values by the whole name, such as `line_items[0][quantity]`.
        now_s: seconds UTC.

    Raises:
        Refusal: Stripe would not make it.
    """
    for name, value in form.items():
        _check_parameter(name, value)
    for name in ("mode", "success_url"):
        if name not in form:
            raise _missing(name)
    if form["mode"] != "payment":
        raise Refusal("Invalid mode: this stand-in plays payment only", "mode")
    for name in ("success_url", "cancel_url"):
        if name in form and not _is_url(form[name]):
            raise Refusal("Not a valid URL", name, "url_invalid")
    email = form.get("customer_email")
    if email is not None and not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", email):
        raise Refusal(f"Invalid email address: {email}", "customer_email", "email_invalid")
    currency, amount = _read_items(form)
    metadata = _read_metadata(form, "metadata")
    _read_metadata(form, "payment_intent_data[metadata]")
    return {
        "amount_subtotal": amount,
        "amount_total": amount,
        "cancel_url": form.get("cancel_url"),
        "client_reference_id": form.get("client_reference_id"),
        "currency": currency,
        "customer_email": email,
        "expires_at": _read_expiry(form, now_s),
        "metadata": metadata,
        "mode": "payment",
        "success_url": form["success_url"],
    }


def _check_parameter(name: str, value: str) -> None:
    """Refuse a name Stripe does not know, an empty value, and one that is too long."""
    general = re.sub(r"^line_items\[\d+\]", "line_items[]", name)
    general = re.sub(r"(^metadata|\[metadata\])\[[^\[\]]+\]$", r"\1[]", general)
    if general not in PARAMETERS:
        raise Refusal(f"Received unknown parameter: {name}", name, "parameter_unknown")
    if general in {"metadata[]", "payment_intent_data[metadata][]"}:
        return
    if not value:
        raise Refusal(f"You passed an empty string for '{name}'.", name, "parameter_invalid_empty")
    longest = CHARACTERS_MAX.get(general)
    if longest is not None and len(value) > longest:
        raise Refusal(f"Invalid string: {value[:10]}…; must be at most {longest} characters", name)


def _read_items(form: Mapping[str, str]) -> tuple[str, int]:
    """Return the currency, and the sum in Stripe's minor units."""
    count = len({found[0] for name in form if (found := re.match(r"line_items\[\d+\]", name))})
    if not count:
        raise _missing("line_items")
    if count > ITEMS_MAX:
        raise Refusal(f"A session takes at most {ITEMS_MAX} line items, not {count}.", "line_items")
    items = [_read_item(form, f"line_items[{index}]") for index in range(count)]
    currencies = {currency for currency, _ in items}
    if len(currencies) > 1:
        raise Refusal("All line items must have the same currency.", "line_items")
    currency, amount = currencies.pop(), sum(amount for _, amount in items)
    least = AMOUNT_MINS.get(currency, 1)
    if amount < least:
        words = (
            f"The Checkout Session's total amount due must add up to at least {least} minor units of {currency}"
        )
        raise Refusal(words, None, "amount_too_small")
    if amount > (AMOUNT_MAX_IDR if currency == "idr" else AMOUNT_MAX):
        words = "The Checkout Session's total amount due has more than the eight digits there is room for"
        raise Refusal(words, None, "amount_too_large")
    return currency, amount


def _read_item(form: Mapping[str, str], item: str) -> tuple[str, int]:
    price = f"{item}[price_data]"
    needed = (f"{price}[currency]", f"{price}[unit_amount]", f"{price}[product_data][name]", f"{item}[quantity]")
    for name in needed:
        if name not in form:
            raise _missing(name)
    currency = form[f"{price}[currency]"].lower()
    if currency not in CURRENCIES:
        raise Refusal(f"Invalid currency: {currency}.", f"{price}[currency]")
    amount = _read_integer(form, f"{price}[unit_amount]")
    if amount < 0:
        raise Refusal("Invalid non-negative integer", f"{price}[unit_amount]")
    step = AMOUNT_STEPS.get(currency, 1)
    if amount % step:
        raise Refusal(f"Amounts of {currency} must be divisible by {step}: {amount}", f"{price}[unit_amount]")
    quantity = _read_integer(form, f"{item}[quantity]")
    if quantity < 1:
        raise Refusal("Invalid positive integer", f"{item}[quantity]")
    return currency, amount * quantity


def _read_expiry(form: Mapping[str, str], now_s: int) -> int:
    if "expires_at" not in form:
        return now_s + EXPIRES_AFTER_MAX_S
    expires_at = _read_integer(form, "expires_at")
    if expires_at < now_s + EXPIRES_AFTER_MIN_S:
        raise Refusal("The `expires_at` timestamp must be at least 30 minutes from Checkout Session creation.")
    if expires_at > now_s + EXPIRES_AFTER_MAX_S:
        raise Refusal("The `expires_at` timestamp must be less than 24 hours from Checkout Session creation.")
    return expires_at


def _read_metadata(form: Mapping[str, str], param: str) -> dict[str, str]:
    found = dict(_entries(form, f"{param}["))
    if len(found) > METADATA_KEYS_MAX:
        raise Refusal(f"Metadata can have up to {METADATA_KEYS_MAX} keys, but you've set {len(found)}.", param)
    for key, value in found.items():
        if len(key) > METADATA_KEY_CHARACTERS_MAX or len(value) > METADATA_VALUE_CHARACTERS_MAX:
            raise Refusal(f"Metadata key or value too long: {key:.50}", f"{param}[{key}]")
    return found


def _entries(form: Mapping[str, str], prefix: str) -> Iterator[tuple[str, str]]:
    return ((name[len(prefix) : -1], value) for name, value in form.items() if name.startswith(prefix))


def _read_integer(form: Mapping[str, str], name: str) -> int:
    if not re.fullmatch(r"-?\d+", form[name], re.ASCII):
        raise Refusal(f"Invalid integer: {form[name]}", name, "parameter_invalid_integer")
    return int(form[name])


def _is_url(text: str) -> bool:
    parts = urlsplit(text)
    return parts.scheme in {"http", "https"} and bool(parts.netloc) and not re.search(r"\s", text)


def _missing(name: str) -> Refusal:
    return Refusal(f"Missing required param: {name}.", name, "parameter_missing")
