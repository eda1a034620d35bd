"""Figures of performance: a test whose figure is out of bounds fails and says so; the file is read and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

OWN = """
import pytest
@pytest.mark.cluster_performance({references}, metric="bandwidth")
def test_own(cluster_performance):
    cluster_performance.record("bandwidth", 8.0, "GB/s")
"""


def own(references: str) -> str:
    return OWN.replace("{references}", references)


def figures(project: pytest.Pytester) -> dict[str, list[dict[str, Any]]]:
    loaded = json.loads((project.path / "out.json").read_text())
    return {test["nodeid"].partition("::")[2]: test["figures"] for test in loaded["tests"]}


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ('(10, -0.1, None, "GB/s")', "allowed: at least 9 GB/s (reference 10 GB/s, -0.1, from the marker)"),
        ('(5, None, 0.5, "GB/s")', "allowed: at most 7.5 GB/s (reference 5 GB/s, +0.5, from the marker)"),
        ('(5, -0.2, 0.5, "GB/s")', "allowed: 4 GB/s to 7.5 GB/s (reference 5 GB/s, -0.2, +0.5, from the marker)"),
        ('(7, -0.2, 0, "GB/s")', "allowed: 5.6 GB/s to 7 GB/s (reference 7 GB/s, -0.2, ±0, from the marker)"),
    ],
)
def test_a_figure_out_of_bounds_fails_and_says_value_reference_and_bounds(
    project: pytest.Pytester, reference: str, said: str
) -> None:
    project.makepyfile(own(f'{{"local": {reference}}}'))
    result = project.runpytest_inprocess("--cluster=local", "--cluster-report=out.json")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"bandwidth on local is 8 GB/s; {said}"])
    assert figures(project)["test_own"][0]["passed"] is False


@pytest.mark.parametrize(
    "references",
    ['{"local": (10, -0.2, None, "GB/s")}', '{"local": (8, 0, 0, "GB/s")}', '{"slurm": (1, 0, 0, "s")}', "", "{}"],
)
def test_a_figure_within_bounds_or_without_a_reference_here_passes(project: pytest.Pytester, references: str) -> None:
    project.makepyfile(own(references or "{}"))
    project.runpytest_inprocess("--cluster=local").assert_outcomes(passed=1)


def test_another_unit_is_no_comparison(project: pytest.Pytester) -> None:
    project.makepyfile(own('{"local": (8, -0.5, 0.5, "MB/s")}'))
    result = project.runpytest_inprocess("--cluster=local")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["bandwidth on local is in 'GB/s', the reference of the marker in 'MB/s'"])


JOBS = """
import time
import pytest
from pytest_clusterjobs import cluster

@cluster
def work(x):
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass

@pytest.mark.cluster_performance({"local": (0.1, -0.5, None, "s")}, metric="cpu_time_s")
@pytest.mark.cluster_performance({"local": (1e-9, None, 0, "s")})
@pytest.mark.real_world
def test_slow(): work.map([1, 2])

@pytest.mark.cluster_performance({"local": (1e-9, None, 0, "s")})
@cluster
def test_body(): pass

@pytest.mark.cluster_performance({"local": (1, -0.9, 1, "s")})
@pytest.mark.real_world
def test_no_job(): pass

@pytest.mark.cluster_performance({"local": (1, 0, 0, "")}, metric="bandwith")
@pytest.mark.real_world
def test_not_recorded(cluster_performance): cluster_performance.record("bandwidth", 1)
"""


@pytest.mark.parametrize("options", [[], ["-n2"]], ids=["alone", "xdist"])
def test_jobs_are_measured_as_a_whole(project: pytest.Pytester, options: list[str]) -> None:
    project.makepyfile(JOBS)
    result = project.runpytest_subprocess("--cluster=local", "--cluster-report=out.json", *options)
    result.assert_outcomes(failed=4)
    text = result.stdout.str()
    assert text.count("\nrun_time_s on local is 0.") == 2
    assert text.count("; allowed: at most 1e-09 s (reference 1e-09 s, ±0, from the marker)") == 2
    assert "cpu_time_s on local" not in text
    assert "run_time_s on local: the test has run no job" in text
    assert "bandwith on local: the test has not recorded it; there are: bandwidth, run_time_s, cpu_time_s" in text
    assert "did you mean 'bandwidth'?" in text
    measured = {figure["metric"]: figure for figure in figures(project)["test_slow"]}
    jobs = [test["jobs"] for test in json.loads((project.path / "out.json").read_text())["tests"] if test["jobs"]]
    (two,) = (each for each in jobs if len(each) == 2)
    assert measured["run_time_s"]["value"] == pytest.approx(sum(job["metrics"]["run_time_s"] for job in two))
    assert (measured["cpu_time_s"]["passed"], measured["cpu_time_s"]["value"] >= 0.1) == (True, True)


def test_the_body_that_fails_is_told_alone(project: pytest.Pytester) -> None:
    project.makepyfile(own('{"local": (80, 0, 0, "GB/s")}') + "    assert 1 == 2\n")
    result = project.runpytest_inprocess("--cluster=local")
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*bandwidth on local*")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ('{"local": (1, 2)}', "is no reference; write (value, lower, upper, unit)"),
        ('{"local": (0, None, None, "s")}', "the value must be a number other than 0"),
        ('{"local": ("1", None, None, "s")}', "the value must be a number other than 0"),
        ('{"local": (1, 0.1, None, "s")}', "the lower tolerance must be -1 to 0"),
        ('{"local": (1, None, -0.1, "s")}', "the upper tolerance must be 0 or more"),
        ('{"local": (1, None, None, "ms")}', "run_time_s is in 's', not in 'ms'"),
        ('{"local": (1, None, None, 5)}', "the unit must be a text"),
        ('{"locl": (1, None, None, "s")}', "did you mean 'local'?"),
        ("[1]", "write e.g. cluster_performance({"),
    ],
)
def test_a_wrong_marker_is_a_collection_error(project: pytest.Pytester, arguments: str, message: str) -> None:
    project.makepyfile(f"import pytest\n@pytest.mark.cluster_performance({arguments})\ndef test_x(): pass")
    result = project.runpytest_inprocess("--cluster=local")
    result.assert_outcomes(errors=1)
    assert "@pytest.mark.cluster_performance: " in result.stdout.str()
    assert message in result.stdout.str()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ('record("run_time_s", 1)', "'run_time_s' is measured of the jobs themselves"),
        ('record("a", float("nan"))', "a=nan is no finite number"),
        ('record("a", 1); cluster_performance.record("a", 2)', "'a' was recorded already: 1.0"),
    ],
)
def test_a_figure_that_cannot_be_is_refused(project: pytest.Pytester, call: str, message: str) -> None:
    project.makepyfile(f"def test_x(cluster_performance): cluster_performance.{call}")
    result = project.runpytest_inprocess("--cluster=local")
    result.stdout.fnmatch_lines([f"E*ValueError: {message}*"])


UPDATED = """
import pytest
from pytest_clusterjobs import cluster

@pytest.mark.cluster_performance()
@cluster
def test_body(): pass

@pytest.mark.cluster_performance({"local": (1, -0.5, None, "GB/s")}, metric="bandwidth")
@pytest.mark.parametrize("size", [1, 2])
def test_own(cluster_performance, size):
    cluster_performance.record("bandwidth", 8.1234567 * size, "GB/s")

@cluster
def test_unmarked(): pass

@pytest.mark.cluster_performance()
@cluster
def test_fails(): assert 0
"""


def references(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    assert loaded["schema"] == 1
    tests: dict[str, Any] = loaded["tests"]
    return tests


@pytest.mark.parametrize("options", [[], ["-n2"], ["-n2", "--dist=loadgroup"]], ids=["alone", "xdist", "groups"])
def test_updating_writes_what_passed_and_keeps_the_rest(project: pytest.Pytester, options: list[str]) -> None:
    project.makepyfile(
        test_a=UPDATED.replace("@pytest.mark.parametrize", '@pytest.mark.xdist_group("g")\n@pytest.mark.parametrize')
    )
    project.makeini("[pytest]\nmarkers =\n    xdist_group: of xdist")
    path = project.path / "base.json"
    arguments = ("--cluster-baseline=base.json", "--cluster-baseline-update", *options)
    project.runpytest_subprocess("--cluster=local", *arguments).assert_outcomes(passed=4, failed=1)
    written = references(path)
    body = written["test_a.py::test_body"]["run_time_s"]["local"]
    assert body[0] > 0
    assert body[1:] == [None, 0.2, "s"]
    assert set(written) == {"test_a.py::test_body", "test_a.py::test_own[1]", "test_a.py::test_own[2]"}
    assert written["test_a.py::test_own[2]"] == {"bandwidth": {"local": [16.2469, -0.5, None, "GB/s"]}}
    written["gone.py::test_x"] = {"m": {"slurm": [1, None, None, ""]}}
    written["test_a.py::test_body"]["run_time_s"]["local"] = [100, -1, 3, "s"]
    path.write_text(json.dumps({"schema": 1, "tests": written}))
    project.runpytest_subprocess("--cluster=local", *arguments).assert_outcomes(passed=4, failed=1)
    again = references(path)
    assert again["gone.py::test_x"] == written["gone.py::test_x"]
    assert again["test_a.py::test_body"]["run_time_s"]["local"][1:] == [-1, 3, "s"]
    assert again["test_a.py::test_body"]["run_time_s"]["local"][0] < 100


@pytest.mark.parametrize("options", [[], ["-n2"], ["-n2", "--dist=loadgroup"]], ids=["alone", "xdist", "groups"])
def test_the_files_reference_wins_over_the_markers(project: pytest.Pytester, options: list[str]) -> None:
    """With groups the ids of tests have another end in the workers, up to pytest 8."""
    if options:
        pytest.importorskip("xdist")
    project.makepyfile(
        test_a="import pytest\npytestmark = pytest.mark.xdist_group('g')\n" + own('{"local": (8, 0, 0, "GB/s")}')
    )
    project.makeini("[pytest]\nmarkers =\n    xdist_group: of xdist")
    tests = {"test_a.py::test_own": {"bandwidth": {"local": [10, -0.1, 0.1, "GB/s"]}}}
    (project.path / "base.json").write_text(json.dumps({"schema": 1, "tests": tests}))
    project.runpytest_subprocess("--cluster=local", *options).assert_outcomes(passed=1)
    result = project.runpytest_subprocess("--cluster=local", "--cluster-baseline=base.json", *options)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["bandwidth on local is 8 GB/s; *(reference 10 GB/s, -0.1, +0.1, from base.json)"])


def test_a_test_has_one_reference_whether_or_not_it_is_parametrized_over_backends(backends: pytest.Pytester) -> None:
    backends.makepyfile(test_a=own('{"answering": (80, 0, 0, "GB/s")}'))
    tests = {"test_a.py::test_own": {"bandwidth": {"local": [10, -0.1, 0.1, "GB/s"]}}}
    (backends.path / "base.json").write_text(json.dumps({"schema": 1, "tests": tests}))
    both = backends.runpytest_inprocess("--cluster=local,answering", "--cluster-baseline=base.json")
    both.assert_outcomes(failed=2)
    both.stdout.fnmatch_lines_random(
        ["bandwidth on local is *from base.json)", "bandwidth on answering is *from the marker)"]
    )


def test_a_test_that_is_run_again_is_measured_anew(project: pytest.Pytester) -> None:
    pytest.importorskip("pytest_rerunfailures")
    project.makepyfile(
        """
        import pytest
        from pytest_clusterjobs import cluster

        values = [1, 8]

        @cluster
        def work(): pass

        @pytest.mark.flaky(reruns=2)
        @pytest.mark.cluster_performance()
        @pytest.mark.cluster_performance({"local": (8, 0, 0, "")}, metric="own")
        @pytest.mark.real_world
        def test_x(cluster_performance):
            cluster_performance.record("own", values.pop(0))
            work()
        """
    )
    result = project.runpytest_subprocess("--cluster=local", "--cluster-report=out.json")
    assert result.parseoutcomes() == {"passed": 1, "rerun": 1}
    (test,) = json.loads((project.path / "out.json").read_text())["tests"]
    measured = {figure["metric"]: figure["value"] for figure in test["figures"]}
    assert len(test["jobs"]) == 2
    assert measured == {"own": 8, "run_time_s": pytest.approx(test["jobs"][1]["metrics"]["run_time_s"])}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "must be an object, not []"),
        ('{"schema": 2}', "schema must be 1, not 2"),
        ('{"schema": 1, "test": {}}', "unknown key 'test'; known: schema, tests*did you mean 'tests'?"),
        ('{"schema": 1, "tests": {"a": {"m": {"local": [1]}}}}', "tests: a: m: local: [[]1[]] is no reference"),
        (None, "cannot read *base.json: No such file or directory; --cluster-baseline-update makes it"),
    ],
)
def test_a_wrong_file_is_a_usage_error(project: pytest.Pytester, text: str | None, message: str) -> None:
    if text is not None:
        (project.path / "base.json").write_text(text)
    result = project.runpytest_inprocess("--cluster=local", "--cluster-baseline=base.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --cluster-baseline: *{message}*"])


def test_updating_needs_a_file(project: pytest.Pytester) -> None:
    result = project.runpytest_inprocess("--cluster-baseline-update")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --cluster-baseline-update: no file is named; write --cluster-baseline=FILE too"]
    )


def test_figures_are_in_all_reports(project: pytest.Pytester) -> None:
    project.makepyfile(test_a=own('{"local": (10, -0.1, None, "GB/s")}'))
    project.runpytest_inprocess("--cluster=local", "--cluster-report=out.md", "--cluster-report=out.html")
    said = "bandwidth 8 GB/s (reference 10, allowed 9 GB/s to any)"
    assert f"| {said} | ❌ |" in (project.path / "out.md").read_text()
    assert f"{said}: out of bounds" in (project.path / "out.html").read_text()
