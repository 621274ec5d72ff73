#!/bin/bash
# Checks by hand: tallyd's units on a real systemd. Run as root on a throw-away machine or container:
#
#   tests/systemd/lab.sh [CHECKOUT]
#
# It installs the checkout the way systemd/README.md says, then starts, activates, hangs, kills, reloads and
# stops the service. One PASS or FAIL line for each promise; exits non-zero when any failed.
# PYTHON (default /usr/bin/python3) must be an interpreter that other users can run. A container that shares its
# host's network cannot start tallyd while another one holds the same HTTP port.
set -u

checkout=$(realpath "${1:-$(dirname "$0")/../..}")
python=${PYTHON:-/usr/bin/python3}
tallyd=/opt/tallyd/bin/tallyd
rpc=/run/tallyd/tallyd.sock
units=/etc/systemd/system
scratch=$(mktemp -d /var/tmp/tallyd-lab.XXXXXX)
log=$scratch/tallyd.log
failures=0

# --- helpers ---------------------------------------------------------------------------------------------

verdict() { # STATUS PROMISE
  if [ "$1" -eq 0 ]; then
    echo "PASS $2"
  else
    echo "FAIL $2"
    failures=$((failures + 1))
  fi
}

promise() { # PROMISE COMMAND...
  local words=$1 said
  shift
  said=$("$@" 2>&1)
  verdict $? "$words${said:+ ($(tail -n 1 <<<"$said"))}"
}

die() {
  echo "FAIL $1"
  exit 1
}

property() { systemctl show --property "$1" --value tallyd.service; }
pid() { property MainPID; }
is() { [ "$(property "$1")" = "$2" ]; }
strike() { systemctl kill --kill-whom=main --signal="$1" tallyd.service; }
still() { [ "$1" != 0 ] && [ "$(pid)" = "$1" ]; }
gone() { ! "$@"; }

eventually() { # SECONDS COMMAND...
  local deadline=$((SECONDS + $1))
  shift
  until "$@"; do
    [ $SECONDS -lt $deadline ] || return 1
    sleep 0.1
  done
}

restarted_since() { [ "$(pid)" != "$1" ] && [ "$(pid)" != 0 ] && is ActiveState active; }
stopped_all() { systemctl stop tallyd.socket tallyd.service; }
started_all() {
  systemctl reset-failed tallyd.service tallyd.socket 2>/dev/null
  systemctl start tallyd.socket tallyd.service
}
as_app() { runuser -u tallyd-lab-app -- "$python" "$scratch/client.py" "$rpc" "$@"; }
as_outsider() { runuser -u tallyd-lab-outsider -- "$python" "$scratch/client.py" "$rpc" "$@"; }

drop_in() { # NAME, text on stdin
  mkdir -p "$units/tallyd.service.d"
  cat >"$units/tallyd.service.d/$1.conf"
  systemctl daemon-reload
}

# --- the app: a client that nobody has to install ----------------------------------------------------------

write_client() {
  cat >"$scratch/client.py" <<'PYTHON'
"""An app that talks to tallyd: client.py SOCKET ping | flood STOP_FILE | deafen READY_FILE."""

import json
import os
import socket
import sys
import time

BATCH = 20
PATIENCE_S = 30


class Link:
    """One connection that is made again whenever it breaks."""

    def __init__(self, path):
        self.path, self.stream, self.calls, self.broken = path, None, 0, 0

    def call(self, method, params=None):
        """Return the result; raise OSError when the connection breaks, RuntimeError on an error answer."""
        if self.stream is None:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(PATIENCE_S)
            connection.connect(self.path)
            self.stream = connection.makefile("rwb")
        self.calls += 1
        request = {"jsonrpc": "2.0", "id": self.calls, "method": method}
        if params is not None:
            request["params"] = params
        self.stream.write(json.dumps(request).encode() + b"\n")
        self.stream.flush()
        line = self.stream.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError("closed before the answer")
        answer = json.loads(line)
        if "result" not in answer:
            raise RuntimeError(json.dumps(answer))
        return answer["result"]

    def insist(self, method, params):
        """Ask again, over a new connection, until there is a result: the keys make that safe."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.call(method, params)
            except (OSError, RuntimeError):
                if time.monotonic() > deadline:
                    raise
                self.broken += 1
                self.stream = None
                time.sleep(0.02)


def event(key):
    return {
        "eventName": "api",
        "eventIdempotencyKey": key,
        "customerReferenceId": "acme",
        "featureKey": "api",
        "usageUnits": 1,
    }


def ingest(link, keys):
    """Return key -> (status, event id)."""
    results = link.insist("ingest", {"events": [event(key) for key in keys]})["results"]
    if len(results) != len(keys):
        raise SystemExit(f"{len(results)} results for {len(keys)} events")
    return {key: (one["status"], one.get("eventId")) for key, one in zip(keys, results)}


def flood(link, stop_file):
    """Ingest until told to stop, whatever happens to the daemon; then send everything again and compare."""
    acknowledged = {}
    while not os.path.exists(stop_file):
        start = len(acknowledged)
        keys = [f"lab-{start + offset}" for offset in range(BATCH)]
        acknowledged.update(ingest(link, keys))
    breaks, wrong = link.broken, []
    keys = list(acknowledged)
    for start in range(0, len(keys), BATCH):
        for key, (status, identity) in ingest(link, keys[start : start + BATCH]).items():
            if status != "duplicate" or identity != acknowledged[key][1]:
                wrong.append((key, acknowledged[key], status, identity))
    odd = sorted({status for status, _ in acknowledged.values()} - {"created", "duplicate"})
    print(f"{len(keys)} acknowledged, connection lost {breaks} times, wrong after re-sending: {wrong[:3]} {odd}")
    return not wrong and not odd and breaks > 0


def deafen(link, ready_file):
    """Ask much, read nothing, until the daemon closes."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(link.path)
    connection.settimeout(2)
    question = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n' * 1000
    try:
        for _ in range(1000):
            connection.sendall(question)
    except OSError:
        pass
    open(ready_file, "w").close()
    time.sleep(PATIENCE_S)


path, verb, *rest = sys.argv[1:]
link = Link(path)
if verb == "ping":
    print(json.dumps(link.call("ping")))
elif verb == "flood":
    sys.exit(0 if flood(link, *rest) else 1)
elif verb == "deafen":
    deafen(link, *rest)
PYTHON
  chmod 755 "$scratch"
  mkdir "$scratch/shared"
  chmod 1777 "$scratch/shared"
}

# --- the checks --------------------------------------------------------------------------------------------

install_everything() {
  "$python" -m venv /opt/tallyd && /opt/tallyd/bin/pip install --quiet "$checkout" || return 1
  useradd --system --user-group --home-dir /var/lib/tallyd --shell /usr/sbin/nologin tallyd || return 1
  install -d -m 0750 -g tallyd /etc/tallyd || return 1
  install -m 0640 -g tallyd "$checkout/config/tallyd.toml" "$checkout/config/catalog.toml" /etc/tallyd/ || return 1
  install -m 0644 "$checkout/systemd/tallyd.service" "$checkout/systemd/tallyd.socket" "$units/" || return 1
  useradd --system --no-create-home --groups tallyd tallyd-lab-app || return 1
  useradd --system --no-create-home tallyd-lab-outsider || return 1
  drop_in log <<<"[Service]
StandardError=append:$log"
}

check_units() {
  promise "both unit files are valid" systemd-analyze verify "$units/tallyd.service" "$units/tallyd.socket"
  promise "exposure is at most 1.5" systemd-analyze security --offline=yes --threshold=15 --no-pager "$units/tallyd.service"
}

check_start() {
  promise "start waits for readiness" systemctl start tallyd.service
  promise "the service is active" is ActiveState active
  promise "the socket unit came with it" systemctl is-active tallyd.socket
  promise "a member of the group is answered" as_app ping
  promise "an outsider may not connect" gone as_outsider ping
  promise "the books are closed to the group" gone runuser -u tallyd-lab-app -- ls /var/lib/tallyd
}

check_activation() {
  stopped_all
  promise "both units stop" is ActiveState inactive
  systemctl start tallyd.socket
  promise "with the socket alone the service rests" is ActiveState inactive
  promise "a first connection wakes it and is answered" as_app ping
  promise "the service is awake" is ActiveState active
  systemctl restart tallyd.service
  promise "the socket survives a restart" as_app ping
  systemctl stop tallyd.service 2>/dev/null
  promise "the socket survives a stop" test -S "$rpc"
  promise "and wakes the service again" as_app ping
}

check_watchdog() {
  drop_in watchdog <<<"[Service]
WatchdogSec=2
TimeoutAbortSec=1"
  systemctl restart tallyd.service
  local before
  before=$(pid)
  sleep 7
  promise "a healthy service is left alone by the watchdog" still "$before"
  strike STOP
  promise "a service that hangs is restarted" eventually 20 restarted_since "$before"
  promise "and answers" as_app ping
  rm "$units/tallyd.service.d/watchdog.conf"
  systemctl daemon-reload
  systemctl restart tallyd.service
}

check_crashes() {
  local round before client
  systemctl reset-failed tallyd.service
  as_app flood "$scratch/shared/enough" >"$scratch/flood.out" 2>&1 &
  client=$!
  for round in 1 2 3 4 5; do
    sleep "1.$((RANDOM % 10))"
    before=$(pid)
    strike KILL || verdict 1 "round $round finds the service running"
    promise "restarted after kill -9, round $round" eventually 20 restarted_since "$before"
  done
  sleep 1
  touch "$scratch/shared/enough"
  wait "$client"
  verdict $? "every acknowledged event is there exactly once ($(tail -n 1 "$scratch/flood.out"))"
}

check_reload() {
  local before
  before=$(pid)
  cp /etc/tallyd/catalog.toml "$scratch/catalog.toml"
  promise "a reload is taken" systemctl reload tallyd.service
  promise "and ends" eventually 10 is ActiveState active
  echo '[[plans]] this is no catalog' >/etc/tallyd/catalog.toml
  systemctl reload tallyd.service
  sleep 1
  promise "a bad catalog keeps the service running" eventually 10 is ActiveState active
  promise "as the same process" still "$before"
  promise "which answers" as_app ping
  echo "     status: $(property StatusText)"
  cat "$scratch/catalog.toml" >/etc/tallyd/catalog.toml
  systemctl reload tallyd.service
  promise "the mended catalog is taken by the same process" still "$before"
  promise "which still answers" as_app ping
}

check_stop() {
  local client began took_ms
  as_app deafen "$scratch/shared/deaf" 2>/dev/null &
  client=$!
  eventually 20 test -e "$scratch/shared/deaf"
  promise "a client that stopped reading harms nobody" as_app ping
  began=$(date +%s%3N)
  stopped_all
  took_ms=$(($(date +%s%3N) - began))
  verdict $((took_ms > 5000)) "it stops within 5 s, that client still connected ($took_ms ms)"
  kill "$client" 2>/dev/null
  promise "and exits with 0" is ExecMainStatus 0
  promise "which systemd calls a success" is Result success
  promise "the socket is gone with its unit" gone test -e "$rpc"
  promise "the books verify" runuser -u tallyd -- "$tallyd" verify --data-dir /var/lib/tallyd
  started_all
  promise "everything starts again" as_app ping
}

# --- the run -----------------------------------------------------------------------------------------------

[ "$(id -u)" -eq 0 ] || die "must be root"
for trace in /opt/tallyd /etc/tallyd /var/lib/tallyd; do
  [ ! -e "$trace" ] || die "$trace exists: this machine is not a throw-away one"
done
write_client
install_everything || die "the installation"
check_units
check_start
check_activation
check_watchdog
check_crashes
check_reload
check_stop
if [ "$failures" -gt 0 ]; then
  echo "--- the end of the service's log"
  tail -n 40 "$log"
fi
echo "$failures failed"
[ "$failures" -eq 0 ]
