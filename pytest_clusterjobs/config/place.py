"""`Place`: where jobs can be sent, a backend or a profile of one. Plain data, all that the engine need know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_clusterjobs.core.spec import JobSpec


@dataclass(frozen=True, slots=True)
class Place:
    """A backend, perhaps with settings of a profile. None: as the run's settings say."""

    #: What users write for it: the profile's name or the backend's.
    name: str
    #: The backend's name.
    backend: str
    #: Defaults for its jobs, or None for none.
    defaults: JobSpec | None = None
    #: The machine where the scheduler is spoken to, as ssh knows it, or those that are to run jobs; empty for this one.
    host: tuple[str, ...] = ()
    #: The Python that runs the jobs.
    python: str | None = None
    #: Seconds after which a scheduler command is killed.
    command_timeout_s: float | None = None
    #: Seconds that a job may be unknown to every source before it counts as lost.
    lost_after_s: float | None = None
    #: With a host: the directory there for the jobs' files. Else the run's work directory must be this one.
    workdir: str | None = None
    #: The run's limit on unfinished jobs must be this one.
    max_jobs: int | None = None
    #: Directives that contain one of these texts are left out.
    directives_skip: tuple[str, ...] = ()
    #: Options that one backend alone knows.
    options: Mapping[str, str] = field(default_factory=dict)
