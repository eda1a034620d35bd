"""What LSF's words about jobs mean: states, answers about all jobs, answers about one.

What volclava 2.2, of the OpenLava family, says here was recorded from a real one. IBM's own words are those of its
command reference for 10.1, and say so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.backends.lsf import LsfBackend
from pytest_clusterjobs.backends.lsf_text import (
    STATES,
    TERMINATIONS,
    has_outgrown,
    parse_prose,
    parse_waits,
    status_of,
)
from pytest_clusterjobs.core.errors import (
    CommandError,
    CommandTimeout,
)
from pytest_clusterjobs.core.state import ExitReason, JobState
from tests.backends.lsf_bench import (
    AWAY,
    DATA,
    answering,
    backend,
    calls,
    make_site,
    recorded,
    runs,
    says,
)
from tests.backends.spoken import NAME


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_site(tmp_path, monkeypatch)


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
