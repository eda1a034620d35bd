"""Figures of performance, the references that they are compared with, and the file that keeps these.

A reference is ``(value, lower, upper, unit)`` as in ReFrame: the tolerances are parts of the value, the lower one -1
to 0, the upper one 0 or more, None for no bound ("reference", ReFrame 4 manual, Regression Test API).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pytest_clusterjobs.core.errors import ConfigError, SpecError
from pytest_clusterjobs.core.naming import nearest
from pytest_clusterjobs.reports.files import write_pieces
from pytest_clusterjobs.reports.model import RunReport

#: Version of the layout of the file.
SCHEMA = 1

FORMS = '(value, lower, upper, unit), e.g. (12.5, None, 0.1, "s")'


class Metric(NamedTuple):
    """A figure that every job has."""

    #: What it is in.
    unit: str
    #: How the figures of several jobs become the test's.
    combine: Callable[[list[float]], float]


#: The figures that a test has without recording them: sums over its jobs, or the largest of them.
JOB_METRICS: dict[str, Metric] = {
    "run_time_s": Metric("s", sum),
    "cpu_time_s": Metric("s", sum),
    "queue_time_s": Metric("s", max),
    "max_rss_bytes": Metric("B", max),
}

#: Tolerances of what is written to a file the first time: more time or memory is worse, of other figures nobody knows.
_NEW_TOLERANCE = 0.2


class Reference(NamedTuple):
    """What a figure should be."""

    #: In ``unit``; not 0.
    value: float
    #: The lower tolerance, -1 to 0, or None.
    lower: float | None
    #: The upper tolerance, 0 or more, or None.
    upper: float | None
    #: What value and figure are in.
    unit: str

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """The lowest and the highest allowed value, None for any."""
        size = abs(self.value)
        return (
            None if self.lower is None else self.value + size * self.lower,
            None if self.upper is None else self.value + size * self.upper,
        )


class Figure(NamedTuple):
    """A figure of a test on one backend."""

    #: Its name.
    metric: str
    #: In ``unit``.
    value: float
    #: What it is in, "" for a mere number.
    unit: str
    #: What it should be, or None.
    reference: Reference | None = None
    #: False: it was measured to become a reference.
    is_judged: bool = True

    @property
    def is_within(self) -> bool | None:
        """Tell whether it is what it should be; None where nobody says, or asks."""
        if self.reference is None or not self.is_judged:
            return None
        lower, upper = self.reference.bounds
        return (lower is None or self.value >= lower) and (upper is None or self.value <= upper)

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON types."""
        lower, upper = (None, None) if self.reference is None else self.reference.bounds
        return {
            "metric": self.metric,
            "value": self.value,
            "unit": self.unit,
            "reference": None if self.reference is None else list(self.reference),
            "lower": lower,
            "upper": upper,
            "passed": self.is_within,
        }


def parse_reference(value: object, metric: str) -> Reference:
    """Give a reference from what a marker or a file says.

    Raises:
        SpecError: It is none, or in another unit than the metric. The message says what is allowed.
    """
    if not isinstance(value, (tuple, list)) or len(value) != 4:
        raise SpecError(f"{value!r} is no reference; write {FORMS}")
    number, lower, upper, unit = value
    if not _is_number(number) or number == 0:
        raise SpecError(f"reference {value!r}: the value must be a number other than 0")
    if lower is not None and not (_is_number(lower) and -1 <= lower <= 0):
        raise SpecError(f"reference {value!r}: the lower tolerance must be -1 to 0, a part of the value, or None")
    if upper is not None and not (_is_number(upper) and upper >= 0):
        raise SpecError(f"reference {value!r}: the upper tolerance must be 0 or more, a part of the value, or None")
    if not isinstance(unit, str):
        raise SpecError(f"reference {value!r}: the unit must be a text")
    if metric in JOB_METRICS and unit != JOB_METRICS[metric].unit:
        raise SpecError(f"reference {value!r}: {metric} is in {JOB_METRICS[metric].unit!r}, not in {unit!r}")
    return Reference(number, lower, upper, unit)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


#: Test without its backend -> metric -> backend -> reference.
References = Mapping[str, Mapping[str, Mapping[str, Reference]]]


def load(path: str) -> References:
    """Read a file of references.

    Raises:
        OSError: It cannot be read.
        ConfigError: Something in it is wrong; the message has the file and the place in it.
    """
    with open(path, encoding="utf-8") as file:
        try:
            loaded = json.load(file)
        except ValueError as error:
            raise ConfigError(f"{path}: no JSON: {error}") from None
    known = ("schema", "tests")
    for key in _mapping(loaded, path, ""):
        if key not in known:
            raise ConfigError(f"{path}: unknown key {key!r}; known: {', '.join(known)}{nearest(key, known)}")
    if loaded.get("schema") != SCHEMA:
        raise ConfigError(f"{path}: schema must be {SCHEMA}, not {loaded.get('schema')!r}")
    return {
        test: {
            metric: {
                backend: _reference(value, metric, path, f"tests: {test}: {metric}: {backend}")
                for backend, value in _mapping(backends, path, f"tests: {test}: {metric}").items()
            }
            for metric, backends in _mapping(metrics, path, f"tests: {test}").items()
        }
        for test, metrics in _mapping(loaded.get("tests", {}), path, "tests").items()
    }


def _mapping(value: object, path: str, place: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: {place + ': ' if place else ''}must be an object, not {value!r}")
    return value


def _reference(value: object, metric: str, path: str, place: str) -> Reference:
    try:
        return parse_reference(value, metric)
    except SpecError as error:
        raise ConfigError(f"{path}: {place}: {error}") from None


def update(path: str, known: References, report: RunReport) -> None:
    """Write what the passed tests of a run measured as references, with the tolerances that there were before.

    What the run did not measure stays in the file.

    Raises:
        OSError: The file cannot be written.
    """
    tests = {test: {metric: dict(refs) for metric, refs in metrics.items()} for test, metrics in known.items()}
    for test in report.tests:
        for figure in test.figures if test.outcome == "passed" and test.backend else ():
            metric, backend = figure["metric"], str(test.backend)
            backends = tests.setdefault(name_of(test.nodeid, backend), {}).setdefault(metric, {})
            lower, upper = _tolerances(figure)
            backends[backend] = Reference(float(f"{figure['value']:.6g}"), lower, upper, figure["unit"])
    ordered = {test: {metric: metrics[metric] for metric in sorted(metrics)} for test, metrics in sorted(tests.items())}
    write_pieces([json.dumps({"schema": SCHEMA, "tests": ordered}, indent=1), "\n"], path)


def _tolerances(figure: Mapping[str, Any]) -> tuple[float | None, float | None]:
    if figure["reference"] is not None:
        return figure["reference"][1], figure["reference"][2]
    return None if figure["metric"] in JOB_METRICS else -_NEW_TOLERANCE, _NEW_TOLERANCE


def name_of(nodeid: str, backend: str | None) -> str:
    """Give a test's id without the backend that it is parametrized with: the first of its parameters."""
    head, bracket, parameters = nodeid.partition("[")
    if not bracket or not backend:
        return nodeid
    if parameters == f"{backend}]":
        return head
    own = parameters.removeprefix(f"{backend}-")
    return f"{head}[{own}"
