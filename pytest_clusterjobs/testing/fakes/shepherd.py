"""The process that watches one job of a fake cluster."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from pytest_clusterjobs.testing.fakes.cluster import DELETED, ENDED, ENDING, RUNNING, TIME_LIMIT, FakeCluster, FakeJob
from pytest_clusterjobs.testing.fakes.processes import descendants, signal_all, start_time, wipe_environment

_SET_CHILD_SUBREAPER = 36  # prctl(2)
_OWNER_CHECK_S = 2.0
_AWAITED = (signal.SIGCHLD, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Shepherd:
    """The process that watches one job."""

    def __init__(self, cluster: FakeCluster, job: FakeJob) -> None:
        self._cluster, self._job = cluster, job
        self._status: int | None = None

    def work(self, is_known: Callable[[], object]) -> None:
        """Run the job to its end, and start what can start then.

        Args:
            is_known: Called once the queue knows this shepherd.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
        for number in _AWAITED:
            signal.signal(number, lambda *_: None)  # an ignored signal would never be seen pending
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        wipe_environment()
        self._update(lambda job: setattr(job, "shepherd", os.getpid()))
        is_known()
        if not self._job.is_to_be_deleted:
            self._run()
        self._job.ended_at = time.time()
        self._kill_all()
        with self._cluster.look() as queue:
            delay_s = float(queue.setting("end_delay_s", 0.0))
        self._cluster.finish(self._job)
        if delay_s:
            self._update(lambda job: setattr(job, "state", ENDING))
            self._wait(delay_s, lambda: False)
        self._update(self._note_end)

    def _update(self, change: Callable[[FakeJob], object]) -> None:
        """Change the job as it is now, and keep what was found out about it."""
        with self._cluster.change() as queue:
            job = queue.job(*self._job.key) or self._job
            for name in ("started_at", "ended_at", "pid", "pid_started", "cause", "facts"):
                setattr(job, name, getattr(self._job, name))
            change(job)
            queue.save(job)
            self._job = job

    def _note_end(self, job: FakeJob) -> None:
        job.state = ENDED
        if self._status is not None:
            code = os.waitstatus_to_exitcode(self._status)
            job.exit_code, job.signal = (None, -code) if code < 0 else (code, None)
        elif not job.cause:
            job.cause = DELETED

    def _run(self) -> None:
        job = self._job
        environment = {**job.environment, **self._cluster.prepare(job)}
        job.pid = os.fork()
        if job.pid == 0:
            self._exec(environment)
        job.pid_started = start_time(job.pid)
        self._update(lambda job: None)
        limit = math.inf if job.time_limit_s is None else time.monotonic() + job.time_limit_s
        while self._status is None:
            if self._is_wanted_gone():
                self._job.cause = DELETED
                self._end(self._cluster.delete_signals)
                break
            left = limit - time.monotonic()
            if left <= 0:
                self._job.cause = TIME_LIMIT
                self._end(self._cluster.limit_signals)
                break
            self._pause(min(left, _OWNER_CHECK_S))

    def _end(self, signals: Iterable[tuple[int, float]]) -> None:
        with self._cluster.look() as queue:
            is_at_once = queue.setting("is_closing", False) or queue.setting(f"kill {self._job.number}", False)
        for number, patience_s in () if is_at_once else signals:
            signal_all(number, self._others())
            self._wait(patience_s, lambda: self._status is not None and not self._others())

    def _exec(self, environment: Mapping[str, str]) -> None:
        job = self._job
        try:
            os.setsid()
            for number in (*_AWAITED, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            out = _open(job.stdout)
            os.dup2(out, 1)
            os.dup2(out if job.stderr == job.stdout else _open(job.stderr), 2)
            os.closerange(3, 256)
            os.chdir(job.cwd)
            os.execve(job.argv[0], job.argv, dict(environment))  # noqa: S606 - what was submitted
        except OSError as error:
            os.write(2, f"{job.argv[0]}: {error}\n".encode())
        finally:
            os._exit(127)

    def _is_wanted_gone(self) -> bool:
        with self._cluster.look() as queue:
            job = queue.job(*self._job.key)
            owner = queue.setting("owner")
        is_orphan = owner is not None and start_time(owner[0]) != owner[1]
        self._job.is_to_be_deleted = is_orphan or job is None or job.is_to_be_deleted
        return self._job.is_to_be_deleted

    def _pause(self, seconds: float) -> None:
        """Wait until a child ends or somebody knocks."""
        signal.sigtimedwait(_AWAITED, seconds)
        self._reap()

    def _wait(self, seconds: float, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + seconds
        while not condition() and (left := deadline - time.monotonic()) > 0:
            self._pause(left)

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._job.pid:
                    self._status = status

    def _others(self) -> list[int]:
        """Give all that descends from the job; jobs that it submitted have shepherds of their own."""
        with self._cluster.look() as queue:
            shepherds = {job.shepherd for job in queue.jobs(RUNNING, ENDING)}
        return descendants(os.getpid(), shepherds)

    def _kill_all(self) -> None:
        deadline = time.monotonic() + 10
        while (left := self._others()) and time.monotonic() < deadline:
            signal_all(signal.SIGKILL, left)
            self._pause(0.1)


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC, 0o600)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)
