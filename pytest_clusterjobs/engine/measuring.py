"""Fill in what is known of a job's run: from its own files, from what its scheduler told it, from the bulk queries.

Nothing here asks anybody. Who told a figure is noted beside it, and why where nobody did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from pytest_clusterjobs.core.record import (
    FROM_ENVIRONMENT,
    FROM_EVIDENCE,
    FROM_HERE,
    FROM_NODE,
    FROM_QUEUE,
    JobMetrics,
    JobRecord,
    utc_now,
)
from pytest_clusterjobs.core.resources import Resources
from pytest_clusterjobs.core.state import JobState, JobStatus

#: What the runner measures when the job's code has ended.
MEASURED = ("cpu_time_s", "max_rss_bytes", "read_bytes", "written_bytes")

# By which a process is told what GPUs to use; the first that is set counts.
_GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")
_NO_GPU = frozenset({"", "-1", "NoDevFiles", "none", "void"})
# cgroup v1 writes "unlimited" as the largest multiple of a page that fits into 63 bits.
_UNLIMITED_BYTES = 2**62


def note_resources(record: JobRecord, status: JobStatus) -> None:
    """Take note of what a bulk query counts for a job; what it was given, once it has a node."""
    if status.resources is not None:
        record.queued = status.resources
        if status.nodes and status.state is not JobState.PENDING:
            record.metrics.allocated = status.resources


def fill(record: JobRecord, start: Mapping[str, Any], measured: Mapping[str, Any], told: Resources) -> None:
    """Complete a job's metrics and its history when it has ended.

    Args:
        record: The job's.
        start: What the job wrote at its start, ``start.json``; {} when it left none.
        measured: What it measured at its end, ``metrics`` of its envelope; {} when it left none.
        told: The resources in the variables that its scheduler gave it.
    """
    metrics = record.metrics
    told_nodes = bool(metrics.nodes)
    if start.get("node"):
        metrics.nodes = metrics.nodes or (start["node"],)
    _fill_times(record, start, measured)
    for name in MEASURED:
        setattr(metrics, name, measured.get(name))
    metrics.gpu_ids = visible_gpus(start)
    metrics.observed = observed(start)
    from_queue = metrics.allocated
    metrics.allocated = from_queue.over(told)
    metrics.sources = _sources(metrics, from_queue, bool(measured))
    if metrics.nodes:
        metrics.sources["nodes"] = FROM_QUEUE if told_nodes else FROM_NODE
    metrics.unknown = dict(_reasons(metrics, bool(measured)))


def _fill_times(record: JobRecord, start: Mapping[str, Any], measured: Mapping[str, Any]) -> None:
    metrics = record.metrics
    if started := measured.get("started_at", start.get("started_at")):
        metrics.started_at = datetime.fromtimestamp(started, timezone.utc)
    ended_at = measured.get("ended_at")
    metrics.ended_at = utc_now() if ended_at is None else datetime.fromtimestamp(ended_at, timezone.utc)
    if metrics.submitted_at and metrics.started_at:
        metrics.queue_time_s = max(0.0, (metrics.started_at - metrics.submitted_at).total_seconds())
    if metrics.started_at:
        metrics.run_time_s = measured.get("run_time_s", (metrics.ended_at - metrics.started_at).total_seconds())
        if record.state is not JobState.RUNNING:  # so short that nobody here has seen it run
            record.enter(JobState.RUNNING, at=metrics.started_at, source=FROM_NODE)


def _sources(metrics: JobMetrics, from_queue: Resources, is_measured: bool) -> dict[str, str]:
    times = FROM_NODE if is_measured else FROM_HERE
    told = {
        **dict.fromkeys(("started_at", "ended_at", "queue_time_s", "run_time_s"), times),
        **dict.fromkeys(MEASURED, FROM_NODE),
        "submitted_at": FROM_HERE,
        "exit_code": FROM_EVIDENCE,
        "signal": FROM_EVIDENCE,
    }
    known = {name: source for name, source in told.items() if getattr(metrics, name) is not None}
    for name in metrics.allocated.known():
        is_queued = getattr(from_queue, name) is not None
        known[f"allocated.{name}"] = FROM_QUEUE if is_queued else FROM_ENVIRONMENT
    return known


def _reasons(metrics: JobMetrics, is_measured: bool) -> Sequence[tuple[str, str]]:
    never = "the job did not start"
    why = never if metrics.started_at is None else "the job left no result file"
    if is_measured:
        why = "the node has no /proc/self/io that may be read"
    found = [(name, why) for name in MEASURED if getattr(metrics, name) is None]
    if metrics.submitted_at is None:
        found.append(("submitted_at", "the scheduler did not accept it"))
    if metrics.started_at is None:
        found += [(name, never) for name in ("started_at", "queue_time_s", "run_time_s")]
    if metrics.exit_code is None:
        found.append(
            ("exit_code", "no process of it was seen to exit" if metrics.signal is None else "a signal ended it")
        )
    if metrics.started_at is not None:
        silent = "neither the queue nor the job's environment tells"
        asked = {name for name, value in metrics.requested.known().items() if value}
        found += [(f"allocated.{name}", silent) for name in sorted(asked - metrics.allocated.known().keys())]
    return found


def observed(start: Mapping[str, Any]) -> Resources:
    """Give what a job found on its node: the tightest of all limits that hold it, from ``start.json``."""
    if not start:
        return Resources()
    cpus, quota = len(start.get("cpus") or ()), _quota_cores(start)
    cores = cpus if quota is None else min(cpus, max(1, int(quota)))
    return Resources(cores or None, _memory_limit(start), len(visible_gpus(start)))


def _quota_cores(start: Mapping[str, Any]) -> float | None:
    quota, _, period = str((start.get("cgroup") or {}).get("cpu.max", "")).partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _memory_limit(start: Mapping[str, Any]) -> int | None:
    groups = start.get("cgroup") or {}
    limits = [int(groups[name]) for name in ("memory.max", "memory.limit_in_bytes") if groups.get(name, "").isdigit()]
    limits += [int(start["memory_bytes"])] if start.get("memory_bytes") else []
    limits += [int((start.get("rlimits") or {}).get("RLIMIT_AS", [-1])[0])]
    return min((limit for limit in limits if 0 < limit < _UNLIMITED_BYTES), default=None)


def visible_gpus(start: Mapping[str, Any]) -> tuple[str, ...]:
    """Give the ids of the GPUs that a job can see: those it was told of for which there is a device."""
    devices = [str(name) for name in start.get("gpus") or ()]
    told = start.get("environment") or {}
    value = next((told[name] for name in _GPU_VARIABLES if name in told), None)
    if value is None:
        return tuple(devices)
    ids = [each.strip() for each in value.split(",")]
    # Programs see none behind the first that is no GPU (CUDA programming guide, "CUDA environment variables").
    valid = ids[: next((index for index, each in enumerate(ids) if each in _NO_GPU), len(ids))]
    # Several slices of one device (MIG) have ids of their own.
    return tuple(valid if any(each.startswith("MIG") for each in valid) and devices else valid[: len(devices)])
