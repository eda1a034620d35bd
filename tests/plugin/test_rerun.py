"""The command that runs again what failed: given to a shell as it is, it runs just that, with the same options."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

FAILING = """
import pytest

@pytest.mark.real_world
@pytest.mark.parametrize("text", ["a b", "it's", "$HOME `id` \\\\", "[x]", "fine"])
def test_quoted(text): assert text == "fine"

@pytest.mark.real_world
def test_passes(): pass

@pytest.fixture
def broken(): raise RuntimeError

@pytest.mark.real_world
def test_setup(broken): pass
"""


def report(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def failures(loaded: dict[str, Any]) -> list[str]:
    return sorted(test["nodeid"] for test in loaded["tests"] if test["outcome"] in ("failed", "error"))


def again(folder: Path, command: str, name: str = "out.json") -> dict[str, Any]:
    """Give a command to a shell, and the report that it makes."""
    (folder / name).unlink()
    subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, timeout=120, check=False)
    return report(folder / name)


@pytest.mark.parametrize("options", [[], ["-n2"], ["-n2", "--dist=loadgroup"]], ids=" ".join)
def test_the_command_runs_what_failed_and_nothing_else(project: pytest.Pytester, options: list[str]) -> None:
    if options:
        pytest.importorskip("xdist")
    project.makepyfile(
        test_a=FAILING + "\n@pytest.mark.xdist_group('g')\ndef test_grouped(): assert 0\n", test_b="import x"
    )
    result = project.runpytest_subprocess(
        "--cluster=local",
        "--cluster-report=out.json",
        "--continue-on-collection-errors",
        *options,
        "test_a.py",
        "test_b.py",
    )
    first = report(project.path / "out.json")
    assert len(first["tests"]) == 9
    result.stdout.fnmatch_lines([f"run again what failed: {glob_of(first['rerun'])}"])
    second = again(project.path, first["rerun"])
    assert failures(second) == failures(first)
    assert len(second["tests"]) == len(failures(first)) == 7
    assert second["backends"] == first["backends"]
    assert sorted(shlex.split(second["rerun"])) == sorted(set(shlex.split(first["rerun"])))


def glob_of(text: str) -> str:
    return "".join("?" if letter in "[]*?" else letter for letter in text)


def test_values_of_options_are_not_taken_for_files(project: pytest.Pytester) -> None:
    project.makepyfile(test_a=FAILING)
    project.runpytest_subprocess("-k", "test_a.py", "-m", "real_world", "--cluster-report", "out.json", "test_a.py")
    first = report(project.path / "out.json")
    assert " -k test_a.py -m real_world --cluster-report out.json 'test_a.py::test_quoted[a b]' " in first["rerun"]
    assert failures(again(project.path, first["rerun"])) == failures(first)


def test_what_variables_said_is_said_by_options(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    project.makepyfile(test_a=FAILING)
    for name, value in {"CLUSTER": "local", "RUN_EXPENSIVE": "yes", "UP": "no", "DEFAULT": "local"}.items():
        monkeypatch.setenv(f"CLUSTERJOBS_{name}", value)
    project.runpytest_inprocess("--cluster-report=out.json", "test_a.py::test_setup")
    command = report(project.path / "out.json")["rerun"]
    options = "--cluster=local -o clusterjobs_default=local --run-expensive"
    assert command.endswith(f" --cluster-report=out.json {options} test_a.py::test_setup")


def test_it_is_for_the_directory_where_pytest_was_started(project: pytest.Pytester) -> None:
    project.makeini("[pytest]")
    inner = project.mkdir("inner")
    (inner / "test_inner.py").write_text(FAILING)
    os.chdir(inner)
    project.runpytest_subprocess("--cluster=local", "--cluster-report=out.json")
    first = report(inner / "out.json")
    assert failures(first)[0].startswith("inner/test_inner.py::")
    assert failures(again(inner, first["rerun"])) == failures(first)


MANY = """
import pytest
@pytest.mark.real_world
@pytest.mark.parametrize("number", range(300))
def test_many(number): assert number % 2
"""


def test_many_failures_are_named_in_a_file(project: pytest.Pytester) -> None:
    if pytest.version_tuple < (8, 2):
        pytest.skip("pytest reads arguments from a file from 8.2 on")
    project.makepyfile(test_a=MANY)
    project.runpytest_subprocess("--cluster=local", "--cluster-report=out/run.json", "test_a.py")
    first = report(project.path / "out" / "run.json")
    assert first["rerun"].endswith(" --cluster=local --cluster-report=out/run.json @out/run.failed.txt")
    second = again(project.path, first["rerun"], "out/run.json")
    assert failures(second) == failures(first)
    assert (second["counts"]["failed"], second["counts"]["passed"]) == (150, 0)
    assert second["rerun"] == first["rerun"]


def test_without_a_report_pytest_remembers_many_failures(project: pytest.Pytester) -> None:
    project.makepyfile(test_a=MANY)
    result = project.runpytest_inprocess("--cluster=local", "test_a.py")
    result.stdout.fnmatch_lines(["run again what failed: *pytest --cluster=local --lf test_a.py"])
    forgetful = project.runpytest_inprocess("--cluster=local", "-p", "no:cacheprovider", "test_a.py")
    forgetful.stdout.fnmatch_lines(["run again what failed: *pytest --cluster=local -p no:cacheprovider test_a.py"])


def test_a_run_without_failures_has_none(project: pytest.Pytester) -> None:
    project.makepyfile("from pytest_clusterjobs import cluster\n@cluster\ndef test_x(): pass")
    project.runpytest_inprocess("--cluster=local").stdout.no_fnmatch_line("*run again*")
