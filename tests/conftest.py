"""Lanes: real throw-away schedulers, booted once a session and taken down after."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pytest_clusterjobs.clusters import base
from pytest_clusterjobs.clusters.base import ClusterBootError, RunningCluster

pytest_plugins = ["pytester"]

# Projects that tests run in a pytest of their own.
collect_ignore = ["clusters/varied"]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let ``-m cluster_lane -k lane_sge`` choose one lane."""
    item.extra_keyword_matches |= {f"lane_{name}" for mark in item.iter_markers("cluster_lane") for name in mark.args}


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[RunningCluster]:
    """Give a real Slurm of four nodes whose controller turns every 50 ms instead of every second."""
    name = f"lane-{os.getpid()}"
    try:
        cluster = base.up(
            "slurm",
            name=name,
            nodes=4,
            cpus=4,
            tick_ms=50,
            partitions=["main", "short:1", "urgent:INFINITE:100", "scavenge:INFINITE:1"],
        )
    except ClusterBootError as error:
        if "slurm" in os.environ.get("CLUSTERJOBS_REQUIRE_LANES", "").split(","):
            raise
        pytest.skip(f"the slurm lane cannot start: {error}")
    try:
        yield cluster
    finally:
        base.down("slurm", name)


@pytest.fixture
def slurm(slurm_cluster: RunningCluster, monkeypatch: pytest.MonkeyPatch) -> RunningCluster:
    """Give the lane's Slurm, with this process's environment pointing to it."""
    for variable, value in slurm_cluster.environment.items():
        monkeypatch.setenv(variable, value)
    return slurm_cluster


@pytest.fixture(scope="session")
def sge_cluster() -> Iterator[RunningCluster]:
    """Give a real Grid Engine of 16 slots."""
    name = f"lane-{os.getpid()}"
    try:
        cluster = base.up("sge", name=name, slots=16, queues=["short.q:00:10:00"])
    except ClusterBootError as error:
        if "sge" in os.environ.get("CLUSTERJOBS_REQUIRE_LANES", "").split(","):
            raise
        pytest.skip(f"the sge lane cannot start: {error}")
    try:
        yield cluster
    finally:
        base.down("sge", name)


@pytest.fixture
def sge(sge_cluster: RunningCluster, monkeypatch: pytest.MonkeyPatch) -> RunningCluster:
    """Give the lane's Grid Engine, with this process's environment pointing to it."""
    for variable, value in sge_cluster.environment.items():
        monkeypatch.setenv(variable, value)
    return sge_cluster
