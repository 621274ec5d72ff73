"""`tallyd what-if`: read from the books alone, with or without a daemon; tables for people, JSON for programs."""

import hashlib
import json
import sqlite3
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from click.testing import CliRunner, Result

from harness import Running, running
from tallyd.cli import main

CATALOG: Final = """
[[features]]
key = "api"
[[features]]
key = "chat"

[[plans]]
key = "pro"
name = "Pro"
price_amount = "49.00"
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = "0.10" }
[[plans.features]]
feature = "chat"
pricing = { model = "usage", usage_unit_type = "chats", price_per_unit = 1 }

[[plans]]
key = "flat"
name = "Flat"
price_amount = "60.00"
[[plans.features]]
feature = "api"
[[plans.features]]
feature = "chat"

[[plans]]
key = "api_only"
name = "API only"
[[plans.features]]
feature = "api"
pricing = { model = "usage", usage_unit_type = "calls", price_per_unit = "0.20", max_usage = 600 }

[[plans]]
key = "yearly"
name = "Yearly"
interval_months = 12
"""
WHAT_IF: Final = "/api/v1/monetization/what-if"

Ask = Callable[..., Result]


async def fill(daemon: Running) -> None:
    """Three customers on `pro` in March 2021, one on `yearly`, and somebody on nothing."""
    usage = (("acme", "api", 500), ("basic", "api", 10), ("chatty", "chat", 3), ("chatty", "api", 700))
    for customer in ("acme", "basic", "chatty"):
        await daemon.subscribe(customer, startsAt="2021-01-01T00:00:00Z")
    await daemon.subscribe("yearly", "yearly", startsAt="2021-01-01T00:00:00Z")
    for customer, feature, units in (*usage, ("stray", "api", 20)):
        body = {"eventName": "call", "customerReferenceId": customer, "featureKey": feature, "usageUnits": units}
        reply = await daemon.http.post(
            "/api/v1/client/events", json={**body, "occurredAt": "2021-03-10T12:00:00Z"}
        )
        assert reply.status_code == 201, reply.text


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Books that no daemon holds any more, and what the API answered about March before it stopped."""
    directory = tmp_path_factory.mktemp("what_if")

    async def make() -> dict[str, Any]:
        async with running(directory, catalog=CATALOG) as daemon:
            await fill(daemon)
            reply = await daemon.http.post(WHAT_IF, json={"month": "2021-03", "planKey": "api_only"})
        answer: dict[str, Any] = json.loads(reply.content, parse_float=Decimal)["data"]
        return answer

    return directory / "data", trio.run(make)


@pytest.fixture
def ask(books: tuple[Path, dict[str, Any]]) -> Ask:
    """Ask the books about March."""

    def invoke(*arguments: object, month: str | None = "2021-03") -> Result:
        given = [*(str(each) for each in arguments), "--data-dir", str(books[0])]
        asked = given if month is None else [*given, "--month", month]
        return CliRunner().invoke(main, ["what-if", *asked], catch_exceptions=False)

    return invoke


def shown(output: str) -> list[str]:
    """The lines that have words, a space between these."""
    return [" ".join(words) for line in output.splitlines() if (words := line.split()) and words[0].strip("─")]


# For people


def test_a_table_of_all_customers_the_largest_difference_first(ask: Ask) -> None:
    """99, 50 and 122 would be 60 each, and nobody's 20 calls, too: rows by size, their total, and exit code 0."""
    done = ask("--plan", "flat")
    assert done.exit_code == 0, done.output
    assert shown(done.output) == [
        "2021-03 under Flat (flat@1), in USD, before credits",
        "customer was would be difference notes",
        "chatty 122.00 60.00 -62.00",
        "stray 0.00 60.00 +60.00",
        "acme 99.00 60.00 -39.00",
        "basic 50.00 60.00 +10.00",
        "4 customers 271.00 240.00 -31.00",
        "left out: yearly none of its billing periods begins in the range; ask for a longer one",
    ]


def test_of_one_customer_every_feature(ask: Ask) -> None:
    """With one customer the table has its base price and features, used and priced."""
    done = ask("--plan", "flat", "--customer", "chatty")
    assert done.exit_code == 0, done.output
    assert shown(done.output) == [
        "2021-03 under Flat (flat@1), in USD, before credits",
        "chatty: 2021-03-01 to 2021-04-01 on pro@1; 2 events",
        "used was would use would be difference",
        "base price 49.00 60.00 +11.00",
        "chat 3 3.00 3 0.00 -3.00",
        "api 700 70.00 700 0.00 -70.00",
        "total 122.00 60.00 -62.00",
    ]


def test_what_is_not_priced_is_said_loudly_and_by_the_exit_code(ask: Ask) -> None:
    """Chats that would be free stand beside the row and below the total, and the exit code is 4."""
    done = ask("--plan", "api_only", "--on", "pro")
    assert done.exit_code == 4, done.output
    assert "chat (3 used) not in api_only@1: would be free" in done.output
    assert "Not the whole price: the amounts under the plan leave out" in done.output
    assert "usage of features that the plan does not have, of 1 customer\n" in done.output
    one = ask("--plan", "api_only", "--customer", "chatty")
    assert one.exit_code == 4
    assert "usage of features that the plan does not have\n" in one.output


def test_only_the_largest_are_shown_and_all_are_in_the_total(ask: Ask) -> None:
    """With --rows the table is cut, the total is not; with 0 nothing is cut."""
    done = ask("--plan", "flat", "--rows", 1)
    assert shown(done.output)[2:4] == [
        "chatty 122.00 60.00 -62.00",
        "4 customers 271.00 240.00 -31.00",
    ]
    assert "the 1 largest differences; --rows 0 shows all, the total is of all" in done.output
    assert len(shown(ask("--plan", "flat", "--rows", 0).output)) == len(shown(ask("--plan", "flat").output))


def test_nobody_to_compare(ask: Ask) -> None:
    """A month in which nothing was is an answer, and says why it is empty."""
    done = ask("--plan", "flat", month="2019-03")
    assert done.exit_code == 0
    assert "nobody to compare: no billing period begins in the range, and no event is in it" in done.output


def test_a_longer_range_by_start_and_end(ask: Ask) -> None:
    """The yearly subscription's period begins in January: a range that has it compares it, in part by month."""
    done = ask(
        "--plan", "flat", "--customer", "yearly", "--start", "2021-01-01", "--end", "2022-01-01", month=None
    )
    assert done.exit_code == 0, done.output
    assert shown(done.output)[0] == ("2021-01-01 to 2022-01-01 under Flat (flat@1), in USD, before credits")
    assert shown(done.output)[-2] == "total 0.00 720.00 +720.00"
    assert "flat has other intervals: a part of its base price" in done.output


# For programs


def test_json_is_what_the_api_answers(ask: Ask, books: tuple[Path, dict[str, Any]]) -> None:
    """The same object as over HTTP, without pages."""
    done = ask("--plan", "api_only", "--json")
    assert done.exit_code == 4
    answer = json.loads(done.stdout, parse_float=Decimal)
    expected = {name: value for name, value in books[1].items() if name != "pagination"}
    assert answer == expected
    assert list(answer) == list(expected)


# The target


def test_a_plan_that_is_not_in_force(ask: Ask, tmp_path: Path) -> None:
    """A catalog file is read for its plan: chatty's 700 calls at 0.05."""
    changed = CATALOG.replace('"0.10"', '"0.05"')
    (tmp_path / "new.toml").write_text(changed)
    done = ask("--plan", "pro", "--catalog", tmp_path / "new.toml", "--customer", "chatty")
    assert done.exit_code == 0, done.output
    assert shown(done.output)[-1] == "total 122.00 87.00 -35.00"
    assert f"(pro@{tmp_path / 'new.toml'})" in done.output


def test_a_catalog_with_mistakes_is_refused_with_all_of_them(ask: Ask, tmp_path: Path) -> None:
    """Each mistake has the file and its place, as with `tallyd config check`."""
    path = tmp_path / "new.toml"
    path.write_text(CATALOG.replace('"49.00"', '"49.001"').replace('"60.00"', "-1"))
    done = ask("--plan", "pro", "--catalog", path)
    assert done.exit_code == 1
    assert f"{path}: plans.pro.price_amount: must have at most 2 decimals" in done.stderr
    assert f"{path}: plans.flat.price_amount: must be an amount of zero or more" in done.stderr
    path.write_bytes(b"\xff")
    assert f"--catalog: {path} cannot be read" in ask("--plan", "pro", "--catalog", path).stderr


def test_a_plan_compared_with_itself_differs_in_nothing(ask: Ask) -> None:
    """Everybody on `pro` under `pro@1`: no difference."""
    done = ask("--plan", "pro@1", "--on", "pro")
    assert done.exit_code == 0
    assert shown(done.output)[-1] == "3 customers 271.00 271.00 0.00"


# What is refused


@pytest.mark.parametrize(
    ("arguments", "month", "code", "words"),
    [
        (
            ("--plan", "flet"),
            "2021-03",
            1,
            "--plan: there is no plan 'flet'; did you mean 'flat'? There are api_only",
        ),
        (("--plan", "flat@2"), "2021-03", 1, "--plan: plan 'flat' has no version '2'; the newest is flat@1"),
        (("--plan", "flat", "--on", "x"), "2021-03", 1, "--on: there is no plan 'x'; there are api_only, flat"),
        (("--plan", "flat", "--customer", "acne"), "2021-03", 1, "there is no customer 'acne'"),
        (("--plan", "flat"), "March", 2, "--month: must be a year and a month such as 2026-03, not 'March'"),
        (("--plan", "flat"), None, 2, "--month: is required: a month such as 2026-03, or start and end"),
        (("--plan", "flat", "--start", "x", "--end", "y"), None, 2, "--start: must be a date such as"),
        ((), "2021-03", 2, "Missing option '--plan'"),
    ],
)
def test_what_is_asked_wrongly_names_the_option(
    ask: Ask, arguments: tuple[str, ...], month: str | None, code: int, words: str
) -> None:
    """The message names the option and what there is; 1 for what there is not, 2 for what is written wrongly."""
    done = ask(*arguments, month=month)
    assert done.exit_code == code
    assert words in done.stderr


def test_books_that_are_not_there_or_not_of_this_version(tmp_path: Path) -> None:
    """No books, and books of another version, are told with what to do next."""
    command = ["what-if", "--plan", "flat", "--month", "2021-03", "--data-dir", str(tmp_path)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1
    assert f"there are no books at {tmp_path}/tallyd.db; say where they are with --data-dir" in done.stderr
    with sqlite3.connect(tmp_path / "tallyd.db") as connection:
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1
    assert "have version 1, this tallyd reads" in done.stderr
    assert "start `tallyd serve` on them once" in done.stderr


# Nothing is touched


def test_not_a_byte_of_the_books_changes(ask: Ask, books: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """The file is after asking what it was before, whatever was asked."""
    (tmp_path / "new.toml").write_text(CATALOG)
    path = books[0] / "tallyd.db"
    before = hashlib.sha256(path.read_bytes()).digest()
    for arguments in (("--plan", "flat"), ("--plan", "pro", "--catalog", tmp_path / "new.toml"), ("--plan", "x")):
        ask(*arguments)
        ask(*arguments, "--json")
    assert hashlib.sha256(path.read_bytes()).digest() == before


async def test_a_running_daemon_s_books_are_read_beside_it(tmp_path: Path) -> None:
    """The command needs no daemon and does not mind one: what was committed is in the answer."""
    async with running(tmp_path, catalog=CATALOG) as daemon:
        await fill(daemon)
        arguments = ["what-if", "--plan", "flat", "--month", "2021-03", "--data-dir", str(tmp_path / "data")]
        done = await trio.to_thread.run_sync(CliRunner().invoke, main, arguments)
    assert done.exit_code == 0, done.output
    assert "4 customers 271.00 240.00 -31.00" in shown(done.output)


@pytest.mark.parametrize("name", "a\x1b[31mb [bold]x[/bold]")
async def test_names_do_not_steer_the_terminal(tmp_path: Path, name: str) -> None:
    """Keys of plans are the operator's, but what is printed is printed as it is."""
    text = CATALOG.replace('name = "Flat"', f"name = {json.dumps(name)}")
    async with running(tmp_path, catalog=text) as daemon:
        await fill(daemon)
        arguments = ["what-if", "--plan", "flat", "--month", "2021-03", "--data-dir", str(tmp_path / "data")]
        done = await trio.to_thread.run_sync(CliRunner().invoke, main, arguments)
    assert done.exit_code == 0, done.output
    assert name.replace("\x1b", "\\x1b") in done.output
    assert "\x1b" not in done.output
