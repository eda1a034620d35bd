"""The contract between the engine and a scheduler. The conformance suite in ``testing`` is its executable form."""

from __future__ import annotations

import enum
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from pytest_clusterjobs.core.resources import Resources
from pytest_clusterjobs.core.spec import JobSpec
from pytest_clusterjobs.core.state import JobStatus
from pytest_clusterjobs.core.units import format_duration
from pytest_clusterjobs.transports.base import FarTransport, Transport

#: The file in a submission's directory that holds the job's environment variables. It does not outlive the run.
ENVIRONMENT = "environment.sh"


class Capability(enum.Enum):
    """Something that a scheduler may or may not be able to do. What it cannot do is said, not faked."""

    #: Many jobs of one shape in one submission.
    ARRAYS = "job arrays"
    #: ``partition`` / ``queue``.
    PARTITIONS = "partitions"
    #: ``account``, ``qos``.
    ACCOUNTS = "accounts"
    #: ``constraint``.
    CONSTRAINTS = "node constraints"
    #: ``time`` is enforced.
    TIME_LIMIT = "time limits"
    #: ``memory`` is enforced.
    MEMORY_LIMIT = "memory limits"
    #: ``nodes`` above 1.
    MULTI_NODE = "several nodes"
    #: ``gpus`` above 0.
    GPUS = "GPUs"
    #: ``modules``, ``prologue``, ``epilogue``.
    SHELL = "shell lines around the job"
    #: ``extra_args``, ``extra_directives``.
    DIRECTIVES = "directives and submit arguments"
    #: Jobs outlive the process that submitted them.
    DETACHED = "jobs that outlive their client"


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition or queue, as the scheduler describes it."""

    #: Its name.
    name: str
    #: True when jobs that name none go there.
    is_default: bool = False
    #: Number of nodes, or None where unknown.
    nodes: int | None = None
    #: Largest time limit in seconds, or None for none or unknown.
    max_time_s: float | None = None
    #: "up" or the scheduler's word for why not.
    status: str = "up"

    def __str__(self) -> str:
        """Give its name, with ``*`` for the default one, and what limits it: ``short (at most 20 s, drain)``."""
        limits = [] if self.max_time_s is None else [f"at most {format_duration(self.max_time_s)}"]
        limits += [] if self.status == "up" else [self.status]
        told = f" ({', '.join(limits)})" if limits else ""
        return f"{self.name}{'*' if self.is_default else ''}{told}"


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What a backend's probe found."""

    #: The scheduler's version, e.g. ``slurm 22.05.8``.
    version: str
    #: Number of nodes, or None where unknown.
    nodes: int | None = None
    #: CPU cores of the largest node, or None where unknown.
    cores_per_node: int | None = None
    #: Number of GPUs in the whole cluster, or None where unknown.
    gpus: int | None = None
    #: Partitions or queues; empty where there are none.
    partitions: tuple[Partition, ...] = ()
    #: Largest number of jobs in one array, or None where unknown.
    array_limit: int | None = None
    #: Anything else worth a line.
    detail: str = ""

    def notes(self) -> str:
        """Give in one line what stands in no column of a table: sizes, limits, the detail."""
        told = [] if self.cores_per_node is None else [f"at most {self.cores_per_node} cores a node"]
        told += [f"{self.gpus} GPUs"] if self.gpus else []
        told += [f"arrays of at most {self.array_limit} jobs"] if (self.array_limit or 0) > 1 else []
        return "; ".join([*told, *([self.detail] if self.detail else [])])


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """How to speak to a scheduler."""

    #: Seconds after which a scheduler command is killed.
    command_timeout_s: float = 30.0
    #: The Python that runs the jobs.
    python: str = ""
    #: What one scheduler alone needs to know, e.g. ``{"parallel_environment": "smp"}``; each backend lists its own.
    options: Mapping[str, str] = field(default_factory=dict)
    #: Directives that contain one of these texts are left out of the script.
    directives_skip: tuple[str, ...] = ()
    #: The ways to all hosts of a backend that may have several; its transport is the first of them.
    ways: tuple[FarTransport, ...] = ()
    #: Directory on those hosts for the jobs' files, "" for the usual one.
    workdir: str = ""
    #: What this process's part of the run is called: the run's id, and the worker's name if it is not the only one.
    run_name: str = ""


@dataclass(frozen=True, slots=True)
class Submission:
    """One submission: a job, or an array of jobs of one shape."""

    #: ``cj-<run8>-<n>-<slug>``: unique, and how the submission is found again when its reply is lost.
    name: str
    #: What was asked for.
    spec: JobSpec
    #: The jobs' directories, absolute. One: a single job. More: an array, element i's is ``<directory>/<i>``.
    directories: tuple[str, ...]
    #: Where the script is kept: the job's directory, or the array's above its elements'.
    directory: str
    #: One for each job: a file to be made at the very end, holding the exit code.
    markers: tuple[str, ...]
    #: The runner, by path. ``python runner <job directory>`` runs the job.
    runner: str
    #: The Python that runs it.
    python: str
    #: The environment that the job inherits, before ``spec.env``.
    environment: Mapping[str, str] = field(repr=False, default_factory=dict)
    #: At most so many of an array's jobs at once, or None.
    max_concurrent: int | None = None

    @property
    def is_array(self) -> bool:
        """True when it is an array."""
        return len(self.directories) > 1


@dataclass(frozen=True, slots=True)
class Submitted:
    """The scheduler's acceptance."""

    #: Ids, one for each job of the submission, in order.
    native_ids: tuple[str, ...]
    #: The submit command, for people.
    command: str


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job as a bulk query shows it."""

    #: The submission's name.
    name: str
    #: Where it is.
    status: JobStatus


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a job must find in one variable of its environment. Whatever is not given may be anything."""

    #: Its exact value.
    value: str | None = None
    #: A regular expression for the whole value, where there is more than one right one.
    pattern: str | None = None
    #: The variable names a file that the job can read, of so many lines.
    lines: int | None = None
    #: The variable names such a file, and the numbers in its second column add up to this.
    slots: int | None = None
    #: True: nothing is wrong where it is not there at all.
    is_optional: bool = False
    #: The scheduler's manual page that says so.
    source: str = ""


class Backend(ABC):
    """A scheduler's language. Stateless but for caches; any thread may call any method.

    No method waits for a job. Each ends within a small multiple of ``settings.command_timeout_s``.
    """

    #: The name that users write; the module's name too.
    name: ClassVar[str]
    #: What it can do.
    capabilities: ClassVar[frozenset[Capability]]
    #: True: a query costs no command, and the listener is called at each change, so the engine need not poll.
    has_push: ClassVar[bool] = False
    #: How old, in seconds, an answer to `query` may be where the scheduler gives it from a copy of its state.
    answers_age_s: float = 0.0
    #: False: jobs see none of this machine's files, and the backend itself carries jobs' directories there and back.
    shares_files: ClassVar[bool] = True
    #: Names of the ``options`` of its settings that it knows; a profile with another one is refused.
    option_names: ClassVar[frozenset[str]] = frozenset()
    #: The variable that names its hosts, with commas, where no profile does. A backend that has one may have several.
    host_variable: ClassVar[str | None] = None
    #: True: a profile may name the host that it is spoken to on.
    can_be_far: ClassVar[bool] = True

    def __init__(self, transport: Transport, settings: BackendSettings) -> None:
        self.transport = transport
        self.settings = settings

    @property
    def sees_files(self) -> bool:
        """True when jobs see this machine's files, under the same paths."""
        return self.shares_files and self.transport.is_here

    @abstractmethod
    def check(self) -> BackendInfo:
        """Ask the scheduler itself whether it can be used from here.

        Raises:
            BackendUnavailable: It cannot; the message says why (a binary missing, a controller not answering).
        """

    @abstractmethod
    def submit(self, submission: Submission) -> Submitted:
        """Hand over a job or an array.

        Raises:
            SubmitError: Refused, and would be refused again.
            SubmitLimit: Refused for now.
            SubmitUnknown: The reply was lost; the job may exist. Look its name up with `query`.
            CommandNotFound: The submit command is missing.
        """

    @abstractmethod
    def query(self, name_prefix: str) -> Mapping[str, QueuedJob]:
        """Ask, in one query, about every job of ours whose name starts with ``name_prefix``.

        Returns:
            By native id. A job that the scheduler does not know is absent; absence says nothing about its end. A word
            that we do not know is ``JobState.UNKNOWN``, with the word kept.

        Raises:
            BackendError: The scheduler did not answer. No job has changed state because of it.
        """

    @abstractmethod
    def explain(self, native_id: str) -> JobStatus | None:
        """Ask every other source about one job: its details, accounting. None when none knows it.

        Raises:
            BackendError: A source that should know did not answer.
        """

    @abstractmethod
    def cancel(self, native_ids: Collection[str]) -> None:
        """Cancel jobs in one go. Idempotent; a job that has ended or is unknown is no error. Empty: does nothing.

        Raises:
            BackendError: The scheduler did not answer.
        """

    def explain_sources(self) -> tuple[str, ...]:
        """Name the sources that `explain` asks, for the message about a lost job."""
        return ()

    def array_limit(self) -> int:
        """Give the largest number of jobs in one array; 1 where there are no arrays. May ask the scheduler once."""
        return 1

    def element_ids(self, native_id: str, count: int) -> tuple[str, ...]:
        """Give the ids of all ``count`` elements of an array, in order, from that of any one of them."""
        array, separator, _ = native_id.rpartition("_")
        return tuple(f"{array}{separator}{index}" for index in range(count))

    def expected_environment(self, native_id: str, name: str, spec: JobSpec) -> Mapping[str, Expectation]:
        """Give what the scheduler promises a job to find in its environment. Pure.

        Args:
            native_id: The job's.
            name: Its submission's; an array's elements share it.
            spec: What it asks for.

        Returns:
            By variable. The scheduler's own, not ``spec.env``. ``namespace`` stands for the file that a pod finds its
            namespace in.
        """
        return {"CLUSTERJOBS_NATIVE_ID": Expectation(native_id, source="our script")}

    def told_resources(self, environment: Mapping[str, str]) -> Resources:
        """Read what the scheduler has told a job that it gave it, from the job's environment. Pure; never raises."""
        return Resources()

    def set_listener(self, listener: Callable[[str], None]) -> None:  # noqa: B027 - only backends with push have one
        """Have ``listener(native_id)`` called, from any thread, whenever a job changes. Backends with push only."""

    def fetch_logs(self, native_id: str) -> None:  # noqa: B027 - mostly they are here, or the engine brings them
        """Bring what a running job has printed so far into its directory here, if it can be had. Best effort."""

    def fetch_kept(self, native_ids: Collection[str]) -> None:  # noqa: B027 - mostly the files are here
        """Bring all that ended jobs have in their directories into those here, which are kept. Before `close`.

        Raises:
            ClusterJobsError: It cannot be had; the message says from where.
        """

    def read_left(self, native_id: str, directory: str, path: str) -> bytes | None:
        """Give what a file holds that a job left on the machine where the backend runs it; None where there is none.

        Args:
            native_id: The job's.
            directory: The job's directory as the engine knows it there.
            path: Absolute there, or relative to the directory.

        Raises:
            ClusterJobsError: It cannot be had.
        """
        return self.transport.read(os.path.join(directory, path))

    def close(self) -> None:  # noqa: B027 - most backends hold nothing
        """Release what the backend holds: processes, connections. Idempotent."""
