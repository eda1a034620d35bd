"""The machine that the tests of the SSH transport reach, the way there, and words to find processes by."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress

import pytest

from pytest_clusterjobs.clusters.base import RunningCluster
from pytest_clusterjobs.transports.ssh import SSHTransport
from tests.conftest import booted
from tests.transports.far import reached
from tests.watching import with_word


@pytest.fixture
def token() -> Iterator[str]:
    """Give a word for command lines; what still bears it in the end is ended."""
    made = f"cj-token-{secrets.token_hex(8)}"
    yield made
    for pid in with_word(made):
        with suppress(OSError):
            os.kill(pid, 9)


@pytest.fixture(scope="session")
def far_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """Give an sshd whose sessions read none of the developer's start-up files."""
    with booted("sshd", label="transports", conf_lines=[f"SetEnv HOME={tmp_path_factory.mktemp('home')}"]) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def far(far_cluster: RunningCluster) -> Iterator[SSHTransport]:
    """Give the way to it."""
    with reached(far_cluster) as way:
        yield way
