"""Every folder of conftest_examples is a complete small project: run as it is shipped, away from the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_clusterjobs.clusters.base import RunningCluster

EXAMPLES = Path(__file__).parent.parent / "conftest_examples"
PROJECTS = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir() and not path.name.startswith("_"))

slow = pytest.mark.slow


@pytest.fixture(params=PROJECTS)
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of an example; what its runs leave behind fails the test."""
    copy = tmp_path / str(request.param)
    shutil.copytree(EXAMPLES / request.param, copy, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return copy


def run(project: Path, *options: str) -> dict[str, int]:
    """Run a project's tests and give pytest's counts; each run must pass and leave nothing."""
    before = files_in(project)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "CLUSTERJOBS_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
        cwd=project,
        env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert files_in(project) == before
    last = done.stdout.rstrip().splitlines()[-1]
    return {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", last)}


def files_in(project: Path) -> list[Path]:
    return sorted(project.rglob("*"))


@slow
def test_plain_pytest_runs_no_cluster_test(project: Path) -> None:
    text = "\n".join(path.read_text() for path in project.rglob("test_*.py"))
    assert "real_world" in text
    counts = run(project)
    assert counts["skipped"] >= 1


@slow
@pytest.mark.parametrize("options", [[], ["-n", "2"], ["-p", "no:xdist"], ["-W", "error"]], ids=" ".join)
def test_it_passes_on_this_machine(project: Path, options: list[str]) -> None:
    assert run(project, "-m", "real_world", "--cluster=local", *options)["passed"] >= 2


@pytest.mark.cluster_lane("slurm")
@pytest.mark.usefixtures("slurm")
class TestOnSlurm:
    @pytest.mark.parametrize("options", [["--cluster=slurm"], ["--cluster=slurm", "-n", "4"]], ids=" ".join)
    def test_it_passes_unchanged(self, project: Path, options: list[str]) -> None:
        counts = run(project, "--run-expensive", "-m", "real_world", *options)
        assert counts["passed"] >= 2
        assert "skipped" not in counts

    def test_it_passes_on_both_at_once(self, project: Path, slurm: RunningCluster) -> None:
        alone = run(project, "-m", "real_world", "--cluster=slurm")["passed"]
        assert run(project, "-m", "real_world", "--cluster=local,slurm")["passed"] > alone
