"""`tallyd invoices`, `tallyd explain` and `tallyd events`, against a real daemon."""

from datetime import UTC, datetime
from decimal import Decimal
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from rich.console import Console

from cli.billed import NewCustomer, decoded, newest
from cli.commands import Program, Run
from tallyd.cli import invoices_show
from tallyd.cli.child import Child
from tallyd.cli.client import Daemon
from tallyd.cli.events import read_field

_KEYS = count(1)


@pytest.fixture(scope="module")
def daemon(child: Child) -> Any:
    """Connect to the daemon all tests share."""
    connection = Daemon(child.socket)
    yield connection
    connection.close()


def ingest(daemon: Daemon, customer: str, at: str, units: int, **fields: Any) -> str:
    """Report API calls; return the event's id."""
    event = {
        "eventName": "api",
        "eventIdempotencyKey": f"billed-{next(_KEYS)}",
        "customerReferenceId": customer,
        "occurredAt": at,
        "usageUnits": units,
        **fields,
    }
    (result,) = daemon.call("ingest", {"events": [event]})["results"]
    assert result["status"] == "created", result
    return str(result["eventId"])


def billed(run: Run, daemon: Daemon, on_clock: NewCustomer, units: int = 15_000) -> tuple[str, str]:
    """Let a customer of `scale` live through January 2027; return it, and the number of its invoice."""
    customer = on_clock("2027-01-01", "scale")
    ingest(daemon, customer, "2027-01-01T10:00:00Z", units)
    assert run("clock", "advance", "2027-02-01", "--customer", customer).exit_code == 0
    found = decoded(run("invoices", customer, "--status", "DUE", "--json"))["items"]
    assert len(found) == 1
    return customer, found[0]["number"]


def row(done: Result, words: str) -> str:
    """Return the line of what a command printed that has some words in it."""
    assert done.exit_code == 0, done.output
    return next(line for line in done.stdout.splitlines() if words in line)


# Looking


@pytest.mark.process
def test_an_invoice_is_shown_with_its_steps(run: Run, daemon: Daemon, on_clock: NewCustomer) -> None:
    """Each tier and flat fee is there, and the lines add up to the total."""
    customer, number = billed(run, daemon, on_clock)
    done = run("invoices", "show", number)
    assert row(done, f"Invoice {number}").endswith("DUE")
    assert customer in row(done, "customer")
    assert row(done, "base price").split()[-1] == "499.00"
    assert row(done, "Usage of api").split()[-2:] == ["15,000", "24.50"]
    assert row(done, "1,000 api_calls in tier 1").split()[-1] == "0.00"
    assert row(done, "flat fee of tier 2").split()[-1] == "5.00"
    assert row(done, "total").split()[-1] == "523.50"
    assert "if unpaid, access ends on 2027-02-05" in done.stdout


@pytest.mark.process
def test_the_list_is_newest_first_and_can_be_narrowed(run: Run, daemon: Daemon, on_clock: NewCustomer) -> None:
    """The month that runs is PENDING, the one before is DUE; --limit says how many it leaves out."""
    customer, number = billed(run, daemon, on_clock)
    lines = [line.split() for line in run("invoices", customer).stdout.splitlines() if "INV-" in line]
    assert [line[-3] for line in lines] == ["PENDING", "DUE"]
    assert lines[1][0] == number
    assert "1 more" in run("invoices", customer, "--limit", 1).stdout
    assert "there is no such invoice" in run("invoices", customer, "--status", "VOID").stdout
    assert number in run("invoices", "list", "--limit", 500).stdout


@pytest.mark.process
def test_a_preview_is_what_the_invoice_becomes(run: Run, daemon: Daemon, on_clock: NewCustomer) -> None:
    """The same lines and amount, though nothing is made yet."""
    customer = on_clock("2027-01-01", "scale")
    ingest(daemon, customer, "2027-01-01T10:00:00Z", 1001)
    shown = run("invoices", "preview", customer)
    assert "The next invoice, as it would be" in shown.stdout
    preview = decoded(run("invoices", "preview", customer, "--json"))["invoice"]
    run("clock", "advance", "1 month", "--customer", customer)
    made = decoded(run("invoices", customer, "--status", "DUE", "--json"))["items"][0]
    assert preview["amount"] == made["amount"] == Decimal("514.00")


@pytest.mark.process
def test_without_a_further_invoice_the_preview_says_so(run: Run, on_clock: NewCustomer) -> None:
    """Who has ended gets none."""
    customer = on_clock("2027-01-01", "free")
    run("subscriptions", "cancel", customer, "--now")
    done = run("invoices", "preview", customer)
    assert done.exit_code == 0
    assert "No invoice will come as things stand" in done.stdout


@pytest.mark.process
def test_the_next_invoice_is_not_the_one_that_is_unpaid(run: Run, on_clock: NewCustomer) -> None:
    """While an invoice in advance is unpaid there will be no other: access ends before its time."""
    customer = on_clock("2027-01-01", "pro", paid=True)
    run("clock", "advance", "1 month", "--customer", customer)
    assert decoded(run("invoices", "preview", customer, "--json"))["invoice"] is None
    run("invoices", "paid", newest(run("invoices", customer, "--json"))["number"])
    assert decoded(run("invoices", "preview", customer, "--json"))["invoice"]["periodStart"][:10] == "2027-03-01"


# Paying and voiding


@pytest.mark.process
def test_paying_is_told_and_harmless_to_repeat(run: Run, daemon: Daemon, on_clock: NewCustomer) -> None:
    """Twice is as good as once; an unpaid invoice ends access after the grace days, and paying brings it back."""
    customer, number = billed(run, daemon, on_clock)
    run("clock", "advance", "2027-02-05", "--customer", customer)
    assert "no access until it is paid" in run("invoices", "show", number).stdout
    assert run("check", customer, "api").exit_code == 1
    for _ in range(2):
        done = run("invoices", "paid", number)
        assert row(done, f"Invoice {number}").endswith("PAID")
    assert run("check", customer, "api").exit_code == 0


@pytest.mark.process
def test_the_usage_of_a_voided_invoice_is_on_the_next(run: Run, daemon: Daemon, on_clock: NewCustomer) -> None:
    """An invoice that is paid cannot be voided; one that is due can, and its usage is not lost."""
    customer, number = billed(run, daemon, on_clock)
    assert row(run("invoices", "void", number), f"Invoice {number}").endswith("VOID")
    run("clock", "advance", "2027-03-01", "--customer", customer)
    next_ = decoded(run("invoices", customer, "--status", "DUE", "--json"))["items"][0]["number"]
    assert row(run("invoices", "show", next_), "Usage of api").split()[-1] == "24.50"
    run("invoices", "paid", next_)
    refused = run("invoices", "void", next_)
    assert refused.exit_code == 1
    assert "PAID cannot be voided" in refused.stderr


@pytest.mark.process
def test_an_invoice_there_is_not(run: Run) -> None:
    """The error names what was asked for."""
    done = run("invoices", "show", "INV-999999-0001")
    assert done.exit_code == 1
    assert "INV-999999-0001" in done.stderr


# The page


@pytest.mark.process
def test_a_page_is_written_where_it_is_said(
    run: Run, daemon: Daemon, on_clock: NewCustomer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default it is called by the invoice's number, here; what is printed is where it is."""
    _, number = billed(run, daemon, on_clock)
    monkeypatch.chdir(tmp_path)
    assert run("invoices", "page", number).stdout == f"{number}.html\n"
    page = (tmp_path / f"{number}.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert number in page
    assert "523.50" in page
    assert run("invoices", "page", number, "--output", "there.html").exit_code == 0
    assert (tmp_path / "there.html").read_text(encoding="utf-8") == page
    assert run("invoices", "page", number, "--output", "no/where.html").exit_code == 1


@pytest.mark.process
def test_an_invoice_in_arrears_is_issued_when_its_period_has_ended(
    run: Run, daemon: Daemon, on_clock: NewCustomer
) -> None:
    """That is the day from which it is due, and what happens if it is not paid is said."""
    _, number = billed(run, daemon, on_clock)
    done = run("invoices", "show", number)
    assert row(done, "  issued").split() == ["issued", "2027-02-01"]
    assert "if unpaid, access ends on 2027-02-05" in row(done, "  due")


@pytest.mark.process
def test_who_has_left_has_no_access_to_lose(run: Run, daemon: Daemon, on_clock: NewCustomer) -> None:
    """Neither a final invoice nor the last one of a subscription that has ended says that access ends."""
    customer = on_clock("2027-01-01", "scale")
    ingest(daemon, customer, "2027-01-01T10:00:00Z", 15_000)
    assert "FINAL" not in run("subscriptions", "cancel", customer).stdout
    run("clock", "advance", "2027-02-01", "--customer", customer)
    number = newest(run("invoices", customer, "--json"))["number"]
    assert row(run("invoices", "show", number), "  due").split() == ["due", "2027-02-01"]
    run("clock", "advance", "2027-02-05", "--customer", customer)
    overdue = run("invoices", "show", number)
    assert "PAST_DUE" in overdue.stdout
    assert row(overdue, "  due").split() == ["due", "2027-02-01"]
    left = on_clock("2027-01-01", "scale")
    ingest(daemon, left, "2027-01-01T10:00:00Z", 15_000)
    run("clock", "advance", "1d", "--customer", left)
    assert "access" not in run("subscriptions", "cancel", left, "--now").stdout


@pytest.mark.parametrize(("kind", "said"), [("IN_ADVANCE", True), ("FINAL", False), ("CREDIT", False)])
def test_a_final_invoice_and_a_credit_end_no_access(kind: str, said: bool) -> None:
    """They come when access has ended, also where nothing else is known of the subscription."""
    day = "2027-02-01T00:00:00Z"
    moments = dict.fromkeys(("periodStart", "periodEnd", "issuedAt", "dueDate", "overdueAt"), day)
    console = Console(file=StringIO(), width=100)
    invoices_show.show_invoice(
        console, {**moments, "type": kind, "status": "DUE", "amount": Decimal(5), "currency": "USD"}
    )
    assert isinstance(console.file, StringIO)
    assert ("access ends" in console.file.getvalue()) is said


# Explaining


@pytest.mark.process
def test_a_line_explains_itself_down_to_its_events(run: Run, daemon: Daemon, on_clock: NewCustomer) -> None:
    """Steps, price version, and the events a page at a time."""
    customer = on_clock("2027-01-01", "scale")
    for hour in range(3):
        ingest(daemon, customer, f"2027-01-01T1{hour}:00:00Z", 400)
    run("clock", "advance", "2027-02-01", "--customer", customer)
    number = decoded(run("invoices", customer, "--status", "DUE", "--json"))["items"][0]["number"]
    place = 1 + next(
        place
        for place, line in enumerate(decoded(run("invoices", "show", number, "--json"))["items"])
        if line.get("featureKey") == "api"
    )
    done = run("explain", number, place, "--limit", 2)
    assert f"Line {place} of {number}: Usage of api" in done.stdout
    assert "scale@1" in row(done, "price")
    assert "1,000 api_calls in tier 1" in done.stdout
    assert "3, together 15.20" in row(done, "events")
    positions = row(done, "events").rpartition("ledger positions ")[2].strip().split(" to ")
    counter = decoded(run("explain", number, place, "--json"))["counter"]
    assert [str(counter["positionFrom"]), str(counter["positionTo"])] == positions
    page = daemon.call("invoices.page", {"invoiceId": number})["html"]
    assert "ledger positions " + "\N{EN DASH}".join(positions) in page
    assert row(done, "2027-01-01 10:00").split()[-1] == "10.00"
    assert "and 1 more" in done.stdout
    rest = run("explain", number, place, "--limit", 2, "--offset", 2)
    assert row(rest, "2027-01-01 12:00").split()[-1] == "5.20"
    assert "more;" not in rest.stdout


@pytest.mark.process
def test_what_credits_paid_is_explained(run: Run, daemon: Daemon, on_clock: NewCustomer) -> None:
    """A covered line is at zero, and its event says what it drew."""
    customer = on_clock("2027-01-01", "prepaid")
    cost = {"model": "gpt-4o"}
    fields = {"eventName": "answer", "featureKey": "assistant", "costInput": cost}
    ingest(daemon, customer, "2027-01-01T10:00:00Z", 5, **fields)
    run("clock", "advance", "2027-02-01", "--customer", customer)
    number = newest(run("invoices", customer, "--json"))["number"]
    lines = decoded(run("invoices", "show", number, "--json"))["items"]
    place = 1 + next(place for place, line in enumerate(lines) if line["kind"] == "covered")
    done = run("explain", number, place)
    assert "paid with credits" in done.stdout
    assert "gpt-4o, -40 credits" in done.stdout


@pytest.mark.process
def test_a_line_there_is_not(run: Run, daemon: Daemon, on_clock: NewCustomer) -> None:
    """Lines are counted from 1, as they are shown; the error says how to see them."""
    _, number = billed(run, daemon, on_clock)
    done = run("explain", number, 99)
    assert done.exit_code == 1
    assert f"tallyd invoices show {number}" in done.stderr
    assert run("explain", number, 0).exit_code == 2


# Correcting


@pytest.mark.process
def test_a_voided_event_is_on_no_invoice(run: Run, daemon: Daemon, on_clock: NewCustomer) -> None:
    """The open month follows; a second time it is refused."""
    customer = on_clock("2027-01-01", "scale")
    event = ingest(daemon, customer, "2027-01-01T10:00:00Z", 15_000)
    assert f"taken back: event {event}" in run("events", "void", event, "--reason", "a test").stdout
    assert decoded(run("invoices", "preview", customer, "--json"))["invoice"]["amount"] == 499
    again = run("events", "void", event, "--reason", "a test")
    assert again.exit_code == 1
    assert run("events", "void", event).exit_code == 2


@pytest.mark.process
def test_an_amended_event_takes_the_others_place(run: Run, daemon: Daemon, on_clock: NewCustomer) -> None:
    """What is not said stays as it was: its time too, so the invoiced month is adjusted by the next invoice."""
    customer, number = billed(run, daemon, on_clock)
    run("invoices", "paid", number)
    event = decoded(run("explain", number, 2, "--json"))["events"]["items"][0]["eventId"]
    done = run("events", "amend", event, "--set", "usageUnits=500", "--reason", "counted twice")
    assert row(done, "units").split()[-1] == "500"
    run("clock", "advance", "2027-03-01", "--customer", customer)
    next_ = decoded(run("invoices", customer, "--status", "DUE", "--json"))["items"][0]["number"]
    shown = run("invoices", "show", next_)
    assert row(shown, "Change to the usage of api").split()[-1] == "-14.50"
    assert row(shown, "Jan 2027").strip() == "Jan 2027"
    late = next(
        place
        for place, line in enumerate(decoded(run("invoices", "show", next_, "--json"))["items"], start=1)
        if line["kind"] == "late"
    )
    assert "taken back: counted twice" in run("explain", next_, late).stdout


def test_a_field_is_json_where_it_reads_as_that() -> None:
    """Numbers keep their digits, objects are objects, all else is text."""
    name, units = read_field("usageUnits=3.50")
    assert (name, bytes(units)) == ("usageUnits", b"3.50")
    assert bytes(read_field('costInput={"model": "m"}')[1]) == b'{"model": "m"}'
    assert read_field("eventName=api=1") == ("eventName", "api=1")


@pytest.mark.process
def test_what_is_no_field_is_used_wrongly(run: Run) -> None:
    """A pair without a name or a value is refused before anything is asked."""
    for pair in ("usageUnits", "=3"):
        assert run("events", "amend", "an-event", "--set", pair, "--reason", "x").exit_code == 2


@pytest.mark.process
def test_no_daemon_is_an_exit_code_of_its_own(program: Program) -> None:
    """A script can tell that nobody was there from a refusal."""
    assert program("invoices", "acme", "--socket", "nowhere.sock").returncode == 3


# Words


@pytest.mark.parametrize(
    ("start", "end", "zone", "words"),
    [
        ("2027-02-01T00:00:00Z", "2027-03-01T00:00:00Z", "UTC", "Feb 2027"),
        ("2027-01-31T23:00:00Z", "2027-02-28T23:00:00Z", "Europe/Berlin", "Feb 2027"),
        ("2027-02-28T23:00:00Z", "2027-03-31T22:00:00Z", "Europe/Berlin", "Mar 2027"),
        ("2027-01-31T00:00:00Z", "2027-02-28T00:00:00Z", "UTC", "2027-01-31 to 2027-02-27"),
        ("2027-01-31T00:00:00Z", "2027-02-01T00:00:00Z", "UTC", "2027-01-31"),
        ("2027-01-16T12:00:00Z", "2027-02-01T00:00:00Z", "UTC", "2027-01-16 12:00 until 2027-02-01"),
        ("2027-01-16T12:00:00Z", "2027-01-16T12:00:00Z", "UTC", "2027-01-16 12:00 until 2027-01-16 12:00"),
    ],
)
def test_a_period_is_written_as_people_say_it(start: str, end: str, zone: str, words: str) -> None:
    """A month by its name, days by the first and the last, all else by its instants; where the subscriber is."""
    assert invoices_show.span(start, end, zone) == words


@pytest.mark.parametrize(
    ("value", "currency", "words"),
    [("1234.5", "USD", "1,234.50"), ("0.0001", "USD", "0.0001"), ("500", "JPY", "500"), ("1.5", "KWD", "1.500")],
)
def test_an_amount_has_the_digits_of_its_currency_or_all_it_has(value: str, currency: str, words: str) -> None:
    """Nothing is rounded for show."""
    assert invoices_show.money(Decimal(value), currency) == words


def test_instants_are_shown_where_they_are() -> None:
    """An instant is converted, never shifted."""
    assert invoices_show.local("2027-01-31T23:00:00Z", "Europe/Berlin") == datetime(2027, 1, 31, 23, tzinfo=UTC)
