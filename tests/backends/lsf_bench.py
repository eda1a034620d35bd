"""What tests of LSF's words share: recordings, and commands that print them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.backends.base import BackendSettings, Submission
from pytest_clusterjobs.backends.lsf import LsfBackend
from pytest_clusterjobs.transports.local import LocalTransport
from tests.backends import spoken
from tests.backends.spoken import directives_of

DATA = Path(__file__).parent / "data" / "lsf"


def recorded(name: str) -> str:
    command, _, case = name.partition(" ")
    return (DATA / f"{command}-volclava-2.2-{case}.txt").read_text()


def backend(options: Mapping[str, str] | None = None, timeout_s: float = 10.0) -> LsfBackend:
    settings = BackendSettings(command_timeout_s=timeout_s, python="/usr/bin/python3", options=options or {})
    return LsfBackend(LocalTransport(), settings)


def make_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a directory on PATH for commands, with IBM's lsid, and no configuration of this machine's."""
    commands = tmp_path / "bin"
    commands.mkdir()
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LSF_ENVDIR", str(tmp_path))
    runs(commands, "lsid", "echo IBM Spectrum LSF Standard 10.1.0.14, Jun 10 2023")
    return commands


def says(site: Path, command: str, stdout: str = "", stderr: str = "", code: int = 0) -> None:
    """Make a command that notes how it is called, and answers what was recorded."""
    answer_to_all = f"printf %s {shlex.quote(stdout)}; printf %s {shlex.quote(stderr)} >&2; exit {code}"
    runs(site, command, f'printf "%s\\n" "$*" >>{site}/calls\n{answer_to_all}')


def runs(site: Path, command: str, script: str) -> None:
    """Make a command of a shell script."""
    (site / command).write_text(f"#!/bin/sh\n{script}\n")
    (site / command).chmod(0o700)


AWAY = "echo 'batch system daemon not responding ... still trying' >&2\nexec sleep 60"


def submission(directory: str = "/jobs/1-solve", **options: Any) -> Submission:
    return spoken.submission(directory, **{"environment": {"PATH": os.environ["PATH"]}, **options})


def directives(options: Mapping[str, str] | None = None, **asked_for: Any) -> list[str]:
    return directives_of(backend(options).render_script(submission(**asked_for)), "#BSUB")


def answering(site: Path, *cases: tuple[str, str, str, int]) -> None:
    """Make a bjobs that answers by what its words begin with."""
    lines = [f'printf "%s\\n" "$*" >>{site}/calls', 'case "$*" in']
    lines += [
        f"{shlex.quote(first)}*) printf %s {shlex.quote(out)}; printf %s {shlex.quote(err)} >&2; exit {code};;"
        for first, out, err, code in cases
    ]
    runs(site, "bjobs", "\n".join([*lines, "esac", "exit 9"]))


def calls(site: Path) -> list[str]:
    return (site / "calls").read_text().splitlines()
