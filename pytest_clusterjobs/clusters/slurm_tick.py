"""Makes the throw-away controller look for work more often than once per second.

Stock slurmctld starts queued batch jobs in a loop that pauses for 1 s, and no setting shortens the pause: a job that
takes no time still takes a second from submission to end. That is what users see, so it stays the default; a suite of
many small jobs saves most of its time with a shorter turn. A small library is compiled once and loaded into slurmctld.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from pytest_clusterjobs.clusters.base import ClusterBootError
from pytest_clusterjobs.clusters.slurm_programs import clean_environment, run

_SOURCE = Path(__file__).with_name("slurm_tick.c")


def tick_environment(tick_ms: int, library: Path, directory: Path) -> Mapping[str, str]:
    """Give what slurmctld needs in its environment for a turn of ``tick_ms`` milliseconds.

    The library is copied to the cluster's directory first: LD_PRELOAD splits at blanks and colons (ld.so(8)), which
    the path of the user's cache may have.
    """
    copied = shutil.copy(library, directory / "slurm-tick.so")
    return {"CLUSTERJOBS_TICK_MS": str(tick_ms), "LD_PRELOAD": str(copied)}


def is_loaded(pid: int) -> bool:
    """Tell whether a process has the library; the loader merely warns when it cannot load it (a noexec mount)."""
    return "/slurm-tick.so" in Path(f"/proc/{pid}/maps").read_text()


def tick_library(cache: Path) -> Path:
    """Give the compiled library, compiling it if ``cache`` does not have it yet.

    Raises:
        ClusterBootError: There is no C compiler, or it failed.
    """
    library = cache / f"slurm-tick-{os.uname().machine}-{zlib.crc32(_SOURCE.read_bytes()):08x}.so"
    if library.exists():
        return library
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        raise ClusterBootError("--tick-ms needs a C compiler (cc): apt-get install gcc libc6-dev; or leave it out")
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, fresh = tempfile.mkstemp(dir=cache, suffix=".so")
    os.close(descriptor)
    try:
        argv = [compiler, "-shared", "-fPIC", "-O2", "-o", fresh, str(_SOURCE), "-ldl"]
        made = run(argv, clean_environment(), timeout_s=60)
        if made.returncode != 0:
            raise ClusterBootError(f"--tick-ms: {compiler} could not compile {_SOURCE.name}", made.stdout)
        Path(fresh).replace(library)
    finally:
        Path(fresh).unlink(missing_ok=True)
    return library
