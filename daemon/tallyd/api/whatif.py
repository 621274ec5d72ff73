"""What-if: what a time that has been would have come to under another plan, from the API and the shell alike."""

import re
from collections.abc import Iterable
from datetime import date
from difflib import get_close_matches
from typing import Any, Final

import msgspec
import trio

from tallyd.api.whatif_views import Total, compared_view, heading_view, left_out_view
from tallyd.api.wire import Decoder
from tallyd.core import Core
from tallyd.engine.billing.stretches import Span
from tallyd.engine.billing.whatif import LeftOut
from tallyd.engine.catalog import CatalogError, Models, check_catalog, price_plan, read_catalog
from tallyd.engine.events import check_identifier
from tallyd.engine.rating import PricedPlan
from tallyd.model.moments import DAY_US, EARLIEST_US, LATEST_US, parse_iso
from tallyd.model.problems import Code, Problem, ProblemError, invalid, overloaded, unavailable
from tallyd.store import sqlite
from tallyd.store.whatif import Plans, Progress, Question, WhatIf

RANGE_DAYS_MAX: Final = 3_660
PAGE_MAX: Final = 500
OFFSET_MAX: Final = 1_000_000_000
TIME_MAX_S: Final = 60
"""How long an answer may take; what takes longer is asked in smaller pages, or of the books from the shell."""
PLANS_NAMED_MAX: Final = 50
_MONTH: Final = re.compile(r"(2[01]\d\d)-(0[1-9]|1[0-2])")
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d")
_DECEMBER: Final = 12


class WhatIfInput(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Body of POST /what-if, and params of the socket's `whatif`.

    Attributes:
        plan_key: the target: a plan's key for its newest version, or `pro@1`; with `catalog`, a plan in that.
        month: the range, such as `2026-03`, where each subscriber lives; or:
        start: a date, where each subscriber lives, or an instant; included.
        end: the same; not included.
        customer_reference_ids: who; absent: everybody who was subscribed in the range or has events of it.
        on_plan_key: only subscriptions that were on this plan.
        catalog: text of a catalog file that is not in force; it is checked and not kept.
        limit: most customers a page.
        offset: how many come before it.
    """

    plan_key: str
    month: str | None = None
    start: str | None = None
    end: str | None = None
    customer_reference_ids: list[str] = []
    on_plan_key: str | None = None
    catalog: str | None = None
    limit: int = 50
    offset: int = 0


_decode: Final = Decoder(WhatIfInput)


# What is asked


def read_span(month: str | None, start: str | None, end: str | None) -> Span:
    """Read the range: a month, or a start and an end.

    Raises:
        ProblemError: neither or both, not a time, or too long.
    """
    if month is not None:
        if start is not None or end is not None:
            raise invalid("month", "cannot stand beside start and end; choose one")
        return _month(month)
    if start is None or end is None:
        missing = "month" if start is None and end is None else "end" if end is None else "start"
        raise invalid(missing, "is required: a month such as 2026-03, or start and end")
    span = Span(_bound("start", start), _bound("end", end))
    begins, ends = span.within("UTC")
    if ends <= begins:
        raise invalid("end", "must be after start")
    if ends - begins > RANGE_DAYS_MAX * DAY_US:
        raise invalid("end", f"must be at most {RANGE_DAYS_MAX} days after start")
    return span


def _month(text: str) -> Span:
    found = _MONTH.fullmatch(text)
    if found is None:
        raise invalid("month", f"must be a year and a month such as 2026-03, not {text!r}")
    year, month = int(found[1]), int(found[2])
    following = date(year + 1, 1, 1) if month == _DECEMBER else date(year, month + 1, 1)
    return Span(date(year, month, 1), following)


def _bound(field: str, text: str) -> date | int:
    try:
        day = date.fromisoformat(text) if _DATE.fullmatch(text) else None
        moment = parse_iso(f"{text}T00:00:00Z" if day else text)
    except ValueError:
        advice = "must be a date such as 2026-03-01, or an ISO 8601 time with a zone"
        raise invalid(field, f"{advice}, not {text!r}") from None
    if not EARLIEST_US <= moment <= LATEST_US:
        raise invalid(field, "must lie in the years 2000 to 2199")
    return moment if day is None else day


def find_target(asked: str, plans: Plans, field: str = "planKey") -> PricedPlan:
    """Return the newest version of a plan, whatever its status, or a price version such as `pro@1`.

    Raises:
        ProblemError: there is none; the message lists what there is.
    """
    newest: dict[str, int] = {}
    for key, version in plans:
        newest[key] = max(version, newest.get(key, 0))
    if asked in newest:
        return plans[asked, newest[asked]]
    key, _, version_text = asked.rpartition("@")
    if key in newest:
        number = int(version_text) if version_text.isdecimal() and len(version_text) < len(str(2**31)) else 0
        if (key, number) in plans:
            return plans[key, number]
        raise invalid(field, f"plan {key!r} has no version {version_text!r}; the newest is {key}@{newest[key]}")
    raise no_plan(field, asked, newest)


def check_plan(key: str, plans: Plans, field: str = "onPlanKey") -> None:
    """Refuse a plan that there is none of.

    Raises:
        ProblemError: there is none; the message lists what there is.
    """
    known = {each for each, _ in plans}
    if key not in known:
        raise no_plan(field, key, known)


def no_plan(field: str, asked: str, known: Iterable[str], where: str = "there is") -> ProblemError:
    """Return the problem that there is no such plan, with those there are."""
    names = sorted(known)
    if not names:
        return invalid(field, f"{where} no plan {asked!r}, nor any other")
    meant = get_close_matches(asked, names, n=1)
    text = f"{where} no plan {asked!r}" + (f"; did you mean {meant[0]!r}? There are" if meant else "; there are")
    more = f" and {len(names) - PLANS_NAMED_MAX} more" if len(names) > PLANS_NAMED_MAX else ""
    return invalid(field, f"{text} {', '.join(names[:PLANS_NAMED_MAX])}{more}")


def target_of(text: str, source: str, key: str, models: Models, field: str = "planKey") -> PricedPlan:
    """Return a plan of a catalog that is not in force: read and checked as a whole, and not kept.

    Raises:
        CatalogError: all that is wrong with the catalog.
        ProblemError: it has no such plan.
    """
    definitions = read_catalog(text, source)
    check_catalog(definitions, models, source)
    found = {plan.key: plan for plan in definitions.plans}
    if key not in found:
        raise no_plan(field, key, found, f"{source} has")
    priced = price_plan(found[key], 0, {meter.key: meter for meter in definitions.meters}, models)
    return msgspec.structs.replace(priced, price_version=f"{key}@{source}")


# The answer


class WhatIfs:
    """Answers what-ifs beside the daemon's work: on a thread with a connection of its own, one at a time."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._limiter = trio.CapacityLimiter(1)

    async def answer(self, body: bytes | msgspec.Raw) -> dict[str, Any]:
        """Return a page of customers, compared, with their total.

        Raises:
            ProblemError: a bad field, an unknown plan or customer, another what-if runs, or it takes too long.
        """
        request: WhatIfInput = _decode(body)
        span = self._checked(request)
        target = find_target(request.plan_key, self._core.catalogue.plans) if request.catalog is None else None
        if not self._limiter.available_tokens:
            raise overloaded("another what-if is being answered; retry when it is done")
        stop = _Stop()
        try:
            with trio.move_on_after(TIME_MAX_S):
                return await trio.to_thread.run_sync(
                    self._work, request, target, span, stop, abandon_on_cancel=True, limiter=self._limiter
                )
        finally:
            stop.asked = True
        text = f"it took longer than {TIME_MAX_S} s; ask for fewer customers at a time, or run `tallyd what-if`"
        raise unavailable(text)

    def _checked(self, request: WhatIfInput) -> Span:
        if not 1 <= request.limit <= PAGE_MAX:
            raise invalid("limit", f"must be 1 to {PAGE_MAX}")
        if not 0 <= request.offset <= OFFSET_MAX:
            raise invalid("offset", f"must be 0 to {OFFSET_MAX}")
        if len(request.customer_reference_ids) > PAGE_MAX:
            raise invalid("customerReferenceIds", f"must be at most {PAGE_MAX}")
        for each in request.customer_reference_ids:
            check_identifier("customerReferenceIds", each)
        if request.on_plan_key is not None:
            check_plan(request.on_plan_key, self._core.catalogue.plans)
        return read_span(request.month, request.start, request.end)

    def _work(self, request: WhatIfInput, target: PricedPlan | None, span: Span, stop: "_Stop") -> dict[str, Any]:
        core = self._core
        question = Question(
            target=target or self._draft(request),
            span=span,
            zone=core.config.account.timezone,
            on=request.on_plan_key,
            customers=tuple(request.customer_reference_ids),
            offset=request.offset,
            limit=request.limit,
        )
        connection = sqlite.open_reader(core.config.data_dir / sqlite.FILE_NAME)
        try:
            what_if = WhatIf(
                connection,
                question,
                plans=core.catalogue.plans,  # looked up by key only: new versions come while we look
                now_of=core.clock.of,
                progress=stop.check,
            )
            return _page(what_if, question)
        finally:
            connection.close()

    def _draft(self, request: WhatIfInput) -> PricedPlan:
        """Return the target of a catalog that came with the question."""
        try:
            return target_of(request.catalog or "", "catalog", request.plan_key, self._core.registry.models)
        except CatalogError as error:
            sentences = "; ".join(f"{issue.where}: {issue.message}" for issue in error.issues)
            raise invalid("catalog", sentences) from None


class _Stop:
    """Tells a thread that nobody waits for it any more."""

    def __init__(self) -> None:
        self.asked = False

    def check(self, _progress: Progress) -> None:
        """End the work, if nobody waits for it."""
        if self.asked:
            raise ProblemError(Problem(code=Code.UNAVAILABLE, message="nobody waits for the answer"))


def _page(what_if: WhatIf, question: Question) -> dict[str, Any]:
    items, left_out, total = [], [], Total()
    for each in what_if.run():
        if isinstance(each, LeftOut):
            left_out.append(left_out_view(each))
        else:
            total.add(each)
            items.append(compared_view(each))
    limit, offset = question.limit or 0, question.offset
    return {
        **heading_view(question.target, question.span, question.on),
        "items": items,
        "leftOut": left_out,
        "total": total.view(question.target.currency),
        "pagination": {
            "total": what_if.customers_all,
            "limit": limit,
            "offset": offset,
            "hasMore": offset + limit < what_if.customers_all,
        },
    }
