"""A profile's settings arrive at a real Slurm, and what it leaves out does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster_lane("slurm"), pytest.mark.usefixtures("slurm")]

CONFIGURATION = """\
profiles:
  brief:
    backend: slurm
    partition: short
    time: "00:01:00"
    extra_directives: --comment=from-the-profile
    directives_skip: [--nodes]
    env: {FROM_PROFILE: "yes"}
    keep: always
"""

TESTS = """
import os
from pytest_clusterjobs import cluster

@cluster
def test_body():
    assert (os.environ["SLURM_JOB_PARTITION"], os.environ["FROM_PROFILE"]) == ("short", "yes")

@cluster(partition="main")
def test_own_partition_wins():
    assert os.environ["SLURM_JOB_PARTITION"] == "main"
"""


def test_profile_chooses_partition_and_directives(tmp_path: Path) -> None:
    (tmp_path / "clusterjobs.yaml").write_text(CONFIGURATION)
    (tmp_path / "test_it.py").write_text(TESTS)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CLUSTERJOBS_")}
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--cluster=brief"]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    [script] = tmp_path.glob(".clusterjobs/*/main/1-test_body/script.sh")
    directives = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH ")]
    assert "#SBATCH --comment=from-the-profile" in directives
    assert "#SBATCH --time=00:01:00" in directives
    assert not [line for line in directives if "--nodes" in line]
