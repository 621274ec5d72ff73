"""The hash chain of a customer's ledger (P10): no field can change without the link."""

from typing import Any

import msgspec
import pytest

from support import Ledger, account_on, event, plan_of
from tallyd.engine import chain
from tallyd.engine.rows import EventRow

FIELDS = [name for name in EventRow.__struct_fields__ if name != "chain"]


def rows() -> list[EventRow]:
    """A ledger of three events."""
    ledger = Ledger(account_on(plan_of('{ model = "included" }')))
    for key in ("a", "b", "c"):
        ledger.record(event(key=key, feature_key="api", usage_units=2, cost_amount=1, model="m"))
    return ledger.rows


def relinked(row: EventRow, previous: bytes) -> bytes:
    """The link as anybody with the row can compute it."""
    return chain.link(previous, tuple(getattr(row, name) for name in FIELDS))


def other(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, int):
        return value + 1
    return "x" if value is None else f"{value}x"


def test_the_chain_can_be_recomputed_from_the_rows() -> None:
    """Starting at 32 zero bytes, each row's link follows from the row and the link before."""
    previous = chain.GENESIS
    for row in rows():
        assert row.chain == relinked(row, previous)
        previous = row.chain


@pytest.mark.parametrize("field", FIELDS)
def test_changing_any_field_changes_the_link(field: str) -> None:
    """There is no column that could be edited unnoticed."""
    row = rows()[0]
    changed = msgspec.structs.replace(row, **{field: other(getattr(row, field))})
    assert relinked(changed, chain.GENESIS) != row.chain


@pytest.mark.parametrize("field", [name for name in FIELDS if getattr(rows()[0], name) is None])
def test_an_absent_field_is_not_an_empty_one(field: str) -> None:
    """None and the empty text make different links."""
    row = rows()[0]
    assert relinked(msgspec.structs.replace(row, **{field: ""}), chain.GENESIS) != row.chain


def test_fields_cannot_run_into_each_other() -> None:
    """Moving a character over a field's border changes the link."""
    assert chain.link(chain.GENESIS, ("ab", "c")) != chain.link(chain.GENESIS, ("a", "bc"))
    assert chain.link(chain.GENESIS, ("a", None)) != chain.link(chain.GENESIS, ("a", ""))


def test_a_row_left_out_or_moved_breaks_every_later_link() -> None:
    """A row's link depends on all rows before it."""
    first, second, third = rows()
    assert relinked(third, first.chain) != third.chain
    assert relinked(second, third.chain) != second.chain
