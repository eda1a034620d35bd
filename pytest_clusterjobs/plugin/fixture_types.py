"""The types of the fixtures' values, for annotations. The fixtures make them; nobody else does."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_clusterjobs.plugin.values import LOCAL

if TYPE_CHECKING:
    from pytest_clusterjobs.backends.base import Backend, BackendInfo, Capability
    from pytest_clusterjobs.core.spec import JobSpec
    from pytest_clusterjobs.engine.job import CommandOutcome, Job, JobArray
    from pytest_clusterjobs.engine.run import Run
    from pytest_clusterjobs.plugin.session import ClusterSession

__all__ = ["ClusterBackend", "ClusterJobs"]


class ClusterBackend:
    """The backend that the running test's jobs go to. Made by the fixture ``cluster_backend``.

    It may be an argument of a decorated test: on the node it still knows its name, its probe's answer and its
    capabilities, but has no way to the scheduler.
    """

    def __init__(self, session: ClusterSession | None, name: str | None) -> None:
        self._session = session
        self._name = name
        self._known: tuple[BackendInfo | None, frozenset[Capability]] | None = None

    @property
    def name(self) -> str:
        """Its name, e.g. ``"slurm"``."""
        if self._name is not None:
            return self._name
        # One object for the whole session: pinned tests may each have another backend.
        return LOCAL if self._session is None else self._session.run.selected

    @property
    def info(self) -> BackendInfo | None:
        """What its probe found: version, nodes, GPUs, partitions. None when it does not answer."""
        return self._known[0] if self._session is None and self._known else self._asked.probe(self.name).info

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What it can do."""
        return self._known[1] if self._session is None and self._known else self.backend.capabilities

    @property
    def backend(self) -> Backend:
        """The backend itself, to ask its scheduler something.

        Raises:
            RuntimeError: This is a copy inside a job.
        """
        return self._asked.run.backend(self.name)

    @property
    def _asked(self) -> ClusterSession:
        if self._session is None:
            raise RuntimeError("inside a job, cluster_backend has only name, info and capabilities")
        return self._session

    def __repr__(self) -> str:
        return f"<ClusterBackend {self.name}>"

    def __getstate__(self) -> dict[str, Any]:
        return {"_session": None, "_name": self.name, "_known": (self.info, self.capabilities)}


class ClusterJobs:
    """Submits functions, commands and scripts for the running test. Made by the fixture ``cluster_jobs``.

    ``resources`` are the arguments of ``@cluster``: ``cores=2, memory="1GB", time="00:05:00"``. For a decorated
    function they are laid over its own.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._jobs: list[Job[Any]] = []

    def submit(self, work: Callable[..., Any] | str | Sequence[object], *args: Any, **resources: Any) -> Job[Any]:
        """Submit a call or a command and give its future at once.

        Args:
            work: A function, called with ``args``; or a command: a text for the shell, or a list of words.
            args: Positional arguments of the function, or more words of the command.
            resources: What the job asks for. Keyword arguments of the function: use `functools.partial`.

        Raises:
            SpecError: A resource is impossible, or there is no such.
            PayloadError: The function or an argument cannot be sent to the node.
            TypeError: ``work`` is none of these.
        """
        __tracebackhide__ = True
        from pytest_clusterjobs.engine.work import Work, command_work

        if callable(work):
            function, spec = _function_and_spec(work, resources)
            return self._submit([Work(spec, _label(function), function, args)])[0]
        if args and isinstance(work, str):
            raise TypeError(f"{work!r} is a text for the shell and takes no more words; write a list of words")
        if not isinstance(work, Sequence):
            raise TypeError(f"{work!r} is no job; write a function, a text for the shell, or a list of words")
        command = work if isinstance(work, str) else [*work, *args]
        return self._submit([command_work(command, _function_and_spec(None, resources)[1])])[0]

    def run(self, work: Callable[..., Any] | str | Sequence[object], *args: Any, **resources: Any) -> Any:
        """Submit, wait, and give the function's value, or a command's `CommandOutcome` whatever its exit code.

        Raises:
            JobError: A limit, a signal, the cluster or somebody else ended the job.
            Exception: What the function raised.
        """
        __tracebackhide__ = True
        job = self.submit(work, *args, **resources)
        return job.result() if callable(work) else outcome_of(job)

    def map(self, function: Callable[..., Any], *iterables: Iterable[Any], **resources: Any) -> list[Any]:
        """Call a function for each group of items, as the built-in ``map`` does, in one job array; values in order."""
        __tracebackhide__ = True
        return self.map_submit(function, *iterables, **resources).results()

    def map_submit(self, function: Callable[..., Any], *iterables: Iterable[Any], **resources: Any) -> JobArray[Any]:
        """Submit what `map` would and give the futures at once."""
        __tracebackhide__ = True
        from pytest_clusterjobs.engine.job import JobArray
        from pytest_clusterjobs.engine.work import Work

        plain, spec = _function_and_spec(function, resources)
        works = [Work(spec, _label(plain), plain, args) for args in zip(*iterables, strict=False)]
        return JobArray(self._submit(works) if works else [])

    def script(self, path: str | os.PathLike[str], *args: object, **resources: Any) -> Job[Any]:
        """Submit a script that the nodes see under the same path, and give its future at once.

        An executable one is run as it is; another one by ``bash``.

        Raises:
            FileNotFoundError: There is no such file here.
        """
        __tracebackhide__ = True
        file = Path(path).absolute()
        if not file.is_file():
            raise FileNotFoundError(f"no script {file}")
        words = [str(file), *args]
        return self.submit(words if os.access(file, os.X_OK) else ["/bin/bash", *words], **resources)

    def cancel_unfinished(self) -> list[Job[Any]]:
        """Cancel what this object submitted and what still runs, and give it. Called at the end of the test."""
        left = [job for job in self._jobs if not job.state.is_terminal]
        if left:
            self._run.cancel(left)
        return left

    def _submit(self, works: list[Any]) -> list[Job[Any]]:
        __tracebackhide__ = True
        jobs = self._run.submit(works)
        self._jobs += jobs
        return jobs


def outcome_of(job: Job[Any]) -> CommandOutcome:
    """Wait for a command's end and give its exit code and output; what is no exit of its own raises."""
    __tracebackhide__ = True
    from pytest_clusterjobs.core.state import ExitReason
    from pytest_clusterjobs.engine.job import CommandOutcome

    job.wait()
    if job.reason is not ExitReason.NONZERO_EXIT or job.metrics.exit_code is None:
        value: CommandOutcome = job.result()
        return value
    logs = job.logs()
    return CommandOutcome(job.metrics.exit_code, logs.stdout, logs.stderr)


def _function_and_spec(function: Any, resources: dict[str, Any]) -> tuple[Any, JobSpec]:
    from pytest_clusterjobs.core.spec import make_spec
    from pytest_clusterjobs.decorator import ClusterFunction

    if isinstance(function, ClusterFunction):
        return function.__wrapped__, make_spec(function.spec, **resources)
    if isinstance(function, functools.partial) and isinstance(function.func, ClusterFunction):
        plain = functools.partial(function.func.__wrapped__, *function.args, **function.keywords)
        return plain, make_spec(function.func.spec, **resources)
    return function, make_spec(**resources)


def _label(function: Any) -> str:
    inner = getattr(function, "func", function)  # of a functools.partial
    return str(getattr(inner, "__name__", type(inner).__name__)).replace("<lambda>", "lambda")
