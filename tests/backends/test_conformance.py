"""Every backend through the same gate."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest

import pytest_clusterjobs
from pytest_clusterjobs.clusters.base import RunningCluster
from pytest_clusterjobs.config.place import Place
from pytest_clusterjobs.testing.conformance import BackendConformance
from pytest_clusterjobs.testing.fakes import fake_lsf, fake_pbs

if TYPE_CHECKING:
    from tests.kubernetes_lane.cluster import Cluster


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


@pytest.mark.cluster_lane("sshd")
class TestSsh(BackendConformance, backend="ssh"):
    hosts: ClassVar[tuple[str, ...]] = ("clusterjobs",)

    @pytest.fixture
    def cluster_environment(self, sshd: RunningCluster) -> None: ...

    @pytest.fixture
    def places(self, tmp_path: Path) -> Iterator[Callable[[str], Place]]:
        there = tmp_path / "there"
        place = Place("ssh", "ssh", host=self.hosts, workdir=str(there), python=sys.executable)
        yield {"ssh": place}.__getitem__
        assert list(there.glob("*")) == []


class TestSshOnTwoHosts(TestSsh, backend="ssh"):
    hosts: ClassVar[tuple[str, ...]] = ("clusterjobs-1", "clusterjobs-2")


@pytest.mark.cluster_lane("sge")
class TestSge(BackendConformance, backend="sge"):
    @pytest.fixture
    def cluster_environment(self, sge: RunningCluster) -> None: ...


@pytest.mark.cluster_lane("kubernetes")
class TestKubernetes(BackendConformance, backend="kubernetes"):
    @pytest.fixture
    def cluster_environment(self, kubernetes: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have this package in the image, so to speak: the suite's own classes go by name."""
        places = {str(Path(pytest_clusterjobs.__file__).parents[1]), os.path.dirname(os.path.dirname(pytest.__file__))}
        kubernetes.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "site", "namespace": "default"},
                "data": {"PYTHONPATH": os.pathsep.join(places)},
            }
        )
        monkeypatch.setenv("CLUSTERJOBS_KUBERNETES_ENV_FROM_CONFIGMAPS", "site")
        volumes = ",".join(f"hostpath:{place}:{place}:ro" for place in places)
        monkeypatch.setenv("CLUSTERJOBS_KUBERNETES_VOLUMES", volumes)


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
