"""What is measured. Each benchmark gives rows; their bars are promises of the project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks.evidence import validation
from benchmarks.measure import Contestant, Plan, Row, contestants, kubernetes, race, slurm, sshd, take_turns, throw_away

RAW_LOCAL = "fresh `python -c pass`"
MIB = 2**20

# Commands that ask the scheduler about jobs or about itself.
_ASKING = ("squeue", "scontrol", "sacct", "sinfo")

_PLAIN_SUITE = """\
import pytest

@pytest.mark.parametrize("number", range(20))
def test_plain(number):
    assert number < 20
"""

_WAITING_SUITE = """\
import time
import pytest
from pytest_clusterjobs import cluster

@cluster
def nap(number):
    time.sleep({seconds})
    return number

@pytest.mark.real_world
@pytest.mark.parametrize("part", range({tests}))
def test_jobs(part):
    assert nap.map(range({jobs})) == list(range({jobs}))
    with open("{log}", "a") as log:
        print(time.time(), "end", file=log)
"""

_COUNTING = """\
#!/bin/sh
[ "$1" = --version ] || echo "$(date +%s.%N) {command}" >>"{log}"
exec {real} "$@"
"""


def idle(plan: Plan) -> Iterator[Row]:
    """What a suite without cluster tests pays."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test_plain.py").write_text(_PLAIN_SUITE)
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        measures = {
            "ours": lambda: _seconds_of(argv, folder, os.environ),
            "floor": lambda: _seconds_of([*argv, "-p", "no:clusterjobs"], folder, os.environ),
        }
        take_turns(measures, 1)  # compiles what is not compiled yet
        samples = take_turns(measures, plan.turns())
    yield Row("idle, in a suite without cluster tests", "pytest `-p no:clusterjobs`", "ms", 15, samples)


def local(plan: Plan) -> Iterator[Row]:
    """Jobs on this machine."""
    cores = len(os.sched_getaffinity(0))
    with contestants("local") as field:
        first = race(field, "one", 1, 1)
        yield Row("the first local job of a process", RAW_LOCAL, "x", None, first)
        yield Row("one local job", RAW_LOCAL, "x", 3, race(field, "one", 1, plan.turns()))
        many, turns = plan.count(100), plan.turns(0.3)
        floor = f"{RAW_LOCAL}, {cores} at a time"
        yield Row("100 local jobs", floor, "x", 2.5, race(field, "separate", many, turns))
        yield Row("100 local jobs, `map`", floor, "x", 2.5, race(field, "map", many, turns))


def local_1000(plan: Plan) -> Iterator[Row]:
    """Many jobs of one process: neither its memory nor the time for each job may grow."""
    peaks: list[float] = []

    def time_of_each(count: int) -> float:
        with Contestant("ours", "local") as process:
            process.ask("one", 1)
            answer = process.ask("separate", count)
            peaks.append(answer["peak_rss_bytes"] / MIB)
        return float(answer["seconds"]) / count

    many, few = (12, 4) if plan.is_quick else (1000, 100)
    measures = {"ours": lambda: time_of_each(many), "floor": lambda: time_of_each(few)}
    samples = take_turns(measures, plan.turns(0.15))
    yield Row("each of 1,000 local jobs", "each of 100 local jobs", "x", 1.1, samples)
    # "Less than 150 MB" of the process that submits and holds a thousand futures.
    yield Row("peak memory of the process", "", "MiB", 150e6 / MIB, {"ours": peaks[::2]})


def slurm_stock(plan: Plan) -> Iterator[Row]:
    """Jobs on Slurm as it is installed: its controller looks at the queue every second."""
    with slurm():
        yield from _on_slurm(plan, "Slurm", plan.turns(0.5), plan.turns(0.25))


def slurm_quick(plan: Plan) -> Iterator[Row]:
    """Jobs on a Slurm whose controller looks at the queue every 50 ms: less of the floor is waiting."""
    with slurm(tick_ms=50):
        yield from _on_slurm(plan, "quick Slurm", plan.turns(), plan.turns(0.4))


def _on_slurm(plan: Plan, where: str, turns_of_one: int, turns_of_many: int) -> Iterator[Row]:
    many = plan.count(100)
    with contestants("slurm") as field:
        race(field, "one", 1, 1)
        one = race(field, "one", 1, turns_of_one)
        yield Row(f"one job on {where}", "`sbatch`, and a look every 10 ms", "x", 1.3, one)
        array = race(field, "map", many, turns_of_many)
        yield Row(f"100 jobs on {where}, `map`", "`sbatch --array`", "x", 1.2, array)
        separate = race(field, "separate", many, turns_of_many)
        yield Row(f"100 jobs on {where}, separate", "100 times `sbatch`", "x", 1.5, separate)


def sge(plan: Plan) -> Iterator[Row]:
    """Jobs on a Grid Engine whose scheduler is woken by each submission and each end."""
    with throw_away("sge", slots=16), contestants("sge") as field:
        race(field, "one", 1, 1)
        samples = race(field, "one", 1, plan.turns(0.5))
        yield Row("one job on Grid Engine", "`qsub`, and a look every 10 ms", "x", 1.3, samples)
        many, turns = plan.count(50), plan.turns(0.15)
        yield Row("50 jobs on Grid Engine, `map`", "`qsub -t`", "x", 1.3, race(field, "map", many, turns))
        yield Row("50 jobs on Grid Engine, separate", "50 times `qsub`", "x", 1.5, race(field, "separate", many, turns))


def ssh(plan: Plan) -> Iterator[Row]:
    """Jobs on a host without a scheduler."""
    with sshd(), contestants("ssh") as field:
        race(field, "one", 1, 2)
        floor = "`ssh HOST true`, connected"
        yield Row("one job over ssh", floor, "x", 1.5, race(field, "one", 1, plan.turns()))
        many, turns = plan.count(50), plan.turns(0.3)
        floor = f"{floor}, {len(os.sched_getaffinity(0))} at a time"
        yield Row("50 jobs over ssh", floor, "x", 1.5, race(field, "separate", many, turns))
        yield Row("50 jobs over ssh, `map`", floor, "x", 1.5, race(field, "map", many, turns))


def on_kubernetes(plan: Plan) -> Iterator[Row]:
    """Jobs on Kubernetes: on the one that the tests build, as root."""
    with kubernetes(), contestants("kubernetes") as field:
        race(field, "one", 1, 1)
        samples = race(field, "one", 1, plan.turns(0.5))
        yield Row("one job on Kubernetes", "`kubectl create`, `wait`, `logs`", "x", 1.3, samples)


def queries(plan: Plan) -> Iterator[Row]:
    """How often the scheduler is asked while 100 jobs of 20 s run."""
    with slurm(cpus=32):
        for workers in (1, 4):
            who = "one pytest" if workers == 1 else f"pytest -n {workers}"
            meanwhile, in_all = _queries_in_5_s(workers, plan.count(100) // workers, 1 if plan.is_quick else 20)
            yield Row(f"queries in 5 s while 100 jobs run, {who}", "", "queries", 1, {"ours": [meanwhile]})
            yield Row(f"the same with those before and after, {who}", "", "queries", None, {"ours": [in_all]})


def peers(plan: Plan) -> Iterator[Row]:
    """The same beside submitit and PSI/J with their defaults; they need ``--peers``."""
    if plan.peers is None:
        return
    many = plan.count(100)
    with contestants("local", plan.peers) as field:
        yield from _beside_peers("local", field, many, plan.turns(0.15))
    with slurm(), contestants("slurm", plan.peers) as field:
        yield from _beside_peers("Slurm", field, many, plan.turns(0.15))


def _beside_peers(where: str, field: Mapping[str, Contestant], many: int, turns: int) -> Iterator[Row]:
    floor = RAW_LOCAL if where == "local" else "`sbatch`"

    def from_a_tick() -> None:
        """Have each start where a raw job has just ended, so that all see the same part of the scheduler's second."""
        field["floor"].seconds("one")

    race(field, "one", 1, 1)
    yield Row(f"one {where} job", floor, "x", None, race(field, "one", 1, turns, from_a_tick))
    yield Row(f"100 {where} jobs, separate", floor, "x", None, race(field, "separate", many, turns, from_a_tick))
    arrays = {name: each for name, each in field.items() if name != "PSI/J"}
    yield Row(f"100 {where} jobs, as an array", floor, "x", None, race(arrays, "map", many, turns, from_a_tick))


def _queries_in_5_s(workers: int, jobs: int, seconds: int) -> tuple[float, float]:
    """Run a suite of ``workers`` tests, each with an array of jobs; its commands that ask Slurm note when they do so.

    Returns:
        From the first submission until the first of the tests has all its values, and for the whole session.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder, log = Path(name), Path(name) / "log"
        suite = _WAITING_SUITE.format(seconds=seconds, tests=workers, jobs=jobs, log=log)
        (folder / "test_waiting.py").write_text(suite)
        (folder / "bin").mkdir()
        for command in ("sbatch", *_ASKING):
            counting = folder / "bin" / command
            counting.write_text(_COUNTING.format(command=command, log=log, real=shutil.which(command)))
            counting.chmod(0o755)
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--cluster=slurm"]
        path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        took = _seconds_of([*argv, *(["-n", str(workers)] if workers > 1 else [])], name, {**os.environ, "PATH": path})
        noted = sorted((float(moment), word) for moment, word in map(str.split, log.read_text().splitlines()))
    begin = min(moment for moment, word in noted if word == "sbatch")
    end = min(moment for moment, word in noted if word == "end")
    asked = [moment for moment, word in noted if word in _ASKING]
    return 5 * sum(begin < moment < end for moment in asked) / (end - begin), 5 * len(asked) / took


def _seconds_of(argv: list[str], folder: str, environment: Mapping[str, str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return time.perf_counter() - began


#: Name -> benchmark, in the order in which they run.
BENCHMARKS: dict[str, Callable[[Plan], Iterator[Row]]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        idle,
        local,
        local_1000,
        validation,
        slurm_stock,
        slurm_quick,
        sge,
        ssh,
        on_kubernetes,
        queries,
        peers,
    )
}
