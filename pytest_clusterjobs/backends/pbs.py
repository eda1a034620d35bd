"""OpenPBS and PBS Pro, 19 to 23.06.06 and newer: qsub, qselect with qstat, qdel; pbsnodes only to know the site.

``cores`` become ``ncpus`` of a chunk and, above 1, its ``mpiprocs`` and ``ompthreads``, so that ``PBS_NODEFILE`` has a
line for each core, and ``NCPUS`` and ``OMP_NUM_THREADS`` are their number.
``memory`` is a chunk's ``mem``; PBS enforces it only where the site's execution daemons do (``$enforce mem``, cgroups).

The environment of a job: ``PBS_JOBID`` (our record's native id), ``PBS_JOBNAME``, ``PBS_QUEUE``, ``PBS_NODEFILE``,
``PBS_O_WORKDIR``, ``NCPUS``, and ``PBS_ARRAY_INDEX`` (from 0) in an array.
"""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
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
from pytest_clusterjobs.backends.pbs_text import (
    is_at_least,
    parse_entries,
    parse_log,
    parse_nodes,
    parse_queues,
    parse_version,
    status_of,
)
from pytest_clusterjobs.core.errors import (
    BackendUnavailable,
    StoreError,
    SubmitError,
    SubmitLimit,
    SubmitUnknown,
)
from pytest_clusterjobs.core.resources import Resources
from pytest_clusterjobs.core.spec import JobSpec
from pytest_clusterjobs.core.state import ExitReason, JobStatus
from pytest_clusterjobs.transports.base import CommandResult, Transport

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks


#: PBS Administrator's Guide, server attribute ``max_array_size``: what holds where it is not set.
_ARRAY_LIMIT = 10_000

# Refusals that pass: limits on the number of jobs: all, a user's, a group's, a project's (pbs_messages.c, msg_et_...).
# A hook's own words about a limit are a refusal.
_LIMITS = re.compile(
    r"would exceed ((queue|group|project|user) \S+'s |complex's )?(per-(group|project|user) )?limit\b|"
    r"Maximum number of jobs (in 'Q' state )?(for (group|project|user) \S+ )?already in "
)
_NO_CLUSTER = re.compile(r"Unknown Host|pbsconf error|No default server", re.IGNORECASE)
# After these nobody knows whether the server made the job: it does so even after its client was killed.
_LOST_REPLIES = re.compile(
    r"cannot connect to server|Connection (refused|timed out|reset)|End of File|Premature end|Batch protocol error|"
    r"Server shutting down|Server connection table full|No free connections"
)
_ROOT = re.compile(r"Bad UID for job execution")
# What qstat and qdel say of a job that is not there any more, or is about to go (pbs_messages.c, OpenPBS 23.06.06).
_GONE = re.compile(r"Unknown Job Id|Job has finished|Request invalid for (state of job|finished array subjob)")
# What qdel says of a job whose node is down.
_OUT_OF_REACH = re.compile(r"Server could not connect to MOM (\S+)")
_NO_HISTORY = re.compile(r"not configured to maintain job history")

# Set in a job by the execution daemon, or of the caller's shell: wrong in a job when they come from outside.
_OF_A_JOB = frozenset({"ENVIRONMENT", "NCPUS", "OMP_NUM_THREADS", "TMPDIR", "PWD", "OLDPWD", "SHLVL", "_"}) | {
    # Which GPUs are a job's: by the hook for control groups, or one of the site's.
    "CUDA_DEVICE_ORDER",
    "CUDA_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# A path may have a host and a colon before it, a comma ends it (qsub(1B), -o), and what is no printable ASCII is
# refused (prepare_path.c of OpenPBS 23.06.06).
_PLAIN_PATH = re.compile(r"((?![:,^])[ -~])+")
# Where the execution daemon writes what it has to say of a job, e.g. that its time is up.
_LOG = "scheduler.log"
# Ends of which the daemon may have said more.
_UNEXPLAINED = frozenset({ExitReason.NONZERO_EXIT, ExitReason.SIGNAL, ExitReason.LOST})
_RESOURCES = re.compile(r"[A-Za-z][\w-]*=[^:=\s]+(:[A-Za-z][\w-]*=[^:=\s]+)*")


class PbsBackend(BatchBackend):
    """OpenPBS and PBS Pro by their commands.

    ``constraint`` is added to the chunk: ``host=node7`` or ``cluster=fast:mem_type=hbm``. Jobs are not started again
    after their node was lost (``-r n``); elements of arrays may be, which PBS demands. The environment travels in a
    file of the job's own, not by ``-V``, which loses values with quotes and newlines and shows all of them to everybody
    who may see the job.
    """

    name: ClassVar[str] = "pbs"
    capabilities: ClassVar[frozenset[Capability]] = frozenset(Capability)
    foreign_prefixes: ClassVar[tuple[str, ...]] = ("PBS_", "BASH_FUNC_")
    # Of pbs.conf, what says where the server is and how to speak to it: variables go before the file.
    needed_variables: ClassVar[frozenset[str]] = frozenset(
        {
            "PBS_AUTH_METHOD",
            "PBS_BATCH_SERVICE_PORT",
            "PBS_CONF_FILE",
            "PBS_DEFAULT",
            "PBS_ENCRYPT_METHOD",
            "PBS_EXEC",
            "PBS_HOME",
            "PBS_LEAF_NAME",
            "PBS_PRIMARY",
            "PBS_SECONDARY",
            "PBS_SERVER",
            "PBS_SERVER_HOST_NAME",
        }
    )
    id_pattern: ClassVar[re.Pattern[str]] = re.compile(r"\d+(\[\d+\])?\.[A-Za-z0-9][\w.-]*")
    directive_prefix: ClassVar[str] = "#PBS"
    needed_directives: ClassVar[tuple[str, ...]] = ("-N ", "-J ")

    def __init__(self, transport: Transport, settings: BackendSettings) -> None:
        super().__init__(transport, settings)
        self._array_limit: int | None = None
        self._user: tuple[str, str] | None = None
        self._version = ""
        # Array -> number of its elements, of what this process submitted.
        self._sizes: dict[str, int] = {}
        # Job -> the file of the daemon's words, of what this process submitted.
        self._logs: dict[str, str] = {}

    # ------------------------------------------------------------ what there is

    def check(self) -> BackendInfo:
        said = self.run_for_check(["qstat", "--version"], "qstat does not start")
        self._version = parse_version(said)
        if not self._version:
            raise BackendUnavailable(
                "qstat is not that of OpenPBS or PBS Pro; Torque and Grid Engine have commands of the same names",
                self.name,
                "qstat --version",
                said,
            )
        for command in ("qsub", "qselect", "qdel"):
            self.run_for_check([command, "--version"], f"{command} does not start")
        server = self._server(self.run_for_check(["qstat", "-B", "-f"], "the server does not answer"))
        if server.get("server_state", "Active") not in ("Active", "Idle", "Scheduling", "Hot_Start"):
            raise BackendUnavailable(f"the server is {server['server_state']}", self.name, "qstat -B -f")
        self._user = self._parse_id(self.run_for_check(["id"], "cannot find out who we are"))
        if self._user[1] == "0" and "acl_roots" not in server:
            raise BackendUnavailable(
                "PBS runs no jobs of root unless its server's acl_roots allows it; run as an ordinary user", self.name
            )
        queues = self.run_for_check(["qstat", "-Q", "-f"], "cannot read the queues")
        nodes = parse_nodes(self.run_for_check(["pbsnodes", "-a"], "cannot read the nodes"))
        off = server.get("scheduling") != "True"
        idle = [*(["scheduling is off"] if off else []), *([] if nodes.up else ["no node is up"])]
        return BackendInfo(
            f"pbs {self._version}",
            nodes.total,
            nodes.cores,
            nodes.gpus,
            parse_queues(queues, server.get("default_queue", "")),
            self._array_limit,
            f"{' and '.join(idle)}: no job starts" if idle else "",
        )

    def _server(self, text: str) -> dict[str, str]:
        """Read ``qstat -B -f``, and remember the largest size of an array."""
        server = next((entry.attributes for entry in parse_entries(text)), {})
        limit = server.get("max_array_size", "")
        self._array_limit = int(limit) if limit.isdigit() else _ARRAY_LIMIT
        return server

    def array_limit(self) -> int:
        if self._array_limit is None:
            result = self.run(["qstat", "-B", "-f"])
            self.require_success(result, "cannot read max_array_size")
            self._server(result.stdout)
        return self._array_limit or _ARRAY_LIMIT

    def _who(self) -> tuple[str, str]:
        """Give name and number of the user whose jobs ours are."""
        if self._user is None:
            result = self.run(["id"])
            self.require_success(result, "cannot find out who we are")
            self._user = self._parse_id(result.stdout)
        return self._user

    def _parse_id(self, text: str) -> tuple[str, str]:
        """Read ``id``: name and number of the user."""
        found = re.match(r"uid=(\d+)(?:\((.*?)\))?", text)
        if not found:
            raise BackendUnavailable("id does not tell who we are", self.name, "id", text)
        return found[2] or found[1], found[1]

    # ------------------------------------------------------------ submission

    def submit(self, submission: Submission) -> Submitted:
        spec = submission.spec
        if spec.qos is not None:
            raise SubmitError(f"cannot ask for qos={spec.qos!r}: PBS has none; write extra_directives", self.name)
        if spec.constraint is not None and not _RESOURCES.fullmatch(spec.constraint):
            raise SubmitError(
                f"cannot ask for constraint={spec.constraint!r}: write resources of a chunk, e.g. 'host=node7'",
                self.name,
            )
        if submission.is_array and submission.max_concurrent:
            self._version = self._version or parse_version(self.run(["qstat", "--version"]).stdout)
            if not is_at_least(self._version, 20):
                raise SubmitError(
                    f"cannot limit how many elements of an array run at once: PBS {self._version} is older than 20",
                    self.name,
                )
        submitted = super().submit(submission)
        if submission.is_array:
            self._sizes[array_of(submitted.native_ids[0])] = len(submitted.native_ids)
        if _has_plain_path(submission):
            logs = (os.path.join(directory, _LOG) for directory in submission.directories)
            self._logs.update(zip(submitted.native_ids, logs, strict=True))
        return submitted

    def job_environment(self, submission: Submission) -> Mapping[str, str]:
        inherited = self.clean(submission.environment)
        kept = {
            name: value
            for name, value in inherited.items()
            if name not in _OF_A_JOB and name not in self.needed_variables and _NAME.fullmatch(name)
        }
        return {**kept, **submission.spec.env}

    def render_script(self, submission: Submission) -> str:
        directives = [f"#PBS {directive}" for directive in _directives(submission)]
        body = shell_body(
            submission,
            '"$PBS_JOBID"',
            '"$PBS_ARRAY_INDEX"' if submission.is_array else '""',
            id_variable="PBS_JOBID",
            claimed=('exec >>"$cj_dir/stdout.log" 2>>"$cj_dir/stderr.log"',),
        )
        return "\n".join(["#!/bin/bash", *directives, *body, ""])

    def submit_argv(self, submission: Submission, script: str) -> list[str]:
        # -f: leave no qsub behind that waits a minute for more submissions (qsub(1B)).
        return ["qsub", "-f", *_output(submission), *submission.spec.extra_args, script]

    def parse_submit(self, result: CommandResult, count: int) -> tuple[str, ...]:
        command = shlex.join(result.argv)
        said = result.stderr + result.stdout
        if result.returncode:
            if _ROOT.search(said):
                hint = (
                    "PBS runs no jobs of this user: root's need the server's acl_roots to allow it, so run as an "
                    "ordinary user; others' need an account on the server, and its flatuid or trust in this host"
                )
                raise SubmitError(hint, self.name, command, said)
            if _LIMITS.search(said):
                raise SubmitLimit("the site takes no more jobs now", self.name, command, said)
            if _NO_CLUSTER.search(said):
                raise BackendUnavailable("qsub knows no server", self.name, command, said)
            if _LOST_REPLIES.search(said):
                raise SubmitUnknown("qsub got no answer from the server", self.name, command, said)
            raise SubmitError(f"qsub refused the job (exit code {result.returncode})", self.name, command, said)
        # Hooks and wrappers of a site may print lines before.
        for line in reversed(result.stdout.splitlines()):
            if match := re.fullmatch(r"(\d+)(\[\])?(\.[A-Za-z0-9][\w.-]*)", line.strip()):
                return (match[0],) if count == 1 else self.element_ids(f"{match[1]}[0]{match[3]}", count)
        raise SubmitUnknown("qsub gave no job id", self.name, command, said)

    def element_ids(self, native_id: str, count: int) -> tuple[str, ...]:
        number, _, rest = native_id.partition("[")
        server = rest.partition("]")[2]
        return tuple(f"{number}[{index}]{server}" for index in range(count))

    # ------------------------------------------------------------ questions

    def poll_argv(self, name_prefix: str) -> list[str]:
        return ["qstat", "-t", "-f"]  # followed by the ids that qselect gives: other users' jobs may be many

    def parse_poll(self, text: str, name_prefix: str) -> dict[str, QueuedJob]:
        found = {}
        for entry in parse_entries(text):
            name = entry.attributes.get("Job_Name", "")
            if name.startswith(name_prefix) and self.id_pattern.fullmatch(entry.name):  # not an array as a whole
                found[entry.name] = QueuedJob(name, status_of(entry.attributes))
        return found

    def query(self, name_prefix: str) -> Mapping[str, QueuedJob]:
        selected = self.run(["qselect", "-u", self._who()[0]])
        self.require_success(selected, "cannot ask the server about its jobs")
        return self._ask(selected.stdout.split(), name_prefix)

    def _ask(self, native_ids: Sequence[str], name_prefix: str = "") -> dict[str, QueuedJob]:
        found: dict[str, QueuedJob] = {}
        for start in range(0, len(native_ids), self.ids_per_command):
            result = self.run([*self.poll_argv(name_prefix), *native_ids[start : start + self.ids_per_command]])
            if not self.is_harmless_cancel(result.stderr):  # of one that has just gone it only says so
                self.require_success(result, "cannot ask the server about its jobs")
            found.update(self.parse_poll(result.stdout, name_prefix))
        return found

    def explain(self, native_id: str) -> JobStatus | None:
        result = self.run(["qstat", "-x", "-f", native_id])
        if _NO_HISTORY.search(result.stderr):
            result = self.run(["qstat", "-f", native_id])
        if not self.is_harmless_cancel(result.stderr):
            self.require_success(result, f"cannot ask about job {native_id}")
        entries = (entry for entry in parse_entries(result.stdout) if entry.name == native_id)
        found = next((status_of(entry.attributes) for entry in entries), None)
        if found is not None and not (found.state.is_terminal and found.reason in _UNEXPLAINED):
            return found
        # Without a history, the default of a server, the daemon's own words are all that is left of an end. Of an
        # element of an array that lasts, the server then knows no more than that it failed.
        log = None
        if native_id in self._logs:
            with suppress(StoreError):
                log = self.transport.read(self._logs[native_id])
        told = parse_log((log or b"").decode(errors="replace"))
        return (
            found if told is None else replace(told if found is None else found, reason=told.reason, detail=told.detail)
        )

    def expected_environment(self, native_id: str, name: str, spec: JobSpec) -> Mapping[str, Expectation]:
        manual = "qsub(1B) 23.06, Environment Variables"
        contract = {
            "PBS_JOBID": Expectation(native_id, source=manual),
            "PBS_JOBNAME": Expectation(name, source=manual),
            "PBS_O_WORKDIR": Expectation(source=manual),
            "PBS_NODEFILE": Expectation(lines=spec.cores * spec.nodes, source="pbs_resources(7B), mpiprocs"),
            "NCPUS": Expectation(str(spec.cores), source="pbs_resources(7B), ompthreads"),
        }
        if element := re.match(r"\d+\[(\d+)\]", native_id):
            contract["PBS_ARRAY_INDEX"] = Expectation(element[1], source=manual)
        if spec.partition is not None:
            # Not PBS_QUEUE: that is where a routing queue has handed it to.
            contract["PBS_O_QUEUE"] = Expectation(spec.partition.partition("@")[0], source=manual)
        return {**super().expected_environment(native_id, name, spec), **contract}

    def told_resources(self, environment: Mapping[str, str]) -> Resources:
        cores = environment.get("NCPUS", "")
        queue = environment.get("PBS_QUEUE")
        is_routed = environment.get("PBS_O_QUEUE", queue) != queue
        return Resources(int(cores) if cores.isdigit() else None, partition=None if is_routed else queue)

    def explain_sources(self) -> tuple[str, ...]:
        return ("qstat -x -f", _LOG)

    # ------------------------------------------------------------ cancelling

    def cancel(self, native_ids: Collection[str]) -> None:
        for some in self.portions(native_ids):
            # qdel of several jobs, one of which has gone, tells of that one and not what it did with the others.
            result = self.run(self.cancel_argv(some))
            if not result.returncode:
                continue
            named = set(_OUT_OF_REACH.findall(result.stderr))
            self._require_gone(result, _OUT_OF_REACH)
            left = self._still_there(some)
            down = {nodes for native_id, nodes in left.items() if {native_id, array_of(native_id)} & named} - {""}
            lost = [native_id for native_id, nodes in left.items() if nodes in down]
            if lost:
                # Nobody is there to tell the job; without force it would be seen running until its node is back.
                self._require_gone(self.run(["qdel", "-W", "force", *lost]))
            if others := [native_id for native_id in left if native_id not in lost]:
                self._require_gone(self.run(self.cancel_argv(others)))

    def _require_gone(self, result: CommandResult, other: re.Pattern[str] = _GONE) -> None:
        """Raise `CommandError` unless qdel worked, or complains only of jobs that have gone or match ``other``."""
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        if not lines or not all(_GONE.search(line) or other.search(line) for line in lines):
            self.require_success(result, "cannot cancel jobs")

    def _still_there(self, native_ids: Collection[str]) -> dict[str, str]:
        """Give those of some jobs that have not ended, and the nodes of each."""
        there = self._ask(sorted({array_of(native_id) for native_id in native_ids}))
        states = {native_id: there[native_id].status for native_id in native_ids if native_id in there}
        return {native_id: status.nodes for native_id, status in states.items() if not status.state.is_terminal}

    def cancel_argv(self, native_ids: Sequence[str]) -> list[str]:
        """Give the command that cancels jobs; an array of which all are named, as one."""
        wanted: dict[str, list[str]] = {}
        for native_id in native_ids:
            wanted.setdefault(array_of(native_id), []).append(native_id)
        words = []
        for array, elements in wanted.items():
            words += [array] if len(elements) == self._sizes.get(array) else elements
        return ["qdel", *words]

    def is_harmless_cancel(self, stderr: str) -> bool:
        lines = [line for line in stderr.splitlines() if line.strip()]
        return bool(lines) and all(_GONE.search(line) for line in lines)


def array_of(native_id: str) -> str:
    """Give the id of an element's array, ``7[].server`` for ``7[3].server``; a single job's is its own."""
    return re.sub(r"\[\d*\]", "[]", native_id)


def _directives(submission: Submission) -> list[str]:
    spec = submission.spec
    chunk = [f"ncpus={spec.cores}"]
    if spec.cores > 1:
        # pbs_resources(7B): mpiprocs, by default 1, are the lines of PBS_NODEFILE; ompthreads become NCPUS.
        chunk += [f"mpiprocs={spec.cores}", f"ompthreads={spec.cores}"]
    if spec.memory_bytes is not None:
        chunk.append(f"mem={math.ceil(spec.memory_bytes / 2**20)}mb")
    if spec.gpus:
        chunk.append(f"ngpus={spec.gpus}")
    if spec.constraint is not None:
        chunk.append(spec.constraint)
    lines = [
        f"-N {submission.name}",
        "-S /bin/bash",
        # qsub refuses arrays that may not be started again, which some sites make the default (qsub(1B), -r).
        "-r y" if submission.is_array else "-r n",
        "-m n",
        f"-l select={spec.nodes}:{':'.join(chunk)}",
    ]
    if spec.nodes > 1:
        lines.append("-l place=scatter")
    if spec.time_limit_s is not None:
        minutes, seconds = divmod(math.ceil(spec.time_limit_s), 60)
        lines.append(f"-l walltime={minutes // 60:02}:{minutes % 60:02}:{seconds:02}")
    if spec.partition is not None:
        lines.append(f"-q {spec.partition}")
    if spec.account is not None:
        lines.append(f"-A {spec.account}")
    if submission.is_array:
        throttle = f"%{submission.max_concurrent}" if submission.max_concurrent else ""
        lines.append(f"-J 0-{len(submission.directories) - 1}{throttle}")
    return [*lines, *spec.extra_directives]


def _output(submission: Submission) -> list[str]:
    """Say where the little goes that is not in the job's own logs: what the daemons print of it.

    ``-k oed`` has it written there at once. Without it, it would be copied at the end, by ``scp`` where the site says
    no better, and the job would be seen exiting for as long as that takes.
    """
    if not _has_plain_path(submission):
        return ["-j", "oe", "-o", "/dev/null"]
    element = "^array_index^" if submission.is_array else ""
    return ["-j", "oe", "-k", "oed", "-o", os.path.join(submission.directory, element, _LOG)]


def _has_plain_path(submission: Submission) -> bool:
    return _PLAIN_PATH.fullmatch(submission.directory) is not None
