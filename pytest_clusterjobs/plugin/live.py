"""One line that shows, on a terminal, what a waiting test waits for; it is gone when the test goes on."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_clusterjobs.core.state import JobState

if TYPE_CHECKING:
    from pytest_clusterjobs.core.record import JobRecord


class LiveLine:
    """Writes below pytest's own line, and puts the cursor back where it was.

    Only to be made where `can_show` says so: the line uses the terminal's cursor movements.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._writer = config.get_terminal_writer()
        self._since: float | None = None

    def update(self, records: Sequence[JobRecord]) -> None:
        """Show the unfinished jobs. Called about once a second by each thread that waits for one of them."""
        if not records or threading.current_thread() is not threading.main_thread():
            return
        if self._since is None:
            self._since = time.monotonic()
            self._write("\n")
        text = live_text(records, time.monotonic() - self._since)
        self._write("\r\x1b[K" + text[: self._writer.fullwidth - 1])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self) -> None:
        """Make room for the test's letter."""
        self.clear()

    @pytest.hookimpl(tryfirst=True)
    def pytest_exception_interact(self) -> None:
        """Make room for a debugger."""
        self.clear()

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Make room for the summary."""
        self.clear()

    def clear(self) -> None:
        """Take the line away. Called before anybody else writes; idempotent."""
        if self._since is not None:
            self._since = None
            # Up and to the right: pytest goes on in the line that it was writing.
            self._write(f"\r\x1b[K\x1b[1A\x1b[{self._writer.width_of_current_line + 1}G")

    def _write(self, text: str) -> None:
        capture: Any = self._config.pluginmanager.get_plugin("capturemanager")
        if capture is None:
            self._emit(text)
        else:
            with capture.global_and_fixture_disabled():
                self._emit(text)

    def _emit(self, text: str) -> None:
        # Past the writer: it counts columns for its own line.
        file = self._writer._file
        file.write(text)
        file.flush()


def can_show(config: pytest.Config) -> bool:
    """Tell whether a person looks at a terminal that understands cursor movements."""
    if config.option.verbose < 0 or os.environ.get("CI") or os.environ.get("BUILD_NUMBER"):
        return False
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or os.environ.get("TERM", "dumb") == "dumb":
        return False
    # The reporter's answer, not the file's: a test may be running, and then the file is captured.
    return bool(reporter.isatty)


def live_text(records: Sequence[JobRecord], waited_s: float) -> str:
    """Write the line: ``slurm: 2 pending (Resources), 1 running, 14 s``."""
    parts = []
    for backend in dict.fromkeys(record.backend for record in records):
        mine = [record for record in records if record.backend == backend]
        states = Counter(record.state for record in mine)
        counts = []
        for state in (JobState.NEW, JobState.PENDING, JobState.RUNNING, JobState.UNKNOWN):
            if states[state]:
                counts.append(f"{states[state]} {_WORDS[state]}{_why(mine, state)}")
        parts.append(f"{backend}: {', '.join(counts)}")
    return f"{'; '.join(parts)}, {waited_s:.0f} s"


_WORDS = {
    JobState.NEW: "waiting to be submitted",
    JobState.PENDING: "pending",
    JobState.RUNNING: "running",
    JobState.UNKNOWN: "unknown",
}


def _why(records: Sequence[JobRecord], state: JobState) -> str:
    reasons = dict.fromkeys(record.detail for record in records if record.state is state and record.detail)
    return f" ({', '.join(list(reasons)[:2])})" if reasons and state is not JobState.RUNNING else ""
