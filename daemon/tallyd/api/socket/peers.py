"""Who is at the other end of the socket, and what they may do: SO_PEERCRED mapped to scopes."""

import os
import socket
import struct
from typing import Final

from tallyd.config import Peer, Socket

_CREDENTIALS: Final = struct.Struct("iII")
ALL: Final = frozenset({"ingest", "read", "admin"})


def peer_of(connection: socket.socket) -> tuple[int, int]:
    """Return the (uid, gid) of the process at the other end, as the kernel knows it."""
    content = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, gid = _CREDENTIALS.unpack(content)
    return uid, gid


def scopes_of(uid: int, gid: int, settings: Socket) -> frozenset[str]:
    """Return what a peer may do.

    The first `[[socket.peers]]` entry that matches decides; else root and the daemon's own user may do all,
    and everybody else whom the file's mode lets in has `default_scopes`.
    """
    for peer in settings.peers:
        if _matches(peer, uid, gid):
            return frozenset(peer.scopes)
    if uid in (0, os.geteuid()):
        return ALL
    return frozenset(settings.default_scopes)


def _matches(peer: Peer, uid: int, gid: int) -> bool:
    return (peer.uid is None or peer.uid == uid) and (peer.gid is None or peer.gid == gid)
