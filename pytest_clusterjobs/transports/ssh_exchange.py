"""One command on the far machine, as seen from here: whoever waits for its streams moves them, until a deadline."""

from __future__ import annotations

import os
import re
import secrets
import selectors
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType

from pytest_clusterjobs.transports.ssh_scripts import sent

__tracebackhide__ = True

_CHUNK = 1 << 18
# Longer than any end mark.
_TAIL = 64
# How long an ended command's ssh may take to end too: a child that it left may hold its output.
_LINGER_S = 1.0


class OutOfTime(Exception):
    """The deadline passed."""


class BrokenExchange(Exception):
    """The far command's end was not seen. ``words`` are ssh's; ``has_begun``: the far shell was heard of."""

    def __init__(self, words: str, has_begun: bool) -> None:
        super().__init__(words, has_begun)
        self.words, self.has_begun = words, has_begun


class Framed:
    """A stream of which only what lies between two marks counts."""

    def __init__(self, mark: str) -> None:
        self._begin, self._end = f"{mark}<\n".encode(), re.compile(mark.encode() + rb">(\d+)\n")
        self._held, self._searched = bytearray(), 0
        #: Whether the first mark was seen.
        self.has_begun = False
        #: The exit code that the second mark has, once it was seen.
        self.code: int | None = None

    def add(self, chunk: bytes) -> None:
        """Take what was read; what follows the second mark is dropped."""
        if self.code is not None:
            return
        self._held += chunk
        if not self.has_begun:
            at = self._held.find(self._begin)
            if at < 0:
                return
            self.has_begun = True
            del self._held[: at + len(self._begin)]
        match = self._end.search(self._held, max(0, self._searched - _TAIL))
        if match is not None:
            self.code = int(match[1])
            del self._held[match.start() :]
        self._searched = len(self._held)

    def available(self) -> int:
        """Tell how many bytes are known to be content."""
        if self.code is not None:
            return len(self._held)
        return max(0, len(self._held) - _TAIL) if self.has_begun else 0

    def take(self, most: int) -> bytes:
        """Give content, and forget it."""
        count = min(most, self.available())
        taken = bytes(self._held[:count])
        del self._held[:count]
        self._searched = max(0, self._searched - count)
        return taken

    def seen(self) -> str:
        """Give everything that was read and not taken, for an error message; before the first mark, all of it."""
        return bytes(self._held).decode(errors="replace")


class Exchange:
    """Start ssh with a script, feed it, and read what it says. A context: its end is the end of ssh here."""

    def __init__(
        self,
        argv: Sequence[str],
        script: Callable[[str], str],
        deadline: float,
        feed: Iterable[bytes] = (),
        *,
        closes: bool = False,
    ) -> None:
        """Start it.

        Args:
            argv: ssh with `BOOTSTRAP`.
            script: Gives the far script, with a mark for its streams.
            deadline: When it is given up, of ``time.monotonic()``.
            feed: What follows the script on standard input.
            closes: Whether standard input is closed after that; else it stays open to the end.
        """
        mark = f"cj{secrets.token_hex(8)}"
        self.mark = mark
        first, self._feed_waits = sent(script(mark))
        self._deadline, self._closes = deadline, closes
        self._feed: Iterator[bytes] = iter(feed)
        self.stdout, self.stderr = Framed(mark), Framed(mark)
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C in the terminal is ours to handle
        )
        self._selector = selectors.DefaultSelector()
        pipes = (self._process.stdout, self._process.stderr, self._process.stdin)
        events = (selectors.EVENT_READ, selectors.EVENT_READ, selectors.EVENT_WRITE)
        for pipe, event, stream in zip(pipes, events, (self.stdout, self.stderr, None), strict=True):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                self._selector.register(pipe, event, stream)
        self._stdin = self._process.stdin
        self._pending = memoryview(first)
        self._open_outputs = 2

    def __enter__(self) -> Exchange:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(graceful=error is None)

    def finish(self) -> tuple[int, bytes, bytes]:
        """Wait for the end; give the exit code and what is left of both streams.

        Raises:
            OutOfTime: The deadline passed.
            BrokenExchange: The connection did.
        """
        while not self._is_over():
            self._step(self._deadline)
        code = self.stdout.code
        if code is None:  # for the type: _is_over has seen it
            raise BrokenExchange("", True)
        return code, self.stdout.take(1 << 62), self.stderr.take(1 << 62)

    def read(self, count: int) -> bytes:
        """Give that many bytes of standard output, or fewer at its end.

        Raises:
            OutOfTime: The deadline passed.
            BrokenExchange: The connection did.
        """
        while self.stdout.available() < count and self.stdout.code is None:
            self._step(self._deadline)
        return self.stdout.take(count)

    def _is_over(self) -> bool:
        return self.stdout.code is not None and self.stderr.code is not None

    def _step(self, until: float) -> None:
        """Move what can be moved; wait for it if nothing can."""
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise OutOfTime
        if not self._open_outputs:
            begun = self.stdout.has_begun or self.stderr.has_begun
            raise BrokenExchange(self.stderr.seen().strip() or self.stdout.seen().strip(), begun)
        for key, _ in self._selector.select(left_s):
            if key.data is None:
                self._write()
            elif chunk := os.read(key.fd, _CHUNK):
                key.data.add(chunk)
                if self._feed_waits and self.stdout.has_begun:
                    self._feed_waits = False
                    self._selector.register(self._stdin, selectors.EVENT_WRITE, None)  # type: ignore[arg-type]
            else:
                self._selector.unregister(key.fileobj)
                self._open_outputs -= 1

    def _write(self) -> None:
        stdin = self._stdin
        if stdin is None:
            return
        try:
            if self._pending:
                self._pending = self._pending[os.write(stdin.fileno(), self._pending) :]
                return
        except BlockingIOError:
            return
        except BrokenPipeError:  # what it says, or its end, tells why
            self._selector.unregister(stdin)
            return
        if self._feed_waits:
            self._selector.unregister(stdin)
            return
        chunk = next(self._feed, None)
        if chunk is not None:
            self._pending = memoryview(chunk)
            return
        self._selector.unregister(stdin)
        if self._closes:
            stdin.close()

    def _close(self, *, graceful: bool) -> None:
        process = self._process
        if graceful:  # so that the far side's session is over too: their number is limited
            with suppress(OutOfTime, BrokenExchange):
                until = time.monotonic() + _LINGER_S
                while self._open_outputs:
                    self._step(until)
        self._selector.close()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        try:
            process.wait(_LINGER_S if graceful else 0.05)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
