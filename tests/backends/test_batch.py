"""The script that all command-line schedulers share, run by a real bash; and what their commands have in common."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pytest_clusterjobs.backends.base import ENVIRONMENT, BackendInfo, BackendSettings, QueuedJob, Submission
from pytest_clusterjobs.backends.batch import EXIT_MODULE, SCRIPT, BatchBackend, environment_text, shell_body
from pytest_clusterjobs.backends.slurm import SlurmBackend
from pytest_clusterjobs.core.errors import (
    BackendUnavailable,
    CommandError,
    CommandNotFound,
    CommandTimeout,
    SpecError,
    SubmitUnknown,
)
from pytest_clusterjobs.core.spec import make_spec
from pytest_clusterjobs.core.state import JobState, JobStatus
from pytest_clusterjobs.transports.base import CommandResult
from pytest_clusterjobs.transports.local import LocalTransport
from tests import watching
from tests.backends.spoken import Answer, Answering

wait_for = partial(watching.wait_for, within_s=10)


class Paper:
    """A job script in a directory, and what running it left there."""

    def __init__(self, root: Path, runner: str = "exit 0", count: int = 1, **spec: Any) -> None:
        self.directory = root / "job"
        self.directory.mkdir(parents=True)
        (root / "marks").mkdir()
        (root / "run.sh").write_text(runner)
        folders = [self.directory / str(index) for index in range(count)] if count > 1 else [self.directory]
        for folder in folders:
            folder.mkdir(exist_ok=True)
        self.mark = root / "marks" / ("7.0" if count > 1 else "7")
        self.submission = Submission(
            name="cj-0badcafe-7-x",
            spec=make_spec(**spec),
            directories=tuple(map(str, folders)),
            directory=str(self.directory),
            markers=tuple(str(root / "marks" / (f"7.{i}" if count > 1 else "7")) for i in range(count)),
            runner=str(root / "run.sh"),
            python="/bin/bash",
        )
        lines = shell_body(self.submission, '"$NATIVE"', '"$INDEX"' if count > 1 else '""', id_variable="NATIVE")
        (self.directory / SCRIPT).write_text("\n".join(["#!/bin/bash", *lines, ""]))
        (self.directory / ENVIRONMENT).write_text(environment_text(self.submission.spec.env))

    def start(self, native_id: str = "11", **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["/bin/bash", str(self.directory / SCRIPT)],
            env={"PATH": os.environ["PATH"], "NATIVE": native_id, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, native_id: str = "11", **environment: str) -> tuple[int, str, str]:
        process = self.start(native_id, **environment)
        stdout, stderr = process.communicate(timeout=20)
        return process.returncode, stdout, stderr


# ---------------------------------------------------------------- what a job leaves


@pytest.mark.parametrize("code", [0, 1, 42, 128, 255])
def test_exit_code_is_in_the_mark_and_is_the_script_s(tmp_path: Path, code: int) -> None:
    paper = Paper(tmp_path, f"exit {code}")
    assert paper.run()[0] == code
    assert paper.mark.read_text() == str(code)


def test_signal_that_ended_the_runner_is_in_the_mark(tmp_path: Path) -> None:
    paper = Paper(tmp_path, "kill -9 $$")
    paper.run()
    assert paper.mark.read_text() == "137"


def test_start_is_announced_before_the_runner_and_names_the_job(tmp_path: Path) -> None:
    paper = Paper(tmp_path, 'ls "$MARKS"; echo "$1"; echo "$CLUSTERJOBS_NATIVE_ID"')
    assert paper.run(MARKS=str(tmp_path / "marks"))[1].split("\n")[:3] == ["7.start", str(paper.directory), "11"]


def test_files_of_the_job_are_for_us_alone(tmp_path: Path) -> None:
    paper = Paper(tmp_path, 'touch "$1/made"')
    paper.run()
    modes = {path.stat().st_mode & 0o077 for path in [paper.mark, paper.directory / "claim", paper.directory / "made"]}
    assert modes == {0}


@pytest.mark.parametrize("folder", ["a b", "100%s", "it's", 'say "x"', "$HOME", "`id`", "a\nb", "ünï", "-x", "*"])
def test_paths_of_any_kind_stay_whole(tmp_path: Path, folder: str) -> None:
    paper = Paper(tmp_path / folder, 'printf %s "$1"; exit 3')
    assert paper.run()[:2] == (3, str(paper.directory))
    assert paper.mark.read_text() == "3"


def test_element_of_an_array_has_its_own_directory_mark_and_index(tmp_path: Path) -> None:
    paper = Paper(tmp_path, 'printf "%s %s" "$1" "$CLUSTERJOBS_ARRAY_INDEX"; exit "$CLUSTERJOBS_ARRAY_INDEX"', count=3)
    for index in range(3):
        assert paper.run(f"11_{index}", INDEX=str(index))[1] == f"{paper.directory}/{index} {index}"
    assert [(tmp_path / "marks" / f"7.{index}").read_text() for index in range(3)] == ["0", "1", "2"]


# ---------------------------------------------------------------- once and only once


def test_second_copy_of_a_submission_leaves_without_a_trace(tmp_path: Path) -> None:
    """A submit command that our time limit killed can still have made the job: another one must not run twice."""
    paper = Paper(tmp_path, 'echo ran; echo ran >>"$1/count"; exit 5')
    assert paper.run("11")[:2] == (5, "ran\n")
    assert paper.run("12")[:2] == (0, "")
    assert paper.mark.read_text() == "5"
    assert (paper.directory / "count").read_text() == "ran\n"


def test_requeued_job_runs_again_under_its_own_id(tmp_path: Path) -> None:
    paper = Paper(tmp_path, 'echo ran; [ -e "$1/again" ] || { touch "$1/again"; exit 5; }')
    assert paper.run("11")[0] == 5
    assert paper.run("11")[:2] == (0, "ran\n")
    assert paper.mark.read_text() == "0"


# ---------------------------------------------------------------- shell lines around it


def test_lines_run_in_order_in_one_shell(tmp_path: Path) -> None:
    paper = Paper(
        tmp_path,
        'echo "job $SET"',
        prologue=["echo before", "export SET=here", "value=kept"],
        epilogue=['echo "after $SET $value"'],
    )
    assert paper.run()[1].splitlines() == ["before", "job here", "after here kept"]


@pytest.mark.parametrize("line", ["true", "exit 0", "false", "exit 9", "cj_code=0", "trap - EXIT", "kill -9 $BASHPID"])
def test_epilogue_cannot_change_the_exit_code(tmp_path: Path, line: str) -> None:
    paper = Paper(tmp_path, "exit 4", epilogue=[line])
    assert paper.run()[0] == 4
    assert paper.mark.read_text() == "4"


def test_epilogue_knows_the_exit_code(tmp_path: Path) -> None:
    assert Paper(tmp_path, "exit 4", epilogue='echo "$CLUSTERJOBS_EXIT_CODE"').run()[1] == "4\n"


def test_prologue_that_ends_the_script_is_the_job_s_end(tmp_path: Path) -> None:
    paper = Paper(tmp_path, "echo must not run", prologue="exit 6")
    assert paper.run()[:2] == (6, "")
    assert paper.mark.read_text() == "6"


@pytest.mark.parametrize("code", [0, 4])
def test_strict_prologue_keeps_epilogue_and_exit_code(tmp_path: Path, code: int) -> None:
    """After ``set -e`` in the prologue, a job that failed had no epilogue."""
    paper = Paper(tmp_path, f"exit {code}", prologue="set -euo pipefail", epilogue=["echo after"])
    assert paper.run() == (code, "after\n", "")
    assert paper.mark.read_text() == str(code)


def test_strict_prologue_does_not_leave_the_job_at_the_first_signal(tmp_path: Path) -> None:
    """After ``set -e`` in the prologue, a signal ended the script and left the job behind."""
    runner = "trap 'echo cleaned; exit 8' TERM; echo up; while :; do sleep 0.01; done"
    paper = Paper(tmp_path, runner, prologue="set -e")
    process = paper.start()
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.terminate()
    assert process.communicate(timeout=10)[0] == "cleaned\n"
    assert paper.mark.read_text() == "8"


def test_module_that_cannot_be_loaded_ends_the_job_and_is_named(tmp_path: Path) -> None:
    paper = Paper(tmp_path, "echo must not run", modules=["no-such/1.0"])
    code, stdout, stderr = paper.run()
    assert (code, stdout) == (EXIT_MODULE, "")
    assert "cannot load the environment module no-such/1.0" in stderr
    assert paper.mark.read_text() == str(EXIT_MODULE)


def test_modules_are_loaded_in_order_before_the_prologue(tmp_path: Path) -> None:
    paper = Paper(tmp_path, "echo job", modules=["gcc/12", "openmpi"], prologue="echo prologue")
    module = {"BASH_FUNC_module%%": '() { echo "$@"; }'}
    assert paper.run(**module)[1].splitlines() == ["load gcc/12", "load openmpi", "prologue", "job"]


def test_environment_arrives_unharmed_and_is_in_no_script(tmp_path: Path) -> None:
    env = {"A": "a b", "B": "$(id) `id` $HOME", "C": 'it\'s "x"\nsecond\n', "D": "", "E": "\\n \\", "F": "s3cret"}
    paper = Paper(tmp_path, 'for name in A B C D E F; do printf "%s|" "${!name}"; done', env=env)
    assert paper.run()[1].split("|")[:-1] == list(env.values())
    assert "s3cret" not in (paper.directory / SCRIPT).read_text()


# ---------------------------------------------------------------- signals


def test_signal_for_the_script_reaches_the_job_and_its_end_decides(tmp_path: Path) -> None:
    paper = Paper(
        tmp_path,
        "trap 'echo cleaned; exit 8' TERM; echo up; while :; do sleep 0.01; done",
        epilogue="echo after",
    )
    process = paper.start()
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.terminate()
    assert process.communicate(timeout=10)[0] == "cleaned\nafter\n"
    assert paper.mark.read_text() == "8"


def test_signal_that_the_job_survives_ends_nothing(tmp_path: Path) -> None:
    """Elsewhere the wrapper reported the end of a job that lived on."""
    runner = "trap 'echo term' TERM; trap 'echo cpu' XCPU; echo up; until [ -e \"$1/go\" ]; do sleep 0.05; done; exit 3"
    paper = Paper(tmp_path, runner)
    process = paper.start()
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    for number, word in ((signal.SIGTERM, "term\n"), (signal.SIGXCPU, "cpu\n")):
        process.send_signal(number)
        assert process.stdout.readline() == word
    assert not paper.mark.exists()
    (paper.directory / "go").touch()
    process.communicate(timeout=10)
    assert process.returncode == 3
    assert paper.mark.read_text() == "3"


def test_signal_for_all_processes_at_once_is_in_the_mark(tmp_path: Path) -> None:
    """In every third job that Slurm ended so the mark said -1, which nobody could read: bash had lost the exit code."""
    for turn in range(12):
        paper = Paper(tmp_path / str(turn), "echo up; exec sleep 100")
        process = paper.start()
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=10)
        assert (process.returncode, paper.mark.read_text()) == (143, "143")


def test_signal_in_the_prologue_keeps_the_job_from_starting(tmp_path: Path) -> None:
    paper = Paper(tmp_path, "echo must not run", prologue=["echo up", 'until [ -e "$cj_dir/go" ]; do sleep 0.01; done'])
    process = paper.start()
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.terminate()
    (paper.directory / "go").touch()
    assert process.communicate(timeout=10)[0] == ""
    assert paper.mark.read_text() == "143"


def test_mark_is_written_once_the_runner_is_killed_and_not_before(tmp_path: Path) -> None:
    paper = Paper(tmp_path, 'echo $$ >"$1/pid"; exec sleep 100')
    process = paper.start()
    pid = paper.directory / "pid"
    wait_for(lambda: pid.exists() and pid.read_text().strip())
    assert not paper.mark.exists()
    os.kill(int(pid.read_text()), signal.SIGKILL)
    process.communicate(timeout=10)
    assert process.returncode == 137
    assert paper.mark.read_text() == "137"


# ---------------------------------------------------------------- commands


class PaperBackend(BatchBackend):
    """A scheduler of six commands that nobody has."""

    name: ClassVar[str] = "paper"
    capabilities = frozenset()
    foreign_prefixes: ClassVar[tuple[str, ...]] = ("PAPER_",)
    needed_variables: ClassVar[frozenset[str]] = frozenset({"PAPER_CONF"})
    id_pattern: ClassVar[re.Pattern[str]] = re.compile(r"\d+")
    ids_per_command: ClassVar[int] = 2

    def check(self) -> BackendInfo:
        return BackendInfo(self.run_for_check(["psub", "--version"], "psub does not start"))

    def explain(self, native_id: str) -> JobStatus | None:
        return None

    def render_script(self, submission: Submission) -> str:
        return "script"

    def submit_argv(self, submission: Submission, script: str) -> list[str]:
        return ["psub", script]

    def parse_submit(self, result: CommandResult, count: int) -> tuple[str, ...]:
        return tuple(result.stdout.split())

    def poll_argv(self, name_prefix: str) -> list[str]:
        return ["pstat"]

    def parse_poll(self, text: str, name_prefix: str) -> dict[str, QueuedJob]:
        return {text: QueuedJob(name_prefix, JobStatus(JobState.RUNNING))}

    def cancel_argv(self, native_ids: Sequence[str]) -> list[str]:
        return ["pdel", *native_ids]

    def is_harmless_cancel(self, stderr: str) -> bool:
        return stderr == "gone"


def backend(answer: Answer) -> tuple[PaperBackend, Answering]:
    transport = Answering({"": answer})
    return PaperBackend(transport, BackendSettings(command_timeout_s=3)), transport


def result(stdout: str = "", stderr: str = "", code: int = 0) -> Answer:
    return code, stdout, stderr


@pytest.fixture
def submission(tmp_path: Path) -> Submission:
    paper = Paper(tmp_path, env={"SECRET": "x"})
    for name in (SCRIPT, ENVIRONMENT):
        (paper.directory / name).unlink()
    return paper.submission


def test_submit_writes_script_and_environment_before_the_command(submission: Submission) -> None:
    made, transport = backend(result("5"))
    submitted = made.submit(submission)
    script = Path(submission.directory) / SCRIPT
    assert (submitted.native_ids, submitted.command) == (("5",), f"psub {script}")
    assert script.read_text() == "script"
    assert script.stat().st_mode & 0o777 == 0o700
    assert (Path(submission.directory) / ENVIRONMENT).stat().st_mode & 0o777 == 0o600
    assert transport.asked == [("psub", str(script))]


def test_submit_command_that_hangs_may_have_made_the_job(submission: Submission) -> None:
    made, _ = backend(CommandTimeout("psub did not end", command="psub"))
    with pytest.raises(SubmitUnknown, match="psub did not answer within 3 s"):
        made.submit(submission)


def test_submit_command_that_is_missing_is_named_with_the_backend(submission: Submission) -> None:
    made, _ = backend(CommandNotFound("psub not found on PATH", command="psub x"))
    with pytest.raises(CommandNotFound, match="paper: psub not found on PATH"):
        made.submit(submission)


def test_every_command_has_the_time_limit_and_no_foreign_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAPER_OPTIONS", "--hold")
    monkeypatch.setenv("PAPER_CONF", "/etc/paper")
    monkeypatch.setenv("OTHER", "kept")
    made, transport = backend(result("5"))
    made.query("cj-")
    (given,) = transport.environments
    assert transport.limits_s == [3]
    assert "PAPER_OPTIONS" not in given
    assert (given["PAPER_CONF"], given["OTHER"]) == ("/etc/paper", "kept")


def test_job_does_not_inherit_the_job_that_submits_it(submission: Submission, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables such as SLURM_JOB_ID of the caller's own allocation changed what the submit command did."""
    monkeypatch.setenv("PAPER_CONF", "/etc/paper")
    made, transport = backend(result("5"))
    made.submit(submission)
    assert transport.environments == [{"PAPER_CONF": "/etc/paper"}]


def test_failed_query_is_an_error_with_what_the_command_said() -> None:
    made, _ = backend(result(stderr="no route", code=3))
    with pytest.raises(CommandError, match=r"cannot ask.*exit code 3") as caught:
        made.query("cj-")
    assert (caught.value.stderr, caught.value.command, caught.value.backend) == ("no route", "pstat", "paper")


def test_cancel_goes_in_groups_that_a_command_line_can_hold() -> None:
    made, transport = backend(result())
    made.cancel(["3", "1", "2"])
    assert transport.asked == [("pdel", "1", "2"), ("pdel", "3")]


def test_cancel_of_something_that_is_no_id_runs_nothing() -> None:
    made, transport = backend(result())
    for bad in ("-1", "", "1 2", "all"):
        with pytest.raises(SpecError, match="no paper job id"):
            made.cancel(["1", bad])
    assert transport.asked == []


def test_cancel_that_only_says_gone_is_no_error_and_another_is() -> None:
    backend(result(stderr="gone", code=1))[0].cancel(["1"])
    with pytest.raises(CommandError, match="cannot cancel jobs"):
        backend(result(stderr="denied", code=1))[0].cancel(["1"])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (CommandNotFound("psub not found on PATH"), "psub not found on PATH"),
        (CommandTimeout("psub did not end within 3 s"), "did not end within 3 s"),
        (result(stderr="no controller", code=1), "psub does not start"),
    ],
)
def test_probe_that_fails_says_how(answer: Answer, said: str) -> None:
    with pytest.raises(BackendUnavailable, match=said):
        backend(answer)[0].check()


# ---------------------------------------------------------------- directives_skip


def skipping(*texts: str) -> SlurmBackend:
    return SlurmBackend(LocalTransport(), BackendSettings(directives_skip=texts))


SCRIPT_TEXT = (
    "#!/bin/bash\n#SBATCH --job-name=cj-1\n#SBATCH --mem=5M\n#SBATCH --cpus-per-task=1\necho '#SBATCH --mem'\n"
)


def test_skipped_directives_are_left_out_and_no_other_line() -> None:
    expected = "#!/bin/bash\n#SBATCH --job-name=cj-1\necho '#SBATCH --mem'\n"
    assert skipping("--mem", "cpus-per").without_skipped(SCRIPT_TEXT) == expected


def test_nothing_to_skip_leaves_the_script_as_it_is() -> None:
    assert skipping().without_skipped(SCRIPT_TEXT) == skipping("--gres").without_skipped(SCRIPT_TEXT) == SCRIPT_TEXT


def test_a_job_s_name_cannot_be_skipped() -> None:
    with pytest.raises(SpecError, match=r"directives_skip has 'job'.*--job-name=cj-1.*cannot be found again"):
        skipping("job").without_skipped(SCRIPT_TEXT)
