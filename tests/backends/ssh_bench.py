"""What the tests of backend ssh share: a real sshd of one's own, runs on it, and a look at what is on the far side."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from pytest_clusterjobs.backends.ssh import SshBackend
from pytest_clusterjobs.clusters import processes
from pytest_clusterjobs.clusters.base import RunningCluster
from pytest_clusterjobs.clusters.slurm_programs import clean_environment, search_path
from pytest_clusterjobs.config.place import Place
from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.core.state import JobState
from pytest_clusterjobs.engine.job import Job
from pytest_clusterjobs.engine.run import Run
from tests import watching
from tests.transports.far import far_machine
from tests.watching import children, is_alive, read

PATIENCE_S = 60.0
wait_for = partial(watching.wait_for, within_s=PATIENCE_S)


class Site:
    """An sshd, a work directory there, and runs that use it."""

    def __init__(self, cluster: RunningCluster, root: Path) -> None:
        self.cluster, self.root = cluster, root
        #: The work directory there.
        self.there = root / "there"
        self._runs: list[Run] = []

    def place(self, *hosts: str, **options: str) -> Place:
        return Place(
            "ssh",
            "ssh",
            host=hosts or ("clusterjobs",),
            workdir=str(self.there),
            python=sys.executable,
            options=options,
        )

    def run(self, place: Place | None = None, **settings: Any) -> Run:
        """Begin a run, which is closed with the site."""
        chosen = place or self.place()
        run = Run(
            Settings(**{"workdir": str(self.root / "here"), "keep": "never", **settings}),
            places={"ssh": chosen}.__getitem__,
        )
        run.select("ssh")
        self._runs.append(run)
        return run

    def processes(self) -> list[int]:
        """Give what runs on the far side: with the work directory in its command, environment, or as its place."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._is_there(pid)]

    def _is_there(self, pid: int) -> bool:
        word = str(self.there).encode()
        with suppress(OSError):
            if os.readlink(f"/proc/{pid}/cwd").encode().startswith(word):
                return True
            return pid != os.getpid() and word in Path(f"/proc/{pid}/cmdline").read_bytes()
        return False

    def directories(self) -> list[str]:
        return os.listdir(self.there) if self.there.exists() else []

    def is_empty(self) -> bool:
        """Tell whether nothing of any run is left there."""
        return self.processes() == [] and self.directories() == []

    def with_command(self, word: str) -> int:
        """Give the process there that has a word in its command line: the first one, which the others are forks of."""
        found = [pid for pid in self.processes() if word in read(f"/proc/{pid}/cmdline")]
        return min(found)

    # ------------------------------------------------------------ what breaks

    def sshds(self) -> list[int]:
        """Give the daemon and those that serve a session, but not what runs in the sessions."""
        daemon = processes.recorded(self.cluster.directory)["sshd"]
        assert daemon is not None
        return [daemon.pid, *children(daemon.pid)]

    def cut(self) -> None:
        """Break the connections that there are."""
        for pid in self.sshds()[1:]:
            os.kill(pid, signal.SIGKILL)

    def shut_down(self) -> None:
        """Break the connections, and let nobody in."""
        pids = self.sshds()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not any(is_alive(pid) for pid in pids), "the sshd's end")

    def start_again(self) -> None:
        sshd = shutil.which("sshd", path=search_path())
        assert sshd is not None
        config = self.cluster.directory / "sshd_config"
        processes.start("sshd", [sshd, "-D", "-e", "-f", str(config)], self.cluster.directory, clean_environment())

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let nothing through for a while, as a network does that has lost its way."""
        with watching.frozen(self.sshds()):
            yield

    def close(self) -> None:
        """End the runs, and make sure that nothing is left there."""
        for run in self._runs:
            run.close()
        wait_for(self.is_empty, f"{self.directories()} and {self.processes()} to go", within_s=15)


@contextmanager
def site(root: Path, *conf_lines: str) -> Iterator[Site]:
    """Give a site with an sshd of its own, whose jobs share the cores with nobody else's."""
    with far_machine(f"SetEnv SHLVL=5 CLUSTERJOBS_LOCAL_SLOTS={root}/slots", *conf_lines) as cluster:
        made = Site(cluster, root)
        try:
            yield made
        finally:
            made.close()


def backend_of(run: Run) -> SshBackend:
    backend = run.backend("ssh")
    assert isinstance(backend, SshBackend)
    return backend


def says(job: Job[Any], text: str = "\n") -> str:
    """Wait until a running job has printed something, and give all that it has printed."""
    wait_for(lambda: text in job.logs().stdout, f"{text!r} from {job}")
    wait_for(lambda: job.state is not JobState.PENDING, f"{job} to run")  # told a moment after it has begun
    return job.logs().stdout
