"""Where the report of a run goes: files, and the summary that a CI job shows. In plain pytest and in the controller."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from pytest_clusterjobs.plugin import rerun, xdist
from pytest_clusterjobs.plugin.session import ClusterSession
from pytest_clusterjobs.reports import files
from pytest_clusterjobs.reports.model import RunReport, clean


class Destinations(NamedTuple):
    """Where the report goes."""

    #: Files; the suffix is the format.
    paths: tuple[str, ...] = ()
    #: The file of GitHub Actions to which a step appends its summary, or "".
    step_summary: str = ""

    def __bool__(self) -> bool:
        return any(self)


def destinations(session: ClusterSession) -> Destinations:
    """Give where the report of this session goes: nowhere when pytest only looks for tests."""
    if session.config.option.collectonly:
        return Destinations()
    return Destinations(session.values.report, "" if _is_in_a_job() else os.environ.get("GITHUB_STEP_SUMMARY", ""))


def publish(session: ClusterSession, report: RunReport, where: Destinations) -> tuple[RunReport, list[str]]:
    """Write the report.

    Returns:
        The report with the command that runs again what failed, and what could not be written.
    """
    problems = _update_baseline(session, report)
    command, listed = rerun.command(session, [test.nodeid for test in report.failures], where.paths)
    report = replace(report, rerun=clean(command))
    if listed:
        problems += _try(rerun.list_path(where.paths), lambda path: files.write_pieces([listed], path))
    for path in where.paths:
        problems += _try(path, lambda path: files.write(report, path))
    forgotten = _remember(session, report)
    if where.step_summary and report.is_about_clusters:
        problems += _try(where.step_summary, lambda path: _append_summary(report, path))
    return replace(report, problems=(*report.problems, *problems, *forgotten)), problems


def _is_in_a_job() -> bool:
    """Tell whether this pytest is itself what a job runs: the run that submitted it reports."""
    return "CLUSTERJOBS_JOB_ID" in os.environ


def _update_baseline(session: ClusterSession, report: RunReport) -> list[str]:
    values = session.values
    if not values.baseline_update or session.config.option.collectonly:
        return []
    from pytest_clusterjobs.plugin.performance import read_references
    from pytest_clusterjobs.reports import performance

    tests = tuple(replace(test, nodeid=xdist.id_without_group(session.config, test.nodeid)) for test in report.tests)
    known = read_references(session)
    return _try(values.baseline, lambda path: performance.update(path, known, replace(report, tests=tests)))


def _remember(session: ClusterSession, report: RunReport) -> list[str]:
    """Add the run to the history. It is no reason to fail that this cannot be done."""
    if not session.values.history or session.config.option.collectonly or _is_in_a_job():
        return []
    from pytest_clusterjobs.reports import history

    try:
        history.record(history.default_path(), str(session.config.rootpath), report, session.values.history)
    except history.HistoryError as error:
        return [f"{error}; --cluster-history=off switches it off"]
    return []


def _try(path: str, write: Callable[[str], object]) -> list[str]:
    try:
        write(path)
    except OSError as error:
        return [f"cannot write {path}: {error.strerror or error}"]
    return []


def _append_summary(report: RunReport, path: str) -> None:
    from pytest_clusterjobs.reports import markdown

    there = os.path.getsize(path) if os.path.exists(path) else 0  # of the same step: what it has written already counts
    text = markdown.render(report, markdown.LIMIT_BYTES - there - 1)
    with open(path, "a", encoding="utf-8") as file:
        file.write("\n" + text if text else "")
