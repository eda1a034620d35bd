"""Boots Grid Engine's daemons in a directory of their own, without the packages' scripts, and waits for each."""

from __future__ import annotations

import re
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pytest_clusterjobs.clusters import ports, processes
from pytest_clusterjobs.clusters.base import ClusterBootError
from pytest_clusterjobs.clusters.sge_conf import (
    EXECD_PORT,
    PROGRAMS,
    QMASTER_PORT,
    SHARE,
    Site,
    bootstrap,
    configuration,
    consumable_memory,
    host,
    host_aliases,
    parallel_environment,
    queue,
    scheduler,
)
from pytest_clusterjobs.clusters.sge_options import SgeClusterOptions
from pytest_clusterjobs.clusters.slurm_programs import clean_environment, run

_NEEDED = ("sge_qmaster", "sge_execd", "sge_shepherd", "spoolinit", "spooldefaults.bin", "qconf", "qhost", "qsub")
# Asked by the packages otherwise, which would then set up a cluster and start its daemons.
_INSTALL = """\
on Debian and Ubuntu, as root; the first line keeps the packages from asking and from starting a cluster:
  printf 'gridengine-%s shared/gridengineconfig boolean false\\n' common master client exec | debconf-set-selections
  apt-get install --no-install-recommends gridengine-master gridengine-exec gridengine-client"""


def check_programs() -> None:
    """Make sure that all programs are there before anything is started.

    Raises:
        ClusterBootError: Some are missing; the message has the lines that install them.
    """
    if missing := [name for name in _NEEDED if not (PROGRAMS / name).exists()]:
        names = ", ".join(missing)
        raise ClusterBootError(
            f"a throw-away Grid Engine needs programs that are not installed in {PROGRAMS}: {names}\n{_INSTALL}"
        )


def client_environment(site: Site, first_port: int) -> dict[str, str]:
    """Give what a process must have in its environment to use the cluster."""
    return {
        "SGE_ROOT": str(site.root),
        "SGE_CELL": "default",
        "SGE_QMASTER_PORT": str(first_port + QMASTER_PORT),
        "SGE_EXECD_PORT": str(first_port + EXECD_PORT),
        "SGE_CLUSTER_NAME": "clusterjobs",
    }


class Boot:
    """One boot in progress."""

    def __init__(self, site: Site, options: SgeClusterOptions, first_port: int) -> None:
        self._site, self._options, self._port = site, options, first_port
        self._directory = site.directory
        self._deadline = time.monotonic() + options.boot_timeout_s
        # The path of the libraries is for spooldefaults, which does not find libspoolc.so by itself.
        self._environment = {
            **clean_environment(),
            **client_environment(site, first_port),
            "LD_LIBRARY_PATH": str(PROGRAMS),
            processes.MARKER: str(site.directory),
        }

    def write_files(self) -> None:
        """Make SGE_ROOT, the cell's files and the spool."""
        root, common = self._site.root, self._site.common
        common.mkdir(parents=True)
        for name in ("run", "log", "scratch", "spool/qmaster/job_scripts", "spool/execd", "set-up"):
            (self._directory / name).mkdir(parents=True)
        (root / "util").symlink_to(SHARE / "util")
        for name in ("bin", "lib", "utilbin"):
            (root / name).mkdir()
            (root / name / _architecture()).symlink_to(PROGRAMS)
        (common / "host_aliases").write_text(host_aliases(_host_names()))
        (common / "act_qmaster").write_text("localhost\n")
        (common / "cluster_name").write_text("clusterjobs\n")
        (common / "bootstrap").write_text(bootstrap(self._site))
        spool = ["classic", "libspoolc", self._site.spooling_parameters, "init"]
        self._must("spoolinit", *spool)
        settings = self._file("configuration", configuration(self._site, _template("default-configuration")))
        complexes = self._directory / "set-up" / "centry"
        shutil.copytree(SHARE / "util" / "resources" / "centry", complexes)
        (complexes / "h_vmem").write_text(consumable_memory((complexes / "h_vmem").read_text()))
        usersets = SHARE / "util" / "resources" / "usersets"
        for what, where in (("configuration", settings), ("complexes", complexes), ("usersets", usersets)):
            self._must("spooldefaults.bin", what, str(where))
        self._must("spooldefaults.bin", "managers", self._site.user)

    def start_qmaster(self) -> None:
        """Start the queue master and tell it of the host, the queues and the rest."""
        self._start("qmaster")
        self._wait("qmaster", f"port {self._port}", lambda: ports.listens(self._port))
        self._wait("qmaster", "an answer", lambda: self._run("qconf", "-sh")[0] == 0)
        self._must("qconf", "-as", "localhost")
        self._must("qconf", "-Ae", self._file("host", host(self._options.slots, self._options.memory_bytes)))
        self._must("qconf", "-Ap", self._file("pe", parallel_environment()))
        self._must("qconf", "-Msconf", self._file("scheduler", scheduler(self._must("qconf", "-ssconf"))))
        for name, limit_s in self._options.all_queues().items():
            self._must(
                "qconf", "-Aq", self._file(f"queue-{name}", queue(self._site, name, self._options.slots, limit_s))
            )

    def start_execd(self) -> None:
        """Start the execution daemon and wait until the queue master can give it jobs."""
        self._start("execd")
        self._wait("execd", "its load to the qmaster", self._has_load)

    def _has_load(self) -> bool:
        # Columns: name, architecture, processors, ..., load; "-" where the host has not reported yet.
        code, text = self._run("qhost")
        lines = [line.split() for line in text.splitlines()]
        return code == 0 and any(len(line) > 3 and line[0] == "localhost" and line[3] != "-" for line in lines)

    def _start(self, name: str) -> None:
        environment = {**self._environment, "SGE_ND": "1"}  # in the foreground
        processes.start(name, [str(PROGRAMS / f"sge_{name}")], self._directory, environment)

    def _file(self, name: str, text: str) -> str:
        path = self._directory / "set-up" / name
        path.write_text(text)
        return str(path)

    def _run(self, program: str, *arguments: str) -> tuple[int, str]:
        done = run([str(PROGRAMS / program), *arguments], self._environment, timeout_s=max(0.1, self._left_s()))
        return done.returncode, done.stdout

    def _must(self, program: str, *arguments: str) -> str:
        code, text = self._run(program, *arguments)
        if code:
            raise ClusterBootError(f"{program} {' '.join(arguments)} failed with exit code {code}", text)
        return text

    def _left_s(self) -> float:
        return self._deadline - time.monotonic()

    def _wait(self, name: str, what: str, is_ready: Callable[[], bool]) -> None:
        """Wait until a daemon offers something.

        Raises:
            ClusterBootError: A daemon ended, or the boot's time did. The message ends with its log.
        """
        pause_s = 0.01
        while not is_ready():
            alive: Mapping[str, object] = processes.recorded(self._directory)
            if dead := [each for each, process in alive.items() if process is None]:
                raise ClusterBootError(f"{dead[0]} ended before {name} gave {what}", self._log(dead[0]))
            if self._left_s() < 0:
                limit_s = self._options.boot_timeout_s
                message = f"{name} has not given {what} within the {limit_s:g} s of the boot"
                raise ClusterBootError(message, self._log(name))
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.2, 0.1)

    def _log(self, name: str) -> str:
        found = [processes.log_tail(self._directory, name)]
        for path in sorted((self._directory / "spool" / name).rglob("messages")):
            found += path.read_text(errors="replace").splitlines()[-10:]
        return "\n".join(line for line in found if line)


def _template(name: str) -> str:
    return (SHARE / name).read_text()


def _architecture() -> str:
    done = run([str(SHARE / "util" / "arch")], clean_environment())
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else "lx-amd64"


def _host_names() -> list[str]:
    """Give all names that this machine has for itself."""
    names = [socket.gethostname(), socket.gethostname().partition(".")[0]]
    lines = Path("/etc/hosts").read_text(errors="replace").splitlines() if Path("/etc/hosts").exists() else []
    for line in lines:
        address, *others = line.partition("#")[0].split() or [""]
        if address.startswith("127.") or names[0] in others:
            names += others
    return [name for name in dict.fromkeys(names) if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name)]
