"""A job is a future: it waits in bounded time, gives the same object each time, and calls back exactly once."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_clusterjobs.core.errors import JobFailed, PayloadError, StoreError, WaitTimeout
from pytest_clusterjobs.core.spec import JobSpec, make_spec
from pytest_clusterjobs.core.state import JobState
from pytest_clusterjobs.engine.job import Job, JobArray, requested_text
from pytest_clusterjobs.engine.work import command_work
from pytest_clusterjobs.node import packing, runner

if TYPE_CHECKING:
    from tests.scripted import Stage
else:
    from scripted import Stage


def called(stage: Stage) -> None:
    """Have every callback so far called."""
    stage.run.callbacks.stop()
    stage.run.callbacks._thread = None


# ---------------------------------------------------------------- waiting and values


def test_wait_ends_in_time_and_says_where_the_job_is(stage: Stage) -> None:
    job = stage.command()
    job.record.detail = "Priority"
    assert job.wait(0.01) is False
    with pytest.raises(WaitTimeout, match=r"has not ended within 0\.01 s \(PENDING, Priority\); it goes on"):
        job.result(0.01)
    assert isinstance(WaitTimeout("x"), TimeoutError)


def test_wait_of_an_ended_job_returns_at_once(stage: Stage) -> None:
    job = stage.started()
    stage.finish(job, [1])
    assert job.wait(0)
    assert job.exception(0) is None
    assert job.result(0) is job.result(0)


def test_waiter_in_another_thread_is_woken(stage: Stage) -> None:
    job = stage.started()
    values: list[int] = []
    thread = threading.Thread(target=lambda: values.append(job.result(20)))
    thread.start()
    stage.finish(job, 5)
    thread.join(20)
    assert values == [5]


def test_exception_is_the_same_object_with_the_same_traceback_each_time(stage: Stage) -> None:
    job = stage.started()
    stage.mark(job, 3)
    stage.turn()
    with pytest.raises(JobFailed) as first:
        job.result(0)
    with pytest.raises(JobFailed) as second:
        job.result(0)
    assert first.value is second.value is job.exception(0)
    assert len(first.traceback) == len(second.traceback)


def test_value_that_cannot_be_unpickled_here_says_so(stage: Stage) -> None:
    job = stage.started()
    header = {"outcome": "value", "exit_code": 0}
    path = str(Path(job.record.directory, "result.cj"))
    runner.write_envelope(path, header, {"value": b"cnot_here\nf\n."}, fsync=False)
    stage.mark(job, 0)
    stage.turn()
    with pytest.raises(PayloadError, match=r"its value cannot be unpickled here: ModuleNotFoundError.*not_here"):
        job.result(0)


def test_damaged_value_is_never_unpickled(stage: Stage) -> None:
    job = stage.started()
    stage.envelope(job, "a value")
    path = Path(job.record.directory, "result.cj")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    stage.mark(job, 0)
    stage.turn()
    with pytest.raises(StoreError, match="damaged"):
        job.result(0)


def test_warning_of_a_class_that_is_not_here_costs_no_value(stage: Stage) -> None:
    """Unpickling the warning raised, each time the result was asked for."""
    job = stage.started()
    header, segments = packing.pack_value(5, [])
    segments["warnings"] = b"cnot_here\nf\n."
    runner.write_envelope(str(Path(job.record.directory, "result.cj")), header, segments, fsync=False)
    stage.mark(job, 0)
    stage.turn()
    assert job.result(0) == 5
    assert job.warnings == []


def test_space_of_a_large_loaded_value_is_freed_unless_it_is_to_be_kept(stage: Stage) -> None:
    plain, kept, small = stage.started(), stage.started(keep="always"), stage.started()
    large = bytes(2**20 + 1)
    for job, value in ((plain, large), (kept, large), (small, b"")):
        stage.finish(job, value)
        job.result(0)
    assert [Path(job.record.directory, "result.cj").exists() for job in (plain, kept, small)] == [False, True, True]
    assert plain.result(0) == large


def test_job_names_itself(stage: Stage) -> None:
    job = stage.command()
    assert repr(job) == "<Job cj-0badcafe-1-true scripted:1 PENDING>"
    assert (job.job_id, job.native_id) == ("1", "1")


def test_logs_are_read_so_far_and_in_all(stage: Stage) -> None:
    job = stage.started()
    assert str(job.logs()) == ""
    Path(job.record.directory, "stdout.log").write_text("out\n")
    Path(job.record.directory, "stderr.log").write_text("err\n")
    assert (job.logs().stdout, job.logs().stderr, str(job.logs())) == ("out\n", "err\n", "out\nerr\n")


def test_error_has_all_that_helps(stage: Stage) -> None:
    job = stage.started(cores=2, memory="1GB", time="00:05:00", partition="main", gpus=1, nodes=2)
    Path(job.record.directory, "stderr.log").write_text("".join(f"line {number}\n" for number in range(50)))
    stage.mark(job, 3)
    stage.turn()
    text = str(job.exception(0))
    for part in (
        "exited with code 3",
        "backend scripted, job 1, native id 1, FAILED",
        "requested: 2 node(s), 2 core(s), 1 GiB, 1 GPU(s), 5 m 00 s, partition main",
        "submitted by: submit it",
        f"directory: {job.record.directory}",
        "end of stderr.log:",
        "  line 49",
    ):
        assert part in text
    assert "line 29" not in text
    assert "end of stdout.log" not in text


def test_request_is_told_in_one_line(stage: Stage) -> None:
    assert requested_text(stage.command().record) == "1 core(s)"


# ---------------------------------------------------------------- callbacks


def watch(job: Job[Any]) -> list[str]:
    calls: list[str] = []
    job.on_success(lambda _: calls.append("success"))
    job.on_failure(lambda _: calls.append("failure"))
    job.on_cancel(lambda _: calls.append("cancel"))
    job.on_exit(lambda _: calls.append("exit"))
    return calls


def test_callbacks_match_the_end_and_are_called_once(stage: Stage) -> None:
    good, bad, gone = (stage.started() for _ in range(3))
    calls = [watch(job) for job in (good, bad, gone)]
    stage.finish(good, 1)
    stage.mark(bad, 1)
    gone.cancel()
    stage.pass_time(5)
    stage.pass_time(5)
    called(stage)
    assert calls == [["success", "exit"], ["failure", "exit"], ["cancel", "exit"]]


def test_callback_added_after_the_end_is_called_too(stage: Stage) -> None:
    job = stage.started()
    stage.finish(job, 1)
    calls = watch(job)
    called(stage)
    assert calls == ["success", "exit"]


def test_callbacks_are_let_go_after_the_end_also_those_that_never_match(stage: Stage) -> None:
    """A job with a callback that could never match was kept for ever elsewhere."""
    job = stage.started()
    job.on_failure(lambda _: None)
    stage.finish(job, 1)
    called(stage)
    assert job._callbacks == []
    assert stage.run.ledger.unfinished() == []


def test_callback_that_raises_stops_no_other(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    job = stage.started()
    calls: list[int] = []
    job.on_exit(lambda _: 1 / 0)
    job.on_exit(lambda _: calls.append(1))
    stage.finish(job, 1)
    called(stage)
    assert calls == [1]
    assert f"a callback of {job.record.name} raised" in caplog.text


def test_coroutine_callback_is_awaited(stage: Stage) -> None:
    job = stage.started()
    calls: list[object] = []

    async def callback(ended: Job[Any]) -> None:
        import asyncio

        await asyncio.sleep(0)
        calls.append(ended)

    job.on_success(callback)
    stage.finish(job, 1)
    called(stage)
    assert calls == [job]


def test_callback_may_ask_for_the_result(stage: Stage) -> None:
    job = stage.started()
    values: list[object] = []
    job.on_exit(lambda ended: values.append(ended.result(0)))
    stage.finish(job, 6)
    called(stage)
    assert values == [6]


# ---------------------------------------------------------------- arrays


def test_array_s_state_runs_from_the_first_start_to_the_last_end(stage: Stage) -> None:
    jobs = stage.run.submit([command_work("true", JobSpec())] * 3)
    array: JobArray[Any] = JobArray(jobs)
    states = [array.state]
    stage.start(jobs[0])
    states.append(array.state)
    stage.mark(jobs[0], 1)
    stage.turn()
    states.append(array.state)
    for job in jobs[1:]:
        stage.envelope(job, outcome="exit", exit_code=0, signal=None)
        stage.mark(job, 0)
    stage.turn()
    states.append(array.state)
    assert states == [JobState.PENDING, JobState.RUNNING, JobState.RUNNING, JobState.FAILED]
    assert array.failed_indices == [0]


def test_array_of_nothing_is_complete_and_waits_for_nobody() -> None:
    """Waiting for an array of zero elements never ended elsewhere."""
    array: JobArray[Any] = JobArray([])
    assert array.wait(0)
    assert array.results(0) == []
    assert (array.state, array.failed_indices, len(array)) == (JobState.COMPLETED, [], 0)
    array.cancel()


def test_array_waits_for_all_in_one_time_limit(stage: Stage) -> None:
    array: JobArray[Any] = JobArray([stage.command() for _ in range(50)])
    assert not array.wait(0.05)
    with pytest.raises(WaitTimeout):
        array.results(0.05)


def test_array_is_cancelled_in_one_command(stage: Stage) -> None:
    array: JobArray[Any] = JobArray(stage.run.submit([command_work("true", JobSpec())] * 3))
    array.cancel()
    stage.pass_time(5)
    assert stage.backend.cancels == [["1_0", "1_1", "1_2"]]
    assert array.state is JobState.CANCELLED


def test_array_is_a_sequence_of_its_jobs(stage: Stage) -> None:
    jobs = [stage.call() for _ in range(3)]
    array: JobArray[Any] = JobArray(jobs)
    assert list(array) == jobs
    assert (array[0], array[-1], list(array[1:])) == (jobs[0], jobs[2], jobs[1:])
    for index, job in enumerate(jobs):
        stage.start(job)
        stage.finish(job, index)
    assert array.results(0) == [0, 1, 2]


def test_spec_of_a_job_is_in_its_record(stage: Stage) -> None:
    assert stage.command(cores=3).record.spec == make_spec(cores=3)
