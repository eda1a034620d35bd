"""Every backend through the same gate."""

from __future__ import annotations

import pytest

from pytest_clusterjobs.clusters.base import RunningCluster
from pytest_clusterjobs.testing.conformance import BackendConformance


class TestLocal(BackendConformance, backend="local"): ...


@pytest.mark.cluster_lane("slurm")
class TestSlurm(BackendConformance, backend="slurm"):
    @pytest.fixture
    def cluster_environment(self, slurm: RunningCluster) -> None: ...


@pytest.mark.cluster_lane("sge")
class TestSge(BackendConformance, backend="sge"):
    @pytest.fixture
    def cluster_environment(self, sge: RunningCluster) -> None: ...
