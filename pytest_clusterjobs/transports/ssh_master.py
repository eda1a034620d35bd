"""The one connection of an SSH transport: OpenSSH's control master, which alone resolves, verifies and authenticates.

It runs a far ``cat`` on a pipe that only we hold: when we end, however we end, so do the ``cat`` and the master.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import secrets
import select
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from pytest_clusterjobs.core.errors import BackendUnavailable, CommandNotFound, ConfigError, ConnectionLost

__tracebackhide__ = True

# sun_path holds 108 bytes (unix(7)), and ssh appends 17 while it makes the socket.
_LONGEST_SOCKET = 85
_RECONNECTS = 3
_ENDS_WITHIN_S = 0.5
_FIRST_PAUSE_S = 0.3
# Dead within 20 s, unless the user's ssh_config says otherwise.
_KEEPALIVE = ("ServerAliveInterval=5", "ServerAliveCountMax=3")

_UNKNOWN_KEY = re.compile(r"host key is known for (?P<name>\S+) and you have requested strict checking")
_CHANGED_KEY = "REMOTE HOST IDENTIFICATION HAS CHANGED"
_DENIED = re.compile(r"(?P<who>\S+): Permission denied \((?P<methods>[^)]*)\)")
_TOO_MANY_KEYS = "Too many authentication failures"


class Master:
    """The connection, made when it is first needed and again when it broke. Any thread may ask for it."""

    def __init__(self, host: str, config: str | None, connect_timeout_s: float, login_timeout_s: float) -> None:
        self._host, self._config = host, config
        self._connect_timeout_s, self._login_timeout_s = connect_timeout_s, login_timeout_s
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._directory: Path | None = None
        self._way: list[str] = []
        self._starts = 0
        self._failures = 0
        self._error: Exception | None = None
        self._settings: Mapping[str, str] | None = None

    def way(self, deadline: float) -> list[str]:
        """Give the argv that runs a command, but for the command; connects if need be.

        Raises:
            ConnectionLost: It cannot be reached by the deadline.
            BackendUnavailable: It lets us not in.
            CommandNotFound: There is no ssh here.
        """
        seen = self._failures
        if not self._turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise ConnectionLost(f"{self._host} is still being connected to")
        try:
            if self._process is None or self._process.poll() is not None:
                if seen != self._failures and self._error is not None:  # somebody has just tried for us, too
                    raise copy.copy(self._error)
                self._connect(deadline)
            return self._way
        finally:
            self._turn.release()

    def broke(self) -> None:
        """Take a hint that the connection may be gone: give the master a moment to end, so that nobody uses it."""
        process = self._process
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_ENDS_WITHIN_S)

    def words(self) -> str:
        """Give what ssh has said about the connection."""
        log = self._log
        if log is None or log.closed:
            return ""
        text = os.pread(log.fileno(), 1 << 16, 0).decode(errors="replace")
        return "\n".join(line for line in text.replace("\r", "").splitlines() if line.strip())

    def close(self) -> None:
        """End the connection, and everything that runs over it. Idempotent; it may be used again."""
        with self._turn:
            self._end()
            if self._directory is not None:
                shutil.rmtree(self._directory, ignore_errors=True)
                self._directory = None

    def _connect(self, deadline: float) -> None:
        tries = _RECONNECTS if self._starts else 1
        pause_s = _FIRST_PAUSE_S
        while True:
            tries -= 1
            try:
                self._start(min(deadline, time.monotonic() + self._login_timeout_s))
                self._error = None
                return
            except (ConnectionLost, BackendUnavailable) as error:
                self._end()
                if tries and isinstance(error, ConnectionLost) and time.monotonic() + pause_s < deadline:
                    time.sleep(pause_s)
                    pause_s *= 3
                    continue
                self._failures += 1
                self._error = error
                raise
            except BaseException:
                self._end()
                raise

    def _start(self, deadline: float) -> None:
        self._end()
        ssh = _ssh()
        settings = self._resolve(ssh, deadline)
        if self._directory is None:
            self._directory = _private_directory()
        self._starts += 1
        mark = f"cj{secrets.token_hex(8)}"
        wanted = ["StrictHostKeyChecking=yes", "ControlPersist=no", "RemoteCommand=none", "ClearAllForwardings=yes"]
        if settings.get("serveraliveinterval", "0") == "0":
            wanted += _KEEPALIVE
        if settings.get("connecttimeout", "none") == "none":
            wanted.append(f"ConnectTimeout={max(1, round(self._connect_timeout_s))}")
        keep = f"exec /bin/sh -c 'echo {mark}; exec cat >/dev/null'"
        environment, more = self._askpass()
        options = _options([*wanted, *more, "LogLevel=ERROR"])
        argv = [ssh, *self._configured(), "-M", "-S", self._socket(), "-T", *options, "--", self._host, keep]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - _end closes it
        # In a terminal ssh may ask there, so it stays in the session; what Ctrl-C sends is ours to handle all the same.
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", 'trap "" INT QUIT HUP; exec "$@"', "sh", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            bufsize=0,
            start_new_session=not os.isatty(0),
        )
        self._await(mark.encode() + b"\n", deadline)
        # Its configuration is read by the master alone. Where the socket is dead, no way of its own must be found.
        alone = _options(("ControlMaster=no", "BatchMode=yes", "ProxyCommand=false", "LogLevel=ERROR"))
        self._way = [ssh, "-F", "/dev/null", "-S", self._socket(), "-T", *alone, "--", self._host]
        self._ask_file().unlink(missing_ok=True)

    def _await(self, mark: bytes, deadline: float) -> None:
        process = self._process
        if process is None or process.stdout is None:
            return
        heard = b""
        while mark not in heard:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                message = f"{self._host} has not let us in within {self._login_timeout_s:g} s"
                raise ConnectionLost(message, stderr=self.words())
            chunk = os.read(process.stdout.fileno(), 4096)
            if not chunk:
                try:
                    code = process.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:  # it has closed its output, and goes on
                    process.kill()
                    code = process.wait()
                raise self._refusal(code, heard.decode(errors="replace"))
            heard = (heard + chunk)[-65536:]

    def _refusal(self, code: int, heard: str) -> ConnectionLost | BackendUnavailable:
        """Say why a connection was not made; ssh tells it in words alone (ssh(1): 255 if an error occurred)."""
        words = self.words()
        host = self._host
        if _CHANGED_KEY in words:
            return BackendUnavailable(
                f"the host key of {host} is another one than before. Either the machine was set up anew, or somebody "
                "listens in between: ask its administrators for the new key's fingerprint before you remove the old "
                f"one from {self._known_hosts()}",
                stderr=words,
            )
        if match := _UNKNOWN_KEY.search(words):
            return BackendUnavailable(self._unknown(match["name"]), stderr=words)
        if match := _DENIED.search(words):
            return BackendUnavailable(
                f"{host} does not let us in as {match['who'].partition('@')[0]}; it takes: {match['methods']}. Where a "
                "password or a code is needed, set SSH_ASKPASS or CLUSTERJOBS_SSH_PASSWORD_COMMAND",
                stderr=words,
            )
        if _TOO_MANY_KEYS in words:
            return BackendUnavailable(
                f"{host} was offered too many keys: set IdentitiesOnly in ssh_config", stderr=words
            )
        if code != 255:
            message = f"{host} lets us in, but runs no command (exit code {code}): {heard.strip() or 'it said nothing'}"
            return BackendUnavailable(message, stderr=words)
        return ConnectionLost(f"{host} cannot be reached", stderr=words)

    def _unknown(self, name: str) -> str:
        bracketed = re.fullmatch(r"\[(.+)\]:(\d+)", name)
        host, port = (bracketed[1], bracketed[2]) if bracketed else (name, "22")
        alias = ""
        settings = self._settings or {}
        if name == settings.get("hostkeyalias"):
            host, port = settings.get("hostname", host), settings.get("port", port)
            alias = " | " + shlex.join(["sed", f"s/^[^ ]*/{name}/"])
        scan = f"{shlex.join(['ssh-keyscan', '-p', port, host])}{alias} >> {shlex.quote(self._known_hosts())}"
        by_hand = shlex.join(["ssh", *self._configured(), self._host])
        return (
            f"the host key of {name} is not known, and none is taken unseen. To add it: {scan}\n"
            f"or log in once by hand: {by_hand}\n"
            "Compare its fingerprint (ssh-keygen -lf FILE) with the one that the machine's administrators give"
        )

    def _known_hosts(self) -> str:
        files = (self._settings or {}).get("userknownhostsfile", "~/.ssh/known_hosts").split()
        return files[0]

    def _resolve(self, ssh: str, deadline: float) -> Mapping[str, str]:
        """Give ssh's settings for the host; read once.

        Raises:
            BackendUnavailable: ssh does not understand its configuration.
        """
        if self._settings is None:
            argv = [ssh, *self._configured(), "-G", "--", self._host]
            try:
                done = subprocess.run(
                    argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=max(0.1, deadline - time.monotonic())
                )
            except subprocess.TimeoutExpired:
                raise ConnectionLost(f"{shlex.join(argv)} did not end: a Match exec in its configuration?") from None
            if done.returncode:
                words = done.stderr.decode(errors="replace")
                raise BackendUnavailable(f"ssh cannot use {self._host!r}", command=shlex.join(argv), stderr=words)
            lines = [line.partition(" ") for line in done.stdout.decode(errors="replace").splitlines()]
            self._settings = {key: value for key, _, value in reversed(lines)}
        return self._settings

    def _askpass(self) -> tuple[dict[str, str], list[str]]:
        """Give the environment in which ssh asks whom the user has named, and options for it."""
        environment = dict(os.environ)
        command = password_command(environment.pop("CLUSTERJOBS_SSH_PASSWORD_COMMAND", ""))
        if command:
            ask = self._ask_file()
            ask.touch(mode=0o700)
            ask.write_text(f'#!/bin/sh\nCLUSTERJOBS_SSH_PROMPT="$1" exec {shlex.join(command)}\n')
            environment["SSH_ASKPASS"] = str(ask)
        if command or ("SSH_ASKPASS" in environment and not os.isatty(0)):
            environment["SSH_ASKPASS_REQUIRE"] = "force"
            return environment, ["NumberOfPasswordPrompts=1"] if command else []
        return environment, []

    def _ask_file(self) -> Path:
        return Path(self._directory or "") / "ask"

    def _configured(self) -> list[str]:
        return [] if self._config is None else ["-F", self._config]

    def _socket(self) -> str:
        return str(Path(self._directory or "") / f"s{self._starts}").replace("%", "%%")  # ssh_config(5), TOKENS

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._directory is not None:
            self._ask_file().unlink(missing_ok=True)


def password_command(text: str) -> list[str]:
    """Read CLUSTERJOBS_SSH_PASSWORD_COMMAND: a JSON list of words, or words as a shell reads them.

    Raises:
        ConfigError: It is neither.
    """
    try:
        words = json.loads(text) if text.lstrip().startswith("[") else shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"CLUSTERJOBS_SSH_PASSWORD_COMMAND cannot be read: {error}") from None
    if not all(isinstance(word, str) for word in words):
        raise ConfigError("CLUSTERJOBS_SSH_PASSWORD_COMMAND must be a list of words")
    return list(words)


def _ssh() -> str:
    found = shutil.which("ssh")
    if found is None:
        raise CommandNotFound("ssh not found on PATH; install the OpenSSH client")
    return found


def _options(options: list[str] | tuple[str, ...]) -> list[str]:
    return [word for option in options for word in ("-o", option)]


def _private_directory() -> Path:
    usual = tempfile.gettempdir()
    is_short = len(os.fsencode(usual)) + len("/cj-ssh-12345678/s1234") <= _LONGEST_SOCKET
    return Path(tempfile.mkdtemp(prefix="cj-ssh-", dir=usual if is_short else "/tmp"))  # noqa: S108 - 0700, for a socket
