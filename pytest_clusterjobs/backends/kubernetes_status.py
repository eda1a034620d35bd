"""What a pod or a Job says about a job, in our words. Pure functions from the API's JSON.

Words and fields: Kubernetes' API reference, PodStatus, ContainerState and JobStatus; reasons as the kubelet, the
scheduler and the controllers of 1.20 to 1.33 write them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pytest_clusterjobs.backends.kubernetes_manifest import CONTAINER, NAME_ANNOTATION
from pytest_clusterjobs.core.resources import Resources
from pytest_clusterjobs.core.state import ExitReason, JobState, JobStatus

#: Reason of a pod that the cluster itself has ended -> why the job ended.
POD_REASONS: Mapping[str, ExitReason] = {
    "DeadlineExceeded": ExitReason.TIMEOUT,
    "Evicted": ExitReason.NODE_FAILURE,  # by a node short of memory or disk
    "Preempting": ExitReason.PREEMPTED,
    "Preempted": ExitReason.PREEMPTED,
    "NodeLost": ExitReason.NODE_FAILURE,
    "NodeShutdown": ExitReason.NODE_FAILURE,
    "Shutdown": ExitReason.NODE_FAILURE,
    "Terminated": ExitReason.NODE_FAILURE,  # the word of a node that shuts down, from 1.22 on
    "NodeAffinity": ExitReason.LAUNCH_FAILURE,
    "OutOfcpu": ExitReason.LAUNCH_FAILURE,
    "OutOfmemory": ExitReason.LAUNCH_FAILURE,
    "OutOfpods": ExitReason.LAUNCH_FAILURE,
    "UnexpectedAdmissionError": ExitReason.LAUNCH_FAILURE,
}

#: Reason of the condition ``DisruptionTarget`` (from 1.26 on) -> why the job ended.
DISRUPTIONS: Mapping[str, ExitReason] = {
    "PreemptionByScheduler": ExitReason.PREEMPTED,
    "DeletionByTaintManager": ExitReason.NODE_FAILURE,
    "EvictionByEvictionAPI": ExitReason.PREEMPTED,
    "DeletionByPodGC": ExitReason.NODE_FAILURE,
    "TerminationByKubelet": ExitReason.NODE_FAILURE,
}

#: Reason of a container that cannot start -> True where it may yet, e.g. when a registry answers again.
START_TROUBLE: Mapping[str, bool] = {
    "ErrImagePull": True,
    "ImagePullBackOff": True,
    "RegistryUnavailable": True,
    "InvalidImageName": False,
    "ErrImageNeverPull": False,
    "ImageInspectError": False,
    "CreateContainerConfigError": False,
    "CreateContainerError": False,
    "RunContainerError": False,
    "CrashLoopBackOff": False,
}

#: Reasons of a container that ended before its first instruction.
_NEVER_RAN = frozenset({"ContainerCannotRun", "StartError"})


@dataclass(frozen=True, slots=True)
class PodReading:
    """What a pod says about its job."""

    #: Its name.
    pod: str
    #: Its unique id: a Job may make another pod of another id.
    uid: str
    #: Where the job is and why.
    status: JobStatus
    #: The termination message of the job's container, or "".
    message: str = ""
    #: True when it cannot start as things are, and has not ended.
    cannot_start: bool = False
    #: True when that may pass.
    may_pass: bool = False
    #: True when the scheduler finds no node for it.
    is_unschedulable: bool = False
    #: True when somebody, or something, has deleted it.
    is_deleted: bool = False
    #: True when its node is not heard from.
    is_node_silent: bool = False
    #: How the job ends if the pod is taken away, where the cluster says that it does that, and why (1.26 and newer).
    disruption: JobStatus | None = None


def read_pod(pod: Mapping[str, Any]) -> PodReading:
    """Read a pod as a list or a watch gives it."""
    metadata, status = pod["metadata"], pod.get("status", {})
    container: Mapping[str, Any] = next(
        (each for each in status.get("containerStatuses", ()) if each["name"] == CONTAINER), {}
    )
    conditions = {each["type"]: each for each in status.get("conditions", ())}
    node = str(pod.get("spec", {}).get("nodeName", ""))
    reading = _read_state(status, container.get("state", {}), conditions)
    is_ready = conditions.get("Ready", {}).get("status") == "True"
    return replace(
        reading,
        pod=metadata["name"],
        uid=metadata["uid"],
        status=replace(reading.status, nodes=node, resources=given_resources(pod.get("spec", {}))),
        is_deleted="deletionTimestamp" in metadata,
        # kubelet says ready, the node controller says not: it has not heard from the kubelet for long.
        is_node_silent=reading.status.state is JobState.RUNNING and bool(container.get("ready")) and not is_ready,
        disruption=_disruption(conditions),
    )


def given_resources(spec: Mapping[str, Any]) -> Resources:
    """Give what the cluster holds a pod to: limits of the job's container, as admission left them, and the deadline."""
    containers = spec.get("containers", ())
    limits: Mapping[str, str] = next(
        (each.get("resources", {}).get("limits", {}) for each in containers if each["name"] == CONTAINER), {}
    )
    cpu, memory = amount(limits.get("cpu", "")), amount(limits.get("memory", ""))
    gpus = [amount(text) or 0 for name, text in limits.items() if "/" in name and "gpu" in name]
    return Resources(
        cores=None if cpu is None else int(cpu),
        memory_bytes=None if memory is None else int(memory),
        gpus=int(sum(gpus)) if gpus else None,
        nodes=1,
        time_limit_s=spec.get("activeDeadlineSeconds"),
    )


def amount(text: str) -> float | None:
    """Read a quantity of the API: ``2``, ``500m``, ``128Mi``, ``1.5G``, ``1e3``; None for what is none."""
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)(?:([eE][+-]?\d+)|(m|[kMGTPE]|[KMGTPE]i))?", str(text))
    if match is None:
        return None
    number, exponent, suffix = float(f"{match[1]}{match[2] or ''}"), match[2], match[3] or ""
    if suffix == "m":
        return number / 1000
    power = 0 if exponent or not suffix else "KMGTPE".index(suffix[0].upper()) + 1
    return number * float(1024 if suffix.endswith("i") else 1000) ** power


def _disruption(conditions: Mapping[str, Mapping[str, Any]]) -> JobStatus | None:
    condition = conditions.get("DisruptionTarget", {})
    word, said = str(condition.get("reason", "")), str(condition.get("message", ""))
    if condition.get("status") != "True" or word not in DISRUPTIONS:
        return None
    return JobStatus(JobState.FAILED, word, DISRUPTIONS[word], f"{word}: {said}".rstrip(": "))


def _read_state(
    status: Mapping[str, Any], state: Mapping[str, Any], conditions: Mapping[str, Mapping[str, Any]]
) -> PodReading:
    phase = str(status.get("phase", "Unknown"))
    if phase in ("Succeeded", "Failed"):
        message = str(state.get("terminated", {}).get("message", ""))
        return PodReading("", "", _ended(phase, status, state, conditions), message)
    if "terminated" in state:  # the kubelet says so before the pod's phase does
        return PodReading("", "", _terminated(state["terminated"]), str(state["terminated"].get("message", "")))
    if "running" in state:
        return PodReading("", "", JobStatus(JobState.RUNNING, "Running"))
    waiting = state.get("waiting", {})
    word, detail = str(waiting.get("reason", "")), str(waiting.get("message", ""))
    if word in START_TROUBLE:
        failed = JobStatus(JobState.PENDING, word, detail=f"{word}: {detail}".rstrip(": "))
        return PodReading("", "", failed, cannot_start=True, may_pass=START_TROUBLE[word])
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        reason, detail = str(scheduled.get("reason", "")), str(scheduled.get("message", ""))
        pending = JobStatus(JobState.PENDING, reason or phase, detail=f"{reason}: {detail}".strip(": "))
        return PodReading("", "", pending, is_unschedulable=reason == "Unschedulable")
    if phase in ("Pending", "Running"):
        return PodReading("", "", JobStatus(JobState.PENDING, word or phase, detail=detail or word))
    return PodReading("", "", JobStatus(JobState.UNKNOWN, phase, detail=str(status.get("message", ""))))


def _ended(
    phase: str,
    status: Mapping[str, Any],
    state: Mapping[str, Any],
    conditions: Mapping[str, Mapping[str, Any]],
) -> JobStatus:
    word, said = str(status.get("reason", "")), str(status.get("message", ""))
    reason = POD_REASONS.get(word)
    if reason is None and (disruption := _disruption(conditions)) is not None:
        return disruption
    if word == "Evicted" and "preempt" in said.lower():
        reason = ExitReason.PREEMPTED
    if reason is not None:
        return JobStatus(JobState.FAILED, word, reason, f"{word}: {said}".rstrip(": "))
    if "terminated" in state:
        return _terminated(state["terminated"])
    if phase == "Succeeded":
        return JobStatus(JobState.COMPLETED, phase, exit_code=0)
    return JobStatus(JobState.FAILED, word or phase, ExitReason.NODE_FAILURE, f"{word}: {said}".strip(": "))


def _terminated(terminated: Mapping[str, Any]) -> JobStatus:
    word, code = str(terminated.get("reason", "")), int(terminated["exitCode"])
    signal = terminated.get("signal") or (code - 128 if 128 < code < 128 + 65 else None)
    if word == "OOMKilled":
        return JobStatus(JobState.FAILED, word, ExitReason.OUT_OF_MEMORY, word, signal=signal)
    if word in _NEVER_RAN:
        said = str(terminated.get("message", ""))
        return JobStatus(
            JobState.FAILED, word, ExitReason.LAUNCH_FAILURE, f"{word}: {said}".rstrip(": "), exit_code=code
        )
    return by_exit_code(word or "Terminated", code if signal is None else None, signal)


def by_exit_code(word: str, code: int | None, signal: int | None) -> JobStatus:
    """Give the status of a job that ended by itself."""
    if signal is not None:
        return JobStatus(JobState.FAILED, word, ExitReason.SIGNAL, signal=signal)
    if code:
        return JobStatus(JobState.FAILED, word, ExitReason.NONZERO_EXIT, exit_code=code)
    return JobStatus(JobState.COMPLETED, word, exit_code=0)


@dataclass(frozen=True, slots=True)
class JobReading:
    """What a Job says about itself."""

    #: Its name.
    native_id: str
    #: The submission's name.
    name: str
    #: Where it is.
    status: JobStatus


def read_job(job: Mapping[str, Any]) -> JobReading:
    """Read a Job as a list or a get gives it. One that is being deleted has ended."""
    metadata, status = job["metadata"], job.get("status", {})
    name = str(metadata.get("annotations", {}).get(NAME_ANNOTATION, metadata["name"]))
    return JobReading(metadata["name"], name, _job_status(metadata, status))


def _job_status(metadata: Mapping[str, Any], status: Mapping[str, Any]) -> JobStatus:
    done = {each["type"]: each for each in status.get("conditions", ()) if each.get("status") == "True"}
    if "Complete" in done:
        return JobStatus(JobState.COMPLETED, "Complete", exit_code=0)
    if "Failed" in done:
        word, said = str(done["Failed"].get("reason", "Failed")), str(done["Failed"].get("message", ""))
        reason = ExitReason.TIMEOUT if word == "DeadlineExceeded" else None
        return JobStatus(JobState.FAILED, word, reason, said)
    if "deletionTimestamp" in metadata:
        return JobStatus(JobState.CANCELLED, "Deleted")
    return JobStatus(JobState.RUNNING if status.get("active") else JobState.PENDING, "Active")


def fits_a_node(nodes: Iterable[Mapping[str, Any]], cores: int) -> bool:
    """Tell whether a node could hold so many cores if it were empty."""
    return any(cpus(node) >= cores for node in nodes)


def cpus(node: Mapping[str, Any]) -> int:
    """Give the whole CPUs that a node offers to pods."""
    text = str(node.get("status", {}).get("allocatable", {}).get("cpu", "0"))
    return int(text[:-1]) // 1000 if text.endswith("m") else int(float(text))
