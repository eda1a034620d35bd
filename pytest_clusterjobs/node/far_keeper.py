"""The keeper of one run's jobs on another host: outlives a lost connection, ends everything when nobody comes back.

Started by ``far_boot.py`` in the run's directory. It is the one client of a local job server, which runs the jobs, and
speaks with the run's process at home in lines of JSON over streams that it is handed, each time that one connects. What
became of a job is said again at each connection until that process has acknowledged it, so nothing is lost or doubled.
"""

import base64
import errno
import fcntl
import json
import os
import secrets
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from typing import Any, Dict, List, Optional, Tuple

#: What a job leaves that is wanted at home.
LEFT = ("start.json", "stdout.log", "stderr.log", "result.cj")
#: A file of up to so many bytes goes into the message itself; a larger one is left to be fetched.
INLINE_BYTES = 256 * 1024
#: What, when it is large, is removed as soon as the end of a job was acknowledged: its result, whole or not.
_DONE_WITH = ("result.cj", "arguments.pkl")
#: Seconds that the word of a job's start is held back: of a shorter job the end alone is told.
_START_S = 0.02
#: The default work directory, which is removed when it is empty; one that a user has named is not.
_OWN_WORKDIR = ".clusterjobs"
#: Seconds that the job server has to end everything.
_STOP_S = 6.0
#: Seconds that a last word may take.
_GOODBYE_S = 2.0


class Home:
    """The connection to the run's process at home."""

    def __init__(self, connection: socket.socket, streams: List[int]) -> None:
        self.connection = connection
        self.incoming, self.outgoing = streams
        self.rest, self.unsent = b"", b""
        #: True when it knows whom it speaks with.
        self.is_greeted = False
        for stream in streams:
            os.set_blocking(stream, False)

    def read(self) -> Optional[List[Dict[str, Any]]]:
        """Give the messages that have come; None when it is gone."""
        try:
            data = os.read(self.incoming, 1 << 20)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        *lines, self.rest = (self.rest + data).split(b"\n")
        return [json.loads(line) for line in lines] if data else None

    def flush(self) -> bool:
        """Write what it takes now; False when it is gone."""
        try:
            self.unsent = self.unsent[os.write(self.outgoing, self.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let it go."""
        for stream in (self.incoming, self.outgoing):
            os.close(stream)
        self.connection.close()


class Keeper:
    """The loop.

    Args:
        listener: Descriptor of the socket where connections come in.
        linger_s: Seconds after the last word from home when everything is ended.
        slots: At most so many of the host's cores, 0 for all.
        grace_s: Seconds between SIGTERM and SIGKILL for a job at its limit, or cancelled.
    """

    def __init__(self, listener: int, linger_s: float, slots: int, grace_s: float) -> None:
        self._listener = socket.socket(fileno=listener)
        self._linger_s, self._grace_s = linger_s, grace_s
        self._cores = sorted(os.sched_getaffinity(0))
        self._used = self._cores[: slots or None]
        self._id, self._folder = secrets.token_hex(8), os.getcwd()
        #: By job: its directory and what was last said of it.
        self._directories: Dict[str, str] = {}
        self._words: Dict[str, Dict[str, Any]] = {}
        #: Those that have just started, in order, with the time when that is told.
        self._started: Dict[str, float] = {}
        self._home: Optional[Home] = None
        self._server: Optional[subprocess.Popen] = None  # type: ignore[type-arg]
        self._to_server: Optional[socket.socket] = None
        self._rest = b""
        self._is_ready = self._is_over = False
        self._trouble = ""
        self._heard_at = time.monotonic()
        self._poll = select.poll()
        self._poll.register(self._listener, select.POLLIN)

    def serve(self) -> int:
        """Work until home says that it is over, or has said nothing for too long."""
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._start_server()
        while not self._is_over:
            now = time.monotonic()
            self._tell_starts(now)
            wait_s = self._heard_at + self._linger_s - now
            if wait_s <= 0 and self._is_given_up():
                break
            wait_s = min([wait_s, *(due - now for due in self._started.values())])
            for descriptor, _ in self._poll.poll(max(0.0, wait_s) * 1000):
                self._attend(descriptor)
        self._finish()
        return 0

    def _attend(self, descriptor: int) -> None:
        home = self._home
        if descriptor == self._listener.fileno():
            self._accept()
        elif self._to_server is not None and descriptor == self._to_server.fileno():
            self._hear_server()
        elif home is not None and descriptor == home.outgoing:
            self._flush()
        elif home is not None and descriptor == home.connection.fileno():
            self._drop()
        elif home is not None and descriptor == home.incoming:
            messages = home.read()
            if messages is None:
                self._drop()
                return
            self._heard_at = time.monotonic()
            for message in messages:
                self._obey(message)

    # ------------------------------------------------------------ home

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(_GOODBYE_S)
        try:
            _, streams, _, _ = socket.recv_fds(connection, 1, 2)
        except OSError:
            streams = []
        if len(streams) != 2:  # it has ended already
            for stream in streams:
                os.close(stream)
            connection.close()
            return
        self._drop()  # the newest counts: the one before it may not yet know that it is cut off
        home = self._home = Home(connection, streams)
        self._poll.register(home.connection, select.POLLIN)
        self._poll.register(home.incoming, select.POLLIN)
        self._heard_at = time.monotonic()
        if self._server is None:
            self._start_server()
        if self._is_ready:
            self._greet()

    def _greet(self) -> None:
        if self._home is None or self._home.is_greeted:
            return
        self._home.is_greeted = True
        system = os.uname()
        self._say(
            {
                "hello": self._id,
                "folder": self._folder,
                "node": system.nodename,
                "system": "{} {}".format(system.sysname, system.release),
                "python": sys.version.split()[0],
                "executable": sys.executable,
                "cores": len(self._cores),
                "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
                "jobs": list(self._words),
            }
        )
        for native_id in list(self._words):
            self._tell(native_id)

    def _drop(self) -> None:
        home, self._home = self._home, None
        if home is not None:
            self._poll.unregister(home.connection)
            self._poll.unregister(home.incoming)
            if home.unsent:
                self._poll.unregister(home.outgoing)
            home.close()

    def _say(self, message: Dict[str, Any]) -> None:
        if self._home is not None:
            if not self._home.unsent:
                self._poll.register(self._home.outgoing, select.POLLOUT)
            self._home.unsent += json.dumps(message).encode() + b"\n"
            self._flush()

    def _flush(self) -> None:
        home = self._home
        if home is None:
            return
        if not home.flush():
            self._drop()
        elif not home.unsent:
            self._poll.unregister(home.outgoing)

    def _tell(self, native_id: str) -> None:
        """Say what was last said of a job, with what it has left if it has ended."""
        word = self._words[native_id]
        if word["word"] in ("PENDING", "RUNNING"):
            self._say(word)
        else:
            self._say({**word, **read_files(self._directories[native_id], LEFT)})

    def _obey(self, message: Dict[str, Any]) -> None:
        if "submit" in message:
            self._submit(message)
        elif "cancel" in message:
            self._order({"cancel": message["cancel"]})
        elif "ack" in message:
            self._forget(message["ack"])
        elif "logs" in message:
            found = read_files(self._directories.get(message["logs"], ""), ("stdout.log", "stderr.log"), ends=True)
            self._say({"logs": message["logs"], **found})
        elif "close" in message:
            self._is_over = True
        else:
            self._say({"pong": True})

    def _submit(self, message: Dict[str, Any]) -> None:
        tasks, shape = message["tasks"], message["shape"]
        for native_id, directory, _ in tasks:
            self._directories[native_id] = os.path.join(self._folder, directory)
            self._words[native_id] = {"id": native_id, "word": "PENDING"}
        try:
            write_files(message["files"])
            if self._server is None:
                self._start_server()
        except OSError as error:
            detail = "{}: {}".format(error.filename or "the job server", error.strerror or error)
            self._note_all([task[0] for task in tasks], "LAUNCH_FAILED", detail)
            return
        shape["environment"] = {**os.environ, **shape["environment"]}
        made = []
        for native_id, _, own in tasks:
            directory = self._directories[native_id]
            own["CLUSTERJOBS_LOCAL_SLOTS"] = os.path.join(directory, "slots")
            made.append((native_id, directory, "", own))
        self._order({"submit": message["submit"], "tasks": made, "limit": message["limit"], "shape": shape})

    def _forget(self, native_ids: List[str]) -> None:
        for native_id in native_ids:
            self._words.pop(native_id, None)
            remove_large(self._directories.pop(native_id, ""))

    # ------------------------------------------------------------ the job server

    def _start_server(self) -> None:
        ours, theirs = socket.socketpair()
        options = {
            "client": theirs.fileno(),
            "client_pid": os.getpid(),
            "token": self._id,
            "cores": self._used,
            "slots": slots_folder(),
            "memory_mode": "auto",
            "grace_s": self._grace_s,
            "cloudpickle": os.path.join(self._folder, "node", "lib", "cloudpickle", "__init__.py"),
        }
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-u", os.path.join(self._folder, "node", "local_server.py"), json.dumps(options)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._to_server, self._rest, self._trouble = ours, b"", ""
        self._poll.register(ours, select.POLLIN)

    def _order(self, message: Dict[str, Any]) -> None:
        if self._to_server is not None:
            try:
                self._to_server.sendall(json.dumps(message).encode() + b"\n")
            except OSError:  # it died, which its end of the connection tells
                pass

    def _hear_server(self) -> None:
        assert self._to_server is not None  # noqa: S101 - the caller has seen it
        try:
            data = self._to_server.recv(1 << 20)
        except OSError:
            data = b""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for message in map(json.loads, lines):
            if "crash" in message:
                self._trouble = ": " + message["crash"]
            elif "hello" in message:
                self._is_ready = True
                self._greet()
            else:
                self._note(message)
        if not data:
            self._end_server()

    def _end_server(self) -> None:
        """Take note that the server died: its jobs, which have ended with it, and who waits for it."""
        assert self._to_server is not None  # noqa: S101 - the caller has seen it
        assert self._server is not None  # noqa: S101 - they come and go together
        self._poll.unregister(self._to_server)
        self._to_server.close()
        self._server.kill()
        self._server.wait()
        self._server = self._to_server = None
        if not self._is_ready:
            self._say({"refused": "the job server cannot be started" + self._trouble})
            self._drop()
        self._is_ready = False
        alive = [key for key, word in self._words.items() if word["word"] in ("PENDING", "RUNNING")]
        self._note_all(alive, "NODE_FAIL", "the job server there died" + self._trouble)

    def _note_all(self, native_ids: List[str], word: str, detail: str) -> None:
        for native_id in native_ids:
            self._note({"id": native_id, "word": word, "code": None, "detail": detail})

    def _note(self, message: Dict[str, Any]) -> None:
        native_id = message["id"]
        if native_id not in self._words:
            return
        self._words[native_id] = message
        if message["word"] == "RUNNING":
            self._started[native_id] = time.monotonic() + _START_S
        else:
            self._started.pop(native_id, None)
            self._tell(native_id)

    def _tell_starts(self, now: float) -> None:
        for native_id in [native_id for native_id, due in self._started.items() if due <= now]:
            del self._started[native_id]
            self._tell(native_id)

    # ------------------------------------------------------------ the end

    def _is_given_up(self) -> bool:
        """Take the directory away so that nobody finds it, unless somebody has come just now."""
        with open("lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._has_caller():
                return False
            self._hide()
        return True

    def _has_caller(self) -> bool:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        return bool(poll.poll(0))

    def _hide(self) -> None:
        hidden = "{}.{}".format(self._folder, self._id)
        try:
            os.rename(self._folder, hidden)
        except OSError as error:
            if error.errno != errno.ENOENT:
                return
        self._folder = hidden

    def _finish(self) -> None:
        if self._to_server is not None and self._server is not None:
            self._to_server.close()
            try:
                self._server.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._server.kill()  # its shepherds see it
        os.chdir("/")
        shutil.rmtree(self._folder, ignore_errors=True)
        parent = os.path.dirname(self._folder)
        if os.path.basename(parent) == _OWN_WORKDIR:
            try:
                os.rmdir(parent)
            except OSError:  # another run is there
                pass
        self._say({"closed": True})
        deadline = time.monotonic() + _GOODBYE_S
        while self._home is not None and self._home.unsent and time.monotonic() < deadline:
            self._poll.poll(10)
            self._flush()


def slots_folder() -> str:
    """Give the folder of the cores' locks that runs of this user here share, those on the local backend too."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    temporary = os.path.join(tempfile.gettempdir(), "clusterjobs-{}".format(os.getuid()))
    shared = os.path.join(runtime, "clusterjobs") if os.access(runtime, os.W_OK) else temporary
    return os.environ.get("CLUSTERJOBS_LOCAL_SLOTS", shared)


def read_files(directory: str, names: Tuple[str, ...], *, ends: bool = False) -> Dict[str, Any]:
    """Give files of a directory: ``files`` with what is in small ones, ``large`` with the names of large ones.

    ``ends``: give the ends of large ones instead.
    """
    files: Dict[str, str] = {}
    large: List[str] = []
    for name in names:
        try:
            descriptor = os.open(os.path.join(directory, name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                continue
            if status.st_size > INLINE_BYTES and not ends:
                large.append(name)
            elif status.st_size:
                file.seek(max(0, status.st_size - INLINE_BYTES))
                files[name] = base64.b64encode(file.read(INLINE_BYTES)).decode()
    return {"files": files, "large": large}


def remove_large(directory: str) -> None:
    """Remove what takes much room in the directory of a job that has ended."""
    try:
        for entry in os.scandir(directory):
            if entry.name.startswith(_DONE_WITH) and entry.stat().st_size > INLINE_BYTES:
                os.unlink(entry.path)
    except OSError:  # the job has removed it
        pass


def write_files(files: Dict[str, str]) -> None:
    """Write files, readable by us alone, with the directories above them.

    Raises:
        OSError: One cannot be written.
    """
    for folder in {os.path.dirname(path) for path in files}:
        os.makedirs(folder, 0o700, exist_ok=True)
    for path, text in files.items():
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(base64.b64decode(text))


if __name__ == "__main__":
    del sys.path[0]  # this folder holds nothing to import
    sys.exit(Keeper(int(sys.argv[1]), **json.loads(sys.argv[2])).serve())
