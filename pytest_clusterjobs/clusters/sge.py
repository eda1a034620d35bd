"""Throw-away Grid Engine: a queue master and one execution host on this machine, from the distribution's packages.

Runs as any user, on loopback, with an SGE_ROOT of its own; several at once do not meet. Grid Engine 8.1.9 of Debian and
Ubuntu.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from pytest_clusterjobs.clusters import lifecycle, processes
from pytest_clusterjobs.clusters.base import ClusterBootError, RunningCluster
from pytest_clusterjobs.clusters.sge_boot import Boot, check_programs, client_environment
from pytest_clusterjobs.clusters.sge_conf import PROGRAMS, Site
from pytest_clusterjobs.clusters.sge_options import SgeClusterOptions
from pytest_clusterjobs.clusters.slurm_programs import clean_environment, run, user_name
from pytest_clusterjobs.core.errors import ConfigError
from pytest_clusterjobs.core.naming import nearest

__all__ = ["SgeClusterOptions", "boot", "down", "names", "running", "up"]

_DAEMONS = (b"sge_qmaster", b"sge_execd", b"sge_shepherd")


def boot(name: str, options: Mapping[str, Any]) -> RunningCluster:
    """Start the cluster, or give it when it is up; ``options`` are the asked-for fields of ``SgeClusterOptions``.

    Raises:
        ConfigError: There is no such option, or a value is impossible.
        ClusterBootError: See ``up``.
    """
    known = {field.name for field in fields(SgeClusterOptions)} - {"name"}
    for key in options:
        if key not in known:
            raise ConfigError(
                f"a Grid Engine cluster has no option {key!r}{nearest(key, known)}; known: {', '.join(sorted(known))}"
            )
    return up(SgeClusterOptions(name=name, **options), asked=options.keys())


def up(options: SgeClusterOptions, *, asked: Collection[str] | None = None) -> RunningCluster:
    """Start a Grid Engine and wait until its host takes jobs; blocks. One that is up and answers is given as it is.

    Args:
        options: What it should be like.
        asked: The fields in which a cluster that is up already must agree; None: all.

    Raises:
        ConfigError: A cluster of that name is up and differs in a field of ``asked``.
        ClusterBootError: A program is missing, or a daemon did not start; nothing is left of it.
    """

    def start(directory: Path, first_port: int) -> tuple[Mapping[str, str], str]:
        check_programs()
        site = Site(directory, user_name())
        starting = Boot(site, options, first_port)
        starting.write_files()
        starting.start_qmaster()
        starting.start_execd()
        return client_environment(site, first_port), f"Grid Engine, {options.slots} slots"

    return lifecycle.up(_KIND, options, start, asked)


def down(name: str) -> bool:
    """Stop a cluster with its jobs and remove its directory; False when there was none.

    Raises:
        ClusterBootError: A process survived SIGKILL, or the cluster runs on another machine.
    """
    return lifecycle.down(_KIND, name)


def running() -> list[RunningCluster]:
    """List the Grid Engine clusters that have a live daemon on this machine."""
    return lifecycle.running(_KIND)


def names() -> list[str]:
    """List the names of all Grid Engine clusters that were started and not taken down, whether or not they live."""
    return lifecycle.names(_KIND)


def _trouble(environment: Mapping[str, str]) -> str:
    with suppress(ClusterBootError):
        if run([str(PROGRAMS / "qconf"), "-sh"], {**clean_environment(), **environment}, timeout_s=5).returncode == 0:
            return ""
    return "its qmaster does not answer within 5 s"


def _is_of_cluster(pid: int, directory: Path) -> bool:
    """Tell whether a process is a daemon or part of a job of the cluster in a directory.

    What runs in a job has SGE_JOB_SPOOL_DIR from its execd, below our directory; a shell that merely uses the cluster
    has not. The shepherds, who stand between execd and job, are known by their name together with their open files.
    """
    if processes.environment_of(pid).get("SGE_JOB_SPOOL_DIR", "").startswith(f"{directory}/"):
        return True
    program = processes.first_argument(pid).rpartition(b"/")[2].partition(b"-")[0]
    return program in _DAEMONS and processes.holds_files_in(pid, directory)


_KIND = lifecycle.Kind("sge", 2, _trouble, _is_of_cluster)
