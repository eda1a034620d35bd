"""A scheduler in memory, a clock that stands still, and a run on both whose threads are stepped by hand."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections import deque
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pytest_clusterjobs.backends import registry
from pytest_clusterjobs.backends.base import (
    Backend,
    BackendInfo,
    BackendSettings,
    Capability,
    QueuedJob,
    Submission,
    Submitted,
)
from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.core.errors import CommandError, SubmitUnknown
from pytest_clusterjobs.core.spec import make_spec
from pytest_clusterjobs.core.state import ExitReason, JobState, JobStatus
from pytest_clusterjobs.engine.clerk import Clerk
from pytest_clusterjobs.engine.job import Job
from pytest_clusterjobs.engine.monitor import Monitor
from pytest_clusterjobs.engine.run import Run
from pytest_clusterjobs.node import packing, runner
from pytest_clusterjobs.transports.local import LocalTransport

PENDING = JobStatus(JobState.PENDING, "PENDING")
RUNNING = JobStatus(JobState.RUNNING, "RUNNING")
COMPLETED = JobStatus(JobState.COMPLETED, "COMPLETED", exit_code=0)
CANCELLED = JobStatus(JobState.CANCELLED, "CANCELLED", ExitReason.CANCELLED_OUTSIDE)


def failed(reason: ExitReason, word: str = "", **facts: Any) -> JobStatus:
    """Give what a scheduler says of a job that failed."""
    return JobStatus(JobState.FAILED, word or reason.name, reason, **facts)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class ScriptedBackend(Backend):
    """A scheduler whose jobs do what the test says."""

    name: ClassVar[str] = "scripted"
    capabilities: ClassVar[frozenset[Capability]] = frozenset({Capability.ARRAYS, Capability.DETACHED})

    def __init__(self, clock: Clock) -> None:
        super().__init__(LocalTransport(), BackendSettings())
        self.clock = clock
        #: What its queue shows.
        self.queue: dict[str, QueuedJob] = {}
        #: What `explain` knows beyond the queue.
        self.known: dict[str, JobStatus] = {}
        #: What it was asked to run.
        self.submissions: list[Submission] = []
        #: Errors that the next submissions give; None: accepted.
        self.errors: deque[Exception | None] = deque()
        #: True: a submission whose reply is lost has made the job.
        self.makes_lost_jobs = False
        #: True: no question and no cancel is answered.
        self.is_down = False
        #: What it says to every cancel, all of which it refuses then.
        self.refusal = ""
        #: True: cancelled jobs leave at once.
        self.obeys = True
        self.array_size = 1000
        #: Called at each submission.
        self.on_submit: Callable[[], object] = lambda: None
        #: Called while it answers a question about its queue.
        self.on_query: Callable[[], object] = lambda: None
        #: When the queue was asked, and about what.
        self.queries: list[tuple[float, str]] = []
        self.explained: list[str] = []
        self.cancels: list[list[str]] = []
        self._numbers = itertools.count(1)

    def check(self) -> BackendInfo:
        self._answer()
        return BackendInfo("scripted 1.0", 1, 4)

    def submit(self, submission: Submission) -> Submitted:
        self.on_submit()
        self.submissions.append(submission)
        error = self.errors.popleft() if self.errors else None
        if error is None or (isinstance(error, SubmitUnknown) and self.makes_lost_jobs):
            ids = self._make(submission)
        if error is not None:
            raise error
        return Submitted(ids, "submit it")

    def _make(self, submission: Submission) -> tuple[str, ...]:
        number, count = next(self._numbers), len(submission.directories)
        ids = (str(number),) if count == 1 else tuple(f"{number}_{index}" for index in range(count))
        self.queue.update({native_id: QueuedJob(submission.name, PENDING) for native_id in ids})
        return ids

    def array_limit(self) -> int:
        return self.array_size

    def query(self, name_prefix: str) -> Mapping[str, QueuedJob]:
        self.queries.append((self.clock.now, name_prefix))
        self._answer()
        found = {key: queued for key, queued in self.queue.items() if queued.name.startswith(name_prefix)}
        self.on_query()
        return found

    def explain(self, native_id: str) -> JobStatus | None:
        self.explained.append(native_id)
        self._answer()
        if native_id in self.known:
            return self.known[native_id]
        return self.queue[native_id].status if native_id in self.queue else None

    def explain_sources(self) -> tuple[str, ...]:
        return ("the book",)

    def cancel(self, native_ids: Collection[str]) -> None:
        if not native_ids:
            return
        self.cancels.append(sorted(native_ids))
        self._answer()
        if self.refusal:
            raise CommandError("exit code 1", self.name, "end them", self.refusal)
        for native_id in native_ids if self.obeys else ():
            if native_id in self.queue and not self.queue[native_id].status.state.is_terminal:
                self.says(native_id, CANCELLED)

    def _answer(self) -> None:
        if self.is_down:
            raise CommandError("the controller is down", self.name)

    def says(self, native_id: str, status: JobStatus) -> None:
        """Have the queue show a job so."""
        self.queue[native_id] = QueuedJob(self.queue[native_id].name, status)


class Stage:
    """A run on a scripted scheduler. Nothing happens but by `pass_time`."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self._monkeypatch = root, monkeypatch
        self.clock = Clock()
        self.backend = ScriptedBackend(self.clock)
        self.runs: list[Run] = []
        monkeypatch.setitem(registry._registered, "scripted", lambda transport, settings: self.backend)
        for thread in (Monitor, Clerk):
            monkeypatch.setattr(thread, "start", lambda self: None)

    def open(self, worker: str = "main", run_id: str = "0badcafe", **settings: Any) -> Run:
        """Start a run, or another worker of it."""
        run = Run(Settings(workdir=str(self.root / "work"), **settings), run_id=run_id, worker=worker, clock=self.clock)
        run.select("scripted")
        self.runs.append(run)
        return run

    @property
    def run(self) -> Run:
        """The first run, with the default settings if none was started."""
        return self.runs[0] if self.runs else self.open()

    def command(self, text: str = "true", **resources: Any) -> Job[Any]:
        """Submit a command."""
        depends_on = resources.pop("depends_on", ())
        return self.run.submit_command(text, make_spec(**resources), depends_on=depends_on)

    def call(self, **resources: Any) -> Job[Any]:
        """Submit a call."""
        return self.run.submit_call(os.getpid, (), {}, make_spec(**resources))

    def started(self, **resources: Any) -> Job[Any]:
        """Submit a call and have it start."""
        job = self.call(**resources)
        self.start(job)
        return job

    def change_facts(self, **changes: Any) -> None:
        """Change what the first run's file says of its owner."""
        path = Path(self.runs[0].store.run_file)
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def die(self) -> None:
        """Have the process of all runs die without a word: another one may be started."""
        process = subprocess.Popen(["true"])
        process.wait()
        self.change_facts(pid=process.pid)
        self.runs = []

    def pass_time(self, seconds: float, step_s: float = 0.25) -> None:
        """Let time pass, with a round of everybody at each step."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now = min(end, self.clock.now + step_s)
            self.turn()

    def turn(self) -> None:
        """Have one round of everybody, at this very time."""
        for run in [each for own in self.runs for each in (own, *own.resumed)]:
            for clerk in list(run._clerks.values()):
                clerk.step(self.clock.now)
            run._monitor.step(self.clock.now)

    # ------------------------------------------------------------ what happens on the node

    def start(self, job: Job[Any]) -> None:
        """Have a job announce its start, and the queue show it."""
        Path(f"{job._run.store.mark(job.job_id)}.start").touch()
        self.backend.says(job.native_id, RUNNING)
        self.turn()

    def mark(self, job: Job[Any], code: int | str) -> None:
        """Have a job's script leave its exit code."""
        Path(job._run.store.mark(job.job_id)).write_text(str(code))

    def envelope(self, job: Job[Any], value: object = None, **header: Any) -> None:
        """Have a job leave a result."""
        made, segments = packing.pack_value(value, []) if not header else (dict(header), {})
        made["metrics"] = runner.measure(1.0, 0.5)
        runner.write_envelope(os.path.join(job.record.directory, runner.ENVELOPE), made, segments, fsync=False)

    def finish(self, job: Job[Any], value: object = None) -> None:
        """Have a job end with a value."""
        self.envelope(job, value)
        self.mark(job, 0)
        if job.native_id in self.backend.queue:
            self.backend.says(job.native_id, COMPLETED)
        self.turn()

    def close(self) -> None:
        """End what is still open."""
        self.backend.is_down = False
        self.backend.obeys = True
        for run in self.runs:
            run.close()
