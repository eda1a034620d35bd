"""The end of a run: one bulk cancel, a leak check by name, directories removed or kept and listed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_clusterjobs.backends.base import ENVIRONMENT, Backend, Capability
from pytest_clusterjobs.core.errors import ClusterJobsError
from pytest_clusterjobs.core.record import JobRecord
from pytest_clusterjobs.core.state import ExitReason, JobState
from pytest_clusterjobs.engine import verdict
from pytest_clusterjobs.engine.room import Room
from pytest_clusterjobs.engine.scrubbing import scrub

if TYPE_CHECKING:
    from pytest_clusterjobs.engine.run import Run

# How long cancelled jobs may take to leave the queue before they are reported.
_GONE_S = 15.0
_LOOK_AGAIN_S = 0.3


@dataclass(slots=True)
class CloseReport:
    """What was left at the end of a run, and what became of it."""

    #: Jobs that had not ended and were cancelled.
    cancelled: list[JobRecord] = field(default_factory=list)
    #: Native ids of jobs that the leak check found and that would not go, with their backend.
    leaked: list[str] = field(default_factory=list)
    #: Directories that were kept.
    kept: list[str] = field(default_factory=list)
    #: Trouble with schedulers.
    problems: list[str] = field(default_factory=list)


def close(run: Run, report: CloseReport) -> None:
    """Do all of it. Nothing here stops at an error; each is put into the report."""
    for resumed in run.resumed:
        own = resumed.close()
        report.cancelled += own.cancelled
        report.leaked += own.leaked
        report.kept += own.kept
        report.problems += own.problems
    left = run.ledger.unfinished()
    for tracked in left:
        tracked.cancel_reason = tracked.cancel_reason or ExitReason.CANCELLED
        tracked.cancel_detail = tracked.cancel_detail or "the run ended"
        report.cancelled.append(tracked.job.record)
    for backend in run.open_backends():
        ids = [tracked.job.native_id for tracked in left if tracked.backend is backend and tracked.accepted is not None]
        if not any(record.backend == run.place_of(backend).name for record in run.ledger.records):
            continue
        _guarded(report, backend, ids)
        if Capability.DETACHED in backend.capabilities:
            report.leaked += wait_until_gone(backend, report.problems, own_prefix(run))
    run.settle()
    for tracked in run.ledger.unfinished():
        reason = tracked.cancel_reason or ExitReason.CANCELLED
        run.ledger.end(tracked, verdict.Verdict(JobState.CANCELLED, reason, tracked.cancel_detail), None)
    run.stop_threads()
    for backend in run.open_backends():
        _fetch_kept(run, report, backend)
        backend.close()
    report.problems += run.problems
    try:
        _tidy(run, report)
    except OSError as error:  # a full disk takes no note that the run has ended
        report.problems.append(f"cannot tidy up {run.store.root}: {error.strerror or error}")


def own_prefix(run: Run) -> str:
    """Give the beginning of the names of this worker's own jobs."""
    return f"cj-{run.run_id}-" if run.worker == "main" else f"cj-{run.run_id}-{run.worker}."


def _guarded(report: CloseReport, backend: Backend, ids: list[str]) -> None:
    try:
        backend.cancel(ids)
    except ClusterJobsError as error:
        report.problems.append(f"{backend.name}: cannot cancel {len(ids)} jobs: {error.brief}")


def wait_until_gone(backend: Backend, problems: list[str], prefix: str) -> list[str]:
    """Cancel every living job whose name starts with ``prefix`` until none is left; gives those that would not go."""
    deadline = time.monotonic() + _GONE_S
    pause = _LOOK_AGAIN_S
    living: list[str] = []
    refusals: dict[str, None] = {}
    while True:
        try:
            found = backend.query(prefix)
        except ClusterJobsError as error:
            problems.append(f"{backend.name}: cannot tell whether jobs were left: {error.brief}")
            break
        living = [native_id for native_id, queued in found.items() if not queued.status.state.is_terminal]
        if not living or time.monotonic() > deadline:
            break
        try:
            backend.cancel(living)
        except ClusterJobsError as error:
            refusals[f"{backend.name}: cannot cancel what was left: {error.brief}"] = None
        # A job that ends by itself at this moment needs no cancel, only a little time.
        time.sleep(pause)
        pause = min(2.0, pause * 1.5)
    problems += refusals if living else ()
    return [f"{backend.name}:{native_id}" for native_id in living]


def adopt(run: Run, worker: str) -> list[str]:
    """Cancel what a killed worker of the run left, found by the journal it wrote and by its jobs' names."""
    journal = os.path.join(run.directory, worker, "journal.jsonl")
    names = {str(line.get("backend")) for line in journal_lines(run, journal) if line.get("event") == "intent"}
    gone = []
    for name in sorted(names):
        backend = run.backend(name)
        if Capability.DETACHED not in backend.capabilities:
            continue  # its jobs died with it
        prefix = f"cj-{run.run_id}-{worker}."
        try:
            found = backend.query(prefix)
            living = [native_id for native_id, queued in found.items() if not queued.status.state.is_terminal]
            backend.cancel(living)
        except ClusterJobsError as error:
            run.ledger.note_problem(f"{name}: cannot cancel what {worker} left: {error.brief}")
            continue
        gone += [f"{name}:{native_id}" for native_id in living]
    Room.forget(run.store, worker)
    for folder, _, files in os.walk(os.path.join(run.directory, worker)):
        if ENVIRONMENT in files:
            run.store.transport.remove(os.path.join(folder, ENVIRONMENT))  # values of env do not stay
    return gone


def journal_lines(run: Run, path: str) -> Iterable[dict[str, Any]]:
    """Give a journal's lines; one that was cut off by a crash is left out."""
    import json

    data = run.store.transport.read(path) or b""
    for line in data.decode(errors="replace").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _fetch_kept(run: Run, report: CloseReport, backend: Backend) -> None:
    name = run.place_of(backend).name
    own = [record for record in run.ledger.records if record.backend == name and record.native_id]
    try:
        backend.fetch_kept([record.native_id for record in own if _is_kept(run, record)])
    except ClusterJobsError as error:
        report.problems.append(f"{name}: {error.brief}")


def _tidy(run: Run, report: CloseReport) -> None:
    for record in run.ledger.records if run.store.exists else ():
        record.is_kept = _is_kept(run, record)
        if record.is_kept:
            report.kept.append(record.directory)
    kept = tuple(record.directory for record in run.ledger.records if record.is_kept)
    for name, ferry in run.ferries.items():
        try:
            own = [record for record in run.ledger.records if record.backend == name]
            ferry.close([record.directory for record in own if record.is_kept])
        except ClusterJobsError as error:
            report.problems.append(f"{name}: {error.brief}")
    if not run.store.exists:
        return
    for name in run.store.transport.list_names(run.store.directory):
        path = os.path.join(run.store.directory, name)
        if not any(each == path or each.startswith(path + os.sep) for each in kept):
            if name != "journal.jsonl":
                run.store.transport.remove(path)
        else:
            run.store.transport.remove(os.path.join(path, ENVIRONMENT))  # values of env do not stay
            for element in run.store.transport.list_names(path):
                inner = os.path.join(path, element)
                if element.isdigit() and os.path.isdir(inner) and inner not in kept:
                    run.store.transport.remove(inner)
    run.store.close(keep=bool(kept))
    if kept:
        report.problems += scrub(run.store.directory)
    if run.worker == "main":
        run.store.remove_run()


def _is_kept(run: Run, record: JobRecord) -> bool:
    policy = record.spec.keep or run.settings.keep
    if policy == "failed" and record.test_id:
        return record.test_id in run.failed_tests  # a job's failure that its test expected is not worth keeping
    if policy == "failed":
        return record.state is not JobState.COMPLETED
    return policy == "always"
