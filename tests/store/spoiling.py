"""Spoiling books: what one changed byte is, and where verify says that something is wrong."""

from pathlib import Path
from typing import Any

from store.credit_books import verify


def found(path: Path) -> set[tuple[str, str]]:
    """What verify finds, where."""
    return {(finding.kind, finding.where) for finding in verify(path).findings}


def flipped(value: Any) -> Any:
    """The value with one byte changed."""
    if value is None:
        return 1
    if isinstance(value, int):
        return value + 1
    if isinstance(value, bytes):
        return value[:-1] + bytes([value[-1] ^ 1])
    middle = len(value) // 2
    return value[:middle] + chr(ord(value[middle]) ^ 1) + value[middle + 1 :] if value else "x"
