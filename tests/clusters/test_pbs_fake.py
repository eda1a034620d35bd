"""The OpenPBS that is not there, held to what real servers printed: the same commands, words and exit codes."""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_clusterjobs.core.errors import ConfigError
from pytest_clusterjobs.testing.fakes import fake_pbs
from pytest_clusterjobs.testing.fakes.pbs.formats import fold
from pytest_clusterjobs.testing.fakes.place import FakePlace
from tests.watching import read, wait_for, with_word

if TYPE_CHECKING:
    from tests.pbs_recordings import FLAVOURS, Recording, recorded, recordings
else:
    from pbs_recordings import FLAVOURS, Recording, recorded, recordings

HOST = os.uname().nodename.partition(".")[0]
USER = pwd.getpwuid(os.getuid()).pw_name
HOME = "/srv/pbsrig/u/pbsuser"

SCRIPTS = {
    "run.sh": "#!/bin/bash\n#PBS -N runner -j oe -l select=1:ncpus=1:mem=64mb -l walltime=00:05:00\nsleep 300\n",
    "ok.sh": "#!/bin/bash\necho out; echo err >&2\nexit 0\n",
    "f3.sh": "#!/bin/bash\nexit 3\n",
    "bad.sh": "#!/no/such/interpreter\n",
    "arr.sh": "#!/bin/bash\ncase $PBS_ARRAY_INDEX in 2) exit 3;; 3) (kill -9 $BASHPID);; 4|6) sleep 300;; esac\n",
}


class Replay:
    """Plays recorded commands to the fake, and compares; ids are those that the fake gave."""

    def __init__(self, place: FakePlace, home: Path) -> None:
        self.place = place
        self.home = home
        self.folder = home / "w"
        self.folder.mkdir(parents=True)
        for name, text in SCRIPTS.items():
            (self.folder / name).write_text(text)
        self.numbers: dict[str, str] = {}
        self.environment = {
            **os.environ,
            **place.environment,
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "LOGNAME": USER,
            "SHELL": "/bin/bash",
        }

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command],
            env=self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=60,
            check=False,
        )

    def ids(self, text: str) -> str:
        """Put the fake's ids for the recorded ones."""

        def put(match: re.Match[str]) -> str:
            number, element, server = match[1], match[2] or "", match[3] or ""
            return self.numbers.get(number, number) + element + (f".{HOST}" if server else "")

        element = r"\\?\[[\d-]*\\?\]"
        pattern = rf"\b(\d+)(?=\.pbsrig|\\?\[)({element})?(\.pbsrig)?"
        return re.sub(pattern, put, text).replace(HOME, str(self.home))

    def play(self, case: str, flavour: str = "newest") -> subprocess.CompletedProcess[str]:
        """Give what the fake says to a recorded command; its exit code and complaints must be those recorded."""
        each = recorded(case, flavour)
        done = self.run(self.ids(each.command))
        real, fake = re.match(r"(\d+)", each.stdout), re.match(r"(\d+)", done.stdout)
        if each.program == "qsub" and real and fake:
            self.numbers[real[1]] = fake[1]
        assert (done.returncode, done.stderr) == (each.code, self.ids(each.stderr).replace("pbsrig", HOST)), (
            each.command
        )
        return done

    def compare(self, case: str, flavour: str = "newest") -> None:
        """Play a command and compare all that it prints, but for what cannot be the same."""
        done, each = self.play(case, flavour), recorded(case, flavour)
        assert self.plain(done.stdout) == plain(each.stdout)

    def plain(self, text: str) -> str:
        text = re.sub(rf"\b{re.escape(HOST)}\b", "pbsrig", unfolded(text).replace(str(self.home), HOME))
        return plain(re.sub(rf"\b{re.escape(USER)}\b", "pbsuser", text))

    def until_finished(self, case: str) -> None:
        """Wait until the job of a recorded submission has finished."""
        number = self.ids(recorded(case).stdout.strip())
        wait_for(lambda: re.search(r" F workq", self.run(f"qstat -x '{number}'").stdout))


def unfolded(text: str) -> str:
    return text if text.lstrip().startswith("{") else text.replace("\n\t", "")


VARYING = (
    (r'("?(?:timestamp|history_timestamp)"?(?::\t?| = |=))\d+', r"\1T"),
    (r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun) \w{3} [\d ]\d \d\d:\d\d:\d\d \d{4}", "DATE"),
    (r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun) \w{3} [\d ]\d at \d\d:\d\d", "MINUTE"),
    (r'(resources_used\.(?:v?mem|walltime|cpupercent|cput) = |resources_used\.(?:v?mem|walltime)=)[\w:]+', r"\1N"),
    (r'(PBS_O_PATH"?[=:]\t?"?)[^",~\n]*', r"\1PATH"),
    (r"(exec_host\"?(?::\t?\"| = |=)pbsrig/)\d+", r"\1N"),
    (r"\b\d+((?:\[\d*\])?\.pbsrig)", r"N\1"),
    (r"(\.[eo])\d+\b", r"\1N"),
    (r'\t*"depend":.*\n', ""),  # another job's wish
    (rf"{HOME}/wr\b", f"{HOME}/w"),  # where the release was recorded
)  # fmt: skip


def plain(text: str) -> str:
    """Leave out of an answer what no two answers have in common: times, ids, measurements, PATH."""
    text = unfolded(text)
    for pattern, put in VARYING:
        text = re.sub(pattern, put, text)
    used = r'("resources_used":\t?)\{[^}]*\}'
    return re.sub(used, lambda match: match[1] + ",".join(re.findall(r'"(\w+)":', match[0])), text)


@pytest.fixture
def replay(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Replay]:
    settings = getattr(request, "param", {"version": "newest"})
    with fake_pbs(tmp_path / "pbs", **settings) as place:
        yield Replay(place, tmp_path / "home")


def with_settings(**settings: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("replay", [settings], indirect=True, ids=["-".join(settings)])


# ---------------------------------------------------------------- forms


FOLDED = [each for each in recordings("newest").values() if each.stdout.startswith("Job Id") and "\n\t" in each.stdout]


@pytest.mark.parametrize("each", FOLDED, ids=lambda each: each.case)
def test_every_recorded_attribute_is_folded_where_qstat_folds_it(each: Recording) -> None:
    lines = re.split(r"\n(?=    [\w.]+ = |Job Id: |\n)", each.stdout)
    attributes = [match for line in lines if (match := re.match(r"    ([\w.]+) = ([^\n]*(?:\n\t[^\n]*)*)$", line))]
    assert len(attributes) > 20
    for match in attributes:
        assert fold(match[1], match[2].replace("\n\t", "")) == match[0]


# ---------------------------------------------------------------- refusals and errors


REFUSED = [
    *("07-array/24", "07-array/27", "07-array/28", "07-array/29", "09-bad-queue/01", "09-bad-queue/02"),
    *("09-bad-queue/03", "09-bad-queue/04", "09-bad-queue/05", "09-bad-queue/06", "19-gpus/01"),
    *("11-special/21", "11-special/25", "11-special/29", "11-special/41", "11-special/77"),
    *(f"10-bad-resource/{number:02}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 14, 17)),
]  # fmt: skip


def test_submissions_are_refused_with_the_recorded_words(replay: Replay) -> None:
    for case in REFUSED:
        assert replay.play(case).stdout == ""
    assert replay.run("qstat").stdout == ""


def test_array_that_may_not_be_started_again_is_refused(replay: Replay) -> None:
    """Not recorded: qsub.c of PBS Pro 14 and newer has these words (norerunarray)."""
    done = replay.run("qsub -r n -J 0-3 -- /bin/true")
    assert (done.returncode, done.stderr) == (2, "qsub:  cannot submit non-rerunable Array Job\n")


def test_odd_submissions_are_taken_as_they_were(replay: Replay) -> None:
    for case in ("10-bad-resource/12", "10-bad-resource/15", "10-bad-resource/16", "07-array/25", "07-array/26"):
        replay.compare(case)


@with_settings(acl_roots="")
@pytest.mark.skipif(os.getuid() != 0, reason="only root is refused as root")
def test_root_is_refused(replay: Replay) -> None:
    replay.compare("10-bad-resource/21")


def test_unknown_ids_and_names_get_the_recorded_answers(replay: Replay) -> None:
    for number in (*range(1, 19), 19, 21, 24):
        replay.compare(f"08-unknown-id/{number:02}")


@with_settings(version="newest", max_jobs=1)
def test_limit_on_a_user_s_jobs_is_refused_with_the_recorded_words(replay: Replay) -> None:
    for number in ("08", "09", "10"):
        replay.compare(f"18-states/{number}")


def test_server_that_is_down_gets_every_command_its_recorded_answer(replay: Replay) -> None:
    replay.place.set(server="down")
    for number in ("04", "06", "07", "08", "09", "10", "11", "12"):
        replay.compare(f"14-server-down/{number}")
    replay.place.set(server="up")
    assert replay.run("qstat").returncode == 0


@pytest.mark.parametrize("command", ["qstat", "qsub -- /bin/true", "qselect"])
def test_server_that_hangs_keeps_commands_waiting_and_makes_the_job_later(replay: Replay, command: str) -> None:
    replay.place.set(server="hung")
    assert replay.run(f"timeout 0.3 {command}").returncode == 124
    waiting = subprocess.Popen(
        ["bash", "-c", command], env=replay.environment, cwd=replay.folder, stdout=subprocess.PIPE, text=True
    )
    replay.place.set(server="up")
    said, _ = waiting.communicate(timeout=20)
    assert waiting.returncode == 0
    assert bool(said) is command.startswith("qsub")


# ---------------------------------------------------------------- jobs, in every form


def test_running_job_is_shown_as_recorded(replay: Replay) -> None:
    replay.compare("01-running/01")
    number = replay.numbers["1"]
    wait_for(lambda: f"{number}.{HOST}" in replay.run("qselect -s R").stdout)
    for case in ("02", "04", "08", "09", "10", "11", "12", "13", "15", "16"):
        table = case in ("02", "04")
        replay.play(f"01-running/{case}") if table else replay.compare(f"01-running/{case}")
    shown = replay.run("qstat").stdout.split("\n")
    assert shown[:2] == recorded("01-running/02").stdout.split("\n")[:2]
    assert re.fullmatch(rf"{number}\.{HOST} +runner +{USER} +0 R workq +", shown[2])


def test_jobs_that_wait_say_why(replay: Replay) -> None:
    replay.play("01-running/01")
    for number in ("01", "02", "03", "04"):
        replay.play(f"02-pending/{number}")
    for number in ("09", "10", "11", "12", "16", "17", "18"):
        replay.compare(f"02-pending/{number}")


def test_only_the_first_of_several_jobs_is_in_the_newest_json(replay: Replay) -> None:
    for number in ("02", "03", "04"):
        replay.play(f"02-pending/{number}")
    several = replay.run("qstat -f -F json 0 1 2")
    assert list(json.loads(several.stdout)["Jobs"]) == [f"0.{HOST}"]
    assert len(json.loads(recorded("02-pending/15").stdout)["Jobs"]) == 1
    assert replay.run("qstat -f 0 1 2").stdout.count("Job Id: ") == 3


@pytest.mark.parametrize(("submit", "shown"), [(33, 35), (37, 39), (57, 59), (61, 63), (61, 64)])
def test_environment_of_a_job_is_shown_as_recorded(replay: Replay, submit: int, shown: int) -> None:
    replay.play(f"11-special/{submit}")
    replay.compare(f"11-special/{shown}")


def test_finished_job_is_shown_as_recorded(replay: Replay) -> None:
    replay.play("03-finished-ok/01")
    replay.until_finished("03-finished-ok/01")
    for number in ("03", "04", "07", "08", "09"):
        replay.compare(f"03-finished-ok/{number}")
    number = replay.numbers["8"]
    assert (replay.folder / f"okjob.o{number}").read_text() == "out\n"
    assert (replay.folder / f"okjob.e{number}").read_text() == "err\n"


@pytest.mark.parametrize(
    ("submit", "shown"),
    [
        ("04-failed-exit3/01", "04-failed-exit3/03"),
        ("04-failed-exit3/04", "04-failed-exit3/05"),
        ("04-failed-exit3/06", "04-failed-exit3/07"),
        ("04-failed-exit3/08", "04-failed-exit3/09"),
        ("04-failed-exit3/10", "04-failed-exit3/11"),
        ("05-killed/09", "05-killed/10"),
        ("05-killed/11", "05-killed/12"),
        ("06-walltime/01", "06-walltime/03"),
        ("12-paths/05", "12-paths/06"),
    ],
)
def test_every_end_has_the_recorded_status(replay: Replay, submit: str, shown: str) -> None:
    replay.play(submit)
    replay.until_finished(submit)
    replay.compare(shown)


def test_time_limit_is_told_in_the_job_s_errors(replay: Replay) -> None:
    number = replay.run("qsub -N wall -l walltime=1 -- /bin/sleep 100").stdout.split(".")[0]
    errors = replay.folder / f"wall.e{number}"
    wait_for(errors.exists)
    assert re.fullmatch(r"=>> PBS: job killed: walltime \d+ exceeded limit 1\n", errors.read_text())


def test_deleted_job_is_shown_as_recorded(replay: Replay) -> None:
    replay.play("01-running/01")
    wait_for(lambda: replay.run("qselect -s R").stdout)
    replay.play("05-killed/01")
    replay.until_finished("01-running/01")
    for number in ("03", "04", "05", "06", "07", "08"):
        replay.compare(f"05-killed/{number}") if number != "05" else replay.play("05-killed/05")


def test_jobs_of_a_node_that_is_down_can_be_deleted_by_force_alone(replay: Replay) -> None:
    for number in ("01", "02"):
        replay.play(f"16-node-down/{number}")
    wait_for(lambda: replay.run("qselect -s R").stdout.count("\n") == 2)
    replay.place.set(node="down")
    assert "state = down" in replay.run("pbsnodes -a").stdout
    replay.play("16-node-down/05")
    replay.compare("16-node-down/06")
    for number in ("07", "09"):
        replay.play(f"16-node-down/{number}")
    replay.compare("16-node-down/08")
    replay.until_finished("16-node-down/02")
    replay.compare("16-node-down/10")


@pytest.mark.slow
def test_job_that_ignores_its_deletion_is_killed(replay: Replay) -> None:
    (replay.folder / "ign.sh").write_text("#!/bin/bash\ntrap '' TERM\ntouch started\nsleep 300\n")
    number = replay.run("cd $HOME/w && qsub -N ignterm ign.sh").stdout.strip()
    wait_for((replay.home / "started").exists)
    begun = time.monotonic()
    assert replay.run(f"qdel {number}").returncode == 0
    assert f"{number.partition('.')[0]}" in replay.run("qstat").stdout
    wait_for(lambda: not replay.run("qstat").stdout)
    assert 8 < time.monotonic() - begun < 25
    assert "Exit_status = 271" in replay.run(f"qstat -x -f {number}").stdout


def test_array_and_its_elements_are_shown_as_recorded(replay: Replay) -> None:
    replay.play("07-array/01")
    number = replay.numbers["23"]
    wait_for(lambda: replay.run(f"qstat -t '{number}[]'").stdout.count(" X ") == 4)
    whole = json.loads(replay.run(f"qstat -f -F json '{number}[]'").stdout)["Jobs"][f"{number}[].{HOST}"]
    real = json.loads(recorded("07-array/06").stdout)["Jobs"]["23[].pbsrig"]
    assert list(whole) == list(real)
    assert (whole["job_state"], whole["substate"], whole["Exit_status"]) == ("B", 70, 0)
    assert whole["array_state_count"] == "Queued:0 Running:2 Exiting:0 Expired:4"
    replay.compare("07-array/10")
    for case in ("11", "14", "15"):
        replay.play(f"07-array/{case}")
    replay.run(f"qdel '{number}[6]'")
    replay.until_finished("07-array/01")
    replay.compare("07-array/16")
    shown = json.loads(replay.run(f"qstat -x -t -f -F json '{number}[]'").stdout)["Jobs"]
    ends = json.loads(recorded("07-array/20").stdout)["Jobs"]
    assert [list(job) for job in shown.values()] == [list(job) for job in ends.values()]
    statuses = [job["Exit_status"] for job in ends.values()]
    assert [job["Exit_status"] for job in shown.values()] == [*statuses[:-1], 271]


def test_a_limited_array_runs_that_many_at_once(replay: Replay) -> None:
    replay.play("07-array/23")
    number = replay.numbers["24"]
    wait_for(lambda: replay.run(f"qstat -t '{number}[]'").stdout.count(" R workq") == 2)
    assert replay.run(f"qstat -t '{number}[]'").stdout.count(" Q workq") == 2


@with_settings(version="newest", gpus=2)
def test_gpus_are_counted_as_recorded(replay: Replay) -> None:
    for number in ("02", "03", "04"):
        replay.play(f"19-gpus/{number}")
    replay.compare("19-gpus/06")
    replay.play("19-gpus/07")
    assert "Can Never Run: Not enough total nodes available" in replay.run("qstat -f").stdout


@with_settings(version="newest", history=False)
def test_without_history_nothing_is_known_of_the_end(replay: Replay) -> None:
    replay.play("17-no-history/01")
    wait_for(lambda: not replay.run("qstat").stdout)
    for number in ("03", "04", "05", "06"):
        replay.compare(f"17-no-history/{number}")


# ---------------------------------------------------------------- the older flavour's JSON


ENVIRONMENTS = [(f"04-env/{number:02}", f"04-env/{number + 1:02}") for number in (1, 3, 5, 18, 20, 22, 24, 26, 28, 30)]


@with_settings(version="23.06.06")
def test_the_release_writes_the_same_json_valid_or_not(replay: Replay) -> None:
    for submit, shown in ENVIRONMENTS:
        replay.play(submit, "23.06.06")
        replay.compare(shown, "23.06.06")
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(replay.run("qstat -f -F json").stdout)


@with_settings(version="23.06.06")
def test_the_release_gives_every_job_that_is_named(replay: Replay) -> None:
    for number in ("01", "02"):
        replay.play(f"01/{number}", "23.06.06")
    wait_for(lambda: replay.run("qselect -x -s F").stdout.count("\n") == 2)
    for number in ("01", "02", "06", "07"):
        replay.compare(f"02-json/{number}", "23.06.06")


@pytest.mark.parametrize("version", FLAVOURS)
def test_site_is_described_as_recorded(tmp_path: Path, version: str) -> None:
    with fake_pbs(tmp_path / "pbs", version=version, acl_roots="") as place:
        replay = Replay(place, tmp_path / "home")
        assert replay.run("qstat --version").stdout == recorded("00-version/01", version).stdout
        each = recorded("00-version/05")
        (real,) = json.loads(each.stdout)["Server"].values()
        (server,) = json.loads(replay.run(each.command).stdout)["Server"].values()
        assert list(server) == list(real)
        same = ("max_array_size", "server_state", "default_queue", "job_history_enable", "resources_default")
        assert [server[name] for name in same] == [real[name] for name in same]
        each = recorded("00-version/07")
        assert json.loads(replay.run(each.command).stdout)["Queue"] == json.loads(each.stdout)["Queue"]
        node = recorded("00-version/09").stdout
        names = set(re.findall(r"^     (\S+) = ", replay.run("pbsnodes -a").stdout, re.MULTILINE))
        assert names <= set(re.findall(r"^     (\S+) = ", node, re.MULTILINE))
        assert {"state", "resources_available.ncpus", "pcpus", "Mom"} <= names


# ---------------------------------------------------------------- what a job sees, and what is left


def test_job_has_the_variables_and_the_node_file_of_the_real_one(replay: Replay) -> None:
    command = "env; echo; cat $PBS_NODEFILE"
    (replay.folder / "see.sh").write_text(f"#!/bin/bash\n{command}\n")
    number = replay.run(
        "qsub -q workq -l select=1:ncpus=2:mpiprocs=2 -j oe -k oed -o $HOME/seen -N see see.sh"
    ).stdout.strip()
    wait_for(lambda: " F " in replay.run(f"qstat -x {number}").stdout)
    variables, _, nodes = (replay.home / "seen").read_text().partition("\n\n")
    seen = dict(line.partition("=")[::2] for line in variables.splitlines() if line.partition("=")[1])
    assert nodes.split() == [HOST, HOST]
    expected = {
        "PBS_JOBID": number,
        "PBS_JOBNAME": "see",
        "PBS_QUEUE": "workq",
        "PBS_O_WORKDIR": str(replay.folder),
        "PBS_ENVIRONMENT": "PBS_BATCH",
        "NCPUS": "2",
        "PWD": str(replay.home),
    }
    assert {name: seen.get(name) for name in expected} == expected
    assert "PBS_ARRAY_INDEX" not in seen


def test_nothing_is_left_when_the_fake_goes(tmp_path: Path) -> None:
    token = f"fake-pbs-left-{os.getpid()}"
    with fake_pbs(tmp_path / "pbs", slots=3) as place:
        replay = Replay(place, tmp_path / "home")
        (replay.folder / "stay.sh").write_text(
            f"#!/bin/bash\ntrap '' TERM\nsetsid /bin/sh -c 'sleep 300; :' {token} & /bin/sh -c 'sleep 300; :' {token}\n"
        )
        replay.run("qsub -J 0-9 stay.sh")
        wait_for(lambda: len(jobs_with(token)) == 6)
    wait_for(lambda: not jobs_with(token), within_s=10)


def test_nothing_is_left_when_the_fake_goes_after_somebody_killed_what_watches_a_job(tmp_path: Path) -> None:
    token = f"fake-pbs-alone-{os.getpid()}"
    with fake_pbs(tmp_path / "pbs") as place:
        Replay(place, tmp_path / "home").run(f"qsub -- /bin/sh -c 'sleep 300; :' {token}")
        wait_for(lambda: jobs_with(token))
        with place.cluster.look() as queue:
            (job,) = queue.jobs("running")
        assert job.shepherd is not None
        os.kill(job.shepherd, signal.SIGKILL)
    wait_for(lambda: not jobs_with(token))


def test_nothing_is_left_when_its_owner_is_killed(tmp_path: Path) -> None:
    token = f"fake-pbs-orphan-{os.getpid()}"
    started = tmp_path / "started"
    program = (
        "import os, signal, subprocess, time; from pytest_clusterjobs.testing.fakes import fake_pbs\n"
        f"with fake_pbs({str(tmp_path / 'pbs')!r}) as place:\n"
        "    env = {**os.environ, **place.environment}\n"
        f"    subprocess.run(['qsub', '--', '/bin/sh', '-c', 'touch {started}; sleep 300; :', {token!r}], env=env)\n"
        "    deadline = time.monotonic() + 20\n"
        f"    while not os.path.exists({str(started)!r}) and time.monotonic() < deadline: time.sleep(0.01)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    argv = [sys.executable, "-c", program]
    done = subprocess.run(argv, cwd=tmp_path, timeout=60, stdout=subprocess.DEVNULL, check=False)
    assert done.returncode == -9
    assert started.exists()
    wait_for(lambda: not jobs_with(token), within_s=20)


def jobs_with(token: str) -> list[str]:
    """Give the command lines with a token, but for those of the commands that submit the jobs."""
    lines = [read(f"/proc/{pid}/cmdline") for pid in with_word(token)]
    return [line for line in lines if line and "qsub" not in line and "-c\0import" not in line]


def test_version_or_setting_that_is_not_there_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no version '23\.06\.6' .*known: 23\.06\.06, newest.*23\.06\.06"):
        fake_pbs(tmp_path, version="23.06.6")
    with pytest.raises(ConfigError, match=r"no setting 'gpu' .*gpus"):
        fake_pbs(tmp_path, gpu=1)
    with fake_pbs(tmp_path / "pbs") as place, pytest.raises(KeyError, match="srever"):
        place.set(srever="down")


def test_a_command_takes_no_time(replay: Replay) -> None:
    replay.run("qsub -h -- /bin/true")
    begun = time.perf_counter()
    for _ in range(5):
        replay.run("qstat")
    assert (time.perf_counter() - begun) / 5 < 0.6  # 0.06 s on a machine that does nothing else
