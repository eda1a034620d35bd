"""What LSF's commands print, translated: tables, JSON, and the prose that tells how a job ended. Pure functions.

Forms are those of IBM Spectrum LSF 10.1 (its command reference) and of the OpenLava family, recorded from volclava 2.2.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from pytest_clusterjobs.backends.base import Partition, QueuedJob
from pytest_clusterjobs.core.errors import CommandError
from pytest_clusterjobs.core.state import ExitReason, JobState, JobStatus

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks


# bjobs(1) of 10.1, "Job status"; the last two are words of bhist(1), about what comes after the job itself.
STATES: dict[str, tuple[JobState, ExitReason | None]] = {
    "PEND": (JobState.PENDING, None),
    "PROV": (JobState.PENDING, None),  # its host is being started
    "PSUSP": (JobState.PENDING, None),
    "RUN": (JobState.RUNNING, None),
    "USUSP": (JobState.RUNNING, None),
    "SSUSP": (JobState.RUNNING, None),
    "DONE": (JobState.COMPLETED, None),
    "EXIT": (JobState.FAILED, ExitReason.NONZERO_EXIT),
    "UNKWN": (JobState.RUNNING, None),  # its host does not answer: it may well run
    "WAIT": (JobState.PENDING, None),  # for its turn among jobs that were sent to a host together
    "ZOMBI": (JobState.FAILED, ExitReason.NODE_FAILURE),  # killed, or started elsewhere, while its host was away
    "POST_DONE": (JobState.COMPLETED, None),
    "POST_ERR": (JobState.UNKNOWN, None),  # says nothing of the job itself
}

# "Termination reasons displayed by bacct, bhist, and bjobs", LSF 10.1. What is not here leaves the exit code to decide.
TERMINATIONS: dict[str, ExitReason] = {
    "TERM_ADMIN": ExitReason.CANCELLED_OUTSIDE,
    "TERM_BUCKET_KILL": ExitReason.CANCELLED_OUTSIDE,
    "TERM_CPULIMIT": ExitReason.TIMEOUT,
    "TERM_CSM_ALLOC": ExitReason.LAUNCH_FAILURE,
    "TERM_CWD_NOTEXIST": ExitReason.LAUNCH_FAILURE,
    "TERM_DATA": ExitReason.LAUNCH_FAILURE,
    "TERM_DEADLINE": ExitReason.DEADLINE,
    "TERM_FORCE_ADMIN": ExitReason.CANCELLED_OUTSIDE,
    "TERM_FORCE_OWNER": ExitReason.CANCELLED_OUTSIDE,
    "TERM_KUBE": ExitReason.LAUNCH_FAILURE,
    "TERM_LOAD": ExitReason.PREEMPTED,
    "TERM_MC_RECALL": ExitReason.CANCELLED_OUTSIDE,
    "TERM_MEMLIMIT": ExitReason.OUT_OF_MEMORY,
    "TERM_ORPHAN_SYSTEM": ExitReason.DEPENDENCY_FAILED,
    "TERM_OWNER": ExitReason.CANCELLED_OUTSIDE,
    "TERM_PREEMPT": ExitReason.PREEMPTED,
    "TERM_PRE_EXEC_FAIL": ExitReason.LAUNCH_FAILURE,
    "TERM_RC": ExitReason.NODE_FAILURE,
    "TERM_REMOVE_HUNG_JOB": ExitReason.NODE_FAILURE,
    "TERM_REQUEUE_ADMIN": ExitReason.PREEMPTED,
    "TERM_REQUEUE_OWNER": ExitReason.PREEMPTED,
    "TERM_RMS": ExitReason.NODE_FAILURE,
    "TERM_RUNLIMIT": ExitReason.TIMEOUT,
    "TERM_SLURM": ExitReason.NODE_FAILURE,
    "TERM_SWAP": ExitReason.OUT_OF_MEMORY,
    "TERM_WINDOW": ExitReason.DEADLINE,
    "TERM_ZOMBIE": ExitReason.NODE_FAILURE,
}
# What bhist -l of the OpenLava family calls an end that LSF itself brings about, e.g. "MEMLIMIT termination action"...
_ACTIONS = {
    "RUNLIMIT": ExitReason.TIMEOUT,
    "CPULIMIT": ExitReason.TIMEOUT,
    "MEMLIMIT": ExitReason.OUT_OF_MEMORY,
    "DEADLINE": ExitReason.DEADLINE,
    "Window": ExitReason.DEADLINE,
    "Load": ExitReason.PREEMPTED,
}
_CANCELLED = frozenset({ExitReason.CANCELLED_OUTSIDE, ExitReason.DEPENDENCY_FAILED})

#: SIGUSR2, by which LSF ends a job at its run limit (bsub(1), -W).
_LIMIT_SIGNAL = 12

_NEVER = re.compile(r"never satisfied", re.IGNORECASE)
_NONE = frozenset({"", "-"})


def status_of(
    word: str, *, code: int | None = None, signal: int | None = None, why: str = "", pending: str = "", hosts: str = ""
) -> JobStatus:
    """Translate what bjobs says of one job.

    Args:
        word: Its state, e.g. ``PEND``.
        code: Its exit code as LSF gives it: above 128, a signal ended the job's script.
        signal: The signal that ended it, where LSF says so.
        why: A termination reason, e.g. ``TERM_OWNER: job killed by owner``.
        pending: Why it waits.
        hosts: Its hosts, e.g. ``4*hosta:2*hostb`` or ``hosta:hosta``.
    """
    state, reason = STATES.get(word, (JobState.UNKNOWN, None))
    nodes = ",".join(dict.fromkeys(re.sub(r"^\d+\*", "", host) for host in hosts.split(":") if host not in _NONE))
    if word != "EXIT":
        detail = "" if pending in _NONE or state is not JobState.PENDING else pending.strip().rstrip(";")
        if word == "UNKWN":
            detail = "LSF has lost touch with its host"
        is_hopeless = state is JobState.PENDING and bool(_NEVER.search(detail))
        return JobStatus(state, word, reason, detail, is_hopeless, 0 if word == "DONE" else None, nodes=nodes)
    term = re.search(r"TERM_[A-Z_]+", why)
    if signal is None and code is not None and 128 < code <= 128 + 64:
        signal = code - 128
    if signal is not None:
        code, reason = None, ExitReason.SIGNAL
    if term:
        reason = TERMINATIONS.get(term[0], reason)
    elif signal == _LIMIT_SIGNAL:
        reason = ExitReason.TIMEOUT
    elif reason is ExitReason.NONZERO_EXIT and code is None:
        reason = None  # nobody has said anything yet
    state = JobState.CANCELLED if reason in _CANCELLED else JobState.FAILED
    return JobStatus(state, word, reason, why.strip(), False, code, signal, nodes)


# ---------------------------------------------------------------- bjobs, of many


def parse_jobs(text: str, name_prefix: str) -> dict[str, QueuedJob]:
    """Read ``bjobs -json -o ...`` or ``bjobs -w``: only jobs whose name starts with ``name_prefix``.

    Raises:
        CommandError: It is neither, or not whole.
    """
    if "{" not in text and not re.search(r"^JOBID ", text, re.MULTILINE):
        raise CommandError("bjobs printed neither jobs nor that there are none", "lsf", "bjobs", text[-500:])
    rows = _json_rows(text) if "{" in text else _table_rows(text)
    found = {}
    for row in rows:
        name, bracket, index = row.get("JOB_NAME", "").partition("[")
        if not name.startswith(name_prefix) or "STAT" not in row:
            continue
        job_id = row["JOBID"].partition("[")[0]
        native_id = f"{job_id}[{index.rstrip(']')}]" if bracket else job_id
        code = row.get("EXIT_CODE", "")
        status = status_of(
            row["STAT"],
            code=int(code) if code.isdigit() else None,
            why=_value(row.get("EXIT_REASON", "")),
            pending=row.get("PEND_REASON", ""),
            hosts=row.get("EXEC_HOST", ""),
        )
        found[native_id] = QueuedJob(name, status)
    return found


def _value(text: str) -> str:
    return "" if text in _NONE else text


def _json_rows(text: str) -> Iterator[Mapping[str, str]]:
    try:
        answer: Any = json.loads(text[text.index("{") :])  # "LSF is down. Please wait ..." may stand before it
        records = answer["RECORDS"]
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(f"bjobs printed no JSON that is whole: {error}", "lsf", "bjobs -json", text[-500:]) from None
    return ({key: str(value) for key, value in record.items()} for record in records)


def _table_rows(text: str) -> Iterator[Mapping[str, str]]:
    """Read the wide table; there only a job's name may hold blanks, and time takes the last three words of a row."""
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 10 and words[0].isdigit():
            yield {"JOBID": words[0], "STAT": words[2], "EXEC_HOST": words[5], "JOB_NAME": " ".join(words[6:-3])}


def parse_waits(text: str) -> dict[str, str]:
    """Read ``bjobs -p``: why jobs wait, by native id. It cuts names at their beginning, which holds no index."""
    found: dict[str, list[str]] = {}
    native_id = ""
    for line in text.splitlines():
        head = re.match(r"(\d+) +\S+ +(?:PEND|PSUSP) .*?(\[\d+\])? +\S+ +\d+ \d\d:\d\d$", line)
        if head:
            native_id = f"{head[1]}{head[2] or ''}"
        elif line.startswith(" ") and native_id:
            found.setdefault(native_id, []).append(line.strip().rstrip(";"))
    return {key: "; ".join(reasons) for key, reasons in found.items()}


# ---------------------------------------------------------------- bjobs -UF, bjobs -l, bhist -l: of one

_FOLD = re.compile(r"\n {21}")
_EVENT = re.compile(r"^(\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d)(?: \d{4})?: (.*)$", re.MULTILINE)
_STARTED = re.compile(r"(?:\[\d+\] )?(?:[Ss]tarted |Dispatched )")
_ON = re.compile(r"(?:tarted on|on Host\(s\)|Dispatched to) <([^>]+)>")
_KILLED = re.compile(r"Signal <(\w+)> requested by user or administrator <([^>]*)>")


def parse_prose(text: str, native_id: str, name: str = "") -> JobStatus | None:
    """Read what ``bjobs -UF``, ``bjobs -l`` or ``bhist -l`` tells of one job; None when it tells of no such job.

    Args:
        text: What the command printed.
        native_id: The job.
        name: Its submission's name where it is known: numbers begin again, and bhist remembers old jobs.
    """
    unfolded = _FOLD.sub("", text)
    found = None
    for block in re.split(r"^(?=Job <)", unfolded, flags=re.MULTILINE):
        head = re.match(r"Job <([^>]+)>(?:, Job Name <([^>]*)>)?", block)
        if head and head[1] == native_id and (not name or (head[2] or "").partition("[")[0] == name):
            state = re.search(r", Status <(\w+)>", block.partition(", Command <")[0])
            found = _told(block, state[1] if state else "")
    return found


def _told(block: str, word: str) -> JobStatus | None:
    events = [(match[1], match[2].strip()) for match in _EVENT.finditer(block)]
    started = next((index for index in reversed(range(len(events))) if _STARTED.match(events[index][1])), None)
    since = events[started or 0 :]
    hosts = [host for _, text in since for host in _ON.findall(text)][-1:]
    nodes = hosts[0] if hosts else ""
    ends = [event for event in since if re.match(r"Done successfully|Exited", event[1])]
    if not ends:
        return status_of(word, pending=_pending_reason(block), hosts=nodes) if word in STATES else None
    ended_at, end = ends[-1]
    if end.startswith("Done"):
        return status_of("DONE", hosts=nodes)
    said = " ".join(text for _, text in since)
    why = re.search(r"TERM_[A-Z_]+:[^.;]*", said)
    killed = _KILLED.search(said)
    code, signal = re.search(r"exit code (\d+)", end), re.search(r"by signal (\d+)", end)
    status = status_of(
        "EXIT",
        code=int(code[1]) if code else None,
        signal=int(signal[1]) if signal else None,
        why=why[0] if why else "",
        hosts=nodes,
    )
    if why:
        return status
    action = re.search(rf"({'|'.join(_ACTIONS)}) termination action", said)
    if action:
        return _because(status, _ACTIONS[action[1]], action[0])
    if status.signal is not None and started is not None and _has_run_out(block, events[started][0], ended_at):
        return _because(status, ExitReason.TIMEOUT, "")
    if killed:
        return _because(status, ExitReason.CANCELLED_OUTSIDE, f"signal {killed[1]} requested by {killed[2]}")
    if started is None and status.exit_code is None and status.signal is None:
        return _because(status, ExitReason.CANCELLED_OUTSIDE, "it never started")
    return status


def _because(status: JobStatus, reason: ExitReason, detail: str) -> JobStatus:
    state = JobState.CANCELLED if reason in _CANCELLED else JobState.FAILED
    return JobStatus(
        state, status.native_word, reason, detail, False, status.exit_code, status.signal, status.nodes, status.restarts
    )


def _pending_reason(block: str) -> str:
    match = re.search(r"PENDING REASONS:\n (.*)", block)
    return match[1] if match else ""


def _has_run_out(block: str, started_at: str, ended_at: str) -> bool:
    """Tell whether a job ran for as long as it was allowed to: the OpenLava family names no reason."""
    limit_s = parse_run_limit(block)
    if limit_s is None:
        return False
    # No year is told, and a run may last over its end; that of the format is a leap year.
    try:
        first, last = (
            time.mktime(time.strptime(f"2024 {text[4:]}", "%Y %b %d %H:%M:%S")) for text in (started_at, ended_at)
        )
    except ValueError:  # months of another language, behind a login whose locale is not ours to set
        return False
    return (last - first) % (366 * 86400.0) >= limit_s - 1


_SIZE = r"([\d.]+) ?([KMGT])"


def has_outgrown(text: str) -> bool:
    """Tell whether ``bjobs -UF`` or ``-l`` shows a job that held as much memory as its limit allows, or more.

    Only where a signal that nobody sent has ended it, this is the reason: some sites enforce no limit.
    """
    most = re.search(rf"MAX MEM: {_SIZE}", text)
    table = re.search(r"^((?: *[A-Z]+LIMIT)*? *MEMLIMIT) *(?:[A-Z]+LIMIT *)*\n(.*)$", text, re.MULTILINE)
    sizes = re.findall(_SIZE, table[2]) if table else []
    place = len(table[1].split()) - 1 if table else 0
    if most is None or place >= len(sizes):
        return False
    held, limit = (float(number) * 1024.0 ** "KMGT".index(unit) for number, unit in (most.groups(), sizes[place]))
    return held >= limit


def parse_run_limit(text: str) -> float | None:
    """Read the last ``RUNLIMIT`` of a table of limits, in seconds; None when there is none."""
    found = None
    lines = text.splitlines()
    for head, values in pairwise(lines):
        if head.startswith(" ") and (column := head.find("RUNLIMIT")) >= 0 and "=" not in head:
            match = re.match(r"\s*([\d.]+) min", values[max(0, column - 1) :])
            found = float(match[1]) * 60 if match else found
    return found


# ---------------------------------------------------------------- the site


def parse_queues(text: str) -> tuple[Partition, ...]:
    """Read ``bqueues -l``; the table of ``bqueues`` cuts long names."""
    partitions = []
    for block in re.split(r"^QUEUE: ", text, flags=re.MULTILINE)[1:]:
        name, _, told = block.partition("\n")
        row = re.search(r"^PRIO +NICE +STATUS .*\n *\S+ +\S+ +(\S+)", told, re.MULTILINE)
        status = "up" if row is None or row[1] == "Open:Active" else row[1]
        is_default = "This is the default queue" in told
        partitions.append(Partition(name.strip(), is_default, None, parse_run_limit(told), status))
    return tuple(partitions)


def parse_hosts(table: str) -> list[int | None]:
    """Read ``bhosts``: the job slots of each host, None where they are not limited. Names are cut, and may recur."""
    rows = (line.split() for line in table.splitlines()[1:])
    return [int(words[3]) if words[3].isdigit() else None for words in rows if len(words) >= 9]


def why_no_host(table: str) -> str:
    """Read ``bhosts``: say why no job can start anywhere now, "" where one can or there are no hosts."""
    states = [words[1] for words in map(str.split, table.splitlines()[1:]) if len(words) >= 9]
    away = [state for state in states if state in ("unavail", "unreach", "unlicensed", "closed_Adm")]
    return f"no host takes jobs: {', '.join(sorted(set(away)))}" if away and len(away) == len(states) else ""


def parse_cores(table: str) -> int | None:
    """Read ``lshosts``: cores of the largest host, None where none is known."""
    rows = (line.split() for line in table.splitlines()[1:])
    return max((int(words[4]) for words in rows if len(words) >= 5 and words[4].isdigit()), default=None)


def parse_memory_sizes(table: str) -> list[int]:
    """Read ``lshosts``: the memory of each host that tells, in bytes."""
    rows = (line.split() for line in table.splitlines()[1:])
    found = (re.fullmatch(r"([\d.]+)([KMGT])", words[5]) for words in rows if len(words) >= 6)
    return [int(float(match[1]) * 1024 ** (1 + "KMGT".index(match[2]))) for match in found if match]


def parse_parameter(text: str, name: str) -> str:
    """Read ``NAME = value`` from ``bparams -l``, or ``NAME=value`` from lsf.conf; "" when it is not there."""
    match = re.search(rf"^\s*{name}\s*=\s*([^\s#]+)", text, re.MULTILINE)
    return match[1].strip("\"'") if match else ""
