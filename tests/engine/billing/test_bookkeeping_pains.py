"""What went wrong with invoices and time in other systems (DESIGN's table), each as it does not go wrong here."""

from calendar import monthrange
from decimal import Decimal
from typing import Final

import pytest

from engine.billing.acme import Acme, each, plan
from engine.billing.driven import Books, Driven
from engine.billing.naive_biller import Fact
from support import at
from tallyd.engine.entitlements import decide
from tallyd.engine.passing import current, pass_time
from tallyd.model.catalog import CreditModel
from tallyd.model.ledger_entries import EntryKind

HOUR: Final = 3_600_000_000
DAY: Final = 24 * HOUR
BASIC: Final = plan("10", name="basic")
LATER: Final = plan("10", arrears=True, name="later")


@pytest.mark.parametrize(
    "zone", ["Pacific/Kiritimati", "Asia/Kolkata", "Europe/Berlin", "America/Santiago", "Pacific/Niue"]
)
def test_no_duplicate_invoices_with_time_zones(zone: str) -> None:
    """The job runs every hour of two years: one invoice a month, at midnight in any zone (lago-api #1074)."""
    acme = Acme(LATER, "2026-01-15", zone=zone)
    start = acme.driven.now
    for hour in range(2 * 365 * 24):
        acme.driven.pass_to(start + hour * HOUR)
    days = [acme.day(invoice.period_start) for invoice in acme.driven.invoices.values()]
    assert days == [f"{2026 + month // 12}-{month % 12 + 1:02}-15" for month in range(24)]


def test_a_job_that_runs_twice_finds_nothing_the_second_time() -> None:
    """What is due is done by whoever comes first, and is not due any more (P6, lago-api #1074)."""
    acme = Acme(LATER, "2026-01-15").at("2026-04-15")
    assert pass_time(acme.driven.account, acme.driven.now, lambda: 0) is None
    assert len(acme.invoices()) == 4


@pytest.mark.parametrize("anchor", [29, 30, 31])
def test_accounts_anchored_at_the_month_s_end_go_on_being_billed(anchor: int) -> None:
    """Through three Februaries there is an invoice a month, and the anchor day comes back (killbill #127)."""
    acme = Acme(BASIC, f"2027-01-{anchor}").pay()
    while len(acme.invoices()) < 26:
        acme.driven.pass_to(acme.driven.account.due_at)
        acme.pay()
    months = [(2027 + month // 12, month % 12 + 1) for month in range(26)]
    days = [f"{year}-{month:02}-{min(anchor, monthrange(year, month)[1])}" for year, month in months]
    assert [acme.day(invoice.period_start) for invoice in acme.driven.invoices.values()] == days
    assert [acme.day(invoice.period_end) for invoice in acme.driven.invoices.values()][:25] == days[1:]


def test_nothing_waits_for_a_job() -> None:
    """No timer has run for weeks; access and credits end at their microsecond all the same (flexprice #1153)."""
    tokens = CreditModel(key="tokens")
    acme = Acme(BASIC, "2026-04-01", credit_model=tokens, credits_a_period=100).pay()
    account, end = acme.driven.account, at("2026-05-05T00:00:00Z")
    position = account.position
    assert decide(account, "api", end - 1).allowed
    assert decide(account, "api", end).reason.value == "past_due"
    before, after = (current(account, moment) for moment in (at("2026-05-01T00:00:00Z") - 1, end))
    assert [each_.balance for each_ in before.credits.pools.values()] == [100]  # type: ignore[union-attr]
    assert (before.serial, after.serial) == (1, 2)
    assert (account.serial, account.position) == (1, position), "asking has written nothing"


def test_a_wrong_event_can_be_corrected_and_the_ledger_says_so() -> None:
    """It said 1,000 for 100: voided and sent again, the open invoice follows, and all rows stay (lago #105)."""
    books = Books()
    driven = Driven(books)
    driven.pass_to(at("2026-04-01T00:00:00Z"))
    driven.subscribe(1, LATER, start=driven.now, anchor=None, zone="UTC", grace=3)
    driven.use("wrong", 1, "api", Decimal(1000), driven.now)
    driven.pass_to(at("2026-05-02T00:00:00Z"))
    assert driven.invoice(1).amount == Decimal("20.00")
    driven.take_back("wrong")
    driven.use("right", 1, "api", Decimal(100), at("2026-04-01T00:00:00Z"))
    assert driven.invoice(1).amount == Decimal("10.00")
    driven.pass_to(at("2026-06-01T00:00:00Z"))
    assert driven.invoice(2).amount == Decimal("11.00")
    assert [row.units for row in driven.rows.values()] == ["1000", "100"]
    voids = [entry for entry in driven.entries if entry.kind == EntryKind.EVENT_VOIDED]
    assert [(entry.event, "wrong" in entry.details) for entry in voids] == [(driven.rows["wrong"].id, True)]
    assert books.findings() == []


def test_fractions_of_a_cent_do_not_park_an_account() -> None:
    """What rounds to nothing is an invoice of 0.00, PAID; the exact amount is on its line (killbill #1124)."""
    acme = Acme(plan("0", arrears=True, name="tiny", api=each("0.0003")), "2026-04-01")
    for month in (4, 5, 6):
        acme.at(f"2026-0{month}-02").use("7")
    acme.at("2026-07-01")
    assert acme.invoices() == [
        "1 ARREARS PAID 2026-04-01..2026-05-01 0.00",
        "2 ARREARS PAID 2026-05-01..2026-06-01 0.00",
        "3 ARREARS PAID 2026-06-01..2026-07-01 0.00",
        "4 ARREARS PENDING 2026-07-01..2026-08-01 0",
    ]
    assert [acme.invoice(serial).lines[0].exact for serial in (1, 2, 3)] == [Decimal("0.0021")] * 3
    assert acme.access() == "yes"


def test_a_third_of_a_price_is_rounded_once_and_kept_exactly() -> None:
    """A hundred yen a month, ten days each on three plans: lines of 33, exact to 18 digits (killbill #1124)."""
    acme = Acme(plan("100", arrears=True, currency="JPY", name="yen"), "2026-04-01")
    acme.at("2026-04-11").upgrade(plan("100", arrears=True, currency="JPY", name="yen-2"))
    acme.at("2026-04-21").upgrade(plan("100", arrears=True, currency="JPY", name="yen-3"))
    acme.at("2026-05-01")
    assert acme.lines(1) == ["base 33", "base 33", "base 33"]
    assert {line.exact for line in acme.invoice(1).lines} == {Decimal("33.333333333333333333")}


def test_a_daemon_that_stood_still_for_forty_days_ends_with_the_same_books() -> None:
    """One runs through, one is stopped for forty days and catches up in slices: the rows are the same (P7)."""
    beginning = at("2026-01-31T00:00:00Z")
    shared: dict[str, object] = {"start": beginning, "anchor": 31, "grace": 3}
    facts: list[Fact] = [
        (beginning, "subscribe", {"number": 1, "plan": LATER, "zone": "Europe/Berlin", **shared}),
        (beginning, "subscribe", {"number": 2, "plan": BASIC, "zone": "UTC", **shared}),
        (beginning + DAY, "pay", {"serial": 2}),
    ]
    for day in (10, 19, 64, 73, 82, 91, 100):
        moment = beginning + day * DAY
        used = {"number": 1 + day % 2, "feature": "api", "units": Decimal(day), "when": moment}
        facts.append((moment, "use", {"event": f"event-{day}", **used}))
    facts.append((beginning + 101 * DAY, "pay", {"serial": 4}))
    running, stopped = Driven(Books()), Driven(Books())
    for moment, what, details in facts:
        while running.now < moment:
            running.pass_to(min(moment, max(running.now, beginning) + HOUR * 7))
        assert running.do(moment, what, details) is None
        stopped.pass_to(moment, most=1)
        if stopped.account.known:
            stopped.restart()
        assert stopped.do(moment, what, details) is None
    assert stopped.invoices == running.invoices
    assert len(running.invoices) >= 7
    assert [(each_.kind, each_.cause, each_.at, each_.details) for each_ in stopped.entries] == [
        (each_.kind, each_.cause, each_.at, each_.details) for each_ in running.entries
    ]
    assert stopped.books is not None
    assert stopped.books.findings() == []
