"""What all tests share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import settings

from harness import Running, running

# Under CI=1 Hypothesis would repeat the same examples for ever; new ones each run find more. A failure prints
# the line that repeats it.
settings.register_profile("tallyd", derandomize=False, deadline=None, print_blob=True)
settings.load_profile("tallyd")


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Running]:
    """Run a daemon with the harness's catalog at the harness's time."""
    async with running(tmp_path) as started:
        yield started
