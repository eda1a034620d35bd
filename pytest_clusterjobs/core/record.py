"""What is known of one job, as plain data: for the journal, the reports and the error texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from pytest_clusterjobs.core.spec import JobSpec
from pytest_clusterjobs.core.state import ExitReason, JobState


def utc_now() -> datetime:
    """Give the time now, aware, in UTC."""
    return datetime.now(timezone.utc)


@dataclass(slots=True)
class JobMetrics:
    """What was measured of one job, on the node or by the scheduler. None: nobody knows, ``unknown`` says why."""

    #: Seconds from submission to start.
    queue_time_s: float | None = None
    #: Seconds from start to end.
    run_time_s: float | None = None
    #: CPU seconds, user and system, of the job's processes that have ended.
    cpu_time_s: float | None = None
    #: Largest resident set of one of its processes, in bytes.
    max_rss_bytes: int | None = None
    #: Exit code of the job's process; None when a signal ended it.
    exit_code: int | None = None
    #: Signal number that ended it.
    signal: int | None = None
    #: Names of its nodes.
    nodes: tuple[str, ...] = ()
    #: How often it was started again under the same id.
    restarts: int = 0
    #: UTC.
    submitted_at: datetime | None = None
    #: UTC.
    started_at: datetime | None = None
    #: UTC.
    ended_at: datetime | None = None
    #: Name of a field that is None -> why.
    unknown: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class JobRecord:
    """One job, as it is now. Written by the engine's monitor only."""

    #: Ours: unique in the run.
    job_id: str
    #: The run that it belongs to.
    run_id: str
    #: Name given to the scheduler: ``cj-<run8>-<n>-<slug>``.
    name: str
    #: Name of the backend.
    backend: str
    #: What was asked for.
    spec: JobSpec
    #: The job's directory.
    directory: str
    #: What it runs, for people: a function's or a command's name.
    label: str
    #: Number of this submission, from 1.
    attempt: int = 1
    #: The scheduler's id, "" until it is accepted.
    native_id: str = ""
    #: Where it is.
    state: JobState = JobState.NEW
    #: The scheduler's last word for it.
    native_word: str = ""
    #: Why it ended without success.
    reason: ExitReason | None = None
    #: Why, in words; while it waits, the scheduler's pending reason.
    detail: str = ""
    #: The submit command, for people.
    submit_command: str = ""
    #: Id of the pytest item that it belongs to, or "".
    test_id: str = ""
    #: What was measured.
    metrics: JobMetrics = field(default_factory=JobMetrics)
    #: True when the directory was kept at the end.
    is_kept: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Give the record as JSON types."""
        metrics = self.metrics
        return {
            "job_id": self.job_id,
            "native_id": self.native_id or None,
            "name": self.name,
            "label": self.label,
            "backend": self.backend,
            "test": self.test_id or None,
            "attempt": self.attempt,
            "state": self.state.value,
            "native_word": self.native_word or None,
            "reason": self.reason.value if self.reason else None,
            "detail": self.detail or None,
            "requested": self.spec.to_dict(),
            "submit_command": self.submit_command or None,
            "directory": self.directory if self.is_kept else None,
            "metrics": {
                "queue_time_s": metrics.queue_time_s,
                "run_time_s": metrics.run_time_s,
                "cpu_time_s": metrics.cpu_time_s,
                "max_rss_bytes": metrics.max_rss_bytes,
                "exit_code": metrics.exit_code,
                "signal": metrics.signal,
                "nodes": list(metrics.nodes),
                "restarts": metrics.restarts,
                "submitted_at": _iso(metrics.submitted_at),
                "started_at": _iso(metrics.started_at),
                "ended_at": _iso(metrics.ended_at),
                "unknown": dict(metrics.unknown),
            },
        }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds")
