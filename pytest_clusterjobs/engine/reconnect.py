"""Go on with the jobs of a run whose process has died.

They stay what they are, under their names and in their directories: each worker's part of the dead run becomes a run of
this process, which owns it from then on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pytest_clusterjobs.backends.base import Backend, Capability, QueuedJob
from pytest_clusterjobs.core.errors import StoreError, UsageError
from pytest_clusterjobs.core.naming import nearest
from pytest_clusterjobs.core.record import JobRecord
from pytest_clusterjobs.core.spec import JobSpec
from pytest_clusterjobs.core.state import JobState
from pytest_clusterjobs.engine.closing import journal_lines
from pytest_clusterjobs.engine.job import Job
from pytest_clusterjobs.engine.reap import places_of, why_spared
from pytest_clusterjobs.engine.run import Run
from pytest_clusterjobs.engine.store import JOURNAL, RUN_FILE
from pytest_clusterjobs.engine.tracking import Tracked
from pytest_clusterjobs.node.runner import ENVELOPE, ORDER

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks


@dataclass(slots=True)
class _Left:
    """A job whose end a dead process has not written into its journal."""

    job_id: str
    name: str
    place: str
    directory: str
    spec: JobSpec
    #: The submission's name, its number of jobs, and which of them this is.
    submitted_as: str
    count: int
    index: int
    #: "" while no answer to its submission is known.
    native_id: str = ""
    submitted_at: datetime | None = None


def reconnect(run: Run, run_id: str) -> list[Job[Any]]:
    """Take over the jobs that a dead run has not seen end, to be watched and at last cancelled as those of ``run`` are.

    The reaper and other programs leave them alone from then on. Each of the dead run's schedulers is asked once. A job
    that has ended since, and one that its scheduler does not show any more, is given too: its own evidence or
    accounting says how it ended. What cannot be gone on with becomes a problem of ``run``: jobs that died with their
    process, and jobs that never reached a scheduler.

    Args:
        run: Who takes them over.
        run_id: The dead run's id. It must lie in the work directory of ``run``, and have been made on this host.

    Returns:
        Its jobs, in order of submission. Those that ``run`` has taken over before are left out.

    Raises:
        UsageError: No id, an unknown one, or a run that lives, has ended in order or belongs to another host; or a
            backend that follows only the jobs that this process submitted.
        UnknownBackendError: It used a profile that is not there any more.
        BackendError: A scheduler did not answer. Nothing has changed; try again.
        StoreError: Its directory cannot be trusted.
    """
    run.refuse_now()
    if not run_id:
        raise UsageError("reconnect() needs the id of a run: what follows cj- in the names of its jobs")
    if _is_ours(run, run_id):
        return []
    main, *workers = _parts(run, run_id)
    _refuse_owned(main)
    with main.store.locked("owner"):
        if _is_ours(run, run_id):  # another thread was faster
            return []
        if not os.path.exists(main.store.run_file):
            main.store.remove_run()  # it went while we waited, and the lock has made its directory anew
        _refuse_owned(main)
        parts = [*workers, main]  # main, which removes what all of them share, is closed last
        try:
            found = _look_for_jobs(run, main, parts)
        except BaseException:
            _close_backends(parts)
            raise
        if not any(left for _, left, _ in found):
            _close_backends(parts)
            return []
        main.store.claim()
        run.resumed += parts
    return [job for part, left, shown in found for job in part.take(left, shown)]


class Resumed(Run):
    """One worker's part of a dead run, which goes on here. Nothing is submitted to it."""

    def __init__(self, run: Run, run_id: str, worker: str) -> None:
        super().__init__(run.settings, run_id=run_id, worker=worker, clock=run.clock, places=run.place)
        self.on_wait = run.on_wait

    @property
    def is_orphaned(self) -> bool:
        """False: it belongs to this process, whoever started the one that died."""
        return False

    def take(self, left: Sequence[_Left], shown: Mapping[str, Mapping[str, QueuedJob]]) -> list[Job[Any]]:
        """Watch jobs from now on; those that have left evidence of their end have ended when this returns.

        Args:
            left: The jobs.
            shown: What their schedulers show, by the places' names.
        """
        self.store.open()
        self.store.journal("reconnected", jobs=[each.job_id for each in left])
        jobs = [self._take(each, shown[each.place].get(each.native_id)) for each in left]
        for name, ferry in self.ferries.items():
            ferry.resume({each.job_id: each.directory for each in left if each.place == name})
        self.settle()
        self._monitor.start()
        for clerk in self._clerks.values():
            clerk.start()
        return jobs

    def _take(self, left: _Left, queued: QueuedJob | None) -> Job[Any]:
        order = self.store.read_json(os.path.join(left.directory, ORDER)) or {}
        label = str(order.get("label", ""))
        record = JobRecord(left.job_id, self.run_id, left.name, left.place, left.spec, left.directory, label)
        record.native_id, record.submitted_as = left.native_id, left.submitted_as
        record.metrics.submitted_at = left.submitted_at
        record.enter(JobState.PENDING, at=left.submitted_at)
        job: Job[Any] = Job(self, record, is_command=order.get("kind") == "command")
        now = self.clock()
        tracked = Tracked(job, self.backend(left.place), accepted=now, waits_since=now)
        self.ledger.take_over(tracked)
        if queued is not None:
            record.seen_as = queued.name
            self.ledger.note_status(tracked, queued.status, keep_state=queued.status.state.is_terminal)
        return job


def _is_ours(run: Run, run_id: str) -> bool:
    return any(each.run_id == run_id for each in (run, *run.resumed))


def _parts(run: Run, run_id: str) -> list[Resumed]:
    """Give the parts of a run, main's first, which may never have had a job.

    Raises:
        UsageError: There is no such run.
    """
    transport, workdir = run.store.transport, run.settings.workdir
    known = [name for name in transport.list_names(workdir) if os.path.isfile(os.path.join(workdir, name, RUN_FILE))]
    if run_id not in known:
        there = f"there are {', '.join(sorted(known))}" if known else "there is none"
        raise UsageError(f"no run {run_id!r} in {workdir}; {there}{nearest(run_id, known)}")
    root = os.path.join(workdir, run_id)
    transport.make_directory(root)  # it is there: this refuses one that is not ours
    names = [name for name in transport.list_names(root) if os.path.isfile(os.path.join(root, name, JOURNAL))]
    return [Resumed(run, run_id, worker) for worker in ("main", *sorted(set(names) - {"main"}))]


def _refuse_owned(main: Resumed) -> None:
    facts = main.store.read_json(main.store.run_file)
    try:
        why = why_spared(facts)
    except (LookupError, TypeError, AttributeError, ValueError):
        raise StoreError(f"{main.store.run_file} is damaged or gone: nobody can tell whether the run lives") from None
    if why:
        raise UsageError(f"cannot reconnect to the run {main.run_id}: {why}")


_Found = tuple[Resumed, list[_Left], Mapping[str, Mapping[str, QueuedJob]]]


def _look_for_jobs(run: Run, main: Resumed, parts: Sequence[Resumed]) -> list[_Found]:
    """Give each part with its jobs that can be gone on with, and with what their schedulers show of the whole run."""
    left = {part.worker: list(_read_journal(part)) for part in parts}
    shown: dict[str, Mapping[str, QueuedJob]] = {}
    for place, workers in places_of(main.store.transport, main.directory).items():
        for part in parts:
            if part.worker in workers:
                part.backend(place)  # also where no job is left: what was carried to a far place is removed at the end
        backend = main.backend(place)
        if Capability.DETACHED in backend.capabilities:
            _refuse_forgetful(place, backend)
            shown[place] = backend.query(f"cj-{main.run_id}-")
    found: list[_Found] = []
    gone: list[_Left] = []
    absent: list[_Left] = []
    for part in parts:
        here: list[_Left] = []
        for each in left[part.worker]:
            if each.place not in shown:
                gone.append(each)
            elif _is_known(part, each, shown[each.place]):
                here.append(each)
            else:
                absent.append(each)
        found.append((part, here, shown))
    _tell(run, gone, "ended with the process that submitted them")
    _tell(run, absent, "never reached the scheduler")
    return found


def _refuse_forgetful(place: str, backend: Backend) -> None:
    if backend.has_push:
        raise UsageError(
            f"{place}: cannot reconnect to jobs on {backend.name}, which follows only those that this process "
            "submitted; clusterjobs reap cancels them"
        )


def _read_journal(part: Resumed) -> Iterator[_Left]:
    """Give the jobs whose end is not in a part's journal, in order of submission."""
    found: dict[str, _Left] = {}
    batches: dict[str, list[str]] = {}
    for line in journal_lines(part, os.path.join(part.store.directory, JOURNAL)):
        if line["event"] == "intent":
            batches[line["name"]] = line["jobs"]
            found.update((each.job_id, each) for each in _intended(part, line))
        elif line["event"] == "submitted":
            for job_id, native_id in zip(batches[line["name"]], line["ids"], strict=True):
                if job_id in found:
                    found[job_id].native_id = native_id
                    found[job_id].submitted_at = datetime.fromisoformat(line["at"])
        elif line["event"] == "ended":
            found.pop(line["job"], None)
    yield from found.values()


def _intended(part: Resumed, line: Mapping[str, Any]) -> Iterator[_Left]:
    asked: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in line["spec"].items()
    }
    asked.pop("env", None)  # the names alone
    spec, count = JobSpec(**asked), len(line["jobs"])
    directory = os.path.join(part.store.directory, line["directory"])
    for index, (job_id, name) in enumerate(zip(line["jobs"], line["names"], strict=True)):
        own = directory if count == 1 else os.path.join(directory, str(index))
        yield _Left(job_id, name, line["backend"], own, spec, line["name"], count, index)


def _is_known(part: Resumed, left: _Left, shown: Mapping[str, QueuedJob]) -> bool:
    """Tell whether a scheduler has had a job, after its id was looked up where the answer with it was lost."""
    if not left.native_id:
        same = next((native_id for native_id, queued in shown.items() if queued.name == left.submitted_as), "")
        is_array = bool(same) and left.count > 1
        left.native_id = part.backend(left.place).element_ids(same, left.count)[left.index] if is_array else same
    return bool(left.native_id) or os.path.isfile(os.path.join(left.directory, ENVELOPE))


def _tell(run: Run, jobs: Sequence[_Left], what: str) -> None:
    for place in dict.fromkeys(each.place for each in jobs):
        names = ", ".join(each.name for each in jobs if each.place == place)
        run.ledger.note_problem(f"{place}: jobs of a run reconnected to {what}: {names}")


def _close_backends(parts: Sequence[Resumed]) -> None:
    for part in parts:
        for backend in part.open_backends():
            backend.close()
            backend.transport.close()
