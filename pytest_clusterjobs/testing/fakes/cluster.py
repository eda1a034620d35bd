"""The part of a fake cluster that really runs jobs: a queue with slots, kept in a directory, without a daemon.

Every command of a fake is a process of its own that opens the same directory. Whoever changes the queue starts what
can start: for each job a shepherd, a process that runs the job in a session of its own, ends it at its time limit or
when it is deleted, kills whatever it has left behind, notes how it ended, and starts what can start next.

A fake scheduler is a subclass with two hooks, `prepare` and `finish`, and commands that go like this::

    cluster = FakeLsf(directory)                    # in bsub
    with cluster.change() as queue:
        number = queue.next_number()
        queue.add([FakeJob(number=number, name="x", argv=["/bin/bash", "script"], ...)])

    with cluster.look() as queue:                   # in bjobs
        for job in queue.jobs(): ...

    cluster.delete([job.key])                       # in bkill

Nothing but the standard library is used, so that a command starts in milliseconds. Linux only: what a job leaves behind
is found through ``/proc``.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from pytest_clusterjobs.testing.fakes.processes import let_go_of_all_but, start_time

HELD, QUEUED, RUNNING, ENDING, ENDED = "held", "queued", "running", "ending", "ended"

#: Why a job ended, where it did not end by itself.
DELETED, TIME_LIMIT = "deleted", "time_limit"

_TABLES = """
CREATE TABLE jobs (number INTEGER, element INTEGER, state TEXT, cores INTEGER, body TEXT,
                   PRIMARY KEY (number, element));
CREATE INDEX by_state ON jobs (state);
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE calls (argv TEXT);
"""
_SINGLE = -1
_SETTINGS = {"slots": 1, "is_scheduling": True, "is_closing": False, "end_delay_s": 0.0}
_FORK_S = 2.0


@dataclass(slots=True)
class FakeJob:
    """A job, or one element of an array."""

    #: Shared by the elements of an array.
    number: int
    #: Its name.
    name: str
    #: What is run.
    argv: list[str]
    #: Its number in its array, or None.
    element: int | None = None
    #: Its environment; `FakeCluster.prepare` may add to it.
    environment: dict[str, str] = field(default_factory=dict)
    #: Where it starts.
    cwd: str = "/"
    #: Files that its output goes to; one that cannot be opened gives ``/dev/null``.
    stdout: str = "/dev/null"
    #: The same file as ``stdout`` is opened once.
    stderr: str = "/dev/null"
    #: Slots that it takes.
    cores: int = 1
    #: Seconds, or None.
    time_limit_s: float | None = None
    #: At most so many of its array run at once, or None.
    max_concurrent: int | None = None
    #: One of the words above.
    state: str = QUEUED
    #: Seconds since 1970, or None.
    submitted_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    #: Exit code; None when a signal ended it, or it never ran.
    exit_code: int | None = None
    #: The signal that ended it, or None.
    signal: int | None = None
    #: DELETED, TIME_LIMIT, or "".
    cause: str = ""
    #: True: somebody wants it gone.
    is_to_be_deleted: bool = False
    #: The process that watches it, or None.
    shepherd: int | None = None
    #: The job's first process, its session's leader; None before it runs.
    pid: int | None = None
    #: When that process started, in the kernel's ticks.
    pid_started: str = ""
    #: Whatever the scheduler wants to remember; JSON.
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, int | None]:
        """Number and element."""
        return self.number, self.element


class Queue:
    """The queue while nobody else changes it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def next_number(self) -> int:
        """Give a number that no job had."""
        number = int(self.setting("next_number", 1))
        self.set("next_number", number + 1)
        return number

    def add(self, jobs: Iterable[FakeJob]) -> None:
        """Take jobs in."""
        self._connection.executemany(
            "INSERT INTO jobs VALUES (?, ?, ?, ?, ?)",
            ((job.number, _element(job.element), job.state, job.cores, json.dumps(asdict(job))) for job in jobs),
        )

    def save(self, job: FakeJob) -> None:
        """Note what has changed about a job."""
        self._connection.execute(
            "UPDATE jobs SET state = ?, cores = ?, body = ? WHERE number = ? AND element = ?",
            (job.state, job.cores, json.dumps(asdict(job)), job.number, _element(job.element)),
        )

    def forget(self, job: FakeJob) -> None:
        """Drop a job."""
        self._connection.execute(
            "DELETE FROM jobs WHERE number = ? AND element = ?", (job.number, _element(job.element))
        )

    def job(self, number: int, element: int | None = None) -> FakeJob | None:
        """Give one job."""
        where = "number = ? AND element = ?"
        return next(self._select(where, (number, _element(element))), None)

    def jobs(self, *states: str, number: int | None = None) -> Iterator[FakeJob]:
        """Give jobs in the order of their submission: all, or those in some states, or of one number."""
        conditions, values = ["1"], list[Any](states)
        if states:
            conditions.append(f"state IN ({', '.join('?' * len(states))})")
        if number is not None:
            conditions.append("number = ?")
            values.append(number)
        return self._select(" AND ".join(conditions), values)

    def _select(self, where: str, values: Iterable[Any]) -> Iterator[FakeJob]:
        rows = self._connection.execute(
            f"SELECT body FROM jobs WHERE {where} ORDER BY number, element",  # noqa: S608 - no text of anybody's in it
            tuple(values),
        )
        return (FakeJob(**json.loads(body)) for (body,) in rows)

    def used_cores(self) -> int:
        """Give the number of slots that are taken."""
        row = self._connection.execute("SELECT SUM(cores) FROM jobs WHERE state IN (?, ?)", (RUNNING, ENDING))
        return int(row.fetchone()[0] or 0)

    def setting(self, name: str, default: Any = None) -> Any:
        """Give a setting of the cluster."""
        row = self._connection.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return default if row is None else json.loads(row[0])

    def set(self, name: str, value: Any) -> None:
        """Change a setting of the cluster."""
        self._connection.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, json.dumps(value)))

    def has(self, name: str) -> bool:
        """Tell whether there is such a setting."""
        return self._connection.execute("SELECT 1 FROM settings WHERE name = ?", (name,)).fetchone() is not None

    def record(self, argv: Collection[str]) -> None:
        """Note that a command was called."""
        self._connection.execute("INSERT INTO calls VALUES (?)", (json.dumps(list(argv)),))

    def calls(self) -> list[list[str]]:
        """Give the commands that were called."""
        return [json.loads(argv) for (argv,) in self._connection.execute("SELECT argv FROM calls ORDER BY rowid")]


def _element(element: int | None) -> int:
    return _SINGLE if element is None else element


class FakeCluster:
    """A queue in a directory, and what runs its jobs.

    Settings that count here: ``slots`` (cores), ``is_scheduling`` (False: nothing starts), ``end_delay_s`` (seconds
    that an ended job is still seen ending), ``kill 7`` (True: no signal but KILL is sent to job 7), ``owner`` (a
    process and its start time; when it is gone, so are the jobs).
    """

    #: Signals with the seconds that each is given, for a deleted job; what is left after the last is killed.
    delete_signals: ClassVar[tuple[tuple[int, float], ...]] = ((signal.SIGTERM, 2.0),)
    #: The same for a job whose time is up.
    limit_signals: ClassVar[tuple[tuple[int, float], ...]] = ((signal.SIGTERM, 2.0),)

    def __init__(self, directory: str) -> None:
        self.directory = directory

    # ------------------------------------------------------------ hooks of a scheduler

    def prepare(self, job: FakeJob) -> Mapping[str, str]:
        """Give variables that a job gets when it starts; may write files. Called in its shepherd."""
        return {}

    def finish(self, job: FakeJob) -> None:
        """Do what the scheduler does when a job has ended, e.g. write its report. Called in its shepherd."""

    # ------------------------------------------------------------ the state

    @classmethod
    def create(cls, directory: str, **settings: Any) -> FakeCluster:
        """Make a cluster's directory."""
        os.makedirs(directory, mode=0o700, exist_ok=True)
        cluster = cls(directory)
        with closing(cluster._connect()) as connection:
            connection.executescript("PRAGMA journal_mode = WAL;" + _TABLES)
        own = {"owner": [os.getpid(), start_time(os.getpid())], **_SETTINGS}
        with cluster.change() as queue:
            for name, value in {**own, **settings}.items():
                queue.set(name, value)
        return cluster

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(os.path.join(self.directory, "queue.db"), timeout=30, isolation_level=None)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    @contextmanager
    def look(self) -> Iterator[Queue]:
        """Read the queue as it is at one moment."""
        with closing(self._connect()) as connection:
            connection.execute("BEGIN")
            yield Queue(connection)

    @contextmanager
    def change(self) -> Iterator[Queue]:
        """Change the queue, alone; then start what can start."""
        starting: list[FakeJob] = []
        lock = os.open(os.path.join(self.directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # fair and without pauses, which SQLite's own waiting is not
            with closing(self._connect()) as connection:
                connection.execute("BEGIN IMMEDIATE")
                queue = Queue(connection)
                yield queue
                starting = self._choose(queue)
                connection.execute("COMMIT")
        finally:
            os.close(lock)
        for job in starting:
            self._start_shepherd(job)

    def set(self, **settings: Any) -> None:
        """Change settings.

        Raises:
            KeyError: There is no such setting.
        """
        with self.change() as queue:
            for name, value in settings.items():
                if not queue.has(name):
                    raise KeyError(f"the fake cluster has no setting {name!r}")
                queue.set(name, value)

    def delete(self, keys: Iterable[tuple[int, int | None]]) -> None:
        """Delete jobs: those that wait end at once, those that run when their signals have had their time."""
        shepherds = []
        with self.change() as queue:
            for number, element in keys:
                job = queue.job(number, element)
                if job is None or job.state in (ENDED, ENDING):
                    continue
                job.is_to_be_deleted = True
                if job.state == RUNNING:
                    shepherds.append(job.shepherd)
                else:
                    job.state, job.cause, job.ended_at = ENDED, DELETED, time.time()
                queue.save(job)
        for shepherd in shepherds:
            if shepherd is not None:  # None: about to be forked; it looks before it starts the job
                with suppress(ProcessLookupError):
                    os.kill(shepherd, signal.SIGUSR1)

    # ------------------------------------------------------------ starting

    def _choose(self, queue: Queue) -> list[FakeJob]:
        if not queue.setting("is_scheduling", True):
            return []
        free = int(queue.setting("slots", 1)) - queue.used_cores()
        chosen: list[FakeJob] = []
        running: dict[int, int] = {}
        for job in queue.jobs(QUEUED) if free > 0 else ():
            if job.max_concurrent is not None:
                if job.number not in running:
                    running[job.number] = sum(1 for _ in queue.jobs(RUNNING, ENDING, number=job.number))
                if running[job.number] >= job.max_concurrent:
                    continue
                running[job.number] += 1
            if job.cores <= free and self.may_start(queue, job):
                free -= job.cores
                job.state, job.started_at = RUNNING, time.time()
                chosen.append(job)
            if free <= 0:
                break
        for job in chosen:
            queue.save(job)
        return chosen

    def may_start(self, queue: Queue, job: FakeJob) -> bool:
        """Tell whether the scheduler lets a job start that has room."""
        return True

    def _start_shepherd(self, job: FakeJob) -> None:
        """Fork a job's shepherd, and wait until the queue knows it.

        In a job that submits jobs, the shepherd of that job would otherwise take the new one for something left behind.
        """
        from pytest_clusterjobs.testing.fakes.shepherd import Shepherd

        known, tell = os.pipe()
        middle = os.fork()
        if middle:
            os.close(tell)
            os.waitpid(middle, 0)
            os.read(known, 1)
            os.close(known)
            return
        code = 1
        try:
            os.setsid()
            if os.fork() == 0:
                tell = let_go_of_all_but(tell)
                Shepherd(self, job).work(lambda: os.close(tell))
            code = 0
        finally:
            os._exit(code)

    def close(self, patience_s: float = 20.0) -> None:
        """End every job and whatever it left, at once.

        Raises:
            TimeoutError: Some are still there after ``patience_s`` seconds.
        """
        self.set(is_scheduling=False, is_closing=True)
        deadline = time.monotonic() + patience_s
        while True:
            with self.look() as queue:
                known = list(queue.jobs(RUNNING, ENDING))
            left = [job for job in known if _is_watched(job)]
            if not left:
                self._end_without_shepherd(known)
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"jobs of the fake cluster are still there: {[job.key for job in left]}")
            self.delete(job.key for job in left)
            time.sleep(0.01)

    def _end_without_shepherd(self, jobs: Iterable[FakeJob]) -> None:
        """End jobs whose shepherd somebody has killed: what is in their sessions."""
        for job in jobs:
            if job.pid is not None and job.pid_started == start_time(job.pid):
                with suppress(ProcessLookupError):
                    os.killpg(job.pid, signal.SIGKILL)


def _is_watched(job: FakeJob) -> bool:
    """Tell whether a job's shepherd is there, or about to be forked by whoever has just started the job."""
    if job.shepherd is None:
        return time.time() - (job.started_at or 0) < _FORK_S
    return bool(start_time(job.shepherd))
