"""Validation as users meet it: the fixture, the marker, the option, and what their failures look like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

#: A backend that runs jobs as local does, and promises them twice the cores and a variable that is not there.
PROMISING = """
from pytest_clusterjobs.backends import registry
from pytest_clusterjobs.backends.base import Expectation
from pytest_clusterjobs.backends.local import LocalBackend

class PromisingBackend(LocalBackend):
    name = "promising"
    def expected_environment(self, native_id, name, spec):
        ours = super().expected_environment(native_id, name, spec)
        return {**ours, "PROMISED_CORES": Expectation(str(spec.cores), source="promises(1)")}

def pytest_clusterjobs_register_backends(register):
    registry._registered.clear()
    register("promising", PromisingBackend)
"""

BODY = """
import os
import pytest
from pytest_clusterjobs import cluster

@cluster(cores=1, memory="200MB", time="00:02:00")
def square(number):
    if number < 0:
        raise ValueError("negative")
    return number * number
"""


@pytest.fixture
def promising(project: pytest.Pytester) -> pytest.Pytester:
    project.makeconftest(PROMISING)
    return project


def test_validator_says_that_a_job_got_what_it_asked_for(project: pytest.Pytester) -> None:
    project.makepyfile(
        BODY
        + """
@pytest.mark.real_world
def test_all(cluster_job_validator):
    job = square.submit(3)
    result = cluster_job_validator.validate(job, 9)
    assert result, str(result)
    assert cluster_job_validator.validate_submission(job)
    assert cluster_job_validator.monitor(job)
    assert cluster_job_validator.validate_environment(job, ["PATH"])
    assert cluster_job_validator.validate_resources(job).check("cores").allocated == 1
    assert cluster_job_validator.validate_output(job, predicate=lambda value: value == 9)
    assert cluster_job_validator.classify_error(job) is None
    assert cluster_job_validator.report().startswith("6 validations, 0 failed")
"""
    )
    project.runpytest("-m", "real_world").assert_outcomes(passed=1)


def test_failed_assertion_shows_the_table(promising: pytest.Pytester) -> None:
    promising.makepyfile(
        BODY
        + """
@pytest.mark.real_world
def test_all(cluster_job_validator):
    assert cluster_job_validator.validate(square.submit(3))
"""
    )
    result = promising.runpytest("-m", "real_world", "--cluster=promising")
    result.assert_outcomes(failed=1)
    result.stdout.re_match_lines(
        [
            r"E +assert <ValidationResult cj-\w+-1-square: 1 of 10 checks failed: PROMISED_CORES mismatch>",
            r"-+ cluster job cj-\w+-1-square -+",
            r"requested:  1 core\(s\), 200 MiB, 2 m 00 s",
            r"allocated:  cores 1, memory 200 MiB, nodes 1, time_limit 2 m 00 s",
            r"validation: cj-\w+-1-square on promising: 1 of 10 checks failed",
            r" +check +requested +allocated +observed +verdict",
            r" +PROMISED_CORES +1 +- +not set +mismatch: promises\(1\)",
        ]
    )


THREE = (
    BODY
    + """
@pytest.mark.real_world
def test_value():
    assert square(2) == 4

@pytest.mark.real_world
def test_error_that_is_expected():
    with pytest.raises(ValueError):
        square(-1)

@cluster
def test_body():
    assert True
"""
)


def test_option_validates_every_job_and_passes_where_all_is_well(project: pytest.Pytester) -> None:
    project.makepyfile(THREE)
    project.runpytest("-m", "real_world", "--cluster=local", "--cluster-validate").assert_outcomes(passed=3)


def test_option_fails_every_test_whose_job_was_not_given_what_it_was_promised(promising: pytest.Pytester) -> None:
    promising.makepyfile(THREE)
    promising.runpytest("-m", "real_world", "--cluster=promising").assert_outcomes(passed=3)
    result = promising.runpytest("-m", "real_world", "--cluster=promising", "--cluster-validate")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        ["1 of 1 jobs did not get what they asked for", "  PROMISED_CORES * not set *mismatch*"]
    )


def test_option_works_in_workers_of_xdist(promising: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    promising.makepyfile(THREE)
    done = promising.runpytest_subprocess("-m", "real_world", "--cluster=promising", "--cluster-validate", "-n2")
    done.assert_outcomes(failed=3)


def test_marker_asks_for_one_test_and_can_free_another(promising: pytest.Pytester) -> None:
    promising.makepyfile(
        BODY
        + """
@pytest.mark.cluster("promising", validate=True)
def test_asks():
    square(2)

@pytest.mark.cluster("promising")
def test_plain():
    square(2)

@pytest.mark.cluster("promising", validate=False)
def test_free():
    square(2)
"""
    )
    result = promising.runpytest("--cluster=promising", "-v")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*test_asks FAILED*"])
    result = promising.runpytest("--cluster=promising", "--cluster-validate", "-v")
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["*test_free PASSED*"])


def test_marker_refuses_what_is_no_truth_value(project: pytest.Pytester) -> None:
    project.makepyfile("import pytest\n@pytest.mark.cluster(validate='yes')\ndef test_x(): pass\n")
    result = project.runpytest("--cluster=local")
    result.stdout.fnmatch_lines(["*@pytest.mark.cluster: validate='yes' must be True or False*"])


def test_refused_jobs_and_those_that_still_run_are_let_be(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
import pytest
from pytest_clusterjobs.core.errors import SubmitError

@pytest.mark.cluster(validate=True)
def test_both(cluster_jobs):
    with pytest.raises(SubmitError):
        cluster_jobs.run("true", cores=100000)
    cluster_jobs.submit("sleep 60")
"""
    )
    project.runpytest("--cluster=local").assert_outcomes(passed=1)


def test_report_has_resources_history_and_validation(
    promising: pytest.Pytester, report_of: Callable[..., Mapping[str, Any]]
) -> None:
    promising.makepyfile(THREE)
    report = report_of("-m", "real_world", "--cluster=promising", "--cluster-validate", "-k", "value")
    (job,) = report["tests"][0]["jobs"]
    assert [each["state"] for each in job["history"]] == ["PENDING", "RUNNING", "COMPLETED"]
    assert job["metrics"]["allocated"]["cores"] == job["metrics"]["observed"]["cores"] == 1
    assert job["metrics"]["sources"]["cpu_time_s"] == "measured on the node"
    assert [check["name"] for check in job["validation"]["failed"]] == ["PROMISED_CORES"]
    assert job["efficiency"]["memory"]["asked"] == 200 * 2**20


def test_summary_tells_what_was_used_and_who_asks_for_much_more(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
import pytest

@pytest.mark.real_world
def test_greedy(cluster_jobs):
    cluster_jobs.run("true", memory="2GB")

@pytest.mark.real_world
def test_modest(cluster_jobs):
    cluster_jobs.run("true", memory="64MB")
"""
    )
    result = project.runpytest("--cluster=local")
    result.assert_outcomes(passed=2)
    result.stdout.re_match_lines(
        [
            r"local: 2 ran; 2 jobs, .*",
            r"  used \d% of the memory asked for",
            r"  hint: \S+::test_greedy asks for 2 GiB and uses \d+ MiB",
        ]
    )
    result.stdout.no_fnmatch_line("*test_modest asks*")
