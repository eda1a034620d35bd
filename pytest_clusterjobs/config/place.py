"""`Place`: where jobs can be sent, a backend or a profile of one. All of it that the engine need know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pytest_clusterjobs.core.spec import JobSpec, lay_over

if TYPE_CHECKING:
    from pytest_clusterjobs.config.settings import Settings


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
    #: What limits on time are multiplied with.
    timeout_factor: float = 1.0
    #: True: its tests run one after another, be there several workers.
    is_serial: bool = False
    #: Directives that contain one of these texts are left out.
    directives_skip: tuple[str, ...] = ()
    #: Options that one backend alone knows.
    options: Mapping[str, str] = field(default_factory=dict)

    def spec_for(self, spec: JobSpec, settings: Settings) -> JobSpec:
        """Give what a job is to have here: its own over the place's defaults, with the place's factor on its limits."""
        if self.defaults is not None:
            spec = lay_over(self.defaults, spec)
        if self.timeout_factor == 1:
            return spec
        timeout_s = settings.timeout_s if spec.timeout_s is None else spec.timeout_s
        queue_timeout_s = settings.queue_timeout_s if spec.queue_timeout_s is None else spec.queue_timeout_s
        return replace(
            spec,
            time_limit_s=self._longer(spec.time_limit_s),
            timeout_s=self._longer(timeout_s),
            queue_timeout_s=self._longer(queue_timeout_s),
        )

    def _longer(self, limit_s: float | None) -> float | None:
        return None if limit_s is None else limit_s * self.timeout_factor
