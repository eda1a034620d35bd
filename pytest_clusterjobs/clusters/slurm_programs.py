"""What a throw-away Slurm needs of this machine: programs, a user with a name, a clean environment."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_clusterjobs.clusters.base import ClusterBootError

_PROGRAMS = ("slurmctld", "slurmd", "sinfo", "scontrol")
_ACCOUNTING_PROGRAMS = ("slurmdbd", "sacctmgr", "mariadbd", "mariadb", "mariadb-install-db")
# Names of Debian and Ubuntu.
_PACKAGES = "slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge"
_ACCOUNTING_PACKAGES = "slurmdbd mariadb-server"

#: What auth/none means; the daemons listen on all addresses.
NO_AUTH = "whoever reaches this machine's ports, from outside too, can run commands as you"


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


def find_programs(*, accounting: bool, auth: str, path: str | None = None) -> Programs:
    """Find every program, in ``path`` or else in ``search_path()``, before anything is started.

    Raises:
        ClusterBootError: Some are missing; the message names them and the packages to install.
    """
    needed = [*_PROGRAMS, *(["munged"] if auth == "munge" else []), *(_ACCOUNTING_PROGRAMS if accounting else [])]
    found = {name: shutil.which(name, path=path or search_path()) for name in needed}
    if missing := [name for name, place in found.items() if place is None]:
        packages = f"{_PACKAGES} {_ACCOUNTING_PACKAGES}" if accounting else _PACKAGES
        hint = f"\nwithout munge: --auth none, but {NO_AUTH}" if missing == ["munged"] else ""
        raise ClusterBootError(
            f"a throw-away Slurm needs programs that are not installed: {', '.join(missing)}\n"
            f"on Debian and Ubuntu: apt-get install {packages}{hint}"
        )
    paths = {name: place for name, place in found.items() if place is not None}
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
