"""Our own Stripe refuses what Stripe refuses, asked by Stripe's package: a forgiving one would prove little."""

from typing import Any

import pytest
import stripe

from payments.requests_to_pay import DAY_S, NOW_S
from payments.stripe_stand_in import SECRET_KEY, StripeStandIn


@pytest.fixture
def client(stripe_api: StripeStandIn, monkeypatch: pytest.MonkeyPatch) -> stripe.StripeClient:
    """Stripe's own package, as anybody would use it."""
    monkeypatch.setattr(stripe, "enable_telemetry", False)
    return client_of(stripe_api, SECRET_KEY)


def client_of(stripe_api: StripeStandIn, key: str) -> stripe.StripeClient:
    """Stripe's own package with a key; it does not ask again by itself."""
    return stripe.StripeClient(key, base_addresses={"api": stripe_api.address}, max_network_retries=0)


def item(**changes: Any) -> dict[str, Any]:
    """A line item of 12.34 USD; what it has may be changed, or left out by None."""
    values = {"unit_amount": 1_234, "currency": "usd", "name": "Line", "quantity": 1, **changes}
    price = {key: values[key] for key in ("unit_amount", "currency") if values[key] is not None}
    product = {"name": values["name"]} if values["name"] is not None else {}
    made: dict[str, Any] = {"price_data": {**price, "product_data": product}}
    return {**made, "quantity": values["quantity"]} if values["quantity"] is not None else made


def params(**changes: Any) -> Any:
    """A session that Stripe would make, but for what is changed, or left out by None."""
    good = {"mode": "payment", "success_url": "https://app.example.com", "line_items": [item()]}
    return {key: value for key, value in {**good, **changes}.items() if value is not None}


def test_a_plain_session_is_made_and_can_be_looked_at(
    stripe_api: StripeStandIn, client: stripe.StripeClient
) -> None:
    """It is open, unpaid, and closes after a day."""
    made = client.v1.checkout.sessions.create(params())
    found = client.v1.checkout.sessions.retrieve(made.id)
    assert (found.status, found.payment_status, found.amount_total) == ("open", "unpaid", 1_234)
    assert found.expires_at == stripe_api.now_s + DAY_S
    assert found.url == made.url


REFUSALS: dict[str, tuple[dict[str, Any], str | None, str | None]] = {
    "unknown": ({"colour": "green"}, "colour", "parameter_unknown"),
    "unknown within": (
        {"line_items": [{**item(), "price": {"amount": 5}}]},
        "line_items[0][price][amount]",
        "parameter_unknown",
    ),
    "no success_url": ({"success_url": None}, "success_url", "parameter_missing"),
    "no mode": ({"mode": None}, "mode", "parameter_missing"),
    "no items": ({"line_items": None}, "line_items", "parameter_missing"),
    "no quantity": ({"line_items": [item(quantity=None)]}, "line_items[0][quantity]", "parameter_missing"),
    "no currency": (
        {"line_items": [item(currency=None)]},
        "line_items[0][price_data][currency]",
        "parameter_missing",
    ),
    "no name": (
        {"line_items": [item(name=None)]},
        "line_items[0][price_data][product_data][name]",
        "parameter_missing",
    ),
    "no amount": (
        {"line_items": [item(unit_amount=None)]},
        "line_items[0][price_data][unit_amount]",
        "parameter_missing",
    ),
    "empty": ({"cancel_url": ""}, "cancel_url", "parameter_invalid_empty"),
    "no url": ({"success_url": "app.example.com"}, "success_url", "url_invalid"),
    "no way back": ({"cancel_url": "javascript:alert(1)"}, "cancel_url", "url_invalid"),
    "no address": ({"customer_email": "nobody"}, "customer_email", "email_invalid"),
    "fraction": (
        {"line_items": [item(unit_amount="12.5")]},
        "line_items[0][price_data][unit_amount]",
        "parameter_invalid_integer",
    ),
    "negative": ({"line_items": [item(), item(unit_amount=-1)]}, "line_items[1][price_data][unit_amount]", None),
    "none of it": ({"line_items": [item(quantity=0)]}, "line_items[0][quantity]", None),
    "currency": ({"line_items": [item(currency="xts")]}, "line_items[0][price_data][currency]", None),
    "currencies": ({"line_items": [item(), item(currency="eur")]}, "line_items", None),
    "fils": (
        {"line_items": [item(currency="kwd", unit_amount=1_234)]},
        "line_items[0][price_data][unit_amount]",
        None,
    ),
    "aurar": (
        {"line_items": [item(currency="isk", unit_amount=50_050)]},
        "line_items[0][price_data][unit_amount]",
        None,
    ),
    "little": ({"line_items": [item(unit_amount=49)]}, None, "amount_too_small"),
    "much": ({"line_items": [item(unit_amount=50_000_000, quantity=2)]}, None, "amount_too_large"),
    "many": ({"line_items": [item()] * 101}, "line_items", None),
    "soon": ({"expires_at": NOW_S + 1_799}, None, None),
    "late": ({"expires_at": NOW_S + DAY_S + 1}, None, None),
    "reference": ({"client_reference_id": "x" * 201}, "client_reference_id", None),
    "long name": (
        {"line_items": [item(name="x" * 251)]},
        "line_items[0][price_data][product_data][name]",
        None,
    ),
    "metadata keys": ({"metadata": {f"key{number}": "x" for number in range(51)}}, "metadata", None),
    "metadata key": ({"metadata": {"k" * 41: "x"}}, f"metadata[{'k' * 41}]", None),
    "metadata value": ({"metadata": {"key": "x" * 501}}, "metadata[key]", None),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_stripe_refuses_is_refused(stripe_api: StripeStandIn, client: stripe.StripeClient, name: str) -> None:
    """With the status, the parameter and the code that Stripe gives; and no session is made."""
    changes, param, code = REFUSALS[name]
    with pytest.raises(stripe.InvalidRequestError) as refused:
        client.v1.checkout.sessions.create(params(**changes))
    assert (refused.value.http_status, refused.value.param, refused.value.code) == (400, param, code)
    assert not stripe_api.sessions


BOUNDS: dict[str, dict[str, Any]] = {
    "least": {"line_items": [item(unit_amount=50)]},
    "most": {"line_items": [item(unit_amount=99_999_999)]},
    "items": {"line_items": [item()] * 100},
    "free": {"line_items": [item(), item(unit_amount=0)]},
    "soonest": {"expires_at": NOW_S + 1_800},
    "latest": {"expires_at": NOW_S + DAY_S},
    "fils": {"line_items": [item(currency="kwd", unit_amount=1_230)]},
    "aurar": {"line_items": [item(currency="isk", unit_amount=50_000)]},
    "rupiah": {"line_items": [item(currency="idr", unit_amount=100_000_000)]},
    "metadata": {"metadata": {f"{number:040}": "x" * 500 for number in range(50)}},
}


@pytest.mark.parametrize("name", BOUNDS)
def test_what_is_just_within_bounds_is_taken(
    stripe_api: StripeStandIn, client: stripe.StripeClient, name: str
) -> None:
    """The bounds are where Stripe says they are, not a step before them."""
    made = client.v1.checkout.sessions.create(params(**BOUNDS[name]))
    assert list(stripe_api.sessions) == [made.id]


@pytest.mark.parametrize("key", ["sk_test_of_somebody_else", " "])
def test_a_key_that_is_not_ours_is_not_accepted(stripe_api: StripeStandIn, key: str) -> None:
    """401, whatever is asked."""
    with pytest.raises(stripe.AuthenticationError) as refused:
        client_of(stripe_api, key).v1.checkout.sessions.create(params())
    assert refused.value.http_status == 401
    assert not stripe_api.sessions


def test_a_session_that_is_not_there_is_not_found(client: stripe.StripeClient) -> None:
    """404 with Stripe's code, to look at it and to close it."""
    for ask in (client.v1.checkout.sessions.retrieve, client.v1.checkout.sessions.expire):
        with pytest.raises(stripe.InvalidRequestError) as refused:
            ask("cs_test_nobody")
        assert (refused.value.http_status, refused.value.code) == (404, "resource_missing")


def test_what_is_not_played_is_not_found(client: stripe.StripeClient) -> None:
    """An address that this stand-in does not know is no address."""
    with pytest.raises(stripe.InvalidRequestError, match="Unrecognized request URL") as refused:
        client.v1.customers.list()
    assert refused.value.http_status == 404


@pytest.mark.parametrize("end", ["pay", "promise", "advance"])
def test_only_an_open_session_can_be_closed(
    stripe_api: StripeStandIn, client: stripe.StripeClient, end: str
) -> None:
    """Once it is complete, or expired, closing it is refused, and it cannot be paid."""
    made = client.v1.checkout.sessions.create(params())
    if end == "advance":
        stripe_api.advance(DAY_S)
    else:
        getattr(stripe_api, end)(made.id)
    events = len(stripe_api.events)
    with pytest.raises(stripe.InvalidRequestError, match="Only Checkout Sessions with a status in"):
        client.v1.checkout.sessions.expire(made.id)
    with pytest.raises(AssertionError):
        stripe_api.pay(made.id)
    assert len(stripe_api.events) == events


def test_a_session_closes_at_its_time_and_not_before(
    stripe_api: StripeStandIn, client: stripe.StripeClient
) -> None:
    """Its event is made when its time has come, once."""
    made = client.v1.checkout.sessions.create(params(expires_at=NOW_S + 1_800))
    assert stripe_api.advance(1_799) == []
    (event,) = stripe_api.advance(1)
    assert (event["type"], event["data"]["object"]["id"]) == ("checkout.session.expired", made.id)
    assert stripe_api.advance(DAY_S) == []


def test_a_key_repeats_its_answer_for_a_day(stripe_api: StripeStandIn, client: stripe.StripeClient) -> None:
    """To the byte, whatever has happened to the session since; after a day the key is forgotten."""
    first = client.v1.checkout.sessions.create(params(), {"idempotency_key": "key"})
    stripe_api.pay(first.id)
    stripe_api.advance(DAY_S - 1)
    again = client.v1.checkout.sessions.create(params(), {"idempotency_key": "key"})
    assert (again.id, again.status) == (first.id, "open")
    assert again.last_response is not None
    assert again.last_response.headers["idempotent-replayed"] == "true"
    stripe_api.advance(1)
    assert client.v1.checkout.sessions.create(params(), {"idempotency_key": "key"}).id != first.id


def test_a_key_is_for_the_same_parameters_and_the_same_place(client: stripe.StripeClient) -> None:
    """Anything else with it is an idempotency error, not a second session."""
    made = client.v1.checkout.sessions.create(params(), {"idempotency_key": "key"})
    with pytest.raises(stripe.IdempotencyError, match="same parameters"):
        client.v1.checkout.sessions.create(params(line_items=[item()] * 2), {"idempotency_key": "key"})
    with pytest.raises(stripe.IdempotencyError, match="same endpoint"):
        client.v1.checkout.sessions.expire(made.id, options={"idempotency_key": "key"})


def test_stripe_s_own_package_takes_its_webhooks(stripe_api: StripeStandIn, client: stripe.StripeClient) -> None:
    """What is delivered is an event to the package that everybody reads them with."""
    made = client.v1.checkout.sessions.create(params(metadata={"who": "Zoë"}))
    webhook = stripe_api.deliver(stripe_api.pay(made.id))
    header = webhook.headers["stripe-signature"]
    secret = stripe_api.settings["webhook_secret"]
    assert stripe.WebhookSignature.verify_header(webhook.body, header, secret)
    event = stripe.Webhook.construct_event_without_verification(webhook.body)
    assert (event.type, event.data.object["metadata"]["who"]) == ("checkout.session.completed", "Zoë")


def test_an_event_stays_as_it_was(stripe_api: StripeStandIn, client: stripe.StripeClient) -> None:
    """A late delivery of the promise still says unpaid, though the money has come since."""
    made = client.v1.checkout.sessions.create(params())
    promised = stripe_api.promise(made.id)
    stripe_api.money_comes(made.id)
    assert [event["data"]["object"]["payment_status"] for event in stripe_api.events] == ["unpaid", "paid"]
    assert promised["data"]["object"]["payment_status"] == "unpaid"
