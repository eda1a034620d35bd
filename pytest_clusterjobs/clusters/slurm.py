"""Throw-away Slurm: a controller and several nodes on this machine, from the distribution's packages.

Runs as any user, on loopback, in a directory of its own; several at once do not meet. As root, ``cgroup`` adds memory
limits that the kernel enforces. Slurm 22.05 to 26.05.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from pytest_clusterjobs.clusters import lifecycle, places, processes
from pytest_clusterjobs.clusters.base import ClusterBootError, RunningCluster
from pytest_clusterjobs.clusters.slurm_boot import Boot
from pytest_clusterjobs.clusters.slurm_conf import FIRST_NODE_PORT, Site, cgroup_conf, slurm_conf, slurmdbd_conf
from pytest_clusterjobs.clusters.slurm_options import SlurmClusterOptions
from pytest_clusterjobs.clusters.slurm_programs import (
    NO_AUTH,
    Programs,
    clean_environment,
    find_programs,
    host_name,
    run,
    user_name,
)
from pytest_clusterjobs.clusters.slurm_tick import tick_environment, tick_library

__all__ = ["SlurmClusterOptions", "boot", "down", "names", "running", "up"]

log = logging.getLogger(__name__)

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_DAEMONS = (b"slurmctld", b"slurmd", b"slurmstepd", b"slurmscriptd", b"slurmdbd")


def up(options: SlurmClusterOptions, *, asked: Collection[str] | None = None) -> RunningCluster:
    """Start a Slurm and wait until all its nodes take jobs; blocks. One that is up and answers is given as it is.

    For ``options``, ``asked`` and what is raised, see ``lifecycle.up``.
    """
    find = cache(partial(_find, options))  # once, and only if there is something to start

    def start(directory: Path, first_port: int) -> tuple[Mapping[str, str], str]:
        programs, user, library = find()
        name, version = _cluster_name(options.name), programs.version
        site = Site(directory, name, first_port, user, host_name(), version, options.auth)
        _write_configuration(site, options)
        starting = Boot(site, programs, nodes=options.nodes, timeout_s=options.boot_timeout_s)
        tick = tick_environment(options.tick_ms, library, directory) if options.tick_ms and library else {}
        _start_everything(starting, options, tick)
        environment = {"SLURM_CONF": str(directory / "slurm.conf")}
        return environment, f"Slurm {version[0]}.{version[1]:02}, {options.nodes} nodes"

    kind = replace(_KIND, ports=FIRST_NODE_PORT + options.nodes)
    return lifecycle.up(kind, options, start, asked, check=find)


def _find(options: SlurmClusterOptions) -> tuple[Programs, str, Path | None]:
    """Give the programs, our user's name and the library for ``tick_ms``, if that is asked for.

    Raises:
        ClusterBootError: Something is missing on this machine.
    """
    if options.cgroup:
        _check_cgroup(options.name)
    programs = find_programs(accounting=options.accounting, auth=options.auth)
    return programs, user_name(), None if options.tick_ms is None else tick_library(_cache())


def _trouble(environment: Mapping[str, str]) -> str:
    with suppress(ClusterBootError):
        answer = run(["scontrol", "ping"], {**clean_environment(), **environment}, timeout_s=5)
        if answer.returncode == 0 and " UP" in answer.stdout:
            return ""
    return "its slurmctld does not answer within 5 s"


def _start_everything(starting: Boot, options: SlurmClusterOptions, tick: Mapping[str, str]) -> None:
    if options.auth == "munge":
        starting.start_munge()
    else:
        log.warning("auth none: %s", NO_AUTH)
    if options.accounting:
        starting.start_database(_cache())
    starting.start_controller(tick)
    starting.start_nodes()
    if options.accounting:
        starting.add_account()


def _write_configuration(site: Site, options: SlurmClusterOptions) -> None:
    for name in ("state", "spool", "log", "run"):
        (site.directory / name).mkdir(mode=0o700)
    texts = {
        "slurm.conf": slurm_conf(
            site,
            nodes=options.nodes,
            cpus=options.cpus,
            memory_bytes=options.memory_bytes,
            partitions=options.all_partitions(),
            accounting=options.accounting,
            cgroup=options.cgroup,
            conf_lines=options.conf_lines,
        ),
        "cgroup.conf": cgroup_conf(site, cgroup=options.cgroup),
        "slurmdbd.conf": slurmdbd_conf(site, options.conf_lines) if options.accounting else None,
    }
    for name, text in texts.items():
        if text is not None:
            path = site.directory / name
            path.touch(0o600)  # slurmdbd refuses a slurmdbd.conf that others can read
            path.write_text(text)


def _cluster_name(name: str) -> str:
    return "cj_" + re.sub(r"\W", "_", name.lower())  # it becomes part of SQL table names


def _cache() -> Path:
    return places.cache_directory() / "slurm"


def _check_cgroup(name: str) -> None:
    """Make sure that memory limits are possible here.

    Raises:
        ClusterBootError: Not root, no cgroup v1 memory controller, or another cluster has the same cgroups.
    """
    memory = _CGROUP_ROOT / "memory"
    if os.geteuid() != 0:
        raise ClusterBootError(
            "cgroup limits need root: Slurm cannot use a delegated cgroup v1 hierarchy; leave out --cgroup"
        )
    if not (memory / "memory.limit_in_bytes").exists() or not os.access(memory, os.W_OK):
        raise ClusterBootError(
            f"cgroup limits need a writable cgroup v1 memory controller at {memory}; leave out --cgroup"
        )
    for place in places.every(_KIND.name):  # Slurm names the cgroups after the nodes alone
        record = place.read()
        if record is not None and record.name != name and record.options.get("cgroup"):
            raise ClusterBootError(
                f"cluster {record.name!r} uses cgroups, and only one can: "
                f"run `clusterjobs down slurm --name {record.name}` first"
            )


def _is_of_cluster(pid: int, place: places.Place) -> bool:
    """Tell whether a process is a Slurm daemon or part of a job of the cluster at a place.

    slurmstepd writes its title over its environment, so it is known by its name together with its open files. What
    runs in a job has SLURMD_NODENAME from slurmd, whatever it was submitted with. A shell that merely uses the cluster
    has SLURM_CONF alone; if that shell is itself in a job of the site's Slurm, the cluster's name is another.
    """
    environment = processes.environment_of(pid)
    if environment.get("SLURM_CONF") == f"{place.directory}/slurm.conf":
        cluster_name = _cluster_name(place.entry.name.removeprefix(f"{_KIND.name}-"))
        return "SLURMD_NODENAME" in environment and environment.get("SLURM_CLUSTER_NAME", cluster_name) == cluster_name
    program = processes.first_argument(pid).rpartition(b"/")[2].partition(b":")[0]
    return program in _DAEMONS and processes.holds_files_in(pid, place.directory)


def _remove_cgroups(record: places.Record) -> None:
    nodes = int(record.options["nodes"]) if record.options.get("cgroup") else 0
    for number in range(1, nodes + 1):
        for top in _CGROUP_ROOT.glob(f"*/slurm_n{number}"):
            below = sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True)
            for path in [*below, top]:
                with suppress(OSError):  # EBUSY: another Slurm on this machine has a node of that name
                    path.rmdir()


_KIND = lifecycle.Kind("slurm", FIRST_NODE_PORT, _trouble, _is_of_cluster, _remove_cgroups)
boot = partial(lifecycle.boot, up, SlurmClusterOptions, "a Slurm cluster")
down = partial(lifecycle.down, _KIND)
running = partial(lifecycle.running, _KIND)
names = partial(lifecycle.names, _KIND)
