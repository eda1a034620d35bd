"""`@cluster`: a function, or a test, whose calls are jobs."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast, overload

from pytest_clusterjobs.core.errors import SpecError, UsageError
from pytest_clusterjobs.core.spec import JobSpec, make_spec

if TYPE_CHECKING:
    from pytest_clusterjobs.engine.job import Job, JobArray
    from pytest_clusterjobs.engine.run import Run

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks


P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


class ClusterFunction(Generic[P, R]):
    """A function whose calls are jobs. Made by `cluster`; behaves as the function it was made from."""

    __wrapped__: Callable[P, R]
    __name__: str
    __qualname__: str

    def __init__(self, function: Callable[P, R], spec: JobSpec, depends_on: tuple[Any, ...] = ()) -> None:
        functools.update_wrapper(self, function)
        #: What each of its jobs asks for.
        self.spec = spec
        self._depends_on = depends_on

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Submit a call, wait for its end and give its value, or raise what it raised.

        A wait that something else ends, such as a time limit of the test, cancels the job.
        """
        job = self.submit(*args, **kwargs)
        job.wait_or_cancel()
        return job.result()

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Submit a call and give its future at once."""
        self._check_arguments(args, kwargs)
        return _run().submit_call(
            self.__wrapped__, args, kwargs, self.spec, label=self._label, depends_on=self._depends_on
        )

    def map(self, *iterables: Iterable[Any], max_concurrent: int | None = None) -> list[R]:
        """Call it for each group of items, as the built-in ``map`` does, in one job array; values in order."""
        return self.map_submit(*iterables, max_concurrent=max_concurrent).results()

    def map_submit(self, *iterables: Iterable[Any], max_concurrent: int | None = None) -> JobArray[R]:
        """Submit what `map` would and give the futures at once.

        Args:
            iterables: One for each argument; the shortest ends the others.
            max_concurrent: At most so many jobs of the array at once.
        """
        from pytest_clusterjobs.engine.job import JobArray
        from pytest_clusterjobs.engine.work import Work

        if not iterables:
            raise UsageError(f"{self._label}.map() needs at least one iterable")
        calls = list(zip(*iterables, strict=False))
        for args in calls[:1]:
            self._check_arguments(args, {})
        works = [Work(self.spec, self._label, self.__wrapped__, args, {}) for args in calls]
        jobs = _run().submit(works, depends_on=self._depends_on, max_concurrent=max_concurrent) if works else []
        return JobArray(jobs)

    def options(self, *, depends_on: Iterable[Job[Any]] = (), **changes: Any) -> ClusterFunction[P, R]:
        """Give a copy that asks for something else.

        Args:
            depends_on: Jobs that must complete before those of the copy are submitted.
            changes: Arguments of `cluster`.

        Raises:
            SpecError: As `cluster` does, or ``depends_on`` is no sequence of jobs.
        """
        return type(self)(self.__wrapped__, _checked(changes, self.spec), _jobs(depends_on))

    def local(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function here, in this process, as if it were not decorated."""
        return self.__wrapped__(*args, **kwargs)

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> ClusterFunction[P, R]: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> ClusterFunction[..., R]: ...
    def __get__(self, instance: object | None, owner: type | None = None) -> ClusterFunction[..., R]:
        if instance is None:
            return self
        bound = types.MethodType(cast(types.FunctionType, self.__wrapped__), instance)
        made = type(self)(bound, self.spec, self._depends_on)
        vars(made).update({**vars(self), "__wrapped__": bound})  # marks and what else decorators above this one set
        return made

    def __reduce__(self) -> Any:
        """Travel as a function that refuses to submit from inside a job."""
        from pytest_clusterjobs.node.packing import NestedFunction

        options = {name: getattr(self.spec, name) for name in ("cores", "gpus", "nodes", "partition", "account")}
        return NestedFunction, (self.__wrapped__, options)

    def __repr__(self) -> str:
        return f"<cluster function {self.__module__}.{self.__qualname__}>"

    @property
    def __globals__(self) -> dict[str, Any]:
        """The function's: pytest evaluates conditions of ``skipif`` and ``xfail`` that are texts in them."""
        return cast(types.FunctionType, self.__wrapped__).__globals__

    @property
    def _label(self) -> str:
        return getattr(self.__wrapped__, "__name__", "function").replace("<lambda>", "lambda")

    def _check_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise the TypeError of a wrong call here, before anything is submitted."""
        try:
            signature = inspect.signature(self.__wrapped__)
        except (TypeError, ValueError):
            return  # some built-in functions have none
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._label}(): {error}") from None


class _Cluster:
    """The decorator `cluster`, with what belongs to it."""

    @overload
    def __call__(self, function: Callable[P, R], /) -> ClusterFunction[P, R]: ...
    @overload
    def __call__(self, /, **options: Any) -> Callable[[Callable[P, R]], ClusterFunction[P, R]]: ...
    def __call__(self, function: Any = None, /, **options: Any) -> Any:
        """Make the calls of a function, or the body of a test, run as jobs.

        Args:
            function: The function, when used without arguments.
            options: ``cores=1`` CPU cores per node; ``memory=None`` per node ("1GB", "1.5GiB", bytes); ``time=None``
                the limit given to the scheduler ("00:05:00", "30m", seconds); ``gpus=0`` per node; ``nodes=1``;
                ``partition=None`` or ``queue=None``, one thing; ``account=None``; ``qos=None``; ``constraint=None``;
                ``env=None`` a mapping; ``modules=()``; ``prologue=()`` and ``epilogue=()`` shell lines;
                ``extra_args=()`` of the submit command; ``extra_directives=()`` without the scheduler's prefix;
                ``name=None``; ``backend=None``; ``parallel=False`` splits a per-item loop over ``cores`` processes;
                ``timeout=None`` our limit on the run time and ``queue_timeout=None`` on the wait, in seconds;
                ``keep=None`` the job's directory "failed", "always" or "never"; ``inherit_env=True``.

        Raises:
            UnknownArgumentError: There is no such argument; the message has the nearest.
            SpecError: A value is impossible; the message has the allowed forms.
            UnknownBackendError: ``backend`` names none.
        """
        spec = _checked(options, None)
        if function is None:
            return lambda decorated: _decorate(decorated, spec)
        return _decorate(function, spec)

    @contextmanager
    def batch(self, max_concurrent: int | None = None) -> Iterator[None]:
        """Gather the submissions made inside into job arrays, submitted at the end.

        Args:
            max_concurrent: At most so many jobs of an array at once.
        """
        with _run().gather(max_concurrent):
            yield

    def reconnect(self, run_id: str) -> list[Job[Any]]:
        """Give the jobs of a run whose process has died, as far as it has not seen them end. They are this run's now.

        Args:
            run_id: The dead run's: ``job.record.run_id``, and what follows ``cj-`` in its jobs' names.

        Raises:
            UsageError: The run is unknown here, still lives or ended in order, or its backend cannot do it.
            BackendError: A scheduler did not answer. Nothing has changed; try again.
        """
        from pytest_clusterjobs.engine.reconnect import reconnect

        return reconnect(_run(), run_id)


cluster = _Cluster()


def _decorate(function: Any, spec: JobSpec) -> ClusterFunction[..., Any]:
    if isinstance(function, ClusterFunction):
        raise SpecError(f"{function.__name__}() is decorated with @cluster twice; use one decorator, or .options(...)")
    if isinstance(function, (staticmethod, classmethod)):
        raise SpecError(f"put @{type(function).__name__} above @cluster, not below it")
    if type(function).__module__ == "_pytest.fixtures" or hasattr(function, "_pytestfixturefunction"):  # before 8.4
        raise SpecError("put @pytest.fixture above @cluster, not below it")
    if inspect.isclass(function):
        raise SpecError(
            f"@cluster decorates functions, not the class {function.__name__}; decorate its methods, or give all its "
            "tests the marker @pytest.mark.cluster(cores=2)"
        )
    if not callable(function):
        raise SpecError(f"@cluster decorates functions, not {function!r}; write @cluster(cores=2) with named arguments")
    return ClusterFunction(function, spec)


def _jobs(depends_on: Iterable[Job[Any]]) -> tuple[Job[Any], ...]:
    from pytest_clusterjobs.engine.job import Job

    jobs = tuple(depends_on) if isinstance(depends_on, Iterable) else (depends_on,)
    if isinstance(depends_on, Job) or not all(isinstance(job, Job) for job in jobs):
        raise SpecError(f"depends_on={depends_on!r} must be a list of jobs, as submit() gives them")
    return jobs


def _checked(options: dict[str, Any], base: JobSpec | None) -> JobSpec:
    spec = make_spec(base, **options)
    if options.get("backend") is not None:
        from pytest_clusterjobs.engine import current

        current.require(options["backend"])
    return spec


def _run() -> Run:
    from pytest_clusterjobs.engine.current import current

    return current()
