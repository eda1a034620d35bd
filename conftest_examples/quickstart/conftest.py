"""Fixtures run here, where pytest runs; their values travel to the node with the test's body."""

import pytest


@pytest.fixture
def readings() -> list[float]:
    return [20.5, 21.0, 19.5, 23.0]
