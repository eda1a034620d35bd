"""Throw-away Grid Engine: a queue master and one execution host on this machine, from the distribution's packages.

Runs as any user, on loopback, with an SGE_ROOT of its own; several at once do not meet. Grid Engine 8.1.9 of Debian and
Ubuntu.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from pytest_clusterjobs.clusters import lifecycle, places, processes
from pytest_clusterjobs.clusters.base import ClusterBootError, RunningCluster
from pytest_clusterjobs.clusters.sge_boot import Boot, check_programs, client_environment
from pytest_clusterjobs.clusters.sge_conf import PROGRAMS, Site
from pytest_clusterjobs.clusters.sge_options import SgeClusterOptions
from pytest_clusterjobs.clusters.slurm_programs import clean_environment, run, user_name

__all__ = ["SgeClusterOptions", "boot", "down", "names", "running", "up"]

_DAEMONS = (b"sge_qmaster", b"sge_execd", b"sge_shepherd")


def up(options: SgeClusterOptions, *, asked: Collection[str] | None = None) -> RunningCluster:
    """Start a Grid Engine and wait until its host takes jobs; blocks. One that is up and answers is given as it is.

    For ``options``, ``asked`` and what is raised, see ``lifecycle.up``.
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


def _trouble(environment: Mapping[str, str]) -> str:
    with suppress(ClusterBootError):
        if run([str(PROGRAMS / "qconf"), "-sh"], {**clean_environment(), **environment}, timeout_s=5).returncode == 0:
            return ""
    return "its qmaster does not answer within 5 s"


def _is_of_cluster(pid: int, place: places.Place) -> bool:
    """Tell whether a process is a daemon or part of a job of the cluster at a place.

    What runs in a job has SGE_JOB_SPOOL_DIR from its execd, below our directory; a shell that merely uses the cluster
    has not. The shepherds, who stand between execd and job, are known by their name together with their open files.
    """
    if processes.environment_of(pid).get("SGE_JOB_SPOOL_DIR", "").startswith(f"{place.directory}/"):
        return True
    program = processes.first_argument(pid).rpartition(b"/")[2].partition(b"-")[0]
    return program in _DAEMONS and processes.holds_files_in(pid, place.directory)


_KIND = lifecycle.Kind("sge", 2, _trouble, _is_of_cluster)
boot = partial(lifecycle.boot, up, SgeClusterOptions, "a Grid Engine cluster")
down = partial(lifecycle.down, _KIND)
running = partial(lifecycle.running, _KIND)
names = partial(lifecycle.names, _KIND)
