"""Slurm, 22.05 to 26.05: sbatch, squeue, scancel, scontrol; sacct only to explain an end.

Text formats are used, not ``--json``, whose shape changes from release to release.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from pytest_clusterjobs.backends.base import (
    BackendInfo,
    BackendSettings,
    Capability,
    Expectation,
    Partition,
    QueuedJob,
    Submission,
    Submitted,
)
from pytest_clusterjobs.backends.batch import BatchBackend, shell_body
from pytest_clusterjobs.core.errors import BackendUnavailable, CommandNotFound, SubmitError, SubmitLimit, SubmitUnknown
from pytest_clusterjobs.core.resources import Resources
from pytest_clusterjobs.core.spec import JobSpec
from pytest_clusterjobs.core.state import ExitReason, JobState, JobStatus
from pytest_clusterjobs.core.units import clock_text, parse_duration
from pytest_clusterjobs.transports.base import CommandResult, Transport

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks


# squeue(1) "JOB STATE CODES" and sacct(1), releases 22.05 to 26.05, in the manuals' order.
STATES: dict[str, tuple[JobState, ExitReason | None]] = {
    "BOOT_FAIL": (JobState.FAILED, ExitReason.NODE_FAILURE),
    "CANCELLED": (JobState.CANCELLED, ExitReason.CANCELLED_OUTSIDE),
    "COMPLETED": (JobState.COMPLETED, None),
    "CONFIGURING": (JobState.RUNNING, None),
    "COMPLETING": (JobState.RUNNING, None),
    "DEADLINE": (JobState.FAILED, ExitReason.DEADLINE),
    "EXPEDITING": (JobState.PENDING, None),
    "FAILED": (JobState.FAILED, ExitReason.NONZERO_EXIT),
    "LAUNCH_FAILED": (JobState.FAILED, ExitReason.LAUNCH_FAILURE),
    "NODE_FAIL": (JobState.FAILED, ExitReason.NODE_FAILURE),
    "OUT_OF_MEMORY": (JobState.FAILED, ExitReason.OUT_OF_MEMORY),
    "PENDING": (JobState.PENDING, None),
    "POWER_UP_NODE": (JobState.RUNNING, None),
    "PREEMPTED": (JobState.FAILED, ExitReason.PREEMPTED),
    "RECONFIG_FAIL": (JobState.FAILED, ExitReason.NODE_FAILURE),
    "RUNNING": (JobState.RUNNING, None),
    "RESV_DEL_HOLD": (JobState.PENDING, None),
    "REQUEUE_FED": (JobState.PENDING, None),
    "REQUEUE_HOLD": (JobState.PENDING, None),
    "REQUEUED": (JobState.PENDING, None),
    "RESIZING": (JobState.RUNNING, None),
    "REVOKED": (JobState.CANCELLED, ExitReason.CANCELLED_OUTSIDE),
    "SIGNALING": (JobState.RUNNING, None),
    "SPECIAL_EXIT": (JobState.PENDING, None),
    "STAGE_OUT": (JobState.RUNNING, None),
    "STOPPED": (JobState.RUNNING, None),
    "SUSPENDED": (JobState.RUNNING, None),
    "TIMEOUT": (JobState.FAILED, ExitReason.TIMEOUT),
    "UPDATE_DB": (JobState.RUNNING, None),
}

# squeue(1) "JOB REASON CODES": limits that this very job exceeds, so that waiting cannot help; and held for good.
_HOPELESS = re.compile(
    r"DependencyNeverSatisfied|PartitionNodeLimit|PartitionTimeLimit|BadConstraints|InvalidAccount|InvalidQOS"
    r"|AccountNotAllowed|QOSNotAllowed|launch_failed_requeued_held|launch failed requeued held|JobHoldMaxRequeue"
    r"|(QOS|Assoc)Max\w*Per(Job|Node)\w*|(QOS|Assoc)Max(WallDuration|CpuMinutes)\w*|QOSMin\w*"
)

# slurm_errno.c: refusals that pass. The first are limits on the number of jobs, not on this job.
_LIMITS = re.compile(
    r"(Max|Grp)SubmitJob|Slurm temporarily unable to accept job|Resource temporarily unavailable|Job submit rate limit"
    r"|Requested partition configuration not available now",
)
# After these nobody knows whether the controller made the job: it may, minutes later (seen with 22.05 and 26.05).
_LOST_REPLIES = re.compile(
    r"Socket timed out|Unable to contact slurm controller|Zero Bytes were transmitted|connect failure"
    r"|Connection refused|Communication connection failure|Connection reset|Slurm backup controller in standby"
    r"|Unexpected message received|Message (send|receive) failure|Transport endpoint"
)
_NO_CLUSTER = re.compile(r"[Cc]ould not establish a configuration source|[Uu]nable to establish configuration source")
_ENDED_ALREADY = re.compile(r"Invalid job id specified|already completing or completed|Job/step already")

# The second is said of array elements that were cancelled before they started: 22.05 forgets them at once.
_UNKNOWN_JOB = re.compile(r"Invalid job id specified|Job \S+ not found")

# What slurmd gives as a signal when it cannot open --output or --error (seen with 22.05: FAILED, ExitCode 0:53).
_NO_OUTPUT_FILE = 53

# Above it are no signals but words of Slurm's own, such as 125 for out of memory (slurm.h, SIG_OOM).
_LAST_SIGNAL = 64

# No %m: it does not tell memory per node from memory per CPU.
_FORMAT = "%i|%T|%N|%j|%r|%C|%D|%l|%P"
_OUTPUT = "sbatch(1) 22.05, OUTPUT ENVIRONMENT VARIABLES"


class SlurmBackend(BatchBackend):
    """Slurm by its commands. Works with and without accounting."""

    name: ClassVar[str] = "slurm"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(Capability)
    foreign_prefixes: ClassVar[tuple[str, ...]] = (
        "SBATCH_",
        "SLURM_",
        "SLURMD_",
        "SRUN_",
        "SALLOC_",
        "SQUEUE_",
        "SCANCEL_",
        "SINFO_",
        "SACCT_",
        "SCONTROL_",
    )
    needed_variables: ClassVar[frozenset[str]] = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"})
    id_pattern: ClassVar[re.Pattern[str]] = re.compile(r"[1-9]\d*(_\d+)?")
    directive_prefix: ClassVar[str] = "#SBATCH"
    needed_directives: ClassVar[tuple[str, ...]] = ("--job-name=", "--array=")

    def __init__(self, transport: Transport, settings: BackendSettings) -> None:
        super().__init__(transport, settings)
        self._array_limit: int | None = None
        self._info: BackendInfo | None = None

    # ------------------------------------------------------------ what there is

    def check(self) -> BackendInfo:
        version = self.run_for_check(["sbatch", "--version"], "sbatch does not start").strip()
        for command in ("squeue", "scancel"):
            self.run_for_check([command, "--version"], f"{command} does not start")
        argv = ["sinfo", "--noheader", "--format=%P|%a|%l|%D|%c|%G"]
        info = parse_sinfo(self.run_for_check(argv, "the controller does not answer"), version)
        config = self.run_for_check(["scontrol", "show", "config"], "cannot read MaxArraySize")
        self._array_limit = parse_array_limit(config)
        self._info = replace(info, array_limit=self._array_limit)
        return self._info

    def array_limit(self) -> int:
        if self._array_limit is None:
            result = self.run(["scontrol", "show", "config"])
            self.require_success(result, "cannot read MaxArraySize")
            self._array_limit = parse_array_limit(result.stdout)
        return self._array_limit

    # ------------------------------------------------------------ submission

    def submit(self, submission: Submission) -> Submitted:
        # Slurm takes a job that no node could hold and leaves it pending, for a reason that drained nodes give too.
        spec = submission.spec
        if spec.cores > 1 or spec.nodes > 1:
            info = self._info or self.check()
            for what, asked, there in (
                ("cores per node", spec.cores, info.cores_per_node),
                ("nodes", spec.nodes, info.nodes),
            ):
                if there is not None and asked > there:
                    raise SubmitError(f"the job asks for {asked} {what}, and there are {there}", self.name)
        return super().submit(submission)

    def render_script(self, submission: Submission) -> str:
        directives = [f"#SBATCH {directive}" for directive in _directives(submission)]
        if submission.is_array:
            native_id, index = '"${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"', '"$SLURM_ARRAY_TASK_ID"'
        else:
            native_id, index = '"$SLURM_JOB_ID"', '""'
        body = shell_body(submission, native_id, index, id_variable="SLURM_JOB_ID")
        return "\n".join(["#!/bin/bash", *directives, *body, ""])

    def submit_argv(self, submission: Submission, script: str) -> list[str]:
        folder = submission.directory.replace("%", "%%") + ("/%a" if submission.is_array else "")
        return [
            "sbatch",
            "--parsable",
            "--export=ALL",
            "--open-mode=append",
            f"--output={folder}/stdout.log",
            f"--error={folder}/stderr.log",
            *submission.spec.extra_args,
            script,
        ]

    def parse_submit(self, result: CommandResult, count: int) -> tuple[str, ...]:
        command = shlex.join(result.argv)
        if result.returncode:
            said = result.stderr or result.stdout
            if _LIMITS.search(said):
                raise SubmitLimit("the site takes no more jobs now", self.name, command, said)
            if _NO_CLUSTER.search(said):
                raise BackendUnavailable("sbatch knows no cluster", self.name, command, said)
            if _LOST_REPLIES.search(said):
                raise SubmitUnknown("sbatch got no answer from the controller", self.name, command, said)
            raise SubmitError(f"sbatch refused the job (exit code {result.returncode})", self.name, command, said)
        # sbatch(1) --parsable: the id, and ";cluster" with several clusters. Plugins of a site may print lines before.
        for line in reversed(result.stdout.splitlines()):
            if match := re.fullmatch(r"(?:Submitted batch job )?([1-9]\d*)(?:;.*| on cluster .*)?", line.strip()):
                return (match[1],) if count == 1 else tuple(f"{match[1]}_{index}" for index in range(count))
        raise SubmitUnknown("sbatch gave no job id", self.name, command, result.stdout + result.stderr)

    # ------------------------------------------------------------ questions

    def poll_argv(self, name_prefix: str) -> list[str]:
        return ["squeue", "--me", "--array", "--noheader", "--states=all", f"--format={_FORMAT}"]

    def parse_poll(self, text: str, name_prefix: str) -> dict[str, QueuedJob]:
        found = {}
        for line in text.splitlines():
            fields = line.split("|")
            if len(fields) >= 5 and fields[3].startswith(name_prefix):
                native_id, word, nodes, name, reason, *counted = fields
                status = replace(status_of(word, reason, nodes=nodes), resources=counted_resources(*counted[:4]))
                found[native_id.strip()] = QueuedJob(name, status)
        return found

    def explain(self, native_id: str) -> JobStatus | None:
        result = self.run(["scontrol", "--oneliner", "show", "job", native_id])
        if result.returncode == 0 and (status := parse_scontrol(result.stdout)) is not None:
            return status
        if result.returncode and not _UNKNOWN_JOB.search(result.stdout + result.stderr):
            self.require_success(result, f"cannot ask about job {native_id}")
        try:
            fields = "--format=State,ExitCode,NodeList"
            accounting = self.run(
                ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={native_id}", fields]
            )
        except CommandNotFound:
            return None
        return parse_sacct(accounting.stdout) if accounting.returncode == 0 else None

    def explain_sources(self) -> tuple[str, ...]:
        return ("scontrol show job", "sacct")

    def expected_environment(self, native_id: str, name: str, spec: JobSpec) -> Mapping[str, Expectation]:
        array, _, task = native_id.partition("_")
        expected = {
            "SLURM_JOB_NAME": name,
            "SLURM_JOB_NUM_NODES": str(spec.nodes),
            "SLURM_CPUS_PER_TASK": str(spec.cores),
            **({"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": task} if task else {"SLURM_JOB_ID": native_id}),
        }
        if spec.memory_bytes is not None:
            expected["SLURM_MEM_PER_NODE"] = str(math.ceil(spec.memory_bytes / 2**20))
        contract = {variable: Expectation(value, source=_OUTPUT) for variable, value in expected.items()}
        for variable, asked in (("SLURM_JOB_ACCOUNT", spec.account), ("SLURM_JOB_QOS", spec.qos)):
            if asked is not None:  # Slurm keeps both in lower case, and without accounting neither
                contract[variable] = Expectation(pattern=f"(?i:{re.escape(asked)})", is_optional=True, source=_OUTPUT)
        if spec.partition is not None:  # of several, the one that could start it first
            any_of = "|".join(map(re.escape, spec.partition.split(",")))
            contract["SLURM_JOB_PARTITION"] = Expectation(pattern=any_of, source=_OUTPUT)
        return {**super().expected_environment(native_id, name, spec), **contract}

    def told_resources(self, environment: Mapping[str, str]) -> Resources:
        told = {name: _whole(value) for name, value in environment.items()}
        cores = told.get("SLURM_CPUS_ON_NODE")
        mebibytes = told.get("SLURM_MEM_PER_NODE") or (told.get("SLURM_MEM_PER_CPU") or 0) * (cores or 0)
        return Resources(
            cores=cores,
            memory_bytes=mebibytes * 2**20 or None,  # 0: all that the node has
            gpus=_whole(environment.get("SLURM_GPUS_ON_NODE", "").rpartition(":")[2]),
            nodes=told.get("SLURM_JOB_NUM_NODES"),
            partition=environment.get("SLURM_JOB_PARTITION"),
        )

    def cancel_argv(self, native_ids: Sequence[str]) -> list[str]:
        return ["scancel", "--quiet", *native_ids]

    def is_harmless_cancel(self, stderr: str) -> bool:
        return all(_ENDED_ALREADY.search(line) for line in stderr.splitlines() if line.strip())


def _directives(submission: Submission) -> list[str]:
    spec: JobSpec = submission.spec
    lines = [
        f"--job-name={submission.name}",
        f"--nodes={spec.nodes}",
        f"--ntasks={spec.nodes}",
        f"--cpus-per-task={spec.cores}",
    ]
    if spec.nodes > 1:
        lines.append("--ntasks-per-node=1")
    if spec.memory_bytes is not None:
        lines.append(f"--mem={math.ceil(spec.memory_bytes / 2**20)}M")
    if spec.time_limit_s is not None:
        lines.append(f"--time={clock_text(spec.time_limit_s)}")
    if spec.gpus:
        lines.append(f"--gres=gpu:{spec.gpus}")
    for option in ("partition", "account", "qos", "constraint"):
        if (value := getattr(spec, option)) is not None:
            lines.append(f"--{option}={value}")
    if submission.is_array:
        throttle = f"%{submission.max_concurrent}" if submission.max_concurrent else ""
        lines.append(f"--array=0-{len(submission.directories) - 1}{throttle}")
    return [*lines, *spec.extra_directives]


def status_of(word: str, reason: str = "", exit_code: str = "", nodes: str = "", restarts: int = 0) -> JobStatus:
    """Translate Slurm's words for one job.

    Args:
        word: Its state, e.g. ``CANCELLED by 1000`` or ``COMPLETED+``.
        reason: Its reason code.
        exit_code: ``code:signal``, sacct(1).
        nodes: Its node list.
        restarts: How often it was started again.
    """
    short, _, by = word.strip().partition(" ")
    state, why = STATES.get(short.rstrip("+"), (JobState.UNKNOWN, None))
    code, signal = _exit_code(exit_code)
    detail = "" if reason.strip() in ("", "None", "(null)") else reason.strip()
    if by:
        detail = f"{by.strip()} {detail}".strip()
    if why is ExitReason.NONZERO_EXIT and signal == _NO_OUTPUT_FILE:
        why, code, signal = ExitReason.LAUNCH_FAILURE, None, None
        detail = "slurmd could not open the job's output files (0:53); do the nodes see the work directory?"
    elif why is ExitReason.NONZERO_EXIT and signal:
        why, code = ExitReason.SIGNAL, None
    # 22.05 gives the second reason to every batch script that a signal ended.
    if detail == "NonZeroExitCode" or (why is ExitReason.SIGNAL and detail == "JobLaunchFailure"):
        detail = ""
    is_hopeless = state is JobState.PENDING and bool(_HOPELESS.fullmatch(detail))
    node_text = "" if nodes.strip() in ("(null)", "None assigned") else nodes.strip()
    return JobStatus(state, short, why, detail, is_hopeless, code, signal, node_text, restarts)


def _exit_code(text: str) -> tuple[int | None, int | None]:
    match = re.fullmatch(r"(\d+):(\d+)", text.strip())
    if not match:
        return None, None
    code, signal = int(match[1]), int(match[2])
    if signal > _LAST_SIGNAL:
        return None, None
    return (None, signal) if signal and not code else (code, None)


def parse_array_limit(text: str) -> int:
    """Read ``MaxArraySize`` from ``scontrol show config``; 1 when it is not there."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", text, re.MULTILINE)
    return max(1, int(match[1])) if match else 1


def parse_scontrol(text: str) -> JobStatus | None:
    """Read ``scontrol --oneliner show job``; None when it shows no job."""
    found = re.findall(rf"(?:^|\s)(JobState|Reason|ExitCode|NodeList|Restarts|{_COUNTED})=(\S*)", text)
    fields = dict(reversed(found))  # the first of each counts: paths and comments, which may look like one, come later
    if "JobState" not in fields:
        return None
    status = status_of(
        fields["JobState"],
        fields.get("Reason", ""),
        fields.get("ExitCode", ""),
        fields.get("NodeList", ""),
        int(fields.get("Restarts") or 0),
    )
    return replace(status, resources=counted_resources(*(fields.get(name, "") for name in _COUNTED.split("|"))))


_COUNTED = "NumCPUs|NumNodes|TimeLimit|Partition"


def counted_resources(cpus: str = "", nodes: str = "", limit: str = "", partition: str = "") -> Resources:
    """Read how squeue and scontrol count a job's resources. Memory is not among them: it may be per CPU.

    Args:
        cpus: CPUs of all nodes together.
        nodes: Number of nodes; while it waits perhaps a range, ``1-4``.
        limit: Time limit, e.g. ``5:00`` or ``UNLIMITED``.
        partition: Partition; while it waits perhaps several.
    """
    node_count, cpu_count = _whole(nodes.strip()), _whole(cpus.strip())
    return Resources(
        cores=cpu_count // node_count if cpu_count and node_count else None,
        nodes=node_count,
        time_limit_s=_max_time(limit.strip()) if re.fullmatch(r"[\d:-]+", limit.strip()) else None,
        partition=partition.strip() or None,
    )


def _whole(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def parse_sacct(text: str) -> JobStatus | None:
    """Read ``sacct --parsable2 --allocations --format=State,ExitCode,NodeList``; None when it has no row."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") >= 2]
    if not rows:
        return None
    word, exit_code, nodes = rows[-1][:3]  # after a requeue the last row is the last start
    return status_of(word, "", exit_code, nodes)


def parse_sinfo(text: str, version: str) -> BackendInfo:
    """Read ``sinfo --format=%P|%a|%l|%D|%c|%G``: a line for each partition and kind of node."""
    partitions: dict[str, Partition] = {}
    sizes: list[int | None] = []
    gpus = 0
    for line in text.splitlines():
        name, status, limit, nodes, cpus, gres = (field.strip() for field in line.split("|", 5))
        before = partitions.get(name.rstrip("*"))
        count = int(nodes) + ((before.nodes or 0) if before else 0)
        partitions[name.rstrip("*")] = Partition(name.rstrip("*"), name.endswith("*"), count, _max_time(limit), status)
        sizes.append(int(cpus) if cpus.isdigit() else None)  # "4+": nodes of several sizes
        per_node = sum(int(number) for number in re.findall(r"gpu(?::[^:(,]+)?:(\d+)", gres))
        gpus = max(gpus, per_node * int(nodes))
    largest = max((partition.nodes or 0 for partition in partitions.values()), default=0)
    known = [size for size in sizes if size is not None]
    cores = max(known) if known and len(known) == len(sizes) else None
    return BackendInfo(version, largest, cores, gpus, tuple(partitions.values()))


def _max_time(text: str) -> float | None:
    if text in ("infinite", "n/a", "UNLIMITED"):
        return None
    parts = text.split("-")[-1].count(":")
    return parse_duration(text if parts == 2 else f"00:{text}" if parts == 1 else f"00:{text}:00")
