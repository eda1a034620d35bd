"""A module beside the tests: it is not installed, and must travel."""

SCALE = 3


def scaled(x: int) -> int:
    return x * SCALE


class Thing:
    def __init__(self, n: int) -> None:
        self.n = n
