"""`tallyd demo`, whole."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cli.commands import PROCESS_MAX_S
from tallyd.cli.client import Daemon


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Run the demo once, and return what came of it."""
    scratch = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-m", "tallyd", "demo", "--seed", "5", "--json"],
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        timeout=PROCESS_MAX_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout)


@pytest.mark.process
def test_the_demo_ends_by_itself_with_numbers_that_agree(found: Any) -> None:
    """The daemon's totals are those of the recount, the books balance, caps held, retries were ignored."""
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
def test_the_demo_lives_three_months(found: Any) -> None:
    """An upgrade is prorated, a late event has its line, an unpaid invoice ends access until it is paid."""
    invoices = found["invoices"]
    adjustment = next(each for each in invoices if each["type"] == "ADJUSTMENT")
    assert (adjustment["customerReferenceId"], adjustment["amount"], adjustment["status"]) == ("acme", 75, "PAID")
    late = [line for each in invoices for line in each["items"] if line["kind"] == "late"]
    assert [line["chargeAmount"] for line in late] == [14.95]
    access = [(each["customer"], each["allowed"], each["reason"]) for each in found["access"]]
    assert [each[:2] for each in access] == [
        ("acme", False),
        ("acme", True),
        ("umbrella", False),
        ("umbrella", True),
    ]
    assert [reason for _, allowed, reason in access if not allowed] == ["unpaid", "past_due"]
    compared = {each["what"] for each in found["comparisons"]}
    assert {f"{each['customerReferenceId']}: {each['number']}" for each in invoices if each["amount"]} <= compared
    assert "14.95" in Path(found["page"]).read_text(encoding="utf-8")


@pytest.mark.process
def test_keep_stays_until_interrupted_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """With --keep the daemon answers on the printed socket; Ctrl-C ends it; only an invoice page is left."""
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
    assert [each.suffix for each in scratch.iterdir()] == [".html"]
