"""The demo's own bills: worked examples, by hand."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from cli.commands import CATALOG
from tallyd.cli.demo_bills import compare_bills, read_plans
from tallyd.cli.demo_months import Months, make_months
from tallyd.cli.demo_story import Access, Arrival, Chronicle
from tallyd.model.moments import DAY_US, iso, parse_iso

MONTHS = make_months(1, parse_iso("2027-04-01T00:00:00Z"))
APRIL, MAY, JUNE, JULY = MONTHS.starts
PLANS = read_plans(CATALOG.read_text(encoding="utf-8"))


def arrival(customer: str, name: str, at: int, came: int | None = None, **fields: Any) -> Arrival:
    """Return an event of an instant, in the books at once or later."""
    body = {"eventName": name, "customerReferenceId": customer, "occurredAt": iso(at), **fields}
    cost = fields.pop("cost", None)
    return Arrival(body, cost, at if came is None else came)


def bills_of(customer: str, *arrivals: Arrival, upgraded_at: int | None = None) -> list[Decimal]:
    """Return what a customer's invoices must come to."""
    made = [
        {"customerReferenceId": customer, "status": "DUE", "number": str(number), "amount": Decimal(0)}
        for number in range(len(MONTHS.starts) + 1)
    ]
    chronicle = Chronicle(arrivals=list(arrivals), invoices=made, upgraded_at=upgraded_at)
    found = compare_bills(PLANS, MONTHS, chronicle)
    return [each.sent for each in found if each.what in {f"{customer}: {number['number']}" for number in made}]


def test_in_advance_the_first_invoice_is_the_price_and_the_next_ones_have_the_usage() -> None:
    """Four months begin: 49.00 each, and what was used in the month before."""
    used = arrival("acme", "api", APRIL + DAY_US, usageUnits=25)
    assert bills_of("acme", used) == [Decimal("49.00"), Decimal("51.50"), Decimal("49.00"), Decimal("49.00")]


def test_an_upgrade_in_mid_month_is_half_of_both_prices() -> None:
    """Half of 199.00 less half of 49.00; usage is priced by the plan of its own time."""
    middle = MONTHS.upgrade_at
    before = arrival("acme", "api", middle - 1, usageUnits=10)
    after = arrival("acme", "api", middle, usageUnits=10)
    bills = bills_of("acme", before, after, upgraded_at=middle)
    assert bills == [
        Decimal("49.00"),
        Decimal("49.00"),
        Decimal("75.00"),
        Decimal("199.00") + Decimal("1.00") + Decimal("0.60"),
        Decimal("199.00"),
    ]


def test_in_arrears_a_month_is_billed_when_it_is_over() -> None:
    """Three months are over: 499.00 each, and tiers: 15,000 calls are 24.50."""
    used = arrival("globex", "api", MAY, usageUnits=15_000)
    assert bills_of("globex", used) == [Decimal("499.00"), Decimal("523.50"), Decimal("499.00")]


def test_what_comes_late_is_on_the_next_invoice() -> None:
    """The month that it belongs to was billed without it; its tiers go on where they were."""
    in_time = arrival("globex", "api", APRIL, usageUnits=500)
    late = arrival("globex", "api", APRIL + DAY_US, came=MAY + DAY_US, usageUnits=501)
    bills = bills_of("globex", in_time, late)
    assert bills == [Decimal("509.00"), Decimal("504.00"), Decimal("499.00")]


def test_each_model_is_rounded_on_its_own() -> None:
    """Two models at 0.005 after their markup are two lines of 0.01."""
    chats = [
        msgspec.structs.replace(
            arrival("globex", "chat", APRIL, featureKey="assistant", costInput={"model": model}),
            cost=Decimal("0.005") / Decimal("1.25"),
        )
        for model in ("a", "b")
    ]
    assert bills_of("globex", *chats)[0] == Decimal("499.00") + 2 * Decimal("0.01")


def test_tokens_have_a_line_for_each_kind() -> None:
    """Input and output of a model are priced and rounded apart; guests take no seat."""
    tokens = {"model": "gpt-4o", "inputTokens": 2_000, "outputTokens": 500}
    chat = arrival("acme", "chat", APRIL, featureKey="assistant", costInput=tokens)
    seats = [
        arrival("acme", "user.active", APRIL, meta={"user_id": user, "role": role})
        for user, role in (("a", "member"), ("a", "member"), ("b", "guest"))
    ]
    assert bills_of("acme", chat, *seats)[1] == Decimal("49.00") + Decimal("0.01") + Decimal("0.01") + 8


def test_free_plans_and_credits_cost_nothing() -> None:
    """Every month has an invoice, of nothing."""
    answered = arrival("stark", "answer", APRIL, featureKey="assistant", usageUnits=3)
    assert bills_of("stark", answered) == [0, 0, 0, 0]
    assert bills_of("hooli") == [0, 0, 0, 0]


def test_what_credits_paid_for_stands_on_the_invoice_after_the_month() -> None:
    """Units used in a month are those that its invoice says credits have paid for."""
    used = arrival("stark", "answer", APRIL, featureKey="assistant", usageUnits=3)
    line = {"kind": "covered", "quantity": Decimal(3)}
    made = [
        {"customerReferenceId": "stark", "status": "PAID", "number": str(number), "amount": 0, "items": items}
        for number, items in enumerate([[], [line], [line], []])
    ]
    found = compare_bills(PLANS, MONTHS, Chronicle(arrivals=[used], invoices=made))
    covered = [(each.sent, each.counted) for each in found if "paid with credits" in each.what]
    assert covered == [(3, 3), (0, 3), (0, 0)]


@pytest.mark.parametrize(("allowed", "same"), [(False, True), (True, False)])
def test_a_wrong_answer_to_a_check_is_noticed(allowed: bool, same: bool) -> None:
    """What a check must say stands beside what it said."""
    chronicle = Chronicle(access=[Access("acme", "before it pays", expected=False, allowed=allowed, reason="x")])
    found = compare_bills(PLANS, MONTHS, chronicle)[0]
    assert (found.what, found.same) == ("acme: access before it pays", same)


def test_a_missing_invoice_is_noticed() -> None:
    """How many there must be is compared as well."""
    found = compare_bills(PLANS, MONTHS, Chronicle())
    counts = {each.what: (each.sent, each.counted) for each in found}
    assert counts["globex: invoices"] == (3, 0)
    assert counts["acme: invoices"] == (4, 0)


def test_the_months_are_those_of_the_calendar() -> None:
    """The examples above hold for the months that are made."""
    assert isinstance(MONTHS, Months)
    assert [iso(each)[:10] for each in MONTHS.starts] == ["2027-04-01", "2027-05-01", "2027-06-01", "2027-07-01"]
