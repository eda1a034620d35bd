"""Blocks of TCP ports on loopback, and names that one process holds at a time.

Both rest on sockets of the abstract Unix namespace: binding one is atomic, the kernel gives it back when the process
ends however it ends, and its scope is the network namespace, exactly that of the ports (unix(7)).
"""

from __future__ import annotations

import errno
import socket
import time
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from pytest_clusterjobs.clusters.base import ClusterBootError

#: Ports in a block.
BLOCK = 100
# Below the ports that Linux gives to outgoing connections (ip_local_port_range, from 32768 on).
_FIRST, _LAST = 20000, 31999


def claim(name: str) -> socket.socket | None:
    """Take a name on this machine until the socket is closed; None when somebody holds it.

    Raises:
        ClusterBootError: This system has no abstract Unix sockets: it is not Linux.
    """
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        holder.bind(b"\0" + name.encode())
    except OSError as error:
        holder.close()
        if error.errno != errno.EADDRINUSE:
            raise ClusterBootError(f"throw-away clusters need Linux: {error}") from error
        return None
    return holder


@contextmanager
def turn(name: str, within_s: float) -> Iterator[None]:
    """Hold a name, waiting for whoever holds it now.

    Raises:
        ClusterBootError: It was not free within ``within_s`` seconds.
    """
    deadline = time.monotonic() + within_s
    while (holder := claim(name)) is None:
        if time.monotonic() > deadline:
            raise ClusterBootError(f"another process is still starting or stopping this cluster after {within_s:g} s")
        time.sleep(0.01)
    with holder:
        yield


@contextmanager
def block(count: int, seed: str, taken: Collection[int]) -> Iterator[int]:
    """Give the first of ``count`` free consecutive ports; no other caller gets them while the context lasts.

    Args:
        count: At most ``BLOCK``.
        seed: The search starts at a block derived from it, so a cluster tends to get the same ports again.
        taken: First ports of blocks that are given away although nothing may listen there at the moment.

    Raises:
        ClusterBootError: No block is free.
    """
    firsts = list(range(_FIRST, _LAST - BLOCK + 2, BLOCK))
    offset = zlib.crc32(seed.encode()) % len(firsts)
    for first in firsts[offset:] + firsts[:offset]:
        if first in taken or (holder := claim(f"clusterjobs/ports/{first}")) is None:
            continue
        with holder:
            if not any(listens(port) for port in range(first, first + count)):
                yield first
                return
    raise ClusterBootError(f"no {count} free consecutive ports between {_FIRST} and {_LAST} on this machine")


def listens(port: int) -> bool:
    """Tell whether something listens on a port, without connecting: daemons log a connection that says nothing."""
    with socket.socket() as probe:
        # With SO_REUSEADDR, as the daemons have it, only a listener is in the way, not what closed lately (socket(7)).
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104 - never listens: only asks whether anybody does, on any address
        except OSError:
            return True
    return False
