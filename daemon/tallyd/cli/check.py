"""`tallyd check`: may this customer go on?"""

import sys
from typing import Any

import click
import msgspec

from tallyd.cli.client import DaemonError, advised, daemon_of
from tallyd.cli.credits_words import amount, printable
from tallyd.cli.settings import settings_options
from tallyd.config import Config

_encode = msgspec.json.Encoder(decimal_format="number").encode


@click.command("check")
@click.argument("customer")
@click.argument("feature")
@click.option("--units", metavar="N", help="Ask whether N more units fit; nothing is recorded.")
@click.option("--model", metavar="NAME", help="The LLM model the units are for, where models weigh differently.")
@click.option("--json", "as_json", is_flag=True, help="Print the daemon's answer as JSON.")
@settings_options
def command(
    config: Config, customer: str, feature: str, units: str | None, model: str | None, as_json: bool
) -> None:
    """Ask whether CUSTOMER may use FEATURE now. Exit code 0: allowed, 1: denied, 3: no daemon there."""
    if model is not None and units is None:
        raise click.UsageError("--model needs --units: how many are asked for")
    params: dict[str, Any] = {"customerReferenceId": customer, "featureKey": feature}
    if units is not None:
        params["usage"] = {"usageUnits": units, "model": model}
    try:
        with daemon_of(config) as daemon:
            answer = daemon.call("check" if units is None else "evaluate", params)
    except DaemonError as error:
        raise advised(error, customer) from None
    if as_json:
        click.echo(_encode(answer).decode())
    else:
        click.echo("\n".join(_lines(answer)))
    sys.exit(0 if answer["allowed"] else 1)


def _lines(answer: dict[str, Any]) -> list[str]:
    verdict = click.style("allowed", fg="green") if answer["allowed"] else click.style("denied", fg="red")
    reason = answer["meta"]["reason"]
    lines = [
        f"{verdict}: {answer['referenceCustomerId']} → {answer['featureKey']}",
        f"  reason    {reason['code']}: {reason['description']}",
    ]
    usage = answer.get("usage")
    if usage is not None:
        lines.append(f"  used      {_usage(usage)}")
    simulation = answer.get("simulation")
    if simulation is not None:
        requested, projected = simulation["requestedUsage"], simulation["projectedUsage"]
        lines.append(f"  asked     {requested:,} more would make {projected:,}")
    if "credit" in answer:
        lines.append(f"  credits   {_credit(answer['credit'])}")
    if "creditQuote" in answer:
        lines.append(f"  asked     {_quote(answer['creditQuote'])}")
    if "priceVersion" in answer:
        lines.append(f"  price     {answer['priceVersion']}")
    lines.append(f"  position  {answer['position']} in the customer's ledger")
    return lines


def _usage(usage: dict[str, Any]) -> str:
    if "limit" not in usage:
        return f"{usage['used']:,}, no limit"
    return f"{usage['used']:,} of {usage['limit']:,}, {usage['remaining']:,} left"


def _credit(credit: dict[str, Any]) -> str:
    held = f", {amount(credit['held'])} held" if credit.get("held") else ""
    available = f", {amount(credit['available'])} available" if "available" in credit else ", more where needed"
    return f"{amount(credit['balance'])} {printable(credit['denomination'])}{held}{available}"


def _quote(quote: dict[str, Any]) -> str:
    weight = f", {amount(quote['weight'])} a unit" if "weight" in quote else ""
    return f"{amount(quote['estimatedCredits'])} credits{weight}"
