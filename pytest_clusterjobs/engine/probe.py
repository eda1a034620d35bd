"""Whether a backend can be used, asked once a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytest_clusterjobs.backends.base import Backend, BackendInfo, Partition
from pytest_clusterjobs.core.errors import BackendError, ClusterJobsError


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether a backend can be used, asked once a run."""

    #: Its name.
    name: str
    #: True when the scheduler itself answered.
    is_available: bool
    #: What it said, or None.
    info: BackendInfo | None
    #: Why it cannot be used, "" when it can.
    reason: str


def ask(backend: Backend, name: str = "") -> Probe:
    """Ask a backend, which may go by a profile's name."""
    name = name or backend.name
    try:
        return Probe(name, True, backend.check(), "")
    except BackendError as error:
        return Probe(name, False, None, f"{name}: {error.brief}")
    except ClusterJobsError as error:
        return Probe(name, False, None, f"{name}: {error}")


def from_json(kept: dict[str, Any]) -> Probe:
    """Give back a probe that was kept as JSON."""
    info = kept["info"]
    if info is not None:
        info = BackendInfo(**{**info, "partitions": tuple(Partition(**each) for each in info["partitions"])})
    return Probe(kept["name"], kept["is_available"], info, kept["reason"])
