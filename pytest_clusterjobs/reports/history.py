"""What became of past runs: a small database in the user's state directory, and what can be read from it.

It holds ids of tests without the values of their parameters, backends, outcomes and times. It holds no arguments, no
environment and no output. Its size is bounded: the oldest runs go.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from pytest_clusterjobs.core.errors import ClusterJobsError
from pytest_clusterjobs.reports.model import ReportedTest, RunReport
from pytest_clusterjobs.reports.performance import name_of

if TYPE_CHECKING:
    import sqlite3

#: Of all projects together; about 25 MB.
MAX_TESTS = 200_000

_VERSION = 1
# Another pytest may be writing; a home directory without working locks must not hold up the end of a run.
_LOCK_TIMEOUT_S = 2.0
_TABLES = f"""
PRAGMA auto_vacuum = FULL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS run (
  id INTEGER PRIMARY KEY, project TEXT NOT NULL, run_id TEXT NOT NULL, started_at TEXT NOT NULL,
  duration_s REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS test (
  run INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE, name TEXT NOT NULL, backend TEXT NOT NULL,
  outcome TEXT NOT NULL, is_infrastructure INTEGER NOT NULL, reruns INTEGER NOT NULL, jobs INTEGER NOT NULL,
  queue_time_s REAL, run_time_s REAL
);
CREATE INDEX IF NOT EXISTS test_by_run ON test (run);
CREATE INDEX IF NOT EXISTS run_by_project ON run (project);
PRAGMA user_version = {_VERSION};
COMMIT;
"""


class HistoryError(ClusterJobsError):
    """The database cannot be read or written."""


class PastTest(NamedTuple):
    """One test in one run."""

    #: The run's number; later runs have higher ones.
    run: int
    #: The run's id, as it is in jobs' names.
    run_id: str
    #: When the run began, UTC.
    started_at: datetime
    #: Its id, without its backend; a digest stands for its parameters.
    name: str
    #: Where it ran.
    backend: str
    #: How it ended, in pytest's words.
    outcome: str
    #: True: its error was the cluster's trouble.
    is_infrastructure: bool
    #: How often it was run again.
    reruns: int
    #: How many jobs it had.
    jobs: int
    #: Seconds of its jobs in the queue, together, or None.
    queue_time_s: float | None
    #: Seconds that its jobs ran, together, or None.
    run_time_s: float | None

    @property
    def has_passed(self) -> bool:
        """True when it did not make its run fail."""
        return self.outcome not in ("failed", "error")


class Point(NamedTuple):
    """What one run did on one backend."""

    #: The run's id.
    run_id: str
    #: When it began, UTC.
    started_at: datetime
    #: How many tests ran, and how many of them passed.
    tests: int
    passed: int
    #: How many jobs there were.
    jobs: int
    #: Seconds in the queue and of running, of a job on average, or None.
    queue_time_s: float | None
    run_time_s: float | None


class Trend(NamedTuple):
    """What became of the tests on one backend."""

    #: Its name.
    backend: str
    #: The runs, oldest first.
    points: tuple[Point, ...]
    #: How often a test failed through the cluster's trouble.
    troubles: int
    #: How the queue and run times of tests that passed have changed from the older half of the runs to the newer: 0.1
    #: is 10 % more. The median of the tests; None where nothing can be compared.
    queue_change: float | None
    run_change: float | None

    @property
    def pass_rate(self) -> float:
        """The part of the tests that passed, of all runs together."""
        return sum(point.passed for point in self.points) / sum(point.tests for point in self.points)


class Flaky(NamedTuple):
    """A test that passes and fails on one backend."""

    #: Its id, without its backend.
    name: str
    #: The backend.
    backend: str
    #: How often it ran.
    runs: int
    #: How often it failed.
    failed: int
    #: How often it failed after it had passed, or passed after it had failed.
    changes: int
    #: How often a plugin ran it again.
    reruns: int


def default_path() -> str:
    """Give the file: ``$XDG_STATE_HOME/clusterjobs/history.sqlite3``, by default below ``~/.local/state``.

    Source: XDG Base Directory Specification 0.8: a relative path in the variable is to be ignored.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        state = os.path.expanduser("~/.local/state")
    return os.path.join(state, "clusterjobs", "history.sqlite3")


def record(path: str, project: str, report: RunReport, keep_runs: int, max_tests: int = MAX_TESTS) -> bool:
    """Add a run to the database, and drop the oldest ones beyond the limits.

    Args:
        path: The database; made if it is not there, for this user alone.
        project: Absolute path of the project's root.
        report: The run.
        keep_runs: So many runs of this project are kept.
        max_tests: So many tests of all projects are kept, and the newest run.

    Returns:
        False, and nothing is written, when no test ran on a backend.

    Raises:
        HistoryError: It cannot be written.
    """
    rows = [_row(test) for test in report.tests if test.backend and test.outcome != "skipped"]
    if not rows:
        return False
    duration_s = (report.ended_at - report.started_at).total_seconds()
    with _opened(path, makes=True) as database, database:
        run = database.execute(
            "INSERT INTO run (project, run_id, started_at, duration_s) VALUES (?, ?, ?, ?)",
            (project, report.run_id, report.started_at.isoformat(timespec="milliseconds"), duration_s),
        ).lastrowid
        database.executemany("INSERT INTO test VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", ((run, *row) for row in rows))
        _trim(database, project, keep_runs, max_tests)
    return True


def _row(test: ReportedTest) -> tuple[object, ...]:
    times = [
        [value for job in test.jobs if (value := job["metrics"].get(metric)) is not None]
        for metric in ("queue_time_s", "run_time_s")
    ]
    return (
        anonymous(name_of(test.nodeid, test.backend)),
        test.backend,
        test.outcome,
        int(test.is_infrastructure),
        test.reruns,
        len(test.jobs),
        *(sum(known) if known else None for known in times),
    )


def anonymous(name: str) -> str:
    """Give a test's id with a digest in the place of its parameters: values are often in their names."""
    head, bracket, parameters = name.partition("[")
    return f"{head}[{hashlib.sha256(parameters.encode()).hexdigest()[:8]}]" if bracket else name


def _trim(database: sqlite3.Connection, project: str, keep_runs: int, max_tests: int) -> None:
    database.execute(
        "DELETE FROM run WHERE project = ? AND id NOT IN "
        "(SELECT id FROM run WHERE project = ? ORDER BY id DESC LIMIT ?)",
        (project, project, keep_runs),
    )
    # Newest first, the tests are added up; runs go from where the sum is too large, the newest never.
    database.execute(
        "DELETE FROM run WHERE id < (SELECT max(id) FROM run) AND id IN ("
        "SELECT id FROM (SELECT run AS id, sum(count(*)) OVER (ORDER BY run DESC) AS total FROM test GROUP BY run) "
        "WHERE total > ?)",
        (max_tests,),
    )


def projects(path: str) -> list[str]:
    """Give the projects that have runs.

    Raises:
        HistoryError: It cannot be read.
    """
    with _opened(path) as database:
        return [name for (name,) in database.execute("SELECT DISTINCT project FROM run ORDER BY project")]


def read(path: str, project: str, runs: int) -> list[PastTest]:
    """Give the tests of a project's newest runs, oldest first.

    Raises:
        HistoryError: It cannot be read.
    """
    with _opened(path) as database:
        rows = database.execute(
            "SELECT run.id, run_id, started_at, name, backend, outcome, is_infrastructure, reruns, jobs, queue_time_s, "
            "run_time_s FROM test JOIN run ON test.run = run.id WHERE run.id IN "
            "(SELECT id FROM run WHERE project = ? ORDER BY id DESC LIMIT ?) ORDER BY run.id, test.rowid",
            (project, runs),
        )
        return [
            PastTest(run, run_id, datetime.fromisoformat(at), name, backend, outcome, bool(trouble), *rest)
            for run, run_id, at, name, backend, outcome, trouble, *rest in rows
        ]


@contextmanager
def _opened(path: str, *, makes: bool = False) -> Iterator[sqlite3.Connection]:
    """Open the database, and word what is wrong with it.

    Raises:
        HistoryError: It cannot be read or written.
    """
    try:
        import sqlite3
    except ImportError as error:  # a Python that was built without it
        raise HistoryError(f"history: this Python has no sqlite3: {error}") from None
    try:
        if makes:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # sqlite would make it for everybody to read
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=rw", timeout=_LOCK_TIMEOUT_S, uri=True)) as database:
            _prepare(database, path)
            yield database
    except OSError as error:
        raise HistoryError(f"history: {path}: {error.strerror}") from error
    except sqlite3.OperationalError as error:  # locked, not to be written, no room
        raise HistoryError(f"history: {path}: {error}") from error
    except sqlite3.Error as error:
        raise HistoryError(f"history: {path}: {error}; it can be removed") from error


def _prepare(database: sqlite3.Connection, path: str) -> None:
    database.execute("PRAGMA foreign_keys = ON")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version == 0:
        database.executescript(_TABLES)
    elif version != _VERSION:
        raise HistoryError(f"history: {path} has layout {version}, this version knows {_VERSION}; it can be removed")


# ---------------------------------------------------------------- what can be read from it


def trends(tests: Iterable[PastTest]) -> list[Trend]:
    """Give what became of the tests, one for each backend."""
    grouped: dict[str, list[PastTest]] = {}
    for test in tests:
        grouped.setdefault(test.backend, []).append(test)
    return [
        Trend(
            backend,
            tuple(_points(mine)),
            sum(test.is_infrastructure for test in mine),
            _change(mine, lambda test: test.queue_time_s),
            _change(mine, lambda test: test.run_time_s),
        )
        for backend, mine in sorted(grouped.items())
    ]


def _points(tests: Sequence[PastTest]) -> Iterator[Point]:
    runs: dict[int, list[PastTest]] = {}
    for test in tests:
        runs.setdefault(test.run, []).append(test)
    for mine in runs.values():
        yield Point(
            mine[0].run_id,
            mine[0].started_at,
            len(mine),
            sum(test.has_passed for test in mine),
            sum(test.jobs for test in mine),
            _per_job([(test.queue_time_s, test.jobs) for test in mine]),
            _per_job([(test.run_time_s, test.jobs) for test in mine]),
        )


def _per_job(times: Sequence[tuple[float | None, int]]) -> float | None:
    known = [(seconds, jobs) for seconds, jobs in times if seconds is not None]
    return sum(seconds for seconds, _ in known) / sum(jobs for _, jobs in known) if known else None


def _change(tests: Sequence[PastTest], time_of: Callable[[PastTest], float | None]) -> float | None:
    """Compare each test with itself: runs may have different tests."""
    runs = sorted({test.run for test in tests})
    middle = runs[len(runs) // 2]
    halves: tuple[dict[str, list[float]], dict[str, list[float]]] = {}, {}
    for test in tests:
        seconds = time_of(test)
        if test.has_passed and seconds is not None:
            halves[test.run >= middle].setdefault(test.name, []).append(seconds)
    older, newer = halves
    ratios = [median(newer[name]) / median(older[name]) for name in older if name in newer and median(older[name]) > 0]
    return median(ratios) - 1 if ratios else None


def flaky(tests: Iterable[PastTest]) -> list[Flaky]:
    """Give the tests that pass and fail on one backend, the most changing first. The cluster's trouble is left out."""
    grouped: dict[tuple[str, str], list[PastTest]] = {}
    for test in tests:
        if not test.is_infrastructure:
            grouped.setdefault((test.name, test.backend), []).append(test)
    found = []
    for (name, backend), mine in grouped.items():
        passed = [test.has_passed for test in mine]
        changes = sum(before != after for before, after in pairwise(passed))
        reruns = sum(test.reruns for test in mine if test.has_passed)
        if changes or reruns:
            found.append(Flaky(name, backend, len(mine), passed.count(False), changes, reruns))
    return sorted(found, key=lambda each: (-each.changes - each.reruns, each.name, each.backend))
