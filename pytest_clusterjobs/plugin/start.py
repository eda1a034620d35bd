"""Decides, early and cheaply, whether this session has anything to do with clusters, and if so registers the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_clusterjobs.plugin import xdist
from pytest_clusterjobs.plugin.collecting import Collecting
from pytest_clusterjobs.plugin.items import ITEM
from pytest_clusterjobs.plugin.options import LOCAL
from pytest_clusterjobs.plugin.session import ClusterSession

if TYPE_CHECKING:
    from pytest_clusterjobs.engine.run import Run
    from pytest_clusterjobs.plugin.ending import Ending


class Start:
    """Registered in every session; everything else is registered by it."""

    def __init__(self, session: ClusterSession) -> None:
        self._session = session
        self._is_active = False
        self._controller: xdist.Controller | None = None
        self._ending: Ending
        manager = session.config.pluginmanager
        manager.register(Collecting(session), "clusterjobs-collecting")
        if xdist.is_installed(session.config) and not xdist.is_worker(session.config):
            self._controller = xdist.Controller(session)
            manager.register(self._controller, "clusterjobs-controller")
        self._check_options()
        session.on_start.append(lambda _: self.activate())
        session.open()

    def _check_options(self) -> None:
        session, values = self._session, self._session.values
        if values.cluster or values.default != LOCAL:
            session.check_names()
        if values.workdir:
            _ = session.settings  # a wrong one is an error now, not at the first test
        is_dry = session.config.option.collectonly
        if values.up and not xdist.is_worker(session.config):
            from pytest_clusterjobs.plugin.throwaway import ThrowAwayClusters, kinds_for

            kinds = kinds_for(session)
            if not is_dry:
                self.activate()
                clusters = ThrowAwayClusters(session, kinds)
                session.config.pluginmanager.register(clusters, "clusterjobs-throwaway")
                self._ending.cleanups.append(clusters.take_down)
                self._ending.watch_signals()
        if values.report and not is_dry:
            from pytest_clusterjobs.plugin.reporter import check_writable

            check_writable(values.report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Activate where clusters were asked for, and in a controller, which sees no tests before their reports."""
        config = self._session.config
        is_controller = xdist.is_controller(config)
        if self._session.is_asked or self._session.values.report or is_controller:
            self.activate()
            if is_controller and self._session.is_asked and not config.option.collectonly:
                self._ending.watch_signals()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Activate where there is a cluster test. Calls in other tests activate when the first one comes."""
        if any(ITEM in item.stash for item in session.items):
            self.activate()

    def activate(self) -> None:
        """Register what runs and reports cluster tests. Idempotent."""
        if self._is_active:
            return
        self._is_active = True
        from pytest_clusterjobs.plugin.ending import Ending
        from pytest_clusterjobs.plugin.execution import Execution
        from pytest_clusterjobs.plugin.reporting import ItemReporting

        session, manager = self._session, self._session.config.pluginmanager
        reporter = None
        if not xdist.is_worker(session.config):
            from pytest_clusterjobs.plugin.reporter import Reporter

            reporter = Reporter(session)
            manager.register(reporter, "clusterjobs-reporter")
            session.on_start.append(self._show_progress)
        manager.register(Execution(session), "clusterjobs-execution")
        manager.register(ItemReporting(session), "clusterjobs-reporting")
        self._ending = Ending(session, reporter, self._controller)
        manager.register(self._ending, "clusterjobs-ending")

    def _show_progress(self, run: Run) -> None:
        from pytest_clusterjobs.plugin import live

        if live.can_show(self._session.config):
            line = live.LiveLine(self._session.config)
            run.on_wait = line.update
            self._session.config.pluginmanager.register(line, "clusterjobs-live")
