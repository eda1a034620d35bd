"""A scheduler in miniature on this machine: real processes, queued for the cores, held to their limits.

The work is done by one server process for each client process (``node/local_server.py``); here is its client. The
server, and every job, ends when the client does.
"""

from __future__ import annotations

import atexit
import importlib.util
import itertools
import json
import os
import platform
import queue
import secrets
import select
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pytest_clusterjobs.backends import direct
from pytest_clusterjobs.backends.base import (
    Backend,
    BackendInfo,
    BackendSettings,
    Capability,
    QueuedJob,
    Submission,
    Submitted,
)
from pytest_clusterjobs.backends.batch import SCRIPT
from pytest_clusterjobs.core.errors import BackendUnavailable
from pytest_clusterjobs.core.state import JobStatus
from pytest_clusterjobs.core.units import format_memory
from pytest_clusterjobs.transports.base import Transport

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks

_NODE = Path(__file__).resolve().parent.parent / "node"
_CLOSE_S = 5.0

#: Folder of the locks for a local scheduler inside a job of one: the job's cores are its to share out. With the common
#: folder it would wait for ever for the core that its own job holds.
_SLOTS_VARIABLE = "CLUSTERJOBS_LOCAL_SLOTS"


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """How the local scheduler works, where the defaults do not do."""

    #: Folder of the locks by which a user's local schedulers share the cores; None: one for each user.
    slots_directory: str | None = None
    #: How memory limits are held: "cgroup" (the kernel), "watch" (by looking), or "auto" (the former if it can be).
    memory_mode: str = "auto"
    #: Seconds between SIGTERM and SIGKILL for a job that is cancelled or at a limit.
    kill_grace_s: float = 2.0


class LocalBackend(Backend):
    """Jobs as processes on this machine.

    The cores that this process may use are the slots, shared by all local schedulers of the user on the machine; a
    job of ``cores=k`` is pinned to k of them. ``time`` and ``memory`` are enforced; memory is not reserved.

    ``partition``, ``account``, ``qos``, ``constraint``, ``extra_args`` and ``extra_directives`` are accepted and have
    no effect: there is nothing here for them to choose from, and a suite written for a cluster must run unchanged.
    The capabilities say so.

    A job is a fork of a warm interpreter where it can be: same Python, no shell lines, no other value of a variable
    that an interpreter reads when it starts. Its hash seed is then the server's.
    """

    name: ClassVar[str] = "local"
    can_be_far: ClassVar[bool] = False
    capabilities: ClassVar[frozenset[Capability]] = direct.CAPABILITIES
    has_push: ClassVar[bool] = True

    def __init__(self, transport: Transport, settings: BackendSettings, options: LocalOptions | None = None) -> None:
        super().__init__(transport, settings)
        self._options = options or LocalOptions()
        self._cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
        self._node = platform.node()
        self._jobs = direct.JobTable()
        self._link: _ServerLink | None = None
        self._link_lock = threading.Lock()
        self._has_our_runner: dict[str, bool] = {}

    def check(self) -> BackendInfo:
        """Start the server, if it does not run, and have it answer.

        Raises:
            BackendUnavailable: It cannot be started here.
        """
        self._server()
        return BackendInfo(
            version=f"local ({platform.system()} {platform.release()})",
            nodes=1,
            cores_per_node=len(self._cores),
            gpus=0,
            detail=f"{format_memory(_machine_memory())} of memory",
        )

    def submit(self, submission: Submission) -> Submitted:
        """Queue a job or an array. Blocks only for the start of the server, the first time.

        Raises:
            SubmitError: It asks for more than this machine has.
            BackendUnavailable: The server cannot be started.
        """
        cores = len(self._cores)
        direct.refuse_impossible(submission, self.name, cores, _machine_memory(), "one node: this machine")
        link = self._server()
        native_ids = link.new_ids(len(submission.directories), submission.is_array)
        self._jobs.add(native_ids, submission, cores)
        link.send(self._message(submission, native_ids, link.environment))
        if link.is_dead:  # perhaps before the jobs were in the table
            self._on_end(link)
        return Submitted(native_ids, shlex.join([submission.python, submission.runner, submission.directory]))

    def query(self, name_prefix: str) -> Mapping[str, QueuedJob]:
        return self._jobs.query(name_prefix)

    def explain(self, native_id: str) -> JobStatus | None:
        return self._jobs.status(native_id)

    def explain_sources(self) -> tuple[str, ...]:
        return ("the local job server",)

    def cancel(self, native_ids: Collection[str]) -> None:
        link = self._link
        wanted = list(filter(self._jobs.is_alive, native_ids))
        if wanted and link is not None:
            link.send({"cancel": wanted})

    def array_limit(self) -> int:
        return direct.ARRAY_LIMIT

    def set_listener(self, listener: Callable[[str], None]) -> None:
        self._jobs.listener = listener

    def close(self) -> None:
        """End every job and the server, and wait until they have ended: about 5 s at most."""
        with self._link_lock:
            link, self._link = self._link, None
        if link is not None:
            atexit.unregister(self.close)
            link.close()

    # ------------------------------------------------------------ asking the server

    def _server(self) -> _ServerLink:
        with self._link_lock:
            link = self._link
            if link is None or link.is_dead or link.owner != os.getpid():  # none, killed, or our parent's
                if sys.platform != "linux":
                    raise BackendUnavailable(f"it needs Linux, and this is {sys.platform}", self.name)
                link = self._link = _ServerLink(self._server_options(), self._on_messages, self._on_end)
                atexit.unregister(self.close)
                atexit.register(self.close)
        link.wait_ready(self.settings.command_timeout_s)
        return link

    def _server_options(self) -> dict[str, Any]:
        cloudpickle = importlib.util.find_spec("cloudpickle")
        return {
            "cloudpickle": cloudpickle.origin if cloudpickle else "",
            "cores": self._cores,
            "slots": self._options.slots_directory or _default_slots(),
            "memory_mode": self._options.memory_mode,
            "grace_s": self._options.kill_grace_s,
        }

    def _message(self, submission: Submission, native_ids: Iterable[str], server: Mapping[str, str]) -> dict[str, Any]:
        environment = {**submission.environment, **submission.spec.env}
        tasks = []
        for native_id, directory, marker in zip(native_ids, submission.directories, submission.markers, strict=True):
            own = {**direct.own_environment(submission, native_id, directory), _SLOTS_VARIABLE: f"{directory}/slots"}
            tasks.append((native_id, directory, marker, own))
        return {
            "submit": tasks[0][0],
            "tasks": tasks,
            "limit": submission.max_concurrent,
            "shape": direct.shape_of(submission, environment, self._command(submission, environment, server)),
        }

    def _command(
        self, submission: Submission, environment: Mapping[str, str], server: Mapping[str, str]
    ) -> list[str] | None:
        """Give the command that runs a job when the job's directory is added; None when a fork of the server does."""
        if direct.needs_script(submission):
            path = os.path.join(submission.directory, SCRIPT)
            self.transport.write(path, direct.script(submission).encode(), executable=True)
            return ["bash", path]
        is_forked = submission.python == sys.executable and self._is_our_runner(submission.runner)
        if is_forked and direct.read_at_start(environment) == direct.read_at_start(server):
            return None
        return [submission.python, "-u", submission.runner]

    def _is_our_runner(self, path: str) -> bool:
        """Tell whether the runner and what lies beside it are the ones that the server has loaded."""
        if path not in self._has_our_runner:
            self._has_our_runner[path] = False
            with suppress(OSError):
                files = list(Path(path).parent.glob("*.py"))
                same = all(file.read_bytes() == (_NODE / file.name).read_bytes() for file in files)
                self._has_our_runner[path] = bool(files) and same
        return self._has_our_runner[path]

    # ------------------------------------------------------------ what the server says; on the link's thread

    def _on_messages(self, messages: Iterable[Mapping[str, Any]]) -> None:
        for message in messages:
            code, detail = message.get("code"), message.get("detail", "")
            self._jobs.note(message["id"], message["word"], code, detail, self._node)

    def _on_end(self, link: _ServerLink) -> None:
        word = "CANCELLED" if link.is_closing else "NODE_FAIL"
        detail = "the local backend was closed" if link.is_closing else f"the local job server died{link.last_words}"
        for native_id in self._jobs.unfinished():
            if native_id.startswith(link.token):
                how = detail if self._jobs.has_started(native_id) else f"{detail} before the job started"
                self._jobs.note(native_id, word, None, how, self._node)


class _ServerLink:
    """A server process and the connection to it.

    All reading and writing is done by one thread: Ctrl-C, which interrupts the main thread, cannot cut a message.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        on_messages: Callable[[Iterable[Mapping[str, Any]]], None],
        on_end: Callable[[_ServerLink], None],
    ) -> None:
        #: Process that has started the server; a fork of it has none.
        self.owner = os.getpid()
        #: First part of the ids, so that no two servers give the same one.
        self.token = secrets.token_hex(4)
        #: The server's environment.
        self.environment = dict(os.environ)
        #: True when the server has died or is about to be ended.
        self.is_dead = False
        #: True when we have ended it.
        self.is_closing = False
        #: What a failing server said, with ": " before it, or "".
        self.last_words = ""
        self._on_messages, self._on_end = on_messages, on_end
        self._numbers = itertools.count(1)
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._is_ready = threading.Event()
        self._connection, theirs = socket.socketpair()
        self._bell, self._bell_rope = socket.socketpair()
        with theirs:
            self._process = self._start({**options, "client": theirs.fileno(), "client_pid": self.owner})
        self._thread = threading.Thread(target=self._serve, name="clusterjobs-local", daemon=True)
        self._thread.start()

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until the server has answered.

        Raises:
            BackendUnavailable: It has not, or it died.
        """
        if not self._is_ready.wait(timeout_s):
            raise BackendUnavailable(f"the local job server did not answer within {timeout_s:g} s", "local")
        if self.is_dead:
            raise BackendUnavailable(f"the local job server died{self.last_words}", "local")

    def new_ids(self, count: int, is_array: bool) -> tuple[str, ...]:
        """Give ids that were never given before."""
        base = f"{self.token}.{next(self._numbers)}"
        return tuple(f"{base}_{index}" for index in range(count)) if is_array else (base,)

    def send(self, message: Mapping[str, Any]) -> None:
        """Have a message sent; lost when the server is dead."""
        self._outbox.put(json.dumps(message).encode() + b"\n")
        self._ring()

    def close(self) -> None:
        """End the server and its jobs, and wait for it."""
        if self.owner == os.getpid():
            self._outbox.put(None)
            self._ring()
            self._thread.join(_CLOSE_S + 2)

    def _start(self, options: Mapping[str, Any]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-u", str(_NODE / "local_server.py"), json.dumps({**options, "token": self.token})],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[options["client"]],
            env=self.environment,
            start_new_session=True,  # the terminal's Ctrl-C is for us, not for the jobs
        )

    def _ring(self) -> None:
        with suppress(OSError):  # the thread has ended
            self._bell_rope.send(b"!")

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        poll.register(self._connection, select.POLLIN)
        deadline, rest = float("inf"), b""
        try:
            while time.monotonic() < deadline:
                ready = [descriptor for descriptor, _ in poll.poll(None if deadline == float("inf") else 100)]
                if self._bell.fileno() in ready and self._bell.recv(4096) and not self._write():
                    deadline = min(deadline, time.monotonic() + _CLOSE_S)
                if self._connection.fileno() in ready:
                    data = self._connection.recv(1 << 16)
                    if not data:
                        break
                    *lines, rest = (rest + data).split(b"\n")
                    self._receive([json.loads(line) for line in lines])
        except OSError:
            pass
        self._end()

    def _write(self) -> bool:
        """Send what waits; False when the connection is to be closed."""
        while not self._outbox.empty():
            data = self._outbox.get()
            if data is None:
                self.is_closing = self.is_dead = True
                self._connection.shutdown(socket.SHUT_WR)
                return False
            self._connection.sendall(data)
        return True

    def _receive(self, messages: list[dict[str, Any]]) -> None:
        changes = []
        for message in messages:
            if "crash" in message:
                self.last_words = f": {message['crash']}"
            elif "hello" in message:
                self._is_ready.set()
            else:
                changes.append(message)
        if changes:
            self._on_messages(changes)

    def _end(self) -> None:
        self.is_dead = True
        try:
            self._process.wait(0.2 if self.is_closing else 1)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its shepherds see it and end the jobs
            self._process.wait()
        for end in (self._connection, self._bell, self._bell_rope):
            end.close()
        self._on_end(self)
        self._is_ready.set()


def _default_slots() -> str:
    if _SLOTS_VARIABLE in os.environ:
        return os.environ[_SLOTS_VARIABLE]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        return str(Path(runtime, "clusterjobs"))
    return str(Path(tempfile.gettempdir(), f"clusterjobs-{os.getuid()}"))


def _machine_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
