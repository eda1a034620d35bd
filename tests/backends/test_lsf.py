"""What LSF is told: scripts, submissions, cancels; and what its site offers.

What volclava 2.2, of the OpenLava family, says here was recorded from a real one. IBM's own words are those of its
command reference for 10.1, and say so.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pytest_clusterjobs.backends.base import BackendSettings, Capability, Partition
from pytest_clusterjobs.backends.lsf import LsfBackend
from pytest_clusterjobs.backends.lsf_text import (
    parse_hosts,
    parse_memory_sizes,
    parse_parameter,
    parse_queues,
    parse_run_limit,
)
from pytest_clusterjobs.core.errors import (
    BackendUnavailable,
    CommandError,
    ConfigError,
    SpecError,
    SubmitError,
    SubmitLimit,
    SubmitUnknown,
)
from pytest_clusterjobs.transports.base import CommandResult
from pytest_clusterjobs.transports.local import LocalTransport
from tests.backends.lsf_bench import (
    AWAY,
    DATA,
    backend,
    calls,
    directives,
    make_site,
    recorded,
    runs,
    says,
    submission,
)
from tests.backends.spoken import NAME, directives_of
from tests.watching import wait_for


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_site(tmp_path, monkeypatch)


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


@pytest.mark.parametrize("where", ["prologue", "epilogue"])
def test_line_that_bsub_would_take_for_a_directive_is_refused(where: str) -> None:
    lines: dict[str, Any] = {where: ["# a comment", "#BSUB -q other"]}
    with pytest.raises(SubmitError, match=r"'#BSUB -q other' of prologue or epilogue.*write extra_directives"):
        backend().submit(submission(**lines))


def test_quality_of_service_is_refused() -> None:
    with pytest.raises(SubmitError, match="qos='high': LSF has none"):
        backend().submit(submission(qos="high"))


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
