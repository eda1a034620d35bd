"""The text of a first configuration file, from what the schedulers said. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pytest_clusterjobs.backends.base import BackendInfo, Partition
from pytest_clusterjobs.core.naming import slug
from pytest_clusterjobs.core.units import clock_text
from pytest_clusterjobs.engine.probe import Probe

_HEAD = """\
# Places for jobs, for pytest --cluster=NAME and @cluster(backend="NAME").
# Every key: clusterjobs config schema. What counts, and from where: clusterjobs config show NAME --origin

defaults:  # for every profile and every backend
  # account: my-project          # account or project that pays
  # time: "01:00:00"             # limit on the run time, given to the scheduler
  # memory: 4GB                  # per node
  # workdir: /path/nodes/see     # directory for the jobs' files, on a file system that the nodes share
  # modules: [python]            # environment modules to load
  # env: {OMP_NUM_THREADS: "1"}  # environment variables of the jobs

profiles:
"""
_EXAMPLE = """\
  # short:
  #   backend: slurm
  #   partition: short
  #   time: "00:10:00"
"""


def first_file(probes: Sequence[Probe]) -> tuple[str, list[str]]:
    """Give the text of the file, and lines that tell what was found.

    Args:
        probes: What the backends answered.
    """
    text, told, taken = _HEAD, [], {probe.name for probe in probes}
    for probe in probes:
        if probe.info is None:
            told.append(f"{probe.name}: not used: {probe.reason.splitlines()[0].removeprefix(f'{probe.name}: ')}")
            continue
        names = []
        for partition in probe.info.partitions:
            name = _free(f"{probe.name}-{slug(partition.name)}", taken)
            text += _profile(name, probe.name, partition, probe.info)
            names.append(name)
        told.append(f"{probe.name}: {_line(probe.info.version)}" + (f": {', '.join(names)}" if names else ""))
    if not any(probe.info and probe.info.partitions for probe in probes):
        text += "  # No scheduler with partitions or queues answered when this was written.\n" + _EXAMPLE
    return text, told


def _free(name: str, taken: set[str]) -> str:
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    taken.add(free)
    return free


def _profile(name: str, backend: str, partition: Partition, info: BackendInfo) -> str:
    facts = [_line(info.version)]
    if partition.is_default:
        facts.append("the default partition")
    if partition.nodes is not None:
        facts.append(f"{partition.nodes} node{'s'[: partition.nodes != 1]}")
    if info.cores_per_node is not None:
        facts.append(f"up to {info.cores_per_node} cores per node")
    if partition.status != "up":
        facts.append(f"it was {_line(partition.status)} when this was written")
    lines = [
        f"  # {', '.join(facts)}",
        f"  {name}:",
        f"    backend: {backend}",
        f"    partition: {json.dumps(partition.name)}",
    ]
    if partition.max_time_s is not None:
        lines.append(f'    # time: "{clock_text(partition.max_time_s)}"  # the longest that it allows')
    return "\n".join([*lines, ""])


def _line(text: str) -> str:
    """Give a text that a scheduler printed as one line of a comment."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
