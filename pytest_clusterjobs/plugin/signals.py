"""Signals: SIGTERM and SIGHUP end pytest as Ctrl-C does, and the clean-up at the end is not interrupted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# SIGHUP: the terminal is gone, as when a connection to a login node breaks; under nohup it is ignored, and stays so.
_ENDS = (signal.SIGTERM, signal.SIGHUP)
_SIGNALS = (signal.SIGINT, *_ENDS)


class TerminationGuard:
    """Turns SIGTERM and SIGHUP into KeyboardInterrupt, so that jobs are cancelled and files removed.

    Only where nobody else handles them or has them ignored, and only in the main thread: Python allows no other.
    """

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        self._before_shield: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Handle them from now on. Idempotent."""
        if not self._before and _in_main_thread():
            ours = [number for number in _ENDS if signal.getsignal(number) is signal.SIG_DFL]
            self._before = {number: signal.signal(number, _interrupt) for number in ours}

    def shield(self) -> None:
        """Have one more of the signals ignored, as it often comes twice; the one after it interrupts again."""
        if _in_main_thread() and not self._before_shield:
            self._before_shield = {number: signal.signal(number, self._spare_one) for number in _SIGNALS}

    def _spare_one(self, number: int, frame: FrameType | None) -> None:
        _put_back(self._before_shield)
        self._before_shield = {}

    def restore(self) -> None:
        """Put back what was there. Idempotent."""
        if self._before_shield and _in_main_thread():
            _put_back(self._before_shield)
            self._before_shield = {}
        if self._before and _in_main_thread():
            _put_back(self._before)
            self._before = {}


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(f"{signal.Signals(number).name} received")


def _ignore(number: int, frame: FrameType | None) -> None:
    return


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C, SIGTERM and SIGHUP inside. Only around what is sure to end soon."""
    if not _in_main_thread():
        yield
        return
    before = _ignore_signals()
    try:
        yield
    finally:
        _put_back(before)


def _ignore_signals() -> dict[signal.Signals, Any]:
    # A handler, not SIG_IGN: that would be inherited by the commands that are run meanwhile.
    return {number: signal.signal(number, _ignore) for number in _SIGNALS}


def _put_back(before: dict[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        # None: it was not set from Python, and cannot be put back from here either
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
