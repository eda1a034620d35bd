"""Programs that are killed while their jobs are on a real Slurm, here or behind an sshd; others go on with the jobs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_clusterjobs.clusters.base import RunningCluster
from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.core.errors import UsageError
from pytest_clusterjobs.core.state import JobState
from pytest_clusterjobs.engine.configured import standalone
from pytest_clusterjobs.engine.reconnect import reconnect
from pytest_clusterjobs.engine.run import Run
from tests.watching import wait_for

CONFIGURATION = f"""\
profiles:
  site:
    backend: slurm
    host: clusterjobs
    workdir: WORKDIR
    python: {sys.executable}
"""

PROGRAM = """\
import os
import sys
import time
from pathlib import Path

from pytest_clusterjobs import cluster

@cluster(backend=sys.argv[1])
def after(path):
    deadline = time.monotonic() + 120
    while not os.path.exists(path):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    print("saw", path)
    return os.path.basename(path)

if __name__ == "__main__":
    jobs = [after.submit(os.path.abspath(name)) for name in ("first", "second")]
    jobs.append(after.options(extra_args=["--hold"]).submit(os.path.abspath("third")))
    deadline = time.monotonic() + 60
    while [job.state.value for job in jobs] != ["RUNNING", "RUNNING", "PENDING"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    Path("run_id").write_text(jobs[0].record.run_id)
    jobs[0].wait()
"""


@pytest.fixture(
    params=[
        pytest.param("slurm", marks=pytest.mark.cluster_lane("slurm")),
        pytest.param("site", marks=pytest.mark.cluster_lane("sshd")),
    ]
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the name of a place with a Slurm: here, or on a machine that sees no file of ours."""
    name: str = request.param
    request.getfixturevalue("slurm" if name == "slurm" else "slurm_over_ssh")
    if name != "slurm":
        text = CONFIGURATION.replace("WORKDIR", str(tmp_path / "there"))
        (tmp_path / "clusterjobs.yaml").write_text(text)
    return name


@pytest.fixture
def files(place: str, tmp_path: Path) -> Path:
    """Give the directory in which that place's jobs find those of runs."""
    return tmp_path / (".clusterjobs" if place == "slurm" else "there")


@pytest.fixture
def run_id(place: str, tmp_path: Path) -> str:
    """Give the run of a program that was killed while two jobs ran and one waited."""
    (tmp_path / "program.py").write_text(PROGRAM)
    told = tmp_path / "run_id"
    with subprocess.Popen([sys.executable, "program.py", place], cwd=tmp_path) as program:
        try:
            return str(wait_for(lambda: told.exists() and told.read_text(), "two jobs to run", 90))
        finally:
            program.kill()


@pytest.fixture
def run(run_id: str, tmp_path: Path, files: Path) -> Iterator[Run]:
    """Give the run of another program; at its end nothing is left of either."""
    settings = Settings(workdir=str(tmp_path / ".clusterjobs"), lost_after_s=15, command_timeout_s=10)
    run = Run(settings, places=standalone(str(tmp_path)).place)
    yield run
    report = run.close()
    assert (report.leaked, report.problems) == ([], [])
    assert not files.exists() or list(files.iterdir()) == []


def slurm_command(cluster: RunningCluster, *argv: str) -> str:
    environment = {**os.environ, **cluster.environment}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=30, check=True).stdout


def test_jobs_that_ended_run_and_wait_give_their_values(
    run: Run, run_id: str, tmp_path: Path, files: Path, slurm_cluster: RunningCluster
) -> None:
    (tmp_path / "first").touch()
    wait_for((files / run_id / "main" / "marks" / "1").exists, "the first job's end")
    first, second, third = jobs = reconnect(run, run_id)
    assert [job.record.state for job in jobs] == [JobState.COMPLETED, JobState.RUNNING, JobState.PENDING]
    assert [job.record.name for job in jobs] == [f"cj-{run_id}-{number}-after" for number in (1, 2, 3)]
    assert second.metrics.nodes[0] in slurm_command(slurm_cluster, "sinfo", "-h", "-N", "-o", "%N").split()
    shown = slurm_command(slurm_cluster, "squeue", "-h", "-o", "%i %j %T").splitlines()
    assert f"{second.native_id} {second.record.name} RUNNING" in shown
    assert first.result(30) == "first"
    (tmp_path / "second").touch()
    assert second.result(30) == "second"
    assert second.logs().stdout == f"saw {tmp_path / 'second'}\n"
    (tmp_path / "third").touch()
    slurm_command(slurm_cluster, "scontrol", "release", third.native_id)
    assert third.result(60) == "third"
    assert run.close().kept == []


def test_jobs_that_do_not_end_are_cancelled_with_those_of_the_new_program(
    run: Run, run_id: str, slurm_cluster: RunningCluster
) -> None:
    jobs = reconnect(run, run_id)
    with pytest.raises(UsageError, match="alive"):
        reconnect(Run(run.settings), run_id)
    jobs[0].cancel()
    wait_for(jobs[0].done, "the cancelled job's end", 60)
    assert jobs[0].record.state is JobState.CANCELLED
    report = run.close()
    assert [record.name for record in report.cancelled] == [job.record.name for job in jobs[1:]]
    assert run_id not in slurm_command(slurm_cluster, "squeue", "-h", "-o", "%j")
    for directory in report.kept:
        assert Path(directory, "script.sh").exists()
    run.store.transport.remove(run.settings.workdir)


@pytest.mark.cluster_lane("slurm")
@pytest.mark.parametrize("place", ["slurm"], indirect=True)
def test_program_needs_one_line(run_id: str, tmp_path: Path, slurm_cluster: RunningCluster) -> None:
    for name in ("first", "second", "third"):
        (tmp_path / name).touch()
    slurm_command(slurm_cluster, "scontrol", "release", "jobname=" + f"cj-{run_id}-3-after")
    line = f"from pytest_clusterjobs import cluster; print([job.result(60) for job in cluster.reconnect({run_id!r})])"
    argv = [sys.executable, "-c", line]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "['first', 'second', 'third']\n", done.stderr
    assert not (tmp_path / ".clusterjobs").exists()


@pytest.mark.cluster_lane("slurm")
@pytest.mark.parametrize("place", ["slurm"], indirect=True)
def test_report_of_a_pytest_that_reconnects_holds_both_runs_jobs(run_id: str, tmp_path: Path) -> None:
    """Both have a job 1: one of them was missing in the report."""
    (tmp_path / "first").touch()
    (tmp_path / "test_it.py").write_text(f"""
import pytest
from pytest_clusterjobs import cluster

@pytest.mark.real_world
def test_it(cluster_jobs):
    assert cluster.reconnect({run_id!r})[0].result(60) == "first"
    assert cluster_jobs.run("true").exit_code == 0
""")
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--cluster=slurm", "--cluster-report=report.json"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    jobs = [*report["other_jobs"], *(job for test in report["tests"] for job in test["jobs"])]
    states = {job["job_id"]: job["state"] for job in jobs}
    assert states == {
        "1": "COMPLETED",
        f"{run_id}.1": "COMPLETED",
        f"{run_id}.2": "CANCELLED",
        f"{run_id}.3": "CANCELLED",
    }
