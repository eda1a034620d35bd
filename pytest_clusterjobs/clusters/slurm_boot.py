"""Boots Slurm's daemons in a directory, in the order in which they need one another, and waits for each."""

from __future__ import annotations

import logging
import os
import pwd
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_clusterjobs.clusters import ports, processes
from pytest_clusterjobs.clusters.base import ClusterBootError
from pytest_clusterjobs.clusters.slurm_conf import CONTROLLER_PORT, DATABASE_DAEMON_PORT, Site

log = logging.getLogger(__name__)

# Debian's packages: program -> the package that brings it.
_PACKAGES = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sinfo": "slurm-client",
    "scontrol": "slurm-client",
    "munged": "munge",
}
_ACCOUNTING_PACKAGES = {
    "slurmdbd": "slurmdbd",
    "sacctmgr": "slurm-client",
    "mariadbd": "mariadb-server",
    "mariadb": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
}
_APT = ["slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "munge"]
_APT_ACCOUNTING = ["slurmdbd", "mariadb-server"]

_MARIADB_SIZES = ("--innodb-log-file-size=4M", "--innodb-buffer-pool-size=16M")


@dataclass(frozen=True, slots=True)
class Programs:
    """The installed programs that a boot needs."""

    #: Name -> absolute path.
    paths: Mapping[str, str]
    #: (22, 5) for 22.05.8.
    version: tuple[int, int]


def search_path() -> str:
    """Give PATH and the administrators' directories, where distributions put daemons."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def find_programs(*, accounting: bool, auth: str) -> Programs:
    """Find every program before anything is started.

    Raises:
        ClusterBootError: Some are missing; the message names them and the packages to install.
    """
    needed = {**_PACKAGES, **(_ACCOUNTING_PACKAGES if accounting else {})}
    if auth != "munge":
        del needed["munged"]
    found = {name: shutil.which(name, path=search_path()) for name in needed}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        apt = " ".join(_APT + (_APT_ACCOUNTING if accounting else []))
        hint = (
            "\n(without munge: --auth none, where every local user can submit as anybody)"
            if "munged" in missing
            else ""
        )
        raise ClusterBootError(
            f"a throw-away Slurm needs programs that are not installed: {', '.join(missing)}\n"
            f"on Debian or Ubuntu: apt-get install {apt}{hint}"
        )
    paths = {name: path for name, path in found.items() if path is not None}
    return Programs(paths, _version(paths["slurmctld"]))


def _version(slurmctld: str) -> tuple[int, int]:
    text = run([slurmctld, "-V"], clean_environment()).stdout
    match = re.search(r"(\d+)\.(\d+)", text)
    if match is None:
        raise ClusterBootError(f"{slurmctld} -V tells no version: {text.strip()!r}")
    return int(match[1]), int(match[2])


def clean_environment() -> dict[str, str]:
    """Give what daemons need of ours, and none of the SLURM_* of a cluster that we may be using or be a job of."""
    kept = ("HOME", "USER", "LOGNAME", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
    environment = {key: os.environ[key] for key in kept if key in os.environ}
    return {**environment, "PATH": search_path(), "LC_ALL": "C.UTF-8"}


def run(argv: Sequence[str], environment: Mapping[str, str], timeout_s: float = 20) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, whatever its exit code.

    Raises:
        ClusterBootError: It cannot be executed, or did not end in time and was killed.
    """
    try:
        return subprocess.run(
            list(argv),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterBootError(f"{argv[0]} did not end within {timeout_s:g} s and was killed") from error
    except OSError as error:
        raise ClusterBootError(f"cannot run {argv[0]}: {error.strerror or error}") from error


def user_name() -> str:
    """Give our user's name, which Slurm's configuration needs.

    Raises:
        ClusterBootError: This uid has none, as happens in containers.
    """
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise ClusterBootError(
            f"uid {os.geteuid()} has no name: Slurm needs an entry for it in /etc/passwd (in a container: add one, or "
            "run as a user that has one)"
        ) from None


def host_name() -> str:
    """Give what the daemons take for this machine's name."""
    return socket.gethostname().partition(".")[0]


class Boot:
    """One boot in progress: where, with which programs, until when."""

    def __init__(self, site: Site, programs: Programs, *, nodes: int, timeout_s: float) -> None:
        self._site, self._programs, self._nodes = site, programs, nodes
        self._directory = site.directory
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self.environment = {**clean_environment(), "SLURM_CONF": str(site.directory / "slurm.conf")}

    def start_munge(self) -> None:
        """Start a private munged with a fresh key."""
        key = self._directory / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(1024))
        run_dir = self._directory / "run"
        # --force: munged otherwise refuses a socket that other users cannot reach, and directories such as /tmp.
        self._start(
            "munged",
            [
                *("--foreground", "--force", f"--socket={run_dir}/munge.sock", f"--key-file={key}"),
                *(f"--pid-file={run_dir}/munged.pid", f"--seed-file={run_dir}/munged.seed"),
                *(f"--log-file={self._directory}/log/munged.log", "--num-threads=4"),
            ],
        )
        self._wait("munged", "its socket", (run_dir / "munge.sock").is_socket)

    def start_database(self, template: Path) -> None:
        """Start a private mariadbd, reachable only through a socket in our directory, and slurmdbd on it."""
        if not template.is_dir():
            self._make_template(template)
        data = self._directory / "db"
        shutil.copytree(template, data)
        socket_path = self._directory / "run" / "mysql.sock"
        self._start(
            "mariadbd",
            [
                *("--no-defaults", f"--user={self._site.user}", f"--datadir={data}", f"--socket={socket_path}"),
                # No passwords: only who can enter our directory reaches the socket.
                *(f"--pid-file={self._directory}/run/mariadbd.pid", "--skip-networking", "--skip-grant-tables"),
                *("--innodb-lock-wait-timeout=900", "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0"),
                *("--performance-schema=0", "--skip-log-bin", *_MARIADB_SIZES),
            ],
        )
        client = [self._programs.paths["mariadb"], "--no-defaults", f"--socket={socket_path}", "-e"]
        # 26.05's slurmdbd loses 5 s when it has to make the database itself.
        create = [*client, "CREATE DATABASE IF NOT EXISTS slurm_acct"]
        self._wait("mariadbd", "its socket", socket_path.is_socket)
        self._wait("mariadbd", "a database", lambda: run(create, self.environment).returncode == 0)
        # MariaDB's client library takes the socket of "localhost" from this variable.
        self._start("slurmdbd", ["-D"], {"MYSQL_UNIX_PORT": str(socket_path)})
        self._wait_port("slurmdbd", DATABASE_DAEMON_PORT)

    def _make_template(self, template: Path) -> None:
        log.info("making an empty database, once (2 s)")
        fresh = template.with_name(f"{template.name}.{os.getpid()}")
        fresh.mkdir(parents=True, mode=0o700)
        try:
            made = run(
                [
                    *(self._programs.paths["mariadb-install-db"], "--no-defaults", f"--user={self._site.user}"),
                    *(f"--datadir={fresh}", "--auth-root-authentication-method=normal", "--skip-test-db"),
                    *_MARIADB_SIZES,
                ],
                self.environment,
                timeout_s=60,
            )
            if made.returncode != 0:
                raise ClusterBootError("mariadb-install-db failed", made.stdout)
            fresh.rename(template)
        except OSError:  # ENOTEMPTY: somebody else's was ready first
            if not template.is_dir():
                raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def start_controller(self, extra_environment: Mapping[str, str]) -> None:
        """Start slurmctld on an empty state: job ids begin at 1."""
        self._start("slurmctld", ["-D", "-c"], extra_environment)
        self._wait_port("slurmctld", CONTROLLER_PORT)

    def start_nodes(self) -> None:
        """Start one slurmd per node and wait until the controller can give jobs to all of them."""
        slurmd = Path(self._programs.paths["slurmd"])
        beside = slurmd.with_name(
            "slurmstepd"
        )  # another installation's slurmd would look for it where it was built for
        step_daemon = ["-d", str(beside)] if beside.exists() else []
        for number in range(1, self._nodes + 1):
            self._start(f"n{number}", ["-D", *step_daemon, "-N", f"n{number}"], program="slurmd")
        self._wait("slurmctld", f"{self._nodes} idle nodes", self._all_idle, also=[f"n{self._nodes}"])

    def _all_idle(self) -> bool:
        argv = [self._programs.paths["sinfo"], "-h", "-t", "idle", "-N", "-o", "%N"]
        return len(set(run(argv, self.environment).stdout.split())) >= self._nodes

    def add_account(self) -> None:
        """Give our user an account, with which jobs are recorded."""
        sacctmgr = self._programs.paths["sacctmgr"]
        user = self._site.user
        for what in (
            ["account", "test", "Description=test", "Organization=test"],
            ["user", user, "Account=test", "AdminLevel=Admin"],
        ):
            added = run([sacctmgr, "-i", "add", *what], self.environment)
            if added.returncode != 0:
                raise ClusterBootError(f"sacctmgr add {what[0]} failed", added.stdout)

    def _start(
        self,
        name: str,
        arguments: Sequence[str],
        extra_environment: Mapping[str, str] | None = None,
        program: str | None = None,
    ) -> None:
        argv = [self._programs.paths[program or name], *arguments]
        processes.start(name, argv, self._directory, {**self.environment, **(extra_environment or {})})

    def _wait_port(self, name: str, offset: int) -> None:
        port = self._site.first_port + offset
        self._wait(name, f"port {port}", lambda: ports.listens(port))

    def _wait(self, name: str, what: str, is_ready: Callable[[], bool], also: Sequence[str] = ()) -> None:
        """Wait until a daemon offers something.

        Raises:
            ClusterBootError: The daemon ended, or the boot's time did. The message ends with the daemon's log.
        """
        while not is_ready():
            dead = [each for each in (name, *also) if processes.recorded(self._directory).get(each) is None]
            if dead:
                raise ClusterBootError(f"{dead[0]} ended before it gave {what}", self._tail(dead[0]))
            if time.monotonic() > self._deadline:
                raise ClusterBootError(
                    f"{name} gave no {what} within the {self._timeout_s:g} s of the boot", self._tail(name)
                )
            time.sleep(0.01)
        log.debug("%s: %s", name, what)

    def _tail(self, name: str) -> str:
        return processes.log_tail(self._directory, name)
