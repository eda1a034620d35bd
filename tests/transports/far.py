"""What the tests of the SSH transport share: real throw-away sshds, and a look at processes."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.clusters import base, places
from pytest_clusterjobs.clusters.base import RunningCluster
from pytest_clusterjobs.transports.ssh import SSHTransport

_numbers = itertools.count()


@contextmanager
def far_machine(*conf_lines: str) -> Iterator[RunningCluster]:
    """Give an sshd of one's own; it goes again, whatever the test does to HOME meanwhile, as pytester does."""
    name = f"own-{os.getpid()}-{next(_numbers)}"
    home = str(places.base_directory())
    try:
        yield base.up("sshd", name=name, conf_lines=conf_lines)
    finally:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CLUSTERJOBS_CLUSTERS_DIR", home)
            base.down("sshd", name)


@contextmanager
def reached(cluster: RunningCluster, host: str = "clusterjobs", **options: Any) -> Iterator[SSHTransport]:
    """Give the way to a throw-away sshd."""
    way = SSHTransport(host, config=cluster.environment["CLUSTERJOBS_SSH_CONFIG"], **options)
    try:
        yield way
    finally:
        way.close()


def wait_for(condition: Callable[[], Any], within_s: float = 15) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def with_word(word: str, files: tuple[str, ...] = ("cmdline",)) -> list[int]:
    """Processes, but for this one, that have a word in their command line, or in another file of theirs."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in files:
            with suppress(OSError):
                if word.encode() in Path(f"/proc/{pid}/{name}").read_bytes() and int(pid) != os.getpid():
                    found.append(int(pid))
    return found
