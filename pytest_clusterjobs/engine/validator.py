"""`ClusterJobValidator`: whether a scheduler did with a job what it was asked to do, by evidence.

It asks the scheduler nothing of its own: what bulk queries have seen, what the scheduler told the job, and what the job
found on its node are compared. One exception: `validate_submission` of a job that no query has seen yet asks one
bulk query, for all jobs of the run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pytest_clusterjobs.backends.base import Backend
from pytest_clusterjobs.core.efficiency import hints, shares
from pytest_clusterjobs.core.errors import StoreError, UsageError, is_infrastructure
from pytest_clusterjobs.core.state import ExitReason, JobState
from pytest_clusterjobs.core.validation import Check, CheckVerdict, JobFailure, ValidationResult, category_of
from pytest_clusterjobs.engine import validator_checks as checks
from pytest_clusterjobs.engine import verdict
from pytest_clusterjobs.engine.job import Job

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks

#: "Not given", where None is something that may be expected.
ANYTHING: Any = object()

FileWish = str | bytes | Callable[[bytes], object] | None


class ClusterJobValidator:
    """Validates jobs. Each method gives a `ValidationResult`; the results are kept for `report`.

    Args:
        backend: The only backend whose jobs it takes, or the name of it or of a profile; None: any.
    """

    def __init__(self, backend: Backend | str | None = None) -> None:
        self._backend = backend
        #: Every result so far, in order.
        self.results: list[ValidationResult] = []

    # ------------------------------------------------------------ parts

    def validate_submission(self, job: Job[Any]) -> ValidationResult:
        """Check that the scheduler has accepted a job, under our name, and counts the resources that it asks for.

        Raises:
            BackendError: The scheduler was asked and did not answer.
        """
        return self._result(job, [*self._submission(job, may_ask=True), *checks.queued(job.record)])

    def monitor(self, job: Job[Any], timeout_s: float = 0.0) -> ValidationResult:
        """Wait for a job's end, at most ``timeout_s`` seconds, and check the states that it has gone through so far.

        The result's ``history`` has them, with times and the scheduler's words. Not to have ended is no failure here.
        """
        job.wait(timeout_s)
        return self._result(job, self._states(job))

    def validate_environment(
        self, job: Job[Any], required: Mapping[str, str | None] | Iterable[str] = ()
    ) -> ValidationResult:
        """Check that a job that has started found what its backend promises in its environment.

        Args:
            job: The job.
            required: More variables that must be set; a mapping gives values too, None for any. Of values only those
                of schedulers' variables and of ``env`` are known.
        """
        return self._result(job, self._environment(job, required))

    def validate_resources(self, job: Job[Any], *, may_exceed: bool = False) -> ValidationResult:
        """Compare what a job asked for with what the scheduler gave and with what the job found on its node.

        Less than asked for fails. More cores, GPUs or nodes fail too, for somebody pays for them.

        Args:
            job: The job. Before its end only what bulk queries have told is known.
            may_exceed: More is no failure: whole nodes are given, for instance.
        """
        return self._result(job, self._resources(job, may_exceed))

    def validate_output(
        self,
        job: Job[Any],
        expected: Any = ANYTHING,
        *,
        approx: float = 0.0,
        files: Mapping[str, FileWish] | Iterable[str] = (),
        predicate: Callable[[Any], object] | None = None,
        timeout_s: float = 600.0,
    ) -> ValidationResult:
        """Check what a job gave back and what it wrote. Waits for its end.

        Args:
            job: The job. One that has raised, or was ended, fails.
            expected: Its value.
            approx: Numbers in it may differ by this part of the expected ones, e.g. 1e-6.
            files: Paths of files that it must have left, absolute or relative to its directory, or else to where it
                was started; a mapping says what they hold: a text, bytes, a predicate of the bytes, or None for
                anything.
            predicate: Must be true of its value.
            timeout_s: Seconds to wait for its end.
        """
        return self._result(job, self._output(job, expected, approx, files, predicate, timeout_s))

    def classify_error(self, job: Job[Any]) -> JobFailure | None:
        """Say what kind of failure a job that has ended had; None for one that completed or has not ended."""
        record = job.record
        if not record.state.is_terminal or record.reason is None:
            return None
        reason, metrics = record.reason, record.metrics
        ended = verdict.Verdict(record.state, reason, record.detail, metrics.exit_code, metrics.signal)
        error = job.submit_error or verdict.error_for(record.name, ended, "")
        return JobFailure(
            reason,
            category_of(reason),
            verdict.describe(record.name, ended),
            is_infrastructure(error),
            _cancelled_by(reason, record.detail),
            record.detail if reason is ExitReason.EXCEPTION else "",
            metrics.exit_code,
            metrics.signal,
        )

    # ------------------------------------------------------------ all of it

    def validate(
        self,
        job: Job[Any],
        expected: Any = ANYTHING,
        *,
        approx: float = 0.0,
        files: Mapping[str, FileWish] | Iterable[str] = (),
        predicate: Callable[[Any], object] | None = None,
        required: Mapping[str, str | None] | Iterable[str] = (),
        may_exceed: bool = False,
        may_fail: bool = False,
        timeout_s: float = 600.0,
    ) -> ValidationResult:
        """Check everything about a job. Waits for its end; asks the scheduler nothing.

        The arguments are those of the methods for the parts.

        Args:
            job: The job.
            expected: Its value.
            approx: Numbers in it may differ by this part of the expected ones.
            files: Files that it must have left.
            predicate: Must be true of its value.
            required: More variables that must be set.
            may_exceed: More cores, GPUs or nodes than asked for are no failure.
            may_fail: That the job did not complete is no failure: what a test expects of it is the test's matter.
            timeout_s: Seconds to wait for its end.
        """
        job.wait(timeout_s)
        found = [*self._submission(job, may_ask=False), *self._states(job), *self._end(job, timeout_s, may_fail)]
        found += [*self._environment(job, required), *self._resources(job, may_exceed)]
        if expected is not ANYTHING or files or predicate is not None:
            found += self._output(job, expected, approx, files, predicate, timeout_s)
        return self._result(job, found)

    def report(self) -> str:
        """Give the text about all results so far: a line for each, the table of what failed, and hints."""
        failed = sum(not result for result in self.results)
        lines = [f"{len(self.results)} validations, {failed} failed"]
        for result in self.results:
            lines.append(str(result))
            lines += [f"  warning: {text}" for text in result.warnings]
            lines += [f"  failure: {result.failure.category}: {result.failure}"] if result.failure else []
            used = ", ".join(f"{share:.0%} of its {name}" for name, share in shares(result.metrics).items())
            lines += [f"  used {used}"] if used else []
            lines += [f"  hint: it {text}" for text in hints(result.metrics).values()]
        return "\n".join(lines)

    # ------------------------------------------------------------ how

    def _result(self, job: Job[Any], found: Sequence[Check]) -> ValidationResult:
        record, failure = job.record, self.classify_error(job)
        result = ValidationResult(
            record.name, record.backend, tuple(found), record.metrics, tuple(record.history), failure
        )
        self.results.append(result)
        if job.validation is None or not result:
            job.validation, record.validation = result, result.to_dict()
        return result

    def _backend_of(self, job: Job[Any]) -> Backend:
        backend, wanted = job.backend, self._backend
        if wanted is not None and wanted not in (backend, backend.name, job.record.backend):
            name = wanted if isinstance(wanted, str) else f"another {wanted.name}"
            raise UsageError(f"{job.record.name} runs on {job.record.backend}; this validator is for {name}")
        return backend

    def _submission(self, job: Job[Any], *, may_ask: bool) -> list[Check]:
        record, backend = job.record, self._backend_of(job)
        is_unseen = record.native_id and not record.seen_as
        if is_unseen and (backend.has_push or (may_ask and not record.state.is_terminal)):
            queued = backend.query(record.submitted_as).get(record.native_id)
            if queued is not None:
                record.seen_as, record.queued = queued.name, queued.status.resources
        return checks.submission(record)

    def _states(self, job: Job[Any]) -> list[Check]:
        record = job.record
        return [*checks.states(record.history, record.metrics.restarts), *checks.times(record.metrics)]

    def _end(self, job: Job[Any], timeout_s: float, may_fail: bool) -> list[Check]:
        state = job.record.state
        if not state.is_terminal:
            return [Check("end", CheckVerdict.MISMATCH, observed=str(state), why=f"not within {timeout_s:g} s")]
        failure = self.classify_error(job)
        if failure is None:
            return [Check("end", CheckVerdict.HONOURED, observed=str(state))]
        text = f"{failure.category}: {failure}"
        return [Check("end", CheckVerdict.MISMATCH, str(JobState.COMPLETED), None, str(state), text, may_fail)]

    def _environment(self, job: Job[Any], required: Mapping[str, str | None] | Iterable[str]) -> list[Check]:
        record, backend = job.record, self._backend_of(job)
        wanted: dict[str, str | None] = _named(required)
        expected = {}
        if record.native_id:
            expected = dict(backend.expected_environment(record.native_id, record.submitted_as, record.spec))
        return checks.environment(expected, job.start_facts(), wanted, record.spec.env)

    def _resources(self, job: Job[Any], may_exceed: bool) -> list[Check]:
        backend = self._backend_of(job)
        threads = int(job.start_facts().get("threads_per_core") or 1)
        return checks.resources(job.metrics, backend.capabilities, threads, may_exceed=may_exceed)

    def _output(
        self,
        job: Job[Any],
        expected: Any,
        approx: float,
        files: Mapping[str, FileWish] | Iterable[str],
        predicate: Callable[[Any], object] | None,
        timeout_s: float,
    ) -> list[Check]:
        wanted: dict[str, FileWish] = _named(files)
        found = self._end(job, timeout_s, may_fail=False) if not job.wait(timeout_s) else []
        error = job.exception(timeout_s) if not found else None
        if error is not None:
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            found = [Check("value", CheckVerdict.MISMATCH, None, None, None, text)]
        if not found:
            value = job.result()
            found += [] if expected is ANYTHING else [checks.value(value, expected, approx)]
            found += [] if predicate is None else [checks.predicate(value, predicate)]
        return [*found, *checks.files(wanted, {path: _content(job, path) for path in wanted})]


def _named(names: Mapping[str, Any] | Iterable[str]) -> dict[str, Any]:
    """Give what is wanted by name, None for anything; a name alone is one, and not its letters."""
    if isinstance(names, Mapping):
        return dict(names)
    return dict.fromkeys([names] if isinstance(names, (str, os.PathLike)) else names)


def _content(job: Job[Any], path: str) -> bytes | Exception | None:
    """Give what a file holds, None where there is none, or why that cannot be known."""
    try:
        return job.read_file(os.fspath(path))
    except (StoreError, UsageError) as error:
        return error


def _cancelled_by(reason: ExitReason, detail: str) -> str:
    if reason is ExitReason.CANCELLED:
        return "us"
    if reason is not ExitReason.CANCELLED_OUTSIDE:
        return ""
    by = re.search(r"\bby (\d+)\b", detail)  # Slurm: CANCELLED by <uid>
    return f"uid {by[1]}" if by else detail or "somebody else"
