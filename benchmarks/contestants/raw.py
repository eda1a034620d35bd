"""The floor: the same trivial work with nothing but the scheduler: ``python -m benchmarks.contestants.raw BACKEND``.

On ``local`` a fresh interpreter that does nothing; on Slurm, ``sbatch`` of one that writes a file, and a look for that
file every 10 ms.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.contestants.protocol import Task, serve

_LOOK_S = 0.01
_DEADLINE_S = 300.0


def fresh_python(_: int = 0) -> None:
    """Start a Python that does nothing, and wait for its end."""
    subprocess.run([sys.executable, "-c", "pass"], check=True)


def fresh_pythons(count: int) -> None:
    """Start so many, as many at a time as there are cores."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(fresh_python, range(count)))


def sbatch(folder: str, name: str, *options: str) -> None:
    """Submit a Python that writes a file of that name, as the shell in the job reads it."""
    wrapped = f'{sys.executable} -c \'open("{folder}/\'{name}\'", "w").write("0")\''
    argv = ["sbatch", f"--wrap={wrapped}", *options]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, cwd=folder)


def wait_for_files(folder: str, count: int) -> None:
    """Wait until so many jobs have written their file."""
    deadline = time.monotonic() + _DEADLINE_S
    while len(list(Path(folder).glob("done-*"))) < count:
        assert time.monotonic() < deadline, f"the raw jobs have not ended within {_DEADLINE_S:g} s"
        time.sleep(_LOOK_S)


def separate(count: int) -> None:
    """Submit so many jobs, a command each, and wait for all."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for number in range(count):
            sbatch(folder, f"done-{number}")
        wait_for_files(folder, count)


def array(count: int) -> None:
    """Submit one array of so many jobs, and wait for all."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        sbatch(folder, "done-$SLURM_ARRAY_TASK_ID", f"--array=0-{count - 1}")
        wait_for_files(folder, count)


TASKS: dict[str, dict[str, Task]] = {
    "local": {"one": fresh_python, "separate": fresh_pythons, "map": fresh_pythons},
    "slurm": {"one": separate, "separate": separate, "map": array},
}

if __name__ == "__main__":
    serve(TASKS[sys.argv[1]])
