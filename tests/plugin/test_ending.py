"""The end of a session: whatever ends it, no job, process or file stays that the policy does not keep."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.watching import is_alive, wait_for

WAITS = """
import os, time
import pytest
from pytest_clusterjobs import cluster

@cluster
def linger(path):
    with open(path + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(path + ".new", path)
    time.sleep(120)

@pytest.mark.parametrize("number", range(COUNT))
def test_waits(number):
    linger(os.path.join(os.environ["PIDS"], str(number)))
"""

Starter = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def pids(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the directory where jobs tell their pids."""
    path = project.mkdir("pids")
    monkeypatch.setenv("PIDS", str(path))
    return path


@pytest.fixture
def start(project: pytest.Pytester, pids: Path) -> Iterator[Starter]:
    """Give a function that starts pytest on ``count`` tests that wait for jobs, and waits until their jobs run."""
    started: list[subprocess.Popen[str]] = []

    def begin(*args: str, count: int = 1, terminal: dict[str, Any] | None = None) -> subprocess.Popen[str]:
        project.makepyfile(test_waits=WAITS.replace("COUNT", str(count)))
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--cluster-report=report.json", *args],
            text=True,
            start_new_session=True,  # as under a shell: signals to its group are not signals to us
            **(terminal or {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}),
        )
        started.append(process)
        wait_for(lambda: len([name for name in os.listdir(pids) if name.isdigit()]) == count)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def assert_nothing_left(project: pytest.Pytester, pids: Path) -> None:
    left = [int((pids / name).read_text()) for name in os.listdir(pids)]
    assert left
    wait_for(lambda: not any(is_alive(pid) for pid in left), within_s=10)
    assert not (project.path / ".clusterjobs").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels_the_job_and_ends_in_order(
    project: pytest.Pytester, start: Starter, pids: Path, number: signal.Signals
) -> None:
    process = start("--cluster-keep=never")
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in output
    assert "clusterjobs: cancelling 1 unfinished job ..." in output
    report = json.loads((project.path / "report.json").read_text())
    assert [name.rpartition("-")[2] for name in report["cancelled"]] == ["linger"]
    assert [job["state"] for job in report["other_jobs"]] == ["CANCELLED"]
    assert_nothing_left(project, pids)


def test_a_terminal_that_goes_ends_the_run_and_its_jobs(project: pytest.Pytester, start: Starter, pids: Path) -> None:
    """A connection to a login node that broke killed pytest, and its jobs went on."""
    ours, theirs = os.openpty()
    process = start(
        "--cluster-keep=never",
        terminal={
            "stdin": theirs,
            "stdout": theirs,
            "stderr": theirs,
            "preexec_fn": lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        },
    )
    os.close(theirs)
    os.close(ours)
    process.wait(30)
    report = json.loads((project.path / "report.json").read_text())
    assert [job["state"] for job in report["other_jobs"]] == ["CANCELLED"]
    assert_nothing_left(project, pids)


def test_an_impatient_second_ctrl_c_changes_nothing(project: pytest.Pytester, start: Starter, pids: Path) -> None:
    process = start("--cluster-keep=never")
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert_nothing_left(project, pids)


def test_output_that_nobody_reads_any_more_keeps_no_job(project: pytest.Pytester, start: Starter, pids: Path) -> None:
    """After `pytest | head` jobs stayed on the cluster: the line that tells of their end could not be written."""
    process = start("--cluster-keep=never")
    assert process.stdout is not None
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)
    assert_nothing_left(project, pids)


def test_a_killed_pytest_takes_its_local_jobs_along(start: Starter, pids: Path) -> None:
    process = start()
    process.kill()
    process.communicate(timeout=10)
    pid = int((pids / "0").read_text())
    wait_for(lambda: not is_alive(pid), within_s=20)


def test_ctrl_c_ends_all_workers_and_their_jobs(project: pytest.Pytester, start: Starter, pids: Path) -> None:
    pytest.importorskip("xdist")
    process = start("-n2", "--cluster-keep=never", count=2)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=40)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert_nothing_left(project, pids)


def test_sigterm_to_the_controller_alone_ends_the_workers_too(
    project: pytest.Pytester, start: Starter, pids: Path
) -> None:
    pytest.importorskip("xdist")
    process = start("-n1", "--cluster-keep=never", "--cluster=local")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=40)
    assert_nothing_left(project, pids)


def test_handlers_are_given_back(project: pytest.Pytester) -> None:
    project.makepyfile("def test_x(cluster_jobs): assert cluster_jobs.run('true').exit_code == 0")
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    project.runpytest_inprocess().assert_outcomes(passed=1)
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_handler_of_the_users_is_left_alone(project: pytest.Pytester) -> None:
    project.makeconftest(
        """
        import signal
        def mine(number, frame): pass
        signal.signal(signal.SIGTERM, mine)
        def pytest_unconfigure(config): assert signal.getsignal(signal.SIGTERM) is mine
        """
    )
    project.makepyfile(
        """
        import signal
        def test_x(cluster_jobs):
            cluster_jobs.run("true")
            assert signal.getsignal(signal.SIGTERM).__name__ == "mine"
        """
    )
    before = signal.getsignal(signal.SIGTERM)
    try:
        project.runpytest_inprocess().assert_outcomes(passed=1)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("options", [[], ["-q"]], ids=["usual", "quiet"])
def test_jobs_that_nobody_waited_for_are_cancelled_and_named(project: pytest.Pytester, options: list[str]) -> None:
    project.makepyfile(
        """
        import time
        from pytest_clusterjobs import cluster

        @cluster
        def linger(): time.sleep(60)

        def test_leaves(): linger.submit()
        """
    )
    result = project.runpytest_inprocess("--cluster-keep=never", *options)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["clusterjobs: cancelling 1 unfinished job ...", "local: 1 ran; 1 job*", "cancelled at the end: cj-*-1-linger"]
    )
    assert not (project.path / ".clusterjobs").exists()


def test_a_submission_after_the_end_is_refused(project: pytest.Pytester) -> None:
    project.makeconftest(
        """
        import pytest
        from pytest_clusterjobs import cluster
        from pytest_clusterjobs.core.errors import UsageError

        @cluster
        def late(): pass

        @pytest.hookimpl(trylast=True)
        def pytest_terminal_summary(terminalreporter):
            try:
                late()
            except UsageError as error:
                terminalreporter.write_line(f"refused: {error}")
        """
    )
    project.makepyfile("from conftest import late\ndef test_x(): late()")
    result = project.runpytest_inprocess()
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["refused: the run * has ended*"])
