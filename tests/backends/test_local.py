"""The local scheduler as a backend: how jobs end and what is said of it, with real processes."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest

from pytest_clusterjobs.backends.batch import EXIT_MODULE
from pytest_clusterjobs.core.errors import SubmitError
from pytest_clusterjobs.core.state import ExitReason, JobState
from tests.watching import is_alive

if TYPE_CHECKING:
    from tests.local_bench import CORES, Bench, Job, wait_for
else:
    from local_bench import CORES, Bench, Job, wait_for

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the jobs' functions go by value, as the engine sends them


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


# ---------------------------------------------------------------- how a job ends


def test_value_comes_back_with_states_in_order(bench: Bench) -> None:
    job = bench.submit(lambda: print("said") or 42)
    assert job.value() == 42
    assert bench.seen[job.native_id] == [JobState.RUNNING, JobState.COMPLETED]
    assert job.status.exit_code == 0
    assert job.status.nodes == os.uname().nodename
    assert (job.folder / "exit-code").read_text() == "0"
    assert job.log() == "said\n"
    assert (job.folder / "stdout.log").stat().st_mode & 0o777 == 0o600


def test_exit_code_of_a_command_is_reported_and_marked(bench: Bench) -> None:
    job = bench.submit(["sh", "-c", "exit 3"])
    status = job.ended()
    assert (status.state, status.reason, status.exit_code) == (JobState.FAILED, ExitReason.NONZERO_EXIT, 3)
    assert (job.folder / "exit-code").read_text() == "3"


def test_signal_that_ends_a_job_is_reported(bench: Bench) -> None:
    def work() -> None:
        print("kept", end="")
        os.kill(os.getpid(), signal.SIGKILL)

    job = bench.submit(work)
    status = job.ended()
    assert (status.state, status.reason, status.signal) == (JobState.FAILED, ExitReason.SIGNAL, 9)
    assert status.exit_code is None
    assert (job.folder / "exit-code").read_text() == "137"
    assert job.log() == "kept"


def test_terminal_jobs_stay_known_and_are_found_by_name(bench: Bench) -> None:
    job = bench.submit(lambda: None)
    job.ended()
    assert list(bench.backend.query("cj-" + bench.token)) == [job.native_id]
    assert bench.backend.query("cj-other") == {}
    assert bench.backend.explain("0") is None


def test_listener_that_fails_does_not_stop_the_reports(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.backend.set_listener(lambda _: 1 / 0)  # type: ignore[arg-type]
    job = bench.submit(lambda: None)
    wait_for(lambda: job.status.state is JobState.COMPLETED)
    assert "the listener failed" in caplog.text


# ---------------------------------------------------------------- limits


def test_time_limit_ends_a_job_that_ignores_sigterm(bench: Bench) -> None:
    script = "trap '' TERM; echo before; sleep 1000 & wait; wait"
    job = bench.submit(["sh", "-c", script], time=0.3)
    status = job.ended()
    assert (status.state, status.native_word, status.reason) == (JobState.FAILED, "TIMEOUT", ExitReason.TIMEOUT)
    assert "0.3 s" in status.detail
    assert job.log() == "before\n"
    assert bench.processes() == {}


@pytest.mark.parametrize("mode", ["cgroup", "watch"])
def test_memory_limit_ends_the_job_with_the_numbers(tmp_path: Path, mode: str) -> None:
    bench = Bench(tmp_path, memory_mode=mode)

    def work() -> None:
        print("before", flush=True)
        kept = bytearray(200 << 20)
        kept[::4096] = b"x" * len(kept[::4096])
        threading.Event().wait(60)

    try:
        job = bench.submit(work, memory="64MB")
        status = job.ended()
        if mode == "cgroup" and status.reason is ExitReason.LAUNCH_FAILURE:
            pytest.skip(f"no control groups for us here: {status.detail}")
        assert (status.state, status.native_word) == (JobState.FAILED, "OUT_OF_MEMORY")
        assert status.reason is ExitReason.OUT_OF_MEMORY
        assert "of the 64 MiB asked for" in status.detail
        assert job.log() == "before\n"
        assert bench.submit(lambda: 1, memory="64MB").value() == 1
        assert not list(Path("/sys/fs/cgroup").glob(f"**/clusterjobs-{bench.server()}-*"))
    finally:
        bench.close()


def test_memory_of_a_jobs_children_counts(tmp_path: Path) -> None:
    bench = Bench(tmp_path, memory_mode="watch")
    code = "import time; a = bytearray(60 << 20); a[::4096] = b'x' * len(a[::4096]); time.sleep(60)"
    try:
        job = bench.submit(
            ["sh", "-c", f'{sys.executable} -c "{code}" & {sys.executable} -c "{code}" & wait'], memory="100MB"
        )
        assert job.ended().reason is ExitReason.OUT_OF_MEMORY
    finally:
        bench.close()


@pytest.mark.parametrize(
    ("spec", "asked", "there_is"),
    [
        ({"cores": CORES + 1}, f"cores={CORES + 1}", f"available: {CORES} usable cores"),
        ({"gpus": 1}, "gpus=1", "no GPUs"),
        ({"nodes": 2}, "nodes=2", "one node"),
        ({"memory": "900TB"}, "memory=900 TiB", "GiB"),
    ],
)
def test_impossible_job_is_refused_at_once(bench: Bench, spec: dict[str, Any], asked: str, there_is: str) -> None:
    with pytest.raises(SubmitError) as refused:
        bench.submit(lambda: None, **spec)
    assert asked in str(refused.value)
    assert there_is in str(refused.value)


def test_words_of_other_schedulers_are_accepted(bench: Bench) -> None:
    assert bench.submit(lambda: 1, partition="compute", account="a", extra_directives=["--exclusive"]).value() == 1


# ---------------------------------------------------------------- cancelling


def test_cancel_ends_a_running_job_that_ignores_sigterm(bench: Bench) -> None:
    job = bench.submit(["sh", "-c", "trap '' TERM; echo up; while :; do sleep 1000; done"])
    job.says("up")
    job.cancel()
    job.cancel()
    status = job.ended()
    assert (status.state, status.native_word, status.reason) == (JobState.CANCELLED, "CANCELLED", ExitReason.CANCELLED)
    assert bench.processes() == {}


def test_cancel_gives_a_job_time_to_end_itself(bench: Bench) -> None:
    job = bench.submit(["sh", "-c", "trap 'echo cleaned; exit 0' TERM; echo up; while :; do sleep 0.01; done"])
    job.says("up")
    job.cancel()
    assert job.ended().state is JobState.CANCELLED
    assert job.log() == "up\ncleaned\n"


def test_cancelled_job_in_the_queue_never_starts(bench: Bench) -> None:
    first = bench.submit(["sleep", "1000"], cores=CORES)
    second = bench.submit(lambda: None)
    wait_for(lambda: first.status.state is JobState.RUNNING)
    assert second.status.state is JobState.PENDING
    assert second.status.detail == f"Resources: waiting for 1 of {CORES} cores"
    second.cancel()
    assert second.ended().state is JobState.CANCELLED
    assert second.status.nodes == ""
    assert not (second.folder / "start.json").exists()
    first.cancel()
    assert first.ended().state is JobState.CANCELLED


def test_cancel_of_ended_and_unknown_jobs_changes_nothing(bench: Bench) -> None:
    job = bench.submit(lambda: None)
    job.ended()
    bench.backend.cancel([job.native_id, "0", "1", "-1", "nonsense"])
    bench.backend.cancel([])
    assert bench.submit(lambda: 2).value() == 2
    assert job.status.state is JobState.COMPLETED


# ---------------------------------------------------------------- the end of the backend


def test_close_ends_everything_and_may_be_repeated(bench: Bench) -> None:
    job = bench.submit(["sh", "-c", "trap '' TERM; setsid sleep 1000 & echo up; wait; wait"])
    job.says("up")
    server = bench.server()
    bench.backend.close()
    bench.backend.close()
    assert not is_alive(server)
    assert bench.processes() == {}
    assert job.status.state is JobState.CANCELLED
    assert job.status.detail == "the local backend was closed"
    assert bench.submit(lambda: 1).value() == 1


def test_server_holds_nothing_of_its_clients(bench: Bench) -> None:
    assert bench.backend.check().cores_per_node == CORES
    folder = Path(f"/proc/{bench.server()}")
    assert {os.readlink(folder / "fd" / number) for number in "012"} == {"/dev/null"}
    assert os.getsid(bench.server()) == bench.server()
    assert os.readlink(folder / "cwd") == "/"


# An interrupt may land in a destructor or a weak reference's callback, where Python can only report it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupts_never_break_the_connection(bench: Bench) -> None:
    """Ctrl-C may come between any two instructions of the main thread."""
    bench.submit(lambda: None).ended()
    folders = [bench.directory(lambda: None) for _ in range(40)]
    accepted: list[str] = []

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        for folder in folders:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0003)
                native_ids = bench.backend.submit(bench.submission(folder)).native_ids
                signal.setitimer(signal.ITIMER_REAL, 0)
                accepted += native_ids
            except KeyboardInterrupt:
                continue
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert bench.submit(lambda: 3).value() == 3
    wait_for(lambda: all(bench.seen.get(key, [])[-1:] == [JobState.COMPLETED] for key in accepted))


# ---------------------------------------------------------------- arrays


def test_array_respects_its_limit_and_numbers_its_jobs(bench: Bench) -> None:
    parent = bench.root / "array"
    parent.mkdir()

    def work() -> tuple[str, float, float]:
        started = time.monotonic()
        threading.Event().wait(0.02)
        return os.environ["CLUSTERJOBS_ARRAY_INDEX"], started, time.monotonic()

    folders = [bench.directory(work, parent, number) for number in range(6)]
    submission = dataclasses.replace(bench.submission(*folders), max_concurrent=1)
    native_ids = bench.backend.submit(submission).native_ids
    single = bench.submit(lambda: 1)
    values = [Job(bench, bench.backend, key, folder).value() for key, folder in zip(native_ids, folders, strict=True)]
    assert [index for index, *_ in values] == list("012345")
    assert all(before[2] <= after[1] for before, after in itertools.pairwise(values))
    assert single.value() == 1
    assert len(set(native_ids)) == 6


# ---------------------------------------------------------------- shell lines


def test_prologue_and_epilogue_run_around_the_job(bench: Bench) -> None:
    job = bench.submit(
        lambda: print("job", os.environ["FROM_PROLOGUE"]),
        prologue=["export FROM_PROLOGUE='a b'", "echo before"],
        epilogue=["echo after $FROM_PROLOGUE", "exit 5"],
    )
    status = job.ended()
    assert (status.state, status.exit_code) == (JobState.COMPLETED, 0)
    assert job.log() == "before\njob a b\nafter a b\n"


def test_epilogue_knows_a_failure_and_cannot_hide_it(bench: Bench) -> None:
    job = bench.submit(["sh", "-c", "exit 4"], epilogue=["echo ended with $CLUSTERJOBS_EXIT_CODE", "exit 0"])
    assert job.ended().exit_code == 4
    assert job.log() == "ended with 4\n"


def test_module_that_cannot_be_loaded_ends_the_job(bench: Bench) -> None:
    job = bench.submit(lambda: print("must not run"), modules=["no-such/1.0"])
    assert (job.ended().state, job.status.exit_code) == (JobState.FAILED, EXIT_MODULE)
    assert "cannot load the environment module no-such/1.0" in job.log("stderr.log")
    assert job.log() == ""


def test_cancel_lets_the_epilogue_run(bench: Bench) -> None:
    job = bench.submit(["sh", "-c", "echo up; sleep 1000"], epilogue=["echo after"])
    job.says("up")
    job.cancel()
    assert job.ended().state is JobState.CANCELLED
    assert job.log() == "up\nafter\n"
