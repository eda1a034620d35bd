"""Daemons: started detached and recorded, ended only when proved to be ours.

A pid alone proves nothing: it is reused, sooner still after a reboot. A process is ours when its environment carries
our marker, when it is the recorded pid *with the recorded start time*, when the cluster's kind recognizes it, or when
it descends from such a process. Nothing is ever looked up by its name alone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pytest_clusterjobs.clusters.base import ClusterBootError

#: In the environment of every daemon, with the cluster's directory as value. Jobs do not inherit it.
MARKER = "CLUSTERJOBS_DAEMON_OF"

_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


@dataclass(frozen=True, slots=True)
class Process:
    """A process that existed when /proc was read."""

    pid: int
    parent: int
    #: Clock ticks from boot to its start, proc(5): with the pid and the boot, its identity.
    started: int


class _Detached(subprocess.Popen[bytes]):
    """A process meant to outlive us: Popen's warning that it still runs would be wrong."""

    def __del__(self) -> None:
        pass


def boot_id() -> str:
    """Name this boot of the machine: start times of two boots must not be compared."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start(name: str, argv: Sequence[str], directory: Path, environment: Mapping[str, str]) -> Process:
    """Start a daemon in a session of its own, with its output in ``log/NAME.out``, and record it in ``run/``.

    Raises:
        ClusterBootError: The program cannot be executed.
    """
    with (directory / "log" / f"{name}.out").open("ab") as output:
        try:
            daemon = _Detached(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=directory / "run",
                env={**environment, MARKER: str(directory)},
                start_new_session=True,
            )
        except OSError as error:
            raise ClusterBootError(f"cannot start {argv[0]}: {error.strerror or error}") from error
    process = read(daemon.pid)
    if process is None:
        raise ClusterBootError(f"{name} ended as soon as it was started", log_tail(directory, name))
    (directory / "run" / f"{name}.process").write_text(f"{process.pid} {process.started} {boot_id()}\n")
    return process


def recorded(directory: Path) -> dict[str, Process | None]:
    """Give the daemons that were started in a directory; None for those that no longer live."""
    return {path.stem: _recorded(path) for path in sorted((directory / "run").glob("*.process"))}


def _recorded(path: Path) -> Process | None:
    try:
        pid, started, boot = path.read_text().split()
        process = read(int(pid)) if boot == boot_id() else None
        return process if process is not None and process.started == int(started) else None
    except (OSError, ValueError):  # cut short by a full disk or a kill -9: the marker still finds the process
        return None


def read(pid: int) -> Process | None:
    """Look at one process; None when there is none. A zombie has ended, whoever may still have to reap it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except _GONE:
        return None
    return None if fields[0] in "ZX" else Process(pid, int(fields[1]), int(fields[19]))


def _every() -> dict[int, Process]:
    pids = (int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit())
    return {pid: process for pid in pids if (process := read(pid)) is not None}


def environment_of(pid: int) -> dict[str, str]:
    """Give the environment a process was started with; {} when it is gone, somebody else's or overwritten."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="surrogateescape").split("\0")
    except _GONE:
        return {}
    return {key: value for key, _, value in (entry.partition("=") for entry in entries)}


def first_argument(pid: int) -> bytes:
    """Give ``argv[0]`` of a process, or b""."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0", 1)[0]
    except _GONE:
        return b""


def holds_files_in(pid: int, directory: Path) -> bool:
    """Tell whether a process has its working directory or an open file in a directory."""
    return any(link.startswith(f"{directory}/") for link in _links(pid))


def _links(pid: int) -> Iterator[str]:
    with suppress(*_GONE):
        yield str(Path(f"/proc/{pid}/cwd").readlink())
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(*_GONE):
                yield str(descriptor.readlink())


def belonging(directory: Path, recognize: Callable[[int], bool]) -> list[Process]:
    """List the processes of a cluster: its daemons, what ``recognize`` knows, and all that descend from them.

    Raises:
        ClusterBootError: We are one of them ourselves.
    """
    everyone = _every()
    ours = {process.pid for process in recorded(directory).values() if process is not None}
    ours |= {pid for pid in everyone if environment_of(pid).get(MARKER) == str(directory) or recognize(pid)}
    while more := {pid for pid, process in everyone.items() if process.parent in ours} - ours:
        ours |= more
    if ours & _with_ancestors(os.getpid(), everyone):
        raise ClusterBootError("this process runs in a job of the very cluster it is to stop: do it from outside")
    return [everyone[pid] for pid in ours if pid in everyone]


def _with_ancestors(pid: int, everyone: Mapping[int, Process]) -> set[int]:
    line = {pid}
    while (process := everyone.get(pid)) is not None and process.parent not in line:
        pid = process.parent
        line.add(pid)
    return line


def end_all(find: Callable[[], Sequence[Process]], within_s: float) -> None:
    """Kill what ``find`` gives, again and again until it gives nothing: a job may be starting more meanwhile.

    Raises:
        ClusterBootError: Some are still there after ``within_s`` seconds.
    """
    deadline = time.monotonic() + within_s
    while left := find():
        for process in left:
            _kill(process)
        while any(_same(process) for process in left) and time.monotonic() < deadline:
            time.sleep(0.005)
        for process in left:
            _reap(process.pid)
        if time.monotonic() >= deadline:
            pids = ", ".join(str(process.pid) for process in left)
            raise ClusterBootError(
                f"these processes survived SIGKILL for {within_s:g} s: {pids}; see ps -o pid,stat,args"
            )


def _kill(process: Process) -> None:
    """Send SIGKILL to exactly this process, never to another that got its pid since."""
    with suppress(ProcessLookupError):
        try:
            handle = os.pidfd_open(process.pid)
        except OSError:  # ENOSYS in some sandboxes: the check below is then a moment older than the signal
            if _same(process):
                os.kill(process.pid, signal.SIGKILL)
            return
        try:
            if _same(process):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)


def _reap(pid: int) -> None:
    """Let go of a child of ours that has ended: it would stay a zombie until we end too."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _same(process: Process) -> bool:
    now = read(process.pid)
    return now is not None and now.started == process.started


def log_tail(directory: Path, name: str, lines: int = 10) -> str:
    """Give the last lines a daemon wrote, for an error message."""
    try:
        text = (directory / "log" / f"{name}.out").read_text(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
