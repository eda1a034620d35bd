import pytest


def shared(x: int) -> int:
    return x + 100


@pytest.fixture
def numbers() -> list[int]:
    return [1, 2, 3]
