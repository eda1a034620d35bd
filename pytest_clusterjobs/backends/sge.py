"""Grid Engine 8.1.9 and relatives: qsub, qstat, qdel; qacct only to explain an end, qconf to know the site.

``memory`` is what the whole job gets. Grid Engine counts ``h_vmem`` for each slot, and a job of n cores has n slots on
one host, so each slot asks for the n-th part, rounded up to whole MiB. ``h_vmem`` limits address space, not what is
resident: a Python with many threads or a mapped file needs more of it than it ever uses. Sites that count memory in
another complex name it in the option ``memory_resource``.

The environment of a job: ``JOB_ID``, ``SGE_TASK_ID`` (from 1 in an array, else ``undefined``), ``NSLOTS``, ``QUEUE``,
and ``PE_HOSTFILE`` where it runs in a parallel environment.
"""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from pytest_clusterjobs.backends.base import (
    BackendInfo,
    BackendSettings,
    Capability,
    Expectation,
    QueuedJob,
    Submission,
    Submitted,
)
from pytest_clusterjobs.backends.batch import BatchBackend, shell_body
from pytest_clusterjobs.backends.sge_text import (
    counted_resources,
    expected_environment,
    parse_array_limit,
    parse_error_reasons,
    parse_qacct,
    parse_queues,
    parse_tasks,
    status_of,
    told_resources,
    xml_of,
)
from pytest_clusterjobs.core.errors import (
    BackendUnavailable,
    CommandError,
    CommandNotFound,
    ConfigError,
    SubmitError,
    SubmitLimit,
    SubmitUnknown,
)
from pytest_clusterjobs.core.naming import nearest
from pytest_clusterjobs.core.resources import Resources
from pytest_clusterjobs.core.spec import JobSpec
from pytest_clusterjobs.core.state import JobStatus
from pytest_clusterjobs.transports.base import CommandResult, Transport

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks


# Refusals that pass: limits on the number of jobs (sge_conf(5): max_u_jobs, max_jobs).
_LIMITS = re.compile(r"jobs are allowed per (user|cluster|project)|try again later", re.IGNORECASE)
# After these nobody knows whether the queue master made the job.
_LOST_REPLIES = re.compile(
    r"commlib error|unable to (send message to|contact) qmaster|(failed|got no) (receiving )?.*(gdi|response)"
    r"|got send (error|timeout)|syncron message receive timeout|communication error"
)
_NO_CLUSTER = re.compile(r"act_qmaster|SGE_ROOT|cell directory|neither (submit|admin) nor (submit|admin) host")
_NO_SUITABLE_QUEUES = "no suitable queues"
# What qdel says, to its standard output, of jobs that it deletes, has deleted or does not know.
_DELETED = re.compile(
    r"has (registered|deleted) |is already in deletion|^denied: job \"?\S+\"? does not exist"
    r"|^job \"\S+\" task \"\S+\" does not exist"
)

_ACKNOWLEDGED = re.compile(
    r"(?:Your (?:immediate )?job(?:-array)? )?(?P<job>[1-9]\d*)(?:\.\d+-\d+:\d+)?"
    r'(?: \(".*"\) has been submitted)?'
)
# Set in a job, and wrong in a job of that job.
_OF_A_JOB = frozenset(
    {
        *("ARC", "ENVIRONMENT", "HOSTNAME", "JOB_ID", "JOB_NAME", "JOB_SCRIPT", "NHOSTS", "NQUEUES", "NSLOTS", "PE"),
        *("PE_HOSTFILE", "QUEUE", "REQNAME", "REQUEST", "RESTARTED", "TMPDIR"),
    }
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# A path may have a host and a colon before it, variables, and a list of more of the like (qsub(1), -o).
_PLAIN_PATH = re.compile(r"[^:,$]+")


class SgeBackend(BatchBackend):
    """Grid Engine by its commands.

    Options: ``parallel_environment`` (for more than one core; default: the first of ``qconf -spl`` that puts all slots
    on one host), ``memory_resource`` (default ``h_vmem``), ``gpu_resource`` (no default; without it: no ``gpus``).

    Whether a job is started again after its node was lost is left to the queue (``rerun``); say
    ``extra_args=["-r", "n"]`` or ``"y"`` to decide. Requests that could not run on the empty cluster are refused at
    once (``-w e``); where nodes appear on demand, say ``extra_args=["-w", "n"]``.
    """

    name: ClassVar[str] = "sge"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(Capability) - {
        Capability.MULTI_NODE,
        Capability.CONSTRAINTS,
        Capability.GPUS,
    }
    foreign_prefixes: ClassVar[tuple[str, ...]] = ("SGE_", "QSUB_", "QSTAT_", "BASH_FUNC_")
    needed_variables: ClassVar[frozenset[str]] = frozenset(
        {"SGE_ROOT", "SGE_CELL", "SGE_QMASTER_PORT", "SGE_EXECD_PORT", "SGE_CLUSTER_NAME", "SGE_ARCH"}
    )
    id_pattern: ClassVar[re.Pattern[str]] = re.compile(r"[1-9]\d*(\.[1-9]\d*)?")
    directive_prefix: ClassVar[str] = "#$"
    needed_directives: ClassVar[tuple[str, ...]] = ("-N ", "-t ")
    option_names: ClassVar[frozenset[str]] = frozenset({"parallel_environment", "memory_resource", "gpu_resource"})

    def __init__(self, transport: Transport, settings: BackendSettings) -> None:
        super().__init__(transport, settings)
        self._array_limit: int | None = None
        self._environment_name = settings.options.get("parallel_environment", "")
        self._is_environment_known = False
        self._memory_resource = settings.options.get("memory_resource", "h_vmem")
        # Job number -> name, of what this process submitted: numbers begin again, records of old jobs stay.
        self._names: dict[str, str] = {}

    def clean(self, environment: Mapping[str, str]) -> dict[str, str]:
        kept = super().clean(environment)
        return {name: value for name, value in kept.items() if name not in _OF_A_JOB and _NAME.fullmatch(name)}

    # ------------------------------------------------------------ what there is

    def check(self) -> BackendInfo:
        said = self.run_for_check(["qstat", "-help"], "qstat does not start")
        for command in ("qsub", "qdel"):
            self.run_for_check([command, "-help"], f"{command} does not start")
        listing = self.run_for_check(["qstat", "-f", "-xml"], "the queue master does not answer")
        limits = self.run_for_check(["qconf", "-sq", "*"], "cannot read the queues")
        self._array_limit = parse_array_limit(self.run_for_check(["qconf", "-sconf"], "cannot read max_aj_tasks"))
        environments = self._environments()
        told = ", ".join(f"{name} ({rule})" for name, rule in environments.items())
        if self._environment_name and self._environment_name not in environments:
            told += f"; the option parallel_environment names {self._environment_name}, which is none of them"
        info = parse_queues(listing, limits, said.splitlines()[0].strip() if said.strip() else "")
        return replace(
            info,
            array_limit=self._array_limit,
            detail=f"parallel environments: {told or 'none'}",
        )

    def array_limit(self) -> int:
        if self._array_limit is None:
            result = self.run(["qconf", "-sconf"])
            self.require_success(result, "cannot read max_aj_tasks")
            self._array_limit = parse_array_limit(result.stdout)
        return self._array_limit

    def _environments(self) -> dict[str, str]:
        """Give every parallel environment with its allocation rule."""
        listed = self.run(["qconf", "-spl"])  # without any it says "no parallel environment defined" and exits with 1
        if listed.returncode:
            return {}
        found = {}
        for name in listed.stdout.split():
            shown = self.run(["qconf", "-sp", name])
            match = re.search(r"^allocation_rule\s+(\S+)", shown.stdout, re.MULTILINE)
            found[name] = match[1] if match else "?"
        return found

    def _parallel_environment(self) -> str:
        """Give the parallel environment for jobs of several cores.

        Raises:
            ConfigError: The one that was configured does not exist, or none puts all slots on one host.
        """
        if not self._is_environment_known:
            there, wanted = self._environments(), self._environment_name
            told = ", ".join(f"{name} ({rule})" for name, rule in there.items()) or "none"
            if wanted and wanted not in there:
                hint = nearest(wanted, there)
                raise ConfigError(f"there is no parallel environment {wanted!r}; there are: {told}{hint}")
            fitting = [name for name, rule in there.items() if rule == "$pe_slots"]
            if not wanted and not fitting:
                raise ConfigError(
                    "cores above 1 need a parallel environment with allocation_rule $pe_slots, and there is none; "
                    f"there are: {told}. Name one in the option parallel_environment"
                )
            self._environment_name, self._is_environment_known = wanted or fitting[0], True
        return self._environment_name

    # ------------------------------------------------------------ submission

    def submit(self, submission: Submission) -> Submitted:
        spec = submission.spec
        for asked, what in (
            (spec.nodes > 1, f"nodes={spec.nodes}: jobs have one host on Grid Engine here"),
            (bool(spec.gpus) and not self.settings.options.get("gpu_resource"), "gpus: set the option gpu_resource"),
            (spec.qos is not None, f"qos={spec.qos!r}: Grid Engine has none"),
            (
                spec.constraint is not None,
                f"constraint={spec.constraint!r}: write extra_directives",
            ),
        ):
            if asked:
                raise SubmitError(f"cannot ask for {what}", self.name)
        try:
            submitted = super().submit(submission)
        except SubmitError as error:
            raise self._with_reason(submission, error) from None
        self._names[submitted.native_ids[0].partition(".")[0]] = submission.name
        return submitted

    def _with_reason(self, submission: Submission, error: SubmitError) -> SubmitError:
        """Add to a refusal why no queue is suitable: ``-w v`` verifies, tells, and makes no job."""
        if _NO_SUITABLE_QUEUES not in error.stderr or "-w n" in error.command:
            return error
        script = shlex.split(error.command)[-1]
        try:
            result = self.run(
                [*self.submit_argv(submission, script)[:-1], "-w", "v", script], self.clean(submission.environment)
            )
        except CommandError:
            return error
        return SubmitError(str(error.args[0]), self.name, error.command, error.stderr + result.stderr)

    def job_environment(self, submission: Submission) -> Mapping[str, str]:
        # -V cuts values at their first newline (seen with 8.1.9), and login shells set PATH anew (sge_conf(5)).
        inherited = self.clean(submission.environment)
        lost = {name: value for name, value in inherited.items() if "\n" in value or name == "PATH"}
        return {**lost, **submission.spec.env}

    def render_script(self, submission: Submission) -> str:
        directives = [f"#$ {directive}" for directive in self._directives(submission)]
        if submission.is_array:
            native_id, index = '"$JOB_ID.$SGE_TASK_ID"', '"$((SGE_TASK_ID-1))"'
        else:
            native_id, index = '"$JOB_ID"', '""'
        body = shell_body(
            submission,
            native_id,
            index,
            id_variable="JOB_ID",
            claimed=('exec >>"$cj_dir/stdout.log" 2>>"$cj_dir/stderr.log"',),
            reserved_codes=(99, 100),  # to the execution daemon: start it again; put it into error (qsub(1))
        )
        return "\n".join(["#!/bin/bash", *directives, *body, ""])

    def _directives(self, submission: Submission) -> list[str]:
        spec, options = submission.spec, self.settings.options
        # -clear: nothing of the caller's and the cell's sge_request files; / is a directory that every node has.
        lines = ["-clear", f"-N {submission.name}", "-S /bin/bash", "-wd /", "-j y"]
        if spec.cores > 1:
            lines.append(f"-pe {self._parallel_environment()} {spec.cores}")
        if spec.memory_bytes is not None:
            mebibytes = math.ceil(spec.memory_bytes / spec.cores / 2**20)
            lines.append(f"-l {self._memory_resource}={mebibytes}M")
        if spec.time_limit_s is not None:
            lines.append(f"-l h_rt={math.ceil(spec.time_limit_s)}")
        if spec.gpus:
            lines.append(f"-l {options['gpu_resource']}={spec.gpus}")
        if spec.partition is not None:
            lines.append(f"-q {spec.partition}")
        if spec.account is not None:
            lines.append(f"-P {spec.account}")
        if submission.is_array:
            lines.append(f"-t 1-{len(submission.directories)}")
            if submission.max_concurrent:
                lines.append(f"-tc {submission.max_concurrent}")
        return [*lines, *spec.extra_directives]

    def submit_argv(self, submission: Submission, script: str) -> list[str]:
        # What the job prints goes to its own logs; what the daemons print of it, and that the node sees the directory,
        # shows here.
        log = os.path.join(submission.directory, "scheduler.log")
        output = log if _PLAIN_PATH.fullmatch(log) else "/dev/null"
        return ["qsub", "-terse", "-V", "-w", "e", "-o", output, *submission.spec.extra_args, script]

    def parse_submit(self, result: CommandResult, count: int) -> tuple[str, ...]:
        command = shlex.join(result.argv)
        said = result.stderr + result.stdout
        if result.returncode:
            if _LIMITS.search(said):
                raise SubmitLimit("the site takes no more jobs now", self.name, command, said)
            if _NO_CLUSTER.search(said):
                raise BackendUnavailable("qsub knows no cluster", self.name, command, said)
            if _LOST_REPLIES.search(said):
                raise SubmitUnknown("qsub got no answer from the queue master", self.name, command, said)
            raise SubmitError(f"qsub refused the job (exit code {result.returncode})", self.name, command, said)
        # Sites' wrappers and verifiers may print lines before; without -terse it is a sentence.
        for line in reversed(result.stdout.splitlines()):
            if match := _ACKNOWLEDGED.fullmatch(line.strip()):
                return (match["job"],) if count == 1 else self.element_ids(match["job"], count)
        raise SubmitUnknown("qsub gave no job id", self.name, command, said)

    def element_ids(self, native_id: str, count: int) -> tuple[str, ...]:
        job = native_id.partition(".")[0]
        return tuple(f"{job}.{task}" for task in range(1, count + 1))

    # ------------------------------------------------------------ questions

    def poll_argv(self, name_prefix: str) -> list[str]:
        return ["qstat", "-xml", "-r", "-u", "$user"]  # -r: what they ask for; qstat itself puts in the user's name

    def parse_poll(self, text: str, name_prefix: str) -> dict[str, QueuedJob]:
        found: dict[str, QueuedJob] = {}
        for row in xml_of(text).iter("job_list"):
            name = row.findtext("JB_name") or ""
            number = (row.findtext("JB_job_number") or "").strip()
            if name.startswith(name_prefix) and number:
                queue = (row.findtext("queue_name") or "").strip()
                status = replace(
                    status_of((row.findtext("state") or "").strip(), queue),
                    resources=counted_resources(row, self._memory_resource),
                )
                tasks = row.findtext("tasks")
                ids = [number] if tasks is None else [f"{number}.{task}" for task in parse_tasks(tasks)]
                found.update((native_id, QueuedJob(name, status)) for native_id in ids)
        return found

    def query(self, name_prefix: str) -> Mapping[str, QueuedJob]:
        found = dict(super().query(name_prefix))
        broken = {native_id for native_id, queued in found.items() if queued.status.is_hopeless}
        if broken:  # one more command, only where something is in error: the reasons
            reasons = self._error_reasons({native_id.partition(".")[0] for native_id in broken})
            for native_id in broken:
                job, _, task = native_id.partition(".")
                detail = reasons.get((job, task or "1")) or found[native_id].status.detail
                found[native_id] = replace(found[native_id], status=replace(found[native_id].status, detail=detail))
        return found

    def _error_reasons(self, jobs: Collection[str]) -> dict[tuple[str, str], str]:
        try:
            return parse_error_reasons(self.run(["qstat", "-j", ",".join(sorted(jobs))]).stdout)
        except CommandError:
            return {}

    def explain(self, native_id: str) -> JobStatus | None:
        job, _, task = native_id.partition(".")
        try:
            result = self.run(["qacct", "-j", job, *(["-t", task] if task else [])])
        except CommandNotFound:
            return None
        # Exit code 1: not there (yet): the record is written some time after the job has left the queue.
        return parse_qacct(result.stdout, self._names.get(job, "")) if result.returncode == 0 else None

    def expected_environment(self, native_id: str, name: str, spec: JobSpec) -> Mapping[str, Expectation]:
        ours = super().expected_environment(native_id, name, spec)
        return {**ours, **expected_environment(native_id, name, spec)}

    def told_resources(self, environment: Mapping[str, str]) -> Resources:
        return told_resources(environment)

    def explain_sources(self) -> tuple[str, ...]:
        return ("qacct -j",)

    def cancel_argv(self, native_ids: Sequence[str]) -> list[str]:
        return ["qdel", *_ranges(native_ids)]

    def is_harmless_cancel(self, stderr: str) -> bool:
        return all(_DELETED.search(line) for line in stderr.splitlines() if line.strip())


def _ranges(native_ids: Iterable[str]) -> list[str]:
    """Write ids as qdel takes them, runs of tasks of one array as ranges: ``7 8.1-200 9.4``."""
    singles: dict[str, None] = {}
    tasks: dict[str, set[int]] = {}
    for native_id in native_ids:
        job, dot, task = native_id.partition(".")
        if dot:
            tasks.setdefault(job, set()).add(int(task))
        else:
            singles[job] = None
    written = list(singles)
    for job, numbers in tasks.items():
        first = last = min(numbers)
        for number in [*sorted(numbers)[1:], 0]:
            if number != last + 1:
                written.append(f"{job}.{first}" if first == last else f"{job}.{first}-{last}")
                first = number
            last = number
    return written
