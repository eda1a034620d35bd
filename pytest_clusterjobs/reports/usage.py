"""What jobs used of what they asked for, in lines. From jobs as ``JobRecord.to_dict`` gives them."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_clusterjobs.reports.model import Job


def usage_line(jobs: Sequence[Job]) -> str:
    """Say which part of cores and memory jobs used, all together; "" where nobody knows of any.

    Jobs that ask for no memory, and runs of less than a second, are left out of the sums.
    """
    parts = []
    for name in ("cores", "memory"):
        known = [job["efficiency"] for job in jobs if name in job.get("efficiency", {})]
        asked = sum(each[name]["asked"] for each in known)
        if asked:
            parts.append(f"{sum(each[name]['used'] for each in known) / asked:.0%} of the {name}")
    return f"used {', '.join(parts)} asked for" if parts else ""


def hint_lines(jobs: Sequence[Job], most: int) -> list[str]:
    """Give a line for each thing that a test's jobs asked for ten times more of than they used.

    Args:
        jobs: The jobs.
        most: So many at most; a last line counts the others.
    """
    told: dict[str, None] = {}
    for job in jobs:
        whose = job.get("test") or job["label"]
        told.update(dict.fromkeys(f"{whose} {hint}" for hint in job.get("efficiency", {}).get("hints", ())))
    lines, rest = list(told)[:most], len(told) - most
    return [*lines, f"{rest} more ask for ten times what they use"] if rest > 0 else lines
