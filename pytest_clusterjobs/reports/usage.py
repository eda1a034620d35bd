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
    """Give a line for each thing that a test's jobs of one function asked for ten times more of than any of them used.

    Args:
        jobs: The jobs.
        most: So many at most; a last line counts the others.
    """
    highest: dict[tuple[str, str, str], tuple[float, str]] = {}
    for job in jobs:
        parts = job.get("efficiency", {})
        for name in ("cores", "memory", "time"):
            if name in parts:
                key = job.get("test") or job["label"], job["label"], name
                share = parts[name]["used"] / parts[name]["asked"]
                highest[key] = max(highest.get(key, (0.0, "")), (share, parts["hints"].get(name, "")))
    told = list(dict.fromkeys(f"{whose} {hint}" for (whose, _, _), (_, hint) in highest.items() if hint))
    lines, rest = told[:most], len(told) - most
    return [*lines, f"{rest} more ask for ten times what they use"] if rest > 0 else lines
