"""The section about clusters at the end of pytest's output: from a report to a few lines."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_clusterjobs.core.units import format_duration
from pytest_clusterjobs.reports import digest, usage
from pytest_clusterjobs.reports.model import ReportedTest, RunReport

_MAX_LISTED = 10
_MAX_HINTS = 3


def summary_lines(report: RunReport) -> list[str]:
    """Give the lines: one per backend with what its tests and jobs did, then what was kept, cancelled or went wrong.

    [] when there was no cluster test and no job.
    """
    lines = [line for backend in digest.by_backend(report) for line in _backend_lines(backend)]
    nowhere = [test for test in report.tests if not test.backend]
    lines += _reasons("cluster trouble", [test for test in nowhere if test.is_infrastructure])
    lines += _reasons("skipped", [test for test in nowhere if test.is_cluster_test and test.outcome == "skipped"])
    for title, items in digest.leftovers(report):
        lines += [f"{title}: {item.splitlines()[0]}" for item in items[:_MAX_LISTED] if item]
        lines += [f"{title}: {len(items) - _MAX_LISTED} more"] if len(items) > _MAX_LISTED else []
    return lines


def _backend_lines(backend: digest.BackendDigest) -> list[str]:
    outcomes, jobs = backend.outcomes, len(backend.jobs)
    parts = [f"{backend.ran} ran"]
    parts += [f"{outcomes['failed']} failed"] if outcomes["failed"] else []
    parts += [f"{outcomes['error']} error{'s' if outcomes['error'] > 1 else ''}"] if outcomes["error"] else []
    parts += [f"{outcomes['skipped']} skipped"] if outcomes["skipped"] else []
    line = f"{backend.name}: {', '.join(parts)}"
    if jobs:
        line += f"; {jobs} job{'s' if jobs > 1 else ''}"
        queued, run = backend.total("queue_time_s"), backend.total("run_time_s")
        line += "" if queued is None else f", queued {format_duration(queued)}"
        line += "" if run is None else f", ran {format_duration(run)}"
    used = usage.usage_line(backend.jobs)
    lines = [line, *([f"  {used}"] if used else [])]
    lines += [f"  hint: {hint}" for hint in usage.hint_lines(backend.jobs, _MAX_HINTS)]
    troubled = [test for test in backend.tests if test.is_infrastructure]
    skipped = [test for test in backend.tests if test.outcome == "skipped"]
    return [*lines, *_reasons("  cluster trouble", troubled), *_reasons("  skipped", skipped)]


def _reasons(title: str, tests: Iterable[ReportedTest]) -> list[str]:
    counted = digest.reasons(tests)
    lines = [f"{title} {count}: {reason}" for reason, count in counted[:_MAX_LISTED]]
    rest = sum(count for _, count in counted[_MAX_LISTED:])
    return [*lines, f"{title} {rest}: for other reasons"] if rest else lines
