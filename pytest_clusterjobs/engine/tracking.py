"""What the engine remembers of unfinished jobs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pytest_clusterjobs.backends.base import Backend, Submission
from pytest_clusterjobs.core.state import ExitReason
from pytest_clusterjobs.engine.job import Job


@dataclass(slots=True, eq=False)
class Tracked:
    """An unfinished job. Times are of ``time.monotonic``; everything is guarded by the run's lock."""

    #: Its future.
    job: Job[Any]
    #: Who runs it.
    backend: Backend
    #: When the scheduler accepted it.
    accepted: float | None = None
    #: When it was seen to have started.
    started: float | None = None
    #: Since when the scheduler says that it runs.
    said_running: float | None = None
    #: From when its wait in the queue counts.
    waits_since: float = 0.0
    #: Why we cancelled it, or None.
    cancel_reason: ExitReason | None = None
    #: More about why we cancelled it.
    cancel_detail: str = ""
    #: True until the cancel command has succeeded.
    must_cancel: bool = False
    #: When the cancel command succeeded.
    cancelled: float | None = None
    #: Exit code that its script left, when a signal of the scheduler may be behind it.
    code: int | None = None
    #: Since when only the scheduler can explain it: its script has ended by a signal.
    unexplained_since: float | None = None
    #: Since when queries do not show it.
    missing_since: float | None = None
    #: Since when the scheduler says it has ended, without evidence of its own.
    ended_since: float | None = None
    #: The scheduler's word for its end, "" while it has said none.
    end_word: str = ""
    #: True while it counts against the limit on jobs.
    has_room: bool = False
    #: True once it has ended for us.
    is_closed: bool = False

    @property
    def needs_scheduler(self) -> bool:
        """True when something about it can only go on after the scheduler was asked, soon."""
        waits = self.unexplained_since or self.ended_since or self.missing_since
        return waits is not None or (self.cancel_reason is not None and not self.must_cancel)


@dataclass(slots=True, eq=False)
class Batch:
    """Jobs that are submitted together, while they wait with us."""

    #: Its jobs, in order.
    members: list[Tracked]
    #: What is submitted.
    submission: Submission
    #: Who gets it.
    backend: Backend
    #: Jobs that must complete first.
    depends_on: tuple[Job[Any], ...] = ()
    #: When the next try is due.
    try_at: float = 0.0
    #: Number of tries so far.
    tries: int = 0
    #: Since when a reply is lost, or None.
    lost_since: float | None = None
    #: How many queries since then answered without showing it.
    absences: int = 0
    #: Since when replies have been lost, through all tries, or None.
    trouble_since: float | None = None
    #: True once there was room for it.
    has_room: bool = False

    @property
    def place(self) -> str:
        """What users call the place that gets it: a backend's name or a profile's."""
        return self.members[0].job.record.backend

    def pieces(self) -> list[Batch]:
        """Give an array's unfinished jobs as submissions of their own, named as the jobs are."""
        whole = self.submission
        parts = zip(self.members, whole.directories, whole.markers, strict=True)
        return [
            replace(
                self,
                members=[tracked],
                submission=replace(
                    whole, name=tracked.job.record.name, directories=(path,), directory=path, markers=(marker,)
                ),
            )
            for tracked, path, marker in parts
            if not tracked.is_closed
        ]
