"""The validator on real schedulers: their own words, hard limits and real mistakes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.clusters.base import RunningCluster
from pytest_clusterjobs.config.place import Place
from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.core.spec import make_spec
from pytest_clusterjobs.core.state import JobState
from pytest_clusterjobs.core.validation import CheckVerdict
from pytest_clusterjobs.engine.job import Job
from pytest_clusterjobs.engine.run import Run
from pytest_clusterjobs.engine.validator import ClusterJobValidator
from tests import watching
from tests.days import run_on

wait_for = partial(watching.wait_for, within_s=60)

#: What a test asks for on each, within what the machine that plays the node can give.
ASKED: dict[str, Any] = {"cores": 2, "memory": "300MB", "time": "00:05:00"}


def held_until(path: Path) -> str:
    return f"while [ ! -e {path} ]; do sleep 0.1; done"


def released(job: Job[Any], path: Path) -> None:
    path.touch()
    assert job.wait(60)


@pytest.fixture
def validator() -> ClusterJobValidator:
    return ClusterJobValidator()


@pytest.mark.cluster_lane("slurm")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="jobs of two cores need two")
class TestSlurm:
    @pytest.fixture
    def run(self, slurm: RunningCluster, tmp_path: Path) -> Iterator[Run]:
        with run_on("slurm", tmp_path / "work", lost_after_s=10) as run:
            yield run

    def test_everything_about_a_job_that_queries_saw(
        self, run: Run, validator: ClusterJobValidator, tmp_path: Path
    ) -> None:
        job = run.submit_command(held_until(tmp_path / "go"), make_spec(partition="urgent", **ASKED))
        wait_for(lambda: job.state is JobState.RUNNING and job.record.native_word == "RUNNING")
        submission = validator.validate_submission(job)
        assert submission, str(submission)
        assert submission.check("name").allocated == job.record.name
        assert submission.check("time limit").allocated == 300
        released(job, tmp_path / "go")
        result = validator.validate(job)
        assert result, str(result)
        unknown = [check.name for check in result.checks if check.verdict is CheckVerdict.UNKNOWN]
        assert unknown == []
        names = {check.name for check in result.checks}
        assert {"SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "SLURM_JOB_NAME", "SLURM_MEM_PER_NODE"} <= names
        assert result.check("partition").allocated == "urgent"
        assert job.metrics.sources["allocated.cores"] == "the scheduler's queue"
        assert job.metrics.sources["allocated.memory_bytes"] == "what the scheduler told the job"

    def test_whole_node_for_one_core_fails(self, run: Run, validator: ClusterJobValidator, tmp_path: Path) -> None:
        spec = make_spec(cores=1, extra_directives=["--exclusive"])
        result = validator.validate(run.submit_command("true", spec))
        check = result.check("cores")
        assert (check.requested, check.allocated, check.verdict) == (1, 4, CheckVerdict.EXCEEDED)
        assert not result
        assert validator.validate_resources(run.submit_command("true", spec), may_exceed=True)

    def test_directive_that_takes_the_cores_away_is_seen(self, run: Run, validator: ClusterJobValidator) -> None:
        job = run.submit_command("true", make_spec(cores=2, extra_directives=["--cpus-per-task=1"]))
        failed = {check.name: check.verdict for check in validator.validate(job).failed}
        assert failed == {"SLURM_CPUS_PER_TASK": CheckVerdict.MISMATCH, "cores": CheckVerdict.SHORT}

    def test_who_cancelled_a_job_is_told(self, run: Run, validator: ClusterJobValidator, tmp_path: Path) -> None:
        job = run.submit_command(held_until(tmp_path / "never"), make_spec())
        wait_for(lambda: job.state is JobState.RUNNING)
        subprocess.run(["scancel", job.native_id], check=True, timeout=30)
        assert job.wait(60)
        failure = validator.classify_error(job)
        assert failure is not None
        assert failure.category == "cancelled"
        assert failure.cancelled_by not in ("", "us")
        assert job.record.history[-1].state is JobState.CANCELLED

    def test_validating_asks_slurm_nothing(
        self, run: Run, validator: ClusterJobValidator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = run.submit_command("true", make_spec())
        assert job.wait(60)
        monkeypatch.setenv("PATH", str(tmp_path))  # no squeue, no sacct, no scontrol
        assert validator.validate(job)


@pytest.mark.cluster_lane("sge")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="jobs of two cores need two")
class TestSge:
    @pytest.fixture
    def run(self, sge: RunningCluster, tmp_path: Path) -> Iterator[Run]:
        with run_on("sge", tmp_path / "work", lost_after_s=10) as run:
            yield run

    def test_everything_about_a_job_that_queries_saw(
        self, run: Run, validator: ClusterJobValidator, tmp_path: Path
    ) -> None:
        job = run.submit_command(held_until(tmp_path / "go"), make_spec(queue="all.q", **ASKED))
        wait_for(lambda: job.state is JobState.RUNNING and job.record.native_word == "r")
        released(job, tmp_path / "go")
        result = validator.validate(job)
        assert result, str(result)
        assert result.check("PE_HOSTFILE").observed == "2 slots"
        assert result.check("SGE_TASK_ID").observed == "undefined"
        assert result.check("partition").allocated == "all.q"
        memory = result.check("memory")  # h_vmem of each slot, and RLIMIT_AS of both together
        assert (memory.requested, memory.allocated, memory.observed) == (300 << 20, 300 << 20, 300 << 20)
        assert result.check("time limit").allocated == 300
        assert [check.name for check in result.checks if check.verdict is CheckVerdict.UNKNOWN] == []

    def test_limits_that_another_word_takes_away_are_seen(
        self, run: Run, validator: ClusterJobValidator, tmp_path: Path
    ) -> None:
        """Grid Engine tells a job neither; they were unknown."""
        spec = make_spec(memory="300MB", time="00:05:00", extra_args=["-l", "h_rt=60,h_vmem=200M"])
        job = run.submit_command(held_until(tmp_path / "go"), spec)
        wait_for(lambda: job.state is JobState.RUNNING and job.record.native_word == "r")
        released(job, tmp_path / "go")
        failed = {check.name: (check.verdict, check.allocated) for check in validator.validate(job).failed}
        short = CheckVerdict.SHORT
        assert failed == {"memory": (short, 200 << 20), "time limit": (short, 60)}

    def test_more_slots_than_were_asked_for_are_seen(self, run: Run, validator: ClusterJobValidator) -> None:
        job = run.submit_command("true", make_spec(cores=1, extra_directives=["-pe smp 2"]))
        failed = {check.name for check in validator.validate(job).failed}
        assert failed == {"NSLOTS", "cores"}


@pytest.mark.cluster_lane("kubernetes")
@pytest.mark.usefixtures("kubernetes")
class TestKubernetes:
    @pytest.fixture
    def run(self, tmp_path: Path) -> Iterator[Run]:
        options = {"cpu_request": "100m", "shared_volume": f"hostpath:{tmp_path}:{tmp_path}"}
        places = {
            "private": Place("private", "kubernetes", options={"cpu_request": "100m"}),
            "shared": Place("shared", "kubernetes", options=options),
        }
        run = Run(Settings(workdir=str(tmp_path / "work")), places=places.__getitem__)
        run.select("private")
        yield run
        assert run.close().leaked == []

    def test_limits_and_deadline_of_the_pod_are_what_it_was_given(
        self, run: Run, validator: ClusterJobValidator
    ) -> None:
        """Nobody told them."""
        job = run.submit_call(abs, (-1,), {}, make_spec(cores=2, memory="300MB", time="00:01:30"))
        result = validator.validate(job, 1)
        assert result, str(result)
        given = {name: result.check(name).allocated for name in ("cores", "memory", "nodes", "time limit")}
        assert given == {"cores": 2, "memory": 300 << 20, "nodes": 1, "time limit": 90}
        assert job.metrics.sources["allocated.cores"] == "the scheduler's queue"
        failed = run.submit_command("exit 3", make_spec(memory="300MB"))
        assert failed.wait(60)
        assert failed.metrics.allocated.memory_bytes == 300 << 20

    def test_memory_of_no_whole_pages_is_what_was_asked_for(self, run: Run, validator: ClusterJobValidator) -> None:
        """The kernel rounds the limit down to pages, and that was called short."""
        result = validator.validate(run.submit_call(abs, (-1,), {}, make_spec(memory=200_000_001)), 1)
        assert result, str(result)
        assert result.check("memory").observed == 199_999_488

    def test_files_that_are_gone_with_the_pod_are_unknown(self, run: Run, validator: ClusterJobValidator) -> None:
        job = run.submit_command("printf 1 > one", make_spec())
        result = validator.validate_output(job, files={"one": "1", "stdout.log": ""})
        assert result.check("stdout.log").verdict is CheckVerdict.HONOURED
        assert result.check("one").verdict is CheckVerdict.UNKNOWN
        assert "have the job return or print what is in them" in result.check("one").why

    def test_files_on_a_shared_volume_are_known(self, run: Run, validator: ClusterJobValidator) -> None:
        run.select("shared")
        result = validator.validate_output(
            run.submit_command("printf 1 > one", make_spec()), files={"one": "1", "two": None}
        )
        assert result.check("one").verdict is CheckVerdict.HONOURED
        assert [check.name for check in result.failed] == ["two"]


@pytest.mark.cluster_lane("slurm")
@pytest.mark.usefixtures("slurm")
@pytest.mark.parametrize("options", [["--cluster=local,slurm"], ["--cluster=slurm", "-n2"]], ids=" ".join)
def test_every_job_of_a_varied_suite_keeps_its_contract(tmp_path: Path, options: list[str]) -> None:
    shutil.copytree(Path(__file__).parent / "varied", tmp_path / "project")
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--cluster-validate", *options]
    done = subprocess.run(argv, cwd=tmp_path / "project", capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
