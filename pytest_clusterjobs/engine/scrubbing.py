"""Takes secrets out of files that stay. A job writes what it likes; what is kept of it holds no secret that we know."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

from pytest_clusterjobs.core.redaction import known
from pytest_clusterjobs.node.runner import ENVELOPE

#: In a directory from which something was taken: which files are not as they were.
NOTE = "redacted.txt"


def scrub(directory: str) -> list[str]:
    """Put ``***`` in place of each secret in the files below a directory, and leave a note there of what was changed.

    A pickle would not be one any more, or not the one whose checksum is known: it is removed. Links are not followed.

    Returns:
        What could not be done, in words.
    """
    if not known():
        return []
    told, problems = [], []
    for path in _files(directory):
        try:
            if _holds_secret(path):
                told.append(f"{os.path.relpath(path, directory)}: {_take_out(path)}\n")
        except OSError as error:
            problems.append(f"{path}: secrets may be in it: {error.strerror or error}")
    if told:
        with open(os.path.join(directory, NOTE), "a", encoding="utf-8", opener=_opener) as file:
            file.writelines(told)
    return problems


def _files(directory: str) -> Iterator[str]:
    for folder, _, names in os.walk(directory):
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield path


def _holds_secret(path: str) -> bool:
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return known().is_in(data)


def _take_out(path: str) -> str:
    if path.endswith(".pkl") or os.path.basename(path) == ENVELOPE:
        os.unlink(path)
        return "removed, it held a secret"
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(path, "rb") as old, open(temporary, "wb", opener=_opener) as new:
        os.fchmod(new.fileno(), os.fstat(old.fileno()).st_mode & 0o777)
        new.writelines(map(known().redact_bytes, old))
    os.replace(temporary, path)
    return "*** stands for each secret that it held"


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
