"""States and reasons are words that reports and journals may rely on."""

from __future__ import annotations

import json
import pickle

import pytest

from pytest_clusterjobs.core.state import ExitReason, JobState, JobStatus


def test_exactly_the_ends_are_terminal() -> None:
    terminal = {state for state in JobState if state.is_terminal}
    assert terminal == {JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.LOST}


def test_a_word_of_the_scheduler_that_nobody_knows_ends_nothing() -> None:
    assert not JobState.UNKNOWN.is_terminal


@pytest.mark.parametrize("member", [*JobState, *ExitReason])
def test_a_member_is_its_word_wherever_it_is_written(member: JobState | ExitReason) -> None:
    assert f"{member}" == str(member) == member.value
    assert json.dumps([member]) == f'["{member.value}"]'
    assert pickle.loads(pickle.dumps(member)) is member


def test_words_are_unique_and_of_one_style() -> None:
    assert all(state.value == state.name for state in JobState)
    assert all(reason.value == reason.name.lower() for reason in ExitReason)
    assert len({member.value for member in [*JobState, *ExitReason]}) == len([*JobState, *ExitReason])


def test_a_status_claims_nothing_that_was_not_said() -> None:
    status = JobStatus(JobState.RUNNING)
    assert (status.reason, status.exit_code, status.signal, status.nodes) == (None, None, None, "")
    assert not status.is_hopeless
