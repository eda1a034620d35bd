"""The way to the place where a scheduler is spoken: run a command there, and keep files there."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, TypeAlias


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended."""

    #: What was run.
    argv: tuple[str, ...]
    #: Exit code; negative: the signal that ended it.
    returncode: int
    #: Decoded as UTF-8, undecodable bytes replaced.
    stdout: str
    #: Decoded as UTF-8, undecodable bytes replaced.
    stderr: str


#: A command on another machine, as the process here that stands for it, with pipes for its three streams.
Channel: TypeAlias = "subprocess.Popen[bytes]"

# How long a channel's process here may take to end once its standard input is closed.
_HANG_UP_S = 2.0


def hang_up(channel: Channel) -> None:
    """End a channel's command, and its process here within a few seconds; the pipes that are read stay open.

    Where the connection hangs the process here is killed: the far command ends when its side of it does.
    """
    if channel.stdin is not None:
        with suppress(OSError):
            channel.stdin.close()
    try:
        channel.wait(timeout=_HANG_UP_S)
    except subprocess.TimeoutExpired:
        channel.kill()
        channel.wait()


class Transport(ABC):
    """Run argv lists with a time limit and move files. Methods may be called from any thread."""

    #: True: its files are this machine's files.
    is_here: ClassVar[bool] = True

    @abstractmethod
    def run(
        self,
        argv: Sequence[str],
        timeout_s: float,
        *,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> CommandResult:
        """Run a command to its end and give what it printed, whatever its exit code.

        Args:
            argv: The command and its arguments; no shell reads them.
            timeout_s: Seconds after which the command and all its children are killed.
            stdin: Text for its standard input, or None for an empty one.
            env: Its whole environment, or None for the transport's own.
            cwd: Its working directory, or None for the transport's own.

        Raises:
            CommandNotFound: There is no such command, or it cannot be executed.
            CommandError: It cannot be started, e.g. because its words are too long.
            CommandTimeout: It did not end in time. It may have had its effect.
            ConnectionLost: The way there broke, before or while it ran. It may have had its effect.
            BackendUnavailable: There is no way there, and trying again would not help: a key refused, a host unknown.
        """

    @abstractmethod
    def make_directory(self, path: str) -> None:
        """Make a directory of mode 0700 and its parents; one that exists must be ours.

        Raises:
            StoreError: It cannot be made, or it belongs to somebody else.
        """

    @abstractmethod
    def write(self, path: str, data: bytes, *, executable: bool = False) -> None:
        """Write a file whole, readable by us alone.

        Raises:
            StoreError: It cannot be written: no space, read-only, no permission.
        """

    def write_many(self, files: Mapping[str, bytes], executable: Collection[str] = ()) -> None:
        """Write several files, by path, as `write` does; ``executable`` are the paths of those that are run.

        Raises:
            StoreError: One cannot be written.
        """
        for path, data in files.items():
            self.write(path, data, executable=path in executable)

    @abstractmethod
    def read(self, path: str, *, last_bytes: int | None = None) -> bytes | None:
        """Give a file's content, or only its end; None when there is no such file.

        Raises:
            StoreError: It is there and cannot be read.
        """

    @abstractmethod
    def read_first_line(self, path: str) -> bytes | None:
        """Give a file's first line without its end; None when there is no such file.

        Raises:
            StoreError: It is there and cannot be read.
        """

    @abstractmethod
    def list_names(self, path: str) -> list[str]:
        """Give the names in a directory, in no order; [] when there is no such directory."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file or a whole directory; no error when it is gone already. Best effort."""

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Release what it holds: connections, processes. Idempotent."""


class FarTransport(Transport):
    """The way to another machine. What moves many files moves them in one stream.

    Every method may raise `ConnectionLost` and `BackendUnavailable`, as `run` does.
    """

    is_here: ClassVar[bool] = False
    #: The machine, as users call it.
    host: str

    @abstractmethod
    def connect(self) -> None:
        """Reach the machine, if it is not reached already.

        Raises:
            ConnectionLost: It cannot be reached now.
            BackendUnavailable: It lets us not in, and trying again would not help.
        """

    @abstractmethod
    def put(self, source: str, names: Sequence[str], directory: str, timeout_s: float) -> None:
        """Copy files and folders of this machine to the far one, in one stream and with one command.

        Args:
            source: A folder here.
            names: What to copy of it, as paths relative to it. A folder goes with all that is in it.
            directory: The folder there, made with mode 0700 where it is missing. Names that are there are replaced.
            timeout_s: Seconds after which it is given up.

        Raises:
            StoreError: It cannot be written there: no space, read-only, no permission. The message has the reason.
        """

    @abstractmethod
    def get(self, directory: str, names: Sequence[str], target: str, timeout_s: float) -> list[str]:
        """Copy files and folders of the far machine here, in one stream and with one command.

        Args:
            directory: A folder there.
            names: What to copy of it, as paths relative to it. Those that are not there are left out; a folder comes
                with all that is in it.
            target: The folder here; subfolders are made. Each file appears whole or not at all.
            timeout_s: Seconds after which it is given up.

        Returns:
            The names that were there.

        Raises:
            StoreError: Something is there and cannot be read, or cannot be written here.
        """

    @abstractmethod
    def open(self, argv: Sequence[str]) -> Channel:
        """Start a command there that runs until its standard input closes, or until the connection breaks.

        Killing the process here does not end the far command; closing its standard input must.
        """
