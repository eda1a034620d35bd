"""A run in which tests and jobs give secrets away in every way they can: no file that it leaves has one, and no line.

What is looked through: output, logs, reports, scripts, orders, results, notes, the scheduler's own files.
"""

from __future__ import annotations

import html
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_clusterjobs.clusters.base import RunningCluster

TOKEN = "pl4nted'<&>\"tok en\\of nobody"  # noqa: S105 - of nobody
JWT = "eyJhbGciOi" + "".join(f"{number * 7919 % 1000003:06x}" for number in range(100))
KEY = (
    "-----BEGIN PRIVATE KEY-----\n"
    + "\n".join(f"{number * 104729:030x}Q" for number in range(1, 9))
    + "\n-----END-----"
)

TESTS = """
import logging, os, shlex, sys, warnings
import pytest
from pytest_clusterjobs import cluster

pytestmark = pytest.mark.real_world
log = logging.getLogger("of.the.tests")

@pytest.fixture
def secrets(cluster_credentials):
    return {name: cluster_credentials[name] for name in ("TOKEN", "JWT", "KEY")}

def give_away():
    for name in ("TOKEN", "JWT", "KEY"):
        print(name, os.environ[name])
        print(repr(os.environ[name]), file=sys.stderr)

@cluster
def in_a_job(where):
    give_away()
    with open(os.path.join(where, "left.bin"), "wb") as file:
        file.write(b"\\0\\xff" + os.environ["KEY"].encode() + b"\\xff")
    warnings.warn("the job's " + os.environ["TOKEN"])
    return [os.environ[name] for name in ("TOKEN", "JWT", "KEY")]

@cluster
def failing():
    give_away()
    raise ValueError("refused: " + os.environ["TOKEN"] + os.environ["JWT"])

def test_here(secrets, record_property):
    token, jwt, key = (secret.reveal() for secret in secrets.values())
    headers = {"Authorization": "Bearer " + jwt, "X": [token, key]}
    print(token, headers)
    print(jwt + key, file=sys.stderr)
    log.warning("the token is %s", token)
    logging.getLogger("pytest_clusterjobs.child").error("%s", headers)
    warnings.warn("the tests' " + token)
    record_property("token", token)
    try:
        raise OSError(key)
    except OSError:
        log.exception("no key")
    assert [jwt, token, key] == ["a", "b"]

def test_returned(secrets, cluster_workdir):
    (cluster_workdir / "left.txt").write_text("\\n".join(secret.reveal() for secret in secrets.values()))
    os.symlink("/etc/hostname", cluster_workdir / "link")
    values = in_a_job.options(env=secrets)(str(cluster_workdir))
    assert values == [secret.reveal() for secret in secrets.values()]
    assert values == "other"

def test_raised(secrets):
    failing.options(env=secrets)()

def test_ended(secrets, cluster_jobs):
    cluster_jobs.submit("echo $TOKEN; echo \\"$KEY\\" >&2; exit 3", env=secrets).result()

def test_sent(secrets, cluster_jobs):
    token, key = secrets["TOKEN"].reveal(), secrets["KEY"].reveal()
    assert cluster_jobs.run(lambda: token + key) == token + key
    for word in (token, secrets["TOKEN"]):
        with pytest.raises(ValueError, match="the command has a secret in it, which everybody on the node can see"):
            cluster_jobs.run(["printf", "%s"], word)
    with pytest.raises(ValueError, match=r"prologue has a secret in it, which the job's script would show"):
        cluster_jobs.run("true", prologue=["export X=" + shlex.quote(token)])
    cluster_jobs.submit("exit 3", name="named", env={"ALL": token + key}).result()

@cluster
def test_passes():
    print("nothing to hide")
"""


def forms() -> Iterator[str]:
    """Give what must be nowhere: each secret as others write it, and parts of what is long."""
    yield from (TOKEN, json.dumps(TOKEN)[1:-1], repr(TOKEN)[1:-1], html.escape(TOKEN), "pl4nted")
    yield from (JWT[start : start + 12] for start in range(0, len(JWT) - 12, 3))
    yield from (line[-20:] for line in KEY.splitlines()[1:-1])


FORMS = [form.encode() for form in forms()]


def planted_in(*folders: Path) -> list[str]:
    """Give the files in which a form is, read as they are."""
    found = []
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                data = path.read_bytes()
                found += [f"{path}: {form.decode()}" for form in FORMS if form in data][:1]
    return found


@pytest.fixture
def giving_away(
    project: pytest.Pytester, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A project whose tests give three secrets away: from a variable, from 1Password, and by a command."""
    vault = tmp_path_factory.mktemp("vault")
    (vault / "jwt").write_text(JWT)
    (vault / "key").write_text(KEY + "\n")
    op = vault / "op"
    op.write_text(f'#!/bin/sh\n[ "$*" = "read --no-newline op://team/hpc/jwt" ] && exec cat {vault}/jwt\nexit 1\n')
    op.chmod(0o700)
    monkeypatch.setenv("PATH", f"{vault}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(vault))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "summary.md"))
    for name in ("XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):  # where a history of runs would be
        monkeypatch.setenv(name, str(project.path / name.lower()))
    for name in ("LOCAL", "SLURM"):
        monkeypatch.setenv(f"CLUSTERJOBS_{name}_TOKEN", TOKEN)
    (project.path / "clusterjobs.yaml").write_text(
        f"defaults: {{credentials: {{TOKEN: , JWT: op://team/hpc/jwt, KEY: [cat, {vault}/key]}}}}\n"
    )
    project.makepyfile(test_it=TESTS)
    return project.path


OPTIONS = [
    "-rA", "--showlocals", "--cluster-keep=always", "--cluster-report=reports/run.json",
    "--cluster-report=reports/run.md", "--cluster-report=reports/run.html", "--junit-xml=reports/run.xml",
    "--log-file=reports/run.log", "--log-file-level=DEBUG", "-o", "junit_logging=all",
]  # fmt: skip


def check(project: pytest.Pytester, result: pytest.RunResult, *others: Path, shares_files: bool = True) -> None:
    """See that all was given away, and that it is nowhere."""
    result.assert_outcomes(failed=5 if shares_files else 4, passed=1, skipped=not shares_files)
    output = result.stdout.str() + result.stderr.str()
    assert [form.decode() for form in FORMS if form in output.encode()] == []
    assert "the token is ***" in output
    assert "UserWarning: the tests' ***" in output
    assert "refused: ***" in output
    assert planted_in(project.path, *others) == []
    notes = "".join(path.read_text() for path in project.path.rglob("redacted.txt"))
    files = ["stdout.log: ***", "stderr.log: ***", "result.cj: removed", "function-0.pkl: removed"]
    for name in [*files, "left.txt: ***", "left.bin: ***"] if shares_files else files:
        assert name in notes
    report = json.loads((project.path / "reports/run.json").read_text())
    assert "***" in json.dumps(report["tests"])
    for name in ("reports/run.md", "reports/run.html", "reports/run.xml", "reports/run.log", "summary.md"):
        assert "***" in (project.path / name).read_text(), name
    (kept,) = project.path.glob(".clusterjobs/*/*/*test_passes*/stdout.log")
    assert kept.read_text() == "nothing to hide\n"


@pytest.mark.usefixtures("giving_away")
@pytest.mark.parametrize("options", [[], ["-n", "2"], ["--tb=native"], ["-vv", "--tb=short"]], ids=" ".join)
def test_a_run_leaves_no_secret(project: pytest.Pytester, options: list[str]) -> None:
    if "-n" in options:
        pytest.importorskip("xdist")
    check(project, project.runpytest_subprocess("--cluster=local", *OPTIONS, *options))


@pytest.mark.usefixtures("giving_away")
def test_the_search_would_find_them(project: pytest.Pytester) -> None:
    """Without the plugin's redaction everything would be there: files that are looked through are seen to matter."""
    for name, text in {"a": TOKEN, "b": f"x{JWT[30:80]}", "c": json.dumps({"key": KEY})}.items():
        (project.path / name).write_text(text)
    assert len(planted_in(project.path)) == 3


@pytest.mark.cluster_lane("slurm")
@pytest.mark.usefixtures("giving_away")
def test_a_run_on_slurm_leaves_no_secret_at_the_scheduler_either(
    project: pytest.Pytester, slurm_cluster: RunningCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in slurm_cluster.environment.items():
        monkeypatch.setenv(variable, value)
    result = project.runpytest_subprocess("--cluster=slurm", *OPTIONS)
    check(project, result, Path(slurm_cluster.environment["SLURM_CONF"]).parent)


@pytest.mark.cluster_lane("sshd")
@pytest.mark.usefixtures("giving_away", "slurm_over_ssh")
def test_a_run_on_another_machine_leaves_no_secret_there(project: pytest.Pytester, tmp_path: Path) -> None:
    there = tmp_path / "there"
    with (project.path / "clusterjobs.yaml").open("a") as file:
        profile = f"backend: slurm, host: clusterjobs, workdir: {there}, python: {sys.executable}"
        file.write(f"profiles: {{site: {{{profile}}}}}\n")
    result = project.runpytest_subprocess("--cluster=site", *OPTIONS)
    check(project, result, there, shares_files=False)


def test_a_program_without_pytest_leaves_no_secret(
    tmp_path: Path, project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTERJOBS_LOCAL_TOKEN", TOKEN)
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    script = project.makepyfile(
        program="""
        import os
        from pytest_clusterjobs import cluster
        from pytest_clusterjobs.engine.configured import standalone

        def show():
            print(os.environ["TOKEN"])
            raise ValueError(os.environ["TOKEN"])

        if __name__ == "__main__":
            token = standalone().credentials("local")["TOKEN"]
            job = cluster(env={"TOKEN": token}, keep="always")(show).submit()
            job.wait()
            print(token, token.reveal() in job.logs().stdout)
        """
    )
    result = project.run(sys.executable, script)
    assert result.outlines == ["*** True"]
    (left,) = project.path.glob(".clusterjobs/*/main/*/stdout.log")
    assert left.read_text() == "***\n"
    assert planted_in(project.path) == []
