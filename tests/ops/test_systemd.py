"""The systemd conversation, over the sockets and descriptors that systemd itself would use."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from tallyd.ops import systemd
from tallyd.ops.systemd import Notifier, inherited_sockets, keep_watchdog, watchdog_interval_s


class Manager:
    """The receiving end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.inbox.setblocking(False)
        self.inbox.bind(address)

    def heard(self) -> list[str]:
        """Return every message that has arrived since the last question."""
        messages = []
        while True:
            try:
                messages.append(self.inbox.recv(4096).decode())
            except BlockingIOError:
                return messages


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """Listen where a service manager would."""
    listening = Manager(str(tmp_path / "notify"))
    yield listening
    listening.inbox.close()


@pytest.fixture
def notifier(manager: Manager) -> Notifier:
    """Speak to that service manager."""
    return Notifier({"NOTIFY_SOCKET": manager.inbox.getsockname()})


def test_ready_says_so_with_a_status_line(manager: Manager, notifier: Notifier) -> None:
    """Readiness and the line for `systemctl status` go out as one message."""
    assert notifier.ready("serving 12 customers")
    assert manager.heard() == ["READY=1\nSTATUS=serving 12 customers"]


def test_each_method_sends_its_own_field(manager: Manager, notifier: Notifier) -> None:
    """Stopping, status and watchdog are the fields of sd_notify(3)."""
    assert notifier.stopping()
    assert notifier.status("draining")
    assert notifier.watchdog()
    assert manager.heard() == ["STOPPING=1", "STATUS=draining", "WATCHDOG=1"]


def test_reloading_carries_the_monotonic_time(manager: Manager, notifier: Notifier) -> None:
    """A reload is stamped in microseconds, which Type=notify-reload demands."""
    before = time.monotonic_ns() // 1000
    assert notifier.reloading()
    after = time.monotonic_ns() // 1000
    field, stamp = manager.heard()[0].split("\n")
    assert field == "RELOADING=1"
    assert before <= int(stamp.removeprefix("MONOTONIC_USEC=")) <= after


def test_an_abstract_socket_is_reached() -> None:
    """An address with a leading @ lies in the abstract namespace."""
    name = f"tallyd-test-{secrets.token_hex(8)}"
    manager = Manager("\0" + name)
    assert Notifier({"NOTIFY_SOCKET": "@" + name}).watchdog()
    assert manager.heard() == ["WATCHDOG=1"]
    manager.inbox.close()


def test_a_status_stays_one_short_line(manager: Manager, notifier: Notifier) -> None:
    """A newline in a status cannot begin another field, and a long one is cut."""
    notifier.status("disk\nSTOPPING=1")
    notifier.status("x" * 10_000)
    forged, long = manager.heard()
    assert forged == "STATUS=disk STOPPING=1"
    assert len(long) == len("STATUS=") + systemd.STATUS_CHARS_MAX


def test_a_status_that_is_no_text_still_goes_out(manager: Manager, notifier: Notifier) -> None:
    """A lone surrogate from somebody's file name does not raise."""
    assert notifier.status("bad \udcff name")
    assert manager.heard() == ["STATUS=bad ? name"]


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1234"])
def test_without_a_usable_address_nobody_is_told(address: str) -> None:
    """Outside systemd, or with an address of another kind, the answer is no."""
    assert not Notifier({"NOTIFY_SOCKET": address}).ready("up")


def test_without_systemd_nobody_is_told() -> None:
    """A daemon started by hand runs the same code."""
    assert not Notifier({}).watchdog()


def test_a_manager_that_is_gone_is_no_error(tmp_path: Path) -> None:
    """A socket that has vanished, or a path too long for one, returns False."""
    assert not Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("up")
    assert not Notifier({"NOTIFY_SOCKET": "/" + "x" * 300}).ready("up")


def test_a_manager_that_does_not_read_blocks_nobody(manager: Manager, notifier: Notifier) -> None:
    """With the manager's queue full a ping is given up, not waited for."""
    while notifier.watchdog():
        pass
    assert manager.heard()
    assert notifier.watchdog()


def test_the_watchdog_interval_is_half_of_what_is_allowed() -> None:
    """WatchdogSec=30 means a ping every 15 s."""
    mine = {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    assert watchdog_interval_s(mine) == 15
    assert watchdog_interval_s({"WATCHDOG_USEC": "500000"}) == 0.25


def test_no_watchdog_means_no_interval() -> None:
    """Unset, switched off, or meant for another process: nothing to do."""
    another = {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid() + 1)}
    assert watchdog_interval_s({}) is None
    assert watchdog_interval_s({"WATCHDOG_USEC": "0"}) is None
    assert watchdog_interval_s(another) is None


def test_a_malformed_watchdog_is_refused_by_name() -> None:
    """A service that would be killed for not pinging must say so at start."""
    with pytest.raises(ValueError, match="WATCHDOG_USEC must be a whole number, not '30s'"):
        watchdog_interval_s({"WATCHDOG_USEC": "30s"})


async def probe_well() -> None:
    """Come back at once, as a healthy writer does."""
    await trio.lowlevel.checkpoint()


async def test_a_healthy_writer_is_reported_every_interval(
    manager: Manager, notifier: Notifier, nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    """The first ping goes out at once, then one in each interval."""
    nursery.start_soon(keep_watchdog, notifier, probe_well, 15)
    await trio.testing.wait_all_tasks_blocked()
    assert manager.heard() == ["WATCHDOG=1"]
    for _ in range(3):
        mock_clock.jump(15)
        await trio.testing.wait_all_tasks_blocked()
        assert manager.heard() == ["WATCHDOG=1"]


async def test_a_slow_probe_does_not_stretch_the_interval(
    manager: Manager, notifier: Notifier, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """The time a probe takes is part of the interval, not added to it."""

    async def probe_slowly() -> None:
        await trio.sleep(14)

    assert autojump_clock.autojump_threshold == 0
    nursery.start_soon(keep_watchdog, notifier, probe_slowly, 15)
    await trio.sleep(150)
    assert manager.heard() == ["WATCHDOG=1"] * 10


async def test_a_probe_that_hangs_is_not_covered_up(
    manager: Manager, notifier: Notifier, nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    """While the writer does not answer there is no ping, however long it takes; once it does, there is."""
    answer = trio.Event()
    nursery.start_soon(keep_watchdog, notifier, answer.wait, 15)
    mock_clock.jump(3600)
    await trio.testing.wait_all_tasks_blocked()
    assert manager.heard() == []
    answer.set()
    await trio.testing.wait_all_tasks_blocked()
    assert manager.heard() == ["WATCHDOG=1"]


async def test_a_probe_that_raises_withholds_the_ping_and_is_asked_again(
    manager: Manager, notifier: Notifier, nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    """A failing writer shows in the status; when it recovers, pings and status do too."""
    outcomes = iter([OSError("disk gone"), None, None])

    async def probe() -> None:
        await trio.lowlevel.checkpoint()
        if outcome := next(outcomes):
            raise outcome

    nursery.start_soon(keep_watchdog, notifier, probe, 15)
    heard = []
    for _ in range(3):
        await trio.testing.wait_all_tasks_blocked()
        heard.append(manager.heard())
        mock_clock.jump(15)
    assert heard == [
        ["STATUS=the writer does not answer: OSError('disk gone')"],
        ["WATCHDOG=1", "STATUS=the writer answers again"],
        ["WATCHDOG=1"],
    ]
    nursery.cancel_scope.cancel()


CHILD = """
import fcntl, os
from tallyd.ops.systemd import inherited_sockets
if os.environ.pop("PID_IS_MINE"):
    os.environ["LISTEN_PID"] = str(os.getpid())
found = inherited_sockets()
for name, inherited in found.items():
    closes = bool(fcntl.fcntl(inherited.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC)
    print(name, inherited.fileno(), os.path.basename(inherited.getsockname()), closes)
print("left:", sorted(name for name in os.environ if name.startswith("LISTEN_")))
print("again:", inherited_sockets())
"""


def started(tmp_path: Path, names: str | None, *, mine: bool = True) -> subprocess.CompletedProcess[str]:
    """Start a child as systemd would, with two listening sockets as its descriptors 3 and 4."""
    listeners = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    for listener, name in zip(listeners, ("first", "second"), strict=True):
        listener.bind(str(tmp_path / name))
        listener.listen()
    first, second = (listener.fileno() for listener in listeners)
    variables = {"PID_IS_MINE": "yes" if mine else "", "LISTEN_PID": "1", "LISTEN_FDS": "2"}
    if names is not None:
        variables["LISTEN_FDNAMES"] = names
    # The shell moves them out of the way first: either may already be 3 or 4.
    place = f"exec 8<&{first} 9<&{second}; exec 3<&8 4<&9 8<&- 9<&-; exec {sys.executable} -c '{CHILD}'"
    child = subprocess.run(
        ["/bin/bash", "-c", place],
        env=os.environ | variables,
        pass_fds=(first, second),
        capture_output=True,
        text=True,
        check=False,
    )
    for listener in listeners:
        listener.close()
    return child


def test_inherited_sockets_come_by_name_and_only_once(tmp_path: Path) -> None:
    """A child of systemd takes each socket by its name, closed on exec, and leaves nothing to inherit."""
    child = started(tmp_path, "rpc:http")
    assert child.stdout.splitlines() == [
        "rpc 3 first True",
        "http 4 second True",
        "left: []",
        "again: {}",
    ], child.stderr


def test_sockets_for_another_process_are_left_alone(tmp_path: Path) -> None:
    """With another LISTEN_PID the descriptors are not ours, whatever their names."""
    child = started(tmp_path, "rpc:http", mine=False)
    assert child.stdout.splitlines() == ["left: []", "again: {}"], child.stderr


@pytest.mark.parametrize("names", ["rpc:rpc", None])
def test_two_sockets_with_one_name_are_refused(tmp_path: Path, names: str | None) -> None:
    """Equal names, or none at all, would leave one socket unserved: the error says what to change."""
    child = started(tmp_path, names)
    assert child.returncode != 0
    assert f"2 inherited sockets are named '{names.split(':')[0] if names else 'unknown'}'" in child.stderr
    assert "FileDescriptorName=" in child.stderr


def test_without_socket_activation_nothing_is_inherited() -> None:
    """A daemon started by hand makes its own sockets."""
    assert inherited_sockets({}) == {}


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"LISTEN_FDS": "many"}, "LISTEN_FDS must be a whole number"),
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "rpc"}, "1 names for 2 sockets"),
        ({"LISTEN_FDS": "1000"}, "more than 16 sockets"),
    ],
)
def test_variables_that_make_no_sense_are_refused(variables: dict[str, str], complaint: str) -> None:
    """What systemd would never say is an error with the variable's name, before any descriptor is touched."""
    with pytest.raises(ValueError, match=complaint):
        inherited_sockets({"LISTEN_PID": str(os.getpid()), **variables})


def test_a_descriptor_that_is_no_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An inherited plain file is not served as if it were a socket."""
    fd = os.open(tmp_path / "plain", os.O_CREAT | os.O_RDWR)
    monkeypatch.setattr(systemd, "FIRST_INHERITED_FD", fd)
    with pytest.raises(OSError, match="non-socket"):
        inherited_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "rpc"})
    os.close(fd)
