"""The ferry: carries jobs' directories to a machine that sees no file of ours, and what jobs leave there back.

All others read the copies here. A mark that a job makes there is made here too, once what belongs to it has come.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

from pytest_clusterjobs.backends.base import ENVIRONMENT, Submission
from pytest_clusterjobs.config.place import Place
from pytest_clusterjobs.config.settings import WORKDIR_NAME
from pytest_clusterjobs.core.errors import ClusterJobsError, StoreError
from pytest_clusterjobs.engine.store import STDERR, STDOUT, Store
from pytest_clusterjobs.node.runner import ENVELOPE, START
from pytest_clusterjobs.transports.base import Channel, FarTransport, hang_up

log = logging.getLogger("pytest_clusterjobs")

#: What a job leaves that is wanted here at its end.
_LEFT = (ENVELOPE, START, STDOUT, STDERR)
_LOGS = (STDOUT, STDERR)
#: A transfer may take so many times as long as a scheduler command.
_PATIENCE = 20.0
_RETRY_S, _MAX_RETRY_S = 0.5, 15.0
#: How often what a job has left is asked for, when it cannot be read or written, before its exit code alone counts.
_TRIES = 3

#: Tells all marks whenever one has come or gone: a line for each, with what is in it, and then a dot. In POSIX sh, and
#: without a process of its own but for the pauses, which grow from 50 ms to 500 ms while nothing happens.
_WATCH = """\
cd "$1" || exit 3
once=$2 old=. calm=0
while :; do
  set -- *
  if [ "$*" != "$old" ]; then
    old=$* calm=0
    for name; do
      case $name in
        *.start | '*') echo "$name" ;;
        *) code=; read -r code <"$name"; echo "$name $code"; [ -n "$code" ] || old=. ;;
      esac
    done
    echo . || exit 0
  fi
  [ -z "$once" ] || exit 0
  calm=$((calm + 1))
  if [ $calm -lt 400 ]; then sleep 0.05; elif [ $calm -lt 600 ]; then sleep 0.2; else sleep 0.5; fi
done
"""


class Ferry:
    """One worker's way of files to one far machine. Safe to use from several threads.

    Args:
        store: Where the copies here are.
        transport: The way there.
        place: Names the directory there that holds the runs' directories.
        timeout_s: Seconds that a short command may take.
    """

    def __init__(self, store: Store, transport: FarTransport, place: Place, timeout_s: float) -> None:
        self.transport = transport
        self._store, self._place, self._timeout_s = store, place, timeout_s
        self._lock = threading.RLock()
        self._root = ""
        self._is_begun = self._is_there = self._stop = False
        self._known: set[str] = set()
        self._tries: dict[str, int] = {}
        self._directories: dict[str, str] = {}
        self._watcher: Channel | None = None
        self._thread: threading.Thread | None = None
        self._pause = threading.Event()

    @property
    def root(self) -> str:
        """The directory there of this worker's part of the run.

        Raises:
            BackendError: The machine cannot be reached.
        """
        with self._lock:
            if not self._root:
                workdir = absolute_there(self.transport, self._place.workdir or WORKDIR_NAME, self._timeout_s)
                self._root = os.path.join(workdir, name_there(self._store.run_id, self._store.worker))
            return self._root

    def far(self, path: str) -> str:
        """Give the path there of something of the run here."""
        return os.path.join(self.root, os.path.relpath(path, self._store.root))

    # ------------------------------------------------------------ there

    def carry(self, submission: Submission) -> Submission:
        """Carry a submission's directory there, with what every job needs before the first; then watch.

        Returns:
            The submission as it is there.

        Raises:
            StoreError: It cannot be written there.
            ConnectionLost: The machine cannot be reached now.
        """
        names = [os.path.relpath(submission.directory, self._store.root)]
        with self._lock:
            if not self._is_there:
                marks = self.far(self._store.marks)
                self._is_begun = True
                for path in (self.root, marks):
                    self.transport.make_directory(path)
                names.append(os.path.relpath(os.path.dirname(self._store.runner), self._store.root))
            self.transport.put(self._store.root, names, self.root, _PATIENCE * self._timeout_s)
            self._is_there = True
            jobs = map(os.path.basename, submission.markers)
            self._directories.update(zip(jobs, submission.directories, strict=True))
            self._start()
        return dataclasses.replace(
            submission,
            directories=tuple(map(self.far, submission.directories)),
            directory=self.far(submission.directory),
            markers=tuple(map(self.far, submission.markers)),
            runner=self.far(submission.runner),
            python=self._python(submission.python),
        )

    def resume(self, directories: Mapping[str, str]) -> None:
        """Watch jobs that an earlier process has carried there: their directories here, by our ids."""
        with self._lock:
            self._is_begun = self._is_there = True
            self._directories.update(directories)
            self._start()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="clusterjobs-ferry", daemon=True)
            self._thread.start()

    def _python(self, python: str) -> str:
        return absolute_there(self.transport, python, self._timeout_s) if python.startswith("~") else python

    # ------------------------------------------------------------ and back

    def fetch(self, directories: Sequence[str], names: Sequence[str] = _LEFT) -> None:
        """Carry here what jobs have left in their directories so far.

        Raises:
            StoreError: Something cannot be read there or written here.
            ConnectionLost: The machine cannot be reached now.
        """
        relative = [os.path.relpath(directory, self._store.root) for directory in directories]
        wanted = [os.path.join(each, name) for each in relative for name in names]
        if wanted:
            self.transport.get(self.root, wanted, self._store.root, _PATIENCE * self._timeout_s)

    def fetch_logs(self, directory: str) -> None:
        """Carry here what a job has printed so far, if the machine can be reached."""
        with suppress(ClusterJobsError):
            self.fetch([directory], _LOGS)

    def forget(self, job_id: str) -> None:
        """Take a job's marks away there: the scheduler has put it back into the queue."""
        names = [job_id, f"{job_id}.start"]
        self._remove_marks(names)
        with self._lock:
            self._known.difference_update(names)
        self._end_watcher()  # the next one tells all anew, also a mark that has come again within one of its pauses

    def sweep(self) -> None:
        """Look for marks now, and bring what belongs to them."""
        with suppress(ClusterJobsError):
            argv = ["sh", "-c", _WATCH, "watch", self.far(self._store.marks), "once"]
            self._take(self.transport.run(argv, self._timeout_s).stdout.splitlines())

    def close(self, kept: Sequence[str]) -> None:
        """Stop watching, carry here all that lies in directories that are kept, and remove everything there.

        Raises:
            ClusterJobsError: Something is left there; the message says where.
        """
        self._stop = True
        self._pause.set()
        self._end_watcher()
        if self._thread is not None:
            self._thread.join(timeout=self._timeout_s)
        try:
            if self._is_begun:
                if names := [os.path.relpath(path, self._store.root) for path in kept]:
                    secrets = [self.far(os.path.join(path, ENVIRONMENT)) for path in kept]
                    self.transport.run(["rm", "-f", "--", *secrets], self._timeout_s)
                    self.transport.get(self.root, names, self._store.root, _PATIENCE * self._timeout_s)
                self.transport.remove(self.root)
                self._is_begun = False
        except ClusterJobsError as error:
            raise StoreError(f"{self.transport.host}: {self._root} is left there: {error.args[0]}") from error
        finally:
            self.transport.close()

    # ------------------------------------------------------------ watching

    def _loop(self) -> None:
        delay = _RETRY_S
        while not self._stop:
            try:
                if self._watch():
                    delay = _RETRY_S
            except ClusterJobsError as error:
                log.info("clusterjobs: watching %s goes on after: %s", self.transport.host, error.args[0])
            except Exception:  # the edge of the thread
                log.exception("clusterjobs: watching %s goes on after", self.transport.host)
            self._pause.wait(delay)
            delay = min(_MAX_RETRY_S, delay * 1.5)

    def _watch(self) -> bool:
        """Read the watcher's words until it ends; tell whether it said anything."""
        watcher = self._watcher = self.transport.open(["sh", "-c", _WATCH, "watch", self.far(self._store.marks)])
        assert watcher.stdout is not None  # noqa: S101 - the three are pipes
        assert watcher.stderr is not None  # noqa: S101
        with watcher.stdout, watcher.stderr:
            try:
                return not self._stop and self._listen(watcher.stdout)
            finally:
                self._end_watcher()

    def _listen(self, words: IO[bytes]) -> bool:
        lines: list[str] = []
        has_spoken = False
        for line in words:
            word = line.decode(errors="replace").rstrip("\n")
            if word != ".":
                lines.append(word)
                continue
            has_spoken = True
            while not self._stop and not self._take(lines):
                self._pause.wait(_RETRY_S)
            lines = []
        return has_spoken

    def _end_watcher(self) -> None:
        if self._watcher is not None:
            hang_up(self._watcher)

    def _take(self, lines: Sequence[str]) -> bool:
        """Make here the marks that are new there, after what belongs to them was fetched; False: try again."""
        listed = {name: code for name, _, code in (line.partition(" ") for line in lines)}
        with self._lock:
            self._known &= listed.keys()
            new = [name for name in listed if name not in self._known and name != "*"]
        starts = [name for name in new if name.endswith(".start")]
        ends = [name for name in new if name not in starts and listed[name]]
        for name in starts:
            self._store.transport.write(self._store.mark(name), b"")
        self._note(starts)
        try:
            self.fetch([self._directories[name] for name in ends if name in self._directories])
        except ClusterJobsError as error:
            if not isinstance(error, StoreError) or self._has_tries(ends):
                log.info("clusterjobs: %s: cannot fetch yet: %s", self.transport.host, error.args[0])
                return False
            log.warning("clusterjobs: %s: what jobs left cannot be fetched: %s", self.transport.host, error)
        for name in ends:
            self._store.transport.write(self._store.mark(name), listed[name].encode())
        self._note(ends)
        self._remove_marks([each for name in ends for each in (name, f"{name}.start")])
        return True

    def _note(self, names: Sequence[str]) -> None:
        with self._lock:
            self._known.update(names)
            for name in names:
                self._directories.pop(name, None)

    def _has_tries(self, names: Sequence[str]) -> bool:
        for name in names:
            self._tries[name] = self._tries.get(name, 0) + 1
        return any(self._tries[name] < _TRIES for name in names)

    def _remove_marks(self, names: Sequence[str]) -> None:
        if names:
            paths = [self.far(self._store.mark(name)) for name in names]
            with suppress(ClusterJobsError):  # those that stay are known, and go with the directory
                self.transport.run(["rm", "-f", "--", *paths], self._timeout_s)


def absolute_there(transport: FarTransport, path: str, timeout_s: float) -> str:
    """Give a path of the far machine as an absolute one: ``~/x`` and ``x`` are in the home directory there.

    Raises:
        StoreError: The login there has no home directory.
    """
    if os.path.isabs(path):
        return os.path.normpath(path)
    home = transport.run(["sh", "-c", "cd && pwd"], timeout_s).stdout.strip()
    if not os.path.isabs(home):
        raise StoreError(f"{transport.host}: no home directory for {path}; give the profile an absolute path")
    return os.path.normpath(os.path.join(home, path.removeprefix("~").lstrip("/")))


def remove_all(transport: FarTransport, place: Place, run_id: str, workers: Sequence[str], timeout_s: float) -> None:
    """Remove what the workers of a dead run have carried to a far machine."""
    workdir = absolute_there(transport, place.workdir or WORKDIR_NAME, timeout_s)
    for worker in workers:
        transport.remove(os.path.join(workdir, name_there(run_id, worker)))


def name_there(run_id: str, worker: str) -> str:
    return run_id if worker == "main" else f"{run_id}.{worker}"
