"""The section of a failure report about a job: what it was, where it ran, why it ended, and what it printed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pytest_clusterjobs.core.errors import ClusterJobsError
from pytest_clusterjobs.core.resources import Resources
from pytest_clusterjobs.core.state import JobState
from pytest_clusterjobs.core.units import format_duration, format_memory
from pytest_clusterjobs.engine.job import Job, requested_text
from pytest_clusterjobs.node.runner import START

if TYPE_CHECKING:
    from pytest_clusterjobs.engine.run import Run

_TAIL_LINES = 20
_MAX_SECTIONS = 5


def sections_for(run: Run, jobs: list[Job[Any]]) -> list[tuple[str, str]]:
    """Give title and text of a section for each job of a failed test: those that failed, then unfinished ones first.

    Of many jobs only the first few are told at length; a last section counts the others.
    """
    ordered = sorted(jobs, key=_rank)
    told = [
        (f"cluster job {job.record.name or job.record.label}", _describe(run, job)) for job in ordered[:_MAX_SECTIONS]
    ]
    rest = ordered[_MAX_SECTIONS:]
    if rest:
        states = ", ".join(
            f"{sum(job.record.state is state for job in rest)} {state}"
            for state in JobState
            if any(job.record.state is state for job in rest)
        )
        told.append((f"{len(rest)} more cluster jobs", states))
    return told


def _rank(job: Job[Any]) -> int:
    state = job.record.state
    is_valid = job.validation is None or job.validation.success
    return 2 if state is JobState.COMPLETED and is_valid else 0 if state.is_terminal else 1


def _describe(run: Run, job: Job[Any]) -> str:
    try:
        return describe(run, job)
    except (ClusterJobsError, OSError) as error:  # its files are gone or damaged: the failure must be told all the same
        return f"{job!r}\nno more is known: {error}"


def describe(run: Run, job: Job[Any]) -> str:
    """Give the lines about one job."""
    record, metrics = job.record, job.record.metrics
    why = "" if record.reason is None else f", {record.reason}"
    detail = f" ({record.detail})" if record.detail else ""
    word = f", the scheduler says {record.native_word}" if record.native_word else ""
    code = f", exit code {metrics.exit_code}" if metrics.exit_code is not None else ""
    restarts = f", restarted {metrics.restarts} times" if metrics.restarts else ""
    lines = [
        f"backend:    {record.backend}, job {record.job_id}, native id {record.native_id or 'none: not accepted'}",
        f"state:      {record.state}{why}{detail}{code}{word}{restarts}",
        f"requested:  {requested_text(record)}",
        *([f"allocated:  {given}"] if (given := _text_of(metrics.allocated)) else []),
        f"node:       {', '.join(metrics.nodes) or 'unknown'}{_seen(run, job)}",
        f"times:      {_times(job)}",
    ]
    if metrics.max_rss_bytes is not None:
        cpu = f", cpu {format_duration(metrics.cpu_time_s)}"
        lines.append(f"used:       max rss {format_memory(metrics.max_rss_bytes)}{cpu}")
    if record.submit_command:
        lines.append(f"submitted:  {record.submit_command}")
    lines.append(f"directory:  {record.directory or 'none'}{_keeping(run, job)}")
    if job.validation is not None and not job.validation:
        lines.append(f"validation: {job.validation}")
    return "\n".join(lines + _tails(job))


def _text_of(resources: Resources) -> str:
    """Say in one line what is known of resources."""
    formats = {"memory_bytes": format_memory, "time_limit_s": format_duration}
    known = {name: value for name, value in resources.known().items() if value}
    words = {name: formats[name](value) if name in formats else value for name, value in known.items()}
    return ", ".join(f"{name.removesuffix('_bytes').removesuffix('_s')} {value}" for name, value in words.items())


def _seen(run: Run, job: Job[Any]) -> str:
    """Say what the job itself found on its node."""
    start = run.store.read_json(os.path.join(job.record.directory, START)) if job.record.directory else None
    if not start:
        return ""
    cpus, gpus = start.get("cpus") or [], start.get("gpus") or []
    limit = (start.get("cgroup") or {}).get("memory.max", "")
    parts = [f"{len(cpus)} CPUs {_ranges(cpus)}" if len(cpus) != 1 else f"CPU {cpus[0]}"]
    parts += [f"memory limit {format_memory(int(limit))}"] if limit.isdigit() else []
    parts += [f"{len(gpus)} GPUs"] if gpus else []
    return f", pid {start.get('pid')}, seen there: {', '.join(parts)}"


def _ranges(numbers: list[int]) -> str:
    """Write CPU numbers short: ``0-3,8``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)


def _times(job: Job[Any]) -> str:
    metrics = job.record.metrics
    at = (
        f", submitted {metrics.submitted_at.astimezone().strftime('%Y-%m-%d %H:%M:%S')}" if metrics.submitted_at else ""
    )
    return f"queued {format_duration(metrics.queue_time_s)}, ran {format_duration(metrics.run_time_s)}{at}"


def _keeping(run: Run, job: Job[Any]) -> str:
    policy = job.record.spec.keep or run.settings.keep
    return " (removed at the end of the run; keep it with --cluster-keep=failed)" if policy == "never" else " (kept)"


def _tails(job: Job[Any]) -> list[str]:
    if not job.record.directory:
        return []
    logs, lines = job.logs(), []
    for name, text in (("stderr", logs.stderr), ("stdout", logs.stdout)):
        printed = text.splitlines()
        if printed:
            how_many = f", the last {_TAIL_LINES} of {len(printed)} lines" if len(printed) > _TAIL_LINES else ""
            lines += [f"{name}{how_many}:", *("  " + line for line in printed[-_TAIL_LINES:])]
    return lines
