"""What the backends share whose jobs a job server of ours runs (``node/local_server.py``), here or on another host."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pytest_clusterjobs.backends.base import Capability, QueuedJob, Submission
from pytest_clusterjobs.backends.batch import module_lines
from pytest_clusterjobs.core.errors import SubmitError
from pytest_clusterjobs.core.resources import Resources
from pytest_clusterjobs.core.spec import JobSpec
from pytest_clusterjobs.core.state import ExitReason, JobState, JobStatus
from pytest_clusterjobs.core.units import format_memory

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks

_log = logging.getLogger(__name__)

#: What a job server can do.
CAPABILITIES = frozenset({Capability.ARRAYS, Capability.TIME_LIMIT, Capability.MEMORY_LIMIT, Capability.SHELL})
#: Largest number of jobs in one array.
ARRAY_LIMIT = 10_000

#: The server's words, but for EXITED, where the exit code decides.
_STATES = {
    "PENDING": (JobState.PENDING, None),
    "RUNNING": (JobState.RUNNING, None),
    "SIGNALED": (JobState.FAILED, ExitReason.SIGNAL),
    "TIMEOUT": (JobState.FAILED, ExitReason.TIMEOUT),
    "OUT_OF_MEMORY": (JobState.FAILED, ExitReason.OUT_OF_MEMORY),
    "CANCELLED": (JobState.CANCELLED, ExitReason.CANCELLED),
    "LAUNCH_FAILED": (JobState.FAILED, ExitReason.LAUNCH_FAILURE),
    "NODE_FAIL": (JobState.FAILED, ExitReason.NODE_FAILURE),
    "LOST": (JobState.LOST, ExitReason.LOST),
}

#: Variables that an interpreter or the C library reads once, when it starts. A job with other values than the server's
#: is started afresh instead of forked.
_READ_AT_START = ("PYTHON", "LANG", "LC_", "LD_", "MALLOC_", "GLIBC_")


class JobTable:
    """What is known of every job of a backend. Any thread may ask; one alone notes what a job's server says."""

    def __init__(self) -> None:
        #: Called with a job's id whenever it changes.
        self.listener: Callable[[str], None] = lambda _: None
        self._jobs: dict[str, QueuedJob] = {}

    def add(self, native_ids: Collection[str], submission: Submission, cores: int) -> None:
        """Take in jobs that are submitted together; ``cores``: how many they share with others."""
        why, resources = why_pending(submission, cores), held_to(submission.spec)
        pending = QueuedJob(submission.name, JobStatus(JobState.PENDING, "PENDING", detail=why, resources=resources))
        self._jobs.update(dict.fromkeys(native_ids, pending))

    def query(self, name_prefix: str) -> Mapping[str, QueuedJob]:
        """Give the jobs whose submission's name starts so."""
        return {key: job for key, job in list(self._jobs.items()) if job.name.startswith(name_prefix)}

    def status(self, native_id: str) -> JobStatus | None:
        """Give where a job is, or None for one that we never had."""
        job = self._jobs.get(native_id)
        return None if job is None else job.status

    def is_alive(self, native_id: str) -> bool:
        """Tell whether it is one of ours that has not ended."""
        job = self._jobs.get(native_id)
        return job is not None and not job.status.state.is_terminal

    def unfinished(self) -> list[str]:
        """Give the jobs that have not ended."""
        return [native_id for native_id in list(self._jobs) if self.is_alive(native_id)]

    def has_started(self, native_id: str) -> bool:
        """Tell whether a job has left the queue."""
        return self._jobs[native_id].status.state is not JobState.PENDING

    def note(self, native_id: str, word: str, code: int | None, detail: str, node: str) -> None:
        """Take in a server's word for a job, and tell the listener. A job that has ended stays as it is."""
        if not self.is_alive(native_id):
            return
        before = self._jobs[native_id]
        has_run = word == "RUNNING" or code is not None
        status = _status_of(word, code, detail, node if has_run else before.status.nodes)
        self._jobs[native_id] = QueuedJob(before.name, replace(status, resources=before.status.resources))
        try:
            self.listener(native_id)
        except Exception:  # a listener's trouble must not end the thread that all jobs depend on
            _log.exception("the listener failed for job %s", native_id)


def _status_of(word: str, code: int | None, detail: str, nodes: str) -> JobStatus:
    state, reason = _STATES.get(word, (JobState.UNKNOWN, None))
    if word == "EXITED":
        state = JobState.FAILED if code else JobState.COMPLETED
        reason = ExitReason.NONZERO_EXIT if code else None
    return JobStatus(
        state,
        word,
        reason,
        detail,
        exit_code=code if code is not None and code >= 0 else None,
        signal=-code if code is not None and code < 0 else None,
        nodes=nodes,
    )


def refuse_impossible(submission: Submission, backend: str, cores: int, memory_bytes: int, nodes: str) -> None:
    """Raise `SubmitError` where a job asks for more than there is.

    Args:
        submission: The job.
        backend: The backend's name.
        cores: The cores that one job can get.
        memory_bytes: The memory of the machine.
        nodes: What there is of nodes, in words.
    """
    spec = submission.spec
    for asked, there_is in (
        (spec.cores > cores and f"cores={spec.cores}", f"{cores} usable cores"),
        (spec.gpus > 0 and f"gpus={spec.gpus}", f"no GPUs that the {backend} scheduler could give"),
        (spec.nodes > 1 and f"nodes={spec.nodes}", nodes),
        (
            (spec.memory_bytes or 0) > memory_bytes and f"memory={format_memory(spec.memory_bytes)}",
            format_memory(memory_bytes),
        ),
    ):
        if asked:
            raise SubmitError(f"{submission.name} asks for {asked}; available: {there_is}", backend)


def held_to(spec: JobSpec) -> Resources:
    """Give the resources that a server holds a job to: pinned to so many cores, ended at the limits."""
    return Resources(spec.cores, spec.memory_bytes, 0, 1, spec.time_limit_s)


def why_pending(submission: Submission, cores: int) -> str:
    """Say what a job waits for; ``cores``: how many there are."""
    why = f"Resources: waiting for {submission.spec.cores} of {cores} cores"
    return why if submission.max_concurrent is None else f"{why}, at most {submission.max_concurrent} jobs at once"


def shape_of(submission: Submission, environment: Mapping[str, str], command: Sequence[str] | None) -> dict[str, Any]:
    """Give what a server must know of all jobs of a submission.

    Args:
        submission: The jobs.
        environment: Their environment, but for what is each one's own.
        command: What runs a job when the job's directory is added; None: a fork of the server does.
    """
    return {
        "environment": dict(environment),
        "count": submission.spec.cores,
        "memory_bytes": submission.spec.memory_bytes,
        "time_limit_s": submission.spec.time_limit_s,
        "command": command,
    }


def own_environment(submission: Submission, native_id: str, directory: str) -> dict[str, str]:
    """Give the variables that one job of a submission has alone."""
    own = {"CLUSTERJOBS_NATIVE_ID": native_id}
    if submission.is_array:
        own["CLUSTERJOBS_ARRAY_INDEX"] = os.path.basename(directory)
    return own


def needs_script(submission: Submission) -> bool:
    """Tell whether a job has shell lines."""
    return bool(submission.spec.modules or submission.spec.prologue or submission.spec.epilogue)


def read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """Give the variables of an environment that only a fresh interpreter obeys."""
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_START)}


def script(submission: Submission) -> str:
    """Render the script of a job with shell lines; its argument is the job's directory.

    The job is in the foreground: a signal for the job goes to each of its processes, so there is none to pass on. The
    trap lets the shell outlive SIGTERM for the epilogue, which runs in a subshell: it cannot change the exit code.
    """
    spec, quote = submission.spec, shlex.quote
    lines = ["#!/bin/bash", "trap : TERM", *module_lines(spec.modules), *spec.prologue]
    lines += [f'{quote(submission.python)} -u {quote(submission.runner)} "$1"', "cj_code=$?"]
    if spec.epilogue:
        lines += ["(", 'export CLUSTERJOBS_EXIT_CODE="$cj_code"', *spec.epilogue, ")"]
    return "\n".join([*lines, 'exit "$cj_code"', ""])
