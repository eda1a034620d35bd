"""Boots Slurm's daemons in a directory, in the order in which they need one another, and waits for each."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pytest_clusterjobs.clusters import ports, processes
from pytest_clusterjobs.clusters.base import ClusterBootError
from pytest_clusterjobs.clusters.slurm_conf import CONTROLLER_PORT, DATABASE_DAEMON_PORT, Site
from pytest_clusterjobs.clusters.slurm_programs import Programs, clean_environment, run
from pytest_clusterjobs.clusters.slurm_tick import is_loaded

log = logging.getLogger(__name__)

_MARIADB_SIZES = ("--innodb-log-file-size=4M", "--innodb-buffer-pool-size=16M")


class Boot:
    """One boot in progress: where, with which programs, until when."""

    def __init__(self, site: Site, programs: Programs, *, nodes: int, timeout_s: float) -> None:
        self._site, self._programs, self._nodes = site, programs, nodes
        self._directory = site.directory
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        conf = str(site.directory / "slurm.conf")
        self.environment = {**clean_environment(), "SLURM_CONF": conf, processes.MARKER: str(site.directory)}

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
        self._wait("munged", "a socket", (run_dir / "munge.sock").is_socket)

    def start_database(self, cache: Path) -> None:
        """Start a private mariadbd, reachable only through a socket in our directory, and slurmdbd on it."""
        data = self._directory / "db"
        version = run([self._programs.paths["mariadbd"], "--version"], self.environment).stdout
        template = cache / f"mariadb-{zlib.crc32(version.encode()):08x}"  # files of another version may not do
        if template.is_dir():
            shutil.copytree(template, data)
        else:
            self._make_database(data, template)
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
        self._wait("mariadbd", "a socket", socket_path.is_socket)
        self._wait("mariadbd", "a database", lambda: run(create, self.environment).returncode == 0)
        # MariaDB's client library takes the socket of "localhost" from this variable.
        self._start("slurmdbd", ["-D"], {"MYSQL_UNIX_PORT": str(socket_path)})
        self._wait_port("slurmdbd", DATABASE_DAEMON_PORT)

    def _make_database(self, data: Path, template: Path) -> None:
        log.info("making an empty database: once, the next boot copies it")
        made = run(
            [
                *(self._programs.paths["mariadb-install-db"], "--no-defaults", f"--user={self._site.user}"),
                *(f"--datadir={data}", "--auth-root-authentication-method=normal", "--skip-test-db"),
                *_MARIADB_SIZES,
            ],
            self.environment,
            timeout_s=60,
        )
        if made.returncode != 0:
            raise ClusterBootError("mariadb-install-db failed", made.stdout)
        template.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = Path(tempfile.mkdtemp(dir=template.parent))
        try:
            shutil.copytree(data, fresh, dirs_exist_ok=True)
            with suppress(OSError):  # ENOTEMPTY: another boot was quicker
                fresh.rename(template)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def start_controller(self, tick: Mapping[str, str]) -> None:
        """Start slurmctld, with what a shorter turn needs or {}, on an empty state: job ids begin at 1."""
        self._start("slurmctld", ["-D", "-c"], tick)
        self._wait_port("slurmctld", CONTROLLER_PORT)
        process = processes.recorded(self._directory)["slurmctld"]
        if tick and (process is None or not is_loaded(process.pid)):
            raise ClusterBootError(f"slurmctld did not load {tick['LD_PRELOAD']}", self._tail("slurmctld"))

    def start_nodes(self) -> None:
        """Start one slurmd per node and wait until the controller can give jobs to all of them."""
        # Another installation's slurmd would look for slurmstepd where its packages put it.
        beside = Path(self._programs.paths["slurmd"]).with_name("slurmstepd")
        step_daemon = ["-d", str(beside)] if beside.exists() else []
        names = [f"n{number}" for number in range(1, self._nodes + 1)]
        for name in names:
            self._start(name, ["-D", *step_daemon, "-N", name], program="slurmd")
        self._wait("slurmctld", f"{self._nodes} idle nodes", self._all_idle, also=names)

    def _all_idle(self) -> bool:
        argv = [self._programs.paths["sinfo"], "-h", "-t", "idle", "-N", "-o", "%N"]
        return len(set(run(argv, self.environment).stdout.split())) >= self._nodes

    def add_account(self) -> None:
        """Give our user an account, with which jobs are recorded."""
        sacctmgr = self._programs.paths["sacctmgr"]
        clusters = [sacctmgr, "-n", "-P", "list", "cluster", "format=cluster,controlport"]
        registered = f"{self._site.cluster_name}|{self._site.first_port + CONTROLLER_PORT}"
        # slurmctld takes jobs a moment before slurmdbd knows of it, and until then sacctmgr refuses to add anything.
        self._wait("slurmctld", "its name to slurmdbd", lambda: registered in run(clusters, self.environment).stdout)
        for what in (
            ["account", "test", "Description=test", "Organization=test"],
            ["user", self._site.user, "Account=test", "AdminLevel=Admin"],
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
        pause_s = 0.01
        while not is_ready():
            alive = processes.recorded(self._directory)
            if dead := [each for each in (name, *also) if alive.get(each) is None]:
                raise ClusterBootError(f"{dead[0]} ended before it gave {what}", self._tail(dead[0]))
            if time.monotonic() > self._deadline:
                message = f"{name} has not given {what} within the {self._timeout_s:g} s of the boot"
                raise ClusterBootError(message, self._tail(name))
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.2, 0.1)
        log.debug("%s: %s", name, what)

    def _tail(self, name: str) -> str:
        return processes.log_tail(self._directory, name)
