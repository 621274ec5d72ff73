"""One process owns a data directory: a lock that dies with it, and says where the owner can be reached."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

FILE_NAME: Final = "tallyd.lock"


class DataDirBusyError(Exception):
    """Another process owns the directory; `socket` is its Unix socket, when it serves one."""

    def __init__(self, data_dir: Path, socket: str | None) -> None:
        where = f"; it is reached at {socket}" if socket else ""
        super().__init__(f"{data_dir} is in use by another tallyd{where}")
        self.socket = socket


@contextmanager
def own_data_dir(data_dir: Path, socket: str | None) -> Iterator[None]:
    """Own a data directory, made if absent.

    Args:
        data_dir: the directory.
        socket: where this process can be reached, for commands that want to.

    Raises:
        DataDirBusyError: another process owns it.
        OSError: it cannot be made or written.
    """
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
    file = os.open(data_dir / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataDirBusyError(data_dir, os.pread(file, 4096, 0).decode() or None) from None
        os.ftruncate(file, 0)
        os.pwrite(file, (socket or "").encode(), 0)
        yield
    finally:
        os.close(file)
