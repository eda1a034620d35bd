"""The local job server's loop: takes jobs from its one client, starts each on cores of its own, tells how it ended.

One thread, no state on disk. The server ends, and every job with it, when its client closes the connection or dies.
"""

import errno
import gc
import json
import os
import select
import signal
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Callable, Optional

from . import local_linux as linux
from . import local_memory as memory
from . import local_shepherd as shepherd
from . import local_tree as tree
from .local_job import Task, default_signals
from .local_linux import Forked
from .local_slots import Slots

__all__ = ["Forked", "server"]

#: Seconds between looks at cores that another server holds, at first and at most. Its bell wakes us earlier.
_RETRY_S = (0.01, 0.1)
#: Seconds between passes over processes whose shepherd was killed, and of all passes.
_ORPHANS_INTERVAL_S, _ORPHANS_S = 0.01, 10.0
#: Seconds that the shepherds have to end everything when the server stops.
_STOP_S = 4.0


@dataclass(eq=False, repr=False)
class Batch:
    """One submission: tasks of one shape."""

    #: At most so many at once, or None.
    limit: Optional[int]
    #: Those that wait, in order.
    waiting: deque[Task]
    #: Number of those that run.
    running: int = 0


@dataclass(eq=False, repr=False)
class Herd:
    """One shepherd, and the task that it has."""

    #: The shepherd's process id.
    pid: int
    #: Descriptor for orders to it.
    orders: int
    #: What it has, or None while it waits.
    task: Optional[Task] = None
    #: The task's batch.
    batch: Optional[Batch] = None
    #: What it has said of its next report.
    text: bytes = b""


def server(options: dict[str, Any]) -> Callable[[], int]:
    """Give what runs the server. ``options``: see `Server`."""
    return lambda: Server(**options).serve()


class Server:
    """The loop.

    Args:
        client: Descriptor of the connection.
        client_pid: Process id of the client.
        token: Unique part of this server's ids.
        cores: Numbers of the cores that may be used.
        slots: Folder of the shared locks.
        memory_mode: "auto", "cgroup" or "watch".
        grace_s: Seconds between SIGTERM and SIGKILL for a job at its limit, or cancelled.
    """

    def __init__(
        self, client: int, client_pid: int, token: str, cores: list[int], slots: str, memory_mode: str, grace_s: float
    ) -> None:
        self._client = client
        self._grace_s = grace_s
        self._limiter = memory.Limiter(memory_mode)
        self._batches: dict[str, Batch] = {}
        self._herds: dict[int, Herd] = {}
        self._idle: list[Herd] = []
        self._bereft: list[Herd] = []
        self._input, self._output = b"", b""
        self._is_stopping = self._is_watching = False
        self._orphans_until = 0.0
        self._retry_s = _RETRY_S[0]
        self._poll = select.poll()
        self._open(client_pid)
        self._slots = Slots(slots, cores, token)

    def serve(self) -> int:
        """Work until the client is gone."""
        self._send({"hello": os.getpid()})
        while not self._is_stopping:
            for descriptor, events in self._poll.poll(self._timeout_ms()):
                self._attend(descriptor, events)
            self._end_orphans()
            if not self._is_stopping:
                self._start_waiting()
        self._stop()
        os._exit(0)  # there is nothing to take down, and taking it down is slow

    def _open(self, client_pid: int) -> None:
        linux.set_name("cj-server")
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)  # if a shepherd is killed, what it kept comes to us
        default_signals()
        for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):  # the last two as Python does
            signal.signal(signum, signal.SIG_IGN)
        gc.disable()
        os.set_blocking(self._client, False)
        self._poll.register(self._client, select.POLLIN)
        try:  # a fork of the client may hold the connection open longer than the client lives
            self._client_life = os.pidfd_open(client_pid)
        except OSError as error:
            self._client_life = -1
            self._is_stopping = error.errno == errno.ESRCH
        else:
            self._poll.register(self._client_life, select.POLLIN)

    def _timeout_ms(self) -> Optional[int]:
        wait_s = float("inf")
        if self._slots.is_waiting:
            wait_s = self._retry_s
        if self._bereft:
            wait_s = min(wait_s, _ORPHANS_INTERVAL_S)
        return None if wait_s == float("inf") else round(wait_s * 1000)

    def _attend(self, descriptor: int, events: int) -> None:
        if descriptor in self._herds:
            self._listen(descriptor)
        elif descriptor == self._client:
            if events & select.POLLOUT:
                self._flush()
            if events & ~select.POLLOUT:
                self._receive()
        elif descriptor == self._client_life:
            self._is_stopping = True
        else:  # another server's bell
            _drain(descriptor)
            self._retry_s = _RETRY_S[0]

    # ------------------------------------------------------------ the client

    def _receive(self) -> None:
        try:
            data = os.read(self._client, 1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._is_stopping = True
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "cancel" in message:
                self._cancel(set(message["cancel"]))
            else:
                self._enqueue(message)

    def _enqueue(self, message: dict[str, Any]) -> None:
        shape = message["shape"]
        waiting = deque(Task(*task, **shape) for task in message["tasks"])
        self._batches[message["submit"]] = Batch(message["limit"], waiting)

    def _cancel(self, native_ids: set[str]) -> None:
        for batch in self._batches.values():
            for task in [task for task in batch.waiting if task.native_id in native_ids]:
                batch.waiting.remove(task)
                self._send({"id": task.native_id, "word": "CANCELLED", "detail": "before it started"})
        for herd in self._herds.values():
            if herd.task is not None and herd.task.native_id in native_ids:
                _order(herd, {"cancel": herd.task.native_id})

    def _send(self, message: dict[str, Any]) -> None:
        self._output += json.dumps(message).encode() + b"\n"
        self._flush()

    def _flush(self) -> None:
        try:
            self._output = self._output[os.write(self._client, self._output) :]
        except BlockingIOError:
            pass
        except OSError:
            self._is_stopping = True
            return
        self._poll.modify(self._client, select.POLLIN | (select.POLLOUT if self._output else 0))

    # ------------------------------------------------------------ starting

    def _start_waiting(self) -> None:
        """Start what can be started, in order. A job that waits for cores keeps those behind it waiting too."""
        for batch in self._startable():
            task = batch.waiting[0]
            cores = self._slots.claim(task.count)
            if cores is None:
                self._watch(True)
                return
            self._retry_s = _RETRY_S[0]
            batch.waiting.popleft()
            task.cores = cores
            self._start(task, batch)
        self._slots.leave_queue()
        self._watch(False)

    def _startable(self) -> Iterator[Batch]:
        for name, batch in list(self._batches.items()):
            while batch.waiting and (batch.limit is None or batch.running < batch.limit):
                yield batch
            if not batch.waiting:
                del self._batches[name]

    def _watch(self, is_waiting: bool) -> None:
        """Listen for what other servers give back, or do not."""
        if is_waiting and self._is_watching:
            self._retry_s = min(self._retry_s * 1.5, _RETRY_S[1])
        elif is_waiting != self._is_watching and self._slots.watch >= 0:
            if is_waiting:
                _drain(self._slots.watch)
                self._poll.register(self._slots.watch, select.POLLIN)
            else:
                self._poll.unregister(self._slots.watch)
            self._is_watching = is_waiting

    def _start(self, task: Task, batch: Batch) -> None:
        try:
            if task.memory_bytes is not None:
                task.group = self._limiter.make_group(task.memory_bytes)
            herd = self._idle.pop() if self._idle else self._new_shepherd()
        except OSError as error:
            _remove_group(task)
            self._settle(task, {"cause": "launch", "detail": str(error)})
            return
        herd.task, herd.batch = task, batch
        batch.running += 1
        _order(herd, {"run": vars(task)})
        self._send({"id": task.native_id, "word": "RUNNING"})

    def _new_shepherd(self) -> Herd:
        their_orders, orders = os.pipe()
        report, their_report = os.pipe()
        pid = os.fork()
        if pid == 0:
            raise Forked(shepherd.role(their_orders, their_report, self._slots.locks, self._grace_s))
        os.close(their_orders)
        os.close(their_report)
        herd = self._herds[report] = Herd(pid, orders)
        self._poll.register(report, select.POLLIN)
        return herd

    # ------------------------------------------------------------ ending

    def _listen(self, descriptor: int) -> None:
        herd = self._herds[descriptor]
        data = os.read(descriptor, 1 << 16)
        herd.text += data
        if data.endswith(b"\n"):
            report = json.loads(herd.text)
            self._let_go(herd, report)
            if not report["left"]:  # else it ends, and what is left comes to us
                self._idle.append(herd)
        if not data:
            self._poll.unregister(descriptor)
            os.close(descriptor)
            os.close(herd.orders)
            del self._herds[descriptor]
            if herd in self._idle:
                self._idle.remove(herd)
            os.waitpid(herd.pid, 0)
            self._bereft.append(herd)
            self._orphans_until = time.monotonic() + _ORPHANS_S

    def _let_go(self, herd: Herd, report: dict[str, Any]) -> None:
        task, batch = herd.task, herd.batch
        herd.task, herd.batch, herd.text = None, None, b""
        if task is not None and batch is not None:
            batch.running -= 1
            self._settle(task, report)

    def _settle(self, task: Task, report: dict[str, Any]) -> None:
        """Give the cores of an ended job back and tell the client."""
        self._slots.give_back(task.cores)
        self._send({"id": task.native_id, **_end_in_words(report)})

    def _end_orphans(self) -> None:
        """End what a killed shepherd kept: as a subreaper we are its parent now."""
        if not self._bereft:
            return
        is_left = _end_others({herd.pid for herd in self._herds.values()})
        if is_left and time.monotonic() < self._orphans_until:
            return
        left = "; some of its processes cannot be ended" if is_left else ""
        for herd in self._bereft:
            if herd.task is not None:
                _remove_group(herd.task)
            self._let_go(herd, {"cause": "shepherd", "detail": f"its supervisor died{left}"})
        self._bereft.clear()

    def _stop(self) -> None:
        """End everything and wait until it has ended."""
        self._slots.leave_queue()
        for herd in self._herds.values():
            os.close(herd.orders)  # the shepherds see it and end their jobs
        shepherds = {herd.pid for herd in self._herds.values()}
        deadline = time.monotonic() + _STOP_S
        while tree.has_children() and time.monotonic() < deadline:
            _end_others(shepherds)
            os.waitpid(-1, os.WNOHANG)
            time.sleep(0.001)


def _end_others(spared: set[int]) -> bool:
    """Kill and reap what is below us, but for the children in ``spared``; tell whether anything is left."""
    tree.signal_tree(signal.SIGKILL, spared=spared)
    others = [pid for pid in tree.children_of(os.getpid()) if pid not in spared]
    for pid in others:
        os.waitpid(pid, os.WNOHANG)
    return bool(others)


def _remove_group(task: Task) -> None:
    if task.memory_bytes is not None:
        memory.open_limit(task.memory_bytes, task.group).close()


def _end_in_words(report: dict[str, Any]) -> dict[str, Any]:
    words = {
        "cancel": "CANCELLED",
        "time": "TIMEOUT",
        "memory": "OUT_OF_MEMORY",
        "launch": "LAUNCH_FAILED",
        "server": "NODE_FAIL",
        "shepherd": "NODE_FAIL",
    }
    code = report.get("code")
    word = words.get(report["cause"], "EXITED" if code is not None and code >= 0 else "SIGNALED")
    return {"word": word, "code": code, "detail": report["detail"]}


def _order(herd: Herd, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    try:
        while data:
            data = data[os.write(herd.orders, data) :]
    except OSError:  # it has just died, which its other pipe will tell
        pass


def _drain(descriptor: int) -> None:
    try:
        os.read(descriptor, 1 << 16)
    except OSError:
        pass
