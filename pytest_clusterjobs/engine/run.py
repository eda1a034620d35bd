"""`Run`: one pytest session or one program that submits jobs. What users, the monitor and the clerks meet in."""

from __future__ import annotations

import dataclasses
import itertools
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pytest_clusterjobs.backends.base import Backend, Capability, Submission
from pytest_clusterjobs.config.place import Place
from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.core.errors import UsageError
from pytest_clusterjobs.core.naming import slug
from pytest_clusterjobs.core.record import JobRecord
from pytest_clusterjobs.core.spec import JobSpec, lay_over
from pytest_clusterjobs.core.state import ExitReason, JobState
from pytest_clusterjobs.engine import closing, probe, verdict
from pytest_clusterjobs.engine.callbacks import Callbacks
from pytest_clusterjobs.engine.clerk import Clerk
from pytest_clusterjobs.engine.closing import CloseReport
from pytest_clusterjobs.engine.current import refuse_now
from pytest_clusterjobs.engine.ferry import Ferry, name_there
from pytest_clusterjobs.engine.job import Job
from pytest_clusterjobs.engine.ledger import Ledger
from pytest_clusterjobs.engine.monitor import Monitor
from pytest_clusterjobs.engine.opening import FAR_PYTHON, backend_alone, open_backend, refuse_other
from pytest_clusterjobs.engine.probe import Probe
from pytest_clusterjobs.engine.room import Room
from pytest_clusterjobs.engine.store import Store
from pytest_clusterjobs.engine.tracking import Batch, Tracked
from pytest_clusterjobs.engine.work import Work, command_work, inherited_environment, name_of, prepare
from pytest_clusterjobs.transports.base import FarTransport
from pytest_clusterjobs.transports.local import LocalTransport

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks

DEFAULT_BACKEND = "local"


@dataclass(frozen=True, slots=True)
class _Made:
    """A job that is about to be submitted."""

    job: Job[Any]
    work: Work
    backend: str
    depends_on: tuple[Job[Any], ...]


class Run:
    """Submits jobs, watches them, and leaves nothing behind. Any thread may use it; nothing happens before its use.

    Args:
        settings: How it behaves.
        run_id: Eight hexadecimal digits, the same for all workers of a run; None makes new ones.
        worker: This process's part of the run: "main", or an xdist worker's name.
        clock: Gives the time in seconds that limits and questions go by.
        places: Gives what the name of a backend or a profile means, or raises `UnknownBackendError`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        run_id: str | None = None,
        worker: str = "main",
        clock: Callable[[], float] = time.monotonic,
        places: Callable[[str], Place] = backend_alone,
    ) -> None:
        self.run_id = run_id or secrets.token_hex(4)
        self.worker = worker
        self.settings = settings
        #: Gives the time in seconds that limits and questions go by.
        self.clock = clock
        self._pid = os.getpid()
        self._owner_pid = self._pid if worker == "main" else os.getppid()
        #: Called about once a second, in a thread that waits, with the unfinished jobs.
        self.on_wait: Callable[[Sequence[JobRecord]], None] | None = None
        #: Tests that failed, told by `keep_jobs_of`.
        self.failed_tests: set[str] = set()
        #: Its directories.
        self.store = Store(LocalTransport(), settings.workdir, self.run_id, worker, self._owner_pid)
        #: Its jobs.
        self.ledger = Ledger(self.store, self._after_end, clock)
        #: Its callbacks.
        self.callbacks = Callbacks()
        #: Its share of the limit on jobs.
        self.room = Room(self.store, settings.max_jobs)
        self._find_place = places
        self._places: dict[str, Place] = {}
        self._backends: dict[str, Backend] = {}
        self._clerks: dict[str, Clerk] = {}
        #: The ways of files to far machines that were used, by the names of their places.
        self.ferries: dict[str, Ferry] = {}
        self._monitor = Monitor(self, clock)
        self._probes: dict[str, Probe] = {}
        self._numbers = itertools.count(1)
        self._selected = DEFAULT_BACKEND
        self._test_id = ""
        self._defaults: JobSpec | None = None
        self._gathering: list[_Made] | None = None
        self._gathering_limit: int | None = None
        self._report: CloseReport | None = None
        #: Dead runs that were taken over, each a worker's part.
        self.resumed: list[Run] = []

    # ------------------------------------------------------------ what it is

    @property
    def directory(self) -> str:
        """The run's directory. It may not exist yet."""
        return self.store.root

    @property
    def records(self) -> list[JobRecord]:
        """Every job of this process, in order of submission; then those that were reconnected to."""
        return [record for each in (self, *self.resumed) for record in each.ledger.records]

    @property
    def problems(self) -> list[str]:
        """Trouble with schedulers that was ridden out, each once."""
        return self.ledger.problems

    @property
    def selected(self) -> str:
        """The backend that runs jobs that name none."""
        return self._selected

    @property
    def has_other_workers(self) -> bool:
        """True when this process is one of several workers of the run."""
        return self.worker != "main"

    @property
    def is_orphaned(self) -> bool:
        """True when this process is a worker and the pytest that started it has died."""
        return self.has_other_workers and os.getppid() != self._owner_pid

    @property
    def has_marks(self) -> bool:
        """True when a backend is in use whose jobs announce themselves by files."""
        return any(not backend.has_push for backend in self._backends.values())

    def select(self, backend: str | None, test_id: str = "", defaults: JobSpec | None = None) -> None:
        """Say where jobs from now on go unless they name a backend, for which test, and above which settings."""
        self._selected = self.place(backend).name if backend else DEFAULT_BACKEND
        self._test_id, self._defaults = test_id, defaults
        self.ledger.jobs = self.jobs_of(test_id)

    def place(self, name: str) -> Place:
        """Give what the name of a backend or a profile means.

        Raises:
            UnknownBackendError: There is neither.
        """
        if name not in self._places:
            self._places[name] = self._find_place(name)
        return self._places[name]

    def place_of(self, backend: Backend) -> Place:
        """Give the place that one of the run's backends is for."""
        return next(self.place(name) for name, each in self._backends.items() if each is backend)

    def lost_after_s(self, backend: Backend) -> float:
        """Give the seconds that a job of a backend may be unknown to every source before it counts as lost."""
        own = self.place_of(backend).lost_after_s
        return self.settings.lost_after_s if own is None else own

    def backend(self, name: str) -> Backend:
        """Give the run's backend of that name, or of a profile's.

        Raises:
            UnknownBackendError: There is none.
        """
        with self.ledger.lock:
            if name not in self._backends:
                place = self.place(name)
                backend = open_backend(place, self.settings, name_there(self.run_id, self.worker))
                backend.set_listener(self._monitor.job_changed)
                self._backends[name] = backend
                if isinstance(backend.transport, FarTransport) and backend.shares_files:
                    self.ferries[name] = Ferry(self.store, backend.transport, place, backend.settings.command_timeout_s)
                self._clerks[name] = Clerk(self, backend, self.clock, self.ferries.get(name))
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
                answer = probe.from_json(kept) if kept else probe.ask(backend, name)
                if self.has_other_workers and not kept:
                    self.store.write_shared(f"probe-{name}.json", dataclasses.asdict(answer))
            self._probes[name] = answer
        return self._probes[name]

    def jobs_of(self, test_id: str) -> list[Job[Any]]:
        """Give the jobs that were submitted for a test, in order; only of the test that was selected last."""
        return [job for job in self.ledger.jobs if job.record.test_id == test_id]

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
        self.refuse_now()
        made = [self._make_job(work, depends_on) for work in works]
        if self._gathering is not None:
            self._gathering += made
        else:
            self._submit_groups(made, max_concurrent)
        return [each.job for each in made]

    def refuse_now(self) -> None:
        """Raise `UsageError` where no job may be submitted to this run."""
        refuse_now()
        self.refuse_fork()
        if self.is_orphaned:
            raise UsageError("the pytest that started this worker has died; no job is submitted any more")
        if self._report is not None:
            raise UsageError(f"the run {self.run_id} has ended; no job can be submitted to it any more")

    def refuse_fork(self) -> None:
        """Raise `UsageError` in a child that was forked from the run's process: it has none of its threads."""
        if os.getpid() != self._pid:
            raise UsageError("this process was forked from the one that the jobs belong to; submit and wait there")

    @contextmanager
    def gather(self, max_concurrent: int | None = None) -> Iterator[None]:
        """Hold back submissions made inside, and submit them together, as arrays, at its end."""
        if self._gathering is not None:
            raise UsageError("cluster.batch() cannot be used inside another one")
        self._gathering, self._gathering_limit = [], max_concurrent
        try:
            yield
        except BaseException:
            self._drop(self._gathering or [], "the batch was never submitted")
            self._gathering = None
            raise
        self.flush()

    def flush(self) -> None:
        """Submit what `gather` holds back."""
        held, self._gathering = self._gathering, None
        if held:
            self._submit_groups(held, self._gathering_limit)

    def _drop(self, held: Sequence[_Made], why: str) -> None:
        for made in held:
            self.ledger.end_unsubmitted(made.job, verdict.Verdict(JobState.CANCELLED, ExitReason.CANCELLED, why))

    def _make_job(self, work: Work, depends_on: Sequence[Job[Any]]) -> _Made:
        spec = work.spec if self._defaults is None else lay_over(self._defaults, work.spec)
        place = self.place(spec.backend or self._selected)
        refuse_other(place, self.settings)
        spec = place.spec_for(spec, self.settings)
        work = dataclasses.replace(work, spec=spec)
        backend = place.name
        record = JobRecord("", self.run_id, work.label, backend, spec, "", work.label, test_id=self._test_id)
        job: Job[Any] = Job(self, record, is_command=work.function is None)
        if depends_on:
            record.detail = "waits for " + ", ".join(other.record.name for other in depends_on)
        return _Made(job, work, backend, tuple(depends_on))

    def _submit_groups(self, made: Sequence[_Made], max_concurrent: int | None) -> None:
        groups: dict[tuple[str, JobSpec, tuple[Job[Any], ...]], list[_Made]] = {}
        for each in made:
            shape = dataclasses.replace(each.work.spec, name=None)
            groups.setdefault((each.backend, shape, each.depends_on), []).append(each)
        for members in groups.values():
            self._submit_group(members, max_concurrent)

    def _submit_group(self, members: Sequence[_Made], max_concurrent: int | None) -> None:
        name = members[0].backend
        backend, clerk = self.backend(name), self._clerks[name]
        limit = self._array_limit(backend, name) if len(members) > 1 else 1
        limit = min(limit, self.settings.max_jobs or limit)
        self.store.open()
        batches = [
            self._make_batch(backend, members[start : start + limit], max_concurrent)
            for start in range(0, len(members), limit)
        ]
        self._monitor.start()
        try:
            for batch in batches:
                clerk.submit(batch)
        finally:
            self._monitor.wake()
        if clerk.waiting():
            clerk.start()

    def _array_limit(self, backend: Backend, name: str) -> int:
        """Give the most jobs of one array: the probe knows, whichever worker made it."""
        known = self._probes.get(name)
        return (known and known.info and known.info.array_limit) or backend.array_limit()

    def _make_batch(self, backend: Backend, members: Sequence[_Made], max_concurrent: int | None) -> Batch:
        number = next(self._numbers)
        base = str(number) if self.worker == "main" else f"{self.worker}.{number}"
        works = [made.work for made in members]
        name = name_of(self.run_id, base, works[0])
        directory = os.path.join(self.store.directory, f"{number}-{slug(works[0].spec.name or works[0].label)}")
        ids = [base] if len(members) == 1 else [f"{base}.{index}" for index in range(len(members))]
        is_durable = Capability.DETACHED in backend.capabilities
        paths = prepare(self.store, works, ids, directory, is_durable=is_durable, shares_files=backend.sees_files)
        now, tracked = self.clock(), []
        for made, job_id, path in zip(members, ids, paths, strict=True):
            record = made.job.record
            record.job_id, record.directory, record.name = job_id, path, name_of(self.run_id, job_id, made.work)
            tracked.append(Tracked(made.job, backend, waits_since=now))
        spec = works[0].spec
        submission = Submission(
            name=name,
            spec=spec,
            directories=paths,
            directory=directory,
            markers=tuple(self.store.mark(job_id) for job_id in ids),
            runner=self.store.runner,
            python=self.place(members[0].backend).python
            or (self.settings.python if backend.sees_files else FAR_PYTHON),
            environment=inherited_environment(spec.inherit_env) if backend.sees_files else {},
            max_concurrent=max_concurrent,
        )
        batch = Batch(tracked, submission, backend, members[0].depends_on)
        self.ledger.add(batch)
        return batch

    def release(self, job: Job[Any]) -> None:
        """Free the disk space of a value that has been loaded."""
        keep = job.record.spec.keep or self.settings.keep
        if job.record.state is JobState.COMPLETED and keep != "always":
            for name in ("result.cj", "arguments.pkl"):
                self.store.transport.remove(os.path.join(job.record.directory, name))

    # ------------------------------------------------------------ while it runs

    def fetch_logs(self, job: Job[Any]) -> None:
        """Bring what an unfinished job has printed so far here, where that has to be brought."""
        record, ferry = job.record, self.ferries.get(job.record.backend)
        if record.native_id and not record.state.is_terminal:
            if ferry is not None:
                ferry.fetch_logs(record.directory)
            else:
                self._backends[record.backend].fetch_logs(record.native_id)

    def look(self, job: Job[Any]) -> None:
        """Bring a job up to date as far as that costs no command."""
        if not job.record.state.is_terminal:
            self._monitor.look()

    def tick(self) -> None:
        """Called about once a second by a thread that waits for a job."""
        if self.on_wait is not None:
            self.on_wait([tracked.job.record for tracked in self.ledger.unfinished()])

    def cancel(self, jobs: Sequence[Job[Any]]) -> None:
        """Cancel jobs; those that have ended are left as they are."""
        if self._gathering:
            self._drop([made for made in self._gathering if made.job in jobs], "")
            self._gathering = [made for made in self._gathering if made.job not in jobs]
        for job in jobs:
            tracked = self.ledger.by_job_id(job.job_id)
            if tracked is not None and tracked.job is job:
                self.cancel_tracked(tracked, ExitReason.CANCELLED, "")

    def cancel_tracked(self, tracked: Tracked, reason: ExitReason, detail: str) -> None:
        """Cancel a job for a reason; the first reason stays."""
        with self.ledger.lock:
            if tracked.is_closed or tracked.cancel_reason is not None:
                return
            tracked.cancel_reason, tracked.cancel_detail = reason, detail
            if tracked.accepted is None and not self._is_being_submitted(tracked):
                self.ledger.end(tracked, verdict.Verdict(verdict.state_for(reason), reason, detail), None)
                return
            tracked.must_cancel = True
        if tracked.backend.has_push:
            self._cancel_now([tracked])
        else:
            self.ask_scheduler(tracked)

    def _cancel_now(self, chosen: Sequence[Tracked]) -> None:
        """Pass on the cancels of a backend with push; what is being submitted follows when it is accepted."""
        for tracked in chosen:
            if tracked.must_cancel and tracked.accepted is not None:
                tracked.must_cancel = False
                tracked.backend.cancel([tracked.job.native_id])

    def ask_scheduler(self, tracked: Tracked) -> None:
        """Have the scheduler asked about a job soon."""
        self._clerks[tracked.job.record.backend].wake()

    def accepted(self, batch: Batch, native_ids: Sequence[str], command: str) -> None:
        """Take note that the scheduler has accepted a batch."""
        self.ledger.accept(batch, native_ids, command)
        if batch.backend.has_push:
            self._cancel_now(batch.members)
            for native_id in native_ids:  # it may have changed before it was known here
                self._monitor.job_changed(native_id)

    def _after_end(self, tracked: Tracked) -> None:
        if tracked.has_room and self.room.give_back():
            for clerk in self._clerks.values():
                clerk.wake()

    def _is_being_submitted(self, tracked: Tracked) -> bool:
        """Tell whether the scheduler may already have the job: a submit command runs, or its reply was lost."""
        for batch in self._clerks[tracked.job.record.backend].waiting():
            if tracked in batch.members:
                return batch.has_room and (batch.tries == 0 or batch.lost_since is not None)
        return True

    # ------------------------------------------------------------ its end

    def close(self) -> CloseReport:
        """Cancel what runs, look for what was left, remove what is not to be kept. Idempotent; ends within a minute."""
        if self._report is None:
            self._report = CloseReport()
            if os.getpid() == self._pid:  # a forked child's end is not the run's
                closing.close(self, self._report)
        return self._report

    def stop_threads(self) -> None:
        """Stop the monitor, the clerks and the callbacks; those that are waiting are still called."""
        for clerk in self._clerks.values():
            clerk.stop()
        self._monitor.stop()
        self.callbacks.stop()

    def open_backends(self) -> list[Backend]:
        """Give the backends that were used."""
        return list(self._backends.values())

    def settle(self) -> None:
        """Take in marks and changes now."""
        for ferry in self.ferries.values() if self.ledger.unfinished() else ():
            ferry.sweep()
        self._monitor.step(self.clock())

    def keep_jobs_of(self, test_id: str) -> None:
        """Treat a test's jobs as failed when directories are kept: the test failed, whatever they did."""
        self.failed_tests.add(test_id)

    def adopt_dead_worker(self, worker: str) -> list[str]:
        """Cancel what a worker of this run left when it was killed; gives the native ids."""
        return closing.adopt(self, worker)
