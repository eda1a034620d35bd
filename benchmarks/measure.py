"""How things are measured: contestants take turns, A B A B, so that a busy machine is busy for all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from pytest_clusterjobs.clusters import base

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    #: Only show that everything runs: few jobs, short ones, one turn.
    is_quick: bool = False
    #: Pairs of measures for what takes well below a second; slower things get fewer.
    pairs: int = 21
    #: The Python in which the peers are installed; None leaves them out.
    peers: str | None = None

    def turns(self, share: float = 1.0) -> int:
        """Give how many pairs to measure of something that deserves a share of them."""
        return 1 if self.is_quick else max(3, round(self.pairs * share))

    def count(self, jobs: int) -> int:
        """Give how many jobs to make instead of so many."""
        return min(jobs, 4) if self.is_quick else jobs


@dataclass(frozen=True, slots=True)
class Row:
    """A figure and its bar."""

    #: What was measured.
    what: str
    #: What it is compared with, or "".
    floor: str
    #: "x" the floor, "ms" more than the floor, or the unit of ours alone.
    unit: str
    #: The most that is accepted; None: for information.
    bar: float | None
    #: Ours and the floor's, as measured: seconds, unless the unit is another.
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def figure(self) -> float:
        """What the bar is for: the median over the pairs, since the machine may be busier in one than in another."""
        if self.unit == "x":
            return median(a / b for a, b in self.pairs())
        if self.unit == "ms":
            return 1000 * median(a - b for a, b in self.pairs())
        return median(self.samples["ours"])

    @property
    def is_met(self) -> bool:
        """True when the figure is within the bar."""
        return self.bar is None or self.figure <= self.bar

    def pairs(self) -> list[tuple[float, float]]:
        """Give what was measured one after the other."""
        return list(zip(self.samples["ours"], self.samples["floor"], strict=True))

    def spread(self) -> tuple[float, float] | None:
        """Give the quartiles of the pairs' ratios; None where there are no pairs or too few."""
        if self.unit != "x" or len(self.samples["floor"]) < 3:
            return None
        low, _, high = quantiles((a / b for a, b in self.pairs()), n=4, method="inclusive")
        return low, high

    def as_json(self) -> dict[str, Any]:
        """Give everything as JSON holds it."""
        return {
            "what": self.what,
            "floor": self.floor,
            "unit": self.unit,
            "figure": self.figure,
            "bar": self.bar,
            "is_met": self.is_met,
            "medians": {name: median(values) for name, values in self.samples.items()},
            "samples": {name: list(values) for name, values in self.samples.items()},
        }


@contextmanager
def kubernetes() -> Iterator[None]:
    """Have the tests' own Kubernetes up, with this process's environment pointing to it and its kubectl; root only.

    Where ``CLUSTERJOBS_KUBERNETES_IMAGE`` says what runs on the cluster that kubectl speaks to, it is that one.
    """
    if os.environ.get("CLUSTERJOBS_KUBERNETES_IMAGE"):
        yield
        return
    sys.path.insert(0, str(ROOT / "tests"))
    from kubernetes_lane.cluster import booted

    with booted() as cluster:
        path = f"{cluster.programs}{os.pathsep}{os.environ['PATH']}"
        os.environ.update({**cluster.environment, "PATH": path})
        yield


class Contestant:
    """A process that does tasks its own way; see ``contestants/protocol.py``."""

    def __init__(self, module: str, backend: str, python: str = sys.executable) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)
        self._errors = open(os.path.join(self._folder.name, "stderr.log"), "w+", encoding="utf-8")  # noqa: SIM115
        self._process = subprocess.Popen(
            [python, "-m", f"benchmarks.contestants.{module}", backend],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=ROOT,
            env={**os.environ, "CLUSTERJOBS_WORKDIR": os.path.join(self._folder.name, "jobs")},
        )

    def ask(self, task: str, count: int) -> dict[str, Any]:
        """Have a task done and give the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{task} {count}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            code = self._process.wait()
            self._errors.seek(0)
            raise RuntimeError(f"{self._process.args!r} ended with {code} in {task} {count}:\n{self._errors.read()}")
        result: dict[str, Any] = json.loads(answer)
        return result

    def seconds(self, task: str, count: int = 1) -> float:
        """Have a task done and give how long it took."""
        return float(self.ask(task, count)["seconds"])

    def __enter__(self) -> Contestant:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=120)
        self._errors.close()
        self._folder.cleanup()


#: Name of a contestant -> its module. The first two are always there.
CONTESTANTS = {"ours": "ours", "floor": "raw", "submitit": "submitit_peer", "PSI/J": "psij_peer"}


@contextmanager
def contestants(backend: str, peers: str | None = None) -> Iterator[dict[str, Contestant]]:
    """Start ours and the floor, and the peers if there is a Python for them."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(Contestant(module, backend, (peers or "") if index > 1 else sys.executable))
            for index, (name, module) in enumerate(CONTESTANTS.items())
            if index < 2 or peers
        }


def take_turns(
    measures: Mapping[str, Callable[[], float]], turns: int, before: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Measure each in turn, so many times; ``before`` is called, and not measured, before each."""
    samples: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(turns):
        for name, measure in measures.items():
            before()
            samples[name].append(measure())
    return samples


def race(
    field: Mapping[str, Contestant], task: str, count: int, turns: int, before: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Have contestants do a task in turn, so many times, and give their seconds."""
    return take_turns({name: partial(each.seconds, task, count) for name, each in field.items()}, turns, before)


@contextmanager
def throw_away(kind: str, **options: Any) -> Iterator[None]:
    """Have a throw-away cluster of our own, with this process's environment pointing to it."""
    name = f"bench-{os.getpid()}"
    before = dict(os.environ)
    try:
        os.environ.update(base.up(kind, name=name, **options).environment)
        yield
    finally:
        base.down(kind, name)
        os.environ.clear()
        os.environ.update(before)


def slurm(**options: Any) -> AbstractContextManager[None]:
    """Have a throw-away Slurm."""
    return throw_away("slurm", **options)


@contextmanager
def sshd() -> Iterator[None]:
    """Have a throw-away sshd whose host runs jobs with this Python."""
    with throw_away("sshd"), tempfile.TemporaryDirectory(prefix="bench-") as folder:
        configuration = Path(folder, "clusterjobs.yaml")
        host, there = os.environ["CLUSTERJOBS_SSH_HOST"], os.path.join(folder, "there")
        profile = {"host": host, "workdir": there, "python": sys.executable}
        configuration.write_text(json.dumps({"profiles": {"ssh": profile}}), encoding="utf-8")
        os.environ["CLUSTERJOBS_CONFIG"] = str(configuration)
        yield
