"""Every backend through the same gate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_clusterjobs.clusters.base import RunningCluster
from pytest_clusterjobs.config.place import Place
from pytest_clusterjobs.testing.conformance import BackendConformance
from pytest_clusterjobs.testing.fakes import fake_lsf, fake_pbs


class TestLocal(BackendConformance, backend="local"): ...


@pytest.mark.cluster_lane("slurm")
class TestSlurm(BackendConformance, backend="slurm"):
    @pytest.fixture
    def cluster_environment(self, slurm: RunningCluster) -> None: ...


@pytest.mark.cluster_lane("sshd")
class TestSlurmOverSsh(BackendConformance, backend="site"):
    @pytest.fixture
    def cluster_environment(self, slurm_over_ssh: RunningCluster) -> None: ...

    @pytest.fixture
    def places(self, tmp_path: Path) -> Callable[[str], Place]:
        place = Place("site", "slurm", host=("clusterjobs",), workdir=str(tmp_path / "there"), python=sys.executable)
        return {"site": place}.__getitem__


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


class _OnFakeLsf(BackendConformance):
    version: ClassVar[str]

    @pytest.fixture
    def cluster_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with fake_lsf(tmp_path / "lsf", version=self.version) as place:
            for name, value in place.environment.items():
                monkeypatch.setenv(name, value)
            yield


class TestLsf(_OnFakeLsf, backend="lsf"):
    version = "volclava-2.2"


@pytest.mark.slow
class TestLsfOfIbm(_OnFakeLsf, backend="lsf"):
    version = "10.1"


@pytest.mark.slow
class TestLsfWithoutJson(_OnFakeLsf, backend="lsf"):
    version = "openlava-3.0"
