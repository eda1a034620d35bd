"""This machine: commands are child processes, files are files."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import stat
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pytest_clusterjobs.core.errors import CommandError, CommandNotFound, CommandTimeout, StoreError
from pytest_clusterjobs.transports.base import CommandResult, Transport

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks


class LocalTransport(Transport):
    """Run commands here, each in a session of its own so that a time limit ends its children too."""

    def run(
        self,
        argv: Sequence[str],
        timeout_s: float,
        *,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> CommandResult:
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=None if env is None else dict(env),
                cwd=cwd,
                start_new_session=True,
            )
        except OSError as error:
            if cwd is not None and not Path(cwd).is_dir():
                raise StoreError(f"cannot run {argv[0]}: the directory {cwd} does not exist") from error
            message = f"{argv[0]} not found on PATH" if isinstance(error, FileNotFoundError) else str(error)
            kind = CommandNotFound if error.errno in (errno.ENOENT, errno.EACCES, errno.ENOEXEC) else CommandError
            raise kind(message, command=shlex.join(argv)[:1000]) from None
        try:
            stdout, stderr = process.communicate(None if stdin is None else stdin.encode(), timeout=timeout_s)
        except subprocess.TimeoutExpired:
            _, stderr = _kill_group(process)
            raise CommandTimeout(
                f"{argv[0]} did not end within {timeout_s:g} s and was killed",
                command=shlex.join(argv),
                stderr=stderr.decode(errors="replace"),
            ) from None
        except BaseException:  # Ctrl-C while the command runs: it must not stay behind
            _kill_group(process)
            raise
        return CommandResult(
            tuple(argv), process.returncode, stdout.decode(errors="replace"), stderr.decode(errors="replace")
        )

    def make_directory(self, path: str) -> None:
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            status = os.lstat(path)
        except OSError as error:
            raise StoreError(f"cannot make the directory {path}: {error.strerror or error}") from error
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise StoreError(f"{path} is not a directory of ours (owner uid {status.st_uid}); remove it or set another")
        if status.st_mode & 0o077:
            os.chmod(path, 0o700)

    def write(self, path: str, data: bytes, *, executable: bool = False) -> None:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o700 if executable else 0o600)
            with open(descriptor, "wb") as file:
                file.write(data)
        except OSError as error:
            raise StoreError(f"cannot write {path} ({len(data)} bytes): {error.strerror or error}") from error

    def read(self, path: str, *, last_bytes: int | None = None) -> bytes | None:
        try:
            with open(path, "rb") as file:
                if last_bytes is not None:
                    file.seek(max(0, os.fstat(file.fileno()).st_size - last_bytes))
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror or error}") from error

    def read_first_line(self, path: str) -> bytes | None:
        try:
            with open(path, "rb") as file:
                return file.readline().rstrip(b"\n")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror or error}") from error

    def list_names(self, path: str) -> list[str]:
        try:
            return os.listdir(path)
        except OSError:
            return []

    def remove(self, path: str) -> None:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                os.unlink(path)


def _kill_group(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        return process.communicate(timeout=5)
    except (subprocess.TimeoutExpired, ValueError):
        # A grandchild in a session of its own still holds the pipe: what it would say is not worth the wait.
        for pipe in (process.stdout, process.stderr, process.stdin):
            if pipe is not None:
                pipe.close()
        process.wait(timeout=5)
        return b"", b""
