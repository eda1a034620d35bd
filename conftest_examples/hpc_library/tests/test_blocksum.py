"""Three kinds of tests in one file: without a cluster, on any cluster, and on a certain one.

pytest                                           the first kind alone; the others are skipped, and say how to get them
pytest -m real_world                             also those for any cluster, on this machine
pytest --cluster=slurm                           on Slurm, also those that are pinned to it
pytest --cluster=local,slurm                     on both; each test's id says where
pytest --cluster=slurm --run-expensive           and those that cost much
"""

import pytest
from blocksum import block_sum, cores_given

from pytest_clusterjobs import cluster


def test_blocks_need_no_cluster():
    assert block_sum(list(range(100)), blocks=3) == 4950


# The body is the job, and so the cores are the job's.
@cluster(cores=2, memory="500MB", time="00:05:00")
def test_it_uses_the_cores_that_it_was_given():
    assert block_sum(list(range(1000)), blocks=cores_given()) == 499500


# Resources may stand on a marker: for every job that the tests of a class, or of a module, submit.
@pytest.mark.cluster(cores=1, time="00:02:00")
class TestOnAnyCluster:
    def test_many_sizes_at_once(self, cluster_jobs):
        sizes = [10, 100, 1000]
        sums = cluster_jobs.map(lambda size: block_sum(list(range(size)), blocks=2), sizes)
        assert sums == [45, 4950, 499500]

    @pytest.mark.no_cluster("local")
    def test_the_nodes_share_our_files(self, cluster_jobs, cluster_workdir):
        (cluster_workdir / "input.txt").write_text("seen")
        assert cluster_jobs.run(["cat", str(cluster_workdir / "input.txt")]).stdout == "seen"


# Pinned: it means nothing elsewhere. Skipped where Slurm does not answer, with the reason.
@pytest.mark.cluster("slurm", cores=1)
def test_slurm_tells_the_job_its_id(cluster_jobs):
    job = cluster_jobs.submit("echo $SLURM_JOB_ID")
    assert job.result().stdout.strip() == job.native_id


# Costs much: left out unless it is asked for by --run-expensive or by -m expensive.
@pytest.mark.expensive
@cluster(nodes=2, time="00:10:00")
def test_on_two_nodes():
    assert block_sum(list(range(10_000)), blocks=4) == 49995000
