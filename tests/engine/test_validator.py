"""The validator: what was asked for, given and found are compared, by evidence alone."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_clusterjobs import ClusterJobValidator, ValidationResult
from pytest_clusterjobs.backends import slurm as slurm_backend
from pytest_clusterjobs.backends.base import BackendSettings, Capability, Expectation, QueuedJob
from pytest_clusterjobs.backends.local import LocalBackend
from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.core.errors import SubmitError, UsageError
from pytest_clusterjobs.core.record import FROM_NODE, Transition, utc_now
from pytest_clusterjobs.core.resources import Resources
from pytest_clusterjobs.core.spec import make_spec
from pytest_clusterjobs.core.state import ExitReason, JobState, JobStatus
from pytest_clusterjobs.core.validation import Check, CheckVerdict
from pytest_clusterjobs.engine import clerk, validator_checks
from pytest_clusterjobs.engine.job import Job
from pytest_clusterjobs.engine.run import Run
from pytest_clusterjobs.engine.work import command_work
from pytest_clusterjobs.transports.local import LocalTransport

if TYPE_CHECKING:
    from tests.scripted import CANCELLED, PENDING, Stage, failed
else:
    from scripted import CANCELLED, PENDING, Stage, failed

RECORDED = Path(__file__).parents[1] / "backends" / "data" / "slurm"
HONOURED, EXCEEDED, SHORT = CheckVerdict.HONOURED, CheckVerdict.EXCEEDED, CheckVerdict.SHORT
MISMATCH, UNKNOWN = CheckVerdict.MISMATCH, CheckVerdict.UNKNOWN


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A run on the real local scheduler."""
    run = Run(Settings(workdir=str(tmp_path / "work"), keep="never"))
    yield run
    run.close()


@pytest.fixture
def validator() -> ClusterJobValidator:
    return ClusterJobValidator()


def call(run: Run, function: Any, *args: Any, **resources: Any) -> Job[Any]:
    return run.submit_call(function, args, {}, make_spec(**resources))


def verdicts(result: ValidationResult) -> dict[str, CheckVerdict]:
    return {check.name: check.verdict for check in result.checks}


# ---------------------------------------------------------------- all of it, on the local scheduler


def test_job_that_got_what_it_asked_for_is_valid_in_every_respect(run: Run, validator: ClusterJobValidator) -> None:
    job = call(run, abs, -3, cores=1, memory="200MB", time="00:02:00")
    result = validator.validate(job, 3)
    assert result
    assert result.success
    assert (result.errors, result.failed, result.failure) == ((), (), None)
    assert verdicts(result) == {
        "accepted": HONOURED,
        "name": HONOURED,
        "states": HONOURED,
        "end": HONOURED,
        "CLUSTERJOBS_NATIVE_ID": HONOURED,
        "cores": HONOURED,
        "memory": HONOURED,
        "nodes": HONOURED,
        "time limit": HONOURED,
        "value": HONOURED,
    }
    cores = result.check("cores")
    assert (cores.requested, cores.allocated, cores.observed) == (1, 1, 1)
    assert [each.state for each in result.history] == [JobState.PENDING, JobState.RUNNING, JobState.COMPLETED]
    assert job.validation is result


def test_elements_of_an_array_are_known_by_the_array_s_name(run: Run, validator: ClusterJobValidator) -> None:
    jobs = run.submit([command_work("true", make_spec())] * 3)
    results = [validator.validate(job) for job in jobs]
    assert all(results), validator.report()
    assert {result.check("name").allocated for result in results} == {jobs[0].record.submitted_as}
    assert jobs[2].record.name != jobs[2].record.submitted_as


def test_metrics_say_who_told_each_figure(run: Run) -> None:
    def work() -> int:
        with open(os.devnull, "wb") as sink:
            return sink.write(b"x" * 5_000_000)

    job = call(run, work, memory="300MB")
    assert job.result(30) == 5_000_000
    metrics = job.metrics
    assert metrics.written_bytes is not None
    assert 5_000_000 <= metrics.written_bytes < 6_000_000
    assert metrics.read_bytes is not None
    assert metrics.sources["written_bytes"] == FROM_NODE
    assert metrics.sources["allocated.memory_bytes"] == "the scheduler's queue"
    assert metrics.requested == Resources(1, 300 << 20, 0, 1)
    assert metrics.observed.cores == 1
    assert metrics.gpu_ids == ()
    assert metrics.unknown == {}
    known = {name for name in metrics.to_dict() if name not in ("sources", "unknown")}
    assert set(metrics.sources) - known == {f"allocated.{name}" for name in metrics.allocated.known()}


# ---------------------------------------------------------------- output


def test_value_is_compared_with_a_tolerance_inside_containers(run: Run, validator: ClusterJobValidator) -> None:
    def work() -> dict[str, Any]:
        return {"mean": 5.5, "all": [0.1 + 0.2, 1], "name": "x", "nan": float("nan")}

    job = call(run, work)
    wanted = {"mean": 5.5, "all": [0.3, 1], "name": "x", "nan": float("nan")}
    assert validator.validate_output(job, wanted, approx=1e-9)
    exact = validator.validate_output(job, wanted)
    assert not exact
    assert exact.check("value").verdict is MISMATCH
    assert not validator.validate_output(job, {**wanted, "more": 1}, approx=1e-9)
    assert not validator.validate_output(job, {**wanted, "all": [0.3]}, approx=1e-9)


@pytest.mark.parametrize(
    ("found", "wanted", "tolerance", "is_same"),
    [
        (1.0, math.inf, 1e-6, False),  # a part of infinity is infinity
        (-math.inf, math.inf, 1e-6, False),
        (math.inf, math.inf, 0.0, True),
        (math.inf, 1.0, 1e-6, False),
        (math.nan, 1.0, 0.5, False),
        (1 + 2j, 1 + 2.0000001j, 1e-6, True),
        (1 + 2j, 1 + 2.1j, 1e-6, False),
        (10**400 + 1, 10**400, 0.0, False),  # no floating-point number is as large
        (10**400 + 1, 10**400, 1e-9, True),
        (1.5, 10**400, 1e-9, False),
        (10**400, 1.5, 1e-9, False),
    ],
)
def test_numbers_of_any_size_are_compared(found: Any, wanted: Any, tolerance: float, is_same: bool) -> None:
    assert validator_checks.is_close(found, wanted, tolerance) is is_same
    assert validator_checks.is_close([found], [wanted], tolerance) is is_same


def test_none_can_be_what_is_expected(run: Run, validator: ClusterJobValidator) -> None:
    assert validator.validate_output(call(run, print, "x"), None)
    assert not validator.validate_output(call(run, abs, 1), None)


def test_predicate_decides(run: Run, validator: ClusterJobValidator) -> None:
    def is_even(number: int) -> bool:
        return number % 2 == 0

    job = call(run, abs, -4)
    assert validator.validate_output(job, predicate=is_even)
    result = validator.validate_output(job, predicate=lambda number: number > 5)
    assert result.check("predicate").observed == 4
    assert not result


def test_files_that_a_job_leaves_are_looked_at(run: Run, validator: ClusterJobValidator, tmp_path: Path) -> None:
    there, absent = tmp_path / "out.txt", tmp_path / "absent.txt"
    job = run.submit_command(f"printf '3 lines' > {there}; echo said", make_spec())
    wanted = {str(there): "3 lines", "stdout.log": lambda data: data == b"said\n"}
    assert validator.validate_output(job, files=wanted)
    assert validator.validate_output(job, files=[str(there)])
    result = validator.validate_output(job, files={str(there): b"other", str(absent): None})
    assert [check.name for check in result.failed] == [str(there), str(absent)]
    assert result.check(str(absent)).why == "the job left no such file"


def test_files_are_looked_for_where_a_job_was_started(
    run: Run, validator: ClusterJobValidator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that a job had written into its working directory were said not to be there."""
    monkeypatch.chdir(tmp_path)
    job = run.submit_command(["sh", "-c", "mkdir folder; printf 1 > folder/one; printf 2 > two"], make_spec())
    assert job.wait(30)
    monkeypatch.chdir("/")
    assert validator.validate_output(job, files={"folder/one": "1", "two": "2", "stdout.log": ""})
    assert validator.validate_output(job, files="two").check("two").verdict is HONOURED
    result = validator.validate_output(job, files=["three", "folder"])
    assert [(check.name, check.verdict) for check in result.failed] == [("three", MISMATCH), ("folder", MISMATCH)]
    assert "Is a directory" in result.check("folder").why


def test_job_that_raised_has_no_valid_output(run: Run, validator: ClusterJobValidator) -> None:
    result = validator.validate_output(call(run, int, "x"), 1)
    assert "ValueError: invalid literal" in result.errors[0]


# ---------------------------------------------------------------- errors


def test_each_way_to_fail_has_its_category(run: Run, validator: ClusterJobValidator) -> None:
    jobs = {
        "exception": call(run, int, "x"),
        "nonzero_exit": run.submit_command("exit 7", make_spec()),
        "signal": run.submit_command("kill -USR1 $$", make_spec()),
        "timeout": run.submit_command("exec sleep 60", make_spec(time=1)),
        "cancelled": run.submit_command("exec sleep 60", make_spec()),
    }
    jobs["cancelled"].cancel()
    found = {}
    for category, job in jobs.items():
        assert job.wait(30)
        failure = validator.classify_error(job)
        assert failure is not None
        assert failure.category == category
        assert job.record.name in str(failure)
        assert not failure.is_infrastructure
        found[category] = failure
    assert found["exception"].exception_type == "ValueError"
    assert found["nonzero_exit"].exit_code == 7
    assert found["signal"].signal == signal.SIGUSR1
    assert found["cancelled"].cancelled_by == "us"
    assert found["timeout"].cancelled_by == ""


def test_completed_and_unfinished_jobs_have_no_error(run: Run, validator: ClusterJobValidator) -> None:
    job = run.submit_command("exec sleep 60", make_spec())
    assert validator.classify_error(job) is None
    job.cancel()
    done = call(run, abs, 1)
    assert done.wait(30)
    assert validator.classify_error(done) is None


@pytest.mark.parametrize(
    ("status", "category", "is_infrastructure", "by"),
    [
        (failed(ExitReason.OUT_OF_MEMORY), "out_of_memory", False, ""),
        (failed(ExitReason.NODE_FAILURE), "node_failure", True, ""),
        (failed(ExitReason.PREEMPTED), "preempted", True, ""),
        (failed(ExitReason.DEADLINE), "timeout", False, ""),
        (failed(ExitReason.LAUNCH_FAILURE), "infrastructure", True, ""),
        (slurm_backend.status_of("CANCELLED by 1000"), "cancelled", False, "uid 1000"),
        (CANCELLED, "cancelled", False, "somebody else"),
    ],
    ids=lambda value: getattr(value, "native_word", ""),
)
def test_what_the_scheduler_did_is_told(
    stage: Stage, validator: ClusterJobValidator, status: JobStatus, category: str, is_infrastructure: bool, by: str
) -> None:
    job = stage.started()
    stage.backend.says(job.native_id, status)
    stage.pass_time(90)
    failure = validator.classify_error(job)
    assert failure is not None
    assert (failure.category, failure.cancelled_by) == (category, by)
    assert failure.is_infrastructure is is_infrastructure


def test_refused_and_lost_jobs_are_told(stage: Stage, validator: ClusterJobValidator) -> None:
    stage.backend.errors.append(SubmitError("no such partition", "scripted"))
    with pytest.raises(SubmitError):
        stage.call()
    refused: Job[Any] = Job(stage.run, stage.run.records[0])
    failure = validator.classify_error(refused)
    assert failure is not None
    assert failure.category == "submit_refused"
    assert "no such partition" in validator.validate_submission(refused).errors[0]
    lost = stage.started()
    del stage.backend.queue[lost.native_id]
    stage.pass_time(200)
    failure = validator.classify_error(lost)
    assert failure is not None
    assert (failure.category, failure.is_infrastructure) == ("lost", True)


def test_queue_timeout_is_a_category_of_its_own(stage: Stage, validator: ClusterJobValidator) -> None:
    job = stage.call(queue_timeout=10)
    stage.pass_time(60)
    failure = validator.classify_error(job)
    assert failure is not None
    assert failure.category == "queue_timeout"


# ---------------------------------------------------------------- resources


def given(stage: Stage, resources: Resources, start: dict[str, Any] | None = None, **asked: Any) -> Job[Any]:
    """Have a job end to which the queue counts resources, and which found something on its node."""
    job = stage.started(**asked)
    stage.backend.says(job.native_id, JobStatus(JobState.RUNNING, "R", nodes="n1", resources=resources))
    stage.pass_time(10)
    Path(job.record.directory, "start.json").write_text(json.dumps({"node": "n1", **(start or {})}))
    stage.finish(job, 1)
    return job


def test_whole_node_for_one_core_is_a_mismatch_with_both_numbers(stage: Stage, validator: ClusterJobValidator) -> None:
    """``scontrol show job`` of a real 22.05, of a job with --exclusive that asked for one CPU."""
    status = slurm_backend.parse_scontrol((RECORDED / "scontrol-22.05-whole-node.txt").read_text())
    assert status is not None
    assert status.resources is not None
    job = given(stage, status.resources, {"cpus": list(range(8))})
    result = validator.validate_resources(job)
    check = result.check("cores")
    assert (check.requested, check.allocated, check.observed, check.verdict) == (1, 8, 8, EXCEEDED)
    assert not result
    assert "cores: requested 1, allocated 8" in result.errors[0]
    assert validator.validate_resources(job, may_exceed=True)


def test_whole_cores_of_two_threads_are_no_excess(stage: Stage, validator: ClusterJobValidator) -> None:
    job = given(stage, Resources(cores=2), {"cpus": [0, 1], "threads_per_core": 2}, cores=1)
    assert validator.validate_resources(job).check("cores").verdict is HONOURED


@pytest.mark.parametrize(
    ("asked", "resources", "start", "name", "verdict"),
    [
        ({"cores": 4}, Resources(cores=2), {}, "cores", SHORT),
        ({"cores": 4}, Resources(cores=4), {"cpus": [0, 1]}, "cores", SHORT),
        ({"cores": 2}, Resources(), {"cpus": [0, 1], "cgroup": {"cpu.max": "100000 100000"}}, "cores", SHORT),
        ({"cores": 2}, Resources(cores=2), {"cpus": [0, 1, 2, 3]}, "cores", HONOURED),
        ({"cores": 2}, Resources(), {}, "cores", UNKNOWN),
        ({"memory": "1GB"}, Resources(), {"cgroup": {"memory.max": str(2**29)}}, "memory", SHORT),
        ({"memory": "1GB"}, Resources(), {"rlimits": {"RLIMIT_AS": [2**29, -1]}}, "memory", SHORT),
        ({"memory": "1GB"}, Resources(), {"memory_bytes": 2**29}, "memory", SHORT),
        ({"memory": "0.3GB"}, Resources(), {"cgroup": {"memory.max": "322121728"}}, "memory", HONOURED),  # whole pages
        ({"memory": "1GB"}, Resources(), {"cgroup": {"memory.max": str(2**30 - 2**16)}}, "memory", SHORT),
        ({"memory": "1GB"}, Resources(), {"cgroup": {"memory.max": "max"}}, "memory", UNKNOWN),
        ({"memory": "1GB"}, Resources(memory_bytes=2**30), {"memory_bytes": 2**34}, "memory", HONOURED),
        ({"gpus": 2}, Resources(gpus=2), {"gpus": ["nvidia0"]}, "gpus", SHORT),
        ({"gpus": 1}, Resources(gpus=2), {"gpus": ["nvidia0", "nvidia1"]}, "gpus", EXCEEDED),
        ({"nodes": 2}, Resources(nodes=1), {}, "nodes", SHORT),
        ({"nodes": 2}, Resources(nodes=2), {}, "nodes", HONOURED),
    ],
)
def test_each_quantity_has_its_verdict(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    validator: ClusterJobValidator,
    asked: dict[str, Any],
    resources: Resources,
    start: dict[str, Any],
    name: str,
    verdict: CheckVerdict,
) -> None:
    monkeypatch.setattr(stage.backend, "capabilities", frozenset(Capability))
    result = validator.validate_resources(given(stage, resources, start, **asked))
    assert result.check(name).verdict is verdict
    assert bool(result) is (verdict in (HONOURED, UNKNOWN))


def test_partition_is_one_of_those_that_were_named() -> None:
    def verdict(asked: str, got: str | None) -> CheckVerdict:
        check = validator_checks._partition(asked, got)
        assert check is not None
        return check.verdict

    assert verdict("long", "long") is verdict("short,long", "long") is verdict("all.q@node1", "all.q") is HONOURED
    assert verdict("long", "short") is MISMATCH
    assert verdict("long", None) is UNKNOWN


def test_what_a_backend_cannot_do_is_unknown_and_not_its_failure(run: Run, validator: ClusterJobValidator) -> None:
    result = validator.validate(call(run, abs, 1, partition="anywhere"))
    assert result.check("partition").verdict is UNKNOWN
    assert result.check("partition").why == "the backend has no partitions"
    assert result


# ---------------------------------------------------------------- environment


START = {
    "environment": {"SLURM_JOB_ID": "7", "PBS_NODEFILE": "/spool/7", "PE_HOSTFILE": "/spool/8", "QUEUE": "all.q"},
    "files": {"PBS_NODEFILE": ["n1", "n1"], "PE_HOSTFILE": ["n1 2 all.q@n1 UNDEFINED"], "namespace": ["tests"]},
    "variables": ["HOME", "MINE", "SLURM_JOB_ID"],
}


@pytest.mark.parametrize(
    ("name", "expected", "verdict"),
    [
        ("SLURM_JOB_ID", Expectation("7"), HONOURED),
        ("SLURM_JOB_ID", Expectation("8"), MISMATCH),
        ("SLURM_JOB_ID", Expectation(), HONOURED),
        ("SLURM_JOB_NAME", Expectation(), MISMATCH),
        ("QUEUE", Expectation(pattern="all[.]q|short"), HONOURED),
        ("QUEUE", Expectation(pattern="short"), MISMATCH),
        ("PBS_NODEFILE", Expectation(lines=2), HONOURED),
        ("PBS_NODEFILE", Expectation(lines=3), MISMATCH),
        ("PE_HOSTFILE", Expectation(slots=2), HONOURED),
        ("PE_HOSTFILE", Expectation(slots=1), MISMATCH),
        ("QUEUE", Expectation(lines=1), MISMATCH),  # names no file that the job saw
        ("namespace", Expectation("tests"), HONOURED),
        ("namespace", Expectation("default"), MISMATCH),
        ("QUEUE", Expectation("short", is_optional=True), MISMATCH),
    ],
)
def test_a_variable_is_held_to_its_contract(name: str, expected: Expectation, verdict: CheckVerdict) -> None:
    (check,) = validator_checks.environment({name: expected}, START, {}, {})
    assert check.verdict is verdict


def test_what_is_optional_may_be_absent() -> None:
    expected = {"namespace": Expectation("tests", is_optional=True), "ABSENT": Expectation("1", is_optional=True)}
    assert [check.name for check in validator_checks.environment(expected, START, {}, {})] == ["namespace"]
    assert validator_checks.environment(expected, {"environment": {"A": "1"}}, {}, {}) == []


def test_required_variables_are_looked_for(run: Run, validator: ClusterJobValidator) -> None:
    job = call(run, abs, 1, env={"MINE": "secret"})
    assert job.wait(30)
    assert validator.validate_environment(job, ["MINE", "PATH"])
    assert validator.validate_environment(job, "MINE").check("MINE").verdict is HONOURED
    wanted = {"MINE": "secret", "OMP_NUM_THREADS": "1", "CLUSTERJOBS_JOB_ID": "1", "PATH": "/bin"}
    result = validator.validate_environment(job, wanted)
    assert [check.name for check in result.failed] == ["OMP_NUM_THREADS"]
    assert result.check("MINE").verdict is result.check("CLUSTERJOBS_JOB_ID").verdict is HONOURED
    assert result.check("PATH").verdict is UNKNOWN


def test_a_required_value_that_env_does_not_give_fails_and_shows_nothing(
    run: Run, validator: ClusterJobValidator
) -> None:
    """It was unknown, which fails nothing."""
    job = call(run, abs, 1, env={"MINE": "secret"})
    assert job.wait(30)
    result = validator.validate_environment(job, {"MINE": "1"})
    assert result.check("MINE").verdict is MISMATCH
    assert "secret" not in result.table()


def test_job_without_a_word_of_its_start_is_unknown(stage: Stage, validator: ClusterJobValidator) -> None:
    result = validator.validate_environment(stage.call(), ["PATH"])
    assert [check.verdict for check in result.checks] == [UNKNOWN]
    assert result


# ---------------------------------------------------------------- states and submission


def test_states_are_watched_to_the_end(run: Run, validator: ClusterJobValidator) -> None:
    job = run.submit_command("sleep 0.3", make_spec())
    result = validator.monitor(job, timeout_s=30)
    assert result.check("states").observed == "PENDING > RUNNING > COMPLETED"
    first, *others = [each.native_word for each in result.history]
    assert first in ("", "PENDING")  # it may have started before the scheduler was asked
    assert others == ["RUNNING", "EXITED"]
    assert [each.at for each in result.history] == sorted(each.at for each in result.history)


def test_monitor_of_an_unfinished_job_tells_what_was_seen_so_far(run: Run, validator: ClusterJobValidator) -> None:
    job = run.submit_command("exec sleep 60", make_spec())
    deadline = time.monotonic() + 20
    while job.state is not JobState.RUNNING and time.monotonic() < deadline:
        time.sleep(0.01)
    result = validator.monitor(job)
    assert result.check("states").observed == "PENDING > RUNNING"
    assert result
    ended = validator.validate(job, timeout_s=0.1)
    assert ended.check("end").why == "not within 0.1 s"
    assert not ended


def test_requeue_is_in_the_history_and_counts_as_a_restart(stage: Stage, validator: ClusterJobValidator) -> None:
    job = stage.started()
    stage.backend.says(job.native_id, PENDING)
    stage.pass_time(31)
    stage.start(job)
    stage.finish(job, 1)
    result = validator.monitor(job)
    assert result.check("states").observed == "PENDING > RUNNING > PENDING > RUNNING > COMPLETED"
    assert result
    job.metrics.restarts = 0
    result = validator.monitor(job)
    assert (result.check("restarts").verdict, bool(result)) == (MISMATCH, True)
    assert "fewer starts than were seen" in "".join(result.warnings)


@pytest.mark.parametrize(
    "names", ["RUNNING > COMPLETED > RUNNING", "PENDING > COMPLETED > FAILED", "PENDING > NEW", "LOST > COMPLETED"]
)
def test_impossible_orders_of_states_are_seen(names: str) -> None:
    history = [Transition(JobState(name), utc_now()) for name in names.split(" > ")]
    (check,) = validator_checks.states(history, 0)
    assert check.verdict is MISMATCH
    assert " after " in check.why


def test_times_that_run_backwards_are_seen() -> None:
    now = utc_now()
    late = [Transition(JobState.PENDING, now), Transition(JobState.RUNNING, now - timedelta(seconds=9))]
    assert [check.name for check in validator_checks.states(late, 0) if check.is_failure] == ["times"]
    of_node = [late[0], late[1]._replace(source=FROM_NODE)]
    assert all(not check.is_failure for check in validator_checks.states(of_node, 0))


def test_clock_of_a_node_that_is_behind_is_a_warning(stage: Stage, validator: ClusterJobValidator) -> None:
    job = stage.started()
    stage.finish(job, 1)  # its envelope says that it started in 1970
    result = validator.monitor(job)
    assert "the node's clock is" in result.warnings[0]
    assert result


def test_submission_of_a_waiting_job_asks_one_bulk_query(stage: Stage, validator: ClusterJobValidator) -> None:
    asked = Resources(cores=1, nodes=1)
    job = stage.call()
    stage.backend.says(job.native_id, JobStatus(JobState.PENDING, "PD", resources=asked))
    before = len(stage.backend.queries)
    for _ in range(3):
        result = validator.validate_submission(job)
        assert result
        assert result.check("name").allocated == job.record.name
        assert result.check("cores").allocated == 1
    assert len(stage.backend.queries) == before + 1


def test_submission_under_another_name_or_with_other_resources_is_seen(
    stage: Stage, validator: ClusterJobValidator
) -> None:
    job = stage.call(cores=2)
    stage.backend.says(job.native_id, JobStatus(JobState.PENDING, "PD", resources=Resources(cores=1)))
    result = validator.validate_submission(job)
    assert [check.name for check in result.failed] == ["cores"]
    job.record.seen_as = "somebody-elses"
    assert "name" in [check.name for check in validator.validate_submission(job).failed]


def test_validation_of_ended_jobs_asks_the_scheduler_nothing(stage: Stage, validator: ClusterJobValidator) -> None:
    jobs = [stage.started() for _ in range(5)]
    for job in jobs:
        stage.finish(job, 1)
    before = (len(stage.backend.queries), len(stage.backend.explained))
    for job in jobs:
        validator.validate(job)
    assert (len(stage.backend.queries), len(stage.backend.explained)) == before


# ---------------------------------------------------------------- results


def test_a_result_reads_as_a_table_of_what_failed(run: Run, validator: ClusterJobValidator) -> None:
    job = run.submit_command("exit 3", make_spec())
    result = validator.validate(job, required=["NOWHERE"])
    head, titles, *rows = str(result).splitlines()
    assert head == f"{job.record.name} on local: 2 of 8 checks failed"
    assert titles.split() == ["check", "requested", "allocated", "observed", "verdict"]
    assert [row.split()[0] for row in rows] == ["end", "NOWHERE"]
    assert repr(result) == (
        f"<ValidationResult {job.record.name}: 2 of 8 checks failed: end mismatch, NOWHERE mismatch>"
    )
    assert len(result.table().splitlines()) == 9
    with pytest.raises(KeyError, match="no check 'coers'; there are: accepted, name"):
        result.check("coers")


def test_a_test_may_allow_a_job_to_fail(run: Run, validator: ClusterJobValidator) -> None:
    result = validator.validate(run.submit_command("exit 3", make_spec()), may_fail=True)
    assert result
    assert result.failure is not None
    assert result.failure.exit_code == 3


def test_report_tells_failures_warnings_and_waste(run: Run, validator: ClusterJobValidator) -> None:
    validator.validate(call(run, abs, 1, memory="1GB", time="10:00:00"))
    validator.validate(run.submit_command("exit 3", make_spec()))
    text = validator.report()
    assert text.startswith("2 validations, 1 failed\n")
    assert "  failure: nonzero_exit: " in text
    assert "  hint: it asks for 1 GiB and uses " in text
    assert "  hint: it asks for 10 h 00 m and runs 0.0" in text


def test_a_validator_for_one_backend_refuses_jobs_of_another(run: Run) -> None:
    other = LocalBackend(LocalTransport(), BackendSettings())
    job = call(run, abs, 1)
    with pytest.raises(UsageError, match="runs on local; this validator is for another local"):
        ClusterJobValidator(other).validate(job)
    with pytest.raises(UsageError, match="runs on local; this validator is for slurm"):
        ClusterJobValidator("slurm").validate_resources(job)
    assert ClusterJobValidator(run.backend("local")).validate(job)
    assert ClusterJobValidator("local").validate(job)


def test_what_failed_stays_on_the_job(run: Run, validator: ClusterJobValidator) -> None:
    job = call(run, abs, 1)
    bad = validator.validate_output(job, 2)
    assert validator.validate_output(job, 1)
    assert job.validation is bad


def test_a_check_gives_json_types_alone_and_few_of_a_large_value() -> None:
    check = Check("value", MISMATCH, {1, 2}, None, list(range(10**6)), "another")
    told = json.loads(json.dumps(check.to_dict()))
    assert told["requested"] == "{1, 2}"
    assert told["observed"] == "[0, 1, 2, 3, 4, 5, ...]"
    assert Check("x", MISMATCH, "y" * 100).cells()[1] == "y" * 57 + "..."


@pytest.mark.parametrize(
    "value", [math.nan, -math.inf, 10**400, 10**5000, [10**5000]], ids=["nan", "inf", "long", "longest", "in a list"]
)
def test_a_number_that_json_has_not_becomes_a_text(value: Any) -> None:
    check = Check("value", MISMATCH, 1.5, None, value)
    told = json.loads(json.dumps(check.to_dict(), allow_nan=False))
    assert (told["requested"], type(told["observed"])) == (1.5, str)
    assert len(check.cells()[3]) <= 60


def test_resources_cross_between_the_workers_of_a_run() -> None:
    for resources in (None, Resources(), Resources(4, 2**30, 1, 2, 60.0, "main")):
        queued = QueuedJob("cj-x", JobStatus(JobState.RUNNING, "R", nodes="n1", restarts=1, resources=resources))
        assert clerk._queued_from(json.loads(json.dumps(clerk._queued_to(queued)))) == queued
