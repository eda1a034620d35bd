"""The first process of a job's container: unpack the job, run it, and hand back what came of it.

It gets the job from a mounted Secret and, unless both sides see the same volume, has no way home but what every kubelet
offers: the container's log, and the 4096 bytes of its termination message (Kubernetes' documentation, "Determine the
Reason for Pod Failure"). What the program prints goes to files, so nothing it prints can be taken for ours.
Lines of the log are::

    <number> o|e|O|E <text>       the program's output and errors as they come; capital: the line goes on
    <number> b|c|B|C <base64>     the same where it is no UTF-8
    <number> s <json>                       what the bundle will be: size, checksum, number of parts
    <number> r <index>/<count> <base64>     a part of the bundle: everything, packed

The bundle goes into the termination message if it fits, else into the log. A kubelet rotates the log of a running
container at 10 MiB by default, so a bundle that comes near that is sent again and again until the pod is deleted: the
one who reads it deletes it. Standard library only, for Python 3.6 and later.
"""

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zlib

TYPE_CHECKING = False  # importing typing would cost every job 3 ms
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, Tuple

STDOUT, STDERR, START, ENVELOPE = "stdout.log", "stderr.log", "start.json", "result.cj"

#: A termination message may have so many bytes; longer ones are cut off (API reference, terminationMessagePath).
MESSAGE_BYTES = 4096
#: So much of the program's output is shown while it runs; the rest comes at the end.
ECHO_BYTES = 2**20
#: Of longer outputs, the first and the last bytes come back.
LOG_HEAD_BYTES, LOG_TAIL_BYTES = 2**20, 3 * 2**20
#: A bundle of so many bytes, with the echo before it, stays below the 10 MiB at which kubelets rotate logs.
ONCE_BYTES = 5 * 2**20
#: A larger one is not sent.
BUNDLE_BYTES = 128 * 2**20
_PART_BYTES = 9 * 2**10  # 12 KiB of base64: kubelets and runtimes split longer lines at 16 KiB
_LOOK_S = 0.2
_GRACE_S = 2.0
_PAUSES_S = (3.0, 5.0, 8.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 240.0)
_WARNING_S = 0.5
_SIGNALS = (signal.SIGCHLD, signal.SIGTERM)
_EXIT_LAUNCH = 97


def main(payload: bytes) -> int:
    """Run the job that is packed in ``payload`` and give the exit code of the container."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # taken with sigtimedwait: none is lost
    order, files = split(payload)
    root = order["root"]  # type: str
    os.umask(0o077)
    unpack(files, root)
    directory = os.path.join(root, order["directory"])
    log = Log()
    if order.get("is_shared"):
        Echo.left = 0  # who waits for it reads the very files
    code = run(order, root, directory, log)
    facts = {
        "exit_code": code if code >= 0 else None,
        "signal": -code if code < 0 else None,
        "oom": was_out_of_memory(),
    }
    if order.get("is_shared"):
        has_result = os.path.exists(os.path.join(directory, ENVELOPE))
        message = json.dumps(dict(facts, is_shared=True, has_result=has_result)).encode()
    else:
        message = send(facts, directory, log)
    write_message(order["message_file"], message)
    return code if code >= 0 else 128 - code


def split(payload: bytes) -> "Tuple[Dict[str, Any], List[Tuple[str, float, bytes]]]":
    """Take apart what was sent: one line of JSON with the order and the files' sizes, then the files."""
    line, _, body = payload.partition(b"\n")
    order = json.loads(line.decode())
    files, offset = [], 0
    for name, modified, size in order["files"]:
        files.append((name, modified, body[offset : offset + size]))
        offset += size
    return order, files


def unpack(files: "List[Tuple[str, float, bytes]]", root: str) -> None:
    """Write files below ``root``, with their times: by these Python knows that compiled files are current."""
    for name, modified, data in files:
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        os.utime(path, (modified, modified))


def run(order: "Dict[str, Any]", root: str, directory: str, log: "Log") -> int:
    """Run the job and give its exit code; negative: the signal that ended it. Output is shown as it comes."""
    environment = dict(os.environ, **order["environment"])
    environment.setdefault("HOME", root)
    environment.setdefault("USER", str(os.getuid()))
    environment.setdefault("LOGNAME", environment["USER"])
    argv = order["argv"]  # type: List[str]
    outputs = [open(os.path.join(directory, name), "ab") for name in (STDOUT, STDERR)]  # noqa: SIM115
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=outputs[0], stderr=outputs[1], env=environment, preexec_fn=_as_child
        )
    except OSError as error:
        text = "the image has no {!r} that can be run: {}".format(argv[0], error.strerror or error)
        outputs[1].write(text.encode() + b"\n")
        write_envelope(directory, {"outcome": "refused", "why": "launch", "text": text, "exit_code": _EXIT_LAUNCH})
        return _EXIT_LAUNCH
    finally:
        for output in outputs:
            output.close()
    echoes = [Echo(log, os.path.join(directory, STDOUT), "ob"), Echo(log, os.path.join(directory, STDERR), "ec")]
    kill_at = None  # type: float | None
    while process.pid not in reap():
        caught = signal.sigtimedwait(_SIGNALS, _LOOK_S)
        if caught is not None and caught.si_signo == signal.SIGTERM and kill_at is None:
            kill_at = time.monotonic() + _GRACE_S
            signal_group(process.pid, signal.SIGTERM)
        if kill_at is not None and time.monotonic() > kill_at:
            signal_group(process.pid, signal.SIGKILL)
        for echo in echoes:
            echo.show()
    for echo in echoes:
        echo.show()
    status = ended.pop(process.pid)
    process.returncode = status
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _as_child() -> None:
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


ended = {}  # type: Dict[int, int]


def reap() -> "Dict[int, int]":
    """Take in every process that has ended, orphans too, for this is the first one; gives what is known by pid."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if not pid:
            return ended
        ended[pid] = status


def signal_group(pid: int, number: int) -> None:
    """Send a signal to a process group that may be gone."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def was_out_of_memory() -> bool:
    """Tell whether the kernel killed something in this container for want of memory (cgroups(7), both versions)."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        try:
            with open(path, encoding="ascii") as file:
                lines = file.read().splitlines()
        except OSError:
            continue
        return any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in lines)
    return False


def write_envelope(directory: str, header: "Dict[str, Any]") -> None:
    """Write a result without a value, as the runner would."""
    empty = {"protocol": 1, "segments": [], "sha256": hashlib.sha256().hexdigest()}
    with open(os.path.join(directory, ENVELOPE), "wb") as file:
        file.write(json.dumps(dict(header, **empty)).encode() + b"\n")


# ---------------------------------------------------------------- the log


class Log:
    """The container's log, in numbered lines."""

    def __init__(self) -> None:
        self.count = 0
        self._file = os.fdopen(os.dup(1), "wb")

    def write(self, kind: str, data: bytes) -> None:
        """Write a line; it is out with the next flush."""
        self._file.write(b"%d %s %s\n" % (self.count, kind.encode(), data))
        self.count += 1

    def flush(self) -> None:
        """Have everything out."""
        self._file.flush()


class Echo:
    """Shows in the log what a program writes to a file."""

    left = ECHO_BYTES

    def __init__(self, log: Log, path: str, kinds: str) -> None:
        self._log, self._kinds = log, kinds
        self._file = open(path, "rb")  # noqa: SIM115

    def show(self) -> None:
        """Show what is new, as long as the common budget lasts."""
        while Echo.left > 0:
            line = self._file.readline(min(_PART_BYTES, Echo.left))
            if not line:
                break
            Echo.left -= len(line) + 16
            is_whole = line.endswith(b"\n")
            text = line[:-1] if is_whole else line
            kind = self._kinds[0]
            try:
                is_plain = "\r" not in text.decode() and "\0" not in text.decode()
            except UnicodeDecodeError:
                is_plain = False
            if not is_plain:
                kind, text = self._kinds[1], base64.b64encode(text)
            self._log.write(kind if is_whole else kind.upper(), text)
        self._log.flush()


# ---------------------------------------------------------------- the way home


def send(facts: "Dict[str, Any]", directory: str, log: Log) -> bytes:
    """Give the termination message: exit code and the job's files, or a summary of what was sent by the log instead."""
    names = [name for name in (START, ENVELOPE, STDOUT, STDERR) if os.path.exists(os.path.join(directory, name))]
    path = os.path.join(directory, "bundle")
    size = pack(facts, names, directory, path)
    if size > BUNDLE_BYTES:
        text = (
            "the job's result and output have {:.0f} MB when packed, and at most {:.0f} MB come back through the API; "
        )
        text += "write them to a volume, and return where they are"
        text = text.format(size / 1e6, BUNDLE_BYTES / 1e6)
        write_envelope(directory, {"outcome": "unpicklable", "text": text, "repr": "", "exit_code": 1})
        size = pack(facts, names, directory, path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(2**20), b""):
            digest.update(piece)
        summary = {"size": size, "sha256": digest.hexdigest(), "parts": -(-size // _PART_BYTES)}
        file.seek(0)
        message = json.dumps(dict(facts, **summary)).encode()
        if size * 4 // 3 + len(message) + 20 <= MESSAGE_BYTES:
            summary["bundle"] = base64.b64encode(file.read()).decode()
            message = json.dumps(dict(facts, **summary)).encode()
        else:
            send_by_log(file, summary, log)
    return message


def pack(facts: "Dict[str, Any]", names: "List[str]", directory: str, target: str) -> int:
    """Pack facts and files into one and give its size; needs little memory whatever the files have."""
    parts = [(name, list(pieces(os.path.join(directory, name), name in (STDOUT, STDERR)))) for name in names]
    sizes = [[name, sum(len(p) if isinstance(p, bytes) else p[1] for p in all_)] for name, all_ in parts]
    compressor = zlib.compressobj(1)
    with open(target, "wb") as file:
        file.write(compressor.compress(json.dumps(dict(facts, files=sizes)).encode() + b"\n"))
        for name, all_ in parts:
            with open(os.path.join(directory, name), "rb") as source:
                for piece in all_:
                    for data in read_piece(source, piece):
                        file.write(compressor.compress(data))
        file.write(compressor.flush())
        return file.tell()


def pieces(path: str, is_log: bool) -> "Iterator[Any]":
    """Give what is sent of a file: texts, and (offset, size) pairs."""
    size = os.path.getsize(path)
    if not is_log or size <= LOG_HEAD_BYTES + LOG_TAIL_BYTES:
        yield (0, size)
        return
    left_out = size - LOG_HEAD_BYTES - LOG_TAIL_BYTES
    yield (0, LOG_HEAD_BYTES)
    yield "\n[clusterjobs: {} bytes are left out here]\n".format(left_out).encode()
    yield (size - LOG_TAIL_BYTES, LOG_TAIL_BYTES)


def read_piece(source: "Any", piece: "Any") -> "Iterator[bytes]":
    """Give the bytes of a piece, by and by; what a process left behind adds to a file meanwhile is not in it."""
    if isinstance(piece, bytes):
        yield piece
        return
    source.seek(piece[0])
    left = piece[1]
    while left:
        data = source.read(min(left, 2**20)) or b"\0" * min(left, 2**20)
        left -= len(data)
        yield data


def send_by_log(file: "Any", summary: "Dict[str, Any]", log: Log) -> None:
    """Write the bundle to the log: once if that is safe, else until we are told to end, or for nine minutes."""
    is_safe, count = summary["size"] <= ONCE_BYTES, summary["parts"]
    for pause_s in _PAUSES_S:
        log.write("s", json.dumps(summary).encode())
        log.flush()
        if not is_safe:
            time.sleep(_WARNING_S)  # who follows the log can read anew, and need not follow it through a rotation
        file.seek(0)
        for index in range(count):
            log.write("r", b"%d/%d %s" % (index, count, base64.b64encode(file.read(_PART_BYTES))))
        log.flush()
        if is_safe or signal.sigtimedwait([signal.SIGTERM], pause_s) is not None:
            return


def write_message(path: str, message: bytes) -> None:
    """Write the termination message into the file that the runtime has made for it."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_TRUNC), "wb") as file:
            file.write(message)
    except OSError as error:
        sys.stderr.write("clusterjobs: no termination message: {}\n".format(error))
