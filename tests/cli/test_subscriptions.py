"""`tallyd subscribe` and `tallyd subscriptions`, against a real daemon."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from click.testing import Result

from cli.billed import NewCustomer, decoded, newest
from cli.commands import Run

Newcomer = Callable[[], str]


@pytest.fixture(scope="module")
def newcomer() -> Newcomer:
    """Name customers nobody has heard of."""
    numbers = count(1)
    return lambda: f"newcomer-{next(numbers)}"


def only(done: Result) -> Any:
    """Return the only subscription that a command listed for programs."""
    (found,) = decoded(done)["items"]
    return found


@pytest.mark.process
def test_subscribing_shows_the_subscription_and_its_first_invoice(run: Run, newcomer: Newcomer) -> None:
    """A plan that is paid in advance gives access once its first invoice is paid, and says so."""
    done = run("subscribe", newcomer(), "pro", "--starts-at", "2026-01-01")
    assert done.exit_code == 0, done.output
    assert "Pro (pro@1), no access: the first invoice is not paid" in done.stdout
    assert "Jan 2026, UTC" in done.stdout
    assert "access begins when it is paid" in done.stdout
    assert "Pro: base price" in done.stdout


@pytest.mark.process
def test_all_terms_are_passed_on(run: Run, on_clock: NewCustomer) -> None:
    """Start, anchor day, zone, trial and grace days are those of the command line."""
    customer = on_clock("2030-01-11")
    options = ("--starts-at", "2030-01-10", "--anchor-day", 31, "--time-zone", "Europe/Berlin")
    done = run("subscribe", customer, "scale", *options, "--trial-days", 21, "--grace-days", 9, "--json")
    found = decoded(done)["subscription"]
    assert found["startsAt"] == "2030-01-09T23:00:00Z", "00:00 in Berlin"
    assert found["billingAnchorDay"] == 31
    assert found["timeZone"] == "Europe/Berlin"
    assert found["trialEndsAt"] == "2030-01-30T23:00:00Z"
    assert found["gracePeriodDays"] == 9


@pytest.mark.process
def test_a_plan_there_is_not_is_refused(run: Run, newcomer: Newcomer) -> None:
    """The error names the plan, and those there are."""
    done = run("subscribe", newcomer(), "gold")
    assert done.exit_code == 1
    assert "there is no plan 'gold'; there are free, " in done.stderr


@pytest.mark.process
@pytest.mark.parametrize("start", ["2027-02-30", "soon", "2027-02-01T09:00"])
def test_a_start_that_is_none_is_used_wrongly(run: Run, start: str) -> None:
    """Neither a date nor an instant with a zone."""
    assert run("subscribe", "anybody", "free", "--starts-at", start).exit_code == 2


@pytest.mark.process
def test_who_is_subscribed_is_told_how_to_change(run: Run, on_clock: NewCustomer) -> None:
    """The error names the next step."""
    done = run("subscribe", on_clock("2027-01-01", "free"), "free")
    assert done.exit_code == 1
    assert "tallyd subscriptions change" in done.stderr


@pytest.mark.process
def test_dates_are_those_where_the_subscriber_is(run: Run, on_clock: NewCustomer) -> None:
    """A month of Berlin is written as a month, though it begins at 23:00 UTC."""
    customer = on_clock("2027-01-31")
    run("subscribe", customer, "free", "--time-zone", "Europe/Berlin", "--anchor-day", 1)
    run("clock", "advance", "2027-02-10", "--customer", customer)
    assert "Feb 2027" in run("subscriptions", customer).stdout
    assert "Feb 2027" in run("invoices", customer).stdout


@pytest.mark.process
def test_the_group_lists_by_default(run: Run, on_clock: NewCustomer) -> None:
    """`tallyd subscriptions CUSTOMER` is short for `list CUSTOMER`."""
    customer = on_clock("2027-01-01", "free")
    assert run("subscriptions", customer).stdout == run("subscriptions", "list", customer).stdout
    assert only(run("subscriptions", customer, "--json"))["plan"]["key"] == "free"


@pytest.mark.process
def test_an_upgrade_is_charged_at_once(run: Run, on_clock: NewCustomer) -> None:
    """In mid-month it is half of the new price less half of the old one, on an invoice of its own."""
    customer = on_clock("2027-01-01", "pro", paid=True)
    run("clock", "advance", "2027-01-16T12:00Z", "--customer", customer)
    done = run("subscriptions", "change", customer, "team")
    assert "Team (team@1), active" in done.stdout
    assert "75.00 USD" in done.stdout
    assert "Pro: unused time" in done.stdout
    assert "At once (UPGRADE)." in done.stdout
    assert "--at-period-end" in done.stdout


@pytest.mark.process
def test_a_downgrade_waits_for_the_period_and_can_be_taken_back(run: Run, on_clock: NewCustomer) -> None:
    """Until the period ends nothing changes but what is announced."""
    customer = on_clock("2027-01-01", "team", paid=True)
    announced = run("subscriptions", "change", customer, "pro").stdout
    assert "At the end of the period (DOWNGRADE)." in announced
    assert f"tallyd subscriptions change {customer} pro --now" in announced
    assert f"tallyd subscriptions change {customer} --revert" in announced
    assert "Team (team@1), active" in announced
    assert "pro from 2027-02-01" in announced
    taken_back = run("subscriptions", "change", customer, "--revert")
    assert taken_back.exit_code == 0
    assert "pro from" not in taken_back.stdout
    again = run("subscriptions", "change", customer, "--revert")
    assert again.exit_code == 1
    assert "no change of plan is scheduled" in again.stderr


@pytest.mark.process
def test_when_a_change_comes_can_be_chosen(run: Run, on_clock: NewCustomer) -> None:
    """--at-period-end lets a dearer plan wait; --now has a cheaper one at once, instead of what was announced."""
    customer = on_clock("2027-01-01", "pro", paid=True)
    assert "team from 2027-02-01" in run("subscriptions", "change", customer, "team", "--at-period-end").stdout
    assert "Team (team@1), active" in run("subscriptions", "change", customer, "team", "--now").stdout
    number = newest(run("invoices", customer, "--json"))["number"]
    run("invoices", "paid", number)
    at_once = run("subscriptions", "change", customer, "pro", "--now").stdout
    assert "Pro (pro@1), active" in at_once
    assert "At once (UPGRADE)." in at_once


@pytest.mark.process
@pytest.mark.parametrize("arguments", [(), ("team", "--revert"), ("team", "--now", "--at-period-end")])
def test_a_change_names_a_plan_or_is_reverted(run: Run, arguments: tuple[str, ...]) -> None:
    """Neither or both is a mistake, and so is at once and later."""
    assert run("subscriptions", "change", "anybody", *arguments).exit_code == 2


@pytest.mark.process
def test_a_cancellation_can_be_taken_back(run: Run, on_clock: NewCustomer) -> None:
    """At the period's end, unless it is reverted; --now there is no way back."""
    customer = on_clock("2027-01-01", "pro", paid=True)
    assert "ends 2027-02-01" in run("subscriptions", "cancel", customer).stdout
    assert "ends" not in run("subscriptions", "cancel", customer, "--revert").stdout
    gone = run("subscriptions", "cancel", customer, "--now").stdout
    assert "not running" in gone
    assert "-49.00" in gone
    assert "access ends" not in gone
    assert run("subscriptions", "cancel", customer, "--revert").exit_code == 1
    assert run("subscriptions", "cancel", customer, "--now", "--revert").exit_code == 2


@pytest.mark.process
def test_a_pause_ends_access_and_resuming_brings_it_back(run: Run, on_clock: NewCustomer) -> None:
    """The exit code of `tallyd check` follows."""
    customer = on_clock("2027-01-01", "pro", paid=True)
    assert run("check", customer, "api").exit_code == 0
    assert "paused" in run("subscriptions", "pause", customer).stdout
    assert run("check", customer, "api").exit_code == 1
    assert "active" in run("subscriptions", "resume", customer).stdout
    assert run("check", customer, "api").exit_code == 0


@pytest.mark.process
def test_several_subscriptions_have_to_be_told_apart(run: Run, on_clock: NewCustomer) -> None:
    """The error lists them; --subscription chooses."""
    customer = on_clock("2027-01-01", "free")
    run("subscribe", customer, "prepaid")
    unsaid = run("subscriptions", "pause", customer)
    assert unsaid.exit_code == 2
    assert "prepaid" in unsaid.stderr
    chosen = next(
        each["id"]
        for each in decoded(run("subscriptions", customer, "--json"))["items"]
        if each["plan"]["key"] == "prepaid"
    )
    assert (
        "Prepaid (prepaid@1), paused" in run("subscriptions", "pause", customer, "--subscription", chosen).stdout
    )
    wrong = run("subscriptions", "pause", customer, "--subscription", "nonsense")
    assert wrong.exit_code == 1
    assert chosen in wrong.stderr


@pytest.mark.process
def test_one_that_has_ended_is_not_meant(run: Run, on_clock: NewCustomer) -> None:
    """Whoever has cancelled and come back has one subscription to change."""
    customer = on_clock("2027-01-01", "free")
    run("subscriptions", "cancel", customer, "--now")
    run("clock", "advance", "1d", "--customer", customer)
    run("subscribe", customer, "free")
    assert run("subscriptions", "pause", customer).exit_code == 0
    assert run("subscriptions", customer).stdout.count("free@1") == 2


@pytest.mark.process
def test_an_unknown_customer_is_told_what_to_do(run: Run) -> None:
    """The error says how a customer becomes one."""
    done = run("subscriptions", "nobody-at-all")
    assert done.exit_code == 1
    assert "tallyd subscribe nobody-at-all PLAN" in done.stderr
