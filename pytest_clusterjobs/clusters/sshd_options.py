"""What a throw-away sshd may be asked to be like."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pytest_clusterjobs.core.errors import ConfigError

_LINE = re.compile(r"[A-Za-z]+[ \t]+[^\r\n\0]*[^\s]")


@dataclass(frozen=True, slots=True)
class SshdClusterOptions:
    """What a throw-away sshd should be like; impossible values raise ``ConfigError`` at once."""

    #: Tells several apart.
    name: str = "default"
    #: Lines for sshd_config, as ``KEYWORD VALUE``; they win over ours. What ``SetEnv`` sets is in every session.
    conf_lines: tuple[str, ...] = ()
    #: Where; None: in the directory of clusters.
    directory: Path | None = None
    #: Seconds after which a boot is given up.
    boot_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if self.boot_timeout_s <= 0:
            raise ConfigError(f"boot_timeout_s={self.boot_timeout_s!r} must be more than zero")
        for line in self.conf_lines:
            if not _LINE.fullmatch(line):
                raise ConfigError(f"{line!r} is no line of sshd_config; write KEYWORD VALUE, e.g. 'MaxSessions 10'")

    def recorded(self) -> dict[str, Any]:
        """Give the values as JSON holds them."""
        place = None if self.directory is None else os.path.realpath(self.directory)
        values = {key: value for key, value in asdict(self).items() if key != "boot_timeout_s"}
        return {**values, "conf_lines": list(self.conf_lines), "directory": place}
