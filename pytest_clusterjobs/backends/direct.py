"""What the backends share whose jobs a job server of ours runs (``node/local_server.py``), here or on another host."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from pytest_clusterjobs.backends.base import Capability, Submission
from pytest_clusterjobs.backends.batch import module_lines
from pytest_clusterjobs.core.errors import SubmitError
from pytest_clusterjobs.core.state import ExitReason, JobState, JobStatus
from pytest_clusterjobs.core.units import format_memory

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks

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


def status_of(word: str, code: int | None, detail: str, nodes: str) -> JobStatus:
    """Put a server's word into ours.

    Args:
        word: What it says.
        code: The exit code; negative: the signal that ended the job; None: unknown.
        detail: More about it.
        nodes: Where the job runs or ran.
    """
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
            raise SubmitError(f"{submission.name} asks for {asked}, and there is {there_is}", backend)


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
