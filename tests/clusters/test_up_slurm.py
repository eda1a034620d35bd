"""Throw-away Slurm clusters, booted for real; whatever a test leaves running fails it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.clusters import base, places, ports, processes, slurm
from pytest_clusterjobs.clusters.base import ClusterBootError, RunningCluster
from pytest_clusterjobs.clusters.slurm import SlurmClusterOptions
from pytest_clusterjobs.clusters.slurm_conf import Partition, Site, cgroup_conf, slurm_conf
from pytest_clusterjobs.clusters.slurm_programs import find_programs, search_path
from pytest_clusterjobs.core.errors import ConfigError
from tests import watching


def installed(*programs: str) -> bool:
    return all(shutil.which(program, path=search_path()) for program in programs)


needs_slurm = pytest.mark.skipif(
    not installed("slurmctld", "slurmd", "sinfo", "munged"), reason="Slurm or munge is not installed"
)
lane = pytest.mark.cluster_lane("slurm")

# What the daemons and the jobs of a cluster do to be ready, done or gone, on a loaded machine.
WITHIN_S = 20.0
wait_until = partial(watching.wait_for, within_s=WITHIN_S)


def traces_of(directory: Path) -> list[str]:
    """Command lines of live processes that mention a directory in their arguments, environment or open files."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            command = (entry / "cmdline").read_bytes()
            text = command + (entry / "environ").read_bytes()
            links = [os.readlink(link) for link in [entry / "cwd", *(entry / "fd").iterdir()]]
        except OSError:
            continue
        if state not in "ZX" and (str(directory).encode() in text or any(str(directory) in link for link in links)):
            found.append(f"{entry.name} {command.decode(errors='replace')}")
    return found


def run(cluster: RunningCluster, *argv: str, **more: str) -> str:
    done = subprocess.run(
        argv,
        env={**os.environ, **cluster.environment, **more},
        cwd=cluster.directory.parent,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return done.stdout.strip()


def job_state(cluster: RunningCluster, native_id: str) -> str:
    fields = run(cluster, "scontrol", "show", "job", native_id).split()
    return next(field.partition("=")[2] for field in fields if field.startswith("JobState="))


@pytest.fixture
def clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory of clusters; what is up at the end is taken down and must then be gone."""
    home = tmp_path / "clusters"
    monkeypatch.setenv("CLUSTERJOBS_CLUSTERS_DIR", str(home))
    for key in ("SLURM_CONF", "SLURM_CLUSTER_NAME", "SLURMD_NODENAME"):
        monkeypatch.delenv(key, raising=False)
    yield home
    directories = [place.directory for place in places.every("slurm")]
    for name in base.names("slurm"):
        base.down("slurm", name)
    for directory in directories:
        assert not directory.exists()
        assert traces_of(directory) == []
    assert not home.exists() or list(home.iterdir()) == []


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What boots keep for later boots; ours, so that a test never depends on the user's."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


@needs_slurm
@lane
class TestUpAndDown:
    def test_every_node_runs_a_job_and_down_leaves_nothing(self, clusters: Path) -> None:
        cluster = base.up("slurm", nodes=3)
        assert (cluster.name, cluster.kind) == ("default", "slurm")
        assert cluster.directory.stat().st_mode & 0o777 == 0o700
        nodes = run(cluster, "srun", "-N3", "printenv", "SLURMD_NODENAME").split()
        assert sorted(nodes) == ["n1", "n2", "n3"]
        assert [each.name for each in base.running()] == ["default"]
        assert base.down("slurm") is True
        assert not cluster.directory.exists()
        assert traces_of(cluster.directory) == []
        assert base.running() == []

    def test_down_of_nothing_says_so(self, clusters: Path) -> None:
        assert base.down("slurm", "never-was") is False

    def test_a_second_up_gives_the_same_cluster(self, clusters: Path) -> None:
        first = base.up("slurm", nodes=1, conf_lines=("MinJobAge=30",))
        daemons = processes.recorded(first.directory)
        assert base.up("slurm") == first
        assert base.up("slurm", conf_lines=("MinJobAge=30",)) == first
        assert processes.recorded(first.directory) == daemons

    def test_a_second_up_that_asks_for_something_else_is_an_error(self, clusters: Path) -> None:
        base.up("slurm", nodes=1)
        with pytest.raises(ConfigError, match=r"'default' is up with nodes=1, not 2.*clusterjobs down slurm"):
            base.up("slurm", nodes=2)

    def test_clusters_started_at_once_do_not_meet(self, clusters: Path) -> None:
        booted: list[RunningCluster] = []
        threads = [
            threading.Thread(target=lambda name=name: booted.append(base.up("slurm", name=name, nodes=1)))
            for name in ("one", "two", "three", "one")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WITHIN_S)
        assert sorted(cluster.name for cluster in booted) == ["one", "one", "three", "two"]
        named = {cluster.name: cluster for cluster in booted}
        controllers = {run(cluster, "scontrol", "show", "config").split("SlurmctldPort")[1][:20] for cluster in booted}
        assert len(controllers) == 3
        run(named["one"], "sbatch", "--hold", "--wrap", "true")
        assert run(named["two"], "squeue", "-h") == ""
        base.down("slurm", "one")
        assert run(named["two"], "srun", "echo", "still here") == "still here"

    def test_partitions_and_conf_lines_reach_the_controller(self, clusters: Path) -> None:
        cluster = base.up(
            "slurm",
            nodes=1,
            cpus=2,
            memory_bytes=512 * 2**20,
            partitions=("short:00:02:00", "scavenge:INFINITE:1", "main:60"),
            conf_lines=("MinJobAge=7", "SchedulerType=sched/builtin"),
        )
        shown = run(cluster, "sinfo", "-h", "-o", "%P %l %c %m").splitlines()
        assert sorted(shown) == ["main* 1:00:00 2 512", "scavenge infinite 2 512", "short 2:00 2 512"]
        assert "PriorityTier=1 " in run(cluster, "scontrol", "show", "partition", "scavenge")
        config = " ".join(run(cluster, "scontrol", "show", "config").split())
        assert "MinJobAge = 7 sec" in config
        assert "SchedulerType = sched/builtin" in config

    def test_a_directory_of_the_users_choice(self, clusters: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="at most 70 bytes"):
            base.up("slurm", directory=tmp_path / ("x" * 80))
        chosen = Path(f"/tmp/cj-test-{os.getpid()}")
        chosen.mkdir(mode=0o700)
        (chosen / "mine").touch()
        try:
            with pytest.raises(ConfigError, match="not empty"):
                base.up("slurm", directory=chosen)
            (chosen / "mine").unlink()
            cluster = base.up("slurm", nodes=1, directory=chosen)
            assert cluster.directory == chosen.resolve()
            assert base.up("slurm") == cluster
            assert base.down("slurm") is True
            assert not chosen.exists()
        finally:
            shutil.rmtree(chosen, ignore_errors=True)

    def test_without_munge(self, clusters: Path) -> None:
        cluster = base.up("slurm", nodes=1, auth="none")
        assert run(cluster, "srun", "echo", "hello") == "hello"
        assert "munged" not in processes.recorded(cluster.directory)


@needs_slurm
@lane
class TestTrouble:
    def test_a_boot_that_fails_shows_the_log_and_leaves_nothing(self, clusters: Path) -> None:
        with pytest.raises(ClusterBootError, match=r"slurmctld ended (before it gave port|as soon as)") as caught:
            base.up("slurm", conf_lines=("SelectType=select/nonsense",))
        assert "| slurmctld: fatal: " in str(caught.value)
        assert base.names("slurm") == []
        assert list(clusters.iterdir()) == []

    def test_a_boot_that_takes_too_long_is_given_up(self, clusters: Path) -> None:
        with pytest.raises(ClusterBootError, match=r"within the 0\.001 s of the boot"):
            base.up("slurm", boot_timeout_s=0.001)
        assert base.names("slurm") == []

    @pytest.mark.parametrize("daemon", ["slurmctld", "munged", "n1"])
    def test_a_cluster_with_a_dead_daemon_is_replaced(self, clusters: Path, daemon: str) -> None:
        cluster = base.up("slurm", nodes=1)
        before = processes.recorded(cluster.directory)
        victim = before[daemon]
        assert victim is not None
        os.kill(victim.pid, 9)
        wait_until(lambda: processes.read(victim.pid) is None, f"{daemon} gone")
        assert base.up("slurm", nodes=1) == cluster
        assert run(cluster, "srun", "echo", "hello") == "hello"
        assert not set(before.values()) & set(processes.recorded(cluster.directory).values())

    def test_pids_of_other_processes_in_a_stale_record_are_spared(self, clusters: Path) -> None:
        cluster = base.up("slurm", nodes=2)
        saved = clusters / "saved"
        shutil.copytree(cluster.directory, saved, ignore=shutil.ignore_patterns("*.sock*", "*.batch", "n*_*"))
        base.down("slurm")
        directory = places.find("slurm", "default") or places.create("slurm", "default", None)
        shutil.copytree(saved, directory.directory, dirs_exist_ok=True)
        shutil.rmtree(saved)
        with subprocess.Popen(["sleep", "60"]) as bystander:
            here = processes.read(bystander.pid)
            assert here is not None
            run_dir = directory.directory / "run"
            another_boot = "00000000-0000-0000-0000-000000000000"
            (run_dir / "slurmctld.process").write_text(f"{here.pid} {here.started} {another_boot}\n")
            (run_dir / "n1.process").write_text(f"{here.pid} {here.started - 1} {processes.boot_id()}\n")
            (run_dir / "n2.process").write_text(f"{here.pid}")
            assert base.running() == []
            assert base.up("slurm", nodes=1).directory == cluster.directory
            base.down("slurm")
            assert bystander.poll() is None
            bystander.kill()

    def test_a_cluster_of_another_machine_is_not_touched(self, clusters: Path) -> None:
        cluster = base.up("slurm", nodes=1)
        place = places.find("slurm", "default")
        assert place is not None
        record = place.read()
        assert record is not None
        place.write(replace(record, host="elsewhere"))
        for act in (lambda: base.up("slurm"), lambda: base.down("slurm")):
            with pytest.raises(ClusterBootError, match="started on 'elsewhere'"):
                act()
        assert run(cluster, "srun", "echo", "hello") == "hello"
        place.write(record)

    def test_jobs_and_what_escaped_them_end_but_a_shell_that_uses_the_cluster_does_not(
        self, clusters: Path, tmp_path: Path
    ) -> None:
        cluster = base.up("slurm", nodes=1)
        pids = tmp_path / "pids"
        # The second one leaves the job's session and has no parent in it any more.
        script = f"sleep 600 & echo $! >>{pids}; setsid sh -c 'sleep 601 & echo $! >>{pids}'; sleep 602"
        run(cluster, "sbatch", "--export=ALL", "-o", "/dev/null", "--wrap", script)
        wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, "the job's processes")
        users_shell = {**os.environ, **cluster.environment}
        at_a_site = {**users_shell, "SLURMD_NODENAME": "n1", "SLURM_CLUSTER_NAME": "the-sites"}
        with (
            subprocess.Popen(["sleep", "60"], env=users_shell) as shell,
            subprocess.Popen(["sleep", "60"], env=at_a_site) as shell_in_a_job_of_the_site,
        ):
            base.down("slurm")
            assert [processes.read(int(pid)) for pid in pids.read_text().split()] == [None, None]
            for bystander in (shell, shell_in_a_job_of_the_site):
                assert bystander.poll() is None
                bystander.kill()

    def test_down_inside_a_job_of_the_cluster_is_an_error(self, clusters: Path, tmp_path: Path) -> None:
        cluster = base.up("slurm", nodes=1)
        code = "from pytest_clusterjobs.clusters import base; base.down('slurm')"
        root = str(Path(base.__file__).parents[2])
        done = subprocess.run(
            ["srun", sys.executable, "-c", code],
            env={**os.environ, **cluster.environment, "PYTHONPATH": root},
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )
        assert "in a job of the very cluster" in done.stderr
        assert run(cluster, "srun", "echo", "hello") == "hello"


@needs_slurm
@lane
class TestExtras:
    @pytest.mark.skipif(not installed("slurmdbd", "mariadbd"), reason="slurmdbd or mariadb-server is not installed")
    def test_accounting_records_jobs_under_our_account(self, clusters: Path) -> None:
        cluster = base.up("slurm", nodes=1, accounting=True, tick_ms=50 if installed("cc") else None)
        run(cluster, "sbatch", "-A", "test", "-o", "/dev/null", "--wrap", "exit 3")
        sacct = ("sacct", "-n", "-X", "-P", "-o", "jobid,state,exitcode,account")
        wait_until(lambda: run(cluster, *sacct) == "1|FAILED|3:0|test", "the job in sacct")
        # No network port of the database, whose tables have no passwords.
        assert "skip-networking" in " ".join(traces_of(cluster.directory))

    @pytest.mark.skipif(not installed("cc"), reason="no C compiler")
    def test_tick_is_loaded_into_the_controller_alone(
        self, clusters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a cache"))  # the loader splits LD_PRELOAD at blanks
        cluster = base.up("slurm", nodes=1, tick_ms=20)
        daemons = processes.recorded(cluster.directory)
        loaded = {
            name
            for name, process in daemons.items()
            if process is not None and "slurm-tick" in Path(f"/proc/{process.pid}/maps").read_text()
        }
        assert loaded == {"slurmctld"}
        run(cluster, "sbatch", "-o", "/dev/null", "--wrap", "true")
        wait_until(lambda: job_state(cluster, "1") == "COMPLETED", "the job")

    @pytest.mark.skipif(os.geteuid() == 0, reason="as root there is nothing to refuse")
    def test_cgroup_as_an_ordinary_user_is_an_error(self, clusters: Path) -> None:
        with pytest.raises(ClusterBootError, match="need root"):
            base.up("slurm", cgroup=True)

    @pytest.mark.skipif(
        os.geteuid() != 0 or not os.access("/sys/fs/cgroup/memory/memory.limit_in_bytes", os.F_OK),
        reason="needs root and a cgroup v1 memory controller",
    )
    def test_cgroup_ends_a_greedy_job_as_out_of_memory(self, clusters: Path) -> None:
        cluster = base.up("slurm", nodes=1, cgroup=True)
        with pytest.raises(ClusterBootError, match="'default' uses cgroups, and only one can"):
            base.up("slurm", name="second", cgroup=True)
        greedy = f"{sys.executable} -c 'bytearray(400 << 20)'"
        run(cluster, "sbatch", "--mem=64", "-o", "/dev/null", "--wrap", greedy)
        wait_until(lambda: job_state(cluster, "1") == "OUT_OF_MEMORY", "the job's end")
        base.down("slurm")
        assert list(Path("/sys/fs/cgroup").glob("*/slurm_n1")) == []


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"nodes": 0}, "nodes=0 must be a whole number from 1 to 98"),
            ({"nodes": 99}, "nodes=99"),
            ({"cpus": True}, "cpus=True"),
            ({"memory_bytes": 4}, "memory"),
            ({"tick_ms": 0}, "tick-ms=0"),
            ({"auth": "kerberos"}, "auth='kerberos'"),
            ({"boot_timeout_s": 0}, "boot_timeout_s=0"),
            ({"partitions": ("a b",)}, "partition 'a b' cannot be read"),
            ({"partitions": ("a:soon",)}, "partition 'a:soon' cannot be read"),
            ({"partitions": ("a", "a:5")}, "'a' is given twice"),
            ({"partitions": ("default",)}, "partition 'default'"),
            ({"conf_lines": ("A=b\nC=d",)}, "no line of slurm.conf"),
            ({"conf_lines": ("A=b\n",)}, "no line of slurm.conf"),
            ({"conf_lines": ("A=b\\",)}, "no line of slurm.conf"),
            ({"conf_lines": ("nonsense",)}, "no line of slurm.conf"),
            ({"nods": 3}, "no option 'nods' — did you mean 'nodes'"),
            ({"name": "../etc"}, "no cluster name"),
        ],
    )
    def test_an_impossible_value_is_refused_before_anything_starts(
        self, clusters: Path, options: Mapping[str, Any], message: str
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            base.up("slurm", **options)
        assert message in str(caught.value)
        assert not clusters.exists()

    def test_an_unknown_kind_names_the_nearest(self) -> None:
        with pytest.raises(ConfigError, match=r"known: slurm.*did you mean 'slurm'"):
            base.up("slrum")

    @pytest.mark.parametrize(
        ("text", "partition"),
        [
            ("short", Partition("short", "INFINITE", 10)),
            ("short:5", Partition("short", "5", 10)),
            ("short:1:5", Partition("short", "1", 5)),
            ("short:00:01:00", Partition("short", "00:01:00", 10)),
            ("short:00:01:00:3", Partition("short", "00:01:00", 3)),
            ("long:7-00:00:00", Partition("long", "7-00:00:00", 10)),
            ("scavenge:INFINITE:1", Partition("scavenge", "INFINITE", 1)),
        ],
    )
    def test_partition_forms(self, text: str, partition: Partition) -> None:
        assert Partition.parse(text) == partition

    def test_missing_programs_are_named_with_the_packages(self, tmp_path: Path) -> None:
        with pytest.raises(ClusterBootError) as caught:
            find_programs(accounting=True, auth="munge", path=str(tmp_path))
        message = str(caught.value)
        assert "slurmctld, slurmd, sinfo, scontrol, munged, slurmdbd" in message
        assert (
            "apt-get install slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge slurmdbd mariadb-server"
            in message
        )


class TestConfiguration:
    SITE = Site(Path("/d"), "cj_x", 20000, "me", "host", (22, 5), "munge")

    def text(self, **options: Any) -> str:
        given = SlurmClusterOptions(**options)
        return slurm_conf(
            self.SITE,
            nodes=given.nodes,
            cpus=given.cpus,
            memory_bytes=given.memory_bytes,
            partitions=given.all_partitions(),
            accounting=given.accounting,
            cgroup=given.cgroup,
            conf_lines=given.conf_lines,
        )

    def test_a_conf_line_takes_the_place_of_ours(self) -> None:
        lines = self.text(conf_lines=("minjobage = 3",)).splitlines()
        assert [line for line in lines if line.lower().startswith("minjobage")] == ["minjobage = 3"]

    def test_main_is_the_only_default(self) -> None:
        lines = [line for line in self.text(partitions=("a", "main:5")).splitlines() if line.startswith("Partition")]
        assert [line.split()[0::2][:2] for line in lines] == [
            ["PartitionName=main", "Default=YES"],
            ["PartitionName=a", "Default=NO"],
        ]

    def test_unkillable_step_timeout_is_five_times_the_message_timeout(self) -> None:
        values = dict(line.split("=", 1) for line in self.text().splitlines() if "=" in line)
        assert int(values["UnkillableStepTimeout"]) >= 5 * int(values["MessageTimeout"])

    def test_versions_differ_in_cgroup_conf(self) -> None:
        new = replace(self.SITE, version=(24, 11))
        assert cgroup_conf(self.SITE, cgroup=False) is None
        assert cgroup_conf(new, cgroup=False) == "CgroupPlugin=disabled\n"
        assert "CgroupAutomount" in (cgroup_conf(self.SITE, cgroup=True) or "")
        assert "CgroupAutomount" not in (cgroup_conf(new, cgroup=True) or "")


class TestPlaces:
    def test_a_long_or_odd_directory_gets_a_short_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        home = tmp_path / "with blanks"
        monkeypatch.setenv("CLUSTERJOBS_CLUSTERS_DIR", str(home))
        place = places.create("slurm", "x", None)
        assert place.entry == home / "slurm-x"
        assert " " not in str(place.directory)
        assert place.directory.stat().st_mode & 0o777 == 0o700
        assert places.find("slurm", "x") == place
        place.entry.unlink()
        assert places.find("slurm", "x") == place, "without the link it must still be found, or its daemons stay"
        place.remove()
        assert not place.directory.exists()
        assert places.find("slurm", "x") is None

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    def test_the_record_of_somebody_else_is_not_believed(self, clusters: Path) -> None:
        place = places.create("slurm", "x", None)
        try:
            os.chown(place.directory, 1, 1)
            with pytest.raises(ClusterBootError, match="only we can write to"):
                places.find("slurm", "x")
        finally:
            os.chown(place.directory, 0, 0)
            place.remove()

    def test_the_directory_of_a_user_without_our_record_is_not_removed(self, tmp_path: Path, clusters: Path) -> None:
        theirs = Path(f"/tmp/cj-theirs-{os.getpid()}")
        place = places.create("slurm", "x", theirs)
        (theirs / "thesis").touch()
        try:
            with pytest.raises(ClusterBootError, match="cannot remove"):
                place.remove()
            assert (theirs / "thesis").exists()
        finally:
            shutil.rmtree(theirs)
            place.remove()

    def test_a_directory_others_can_write_to_is_refused(self, clusters: Path) -> None:
        shared = Path(f"/tmp/cj-shared-{os.getpid()}")
        shared.mkdir()
        shared.chmod(0o777)
        try:
            with pytest.raises(ClusterBootError, match="only we can write to"):
                slurm.up(SlurmClusterOptions(directory=shared))
            assert base.names("slurm") == []
        finally:
            shared.rmdir()


class TestPorts:
    def test_two_callers_get_different_blocks(self) -> None:
        with ports.block(5, "seed", ()) as first, ports.block(5, "seed", ()) as second:
            assert first != second

    def test_blocks_in_use_or_given_away_are_passed_over(self) -> None:
        with ports.block(5, "seed", ()) as usual:
            pass
        with ports.block(5, "seed", {usual}) as other:
            assert other != usual
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", usual + 4))
            listener.listen()
            assert ports.listens(usual + 4)
            with ports.block(5, "seed", ()) as other:
                assert other != usual

    def test_a_name_is_held_by_one_at_a_time(self) -> None:
        name = f"clusterjobs/test/{os.getpid()}"
        with ports.turn(name, within_s=1):
            assert ports.claim(name) is None
            with pytest.raises(ClusterBootError, match="another process"), ports.turn(name, within_s=0):
                pass
        with ports.turn(name, within_s=1):
            pass
