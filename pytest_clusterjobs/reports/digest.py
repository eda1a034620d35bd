"""What the reports for people have in common: counts for each backend, and what a job asked for and used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_clusterjobs.core.units import format_duration, format_memory
from pytest_clusterjobs.reports.model import OUTCOMES, Job, ReportedTest, RunReport

#: How the outcomes are counted in words: one, several.
_WORDS = {"error": ("error", "errors")}


@dataclass(frozen=True, slots=True)
class BackendDigest:
    """What ran on one backend."""

    #: Its name.
    name: str
    #: The scheduler's version, "" where it is not known.
    version: str
    #: Its tests, in order.
    tests: tuple[ReportedTest, ...]
    #: Its jobs, in order of their tests.
    jobs: tuple[Job, ...]

    @property
    def ran(self) -> int:
        """How many tests' bodies were called."""
        return sum(test.has_run for test in self.tests)

    @property
    def outcomes(self) -> Counter[str]:
        """How many tests ended how."""
        return Counter(test.outcome for test in self.tests)

    def total(self, metric: str) -> float | None:
        """Add up a figure of the jobs; None when none of them has it."""
        known = [value for job in self.jobs if (value := job["metrics"].get(metric)) is not None]
        return sum(known) if known else None


def by_backend(report: RunReport) -> list[BackendDigest]:
    """Give what ran where, one for each backend that has a test or a job."""
    tests: dict[str, list[ReportedTest]] = {}
    jobs: dict[str, list[Job]] = {}
    for test in report.tests:
        if test.backend:
            tests.setdefault(test.backend, []).append(test)
    for job in report.jobs:
        jobs.setdefault(job["backend"], []).append(job)
    versions = {backend.name: backend.version for backend in report.backends}
    return [
        BackendDigest(name, versions.get(name, ""), tuple(tests.get(name, ())), tuple(jobs.get(name, ())))
        for name in dict.fromkeys([*tests, *jobs])
    ]


def shares(job: Job) -> dict[str, float]:
    """Give the parts of cores, memory and time that a job used of what it asked for, 1.0 for all; only known ones."""
    parts = job.get("efficiency", {})
    return {name: parts[name]["used"] / parts[name]["asked"] for name in ("cores", "memory", "time") if name in parts}


def requested_text(job: Job) -> str:
    """Say in one line what a job asked for."""
    requested = job["requested"]
    parts = [_count(requested.get("nodes", 1), "node")] if requested.get("nodes", 1) > 1 else []
    parts.append(_count(requested.get("cores", 1), "core"))
    parts += [format_memory(requested["memory_bytes"])] if requested.get("memory_bytes") else []
    parts += [_count(requested["gpus"], "GPU")] if requested.get("gpus") else []
    parts += [format_duration(requested["time_limit_s"])] if requested.get("time_limit_s") else []
    parts += [str(requested["partition"])] if requested.get("partition") else []
    return ", ".join(parts)


def used_text(job: Job) -> str:
    """Say in one line what a job used: its CPU time and its memory; "" where neither is known."""
    metrics = job["metrics"]
    cpu, memory = metrics.get("cpu_time_s"), metrics.get("max_rss_bytes")
    parts = [] if cpu is None else [f"cpu {format_duration(cpu)}"]
    return ", ".join(parts if memory is None else [*parts, format_memory(memory)])


def end_text(job: Job) -> str:
    """Say where a job is and why: ``FAILED: out_of_memory, signal 9``."""
    metrics = job["metrics"]
    code, signal = metrics.get("exit_code"), metrics.get("signal")
    parts = [str(job["reason"])] if job["reason"] else []
    parts += [f"exit code {code}"] if code else []
    parts += [f"signal {signal}"] if signal else []
    return f"{job['state']}: {', '.join(parts)}" if parts else str(job["state"])


def figure_text(figure: Any) -> str:
    """Say what a figure of performance is, and what it was compared with."""
    text = f"{figure['metric']} {number(figure['value'])} {figure['unit']}".rstrip()
    if figure["reference"] is None:
        return text
    lower, upper = (
        "any" if figure[bound] is None else f"{number(figure[bound])} {figure['unit']}".rstrip()
        for bound in ("lower", "upper")
    )
    return f"{text} (reference {number(figure['reference'][0])}, allowed {lower} to {upper})"


def number(value: float | None) -> str:
    """Write a figure for people: at most six digits that count."""
    return "-" if value is None else f"{value:.6g}"


def counts_text(report: RunReport) -> str:
    """Say how the tests ended, as pytest counts: ``1 failed, 2 errors, 14 passed``."""
    counts = report.counts
    known = [(counts[outcome], _WORDS.get(outcome, (outcome, outcome))) for outcome in OUTCOMES if counts.get(outcome)]
    others = [(count, (word, word)) for word, count in counts.items() if count and word not in OUTCOMES]
    return ", ".join(f"{count} {words[count != 1]}" for count, words in known + others) or "no tests"


def reasons(tests: Iterable[ReportedTest]) -> list[tuple[str, int]]:
    """Count the reasons of tests, the most frequent first."""
    return Counter(test.reason or "no reason given" for test in tests).most_common()


def leftovers(report: RunReport) -> list[tuple[str, Sequence[str]]]:
    """Give what the run kept, cancelled and left, each with its title; nothing for what is empty."""
    listed = [
        ("kept", report.kept),
        ("cancelled at the end", report.cancelled),
        ("left behind and still there", report.leaked),
        ("problem", report.problems),
    ]
    return [(title, items) for title, items in listed if items]


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' if number != 1 else ''}"
