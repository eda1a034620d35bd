"""The history: what is written, that it stays small and private, and what is read from it."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.reports import history
from pytest_clusterjobs.reports.history import Flaky, HistoryError
from pytest_clusterjobs.reports.model import ReportedTest, RunReport
from tests.reports.samples import job, run_report

PROJECT = "/home/me/project"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state" / "clusterjobs" / "history.sqlite3")


def ran(outcomes: dict[str, str], run_id: str = "0badcafe", run_time_s: float = 10.0, **facts: Any) -> RunReport:
    """Give the report of a run whose tests ended so on Slurm."""
    record = job(0)
    record["metrics"]["run_time_s"] = run_time_s
    tests = tuple(
        ReportedTest(f"test_a.py::{name}", outcome, "slurm", jobs=(record,), **facts)
        for name, outcome in outcomes.items()
    )
    return replace(run_report(0), tests=tests, run_id=run_id)


def remember(path: str, *reports: RunReport, project: str = PROJECT, keep_runs: int = 100) -> None:
    for report in reports:
        assert history.record(path, project, report, keep_runs)


def test_what_ran_is_read_again(path: str) -> None:
    remember(path, run_report(30))
    tests = history.read(path, PROJECT, 10)
    assert len(tests) == 30
    assert {test.outcome for test in tests if not test.has_passed} == {"failed"}
    (first,) = {test.run_id: test for test in tests}.values()
    assert (first.run_id, first.started_at, first.jobs) == ("1a2b3c4d", run_report(0).started_at, 1)
    assert (first.queue_time_s, first.run_time_s) == (5.0, 10.0)


def test_a_run_without_a_test_on_a_backend_leaves_no_file(path: str) -> None:
    skipped = ReportedTest("test_a.py::test_x", "skipped", "slurm")
    plain = ReportedTest("test_a.py::test_y", "passed")
    assert not history.record(path, PROJECT, replace(run_report(0), tests=(skipped, plain)), 100)
    assert not os.path.exists(path)


def test_it_is_for_its_user_alone(path: str) -> None:
    remember(path, ran({"test_x": "passed"}))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700


def test_no_value_of_a_parameter_is_written_and_its_test_is_known_again(path: str) -> None:
    for nodeid in ("test_x[hunter2-3]", "test_x[slurm-hunter2-3]"):
        remember(path, ran({nodeid: "passed"}, reruns=0))
    assert b"hunter2" not in Path(path).read_bytes()
    names = {test.name for test in history.read(path, PROJECT, 10)}
    assert names == {history.anonymous("test_a.py::test_x[hunter2-3]")}
    assert history.anonymous("test_a.py::test_x[1]") != history.anonymous("test_a.py::test_x[2]")


def test_logs_arguments_and_environments_are_not_written(path: str) -> None:
    record = {**job(1), "detail": "hunter2", "requested": {"cores": 1, "env": ["hunter2"]}, "submit_command": "hunter2"}
    test = ReportedTest("test_a.py::test_x", "failed", "slurm", reason="hunter2", text="hunter2", jobs=(record,))
    remember(path, replace(run_report(0), tests=(test,), rerun="hunter2", kept=("hunter2",)))
    assert b"hunter2" not in Path(path).read_bytes()


def test_the_oldest_runs_of_a_project_go(path: str) -> None:
    remember(path, ran({"test_x": "passed"}, "other"), project="/other")
    for number in range(7):
        remember(path, ran({"test_x": "passed"}, f"{number}"), keep_runs=3)
    assert [test.run_id for test in history.read(path, PROJECT, 100)] == ["4", "5", "6"]
    assert [test.run_id for test in history.read(path, PROJECT, 2)] == ["5", "6"]
    assert history.projects(path) == [PROJECT, "/other"]


def test_the_whole_file_is_bounded_but_the_newest_run_stays(path: str) -> None:
    def add(run_id: str, tests: int) -> list[str]:
        report = ran({f"test_{number}": "passed" for number in range(tests)}, run_id)
        assert history.record(path, PROJECT, report, 100, max_tests=1000)
        return list(dict.fromkeys(test.run_id for test in history.read(path, PROJECT, 100)))

    assert [add(str(number), 300) for number in range(4)][-1] == ["1", "2", "3"]
    size = os.path.getsize(path)
    for number in range(4, 12):
        add(str(number), 300)
    assert os.path.getsize(path) <= size * 1.1
    assert add("large", 2000) == ["large"]
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM test").fetchone() == (2000,)
    database.close()


def test_two_writers_at_once_both_write(path: str) -> None:
    code = (
        "import sys; from tests.reports.test_history import ran, remember\n"
        "for number in range(20): remember(sys.argv[1], ran({'test_x': 'passed'}, sys.argv[2] + str(number)))"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    writers = [subprocess.Popen([sys.executable, "-c", code, path, name], env=environment) for name in "ab"]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    assert len(history.read(path, PROJECT, 100)) == 40


def spoil_text(path: str) -> None:
    Path(path).write_text("no database, but as long as a page of one" * 200)


def spoil_version(path: str) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()


def spoil_kind(path: str) -> None:
    os.unlink(path)
    os.mkdir(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_text, "file is not a database; it can be removed"),
        (spoil_version, "layout 99, this version knows 1; it can be removed"),
        (spoil_kind, "(Is a directory|unable to open database file)"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(path: str, spoil: Callable[[str], None], message: str) -> None:
    remember(path, ran({"test_x": "passed"}))
    spoil(path)
    for use in (lambda: remember(path, ran({"test_x": "passed"})), lambda: history.read(path, PROJECT, 1)):
        with pytest.raises(HistoryError, match=f"^history: {path}.* {message}$"):
            use()


def test_a_locked_file_holds_nobody_up_for_long(path: str) -> None:
    remember(path, ran({"test_x": "passed"}))
    holder = sqlite3.connect(path)
    try:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(HistoryError, match="locked"):
            remember(path, ran({"test_x": "passed"}))
    finally:
        holder.close()


def test_the_trend_of_a_backend(path: str) -> None:
    for number, seconds in enumerate([10.0, 10.0, 12.0, 12.0]):
        remember(path, ran({"test_x": "passed", "test_y": "failed"}, str(number), seconds))
    remember(path, ran({"test_new": "error"}, "4", 99.0, is_infrastructure=True))
    (trend,) = history.trends(history.read(path, PROJECT, 10))
    assert [(point.run_id, point.tests, point.passed) for point in trend.points] == [
        *((str(number), 2, 1) for number in range(4)),
        ("4", 1, 0),
    ]
    assert (trend.backend, trend.troubles) == ("slurm", 1)
    assert trend.pass_rate == pytest.approx(4 / 9)
    assert trend.run_change == pytest.approx(0.2)
    assert (trend.queue_change, trend.points[0].run_time_s, trend.points[3].run_time_s) == (0.0, 10.0, 12.0)


def test_a_single_run_has_no_trend(path: str) -> None:
    remember(path, ran({"test_x": "passed"}))
    (trend,) = history.trends(history.read(path, PROJECT, 10))
    assert (trend.run_change, trend.queue_change, trend.pass_rate) == (None, None, 1.0)


def test_flaky_tests_are_those_that_change_or_needed_another_try(path: str) -> None:
    for number in range(6):
        changing = "failed" if number in (2, 3, 5) else "passed"
        remember(path, ran({"test_changes": changing, "test_breaks": "failed", "test_holds": "passed"}, str(number)))
    remember(path, ran({"test_again": "passed"}, "6", reruns=2))
    remember(path, ran({"test_holds": "error"}, "7", is_infrastructure=True))
    assert history.flaky(history.read(path, PROJECT, 10)) == [
        Flaky("test_a.py::test_changes", "slurm", runs=6, failed=3, changes=3, reruns=0),
        Flaky("test_a.py::test_again", "slurm", runs=1, failed=0, changes=0, reruns=2),
    ]


def test_the_file_is_where_the_specification_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for value, expected in {"": "/home/me/.local/state", "rel": "/home/me/.local/state", "/state": "/state"}.items():
        monkeypatch.setenv("XDG_STATE_HOME", value)
        assert history.default_path() == f"{expected}/clusterjobs/history.sqlite3"
