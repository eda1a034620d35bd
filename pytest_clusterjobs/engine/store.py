"""A run's directory: what lies where, who owns it, and the journal of what was meant and what came of it.

::

    <workdir>/<run_id>/
        run.json                who runs it: pid, its start time, host, user
        node/                   what runs the jobs, and the cloudpickle that travels
        shared/                 what the workers of one run share: locks, query results, probes
        <worker>/               "main", or "gw0", "gw1" under xdist
            journal.jsonl       one line before each submission and one after each change
            marks/              <job>.start and <job>.end, made on the node
            <n>-<name>/         one job, or one array with a directory for each element
"""

from __future__ import annotations

import functools
import json
import math
import os
import py_compile
import shutil
import socket
import stat
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_clusterjobs.core.errors import StoreError
from pytest_clusterjobs.engine.payload import checksum, shipped_library
from pytest_clusterjobs.node import runner
from pytest_clusterjobs.transports.base import Transport

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks


RUN_FILE = "run.json"
JOURNAL = "journal.jsonl"
STDOUT, STDERR = "stdout.log", "stderr.log"

_PARTS = frozenset({"outcome", "exit_code", "segments"})
# How long a lock of the run may be held by others.
_LOCK_S = 60.0
_IGNORE, _IGNORE_ALL = ".gitignore", b"*\n"


class Store:
    """The directories of one worker of one run. Made on disk at the first use; safe to use from several threads."""

    def __init__(self, transport: Transport, workdir: str, run_id: str, worker: str, owner_pid: int) -> None:
        self.transport = transport
        self.run_id, self.worker = run_id, worker
        self._owner_pid = owner_pid
        #: The run's directory.
        self.root = os.path.join(workdir, run_id)
        #: This worker's part of it.
        self.directory = os.path.join(self.root, worker)
        #: Where nodes announce starts and ends.
        self.marks = os.path.join(self.directory, "marks")
        #: The runner's path.
        self.runner = os.path.join(self.root, "node", "start.py")
        #: The folder that holds the shipped cloudpickle.
        self.lib = os.path.join(self.root, "node", "lib")
        self._lock = threading.Lock()
        self._journal: int | None = None

    @property
    def exists(self) -> bool:
        """True once something was stored."""
        return self._journal is not None

    def open(self) -> None:
        """Make the run's directory and what every job needs. Idempotent.

        Raises:
            StoreError: It cannot be made, or somebody else owns it.
        """
        with self._lock:
            if self._journal is not None:
                return
            try:
                _make_workdir(self.transport, os.path.dirname(self.root))
                for path in (self.root, self.directory, self.marks):
                    self.transport.make_directory(path)
                with self.locked("setup"):
                    if self.transport.read(self.run_file) is None:
                        self._ship()
                journal = os.path.join(self.directory, JOURNAL)
                self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            except (StoreError, OSError) as error:
                why = (
                    error.args[0] if isinstance(error, StoreError) else f"cannot write to {self.root}: {_reason(error)}"
                )
                instead = "name another work directory with --cluster-workdir or CLUSTERJOBS_WORKDIR"
                raise StoreError(f"{why}; {instead}") from error

    def _ship(self) -> None:
        self.transport.make_directory(self.lib)
        shutil.copytree(shipped_library(), os.path.join(self.lib, "cloudpickle"), dirs_exist_ok=True)
        for name in ("start.py", "runner.py", "packing.py"):
            copy = os.path.join(os.path.dirname(self.runner), name)
            shutil.copy2(os.path.join(os.path.dirname(runner.__file__), name), copy)
            py_compile.compile(copy, doraise=True)  # once here, rather than in every job
        self.claim()

    @property
    def run_file(self) -> str:
        """The file that says who runs it."""
        return os.path.join(self.root, RUN_FILE)

    def claim(self) -> None:
        """Write down who runs it, whole or not at all; where it may have another owner, under the lock "owner"."""
        self._write_facts(run_facts(self.run_id, self._owner_pid))

    def _write_facts(self, facts: Mapping[str, Any]) -> None:
        runner.write_atomically(self.run_file, json.dumps(facts).encode(), fsync=False)

    @contextmanager
    def locked(self, name: str, *, wait_s: float = _LOCK_S) -> Iterator[bool]:
        """Hold a lock that all workers of the run share.

        Args:
            name: Its name.
            wait_s: How long to wait for it, in seconds, ``math.inf`` too; 0 to be given False at once when it is taken.

        Raises:
            StoreError: It was not free in time.
        """
        from filelock import FileLock, Timeout

        self.transport.make_directory(os.path.join(self.root, "shared"))
        lock = FileLock(os.path.join(self.root, "shared", f"{name}.lock"))
        try:
            lock.acquire(timeout=-1 if wait_s == math.inf else wait_s)
        except FileNotFoundError:
            raise StoreError(f"{lock.lock_file} is gone: another process has removed the run") from None
        except Timeout:
            if wait_s:
                raise StoreError(f"the lock {lock.lock_file} was not free within {wait_s:g} s") from None
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def write_shared(self, name: str, value: object) -> None:
        """Write a JSON value where the run's workers see it, whole or not at all."""
        path = os.path.join(self.root, "shared", name)
        self.transport.make_directory(os.path.dirname(path))
        runner.write_atomically(path, json.dumps(value).encode(), fsync=False)

    def read_shared(self, name: str) -> Any:
        """Give the value that `write_shared` wrote, or None."""
        data = self.transport.read(os.path.join(self.root, "shared", name))
        return None if data is None else json.loads(data)

    def journal(self, event: str, **facts: object) -> None:
        """Append a line to the journal. It survives this process's death, not the machine's."""
        line = json.dumps({"event": event, **facts}, default=str) + "\n"
        if self._journal is not None:
            os.write(self._journal, line.encode())

    def mark(self, job_id: str) -> str:
        """Give the path of the file that the job makes at its very end; ``.start`` is appended for its start."""
        return os.path.join(self.marks, job_id)

    # ------------------------------------------------------------ jobs

    def make_job(self, directory: str, order: Mapping[str, Any]) -> None:
        """Make a job's directory with its order, whose paths are relative to it: the run may be moved as a whole.

        Raises:
            StoreError: It cannot be made.
        """
        self.transport.make_directory(directory)
        complete = {
            "protocol": runner.PROTOCOL,
            "python": list(sys.version_info[:2]),
            "lib": os.path.relpath(self.lib, directory),
            **order,
        }
        self.transport.write(os.path.join(directory, runner.ORDER), json.dumps(complete).encode())

    def write_part(self, directory: str, name: str, data: bytes) -> dict[str, str]:
        """Write a pickle and give how the order of a job beside it refers to it: its path and checksum."""
        self.transport.write(os.path.join(directory, name), data)
        return {"path": name, "sha256": checksum(data)}

    def read_envelope(self, directory: str) -> tuple[dict[str, Any], dict[str, bytes]] | None:
        """Give an envelope's header and segments after the checksum was compared; None when there is none.

        Raises:
            StoreError: It is damaged, or not ours.
        """
        path = os.path.join(directory, runner.ENVELOPE)
        data = self.transport.read(path)
        if data is None:
            return None
        line, _, body = data.partition(b"\n")
        try:
            header = json.loads(line)
            layout = [(str(name), int(size)) for name, size in header["segments"]]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path} is no envelope: {error}") from error
        if sum(size for _, size in layout) != len(body) or checksum(body) != header["sha256"]:
            raise StoreError(f"{path} is damaged: {len(body)} bytes whose checksum is not the announced one")
        segments, offset = {}, 0
        for name, size in layout:
            segments[name] = body[offset : offset + size]
            offset += size
        return header, segments

    def read_header(self, directory: str) -> dict[str, Any] | None:
        """Give an envelope's header alone; None when there is no envelope.

        Raises:
            StoreError: It cannot be read or is none.
        """
        path = os.path.join(directory, runner.ENVELOPE)
        line = self.transport.read_first_line(path)
        if line is None:
            return None
        try:
            header = json.loads(line)
        except ValueError as error:
            raise StoreError(f"{path} is no envelope: {error}") from error
        if not isinstance(header, dict) or not header.keys() >= _PARTS:
            raise StoreError(f"{path} is no envelope: its first line lacks {', '.join(sorted(_PARTS))}")
        return header

    def read_log(self, directory: str, name: str, last_bytes: int | None = None) -> str:
        """Give what a job printed so far."""
        data = self.transport.read(os.path.join(directory, name), last_bytes=last_bytes)
        return "" if data is None else data.decode(errors="replace")

    def read_json(self, path: str) -> Any:
        """Give the JSON value in a file that a node wrote, or None when it is not there or not whole."""
        data = self.transport.read(path)
        try:
            return None if data is None else json.loads(data)
        except ValueError:
            return None

    def close(self, keep: bool) -> None:
        """Close the journal, and remove this worker's part unless it is kept. Idempotent."""
        with self._lock:
            if self._journal is not None:
                os.close(self._journal)
                self._journal = None
        if not keep:
            self.transport.remove(self.directory)

    def mark_closed(self) -> None:
        """Write down that nobody runs it any more, and that nothing of it runs."""
        if (facts := self.read_json(self.run_file)) is not None:
            self._write_facts({**facts, "is_closed": True})

    def remove_run(self) -> None:
        """Remove what the run's workers shared; the run's directory and the workdir too when nothing is kept there."""
        self.transport.remove(os.path.join(self.root, "shared"))
        if set(self.transport.list_names(self.root)) <= {"node", RUN_FILE}:
            self.transport.remove(self.root)
        else:
            self.mark_closed()  # what is left is kept by policy: not for the reaper
        remove_empty_workdir(self.transport, os.path.dirname(self.root))


def run_facts(run_id: str, pid: int) -> dict[str, Any]:
    """Tell who runs: enough to find out later, also after a reboot, whether that process still lives."""
    return {
        "schema": 1,
        "run_id": run_id,
        "host": socket.gethostname(),
        "pid": pid,
        "pid_started": process_start(pid),
        "boot_id": boot_id(),
        "uid": os.getuid(),
        "cwd": os.getcwd(),
        "is_closed": False,
    }


def process_start(pid: int) -> int | None:
    """Give the start time of a process in clock ticks since boot, or None when there is none (proc(5), field 22)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


@functools.lru_cache(maxsize=1)
def boot_id() -> str:
    """Give the id of this machine's boot, or ""."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _reason(error: OSError) -> str:
    if isinstance(error, shutil.Error):  # one of a whole tree: (from, to, why) for each file
        return str(error.args[0][0][2]).partition(": ")[0]
    return error.strerror or str(error)


def _make_workdir(transport: Transport, workdir: str) -> None:
    """Make the directory that holds the runs; one that is there already is the user's, and left as it is.

    Raises:
        StoreError: Somebody else could put a run's directory there in place of ours, and have us unpickle it.
    """
    if not os.path.isdir(workdir):
        transport.make_directory(workdir)
        transport.write(os.path.join(workdir, _IGNORE), _IGNORE_ALL)
        return
    status = os.stat(workdir)
    if status.st_mode & stat.S_ISVTX:
        return
    if status.st_uid not in (os.geteuid(), 0):
        raise StoreError(f"the work directory {workdir} belongs to uid {status.st_uid}, who could swap what is in it")
    if status.st_mode & 0o002:
        raise StoreError(f"others may write to the work directory {workdir}, and swap what is in it; chmod o-w it")


def remove_empty_workdir(transport: Transport, workdir: str) -> None:
    """Remove the directory that holds the runs if it is ours, and none is left in it."""
    if transport.list_names(workdir) == [_IGNORE] and transport.read(os.path.join(workdir, _IGNORE)) == _IGNORE_ALL:
        transport.remove(workdir)
