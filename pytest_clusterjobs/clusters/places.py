"""Where throw-away clusters live on disk: one directory each, with a record of what it is.

The directory of clusters has one entry per cluster, ``KIND-NAME``: the cluster's directory, or a link to it where that
is elsewhere. A directory without our record is never removed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import stat
import tempfile
import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pytest_clusterjobs.clusters import ports
from pytest_clusterjobs.clusters.base import ClusterBootError
from pytest_clusterjobs.core.errors import ConfigError

_RECORD = "cluster.json"
# What slurm.conf takes as a path without quotes or a meaning of its own.
_PLAIN = re.compile(r"[A-Za-z0-9/._@+~-]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,30}")
# A Unix socket's path holds 107 bytes (unix(7)); daemons make theirs up to 35 bytes below the cluster's directory.
_LONGEST = 70
_TURN_S = 120.0


@dataclass(frozen=True, slots=True)
class Record:
    """What a cluster's directory says about itself."""

    kind: str
    name: str
    #: The machine it was started on: its pids mean nothing on another one that shares the file system.
    host: str
    #: First of its block of ports.
    first_port: int
    #: The options it was started with.
    options: Mapping[str, Any] = field(default_factory=dict)
    #: What to export; empty until the cluster was up once.
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """A cluster's directory, and its entry in the directory of clusters."""

    entry: Path
    directory: Path

    def read(self) -> Record | None:
        """Give the record, or None when there is none or it was cut short."""
        try:
            return Record(**json.loads((self.directory / _RECORD).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, record: Record) -> None:
        """Write the record whole."""
        fresh = self.directory / f".{_RECORD}.new"
        fresh.write_text(json.dumps(asdict(record), indent=1))
        fresh.replace(self.directory / _RECORD)

    def remove(self) -> None:
        """Remove the directory and its entry. Idempotent.

        Raises:
            ClusterBootError: A file cannot be removed.
        """
        try:
            if self._is_ours():
                shutil.rmtree(self.directory)
            elif self.directory.exists():  # the user's own, and we were stopped before we wrote anything
                self.directory.rmdir()
        except OSError as error:
            raise ClusterBootError(f"cannot remove {self.directory}: {error}") from error
        with suppress(FileNotFoundError):
            self.entry.unlink()
        with suppress(OSError):  # the short directory's parent: other clusters may be in it
            _short_base().rmdir()

    def _is_ours(self) -> bool:
        by_name = self.directory in (self.entry, _short(self.entry))
        return self.directory.exists() and (by_name or (self.directory / _RECORD).exists())


def base_directory() -> Path:
    """Give the directory of clusters: ``$CLUSTERJOBS_CLUSTERS_DIR`` or ``clusterjobs/clusters`` in the user's cache."""
    if configured := os.environ.get("CLUSTERJOBS_CLUSTERS_DIR"):
        return Path(os.path.realpath(configured))
    return Path(os.path.realpath(cache_directory() / "clusters"))


def cache_directory() -> Path:
    """Give ``clusterjobs`` in the user's cache (XDG base directory specification)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))  # a relative one is to be ignored, says the specification
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "clusterjobs"


def hold(kind: str, name: str) -> AbstractContextManager[None]:
    """Let one process at a time start or stop the cluster of that name.

    Raises:
        ConfigError: The name has characters that a path or the scheduler would not take.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no cluster name: up to 31 letters, digits, '_', '.', '-', not '-' or '.' first")
    key = zlib.crc32(str(base_directory()).encode())
    return ports.turn(f"clusterjobs/cluster/{os.geteuid()}/{key:08x}/{kind}-{name}", _TURN_S)


def find(kind: str, name: str) -> Place | None:
    """Give the place of a cluster that was started once, whether or not it runs.

    Raises:
        ClusterBootError: Its directory is somebody else's: what its record says must not be exported.
    """
    entry = base_directory() / f"{kind}-{name}"
    if os.path.lexists(entry):
        directory = entry.resolve()
    elif not _is_usable(entry) and _short(entry).is_dir():  # the entry was removed by hand, the short directory was not
        directory = _short(entry)
    else:
        return None
    for each in [directory.parent, directory] if directory == _short(entry) else [directory]:
        if each.exists():
            _check_ours(each)
    return Place(entry, directory)


def every(kind: str) -> list[Place]:
    """Give the places of all clusters of a kind, by name."""
    entries = sorted(base_directory().glob(f"{kind}-*"))
    return [place for entry in entries if (place := find(kind, entry.name[len(kind) + 1 :])) is not None]


def create(kind: str, name: str, wanted: Path | None) -> Place:
    """Make the empty directory, of mode 0700, of a cluster that has none yet.

    Args:
        kind: The kind of cluster.
        name: Its name.
        wanted: Where, or None for the usual place (or a short one, if sockets could not be made there).

    Raises:
        ConfigError: ``wanted`` holds something already, or its path is too long.
        ClusterBootError: The directory cannot be made or is not ours.
    """
    entry = base_directory() / f"{kind}-{name}"
    directory = Path(os.path.realpath(wanted)) if wanted is not None else entry if _is_usable(entry) else _short(entry)
    if wanted is not None:
        _check_wanted(directory)
    try:
        entry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if directory != entry:
            entry.symlink_to(directory)  # before the directory: stopped in between, we still find it
        if directory == _short(entry):
            directory.parent.mkdir(exist_ok=True, mode=0o700)
            _check_ours(directory.parent)
        directory.mkdir(parents=True, exist_ok=wanted is not None, mode=0o700)
        _check_ours(directory)
    except (OSError, ClusterBootError) as error:
        if entry.is_symlink():
            entry.unlink()
        if isinstance(error, ClusterBootError):
            raise
        raise ClusterBootError(f"cannot make the cluster's directory {directory}: {error}") from error
    return Place(entry, directory)


def _check_wanted(directory: Path) -> None:
    if not _is_usable(directory):
        raise ConfigError(
            f"{str(directory)!r} cannot hold a cluster: at most {_LONGEST} bytes, for the daemons' sockets, "
            "and no blanks or other special characters, for their configuration files"
        )
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(f"{directory} is not empty: name a directory that does not exist yet or is empty")


def _is_usable(directory: Path) -> bool:
    return len(os.fsencode(directory)) <= _LONGEST and _PLAIN.fullmatch(str(directory)) is not None


def _short_base() -> Path:
    return Path(os.path.realpath(tempfile.gettempdir())) / f"clusterjobs-{os.geteuid()}"


def _short(entry: Path) -> Path:
    return _short_base() / f"{entry.name}-{zlib.crc32(os.fsencode(entry)):08x}"


def _check_ours(directory: Path) -> None:
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise ClusterBootError(f"{directory} is not a directory that only we can write to; remove it or choose another")


def check_here(place: Place) -> None:
    """Make sure that a cluster's pids are this machine's.

    Raises:
        ClusterBootError: It was started on another machine.
    """
    record = place.read()
    if record is not None and record.host != socket.gethostname():
        raise ClusterBootError(
            f"cluster {record.name!r} was started on {record.host!r}, this is {socket.gethostname()!r}: stop it there, "
            f"or, if that machine is gone, remove {place.entry} and {place.directory}"
        )
