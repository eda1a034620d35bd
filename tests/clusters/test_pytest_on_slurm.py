"""Pytest as users run it, on a real Slurm: the same file everywhere, and nothing left however it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster_lane("slurm"), pytest.mark.usefixtures("slurm")]

VARIED = Path(__file__).parent / "varied"
PASSED, SKIPPED, XFAILED = 23, 1, 2

SLOW = """
import time, pytest
from pytest_clusterjobs import cluster

@cluster(cores=1)
def slow(seconds):
    time.sleep(seconds)

@pytest.mark.real_world
@pytest.mark.parametrize("number", range(4))
def test_slow(number):
    jobs = [slow.submit(100 + extra) for extra in range(2)]
    open(f"submitted-{number}", "w").close()
    jobs[0].result()
"""


def queue() -> list[str]:
    argv = ["squeue", "--me", "--noheader", "--format=%j", "--states=PENDING,RUNNING,COMPLETING"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    return [name for name in done.stdout.split() if name.startswith("cj-")]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "project"
    shutil.copytree(VARIED, folder, ignore=shutil.ignore_patterns("__pycache__"))
    yield folder
    assert queue() == []


def run_pytest(folder: Path, *options: str, sees_slurm: bool = True) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    environment = {name: value for name, value in os.environ.items() if sees_slurm or name != "SLURM_CONF"}
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=240, check=False, env=environment)


@pytest.mark.parametrize(
    ("options", "times"),
    [
        (["--cluster=local"], 1),
        (["--cluster=slurm"], 1),
        (["--cluster=local,slurm"], 2),
        (["--cluster=slurm", "-n4"], 1),
    ],
    ids=["local", "slurm", "both", "slurm-n4"],
)
def test_varied_file_passes_unchanged(project: Path, options: list[str], times: int) -> None:
    done = run_pytest(project, *options)
    expected = f"{PASSED * times} passed, {SKIPPED * times} skipped, {XFAILED * times} xfailed"
    assert expected in done.stdout, done.stdout + done.stderr
    assert not (project / ".clusterjobs").exists()


def test_failing_body_reads_like_a_local_one_and_tells_about_the_job(project: Path) -> None:
    body = "    numbers = [1, 2, 3]\n    assert numbers == [1, 2, 4]\n"
    (project / "test_failing.py").write_text(
        "from pytest_clusterjobs import cluster\n"
        f"@cluster(cores=1)\ndef test_remote():\n    print('said before')\n{body}"
        f"def test_local():\n{body}"
    )
    done = run_pytest(project, "--cluster=slurm", "test_failing.py")
    remote, local = done.stdout.split("test_local ___")[0], done.stdout.split("test_local ___")[1]
    lines = [line for line in local.splitlines() if line.startswith(("E  ", ">  "))]
    assert len(lines) >= 3
    assert all(line in remote for line in lines)
    for fact in (
        "backend:    slurm",
        "native id",
        "requested:  1 core(s)",
        "node:",
        "submitted:  sbatch",
        "said before",
    ):
        assert fact in remote
    shutil.rmtree(project / ".clusterjobs")


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "xdist"])
@pytest.mark.parametrize(
    "signals", [[signal.SIGINT], [signal.SIGINT, signal.SIGINT], [signal.SIGTERM]], ids=["ctrl-c", "twice", "sigterm"]
)
def test_interrupted_run_leaves_nothing(project: Path, workers: list[str], signals: list[signal.Signals]) -> None:
    with slow_run(project, workers) as process:
        for number in signals:
            process.send_signal(number)
            time.sleep(0.2)
        # The second Ctrl-C may come when all is done and Python itself is about to end.
        assert process.wait(timeout=60) in (2, -signal.SIGINT)
    assert queue() == []
    assert not (project / ".clusterjobs").exists()


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "xdist"])
def test_killed_run_is_reaped(project: Path, workers: list[str]) -> None:
    with slow_run(project, workers) as process:
        process.kill()
        process.wait(timeout=60)
    reap = [sys.executable, "-c", "from pytest_clusterjobs.cli.main import main; main()", "reap"]
    done = subprocess.run(reap, cwd=project, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "dead" in done.stdout
    wait_for_empty_queue()


def test_killed_worker_s_jobs_are_cancelled(project: Path) -> None:
    with slow_run(project, ["-n2"]) as process:
        mine = [name for name in queue() if "-gw0." in name]
        assert mine
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        deadline = time.monotonic() + 30
        while set(mine) & set(queue()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not set(mine) & set(queue())
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 2


@contextmanager
def slow_run(project: Path, options: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a run whose tests wait for jobs of 100 s, and wait until these are there."""
    (project / "test_slow.py").write_text(SLOW)
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--cluster=slurm", *options, "test_slow.py"]
    process = subprocess.Popen(argv, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 60
    wanted = 2 if options else 1
    try:
        while len(list(project.glob("submitted-*"))) < wanted and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(queue()) == 2 * wanted
        yield process
    finally:
        process.kill()
        process.communicate(timeout=60)


def wait_for_empty_queue() -> None:
    deadline = time.monotonic() + 30
    while queue() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert queue() == []


def test_cluster_up_boots_runs_and_takes_down(project: Path) -> None:
    done = run_pytest(project, "--cluster=slurm", "--cluster-up", "-k", "test_value or test_map", sees_slurm=False)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_named_backend_that_does_not_answer_is_an_error_and_a_marked_one_a_skip(
    project: Path,
) -> None:
    (project / "test_two.py").write_text(
        "import pytest\n@pytest.mark.real_world\ndef test_any(): pass\n"
        "@pytest.mark.cluster('slurm')\ndef test_pinned(): pass\n"
    )
    named = run_pytest(project, "--cluster=slurm", "test_two.py", sees_slurm=False)
    assert "2 errors" in named.stdout
    assert named.returncode == 1
    marked = run_pytest(project, "-m", "real_world", "test_two.py", "-rs", sees_slurm=False)
    assert "1 passed, 1 skipped" in marked.stdout
    assert "slurm" in marked.stdout.split("SKIPPED")[1]
    assert marked.returncode == 0
