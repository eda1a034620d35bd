"""The ledger: the journal before the scheduler, one end for each job, and numbers that somebody measured."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_clusterjobs.core.errors import SubmitLimit
from pytest_clusterjobs.core.spec import JobSpec
from pytest_clusterjobs.core.state import ExitReason, JobState, JobStatus
from pytest_clusterjobs.engine.verdict import Verdict
from pytest_clusterjobs.engine.work import command_work

if TYPE_CHECKING:
    from tests.scripted import PENDING, Stage
else:
    from scripted import PENDING, Stage


def journal(stage: Stage) -> list[dict[str, Any]]:
    text = (Path(stage.run.store.directory) / "journal.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_intent_is_in_the_journal_before_the_scheduler_hears_of_it(stage: Stage) -> None:
    seen: list[list[dict[str, Any]]] = []
    stage.backend.on_submit = lambda: seen.append(journal(stage))
    job = stage.call()
    assert seen == [
        [
            {
                "event": "intent",
                "name": job.record.name,
                "backend": "scripted",
                "jobs": ["1"],
                "names": [job.record.name],
                "directory": os.path.basename(job.record.directory),
                "spec": {"cores": 1},
            }
        ]
    ]


def test_journal_tells_a_job_s_life(stage: Stage) -> None:
    job = stage.started()
    stage.backend.says(job.native_id, PENDING)
    stage.pass_time(31)
    stage.start(job)
    stage.finish(job, 1)
    assert [line["event"] for line in journal(stage)] == ["intent", "submitted", "requeued", "ended"]
    assert journal(stage)[1]["ids"] == ["1"]
    assert journal(stage)[-1] == {"event": "ended", "job": "1", "state": "COMPLETED", "reason": None}


def test_journal_of_an_array_is_one_line_a_submission(stage: Stage) -> None:
    stage.run.submit([command_work("true", JobSpec())] * 3)
    assert [line["event"] for line in journal(stage)] == ["intent", "submitted"]
    assert journal(stage)[0]["jobs"] == ["1.0", "1.1", "1.2"]
    assert journal(stage)[1]["ids"] == ["1_0", "1_1", "1_2"]


def test_first_verdict_stays(stage: Stage) -> None:
    job = stage.started()
    tracked = stage.run.ledger.by_job_id(job.job_id)
    assert tracked is not None
    ends: list[int] = []
    job.on_exit(lambda _: ends.append(1))
    stage.run.ledger.end(tracked, Verdict(JobState.FAILED, ExitReason.TIMEOUT), None)
    stage.run.ledger.end(tracked, Verdict(JobState.COMPLETED), None)
    stage.run.callbacks.stop()
    assert (job.state, job.reason, ends) == (JobState.FAILED, ExitReason.TIMEOUT, [1])
    assert stage.run.ledger.unfinished() == []
    assert stage.run.ledger.by_job_id(job.job_id) is None


def test_record_is_final_before_waiters_wake(stage: Stage) -> None:
    job = stage.started()
    seen: list[tuple[Any, ...]] = []
    job._add_callback("exit", lambda done: seen.append((done.record.state, done.metrics.ended_at is not None)))
    stage.finish(job, 1)
    stage.run.callbacks.stop()
    assert seen == [(JobState.COMPLETED, True)]


def test_numbers_come_from_the_node(stage: Stage) -> None:
    job = stage.started()
    Path(job.record.directory, "start.json").write_text(json.dumps({"node": "n7", "started_at": 100.0}))
    stage.finish(job, 1)
    metrics = job.metrics
    assert metrics.nodes == ("n7",)
    assert metrics.max_rss_bytes is not None
    assert metrics.cpu_time_s is not None
    assert metrics.run_time_s == 0.5
    assert metrics.started_at is not None
    assert metrics.started_at.timestamp() == 1.0  # the envelope's, which is measured by the same clock as its end
    assert set(metrics.unknown) == {"allocated.cores", "allocated.nodes"}  # the scripted scheduler tells of none


def test_numbers_that_nobody_measured_are_none_and_say_why(stage: Stage) -> None:
    ran, never = stage.started(), stage.call()
    stage.mark(ran, 1)
    never.cancel()
    stage.pass_time(5)
    for job, why in ((ran, "the job left no result file"), (never, "the job did not start")):
        assert (job.metrics.max_rss_bytes, job.metrics.cpu_time_s) == (None, None)
        measured = {name: job.metrics.unknown[name] for name in ("cpu_time_s", "max_rss_bytes", "read_bytes")}
        assert set(measured.values()) == {why}
    assert never.metrics.run_time_s is None
    assert never.metrics.queue_time_s is None


def test_half_written_start_file_is_no_trouble(stage: Stage) -> None:
    job = stage.started()
    Path(job.record.directory, "start.json").write_text('{"node": "n')
    stage.finish(job, 1)
    assert job.state is JobState.COMPLETED


def test_nodes_and_restarts_that_the_scheduler_tells_are_kept(stage: Stage) -> None:
    job = stage.started()
    stage.backend.says(job.native_id, JobStatus(JobState.RUNNING, "RUNNING", nodes="n[1-4]", restarts=2))
    stage.pass_time(10)
    assert (job.metrics.nodes, job.metrics.restarts) == (("n[1-4]",), 2)


def test_trouble_is_told_once(stage: Stage) -> None:
    stage.run.ledger.note_problem("x")
    stage.run.ledger.note_problem("x")
    assert stage.run.problems == ["x"]


def test_acceptance_ends_the_wait_and_is_recorded(stage: Stage) -> None:
    stage.backend.errors.append(SubmitLimit("later"))
    job = stage.call()
    assert (job.state, job.metrics.submitted_at) == (JobState.NEW, None)
    stage.pass_time(10)
    assert job.record.state is JobState.PENDING
    assert job.metrics.submitted_at is not None
    assert (job.record.submit_command, job.record.detail) == ("submit it", "")


def test_unfinished_jobs_are_told_apart_by_backend(stage: Stage) -> None:
    job = stage.call()
    ledger = stage.run.ledger
    assert [tracked.job for tracked in ledger.unfinished(stage.backend)] == [job]
    assert ledger.unfinished(object()) == []  # type: ignore[arg-type]
