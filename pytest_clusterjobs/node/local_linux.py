"""What Linux offers beyond the standard library, for the local job server."""

import ctypes
import os
from collections.abc import Collection
from typing import Callable

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36

IN_MODIFY = 0x2
IN_DELETE = 0x200

_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl
_prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


class Forked(BaseException):
    """Raised in a new child, so that it leaves the parent's stack before it becomes what it was forked for."""

    def __init__(self, role: Callable[[], int]) -> None:
        super().__init__()
        self.role = role


def prctl(option: int, argument: int) -> None:
    """Call prctl(2) with one number.

    Raises:
        OSError: The kernel refused.
    """
    if _prctl(option, argument, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def set_name(name: str) -> None:
    """Set the name of this process as ``ps`` shows it; at most 15 characters."""
    text = ctypes.create_string_buffer(name.encode())
    _prctl(PR_SET_NAME, ctypes.addressof(text), 0, 0, 0)


def close_all_but(kept: Collection[int]) -> None:
    """Close every descriptor above the standard streams that is not in ``kept``."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:  # the listing's own
                pass


def libc_exit(code: int) -> None:
    """End the process through exit(3): C's buffers are written and C++'s destructors run, the interpreter's do not."""
    ctypes.PyDLL(None).exit(ctypes.c_int(code))  # PyDLL keeps the GIL, so that no daemon thread runs meanwhile


def watch_folder(path: str, mask: int) -> int:
    """Give a descriptor that is readable when a folder changes, or -1 where the user has no inotify left."""
    descriptor = int(_libc.inotify_init1(ctypes.c_int(os.O_NONBLOCK | os.O_CLOEXEC)))
    if descriptor < 0:
        return -1
    if _libc.inotify_add_watch(ctypes.c_int(descriptor), ctypes.c_char_p(os.fsencode(path)), ctypes.c_uint32(mask)) < 0:
        os.close(descriptor)
        return -1
    return descriptor
