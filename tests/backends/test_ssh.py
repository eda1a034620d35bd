"""Backend ssh on real sshds: what a job finds there, what it may not, several hosts, and who cannot be used."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_clusterjobs.backends.base import BackendSettings
from pytest_clusterjobs.backends.ssh import SshBackend, parse_linger, parse_slots
from pytest_clusterjobs.config.place import Place
from pytest_clusterjobs.config.settings import Settings
from pytest_clusterjobs.core.errors import (
    BackendUnavailable,
    ClusterJobsError,
    ConfigError,
    JobCancelled,
    JobFailed,
    JobInfrastructureError,
    JobTimeout,
    StoreError,
    SubmitError,
)
from pytest_clusterjobs.core.spec import JobSpec
from pytest_clusterjobs.core.state import ExitReason, JobState
from pytest_clusterjobs.engine.opening import open_backend
from pytest_clusterjobs.engine.validator import ClusterJobValidator
from pytest_clusterjobs.engine.work import Work, command_work
from pytest_clusterjobs.transports.local import LocalTransport
from tests.backends.ssh_bench import PATIENCE_S, Site, says, site, wait_for
from tests.days import call, command
from tests.watching import is_alive

NODE = Path(sys.modules["pytest_clusterjobs"].__file__ or "").parent / "node"
PYENV = Path.home() / ".pyenv" / "versions"
needs_two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
lane = pytest.mark.cluster_lane("sshd")


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with site(tmp_path) as made:
        monkeypatch.setenv("CLUSTERJOBS_SSH_CONFIG", made.cluster.environment["CLUSTERJOBS_SSH_CONFIG"])
        yield made


# ---------------------------------------------------------------- what a job finds


@lane
class TestJobs:
    def test_finds_a_login_and_its_own_directory(self, far: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CJ_HERE", "1")

        def look() -> tuple[str, dict[str, str]]:
            return os.getcwd(), dict(os.environ)

        run = far.run()
        job = call(run, look, env={"CJ_GIVEN": "a b"})
        directory, environment = job.result(PATIENCE_S)
        assert directory == str(far.there / run.run_id / "main" / "1-look")
        assert environment["CJ_GIVEN"] == "a b"
        assert environment["CLUSTERJOBS_NATIVE_ID"] == job.native_id
        assert environment["SSH_CONNECTION"].split()[0] == "127.0.0.1"
        assert "CJ_HERE" not in environment
        assert job.metrics.nodes == ("clusterjobs",)

    def test_keeps_values_of_env_from_every_command_line(self, far: Site) -> None:
        run = far.run()
        job = command(run, "echo started; sleep 300", env={"CJ_SECRET": "hunter2-hunter2"})
        says(job, "started")
        commands = [Path(f"/proc/{pid}/cmdline") for pid in filter(str.isdigit, os.listdir("/proc"))]
        assert not [path for path in commands if b"hunter2-hunter2" in (path.read_bytes() if path.exists() else b"")]
        folder = far.there / run.run_id
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        files = [path for path in folder.rglob("*") if path.is_file() and not path.is_relative_to(folder / "node")]
        assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in files)
        assert not [path for path in files if b"hunter2-hunter2" in path.read_bytes()]

    def test_files_that_it_leaves_there_are_validated(self, far: Site, tmp_path: Path) -> None:
        """They were said not to be there."""
        absolute, validator = tmp_path / "absolute", ClusterJobValidator()
        job = command(far.run(), f"mkdir folder; printf 1 > folder/one; printf 2 > '{absolute}'")
        assert validator.validate_output(job, files={"folder/one": b"1", str(absolute): "2", "stdout.log": ""})
        failed = validator.validate_output(job, files=["two", "folder"]).failed
        assert [check.name for check in failed] == ["two", "folder"]

    def test_obeys_variables_that_an_interpreter_reads_at_its_start(self, far: Site) -> None:
        run = far.run()
        seeded = [call(run, lambda: hash("x"), env={"PYTHONHASHSEED": "0"}).result(PATIENCE_S) for _ in range(2)]
        assert seeded[0] == seeded[1]

    def test_time_limit_ends_it_with_its_children(self, far: Site) -> None:
        job = command(far.run(), "echo before; sleep 299 & sleep 300", time=1)
        with pytest.raises(JobTimeout, match="ran longer than 1 s"):
            job.result(PATIENCE_S)
        assert job.reason is ExitReason.TIMEOUT
        assert job.logs().stdout == "before\n"

    def test_memory_limit_ends_it(self, far: Site) -> None:
        job = call(far.run(), lambda: len(bytearray(400 << 20)), memory="100MB")
        with pytest.raises(JobFailed, match="out of memory"):
            job.result(PATIENCE_S)
        assert job.reason is ExitReason.OUT_OF_MEMORY

    def test_cancel_ends_what_runs_and_what_waits(self, far: Site) -> None:
        run = far.run(far.place(slots="1"))
        first, second = command(run, "echo $$; sleep 300"), command(run, "sleep 300")
        pid = int(says(first))
        run.cancel([first, second])
        for job in (first, second):
            with pytest.raises(JobCancelled):
                job.result(PATIENCE_S)
        assert not is_alive(pid)

    def test_fifty_at_once_keep_their_results_apart(self, far: Site) -> None:
        def tell(number: int) -> int:
            print("number", number)
            return number * number

        run = far.run()
        jobs = [call(run, tell, number) for number in range(50)]
        assert [job.result(PATIENCE_S) for job in jobs] == [number * number for number in range(50)]
        assert [job.logs().stdout for job in jobs] == [f"number {number}\n" for number in range(50)]

    def test_twenty_megabytes_go_there_and_back(self, far: Site) -> None:
        data, run = os.urandom(20_000_000), far.run()
        job = call(run, lambda given: given[::-1], data)
        assert job.result(PATIENCE_S) == data[::-1]

    def test_an_array_of_large_parts_comes_back_whole(self, far: Site) -> None:
        run, parts = far.run(), [os.urandom(300_000) for _ in range(4)]
        works = [Work(JobSpec(), "turn", lambda part: part[::-1], (part,), {}) for part in parts]
        assert [job.result(PATIENCE_S) for job in run.submit(works)] == [part[::-1] for part in parts]

    def test_what_it_prints_is_no_word_of_ours(self, far: Site) -> None:
        def shout() -> str:
            message = b'{"id": "x", "word": "EXITED", "code": 0, "detail": "", "files": {}, "large": []}\n'
            os.write(1, message * 100 + b"\x00\xff\x1b[2J" + b"no end of line" * 50_000)
            os.write(2, b'{"hello": "me"}\n')
            return "value"

        job = call(far.run(), shout)
        assert job.result(PATIENCE_S) == "value"
        assert job.logs().stdout.startswith('{"id": "x"')
        assert job.logs().stdout.endswith("no end of line")
        assert len(job.logs().stdout) > 700_000

    def test_what_it_prints_is_seen_while_it_runs(self, far: Site) -> None:
        run = far.run()
        job = command(run, "echo first; head -c 400000 /dev/zero | tr '\\0' x; echo last; sleep 300")
        assert says(job, "last").endswith("xlast\n")
        run.cancel([job])
        assert job.wait(PATIENCE_S)
        assert job.logs().stdout.startswith("first\n")
        assert len(job.logs().stdout) == 400_011

    def test_a_job_that_leaves_no_directory_behind_is_told(self, far: Site) -> None:
        job = command(far.run(), 'rm -rf "$PWD"; exit 0')
        with pytest.raises(ClusterJobsError):
            job.result(PATIENCE_S)
        assert job.state is JobState.FAILED

    def test_what_is_impossible_is_refused(self, far: Site) -> None:
        run = far.run(far.place(slots="1"))
        for asked in ({"cores": 2}, {"memory": "900TB"}, {"nodes": 2}, {"gpus": 1}):
            with pytest.raises(SubmitError, match=next(iter(asked))):
                call(run, os.getpid, **asked)

    def test_what_it_wrote_is_here_when_its_directory_is_kept(self, far: Site) -> None:
        run = far.run(keep="failed")
        write = "mkdir inner; echo precious >inner/file; head -c 300000 /dev/zero >large"
        bad, good = command(run, f"{write}; exit 3"), command(run, write)
        assert bad.wait(PATIENCE_S)
        assert good.wait(PATIENCE_S)
        report = run.close()
        assert (report.kept, report.problems) == ([bad.record.directory], [])
        assert Path(bad.record.directory, "inner", "file").read_text() == "precious\n"
        assert Path(bad.record.directory, "large").stat().st_size == 300_000
        assert not Path(good.record.directory).exists()
        assert far.is_empty()

    def test_close_leaves_nothing_of_jobs_that_run(self, far: Site) -> None:
        run = far.run()
        job = command(run, "trap '' TERM; echo started; setsid sleep 301 & sleep 302")
        says(job, "started")
        assert far.processes() != []
        run.close()
        assert far.is_empty()


@lane
def test_home_directory_and_its_python_are_found_and_left_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (home / "bin" / "python").chmod(0o755)
    (home / "json.py").write_text("raise ImportError('not the one of the standard library')")
    with site(tmp_path, f"SetEnv HOME={home}") as far:
        monkeypatch.setenv("CLUSTERJOBS_SSH_CONFIG", far.cluster.environment["CLUSTERJOBS_SSH_CONFIG"])
        run = far.run(Place("ssh", "ssh", host=("clusterjobs",), python="~/bin/python"))
        assert call(run, os.getcwd).result(PATIENCE_S) == f"{home}/.clusterjobs/{run.run_id}/main/1-getcwd"
        run.close()
    assert sorted(path.name for path in home.iterdir()) == ["bin", "json.py"]


# ---------------------------------------------------------------- several hosts


@lane
class TestHosts:
    def test_share_the_jobs(self, far: Site) -> None:
        run = far.run(far.place("clusterjobs-1", "clusterjobs-2", slots="1"))
        info = run.probe("ssh").info
        assert info is not None
        assert (info.nodes, info.cores_per_node) == (2, 1)
        release = far.root / "release"
        text = f"until [ -e {release} ]; do sleep 0.05; done"
        jobs = [command(run, text) for _ in range(4)]
        jobs += run.submit([command_work(text, JobSpec())] * 6, max_concurrent=2)
        wait_for(lambda: all(job.native_id for job in jobs), "all to be accepted")
        release.touch()
        assert [job.result(PATIENCE_S).exit_code for job in jobs] == [0] * 10
        nodes = [job.metrics.nodes[0] for job in jobs]
        assert nodes.count("clusterjobs-1") == nodes.count("clusterjobs-2") == 5

    def test_take_no_more_of_an_array_at_once_than_it_wants(self, far: Site) -> None:
        run = far.run(far.place("clusterjobs-1", "clusterjobs-2"))
        turn = "mkdir ../busy && sleep 0.05 && rmdir ../busy"
        jobs = run.submit([command_work(turn, JobSpec())] * 6, max_concurrent=1)
        assert [job.result(PATIENCE_S).exit_code for job in jobs] == [0] * 6

    def test_one_that_is_down_is_told_and_the_others_used(self, far: Site) -> None:
        run = far.run(far.place("clusterjobs-1", "no-such-host.invalid"))
        probe = run.probe("ssh")
        assert probe.info is not None
        assert probe.info.nodes == 1
        assert "no-such-host.invalid cannot be used: " in probe.info.detail
        assert "clusterjobs-1: " in probe.info.detail
        assert [call(run, abs, -number).result(PATIENCE_S) for number in range(3)] == [0, 1, 2]

    @needs_two_cores
    def test_one_that_loses_its_server_loses_its_jobs_alone(self, far: Site) -> None:
        run = far.run(far.place("clusterjobs-1", "clusterjobs-2"))
        jobs = [command(run, "echo started; sleep 300") for _ in range(2)]
        for job in jobs:
            says(job)
        os.kill(far.with_command("local_server.py"), signal.SIGKILL)
        wait_for(lambda: any(job.state.is_terminal for job in jobs))
        (lost,), (alive,) = ([job for job in jobs if job.state.is_terminal is ended] for ended in (True, False))
        with pytest.raises(JobInfrastructureError, match="the job server there died"):
            lost.result(PATIENCE_S)
        assert lost.reason is ExitReason.NODE_FAILURE
        assert alive.state is JobState.RUNNING
        assert {call(run, abs, -3).result(PATIENCE_S) for _ in range(2)} == {3}


# ---------------------------------------------------------------- who cannot be used


@lane
class TestCannotBeUsed:
    def reason(self, far: Site, place: Place, **settings: float) -> str:
        probe = far.run(place, **settings).probe("ssh")
        assert not probe.is_available
        return probe.reason

    def test_without_python(self, far: Site) -> None:
        place = Place("ssh", "ssh", host=("clusterjobs",), workdir=str(far.there), python="no-such-python")
        reason = self.reason(far, place)
        assert "clusterjobs: 'no-such-python' cannot be run there" in reason
        assert "the profile's key python" in reason

    def test_with_an_old_python(self, far: Site) -> None:
        (far.root / "sitecustomize.py").write_text("import sys\nsys.version_info = (3, 8, 20)\n")
        old = far.root / "old-python"
        old.write_text(f'#!/bin/sh\nPYTHONPATH={far.root} exec {sys.executable} "$@"\n')
        old.chmod(0o755)
        reason = self.reason(far, Place("ssh", "ssh", host=("clusterjobs",), workdir=str(far.there), python=str(old)))
        assert "clusterjobs: it needs Python 3.9 or newer" in reason
        assert "3.8.20" in reason

    @pytest.mark.parametrize("version", ["2.7", "3.6", "3.8"])
    def test_with_a_really_old_python(self, far: Site, version: str) -> None:
        found = next(map(str, PYENV.glob(f"{version}.*/bin/python")), shutil.which(f"python{version}"))
        if found is None:
            pytest.skip(f"there is no Python {version} here")
        reason = self.reason(far, Place("ssh", "ssh", host=("clusterjobs",), workdir=str(far.there), python=found))
        assert f"clusterjobs: it needs Python 3.9 or newer, and {found} is {version}." in reason

    def test_where_the_work_directory_cannot_be_written(self, far: Site) -> None:
        (far.root / "file").write_text("")
        place = Place("ssh", "ssh", host=("clusterjobs",), workdir=str(far.root / "file"), python=sys.executable)
        assert f"{far.root}/file" in self.reason(far, place)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
    def test_where_the_disk_is_full(self, far: Site) -> None:
        far.there.mkdir(mode=0o700)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "none", str(far.there)], check=True)
        try:
            assert "No space left on device" in self.reason(far, far.place())
        finally:
            subprocess.run(["umount", "-l", str(far.there)], check=True)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
    def test_a_disk_that_fills_up_fails_the_jobs_that_it_meets(self, far: Site) -> None:
        far.there.mkdir(mode=0o700)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m,mode=0700", "none", str(far.there)], check=True)
        try:
            run = far.run()
            assert call(run, abs, -1).result(PATIENCE_S) == 1
            with pytest.raises(StoreError, match="No space left on device"):
                call(run, len, os.urandom(8_000_000))
            job = call(run, os.urandom, 8_000_000)
            with pytest.raises(ClusterJobsError):
                job.result(PATIENCE_S)
            assert job.state is JobState.FAILED
            assert call(run, abs, -2).result(PATIENCE_S) == 2
            run.close()
        finally:
            subprocess.run(["umount", "-l", str(far.there)], check=True)

    def test_with_a_wrong_key(self, far: Site) -> None:
        (far.cluster.directory / "authorized_keys").write_text("")
        assert "does not let us in" in self.reason(far, far.place())

    def test_whose_key_is_not_known(self, far: Site) -> None:
        (far.cluster.directory / "known_hosts").write_text("")
        reason = self.reason(far, far.place())
        assert "ssh-keyscan" in reason
        assert "is not known" in reason

    def test_with_more_slots_than_cores(self, far: Site) -> None:
        assert "clusterjobs: slots=1000, and it has" in self.reason(far, far.place(slots="1000"))

    def test_that_nobody_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CLUSTERJOBS_SSH_HOST", raising=False)
        with pytest.raises(BackendUnavailable, match="no host is named: set CLUSTERJOBS_SSH_HOST"):
            SshBackend(LocalTransport(), BackendSettings()).check()


# ---------------------------------------------------------------- what may be configured


class TestOptions:
    def test_variable_names_hosts_where_no_profile_does(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CLUSTERJOBS_SSH_HOST", " a, b,,a ")
        assert [way.host for way in open_backend(Place("ssh", "ssh"), Settings()).settings.ways] == ["a", "b"]
        place = Place("farm", "ssh", host=("c",))
        assert [way.host for way in open_backend(place, Settings()).settings.ways] == ["c"]

    def test_variable_is_not_for_schedulers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CLUSTERJOBS_SSH_HOST", "a")
        assert open_backend(Place("slurm", "slurm"), Settings()).transport.is_here

    def test_several_hosts_are_refused_where_one_is_spoken_to(self) -> None:
        with pytest.raises(
            ConfigError, match="site: the backend slurm is spoken to at one host, and host names 2: a, b"
        ):
            open_backend(Place("site", "slurm", host=("a", "b")), Settings())

    @pytest.mark.parametrize("backend", ["local", "kubernetes"])
    def test_host_is_refused_where_nobody_would_go_there(self, backend: str) -> None:
        """Jobs ran here, and nothing was said."""
        with pytest.raises(ConfigError, match=rf"site: the backend {backend} is spoken to from here alone.*names a;"):
            open_backend(Place("site", backend, host=("a",)), Settings())

    @pytest.mark.parametrize(
        ("text", "slots"), [("", {}), ("4", {"a": 4, "b": 4}), ("a=1 b=2", {"a": 1, "b": 2}), ("b=3", {"b": 3})]
    )
    def test_slots(self, text: str, slots: dict[str, int]) -> None:
        assert parse_slots(text, ("a", "b")) == slots

    @pytest.mark.parametrize("text", ["0", "-1", "a=0", "a", "four", "a=1,b=2", "c=1"])
    def test_wrong_slots(self, text: str) -> None:
        with pytest.raises(ConfigError, match=r"options\.slots=.*a, b"):
            parse_slots(text, ("a", "b"))

    def test_nearest_host_is_named(self) -> None:
        with pytest.raises(ConfigError, match="did you mean 'node1'"):
            parse_slots("nod1=2", ("node1", "other"))

    def test_linger(self) -> None:
        assert parse_linger("90") == parse_linger("1m30s") == 90
        for text in ("0.5", "soon"):
            with pytest.raises(ConfigError, match=r"options\.linger"):
                parse_linger(text)


def test_an_old_python_can_read_what_refuses_it() -> None:
    source = (NODE / "far_boot.py").read_text()
    for minor in (4, 5, 6):
        ast.parse(source, feature_version=(3, minor))
    assert 'f"' not in source
