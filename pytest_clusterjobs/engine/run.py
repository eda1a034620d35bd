"""`Run`: one pytest session or one program that submits jobs. What users, the monitor and the clerks meet in."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from queue import SimpleQueue
from typing import Any

from pytest_clusterjobs.backends import registry
from pytest_clusterjobs.backends.base import Backend, BackendInfo, BackendSettings, Partition, Submission
from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.core.errors import BackendError, ClusterJobsError, StoreError, UsageError
from pytest_clusterjobs.core.naming import slug
from pytest_clusterjobs.core.record import JobRecord, utc_now
from pytest_clusterjobs.core.spec import JobSpec
from pytest_clusterjobs.core.state import ExitReason, JobState, JobStatus
from pytest_clusterjobs.engine import closing, verdict
from pytest_clusterjobs.engine.clerk import Clerk
from pytest_clusterjobs.engine.closing import CloseReport
from pytest_clusterjobs.engine.current import refuse_now
from pytest_clusterjobs.engine.job import Callback, Job
from pytest_clusterjobs.engine.monitor import Monitor, read_header
from pytest_clusterjobs.engine.store import Store
from pytest_clusterjobs.engine.tracking import Batch, Tracked
from pytest_clusterjobs.engine.work import Work, command_work, inherited_environment, name_of, prepare
from pytest_clusterjobs.node.runner import START
from pytest_clusterjobs.transports.local import LocalTransport

log = logging.getLogger("pytest_clusterjobs")

DEFAULT_BACKEND = "local"


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether a backend can be used, asked once a run."""

    #: Its name.
    name: str
    #: True when the scheduler itself answered.
    is_available: bool
    #: What it said, or None.
    info: BackendInfo | None
    #: Why it cannot be used, "" when it can.
    reason: str


class Run:
    """Submits jobs, watches them, and leaves nothing behind. Any thread may use it; nothing happens before its use.

    Args:
        settings: How it behaves.
        run_id: Eight hexadecimal digits, the same for all workers of a run; None makes new ones.
        worker: This process's part of the run: "main", or an xdist worker's name.
    """

    def __init__(self, settings: Settings, *, run_id: str | None = None, worker: str = "main") -> None:
        self.run_id = run_id or secrets.token_hex(4)
        self.worker = worker
        self.settings = settings
        #: Every job of this process, in order of submission.
        self.records: list[JobRecord] = []
        #: Called about once a second, in a thread that waits, with the unfinished jobs.
        self.on_wait: Callable[[Sequence[JobRecord]], None] | None = None
        #: Trouble with schedulers that was ridden out, each once.
        self.problems: list[str] = []
        #: Guards the state of all jobs.
        self.lock = threading.RLock()
        self.store = Store(LocalTransport(), settings.workdir, self.run_id, worker)
        self._backends: dict[str, Backend] = {}
        self._clerks: dict[str, Clerk] = {}
        self._monitor = Monitor(self)
        self._unfinished: dict[str, Tracked] = {}
        self._native: dict[str, Tracked] = {}
        self._jobs: list[Job[Any]] = []
        self._probes: dict[str, Probe] = {}
        self._numbers = itertools.count(1)
        self._selected = DEFAULT_BACKEND
        self._test_id = ""
        self._defaults: JobSpec | None = None
        self._gathering: list[tuple[Job[Any], Work, str]] | None = None
        self._callbacks: SimpleQueue[tuple[Callback, Job[Any]] | None] = SimpleQueue()
        self._callback_thread: threading.Thread | None = None
        self._report: CloseReport | None = None
        self._room_taken = 0
        self._gathering_limit: int | None = None
        #: Tests that failed, told by `keep_jobs_of`.
        self.failed_tests: set[str] = set()

    # ------------------------------------------------------------ what it is

    @property
    def directory(self) -> str:
        """The run's directory. It may not exist yet."""
        return self.store.root

    @property
    def selected(self) -> str:
        """The backend that runs jobs that name none."""
        return self._selected

    @property
    def has_other_workers(self) -> bool:
        """True when this process is one of several workers of the run."""
        return self.worker != "main"

    @property
    def has_marks(self) -> bool:
        """True when a backend is in use whose jobs announce themselves by files."""
        return any(not backend.has_push for backend in self._backends.values())

    def select(self, backend: str | None, test_id: str = "", defaults: JobSpec | None = None) -> None:
        """Say where jobs from now on go unless they name a backend, for which test, and above which settings."""
        self._selected = registry.require(backend) if backend else DEFAULT_BACKEND
        self._test_id, self._defaults = test_id, defaults

    def backend(self, name: str) -> Backend:
        """Give the run's backend of that name.

        Raises:
            UnknownBackendError: There is none.
        """
        with self.lock:
            if name not in self._backends:
                settings = BackendSettings(self.settings.command_timeout_s, self.settings.python)
                backend = registry.create(name, LocalTransport(), settings)
                backend.set_listener(self._monitor.job_changed)
                self._backends[name] = backend
                self._clerks[name] = Clerk(self, backend)
            return self._backends[name]

    def probe(self, name: str) -> Probe:
        """Tell whether a backend can be used; asks it once a run, whichever worker comes first.

        Raises:
            UnknownBackendError: There is none of that name.
        """
        backend = self.backend(name)
        if name not in self._probes:
            self.store.open()
            with self.store.locked(f"probe-{name}"):
                kept = self.store.read_shared(f"probe-{name}.json") if self.has_other_workers else None
                probe = _probe_from(kept) if kept else _probe(backend)
                if self.has_other_workers and not kept:
                    self.store.write_shared(f"probe-{name}.json", dataclasses.asdict(probe))
            self._probes[name] = probe
        return self._probes[name]

    def jobs_of(self, test_id: str) -> list[Job[Any]]:
        """Give the jobs that were submitted for a test, in order."""
        return [job for job in self._jobs if job.record.test_id == test_id]

    # ------------------------------------------------------------ submission

    def submit_call(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        spec: JobSpec,
        *,
        label: str = "",
        names: Mapping[str, str] | None = None,
        depends_on: Sequence[Job[Any]] = (),
    ) -> Job[Any]:
        """Submit one call of a function; see `submit`."""
        work = Work(spec, label or function.__name__, function, args, kwargs, names=names or {})
        return self.submit([work], depends_on=depends_on)[0]

    def submit_command(
        self,
        command: str | Sequence[str],
        spec: JobSpec,
        *,
        label: str = "",
        depends_on: Sequence[Job[Any]] = (),
    ) -> Job[Any]:
        """Submit one command; see `submit` and `command_work`."""
        return self.submit([command_work(command, spec, label)], depends_on=depends_on)[0]

    def submit(
        self,
        works: Sequence[Work],
        *,
        depends_on: Sequence[Job[Any]] = (),
        max_concurrent: int | None = None,
    ) -> list[Job[Any]]:
        """Submit jobs; equal shapes become arrays. Returns at once; what a site's limit refuses now waits with us.

        Args:
            works: What they run.
            depends_on: Jobs that must complete before these are submitted.
            max_concurrent: At most so many of an array's jobs at once.

        Raises:
            UsageError: Pytest is collecting, the run is closed, or this process is itself a job.
            PayloadError: Something cannot be sent to the node.
            SubmitError: The scheduler refused.
        """
        __tracebackhide__ = True
        refuse_now()
        if self._report is not None:
            raise UsageError(f"the run {self.run_id} has ended; no job can be submitted to it any more")
        if self._gathering is not None:
            made = [self._make_job(work, depends_on) for work in works]
            self._gathering += made
            return [job for job, _, _ in made]
        groups: dict[tuple[str, JobSpec], list[tuple[Job[Any], Work]]] = {}
        jobs = []
        for work in works:
            job, laid, backend = self._make_job(work, depends_on)
            groups.setdefault((backend, _shape(laid)), []).append((job, laid))
            jobs.append(job)
        for (backend, _), members in groups.items():
            self._submit_group(backend, members, depends_on, max_concurrent)
        return jobs

    @contextmanager
    def gather(self, max_concurrent: int | None = None) -> Iterator[None]:
        """Hold back submissions made inside, and submit them together, as arrays, at its end."""
        if self._gathering is not None:
            raise UsageError("cluster.batch() cannot be used inside another one")
        self._gathering, self._gathering_limit = [], max_concurrent
        try:
            yield
        except BaseException:
            held, self._gathering = self._gathering, None
            for job, _, _ in held or []:
                self._end_unsubmitted(job, verdict.Verdict(JobState.CANCELLED, ExitReason.CANCELLED, "never submitted"))
            raise
        self.flush()

    def flush(self) -> None:
        """Submit what `gather` holds back."""
        held, self._gathering = self._gathering, None
        groups: dict[tuple[str, JobSpec], list[tuple[Job[Any], Work]]] = {}
        for job, work, backend in held or []:
            groups.setdefault((backend, _shape(work)), []).append((job, work))
        for (backend, _), members in groups.items():
            self._submit_group(backend, members, (), self._gathering_limit)

    def _make_job(self, work: Work, depends_on: Sequence[Job[Any]]) -> tuple[Job[Any], Work, str]:
        spec = work.spec if self._defaults is None else lay_over(self._defaults, work.spec)
        work = dataclasses.replace(work, spec=spec)
        backend = registry.require(spec.backend or self._selected)
        record = JobRecord("", self.run_id, "", backend, spec, "", work.label, test_id=self._test_id)
        job: Job[Any] = Job(self, record, is_command=work.function is None)
        if depends_on:
            record.detail = "waits for " + ", ".join(other.record.name for other in depends_on)
        return job, work, backend

    def _submit_group(
        self,
        name: str,
        members: list[tuple[Job[Any], Work]],
        depends_on: Sequence[Job[Any]],
        max_concurrent: int | None,
    ) -> None:
        backend = self.backend(name)
        limit = backend.array_limit() if len(members) > 1 else 1
        limit = min(limit, self.settings.max_jobs or limit)
        self.store.open()
        batches = [
            self._make_batch(backend, members[start : start + limit], depends_on, max_concurrent)
            for start in range(0, len(members), limit)
        ]
        self._monitor.start()
        try:
            for batch in batches:
                self._clerks[name].submit(batch)
        finally:
            self._monitor.wake()
        if self._clerks[name].waiting():
            self._clerks[name].start()

    def _make_batch(
        self,
        backend: Backend,
        members: list[tuple[Job[Any], Work]],
        depends_on: Sequence[Job[Any]],
        max_concurrent: int | None,
    ) -> Batch:
        number = next(self._numbers)
        base = str(number) if self.worker == "main" else f"{self.worker}.{number}"
        works = [work for _, work in members]
        name = name_of(self.run_id, base, works[0])
        directory = os.path.join(self.store.directory, f"{number}-{slug(works[0].spec.name or works[0].label)}")
        ids = [base] if len(members) == 1 else [f"{base}.{index}" for index in range(len(members))]
        paths = prepare(self.store, works, ids, directory)
        now, tracked = time.monotonic(), []
        for (job, work), job_id, path in zip(members, ids, paths, strict=True):
            job.record.job_id, job.record.directory = job_id, path
            job.record.name = name_of(self.run_id, job_id, work)
            tracked.append(Tracked(job, backend, waits_since=now))
        spec = works[0].spec
        submission = Submission(
            name=name,
            spec=spec,
            directories=paths,
            directory=directory,
            markers=tuple(self.store.mark(job_id) for job_id in ids),
            runner=self.store.runner,
            python=self.settings.python,
            environment=inherited_environment(spec.inherit_env),
            max_concurrent=max_concurrent,
        )
        with self.lock:
            for one in tracked:
                self.records.append(one.job.record)
                self._jobs.append(one.job)
                self._unfinished[one.job.job_id] = one
        self.store.journal("intent", name=name, backend=backend.name, jobs=ids, directory=directory)
        return Batch(tracked, submission, backend, tuple(depends_on))

    # ------------------------------------------------------------ what the monitor and the clerks tell

    def unfinished(self, backend: Backend | None = None) -> list[Tracked]:
        """Give the unfinished jobs, of one backend or of all."""
        with self.lock:
            return [tracked for tracked in self._unfinished.values() if backend is None or tracked.backend is backend]

    def by_job_id(self, job_id: str) -> Tracked | None:
        """Give an unfinished job by our id."""
        return self._unfinished.get(job_id)

    def by_native_id(self, native_id: str) -> Tracked | None:
        """Give an unfinished job by the scheduler's id, of a backend with push."""
        return self._native.get(native_id)

    def accept_batch(self, batch: Batch, native_ids: Sequence[str], command: str) -> None:
        """Take note that the scheduler has accepted a batch."""
        now, moment = time.monotonic(), utc_now()
        self.store.journal("submitted", name=batch.submission.name, backend=batch.backend.name, ids=list(native_ids))
        with self.lock:
            for tracked, native_id in zip(batch.members, native_ids, strict=True):
                record = tracked.job.record
                record.native_id, record.submit_command, record.detail = native_id, command, ""
                record.metrics.submitted_at = record.metrics.submitted_at or moment
                record.state = JobState.PENDING if record.state is JobState.NEW else record.state
                tracked.accepted = now
                if tracked.cancel_reason is not None:
                    tracked.must_cancel = True
                if batch.backend.has_push:
                    self._native[f"{native_id}"] = tracked
        if batch.backend.has_push:
            for native_id in native_ids:  # it may have changed before it was known here
                self._monitor.job_changed(native_id)

    def refuse_batch(self, batch: Batch, error: Exception) -> None:
        """End the jobs of a batch that was refused for good."""
        text = str(error.args[0]) if error.args else str(error)
        for tracked in batch.members:
            tracked.job.submit_error = error
            self.end(tracked, verdict.Verdict(JobState.FAILED, ExitReason.SUBMIT_REFUSED, text), None)

    def note_start(self, tracked: Tracked, now: float) -> None:
        """Take note that a job has started."""
        if tracked.started is None:
            tracked.started = now
            tracked.job.record.state = JobState.RUNNING
            tracked.job.record.detail = ""
            tracked.job.record.metrics.started_at = utc_now()

    def note_status(self, tracked: Tracked, status: JobStatus, *, keep_state: bool = False) -> None:
        """Take note of the scheduler's words; ``keep_state`` leaves our state to the evidence."""
        record = tracked.job.record
        record.native_word = status.native_word
        record.metrics.restarts = max(record.metrics.restarts, status.restarts)
        if status.nodes:
            record.metrics.nodes = (status.nodes,)
        if not keep_state:
            record.detail = status.detail
            if not (status.state is JobState.PENDING and tracked.started is not None):
                record.state = status.state

    def note_requeue(self, tracked: Tracked, status: JobStatus) -> None:
        """Take note that the scheduler has put a started job back into the queue, under the same id."""
        mark = self.store.mark(tracked.job.job_id)
        for path in (mark, f"{mark}.start"):
            self.store.transport.remove(path)
        record = tracked.job.record
        tracked.started = tracked.code = tracked.unexplained_since = tracked.ended_since = None
        tracked.waits_since = time.monotonic()
        record.state, record.detail = JobState.PENDING, status.detail
        record.metrics.restarts = max(record.metrics.restarts + 1, status.restarts)
        self.store.journal("requeued", job=record.job_id, native_id=record.native_id)

    def note_problem(self, text: str) -> None:
        """Take note of trouble that was ridden out; each text once."""
        if text not in self.problems:
            self.problems.append(text)
            log.warning("clusterjobs: %s", text)

    def ask_scheduler(self, tracked: Tracked) -> None:
        """Have the scheduler asked about a job soon."""
        self._clerks[tracked.backend.name].wake()

    # ------------------------------------------------------------ ends

    def end_with_evidence(self, tracked: Tracked, otherwise: Callable[[], verdict.Verdict | None]) -> bool:
        """End a job by its envelope if there is one, else by ``otherwise()``'s verdict; tell whether it ended."""
        judged = read_header(self, tracked)
        # A command that a signal ended does not know who sent it: that is for others to say.
        if judged is not None and judged[0].reason is not ExitReason.SIGNAL:
            self.end(tracked, *judged)
            return True
        fallback = otherwise()
        if fallback is not None:
            self.end(tracked, fallback, None if judged is None else judged[1])
        return fallback is not None

    def end(self, tracked: Tracked, ended: verdict.Verdict, header: Mapping[str, Any] | None) -> None:
        """End a job for good. The first verdict stays."""
        with self.lock:
            if tracked.is_closed:
                return
            tracked.is_closed = True
            record = tracked.job.record
            record.reason, record.detail = ended.reason, ended.detail
            record.metrics.exit_code, record.metrics.signal = ended.exit_code, ended.signal
            self._fill_metrics(tracked, header or self._header(record) or {})
            record.state = ended.state
            self._unfinished.pop(record.job_id, None)
            self._native.pop(record.native_id, None)
        self.store.transport.remove(self.store.mark(record.job_id))
        self.store.transport.remove(self.store.mark(record.job_id) + ".start")
        self.store.journal("ended", job=record.job_id, state=record.state.value, reason=record.reason)
        self._give_room_back()
        tracked.job.mark_ended()

    def _header(self, record: JobRecord) -> dict[str, Any] | None:
        try:
            return self.store.read_header(record.directory)
        except StoreError:
            return None

    def _end_unsubmitted(self, job: Job[Any], ended: verdict.Verdict) -> None:
        job.record.state, job.record.reason, job.record.detail = ended.state, ended.reason, ended.detail
        self.records.append(job.record)
        job.mark_ended()

    def _fill_metrics(self, tracked: Tracked, header: Mapping[str, Any]) -> None:
        record, measured = tracked.job.record, header.get("metrics") or {}
        metrics = record.metrics
        start = self.store.read_json(os.path.join(record.directory, START)) or {}
        if start.get("node"):
            metrics.nodes = metrics.nodes or (start["node"],)
        if started := measured.get("started_at", start.get("started_at")):
            metrics.started_at = datetime.fromtimestamp(started, timezone.utc)
        ended_at = measured.get("ended_at")
        metrics.ended_at = utc_now() if ended_at is None else datetime.fromtimestamp(ended_at, timezone.utc)
        metrics.cpu_time_s = measured.get("cpu_time_s")
        metrics.max_rss_bytes = measured.get("max_rss_bytes")
        if metrics.submitted_at and metrics.started_at:
            metrics.queue_time_s = max(0.0, (metrics.started_at - metrics.submitted_at).total_seconds())
        if metrics.started_at:
            metrics.run_time_s = measured.get("run_time_s", (metrics.ended_at - metrics.started_at).total_seconds())
        if not measured:
            why = "the job left no result file" if metrics.started_at else "the job did not start"
            metrics.unknown.update({"cpu_time_s": why, "max_rss_bytes": why})

    def release(self, job: Job[Any]) -> None:
        """Free the disk space of a value that has been loaded."""
        keep = job.record.spec.keep or self.settings.keep
        if job.record.state is JobState.COMPLETED and keep != "always":
            for name in ("result.cj", "arguments.pkl"):
                self.store.transport.remove(os.path.join(job.record.directory, name))

    # ------------------------------------------------------------ room

    def take_room(self, count: int) -> bool:
        """Count jobs against the limit of the run, all its workers together; False when there is no room for them."""
        limit = self.settings.max_jobs
        if limit is None:
            return True
        with self.store.locked("room"):
            shared = os.path.join(self.store.root, "shared")
            names = [name for name in self.store.transport.list_names(shared) if name.startswith("room-")]
            others = sum(self.store.read_shared(name) or 0 for name in names if name != f"room-{self.worker}.json")
            mine = self._room_taken
            if others + mine + count > limit:
                return False
            self._room_taken = mine + count
            self.store.write_shared(f"room-{self.worker}.json", self._room_taken)
        return True

    def _give_room_back(self) -> None:
        if self.settings.max_jobs is not None and self._room_taken:
            with self.store.locked("room"):
                self._room_taken -= 1
                self.store.write_shared(f"room-{self.worker}.json", self._room_taken)
            for clerk in self._clerks.values():
                clerk.wake()

    # ------------------------------------------------------------ while it runs

    def look(self, job: Job[Any]) -> None:
        """Bring a job up to date as far as that costs no command."""
        if not job.record.state.is_terminal:
            self._monitor.look()

    def tick(self) -> None:
        """Called about once a second by a thread that waits for a job."""
        if self.on_wait is not None:
            self.on_wait([tracked.job.record for tracked in self.unfinished()])

    def cancel(self, jobs: Sequence[Job[Any]]) -> None:
        """Cancel jobs; those that have ended are left as they are."""
        for job in jobs:
            tracked = self.by_job_id(job.job_id)
            if tracked is not None and tracked.job is job:
                self.cancel_tracked(tracked, ExitReason.CANCELLED, "")

    def cancel_tracked(self, tracked: Tracked, reason: ExitReason, detail: str) -> None:
        """Cancel a job for a reason; the first reason stays."""
        with self.lock:
            if tracked.is_closed or tracked.cancel_reason is not None:
                return
            tracked.cancel_reason, tracked.cancel_detail = reason, detail
            if tracked.accepted is None and not self._is_being_submitted(tracked):
                self.end(tracked, verdict.Verdict(verdict.state_for(reason), reason, detail), None)
                return
            tracked.must_cancel = True
        if tracked.backend.has_push:
            tracked.must_cancel = False
            tracked.backend.cancel([tracked.job.native_id])
        else:
            self.ask_scheduler(tracked)

    def _is_being_submitted(self, tracked: Tracked) -> bool:
        """Tell whether the scheduler may already have the job: a submit command runs, or its reply was lost."""
        for batch in self._clerks[tracked.backend.name].waiting():
            if tracked in batch.members:
                return batch.has_room and (batch.tries == 0 or batch.lost_since is not None)
        return True

    def call_back(self, callback: Callback, job: Job[Any]) -> None:
        """Call a callback in the run's own thread for them."""
        with self.lock:
            if self._callback_thread is None:
                self._callback_thread = threading.Thread(
                    target=self._call_callbacks, name="clusterjobs-callbacks", daemon=True
                )
                self._callback_thread.start()
        self._callbacks.put((callback, job))

    def _call_callbacks(self) -> None:
        while (item := self._callbacks.get()) is not None:
            callback, job = item
            try:
                made = callback(job)
                if hasattr(made, "__await__"):
                    _await(made)
            except Exception:  # the edge of the thread: a user's callback must not stop the others
                log.exception("clusterjobs: a callback of %s raised", job.record.name)

    # ------------------------------------------------------------ its end

    def close(self) -> CloseReport:
        """Cancel what runs, look for what was left, remove what is not to be kept. Idempotent; ends within a minute."""
        if self._report is None:
            self._report = CloseReport()
            closing.close(self, self._report)
        return self._report

    def stop_threads(self) -> None:
        """Stop the monitor, the clerks and the callbacks; those that are waiting are still called."""
        for clerk in self._clerks.values():
            clerk.stop()
        self._monitor.stop()
        if self._callback_thread is not None:
            self._callbacks.put(None)
            self._callback_thread.join(timeout=10)

    def open_backends(self) -> list[Backend]:
        """Give the backends that were used."""
        return list(self._backends.values())

    def settle(self) -> None:
        """Take in marks and changes now."""
        self._monitor.step(time.monotonic())

    def keep_jobs_of(self, test_id: str) -> None:
        """Treat a test's jobs as failed when directories are kept: the test failed, whatever they did."""
        self.failed_tests.add(test_id)

    def adopt_dead_worker(self, worker: str) -> list[str]:
        """Cancel what a worker of this run left when it was killed; gives the native ids."""
        return closing.adopt(self, worker)


def lay_over(defaults: JobSpec, spec: JobSpec) -> JobSpec:
    """Lay a job's own settings over defaults: what the job left at its default is taken from them."""
    empty = JobSpec()
    own = {
        item.name: getattr(spec, item.name)
        for item in dataclasses.fields(spec)
        if getattr(spec, item.name) != getattr(empty, item.name)
    }
    return dataclasses.replace(defaults, **own)


def _shape(work: Work) -> JobSpec:
    return dataclasses.replace(work.spec, name=None)


def _await(awaitable: Any) -> None:
    import asyncio

    async def wrapper() -> None:
        await awaitable

    asyncio.run(wrapper())


def _probe(backend: Backend) -> Probe:
    try:
        return Probe(backend.name, True, backend.check(), "")
    except BackendError as error:
        stderr = error.stderr.strip().splitlines()
        said = f" ({stderr[-1]})" if stderr else ""
        return Probe(backend.name, False, None, f"{backend.name}: {error.args[0]}{said}")
    except ClusterJobsError as error:
        return Probe(backend.name, False, None, f"{backend.name}: {error}")


def _probe_from(kept: dict[str, Any]) -> Probe:
    info = kept["info"]
    if info is not None:
        info = BackendInfo(**{**info, "partitions": tuple(Partition(**each) for each in info["partitions"])})
    return Probe(kept["name"], kept["is_available"], info, kept["reason"])
