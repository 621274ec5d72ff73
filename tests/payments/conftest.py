"""What the tests of payment share: a Stripe of their own, and requests to pay."""

from collections.abc import Iterator

import pytest

from payments.requests_to_pay import NOW_S
from payments.stripe_stand_in import StripeStandIn
from tallyd.payments import Checkout
from tallyd_stripe import tallyd_checkout


@pytest.fixture
def stripe_api(monkeypatch: pytest.MonkeyPatch) -> Iterator[StripeStandIn]:
    """Run a Stripe on this machine, which no proxy is in front of."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with StripeStandIn(NOW_S) as stand_in:
        yield stand_in


@pytest.fixture
def checkout(stripe_api: StripeStandIn) -> Checkout:
    """The plugin, with that Stripe."""
    return tallyd_checkout(stripe_api.settings)
