"""Reports: the cluster's trouble is an error of its own, and a failure says of each job what one needs to act."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

import pytest

TROUBLE = """
import pytest
from pytest_clusterjobs.core.errors import BackendUnavailable, JobLost

@pytest.mark.real_world
def test_lost(): raise JobLost("cj-1 is lost", "asked: everybody")

@pytest.mark.xfail(reason="a bug of ours")
@pytest.mark.real_world
def test_not_the_expected_failure(): raise JobLost("cj-2 is lost")

@pytest.mark.xfail(raises=JobLost, reason="this very error")
@pytest.mark.real_world
def test_the_expected_error(): raise JobLost("cj-3 is lost")

@pytest.fixture
def broken(): raise BackendUnavailable("no controller", "slurm")

def test_in_setup(broken): pass

@pytest.fixture
def breaks_later():
    yield
    raise BackendUnavailable("no controller", "slurm")

def test_in_teardown(breaks_later): pass

def test_plain(): assert 0
"""


def report(project: pytest.Pytester, *args: str) -> Mapping[str, Any]:
    path = project.path.parent / f"{project.path.name}.json"
    project.runpytest_inprocess("--cluster=local", f"--cluster-report={path}", *args)
    loaded: Mapping[str, Any] = json.loads(path.read_text())
    return loaded


def test_trouble_in_any_phase_is_an_error_and_never_a_pass(project: pytest.Pytester) -> None:
    project.makepyfile(test_trouble=TROUBLE)
    result = project.runpytest_inprocess("--cluster=local")
    result.assert_outcomes(errors=4, passed=1, xfailed=1, failed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "test_trouble.py EExE.EF *",
            "*ERROR at call of test_lost*",
            "E   *JobLost: cj-1 is lost",
            "*ERROR at call of test_not_the_expected_failure*",
            "*ERROR at setup of test_in_setup*",
            "*ERROR at teardown of test_in_teardown*",
            "ERROR test_trouble.py::test_lost - JobLost: cj-1 is lost",
        ]
    )


def test_trouble_is_an_error_in_junit_xml(project: pytest.Pytester) -> None:
    project.makepyfile(test_trouble=TROUBLE)
    project.runpytest_inprocess("--cluster=local", "--junit-xml=out.xml")
    suite = ET.parse(project.path / "out.xml").getroot()[0]  # noqa: S314 - written by the line above
    kinds = {case.attrib["name"]: [child.tag for child in case] for case in suite}
    assert kinds["test_lost"] == ["error"]
    assert kinds["test_not_the_expected_failure"] == ["error"]
    assert kinds["test_plain"] == ["failure"]
    assert (suite.attrib["errors"], suite.attrib["failures"]) == ("4", "1")


def test_last_failed_and_exitfirst_know_trouble(project: pytest.Pytester) -> None:
    project.makepyfile(test_trouble=TROUBLE)
    result = project.runpytest_inprocess("--cluster=local", "-x")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*stopping after 1 failures*"])
    project.runpytest_inprocess("--cluster=local", "--lf").assert_outcomes(errors=1)


def test_the_report_agrees_with_pytest(project: pytest.Pytester) -> None:
    project.makepyfile(test_trouble=TROUBLE, test_broken="import nowhere")
    loaded = report(project, "--continue-on-collection-errors")
    assert loaded["counts"] == {"passed": 1, "skipped": 0, "xfailed": 1, "xpassed": 0, "failed": 1, "error": 5}
    found = {test["nodeid"].partition("::")[2]: (test["outcome"], test["infrastructure"]) for test in loaded["tests"]}
    assert found == {
        "": ("error", False),
        "test_lost": ("error", True),
        "test_not_the_expected_failure": ("error", True),
        "test_the_expected_error": ("xfailed", False),
        "test_in_setup": ("error", True),
        "test_in_teardown": ("error", True),
        "test_plain": ("failed", False),
    }


def test_a_failure_tells_of_its_job(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        from pytest_clusterjobs import cluster

        @cluster(cores=1, memory="1GB", time="00:05:00")
        def broken(x):
            print("\\n".join(f"line {number}" for number in range(30)))
            raise ValueError(x)

        def test_broken():
            broken(3)
        """
    )
    result = project.runpytest_inprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            ">       broken(3)",
            ">       raise ValueError(x)",
            "E       ValueError: 3",
            "*- cluster job cj-*-1-broken -*",
            "backend:    local, job 1, native id *",
            "state:      FAILED, exception (ValueError), exit code 1*",
            "requested:  1 core(s), 1 GiB, 5 m 00 s",
            "node:       *",
            "times:      queued * s, ran * s, submitted 20*",
            "submitted:  *",
            "directory:  */.clusterjobs/*/1-broken (kept)",
            "stderr:",
            "  ValueError: 3",
            "stdout, the last 20 of 30 lines:",
            "  line 10",
            "  line 29",
        ]
    )
    assert "line 9\n" not in result.stdout.str().partition("the last 20")[2]


def test_a_jobs_own_error_is_told_once(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import os
        from pytest_clusterjobs import cluster

        @cluster
        def dies(): os._exit(3)

        def test_dies():
            dies()
        """
    )
    result = project.runpytest_inprocess()
    result.stdout.fnmatch_lines(
        [">       dies()", "E       *JobFailed: cj-*-dies exited with code 3", "*- cluster job cj-*"]
    )
    assert result.stdout.str().count("native id") == 1


def test_jobs_are_told_whatever_is_shown_of_the_output(project: pytest.Pytester) -> None:
    project.makepyfile("from pytest_clusterjobs import cluster\n@cluster\ndef test_x(): assert 0\n")
    result = project.runpytest_inprocess("--cluster=local", "--show-capture=no", "--junit-xml=out.xml")
    result.stdout.fnmatch_lines(["*- cluster job cj-*-1-test_x -*"])
    assert "native id" in (project.path / "out.xml").read_text()


def test_a_job_is_told_by_the_first_failing_phase_alone(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest
        from pytest_clusterjobs import cluster

        @pytest.fixture
        def breaks_later():
            yield
            cluster(len)("abc")
            raise RuntimeError

        @pytest.mark.usefixtures("breaks_later")
        @cluster
        def test_x(): assert 0
        """
    )
    text = project.runpytest_inprocess("--cluster=local").stdout.str()
    assert (text.count("-1-test_x ---"), text.count("-2-len ---")) == (1, 1)


def test_a_directory_that_goes_says_how_to_keep_it(project: pytest.Pytester) -> None:
    project.makepyfile("from pytest_clusterjobs import cluster\n@cluster\ndef test_x(): assert 0\n")
    result = project.runpytest_inprocess("--cluster=local", "--cluster-keep=never")
    result.stdout.fnmatch_lines(["directory: * (removed at the end of the run; keep it with --cluster-keep=failed)"])
    result.stdout.no_fnmatch_line("kept:*")
    assert not (project.path / ".clusterjobs").exists()


def test_of_many_jobs_a_few_are_told(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        from pytest_clusterjobs import cluster

        @cluster
        def inverse(x): return 1 / x

        def test_many():
            jobs = inverse.map_submit([1, 2, 0, 4, 5, 6, 7])
            jobs.wait()
            jobs.results()
        """
    )
    text = project.runpytest_inprocess().stdout.str()
    assert text.count("- cluster job cj-") == 5
    assert text.index("state:      FAILED") < text.index("state:      COMPLETED")
    assert "2 more cluster jobs" in text
    assert "2 COMPLETED" in text


def test_the_summary_says_what_ran_where(backends: pytest.Pytester) -> None:
    backends.makepyfile(
        """
        import pytest
        from pytest_clusterjobs import cluster

        @cluster
        def test_passes(): pass

        @cluster
        def test_fails(): assert 0

        @cluster
        def test_skips(): pytest.skip("no data")

        @pytest.mark.cluster("silent")
        def test_pinned(): pass
        """
    )
    result = backends.runpytest_inprocess("--cluster=local,answering")
    result.stdout.fnmatch_lines(
        [
            "*= cluster jobs =*",
            "local: 3 ran, 1 failed, 1 skipped; 3 jobs, queued * s, ran * s",
            "  skipped 1: no data",
            "answering: 3 ran, 1 failed, 1 skipped; 3 jobs, queued * s, ran * s",
            "skipped 1: pinned to silent; try --cluster=silent",
            "kept: */.clusterjobs/*test_fails",
            "kept: */.clusterjobs/*test_fails",
        ]
    )


def test_a_suite_without_cluster_tests_is_left_alone(project: pytest.Pytester) -> None:
    project.makepyfile("import pytest\ndef test_x(): pass\n@pytest.mark.skip\ndef test_y(): pass")
    for args in ([], ["--cluster=local"]):
        project.runpytest_inprocess(*args).stdout.no_fnmatch_line("*cluster jobs*")


def test_the_report_has_the_jobs_under_their_tests(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest
        from pytest_clusterjobs import cluster

        @cluster
        def double(x): return 2 * x

        @pytest.fixture(scope="session")
        def early(): return double(1)

        def test_first(early): assert double(3) == 6

        @cluster
        def test_body(): assert 0
        """
    )
    loaded = report(project)
    assert loaded["exit_status"] == 1
    assert [backend["name"] for backend in loaded["backends"]] == ["local"]
    jobs = {test["nodeid"].partition("::")[2]: [job["label"] for job in test["jobs"]] for test in loaded["tests"]}
    assert jobs == {"test_first": ["double", "double"], "test_body": ["test_body"]}
    [job] = loaded["tests"][1]["jobs"]
    assert (job["state"], job["reason"], job["backend"]) == ("FAILED", "exception", "local")
    assert loaded["kept"] == [job["directory"]]


def test_a_report_written_over_and_over_is_whole(project: pytest.Pytester) -> None:
    project.makepyfile("def test_x(): pass")
    first, second = report(project), report(project)
    assert (first["counts"], first["exit_status"]) == (second["counts"], 0)
    assert first["run_id"] != second["run_id"]


def test_the_report_needs_no_terminal(project: pytest.Pytester) -> None:
    project.makepyfile("def test_x(): pass\ndef test_y(): assert 0\ndef test_z(nothing): pass")
    counts = report(project, "-p", "no:terminal")["counts"]
    assert (counts["passed"], counts["failed"], counts["error"]) == (1, 1, 1)


def test_looking_writes_no_report(project: pytest.Pytester) -> None:
    project.makepyfile("def test_x(): pass")
    project.runpytest_inprocess("--collect-only", "--cluster-report=out.json")
    assert not (project.path / "out.json").exists()
