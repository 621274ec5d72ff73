"""`tallyd credits`: sell credits, take them out, and read what became of them."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from functools import wraps
from typing import Any, Final

import click
import msgspec

from tallyd.cli import credits_show
from tallyd.cli.client import Daemon, DaemonError, daemon_of
from tallyd.cli.settings import settings_options
from tallyd.clock import SystemClock
from tallyd.config import Config
from tallyd.model.credits import GrantType
from tallyd.model.moments import DAY_US, HOUR_US, iso, to_micros
from tallyd.model.money import number_problem
from tallyd.model.problems import Code

STATEMENT_ROWS: Final = 50
STATEMENT_ROWS_MAX: Final = 500

_encode = msgspec.json.Encoder(decimal_format="number").encode
_DIGITS: Final = re.compile(r"\d+(\.\d+)?")
_SPAN: Final = re.compile(r"(?P<count>\d{1,5})(?P<unit>[hd])")
_SPANS_US: Final = {"h": HOUR_US, "d": DAY_US}
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_NOT_BY_HAND: Final = (GrantType.PLAN_INCLUDED, GrantType.ROLLOVER)


@click.group("credits")
def command() -> None:
    """Sell credits, take them out, and read what became of them.

    Exit codes: 0 done, 1 refused, 2 used wrongly, 3 no daemon there, 4 not enough credits, 5 the --key was used
    before, so it is done already. Times are UTC.
    """


class ShortError(click.ClickException):
    """There are not enough credits."""

    exit_code = 4


class DoneBeforeError(click.ClickException):
    """The idempotency key was used before."""

    exit_code = 5


def read_amount(text: str) -> Decimal:
    """Read a number of credits, above zero and exact.

    Raises:
        BadParameter: it is not one.
    """
    if not _DIGITS.fullmatch(text):
        raise click.BadParameter(f"{text!r} is not an amount; write it as 1000 or 12.5")
    amount = Decimal(text)
    problem = number_problem(amount) or (None if amount else "must be greater than zero")
    if problem:
        raise click.BadParameter(f"{text} {problem}")
    return amount


def read_moment(text: str) -> str:
    """Read an instant, a date (its 00:00 UTC), or so many hours or days from now; return it as ISO 8601 in UTC.

    Raises:
        BadParameter: it is none of these.
    """
    span = _SPAN.fullmatch(text)
    if span:
        return iso(SystemClock().now() + int(span["count"]) * _SPANS_US[span["unit"]])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no date; write 2026-12-31, 2026-12-31T12:00Z, 30d or 12h") from None
    if _DATE.fullmatch(text):
        moment = moment.replace(tzinfo=UTC)
    if moment.tzinfo is None:
        raise click.BadParameter(f"{text!r} has no zone; write {text}Z for UTC")
    return iso(to_micros(moment))


_model_option = click.option("--model", metavar="KEY", help="The credit model, where there are several.")
_pool_option = click.option("--pool", metavar="ID", help="The pool, where the customer has several.")
_key_option = click.option(
    "--key", metavar="KEY", help="An idempotency key: sent again, it is refused and nothing is done twice."
)
_description_option = click.option(
    "--description", metavar="TEXT", help="Why, for people: the statement shows it."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print the daemon's answer as JSON.")


def _talking(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a `daemon`, and end it with the exit code of what the daemon refused."""

    @wraps(command)
    def with_daemon(config: Config, **arguments: Any) -> None:
        try:
            with daemon_of(config) as daemon:
                command(daemon, **arguments)
        except DaemonError as error:
            raise _with_advice(error, arguments.get("customer", "CUSTOMER")) from None

    wrapped: Callable[..., None] = settings_options(with_daemon)
    return wrapped


def _with_advice(error: DaemonError, customer: str) -> click.ClickException:
    """Say what to do next; the exit code tells what it was."""
    text = error.message
    if error.code == Code.INSUFFICIENT_CREDITS:
        return ShortError(f"{text}\nsee what there is: tallyd credits show {customer}")
    if error.code == Code.DUPLICATE_KEY:
        return DoneBeforeError(f"{text}\nit was done before: see tallyd credits statement {customer}")
    if error.code == Code.NOT_FOUND and text.startswith("there is no customer"):
        text += "\nput it on a plan first, or make it known with POST /api/v1/client/customers"
    return click.ClickException(text)


# Moving credits


@command.command("grant")
@click.argument("customer")
@click.argument("amount", type=read_amount)
@_model_option
@_pool_option
@click.option(
    "--type",
    "grant_type",
    type=click.Choice([each.value for each in GrantType if each not in _NOT_BY_HAND], case_sensitive=False),
    help="Where the credits come from.  [default: PURCHASED with a --price, else MANUAL]",
)
@click.option(
    "--expires", metavar="WHEN", type=read_moment, help="They pay for nothing from then on: 2026-12-31, 30d, 12h."
)
@click.option("--priority", metavar="N", type=int, help="Grants with a lower one are drawn first.  [default: 0]")
@click.option("--price", metavar="X", type=read_amount, help="What one credit was sold for.")
@click.option("--currency", metavar="CODE", help="Of the price, such as USD.")
@_description_option
@_key_option
@_json_option
@_talking
def grant(
    daemon: Daemon,
    customer: str,
    amount: Decimal,
    model: str | None,
    pool: str | None,
    grant_type: str | None,
    expires: str | None,
    priority: int | None,
    price: Decimal | None,
    currency: str | None,
    description: str | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Give CUSTOMER an AMOUNT of credits; their pool is opened if there is none."""
    if pool is not None and model is not None:
        raise click.UsageError("--pool and --model name the same thing; give one of them")
    if (price is None) != (currency is None):
        raise click.UsageError("--price and --currency belong together; give both")
    params = {
        "customerReferenceId": customer,
        "creditPoolId": pool,
        "creditModelKey": None if pool else model or _only_model(daemon),
        "amount": amount,
        "grantType": grant_type or (GrantType.PURCHASED if price else GrantType.MANUAL),
        "expiresAt": expires,
        "priority": priority,
        "unitPrice": price,
        "currency": currency,
        "description": description,
        "idempotencyKey": key,
    }
    _say_moved(daemon.call("credits.grant", _sent(params)), as_json)


@command.command("deduct")
@click.argument("customer")
@click.argument("amount", type=read_amount)
@_model_option
@_pool_option
@_description_option
@_key_option
@_json_option
@_talking
def deduct(
    daemon: Daemon,
    customer: str,
    amount: Decimal,
    model: str | None,
    pool: str | None,
    description: str | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Take an AMOUNT of credits from CUSTOMER: never more than is free, never what is held."""
    params = {
        "customerReferenceId": customer,
        "creditPoolId": _pool_of(daemon, customer, pool, model)["id"],
        "amount": amount,
        "description": description,
        "idempotencyKey": key,
    }
    _say_moved(daemon.call("credits.deduct", _sent(params)), as_json)


@command.command("reverse")
@click.argument("transaction")
@_description_option
@_key_option
@_json_option
@_talking
def reverse(daemon: Daemon, transaction: str, description: str | None, key: str | None, as_json: bool) -> None:
    """Reverse a TRANSACTION, once: give back what it drew, or take back what is free of what it gave."""
    params = {"transactionId": transaction, "description": description, "idempotencyKey": key}
    _say_moved(daemon.call("credits.reverse", _sent(params)), as_json)


@command.command("freeze")
@click.argument("customer")
@_model_option
@_pool_option
@_description_option
@_json_option
@_talking
def freeze(
    daemon: Daemon, customer: str, model: str | None, pool: str | None, description: str | None, as_json: bool
) -> None:
    """Let CUSTOMER's pool give nothing any more, but what holds have set aside."""
    chosen = _pool_of(daemon, customer, pool, model)["id"]
    _say_pool(daemon.call("credits.freeze", _sent({"creditPoolId": chosen, "description": description})), as_json)


@command.command("unfreeze")
@click.argument("customer")
@_model_option
@_pool_option
@_description_option
@_json_option
@_talking
def unfreeze(
    daemon: Daemon, customer: str, model: str | None, pool: str | None, description: str | None, as_json: bool
) -> None:
    """Let CUSTOMER's frozen pool give credits again."""
    chosen = _pool_of(daemon, customer, pool, model)["id"]
    _say_pool(
        daemon.call("credits.unfreeze", _sent({"creditPoolId": chosen, "description": description})), as_json
    )


# Looking


@command.command("show")
@click.argument("customer")
@_json_option
@_talking
def show(daemon: Daemon, customer: str, as_json: bool) -> None:
    """Show CUSTOMER's credits as they are now: pools, the grants in them, open holds."""
    answer = daemon.call("balance", {"customerReferenceId": customer})
    _say(answer, as_json, credits_show.balance_lines)


@command.command("statement")
@click.argument("customer")
@_model_option
@_pool_option
@click.option(
    "--limit",
    type=click.IntRange(1, STATEMENT_ROWS_MAX),
    default=STATEMENT_ROWS,
    show_default=True,
    help="The latest so many transactions of each pool.",
)
@_json_option
@_talking
def statement(
    daemon: Daemon, customer: str, model: str | None, pool: str | None, limit: int, as_json: bool
) -> None:
    """Show what happened to CUSTOMER's credits, oldest first, with the balance after each."""
    pools = _pools(daemon, customer, pool, model)
    pages = [
        {"pool": each, **daemon.call("credits.statement", _page(customer, each["id"], limit))} for each in pools
    ]
    _say({"customerReferenceId": customer, "pools": pages}, as_json, credits_show.statement_lines)


@command.command("explain")
@click.argument("transaction")
@_json_option
@_talking
def explain(daemon: Daemon, transaction: str, as_json: bool) -> None:
    """Say why a TRANSACTION is as large as it is, and where it stands in the ledger."""
    answer = daemon.call("credits.explain", {"transactionId": transaction})
    _say(answer, as_json, credits_show.explain_lines)


# Pieces


def _sent(params: dict[str, Any]) -> dict[str, Any]:
    """Leave out what was not given."""
    return {name: value for name, value in params.items() if value is not None}


def _page(customer: str, pool: str, limit: int) -> dict[str, Any]:
    return {"customerReferenceId": customer, "poolId": pool, "limit": limit, "offset": 0}


def _only_model(daemon: Daemon) -> str:
    """Return the catalog's credit model, where there is one only.

    Raises:
        UsageError: there are none, or several; names them.
    """
    keys = [model["key"] for model in daemon.call("credits.models")["items"]]
    if not keys:
        raise click.UsageError("there is no credit model; write [[credit_models]] in the catalog, then reload it")
    if len(keys) > 1:
        raise click.UsageError(f"which credits? say --model with one of: {', '.join(keys)}")
    return str(keys[0])


def _pools(daemon: Daemon, customer: str, pool: str | None, model: str | None) -> list[dict[str, Any]]:
    """Return the customer's pools that the options leave.

    Raises:
        ClickException: there is none.
    """
    pools: list[dict[str, Any]] = daemon.call("balance", {"customerReferenceId": customer})["pools"]
    found = [each for each in pools if pool in (None, each["id"]) and model in (None, each["creditModelKey"])]
    if not pools:
        text = f"{customer!r} has no credits yet; give some with `tallyd credits grant {customer} AMOUNT`"
        raise click.ClickException(text)
    if not found:
        raise click.ClickException(f"{customer!r} has no such pool; there are:\n{_listed(pools)}")
    return found


def _pool_of(daemon: Daemon, customer: str, pool: str | None, model: str | None) -> dict[str, Any]:
    """Return the one pool that is meant.

    Raises:
        ClickException: it is not said which of several.
    """
    found = _pools(daemon, customer, pool, model)
    if len(found) > 1:
        raise click.UsageError(f"{customer!r} has several pools; say --pool with one of:\n{_listed(found)}")
    return found[0]


def _listed(pools: list[dict[str, Any]]) -> str:
    return "\n".join(f"  {each['id']}  {each['creditModelKey']}: {each['name']}" for each in pools)


def _say_moved(answer: dict[str, Any], as_json: bool) -> None:
    _say(answer, as_json, credits_show.moved_lines)


def _say_pool(answer: dict[str, Any], as_json: bool) -> None:
    _say(answer, as_json, credits_show.status_lines)


def _say(answer: dict[str, Any], as_json: bool, lines: Callable[[dict[str, Any]], list[str]]) -> None:
    """Print an answer: as it is for programs, in words for people."""
    click.echo(_encode(answer).decode() if as_json else "\n".join(lines(answer)))
