"""Runs whose process is dead are cleaned up after; living ones, and what was kept on purpose, are left alone."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_clusterjobs.core.spec import JobSpec
from pytest_clusterjobs.engine import closing
from pytest_clusterjobs.engine import reap as reap_module
from pytest_clusterjobs.engine.opening import backend_alone
from pytest_clusterjobs.engine.reap import ReapReport, reap_run, reap_workdir, why_spared
from pytest_clusterjobs.engine.store import Store, run_facts
from pytest_clusterjobs.transports.local import LocalTransport

if TYPE_CHECKING:
    from tests.scripted import Stage
else:
    from scripted import Stage


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give jobs that will not go a moment instead of 15 s."""
    monkeypatch.setattr(closing, "_GONE_S", 0.1)
    monkeypatch.setattr(closing, "_LOOK_AGAIN_S", 0.01)


@pytest.fixture
def dead(stage: Stage) -> Stage:
    """Give a run with two jobs whose process has died without a word."""
    for _ in range(2):
        stage.open().submit_command("true", JobSpec())
    stage.die()
    return stage


def reap(stage: Stage, *, keep: bool = False, kept_too: bool = False) -> ReapReport:
    [report] = reap_workdir(str(stage.root / "work"), keep=keep, kept_too=kept_too)
    return report


def test_jobs_of_a_dead_run_are_cancelled_and_its_directory_removed(dead: Stage) -> None:
    report = reap(dead)
    assert (report.run_id, report.status) == ("0badcafe", "dead")
    assert report.cancelled == ["scripted:1", "scripted:2"]
    assert dead.backend.cancels[0] == ["1", "2"]
    assert report.is_removed
    assert not (dead.root / "work").exists()


def test_living_run_is_left_alone(stage: Stage) -> None:
    stage.command()
    report = reap(stage)
    assert report.status == f"alive: process {os.getpid()}"
    assert (report.cancelled, report.is_removed) == ([], False)
    assert stage.backend.cancels == []
    assert os.path.isdir(stage.run.directory)


@pytest.mark.parametrize(
    ("changes", "is_spared"),
    [
        ({}, True),
        ({"pid_started": 1}, False),  # the number was given to another process since
        ({"boot_id": "another"}, False),  # as was every number after a reboot
        ({"host": "another"}, True),
        ({"is_closed": True, "pid_started": 1}, True),
    ],
)
def test_run_is_dead_only_if_its_very_process_is(changes: dict[str, Any], is_spared: bool) -> None:
    facts = {**run_facts("0badcafe", os.getpid()), **changes}
    assert bool(why_spared(facts)) is is_spared


def test_run_of_another_host_says_where_to_go(dead: Stage) -> None:
    path = next((dead.root / "work").glob("*/run.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "host": "login7"}))
    assert reap(dead).status == "belongs to login7; run this there"


def test_what_was_kept_stays_unless_it_is_asked_for(stage: Stage) -> None:
    job = stage.started()
    stage.mark(job, 1)
    stage.turn()
    stage.run.close()
    assert reap(stage).is_removed is False
    assert os.path.isdir(job.record.directory)
    assert reap(stage, kept_too=True).is_removed
    assert not (stage.root / "work").exists()


def test_directory_is_left_when_that_is_asked_for(dead: Stage) -> None:
    report = reap(dead, keep=True)
    assert report.cancelled == ["scripted:1", "scripted:2"]
    assert not report.is_removed
    assert (dead.root / "work" / "0badcafe").is_dir()


def test_scheduler_that_is_down_keeps_the_directory_for_another_try(dead: Stage) -> None:
    dead.backend.is_down = True
    report = reap(dead)
    assert report.problems == ["scripted: the controller is down"]
    assert not report.is_removed
    dead.backend.is_down = False
    assert reap(dead).is_removed


def test_jobs_that_will_not_go_keep_the_directory(dead: Stage) -> None:
    dead.backend.obeys = False
    report = reap(dead)
    assert report.left == ["scripted:1", "scripted:2"]
    assert not report.is_removed


def test_journal_cut_off_by_the_crash_is_read_as_far_as_it_goes(dead: Stage) -> None:
    with open(dead.root / "work" / "0badcafe" / "main" / "journal.jsonl", "a") as journal:
        journal.write('{"event": "intent", "ba')
    assert reap(dead).cancelled == ["scripted:1", "scripted:2"]


def test_backend_that_is_not_known_any_more_is_a_problem_and_no_crash(dead: Stage) -> None:
    with open(dead.root / "work" / "0badcafe" / "main" / "journal.jsonl", "a") as journal:
        journal.write('{"event": "intent", "backend": "gone"}\n')
    report = reap(dead)
    assert any("no backend named 'gone'" in problem for problem in report.problems)
    assert report.cancelled == ["scripted:1", "scripted:2"]


@pytest.mark.parametrize("text", ["", '{"pid": 1', "[]", "{}"])
def test_damaged_run_file_stops_no_other_run_s_cleaning(dead: Stage, text: str) -> None:
    """It raised, and nothing was reaped."""
    damaged = dead.root / "work" / "00000000"
    damaged.mkdir()
    (damaged / "run.json").write_text(text)
    first, second = reap_workdir(str(dead.root / "work"))
    assert "cannot be read" in first.status
    assert damaged.is_dir()
    assert second.is_removed


def test_run_that_cannot_be_locked_stops_no_other_run_s_cleaning(dead: Stage) -> None:
    work = dead.root / "work"
    (work / "00000000").mkdir()
    shutil.copy(work / "0badcafe" / "run.json", work / "00000000")
    (work / "00000000" / "shared").write_text("in the way")
    first, second = reap_workdir(str(work))
    assert "cannot make the directory" in first.problems[0]
    assert second.is_removed


def test_run_that_another_reaper_has_removed_leaves_nothing(dead: Stage) -> None:
    store = Store(LocalTransport(), str(dead.root / "work"), "0badcafe", "main", os.getpid())
    facts = store.read_json(store.run_file)
    store.transport.remove(store.root)
    report = ReapReport("0badcafe")
    reap_module._reap_dead(report, store, facts, backend_alone, keep=False)
    assert (report.status, report.is_removed) == ("removed by another process", False)
    assert not os.path.exists(store.root)


def test_other_files_in_the_work_directory_are_not_ours(dead: Stage) -> None:
    (dead.root / "work" / "notes.txt").write_text("mine")
    (dead.root / "work" / "folder").mkdir()
    assert reap(dead).is_removed
    assert sorted(os.listdir(dead.root / "work")) == [".gitignore", "folder", "notes.txt"]


def test_work_directory_that_is_missing_is_nothing_to_do(tmp_path: Path) -> None:
    assert reap_workdir(str(tmp_path / "none")) == []


def test_run_is_reaped_by_its_id_alone(dead: Stage) -> None:
    report = reap_run("0badcafe", ["scripted", "local"])
    assert report.cancelled == ["scripted:1", "scripted:2"]
    assert report.status == "dead"
    other = reap_run("11111111", ["scripted", "local"])
    assert (other.cancelled, other.status) == ([], "no job of it was found on scripted, local")


def test_run_that_nobody_could_be_asked_about_is_a_problem() -> None:
    """It was called dead, with exit code 0, while the scheduler was down and its jobs ran."""
    report = reap_run("0badcafe", [])
    assert report.status == "not looked for"
    assert report.problems == ["no backend answers whose jobs outlive their run: see clusterjobs check"]
