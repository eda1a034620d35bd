"""``--cluster-up``: boot throw-away clusters for the named backends before the run, and take them down after it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import pytest

from pytest_clusterjobs.plugin.session import ClusterSession
from pytest_clusterjobs.plugin.signals import uninterrupted
from pytest_clusterjobs.plugin.values import SPECIAL_WORDS


def kinds_for(session: ClusterSession) -> list[str]:
    """Give the named backends that have throw-away clusters.

    Raises:
        pytest.UsageError: None has.
    """
    from pytest_clusterjobs.backends import registry
    from pytest_clusterjobs.clusters.base import KINDS

    named = [word for word in session.values.cluster if word not in SPECIAL_WORDS]
    kinds = [name for name in named if name in KINDS]
    if not kinds:
        what = f"none of {', '.join(named)} has one" if named else "no backend is named"
        known = ", ".join(kind for kind in KINDS if kind in registry.names())
        raise pytest.UsageError(
            f"--cluster-up boots throw-away clusters of the named backends, and {what}; write --cluster=NAME with one "
            f"of: {known}"
        )
    return kinds


class ThrowAwayClusters:
    """Boots before the first test, in the process that starts the workers, so that they inherit the environment."""

    def __init__(self, session: ClusterSession, kinds: list[str]) -> None:
        self._session, self._kinds = session, kinds
        self._name = f"pytest-{session.run_id}"
        self._undo: list[Callable[[], object]] = []

    def pytest_sessionstart(self) -> None:
        """Boot them. A failure ends the run, or with ``--cluster-missing=skip`` leaves the backend as it is."""
        from pytest_clusterjobs.clusters import base
        from pytest_clusterjobs.core.errors import ClusterJobsError

        for kind in self._kinds:
            # Before it boots: a Ctrl-C in the middle must not leave half a cluster.
            self._undo.append(functools.partial(base.down, kind, self._name))
            try:
                cluster = base.up(kind, name=self._name)
            except ClusterJobsError as error:
                if self._session.values.missing == "error":
                    pytest.exit(f"--cluster-up: {error}", returncode=1)
            else:
                self._export(dict(cluster.environment))

    def _export(self, environment: dict[str, str]) -> None:
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        self._undo.insert(0, lambda: _restore(before))

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Take down what was booted, after the run's jobs are gone."""
        from pytest_clusterjobs.core.errors import ClusterJobsError

        with uninterrupted():
            while self._undo:
                try:
                    self._undo.pop()()
                except ClusterJobsError as error:
                    terminal = self._session.config.pluginmanager.get_plugin("terminalreporter")
                    if terminal is not None:
                        terminal.write_line(f"clusterjobs: {error}", red=True)


def _restore(before: dict[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
