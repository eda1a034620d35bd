"""The fixtures, on real local jobs."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from pytest_clusterjobs.plugin.fixture_types import ClusterBackend


def run(project: pytest.Pytester, source: str, *args: str, **outcomes: int) -> pytest.RunResult:
    project.makepyfile(test_it="import functools, os, pytest\nfrom pytest_clusterjobs import cluster\n" + source)
    result = project.runpytest_inprocess(*args)
    result.assert_outcomes(**(outcomes or {"passed": 1}))
    return result


def test_commands_give_their_code_and_output(project: pytest.Pytester) -> None:
    run(
        project,
        """
def test_commands(cluster_jobs):
    outcome = cluster_jobs.run("echo out; echo err >&2; exit 3")
    assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (3, "out\\n", "err\\n")
    assert cluster_jobs.run(["printf", "%s|"], "a b", 7).stdout == "a b|7|"
    with pytest.raises(TypeError, match="write a list of words"):
        cluster_jobs.run("echo", "x")
    with pytest.raises(TypeError, match="5 is no job; write a function"):
        cluster_jobs.run(5)
""",
    )


def test_functions_run_with_resources(project: pytest.Pytester) -> None:
    run(
        project,
        """
@cluster(memory="1GB")
def add(x, y=0): return x + y

def test_functions(cluster_jobs):
    assert cluster_jobs.run(add, 3) == 3
    assert cluster_jobs.run(functools.partial(add, y=4), 3) == 7
    assert cluster_jobs.run(lambda: os.environ["COLOUR"], env={"COLOUR": "red"}) == "red"
    assert cluster_jobs.map(add, [1, 2], [10, 20]) == [11, 22]
    assert cluster_jobs.map(add, []) == []
    job = cluster_jobs.submit(add, 1, cores=2)
    assert (job.record.spec.cores, job.record.spec.memory_bytes, job.record.label) == (2, 2**30, "add")
    with pytest.raises(TypeError, match="did you mean 'cores'"):
        cluster_jobs.submit(add, 1, corse=2)
    with pytest.raises(ZeroDivisionError):
        cluster_jobs.run(lambda: 1 / 0)
""",
    )


def test_scripts_run_by_their_own_interpreter_or_by_bash(project: pytest.Pytester) -> None:
    run(
        project,
        """
def test_scripts(cluster_jobs, cluster_workdir):
    plain = cluster_workdir / "plain.sh"
    plain.write_text("echo plain $1")
    assert cluster_jobs.script(plain, "one").result().stdout == "plain one\\n"
    own = cluster_workdir / "own"
    own.write_text("#!/bin/cat\\ntext")
    own.chmod(0o700)
    assert cluster_jobs.script(str(own)).result().stdout == "#!/bin/cat\\ntext"
    with pytest.raises(FileNotFoundError):
        cluster_jobs.script("nowhere.sh")
""",
    )


def test_what_a_limit_ends_is_no_outcome(project: pytest.Pytester) -> None:
    run(
        project,
        """
from pytest_clusterjobs.core.errors import JobTimeout

def test_limit(cluster_jobs):
    with pytest.raises(JobTimeout):
        cluster_jobs.run("sleep 60", timeout=0.2)
""",
    )


def test_what_is_left_running_is_cancelled_at_the_tests_end(project: pytest.Pytester) -> None:
    run(
        project,
        """
LEFT = []

def test_leaves(cluster_jobs):
    LEFT.append(cluster_jobs.submit("sleep 60"))

def test_gone():
    assert LEFT[0].wait(10)
    assert str(LEFT[0].state) == "CANCELLED"
""",
        passed=2,
    )
    assert not (project.path / ".clusterjobs").exists()


def test_the_workdir_is_fresh_shared_and_goes(project: pytest.Pytester) -> None:
    run(
        project,
        """
SEEN = []

@pytest.mark.parametrize("number", [1, 2])
def test_writes(cluster_workdir, cluster_jobs, number):
    assert list(cluster_workdir.iterdir()) == []
    assert oct(cluster_workdir.stat().st_mode & 0o777) == "0o700"
    cluster_jobs.run(f"echo {number} > {cluster_workdir}/file")
    assert (cluster_workdir / "file").read_text() == f"{number}\\n"
    assert cluster_workdir not in SEEN
    SEEN.append(cluster_workdir)

@cluster
def test_travels(cluster_workdir):
    (cluster_workdir / "from_job").write_text("x")
""",
        "--cluster=local",
        passed=3,
    )
    assert not (project.path / ".clusterjobs").exists()


@pytest.mark.parametrize(
    ("policy", "kept"), [("failed", ["test_fails"]), ("always", ["test_fails", "test_passes"]), ("never", [])]
)
def test_the_workdir_is_kept_by_policy_and_listed(project: pytest.Pytester, policy: str, kept: list[str]) -> None:
    source = """
def test_passes(cluster_workdir): (cluster_workdir / "file").write_text("x")
def test_fails(cluster_workdir): assert 0
"""
    result = run(project, source, f"--cluster-keep={policy}", passed=1, failed=1)
    listed = [Path(line.partition("kept: ")[2]) for line in result.stdout.lines if line.startswith("kept: ")]
    assert sorted(path.name.partition("-")[2] for path in listed) == kept
    assert all(path.is_dir() for path in listed)
    assert (project.path / ".clusterjobs").exists() is bool(kept)


def test_the_backend_says_what_it_is(backends: pytest.Pytester) -> None:
    run(
        backends,
        """
from pytest_clusterjobs.backends.base import Capability

def test_backend(cluster_backend):
    assert (cluster_backend.name, cluster_backend.info.gpus) == ("answering", 1)
    assert Capability.ARRAYS in cluster_backend.capabilities
    assert cluster_backend.backend.query("cj-nobody") == {}
    assert repr(cluster_backend) == "<ClusterBackend answering>"

@cluster
def test_on_the_node(cluster_backend):
    assert (cluster_backend.name, cluster_backend.info.nodes) == ("answering", 2)
    with pytest.raises(RuntimeError, match="inside a job"):
        cluster_backend.backend
""",
        "--cluster=answering",
        passed=2,
    )


def test_the_backend_that_travels_leaves_its_session_behind() -> None:
    copy = ClusterBackend(None, "slurm")
    copy._known = (None, frozenset())
    assert pickle.loads(pickle.dumps(copy)).name == "slurm"


def test_fixtures_of_a_wider_scope_may_use_the_backend(backends: pytest.Pytester) -> None:
    run(
        backends,
        """
@pytest.fixture(scope="session")
def prepared(cluster_backend):
    return f"prepared on {cluster_backend.name}"

@pytest.mark.real_world
def test_uses(prepared, cluster_backend):
    assert prepared == f"prepared on {cluster_backend.name}"
""",
        "--cluster=local,answering",
        passed=2,
    )


def test_the_fixtures_are_listed_with_their_meaning(project: pytest.Pytester) -> None:
    text = project.runpytest_inprocess("--fixtures").stdout.str()
    for name in (
        "cluster_backend [session scope]",
        "cluster_jobs",
        "cluster_workdir",
        "cluster_config [session scope]",
    ):
        assert name in text
