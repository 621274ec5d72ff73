"""`tallyd check`."""

import msgspec
import pytest

from cli.commands import Run
from tallyd.cli.child import Child
from tallyd.cli.client import Daemon


@pytest.fixture(scope="module")
def initech(child: Child) -> str:
    """Put a customer on the free plan and use 990 of its 1,000 API calls."""
    daemon = Daemon(child.socket)
    daemon.call("subscribe", {"customerReferenceId": "initech", "planKey": "free"})
    event = {"eventName": "api", "customerReferenceId": "initech", "usageUnits": 990}
    assert daemon.call("consume", event)["allowed"]
    daemon.close()
    return "initech"


@pytest.mark.process
def test_allowed_is_exit_code_0_with_evidence(run: Run, initech: str) -> None:
    """A customer within its limit may go on, and the answer says how far it is."""
    done = run("check", initech, "api")
    assert done.exit_code == 0
    assert "allowed: initech → api" in done.stdout
    assert "990 of 1,000, 10 left" in done.stdout
    assert "free@1" in done.stdout


@pytest.mark.process
def test_denied_is_exit_code_1_with_the_reason(run: Run, initech: str) -> None:
    """More units than are left are denied, and the answer says what they would lead to."""
    done = run("check", initech, "api", "--units", 11)
    assert done.exit_code == 1
    assert "would_exceed_limit" in done.stdout
    assert "11 more would make 1,001" in done.stdout


@pytest.mark.process
def test_units_that_fit_are_allowed(run: Run, initech: str) -> None:
    """Exactly what is left is allowed, and asking records nothing."""
    assert run("check", initech, "api", "--units", 10).exit_code == 0
    assert run("check", initech, "api", "--units", 10).exit_code == 0


@pytest.mark.process
def test_json_is_the_daemons_answer(run: Run, initech: str) -> None:
    """Programs get the answer as the socket gives it, with exact numbers."""
    done = run("check", initech, "api", "--json")
    answer = msgspec.json.decode(done.stdout)
    assert answer["allowed"] is True
    assert answer["usage"] == {"used": 990, "limit": 1000, "remaining": 10}


@pytest.mark.process
def test_an_unknown_customer_is_an_error(run: Run) -> None:
    """Nobody is denied silently: an unknown customer is said to be unknown."""
    done = run("check", "nobody", "api")
    assert done.exit_code == 1
    assert "there is no customer 'nobody'" in done.stderr
    assert "tallyd subscribe nobody PLAN" in done.stderr


@pytest.mark.process
def test_credits_are_said_with_what_is_asked_for(run: Run, child: Child) -> None:
    """Where credits pay, the answer says what there is, and what the units would come to for a model."""
    daemon = Daemon(child.socket)
    daemon.call("subscribe", {"customerReferenceId": "hydra", "planKey": "prepaid"})
    daemon.close()
    fits = run("check", "hydra", "assistant", "--units", 12, "--model", "gpt-4o")
    assert fits.exit_code == 0
    assert "100 CREDITS, 100 available" in fits.stdout
    assert "96 credits, 8 a unit" in fits.stdout
    assert run("check", "hydra", "assistant", "--units", 13, "--model", "gpt-4o").exit_code == 1


@pytest.mark.process
def test_a_model_without_units_is_used_wrongly(run: Run) -> None:
    """A model says nothing where no units are asked for."""
    assert run("check", "hydra", "assistant", "--model", "gpt-4o").exit_code == 2
