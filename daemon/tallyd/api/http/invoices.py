"""Invoices over the native API: listed, shown, explained, printed, paid; events taken back (CONTRACTS 1.3, 1.8).

An invoice goes by its id, or by its number as people quote it, such as `INV-000012-0003`.
"""

from typing import Final

from quart import Response, request
from quart_trio import QuartTrio

from tallyd.api import billing_lines, billing_page, billing_requests, billing_voids, entitling
from tallyd.api.http import tanso
from tallyd.api.http.family import Family, body_bytes, whole_parameter
from tallyd.core import Core

PATH: Final = f"{tanso.CLIENT}/billing/invoices"


class Invoices:
    """Handlers of `/api/v1/client/billing/invoices`, and of `/events/{id}/void` and `/amend`."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def register(self, app: QuartTrio, family: Family) -> None:
        """Serve them. `page` and `lines` are no ids, so that the paths do not clash."""
        family.route(app, f"{PATH}/<reference>", "GET", "read", self.list)
        family.route(app, f"{PATH}/<reference>/<invoice>", "GET", "read", self.retrieve)
        family.route(app, f"{PATH}/<invoice>/page", "GET", "read", self.page)
        family.route(app, f"{PATH}/<invoice>/lines/<line>/explain", "GET", "read", self.explain)
        family.route(app, f"{PATH}/<invoice>/mark-paid", "POST", "admin", self.mark_paid)
        event = f"{tanso.CLIENT}/events/<event_id>"
        family.route(app, f"{event}/void", "POST", "admin", self.void_event)
        family.route(app, f"{event}/amend", "POST", "admin", self.amend_event)

    async def list(self, reference: str) -> Response:
        """List a customer's invoices, newest first, by `status` if asked."""
        limit, offset = asked_page()
        items, total = await billing_requests.invoice_page(
            self._core, entitling.by_reference(reference), request.args.get("status"), limit=limit, offset=offset
        )
        return tanso.success(tanso.page(items, total=total, limit=limit, offset=offset))

    async def retrieve(self, reference: str, invoice: str) -> Response:
        """Return one of a customer's invoices, with its lines."""
        ref = entitling.by_reference(reference)
        return tanso.success(await billing_requests.invoice(self._core, invoice, ref))

    async def page(self, invoice: str) -> Response:
        """Return an invoice as a page of HTML, to look at, send and print."""
        return invoice_page(await billing_page.page_of(self._core, invoice))

    async def explain(self, invoice: str, line: str) -> Response:
        """Explain a line, counted from 0 or named by its id: steps, price version, a page of its events."""
        limit, offset = asked_page()
        return tanso.success(await billing_lines.explain(self._core, invoice, line, limit=limit, offset=offset))

    async def mark_paid(self, invoice: str) -> Response:
        """Mark an invoice as paid: 200, also when it is already; 404 for one that is not there (CONTRACTS D4)."""
        return tanso.success(await billing_requests.mark_paid(self._core, invoice))

    async def void_event(self, event_id: str) -> Response:
        """Take an event back: 200, or 409 when it was taken back before."""
        sent = billing_voids.decode_void(await body_bytes())
        return tanso.success(await billing_voids.void(self._core, event_id, sent))

    async def amend_event(self, event_id: str) -> Response:
        """Take an event back and record another in its place: 200."""
        sent = billing_voids.decode_amend(await body_bytes())
        return tanso.success(await billing_voids.amend(self._core, event_id, sent))


def asked_page() -> tuple[int, int]:
    """Read `limit` and `offset` from the query.

    Raises:
        ProblemError: out of range.
    """
    limit = whole_parameter("limit", 50, least=1, most=tanso.PAGE_MAX)
    return limit, whole_parameter("offset", 0, most=tanso.OFFSET_MAX)


def invoice_page(html: str) -> Response:
    """Return a page that may do nothing but be looked at, and that nobody keeps a copy of."""
    response = Response(html.encode(), content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = billing_page.CONTENT_SECURITY_POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-store"
    return response
