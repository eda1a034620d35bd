"""What LSF is told, and what its words mean.

What volclava 2.2, of the OpenLava family, says here was recorded from a real one. IBM's own words are those of its
command reference for 10.1, and say so.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pytest_clusterjobs.backends.base import BackendSettings, Capability, Partition, Submission
from pytest_clusterjobs.backends.lsf import LsfBackend
from pytest_clusterjobs.backends.lsf_text import (
    STATES,
    TERMINATIONS,
    has_outgrown,
    parse_hosts,
    parse_memory_sizes,
    parse_parameter,
    parse_prose,
    parse_queues,
    parse_run_limit,
    parse_waits,
    status_of,
)
from pytest_clusterjobs.core.errors import (
    BackendUnavailable,
    CommandError,
    CommandTimeout,
    ConfigError,
    SpecError,
    SubmitError,
    SubmitLimit,
    SubmitUnknown,
)
from pytest_clusterjobs.core.state import ExitReason, JobState
from pytest_clusterjobs.transports.base import CommandResult
from pytest_clusterjobs.transports.local import LocalTransport
from tests.backends import spoken
from tests.backends.spoken import NAME, directives_of
from tests.watching import wait_for

DATA = Path(__file__).parent / "data" / "lsf"


def recorded(name: str) -> str:
    command, _, case = name.partition(" ")
    return (DATA / f"{command}-volclava-2.2-{case}.txt").read_text()


def backend(options: Mapping[str, str] | None = None, timeout_s: float = 10.0) -> LsfBackend:
    settings = BackendSettings(command_timeout_s=timeout_s, python="/usr/bin/python3", options=options or {})
    return LsfBackend(LocalTransport(), settings)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a directory on PATH for commands, with IBM's lsid, and no configuration of this machine's."""
    commands = tmp_path / "bin"
    commands.mkdir()
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LSF_ENVDIR", str(tmp_path))
    runs(commands, "lsid", "echo IBM Spectrum LSF Standard 10.1.0.14, Jun 10 2023")
    return commands


def says(site: Path, command: str, stdout: str = "", stderr: str = "", code: int = 0) -> None:
    """Make a command that notes how it is called, and answers what was recorded."""
    answer_to_all = f"printf %s {shlex.quote(stdout)}; printf %s {shlex.quote(stderr)} >&2; exit {code}"
    runs(site, command, f'printf "%s\\n" "$*" >>{site}/calls\n{answer_to_all}')


def runs(site: Path, command: str, script: str) -> None:
    """Make a command of a shell script."""
    (site / command).write_text(f"#!/bin/sh\n{script}\n")
    (site / command).chmod(0o700)


AWAY = "echo 'batch system daemon not responding ... still trying' >&2\nexec sleep 60"


def submission(directory: str = "/jobs/1-solve", **options: Any) -> Submission:
    return spoken.submission(directory, **{"environment": {"PATH": os.environ["PATH"]}, **options})


def directives(options: Mapping[str, str] | None = None, **asked_for: Any) -> list[str]:
    return directives_of(backend(options).render_script(submission(**asked_for)), "#BSUB")


# ---------------------------------------------------------------- the script


def test_job_that_asks_for_nothing_says_only_its_name_and_one_slot() -> None:
    assert directives() == [f'-J "{NAME}"', "-n 1"]


@pytest.mark.parametrize(
    ("asked_for", "said"),
    [
        ({"cores": 4}, ["-n 4", '-R "span[hosts=1]"']),
        ({"cores": 2, "nodes": 3}, ["-n 6", '-R "span[ptile=2]"']),
        ({"nodes": 2}, ["-n 2", '-R "span[ptile=1]"']),
        ({"memory": "1GB"}, ["-M 1048576", '-R "rusage[mem=1024]"']),
        ({"memory": 1}, ["-M 1", '-R "rusage[mem=1]"']),
        ({"time": "00:05:00"}, ["-W 5"]),
        ({"time": 61}, ["-W 2"]),
        ({"time": 0.5}, ["-W 1"]),
        ({"queue": "short"}, ["-q short"]),
        ({"account": "physics"}, ["-P physics"]),
        ({"gpus": 2}, ['-gpu "num=2"']),
        ({"constraint": "type==any"}, ['-R "select[type==any]"']),
        ({"constraint": "mem>1000&&ut<0.5"}, ['-R "select[mem>1000&&ut<0.5]"']),
        ({"constraint": "type==any", "nodes": 2}, ['-R "select[type==any] span[ptile=1]"']),
        ({"count": 3}, [f'-J "{NAME}[1-3]"']),
        ({"count": 3, "limit": 2}, [f'-J "{NAME}[1-3]%2"']),
        ({"extra_directives": ["-sp 10"]}, ["-sp 10"]),
    ],
)
def test_every_resource_is_said(site: Path, asked_for: dict[str, Any], said: list[str]) -> None:
    assert set(said) <= set(directives(**asked_for))


@pytest.mark.parametrize(
    ("unit", "limit", "reserved"), [("KB", 3145728, 3145728), ("MB", 3072, 3072), ("GB", 3, 3), ("T", 1, 1)]
)
def test_memory_is_counted_in_the_site_s_unit(site: Path, unit: str, limit: int, reserved: int) -> None:
    wanted = [f"-M {limit}", f'-R "rusage[mem={reserved}]"']
    assert directives({"memory_unit": unit}, memory="3GB")[2:] == wanted
    (site.parent / "lsf.conf").write_text(f"LSF_LOGDIR=/x\n#LSF_UNIT_FOR_LIMITS=EB\nLSF_UNIT_FOR_LIMITS={unit} # so\n")
    assert directives(memory="3GB")[2:] == wanted


def test_volclava_counts_limits_in_mb_where_the_site_says_nothing(site: Path) -> None:
    """Recorded: -M 51200 is shown as a MEMLIMIT of 52428800 K. Taken for KB, no limit was ever reached."""
    assert int(re.findall(r"MEMLIMIT\n (\d+) K", recorded("bjobs UF-memory-not-enforced"))[0]) == 51200 * 1024
    says(site, "lsid", recorded("lsid ok"))
    assert directives(memory="3GB")[2:] == ["-M 3072", '-R "rusage[mem=3072]"']


@pytest.mark.parametrize(
    ("shown", "limit"),
    [("LSF_UNIT_FOR_LIMITS = GB", 3), ("LSF_UNIT_FOR_LIMITS=M", 3072), ("LSF_UNIT_FOR_LIMITS = Undefined", 3145728)],
)
def test_unit_is_asked_for_where_lsf_conf_cannot_be_read(site: Path, shown: str, limit: int) -> None:
    says(site, "badmin", f"MBD configuration at Fri Nov 20 09:15:25 2026\n {shown}\n")
    assert directives(memory="3GB")[2] == f"-M {limit}"


def test_unit_of_a_far_site_is_read_there(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's LSF_ENVDIR says nothing about another's."""
    there = tmp_path / "there"
    there.mkdir()
    (there / "lsf.conf").write_text("LSF_UNIT_FOR_LIMITS=GB\n")
    runs(site, "printenv", f"echo {there}")

    class Far(LocalTransport):
        is_here: ClassVar[bool] = False

    far = LsfBackend(Far(), BackendSettings())
    assert directives_of(far.render_script(submission(memory="3GB")), "#BSUB")[2] == "-M 3"


def test_unit_that_is_none_is_an_error_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"memory_unit is 'MiB'; known: KB, MB, .* did you mean 'MB'"):
        directives({"memory_unit": "MiB"}, memory="3GB")


def test_where_each_task_reserves_each_slot_asks_for_its_part(site: Path) -> None:
    says(site, "bparams", recorded("bparams l"))
    assert '-R "rusage[mem=1024] span[hosts=1]"' in directives(memory="1GB", cores=4)
    says(site, "bparams", recorded("bparams l").replace("RESERVE_PER_TASK = N", "RESERVE_PER_TASK = Y"))
    assert '-R "rusage[mem=256] span[hosts=1]"' in directives(memory="1GB", cores=4)


def test_elements_are_numbered_from_0_and_indices_from_1(tmp_path: Path) -> None:
    lines = backend().render_script(submission(str(tmp_path), count=2)).splitlines()
    chosen = [line for line in lines if line.startswith(("cj_dir=", "cj_mark=", "export CLUSTERJOBS_"))]
    show = "\n".join([*chosen, 'printf "%s\\n" "$cj_dir" "$cj_mark" "$CLUSTERJOBS_NATIVE_ID"'])
    given = {"LSB_JOBID": "39", "LSB_JOBINDEX": "2"}
    done = subprocess.run(["bash", "-c", show], env=given, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"{tmp_path}/1", "/jobs/marks/1.1", "39[2]"]


def test_script_is_bash_without_a_syntax_error() -> None:
    for made in (submission(), submission(count=2, modules="gcc", epilogue="true")):
        subprocess.run(["bash", "-n"], input=backend().render_script(made), text=True, check=True)


@contextmanager
def running(folder: Path, runner: str, patience_s: str = "10") -> Iterator[subprocess.Popen[bytes]]:
    """Have the script run a runner that touches ``up`` when it is ready; give the script's process."""
    (folder / "runner").write_text(runner)
    (folder / "environment.sh").touch()
    made = replace(
        submission(str(folder)),
        runner=str(folder / "runner"),
        python="/bin/bash",
        markers=(str(folder / "mark"),),
    )
    text = backend().render_script(made).replace("/bin/bash -u ", "/bin/bash ")
    assert text.count("sleep 10 ") == 1
    text = text.replace("sleep 10 ", f"sleep {patience_s} ")
    with subprocess.Popen(["bash", "-c", text], env={**os.environ, "LSB_JOBID": "7"}, cwd=folder) as process:
        wait_for((folder / "up").exists, "the runner to be up", 10)
        yield process


@pytest.mark.parametrize(
    ("sent", "exit_code", "mark"), [(signal.SIGINT, 7, "7"), (signal.SIGTERM, 7, "7"), (signal.SIGUSR2, 140, "143")]
)
def test_what_bkill_and_the_run_limit_send_ends_the_job_at_once(
    tmp_path: Path, sent: signal.Signals, exit_code: int, mark: str
) -> None:
    """bkill sends INT, which what runs in the background of a shell ignores, and TERM ten seconds later.

    At the run limit it is USR2, which to the engine says nothing of a limit: by 143 it asks LSF; to LSF 140 stays 140.
    """
    runner = "trap 'echo TERM; exit 7' TERM\ntouch up\nwhile :; do sleep 0.01; done\n"
    with running(tmp_path, runner) as process:
        process.send_signal(sent)
        assert process.wait(10) == exit_code
    assert (tmp_path / "mark").read_text() == mark
    assert (tmp_path / "stdout.log").read_text() == "TERM\n"


def test_job_that_ignores_sigterm_at_its_run_limit_is_killed_soon(tmp_path: Path) -> None:
    """LSF itself would do it ten minutes later."""
    with running(tmp_path, "trap '' TERM\ntouch up\nwhile :; do sleep 0.01; done\n", "0.5") as process:
        process.send_signal(signal.SIGUSR2)
        assert process.wait(10) == 140
    assert (tmp_path / "mark").read_text() == "143"


def test_job_that_ends_at_its_run_limit_leaves_nobody_who_would_kill_it(tmp_path: Path) -> None:
    patience_s = f"98.{os.getpid()}"
    with running(tmp_path, "touch up\nwhile :; do sleep 0.01; done\n", patience_s) as process:
        process.send_signal(signal.SIGUSR2)
        assert process.wait(10) == 140
    search = ["pgrep", "-f", f"^sleep {patience_s}"]
    wait_for(lambda: not subprocess.run(search, capture_output=True, check=False).stdout, "the sleep to end", 10)


def test_process_that_has_left_the_job_s_session_ends_with_the_job_and_jobs_of_the_job_do_not(tmp_path: Path) -> None:
    """The OpenLava family ends what is in the job's process group; and a job of a job inherits its environment."""
    start = 'setsid sleep 300 & echo $! >>pids; until [ "$(cat /proc/$!/comm)" = sleep ]; do :; done'
    runner = tmp_path / "runner"
    runner.write_text(f"{start}\nexport LSB_JOBID=8\n{start}\nexit 3\n")
    (tmp_path / "environment.sh").touch()
    made = replace(submission(str(tmp_path)), runner=str(runner), python="/bin/bash", markers=(str(tmp_path / "mark"),))
    text = backend().render_script(made).replace("/bin/bash -u ", "/bin/bash ")
    environment = {"PATH": os.environ["PATH"], "LSB_JOBID": "7"}
    assert subprocess.run(["bash", "-c", text], env=environment, cwd=tmp_path, check=False, timeout=30).returncode == 3
    left, other = ((tmp_path / "pids").read_text()).split()
    deadline = time.monotonic() + 10
    while _is_alive(left):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert _is_alive(other)
    os.kill(int(other), signal.SIGKILL)


def _is_alive(pid: str) -> bool:
    try:
        return bool(Path("/proc", pid, "cmdline").read_bytes())  # of one that nobody has waited for it is empty
    except OSError:
        return False


def test_script_goes_to_standard_input_and_no_report_comes_by_mail() -> None:
    argv = backend().submit_argv(submission(extra_args=["-rn"]), "/jobs/1-solve/script.sh")
    assert argv == ["bsub", "-o", "/dev/null", "-rn"]
    kept = backend().submit_argv(submission(extra_args=["-o", "/mine/%J"]), "script.sh")
    assert kept == ["bsub", "-o", "/mine/%J"]
    assert backend().submit_stdin("#!/bin/bash\n") == "#!/bin/bash\n"


def test_environment_has_nothing_of_an_outer_job_and_what_leads_to_lsf(site: Path, tmp_path: Path) -> None:
    outer = {
        "LSB_JOBID": "3",
        "LSB_DEFAULTQUEUE": "night",
        "BSUB_QUIET": "1",
        "LSF_ENVDIR": "/of/another",
        "LS_SUBCWD": "/x",
        "LS_COLORS": "di=1",
        "BASH_FUNC_module%%": "() { :\n}",
        "a.b": "c",
        "PATH": os.environ["PATH"],
    }
    seen = seen_by_bsub(site, tmp_path, environment=outer, env={"TOKEN": "s3cret"})
    kept = {"LS_COLORS": "di=1", "PATH": os.environ["PATH"], "LSF_ENVDIR": str(tmp_path), "LSB_NTRIES": "1"}
    assert {name: value for name, value in seen.items() if name not in ("PWD", "OLDPWD", "SHLVL", "_")} == kept
    assert "s3cret" in (tmp_path / "job" / "environment.sh").read_text()
    assert "s3cret" not in (tmp_path / "job" / "script.sh").read_text()


def test_values_that_bsub_would_spoil_travel_in_the_job_s_own_file(site: Path, tmp_path: Path) -> None:
    """bsub of the OpenLava family writes NAME='value'; export NAME, and reads back to the first "'; export "."""
    hard = {"LINES_OF": "a\nb", "QUOTED": "it's", "SCRIPT": "A='b'; export A\ntrue"}
    seen = seen_by_bsub(site, tmp_path, environment={**hard, "PATH": os.environ["PATH"]})
    assert not hard.keys() & seen.keys()
    show = f". {tmp_path}/job/environment.sh; env -0"
    done = subprocess.run(["bash", "-c", show], env={}, capture_output=True, text=True, check=True)
    given = dict(each.split("=", 1) for each in done.stdout.split("\0") if each)
    assert {name: given[name] for name in hard} == hard


def seen_by_bsub(site: Path, tmp_path: Path, **options: Any) -> dict[str, str]:
    runs(site, "bsub", f"env -0 >{tmp_path}/seen\ncat {DATA}/bsub-volclava-2.2-stdin.txt")
    job = tmp_path / "job"
    job.mkdir()
    assert backend().submit(submission(str(job), **options)).native_ids == ("2",)
    return dict(each.split("=", 1) for each in (tmp_path / "seen").read_text().split("\0") if each)


def test_job_does_not_see_that_its_bsub_was_to_try_once() -> None:
    assert "unset LSB_NTRIES" in backend().render_script(submission()).splitlines()


def test_questions_are_asked_in_no_other_language(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_TIME", "de_DE.UTF-8")
    runs(site, "bjobs", f'echo "$LC_ALL" >{site}/calls; echo "No job found" >&2; exit 255')
    assert backend().query("cj-") == {}
    assert calls(site) == ["C"]


# ---------------------------------------------------------------- the answer to a submission


def answer(stdout: str = "", stderr: str = "", code: int = 0) -> CommandResult:
    return CommandResult(("bsub",), code, stdout, stderr)


@pytest.mark.parametrize(
    ("stdout", "native_id"),
    [
        (recorded("bsub stdin"), "2"),
        (recorded("bsub default-queue"), "11"),
        ("Memory reservation is (MB): 1024\nJob <7> is submitted to queue <normal>.\nHave a nice day <9>\n", "7"),
        ("Verifying... ok. Job <7> is submitted to default queue <night>.\n", "7"),
    ],
)
def test_job_id_is_found_in_every_acknowledgement(stdout: str, native_id: str) -> None:
    assert backend().parse_submit(answer(stdout), 1) == (native_id,)
    assert backend().parse_submit(answer(stderr=stdout), 1) == (native_id,)  # where a site's wrapper sends it there


def test_elements_have_the_ids_that_bkill_takes() -> None:
    assert backend().parse_submit(answer(recorded("bsub array")), 3) == ("39[1]", "39[2]", "39[3]")
    assert backend().parse_submit(answer(recorded("bsub stdin-array")), 2) == ("10[1]", "10[2]")
    assert backend().element_ids("39[2]", 3) == ("39[1]", "39[2]", "39[3]")


@pytest.mark.parametrize("stdout", ["", "queued\n", "Job <0> is submitted to queue <normal>.\n", "Job <7> waits\n"])
def test_success_without_an_id_is_a_lost_reply_and_no_guess(stdout: str) -> None:
    with pytest.raises(SubmitUnknown, match="no job id"):
        backend().parse_submit(answer(stdout), 1)


def test_bsub_that_dies_without_a_word_is_a_lost_reply() -> None:
    """Seen of root with volclava 2.2: exit code 141, and nothing said."""
    with pytest.raises(SubmitUnknown):
        backend().parse_submit(answer(code=141), 1)


KINDS: dict[str, type[Exception]] = {
    "no-conf-bsub": BackendUnavailable,
    "batch-down-bsub": SubmitUnknown,
    "lim-down-bsub": SubmitUnknown,
}


@pytest.mark.parametrize("case", sorted(path.stem.split("2.2-")[1] for path in DATA.glob("bsub-*.stderr.txt")))
def test_recorded_refusal_becomes_the_right_error_with_its_words(case: str) -> None:
    kind = KINDS.get(case.removesuffix(".stderr"), SubmitError)
    with pytest.raises(kind) as caught:
        backend().parse_submit(answer(stderr=recorded(f"bsub {case}"), code=255), 1)
    assert type(caught.value) is kind
    assert recorded(f"bsub {case}").strip() in str(caught.value)


def test_root_is_told_to_be_somebody_else() -> None:
    with pytest.raises(SubmitError, match="no jobs of root; run as an ordinary user"):
        backend().parse_submit(answer(stderr=recorded("bsub root.stderr"), code=255), 1)


def test_limit_on_waiting_jobs_passes() -> None:
    """cmd.sub.c of the OpenLava family, and IBM's: bsub tries again by itself, minutes on end."""
    said = "User <ada>: Pending job threshold reached. Job not submitted.\n"
    with pytest.raises(SubmitLimit):
        backend().parse_submit(answer(stderr=said, code=255), 1)


def test_bsub_that_waits_for_the_limit_to_pass_has_not_submitted(site: Path, tmp_path: Path) -> None:
    said = "User <ada>: Pending job threshold reached. Retrying in 60 seconds..."
    runs(site, "bsub", f"echo '{said}' >&2\nexec sleep 60")
    with pytest.raises(SubmitLimit):
        backend(timeout_s=0.5).submit(submission(str(tmp_path)))


def test_bsub_that_does_not_answer_leaves_the_question_open(site: Path, tmp_path: Path) -> None:
    runs(site, "bsub", AWAY)
    with pytest.raises(SubmitUnknown, match="did not answer within"):
        backend(timeout_s=0.5).submit(submission(str(tmp_path)))


def test_array_that_would_become_one_job_is_refused_before_anything_is_written(site: Path, tmp_path: Path) -> None:
    """``-J a[1-20000]`` was taken, as one plain job of that very name."""
    says(site, "bparams", recorded("bparams l"))
    with pytest.raises(SubmitError, match="array of 10001 jobs, and the site allows 10000"):
        backend().submit(submission(str(tmp_path / "job"), count=10_001))
    assert not (tmp_path / "job").exists()


def test_job_that_no_host_can_hold_is_refused(site: Path, tmp_path: Path) -> None:
    says(site, "bhosts", recorded("bhosts ok"))
    with pytest.raises(SubmitError, match="asks for 5 cores per host, and there are 4"):
        backend().submit(submission(str(tmp_path), cores=5))


def test_job_that_needs_more_memory_than_any_host_has_is_refused(site: Path, tmp_path: Path) -> None:
    """LSF takes it, and lets it wait for ever: "Job's resource requirements not satisfied"."""
    table = recorded("lshosts ok")
    says(site, "lshosts", table + table.splitlines()[1].replace("24105M", "-") + "\n")
    with pytest.raises(SubmitError, match="asks for 24576 MiB of memory per host, and there are 24105"):
        backend().submit(submission(str(tmp_path), memory="24GiB"))
    says(site, "bsub", recorded("bsub stdin"))
    assert backend().submit(submission(str(tmp_path), memory="23GiB")).native_ids == ("2",)
    says(site, "lshosts", table.replace("24105M", "-"))
    assert backend().submit(submission(str(tmp_path), memory="24GiB")).native_ids == ("2",)


def test_job_that_needs_more_hosts_than_there_are_is_refused(site: Path, tmp_path: Path) -> None:
    """With span[ptile=1], volclava 2.2 takes it as long as there are slots, and lets it wait for ever."""
    says(site, "lshosts", recorded("lshosts ok"))
    with pytest.raises(SubmitError, match="asks for 2 hosts, and there are 1"):
        backend().submit(submission(str(tmp_path), nodes=2))
    says(site, "lshosts", recorded("lshosts ok") + recorded("lshosts ok").splitlines()[1] + "\n")
    says(site, "bsub", recorded("bsub stdin"))
    assert backend().submit(submission(str(tmp_path), nodes=2)).native_ids == ("2",)


def test_sizes_of_memory_are_read_in_every_unit() -> None:
    row = recorded("lshosts ok").splitlines()[1]
    rows = "\n".join(["HOST_NAME ...", *(row.replace("24105M", size) for size in ("251.5G", "1.5T", "512K", "-"))])
    assert parse_memory_sizes(rows) == [int(251.5 * 2**30), int(1.5 * 2**40), 512 * 2**10]


def test_quality_of_service_is_refused() -> None:
    with pytest.raises(SubmitError, match="qos='high': LSF has none"):
        backend().submit(submission(qos="high"))


# ---------------------------------------------------------------- states

# bjobs(1) of 10.1, "Job status".
DOCUMENTED = {
    "PEND": JobState.PENDING,
    "PROV": JobState.PENDING,
    "PSUSP": JobState.PENDING,
    "WAIT": JobState.PENDING,
    "RUN": JobState.RUNNING,
    "USUSP": JobState.RUNNING,
    "SSUSP": JobState.RUNNING,
    "UNKWN": JobState.RUNNING,
    "DONE": JobState.COMPLETED,
    "EXIT": JobState.FAILED,
    "ZOMBI": JobState.FAILED,
}


@pytest.mark.parametrize(("word", "state"), DOCUMENTED.items())
def test_every_documented_state_is_known(word: str, state: JobState) -> None:
    assert (status_of(word).state, status_of(word).native_word) == (state, word)
    assert word in STATES


@pytest.mark.parametrize("word", ["", "HELD", "run", "POST_ERR", "DONE?"])
def test_unknown_word_is_unknown_and_kept(word: str) -> None:
    assert (status_of(word).state, status_of(word).native_word) == (JobState.UNKNOWN, word)


@pytest.mark.parametrize(
    ("code", "signal", "reason", "told"),
    [
        (3, None, ExitReason.NONZERO_EXIT, (3, None)),
        (255, None, ExitReason.NONZERO_EXIT, (255, None)),
        (128, None, ExitReason.NONZERO_EXIT, (128, None)),
        (130, None, ExitReason.SIGNAL, (None, 2)),
        (137, None, ExitReason.SIGNAL, (None, 9)),
        (140, None, ExitReason.TIMEOUT, (None, 12)),
        (None, 9, ExitReason.SIGNAL, (None, 9)),
        (None, None, None, (None, None)),
    ],
)
def test_exit_codes_above_128_are_signals(
    code: int | None, signal: int | None, reason: ExitReason | None, told: tuple[int | None, int | None]
) -> None:
    status = status_of("EXIT", code=code, signal=signal)
    assert (status.state, status.reason) == (JobState.FAILED, reason)
    assert (status.exit_code, status.signal) == told


@pytest.mark.parametrize(("word", "reason"), TERMINATIONS.items())
def test_termination_reason_outranks_the_exit_code(word: str, reason: ExitReason) -> None:
    status = status_of("EXIT", code=130, why=f"{word}: job killed")
    cancelled = {ExitReason.CANCELLED_OUTSIDE, ExitReason.DEPENDENCY_FAILED}
    assert status.reason is reason
    assert status.state is (JobState.CANCELLED if reason in cancelled else JobState.FAILED)
    assert status.detail == f"{word}: job killed"


@pytest.mark.parametrize("word", ["TERM_UNKNOWN", "TERM_EXTERNAL_SIGNAL", "TERM_OF_TOMORROW"])
def test_termination_reason_that_says_nothing_leaves_the_exit_code(word: str) -> None:
    assert status_of("EXIT", code=137, why=f"{word}: so").reason is ExitReason.SIGNAL


def test_hosts_are_named_once_each_in_either_family_s_way() -> None:
    assert status_of("RUN", hosts="4*hosta:2*hostb").nodes == "hosta,hostb"
    assert status_of("RUN", hosts="hosta:hosta:hostb").nodes == "hosta,hostb"
    assert status_of("PEND", hosts="-").nodes == status_of("PEND", hosts="").nodes == ""


def test_dependency_that_cannot_come_true_is_hopeless() -> None:
    """A pending reason of IBM's command reference."""
    assert status_of("PEND", pending="Dependency condition invalid or never satisfied;").is_hopeless
    assert not status_of("PEND", pending="Not enough job slot(s): 1 host;").is_hopeless


# ---------------------------------------------------------------- questions about all jobs


def words(found: Mapping[str, Any]) -> dict[str, str]:
    return {native_id: queued.status.native_word for native_id, queued in found.items()}


@pytest.mark.parametrize("form", ["json", "w"])
def test_elements_of_an_array_are_told_apart_by_their_names(form: str) -> None:
    found = backend().parse_poll(recorded(f"bjobs a-{form}-array"), "arr")
    assert words(found) == {
        "39[1]": "DONE",
        "39[2]": "EXIT",
        "39[3]": "EXIT",
        "39[4]": "RUN",
        "39[5]": "RUN",
        "39[6]": "PEND",
    }
    assert {queued.name for queued in found.values()} == {"arr"}
    assert (found["39[4]"].status.nodes, found["39[6]"].status.nodes) == ("lsfrig", "")


def test_both_forms_tell_the_same_about_a_mixed_queue() -> None:
    by_json, by_table = (backend().parse_poll(recorded(f"bjobs a-{form}-many"), "") for form in ("json", "w"))
    assert words(by_json) == words(by_table)
    assert len(by_json) == 64
    assert by_table["3"].status.nodes == "lsfrig"


def test_name_with_blanks_is_read_whole() -> None:
    assert backend().parse_poll(recorded("bjobs a-w-stdin-array"), "")["7"].name == "echo from-stdin; hostname"


def test_array_that_became_one_job_is_no_id_of_ours() -> None:
    found = backend().parse_poll(recorded("bjobs a-w-bad-array"), "zz")
    assert list(found) == ["3[0-2]", "5[0-2]"]
    assert not any(LsfBackend.id_pattern.fullmatch(native_id) for native_id in found)


def test_jobs_of_others_are_left_out() -> None:
    assert backend().parse_poll(recorded("bjobs a-w-many"), "cj-") == {}


def test_pending_jobs_have_no_host() -> None:
    found = backend().parse_poll(recorded("bjobs json-pending"), "")
    assert words(found) == {"3": "PEND", "6": "PSUSP", "5": "PEND"}
    assert all(queued.status.state is JobState.PENDING for queued in found.values())


def test_record_of_an_id_that_is_not_there_is_no_job() -> None:
    assert "99999" not in backend().parse_poll(recorded("bjobs json-some-unknown"), "")


def test_fields_of_ibm_explain_ends_and_waits() -> None:
    """The layout of IBM's command reference, bjobs -json, with a line that its clients print before."""
    text = f"""LSF is down. Please wait ...
{{
  "COMMAND":"bjobs",
  "JOBS":3,
  "RECORDS":[
    {{"JOBID":"7","STAT":"EXIT","EXEC_HOST":"2*hosta","JOB_NAME":"{NAME}[4]","EXIT_CODE":"130",
      "EXIT_REASON":"TERM_MEMLIMIT: job killed after reaching LSF memory usage limit","PEND_REASON":""}},
    {{"JOBID":"8","STAT":"PEND","EXEC_HOST":"","JOB_NAME":"{NAME}","EXIT_CODE":"","EXIT_REASON":"",
      "PEND_REASON":"New job is waiting for scheduling;"}},
    {{"JOBID":"9","STAT":"EXIT","EXEC_HOST":"hosta","JOB_NAME":"{NAME}","EXIT_CODE":"9","EXIT_REASON":"-",
      "PEND_REASON":"-"}}
  ]
}}
"""
    found = backend().parse_poll(text, "cj-0badcafe-")
    killed, waits, failed = (found[native_id].status for native_id in ("7[4]", "8", "9"))
    assert (killed.reason, killed.nodes) == (ExitReason.OUT_OF_MEMORY, "hosta")
    assert (waits.state, waits.detail) == (JobState.PENDING, "New job is waiting for scheduling")
    assert (failed.reason, failed.exit_code, failed.detail) == (ExitReason.NONZERO_EXIT, 9, "")


def test_answer_that_is_cut_short_is_an_error_and_no_empty_queue() -> None:
    whole = recorded("bjobs a-json-array")
    with pytest.raises(CommandError, match="no JSON that is whole"):
        backend().parse_poll(whole[: len(whole) // 2], "arr")


def answering(site: Path, *cases: tuple[str, str, str, int]) -> None:
    """Make a bjobs that answers by what its words begin with."""
    lines = [f'printf "%s\\n" "$*" >>{site}/calls', 'case "$*" in']
    lines += [
        f"{shlex.quote(first)}*) printf %s {shlex.quote(out)}; printf %s {shlex.quote(err)} >&2; exit {code};;"
        for first, out, err, code in cases
    ]
    runs(site, "bjobs", "\n".join([*lines, "esac", "exit 9"]))


def calls(site: Path) -> list[str]:
    return (site / "calls").read_text().splitlines()


UNKNOWN_FIELD = ("-a -json -o jobid stat exec_host job_name exit_code", "", recorded("bjobs o-exit_code.stderr"), 99)


def test_fields_that_are_not_known_are_asked_for_once(site: Path) -> None:
    answering(site, UNKNOWN_FIELD, ("-a -json", recorded("bjobs a-json-array"), "", 0))
    lsf = backend()
    for _ in range(2):
        assert len(lsf.query("arr")) == 6
    assert [call for call in calls(site)[1:] if call != "-p"] == ["-a -json -o jobid stat exec_host job_name"] * 2


@pytest.mark.parametrize("form", ["-a -json", "-a -w"])
def test_why_jobs_wait_is_asked_for_where_bjobs_has_no_field_for_it(site: Path, form: str) -> None:
    """Without, a job that ran into its queue_timeout would not say what it had waited for."""
    shown = {"-a -json": "json-pending", "-a -w": "a-w-many"}
    usage = [("-a -json", "", recorded("bjobs X.stderr"), 255)] if form == "-a -w" else [UNKNOWN_FIELD]
    table = recorded(f"bjobs {shown[form]}").replace(
        "EXIT  held       lsfrig         -  ", "PEND  held       lsfrig         -  "
    )
    answering(site, *usage, (form, table, "", 0), ("-p", recorded("bjobs p"), "", 0))
    found = backend().query("")
    assert found["5"].status.detail == "The queue is inactivated by the administrator: 1 host"
    assert found["5"].status.state is JobState.PENDING


def test_reasons_that_cannot_be_had_are_no_error(site: Path) -> None:
    answering(site, UNKNOWN_FIELD, ("-a -json", recorded("bjobs json-pending"), "", 0), ("-p", "", "?", 255))
    assert words(backend().query("")) == {"3": "PEND", "6": "PSUSP", "5": "PEND"}


def test_reasons_are_told_apart_by_number_and_index() -> None:
    text = (
        recorded("bjobs p")
        .replace("waits              ", "*s-a-long-name[2]  ")
        .replace(": 1 host;\n6", ": 1 host;\n Closed: 2 hosts;\n6")
    )
    assert parse_waits(text) == {
        "3[2]": "Not enough job slot(s): 1 host; Closed: 2 hosts",
        "6": "The job was suspended by the user while pending: 1 host",
        "8": "The job has a specified start time: 1 host",
        "9": "Job's resource requirements not satisfied: 1 host",
        "5": "The queue is inactivated by the administrator: 1 host",
    }
    assert parse_waits("No pending job found\n") == {}


def test_bjobs_without_json_is_asked_for_its_table(site: Path) -> None:
    usage = recorded("bjobs X.stderr").replace("'X'", "'j'")
    answering(site, ("-a -json", "", usage, 255), ("-a -w", recorded("bjobs a-w-array"), "", 0))
    assert len(backend().query("arr")) == 6


def test_json_that_dies_half_way_is_made_up_for_by_the_table(site: Path) -> None:
    """Seen with volclava 2.2 over thousands of jobs: a segmentation fault, the last line cut."""
    half = recorded("bjobs a-json-array")[:900]
    answering(site, UNKNOWN_FIELD, ("-a -json", half, "", 139), ("-a -w", recorded("bjobs a-w-array"), "", 0))
    assert len(backend().query("arr")) == 6


@pytest.mark.parametrize("case", ["a-none", "none"])
@pytest.mark.parametrize("code", [0, 254, 255])
def test_no_jobs_at_all_is_no_error_whatever_the_exit_code(site: Path, case: str, code: int) -> None:
    answering(site, ("-a", "", recorded(f"bjobs {case}.stderr"), code))
    assert backend().query("cj-") == {}


@pytest.mark.parametrize(("stdout", "stderr", "code"), [("", "", 0), ("", "what?\n", 255), ("", "", 139)])
def test_silence_is_not_an_empty_queue(site: Path, stdout: str, stderr: str, code: int) -> None:
    answering(site, ("-a", stdout, stderr, code))
    with pytest.raises(CommandError):
        backend().query("cj-")


def test_daemon_that_is_away_is_an_error_within_the_time_limit(site: Path) -> None:
    runs(site, "bjobs", AWAY)
    with pytest.raises(CommandTimeout):
        backend(timeout_s=0.3).query("cj-")


# ---------------------------------------------------------------- questions about one job

ENDS: dict[str, tuple[str, JobState, ExitReason | None, int | None, int | None]] = {
    "UF-running": ("2", JobState.RUNNING, None, None, None),
    "l-running": ("2", JobState.RUNNING, None, None, None),
    "UF-stopped": ("25", JobState.RUNNING, None, None, None),
    "l-waits": ("3", JobState.PENDING, None, None, None),
    "pl-pending": ("9", JobState.PENDING, None, None, None),
    "UF-ok": ("11", JobState.COMPLETED, None, 0, None),
    "l-ok": ("11", JobState.COMPLETED, None, 0, None),
    "UF-stdin": ("12", JobState.COMPLETED, None, 0, None),
    "UF-exit-3": ("15", JobState.FAILED, ExitReason.NONZERO_EXIT, 3, None),
    "l-exit-3": ("15", JobState.FAILED, ExitReason.NONZERO_EXIT, 3, None),
    "UF-no-such-command": ("16", JobState.FAILED, ExitReason.NONZERO_EXIT, 127, None),
    "UF-exit-255": ("17", JobState.FAILED, ExitReason.NONZERO_EXIT, 255, None),
    "UF-no-output-directory": ("18", JobState.COMPLETED, None, 0, None),
    "l-killed": ("2", JobState.FAILED, ExitReason.SIGNAL, None, 2),
    "UF-kill-9-of-wrapper": ("19", JobState.COMPLETED, None, 0, None),
    "UF-usr1": ("21", JobState.FAILED, ExitReason.NONZERO_EXIT, 7, None),
    "l-killed-by-9": ("22", JobState.FAILED, ExitReason.SIGNAL, None, 9),
    "UF-killed-by-9": ("22", JobState.FAILED, ExitReason.SIGNAL, None, 9),
    "UF-killed-exits-0": ("23", JobState.COMPLETED, None, 0, None),
    "UF-run-limit": ("37", JobState.FAILED, ExitReason.TIMEOUT, None, 12),
    "l-run-limit": ("37", JobState.FAILED, ExitReason.TIMEOUT, None, 12),
    "l-array": ("39[2]", JobState.FAILED, ExitReason.NONZERO_EXIT, 3, None),
    "UF-memory-not-enforced": ("66", JobState.COMPLETED, None, 0, None),
    "l-after-restart": ("67", JobState.FAILED, ExitReason.NONZERO_EXIT, 4, None),
    "l-killed-pending": ("8", JobState.CANCELLED, ExitReason.CANCELLED_OUTSIDE, None, None),
}
HISTORY: dict[str, tuple[str, JobState, ExitReason | None, int | None, int | None]] = {
    "l-ok": ("11", JobState.COMPLETED, None, 0, None),
    "l-exit-3": ("15", JobState.FAILED, ExitReason.NONZERO_EXIT, 3, None),
    "l-no-such-command": ("16", JobState.FAILED, ExitReason.NONZERO_EXIT, 127, None),
    "l-killed": ("2", JobState.CANCELLED, ExitReason.CANCELLED_OUTSIDE, None, 2),
    "l-killed-by-9": ("22", JobState.CANCELLED, ExitReason.CANCELLED_OUTSIDE, None, 9),
    "l-killed-exits-0": ("23", JobState.COMPLETED, None, 0, None),
    "l-run-limit": ("37", JobState.FAILED, ExitReason.TIMEOUT, None, 12),
    "l-element": ("39[2]", JobState.FAILED, ExitReason.NONZERO_EXIT, 3, None),
    "l-purged": ("1", JobState.FAILED, ExitReason.NONZERO_EXIT, 3, None),
    "l-killed-pending": ("8", JobState.CANCELLED, ExitReason.CANCELLED_OUTSIDE, None, None),
}
PROSE = [("bjobs", case, *told) for case, told in ENDS.items()] + [
    ("bhist", case, *told) for case, told in HISTORY.items()
]


@pytest.mark.parametrize(("command", "case", "native_id", "state", "reason", "code", "signal"), PROSE)
def test_recorded_prose_tells_how_a_job_ended(
    command: str,
    case: str,
    native_id: str,
    state: JobState,
    reason: ExitReason | None,
    code: int | None,
    signal: int | None,
) -> None:
    told = parse_prose(recorded(f"{command} {case}"), native_id)
    assert told is not None
    assert (told.state, told.reason, told.exit_code, told.signal) == (state, reason, code, signal)


def test_every_recorded_prose_is_in_the_table() -> None:
    there = {
        path.stem.split("2.2-")[1] for path in DATA.glob("bjobs-*") if "2.2-UF" in path.name or "2.2-l-" in path.name
    }
    assert there == set(ENDS) - {"pl-pending"}


@pytest.mark.parametrize("case", ["l-running", "l-stopped"])
def test_history_of_a_job_that_has_not_ended_tells_nothing(case: str) -> None:
    assert parse_prose(recorded(f"bhist {case}"), {"l-running": "2", "l-stopped": "25"}[case]) is None


def test_job_in_prose_is_told_apart_from_others_of_its_array_and_from_old_ones_of_its_number() -> None:
    text = recorded("bjobs l-array")
    assert [parse_prose(text, f"39[{index}]") is not None for index in (1, 6, 7)] == [True, True, False]
    assert parse_prose(recorded("bhist l-purged"), "1", "purged") is not None
    assert parse_prose(recorded("bhist l-purged"), "1", NAME) is None
    assert parse_prose(recorded("bhist l-element"), "39[2]", "arr") is not None


def test_script_that_quotes_lsf_is_not_believed() -> None:
    quoting = recorded("bjobs UF-ok").replace("./ok.sh", "echo 'Exited with exit code 9; Status <EXIT>, TERM_OWNER: x'")
    told = parse_prose(quoting, "11")
    assert told is not None
    assert (told.state, told.reason) == (JobState.COMPLETED, None)


def test_termination_reason_in_ibm_s_prose_is_the_reason() -> None:
    """IBM's, from its manual "Termination reasons displayed by bacct, bhist, and bjobs"."""
    end = "Exited with exit code 140. The CPU time used is 0.0 seconds."
    assert end in recorded("bjobs UF-run-limit")
    why = "Completed <exit>; TERM_MEMLIMIT: job killed after reaching LSF memory usage limit."
    told = parse_prose(recorded("bjobs UF-run-limit").replace(end, f"{end}\nFri Nov 20 09:16:26: {why}"), "37")
    assert told is not None
    assert told.reason is ExitReason.OUT_OF_MEMORY
    assert told.detail == "TERM_MEMLIMIT: job killed after reaching LSF memory usage limit"


def test_job_that_ended_by_our_own_signal_at_its_limit_ran_out_of_time() -> None:
    """At the limit LSF sends USR2, which a script may turn into another end; the times still tell."""
    text = recorded("bjobs UF-run-limit")
    late = parse_prose(text.replace("exit code 140", "exit code 143"), "37")
    early = parse_prose(text.replace("exit code 140", "exit code 143").replace("09:16:26", "09:15:50"), "37")
    assert late is not None
    assert early is not None
    assert (late.reason, early.reason) == (ExitReason.TIMEOUT, ExitReason.SIGNAL)


def test_run_over_the_end_of_a_year_is_no_long_run() -> None:
    text = recorded("bjobs UF-run-limit").replace("exit code 140", "exit code 143")
    told = parse_prose(
        text.replace("Nov 20 09:15:25", "Dec 31 23:59:50").replace("Nov 20 09:16:26", "Jan  1 00:00:05"), "37"
    )
    assert told is not None
    assert told.reason is ExitReason.SIGNAL


def test_history_is_asked_who_killed_a_job(site: Path) -> None:
    says(site, "bjobs", recorded("bjobs l-killed"))
    says(site, "bhist", recorded("bhist l-killed"))
    told = backend().explain("2")
    assert told is not None
    assert (told.state, told.detail) == (JobState.CANCELLED, "signal KILL requested by lsfuser")
    assert calls(site) == ["-UF 2", "-l 2"]


def test_history_is_asked_about_a_job_that_bjobs_has_forgotten(site: Path) -> None:
    says(site, "bjobs", stderr="Job <1> is not found\n", code=255)
    says(site, "bhist", recorded("bhist l-purged"))
    told = backend().explain("1")
    assert told is not None
    assert (told.reason, told.exit_code) == (ExitReason.NONZERO_EXIT, 3)


def test_job_that_nobody_knows_is_none(site: Path) -> None:
    says(site, "bjobs", stderr=recorded("bjobs unknown.stderr"), code=255)
    says(site, "bhist", recorded("bhist unknown"), code=255)
    assert backend().explain("99999") is None


def test_bjobs_without_uf_is_asked_for_its_folded_form(site: Path) -> None:
    old = recorded("bjobs X.stderr").replace("'X'", "'U'")
    answering(site, ("-UF", "", old, 255), ("-l 15", recorded("bjobs l-exit-3"), "", 0))
    told = backend().explain("15")
    assert told is not None
    assert told.exit_code == 3


@pytest.mark.parametrize(
    ("head", "sizes", "is_outgrown"),
    [
        (" MEMLIMIT", " 204800 K", True),
        (" MEMLIMIT", "    1 G ", False),
        (" CORELIMIT MEMLIMIT", "      0 K    100 M", True),
        (" STACKLIMIT MEMLIMIT SWAPLIMIT", "  1 M  1 G  1 M", False),
        (" MEMLIMIT", " what?", False),
    ],
)
def test_memory_limit_is_found_beside_other_limits(head: str, sizes: str, is_outgrown: bool) -> None:
    text = recorded("bjobs UF-memory-not-enforced").replace(" MEMLIMIT\n 52428800 K", f"{head}\n{sizes}")
    assert has_outgrown(text) is is_outgrown


OUTGROWN = recorded("bjobs UF-memory-not-enforced").replace("Done successfully.", "Exited with exit code 130.")


@pytest.mark.parametrize(
    ("limit", "killer", "reason"),
    [
        ("204800 K", "", ExitReason.OUT_OF_MEMORY),
        ("200 M", "", ExitReason.OUT_OF_MEMORY),
        ("52428800 K", "", ExitReason.SIGNAL),
        ("204800 K", "Fri Nov 20 09:15:54: Signal <KILL> requested by user or administrator <ada>;\n",
         ExitReason.CANCELLED_OUTSIDE),
    ],
)  # fmt: skip
def test_job_that_outgrew_its_memory_limit_and_was_killed_by_nobody_ran_out_of_memory(
    site: Path, limit: str, killer: str, reason: ExitReason
) -> None:
    """The OpenLava family names no reason. The memory is that of a recorded job, the limits are smaller ones."""
    says(site, "bjobs", OUTGROWN.replace("Status <DONE>", "Status <EXIT>").replace("52428800 K", limit))
    history = recorded("bhist l-ok").replace("<11>", "<66>").replace("<okjob>", "<hog>")
    says(site, "bhist", re.sub(r"(.*): Done successfully", rf"{killer}\1: Exited with exit code 130", history))
    told = backend().explain("66")
    assert told is not None
    assert told.reason is reason


@pytest.mark.parametrize(
    ("action", "reason"),
    [("MEMLIMIT", ExitReason.OUT_OF_MEMORY), ("RUNLIMIT", ExitReason.TIMEOUT), ("Load", ExitReason.PREEMPTED)],
)
def test_termination_action_in_the_history_is_the_reason(action: str, reason: ExitReason) -> None:
    """Words of the OpenLava family's bhist, where a queue has a terminate action of its own (lsb.queues(5))."""
    text = recorded("bhist l-killed")
    event = re.sub(r"Signal <KILL> requested[^;]*\s*;", f"{action} termination action initiated (actpid 77);", text)
    assert event != text
    told = parse_prose(event, "2")
    assert told is not None
    assert (told.reason, told.signal) == (reason, 2)


@pytest.mark.parametrize("history", ["echo 'lsb.events: Permission denied' >&2; exit 255", "exec sleep 60"])
def test_history_that_cannot_be_read_leaves_what_bjobs_has_told(site: Path, history: str) -> None:
    says(site, "bjobs", recorded("bjobs l-killed"))
    runs(site, "bhist", history)
    told = backend(timeout_s=0.5).explain("2")
    assert told is not None
    assert (told.reason, told.signal) == (ExitReason.SIGNAL, 2)


def test_history_that_cannot_be_read_is_an_error_where_nobody_else_knows(site: Path) -> None:
    says(site, "bjobs", stderr=recorded("bjobs unknown.stderr"), code=255)
    runs(site, "bhist", "echo 'lsb.events: Permission denied' >&2; exit 255")
    with pytest.raises(CommandError, match="Permission denied"):
        backend().explain("99999")


def test_months_in_another_language_are_no_run_limit() -> None:
    text = recorded("bjobs UF-run-limit").replace("exit code 140", "exit code 143").replace("Nov", "Lis")
    told = parse_prose(text, "37")
    assert told is not None
    assert told.reason is ExitReason.SIGNAL


def test_source_that_fails_otherwise_is_an_error(site: Path) -> None:
    says(site, "bjobs", stderr=recorded("bjobs no-conf.stderr"), code=255)
    with pytest.raises(CommandError, match="cannot ask about job 7"):
        backend().explain("7")


# ---------------------------------------------------------------- cancelling


def test_many_ids_go_on_one_command_line_arrays_by_ranges(site: Path) -> None:
    says(site, "bkill", "Job <7> is being terminated\n")
    backend().cancel(["9", "7", "8[3]", "8[1]", "8[2]", "8[7]", "8[10]"])
    assert calls(site) == ["7 8[1-3,7,10] 9"]


@pytest.mark.parametrize("native_id", ["0", "-1", "00", "0[1]", "7[0]", "7[1-3]", "7 0", "", "7[", "all", "7\n0"])
def test_id_that_means_other_jobs_never_reaches_bkill(site: Path, native_id: str) -> None:
    """To bkill, 0 means every job of the user."""
    says(site, "bkill")
    with pytest.raises(SpecError, match="is no lsf job id of ours"):
        backend().cancel(["7", native_id])
    assert not (site / "calls").exists()


@pytest.mark.parametrize(
    "case", ["again", "array-again", "array-pending", "mixed", "several", "purged", "by-name-again"]
)
def test_job_that_has_ended_or_ends_is_harmless_to_cancel(site: Path, case: str) -> None:
    says(site, "bkill", stderr=recorded(f"bkill {case}.stderr"), code=255)
    backend().cancel(["7"])
    assert calls(site) == ["7"]


@pytest.mark.parametrize(
    "said", ["Job has already finished", "No matching job found", "The requested operation is in progress."]
)
def test_ibm_s_word_for_many_jobs_at_once_is_harmless(site: Path, said: str) -> None:
    """LSF 10.1 may say one word about all ids, without any of them."""
    says(site, "bkill", stderr=f"{said}\n", code=255)
    backend().cancel(["7", "8[3]"])
    assert calls(site) == ["7 8[3]"]


@pytest.mark.parametrize("stderr", ["User permission denied\n", recorded("bkill again.stderr") + "Bad cluster\n"])
def test_other_words_of_bkill_are_an_error(site: Path, stderr: str) -> None:
    says(site, "bkill", stderr=stderr, code=255)
    with pytest.raises(CommandError, match="cannot cancel jobs"):
        backend().cancel(["7"])


# ---------------------------------------------------------------- the site


def up(site: Path) -> None:
    for command in ("bsub", "bjobs", "bkill"):
        says(site, command)
    for command, case in (("lsid", "ok"), ("bhosts", "ok"), ("lshosts", "ok"), ("bparams", "l")):
        says(site, command, recorded(f"{command} {case}"))
    says(site, "bqueues", recorded("bqueues l-normal"))


def test_probe_tells_version_hosts_queues_and_limits(site: Path) -> None:
    up(site)
    info = backend().check()
    assert (info.version, info.nodes, info.cores_per_node) == ("volclava project 2.2", 1, 4)
    assert (info.array_limit, info.detail) == (10000, "cluster rig; time limits are whole minutes")
    assert info.partitions == (Partition("normal", True, None, None, "up"),)


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (["unavail", "unreach"], "; no host takes jobs: unavail, unreach"),
        (["unavail", "ok"], ""),
        (["closed_Adm"], "; no host takes jobs: closed_Adm"),
        (["closed"], ""),  # with the OpenLava family also that of a host that is full
    ],
)
def test_probe_says_that_no_host_takes_jobs(site: Path, states: list[str], said: str) -> None:
    """Words of bhosts(1)."""
    up(site)
    head, row = recorded("bhosts ok").splitlines()
    says(site, "bhosts", "\n".join([head, *(row.replace("ok  ", f"{state}  ") for state in states)]) + "\n")
    assert backend().check().detail == "cluster rig; time limits are whole minutes" + said


def test_hosts_without_a_limit_on_slots_are_told_by_their_cores(site: Path) -> None:
    up(site)
    says(site, "bhosts", recorded("bhosts ok").replace("  4  ", "  -  "))
    assert backend().check().cores_per_node == 2


def test_queues_are_known_with_their_state_and_limit() -> None:
    """The table of limits is that of bqueues(1)."""
    limits = "MAXIMUM LIMITS:\n RUNLIMIT                \n 90.0 min of lsfrig\n"
    normal = recorded("bqueues l-normal")
    named = normal.replace(
        "QUEUE: normal\n  -- default  This is the default queue.\n",
        f"QUEUE: a_queue_of_a_long_name\n  -- Short.\n{limits}",
    )
    shut = named.replace("Open:Active  ", "Closed:Active")
    assert parse_queues(normal + named + shut) == (
        Partition("normal", True, None, None, "up"),
        Partition("a_queue_of_a_long_name", False, None, 5400.0, "up"),
        Partition("a_queue_of_a_long_name", False, None, 5400.0, "Closed:Active"),
    )


def test_run_limit_is_found_beside_other_limits() -> None:
    assert (
        parse_run_limit(" CPULIMIT                  RUNLIMIT                \n 20.0 min                  45.0 min\n")
        == 2700
    )
    assert parse_run_limit(" CPULIMIT                \n 20.0 min\n") is None


def test_small_readers() -> None:
    assert parse_hosts(recorded("bhosts ok")) == [4]
    assert parse_parameter(recorded("bparams l"), "CLEAN_PERIOD") == "3600"
    assert parse_parameter(recorded("bparams l"), "MAX_PEND_JOBS") == ""


def test_array_limit_is_lsf_s_default_where_none_is_set(site: Path) -> None:
    says(site, "bparams", "Default Queues:  normal\n")
    assert backend().array_limit() == 1000


@pytest.mark.parametrize(
    ("command", "stderr", "words"),
    [
        ("lsid", recorded("lsid lim-down.stderr"), "LIM is down; try later"),
        ("bqueues", recorded("bjobs no-conf.stderr"), "Unable to open file lsf.conf"),
    ],
)
def test_probe_says_why_lsf_cannot_be_used(site: Path, command: str, stderr: str, words: str) -> None:
    up(site)
    says(site, command, stderr=stderr, code=255)
    with pytest.raises(BackendUnavailable, match=words):
        backend().check()


def test_probe_does_not_mind_what_a_command_says_of_its_version(site: Path) -> None:
    up(site)
    says(site, "bkill", stderr="?", code=255)
    assert backend().check().version == "volclava project 2.2"


def test_probe_of_a_daemon_that_is_away_ends_with_its_words(site: Path) -> None:
    up(site)
    runs(site, "bqueues", AWAY)
    with pytest.raises(BackendUnavailable, match="still trying"):
        backend(timeout_s=0.5).check()


def test_probe_without_lsf_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendUnavailable, match="bsub not found on PATH"):
        backend().check()


def test_everything_is_offered_and_every_option_is_known() -> None:
    assert LsfBackend.capabilities == frozenset(Capability)
    assert LsfBackend.option_names == {"memory_unit"}
