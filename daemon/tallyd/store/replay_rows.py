"""Answers kept for requests that are sent again with the same transport key."""

import sqlite3
from typing import Final

import msgspec

from tallyd.model.moments import DAY_US

KEPT_US: Final = DAY_US


class Replay(msgspec.Struct, frozen=True):
    """An answer given before."""

    body_hash: str
    status: int
    content: str


def find_replay(connection: sqlite3.Connection, *, place: str, key: str, now: int) -> Replay | None:
    """Return the answer given to a key at a METHOD and path within the last day."""
    row = connection.execute(
        "SELECT body_hash, status, content FROM replays WHERE place = ? AND key = ? AND created_at > ?",
        (place, key, now - KEPT_US),
    ).fetchone()
    return None if row is None else Replay(*row)
