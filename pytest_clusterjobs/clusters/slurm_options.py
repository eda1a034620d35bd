"""What a throw-away Slurm can be asked to be."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pytest_clusterjobs.clusters import ports
from pytest_clusterjobs.clusters.slurm_conf import FIRST_NODE_PORT, Partition, conf_line_key
from pytest_clusterjobs.core.errors import ConfigError

_MAX_NODES = ports.BLOCK - FIRST_NODE_PORT


@dataclass(frozen=True, slots=True)
class SlurmClusterOptions:
    """What a throw-away Slurm should be like; impossible values raise ``ConfigError`` at once."""

    #: Tells several clusters apart.
    name: str = "default"
    #: Nodes, named n1, n2, ...
    nodes: int = 4
    #: CPUs that each node claims to have; more than the machine has is fine.
    cpus: int = 4
    #: Memory that each node claims to have.
    memory_bytes: int = 4 * 2**30
    #: More partitions besides ``main``, as ``NAME[:MAXTIME[:PRIORITYTIER]]``; ``main``, of tier 10, may be redefined.
    #: Jobs in a partition of a higher tier requeue jobs of a lower one when they need the room.
    partitions: tuple[str, ...] = ()
    #: Whether to run slurmdbd on a private MariaDB: sacct, sacctmgr and QOS.
    accounting: bool = False
    #: Whether to limit memory with cgroups (root only): a job that takes too much ends as OUT_OF_MEMORY.
    cgroup: bool = False
    #: Milliseconds between two looks of the controller at the queue; None: Slurm's own 1 s. Needs a C compiler.
    tick_ms: int | None = None
    #: More lines for slurm.conf; one with the key of a line of ours replaces it.
    conf_lines: tuple[str, ...] = ()
    #: "munge", or "none": whoever reaches this machine's ports can then run commands as us.
    auth: str = "munge"
    #: Where; None: in the directory of clusters.
    directory: Path | None = None
    #: Seconds after which a boot is given up.
    boot_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        _check_between("nodes", self.nodes, 1, _MAX_NODES)
        _check_between("cpus", self.cpus, 1, 1024)
        _check_between("memory (in MB) of a node", self.memory_bytes // 2**20, 100, 2**31 - 1)
        if self.tick_ms is not None:
            _check_between("tick-ms", self.tick_ms, 1, 1000)
        if self.auth not in ("munge", "none"):
            raise ConfigError(f"auth={self.auth!r} must be 'munge' or 'none'")
        if self.boot_timeout_s <= 0:
            raise ConfigError(f"boot_timeout_s={self.boot_timeout_s!r} must be more than zero")
        names = [Partition.parse(text).name for text in self.partitions]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"partition {twice[0]!r} is given twice")
        for line in self.conf_lines:
            conf_line_key(line)

    def all_partitions(self) -> list[Partition]:
        """Give ``main``, the default, and then the others."""
        given = [Partition.parse(text) for text in self.partitions]
        main = next((partition for partition in given if partition.name == "main"), Partition("main"))
        return [main, *(partition for partition in given if partition.name != "main")]

    def recorded(self) -> dict[str, Any]:
        """Give the values as JSON holds them."""
        return {key: _plain(value) for key, value in asdict(self).items() if key != "boot_timeout_s"}


def _check_between(what: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"{what}={value!r} must be a whole number from {low} to {high}")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else os.path.realpath(value) if isinstance(value, Path) else value
