"""The local job server: what a job finds, what ends with what, that nothing is left behind, who has the cores."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest

from pytest_clusterjobs.core.errors import BackendUnavailable
from pytest_clusterjobs.core.state import ExitReason, JobState

if TYPE_CHECKING:
    from tests.local_bench import CORES, RUNNER, Bench, Job, children, parent, wait_for
else:
    from local_bench import CORES, RUNNER, Bench, Job, children, parent, wait_for

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the jobs' functions go by value, as the engine sends them

needs_two_cores = pytest.mark.skipif(CORES < 2, reason="needs two cores")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


# ---------------------------------------------------------------- a job is like a fresh process


def test_job_finds_itself_in_a_fresh_process(bench: Bench) -> None:
    def look() -> dict[str, Any]:
        import random

        return {
            "main": sorted(vars(sys.modules["__main__"])),
            "session": os.getsid(0) == os.getpid(),
            "descriptors": sorted(map(int, os.listdir("/proc/self/fd"))),
            "stdin": sys.stdin.read(),
            "handlers": [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP)],
            "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
            "mask": list(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            "environment": dict(os.environ),
            "random": random.random(),
            "ours": [name for name in sys.modules if name in ("runner", "local_server", "local_job")],
            "context": sys.exc_info(),
        }

    job, other = bench.submit(look, env={"EXTRA": "1"}), bench.submit(look)
    seen = job.value()
    assert not {"main", "json"} & set(seen["main"])
    assert seen["session"]
    assert seen["descriptors"] == [0, 1, 2, 3]  # the last is the listing's own
    assert seen["stdin"] == ""
    assert seen["handlers"] == [signal.SIG_DFL] * 3
    assert seen["interrupt"]
    assert seen["mask"] == []
    assert seen["ours"] == []
    assert seen["context"] == (None, None, None)
    environment = {key: text for key, text in seen["environment"].items() if not key.startswith("CLUSTERJOBS_")}
    assert environment == {**os.environ, "CJ_TOKEN": bench.token, "EXTRA": "1", "PWD": str(job.folder)} | {
        name: environment[name] for name in ("HOME", "USER", "LOGNAME")
    }
    assert seen["environment"]["CLUSTERJOBS_NATIVE_ID"] == job.native_id
    assert seen["random"] != other.value()["random"]


def test_job_ends_as_the_interpreter_does(bench: Bench) -> None:
    """The short cut at a job's end must not lose what an interpreter does: threads, exit functions, open files."""

    def work() -> None:
        import atexit
        import ctypes
        import types

        module = sys.modules["made_here"] = types.ModuleType("made_here")
        module.__dict__["file"] = open("left-open", "w")  # noqa: SIM115 - left open is the point
        module.__dict__["file"].write("flushed")
        atexit.register(print, "exit function")
        threading.Timer(0.05, print, ["thread"]).start()
        libc = ctypes.CDLL(None)
        libc.fopen.restype = ctypes.c_void_p
        libc.fputs.argtypes = ctypes.c_char_p, ctypes.c_void_p
        libc.fputs(b"flushed", libc.fopen(b"left-open-in-C", b"w"))

    job = bench.submit(work)
    assert job.ended().state is JobState.COMPLETED
    assert (job.folder / "left-open").read_text() == "flushed"
    assert (job.folder / "left-open-in-C").read_text() == "flushed"
    assert job.log().splitlines() == ["thread", "exit function"]


def test_variables_that_an_interpreter_reads_at_its_start_are_obeyed(bench: Bench) -> None:
    job = bench.submit(lambda: (sys.flags.hash_randomization, hash("x")), env={"PYTHONHASHSEED": "0"})
    again = bench.submit(lambda: (sys.flags.hash_randomization, hash("x")), env={"PYTHONHASHSEED": "0"})
    assert job.value() == again.value()
    assert job.value()[0] == 0


def test_environment_of_any_size_and_bytes_arrives(bench: Bench) -> None:
    folder = bench.directory(lambda: (len(os.environ["BIG"]), os.environb[b"ODD"]))
    submission = bench.submission(folder)
    submission = dataclasses.replace(
        submission, environment={**submission.environment, "BIG": "x" * 300_000, "ODD": "\udcff"}
    )
    job = Job(bench, bench.backend, bench.backend.submit(submission).native_ids[0], folder)
    assert job.value() == (300_000, b"\xff")


def test_other_runner_than_the_servers_is_the_one_that_runs(bench: Bench) -> None:
    shutil.copytree(RUNNER.parent, bench.root / "node")
    with (bench.root / "node" / "runner.py").open("a") as file:
        file.write("\nprint('another runner')\n")
    folder = bench.directory(lambda: 1)
    submission = dataclasses.replace(bench.submission(folder), runner=str(bench.root / "node" / RUNNER.name))
    job = Job(bench, bench.backend, bench.backend.submit(submission).native_ids[0], folder)
    assert job.value() == 1
    assert job.log() == "another runner\n"


def test_other_python_that_is_missing_says_so(bench: Bench) -> None:
    folder = bench.directory(lambda: None)
    submission = dataclasses.replace(bench.submission(folder), python="/nowhere/python")
    job = Job(bench, bench.backend, bench.backend.submit(submission).native_ids[0], folder)
    assert job.ended().exit_code == 127
    assert "cannot run /nowhere/python: No such file" in job.log("stderr.log")


def test_directory_that_is_gone_is_a_launch_failure(bench: Bench) -> None:
    folder = bench.directory(lambda: None)
    submission = bench.submission(folder)
    (folder / "order.json").unlink()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    job = Job(bench, bench.backend, bench.backend.submit(submission).native_ids[0], folder)
    status = job.ended()
    assert (status.state, status.reason) == (JobState.FAILED, ExitReason.LAUNCH_FAILURE)
    assert "No such file or directory" in status.detail
    assert bench.submit(lambda: 1).value() == 1


# ---------------------------------------------------------------- nothing is left behind


def test_daemonized_children_end_with_their_job(bench: Bench) -> None:
    def work() -> None:
        for _ in range(10):
            subprocess.Popen(["sleep", "1000"], start_new_session=True)

    assert bench.submit(work).ended().state is JobState.COMPLETED
    assert bench.processes() == {}


def test_forks_of_a_job_end_with_it(bench: Bench) -> None:
    def work() -> None:
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.setsid()
            threading.Event().wait(1000)

    assert bench.submit(work).ended().state is JobState.COMPLETED
    assert bench.processes() == {}


def test_double_forked_child_with_a_cleared_environment_ends_with_its_job(bench: Bench) -> None:
    token = bench.token

    def work() -> None:
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                os.execve("/bin/sh", ["sh", "-c", f": {token}; while :; do sleep 1000; done"], {})  # noqa: S606
            os._exit(0)
        os.wait()

    job = bench.submit(work)
    assert job.ended().state is JobState.COMPLETED
    assert bench.processes() == {}


def test_process_that_forks_all_the_time_is_ended(bench: Bench) -> None:
    job = bench.submit(["sh", "-c", "trap '' TERM; echo up; (while :; do sleep 1000 & sleep 0.002; done) & wait"])
    job.says("up")
    wait_for(lambda: len(bench.processes()) > 10)
    job.cancel()
    assert job.ended().state is JobState.CANCELLED
    assert bench.processes() == {}


# ---------------------------------------------------------------- what is killed


def test_killed_server_takes_its_jobs_along_and_says_so(bench: Bench) -> None:
    running = bench.submit(["sh", "-c", "trap '' TERM; setsid sleep 1000 & echo up; wait; wait"], cores=CORES)
    waiting = bench.submit(lambda: None)
    running.says("up")
    os.kill(bench.server(), signal.SIGKILL)
    status = running.ended()
    assert (status.state, status.reason) == (JobState.FAILED, ExitReason.NODE_FAILURE)
    assert status.detail == "the local job server died"
    assert waiting.ended().detail == "the local job server died before the job started"
    wait_for(lambda: not bench.processes())
    assert bench.submit(lambda: 7, cores=CORES).value() == 7
    assert bench.seen[running.native_id][-1] is JobState.FAILED


def test_children_of_a_killed_job_end_too(bench: Bench) -> None:
    job = bench.submit(["sh", "-c", "setsid sleep 1000 & echo up; wait"])
    job.says("up")
    os.kill(json.loads((job.folder / "start.json").read_text())["pid"], signal.SIGKILL)
    status = job.ended()
    assert (status.state, status.reason, status.signal) == (JobState.FAILED, ExitReason.SIGNAL, 9)
    assert bench.processes() == {}


def test_killed_shepherd_takes_its_job_along(bench: Bench) -> None:
    job = bench.submit(["sh", "-c", "setsid sleep 1000 & echo up; wait"], memory="500MB")
    other = bench.submit(["sh", "-c", "sleep 0.3"]) if CORES > 1 else None
    job.says("up")
    shepherd = parent(json.loads((job.folder / "start.json").read_text())["pid"])
    assert shepherd in children(bench.server())
    os.kill(shepherd, signal.SIGKILL)
    status = job.ended()
    assert (status.state, status.reason) == (JobState.FAILED, ExitReason.NODE_FAILURE)
    assert status.detail == "its supervisor died"
    if other is not None:
        assert other.ended().state is JobState.COMPLETED
    assert bench.processes() == {}
    assert bench.submit(lambda: 7, cores=CORES).value() == 7


def test_idle_shepherd_that_is_killed_is_replaced(bench: Bench) -> None:
    bench.submit(lambda: None).ended()
    for shepherd in children(bench.server()):
        os.kill(shepherd, signal.SIGKILL)
    wait_for(lambda: not children(bench.server()))
    assert bench.submit(lambda: 7).value() == 7


def start_client(bench: Bench, body: str) -> subprocess.Popen[str]:
    """Run a client of its own, with ``bench`` and a job that will not end by itself."""
    folder = bench.root / secrets.token_hex(4)
    folder.mkdir()
    code = f"""
import os, sys, time
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import local_bench
bench = local_bench.Bench(local_bench.Path({str(folder)!r}))
bench.token = {bench.token!r}
job = bench.submit(["sh", "-c", "trap '' TERM; setsid sleep 1000 & echo up; wait; wait"])
job.says("up")
{textwrap.dedent(body)}
"""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_jobs_end_with_a_killed_client(bench: Bench) -> None:
    with start_client(bench, "print('ready', flush=True); time.sleep(1000)") as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        assert bench.processes()
        client.kill()
    wait_for(lambda: not bench.processes())


def test_fork_of_a_client_does_not_keep_the_jobs(bench: Bench) -> None:
    """A worker that the client has forked holds the connection open; the client's own life counts."""
    with start_client(bench, "pid = os.fork(); pid and print(pid, flush=True); time.sleep(1000)") as client:
        assert client.stdout is not None
        fork = int(client.stdout.readline())
        client.kill()
        client.wait()
        try:
            wait_for(lambda: set(bench.processes()) == {fork})
        finally:
            os.kill(fork, signal.SIGKILL)
            wait_for(lambda: not bench.processes())


def test_jobs_end_with_a_client_that_exits_without_closing(bench: Bench) -> None:
    with start_client(bench, "sys.exit(5)") as client:
        assert client.wait() == 5
        assert bench.processes() == {}


# ---------------------------------------------------------------- cores


@needs_two_cores
def test_job_is_pinned_to_its_cores_and_no_two_share_one(bench: Bench) -> None:
    work = ["sh", "-c", "grep Cpus_allowed_list /proc/self/status; while [ ! -e ../go ]; do sleep 0.01; done"]
    jobs = [bench.submit(work), bench.submit(work)]
    for job in jobs:
        job.says("Cpus_allowed_list")
    (bench.root / "go").touch()
    pinned = [job.log().split()[1] for job in jobs]
    assert len(set(pinned)) == 2
    assert all(text.isdigit() for text in pinned)
    assert len(bench.submit(lambda: sorted(os.sched_getaffinity(0)), cores=2).value()) == 2


def test_two_clients_share_the_cores(bench: Bench) -> None:
    other = bench.connect()
    try:
        first = bench.submit(["sleep", "1000"], cores=CORES)
        wait_for(lambda: first.status.state is JobState.RUNNING)
        second = bench.submit(lambda: 2, other)
        third = bench.submit(lambda: 3)
        assert second.status.state is JobState.PENDING
        first.cancel()
        assert (second.value(), third.value()) == (2, 3)
    finally:
        other.close()


@needs_two_cores
def test_large_job_does_not_starve_behind_small_ones(bench: Bench) -> None:
    """Small jobs of another client keep coming; with whoever-comes-first the large one never finds all cores free."""
    other = bench.connect()
    try:
        small = [bench.submit(["sleep", "0.03"], other) for _ in range(120)]
        wait_for(lambda: small[0].status.state is not JobState.PENDING)
        large = bench.submit(lambda: 1, cores=CORES)
        large.value()
        assert small[-1].status.state is JobState.PENDING
    finally:
        other.close()


def test_killed_server_gives_its_cores_back_only_when_its_jobs_are_gone(bench: Bench) -> None:
    other = bench.connect()
    try:
        first = bench.submit(["sh", "-c", "trap '' TERM; echo up; sleep 1000"], cores=CORES)
        first.says("up")
        second = bench.submit(lambda: 2, other, cores=CORES)
        os.kill(bench.server(), signal.SIGKILL)
        assert second.value() == 2
        started = json.loads((second.folder / "start.json").read_text())["started_at"]
        assert started >= (first.folder / "exit-code").stat().st_mtime - 0.02
    finally:
        other.close()


def test_slots_folder_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "slots").mkdir(mode=0o755)
    bench = Bench(tmp_path)
    with pytest.raises(BackendUnavailable, match="mode 0700"):
        bench.backend.check()
    bench.close()


def test_local_scheduler_inside_a_job_shares_out_the_jobs_own_cores(bench: Bench) -> None:
    folders = [str(Path(__file__).parents[1]), str(RUNNER.parents[2])]

    def work() -> Any:
        sys.path[:0] = folders
        import importlib

        inner = importlib.import_module("local_bench").Bench(Path.cwd(), slots_directory=None)
        try:
            return inner.submit(["true"]).ended().exit_code
        finally:
            inner.close()

    assert bench.submit(work).value() == 0
