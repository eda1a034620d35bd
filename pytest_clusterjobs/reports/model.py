"""What a report says of a run, as plain data: its tests, their jobs, the backends, and what was left or kept.

Every text of a report goes through `clean` before anything is rendered from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import datetime
from typing import Any

from pytest_clusterjobs.core.redaction import redact

#: Version of the layout of `RunReport.to_dict`. It grows when a field changes its meaning or goes away.
SCHEMA = 1

#: What can become of a test, the gravest first. The words are pytest's.
OUTCOMES = ("error", "failed", "xpassed", "xfailed", "skipped", "passed")

#: Outcomes that make a run fail.
FAILURES = ("error", "failed")

#: Colours and cursor movements of terminals, and characters that neither XML nor UTF-8 can carry.
_UNPRINTABLE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]"
)

#: A job as ``JobRecord.to_dict`` gives it: it has crossed a process's border when it gets here.
Job = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ReportedTest:
    """One test, all its phases together."""

    #: pytest's id.
    nodeid: str
    #: One of ``OUTCOMES``: the gravest of its phases'.
    outcome: str
    #: The backend it ran on, or was meant to; None for a test that has nothing to do with clusters.
    backend: str | None = None
    #: Seconds, setup and teardown included.
    duration_s: float = 0.0
    #: Why it was skipped, or the line that says what failed; "" for a pass.
    reason: str = ""
    #: True: its error is the cluster's trouble.
    is_infrastructure: bool = False
    #: Its jobs, in order of submission.
    jobs: tuple[Job, ...] = ()
    #: True: it is marked, or decorated, to need a cluster.
    is_cluster_test: bool = False
    #: True: its body was called, whatever came of it.
    has_run: bool = False
    #: What pytest and the jobs' sections tell of its failure, "" without one. A long one has its middle left out.
    text: str = ""
    #: How often it was run again, as pytest-rerunfailures counts.
    reruns: int = 0
    #: Its figures of performance: ``metric``, ``value``, ``unit``, ``reference``, ``lower``, ``upper``, ``passed``.
    figures: tuple[Mapping[str, Any], ...] = ()

    @property
    def has_failed(self) -> bool:
        """True when it makes the run fail."""
        return self.outcome in FAILURES

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON types."""
        return {
            "nodeid": self.nodeid,
            "outcome": self.outcome,
            "cluster_test": self.is_cluster_test,
            "ran": self.has_run,
            "backend": self.backend,
            "duration_s": round(self.duration_s, 6),
            "reason": self.reason or None,
            "infrastructure": self.is_infrastructure,
            "text": self.text or None,
            "reruns": self.reruns,
            "figures": [dict(figure) for figure in self.figures],
            "jobs": [dict(job) for job in self.jobs],
        }


@dataclass(frozen=True, slots=True)
class ReportedBackend:
    """A backend that was asked whether it can be used."""

    #: Its name.
    name: str
    #: True when it answered.
    is_available: bool
    #: The scheduler's version, "" where it did not answer.
    version: str = ""
    #: Why it cannot be used, "" where it can.
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON types."""
        return {
            "name": self.name,
            "available": self.is_available,
            "version": self.version or None,
            "reason": self.reason or None,
        }


@dataclass(frozen=True, slots=True)
class RunReport:
    """One run."""

    #: Random; in every job's name.
    run_id: str
    #: UTC.
    started_at: datetime
    #: UTC.
    ended_at: datetime
    #: The process's exit status as far as pytest knows it.
    exit_status: int
    #: How often pytest counted each outcome: a test that fails and then has an error in its teardown counts twice.
    #: Other plugins' outcomes are here too.
    counts: Mapping[str, int] = field(default_factory=dict)
    #: The backends that were asked.
    backends: tuple[ReportedBackend, ...] = ()
    #: All tests that ran or were skipped, in order.
    tests: tuple[ReportedTest, ...] = ()
    #: Jobs that belong to no test: of fixtures of a wider scope, for instance.
    other_jobs: tuple[Job, ...] = ()
    #: Directories that were kept.
    kept: tuple[str, ...] = ()
    #: Names of the jobs that had to be cancelled at the end.
    cancelled: tuple[str, ...] = ()
    #: The scheduler's ids of jobs that nobody waited for any more, found and cancelled.
    leaked: tuple[str, ...] = ()
    #: What went wrong at the end, in words.
    problems: tuple[str, ...] = ()
    #: The command, for a shell, that runs again what failed; "" when nothing did.
    rerun: str = ""

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All jobs."""
        return (*(job for test in self.tests for job in test.jobs), *self.other_jobs)

    @property
    def failures(self) -> tuple[ReportedTest, ...]:
        """The tests that make the run fail."""
        return tuple(test for test in self.tests if test.has_failed)

    @property
    def is_about_clusters(self) -> bool:
        """True when there was a cluster test or a job at all."""
        return bool(self.jobs or self.problems or any(test.backend or test.is_cluster_test for test in self.tests))

    def cleaned(self) -> RunReport:
        """Give a copy whose every text is `clean`."""
        return replace(self, **{item.name: _cleaned(getattr(self, item.name)) for item in fields(self)})

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON types."""
        return {
            "schema": SCHEMA,
            "run_id": self.run_id,
            "started_at": self.started_at.isoformat(timespec="milliseconds"),
            "ended_at": self.ended_at.isoformat(timespec="milliseconds"),
            "duration_s": round((self.ended_at - self.started_at).total_seconds(), 3),
            "exit_status": self.exit_status,
            "counts": {**dict.fromkeys(reversed(OUTCOMES), 0), **self.counts},
            "backends": [backend.to_dict() for backend in self.backends],
            "tests": [test.to_dict() for test in self.tests],
            "other_jobs": [dict(job) for job in self.other_jobs],
            "kept": list(self.kept),
            "cancelled": list(self.cancelled),
            "leaked": list(self.leaked),
            "problems": list(self.problems),
            "rerun": self.rerun or None,
        }


def gravest(outcomes: tuple[str, ...]) -> str:
    """Give the gravest of several outcomes; "passed" for none."""
    return min(outcomes, key=OUTCOMES.index, default="passed")


def clean(text: str) -> str:
    """Give a text as reports may show it. The one place that every text of every report comes through."""
    return redact(_UNPRINTABLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def shorten(text: str, limit: int) -> str:
    """Leave out the middle of a text of more than ``limit`` characters: it begins with the place and ends with logs."""
    if len(text) <= limit:
        return text
    head = limit // 4
    return f"{text[:head]}\n[... {len(text) - limit} characters are left out here ...]\n{text[head - limit :]}"


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {key: _cleaned(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_cleaned(item) for item in value])
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{item.name: _cleaned(getattr(value, item.name)) for item in fields(value)})
    return value
