"""The cores of this machine, shared by all local job servers of one user: locked files, one for each core.

The kernel releases a lock when the last process that holds its descriptor is gone: a killed server cannot keep a core,
and a core is not free while the tree of its job is still dying. Servers take turns: who must wait puts a ticket, a
locked file named by the time, and nobody goes before an older ticket whose owner lives. A job of many cores therefore
gets them all or none, and does not starve behind small ones.
"""

import fcntl
import os
import stat
import time
from typing import Optional

from . import local_linux as linux

#: A ticket whose owner has not looked after it for so many seconds (it is stopped) lets others go first.
STALE_S = 5.0

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def secure_folder(path: str) -> None:
    """Make a folder that is ours alone, or make sure that the one there is.

    Raises:
        PermissionError: It is somebody else's, a link, or open to others.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(
            f"{path} must be a directory of uid {os.geteuid()} with mode 0700; it is {stat.filemode(found.st_mode)} "
            f"of uid {found.st_uid}: remove it"
        )


class Slots:
    """This server's hold on the shared cores."""

    def __init__(self, folder: str, cores: list[int], token: str) -> None:
        secure_folder(folder)
        self._folder = os.path.join(folder, "queue")
        secure_folder(self._folder)
        self._locks = {core: os.open(os.path.join(folder, f"core-{core}"), _FLAGS, 0o600) for core in cores}
        self._bell = os.open(os.path.join(self._folder, "bell"), _FLAGS, 0o600)
        for name in os.listdir(self._folder):
            if name.startswith("new-") and not self._is_alive(name):  # its server was killed while it made a ticket
                _remove(os.path.join(self._folder, name))
        self._token = token
        self._ours: set[int] = set()
        self._ticket = -1
        self._ticket_name = ""
        #: A descriptor that is readable when a server has given something back; -1 until it was needed, or without
        #: inotify. Never closed: to close it can take the kernel 15 ms.
        self.watch = -1

    @property
    def is_waiting(self) -> bool:
        """True while a ticket of ours stands in the queue."""
        return bool(self._ticket_name)

    def claim(self, count: int) -> Optional[list[int]]:
        """Take ``count`` cores and give their numbers, or take none, stand in the queue, and give None."""
        cores = self._lock(count) if self._is_our_turn() else None
        if cores is None:
            self._stand()
        else:
            self.leave_queue()
        return cores

    def give_back(self, cores: list[int]) -> None:
        """Release cores, and wake the servers that wait for some."""
        for core in cores:
            fcntl.flock(self._locks[core], fcntl.LOCK_UN)
        self._ours.difference_update(cores)
        os.pwrite(self._bell, b"!", 0)

    def leave_queue(self) -> None:
        """Take the ticket back, if there is one."""
        if self._ticket_name:
            _remove(os.path.join(self._folder, self._ticket_name))
            os.close(self._ticket)
            self._ticket_name = ""

    @property
    def locks(self) -> list[int]:
        """Descriptors of the cores' locks: a process that holds them keeps the cores."""
        return list(self._locks.values())

    def _lock(self, count: int) -> Optional[list[int]]:
        got: list[int] = []
        left = len(self._locks)
        for core, lock in self._locks.items():
            if len(got) == count or len(got) + left < count:
                break
            left -= 1
            if core not in self._ours and _try_lock(lock):
                got.append(core)
        if len(got) == count:
            self._ours.update(got)
            return got
        for core in got:
            fcntl.flock(self._locks[core], fcntl.LOCK_UN)
        return None

    def _is_our_turn(self) -> bool:
        for name in sorted(os.listdir(self._folder)):
            if name[0].isdigit() and (not self._ticket_name or name < self._ticket_name) and self._is_alive(name):
                return False
        return True

    def _is_alive(self, name: str) -> bool:
        path = os.path.join(self._folder, name)
        try:
            ticket = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        try:
            if _try_lock(ticket):
                _remove(path)
                return False
            return time.time() - os.fstat(ticket).st_mtime < STALE_S
        finally:
            os.close(ticket)

    def _stand(self) -> None:
        if self._ticket_name:
            os.utime(self._ticket)
            return
        if not any(self._put_ticket() for _ in range(100)):  # each failure: another server started just then
            raise TimeoutError(f"cannot put a ticket into {self._folder}: others remove it each time")
        if self.watch < 0:
            self.watch = linux.watch_folder(self._folder, linux.IN_DELETE | linux.IN_MODIFY)

    def _put_ticket(self) -> bool:
        new = os.path.join(self._folder, f"new-{self._token}")
        name = f"{time.monotonic_ns():020d}-{self._token}"  # one clock for the whole machine
        ticket = os.open(new, _FLAGS, 0o600)
        fcntl.flock(ticket, fcntl.LOCK_EX)
        try:
            os.rename(new, os.path.join(self._folder, name))
        except FileNotFoundError:  # a server that started saw it before it was locked, and took it for a dead one's
            os.close(ticket)
            return False
        self._ticket, self._ticket_name = ticket, name
        return True


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:  # another server found it first, or the folder was cleaned
        pass
