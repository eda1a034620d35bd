"""Figures of performance: recorded by tests or measured of their jobs, and compared with references.

In plain pytest and in workers; what was found travels with the other facts of a test.
"""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

from pytest_clusterjobs.core.errors import ConfigError
from pytest_clusterjobs.core.naming import nearest
from pytest_clusterjobs.plugin import xdist
from pytest_clusterjobs.plugin.items import BACKEND, FIGURES, ITEM
from pytest_clusterjobs.plugin.session import ClusterSession
from pytest_clusterjobs.reports.performance import JOB_METRICS, Figure, Reference, References, load, name_of

if TYPE_CHECKING:
    from pytest_clusterjobs.engine.job import Job

_RECORDED = pytest.StashKey["ClusterPerformance"]()
#: How many jobs the test had before this try of it: a plugin may run it again.
_BEFORE = pytest.StashKey[int]()


class ClusterPerformance:
    """Takes the figures that a test measures itself. The value of the fixture ``cluster_performance``."""

    def __init__(self) -> None:
        self._figures: dict[str, tuple[float, str]] = {}

    def record(self, metric: str, value: float, unit: str = "") -> None:
        """Record a figure; it is compared with the marker's or the file's reference when the test's body has passed.

        Args:
            metric: Its name; each once in a test.
            value: A finite number.
            unit: What it is in; the reference must be in the same.

        Raises:
            ValueError: The name is taken or is a job's own metric, or the value is no finite number.
        """
        if metric in JOB_METRICS:
            raise ValueError(f"{metric!r} is measured of the jobs themselves; give your figure another name")
        if metric in self._figures:
            raise ValueError(f"{metric!r} was recorded already: {self._figures[metric][0]}")
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"{metric}={value!r} is no finite number")
        self._figures[metric] = number, unit

    def figures(self) -> Mapping[str, tuple[float, str]]:
        """Give what was recorded: metric -> (value, unit)."""
        return dict(self._figures)


def recorder_of(item: pytest.Item) -> ClusterPerformance:
    """Make the value of the fixture for one try of a test."""
    item.stash[_RECORDED] = ClusterPerformance()
    return item.stash[_RECORDED]


class Performance:
    """Compares the figures of each test that has references."""

    def __init__(self, session: ClusterSession) -> None:
        self._session = session
        self._references = read_references(session)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Note where this try of the test begins."""
        item.stash[_BEFORE] = len(self._jobs(item))
        for key in (_RECORDED, FIGURES):
            _forget(item.stash, key)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Fail a test whose body has passed and whose figures are not what they should be."""
        result = yield
        if ITEM in item.stash:
            figures, problems = self._judge(item)
            item.stash[FIGURES] = [figure.to_dict() for figure in figures]
            if problems:
                pytest.fail("\n".join(problems), pytrace=False)
        return result

    def _judge(self, item: pytest.Item) -> tuple[list[Figure], list[str]]:
        jobs = self._jobs(item)[item.stash[_BEFORE] :]
        recorded = item.stash[_RECORDED].figures() if _RECORDED in item.stash else {}
        if not (recorded or self._references or item.stash[ITEM].marks.performance):
            return [], []
        backend = item.stash.get(BACKEND, None) or (jobs[0].record.backend if jobs else self._session.run.selected)
        wanted = dict(self._wanted(item, backend))
        judges = not self._session.values.baseline_update
        figures: list[Figure] = []
        problems: list[str] = []
        for metric in dict.fromkeys([*wanted, *recorded]):
            reference, source = wanted.get(metric) or (None, "")
            try:
                value, unit = recorded[metric] if metric in recorded else _measured(metric, jobs, recorded)
            except LookupError as error:
                problems += [f"{metric} on {backend}: {error.args[0]}"] if reference is not None or not judges else []
                continue
            figure = Figure(metric, value, unit, reference, judges)
            figures.append(figure)
            problems += _problems(figure, backend, source)
        return figures, problems

    def _wanted(self, item: pytest.Item, backend: str) -> Iterator[tuple[str, tuple[Reference | None, str]]]:
        """Give the metrics that marker and file name, each with its reference here, if there is one; the file wins."""
        kind = self._session.run.place(backend).backend
        marker: Mapping[str, Mapping[str, Reference]] = item.stash[ITEM].marks.performance
        for metric, references in marker.items():
            yield metric, (references.get(backend) or references.get(kind), "the marker")
        name = name_of(xdist.id_without_group(item.config, item.nodeid), backend)
        for metric, references in self._references.get(name, {}).items():
            reference = references.get(backend) or references.get(kind)
            if reference is not None:
                yield metric, (reference, os.path.basename(self._session.values.baseline))

    def _jobs(self, item: pytest.Item) -> list[Job[Any]]:
        run = self._session.active_run
        return [] if run is None else run.jobs_of(item.nodeid)


def _forget(stash: pytest.Stash, key: pytest.StashKey[Any]) -> None:
    if key in stash:
        del stash[key]


def _measured(metric: str, jobs: list[Job[Any]], recorded: Mapping[str, object]) -> tuple[float, str]:
    """Give a figure of a test's jobs and its unit.

    Raises:
        LookupError: There is none; the message says why.
    """
    if metric not in JOB_METRICS:
        names = (*recorded, *JOB_METRICS)
        raise LookupError(f"the test has not recorded it; there are: {', '.join(names)}{nearest(metric, names)}")
    if not jobs:
        raise LookupError("the test has run no job")
    for job in jobs:
        if getattr(job.metrics, metric) is None:
            why = job.metrics.unknown.get(metric, "the job has not ended")
            raise LookupError(f"not known of {job.record.name}: {why}")
    unit, combine = JOB_METRICS[metric]
    return float(combine([getattr(job.metrics, metric) for job in jobs])), unit


def _problems(figure: Figure, backend: str, source: str) -> list[str]:
    reference = figure.reference
    if reference is None:
        return []
    if figure.unit != reference.unit:
        return [f"{figure.metric} on {backend} is in {figure.unit!r}, the reference of {source} in {reference.unit!r}"]
    if figure.is_within is not False:
        return []
    lower, upper = (None if bound is None else _text(bound, reference.unit) for bound in reference.bounds)
    allowed = f"at most {upper}" if lower is None else f"at least {lower}" if upper is None else f"{lower} to {upper}"
    return [
        f"{figure.metric} on {backend} is {_text(figure.value, figure.unit)}; allowed: {allowed} "
        f"(reference {_text(reference.value, reference.unit)}{_tolerance(reference.lower)}"
        f"{_tolerance(reference.upper)}, from {source})"
    ]


def _text(value: float, unit: str) -> str:
    return f"{value:.6g} {unit}".rstrip()


def _tolerance(part: float | None) -> str:
    return "" if part is None else f", {part:+.3g}" if part else ", ±0"


def read_references(session: ClusterSession) -> References:
    """Read the file of ``--cluster-baseline``; one that is to be written need not be there.

    Raises:
        pytest.UsageError: It cannot be read, or something in it is wrong.
    """
    path = session.values.baseline
    if not path or (session.values.baseline_update and not os.path.exists(path)):
        return {}
    try:
        return load(path)
    except OSError as error:
        hint = "; --cluster-baseline-update makes it" if not os.path.exists(path) else ""
        raise pytest.UsageError(f"--cluster-baseline: cannot read {path}: {error.strerror}{hint}") from None
    except ConfigError as error:
        raise pytest.UsageError(f"--cluster-baseline: {error}") from None
