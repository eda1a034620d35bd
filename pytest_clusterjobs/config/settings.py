"""The settings of a run, as plain data."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from pytest_clusterjobs.core.errors import ConfigError
from pytest_clusterjobs.core.naming import nearest
from pytest_clusterjobs.core.spec import KEEP_POLICIES

#: Name of the directory below a project's root that holds the runs.
WORKDIR_NAME = ".clusterjobs"


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run behaves. Wrong values raise `ConfigError` when it is made."""

    #: Directory that holds the runs' directories. The nodes must see it under the same name.
    workdir: str = ""
    #: When job directories are kept: "failed", "always" or "never".
    keep: str = "failed"
    #: At most so many unfinished jobs of this run, all workers together; None: no limit of ours.
    max_jobs: int | None = None
    #: Our limit on the run time of jobs that set none, in seconds.
    timeout_s: float | None = None
    #: Our limit on the wait in the queue of jobs that set none, in seconds.
    queue_timeout_s: float | None = None
    #: Seconds after which a scheduler command is killed.
    command_timeout_s: float = 30.0
    #: Seconds that a job may be unknown to every source before it counts as lost.
    lost_after_s: float = 30.0
    #: The Python that runs the jobs.
    python: str = sys.executable

    def __post_init__(self) -> None:
        if self.keep not in KEEP_POLICIES:
            hint = nearest(self.keep, KEEP_POLICIES)
            raise ConfigError(f"keep={self.keep!r} must be one of {', '.join(KEEP_POLICIES)}{hint}")
        if self.max_jobs is not None and self.max_jobs < 1:
            raise ConfigError(f"max_jobs={self.max_jobs} must be 1 or more")
        if not self.workdir:
            object.__setattr__(self, "workdir", os.environ.get("CLUSTERJOBS_WORKDIR") or os.path.abspath(WORKDIR_NAME))
        if not os.path.isabs(self.workdir):
            object.__setattr__(self, "workdir", os.path.abspath(self.workdir))
        # sbatch(1): a backslash in --output switches its patterns off, and no directive can hold a line break.
        if any(ord(char) < 32 or char == "\\" for char in self.workdir):
            raise ConfigError(f"workdir={self.workdir!r} must hold no backslash and no control character")
