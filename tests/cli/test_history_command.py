"""``clusterjobs history`` on runs that were written as pytest writes them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pytest_clusterjobs.cli.main import main
from pytest_clusterjobs.reports import history
from tests.reports.samples import run_report


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    root = tmp_path / "project"
    (root / "tests" / "inner").mkdir(parents=True)
    monkeypatch.chdir(root / "tests" / "inner")
    return root


@pytest.fixture
def runs(project: Path) -> Path:
    for jobs in (30, 9, 30):  # without the tenth job nothing fails
        report = replace(run_report(jobs), run_id=os.urandom(4).hex())
        assert history.record(history.default_path(), str(project), report, 100)
    return project


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["history", *arguments])


def test_it_tells_of_the_project_around_here(runs: Path) -> None:
    result = call()
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[0] == f"{runs}: 3 runs, 2025-03-01 to 2025-03-01"
    assert lines[2] == "pbs 3 23 91.3% ▇█▇ 0 5.00 s (+0%) ███ 10 s (+0%) ███"
    assert lines[3] == "slurm 3 46 91.3% ▇█▇ 0 5.00 s (+0%) ███ 10 s (+0%) ███"


def test_json_has_all_of_it(runs: Path) -> None:
    told = json.loads(call("--json", "--backend=slurm", "--runs=2").stdout)
    (backend,) = told["backends"]
    assert (told["project"], backend["backend"], len(backend["points"])) == (str(runs), "slurm", 2)
    assert backend["points"][0]["started_at"] == "2025-03-01T12:00:00+00:00"
    assert backend["pass_rate"] == pytest.approx(24 / 26)


def test_flaky_tests_are_listed_and_brackets_stay(project: Path) -> None:
    (failed,) = run_report(10).failures
    for outcome in ("failed", "passed", "failed"):
        report = replace(run_report(0), tests=(replace(failed, outcome=outcome),))
        assert history.record(history.default_path(), str(project), report, 100)
    row = [history.anonymous(failed.nodeid), "slurm", "3", "2", "2", "0"]
    assert row in [line.split() for line in call().stdout.splitlines()]


def test_another_project_can_be_named_and_an_unknown_one_is_refused(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    assert call("--project", str(runs)).exit_code == 0
    result = call()
    assert result.exit_code == 1
    assert f"no run of / is remembered in {history.default_path()}; there are runs of: {runs}" in result.stderr


def test_without_any_history_it_says_so(project: Path) -> None:
    result = call()
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"no run of {project / 'tests' / 'inner'} is remembered" in result.stderr


def test_an_unknown_backend_is_a_usage_error(runs: Path) -> None:
    result = call("--backend=slrm")
    assert result.exit_code == 2
    assert "no run on 'slrm' is remembered; known: pbs, slurm — did you mean 'slurm'?" in result.stderr


def test_a_damaged_history_is_an_error_without_a_traceback(runs: Path) -> None:
    Path(history.default_path()).write_bytes(b"no database" * 1000)
    result = call()
    assert result.exit_code == 1
    assert "Error: history: " in result.stderr
    assert "it can be removed" in result.stderr
