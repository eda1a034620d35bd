"""The clerk asks seldom, repairs what was lost, and believes nobody who only says nothing."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from pytest_clusterjobs.core.errors import (
    BackendError,
    CommandTimeout,
    JobCancelled,
    JobFailed,
    JobInfrastructureError,
    JobLost,
    JobTimeout,
    QueueTimeout,
    SubmitError,
    SubmitLimit,
    SubmitUnknown,
    is_infrastructure,
)
from pytest_clusterjobs.core.spec import JobSpec
from pytest_clusterjobs.core.state import ExitReason, JobState, JobStatus
from pytest_clusterjobs.engine.work import command_work

if TYPE_CHECKING:
    from tests.scripted import CANCELLED, COMPLETED, PENDING, RUNNING, Stage, failed
else:
    from scripted import CANCELLED, COMPLETED, PENDING, RUNNING, Stage, failed

LOST_REPLY = SubmitUnknown("no answer", "scripted")
LIMIT = SubmitLimit("the site takes no more jobs now", "scripted")


# ---------------------------------------------------------------- how often it asks


def query_times(stage: Stage) -> list[float]:
    return [moment - 1000 for moment, _ in stage.backend.queries]


def test_first_question_comes_two_seconds_after_a_submission(stage: Stage) -> None:
    stage.command()
    stage.pass_time(1.9)
    assert query_times(stage) == []
    stage.pass_time(0.2)
    assert query_times(stage) == [pytest.approx(2, abs=0.2)]


def test_questions_become_rarer_down_to_one_in_thirty_seconds(stage: Stage) -> None:
    stage.command()
    stage.pass_time(60)
    assert len(stage.backend.queries) <= 60 / 5
    stage.pass_time(600)
    times = query_times(stage)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == 30
    assert len(times) <= 40


def test_many_jobs_are_one_question(stage: Stage) -> None:
    for _ in range(20):
        stage.command()
    stage.run.submit([command_work("true", JobSpec())] * 50)
    stage.pass_time(60)
    assert len(stage.backend.queries) <= 60 / 5
    assert {prefix for _, prefix in stage.backend.queries} == {"cj-0badcafe-"}


def test_submissions_one_after_the_other_make_no_more_questions(stage: Stage) -> None:
    for _ in range(60):
        stage.command()
        stage.pass_time(1)
    assert len(stage.backend.queries) <= 60 / 5 + 1


def test_nobody_is_asked_when_nothing_runs(stage: Stage) -> None:
    job = stage.started()
    stage.finish(job)
    before = len(stage.backend.queries)
    stage.pass_time(120)
    assert job.state is JobState.COMPLETED
    assert len(stage.backend.queries) == before


def test_workers_of_a_run_share_an_answer(stage: Stage) -> None:
    for worker in ("gw0", "gw1", "gw2"):
        stage.open(worker).submit_command("true", JobSpec())
    stage.pass_time(2.5)
    assert len(stage.backend.queries) == 1
    assert [run.records[0].native_word for run in stage.runs] == ["PENDING"] * 3


# ---------------------------------------------------------------- outages


def test_outage_changes_no_state_however_long(stage: Stage) -> None:
    running, waiting = stage.started(), stage.command()
    stage.pass_time(10)
    stage.backend.is_down = True
    stage.pass_time(3600, 1)
    assert (running.state, waiting.state) == (JobState.RUNNING, JobState.PENDING)
    assert [problem for problem in stage.run.problems if "no job's state is changed" in problem] == [
        "scripted does not answer; no job's state is changed: the controller is down"
    ]
    stage.backend.is_down = False
    stage.finish(running, 5)
    assert running.result(0) == 5


def test_scheduler_that_is_down_is_asked_ever_more_rarely(stage: Stage) -> None:
    stage.command()
    stage.backend.is_down = True
    stage.pass_time(600)
    times = query_times(stage)
    assert times[-1] - times[-2] == 30
    assert len(times) < 30


def test_outage_is_over_at_the_first_answer(stage: Stage) -> None:
    job = stage.command()
    stage.backend.is_down = True
    stage.pass_time(100)
    stage.backend.is_down = False
    stage.backend.says(job.native_id, RUNNING)
    stage.pass_time(31)
    assert job.state is JobState.RUNNING


# ---------------------------------------------------------------- jobs that are not shown


def test_vanished_job_is_lost_only_after_the_grace_and_names_every_source(stage: Stage) -> None:
    stage.open(lost_after_s=30)
    job = stage.started()
    del stage.backend.queue[job.native_id]
    stage.pass_time(30)
    assert job.state is JobState.RUNNING
    assert stage.backend.explained
    stage.pass_time(35)
    with pytest.raises(JobLost, match=r"result file, exit code, queue, the book; in .*: .*order\.json"):
        job.result(0)
    assert (job.state, job.reason) == (JobState.LOST, ExitReason.LOST)


def test_job_that_is_shown_again_is_not_lost(stage: Stage) -> None:
    job = stage.started()
    queued = stage.backend.queue.pop(job.native_id)
    stage.pass_time(20)
    stage.backend.queue[job.native_id] = queued
    stage.pass_time(5)
    del stage.backend.queue[job.native_id]
    stage.pass_time(20)
    assert job.state is JobState.RUNNING
    stage.finish(job, 1)
    assert job.result(0) == 1


def test_vanished_job_that_the_details_show_running_is_not_lost(stage: Stage) -> None:
    job = stage.started()
    del stage.backend.queue[job.native_id]
    stage.backend.known[job.native_id] = RUNNING
    stage.pass_time(300)
    assert job.state is JobState.RUNNING


def test_vanished_job_is_explained_by_accounting(stage: Stage) -> None:
    job = stage.started()
    del stage.backend.queue[job.native_id]
    stage.backend.known[job.native_id] = failed(ExitReason.NODE_FAILURE, "NODE_FAIL")
    stage.pass_time(20)
    with pytest.raises(JobInfrastructureError, match="lost its node"):
        job.result(0)
    assert job.record.native_word == "NODE_FAIL"


def test_vanished_job_with_a_result_has_that_result(stage: Stage) -> None:
    job = stage.started()
    del stage.backend.queue[job.native_id]
    stage.envelope(job, 7)
    stage.pass_time(20)
    assert job.result(0) == 7


def test_job_just_submitted_is_not_missed_by_an_older_answer(stage: Stage) -> None:
    """Elsewhere whatever a query did not show was finished."""
    first = stage.command()
    stage.pass_time(2)
    second = stage.command()
    stage.turn()
    assert (first.state, second.state) == (JobState.PENDING, JobState.PENDING)
    assert stage.backend.explained == []


# ---------------------------------------------------------------- the scheduler's words


@pytest.mark.parametrize("word", ["COMPLETING", "CONFIGURING", "SUSPENDED", "RESIZING"])
def test_words_on_the_way_end_nothing(stage: Stage, word: str) -> None:
    job = stage.started()
    stage.backend.says(job.native_id, JobStatus(JobState.RUNNING, word))
    stage.pass_time(300)
    assert (job.state, job.record.native_word) == (JobState.RUNNING, word)


def test_unknown_word_is_kept_and_ends_nothing(stage: Stage) -> None:
    job = stage.command()
    stage.backend.says(job.native_id, JobStatus(JobState.UNKNOWN, "FROBNICATING"))
    stage.pass_time(600)
    assert (job.state, job.record.native_word) == (JobState.UNKNOWN, "FROBNICATING")


def test_pending_reason_is_shown_while_it_waits(stage: Stage) -> None:
    job = stage.command()
    stage.backend.says(job.native_id, JobStatus(JobState.PENDING, "PENDING", detail="Resources"))
    stage.pass_time(3)
    assert job.record.detail == "Resources"


def test_reason_that_never_passes_ends_the_wait_and_cancels(stage: Stage) -> None:
    job = stage.command()
    stage.backend.says(
        job.native_id, JobStatus(JobState.PENDING, "PENDING", detail="PartitionTimeLimit", is_hopeless=True)
    )
    stage.pass_time(10)
    with pytest.raises(QueueTimeout, match=r"can never start.*PartitionTimeLimit"):
        job.result(0)
    assert job.reason is ExitReason.NEVER_STARTS
    assert stage.backend.cancels == [[job.native_id]]


def test_requeued_job_is_one_job_that_waits_and_starts_again(stage: Stage) -> None:
    job = stage.started(timeout=60)
    native_id = job.native_id
    stage.pass_time(50)
    stage.backend.says(native_id, PENDING)
    stage.pass_time(31)
    assert (job.state, job.metrics.restarts, job.native_id) == (JobState.PENDING, 1, native_id)
    stage.pass_time(60)  # the limit on its run time counts from its new start
    stage.start(job)
    assert job.state is JobState.RUNNING
    stage.pass_time(50)
    assert job.state is JobState.RUNNING
    stage.finish(job, 3)
    assert job.result(0) == 3
    assert job.metrics.restarts == 1


def test_job_that_starts_while_the_queue_answers_is_not_requeued(stage: Stage) -> None:
    """Seen with every scheduler: the answer, on its way, shows the job waiting that has just announced its start."""
    job = stage.command()

    def start() -> None:
        stage.backend.on_query = lambda: None
        stage.clock.now += 0.1
        stage.start(job)

    stage.backend.on_query = start
    stage.pass_time(3)
    assert (job.state, job.metrics.restarts) == (JobState.RUNNING, 0)


def test_start_is_not_taken_back_by_an_answer_from_an_old_copy(stage: Stage) -> None:
    """LSF answers from a copy of its state that is made anew every five seconds."""
    stage.backend.answers_age_s = 10.0
    job = stage.started()
    stage.backend.says(job.native_id, PENDING)
    stage.pass_time(8)
    assert stage.backend.queries
    assert (job.state, job.metrics.restarts) == (JobState.RUNNING, 0)
    stage.pass_time(10)
    assert (job.state, job.metrics.restarts) == (JobState.PENDING, 1)


def test_job_that_is_in_no_old_copy_yet_is_not_asked_about_by_itself(stage: Stage) -> None:
    """Each would have cost two more commands a second."""
    stage.backend.answers_age_s = 10.0
    job = stage.command()
    shown = stage.backend.queue.pop(job.native_id)
    stage.pass_time(9)
    assert stage.backend.queries
    assert stage.backend.explained == []
    stage.backend.queue[job.native_id] = shown
    stage.pass_time(10)
    assert (job.state, stage.backend.explained) == (JobState.PENDING, [])


def test_question_before_a_submission_that_nobody_answers_in_time_refuses_no_job(stage: Stage) -> None:
    """A backend may ask for the largest host first; what it raises of the submission itself is another error."""
    stage.backend.errors.append(CommandTimeout("bhosts did not answer within 30 s", "scripted"))
    job = stage.command()
    assert "waits with us" in job.record.detail
    stage.pass_time(10)
    assert (job.state, job.native_id) == (JobState.PENDING, "1")


def test_lost_submission_is_made_again_only_when_no_old_copy_can_hide_it(stage: Stage) -> None:
    stage.backend.answers_age_s = 10.0
    stage.backend.errors.append(LOST_REPLY)
    job = stage.command()
    stage.pass_time(9)
    assert len(stage.backend.queries) >= 2
    assert len(stage.backend.submissions) == 1
    stage.pass_time(6)
    assert len(stage.backend.submissions) == 2
    assert job.native_id == "1"


def test_requeue_after_a_signal_is_no_end(stage: Stage) -> None:
    """A preempted job's script leaves 143, and the scheduler puts the job back into the queue."""
    job = stage.started()
    stage.backend.says(job.native_id, PENDING)
    stage.mark(job, 143)
    stage.pass_time(5)
    assert (job.state, job.metrics.restarts) == (JobState.PENDING, 1)


# ---------------------------------------------------------------- ends


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        (failed(ExitReason.TIMEOUT), JobTimeout, ExitReason.TIMEOUT),
        (failed(ExitReason.PREEMPTED), JobInfrastructureError, ExitReason.PREEMPTED),
        (failed(ExitReason.NODE_FAILURE), JobInfrastructureError, ExitReason.NODE_FAILURE),
        (failed(ExitReason.OUT_OF_MEMORY), JobFailed, ExitReason.OUT_OF_MEMORY),
        (CANCELLED, JobCancelled, ExitReason.CANCELLED_OUTSIDE),
    ],
)
@pytest.mark.parametrize("code", [143, 137])
def test_signal_is_explained_by_the_scheduler(
    stage: Stage, code: int, status: JobStatus, error: type[Exception], reason: ExitReason
) -> None:
    job = stage.started()
    stage.backend.says(job.native_id, status)
    stage.mark(job, code)
    stage.pass_time(3)
    with pytest.raises(error):
        job.result(0)
    assert job.reason is reason


def test_signal_that_the_scheduler_did_not_send_is_the_job_s_own(stage: Stage) -> None:
    job = stage.started()
    stage.backend.says(job.native_id, failed(ExitReason.NONZERO_EXIT, "FAILED", exit_code=9))
    stage.mark(job, 137)
    stage.pass_time(3)
    assert (job.reason, job.metrics.signal, job.metrics.exit_code) == (ExitReason.SIGNAL, 9, None)


def test_signal_that_nobody_explains_is_the_job_s_own_after_a_while(stage: Stage) -> None:
    job = stage.started()
    stage.mark(job, 143)
    stage.pass_time(10)
    assert job.state is JobState.RUNNING
    stage.pass_time(10)
    assert (job.state, job.reason, job.metrics.signal) == (JobState.FAILED, ExitReason.SIGNAL, 15)


def test_signal_in_an_outage_waits_for_the_explanation(stage: Stage) -> None:
    job = stage.started()
    stage.backend.is_down = True
    stage.mark(job, 143)
    stage.pass_time(300)
    assert job.state is JobState.RUNNING
    stage.backend.is_down = False
    stage.backend.says(job.native_id, failed(ExitReason.TIMEOUT))
    stage.pass_time(31)
    assert job.reason is ExitReason.TIMEOUT


@pytest.mark.parametrize(("code", "signal"), [(139, 11), (134, 6), (136, 8)])
def test_crash_is_the_job_s_own_and_nobody_is_asked(stage: Stage, code: int, signal: int) -> None:
    job = stage.started()
    before = len(stage.backend.queries)
    stage.mark(job, code)
    stage.turn()
    assert (job.state, job.reason, job.metrics.signal) == (JobState.FAILED, ExitReason.SIGNAL, signal)
    assert len(stage.backend.queries) == before


def test_completed_by_the_scheduler_waits_for_a_result_that_shows_late(stage: Stage) -> None:
    job = stage.started()
    stage.backend.says(job.native_id, COMPLETED)
    stage.pass_time(25)
    assert job.state is JobState.RUNNING
    stage.envelope(job, 4)
    stage.pass_time(3)
    assert job.result(0) == 4


def test_failure_told_by_the_scheduler_waits_for_the_exception_that_shows_late(stage: Stage) -> None:
    job = stage.started()
    stage.backend.says(job.native_id, failed(ExitReason.NONZERO_EXIT, "FAILED", exit_code=1))
    stage.pass_time(25)
    assert job.state is JobState.RUNNING
    stage.pass_time(10)
    assert (job.reason, job.metrics.exit_code) == (ExitReason.NONZERO_EXIT, 1)


def test_completed_by_the_scheduler_without_a_result_is_no_success(stage: Stage) -> None:
    job = stage.started()
    stage.backend.says(job.native_id, COMPLETED)
    stage.pass_time(40)
    with pytest.raises(JobLost, match="the scheduler says COMPLETED, but the job left no result"):
        job.result(0)


def test_own_result_beats_the_scheduler_s_word(stage: Stage) -> None:
    """An epilogue of the site, or the batch step's cancelled children, may call a good job failed."""
    job = stage.started()
    stage.backend.says(job.native_id, failed(ExitReason.NONZERO_EXIT, "FAILED", exit_code=1))
    stage.envelope(job, 4)
    stage.pass_time(10)
    assert job.result(0) == 4


def test_terminal_state_never_changes(stage: Stage) -> None:
    job = stage.started()
    stage.finish(job, 1)
    other = stage.command()
    stage.backend.says(job.native_id, failed(ExitReason.NODE_FAILURE))
    stage.mark(job, 1)
    stage.pass_time(60)
    job.cancel()
    stage.pass_time(60)
    assert (job.state, job.result(0), job.reason) == (JobState.COMPLETED, 1, None)
    assert all(job.native_id not in ids for ids in stage.backend.cancels)
    assert other.state is JobState.PENDING


# ---------------------------------------------------------------- lost replies


def test_lost_reply_is_found_by_name_and_never_doubled(stage: Stage) -> None:
    stage.backend.errors.append(LOST_REPLY)
    stage.backend.makes_lost_jobs = True
    job = stage.command()
    assert (job.state, job.native_id) == (JobState.NEW, "")
    stage.pass_time(10)
    assert (job.state, job.native_id) == (JobState.PENDING, "1")
    assert len(stage.backend.submissions) == 1


def test_lost_reply_is_submitted_again_after_two_answers_without_the_job(stage: Stage) -> None:
    stage.backend.errors.append(LOST_REPLY)
    job = stage.command()
    stage.pass_time(30)
    assert len(stage.backend.queries) >= 2
    assert job.native_id == "1"
    assert len(stage.backend.submissions) == 2
    assert stage.backend.submissions[0] == stage.backend.submissions[1]


def test_job_that_the_controller_makes_late_is_not_doubled(stage: Stage) -> None:
    stage.backend.errors.append(LOST_REPLY)
    job = stage.command()
    while not stage.backend.queries:
        stage.pass_time(0.25)
    stage.backend._make(stage.backend.submissions[0])
    stage.pass_time(30)
    assert job.native_id == "1"
    assert len(stage.backend.submissions) == 1


def test_outage_is_no_answer_without_the_job(stage: Stage) -> None:
    stage.backend.errors.append(LOST_REPLY)
    stage.backend.makes_lost_jobs = True
    stage.backend.is_down = True
    job = stage.command()
    stage.pass_time(600)
    assert len(stage.backend.submissions) == 1
    assert job.state is JobState.NEW
    stage.backend.is_down = False
    stage.pass_time(31)
    assert job.native_id == "1"
    assert len(stage.backend.submissions) == 1


def test_array_whose_reply_was_lost_is_found_whole_though_a_part_has_left_the_queue(stage: Stage) -> None:
    stage.backend.errors.append(LOST_REPLY)
    stage.backend.makes_lost_jobs = True
    jobs = stage.run.submit([command_work("true", JobSpec())] * 12)
    for index in (0, 1, 5):
        del stage.backend.queue[f"1_{index}"]
    stage.pass_time(10)
    assert [job.native_id for job in jobs] == [f"1_{index}" for index in range(12)]


def test_outage_that_does_not_end_fails_the_submission_in_bounded_time(stage: Stage) -> None:
    stage.backend.errors.extend([LOST_REPLY] * 1000)
    stage.backend.is_down = True
    job = stage.command()
    stage.pass_time(1000, 1)
    with pytest.raises(BackendError, match="the controller is down") as caught:
        job.result(0)
    assert is_infrastructure(caught.value)
    assert job.reason is ExitReason.SUBMIT_REFUSED


def test_scheduler_that_answers_questions_but_no_submission_fails_it_in_bounded_time(stage: Stage) -> None:
    stage.backend.errors.extend([LOST_REPLY] * 1000)
    job = stage.command()
    stage.pass_time(1200, 1)
    assert job.reason is ExitReason.SUBMIT_REFUSED


def test_long_wait_with_us_is_no_outage(stage: Stage) -> None:
    """After 15 minutes of waiting for room, the first lost reply ended the job, which the scheduler might have."""
    stage.open(max_jobs=1)
    first, second = stage.started(), stage.command()
    stage.pass_time(1000, 1)
    stage.backend.errors.append(LOST_REPLY)
    stage.backend.makes_lost_jobs = True
    stage.finish(first)
    stage.pass_time(20)
    assert (second.state, second.native_id) == (JobState.PENDING, "2")


def test_job_cancelled_while_its_reply_is_lost_is_cancelled_when_it_is_found(stage: Stage) -> None:
    stage.backend.errors.append(LOST_REPLY)
    stage.backend.makes_lost_jobs = True
    job = stage.command()
    job.cancel()
    stage.pass_time(20)
    assert stage.backend.cancels == [["1"]]
    assert (job.state, job.reason) == (JobState.CANCELLED, ExitReason.CANCELLED)


def test_job_cancelled_while_its_reply_is_lost_is_not_submitted_again(stage: Stage) -> None:
    stage.backend.errors.append(LOST_REPLY)
    job = stage.command()
    job.cancel()
    stage.pass_time(30)
    assert job.state is JobState.CANCELLED
    assert len(stage.backend.submissions) == 1


def test_cancelled_job_that_the_scheduler_goes_on_showing_ends_with_a_word_about_it(stage: Stage) -> None:
    """On a node that does not answer nothing can be ended."""
    stage.backend.obeys = False
    job = stage.started()
    stage.backend.says(job.native_id, RUNNING)
    job.cancel()
    stage.pass_time(55)
    assert job.state is JobState.RUNNING
    stage.pass_time(40)
    assert (job.state, job.reason) == (JobState.CANCELLED, ExitReason.CANCELLED)
    [problem] = stage.run.problems
    assert problem == f"{job.record.name}: cancelled 60 s ago, and scripted shows it as RUNNING"


# ---------------------------------------------------------------- waiting with us


def test_site_limit_is_waited_out_ever_more_patiently(stage: Stage) -> None:
    stage.backend.errors.extend([LIMIT] * 8)
    job = stage.command()
    assert job.record.detail == "waits with us: the site takes no more jobs now"
    stage.pass_time(20)
    tries = len(stage.backend.submissions)
    assert 2 <= tries <= 8
    assert job.state is JobState.NEW
    stage.pass_time(300)
    assert (job.state, job.record.detail) == (JobState.PENDING, "")
    assert len(stage.backend.submissions) == 9


def test_job_that_waits_with_us_is_cancelled_without_a_command(stage: Stage) -> None:
    stage.backend.errors.extend([LIMIT] * 100)
    job = stage.command()
    job.cancel()
    assert job.state is JobState.CANCELLED
    stage.pass_time(60)
    assert len(stage.backend.submissions) == 1
    assert stage.backend.cancels == []


def test_element_cancelled_while_its_array_waits_with_us_does_not_run_after_all(stage: Stage) -> None:
    """It had ended for us; the array was then submitted whole, and nobody told the scheduler."""
    stage.backend.errors.append(LIMIT)
    jobs = stage.run.submit([command_work("true", JobSpec())] * 3)
    jobs[1].cancel()
    assert jobs[1].state is JobState.CANCELLED
    stage.pass_time(10)
    assert stage.backend.cancels == [["1_1"]]
    assert [job.state for job in jobs] == [JobState.PENDING, JobState.CANCELLED, JobState.PENDING]


def test_array_that_is_larger_than_the_site_s_limit_goes_job_by_job(stage: Stage) -> None:
    """An array of six waited for ever where a user may have three jobs."""
    jobs = stage.run.submit([command_work("true", JobSpec())] * 5)
    for job in jobs:
        stage.finish(job)
    stage.backend.submissions.clear()
    stage.backend.errors.extend([LIMIT, LIMIT, None, None, None, LIMIT, LIMIT, None, None])
    jobs = stage.run.submit([command_work("true", JobSpec())] * 5)
    jobs[3].cancel()
    stage.pass_time(8)
    assert [len(each.directories) for each in stage.backend.submissions] == [5, 5, 1, 1, 1, 1]
    assert [job.state.value for job in jobs] == ["PENDING", "PENDING", "PENDING", "CANCELLED", "NEW"]
    for job in jobs[:3]:
        stage.finish(job, job.job_id)
    stage.pass_time(60)
    assert [job.result(0).exit_code for job in jobs[:3]] == [0, 0, 0]
    assert jobs[4].state is JobState.PENDING
    assert jobs[4].record.submitted_as == jobs[4].record.name
    assert stage.backend.submissions[-1].directory == jobs[4].record.directory


def test_array_with_jobs_of_ours_before_it_or_a_limit_of_its_own_stays_whole(stage: Stage) -> None:
    before = stage.command()
    stage.backend.errors.extend([LIMIT] * 4)
    stage.run.submit([command_work("true", JobSpec())] * 3)
    stage.pass_time(20)
    stage.finish(before)
    stage.pass_time(60)
    stage.backend.errors.extend([LIMIT] * 4)
    stage.run.submit([command_work("true", JobSpec())] * 3, max_concurrent=1)
    stage.pass_time(120)
    assert {len(each.directories) for each in stage.backend.submissions[1:]} == {3}


def test_what_waits_for_the_same_limit_asks_with_one_command(stage: Stage) -> None:
    """Each of them asked by itself: hundreds of commands a minute, all refused."""
    stage.backend.errors.extend([LIMIT] * 1000)
    jobs = [stage.command() for _ in range(50)]
    assert len(stage.backend.submissions) == 50
    stage.pass_time(30)
    assert len(stage.backend.submissions) <= 50 + 15
    stage.backend.errors.clear()
    stage.pass_time(35)
    assert {job.state for job in jobs} == {JobState.PENDING}


def test_refusal_is_raised_at_once_and_never_repeated(stage: Stage) -> None:
    stage.backend.errors.append(SubmitError("invalid partition", "scripted", "submit it", "no such place"))
    with pytest.raises(SubmitError, match="invalid partition"):
        stage.command()
    stage.pass_time(60)
    assert len(stage.backend.submissions) == 1
    assert stage.backend.queries == []
    [record] = stage.run.records
    assert (record.state, record.reason) == (JobState.FAILED, ExitReason.SUBMIT_REFUSED)


def test_refusal_after_a_wait_is_the_job_s_error(stage: Stage) -> None:
    stage.backend.errors.extend([LIMIT, SubmitError("invalid partition", "scripted")])
    job = stage.command()
    stage.pass_time(10)
    with pytest.raises(SubmitError, match="invalid partition"):
        job.result(0)


def test_dependency_is_held_with_us_until_the_other_has_completed(stage: Stage) -> None:
    first = stage.started()
    second = stage.command(depends_on=[first])
    stage.pass_time(30)
    assert (second.state, second.record.detail) == (JobState.NEW, f"waits for {first.record.name}")
    assert len(stage.backend.submissions) == 1
    stage.finish(first)
    stage.pass_time(1)
    assert second.state is JobState.PENDING


def test_dependency_on_a_job_that_failed_is_cancelled_and_names_it(stage: Stage) -> None:
    first = stage.started()
    second = stage.command(depends_on=[first])
    third = stage.command(depends_on=[second])
    stage.mark(first, 1)
    stage.pass_time(2)
    with pytest.raises(JobCancelled, match=rf"{first.record.name} \(FAILED\)"):
        second.result(0)
    with pytest.raises(JobCancelled, match=rf"{second.record.name} \(CANCELLED\)"):
        third.result(0)
    assert len(stage.backend.submissions) == 1


def test_waiting_for_a_dependency_is_no_wait_in_the_queue(stage: Stage) -> None:
    first = stage.started()
    second = stage.command(depends_on=[first], queue_timeout=30)
    stage.pass_time(300)
    assert not second.native_id
    stage.finish(first)
    stage.pass_time(29)
    assert second.state is JobState.PENDING
    stage.pass_time(30)
    assert second.reason is ExitReason.QUEUE_TIMEOUT


# ---------------------------------------------------------------- cancelling


def test_cancel_is_one_command_for_all(stage: Stage) -> None:
    jobs = [stage.started() for _ in range(3)]
    stage.run.cancel(jobs)
    stage.pass_time(5)
    assert stage.backend.cancels == [["1", "2", "3"]]
    assert {job.state for job in jobs} == {JobState.CANCELLED}
    assert {job.reason for job in jobs} == {ExitReason.CANCELLED}


def test_cancel_is_repeated_until_the_command_succeeds(stage: Stage) -> None:
    job = stage.started()
    stage.backend.is_down = True
    job.cancel()
    stage.pass_time(10)
    assert len(stage.backend.cancels) >= 2
    assert not job.done()
    stage.backend.is_down = False
    stage.pass_time(40)
    tries = len(stage.backend.cancels)
    assert job.state is JobState.CANCELLED
    stage.pass_time(60)
    assert len(stage.backend.cancels) == tries


def test_scheduler_that_is_down_is_not_hammered_with_cancels(stage: Stage) -> None:
    """The cancel command was tried four times a second, each a process and a time limit."""
    job = stage.started()
    stage.backend.is_down = True
    job.cancel()
    stage.pass_time(600)
    assert len(stage.backend.cancels) <= 60


def test_job_that_ends_well_while_it_is_cancelled_has_ended_well(stage: Stage) -> None:
    """Cancelling a finished job turned DONE into CANCELLED elsewhere."""
    job = stage.started()
    stage.backend.is_down = True
    job.cancel()
    stage.finish(job, 5)
    assert (job.state, job.result(0)) == (JobState.COMPLETED, 5)
