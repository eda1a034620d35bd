"""Tests that fail when a job is slower, or a figure worse, than it should be.

pytest -m real_world                                                        against baseline.json and the markers
pytest -m real_world --cluster=slurm --cluster-baseline-update              measure anew, for Slurm
pytest -m real_world --cluster-report=run.html                              the figures in a report
"""

import time

import pytest

from pytest_clusterjobs import cluster

pytestmark = pytest.mark.real_world


@cluster(cores=1, memory="300MB", time="00:05:00")
def copy_rate(size: int) -> float:
    start = time.perf_counter()
    bytes(bytearray(size))
    return size / (time.perf_counter() - start) / 1e9


# The job's own run time; its reference is in baseline.json, which --cluster-baseline-update writes.
@pytest.mark.cluster_performance
@cluster(cores=1, memory="200MB", time="00:05:00")
def test_the_sum_is_quick() -> None:
    assert sum(range(1_000_000)) == 499_999_500_000


# A figure of our own. At least 1 % of the reference: a real suite would say -0.1.
@pytest.mark.cluster_performance(
    {"local": (2.0, -0.99, None, "GB/s"), "slurm": (2.0, -0.99, None, "GB/s")}, metric="copy_rate"
)
def test_copies_are_fast(cluster_performance) -> None:
    cluster_performance.record("copy_rate", copy_rate(50_000_000), "GB/s")


# Memory as a whole, so that a leak is seen before the limit ends the job.
@pytest.mark.cluster_performance({"local": (100e6, None, 1.0, "B")}, metric="max_rss_bytes")
def test_a_copy_needs_no_more_than_it_must() -> None:
    assert copy_rate(10_000_000) > 0
