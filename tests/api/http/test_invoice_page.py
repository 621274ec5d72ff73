"""The page of an invoice: what it says, to whom, and what it may not do."""

import html
import re
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest

from harness import Running, running
from tallyd.api.billing_page import address_lines
from tallyd.api.invoice_page import InvoicePage, invoice_page
from tallyd.api.invoice_words import money, number_words, period_words
from tallyd.clock import FixedClock
from tallyd.model.invoice import Invoice, InvoiceKind, InvoiceStatus, Line, LineKind, LineStep
from tallyd.model.moments import DAY_US, parse_iso

CLIENT: Final = "/api/v1/client"
CATALOG: Final = """
[[features]]
key = "api"
name = "API calls"
[[features]]
key = "assistant"
name = "Assistant"

[[plans]]
key = "pro"
name = "Pro"
price_amount = "49.00"
[[plans.features]]
feature = "api"
[plans.features.pricing]
model = "graduated"
usage_unit_type = "calls"
tiers = [{ up_to = 1000, price_per_unit = 0, flat_fee = 10 }, { up_to = "inf", price_per_unit = "0.001" }]
[[plans.features]]
feature = "assistant"
pricing = { model = "llm_tokens", rates = { "gpt-4o" = { input = "2.50", output = 10 } } }
"""
SELLER: Final[dict[str, Any]] = {
    "invoices__name": "Nimbus <Cloud>",
    "invoices__address": ("Torstr. 12", "10119 Berlin"),
    "invoices__email": "billing@nimbus.test",
    "invoices__tax_id": "DE123",
    "invoices__footer": "Payable within 3 days.",
}
START: Final = parse_iso("2026-11-01T00:00:00Z")
END: Final = parse_iso("2026-12-01T00:00:00Z")


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Running]:
    """Run a daemon of a seller with a name to be escaped, whose customer has a month of usage."""
    async with running(tmp_path, catalog=CATALOG, **SELLER) as started:
        profile = {"customerReferenceId": "acme", "firstName": "Ada & Co", "email": "a@acme.test"}
        profile["address"] = {"line1": "1 Way", "city": "London"}  # type: ignore[assignment] # what is sent
        await started.http.post(f"{CLIENT}/customers", json=profile)
        await started.subscribe("acme", startsAt="2026-11-01T00:00:00Z")
        await started.http.post(f"{CLIENT}/billing/invoices/INV-000001-0001/mark-paid")
        for event in (
            {"featureKey": "api", "usageUnits": 1500},
            {
                "featureKey": "assistant",
                "costInput": {"model": "gpt-4o", "inputTokens": 1000000, "outputTokens": 2000},
            },
            {"featureKey": "assistant", "costInput": {"model": "unheard-of", "inputTokens": 5}},
        ):
            body = {"eventName": "x", "customerReferenceId": "acme", **event}
            assert (await started.http.post(f"{CLIENT}/events", json=body)).status_code == 201
        started.clock.move(10 * DAY_US)
        yield started


async def page(daemon: Running, name: str = "INV-000001-0002") -> str:
    """Return an invoice's page."""
    reply = await daemon.http.get(f"{CLIENT}/billing/invoices/{name}/page")
    assert reply.status_code == 200, reply.text
    return reply.text


def text_of(document: str) -> str:
    """Return what a person reads on a page, spaces made one."""
    body = document.partition("<body>")[2]
    return plainly(" ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split()))


def plainly(text: str) -> str:
    """Return a text with dashes and minus signs as a keyboard has them."""
    return text.replace("\N{EN DASH}", "-").replace("\N{MINUS SIGN}", "-")


async def test_a_page_may_be_looked_at_and_nothing_else(daemon: Running) -> None:
    """HTML with a policy that lets nothing be loaded, run, sent or framed; nobody keeps a copy."""
    reply = await daemon.http.get(f"{CLIENT}/billing/invoices/INV-000001-0002/page")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert "frame-ancestors 'none'" in policy
    assert (reply.headers["x-content-type-options"], reply.headers["cache-control"]) == ("nosniff", "no-store")
    for forbidden in ("<script", "<img", "<iframe", "<form", "<link", "javascript:", " onload", "@import", "url("):
        assert forbidden not in reply.text, forbidden


async def test_a_page_says_who_pays_whom_what_for(daemon: Running) -> None:
    """Seller and customer, dates in the subscriber's zone, lines by feature with their steps, the total."""
    told = text_of(await page(daemon))
    for words in (
        "Invoice INV-000001-0002",
        "Amount due DUE $62.02 USD Due on 1 December 2026",
        "Ada & Co 1 Way London a@acme.test Customer acme",
        "Nimbus <Cloud> Torstr. 12 10119 Berlin billing@nimbus.test Tax ID DE123",
        "Plan 1 - 31 December 2026 4. Pro: base price 1 49.00",
        "calls in tier 1 (up to 1,000) 1,000 0.00 0.00 flat fee of tier 1 10.00",
        "Assistant 1 event has no price yet and is not charged",
        "Input tokens, gpt-4o 2 at 2.5 per 1,000,000 1,000,000 0.0000025 2.50",
        "Total $62.02",
        "price version pro@1, ledger positions",
        "Payable within 3 days.",
    ):
        assert words in told, (words, told)
    assert "Usage of api" not in told, "features go by their names"


async def test_a_paid_page_says_so(daemon: Running) -> None:
    """The first invoice was paid; nobody is asked to pay it again."""
    told = text_of(await page(daemon, "INV-000001-0001"))
    assert "Amount paid PAID $49.00 USD Paid on 21 November 2026, thank you" in told


async def test_an_invoice_that_is_not_there_has_no_page(daemon: Running) -> None:
    """404 in the envelope, as everywhere."""
    for name in ("INV-000001-0009", "INV-000077-0001", "x"):
        reply = await daemon.http.get(f"{CLIENT}/billing/invoices/{name}/page")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


async def test_texts_of_others_stay_texts(tmp_path: Path) -> None:
    """Markup in names, and signs that turn the direction of writing, do no harm."""
    nasty = "<script>alert(1)</script>\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe"
    catalog = CATALOG.replace('name = "Pro"', f'name = "{nasty}"')
    async with running(tmp_path, catalog=catalog) as daemon:
        body = {"customerReferenceId": "acme", "firstName": nasty, "email": '"><b>'}
        assert (await daemon.http.post(f"{CLIENT}/customers", json=body)).status_code == 201
        await daemon.subscribe("acme")
        document = await page(daemon, "INV-000001-0001")
        assert "<script" not in document
        assert "<b>" not in document
        assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in document
        assert "&lt;script&gt;" in document


def line(**fields: Any) -> Line:
    """A line of an invoice; what is not given is of usage worth 5."""
    given = {"kind": LineKind.USAGE, "words": "Usage of api", "exact": Decimal(5), "amount": Decimal(5)}
    given |= {"period_start": START, "period_end": END, "feature": "api", "counter_start": START, **fields}
    return Line(**given)


def invoice(*lines: Line, **fields: Any) -> Invoice:
    """An invoice of November."""
    given = {
        "number": 1,
        "customer": 1,
        "subscription": 1,
        "serial": 1,
        "kind": InvoiceKind.IN_ARREARS,
        "status": InvoiceStatus.DUE,
        "currency": "USD",
        "period_start": START,
        "period_end": END,
        "issued_at": START,
        "due_at": END,
        "overdue_at": END + 4 * DAY_US,
        "amount": sum((each.amount for each in lines), Decimal(0)),
        "lines": list(lines),
        "position": 9,
        **fields,
    }
    return Invoice(**given)


def shown(made: Invoice, **fields: Any) -> str:
    """What a person reads on the page of an invoice."""
    given = {"number": "INV-1", "plan": "Pro", "zone": "UTC", "features": {"api": "API calls"}, **fields}
    return text_of(invoice_page(InvoicePage(invoice=made, **given)))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"status": InvoiceStatus.DUE}, "Amount due DUE $5.00 USD Due on 1 December 2026"),
        ({"status": InvoiceStatus.PAST_DUE}, "Amount past due PAST DUE $5.00 USD Was due on 1 December 2026"),
        ({"status": InvoiceStatus.PAID, "settled_at": END}, "Amount paid PAID $5.00 USD Paid on 1 December 2026"),
        ({"status": InvoiceStatus.VOID, "settled_at": END}, "Nothing to pay VOID $5.00 USD Voided on 1 December"),
        ({"status": InvoiceStatus.PENDING}, "Used so far PENDING $5.00 USD Runs until 30 November 2026"),
        ({"status": InvoiceStatus.PAID, "amount": Decimal(0)}, "Total PAID $0.00 USD Nothing to pay"),
        ({"status": InvoiceStatus.PAID, "amount": Decimal(-5)}, "Credit PAID -$5.00 USD In your favour"),
    ],
)
def test_each_status_has_its_words(fields: dict[str, Any], words: str) -> None:
    """What the amount is and what becomes of it, at the head of the page."""
    assert words in shown(invoice(line(), **fields))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([line()], "API calls"),
        ([line(token_kind="input", model="gpt-4o")], "API calls: input tokens, gpt-4o"),
        ([line(model="gpt-4o")], "API calls: gpt-4o"),
        ([line(model="gpt-4o"), line(model="o3")], "API calls 1. gpt-4o 5.00 2. o3 5.00"),
        (
            [line(), line(kind=LineKind.COVERED, amount=Decimal(0))],
            "API calls 1. Usage 5.00 2. Paid with credits 0.00",
        ),
        ([line(kind=LineKind.CREDITED)], "API calls, paid with credits"),
        ([line(kind=LineKind.LATE)], "API calls, change since it was invoiced 1 - 30 November 2026"),
        (
            [line(words="Usage of api; 2 events have no price yet")],
            "2 events have no price yet and are not",
        ),
        ([line(kind=LineKind.BASE, words="Pro: base price", feature="")], "Pro: base price"),
        ([], "There is nothing to bill."),
        (
            [line(quantity=Decimal(5), unit_price=Decimal(1), steps=[step])]
            if (step := LineStep(words="5 GB at 1", quantity=Decimal(5), unit_price=Decimal(1), amount=Decimal(5)))
            else [],
            "API calls per GB 5 1.00 5.00",
        ),
        (
            [line(quantity=Decimal(5), unit_price=Decimal(1), steps=[step])]
            if (
                step := LineStep(
                    words="5 cpu_hours at 1", quantity=Decimal(5), unit_price=Decimal(1), amount=Decimal(5)
                )
            )
            else [],
            "API calls per cpu hours 5 1.00 5.00",
        ),
    ],
)
def test_each_line_says_what_it_is_for(lines: list[Line], words: str) -> None:
    """In the seller's names of features, without the engine's."""
    assert words in shown(invoice(*lines))


def test_what_the_provider_takes_is_not_told() -> None:
    """Of usage priced by its cost the customer sees the price, not the cost and the markup that make it."""
    words = "provider cost 3.84615 of gpt-4o plus 30 %"
    factor = Decimal("1.30")
    cost = Decimal("3.84615")
    step = LineStep(words=words, quantity=cost, unit_price=factor, amount=cost * factor)
    fields = {
        "token_kind": "cost",
        "model": "gpt-4o",
        "quantity": cost,
        "unit_price": factor,
        "exact": cost * factor,
    }
    told = shown(invoice(line(**fields, steps=[step])))
    assert "1. API calls: gpt-4o 5.00" in told
    for secret in ("3.84", "1.3", "30 %", "provider", "Provider"):
        assert secret not in told, secret
    covered = shown(
        invoice(line(**{**fields, "kind": LineKind.COVERED, "amount": Decimal(0), "exact": Decimal(0)}))
    )
    assert "1. API calls: gpt-4o, paid with credits 0.00" in covered
    assert "3.84" not in covered


def test_lines_have_the_numbers_that_explain_counts_by() -> None:
    """In the order of the invoice, however the page groups them."""
    base = line(kind=LineKind.BASE, words="Pro: base price", feature="")
    told = shown(invoice(line(), line(feature="seats"), base))
    assert "3. Pro: base price" in told
    assert told.index("3. Pro") < told.index("1. API calls") < told.index("2. seats")


@pytest.mark.parametrize(
    ("fields", "issued"),
    [
        ({"status": InvoiceStatus.DUE}, "1 December"),
        ({"status": InvoiceStatus.PENDING}, "1 November"),
        ({"kind": InvoiceKind.IN_ADVANCE}, "1 November"),
    ],
)
def test_what_is_billed_in_arrears_is_issued_when_its_period_has_ended(
    fields: dict[str, Any], issued: str
) -> None:
    """It came to be when the period began, but nobody was sent it then."""
    assert f"Issued {issued} 2026" in shown(invoice(line(), **fields))


@pytest.mark.parametrize("moved", [0, 10 * DAY_US])
async def test_a_page_names_the_plan_of_its_own_period(tmp_path: Path, moved: int) -> None:
    """An upgrade later, or at the very instant of the beginning, does not change what was billed before it."""
    catalog = CATALOG + '[[plans]]\nkey = "team"\nname = "Team"\nprice_amount = 90\n'
    async with running(tmp_path, catalog=catalog, clock=FixedClock(START)) as daemon:
        number = await daemon.subscribe("acme")
        await daemon.http.post(f"{CLIENT}/billing/invoices/INV-000001-0001/mark-paid")
        daemon.clock.move(moved)
        change = {"changeToPlanId": "team", "changeType": "UPGRADE"}
        changed = await daemon.http.post(f"{CLIENT}/subscriptions/{number}/plan-change", json=change)
        assert changed.status_code == 200, changed.text
        assert "Plan Pro" in text_of(await page(daemon, "INV-000001-0001"))
        assert "Plan Team" in text_of(await page(daemon, "INV-000001-0002"))


@pytest.mark.parametrize(
    ("after", "until", "words"),
    [
        (0, 5, "ledger positions 1-4"),
        (5, 7, "ledger positions 5-6"),
        (5, 6, "ledger position 5"),
        (0, 0, ""),
    ],
)
def test_a_line_names_the_ledger_rows_it_bills(after: int, until: int, words: str) -> None:
    """From where the one before left off to the row before its own invoice."""
    told = shown(invoice(line(after=after, until=until)))
    assert words in told if words else "ledger" not in told


@pytest.mark.parametrize(
    ("url", "linked"),
    [("https://pay.test/x", True), ("javascript:alert(1)", False), ("https://", False), ("//pay.test", False)],
)
def test_only_an_address_of_the_web_is_linked_to(url: str, linked: bool) -> None:
    """A page to pay on is offered while there is something to pay."""
    assert ("Pay online" in shown(invoice(line()), pay_url=url)) is linked
    assert "Pay online" not in shown(invoice(line(), status=InvoiceStatus.PAID, settled_at=END), pay_url=url)


@pytest.mark.parametrize(
    ("amount", "currency", "words"),
    [
        ("1234.5", "USD", "$1,234.50"),
        ("-0.0001", "EUR", "-€0.0001"),
        ("1234", "JPY", "¥1,234"),
        ("1.5", "KWD", "1.500"),
    ],
)
def test_money_has_the_digits_of_its_currency_and_more_when_it_has_more(
    amount: str, currency: str, words: str
) -> None:
    """Exact, with thousands apart; a minus that is one (P9)."""
    assert plainly(money(Decimal(amount), currency, symbol=True)) == words
    assert number_words(Decimal(1000000)) == "1,000,000"


@pytest.mark.parametrize(
    ("start", "end", "zone", "words"),
    [
        ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "UTC", "1 - 30 November 2026"),
        ("2026-11-15T00:00:00Z", "2026-12-15T00:00:00Z", "UTC", "15 November - 14 December 2026"),
        ("2026-12-15T00:00:00Z", "2027-01-15T00:00:00Z", "UTC", "15 December 2026 - 14 January 2027"),
        ("2026-11-01T00:00:00Z", "2026-11-01T00:00:00Z", "UTC", "1 November 2026"),
        ("2026-11-01T04:00:00Z", "2026-12-01T05:00:00Z", "America/New_York", "1 - 30 November 2026"),
    ],
)
def test_a_period_is_written_by_its_first_and_last_day(start: str, end: str, zone: str, words: str) -> None:
    """Where the subscriber lives; half-open periods end the day before."""
    assert plainly(period_words(parse_iso(start), parse_iso(end), zone)) == words


@pytest.mark.parametrize(
    ("address", "lines"),
    [
        ({"city": "Bonn", "line1": "1 Way", "country": "DE"}, ["1 Way", "Bonn", "DE"]),
        ({"line1": "1 Way", "line2": "", "postalCode": 53111, "planet": "Earth"}, ["1 Way", "53111", "Earth"]),
        ({"geo": {"lat": 1}, "verified": True}, []),
        ({}, []),
    ],
)
def test_an_address_is_written_in_the_order_of_addresses(address: dict[str, Any], lines: list[str]) -> None:
    """Whatever its fields are called; what is no text is left out."""
    assert address_lines(address) == lines
