"""The end of a session, however it comes: jobs cancelled, files removed or listed, throw-away clusters taken down."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from pytest_clusterjobs.core.redaction import redact_all
from pytest_clusterjobs.engine.scrubbing import scrub
from pytest_clusterjobs.plugin import xdist
from pytest_clusterjobs.plugin.session import ClusterSession
from pytest_clusterjobs.plugin.signals import TerminationGuard, uninterrupted

if TYPE_CHECKING:
    from pytest_clusterjobs.core.record import JobRecord
    from pytest_clusterjobs.engine.run import Run
    from pytest_clusterjobs.plugin.reporter import Reporter


log = logging.getLogger("pytest_clusterjobs")


class Ending:
    """Closes what the session opened, once, in the first of the hooks that is reached."""

    def __init__(self, session: ClusterSession, reporter: Reporter | None, controller: xdist.Controller | None) -> None:
        self._session, self._reporter, self._controller = session, reporter, controller
        self._guard = TerminationGuard()
        self._is_done = False
        session.on_start.append(lambda _: self._guard.install())

    def watch_signals(self) -> None:
        """Have SIGTERM and SIGHUP end this process in order, though it runs no job itself."""
        self._guard.install()

    def pytest_keyboard_interrupt(self) -> None:
        """Keep a second Ctrl-C from cutting short the clean-up after the first, where there is anything to clean up."""
        if os.path.isdir(os.path.join(self._session.settings.workdir, self._session.run_id)):
            self._guard.shield()

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Generator[None, object, object]:
        """Close the run: after the fixtures' teardown and the workers' end, before the summary is printed."""
        try:
            return (yield)
        finally:
            with uninterrupted():
                self.end(session)

    def pytest_unconfigure(self) -> None:
        """Close what an interrupted end has left, and give signals and engine back."""
        with uninterrupted():
            self.end(None)
        self._session.close()
        self._guard.restore()

    def end(self, session: pytest.Session | None) -> None:
        """Do all of it. Idempotent; ends within about a minute; raises nothing that would hide the tests' results."""
        if self._is_done:
            return
        self._is_done = True
        output = self._close_run()
        if xdist.is_worker(self._session.config):
            xdist.send_home(self._session.config, output)
        if self._reporter is None:
            return
        self._reporter.absorb(output)
        if self._controller is not None:
            self._controller.adopt_missing()
            for each in self._controller.outputs:
                self._reporter.absorb(each)
            self._tidy_shared()
        if session is not None:
            self._finish_report(session)

    def _close_run(self) -> dict[str, Any]:
        run = self._session.active_run
        if run is None:
            return {}
        self._announce(run)
        with suppress(OSError):  # absent, or something in it is kept
            os.rmdir(self._session.files_directory)
        try:
            output = last_words(run, self._session)
        except Exception as error:  # the edge of the process: the tests' results must be reported whatever happens here
            log.exception("clusterjobs: the end of run %s failed", run.run_id)
            return {"problems": [f"the end of the run failed, jobs may be left: {error!r}"]}
        for path in filter(os.path.isdir, self._session.kept):
            output["kept"].append(path)
            output["problems"] += scrub(path)
        redacted: dict[str, Any] = redact_all(output)
        return redacted

    def _announce(self, run: Run) -> None:
        count = sum(not record.state.is_terminal for record in run.records)
        terminal: Any = self._session.config.pluginmanager.get_plugin("terminalreporter")
        if count and terminal is not None and not xdist.is_worker(self._session.config):
            with suppress(OSError):  # the terminal may be what has gone
                terminal.ensure_newline()
                if self._session.config.get_terminal_writer().width_of_current_line:  # the progress of -q
                    terminal.line("")
                terminal.write_line(f"clusterjobs: cancelling {count} unfinished job{'s' if count > 1 else ''} ...")

    def _tidy_shared(self) -> None:
        """Remove what the workers shared, once the last of them is down."""
        settings = self._session.settings
        if os.path.isdir(os.path.join(settings.workdir, self._session.run_id)):
            self._session.run.close()
            self._session.run.store.remove_run()

    def _finish_report(self, session: pytest.Session) -> None:
        assert self._reporter is not None  # noqa: S101 - for the type checker
        if not self._reporter.finish(int(session.exitstatus)):
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def last_words(run: Run, session: ClusterSession) -> dict[str, Any]:
    """Close a run and give what the report must know, in JSON types."""
    report = run.close()
    ours = [record for record in run.records if _is_news(record)]
    return {
        "jobs": [_told(record, run) for record in ours],
        "probes": [
            {
                "name": probe.name,
                "is_available": probe.is_available,
                "version": probe.info.version if probe.info is not None else "",
                "reason": session.reason(probe),
            }
            for probe in session.probes.values()
        ],
        "kept": list(report.kept),
        "cancelled": [record.name for record in report.cancelled],
        "leaked": list(report.leaked),
        "problems": list(report.problems),
    }


def _told(record: JobRecord, run: Run) -> dict[str, Any]:
    """Give a record for the report; the id of a job that was reconnected to tells its run too, to be unique there."""
    known = record.to_dict()
    return known if record.run_id == run.run_id else {**known, "job_id": f"{record.run_id}.{record.job_id}"}


def _is_news(record: JobRecord) -> bool:
    """Tell whether the reports of the tests cannot have said it all: no test's, or changed since."""
    return not record.test_id or record.is_kept or not record.state.is_terminal or record.state.value == "CANCELLED"
