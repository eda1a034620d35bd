"""The fake's server, its queues, its one node, and what happens to a job there."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar

from pytest_clusterjobs.testing.fakes.cluster import TIME_LIMIT, FakeCluster, FakeJob, Queue

#: Flavours: what qstat prints differs between them; both say that they are 23.06.06, as the real ones do.
RELEASE, NEWEST = "23.06.06", "newest"
VERSIONS = (RELEASE, NEWEST)
PBS_VERSION = "23.06.06"

COMMANDS = ("qsub", "qstat", "qdel", "qselect", "pbsnodes", "qmgr")

#: Name -> enabled, started, largest walltime: those of the site that was recorded.
QUEUES: Mapping[str, tuple[bool, bool, str | None]] = {
    "workq": (True, True, None),
    "short": (True, True, "00:10:00"),
    "held": (True, False, None),
    "closed": (False, True, None),
}
DEFAULT_QUEUE = "workq"
MEMORY = "8gb"
#: What can be set, and what is set at first.
SETTINGS: Mapping[str, Any] = {
    "version": RELEASE,
    "slots": 4,
    "history": True,
    "server": "up",
    "node": "up",
    "lost_replies": 0,
    "max_array_size": 10_000,
    "max_jobs": None,
    "gpus": 0,
    "acl_roots": "root@*",
    "is_scheduling": True,
    "end_delay_s": 0.0,
    "unseen_s": 0.0,
    "login_shell": False,
}
INDEX = "^array_index^"


class FakePbs(FakeCluster):
    """OpenPBS with one node.

    Of its `SETTINGS`: ``server`` is up, down or hung; ``node`` is up, or down, so that its jobs cannot be deleted;
    ``lost_replies`` of the next submissions are made and never acknowledged; ``max_jobs`` is how many a user may have,
    or None; without ``acl_roots`` root may run none; for ``unseen_s`` seconds after its submission a job is not shown,
    as where a site answers questions from what it has kept of earlier answers; with ``login_shell`` jobs start in one,
    as PBS starts them: not at first, for what stands in the startup files of whoever runs this may take a minute.
    """

    delete_signals: ClassVar[tuple[tuple[int, float], ...]] = ((signal.SIGTERM, 10.0),)
    limit_signals: ClassVar[tuple[tuple[int, float], ...]] = ((signal.SIGTERM, 10.0),)

    def may_start(self, queue: Queue, job: FakeJob) -> bool:
        facts = shared(queue, job.number)
        return (
            queue.setting("node", "up") == "up"
            and QUEUES[facts["queue"]][1]
            and never_runs(queue, facts) is None
            and self._has_gpus(queue, facts)
        )

    def _has_gpus(self, queue: Queue, facts: Mapping[str, Any]) -> bool:
        wanted = total(facts, "ngpus")
        return not wanted or wanted <= int(queue.setting("gpus", 0)) - used_gpus(queue)

    def prepare(self, job: FakeJob) -> Mapping[str, str]:
        with self.look() as queue:
            facts = shared(queue, job.number)
        folder = os.path.join(self.directory, "aux")
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, job_id(job.number, job.element))
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(f"{host()}\n" for _ in range(facts["chunks"] * int(facts["chunk"].get("mpiprocs", 1))))
        temporary = os.path.join(self.directory, "tmp", f"pbs.{job_id(job.number, job.element)}")
        os.makedirs(temporary, exist_ok=True)
        return {"PBS_NODEFILE": path, "TMPDIR": temporary}

    def finish(self, job: FakeJob) -> None:
        identity = job_id(job.number, job.element)
        if job.cause == TIME_LIMIT and job.time_limit_s is not None:
            used = int((job.ended_at or 0) - (job.started_at or 0)) + 1
            with suppress(OSError), open(job.stderr, "a", encoding="utf-8") as file:
                file.write(f"=>> PBS: job killed: walltime {used} exceeded limit {int(job.time_limit_s)}\n")
        for spooled, target in job.facts.get("deliver", {}).items():
            try:
                shutil.move(spooled, target)
            except OSError:
                job.facts["stageout"] = 0
        with suppress(OSError):
            os.remove(os.path.join(self.directory, "aux", identity))
        shutil.rmtree(os.path.join(self.directory, "tmp", f"pbs.{identity}"), ignore_errors=True)


def host() -> str:
    """Give the name of server and node: this machine's, short."""
    return os.uname().nodename.partition(".")[0]


def job_id(number: int, element: int | None = None, *, is_array: bool = False) -> str:
    """Give an id as PBS writes it."""
    inner = "[]" if is_array else "" if element is None else f"[{element}]"
    return f"{number}{inner}.{host()}"


def shared(queue: Queue, number: int) -> dict[str, Any]:
    """Give what all elements of an array, or the one job, have in common."""
    return dict(queue.setting(f"job {number}", {}))


def total(facts: Mapping[str, Any], resource: str) -> int:
    """Give how much of a countable resource a job asks for, over all its chunks."""
    return int(facts["chunks"]) * int(facts["chunk"].get(resource, 0))


def used_gpus(queue: Queue) -> int:
    """Give the number of GPUs that are taken."""
    return sum(total(shared(queue, job.number), "ngpus") for job in queue.jobs("running", "ending"))


def never_runs(queue: Queue, facts: Mapping[str, Any]) -> str | None:
    """Say why no state of the cluster would let a job start, or give None."""
    slots = int(queue.setting("slots", 1))
    if facts["chunks"] > 1 and "scatter" in facts["place"]:
        return "Not enough total nodes available"
    memory = facts["chunk"].get("mem", "0")
    for resource, wanted, there in (
        ("ncpus", total(facts, "ncpus"), slots),
        ("ngpus", total(facts, "ngpus"), int(queue.setting("gpus", 0))),
    ):
        if wanted > there:
            return f"Insufficient amount of resource: {resource} (R: {wanted} A: {there} T: {there})"
    if facts["chunks"] * kilobytes(memory) > kilobytes(MEMORY):
        return f"Insufficient amount of resource: mem (R: {memory} A: {MEMORY} T: {MEMORY})"
    return None


def kilobytes(text: str) -> int:
    """Read a size, e.g. ``64mb``; bytes are rounded up."""
    match = re.fullmatch(r"(\d+)([kmgt]?)b?", text, re.IGNORECASE)
    if not match:
        raise ValueError(text)
    number, unit = int(match[1]), match[2].lower()
    return number * 1024 ** "kmgt".index(unit) if unit else -(-number // 1024)
