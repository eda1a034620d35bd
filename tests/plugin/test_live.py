"""The line that a person sees while a test waits: on a terminal, and nowhere else."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time

import pytest

from pytest_clusterjobs.core.record import JobRecord
from pytest_clusterjobs.core.spec import JobSpec
from pytest_clusterjobs.core.state import JobState
from pytest_clusterjobs.plugin.live import live_text

WAITS = """
import time
from pytest_clusterjobs import cluster

@cluster
def linger():
    time.sleep(1.3)

def test_waits():
    linger()

def test_after():
    pass
"""


def record(backend: str, state: JobState, detail: str = "") -> JobRecord:
    return JobRecord("1", "r", "cj-r-1", backend, JobSpec(), "", "f", state=state, detail=detail)


def test_the_line_counts_states_with_the_pending_reasons() -> None:
    records = [
        record("slurm", JobState.PENDING, "Resources"),
        record("slurm", JobState.PENDING, "Priority"),
        record("slurm", JobState.RUNNING, "hidden"),
        record("local", JobState.NEW),
    ]
    expected = "slurm: 2 pending (Resources, Priority), 1 running; local: 1 waiting to be submitted, 14 s"
    assert live_text(records, 14.2) == expected


def on_a_terminal(*args: str, **environment: str) -> str:
    """Run pytest on a pseudo-terminal and give all that it wrote to it."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *args],
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", **environment},
    )
    os.close(terminal)
    written, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            part = os.read(controller, 65536)
        except OSError:  # EIO: the other end is closed
            break
        if not part:
            break
        written += part
    os.close(controller)
    assert process.wait(timeout=10) == 0
    return written.decode()


def test_a_terminal_shows_the_line_and_loses_it_again(project: pytest.Pytester) -> None:
    project.makepyfile(test_live=WAITS)
    text = on_a_terminal()
    assert re.search(r"test_live\.py \r?\n\r\x1b\[Klocal: 1 running, 0 s", text)
    shown = text.index("local: 1 running")
    gone = text.index("\r\x1b[K\x1b[1A\x1b[14G", shown)  # back to the column behind "test_live.py "
    assert text[gone:].lstrip("\r\x1b[K1A4G").startswith(("\x1b[32m.", "."))
    assert "running" not in text[gone:]


@pytest.mark.parametrize(("args", "environment"), [([], {"CI": "1"}), ([], {"TERM": "dumb"}), (["-q"], {})])
def test_no_line_where_nobody_looks(project: pytest.Pytester, args: list[str], environment: dict[str, str]) -> None:
    project.makepyfile(test_live=WAITS)
    assert "running" not in on_a_terminal(*args, **environment)
