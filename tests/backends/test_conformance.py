"""Every backend through the same gate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from pytest_clusterjobs.clusters.base import RunningCluster
from pytest_clusterjobs.testing.conformance import BackendConformance
from pytest_clusterjobs.testing.fakes import fake_pbs


class TestLocal(BackendConformance, backend="local"): ...


@pytest.mark.cluster_lane("slurm")
class TestSlurm(BackendConformance, backend="slurm"):
    @pytest.fixture
    def cluster_environment(self, slurm: RunningCluster) -> None: ...


@pytest.mark.cluster_lane("sge")
class TestSge(BackendConformance, backend="sge"):
    @pytest.fixture
    def cluster_environment(self, sge: RunningCluster) -> None: ...


class _OnFakePbs(BackendConformance):
    """Not the real one: see tests/clusters/test_pbs_fake.py for what the fake is held to."""

    version: ClassVar[str]
    history: ClassVar[bool] = True

    @pytest.fixture
    def cluster_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with fake_pbs(tmp_path / "pbs", version=self.version, history=self.history) as cluster:
            monkeypatch.setenv("PATH", cluster.environment["PATH"])
            yield


class TestPbs(_OnFakePbs, backend="pbs"):
    version = "23.06.06"


@pytest.mark.slow
class TestPbsNewestWithoutHistory(_OnFakePbs, backend="pbs"):
    version = "newest"
    history = False
