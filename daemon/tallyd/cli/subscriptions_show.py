"""Subscriptions for people to read. Takes the daemon's answers as they are; dates are those of its time zone."""

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from tallyd.cli.asking import View, facts, table, text
from tallyd.cli.invoices_show import day, of_subscription, show_invoice, span

_DENIED = {
    "unpaid": "no access: the first invoice is not paid",
    "past_due": "no access: an invoice is past due",
    "paused": "paused",
}


def show_list(console: Console, answer: View) -> None:
    """Show a customer's subscriptions."""
    customer = answer["customerReferenceId"]
    if not answer["items"]:
        console.print(
            text(f"{customer} has no subscription; put it on a plan with `tallyd subscribe {customer} PLAN`")
        )
        return
    found = table("plan", "state", "period", "then", "invoiced", "subscription")
    for each in answer["items"]:
        plan = each["plan"]
        found.add_row(
            text(f"{plan['key']}@{plan['version']}"),
            state(each),
            span(each["currentPeriodStart"], each["currentPeriodEnd"], each["timeZone"]),
            text(_then(each)),
            each["billingTiming"],
            each["id"],
        )
    console.print(found)


def show_subscription(console: Console, found: View) -> None:
    """Show one subscription."""
    plan = found["plan"]
    title = Text.assemble(text(f"{found['customer'].get('customerReferenceId', found['customer']['id'])}", "bold"))
    console.print(
        title.append(": ").append(text(f"{plan['name']} ({plan['key']}@{plan['version']}), ")).append(state(found))
    )
    facts(console, list(_facts(found)))


def show_changed(console: Console, answer: View) -> None:
    """Show a subscription that was changed, and the invoices that this made or voided."""
    found = answer["subscription"]
    show_subscription(console, found)
    for invoice in answer["invoices"]:
        console.print()
        show_invoice(console, {**invoice, **of_subscription(found)})


def show_made(console: Console, answer: View) -> None:
    """Show a subscription that was made, and its first invoice."""
    found, invoice = answer["subscription"], answer.get("invoice")
    show_changed(console, {"subscription": found, "invoices": [] if invoice is None else [invoice]})


def state(found: View) -> Text:
    """Say whether a subscription gives access, and why not."""
    reason = found.get("inactiveReason")
    if found["isActive"]:
        return Text("active", "green")
    return Text(_DENIED.get(reason, str(reason)), "red") if reason else Text("not running", "dim")


def _facts(found: View) -> Iterable[tuple[str, str | Text]]:
    zone = found["timeZone"]
    yield "period", f"{span(found['currentPeriodStart'], found['currentPeriodEnd'], zone)}, {zone}"
    yield "invoiced", found["billingTiming"]
    if "trialEndsAt" in found:
        yield "trial", f"until {day(found['trialEndsAt'], zone)}"
    if _then(found):
        yield "then", text(_then(found))
    yield "id", found["id"]


def _then(found: View) -> str:
    """Say what is going to happen to a subscription, if anything."""
    zone = found["timeZone"]
    change = found.get("scheduledChange")
    if change is not None and change["status"] == "PENDING":
        return f"{change['toPlan']} from {day(change['effectiveAt'], zone)}"
    if "endsAt" in found:
        return f"{'ends' if found['isActive'] else 'ended'} {day(found['endsAt'], zone)}"
    return ""
