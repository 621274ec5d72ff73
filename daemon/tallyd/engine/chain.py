"""The hash chain of a customer's ledger (P10): each row's hash covers its content and the hash before it."""

from hashlib import sha256
from typing import Final

GENESIS: Final = b"\x00" * 32
_SEPARATOR: Final = "\x1f"
_NOTHING: Final = "\x00"


def link(previous: bytes, fields: tuple[object, ...]) -> bytes:
    """Return the hash of a ledger row.

    The canonical byte string is the fields in column order as text, joined by U+001F, with U+0000 for an absent
    one. Neither character can stand in a field: identifiers refuse control characters and JSON escapes them.
    """
    content = _SEPARATOR.join([_NOTHING if field is None else str(field) for field in fields])
    return sha256(previous + content.encode()).digest()
