"""`Resources`: cores, memory and the like, as somebody asked for, gave or found them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytest_clusterjobs.core.spec import JobSpec


@dataclass(frozen=True, slots=True)
class Resources:
    """What a job asked for, was given, or found on its node. None: not asked for, or not known."""

    #: CPU cores, per node.
    cores: int | None = None
    #: Memory per node, in bytes.
    memory_bytes: int | None = None
    #: GPUs per node.
    gpus: int | None = None
    #: Number of nodes.
    nodes: int | None = None
    #: Time limit in seconds.
    time_limit_s: float | None = None
    #: Partition or queue.
    partition: str | None = None

    def over(self, other: Resources) -> Resources:
        """Give these, and the other's where these do not know."""
        return Resources(
            other.cores if self.cores is None else self.cores,
            other.memory_bytes if self.memory_bytes is None else self.memory_bytes,
            other.gpus if self.gpus is None else self.gpus,
            other.nodes if self.nodes is None else self.nodes,
            other.time_limit_s if self.time_limit_s is None else self.time_limit_s,
            other.partition if self.partition is None else self.partition,
        )

    def known(self) -> dict[str, Any]:
        """Give what is known, by name."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}


def requested_by(spec: JobSpec) -> Resources:
    """Give the resources that a spec asks for."""
    return Resources(spec.cores, spec.memory_bytes, spec.gpus, spec.nodes, spec.time_limit_s, spec.partition)
