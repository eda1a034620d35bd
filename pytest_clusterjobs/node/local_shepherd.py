"""One shepherd for each job at a time: starts it, holds it to its limits, ends every process that it has made.

The shepherd is a subreaper: a descendant that outlives its parent, in whatever session, becomes the shepherd's child.
A job's tree is gone when the shepherd has no child left, and only then is the end reported. The tree is ended as well
when the server dies, which the shepherd sees as the end of a pipe. It holds the locks of all cores: those that a killed
server had are free when no shepherd is left.
"""

import json
import os
import select
import signal
import time
from collections.abc import Collection
from typing import Any, Callable, Optional

from . import local_job as job
from . import local_linux as linux
from . import local_memory as memory
from . import local_tree as tree
from . import runner

#: Seconds between looks at the memory.
_MEMORY_INTERVAL_S = 0.1
#: Seconds that what a job left behind has between SIGTERM and SIGKILL.
_LEFT_BEHIND_S = 0.2
#: Seconds between passes of SIGKILL, when nothing has ended meanwhile.
_KILL_INTERVAL_S = 0.01
#: Seconds of SIGKILL after which a process that will not die is reported instead.
_GIVE_UP_S = 10.0

_NEVER = float("inf")
_LONGEST_POLL_MS = 3_600_000  # poll(2) takes an int: 24 days


class Supervision:
    """One job in a shepherd's hands."""

    def __init__(self, task: job.Task, grace_s: float) -> None:
        #: The job.
        self.task = task
        self._grace_s = grace_s
        self._limit = None if task.memory_bytes is None else memory.open_limit(task.memory_bytes, task.group)
        self._leader = 0
        self._status: Optional[int] = None
        self._cause = ""
        self._detail = ""
        self._next_look = self._ends_at = self._kill_at = self._give_up_at = _NEVER

    def start(self, inherited: Collection[int]) -> None:
        """Fork the job. ``inherited``: the shepherd's descriptors, which the job closes.

        Raises:
            OSError: It cannot be started; nothing is left of it.
        """
        logs, parent = job.open_logs(self.task.directory), os.getpid()
        try:
            self._leader = os.fork()
        except OSError:
            job.close_all(logs)
            raise
        if self._leader == 0:
            task, limit, closed = self.task, self._limit, [*logs, *inherited]
            raise linux.Forked(lambda: job.run(task, limit, logs, closed, parent))
        job.close_all(logs)
        now = time.monotonic()
        self._ends_at = now + (self.task.time_limit_s or _NEVER)
        if self._limit is not None:
            self._next_look = now + _MEMORY_INTERVAL_S

    def is_over(self) -> bool:
        """Reap what has ended; tell whether nothing is left, or what is left cannot be ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return time.monotonic() > self._give_up_at
            if pid == self._leader:
                self._status = status
                self._look_at_memory()

    def advance(self) -> Optional[int]:
        """Do what is due, and give the milliseconds until the next thing is; None for never."""
        now = time.monotonic()
        if now >= self._next_look:
            self._look_at_memory()
            self._next_look = now + _MEMORY_INTERVAL_S
        if now >= self._ends_at:
            self._ends_at = _NEVER
            self.end_tree("time", f"ran longer than {self.task.time_limit_s:g} s (time)", self._grace_s)
        if self._status is not None and self._kill_at == _NEVER:
            self.end_tree("", "", _LEFT_BEHIND_S)
        due = min(self._next_look, self._ends_at, self._kill_at)
        if now >= self._kill_at:
            self._give_up_at = min(self._give_up_at, now + _GIVE_UP_S)
            tree.signal_tree(signal.SIGKILL)
            due = now + _KILL_INTERVAL_S
        return None if due == _NEVER else max(1, min(round((due - now) * 1000), _LONGEST_POLL_MS))

    def end_tree(self, cause: str, detail: str, grace_s: float) -> None:
        """Begin to end every process: SIGTERM now, SIGKILL after the grace. The first cause is the one reported."""
        if not self._cause and (self._status is None or cause == "memory"):
            self._cause, self._detail = cause, detail
        if grace_s and self._kill_at == _NEVER:
            tree.signal_tree(signal.SIGTERM, signal.SIGCONT)
        self._kill_at = min(self._kill_at, time.monotonic() + grace_s)

    def cancel(self) -> None:
        """Begin to end the job because somebody wants it."""
        self.end_tree("cancel", "", self._grace_s)

    def fail(self, error: OSError) -> None:
        """Note that the job could not be started."""
        self._cause = "launch"
        self._detail = f"{error.strerror or error}: {error.filename}" if error.filename else str(error)

    def finish(self) -> dict[str, Any]:
        """Write the exit code, and give the report."""
        left = sorted(tree.descendants())
        if left:
            self._detail = f"{self._detail}; cannot be ended: processes {', '.join(map(str, left))}".lstrip("; ")
        if self._limit is not None:
            self._limit.close()
        code = None
        if self._status is not None:
            code = os.waitstatus_to_exitcode(self._status)
        if code is not None and self.task.marker:
            try:
                runner.write_atomically(self.task.marker, str(code if code >= 0 else 128 - code).encode(), fsync=False)
            except OSError as error:  # its folder was removed: the report still goes out
                self._detail = self._detail or f"cannot write the exit code: {error}"
        return {"id": self.task.native_id, "code": code, "cause": self._cause, "detail": self._detail, "left": left}

    def _look_at_memory(self) -> None:
        excess = self._limit.exceeded() if self._limit is not None and not self._cause else ""
        if excess:
            self.end_tree("memory", excess, 0)


class Shepherd:
    """Supervises the jobs that the server orders, one after the other, in a process forked from the server.

    Args:
        orders: Descriptor where lines of JSON arrive: a task to run, or the id of one to cancel.
        report: Descriptor for one line of JSON when a job has ended.
        locks: Descriptors of the cores' locks.
        grace_s: Seconds between SIGTERM and SIGKILL for a job that is at its limit or cancelled.
    """

    def __init__(self, orders: int, report: int, locks: Collection[int], grace_s: float) -> None:
        self._orders, self._report_to, self._grace_s = orders, report, grace_s
        self._input = b""
        self._has_server = True
        self._supervision: Optional[Supervision] = None
        self._bell, self._wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._descriptors = {self._orders, self._report_to, self._bell, self._wakeup, *locks}
        self._poll = select.poll()

    def serve(self) -> int:
        """Work until the server is gone and nothing is left to end."""
        linux.close_all_but(self._descriptors)
        linux.set_name("cj-shepherd")
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._poll.register(self._bell, select.POLLIN)
        self._poll.register(self._orders, select.POLLIN)
        while self._has_server or self._supervision is not None:
            for descriptor, _ in self._poll.poll(self._supervision.advance() if self._supervision else None):
                if descriptor == self._bell:
                    os.read(self._bell, 4096)
                else:
                    self._obey()
            if self._supervision is not None and self._supervision.is_over():
                self._report(self._supervision)
        os._exit(0)

    def _obey(self) -> None:
        data = os.read(self._orders, 1 << 16)
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "run" in message:
                self._start(job.Task(**message["run"]))
            elif self._supervision is not None and self._supervision.task.native_id == message["cancel"]:
                self._supervision.cancel()
        if not data:
            self._has_server = False
            self._poll.unregister(self._orders)
            if self._supervision is not None:
                self._supervision.end_tree("server", "the local job server died", 0)

    def _start(self, task: job.Task) -> None:
        self._supervision = Supervision(task, self._grace_s)
        try:
            self._supervision.start(self._descriptors)
        except OSError as error:
            self._supervision.fail(error)

    def _report(self, supervision: Supervision) -> None:
        report = supervision.finish()
        self._supervision = None
        try:
            os.write(self._report_to, json.dumps(report).encode() + b"\n")
        except OSError:  # the server died
            pass
        if report["left"]:  # they go to the server, which goes on trying
            os._exit(1)


def role(orders: int, report: int, locks: Collection[int], grace_s: float) -> Callable[[], int]:
    """Give what a new child of the server does to be a shepherd."""
    return lambda: Shepherd(orders, report, locks, grace_s).serve()
