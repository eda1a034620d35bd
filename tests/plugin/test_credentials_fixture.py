"""The fixture `cluster_credentials`, on real local jobs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def nothing_set(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty home, and a keyring without keys."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(project.path / "home"))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")


def run(project: pytest.Pytester, source: str, *args: str, **outcomes: int) -> pytest.RunResult:
    project.makepyfile(test_it="import os, pytest\nfrom pytest_clusterjobs import cluster\n" + source)
    result = project.runpytest_inprocess("-rA", *args)
    result.assert_outcomes(**(outcomes or {"passed": 1}))
    return result


def profiles(project: pytest.Pytester, text: str) -> None:
    (project.path / "clusterjobs.yaml").write_text(text)


def test_a_test_has_it_and_gives_it_to_its_jobs(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTERJOBS_LOCAL_TOKEN", "for-the-job-and-nobody")
    run(
        project,
        """
@cluster
def seen(): return os.environ["TOKEN"], os.environ.get("CLUSTERJOBS_LOCAL_TOKEN")

def test_it(cluster_credentials, cluster_jobs):
    token = cluster_credentials["TOKEN"]
    assert (str(token), cluster_credentials.get("TOKEN"), cluster_credentials.get("OTHER")) == ("***", token, None)
    assert seen.options(env={"TOKEN": token})() == ("for-the-job-and-nobody", None)
    assert cluster_jobs.run("echo $TOKEN", env={"TOKEN": token}).stdout == "for-the-job-and-nobody\\n"
    assert cluster_jobs.run("echo $TOKEN", env={"TOKEN": token.reveal()}).stdout == "for-the-job-and-nobody\\n"
    assert repr(cluster_credentials) == "<ClusterCredentials of local: any>"
    assert "TOKEN" not in os.environ
""",
    )


def test_each_profile_has_its_own(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles(project, "profiles: {near: {backend: local, credentials: {TOKEN: }}, far: {extends: near}}")
    monkeypatch.setenv("CLUSTERJOBS_NEAR_TOKEN", "token-of-near")
    monkeypatch.setenv("CLUSTERJOBS_FAR_TOKEN", "token-of-far")
    run(
        project,
        """
@pytest.mark.real_world
def test_it(cluster_credentials, cluster_backend):
    assert cluster_credentials.keys == ("TOKEN",)
    assert cluster_credentials["TOKEN"].reveal() == "token-of-" + cluster_backend.name
""",
        "--cluster=near,far",
        passed=2,
    )


MISSING = """
@pytest.mark.real_world
def test_it(cluster_credentials):
    cluster_credentials["TOKEN"]
    pytest.fail("not reached")
"""


@pytest.mark.parametrize("options", [["-m", "real_world"], ["--cluster=local", "--cluster-missing=skip"]])
def test_without_it_the_test_is_skipped_and_the_variable_named(project: pytest.Pytester, options: list[str]) -> None:
    result = run(project, MISSING, *options, skipped=1)
    result.stdout.fnmatch_lines(
        ["SKIPPED [[]1[]] test_it.py:4: no credential TOKEN for 'local': set CLUSTERJOBS_LOCAL_TOKEN"]
    )


def test_without_it_on_a_named_backend_it_is_an_error(project: pytest.Pytester) -> None:
    result = run(project, MISSING, "--cluster=local", errors=1)
    result.stdout.fnmatch_lines(
        [
            "*CredentialError: no credential TOKEN for 'local': set CLUSTERJOBS_LOCAL_TOKEN",
            "E *variable CLUSTERJOBS_LOCAL_TOKEN: not set",
            "E *.env: there is no such file",
        ]
    )


@pytest.mark.parametrize(("options", "outcomes"), [([], {"skipped": 1}), (["--cluster=local"], {"errors": 1})])
@pytest.mark.parametrize("call", ["['TOKEN']", ".get('TOKEN')"])
def test_a_source_that_does_not_give_it_is_never_passed_over(
    project: pytest.Pytester, options: list[str], outcomes: dict[str, int], call: str
) -> None:
    profiles(project, f"defaults: {{credentials: {{TOKEN: [{sys.executable}, -c, 'raise SystemExit(\"locked\")']}}}}")
    source = MISSING.replace("['TOKEN']", call).replace('["TOKEN"]', call)
    result = run(project, source, *(options or ["-m", "real_world"]), **outcomes)
    result.stdout.fnmatch_lines(["*no credential TOKEN for 'local' from command *: ended with 1: locked; or set CLUS*"])


def test_a_dotenv_file_that_others_may_read_fails_the_test(project: pytest.Pytester) -> None:
    path = project.path / ".env"
    path.write_text("CLUSTERJOBS_LOCAL_TOKEN=seen-by-everybody")
    path.chmod(0o644)
    result = run(project, MISSING, "-m", "real_world", failed=1)
    result.stdout.fnmatch_lines([f"*ConfigError: {path} holds credentials and others *; chmod 600 {path}"])
    assert "seen-by-everybody" not in result.stdout.str()


def test_a_name_that_the_profile_does_not_declare_fails_the_test(project: pytest.Pytester) -> None:
    profiles(project, "defaults: {credentials: {TOKENS: }}")
    result = run(project, MISSING, "-m", "real_world", failed=1)
    result.stdout.fnmatch_lines(["*'local' has no credential 'TOKEN'; known: TOKENS — did you mean 'TOKENS'?"])


def test_what_is_not_a_variable_does_not_travel(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTERJOBS_LOCAL_TOKEN", "for-the-job-and-nobody")
    result = run(
        project,
        """
from pytest_clusterjobs.core.errors import PayloadError

@cluster
def test_decorated(cluster_credentials): pass

@cluster
def use(token): pass

def test_argument(cluster_credentials):
    with pytest.raises(PayloadError, match="argument 'token' .Secret. cannot be sent .*env={'TOKEN': secret}"):
        use(cluster_credentials["TOKEN"])

def test_closure(cluster_credentials, cluster_jobs):
    token = cluster_credentials["TOKEN"]
    with pytest.raises(PayloadError, match="the variable 'token' that it uses .Secret. cannot be sent"):
        cluster_jobs.run(lambda: token)
""",
        "--cluster=local",
        failed=1,
        passed=2,
    )
    result.stdout.fnmatch_lines(["*fixture 'cluster_credentials' (ClusterCredentials) cannot be sent to the node: *"])


def test_cluster_check_tells_where_they_are(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles(project, "profiles: {near: {backend: local, credentials: {TOKEN: , OTHER: }}}")
    monkeypatch.setenv("CLUSTERJOBS_NEAR_TOKEN", "for-the-job-and-nobody")
    result = project.runpytest("--cluster-check", "--cluster=near")
    result.stdout.fnmatch_lines(
        [
            "near * yes *",
            "near: TOKEN from variable CLUSTERJOBS_NEAR_TOKEN",
            "near: no credential OTHER for 'near': set CLUSTERJOBS_NEAR_OTHER",
        ]
    )
    assert "for-the-job" not in result.stdout.str()


def test_a_report_has_the_redacted_text(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTERJOBS_LOCAL_TOKEN", "for-the-report-of-nobody")
    source = "def test_it(cluster_credentials): pytest.fail('with ' + cluster_credentials['TOKEN'].reveal())"
    run(project, source, "--cluster-report=report.json", failed=1)
    (test,) = json.loads(Path(project.path, "report.json").read_text())["tests"]
    assert test["reason"] == "with ***"
