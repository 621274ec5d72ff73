"""The filter of keys that are certainly new."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from support import ingest, open_test_core, request
from tallyd.actors.key_filter import KeyFilter
from tallyd.actors.messages import Accepted, Duplicate

PAIRS = st.tuples(st.sampled_from(["", "sub-1"]), st.text(max_size=12))


@given(st.lists(PAIRS, max_size=200), PAIRS)
def test_a_key_that_was_added_is_never_called_new(pairs: list[tuple[str, str]], other: tuple[str, str]) -> None:
    """However full the filter, an added key is looked up: a wrong "new" would count an event twice (P2)."""
    keys = KeyFilter(bits=256)
    keys.filled = True
    assert keys.certainly_new(other)
    for pair in pairs:
        keys.add(pair)
    assert not any(keys.certainly_new(pair) for pair in pairs)


def test_nothing_is_certain_before_the_filter_is_filled() -> None:
    """Until every key of the books is in it, the filter sends every key to be looked up."""
    keys = KeyFilter(bits=256)
    assert not keys.certainly_new(("", "k"))
    keys.filled = True
    assert keys.certainly_new(("", "k"))


async def test_keys_of_an_earlier_run_are_known_to_the_filter(tmp_path: Path) -> None:
    """After a restart a key from before is found, as is one that tallyd made itself (P2)."""
    async with open_test_core(tmp_path) as core:
        sent, made = await ingest(core, request("acme", "k"), request("acme"))
        assert isinstance(sent, Accepted)
        assert isinstance(made, Accepted)
        (again,) = await ingest(core, request("acme", made.row.key))
        assert isinstance(again, Duplicate)
    async with open_test_core(tmp_path) as core:
        await core.intake._index.fill_filter()
        assert core.intake._index._filter.filled
        outcomes = await ingest(core, request("acme", "k"), request("acme", made.row.key), request("acme", "new"))
        assert [type(each) for each in outcomes] == [Duplicate, Duplicate, Accepted]
