"""IBM Spectrum LSF 10.1 and the OpenLava family: bsub, bjobs, bkill; bhist only to explain an end; lsid, bqueues,
bhosts, lshosts and bparams to know the site.

``memory`` is what the whole job gets: ``-M`` limits it, in the unit that the site has set (``LSF_UNIT_FOR_LIMITS`` in
lsf.conf; by default KB, with volclava MB), and ``rusage[mem=...]`` reserves it. Where the site reserves for each task
(``RESOURCE_RESERVE_PER_TASK`` in ``bparams -l``), each slot asks for its part. LSF counts run limits in minutes: ``-W``
is rounded up, and ends a job up to a minute late.

The environment of a job: ``LSB_JOBID``, ``LSB_JOBINDEX`` (from 1 in an array, else 0), ``LSB_JOBNAME``, ``LSB_QUEUE``,
``LSB_HOSTS`` and ``LSB_MCPU_HOSTS``; ``LSB_DJOB_NUMPROC`` with IBM's.
"""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
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
from pytest_clusterjobs.backends.lsf_text import (
    has_outgrown,
    parse_cores,
    parse_hosts,
    parse_jobs,
    parse_memory_sizes,
    parse_parameter,
    parse_prose,
    parse_queues,
    parse_waits,
    status_of,
    why_no_host,
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
from pytest_clusterjobs.core.state import ExitReason, JobState, JobStatus
from pytest_clusterjobs.transports.base import CommandResult, Transport

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks


# Forms of the one question about all jobs, best first; what a bjobs does not know, it says, and the next is used.
# volclava 2.2 knows -json and -o, and no field of an exit; OpenLava neither.
_POLLS: tuple[tuple[str, ...], ...] = (
    ("-json", "-o", "jobid stat exec_host job_name exit_code exit_reason pend_reason"),
    ("-json", "-o", "jobid stat exec_host job_name"),
    ("-w",),
)
_UNKNOWN_FORM = re.compile(
    r"not a valid field name|invalid option|illegal option|unrecognized option|^Usage: bjobs", re.M
)
_NO_JOBS = re.compile(r"No (unfinished )?job found")
_UNKNOWN_JOB = re.compile(r"is not found|No matching job found")

# Refusals that pass: limits on the number of jobs that wait (lsb.params(5), MAX_PEND_JOBS); bsub itself tries again.
_LIMITS = re.compile(r"threshold reached|job limit (has been )?(reached|exceeded)|Retrying in \d+ seconds")
_NO_CLUSTER = re.compile(r"Unable to open file lsf\.conf|Cannot open lsf\.conf")
_ROOT = re.compile(r"^User permission denied", re.MULTILINE)
# After these nobody knows whether mbatchd made the job.
_LOST_REPLIES = re.compile(
    r"not responding|LIM is down|LSF is down|Cannot connect to LSF|Connection (refused|reset)|[Tt]ime(d)? ?out"
    r"|sending/receiving a message|try later|Failed in an LSF library call"
)
# What bkill says of jobs that it kills, has killed or does not know. The third it says of a whole array that waits,
# and ends it (seen with volclava 2.2).
_KILLED = re.compile(
    r"^(Job <\S+>: )?(Job has already finished|No (matching|unfinished) job found)"
    r"|^(Job <\S+>: O|The requested o)peration is in progress|^Job <\S+> is being terminated|is not found$"
)
_SUBMITTED = re.compile(r"Job <([1-9]\d*)> is submitted to ")

# Set in a job, and wrong in a job of that job.
_OF_A_JOB = frozenset({"LS_JOBPID", "LS_SUBCWD", "LS_EXECCWD", "LS_EXEC_T", "LSFUSER"})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# bsub writes NAME='value'; export NAME, quoting nothing; a value with such an end in it has the job wait for ever.
_BREAKS = re.compile(r"['\n]")
_UNITS = {"KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40, "PB": 2**50, "EB": 2**60}


class LsfBackend(BatchBackend):
    """LSF by its commands.

    Options: ``memory_unit`` (KB, MB, GB, ...: what ``-M`` and ``rusage`` count in; default: what lsf.conf says).

    Whether a job is started again after its host was lost is left to the queue (``RERUNNABLE``); with IBM's,
    ``extra_args=["-rn"]`` forbids it.
    """

    name: ClassVar[str] = "lsf"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(Capability)
    foreign_prefixes: ClassVar[tuple[str, ...]] = ("BSUB_", "LSB_", "LSF_", "BASH_FUNC_")
    needed_variables: ClassVar[frozenset[str]] = frozenset(
        {"LSF_ENVDIR", "LSF_BINDIR", "LSF_SERVERDIR", "LSF_LIBDIR", "LSF_CONFDIR", "LSB_CONFDIR", "LSB_SHAREDIR"}
    )
    # A child of mbatchd answers, from its copy of the state: MBD_REFRESH_TIME of IBM's lsb.params(5), and with volclava
    # LSB_QMBD_ALIVE_TIME of lsf.conf. Both are 5 s by default.
    answers_age_s: float = 10.0
    # No 0: to bkill it means all jobs (bkill(1)).
    id_pattern: ClassVar[re.Pattern[str]] = re.compile(r"[1-9]\d*(\[[1-9]\d*\])?")
    directive_prefix: ClassVar[str] = "#BSUB"
    needed_directives: ClassVar[tuple[str, ...]] = ("-J ",)
    option_names: ClassVar[frozenset[str]] = frozenset({"memory_unit"})

    def __init__(self, transport: Transport, settings: BackendSettings) -> None:
        super().__init__(transport, settings)
        self._about = ""
        self._parameters = ""
        self._hosts: list[int | None] | None = None
        self._lshosts: str | None = None
        self._form = 0
        # Job number -> name, of what this process submitted: numbers begin again, and bhist remembers old jobs.
        self._names: dict[str, str] = {}

    def clean(self, environment: Mapping[str, str]) -> dict[str, str]:
        # bsub writes the environment into the job's file, for a shell to read: names that are none to it are noise.
        kept = super().clean(environment)
        return {name: value for name, value in kept.items() if name not in _OF_A_JOB and _NAME.fullmatch(name)}

    def run(self, argv: Sequence[str], env: Mapping[str, str] | None = None, stdin: str | None = None) -> CommandResult:
        if env is None and self.transport.is_here:  # what they print is read: times in no other language
            env = {**self.clean(os.environ), "LC_ALL": "C"}
        return super().run(argv, env, stdin)

    def submit_environment(self, submission: Submission) -> dict[str, str]:
        kept = self.clean(submission.environment)
        # Where too many jobs wait, bsub would sleep a minute, five times; we wait ourselves.
        return {**{name: value for name, value in kept.items() if not _BREAKS.search(value)}, "LSB_NTRIES": "1"}

    def job_environment(self, submission: Submission) -> Mapping[str, str]:
        inherited = self.clean(submission.environment)
        return {**{name: value for name, value in inherited.items() if _BREAKS.search(value)}, **submission.spec.env}

    # ------------------------------------------------------------ what there is

    def check(self) -> BackendInfo:
        for command in ("bsub", "bjobs", "bkill"):
            self._require(command)
        self._about = about = self.run_for_check(["lsid"], "LSF does not answer")
        queues = parse_queues(self.run_for_check(["bqueues", "-l"], "the batch daemon does not answer"))
        hosts = self.run_for_check(["bhosts"], "cannot read the hosts")
        self._hosts = parse_hosts(hosts)
        self._parameters = self.run_for_check(["bparams", "-l"], "cannot read MAX_JOB_ARRAY_SIZE")
        cores = self._largest_host() or parse_cores(self.run_for_check(["lshosts"], "cannot read the hosts' cores"))
        version = about.strip().partition("\n")[0].partition(",")[0].strip()
        cluster = re.search(r"^My cluster name is (\S+)", about, re.MULTILINE)
        details = (f"cluster {cluster[1] if cluster else '?'}; time limits are whole minutes", why_no_host(hosts))
        detail = "; ".join(filter(None, details))
        return BackendInfo(version, len(self._hosts), cores, None, queues, self.array_limit(), detail)

    def _require(self, command: str) -> None:
        try:
            self.run([command, "-V"])
        except CommandError as error:
            raise BackendUnavailable(str(error.args[0]), self.name, error.command, error.stderr) from None

    def array_limit(self) -> int:
        # lsb.params(5): 1000 where it is not set. A larger array becomes one plain job with brackets in its name.
        return max(1, int(self._parameter("MAX_JOB_ARRAY_SIZE") or 1000))

    def _largest_host(self) -> int | None:
        """Give the job slots of the largest host; None where some are not limited."""
        if self._hosts is None:
            result = self.run(["bhosts"])
            self.require_success(result, "cannot read the hosts")
            self._hosts = parse_hosts(result.stdout)
        slots = [each or 0 for each in self._hosts]
        return max(slots) if slots and all(slots) else None

    def _machines(self) -> str:
        """Give what ``lshosts`` tells of every host; unlike bhosts, it never shows a group of hosts as one."""
        if self._lshosts is None:
            result = self.run(["lshosts"])
            self.require_success(result, "cannot read the hosts' sizes")
            self._lshosts = result.stdout
        return self._lshosts

    def _parameter(self, name: str) -> str:
        if not self._parameters:
            result = self.run(["bparams", "-l"])
            self.require_success(result, f"cannot read {name}")
            self._parameters = result.stdout
        return parse_parameter(self._parameters, name)

    def _memory_units(self) -> tuple[int, int]:
        """Give the bytes in a unit of ``-M``, and in one of ``rusage``.

        Raises:
            ConfigError: The option names no unit.
        """
        asked = self.settings.options.get("memory_unit", "") or self._configured_unit()
        if not asked:
            # volclava 2.2 shows -M 51200 as a MEMLIMIT of 52428800 K. Others: bsub(1), -M.
            return _UNITS["MB" if self._is_volclava() else "KB"], _UNITS["MB"]
        unit = asked.upper() if len(asked) > 1 else f"{asked.upper()}B"
        if unit not in _UNITS:
            raise ConfigError(f"memory_unit is {asked!r}; known: {', '.join(_UNITS)}{nearest(asked, _UNITS)}")
        return _UNITS[unit], _UNITS[unit]

    def _configured_unit(self) -> str:
        if self.transport.is_here:
            folder = os.environ.get("LSF_ENVDIR", "")
        else:
            folder = self.run(["printenv", "LSF_ENVDIR"]).stdout.strip()
        kept = self.transport.read(os.path.join(folder or "/etc", "lsf.conf"))
        if kept is None:
            return self._shown_unit()
        return parse_parameter(kept.decode(errors="replace"), "LSF_UNIT_FOR_LIMITS")

    def _shown_unit(self) -> str:
        with suppress(CommandError):  # not every LSF has it, and not every user may
            shown = parse_parameter(self.run(["badmin", "showconf", "mbd"]).stdout, "LSF_UNIT_FOR_LIMITS")
            return shown if shown.upper()[:1] in "KMGTPE" and len(shown) < 3 else ""  # else a word for "not set"
        return ""

    def _is_volclava(self) -> bool:
        if not self._about:
            result = self.run(["lsid"])
            self.require_success(result, "cannot tell which LSF this is")
            self._about = result.stdout
        return self._about.lstrip().startswith("volclava")

    # ------------------------------------------------------------ submission

    def submit(self, submission: Submission) -> Submitted:
        spec, count = submission.spec, len(submission.directories)
        if spec.qos is not None:
            raise SubmitError(f"cannot ask for qos={spec.qos!r}: LSF has none; write extra_directives", self.name)
        if line := next((line for line in (*spec.prologue, *spec.epilogue) if line.startswith("#BSUB")), None):
            # bsub looks for them in all of its standard input, not in the script's head alone.
            raise SubmitError(
                f"{line!r} of prologue or epilogue would be a directive; write extra_directives", self.name
            )
        if count > 1 and count > self.array_limit():
            raise SubmitError(f"an array of {count} jobs, and the site allows {self.array_limit()}", self.name)
        self._refuse_what_no_host_holds(spec)
        try:
            submitted = super().submit(submission)
        except SubmitUnknown as error:
            if _LIMITS.search(error.stderr):  # bsub was still waiting for the limit to pass
                raise SubmitLimit("the site takes no more jobs now", self.name, error.command, error.stderr) from None
            raise
        self._names[submitted.native_ids[0].partition("[")[0]] = submission.name
        return submitted

    def _refuse_what_no_host_holds(self, spec: JobSpec) -> None:
        # LSF may take such a job, and let it wait for ever.
        if spec.cores > 1 and (largest := self._largest_host()) is not None and spec.cores > largest:
            raise SubmitError(f"the job asks for {spec.cores} cores per host, and there are {largest}", self.name)
        if spec.nodes > 1 and spec.nodes > (there := len(self._machines().splitlines()) - 1):
            raise SubmitError(f"the job asks for {spec.nodes} hosts, and there are {there}", self.name)
        sizes = [] if spec.memory_bytes is None else parse_memory_sizes(self._machines())
        if spec.memory_bytes is not None and sizes and spec.memory_bytes > max(sizes):
            wanted, most = math.ceil(spec.memory_bytes / 2**20), max(sizes) // 2**20
            raise SubmitError(f"the job asks for {wanted} MiB of memory per host, and there are {most}", self.name)

    def render_script(self, submission: Submission) -> str:
        directives = [f"#BSUB {directive}" for directive in self._directives(submission)]
        if submission.is_array:
            native_id, index = '"$LSB_JOBID[$LSB_JOBINDEX]"', '"$((LSB_JOBINDEX-1))"'
        else:
            native_id, index = '"$LSB_JOBID"', '""'
        body = shell_body(
            submission,
            native_id,
            index,
            id_variable="LSB_JOBID",
            # LSF itself shows what a job prints when it has ended.
            claimed=("unset LSB_NTRIES", 'exec >>"$cj_dir/stdout.log" 2>>"$cj_dir/stderr.log"'),
            interrupt="TERM",  # bkill sends INT first, and TERM ten seconds later (lsb.params(5))
            limit_signal="USR2",
        )
        return "\n".join(["#!/bin/bash", *directives, *body, ""])

    def _directives(self, submission: Submission) -> list[str]:
        spec = submission.spec
        many = f"[1-{len(submission.directories)}]" if submission.is_array else ""
        throttle = f"%{submission.max_concurrent}" if many and submission.max_concurrent else ""
        lines = [f'-J "{submission.name}{many}{throttle}"', f"-n {spec.cores * spec.nodes}"]
        needs = [] if spec.constraint is None else [f"select[{spec.constraint}]"]
        if spec.memory_bytes is not None:
            limit_unit, reserve_unit = self._memory_units()
            slots = spec.cores if spec.cores > 1 and self._reserves_per_task() else 1
            lines.append(f"-M {math.ceil(spec.memory_bytes / limit_unit)}")
            needs.append(f"rusage[mem={math.ceil(spec.memory_bytes / slots / reserve_unit)}]")
        if spec.nodes > 1:
            needs.append(f"span[ptile={spec.cores}]")
        elif spec.cores > 1:
            needs.append("span[hosts=1]")
        if needs:
            lines.append(f'-R "{" ".join(needs)}"')
        if spec.time_limit_s is not None:
            lines.append(f"-W {math.ceil(spec.time_limit_s / 60)}")
        if spec.gpus:
            lines.append(f'-gpu "num={spec.gpus}"')
        if spec.partition is not None:
            lines.append(f"-q {spec.partition}")
        if spec.account is not None:
            lines.append(f"-P {spec.account}")
        return [*lines, *spec.extra_directives]

    def _reserves_per_task(self) -> bool:
        return any(self._parameter(f"RESOURCE_RESERVE_PER_{what}").upper().startswith("Y") for what in ("TASK", "SLOT"))

    def submit_argv(self, submission: Submission, script: str) -> list[str]:
        # What the job prints goes to its own logs. LSF writes its report when the job has ended, and sends by mail what
        # it cannot write: in the job's directory, which may be gone by then, it would.
        more = submission.spec.extra_args
        return ["bsub", *([] if {"-o", "-oo"}.intersection(more) else ["-o", "/dev/null"]), *more]

    def submit_stdin(self, script_text: str) -> str:
        return script_text  # of a script that is named on the command line, bsub reads no directives

    def parse_submit(self, result: CommandResult, count: int) -> tuple[str, ...]:
        command = shlex.join(result.argv)
        said = result.stderr + result.stdout
        if found := _SUBMITTED.findall(result.stdout) or _SUBMITTED.findall(result.stderr):
            return (found[-1],) if count == 1 else self.element_ids(found[-1], count)
        if result.returncode == 0 or not said.strip():
            raise SubmitUnknown("bsub gave no job id", self.name, command, said)
        if _LIMITS.search(said):
            raise SubmitLimit("the site takes no more jobs now", self.name, command, said)
        if _NO_CLUSTER.search(said):
            raise BackendUnavailable("bsub knows no cluster", self.name, command, said)
        if _LOST_REPLIES.search(said):
            raise SubmitUnknown("bsub got no answer from the batch daemon", self.name, command, said)
        if _ROOT.search(said):
            hint = "LSF runs no jobs of root; run as an ordinary user"
            raise SubmitError(hint, self.name, command, said)
        raise SubmitError(f"bsub refused the job (exit code {result.returncode})", self.name, command, said)

    def element_ids(self, native_id: str, count: int) -> tuple[str, ...]:
        job = native_id.partition("[")[0]
        return tuple(f"{job}[{index}]" for index in range(1, count + 1))

    # ------------------------------------------------------------ questions

    def poll_argv(self, name_prefix: str) -> list[str]:
        return ["bjobs", "-a", *_POLLS[self._form]]

    def parse_poll(self, text: str, name_prefix: str) -> dict[str, QueuedJob]:
        return parse_jobs(text, name_prefix)

    def query(self, name_prefix: str) -> Mapping[str, QueuedJob]:
        for form in range(self._form, len(_POLLS)):
            result = self.run(["bjobs", "-a", *_POLLS[form]])
            if not (result.returncode and _UNKNOWN_FORM.search(result.stderr)):
                break
            self._form = min(form + 1, len(_POLLS) - 1)  # which another thread may have found out too
        if _NO_JOBS.search(result.stderr) and "{" not in result.stdout:
            return {}
        try:
            self.require_success(result, "cannot ask LSF about its jobs")
            found = self.parse_poll(result.stdout, name_prefix)
        except CommandError:
            # bjobs -o of volclava 2.2 was seen to die over thousands of jobs, its last line cut.
            if not result.stdout.strip() or "-w" in result.argv:
                raise
            table = self.run(["bjobs", "-a", *_POLLS[-1]])
            self.require_success(table, "cannot ask LSF about its jobs")
            found = self.parse_poll(table.stdout, name_prefix)
        return self._with_reasons(found)

    def _with_reasons(self, found: dict[str, QueuedJob]) -> dict[str, QueuedJob]:
        """Add why jobs wait, where bjobs has no field for it."""
        mute = {
            native_id: queued
            for native_id, queued in found.items()
            if queued.status.state is JobState.PENDING and not queued.status.detail
        }
        if not mute or self._form == 0:
            return found
        try:
            waits = parse_waits(self.run(["bjobs", "-p"]).stdout)
        except CommandError:
            return found  # where they are is known
        told = {
            native_id: QueuedJob(queued.name, status_of(queued.status.native_word, pending=waits[native_id]))
            for native_id, queued in mute.items()
            if native_id in waits
        }
        return {**found, **told}

    def explain(self, native_id: str) -> JobStatus | None:
        shown = self._ask_of_one(["bjobs", "-UF", native_id], native_id)
        told = self._told(shown, native_id)
        # Who killed it only the history tells; and it remembers jobs that bjobs has forgotten.
        if told is None or (told.state is JobState.FAILED and told.reason in (None, ExitReason.SIGNAL)):
            try:
                told = self._told(self._ask_of_one(["bhist", "-l", native_id], native_id), native_id) or told
            except CommandError:  # it reads the daemon's own files: not every host has them, and it may take minutes
                if told is None:
                    raise
        if told is not None and told.reason is ExitReason.SIGNAL and has_outgrown(shown):
            return replace(told, reason=ExitReason.OUT_OF_MEMORY, detail="it held more memory than its MEMLIMIT")
        return told

    def _told(self, text: str, native_id: str) -> JobStatus | None:
        return parse_prose(text, native_id, self._names.get(native_id.partition("[")[0], ""))

    def _ask_of_one(self, argv: list[str], native_id: str) -> str:
        try:
            result = self.run(argv)
            if result.returncode and _UNKNOWN_FORM.search(result.stderr):
                result = self.run([argv[0], "-l", native_id])
        except CommandNotFound:
            return ""
        if result.returncode and not _UNKNOWN_JOB.search(result.stderr + result.stdout):
            self.require_success(result, f"cannot ask about job {native_id}")
        return result.stdout

    def expected_environment(self, native_id: str, name: str, spec: JobSpec) -> Mapping[str, Expectation]:
        manual = "Spectrum LSF 10.1, environment variables set for job execution"
        job, bracket, rest = native_id.partition("[")
        index = rest.rstrip("]") or "0"
        # An element's is that of the whole array, as bsub was given it: sbatchd has it from mbatchd's packJobSpecs.
        whole = re.escape(name) + (r"\[[-,:\d]+\](%\d+)?" if bracket else "")
        hosts = rf"\S+ {spec.cores}" + rf"( \S+ {spec.cores}){{{spec.nodes - 1}}}"
        contract = {
            "LSB_JOBID": Expectation(job, source=manual),
            "LSB_JOBINDEX": Expectation(index, source=manual),
            "LSB_JOBNAME": Expectation(pattern=whole, source=manual),
            "LSB_MCPU_HOSTS": Expectation(pattern=hosts + r"\s*", source=manual),
        }
        if spec.partition is not None:  # of several, the one that could start it
            any_of = "|".join(map(re.escape, spec.partition.split(",")))
            contract["LSB_QUEUE"] = Expectation(pattern=any_of, source=manual)
        return {**super().expected_environment(native_id, name, spec), **contract}

    def told_resources(self, environment: Mapping[str, str]) -> Resources:
        hosts = environment.get("LSB_MCPU_HOSTS", "").split()  # name, slots, name, slots, ...
        slots = [int(each) for each in hosts[1::2] if each.isdigit()]
        return Resources(
            cores=slots[0] if slots else None, nodes=len(slots) or None, partition=environment.get("LSB_QUEUE")
        )

    def explain_sources(self) -> tuple[str, ...]:
        return ("bjobs -l", "bhist -l")

    def cancel_argv(self, native_ids: Sequence[str]) -> list[str]:
        return ["bkill", *_ranges(native_ids)]

    def is_harmless_cancel(self, stderr: str) -> bool:
        return all(_KILLED.search(line) for line in stderr.splitlines() if line.strip())


def _ranges(native_ids: Iterable[str]) -> list[str]:
    """Write ids as bkill takes them, all elements of one array in one word: ``7 8[1-200,204]``."""
    written: dict[str, list[int]] = {}
    for native_id in native_ids:
        job, bracket, index = native_id.partition("[")
        written.setdefault(job, []).extend([int(index.rstrip("]"))] if bracket else [])
    return [f"{job}[{_runs(sorted(indices))}]" if indices else job for job, indices in written.items()]


def _runs(numbers: list[int]) -> str:
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
