"""Throw-away real clusters: one call boots a scheduler on this machine, one call leaves nothing of it behind.

Each kind of cluster is one module here; only this module knows the table of kinds.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

from pytest_clusterjobs.core.errors import ClusterJobsError, ConfigError
from pytest_clusterjobs.core.naming import nearest

#: Kind -> the module that boots it. A new kind is a module with the functions of ClusterKind, and a row here.
KINDS: Mapping[str, str] = {
    "slurm": "pytest_clusterjobs.clusters.slurm",
    "sge": "pytest_clusterjobs.clusters.sge",
    "sshd": "pytest_clusterjobs.clusters.sshd",
    "kubernetes": "pytest_clusterjobs.clusters.kubernetes",
}


class ClusterBootError(ClusterJobsError):
    """A throw-away cluster could not be started or stopped. The message says what was tried, and ends with the log.

    Args:
        message: What was tried, what came back and what to do.
        log: The last lines of what the daemon wrote, or "".
    """

    infrastructure: ClassVar[bool] = True

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message, log)
        self.message, self.log = message, log

    def __str__(self) -> str:
        if not self.log.strip():
            return self.message
        return self.message + "\n" + "\n".join(f"  | {line}" for line in self.log.strip().splitlines())


@dataclass(frozen=True, slots=True)
class RunningCluster:
    """A throw-away cluster that is up."""

    #: The name it was given; unique among those of its kind.
    name: str
    #: Which scheduler: a key of ``KINDS``.
    kind: str
    #: Everything it wrote is in here; removed by ``down``.
    directory: Path
    #: What a process must have in its environment to use it.
    environment: Mapping[str, str]


class ClusterKind(Protocol):
    """What the module of a kind offers."""

    def boot(self, name: str, options: Mapping[str, Any]) -> RunningCluster:
        """Start the cluster, or give it when it is up already; ``options`` holds only what the caller asked for."""

    def down(self, name: str) -> bool:
        """Stop it and remove its directory; False when there was none."""

    def running(self) -> list[RunningCluster]:
        """List the clusters of this kind that have a live daemon."""

    def names(self) -> list[str]:
        """List the clusters of this kind that ``down`` would find something of, alive or not."""


def up(kind: str, *, name: str = "default", **options: Any) -> RunningCluster:
    """Start a throw-away cluster and wait until it takes jobs; blocks, for a second or so.

    A cluster of that name that is up and answers is given as it is; one that does not answer is replaced by a new one.
    Safe to call from several processes at once: they take turns.

    Args:
        kind: A key of ``KINDS``.
        name: Tells clusters of one kind apart.
        options: The fields of that kind's options class, for instance ``SlurmClusterOptions``.

    Raises:
        ConfigError: There is no such kind or option, or a value is impossible; nothing was started.
        ClusterBootError: A program is missing, or a daemon did not start; nothing is left of it.
    """
    return _module(kind).boot(name, options)


def down(kind: str, name: str = "default") -> bool:
    """Stop a cluster, its jobs and whatever they started, and remove its directory. Idempotent.

    Returns:
        False when there was no such cluster.

    Raises:
        ConfigError: There is no such kind.
        ClusterBootError: A process survived SIGKILL for ten seconds, or the cluster runs on another machine.
    """
    return _module(kind).down(name)


def running(kind: str | None = None) -> list[RunningCluster]:
    """List the clusters, of one kind or of all, that have a live daemon on this machine."""
    kinds = KINDS if kind is None else (kind,)
    return [cluster for each in kinds for cluster in _module(each).running()]


def names(kind: str) -> list[str]:
    """List the clusters of a kind that were started and not stopped, alive or not.

    Raises:
        ConfigError: There is no such kind.
    """
    return _module(kind).names()


def _module(kind: str) -> ClusterKind:
    if kind not in KINDS:
        raise ConfigError(f"no cluster kind named {kind!r}; known: {', '.join(KINDS)}{nearest(kind, KINDS)}")
    return cast("ClusterKind", importlib.import_module(KINDS[kind]))
