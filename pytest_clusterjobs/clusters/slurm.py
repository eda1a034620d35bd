"""Throw-away Slurm: a controller and several nodes on this machine, from the distribution's packages.

Runs as any user, on loopback, in a directory of its own; several at once do not meet. As root, ``cgroup`` adds memory
limits that the kernel enforces. Slurm 22.05 to 26.05.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from pytest_clusterjobs.clusters import places, ports, processes
from pytest_clusterjobs.clusters.base import ClusterBootError, RunningCluster
from pytest_clusterjobs.clusters.slurm_boot import Boot
from pytest_clusterjobs.clusters.slurm_conf import FIRST_NODE_PORT, Site, cgroup_conf, slurm_conf, slurmdbd_conf
from pytest_clusterjobs.clusters.slurm_options import SlurmClusterOptions
from pytest_clusterjobs.clusters.slurm_programs import (
    NO_AUTH,
    clean_environment,
    find_programs,
    host_name,
    run,
    user_name,
)
from pytest_clusterjobs.clusters.slurm_tick import tick_environment, tick_library
from pytest_clusterjobs.core.errors import ConfigError
from pytest_clusterjobs.core.naming import nearest

__all__ = ["SlurmClusterOptions", "boot", "down", "names", "running", "up"]

log = logging.getLogger(__name__)

_KIND = "slurm"
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_DAEMONS = (b"slurmctld", b"slurmd", b"slurmstepd", b"slurmscriptd", b"slurmdbd")
_END_WITHIN_S = 10.0


def boot(name: str, options: Mapping[str, Any]) -> RunningCluster:
    """Start the cluster, or give it when it is up; ``options`` are the asked-for fields of ``SlurmClusterOptions``.

    Raises:
        ConfigError: There is no such option, or a value is impossible.
        ClusterBootError: See ``up``.
    """
    known = {field.name for field in fields(SlurmClusterOptions)} - {"name"}
    for key in options:
        if key not in known:
            raise ConfigError(
                f"a Slurm cluster has no option {key!r}{nearest(key, known)}; known: {', '.join(sorted(known))}"
            )
    return up(SlurmClusterOptions(name=name, **options), asked=options.keys())


def up(options: SlurmClusterOptions, *, asked: Collection[str] | None = None) -> RunningCluster:
    """Start a Slurm and wait until all its nodes take jobs; blocks. One that is up and answers is given as it is.

    One that does not answer any more, or was up before a reboot, is removed first.

    Args:
        options: What it should be like.
        asked: The fields in which a cluster that is up already must agree; None: all.

    Raises:
        ConfigError: A cluster of that name is up and differs in a field of ``asked``.
        ClusterBootError: A program is missing, or a daemon did not start; nothing is left of it.
    """
    with places.hold(_KIND, options.name):
        place = places.find(_KIND, options.name)
        if place is not None:
            places.check_here(place)
            trouble = _trouble(place)
            if not trouble and (record := place.read()) is not None:
                _check_same(record, options, asked)
                log.info("cluster %r is up already in %s", options.name, place.directory)
                return _running(place, record)
            log.info("cluster %r: %s; starting afresh", options.name, trouble)
            _take_down(place)
        try:
            return _boot(options)
        except OSError as error:
            raise ClusterBootError(f"cannot start cluster {options.name!r}: {error}") from error


def down(name: str) -> bool:
    """Stop a cluster with its jobs and remove its directory; False when there was none.

    Raises:
        ClusterBootError: A process survived SIGKILL, or the cluster runs on another machine.
    """
    with places.hold(_KIND, name):
        place = places.find(_KIND, name)
        if place is None:
            return False
        places.check_here(place)
        _take_down(place)
        return True


def running() -> list[RunningCluster]:
    """List the Slurm clusters that have a live daemon on this machine."""
    clusters = []
    for place in places.every(_KIND):
        record = place.read()
        if record is not None and any(processes.recorded(place.directory).values()):
            clusters.append(_running(place, record))
    return clusters


def names() -> list[str]:
    """List the names of all Slurm clusters that were started and not taken down, whether or not they live."""
    return [place.entry.name[len(_KIND) + 1 :] for place in places.every(_KIND)]


def _running(place: places.Place, record: places.Record) -> RunningCluster:
    return RunningCluster(record.name, _KIND, place.directory, record.environment)


def _check_same(record: places.Record, options: SlurmClusterOptions, asked: Collection[str] | None) -> None:
    wanted = options.recorded()
    for key in wanted if asked is None else [key for key in wanted if key in asked]:
        if key != "name" and record.options.get(key) != wanted[key]:
            raise ConfigError(
                f"cluster {record.name!r} is up with {key}={record.options.get(key)!r}, not {wanted[key]!r}: "
                f"run `clusterjobs down slurm --name {record.name}` first, or choose another name"
            )


def _trouble(place: places.Place) -> str:
    """Say why a cluster cannot be used as it is, or ""."""
    record = place.read()
    if record is None or not record.environment:
        return "it was never up"
    if dead := [name for name, process in processes.recorded(place.directory).items() if process is None]:
        return f"{', '.join(dead)} no longer runs"
    argv = ["scontrol", "ping"]
    with suppress(ClusterBootError):
        answer = run(argv, {**clean_environment(), **record.environment}, timeout_s=5)
        if answer.returncode == 0 and " UP" in answer.stdout:
            return ""
    return "its slurmctld does not answer within 5 s"


def _boot(options: SlurmClusterOptions) -> RunningCluster:
    began = time.monotonic()
    if options.cgroup:
        _check_cgroup(options.name)
    programs = find_programs(accounting=options.accounting, auth=options.auth)
    user = user_name()
    library = tick_library(_cache()) if options.tick_ms is not None else None
    place = places.create(_KIND, options.name, options.directory)
    try:
        given_away = {record.first_port for each in places.every(_KIND) if (record := each.read()) is not None}
        count = FIRST_NODE_PORT + options.nodes
        with ports.block(count, str(place.directory), given_away) as first_port:
            record = places.Record(_KIND, options.name, socket.gethostname(), first_port, options.recorded())
            place.write(record)
            directory, version, cluster_name = place.directory, programs.version, _cluster_name(options.name)
            site = Site(directory, cluster_name, first_port, user, host_name(), version, options.auth)
            _write_configuration(site, options)
            starting = Boot(site, programs, nodes=options.nodes, timeout_s=options.boot_timeout_s)
            tick = tick_environment(options.tick_ms, library, directory) if options.tick_ms and library else {}
            _start_everything(starting, options, tick)
        environment = {
            "SLURM_CONF": str(directory / "slurm.conf"),
            "CLUSTERJOBS_CLUSTER_NAME": options.name,
            "CLUSTERJOBS_CLUSTER_DIR": str(directory),
        }
        record = replace(record, environment=environment)
        place.write(record)
    except BaseException:  # Ctrl-C too: nothing stays behind
        with _undisturbed():
            _take_down(place)
        raise
    log.info(
        "cluster %r is up after %.1f s: Slurm %d.%02d, %d nodes, in %s",
        *(options.name, time.monotonic() - began, *version, options.nodes, directory),
    )
    return _running(place, record)


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
    for place in places.every(_KIND):  # Slurm names the cgroups after the nodes alone
        record = place.read()
        if record is not None and record.name != name and record.options.get("cgroup"):
            raise ClusterBootError(
                f"cluster {record.name!r} uses cgroups, and only one can: "
                f"run `clusterjobs down slurm --name {record.name}` first"
            )


def _take_down(place: places.Place) -> None:
    """End every process of a cluster and remove what it left on disk."""
    cluster_name = _cluster_name(place.entry.name[len(_KIND) + 1 :])
    recognize = partial(_is_of_cluster, directory=place.directory, cluster_name=cluster_name)
    if place.directory.exists():
        processes.end_all(lambda: processes.belonging(place.directory, recognize), _END_WITHIN_S)
    record = place.read()
    if record is not None and record.options.get("cgroup"):
        _remove_cgroups(int(record.options["nodes"]))
    place.remove()


def _is_of_cluster(pid: int, *, directory: Path, cluster_name: str) -> bool:
    """Tell whether a process is a Slurm daemon or part of a job of the cluster in a directory.

    slurmstepd writes its title over its environment, so it is known by its name together with its open files. What
    runs in a job has SLURMD_NODENAME from slurmd, whatever it was submitted with. A shell that merely uses the cluster
    has SLURM_CONF alone; if that shell is itself in a job of the site's Slurm, the cluster's name is another.
    """
    environment = processes.environment_of(pid)
    if environment.get("SLURM_CONF") == f"{directory}/slurm.conf":
        return "SLURMD_NODENAME" in environment and environment.get("SLURM_CLUSTER_NAME", cluster_name) == cluster_name
    program = processes.first_argument(pid).rpartition(b"/")[2].partition(b":")[0]
    return program in _DAEMONS and processes.holds_files_in(pid, directory)


def _remove_cgroups(nodes: int) -> None:
    for number in range(1, nodes + 1):
        for top in _CGROUP_ROOT.glob(f"*/slurm_n{number}"):
            below = sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True)
            for path in [*below, top]:
                with suppress(OSError):  # EBUSY: another Slurm on this machine has a node of that name
                    path.rmdir()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let a second Ctrl-C wait while we clean up; it takes at most seconds."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
