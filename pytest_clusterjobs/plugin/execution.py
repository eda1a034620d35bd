"""Running tests: the backend is made sure of before the fixtures, and the body of a decorated test becomes a job."""

from __future__ import annotations

import inspect
import linecache
import math
import sys
import types
import warnings
from collections.abc import Generator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from pytest_clusterjobs.core.errors import ClusterJobsError, PayloadError, is_infrastructure
from pytest_clusterjobs.core.redaction import redact
from pytest_clusterjobs.core.spec import JobSpec, lay_over, make_spec
from pytest_clusterjobs.plugin import selection, xdist
from pytest_clusterjobs.plugin.collecting import argument_names
from pytest_clusterjobs.plugin.items import BACKEND, ITEM, TROUBLE, ClusterItem
from pytest_clusterjobs.plugin.session import ClusterSession

if TYPE_CHECKING:
    from pytest_clusterjobs.engine.job import Job


# Fixtures that act on the process where pytest runs, and what does the same in a body that runs in another one.
_OF_THIS_PROCESS = {
    **dict.fromkeys(
        ("capsys", "capsysbinary", "capteesys", "capfd", "capfdbinary"), "contextlib.redirect_stdout in the body"
    ),
    "caplog": "a logging.Handler in the body",
    "recwarn": "pytest.warns in the body",
    **dict.fromkeys(
        ("request", "pytestconfig", "cache"), "a fixture that takes from it what the body needs: its value travels"
    ),
    **dict.fromkeys(
        ("record_property", "record_xml_attribute", "record_testsuite_property", "cluster_performance"),
        "a decorated function that returns the value, and record it here",
    ),
    "cluster_jobs": "decorated functions, and call them here",
    "subtests": "pytest.mark.parametrize, which makes a job of each",
    "mocker": "unittest.mock in the body",
    "benchmark": "a decorated function, and measure its call here",
}


class Execution:
    """The hooks around each test. In plain pytest and in workers; the controller runs no test."""

    def __init__(self, session: ClusterSession) -> None:
        self._session = session

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Let the tests of a serial profile run one after another, be they on several workers."""
        known = item.stash.get(ITEM, None)
        backends = known.plan.backends if known is not None and xdist.is_worker(item.config) else ()
        with ExitStack() as stack:
            for place in sorted(self._session.serial.intersection(backends)):
                # Until the test of another worker has ended, which its own limits see to; a dead worker holds no lock.
                stack.enter_context(self._session.run.store.locked(f"serial-{place}", wait_s=math.inf))
            return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Find the test's backend, or skip, or fail; from here on submissions go there and count as the test's."""
        known = item.stash.get(ITEM, None)
        if known is None or not known.plan.backends:
            if known is None or not known.plan.skip:
                self._session.select_for_calls(item.nodeid)
            return
        refuse_unsupported(item, known)
        backend, trouble = None, None
        try:
            backend = self._choose(item, known)
        except ClusterJobsError as error:
            trouble = error
        if trouble is not None:  # nothing could be asked; where that was says nothing to the reader
            item.stash[TROUBLE] = is_infrastructure(trouble)
            pytest.fail(str(trouble), pytrace=False)
        if backend is None:
            return
        item.stash[BACKEND] = backend
        defaults = make_spec(**known.marks.resources) if known.marks.resources else None
        self._session.run.select(backend, item.nodeid, defaults)
        kind = self._session.run.place(backend).backend
        self._expect_failure(item, known, backend if backend in known.marks.expected_failures else kind)

    def _choose(self, item: pytest.Item, known: ClusterItem) -> str | None:
        """Give the backend that the test runs on; None after it was marked to be skipped."""
        reasons = {}
        for name in known.plan.backends:
            probe = self._session.probe(name)
            reasons[name] = self._session.reason(probe)
            if probe.is_available:
                lack = "" if probe.info is None else selection.lacking(name, spec_of(known), probe.info)
                return self._skip(item, lack) if lack else name
        reason = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        if known.plan.is_required:
            item.stash[BACKEND], item.stash[TROUBLE] = known.plan.backends[0], True
            pytest.fail(reason, pytrace=False)
        return self._skip(item, reason)

    @staticmethod
    def _skip(item: pytest.Item, reason: str) -> None:
        # A mark, not an exception: pytest then tells the test's place, not this file's.
        item.add_marker(pytest.mark.skip(reason=reason))

    @staticmethod
    def _expect_failure(item: pytest.Item, known: ClusterItem, backend: str) -> None:
        expected = known.marks.expected_failures.get(backend)
        if expected is not None:
            options = {"raises": expected.raises, "strict": expected.strict}
            given = {name: value for name, value in options.items() if value is not None}
            item.add_marker(pytest.mark.xfail(reason=expected.reason, **given))

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> object | None:
        """Run the body of a decorated test as a job, with the values of its fixtures as arguments."""
        __tracebackhide__ = True
        function: Any = pyfuncitem.obj
        decorator = sys.modules.get("pytest_clusterjobs.decorator")
        if decorator is None or not isinstance(function, decorator.ClusterFunction):
            return None
        values = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
        try:
            refuse_bound(pyfuncitem.originalname, values)
            job = self._session.run.submit_call(
                function.__wrapped__,
                (),
                values,
                function.spec,
                label=pyfuncitem.originalname,
                names={name: _origin(pyfuncitem, name) for name in values},
            )
            wait_for(job, function)
            value = finish(job)
        except ClusterJobsError as error:
            # Nothing of the body was run, or nothing is known of where it was: the report shows the test's head.
            raise error.with_traceback(head_of(function)) from None
        if value is not None:
            warn_of_value(pyfuncitem, value)
        return True


def spec_of(known: ClusterItem) -> JobSpec:
    """Give what a test is known to ask for before it runs: its decorator's arguments over its marker's."""
    defaults = make_spec(**known.marks.resources)
    if known.function is None:
        return defaults
    return lay_over(defaults, known.function.spec)


def refuse_unsupported(item: pytest.Item, known: ClusterItem) -> None:
    """Fail a decorated test whose body cannot be a job."""
    unittest: Any = sys.modules.get("unittest")
    if known.function is None or unittest is None:
        return
    if getattr(known.function.__wrapped__, "is_hypothesis_test", False):
        pytest.fail(
            f"{item.nodeid}: @cluster cannot run a test of Hypothesis as a job; leave it undecorated, mark it "
            "real_world, and call a decorated function from it: a job for each example",
            pytrace=False,
        )
    if issubclass(getattr(item, "cls", None) or object, unittest.TestCase):
        pytest.fail(
            f"{item.nodeid}: @cluster cannot run a method of a unittest.TestCase as a job; use a plain class or "
            "function, or call a decorated helper inside the method",
            pytrace=False,
        )


def refuse_bound(label: str, values: Mapping[str, object]) -> None:
    """Raise `PayloadError` where a fixture would do nothing on the node, or could not be sent there."""
    for name, instead in _OF_THIS_PROCESS.items():
        origin = getattr(values.get(name), "__module__", None) or ""
        if origin.startswith(("_pytest.", "pytest_")):  # not a fixture of the user's under the same name
            raise PayloadError(
                f"{label}: fixture {name!r} works in the process of pytest, and the body of a decorated test runs in "
                f"another. Take {instead}; or leave the test undecorated, mark it real_world, and call decorated "
                "functions from it."
            )


def wait_for(job: Job[Any], function: Any) -> None:
    """Wait for a test's job; what ends the wait, such as pytest-timeout, cancels it and points to the test's head."""
    __tracebackhide__ = True
    try:
        job.wait_or_cancel()
    except pytest.fail.Exception as error:
        raise error.with_traceback(head_of(function)) from None


def finish(job: Job[Any]) -> Any:
    """Show what a test's job printed and warned of as if it had happened here, and give its value."""
    __tracebackhide__ = True
    job.exception()
    logs = job.logs()
    stderr = logs.stderr
    if job.remote_traceback and stderr.endswith(job.remote_traceback):
        stderr = stderr[: -len(job.remote_traceback)]  # the report shows it as a traceback
    sys.stdout.write(redact(logs.stdout))
    sys.stderr.write(redact(stderr))
    for message, category, filename, line in job.warnings:
        try:
            warnings.warn_explicit(message, category, filename, line)
        except Warning as error:  # filters make it one; it belongs where it was given
            raise error.with_traceback(_traceback_to(filename, job.record.label, line, line)) from None
    return job.result()


def head_of(function: Any) -> types.TracebackType | None:
    """Give a traceback that points to the line where a function is defined, below its decorators."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return None
    first = line = code.co_firstlineno
    while (text := linecache.getline(code.co_filename, line)) and not text.lstrip().startswith(("def ", "async def ")):
        line += 1
    return _traceback_to(code.co_filename, code.co_name, first, line if text else first)


def _traceback_to(filename: str, function: str, first_line: int, line: int) -> types.TracebackType | None:
    from pytest_clusterjobs.engine.outcome import traceback_of

    return traceback_of([[filename, function, first_line, line, None]])


def warn_of_value(item: pytest.Function, value: object) -> None:
    """Warn as pytest does of a test that returns something."""
    text = f"Test functions should return None, but {item.nodeid} returned {type(value)!r}.\n"
    warning = pytest.PytestReturnNotNoneWarning(text + "Did you mean to use `assert` instead of `return`?")
    warnings.warn_explicit(warning, None, str(item.path), (item.location[1] or 0) + 1)


def _origin(item: pytest.Function, name: str) -> str:
    is_parameter = any(name in argument_names(mark) for mark in item.iter_markers("parametrize"))
    return f"parameter {name!r}" if is_parameter else f"fixture {name!r}"
