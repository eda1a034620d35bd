"""What tests do to see something happen: wait for it with a deadline, and look at processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def wait_for(condition: Callable[[], Any], what: str = "", within_s: float = 30) -> Any:
    """Give the first true value of a condition; fail after ``within_s`` seconds, naming what did not happen."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what or condition}"
        time.sleep(0.01)
    return value


def read(path: str) -> str:
    """Give a file of /proc; "" when the process is gone."""
    try:
        return Path(path).read_bytes().decode(errors="replace")
    except OSError:
        return ""


def with_word(word: str, files: tuple[str, ...] = ("cmdline",)) -> list[int]:
    """Give the processes, but for this one, that have a word in their command line, or in another file of theirs."""
    pids = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if pid != os.getpid()]
    return [pid for pid in pids if any(word in read(f"/proc/{pid}/{name}") for name in files)]


def is_alive(pid: int) -> bool:
    """Tell whether a process is there, and is not one that has ended and that nobody has waited for."""
    return read(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1] not in ([], ["Z"])


def children(pid: int) -> list[int]:
    return list(map(int, read(f"/proc/{pid}/task/{pid}/children").split()))


@contextmanager
def frozen(pids: Iterable[int]) -> Iterator[None]:
    """Stop processes for a while; those that are ended meanwhile stay so."""
    stopped = list(pids)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
