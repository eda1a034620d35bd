"""What Grid Engine is told, and what its words mean. Everything it says here was recorded from a real 8.1.9."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.backends.base import BackendSettings, Submission
from pytest_clusterjobs.backends.sge import SgeBackend
from pytest_clusterjobs.backends.sge_text import (
    counted_resources,
    parse_array_limit,
    parse_error_reasons,
    parse_qacct,
    parse_queues,
    parse_tasks,
    status_of,
    xml_of,
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
from pytest_clusterjobs.core.resources import Resources
from pytest_clusterjobs.core.spec import make_spec
from pytest_clusterjobs.core.state import ExitReason, JobState
from pytest_clusterjobs.transports.base import CommandResult
from tests.backends.spoken import PREFIX, Answering, directives_of, submission, way_of

DATA = Path(__file__).parent / "data" / "sge"


def recorded(name: str) -> str:
    return (DATA / f"{name}.txt").read_text()


SITE: dict[str, tuple[int, str, str]] = {
    "qconf -spl": (0, "make\nmpi\nsmp\n", ""),
    "qconf -sp make": (0, "pe_name make\nallocation_rule    $round_robin\n", ""),
    "qconf -sp mpi": (0, "pe_name mpi\nallocation_rule    $fill_up\n", ""),
    "qconf -sp smp": (0, "pe_name smp\nallocation_rule    $pe_slots\n", ""),
    "qconf -sconf": (0, recorded("qconf-8.1.9-sconf"), ""),
    "qconf -sq": (0, recorded("qconf-8.1.9-sq"), ""),
    "qstat -f": (0, recorded("qstat-8.1.9-f-xml"), ""),
    "qstat -help": (0, recorded("qstat-8.1.9-help"), ""),
    "qstat -xml": (0, recorded("qstat-8.1.9-xml-mixed"), ""),
    "qstat -j": (0, recorded("qstat-8.1.9-j-errors"), ""),
    "qsub": (0, recorded("qsub-8.1.9-terse-job"), ""),
    "qdel": (0, recorded("qdel-8.1.9-tasks"), ""),
}


def backend(options: Mapping[str, str] | None = None, **answers: tuple[int, str, str]) -> SgeBackend:
    changed = {key.replace("_", " -", 1): answer for key, answer in answers.items()}
    settings = BackendSettings(python="/usr/bin/python3", options=options or {})
    return SgeBackend(Answering({**SITE, **changed}), settings)


def directives(options: Mapping[str, str] | None = None, **asked_for: Any) -> list[str]:
    return directives_of(backend(options).render_script(submission(**asked_for)), "#$")


# ---------------------------------------------------------------- the script


def test_job_that_asks_for_nothing_says_only_what_shields_it_from_defaults() -> None:
    assert directives() == ["-clear", f"-N {PREFIX}1-solve", "-S /bin/bash", "-wd /", "-j y"]


@pytest.mark.parametrize(
    ("asked_for", "said"),
    [
        ({"cores": 4}, "-pe smp 4"),
        ({"memory": "1GB"}, "-l h_vmem=1024M"),
        ({"memory": 1}, "-l h_vmem=1M"),
        ({"memory": "1GB", "cores": 3}, "-l h_vmem=342M"),
        ({"time": "00:05:00"}, "-l h_rt=300"),
        ({"time": 0.5}, "-l h_rt=1"),
        ({"queue": "all.q"}, "-q all.q"),
        ({"account": "physics"}, "-P physics"),
        ({"count": 3}, "-t 1-3"),
        ({"count": 3, "limit": 2}, "-tc 2"),
        ({"extra_directives": ["-p -10"]}, "-p -10"),
    ],
)
def test_every_resource_is_said(asked_for: dict[str, Any], said: str) -> None:
    assert said in directives(**asked_for)


def test_options_name_the_site_s_environment_and_complexes() -> None:
    options = {"parallel_environment": "mpi", "memory_resource": "mem_free", "gpu_resource": "gpu"}
    said = directives(options, cores=2, memory="1GB", gpus=1)
    assert {"-pe mpi 2", "-l mem_free=512M", "-l gpu=1"} <= set(said)
    assert set(options) == SgeBackend.option_names


def test_environment_that_does_not_exist_is_refused_with_those_that_do() -> None:
    """The scheduler was asked, whose refusal names none."""
    sge = backend({"parallel_environment": "smpp"})
    with pytest.raises(ConfigError, match=r"there is no parallel environment 'smpp'.*make.*smp .*did you mean 'smp'"):
        sge.render_script(submission(cores=2))
    assert "smpp, which is none of them" in sge.check().detail
    assert "-pe" not in sge.render_script(submission(cores=1))


@pytest.mark.parametrize("options", [{}, {"parallel_environment": "smp"}], ids=["found", "named"])
def test_environment_for_several_cores_is_asked_for_once(options: dict[str, str]) -> None:
    sge = backend(options)
    for _ in range(2):
        assert "#$ -pe smp 2" in sge.render_script(submission(cores=2))
    assert way_of(sge).asked.count(("qconf", "-spl")) == 1


def test_no_environment_on_one_host_is_an_error_that_lists_those_there_are() -> None:
    sge = backend(qconf_spl=(0, "make\nmpi\n", ""))
    with pytest.raises(ConfigError, match=r"make \(\$round_robin\), mpi \(\$fill_up\)\. Name one in the option"):
        sge.render_script(submission(cores=2))


def test_no_environment_at_all_is_an_error() -> None:
    with pytest.raises(ConfigError, match="there are: none"):
        backend(qconf_spl=(1, "", "no parallel environment defined\n")).render_script(submission(cores=2))


def test_elements_are_numbered_from_0_and_tasks_from_1(tmp_path: Path) -> None:
    lines = backend().render_script(submission(str(tmp_path), count=2)).splitlines()
    chosen = [line for line in lines if line.startswith(("cj_dir=", "cj_mark=", "export CLUSTERJOBS_"))]
    show = "\n".join([*chosen, 'printf "%s\\n" "$cj_dir" "$cj_mark" "$CLUSTERJOBS_NATIVE_ID"'])
    done = subprocess.run(
        ["bash", "-c", show], env={"JOB_ID": "7", "SGE_TASK_ID": "2"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [f"{tmp_path}/1", "/jobs/marks/1.1", "7.2"]


def test_script_is_bash_without_a_syntax_error() -> None:
    for text in (backend().render_script(submission()), backend().render_script(submission(count=2, modules="gcc"))):
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize(("code", "to_the_daemon"), [(0, 0), (7, 7), (99, 1), (100, 1)])
def test_reserved_exit_codes_are_kept_from_the_daemon_alone(tmp_path: Path, code: int, to_the_daemon: int) -> None:
    """The execution daemon would start a job again that exits with 99, and keep one in error that exits with 100."""
    runner = tmp_path / "runner"
    runner.write_text(f"exit {code}\n")
    made = Submission(
        name=f"{PREFIX}1-x",
        spec=make_spec(),
        directories=(str(tmp_path),),
        directory=str(tmp_path),
        markers=(str(tmp_path / "mark"),),
        runner=str(runner),
        python="/bin/bash",
    )
    (tmp_path / "environment.sh").touch()
    text = backend().render_script(made).replace("/bin/bash -u ", "/bin/bash ")
    done = subprocess.run(["bash", "-c", text], env={"JOB_ID": "7"}, timeout=20, check=False)
    assert done.returncode == to_the_daemon
    assert (tmp_path / "mark").read_text() == str(code)


# ---------------------------------------------------------------- the submit command


def test_submit_command_verifies_and_keeps_the_daemon_s_words_beside_the_job() -> None:
    argv = backend().submit_argv(submission(extra_args=["-r", "y"]), "/jobs/1-solve/script.sh")
    log = "/jobs/1-solve/scheduler.log"
    assert argv == ["qsub", "-terse", "-V", "-w", "e", "-o", log, "-r", "y", "/jobs/1-solve/script.sh"]


@pytest.mark.parametrize("folder", ["/a:b", "/a,b", "/$HOME/x"])
def test_path_that_qsub_would_take_for_something_else_is_not_given_to_it(folder: str) -> None:
    argv = backend().submit_argv(submission(folder), "script.sh")
    assert argv[argv.index("-o") + 1] == "/dev/null"


def test_environment_has_nothing_of_an_outer_job_and_what_minus_v_would_lose_goes_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGE_ROOT", "/opt/sge")
    outer = {
        "JOB_ID": "3",
        "PE_HOSTFILE": "/x",
        "SGE_TASK_ID": "2",
        "QSUB_X": "y",
        "BASH_FUNC_module%%": "() { :\n}",
        "LINES_OF": "a\nb",
        "PATH": "/mine",
        "KEPT": "1",
        "a.b": "c",
    }
    sge = backend()
    made = submission(str(tmp_path), env={"TOKEN": "s3cret"})
    sge.submit(Submission(**{**{name: getattr(made, name) for name in made.__slots__}, "environment": outer}))
    assert way_of(sge).environments[-1] == {
        "LINES_OF": "a\nb",
        "PATH": "/mine",
        "KEPT": "1",
        "SGE_ROOT": "/opt/sge",
        **{name: value for name, value in way_of(sge).environments[-1].items() if name in sge.needed_variables},
    }
    text = (tmp_path / "environment.sh").read_text()
    assert text == "export LINES_OF='a\nb'\nexport PATH=/mine\nexport TOKEN=s3cret\n"
    assert "s3cret" not in (tmp_path / "script.sh").read_text()


# ---------------------------------------------------------------- the answer to a submission


def answer(stdout: str = "", stderr: str = "", code: int = 0) -> CommandResult:
    return CommandResult(("qsub", "script.sh"), code, stdout, stderr)


@pytest.mark.parametrize(
    ("stdout", "native_id"),
    [
        (recorded("qsub-8.1.9-job"), "1"),
        (recorded("qsub-8.1.9-terse-job"), "3"),
        ('Your job 37 ("cj-x") has been submitted\n', "37"),
        ('Your immediate job 37 ("cj-x") has been submitted\n', "37"),
        ('warning: 12 jobs of yours wait\nYour job 37 ("cj-x") has been submitted\n', "37"),
        ("*** quota: 5 of 10 ***\n37\n\n", "37"),
    ],
)
def test_job_id_is_found_in_every_acknowledgement(stdout: str, native_id: str) -> None:
    assert backend().parse_submit(answer(stdout), 1) == (native_id,)


@pytest.mark.parametrize(
    "stdout",
    [
        recorded("qsub-8.1.9-array"),
        recorded("qsub-8.1.9-terse-array"),
        'Your job-array 4.1-3:1 ("x") has been submitted',
    ],
)
def test_elements_have_the_ids_that_qdel_takes(stdout: str) -> None:
    job = "5" if stdout.startswith("5") else "4"
    assert backend().parse_submit(answer(stdout), 3) == (f"{job}.1", f"{job}.2", f"{job}.3")


@pytest.mark.parametrize("stdout", ["", "queued\n", "0\n", "-1\n", "12 jobs wait\n", "job 7 is yours\n"])
def test_success_without_an_id_is_a_lost_reply_and_no_guess(stdout: str) -> None:
    with pytest.raises(SubmitUnknown, match="no job id"):
        backend().parse_submit(answer(stdout), 1)


REFUSALS = {path.name.removesuffix(".stderr.txt") for path in DATA.glob("qsub-*.stderr.txt")}


@pytest.mark.parametrize("name", sorted(REFUSALS))
def test_recorded_refusal_becomes_the_right_error_with_its_words(name: str) -> None:
    kind = SubmitUnknown if name.endswith("qmaster-dead") else SubmitError
    stderr = recorded(f"{name}.stderr")
    with pytest.raises(kind) as caught:
        backend().parse_submit(answer(stderr=stderr, code=1), 1)
    assert type(caught.value) is kind
    assert isinstance(caught.value, (SubmitError, SubmitUnknown))
    assert caught.value.stderr == stderr


@pytest.mark.parametrize(
    ("words", "kind"),
    [  # messages of the sources that a small test cluster does not give
        ("Unable to run job: job rejected: Only 10 jobs are allowed per user (current job count: 10)", SubmitLimit),
        ("failed receiving gdi request response for mid=1 (got syncron message receive timeout error).", SubmitUnknown),
        ('error: unable to contact qmaster using port 6444 on host "h"', SubmitUnknown),
        ('error: fopen("/x/default/common/act_qmaster") failed: No such file or directory', BackendUnavailable),
    ],
)
def test_other_refusals_are_sorted_too(words: str, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        backend().parse_submit(answer(stderr=words, code=1), 1)
    assert type(caught.value) is kind


def test_refusal_without_a_suitable_queue_is_asked_for_its_reason(tmp_path: Path) -> None:
    sge = backend(qsub=(1, "", recorded("qsub-8.1.9-mem.stderr") + recorded("qsub-8.1.9-mem-v.stderr")))
    with pytest.raises(SubmitError, match=r"offers only hc:h_vmem=8\.000G"):
        sge.submit(submission(str(tmp_path)))
    assert [argv[-3:-1] for argv in way_of(sge).asked][-1] == ("-w", "v")


@pytest.mark.parametrize("spec", [{"nodes": 2}, {"gpus": 1}, {"qos": "high"}, {"constraint": "fast"}])
def test_what_grid_engine_has_not_is_refused_before_anything_is_written(tmp_path: Path, spec: dict[str, Any]) -> None:
    with pytest.raises(SubmitError, match="cannot ask for"):
        backend().submit(submission(str(tmp_path), **spec))
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- states

# qstat(1), "state".
PENDING = ["qw", "hqw", "hRqw", "Rq", "hRwq", "w", "dqw"]
_RUNNING = """
r t Rr Rt hr ht s ts S tS T tT Rs Rts RS RtS RT RtT dr dt dRr dRt ds dS dT dRs dRS dRT N P
"""
RUNNING = _RUNNING.split()
BROKEN = ["Eqw", "Ehqw", "EhRqw"]


@pytest.mark.parametrize("word", [*PENDING, *RUNNING, *BROKEN])
def test_every_documented_state_is_known_and_none_is_an_end(word: str) -> None:
    status = status_of(word)
    assert status.state is (JobState.RUNNING if word in RUNNING else JobState.PENDING)
    assert status.is_hopeless is (word in BROKEN)
    assert status.native_word == word


@pytest.mark.parametrize("word", ["", "z", "X", "rX", "done"])
def test_unknown_word_is_unknown_and_kept(word: str) -> None:
    status = status_of(word)
    assert (status.state, status.native_word, status.is_hopeless) == (JobState.UNKNOWN, word, False)


# ---------------------------------------------------------------- questions


def test_recorded_queue_is_read_with_full_names_and_every_pending_task() -> None:
    found = backend().parse_poll(recorded("qstat-8.1.9-xml-mixed"), PREFIX)
    states = {native_id: queued.status.native_word for native_id, queued in found.items()}
    assert states == {
        "3": "r",
        "4.1": "r",
        "4.2": "r",
        "4.3": "qw",
        "4.4": "qw",
        "4.5": "qw",
        "4.6": "qw",
        "5.1": "hqw",
        "5.2": "hqw",
        "5.3": "hqw",
        "18": "Eqw",
        "19": "Eqw",
        "20": "qw",
    }
    assert found["4.1"].name == f"{PREFIX}4-a-very-long-name-of-an-array"
    assert (found["3"].status.nodes, found["20"].status.nodes) == ("localhost", "")
    assert backend().parse_poll(recorded("qstat-8.1.9-xml-mixed"), "cj-of-another-run-") == {}


def test_jobs_in_error_have_the_reason_that_only_the_details_tell() -> None:
    found = backend().query(PREFIX)
    assert "can't open output file" in found["18"].status.detail
    assert found["19"].status.detail == "can't chdir to /no/such/dir: No such file or directory"
    assert found["18"].status.reason is ExitReason.LAUNCH_FAILURE
    assert found["20"].status.detail == ""


def test_answer_that_is_no_xml_is_an_outage_and_says_so() -> None:
    with pytest.raises(CommandError, match="no XML"):
        backend(qstat_xml=(0, "error: out of memory", "")).query(PREFIX)


def test_dead_queue_master_is_an_outage() -> None:
    with pytest.raises(CommandError, match="cannot ask"):
        backend(qstat_xml=(1, "", recorded("qstat-8.1.9-qmaster-dead.stderr"))).query(PREFIX)


@pytest.mark.parametrize(
    ("text", "tasks"), [("3", [3]), ("1-6:2", [1, 3, 5]), ("2,5-7:1", [2, 5, 6, 7]), ("4-5", [4, 5]), ("", [])]
)
def test_tasks_are_read(text: str, tasks: list[int]) -> None:
    assert parse_tasks(text) == tasks


def test_error_reasons_are_read_by_job_and_task() -> None:
    assert set(parse_error_reasons(recorded("qstat-8.1.9-j-errors"))) == {("18", "1"), ("19", "1")}


# ---------------------------------------------------------------- accounting


@pytest.mark.parametrize(
    ("name", "state", "reason", "code", "number"),
    [
        ("ok", JobState.COMPLETED, None, 0, None),
        ("exit-7", JobState.FAILED, ExitReason.NONZERO_EXIT, 7, None),
        ("exit-100", JobState.FAILED, ExitReason.NONZERO_EXIT, 100, None),
        ("hrt", JobState.FAILED, ExitReason.TIMEOUT, None, 9),
        ("kill-9-inside", JobState.FAILED, ExitReason.SIGNAL, None, 9),
        ("kill-9-of-script", JobState.CANCELLED, ExitReason.CANCELLED_OUTSIDE, None, 9),
        ("cancelled-running", JobState.CANCELLED, ExitReason.CANCELLED_OUTSIDE, None, 9),
        ("array-el", JobState.CANCELLED, ExitReason.CANCELLED_OUTSIDE, None, 9),
        ("eqw", JobState.FAILED, ExitReason.LAUNCH_FAILURE, 0, None),
    ],
)
def test_recorded_end_is_explained(
    name: str, state: JobState, reason: ExitReason | None, code: int | None, number: int | None
) -> None:
    status = parse_qacct(recorded(f"qacct-8.1.9-{name}"))
    assert status is not None
    assert (status.state, status.reason, status.exit_code, status.signal) == (state, reason, code, number)
    assert status.native_word.startswith("failed ")
    assert status.nodes == "localhost"


def test_record_of_an_older_job_of_the_same_number_counts_for_nothing() -> None:
    """Numbers begin again, at 1 on a fresh cluster and after 9999999 on an old one; accounting files stay."""
    text = recorded("qacct-8.1.9-ok")
    assert parse_qacct(text, f"{PREFIX}1-plain") is not None
    assert parse_qacct(text, f"{PREFIX}1-another") is None
    sge = backend(qacct=(0, text, ""), qsub=(0, "1\n", ""))
    assert sge.explain("1") is not None


def test_record_of_a_start_before_the_last_ends_nothing() -> None:
    first = recorded("qacct-8.1.9-ok").replace("failed       0    ", "failed       25  : rescheduling")
    assert parse_qacct(first) is None
    both = parse_qacct(first + recorded("qacct-8.1.9-exit-7").replace("jobname", "jobname"))
    assert both is not None
    assert both.exit_code == 7


def test_absent_record_is_no_end() -> None:
    assert backend(qacct=(1, "", recorded("qacct-8.1.9-unknown.stderr"))).explain("9999") is None


def test_element_is_asked_for_by_its_task() -> None:
    sge = backend(qacct=(0, recorded("qacct-8.1.9-array-el"), ""))
    assert sge.explain("4.1") is not None
    assert way_of(sge).asked[-1] == ("qacct", "-j", "4", "-t", "1")


# ---------------------------------------------------------------- cancelling


def test_elements_are_deleted_by_ranges() -> None:
    sge = backend()
    sge.cancel(["7", "4.1", "4.2", "4.3", "4.10", "5.2"])
    assert way_of(sge).asked == [("qdel", "7", "4.1-3", "4.10", "5.2")]


@pytest.mark.parametrize("name", ["tasks", "range", "again", "unknown", "unknown-task", "mixed"])
def test_deleting_what_has_ended_is_harmless(name: str) -> None:
    backend(qdel=(1, recorded(f"qdel-8.1.9-{name}"), "")).cancel(["7"])


@pytest.mark.parametrize(
    "words",
    [recorded("qdel-8.1.9-qmaster-dead"), 'root - you do not have the necessary privileges to delete the job "3"\n'],
)
def test_other_words_are_no_success(words: str) -> None:
    with pytest.raises(CommandError, match="cannot cancel"):
        backend(qdel=(1, words, "")).cancel(["7"])


@pytest.mark.parametrize("hostile", ["", "0", "-1", "7;id", "7.0", "*", "7 8", "-u"])
def test_only_ids_of_ours_reach_qdel(hostile: str) -> None:
    sge = backend()
    with pytest.raises(SpecError, match="no sge job id"):
        sge.cancel([hostile])
    assert way_of(sge).asked == []


# ---------------------------------------------------------------- what there is


def test_check_tells_version_queues_limits_and_environments() -> None:
    info = backend(qsub=(0, "", "")).check()
    assert (info.version, info.nodes, info.cores_per_node, info.array_limit) == ("SGE 8.1.9", 1, 4, 75000)
    assert [(queue.name, queue.max_time_s, queue.status) for queue in info.partitions] == [
        ("all.q", None, "up"),
        ("short.q", 20.0, "up"),
    ]
    assert "make ($round_robin), mpi ($fill_up), smp ($pe_slots)" in info.detail


def test_queue_whose_every_host_is_off_is_not_up() -> None:
    listing = recorded("qstat-8.1.9-f-xml").replace("</Queue-List>", "<state>au</state></Queue-List>", 1)
    info = parse_queues(listing, recorded("qconf-8.1.9-sq"), "SGE 8.1.9")
    assert [queue.status for queue in info.partitions] == ["au", "up"]


def test_queue_master_that_does_not_answer_is_said() -> None:
    with pytest.raises(BackendUnavailable, match="the queue master does not answer"):
        backend(qstat_f=(1, "", recorded("qstat-8.1.9-qmaster-dead.stderr"))).check()


@pytest.mark.parametrize(("text", "limit"), [("max_aj_tasks 10\n", 10), ("max_aj_tasks 0\n", 10**6), ("", 75000)])
def test_array_limit_is_the_site_s(text: str, limit: int) -> None:
    assert parse_array_limit(text) == limit


# ---------------------------------------------------------------- resources and the environment


def test_recorded_queue_counts_slots_and_names_the_queue() -> None:
    found = backend().parse_poll(recorded("qstat-8.1.9-xml-mixed"), PREFIX)
    running = {queued.status.resources for queued in found.values() if queued.status.native_word == "r"}
    assert running == {Resources(1, nodes=1, partition="all.q")}
    waiting = found["20"].status.resources
    assert waiting is not None
    assert waiting.partition is None


def test_recorded_queue_with_requests_counts_memory_of_all_slots_and_the_time_limit() -> None:
    found = backend().parse_poll(recorded("qstat-8.1.9-xml-r"), "cj-pre-")
    assert found["209"].status.resources == Resources(2, 300 << 20, None, 1, 300.0, "all.q")
    assert found["210.2"].status.resources == Resources(1, 512 << 20, None, 1, 5400.0, "all.q")
    assert found["210.4"].status.resources == Resources(1, 512 << 20, None, 1, 5400.0)
    other = backend({"memory_resource": "mem_free"}).parse_poll(recorded("qstat-8.1.9-xml-r"), "cj-pre-")
    assert other["209"].status.resources == Resources(2, None, None, 1, 300.0, "all.q")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1024", 1024),
        ("1k", 1000),
        ("1K", 1024),
        ("0.5G", 1 << 29),
        ("2g", 2 * 10**9),
        ("0x10", None),
        ("INFINITY", None),
    ],
)
def test_memory_is_read_as_sge_types_defines_it(text: str, size: int | None) -> None:
    row = f'<job_list><slots>2</slots><hard_request name="h_vmem">{text}</hard_request></job_list>'
    given = counted_resources(xml_of(row), "h_vmem").memory_bytes
    assert given == (None if size is None else 2 * size)


def test_contract_of_a_job_holds_what_it_asks_for() -> None:
    contract = backend().expected_environment("17", "cj-x", make_spec(cores=2, queue="all.q"))
    values = {name: expected.value for name, expected in contract.items() if expected.value is not None}
    assert values == {
        "CLUSTERJOBS_NATIVE_ID": "17",
        "JOB_ID": "17",
        "JOB_NAME": "cj-x",
        "SGE_TASK_ID": "undefined",
        "NSLOTS": "2",
        "QUEUE": "all.q",
    }
    assert contract["PE_HOSTFILE"].slots == 2


def test_contract_of_an_element_holds_its_task_and_nothing_of_a_pattern_of_queues() -> None:
    contract = backend().expected_environment("17.4", "cj-x", make_spec(queue="all.q@node1"))
    assert (contract["JOB_ID"].value, contract["SGE_TASK_ID"].value) == ("17", "4")
    assert not {"QUEUE", "PE_HOSTFILE"} & set(contract)


def test_what_grid_engine_told_a_job_is_read() -> None:
    told = {"NSLOTS": "4", "NHOSTS": "1", "QUEUE": "all.q"}
    assert backend().told_resources(told) == Resources(4, nodes=1, partition="all.q")
    assert backend().told_resources({}) == Resources()
