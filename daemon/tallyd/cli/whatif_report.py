"""What a what-if has found, for people and for programs; what is held does not grow with the customers."""

import heapq
import shutil
import sys
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from itertools import count
from typing import IO, Any, Final, Protocol

from rich.console import Console

from tallyd.api.whatif_views import LOUD, Note, Total, compared_view, heading_view, left_out_view
from tallyd.api.wire import encode
from tallyd.cli.asking import WIDTH_PIPED, table, text
from tallyd.engine.billing.stretches import Span
from tallyd.engine.billing.whatif import Compared, LeftOut
from tallyd.model.moments import iso
from tallyd.model.money import round_to_currency
from tallyd.store.whatif import Question

View = dict[str, Any]

LEFT_OUT_SHOWN: Final = 10
LEFT_OUT_BYTES: Final = 1_048_576
"""Of those left out, as JSON, that are held in memory before they go into a file of their own."""

_LOUD_WORDS: Final = {
    Note.UNPRICED: "usage without a price under the plan",
    Note.MISSING: "usage of features that the plan does not have",
    Note.NOT_COUNTED: "usage that the plan's meters do not count",
    Note.PAST_LIMIT: "usage past a limit of the plan",
}
_ASIDES: Final = {
    Note.UNPRICED_NOW: "usage that has no price as it is: see `tallyd rerate`",
    Note.UNSUBSCRIBED: "events on no subscription, charged on neither side",
    Note.SEVERAL: "several subscriptions, each taken to be on the plan; choose with --on",
    Note.INTERVAL: "billed in other intervals than the plan's: a part of its base price",
    Note.CREDITS: "credits, which are left out",
    Note.TRIAL: "a trial, free on both sides",
    Note.RUNNING: "a period that still runs: usage so far, the whole base price",
}


class Report(Protocol):
    """Takes what is found, one after the other, and prints it."""

    total: Total

    def take(self, found: Iterator[Compared | LeftOut]) -> None:
        """Take it all."""

    def finish(self) -> None:
        """Print what is left to print."""


class JsonReport:
    """One JSON object, as the API's without pages; customers are written as they come."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self.total = Total()
        self._out = sys.stdout.buffer

    def take(self, found: Iterator[Compared | LeftOut]) -> None:
        """See `Report`."""
        question = self._question
        heading = encode(heading_view(question.target, question.span, question.on))
        with tempfile.SpooledTemporaryFile(max_size=LEFT_OUT_BYTES) as left_out:
            self._out.write(heading[:-1] + b',"items":[')
            items, others = _Listed(self._out), _Listed(left_out)
            for each in found:
                if isinstance(each, LeftOut):
                    others.write(left_out_view(each))
                else:
                    self.total.add(each)
                    items.write(compared_view(each))
            self._out.write(b'],"leftOut":[')
            left_out.seek(0)
            shutil.copyfileobj(left_out, self._out)

    def finish(self) -> None:
        """See `Report`."""
        total = encode(self.total.view(self._question.target.currency))
        self._out.write(b'],"total":' + total + b"}\n")
        self._out.flush()


class _Listed:
    """Writes the elements of a JSON array."""

    def __init__(self, file: IO[bytes] | Any) -> None:
        self._file = file
        self._between = b""

    def write(self, view: View) -> None:
        """Write one more."""
        self._file.write(self._between + encode(view))
        self._between = b","


class TableReport:
    """A table: the largest differences first, the total, and what has to be known beside it.

    Args:
        question: what was asked.
        month: the range as it was asked for, where it was a month.
        rows: most customers shown; 0: all.
    """

    def __init__(self, question: Question, month: str | None, rows: int) -> None:
        self._question = question
        self._month = month
        self._rows = rows
        self.total = Total()
        self._largest: list[tuple[Decimal, int, View]] = []
        self._left_out: list[View] = []
        self._left_out_all = 0

    def take(self, found: Iterator[Compared | LeftOut]) -> None:
        """See `Report`."""
        number = count(0, -1)  # of two that are as large, the first comes first
        for each in found:
            if isinstance(each, LeftOut):
                self._left_out_all += 1
                if len(self._left_out) < LEFT_OUT_SHOWN:
                    self._left_out.append(left_out_view(each))
                continue
            self.total.add(each)
            view = compared_view(each)
            row = (abs(view["difference"]["exact"]), next(number), view)
            if not self._rows or len(self._largest) < self._rows:
                heapq.heappush(self._largest, row)
            else:
                heapq.heappushpop(self._largest, row)

    def finish(self) -> None:
        """See `Report`."""
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = WIDTH_PIPED
        console.print(text(self._title(), "bold"))
        views = [view for _, _, view in sorted(self._largest, reverse=True)]
        if not views:
            console.print("  nobody to compare: no billing period begins in the range, and no event is in it")
        elif self.total.customers == 1:
            self._show_one(console, views[0])
        else:
            self._show_all(console, views)
        self._show_notes(console)

    def _title(self) -> str:
        target, span = self._question.target, self._question.span
        on = f" for those on {self._question.on}" if self._question.on else ""
        what = self._month or f"{_bound(span, 'start')} to {_bound(span, 'end')}"
        return f"{what} under {target.name} ({target.price_version}){on}, in {target.currency}, before credits"

    def _show_all(self, console: Console, views: list[View]) -> None:
        rows = table("customer", ">was", ">would be", ">difference", "~notes")
        for view in views:
            loud = "; ".join(note["message"] for note in view["notes"] if note["code"] in LOUD)
            rows.add_row(text(view["customerReferenceId"]), *self._amounts(view), text(loud, "yellow"))
        total = self.total.view(self._question.target.currency)
        rows.add_section()
        rows.add_row(_customers(self.total.customers), *self._amounts(total), "", style="bold")
        console.print(rows)
        if len(views) < self.total.customers:
            console.print(f"  the {len(views):,} largest differences; --rows 0 shows all, the total is of all")

    def _show_notes(self, console: Console) -> None:
        told = self.total.view("")["notes"]
        if self.total.customers > 1:
            for note, words in _ASIDES.items():
                if note in told:
                    console.print(f"  {told[note]:,} of them: {words}")
        for view in self._left_out:
            console.print(text(f"  left out: {view['customerReferenceId']} {view['message']}"))
        if self._left_out_all > len(self._left_out):
            console.print(f"  left out: {self._left_out_all - len(self._left_out):,} more; --json lists all")
        if self.total.loud:
            console.print(text("Not the whole price: the amounts under the plan leave out", "bold yellow"))
            for note, words in _LOUD_WORDS.items():
                if note in told:
                    of = f", of {_customers(told[note])}" if self.total.customers > 1 else ""
                    console.print(text(f"  {words}{of}", "yellow"))

    def _show_one(self, console: Console, view: View) -> None:
        """Show one customer by base price and feature."""
        periods = [
            f"{each['start'][:10]} to {each['end'][:10]}"
            + (f" on {', '.join(each['priceVersions'])}" if each["priceVersions"] else ", on no subscription")
            for each in view["subscriptions"]
        ]
        console.print(text(f"  {view['customerReferenceId']}: {'; '.join(periods)}; {view['events']:,} events"))
        rows = table("", ">used", ">was", ">would use", ">would be", ">difference")
        was, would_be = view["was"]["base"], view["wouldBe"]["base"]
        base = {"was": was, "wouldBe": would_be, "difference": {"amount": would_be["amount"] - was["amount"]}}
        before, after, difference = self._amounts(base)
        rows.add_row("base price", "", before, "", after, difference)
        for each in view["features"]:
            before, after, difference = self._amounts(each)
            used = (f"{each[side]['usageUnits']:,f}" for side in ("was", "wouldBe"))
            rows.add_row(text(each["featureKey"]), next(used), before, next(used), after, difference)
        rows.add_section()
        before, after, difference = self._amounts(view)
        rows.add_row("total", "", before, "", after, difference, style="bold")
        console.print(rows)
        for note in view["notes"]:
            console.print(text(f"  {note['message']}", "yellow" if note["code"] in LOUD else ""))

    def _amounts(self, view: View) -> tuple[str, str, str]:
        currency = self._question.target.currency
        values = (round_to_currency(view[name]["amount"], currency) for name in ("was", "wouldBe", "difference"))
        was, would_be, difference = values
        return f"{was:,f}", f"{would_be:,f}", f"{difference:+,f}" if difference else f"{difference:,f}"


def _customers(number: int) -> str:
    return f"{number:,} customer{'' if number == 1 else 's'}"


def _bound(span: Span, name: str) -> str:
    value = getattr(span, name)
    return iso(value) if isinstance(value, int) else str(value.isoformat())
