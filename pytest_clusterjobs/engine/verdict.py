"""Decide how a job ended from what is known, by rank: envelope, exit code, accounting and queue. Pure functions."""

from __future__ import annotations

import signal as signals
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_clusterjobs.core.errors import (
    JobCancelled,
    JobError,
    JobFailed,
    JobInfrastructureError,
    JobLost,
    JobTimeout,
    QueueTimeout,
    SubmitError,
)
from pytest_clusterjobs.core.state import ExitReason, JobState, JobStatus

_HOW = {
    ExitReason.NONZERO_EXIT: "exited with code {code}",
    ExitReason.EXCEPTION: "raised {detail}",
    ExitReason.SIGNAL: "was ended by signal {signal}",
    ExitReason.TIMEOUT: "ran into its time limit",
    ExitReason.RUN_TIMEOUT: "ran longer than timeout allows and was cancelled",
    ExitReason.QUEUE_TIMEOUT: "waited in the queue longer than queue_timeout allows and was cancelled",
    ExitReason.NEVER_STARTS: "can never start as it was asked for and was cancelled",
    ExitReason.OUT_OF_MEMORY: "ran out of memory",
    ExitReason.NODE_FAILURE: "lost its node",
    ExitReason.PREEMPTED: "was preempted",
    ExitReason.DEADLINE: "missed the scheduler's deadline for it",
    ExitReason.LAUNCH_FAILURE: "could not be launched",
    ExitReason.CANCELLED: "was cancelled",
    ExitReason.CANCELLED_OUTSIDE: "was cancelled by somebody else",
    ExitReason.DEPENDENCY_FAILED: "was not started, because a job that it depends on did not complete",
    ExitReason.SUBMIT_REFUSED: "was refused by the scheduler",
    ExitReason.ENVIRONMENT_MISMATCH: "could not run in the node's environment",
    ExitReason.RESULT_UNPICKLABLE: "has no value to send back",
    ExitReason.LOST: "is lost: no source says how it ended",
}

_ERRORS: dict[ExitReason, type[JobError]] = {
    ExitReason.TIMEOUT: JobTimeout,
    ExitReason.RUN_TIMEOUT: JobTimeout,
    ExitReason.QUEUE_TIMEOUT: QueueTimeout,
    ExitReason.NEVER_STARTS: QueueTimeout,
    ExitReason.NODE_FAILURE: JobInfrastructureError,
    ExitReason.PREEMPTED: JobInfrastructureError,
    ExitReason.DEADLINE: JobTimeout,
    ExitReason.LAUNCH_FAILURE: JobInfrastructureError,
    ExitReason.CANCELLED: JobCancelled,
    ExitReason.CANCELLED_OUTSIDE: JobCancelled,
    ExitReason.DEPENDENCY_FAILED: JobCancelled,
    ExitReason.ENVIRONMENT_MISMATCH: JobInfrastructureError,
    ExitReason.LOST: JobLost,
}

_CANCEL_STATES = frozenset(
    {
        ExitReason.RUN_TIMEOUT,
        ExitReason.QUEUE_TIMEOUT,
        ExitReason.NEVER_STARTS,
        ExitReason.CANCELLED,
        ExitReason.CANCELLED_OUTSIDE,
        ExitReason.DEPENDENCY_FAILED,
    }
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a job ended."""

    #: A terminal state.
    state: JobState
    #: Why; None for success.
    reason: ExitReason | None = None
    #: More about why, in words.
    detail: str = ""
    #: Exit code, None where unknown or ended by a signal.
    exit_code: int | None = None
    #: Signal that ended it.
    signal: int | None = None


def state_for(reason: ExitReason | None) -> JobState:
    """Give the terminal state that goes with a reason."""
    if reason is None:
        return JobState.COMPLETED
    if reason is ExitReason.LOST:
        return JobState.LOST
    return JobState.CANCELLED if reason in _CANCEL_STATES else JobState.FAILED


def from_envelope(header: Mapping[str, Any]) -> Verdict:
    """Judge by the job's own result file: the highest rank, whatever anybody else says."""
    outcome, code = header["outcome"], header.get("exit_code")
    if outcome == "value":
        return Verdict(JobState.COMPLETED, exit_code=0)
    if outcome == "exception":
        error = header["chain"][0]
        return Verdict(JobState.FAILED, ExitReason.EXCEPTION, error["type"], code)
    if outcome == "unpicklable":
        return Verdict(JobState.FAILED, ExitReason.RESULT_UNPICKLABLE, header["text"], code)
    if outcome == "refused":
        reason = ExitReason.LAUNCH_FAILURE if header["why"] == "launch" else ExitReason.ENVIRONMENT_MISMATCH
        return Verdict(JobState.FAILED, reason, header["text"], code)
    return from_exit_code(int(header["exit_code"]), header.get("signal"))


def from_exit_code(code: int, signal: int | None = None) -> Verdict:
    """Judge by an exit code as a shell gives it: above 128, a signal ended the process."""
    if signal is None and 128 < code < 128 + 65:
        signal = code - 128
    if signal is not None:
        return Verdict(JobState.FAILED, ExitReason.SIGNAL, signal_name(signal), None, signal)
    if code == 0:
        return Verdict(JobState.COMPLETED, exit_code=0)
    return Verdict(JobState.FAILED, ExitReason.NONZERO_EXIT, exit_code=code)


def from_status(status: JobStatus) -> Verdict:
    """Judge by the scheduler's word, for a job that left no evidence of its own."""
    if status.state is JobState.COMPLETED:
        word = status.native_word or "COMPLETED"
        detail = f"the scheduler says {word}, but the job left no result; do the nodes see the work directory?"
        return Verdict(JobState.LOST, ExitReason.LOST, detail)
    reason = status.reason or ExitReason.NONZERO_EXIT
    detail = status.detail
    if reason is ExitReason.SIGNAL and status.signal and not detail:
        detail = signal_name(status.signal)
    return Verdict(state_for(reason), reason, detail, status.exit_code, status.signal)


def lost(sources: tuple[str, ...], directory: str, names: list[str]) -> Verdict:
    """Judge a job that every source has forgotten."""
    asked = ", ".join(("result file", "exit code", "queue", *sources))
    listing = ", ".join(sorted(names)) or "nothing"
    return Verdict(JobState.LOST, ExitReason.LOST, f"asked: {asked}; in {directory}: {listing}")


def signal_name(number: int) -> str:
    """Name a signal: ``SIGKILL (9)``."""
    try:
        return f"{signals.Signals(number).name} ({number})"
    except ValueError:
        return str(number)


def describe(name: str, verdict: Verdict) -> str:
    """Say in one line how a job ended."""
    if verdict.reason is None:
        return f"{name} completed"
    signal = "" if verdict.signal is None else signal_name(verdict.signal)
    how = _HOW[verdict.reason].format(code=verdict.exit_code, signal=signal, detail=verdict.detail)
    more = f": {verdict.detail}" if verdict.detail and verdict.detail not in how else ""
    return f"{name} {how}{more}"


def error_for(name: str, verdict: Verdict, evidence: str) -> Exception:
    """Make the error for a job that ended without a value."""
    reason = verdict.reason
    if reason is ExitReason.SUBMIT_REFUSED:
        return SubmitError(describe(name, verdict))
    kind = JobFailed if reason is None else _ERRORS.get(reason, JobFailed)
    return kind(describe(name, verdict), evidence)
