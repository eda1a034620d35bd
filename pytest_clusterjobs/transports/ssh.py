"""Another machine, over the OpenSSH client: one connection a transport, one session of it a command.

The user's ssh_config counts: names, jumps, users, keys, agents. Only two things are not left to it: a host key that is
not known is never taken, and a dead connection is noticed. The far side needs sh, tar, head, tail, cat, mkdir, mv, rm.
"""

from __future__ import annotations

import io
import os
import posixpath
import secrets
import select
import shlex
import subprocess
import tarfile
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import IO, TypeVar, cast

from pytest_clusterjobs.core.errors import (
    CommandNotFound,
    CommandTimeout,
    ConnectionLost,
    StoreError,
)
from pytest_clusterjobs.transports import ssh_scripts as scripts
from pytest_clusterjobs.transports import ssh_tar
from pytest_clusterjobs.transports.base import Channel, CommandResult, FarTransport
from pytest_clusterjobs.transports.ssh_exchange import BrokenExchange, Exchange, OutOfTime
from pytest_clusterjobs.transports.ssh_master import Master

__tracebackhide__ = True

_T = TypeVar("_T")
_NO_FILES: Mapping[str, bytes] = {}

# sshd lets ten sessions share a connection (sshd_config(5), MaxSessions); ours has one for itself.
_AT_ONCE = 8
# What ssh says where the site allows fewer; the session was not begun (mux.c).
_REFUSED = "Session open refused by peer"
_REFUSED_PAUSE_S = 0.05
# cat(1) in the C locale, of glibc and musl alike.
_ABSENT = "No such file or directory"
_SOMEBODY_ELSES = 4


class SSHTransport(FarTransport):
    """Run argv lists on another machine and move files there, over one connection that heals by itself.

    At most eight commands run at once; others wait for their turn within their time limits. A far command is killed
    with its process group when its time limit passes, when the connection breaks and when this process ends, however
    it ends. The exception: one that leaves more than 64 KiB of its standard input unread goes on.
    """

    def __init__(
        self,
        host: str,
        *,
        config: str | None = None,
        connect_timeout_s: float = 10.0,
        login_timeout_s: float = 60.0,
        files_timeout_s: float = 60.0,
    ) -> None:
        """Nothing is reached yet.

        Args:
            host: A name of the ssh_config, ``HOST`` or ``USER@HOST``.
            config: The path of an ssh_config; None: ``$CLUSTERJOBS_SSH_CONFIG``, else what ssh itself reads.
            connect_timeout_s: Seconds for the machine to answer; a ConnectTimeout in the ssh_config wins.
            login_timeout_s: Seconds until we are in, passwords and codes included.
            files_timeout_s: Seconds for a method that has no time limit of its own.
        """
        self.host = host
        self._files_timeout_s = files_timeout_s
        chosen = config or os.environ.get("CLUSTERJOBS_SSH_CONFIG") or None
        self._master = Master(host, chosen, connect_timeout_s, login_timeout_s)
        self._slots = threading.BoundedSemaphore(_AT_ONCE)
        weakref.finalize(self, self._master.close)  # also when Python ends

    def __repr__(self) -> str:
        return f"SSHTransport({self.host!r})"

    def connect(self) -> None:
        self._master.way(time.monotonic() + self._files_timeout_s)

    def close(self) -> None:
        self._master.close()

    # ---------------------------------------------------------------- commands

    def run(
        self,
        argv: Sequence[str],
        timeout_s: float,
        *,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> CommandResult:
        """Run a command to its end, as `Transport.run` says.

        Its environment is the far login's, with ``env`` on top: nothing of ours goes there. The exit code of a command
        that a signal ended is 128 and the signal's number, as the far shell gives it.
        """
        data = (stdin or "").encode()
        command = shlex.join(argv)[:1000]

        def finish(exchange: Exchange) -> CommandResult:
            code, stdout, stderr = exchange.finish()
            said = stderr.decode(errors="replace")
            if code == 1 and said.endswith(f"{exchange.mark}/\n"):
                raise StoreError(f"cannot run {argv[0]}: the directory {cwd} does not exist on {self.host}")
            if code == 127 and said.endswith(f"{exchange.mark}?\n"):
                raise CommandNotFound(f"{argv[0]} not found on PATH of {self.host}", command=command)
            return CommandResult(tuple(argv), code, stdout.decode(errors="replace"), said)

        return self._talk(
            lambda mark: scripts.command(mark, argv, len(data), env, cwd), command, timeout_s, finish, lambda: [data]
        )

    def open(self, argv: Sequence[str]) -> Channel:
        """Start a command as `FarTransport.open` says; two seconds after its standard input closed it is killed.

        It counts among the sessions of the connection, not among the eight commands. Its exit code is the process's.
        """
        deadline = time.monotonic() + self._files_timeout_s
        mark = f"cj{secrets.token_hex(8)}"
        first, _ = scripts.sent(scripts.channel(mark, argv))
        way = [*self._master.way(deadline), scripts.BOOTSTRAP]
        pipe = subprocess.PIPE
        process = subprocess.Popen(way, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, start_new_session=True)
        try:
            _write_all(process, first)
            _skip_to(process.stdout, f"{mark}<\n".encode(), deadline)
            _skip_to(process.stderr, f"{mark}<\n".encode(), deadline)
        except BaseException as error:
            process.kill()
            _, stderr = process.communicate()
            if isinstance(error, (OSError, TimeoutError)):
                raise self._lost(shlex.join(argv), stderr.decode(errors="replace")) from None
            raise
        return process

    # ---------------------------------------------------------------- files

    def make_directory(self, path: str) -> None:
        code, out, err = self._do(scripts.make_directory(path), f"mkdir {path}")
        if code == _SOMEBODY_ELSES:
            owner = (out.decode(errors="replace").split() + ["?"] * 3)[2]
            raise StoreError(
                f"{path} on {self.host} is not a directory of ours (owner uid {owner}); remove it or set another"
            )
        self._check(code, err, f"cannot make the directory {path}")

    def write(self, path: str, data: bytes, *, executable: bool = False) -> None:
        self.write_many({path: data}, [path] if executable else [])

    def write_many(self, files: Mapping[str, bytes], executable: Collection[str] = ()) -> None:
        """Write several files with one command, as `Transport.write` does; each appears whole or not at all."""
        if not files:
            return
        contents = {str(number): (data, name in executable) for number, (name, data) in enumerate(files.items())}
        end = scripts.moves(list(files))
        first = next(iter(files))
        script = scripts.receive_files(posixpath.dirname(first) or ".", secrets.token_hex(8))
        what = f"cannot write {first} ({len(files[first])} bytes)"
        if len(files) > 1:
            what = f"cannot write {first} and {len(files) - 1} more ({sum(map(len, files.values()))} bytes)"
        self._send(script, lambda: ssh_tar.pack_files(contents, end), what, self._files_timeout_s)

    def read(self, path: str, *, last_bytes: int | None = None) -> bytes | None:
        return self._content(scripts.read(path, last_bytes), path)

    def read_first_line(self, path: str) -> bytes | None:
        line = self._content(scripts.read_first_line(path), path)
        return None if line is None else line.rstrip(b"\n")

    def list_names(self, path: str) -> list[str]:
        _, out, _ = self._do(scripts.list_names(path), f"ls {path}")
        return [os.fsdecode(name) for name in out.split(b"/")[:-1]]

    def remove(self, path: str) -> None:
        self._do(scripts.remove(path), f"rm {path}")

    def put(self, source: str, names: Sequence[str], directory: str, timeout_s: float) -> None:
        """Copy as `FarTransport.put` says: it is unpacked beside its place, and then moved there."""
        ssh_tar.check_names(names)
        end = scripts.moves([posixpath.join(directory, name) for name in names])
        script = scripts.receive_tree(directory, secrets.token_hex(8))
        self._send(script, lambda: ssh_tar.pack_tree(source, names, end), f"cannot copy to {directory}", timeout_s)

    def get(self, directory: str, names: Sequence[str], target: str, timeout_s: float) -> list[str]:
        """Copy as `FarTransport.get` says. Links that lead out of the folder are left out; what they lead to is not
        followed."""
        ssh_tar.check_names(names)
        if not names:
            return []

        def finish(exchange: Exchange) -> list[str]:
            found: list[str] = []
            first = exchange.read(tarfile.BLOCKSIZE)
            if first:
                try:
                    found = ssh_tar.unpack(cast("IO[bytes]", _Reader(exchange, first)), names, target)
                except tarfile.TarError as error:
                    code, _, err = _drained(exchange)
                    self._check(code, err, f"cannot copy from {directory}")
                    raise StoreError(f"cannot copy from {directory} on {self.host}: {error}") from error
            code, _, err = _drained(exchange)
            if code and not _only_changed(err):
                self._check(code, err, f"cannot copy from {directory}")
            return found

        def framed(mark: str) -> str:
            return scripts.framed(mark, scripts.send(directory, names))

        return self._talk(framed, f"tar -c of {directory}", timeout_s, finish)

    # ---------------------------------------------------------------- how

    def _content(self, script: str, path: str) -> bytes | None:
        code, out, err = self._do(script, f"read {path}")
        if code and err.strip().endswith(_ABSENT.encode()):
            return None
        self._check(code, err, f"cannot read {path}")
        return out

    def _do(self, script: str, what: str) -> tuple[int, bytes, bytes]:
        return self._talk(lambda mark: scripts.framed(mark, script), what, self._files_timeout_s, Exchange.finish)

    def _send(self, script: str, archive: Callable[[], Iterable[bytes]], what: str, timeout_s: float) -> None:
        def framed(mark: str) -> str:
            return scripts.framed(mark, script)

        code, _, err = self._talk(framed, what, timeout_s, Exchange.finish, archive, closes=True)
        self._check(code, err, what)

    def _check(self, code: int, err: bytes, what: str) -> None:
        if code:
            words = "; ".join(err.decode(errors="replace").split("\n")).strip("; ")
            raise StoreError(f"{what} on {self.host}: {words or f'exit code {code}'}")

    def _talk(
        self,
        script: Callable[[str], str],
        what: str,
        timeout_s: float,
        use: Callable[[Exchange], _T],
        feed: Callable[[], Iterable[bytes]] = tuple,
        *,
        closes: bool = False,
    ) -> _T:
        """Run a script there and let ``use`` read it, when it is our turn."""
        deadline = time.monotonic() + timeout_s
        late = f"{what} on {self.host} did not end within {timeout_s:g} s and was killed"
        full = ConnectionLost(f"{self.host} takes no more sessions (MaxSessions of its sshd)", command=what)
        was_refused = False
        if not self._slots.acquire(timeout=timeout_s):
            raise CommandTimeout(late, command=what)
        try:
            while True:
                way = [*self._master.way(deadline), scripts.BOOTSTRAP]
                with Exchange(way, script, deadline, feed(), closes=closes) as exchange:
                    try:
                        return use(exchange)
                    except BrokenExchange as error:
                        if error.has_begun or _REFUSED not in error.words:
                            raise self._lost(what, error.words) from None
                        was_refused = True
                    except OutOfTime:
                        if was_refused and not exchange.stdout.has_begun:
                            raise full from None
                        raise CommandTimeout(late, command=what, stderr=exchange.stderr.seen()) from None
                if time.monotonic() + _REFUSED_PAUSE_S > deadline:
                    raise full
                time.sleep(_REFUSED_PAUSE_S)
        finally:
            self._slots.release()

    def _lost(self, what: str, words: str) -> ConnectionLost:
        self._master.broke()
        said = "\n".join(filter(None, [words.strip(), self._master.words()]))
        return ConnectionLost(f"the connection to {self.host} broke", command=what, stderr=said)


class _Reader(io.RawIOBase):
    """An exchange's output as a file."""

    def __init__(self, exchange: Exchange, first: bytes) -> None:
        self._exchange, self._first = exchange, first

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = 1 << 62 if size is None or size < 0 else size
        first, self._first = self._first[:wanted], self._first[wanted:]
        return first + self._exchange.read(wanted - len(first))


def _drained(exchange: Exchange) -> tuple[int, bytes, bytes]:
    """Skip what is left of the output, and give the end."""
    while exchange.read(1 << 18):
        pass
    return exchange.finish()


def _only_changed(err: bytes) -> bool:
    """Tell whether tar only found that files grew, or went, while it read them; GNU tar's words in the C locale."""
    lines = [line for line in err.decode(errors="replace").splitlines() if line.strip()]
    return bool(lines) and all(
        line.endswith(("file changed as we read it", "File removed before we read it")) for line in lines
    )


def _write_all(process: Channel, data: bytes) -> None:
    if process.stdin is not None:
        with suppress(BrokenPipeError):  # its end tells why
            process.stdin.write(data)


def _skip_to(stream: IO[bytes] | None, mark: bytes, deadline: float) -> None:
    """Read up to a mark and not further: what follows is the caller's."""
    heard = b""
    while stream is not None and not heard.endswith(mark):
        if not select.select([stream], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        byte = os.read(stream.fileno(), 1)
        if not byte:
            raise BrokenPipeError(heard.decode(errors="replace"))
        heard = (heard + byte)[-len(mark) :]
