"""Figures of a job, from its own files, its scheduler's words and the bulk queries, each with its source."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pytest_clusterjobs.core.record import (
    FROM_ENVIRONMENT,
    FROM_HERE,
    FROM_NODE,
    FROM_QUEUE,
    JobRecord,
    Transition,
    utc_now,
)
from pytest_clusterjobs.core.resources import Resources
from pytest_clusterjobs.core.spec import make_spec
from pytest_clusterjobs.core.state import JobState, JobStatus
from pytest_clusterjobs.engine.measuring import fill, note_resources, observed, visible_gpus

NOTHING = Resources()


def record(**asked: Any) -> JobRecord:
    made = JobRecord("1", "0badcafe", "cj-0badcafe-1-x", "slurm", make_spec(**asked), "", "x")
    made.metrics.submitted_at = utc_now() - timedelta(seconds=10)
    made.enter(JobState.PENDING, at=made.metrics.submitted_at)
    return made


# ---------------------------------------------------------------- history


def test_word_of_a_state_is_filled_in_and_another_word_is_noted() -> None:
    job = record()
    job.enter(JobState.PENDING, "PENDING")
    job.enter(JobState.RUNNING)
    for word in ("RUNNING", "RUNNING", "", "SUSPENDED", "RUNNING"):
        job.enter(JobState.RUNNING, word)
    told = [(each.state, each.native_word) for each in job.history]
    assert told == [
        (JobState.PENDING, "PENDING"),
        (JobState.RUNNING, "RUNNING"),
        (JobState.RUNNING, "SUSPENDED"),
        (JobState.RUNNING, "RUNNING"),
    ]
    assert [each["state"] for each in job.to_dict()["history"]] == ["PENDING", "RUNNING", "RUNNING", "RUNNING"]


def test_run_that_nobody_saw_is_in_the_history_by_the_node_s_clock() -> None:
    job = record()
    assert job.metrics.submitted_at is not None
    started = job.metrics.submitted_at + timedelta(seconds=4)
    measured = {"started_at": started.timestamp(), "ended_at": started.timestamp() + 1.0, "run_time_s": 1.0}
    fill(job, {}, measured, NOTHING)
    assert job.history[-1] == Transition(JobState.RUNNING, job.metrics.started_at or utc_now(), "", FROM_NODE)
    assert job.metrics.queue_time_s == pytest.approx(4)
    assert job.metrics.run_time_s == 1.0


def test_job_that_never_ran_has_no_run_in_its_history() -> None:
    job = record()
    fill(job, {}, {}, NOTHING)
    assert [each.state for each in job.history] == [JobState.PENDING]
    assert job.metrics.unknown["run_time_s"] == job.metrics.unknown["cpu_time_s"] == "the job did not start"


# ---------------------------------------------------------------- sources


def test_queue_beats_what_the_job_was_told_and_both_are_named() -> None:
    job = record(cores=2)
    note_resources(job, JobStatus(JobState.RUNNING, "R", nodes="n1", resources=Resources(cores=4, nodes=1)))
    fill(job, {}, {}, Resources(cores=2, memory_bytes=2**30))
    assert job.metrics.allocated == Resources(cores=4, memory_bytes=2**30, nodes=1)
    sources = {name: source for name, source in job.metrics.sources.items() if name.startswith("allocated.")}
    assert sources == {
        "allocated.cores": FROM_QUEUE,
        "allocated.nodes": FROM_QUEUE,
        "allocated.memory_bytes": FROM_ENVIRONMENT,
    }


def test_nodes_are_the_queue_s_or_the_node_s_own() -> None:
    for told, source in (((), FROM_NODE), (("n7",), FROM_QUEUE)):
        job = record(memory="1GB")
        job.metrics.nodes = told
        fill(job, {"node": "vm", "started_at": 1.0}, {}, Resources(cores=1))
        assert job.metrics.nodes == (told or ("vm",))
        assert job.metrics.sources["nodes"] == source
        silent = {name for name in job.metrics.unknown if name.startswith("allocated.")}
        assert silent == {"allocated.memory_bytes", "allocated.nodes"}  # it asked for no GPUs, time or partition


def test_what_a_waiting_job_asks_for_was_not_given_to_it() -> None:
    job, asked = record(), Resources(cores=4, partition="a,b")
    note_resources(job, JobStatus(JobState.PENDING, "PD", resources=asked))
    assert (job.queued, job.metrics.allocated) == (asked, NOTHING)
    note_resources(job, JobStatus(JobState.CANCELLED, "CA", resources=asked))  # and never had a node
    assert job.metrics.allocated == NOTHING
    note_resources(job, JobStatus(JobState.RUNNING, "R", nodes="n1"))  # a query that counts nothing takes nothing away
    assert job.queued == asked


def test_every_figure_has_a_source_or_a_reason() -> None:
    for measured in (
        {},
        {"started_at": 1.0, "ended_at": 2.0, "run_time_s": 1.0, "cpu_time_s": 0.5, "max_rss_bytes": 1},
    ):
        job = record()
        fill(job, {}, measured, NOTHING)
        metrics = job.metrics
        scalars = (
            "queue_time_s",
            "run_time_s",
            "cpu_time_s",
            "max_rss_bytes",
            "read_bytes",
            "written_bytes",
            "exit_code",
        )
        for name in (*scalars, "submitted_at", "started_at"):
            is_known = getattr(metrics, name) is not None
            assert (name in metrics.sources, name in metrics.unknown) == (is_known, not is_known), name
        assert metrics.sources["ended_at"] == (FROM_NODE if measured else FROM_HERE)
        assert metrics.sources["submitted_at"] == FROM_HERE


# ---------------------------------------------------------------- what the node shows


@pytest.mark.parametrize(
    ("start", "found"),
    [
        ({}, NOTHING),
        ({"cpus": [0, 1, 2]}, Resources(3, gpus=0)),
        ({"cpus": [0, 1, 2, 3], "cgroup": {"cpu.max": "250000 100000"}}, Resources(2, gpus=0)),
        ({"cpus": [0, 1], "cgroup": {"cpu.max": "50000 100000"}}, Resources(1, gpus=0)),
        ({"cpus": [0], "memory_bytes": 2**34, "rlimits": {"RLIMIT_AS": [-1, -1]}}, Resources(1, 2**34, 0)),
        ({"cpus": [0], "memory_bytes": 2**34, "rlimits": {"RLIMIT_AS": [2**30, -1]}}, Resources(1, 2**30, 0)),
        ({"cpus": [0], "cgroup": {"memory.limit_in_bytes": "9223372036854771712"}}, Resources(1, None, 0)),
        (
            {"cpus": [0], "cgroup": {"memory.limit_in_bytes": str(2**29), "memory.max": str(2**28)}},
            Resources(1, 2**28, 0),
        ),
    ],
)
def test_tightest_limit_is_what_a_job_can_use(start: dict[str, Any], found: Resources) -> None:
    assert observed(start) == found


@pytest.mark.parametrize(
    ("devices", "variables", "ids"),
    [
        (["nvidia0", "nvidia1"], {}, ("nvidia0", "nvidia1")),
        (["nvidia0", "nvidia1"], {"CUDA_VISIBLE_DEVICES": "1"}, ("1",)),
        (["nvidia0"], {"CUDA_VISIBLE_DEVICES": "0,1"}, ("0",)),  # told of one for which there is no device
        ([], {"CUDA_VISIBLE_DEVICES": "0"}, ()),
        (["nvidia0"], {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, ()),
        (["nvidia0", "nvidia1"], {"CUDA_VISIBLE_DEVICES": "0,-1,1"}, ("0",)),
        (["nvidia0"], {"CUDA_VISIBLE_DEVICES": "MIG-a,MIG-b"}, ("MIG-a", "MIG-b")),
        (["renderD128"], {"ROCR_VISIBLE_DEVICES": "0"}, ("0",)),
    ],
)
def test_gpus_are_those_it_was_told_of_and_has(
    devices: list[str], variables: dict[str, str], ids: tuple[str, ...]
) -> None:
    assert visible_gpus({"gpus": devices, "environment": variables}) == ids
