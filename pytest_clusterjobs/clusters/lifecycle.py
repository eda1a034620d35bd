"""The life of a throw-away cluster of any kind: one at a time by name, given when it is up, nothing left of it."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

from pytest_clusterjobs.clusters import places, ports, processes
from pytest_clusterjobs.clusters.base import ClusterBootError, RunningCluster
from pytest_clusterjobs.core.errors import ConfigError
from pytest_clusterjobs.core.naming import nearest

log = logging.getLogger("pytest_clusterjobs.clusters")

_END_WITHIN_S = 10.0


class Options(Protocol):
    """What the options of every kind have."""

    @property
    def name(self) -> str:
        """Tells clusters apart."""

    @property
    def directory(self) -> Path | None:
        """Where; None: in the directory of clusters."""

    def recorded(self) -> dict[str, Any]:
        """Give the values as JSON holds them."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What is particular to a kind."""

    #: A key of ``KINDS``.
    name: str
    #: How many ports a cluster needs.
    ports: int
    #: Say why a cluster whose daemons live does not answer, or "".
    trouble: Callable[[Mapping[str, str]], str]
    #: Tell whether a process is part of the cluster at a place, beyond its daemons and what descends from them.
    recognize: Callable[[int, places.Place], bool]
    #: Remove what a cluster left outside its directory, once its processes have ended.
    sweep: Callable[[places.Record], None] = lambda _record: None


#: Starts everything in a directory on the ports from one on; gives what to export and a few words about what is up.
Starter = Callable[[Path, int], tuple[Mapping[str, str], str]]


def boot(
    up: Callable[..., RunningCluster], options_class: type[Any], what: str, name: str, options: Mapping[str, Any]
) -> RunningCluster:
    """Start a cluster, or give it when it is up, by the names of its options; blocks.

    Args:
        up: Of the module of the kind.
        options_class: What ``up`` takes: a dataclass, like ``Options``.
        what: Names the kind in errors.
        name: Tells clusters of one kind apart.
        options: The asked-for fields of ``options_class``.

    Raises:
        ConfigError: There is no such option, or a value is impossible.
        ClusterBootError: See ``up``.
    """
    known = {field.name for field in fields(options_class)} - {"name"}
    for key in options:
        if key not in known:
            raise ConfigError(f"{what} has no option {key!r}{nearest(key, known)}; known: {', '.join(sorted(known))}")
    return up(options_class(name=name, **options), asked=options.keys())


def up(
    kind: Kind,
    options: Options,
    start: Starter,
    asked: Collection[str] | None,
    check: Callable[[], object] = lambda: None,
) -> RunningCluster:
    """Start a cluster, or give it when one of that name is up and answers; blocks.

    One that does not answer any more, or was up before a reboot, is removed first.

    Args:
        kind: What it is.
        options: What it should be like.
        start: Starts everything.
        asked: The fields in which a cluster that is up already must agree; None: all.
        check: Raises if a start is not possible here; called before there is anything of the cluster on disk.

    Raises:
        ConfigError: A cluster of that name is up and differs in a field of ``asked``.
        ClusterBootError: A program is missing, or a daemon did not start; nothing is left of it.
    """
    with places.hold(kind.name, options.name):
        place = places.find(kind.name, options.name)
        if place is not None:
            places.check_here(place)
            trouble = _trouble(kind, place)
            if not trouble and (record := place.read()) is not None:
                _check_same(record, options, asked)
                log.info("cluster %r is up already in %s", options.name, place.directory)
                return _running(place, record)
            log.info("cluster %r: %s; starting afresh", options.name, trouble)
            _take_down(kind, place)
        try:
            return _boot(kind, options, start, check)
        except OSError as error:
            raise ClusterBootError(f"cannot start cluster {options.name!r}: {error}") from error


def down(kind: Kind, name: str) -> bool:
    """Stop a cluster with its jobs and remove its directory; False when there was none.

    Raises:
        ClusterBootError: A process survived SIGKILL, or the cluster runs on another machine.
    """
    with places.hold(kind.name, name):
        place = places.find(kind.name, name)
        if place is None:
            return False
        places.check_here(place)
        _take_down(kind, place)
        return True


def running(kind: Kind) -> list[RunningCluster]:
    """List the clusters of a kind that have a live daemon on this machine."""
    found = [(place, place.read()) for place in places.every(kind.name)]
    return [
        _running(place, record)
        for place, record in found
        if record is not None and any(processes.recorded(place.directory).values())
    ]


def names(kind: Kind) -> list[str]:
    """List the names of all clusters of a kind that were started and not taken down, whether or not they live."""
    return [place.entry.name[len(kind.name) + 1 :] for place in places.every(kind.name)]


def _running(place: places.Place, record: places.Record) -> RunningCluster:
    return RunningCluster(record.name, record.kind, place.directory, record.environment)


def _check_same(record: places.Record, options: Options, asked: Collection[str] | None) -> None:
    wanted = options.recorded()
    for key in wanted if asked is None else [key for key in wanted if key in asked]:
        if key != "name" and record.options.get(key) != wanted[key]:
            raise ConfigError(
                f"cluster {record.name!r} is up with {key}={record.options.get(key)!r}, not {wanted[key]!r}: "
                f"run `clusterjobs down {record.kind} --name {record.name}` first, or choose another name"
            )


def _trouble(kind: Kind, place: places.Place) -> str:
    """Say why a cluster cannot be used as it is, or ""."""
    record = place.read()
    if record is None or not record.environment:
        return "it was never up"
    if dead := [name for name, process in processes.recorded(place.directory).items() if process is None]:
        return f"{', '.join(dead)} no longer runs"
    return kind.trouble(record.environment)


def _boot(kind: Kind, options: Options, start: Starter, check: Callable[[], object]) -> RunningCluster:
    began = time.monotonic()
    check()
    place = places.create(kind.name, options.name, options.directory)
    try:
        given_away = {record.first_port for each in places.every(kind.name) if (record := each.read()) is not None}
        with ports.block(kind.ports, str(place.directory), given_away) as first_port:
            record = places.Record(kind.name, options.name, socket.gethostname(), first_port, options.recorded())
            place.write(record)
            environment, words = start(place.directory, first_port)
        ours = {"CLUSTERJOBS_CLUSTER_NAME": options.name, "CLUSTERJOBS_CLUSTER_DIR": str(place.directory)}
        record = replace(record, environment={**environment, **ours})
        place.write(record)
    except BaseException:  # Ctrl-C too: nothing stays behind
        with _undisturbed():
            _take_down(kind, place)
        raise
    seconds = time.monotonic() - began
    log.info("cluster %r is up after %.1f s: %s, in %s", options.name, seconds, words, place.directory)
    return _running(place, record)


def _take_down(kind: Kind, place: places.Place) -> None:
    """End every process of a cluster and remove what it left on disk."""
    if place.directory.exists():
        processes.end_all(
            lambda: processes.belonging(place.directory, lambda pid: kind.recognize(pid, place)),
            _END_WITHIN_S,
        )
    if (record := place.read()) is not None:
        kind.sweep(record)
    place.remove()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let a second Ctrl-C wait while we clean up; it takes at most seconds."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
