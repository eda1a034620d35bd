"""What the tests of good and bad days on schedulers share: runs that leave nothing, and jobs that run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.clusters import base
from pytest_clusterjobs.clusters.base import RunningCluster
from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.core.spec import make_spec
from pytest_clusterjobs.core.state import JobState
from pytest_clusterjobs.engine.job import Job
from pytest_clusterjobs.engine.run import Run
from tests.watching import wait_for


@contextmanager
def run_on(backend: str, workdir: Path, **settings: Any) -> Iterator[Run]:
    """Give a run on a backend; at its end nothing of it may be left there."""
    run = Run(Settings(workdir=str(workdir), **settings))
    run.select(backend)
    try:
        yield run
    finally:
        report = run.close()
    assert report.leaked == []


@contextmanager
def own_cluster(kind: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Iterator[RunningCluster]:
    """Give a throw-away cluster to do harm to, with this process's environment pointing to it."""
    name = f"days-{os.getpid()}"
    cluster = base.up(kind, name=name, **options)
    try:
        for variable, value in cluster.environment.items():
            monkeypatch.setenv(variable, value)
        yield cluster
    finally:
        base.down(kind, name)


def call(run: Run, function: Callable[..., Any], *args: Any, **resources: Any) -> Job[Any]:
    return run.submit_call(function, args, {}, make_spec(**resources))


def command(run: Run, text: str, **resources: Any) -> Job[Any]:
    return run.submit_command(text, make_spec(**resources))


def started(run: Run, text: str, within_s: float = 30, **resources: Any) -> Job[Any]:
    """Give a command's job that runs; fail when it does not within ``within_s`` seconds."""
    job = command(run, text, **resources)
    wait_for(lambda: job.state is JobState.RUNNING, f"{job} to run", within_s)
    return job


def output_of(*argv: str) -> str:
    """Give what a scheduler's command prints; raises `subprocess.CalledProcessError` when it fails."""
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout
