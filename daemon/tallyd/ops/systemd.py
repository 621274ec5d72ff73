"""The conversation with systemd: readiness, status and watchdog out, listening sockets in.

The protocols are those of sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3). They are datagrams and
environment variables, so no library is needed. Without systemd every call here is a harmless no.
"""

import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Final

import trio

FIRST_INHERITED_FD: Final = 3
INHERITED_SOCKETS_MAX: Final = 16
STATUS_CHARS_MAX: Final = 500


class Notifier:
    """Tells the service manager how the service is doing.

    Every method returns whether systemd was told. None raises, blocks or logs: a service that cannot be seen
    must still serve.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = _notify_address(environ.get("NOTIFY_SOCKET", ""))

    def ready(self, status: str) -> bool:
        """Start-up, or a reload, is complete; `status` is one line for `systemctl status`."""
        return self._send("READY=1", _status_field(status))

    def reloading(self) -> bool:
        """A reload begins; say `ready` when it has ended, well or badly."""
        return self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> bool:
        """The drain has begun."""
        return self._send("STOPPING=1")

    def status(self, text: str) -> bool:
        """Replace the line that `systemctl status` shows."""
        return self._send(_status_field(text))

    def watchdog(self) -> bool:
        """The service is alive; due at least once in every WatchdogSec."""
        return self._send("WATCHDOG=1")

    def _send(self, *fields: str) -> bool:
        if self._address is None:
            return False
        message = "\n".join(fields).encode(errors="replace")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.sendto(message, socket.MSG_DONTWAIT, self._address)
        except OSError:
            return False
        return True


def watchdog_interval_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """Seconds between pings: half of what systemd allows, or None when it does not watch this process.

    Raises:
        ValueError: a variable that is not a whole number.
    """
    if "WATCHDOG_USEC" not in environ:
        return None
    if "WATCHDOG_PID" in environ and _whole_number(environ, "WATCHDOG_PID") != os.getpid():
        return None
    allowed_us = _whole_number(environ, "WATCHDOG_USEC")
    return allowed_us / 2 / 1_000_000 if allowed_us > 0 else None


def inherited_sockets(environ: MutableMapping[str, str] = os.environ) -> dict[str, socket.socket]:
    """Take over the sockets of our .socket units, by their FileDescriptorName; empty when there are none.

    The variables are removed from `environ` and the descriptors closed on exec, so that no child believes
    they are its own. Ask once.

    Raises:
        ValueError: two sockets with one name, or variables that contradict each other.
        OSError: an inherited descriptor that is not a socket.
    """
    mine = "LISTEN_PID" in environ and _whole_number(environ, "LISTEN_PID") == os.getpid()
    names = _inherited_names(environ) if mine else []
    for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        environ.pop(variable, None)
    return {name: _take_over(FIRST_INHERITED_FD + index) for index, name in enumerate(names)}


async def keep_watchdog(notifier: Notifier, probe: Callable[[], Awaitable[None]], interval_s: float) -> None:
    """Ping for ever, each time only after `probe` has come back.

    The probe makes a round trip through the writer, so a ping says that commits still happen, not merely that
    the loop still turns. While the probe hangs or raises there is no ping, and systemd restarts the service.
    """
    answering = True
    while True:
        due = trio.current_time() + interval_s
        try:
            await probe()
        except Exception as error:  # noqa: BLE001 - whatever is wrong, the answer is the same: no ping
            answering = False
            notifier.status(f"the writer does not answer: {error!r}")
        else:
            notifier.watchdog()
            if not answering:
                answering = notifier.status("the writer answers again")
        await trio.sleep_until(due)


def _notify_address(name: str) -> str | None:
    """A leading @ stands for the NUL of an abstract socket; any other kind of address is not for us."""
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else None


def _status_field(text: str) -> str:
    """One line: a newline inside would begin another field of the protocol."""
    return "STATUS=" + " ".join(text.split())[:STATUS_CHARS_MAX]


def _whole_number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{name} must be a whole number, not {text!r}")
    return int(text)


def _inherited_names(environ: Mapping[str, str]) -> list[str]:
    """Names in the order of the descriptors; without LISTEN_FDNAMES systemd calls each one `unknown`."""
    count = _whole_number(environ, "LISTEN_FDS")
    if count > INHERITED_SOCKETS_MAX:
        raise ValueError(f"LISTEN_FDS is {count}: more than {INHERITED_SOCKETS_MAX} sockets are not expected")
    names = environ["LISTEN_FDNAMES"].split(":") if "LISTEN_FDNAMES" in environ else ["unknown"] * count
    if len(names) != count:
        raise ValueError(f"LISTEN_FDNAMES has {len(names)} names for {count} sockets")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"{names.count(name)} inherited sockets are named {name!r}: "
                "give each its own FileDescriptorName= in its .socket unit"
            )
    return names


def _take_over(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)
    return socket.socket(fileno=fd)
