"""Bad days of hosts without a scheduler: connections that break, servers and clients that die, and pytest on them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.core.errors import JobCancelled, JobInfrastructureError, JobLost
from pytest_clusterjobs.core.state import ExitReason, JobState
from tests.backends.ssh_bench import PATIENCE_S, Site, call, command, is_alive, read, says, site, wait_for

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
    wait_for(far.is_empty, "the end of everything there", 20)


def test_a_client_that_is_stopped_for_too_long_finds_its_jobs_ended_and_goes_on(far: Site) -> None:
    run = far.run(far.place(linger="1"))
    job = command(run, "echo started; sleep 300")
    says(job)
    with far.frozen():  # as the far end sees it, it is the client who is silent
        wait_for(far.is_empty, "the end of everything there", 20)
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
    wait_for(far.is_empty, "the end of everything there", 20)


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
