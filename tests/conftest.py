"""What all tests share."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from werkzeug.routing import Rule

from harness import Running, running

# Under CI=1 Hypothesis would repeat the same examples for ever; new ones each run find more. A failure prints
# the line that repeats it.
settings.register_profile("tallyd", derandomize=False, deadline=None, print_blob=True)
settings.load_profile("tallyd")

_compile_builder = Rule._compile_builder


def _compile_when_asked(rule: Rule, append_unknown: bool = True) -> Callable[..., Any]:
    """Put off what builds URLs out of a route: nobody asks for it, and it costs most of a start."""

    def build(itself: Rule, **values: Any) -> Any:
        return _compile_builder(rule, append_unknown)(itself, **values)

    return build


Rule._compile_builder = _compile_when_asked  # type: ignore[method-assign]


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Running]:
    """Run a daemon with the harness's catalog at the harness's time."""
    async with running(tmp_path) as started:
        yield started
