"""Backends of conftests and plugins."""

from __future__ import annotations

import pytest

REGISTERS = """
from pytest_clusterjobs.backends.local import LocalBackend
from pytest_clusterjobs.backends import registry

def pytest_clusterjobs_register_backends(register):
    registry._registered.clear()
    register("{name}", LocalBackend)
"""


def test_a_registered_backend_is_known_everywhere(project: pytest.Pytester) -> None:
    project.makeconftest(REGISTERS.format(name="mycluster"))
    project.makepyfile(
        """
        import pytest

        @pytest.mark.cluster("mycluster")
        def test_x(cluster_jobs):
            assert cluster_jobs.run("echo hello").stdout == "hello\\n"
        """
    )
    project.runpytest_inprocess("--cluster=mycluster").assert_outcomes(passed=1)
    result = project.runpytest_inprocess("--cluster=mycluser")
    result.stderr.fnmatch_lines(["ERROR: --cluster: no backend named 'mycluser'*did you mean 'mycluster'?"])


def test_a_name_that_is_taken_is_an_error_of_usage(project: pytest.Pytester) -> None:
    project.makeconftest(REGISTERS.format(name="slurm"))
    result = project.runpytest_inprocess("--cluster=local")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: pytest_clusterjobs_register_backends: a backend named 'slurm' exists already*"]
    )


def test_the_hook_is_not_called_where_no_backend_is_needed(project: pytest.Pytester) -> None:
    project.makeconftest("def pytest_clusterjobs_register_backends(register): raise SystemExit('called')")
    project.makepyfile("def test_x(): pass")
    project.runpytest_inprocess().assert_outcomes(passed=1)


def test_a_wrong_argument_of_the_hook_is_pytests_error(project: pytest.Pytester) -> None:
    project.makeconftest("def pytest_clusterjobs_register_backends(backends): pass")
    result = project.runpytest_inprocess()
    assert "Argument(s) {'backends'} are declared in the hookimpl but can not be found in the hookspec" in (
        result.stdout.str() + result.stderr.str()
    )
