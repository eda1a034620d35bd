"""Real jobs, on this machine or on a cluster:

pytest -m real_world                    here, with the scheduler that is built in
pytest -m real_world --cluster=slurm    the same tests on Slurm
"""

import os
import time

import primes
import pytest

from pytest_clusterjobs import ExitReason, JobState, cluster

pytestmark = pytest.mark.real_world


# A decorated function: each call is a job.
@cluster(cores=1, memory="200MB", time="00:05:00")
def count_primes(start: int, stop: int) -> int:
    print(f"counting from {start} to {stop} in job {os.environ['CLUSTERJOBS_JOB_ID']}")
    return primes.count_primes(start, stop)


def test_a_call_waits_and_gives_the_value() -> None:
    assert count_primes(0, 100) == 25


def test_map_is_one_job_array_with_results_in_order() -> None:
    assert count_primes.map([0, 100, 200], [100, 200, 300]) == [25, 21, 16]


def test_submit_gives_a_future() -> None:
    job = count_primes.submit(0, 1000)
    assert job.result(timeout_s=120) == 168
    assert job.state is JobState.COMPLETED
    assert "counting from 0 to 1000" in job.logs().stdout
    assert job.metrics.run_time_s is not None


def test_an_exception_comes_back_as_it_was() -> None:
    with pytest.raises(ValueError, match="start 9 lies behind stop 1"):
        count_primes(9, 1)


# A decorated test: its body is the job. Fixtures, parameters, assertions and skips are what they always are.
@cluster(cores=1)
@pytest.mark.parametrize("factor", [1.0, 1.8])
def test_the_body_runs_on_the_node(readings: list[float], factor: float) -> None:
    assert "CLUSTERJOBS_JOB_ID" in os.environ
    mean = sum(value * factor for value in readings) / len(readings)
    assert mean == pytest.approx(21.0 * factor)


@cluster(timeout=1)
def sleep(seconds: float) -> None:
    time.sleep(seconds)


def test_a_limit_ends_the_job_and_the_reason_says_which() -> None:
    job = sleep.submit(60)
    assert isinstance(job.exception(timeout_s=120), TimeoutError)
    assert job.reason is ExitReason.RUN_TIMEOUT


# The fixture cluster_jobs submits plain functions, commands and scripts.
def test_a_command_is_a_job_too(cluster_jobs) -> None:
    outcome = cluster_jobs.run(["python3", "-c", "print(6 * 7)"], cores=1)
    assert (outcome.exit_code, outcome.stdout.strip()) == (0, "42")


def test_what_a_test_leaves_running_is_cancelled(cluster_jobs) -> None:
    job = cluster_jobs.submit("sleep 600")
    assert not job.wait(timeout_s=0.2)
