"""One connection to a keeper: lines of JSON over a far command's streams, none of which ever blocks us."""

from __future__ import annotations

import json
import os
import select
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pytest_clusterjobs.transports.base import Channel

_CHUNK = 1 << 20
_LAST_WORDS = 4000
#: Seconds that the far end has to end when its input is closed.
_CLOSE_S = 2.0


class Wire:
    """The streams of a far command. One thread uses it.

    Args:
        channel: The command.
        bell: A descriptor that ends a wait when it becomes readable.
    """

    def __init__(self, channel: Channel, bell: int) -> None:
        #: True when the far end has closed, or cannot be reached any more.
        self.is_over = False
        self._channel = channel
        self._streams = [stream for stream in (channel.stdin, channel.stdout, channel.stderr) if stream is not None]
        self._stdin, self._stdout, self._stderr = (stream.fileno() for stream in self._streams)
        self._unsent, self._rest, self._errors = b"", b"", b""
        self._poll = select.poll()
        self._poll.register(bell, select.POLLIN)
        for descriptor in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(descriptor, False)
        for descriptor in (self._stdout, self._stderr):
            self._poll.register(descriptor, select.POLLIN)

    def send(self, message: Mapping[str, Any]) -> None:
        """Have a message sent, now or during the next turns."""
        self.write(json.dumps(message).encode() + b"\n")

    def write(self, data: bytes) -> None:
        """Have bytes sent, as `send` does."""
        self._unsent += data
        self._flush()

    def turn(self, timeout_s: float) -> list[dict[str, Any]]:
        """Wait until something happens, at most so long, and give the messages that came."""
        messages: list[dict[str, Any]] = []
        for descriptor, _ in self._poll.poll(max(0.0, timeout_s) * 1000):
            if descriptor == self._stdout:
                messages = self._read()
            elif descriptor == self._stderr:
                self._hear()
            elif descriptor == self._stdin:
                self._flush()
        return messages

    def last_words(self) -> str:
        """Give what the far end has said in its errors, and how it ended."""
        with suppress(Exception):  # it has closed its output, but does not end: what it said must do
            self._channel.wait(timeout=_CLOSE_S)
        self._hear()
        said = self._errors.decode(errors="replace").strip()
        return f"{said} (exit code {self._channel.returncode})".strip()

    @property
    def returncode(self) -> int | None:
        """The command's exit code, None while it runs."""
        return self._channel.poll()

    def close(self) -> None:
        """Close the far end's input, and end what stands for it here."""
        with suppress(OSError):
            self._streams[0].close()
        try:
            self._channel.wait(timeout=_CLOSE_S)
        except Exception:  # a connection that hangs: the far end sees its own end of it
            self._channel.kill()
            with suppress(Exception):
                self._channel.wait(timeout=_CLOSE_S)
        for stream in self._streams[1:]:
            stream.close()

    def _flush(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[os.write(self._stdin, self._unsent) :]
        except BlockingIOError:
            self._poll.register(self._stdin, select.POLLOUT)
            return
        except OSError:
            self.is_over = True
        with suppress(KeyError):
            self._poll.unregister(self._stdin)

    def _read(self) -> list[dict[str, Any]]:
        try:
            data = os.read(self._stdout, _CHUNK)
        except BlockingIOError:
            return []
        if not data:
            self.is_over = True
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [message for line in lines if (message := _message(line)) is not None]

    def _hear(self) -> None:
        try:
            data = os.read(self._stderr, _CHUNK)
        except BlockingIOError:
            return
        self._errors = (self._errors + data)[-_LAST_WORDS:]
        if not data:
            with suppress(KeyError):
                self._poll.unregister(self._stderr)


def _message(line: bytes) -> dict[str, Any] | None:
    """Read a line; None for one that is not ours: what a login prints before the command."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None
