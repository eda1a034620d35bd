"""What comes back of a job through its pod's log and termination message, and how it becomes files here.

The other half is ``node/pod.py``, which describes the lines. A result is written only when the checksum of everything
that was sent is right.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_clusterjobs.core.errors import StoreError
from pytest_clusterjobs.transports.base import Transport

_STDOUT, _STDERR, _ENVELOPE = "stdout.log", "stderr.log", "result.cj"
_NAMES = frozenset({"start.json", _ENVELOPE, _STDOUT, _STDERR})
#: Kind of a line, in small letters -> the file it belongs to, and whether it is base64.
_ECHOES = {b"o": (_STDOUT, False), b"b": (_STDOUT, True), b"e": (_STDERR, False), b"c": (_STDERR, True)}


@dataclass(frozen=True, slots=True)
class Summary:
    """What a pod announces about its bundle."""

    #: Bytes of the bundle.
    size: int
    #: Its SHA-256, in hexadecimal.
    sha256: str
    #: Number of lines it is sent in, where it comes by the log.
    parts: int
    #: The bundle itself, where it came along.
    bundle: bytes | None = None


@dataclass(frozen=True, slots=True)
class Returned:
    """All that a job sent home."""

    #: Exit code, or None when a signal ended the job.
    exit_code: int | None
    #: That signal, or None.
    signal: int | None
    #: True when the kernel killed a process of its container for want of memory.
    was_out_of_memory: bool
    #: Content by the file's name.
    files: Mapping[str, bytes]


def read_summary(message: str | bytes) -> Summary | None:
    """Read a termination message, or the log's line that stands for it; None when it is not ours."""
    try:
        said = json.loads(message)
        bundle = base64.b64decode(said["bundle"]) if "bundle" in said else None
        return Summary(int(said["size"]), str(said["sha256"]), int(said["parts"]), bundle)
    except (ValueError, LookupError, TypeError):
        return None


def read_shared(message: str) -> tuple[Returned, bool] | None:
    """Read the termination message of a job whose files are on a shared volume, and whether a result is among them."""
    try:
        said = json.loads(message)
        if said["is_shared"]:
            return Returned(said["exit_code"], said["signal"], bool(said["oom"]), {}), bool(said["has_result"])
    except (ValueError, LookupError, TypeError):
        return None
    return None


def unpack(bundle: bytes, summary: Summary) -> Returned:
    """Take a bundle apart.

    Raises:
        StoreError: It is not what was announced.
    """
    if len(bundle) != summary.size or hashlib.sha256(bundle).hexdigest() != summary.sha256:
        raise StoreError(f"what came back has {len(bundle)} bytes and is not what was sent: its checksum differs")
    line, _, body = zlib.decompress(bundle).partition(b"\n")
    header = json.loads(line)
    files, offset = {}, 0
    for name, size in header["files"]:
        if name in _NAMES:
            files[str(name)] = body[offset : offset + size]
        offset += size
    return Returned(header["exit_code"], header["signal"], bool(header["oom"]), files)


class Inbox:
    """Takes in the lines of one job's log, in any order and as often as they come. Any thread may use it.

    Args:
        transport: Writes the files.
        directory: The job's directory here.
    """

    def __init__(self, transport: Transport, directory: str) -> None:
        self._transport, self._directory = transport, directory
        self._lock = threading.Lock()
        self._next = 0
        self._parts: dict[int, bytes] = {}
        self._is_closed = False
        self.summary: Summary | None = None

    def take(self, line: bytes) -> None:
        """Take in one line; what the program printed is at once in its file here. Other lines are left out."""
        number, _, rest = line.partition(b" ")
        kind, _, data = rest.partition(b" ")
        if not number.isdigit():
            return
        with self._lock:
            if kind == b"s":
                self.summary = read_summary(data)
            elif kind == b"r":
                self._take_part(data)
            elif kind.lower() in _ECHOES and int(number) >= self._next and not self._is_closed:
                self._next = int(number) + 1
                self._append(kind, data)

    def _take_part(self, data: bytes) -> None:
        place, _, encoded = data.partition(b" ")
        try:
            self._parts[int(place.partition(b"/")[0])] = base64.b64decode(encoded, validate=True)
        except (ValueError, binascii.Error):
            return  # cut off where the log was rotated; it comes again

    def _append(self, kind: bytes, data: bytes) -> None:
        name, is_encoded = _ECHOES[kind.lower()]
        text = base64.b64decode(data) if is_encoded else data
        path = os.path.join(self._directory, name)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, text if kind.isupper() else text + b"\n")
        finally:
            os.close(descriptor)

    def bundle(self, summary: Summary) -> bytes | None:
        """Give the bundle once all its parts are there; else None."""
        if summary.bundle is not None:
            return summary.bundle
        with self._lock:
            if len(self._parts) < summary.parts or any(number not in self._parts for number in range(summary.parts)):
                return None
            return b"".join(self._parts[number] for number in range(summary.parts))

    def missing(self, summary: Summary) -> int:
        """Give the number of parts that have not come."""
        return sum(number not in self._parts for number in range(summary.parts))

    def wait_for_result(self, timeout_s: float) -> None:
        """Wait until the result that another machine wrote is seen here, at most ``timeout_s`` seconds."""
        deadline = time.monotonic() + timeout_s
        while not self._transport.read_first_line(os.path.join(self._directory, _ENVELOPE)):
            if time.monotonic() > deadline:
                return
            os.listdir(self._directory)  # has NFS look again
            time.sleep(0.05)

    def close(self, files: Mapping[str, bytes]) -> None:
        """Write the files, the result last, under a temporary name until it is whole. Nothing is taken in any more.

        Raises:
            StoreError: They cannot be written here.
        """
        with self._lock:
            self._is_closed = True
            self._parts.clear()
            for name, data in sorted(files.items(), key=lambda item: item[0] == _ENVELOPE):
                path = os.path.join(self._directory, name)
                self._transport.write(f"{path}.tmp", data)
                os.replace(f"{path}.tmp", path)
