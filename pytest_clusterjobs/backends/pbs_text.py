"""What PBS prints, and what it means: its text forms, which hold whatever any user put into a job.

The JSON forms are not read: 23.06.06 writes invalid JSON for some values of the environment of any user's job, and
newer versions give only the first of several jobs that are asked about. The text forms have neither fault.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from pytest_clusterjobs.backends.base import Partition
from pytest_clusterjobs.core.resources import Resources
from pytest_clusterjobs.core.state import ExitReason, JobState, JobStatus
from pytest_clusterjobs.core.units import parse_duration, parse_memory

# PBS Reference Guide 2022.1, "Job States" and "Job Array States", in its order; C is Torque's word for F.
STATES: dict[str, JobState] = {
    "B": JobState.RUNNING,  # an array of which something has started
    "C": JobState.COMPLETED,
    "E": JobState.RUNNING,  # it has ended, and its files are being delivered
    "F": JobState.COMPLETED,
    "H": JobState.PENDING,
    "M": JobState.UNKNOWN,  # moved to another server
    "Q": JobState.PENDING,
    "R": JobState.RUNNING,  # also after qdel, until it has ended
    "S": JobState.RUNNING,
    "T": JobState.PENDING,  # on its way to another queue
    "U": JobState.RUNNING,  # suspended while somebody uses the workstation
    "W": JobState.PENDING,
    "X": JobState.COMPLETED,  # an element that has ended, in an array that has not
}

# job.h of OpenPBS 23.06.06, JOB_EXEC_*: statuses that no program can give. All others below 0: it could not be started.
_STATUSES: dict[int, ExitReason] = {
    -4: ExitReason.NODE_FAILURE,  # its execution daemon was started again, as after the node was
    -5: ExitReason.NODE_FAILURE,  # the same, of a job with a checkpoint
    -6: ExitReason.NODE_FAILURE,
    -14: ExitReason.NODE_FAILURE,  # one of its other nodes was lost
    -20: ExitReason.NODE_FAILURE,  # its node was down for longer than the server's node_fail_requeue
    -24: ExitReason.NONZERO_EXIT,  # ncpus, burst
    -25: ExitReason.NONZERO_EXIT,  # ncpus, sum
    -26: ExitReason.OUT_OF_MEMORY,  # vmem
    -27: ExitReason.OUT_OF_MEMORY,  # mem
    -28: ExitReason.TIMEOUT,  # cput
    -29: ExitReason.TIMEOUT,  # walltime
    -31: ExitReason.OUT_OF_MEMORY,  # memory of high bandwidth
    -32: ExitReason.NODE_FAILURE,  # its daemon does not know it any more
}
# status_subjob in stat_job.c of OpenPBS 23.06.06; PBS User's Guide 2024.1, 8.4.6. An element that never ran, or whose
# history is not kept, is shown with its array's attributes, Exit_status and substate among them. Nothing is its own but
# the state and one of these comments.
_SUBJOBS: dict[str, tuple[JobState, ExitReason | None, int | None]] = {
    "Subjob finished": (JobState.COMPLETED, None, 0),
    "Subjob failed": (JobState.FAILED, ExitReason.NONZERO_EXIT, None),
    "Subjob terminated": (JobState.CANCELLED, ExitReason.CANCELLED_OUTSIDE, None),
}
_SIGNALLED = 256  # Exit_status of a job whose shell a signal ended: 256 and the signal
_DELETED = "91"  # substate of a job that was deleted
_NEVER = "Can Never Run"
# The server's own hold, after 20 starts that have failed; only an administrator can release it.
_FAILED_STARTS = "too many failed attempts to run"
_WHY_FAILED = "do the nodes know the user, and do they see the home and work directories?"

_HEADER = re.compile(r"(Job Id|Server|Queue): (\S+)\s*")
_ATTRIBUTE = re.compile(r" {4,5}([A-Za-z][\w.-]*) = (.*)")


class Entry(NamedTuple):
    """One job, server, queue or node."""

    #: Its id or name.
    name: str
    #: Its attributes as they are written, e.g. ``Resource_List.ncpus``.
    attributes: dict[str, str]


def parse_entries(text: str) -> Iterator[Entry]:
    """Read ``qstat -f``, ``qstat -B -f``, ``qstat -Q -f`` or ``pbsnodes -a``, folded lines or not.

    Values may hold newlines: a line that begins nothing belongs to the value before it.
    """
    entry: Entry | None = None
    kind = last = ""
    is_after_blank = True
    for line in text.split("\n"):
        found, attribute = _HEADER.fullmatch(line), _ATTRIBUTE.fullmatch(line)
        starts = (found and found[1] == (kind or found[1])) or (not kind and line.strip() and not line[0].isspace())
        if is_after_blank and starts:
            if entry is not None:
                yield entry
            kind = found[1] if found else ""
            entry, last = Entry(found[2] if found else line.strip(), {}), ""
        elif entry is not None and attribute:
            last = attribute[1]
            entry.attributes.setdefault(last, attribute[2])
        elif entry is not None and last and line:
            entry.attributes[last] += line.removeprefix("\t")
        is_after_blank = not line
    if entry is not None:
        yield entry


def status_of(job: Mapping[str, str]) -> JobStatus:
    """Translate a job's attributes, by whatever command they were shown."""
    return replace(_status_of(job), resources=counted_resources(job))


def counted_resources(job: Mapping[str, str]) -> Resources:
    """Read how the server counts a job's resources: all chunks together, and they are alike."""
    asked = {name: job.get(f"Resource_List.{name}", "").strip() for name in ("nodect", "ncpus", "ngpus")}
    count = {name: int(text) if text.isdigit() else None for name, text in asked.items()}
    memory, limit = job.get("Resource_List.mem", "").strip(), job.get("Resource_List.walltime", "").strip()
    nodes = count["nodect"] or 1
    return Resources(
        cores=None if count["ncpus"] is None else count["ncpus"] // nodes,
        memory_bytes=parse_memory(memory) // nodes if re.fullmatch(r"[1-9]\d*([kmgt]?b)?", memory) else None,
        gpus=None if count["ngpus"] is None else count["ngpus"] // nodes,
        nodes=count["nodect"],
        time_limit_s=parse_duration(limit) if re.fullmatch(r"\d+:\d\d:\d\d", limit) else None,
        partition=_queue(job.get("queue", "").strip(), job.get("Variable_List", "")),
    )


def _queue(now: str, variables: str) -> str | None:
    """Give the queue that a job was given to; None where a routing queue has handed it on (qmgr(8B), queue_type)."""
    submitted_to = re.search(r"(?:^|,)PBS_O_QUEUE=([^,]*)", variables)
    return now if now and (submitted_to is None or submitted_to[1] == now) else None


def _status_of(job: Mapping[str, str]) -> JobStatus:
    word = job.get("job_state", "").strip()
    comment = job.get("comment", "").strip()
    nodes = _nodes(job.get("exec_host", ""))
    # Of a job that may not be started again, these are starts that have failed: nothing of it has run twice.
    runs = job.get("run_count", "") if job.get("Rerunable", "").strip() != "False" else ""
    restarts = max(0, int(runs) - 1) if runs.isdigit() else 0
    state = STATES.get(word, JobState.UNKNOWN)
    if state is JobState.COMPLETED:
        return _ended(word, job, comment, nodes, restarts)
    if state is JobState.PENDING:
        is_hopeless = comment.startswith(_NEVER)
        holds = job.get("Hold_Types", "n")
        if _FAILED_STARTS in comment and "s" in holds:
            why = f"{comment}; {_WHY_FAILED}"
            return JobStatus(state, word, ExitReason.LAUNCH_FAILURE, why, is_hopeless=True, restarts=restarts)
        detail = comment or (f"held ({holds})" if word == "H" else "")
        return JobStatus(state, word, None, detail, is_hopeless, restarts=restarts)
    return JobStatus(state, word, None, "", nodes=nodes, restarts=restarts)


def _ended(word: str, job: Mapping[str, str], comment: str, nodes: str, restarts: int) -> JobStatus:
    if comment in _SUBJOBS:
        state, why, exit_code = _SUBJOBS[comment]
        return JobStatus(state, word, why, comment, exit_code=exit_code)
    text = job.get("Exit_status", job.get("exit_status", "")).strip()
    number = int(text) if re.fullmatch(r"-?\d+", text) else None
    state, reason, code, signal = JobState.FAILED, ExitReason.NONZERO_EXIT, number, None
    if number is not None and number > _SIGNALLED:
        reason, code, signal = ExitReason.SIGNAL, None, number - _SIGNALLED
    if job.get("substate", "").strip() == _DELETED:
        state, reason = JobState.CANCELLED, ExitReason.CANCELLED_OUTSIDE
    elif number is None:
        state, reason = JobState.FAILED, ExitReason.LOST
        comment = f"PBS has no exit status of it: {comment}"
    elif number == 0:
        return JobStatus(JobState.COMPLETED, word, None, comment, exit_code=0, nodes=nodes, restarts=restarts)
    elif number < 0:
        reason, code = _STATUSES.get(number, ExitReason.LAUNCH_FAILURE), None
        comment = f"Exit_status {number}: {comment}"
    return JobStatus(state, word, reason, comment, False, code, signal, nodes, restarts)


# The hook for control groups ends any job's output with the second, and with nothing after the colon where the kernel
# has killed nothing.
_KILLED = re.compile(r"=>> PBS: (job killed: (\w+) .*)|(Cgroup (mem(?:ory|sw)?) limit exceeded: *\S.*)")
_KILLED_FOR = {
    "walltime": ExitReason.TIMEOUT,
    "cput": ExitReason.TIMEOUT,
    "mem": ExitReason.OUT_OF_MEMORY,
    "memory": ExitReason.OUT_OF_MEMORY,
    "memsw": ExitReason.OUT_OF_MEMORY,
    "vmem": ExitReason.OUT_OF_MEMORY,
}


def parse_log(text: str) -> JobStatus | None:
    """Read what the execution daemon wrote to a job's errors; None when it ended the job for none of its limits."""
    found = _KILLED.search(text)
    if found is None:
        return None
    return JobStatus(
        JobState.FAILED, "killed", _KILLED_FOR.get(found[2] or found[4], ExitReason.SIGNAL), found[1] or found[3]
    )


def _nodes(exec_host: str) -> str:
    """Read ``exec_host``, e.g. ``node1/0*2+node2/1``: each node once."""
    return ",".join(dict.fromkeys(part.partition("/")[0] for part in exec_host.split("+") if part))


def parse_queues(text: str, default: str) -> tuple[Partition, ...]:
    """Read ``qstat -Q -f``; ``default`` is the server's default queue. Routing queues are queues, too."""
    return tuple(
        Partition(
            entry.name,
            entry.name == default,
            max_time_s=_limit(entry.attributes.get("resources_max.walltime")),
            status=_queue_status(entry.attributes),
        )
        for entry in parse_entries(text)
    )


def _queue_status(queue: Mapping[str, str]) -> str:
    wrong = [
        word
        for attribute, word in (("enabled", "not enabled"), ("started", "not started"))
        if queue.get(attribute) != "True"
    ]
    return ", ".join(wrong) or "up"


def _limit(text: str | None) -> float | None:
    return None if text is None else float(text) if text.isdigit() else parse_duration(text)


class Nodes(NamedTuple):
    """What the nodes that are up have."""

    #: How many there are, those that are down too.
    total: int
    #: How many are up.
    up: int
    #: Cores of the largest that is up, or None.
    cores: int | None
    #: GPUs of all that are up, or None where no node tells.
    gpus: int | None


_NOT_UP = re.compile(r"down|offline|state-unknown|stale|unresolvable|provisioning|maintenance|sleep")


def parse_nodes(text: str) -> Nodes:
    """Read ``pbsnodes -a``."""
    entries = list(parse_entries(text))
    there = [entry.attributes for entry in entries if not _NOT_UP.search(entry.attributes.get("state", ""))]
    cores = [int(found) for node in there if (found := node.get("resources_available.ncpus", "")).isdigit()]
    gpus = [int(found) for node in there if (found := node.get("resources_available.ngpus", "")).isdigit()]
    return Nodes(len(entries), len(there), max(cores, default=None), sum(gpus) if gpus else None)


def parse_version(text: str) -> str:
    """Read ``qstat --version``: ``pbs_version = 23.06.06``; "" when it says something else."""
    found = re.search(r"pbs_version\s*=\s*(\S+)", text)
    return found[1] if found else ""


def is_at_least(version: str, year: int) -> bool:
    """Tell whether a version is of a year's release or newer; one that cannot be read is."""
    found = re.match(r"(\d+)\.", version)
    return not found or int(found[1]) % 2000 >= year
