"""The limit on jobs counts for all workers of a run together."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_clusterjobs.core.spec import JobSpec
from pytest_clusterjobs.core.state import JobState
from pytest_clusterjobs.engine.room import Room
from pytest_clusterjobs.engine.store import Store
from pytest_clusterjobs.engine.work import command_work
from pytest_clusterjobs.transports.local import LocalTransport

if TYPE_CHECKING:
    from tests.scripted import Stage
else:
    from scripted import Stage


def room(tmp_path: Path, worker: str, limit: int | None) -> Room:
    return Room(Store(LocalTransport(), str(tmp_path), "0badcafe", worker, os.getpid()), limit)


def test_without_a_limit_there_is_always_room_and_no_file(tmp_path: Path) -> None:
    free = room(tmp_path, "main", None)
    assert free.take(10_000)
    assert not free.give_back()
    assert list(tmp_path.iterdir()) == []


def test_workers_share_the_limit(tmp_path: Path) -> None:
    one, two = room(tmp_path, "gw0", 3), room(tmp_path, "gw1", 3)
    assert one.take(2)
    assert not two.take(2)
    assert two.take(1)
    assert not one.take(1)
    assert one.give_back()
    assert two.take(1)
    assert not two.take(1)


def test_what_was_not_taken_cannot_be_given_back(tmp_path: Path) -> None:
    one, two = room(tmp_path, "gw0", 1), room(tmp_path, "gw1", 1)
    assert one.take(1)
    assert not two.give_back()
    assert not two.take(1)


def test_room_of_a_dead_worker_is_given_back(tmp_path: Path) -> None:
    dead, living = room(tmp_path, "gw0", 2), room(tmp_path, "gw1", 2)
    assert dead.take(2)
    assert not living.take(1)
    Room.forget(Store(LocalTransport(), str(tmp_path), "0badcafe", "main", os.getpid()), "gw0")
    assert living.take(2)


def test_workers_that_take_at_the_same_time_never_take_too_much(tmp_path: Path) -> None:
    rooms = [room(tmp_path, f"gw{number}", 5) for number in range(4)]
    taken: list[bool] = []

    def use(mine: Room) -> None:
        taken.extend(mine.take(1) for _ in range(4))

    threads = [threading.Thread(target=use, args=(each,)) for each in rooms]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken.count(True) == 5


def test_jobs_beyond_the_limit_wait_with_us_and_follow(stage: Stage) -> None:
    stage.open(max_jobs=2)
    jobs = [stage.call() for _ in range(4)]
    assert [job.state for job in jobs] == [JobState.PENDING] * 2 + [JobState.NEW] * 2
    assert jobs[3].record.detail == "waits with us: at most 2 jobs at once"
    stage.start(jobs[0])
    stage.finish(jobs[0])
    stage.pass_time(1)
    assert [job.state for job in jobs[1:]] == [JobState.PENDING] * 2 + [JobState.NEW]


def test_second_worker_waits_for_the_first(stage: Stage) -> None:
    first, second = stage.open("gw0", max_jobs=1), stage.open("gw1", max_jobs=1)
    one, two = first.submit_command("true", JobSpec()), second.submit_command("true", JobSpec())
    assert (one.state, two.state) == (JobState.PENDING, JobState.NEW)
    one.cancel()
    stage.pass_time(5)
    assert (one.state, two.state) == (JobState.CANCELLED, JobState.PENDING)


def test_array_larger_than_the_limit_goes_in_parts(stage: Stage) -> None:
    stage.open(max_jobs=2)
    jobs = stage.run.submit([command_work("true", JobSpec())] * 5)
    assert [len(each.directories) for each in stage.backend.submissions] == [2]
    for job in jobs[:2]:
        stage.finish(job)
    stage.pass_time(1)
    assert [len(each.directories) for each in stage.backend.submissions] == [2, 2]


def test_job_cancelled_before_it_had_room_gives_none_back(stage: Stage) -> None:
    """Its end gave back room that it had never taken, so that the limit was exceeded."""
    stage.open(max_jobs=1)
    running, waiting, last = stage.started(), stage.call(), stage.call()
    waiting.cancel()
    stage.pass_time(5)
    assert (running.state, waiting.state, last.state) == (JobState.RUNNING, JobState.CANCELLED, JobState.NEW)
