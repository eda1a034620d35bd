"""What command-line schedulers have in common: a script, a submit command, a bulk query, a cancel command.

A scheduler's file is a state table and six pure text functions. `shell_body` is the part of the script that is the same
everywhere: it claims the job, announces its start, runs the runner, and writes the exit code even when Python dies.
"""

from __future__ import annotations

import os
import re
import shlex
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

from pytest_clusterjobs.backends.base import ENVIRONMENT, Backend, QueuedJob, Submission, Submitted
from pytest_clusterjobs.core.errors import (
    BackendUnavailable,
    CommandError,
    CommandNotFound,
    CommandTimeout,
    ConnectionLost,
    SpecError,
    SubmitUnknown,
)
from pytest_clusterjobs.transports.base import CommandResult

__tracebackhide__ = True  # pytest leaves these frames out of its tracebacks


SCRIPT = "script.sh"

#: Exit code of the script when a module cannot be loaded.
EXIT_MODULE = 96

_MODULE_INIT = """\
if ! type module >/dev/null 2>&1; then
  for cj_init in /etc/profile.d/{lmod,modules}.sh /usr/share/lmod/lmod/init/bash /usr/share/modules/init/bash; do
    [ -r "$cj_init" ] && . "$cj_init" && break
  done
fi"""

_RUN = """\
cj_child= cj_signal=
cj_on_signal() { cj_signal=$1; [ -z "$cj_child" ] || kill -s "$1" "$cj_child" 2>/dev/null; }
trap 'cj_on_signal TERM' TERM
trap 'cj_on_signal {interrupt}' INT
trap 'cj_on_signal XCPU' XCPU"""

# Ends what has left the job's session, which a scheduler without control groups does not find; at the very end, for the
# end is not to wait for it. Not the script itself: a process shows the environment that it was started with. Not
# jobs of this job either. The path of a mark is like no other, as ids are not: another cluster's may be the same.
_SWEEP = """\
cj_sweep() {
  for cj_left in $(grep -lzxFs "CLUSTERJOBS_MARK=$cj_mark" /proc/[0-9]*/environ); do
    grep -qzxFs "ID_VARIABLE=$ID_VARIABLE" "$cj_left" || continue
    cj_left=${cj_left#/proc/}; kill -KILL "${cj_left%/environ}" 2>/dev/null || :
  done
}"""

_WAIT = """\
cj_child=$!
[ -z "$cj_signal" ] || cj_on_signal "$cj_signal"  # it came when the child had started and was not known yet
while :; do
  wait "$cj_child" && cj_code=0 || cj_code=$?
  kill -0 "$cj_child" 2>/dev/null || break
done
# A signal may have ended that wait just before the child itself ended: its own code is still to be had.
[ "$cj_code" -le 128 ] || {
  wait "$cj_child" 2>/dev/null && cj_late=0 || cj_late=$?
  case "$cj_late" in 127 | -1) ;; *) cj_code=$cj_late ;; esac  # -1: bash 5.2 has lost it, as it had just reaped it
}
cj_child="""

# LSF gives a job ten minutes from its run limit's signal on (bsub(1), -W). Whoever ignores SIGTERM would take them.
_AT_LIMIT = """\
cj_limit=
cj_at_limit() {
  cj_limit=1
  cj_on_signal TERM
  [ -z "$cj_child" ] || { sleep 10 && kill -s KILL "$cj_child"; } 2>/dev/null &
}
trap cj_at_limit {limit_signal}"""


def shell_body(
    submission: Submission,
    native_id: str,
    index: str,
    *,
    id_variable: str,
    claimed: Sequence[str] = (),
    reserved_codes: Sequence[int] = (),
    interrupt: str = "INT",
    limit_signal: str = "",
) -> list[str]:
    """Give the lines of a job script below its directives, for bash.

    Args:
        submission: What is run.
        native_id: A shell expression for the scheduler's id of this very job.
        index: A shell expression for the element's number in an array, from 0.
        id_variable: The variable by which the scheduler tells a job its id.
        claimed: Lines for the one copy that runs, before all others; ``$cj_dir`` is the job's directory.
        reserved_codes: Exit codes that mean something else to the scheduler: to it they become 1, to us they stay.
        interrupt: What a SIGINT is passed on as; what runs in the background of a shell ignores SIGINT itself.
        limit_signal: The signal, e.g. ``USR2``, by which the scheduler ends a job at its time limit. It is passed on as
            SIGTERM, ten seconds later as SIGKILL; to us the job ends by SIGTERM, to the scheduler by its own signal.
    """
    quote = shlex.quote
    element = f"/{index}" if submission.is_array else ""
    mark = (
        quote(submission.markers[0].removesuffix("0")) + index if submission.is_array else quote(submission.markers[0])
    )
    lines = [
        "umask 077",
        f"cj_dir={quote(submission.directory)}{element}",
        f"cj_mark={mark}",
        f"export CLUSTERJOBS_NATIVE_ID={native_id}",
        *([f"export CLUSTERJOBS_ARRAY_INDEX={index}"] if submission.is_array else []),
        "# One submission runs once: a second copy, made when a reply was lost, finds the claim taken and leaves.",
        '{ set -C; echo "$CLUSTERJOBS_NATIVE_ID" >"$cj_dir/claim"; } 2>/dev/null || {',
        '  read -r cj_owner <"$cj_dir/claim" && [ "$cj_owner" = "$CLUSTERJOBS_NATIVE_ID" ] || exit 0',
        "}",
        "set +C",
        _SWEEP.replace("ID_VARIABLE", id_variable),
        _at_exit(reserved_codes),
        *claimed,
        'export CLUSTERJOBS_MARK="$cj_mark"',
        ': >"$cj_mark.start"',
        f". {quote(os.path.join(submission.directory, ENVIRONMENT))}",
        _RUN.replace("{interrupt}", interrupt),
        *([_AT_LIMIT.replace("{limit_signal}", limit_signal)] if limit_signal else []),
    ]
    lines += [
        *module_lines(submission.spec.modules),
        *submission.spec.prologue,
        '[ -z "$cj_signal" ] || exit 143',
        f'{quote(submission.python)} -u {quote(submission.runner)} "$cj_dir" &',
        _WAIT,
    ]
    if submission.spec.epilogue:
        lines += ["(", 'export CLUSTERJOBS_EXIT_CODE="$cj_code"', *submission.spec.epilogue, ")"]
    if limit_signal:
        lines.append(f'[ -z "$cj_limit" ] || {{ cj_code=143; exit $((128 + $(kill -l {limit_signal}))); }}')
    return [*lines, 'exit "$cj_code"']


def _at_exit(reserved_codes: Sequence[int]) -> str:
    if not reserved_codes:
        return """trap 'printf %s "${cj_code:-$?}" >"$cj_mark"; cj_sweep' EXIT"""
    codes = "|".join(str(code) for code in reserved_codes)
    mark = 'cj_end=$?; printf %s "${cj_code:-$cj_end}" >"$cj_mark"; cj_sweep'
    return f"""trap '{mark}; case "$cj_end" in {codes}) exit 1 ;; esac' EXIT"""


def environment_text(environment: Mapping[str, str]) -> str:
    """Give the shell lines that export variables; kept in a file of their own, so that no script holds a value."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())


def module_lines(modules: Sequence[str]) -> list[str]:
    """Give the shell lines that load environment modules; they end the script where one cannot be loaded."""
    return [_MODULE_INIT, *map(_load_module, modules)] if modules else []


def _load_module(name: str) -> str:
    complaint = shlex.quote(f"clusterjobs: cannot load the environment module {name}")
    return f"module load {shlex.quote(name)} || {{ echo {complaint} >&2; exit {EXIT_MODULE}; }}"


class BatchBackend(Backend):
    """A scheduler that is spoken to by commands."""

    #: Environment variables with these prefixes would change what the commands do or print.
    foreign_prefixes: ClassVar[tuple[str, ...]] = ()
    #: Those among them that say where the scheduler is.
    needed_variables: ClassVar[frozenset[str]] = frozenset()
    #: What a native id looks like.
    id_pattern: ClassVar[re.Pattern[str]]
    #: How many ids go on one command line.
    ids_per_command: ClassVar[int] = 500
    #: What a directive's line begins with, e.g. ``#SBATCH``.
    directive_prefix: ClassVar[str] = ""
    #: Directives, as their lines go on, without which a job could not be found again: never left out.
    needed_directives: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def render_script(self, submission: Submission) -> str:
        """Give the job script: shebang, directives, body. Pure."""

    @abstractmethod
    def submit_argv(self, submission: Submission, script: str) -> list[str]:
        """Give the submit command for a script's path. Pure."""

    def submit_stdin(self, script_text: str) -> str | None:
        """Give what the submit command reads from its standard input, or None for nothing. Pure."""
        return None

    @abstractmethod
    def parse_submit(self, result: CommandResult, count: int) -> tuple[str, ...]:
        """Give the native ids of ``count`` jobs from what the submit command said. Pure.

        Raises:
            SubmitError: Refused.
            SubmitLimit: Refused for now.
            SubmitUnknown: Nobody knows.
        """

    @abstractmethod
    def poll_argv(self, name_prefix: str) -> list[str]:
        """Give the command that tells about all our jobs. Pure."""

    @abstractmethod
    def parse_poll(self, text: str, name_prefix: str) -> dict[str, QueuedJob]:
        """Read what it printed; only jobs whose name starts with ``name_prefix``. Pure."""

    @abstractmethod
    def cancel_argv(self, native_ids: Sequence[str]) -> list[str]:
        """Give the command that cancels jobs. Pure."""

    def job_environment(self, submission: Submission) -> Mapping[str, str]:
        """Give the variables that the script itself sets, from a file. Pure."""
        return submission.spec.env

    def submit_environment(self, submission: Submission) -> dict[str, str]:
        """Give the environment of the submit command, which many schedulers hand on to the job."""
        return self.clean(submission.environment)

    @abstractmethod
    def is_harmless_cancel(self, stderr: str) -> bool:
        """Tell whether a failed cancel command only says that a job has ended already. Pure."""

    def submit(self, submission: Submission) -> Submitted:
        script = os.path.join(submission.directory, SCRIPT)
        script_text = self.without_skipped(self.render_script(submission))
        environment = environment_text(self.job_environment(submission)).encode()
        files = {script: script_text.encode(), os.path.join(submission.directory, ENVIRONMENT): environment}
        self.transport.write_many(files, executable=(script,))
        argv = self.submit_argv(submission, script)
        command = shlex.join(argv)
        try:
            result = self.run(argv, self.submit_environment(submission), self.submit_stdin(script_text))
        except CommandTimeout as error:
            message = f"{argv[0]} did not answer within {self.settings.command_timeout_s:g} s"
            raise SubmitUnknown(message, self.name, command, error.stderr) from error
        except ConnectionLost as error:
            raise SubmitUnknown(str(error.args[0]), self.name, command, error.stderr) from error
        return Submitted(self.parse_submit(result, len(submission.directories)), command)

    def without_skipped(self, script: str) -> str:
        """Leave the directives out of a script that ``settings.directives_skip`` names.

        Raises:
            SpecError: A text would leave out a directive by which the job is found again.
        """
        skipped, prefix = self.settings.directives_skip, self.directive_prefix
        if not skipped or not prefix:
            return script
        kept: list[str] = []
        is_head = True
        for line in script.split("\n"):
            is_head = is_head and line.startswith("#")
            is_directive = is_head and line.startswith(f"{prefix} ")
            found = next((text for text in skipped if text in line), None) if is_directive else None
            if found is None:
                kept.append(line)
            elif line.removeprefix(prefix).lstrip().startswith(self.needed_directives or ("\0",)):
                raise SpecError(
                    f"directives_skip has {found!r}, which would leave out {line!r}: without it the job cannot be "
                    "found again; write more of the directive that is meant"
                )
        return "\n".join(kept)

    def query(self, name_prefix: str) -> Mapping[str, QueuedJob]:
        result = self.run(self.poll_argv(name_prefix))
        self.require_success(result, "cannot ask the scheduler about its jobs")
        return self.parse_poll(result.stdout, name_prefix)

    def cancel(self, native_ids: Collection[str]) -> None:
        for some in self.portions(native_ids):
            result = self.run(self.cancel_argv(some))
            if result.returncode and not self.is_harmless_cancel(result.stderr or result.stdout):
                self.require_success(result, "cannot cancel jobs")

    def portions(self, native_ids: Collection[str]) -> list[list[str]]:
        """Give ids in order, as many at a time as go on one command line.

        Raises:
            SpecError: One is no id of ours.
        """
        for native_id in native_ids:
            if not self.id_pattern.fullmatch(native_id):
                raise SpecError(f"{native_id!r} is no {self.name} job id of ours")
        ids = sorted(native_ids)
        return [ids[start : start + self.ids_per_command] for start in range(0, len(ids), self.ids_per_command)]

    def run(self, argv: Sequence[str], env: Mapping[str, str] | None = None, stdin: str | None = None) -> CommandResult:
        """Run a scheduler command with a time limit and without variables that would change what it does."""
        environment = None  # a login there has what its commands need
        if self.transport.is_here:
            environment = self.clean(os.environ) if env is None else env
        try:
            return self.transport.run(argv, self.settings.command_timeout_s, stdin=stdin, env=environment)
        except CommandNotFound as error:
            raise CommandNotFound(str(error.args[0]), self.name, error.command) from None

    def clean(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Leave out of an environment what would change the scheduler's commands."""
        kept = {name: value for name, value in environment.items() if not name.startswith(self.foreign_prefixes)}
        kept.update((name, os.environ[name]) for name in self.needed_variables if name in os.environ)
        return kept

    def require_success(self, result: CommandResult, what: str) -> None:
        """Raise `CommandError` unless a command succeeded."""
        if result.returncode:
            message = f"{what}: exit code {result.returncode}"
            raise CommandError(message, self.name, shlex.join(result.argv), result.stderr or result.stdout)

    def run_for_check(self, argv: Sequence[str], what: str) -> str:
        """Run a command of the probe and give what it printed.

        Raises:
            BackendUnavailable: It is missing, failed, or did not answer.
        """
        try:
            result = self.run(argv)
            self.require_success(result, what)
        except CommandNotFound as error:
            raise BackendUnavailable(str(error.args[0]), self.name) from None
        except CommandError as error:
            raise BackendUnavailable(str(error.args[0]), self.name, error.command, error.stderr) from None
        return result.stdout
