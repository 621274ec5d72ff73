"""Stripe's hosted checkout, through Stripe's own package, against a Stripe of our own."""

import importlib
import itertools
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

import tallyd_stripe
from payments.requests_to_pay import DAY_S, NOW_S, lines, request
from payments.stripe_stand_in import SECRET_KEY, WEBHOOK_SECRET, StripeStandIn, Webhook
from tallyd.model.moments import SECOND_US
from tallyd.payments import (
    BadPayload,
    BadSignature,
    Checkout,
    CheckoutRefused,
    CheckoutUnavailable,
    PaymentEvent,
    PaymentKind,
    SettingsError,
)
from tallyd_stripe import tallyd_checkout


def unit_amounts(stripe_api: StripeStandIn) -> list[int]:
    """What the items of the last request cost, in Stripe's minor units."""
    form = stripe_api.received[-1].form
    return [int(value) for name, value in form.items() if name.endswith("[unit_amount]")]


def read(checkout: Checkout, stripe_api: StripeStandIn, webhook: Webhook) -> PaymentEvent | None:
    """Read a webhook at the time it is."""
    return checkout.read_webhook(webhook.body, webhook.headers, stripe_api.now_s * SECOND_US)


def kinds(checkout: Checkout, stripe_api: StripeStandIn) -> list[PaymentKind | None]:
    """What everything that happened means, in its order."""
    found = [read(checkout, stripe_api, stripe_api.deliver(event)) for event in stripe_api.events]
    return [event.kind if event else None for event in found]


# Making a page


def test_a_request_becomes_a_page_to_pay_on(stripe_api: StripeStandIn, checkout: Checkout) -> None:
    """What is paid, who pays and where they go afterwards is all on Stripe's session; it closes after a day."""
    made = checkout.create_session(request(email="ap@acme.example", cancel_url="https://app.example.com/no"))
    (session,) = stripe_api.sessions.values()
    assert made.provider_session == session["id"]
    assert made.url == session["url"]
    assert made.expires_at == (stripe_api.now_s + DAY_S) * SECOND_US
    assert (session["amount_total"], session["currency"]) == (1_234, "usd")
    assert (session["success_url"], session["cancel_url"]) == (
        "https://app.example.com/paid",
        "https://app.example.com/no",
    )
    assert (session["customer_email"], session["client_reference_id"]) == ("ap@acme.example", "session-1")
    assert session["metadata"] == {
        "tallyd_session": "session-1",
        "tallyd_invoice": "acme-7",
        "tallyd_customer": "acme",
    }


def test_what_is_not_known_is_not_sent(stripe_api: StripeStandIn, checkout: Checkout) -> None:
    """Without an invoice, an email or a way back Stripe is told of none: it refuses empty ones."""
    checkout.create_session(request(invoice=None))
    (session,) = stripe_api.sessions.values()
    assert "tallyd_invoice" not in session["metadata"]
    assert session["customer_email"] is session["cancel_url"] is None


def test_a_page_closes_when_it_is_asked_to(stripe_api: StripeStandIn, checkout: Checkout) -> None:
    """The time at which the page closes is sent in seconds and comes back in microseconds."""
    expires_at = (stripe_api.now_s + 3_600) * SECOND_US
    assert checkout.create_session(request(expires_at=expires_at + 999)).expires_at == expires_at


def test_the_same_request_makes_one_page(stripe_api: StripeStandIn, checkout: Checkout) -> None:
    """Sent again with its key, a request gets the answer it got before."""
    assert checkout.create_session(request()) == checkout.create_session(request())
    assert len(stripe_api.sessions) == 1


def test_a_key_is_good_for_one_request(stripe_api: StripeStandIn, checkout: Checkout) -> None:
    """Another request with a key that was used is refused: sending it again cannot help."""
    checkout.create_session(request())
    with pytest.raises(CheckoutRefused, match="same parameters"):
        checkout.create_session(request(amount=1_235))
    assert len(stripe_api.sessions) == 1


def test_an_answer_that_was_lost_is_found_again(stripe_api: StripeStandIn, checkout: Checkout) -> None:
    """When the connection breaks nobody knows; the same request, sent again, finds the page that was made."""
    stripe_api.lose_next_answer()
    with pytest.raises(CheckoutUnavailable):
        checkout.create_session(request())
    made = checkout.create_session(request())
    assert list(stripe_api.sessions) == [made.provider_session]


def test_one_checkout_serves_several_threads(stripe_api: StripeStandIn, checkout: Checkout) -> None:
    """Requests at the same time get a page each, their own."""
    names = [f"session-{number}" for number in range(20)]
    asked = [request(session=name, idempotency_key=name) for name in names]
    with ThreadPoolExecutor(8) as threads:
        made = threads.map(checkout.create_session, asked)
        ids = [session.provider_session for session in made]
    assert [stripe_api.sessions[found]["metadata"]["tallyd_session"] for found in ids] == names


def test_stripe_is_not_told_about_this_machine(stripe_api: StripeStandIn, checkout: Checkout) -> None:
    """The package's telemetry is off: no id of the machine, no timings of the request before."""
    checkout.create_session(request())
    checkout.create_session(request())
    headers = stripe_api.received[-1].headers
    assert "x-stripe-client-telemetry" not in headers
    assert "telemetry_id" not in headers["x-stripe-client-user-agent"]


# Lines


def test_each_line_is_an_item(stripe_api: StripeStandIn, checkout: Checkout) -> None:
    """The page shows the lines of the invoice, free ones too; one without words has the title's."""
    nameless = msgspec.structs.replace(lines(34)[0], words="")
    checkout.create_session(request(lines=(*lines(1_200, 0), nameless)))
    names = [value for name, value in stripe_api.received[-1].form.items() if name.endswith("[name]")]
    assert names == ["line 1", "line 2", "Invoice acme-7"]
    assert unit_amounts(stripe_api) == [1_200, 0, 34]


@pytest.mark.parametrize(
    ("amounts", "amount", "description"),
    [
        ((2_000, -766), 1_234, "line 1: 20.00 USD; line 2: -7.66 USD"),
        ((1,) * 41, 41 + 1_193, None),
    ],
    ids=["negative", "many"],
)
def test_lines_stripe_would_not_take_become_one(
    stripe_api: StripeStandIn, checkout: Checkout, amounts: tuple[int, ...], amount: int, description: str | None
) -> None:
    """With something given back, or with very many lines, there is one item; its description has the lines."""
    rest = (amount - sum(amounts),) if amount != sum(amounts) else ()
    checkout.create_session(request(amount=amount, lines=lines(*amounts, *rest)))
    assert unit_amounts(stripe_api) == [amount]
    (sent,) = [value for name, value in stripe_api.received[-1].form.items() if "[product_data][desc" in name]
    assert description in (None, sent)
    assert len(sent) <= tallyd_stripe.DESCRIPTION_CHARACTERS_MAX


def test_a_line_finer_than_stripe_becomes_part_of_one(stripe_api: StripeStandIn, checkout: Checkout) -> None:
    """Lines of KWD 0.615 cannot be sent, but their sum of 1.230 can."""
    checkout.create_session(request(amount=1_230, currency="KWD", lines=lines(615, 615)))
    assert unit_amounts(stripe_api) == [1_230]


def test_a_long_description_ends_with_how_many_more(stripe_api: StripeStandIn, checkout: Checkout) -> None:
    """Only whole lines are shown, and the others are counted."""
    checkout.create_session(request(amount=99, lines=lines(*[1] * 99)))
    (sent,) = [value for name, value in stripe_api.received[-1].form.items() if "[product_data][desc" in name]
    shown = sent.split("; ")
    assert shown[-1] == f"and {99 - len(shown) + 1} more"
    assert shown[-2] == f"line {len(shown) - 1}: 0.01 USD"


def test_one_endless_line_is_only_counted(stripe_api: StripeStandIn, checkout: Checkout) -> None:
    """Where not even one whole line fits into the description, it says how many there are."""
    endless = tuple(msgspec.structs.replace(line, words="x" * 600) for line in lines(2_000, -766))
    checkout.create_session(request(lines=endless))
    assert "2 lines" in stripe_api.received[-1].form.values()


def test_names_are_cut_to_what_stripe_takes(stripe_api: StripeStandIn, checkout: Checkout) -> None:
    """A title of any length can be paid."""
    checkout.create_session(request(title="ü" * 2_000))
    assert "ü" * 249 + "…" in stripe_api.received[-1].form.values()


def test_lines_that_do_not_sum_are_not_sent(stripe_api: StripeStandIn, checkout: Checkout) -> None:
    """It is the caller's mistake, and nobody is asked to pay it."""
    with pytest.raises(ValueError, match="do not sum"):
        checkout.create_session(request(lines=lines(1_233)))
    assert not stripe_api.received


# Amounts


@pytest.mark.parametrize(
    ("currency", "amount", "stripes"),
    [
        ("USD", 1_234, 1_234),
        ("JPY", 500, 500),
        ("KWD", 1_230, 1_230),
        ("ISK", 500, 50_000),
        ("UGX", 5_000, 500_000),
        ("MGA", 500_000, 5_000),
        ("HUF", 17_550, 17_550),
    ],
)
def test_amounts_go_there_and_back(
    stripe_api: StripeStandIn, checkout: Checkout, currency: str, amount: int, stripes: int
) -> None:
    """Stripe's minor units are not always those of ISO 4217; what comes back is what was asked for."""
    made = checkout.create_session(request(currency=currency, amount=amount))
    assert stripe_api.sessions[made.provider_session]["amount_total"] == stripes
    paid = read(checkout, stripe_api, stripe_api.deliver(stripe_api.pay(made.provider_session)))
    assert paid is not None
    assert (paid.amount, paid.currency) == (amount, currency)


@pytest.mark.parametrize(
    ("currency", "amount", "words"),
    [
        ("USD", 0, "0.00 USD"),
        ("USD", -5, "-0.05 USD"),
        ("KWD", 1_234, "steps of 0.010 KWD; this is 1.234 KWD"),
        ("MGA", 500_050, "steps of 1.00 MGA; this is 5000.50 MGA"),
    ],
)
def test_amounts_that_cannot_be_paid_are_not_even_sent(
    stripe_api: StripeStandIn, checkout: Checkout, currency: str, amount: int, words: str
) -> None:
    """Nothing is rounded: nothing to pay, and what is finer than Stripe can take, is refused, in words."""
    with pytest.raises(CheckoutRefused, match=words):
        checkout.create_session(request(currency=currency, amount=amount))
    assert not stripe_api.received


# What goes wrong


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"amount": 49}, "at least 50"),
        ({"amount": 100_000_000}, "eight digits"),
        ({"currency": "XTS"}, "Invalid currency: xts"),
        ({"success_url": "app.example.com"}, "Not a valid URL"),
        ({"email": "nobody"}, "Invalid email address: nobody"),
        ({"expires_at": NOW_S * SECOND_US}, "at least 30 minutes"),
        ({"expires_at": (NOW_S + DAY_S + 1) * SECOND_US}, "less than 24 hours"),
        ({"idempotency_key": "k" * 256}, "at most 255"),
    ],
)
def test_what_stripe_refuses_is_refused_in_its_words(
    stripe_api: StripeStandIn, checkout: Checkout, fields: dict[str, Any], words: str
) -> None:
    """A person reads why, and the number of the request that Stripe's support asks for."""
    with pytest.raises(CheckoutRefused, match=rf"{words}.* \(req_\d+\)$"):
        checkout.create_session(request(**fields))
    assert not stripe_api.sessions


def test_a_request_that_was_refused_may_be_mended(stripe_api: StripeStandIn, checkout: Checkout) -> None:
    """A key is not used up by a request that was refused."""
    with pytest.raises(CheckoutRefused):
        checkout.create_session(request(amount=49))
    assert checkout.create_session(request()).provider_session in stripe_api.sessions


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (429, {"error": {"type": "invalid_request_error", "code": "rate_limit", "message": "Too many"}}),
        (409, {"error": {"type": "idempotency_error", "code": "idempotency_key_in_use", "message": "In use"}}),
        (403, {"error": {"type": "invalid_request_error", "message": "The key may not do this"}}),
        (500, {"error": {"type": "api_error", "message": "Something is wrong on our side"}}),
        (503, b""),
        (502, b"<html>" + b"proxy error " * 1_000),
        (200, b"<html>log in to the network first"),
        (200, {}),
        (200, []),
        (200, {"id": "cs_1", "expires_at": 1, "url": None}),
    ],
    ids=["rate", "in use", "forbidden", "error", "empty", "page", "portal", "object", "array", "no page"],
)
def test_an_answer_that_decides_nothing_is_unavailable(
    stripe_api: StripeStandIn, checkout: Checkout, status: int, body: object
) -> None:
    """Whatever is not an answer to the request may be asked again; the plugin does not do so by itself."""
    stripe_api.fail_next(status, body)
    with pytest.raises(CheckoutUnavailable) as unavailable:
        checkout.create_session(request())
    assert len(str(unavailable.value)) < 600
    assert "\n" not in str(unavailable.value)
    assert len(stripe_api.received) == 1
    assert checkout.create_session(request()).provider_session in stripe_api.sessions


def test_a_key_that_is_not_accepted_is_unavailable(stripe_api: StripeStandIn) -> None:
    """The operator can mend it, so the request may be sent again; the key is not shown."""
    key = "sk_test_of_somebody_else"
    checkout = tallyd_checkout({**stripe_api.settings, "secret_key": key})
    with pytest.raises(CheckoutUnavailable, match="Invalid API Key") as unavailable:
        checkout.create_session(request())
    assert key not in str(unavailable.value)


def test_nobody_there_is_unavailable(stripe_api: StripeStandIn) -> None:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        checkout = tallyd_checkout({**stripe_api.settings, "api_base": address})
        with pytest.raises(CheckoutUnavailable, match="Stripe does not answer"):
            checkout.create_session(request())


def test_an_answer_that_does_not_come_is_given_up(
    stripe_api: StripeStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker thread is not held for ever."""
    monkeypatch.setattr(tallyd_stripe, "TIMEOUT_S", 0.05)
    checkout = tallyd_checkout(stripe_api.settings)
    stripe_api.hang_next()
    with pytest.raises(CheckoutUnavailable, match=r"read timeout=0\.05"):
        checkout.create_session(request())


# Closing a page


def test_a_page_can_be_closed_more_than_once(stripe_api: StripeStandIn, checkout: Checkout) -> None:
    """Closed is closed, whether by this call, by the one before or by time."""
    made = checkout.create_session(request())
    assert checkout.close_session(made.provider_session)
    assert stripe_api.sessions[made.provider_session]["status"] == "expired"
    assert checkout.close_session(made.provider_session)
    late = checkout.create_session(request(idempotency_key="late"))
    stripe_api.advance(DAY_S)
    assert checkout.close_session(late.provider_session)


def test_a_page_that_was_paid_cannot_be_closed(stripe_api: StripeStandIn, checkout: Checkout) -> None:
    """False says that money has come, or is on its way."""
    paid, promised = (checkout.create_session(request(idempotency_key=key)).provider_session for key in "ab")
    stripe_api.pay(paid)
    stripe_api.promise(promised)
    assert not checkout.close_session(paid)
    assert not checkout.close_session(promised)


@pytest.mark.parametrize("unknown", ["cs_test_nobody", "../../v1/customers", "ü"])
@pytest.mark.usefixtures("stripe_api")
def test_a_page_that_is_not_known_is_refused(checkout: Checkout, unknown: str) -> None:
    """Whatever the id, only a session can be meant by it."""
    with pytest.raises(CheckoutRefused, match=r"No such checkout\.session"):
        checkout.close_session(unknown)


def test_a_page_nothing_is_known_of_is_unavailable(stripe_api: StripeStandIn, checkout: Checkout) -> None:
    """It may be closed or not; asking again is safe."""
    made = checkout.create_session(request())
    stripe_api.fail_next(500, {"error": {"type": "api_error", "message": "Ours"}})
    with pytest.raises(CheckoutUnavailable):
        checkout.close_session(made.provider_session)
    stripe_api.fail_next(200, {})
    with pytest.raises(CheckoutUnavailable):
        checkout.close_session(made.provider_session)
    assert checkout.close_session(made.provider_session)


# Webhooks


def test_a_payment_says_all_about_itself(stripe_api: StripeStandIn, checkout: Checkout) -> None:
    """Which session of ours, which of Stripe's, how much, when, and the payment, to refund it."""
    made = checkout.create_session(request())
    stripe_api.advance(90)
    event = stripe_api.pay(made.provider_session)
    assert read(checkout, stripe_api, stripe_api.deliver(event)) == PaymentEvent(
        id=event["id"],
        kind=PaymentKind.COMPLETED,
        session="session-1",
        provider_session=made.provider_session,
        amount=1_234,
        currency="USD",
        payment=stripe_api.sessions[made.provider_session]["payment_intent"],
        occurred_at=stripe_api.now_s * SECOND_US,
    )


def pays(stripe_api: StripeStandIn, session_id: str) -> None:
    """Pay by card."""
    stripe_api.pay(session_id)


def pays_later(stripe_api: StripeStandIn, session_id: str) -> None:
    """Pay by a transfer that comes."""
    stripe_api.promise(session_id)
    stripe_api.money_comes(session_id)


def fails_to_pay(stripe_api: StripeStandIn, session_id: str) -> None:
    """Pay by a transfer that does not come."""
    stripe_api.promise(session_id)
    stripe_api.money_fails_to_come(session_id)


def turns_away(stripe_api: StripeStandIn, _session_id: str) -> None:
    """Leave the page alone until it closes."""
    stripe_api.advance(DAY_S)


STORIES: dict[Callable[[StripeStandIn, str], None], list[PaymentKind | None]] = {
    pays: [PaymentKind.COMPLETED],
    pays_later: [None, PaymentKind.COMPLETED],
    fails_to_pay: [None, PaymentKind.ASYNC_FAILED],
    turns_away: [PaymentKind.EXPIRED],
}


@pytest.mark.parametrize("story", STORIES)
def test_only_money_that_has_come_completes(
    stripe_api: StripeStandIn, checkout: Checkout, story: Callable[[StripeStandIn, str], None]
) -> None:
    """Stripe calls a session completed when the money is only promised; that means nothing yet."""
    story(stripe_api, checkout.create_session(request()).provider_session)
    assert kinds(checkout, stripe_api) == STORIES[story]


def test_a_page_that_was_closed_says_so(stripe_api: StripeStandIn, checkout: Checkout) -> None:
    """Closing a page ourselves brings the same webhook as its own end."""
    checkout.close_session(checkout.create_session(request()).provider_session)
    assert kinds(checkout, stripe_api) == [PaymentKind.EXPIRED]


def test_every_delivery_of_an_event_means_the_same(stripe_api: StripeStandIn, checkout: Checkout) -> None:
    """The same bytes again, and a retry that is signed hours later, are read as what came first."""
    event = stripe_api.pay(checkout.create_session(request()).provider_session)
    webhook = stripe_api.deliver(event)
    first = read(checkout, stripe_api, webhook)
    assert first is not None
    assert read(checkout, stripe_api, webhook) == first
    stripe_api.advance(7_200)
    assert read(checkout, stripe_api, stripe_api.deliver(event)) == first


AFTER = {
    ("PENDING", PaymentKind.COMPLETED): "COMPLETED",
    ("PENDING", PaymentKind.EXPIRED): "EXPIRED",
    ("PENDING", PaymentKind.ASYNC_FAILED): "EXPIRED",
    ("EXPIRED", PaymentKind.COMPLETED): "COMPLETED",
}
"""The table of `tallyd.payments`: where a row stands after an event; where nothing is said, where it stood."""


@pytest.mark.parametrize("story", STORIES)
def test_replays_and_wrong_order_are_harmless(
    stripe_api: StripeStandIn, checkout: Checkout, story: Callable[[StripeStandIn, str], None]
) -> None:
    """In every order, with every event twice, a session ends in one place and is settled at most once."""
    story(stripe_api, checkout.create_session(request()).provider_session)
    ends = set()
    for deliveries in itertools.permutations(stripe_api.events * 2):
        row, settled = "PENDING", 0
        for event in deliveries:
            paid = read(checkout, stripe_api, stripe_api.deliver(event))
            after = AFTER.get((row, paid.kind), row) if paid else row
            settled += (row, after) in {("PENDING", "COMPLETED"), ("EXPIRED", "COMPLETED")}
            row = after
        ends.add((row, settled))
    assert ends == {("COMPLETED", 1) if PaymentKind.COMPLETED in STORIES[story] else ("EXPIRED", 0)}


@pytest.mark.parametrize(
    "change",
    [
        {"type": "payment_intent.succeeded", "data": {"object": {"id": 5, "metadata": []}}},
        {"type": "checkout.session.updated", "created": "2026-11-21T12:00:00Z"},
        {"account": "acct_connected"},
        {"data": {"object": {"id": "cs_1", "client_reference_id": "session-1", "payment_status": "paid"}}},
        {"data": {"object": {"id": "cs_1", "mode": "setup", "amount_total": None, "currency": None}}},
    ],
    ids=["payment", "another kind", "connected account", "payment link", "setup"],
)
def test_what_is_not_about_our_sessions_is_passed_over(
    stripe_api: StripeStandIn, checkout: Checkout, change: dict[str, Any]
) -> None:
    """Other events, other accounts and other programs' sessions are None, whatever is in them."""
    event = stripe_api.pay(checkout.create_session(request()).provider_session)
    assert read(checkout, stripe_api, stripe_api.deliver(event)) is not None
    assert read(checkout, stripe_api, stripe_api.deliver({**event, **change})) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"not JSON",
        b'{"id": "evt_1"}',
        b'{"id": "evt_1", "type": "checkout.session.completed", "created": 1, "data": {"object": null}}',
        b'{"id": "evt_1", "type": "checkout.session.completed", "created": 1, "data": {"object": {}}}',
        b'{"id": "evt_1", "type": "checkout.session.expired", "created": "now", "data": {"object": {"id": ""}}}',
    ],
    ids=["empty", "array", "text", "no type", "no session", "no id", "no time"],
)
def test_what_is_signed_and_unreadable_is_a_bad_payload(
    stripe_api: StripeStandIn, checkout: Checkout, body: bytes
) -> None:
    """It is from Stripe, so somebody should be told."""
    with pytest.raises(BadPayload):
        read(checkout, stripe_api, Webhook(body, {"stripe-signature": stripe_api.sign(body)}))


@pytest.mark.parametrize(
    "change",
    [{"amount_total": None}, {"currency": None}, {"currency": "isk", "amount_total": 150}],
    ids=["no amount", "no currency", "half a krona"],
)
def test_a_session_of_ours_without_an_amount_is_a_bad_payload(
    stripe_api: StripeStandIn, checkout: Checkout, change: dict[str, Any]
) -> None:
    """What cannot be compared with the invoice must not be passed over."""
    event = stripe_api.pay(checkout.create_session(request()).provider_session)
    session = {**event["data"]["object"], **change}
    with pytest.raises(BadPayload):
        read(checkout, stripe_api, stripe_api.deliver({**event, "data": {"object": session}}))


# Signatures


@pytest.fixture
def webhook(stripe_api: StripeStandIn, checkout: Checkout) -> Webhook:
    """A webhook that nothing is wrong with."""
    return stripe_api.deliver(stripe_api.pay(checkout.create_session(request()).provider_session))


def test_a_changed_body_is_not_stripes(stripe_api: StripeStandIn, checkout: Checkout, webhook: Webhook) -> None:
    """Whoever changes a session's id changes the signature."""
    forged = webhook.body.replace(b"session-1", b"session-2")
    with pytest.raises(BadSignature):
        read(checkout, stripe_api, Webhook(forged, webhook.headers))


def test_another_endpoints_secret_is_not_ours(
    stripe_api: StripeStandIn, checkout: Checkout, webhook: Webhook
) -> None:
    """A webhook signed for somebody else is not for us, unless ours is among the signatures."""
    event = stripe_api.events[-1]
    with pytest.raises(BadSignature):
        read(checkout, stripe_api, stripe_api.deliver(event, secrets=["whsec_other"]))
    rolled = stripe_api.deliver(event, secrets=["whsec_other", WEBHOOK_SECRET])
    assert read(checkout, stripe_api, rolled) == read(checkout, stripe_api, webhook)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        "t=",
        "t=now,v1=00",
        "t=1795262400",
        "v1=00",
        "t=1795262400,v1=00",
        "t=1795262400,v1=é",
        "t=" + "9" * 5_000 + ",v1=00",
        "t=,t=,=,,",
    ],
)
def test_a_header_that_is_no_signature_is_bad(
    stripe_api: StripeStandIn, checkout: Checkout, webhook: Webhook, header: str
) -> None:
    """Whatever a stranger sends, it is a bad signature and nothing worse."""
    with pytest.raises(BadSignature):
        read(checkout, stripe_api, Webhook(webhook.body, {"stripe-signature": header}))


def test_no_header_is_no_signature(stripe_api: StripeStandIn, checkout: Checkout, webhook: Webhook) -> None:
    """A request without the header is not Stripe's."""
    with pytest.raises(BadSignature, match="there is no Stripe-Signature header"):
        read(checkout, stripe_api, Webhook(webhook.body, {}))


def test_only_the_first_part_of_a_time_is_signed(
    stripe_api: StripeStandIn, checkout: Checkout, webhook: Webhook
) -> None:
    """What the package leaves out of a header is left out of its age as well."""
    header = webhook.headers["stripe-signature"]
    padded = header.replace(",", "=9,", 1)
    assert read(checkout, stripe_api, Webhook(webhook.body, {"stripe-signature": padded})) is not None


@pytest.mark.parametrize(("age_s", "good"), [(0, True), (300, True), (301, False), (86_400, False), (-60, True)])
def test_a_signature_grows_old(
    stripe_api: StripeStandIn, checkout: Checkout, webhook: Webhook, age_s: int, *, good: bool
) -> None:
    """Five minutes by the daemon's clock: later it may be a recording; a clock that is behind does no harm."""
    now = (stripe_api.now_s + age_s) * SECOND_US
    if good:
        assert checkout.read_webhook(webhook.body, webhook.headers, now) is not None
    else:
        with pytest.raises(BadSignature, match=f"signed {age_s} seconds ago"):
            checkout.read_webhook(webhook.body, webhook.headers, now)


def test_a_body_that_is_no_text_is_not_stripes(
    stripe_api: StripeStandIn, checkout: Checkout, webhook: Webhook
) -> None:
    """Bytes that are not UTF-8 cannot have been signed by Stripe."""
    with pytest.raises(BadSignature, match="UTF-8"):
        read(checkout, stripe_api, Webhook(b"\xff" + webhook.body, webhook.headers))


# Settings


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"secret_key": ""}, "secret_key"),
        ({"secret_key": "pk_test_for_browsers"}, "secret_key"),
        ({"secret_key": "sk_test_two\nlines"}, "secret_key"),
        ({"secret_key": "sk_test_ключ"}, "secret_key"),
        ({"webhook_secret": " "}, "webhook_secret"),
        ({"webhook_secret": "we_1_the_id_of_the_endpoint"}, "webhook_secret"),
        ({"webhook_secret": "whsec_two words"}, "webhook_secret"),
        ({"api_base": ""}, "api_base"),
        ({"api_base": "localhost:12111"}, "api_base"),
        ({"api_base": "http://[::1"}, "api_base"),
        ({"api_base": "https://proxy.example.com/?to=stripe"}, "api_base"),
        ({"publishable_key": "pk_test"}, "publishable_key"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(change: dict[str, str], key: str) -> None:
    """The message names the key, and shows no secret."""
    settings = {"secret_key": SECRET_KEY, "webhook_secret": WEBHOOK_SECRET, **change}
    with pytest.raises(SettingsError, match=f"^{key}: ") as refused:
        tallyd_checkout(settings)
    assert refused.value.key == key
    assert not [value for value in settings.values() if value.strip() and value in str(refused.value)]


@pytest.mark.parametrize("key", ["secret_key", "webhook_secret"])
def test_a_missing_secret_says_where_it_may_stand(key: str) -> None:
    """A file, or the environment."""
    settings = {"secret_key": SECRET_KEY, "webhook_secret": WEBHOOK_SECRET}
    del settings[key]
    with pytest.raises(SettingsError, match=f"{key}_file, or set TALLYD_PAYMENTS_STRIPE_{key.upper()}"):
        tallyd_checkout(settings)


def test_settings_as_people_write_them(stripe_api: StripeStandIn) -> None:
    """A line's end after a secret, and a slash after the address, are no part of them."""
    settings = {key: f"{value}\n" for key, value in stripe_api.settings.items()}
    checkout = tallyd_checkout({**settings, "api_base": f"{stripe_api.address}/"})
    webhook = stripe_api.deliver(stripe_api.pay(checkout.create_session(request()).provider_session))
    assert read(checkout, stripe_api, webhook) is not None


def test_secrets_are_not_shown(checkout: Checkout) -> None:
    """Neither in `repr`, nor where a traceback would print it."""
    assert SECRET_KEY not in repr(checkout)
    assert WEBHOOK_SECRET not in repr(checkout)


def test_without_the_package_the_plugin_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named, not only the module that is missing."""
    monkeypatch.setitem(sys.modules, "stripe", None)
    monkeypatch.delitem(sys.modules, "tallyd_stripe")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tallyd\[stripe\]'"):
        importlib.import_module("tallyd_stripe")
