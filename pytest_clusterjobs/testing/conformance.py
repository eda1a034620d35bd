"""The contract every backend must meet, as one class to subclass::

    class TestSlurm(BackendConformance, backend="slurm"): ...

Everything runs real jobs. A test that needs something the backend does not offer is skipped, and says what.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, ClassVar

import pytest

from pytest_clusterjobs.backends import registry
from pytest_clusterjobs.backends.base import Capability
from pytest_clusterjobs.config.place import Place
from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.core.errors import (
    JobCancelled,
    JobFailed,
    JobTimeout,
    PayloadError,
    QueueTimeout,
    RemoteError,
    SubmitError,
    WaitTimeout,
)
from pytest_clusterjobs.core.spec import JobSpec, make_spec
from pytest_clusterjobs.core.state import ExitReason, JobState
from pytest_clusterjobs.engine.job import Job
from pytest_clusterjobs.engine.opening import backend_alone
from pytest_clusterjobs.engine.run import Run
from pytest_clusterjobs.engine.work import Work, command_work
from pytest_clusterjobs.testing.evidence import EvidenceConformance
from pytest_clusterjobs.transports.local import LocalTransport


def requires_capability(*capabilities: Capability) -> Callable[[Any], Any]:
    """Skip a conformance test for backends that do not offer something, naming it."""

    def mark(test: Any) -> Any:
        test.required_capabilities = capabilities
        return test

    return mark


class Point:
    """A class of the test's own, with a value and an identity."""

    def __init__(self, x: float, y: float) -> None:
        self.x, self.y = x, y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and (self.x, self.y) == (other.x, other.y)

    def __hash__(self) -> int:
        return hash((self.x, self.y))


class DiskOnFireError(Exception):
    """An exception of the test's own."""


class PickyError(Exception):
    """An exception that cannot be pickled: it holds a lock."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.lock = threading.Lock()


class BackendConformance(EvidenceConformance):
    """Run real jobs on one backend and hold it to the contract. Override the fixtures to fit your cluster."""

    #: The name of the backend, or of a profile that `places` knows.
    backend: ClassVar[str]
    #: Seconds that any one job here may take, queue included.
    patience_s: ClassVar[float] = 60.0

    def __init_subclass__(cls, *, backend: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        if backend:
            cls.backend = backend

    # ------------------------------------------------------------ fixtures, may be overridden

    @pytest.fixture
    def cluster_environment(self) -> None:
        """Make the cluster reachable. Override it to boot one."""

    @pytest.fixture
    def settings(self, tmp_path: Any) -> Settings:
        """Give the run's settings. Override it where the nodes do not see ``tmp_path``."""
        return Settings(workdir=str(tmp_path / "work"), lost_after_s=10)

    @pytest.fixture
    def places(self) -> Callable[[str], Place]:
        """Give what the name of a backend or a profile means. Override it to test a backend behind a profile."""
        return backend_alone

    @pytest.fixture
    def run(
        self,
        cluster_environment: None,
        settings: Settings,
        places: Callable[[str], Place],
        request: pytest.FixtureRequest,
    ) -> Iterator[Run]:
        """Give a run on the backend, and look at its end that nothing is left."""
        run = Run(settings, places=places)
        run.select(self.backend)
        needed = getattr(request.function, "required_capabilities", ())
        for capability in needed:
            if capability not in run.backend(self.backend).capabilities:
                run.close()
                pytest.skip(f"{self.backend} offers no {capability.value}")
        yield run
        report = run.close()
        assert report.leaked == []
        assert [problem for problem in report.problems if "cannot" in problem] == []

    def value(self, run: Run, function: Callable[..., Any], *args: Any, **resources: Any) -> Any:
        """Run a function as a job and give its value."""
        return self.job(run, function, *args, **resources).result(self.patience_s)

    def job(self, run: Run, function: Callable[..., Any], *args: Any, **resources: Any) -> Job[Any]:
        """Submit a function."""
        return run.submit_call(function, args, {}, make_spec(**resources))

    def command(self, run: Run, command: str | list[str], **resources: Any) -> Job[Any]:
        """Submit a command."""
        return run.submit_command(command, make_spec(**resources))

    # ------------------------------------------------------------ the probe

    def test_check_tells_version_and_size(self, run: Run) -> None:
        probe = run.probe(self.backend)
        assert probe.is_available, probe.reason
        assert probe.info is not None
        assert probe.info.version
        assert probe.info.nodes is None or probe.info.nodes >= 1

    def test_name_is_registered(self, places: Callable[[str], Place]) -> None:
        assert places(self.backend).backend in registry.names()

    # ------------------------------------------------------------ values

    def test_value_comes_back_from_another_process(self, run: Run) -> None:
        def add(a: int, b: int) -> tuple[int, int]:
            return a + b, os.getpid()

        total, pid = self.value(run, add, 10, 32)
        assert (total, type(total)) == (42, int)
        assert pid != os.getpid()

    def test_values_survive_unchanged(self, run: Run) -> None:
        values = {"nan": math.nan, "set": {1, 2}, "bytes": b"\x00\xff", "none": None, "text": "'42'", "tuple": (1, [2])}
        back = self.value(run, lambda given: given, values)
        assert math.isnan(back.pop("nan"))
        values.pop("nan")
        assert back == values

    def test_large_value_survives(self, run: Run) -> None:
        data = os.urandom(4_000_000)
        assert self.value(run, lambda given: given[::-1], data) == data[::-1]

    def test_own_class_comes_back_as_itself(self, run: Run) -> None:
        back = self.value(run, lambda point: Point(point.y, point.x), Point(1, 2))
        assert type(back) is Point
        assert back == Point(2, 1)

    def test_value_that_cannot_be_pickled_is_a_typed_error(self, run: Run) -> None:
        job = self.job(run, lambda: threading.Lock())
        with pytest.raises(JobFailed, match="cannot be pickled"):
            job.result(self.patience_s)
        assert job.reason is ExitReason.RESULT_UNPICKLABLE

    def test_argument_that_cannot_travel_is_named_before_submission(self, run: Run) -> None:
        def use(lock: Any) -> None: ...

        with pytest.raises(PayloadError, match="argument 'lock'"):
            self.job(run, use, threading.Lock())
        assert run.records == []

    def test_result_is_the_same_object_each_time(self, run: Run) -> None:
        job = self.job(run, lambda: [1])
        assert job.result(self.patience_s) is job.result()

    # ------------------------------------------------------------ exceptions

    def test_exception_keeps_type_arguments_and_frames(self, run: Run) -> None:
        def fail() -> None:
            raise ValueError("Intentional test error", 7)

        with pytest.raises(ValueError, match="Intentional") as caught:
            self.value(run, fail)
        assert caught.value.args == ("Intentional test error", 7)
        assert caught.traceback[-1].name == "fail"
        assert str(caught.traceback[-1].path) == __file__

    def test_own_exception_comes_back_as_itself(self, run: Run) -> None:
        def fail() -> None:
            try:
                raise KeyError("first")
            except KeyError as error:
                raise DiskOnFireError("second") from error

        with pytest.raises(DiskOnFireError, match="second") as caught:
            self.value(run, fail)
        assert isinstance(caught.value.__cause__, KeyError)

    def test_exception_that_cannot_be_rebuilt_is_a_typed_error_with_its_text(self, run: Run) -> None:
        def fail() -> None:
            raise PickyError(code=3)

        with pytest.raises(RemoteError, match=r"PickyError: code 3"):
            self.value(run, fail)

    def test_sys_exit_does_not_end_the_caller(self, run: Run) -> None:
        with pytest.raises(JobFailed, match="SystemExit"):
            self.value(run, lambda: __import__("sys").exit(3))

    # ------------------------------------------------------------ ends

    def test_command_completes_with_exit_code_0(self, run: Run) -> None:
        job = self.command(run, "echo hello; echo careful >&2")
        outcome = job.result(self.patience_s)
        assert (outcome.exit_code, outcome.stdout, job.state) == (0, "hello\n", JobState.COMPLETED)
        assert "careful" in outcome.stderr

    @pytest.mark.parametrize("code", [1, 42, 128])
    def test_command_fails_with_its_exit_code(self, run: Run, code: int) -> None:
        job = self.command(run, f"echo last words; exit {code}")
        with pytest.raises(JobFailed, match=f"code {code}") as caught:
            job.result(self.patience_s)
        assert (job.state, job.reason) == (JobState.FAILED, ExitReason.NONZERO_EXIT)
        assert job.metrics.exit_code == code
        assert "last words" in str(caught.value)

    def test_argv_reaches_the_command_unharmed(self, run: Run) -> None:
        words = ["/usr/bin/printf", "%s|", "a b", "$HOME", "'quoted'", 'dou"ble', "semi;colon", "ünïcode", "new\nline"]
        outcome = self.command(run, words).result(self.patience_s)
        assert outcome.stdout.split("|")[:-1] == words[2:]

    def test_os_exit_is_reported_with_its_code(self, run: Run) -> None:
        job = self.job(run, os._exit, 3)
        with pytest.raises(JobFailed, match="exited with code 3"):
            job.result(self.patience_s)
        assert job.metrics.exit_code == 3

    def test_segfault_is_a_signal(self, run: Run) -> None:
        job = self.job(run, lambda: __import__("ctypes").string_at(0))
        with pytest.raises(JobFailed, match="SIGSEGV"):
            job.result(self.patience_s)
        assert (job.reason, job.metrics.signal) == (ExitReason.SIGNAL, 11)

    def test_kill_9_of_the_function_is_a_signal(self, run: Run) -> None:
        job = self.job(run, lambda: os.kill(os.getpid(), 9))
        with pytest.raises(JobFailed, match="SIGKILL"):
            job.result(self.patience_s)
        assert (job.reason, job.metrics.signal) == (ExitReason.SIGNAL, 9)

    def test_program_that_prints_an_exit_code_decides_nothing(self, run: Run) -> None:
        assert self.command(run, "echo 'Exit code: 7'; echo FAILED").result(self.patience_s).exit_code == 0

    # ------------------------------------------------------------ waiting and cancelling

    def test_states_are_seen_in_order(self, run: Run) -> None:
        job = self.command(run, "sleep 1")
        seen = [job.state]
        deadline = time.monotonic() + self.patience_s
        while not seen[-1].is_terminal and time.monotonic() < deadline:
            state = job.state
            if state is not seen[-1]:
                seen.append(state)
            time.sleep(0.005)
        assert [state for state in seen if state is not JobState.PENDING] == [JobState.RUNNING, JobState.COMPLETED]
        assert job.metrics.run_time_s is not None
        assert job.metrics.run_time_s >= 1

    def test_wait_timeout_leaves_the_job_tracked(self, run: Run) -> None:
        job = self.command(run, "sleep 2; echo done")
        with pytest.raises(WaitTimeout, match="goes on"):
            job.result(0.05)
        assert job.result(self.patience_s).stdout == "done\n"

    def test_cancel_ends_a_running_job(self, run: Run) -> None:
        job = self.command(run, "echo started; sleep 300")
        self.wait_for(lambda: "started" in job.logs().stdout)
        job.cancel()
        with pytest.raises(JobCancelled):
            job.result(20)
        job.cancel()
        assert (job.state, job.reason) == (JobState.CANCELLED, ExitReason.CANCELLED)
        assert "started" in job.logs().stdout

    def test_cancel_of_an_ended_job_changes_nothing(self, run: Run) -> None:
        job = self.command(run, "true")
        job.result(self.patience_s)
        job.cancel()
        run.backend(self.backend).cancel([job.native_id])
        assert job.state is JobState.COMPLETED

    def test_our_timeout_says_that_it_was_ours(self, run: Run) -> None:
        job = self.command(run, "echo before; sleep 300", timeout=1)
        with pytest.raises(JobTimeout, match="timeout of 1 s"):
            job.result(self.patience_s)
        assert job.reason is ExitReason.RUN_TIMEOUT
        assert "before" in job.logs().stdout

    def test_our_queue_timeout_says_that_it_was_ours(self, run: Run) -> None:
        info = run.probe(self.backend).info
        if info is None or not info.nodes or not info.cores_per_node:
            pytest.skip(f"{self.backend} does not tell how many cores there are to fill")
        run.submit([command_work("sleep 300", JobSpec())] * (info.nodes * info.cores_per_node))
        job = self.command(run, "true", queue_timeout=2)
        with pytest.raises(QueueTimeout, match="queue_timeout of 2 s"):
            job.result(self.patience_s)
        assert (job.state, job.reason) == (JobState.CANCELLED, ExitReason.QUEUE_TIMEOUT)

    # ------------------------------------------------------------ resources

    def test_cores_are_granted(self, run: Run) -> None:
        info = run.probe(self.backend).info
        cores = min(2, (info.cores_per_node if info is not None else None) or 1)
        assert self.value(run, lambda: len(os.sched_getaffinity(0)), cores=cores) >= cores

    def test_impossible_request_is_refused_or_ends_soon(self, run: Run) -> None:
        with pytest.raises((SubmitError, QueueTimeout)):
            self.value(run, os.getpid, cores=100_000)

    @requires_capability(Capability.PARTITIONS)
    def test_unknown_partition_is_refused_with_the_scheduler_s_words(self, run: Run) -> None:
        with pytest.raises(SubmitError, match=r"no_such_place|partition|queue"):
            self.value(run, os.getpid, partition="no_such_place")

    def test_metrics_are_measured(self, run: Run) -> None:
        def work() -> int:
            data = bytearray(50 * 2**20)
            deadline = time.process_time() + 0.2
            while time.process_time() < deadline:
                pass
            return len(data)

        job = self.job(run, work)
        job.result(self.patience_s)
        metrics = job.metrics
        assert metrics.max_rss_bytes is not None
        assert metrics.max_rss_bytes > 50 * 2**20
        assert metrics.cpu_time_s is not None
        assert 0.2 <= metrics.cpu_time_s < 10
        assert metrics.submitted_at is not None
        assert metrics.started_at is not None
        assert metrics.ended_at is not None
        assert metrics.started_at <= metrics.ended_at
        assert metrics.nodes

    # ------------------------------------------------------------ environment

    def test_login_variables_are_set(self, run: Run) -> None:
        names = ("HOME", "USER", "LOGNAME", "PWD")
        environment = self.value(run, lambda: {name: os.environ.get(name) for name in names} | {"cwd": os.getcwd()})
        assert all(environment.values())
        assert environment["PWD"] == environment["cwd"]

    def test_env_arrives_unharmed(self, run: Run) -> None:
        given = {"CJ_TEST": "a b;$(id) 'x' \"y\"\nsecond line", "CJ_EMPTY": ""}
        back = self.value(run, lambda: {name: os.environ.get(name) for name in ("CJ_TEST", "CJ_EMPTY")}, env=given)
        assert back == given

    def test_inherit_env_false_gives_only_a_baseline(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CJ_CALLERS_OWN", "1")
        names = lambda: sorted(os.environ)  # noqa: E731
        assert ("CJ_CALLERS_OWN" in self.value(run, names)) is run.backend(self.backend).sees_files
        bare = self.value(run, names, inherit_env=False, env={"CJ_GIVEN": "1"})
        assert "CJ_CALLERS_OWN" not in bare
        assert {"CJ_GIVEN", "PATH", "HOME"} <= set(bare)

    @requires_capability(Capability.SHELL)
    def test_prologue_command_epilogue_run_in_order_and_keep_the_exit_code(self, run: Run) -> None:
        shell = {"prologue": ("echo one", "export CJ_SET=two"), "epilogue": ("echo four", "exit 0")}
        job = self.command(run, 'echo "$CJ_SET"; echo three; exit 5', **shell)
        with pytest.raises(JobFailed):
            job.result(self.patience_s)
        assert job.metrics.exit_code == 5
        assert job.logs().stdout.split() == ["one", "two", "three", "four"]

    # ------------------------------------------------------------ many

    def test_separate_jobs_run_side_by_side_with_distinct_ids(self, run: Run) -> None:
        jobs = [self.command(run, f"echo {number}") for number in range(6)]
        assert [job.result(self.patience_s).stdout.strip() for job in jobs] == [str(number) for number in range(6)]
        assert len({job.native_id for job in jobs}) == len({job.record.directory for job in jobs}) == 6

    def test_array_gives_every_element_its_own_result_and_logs(self, run: Run) -> None:
        def square(number: int) -> int:
            print(f"element {number}")
            return number * number

        works = [Work(JobSpec(), "square", square, (number,), {}) for number in range(12)]
        jobs = run.submit(works)
        assert [job.result(self.patience_s) for job in jobs] == [number * number for number in range(12)]
        assert [job.logs().stdout for job in jobs] == [f"element {number}\n" for number in range(12)]
        assert len({job.native_id for job in jobs}) == 12

    def test_one_failing_element_fails_alone(self, run: Run) -> None:
        jobs = run.submit([command_work(f"exit {code}", JobSpec()) for code in (0, 9, 0)])
        assert all(job.wait(self.patience_s) for job in jobs)
        assert [job.state for job in jobs] == [JobState.COMPLETED, JobState.FAILED, JobState.COMPLETED]
        assert jobs[1].metrics.exit_code == 9

    def test_array_is_cancelled_whole(self, run: Run) -> None:
        jobs = run.submit([command_work("sleep 300", JobSpec())] * 4)
        run.cancel(jobs)
        assert all(job.wait(30) for job in jobs)
        assert {job.state for job in jobs} == {JobState.CANCELLED}

    def test_dependency_starts_after_its_predecessor_has_completed(self, run: Run) -> None:
        first = self.job(run, time.time)
        second = run.submit_call(time.time, (), {}, JobSpec(), depends_on=[first])
        assert second.result(self.patience_s) > first.result()

    def test_dependency_on_a_failed_job_is_cancelled_and_names_it(self, run: Run) -> None:
        first = self.command(run, "exit 1")
        second = run.submit_command("true", JobSpec(), depends_on=[first])
        with pytest.raises(JobCancelled, match=first.record.name):
            second.result(self.patience_s)
        assert second.reason is ExitReason.DEPENDENCY_FAILED

    def test_callbacks_fire_once_and_only_where_they_match(self, run: Run) -> None:
        calls: list[str] = []
        finished = threading.Event()

        async def awaited(job: Job[Any]) -> None:
            calls.append("exit")
            finished.set()

        job = self.command(run, "exit 42")
        job.on_success(lambda job: calls.append("success"))
        job.on_failure(lambda job: calls.append(f"failure {job.metrics.exit_code}"))
        job.on_cancel(lambda job: calls.append("cancel"))
        job.on_exit(awaited)
        assert job.wait(self.patience_s)
        assert finished.wait(10)
        assert calls == ["failure 42", "exit"]

    # ------------------------------------------------------------ what is left

    def test_close_cancels_what_runs_and_removes_the_directory(self, run: Run) -> None:
        job = self.command(run, "sleep 300", keep="never")
        self.wait_for(lambda: job.state is JobState.RUNNING)
        report = run.close()
        assert report.cancelled == [job.record]
        assert job.record.state is JobState.CANCELLED
        assert not os.path.exists(run.directory)

    def test_failed_job_s_directory_is_kept_and_others_are_not(self, run: Run) -> None:
        good, bad = self.command(run, "true"), self.command(run, "exit 1")
        assert good.wait(self.patience_s)
        assert bad.wait(self.patience_s)
        assert run.close().kept == [bad.record.directory]
        assert os.path.isdir(bad.record.directory)
        assert not os.path.exists(good.record.directory)
        LocalTransport().remove(run.directory)

    def test_ten_children_left_behind_are_gone(self, run: Run, tmp_path: Any) -> None:
        token = f"cj-left-behind-{os.getpid()}-{time.monotonic_ns()}"
        child = f"setsid bash -c 'exec -a {token} sleep 300' & echo $!"
        job = self.command(run, f"for i in 1 2 3 4 5 6 7 8 9 10; do {child}; done; exit 0")
        assert len(job.result(self.patience_s).stdout.split()) == 10
        run.close()
        deadline = time.monotonic() + 10
        while (left := _processes_with(token)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert left == []

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds, at most ``patience_s``."""
        deadline = time.monotonic() + self.patience_s
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert condition()


def _processes_with(token: str) -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            if token.encode() in file.read() and int(pid) != os.getpid():
                found.append(pid)
    return found
