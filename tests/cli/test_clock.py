"""`tallyd clock`, against a real daemon."""

from pathlib import Path

import click
import pytest

from cli.billed import NewCustomer, decoded
from cli.commands import CATALOG, Program, Run
from tallyd.cli.child import child_daemon
from tallyd.cli.clock import read_move
from tallyd.model.moments import iso, parse_iso

STANDS = "2027-01-31T09:00:00Z"


@pytest.mark.parametrize(
    ("spoken", "instant"),
    [
        ("3d", "2027-02-03T09:00:00Z"),
        ("12h", "2027-01-31T21:00:00Z"),
        ("90 minutes", "2027-01-31T10:30:00Z"),
        ("2 weeks", "2027-02-14T09:00:00Z"),
        ("1 month", "2027-02-28T09:00:00Z"),
        ("13mo", "2028-02-29T09:00:00Z"),
        ("1y", "2028-01-31T09:00:00Z"),
        ("2027-03-01", "2027-03-01T00:00:00Z"),
        ("2027-03-01T12:00+01:00", "2027-03-01T11:00:00Z"),
    ],
)
def test_a_clock_is_moved_by_a_span_or_to_an_instant(spoken: str, instant: str) -> None:
    """Months keep the day, or end on the month's last."""
    assert iso(read_move(spoken)(parse_iso(STANDS))) == instant


@pytest.mark.parametrize("spoken", ["soon", "1m", "-3d", "3", "1.5d", "2027-02-30", "2027-03-01T12:00"])
def test_what_could_mean_several_things_is_refused(spoken: str) -> None:
    """`1m` is a minute or a month; a time without a zone is several instants."""
    with pytest.raises(click.BadParameter):
        read_move(spoken)


@pytest.mark.process
def test_advancing_shows_what_happens_on_the_way(run: Run, on_clock: NewCustomer) -> None:
    """Invoices that came, and credits that came with the plan, each dated by its own instant."""
    customer = on_clock("2027-01-31", "prepaid")
    done = run("clock", "advance", "2 months", "--customer", customer)
    assert done.exit_code == 0
    assert "time stands at 2027-03-31 00:00 UTC" in done.stdout
    assert [line.split()[0][-4:] for line in done.stdout.splitlines() if "INV-" in line] == ["0002", "0003"]
    credits_ = [line.split()[0] for line in done.stdout.splitlines() if "Included with Prepaid" in line]
    assert credits_ == ["2027-02-28", "2027-03-31"]
    assert "INV-" not in run("clock", "advance", "1d", "--customer", customer).stdout


@pytest.mark.process
def test_what_falls_overdue_on_the_way_is_shown(run: Run, on_clock: NewCustomer) -> None:
    """An invoice that was there before is shown when something happens to it."""
    customer = on_clock("2027-01-01", "scale")
    assert " DUE " in run("clock", "advance", "2027-02-01", "--customer", customer).stdout
    assert "INV-" not in run("clock", "advance", "2027-02-04", "--customer", customer).stdout
    assert "PAST_DUE" in run("clock", "advance", "2027-02-05", "--customer", customer).stdout


@pytest.mark.process
def test_clocks_that_stand_are_shown(run: Run, on_clock: NewCustomer) -> None:
    """Each with where it stands."""
    customer = on_clock("2027-01-31")
    line = next(line for line in run("clock", "show").stdout.splitlines() if f"customer {customer} " in line)
    assert "2027-01-31 00:00" in line


@pytest.mark.process
def test_time_does_not_run_back(run: Run, on_clock: NewCustomer) -> None:
    """What has been lived through cannot be taken back, nor a clock ended that is ahead."""
    customer = on_clock("2099-01-31", "free")
    back = run("clock", "advance", "2099-01-01", "--customer", customer)
    assert back.exit_code == 1
    assert "never runs backwards" in back.stderr
    assert run("clock", "end", "--customer", customer).exit_code == 1


@pytest.mark.process
def test_a_clock_that_nothing_has_happened_on_is_ended(run: Run, on_clock: NewCustomer) -> None:
    """Afterwards time runs, and there is no clock to move."""
    customer = on_clock("2020-01-31")
    assert "time runs again" in run("clock", "end", "--customer", customer).stdout
    done = run("clock", "advance", "1d", "--customer", customer)
    assert done.exit_code == 1
    assert f"tallyd clock set NOW --customer {customer}" in done.stderr


@pytest.mark.process
@pytest.mark.parametrize("chosen", [(), ("--daemon", "--customer", "acme")])
@pytest.mark.parametrize("command", [("set", "2027-01-01"), ("advance", "1d"), ("end",)])
def test_whose_clock_has_to_be_said(run: Run, command: tuple[str, ...], chosen: tuple[str, ...]) -> None:
    """Nobody stops the time of all customers by leaving one out."""
    done = run("clock", *command, *chosen)
    assert done.exit_code == 2
    assert "--daemon for everybody's" in done.stderr
    assert "the daemon" not in run("clock", "show").stdout


@pytest.mark.process
def test_the_whole_daemon_is_put_on_a_clock(program: Program, tmp_path: Path) -> None:
    """It stands in the books, so it stands when the daemon is started again."""
    options = ("--data-dir", "data")
    with child_daemon(["--data-dir", str(tmp_path / "data"), "--catalog", str(CATALOG)]):
        assert program("clock", "set", "2027-01-01", "--daemon", *options).returncode == 0
        assert program("subscribe", "acme", "scale", *options).returncode == 0
        moved = program("clock", "advance", "1 month", "--daemon", *options)
    assert "time stands at 2027-02-01 00:00 UTC for the daemon" in moved.stdout
    assert "acme" in moved.stdout
    with child_daemon(["--data-dir", str(tmp_path / "data"), "--catalog", str(CATALOG)]):
        shown = program("clock", "show", *options)
    assert "the daemon" in shown.stdout
    assert "2027-02-01 00:00" in shown.stdout


@pytest.mark.process
def test_programs_get_the_daemons_answer(run: Run, on_clock: NewCustomer) -> None:
    """--json prints the clock as it stands."""
    customer = on_clock("2027-01-31")
    done = run("clock", "advance", "1d", "--customer", customer, "--json")
    assert decoded(done)["now"] == "2027-02-01T00:00:00Z"
