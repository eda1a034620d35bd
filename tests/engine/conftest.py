"""A stage for the engine's tests: a scripted scheduler and a clock that stands still."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.scripted import Stage
else:
    from scripted import Stage


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """Give a run on a scripted scheduler, stepped by hand."""
    made = Stage(tmp_path, monkeypatch)
    yield made
    made.close()
