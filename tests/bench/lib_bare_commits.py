"""Bare one-row commits through aiosqlite under trio_asyncio, in a process of their own."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, Self

import msgspec
from lib_client import Lines
from lib_process import Process, bare

Way = Literal["straight", "one hop"]


class Commits:
    """Asks lib_bare.py's `commits` program to commit."""

    def __init__(self, path: Path) -> None:
        self._program: AbstractContextManager[Process] = bare("commits", path)
        self._path = str(path)

    def __enter__(self) -> Self:
        self.process = self._program.__enter__()
        self._client = Lines(self._path)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._program.__exit__(None, None, None)

    def run(self, way: Way, count: int) -> list[int]:
        """Commit one row after the other; return each one's nanoseconds."""
        taken: list[int] = msgspec.json.decode(self._client.ask(msgspec.json.encode([way, count])))
        return taken
