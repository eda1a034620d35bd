"""The link to one host: keeps a connection to the run's keeper there, and brings jobs there and what they left back.

The keeper (``node/far_keeper.py``) outlives the connection. When that breaks, nothing is known to have changed; the
link connects again, hears what became of every job meanwhile, and gives again what never arrived. It says that jobs are
lost only when the keeper must have ended them, because it has not heard from us for as long.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.util
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_clusterjobs.backends.ssh_wire import Wire
from pytest_clusterjobs.core.errors import BackendUnavailable, ClusterJobsError, ConnectionLost, StoreError
from pytest_clusterjobs.transports.base import FarTransport

_log = logging.getLogger(__name__)

_NODE = Path(__file__).resolve().parent.parent / "node"
#: Where a host keeps runs' directories, in the home directory there.
WORKDIR = ".clusterjobs"

_GRACE_S = 2.0
_RETRY_S, _MAX_RETRY_S = 0.2, 5.0
_PING_S = 5.0
#: Seconds that the keeper has to end everything.
_CLOSE_S = 10.0
#: A transfer may take so many times as long as a command.
_PATIENCE = 20.0
_FETCH_TRIES = 3
_RESULT = "result.cj"
_LEFT = frozenset({"start.json", "stdout.log", "stderr.log", _RESULT})

#: Runs a text from standard input, so that no process list shows it. Read by any Python; imports nothing of a login's.
_BOOT = "import sys; exec(eval(sys.stdin.readline()))"

#: Tells what became of a job: its id, the server's word, its exit code, more about it.
OnWord = Callable[[str, str, "int | None", str], None]


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """How a link works."""

    #: Directory there for runs' directories: absolute, or relative to the home directory.
    workdir: str
    #: Name of the run's directory in it.
    run_name: str
    #: The Python that runs the keeper and the jobs.
    python: str
    #: Seconds that a command may take.
    timeout_s: float
    #: At most so many of the host's cores; 0 for all.
    slots: int = 0
    #: Seconds without a connection after which the host ends everything.
    linger_s: float = 60.0


@dataclass(slots=True, eq=False)
class Package:
    """Jobs that are given to a host together."""

    #: What the keeper is told.
    message: Mapping[str, Any] = field(repr=False)
    #: Those of its jobs that have not ended, with their directories here.
    alive: dict[str, str]
    #: The keeper that it was given to, or that has a part of its files; "": none yet.
    keeper: str = ""


class HostLink:
    """A run's link to one host. Any thread may call; one thread of its own speaks with the host.

    Args:
        transport: The way there. Closed with the link.
        options: How it works.
        on_word: Called for every change of a job, when what the job has left is here.
    """

    def __init__(self, transport: FarTransport, options: LinkOptions, on_word: OnWord) -> None:
        #: The host, as users call it.
        self.host = transport.host
        #: The way there.
        self.transport = transport
        #: What the keeper said of itself, or None before it did.
        self.facts: Mapping[str, Any] | None = None
        #: True when it will not connect any more.
        self.is_dead = False
        #: When it died.
        self.died_at = 0.0
        #: Why it is not connected.
        self.error: ClusterJobsError | None = None
        self._options, self._on_word = options, on_word
        self._lock = threading.RLock()
        self._packages: dict[str, Package] = {}  # by job, until it has ended
        self._unsent: list[Package] = []
        self._cancelled: set[str] = set()
        self._notes: list[dict[str, Any]] = []
        self._ended: list[str] = []
        self._logs: dict[str, threading.Event] = {}
        self._fetching: set[str] = set()
        self._is_ready, self._stop = threading.Event(), threading.Event()
        self._is_connected = self._is_closing = self._is_over_there = False
        self._heard_at = 0.0
        self._tries = 0
        self._fetchers: ThreadPoolExecutor | None = None
        self._bell, self._rope = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name=f"clusterjobs-{self.host}", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------ what others ask for

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until it has connected for the first time, or cannot; tell whether it has."""
        return self._is_ready.wait(timeout_s) and self.facts is not None and not self.is_dead

    @property
    def slots(self) -> int:
        """The cores that jobs can get there."""
        cores = int(self.facts["cores"]) if self.facts else 0
        return min(cores, self._options.slots or cores)

    @property
    def load(self) -> int:
        """The cores that its unfinished jobs ask for together."""
        with self._lock:
            return sum(int(package.message["shape"]["count"]) for package in self._packages.values())

    @property
    def keeper(self) -> str:
        """The keeper that is there now."""
        return str(self.facts["hello"]) if self.facts else ""

    @property
    def directory(self) -> str:
        """The run's directory there."""
        return str(self.facts["folder"]) if self.facts else ""

    def give(self, package: Package) -> None:
        """Have jobs run there; while there is no connection they wait for it."""
        with self._lock:
            self._packages.update(dict.fromkeys(package.alive, package))
            self._unsent.append(package)
            is_dead = self.is_dead
        self._ring()
        if is_dead:
            self._give_up()

    def put(self, source: str, names: list[str]) -> None:
        """Copy files and folders below ``source`` into the run's directory there.

        Raises:
            ClusterJobsError: They cannot be written there, or the host cannot be reached.
        """
        self.transport.put(source, names, self.directory, _PATIENCE * self._options.timeout_s)

    def cancel(self, native_ids: Collection[str]) -> None:
        """Have jobs cancelled; while there is no connection, as soon as there is one."""
        with self._lock:
            self._cancelled.update(native_ids)
        self._note({"cancel": list(native_ids)})

    def fetch_logs(self, native_id: str) -> None:
        """Bring what a running job has printed so far here, if that can be had soon."""
        with self._lock:
            if not self._is_connected or native_id not in self._packages:
                return
            came = self._logs.setdefault(native_id, threading.Event())
        self._note({"logs": native_id})
        came.wait(min(self._options.timeout_s, _PING_S))

    def fetch(self, directories: list[str], root: str) -> None:
        """Bring directories of the run's directory there into the one here, ``root``.

        Raises:
            ClusterJobsError: They cannot be had.
        """
        if not self._is_connected:
            raise ConnectionLost(f"{self.host} is out of reach: files that kept jobs wrote there are not here", "ssh")
        self.transport.get(self.directory, directories, root, 2 * self._options.timeout_s)

    def close(self) -> None:
        """End every job there and remove the run's directory; bounded, and no error where the host is out of reach."""
        self._is_closing = True
        self._stop.set()
        self._ring()
        self._thread.join(_CLOSE_S + 2)
        if self._fetchers is not None:
            self._fetchers.shutdown(wait=False, cancel_futures=True)
        self.transport.close()
        self._thread.join(_CLOSE_S)
        if self.facts is not None and not self._is_over_there:
            _log.warning(
                "clusterjobs: %s could not be told that the run has ended; what runs there ends by itself %g s "
                "after it has last heard of us",
                self.host,
                self._options.linger_s,
            )

    def _ring(self) -> None:
        with suppress(OSError):  # the thread has ended
            self._rope.send(b"!")

    # ------------------------------------------------------------ the thread

    def _serve(self) -> None:
        try:
            self._stay_connected()
        except Exception as error:  # the edge of the thread
            _log.exception("clusterjobs: the link to %s ends after", self.host)
            self.error = BackendUnavailable(f"{self.host}: {error}")
        with self._lock:
            self.is_dead, self.died_at = True, time.monotonic()
        self._give_up()
        self._is_ready.set()
        for end in (self._bell, self._rope):
            end.close()

    def _stay_connected(self) -> None:
        delay = _RETRY_S
        while not self._is_closing:
            try:
                self._connect_once()
                delay = _RETRY_S
            except ClusterJobsError as error:
                self.error = error
                self._tries += 1
                if self.facts is None:
                    return
            left_s = self._heard_at + self._options.linger_s - time.monotonic()
            if left_s <= 0:
                return
            self._stop.wait(min(delay, left_s))
            delay = min(_MAX_RETRY_S, delay * 1.5)

    def _connect_once(self) -> None:
        """Connect, and speak with the keeper until the connection breaks or is wanted no more.

        Raises:
            ClusterJobsError: There was no connection.
        """
        boot = (_NODE / "far_boot.py").read_text(encoding="utf-8")
        options, stamp = self._options, _files()[1]
        keeper = {"linger_s": options.linger_s, "slots": options.slots, "grace_s": _GRACE_S}
        python = [options.python]
        if options.python.startswith("~/"):
            python = ["sh", "-c", 'exec "$HOME/$0" "$@"', options.python[2:]]
        words = [options.workdir or WORKDIR, options.run_name, stamp, json.dumps(keeper)]
        wire = Wire(self.transport.open([*python, "-u", "-c", _BOOT, *words]), self._bell.fileno())
        wire.write(ascii(boot).encode() + b"\n")
        try:
            self._speak(wire)
        finally:
            with self._lock:
                self._is_connected = False
            wire.close()

    def _speak(self, wire: Wire) -> None:
        deadline = time.monotonic() + self._options.timeout_s
        ping_s = min(_PING_S, self._options.linger_s / 4)
        quiet_s = max(2 * ping_s, min(self._options.timeout_s, self._options.linger_s / 2))
        next_ping, is_goodbye_said = 0.0, False
        while not wire.is_over:
            now = time.monotonic()
            if now > deadline:
                raise ConnectionLost(f"{self.host} did not answer within {self._options.timeout_s:g} s", "ssh")
            if self._is_connected:
                deadline = self._heard_at + quiet_s
                if now >= next_ping:
                    self._note({"ping": 1})
                    next_ping = now + ping_s
                self._send_what_waits(wire)
            if self._is_closing and not is_goodbye_said:
                if not self._is_connected:
                    return
                wire.send({"close": 1})
                is_goodbye_said, self._is_connected = True, False
                deadline = now + _CLOSE_S
            for message in wire.turn(min(deadline, max(next_ping, now + 0.05)) - now):
                self._heard_at = time.monotonic()
                self._take(wire, message)
            self._silence_bell()
        if not self._is_connected and not is_goodbye_said:
            raise self._why_over(wire)

    def _silence_bell(self) -> None:
        with suppress(BlockingIOError):
            self._bell.recv(4096, socket.MSG_DONTWAIT)

    def _why_over(self, wire: Wire) -> ClusterJobsError:
        words = wire.last_words()
        if wire.returncode in (126, 127):
            return BackendUnavailable(
                f"{self.host}: {self._options.python!r} cannot be run there: {words}; name another Python with the "
                "profile's key python",
                "ssh",
            )
        return ConnectionLost(f"{self.host}: the connection ended at its beginning: {words}", "ssh")

    def _send_what_waits(self, wire: Wire) -> None:
        with self._lock:
            packages, self._unsent = self._unsent, []
            notes, self._notes = self._notes, []
            acknowledged: list[dict[str, Any]] = []
            if self._ended and (packages or notes):  # no hurry: what is sent anyway takes it along
                acknowledged, self._ended = [{"ack": self._ended}], []
            for package in packages:
                package.keeper = self.keeper
        for message in (*acknowledged, *(package.message for package in packages), *notes):  # the first makes room
            wire.send(message)

    # ------------------------------------------------------------ what the host says

    def _take(self, wire: Wire, message: Mapping[str, Any]) -> None:
        if "wants" in message:
            wire.send(_files()[0])
        elif "refused" in message:
            raise BackendUnavailable(f"{self.host}: {message['refused']}", "ssh")
        elif "hello" in message:
            self._greet(wire, message)
        elif "logs" in message:
            self._take_logs(message)
        elif "closed" in message:
            self._is_over_there = True
        elif "id" in message:
            self._hear(message)

    def _greet(self, wire: Wire, hello: Mapping[str, Any]) -> None:
        if self._options.slots > hello["cores"]:
            wire.send({"close": 1})
            raise BackendUnavailable(
                f"{self.host}: slots={self._options.slots}, and it has {hello['cores']} cores", "ssh"
            )
        known = set(hello["jobs"])
        with self._lock:
            packages = dict.fromkeys(self._packages.values())
            given_to_others = [each for each in packages if each.keeper and each.keeper != hello["hello"]]
            self._unsent = [each for each in packages if each not in given_to_others and not known & each.alive.keys()]
            self._notes = [{"cancel": sorted(self._cancelled)}] if self._cancelled else []
            self.facts, self.error, self._tries = hello, None, 0
            self._is_connected, self._is_over_there = True, False
            gone = [native_id for package in given_to_others for native_id in package.alive]
        for native_id in gone:
            self._end(native_id, "NODE_FAIL", None, f"the job server on {self.host} died, or the host was restarted")
        self._is_ready.set()

    def _hear(self, message: Mapping[str, Any]) -> None:
        native_id, word = message["id"], message["word"]
        package = self._packages.get(native_id)
        if package is None:  # it was told before, or given up as lost
            is_alive = word in ("PENDING", "RUNNING")
            if is_alive:
                self._note({"cancel": [native_id]})
            else:
                self._ended.append(native_id)
        elif word in ("PENDING", "RUNNING"):
            self._on_word(native_id, word, None, "")
        elif native_id not in self._fetching:
            if message["large"]:
                self._fetching.add(native_id)
                if self._fetchers is None:
                    self._fetchers = ThreadPoolExecutor(2, thread_name_prefix=f"clusterjobs-fetch-{self.host}")
                self._fetchers.submit(self._bring, message, package.alive[native_id])
            else:
                self._bring(message, package.alive[native_id])

    def _bring(self, message: Mapping[str, Any], directory: str) -> None:
        """Have here what a job has left, and then tell how it ended."""
        native_id, word, code, detail = message["id"], message["word"], message.get("code"), message["detail"]
        try:
            if message["large"]:
                self._fetch(native_id, directory, message["large"])
            _write(directory, message["files"])
        except (ClusterJobsError, OSError) as error:
            word, code, detail = "LOST", None, f"what it left on {self.host} cannot be brought here: {error}"
        except Exception as error:  # the edge of a worker thread
            _log.exception("clusterjobs: job %s", native_id)
            word, code, detail = "LOST", None, f"what it left on {self.host} cannot be brought here: {error}"
        self._end(native_id, word, code, detail)

    def _fetch(self, native_id: str, directory: str, names: Collection[str]) -> None:
        there = next(task[1] for task in self._packages[native_id].message["tasks"] if task[0] == native_id)
        wanted = [name for name in names if name in _LEFT]
        for turn in range(_FETCH_TRIES):
            try:
                far = os.path.join(self.directory, there)
                found = self.transport.get(far, wanted, directory, _PATIENCE * self._options.timeout_s)
            except ConnectionLost:
                if turn == _FETCH_TRIES - 1 or self._stop.wait(_RETRY_S * 5**turn):
                    raise
            else:
                if missing := sorted(set(wanted) - set(found)):
                    raise StoreError(f"{self.host}: {far} holds no {', '.join(missing)} any more")
                return

    def _take_logs(self, message: Mapping[str, Any]) -> None:
        package = self._packages.get(message["logs"])
        if package is not None and message["logs"] not in self._fetching:
            with suppress(OSError):
                _write(package.alive[message["logs"]], message["files"])
        with self._lock:
            came = self._logs.pop(message["logs"], None)
        if came is not None:
            came.set()

    def _end(self, native_id: str, word: str, code: int | None, detail: str) -> None:
        with self._lock:
            package = self._packages.pop(native_id, None)
            if package is None:
                return
            del package.alive[native_id]
            self._fetching.discard(native_id)
            self._cancelled.discard(native_id)
        self._on_word(native_id, word, code, detail)
        with self._lock:
            self._ended.append(native_id)

    def _note(self, message: dict[str, Any]) -> None:
        with self._lock:
            self._notes.append(message)
        if threading.current_thread() is not self._thread:
            self._ring()

    def _give_up(self) -> None:
        """End the jobs that are left: nobody will say any more what became of them."""
        why = self.error.args[0] if self.error is not None else "the connection broke"
        for native_id in list(self._packages):
            if self._is_closing:
                self._end(native_id, "CANCELLED", None, "the ssh backend was closed")
            else:
                linger_s, tries = self._options.linger_s, self._tries
                self._end(
                    native_id,
                    "LOST",
                    None,
                    f"{self.host} has not answered for {linger_s:g} s, and ends its jobs then; tried {tries} times to "
                    f"connect again, at last: {why}",
                )


@functools.cache
def _files() -> tuple[dict[str, str], str]:
    """Give what runs jobs, by its path there, and a name for this very content."""
    spec = importlib.util.find_spec("cloudpickle")
    library = Path(spec.origin).parent if spec is not None and spec.origin else None
    sources = {f"node/{path.name}": path for path in _NODE.glob("*.py")}
    sources |= {f"node/lib/cloudpickle/{path.name}": path for path in (library.glob("*.py") if library else ())}
    files = {name: base64.b64encode(path.read_bytes()).decode() for name, path in sorted(sources.items())}
    return files, hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]


def _write(directory: str, files: Mapping[str, str]) -> None:
    """Write what a job has left; its result last, and whole."""
    for name in sorted(_LEFT & files.keys(), key=lambda name: name == _RESULT):
        path = os.path.join(directory, name)
        new = f"{path}.tmp" if name == _RESULT else path
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(base64.b64decode(files[name]))
        if new != path:
            os.replace(new, path)
