"""The ferry, to a second directory tree of this machine whose way there can break."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest

from pytest_clusterjobs.backends.base import ENVIRONMENT, Submission
from pytest_clusterjobs.config.place import Place
from pytest_clusterjobs.core.errors import ConnectionLost, StoreError
from pytest_clusterjobs.core.spec import JobSpec
from pytest_clusterjobs.engine.ferry import Ferry
from pytest_clusterjobs.engine.store import Store
from pytest_clusterjobs.transports.base import Channel, CommandResult, FarTransport
from pytest_clusterjobs.transports.local import LocalTransport
from tests import watching

wait_for = partial(watching.wait_for, within_s=20)

# Runs a command until its standard input closes, as a way to another machine does.
UNTIL_CLOSED = """\
import os, subprocess, sys, threading
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
threading.Thread(target=lambda: (sys.stdin.read(), child.kill()), daemon=True).start()
child.wait()
os._exit(0)
"""


class NextDoor(LocalTransport, FarTransport):
    """Another machine, in effect: commands run here, and a lock on the door makes them fail."""

    is_here = False

    def __init__(self) -> None:
        self.host = "next-door"
        self.is_down = self.is_closed = self.is_full = False
        self.channels: list[Channel] = []
        self.fetches = 0

    def connect(self) -> None:
        if self.is_down:
            raise ConnectionLost("next-door does not answer")

    def run(
        self,
        argv: Sequence[str],
        timeout_s: float,
        *,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> CommandResult:
        self.connect()
        return super().run(argv, timeout_s, stdin=stdin, env=env, cwd=cwd)

    def put(self, source: str, names: Sequence[str], directory: str, timeout_s: float) -> None:
        self.connect()
        if self.is_full:
            raise StoreError("no space left on next-door")
        for name in names:
            target = os.path.join(directory, name)
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(os.path.join(source, name), target)

    def get(self, directory: str, names: Sequence[str], target: str, timeout_s: float) -> list[str]:
        self.connect()
        self.fetches += 1
        there = [name for name in names if os.path.exists(os.path.join(directory, name))]
        for name in there:
            source, copy = os.path.join(directory, name), os.path.join(target, name)
            try:
                if os.path.isdir(source):
                    shutil.copytree(source, copy, dirs_exist_ok=True)
                else:
                    os.makedirs(os.path.dirname(copy), exist_ok=True)
                    shutil.copy2(source, copy)
            except OSError as error:
                raise StoreError(f"cannot write {copy}: {error.strerror}") from error
        return there

    def open(self, argv: Sequence[str]) -> Channel:
        self.connect()
        words = [sys.executable, "-c", UNTIL_CLOSED, *argv]
        pipe = subprocess.PIPE
        self.channels.append(subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe))
        return self.channels[-1]

    def close(self) -> None:
        self.is_closed = True

    def drop(self) -> None:
        """Break every open connection, and let nobody in."""
        self.is_down = True
        for channel in self.channels:
            channel.kill()


class Crossing:
    """A ferry between two directories, and jobs that it has carried over."""

    def __init__(self, root: Path) -> None:
        self.there = root / "there"
        self.store = Store(LocalTransport(), str(root / "here"), "0badcafe", "main", os.getpid())
        self.store.open()
        self.transport = NextDoor()
        place = Place("site", "slurm", host=("next-door",), workdir=str(self.there))
        self.ferry = Ferry(self.store, self.transport, place, 5.0)

    def carry(self, number: int, count: int = 1) -> Submission:
        """Carry a submission of jobs ``number`` or ``number.0`` and so on; gives it as it is there."""
        directory = os.path.join(self.store.directory, f"{number}-job")
        ids = [str(number)] if count == 1 else [f"{number}.{index}" for index in range(count)]
        inner = [directory] if count == 1 else [os.path.join(directory, str(index)) for index in range(count)]
        for path in inner:
            self.store.make_job(path, {})
        marks = tuple(map(self.store.mark, ids))
        own = Submission(f"cj-{number}", JobSpec(), tuple(inner), directory, marks, self.store.runner, "~/bin/python")
        return self.ferry.carry(own)

    def here(self, path: str) -> Path:
        """Give the copy here of a file there."""
        return Path(self.store.root, os.path.relpath(path, self.there / "0badcafe"))


@pytest.fixture
def crossing(tmp_path: Path) -> Iterator[Crossing]:
    made = Crossing(tmp_path)
    yield made
    made.transport.is_down = False
    made.ferry.close([])
    made.store.close(keep=False)
    assert all(channel.poll() is not None for channel in made.transport.channels)


def end(submission: Submission, index: int = 0, code: str = "0") -> None:
    """Do what a job's script does at its end."""
    directory = Path(submission.directories[index])
    (directory / "result.cj").write_text(f"result {index}\n")
    (directory / "stdout.log").write_text("printed\n")
    Path(submission.markers[index]).write_text(code)


def test_what_a_job_needs_lies_there_and_paths_are_of_there(crossing: Crossing) -> None:
    submission = crossing.carry(1)
    root = crossing.there / "0badcafe"
    assert submission.directory == submission.directories[0] == str(root / "main" / "1-job")
    assert (root / "main" / "1-job" / "order.json").is_file()
    assert submission.runner == str(root / "node" / "start.py")
    assert (root / "node" / "lib" / "cloudpickle").is_dir()
    assert submission.python == os.path.expanduser("~/bin/python")
    assert root.stat().st_mode & 0o777 == 0o700


def test_a_mark_there_is_made_here_after_what_belongs_to_it_has_come(crossing: Crossing) -> None:
    submission = crossing.carry(1)
    mark = crossing.here(submission.markers[0])
    Path(submission.markers[0] + ".start").touch()
    wait_for(Path(f"{mark}.start").exists)
    end(submission, code="3")
    wait_for(mark.exists)
    assert mark.read_text() == "3"
    assert crossing.here(submission.directory).joinpath("result.cj").read_text() == "result 0\n"
    wait_for(lambda: not Path(submission.markers[0]).exists())


def test_a_mark_that_is_being_written_waits_for_its_code(crossing: Crossing) -> None:
    submission = crossing.carry(1)
    Path(submission.markers[0]).touch()
    other = crossing.carry(2)
    end(other)
    wait_for(crossing.here(other.markers[0]).exists)
    assert not crossing.here(submission.markers[0]).exists()
    end(submission, code="7")
    wait_for(crossing.here(submission.markers[0]).exists)
    assert crossing.here(submission.markers[0]).read_text() == "7"


def test_many_ends_come_with_few_commands(crossing: Crossing) -> None:
    submission = crossing.carry(1, count=100)
    crossing.ferry.sweep()
    before = crossing.transport.fetches
    for index in range(100):
        end(submission, index)
    wait_for(lambda: all(crossing.here(mark).exists() for mark in submission.markers))
    texts = [crossing.here(path).joinpath("result.cj").read_text() for path in submission.directories]
    assert texts == [f"result {index}\n" for index in range(100)]
    assert crossing.transport.fetches - before < 30


def test_ends_of_a_time_without_connection_are_seen_after_it(crossing: Crossing) -> None:
    submission = crossing.carry(1)
    crossing.transport.drop()
    end(submission)
    with pytest.raises(ConnectionLost):
        crossing.carry(2)
    crossing.transport.is_down = False
    wait_for(crossing.here(submission.markers[0]).exists)


def test_a_requeued_job_s_marks_are_forgotten(crossing: Crossing) -> None:
    submission = crossing.carry(1)
    start = Path(submission.markers[0] + ".start")
    start.touch()
    wait_for(crossing.here(str(start)).exists)
    crossing.ferry.forget("1")
    assert not start.exists()
    crossing.here(str(start)).unlink()
    start.touch()
    wait_for(crossing.here(str(start)).exists)


def test_logs_so_far_can_be_had(crossing: Crossing) -> None:
    submission = crossing.carry(1)
    Path(submission.directory, "stdout.log").write_text("so far\n")
    here = crossing.here(submission.directory)
    crossing.ferry.fetch_logs(str(here))
    assert here.joinpath("stdout.log").read_text() == "so far\n"
    crossing.transport.is_down = True
    crossing.ferry.fetch_logs(str(here))  # no error: what is known stays


def test_close_brings_what_is_kept_but_for_secrets_and_leaves_nothing(crossing: Crossing) -> None:
    submission = crossing.carry(1)
    Path(submission.directory, "written-by-the-job").write_text("data")
    Path(submission.directory, ENVIRONMENT).write_text("export SECRET=1")
    here = crossing.here(submission.directory)
    crossing.ferry.close([str(here)])
    assert here.joinpath("written-by-the-job").read_text() == "data"
    assert not here.joinpath(ENVIRONMENT).exists()
    assert not (crossing.there / "0badcafe").exists()
    assert crossing.transport.is_closed


def test_close_without_connection_says_what_is_left_where(crossing: Crossing) -> None:
    crossing.carry(1)
    crossing.transport.drop()
    with pytest.raises(StoreError, match=f"next-door: {crossing.there}/0badcafe is left there"):
        crossing.ferry.close([str(crossing.here(str(crossing.there)))])


def test_what_was_carried_in_part_is_removed_too(crossing: Crossing, tmp_path: Path) -> None:
    """A disk that is full there, for instance."""
    crossing.transport.is_full = True
    with pytest.raises(StoreError, match="no space"):
        crossing.carry(1)
    assert (crossing.there / "0badcafe").is_dir()
    crossing.ferry.close([])
    assert not (crossing.there / "0badcafe").exists()


def test_kept_files_that_cannot_be_fetched_stay_there_and_are_named(crossing: Crossing) -> None:
    submission = crossing.carry(1)
    here = crossing.here(submission.directory)
    shutil.rmtree(here)
    here.write_text("a file where the directory should be")
    with pytest.raises(StoreError, match=f"next-door: {crossing.there}/0badcafe is left there: cannot write"):
        crossing.ferry.close([str(here)])
    assert Path(submission.directory).is_dir()


def test_what_cannot_be_fetched_ends_by_its_code_alone(crossing: Crossing, monkeypatch: pytest.MonkeyPatch) -> None:
    submission = crossing.carry(1)
    where = crossing.here(submission.directory)
    shutil.rmtree(where)
    where.write_text("a file where the directory should be")  # nothing can be written below it
    end(submission, code="5")
    wait_for(crossing.here(submission.markers[0]).exists)
    assert crossing.here(submission.markers[0]).read_text() == "5"
