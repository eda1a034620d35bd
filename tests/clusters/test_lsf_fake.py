"""The LSF that is not there, held to what a real volclava 2.2 printed: the same commands, words and exit codes."""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.core.errors import ConfigError
from pytest_clusterjobs.testing.fakes import fake_lsf
from pytest_clusterjobs.testing.fakes.lsf.cluster import VERSIONS, user_name
from pytest_clusterjobs.testing.fakes.place import FakePlace
from tests import watching
from tests.backends.lsf_bench import recorded

wait_for = partial(watching.wait_for, within_s=60)
MOMENT = r"\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d"


class Lsf:
    """A fake, and a shell in which its commands are found."""

    def __init__(self, place: FakePlace, folder: Path) -> None:
        self.place, self.folder = place, folder

    def run(self, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command],
            env={**os.environ, **self.place.environment, **environment},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @contextmanager
    def waiting(self, argv: list[str]) -> Iterator[subprocess.Popen[str]]:
        """Have a command wait, and end it."""
        with subprocess.Popen(
            argv,
            env={**os.environ, **self.place.environment},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            yield process
            process.kill()

    def out(self, command: str, **environment: str) -> str:
        done = self.run(command, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def submit(self, command: str, **environment: str) -> str:
        match = re.search(r"Job <(\d+)> is submitted to ", self.run(command, **environment).stdout)
        assert match
        return match[1]

    def state(self, job: str) -> str:
        answer = self.out(f"bjobs -a -json -o 'stat' '{job}'")
        return str(json.loads(answer)["RECORDS"][0]["STAT"])

    def ended(self, job: str) -> str:
        wait_for(lambda: self.state(job) in ("DONE", "EXIT"))
        return self.state(job)


@pytest.fixture
def lsf(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Lsf]:
    settings = {"version": "volclava-2.2", "host": "lsfrig", "cluster": "rig", **getattr(request, "param", {})}
    folder = tmp_path / "w"
    folder.mkdir()
    with fake_lsf(tmp_path / "lsf", **settings) as place:
        yield Lsf(place, folder)


def with_settings(**settings: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("lsf", [settings], indirect=True, ids=[",".join(settings)])


def plain(text: str) -> str:
    """Take out of a text what differs from day to day, place to place and user to user."""
    text = text.replace(f"<{user_name()}>", "<lsfuser>").replace(f" {user_name():<7} ", " lsfuser ")
    text = re.sub(r"\n {21}", "", text)
    text = re.sub(MOMENT, "MOMENT", text)
    text = re.sub(r"\w{3} [ \d]\d \d\d:\d\d(?=\"|\n)", "MINUTE", text)
    text = re.sub(r"\d\d/\d\d-\d\d:\d\d:\d\d", "TIME", text)
    text = re.sub(r"(CWD|[Hh]ome) <[^>]*>", r"\1 <PATH>", text)
    text = re.sub(r"(Pid) <?\d+>?", r"\1 NUMBER", text)
    text = re.sub(r"^(Job <|)\d+(?:(?=[>\[])| +)", r"\1ID", text, flags=re.MULTILINE)
    text = re.sub(r"\n MEMORY USAGE:\n.*\n", "", text)
    text = re.sub(r"Output File <[^>]*>", "Output File <FILE>", text)
    text = text.replace("MOMENT: Post job process failed;\n", "")
    return re.sub(r"^  \d+ .*$", "  SECONDS", text, flags=re.MULTILINE)


# ---------------------------------------------------------------- submissions


@pytest.mark.parametrize(
    ("command", "case"),
    [
        ("bsub -q nosuch true", "nosuch"),
        ("bsub -q closed true", "closed"),
        ("bsub -q short -W 60 true", "over-queue-max"),
        ("bsub -R 'select[foo>1]' true", "unknown-res"),
        ("bsub -R 'rusage[foo=1]' true", "unknown-rusage"),
        ("bsub -W abc true", "bad-walltime"),
        ("bsub -n 0 true", "bad-n"),
        ("bsub -M lots true", "bad-mem"),
        ("bsub -M 100MB -o /dev/null true", "mem-unit"),
        ("bsub -gpu num=1 true", "gpu"),
        ("bsub", "no-command"),
        (f"bsub -J {'a' * 800} -o /dev/null true", "name-long"),
        ("bsub -cwd /tmp -o /dev/null pwd", "cwd"),
        ("bsub -J never -n 64 /bin/true", "submit-never"),
    ],
)
def test_submissions_are_refused_with_the_recorded_words(lsf: Lsf, command: str, case: str) -> None:
    done = lsf.run(command)
    assert (done.returncode, done.stdout, done.stderr) == (255, "", recorded(f"bsub {case}.stderr"))


@pytest.mark.parametrize("needs", ["rusage[mem=", "span[hosts=1", "mem>1]"])
def test_requirement_that_is_cut_short_is_refused(lsf: Lsf, needs: str) -> None:
    assert lsf.run(f"bsub -R '{needs}' true").stderr == recorded("bsub unknown-res.stderr")


def test_acknowledgement_is_that_of_the_real_one(lsf: Lsf) -> None:
    default, named = lsf.out("bsub true"), lsf.out("bsub -q normal true")
    assert default == recorded("bsub default-queue").replace("11", "1")
    assert named == recorded("bsub stdin")
    assert lsf.out("bsub true", BSUB_QUIET="1") == ""


def test_directives_count_on_standard_input_only_and_below_the_command_line(lsf: Lsf) -> None:
    script = "#!/bin/bash\n#BSUB -J \"sa[1-2]\"\n# BSUB -q 'short'\necho idx $LSB_JOBINDEX >$LSB_JOBINDEX.out\n"
    (lsf.folder / "script").write_text(script)
    (lsf.folder / "script").chmod(0o700)
    assert "queue <normal>" in lsf.out("bsub ./script")
    assert "queue <short>" in lsf.out("bsub <script")
    assert "queue <normal>" in lsf.out("bsub -q normal -J other <script")
    lsf.ended("2[2]")
    assert (lsf.folder / "2.out").read_text() == "idx 2\n"
    names = [line.split()[6] for line in lsf.out("bjobs -a -w").splitlines()[1:]]
    assert names == ["./script", "sa[1]", "sa[2]", "other"]


def test_environment_is_that_of_a_login_where_lsf_sets_it_and_is_spoiled_by_an_end_of_a_value(lsf: Lsf) -> None:
    """By lsb.sub.c and mbd.log.c of volclava."""
    lsf.ended(lsf.submit("bsub 'env -0 >seen'", HOME="/elsewhere", TERM="dumb", CJ_ODD="it's\n$x"))
    seen = dict(each.split("=", 1) for each in (lsf.folder / "seen").read_text().split("\0") if each)
    assert (seen["HOME"], seen["CJ_ODD"], "TERM" in seen) == (pwd.getpwuid(os.geteuid()).pw_dir, "it's\n$x", False)
    spoiled = lsf.submit("bsub true", CJ_ODD="A='b'; export A")
    lsf.ended(lsf.submit("bsub true"))
    assert lsf.state(spoiled) == "PEND"


@pytest.mark.parametrize("name", ["zz[0-2]", "z[1-20000]"])
def test_array_out_of_range_is_one_plain_job(lsf: Lsf, name: str) -> None:
    lsf.submit(f"bsub -J '{name}' -o /dev/null true")
    lsf.ended("1")
    row = lsf.out("bjobs -a -w").splitlines()[1]
    like = next(line for line in recorded("bjobs a-w-bad-array").splitlines() if name in line)
    assert plain(row + "\n") == plain(like + "\n")


def test_limit_on_pending_jobs_has_bsub_wait(lsf: Lsf) -> None:
    lsf.place.set(max_pending=1, retry_s=0.2, is_scheduling=False)
    lsf.submit("bsub sleep 60")
    with lsf.waiting(["bsub", "true"]) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        lsf.place.set(is_scheduling=True)
        assert process.communicate(timeout=30)[0] == "Job <2> is submitted to default queue <normal>.\n"
    assert said == f"User <{user_name()}>: Pending job threshold reached. Retrying in 0 seconds...\n"


# ---------------------------------------------------------------- jobs, as they are shown

ENDS = [
    ("bsub -J okjob -o ok.%J.out -e ok.%J.err ./ok.sh", "ok"),
    ("bsub -J fail3 -o f3.%J.out ./f3.sh", "exit-3"),
]


@pytest.mark.parametrize(("command", "case"), ENDS)
def test_ended_job_is_shown_as_recorded(lsf: Lsf, command: str, case: str) -> None:
    for name, text in (("ok.sh", "echo out; echo err >&2"), ("f3.sh", "exit 3")):
        (lsf.folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (lsf.folder / name).chmod(0o700)
    lsf.ended(lsf.submit(command))
    for shown in ("bjobs -UF 1", "bjobs -l 1", "bhist -l 1"):
        program, option, _ = shown.split()
        real = re.sub(r", Error File <[^>]*>", "", plain(recorded(f"{program} {option[1:]}-{case}")))
        assert re.sub(r", Error File <[^>]*>", "", plain(lsf.out(shown))) == real


@with_settings(minute_s=0.2)
def test_job_at_its_run_limit_is_shown_as_recorded(lsf: Lsf) -> None:
    assert lsf.ended(lsf.submit("bsub -J wall -W 1 -o wall.out /bin/sleep 300")) == "EXIT"
    for shown in ("bjobs -UF 1", "bjobs -l 1", "bhist -l 1"):
        program, option, _ = shown.split()
        assert plain(lsf.out(shown)) == plain(recorded(f"{program} {option[1:]}-run-limit"))


def test_job_that_is_killed_while_it_waits_is_shown_as_recorded(lsf: Lsf) -> None:
    lsf.submit("bsub -H -J pk -o /dev/null true")
    assert lsf.state("1") == "PSUSP"
    assert lsf.out("bkill 1") == "Job <1> is being terminated\n"
    assert lsf.ended("1") == "EXIT"
    assert plain(lsf.out("bjobs -l 1")) == plain(recorded("bjobs l-killed-pending"))
    assert plain(lsf.out("bhist -l 1")) == plain(recorded("bhist l-killed-pending"))


def test_job_that_ignores_all_but_kill_ended_by_signal_9(lsf: Lsf) -> None:
    lsf.submit("bsub -J ign 'trap \"\" INT TERM; touch up; while :; do sleep 0.1; done'")
    wait_for((lsf.folder / "up").exists)
    lsf.out("bkill 1")
    lsf.ended("1")
    ends = [line for line in recorded("bjobs UF-killed-by-9").splitlines() if "Exited" in line]
    assert [plain(line) for line in lsf.out("bjobs -UF 1").splitlines() if "Exited" in line] == [plain(ends[0])]


def test_array_is_shown_as_recorded(lsf: Lsf) -> None:
    """Elements 1 to 3 have ended, 4 and 5 run, and there is no room for 6."""
    lsf.place.set(slots=2)
    (lsf.folder / "arr.sh").write_text("#!/bin/sh\ncase $LSB_JOBINDEX in [23]) exit 3;; [45]) exec sleep 60;; esac\n")
    (lsf.folder / "arr.sh").chmod(0o700)
    lsf.submit("bsub -J 'arr[1-6]' -o arr.%J.%I.out ./arr.sh")
    wait_for(lambda: [lsf.state(f"1[{index}]") for index in (3, 4, 5)] == ["EXIT", "RUN", "RUN"])
    assert plain(lsf.out("bjobs -a -w 1")) == plain(recorded("bjobs a-w-array"))
    fields = [word.lower() for word in json.loads(recorded("bjobs a-json-array"))["RECORDS"][0]]
    shown, real = lsf.out(f"bjobs -a -json -o '{' '.join(fields)}' 1"), recorded("bjobs a-json-array")
    unstable = r'("(?:CPU_USED|MEM|SWAP|PIDS|JOBID|USER)":\t)"[^"]*"'
    assert re.sub(unstable, r"\1X", plain(shown)) == re.sub(unstable, r"\1X", plain(real))


def test_jobs_that_wait_are_shown_with_their_reasons_as_recorded(lsf: Lsf) -> None:
    lsf.place.set(is_scheduling=False)
    for command in ("bsub -J waits -n 4 true", "bsub -J held -H true", "bsub -J inact -q held true"):
        lsf.submit(command)
    lines = recorded("bjobs p").splitlines(keepends=True)
    assert plain(lsf.out("bjobs -p")) == plain("".join(lines[:5] + lines[9:]))


def test_array_with_a_limit_runs_that_many_at_once(lsf: Lsf) -> None:
    lsf.submit("bsub -J 'a[1-3]%1' 'mkdir busy && sleep 0.2 && rmdir busy'")
    assert [lsf.ended(f"1[{index}]") for index in (1, 2, 3)] == ["DONE"] * 3


def test_unknown_ids_get_the_recorded_answers(lsf: Lsf) -> None:
    shown, killed, past = lsf.run("bjobs 99999"), lsf.run("bkill 99999 99998"), lsf.run("bhist 99999")
    assert (shown.returncode, shown.stderr) == (255, recorded("bjobs unknown.stderr"))
    assert killed.returncode == 255
    assert killed.stderr.splitlines() == recorded("bkill mixed.stderr").splitlines()[:2]
    assert (past.returncode, past.stdout) == (255, recorded("bhist unknown"))
    none, all_of_none = lsf.run("bjobs"), lsf.run("bjobs -a")
    assert (none.returncode, none.stderr) == (254, recorded("bjobs none.stderr"))
    assert (all_of_none.returncode, all_of_none.stderr) == (254, recorded("bjobs a-none.stderr"))


def test_fields_and_options_that_are_not_known_get_the_recorded_answers(lsf: Lsf) -> None:
    lsf.submit("bsub sleep 60")
    field, option = lsf.run("bjobs -o 'jobid stat exit_code' 1"), lsf.run("bjobs -X 1")
    assert (field.returncode, field.stderr) == (99, recorded("bjobs o-exit_code.stderr"))
    assert (option.returncode, option.stderr) == (255, recorded("bjobs X.stderr"))


@with_settings(clean_period_s=0.0)
def test_ended_job_is_forgotten_by_all_but_its_history(lsf: Lsf) -> None:
    lsf.submit("bsub -J purged -o /dev/null 'exit 3'")
    wait_for(lambda: "Exited with exit code 3" in lsf.out("bhist -l 1"))
    assert lsf.run("bjobs 1").stderr == "Job <1> is not found\n"
    assert lsf.run("bkill 1").stderr == recorded("bkill purged.stderr")
    assert plain(lsf.out("bhist -l 1")) == plain(recorded("bhist l-purged"))


def test_bjobs_may_answer_from_an_old_copy_and_bkill_does_not(lsf: Lsf) -> None:
    lsf.place.set(copied_at=time.time())
    lsf.submit("bsub true")
    wait_for(lambda: "Done successfully" in lsf.out("bhist -l 1"))
    assert lsf.run("bjobs -a").stderr == recorded("bjobs a-none.stderr")
    assert lsf.run("bjobs -UF 1").returncode == 255
    assert lsf.run("bkill 1").stderr == "Job <1>: Job has already finished\n"
    lsf.place.set(copied_at=None)
    assert lsf.state("1") == "DONE"


# ---------------------------------------------------------------- bkill


def test_bkill_says_of_each_what_was_recorded(lsf: Lsf) -> None:
    lsf.place.set(is_scheduling=False)
    lsf.submit("bsub -J 'arrk[1-4]' sleep 100")
    whole = lsf.run("bkill 1")
    assert (whole.returncode, whole.stderr) == (255, recorded("bkill array-pending.stderr").replace("46", "1"))
    assert lsf.ended("1[4]") == "EXIT"
    again = lsf.run("bkill 1")
    assert (again.returncode, again.stderr) == (255, recorded("bkill array-again.stderr").replace("39", "1"))
    lsf.submit("bsub -J 'nm[1-2]' sleep 100")
    assert lsf.out("bkill '2[1-2]'") == "Job <2[1]> is being terminated\nJob <2[2]> is being terminated\n"


def test_bkill_of_0_means_all_jobs(lsf: Lsf) -> None:
    jobs = [lsf.submit("bsub -J one sleep 100"), lsf.submit("bsub -J two sleep 100")]
    assert lsf.out("bkill -J two 0") == "Job <2> is being terminated\n"
    assert lsf.ended(jobs[1]) == "EXIT"
    assert lsf.state(jobs[0]) == "RUN"
    lsf.out("bkill 0")
    assert lsf.ended(jobs[0]) == "EXIT"


# ---------------------------------------------------------------- troubles


@pytest.mark.parametrize(("outage", "case"), [("mbatchd", "batch-down"), ("lim", "lim-down")])
def test_daemon_that_is_away_has_commands_wait_with_the_recorded_words(lsf: Lsf, outage: str, case: str) -> None:
    lsf.place.set(outage=outage)
    for command in (["bjobs", "1"], ["bkill", "1"], ["bsub", "true"], ["bqueues"]):
        with lsf.waiting(command) as process:
            assert process.stderr is not None
            assert process.stderr.readline() == recorded(f"bsub {case}-bsub.stderr")
            assert process.poll() is None
    known = lsf.run("lsid")
    assert (known.returncode, known.stderr) == ((255, recorded("lsid lim-down.stderr")) if outage == "lim" else (0, ""))
    lsf.place.set(outage="")
    assert lsf.run("bjobs -a").stderr == recorded("bjobs a-none.stderr")  # that bsub brought nothing


def test_daemon_that_hangs_takes_what_bsub_brought(lsf: Lsf) -> None:
    """The job ``ghost`` of the recordings: its bsub had been ended by a time limit."""
    lsf.place.set(outage="hung")
    with lsf.waiting(["bsub", "-J", "ghost", "true"]) as process:
        wait_for(lambda: "ghost" in lsf.run("bhist -l 1").stdout)
        assert process.poll() is None
    lsf.place.set(outage="")
    assert lsf.ended("1") == "DONE"


# ---------------------------------------------------------------- what IBM's has beyond


@with_settings(version="10.1", minute_s=0.2)
def test_ends_that_lsf_brings_about_have_reasons_and_codes(lsf: Lsf) -> None:
    hog = "python3 -c 'import time; x = bytearray(200 << 20); time.sleep(60)'"
    jobs = [lsf.submit(f"bsub {what}") for what in ("-W 1 sleep 60", f'-M 51200 "{hog}"', "sleep 60", "true")]
    wait_for(lambda: lsf.state(jobs[2]) == "RUN")
    lsf.out(f"bkill {jobs[2]}")
    for job in jobs:
        lsf.ended(job)
    rows = json.loads(lsf.out("bjobs -a -json -o 'jobid exit_code exit_reason'"))["RECORDS"]
    assert [row["EXIT_REASON"].partition(":")[0] for row in rows] == [
        "TERM_RUNLIMIT",
        "TERM_MEMLIMIT",
        "TERM_OWNER",
        "",
    ]
    assert [row["EXIT_CODE"] for row in rows] == ["140", "130", "130", ""]
    assert "Completed <exit>; TERM_OWNER: job killed by owner." in lsf.out(f"bjobs -l {jobs[2]}")


@with_settings(version="volclava-2.2", enforces_memory=True)
def test_memory_limit_of_volclava_is_counted_in_mb_and_shown_as_recorded(lsf: Lsf) -> None:
    hog = "python3 -c 'import time; x = bytearray(200 << 20); time.sleep({})'"
    assert lsf.ended(lsf.submit(f'bsub -M 51200 "{hog.format(0)}"')) == "DONE"
    shown = "\n MEMLIMIT\n 52428800 K\n"
    assert shown in lsf.out("bjobs -UF 1")
    assert shown in recorded("bjobs UF-memory-not-enforced")
    assert lsf.ended(lsf.submit(f'bsub -M 51 "{hog.format(60)}"')) == "EXIT"
    assert re.search(r" MAX MEM: \d+ Mbytes;  AVG MEM: \d+ Mbytes\n", lsf.out("bjobs -UF 2"))


def test_memory_is_not_enforced_by_the_openlava_family(lsf: Lsf) -> None:
    hog = "python3 -c 'x = bytearray(100 << 20); import time; time.sleep(0.5)'"
    assert lsf.ended(lsf.submit(f'bsub -M 1024 "{hog}"')) == "DONE"


# ---------------------------------------------------------------- a job's place, the site


def test_job_has_the_variables_of_the_real_one(lsf: Lsf) -> None:
    lsf.ended(lsf.submit("bsub -J 'a b[1-1]' -q short -n 2 'env -0 >seen; pwd >where'", CJ_LINES="one\ntwo"))
    seen = dict(each.split("=", 1) for each in (lsf.folder / "seen").read_text().split("\0") if each)
    assert (seen["LSB_JOBID"], seen["LSB_JOBINDEX"], seen["LSB_QUEUE"]) == ("1", "1", "short")
    assert (seen["LSB_HOSTS"], seen["LSB_MCPU_HOSTS"]) == ("lsfrig lsfrig", "lsfrig 2 ")
    assert (seen["LSB_JOBNAME"], seen["CJ_LINES"]) == ("a b[1-1]", "one\ntwo")
    assert (lsf.folder / "where").read_text().strip() == str(lsf.folder)


def test_output_arrives_at_the_end_and_is_lost_without_its_directory(lsf: Lsf) -> None:
    lsf.ended(lsf.submit("bsub -o '%J.%I.out' 'echo out; echo err >&2'"))
    assert (lsf.folder / "1.0.out").read_text().endswith("\nout\nerr\n")
    assert lsf.ended(lsf.submit("bsub -o nodir/x.out true")) == "DONE"


def test_site_is_described_as_recorded(lsf: Lsf) -> None:
    assert lsf.out("lsid") == recorded("lsid ok")
    assert lsf.out("bqueues") == recorded("bqueues ok")
    assert lsf.out("bqueues -l normal") == recorded("bqueues l-normal")
    assert lsf.out("bhosts") == recorded("bhosts ok")
    assert lsf.out("lshosts") == recorded("lshosts ok").replace("    2 24105M", "    4 24105M")
    real = re.sub(r"\s+", " ", recorded("bparams l"))
    for line in re.findall(r"[A-Z_]+ = \S+", lsf.out("bparams -l")):
        assert line.partition(" = ")[0] in real


def test_nothing_is_left_when_the_fake_goes(tmp_path: Path) -> None:
    token = f"cj-fake-lsf-{os.getpid()}-{time.monotonic_ns()}"
    with fake_lsf(tmp_path / "lsf", version="10.1") as place:
        lsf = Lsf(place, tmp_path)
        lsf.submit(f"bsub -M 999999 'setsid sleep 300.{token} & trap \"\" TERM INT; touch up; sleep 300'")
        wait_for((tmp_path / "up").exists)
    found = subprocess.run(["pgrep", "-f", token], capture_output=True, text=True, check=False)
    assert found.stdout == ""


def test_version_or_setting_that_is_not_there_is_named_with_those_there_are(tmp_path: Path) -> None:
    for wrong, words in (
        ({"version": "10.2"}, r"no version '10.2' of the fake LSF; known: 10.1, .* did you mean '10.1'"),
        ({"max_aray": 1}, r"no setting 'max_aray' .* did you mean 'max_array'"),
    ):
        with pytest.raises(ConfigError, match=words), fake_lsf(tmp_path / "lsf", **wrong):
            pass
    assert list(VERSIONS) == ["10.1", "volclava-2.2", "openlava-3.0"]
