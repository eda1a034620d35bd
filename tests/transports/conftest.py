"""The machine that the tests of the SSH transport reach, and the way there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_clusterjobs.clusters.base import RunningCluster
from pytest_clusterjobs.transports.ssh import SSHTransport
from tests.conftest import booted
from tests.transports.far import reached


@pytest.fixture(scope="session")
def far_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """Give an sshd whose sessions read none of the developer's start-up files."""
    with booted("sshd", conf_lines=[f"SetEnv HOME={tmp_path_factory.mktemp('home')}"]) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def far(far_cluster: RunningCluster) -> Iterator[SSHTransport]:
    """Give the way to it."""
    with reached(far_cluster) as way:
        yield way
