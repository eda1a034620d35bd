"""What the tests of the SSH transport share: real throw-away sshds, and the way to them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from pytest_clusterjobs.clusters import base, places
from pytest_clusterjobs.clusters.base import RunningCluster
from pytest_clusterjobs.transports.ssh import SSHTransport
from tests import watching

wait_for = partial(watching.wait_for, within_s=15)

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
