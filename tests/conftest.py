"""Lanes: real throw-away schedulers, booted once a session and taken down after."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pytest_clusterjobs.clusters import base
from pytest_clusterjobs.clusters.base import ClusterBootError, RunningCluster

if TYPE_CHECKING:
    from tests.kubernetes_lane import build, cluster
else:
    from kubernetes_lane import build, cluster

pytest_plugins = ["pytester"]

# Projects that tests run in a pytest of their own.
collect_ignore = ["clusters/varied"]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let ``-m cluster_lane -k lane_sge`` choose one lane."""
    item.extra_keyword_matches |= {f"lane_{name}" for mark in item.iter_markers("cluster_lane") for name in mark.args}


@contextmanager
def booted(kind: str, label: str = "lane", **options: Any) -> Iterator[RunningCluster]:
    """Give a lane its cluster; one that cannot start skips the lane, or fails it where the lane is required."""
    name = f"{label}-{os.getpid()}"
    try:
        cluster = base.up(kind, name=name, **options)
    except ClusterBootError as error:
        if kind in os.environ.get("CLUSTERJOBS_REQUIRE_LANES", "").split(","):
            raise
        pytest.skip(f"the {kind} lane cannot start: {error}")
    try:
        yield cluster
    finally:
        base.down(kind, name)


def pointed_to(cluster: RunningCluster, monkeypatch: pytest.MonkeyPatch) -> RunningCluster:
    """Have this process's environment point to a cluster, and give it."""
    for variable, value in cluster.environment.items():
        monkeypatch.setenv(variable, value)
    return cluster


@pytest.fixture(scope="session", autouse=True)
def _state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have the pytests that tests run remember their runs here, not in the user's history."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[RunningCluster]:
    """Give a real Slurm of four nodes whose controller turns every 50 ms instead of every second."""
    partitions = ["main", "short:1", "urgent:INFINITE:100", "scavenge:INFINITE:1"]
    with booted("slurm", nodes=4, cpus=4, tick_ms=50, partitions=partitions) as cluster:
        yield cluster


@pytest.fixture
def slurm(slurm_cluster: RunningCluster, monkeypatch: pytest.MonkeyPatch) -> RunningCluster:
    """Give the lane's Slurm, with this process's environment pointing to it."""
    return pointed_to(slurm_cluster, monkeypatch)


@pytest.fixture(scope="session")
def sge_cluster() -> Iterator[RunningCluster]:
    """Give a real Grid Engine of 16 slots."""
    with booted("sge", slots=16, queues=["short.q:00:10:00"]) as cluster:
        yield cluster


@pytest.fixture
def sge(sge_cluster: RunningCluster, monkeypatch: pytest.MonkeyPatch) -> RunningCluster:
    """Give the lane's Grid Engine, with this process's environment pointing to it."""
    return pointed_to(sge_cluster, monkeypatch)


@pytest.fixture(scope="session")
def sshd_cluster() -> Iterator[RunningCluster]:
    """Give a real sshd on this machine."""
    with booted("sshd") as cluster:
        yield cluster


@pytest.fixture
def sshd(sshd_cluster: RunningCluster, monkeypatch: pytest.MonkeyPatch) -> RunningCluster:
    """Give the lane's sshd, with this process's environment pointing to it."""
    return pointed_to(sshd_cluster, monkeypatch)


@pytest.fixture(scope="session")
def slurm_site(slurm_cluster: RunningCluster) -> Iterator[RunningCluster]:
    """Give a real sshd on whose machine the lane's Slurm is spoken to."""
    variables = " ".join(f"{name}={value}" for name, value in slurm_cluster.environment.items())
    with booted("sshd", label="site", conf_lines=[f"SetEnv {variables}"]) as cluster:
        yield cluster


@pytest.fixture
def slurm_over_ssh(slurm_site: RunningCluster, monkeypatch: pytest.MonkeyPatch) -> RunningCluster:
    """Give the machine of `slurm_site`, with this process's environment pointing to it, and to no Slurm here."""
    monkeypatch.delenv("SLURM_CONF", raising=False)
    return pointed_to(slurm_site, monkeypatch)


@pytest.fixture(scope="session")
def kubernetes_cluster() -> Iterator[cluster.Cluster]:
    """Give a real Kubernetes 1.20 of one node, root only; the first time on a machine it is built, for minutes."""
    try:
        with cluster.booted() as running:
            yield running
    except (cluster.LaneError, build.BuildError) as error:
        if "kubernetes" in os.environ.get("CLUSTERJOBS_REQUIRE_LANES", "").split(","):
            raise
        pytest.skip(f"the kubernetes lane cannot start: {error}")


@pytest.fixture
def kubernetes(kubernetes_cluster: cluster.Cluster, monkeypatch: pytest.MonkeyPatch) -> cluster.Cluster:
    """Give the lane's Kubernetes, with this process's environment pointing to it."""
    for variable, value in kubernetes_cluster.environment.items():
        monkeypatch.setenv(variable, value)
    return kubernetes_cluster
