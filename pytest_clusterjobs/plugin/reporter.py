"""Gathers what became of tests and jobs, prints it and has it written. In plain pytest and in the controller."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from pytest_clusterjobs.core.record import utc_now
from pytest_clusterjobs.plugin import publishing
from pytest_clusterjobs.plugin.reporting import ATTRIBUTE
from pytest_clusterjobs.plugin.session import ClusterSession
from pytest_clusterjobs.reports.model import (
    FAILURES,
    OUTCOMES,
    ReportedBackend,
    ReportedTest,
    RunReport,
    clean,
    gravest,
    shorten,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Characters of one failure's text, and of the line that says what failed.
_TEXT_LIMIT, _REASON_LIMIT = 20_000, 2_000


@dataclass(slots=True)
class _Seen:
    """What the reports of one test have said so far."""

    outcomes: list[str] = field(default_factory=list)
    backend: str | None = None
    is_cluster_test: bool = False
    is_infrastructure: bool = False
    has_run: bool = False
    duration_s: float = 0.0
    reasons: dict[str, str] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    reruns: int = 0
    job_ids: list[str] = field(default_factory=list)
    figures: tuple[dict[str, Any], ...] = ()


class Reporter:
    """Header, letters, summary section, reports."""

    def __init__(self, session: ClusterSession) -> None:
        self._session = session
        self._tests: dict[str, _Seen] = {}
        self._counts: Counter[str] = Counter()
        self._jobs: dict[str, dict[str, Any]] = {}
        self._backends: dict[str, ReportedBackend] = {}
        self._lists: dict[str, list[str]] = {"kept": [], "cancelled": [], "leaked": [], "problems": []}
        self._started_at = utc_now()
        self._report: RunReport | None = None
        self._destinations = publishing.destinations(session)
        # Without a report that counts all tests a look at those that failed is enough: it is quicker in huge suites.
        self._counts_all = bool(self._destinations) or session.is_asked

    def pytest_report_header(self) -> str | None:
        """Say which run this is and which backends it uses, if clusters were asked for."""
        if not self._session.is_asked:
            return None
        values = self._session.values
        names, source = ", ".join(values.cluster), values.cluster_source
        if not names:
            names, source = values.default, "-m"
        return f"clusterjobs: run {self._session.run_id}, backends: {names} (from {source}), keep {values.keep}"

    # ------------------------------------------------------------ reports come in

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(
        self, report: pytest.TestReport
    ) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
        """Count the cluster's trouble as an error, in whatever phase it came."""
        if report.failed and getattr(report, ATTRIBUTE, {}).get("infrastructure"):
            return "error", "E", ("ERROR", {"red": True})
        return None

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in one phase of a test."""
        facts: dict[str, Any] = getattr(report, ATTRIBUTE, {})
        if facts or self._counts_all or report.failed:
            self._take_in(report, facts)

    def _take_in(self, report: pytest.TestReport, facts: Mapping[str, Any]) -> None:
        seen = self._tests.setdefault(report.nodeid, _Seen())
        category = self._count(report)
        if category in OUTCOMES:
            seen.outcomes.append(category)
            seen.reasons.setdefault(category, _reason(report))
        seen.reruns += category == "rerun"
        if self._destinations and category in FAILURES:
            seen.texts.append(_text(report))
        seen.duration_s += getattr(report, "duration", 0.0)
        seen.backend = facts.get("backend") or seen.backend
        seen.has_run |= report.when == "call"
        seen.is_cluster_test |= bool(facts.get("is_cluster_test"))
        seen.is_infrastructure |= bool(facts.get("infrastructure"))
        seen.figures = tuple(facts.get("figures", seen.figures))
        for job in facts.get("jobs", ()):
            self._jobs[job["job_id"]] = job
            seen.job_ids.append(job["job_id"])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Take in modules that could not be collected, or are skipped as a whole: pytest counts them."""
        if report.failed or (report.skipped and self._counts_all):
            category = "error" if report.failed else "skipped"
            self._counts[category] += 1
            self._tests[report.nodeid] = _Seen(
                [category], reasons={category: _reason(report)}, texts=[_text(report)] if report.failed else []
            )

    def _count(self, report: pytest.TestReport) -> str:
        config = self._session.config
        status = config.hook.pytest_report_teststatus(report=report, config=config)
        # Without pytest's terminal plugin nobody has a word for what simply passed or failed.
        category = str(status[0]) if status else report.outcome if report.when == "call" else ""
        if category:
            self._counts[category] += 1
        return category

    # ------------------------------------------------------------ the end

    def absorb(self, output: Mapping[str, Any]) -> None:
        """Take in what a process knows at its end: its jobs as they are now, what it kept, cancelled and probed."""
        for job in output.get("jobs", ()):
            self._jobs[job["job_id"]] = job
        for probe in output.get("probes", ()):
            self._backends.setdefault(probe["name"], ReportedBackend(**probe))
        for name, items in self._lists.items():
            items += [item for item in output.get(name, ()) if item not in items]

    def finish(self, exit_status: int) -> bool:
        """Make the report of the run, and write it where it was asked for. Called when everything has come in.

        Returns:
            False when something could not be written; the report then has the problem.
        """
        lists: dict[str, Any] = {name: tuple(items) for name, items in self._lists.items()}
        assigned = {job_id for seen in self._tests.values() for job_id in seen.job_ids}
        report = RunReport(
            run_id=self._session.run_id,
            started_at=self._started_at,
            ended_at=utc_now(),
            exit_status=exit_status,
            counts=self._counts,
            backends=tuple(self._backends.values()),
            tests=tuple(self._reported(nodeid, seen) for nodeid, seen in self._tests.items()),
            other_jobs=tuple(job for job_id, job in self._jobs.items() if job_id not in assigned),
            **lists,
        ).cleaned()
        self._report, problems = publishing.publish(self._session, report, self._destinations)
        return not problems

    def _reported(self, nodeid: str, seen: _Seen) -> ReportedTest:
        outcome = gravest(tuple(seen.outcomes))
        return ReportedTest(
            nodeid,
            outcome,
            seen.backend,
            seen.duration_s,
            "" if outcome == "passed" else seen.reasons.get(outcome, ""),
            seen.is_infrastructure,
            tuple(self._jobs[job_id] for job_id in dict.fromkeys(seen.job_ids)),
            seen.is_cluster_test,
            seen.has_run,
            "\n\n".join(seen.texts),
            seen.reruns,
            seen.figures,
        )

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the section about clusters, if there is anything to say."""
        if self._report is None:
            return
        from pytest_clusterjobs.plugin.summary import summary_lines

        lines = summary_lines(self._report)
        lines += [f"report: {os.path.relpath(path)}" for path in self._destinations.paths]
        lines += [f"run again what failed: {self._report.rerun}"] if lines and self._report.rerun else []
        if lines:
            terminalreporter.write_sep("=", "cluster jobs")
            for line in lines:
                terminalreporter.write_line(line)


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Give the line that says why a phase did not pass; of a long one the beginning."""
    # Cleaned before it is cut: half a secret would not be known as one.
    text = clean(_whole_reason(report))
    return text if len(text) <= _REASON_LIMIT else f"{text[:_REASON_LIMIT]}..."


def _whole_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    if getattr(report, "wasxfail", ""):
        return str(report.wasxfail).removeprefix("reason: ")
    longrepr: Any = report.longrepr
    if isinstance(longrepr, tuple):
        return str(longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(longrepr, "reprcrash", None)
    text = str(crash.message if crash is not None else longrepr or "").strip()
    line = text.splitlines()[0] if text else ""
    return line.removeprefix("Failed: ").removeprefix("pytest_clusterjobs.core.errors.")


def _text(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Give what pytest tells of a failure, and the jobs' sections where they could not be added to that."""
    mine = [f"{title}\n{text}" for title, text in report.sections if not title.startswith("Captured ")]
    return shorten(clean("\n\n".join([report.longreprtext, *mine])), _TEXT_LIMIT)


def check_writable(path: str) -> None:
    """See that a report can be written, before hours of jobs.

    Raises:
        pytest.UsageError: It cannot.
    """
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, exist_ok=True)
        if os.path.isdir(path):
            raise IsADirectoryError(21, "Is a directory")
        probe = os.path.join(folder, f".clusterjobs-{os.getpid()}.tmp")
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.unlink(probe)
    except OSError as error:
        raise pytest.UsageError(f"--cluster-report: cannot write {path}: {error.strerror or error}") from None
