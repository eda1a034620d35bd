"""The matrix of tests and places that a CI system can make its steps of, written instead of running anything."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pytest_clusterjobs.plugin.collecting import parameter_of, parametrizes_itself
from pytest_clusterjobs.plugin.items import ITEM

if TYPE_CHECKING:
    from pytest_clusterjobs.plugin.session import ClusterSession


class Matrix:
    """Writes the file of ``--cluster-matrix`` once the tests are collected.

    Raises:
        pytest.UsageError: Tests are to be run.
    """

    def __init__(self, session: ClusterSession) -> None:
        if not session.config.option.collectonly:
            source = session.values.sources["matrix"]
            raise pytest.UsageError(f"{source}: it is written where tests are only collected; add --collect-only")
        self._path = session.values.matrix
        self._count = 0

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Write a step for each test that would be submitted, and the place where."""
        steps = [
            {"cluster": known.plan.backends[0], "test": id_on_one(item)}
            for item in session.items
            if (known := item.stash.get(ITEM, None)) is not None and known.plan.backends
        ]
        self._count = len(steps)
        try:
            with open(self._path, "w", encoding="utf-8") as file:
                json.dump({"include": steps}, file)
                file.write("\n")
        except OSError as error:
            raise pytest.UsageError(f"--cluster-matrix: cannot write {self._path}: {error.strerror}") from None

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was written; nothing to run is seldom what was meant."""
        missing = "" if self._count else "; name places with --cluster, and select tests that may run there"
        steps = f"{self._count} step{'s' if self._count != 1 else ''}"
        terminalreporter.write_line(f"clusterjobs: a matrix of {steps}: {self._path}{missing}")


def id_on_one(item: pytest.Item) -> str:
    """Give a test's id as it is when ``--cluster`` names one place alone: without that place's name."""
    place = parameter_of(item)
    if place is None or parametrizes_itself(item):
        return item.nodeid
    name, _, parameters = item.name.partition("[")
    rest = parameters.removesuffix("]").removeprefix(place).removeprefix("-")
    return item.nodeid.removesuffix(item.name) + name + (f"[{rest}]" if rest else "")
