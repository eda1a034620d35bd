"""JUnit XML: the jobs of a test as properties, and the cluster's trouble during a test's call as an ``<error>``.

pytest writes ``<failure>`` for whatever ends the call, and offers no way to say otherwise but its own writer.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any

import pytest

from pytest_clusterjobs.plugin.reporting import ATTRIBUTE
from pytest_clusterjobs.reports.model import Job, clean

#: Of a test with more jobs these are told, and the number of all.
_MAX_JOBS = 20
_FACTS = ("job_id", "native_id", "backend", "state", "reason")
_METRICS = ("queue_time_s", "run_time_s", "exit_code", "signal", "submitted_at", "started_at", "ended_at")


class JUnitReporting:
    """Registered with ``--junit-xml``, in plain pytest and in the controller."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, object, object]:
        """Add the properties before pytest's writer looks at the report, and change what it has written."""
        facts: Mapping[str, Any] = getattr(report, ATTRIBUTE, {})
        report.user_properties.extend(_properties(facts))
        result = yield
        if facts.get("infrastructure") and report.when == "call":
            _make_error(self._config, report)
        return result


def _properties(facts: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    jobs: list[Job] = facts.get("jobs", [])
    if len(jobs) > _MAX_JOBS:
        yield "cluster_jobs", len(jobs)
    for number, job in enumerate(jobs[:_MAX_JOBS], 1):
        metrics = job["metrics"]
        told = {name: job[name] for name in _FACTS} | {"node": ",".join(metrics.get("nodes") or ())}
        told |= {name: metrics.get(name) for name in _METRICS}
        for name, value in told.items():
            if value is not None and value != "":
                yield f"cluster_job_{number}.{name}", clean(str(value))


def _make_error(config: pytest.Config, report: pytest.TestReport) -> None:
    try:
        from _pytest.junitxml import xml_key
    except ImportError:  # pragma: no cover - a pytest that has moved it; its failure element stays, and is no pass
        return
    xml: Any = config.stash.get(xml_key, None)
    if xml is None:
        return
    for node in xml.node_reporter(report).nodes:
        if node.tag == "failure":
            node.tag = "error"
            xml.stats["failure"] -= 1
            xml.stats["error"] += 1
