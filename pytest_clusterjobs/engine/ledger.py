"""The ledger: what is known of a worker's jobs, changed by nobody else. The monitor and the clerks report to it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_clusterjobs.backends.base import Backend
from pytest_clusterjobs.core.errors import StoreError
from pytest_clusterjobs.core.record import JobRecord, utc_now
from pytest_clusterjobs.core.state import ExitReason, JobState, JobStatus
from pytest_clusterjobs.engine import measuring, verdict
from pytest_clusterjobs.engine.job import Job
from pytest_clusterjobs.engine.store import Store
from pytest_clusterjobs.engine.tracking import Batch, Tracked
from pytest_clusterjobs.node.runner import START

log = logging.getLogger("pytest_clusterjobs")


class Ledger:
    """The jobs of one worker of one run. Safe to use from several threads.

    Args:
        store: Where evidence and journal are.
        after_end: Called after each job's end, before its waiters wake.
        clock: Gives the time in seconds.
    """

    def __init__(
        self, store: Store, after_end: Callable[[Tracked], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.store = store
        #: Guards the state of all jobs.
        self.lock = threading.RLock()
        #: Every job, in order of submission.
        self.records: list[JobRecord] = []
        #: Futures of the test that runs now, and of no other: their values may be large.
        self.jobs: list[Job[Any]] = []
        #: Trouble with schedulers that was ridden out, each once.
        self.problems: list[str] = []
        self._after_end, self._clock = after_end, clock
        self._unfinished: dict[str, Tracked] = {}
        self._native: dict[str, Tracked] = {}

    def add(self, batch: Batch) -> None:
        """Take in jobs that are about to be submitted. In the journal before the scheduler hears of them."""
        with self.lock:
            for tracked in batch.members:
                self.records.append(tracked.job.record)
                if tracked.job.record.test_id:
                    self.jobs.append(tracked.job)
                self._unfinished[tracked.job.job_id] = tracked
        self.note_intent(batch)

    def note_intent(self, batch: Batch) -> None:
        """Write down how jobs are going to be submitted. In the journal the last time counts."""
        submission = batch.submission
        records = [tracked.job.record for tracked in batch.members]
        for record in records:
            record.submitted_as = submission.name
        self.store.journal(
            "intent",
            name=submission.name,
            backend=batch.place,
            jobs=[record.job_id for record in records],
            names=[record.name for record in records],
            directory=os.path.relpath(submission.directory, self.store.directory),
            spec=submission.spec.to_dict(),
        )

    def take_over(self, tracked: Tracked) -> None:
        """Take in a job that another process has submitted and not seen end."""
        with self.lock:
            self.records.append(tracked.job.record)
            self._unfinished[tracked.job.job_id] = tracked

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

    def accept(self, batch: Batch, native_ids: Sequence[str], command: str) -> None:
        """Take note that the scheduler has accepted a batch."""
        now, moment = self._clock(), utc_now()
        name = batch.submission.name
        self.store.journal("submitted", name=name, backend=batch.place, ids=list(native_ids), at=moment.isoformat())
        with self.lock:
            for tracked, native_id in zip(batch.members, native_ids, strict=True):
                record = tracked.job.record
                record.native_id, record.submit_command = native_id, command
                record.detail = record.detail if tracked.is_closed else ""
                record.metrics.submitted_at = record.metrics.submitted_at or moment
                if record.state is JobState.NEW:
                    record.enter(JobState.PENDING, at=moment)
                tracked.accepted = now
                if tracked.cancel_reason is not None:
                    tracked.must_cancel = True
                if batch.backend.has_push:
                    self._native[f"{native_id}"] = tracked

    def refuse(self, batch: Batch, error: Exception) -> None:
        """End the jobs of a batch that was refused for good."""
        text = str(error.args[0]) if error.args else str(error)
        for tracked in batch.members:
            tracked.job.submit_error = error
            self.end(tracked, verdict.Verdict(JobState.FAILED, ExitReason.SUBMIT_REFUSED, text), None)

    def note_start(self, tracked: Tracked, now: float) -> None:
        """Take note that a job has started."""
        if tracked.started is None:
            tracked.started = now
            moment = utc_now()
            tracked.job.record.enter(JobState.RUNNING, at=moment)
            tracked.job.record.detail = ""
            tracked.job.record.metrics.started_at = moment

    def note_status(self, tracked: Tracked, status: JobStatus, *, keep_state: bool = False) -> None:
        """Take note of the scheduler's words; ``keep_state`` leaves our state to the evidence."""
        record = tracked.job.record
        record.native_word = status.native_word
        record.metrics.restarts = max(record.metrics.restarts, status.restarts)
        if status.nodes:
            record.metrics.nodes = (status.nodes,)
        measuring.note_resources(record, status)
        if status.state.is_terminal:
            tracked.end_word = status.native_word
        if not keep_state:
            if status.state is not JobState.RUNNING:
                tracked.said_running = None
            elif tracked.said_running is None:
                tracked.said_running = self._clock()
            record.detail = status.detail
            if not (status.state is JobState.PENDING and tracked.started is not None):
                record.enter(status.state, status.native_word)

    def note_requeue(self, tracked: Tracked, status: JobStatus) -> None:
        """Take note that the scheduler has put a started job back into the queue, under the same id."""
        mark = self.store.mark(tracked.job.job_id)
        for path in (mark, f"{mark}.start"):
            self.store.transport.remove(path)
        record = tracked.job.record
        tracked.started = tracked.code = tracked.unexplained_since = tracked.ended_since = None
        tracked.waits_since = self._clock()
        record.enter(JobState.PENDING, status.native_word)
        record.detail, record.native_word = status.detail, status.native_word
        record.metrics.restarts = max(record.metrics.restarts + 1, status.restarts)
        self.store.journal("requeued", job=record.job_id, native_id=record.native_id)

    def note_problem(self, text: str) -> None:
        """Take note of trouble that was ridden out; each text once."""
        if text not in self.problems:
            self.problems.append(text)
            log.warning("clusterjobs: %s", text)

    def end_with_evidence(self, tracked: Tracked, otherwise: Callable[[], verdict.Verdict | None]) -> bool:
        """End a job by its envelope if there is one, else by ``otherwise()``'s verdict; tell whether it ended."""
        judged = self._judge_by_envelope(tracked)
        # A command that a signal ended does not know who sent it: that is for others to say.
        if judged is not None and judged[0].reason is not ExitReason.SIGNAL:
            self.end(tracked, *judged)
            return True
        fallback = otherwise()
        if fallback is not None and fallback.reason is ExitReason.NONZERO_EXIT and judged is not None:
            fallback = judged[0]  # the others know no more than the runner's exit code: 128 and the signal
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
            record.enter(ended.state, tracked.end_word)
            self._unfinished.pop(record.job_id, None)
            self._native.pop(record.native_id, None)
        self.store.transport.remove(self.store.mark(record.job_id))
        self.store.transport.remove(self.store.mark(record.job_id) + ".start")
        self.store.journal("ended", job=record.job_id, state=record.state.value, reason=record.reason)
        self._after_end(tracked)
        tracked.job.mark_ended()

    def _judge_by_envelope(self, tracked: Tracked) -> tuple[verdict.Verdict, dict[str, Any]] | None:
        try:
            header = self.store.read_header(tracked.job.record.directory)
        except StoreError as error:
            return verdict.Verdict(JobState.FAILED, ExitReason.LAUNCH_FAILURE, str(error)), {}
        return None if header is None else (verdict.from_envelope(header), header)

    def _header(self, record: JobRecord) -> dict[str, Any] | None:
        try:
            return self.store.read_header(record.directory)
        except StoreError:
            return None

    def _fill_metrics(self, tracked: Tracked, header: Mapping[str, Any]) -> None:
        record = tracked.job.record
        start = self.store.read_json(os.path.join(record.directory, START)) or {}
        told = tracked.backend.told_resources(start.get("environment") or {})
        measuring.fill(record, start, header.get("metrics") or {}, told)

    def end_unsubmitted(self, job: Job[Any], ended: verdict.Verdict) -> None:
        """End a job that was never handed to the ledger's submission."""
        job.record.reason, job.record.detail = ended.reason, ended.detail
        job.record.enter(ended.state)
        self.records.append(job.record)
        job.mark_ended()
