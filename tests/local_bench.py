"""A local scheduler to put on the bench: makes jobs for it, waits for them, and finds what they left behind."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle

import pytest_clusterjobs
from pytest_clusterjobs.backends.base import BackendSettings, Submission
from pytest_clusterjobs.backends.local import LocalBackend, LocalOptions
from pytest_clusterjobs.core.spec import make_spec
from pytest_clusterjobs.core.state import JobState, JobStatus
from pytest_clusterjobs.transports.local import LocalTransport

if TYPE_CHECKING:
    from tests import watching
else:  # clients that tests run import this from its folder
    import watching

DEADLINE_S = 20.0
CORES = len(os.sched_getaffinity(0))
RUNNER = Path(pytest_clusterjobs.__file__).parent / "node" / "start.py"
wait_for = partial(watching.wait_for, within_s=DEADLINE_S)


class Bench:
    """A local scheduler with its own cores' locks, and a maker of jobs for it."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.root = root
        self.token = f"token-{secrets.token_hex(8)}"
        self.changed = threading.Event()
        self.seen: dict[str, list[JobState]] = {}
        self._numbers = itertools.count(1)
        self.backend = self.connect(**options)

    def connect(self, **options: Any) -> LocalBackend:
        """Start another scheduler that shares the cores of this one."""
        options = {"slots_directory": str(self.root / "slots"), "kill_grace_s": 0.3, **options}
        backend = LocalBackend(LocalTransport(), BackendSettings(), LocalOptions(**options))
        backend.set_listener(lambda native_id: self._note(backend, native_id))
        return backend

    def _note(self, backend: LocalBackend, native_id: str) -> None:
        status = backend.explain(native_id)
        assert status is not None
        self.seen.setdefault(native_id, []).append(status.state)
        self.changed.set()

    def directory(
        self, work: Callable[[], Any] | list[str], parent: Path | None = None, number: int | None = None
    ) -> Path:
        """Make a job's directory for a function or a command."""
        folder = (parent or self.root) / str(next(self._numbers) if number is None else number)
        folder.mkdir()
        order: dict[str, Any] = {"job_id": folder.name, "cwd": str(folder), "fsync": False}
        if isinstance(work, list):
            order.update(kind="command", argv=work)
        else:
            order.update(kind="call", python=sys.version_info[:2], lib="", home=[])
            order["function"] = self._put(folder / "function", work)
            order["arguments"] = self._put(folder / "arguments", ((), {}))
        (folder / "order.json").write_text(json.dumps(order))
        return folder

    def _put(self, path: Path, value: Any) -> dict[str, str]:
        data = cloudpickle.dumps(value)
        path.write_bytes(data)
        return {"path": str(path), "sha256": hashlib.sha256(data).hexdigest()}

    def submission(self, *folders: Path, **spec: Any) -> Submission:
        return Submission(
            name=f"cj-{self.token}",
            spec=make_spec(**spec),
            directories=tuple(map(str, folders)),
            directory=str(folders[0] if len(folders) == 1 else folders[0].parent),
            markers=tuple(str(folder / "exit-code") for folder in folders),
            runner=str(RUNNER),
            python=sys.executable,
            environment={**os.environ, "CJ_TOKEN": self.token},
        )

    def submit(self, work: Callable[[], Any] | list[str], backend: LocalBackend | None = None, **spec: Any) -> Job:
        folder = self.directory(work)
        submitted = (backend or self.backend).submit(self.submission(folder, **spec))
        return Job(self, backend or self.backend, submitted.native_ids[0], folder)

    def processes(self) -> dict[int, str]:
        """Give the jobs' processes: a fork of the server that is a job, or what has the token in its environment or
        command line."""
        return {pid: command(pid) for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._is_ours(pid)}

    def _is_ours(self, pid: int) -> bool:
        if pid == os.getpid():
            return False
        name = read(f"/proc/{pid}/comm").strip()
        if "local_server" in command(pid):
            return name == "cj-job" and str(self.root) in command(pid)
        return self.token in read(f"/proc/{pid}/environ") + command(pid)

    def server(self) -> int:
        """Give the process id of the first server."""
        every = [pid for task in os.listdir("/proc/self/task") for pid in children(os.getpid(), int(task))]
        return min(pid for pid in every if "local_server" in command(pid) and str(self.root) in command(pid))

    def close(self) -> None:
        """Close the scheduler and make sure that nothing is left of its jobs."""
        self.backend.close()
        assert self.processes() == {}


class Job:
    """A submitted job."""

    def __init__(self, bench: Bench, backend: LocalBackend, native_id: str, folder: Path) -> None:
        self.bench, self.backend, self.native_id, self.folder = bench, backend, native_id, folder

    @property
    def status(self) -> JobStatus:
        status = self.backend.explain(self.native_id)
        assert status is not None
        return status

    def ended(self) -> JobStatus:
        deadline = time.monotonic() + DEADLINE_S
        while not self.status.state.is_terminal:
            assert self.bench.changed.wait(deadline - time.monotonic()), self.status
            self.bench.changed.clear()
        return self.status

    def says(self, text: str, log: str = "stdout.log") -> None:
        wait_for(lambda: text in self.log(log), f"{text!r} in {log}")

    def log(self, name: str = "stdout.log") -> str:
        path = self.folder / name
        return path.read_text() if path.exists() else ""

    def value(self) -> Any:
        status = self.ended()
        assert status.state is JobState.COMPLETED, (status, self.log("stderr.log"))
        return cloudpickle.loads((self.folder / "result.cj").read_bytes().partition(b"\n")[2])

    def cancel(self) -> None:
        self.backend.cancel([self.native_id])


def read(path: str) -> str:
    """Give a file of /proc as text; "" when the process is gone."""
    try:
        return Path(path).read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def command(pid: int) -> str:
    return read(f"/proc/{pid}/cmdline")


def children(pid: int, thread: int = 0) -> list[int]:
    return list(map(int, read(f"/proc/{pid}/task/{thread or pid}/children").split()))


def parent(pid: int) -> int:
    return int(read(f"/proc/{pid}/stat").rpartition(")")[2].split()[1])
