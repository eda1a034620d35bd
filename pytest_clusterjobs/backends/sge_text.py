"""What Grid Engine's commands print, and what their words mean. Pure functions."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping

from pytest_clusterjobs.backends.base import BackendInfo, Expectation, Partition
from pytest_clusterjobs.core.errors import CommandError
from pytest_clusterjobs.core.resources import Resources
from pytest_clusterjobs.core.spec import JobSpec
from pytest_clusterjobs.core.state import ExitReason, JobState, JobStatus
from pytest_clusterjobs.core.units import parse_duration

# qstat(1) of 8.1.9, "state": the letters of one word, each by itself; the first line that has one of them decides.
STATES: tuple[tuple[str, JobState], ...] = (
    ("E", JobState.PENDING),  # in error: it stays until somebody clears or deletes it
    ("rtsSTNP", JobState.RUNNING),  # running, transferring, suspended: by qmod, its queue, a threshold
    ("wq", JobState.PENDING),
    ("d", JobState.RUNNING),  # being deleted
)
_LETTERS = frozenset("dEhrRsStTNPwq")

# accounting(5) and sge_status(5) of 8.1.9, "failed": what is not here could not be started on its node.
_AFTER_JOB, _LIMIT, _RESCHEDULED = 100, 37, frozenset({24, 25})
_ENDED_BY_ITSELF = frozenset({0, 12, 13, 14, 15, 30})  # 30: exit code 100


def xml_of(text: str) -> ElementTree.Element:
    """Read what qstat printed.

    Raises:
        CommandError: It is no XML.
    """
    try:
        return ElementTree.fromstring(text)  # noqa: S314 - the scheduler wrote it; expat loads nothing from elsewhere
    except ElementTree.ParseError as error:
        raise CommandError(f"qstat printed no XML: {error}", "sge", "qstat -xml", text[:500]) from None


def status_of(word: str, queue: str = "") -> JobStatus:
    """Translate a state of qstat.

    Args:
        word: Letters, e.g. ``hqw``.
        queue: The queue instance it runs in, e.g. ``all.q@node1``.
    """
    state = next((state for letters, state in STATES if set(letters) & set(word)), JobState.UNKNOWN)
    if not set(word) <= _LETTERS:
        state = JobState.UNKNOWN
    is_broken = state is JobState.PENDING and "E" in word
    detail = "in error" if is_broken else "held" if state is JobState.PENDING and "h" in word else ""
    reason = ExitReason.LAUNCH_FAILURE if is_broken else None
    return JobStatus(state, word, reason, detail, is_broken, nodes=queue.partition("@")[2])


def parse_tasks(text: str) -> list[int]:
    """Read the tasks of a row: ``3``, ``1-6:2``, ``2,5-7:1``."""
    found: list[int] = []
    for part in text.split(","):
        if match := re.fullmatch(r"\s*(\d+)(?:-(\d+)(?::(\d+))?)?\s*", part):
            first, last, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
            found += range(first, last + 1, max(1, step))
    return found


def parse_error_reasons(text: str) -> dict[tuple[str, str], str]:
    """Read ``qstat -j``: (job, task) -> why it is in error."""
    found: dict[tuple[str, str], str] = {}
    job = ""
    for line in text.splitlines():
        if match := re.match(r"job_number:\s+(\d+)", line):
            job = match[1]
        elif match := re.match(r"error reason\s+(\d+):\s+(?:\S+ \S+ \[\d+:\d+\]: )?(?:error: )?(.*)", line):
            found[job, match[1]] = match[2].strip()
    return found


def parse_qacct(text: str, name: str = "") -> JobStatus | None:
    """Read ``qacct -j``; None when it has no record of a job of that name, if one is given.

    A job that was started again has a record for each start: the last counts.
    """
    found = None
    for record in re.split(r"^=+$", text, flags=re.MULTILINE):
        fields = dict(re.findall(r"^(\w+)[ \t]+(.*?)[ \t]*$", record, re.MULTILINE))
        if "failed" in fields and name in ("", fields.get("jobname")):
            found = fields
    return None if found is None else _ended(found)


def _ended(fields: Mapping[str, str]) -> JobStatus | None:
    word = f"failed {fields['failed']}".strip()
    failed = _number(fields["failed"])
    code = _number(fields.get("exit_status", ""))
    signal = code - 128 if 128 < code <= 128 + 64 else None
    if failed in _RESCHEDULED:
        return None  # it has ended there and is to start again
    detail = fields["failed"] if failed else ""
    state, reason = JobState.FAILED, ExitReason.LAUNCH_FAILURE
    exit_code: int | None = None if signal else code
    if failed == _LIMIT:
        reason = ExitReason.TIMEOUT if _has_run_out(fields) else ExitReason.OUT_OF_MEMORY
    elif failed == _AFTER_JOB and signal == 9:  # qdel's way; a command's own SIGKILL gives failed 0
        state, reason = JobState.CANCELLED, ExitReason.CANCELLED_OUTSIDE
        detail = f"{fields['failed']}; exit_status {code}: SIGKILL, as qdel sends it"
    elif signal and failed in {0, _AFTER_JOB}:
        reason = ExitReason.SIGNAL
    elif failed in _ENDED_BY_ITSELF and not code:
        return JobStatus(JobState.COMPLETED, word, None, detail, exit_code=0, nodes=fields.get("hostname", ""))
    elif failed in _ENDED_BY_ITSELF or failed == _AFTER_JOB:
        reason = ExitReason.NONZERO_EXIT
    return JobStatus(state, word, reason, detail, False, exit_code, signal, fields.get("hostname", ""))


def _has_run_out(fields: Mapping[str, str]) -> bool:
    """Tell whether it was the time limit: failed 37 is said of time and of memory alike."""
    used, asked = (re.search(pattern, fields.get(key, "")) for key, pattern in _WALLCLOCK)
    limits = re.search(r"\bh_vmem=([\d.]+)([KMGkmg]?)", fields.get("category", ""))
    peak = re.match(r"([\d.]+)([KMG]?)B?", fields.get("maxvmem", ""))
    if used and asked and float(used[1]) >= float(asked[1]) - 1:
        return True
    return not (limits and peak and _bytes(peak) >= _bytes(limits))


_WALLCLOCK = (("ru_wallclock", r"([\d.]+)"), ("category", r"\bh_rt=(\d+)\b"))


def _bytes(match: re.Match[str]) -> float:
    return float(match[1]) * 1024.0 ** "_KMG".index(match[2].upper() or "_")


def _number(text: str) -> int:
    match = re.match(r"\s*(\d+)", text)
    return int(match[1]) if match else 0


def parse_array_limit(text: str) -> int:
    """Read ``max_aj_tasks`` from ``qconf -sconf``; 0 there means no limit, and 75000 is its default."""
    match = re.search(r"^max_aj_tasks\s+(\d+)", text, re.MULTILINE)
    return int(match[1]) or 10**6 if match else 75000


def parse_queues(listing: str, limits: str, version: str) -> BackendInfo:
    """Read ``qstat -f -xml`` and ``qconf -sq '*'``."""
    limit_of = dict(re.findall(r"^qname\s+(\S+)(?:.|\n)*?^h_rt\s+(\S+)", limits, re.MULTILINE))
    hosts: dict[str, int] = {}
    queues: dict[str, list[str]] = {}
    for row in xml_of(listing).iter("Queue-List"):
        queue, _, node = (row.findtext("name") or "").partition("@")
        hosts[node] = max(hosts.get(node, 0), _number(row.findtext("slots_total") or ""))
        queues.setdefault(queue, []).append((row.findtext("state") or "").strip())
    partitions = tuple(
        Partition(
            queue,
            nodes=len(states),
            max_time_s=_limit(limit_of.get(queue, "INFINITY")),
            status="up" if any(not set(state) & set("dEuDCsS") for state in states) else "/".join(sorted(set(states))),
        )
        for queue, states in queues.items()
    )
    return BackendInfo(version, len(hosts), max(hosts.values(), default=0) or None, None, partitions)


def _limit(text: str) -> float | None:
    text = text.partition(",")[0]
    return None if text.upper() == "INFINITY" else float(text) if text.isdigit() else parse_duration(text)


_VARIABLES = "qsub(1) 8.1.9, ENVIRONMENTAL VARIABLES"


def expected_environment(native_id: str, name: str, spec: JobSpec) -> dict[str, Expectation]:
    """Give what Grid Engine promises a job to find in its environment; see `Backend.expected_environment`."""
    job, _, task = native_id.partition(".")
    contract = {
        "JOB_ID": Expectation(job, source=_VARIABLES),
        "JOB_NAME": Expectation(name, source=_VARIABLES),
        "SGE_TASK_ID": Expectation(task or "undefined", source=_VARIABLES),
        "NSLOTS": Expectation(str(spec.cores), source=_VARIABLES),
    }
    if spec.cores > 1:
        contract["PE_HOSTFILE"] = Expectation(slots=spec.cores, source="sge_pe(5) 8.1.9, $pe_hostfile")
    if spec.partition is not None and re.fullmatch(r"[\w.-]+", spec.partition):  # one queue, no pattern and no host
        contract["QUEUE"] = Expectation(spec.partition, source=_VARIABLES)
    return contract


def counted_resources(row: ElementTree.Element, memory_resource: str) -> Resources:
    """Give how ``qstat -xml -r`` counts the resources of each of a row's tasks.

    Args:
        row: A ``job_list``.
        memory_resource: The complex that memory is asked for in, for each slot.
    """
    asked = {each.get("name"): (each.text or "").strip() for each in row.iter("hard_request")}
    slots = _number(row.findtext("slots") or "")
    queue = (row.findtext("queue_name") or "").strip()
    memory_bytes, time_limit_s = _requested_bytes(asked.get(memory_resource, "")), _number(asked.get("h_rt", ""))
    return Resources(
        cores=slots or None,
        memory_bytes=memory_bytes * slots if memory_bytes and slots else None,
        nodes=1,
        time_limit_s=time_limit_s or None,  # qstat writes all forms of a time as seconds, and INFINITY as that
        partition=queue.partition("@")[0] or None,
    )


def _requested_bytes(text: str) -> int | None:
    """Read a memory_specifier of sge_types(1) as qstat repeats it; None for what is none, and in the rarer bases."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgGtT]?)", text)
    if match is None:
        return None
    letter = match[2]
    base = 1000 if letter.islower() else 1024
    return int(float(match[1]) * base ** (" kmgt".index(letter.lower()) if letter else 0))


def told_resources(environment: Mapping[str, str]) -> Resources:
    """Read what Grid Engine told a job: slots, hosts, queue. All slots are on one host: see `SgeBackend`."""
    return Resources(
        cores=_number(environment.get("NSLOTS", "")) or None,
        nodes=_number(environment.get("NHOSTS", "")) or None,
        partition=environment.get("QUEUE"),
    )
