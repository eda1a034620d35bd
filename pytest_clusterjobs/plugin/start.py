"""Looks, in every pytest run, whether it has anything to do with clusters, and only then loads the rest.

A suite without cluster tests pays for what is here: a look at the options, and one at each test's markers and fixtures.
PYTEST_DONT_REWRITE: there is no assert here.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_clusterjobs.engine import current
from pytest_clusterjobs.plugin import WHILE_COLLECTING
from pytest_clusterjobs.plugin.markers import NAMES, decorated
from pytest_clusterjobs.plugin.options import given

if TYPE_CHECKING:
    from pytest_clusterjobs.plugin.activation import Activation

#: The fixture that carries the backend; the others depend on it.
FIXTURE = "cluster_backend"


class Start:
    """The hooks that are called in every run. In controller and workers alike."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._activation: Activation | None = None
        if given(config):
            self._active().check_options()  # before anything that only the end of a started session takes back
        # A call of a decorated function, be it the first and in the middle of a test, finds this session's run.
        self._before = current.provide(lambda: self._active().session.run)
        self._names_before = current.provide_names(lambda name: self._active().session.require(name))

    def _active(self) -> Activation:
        if self._activation is None:
            from pytest_clusterjobs.plugin.activation import Activation

            self._activation = Activation(self._config)
        return self._activation

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Begin where something was asked for, and in a controller, which sees no tests before their reports."""
        may_ask = self._activation is not None or any(name in self._config.option.markexpr for name in NAMES)
        if self._is_controller() or (may_ask and self._active().was_asked):
            self._active().begin()

    def _is_controller(self) -> bool:
        if not self._config.pluginmanager.has_plugin("xdist"):
            return False
        from pytest_clusterjobs.plugin import xdist

        return xdist.is_controller(self._config)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection(self) -> Generator[None, object, object]:
        """Refuse submissions while modules are imported."""
        before = current.refuse(WHILE_COLLECTING)
        try:
            return (yield)
        finally:
            current.refuse(before)

    @pytest.hookimpl(tryfirst=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Have the markers of a cluster test checked, and the test parametrized over the backends."""
        if _concerns(metafunc.definition, metafunc.function, metafunc.fixturenames):
            self._active().collecting.parametrize(metafunc)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Have tests grouped that one worker must run. Before xdist looks at their groups."""
        if self._activation is not None and self._activation.groups_tests:
            for item in filter(_is_concerned, items):
                self._activation.collecting.group(item)

    def plan(self, items: list[pytest.Item]) -> None:
        """Decide what becomes of every test that has to do with clusters."""
        concerned = list(filter(_is_concerned, items))
        if concerned:
            self._active().begin()
            for item in concerned:
                self._active().collecting.plan(item)

    def pytest_unconfigure(self) -> None:
        """Let go of the engine: a pytest that runs this one in its own process has a run too."""
        current.provide(self._before)
        current.provide_names(self._names_before)


def _is_concerned(item: pytest.Item) -> bool:
    return _concerns(item, getattr(item, "obj", None), getattr(item, "fixturenames", ()))


def _concerns(node: pytest.Item, function: object, fixturenames: Sequence[str]) -> bool:
    """Tell whether a test has to do with clusters, as quickly as can be: this is asked of every test of every suite."""
    if FIXTURE in fixturenames or decorated(function) is not None:
        return True
    return any(mark.name in NAMES for mark in node.iter_markers())
