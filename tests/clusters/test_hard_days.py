"""Hard days that do not depend on the scheduler, each on ``local`` and on a real Slurm."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.clusters.base import RunningCluster
from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.core.errors import JobInfrastructureError, SpecError, StoreError
from pytest_clusterjobs.core.spec import JobSpec, make_spec
from pytest_clusterjobs.core.state import ExitReason, JobState
from pytest_clusterjobs.engine.run import Run
from tests.days import own_cluster, run_on
from tests.watching import wait_for

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root: mounts a file system, or gives a file away")


@pytest.fixture(params=["local", pytest.param("slurm", marks=pytest.mark.cluster_lane("slurm"))])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "slurm":
        request.getfixturevalue("slurm")
    return str(request.param)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    return tmp_path / 'a b\'s "work" 100% ünïcode'


@pytest.fixture
def run(backend: str, workdir: Path) -> Iterator[Run]:
    with run_on(backend, workdir, lost_after_s=5) as run:
        yield run


def call(run: Run, function: Any, *args: Any, **resources: Any) -> Any:
    return run.submit_call(function, args, {}, make_spec(**resources)).result(60)


def test_work_directory_may_have_blanks_quotes_and_percent_signs(run: Run) -> None:
    job = run.submit_command("echo said", JobSpec())
    assert job.result(60).stdout == "said\n"
    jobs = run.submit(list(_echoes(3)))
    assert [job.result(60).stdout for job in jobs] == ["0\n", "1\n", "2\n"]


def _echoes(count: int) -> Iterator[Any]:
    from pytest_clusterjobs.engine.work import command_work

    return (command_work(f"echo {number}", JobSpec()) for number in range(count))


@pytest.mark.parametrize("name", ["a\nb", "x; rm -rf /", "$(id)", "'\"", "ünïcode", "-flag", " ", "a" * 500, "[1-3]%5"])
def test_any_job_name_is_made_safe_or_refused(run: Run, name: str) -> None:
    try:
        spec = make_spec(name=name)
    except SpecError:
        assert not name.strip()
        return
    job = run.submit_command("echo fine", spec)
    assert job.result(60).stdout == "fine\n"
    assert set(job.record.name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
    assert len(job.record.name) < 100


def test_payload_and_result_of_200_mb(run: Run) -> None:
    data = bytes(200 * 2**20)
    assert call(run, len, data, memory="2GB") == len(data)
    back = call(run, lambda: bytes(200 * 2**20), memory="2GB")
    assert len(back) == 200 * 2**20


def test_another_python_on_the_node_is_told_and_is_the_cluster_s_trouble(backend: str, workdir: Path) -> None:
    other = other_python()
    run = Run(Settings(workdir=str(workdir), python=other, keep="never"))
    run.select(backend)
    with pytest.raises(JobInfrastructureError, match=r"packed by Python \d\.\d+ and the node runs Python"):
        call(run, len, [1])
    assert run.submit_command("echo commands need no pickles", JobSpec()).result(60).exit_code == 0
    run.close()


def other_python() -> str:
    for folder in sorted(Path(os.path.expanduser("~/.pyenv/versions")).glob("3.1*/bin/python")):
        text = subprocess.run(
            [folder, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True
        )
        if text.stdout.split() != [str(part) for part in sys.version_info[:2]]:
            return str(folder)
    system = shutil.which("python3", path="/usr/bin")
    if system is None or sys.version_info[:2] == (3, 11):
        pytest.skip("there is no other Python here")
    return system


def test_missing_python_is_the_cluster_s_trouble_with_the_shell_s_words(backend: str, workdir: Path) -> None:
    """It was reported as the test's failure, with an exit code of 127."""
    run = Run(Settings(workdir=str(workdir), python="/nowhere/python", keep="never"))
    run.select(backend)
    with pytest.raises(JobInfrastructureError, match=r"could not be launched(?s:.)*/nowhere/python"):
        call(run, len, [1])
    with pytest.raises(JobInfrastructureError, match="could not be launched"):
        run.submit_command("true", JobSpec()).result(60)
    run.close()


def test_working_directory_that_the_node_lacks_is_told(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    first = run.submit_command("echo here; sleep 0.5", JobSpec())
    job = run.submit_command("true", make_spec(), depends_on=[first])
    wait_for(lambda: first.logs().stdout)
    gone.rmdir()
    monkeypatch.chdir(tmp_path)
    job.wait(60)
    assert job.state is JobState.FAILED
    assert "gone" in str(job.exception())


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Give a folder that is a disk of its own."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True, timeout=10)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True, timeout=10)


@needs_root
def test_full_disk_is_a_store_error_that_names_the_file(backend: str, tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=2m") as small:
        run = Run(Settings(workdir=str(small / "work")))
        run.select(backend)
        with pytest.raises(StoreError, match="No space left"):
            call(run, len, bytes(4 * 2**20))
        run.close()


@needs_root
def test_read_only_disk_is_a_store_error(backend: str, tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "ro,size=2m") as small:
        run = Run(Settings(workdir=str(small / "work")))
        run.select(backend)
        with pytest.raises(StoreError, match="Read-only"):
            call(run, len, [1])


@needs_root
def test_work_directory_that_others_could_swap_is_refused(backend: str, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    run = Run(Settings(workdir=str(theirs)))
    run.select(backend)
    with pytest.raises(StoreError, match="belongs to uid 12345"):
        call(run, len, [1])
    os.chown(theirs, os.getuid(), os.getgid())
    theirs.chmod(0o777)
    with pytest.raises(StoreError, match="others may write"):
        call(run, len, [1])
    theirs.chmod(0o1777)  # as /tmp is: nobody can rename what is not theirs
    assert call(run, len, [1]) == 1
    run.close()


def test_result_damaged_on_the_way_is_refused(run: Run) -> None:
    job = run.submit_call(lambda: list(range(1000)), (), {}, JobSpec())
    assert job.wait(60)
    envelope = Path(job.record.directory) / "result.cj"
    envelope.write_bytes(envelope.read_bytes()[:-1] + b"X")
    with pytest.raises(StoreError, match="damaged"):
        job.result()


@pytest.fixture
def mortal_slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningCluster]:
    """A Slurm of its own: one that was killed may give a job id twice."""
    with own_cluster("slurm", monkeypatch, nodes=1, tick_ms=50) as cluster:
        yield cluster


@pytest.mark.cluster_lane("slurm")
def test_controller_that_dies_and_comes_back_loses_no_job(mortal_slurm: RunningCluster, workdir: Path) -> None:
    slurm = mortal_slurm
    run = Run(Settings(workdir=str(workdir), lost_after_s=5, command_timeout_s=5))
    run.select("slurm")
    job = run.submit_command("sleep 4; echo survived", JobSpec())
    wait_for(lambda: job.state is JobState.RUNNING)
    pid = int((slurm.directory / "run" / "slurmctld.pid").read_text())
    argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
    environment = dict(
        pair.split("=", 1) for pair in Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0") if "=" in pair
    )
    os.kill(pid, signal.SIGKILL)
    try:
        assert job.result(60).stdout == "survived\n"
        assert job.state is JobState.COMPLETED
    finally:  # its state directory is as it was: without -c it recovers it
        recovering = [word for word in argv if word != "-c"]
        null = subprocess.DEVNULL
        argv = ["setsid", "--fork", *recovering]
        subprocess.run(argv, env=environment, check=True, timeout=10, stdout=null, stderr=null)
    again = run.submit_command("echo again", JobSpec())
    assert again.result(90).stdout == "again\n"
    run.close()


def test_exit_reason_of_a_job_that_cannot_start_is_no_success(run: Run) -> None:
    job = run.submit_command(["/nowhere/program"], JobSpec())
    with pytest.raises(JobInfrastructureError, match="/nowhere/program"):
        job.result(60)
    assert job.reason is ExitReason.LAUNCH_FAILURE
