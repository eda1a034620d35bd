"""Bad days of an SSH connection, on real sshds: who is not let in learns why, and what breaks heals."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_clusterjobs.clusters import base, processes
from pytest_clusterjobs.clusters.base import RunningCluster
from pytest_clusterjobs.core.errors import (
    BackendUnavailable,
    CommandNotFound,
    CommandTimeout,
    ConfigError,
    ConnectionLost,
)
from pytest_clusterjobs.transports.ssh import SSHTransport
from pytest_clusterjobs.transports.ssh_master import password_command
from tests.transports.far import far_machine, reached, wait_for
from tests.watching import children, with_word

pytestmark = pytest.mark.cluster_lane("sshd")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RunningCluster]:
    """An sshd that a test may maltreat."""
    with far_machine(f"SetEnv HOME={tmp_path}") as cluster:
        yield cluster


def sshd_processes(cluster: RunningCluster) -> list[int]:
    """The daemon and its sessions' sshds, but not what runs in the sessions."""
    daemon = processes.recorded(cluster.directory)["sshd"]
    assert daemon is not None
    return [daemon.pid, *children(daemon.pid)]


def changed(cluster: RunningCluster, tmp_path: Path, *pairs: tuple[str, str]) -> SSHTransport:
    """A way by an ssh_config that differs."""
    text = Path(cluster.environment["CLUSTERJOBS_SSH_CONFIG"]).read_text()
    for before, after in pairs:
        assert before in text
        text = text.replace(before, after)
    (tmp_path / "ssh_config").write_text(text)
    return SSHTransport("clusterjobs", config=str(tmp_path / "ssh_config"))


# ---------------------------------------------------------------- who is not let in


def test_unknown_host_key_is_refused_with_the_command_that_adds_it(far_cluster: RunningCluster, tmp_path: Path) -> None:
    known = f"UserKnownHostsFile {far_cluster.directory}/known_hosts"
    mine = f"{tmp_path}/it's-known"
    way = changed(far_cluster, tmp_path, (known, f'UserKnownHostsFile "{mine}"'), ("Checking yes", "Checking no"))
    with pytest.raises(BackendUnavailable, match=r"the host key of .*is not known") as caught:
        way.connect()
    assert "clusterjobs" in str(caught.value)
    assert "Compare its fingerprint" in str(caught.value)
    assert not caught.value.transient
    assert not Path(mine).exists()
    command = next(line for line in str(caught.value).splitlines() if "ssh-keyscan" in line).partition("add it: ")[2]
    subprocess.run(["sh", "-c", command], check=True, capture_output=True)
    way.connect()
    way.close()


def test_unknown_host_key_of_an_alias_is_added_under_the_alias(far_cluster: RunningCluster, tmp_path: Path) -> None:
    known = f"UserKnownHostsFile {far_cluster.directory}/known_hosts"
    mine = f"UserKnownHostsFile {tmp_path}/known\n  HostKeyAlias the-login"
    way = changed(far_cluster, tmp_path, (known, mine))
    with pytest.raises(BackendUnavailable, match="the host key of the-login is not known") as caught:
        way.connect()
    command = next(line for line in str(caught.value).splitlines() if "ssh-keyscan" in line).partition("add it: ")[2]
    subprocess.run(["sh", "-c", command], check=True, capture_output=True)
    way.connect()
    way.close()


def test_changed_host_key_is_another_matter(far_cluster: RunningCluster, tmp_path: Path) -> None:
    known = far_cluster.directory / "known_hosts"
    host, kind, _ = known.read_text().split()[:3]
    other = (far_cluster.directory / "id.pub").read_text().split()[1]
    (tmp_path / "known").write_text(f"{host} {kind} {other}\n")
    way = changed(far_cluster, tmp_path, (str(known), str(tmp_path / "known")))
    with pytest.raises(BackendUnavailable, match="the host key of clusterjobs is another one than before") as caught:
        way.run(["true"], 20)
    assert "ssh-keyscan" not in str(caught.value)
    assert str(tmp_path / "known") in str(caught.value)


def test_wrong_key_is_refused_with_what_is_taken(far_cluster: RunningCluster, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "wrong")], check=True)
    way = changed(far_cluster, tmp_path, (f"{far_cluster.directory}/id\n", f"{tmp_path}/wrong\n"))
    with pytest.raises(BackendUnavailable, match=r"does not let us in as \S+; it takes: publickey\.") as caught:
        way.run(["true"], 20)
    assert not caught.value.transient


def test_login_that_runs_no_command_says_what_it_said() -> None:
    line = "ForceCommand echo This account is currently not available.; exit 1"
    with pytest.raises(Exception, match="does not let us in"), far_machine(line):
        pass
    with far_machine('ForceCommand test "$SSH_ORIGINAL_COMMAND" = true || { echo Sorry.; exit 3; }') as cluster:
        way = SSHTransport("clusterjobs", config=cluster.environment["CLUSTERJOBS_SSH_CONFIG"])
        with pytest.raises(BackendUnavailable, match=r"lets us in, but runs no command \(exit code 3\): Sorry\."):
            way.connect()


def test_name_that_is_not_known_cannot_be_reached() -> None:
    with pytest.raises(ConnectionLost, match=r"no-such-host\.invalid cannot be reached\n.*Could not resolve") as caught:
        SSHTransport("no-such-host.invalid", config="/dev/null").connect()
    assert caught.value.transient


def test_port_that_nobody_listens_at_cannot_be_reached(far_cluster: RunningCluster, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = next(line.split()[1] for line in _config(far_cluster).splitlines() if "Port" in line)
        way = changed(far_cluster, tmp_path, (f"Port {port}", f"Port {probe.getsockname()[1]}"))
        started = time.monotonic()
        with pytest.raises(ConnectionLost, match=r"clusterjobs cannot be reached\n.*Connection refused"):
            way.run(["true"], 30)
        assert time.monotonic() - started < 20


@pytest.mark.parametrize("connect_timeout_s", [1, 30])
def test_machine_that_never_answers_is_given_up_in_time(
    far_cluster: RunningCluster, tmp_path: Path, connect_timeout_s: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = next(line.split()[1] for line in _config(far_cluster).splitlines() if "Port" in line)
        text = _config(far_cluster).replace(f"Port {port}", f"Port {silent.getsockname()[1]}")
        (tmp_path / "ssh_config").write_text(text.replace("  ConnectTimeout 5\n", ""))
        way = SSHTransport(
            "clusterjobs", config=str(tmp_path / "ssh_config"), connect_timeout_s=connect_timeout_s, login_timeout_s=3
        )
        started = time.monotonic()
        with pytest.raises(ConnectionLost, match=r"timed out|has not let us in within 3 s"):
            way.connect()
        assert time.monotonic() - started < 15
        way.close()


def _config(cluster: RunningCluster) -> str:
    return Path(cluster.environment["CLUSTERJOBS_SSH_CONFIG"]).read_text()


def test_configuration_that_ssh_does_not_understand_is_said(tmp_path: Path) -> None:
    (tmp_path / "ssh_config").write_text("Host *\n  NoSuchWord yes\n")
    with pytest.raises(BackendUnavailable, match=r"ssh cannot use 'x'.*\n.*\n.*Bad configuration option: nosuchword"):
        SSHTransport("x", config=str(tmp_path / "ssh_config")).connect()
    with pytest.raises(BackendUnavailable, match="Can't open user config file"):
        SSHTransport("x", config=str(tmp_path / "none")).connect()


def test_missing_ssh_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandNotFound, match="ssh not found on PATH; install the OpenSSH client"):
        SSHTransport("x").run(["true"], 10)


# ---------------------------------------------------------------- secrets


@pytest.fixture
def locked(far_cluster: RunningCluster, tmp_path: Path) -> SSHTransport:
    """A way with a key that needs a passphrase."""
    key = tmp_path / "key"
    shutil.copy(far_cluster.directory / "id", key)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", str(key)], check=True)
    return changed(far_cluster, tmp_path, (f"{far_cluster.directory}/id\n", f"{key}\n"))


def test_secret_comes_from_the_named_command_and_is_nowhere_else(
    locked: SSHTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text("open sesame\n")
    monkeypatch.setenv("CLUSTERJOBS_SSH_PASSWORD_COMMAND", f'["cat", "{tmp_path}/secret"]')
    locked.connect()
    assert with_word("open sesame", ("cmdline", "environ")) == []
    assert locked.run(["env"], 20).stdout.count("PASSWORD_COMMAND") == 0
    assert [name for path in with_word_in_command("cj-ssh") for name in os.listdir(path) if name == "ask"] == []
    locked.close()


def with_word_in_command(word: str) -> set[str]:
    """Folders of sockets that command lines name."""
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in with_word(word)]
    return {os.path.dirname(os.fsdecode(each)) for line in lines for each in line if each.startswith(b"/tmp/cj-ssh")}


def test_wrong_secret_is_tried_once(locked: SSHTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTERJOBS_SSH_PASSWORD_COMMAND", f"sh -c 'echo asked >>{tmp_path}/asked; echo wrong'")
    with pytest.raises(BackendUnavailable, match="does not let us in"):
        locked.connect()
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_user_s_own_askpass_is_asked(locked: SSHTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ask").write_text(f'#!/bin/sh\necho "$1" >{tmp_path}/prompt; echo open sesame\n')
    (tmp_path / "ask").chmod(0o700)
    monkeypatch.setenv("SSH_ASKPASS", str(tmp_path / "ask"))
    monkeypatch.delenv("DISPLAY", raising=False)
    assert locked.run(["echo", "in"], 20).stdout == "in\n"
    assert "passphrase" in (tmp_path / "prompt").read_text()
    locked.close()


def test_nobody_to_ask_is_a_refusal_and_no_wait(locked: SSHTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSH_ASKPASS", "DISPLAY", "SSH_AUTH_SOCK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BackendUnavailable, match="set SSH_ASKPASS or CLUSTERJOBS_SSH_PASSWORD_COMMAND"):
        locked.run(["true"], 30)


def test_command_for_a_secret_is_a_list_or_words_of_a_shell() -> None:
    assert password_command('["a", "b c"]') == ["a", "b c"]
    assert password_command("a 'b c'") == ["a", "b c"]
    for wrong in ("'a", "[1]", '["a"'):
        with pytest.raises(ConfigError, match="CLUSTERJOBS_SSH_PASSWORD_COMMAND"):
            password_command(wrong)


# ---------------------------------------------------------------- what breaks and heals


def test_sshd_killed_in_the_middle_and_back(own: RunningCluster, tmp_path: Path) -> None:
    with reached(own) as way:
        outcomes: list[object] = []

        def run() -> None:
            try:
                outcomes.append(way.run(["sh", "-c", f"echo $$ >{tmp_path}/pid; exec sleep 100"], 60))
            except ConnectionLost as error:
                outcomes.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        for pid in sshd_processes(own):
            os.kill(pid, signal.SIGKILL)
        thread.join(20)
        assert [type(each) for each in outcomes] == [ConnectionLost]
        wait_for(lambda: processes.read(int((tmp_path / "pid").read_text())) is None)  # as its connection has
        started = time.monotonic()
        with pytest.raises(ConnectionLost, match="cannot be reached"):
            way.run(["true"], 30)
        assert time.monotonic() - started < 15
        again = base.up("sshd", name=own.name)
        assert again.environment["CLUSTERJOBS_SSH_CONFIG"] == own.environment["CLUSTERJOBS_SSH_CONFIG"]
        assert way.run(["echo", "back"], 30).stdout == "back\n"


def test_many_who_find_it_broken_connect_once(own: RunningCluster) -> None:
    with reached(own) as way:
        way.run(["true"], 30)
        for pid in sshd_processes(own)[1:]:
            os.kill(pid, signal.SIGKILL)
        log = own.directory / "log" / "sshd.out"
        before = log.read_text().count("Accepted publickey")
        wait_for(lambda: not sshd_processes(own)[1:])
        with ThreadPoolExecutor(8) as pool:
            said = list(pool.map(lambda number: _echoed_or_lost(way, number), range(16)))
        assert set(said) <= {*map(str, range(16)), "lost"}  # the first may be lost: it is not known what they did
        assert [way.run(["echo", "x"], 30).stdout for _ in range(2)] == ["x\n", "x\n"]
        assert log.read_text().count("Accepted publickey") == before + 1


def _echoed_or_lost(way: SSHTransport, number: int) -> str:
    try:
        return way.run(["echo", str(number)], 30).stdout.strip()
    except ConnectionLost:
        return "lost"


def test_black_hole_holds_nobody_longer_than_his_time_limit(own: RunningCluster) -> None:
    with reached(own) as way:
        way.run(["true"], 30)
        stopped = sshd_processes(own)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(2):
                started = time.monotonic()
                with pytest.raises((CommandTimeout, ConnectionLost)):
                    way.run(["true"], 1)
                assert time.monotonic() - started < 6
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        assert way.run(["echo", "back"], 30).stdout == "back\n"


def test_black_hole_that_stays_is_noticed(own: RunningCluster, tmp_path: Path) -> None:
    pair = ("  ConnectTimeout 5\n", "  ConnectTimeout 2\n  ServerAliveInterval 1\n  ServerAliveCountMax 2\n")
    way = changed(own, tmp_path, pair)
    way.run(["true"], 30)
    stopped = sshd_processes(own)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(ConnectionLost, match="the connection to clusterjobs broke"):
            way.run(["true"], 60)
        assert time.monotonic() - started < 30
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert way.run(["echo", "back"], 30).stdout == "back\n"
    way.close()


def test_fewer_sessions_than_we_would_like_are_waited_for() -> None:
    with far_machine("MaxSessions 3") as cluster, reached(cluster) as way:
        way.connect()
        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(lambda number: _echoed_or_lost(way, number), range(24))) == sorted(
                map(str, range(24))
            )


def test_no_session_to_be_had_is_said_in_time() -> None:
    with far_machine("MaxSessions 1") as cluster, reached(cluster) as way:
        started = time.monotonic()
        with pytest.raises(ConnectionLost, match="takes no more sessions"):
            way.run(["true"], 2)
        assert time.monotonic() - started < 15


def test_jump_to_another_host_is_the_user_s_configuration(own: RunningCluster, tmp_path: Path) -> None:
    name = own.environment["CLUSTERJOBS_SSH_CONFIG"]
    (tmp_path / "ssh_config").write_text(f"Include {name}\nHost clusterjobs-far\n  ProxyJump clusterjobs-jump\n")
    way = SSHTransport("clusterjobs-far", config=str(tmp_path / "ssh_config"))
    assert way.run(["echo", "over"], 30).stdout == "over\n"
    assert (own.directory / "log" / "sshd.out").read_text().count("Accepted publickey") >= 3
    way.close()
    wait_for(lambda: with_word(str(tmp_path / "ssh_config")) == [])
