"""`tallyd config check`."""

from pathlib import Path

import msgspec
from click.testing import CliRunner, Result

from cli.commands import CATALOG
from tallyd.cli import main


def check(*arguments: object) -> Result:
    """Run `tallyd config check`."""
    texts = [str(argument) for argument in arguments]
    return CliRunner().invoke(main, ["config", "check", *texts], catch_exceptions=False)


def test_the_example_catalog_has_no_problems() -> None:
    """A good catalog is shown: features, and each plan with its pricing."""
    done = check("--catalog", CATALOG)
    assert done.exit_code == 0, done.stderr
    assert "no problems" in done.stdout
    for word in ("assistant", "plan free", "plan pro", "plan scale", "graduated"):
        assert word in done.stdout


def test_every_problem_is_named_with_file_table_and_field(tmp_path: Path) -> None:
    """Two mistakes make two lines, each with its place."""
    bad = CATALOG.read_text().replace("max_usage = 1000 ", "max_usage = -1 ").replace('"GB"', '"GB", typo = 1')
    path = tmp_path / "bad.toml"
    path.write_text(bad)
    done = check("--catalog", path)
    assert done.exit_code == 1
    assert f"{path}: plans.free.features[0].pricing.max_usage" in done.stderr
    assert f"{path}: plans.scale.features[2].pricing" in done.stderr
    assert "problems: 2" in done.stderr


def test_problems_as_json(tmp_path: Path) -> None:
    """Programs get the problems as data."""
    path = tmp_path / "bad.toml"
    path.write_text("[[plans]]\nkey = 5\n")
    done = check("--catalog", path, "--json")
    found = msgspec.json.decode(done.stdout)
    assert done.exit_code == 1
    assert found["ok"] is False
    assert found["problems"][0]["where"] == "plans[0].key"


def test_settings_are_checked_too(tmp_path: Path) -> None:
    """An unknown setting is refused, naming file and key."""
    path = tmp_path / "tallyd.toml"
    path.write_text("[http]\nbnid = 'x'\n")
    done = check("--config", path)
    assert done.exit_code == 1
    assert "bnid" in done.stderr


def test_a_catalog_that_is_not_there(tmp_path: Path) -> None:
    """A missing file is a problem like any other."""
    done = check("--catalog", tmp_path / "absent.toml")
    assert done.exit_code == 1
    assert "No such file" in done.stderr


def test_without_a_catalog_it_says_so() -> None:
    """No catalog is allowed, and said."""
    done = check()
    assert done.exit_code == 0
    assert "events are recorded but not charged" in done.stdout
