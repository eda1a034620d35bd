"""`Job`: one unit of work and its future, and `JobArray`: several made together."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from pytest_clusterjobs.core.errors import PayloadError, StoreError, WaitTimeout
from pytest_clusterjobs.core.record import JobMetrics, JobRecord
from pytest_clusterjobs.core.state import ExitReason, JobState
from pytest_clusterjobs.core.units import format_duration, format_memory
from pytest_clusterjobs.engine import outcome, verdict
from pytest_clusterjobs.engine.payload import loads
from pytest_clusterjobs.engine.store import STDERR, STDOUT
from pytest_clusterjobs.node.runner import ORDER, START

if TYPE_CHECKING:
    from pytest_clusterjobs.backends.base import Backend
    from pytest_clusterjobs.core.validation import ValidationResult
    from pytest_clusterjobs.engine.run import Run

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks


R = TypeVar("R")
Callback = Callable[["Job[Any]"], object | Awaitable[object]]

_TAIL_BYTES = 8192
_TICK_S = 1.0
# Smaller results stay until the run ends: ext4 makes new files more slowly while it remembers recently removed ones.
_LARGE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Logs:
    """What a job printed, so far or in all."""

    #: Its standard output.
    stdout: str
    #: Its standard error.
    stderr: str

    def __str__(self) -> str:
        return self.stdout + self.stderr


@dataclass(frozen=True, slots=True)
class CommandOutcome:
    """The value of a job that runs a command."""

    #: Its exit code; always 0, since another one raises.
    exit_code: int
    #: What it printed.
    stdout: str
    #: What it printed as errors.
    stderr: str


class Job(Generic[R]):
    """A future for one job. Any thread may use it; nothing here is called by the user to make one."""

    def __init__(self, run: Run, record: JobRecord, *, is_command: bool = False) -> None:
        #: What is known of the job.
        self.record = record
        #: Warnings that the job gave, each (message, category, filename, line). Known once the result was asked for.
        self.warnings: list[tuple[Any, type[Warning], str, int]] = []
        #: The remote traceback as text, "" when the job did not raise. Known once the result was asked for.
        self.remote_traceback = ""
        #: The exception that ended it before it reached the scheduler, or None.
        self.submit_error: Exception | None = None
        #: What a `ClusterJobValidator` last found; what failed stays. None while none has looked.
        self.validation: ValidationResult | None = None
        self._run = run
        self._is_command = is_command
        self._ended = threading.Event()
        self._lock = threading.RLock()
        self._loaded = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._traceback: Any = None
        self._callbacks: list[tuple[str, Callback]] = []

    # ------------------------------------------------------------ what it is now

    @property
    def job_id(self) -> str:
        """Our id, unique in the run."""
        return self.record.job_id

    @property
    def native_id(self) -> str:
        """The scheduler's id; "" until it has accepted the job."""
        return self.record.native_id

    @property
    def state(self) -> JobState:
        """Where it is, as far as is known now. Asks no scheduler."""
        self._run.look(self)
        return self.record.state

    @property
    def reason(self) -> ExitReason | None:
        """Why it ended without success; None before its end and after success."""
        return self.record.reason

    @property
    def metrics(self) -> JobMetrics:
        """What was measured; complete after its end."""
        return self.record.metrics

    def done(self) -> bool:
        """Tell whether it has ended."""
        return self.state.is_terminal

    def __repr__(self) -> str:
        record = self.record
        return f"<Job {record.name} {record.backend}:{record.native_id or '-'} {record.state}>"

    # ------------------------------------------------------------ its end

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for its end, at most ``timeout_s`` seconds; tell whether it has ended. Ctrl-C interrupts.

        Raises:
            UsageError: This process was forked from the one that submitted it.
        """
        if not self._ended.is_set():
            self._run.refuse_fork()
        self._run.flush()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._ended.is_set():
            left = _TICK_S if deadline is None else min(_TICK_S, deadline - time.monotonic())
            if left <= 0:
                return False
            if not self._ended.wait(left):
                self._run.tick()
        return True

    def wait_or_cancel(self) -> None:
        """Wait for its end, and cancel it where something ends the wait, such as a time limit of the test.

        Not after Ctrl-C: the end of the run cancels all jobs, in one command.
        """
        try:
            self.wait()
        except KeyboardInterrupt:
            raise
        except BaseException:
            self.cancel()
            raise

    def result(self, timeout_s: float | None = None) -> R:
        """Wait for its end and give its value, the same object each time.

        Raises:
            WaitTimeout: It has not ended within ``timeout_s`` seconds. It goes on.
            JobError: It ended without a value; the class and the message say how.
            BaseException: What its code raised: the same type, with the frames of the node.
        """
        error = self.exception(timeout_s)
        if error is not None:
            raise error.with_traceback(self._traceback)
        value: R = self._value
        return value

    def exception(self, timeout_s: float | None = None) -> BaseException | None:
        """Wait for its end and give what `result` would raise, or None."""
        if not self.wait(timeout_s):
            record = self.record
            where = f"{record.state}, {record.detail}" if record.detail else str(record.state)
            raise WaitTimeout(f"{record.name} has not ended within {timeout_s:g} s ({where}); it goes on")
        with self._lock:
            if not self._loaded:
                self._load()
                self._traceback = None if self._error is None else self._error.__traceback__
                self._loaded = True
        return self._error

    def cancel(self) -> None:
        """Cancel it, and return at once. Idempotent; nothing happens to a job that has ended."""
        self._run.cancel([self])

    def logs(self) -> Logs:
        """Give what it printed: all after its end, so far before."""
        self._run.fetch_logs(self)
        store, directory = self._run.store, self.record.directory
        return Logs(store.read_log(directory, STDOUT), store.read_log(directory, STDERR))

    # ------------------------------------------------------------ evidence

    @property
    def backend(self) -> Backend:
        """The backend that runs it."""
        return self._run.backend(self.record.backend)

    def start_facts(self) -> dict[str, Any]:
        """Give what it found on its node when it started; {} where it has not started or its files are gone."""
        if not self.record.directory:
            return {}
        facts = self._run.store.read_json(os.path.join(self.record.directory, START))
        return facts if isinstance(facts, dict) else {}

    def read_file(self, path: str) -> bytes | None:
        """Give what a file holds that it left; None where there is none. One on another machine is read there.

        Args:
            path: Absolute where it ran, or relative to its directory, or else to where it was started in.

        Raises:
            UsageError: The backend brings no files back; the message says what to do.
            ClusterJobsError: The file is there and cannot be read, or the machine cannot be reached.
        """
        record, backend, read = self.record, self.backend, self._run.store.transport.read
        if not record.directory:
            return None
        if backend.sees_files or not os.path.isabs(path):
            content = read(os.path.join(record.directory, path))
            if content is not None:
                return content
        if backend.sees_files:
            order = self._run.store.read_json(os.path.join(record.directory, ORDER)) or {}
            return read(os.path.join(order["cwd"], path)) if "cwd" in order else None
        ferry = self._run.ferries.get(record.backend)
        directory = record.directory if ferry is None else ferry.far(record.directory)
        return backend.read_left(record.native_id, directory, path)

    # ------------------------------------------------------------ callbacks

    def on_success(self, callback: Callback) -> None:
        """Call ``callback(job)`` once when it completes. A coroutine function is awaited."""
        self._add_callback("success", callback)

    def on_failure(self, callback: Callback) -> None:
        """Call ``callback(job)`` once when it ends in any other way than completing or being cancelled."""
        self._add_callback("failure", callback)

    def on_cancel(self, callback: Callback) -> None:
        """Call ``callback(job)`` once when it ends by being cancelled."""
        self._add_callback("cancel", callback)

    def on_exit(self, callback: Callback) -> None:
        """Call ``callback(job)`` once when it ends, in whatever way."""
        self._add_callback("exit", callback)

    def _add_callback(self, condition: str, callback: Callback) -> None:
        with self._lock:
            if not self._ended.is_set():
                self._callbacks.append((condition, callback))
                return
        if condition in self._conditions():
            self._run.callbacks.put(callback, self)

    def _conditions(self) -> tuple[str, str]:
        state = self.record.state
        how = {JobState.COMPLETED: "success", JobState.CANCELLED: "cancel"}.get(state, "failure")
        return how, "exit"

    def mark_ended(self) -> None:
        """Wake the waiters and hand out the callbacks. Called once, by the monitor, after the record is final."""
        with self._lock:
            self._ended.set()
            matching = [callback for condition, callback in self._callbacks if condition in self._conditions()]
            self._callbacks.clear()
        for callback in matching:
            self._run.callbacks.put(callback, self)

    # ------------------------------------------------------------ loading

    def _load(self) -> None:
        if self.submit_error is not None:
            self._error = self.submit_error
            return
        try:
            envelope = self._run.store.read_envelope(self.record.directory)
        except StoreError:
            if self.record.state is JobState.COMPLETED:
                raise
            envelope = None  # the verdict says so already
        header, segments = envelope if envelope is not None else ({}, {})
        for name, data in segments.items():
            if name.startswith("warnings"):
                with suppress(Exception):  # of a class that is not here: not worth losing the value
                    self.warnings += loads(data)
        self.remote_traceback = header.get("traceback", "")
        if self.record.reason is ExitReason.EXCEPTION and header:
            self._error = outcome.rebuild_exception(header, segments, self.record.name)
        elif self.record.state is not JobState.COMPLETED:
            self._error = verdict.error_for(self.record.name, self._verdict(), self.evidence())
        elif self._is_command:
            logs = self.logs()
            self._value = CommandOutcome(0, logs.stdout, logs.stderr)
        else:
            self._value = self._unpack(header, segments)
        if sum(map(len, segments.values())) > _LARGE_BYTES:
            self._run.release(self)

    def _unpack(self, header: dict[str, Any], segments: dict[str, bytes]) -> Any:
        try:
            if "parts" in header:  # of a loop over several processes
                return [item for part in range(header["parts"]) for item in loads(segments[f"value{part}"])]
            return loads(segments["value"])
        except Exception as error:
            self._error = PayloadError(f"{self.record.name}: its value cannot be unpickled here: {error!r}")
            return None

    def _verdict(self) -> verdict.Verdict:
        record = self.record
        return verdict.Verdict(
            record.state, record.reason, record.detail, record.metrics.exit_code, record.metrics.signal
        )

    def evidence(self) -> str:
        """Say everything that helps to find out why it ended so, in lines."""
        record, metrics = self.record, self.record.metrics
        word = f" ({record.native_word})" if record.native_word else ""
        lines = [
            f"backend {record.backend}, job {record.job_id}, native id {record.native_id or '-'}, {record.state}{word}",
            f"requested: {requested_text(record)}",
            f"node: {', '.join(metrics.nodes) or 'unknown'}, queued {format_duration(metrics.queue_time_s)}, "
            f"ran {format_duration(metrics.run_time_s)}, max rss {format_memory(metrics.max_rss_bytes)}",
        ]
        if record.submit_command:
            lines.append(f"submitted by: {record.submit_command}")
        lines.append(f"directory: {record.directory}")
        for name in (STDERR, STDOUT):
            tail = self._run.store.read_log(record.directory, name, _TAIL_BYTES).splitlines()[-20:]
            if tail:
                lines += [f"end of {name}:", *("  " + line for line in tail)]
        return "\n".join(lines)


class JobArray(Sequence["Job[R]"]):
    """Jobs that were submitted together, in order."""

    def __init__(self, jobs: list[Job[R]]) -> None:
        self._jobs = jobs

    @overload
    def __getitem__(self, index: int) -> Job[R]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Job[R]]: ...
    def __getitem__(self, index: int | slice) -> Job[R] | Sequence[Job[R]]:
        return self._jobs[index]

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job[R]]:
        return iter(self._jobs)

    @property
    def state(self) -> JobState:
        """Where it is as a whole: RUNNING from the first start to the last end, then the worst of the states."""
        states = {job.state for job in self._jobs}
        if any(not state.is_terminal for state in states):
            has_begun = JobState.RUNNING in states or any(state.is_terminal for state in states)
            return JobState.RUNNING if has_begun else JobState.PENDING
        return next((state for state in _WORST_FIRST if state in states), JobState.COMPLETED)

    @property
    def failed_indices(self) -> list[int]:
        """Positions, from 0, of the elements that ended without completing."""
        ended = [(index, job.state) for index, job in enumerate(self._jobs)]
        return [index for index, state in ended if state.is_terminal and state is not JobState.COMPLETED]

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until every element has ended, at most ``timeout_s`` seconds in all; tell whether they have."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        return all(job.wait(None if deadline is None else max(0.0, deadline - time.monotonic())) for job in self._jobs)

    def results(self, timeout_s: float | None = None) -> list[R]:
        """Give every element's value in order; raises what the first one without a value raises.

        Raises:
            WaitTimeout: Not all have ended within ``timeout_s`` seconds in all.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        return [job.result(None if deadline is None else max(0.0, deadline - time.monotonic())) for job in self._jobs]

    def cancel(self) -> None:
        """Cancel every element that has not ended, in one go."""
        if self._jobs:
            self._jobs[0]._run.cancel(self._jobs)


_WORST_FIRST = (JobState.LOST, JobState.FAILED, JobState.CANCELLED)


def requested_text(record: JobRecord) -> str:
    """Say in one line what a job asked for."""
    spec = record.spec
    parts = [f"{spec.nodes} node(s), " if spec.nodes > 1 else "", f"{spec.cores} core(s)"]
    parts.append(f", {format_memory(spec.memory_bytes)}" if spec.memory_bytes else "")
    parts.append(f", {spec.gpus} GPU(s)" if spec.gpus else "")
    parts.append(f", {format_duration(spec.time_limit_s)}" if spec.time_limit_s else "")
    for name in ("partition", "account", "qos", "constraint"):
        value = getattr(spec, name)
        parts.append(f", {name} {value}" if value else "")
    return "".join(parts)
