"""A job's memory limit: by a control group where we may make one, else by watching what its processes use."""

import os
from collections.abc import Iterator
from typing import Optional, Union

from . import local_tree as tree

_PREFIX = "clusterjobs-"
#: By the controller's version: the files that limit a group, "" for the limit itself, and whether each must be there.
_SETTINGS = {
    1: (("memory.limit_in_bytes", "", True), ("memory.memsw.limit_in_bytes", "", False)),
    2: (("memory.max", "", True), ("memory.swap.max", "0", False), ("memory.oom.group", "1", False)),
}
_PEAK = {1: "memory.max_usage_in_bytes", 2: "memory.peak"}
_EVENTS = {1: "memory.oom_control", 2: "memory.events"}


class WatchLimit:
    """A limit held by looking at the processes every so often: a short peak is missed."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes

    def enter(self) -> None:
        """Put the calling process under the limit."""

    def exceeded(self) -> str:
        """Say by how much the processes below this one exceed the limit; "" when they do not."""
        used = tree.sum_memory(tree.descendants(), self._limit_bytes)
        return _words(used, self._limit_bytes) if used > self._limit_bytes else ""

    def close(self) -> None:
        """Release what the limit holds."""


class GroupLimit:
    """A limit held by the kernel: a process above it is killed at once."""

    def __init__(self, folder: str, version: int, limit_bytes: int) -> None:
        self._folder, self._version, self._limit_bytes = folder, version, limit_bytes

    def make(self) -> None:
        """Make the group.

        Raises:
            OSError: It cannot be made here.
        """
        os.mkdir(self._folder)
        try:
            for name, value, is_needed in _SETTINGS[self._version]:
                self._set(name, value or str(self._limit_bytes), is_needed)
        except OSError:
            self.close()
            raise

    def enter(self) -> None:
        """Put the calling process under the limit."""
        self._set("cgroup.procs", "0", is_needed=True)

    def exceeded(self) -> str:
        """Say that the kernel has killed a process of the group; "" when it has not."""
        for line in _read(os.path.join(self._folder, _EVENTS[self._version])).splitlines():
            word, _, number = line.partition(" ")
            if word == "oom_kill" and int(number):
                peak = _read(os.path.join(self._folder, _PEAK[self._version])).strip()
                return _words(int(peak or self._limit_bytes), self._limit_bytes)
        return ""

    def close(self) -> None:
        """Remove the group. Its processes have ended."""
        try:
            os.rmdir(self._folder)
        except OSError:  # a process that could not be killed is in it
            pass

    def _set(self, name: str, text: str, is_needed: bool) -> None:
        try:
            with open(os.path.join(self._folder, name), "r+", encoding="ascii") as file:
                file.write(text)
        except OSError:
            if is_needed:
                raise


def open_limit(limit_bytes: int, group: Optional[tuple[str, int]]) -> Union[WatchLimit, GroupLimit]:
    """Give the limit that the group holds, or, without one, one held by looking."""
    return WatchLimit(limit_bytes) if group is None else GroupLimit(*group, limit_bytes)


class Limiter:
    """Makes control groups where this machine and user allow it. Finds out where when the first one is asked for."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self._place: Optional[tuple[str, int]] = None
        self._is_known = mode == "watch"
        self._count = 0

    def make_group(self, limit_bytes: int) -> Optional[tuple[str, int]]:
        """Make a control group for one job and give its folder and version; None where none can be made.

        Raises:
            OSError: Only a control group will do, and none can be made.
        """
        if not self._is_known:
            self._place, self._is_known = self._find_place(), True
        self._count += 1
        if self._place is not None:
            group = self._path(self._place[0], self._count), self._place[1]
            try:
                GroupLimit(*group, limit_bytes).make()
            except OSError:
                if self._mode == "cgroup":
                    raise
            else:
                return group
        if self._mode == "cgroup":
            raise OSError("no control group with a memory limit can be made here")
        return None

    def _path(self, folder: str, number: int) -> str:
        return os.path.join(folder, f"{_PREFIX}{os.getpid()}-{_started(os.getpid())}-{number}")

    def _find_place(self) -> Optional[tuple[str, int]]:
        for folder, version in _places():
            _remove_leftovers(folder)
            if self._is_usable(folder, version):
                return folder, version
        return None

    def _is_usable(self, folder: str, version: int) -> bool:
        """Try it: make a group, and have a process enter it."""
        limit = GroupLimit(self._path(folder, 0), version, 1 << 40)
        try:
            limit.make()
        except OSError:
            return False
        pid = os.fork()
        if pid == 0:
            try:
                limit.enter()
                os._exit(0)
            except OSError:
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        limit.close()
        return status == 0


def _places() -> Iterator[tuple[str, int]]:
    """Give the folders where a group for a job might be made: our own group, then those above it."""
    mounts = {}
    for line in _read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "memory" in options.split(",")):
            mounts[2 if kind == "cgroup2" else 1] = (left.split()[4], left.split()[3])
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        version = 1 if "memory" in controllers.split(",") else 2 if not controllers else 0
        if version in mounts:
            mount, root = mounts[version]
            inside = os.path.relpath(path, root)
            folder = mount if inside == "." or inside.startswith("..") else os.path.join(mount, inside)
            while folder.startswith(mount):
                if version == 1 or "memory" in _read(os.path.join(folder, "cgroup.subtree_control")).split():
                    yield folder, version
                folder = os.path.dirname(folder)


def _remove_leftovers(folder: str) -> None:
    """Remove the empty groups of servers that were killed. One with processes in it resists, and is left."""
    try:
        names = [name for name in os.listdir(folder) if name.startswith(_PREFIX)]
    except OSError:
        return
    for name in names:
        _, pid, started, _ = (name + "---").split("-", 3)
        if not pid.isdigit() or _started(int(pid)) != started:
            try:
                os.rmdir(os.path.join(folder, name))
            except OSError:
                pass


def _started(pid: int) -> str:
    """Give the start time of a process in the kernel's ticks: with its id it is unique until the next boot."""
    return (_read(f"/proc/{pid}/stat").rpartition(")")[2].split() + [""] * 20)[19]


def _words(used: int, limit: int) -> str:
    return f"used {used / 2**20:.0f} MiB of the {limit / 2**20:.0f} MiB asked for (memory)"


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
