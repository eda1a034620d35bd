"""How a job ended is decided by rank: its own evidence before the scheduler's words, and absence proves nothing."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_clusterjobs.core.errors import (
    JobCancelled,
    JobError,
    JobFailed,
    JobInfrastructureError,
    JobLost,
    JobTimeout,
    QueueTimeout,
    SubmitError,
    is_infrastructure,
)
from pytest_clusterjobs.core.state import ExitReason, JobState, JobStatus
from pytest_clusterjobs.engine import verdict
from pytest_clusterjobs.engine.verdict import Verdict


@pytest.mark.parametrize(
    ("header", "state", "reason", "code"),
    [
        ({"outcome": "value", "exit_code": 0}, JobState.COMPLETED, None, 0),
        (
            {"outcome": "exception", "chain": [{"type": "ValueError"}], "exit_code": 1},
            JobState.FAILED,
            ExitReason.EXCEPTION,
            1,
        ),
        # sys.exit(0) is an exception too: the function gave no value
        (
            {"outcome": "exception", "chain": [{"type": "SystemExit"}], "exit_code": 0},
            JobState.FAILED,
            ExitReason.EXCEPTION,
            0,
        ),
        (
            {"outcome": "unpicklable", "text": "a Lock", "exit_code": 1},
            JobState.FAILED,
            ExitReason.RESULT_UNPICKLABLE,
            1,
        ),
        (
            {"outcome": "refused", "why": "environment", "text": "Python", "exit_code": 97},
            JobState.FAILED,
            ExitReason.ENVIRONMENT_MISMATCH,
            97,
        ),
        (
            {"outcome": "refused", "why": "payload", "text": "no module", "exit_code": 97},
            JobState.FAILED,
            ExitReason.ENVIRONMENT_MISMATCH,
            97,
        ),
        (
            {"outcome": "refused", "why": "launch", "text": "cannot run", "exit_code": 97},
            JobState.FAILED,
            ExitReason.LAUNCH_FAILURE,
            97,
        ),
        ({"outcome": "exit", "exit_code": 0, "signal": None}, JobState.COMPLETED, None, 0),
        ({"outcome": "exit", "exit_code": 42, "signal": None}, JobState.FAILED, ExitReason.NONZERO_EXIT, 42),
        ({"outcome": "exit", "exit_code": 137, "signal": 9}, JobState.FAILED, ExitReason.SIGNAL, None),
    ],
)
def test_envelope_decides(header: dict[str, Any], state: JobState, reason: ExitReason | None, code: int | None) -> None:
    ended = verdict.from_envelope(header)
    assert (ended.state, ended.reason, ended.exit_code) == (state, reason, code)


@pytest.mark.parametrize(
    ("code", "reason", "exit_code", "signal"),
    [
        (0, None, 0, None),
        (1, ExitReason.NONZERO_EXIT, 1, None),
        (128, ExitReason.NONZERO_EXIT, 128, None),
        (129, ExitReason.SIGNAL, None, 1),
        (137, ExitReason.SIGNAL, None, 9),
        (139, ExitReason.SIGNAL, None, 11),
        (192, ExitReason.SIGNAL, None, 64),
        (193, ExitReason.NONZERO_EXIT, 193, None),
        (255, ExitReason.NONZERO_EXIT, 255, None),
    ],
)
def test_exit_code_of_a_shell_is_a_code_or_a_signal(
    code: int, reason: ExitReason | None, exit_code: int | None, signal: int | None
) -> None:
    ended = verdict.from_exit_code(code)
    assert (ended.reason, ended.exit_code, ended.signal) == (reason, exit_code, signal)


def test_success_has_exit_code_0_and_no_reason() -> None:
    """``exit_code or 1`` reported success as 1 elsewhere."""
    assert verdict.from_exit_code(0) == Verdict(JobState.COMPLETED, exit_code=0)


def test_completed_by_the_scheduler_alone_is_no_success() -> None:
    ended = verdict.from_status(JobStatus(JobState.COMPLETED, "COMPLETED", exit_code=0))
    assert (ended.state, ended.reason) == (JobState.LOST, ExitReason.LOST)
    assert "left no result" in ended.detail


@pytest.mark.parametrize(
    ("status", "state", "reason"),
    [
        (JobStatus(JobState.FAILED, "TIMEOUT", ExitReason.TIMEOUT), JobState.FAILED, ExitReason.TIMEOUT),
        (JobStatus(JobState.FAILED, "NODE_FAIL", ExitReason.NODE_FAILURE), JobState.FAILED, ExitReason.NODE_FAILURE),
        (JobStatus(JobState.FAILED, "F", None, exit_code=3), JobState.FAILED, ExitReason.NONZERO_EXIT),
        (
            JobStatus(JobState.CANCELLED, "CA", ExitReason.CANCELLED_OUTSIDE, "by 1000"),
            JobState.CANCELLED,
            ExitReason.CANCELLED_OUTSIDE,
        ),
    ],
)
def test_scheduler_decides_where_the_job_left_nothing(status: JobStatus, state: JobState, reason: ExitReason) -> None:
    ended = verdict.from_status(status)
    assert (ended.state, ended.reason, ended.exit_code) == (state, reason, status.exit_code)


def test_signal_told_by_the_scheduler_has_its_name() -> None:
    ended = verdict.from_status(JobStatus(JobState.FAILED, "FAILED", ExitReason.SIGNAL, signal=9))
    assert verdict.describe("cj-1", ended) == "cj-1 was ended by signal SIGKILL (9)"


def test_lost_names_every_source_and_what_is_there() -> None:
    ended = verdict.lost(("scontrol show job", "sacct"), "/jobs/1-x", ["script.sh", "order.json"])
    assert ended.state is JobState.LOST
    assert ended.detail == (
        "asked: result file, exit code, queue, scontrol show job, sacct; in /jobs/1-x: order.json, script.sh"
    )
    assert "nothing" in verdict.lost((), "/x", []).detail


@pytest.mark.parametrize("reason", ExitReason)
def test_every_reason_has_a_terminal_state_a_sentence_and_an_error(reason: ExitReason) -> None:
    state = verdict.state_for(reason)
    ended = Verdict(state, reason, "more about it", exit_code=3)
    text = verdict.describe("cj-1", ended)
    error = verdict.error_for("cj-1", ended, "evidence")
    assert state.is_terminal
    assert state is not JobState.COMPLETED
    assert text.startswith("cj-1 ")
    assert "more about it" in text
    assert "{" not in text
    assert isinstance(error, (JobError, SubmitError))
    assert text in str(error)


@pytest.mark.parametrize(
    ("reason", "kind", "is_the_cluster_s"),
    [
        (ExitReason.NONZERO_EXIT, JobFailed, False),
        (ExitReason.OUT_OF_MEMORY, JobFailed, False),
        (ExitReason.SIGNAL, JobFailed, False),
        (ExitReason.RESULT_UNPICKLABLE, JobFailed, False),
        (ExitReason.TIMEOUT, JobTimeout, False),
        (ExitReason.RUN_TIMEOUT, JobTimeout, False),
        (ExitReason.DEADLINE, JobTimeout, False),
        (ExitReason.CANCELLED, JobCancelled, False),
        (ExitReason.CANCELLED_OUTSIDE, JobCancelled, False),
        (ExitReason.DEPENDENCY_FAILED, JobCancelled, False),
        (ExitReason.SUBMIT_REFUSED, SubmitError, False),
        (ExitReason.QUEUE_TIMEOUT, QueueTimeout, True),
        (ExitReason.NEVER_STARTS, QueueTimeout, True),
        (ExitReason.NODE_FAILURE, JobInfrastructureError, True),
        (ExitReason.PREEMPTED, JobInfrastructureError, True),
        (ExitReason.LAUNCH_FAILURE, JobInfrastructureError, True),
        (ExitReason.ENVIRONMENT_MISMATCH, JobInfrastructureError, True),
        (ExitReason.LOST, JobLost, True),
    ],
)
def test_error_says_whose_trouble_it_is(reason: ExitReason, kind: type[Exception], is_the_cluster_s: bool) -> None:
    error = verdict.error_for("cj-1", Verdict(verdict.state_for(reason), reason), "")
    assert type(error) is kind
    assert is_infrastructure(error) is is_the_cluster_s


def test_what_is_said_already_is_not_said_twice() -> None:
    ended = Verdict(JobState.FAILED, ExitReason.EXCEPTION, "ValueError", 1)
    assert verdict.describe("cj-1", ended) == "cj-1 raised ValueError"


@pytest.mark.parametrize(("number", "text"), [(9, "SIGKILL (9)"), (15, "SIGTERM (15)"), (53, "53"), (200, "200")])
def test_signals_have_names_where_there_is_one(number: int, text: str) -> None:
    assert verdict.signal_name(number) == text
