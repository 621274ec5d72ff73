"""`tallyd credits`, against a real daemon."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from itertools import count
from typing import Any

import click
import msgspec
import pytest
from click.testing import Result

from cli.commands import Program, Run, on_socket
from tallyd.cli import credits_show, credits_words
from tallyd.cli.child import Child, child_daemon
from tallyd.cli.client import Daemon
from tallyd.cli.credits import read_amount, read_moment

TWO_MODELS = """
[[credit_models]]
key = "tokens"
denomination = "TOKENS"

[[credit_models]]
key = "messages"
denomination = "MESSAGES"
"""
DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder(float_hook=Decimal)
TIMES = credits_words.TIMES

NewCustomer = Callable[[], str]


def decoded(done: Result) -> Any:
    """Return what a command printed for programs."""
    assert done.exit_code == 0, done.output
    return DECODER.decode(done.stdout)


@pytest.fixture(scope="module")
def daemon(child: Child) -> Any:
    """Connect to the daemon all tests share."""
    connection = Daemon(child.socket)
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def prepaid(daemon: Daemon) -> NewCustomer:
    """Put new customers on the prepaid plan, which includes 100 credits."""
    numbers = count(1)

    def make() -> str:
        customer = f"prepaid-{next(numbers)}"
        daemon.call("subscribe", {"customerReferenceId": customer, "planKey": "prepaid"})
        return customer

    return make


def reserve(daemon: Daemon, customer: str, answers: int) -> dict[str, Any]:
    """Reserve answers of gpt-4o, 8 credits each."""
    hold: dict[str, Any] = daemon.call(
        "reserve",
        {
            "customerReferenceId": customer,
            "featureKey": "assistant",
            "eventName": "answer",
            "usageUnits": answers,
            "estimate": {"model": "gpt-4o"},
        },
    )
    return hold


# Granting and taking out


@pytest.mark.process
def test_credits_are_sold_into_the_only_model(run: Run, prepaid: NewCustomer) -> None:
    """Without --model the catalog's one credit model is meant; a price makes it a purchase."""
    done = run("credits", "grant", prepaid(), 1000, "--price", "0.02", "--currency", "USD")
    assert done.exit_code == 0
    assert "+1,000" in done.stdout
    assert "Bought at 0.02 USD each" in done.stdout
    assert "100 -> 1,100" in done.stdout


@pytest.mark.process
def test_a_grant_is_exact_to_the_last_digit(run: Run, prepaid: NewCustomer) -> None:
    """What is granted is what was typed, however many digits, and programs read it so."""
    answer = decoded(run("credits", "grant", prepaid(), "0.000000000000000001", "--json"))
    assert answer["transaction"]["transactionType"] == "GRANT"
    assert answer["grant"]["grantType"] == "MANUAL"
    told = decoded(run("credits", "explain", answer["transaction"]["id"], "--json"))
    assert told["amount"] == Decimal("0.000000000000000001")


@pytest.mark.process
def test_a_key_grants_once(run: Run, prepaid: NewCustomer) -> None:
    """The same --key again is exit code 5, and nothing is given twice."""
    customer = prepaid()
    assert run("credits", "grant", customer, 10, "--key", "order-1").exit_code == 0
    again = run("credits", "grant", customer, 10, "--key", "order-1")
    assert again.exit_code == 5
    assert "it was done before" in again.stderr
    assert decoded(run("credits", "show", customer, "--json"))["pools"][0]["balance"] == 110


@pytest.mark.process
def test_an_expiry_is_said_and_shown(run: Run, prepaid: NewCustomer) -> None:
    """A date is its 00:00 UTC, and the statement of what there is says when a grant ends."""
    customer = prepaid()
    done = run("credits", "grant", customer, 5, "--expires", "2099-12-31", "--type", "promotional")
    assert "2099-12-31 00:00 UTC" in done.stdout
    assert "2099-12-31 00:00" in run("credits", "show", customer).stdout


@pytest.mark.process
def test_more_than_is_free_cannot_be_taken_out(run: Run, prepaid: NewCustomer) -> None:
    """A deduction beyond what is free is exit code 4, says what there is, and takes nothing."""
    customer = prepaid()
    done = run("credits", "deduct", customer, 101)
    assert done.exit_code == 4
    assert "insufficient_credits" in done.stderr
    assert f"tallyd credits show {customer}" in done.stderr
    assert run("credits", "deduct", customer, 100).exit_code == 0


@pytest.mark.process
def test_a_transaction_is_reversed_once(run: Run, prepaid: NewCustomer) -> None:
    """Reversing gives back what was taken out; a second time is refused."""
    customer = prepaid()
    taken = decoded(run("credits", "deduct", customer, 40, "--json"))["transaction"]["id"]
    done = run("credits", "reverse", taken, "--description", "a mistake")
    assert done.exit_code == 0
    assert "60 -> 100" in done.stdout
    again = run("credits", "reverse", taken)
    assert again.exit_code == 1
    assert "reversed already" in again.stderr


@pytest.mark.process
def test_a_frozen_pool_gives_nothing_until_unfrozen(run: Run, prepaid: NewCustomer) -> None:
    """Freezing is told, deducting is refused meanwhile, and unfreezing ends it."""
    customer = prepaid()
    assert "is FROZEN" in run("credits", "freeze", customer).stdout
    assert run("credits", "deduct", customer, 1).exit_code == 1
    assert "is ACTIVE" in run("credits", "unfreeze", customer).stdout
    assert run("credits", "deduct", customer, 1).exit_code == 0


# Looking


@pytest.mark.process
def test_show_has_pools_grants_and_holds(run: Run, daemon: Daemon, prepaid: NewCustomer) -> None:
    """What is held is not available, and the totals add up to the balance before one's eyes."""
    customer = prepaid()
    run("credits", "grant", customer, 1000)
    hold = reserve(daemon, customer, 10)
    text = run("credits", "show", customer).stdout
    assert "balance    1,100" in text
    assert "held       80" in text
    assert "available  1,020" in text
    assert "1,100 granted - 0 used - 0 expired + 0 reversed = 1,100" in text
    assert "PLAN_INCLUDED" in text
    assert hold["holdId"] in text


@pytest.mark.process
def test_the_statement_reads_like_a_banks(run: Run, daemon: Daemon, prepaid: NewCustomer) -> None:
    """Oldest first: what came with the plan, what was bought, what a call used, and the balance after each."""
    customer = prepaid()
    run("credits", "grant", customer, 1000, "--price", "0.02", "--currency", "USD", "--description", "order 17")
    hold = reserve(daemon, customer, 10)
    daemon.call("settle", {"holdId": hold["holdId"], "usageUnits": 7})
    lines = run("credits", "statement", customer).stdout.splitlines()
    told = [line.split("  ", 2)[-1] for line in lines]
    opening, included, bought, said, used, closing = (
        next(place for place, line in enumerate(told) if word in line)
        for word in (
            "Opening balance",
            "Included with Prepaid",
            "Bought",
            "order 17",
            f"7 units {TIMES} 8",
            "Closing",
        )
    )
    assert opening < included < bought < said < used < closing
    assert f"assistant: 7 units {TIMES} 8 (gpt-4o), hold settled" in told[used]
    assert "-56    1,044" in told[used]
    assert "1,044" in told[closing]
    assert lines[-1] == "1,100 granted - 56 used - 0 expired + 0 reversed = 1,044"


@pytest.mark.process
def test_a_short_statement_says_what_is_left_out(run: Run, prepaid: NewCustomer) -> None:
    """With --limit the opening balance is the one before the first row shown."""
    customer = prepaid()
    for _ in range(3):
        run("credits", "deduct", customer, 10)
    text = run("credits", "statement", customer, "--limit", 1).stdout
    assert "3 earlier transactions are left out" in text
    assert next(line for line in text.splitlines() if "Opening" in line).split()[-1] == "80"


@pytest.mark.process
def test_a_statement_for_programs_balances(run: Run, prepaid: NewCustomer) -> None:
    """Each row of --json continues where the one before it ended (P3)."""
    customer = prepaid()
    run("credits", "deduct", customer, "0.5")
    (page,) = decoded(run("credits", "statement", customer, "--json"))["pools"]
    newest, oldest = page["items"]
    assert oldest["balanceAfter"] == newest["balanceBefore"] == 100
    assert newest["balanceAfter"] == page["pool"]["balance"] == Decimal("99.5")


@pytest.mark.process
def test_explain_says_where_a_charge_comes_from(run: Run, daemon: Daemon, prepaid: NewCustomer) -> None:
    """A deduction names its event, its weight and whose, the grants it drew from, and its place in the chain."""
    customer = prepaid()
    event = {"eventName": "answer", "featureKey": "assistant", "customerReferenceId": customer, "usageUnits": 12}
    answer = daemon.call("consume", {**event, "costInput": {"model": "gpt-4o"}})
    (page,) = decoded(run("credits", "statement", customer, "--json"))["pools"]
    text = run("credits", "explain", page["items"][0]["id"]).stdout
    assert f"DEDUCTION -96: assistant: 12 units {TIMES} 8 (gpt-4o)" in text
    assert answer["eventId"] in text
    assert f"96 credits: 12 {TIMES} 8 a unit, the weight" in text
    assert "of this feature and model" in text
    assert f"-96 of grant {page['items'][1]['id']}" in text
    assert f"position     {answer['position'] + 1} in the customer's ledger" in text
    assert len(next(line for line in text.splitlines() if line.startswith("  chain")).split()[-1]) >= 32


@pytest.mark.process
def test_what_moves_nothing_is_explained_too(run: Run, daemon: Daemon, prepaid: NewCustomer) -> None:
    """A hold's own entry has no amount; it is still said what it is and where it stands."""
    hold = reserve(daemon, prepaid(), 1)
    text = run("credits", "explain", hold["holdId"]).stdout
    assert text.startswith("HOLD_OPENED: Hold made")
    assert "position" in text


# Which credits


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Run commands in this process, against a daemon with two credit models that knows acme and globex."""
    directory = tmp_path_factory.mktemp("two-models")
    catalog = directory / "catalog.toml"
    catalog.write_text(TWO_MODELS)
    with child_daemon(["--data-dir", str(directory), "--catalog", str(catalog)]) as child:
        for customer in ("acme", "globex"):
            event = {"eventName": "chat", "customerReferenceId": customer}
            (directory / "events.jsonl").write_bytes(msgspec.json.encode(event))
            assert on_socket(child, "ingest", directory / "events.jsonl").exit_code == 0
        yield partial(on_socket, child)


@pytest.mark.process
def test_several_models_have_to_be_told_apart(two_models: Run) -> None:
    """Where the catalog has several credit models, the error lists them; --model chooses."""
    unsaid = two_models("credits", "grant", "acme", 10)
    assert unsaid.exit_code == 2
    assert "tokens, messages" in unsaid.stderr
    told = two_models("credits", "grant", "acme", 10, "--model", "tokens")
    assert told.exit_code == 0, told.stderr
    assert "+10 TOKENS" in told.stdout
    assert "balance    10" in two_models("credits", "show", "acme").stdout


@pytest.mark.process
def test_several_pools_have_to_be_told_apart(two_models: Run) -> None:
    """Where the customer has several pools, the error lists them; --model or --pool chooses."""
    for model in ("tokens", "messages"):
        assert two_models("credits", "grant", "globex", 10, "--model", model).exit_code == 0
    unsaid = two_models("credits", "deduct", "globex", 3)
    assert unsaid.exit_code == 2
    assert "tokens: tokens" in unsaid.stderr
    assert "messages: messages" in unsaid.stderr
    assert "-3 MESSAGES" in two_models("credits", "deduct", "globex", 3, "--model", "messages").stdout
    statement = two_models("credits", "statement", "globex").stdout
    assert statement.count("Opening balance") == 2


@pytest.mark.process
def test_an_unknown_customer_is_told_what_to_do(run: Run) -> None:
    """Credits are not given to nobody; the error says how a customer becomes known."""
    done = run("credits", "grant", "nobody", 10)
    assert done.exit_code == 1
    assert "there is no customer 'nobody'" in done.stderr
    assert "put it on a plan first" in done.stderr


@pytest.mark.process
def test_a_customer_without_credits_has_no_statement(run: Run, daemon: Daemon) -> None:
    """A customer that never had credits is told so, and how to give some."""
    daemon.call("subscribe", {"customerReferenceId": "creditless", "planKey": "free"})
    assert "has no credits yet" in run("credits", "show", "creditless").stdout
    done = run("credits", "statement", "creditless")
    assert done.exit_code == 1
    assert "tallyd credits grant creditless AMOUNT" in done.stderr


@pytest.mark.process
def test_a_pool_that_is_not_the_customers_is_not_found(run: Run, prepaid: NewCustomer) -> None:
    """A wrong --pool lists the pools there are."""
    done = run("credits", "statement", prepaid(), "--pool", "7a11d000-0000-8000-8000-00000000ffff")
    assert done.exit_code == 1
    assert "has no such pool; there are:" in done.stderr


@pytest.mark.process
def test_no_daemon_is_an_exit_code_of_its_own(program: Program) -> None:
    """A script can tell that nobody was there from a refusal."""
    assert program("credits", "show", "acme", "--socket", "nowhere.sock").returncode == 3


# What is typed


@pytest.mark.parametrize("text", ["1,000", "-5", "0", "1e3", "NaN", "", "9" * 21, "0." + "0" * 18 + "1"])
def test_what_is_not_an_amount_is_refused(text: str) -> None:
    """An amount is plain digits, above zero, and exact: nothing is guessed."""
    with pytest.raises(click.BadParameter):
        read_amount(text)


def test_an_amount_keeps_its_digits() -> None:
    """An amount is never a float."""
    assert read_amount("0.1") == Decimal("0.1")


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-12-31", "2026-12-31T00:00:00Z"),
        ("2026-12-31T12:00Z", "2026-12-31T12:00:00Z"),
        ("2026-12-31T12:00+02:00", "2026-12-31T10:00:00Z"),
    ],
)
def test_a_moment_is_an_instant_in_utc(text: str, instant: str) -> None:
    """Dates are their 00:00 UTC; zones are converted."""
    assert read_moment(text) == instant


@pytest.mark.parametrize("text", ["tomorrow", "2026-12-31T12:00", "30", "30w", "2026-02-30"])
def test_a_moment_that_could_be_several_is_refused(text: str) -> None:
    """No zone, no unit, no such day: asked back instead of guessed."""
    with pytest.raises(click.BadParameter):
        read_moment(text)


# Words


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"transactionType": "EXPIRATION", "cause": "expiry"}, "Expired"),
        ({"transactionType": "EXPIRATION", "cause": "forfeit"}, "Not carried over into the new period"),
        ({"transactionType": "ADJUSTMENT", "cause": "overage_repaid"}, "Overage repaid from new credits"),
        ({"transactionType": "FREEZE", "cause": "manual"}, "Frozen: gives nothing"),
        ({"transactionType": "DEDUCTION", "cause": "manual"}, "Taken out by hand"),
        ({"transactionType": "GRANT", "cause": "recurring"}, "Recurring credits"),
        ({"transactionType": "GRANT", "cause": "manual", "grantType": "REFUND"}, "Refund"),
        ({"transactionType": "REVERSAL", "cause": "manual", "amount": -3}, "Reversed: taken back"),
        (
            {
                "transactionType": "GRANT",
                "cause": "plan",
                "planName": "Pro",
                "periodStart": "2026-11-01T00:00:00Z",
                "periodEnd": "2026-12-01T00:00:00Z",
            },
            "Included with Pro for November 2026",
        ),
        (
            {
                "transactionType": "GRANT",
                "cause": "plan",
                "planName": "Pro",
                "periodStart": "2026-11-15T00:00:00Z",
                "periodEnd": "2026-12-15T00:00:00Z",
            },
            "Included with Pro for 2026-11-15 to 2026-12-14",
        ),
    ],
)
def test_a_transaction_has_words(row: dict[str, Any], told: str) -> None:
    """Every kind of transaction is said in words a customer understands."""
    assert credits_words.words(row) == told


def test_a_part_is_told_from_the_whole() -> None:
    """Where a pool gave less than the usage came to, the words say what it came to."""
    row = {"transactionType": "DEDUCTION", "cause": "event", "featureKey": "chat", "units": 5, "weight": 1}
    part = f"chat: 5 units {TIMES} 1, 5 in all"
    assert credits_words.words({**row, "charge": 5, "amount": -3}) == part
    assert credits_words.words({**row, "charge": 5, "amount": -3, "waived": 2}) == f"{part}, 2 waived"


def test_what_is_shown_steers_no_terminal() -> None:
    """Names that customers chose are printed without control characters."""
    pool = {"name": "\x1b[31mred", "denomination": "C", "status": "ACTIVE", "id": "p", "balance": 0}
    assert "\x1b" not in "".join(credits_show.status_lines(pool))
