"""The way to the place where a scheduler is spoken: run a command there, and keep files there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


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


class Transport(ABC):
    """Run argv lists with a time limit and move files. Methods may be called from any thread."""

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
