"""What is done with the tests that have to do with clusters: markers checked, parametrized, planned, skipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_clusterjobs.plugin import marks, selection, xdist
from pytest_clusterjobs.plugin.items import ITEM, ClusterItem
from pytest_clusterjobs.plugin.markers import decorated
from pytest_clusterjobs.plugin.start import FIXTURE

if TYPE_CHECKING:
    from pytest_clusterjobs.plugin.session import ClusterSession


class Collecting:
    """What `Start` calls for the tests that it finds."""

    def __init__(self, session: ClusterSession) -> None:
        self._session = session

    def parametrize(self, metafunc: pytest.Metafunc) -> None:
        """Check a test's markers where they stand, and parametrize it over the backends.

        Raises:
            pytest.Collector.CollectError: A marker is wrong.
        """
        definition = metafunc.definition
        try:
            found = self._marks_of(definition, metafunc.function)
        except marks.MarkError as error:
            raise pytest.Collector.CollectError(f"{definition.nodeid}: {error}") from None
        uses_fixtures = FIXTURE in metafunc.fixturenames
        if parametrizes_itself(definition):
            return
        names = selection.parameters(found, self._session.selection, uses_fixtures=uses_fixtures)
        if names:
            if not uses_fixtures:
                metafunc.fixturenames.append(FIXTURE)
            metafunc.parametrize(FIXTURE, names, indirect=True, ids=list(names), scope="session")

    def plan(self, item: pytest.Item) -> None:
        """Decide what becomes of a test, and mark it to be skipped if it does not run.

        Raises:
            pytest.UsageError: A marker that came with a parameter is wrong.
        """
        known = self._planned(item)
        item.stash[ITEM] = known
        if known.plan.skip:
            item.add_marker(pytest.mark.skip(reason=known.plan.skip))

    def group(self, item: pytest.Item) -> None:
        """Have one worker run all tests of a profile that is serial."""
        for place in self._session.serial.intersection(self._planned(item).plan.backends):
            xdist.serialize(item, place)

    def _planned(self, item: pytest.Item) -> ClusterItem:
        function = decorated(getattr(item, "obj", None))
        try:
            found = self._marks_of(item, function)
        except marks.MarkError as error:
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
        return ClusterItem(found, planned, function)

    def _marks_of(self, node: pytest.Item, function: object) -> marks.ClusterMarks:
        return marks.read(node.iter_markers(), decorated(function), self._session.require)


def parameter_of(item: pytest.Item) -> str | None:
    """Give the backend that a test is parametrized with, or None."""
    callspec = getattr(item, "callspec", None)
    value = None if callspec is None else callspec.params.get(FIXTURE)
    return None if value is None else str(value)


def parametrizes_itself(node: pytest.Item) -> bool:
    """Tell whether a test names the backends that it runs on as parameters of its own."""
    return any(FIXTURE in argument_names(mark) for mark in node.iter_markers("parametrize"))


def argument_names(mark: pytest.Mark) -> list[str]:
    """Give the names that a parametrize mark gives values to."""
    names = mark.args[0] if mark.args else mark.kwargs.get("argnames", "")
    return [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
