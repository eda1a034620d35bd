"""Bad days of hosts without a scheduler: connections that break, servers and clients that die, and pytest on them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.core.errors import JobCancelled, JobInfrastructureError, JobLost
from pytest_clusterjobs.core.state import ExitReason, JobState
from tests.backends.ssh_bench import PATIENCE_S, Site, says, site, wait_for
from tests.days import call, command
from tests.watching import is_alive, read

pytestmark = pytest.mark.cluster_lane("sshd")

#: A job that notes each time that it is begun, and ends when it is told to.
COUNTED = "echo begun >>{counter}; echo started; while [ ! -e {go} ]; do sleep 0.05; done; echo done"

CLIENT = """
import sys
from pytest_clusterjobs.config.place import Place
from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.core.spec import make_spec
from pytest_clusterjobs.engine.run import Run

there, here = sys.argv[1:]
place = Place("ssh", "ssh", host=("clusterjobs",), workdir=there, python=sys.executable, options={"linger": "2"})
run = Run(Settings(workdir=here), places={"ssh": place}.__getitem__)
run.select("ssh")
job = run.submit_command("trap '' TERM; echo started; setsid sleep 303 & sleep 304", make_spec())
while "started" not in job.logs().stdout:
    pass
print("running", flush=True)
job.result(300)
"""

TESTS = """
import os
import pytest
from helper_beside import triple
from pytest_clusterjobs import cluster

@pytest.fixture
def given():
    return 14

@cluster(cores=1, prologue="export FROM_PROLOGUE=yes")
def test_body(given):
    assert triple(given) == 42
    assert (os.environ["FROM_PROFILE"], os.environ["FROM_PROLOGUE"]) == ("yes", "yes")
    assert "SSH_CONNECTION" in os.environ
    assert "HERE_ALONE" not in os.environ

@cluster
def square(number):
    print("squaring", number)
    return number * number

@pytest.mark.real_world
def test_map():
    assert square.map(range(5)) == [0, 1, 4, 9, 16]

@pytest.mark.real_world
@pytest.mark.parametrize("number", range(6))
def test_one(number):
    assert square(number) == number ** 2

@cluster
def test_that_fails(given):
    print("about to fail")
    assert given == 15
"""


EVERYDAY = """
import hashlib, importlib, os, pwd, socket, sys, time
from pathlib import Path
import pytest
from pytest_clusterjobs import cluster

pytestmark = pytest.mark.real_world

@cluster
def fib(n):
    return n if n < 2 else fib_here(n - 1) + fib_here(n - 2)

def fib_here(n):
    return n if n < 2 else fib_here(n - 1) + fib_here(n - 2)

def test_computes():
    assert fib(10) == 55

@cluster
def who():
    return socket.gethostname(), pwd.getpwuid(os.getuid()).pw_name, os.environ["HOME"], os.environ["SSH_CONNECTION"]

def test_tells_where_it_runs():
    host, user, home, connection = who()
    assert host and user and os.path.isabs(home)
    assert connection.split()[2] == "127.0.0.1"

@cluster
def hash_files(texts):
    for name, text in texts.items():
        Path(name).write_text(text)
    hashes = {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in texts}
    Path("summary").write_text("\\n".join(hashes))
    return hashes, Path("summary").exists(), os.getcwd()

def test_works_with_files_of_its_own():
    texts = {f"file{number}": "x" * number for number in range(3)}
    hashes, has_summary, directory = hash_files(texts)
    assert hashes == {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    assert has_summary
    Path(os.environ["CJ_DIRECTORIES"]).write_text(directory)

COMMANDS = ["true", "false", "uname -a", "id -u", "df .", "exit 42", "no-such-command-at-all"]

def test_runs_commands(cluster_jobs):
    jobs = [cluster_jobs.submit(command) for command in COMMANDS]
    for job in jobs:
        assert job.wait(60)
    assert [job.metrics.exit_code for job in jobs] == [0, 1, 0, 0, 0, 42, 127]

@cluster
def modules(names):
    return sys.version_info[:2], [importlib.import_module(name).__name__ for name in names]

def test_has_the_standard_library():
    names = "json csv sqlite3 ssl zlib bz2 lzma ctypes hashlib decimal asyncio multiprocessing".split()
    assert modules(names) == (tuple(sys.version_info[:2]), names)

@cluster
def summarise(data):
    return [min(data), max(data), sum(data), len(data), sorted(data)[len(data) // 2]]

def test_maps_over_data_sets():
    sets = [list(range(start, start + 5)) for start in range(4)]
    points = summarise.map(sets)
    assert points == [[start, start + 4, 5 * start + 10, 5, start + 2] for start in range(4)]
    assert sum(map(len, points)) == 20

@cluster
def long_one():
    begun = time.monotonic()
    for number in range(10):
        time.sleep(0.2)
        print("checkpoint", number, flush=True)
    return time.monotonic() - begun

def test_runs_long_with_checkpoints_and_is_measured():
    job = long_one.submit()
    assert job.result(60) >= 2
    assert job.logs().stdout.count("checkpoint") == 10
    assert job.metrics.run_time_s >= 2
    assert job.metrics.max_rss_bytes > 1_000_000
    assert job.metrics.cpu_time_s is not None

@cluster
def resolve():
    return socket.gethostbyname("localhost")

def test_resolves_its_own_name():
    assert resolve().startswith("127.")
"""


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with site(tmp_path) as made:
        monkeypatch.setenv("CLUSTERJOBS_SSH_CONFIG", made.cluster.environment["CLUSTERJOBS_SSH_CONFIG"])
        yield made


class Counted:
    """A job that must be begun once, whatever happens to the connection."""

    def __init__(self, far: Site, run: Any, number: int = 0) -> None:
        self.counter, self._go = far.root / f"counter{number}", far.root / f"go{number}"
        self.job = command(run, COUNTED.format(counter=self.counter, go=self._go))

    def finish(self) -> None:
        self._go.touch()
        assert self.job.result(PATIENCE_S).stdout == "started\ndone\n"
        assert self.counter.read_text() == "begun\n"


# ---------------------------------------------------------------- the connection


def test_a_connection_that_breaks_loses_and_doubles_no_job(far: Site) -> None:
    run = far.run()
    running = Counted(far, run)
    says(running.job)
    far.cut()
    jobs = [call(run, abs, -number) for number in range(10)]
    assert [job.result(PATIENCE_S) for job in jobs] == list(range(10))
    assert running.job.state is JobState.RUNNING
    running.finish()


def test_connections_that_break_all_the_time_lose_and_double_no_job(far: Site) -> None:
    def note(path: str, number: int) -> int:
        with open(path, "a") as file:
            file.write(f"{number}\n")
        return number

    run, notes = far.run(), far.root / "notes"
    jobs = []
    for number in range(30):
        jobs.append(call(run, note, str(notes), number))
        if number % 6 == 5:
            far.cut()
    assert [job.result(PATIENCE_S) for job in jobs] == list(range(30))
    assert sorted(map(int, notes.read_text().split())) == list(range(30))


def test_a_host_that_is_away_for_a_while_changes_no_state(far: Site) -> None:
    run = far.run()
    running = Counted(far, run)
    says(running.job)
    far.shut_down()
    waiting = call(run, abs, -7)
    unwanted = call(run, abs, -8)
    run.cancel([unwanted])
    with pytest.raises(TimeoutError):
        running.job.result(1)
    assert (running.job.state, waiting.state) == (JobState.RUNNING, JobState.PENDING)
    far.start_again()
    assert waiting.result(PATIENCE_S) == 7
    with pytest.raises(JobCancelled):
        unwanted.result(PATIENCE_S)
    running.finish()


def test_a_host_that_is_away_at_the_beginning_is_waited_for(far: Site) -> None:
    far.shut_down()
    run = far.run()
    job = call(run, abs, -6)
    assert not job.state.is_terminal
    assert "clusterjobs cannot be reached" in run.probe("ssh").reason
    far.start_again()
    assert job.result(PATIENCE_S) == 6


def test_what_ended_while_nobody_listened_is_told_afterwards(far: Site) -> None:
    run = far.run()
    running, other = Counted(far, run), command(run, "echo started; sleep 0.3; exit 7")
    says(running.job)
    says(other)
    far.shut_down()
    running._go.touch()
    wait_for(lambda: not any("sleep" in read(f"/proc/{pid}/comm") for pid in far.processes()), "the jobs' ends")
    far.start_again()
    running.finish()
    assert other.wait(PATIENCE_S)
    assert other.metrics.exit_code == 7


def test_a_network_that_swallows_everything_is_waited_out(far: Site) -> None:
    """Nothing breaks then, neither here nor there: silence alone tells that something is wrong."""
    run = far.run(far.place(linger="40"))
    running = Counted(far, run)
    says(running.job)
    with far.frozen():
        with pytest.raises(TimeoutError):
            running.job.result(15)
        assert running.job.state is JobState.RUNNING
    assert call(run, abs, -5).result(PATIENCE_S) == 5
    running.finish()


def test_a_host_that_stays_away_loses_its_jobs_and_ends_them(far: Site) -> None:
    run = far.run(far.place(linger="2"))
    job = command(run, "echo $$; sleep 300")
    pid = int(says(job))
    far.shut_down()
    with pytest.raises(JobLost, match="clusterjobs has not answered for 2 s, and ends its jobs then; tried") as caught:
        job.result(PATIENCE_S)
    assert "clusterjobs cannot be reached" in str(caught.value)
    assert (job.state, job.reason) == (JobState.LOST, ExitReason.LOST)
    wait_for(lambda: not is_alive(pid) and far.is_empty(), "the end of everything there")
    far.start_again()
    assert call(run, abs, -1).result(PATIENCE_S) == 1


def test_the_end_of_a_run_does_not_wait_for_a_host_that_is_away(far: Site, caplog: pytest.LogCaptureFixture) -> None:
    run = far.run(far.place(linger="2"))
    job = command(run, "echo started; sleep 300")
    says(job)
    far.shut_down()
    run.close()
    assert job.state is JobState.CANCELLED
    assert "clusterjobs could not be told that the run has ended" in caplog.text
    wait_for(far.is_empty, "the end of everything there", within_s=20)


def test_the_end_of_a_run_does_not_wait_for_a_network_that_swallows_everything(far: Site) -> None:
    run = far.run(far.place(linger="2"))
    says(command(run, "echo started; sleep 300"))
    with far.frozen():
        started = time.monotonic()
        run.close()
        assert time.monotonic() - started < 40
        wait_for(far.is_empty, "the end of everything there", within_s=20)


def test_a_job_that_was_given_up_is_ended_when_its_host_is_met_again(far: Site) -> None:
    run = far.run(far.place(linger="6"))
    job = command(run, "echo $$; sleep 300")
    pid = int(says(job))
    keeper = far.with_command("node/far_keeper.py")
    os.kill(keeper, signal.SIGSTOP)  # so that it does not notice that nobody comes
    try:
        far.shut_down()
        with pytest.raises(JobLost):
            job.result(PATIENCE_S)
        far.start_again()
        with ThreadPoolExecutor(1) as pool:
            again = pool.submit(call, run, abs, -1)
            wait_for(lambda: any(is_handed_over(each) for each in far.processes()), "the one who waits for the keeper")
            assert is_alive(pid)
            os.kill(keeper, signal.SIGCONT)
            assert again.result(PATIENCE_S).result(PATIENCE_S) == 1
    finally:
        os.kill(keeper, signal.SIGCONT)
    assert far.with_command("node/far_keeper.py") == keeper
    wait_for(lambda: not is_alive(pid), "the end of the job that was given up")


def is_handed_over(pid: int) -> bool:
    """Tell whether a process is one that has handed its streams to the keeper, or waits for it to take them."""
    with suppress(OSError):
        return "sys.stdin" in read(f"/proc/{pid}/cmdline") and os.readlink(f"/proc/{pid}/fd/0") == os.devnull
    return False


# ---------------------------------------------------------------- who dies


@pytest.mark.parametrize(
    ("word", "said"), [("node/far_keeper.py", "the job server on clusterjobs"), ("local_server", "there died")]
)
def test_a_server_that_is_killed_fails_its_jobs_and_is_replaced(far: Site, word: str, said: str) -> None:
    run = far.run()
    job = command(run, "echo $$; sleep 300")
    pid = int(says(job))
    os.kill(far.with_command(word), signal.SIGKILL)
    with pytest.raises(JobInfrastructureError, match=said):
        job.result(PATIENCE_S)
    assert (job.state, job.reason) == (JobState.FAILED, ExitReason.NODE_FAILURE)
    wait_for(lambda: not is_alive(pid), "the job's end")
    assert call(run, abs, -2).result(PATIENCE_S) == 2


def test_a_client_that_is_killed_leaves_nothing_after_the_linger(far: Site) -> None:
    argv = [sys.executable, "-c", CLIENT, str(far.there), str(far.root / "here")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "running\n"
        assert not far.is_empty()
        client.kill()
    wait_for(far.is_empty, "the end of everything there", within_s=20)


def test_a_client_that_is_stopped_for_too_long_finds_its_jobs_ended_and_goes_on(far: Site) -> None:
    run = far.run(far.place(linger="1"))
    job = command(run, "echo started; sleep 300")
    says(job)
    with far.frozen():  # as the far end sees it, it is the client who is silent
        wait_for(far.is_empty, "the end of everything there", within_s=20)
    with pytest.raises(JobInfrastructureError):
        job.result(PATIENCE_S)
    assert job.reason in (ExitReason.LOST, ExitReason.NODE_FAILURE)
    assert call(run, abs, -4).result(PATIENCE_S) == 4


# ---------------------------------------------------------------- pytest


@pytest.fixture
def project(far: Site, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("HERE_ALONE", "1")
    pytester.makepyfile(helper_beside="def triple(number):\n    return 3 * number\n", test_far=TESTS)
    profile = {
        "backend": "ssh",
        "host": ["clusterjobs-1", "clusterjobs-2"],
        "workdir": str(far.there),
        "python": sys.executable,
        "env": {"FROM_PROFILE": "yes"},
        "options": {"slots": "1"},
    }
    pytester.makefile(".yaml", clusterjobs=json.dumps({"profiles": {"farm": profile}}))
    return pytester


@pytest.mark.parametrize("more", [[], ["-n", "2"]])
def test_pytest_runs_a_profile_of_two_hosts(far: Site, project: pytest.Pytester, more: list[str]) -> None:
    result = project.runpytest_subprocess("--cluster=farm", *more)
    result.assert_outcomes(passed=8, failed=1)
    result.stdout.fnmatch_lines(["*assert 14 == 15*", "*about to fail*"])
    wait_for(far.is_empty, "the end of everything there", within_s=20)


def test_everyday_work_is_done(far: Site, project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = far.root / "directories"
    monkeypatch.setenv("CJ_DIRECTORIES", str(noted))
    project.makepyfile(test_far=EVERYDAY)
    project.runpytest_subprocess("--cluster=farm", "-n", "2").assert_outcomes(passed=8)
    assert noted.read_text().startswith(str(far.there))
    assert not Path(noted.read_text()).exists()
    wait_for(far.is_empty, "the end of everything there", within_s=20)


def test_pytest_runs_on_the_host_of_the_variable(
    far: Site, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTERJOBS_SSH_HOST", "clusterjobs")
    pytester.makepyfile(
        """
        from pytest_clusterjobs import cluster

        @cluster
        def test_body():
            assert 1
        """
    )
    pytester.makefile(".yaml", clusterjobs=json.dumps({"profiles": {"ssh": {"python": sys.executable}}}))
    pytester.runpytest_subprocess("--cluster=ssh").assert_outcomes(passed=1)


def test_a_host_whose_python_is_another_one_says_so(far: Site) -> None:
    other = Path("/usr/bin/python3")
    version = subprocess.run([str(other), "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    if tuple(map(int, version.split(".")[:2])) in (sys.version_info[:2], *((3, minor) for minor in range(9))):
        pytest.skip(f"{other} is {version}: no other one that could run the server")
    place = far.place()
    run = far.run(type(place)("ssh", "ssh", host=place.host, workdir=place.workdir, python=str(other)))
    info = run.probe("ssh").info
    assert info is not None
    assert (
        f"Python {version}: functions come from Python {sys.version_info[0]}.{sys.version_info[1]} here" in info.detail
    )
    with pytest.raises(JobInfrastructureError, match=f"the node runs Python {version}"):
        call(run, abs, -1).result(PATIENCE_S)
    assert command(run, "exit 0").result(PATIENCE_S).exit_code == 0


def test_pytest_that_is_not_told_a_host_says_what_to_set(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLUSTERJOBS_SSH_HOST", raising=False)
    pytester.makepyfile("from pytest_clusterjobs import cluster\n@cluster\ndef test_body():\n    pass\n")
    result = pytester.runpytest_subprocess("--cluster=ssh")
    assert result.ret != 0
    assert "set CLUSTERJOBS_SSH_HOST" in result.stdout.str() + result.stderr.str()
