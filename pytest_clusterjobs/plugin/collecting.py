"""Collection: markers are checked, tests are parametrized over the backends, and what was not asked for is skipped.

In controller and workers alike, and in every pytest run: a test that has nothing to do with clusters costs a look at
its markers.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from pytest_clusterjobs.engine import current
from pytest_clusterjobs.plugin.items import ITEM
from pytest_clusterjobs.plugin.markers import NAMES, decorated
from pytest_clusterjobs.plugin.session import WHILE_COLLECTING, ClusterSession

if TYPE_CHECKING:
    from pytest_clusterjobs.plugin.marks import ClusterMarks

#: The fixture that carries the backend; the others depend on it.
FIXTURE = "cluster_backend"


class Collecting:
    """The hooks of the collection."""

    def __init__(self, session: ClusterSession) -> None:
        self._session = session

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
        """Check the markers where they stand, and parametrize over the backends."""
        definition = metafunc.definition
        if not _concerns(definition, metafunc.function, metafunc.fixturenames):
            return
        from pytest_clusterjobs.plugin import marks, selection

        uses_fixtures = FIXTURE in metafunc.fixturenames
        try:
            found = self._marks_of(definition, metafunc.function)
        except marks.MarkError as error:
            raise pytest.Collector.CollectError(f"{definition.nodeid}: {error}") from None
        if any(FIXTURE in argument_names(mark) for mark in definition.iter_markers("parametrize")):
            return
        names = selection.parameters(found, self._session.selection, uses_fixtures=uses_fixtures)
        if names:
            if not uses_fixtures:
                metafunc.fixturenames.append(FIXTURE)
            metafunc.parametrize(FIXTURE, names, indirect=True, ids=list(names), scope="session")

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Plan every test that has to do with clusters. Before ``-m`` deselects, for it looks at marks added here."""
        for item in items:
            if _concerns(item, getattr(item, "obj", None), getattr(item, "fixturenames", ())):
                self._plan(item)

    def _marks_of(self, node: pytest.Item, function: object) -> ClusterMarks:
        from pytest_clusterjobs.plugin.marks import read

        return read(node.iter_markers(), decorated(function), self._session.require)

    def _plan(self, item: pytest.Item) -> None:
        from pytest_clusterjobs.plugin import marks, selection
        from pytest_clusterjobs.plugin.items import ClusterItem

        function = decorated(getattr(item, "obj", None))
        try:
            found = self._marks_of(item, function)
        except marks.MarkError as error:  # of marks that came with a parameter
            raise pytest.UsageError(f"{item.nodeid}: {error}") from None
        if found.is_cluster_test and item.get_closest_marker("real_world") is None:
            item.add_marker(pytest.mark.real_world)
        own = {mark.name for mark in item.iter_markers()}
        planned = selection.plan(
            found,
            self._session.selection,
            expression=self._session.config.option.markexpr,
            own=own,
            runs_expensive=self._session.values.run_expensive,
            uses_fixtures=FIXTURE in getattr(item, "fixturenames", ()),
            parameter=parameter_of(item),
        )
        item.stash[ITEM] = ClusterItem(found, planned, function)
        if planned.skip:
            item.add_marker(pytest.mark.skip(reason=planned.skip))


def _concerns(node: pytest.Item, function: object, fixturenames: object) -> bool:
    """Tell whether a test has to do with clusters, as quickly as can be: this is asked of every test of every suite."""
    if any(mark.name in NAMES for mark in node.iter_markers()) or decorated(function) is not None:
        return True
    return isinstance(fixturenames, (list, tuple)) and FIXTURE in fixturenames


def parameter_of(item: pytest.Item) -> str | None:
    """Give the backend that a test is parametrized with, or None."""
    callspec = getattr(item, "callspec", None)
    value = None if callspec is None else callspec.params.get(FIXTURE)
    return None if value is None else str(value)


def argument_names(mark: pytest.Mark) -> list[str]:
    """Give the names that a parametrize mark gives values to."""
    names = mark.args[0] if mark.args else mark.kwargs.get("argnames", "")
    return [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
