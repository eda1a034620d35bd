"""Where reports go: files of all formats and the summary of a CI job, each once, with counts that are pytest's own."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pytest_clusterjobs.reports import json as json_report
from pytest_clusterjobs.reports import markdown

MIXED = """
import pytest
from pytest_clusterjobs import cluster

@cluster
def double(x): return 2 * x

@pytest.mark.real_world
@pytest.mark.parametrize("number", range(3))
def test_passes(number): assert double(number) == 2 * number

@cluster
def test_fails():
    print("the job says this")
    assert 0

@pytest.mark.xfail
@cluster
def test_expected(): assert 0

@pytest.mark.xfail(strict=False)
def test_unexpected(): pass

@pytest.mark.xfail(strict=True)
def test_strict(): pass

@pytest.mark.skip(reason="not today")
@cluster
def test_skipped(): pass

@pytest.fixture
def broken(): raise RuntimeError("no setup")

@cluster
def test_setup(broken): pass

@pytest.fixture
def breaks_later():
    yield
    raise RuntimeError("no teardown")

@pytest.mark.usefixtures("breaks_later")
@cluster
def test_teardown(): pass
"""

FLAKY = """
from pathlib import Path
import pytest
from pytest_clusterjobs import cluster

@cluster
def count(path):
    Path(path).write_text(Path(path).read_text() + "x")
    return len(Path(path).read_text())

@pytest.mark.flaky(reruns=3)
@pytest.mark.real_world
def test_flaky(request):
    path = request.path.with_suffix(".count")
    path.touch()
    assert count(str(path)) == 3
"""


def summary_counts(result: pytest.RunResult) -> dict[str, int]:
    """Give what pytest's last line counts, in the words of its reports."""
    words = {"errors": "error", "reruns": "rerun"}
    return {words.get(word, word): count for word, count in result.parseoutcomes().items() if word != "warnings"}


@pytest.mark.parametrize("options", [[], ["-n2"]], ids=["alone", "xdist"])
def test_the_counts_are_pytests_own(project: pytest.Pytester, options: list[str]) -> None:
    if options:
        pytest.importorskip("xdist")
    project.makepyfile(test_mixed=MIXED, test_broken="import nowhere")
    result = project.runpytest_subprocess(
        "--cluster=local", "--cluster-report=out.json", "--continue-on-collection-errors", *options
    )
    loaded = json.loads((project.path / "out.json").read_text())
    counted = {outcome: count for outcome, count in loaded["counts"].items() if count}
    assert counted == summary_counts(result)
    assert counted == {"passed": 4, "failed": 2, "error": 3, "xfailed": 1, "xpassed": 1, "skipped": 1}
    assert len([test for test in loaded["tests"] if test["jobs"]]) == 6
    keeps_to_the_schema(loaded)


@pytest.mark.parametrize("options", [[], ["-n2"]], ids=["alone", "xdist"])
def test_a_test_that_is_run_again_is_one_test_with_all_its_jobs(project: pytest.Pytester, options: list[str]) -> None:
    pytest.importorskip("pytest_rerunfailures")
    project.makepyfile(FLAKY)
    result = project.runpytest_subprocess("--cluster=local", "--cluster-report=out.json", *options)
    loaded = json.loads((project.path / "out.json").read_text())
    counted = {outcome: count for outcome, count in loaded["counts"].items() if count}
    assert counted == summary_counts(result) == {"passed": 1, "rerun": 2}
    (test,) = loaded["tests"]
    assert (test["outcome"], test["reruns"], len(test["jobs"])) == ("passed", 2, 3)
    assert loaded["rerun"] is None
    keeps_to_the_schema(loaded)


def keeps_to_the_schema(loaded: object) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(loaded, json_report.schema(), jsonschema.Draft202012Validator)


@pytest.mark.parametrize("options", [[], ["-n2"]], ids=["alone", "xdist"])
def test_several_reports_and_the_summary_of_a_ci_job_are_written_once(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    summary = project.path / "step.md"
    summary.write_text("what the step said before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    project.makepyfile(test_mixed=MIXED)
    result = project.runpytest_subprocess(
        "--cluster=local", "--cluster-report=out/run.html", "--cluster-report=out/run.md", *options
    )
    result.stdout.fnmatch_lines(["report: out/run.html", "report: out/run.md", "run again what failed: *"])
    text = (project.path / "out" / "run.md").read_text()
    assert summary.read_text() == f"what the step said before\n\n{text}"
    assert text.count("## Cluster jobs: ") == 1
    assert "the job says this" in text
    page = (project.path / "out" / "run.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "the job says this" in page


@pytest.mark.parametrize("options", [["--collect-only", "--cluster=local"], ["--cluster=local"]])
def test_a_run_that_has_nothing_to_say_adds_no_summary(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "step.md"))
    text = MIXED if "--collect-only" in options else "def test_x(): assert 0"
    project.makepyfile(text)
    project.runpytest_inprocess(*options)
    assert not (project.path / "step.md").exists()


def test_what_the_step_has_written_counts_for_the_limit(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = project.path / "step.md"
    summary.write_bytes(b"x" * (markdown.LIMIT_BYTES - 3000))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    project.makepyfile(test_mixed=MIXED)
    project.runpytest_inprocess("--cluster=local")
    assert markdown.LIMIT_BYTES - 3000 < summary.stat().st_size <= markdown.LIMIT_BYTES


def test_what_cannot_be_written_fails_the_run_and_is_said(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "nowhere" / "step.md"))
    project.makepyfile("from pytest_clusterjobs import cluster\n@cluster\ndef test_x(): pass")
    result = project.runpytest_inprocess("--cluster=local", "--cluster-report=out.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["problem: cannot write */nowhere/step.md: No such file or directory"])
    assert json.loads((project.path / "out.json").read_text())["counts"]["passed"] == 1


def test_values_of_the_environment_are_in_no_report(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    summary, state = project.path / "step.md", project.path / "state"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    monkeypatch.setenv("OUTER_VALUE", "planted-outside")
    project.makepyfile(
        """
        import os
        from pytest_clusterjobs import cluster

        VALUE = "-".join(["planted", "inside"])

        @cluster(env={"INNER_VALUE": VALUE})
        def test_fails():
            assert os.environ["INNER_VALUE"].endswith("-inside")
            assert os.environ["OUTER_VALUE"].endswith("-outside")
            raise RuntimeError
        """
    )
    reports = [f"--cluster-report=out/run{suffix}" for suffix in (".json", ".md", ".html")]
    result = project.runpytest_subprocess("--cluster=local", "--junit-xml=out/junit.xml", *reports)
    result.assert_outcomes(failed=1)
    files = [*(project.path / "out").iterdir(), summary, *state.rglob("*.sqlite3")]
    assert len(files) == 6
    for text in (result.stdout.str().encode(), *(path.read_bytes() for path in files)):
        assert b"planted-inside" not in text
        assert b"planted-outside" not in text


def test_a_pytest_inside_a_job_writes_no_summary_and_remembers_nothing(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary, state = project.path / "step.md", project.path / "state"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    monkeypatch.setenv("CLUSTERJOBS_JOB_ID", "1")
    project.makepyfile("import pytest\n@pytest.mark.real_world\ndef test_x(): pass")
    project.runpytest_inprocess("--cluster=local").assert_outcomes(passed=1)
    assert (summary.exists(), state.exists()) == (False, False)


def test_reports_can_be_named_in_the_ini_file(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\nclusterjobs_report = out/a.json, out/b.md\n  out/a.json")
    project.makepyfile("def test_x(): pass")
    project.runpytest_inprocess().assert_outcomes(passed=1)
    assert sorted(path.name for path in (project.path / "out").iterdir()) == ["a.json", "b.md"]


@pytest.mark.parametrize("options", [[], ["-n2"]], ids=["alone", "xdist"])
def test_junit_xml_has_the_jobs(project: pytest.Pytester, options: list[str]) -> None:
    project.makepyfile(
        """
        import pytest
        from pytest_clusterjobs import cluster

        @cluster
        def inverse(x): return 1 / x

        @cluster(memory="300MB")
        def test_body(): assert 0

        @pytest.mark.real_world
        def test_two(): assert inverse.map([1, 2]) == [1, 0.5]

        @pytest.mark.real_world
        def test_many(): inverse.map(range(1, 26))
        """
    )
    project.runpytest_subprocess("--cluster=local", "--junit-xml=out.xml", "--cluster-report=out.json", *options)
    tests = {test["nodeid"].partition("::")[2]: test for test in loaded_tests(project.path / "out.json")}
    told = properties(project.path / "out.xml")
    assert {name: len(test["jobs"]) for name, test in tests.items()} == {
        "test_body": 1,
        "test_two": 2,
        "test_many": 25,
    }
    (job,) = tests["test_body"]["jobs"]
    metrics = job["metrics"]
    facts = {name: job[name] for name in ("job_id", "native_id", "backend", "state", "reason")}
    facts |= {name: metrics[name] for name in ("queue_time_s", "run_time_s", "submitted_at", "started_at", "ended_at")}
    facts |= {"node": ",".join(metrics["nodes"]), "exit_code": metrics["exit_code"]}
    assert told["test_body"] == {f"cluster_job_1.{name}": str(value) for name, value in facts.items()}
    assert told["test_body"]["cluster_job_1.reason"] == "exception"
    two = [told["test_two"][f"cluster_job_{number}.native_id"] for number in (1, 2)]
    assert two == [job["native_id"] for job in tests["test_two"]["jobs"]]
    assert told["test_many"]["cluster_jobs"] == "25"
    assert Counter(name.partition(".")[2] for name in told["test_many"])["job_id"] == 20


def loaded_tests(path: Path) -> list[dict[str, Any]]:
    tests: list[dict[str, Any]] = json.loads(path.read_text())["tests"]
    return tests


def properties(path: Path) -> dict[str, dict[str, str]]:
    suite = ET.parse(path).getroot()[0]  # noqa: S314 - written by the test
    return {
        case.attrib["name"]: {each.attrib["name"]: each.attrib["value"] for each in case.iter("property")}
        for case in suite
    }


def test_whatever_jobs_say_and_give_back_the_reports_stay_whole_and_small(project: pytest.Pytester) -> None:
    """A value that JSON or Python cannot write ended the run with an internal error; a long message filled the page."""
    project.makepyfile(
        r"""
        import os
        import pytest
        from pytest_clusterjobs import cluster

        pytestmark = pytest.mark.real_world

        @cluster
        def give(value): return value

        @cluster
        def shout():
            for number in range(100_000):
                print(number, "0123456789abcdef" * 6)
            os.write(2, b"</script>\x00\xff \x1b[31mred\x1b[0m \r\n")
            raise ValueError("</script>\x00" + "m" * 1_000_000)

        @pytest.mark.parametrize("value", [float("nan"), float("-inf"), 10**3000], ids=["nan", "inf", "long"])
        def test_value(cluster_job_validator, value):
            assert cluster_job_validator.validate(give.submit(value), 1.0, approx=0.1)

        def test_longest(cluster_job_validator):
            assert cluster_job_validator.validate(give.submit(10**5000), 1)

        @pytest.mark.parametrize("name", ["</script>", "a[b]|c", "`*_<i>", "\x00"])
        def test_message(name): shout()
        """
    )
    names = [f"out.{suffix}" for suffix in ("json", "md", "html")]
    result = project.runpytest_subprocess(
        "--cluster=local", "--tb=short", *(f"--cluster-report={name}" for name in names), "--junitxml=out.xml"
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.parseoutcomes() == {"failed": 8}
    texts = [(project.path / name).read_text() for name in names]
    loaded = json.loads(texts[0], parse_constant=pytest.fail)
    keeps_to_the_schema(loaded)
    assert {test["outcome"] for test in loaded["tests"]} == {"failed"}
    assert max(map(len, texts)) < 500_000
    assert not any("\x00" in text or "\x1b" in text for text in texts)
    assert texts[2].count("</script") == 1
    assert len(ET.parse(project.path / "out.xml").findall(".//testcase")) == 8  # noqa: S314 - pytest wrote it
