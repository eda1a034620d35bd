"""The section about clusters at the end of pytest's output: from a report to a few lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from pytest_clusterjobs.core.units import format_duration
from pytest_clusterjobs.reports.model import Job, ReportedTest, RunReport

_MAX_LISTED = 10


def summary_lines(report: RunReport) -> list[str]:
    """Give the lines: one per backend with what its tests and jobs did, then what was kept, cancelled or went wrong.

    [] when there was no cluster test and no job.
    """
    tests = [test for test in report.tests if test.backend]
    names = dict.fromkeys(
        [str(one) for one in (*(test.backend for test in tests), *(job["backend"] for job in report.jobs))]
    )
    lines = []
    for name in names:
        mine = [test for test in tests if test.backend == name]
        lines += _backend_lines(name, mine, [job for job in report.jobs if job["backend"] == name])
    nowhere = [test for test in report.tests if not test.backend]
    lines += _reasons("cluster trouble", [test for test in nowhere if test.is_infrastructure])
    lines += _reasons("skipped", [test for test in nowhere if test.is_cluster_test and test.outcome == "skipped"])
    lines += _listed("kept", report.kept)
    lines += _listed("cancelled at the end", report.cancelled)
    lines += _listed("left behind and still there", report.leaked)
    return lines + [f"problem: {text.splitlines()[0]}" for text in report.problems if text]


def _backend_lines(name: str, tests: Sequence[ReportedTest], jobs: Sequence[Job]) -> list[str]:
    outcomes = Counter(test.outcome for test in tests)
    parts = [f"{sum(test.has_run for test in tests)} ran"]
    parts += [f"{outcomes['failed']} failed"] if outcomes["failed"] else []
    parts += [f"{outcomes['error']} error{'s' if outcomes['error'] > 1 else ''}"] if outcomes["error"] else []
    parts += [f"{outcomes['skipped']} skipped"] if outcomes["skipped"] else []
    line = f"{name}: {', '.join(parts)}"
    if jobs:
        line += f"; {len(jobs)} job{'s' if len(jobs) > 1 else ''}"
        queued, run = _total(jobs, "queue_time_s"), _total(jobs, "run_time_s")
        line += "" if queued is None else f", queued {format_duration(queued)}"
        line += "" if run is None else f", ran {format_duration(run)}"
    troubled = [test for test in tests if test.is_infrastructure]
    skipped = [test for test in tests if test.outcome == "skipped"]
    return [line, *_reasons("  cluster trouble", troubled), *_reasons("  skipped", skipped)]


def _total(jobs: Iterable[Job], metric: str) -> float | None:
    known = [job["metrics"][metric] for job in jobs if job["metrics"][metric] is not None]
    return sum(known) if known else None


def _reasons(title: str, tests: Iterable[ReportedTest]) -> list[str]:
    counted = Counter(test.reason or "no reason given" for test in tests).most_common()
    lines = [f"{title} {count}: {reason}" for reason, count in counted[:_MAX_LISTED]]
    rest = sum(count for _, count in counted[_MAX_LISTED:])
    return [*lines, f"{title} {rest}: for other reasons"] if rest else lines


def _listed(title: str, items: Sequence[str]) -> list[str]:
    lines = [f"{title}: {item}" for item in items[:_MAX_LISTED]]
    return [*lines, f"{title}: {len(items) - _MAX_LISTED} more"] if len(items) > _MAX_LISTED else lines
