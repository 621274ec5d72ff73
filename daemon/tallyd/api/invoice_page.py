"""An invoice as a page to read, send and print: one HTML document that needs nothing beside itself.

All becomes text here; the template only lays it out, and escapes every text it is given.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from tallyd.api.invoice_words import (
    COST,
    date_words,
    line_words,
    money,
    number_words,
    period_words,
    price_note,
    reference,
    step_words,
    unpriced_words,
)
from tallyd.model.invoice import Invoice, InvoiceKind, InvoiceStatus, Line, LineKind, LineStep
from tallyd.model.money import ZERO

URL_PRINTED_MAX: Final = 90  # characters; a longer address is of no use on paper
_SECTIONS: Final = {
    LineKind.BASE: "Plan",
    LineKind.PRORATION: "Plan, prorated",
    LineKind.USAGE: "Usage",
    LineKind.COVERED: "Usage",
    LineKind.CREDITED: "Usage",
    LineKind.OVERAGE: "Credits beyond the balance",
    LineKind.LATE: "Earlier periods",
    LineKind.TRIAL: "Trial",
}
_TITLES: Final = {InvoiceKind.CREDIT: "Credit note", InvoiceKind.FINAL: "Final invoice"}
_PAYABLE: Final = (InvoiceStatus.DUE, InvoiceStatus.PAST_DUE)
_DEAD: Final = {InvoiceStatus.VOID: "Voided", InvoiceStatus.CANCELLED: "Cancelled"}
# Control characters, marks that reverse the direction of what follows, and halves of characters.
_UNPRINTABLE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Seller(msgspec.Struct, frozen=True, kw_only=True):
    """Who sends the invoice. What is absent is left out of the page.

    Attributes:
        name: of the company.
        address: line by line.
        email: where questions go.
        tax_id: such as a VAT number.
        footer: small print at the end; line breaks are kept.
    """

    name: str | None = None
    address: list[str] = []
    email: str | None = None
    tax_id: str | None = None
    footer: str | None = None


class BilledCustomer(msgspec.Struct, frozen=True, kw_only=True):
    """Who is billed. What is absent is left out of the page.

    Attributes:
        name: of the person or company.
        address: line by line.
        email: where the invoice goes.
        reference: what the seller knows the customer by.
    """

    name: str | None = None
    address: list[str] = []
    email: str | None = None
    reference: str | None = None


class InvoicePage(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the page says.

    Attributes:
        invoice: the invoice with its lines.
        number: the invoice's number as people quote it, such as `INV-000012-0003`.
        plan: name of the plan.
        zone: IANA name of the subscription's time zone, in which dates are given.
        seller: who sends it.
        customer: who is billed.
        pay_url: where it can be paid, http or https; anything else is not linked to.
        features: names of features for people, by key; a feature without one goes by its key.
    """

    invoice: Invoice
    number: str
    plan: str
    zone: str
    seller: Seller = Seller()
    customer: BilledCustomer = BilledCustomer()
    pay_url: str | None = None
    features: Mapping[str, str] = {}


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table, all text: a line, or a step of one.

    Of what is priced by its provider cost only the price is told: the cost is the seller's own.
    """

    words: str
    quantity: str
    unit_price: str
    amount: str
    number: int = 0
    notes: list[str] = []
    reference: int = 0
    steps: list["_Row"] = []
    exact: str = ""
    quiet: bool = False


class _Group(msgspec.Struct, frozen=True, kw_only=True):
    """Lines of one feature; `heading` is empty where a line stands alone, `note` where nothing is to be said."""

    heading: str
    note: str
    rows: list[_Row]


class _Section(msgspec.Struct, frozen=True, kw_only=True):
    """Lines of one sort. `period` is empty where the lines have several, or the invoice's own."""

    title: str
    period: str
    groups: list[_Group]
    amount: str


def invoice_page(page: InvoicePage) -> str:
    """Return the page as HTML, complete with its styles.

    Raises:
        zoneinfo.ZoneInfoNotFoundError: `page.zone` is no time zone.
    """
    invoice = page.invoice
    references: dict[str, int] = {}
    sections = list(_sections(page, references))
    rows = [row for section in sections for group in section.groups for row in group.rows]
    rows += [step for row in rows for step in row.steps]
    return _template().render(
        page=page,
        title=_TITLES.get(invoice.kind, "Credit note" if invoice.amount < ZERO else "Invoice"),
        status=invoice.status.replace("_", " "),
        status_class=invoice.status.lower().replace("_", "-"),
        headline=_headline(page),
        details=list(_details(page)),
        total=money(invoice.amount, invoice.currency, symbol=True),
        total_words="Credit" if invoice.amount < ZERO else "Total so far" if _pending(invoice) else "Total",
        pending=_pending(invoice),
        dead=invoice.status in _DEAD,
        period=period_words(invoice.period_start, invoice.period_end, page.zone),
        sections=sections,
        counts=any(row.quantity or row.unit_price for row in rows),
        references=list(references),
        pay_url=_pay_url(page),
        url_printed_max=URL_PRINTED_MAX,
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("tallyd.api"),
        autoescape=True,
        auto_reload=False,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("invoice.html")


def _printable(value: Any) -> Any:
    """Take out of a text what could hide or reverse the rest of it; escaping is Jinja's."""
    if isinstance(value, str) and _UNPRINTABLE.search(value):
        return type(value)(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value))
    return value


def _pending(invoice: Invoice) -> bool:
    return invoice.status is InvoiceStatus.PENDING


def _pay_url(page: InvoicePage) -> str | None:
    """Return where to pay, when there is something to pay and the address is one of the web."""
    if page.pay_url is None or page.invoice.status not in _PAYABLE or page.invoice.amount <= ZERO:
        return None
    try:
        parts = urlsplit(page.pay_url)
    except ValueError:
        return None
    return page.pay_url if parts.scheme in {"http", "https"} and parts.netloc else None


def _headline(page: InvoicePage) -> tuple[str, str]:
    """Return what the amount is, and what becomes of it."""
    invoice, zone = page.invoice, page.zone
    if invoice.status in _DEAD:
        return "Nothing to pay", f"{_DEAD[invoice.status]}{_settled(page)}"
    if _pending(invoice):
        return "Used so far", f"Runs until {date_words(max(invoice.period_start, invoice.period_end - 1), zone)}"
    if invoice.amount <= ZERO:
        return ("Credit", "In your favour, nothing to pay") if invoice.amount else ("Total", "Nothing to pay")
    if invoice.status is InvoiceStatus.PAID:
        return "Amount paid", f"Paid{_settled(page)}, thank you"
    late = invoice.status is InvoiceStatus.PAST_DUE
    due = date_words(invoice.due_at, zone)
    return ("Amount past due", f"Was due on {due}") if late else ("Amount due", f"Due on {due}")


def _settled(page: InvoicePage) -> str:
    moment = page.invoice.settled_at
    return "" if moment is None else f" on {date_words(moment, page.zone)}"


def _details(page: InvoicePage) -> Iterator[tuple[str, str]]:
    """What stands beside the amount: names and values."""
    invoice, zone = page.invoice, page.zone
    yield "Issued", date_words(invoice.dated_at, zone)
    yield "Due", date_words(invoice.due_at, zone)
    if invoice.settled_at is not None:
        yield _DEAD.get(invoice.status, "Paid"), date_words(invoice.settled_at, zone)
    yield "Period", period_words(invoice.period_start, invoice.period_end, zone)
    if page.plan:
        yield "Plan", page.plan


def _sections(page: InvoicePage, references: dict[str, int]) -> Iterator[_Section]:
    """Lines by sort, in the order of `_SECTIONS`; `references` collects what they refer to."""
    invoice = page.invoice
    own = (invoice.period_start, invoice.period_end)
    one_period = all(_period(line) == own for line in invoice.lines)
    for title in dict.fromkeys(_SECTIONS.values()):
        numbered = [(n, line) for n, line in enumerate(invoice.lines, 1) if _SECTIONS[line.kind] == title]
        if not numbered:
            continue
        lines = [line for _, line in numbered]
        shared = len(set(map(_period, lines))) == 1 and title != _SECTIONS[LineKind.LATE]
        named = not one_period and not shared
        yield _Section(
            title=title,
            period="" if one_period or not shared else period_words(*_period(lines[0]), page.zone),
            groups=list(_groups(page, numbered, references, name_periods=named)),
            amount=money(sum((line.amount for line in lines), ZERO), invoice.currency),
        )


def _period(line: Line) -> tuple[int, int]:
    return line.period_start, line.period_end


def _groups(
    page: InvoicePage, lines: list[tuple[int, Line]], references: dict[str, int], *, name_periods: bool
) -> Iterator[_Group]:
    """Lines, with their numbers, by feature, in the order in which features first appear."""
    features = dict.fromkeys(line.feature for _, line in lines)
    for feature in features:
        of_it = [each for each in lines if each[1].feature == feature]
        name = page.features.get(feature, feature)
        within = bool(feature) and len(of_it) > 1
        note = unpriced_words([line for _, line in of_it])
        rows = [_row(page, each, references, name, within=within, name_period=name_periods) for each in of_it]
        if note and not within:
            rows[0].notes.append(note)
        yield _Group(heading=name if within else "", note=note if within else "", rows=rows)


def _row(
    page: InvoicePage,
    numbered: tuple[int, Line],
    references: dict[str, int],
    feature: str,
    *,
    within: bool,
    name_period: bool,
) -> _Row:
    number, line = numbered
    currency = page.invoice.currency
    words = line_words(line, feature, within=within)
    by_cost = line.token_kind == COST
    steps = [] if by_cost else [_step(step, currency) for step in line.steps]
    notes = []
    if len(steps) == 1 and _repeats(line, line.steps[0]):
        steps.clear()
        note = price_note(line.steps[0])
        if note.removeprefix("per ").lower() not in f"{feature} {words}".lower():
            notes.append(note)
    if name_period or line.kind is LineKind.LATE:
        notes.append(period_words(line.period_start, line.period_end, page.zone))
    explained = reference(line)
    return _Row(
        number=number,
        words=words,
        notes=notes,
        quantity="" if line.quantity is None or by_cost else number_words(line.quantity),
        unit_price="" if line.unit_price is None or by_cost else money(line.unit_price, currency),
        amount=money(line.amount, currency),
        exact="" if line.exact == line.amount else number_words(line.exact),
        steps=steps,
        reference=references.setdefault(explained, len(references) + 1) if explained else 0,
        quiet=line.kind is LineKind.COVERED,
    )


def _repeats(line: Line, step: LineStep) -> bool:
    """Whether the only step of a line has no number that the line does not have."""
    return (step.quantity, step.unit_price, step.amount) == (line.quantity, line.unit_price, line.exact)


def _step(step: LineStep, currency: str) -> _Row:
    return _Row(
        words=step_words(step),
        quantity=number_words(step.quantity) if step.quantity else "",
        unit_price="" if step.unit_price is None else money(step.unit_price, currency),
        amount="no price yet" if step.amount is None else money(step.amount, currency),
    )
