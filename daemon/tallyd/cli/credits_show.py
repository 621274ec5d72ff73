"""Credits for people to read: what there is, a statement like a bank's, and why a transaction is what it is.

Takes the daemon's answers as they are. Times are UTC; amounts have all their digits and no trailing zeros.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Final

from tallyd.cli.credits_words import TIMES, amount, minute, printable, signed, words

View = dict[str, Any]

_ZERO: Final = Decimal(0)
_BLANK: Final = ("", "", "", "")


# What there is


def balance_lines(answer: View) -> list[str]:
    """Show a customer's pools, the grants in them, and its open holds."""
    customer = printable(answer["customerReferenceId"])
    if not answer["pools"]:
        return [f"{customer} has no credits yet; give some with `tallyd credits grant {customer} AMOUNT`"]
    lines: list[str] = []
    for pool in answer["pools"]:
        lines += [*_pool_lines(customer, pool), ""]
    holds = answer.get("holds", [])
    if holds:
        rows = [_hold_row(hold) for hold in holds]
        lines += _columns(("open hold", "feature", ">credits", ">units", "until"), rows)
    return lines if lines[-1] else lines[:-1]


def _pool_lines(customer: str, pool: View) -> list[str]:
    lines = [
        f"{customer}: {_title(pool)}",
        f"  pool       {pool['id']}, {pool['status']}{_rule(pool)}",
        f"  balance    {amount(pool['balance'])}",
        f"  held       {amount(pool['held'])}",
        f"  available  {amount(pool['available'])}",
    ]
    if pool["overage"]:
        lines.append(f"  overage    {amount(pool['overage'])}")
    lines.append(f"  lifetime   {_totals(pool)}")
    grants = [grant for grant in pool.get("grants", []) if grant["remaining"]]
    if grants:
        lines += ["", *_columns(("grant", ">left", ">of", "type", "ends"), [_grant_row(each) for each in grants])]
    return lines


def _rule(pool: View) -> str:
    return ": gives no more than there is" if pool["hardLimit"] else ": what is not there is billed"


def _title(pool: View) -> str:
    return f"{printable(pool['name'])} ({printable(pool['denomination'])})"


def _totals(pool: View) -> str:
    """Say how the balance comes about, so that it can be added up (P3)."""
    parts = f"{amount(pool['totalGranted'])} granted - {amount(pool['totalConsumed'])} used"
    parts += f" - {amount(pool['totalExpired'])} expired"
    reversed_ = pool["totalReversed"]
    parts += f" {'-' if reversed_ < 0 else '+'} {amount(abs(reversed_))} reversed"
    return f"{parts} = {amount(pool['balance'])}"


def _grant_row(grant: View) -> tuple[str, ...]:
    ends = grant.get("expiresAt")
    left, held = grant["remaining"], grant.get("held", 0)
    kept = f" ({amount(held)} held)" if held else ""
    until = minute(ends) if ends else "never"
    return grant["id"], amount(left), amount(grant["amount"]), f"{grant['grantType']}{kept}", until


def _hold_row(hold: View) -> tuple[str, ...]:
    held = (amount(hold["heldCredits"]), amount(hold["heldUnits"]))
    return hold["holdId"], printable(hold["featureKey"]), *held, minute(hold["expiresAt"])


# The statement


def statement_lines(answer: View) -> list[str]:
    """Show each pool's transactions as a bank would: oldest first, the balance after each, and the totals."""
    lines: list[str] = []
    for page in answer["pools"]:
        lines += [*_page_lines(answer["customerReferenceId"], page), ""]
    return lines[:-1]


def _page_lines(customer: str, page: View) -> list[str]:
    pool, rows = page["pool"], list(reversed(page["items"]))
    left_out = page["pagination"]["total"] - len(rows)
    opening = rows[0]["balanceBefore"] if rows else pool["balance"]
    closing = rows[-1]["balanceAfter"] if rows else pool["balance"]
    shown: list[tuple[str, ...]] = [("", "Opening balance", "", amount(opening), "", "")]
    for row in rows:
        shown.append(_statement_row(row))
        if row.get("overageAfter"):
            shown.append(("", f"  drawn beyond the balance so far: {amount(row['overageAfter'])}", *_BLANK))
        if row.get("description"):
            shown.append(("", f"  {printable(row['description'])}", *_BLANK))
    shown.append(("", "Closing balance", "", amount(closing), "", ""))
    lines = [f"{printable(customer)}: {_title(pool)}, pool {pool['id']}", ""]
    if left_out:
        lines += [f"{left_out:,} earlier transactions are left out; --limit shows more", ""]
    lines += _columns(("date (UTC)", "what", ">amount", ">balance", ">position", "transaction"), shown)
    held = f"; {amount(pool['held'])} of it held, {amount(pool['available'])} available" if pool["held"] else ""
    return [*lines, "", f"{_totals(pool)}{held}"]


def _statement_row(row: View) -> tuple[str, ...]:
    position = str(row["position"]) if "position" in row else ""
    after = amount(row["balanceAfter"])
    return minute(row["createdAt"]), words(row), signed(row["amount"]), after, position, row["id"]


# One transaction


def moved_lines(answer: View) -> list[str]:
    """Say what was done, and what the pool has now."""
    row, pool = answer["transaction"], answer["pool"]
    lines = [f"{signed(row['amount'])} {printable(pool['denomination'])}: {words(row)}"]
    grant = answer.get("grant")
    if grant is not None and grant.get("expiresAt"):
        lines.append(f"  until        {minute(grant['expiresAt'])} UTC")
    lines += [
        f"  balance      {amount(row['balanceBefore'])} -> {amount(pool['balance'])}{_held(pool)}",
        f"  pool         {pool['id']}",
        f"  transaction  {row['id']}, position {row['position']} in the customer's ledger",
    ]
    return lines


def _held(pool: View) -> str:
    return f", {amount(pool['available'])} available" if pool["held"] else ""


def status_lines(pool: View) -> list[str]:
    """Say where a pool stands."""
    return [f"{_title(pool)} is {pool['status']}", f"  pool  {pool['id']}, balance {amount(pool['balance'])}"]


def explain_lines(row: View) -> list[str]:
    """Explain a transaction: what caused it, how large it had to be, what it touched, where it stands."""
    moved = f" {signed(row['amount'])}" if "amount" in row else ""
    lines = [
        f"{row['transactionType']}{moved}: {words(row)}",
        f"  when         {minute(row['createdAt'])} UTC{_written(row)}",
    ]
    if "balanceAfter" in row:
        lines.append(f"  balance      {amount(row['balanceBefore'])} -> {amount(row['balanceAfter'])}")
    if "overageAfter" in row:
        lines.append(f"  overage      {amount(row.get('overageBefore', _ZERO))} -> {amount(row['overageAfter'])}")
    lines += [f"  {name:<12} {text}" for name, text in _evidence(row)]
    for place, each in enumerate(row.get("grants", [])):
        name = "grants" if not place else ""
        lines.append(f"  {name:<12} {signed(each['amount'])} of grant {each['grantId']}")
    lines.append(f"  position     {row['position']} in the customer's ledger")
    if "chain" in row:
        lines.append(f"  chain        {row['chain']}")
    pool = f" of pool {row['creditPoolId']}" if "creditPoolId" in row else ""
    lines.append(f"  {'transaction' if moved else 'entry':<12} {row['id']}{pool}")
    return lines


def _written(row: View) -> str:
    recorded = row.get("recordedAt")
    return f", written {minute(recorded)}" if recorded and recorded != row["createdAt"] else ""


def _evidence(row: View) -> Iterable[tuple[str, str]]:
    if "eventId" in row:
        yield "event", f"{row['eventId']}{_event(row)}"
    if "featureKey" in row:
        yield "feature", printable(row["featureKey"])
    for name, field in (("hold", "holdId"), ("reverses", "reversedTransactionId"), ("reversed by", "reversedBy")):
        if field in row:
            yield name, row[field]
    if "charge" in row:
        yield "charge", _charge(row)
    if row.get("covered"):
        parts = ", ".join(f"{amount(value)} {printable(name)}" for name, value in row["covered"].items())
        yield "covers", f"{parts}: not billed by the plan"
    if row.get("credited"):
        yield "credited", f"{amount(row['credited'])} of the plan's price"
    if row.get("waived"):
        yield "waived", f"{amount(row['waived'])} that were not there and are not asked for"
    if row.get("description"):
        yield "said", printable(row["description"])


def _event(row: View) -> str:
    used = row.get("units")
    model = f" on {printable(row['model'])}" if row.get("model") else ""
    return model if used is None else f": {amount(used)} units{model}"


def _charge(row: View) -> str:
    charge = f"{amount(row['charge'])} credits"
    if row.get("weights"):
        kinds = ", ".join(f"{amount(value)} a {printable(kind)} token" for kind, value in row["weights"].items())
        return f"{charge}: {kinds}"
    if row.get("unitsPerCredit"):
        return f"{charge}: {amount(row['unitsPerCredit'])} units a credit, as the plan says"
    if row.get("weight") is None:
        return f"{charge}: the plan's price, as credits are money"
    units = f"{amount(row['units'])} {TIMES} " if row.get("units") is not None else ""
    return f"{charge}: {units}{amount(row['weight'])} a unit, {_source(row)}"


def _source(row: View) -> str:
    scheduled = f" {row['weightId']}" if row.get("weightId") else ""
    match = row.get("weightMatch")
    if match == "MODEL":
        return f"the weight{scheduled} of this feature and model"
    if match == "FEATURE_DEFAULT":
        return f"the weight{scheduled} of this feature"
    return "as no weight is scheduled for this feature"


# Columns


def _columns(headings: Sequence[str], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lay out rows in columns; a heading that starts with > stands right."""
    names = tuple(heading.lstrip(">") for heading in headings)
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    right = [heading.startswith(">") for heading in headings]
    lines = []
    for row in (names, *rows):
        cells = (
            cell.rjust(width) if aligned else cell.ljust(width)
            for cell, width, aligned in zip(row, widths, right, strict=True)
        )
        lines.append("  " + "  ".join(cells).rstrip())
    return lines
