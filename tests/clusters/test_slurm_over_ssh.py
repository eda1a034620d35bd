"""A real Slurm behind a real sshd: the same tests, a connection that breaks, a client that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from pytest_clusterjobs.clusters import processes
from pytest_clusterjobs.clusters.base import RunningCluster
from pytest_clusterjobs.config.place import Place
from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.core.errors import JobInfrastructureError, StoreError
from pytest_clusterjobs.core.spec import JobSpec
from pytest_clusterjobs.core.state import ExitReason, JobState
from pytest_clusterjobs.engine.run import Run
from pytest_clusterjobs.engine.validator import ClusterJobValidator
from pytest_clusterjobs.engine.work import Work
from tests import days, watching

wait_for = partial(watching.wait_for, within_s=40)
started = partial(days.started, within_s=40)

pytestmark = [pytest.mark.cluster_lane("sshd"), pytest.mark.usefixtures("slurm_over_ssh")]

CONFIGURATION = f"""\
profiles:
  site:
    backend: slurm
    host: clusterjobs
    workdir: WORKDIR
    python: {sys.executable}
    env: {{FROM_PROFILE: "yes"}}
"""

TESTS = """
import os
import pytest
from helper_beside import triple
from pytest_clusterjobs import cluster

@pytest.fixture
def given():
    return 14

@cluster(cores=2, prologue="export FROM_PROLOGUE=yes")
def test_body(given):
    assert triple(given) == 42
    assert (os.environ["FROM_PROFILE"], os.environ["FROM_PROLOGUE"]) == ("yes", "yes")
    assert os.environ["SLURM_CPUS_PER_TASK"] == "2"
    assert "SSH_CONNECTION" in os.environ
    assert "HERE_ALONE" not in os.environ

@cluster
def square(number):
    print("squaring", number)
    return number * number

@pytest.mark.real_world
def test_map():
    assert square.map(range(5)) == [0, 1, 4, 9, 16]

@cluster
def test_that_fails(given):
    print("about to fail")
    assert given == 15

@pytest.mark.real_world
def test_directory(cluster_workdir):
    raise AssertionError("not reached")
"""


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """Give the work directory on the far side."""
    return tmp_path / "there"


@pytest.fixture
def place(there: Path) -> Place:
    return Place("site", "slurm", host=("clusterjobs",), workdir=str(there), python=sys.executable)


def make_run(place: Place, tmp_path: Path) -> Run:
    settings = Settings(workdir=str(tmp_path / "here"), lost_after_s=15, command_timeout_s=10)
    run = Run(settings, places={"site": place}.__getitem__)
    run.select("site")
    return run


@pytest.fixture
def run(place: Place, tmp_path: Path, there: Path) -> Iterator[Run]:
    run = make_run(place, tmp_path)
    yield run
    report = run.close()
    assert report.leaked == []
    assert not there.exists() or list(there.iterdir()) == []


def project(root: Path, there: Path) -> Path:
    root.mkdir()
    (root / "clusterjobs.yaml").write_text(CONFIGURATION.replace("WORKDIR", str(there)))
    (root / "helper_beside.py").write_text("def triple(number):\n    return 3 * number\n")
    (root / "test_it.py").write_text(TESTS)
    return root


def pytest_argv(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--cluster=site", *arguments]


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["plain", "xdist"])
def test_the_same_tests_run_there(tmp_path: Path, there: Path, workers: tuple[str, ...]) -> None:
    root = project(tmp_path / "project", there)
    environment = {**os.environ, "HERE_ALONE": "1"}
    argv = pytest_argv("-rs", *workers)
    done = subprocess.run(argv, cwd=root, env=environment, capture_output=True, text=True, timeout=240, check=False)
    text = done.stdout + done.stderr
    assert "1 failed, 2 passed, 1 skipped" in done.stdout, text
    assert "assert 14 == 15" in text
    assert "about to fail" in text
    assert "its nodes see no files of this machine" in text
    assert list(there.iterdir()) == []


def test_sshd_killed_in_the_middle_and_back_loses_no_job(
    run: Run, slurm_over_ssh: RunningCluster, tmp_path: Path
) -> None:
    release = tmp_path / "release"
    job = started(run, f"while [ ! -e {release} ]; do sleep 0.05; done; echo released")
    with stopped(slurm_over_ssh):
        release.touch()
        second = run.submit_command("echo second", JobSpec())
        assert second.state is JobState.NEW
        assert not job.wait(1)
        assert job.state is JobState.RUNNING
    assert job.result(60).stdout == "released\n"
    assert second.result(60).stdout == "second\n"


def test_black_hole_changes_no_state_and_is_survived(run: Run, slurm_over_ssh: RunningCluster, tmp_path: Path) -> None:
    release = tmp_path / "release"
    job = started(run, f"while [ ! -e {release} ]; do sleep 0.05; done; echo released")
    with watching.frozen(of_sshd(slurm_over_ssh)):
        release.touch()
        assert not job.wait(4)
        assert job.state is JobState.RUNNING
    assert job.result(60).stdout == "released\n"


def test_fifty_at_once_keep_their_results_apart(run: Run) -> None:
    def double(number: int) -> int:
        print(number)
        return 2 * number

    jobs = run.submit([Work(JobSpec(), "double", double, (number,), {}) for number in range(50)])
    assert [job.result(120) for job in jobs] == [2 * number for number in range(50)]
    assert [job.logs().stdout for job in jobs] == [f"{number}\n" for number in range(50)]


def test_logs_of_a_running_job_are_brought(run: Run) -> None:
    job = started(run, "echo early; sleep 300")
    wait_for(lambda: "early" in job.logs().stdout)
    job.cancel()
    assert job.wait(40)
    assert (job.state, job.reason) == (JobState.CANCELLED, ExitReason.CANCELLED)


def test_files_that_a_job_leaves_there_are_validated(run: Run, tmp_path: Path) -> None:
    """They were said not to be there."""
    absolute, validator = tmp_path / "absolute", ClusterJobValidator()
    job = run.submit_command(f"mkdir folder; printf 1 > folder/one; printf 2 > '{absolute}'", JobSpec())
    assert validator.validate_output(
        job, files={"folder/one": b"1", str(absolute): "2", "stdout.log": ""}, timeout_s=60
    )
    assert [check.name for check in validator.validate_output(job, files=["two", "folder"]).failed] == ["two", "folder"]


def test_a_work_directory_that_cannot_be_made_is_named(place: Place, tmp_path: Path, there: Path) -> None:
    there.write_text("a file")
    run = make_run(place, tmp_path)
    with pytest.raises(StoreError, match=str(there)):
        run.submit_command("true", JobSpec())
    assert run.close().leaked == []
    there.unlink()


def test_another_python_there_is_the_cluster_s_trouble_and_named(tmp_path: Path, there: Path) -> None:
    other = Path("/usr/bin/python3")
    if not other.exists() or other.resolve().name.endswith(".".join(map(str, sys.version_info[:2]))):
        pytest.skip("there is no other Python on this machine")
    place = Place("site", "slurm", host=("clusterjobs",), workdir=str(there))
    run = make_run(place, tmp_path)
    job = run.submit_call(os.getpid, (), {}, JobSpec())
    with pytest.raises(JobInfrastructureError, match="the node runs Python"):
        job.result(60)
    run.close()


def test_what_a_killed_client_left_is_reaped(tmp_path: Path, there: Path) -> None:
    root = project(tmp_path / "project", there)
    mark = tmp_path / "runs"
    (root / "test_it.py").write_text(f"""
from pytest_clusterjobs import cluster

@cluster
def test_long():
    import pathlib, time
    pathlib.Path({str(mark)!r}).touch()
    time.sleep(300)
""")
    client = subprocess.Popen(pytest_argv(), cwd=root, stdout=subprocess.DEVNULL)
    try:
        wait_for(mark.exists, within_s=60)
    finally:
        client.kill()
        client.wait(timeout=20)
    argv = [str(Path(sys.executable).with_name("clusterjobs")), "reap"]
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cancelled site:" in done.stdout
    assert list(there.iterdir()) == []


def of_sshd(cluster: RunningCluster) -> list[int]:
    """Give the processes that serve the connections: the listener, and those of sessions."""
    listener = processes.recorded(cluster.directory)["sshd"]
    assert listener is not None
    found = [listener.pid]
    for pid in found:
        found += watching.children(pid)
    return [pid for pid in found if processes.first_argument(pid).startswith(b"sshd") or pid == listener.pid]


@contextmanager
def stopped(cluster: RunningCluster) -> Iterator[None]:
    """Have no sshd and no connection inside."""
    for pid in of_sshd(cluster):
        os.kill(pid, signal.SIGKILL)
    try:
        yield
    finally:
        argv = ["/usr/sbin/sshd", "-D", "-e", "-f", str(cluster.directory / "sshd_config")]
        processes.start("sshd", argv, cluster.directory, dict(os.environ))
