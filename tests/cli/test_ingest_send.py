"""Sending batches: pipelined, and tried again when the daemon is busy."""

from collections import deque
from typing import Any

import click
import pytest

from tallyd.cli import ingest_send
from tallyd.cli.client import Answer, Daemon, DaemonError, Failure
from tallyd.cli.ingest_send import BATCHES_ON_THE_WAY, RETRIES_MAX, Sender

BUSY = {"status": "refused", "error": {"code": "rate_limited", "message": "busy"}}
CREATED = {"status": "created"}


class ScriptedDaemon(Daemon):
    """Answers as a script says; the last entry of the script goes on for ever."""

    def __init__(self, script: list[Any]) -> None:
        self.script = script
        self.batches: list[int] = []
        self.waiting_most = 0
        self._waiting: deque[tuple[int, int]] = deque()

    def send(self, method: str, params: Any = None) -> int:
        """Note the size of a batch."""
        assert method == "ingest"
        self.batches.append(len(params["events"]))
        self._waiting.append((len(self.batches), self.batches[-1]))
        self.waiting_most = max(self.waiting_most, len(self._waiting))
        return len(self.batches)

    def receive(self) -> Answer:
        """Answer the oldest."""
        number, size = self._waiting.popleft()
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(step, Failure):
            return Answer(number, error=step)
        return Answer(number, {"results": step(size)})


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Collect waits instead of waiting."""
    waited: list[float] = []
    monkeypatch.setattr(ingest_send.time, "sleep", waited.append)
    return waited


def send(daemon: ScriptedDaemon, count: int) -> list[tuple[int, str]]:
    """Send events; return what was told of each line."""
    told: list[tuple[int, str]] = []
    sender = Sender(daemon, lambda line, result: told.append((line, result["status"])))
    for line in range(count):
        sender.add(line, b"{}")
    sender.finish()
    return told


def test_batches_are_of_1000_and_a_few_are_on_their_way() -> None:
    """Events go in batches of 1,000, several at a time, and each is told once, in order."""
    daemon = ScriptedDaemon([lambda size: [CREATED] * size])
    told = send(daemon, 5_500)
    assert daemon.batches == [1_000] * 5 + [500]
    assert daemon.waiting_most == BATCHES_ON_THE_WAY
    assert [line for line, _ in told] == list(range(5_500))


def test_busy_events_are_sent_again_alone(waits: list[float]) -> None:
    """Events that met a full queue are sent again after a pause; the others are not."""
    daemon = ScriptedDaemon([lambda _: [CREATED, BUSY, BUSY], lambda size: [CREATED] * size])
    assert send(daemon, 3) == [(0, "created"), (1, "created"), (2, "created")]
    assert daemon.batches == [3, 2]
    assert len(waits) == 1


def test_a_busy_batch_is_sent_again_whole(waits: list[float]) -> None:
    """A batch that is refused as a whole is sent again as it was."""
    busy = Failure(-32000, "busy", {"code": "rate_limited"})
    daemon = ScriptedDaemon([busy, busy, lambda size: [CREATED] * size])
    assert len(send(daemon, 3)) == 3
    assert daemon.batches == [3, 3, 3]
    assert waits == sorted(waits)


def test_patience_ends(waits: list[float]) -> None:
    """A daemon that stays busy ends the command, with the advice to run it again."""
    daemon = ScriptedDaemon([lambda size: [BUSY] * size])
    with pytest.raises(click.ClickException, match="nothing is counted twice"):
        send(daemon, 3)
    assert len(waits) == RETRIES_MAX


def test_another_refusal_of_a_batch_ends_the_command() -> None:
    """What no retry can cure is raised at once."""
    daemon = ScriptedDaemon([Failure(-32000, "not you", {"code": "forbidden"})])
    with pytest.raises(DaemonError, match="not you"):
        send(daemon, 3)
