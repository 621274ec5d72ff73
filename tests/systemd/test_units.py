"""The unit files keep the promises that the daemon's code and systemd/README.md rely on."""

from collections import defaultdict
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"

Unit = dict[str, dict[str, list[str]]]


def read_unit(name: str) -> Unit:
    """Read section -> key -> values; a key may be given several times, as systemd allows."""
    unit: Unit = defaultdict(lambda: defaultdict(list))
    section = ""
    for raw in (UNITS / name).read_text().splitlines():
        line = raw.strip()
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith(("#", ";")):
            key, separator, value = line.partition("=")
            assert separator, f"{name}: not an assignment: {line!r}"
            unit[section][key].append(value)
    return unit


@pytest.fixture
def service() -> Unit:
    """The service unit."""
    return read_unit("tallyd.service")


@pytest.fixture
def listening() -> Unit:
    """The socket unit."""
    return read_unit("tallyd.socket")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Type", "notify"),
        ("WatchdogSec", "30"),
        ("Restart", "on-failure"),
        ("RestartPreventExitStatus", "78"),
        ("ExecReload", "/bin/kill -HUP $MAINPID"),
        ("TimeoutStopSec", "10"),
        ("StateDirectory", "tallyd"),
        ("StateDirectoryMode", "0700"),
        ("LimitNOFILE", "65536"),
    ],
)
def test_the_service_keeps_its_promises(service: Unit, key: str, value: str) -> None:
    """Readiness, watchdog, restart, reload, drain, private books and 10,000 connections are in the unit."""
    assert service["Service"][key] == [value]


@pytest.mark.parametrize(
    "key",
    [
        "LockPersonality",
        "MemoryDenyWriteExecute",
        "NoNewPrivileges",
        "PrivateDevices",
        "PrivateTmp",
        "ProtectClock",
        "ProtectControlGroups",
        "ProtectHome",
        "ProtectHostname",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "RestrictNamespaces",
        "RestrictRealtime",
        "RestrictSUIDSGID",
    ],
)
def test_hardening_stays_on(service: Unit, key: str) -> None:
    """No protection is lost unnoticed."""
    assert service["Service"][key] == ["yes"]


def test_the_service_has_no_capabilities_and_a_read_only_disk(service: Unit) -> None:
    """Nothing to escalate with and nowhere else to write."""
    assert service["Service"]["CapabilityBoundingSet"] == [""]
    assert service["Service"]["ProtectSystem"] == ["strict"]
    assert service["Service"]["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]


def test_peers_keep_their_uids(service: Unit) -> None:
    """A private user namespace turns every peer into nobody, and scopes by uid with it."""
    assert "PrivateUsers" not in service["Service"]


def test_only_this_machine_is_spoken_to(service: Unit) -> None:
    """Without a drop-in the service neither hears nor reaches another machine."""
    assert service["Service"]["IPAddressDeny"] == ["any"]
    assert service["Service"]["IPAddressAllow"] == ["localhost"]


def test_a_restart_storm_ends(service: Unit) -> None:
    """A service that cannot start is given up and shown as failed, not tried for ever."""
    assert service["Unit"]["StartLimitBurst"] == ["30"]
    assert service["Unit"]["StartLimitIntervalSec"] == ["60"]
    assert service["Service"]["RestartSec"] == ["500ms"]


def test_the_socket_outlives_the_service(service: Unit, listening: Unit) -> None:
    """The socket lies in the service's runtime directory, which must not go when the service does."""
    directory = f"/run/{service['Service']['RuntimeDirectory'][0]}/"
    assert listening["Socket"]["ListenStream"][0].startswith(directory)
    assert service["Service"]["RuntimeDirectoryPreserve"] == ["yes"]


def test_the_service_always_gets_its_socket(service: Unit) -> None:
    """Started alone, enabled alone or restarted, the service comes after its socket unit."""
    assert service["Unit"]["Requires"] == ["tallyd.socket"]
    assert "tallyd.socket" in service["Unit"]["After"][0].split()
    assert service["Install"]["Also"] == ["tallyd.socket"]


def test_the_daemon_is_told_the_same_path_that_systemd_listens_on(service: Unit, listening: Unit) -> None:
    """Command line, socket unit and state directory agree."""
    command = service["Service"]["ExecStart"][0].split()
    options = dict(zip(command[2::2], command[3::2], strict=True))
    assert command[:2] == ["/opt/tallyd/bin/tallyd", "serve"]
    assert options["--socket"] == listening["Socket"]["ListenStream"][0]
    assert options["--data-dir"] == f"/var/lib/{service['Service']['StateDirectory'][0]}"
    assert Path(options["--config"]).parent == Path(options["--catalog"]).parent == Path("/etc/tallyd")


def test_the_socket_is_for_the_group_and_handed_over_by_name(listening: Unit) -> None:
    """One listening socket, for members of the group, under the name that the daemon asks for."""
    socket = listening["Socket"]
    assert (socket["Accept"], socket["SocketMode"]) == (["no"], ["0660"])
    assert socket["FileDescriptorName"] == ["rpc"]


def test_socket_and_service_have_the_same_owner(service: Unit, listening: Unit) -> None:
    """Starting the service gives /run/tallyd and all in it to its user: another group would be lost then."""
    assert listening["Socket"]["SocketUser"] == service["Service"]["User"] == ["tallyd"]
    assert listening["Socket"]["SocketGroup"] == service["Service"]["Group"] == ["tallyd"]


def test_the_directory_can_be_entered_before_and_after_the_first_start(service: Unit, listening: Unit) -> None:
    """The socket unit makes /run/tallyd as root's, the service takes it over: clients get through both."""
    assert listening["Socket"]["DirectoryMode"] == service["Service"]["RuntimeDirectoryMode"] == ["0755"]


@pytest.mark.parametrize("name", ["tallyd.service", "tallyd.socket"])
def test_every_setting_is_written_once(name: str) -> None:
    """A second value silently replaces or adds to the first; only the system call filter means to add."""
    repeated = {key for settings in read_unit(name).values() for key, values in settings.items() if values[1:]}
    assert repeated <= {"SystemCallFilter"}
