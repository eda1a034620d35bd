"""Archives as they are on their way: written without a file, and unpacked so that nothing leaves the target."""

from __future__ import annotations

import io
import logging
import os
import secrets
import shutil
import stat
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from pytest_clusterjobs.core.errors import StoreError

__tracebackhide__ = True

log = logging.getLogger("pytest_clusterjobs.transports")

_CHUNK = 1 << 18


def check_names(names: Sequence[str]) -> None:
    """Make sure that names stay in their folder.

    Raises:
        StoreError: One does not.
    """
    for name in names:
        path = PurePosixPath(name)
        if "\0" in name or path.is_absolute() or ".." in path.parts or not path.parts:
            raise StoreError(f"{name!r} is no path below a folder")


def pack_tree(source: str, names: Sequence[str], end: bytes) -> Iterator[bytes]:
    """Give an archive of files and folders, named by their numbers, and of the file ``end``.

    Raises:
        StoreError: One cannot be read, or changes while it is.
    """
    with tarfile.TarFile(fileobj=io.BytesIO(), mode="w", format=tarfile.GNU_FORMAT) as archive:
        for number, name in enumerate(names):
            yield from _pack(archive, os.path.join(source, name), str(number))
    yield from _pack_bytes("end", end, executable=False)
    yield bytes(tarfile.RECORDSIZE)


def pack_files(contents: Mapping[str, tuple[bytes, bool]], end: bytes) -> Iterator[bytes]:
    """Give an archive of texts, by name and with whether they are executable, and of the file ``end``."""
    for name, (data, executable) in contents.items():
        yield from _pack_bytes(name, data, executable=executable)
    yield from _pack_bytes("end", end, executable=False)
    yield bytes(tarfile.RECORDSIZE)


def _pack(archive: tarfile.TarFile, path: str, name: str) -> Iterator[bytes]:
    try:
        info = archive.gettarinfo(path, name)
        if info is None or not (info.isreg() or info.isdir() or info.issym() or info.islnk()):
            log.warning("%s is neither a file nor a folder nor a link: it is not copied", path)
            return
        if info.islnk():  # a second name of a file that went already: it goes as a file of its own
            info.type, info.size, info.linkname = tarfile.REGTYPE, os.stat(path).st_size, ""
        info.mode = 0o700 if info.isdir() or info.mode & 0o100 else 0o600
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        yield _header(info)
        if info.isreg():
            yield from _content(path, info.size)
        elif info.isdir():
            for each in sorted(os.listdir(path)):
                yield from _pack(archive, os.path.join(path, each), f"{name}/{each}")
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from error


def _content(path: str, size: int) -> Iterator[bytes]:
    left = size
    with open(path, "rb") as file:
        while left:
            chunk = file.read(min(left, _CHUNK))
            if not chunk:
                raise StoreError(f"cannot copy {path}: it became shorter while it was read")
            left -= len(chunk)
            yield chunk
    yield _padding(size)


def _pack_bytes(name: str, data: bytes, *, executable: bool) -> Iterator[bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o700 if executable else 0o600
    yield _header(info) + data + _padding(len(data))


def _header(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)


def unpack(stream: IO[bytes], names: Sequence[str], target: str) -> list[str]:
    """Write what an archive has of some names; give those that it has.

    Nothing is written through a link. Links that lead out of the target are left out, and so is what is neither file,
    folder nor link.

    Raises:
        StoreError: The archive has another file, or one cannot be written.
    """
    wanted = {PurePosixPath(name): name for name in names}
    root = os.path.realpath(target)
    found: set[str] = set()
    links: list[tuple[str, str]] = []
    with tarfile.open(fileobj=stream, mode="r|", encoding="utf-8", errors="surrogateescape") as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            asked = next((wanted[each] for each in (path, *path.parents) if each in wanted), None)
            if asked is None or ".." in path.parts:
                raise StoreError(f"cannot unpack {member.name!r}: it was not asked for")
            found.add(asked)
            place = os.path.join(root, str(path))
            try:
                if member.issym():
                    links.append((place, member.linkname))
                else:
                    _unpack(archive, member, root, place)
            except OSError as error:
                raise StoreError(f"cannot write {place}: {error.strerror or error}") from error
    for place, leads_to in links:
        _link(root, place, leads_to)
    return [name for name in names if name in found]


def _unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, root: str, place: str) -> None:
    if member.isdir():
        _make_folder(root, place)
        return
    if not (member.isreg() or member.islnk()):
        log.warning("%s is neither a file nor a folder nor a link: it is not copied", member.name)
        return
    _make_folder(root, os.path.dirname(place))
    with _appearing(place, 0o700 if member.mode & 0o100 else 0o600) as file:
        if member.islnk():
            original = os.path.join(root, str(PurePosixPath(member.linkname)))
            if ".." in PurePosixPath(member.linkname).parts or not _is_plain(root, original):
                raise StoreError(f"cannot unpack {member.name!r}: it is a name of {member.linkname!r}")
            with open(original, "rb") as first:
                shutil.copyfileobj(first, file, _CHUNK)
        elif (content := archive.extractfile(member)) is not None:
            shutil.copyfileobj(content, file, _CHUNK)


@contextmanager
def _appearing(place: str, mode: int) -> Iterator[IO[bytes]]:
    """Give a file to write that appears whole under its name, or not at all."""
    fresh = os.path.join(os.path.dirname(place), f".{secrets.token_hex(8)}.new")
    try:
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb") as file:
            yield file
        if os.path.isdir(place) and not os.path.islink(place):
            shutil.rmtree(place)
        os.replace(fresh, place)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise


def _make_folder(root: str, place: str) -> None:
    os.makedirs(root, mode=0o700, exist_ok=True)
    at = root
    for part in os.path.relpath(place, root).split(os.sep):
        at = os.path.normpath(os.path.join(at, part))
        if os.path.islink(at) or (os.path.exists(at) and not os.path.isdir(at)):
            os.unlink(at)  # what was there by this name goes, as a file would
        if at != root:
            os.makedirs(at, mode=0o700, exist_ok=True)


def _is_plain(root: str, place: str) -> bool:
    return os.path.realpath(place) == place and stat.S_ISREG(os.lstat(place).st_mode) and place.startswith(root)


def _link(root: str, place: str, leads_to: str) -> None:
    """Make a link that stays below the root, whatever other links are made."""
    parts = PurePosixPath(leads_to).parts
    ups = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    depth = len(PurePosixPath(os.path.relpath(os.path.dirname(place), root)).parts)
    if leads_to.startswith("/") or ".." in parts[ups:] or ups > depth:
        log.warning("%s leads to %s, out of what is copied: it is left out", place, leads_to)
        return
    try:
        _make_folder(root, os.path.dirname(place))
        if os.path.isdir(place) and not os.path.islink(place):
            shutil.rmtree(place)
        elif os.path.lexists(place):
            os.unlink(place)
        os.symlink(leads_to, place)
    except OSError as error:
        raise StoreError(f"cannot write {place}: {error.strerror or error}") from error
