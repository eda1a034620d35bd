"""Jobs of a run whose process has died go on in another run: found, watched, fetched, and left behind by nobody."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from traceback import walk_stack
from typing import TYPE_CHECKING, Any

import pytest

from pytest_clusterjobs.backends import registry
from pytest_clusterjobs.backends.base import Capability
from pytest_clusterjobs.core.errors import CommandError, JobLost, StoreError, SubmitLimit, SubmitUnknown, UsageError
from pytest_clusterjobs.core.spec import JobSpec, make_spec
from pytest_clusterjobs.core.state import ExitReason, JobState, JobStatus
from pytest_clusterjobs.engine import reap
from pytest_clusterjobs.engine.job import CommandOutcome, Job
from pytest_clusterjobs.engine.opening import backend_alone
from pytest_clusterjobs.engine.reap import reap_workdir
from pytest_clusterjobs.engine.reconnect import reconnect
from pytest_clusterjobs.engine.run import Run
from pytest_clusterjobs.engine.store import Store
from pytest_clusterjobs.engine.work import Work, command_work
from pytest_clusterjobs.transports.local import LocalTransport
from tests.watching import wait_for

if TYPE_CHECKING:
    from tests.scripted import COMPLETED, Stage
else:
    from scripted import COMPLETED, Stage

DEAD, NEW = "0badcafe", "11111111"
ON_NODE = JobStatus(JobState.RUNNING, "RUNNING", nodes="n7")


def next_run(stage: Stage, **settings: Any) -> Run:
    """Have the process of the runs so far die, and start another."""
    stage.die()
    return stage.open(run_id=NEW, **settings)


def reconnected(stage: Stage, **settings: Any) -> list[Job[Any]]:
    return reconnect(next_run(stage, **settings), DEAD)


def workdir(stage: Stage) -> str:
    return str(stage.root / "work")


def drop(stage: Stage, job: Job[Any]) -> None:
    """Have the scheduler forget a job."""
    del stage.backend.queue[job.native_id]


def store_of_the_dead(run: Run) -> Store:
    return Store(LocalTransport(), run.settings.workdir, DEAD, "main", os.getpid())


def waiting_for_locks() -> int:
    """Count the threads that are in `Store.locked`, before its body."""
    stacks = [{code.f_code.co_name for code, _ in walk_stack(frame)} for frame in sys._current_frames().values()]
    return sum("locked" in names for names in stacks)


# ---------------------------------------------------------------- what is found


def test_running_job_is_back_with_its_id_name_and_node(stage: Stage) -> None:
    old = stage.started(cores=3)
    stage.backend.says(old.native_id, ON_NODE)
    [job] = reconnected(stage)
    record = job.record
    assert (job.job_id, job.native_id, record.name) == (old.job_id, old.native_id, old.record.name)
    assert (job.state, job.metrics.nodes) == (JobState.RUNNING, ("n7",))
    assert (record.run_id, record.backend, record.label) == (DEAD, "scripted", "getpid")
    assert (record.directory, record.spec.cores) == (old.record.directory, 3)
    assert record.metrics.submitted_at == old.record.metrics.submitted_at


def test_polling_after_reconnect_finishes_and_gives_the_value(stage: Stage) -> None:
    stage.started()
    [job] = reconnected(stage)
    stage.finish(job, {"answer": 42})
    assert job.result(0) == {"answer": 42}
    assert job.state is JobState.COMPLETED
    assert stage.run.records == [job.record]


def test_pending_job_starts_and_ends(stage: Stage) -> None:
    stage.call()
    [job] = reconnected(stage)
    assert job.state is JobState.PENDING
    stage.start(job)
    assert job.state.value == "RUNNING"
    stage.finish(job, 5)
    assert job.result(0) == 5


def test_command_gives_a_command_s_outcome(stage: Stage) -> None:
    stage.command("echo hello")
    [job] = reconnected(stage)
    Path(job.record.directory, "stdout.log").write_text("hello\n")
    stage.finish(job)
    assert job.result(0) == CommandOutcome(0, "hello\n", "")
    assert job.logs().stdout == "hello\n"


def test_job_whose_end_was_seen_is_left_out(stage: Stage) -> None:
    first, second = stage.started(), stage.started()
    stage.finish(first, 1)
    assert [job.native_id for job in reconnected(stage)] == [second.native_id]


@pytest.mark.parametrize("is_shown", [True, False])
def test_job_that_ended_in_between_has_ended_and_gives_its_value(stage: Stage, is_shown: bool) -> None:
    old = stage.started()
    stage.envelope(old, 7)
    stage.mark(old, 0)
    stage.backend.says(old.native_id, COMPLETED)
    if not is_shown:
        drop(stage, old)
    [job] = reconnected(stage)
    assert job.record.state is JobState.COMPLETED
    assert job.result(0) == 7


def test_job_that_failed_in_between_says_how(stage: Stage) -> None:
    old = stage.started()
    stage.mark(old, 3)
    [job] = reconnected(stage)
    assert (job.state, job.reason, job.metrics.exit_code) == (JobState.FAILED, ExitReason.NONZERO_EXIT, 3)


def test_job_that_nobody_knows_any_more_is_lost_and_no_success(stage: Stage) -> None:
    old = stage.started()
    drop(stage, old)
    [job] = reconnected(stage, lost_after_s=4)
    assert not job.state.is_terminal
    stage.pass_time(15)
    with pytest.raises(JobLost, match="the book"):
        job.result(0)


def test_array_comes_back_element_by_element(stage: Stage) -> None:
    old = stage.open().submit([command_work("true", JobSpec())] * 3)
    stage.start(old[0])
    stage.finish(old[0])
    second, third = reconnected(stage)
    assert [second.native_id, third.native_id] == ["1_1", "1_2"]
    assert [second.record.directory, third.record.directory] == [each.record.directory for each in old[1:]]
    assert [second.record.name, third.record.name] == [each.record.name for each in old[1:]]
    assert second.record.submitted_as == old[0].record.submitted_as


def test_jobs_of_an_array_that_went_one_by_one_come_back(stage: Stage) -> None:
    stage.backend.errors.extend([SubmitLimit("the site takes no more jobs now", "scripted")] * 2)
    stage.run.submit([Work(JobSpec(), "getpid", os.getpid)] * 2)
    stage.pass_time(20)
    jobs = reconnected(stage)
    assert [job.native_id for job in jobs] == ["1", "2"]
    for job in jobs:
        stage.finish(job, job.job_id)
    assert [job.result(0) for job in jobs] == ["1.0", "1.1"]


@pytest.mark.parametrize("count", [1, 3])
def test_submission_whose_reply_never_came_is_found_by_its_name(stage: Stage, count: int) -> None:
    stage.backend.makes_lost_jobs = True
    stage.backend.errors.append(SubmitUnknown("no reply", "scripted"))
    stage.open().submit([command_work("true", JobSpec())] * count)
    jobs = reconnected(stage)
    assert [job.native_id for job in jobs] == (["1"] if count == 1 else ["1_0", "1_1", "1_2"])


def test_job_without_a_known_id_that_has_left_a_result_gives_it(stage: Stage) -> None:
    stage.backend.errors.append(SubmitUnknown("no reply", "scripted"))
    stage.envelope(stage.call(), 9)
    [job] = reconnected(stage)
    stage.pass_time(5)
    assert job.result(0) == 9


def test_job_that_never_reached_the_scheduler_is_told_of_and_left_out(stage: Stage) -> None:
    first = stage.started()
    second = stage.command(depends_on=[first])
    run = next_run(stage)
    assert [job.native_id for job in reconnect(run, DEAD)] == ["1"]
    assert run.problems == [f"scripted: jobs of a run reconnected to never reached the scheduler: {second.record.name}"]


def test_jobs_that_died_with_their_process_are_told_of_and_not_guessed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = stage.started()
    monkeypatch.setattr(stage.backend, "capabilities", frozenset({Capability.ARRAYS}))
    run = next_run(stage)
    assert reconnect(run, DEAD) == []
    assert run.problems == [
        f"scripted: jobs of a run reconnected to ended with the process that submitted them: {old.record.name}"
    ]
    assert stage.backend.queries == []


def test_jobs_of_all_workers_come_back(stage: Stage) -> None:
    for worker in ("gw0", "gw1"):
        stage.open(worker=worker).submit_command("true", JobSpec())
    jobs = reconnected(stage)
    assert [job.job_id for job in jobs] == ["gw0.1", "gw1.1"]
    assert [query for _, query in stage.backend.queries] == [f"cj-{DEAD}-"]
    for job in jobs:
        stage.start(job)
        stage.finish(job)
        assert job.result(0).exit_code == 0
    stage.run.close()
    assert not os.path.exists(workdir(stage))


def test_jobs_of_workers_go_on_when_the_parent_of_this_process_dies(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.open(worker="gw0").submit_command("true", JobSpec())
    [job] = reconnected(stage)
    monkeypatch.setattr(os, "getppid", lambda: 1)
    stage.pass_time(2)
    assert (job.state, stage.backend.cancels) == (JobState.PENDING, [])


def test_limits_and_policy_of_the_job_stay(stage: Stage) -> None:
    stage.run.submit_command("true", make_spec(timeout=30, keep="always", env={"A": "hidden-value"}, modules=["gcc"]))
    [job] = reconnected(stage)
    spec = job.record.spec
    assert (spec.timeout_s, spec.keep, spec.modules) == (30, "always", ("gcc",))
    journal = Path(job._run.store.directory, "journal.jsonl").read_text()
    assert '"env": ["A"]' in journal
    assert "hidden-value" not in journal
    stage.start(job)
    stage.pass_time(31)
    assert job.reason is ExitReason.RUN_TIMEOUT


# ---------------------------------------------------------------- what is asked, and what is refused


def test_scheduler_is_asked_once_however_many_jobs_there_are(stage: Stage) -> None:
    for _ in range(3):
        stage.call()
    assert len(reconnected(stage)) == 3
    assert [query for _, query in stage.backend.queries] == [f"cj-{DEAD}-"]


def test_error_of_the_query_comes_through_and_another_try_succeeds(stage: Stage) -> None:
    stage.call()
    run = next_run(stage)
    stage.backend.is_down = True
    before = Path(workdir(stage), DEAD, "run.json").read_text()
    with pytest.raises(CommandError, match="the controller is down"):
        reconnect(run, DEAD)
    assert run.records == []
    assert Path(workdir(stage), DEAD, "run.json").read_text() == before
    stage.backend.is_down = False
    assert len(reconnect(run, DEAD)) == 1


def test_no_id_is_an_error_that_says_what_is_needed(stage: Stage) -> None:
    with pytest.raises(UsageError, match="needs the id of a run: what follows cj-"):
        reconnect(stage.run, "")


def test_unknown_id_names_the_runs_there_are_and_the_nearest(stage: Stage) -> None:
    stage.call()
    run = next_run(stage)
    with pytest.raises(UsageError, match=r"no run '0badcaff' in .*; there are 0badcafe — did you mean '0badcafe'\?"):
        reconnect(run, "0badcaff")
    around = f"../{os.path.basename(workdir(stage))}/{DEAD}"
    with pytest.raises(UsageError, match=re.escape(f"no run {around!r}")):
        reconnect(run, around)


def test_empty_work_directory_has_none(stage: Stage) -> None:
    with pytest.raises(UsageError, match="there is none"):
        reconnect(stage.run, "deadbeef")


def test_living_run_keeps_its_jobs(stage: Stage) -> None:
    stage.call()
    other = stage.open(run_id=NEW)
    with pytest.raises(UsageError, match=f"cannot reconnect to the run {DEAD}: alive: process {os.getpid()}"):
        reconnect(other, DEAD)
    assert stage.backend.queries == []


@pytest.mark.parametrize(("facts", "why"), [({"is_closed": True}, "ended in order"), ({"host": "login7"}, "login7")])
def test_run_that_is_not_ours_to_take_is_refused(stage: Stage, facts: dict[str, Any], why: str) -> None:
    stage.call()
    stage.change_facts(**facts)
    run = next_run(stage)
    shared = Path(workdir(stage), DEAD, "shared")
    shutil.rmtree(shared)
    with pytest.raises(UsageError, match=why):
        reconnect(run, DEAD)
    assert not shared.exists()


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_damaged_run_file_is_said(stage: Stage, text: str) -> None:
    stage.call()
    run = next_run(stage)
    Path(workdir(stage), DEAD, "run.json").write_text(text)
    with pytest.raises(StoreError, match=r"run\.json is damaged or gone"):
        reconnect(run, DEAD)


def test_journal_cut_off_by_the_crash_is_read_as_far_as_it_goes(stage: Stage) -> None:
    old = stage.call()
    with open(Path(old._run.store.directory, "journal.jsonl"), "a") as journal:
        journal.write('{"event": "ended", "job": "1"')
    assert [job.native_id for job in reconnected(stage)] == [old.native_id]


def test_backend_that_follows_its_own_jobs_alone_is_refused(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.call()
    run = next_run(stage)
    monkeypatch.setattr(stage.backend, "has_push", True)
    with pytest.raises(UsageError, match="scripted: cannot reconnect to jobs on scripted"):
        reconnect(run, DEAD)
    assert json.loads(Path(workdir(stage), DEAD, "run.json").read_text())["pid"] != os.getpid()


def test_run_that_has_ended_takes_nothing_over(stage: Stage) -> None:
    stage.call()
    run = next_run(stage)
    run.close()
    with pytest.raises(UsageError, match=f"the run {NEW} has ended"):
        reconnect(run, DEAD)


# ---------------------------------------------------------------- whose they are then


def test_tracked_jobs_are_not_taken_twice(stage: Stage) -> None:
    stage.call()
    run = next_run(stage)
    assert len(reconnect(run, DEAD)) == 1
    assert reconnect(run, DEAD) == []
    assert reconnect(run, NEW) == []
    assert len(run.records) == 1


def test_two_threads_take_each_job_once(stage: Stage) -> None:
    for _ in range(3):
        stage.call()
    run = next_run(stage)
    with ThreadPoolExecutor(2) as pool:
        with store_of_the_dead(run).locked("owner"):
            both = [pool.submit(reconnect, run, DEAD) for _ in range(2)]
            wait_for(lambda: waiting_for_locks() == 2)
        taken = [job for each in both for job in each.result(30)]
    assert [job.native_id for job in taken] == ["1", "2", "3"]


def test_program_that_another_one_overtakes_is_refused(stage: Stage) -> None:
    stage.call()
    run = next_run(stage)
    store = store_of_the_dead(run)
    with ThreadPoolExecutor(1) as pool:
        with store.locked("owner"):
            late = pool.submit(reconnect, run, DEAD)
            wait_for(lambda: waiting_for_locks() == 1)
            store.claim()
        with pytest.raises(UsageError, match="alive"):
            late.result(30)
    assert run.records == []


def test_neither_reaper_nor_another_run_takes_what_was_taken(stage: Stage) -> None:
    stage.call()
    reconnected(stage)
    [report, *_] = reap_workdir(workdir(stage))
    assert (report.run_id, report.status, report.cancelled) == (DEAD, f"alive: process {os.getpid()}", [])
    other = stage.open(run_id="22222222")
    with pytest.raises(UsageError, match="alive"):
        reconnect(other, DEAD)


def test_run_that_is_removed_meanwhile_is_said_to_be_gone(stage: Stage) -> None:
    stage.call()
    run = next_run(stage)
    store = store_of_the_dead(run)
    with ThreadPoolExecutor(1) as pool:
        with store.locked("owner"):
            late = pool.submit(reconnect, run, DEAD)
            wait_for(lambda: waiting_for_locks() == 1)
            store.transport.remove(store.run_file)  # first: the lock goes with the directory
            store.transport.remove(store.root)
        with pytest.raises(StoreError, match="gone"):
            late.result(30)
    assert not os.path.exists(store.root)


def test_reaper_that_saw_the_run_dead_leaves_it_once_it_was_taken_over(stage: Stage) -> None:
    stage.call()
    run = next_run(stage)
    store = store_of_the_dead(run)
    facts = store.read_json(store.run_file)
    reconnect(run, DEAD)
    report = reap.ReapReport(DEAD)
    reap._reap_dead(report, store, facts, backend_alone, keep=False)
    assert (report.status, report.is_removed) == (f"alive: process {os.getpid()}", False)
    assert stage.backend.cancels == []


def test_reaper_gives_a_run_away_to_nobody_while_it_removes_it(stage: Stage) -> None:
    class Watched(LocalTransport):
        def remove(self, path: str) -> None:
            if path == store.root:
                seen.append(store.read_json(store.run_file)["is_closed"])
            super().remove(path)

    seen: list[bool] = []
    stage.call()
    run = next_run(stage)
    store = store_of_the_dead(run)
    store.transport = Watched()
    reap._reap_dead(reap.ReapReport(DEAD), store, store.read_json(store.run_file), backend_alone, keep=False)
    assert seen == [True]


def test_reaped_run_has_nothing_to_reconnect_to(stage: Stage) -> None:
    stage.call()
    run = next_run(stage)
    reap_workdir(workdir(stage))
    with pytest.raises(UsageError, match="no run '0badcafe'"):
        reconnect(run, DEAD)


def test_program_that_reconnected_may_die_as_well(stage: Stage) -> None:
    old = stage.call()
    first = next_run(stage)
    reconnect(first, DEAD)
    stage.runs = [first.resumed[0]]
    [job] = reconnected(stage)
    stage.start(job)
    stage.finish(job, "at last")
    assert (job.native_id, job.result(0)) == (old.native_id, "at last")


def test_cancel_of_one_job_leaves_the_others(stage: Stage) -> None:
    stage.call()
    stage.call()
    first, second = reconnected(stage)
    first.cancel()
    stage.pass_time(5)
    assert stage.backend.cancels == [[first.native_id]]
    assert (first.state, second.state) == (JobState.CANCELLED, JobState.PENDING)


def test_end_of_the_run_cancels_what_was_taken_and_removes_its_directory(stage: Stage) -> None:
    stage.call()
    stage.started()
    jobs = reconnected(stage)
    report = stage.run.close()
    assert [record.name for record in report.cancelled] == [job.record.name for job in jobs]
    assert (report.leaked, report.problems) == ([], [])
    assert {job.state for job in jobs} == {JobState.CANCELLED}
    assert stage.backend.cancels[0] == ["1", "2"]
    assert report.kept == [job.record.directory for job in jobs]
    assert reap_workdir(workdir(stage))[0].status == "ended in order; its directory holds what was kept"


def test_nothing_stays_of_jobs_that_completed(stage: Stage) -> None:
    stage.started()
    [job] = reconnected(stage)
    stage.finish(job, 1)
    assert stage.run.close().kept == []
    assert not os.path.exists(workdir(stage))


def test_run_without_a_job_left_is_left_to_the_reaper(stage: Stage) -> None:
    stage.finish(stage.started(), 1)
    assert reconnected(stage) == []
    stage.run.close()
    assert reap_workdir(workdir(stage))[0].is_removed


def test_directory_of_somebody_else_is_not_trusted(stage: Stage) -> None:
    stage.call()
    run = next_run(stage)
    real = Path(workdir(stage), DEAD)
    shutil.move(real, stage.root / "elsewhere")
    real.symlink_to(stage.root / "elsewhere")
    with pytest.raises(StoreError, match="is not a directory of ours"):
        reconnect(run, DEAD)
    assert stage.backend.queries == []


def test_profile_that_is_gone_is_named(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.call()
    run = next_run(stage)
    monkeypatch.delitem(registry._registered, "scripted")
    with pytest.raises(ValueError, match="no backend named 'scripted'"):
        reconnect(run, DEAD)
