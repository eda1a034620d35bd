"""What pods, Jobs and nodes of a real Kubernetes 1.20.2 say, in our words; and words that it does not have.

The data are what its API server gave for pods of each kind, but for ``managedFields`` and the node's description of its
machine.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.backends.kubernetes_status import (
    DISRUPTIONS,
    POD_REASONS,
    amount,
    cpus,
    fits_a_node,
    given_resources,
    read_job,
    read_pod,
)
from pytest_clusterjobs.core.resources import Resources
from pytest_clusterjobs.core.state import ExitReason, JobState, JobStatus

DATA = Path(__file__).parent / "data" / "kubernetes"


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
    return found


@pytest.mark.parametrize(
    ("name", "state", "reason", "word", "code"),
    [
        ("completed", JobState.COMPLETED, None, "Completed", 0),
        ("exit-3", JobState.FAILED, ExitReason.NONZERO_EXIT, "Error", 3),
        ("oom-killed", JobState.FAILED, ExitReason.OUT_OF_MEMORY, "OOMKilled", None),
        ("deadline", JobState.FAILED, ExitReason.TIMEOUT, "DeadlineExceeded", None),
        ("no-such-command", JobState.FAILED, ExitReason.LAUNCH_FAILURE, "StartError", 128),
        ("image-missing", JobState.PENDING, None, "ImagePullBackOff", None),
        ("image-invalid", JobState.PENDING, None, "InvalidImageName", None),
        ("secret-missing", JobState.PENDING, None, "CreateContainerConfigError", None),
        ("unschedulable", JobState.PENDING, None, "Unschedulable", None),
        ("running", JobState.RUNNING, None, "Running", None),
        ("node-silent", JobState.RUNNING, None, "Running", None),
    ],
)
def test_pods_of_each_kind(name: str, state: JobState, reason: ExitReason | None, word: str, code: int | None) -> None:
    reading = read_pod(recorded(f"pod-1.20-{name}"))
    status = reading.status
    assert (status.state, status.reason, status.native_word, status.exit_code) == (state, reason, word, code)
    assert status.nodes == ("" if name == "unschedulable" else "127.0.0.1")
    assert reading.pod.startswith(f"cj-{name}" if name != "node-silent" else "cj-running")
    assert reading.uid


def test_what_a_pod_is_held_to_is_read_from_it() -> None:
    assert read_pod(recorded("pod-1.20-oom-killed")).status.resources == Resources(1, 64 << 20, nodes=1)
    assert read_pod(recorded("pod-1.20-deadline")).status.resources == Resources(nodes=1, time_limit_s=2)
    limits = {"cpu": "1500m", "memory": "1e9", "nvidia.com/gpu": "2", "rdma/hca": "1", "ephemeral-storage": "1Gi"}
    container = {"name": "job", "resources": {"limits": limits}}
    assert given_resources({"containers": [{"name": "sidecar"}, container]}) == Resources(1, 10**9, 2, 1)
    assert given_resources({}) == Resources(nodes=1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("2", 2), ("0.5", 0.5), ("250m", 0.25), ("128Mi", 128 << 20), ("1.5Gi", 3 << 29), ("3k", 3000), ("2M", 2e6)),
        *(("1e3", 1000), ("1E3", 1000), ("1E", 1e18), ("1Ei", 2**60), ("", None), ("lots", None), ("1K", None)),
    ],
)
def test_quantities_are_read_as_the_api_writes_them(text: str, value: float | None) -> None:
    assert amount(text) == value


def test_what_keeps_a_pod_from_starting_is_told_with_its_words() -> None:
    missing, invalid, secret = (
        read_pod(recorded(f"pod-1.20-{n}")) for n in ("image-missing", "image-invalid", "secret-missing")
    )
    assert (missing.cannot_start, missing.may_pass) == (True, True)
    assert (invalid.cannot_start, invalid.may_pass) == (secret.cannot_start, secret.may_pass) == (True, False)
    assert missing.status.detail == 'ImagePullBackOff: Back-off pulling image "localhost/none:1"'
    assert 'secret "nobody" not found' in secret.status.detail
    unschedulable = read_pod(recorded("pod-1.20-unschedulable"))
    assert unschedulable.is_unschedulable
    assert not unschedulable.cannot_start
    assert "Insufficient cpu" in unschedulable.status.detail


def test_deletion_silence_and_last_words_are_seen() -> None:
    pods = {name: recorded(f"pod-1.20-{name}") for name in ("running", "node-silent", "completed")}
    pods["deleted"] = recorded("pod-1.20-running")
    pods["deleted"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    kinds = {name: read_pod(pod) for name, pod in pods.items()}
    assert [name for name, each in kinds.items() if each.is_deleted] == ["deleted"]
    assert [name for name, each in kinds.items() if each.is_node_silent] == ["node-silent"]
    assert kinds["completed"].message == "hello"
    assert "python9" in read_pod(recorded("pod-1.20-no-such-command")).status.detail


@pytest.mark.parametrize(("word", "reason"), POD_REASONS.items())
def test_reasons_of_a_failed_pod(word: str, reason: ExitReason) -> None:
    pod = recorded("pod-1.20-running")
    pod["status"] = {"phase": "Failed", "reason": word, "message": "because"}
    status = read_pod(pod).status
    assert (status.state, status.reason, status.detail) == (JobState.FAILED, reason, f"{word}: because")


@pytest.mark.parametrize(("word", "reason"), DISRUPTIONS.items())
def test_disruptions_of_newer_servers(word: str, reason: ExitReason) -> None:
    pod = recorded("pod-1.20-exit-3")
    pod["status"]["conditions"].append({"type": "DisruptionTarget", "status": "True", "reason": word, "message": "m"})
    status = read_pod(pod).status
    assert (status.state, status.reason, status.native_word) == (JobState.FAILED, reason, word)
    pod["status"].update(phase="Running", containerStatuses=[])
    taken = read_pod(pod).disruption
    assert taken is not None
    assert (taken.reason, taken.detail) == (reason, f"{word}: m")


def test_eviction_to_make_room_is_preemption() -> None:
    pod = recorded("pod-1.20-running")
    pod["status"] = {"phase": "Failed", "reason": "Evicted", "message": "Preempted by a pod of higher priority"}
    assert read_pod(pod).status.reason is ExitReason.PREEMPTED


def test_unknown_phase_is_unknown_and_failed_pod_without_a_word_is_its_node_s() -> None:
    pod = recorded("pod-1.20-running")
    pod["status"] = {"phase": "Unknown", "message": "Node unreachable"}
    status = replace(read_pod(pod).status, resources=None)
    assert status == JobStatus(JobState.UNKNOWN, "Unknown", detail="Node unreachable", nodes="127.0.0.1")
    pod["status"] = {"phase": "Failed"}
    assert read_pod(pod).status.reason is ExitReason.NODE_FAILURE


def test_signal_is_told_apart_from_an_exit_code() -> None:
    pod = recorded("pod-1.20-exit-3")
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] = 139
    status = read_pod(pod).status
    assert (status.reason, status.signal, status.exit_code) == (ExitReason.SIGNAL, 11, None)


def test_terminated_container_counts_before_its_pod_s_phase_does() -> None:
    pod = recorded("pod-1.20-exit-3")
    pod["status"]["phase"] = "Running"
    assert read_pod(pod).status.exit_code == 3


@pytest.mark.parametrize(
    ("name", "state", "reason", "word"),
    [
        ("completed", JobState.COMPLETED, None, "Complete"),
        ("exit-3", JobState.FAILED, None, "BackoffLimitExceeded"),
        ("running", JobState.RUNNING, None, "Active"),
    ],
)
def test_jobs_of_each_kind(name: str, state: JobState, reason: ExitReason | None, word: str) -> None:
    reading = read_job(recorded(f"job-1.20-{name}"))
    assert (reading.status.state, reading.status.reason, reading.status.native_word) == (state, reason, word)
    assert (reading.native_id, reading.name) == (f"cj-{name}", f"cj-0-{name}")


def test_job_that_is_being_deleted_has_ended() -> None:
    job = recorded("job-1.20-running")
    job["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert read_job(job).status.state is JobState.CANCELLED


def test_nodes_tell_how_many_cores_they_have() -> None:
    (node,) = recorded("nodes-1.20")["items"]
    assert cpus(node) == 2
    assert fits_a_node([node], 2)
    assert not fits_a_node([node], 3)
    node["status"]["allocatable"]["cpu"] = "3920m"
    assert cpus(node) == 3
