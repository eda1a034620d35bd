"""Pytest as users run it, on a real Kubernetes: with workers, interrupted, killed; and nothing left however it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.kubernetes_lane.cluster import Cluster

pytestmark = [pytest.mark.cluster_lane("kubernetes"), pytest.mark.usefixtures("kubernetes")]

SUITE = """
import os
import pytest
from pytest_clusterjobs import cluster

LIMIT = 7

def helper(number):
    return number * LIMIT

@cluster(cores=1)
def multiply(number):
    return helper(number), os.environ["POD_NAME"]

@pytest.mark.real_world
@pytest.mark.parametrize("number", [3, 6])
def test_function(number):
    value, pod = multiply(number)
    assert value == number * 7
    assert pod.startswith("cj-")

@cluster(cores=1)
def test_body_as_a_job():
    assert "KUBERNETES_SERVICE_HOST" in os.environ
    assert helper(2) == 14
"""

FAILING = """
from pytest_clusterjobs import cluster

@cluster(cores=1)
def fail():
    print("said before")
    raise ValueError("out of range")

def test_failing():
    fail()
"""

SLOW = """
import time, pytest
from pytest_clusterjobs import cluster

@cluster(cores=1)
def slow(seconds):
    time.sleep(seconds)

@pytest.mark.real_world
@pytest.mark.parametrize("number", range(2))
def test_slow(number):
    job = slow.submit(300)
    open(f"submitted-{number}", "w").close()
    job.result()
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLUSTERJOBS_KUBERNETES_CPU_REQUEST", "100m")
    return tmp_path


def living(kubernetes: Cluster) -> list[str]:
    """Give the Jobs and Secrets of ours that nobody is deleting."""
    words = ("get", "jobs,secrets", "-A", "-l", "app.kubernetes.io/managed-by=clusterjobs", "-o", "json")
    found = json.loads(kubernetes.kubectl(*words))["items"]
    return [each["metadata"]["name"] for each in found if "deletionTimestamp" not in each["metadata"]]


def run_pytest(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--cluster=kubernetes", *options]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize("options", [[], ["-n2"]], ids=["alone", "xdist"])
def test_suite_passes_in_pods(project: Path, kubernetes: Cluster, options: list[str]) -> None:
    (project / "test_suite.py").write_text(SUITE)
    done = run_pytest(project, *options)
    assert "3 passed" in done.stdout, done.stdout + done.stderr
    assert not (project / ".clusterjobs").exists()
    kubernetes.wait_for("nothing to be left", lambda: living(kubernetes) == [], 30)


def test_failure_tells_pod_s_node_output_and_where_the_files_are(project: Path) -> None:
    (project / "test_failing.py").write_text(FAILING)
    done = run_pytest(project)
    assert done.returncode == 1
    for fact in ("out of range", "said before", "backend:    kubernetes", "native id", "127.0.0.1", "1 core(s)"):
        assert fact in done.stdout, done.stdout
    shutil.rmtree(project / ".clusterjobs")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_interrupted_run_leaves_nothing(project: Path, kubernetes: Cluster, number: signal.Signals) -> None:
    with slow_run(project, []) as process:
        assert living(kubernetes)
        process.send_signal(number)
        assert process.wait(timeout=60) == 2
    kubernetes.wait_for("nothing to be left", lambda: living(kubernetes) == [], 30)
    assert not (project / ".clusterjobs").exists()


def test_killed_run_is_reaped(project: Path, kubernetes: Cluster) -> None:
    with slow_run(project, []) as process:
        process.kill()
        process.wait(timeout=60)
    assert len([name for name in living(kubernetes) if not name.endswith("-0")]) == 1
    reap = [sys.executable, "-c", "from pytest_clusterjobs.cli.main import main; main()", "reap"]
    done = subprocess.run(reap, cwd=project, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "dead" in done.stdout
    kubernetes.wait_for("nothing to be left", lambda: living(kubernetes) == [], 30)


@contextmanager
def slow_run(project: Path, options: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a run whose tests wait for jobs, and wait until these are there."""
    (project / "test_slow.py").write_text(SLOW)
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--cluster=kubernetes", *options, "test_slow.py"]
    process = subprocess.Popen(argv, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 90
    wanted = 2 if options else 1
    try:
        while len(list(project.glob("submitted-*"))) < wanted and time.monotonic() < deadline:
            assert process.poll() is None, process.stdout and process.stdout.read()
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait(timeout=60)
        if process.stdout is not None:
            process.stdout.close()


def test_without_a_kubeconfig_the_probe_says_where_it_looked(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(project))
    (project / "test_suite.py").write_text(SUITE)
    done = run_pytest(project)
    assert f"no kubeconfig: there is no file {project}/.kube/config" in done.stdout
    assert os.environ.get("KUBERNETES_SERVICE_HOST") is None
