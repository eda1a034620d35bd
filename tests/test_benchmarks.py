"""Each benchmark runs, and says what it was asked to say. What it measures is no test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.kubernetes_lane.cluster import Cluster

ROOT = Path(__file__).parent.parent

#: Benchmark -> the number of its rows.
ROWS = {
    "idle": 1,
    "local": 4,
    "local-1000": 2,
    "validation": 2,
    "slurm-stock": 3,
    "slurm-quick": 3,
    "sge": 3,
    "ssh": 3,
    "on-kubernetes": 1,
    "queries": 4,
    "peers": 0,  # they are only measured when they are asked for
}
ON_SLURM = [name for name in ROWS if name.startswith("slurm") or name == "queries"]
ELSEWHERE = [*ON_SLURM, "sge", "ssh", "on-kubernetes"]


def run(*arguments: str, more: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "CLUSTERJOBS_"))}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env={**environment, **(more or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def check_rows(name: str, tmp_path: Path, more: Mapping[str, str] | None = None) -> None:
    done = run("--quick", "--json", str(tmp_path / "figures.json"), name, more=more)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert len(rows) == ROWS[name]
    for row in rows:
        assert row["figure"] == pytest.approx(row["figure"])  # no NaN
        assert row["what"] in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ROWS if name not in ELSEWHERE])
def test_a_benchmark_gives_its_rows(name: str, tmp_path: Path) -> None:
    check_rows(name, tmp_path)


@pytest.mark.cluster_lane("slurm")
@pytest.mark.usefixtures("slurm_cluster")  # skipped where no Slurm can be booted
@pytest.mark.parametrize("name", ON_SLURM)
def test_a_benchmark_on_slurm_gives_its_rows(name: str, tmp_path: Path) -> None:
    check_rows(name, tmp_path)


@pytest.mark.cluster_lane("sge")
@pytest.mark.usefixtures("sge_cluster")  # skipped where no Grid Engine can be booted
def test_the_benchmark_on_grid_engine_gives_its_rows(tmp_path: Path) -> None:
    check_rows("sge", tmp_path)


@pytest.mark.cluster_lane("sshd")
@pytest.mark.usefixtures("sshd_cluster")  # skipped where no sshd can be booted
def test_the_benchmark_over_ssh_gives_its_rows(tmp_path: Path) -> None:
    check_rows("ssh", tmp_path)


@pytest.mark.cluster_lane("kubernetes")
def test_the_benchmark_on_kubernetes_gives_its_row(kubernetes: Cluster, tmp_path: Path) -> None:
    path = f"{kubernetes.programs}{os.pathsep}{os.environ['PATH']}"
    check_rows("on-kubernetes", tmp_path, {**kubernetes.environment, "PATH": path})


def test_an_unknown_benchmark_is_refused_with_the_known_ones() -> None:
    done = run("--quick", "slrum")
    assert done.returncode == 2
    assert "no benchmark named 'slrum'; known: idle, " in done.stderr


def test_every_benchmark_is_run_here() -> None:
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks.suite import BENCHMARKS
    finally:
        sys.path.remove(str(ROOT))
    assert list(BENCHMARKS) == list(ROWS)
