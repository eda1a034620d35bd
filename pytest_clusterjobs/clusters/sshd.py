"""Throw-away sshd: this machine as if it were another one, reached by OpenSSH with keys made for it alone.

Runs as any user, on loopback; an ordinary user's lets only that user in. Several at once do not meet.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pytest_clusterjobs.clusters import lifecycle, processes
from pytest_clusterjobs.clusters.base import ClusterBootError, RunningCluster
from pytest_clusterjobs.clusters.sshd_boot import SESSION_MARKER, Boot, client_environment, login
from pytest_clusterjobs.clusters.sshd_options import SshdClusterOptions
from pytest_clusterjobs.core.errors import ConfigError
from pytest_clusterjobs.core.naming import nearest

__all__ = ["SshdClusterOptions", "boot", "down", "names", "running", "up"]

_ANSWERS_WITHIN_S = 5.0


def boot(name: str, options: Mapping[str, Any]) -> RunningCluster:
    """Start the sshd, or give it when it is up; ``options`` are the asked-for fields of ``SshdClusterOptions``.

    Raises:
        ConfigError: There is no such option, or a value is impossible.
        ClusterBootError: See ``up``.
    """
    known = {field.name for field in fields(SshdClusterOptions)} - {"name"}
    for key in options:
        if key not in known:
            raise ConfigError(
                f"a throw-away sshd has no option {key!r}{nearest(key, known)}; known: {', '.join(sorted(known))}"
            )
    return up(SshdClusterOptions(name=name, **options), asked=options.keys())


def up(options: SshdClusterOptions, *, asked: Collection[str] | None = None) -> RunningCluster:
    """Start an sshd and wait until it lets us in; blocks. One that is up and answers is given as it is.

    Args:
        options: What it should be like.
        asked: The fields in which one that is up already must agree; None: all.

    Raises:
        ConfigError: One of that name is up and differs in a field of ``asked``.
        ClusterBootError: A program is missing, or it did not start; nothing is left of it.
    """

    def start(directory: Path, first_port: int) -> tuple[Mapping[str, str], str]:
        starting = Boot(directory, options, first_port)
        starting.write_files()
        starting.start()
        return client_environment(directory), f"sshd on 127.0.0.1:{first_port}"

    return lifecycle.up(_KIND, options, start, asked)


def down(name: str) -> bool:
    """Stop an sshd with its sessions and what they started, and remove its directory; False when there was none.

    Raises:
        ClusterBootError: A process survived SIGKILL, or the sshd runs on another machine.
    """
    return lifecycle.down(_KIND, name)


def running() -> list[RunningCluster]:
    """List the throw-away sshds that live on this machine."""
    return lifecycle.running(_KIND)


def names() -> list[str]:
    """List the names of all throw-away sshds that were started and not taken down, whether or not they live."""
    return lifecycle.names(_KIND)


def _trouble(environment: Mapping[str, str]) -> str:
    try:
        code, text = login(environment, _ANSWERS_WITHIN_S)
    except ClusterBootError as error:
        return str(error)
    return "" if code == 0 else f"it does not let us in: {text.strip()}"


def _is_of_cluster(pid: int, directory: Path) -> bool:
    """Tell whether a process is one of a session's, by what sshd sets for them, or serves a session itself."""
    if processes.environment_of(pid).get(SESSION_MARKER) == str(directory):
        return True
    return processes.first_argument(pid).startswith(b"sshd: ") and processes.holds_files_in(pid, directory)


_KIND = lifecycle.Kind("sshd", 1, _trouble, _is_of_cluster)
