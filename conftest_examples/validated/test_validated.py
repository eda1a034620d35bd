"""Jobs that are held to their contract: what was asked for, what the scheduler gave, what the job itself found.

pytest -m real_world                    here
pytest -m real_world --cluster=slurm    on Slurm: its variables and its allocations are compared too
"""

import statistics
from pathlib import Path

import pytest

from pytest_clusterjobs import ClusterJobValidator, JobState, cluster

pytestmark = pytest.mark.real_world


@cluster(cores=1, memory="300MB", time="00:05:00")
def describe(numbers: list[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(numbers), "stdev": statistics.stdev(numbers)}


@cluster(cores=1, memory="300MB", time="00:05:00")
def write_squares(path: str, count: int) -> None:
    Path(path).write_text("".join(f"{number * number}\n" for number in range(count)))


# pytest.ini has clusterjobs_validate: nothing more is needed for a mismatch to fail the test.
def test_plain_tests_are_validated_too() -> None:
    assert describe([1.0, 2.0, 3.0])["mean"] == 2.0


def test_everything_about_one_job(cluster_job_validator: ClusterJobValidator) -> None:
    job = describe.submit([1.0, 2.0, 4.0])
    result = cluster_job_validator.validate(job, {"mean": 2.33333, "stdev": 1.52753}, approx=1e-4)
    assert result
    cores = result.check("cores")
    assert cores.requested == 1
    assert cores.allocated in (1, None)


def test_what_a_job_left_in_files(cluster_job_validator: ClusterJobValidator, cluster_workdir: Path) -> None:
    path = cluster_workdir / "squares.txt"
    job = write_squares.submit(str(path), 4)
    assert cluster_job_validator.validate_output(job, None, files={str(path): "0\n1\n4\n9\n"})


def test_states_come_in_order(cluster_job_validator: ClusterJobValidator) -> None:
    job = describe.submit([1.0, 2.0])
    result = cluster_job_validator.monitor(job, timeout_s=300)
    assert result
    assert result.history[-1].state is JobState.COMPLETED


def test_a_failure_has_a_category(cluster_job_validator: ClusterJobValidator) -> None:
    job = describe.submit([])
    job.wait(300)
    failure = cluster_job_validator.classify_error(job)
    assert failure is not None
    assert (failure.category, failure.exception_type) == ("exception", "StatisticsError")
    assert not failure.is_infrastructure


# A site that gives whole nodes: here more is no failure, and this test checks for itself.
@pytest.mark.cluster(validate=False)
def test_more_than_asked_for_can_be_allowed(cluster_job_validator: ClusterJobValidator) -> None:
    assert cluster_job_validator.validate(describe.submit([1.0, 3.0]), may_exceed=True)
