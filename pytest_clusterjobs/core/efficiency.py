"""What a job used, against what it asked for. Pure functions of its metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_clusterjobs.core.units import format_duration, format_memory

if TYPE_CHECKING:
    from pytest_clusterjobs.core.record import JobMetrics

#: So many times more than was used is worth a hint.
_MUCH_MORE = 10
# Below these differences nobody waits for anything that would be free otherwise.
_WORTH_BYTES = 512 * 2**20
_WORTH_S = 3600.0
# Below the first, the start of Python is most of what was used; below the second, an average of cores says little.
_SHORT_S, _LONG_ENOUGH_S = 1.0, 10.0


def used_of_asked(metrics: JobMetrics) -> dict[str, tuple[float, float]]:
    """Give what a job used and what it asked for, of what both are known of.

    Returns:
        ``cores`` in core-seconds, ``memory`` in bytes, ``time`` in seconds. Memory is that of its largest process, so
        it is a lower bound.
    """
    asked, run_time_s, found = metrics.requested, metrics.run_time_s or 0.0, {}
    if asked.cores and metrics.cpu_time_s is not None and run_time_s >= _SHORT_S:
        found["cores"] = metrics.cpu_time_s, asked.cores * run_time_s
    if asked.memory_bytes and metrics.max_rss_bytes is not None:
        found["memory"] = float(metrics.max_rss_bytes), float(asked.memory_bytes)
    if asked.time_limit_s and metrics.run_time_s is not None:
        found["time"] = run_time_s, asked.time_limit_s
    return found


def shares(metrics: JobMetrics) -> dict[str, float]:
    """Give the parts of cores, memory and time that a job used of what it asked for, 1.0 for all; only known ones."""
    return {name: used / asked for name, (used, asked) in used_of_asked(metrics).items()}


def hints(metrics: JobMetrics) -> dict[str, str]:
    """Say what a job asked for ten times more of than it used, where others may have waited for it.

    Returns:
        A line for ``cores``, ``memory`` or ``time``, where there is one to say.
    """
    asked, share = metrics.requested, shares(metrics)
    told = {}
    cores, memory, time = asked.cores or 1, asked.memory_bytes or 0, asked.time_limit_s or 0.0
    run_time_s = metrics.run_time_s or 0.0
    if cores > 1 and run_time_s >= _LONG_ENOUGH_S and share.get("cores", 1.0) * _MUCH_MORE <= 1:
        told["cores"] = f"asks for {cores} cores and keeps {share['cores'] * cores:.1f} busy"
    if memory >= _WORTH_BYTES and share.get("memory", 1.0) * _MUCH_MORE <= 1:
        told["memory"] = f"asks for {format_memory(memory)} and uses {format_memory(metrics.max_rss_bytes)}"
    if time - run_time_s >= _WORTH_S and share.get("time", 1.0) * _MUCH_MORE <= 1:
        told["time"] = f"asks for {format_duration(time)} and runs {format_duration(run_time_s)}"
    return told


def to_dict(metrics: JobMetrics) -> dict[str, Any]:
    """Give it as JSON types."""
    parts = {name: {"used": used, "asked": asked} for name, (used, asked) in used_of_asked(metrics).items()}
    return {**parts, "hints": hints(metrics)}
