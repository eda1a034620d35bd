"""Where a fake's commands lie, and what a test holds in its hand."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from pytest_clusterjobs.testing.fakes.cluster import FakeCluster

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))


class FakePlace:
    """A fake cluster that is there for a while."""

    def __init__(self, cluster: FakeCluster, bin_directory: str) -> None:
        #: The queue itself.
        self.cluster = cluster
        #: Where the commands are.
        self.bin_directory = bin_directory

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which a process finds the commands."""
        return {"PATH": f"{self.bin_directory}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}

    def set(self, **settings: Any) -> None:
        """Change settings of the cluster while it runs."""
        self.cluster.set(**settings)

    def calls(self) -> list[list[str]]:
        """Give the command lines that were given to its commands so far."""
        with self.cluster.look() as queue:
            return queue.calls()


@contextmanager
def open_place(
    kind: type[FakeCluster], module: str, commands: Iterable[str], directory: str | os.PathLike[str], **settings: Any
) -> Iterator[FakePlace]:
    """Make a fake cluster in a directory of its own, and end all its jobs afterwards.

    Args:
        kind: The scheduler's cluster.
        module: The dotted name of a module with ``main(directory, argv) -> exit code``; ``argv[0]`` is the command.
        commands: Names of its commands.
        directory: Where everything is kept; made when it is not there.
        settings: The cluster's first settings.
    """
    home = os.path.abspath(directory)
    cluster = kind.create(home, **settings)
    bin_directory = os.path.join(home, "bin")
    os.makedirs(bin_directory, exist_ok=True)
    for command in commands:
        write_command(os.path.join(bin_directory, command), module, home)
    try:
        yield FakePlace(cluster, bin_directory)
    finally:
        cluster.close()


def write_command(path: str, module: str, home: str) -> None:
    """Write an executable that calls ``main`` of a module in this Python, without ``site``: it starts in no time."""
    code = f"import sys; sys.path[:0] = [{_ROOT!r}]; from {module} import main; sys.exit(main({home!r}, sys.argv[1:]))"
    words = shlex.join([sys.executable, "-IS", "-c", code, os.path.basename(path)])
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nexec {words} "$@"\n')
    os.chmod(path, stat.S_IRWXU)
