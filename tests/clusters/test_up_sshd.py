"""Throw-away sshds, booted for real; whatever a test leaves running fails it."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.clusters import base, places, processes, sshd_boot
from pytest_clusterjobs.clusters.base import ClusterBootError, RunningCluster
from pytest_clusterjobs.clusters.slurm_programs import search_path
from pytest_clusterjobs.clusters.sshd_boot import sshd_config
from pytest_clusterjobs.core.errors import ConfigError
from tests.clusters.test_up_sge import CLUSTERJOBS, ROOT, WITHIN_S, traces_of, wait_until

needs_sshd = pytest.mark.skipif(shutil.which("sshd", path=search_path()) is None, reason="sshd is not installed")
lane = pytest.mark.cluster_lane("sshd")


def ssh(cluster: RunningCluster, command: str, host: str = "clusterjobs") -> subprocess.Popen[str]:
    argv = ["ssh", "-F", cluster.environment["CLUSTERJOBS_SSH_CONFIG"], host, command]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(cluster: RunningCluster, command: str, host: str = "clusterjobs") -> str:
    with ssh(cluster, command, host) as process:
        stdout, stderr = process.communicate(timeout=WITHIN_S)
    assert process.returncode == 0, stderr
    return stdout.strip()


@pytest.fixture
def clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory of clusters, emptied again without a trace."""
    monkeypatch.setenv("CLUSTERJOBS_CLUSTERS_DIR", str(tmp_path / "clusters"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield tmp_path / "clusters"
    directories = [place.directory for place in places.every("sshd")]
    for name in base.names("sshd"):
        base.down("sshd", name)
    assert [(each.exists(), traces_of(each)) for each in directories] == [(False, [])] * len(directories)


@needs_sshd
@lane
class TestUpAndDown:
    def test_down_leaves_nothing_of_what_sessions_started(self, clusters: Path, tmp_path: Path) -> None:
        cluster = base.up("sshd")
        assert cluster.directory.stat().st_mode & 0o777 == 0o700
        assert cluster.environment["CLUSTERJOBS_SSH_HOST"] == "clusterjobs"
        assert {said(cluster, "id -u", host) for host in ("clusterjobs", "clusterjobs-1")} == {str(os.geteuid())}
        pids = tmp_path / "pids"
        # One has left its session, which is over; the other's session goes on.
        said(cluster, f"setsid sleep 600 >/dev/null 2>&1 </dev/null & echo $! >>{pids}")
        with ssh(cluster, f"echo $$ >>{pids}; sleep 601") as session:
            wait_until(lambda: len(pids.read_text().split()) == 2, "the session's command")
            assert [each.name for each in base.running("sshd")] == ["default"]
            assert base.down("sshd") is True
            session.wait(WITHIN_S)
        assert [processes.read(int(pid)) for pid in pids.read_text().split()] == [None, None]
        assert not cluster.directory.exists()
        assert base.down("sshd") is False

    def test_nothing_of_ours_is_in_a_session_but_what_is_asked_for(
        self, clusters: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CJ_LOCAL", "local")
        cluster = base.up("sshd", conf_lines=("SetEnv CJ_FAR=far CJ_MORE=more", "MaxSessions 7"))
        assert said(cluster, "echo $CJ_FAR $CJ_MORE $CJ_LOCAL $CLUSTERJOBS_DAEMON_OF") == "far more"
        assert (cluster.directory / "sshd_config").read_text().startswith("MaxSessions 7\n")

    def test_started_at_once_they_do_not_meet_and_a_second_up_gives_the_same(self, clusters: Path) -> None:
        booted: list[RunningCluster] = []
        threads = [
            threading.Thread(target=lambda name=name: booted.append(base.up("sshd", name=name)))
            for name in ("one", "two", "one")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert {said(cluster, "echo in") for cluster in booted} == {"in"}
        assert len({(cluster.directory / "ssh_config").read_text() for cluster in booted}) == 2
        with pytest.raises(ConfigError, match=r"'one' is up with conf_lines=\[\].*clusterjobs down sshd --name one"):
            base.up("sshd", name="one", conf_lines=("MaxSessions 7",))

    def test_dead_one_is_replaced_and_its_sessions_end(self, clusters: Path, tmp_path: Path) -> None:
        cluster = base.up("sshd")
        victim = processes.recorded(cluster.directory)["sshd"]
        assert victim is not None
        with ssh(cluster, f"echo $$ >{tmp_path}/pid; sleep 600") as session:
            wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip(), "the session")
            os.kill(victim.pid, signal.SIGKILL)
            wait_until(lambda: processes.read(victim.pid) is None, "sshd gone")
            again = base.up("sshd")
            session.wait(WITHIN_S)
        assert processes.read(int((tmp_path / "pid").read_text())) is None
        assert said(again, "echo in") == "in"

    def test_eval_of_up_gives_a_shell_a_host_and_down_takes_it_away(self, clusters: Path) -> None:
        command = shlex.join(CLUSTERJOBS)
        script = f"""
            set -e
            eval "$({command} up sshd --conf-line 'SetEnv CJ_FAR=far' --name mine)"
            ssh -F $CLUSTERJOBS_SSH_CONFIG $CLUSTERJOBS_SSH_HOST 'echo $CJ_FAR'
            {command} down sshd --name mine
            test ! -e "$CLUSTERJOBS_CLUSTER_DIR"
        """
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=WITHIN_S, check=False)
        assert (done.returncode, done.stdout) == (0, "far\n"), done.stderr

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
    def test_ordinary_user_lets_in_himself(self, clusters: Path) -> None:
        users = [each for each in pwd.getpwall() if each.pw_uid and each.pw_shell.endswith("sh")]
        if not users or not Path("/usr/bin/python3").exists():
            pytest.skip("there is no other user here with a shell, or no Python that he can read")
        user, home = users[0], Path(f"/tmp/cj-sshd-{os.getpid()}")
        code = (
            "import os, subprocess; from pytest_clusterjobs.clusters import base; cluster = base.up('sshd'); "
            "argv = ['ssh', '-F', cluster.environment['CLUSTERJOBS_SSH_CONFIG'], 'clusterjobs', 'id', '-u']; "
            "done = subprocess.run(argv, timeout=30); base.down('sshd')"
        )
        home.mkdir()
        os.chown(home, user.pw_uid, user.pw_gid)
        become = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "/usr/bin/python3"]
        environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
        environment["CLUSTERJOBS_CLUSTERS_DIR"] = str(home / "clusters")
        try:
            ready = [*become, "-c", "import sys, pytest_clusterjobs; assert sys.version_info >= (3, 10)"]
            if subprocess.run(ready, env=environment, check=False, capture_output=True).returncode:
                pytest.skip("another user cannot read this installation")
            done = subprocess.run([*become, "-c", code], env=environment, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stdout) == (0, f"{user.pw_uid}\n"), done.stderr
            assert traces_of(home) == []
        finally:
            shutil.rmtree(home)

    @pytest.mark.parametrize(
        ("line", "message"),
        [("NoSuchKeyword yes", "NoSuchKeyword"), ("DenyUsers *", "does not let us in: .*Permission denied")],
    )
    def test_boot_that_fails_says_why_and_leaves_nothing(self, clusters: Path, line: str, message: str) -> None:
        with pytest.raises(ClusterBootError, match=message):
            base.up("sshd", conf_lines=(line,))
        assert base.names("sshd") == []
        assert traces_of(clusters) == []


class TestTexts:
    def test_missing_programs_are_named_with_the_packages(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clusters: Path
    ) -> None:
        monkeypatch.setattr(sshd_boot, "search_path", lambda: str(tmp_path))
        with pytest.raises(ClusterBootError, match=r"sshd, ssh, ssh-keygen\n.*apt-get install openssh-server"):
            base.up("sshd")
        assert base.names("sshd") == []

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"conf_lines": ("Port",)}, "no line of sshd_config"),
            ({"conf_lines": ("Port 1\nPort 2",)}, "no line of sshd_config"),
            ({"conf_line": ("Port 1",)}, "did you mean 'conf_lines'"),
            ({"boot_timeout_s": 0}, "more than zero"),
        ],
    )
    def test_impossible_options_are_refused(self, options: dict[str, Any], message: str, clusters: Path) -> None:
        with pytest.raises(ConfigError, match=message):
            base.up("sshd", **options)

    def test_lines_of_the_caller_come_before_ours_which_would_win_otherwise(self) -> None:
        text = sshd_config(Path("/d"), 1, "me", ("Setenv A=1", "MaxSessions 3"))
        assert text.index("MaxSessions 3") < text.index("MaxSessions 100")
        assert "\nSetEnv CLUSTERJOBS_SSHD_SESSION_OF=/d A=1 SHLVL=2\n" in text
