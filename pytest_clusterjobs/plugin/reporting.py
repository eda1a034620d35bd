"""What each test's reports say of its jobs, and whose trouble an error is. In plain pytest and in workers.

What is known of a test travels in the attribute ``clusterjobs`` of its reports, in JSON types, so that it crosses from
a worker of pytest-xdist to the controller like everything else in a report.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pytest_clusterjobs.plugin.items import BACKEND, FAILED, FIGURES, ITEM, TOLD, TROUBLE
from pytest_clusterjobs.plugin.session import ClusterSession

if TYPE_CHECKING:
    from pytest_clusterjobs.engine.job import Job
    from pytest_clusterjobs.engine.run import Run

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

#: The attribute of a report.
ATTRIBUTE = "clusterjobs"


class ItemReporting:
    """Makes the reports tell of jobs."""

    def __init__(self, session: ClusterSession) -> None:
        self._session = session

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add what is known of the test's jobs, and tell the cluster's trouble from the test's."""
        run = self._session.active_run
        jobs = [] if run is None else run.jobs_of(item.nodeid)
        error = None if call.excinfo is None else call.excinfo.value
        is_trouble = error is not None and (item.stash.get(TROUBLE, False) or is_infrastructure(error))
        if not item.config.getoption("fulltrace", False):
            _hide_our_frames(error)
        with _without_evidence(error, tuple(job.record.name for job in jobs)):
            report = yield
        _name_error_shortly(report)
        if is_trouble and not _is_expected(item, report):
            # An expected failure is the test's; the cluster's trouble is never that, and never a pass.
            vars(report).pop("wasxfail", None)
            report.outcome = "failed"
        if report.failed:
            item.stash[FAILED] = True
            if run is not None and jobs:
                run.keep_jobs_of(item.nodeid)
                told = item.stash.setdefault(TOLD, set())
                _tell(report, run, [job for job in jobs if job.job_id not in told])
                told.update(job.job_id for job in jobs)
        if jobs or ITEM in item.stash or is_trouble:
            setattr(report, ATTRIBUTE, self._facts(item, report, jobs, is_trouble))
        return report

    def _facts(
        self, item: pytest.Item, report: pytest.TestReport, jobs: list[Job[Any]], is_trouble: bool
    ) -> dict[str, Any]:
        known = item.stash.get(ITEM, None)
        backend = item.stash.get(BACKEND, None) or (known.plan.backends[0] if known and known.plan.backends else None)
        facts: dict[str, Any] = {
            "backend": backend or (jobs[0].record.backend if jobs else None),
            "is_cluster_test": known is not None and known.marks.is_cluster_test,
            "infrastructure": is_trouble and report.failed,
        }
        if report.when == "teardown":  # the last one: by now the jobs are what they will be
            facts["jobs"] = [job.record.to_dict() for job in jobs]
            facts["figures"] = item.stash.get(FIGURES, [])
        return facts


def _tell(report: pytest.TestReport, run: Run, jobs: list[Job[Any]]) -> None:
    """Add a section for each job: to the error's text, which --show-capture does not hide and JUnit XML has too."""
    from pytest_clusterjobs.plugin.sections import sections_for

    longrepr: Any = report.longrepr
    for title, text in sections_for(run, jobs):
        if hasattr(longrepr, "addsection"):  # not when it is mere text
            longrepr.addsection(title, text)
        else:
            report.sections.append((title, text))


def is_infrastructure(error: BaseException) -> bool:
    """Tell whether an exception, or every one of a group, is the cluster's trouble."""
    parts = getattr(error, "exceptions", None)
    if isinstance(parts, tuple) and parts:
        return all(is_infrastructure(part) for part in parts)
    errors = sys.modules.get("pytest_clusterjobs.core.errors")
    return errors is not None and bool(errors.is_infrastructure(error))


def _hide_our_frames(error: BaseException | None) -> None:
    """Have an error of ours end where the user called us. For good: pytest starts from the raw traceback."""
    errors: Any = sys.modules.get("pytest_clusterjobs.core.errors")
    if errors is None or not isinstance(error, errors.ClusterJobsError):
        return
    here = error.__traceback__
    while here is not None:
        while here.tb_next is not None and here.tb_next.tb_frame.f_code.co_filename.startswith(_OURS):
            here.tb_next = here.tb_next.tb_next
        here = here.tb_next
    if isinstance(error, errors.PayloadError):
        error.__cause__ = None  # the message has its last line, and its frames are pickle's


def _name_error_shortly(report: pytest.TestReport) -> None:
    """Leave the module of our errors out of the summary's line, which would end before it has said what happened."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        crash.message = crash.message.removeprefix("pytest_clusterjobs.core.errors.")


def _is_expected(item: pytest.Item, report: pytest.TestReport) -> bool:
    """Tell whether the test says that it expects this very type of error."""
    return hasattr(report, "wasxfail") and any(
        mark.kwargs.get("raises") is not None for mark in item.iter_markers("xfail")
    )


@contextmanager
def _without_evidence(error: BaseException | None, names: tuple[str, ...]) -> Iterator[None]:
    """Have the errors of these jobs tell their first line alone inside: the jobs' sections have the rest."""
    taken: list[tuple[Any, str]] = []
    errors: Any = sys.modules.get("pytest_clusterjobs.core.errors")
    for _ in range(20 if names and errors is not None else 0):  # a circle of causes must not hang us
        if isinstance(error, errors.JobError) and error.message.startswith(names):
            taken.append((error, error.evidence))
            error.evidence = ""
        if error is not None:
            error = error.__cause__ or error.__context__
    try:
        yield
    finally:
        for stripped, evidence in reversed(taken):
            stripped.evidence = evidence
