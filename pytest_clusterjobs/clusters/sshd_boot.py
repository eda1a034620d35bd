"""Boots OpenSSH's sshd in a directory of its own, with keys of its own, and waits until it lets us in."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_clusterjobs.clusters import ports, processes
from pytest_clusterjobs.clusters.base import ClusterBootError
from pytest_clusterjobs.clusters.slurm_programs import clean_environment, run, search_path, user_name
from pytest_clusterjobs.clusters.sshd_options import SshdClusterOptions

#: The machine's names in our ssh_config: the first, and any with the prefix.
HOSTS = ("clusterjobs", "clusterjobs-*")
#: In the environment of every session, with the cluster's directory as value.
SESSION_MARKER = "CLUSTERJOBS_SSHD_SESSION_OF"

# Bash takes itself for one inside another, and does not read ~/.bashrc for each command (bash(1), INVOCATION). What a
# user has there may take long, and leave locks when its session is killed, as pyenv does: all later ones wait for them.
_NO_BASHRC = "SHLVL=2"

_NEEDED = ("sshd", "ssh", "ssh-keygen")
_PACKAGES = "openssh-server openssh-client"
# Where root's sshd locks its unprivileged half in; Debian's and Ubuntu's builds insist on it (sshd(8), FILES).
_PRIVILEGE_SEPARATION = Path("/run/sshd")


def find_programs() -> dict[str, str]:
    """Find every program before anything is started: name -> absolute path.

    Raises:
        ClusterBootError: Some are missing; the message names them and the packages to install.
    """
    found = {name: shutil.which(name, path=search_path()) for name in _NEEDED}
    if missing := [name for name, place in found.items() if place is None]:
        raise ClusterBootError(
            f"a throw-away sshd needs programs that are not installed: {', '.join(missing)}\n"
            f"on Debian and Ubuntu: apt-get install {_PACKAGES}"
        )
    return {name: place for name, place in found.items() if place is not None}


def client_environment(directory: Path) -> dict[str, str]:
    """Give what a process must have in its environment to use it."""
    return {"CLUSTERJOBS_SSH_CONFIG": str(directory / "ssh_config"), "CLUSTERJOBS_SSH_HOST": HOSTS[0]}


def login(environment: Mapping[str, str], timeout_s: float) -> tuple[int, str]:
    """Log in and run ``true``: exit code and what ssh said.

    Raises:
        ClusterBootError: It did not end in time.
    """
    argv = ["ssh", "-F", environment["CLUSTERJOBS_SSH_CONFIG"], environment["CLUSTERJOBS_SSH_HOST"], "true"]
    done = run(argv, clean_environment(), timeout_s)
    return done.returncode, done.stdout


class Boot:
    """One boot in progress."""

    def __init__(self, directory: Path, options: SshdClusterOptions, port: int) -> None:
        self._directory, self._options, self._port = directory, options, port
        self._programs = find_programs()
        self._deadline = time.monotonic() + options.boot_timeout_s

    def write_files(self) -> None:
        """Make the keys and both sides' configuration."""
        for name in ("run", "log"):
            (self._directory / name).mkdir()
        for name in ("host_key", "id"):
            path = self._directory / name
            self._must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"clusterjobs-{name}", "-f", str(path))
        host_key = (self._directory / "host_key.pub").read_text()
        (self._directory / "authorized_keys").write_text((self._directory / "id.pub").read_text())
        (self._directory / "known_hosts").write_text(f"[127.0.0.1]:{self._port} {host_key}")
        user = user_name()
        (self._directory / "sshd_config").write_text(
            sshd_config(self._directory, self._port, user, self._options.conf_lines)
        )
        (self._directory / "ssh_config").write_text(ssh_config(self._directory, self._port, user))

    def start(self) -> None:
        """Start it and wait until it lets us in."""
        if os.geteuid() == 0:
            _PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        configuration = ["-f", str(self._directory / "sshd_config")]
        self._must("sshd", "-t", *configuration)
        argv = [self._programs["sshd"], "-D", "-e", *configuration]  # by its full path: it executes itself again
        daemon = processes.start("sshd", argv, self._directory, clean_environment())
        while not ports.listens(self._port):
            self._check_alive("listened")
            time.sleep(0.005)
        code, text = login(client_environment(self._directory), max(0.1, self._deadline - time.monotonic()))
        if code:
            raise ClusterBootError(f"sshd (pid {daemon.pid}) does not let us in: {text.strip()}", self._log())

    def _check_alive(self, what: str) -> None:
        if processes.recorded(self._directory)["sshd"] is None:
            raise ClusterBootError(f"sshd ended before it {what}", self._log())
        if time.monotonic() > self._deadline:
            limit_s = self._options.boot_timeout_s
            raise ClusterBootError(f"sshd has not {what} within the {limit_s:g} s of the boot", self._log())

    def _must(self, program: str, *arguments: str) -> None:
        done = run([self._programs[program], *arguments], clean_environment())
        if done.returncode:
            raise ClusterBootError(
                f"{program} {' '.join(arguments)} failed with exit code {done.returncode}", done.stdout
            )

    def _log(self) -> str:
        return processes.log_tail(self._directory, "sshd")


def sshd_config(directory: Path, port: int, user: str, conf_lines: Sequence[str] = ()) -> str:
    """Write what sshd reads. The first line with a keyword counts (sshd_config(5)), so the caller's come first."""
    words = [line.split(None, 1) for line in conf_lines]
    wanted = [value for key, value in words if key.lower() == "setenv"]
    environment = [f"{SESSION_MARKER}={directory}", *wanted]
    if not re.search(r"\b(HOME|SHLVL)=", " ".join(wanted)):
        environment.append(_NO_BASHRC)
    given = [f"{key} {value}" for key, value in words if key.lower() != "setenv"]
    ours = f"""\
SetEnv {" ".join(environment)}
Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host_key
PidFile none
AuthorizedKeysFile {directory}/authorized_keys
AllowUsers {user}
AuthenticationMethods publickey
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PermitUserEnvironment no
MaxStartups 200:30:400
MaxSessions 100
UseDNS no
PrintMotd no
PrintLastLog no
X11Forwarding no
LogLevel VERBOSE
Subsystem sftp internal-sftp
"""
    return "".join(f"{line}\n" for line in given) + ours


def ssh_config(directory: Path, port: int, user: str) -> str:
    """Write what ``ssh -F`` reads."""
    return f"""\
Host {" ".join(HOSTS)}
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {directory}/id
  IdentitiesOnly yes
  UserKnownHostsFile {directory}/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  ConnectTimeout 5
"""
