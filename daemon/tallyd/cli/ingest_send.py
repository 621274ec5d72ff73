"""Sending events in batches over the socket: a few on their way at a time, busy answers tried again."""

import time
from collections.abc import Callable
from typing import Any, Final

import click
import msgspec

from tallyd.cli.client import Answer, Daemon, DaemonError
from tallyd.model.problems import Code

BATCH_EVENTS_MAX: Final = 1_000
BATCH_BYTES_MAX: Final = 2_000_000
BATCHES_ON_THE_WAY: Final = 3
RETRIES_MAX: Final = 12
RETRY_S: Final = 0.05
RETRY_MAX_S: Final = 2.0

Tell = Callable[[int, dict[str, Any]], None]
"""Is told a line's number and the daemon's result for it."""

_Batch = list[tuple[int, bytes]]


class Sender:
    """Sends events in the order they are added, and tells what became of each.

    Args:
        daemon: the connection; nothing else may use it meanwhile.
        tell: called once for every event.
    """

    def __init__(self, daemon: Daemon, tell: Tell) -> None:
        self._daemon = daemon
        self._tell = tell
        self._batch: _Batch = []
        self._bytes = 0
        self._on_the_way: dict[int, _Batch] = {}
        self._refusals = 0

    def add(self, line: int, body: bytes) -> None:
        """Take an event, as JSON, on its way with the next batch.

        Raises:
            DaemonError: the daemon refused a whole batch.
            NoDaemonError: the daemon went away.
            ClickException: the daemon stayed too busy.
        """
        if len(self._batch) >= BATCH_EVENTS_MAX or self._bytes + len(body) > BATCH_BYTES_MAX:
            self._flush()
        self._batch.append((line, body))
        self._bytes += len(body)

    def finish(self) -> None:
        """Send what is left and wait for every answer; raises as `add` does."""
        if self._batch:
            self._flush()
        while self._on_the_way:
            self._settle(self._daemon.receive())

    def _flush(self) -> None:
        while len(self._on_the_way) >= BATCHES_ON_THE_WAY:
            self._settle(self._daemon.receive())
        self._send(self._batch)
        self._batch, self._bytes = [], 0

    def _send(self, batch: _Batch) -> None:
        events = [msgspec.Raw(body) for _, body in batch]
        self._on_the_way[self._daemon.send("ingest", {"events": events})] = batch

    def _settle(self, answer: Answer) -> None:
        batch = self._on_the_way.pop(answer.id or 0)
        if answer.error is not None:
            error = DaemonError(answer.error)
            if error.code != Code.RATE_LIMITED:
                raise error
            self._try_again(batch)
            return
        busy: _Batch = []
        for event, result in zip(batch, answer.result["results"], strict=True):
            if result.get("error", {}).get("code") == Code.RATE_LIMITED:
                busy.append(event)
            else:
                self._tell(event[0], result)
        if busy:
            self._try_again(busy)
        else:
            self._refusals = 0

    def _try_again(self, batch: _Batch) -> None:
        self._refusals += 1
        if self._refusals > RETRIES_MAX:
            text = "the daemon stays too busy; run the command again later: nothing is counted twice"
            raise click.ClickException(text)
        time.sleep(min(RETRY_S * 2**self._refusals, RETRY_MAX_S))
        self._send(batch)
