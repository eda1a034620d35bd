"""``--cluster-up``: a real Slurm for one run, and nothing of it afterwards."""

from __future__ import annotations

import os

import pytest

from pytest_clusterjobs.clusters import base

pytestmark = pytest.mark.cluster_lane("slurm")


@pytest.fixture(autouse=True)
def _is_possible() -> None:
    try:
        base.up("slurm", name=f"probe-{os.getpid()}", nodes=1)
    except base.ClusterBootError as error:
        if "slurm" in os.environ.get("CLUSTERJOBS_REQUIRE_LANES", "").split(","):
            raise
        pytest.skip(f"the slurm lane cannot start: {error}")
    finally:
        base.down("slurm", f"probe-{os.getpid()}")


@pytest.mark.parametrize("args", [(), ("-n2",)])
def test_the_named_cluster_is_up_during_the_run_alone(project: pytest.Pytester, args: tuple[str, ...]) -> None:
    project.makepyfile(
        """
        import os
        from pytest_clusterjobs import cluster

        @cluster
        def test_remote():
            assert os.environ["SLURM_JOB_ID"]

        @cluster(partition="nowhere")
        def test_partition(): pass
        """
    )
    before = set(base.names("slurm"))
    result = project.runpytest_subprocess("--cluster=slurm", "--cluster-up", *args)
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["slurm: 1 ran, 1 skipped; 1 job*", "*slurm has no partition 'nowhere'; there are: *"])
    assert set(base.names("slurm")) == before
    assert not (project.path / ".clusterjobs").exists()


def test_looking_boots_nothing(project: pytest.Pytester) -> None:
    project.makepyfile("def test_x(): pass")
    before = set(base.names("slurm"))
    result = project.runpytest_subprocess("--cluster=slurm", "--cluster-up", "--collect-only")
    assert result.ret == 0
    assert set(base.names("slurm")) == before
