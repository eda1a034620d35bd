"""What a throw-away Grid Engine may be asked to be like."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pytest_clusterjobs.core.errors import ConfigError, SpecError
from pytest_clusterjobs.core.units import parse_duration

_QUEUE = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9_.-]{0,31})(?::(?P<limit>\S+))?")


@dataclass(frozen=True, slots=True)
class SgeClusterOptions:
    """What a throw-away Grid Engine should be like; impossible values raise ``ConfigError`` at once."""

    #: Tells several clusters apart.
    name: str = "default"
    #: Slots of the one host; more than the machine has cores is fine.
    slots: int = 4
    #: What all jobs together may ask for as ``h_vmem``.
    memory_bytes: int = 8 * 2**30
    #: More queues besides ``all.q``, as ``NAME[:MAXTIME]``.
    queues: tuple[str, ...] = ()
    #: Where; None: in the directory of clusters.
    directory: Path | None = None
    #: Seconds after which a boot is given up.
    boot_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        if not isinstance(self.slots, int) or isinstance(self.slots, bool) or not 1 <= self.slots <= 9999:
            raise ConfigError(f"slots={self.slots!r} must be a whole number from 1 to 9999")
        if self.memory_bytes < 256 * 2**20:
            raise ConfigError(f"memory={self.memory_bytes} must be at least 256MB, which is what one job gets unasked")
        if self.boot_timeout_s <= 0:
            raise ConfigError(f"boot_timeout_s={self.boot_timeout_s!r} must be more than zero")
        if len(self.all_queues()) != len(self.queues) + 1:
            raise ConfigError(f"queues={self.queues!r} name one queue twice; all.q is there anyway")

    def all_queues(self) -> Mapping[str, float | None]:
        """Give every queue with its time limit in seconds, or None for none."""
        return {"all.q": None, **dict(_parse_queue(text) for text in self.queues)}

    def recorded(self) -> dict[str, Any]:
        """Give the values as JSON holds them."""
        return {key: _plain(value) for key, value in asdict(self).items() if key != "boot_timeout_s"}


def _parse_queue(text: str) -> tuple[str, float | None]:
    match = _QUEUE.fullmatch(text)
    if match is None:
        raise ConfigError(f"queue {text!r} cannot be read; write NAME or NAME:MAXTIME, e.g. short.q:00:10:00")
    try:
        return match["name"], parse_duration(match["limit"], f"the limit of queue {text!r}") if match["limit"] else None
    except SpecError as error:
        raise ConfigError(str(error)) from None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else os.path.realpath(value) if isinstance(value, Path) else value
