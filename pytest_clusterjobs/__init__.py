"""Run functions and tests as real jobs on clusters, from pytest."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_clusterjobs.core.errors import ClusterJobsError
    from pytest_clusterjobs.core.record import JobMetrics, JobRecord, Transition
    from pytest_clusterjobs.core.resources import Resources
    from pytest_clusterjobs.core.spec import JobSpec
    from pytest_clusterjobs.core.state import ExitReason, JobState
    from pytest_clusterjobs.core.validation import Check, CheckVerdict, JobFailure, ValidationResult
    from pytest_clusterjobs.decorator import ClusterFunction, cluster
    from pytest_clusterjobs.engine.job import CommandOutcome, Job, JobArray, Logs
    from pytest_clusterjobs.engine.validator import ClusterJobValidator

__all__ = [
    "Check",
    "CheckVerdict",
    "ClusterFunction",
    "ClusterJobValidator",
    "ClusterJobsError",
    "CommandOutcome",
    "ExitReason",
    "Job",
    "JobArray",
    "JobFailure",
    "JobMetrics",
    "JobRecord",
    "JobSpec",
    "JobState",
    "Logs",
    "Resources",
    "Transition",
    "ValidationResult",
    "cluster",
]

_PLACES = {
    "Check": "core.validation",
    "CheckVerdict": "core.validation",
    "ClusterFunction": "decorator",
    "ClusterJobValidator": "engine.validator",
    "ClusterJobsError": "core.errors",
    "CommandOutcome": "engine.job",
    "ExitReason": "core.state",
    "Job": "engine.job",
    "JobArray": "engine.job",
    "JobFailure": "core.validation",
    "JobMetrics": "core.record",
    "JobRecord": "core.record",
    "JobSpec": "core.spec",
    "JobState": "core.state",
    "Logs": "engine.job",
    "Resources": "core.resources",
    "Transition": "core.record",
    "ValidationResult": "core.validation",
    "cluster": "decorator",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("pytest-clusterjobs")
    if name in _PLACES:
        value = getattr(importlib.import_module(f"pytest_clusterjobs.{_PLACES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'pytest_clusterjobs' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
