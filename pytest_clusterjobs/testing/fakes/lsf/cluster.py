"""The fake LSF's jobs: how they start, what ends them, and the report of each."""

from __future__ import annotations

import os
import pwd
import signal
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from pytest_clusterjobs.testing.fakes.cluster import (
    DELETED,
    ENDED,
    HELD,
    QUEUED,
    RUNNING,
    TIME_LIMIT,
    FakeCluster,
    FakeJob,
    Queue,
)


@dataclass(frozen=True, slots=True)
class Version:
    """A release, and what sets it apart."""

    #: The first line of ``lsid``.
    title: str
    #: True: IBM's, with termination reasons, fields for exit codes, enforced limits on memory, and more options.
    is_ibm: bool = False
    #: True: bjobs knows ``-o``, ``-json`` and ``-UF``.
    has_json: bool = True
    #: Bytes in a unit of ``-M``.
    limit_unit: int = 2**10


VERSIONS = {
    "10.1": Version("IBM Spectrum LSF Standard 10.1.0.14, Jun 10 2023", is_ibm=True),
    "volclava-2.2": Version("volclava project 2.2, Nov 20 2026", limit_unit=2**20),
    "openlava-3.0": Version("openlava project 3.0, Nov 20 2014", has_json=False),
}

QUEUES = [
    {"name": "short", "priority": 40, "status": "Open:Active", "run_limit_min": 10},
    {"name": "normal", "priority": 30, "status": "Open:Active", "run_limit_min": None},
    {"name": "held", "priority": 20, "status": "Open:Inact", "run_limit_min": None},
    {"name": "closed", "priority": 20, "status": "Closed:Active", "run_limit_min": None},
]

#: What a fake LSF is made of unless a test says otherwise.
SETTINGS: dict[str, Any] = {
    "version": "10.1",
    "queues": QUEUES,
    "default_queue": "normal",
    "host": "lsfhost",
    "cluster": "rig",
    "max_array": 1000,
    "clean_period_s": 3600.0,  # how long bjobs remembers ended jobs
    "minute_s": 60.0,  # seconds in a minute of -W
    "max_pending": None,
    "retry_s": 60.0,  # after which bsub tries again where too many jobs wait
    "outage": "",  # "mbatchd", "lim": clients wait and say so; "hung": they wait, and what bsub brought is done
    "lost_replies": 0,  # so many next submissions are taken and not answered
    "copied_at": None,  # seconds since 1970: bjobs is answered from a copy of the queue that was made then
    "enforces_memory": None,  # True: jobs above -M are ended (LSB_MEMLIMIT_ENFORCE); None: with IBM's only
    "is_scheduling": True,
    "end_delay_s": 0.0,
}

_MEMORY_TURN_S = 0.05
# What the OpenLava family wraps a job in: sbatchd ignores HUP, and the shell traps TERM, USR1, USR2, INT and HUP.
_WRAPPER = """\
trap '' HUP
trap '#' 15 10 12 2
"$LSB_JOBFILENAME.shell"
ExitStat=$?
wait
true
exit `expr $? "|" $ExitStat`
"""


class FakeLsf(FakeCluster):
    """LSF's queue. A job is ended by INT, TERM and KILL; at its run limit ten minutes after a USR2 (bsub(1), -W)."""

    delete_signals = ((signal.SIGINT, 2.0), (signal.SIGTERM, 2.0))
    limit_signals = ((signal.SIGUSR2, 600.0), *delete_signals)

    def may_start(self, queue: Queue, job: FakeJob) -> bool:
        status = {each["name"]: each["status"] for each in queue.setting("queues")}
        return job.facts["is_readable"] and not str(status[job.facts["queue"]]).endswith("Inact")

    def prepare(self, job: FakeJob) -> Mapping[str, str]:
        with self.look() as queue:
            host, is_ibm = queue.setting("host"), VERSIONS[queue.setting("version")].is_ibm
            is_enforced = queue.setting("enforces_memory")
        spool = self._spool(job)
        _write(f"{spool}.shell", job.facts["script"])
        if job.facts.get("memory_bytes") and (is_ibm if is_enforced is None else is_enforced):
            _fork_watcher(os.getpid(), int(job.facts["memory_bytes"]), f"{spool}.memory")
        many = {"LSB_DJOB_NUMPROC": str(job.cores)} if is_ibm else {}
        return {
            "LSB_JOBID": str(job.number),
            "LSB_JOBINDEX": str(job.element or 0),
            "LSB_BATCH_JID": written_id(job),
            "LSB_JOBNAME": job.facts["name"] or job.name,
            "LSB_QUEUE": job.facts["queue"],
            "LSB_HOSTS": " ".join([host] * job.cores),
            "LSB_MCPU_HOSTS": f"{host} {job.cores} ",
            "LSB_JOBFILENAME": spool,
            "LS_SUBCWD": job.cwd,
            **many,
        }

    def finish(self, job: FakeJob) -> None:
        spool = self._spool(job)
        if os.path.exists(f"{spool}.memory"):
            with open(f"{spool}.memory", encoding="ascii") as file:
                job.facts.update(why="TERM_MEMLIMIT", held_bytes=int(file.read()))
        for path, output in ((job.facts["out"], f"{spool}.out"), (job.facts["err"], f"{spool}.err")):
            with suppress(OSError), open(output, "rb") as file:  # a missing directory loses the output
                _append(path, job, file.read())
        for ending in (".shell", ".out", ".err", ".memory"):
            with suppress(FileNotFoundError):
                os.unlink(spool + ending)

    def _spool(self, job: FakeJob) -> str:
        return os.path.join(self.directory, f"job.{job.number}.{job.element or 0}")

    def wrapped(self, number: int, element: int | None, has_err: bool) -> dict[str, Any]:
        """Give what is run and where its output goes until its end."""
        spool = os.path.join(self.directory, f"job.{number}.{element or 0}")
        out = f"{spool}.out"
        return {"argv": ["/bin/sh", "-c", _WRAPPER], "stdout": out, "stderr": f"{spool}.err" if has_err else out}


def _write(path: str, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o700), "w", encoding="utf-8") as file:
        file.write(text)


def _append(path: str | None, job: FakeJob, output: bytes) -> None:
    if path is None:
        return
    place = path.replace("%J", str(job.number)).replace("%I", str(job.element or 0))
    head = f"Sender: LSF System\nSubject: Job {written_id(job)}: <{full_name(job)}>\n\nThe output (if any) follows:\n\n"
    with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
        file.write(head.encode() + output)


# ---------------------------------------------------------------- the limit on memory


def _fork_watcher(shepherd: int, limit_bytes: int, mark: str) -> None:
    """Have a process that ends the job when it takes too much, and leaves a mark."""
    if os.fork():
        return
    try:
        while os.getppid() == shepherd:
            others = [pid for pid in _below(shepherd) if pid != os.getpid()]
            if (held := sum(map(_resident_bytes, others))) > limit_bytes:
                _write(mark, str(held))
                for number, patience_s in FakeLsf.delete_signals:
                    _signal(others, number)
                    _wait_for_end(others, patience_s)
                _signal(others, signal.SIGKILL)
                return
            time.sleep(_MEMORY_TURN_S)
    finally:
        os._exit(0)


def _wait_for_end(pids: Iterable[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(map(_resident_bytes, pids)) and time.monotonic() < deadline:
        time.sleep(_MEMORY_TURN_S)


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _below(pid: int) -> list[int]:
    found, todo = [], [pid]
    while todo:
        each = todo.pop()
        with suppress(OSError), open(f"/proc/{each}/task/{each}/children", encoding="ascii") as file:
            children = [int(word) for word in file.read().split()]
            found += children
            todo += children
    return found


def _resident_bytes(pid: int) -> int:
    with suppress(OSError, IndexError), open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


# ---------------------------------------------------------------- words for a job


def written_id(job: FakeJob) -> str:
    """Write a job's id: ``7``, ``7[3]``."""
    return str(job.number) if job.element is None else f"{job.number}[{job.element}]"


def full_name(job: FakeJob) -> str:
    """Write a job's name with its place in its array."""
    return job.name if job.element is None else f"{job.name}[{job.element}]"


def command_of(script: str) -> str:
    """Write a script as LSF shows a command: what bsub was given, lines joined by semicolons."""
    return script.removeprefix("#!/bin/sh\n").strip().replace("\n", ";")


def state_of(job: FakeJob) -> str:
    """Give LSF's word for a job's state."""
    if job.state == ENDED:
        return "DONE" if job.exit_code == 0 else "EXIT"
    return {HELD: "PSUSP", QUEUED: "PEND"}.get(job.state, "RUN")


def as_of(job: FakeJob, moment: float) -> FakeJob | None:
    """Give a job as it was; None before it was submitted."""
    if job.submitted_at > moment:
        return None
    if (job.started_at or 0) > moment:
        return replace(job, state=QUEUED, started_at=None, ended_at=None, pid=None, exit_code=None, signal=None)
    if (job.ended_at or 0) > moment:
        state = QUEUED if job.pid is None else RUNNING
        return replace(job, state=state, ended_at=None, exit_code=None, signal=None, cause="")
    return job


def why_ended(job: FakeJob) -> str:
    """Give IBM's reason for an end that LSF itself brought about, or ""."""
    if job.facts.get("why") == "TERM_MEMLIMIT":
        return "TERM_MEMLIMIT: job killed after reaching LSF memory usage limit"
    if job.cause == TIME_LIMIT:
        return "TERM_RUNLIMIT: job killed after reaching LSF run time limit"
    return "TERM_OWNER: job killed by owner" if job.cause == DELETED and state_of(job) == "EXIT" else ""


def user_name() -> str:
    """Give the name of whoever runs this."""
    return pwd.getpwuid(os.geteuid()).pw_name
