"""The clerk: the one who talks to a scheduler. One thread for each backend without push, so that a scheduler that hangs
delays nothing but its own answers.

It asks seldom: about 2 s after a submission, then ever more rarely, down to every 30 s, all workers of a run together;
at once only where a job has ended and nothing but the scheduler can say why. An outage changes no job's state.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_clusterjobs.backends.base import Backend, QueuedJob
from pytest_clusterjobs.core.errors import (
    BackendError,
    ClusterJobsError,
    CommandTimeout,
    ConnectionLost,
    SubmitLimit,
    SubmitUnknown,
)
from pytest_clusterjobs.core.resources import Resources
from pytest_clusterjobs.core.state import ExitReason, JobState, JobStatus
from pytest_clusterjobs.engine import verdict
from pytest_clusterjobs.engine.monitor import by_exit_code
from pytest_clusterjobs.engine.tracking import Batch, Tracked

if TYPE_CHECKING:
    from pytest_clusterjobs.engine.ferry import Ferry
    from pytest_clusterjobs.engine.run import Run

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks


log = logging.getLogger("pytest_clusterjobs")

_FIRST_QUERY_S = 2.0
_MIN_GAP_S, _MAX_GAP_S = 5.0, 30.0
_URGENT_GAP_S = 1.0
_TURN_S = 0.25
_RETRY_S, _MAX_RETRY_S = 2.0, 30.0
# A job that the scheduler says has ended may have written its result to a file system that shows it a little later.
_SETTLE_S = 3.0
_EXPLAIN_S = 15.0
# How long a cancelled job may go on, e.g. on a node that does not answer, before it has ended for us. One that ignores
# SIGTERM is killed sooner everywhere: Slurm's KillWait is 30 s.
_UNDEAD_S = 60.0
# So often an array is refused for a limit of the site, with nothing of ours there, before its jobs go one by one.
_TRIES_AS_A_WHOLE = 2
# How long a scheduler may be out before a submission that waits for it fails.
_OUTAGE_S = 900.0

_SCHEDULER_ENDED_IT = frozenset(
    {
        ExitReason.TIMEOUT,
        ExitReason.OUT_OF_MEMORY,
        ExitReason.NODE_FAILURE,
        ExitReason.PREEMPTED,
        ExitReason.DEADLINE,
        ExitReason.LAUNCH_FAILURE,
        ExitReason.CANCELLED_OUTSIDE,
    }
)


class Clerk:
    """Submits what waits with us, asks about jobs, cancels. `step` does one round; the thread only calls it."""

    def __init__(
        self, run: Run, backend: Backend, clock: Callable[[], float] = time.monotonic, ferry: Ferry | None = None
    ) -> None:
        self._run, self._backend, self._clock, self._ferry = run, backend, clock, ferry
        self._waiting: list[Batch] = []
        self._wake = threading.Event()
        self._stop = False
        self._first_submission: float | None = None
        self._last_submission = 0.0
        self._last_query = float("-inf")
        self._failures = 0
        self._cancel_at, self._cancel_failures = float("-inf"), 0
        self._unwanted: list[str] = []  # elements of an array that had ended for us when it was accepted
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------ the thread

    def start(self) -> None:
        """Start the thread. Idempotent."""
        if self._thread is None:
            name = f"clusterjobs-{self._backend.name}"
            self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop the thread; it may still be in a command for that command's time limit."""
        self._stop = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=1)

    def wake(self) -> None:
        """Have a round soon."""
        self._wake.set()

    def _loop(self) -> None:
        while not self._stop:
            self._wake.wait(_TURN_S if self._waiting or self._run.ledger.unfinished(self._backend) else 5.0)
            self._wake.clear()
            try:
                self.step(self._clock())
            except Exception:  # the edge of the thread
                log.exception("clusterjobs: the %s clerk goes on after", self._backend.name)

    def step(self, now: float) -> None:
        """Do one round."""
        if self._stop:
            return
        for batch in list(self._waiting):
            if now >= batch.try_at and not self._stop:
                self.try_batch(batch)
        self._send_cancels(now)
        jobs = self._run.ledger.unfinished(self._backend)
        if any(tracked.accepted is not None for tracked in jobs) and self._is_due(now, jobs):
            self._ask(now)

    # ------------------------------------------------------------ submission

    def submit(self, batch: Batch) -> None:
        """Submit now, in the caller's thread; what cannot be submitted yet waits with us.

        Raises:
            ClusterJobsError: Refused for good.
        """
        batch.try_at = float("inf")  # the clerk's own thread must leave it alone until this try has ended
        self._waiting.append(batch)
        error = self.try_batch(batch)
        if error is not None:
            raise error

    def try_batch(self, batch: Batch) -> Exception | None:
        """Try to submit a batch; gives the error when it was refused for good, and its jobs have then ended."""
        if not self._may_try(batch):
            return None
        now = self._clock()
        batch.tries += 1
        try:
            submission = batch.submission if self._ferry is None else self._ferry.carry(batch.submission)
            submitted = self._backend.submit(submission)
        except SubmitLimit as error:
            for each in (*self._parts_of(batch), *self._alike(batch)):
                self._put_off(each, error, now)
        except (CommandTimeout, ConnectionLost) as error:  # on the way, before the submit command
            batch.trouble_since = now if batch.trouble_since is None else batch.trouble_since
            self._put_off(batch, error, now)
        except SubmitUnknown as error:
            batch.lost_since, batch.absences = now, 0
            batch.trouble_since = now if batch.trouble_since is None else batch.trouble_since
            self._put_off(batch, error, now)
        except ClusterJobsError as error:
            self._forget(batch)
            self._run.ledger.refuse(batch, error)
            return error
        else:
            self._accept(batch, submitted.native_ids, submitted.command)
        return None

    def _parts_of(self, batch: Batch) -> list[Batch]:
        """Give a batch, or its jobs one by one where nothing of ours is there that makes it too much for the site."""
        is_alone = all(tracked.accepted is None for tracked in self._run.ledger.unfinished(self._backend))
        can_be_split = batch.submission.is_array and not batch.submission.max_concurrent
        if batch.tries < _TRIES_AS_A_WHOLE or not (is_alone and can_be_split):
            return [batch]
        self._forget(batch)
        pieces = batch.pieces()
        for piece in pieces:
            self._run.ledger.note_intent(piece)
        self._waiting += pieces
        return pieces

    def _alike(self, batch: Batch) -> list[Batch]:
        """Give what else was refused and would be now for the same reason: each would cost a command to no avail."""
        spec = batch.submission.spec
        refused = [each for each in self._waiting if each.tries and each.lost_since is None]
        return [each for each in refused if each.try_at < float("inf") and each.submission.spec == spec]

    def _may_try(self, batch: Batch) -> bool:
        run, now = self._run, self._clock()
        if all(tracked.is_closed for tracked in batch.members):
            self._forget(batch)
            return False
        failed = [job for job in batch.depends_on if job.record.state.is_terminal and not _completed(job)]
        if failed:
            self._forget(batch)
            names = ", ".join(f"{job.record.name} ({job.record.state})" for job in failed)
            for tracked in batch.members:
                run.ledger.end(tracked, verdict.Verdict(JobState.CANCELLED, ExitReason.DEPENDENCY_FAILED, names), None)
            return False
        if not all(_completed(job) for job in batch.depends_on):
            names = ", ".join(job.record.name for job in batch.depends_on if not _completed(job))
            self._hold(batch, now, f"waits for {names}", _TURN_S)
            for tracked in batch.members:
                tracked.waits_since = now
            return False
        if not batch.has_room:
            wanted = [tracked for tracked in batch.members if not tracked.is_closed]
            if not run.room.take(len(wanted)):
                self._hold(batch, now, f"waits with us: at most {run.settings.max_jobs} jobs at once", _TURN_S)
                return False
            batch.has_room = True
            for tracked in wanted:
                tracked.has_room = True
        if batch.lost_since is not None:
            self._look_up(batch, now, batch.lost_since)
            return False
        return True

    def _look_up(self, batch: Batch, now: float, lost_since: float) -> None:
        """Look for a submission whose reply was lost; submit again only after two answers without it."""
        name = batch.submission.name
        try:
            found = self._backend.query(name)
        except BackendError as error:
            self._note_outage(error)
            self._put_off(batch, error, now)
            return
        ids = [native_id for native_id, queued in found.items() if queued.name == name]
        if ids:
            is_array, count = batch.submission.is_array, len(batch.members)
            found_ids = self._backend.element_ids(ids[0], count) if is_array else (ids[0],)
            self._accept(batch, found_ids, "(its reply was lost; found by its name)")
            return
        batch.absences += 1
        batch.try_at = now + _RETRY_S
        if batch.absences >= 2 and now - lost_since >= self._backend.answers_age_s:
            batch.lost_since = None
            for tracked in batch.members:
                if (reason := tracked.cancel_reason) is not None:  # it is not there, and is not wanted any more
                    ended = verdict.Verdict(verdict.state_for(reason), reason, tracked.cancel_detail)
                    self._run.ledger.end(tracked, ended, None)

    def _put_off(self, batch: Batch, error: BackendError, now: float) -> None:
        trouble_s = 0.0 if batch.trouble_since is None else now - batch.trouble_since
        if trouble_s > _OUTAGE_S and not isinstance(error, SubmitLimit):
            self._forget(batch)
            self._run.ledger.refuse(batch, error)
            return
        delay = min(_MAX_RETRY_S, _RETRY_S * 1.5 ** min(batch.tries, 10))
        self._hold(batch, now, f"waits with us: {error.brief}", delay)

    def _hold(self, batch: Batch, now: float, why: str, delay_s: float) -> None:
        batch.try_at = now + delay_s
        for tracked in batch.members:
            tracked.job.record.detail = why
        self.start()

    def _accept(self, batch: Batch, native_ids: tuple[str, ...], command: str) -> None:
        self._forget(batch)
        now = self._clock()
        if now - self._last_query > _MAX_GAP_S or self._first_submission is None:
            self._first_submission = now
        self._last_submission = now
        self._run.accepted(batch, native_ids, command)
        if not self._backend.has_push:
            members = zip(batch.members, native_ids, strict=True)
            self._unwanted += [native_id for tracked, native_id in members if tracked.is_closed]
            self.start()

    def _forget(self, batch: Batch) -> None:
        if batch in self._waiting:
            self._waiting.remove(batch)

    def waiting(self) -> list[Batch]:
        """Give the batches that wait with us."""
        return list(self._waiting)

    # ------------------------------------------------------------ cancelling

    def _send_cancels(self, now: float) -> None:
        unfinished = self._run.ledger.unfinished(self._backend)
        chosen = [tracked for tracked in unfinished if tracked.must_cancel and tracked.accepted is not None]
        unwanted = self._unwanted[:]
        if not (chosen or unwanted) or now < self._cancel_at:
            return
        try:
            self._backend.cancel([*unwanted, *(tracked.job.native_id for tracked in chosen)])
        except BackendError as error:
            self._cancel_failures += 1
            self._cancel_at = now + min(_MAX_RETRY_S, _RETRY_S * 1.5 ** min(self._cancel_failures, 10))
            self._run.ledger.note_problem(f"{self._backend.name}: cannot cancel now, tries again: {error.brief}")
            return
        self._cancel_failures = 0
        del self._unwanted[: len(unwanted)]
        for tracked in chosen:
            tracked.must_cancel, tracked.cancelled = False, now

    # ------------------------------------------------------------ asking

    def _is_due(self, now: float, jobs: list[Tracked]) -> bool:
        since = now - self._last_query
        if self._failures:
            return since >= min(_MAX_GAP_S, _RETRY_S * 2.0**self._failures)
        if any(tracked.needs_scheduler for tracked in jobs):
            return since >= _URGENT_GAP_S
        if self._first_submission is not None and self._first_submission > self._last_query:
            return now - self._first_submission >= _FIRST_QUERY_S
        return since >= min(_MAX_GAP_S, max(_MIN_GAP_S, (now - self._last_submission) / 2))

    def _ask(self, now: float) -> None:
        try:
            answer = self._query()
        except ClusterJobsError as error:
            self._last_query = now
            self._failures += 1
            self._note_outage(error)
            return
        self._failures = 0
        if answer is None:
            return
        self._last_query = now
        asked_at, found = answer
        known_at = asked_at - self._backend.answers_age_s
        for tracked in self._run.ledger.unfinished(self._backend):
            if tracked.accepted is not None and tracked.accepted < asked_at:
                queued = found.get(tracked.job.native_id)
                if queued is not None:
                    tracked.job.record.seen_as = queued.name
                elif tracked.accepted > known_at and not (tracked.unexplained_since or tracked.cancel_reason):
                    continue  # it may be too new to be shown
                self._judge(tracked, None if queued is None else queued.status, now, known_at)

    def _note_outage(self, error: ClusterJobsError) -> None:
        self._run.ledger.note_problem(f"{self._backend.name} does not answer; no job's state is changed: {error.brief}")

    def _query(self) -> tuple[float, Mapping[str, QueuedJob]] | None:
        """Ask, or use what another worker of the run has just been told; None when another is asking."""
        run, prefix = self._run, f"cj-{self._run.run_id}-"
        if not run.has_other_workers:
            return self._clock(), self._backend.query(prefix)
        name = f"queue-{run.place_of(self._backend).name}"
        with run.store.locked(name, wait_s=0) as is_mine:
            kept = run.store.read_shared(f"{name}.json")
            age_s = time.time() - kept["asked_at"] if kept else float("inf")
            if (kept and 0 <= age_s < _URGENT_GAP_S) or (kept and age_s < _MIN_GAP_S and not self._is_urgent()):
                return self._clock() - age_s, {key: _queued_from(value) for key, value in kept["jobs"].items()}
            if not is_mine:
                return None
            asked_at, moment = self._clock(), time.time()
            found = self._backend.query(prefix)
            jobs = {key: _queued_to(value) for key, value in found.items()}
            run.store.write_shared(f"{name}.json", {"asked_at": moment, "jobs": jobs})
            return asked_at, found

    def _is_urgent(self) -> bool:
        return any(tracked.needs_scheduler for tracked in self._run.ledger.unfinished(self._backend))

    def _judge(self, tracked: Tracked, status: JobStatus | None, now: float, known_at: float) -> None:
        """Judge a job by how the scheduler knew it at ``known_at``, None where it knew none."""
        run = self._run
        with run.ledger.lock:
            if tracked.is_closed:
                return
            if status is None:
                tracked.missing_since = tracked.missing_since or now
            else:
                tracked.missing_since = None
                run.ledger.note_status(tracked, status, keep_state=status.state.is_terminal)
            if status is not None and not status.state.is_terminal:
                self._judge_living(tracked, status, now, known_at)
                return
            if status is not None:
                tracked.ended_since = tracked.ended_since or now
            since = tracked.ended_since or tracked.missing_since or now
        # Only its own evidence or another source can tell; the evidence first, once it has had time to show.
        if now - since >= _SETTLE_S or tracked.unexplained_since is not None or tracked.cancel_reason is not None:
            if not self._can_fetch(tracked):
                return
            if run.ledger.end_with_evidence(tracked, lambda: None):
                return
            self._explain(tracked, status, now, since)

    def _can_fetch(self, tracked: Tracked) -> bool:
        """Bring what a job has left here that ended without a mark; False when it cannot be brought now."""
        if self._ferry is None:
            return True
        try:
            self._ferry.fetch([tracked.job.record.directory])
        except ClusterJobsError as error:
            self._run.ledger.note_problem(f"cannot fetch what {tracked.job.record.name} left: {error.brief}")
            return False
        return True

    def _judge_living(self, tracked: Tracked, status: JobStatus, now: float, known_at: float) -> None:
        run = self._run
        tracked.ended_since = None
        if tracked.cancelled is not None and now - tracked.cancelled > _UNDEAD_S:
            name, word = tracked.job.record.name, status.native_word
            run.ledger.note_problem(
                f"{name}: cancelled {_UNDEAD_S:g} s ago, and {self._backend.name} shows it as {word}"
            )
            run.ledger.end(tracked, by_exit_code(tracked, tracked.code or 0), None)
            return
        if status.state is JobState.PENDING:
            signs = [moment for moment in (tracked.started, tracked.unexplained_since) if moment is not None]
            if signs and max(signs) <= known_at:  # else they have not heard yet that it started
                run.ledger.note_requeue(tracked, status)
                if self._ferry is not None:
                    self._ferry.forget(tracked.job.job_id)
            if status.is_hopeless and tracked.cancel_reason is None:
                run.cancel_tracked(tracked, status.reason or ExitReason.NEVER_STARTS, status.detail)
        elif tracked.unexplained_since is not None and now - tracked.unexplained_since > _EXPLAIN_S:
            run.ledger.end(tracked, by_exit_code(tracked, tracked.code or 0), None)

    def _explain(self, tracked: Tracked, status: JobStatus | None, now: float, since: float) -> None:
        run, asked_at = self._run, self._clock()
        try:
            explained = self._backend.explain(tracked.job.native_id) or status
        except ClusterJobsError as error:
            run.ledger.note_problem(f"{self._backend.name}: cannot explain {tracked.job.record.name}: {error.brief}")
            explained = status
        if explained is not None and not explained.state.is_terminal:
            with run.ledger.lock:
                tracked.missing_since = None
                self._judge_living(tracked, explained, now, asked_at - self._backend.answers_age_s)
            return
        if explained is not None and _may_have_left_more(tracked, explained) and now - since < self._grace_s:
            return  # file systems show what another node wrote after a while
        if explained is not None:
            run.ledger.note_status(tracked, explained, keep_state=True)
            run.ledger.end(tracked, self._by_scheduler(tracked, explained), None)
        elif tracked.cancel_reason is not None or tracked.code is not None:
            run.ledger.end(tracked, by_exit_code(tracked, tracked.code or 0), None)
        elif now - since >= self._grace_s:
            directory = tracked.job.record.directory
            names = run.store.transport.list_names(directory)
            run.ledger.end(tracked, verdict.lost(self._backend.explain_sources(), directory, names), None)

    @property
    def _grace_s(self) -> float:
        return self._run.lost_after_s(self._backend)

    def _by_scheduler(self, tracked: Tracked, status: JobStatus) -> verdict.Verdict:
        if tracked.cancel_reason is not None and status.state is not JobState.COMPLETED:
            return by_exit_code(tracked, 143)
        if tracked.code is not None and status.reason not in _SCHEDULER_ENDED_IT:
            return by_exit_code(tracked, tracked.code)
        if tracked.started is None and tracked.code is None and status.reason is ExitReason.NONZERO_EXIT:
            detail = f"exit code {status.exit_code} before its script began, or the nodes do not see the work directory"
            return verdict.Verdict(JobState.FAILED, ExitReason.LAUNCH_FAILURE, detail, status.exit_code)
        return verdict.from_status(status)


def _may_have_left_more(tracked: Tracked, status: JobStatus) -> bool:
    """Tell whether a job that has ended must have left a result or an exit code, where none is seen yet."""
    return tracked.code is None and tracked.cancel_reason is None and status.reason in (None, ExitReason.NONZERO_EXIT)


def _completed(job: Any) -> bool:
    return bool(job.record.state is JobState.COMPLETED)


def _queued_to(queued: QueuedJob) -> list[Any]:
    status = queued.status
    reason = status.reason.value if status.reason else None
    facts = [status.detail, status.is_hopeless, status.exit_code, status.signal, status.nodes, status.restarts]
    resources = None if status.resources is None else status.resources.known()
    return [queued.name, status.state.value, status.native_word, reason, resources, *facts]


def _queued_from(value: list[Any]) -> QueuedJob:
    name, state, word, reason, known, *facts = value
    resources = None if known is None else Resources(**known)
    why = ExitReason(reason) if reason else None
    return QueuedJob(name, replace(JobStatus(JobState(state), word, why, *facts), resources=resources))
