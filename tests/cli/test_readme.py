"""The README's commands about credits, run as a newcomer copies them."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from cli.commands import CATALOG, PROCESS_MAX_S
from tallyd.cli.child import child_daemon

README: Final = Path(__file__).parents[2] / "README.md"
ASK: Final = """
import socket, sys
with socket.socket(socket.AF_UNIX) as daemon:
    daemon.connect(sys.argv[1])
    daemon.sendall(sys.argv[2].encode() + b"\\n")
    daemon.shutdown(socket.SHUT_WR)
    sys.stdout.write(daemon.makefile().read())
"""
DATED: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d|(?<=Included with Prepaid) for .*(?=  \+)")
"""What depends on the day: when it was, and how its period is called."""


def blocks(heading: str, language: str) -> list[str]:
    """Return the blocks of code of a language under a heading of the README."""
    section = README.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def undated(text: str) -> list[list[str]]:
    """Return the words of each line, but those that depend on the day."""
    return [DATED.sub("", line).split() for line in text.splitlines()]


@pytest.mark.process
def test_credits_are_sold_as_the_readme_says(tmp_path: Path) -> None:
    """Sell, check, reserve, settle: the commands work one after another, and the statement is the one shown."""
    (shown,) = blocks("Sell credits", "text")
    (tmp_path / "ask.py").write_text(ASK)
    with child_daemon(["--data-dir", str(tmp_path / "data"), "--catalog", str(CATALOG)]) as child:
        prelude = (
            f'tallyd() {{ "{sys.executable}" -m tallyd "$@"; }}\n'
            f'ask() {{ "{sys.executable}" ask.py "{child.socket}" "$1"; }}\n'
        )
        script = prelude + "set -e\n" + "".join(blocks("Sell credits", "sh"))
        done = subprocess.run(
            ["sh", "-c", script],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PROCESS_MAX_S,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert '"error"' not in done.stdout
    assert "held       80" in done.stdout
    assert undated(done.stdout)[-len(shown.splitlines()) :] == undated(shown)
