"""This plugin: ``python -m benchmarks.contestants.ours BACKEND``."""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.contestants.protocol import serve
from pytest_clusterjobs import cluster


def main(backend: str) -> None:
    """Serve with jobs on a backend."""

    @cluster(backend=backend)
    def double(number: int) -> int:
        return 2 * number

    def check(values: list[Any]) -> None:
        assert values == [2 * number for number in range(len(values))]

    serve(
        {
            "one": lambda _: check([double(0)]),
            "separate": lambda count: check([job.result() for job in [double.submit(i) for i in range(count)]]),
            "map": lambda count: check(double.map(range(count))),
        }
    )


if __name__ == "__main__":
    main(sys.argv[1])
