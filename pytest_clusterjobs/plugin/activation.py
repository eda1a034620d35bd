"""Checks the options, and registers what runs and reports cluster tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_clusterjobs.plugin import session as sessions
from pytest_clusterjobs.plugin import xdist
from pytest_clusterjobs.plugin.collecting import Collecting
from pytest_clusterjobs.plugin.values import LOCAL

if TYPE_CHECKING:
    from pytest_clusterjobs.engine.run import Run
    from pytest_clusterjobs.plugin.ending import Ending


class Activation:
    """Made once in a session that has to do with clusters."""

    def __init__(self, config: pytest.Config) -> None:
        #: The session's options and its run.
        self.session = sessions.of(config)
        #: What is done with the collected tests.
        self.collecting = Collecting(self.session)
        self._config = config
        #: True in a worker that must keep some tests together.
        self.groups_tests = False
        self._ending: Ending | None = None
        self.session.on_start.append(self._begin_with)

    @property
    def was_asked(self) -> bool:
        """True when clusters or a report were asked for."""
        return self.session.is_asked or bool(self.session.values.report)

    def check_options(self) -> None:
        """See that what was asked for can be done. Starts nothing.

        Raises:
            pytest.UsageError: A name, a directory or a report's path is wrong.
        """
        session, values = self.session, self.session.values
        if values.cluster or values.default != LOCAL:
            session.check_names()
        is_dry = self._config.option.collectonly
        if values.workdir or (values.cluster and not is_dry):
            _ = session.settings  # a wrong one, or several, are an error now, not at each test
        if values.report and not is_dry:
            from pytest_clusterjobs.plugin.reporter import check_writable

            for path in values.report:
                check_writable(path)
        if values.matrix:
            from pytest_clusterjobs.plugin.matrix import Matrix

            self._config.pluginmanager.register(Matrix(session), "clusterjobs-matrix")
        if values.baseline and not is_dry:
            from pytest_clusterjobs.plugin.performance import read_references

            read_references(session)
        if values.up and not xdist.is_worker(self._config):
            from pytest_clusterjobs.plugin.throwaway import ThrowAwayClusters, kinds_for

            kinds = kinds_for(session)
            if not is_dry:
                clusters = ThrowAwayClusters(session, kinds)
                self._config.pluginmanager.register(clusters, "clusterjobs-throwaway")

    def _begin_with(self, run: Run) -> None:
        self.begin()

    def begin(self) -> Ending:
        """Register what runs and reports cluster tests. Idempotent; not before pytest is configured.

        Raises:
            pytest.UsageError: A configuration file is wrong, and a cluster was asked for.
        """
        if self._ending is None:
            if self.session.is_asked:
                self.session.check_files()
                if self.session.serial:
                    self.groups_tests = xdist.group_tests(self._config)
            self._ending = self._register()
        return self._ending

    def _register(self) -> Ending:
        from pytest_clusterjobs.plugin.ending import Ending
        from pytest_clusterjobs.plugin.execution import Execution
        from pytest_clusterjobs.plugin.performance import Performance
        from pytest_clusterjobs.plugin.redacting import Redacting
        from pytest_clusterjobs.plugin.reporting import ItemReporting
        from pytest_clusterjobs.plugin.validating import Validating

        session, manager = self.session, self._config.pluginmanager
        reporter, controller = None, None
        if not xdist.is_worker(self._config):
            from pytest_clusterjobs.plugin.reporter import Reporter

            reporter = Reporter(session)
            manager.register(reporter, "clusterjobs-reporter")
            if getattr(self._config.option, "xmlpath", None):
                from pytest_clusterjobs.plugin.junit import JUnitReporting

                manager.register(JUnitReporting(self._config), "clusterjobs-junit")
            session.on_start.append(self._show_progress)
        if xdist.is_controller(self._config):
            controller = xdist.Controller(session)
            manager.register(controller, "clusterjobs-controller")
        manager.register(Execution(session), "clusterjobs-execution")
        manager.register(ItemReporting(session), "clusterjobs-reporting")
        manager.register(Performance(session), "clusterjobs-performance")
        manager.register(Redacting(), "clusterjobs-redacting")
        manager.register(Validating(session), "clusterjobs-validating")
        ending = Ending(session, reporter, controller)
        manager.register(ending, "clusterjobs-ending")
        if session.is_asked and not self._config.option.collectonly:
            ending.watch_signals()
        return ending

    def _show_progress(self, run: Run) -> None:
        from pytest_clusterjobs.plugin import live

        if live.can_show(self._config):
            line = live.LiveLine(self._config)
            run.on_wait = line.update
            self._config.pluginmanager.register(line, "clusterjobs-live")
