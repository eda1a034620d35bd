"""The monitor: sees starts and ends as the nodes announce them, and keeps our own limits. Asks no scheduler.

Marks are found by listing one directory, every 10 ms after something happened, growing to every second.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_clusterjobs.core.state import ExitReason, JobState, JobStatus
from pytest_clusterjobs.engine import verdict
from pytest_clusterjobs.engine.tracking import Tracked

if TYPE_CHECKING:
    from pytest_clusterjobs.engine.run import Run

log = logging.getLogger("pytest_clusterjobs")

_FASTEST_S, _SLOWEST_S = 0.01, 1.0
_GROWTH = 0.03  # of the time since something last happened, so that a mark is seen at most that much too late

# Signals that a scheduler sends; what ended the job then is the scheduler's to say. 128 + HUP, INT, KILL, TERM, XCPU.
_SCHEDULER_SIGNALS = frozenset({129, 130, 137, 143, 152})

_UNSEEN = "; the scheduler says that it runs, and nothing else does"

_EXIT_MODULE = 96  # of a job's script, when a module cannot be loaded
_EXITS_CANNOT_RUN = (126, 127)  # of a shell, for a program that is not there or cannot be run (POSIX, 2.8.2)


class Monitor:
    """One thread of a run. `step` does everything; the thread only calls it at the right times."""

    def __init__(self, run: Run, clock: Callable[[], float] = time.monotonic) -> None:
        self._run, self._clock = run, clock
        self._changed: deque[str] = deque()
        self._wake = threading.Event()
        self._stop = False
        self._last_event = clock()
        self._last_look = 0.0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread. Idempotent."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="clusterjobs-monitor", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop the thread and wait for it, a few seconds at most."""
        self._stop = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def wake(self) -> None:
        """Look again soon: something was submitted or cancelled."""
        self._last_event = self._clock()
        self._wake.set()

    def job_changed(self, native_id: str) -> None:
        """Take note that a backend with push announced a change. Any thread."""
        self._changed.append(native_id)
        self._wake.set()

    def look(self) -> None:
        """Look for marks now, unless that was done a moment ago. Any thread."""
        now = self._clock()
        if self._changed or now - self._last_look > _FASTEST_S / 2:
            self.step(now)

    def _loop(self) -> None:
        while not self._stop:
            self._wake.wait(self._interval())
            self._wake.clear()
            try:
                self.step(self._clock())
            except Exception:  # the edge of the thread: without it nothing would be seen any more
                log.exception("clusterjobs: the monitor goes on after")

    def _interval(self) -> float:
        return min(_SLOWEST_S, max(_FASTEST_S, (self._clock() - self._last_event) * _GROWTH))

    def step(self, now: float) -> None:
        """Take in every mark and every pushed change, then check the limits."""
        self._last_look = now
        self._take_changes(now)
        if self._run.has_marks:
            self._take_marks(now)
        self._check_limits(now)

    # ------------------------------------------------------------ what happened

    def _take_changes(self, now: float) -> None:
        while self._changed:
            native_id = self._changed.popleft()
            tracked = self._run.ledger.by_native_id(native_id)
            status = None if tracked is None else tracked.backend.explain(native_id)
            if tracked is not None and status is not None:
                self._last_event = now
                self.take_status(tracked, status, now)

    def take_status(self, tracked: Tracked, status: JobStatus, now: float) -> None:
        """Take in what a scheduler with push says: it is complete and final."""
        run = self._run
        with run.ledger.lock:
            if status.state is JobState.RUNNING:
                run.ledger.note_start(tracked, now)
            if not status.state.is_terminal:
                run.ledger.note_status(tracked, status)
                return
            run.ledger.note_status(tracked, status, keep_state=True)
            run.ledger.end_with_evidence(tracked, lambda: _by_status(tracked, status))

    def _take_marks(self, now: float) -> None:
        run = self._run
        for name in run.store.transport.list_names(run.store.marks):
            job_id = name.removesuffix(".start")
            with run.ledger.lock:
                tracked = run.ledger.by_job_id(job_id)
                if tracked is None:
                    run.store.transport.remove(run.store.mark(name))
                    continue
                if tracked.accepted is None:
                    continue  # its submit command has not returned yet
                if name != job_id:
                    if tracked.started is None:
                        self._last_event = now
                        run.ledger.note_start(tracked, now)
                elif tracked.code is None:
                    self._take_end(tracked, now)

    def _take_end(self, tracked: Tracked, now: float) -> None:
        run, job_id = self._run, tracked.job.job_id
        text = run.store.transport.read(run.store.mark(job_id))
        if not text or not text.strip().isdigit():
            return  # being written
        self._last_event = now
        code = int(text)
        if run.ledger.end_with_evidence(tracked, lambda: None):
            return
        if tracked.cancel_reason is None and code in _SCHEDULER_SIGNALS:
            tracked.code, tracked.unexplained_since = code, now
            run.ask_scheduler(tracked)
            return
        run.ledger.end(tracked, by_exit_code(tracked, code), None)

    # ------------------------------------------------------------ our own limits

    def _check_limits(self, now: float) -> None:
        is_orphaned = self._run.is_orphaned
        for tracked in self._run.ledger.unfinished():
            spec, settings = tracked.job.record.spec, self._run.settings
            if tracked.cancel_reason is not None:
                continue
            if is_orphaned:
                self._run.cancel_tracked(tracked, ExitReason.CANCELLED, "the pytest that started this worker has died")
                continue
            limit = settings.timeout_s if spec.timeout_s is None else spec.timeout_s
            if limit is not None and (began := self._began(tracked)) is not None and now - began > limit:
                detail = f"timeout of {limit:g} s" + (_UNSEEN if tracked.started is None else "")
                self._run.cancel_tracked(tracked, ExitReason.RUN_TIMEOUT, detail)
            if tracked.started is None:
                limit = settings.queue_timeout_s if spec.queue_timeout_s is None else spec.queue_timeout_s
                if limit is not None and now - tracked.waits_since > limit:
                    why = tracked.job.record.detail
                    detail = f"queue_timeout of {limit:g} s" + (f", it waited for: {why}" if why else "")
                    self._run.cancel_tracked(tracked, ExitReason.QUEUE_TIMEOUT, detail)

    def _began(self, tracked: Tracked) -> float | None:
        """Give when a job started; what a hung node says nothing of counts from later: it may be booting."""
        if tracked.started is None and tracked.said_running is not None:
            return tracked.said_running + self._run.lost_after_s(tracked.backend)
        return tracked.started


def by_exit_code(tracked: Tracked, code: int) -> verdict.Verdict:
    """Judge a job that left an exit code and no envelope."""
    if tracked.cancel_reason is not None:
        return verdict.Verdict(verdict.state_for(tracked.cancel_reason), tracked.cancel_reason, tracked.cancel_detail)
    if code == 0:
        detail = "it left no result; something ended the process at once, as os._exit does"
        return verdict.Verdict(JobState.FAILED, ExitReason.NONZERO_EXIT, detail, 0)
    if code == _EXIT_MODULE and tracked.job.record.spec.modules:
        detail = "an environment module could not be loaded"
        return verdict.Verdict(JobState.FAILED, ExitReason.ENVIRONMENT_MISMATCH, detail, code)
    if code in _EXITS_CANNOT_RUN and not tracked.job.start_facts():
        detail = f"the Python that runs it could not be run (exit code {code}); name the node's in python"
        return verdict.Verdict(JobState.FAILED, ExitReason.LAUNCH_FAILURE, detail, code)
    return verdict.from_exit_code(code)


def _by_status(tracked: Tracked, status: JobStatus) -> verdict.Verdict:
    if tracked.cancel_reason is not None and status.state is not JobState.COMPLETED:
        return verdict.Verdict(verdict.state_for(tracked.cancel_reason), tracked.cancel_reason, tracked.cancel_detail)
    if status.state is JobState.COMPLETED or status.exit_code in (_EXIT_MODULE, *_EXITS_CANNOT_RUN):
        return by_exit_code(tracked, status.exit_code or 0)
    return verdict.from_status(status)
