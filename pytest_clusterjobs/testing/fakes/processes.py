"""Processes, as ``/proc`` shows them; and what a process lets go of that outlives its caller."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import suppress


def start_time(pid: int) -> str:
    """Give a process's start time in the kernel's ticks, "" when there is none."""
    facts = _stat(pid)
    return facts[19] if facts and facts[0] != "Z" else ""


def descendants(pid: int, apart_from: Collection[int | None]) -> list[int]:
    """Give all that descend from a process, without some and what descends from those."""
    children: dict[int, list[int]] = {}
    for each in filter(str.isdigit, os.listdir("/proc")):
        facts = _stat(int(each))
        if facts and facts[0] != "Z":
            children.setdefault(int(facts[1]), []).append(int(each))
    found, todo = [], [pid]
    while todo:
        for child in children.get(todo.pop(), ()):
            if child not in apart_from:
                found.append(child)
                todo.append(child)
    return found


def signal_all(number: int, pids: Iterable[int]) -> None:
    """Send a signal to processes; one that is gone is no error."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def let_go_of_all_but(descriptor: int) -> int:
    """Close everything but one descriptor, which becomes number 3."""
    os.dup2(descriptor, 3)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)
    os.closerange(4, 256)
    return 3


def wipe_environment() -> None:
    """Leave nothing of our caller's environment in ``/proc/PID/environ``, by which jobs end what they left behind."""
    import ctypes  # a client needs none of it

    facts = _stat(os.getpid())
    start, end = int(facts[47]), int(facts[48])  # env_start and env_end (proc(5))
    if 0 < start < end:
        ctypes.memset(start, 0, end - start)


def _stat(pid: int) -> list[str]:
    """Give ``/proc/PID/stat`` from the third field on (proc(5)): state, parent, ...; empty when it is gone."""
    with suppress(OSError), open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()
    return []
