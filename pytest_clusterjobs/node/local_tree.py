"""The processes below this one: found, measured, and signalled without ever reaching somebody else's.

A child that we have not reaped keeps its id, so a signal to it cannot go astray. A deeper descendant is held by a pidfd
while its parent is looked up. Where there are no pidfds (Linux before 5.3) only children are signalled: as they end,
theirs become ours, for every caller is a subreaper, and the next call reaches those.
"""

import os
import signal
from collections.abc import Collection, Iterable

_MAX_TREE = 100_000


def children_of(pid: int) -> list[int]:
    """Give the children of a process that can be seen now. One that is forked meanwhile may be missed: ask again."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found.extend(map(int, file.read().split()))
    except OSError:  # it ended while we looked, or the kernel has no such file
        if not os.path.exists("/proc/thread-self/children"):
            return [int(name) for name in os.listdir("/proc") if name.isdigit() and _parent_of(int(name)) == pid]
    return found


def descendants(spared: Collection[int] = ()) -> dict[int, int]:
    """Give every process below this one with its parent, parents first, without the children in ``spared``."""
    tree: dict[int, int] = {}
    todo = [os.getpid()]
    for parent in todo:
        for child in children_of(parent):
            if child not in tree and child not in spared and len(tree) < _MAX_TREE:
                tree[child] = parent
                todo.append(child)
    return tree


def signal_tree(*signals: int, spared: Collection[int] = ()) -> int:
    """Send signals to every process below this one, and give the number of processes.

    What cannot be signalled is counted too: the caller sees that something is left.
    """
    tree, own = descendants(spared), os.getpid()
    for pid, parent in tree.items():
        for signum in signals:
            if parent == own:
                _signal_child(pid, signum)
            else:
                _signal_deeper(pid, tree, signum)
    return len(tree)


def has_children() -> bool:
    """Tell whether any child is left, running or not reaped. None left in a subreaper: nothing is left below it."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def sum_memory(pids: Iterable[int], limit_bytes: int) -> int:
    """Give the memory of processes in bytes.

    The sum of what is resident; where that is above the limit, the sum of each one's share of it, which counts a page
    that several of them share once, and costs more to find.
    """
    pids = list(pids)
    resident = sum(_number(f"/proc/{pid}/statm", b"", 1) for pid in pids) * os.sysconf("SC_PAGE_SIZE")
    if resident <= limit_bytes:
        return resident
    return sum(_number(f"/proc/{pid}/smaps_rollup", b"Pss:", 1) for pid in pids) * 1024 or resident


def _signal_child(pid: int, signum: int) -> None:
    if pid > 1:
        try:
            os.kill(pid, signum)
        except OSError:  # it runs as somebody else
            pass


def _signal_deeper(pid: int, tree: Collection[int], signum: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if _parent_of(pid) in (os.getpid(), *tree):
            signal.pidfd_send_signal(descriptor, signum)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _parent_of(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _number(path: str, start: bytes, field: int) -> int:
    try:
        with open(path, "rb") as file:
            for line in file:
                if line.startswith(start):
                    return int(line.split()[field])
    except (OSError, ValueError, IndexError):  # it ended while we looked
        pass
    return 0
