"""``clusterjobs up`` and ``down`` as a shell sees them."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_clusterjobs.clusters.slurm_programs import search_path
from tests.watching import with_word

lane = pytest.mark.cluster_lane("slurm")
needs_slurm = pytest.mark.skipif(
    not all(shutil.which(program, path=search_path()) for program in ("slurmctld", "slurmd", "sinfo", "munged")),
    reason="Slurm or munge is not installed",
)

ROOT = Path(__file__).parents[2]
CLUSTERJOBS = [
    sys.executable,
    "-c",
    "from pytest_clusterjobs.cli.main import main; main(prog_name='clusterjobs')",
]
WITHIN_S = 30.0


@pytest.fixture(autouse=True)
def clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory of clusters, emptied again."""
    home = tmp_path / "clusters"
    monkeypatch.setenv("CLUSTERJOBS_CLUSTERS_DIR", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("SLURM_CONF", raising=False)
    yield home
    clusterjobs("down", "--all")


def clusterjobs(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [*CLUSTERJOBS, *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=WITHIN_S, check=False)


@needs_slurm
@lane
def test_eval_of_up_gives_a_shell_a_cluster_and_down_takes_it_away(clusters: Path) -> None:
    command = shlex.join(CLUSTERJOBS)
    script = f"""
        set -e
        eval "$({command} up slurm --nodes 2 --name 'my.first')"
        srun -N2 printenv SLURMD_NODENAME | sort
        echo "$CLUSTERJOBS_CLUSTER_NAME"
        {command} down --name my.first
        test ! -e "$CLUSTERJOBS_CLUSTER_DIR"
    """
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=WITHIN_S, check=False, cwd=clusters.parent
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["n1", "n2", "my.first"]
    assert "is up after" in done.stderr
    assert "'my.first' is down" in done.stderr


@needs_slurm
@lane
def test_only_exports_go_to_standard_output_each_time() -> None:
    first = clusterjobs("up", "slurm", "--nodes", "1")
    second = clusterjobs("up", "slurm")
    assert first.returncode == second.returncode == 0
    assert first.stdout == second.stdout
    lines = first.stdout.splitlines()
    assert all(line.startswith("export ") for line in lines)
    assert {line.split("=")[0] for line in lines} == {
        "export SLURM_CONF",
        "export CLUSTERJOBS_CLUSTER_NAME",
        "export CLUSTERJOBS_CLUSTER_DIR",
    }
    assert "is up already" in second.stderr


@needs_slurm
@lane
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_ended_in_the_middle_it_leaves_nothing(clusters: Path, number: signal.Signals) -> None:
    """After SIGKILL nobody is left to clean up: then it is ``down`` that finds everything."""
    with subprocess.Popen([*CLUSTERJOBS, "up", "slurm", "--nodes", "60"], stdout=subprocess.PIPE) as booting:
        directory = _directory_with_a_node(clusters)
        booting.send_signal(number)
        output, _ = booting.communicate(timeout=WITHIN_S)
    assert booting.returncode != 0
    assert output == b""
    if number == signal.SIGKILL:
        assert clusterjobs("down").returncode == 0
    assert not directory.exists()
    assert list(clusters.iterdir()) == []
    assert with_word(str(directory), ("environ",)) == []


def _directory_with_a_node(clusters: Path) -> Path:
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        directory = (clusters / "slurm-default").resolve()
        if (directory / "run" / "n1.process").exists():
            return directory
        time.sleep(0.001)
    raise AssertionError("no node was started")


@needs_slurm
@lane
def test_a_boot_that_fails_prints_nothing_to_eval_and_exits_1() -> None:
    failed = clusterjobs("up", "slurm", "--conf-line", "SelectType=select/nonsense")
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert "slurmctld ended" in failed.stderr
    assert "Traceback" not in failed.stderr


@needs_slurm
@lane
def test_down_all_stops_every_cluster() -> None:
    for name in ("a", "b"):
        assert clusterjobs("up", "slurm", "--name", name, "--nodes", "1").returncode == 0
    wrong = clusterjobs("down")
    assert wrong.returncode == 0
    assert "no cluster named 'default' is up; there are: a, b" in wrong.stderr
    everything = clusterjobs("down", "slurm", "--all")
    assert "'a' is down" in everything.stderr
    assert "'b' is down" in everything.stderr


def test_down_with_nothing_up_says_so_and_exits_0() -> None:
    for arguments in ((), ("slurm",), ("--all",), ("slurm", "--name", "x")):
        done = clusterjobs("down", *arguments)
        assert done.returncode == 0
        assert "no cluster" in done.stderr
        assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["up", "slrum"], "no KIND named 'slrum'; known: slurm, sge, sshd, kubernetes — did you mean 'slurm'?"),
        (["down", "slrum"], "no cluster kind named 'slrum'; known: slurm, sge, sshd, kubernetes — did you"),
        (["upp"], "no VERB named 'upp'"),
        (["up", "slurm", "--nodes", "0"], "nodes=0 must be a whole number"),
        (["up", "slurm", "--memory", "4QB"], "memory='4QB' is no memory size"),
        (["up", "slurm", "--partition", "a:b"], "partition 'a:b' cannot be read"),
        (["up", "slurm", "--conf-line", "A=b\nC=d"], "is no line of slurm.conf"),
        (["down", "--all", "--name", "x"], "exclude each other"),
    ],
)
def test_a_wrong_command_line_exits_2_and_says_what_is_right(arguments: list[str], message: str) -> None:
    done = clusterjobs(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_help_imports_no_verb() -> None:
    show = "import sys; from pytest_clusterjobs.cli.main import main; main(['--help'], standalone_mode=False)"
    argv = [sys.executable, "-c", f"{show}; print(*sys.modules)"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=WITHIN_S, check=True)
    assert "Start a throw-away cluster" in done.stdout
    assert "pytest_clusterjobs.cli.up" not in done.stdout
    assert "pytest_clusterjobs.clusters" not in done.stdout
