"""Throw-away Grid Engine clusters, booted for real; whatever a test leaves running fails it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.clusters import base, places, processes, sge_boot
from pytest_clusterjobs.clusters.base import ClusterBootError, RunningCluster
from pytest_clusterjobs.clusters.sge_conf import PROGRAMS, Site, bootstrap, configuration, host_aliases, queue
from pytest_clusterjobs.clusters.sge_options import SgeClusterOptions
from pytest_clusterjobs.core.errors import ConfigError
from tests import watching
from tests.watching import with_word

needs_sge = pytest.mark.skipif(not (PROGRAMS / "sge_qmaster").exists(), reason="Grid Engine is not installed")
lane = pytest.mark.cluster_lane("sge")

WITHIN_S = 30.0
wait_until = partial(watching.wait_for, within_s=WITHIN_S)
ROOT = Path(__file__).parents[2]
CLUSTERJOBS = [
    sys.executable,
    "-c",
    "from pytest_clusterjobs.cli.main import main; main(prog_name='clusterjobs')",
]


def traces_of(directory: Path) -> list[int]:
    """Live processes that mention a directory in their arguments or environment."""
    return with_word(str(directory), ("cmdline", "environ"))


def run(cluster: RunningCluster, *argv: str) -> str:
    environment = {**os.environ, **cluster.environment}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=WITHIN_S, check=False)
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return done.stdout.strip()


@pytest.fixture
def clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory of clusters; what is up at the end is taken down and must then be gone."""
    home = tmp_path / "clusters"
    monkeypatch.setenv("CLUSTERJOBS_CLUSTERS_DIR", str(home))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield home
    directories = [place.directory for place in places.every("sge")]
    for name in base.names("sge"):
        base.down("sge", name)
    for directory in directories:
        assert not directory.exists()
        assert traces_of(directory) == []


@needs_sge
@lane
class TestUpAndDown:
    def test_jobs_run_in_every_queue_and_down_leaves_nothing_of_them(self, clusters: Path, tmp_path: Path) -> None:
        cluster = base.up("sge", slots=3, queues=("short.q:00:02:00",))
        assert cluster.directory.stat().st_mode & 0o777 == 0o700
        assert run(cluster, "qconf", "-sql").split() == ["all.q", "short.q"]
        assert "120" in run(cluster, "qconf", "-sq", "short.q").partition("h_rt")[2].split()[0]
        pids = tmp_path / "pids"
        script = tmp_path / "job.sh"
        # The second one leaves the job's session and has no parent in it any more; the job inherits nothing of ours.
        script.write_text(f"sleep 600 & echo $! >>{pids}; setsid sh -c 'sleep 601 & echo $! >>{pids}'; sleep 602\n")
        run(cluster, "qsub", "-S", "/bin/sh", "-o", "/dev/null", "-j", "y", "-q", "short.q", str(script))
        wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, "the job's processes")
        in_job = processes.environment_of(int(pids.read_text().split()[0]))
        assert "SGE_ND" not in in_job
        assert processes.MARKER not in in_job
        assert [each.name for each in base.running("sge")] == ["default"]
        with subprocess.Popen(["sleep", "60"], env={**os.environ, **cluster.environment}) as shell:
            assert base.down("sge") is True
            assert shell.poll() is None
            shell.kill()
        assert [processes.read(int(pid)) for pid in pids.read_text().split()] == [None, None]
        assert not cluster.directory.exists()
        assert base.down("sge") is False

    def test_clusters_started_at_once_do_not_meet_and_a_second_up_gives_the_same(self, clusters: Path) -> None:
        booted: list[RunningCluster] = []
        threads = [
            threading.Thread(target=lambda name=name: booted.append(base.up("sge", name=name)))
            for name in ("one", "two", "one")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(cluster.name for cluster in booted) == ["one", "one", "two"]
        assert len({cluster.environment["SGE_QMASTER_PORT"] for cluster in booted}) == 2
        with pytest.raises(ConfigError, match=r"'one' is up with slots=4, not 5.*clusterjobs down sge --name one"):
            base.up("sge", name="one", slots=5)

    def test_cluster_with_a_dead_daemon_is_replaced(self, clusters: Path) -> None:
        cluster = base.up("sge")
        victim = processes.recorded(cluster.directory)["execd"]
        assert victim is not None
        os.kill(victim.pid, signal.SIGKILL)
        wait_until(lambda: processes.read(victim.pid) is None, "execd gone")
        again = base.up("sge")
        assert processes.recorded(again.directory)["execd"] not in (None, victim)

    def test_boot_that_takes_too_long_leaves_nothing(self, clusters: Path) -> None:
        with pytest.raises(ClusterBootError):
            base.up("sge", boot_timeout_s=0.05)
        assert base.names("sge") == []

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_ended_in_the_middle_it_leaves_nothing(self, clusters: Path, number: signal.Signals) -> None:
        link = clusters / "sge-default"
        for _ in range(5):  # on a busy machine it may be up before our signal comes
            with subprocess.Popen([*CLUSTERJOBS, "up", "sge"], stdout=subprocess.PIPE) as booting:
                wait_until(lambda: (link.resolve() / "run" / "qmaster.process").exists(), "a queue master")
                directory = link.resolve()
                booting.send_signal(number)
                output, _ = booting.communicate(timeout=WITHIN_S)
            if booting.returncode:
                break
            base.down("sge")
        assert (booting.returncode != 0, output) == (True, b"")
        assert not directory.exists()
        assert traces_of(directory) == []

    def test_eval_of_up_gives_a_shell_a_cluster_and_down_takes_it_away(self, clusters: Path) -> None:
        command = shlex.join(CLUSTERJOBS)
        script = f"""
            set -e
            eval "$({command} up sge --slots 2 --name mine)"
            qconf -spl
            {command} down sge --name mine
            test ! -e "$CLUSTERJOBS_CLUSTER_DIR"
        """
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=WITHIN_S, check=False)
        assert (done.returncode, done.stdout) == (0, "smp\n"), done.stderr

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
    def test_ordinary_user_has_a_cluster_too(self, clusters: Path) -> None:
        home = Path(f"/tmp/cj-sge-{os.getpid()}")
        code = (
            "import os, subprocess; from pytest_clusterjobs.clusters import base; cluster = base.up('sge'); "
            "script = os.path.join(os.environ['HOME'], 'j.sh'); open(script, 'w').write('exit 3'); "
            "done = subprocess.run(['qsub', '-sync', 'y', '-S', '/bin/sh', '-o', '/dev/null', '-j', 'y', script], "
            "env={**os.environ, **cluster.environment}, timeout=30); base.down('sge'); print(done.returncode)"
        )
        home.mkdir()
        os.chown(home, 5, 60)
        try:
            become = ["setpriv", "--reuid=5", "--regid=60", "--clear-groups"]
            environment = {
                "HOME": str(home),
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "CLUSTERJOBS_CLUSTERS_DIR": str(home / "clusters"),
            }
            # Ours may lie where only root can go; clusters need nothing but the standard library.
            python = next(path for path in ("/usr/bin/python3", sys.executable) if Path(path).exists())
            ready = [*become, python, "-c", "import sys, pytest_clusterjobs; assert sys.version_info >= (3, 10)"]
            if subprocess.run(ready, env=environment, check=False).returncode:
                pytest.skip("another user cannot read this installation")
            done = subprocess.run(
                [*become, python, "-c", code], env=environment, capture_output=True, text=True, check=False
            )
            assert done.stdout.split()[-1:] == ["3"], done.stderr
            assert traces_of(home) == []
        finally:
            subprocess.run(["rm", "-rf", str(home)], check=True)


class TestTexts:
    def test_missing_programs_are_named_with_the_lines_that_install_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clusters: Path
    ) -> None:
        monkeypatch.setattr(sge_boot, "PROGRAMS", tmp_path)
        with pytest.raises(ClusterBootError) as caught:
            base.up("sge")
        assert "sge_qmaster, sge_execd" in str(caught.value)
        assert "shared/gridengineconfig boolean false" in str(caught.value)
        assert "debconf-set-selections" in str(caught.value)
        assert "apt-get install --no-install-recommends gridengine-master gridengine-exec" in str(caught.value)
        assert base.names("sge") == []

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"slots": 0}, "slots=0"),
            ({"memory_bytes": 1}, "at least 256MB"),
            ({"queues": ("a b",)}, "NAME or NAME:MAXTIME"),
            ({"queues": ("a:soon",)}, "soon"),
            ({"queues": ("a", "a")}, "twice"),
            ({"slot": 3}, "did you mean 'slots'"),
        ],
    )
    def test_impossible_options_are_refused(self, options: dict[str, Any], message: str, clusters: Path) -> None:
        with pytest.raises(ConfigError, match=message):
            base.up("sge", **options)

    def test_localhost_is_the_one_name(self) -> None:
        assert host_aliases(["vm", "localhost", "vm.example", "vm"]) == "localhost vm vm.example\n"

    def test_only_the_keys_that_matter_are_changed(self) -> None:
        site = Site(Path("/d"), "me")
        text = configuration(site, "min_uid 1000\nload_report_time 00:00:40\nxterm /usr/bin/xterm\n")
        assert text == "min_uid 0\nload_report_time 00:00:01\nxterm /usr/bin/xterm\n"
        assert "admin_user me\n" in bootstrap(site)

    def test_queue_has_its_limit_in_seconds(self) -> None:
        assert "\nh_rt 90\n" in queue(Site(Path("/d"), "me"), "a", 2, 90)
        assert "\nh_rt INFINITY\n" in queue(Site(Path("/d"), "me"), "a", 2, None)
        assert SgeClusterOptions(queues=("a:00:01:30", "b")).all_queues() == {"all.q": None, "a": 90, "b": None}
