"""Throw-away sshd: this machine as if it were another one, reached by OpenSSH with keys made for it alone.

Runs as any user, on loopback; an ordinary user's lets only that user in. Several at once do not meet.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

from pytest_clusterjobs.clusters import lifecycle, places, processes
from pytest_clusterjobs.clusters.base import ClusterBootError, RunningCluster
from pytest_clusterjobs.clusters.sshd_boot import SESSION_MARKER, Boot, client_environment, login
from pytest_clusterjobs.clusters.sshd_options import SshdClusterOptions

__all__ = ["SshdClusterOptions", "boot", "down", "names", "running", "up"]

_ANSWERS_WITHIN_S = 5.0


def up(options: SshdClusterOptions, *, asked: Collection[str] | None = None) -> RunningCluster:
    """Start an sshd and wait until it lets us in; blocks. One that is up and answers is given as it is.

    For ``options``, ``asked`` and what is raised, see ``lifecycle.up``.
    """

    def start(directory: Path, first_port: int) -> tuple[Mapping[str, str], str]:
        starting = Boot(directory, options, first_port)
        starting.write_files()
        starting.start()
        return client_environment(directory), f"sshd on 127.0.0.1:{first_port}"

    return lifecycle.up(_KIND, options, start, asked)


def _trouble(environment: Mapping[str, str]) -> str:
    try:
        code, text = login(environment, _ANSWERS_WITHIN_S)
    except ClusterBootError as error:
        return str(error)
    return "" if code == 0 else f"it does not let us in: {text.strip()}"


def _is_of_cluster(pid: int, place: places.Place) -> bool:
    """Tell whether a process is one of a session's, by what sshd sets for them, or serves a session itself."""
    if processes.environment_of(pid).get(SESSION_MARKER) == str(place.directory):
        return True
    return processes.first_argument(pid).startswith(b"sshd: ") and processes.holds_files_in(pid, place.directory)


_KIND = lifecycle.Kind("sshd", 1, _trouble, _is_of_cluster)
boot = partial(lifecycle.boot, up, SshdClusterOptions, "a throw-away sshd")
down = partial(lifecycle.down, _KIND)
running = partial(lifecycle.running, _KIND)
names = partial(lifecycle.names, _KIND)
