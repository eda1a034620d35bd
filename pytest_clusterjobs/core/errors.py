"""Every error this package raises on purpose.

::

    ClusterJobsError
    ├── SpecError (ValueError)             an argument of @cluster is wrong
    │   └── UnknownArgumentError (TypeError)   there is no such argument
    ├── ConfigError (ValueError)           an option, ini value or environment variable is wrong
    │   └── UnknownBackendError            no backend has that name
    ├── CredentialError                    [infrastructure] a credential is nowhere, or its source does not give it
    ├── PayloadError                       a function, argument or fixture value cannot travel
    ├── UsageError (RuntimeError)          a call at the wrong time: while collecting, inside a job
    ├── WaitTimeout (TimeoutError)         result(timeout_s) ran out; the job goes on
    ├── BackendError                       [infrastructure]
    │   ├── BackendUnavailable             no binary, no controller, no answer
    │   ├── CommandError                   a scheduler command failed
    │   │   ├── CommandNotFound
    │   │   ├── CommandTimeout             [transient]
    │   │   └── ConnectionLost             [transient] the way to another machine broke
    │   ├── SubmitError                    the scheduler refused the job
    │   ├── SubmitLimit                    [transient] a site limit: try again later
    │   └── SubmitUnknown                  [transient] the reply was lost: the job may exist
    ├── StoreError                         [infrastructure] a job directory cannot be made, read or trusted
    └── JobError                           the job ended without a value
        ├── JobFailed                      nonzero exit, signal, memory or time limit, a result that cannot travel
        │   └── RemoteError                it raised something that cannot be rebuilt here
        ├── JobTimeout (TimeoutError)      a limit on its run time ended it
        ├── JobCancelled
        ├── QueueTimeout (TimeoutError)    [infrastructure] it never started in the time allowed
        └── JobInfrastructureError         [infrastructure] node failure, preemption, launch failure, wrong Python
            └── JobLost                    [infrastructure] no source knows how it ended

``transient`` decides whether the engine tries again; ``infrastructure`` whether a report says "error" (the cluster's
trouble) or "failed" (the test's). Neither is ever decided by matching text. Every error survives pickling. Their texts
hold no secret that this process knows.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pytest_clusterjobs.core.redaction import redact


class ClusterJobsError(Exception):
    """Base of every error of this package."""

    #: True: the same call may succeed later.
    transient: ClassVar[bool] = False
    #: True: trouble of the cluster, not of the code under test.
    infrastructure: ClassVar[bool] = False

    @property
    def brief(self) -> str:
        """The message without its command, for a line of a list; the end of what the command said stays."""
        return redact(str(self.args[0]) if self.args else type(self).__name__)

    def _text(self) -> str:
        return super().__str__()

    def __str__(self) -> str:
        return redact(self._text())

    def __repr__(self) -> str:
        return redact(super().__repr__())


class SpecError(ClusterJobsError, ValueError):
    """An argument of ``@cluster`` has an impossible value."""


class UnknownArgumentError(SpecError, TypeError):
    """``@cluster`` has no argument of that name."""


class ConfigError(ClusterJobsError, ValueError):
    """An option, an ini value, an environment variable or a configuration file is wrong."""


class UnknownBackendError(ConfigError):
    """No backend has that name."""


class CredentialError(ClusterJobsError):
    """A credential is in no source, or the source that has it does not give it. The message names what to set."""

    infrastructure: ClassVar[bool] = True


class PayloadError(ClusterJobsError):
    """A function, an argument or a fixture value cannot be sent to the node."""


class UsageError(ClusterJobsError, RuntimeError):
    """Something was called where it cannot work: a submission while pytest collects, or inside a job."""


class WaitTimeout(ClusterJobsError, TimeoutError):
    """Waiting ended before the job did. The job goes on and stays tracked."""


class BackendError(ClusterJobsError):
    """A scheduler could not do what was asked.

    Args:
        message: What was tried and what to do.
        backend: The backend's name.
        command: The command line, or "".
        stderr: What the command said, or "".
    """

    infrastructure: ClassVar[bool] = True

    def __init__(self, message: str, backend: str = "", command: str = "", stderr: str = "") -> None:
        super().__init__(message, backend, command, stderr)  # all in args: the error survives pickling
        self.backend, self.command, self.stderr = backend, command, stderr

    @property
    def brief(self) -> str:
        said = self.stderr.strip().splitlines()
        return redact(f"{self.args[0]} ({said[-1].strip()})") if said else super().brief

    def _text(self) -> str:
        text = f"{self.backend}: {self.args[0]}" if self.backend else str(self.args[0])
        if self.command:
            text += f"\n  command: {self.command}"
        if self.stderr.strip():
            text += f"\n  stderr: {self.stderr.strip()}"
        return text


class BackendUnavailable(BackendError):
    """The scheduler cannot be used from here: no binary, no controller, or no answer in time."""


class CommandError(BackendError):
    """A scheduler command exited with an error."""


class CommandNotFound(CommandError):
    """The command is not on PATH."""


class CommandTimeout(CommandError):
    """The command did not end within its time limit and was killed. It may have had its effect."""

    transient: ClassVar[bool] = True


class ConnectionLost(CommandError):
    """Another machine cannot be reached now, or the way there broke; a command may have had its effect."""

    transient: ClassVar[bool] = True


class SubmitError(BackendError):
    """The scheduler refused the job. Not transient: the same spec will be refused again.

    The test asked for something this scheduler does not give, so it is the test's failure, not the cluster's.
    """

    infrastructure: ClassVar[bool] = False


class SubmitLimit(BackendError):
    """A limit of the site (jobs per user, array size, ...) is reached. The engine waits and submits again."""

    transient: ClassVar[bool] = True


class SubmitUnknown(BackendError):
    """The reply to a submission was lost. The job may exist: the engine looks its name up before anything else."""

    transient: ClassVar[bool] = True


class StoreError(ClusterJobsError):
    """A job directory cannot be made, read or trusted."""

    infrastructure: ClassVar[bool] = True


class JobError(ClusterJobsError):
    """The job ended without a value.

    Args:
        message: How it ended, in one line.
        evidence: More lines: ids, state, reason, node, resources, log tails, where the directory is.
    """

    def __init__(self, message: str, evidence: str = "") -> None:
        super().__init__(message, evidence)
        self.message, self.evidence = message, evidence

    def _text(self) -> str:
        return f"{self.message}\n{self.evidence}".rstrip()


class JobFailed(JobError):
    """The job's code ended it: nonzero exit, a signal, out of memory, or a result that cannot be pickled."""


class RemoteError(JobFailed):
    """The job raised an exception that cannot be rebuilt here; its type's name and text are in the message."""


class JobTimeout(JobError, TimeoutError):
    """A limit on the run time ended the job: the scheduler's (``time``) or ours (``timeout``)."""


class JobCancelled(JobError):
    """The job was cancelled, by us or by somebody else."""


class QueueTimeout(JobError, TimeoutError):
    """The job did not start within ``queue_timeout``, or the scheduler says that it never will."""

    infrastructure: ClassVar[bool] = True


class JobInfrastructureError(JobError):
    """The cluster ended the job: node failure, preemption, launch failure, another Python on the node."""

    infrastructure: ClassVar[bool] = True


class JobLost(JobInfrastructureError):
    """The job is gone and no source says how it ended. The message lists every source that was asked."""


def is_infrastructure(error: object) -> bool:
    """Tell whether an exception is the cluster's trouble rather than the tested code's."""
    attribute: Any = getattr(error, "infrastructure", False)
    return isinstance(error, ClusterJobsError) and bool(attribute)
