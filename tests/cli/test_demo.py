"""`tallyd demo`, whole."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from cli.commands import Program
from tallyd.cli.client import Daemon


@pytest.mark.process
def test_the_demo_ends_by_itself_with_numbers_that_agree(program: Program) -> None:
    """The daemon's totals are those of the recount, the books balance, caps held, retries were ignored."""
    done = program("demo", "--seed", 5, "--json")
    assert done.returncode == 0, done.stderr
    found = msgspec.json.decode(done.stdout)
    assert found["good"] is True
    assert found["verify"]["exitCode"] == 0
    assert found["eventsRecorded"] > 4_000
    assert found["duplicates"] > 50
    usage = {(line["customer"], line["feature"]): line for line in found["usage"]}
    assert usage["initech", "api"]["used"] == usage["initech", "api"]["limit"] == 1_000
    assert found["unpriced"][0]["reason"] == "unknown_model"
    reasons = {refusal["code"] for refusal in found["refusals"]}
    assert reasons >= {"limit_reached", "no_subscription", "idempotency_conflict", "validation_failed"}
    scene = found["credits"]
    assert (scene["agents"], scene["holds"]) == (64, scene["available"] // scene["hold"])
    assert 0 < scene["settled"] == scene["holds"] < 64
    assert scene["balance"] == scene["available"] - scene["used"] == scene["pool"]["available"]
    assert {"stark: holds that fit", "stark: balance after settling"} <= {
        each["what"] for each in found["comparisons"]
    }
    assert found["verify"]["report"]["holds"] == scene["holds"]


@pytest.mark.process
def test_keep_stays_until_interrupted_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """With --keep the daemon answers on the printed socket; Ctrl-C ends it and removes the directory."""
    command = [sys.executable, "-m", "tallyd", "demo", "--seed", "5", "--keep"]
    scratch, said = tmp_path / "scratch", tmp_path / "said"
    scratch.mkdir()
    with (
        said.open("w") as errors,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"},
        ) as process,
    ):
        assert process.stdout is not None
        socket = ""
        for line in process.stdout:
            if "export U=" in line:
                socket = line.split("S=")[1].strip()
            if "tallyd verify" in line and "--data-dir" in line:
                break
        daemon = Daemon(socket)
        assert daemon.call("ping")["pong"] is True
        daemon.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, said.read_text()
    assert list(scratch.iterdir()) == []
