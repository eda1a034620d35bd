"""Where a job is (`JobState`) and why it ended (`ExitReason`), kept apart."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pytest_clusterjobs.core.resources import Resources


class JobState(str, enum.Enum):
    """Where a job is. Terminal states never change."""

    #: Known to us, not yet accepted by the scheduler.
    NEW = "NEW"
    #: Accepted; waits in the queue, or again after a requeue.
    PENDING = "PENDING"
    #: Its code runs, or the scheduler holds resources for it (starting, suspended, completing).
    RUNNING = "RUNNING"
    #: Ended with success.
    COMPLETED = "COMPLETED"
    #: Ended without success; `ExitReason` says why.
    FAILED = "FAILED"
    #: Ended because somebody cancelled it.
    CANCELLED = "CANCELLED"
    #: Gone, and no source says how it ended.
    LOST = "LOST"
    #: The scheduler used a word that we do not know. Not terminal.
    UNKNOWN = "UNKNOWN"

    @property
    def is_terminal(self) -> bool:
        """True when the job has ended for good."""
        return self in _TERMINAL

    def __str__(self) -> str:
        return self.value


_TERMINAL = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.LOST})


class ExitReason(str, enum.Enum):
    """Why a job ended without success."""

    #: A command or the function's process exited with a code other than 0.
    NONZERO_EXIT = "nonzero_exit"
    #: The function raised.
    EXCEPTION = "exception"
    #: A signal ended it.
    SIGNAL = "signal"
    #: The scheduler's time limit (``time``).
    TIMEOUT = "timeout"
    #: Our own limit on the run time (``timeout``).
    RUN_TIMEOUT = "run_timeout"
    #: Our own limit on the wait in the queue (``queue_timeout``).
    QUEUE_TIMEOUT = "queue_timeout"
    #: The scheduler says that the job can never start as it was asked for.
    NEVER_STARTS = "never_starts"
    #: A memory limit.
    OUT_OF_MEMORY = "out_of_memory"
    #: A node died or was taken away.
    NODE_FAILURE = "node_failure"
    #: A job of higher priority took its place, and it was not requeued.
    PREEMPTED = "preempted"
    #: The scheduler's deadline for the job passed.
    DEADLINE = "deadline"
    #: The scheduler could not start it on its node.
    LAUNCH_FAILURE = "launch_failure"
    #: Cancelled by us.
    CANCELLED = "cancelled"
    #: Cancelled by somebody else.
    CANCELLED_OUTSIDE = "cancelled_outside"
    #: A job that it depends on did not complete.
    DEPENDENCY_FAILED = "dependency_failed"
    #: The scheduler refused the submission.
    SUBMIT_REFUSED = "submit_refused"
    #: Another Python on the node, or a module that cannot be loaded.
    ENVIRONMENT_MISMATCH = "environment_mismatch"
    #: The value that it returned cannot be pickled.
    RESULT_UNPICKLABLE = "result_unpicklable"
    #: Nobody knows.
    LOST = "lost"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class JobStatus:
    """What a scheduler says about one job, in our words with its own beside them."""

    #: Where the scheduler says the job is.
    state: JobState
    #: The scheduler's own word, e.g. ``CG`` or ``NODE_FAIL``.
    native_word: str = ""
    #: Why it ended, where the scheduler's word says so.
    reason: ExitReason | None = None
    #: The scheduler's explanation, e.g. a pending reason or who cancelled it.
    detail: str = ""
    #: True: it waits for something that will never come.
    is_hopeless: bool = False
    #: Exit code, None where unknown or ended by a signal.
    exit_code: int | None = None
    #: Signal number that ended it, or None.
    signal: int | None = None
    #: Names of the nodes, as the scheduler writes them.
    nodes: str = ""
    #: How often the scheduler has started it again under the same id.
    restarts: int = 0
    #: What the scheduler counts for it: asked for while it waits, given once it runs. None where it does not say.
    resources: Resources | None = None
