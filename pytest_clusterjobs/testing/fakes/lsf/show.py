"""How the fake LSF writes about jobs: tables, JSON and prose, in the forms that were recorded."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pytest_clusterjobs.testing.fakes.cluster import DELETED, ENDED, HELD, FakeJob
from pytest_clusterjobs.testing.fakes.lsf.cluster import command_of, full_name, state_of, why_ended, written_id

SCHEDULING = """\
           r15s   r1m  r15m   ut      pg    io   ls    it    tmp    swp    mem
 loadSched   -     -     -     -       -     -    -     -     -      -      -  
 loadStop    -     -     -     -       -     -    -     -     -      -      -  
"""  # noqa: W291 - as it was recorded

_FIELDS = (
    *("jobid", "user", "stat", "queue", "from_host", "exec_host", "job_name", "submit_time", "proj_name"),
    *("cpu_used", "mem", "swap", "pids", "start_time", "finish_time"),
)
_IBM_FIELDS = ("jobindex", "exit_code", "exit_reason", "pend_reason")
_HEAD = "JOBID   USER    STAT  QUEUE      FROM_HOST   EXEC_HOST   JOB_NAME   SUBMIT_TIME"
_FOLD = 80
_WAITS_NAME = 18


@dataclass(frozen=True, slots=True)
class Site:
    """What is the same for every job."""

    #: Whose jobs they are.
    user: str
    #: The one host.
    host: str
    #: True: IBM's LSF.
    is_ibm: bool
    #: Queues that start nothing.
    inactive_queues: frozenset[str] = frozenset()


def _moment(seconds: float | None) -> str:
    return time.strftime("%a %b %e %H:%M:%S", time.localtime(seconds))


def _short_moment(seconds: float | None) -> str:
    return "-" if seconds is None else time.strftime("%m/%d-%H:%M:%S", time.localtime(seconds))


def exit_code(job: FakeJob) -> int | None:
    """Give the exit code as LSF has it."""
    if job.signal is not None:
        return 128 + job.signal
    return job.exit_code


def hosts_of(job: FakeJob, site: Site) -> str:
    """Write the hosts of a job that has started: one word for each slot, and with IBM's one for each host."""
    if job.pid is None and job.state in (ENDED, HELD, "queued"):
        return ""
    return f"{job.cores}*{site.host}" if site.is_ibm and job.cores > 1 else ":".join([site.host] * job.cores)


def pending_reason(job: FakeJob, site: Site) -> str:
    """Say why a job waits."""
    if job.state == HELD:
        return "The job was suspended by the user while pending"
    if job.facts["queue"] in site.inactive_queues:
        return "The queue is inactivated by the administrator"
    return "Not enough job slot(s)"


# ---------------------------------------------------------------- tables and fields


def table(jobs: Iterable[FakeJob], site: Site, *, is_wide: bool) -> str:
    """Write ``bjobs`` or ``bjobs -w``."""
    lines = [_HEAD]
    for job in jobs:
        name, hosts = full_name(job), hosts_of(job, site) or ("   -" if is_wide else "")
        if not is_wide:
            name, hosts = (
                text if len(text) <= room else f"*{text[1 - room :]}" for text, room in ((name, 10), (hosts, 11))
            )
        submitted = time.strftime("%b %e %H:%M", time.localtime(job.submitted_at))
        lines.append(
            f"{job.number:<7} {site.user:<7} {state_of(job):<5} {job.facts['queue']:<10} {site.host:<11} "
            f"{hosts:<11} {name:<10} {submitted}"
        )
    return "\n".join(lines) + "\n"


def waits(jobs: Iterable[FakeJob], site: Site) -> str:
    """Write ``bjobs -p``."""
    lines = ["JOBID   USER    STAT  QUEUE       FROM_HOST      JOB_NAME           SUBMIT_TIME"]
    for job in jobs:
        name = full_name(job)
        name = name if len(name) <= _WAITS_NAME else f"*{name[1 - _WAITS_NAME :]}"
        submitted = time.strftime("%b %e %H:%M", time.localtime(job.submitted_at))
        lines += [
            f"{job.number:<7} {site.user:<7} {state_of(job):<5} {job.facts['queue']:<11} {site.host:<14} "
            f"{name:<18} {submitted}",
            f" {pending_reason(job, site)}: 1 host;",
        ]
    return "\n".join(lines) + "\n"


def unknown_field(fields: Sequence[str], site: Site) -> str | None:
    """Give the first field that bjobs does not know."""
    known = _FIELDS + (_IBM_FIELDS if site.is_ibm else ())
    return next((field for field in fields if field.lower() not in known), None)


def values(job: FakeJob, fields: Sequence[str], site: Site) -> dict[str, str]:
    """Give fields of a job, by their names in capitals."""
    code = exit_code(job) if state_of(job) == "EXIT" else None
    everything = {
        "jobid": str(job.number),
        "jobindex": str(job.element or 0),
        "user": site.user,
        "stat": state_of(job),
        "queue": job.facts["queue"],
        "from_host": site.host,
        "exec_host": hosts_of(job, site),
        "job_name": full_name(job),
        "submit_time": time.strftime("%b %e %H:%M", time.localtime(job.submitted_at)),
        "proj_name": job.facts["project"],
        "cpu_used": "000:00:00.00",
        "mem": "0",
        "swap": "0",
        "pids": "-" if job.pid is None else str(job.pid),
        "start_time": _short_moment(job.started_at),
        "finish_time": _short_moment(job.ended_at),
        "exit_code": "" if code is None else str(code),
        "exit_reason": why_ended(job) if job.state == ENDED else "",
        "pend_reason": f"{pending_reason(job, site)};" if state_of(job) in ("PEND", "PSUSP") else "",
    }
    return {field.upper(): everything[field.lower()] for field in fields}


def as_json(records: Sequence[dict[str, str]], site: Site) -> str:
    """Write ``bjobs -json``, as each family lays it out."""
    if site.is_ibm:
        whole = {"COMMAND": "bjobs", "JOBS": len(records), "RECORDS": list(records)}
        return json.dumps(whole, indent=2, separators=(",", ":"), ensure_ascii=False) + "\n"
    written = [
        "{\n" + ",\n".join(f"\t\t\t{_quoted(key)}:\t{_quoted(value)}" for key, value in record.items()) + "\n\t\t}"
        for record in records
    ]
    return f'{{\n\t"COMMAND":\t"bjobs",\n\t"JOBS":\t{len(records)},\n\t"RECORDS":\t[{", ".join(written)}]\n}}\n'


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def as_words(records: Sequence[dict[str, str]], fields: Sequence[str]) -> str:
    """Write ``bjobs -o``."""
    rows = [" ".join(field.upper() for field in fields)]
    rows += [" ".join(value or "-" for value in record.values()) for record in records]
    return "\n".join(rows) + "\n"


# ---------------------------------------------------------------- prose


def long(job: FakeJob, site: Site, *, is_unfolded: bool) -> str:
    """Write ``bjobs -l`` or ``bjobs -UF`` of one job."""
    head = (
        f"Job <{written_id(job)}>, Job Name <{full_name(job)}>, User <{site.user}>, Project <{job.facts['project']}>, "
        f"Status <{state_of(job)}>, Queue <{job.facts['queue']}>, Command <{command_of(job.facts['script'])}>"
    )
    lines = list(_events(job, site, is_unfolded=is_unfolded))
    limits = _limits(job)
    if is_unfolded:
        lines += limits
    else:
        lines[1:1] = limits
    if state_of(job) in ("PEND", "PSUSP"):
        lines += [" PENDING REASONS:", f" {pending_reason(job, site)}: 1 host;"]
    chosen = "select[type == local] order[r15s:pg]"
    needs = f" Combined: {chosen}\n Effective: {'-' if job.pid is None else chosen}\n\n"
    text = "\n".join(["", head, *lines, *_usage(job), ""])
    return f"{text}\n SCHEDULING PARAMETERS:\n{SCHEDULING}\n RESOURCE REQUIREMENT DETAILS:\n{needs}"


def _limits(job: FakeJob) -> list[str]:
    minutes, memory = job.facts.get("minutes"), job.facts.get("memory_bytes")
    lines = [] if minutes is None else ["", f" {'RUNLIMIT':<24}", f" {f'{minutes:.1f} min':<24}"]
    return [*lines, *([] if memory is None else ["", " MEMLIMIT", f" {memory // 2**10} K"])]


def _usage(job: FakeJob) -> list[str]:
    held = job.facts.get("held_bytes")
    most = "" if held is None else f"{held // 2**20} Mbytes"
    return [] if held is None else ["", " MEMORY USAGE:", f" MAX MEM: {most};  AVG MEM: {most}"]


def _submitted(job: FakeJob, site: Site, to_queue: str = "") -> str:
    hold = " with hold" if job.facts["is_held"] else ""
    output = f", Output File <{job.facts['out']}>" if job.facts["out"] else ""
    error = f", Error File <{job.facts['err']}>" if job.facts["err"] else ""
    many = f", {job.cores} Processors Requested" if job.cores > 1 else ""
    needs = f", Requested Resources <{job.facts['needs']}>" if job.facts["needs"] else ""
    where = f"Submitted from host <{site.host}>{hold}{to_queue}, CWD <{job.cwd}>"
    return f"{_moment(job.submitted_at)}: {where}{output}{error}{many}{needs};"


def _events(job: FakeJob, site: Site, *, is_unfolded: bool) -> Iterator[str]:
    yield _submitted(job, site)
    if job.pid is not None:
        where = f"Execution Home <{job.environment.get('HOME', '/')}>, Execution CWD <{job.cwd}>;"
        one = f"[{job.element}] started" if job.element is not None else "Started"
        host = f"<{site.host}>"
        on = f"{one} on {host}"
        if is_unfolded:
            on = f"Started {job.cores} Task(s) on Host(s) {host}, Allocated {job.cores} Slot(s) on Host(s) {host}"
        yield f"{_moment(job.started_at)}: {on}, {where}"
    if job.state == ENDED:
        yield f"{_moment(job.ended_at)}: {_end(job)}"
        if site.is_ibm and (why := why_ended(job)):
            yield f"{_moment(job.ended_at)}: Completed <exit>; {why}."


def _end(job: FakeJob) -> str:
    if job.exit_code == 0:
        said = "Done successfully"
    elif job.signal is not None:
        said = f"Exited by signal {job.signal}"
    elif job.exit_code is None:
        return "Exited"
    else:
        said = f"Exited with exit code {job.exit_code}"
    return f"{said}. The CPU time used is 0.0 seconds."


def history(job: FakeJob, site: Site) -> str:
    """Write ``bhist -l`` of one job, folded."""
    head = (
        f"Job <{written_id(job)}>, Job Name <{full_name(job)}>, User <{site.user}>, Project <{job.facts['project']}>, "
        f"Command <{command_of(job.facts['script'])}>"
    )
    events = []
    if job.pid is not None:
        started = _moment(job.started_at)
        home = job.environment.get("HOME", "/")
        events += [
            f"{started}: Dispatched to <{site.host}>;",
            f"{started}: Starting (Pid {job.pid});",
            f"{started}: Running with execution home <{home}>, Execution CWD <{job.cwd}>, Execution Pid <{job.pid}>;",
        ]
    if job.facts.get("killed_at") or (job.cause == DELETED and job.state == ENDED):
        at = _moment(job.facts.get("killed_at") or job.ended_at)
        events.append(f"{at}: Signal <KILL> requested by user or administrator <{site.user}>;")
    if job.state == ENDED:
        events.append(f"{_moment(job.ended_at)}: {_end(job).rstrip('.')};")
        if site.is_ibm and (why := why_ended(job)):
            events.append(f"{_moment(job.ended_at)}: Completed <exit>; {why};")
    first = _submitted(job, site, f", to Queue <{job.facts['queue']}>")
    return "\n".join(["", head, first, *_limits(job), *map(_folded, events), "", _times(job), "", ""])


def _folded(event: str) -> str:
    if len(event) <= _FOLD:
        return event
    rest = [event[at : at + _FOLD - 21] for at in range(_FOLD, len(event), _FOLD - 21)]
    return ("\n" + " " * 21).join([event[:_FOLD], *rest])


def spans(job: FakeJob) -> tuple[int, int, int]:
    """Give whole seconds of waiting, of running, and of both."""
    now = time.time()
    begun = job.started_at if job.pid is not None and job.started_at is not None else job.ended_at or now
    pending, total = begun - job.submitted_at, (job.ended_at or now) - job.submitted_at
    return int(pending), int(total - pending), int(total)


def _times(job: FakeJob) -> str:
    pending, running, total = spans(job)
    columns = (pending, 0, running, 0, 0, 0, total)
    return textwrap.dedent(f"""\
        Summary of time in seconds spent in various states by  {_moment(job.ended_at or time.time())}
          PEND     PSUSP    RUN      USUSP    SSUSP    UNKWN    TOTAL
          {"".join(f"{column:<9}" for column in columns)}   """)
