"""What Slurm is told, and what its words mean. Everything it says here was recorded from a real 22.05."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.backends.base import BackendSettings
from pytest_clusterjobs.backends.slurm import (
    STATES,
    SlurmBackend,
    parse_sacct,
    parse_scontrol,
    parse_sinfo,
    status_of,
)
from pytest_clusterjobs.core.errors import (
    BackendUnavailable,
    CommandError,
    CommandNotFound,
    SpecError,
    SubmitError,
    SubmitLimit,
    SubmitUnknown,
)
from pytest_clusterjobs.core.resources import Resources
from pytest_clusterjobs.core.spec import make_spec
from pytest_clusterjobs.core.state import ExitReason, JobState, JobStatus
from pytest_clusterjobs.transports.base import CommandResult
from tests.backends.spoken import PREFIX, Answering, directives_of, submission, way_of

DATA = Path(__file__).parent / "data" / "slurm"


def recorded(name: str) -> str:
    return (DATA / f"{name}.txt").read_text()


def backend(**answers: Any) -> SlurmBackend:
    return SlurmBackend(Answering(answers), BackendSettings(python="/usr/bin/python3"))


def script(**options: Any) -> str:
    return backend().render_script(submission(**options))


def directives(**options: Any) -> list[str]:
    return directives_of(script(**options), "#SBATCH")


# ---------------------------------------------------------------- the script


def test_script_of_a_job_that_asks_for_nothing() -> None:
    assert script() == (DATA / "script-plain.sh").read_text()


def test_script_of_an_array_that_asks_for_everything() -> None:
    everything = script(
        count=3,
        limit=2,
        cores=4,
        memory="1.5GB",
        time="1-02:03:04",
        gpus=2,
        nodes=2,
        partition="compute",
        account="physics",
        qos="high",
        constraint="skylake&ib",
        env={"TOKEN": "secret"},
        modules=["gcc/12", "openmpi"],
        prologue=["source venv/bin/activate", "ulimit -s unlimited"],
        epilogue=["rm -rf scratch"],
        extra_args=["--reservation=today"],
        extra_directives=["--exclusive", '--comment="two words"'],
    )
    assert everything == (DATA / "script-array.sh").read_text()


def test_script_has_its_parts_in_order() -> None:
    lines = script(modules="gcc", prologue="setup-line", epilogue="teardown-line").splitlines()
    directive = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    module = next(number for number, line in enumerate(lines) if line.startswith("module load gcc"))
    command = next(number for number, line in enumerate(lines) if "/jobs/node/start.py" in line)
    assert lines[0] == "#!/bin/bash"
    assert directive == list(range(1, len(directive) + 1))
    assert directive[-1] < module < lines.index("setup-line") < command < lines.index("teardown-line")
    assert lines[-1] == 'exit "$cj_code"'


def test_script_is_bash_without_a_syntax_error(tmp_path: Path) -> None:
    for text in (script(), script(count=2, modules="gcc", prologue=["if true; then", "echo; fi"], epilogue="echo")):
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "--cpus-per-task=1"),
        ({"cores": 8}, "--cpus-per-task=8"),
        ({"memory": 1}, "--mem=1M"),
        ({"memory": 2**20}, "--mem=1M"),
        ({"memory": 2**20 + 1}, "--mem=2M"),
        ({"memory": "8GB"}, "--mem=8192M"),
        ({"time": 0.5}, "--time=00:00:01"),
        ({"time": "36:00:00"}, "--time=1-12:00:00"),
        ({"gpus": 3}, "--gres=gpu:3"),
        ({"nodes": 2}, "--ntasks-per-node=1"),
        ({"queue": "long"}, "--partition=long"),
        ({"account": "a"}, "--account=a"),
        ({"qos": "q"}, "--qos=q"),
        ({"constraint": "[rack1|rack2]"}, "--constraint=[rack1|rack2]"),
        ({"extra_directives": "--exclusive"}, "--exclusive"),
        ({"count": 100, "limit": 15}, "--array=0-99%15"),
        ({"count": 100}, "--array=0-99"),
    ],
)
def test_every_resource_is_said(asked: dict[str, Any], said: str) -> None:
    assert said in directives(**asked)


def test_what_is_not_asked_for_has_no_directive() -> None:
    assert directives() == [f"--job-name={PREFIX}1-solve", "--nodes=1", "--ntasks=1", "--cpus-per-task=1"]


def test_values_of_env_are_in_no_script_and_no_command() -> None:
    secret = submission(env={"TOKEN": "s3cret"})
    assert "s3cret" not in backend().render_script(secret)
    assert "s3cret" not in shlex.join(backend().submit_argv(secret, "/jobs/script.sh"))
    assert "s3cret" not in repr(secret)


@pytest.mark.parametrize("field", ["partition", "account", "qos", "constraint"])
@pytest.mark.parametrize("hostile", ["a\n#SBATCH --uid=0", "a b", "a;b", "$(id)", "`id`", "", 'a"b', "a#b"])
def test_hostile_names_never_reach_a_script(field: str, hostile: str) -> None:
    """A newline in a queue's name added lines to the job script elsewhere."""
    with pytest.raises(SpecError, match=field):
        make_spec(**{field: hostile})


@pytest.mark.parametrize("line", ["--a\n--b", "\r", "  ", "#SBATCH --x"])
def test_extra_directives_are_single_lines_without_prefix(line: str) -> None:
    with pytest.raises(SpecError, match="extra_directives"):
        make_spec(extra_directives=[line])


# ---------------------------------------------------------------- the submit command


def test_submit_command_overrides_what_the_site_or_the_caller_set() -> None:
    argv = backend().submit_argv(submission(extra_args=["--hold"]), "/jobs/1-solve/script.sh")
    assert argv == [
        "sbatch",
        "--parsable",
        "--export=ALL",
        "--open-mode=append",
        "--output=/jobs/1-solve/stdout.log",
        "--error=/jobs/1-solve/stderr.log",
        "--hold",
        "/jobs/1-solve/script.sh",
    ]


def test_elements_of_an_array_write_to_their_own_directories() -> None:
    argv = backend().submit_argv(submission(count=2), "script.sh")
    assert "--output=/jobs/1-solve/%a/stdout.log" in argv


@pytest.mark.parametrize("folder", ["/a b/100%/%j", '/it\'s/"x"', "/ünï/$HOME/`id`"])
def test_odd_paths_stay_whole_in_script_and_command(folder: str) -> None:
    made = submission(directory=folder)
    line = next(line for line in backend().render_script(made).splitlines() if line.startswith("cj_dir="))
    shown = subprocess.run(["bash", "-c", f'{line}; printf %s "$cj_dir"'], capture_output=True, text=True, check=True)
    assert shown.stdout == folder
    assert f"--output={folder.replace('%', '%%')}/stdout.log" in backend().submit_argv(made, "script.sh")


# ---------------------------------------------------------------- the answer to a submission


def answer(stdout: str = "", stderr: str = "", code: int = 0) -> CommandResult:
    return CommandResult(("sbatch", "--parsable", "script.sh"), code, stdout, stderr)


@pytest.mark.parametrize(
    "stdout",
    [
        "37\n",
        "37",
        "37;cluster\n",
        "Submitted batch job 37\n",
        "Submitted batch job 37 on cluster foo\n",
        "*** 3 jobs of yours wait since 2024 ***\n37\n",
        "sbatch: 12 cores left\nquota 5%\n37;foo\n\n",
    ],
)
def test_job_id_is_found_whatever_is_printed_around_it(stdout: str) -> None:
    assert backend().parse_submit(answer(stdout, stderr="sbatch: warning: 12\n"), 1) == ("37",)


def test_elements_of_an_array_have_the_ids_that_squeue_shows() -> None:
    ids = backend().parse_submit(answer("16\n"), 3)
    assert ids == ("16_0", "16_1", "16_2")
    assert set(ids) < set(backend().parse_poll(recorded("squeue-22.05-mixed"), PREFIX))


@pytest.mark.parametrize("stdout", ["", "\n", "queued\n", "0\n", "-1\n", "12 jobs wait\n", "job 7 is yours\n"])
def test_success_without_an_id_is_a_lost_reply_and_no_guess(stdout: str) -> None:
    with pytest.raises(SubmitUnknown, match="no job id"):
        backend().parse_submit(answer(stdout), 1)


REFUSALS: dict[str, tuple[int, type[Exception]]] = {
    "array-too-large": (1, SubmitError),
    "controller-dead": (1, SubmitUnknown),
    "controller-stopped": (1, SubmitUnknown),
    "invalid-account": (1, SubmitError),
    "invalid-constraint": (1, SubmitError),
    "invalid-partition": (1, SubmitError),
    "invalid-qos": (1, SubmitError),
    "invalid-time": (255, SubmitError),
    "no-gpus": (1, SubmitError),
    "qos-group-submit-limit": (1, SubmitLimit),
    "qos-limit-denied": (1, SubmitError),
    "qos-submit-limit": (1, SubmitLimit),
    "too-much-memory": (1, SubmitError),
    "unknown-option": (255, SubmitError),
}


@pytest.mark.parametrize("name", sorted(REFUSALS))
def test_recorded_refusal_becomes_the_right_error_with_command_and_words(name: str) -> None:
    code, kind = REFUSALS[name]
    stderr = recorded(f"sbatch-22.05-{name}.stderr")
    with pytest.raises(kind) as caught:
        backend().parse_submit(answer(stderr=stderr, code=code), 1)
    assert type(caught.value) is kind
    assert isinstance(caught.value, (SubmitError, SubmitLimit, SubmitUnknown))
    assert (caught.value.backend, caught.value.stderr) == ("slurm", stderr)
    assert caught.value.command == "sbatch --parsable script.sh"


def test_every_recorded_refusal_is_tested() -> None:
    assert {path.name.split("-", 2)[2].removesuffix(".stderr.txt") for path in DATA.glob("sbatch-*")} == set(REFUSALS)


@pytest.mark.parametrize(
    ("words", "kind"),
    [  # slurm_errno.c, messages that a small test cluster does not give
        ("Slurm temporarily unable to accept job, sleeping and retrying", SubmitLimit),
        ("Resource temporarily unavailable", SubmitLimit),
        ("AssocMaxSubmitJobLimit", SubmitLimit),
        ("AssocGrpSubmitJobsLimit", SubmitLimit),
        ("Zero Bytes were transmitted or received", SubmitUnknown),
        ("Slurm backup controller in standby mode", SubmitUnknown),
        ("Access/permission denied", SubmitError),
        ("User's group not permitted to use this partition", SubmitError),
    ],
)
def test_other_refusals_of_the_manual_are_sorted_too(words: str, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        backend().parse_submit(answer(stderr=f"sbatch: error: Batch job submission failed: {words}\n", code=1), 1)
    assert type(caught.value) is kind


# ---------------------------------------------------------------- what cannot fit


def test_more_cores_than_the_largest_node_has_are_refused_before_slurm_leaves_them_pending(tmp_path: Path) -> None:
    ok = (0, "slurm 22.05.8\n", "")
    slurm = backend(
        sbatch=ok, squeue=ok, scancel=ok, scontrol=ok, sinfo=(0, recorded("sinfo-22.05-four-partitions"), "")
    )
    with pytest.raises(SubmitError, match="asks for 5 cores per node, and there are 4"):
        slurm.submit(submission(str(tmp_path), cores=5))
    with pytest.raises(SubmitError, match="asks for 9 nodes, and there are 4"):
        slurm.submit(submission(str(tmp_path), nodes=9))
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- states


# squeue(1) and sacct(1) of 22.05 to 26.05.
_MANUAL = """
BOOT_FAIL CANCELLED COMPLETED CONFIGURING COMPLETING DEADLINE EXPEDITING FAILED LAUNCH_FAILED NODE_FAIL OUT_OF_MEMORY
PENDING POWER_UP_NODE PREEMPTED RECONFIG_FAIL RUNNING RESV_DEL_HOLD REQUEUE_FED REQUEUE_HOLD REQUEUED RESIZING REVOKED
SIGNALING SPECIAL_EXIT STAGE_OUT STOPPED SUSPENDED TIMEOUT UPDATE_DB
"""
DOCUMENTED = _MANUAL.split()


@pytest.mark.parametrize("word", DOCUMENTED)
def test_every_documented_state_is_known(word: str) -> None:
    status = status_of(word)
    assert status.state not in (JobState.UNKNOWN, JobState.NEW, JobState.LOST)
    assert status.native_word == word
    assert (status.reason is None) == (status.state in (JobState.PENDING, JobState.RUNNING, JobState.COMPLETED))


def test_state_table_has_no_word_beyond_the_documented() -> None:
    assert set(STATES) == set(DOCUMENTED)


@pytest.mark.parametrize(
    "word", ["COMPLETING", "CONFIGURING", "SUSPENDED", "RESIZING", "STOPPED", "STAGE_OUT", "SIGNALING", "REQUEUED"]
)
def test_states_on_the_way_are_not_ends(word: str) -> None:
    """Elsewhere, whatever was not in a list of a few words counted as the end."""
    assert not status_of(word).state.is_terminal


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("TIMEOUT", ExitReason.TIMEOUT),
        ("OUT_OF_MEMORY", ExitReason.OUT_OF_MEMORY),
        ("NODE_FAIL", ExitReason.NODE_FAILURE),
        ("BOOT_FAIL", ExitReason.NODE_FAILURE),
        ("PREEMPTED", ExitReason.PREEMPTED),
        ("DEADLINE", ExitReason.DEADLINE),
        ("CANCELLED by 1000", ExitReason.CANCELLED_OUTSIDE),
        ("FAILED", ExitReason.NONZERO_EXIT),
    ],
)
def test_ends_are_terminal_and_say_why(word: str, reason: ExitReason) -> None:
    status = status_of(word)
    assert status.state.is_terminal
    assert status.reason is reason


@pytest.mark.parametrize("word", ["FROBNICATING", "", "completed", "COMPLETE", "FAILED2"])
def test_unknown_word_ends_nothing_and_is_kept(word: str) -> None:
    status = status_of(word)
    assert (status.state, status.native_word) == (JobState.UNKNOWN, word)


def test_cancelled_by_keeps_who_it_was() -> None:
    status = status_of("CANCELLED by 1000")
    assert (status.state, status.native_word, status.detail) == (JobState.CANCELLED, "CANCELLED", "by 1000")


@pytest.mark.parametrize("word", ["COMPLETED+", "CANCELLED+", "OUT_OF_MEMORY+", "NODE_FAIL+"])
def test_word_that_sacct_has_cut_off_is_still_known(word: str) -> None:
    assert status_of(word).state.is_terminal


@pytest.mark.parametrize(
    ("text", "code", "signal", "reason"),
    [
        ("7:0", 7, None, ExitReason.NONZERO_EXIT),
        ("0:9", None, 9, ExitReason.SIGNAL),
        ("1:9", 1, None, ExitReason.NONZERO_EXIT),
        ("0:125", None, None, ExitReason.NONZERO_EXIT),
        ("0:0", 0, None, ExitReason.NONZERO_EXIT),
        ("", None, None, ExitReason.NONZERO_EXIT),
        ("garbage", None, None, ExitReason.NONZERO_EXIT),
    ],
)
def test_exit_codes_are_codes_and_signals(text: str, code: int | None, signal: int | None, reason: ExitReason) -> None:
    status = status_of("FAILED", exit_code=text)
    assert (status.exit_code, status.signal, status.reason) == (code, signal, reason)


@pytest.mark.parametrize(
    "reason",
    [
        "DependencyNeverSatisfied",
        "PartitionTimeLimit",
        "QOSMaxCpuPerJobLimit",
        "QOSMaxWallDurationPerJobLimit",
        "AssocMaxWallDurationPerJobLimit",
        "AssocMaxCpuPerJobLimit",
        "QOSMaxCpuPerNode",
        "AssocMaxMemPerNode",
        "BadConstraints",
        "InvalidQOS",
        "launch failed requeued held",
        "JobHoldMaxRequeue",
    ],
)
def test_reason_that_never_passes_is_hopeless(reason: str) -> None:
    assert status_of("PENDING", reason).is_hopeless


@pytest.mark.parametrize(
    "reason",
    [
        "None",
        "Priority",
        "Resources",
        "JobHeldUser",
        "BeginTime",
        "Dependency",
        "ReqNodeNotAvail, UnavailableNodes:n3",
        "QOSMaxJobsPerUserLimit",
        "QOSMaxMemoryPerUser",
        "AssocGrpCpuLimit",
        "PartitionConfig",  # drained nodes give it too
        "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
    ],
)
def test_reason_that_passes_is_not_hopeless(reason: str) -> None:
    assert not status_of("PENDING", reason).is_hopeless


def test_hopeless_words_of_a_running_job_mean_nothing() -> None:
    assert not status_of("RUNNING", "PartitionTimeLimit").is_hopeless


# ---------------------------------------------------------------- squeue


def test_poll_asks_once_for_all_jobs_in_every_state() -> None:
    argv = backend().poll_argv(PREFIX)
    assert argv[0] == "squeue"
    assert {"--me", "--array", "--states=all", "--noheader"} <= set(argv)


def test_recorded_queue_is_read_whole() -> None:
    found = backend().parse_poll(recorded("squeue-22.05-mixed"), PREFIX)
    states = {native_id: (queued.status.state, queued.status.reason) for native_id, queued in found.items()}
    failed, pending, running = JobState.FAILED, (JobState.PENDING, None), (JobState.RUNNING, None)
    cancelled = (JobState.CANCELLED, ExitReason.CANCELLED_OUTSIDE)
    completed = (JobState.COMPLETED, None)
    assert states == {
        "1": completed,
        "2": (failed, ExitReason.NONZERO_EXIT),
        "3": (failed, ExitReason.NONZERO_EXIT),  # squeue does not tell by which signal: scontrol does
        "4": pending,
        "5": pending,
        "6": pending,
        "7": running,
        "8": cancelled,
        "9": cancelled,
        "10": running,
        "11": (failed, ExitReason.OUT_OF_MEMORY),
        "12": (failed, ExitReason.NODE_FAILURE),
        "13": pending,
        "14": running,
        "15": pending,
        "16_0": completed,
        "16_1": (failed, ExitReason.NONZERO_EXIT),
        "16_2": cancelled,
        "16_3": pending,
        "16_4": completed,
        "16_5": completed,
        "17": pending,
    }
    assert found["7"].name == f"{PREFIX}7-running"
    assert found["7"].status.nodes == "n1"
    assert [native_id for native_id, queued in found.items() if queued.status.is_hopeless] == ["6", "5"]
    assert found["14"].status.native_word == "SUSPENDED"


def test_recorded_later_queue_has_the_other_ends_and_leaves_out_jobs_of_others() -> None:
    found = backend().parse_poll(recorded("squeue-22.05-mixed-later"), PREFIX)
    reasons = {native_id: found[native_id].status.reason for native_id in ("10", "24", "29")}
    assert reasons == {"10": ExitReason.TIMEOUT, "24": ExitReason.PREEMPTED, "29": ExitReason.DEADLINE}
    assert found["28"].status.nodes == "n[1-4]"
    assert not {"30", "31", "34"} & set(found)
    assert backend().parse_poll(recorded("squeue-22.05-mixed"), "cj-11111111-") == {}


def test_recorded_limits_of_a_qos_are_hopeless() -> None:
    found = backend().parse_poll(recorded("squeue-22.05-qos-limits"), PREFIX)
    assert {native_id: queued.status.is_hopeless for native_id, queued in found.items()} == {"2": True, "3": True}


def test_lines_that_are_no_jobs_are_left_out() -> None:
    noise = f"slurm: maintenance | at | noon\n\n|||||\n7|RUNNING|n1|{PREFIX}7|None\n"
    assert list(backend().parse_poll(noise, PREFIX)) == ["7"]


@pytest.mark.parametrize("how", ["dead", "stopped"])
def test_outage_is_an_error_and_no_empty_queue(how: str) -> None:
    with pytest.raises(CommandError, match=r"controller|timed out"):
        backend(squeue=(1, "", recorded(f"squeue-22.05-controller-{how}.stderr"))).query(PREFIX)


# ---------------------------------------------------------------- scontrol and sacct


def shown() -> dict[str, str]:
    lines = recorded("scontrol-22.05-oneliner-mixed").splitlines()
    names = [re.findall(rf"JobName={PREFIX}\d+-(\S+)", line)[0] for line in lines]
    return dict(zip(names, lines, strict=True)) | {
        f"array {line.split('ArrayTaskId=')[1].split()[0]}": line for line in lines if "ArrayTaskId=" in line
    }


def summary(status: JobStatus | None) -> tuple[Any, ...]:
    assert status is not None
    return status.state, status.reason, status.exit_code, status.signal


ENDS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "completed": ("completed", (JobState.COMPLETED, None, 0, None)),
    "exit-7": ("exit_seven", (JobState.FAILED, ExitReason.NONZERO_EXIT, 7, None)),
    "killed-9": ("killed", (JobState.FAILED, ExitReason.SIGNAL, None, 9)),
    "no-output-file": ("no_output", (JobState.FAILED, ExitReason.LAUNCH_FAILURE, None, None)),
    "array-element-exit-3": ("array 1", (JobState.FAILED, ExitReason.NONZERO_EXIT, 3, None)),
    "running": ("running", (JobState.RUNNING, None, None, None)),
    "suspended": ("suspended", (JobState.RUNNING, None, None, None)),
    "pending": ("too_long", (JobState.PENDING, None, None, None)),
    "out-of-memory": ("out_of_memory", (JobState.FAILED, ExitReason.OUT_OF_MEMORY, None, None)),
}


@pytest.mark.parametrize("name", sorted(ENDS))
def test_scontrol_and_sacct_agree_on_a_job(name: str) -> None:
    key, expected = ENDS[name]
    by_sacct, by_scontrol = parse_sacct(recorded(f"sacct-22.05-{name}")), parse_scontrol(shown()[key])
    assert summary(by_sacct)[:2] == summary(by_scontrol)[:2] == expected[:2]
    if expected[0].is_terminal:
        assert summary(by_sacct) == summary(by_scontrol) == expected


@pytest.mark.parametrize(
    ("name", "key", "reason"),
    [
        ("timeout", "timeout", ExitReason.TIMEOUT),
        ("node-fail", "node_fail", ExitReason.NODE_FAILURE),
        ("preempted", "victim1", ExitReason.PREEMPTED),
        ("deadline", "deadline2", ExitReason.DEADLINE),
        ("cancelled-running", "cancelled_running", ExitReason.CANCELLED_OUTSIDE),
        ("cancelled-pending", "cancelled_pending", ExitReason.CANCELLED_OUTSIDE),
        ("array-element-cancelled", "array 2", ExitReason.CANCELLED_OUTSIDE),
    ],
)
def test_scontrol_and_sacct_agree_on_why_the_scheduler_ended_a_job(name: str, key: str, reason: ExitReason) -> None:
    by_sacct, by_scontrol = parse_sacct(recorded(f"sacct-22.05-{name}")), parse_scontrol(shown()[key])
    assert by_sacct is not None
    assert by_scontrol is not None
    assert by_sacct.state is by_scontrol.state
    assert by_sacct.reason is by_scontrol.reason is reason


def test_signal_of_a_killed_job_is_not_called_a_launch_failure() -> None:
    """Slurm 22.05 gives the reason JobLaunchFailure to every batch script that a signal ended."""
    status = parse_scontrol(shown()["killed"])
    assert status is not None
    assert status.detail == ""


def test_who_cancelled_is_in_accounting() -> None:
    status = parse_sacct(recorded("sacct-22.05-cancelled-running"))
    assert status is not None
    assert status.detail == "by 0"


def test_requeued_job_is_judged_by_its_last_start() -> None:
    status = parse_sacct("REQUEUED|0:0|n1\n" + recorded("sacct-22.05-requeued"))
    assert status is not None
    assert status.state is JobState.RUNNING


def test_restarts_are_counted() -> None:
    line = re.sub(r"Restarts=\d", "Restarts=2", shown()["running"])
    status = parse_scontrol(line)
    assert status is not None
    assert status.restarts == 2


def test_path_that_looks_like_a_field_says_nothing_about_the_job() -> None:
    """A work directory named "x JobState=COMPLETED" turned a failed job into a completed one."""
    status = parse_scontrol(
        shown()["exit_seven"].replace("WorkDir=/tmp/rec", "WorkDir=/x JobState=COMPLETED ExitCode=0:0")
    )
    assert summary(status)[:3] == (JobState.FAILED, ExitReason.NONZERO_EXIT, 7)


def test_nothing_recorded_is_nothing_known() -> None:
    assert parse_sacct(recorded("sacct-22.05-unknown-id")) is None
    assert parse_scontrol("") is None


def test_explain_asks_accounting_for_what_the_controller_has_forgotten() -> None:
    unknown = (1, "", recorded("scontrol-22.05-unknown-id.stderr"))
    slurm = backend(scontrol=unknown, sacct=(0, recorded("sacct-22.05-exit-7"), ""))
    assert summary(slurm.explain("2")) == (JobState.FAILED, ExitReason.NONZERO_EXIT, 7, None)


def test_explain_knows_nothing_where_nobody_does() -> None:
    unknown = (1, "", recorded("scontrol-22.05-unknown-id.stderr"))
    no_accounting = (1, "", "Slurm accounting storage is disabled\n")
    assert backend(scontrol=unknown, sacct=no_accounting).explain("2") is None
    assert backend(scontrol=unknown, sacct=CommandNotFound("sacct not found on PATH")).explain("2") is None
    assert backend(scontrol=unknown, sacct=(0, "", "")).explain("2") is None


def test_explain_takes_an_outage_for_no_answer() -> None:
    with pytest.raises(CommandError, match="cannot ask about job 2"):
        backend(scontrol=(1, "", recorded("squeue-22.05-controller-dead.stderr"))).explain("2")


# ---------------------------------------------------------------- cancelling


def test_cancel_is_one_command_for_all() -> None:
    slurm = backend(scancel=(0, "", ""))
    slurm.cancel(["12", "7_3", "7_1"])
    assert way_of(slurm).asked == [("scancel", "--quiet", "12", "7_1", "7_3")]


@pytest.mark.parametrize("native_id", ["0", "-1", "", "7;rm", "all", "-u root", "1.0", "7_", "07", "7\n8"])
def test_what_is_no_job_id_never_reaches_scancel(native_id: str) -> None:
    slurm = backend(scancel=(0, "", ""))
    with pytest.raises(SpecError, match="no slurm job id"):
        slurm.cancel(["12", native_id])
    assert way_of(slurm).asked == []


def test_cancel_of_nothing_runs_no_command() -> None:
    backend().cancel([])


@pytest.mark.parametrize(
    "words",
    [
        "scancel: error: Kill job error on job id 5: Invalid job id specified\n",
        "scancel: error: Kill job error on job id 5: Job/step already completing or completed\n",
    ],
)
def test_cancel_of_an_ended_job_is_no_error(words: str) -> None:
    backend(scancel=(1, "", words)).cancel(["5"])


def test_cancel_in_an_outage_is_an_error() -> None:
    with pytest.raises(CommandError, match="cannot cancel"):
        backend(scancel=(1, "", recorded("scancel-22.05-controller-dead.stderr"))).cancel(["5"])


# ---------------------------------------------------------------- the probe


def test_recorded_sinfo_becomes_partitions() -> None:
    info = parse_sinfo(recorded("sinfo-22.05-four-partitions"), "slurm 22.05.8")
    assert (info.version, info.nodes, info.cores_per_node, info.gpus) == ("slurm 22.05.8", 4, 4, 0)
    assert [partition.name for partition in info.partitions] == ["main", "short", "urgent", "scavenge"]
    assert [partition.is_default for partition in info.partitions] == [True, False, False, False]
    assert [partition.max_time_s for partition in info.partitions] == [None, 60, None, None]


def test_partition_of_two_kinds_of_nodes_is_one_partition() -> None:
    text = "main*|up|1-00:00:00|4|16|(null)\nmain*|up|1-00:00:00|2|64|gpu:a100:4(S:0-1)\nold|down|30:00|1|8|(null)\n"
    info = parse_sinfo(text, "slurm 23.11")
    assert [(each.name, each.nodes, each.max_time_s, each.status) for each in info.partitions] == [
        ("main", 6, 86400, "up"),
        ("old", 1, 1800, "down"),
    ]
    assert (info.nodes, info.cores_per_node, info.gpus) == (6, 64, 8)


def test_nodes_of_unknown_size_refuse_no_job() -> None:
    assert parse_sinfo("main*|up|infinite|4|4+|(null)\n", "slurm 22.05").cores_per_node is None


@pytest.mark.parametrize("how", ["dead", "stopped"])
def test_binary_on_path_is_not_availability(how: str) -> None:
    ok, words = (0, "slurm 22.05.8\n", ""), recorded(f"squeue-22.05-controller-{how}.stderr")
    with pytest.raises(BackendUnavailable, match="controller does not answer") as caught:
        backend(sbatch=ok, squeue=ok, scancel=ok, scontrol=ok, sinfo=(1, "", words)).check()
    assert caught.value.stderr == words


def test_missing_binary_says_which() -> None:
    with pytest.raises(BackendUnavailable, match="sbatch not found on PATH"):
        backend(sbatch=CommandNotFound("sbatch not found on PATH")).check()


def test_the_check_tells_the_array_limit_too() -> None:
    ok = (0, "slurm 22.05.8\n", "")
    config = (0, "MaxArraySize            = 10001\n", "")
    slurm = backend(sbatch=ok, squeue=ok, scancel=ok, sinfo=(0, "main*|up|infinite|4|4|(null)\n", ""), scontrol=config)
    assert slurm.check().array_limit == 10001
    asked = len(way_of(slurm).asked)
    assert slurm.array_limit() == 10001
    assert len(way_of(slurm).asked) == asked


def test_array_limit_is_asked_once() -> None:
    slurm = backend(scontrol=(0, "MaxArraySize            = 10001\nMaxDBDMsgs = 20016\n", ""))
    assert slurm.array_limit() == slurm.array_limit() == 10001
    assert len(way_of(slurm).asked) == 1


# ---------------------------------------------------------------- resources and the environment


def test_recorded_queue_counts_resources() -> None:
    found = backend().parse_poll(recorded("squeue-22.05-resources"), PREFIX)
    day, hour = 86400.0, 3600.0
    assert {native_id: queued.status.resources for native_id, queued in found.items()} == {
        "1": Resources(8, nodes=1, time_limit_s=300.0, partition="main"),
        "2": Resources(3, nodes=2, time_limit_s=day + 2 * hour, partition="urgent"),
        "3": Resources(1, nodes=1, time_limit_s=365 * day, partition="main"),
        "4_0": Resources(2, nodes=1, time_limit_s=1.5 * hour, partition="main"),
        "4_1": Resources(2, nodes=1, time_limit_s=1.5 * hour, partition="main"),
        "5": Resources(4, nodes=1, partition="main,urgent"),
        "6": Resources(2, nodes=1, time_limit_s=365 * day, partition="main"),
    }


def test_lines_without_resources_count_none() -> None:
    found = backend().parse_poll(recorded("squeue-22.05-mixed"), PREFIX)
    assert found["7"].status.resources == Resources()


def test_details_of_a_job_that_got_a_whole_node_count_it() -> None:
    status = parse_scontrol(recorded("scontrol-22.05-whole-node"))
    assert status is not None
    assert status.resources == Resources(8, nodes=1, time_limit_s=300.0, partition="main")


def test_contract_of_a_job_holds_what_it_asks_for() -> None:
    spec = make_spec(cores=2, nodes=3, memory="1.5MB", partition="a,b", account="Lab", qos="high")
    contract = backend().expected_environment("17", "cj-x", spec)
    values = {name: expected.value for name, expected in contract.items() if expected.pattern is None}
    assert values == {
        "CLUSTERJOBS_NATIVE_ID": "17",
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NAME": "cj-x",
        "SLURM_JOB_NUM_NODES": "3",
        "SLURM_CPUS_PER_TASK": "2",
        "SLURM_MEM_PER_NODE": "2",
    }
    for variable, asked in (("SLURM_JOB_ACCOUNT", "lab"), ("SLURM_JOB_QOS", "high")):
        assert contract[variable].is_optional
        assert re.fullmatch(contract[variable].pattern or "", asked)
    partition = contract["SLURM_JOB_PARTITION"].pattern or ""
    assert [bool(re.fullmatch(partition, name)) for name in ("a", "b", "ab", "a,b")] == [True, True, False, False]


def test_contract_of_an_element_holds_its_array_s_id() -> None:
    contract = backend().expected_environment("17_4", "cj-x", make_spec())
    assert (contract["SLURM_ARRAY_JOB_ID"].value, contract["SLURM_ARRAY_TASK_ID"].value) == ("17", "4")
    assert "SLURM_JOB_ID" not in contract  # each element has one of its own that only Slurm knows


def test_what_slurm_told_a_job_is_read() -> None:
    told = {
        "SLURM_CPUS_ON_NODE": "4",
        "SLURM_MEM_PER_CPU": "100",
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_PARTITION": "main",
    }
    assert backend().told_resources(told) == Resources(4, 400 << 20, 2, 1, partition="main")
    assert backend().told_resources({"SLURM_MEM_PER_NODE": "512"}).memory_bytes == 512 << 20
    assert backend().told_resources({"SLURM_MEM_PER_NODE": "0"}).memory_bytes is None
    assert backend().told_resources({}) == Resources()
