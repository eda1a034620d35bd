"""Collection: markers are checked, tests are parametrized over the backends, and what was not asked for is skipped."""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_clusterjobs.plugin import marks, selection
from pytest_clusterjobs.plugin.session import REFUSAL, ClusterSession

if TYPE_CHECKING:
    from pytest_clusterjobs.decorator import ClusterFunction

#: The fixture that carries the backend; the others depend on it.
FIXTURE = "cluster_backend"


class ClusterItem(NamedTuple):
    """What the plugin knows about a test that has to do with clusters."""

    #: What its markers and its decorator say.
    marks: marks.ClusterMarks
    #: What becomes of it.
    plan: selection.Plan
    #: The decorated function, where its body is the job.
    function: ClusterFunction[..., Any] | None


ITEM = pytest.StashKey[ClusterItem]()


class Collecting:
    """The hooks of the collection. In controller and workers alike."""

    def __init__(self, session: ClusterSession) -> None:
        self._session = session

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection(self) -> Generator[None, object, object]:
        """Refuse submissions while modules are imported."""
        self._session.refuse_submissions(REFUSAL)
        try:
            return (yield)
        finally:
            self._session.refuse_submissions(None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Check the markers where they stand, and parametrize over the backends."""
        definition = metafunc.definition
        uses_fixtures = FIXTURE in metafunc.fixturenames
        try:
            found = self._marks_of(definition, marks.decorated(metafunc.function))
        except marks.MarkError as error:
            raise pytest.Collector.CollectError(f"{definition.nodeid}: {error}") from None
        if not (found.is_cluster_test or uses_fixtures):
            return
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
            function = marks.decorated(getattr(item, "obj", None))
            try:
                found = self._marks_of(item, function)
            except marks.MarkError as error:  # of marks that came with a parameter
                raise pytest.UsageError(f"{item.nodeid}: {error}") from None
            if found.is_cluster_test or found.is_expensive or FIXTURE in getattr(item, "fixturenames", ()):
                self._plan(item, found, function)

    def _marks_of(self, node: pytest.Item, function: ClusterFunction[..., Any] | None) -> marks.ClusterMarks:
        return marks.read(node.iter_markers(), function, self._session.require)

    def _plan(self, item: pytest.Item, found: marks.ClusterMarks, function: ClusterFunction[..., Any] | None) -> None:
        if found.is_cluster_test and item.get_closest_marker("real_world") is None:
            item.add_marker(pytest.mark.real_world)
        own = {mark.name for mark in item.iter_markers()}
        expression = self._session.config.option.markexpr
        planned = selection.Plan()
        if found.is_cluster_test or FIXTURE in getattr(item, "fixturenames", ()):
            planned = selection.plan(
                found,
                self._session.selection,
                asked_by_mark=selection.asks(expression, selection.ASKING_MARKS, own),
                parameter=parameter_of(item),
            )
        may_cost = self._session.values.run_expensive or selection.asks(expression, {"expensive"}, own)
        if found.is_expensive and not planned.skip and not may_cost:
            planned = selection.Plan(skip=selection.TOO_EXPENSIVE)
        item.stash[ITEM] = ClusterItem(found, planned, function)
        if planned.skip:
            item.add_marker(pytest.mark.skip(reason=planned.skip))


def parameter_of(item: pytest.Item) -> str | None:
    """Give the backend that a test is parametrized with, or None."""
    callspec = getattr(item, "callspec", None)
    value = None if callspec is None else callspec.params.get(FIXTURE)
    return None if value is None else str(value)


def has_work(items: list[pytest.Item]) -> bool:
    """Tell whether the hooks that run tests have anything to do: cluster tests, or decorated functions to be called."""
    return "pytest_clusterjobs.decorator" in sys.modules or any(ITEM in item.stash for item in items)


def argument_names(mark: pytest.Mark) -> list[str]:
    """Give the names that a parametrize mark gives values to."""
    names = mark.args[0] if mark.args else mark.kwargs.get("argnames", "")
    return [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
