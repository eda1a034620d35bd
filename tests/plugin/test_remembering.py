"""Runs are remembered for ``clusterjobs history``: once, by whoever reports, and only when tests ran on a backend."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_clusterjobs.reports import history

TESTS = """
import pytest
from pytest_clusterjobs import cluster

@cluster
def test_body(): pass

@pytest.mark.real_world
@pytest.mark.parametrize("number", [1, 2])
def test_fails(number): assert number == 1
"""


@pytest.fixture
def remembered(project: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    project.makepyfile(test_a=TESTS)
    return tmp_path / "state" / "clusterjobs" / "history.sqlite3"


def runs(path: Path, project: pytest.Pytester) -> list[list[tuple[str, str, str]]]:
    found: dict[int, list[tuple[str, str, str]]] = {}
    for test in history.read(str(path), str(project.path), 100):
        found.setdefault(test.run, []).append((test.name.partition("::")[2][:10], test.backend, test.outcome))
    return [sorted(each) for each in found.values()]


@pytest.mark.parametrize("options", [[], ["-n2"]], ids=["alone", "xdist"])
def test_each_run_is_remembered_once(project: pytest.Pytester, remembered: Path, options: list[str]) -> None:
    expected = [("test_body", "local", "passed"), *(("test_fails", "local", word) for word in ("failed", "passed"))]
    for _ in range(2):
        project.runpytest_subprocess("--cluster=local", *options).assert_outcomes(passed=2, failed=1)
    told = [[(name.rstrip("["), *rest) for name, *rest in run] for run in runs(remembered, project)]
    assert told == [sorted(expected), sorted(expected)]


@pytest.mark.parametrize(
    "options", [["--cluster=local", "--cluster-history=off"], ["--cluster=local", "--collect-only"], []], ids=" ".join
)
def test_nothing_is_remembered(project: pytest.Pytester, remembered: Path, options: list[str]) -> None:
    project.runpytest_inprocess(*options)
    assert not remembered.exists()


def test_the_option_says_how_many(project: pytest.Pytester, remembered: Path) -> None:
    for _ in range(3):
        project.runpytest_inprocess("--cluster=local", "--cluster-history=2", "test_a.py::test_body")
    assert len(runs(remembered, project)) == 2
    result = project.runpytest_inprocess("--cluster=local", "--cluster-history=few")
    result.stderr.fnmatch_lines(["ERROR: --cluster-history: 'few' is neither a number of runs nor off"])


def test_what_cannot_be_remembered_is_said_and_no_failure(project: pytest.Pytester, remembered: Path) -> None:
    os.makedirs(remembered)
    result = project.runpytest_inprocess("--cluster=local", "test_a.py::test_body")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["problem: history: */history.sqlite3: *; --cluster-history=off switches it off"])
