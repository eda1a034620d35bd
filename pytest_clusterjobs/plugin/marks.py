"""What the markers of a test say about it, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_clusterjobs.plugin.markers import NAMES

if TYPE_CHECKING:
    import pytest

    from pytest_clusterjobs.decorator import ClusterFunction
    from pytest_clusterjobs.reports.performance import Reference

Require = Callable[[str], str]


class ExpectedFailure(NamedTuple):
    """What ``cluster_xfail`` says for one backend."""

    #: Why it fails there.
    reason: str
    #: The exceptions that are expected, or None for any.
    raises: Any
    #: True: passing is a failure. None: as xfail_strict says.
    strict: bool | None


class ClusterMarks(NamedTuple):
    """What the markers of a test, of its class and of its module say together."""

    #: It needs a cluster.
    is_cluster_test: bool = False
    #: It costs much.
    is_expensive: bool = False
    #: The only backends that it may run on; () for any.
    pins: tuple[str, ...] = ()
    #: Backends that it must not run on.
    excluded: frozenset[str] = frozenset()
    #: Arguments for its jobs, as ``@cluster`` takes them.
    resources: Mapping[str, Any] = {}
    #: Backend -> why it is expected to fail there.
    expected_failures: Mapping[str, ExpectedFailure] = {}
    #: Whether its jobs are validated; None: as the option says.
    validate: bool | None = None
    #: Metric -> backend -> what it should be.
    performance: Mapping[str, Mapping[str, Reference]] = {}


_NO_MARKS = ClusterMarks()


class MarkError(Exception):
    """The arguments of a marker are wrong. The message begins with the marker."""


def read(marks: Iterable[pytest.Mark], function: ClusterFunction[..., Any] | None, require: Require) -> ClusterMarks:
    """Give what the markers of a test say together with its decorator.

    Args:
        marks: As `pytest.Item.iter_markers` gives them: closest first.
        function: The decorated function, if the test is one.
        require: Gives a backend's name back or raises `UnknownBackendError`.

    Raises:
        MarkError: Arguments of a marker are wrong.
    """
    mine = [mark for mark in marks if mark.name in NAMES]
    if not mine and function is None:
        return _NO_MARKS
    found = ClusterMarks()
    for mark in mine:
        try:
            found = _WRITERS[mark.name](*mark.args, **mark.kwargs)(found, require)
        except (ValueError, TypeError) as error:
            raise MarkError(f"@pytest.mark.{mark.name}: {error}") from None
    return found if function is None else _with_decorator(found, function.spec.backend)


# ---------------------------------------------------------------- one function per marker, with the marker's signature
# A wrong call fails with Python's own words. Each gives a function that adds what it says to what is known so far.

_Writer = Callable[[ClusterMarks, Require], ClusterMarks]


def real_world() -> _Writer:
    return lambda found, _: found._replace(is_cluster_test=True)


def expensive() -> _Writer:
    return lambda found, _: found._replace(is_expensive=True)


def cluster(*backends: str, backend: str | None = None, validate: bool | None = None, **resources: Any) -> _Writer:
    if validate is not None and not isinstance(validate, bool):
        raise TypeError(f"validate={validate!r} must be True or False")

    def write(found: ClusterMarks, require: Require) -> ClusterMarks:
        names = _names(backends if backend is None else (*backends, backend), require)
        if resources:
            from pytest_clusterjobs.core.spec import make_spec

            make_spec(**resources)
        return found._replace(
            is_cluster_test=True,
            pins=found.pins or names,
            resources={**resources, **found.resources},
            validate=validate if found.validate is None else found.validate,
        )

    return write


def no_cluster(*backends: str) -> _Writer:
    if not backends:
        raise TypeError('name the backends that the test must not run on, e.g. no_cluster("local")')
    return lambda found, require: found._replace(excluded=found.excluded.union(_names(backends, require)))


def cluster_xfail(reasons: Mapping[str, str], *, raises: Any = None, strict: bool | None = None) -> _Writer:
    if not isinstance(reasons, Mapping) or not all(isinstance(reason, str) for reason in reasons.values()):
        raise TypeError(f'{reasons!r} must map backends to reasons, e.g. {{"pbs": "no arrays"}}')
    expected = {name: ExpectedFailure(reason, raises, strict) for name, reason in reasons.items()}

    def write(found: ClusterMarks, require: Require) -> ClusterMarks:
        _names(expected, require)
        return found._replace(expected_failures={**expected, **found.expected_failures})

    return write


def cluster_performance(references: Mapping[str, Any] = MappingProxyType({}), *, metric: str = "run_time_s") -> _Writer:
    if not isinstance(references, Mapping) or not isinstance(metric, str):
        raise TypeError('write e.g. cluster_performance({"slurm": (12.5, None, 0.1, "s")}, metric="run_time_s")')
    from pytest_clusterjobs.reports.performance import parse_reference

    parsed = {name: parse_reference(value, metric) for name, value in references.items()}

    def write(found: ClusterMarks, require: Require) -> ClusterMarks:
        _names(parsed, require)
        mine = {**parsed, **found.performance.get(metric, {})}
        return found._replace(performance={**found.performance, metric: mine})

    return write


_WRITERS: dict[str, Callable[..., _Writer]] = {
    "real_world": real_world,
    "expensive": expensive,
    "cluster": cluster,
    "no_cluster": no_cluster,
    "cluster_xfail": cluster_xfail,
    "cluster_performance": cluster_performance,
}


def _names(names: Iterable[object], require: Require) -> tuple[str, ...]:
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f'{name!r} must be the name of a backend, e.g. "slurm"')
    return tuple(dict.fromkeys(require(str(name)) for name in names))


def _with_decorator(found: ClusterMarks, backend: str | None) -> ClusterMarks:
    if backend is None:
        return found._replace(is_cluster_test=True)
    if found.pins and backend not in found.pins:
        pins = ", ".join(map(repr, found.pins))
        raise MarkError(f"@cluster(backend={backend!r}) and @pytest.mark.cluster({pins}) contradict each other")
    return found._replace(is_cluster_test=True, pins=(backend,))
