"""`tallyd subscriptions` and `tallyd subscribe`: put customers on plans, and change, pause and end that."""

import re
from datetime import date
from typing import Any, Final, Literal

import click

from tallyd.cli.asking import ListingGroup, json_option, say, sent, talking
from tallyd.cli.client import Daemon
from tallyd.cli.credits import read_moment
from tallyd.cli.credits_words import printable
from tallyd.cli.subscriptions_show import show_changed, show_list, show_made

_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_NOT_FOUND: Final = "put it on a plan with `tallyd subscribe {customer} PLAN`"


def read_start(text: str) -> str:
    """Read when a subscription starts: a date, which the daemon reads where the subscriber is; else an instant.

    Raises:
        BadParameter: it is neither.
    """
    if _DATE.fullmatch(text) is None:
        return read_moment(text)
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise click.BadParameter(f"{text!r} is no date; write 2026-12-31 or 2026-12-31T12:00Z") from None


@click.group("subscriptions", cls=ListingGroup)
def command() -> None:
    """Show CUSTOMER's subscriptions; change, pause, resume and cancel them.

    `tallyd subscriptions CUSTOMER` lists them. Exit codes: 0 done, 1 refused, 2 used wrongly, 3 no daemon there.
    Dates are those of the subscription's time zone.
    """


_which_option = click.option(
    "--subscription", "chosen", metavar="ID", help="Which, where the customer has several."
)


@click.command("subscribe")
@click.argument("customer")
@click.argument("plan")
@click.option(
    "--starts-at",
    metavar="WHEN",
    type=read_start,
    help="2026-12-01, 00:00 in the time zone; or 2026-12-01T09:00Z; also in the past.  [default: today]",
)
@click.option(
    "--anchor-day",
    metavar="DAY",
    type=click.IntRange(1, 31),
    help="Day of the month on which periods begin.  [default: the day it starts]",
)
@click.option(
    "--time-zone",
    metavar="ZONE",
    help="Whose midnights count, such as Europe/Berlin.  [default: the customer's, else the account's]",
)
@click.option("--trial-days", metavar="N", type=int, help="Days that cost nothing.  [default: as the plan says]")
@click.option(
    "--grace-days",
    metavar="N",
    type=int,
    help="Days after an invoice's due date before access ends.  [default: as the plan says]",
)
@json_option
@talking
def subscribe(
    daemon: Daemon,
    customer: str,
    plan: str,
    starts_at: str | None,
    anchor_day: int | None,
    time_zone: str | None,
    trial_days: int | None,
    grace_days: int | None,
    as_json: bool,
) -> None:
    """Put CUSTOMER on the newest version of PLAN, and show the first invoice.

    Exit codes: 0 done, 1 refused, 2 used wrongly, 3 no daemon there.
    """
    params = sent(
        customerReferenceId=customer,
        planKey=plan,
        startsAt=starts_at,
        billingAnchorDay=anchor_day,
        timeZone=time_zone,
        trialDays=trial_days,
        gracePeriod=grace_days,
    )
    say(daemon.call("subscribe", params), as_json, show_made)


@command.command("list")
@click.argument("customer")
@json_option
@talking
def list_(daemon: Daemon, customer: str, as_json: bool) -> None:
    """List CUSTOMER's subscriptions."""
    answer = daemon.call("subscriptions.list", {"customerReferenceId": customer})
    say({"customerReferenceId": customer, **answer}, as_json, show_list)


@command.command("change")
@click.argument("customer")
@click.argument("plan", required=False)
@click.option("--now", is_flag=True, help="At once: what is left of the period is prorated.")
@click.option("--at-period-end", is_flag=True, help="When the period ends; until then --revert takes it back.")
@click.option("--revert", is_flag=True, help="Take back a change that has not come yet.")
@_which_option
@json_option
@talking
def change(
    daemon: Daemon,
    customer: str,
    plan: str | None,
    now: bool,
    at_period_end: bool,
    revert: bool,
    chosen: str | None,
    as_json: bool,
) -> None:
    """Put CUSTOMER on another PLAN: a cheaper one when the period ends, any other at once.

    --now and --at-period-end choose. Cheaper is what costs less a day, before usage.
    """
    if revert == (plan is not None):
        raise click.UsageError("name the PLAN to change to, or say --revert")
    if now + at_period_end + revert > 1:
        raise click.UsageError("--now, --at-period-end and --revert contradict each other; give one of them")
    if revert:
        _act(daemon, "subscriptions.revertChange", customer, chosen, as_json)
        return
    kind = "UPGRADE" if now else "DOWNGRADE" if at_period_end else None
    params = sent(changeToPlanId=plan, changeType=kind)
    answer = _act(daemon, "subscriptions.changePlan", customer, chosen, as_json, **params)
    if not as_json:
        click.echo(_which_change(answer["subscription"]["scheduledChange"], customer))


@command.command("cancel")
@click.argument("customer")
@click.option("--now", is_flag=True, help="At once: what is paid for and not used is given back.")
@click.option("--revert", is_flag=True, help="Take back a cancellation that has not come yet.")
@_which_option
@json_option
@talking
def cancel(daemon: Daemon, customer: str, now: bool, revert: bool, chosen: str | None, as_json: bool) -> None:
    """Let CUSTOMER's subscription end with its period, or --now."""
    if now and revert:
        raise click.UsageError("--now and --revert contradict each other; give one of them")
    if revert:
        _act(daemon, "subscriptions.revertCancellation", customer, chosen, as_json)
        return
    mode: Literal["IMMEDIATE", "END_OF_PERIOD"] = "IMMEDIATE" if now else "END_OF_PERIOD"
    _act(daemon, "subscriptions.cancel", customer, chosen, as_json, cancelMode=mode)


@command.command("pause")
@click.argument("customer")
@_which_option
@json_option
@talking
def pause(daemon: Daemon, customer: str, chosen: str | None, as_json: bool) -> None:
    """Stop CUSTOMER's access, and what is invoiced, until it is resumed."""
    _act(daemon, "subscriptions.pause", customer, chosen, as_json)


@command.command("resume")
@click.argument("customer")
@_which_option
@json_option
@talking
def resume(daemon: Daemon, customer: str, chosen: str | None, as_json: bool) -> None:
    """End the pause of CUSTOMER's subscription."""
    _act(daemon, "subscriptions.resume", customer, chosen, as_json)


# Pieces


def _act(daemon: Daemon, method: str, customer: str, chosen: str | None, as_json: bool, **params: Any) -> Any:
    """Do something with the subscription that is meant; show and return how it is then, with the invoices made."""
    number = subscription_of(daemon, customer, chosen)["id"]
    answer = daemon.call(method, {"subscriptionId": number, **params})
    say(answer, as_json, show_changed)
    return answer


def _which_change(change: dict[str, Any], customer: str) -> str:
    """Say whether a change was an upgrade or a downgrade, and how to have the other."""
    command_ = f"`tallyd subscriptions change {printable(customer)}"
    if change["type"] == "UPGRADE":
        return f"At once (UPGRADE). {command_} PLAN --at-period-end` waits for the end of the period."
    plan = change["toPlan"]
    return (
        f"At the end of the period (DOWNGRADE). {command_} {plan} --now` does it at once,\n"
        f"{command_} --revert` takes it back."
    )


def subscription_of(daemon: Daemon, customer: str, chosen: str | None) -> dict[str, Any]:
    """Return the one subscription of a customer that is meant.

    Raises:
        ClickException: there is none, or it is not said which of several.
    """
    found: list[dict[str, Any]] = daemon.call("subscriptions.list", {"customerReferenceId": customer})["items"]
    listed = "\n".join(f"  {each['id']}  {each['plan']['key']}" for each in found)
    if chosen is not None:
        matching = [each for each in found if each["id"] == chosen]
        if not matching:
            raise click.ClickException(f"{customer!r} has no such subscription; there are:\n{listed}")
        return matching[0]
    running = [each for each in found if "endsAt" not in each or each["isActive"]] or found
    if not running:
        raise click.ClickException(f"{customer!r} has no subscription; {_NOT_FOUND.format(customer=customer)}")
    if len(running) > 1:
        raise click.UsageError(
            f"{customer!r} has several subscriptions; say --subscription with one of:\n{listed}"
        )
    return running[0]
