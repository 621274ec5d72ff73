"""The rules of billing as tables: what happened on the left, the invoices it makes on the right.

D2 to D9 are the rows of CONTRACTS D; how to read an invoice is said in `acme.py`.
"""

from decimal import Decimal
from itertools import pairwise

import pytest

from engine.billing.acme import GRADUATED, Acme, each, plan
from engine.billing.driven import Books
from engine.billing.naive_biller import Plan
from tallyd.engine.billing.previewing import upcoming
from tallyd.model.catalog import CreditModel, Overage
from tallyd.model.invoice import InvoiceStatus
from tallyd.model.problems import ProblemError
from tallyd.model.subscription import GRACE_DAYS

BASIC = plan("10", name="basic")
PRO = plan("30", name="pro")
LATER = plan("10", arrears=True, name="later")
LATER_PRO = plan("30", arrears=True, name="later-pro")
ANNUAL = plan("120", months=12, name="annual")
WEEKLY = plan("7", days=7, name="weekly")
FREE = plan("0", name="free")

TOKENS = CreditModel(key="tokens", denomination="TOKENS", hard_limit=False)
INVOICED = CreditModel(
    key="tokens",
    denomination="TOKENS",
    overage=Overage(behavior="invoice_at_billing", price_per_unit=Decimal("0.02"), currency="USD"),
)


# Prices


@pytest.mark.parametrize(
    ("units", "amount"), [("0", "0.00"), ("500", "10.00"), ("1001", "15.00"), ("15000", "24.50")]
)
def test_graduated_usage_is_billed_tier_by_tier(units: str, amount: str) -> None:
    """The vectors of D2, each on an invoice: every unit at the price of its tier, fees once, rounded once."""
    acme = Acme(plan("0", arrears=True, name="chat", chat=GRADUATED), "2026-04-01")
    acme.use(units, feature="chat")
    acme.at("2026-05-01")
    assert acme.invoices()[0].endswith(amount)


def test_a_line_is_rounded_once() -> None:
    """A hundred calls at 0.001 are 0.10, and three at 0.333 are 1.00: nothing is rounded before the line."""
    acme = Acme(plan("0", arrears=True, name="fine", api=each("0.001"), ocr=each("0.333")), "2026-04-01")
    for _ in range(100):
        acme.use("1")
    acme.use("3", feature="ocr")
    acme.at("2026-05-01")
    assert acme.lines(1) == ["usage api 100 0.10", "usage ocr 3 1.00"]


@pytest.mark.parametrize(
    ("currency", "price", "lines"),
    [
        ("USD", "0.125", ["base 15.50", "usage api 1 0.13"]),
        ("JPY", "12.5", ["base 16", "usage api 1 13"]),
        ("KWD", "0.1255", ["base 15.500", "usage api 1 0.126"]),
    ],
)
def test_amounts_have_the_decimals_of_their_currency(currency: str, price: str, lines: list[str]) -> None:
    """Half of 31 in dollars, yen and dinars, which have two, no and three decimals; halves are rounded up."""
    acme = Acme(plan("31", arrears=True, currency=currency, api=each(price)), "2026-04-16", anchor=1)
    acme.use("1")
    assert acme.at("2026-05-01").lines(1) == lines


# Paid in advance


def test_in_advance_there_is_access_when_the_first_invoice_is_paid() -> None:
    """D4: DUE and no access; paid, access; paid again, nothing is doubled."""
    acme = Acme(BASIC, "2026-04-01")
    assert acme.invoices() == ["1 INITIAL DUE 2026-04-01..2026-05-01 10.00"]
    assert acme.access() == "unpaid"
    assert acme.pay().access() == "yes"
    entries = len(acme.driven.entries)
    acme.pay(1)
    assert acme.invoices() == ["1 INITIAL PAID 2026-04-01..2026-05-01 10.00"]
    assert len(acme.driven.entries) == entries


def test_in_advance_usage_is_billed_with_the_next_period() -> None:
    """An invoice in advance has the price of the period that begins and the usage of the one that ended."""
    acme = Acme(BASIC, "2026-04-01").pay()
    acme.at("2026-04-10").use("500")
    acme.at("2026-05-01")
    assert acme.invoices()[1:] == ["2 ADVANCE DUE 2026-05-01..2026-06-01 15.00"]
    assert acme.lines(2) == ["usage api 500 5.00", "base 10.00"]


def test_the_first_period_may_be_a_part_and_costs_its_part() -> None:
    """From 21 April to the anchor on 1 May are 10 of 30 days: a third of the price."""
    acme = Acme(PRO, "2026-04-21", anchor=1).pay()
    acme.at("2026-05-01")
    assert acme.invoices() == [
        "1 INITIAL PAID 2026-04-21..2026-05-01 10.00",
        "2 ADVANCE DUE 2026-05-01..2026-06-01 30.00",
    ]


def test_while_there_is_no_access_nothing_is_invoiced_in_advance() -> None:
    """Unpaid through May and June; paid on 16 June, the rest of June is invoiced, and the usage nobody stopped."""
    acme = Acme(PRO, "2026-04-01")
    acme.at("2026-05-10").use("100")
    acme.at("2026-06-16").pay()
    assert acme.invoices() == [
        "1 INITIAL PAID 2026-04-01..2026-05-01 30.00",
        "2 ADVANCE DUE 2026-06-01..2026-07-01 16.00",
    ]
    assert acme.lines(2) == ["usage api 100 1.00", "base 15.00"]


# Paid in arrears


def test_in_arrears_the_period_is_invoiced_when_it_is_over() -> None:
    """D5: access at once, PENDING; at the period's end the usage is on it and it is DUE."""
    acme = Acme(LATER, "2026-04-01")
    assert acme.access() == "yes"
    assert acme.invoices() == ["1 ARREARS PENDING 2026-04-01..2026-05-01 0"]
    acme.use("250")
    acme.at("2026-05-01")
    assert acme.invoices() == [
        "1 ARREARS DUE 2026-04-01..2026-05-01 12.50",
        "2 ARREARS PENDING 2026-05-01..2026-06-01 0",
    ]
    assert acme.lines(1) == ["base 10.00", "usage api 250 2.50"]


def test_a_free_plan_is_paid_at_once() -> None:
    """D5: what is nothing is PAID, and there is access."""
    acme = Acme(FREE, "2026-04-01")
    assert acme.invoices() == ["1 INITIAL PAID 2026-04-01..2026-05-01 0.00"]
    assert acme.access() == "yes"


# Due and overdue


@pytest.mark.parametrize(
    ("grace", "last", "first"),
    [
        (0, "2026-05-01T23:59:59", "2026-05-02"),
        (1, "2026-05-02T23:59:59", "2026-05-03"),
        (GRACE_DAYS, "2026-05-04T23:59:59", "2026-05-05"),
    ],
)
def test_access_ends_when_the_grace_days_after_the_due_date_are_over(grace: int, last: str, first: str) -> None:
    """D6: due on 1 May; without grace days access ends with that day, where the subscriber is."""
    acme = Acme(LATER, "2026-04-01", zone="America/New_York", grace=grace)
    assert acme.at(last).access() == "yes"
    assert acme.at(first).access() == "past_due"
    assert acme.invoice(1).status is InvoiceStatus.PAST_DUE
    assert acme.pay().access() == "yes"


def test_past_due_a_renewal_in_advance_waits_until_it_is_paid() -> None:
    """PAST_DUE stops renewal (CONTRACTS 1.8): May is unpaid, so June is invoiced from the day May is paid."""
    acme = Acme(PRO, "2026-04-01").pay()
    acme.at("2026-06-16").pay()
    assert acme.invoices() == [
        "1 INITIAL PAID 2026-04-01..2026-05-01 30.00",
        "2 ADVANCE PAID 2026-05-01..2026-06-01 30.00",
        "3 ADVANCE DUE 2026-06-01..2026-07-01 15.00",
    ]


def test_an_invoice_that_is_overdue_for_months_is_overdue_in_the_order_of_time() -> None:
    """One that a daemon finds late falls overdue at its own instant, before the next period ends (P7)."""
    acme = Acme(LATER, "2026-04-01").at("2026-07-01")
    told = [(entry.cause, acme.day(entry.at)) for entry in acme.driven.entries if entry.kind == "INVOICE_CHANGED"]
    assert told == [
        ("closed", "2026-05-01"),
        ("overdue", "2026-05-05"),
        ("closed", "2026-06-01"),
        ("overdue", "2026-06-05"),
        ("closed", "2026-07-01"),
    ]


# Trials


def test_a_trial_costs_nothing() -> None:
    """Fourteen days free, access at once, and what is used in them is taken back on the invoice that shows it."""
    acme = Acme(plan("10", trial=14, name="try"), "2026-04-01")
    assert acme.access() == "yes"
    acme.use("300")
    acme.at("2026-04-15")
    assert acme.invoices() == [
        "1 INITIAL PAID 2026-04-01..2026-04-15 0.00",
        "2 ADVANCE DUE 2026-04-15..2026-05-15 10.00",
    ]
    assert acme.lines(2) == ["usage api 300 3.00", "trial -3.00", "base 10.00"]


@pytest.mark.parametrize("start", ["2026-03-20", "2026-10-20"])
def test_a_trial_lasts_whole_days_when_clocks_change(start: str) -> None:
    """In Berlin clocks change within these fourteen days; it ends at midnight, and the first month is whole."""
    acme = Acme(plan("10", trial=14, name="try"), start, zone="Europe/Berlin")
    end = acme.invoice(1).period_end
    acme.driven.pass_to(end)
    assert "T" not in acme.day(end)
    assert acme.lines(2) == ["base 10.00"]


# Changes of plan


def test_an_upgrade_at_half_the_period_charges_the_difference_at_once() -> None:
    """D8: 10 → 30 with half of the period left is 15.00 - 5.00 = 10.00 now."""
    acme = Acme(BASIC, "2026-04-01").pay()
    acme.at("2026-04-16").upgrade(PRO)
    assert acme.invoices()[1:] == ["2 ADJUSTMENT DUE 2026-04-16..2026-05-01 10.00"]
    assert acme.lines(2) == ["proration 15.00", "proration -5.00"]
    acme.pay().at("2026-05-01")
    assert acme.invoices()[2:] == ["3 ADVANCE DUE 2026-05-01..2026-06-01 30.00"]


def test_an_upgrade_in_arrears_has_both_prices_on_one_invoice() -> None:
    """Half a month at 10 and half at 30, and usage by the plan it was used under."""
    cheap = plan("10", arrears=True, name="cheap", api=each("0.02"))
    dear = plan("30", arrears=True, name="dear", api=each("0.01"))
    acme = Acme(cheap, "2026-04-01")
    acme.use("100")
    acme.at("2026-04-16").upgrade(dear).use("100")
    acme.at("2026-05-01")
    assert acme.lines(1) == ["base 5.00", "base 15.00", "usage api 100 2.00", "usage api 100 1.00"]


def test_an_upgrade_to_another_interval_begins_a_new_period() -> None:
    """From a month to a year on 16 April: the year begins, half of the month is given back."""
    acme = Acme(BASIC, "2026-04-01").pay()
    acme.use("100")
    acme.at("2026-04-16").upgrade(ANNUAL)
    assert acme.invoices()[1:] == ["2 ADVANCE DUE 2026-04-16..2027-04-16 116.00"]
    assert acme.lines(2) == ["proration -5.00", "usage api 100 1.00", "base 120.00"]


def test_an_upgrade_to_another_interval_in_arrears_cuts_the_period() -> None:
    """The invoice of the month that is cut short says so, and the next begins where it ends."""
    acme = Acme(LATER, "2026-04-01")
    acme.at("2026-04-16").upgrade(plan("90", arrears=True, months=3, name="quarter"))
    assert acme.invoices() == [
        "1 ARREARS DUE 2026-04-01..2026-04-16 5.00",
        "2 ARREARS PENDING 2026-04-16..2026-07-16 0",
    ]


def test_what_is_paid_ahead_is_given_back_by_an_upgrade_during_a_pause() -> None:
    """A year is paid for; paused in its middle, a change to monthly gives the rest back and charges a month."""
    acme = Acme(ANNUAL, "2026-01-01").pay()
    acme.at("2026-07-02T12:00").pause().upgrade(BASIC)
    assert acme.lines(2) == ["proration -60.00", "base 9.84"]
    acme.at("2026-12-01")
    assert len(acme.invoices()) == 2, "paused: nothing more is invoiced in advance"
    acme.end_now()
    assert len(acme.invoices()) == 2, "and nothing is paid ahead that could be given back"


def test_a_year_that_was_given_back_is_not_paid_ahead_any_more() -> None:
    """Paid a year ahead, then in arrears, paused, then monthly: in the pause nothing is invoiced or given back."""
    acme = Acme(ANNUAL, "2026-01-01").pay().at("2026-03-01").upgrade(LATER)
    acme.at("2026-03-10").pause().at("2026-03-16").upgrade(BASIC).pay()
    made = len(acme.invoices())
    acme.at("2026-06-10").end_now()
    assert len(acme.invoices()) == made


@pytest.mark.parametrize(
    ("before", "after", "invoices"),
    [
        (
            BASIC,
            ANNUAL,
            [
                "2 ADVANCE PAID 2026-05-01..2026-06-01 10.00",
                "3 ADJUSTMENT DUE 2026-05-01..2027-05-01 110.00",
            ],
        ),
        (
            BASIC,
            LATER,
            [
                "2 ADVANCE PAID 2026-05-01..2026-06-01 10.00",
                "3 FINAL PAID 2026-04-01..2026-05-01 -10.00",
                "4 ARREARS PENDING 2026-05-01..2026-06-01 0",
            ],
        ),
        (
            LATER,
            BASIC,
            [
                "2 ARREARS CANCELLED 2026-05-01..2026-06-01 0",
                "3 ADJUSTMENT DUE 2026-05-01..2026-06-01 10.00",
            ],
        ),
        (
            LATER,
            plan("90", arrears=True, months=3, name="quarter"),
            [
                "2 ARREARS CANCELLED 2026-05-01..2026-06-01 0",
                "3 ARREARS PENDING 2026-05-01..2026-08-01 0",
            ],
        ),
    ],
)
def test_a_period_that_another_replaces_at_its_first_instant_is_invoiced_once(
    before: Plan, after: Plan, invoices: list[str]
) -> None:
    """P6, on a clock that stands still: what was invoiced is adjusted, what was pending is cancelled."""
    acme = Acme(before, "2026-04-01").pay().at("2026-05-01").pay().upgrade(after)
    assert acme.invoices()[1:] == invoices


def test_plans_changed_again_and_again_at_one_instant_cost_the_last_one() -> None:
    """Four changes while the clock stands still: what is charged in all is the price of the last plan."""
    acme = Acme(BASIC, "2026-04-01").pay().at("2026-05-01").pay()
    for each_plan in (ANNUAL, WEEKLY, LATER, PRO):
        acme.upgrade(each_plan)
    amounts = [invoice.amount for invoice in acme.driven.invoices.values() if invoice.status != "CANCELLED"]
    assert sum(amounts) == Decimal("10.00") + Decimal("30.00")


def test_usage_priced_by_a_plan_that_was_replaced_is_taken_back_at_what_it_cost() -> None:
    """Priced at 0.01 by a plan in force for no time at all, taken back under one that asks 1.00."""
    acme = Acme(plan("0", arrears=True, name="first"), "2026-04-01").at("2026-04-10")
    acme.upgrade(plan("0", arrears=True, name="second"))
    event = acme.use("100")
    acme.upgrade(plan("0", arrears=True, name="third", api=each("1"))).take_back(event)
    acme.at("2026-05-01")
    assert acme.invoices()[0] == "1 ARREARS PAID 2026-04-01..2026-05-01 0.00"


def test_a_downgrade_comes_at_the_end_of_the_period() -> None:
    """D8: PENDING until then, the plan unchanged; the next invoice has the new price."""
    acme = Acme(PRO, "2026-04-01").pay()
    acme.at("2026-04-10").downgrade(BASIC)
    assert acme.invoices() == ["1 INITIAL PAID 2026-04-01..2026-05-01 30.00"]
    acme.at("2026-05-01")
    assert acme.invoices()[1:] == ["2 ADVANCE DUE 2026-05-01..2026-06-01 10.00"]


def test_a_downgrade_can_be_taken_back_until_it_comes() -> None:
    """D8: afterwards there is nothing to take back."""
    acme = Acme(PRO, "2026-04-01").pay()
    acme.at("2026-04-10").downgrade(BASIC).keep_plan().at("2026-05-01")
    assert acme.invoices()[1:] == ["2 ADVANCE DUE 2026-05-01..2026-06-01 30.00"]
    acme.pay().downgrade(BASIC).at("2026-06-01")
    with pytest.raises(ProblemError, match="no change of plan is scheduled"):
        acme.keep_plan()


def test_a_downgrade_from_advance_to_arrears_bills_what_is_left_and_begins_to_wait() -> None:
    """The usage of the last month paid in advance has an invoice of its own; the next month is PENDING."""
    acme = Acme(BASIC, "2026-04-01").pay()
    acme.use("100")
    acme.downgrade(LATER).at("2026-05-01")
    assert acme.invoices()[1:] == [
        "2 FINAL DUE 2026-04-01..2026-05-01 1.00",
        "3 ARREARS PENDING 2026-05-01..2026-06-01 0",
    ]


def test_a_downgrade_to_another_interval_keeps_the_anchor_day() -> None:
    """From 31 January monthly to quarterly on 28 February: the quarters end on the 31st again."""
    acme = Acme(PRO, "2026-01-31").pay()
    acme.downgrade(plan("60", months=3, name="quarter")).at("2026-02-28").pay().at("2026-05-31").pay()
    assert [text.split()[3] for text in acme.invoices()] == [
        "2026-01-31..2026-02-28",
        "2026-02-28..2026-05-31",
        "2026-05-31..2026-08-31",
    ]


def test_plans_in_different_currencies_do_not_replace_each_other() -> None:
    """Nothing is converted: cancel, and subscribe to the other."""
    acme = Acme(BASIC, "2026-04-01")
    with pytest.raises(ProblemError, match="paid in USD"):
        acme.upgrade(plan("10", currency="JPY"))


# Pauses


def test_a_pause_stops_access_and_invoices_in_advance() -> None:
    """Paused on 10 April, what is paid is not given back; resumed on 16 May, half of May is invoiced."""
    acme = Acme(plan("31", name="daily"), "2026-04-01").pay()
    assert acme.at("2026-04-10").pause().access() == "paused"
    acme.at("2026-05-16").resume()
    assert acme.access() == "yes"
    assert acme.invoices()[1:] == ["2 ADVANCE DUE 2026-05-01..2026-06-01 16.00"]


def test_a_pause_within_a_paid_period_changes_no_invoice() -> None:
    """Resumed before the period ends, nothing is invoiced."""
    acme = Acme(BASIC, "2026-04-01").pay()
    acme.at("2026-04-10").pause().at("2026-04-20").resume()
    assert len(acme.invoices()) == 1


def test_in_arrears_paused_days_are_not_charged() -> None:
    """Ten of thirty days paused: two thirds of the price, and usage reported all the same is charged."""
    acme = Acme(LATER_PRO, "2026-04-01")
    acme.at("2026-04-11").pause().use("100")
    acme.at("2026-04-21").resume().at("2026-05-01")
    assert acme.lines(1) == ["base 20.00", "usage api 100 1.00"]


# Ends


def test_cancelled_at_the_period_s_end_there_is_access_until_then() -> None:
    """D7: access remains; at the end the usage is billed, and after it there is none."""
    acme = Acme(BASIC, "2026-04-01").pay()
    acme.at("2026-04-10").leave().use("100")
    assert acme.at("2026-04-30T23:59").access() == "yes"
    assert acme.at("2026-05-01").access() == "no_subscription"
    assert acme.invoices()[1:] == ["2 FINAL DUE 2026-04-01..2026-05-01 1.00"]


def test_a_cancellation_can_be_taken_back_until_it_comes() -> None:
    """D7: then the next period begins as if nothing had been."""
    acme = Acme(BASIC, "2026-04-01").pay()
    acme.at("2026-04-10").leave().at("2026-04-30").stay().at("2026-05-01")
    assert acme.invoices()[1:] == ["2 ADVANCE DUE 2026-05-01..2026-06-01 10.00"]


def test_cancelled_at_once_what_is_paid_and_not_used_is_given_back() -> None:
    """D7: denied at once, and a CREDIT of a negative amount, PAID, for half of the month; usage is billed."""
    acme = Acme(BASIC, "2026-04-01").pay()
    acme.use("100")
    acme.at("2026-04-16").end_now()
    assert acme.access() == "no_subscription"
    assert acme.invoices()[1:] == [
        "2 FINAL DUE 2026-04-01..2026-04-16 1.00",
        "3 CREDIT PAID 2026-04-16..2026-05-01 -5.00",
    ]


def test_cancelled_at_once_open_invoices_are_void() -> None:
    """D7: nobody pays for what was never paid: no credit, and the usage on the void invoice is billed anew."""
    acme = Acme(BASIC, "2026-04-01").pay()
    acme.use("100")
    acme.at("2026-05-02").end_now()
    assert acme.invoices()[1:] == [
        "2 ADVANCE VOID 2026-05-01..2026-06-01 11.00",
        "3 FINAL DUE 2026-05-01..2026-05-02 1.00",
    ]


def test_cancelled_at_once_in_arrears_what_has_run_is_charged() -> None:
    """Half of the month, with its usage."""
    acme = Acme(LATER_PRO, "2026-04-01")
    acme.use("100")
    acme.at("2026-04-16").end_now()
    assert acme.invoices() == [
        "1 ARREARS VOID 2026-04-01..2026-05-01 0",
        "2 FINAL DUE 2026-04-01..2026-04-16 16.00",
    ]


def test_a_base_price_that_was_waived_is_not_given_back() -> None:
    """The invoice was voided by hand, so nothing was paid: ended at half of the month, there is no credit."""
    acme = Acme(BASIC, "2026-04-01").void(1).at("2026-04-16")
    acme.end_now()
    assert acme.invoices() == ["1 INITIAL VOID 2026-04-01..2026-05-01 10.00"]


def test_an_upgrade_gives_nothing_back_of_a_base_price_that_was_waived() -> None:
    """Half of a month of 20 is charged, no 5 given back; ended at once, that half is what is given back."""
    acme = Acme(BASIC, "2026-04-01").void(1).at("2026-04-16").upgrade(PRO).pay()
    acme.end_now()
    assert acme.invoices()[1:] == [
        "2 ADJUSTMENT PAID 2026-04-16..2026-05-01 15.00",
        "3 CREDIT PAID 2026-04-16..2026-05-01 -15.00",
    ]


def test_base_prices_on_two_void_invoices_are_both_waived() -> None:
    """Neither the month of 10 nor the 10 more of its second half was paid, so nothing of 15 is given back."""
    acme = Acme(BASIC, "2026-04-01").at("2026-04-16").upgrade(PRO).void(1).void(2)
    acme.end_now()
    assert acme.invoices() == [
        "1 INITIAL VOID 2026-04-01..2026-05-01 10.00",
        "2 ADJUSTMENT VOID 2026-04-16..2026-05-01 10.00",
    ]


def test_what_an_upgrade_to_arrears_gave_back_of_an_unpaid_invoice_is_charged_again() -> None:
    """10 never paid and void, 5 of them given back for the second half by the change, and taken again."""
    acme = Acme(BASIC, "2026-04-01").at("2026-04-16").upgrade(LATER_PRO)
    acme.end_now()
    assert [line for line in acme.invoices() if "VOID" not in line] == [
        "2 FINAL PAID 2026-04-01..2026-04-16 -5.00",
        "4 ADJUSTMENT DUE 2026-04-16..2026-05-01 5.00",
    ]


def test_an_unpaid_upgrade_is_not_given_back() -> None:
    """10 is paid, 10 more is due when it ends: of the three quarters that ran, what was paid covers its part."""
    acme = Acme(BASIC, "2026-04-01").pay().at("2026-04-16").upgrade(PRO)
    acme.at("2026-04-18").end_now()
    assert acme.invoices()[1:] == [
        "2 ADJUSTMENT VOID 2026-04-16..2026-05-01 10.00",
        "3 CREDIT PAID 2026-04-18..2026-05-01 -4.33",
    ]


def test_what_a_cheaper_plan_gave_back_of_an_unpaid_invoice_is_charged_again() -> None:
    """30 was never paid, 10 of it given back by a change to 10: ended at half, nobody owes anybody for May."""
    acme = Acme(PRO, "2026-04-01").pay().at("2026-05-01").upgrade(BASIC)
    assert acme.invoices()[1:] == [
        "2 ADVANCE DUE 2026-05-01..2026-06-01 30.00",
        "3 ADJUSTMENT PAID 2026-05-01..2026-06-01 -20.00",
    ]
    acme.end_now()
    assert acme.invoices()[1:] == [
        "2 ADVANCE VOID 2026-05-01..2026-06-01 30.00",
        "3 ADJUSTMENT PAID 2026-05-01..2026-06-01 -20.00",
        "4 ADJUSTMENT DUE 2026-05-01..2026-06-01 20.00",
    ]


def test_what_is_cancelled_at_once_before_it_begins_cannot_be_taken_back() -> None:
    """It never begins, and is never invoiced."""
    acme = Acme(BASIC, "2026-05-01", now="2026-04-10").end_now()
    with pytest.raises(ProblemError, match="no cancellation is scheduled"):
        acme.stay()
    assert acme.at("2026-07-01").invoices() == []


def test_a_change_that_was_scheduled_ends_with_the_subscription() -> None:
    """Cancelled at once, there is no downgrade left to come or to be taken back."""
    acme = Acme(PRO, "2026-04-01").pay().downgrade(BASIC).end_now()
    with pytest.raises(ProblemError, match="no change of plan is scheduled"):
        acme.keep_plan()


def test_a_subscription_for_so_many_periods_ends_by_itself() -> None:
    """Three months and no fourth."""
    acme = Acme(BASIC, "2026-04-01", periods=3)
    for day in ("2026-04-01", "2026-05-01", "2026-06-01", "2026-07-01", "2026-08-01"):
        acme.at(day).pay()
    assert [text.split()[3] for text in acme.invoices()] == [
        "2026-04-01..2026-05-01",
        "2026-05-01..2026-06-01",
        "2026-06-01..2026-07-01",
    ]


def test_a_period_that_will_be_cut_by_a_known_end_costs_its_part() -> None:
    """Three months from 1 April, changed to weeks on 28 June: the last week has three days, and costs three."""
    acme = Acme(BASIC, "2026-04-01", periods=3)
    for day in ("2026-04-01", "2026-05-01", "2026-06-01"):
        acme.at(day).pay()
    acme.at("2026-06-28").upgrade(WEEKLY)
    assert acme.lines(4) == ["proration -1.00", "base 3.00"]
    acme.leave().pay().at("2026-07-01")
    assert acme.access() == "no_subscription", "nobody stays longer by leaving"
    assert acme.at("2026-08-01").invoices()[3:] == ["4 ADVANCE PAID 2026-06-28..2026-07-01 2.00"]


# Late events


def test_a_late_event_is_billed_on_the_next_invoice() -> None:
    """adjust: April is invoiced; what is reported of it in May is a line on May's invoice that names April."""
    acme = Acme(LATER, "2026-04-01")
    acme.use("100")
    acme.at("2026-05-10").use("50", when="2026-04-20")
    acme.at("2026-06-01")
    assert acme.lines(1) == ["base 10.00", "usage api 100 1.00"]
    assert acme.lines(2) == ["base 10.00", "late api 0.50"]
    late = acme.invoice(2).lines[1]
    assert (acme.day(late.period_start), acme.day(late.period_end)) == ("2026-04-01", "2026-05-01")


def test_late_usage_of_a_feature_that_was_not_billed_is_shown_in_full() -> None:
    """The first that is heard of April comes in May: its line has units and steps, and names April."""
    acme = Acme(LATER, "2026-04-01")
    acme.at("2026-05-10").use("50", when="2026-04-20")
    acme.at("2026-06-01")
    assert acme.lines(2) == ["base 10.00", "usage api 50 0.50"]


def test_a_late_event_reopens_the_invoice_in_its_grace_days() -> None:
    """reopen: the invoice is DUE, its lines are written anew; once it is paid or overdue, the next one adjusts."""
    acme = Acme(plan("10", arrears=True, name="open", api=each("0.01", late="reopen")), "2026-04-01")
    acme.use("100")
    acme.at("2026-05-03").use("50", when="2026-04-20")
    assert acme.lines(1) == ["base 10.00", "usage api 150 1.50"]
    acme.at("2026-05-10").use("50", when="2026-04-20")
    assert acme.invoices()[0] == "1 ARREARS PAST_DUE 2026-04-01..2026-05-01 11.50"
    acme.at("2026-06-01")
    assert acme.lines(2) == ["base 10.00", "late api 0.50"]


def test_late_events_are_refused_where_the_plan_says_so() -> None:
    """refuse: the period is over; in a running one an hour late is on time."""
    acme = Acme(plan("10", arrears=True, name="strict", api=each("0.01", late="refuse")), "2026-04-01")
    acme.at("2026-05-10")
    with pytest.raises(ProblemError, match="refused"):
        acme.use("50", when="2026-04-30T23:59")
    acme.use("50", when="2026-05-01")
    acme.at("2026-06-01")
    assert acme.lines(2) == ["base 10.00", "usage api 50 0.50"]


def test_usage_reported_after_the_end_is_billed_when_the_period_would_have_ended() -> None:
    """Cancelled on 16 April; what is heard of it on 20 April is on a FINAL invoice of 1 May."""
    acme = Acme(BASIC, "2026-04-01").pay().at("2026-04-16").end_now()
    acme.at("2026-04-20").use("100", when="2026-04-10")
    assert len(acme.invoices()) == 2
    acme.at("2026-05-02")
    assert acme.invoices()[2:] == ["3 FINAL DUE 2026-04-01..2026-05-01 1.00"]


# Voids


def test_an_event_voided_before_its_period_is_invoiced_is_not_billed() -> None:
    """Nothing of it appears."""
    acme = Acme(LATER, "2026-04-01")
    wrong = acme.use("1000")
    acme.use("100")
    acme.take_back(wrong).at("2026-05-01")
    assert acme.lines(1) == ["base 10.00", "usage api 100 1.00"]


def test_an_event_voided_while_its_invoice_is_open_leaves_it() -> None:
    """DUE or PAST_DUE, the invoice follows."""
    acme = Acme(LATER, "2026-04-01")
    wrong = acme.use("1000")
    acme.use("100")
    acme.at("2026-05-20").take_back(wrong)
    assert acme.invoices()[0] == "1 ARREARS PAST_DUE 2026-04-01..2026-05-01 11.00"


def test_an_event_voided_when_its_invoice_is_paid_is_given_back_on_the_next() -> None:
    """A paid invoice is never rewritten."""
    acme = Acme(LATER, "2026-04-01")
    wrong = acme.use("1000")
    acme.at("2026-05-01").pay().take_back(wrong)
    acme.at("2026-06-01")
    assert acme.invoices()[:2] == [
        "1 ARREARS PAID 2026-04-01..2026-05-01 20.00",
        "2 ARREARS PAID 2026-05-01..2026-06-01 0.00",
    ]
    assert acme.lines(2) == ["base 10.00", "late api -10.00"]


def test_what_a_void_leaves_of_graduated_usage_is_priced_as_if_it_had_never_been() -> None:
    """1,500 units and 1,000 of them taken back are 500 units: 10.00, whichever came first."""
    acme = Acme(plan("0", arrears=True, name="chat", chat=GRADUATED), "2026-04-01")
    first = acme.use("1000", feature="chat")
    acme.use("500", feature="chat")
    acme.take_back(first).at("2026-05-01")
    assert acme.lines(1) == ["usage chat 500 10.00"]


def test_an_invoice_that_a_void_leaves_with_nothing_to_pay_is_paid_and_access_comes_back() -> None:
    """A free plan's usage is past due; taken back, the running month begins, as after a payment."""
    acme = Acme(FREE, "2026-04-01")
    wrong = acme.use("1000")
    acme.at("2026-06-16")
    assert acme.access() == "past_due"
    acme.take_back(wrong)
    assert acme.access() == "yes"
    assert acme.invoices()[1:] == [
        "2 ADVANCE PAID 2026-05-01..2026-06-01 0.00",
        "3 ADVANCE PAID 2026-06-01..2026-07-01 0.00",
    ]


def test_a_void_invoice_s_usage_is_on_the_next_one_and_its_base_price_is_waived() -> None:
    """11.00 voided: the 1.00 of usage comes again, with its units; the 10.00 do not."""
    acme = Acme(LATER, "2026-04-01")
    acme.use("100")
    acme.at("2026-05-02").void(1).at("2026-06-01")
    assert acme.lines(2) == ["base 10.00", "usage api 100 1.00"]


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_usage_on_two_void_invoices_comes_again_once(order: tuple[int, int]) -> None:
    """April's usage, and what came late of it, in whichever order they are voided: one line with all units."""
    acme = Acme(plan("10", arrears=True, name="later-again"), "2026-04-01", grace=60)
    acme.use("100")
    acme.at("2026-05-10").use("50", when="2026-04-20")
    acme.at("2026-06-02")
    for serial in order:
        acme.void(serial)
    acme.at("2026-07-01")
    assert acme.lines(3) == ["base 10.00", "usage api 150 1.50"]


def billed_twice() -> tuple[Acme, str, str]:
    """Return Acme with April's usage on one open invoice, what came late of it on the next, and both events."""
    acme = Acme(plan("10", arrears=True, name="twice"), "2026-04-01", grace=60)
    first = acme.use("100")
    second = acme.at("2026-05-10").use("50", when="2026-04-20")
    acme.at("2026-06-02")
    assert (acme.lines(1)[1], acme.lines(2)[1]) == ("usage api 100 1.00", "late api 0.50")
    return acme, first, second


def test_of_two_open_invoices_that_bill_a_period_the_latest_follows_a_void() -> None:
    """The 100 calls of the first are taken back: the second, which had 0.50 of late usage, gives 0.50 back."""
    acme, first, _ = billed_twice()
    acme.take_back(first)
    assert (acme.lines(1)[1], acme.lines(2)[1]) == ("usage api 100 1.00", "late api -0.50")


def test_an_open_invoice_that_is_written_anew_bills_what_a_void_one_has_left() -> None:
    """The first is void, and a late event is taken back: the second has all there is of April, with its units."""
    acme, _, second = billed_twice()
    acme.void(1).take_back(second)
    assert acme.lines(2) == ["base 10.00", "usage api 100 1.00"]
    assert acme.at("2026-07-01").lines(3) == ["base 10.00"]


def test_an_invoice_of_long_ago_can_be_voided_after_a_restart() -> None:
    """April is unpaid when the daemon starts again in August; voided, April's usage is on August's invoice."""
    acme = Acme(LATER, "2026-04-01", grace=300, books=Books())
    acme.use("100")
    acme.at("2026-08-10").driven.restart()
    assert acme.void(1).at("2026-09-01").lines(5) == ["base 10.00", "usage api 100 1.00"]


def test_an_invoice_whose_period_runs_cannot_be_voided_or_paid() -> None:
    """PENDING: its lines are not final. Paid or void, it cannot be voided."""
    acme = Acme(LATER, "2026-04-01")
    with pytest.raises(ProblemError, match="still runs"):
        acme.void(1)
    with pytest.raises(ProblemError, match="cannot be paid"):
        acme.pay(1)
    acme.at("2026-05-01").pay(1)
    with pytest.raises(ProblemError, match="PAID"):
        acme.void(1)


def test_a_void_first_invoice_opens_the_door() -> None:
    """Nothing is owed any more, so there is access; the month is a gift, the next one is not."""
    acme = Acme(BASIC, "2026-04-01").void(1)
    assert acme.access() == "yes"
    acme.at("2026-05-01")
    assert acme.invoices()[1:] == ["2 ADVANCE DUE 2026-05-01..2026-06-01 10.00"]


# Credits


def test_credits_of_a_plan_in_advance_come_when_it_is_paid() -> None:
    """D4: none while it is unpaid; paid, they are there; paid again, they are not doubled."""
    acme = Acme(BASIC, "2026-04-01", credit_model=TOKENS, credits_a_period=100)
    assert acme.balance() == "0"
    assert acme.pay().balance() == "100"
    assert acme.pay(1).balance() == "100"


def test_units_paid_with_credits_are_shown_at_zero_and_not_billed_too() -> None:
    """D9: of 130 calls credits cover 100; they are on the invoice at 0.00, and 30 are billed."""
    acme = Acme(BASIC, "2026-04-01", credit_model=TOKENS, credits_a_period=100).pay()
    acme.use("130")
    assert acme.at("2026-05-01").lines(2) == ["usage api 30 0.30", "covered api 100 0.00", "base 10.00"]


def test_an_event_paid_with_credits_is_taken_back_with_them() -> None:
    """Voided, 130 calls give 100 credits back and bill nothing."""
    acme = Acme(BASIC, "2026-04-01", credit_model=TOKENS, credits_a_period=100).pay()
    event = acme.use("130")
    assert acme.take_back(event).balance() == "100"
    assert acme.at("2026-05-01").invoice(2).amount == Decimal("10.00")


def test_credits_beyond_the_balance_are_billed_at_the_period_s_end() -> None:
    """150 calls on 100 credits, and a credit of overage costs 0.02."""
    acme = Acme(BASIC, "2026-04-01", credit_model=INVOICED, credits_a_period=100).pay()
    acme.use("150")
    acme.at("2026-05-01")
    assert acme.lines(2) == ["usage api 0 0.00", "covered api 150 0.00", "overage 50 1.00", "base 10.00"]


def test_overage_on_a_void_invoice_is_charged_again() -> None:
    """By the next invoice; or by the last, when the subscription ends at once."""
    acme = Acme(BASIC, "2026-04-01", credit_model=INVOICED, credits_a_period=100).pay()
    acme.use("150")
    acme.at("2026-05-01").void(2).at("2026-06-01")
    assert acme.lines(3)[-2:] == ["overage 50 1.00", "base 10.00"]
    acme.end_now()
    assert acme.lines(4)[-1] == "overage 50 1.00"


# Previews


@pytest.mark.parametrize("of", [BASIC, LATER])
def test_a_preview_is_what_the_next_invoice_will_be(of: Plan) -> None:
    """In advance and in arrears, with the usage so far; asking changes nothing."""
    acme = Acme(of, "2026-04-01").pay()
    acme.use("250")
    expected = upcoming(acme.driven.account, 1)
    assert expected is not None
    assert acme.read(expected).endswith("12.50")
    made = acme.at("2026-05-01").invoice(expected.serial)
    assert (made.kind, made.amount, made.lines) == (expected.kind, expected.amount, expected.lines)


def test_while_the_period_is_unpaid_no_invoice_is_coming() -> None:
    """In advance nothing is invoiced while there is no access, and the preview does not show what is overdue."""
    acme = Acme(BASIC, "2026-04-01").pay().at("2026-05-02")
    assert upcoming(acme.driven.account, 1) is None


# Years


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
@pytest.mark.parametrize("arrears", [False, True])
def test_five_years_from_31_january_are_sixty_invoices_without_gap_or_overlap(zone: str, arrears: bool) -> None:
    """Through a leap year and ten changes of the clocks: each period ends at midnight, as the next begins."""
    acme = Acme(LATER if arrears else BASIC, "2026-01-31", zone=zone)
    while len(acme.invoices()) < 61:
        acme.pay().driven.pass_to(acme.driven.account.due_at)
    periods = [(invoice.period_start, invoice.period_end) for invoice in acme.driven.invoices.values()][:60]
    assert acme.day(periods[0][0]) == "2026-01-31"
    assert acme.day(periods[59][1]) == "2031-01-31"
    assert all(end == start for (_, end), (start, _) in pairwise(periods))
    days = [acme.day(start) for start, _ in periods]
    assert [day for day in days if "02-2" in day] == [
        "2026-02-28",
        "2027-02-28",
        "2028-02-29",
        "2029-02-28",
        "2030-02-28",
    ]
    assert {day[-2:] for day in days if day[5:7] in {"01", "03", "05", "07", "08", "10", "12"}} == {"31"}
    assert {invoice.amount for invoice in list(acme.driven.invoices.values())[:60]} == {Decimal("10.00")}


def test_a_subscription_that_began_in_the_past_lives_through_its_periods_when_it_is_made() -> None:
    """In arrears since January, made on 10 April: three invoices, due today and not before."""
    acme = Acme(LATER, "2026-01-01", now="2026-04-10")
    assert acme.invoices() == [
        "1 ARREARS DUE 2026-01-01..2026-02-01 10.00",
        "2 ARREARS DUE 2026-02-01..2026-03-01 10.00",
        "3 ARREARS DUE 2026-03-01..2026-04-01 10.00",
        "4 ARREARS PENDING 2026-04-01..2026-05-01 0",
    ]
    assert {acme.day(acme.invoice(serial).due_at) for serial in (1, 2, 3)} == {"2026-04-10"}
    assert acme.access() == "yes"
