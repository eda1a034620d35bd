"""What PBS is told, and what its words mean. Everything it says here was recorded from real OpenPBS servers."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_clusterjobs.backends.base import BackendSettings
from pytest_clusterjobs.backends.pbs import PbsBackend, array_of
from pytest_clusterjobs.backends.pbs_text import (
    STATES,
    counted_resources,
    is_at_least,
    parse_entries,
    parse_nodes,
    parse_queues,
    parse_version,
    status_of,
)
from pytest_clusterjobs.core.errors import (
    BackendError,
    BackendUnavailable,
    CommandError,
    SpecError,
    SubmitError,
    SubmitLimit,
    SubmitUnknown,
)
from pytest_clusterjobs.core.state import ExitReason, JobState
from pytest_clusterjobs.transports.base import CommandResult
from tests.backends.spoken import PREFIX, Answering, directives_of, submission, way_of

if TYPE_CHECKING:
    from tests.pbs_recordings import FLAVOURS, Recording, by_program, recorded, recordings
else:
    from pbs_recordings import FLAVOURS, Recording, by_program, recorded, recordings


def answer_of(recording: Recording) -> tuple[int, str, str]:
    return recording.code, recording.stdout, recording.stderr


def as_text(kind: str, things: Mapping[str, Mapping[str, Any]]) -> str:
    """Write attributes that were recorded as JSON in the form that qstat(1B) gives for text."""
    lines = []
    for name, attributes in things.items():
        lines.append(f"{kind}: {name}")
        lines += [f"    {key} = {value}" for key, value in flat(attributes).items()]
        lines.append("")
    return "\n".join(lines) + "\n"


def flat(attributes: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in attributes.items():
        if isinstance(value, Mapping):
            found.update((f"{key}.{name}", str(each)) for name, each in value.items())
        else:
            found[key] = str(value)
    return found


SERVER = as_text("Server", json.loads(recorded("00-version/05").stdout)["Server"])
QUEUES = as_text("Queue", json.loads(recorded("00-version/07").stdout)["Queue"])

SITE: dict[str, tuple[int, str, str]] = {
    "id": (0, "uid=1000(pbsuser) gid=1000(pbsuser) groups=1000(pbsuser)\n", ""),
    "qstat --version": answer_of(recorded("00-version/01-qstat")),
    "qsub --version": answer_of(recorded("00-version/01-qstat")),
    "qselect --version": answer_of(recorded("00-version/01-qstat")),
    "qdel --version": answer_of(recorded("00-version/01-qstat")),
    "qstat -B -f": (0, SERVER, ""),
    "qstat -Q -f": (0, QUEUES, ""),
    "pbsnodes -a": answer_of(recorded("00-version/09")),
    "qsub": (0, "7.pbsrig\n", ""),
    "qselect": answer_of(recorded("01-running/15")),
    "qstat -t -f": answer_of(recorded("01-running/08")),
    "qstat -x -f": answer_of(recorded("03-finished-ok/07")),
    "qdel": (0, "", ""),
}


def backend(**answers: tuple[int, str, str]) -> PbsBackend:
    changed = {key.replace("_", " -").replace("- -", "--"): answer for key, answer in answers.items()}
    return PbsBackend(Answering({**SITE, **changed}), BackendSettings(python="/usr/bin/python3"))


def directives(**asked_for: Any) -> list[str]:
    return directives_of(backend().render_script(submission(**asked_for)), "#PBS")


# ---------------------------------------------------------------- the script


def test_job_that_asks_for_nothing_is_one_core_that_runs_once_and_sends_no_mail() -> None:
    assert directives() == [f"-N {PREFIX}1-solve", "-S /bin/bash", "-r n", "-m n", "-l select=1:ncpus=1"]


@pytest.mark.parametrize(
    ("asked_for", "said"),
    [
        ({"cores": 4}, "-l select=1:ncpus=4:mpiprocs=4:ompthreads=4"),
        ({"memory": "1GB"}, "-l select=1:ncpus=1:mem=1024mb"),
        ({"memory": 1}, "-l select=1:ncpus=1:mem=1mb"),
        ({"memory": "1GB", "cores": 3}, "-l select=1:ncpus=3:mpiprocs=3:ompthreads=3:mem=1024mb"),
        ({"gpus": 2}, "-l select=1:ncpus=1:ngpus=2"),
        ({"nodes": 2, "cores": 2}, "-l select=2:ncpus=2:mpiprocs=2:ompthreads=2"),
        ({"nodes": 2}, "-l place=scatter"),
        ({"constraint": "host=node7:arch=linux"}, "-l select=1:ncpus=1:host=node7:arch=linux"),
        ({"time": "00:05:00"}, "-l walltime=00:05:00"),
        ({"time": 0.5}, "-l walltime=00:00:01"),
        ({"time": "2-01:00:00"}, "-l walltime=49:00:00"),
        ({"queue": "workq"}, "-q workq"),
        ({"account": "physics"}, "-A physics"),
        ({"count": 3}, "-J 0-2"),
        ({"count": 3}, "-r y"),
        ({"count": 3, "limit": 2}, "-J 0-2%2"),
        ({"extra_directives": ["-p -10"]}, "-p -10"),
    ],
)
def test_every_resource_is_said(asked_for: dict[str, Any], said: str) -> None:
    assert said in directives(**asked_for)


def test_one_job_is_never_an_array_of_one() -> None:
    """qsub refuses ``-J 0-0`` (recorded: illegal -J value)."""
    assert not any(line.startswith("-J") for line in directives(count=1, limit=3))
    assert recorded("07-array/24").code == 2


def test_job_knows_itself_by_the_id_that_qsub_gave(tmp_path: Path) -> None:
    lines = backend().render_script(submission(str(tmp_path), count=2)).splitlines()
    chosen = [line for line in lines if line.startswith(("cj_dir=", "cj_mark=", "export CLUSTERJOBS_"))]
    show = "\n".join([*chosen, 'printf "%s\\n" "$cj_dir" "$cj_mark" "$CLUSTERJOBS_NATIVE_ID"'])
    done = subprocess.run(
        ["bash", "-c", show],
        env={"PBS_JOBID": "7[1].pbsrig", "PBS_ARRAY_INDEX": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [f"{tmp_path}/1", "/jobs/marks/1.1", "7[1].pbsrig"]
    assert backend().parse_submit(CommandResult(("qsub",), 0, "7[].pbsrig\n", ""), 2)[1] == "7[1].pbsrig"


def test_script_is_bash_without_a_syntax_error() -> None:
    for text in (backend().render_script(submission()), backend().render_script(submission(count=2, modules="gcc"))):
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_what_left_the_job_s_session_is_gone_when_the_script_ends_and_nothing_else_is(tmp_path: Path) -> None:
    runner = tmp_path / "runner"
    runner.write_text(f"setsid sleep 300 & echo $! >{tmp_path}/left\nexit 5\n")
    (tmp_path / "environment.sh").touch()
    made = dataclasses.replace(
        submission(str(tmp_path)), markers=(str(tmp_path / "mark"),), runner=str(runner), python="/bin/bash"
    )
    text = backend().render_script(made).replace("/bin/bash -u ", "/bin/bash ")
    environment = {"PBS_JOBID": "7.pbsrig", "PATH": os.environ["PATH"]}
    # The job of the same id on another server has another marker.
    other = subprocess.Popen(["sleep", "300"], env={**environment, "CLUSTERJOBS_MARK": "/elsewhere/mark"})
    try:
        done = subprocess.run(["bash", "-c", text], env=environment, timeout=20, check=False)
        assert done.returncode == 5
        assert (tmp_path / "mark").read_text() == "5"
        left = int((tmp_path / "left").read_text())
        deadline = time.monotonic() + 10
        while os.path.exists(f"/proc/{left}") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not os.path.exists(f"/proc/{left}")
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


# ---------------------------------------------------------------- the submit command


def test_submit_command_leaves_no_process_behind_and_has_the_daemon_s_words_written_at_once() -> None:
    argv = backend().submit_argv(submission(extra_args=["-p", "5"]), "/jobs/1-solve/script.sh")
    log = "/jobs/1-solve/scheduler.log"
    assert argv == ["qsub", "-f", "-j", "oe", "-k", "oed", "-o", log, "-p", "5", "/jobs/1-solve/script.sh"]


def test_elements_have_a_log_of_the_daemon_s_words_each() -> None:
    argv = backend().submit_argv(submission(count=3), "script.sh")
    assert argv[argv.index("-o") + 1] == "/jobs/1-solve/^array_index^/scheduler.log"


@pytest.mark.parametrize("folder", ["/a:b", "/a,b", "/^x", "/Jörg", "/a\tb"])
def test_path_that_qsub_would_take_for_something_else_is_not_given_to_it(folder: str) -> None:
    argv = backend().submit_argv(submission(folder), "script.sh")
    assert argv[argv.index("-o") + 1] == "/dev/null"


def test_environment_goes_by_file_without_anything_of_an_outer_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PBS_CONF_FILE", "/etc/pbs.conf")
    monkeypatch.setenv("PBS_BATCH_SERVICE_PORT", "25001")
    outer = {
        "PBS_JOBID": "3.pbsrig",
        "PBS_DPREFIX": "#X",
        "NCPUS": "64",
        "TMPDIR": "/tmp/pbs.3",
        "CUDA_VISIBLE_DEVICES": "3",
        "BASH_FUNC_module%%": "() { :\n}",
        "LINES_OF": 'a\n"b"',
        "PATH": "/mine",
        "a.b": "c",
    }
    pbs = backend()
    pbs.submit(dataclasses.replace(submission(str(tmp_path), env={"TOKEN": "s3cret"}), environment=outer))
    text = (tmp_path / "environment.sh").read_text()
    assert text == "export LINES_OF='a\n\"b\"'\nexport PATH=/mine\nexport TOKEN=s3cret\n"
    assert "s3cret" not in (tmp_path / "script.sh").read_text()
    given = way_of(pbs).environments[-1]
    assert (given["PBS_CONF_FILE"], given["PBS_BATCH_SERVICE_PORT"]) == ("/etc/pbs.conf", "25001")
    assert "PBS_JOBID" not in given
    assert "PBS_DPREFIX" not in given


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [({"qos": "high"}, "qos='high'"), ({"constraint": "fast"}, "host=node7"), ({"constraint": "a=1&b=2|c"}, "host=")],
)
def test_what_pbs_has_not_is_refused_before_anything_is_written(
    tmp_path: Path, spec: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(SubmitError, match=complaint):
        backend().submit(submission(str(tmp_path), **spec))
    assert list(tmp_path.iterdir()) == []


def test_limit_on_an_array_s_running_elements_is_refused_where_qsub_does_not_know_it(tmp_path: Path) -> None:
    with pytest.raises(SubmitError, match=r"PBS 19\.1\.3 is older than 20"):
        backend(qstat__version=(0, "pbs_version = 19.1.3\n", "")).submit(submission(str(tmp_path), count=3, limit=2))


@pytest.mark.parametrize(
    ("version", "is_new"),
    [("19.1.3", False), ("18.2", False), ("20.0.1", True), ("23.06.06", True), ("2022.1.1.20220926110806", True)],
)
def test_versions_are_ordered(version: str, is_new: bool) -> None:
    assert is_at_least(version, 20) is is_new


# ---------------------------------------------------------------- the answer to a submission


def answer(stdout: str = "", stderr: str = "", code: int = 0) -> CommandResult:
    return CommandResult(("qsub", "script.sh"), code, stdout, stderr)


@pytest.mark.parametrize("each", [each for each in by_program("qsub") if each.code == 0], ids=lambda each: each.case)
def test_id_is_found_in_every_recorded_acknowledgement(each: Recording) -> None:
    count = 3 if "[]" in each.stdout else 1
    ids = backend().parse_submit(answer(each.stdout), count)
    assert array_of(ids[0]) == each.stdout.strip()
    assert len(ids) == count
    assert all(PbsBackend.id_pattern.fullmatch(native_id) for native_id in ids)


def test_lines_of_a_site_s_hook_are_no_id() -> None:
    said = "qsub: 120 of 500 core hours left\n123 jobs wait\n7.pbs.example.org\n\n"
    assert backend().parse_submit(answer(said), 1) == ("7.pbs.example.org",)


@pytest.mark.parametrize("stdout", ["", "queued\n", "7\n", "-1\n", "12 jobs wait\n", "7.\n"])
def test_success_without_an_id_is_a_lost_reply_and_no_guess(stdout: str) -> None:
    with pytest.raises(SubmitUnknown, match="no job id"):
        backend().parse_submit(answer(stdout), 1)


OTHER_REFUSALS = {
    "would exceed complex's per-user limit": SubmitLimit,
    "Connection refused": SubmitUnknown,
    "Unknown Host": BackendUnavailable,
}
# -W block=true gives the job's exit code.
REFUSED = [each for each in by_program("qsub") if each.code and "block=true" not in each.command]


@pytest.mark.parametrize("each", REFUSED, ids=lambda each: each.case)
def test_recorded_refusal_becomes_the_right_error_with_its_words(each: Recording) -> None:
    kind = next((kind for words, kind in OTHER_REFUSALS.items() if words in each.stderr), SubmitError)
    with pytest.raises((SubmitError, SubmitLimit, SubmitUnknown, BackendUnavailable)) as caught:
        backend().parse_submit(answer(stderr=each.stderr, code=each.code), 1)
    assert type(caught.value) is kind
    assert isinstance(caught.value, BackendError)
    assert caught.value.stderr == each.stderr


@pytest.mark.parametrize(
    "words",
    [
        "Maximum number of jobs already in queue workq",
        "Maximum number of jobs already in complex",
        "Maximum number of jobs for user pbsuser already in queue workq",
        "Maximum number of jobs in 'Q' state for group pbsuser already in complex",
        "would exceed queue workq's per-user limit of jobs in 'Q' state",
        "would exceed user pbsuser's limit on resource ncpus in complex",
        "would exceed limit on resource ncpus in queue workq",
        "would exceed per-user limit on resource ncpus in complex",
    ],
)
def test_limit_in_any_of_the_server_s_words_is_waited_for(words: str) -> None:
    """The words are those of pbs_messages.c of OpenPBS 23.06.06; those that name a user were taken for a refusal."""
    with pytest.raises(SubmitLimit, match="no more jobs now"):
        backend().parse_submit(answer(stderr=f"qsub: {words}\n", code=38), 1)


@pytest.mark.parametrize("words", ["job would exceed your allocation's limit", "would exceed the walltime limit"])
def test_limit_in_a_hook_s_words_is_a_refusal_and_not_waited_for(words: str) -> None:
    with pytest.raises(SubmitError, match="refused the job"):
        backend().parse_submit(answer(stderr=f"qsub: {words}\n", code=1), 1)


@pytest.mark.parametrize(
    "words",
    [
        "Request not allowed: Server shutting down",
        "Server connection table full",
        "Batch protocol error",
        "No free connections",
    ],
)
def test_server_that_goes_while_it_is_spoken_to_has_refused_nothing(words: str) -> None:
    with pytest.raises(SubmitUnknown, match="no answer"):
        backend().parse_submit(answer(stderr=f"qsub: {words}\n", code=1), 1)


def test_root_is_told_that_pbs_runs_none_of_its_jobs() -> None:
    refused = next(each for each in REFUSED if each.code == 175)
    with pytest.raises(SubmitError, match="as an ordinary user"):
        backend().parse_submit(answer(stderr=refused.stderr, code=175), 1)


# ---------------------------------------------------------------- what is recorded of jobs


def jobs_in(each: Recording) -> dict[str, dict[str, str]]:
    """Give the jobs of a JSON answer that is JSON, as the text form has them."""
    try:
        shown = json.loads(each.stdout)
    except ValueError:
        return {}
    return {name: flat(attributes) for name, attributes in shown.get("Jobs", {}).items()}


QSTAT = by_program("qstat")
TEXT = [each for each in QSTAT if each.stdout.startswith("Job Id: ") and "dsv" not in each.command]


def test_there_is_much_to_read() -> None:
    assert len(TEXT) >= 39
    assert sum(bool(jobs_in(each)) for each in QSTAT) >= 80


@pytest.mark.parametrize("each", TEXT, ids=lambda each: each.case)
def test_recorded_text_is_read_whole(each: Recording) -> None:
    """Every job, and of every attribute what the JSON of the same job says, folded or not."""
    entries = list(parse_entries(each.stdout))
    assert [entry.name for entry in entries] == [line[8:] for line in each.stdout.split("\n") if line[:8] == "Job Id: "]
    folder = each.case.partition("/")[0]
    same = [name for name in recordings("newest") if name.startswith(f"{folder}/")]
    twins = {name: job for case in same for name, job in jobs_in(recordings("newest")[case]).items()}
    for entry in entries:
        assert status_of(entry.attributes).state is not JobState.UNKNOWN
        for key in ("Job_Name", "Error_Path", "ctime", "queue", "array_id", "Submit_Host"):
            twin = twins.get(entry.name, entry.attributes)
            assert entry.attributes.get(key) == twin.get(key)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_recorded_job_has_a_state_that_we_know(flavour: str) -> None:
    for each in recordings(flavour).values():
        for name, job in jobs_in(each).items():
            status = status_of(job)
            assert status.state is not JobState.UNKNOWN, (each.case, name)
            assert status.state.is_terminal is (job["job_state"] in "FX")


def test_newline_in_a_value_begins_no_job_and_hides_no_end() -> None:
    """Recorded from an environment with a newline; a line of anybody's could look like anything."""
    text = recorded("11-special/63").stdout
    for odd in ("nl\nhere", "nl\n\nother\nhere", "nl\nJob Id: 1.pbsrig\n    job_state", "nl\nServer: x\nhere"):
        (entry,) = parse_entries(text.replace("nl\nhere", odd))
        assert (entry.name, entry.attributes["job_state"]) == ("56.pbsrig", "H")
        assert entry.attributes["Submit_Host"] == "pbsrig"


def test_queue_that_a_routing_queue_has_chosen_is_not_held_against_the_one_asked_for() -> None:
    job = {"queue": "workq", "Variable_List": "PBS_O_HOME=/home/me,PBS_O_QUEUE=workq,PBS_O_HOST=login"}
    assert counted_resources(job).partition == "workq"
    assert counted_resources({**job, "queue": "short"}).partition is None
    assert counted_resources({"queue": "workq"}).partition == "workq"


def test_attribute_with_a_hyphen_is_none_of_the_value_before_it() -> None:
    """Sites name resources of their own so (pbs_resources(7B)); memory before one was not counted."""
    text = recorded("01-running/08").stdout
    (entry,) = parse_entries(
        text.replace("    Resource_List.ncpus", "    Resource_List.mem-bw = 3\n    Resource_List.ncpus")
    )
    assert (entry.attributes["Resource_List.mem"], entry.attributes["Resource_List.mem-bw"]) == ("64mb", "3")


def only_job(case: str) -> dict[str, str]:
    (job,) = jobs_in(recorded(case)).values()
    return job


CANCELLED, FAILED = JobState.CANCELLED, JobState.FAILED
OUTSIDE = ExitReason.CANCELLED_OUTSIDE


@pytest.mark.parametrize(
    ("case", "state", "reason", "code", "number"),
    [
        ("03-finished-ok/08", JobState.COMPLETED, None, 0, None),
        ("12-paths/06", JobState.COMPLETED, None, 0, None),  # its output could not be delivered
        ("04-failed-exit3/03", FAILED, ExitReason.NONZERO_EXIT, 3, None),
        ("04-failed-exit3/07", FAILED, ExitReason.NONZERO_EXIT, 254, None),
        ("04-failed-exit3/09", FAILED, ExitReason.NONZERO_EXIT, 127, None),
        ("04-failed-exit3/11", FAILED, ExitReason.NONZERO_EXIT, 255, None),
        ("05-killed/10", FAILED, ExitReason.SIGNAL, None, 9),
        ("05-killed/12", FAILED, ExitReason.SIGNAL, None, 11),
        ("05-killed/15", FAILED, ExitReason.SIGNAL, None, 10),
        ("05-killed/04", CANCELLED, OUTSIDE, None, 15),
        ("05-killed/19", CANCELLED, OUTSIDE, None, 15),
        ("05-killed/23", CANCELLED, OUTSIDE, None, 9),
        ("02-pending/18", CANCELLED, OUTSIDE, None, None),  # deleted while it waited
        ("16-node-down/10", CANCELLED, OUTSIDE, None, None),  # its node never told
        ("06-walltime/03", FAILED, ExitReason.TIMEOUT, None, None),
        ("06-walltime/06", FAILED, ExitReason.TIMEOUT, None, None),
        ("13-mem/04", FAILED, ExitReason.OUT_OF_MEMORY, None, None),
        ("15-server-restart/02", FAILED, ExitReason.NONZERO_EXIT, 4, None),
    ],
)
def test_recorded_end_is_explained(
    case: str, state: JobState, reason: ExitReason | None, code: int | None, number: int | None
) -> None:
    status = status_of(only_job(case))
    assert (status.state, status.reason, status.exit_code, status.signal) == (state, reason, code, number)
    assert status.native_word == "F"
    assert only_job(case).get("comment", "") in status.detail


@pytest.mark.parametrize("case", ["07-array/20", "07-array/21"])
def test_elements_have_their_own_ends_and_the_array_s_is_nobody_s(case: str) -> None:
    """The whole's Exit_status is 0, 1 or 2 and no element's; text and JSON agree."""
    each = recorded(case)
    entries = jobs_in(each) or {entry.name: entry.attributes for entry in parse_entries(each.stdout)}
    elements = {name: status_of(job) for name, job in entries.items() if name != "23[].pbsrig"}
    assert [(status.state, status.reason, status.exit_code) for status in elements.values()] == [
        (JobState.COMPLETED, None, 0),
        (FAILED, ExitReason.NONZERO_EXIT, 3),
        (FAILED, ExitReason.NONZERO_EXIT, 137),
        (CANCELLED, OUTSIDE, None),
        (JobState.COMPLETED, None, 0),
        (FAILED, ExitReason.TIMEOUT, None),
    ]


@pytest.mark.parametrize(
    ("comment", "state", "reason", "code"),
    [
        ("Subjob finished", JobState.COMPLETED, None, 0),
        ("Subjob failed", FAILED, ExitReason.NONZERO_EXIT, None),
        ("Subjob terminated", CANCELLED, OUTSIDE, None),
    ],
)
def test_element_that_is_shown_as_its_array_has_the_end_that_its_comment_tells(
    comment: str, state: JobState, reason: ExitReason | None, code: int | None
) -> None:
    """Its Exit_status is the array's: one that somebody deleted before it ran was taken for completed."""
    (whole,) = jobs_in(recorded("07-array/06")).values()
    assert (whole["Exit_status"], whole["substate"]) == ("0", "70")
    status = status_of({**whole, "job_state": "X", "comment": comment})
    assert (status.state, status.reason, status.exit_code, status.detail) == (state, reason, code, comment)


def test_element_that_has_ended_before_its_array_has_ended() -> None:
    (entry,) = parse_entries(recorded("07-array/10").stdout)
    status = status_of(entry.attributes)
    assert (status.native_word, status.state, status.exit_code) == ("X", FAILED, 3)


@pytest.mark.parametrize(
    ("case", "word", "is_hopeless", "detail"),
    [
        ("02-pending/09", "Q", False, "Not Running: Insufficient amount of resource: ncpus (R: 4 A: 3 T: 4)"),
        ("02-pending/10", "Q", True, "Can Never Run: Insufficient amount of resource: ncpus (R: 64 A: 4 T: 4)"),
        ("02-pending/11", "Q", False, "Not Running: Queue not started."),
        ("02-pending/12", "H", False, "held (u)"),
        ("02-pending/13", "W", False, ""),
        ("02-pending/14", "H", False, "held (s)"),
        ("16-node-down/06", "Q", False, "Not Running: Not enough free nodes available"),
        ("18-states/12", "Q", False, ""),
    ],
)
def test_recorded_wait_is_explained(case: str, word: str, is_hopeless: bool, detail: str) -> None:
    status = status_of(only_job(case))
    assert (status.state, status.native_word) == (JobState.PENDING, word)
    assert (status.is_hopeless, status.detail) == (is_hopeless, detail)


def test_job_that_the_server_holds_since_it_could_not_be_started_will_never_run() -> None:
    """Such a job stays held for ever: it was waited for like one that somebody holds and will release."""
    held = {"comment": "job held, too many failed attempts to run", "Hold_Types": "s", "run_count": "21"}
    status = status_of({**only_job("02-pending/12"), **held})
    assert (status.state, status.native_word, status.is_hopeless) == (JobState.PENDING, "H", True)
    assert status.reason is ExitReason.LAUNCH_FAILURE
    assert held["comment"] in status.detail


def test_suspended_job_runs_and_has_been_started_twice() -> None:
    status = status_of(only_job("18-states/04"))
    assert (status.state, status.native_word, status.restarts) == (JobState.RUNNING, "S", 1)
    assert status.nodes == "pbsrig"


def test_starts_that_failed_of_a_job_that_may_not_be_started_again_are_no_restarts() -> None:
    once = {**only_job("18-states/04"), "run_count": "4", "Rerunable": "False"}
    assert (status_of(once).restarts, status_of({**once, "Rerunable": "True"}).restarts) == (0, 3)


# PBS Reference Guide, "Job States": M is somewhere else, F, X and C have ended.
@pytest.mark.parametrize("word", sorted(set(STATES) - set("FXCM")))
def test_no_other_documented_state_is_an_end(word: str) -> None:
    state = status_of({"job_state": word, "Exit_status": "0"}).state
    assert state in (JobState.PENDING, JobState.RUNNING)


@pytest.mark.parametrize("word", ["", "Z", "done", "RUNNING", "M"])
def test_unknown_word_is_unknown_and_kept(word: str) -> None:
    status = status_of({"job_state": word, "Exit_status": "1"})
    assert (status.state, status.native_word, status.is_hopeless) == (JobState.UNKNOWN, word, False)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("-1", ExitReason.LAUNCH_FAILURE),
        ("-4", ExitReason.NODE_FAILURE),
        ("-14", ExitReason.NODE_FAILURE),
        ("-20", ExitReason.NODE_FAILURE),
        ("-26", ExitReason.OUT_OF_MEMORY),
        ("-28", ExitReason.TIMEOUT),
        (None, ExitReason.LOST),
        ("what", ExitReason.LOST),
    ],
)
def test_statuses_that_no_program_gives_are_told_apart(status: str | None, reason: ExitReason) -> None:
    job = {"job_state": "F", "substate": "93", **({} if status is None else {"Exit_status": status})}
    assert (status_of(job).state, status_of(job).reason, status_of(job).exit_code) == (FAILED, reason, None)


def test_every_node_is_named_once() -> None:
    assert status_of({"job_state": "R", "exec_host": "node1/0*2+node1/1+node2/0"}).nodes == "node1,node2"


# ---------------------------------------------------------------- questions


def test_poll_gives_our_jobs_and_no_array_as_a_whole() -> None:
    text = recorded("07-array/21").stdout + recorded("01-running/08").stdout
    assert list(backend().parse_poll(text, "arr")) == [f"23[{index}].pbsrig" for index in range(1, 7)]
    assert list(backend().parse_poll(text, "runner")) == ["1.pbsrig"]
    assert backend().parse_poll(text, "cj-") == {}


def test_one_command_is_enough_where_nothing_is_ours() -> None:
    pbs = backend(qselect=(0, "", ""))
    assert pbs.query(PREFIX) == {}
    assert pbs.query(PREFIX) == {}
    assert way_of(pbs).asked == [("id",), ("qselect", "-u", "pbsuser"), ("qselect", "-u", "pbsuser")]


def test_all_our_jobs_are_asked_about_at_once() -> None:
    pbs = backend(qselect=(0, "1.pbsrig\n23[].pbsrig\n", ""))
    assert list(pbs.query("run")) == ["1.pbsrig"]
    assert way_of(pbs).asked[-1] == ("qstat", "-t", "-f", "1.pbsrig", "23[].pbsrig")


@pytest.mark.parametrize("case", ["03-finished-ok/03", "17-no-history/03", "05-killed/08"])
def test_job_that_goes_while_we_ask_takes_nothing_with_it(case: str) -> None:
    gone = recorded(case)
    running = recorded("01-running/08").stdout
    pbs = backend(qselect=(0, "1.pbsrig\n8.pbsrig\n", ""), qstat_t_f=(gone.code, running, gone.stderr))
    assert list(pbs.query("runner")) == ["1.pbsrig"]


@pytest.mark.parametrize("case", ["14-server-down/10", "14-server-down/04", "14-server-down/13", "14-server-down/15"])
def test_server_that_does_not_answer_is_an_outage_and_no_change(case: str) -> None:
    down = answer_of(recorded(case))
    with pytest.raises(CommandError, match="cannot ask"):
        backend(qselect=down).query(PREFIX)
    with pytest.raises(CommandError, match="cannot ask"):
        backend(qstat_t_f=down).query(PREFIX)
    with pytest.raises(CommandError, match="cannot ask"):
        backend(qstat_x_f=down).explain("8.pbsrig")
    with pytest.raises(CommandError, match="cannot cancel"):
        backend(qdel=answer_of(recorded("14-server-down/08"))).cancel(["8.pbsrig"])


def test_command_that_was_killed_without_a_word_is_an_outage() -> None:
    with pytest.raises(CommandError, match="exit code -9"):
        backend(qstat_t_f=(-9, "", "")).query("run")


def test_end_is_explained_by_the_history() -> None:
    status = backend().explain("8.pbsrig")
    assert status is not None
    assert (status.state, status.exit_code) == (JobState.COMPLETED, 0)
    assert backend().explain("80.pbsrig") is None


@pytest.mark.parametrize("case", ["08-unknown-id/05", "08-unknown-id/11"])
def test_unknown_job_is_no_end(case: str) -> None:
    assert backend(qstat_x_f=answer_of(recorded(case))).explain("99999.pbsrig") is None


def test_without_a_history_a_job_that_runs_is_found_and_one_that_ended_is_not() -> None:
    off = answer_of(recorded("17-no-history/04"))
    running = backend(qstat_x_f=off, qstat_f=answer_of(recorded("01-running/08"))).explain("1.pbsrig")
    assert running is not None
    assert running.state is JobState.RUNNING
    gone = recorded("17-no-history/03")
    assert backend(qstat_x_f=off, qstat_f=answer_of(gone)).explain("2237.pbsrig") is None


# From the error files of the jobs of 06-walltime and 13-mem.
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("=>> PBS: job killed: walltime 4 exceeded limit 3\n", ExitReason.TIMEOUT),
        ("=>> PBS: job killed: walltime 3 exceeded limit 2\nTerminated\n", ExitReason.TIMEOUT),
        ("Terminated=>> PBS: job killed: walltime 4 exceeded limit 3\n", ExitReason.TIMEOUT),
        ("hello\n=>> PBS: job killed: mem 212768kb exceeded limit 51200kb\n", ExitReason.OUT_OF_MEMORY),
        ("Killed\nCgroup memsw limit exceeded: oom-kill:constraint=CONSTRAINT_MEMCG\n", ExitReason.OUT_OF_MEMORY),
        ("=>> PBS: job killed: walltime 3 exceeded limit 2\nCgroup memsw limit exceeded: \n", ExitReason.TIMEOUT),
    ],
)
def test_daemon_s_own_words_explain_an_end_of_which_there_is_no_history(
    tmp_path: Path, text: str, reason: ExitReason
) -> None:
    off, gone = answer_of(recorded("17-no-history/04")), answer_of(recorded("17-no-history/03"))
    pbs = backend(qstat_x_f=off, qstat_f=gone)
    native_id = pbs.submit(submission(str(tmp_path))).native_ids[0]
    assert pbs.explain(native_id) is None
    (tmp_path / "scheduler.log").write_text("Last login: never\nCgroup mem limit exceeded: \n")
    assert pbs.explain(native_id) is None
    (tmp_path / "scheduler.log").write_text(text)
    status = pbs.explain(native_id)
    assert status is not None
    assert (status.state, status.reason) == (FAILED, reason)
    assert "exceeded" in status.detail


@pytest.mark.parametrize(
    ("case", "state", "reason"),
    [
        ("04-failed-exit3/03", FAILED, ExitReason.OUT_OF_MEMORY),
        ("05-killed/10", FAILED, ExitReason.OUT_OF_MEMORY),
        ("05-killed/04", CANCELLED, OUTSIDE),
        ("06-walltime/03", FAILED, ExitReason.TIMEOUT),
        ("03-finished-ok/08", JobState.COMPLETED, None),
    ],
)
def test_daemon_s_words_say_more_than_a_history_that_has_no_reason(
    tmp_path: Path, case: str, state: JobState, reason: ExitReason | None
) -> None:
    """Where control groups bound a job's memory, its Exit_status is that of any killed process."""
    text = as_text("Job Id", {"7.pbsrig": only_job(case)})
    pbs = backend(qstat_x_f=(0, text, ""))
    native_id = pbs.submit(submission(str(tmp_path))).native_ids[0]
    (tmp_path / "scheduler.log").write_text("Cgroup mem limit exceeded: oom-kill:constraint=CONSTRAINT_MEMCG\n")
    status = pbs.explain(native_id)
    assert status is not None
    assert (status.state, status.reason, status.native_word) == (state, reason, "F")


# ---------------------------------------------------------------- cancelling


@pytest.mark.parametrize(
    "native_id", ["", "0", "1", "-1", "7", "7[].pbsrig", "7[0-9].pbsrig", "all", "7.a b", "-W", "7."]
)
def test_what_is_no_job_of_ours_never_reaches_qdel(native_id: str) -> None:
    pbs = backend()
    with pytest.raises(SpecError, match="no pbs job id"):
        pbs.cancel([native_id])
    assert way_of(pbs).asked == []


def test_all_jobs_are_cancelled_by_one_command() -> None:
    pbs = backend()
    pbs.cancel({"8.pbsrig", "7.pbsrig", "9[3].pbsrig"})
    pbs.cancel([])
    assert way_of(pbs).asked == [("qdel", "7.pbsrig", "8.pbsrig", "9[3].pbsrig")]


def test_array_of_which_every_element_goes_is_one_word(tmp_path: Path) -> None:
    pbs = backend(qsub=(0, "9[].pbsrig\n", ""))
    ids = pbs.submit(submission(str(tmp_path), count=3)).native_ids
    pbs.cancel(ids)
    pbs.cancel(ids[:2])
    assert [argv for argv in way_of(pbs).asked if argv[0] == "qdel"] == [
        ("qdel", "9[].pbsrig"),
        ("qdel", "9[0].pbsrig", "9[1].pbsrig"),
    ]


@pytest.mark.parametrize("case", ["05-killed/06", "08-unknown-id/03", "17-no-history/06", "08-unknown-id/24"])
def test_job_that_has_gone_is_no_error_and_the_others_are_made_sure_of(case: str) -> None:
    """qdel of several jobs names one that has gone and says nothing of the others."""
    pbs = backend(qdel=answer_of(recorded(case)), qstat_t_f=answer_of(recorded("01-running/08")))
    pbs.cancel(["1.pbsrig", "99999.pbsrig"])
    assert [argv for argv in way_of(pbs).asked if argv[0] == "qdel"] == [
        ("qdel", "1.pbsrig", "99999.pbsrig"),
        ("qdel", "1.pbsrig"),
    ]


def test_job_that_cannot_be_cancelled_is_an_error() -> None:
    with pytest.raises(CommandError, match="cannot cancel"):
        backend(qdel=answer_of(recorded("07-array/15"))).cancel(["76.pbsrig"])


def on_nodes(**nodes: str) -> str:
    (job,) = jobs_in(recorded("16-node-down/08")).values()
    things = {f"{name[1:]}.pbsrig": {**job, "exec_host": f"{node}/0"} for name, node in nodes.items()}
    return as_text("Job Id", things)


def test_jobs_of_a_node_that_is_down_are_deleted_by_force_and_no_others() -> None:
    """qdel names one of them and leaves all of them; they were tried again and again until their node came back."""
    there = (0, on_nodes(_76="far", _77="far", _78="near"), "")
    asked = {"qdel": answer_of(recorded("16-node-down/07")), "qdel -W force": (0, "", ""), "qstat -t -f": there}
    pbs = PbsBackend(Answering({**SITE, **asked, "qdel 78.pbsrig": (0, "", "")}), BackendSettings())
    pbs.cancel(["76.pbsrig", "77.pbsrig", "78.pbsrig"])
    assert [argv[1:] for argv in way_of(pbs).asked if argv[0] == "qdel"] == [
        ("76.pbsrig", "77.pbsrig", "78.pbsrig"),
        ("-W", "force", "76.pbsrig", "77.pbsrig"),
        ("78.pbsrig",),
    ]


def test_job_out_of_reach_that_has_ended_meanwhile_is_no_error() -> None:
    gone = answer_of(recorded("17-no-history/03"))
    pbs = backend(qdel=answer_of(recorded("16-node-down/07")), qstat_t_f=gone)
    pbs.cancel(["76.pbsrig"])
    assert [argv[0] for argv in way_of(pbs).asked] == ["qdel", "qstat"]


# ---------------------------------------------------------------- what there is


def test_site_is_described() -> None:
    pbs = backend()
    info = pbs.check()
    assert (info.version, info.nodes, info.cores_per_node, info.gpus) == ("pbs 23.06.06", 1, 4, None)
    assert (info.array_limit, pbs.array_limit()) == (10000, 10000)
    assert [(queue.name, queue.is_default, queue.max_time_s, queue.status) for queue in info.partitions] == [
        ("workq", True, None, "up"),
        ("short", False, 600, "up"),
        ("held", False, None, "not started"),
        ("closed", False, None, "not enabled"),
    ]


def test_array_limit_is_asked_for_once_and_has_a_default() -> None:
    pbs = backend(qstat_B_f=(0, SERVER.replace("max_array_size = 10000", "max_array_size = 50"), ""))
    assert (pbs.array_limit(), pbs.array_limit(), len(way_of(pbs).asked)) == (50, 50, 1)
    assert backend(qstat_B_f=(0, SERVER.replace("max_array_size", "other"), "")).array_limit() == 10000


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        ({"qstat__version": (0, "Version: 6.1.2\nCommit: x\n", "")}, "not that of OpenPBS"),
        ({"qstat__version": (1, "", "Unknown option\n")}, "does not start"),
        ({"qstat_B_f": answer_of(recorded("14-server-down/09"))}, "the server does not answer"),
        ({"qstat_B_f": answer_of(recorded("14-server-down/15"))}, "the server does not answer"),
        ({"qstat_B_f": (0, SERVER.replace("= Active", "= Terminating"), "")}, "the server is Terminating"),
        ({"pbsnodes_a": answer_of(recorded("14-server-down/11"))}, "cannot read the nodes"),
        ({"id": (0, "uid=0(root) gid=0(root)\n", "")}, "run as an ordinary user"),
    ],
)
def test_cluster_that_cannot_be_used_says_why(answers: dict[str, tuple[int, str, str]], complaint: str) -> None:
    with pytest.raises(BackendUnavailable, match=complaint):
        backend(**answers).check()


def test_root_may_where_the_site_says_so() -> None:
    allowed = SERVER.replace("    scheduling", "    acl_roots = root@*\n    scheduling")
    assert backend(id=(0, "uid=0(root) gid=0(root)\n", ""), qstat_B_f=(0, allowed, "")).check().nodes == 1


def test_server_that_schedules_nothing_is_told() -> None:
    text = SERVER.replace("scheduling = True", "scheduling = False")
    assert "no job starts" in backend(qstat_B_f=(0, text, "")).check().detail


def test_site_none_of_whose_nodes_is_up_is_told() -> None:
    assert "no node is up" in backend(pbsnodes_a=answer_of(recorded("16-node-down/04"))).check().detail
    assert backend().check().detail == ""


def test_node_that_is_down_counts_and_offers_nothing() -> None:
    down, free = recorded("16-node-down/04").stdout, recorded("00-version/09").stdout
    assert parse_nodes(down) == (1, 0, None, None)
    assert parse_nodes(down.replace("pbsrig\n", "other\n", 1) + free) == (2, 1, 4, None)
    with_gpus = free.replace(
        "     resources_available.vnode", "     resources_available.ngpus = 2\n     resources_available.vnode"
    )
    assert parse_nodes(with_gpus).gpus == 2


def test_user_whom_nobody_knows_is_an_error() -> None:
    pbs = backend(id=(0, "?\n", ""))
    for question in (pbs.check, lambda: pbs.query(PREFIX)):
        with pytest.raises(BackendUnavailable, match="who we are"):
            question()


def test_version_is_read_from_pbs_alone() -> None:
    assert parse_version(recorded("00-version/01", "23.06.06").stdout) == "23.06.06"
    assert parse_version("Version: 6.1.2") == ""


def test_queues_without_a_default_are_read() -> None:
    assert [queue.is_default for queue in parse_queues(QUEUES, "")] == [False] * 4
