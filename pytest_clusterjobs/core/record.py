"""What is known of one job, as plain data: for the journal, the reports and the error texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, NamedTuple

from pytest_clusterjobs.core import efficiency
from pytest_clusterjobs.core.resources import Resources, requested_by
from pytest_clusterjobs.core.spec import JobSpec
from pytest_clusterjobs.core.state import ExitReason, JobState


def utc_now() -> datetime:
    """Give the time now, aware, in UTC."""
    return datetime.now(timezone.utc)


#: Who told a figure; see ``JobMetrics.sources``.
FROM_NODE = "measured on the node"
FROM_EVIDENCE = "the job's result or exit code"
FROM_QUEUE = "the scheduler's queue"
FROM_ENVIRONMENT = "what the scheduler told the job"
FROM_HERE = "seen here"

_NOTHING = Resources()


class Transition(NamedTuple):
    """One change of a job's state."""

    #: The state that it came to.
    state: JobState
    #: UTC; by the clock of who told it.
    at: datetime
    #: The scheduler's word for it at that time, or "".
    native_word: str = ""
    #: Who told it: seen here, or measured on the node.
    source: str = FROM_HERE


@dataclass(slots=True)
class JobMetrics:
    """What was measured of one job, on the node or by the scheduler. None: nobody knows, ``unknown`` says why."""

    #: Seconds from submission to start.
    queue_time_s: float | None = None
    #: Seconds from start to end.
    run_time_s: float | None = None
    #: CPU seconds, user and system, of the job's processes: of those that still lived at its end too.
    cpu_time_s: float | None = None
    #: Largest resident set of one of its processes, in bytes.
    max_rss_bytes: int | None = None
    #: Bytes that its processes read, from caches, pipes and sockets too (proc(5), rchar).
    read_bytes: int | None = None
    #: Bytes that its processes wrote, to caches, pipes and sockets too (proc(5), wchar).
    written_bytes: int | None = None
    #: Exit code of the job's process; None when a signal ended it.
    exit_code: int | None = None
    #: Signal number that ended it.
    signal: int | None = None
    #: Names of its nodes.
    nodes: tuple[str, ...] = ()
    #: Ids of the GPUs that it could see; () where it asked for none and saw none.
    gpu_ids: tuple[str, ...] = ()
    #: How often it was started again under the same id.
    restarts: int = 0
    #: UTC.
    submitted_at: datetime | None = None
    #: UTC.
    started_at: datetime | None = None
    #: UTC.
    ended_at: datetime | None = None
    #: What was asked for.
    requested: Resources = _NOTHING
    #: What the scheduler says that it gave.
    allocated: Resources = _NOTHING
    #: What the job found on its (first) node: affinity, control groups, limits, GPUs.
    observed: Resources = _NOTHING
    #: Name of a field that is known -> who told it. Fields of ``allocated`` as ``allocated.cores``; all of ``observed``
    #: and ``gpu_ids`` are the node's.
    sources: dict[str, str] = field(default_factory=dict)
    #: Name of a field that is None -> why.
    unknown: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Give the figures as JSON types."""
        return {
            "queue_time_s": self.queue_time_s,
            "run_time_s": self.run_time_s,
            "cpu_time_s": self.cpu_time_s,
            "max_rss_bytes": self.max_rss_bytes,
            "read_bytes": self.read_bytes,
            "written_bytes": self.written_bytes,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "nodes": list(self.nodes),
            "gpu_ids": list(self.gpu_ids),
            "restarts": self.restarts,
            "submitted_at": _iso(self.submitted_at),
            "started_at": _iso(self.started_at),
            "ended_at": _iso(self.ended_at),
            "requested": self.requested.known(),
            "allocated": self.allocated.known(),
            "observed": self.observed.known(),
            "sources": dict(self.sources),
            "unknown": dict(self.unknown),
        }


@dataclass(slots=True)
class JobRecord:
    """One job, as it is now. Written by the engine's monitor only."""

    #: Ours: unique in the run.
    job_id: str
    #: The run that it belongs to.
    run_id: str
    #: Name given to the scheduler: ``cj-<run8>-<n>-<slug>``; before that its label.
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
    #: Its states, each with its time, in order.
    history: list[Transition] = field(default_factory=list)
    #: The name that the scheduler was given with it; an array's elements share it.
    submitted_as: str = ""
    #: The name under which a bulk query showed it, "" while none has.
    seen_as: str = ""
    #: What the scheduler's queue last counted for it: asked for while it waited, given once it ran.
    queued: Resources | None = None
    #: What a validation found, as JSON types; what failed stays. None while there was none.
    validation: dict[str, Any] | None = None
    #: True when the directory was kept at the end.
    is_kept: bool = False

    def __post_init__(self) -> None:
        self.metrics.requested = requested_by(self.spec)

    def enter(self, state: JobState, word: str = "", at: datetime | None = None, source: str = FROM_HERE) -> None:
        """Take a state, and note when; in the same state, note only another word of the scheduler's.

        Args:
            state: The state.
            word: The scheduler's word for it, if it has said one.
            at: When, in UTC; None: now.
            source: Who told it.
        """
        last = self.history[-1] if self.history else Transition(JobState.NEW, utc_now())
        self.state = state
        if last.state is state and not last.native_word and self.history:
            self.history[-1] = last._replace(native_word=word)
        elif last.state is not state or word not in ("", last.native_word):
            self.history.append(Transition(state, at or utc_now(), word, source))

    def to_dict(self) -> dict[str, Any]:
        """Give the record as JSON types."""
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
            "metrics": self.metrics.to_dict(),
            "efficiency": efficiency.to_dict(self.metrics),
            "validation": self.validation,
            "history": [
                {"state": each.state.value, "at": _iso(each.at), "native_word": each.native_word or None}
                for each in self.history
            ],
        }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="milliseconds")
