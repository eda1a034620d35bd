"""The floor: the same trivial work with nothing but the scheduler: ``python -m benchmarks.contestants.raw BACKEND``.

On ``local`` a fresh interpreter that does nothing; on Slurm and Grid Engine, ``sbatch`` or ``qsub`` of one that writes
a file, and a look for that file every 10 ms; on hosts reached by ssh, ``ssh HOST true`` over a connection that is there
already; on Kubernetes, ``kubectl`` to create a Job of one that prints, to wait for it and to read its log.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import secrets
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


def qsub(folder: str, name: str, *options: str) -> None:
    """Submit a Python that writes a file of that name, as the shell in the job reads it."""
    script = f'{sys.executable} -c \'open("{folder}/\'{name}\'", "w").write("0")\'\n'
    argv = ["qsub", "-S", "/bin/sh", "-o", "/dev/null", "-j", "y", *options]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, cwd=folder, input=script, text=True)


def sge_separate(count: int) -> None:
    """Submit so many jobs to Grid Engine, a command each, and wait for all."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for number in range(count):
            qsub(folder, f"done-{number}")
        wait_for_files(folder, count)


def sge_array(count: int) -> None:
    """Submit one array of so many jobs to Grid Engine, and wait for all."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        qsub(folder, "done-$SGE_TASK_ID", "-t", f"1-{count}")
        wait_for_files(folder, count)


@functools.cache
def connection() -> tuple[str, ...]:
    """Connect to the host, once, and give the words that run a command over that connection."""
    folder = tempfile.TemporaryDirectory(prefix="bench-")
    socket = os.path.join(folder.name, "s")
    ssh = ["ssh", "-F", os.environ["CLUSTERJOBS_SSH_CONFIG"], "-S", socket]
    host = os.environ["CLUSTERJOBS_SSH_HOST"]
    master = subprocess.Popen([*ssh, "-M", "-N", host], stdin=subprocess.DEVNULL)
    atexit.register(folder.cleanup)
    atexit.register(master.wait)
    atexit.register(master.terminate)
    deadline = time.monotonic() + _DEADLINE_S
    while not os.path.exists(socket):
        assert master.poll() is None, f"{host} cannot be reached"
        assert time.monotonic() < deadline, f"{host} has not answered within {_DEADLINE_S:g} s"
        time.sleep(_LOOK_S)
    return (*ssh, host)


def ssh_true(_: int = 0) -> None:
    """Run a command there that does nothing, and wait for its end."""
    subprocess.run([*connection(), "true"], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def ssh_trues(count: int) -> None:
    """Run so many, as many at a time as there are cores."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(ssh_true, range(count)))


def kubectl(*words: str, text: str | None = None) -> str:
    """Run kubectl to its end and give what it printed."""
    return subprocess.run(["kubectl", *words], check=True, capture_output=True, text=True, input=text).stdout


def kubernetes_job(_: int = 0) -> None:
    """Create a Job, wait until it is complete, and read its log; it is deleted by and by."""
    name = f"raw-{secrets.token_hex(4)}"
    container = {
        "name": "job",
        "image": os.environ["CLUSTERJOBS_KUBERNETES_IMAGE"],
        "command": ["python3", "-c", "print(42)"],
    }
    pod = {"restartPolicy": "Never", "containers": [{**container, "resources": {"limits": {"cpu": "1"}}}]}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": {"spec": pod}}}
    kubectl("create", "-f", "-", text=json.dumps(job))
    kubectl("wait", "--for=condition=complete", f"job/{name}", "--timeout=120s")
    assert kubectl("logs", f"job/{name}") == "42\n"
    atexit.register(kubectl, "delete", "job", name, "--wait=false")


TASKS: dict[str, dict[str, Task]] = {
    "local": {"one": fresh_python, "separate": fresh_pythons, "map": fresh_pythons},
    "slurm": {"one": separate, "separate": separate, "map": array},
    "sge": {"one": sge_separate, "separate": sge_separate, "map": sge_array},
    "ssh": {"one": ssh_true, "separate": ssh_trues, "map": ssh_trues},
    "kubernetes": {"one": kubernetes_job},
}

if __name__ == "__main__":
    serve(TASKS[sys.argv[1]])
