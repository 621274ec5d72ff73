"""The README's commands, run as a newcomer copies them: one after another, on one daemon."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from cli.commands import CATALOG, PROCESS_MAX_S
from tallyd.cli.child import child_daemon

README: Final = Path(__file__).parents[2] / "README.md"
NC: Final = """
import socket, sys
with socket.socket(socket.AF_UNIX) as daemon:
    daemon.connect(sys.argv[1])
    daemon.sendall(sys.stdin.buffer.read())
    daemon.shutdown(socket.SHUT_WR)
    sys.stdout.write(daemon.makefile().read())
"""
CURL: Final = """
import sys, urllib.error, urllib.request
_, address, silent, header, authorization, url, *data = sys.argv
url = url.replace("http://127.0.0.1:8787", address)
body = data[1].encode() if data else None
headers = {"Authorization": authorization.partition(": ")[2], "Content-Type": "application/json"}
try:
    with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:
        print(answer.read().decode(), end="")
except urllib.error.HTTPError as error:
    print(error.read().decode(), end="")
"""
SERVES: Final = "tallyd serve --data-dir ./data --catalog config/catalog.toml"
DATED: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d|(?<=Included with Prepaid) for .*(?=  \+)")
"""What depends on the day: when it was, and how its period is called."""


def blocks(heading: str, language: str) -> list[str]:
    """Return the blocks of code of a language under a heading of the README."""
    section = README.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def undated(text: str) -> list[list[str]]:
    """Return the words of each line that has some, but those that depend on the day and the rules of tables."""
    lines = [DATED.sub("", line).replace("─", "").split() for line in text.splitlines()]
    return [line for line in lines if line]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Run the commands of the sections in order, and return what each has printed."""
    directory = tmp_path_factory.mktemp("newcomer")
    (directory / "nc.py").write_text(NC)
    (directory / "curl.py").write_text(CURL)
    headings = ("Run it", "Sell credits", "Bill subscriptions")
    options = ["--data-dir", str(directory / "data"), "--catalog", str(CATALOG)]
    with child_daemon(options, http="127.0.0.1:0") as child:
        python = f'"{sys.executable}"'
        prelude = (
            f'tallyd() {{ {python} -m tallyd "$@"; }}\n'
            f'nc() {{ {python} nc.py "{child.socket}"; }}\n'
            f'curl() {{ {python} curl.py "{child.http}" "$@"; }}\n'
            "set -e\n"
        )
        sections = []
        for heading in headings:
            first, *others = blocks(heading, "sh")
            commands = others if first.startswith(SERVES) else [first, *others]
            sections.append(f"echo '=== {heading}'\n" + "".join(commands))
        done = subprocess.run(
            ["sh", "-c", prelude + "\n".join(sections)],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=PROCESS_MAX_S,
            check=False,
        )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    parts = done.stdout.split("=== ")[1:]
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


@pytest.mark.process
def test_the_daemon_is_run_as_the_readme_says(said: dict[str, str]) -> None:
    """Subscribe, pay, report, ask, look, verify: nothing is refused."""
    text = said["Run it"]
    assert '"success":false' not in text
    assert '"error"' not in text
    assert '"revenueAmount":1.20' in text
    assert '"costAmount":0.0075000' in text
    assert text.count('"allowed":true') == 2
    assert "allowed: acme → api" in text
    assert "The next invoice, as it would be" in text
    assert "no difference" in text


@pytest.mark.process
def test_credits_are_sold_as_the_readme_says(said: dict[str, str]) -> None:
    """Sell, check, reserve, settle: the commands work one after another, and the statement is the one shown."""
    (shown,) = blocks("Sell credits", "text")
    text = said["Sell credits"]
    assert '"error"' not in text
    assert "held       80" in text
    assert undated(text)[-len(undated(shown)) :] == undated(shown)


@pytest.mark.process
def test_subscriptions_are_billed_as_the_readme_says(said: dict[str, str]) -> None:
    """Subscribe, pay, use, upgrade, and the month is over: the invoice is the one shown."""
    (shown,) = blocks("Bill subscriptions", "text")
    text = said["Bill subscriptions"]
    assert '"error"' not in text
    assert "75.00" in text
    words = undated(text)
    begins = max(place for place, line in enumerate(words) if line[0] == "Invoice")
    assert words[begins:][: len(undated(shown))] == undated(shown)


@pytest.mark.process
def test_the_first_thing_that_is_tried_is_the_demo() -> None:
    """The README's first command is the demo, which tests/cli/test_demo.py runs."""
    assert blocks("Try it", "sh")[0].rstrip().endswith("uv run --locked --no-dev tallyd demo")
