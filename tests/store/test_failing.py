"""A commit that fails is an unknown outcome: nothing is acknowledged, and the process ends (P1)."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import trio

from support import NOW, ingest, open_test_core, request, rows, settings
from tallyd import core as core_module
from tallyd.actors.messages import Accepted, Outcome
from tallyd.clock import FixedClock
from tallyd.core import Core, open_core
from tallyd.model.problems import Code, Problem, ProblemError
from tallyd.pricing.registry import Registry
from tallyd.store.writer import CommitFailed


class FailingBooks:
    """Real books whose next commit fails, before anything was written or after everything was."""

    def __init__(self, books: Any, *, written: bool) -> None:
        self._books = books
        self._written = written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._books, name)

    async def commit(self, changes: Any) -> None:
        """Fail as a full or broken disk does."""
        if self._written:
            await self._books.commit(changes)
        await trio.lowlevel.checkpoint()
        raise sqlite3.OperationalError("disk I/O error")


async def break_the_disk(core: Core, *, written: bool) -> None:
    """From now on commits fail."""
    core.writer._books = FailingBooks(core.books, written=written)


@pytest.mark.parametrize("written", [False, True])
async def test_a_failed_commit_acknowledges_nothing_and_ends_the_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, written: bool
) -> None:
    """All who wait are told `unavailable`, later ones too; the core ends with CommitFailed; a retry settles it."""
    monkeypatch.setattr(core_module, "LAST_WORDS_S", 0.05)
    outcomes: list[Outcome] = []

    async def send(core: Core, key: str) -> None:
        outcomes.extend(await ingest(core, request("acme", key)))

    with pytest.RaisesGroup(pytest.RaisesExc(CommitFailed), flatten_subgroups=True):
        config = settings(tmp_path)
        async with open_core(
            config, registry=Registry(inline=config.plugins.inline), clock=FixedClock(NOW)
        ) as core:
            await break_the_disk(core, written=written)
            async with trio.open_nursery() as nursery:
                for number in range(5):
                    nursery.start_soon(send, core, f"k{number}")
            await send(core, "late")
            with pytest.raises(ProblemError) as refused:
                core.writer.refuse_when_full()
            assert refused.value.problem.code is Code.UNAVAILABLE
            await trio.sleep_forever()
    assert len(outcomes) == 6
    assert all(isinstance(each, Problem) and each.code is Code.UNAVAILABLE for each in outcomes)
    async with open_test_core(tmp_path) as core:
        again = await ingest(core, *(request("acme", f"k{number}") for number in range(5)))
        fresh = [each for each in again if isinstance(each, Accepted)]
        held = await rows(core, "SELECT count(*), count(DISTINCT key), max(position) FROM events")
        assert held == [(5, 5, 5)]
        assert len(fresh) == (0 if written else 5) or written
